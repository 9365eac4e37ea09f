/* The calls that copy a number of bytes from one address, or place in an array, to another. */
#include "copy.h"

static const CUmemorytype HOST = CU_MEMORYTYPE_HOST;
static const CUmemorytype DEVICE = CU_MEMORYTYPE_DEVICE;
static const CUmemorytype UNIFIED = CU_MEMORYTYPE_UNIFIED;

static CUdeviceptr address(const void *host) { return (CUdeviceptr)(uintptr_t)host; }

/* ---- Linear memory ------------------------------------------------------------------------- */

static CUresult copy_in(struct sim_stream *stream, CUmemorytype dst_type, CUdeviceptr dst,
                        CUmemorytype src_type, CUdeviceptr src, size_t bytes,
                        enum sim_copy_sync sync) {
    if (sim_stream_capturing(stream)) {
        CUDA_MEMCPY3D given;
        sim_copy_describe(dst_type, dst, src_type, src, bytes, &given);
        return sim_copy_do(stream, &given, sync);
    }
    struct sim_copy copy;
    CUresult result = sim_copy_linear(dst_type, dst, src_type, src, bytes, &copy);
    return result != CUDA_SUCCESS ? result : sim_copy_queue(stream, &copy, sync);
}

/* The call returns when host memory has been read or written. */
static CUresult copy_sync(CUmemorytype dst_type, CUdeviceptr dst, CUmemorytype src_type,
                          CUdeviceptr src, size_t bytes, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_copy_enter(NULL, per_thread, true, &stream);
    return result != CUDA_SUCCESS
               ? result
               : copy_in(stream, dst_type, dst, src_type, src, bytes, SIM_COPY_HOST);
}

static CUresult copy_async(CUmemorytype dst_type, CUdeviceptr dst, CUmemorytype src_type,
                           CUdeviceptr src, size_t bytes, CUstream handle, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_copy_enter(handle, per_thread, false, &stream);
    return result != CUDA_SUCCESS
               ? result
               : copy_in(stream, dst_type, dst, src_type, src, bytes, SIM_COPY_ASYNC);
}

CUresult CUDAAPI cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t bytes) {
    return copy_sync(UNIFIED, dst, UNIFIED, src, bytes, false);
}
CUresult CUDAAPI cuMemcpy_ptds(CUdeviceptr dst, CUdeviceptr src, size_t bytes) {
    return copy_sync(UNIFIED, dst, UNIFIED, src, bytes, true);
}
CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream) {
    return copy_async(UNIFIED, dst, UNIFIED, src, bytes, stream, false);
}
CUresult CUDAAPI cuMemcpyAsync_ptsz(CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                                    CUstream stream) {
    return copy_async(UNIFIED, dst, UNIFIED, src, bytes, stream, true);
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr_v1 dst, const void *src, unsigned bytes) {
    return copy_sync(DEVICE, dst, HOST, address(src), bytes, false);
}
CUresult CUDAAPI cuMemcpyHtoD_v2(CUdeviceptr dst, const void *src, size_t bytes) {
    return copy_sync(DEVICE, dst, HOST, address(src), bytes, false);
}
CUresult CUDAAPI cuMemcpyHtoD_v2_ptds(CUdeviceptr dst, const void *src, size_t bytes) {
    return copy_sync(DEVICE, dst, HOST, address(src), bytes, true);
}
CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr_v1 dst, const void *src, unsigned bytes,
                                   CUstream stream) {
    return copy_async(DEVICE, dst, HOST, address(src), bytes, stream, false);
}
CUresult CUDAAPI cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void *src, size_t bytes,
                                      CUstream stream) {
    return copy_async(DEVICE, dst, HOST, address(src), bytes, stream, false);
}
CUresult CUDAAPI cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr dst, const void *src, size_t bytes,
                                           CUstream stream) {
    return copy_async(DEVICE, dst, HOST, address(src), bytes, stream, true);
}

