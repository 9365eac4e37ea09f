/* cuMemset*: filling memory with bytes, half-words and words. */
#include "copy.h"
#include "graph.h"

static CUresult fill(CUdeviceptr dst, size_t pitch, uint32_t value, unsigned element, size_t width,
                     size_t height, CUstream handle, bool synchronous, bool per_thread) {
    struct sim_stream *stream;
    struct sim_place place;
    struct sim_op op;
    CUresult result = sim_copy_enter(handle, per_thread, synchronous, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    bool capturing = sim_stream_capturing(stream);
    result = sim_fill_check(dst, pitch, element, width, height, capturing, &place);
    if (result != CUDA_SUCCESS)
        return result;
    if (capturing) {
        CUgraphNodeParams node = {.type = CU_GRAPH_NODE_TYPE_MEMSET,
                                  .memset = {.dst = dst,
                                             .pitch = pitch,
                                             .value = value,
                                             .elementSize = element,
                                             .width = width,
                                             .height = height,
                                             .ctx = (CUcontext)stream->ctx}};
        return sim_capture_node(stream, &node, NULL, NULL);
    }
    result = sim_fill_op(&place, value, element, width, height, stream->exec->dev, &op);
    if (result != CUDA_SUCCESS || op.kind == SIM_OP_NOTHING)
        return result;
    uint64_t position = 0;
    result = sim_stream_submit(stream, &op, &position);
    /* A synchronous fill waits where the host could look at once. */
    if (result == CUDA_SUCCESS && synchronous && place.where != SIM_WHERE_DEVICE && position != 0)
        sim_stream_wait(stream, sim_stream_id(stream), position);
    return result;
}

/* ---- A row --------------------------------------------------------------------------------- */

CUresult CUDAAPI cuMemsetD8(CUdeviceptr_v1 dst, unsigned char value, unsigned count) {
    return fill(dst, 0, value, 1, count, 1, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD8_v2(CUdeviceptr dst, unsigned char value, size_t count) {
    return fill(dst, 0, value, 1, count, 1, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD8_v2_ptds(CUdeviceptr dst, unsigned char value, size_t count) {
    return fill(dst, 0, value, 1, count, 1, NULL, true, true);
}
CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t count,
                                 CUstream stream) {
    return fill(dst, 0, value, 1, count, 1, stream, false, false);
}
CUresult CUDAAPI cuMemsetD8Async_ptsz(CUdeviceptr dst, unsigned char value, size_t count,
                                      CUstream stream) {
    return fill(dst, 0, value, 1, count, 1, stream, false, true);
}
CUresult CUDAAPI cuMemsetD16(CUdeviceptr_v1 dst, unsigned short value, unsigned count) {
    return fill(dst, 0, value, 2, count, 1, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD16_v2(CUdeviceptr dst, unsigned short value, size_t count) {
    return fill(dst, 0, value, 2, count, 1, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD16_v2_ptds(CUdeviceptr dst, unsigned short value, size_t count) {
    return fill(dst, 0, value, 2, count, 1, NULL, true, true);
}
CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr dst, unsigned short value, size_t count,
                                  CUstream stream) {
    return fill(dst, 0, value, 2, count, 1, stream, false, false);
}
CUresult CUDAAPI cuMemsetD16Async_ptsz(CUdeviceptr dst, unsigned short value, size_t count,
                                       CUstream stream) {
    return fill(dst, 0, value, 2, count, 1, stream, false, true);
}
CUresult CUDAAPI cuMemsetD32(CUdeviceptr_v1 dst, unsigned value, unsigned count) {
    return fill(dst, 0, value, 4, count, 1, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD32_v2(CUdeviceptr dst, unsigned value, size_t count) {
    return fill(dst, 0, value, 4, count, 1, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD32_v2_ptds(CUdeviceptr dst, unsigned value, size_t count) {
    return fill(dst, 0, value, 4, count, 1, NULL, true, true);
}
CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr dst, unsigned value, size_t count, CUstream stream) {
    return fill(dst, 0, value, 4, count, 1, stream, false, false);
}
CUresult CUDAAPI cuMemsetD32Async_ptsz(CUdeviceptr dst, unsigned value, size_t count,
                                       CUstream stream) {
    return fill(dst, 0, value, 4, count, 1, stream, false, true);
}

/* ---- Rows ---------------------------------------------------------------------------------- */

CUresult CUDAAPI cuMemsetD2D8(CUdeviceptr_v1 dst, unsigned pitch, unsigned char value,
                              unsigned width, unsigned height) {
    return fill(dst, pitch, value, 1, width, height, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD2D8_v2(CUdeviceptr dst, size_t pitch, unsigned char value, size_t width,
                                 size_t height) {
    return fill(dst, pitch, value, 1, width, height, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD2D8_v2_ptds(CUdeviceptr dst, size_t pitch, unsigned char value,
                                      size_t width, size_t height) {
    return fill(dst, pitch, value, 1, width, height, NULL, true, true);
}
CUresult CUDAAPI cuMemsetD2D8Async(CUdeviceptr dst, size_t pitch, unsigned char value, size_t width,
                                   size_t height, CUstream stream) {
    return fill(dst, pitch, value, 1, width, height, stream, false, false);
}
CUresult CUDAAPI cuMemsetD2D8Async_ptsz(CUdeviceptr dst, size_t pitch, unsigned char value,
                                        size_t width, size_t height, CUstream stream) {
    return fill(dst, pitch, value, 1, width, height, stream, false, true);
}
CUresult CUDAAPI cuMemsetD2D16(CUdeviceptr_v1 dst, unsigned pitch, unsigned short value,
                               unsigned width, unsigned height) {
    return fill(dst, pitch, value, 2, width, height, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD2D16_v2(CUdeviceptr dst, size_t pitch, unsigned short value, size_t width,
                                  size_t height) {
    return fill(dst, pitch, value, 2, width, height, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD2D16_v2_ptds(CUdeviceptr dst, size_t pitch, unsigned short value,
                                       size_t width, size_t height) {
    return fill(dst, pitch, value, 2, width, height, NULL, true, true);
}
CUresult CUDAAPI cuMemsetD2D16Async(CUdeviceptr dst, size_t pitch, unsigned short value,
                                    size_t width, size_t height, CUstream stream) {
    return fill(dst, pitch, value, 2, width, height, stream, false, false);
}
CUresult CUDAAPI cuMemsetD2D16Async_ptsz(CUdeviceptr dst, size_t pitch, unsigned short value,
                                         size_t width, size_t height, CUstream stream) {
    return fill(dst, pitch, value, 2, width, height, stream, false, true);
}
CUresult CUDAAPI cuMemsetD2D32(CUdeviceptr_v1 dst, unsigned pitch, unsigned value, unsigned width,
                               unsigned height) {
    return fill(dst, pitch, value, 4, width, height, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD2D32_v2(CUdeviceptr dst, size_t pitch, unsigned value, size_t width,
                                  size_t height) {
    return fill(dst, pitch, value, 4, width, height, NULL, true, false);
}
CUresult CUDAAPI cuMemsetD2D32_v2_ptds(CUdeviceptr dst, size_t pitch, unsigned value, size_t width,
                                       size_t height) {
    return fill(dst, pitch, value, 4, width, height, NULL, true, true);
}
CUresult CUDAAPI cuMemsetD2D32Async(CUdeviceptr dst, size_t pitch, unsigned value, size_t width,
                                    size_t height, CUstream stream) {
    return fill(dst, pitch, value, 4, width, height, stream, false, false);
}
CUresult CUDAAPI cuMemsetD2D32Async_ptsz(CUdeviceptr dst, size_t pitch, unsigned value,
                                         size_t width, size_t height, CUstream stream) {
    return fill(dst, pitch, value, 4, width, height, stream, false, true);
}