CUresult CUDAAPI cuMemcpyDtoH(void *dst, CUdeviceptr_v1 src, unsigned bytes) {
    return copy_sync(HOST, address(dst), DEVICE, src, bytes, false);
}
CUresult CUDAAPI cuMemcpyDtoH_v2(void *dst, CUdeviceptr src, size_t bytes) {
    return copy_sync(HOST, address(dst), DEVICE, src, bytes, false);
}
CUresult CUDAAPI cuMemcpyDtoH_v2_ptds(void *dst, CUdeviceptr src, size_t bytes) {
    return copy_sync(HOST, address(dst), DEVICE, src, bytes, true);
}
CUresult CUDAAPI cuMemcpyDtoHAsync(void *dst, CUdeviceptr_v1 src, unsigned bytes, CUstream stream) {
    return copy_async(HOST, address(dst), DEVICE, src, bytes, stream, false);
}
CUresult CUDAAPI cuMemcpyDtoHAsync_v2(void *dst, CUdeviceptr src, size_t bytes, CUstream stream) {
    return copy_async(HOST, address(dst), DEVICE, src, bytes, stream, false);
}
CUresult CUDAAPI cuMemcpyDtoHAsync_v2_ptsz(void *dst, CUdeviceptr src, size_t bytes,
                                           CUstream stream) {
    return copy_async(HOST, address(dst), DEVICE, src, bytes, stream, true);
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr_v1 dst, CUdeviceptr_v1 src, unsigned bytes) {
    return copy_sync(DEVICE, dst, DEVICE, src, bytes, false);
}
CUresult CUDAAPI cuMemcpyDtoD_v2(CUdeviceptr dst, CUdeviceptr src, size_t bytes) {
    return copy_sync(DEVICE, dst, DEVICE, src, bytes, false);
}
CUresult CUDAAPI cuMemcpyDtoD_v2_ptds(CUdeviceptr dst, CUdeviceptr src, size_t bytes) {
    return copy_sync(DEVICE, dst, DEVICE, src, bytes, true);
}
CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr_v1 dst, CUdeviceptr_v1 src, unsigned bytes,
                                   CUstream stream) {
    return copy_async(DEVICE, dst, DEVICE, src, bytes, stream, false);
}
CUresult CUDAAPI cuMemcpyDtoDAsync_v2(CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                                      CUstream stream) {
    return copy_async(DEVICE, dst, DEVICE, src, bytes, stream, false);
}
CUresult CUDAAPI cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                                           CUstream stream) {
    return copy_async(DEVICE, dst, DEVICE, src, bytes, stream, true);
}

/* ---- Between contexts ---------------------------------------------------------------------- */

/* A copy between contexts is ordered with all work of both: their legacy default streams meet the
 * copying one before and after. */
static CUresult meet(struct sim_stream *stream, CUcontext a, CUcontext b, bool before) {
    const CUcontext handles[2] = {a, b};
    CUresult result = CUDA_SUCCESS;
    for (int i = 0; i < 2 && result == CUDA_SUCCESS; i++) {
        struct sim_context *ctx = sim_context_get(handles[i]);
        struct sim_stream *other = ctx == NULL ? NULL : sim_exec_of(ctx)->legacy;
        if (other == NULL)
            result = CUDA_ERROR_INVALID_CONTEXT;
        else if (other != stream && !(i == 1 && a == b))
            result = before ? sim_stream_follow(stream, other) : sim_stream_follow(other, stream);
    }
    return result;
}

static CUresult check_contexts(CUcontext a, CUcontext b) {
    return sim_context_get(a) != NULL && sim_context_get(b) != NULL ? CUDA_SUCCESS
                                                                    : CUDA_ERROR_INVALID_CONTEXT;
}

static CUresult copy_peer(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src, CUcontext src_ctx,
                          size_t bytes, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_copy_enter(NULL, per_thread, true, &stream);
    if (result == CUDA_SUCCESS)
        result = meet(stream, dst_ctx, src_ctx, true);
    if (result == CUDA_SUCCESS)
        result = copy_in(stream, UNIFIED, dst, UNIFIED, src, bytes, SIM_COPY_HOST);
    return result == CUDA_SUCCESS ? meet(stream, dst_ctx, src_ctx, false) : result;
}

static CUresult copy_peer_async(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src,
                                CUcontext src_ctx, size_t bytes, CUstream handle, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_copy_enter(handle, per_thread, false, &stream);
    if (result == CUDA_SUCCESS)
        result = check_contexts(dst_ctx, src_ctx);
    return result == CUDA_SUCCESS
               ? copy_in(stream, UNIFIED, dst, UNIFIED, src, bytes, SIM_COPY_ASYNC)
               : result;
}

CUresult CUDAAPI cuMemcpyPeer(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src,
                              CUcontext src_ctx, size_t bytes) {
    return copy_peer(dst, dst_ctx, src, src_ctx, bytes, false);
}
CUresult CUDAAPI cuMemcpyPeer_ptds(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src,
                                   CUcontext src_ctx, size_t bytes) {
    return copy_peer(dst, dst_ctx, src, src_ctx, bytes, true);
}
CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src,
                                   CUcontext src_ctx, size_t bytes, CUstream stream) {
    return copy_peer_async(dst, dst_ctx, src, src_ctx, bytes, stream, false);
}
CUresult CUDAAPI cuMemcpyPeerAsync_ptsz(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src,
                                        CUcontext src_ctx, size_t bytes, CUstream stream) {
    return copy_peer_async(dst, dst_ctx, src, src_ctx, bytes, stream, true);
}

static CUresult copy_3d_peer(const CUDA_MEMCPY3D_PEER *given, CUstream handle, bool synchronous,
                             bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_copy_enter(handle, per_thread, synchronous, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (given == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUcontext dst =
        given->dstMemoryType == CU_MEMORYTYPE_DEVICE ? given->dstContext : (CUcontext)stream->ctx;
    CUcontext src =
        given->srcMemoryType == CU_MEMORYTYPE_DEVICE ? given->srcContext : (CUcontext)stream->ctx;
    result = check_contexts(dst, src);
    if (result == CUDA_SUCCESS && synchronous)
        result = meet(stream, dst, src, true);
    if (result != CUDA_SUCCESS)
        return result;
    /* The descriptions differ only in what stands in the place of the contexts. */
    CUDA_MEMCPY3D plain = {.srcXInBytes = given->srcXInBytes,
                           .srcY = given->srcY,
                           .srcZ = given->srcZ,
                           .srcLOD = given->srcLOD,
                           .srcMemoryType = given->srcMemoryType,
                           .srcHost = given->srcHost,
                           .srcDevice = given->srcDevice,
                           .srcArray = given->srcArray,
                           .srcPitch = given->srcPitch,
                           .srcHeight = given->srcHeight,
                           .dstXInBytes = given->dstXInBytes,
                           .dstY = given->dstY,
                           .dstZ = given->dstZ,
                           .dstLOD = given->dstLOD,
                           .dstMemoryType = given->dstMemoryType,
                           .dstHost = given->dstHost,
                           .dstDevice = given->dstDevice,
                           .dstArray = given->dstArray,
                           .dstPitch = given->dstPitch,
                           .dstHeight = given->dstHeight,
                           .WidthInBytes = given->WidthInBytes,
                           .Height = given->Height,
                           .Depth = given->Depth};
    result = sim_copy_do(stream, &plain, synchronous ? SIM_COPY_HOST : SIM_COPY_ASYNC);
    return result == CUDA_SUCCESS && synchronous ? meet(stream, dst, src, false) : result;
}

CUresult CUDAAPI cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *copy) {
    return copy_3d_peer(copy, NULL, true, false);
}
CUresult CUDAAPI cuMemcpy3DPeer_ptds(const CUDA_MEMCPY3D_PEER *copy) {
    return copy_3d_peer(copy, NULL, true, true);
}
CUresult CUDAAPI cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *copy, CUstream stream) {
    return copy_3d_peer(copy, stream, false, false);
}
CUresult CUDAAPI cuMemcpy3DPeerAsync_ptsz(const CUDA_MEMCPY3D_PEER *copy, CUstream stream) {
    return copy_3d_peer(copy, stream, false, true);
}
