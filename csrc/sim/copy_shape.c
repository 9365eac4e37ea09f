/* The calls that copy rows and boxes, and from and to arrays. */
#include "copy.h"

/* ---- Rows and boxes ------------------------------------------------------------------------ */

static CUresult copy_box(const CUDA_MEMCPY3D *given, CUstream handle, bool synchronous,
                         bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_copy_enter(handle, per_thread, synchronous, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (given == NULL || given->reserved0 != NULL || given->reserved1 != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return sim_copy_do(stream, given, synchronous ? SIM_COPY_HOST : SIM_COPY_ASYNC);
}

static CUresult copy_rows(const CUDA_MEMCPY2D *given, CUstream handle, bool synchronous,
                          bool per_thread) {
    if (given == NULL)
        return copy_box(NULL, handle, synchronous, per_thread);
    const CUDA_MEMCPY3D box = {.srcXInBytes = given->srcXInBytes,
                               .srcY = given->srcY,
                               .srcMemoryType = given->srcMemoryType,
                               .srcHost = given->srcHost,
                               .srcDevice = given->srcDevice,
                               .srcArray = given->srcArray,
                               .srcPitch = given->srcPitch,
                               .dstXInBytes = given->dstXInBytes,
                               .dstY = given->dstY,
                               .dstMemoryType = given->dstMemoryType,
                               .dstHost = given->dstHost,
                               .dstDevice = given->dstDevice,
                               .dstArray = given->dstArray,
                               .dstPitch = given->dstPitch,
                               .WidthInBytes = given->WidthInBytes,
                               .Height = given->Height,
                               .Depth = 1};
    return copy_box(&box, handle, synchronous, per_thread);
}

CUresult CUDAAPI cuMemcpy2D_v2(const CUDA_MEMCPY2D *copy) {
    return copy_rows(copy, NULL, true, false);
}
CUresult CUDAAPI cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D *copy) {
    return copy_rows(copy, NULL, true, true);
}
CUresult CUDAAPI cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *copy) {
    return copy_rows(copy, NULL, true, false);
}
CUresult CUDAAPI cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D *copy) {
    return copy_rows(copy, NULL, true, true);
}
CUresult CUDAAPI cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *copy, CUstream stream) {
    return copy_rows(copy, stream, false, false);
}
CUresult CUDAAPI cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D *copy, CUstream stream) {
    return copy_rows(copy, stream, false, true);
}
CUresult CUDAAPI cuMemcpy3D_v2(const CUDA_MEMCPY3D *copy) {
    return copy_box(copy, NULL, true, false);
}
CUresult CUDAAPI cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D *copy) {
    return copy_box(copy, NULL, true, true);
}
CUresult CUDAAPI cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *copy, CUstream stream) {
    return copy_box(copy, stream, false, false);
}
CUresult CUDAAPI cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D *copy, CUstream stream) {
    return copy_box(copy, stream, false, true);
}

/* ---- The same of before CUDA 3.2, with 32-bit sizes and device pointers -------------------- */

static CUresult copy_rows_v1(const CUDA_MEMCPY2D_v1 *given, CUstream handle, bool synchronous) {
    if (given == NULL)
        return copy_box(NULL, handle, synchronous, false);
    const CUDA_MEMCPY2D rows = {.srcXInBytes = given->srcXInBytes,
                                .srcY = given->srcY,
                                .srcMemoryType = given->srcMemoryType,
                                .srcHost = given->srcHost,
                                .srcDevice = given->srcDevice,
                                .srcArray = given->srcArray,
                                .srcPitch = given->srcPitch,
                                .dstXInBytes = given->dstXInBytes,
                                .dstY = given->dstY,
                                .dstMemoryType = given->dstMemoryType,
                                .dstHost = given->dstHost,
                                .dstDevice = given->dstDevice,
                                .dstArray = given->dstArray,
                                .dstPitch = given->dstPitch,
                                .WidthInBytes = given->WidthInBytes,
                                .Height = given->Height};
    return copy_rows(&rows, handle, synchronous, false);
}

static CUresult copy_box_v1(const CUDA_MEMCPY3D_v1 *given, CUstream handle, bool synchronous) {
    if (given == NULL)
        return copy_box(NULL, handle, synchronous, false);
    const CUDA_MEMCPY3D box = {.srcXInBytes = given->srcXInBytes,
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
    return copy_box(&box, handle, synchronous, false);
}

CUresult CUDAAPI cuMemcpy2D(const CUDA_MEMCPY2D_v1 *copy) { return copy_rows_v1(copy, NULL, true); }
CUresult CUDAAPI cuMemcpy2DUnaligned(const CUDA_MEMCPY2D_v1 *copy) {
    return copy_rows_v1(copy, NULL, true);
}
CUresult CUDAAPI cuMemcpy2DAsync(const CUDA_MEMCPY2D_v1 *copy, CUstream stream) {
    return copy_rows_v1(copy, stream, false);
}
CUresult CUDAAPI cuMemcpy3D(const CUDA_MEMCPY3D_v1 *copy) { return copy_box_v1(copy, NULL, true); }
CUresult CUDAAPI cuMemcpy3DAsync(const CUDA_MEMCPY3D_v1 *copy, CUstream stream) {
    return copy_box_v1(copy, stream, false);
}

/* ---- From and to a row of an array --------------------------------------------------------- */

/* One operand of these calls. */
struct end {
    CUmemorytype type;
    CUdeviceptr ptr;
    CUarray array;
    size_t offset; /* in the array, bytes */
};

static struct end host_end(const void *ptr) {
    return (struct end){.type = CU_MEMORYTYPE_HOST, .ptr = (CUdeviceptr)(uintptr_t)ptr};
}
static struct end device_end(CUdeviceptr ptr) {
    return (struct end){.type = CU_MEMORYTYPE_DEVICE, .ptr = ptr};
}
static struct end array_end(CUarray array, size_t offset) {
    return (struct end){.type = CU_MEMORYTYPE_ARRAY, .array = array, .offset = offset};
}

static CUresult copy_row(struct end dst, struct end src, size_t bytes, CUstream handle,
                         bool synchronous, bool per_thread) {
    CUDA_MEMCPY3D box;
    sim_copy_describe(dst.type, dst.ptr, src.type, src.ptr, bytes, &box);
    box.dstArray = dst.array;
    box.dstXInBytes = dst.offset;
    box.srcArray = src.array;
    box.srcXInBytes = src.offset;
    return copy_box(&box, handle, synchronous, per_thread);
}

CUresult CUDAAPI cuMemcpyDtoA(CUarray dst, unsigned offset, CUdeviceptr_v1 src, unsigned bytes) {
    return copy_row(array_end(dst, offset), device_end(src), bytes, NULL, true, false);
}
CUresult CUDAAPI cuMemcpyDtoA_v2(CUarray dst, size_t offset, CUdeviceptr src, size_t bytes) {
    return copy_row(array_end(dst, offset), device_end(src), bytes, NULL, true, false);
}
CUresult CUDAAPI cuMemcpyDtoA_v2_ptds(CUarray dst, size_t offset, CUdeviceptr src, size_t bytes) {
    return copy_row(array_end(dst, offset), device_end(src), bytes, NULL, true, true);
}
CUresult CUDAAPI cuMemcpyAtoD(CUdeviceptr_v1 dst, CUarray src, unsigned offset, unsigned bytes) {
    return copy_row(device_end(dst), array_end(src, offset), bytes, NULL, true, false);
}
CUresult CUDAAPI cuMemcpyAtoD_v2(CUdeviceptr dst, CUarray src, size_t offset, size_t bytes) {
    return copy_row(device_end(dst), array_end(src, offset), bytes, NULL, true, false);
}
CUresult CUDAAPI cuMemcpyAtoD_v2_ptds(CUdeviceptr dst, CUarray src, size_t offset, size_t bytes) {
    return copy_row(device_end(dst), array_end(src, offset), bytes, NULL, true, true);
}
CUresult CUDAAPI cuMemcpyHtoA(CUarray dst, unsigned offset, const void *src, unsigned bytes) {
    return copy_row(array_end(dst, offset), host_end(src), bytes, NULL, true, false);
}
CUresult CUDAAPI cuMemcpyHtoA_v2(CUarray dst, size_t offset, const void *src, size_t bytes) {
    return copy_row(array_end(dst, offset), host_end(src), bytes, NULL, true, false);
}
CUresult CUDAAPI cuMemcpyHtoA_v2_ptds(CUarray dst, size_t offset, const void *src, size_t bytes) {
    return copy_row(array_end(dst, offset), host_end(src), bytes, NULL, true, true);
}
CUresult CUDAAPI cuMemcpyAtoH(void *dst, CUarray src, unsigned offset, unsigned bytes) {
    return copy_row(host_end(dst), array_end(src, offset), bytes, NULL, true, false);
}
CUresult CUDAAPI cuMemcpyAtoH_v2(void *dst, CUarray src, size_t offset, size_t bytes) {
    return copy_row(host_end(dst), array_end(src, offset), bytes, NULL, true, false);
}
CUresult CUDAAPI cuMemcpyAtoH_v2_ptds(void *dst, CUarray src, size_t offset, size_t bytes) {
    return copy_row(host_end(dst), array_end(src, offset), bytes, NULL, true, true);
}
CUresult CUDAAPI cuMemcpyAtoA(CUarray dst, unsigned dst_offset, CUarray src, unsigned src_offset,
                              unsigned bytes) {
    return copy_row(array_end(dst, dst_offset), array_end(src, src_offset), bytes, NULL, true,
                    false);
}
CUresult CUDAAPI cuMemcpyAtoA_v2(CUarray dst, size_t dst_offset, CUarray src, size_t src_offset,
                                 size_t bytes) {
    return copy_row(array_end(dst, dst_offset), array_end(src, src_offset), bytes, NULL, true,
                    false);
}
CUresult CUDAAPI cuMemcpyAtoA_v2_ptds(CUarray dst, size_t dst_offset, CUarray src,
                                      size_t src_offset, size_t bytes) {
    return copy_row(array_end(dst, dst_offset), array_end(src, src_offset), bytes, NULL, true,
                    true);
}
CUresult CUDAAPI cuMemcpyHtoAAsync(CUarray dst, unsigned offset, const void *src, unsigned bytes,
                                   CUstream stream) {
    return copy_row(array_end(dst, offset), host_end(src), bytes, stream, false, false);
}
CUresult CUDAAPI cuMemcpyHtoAAsync_v2(CUarray dst, size_t offset, const void *src, size_t bytes,
                                      CUstream stream) {
    return copy_row(array_end(dst, offset), host_end(src), bytes, stream, false, false);
}
CUresult CUDAAPI cuMemcpyHtoAAsync_v2_ptsz(CUarray dst, size_t offset, const void *src,
                                           size_t bytes, CUstream stream) {
    return copy_row(array_end(dst, offset), host_end(src), bytes, stream, false, true);
}
CUresult CUDAAPI cuMemcpyAtoHAsync(void *dst, CUarray src, unsigned offset, unsigned bytes,
                                   CUstream stream) {
    return copy_row(host_end(dst), array_end(src, offset), bytes, stream, false, false);
}
CUresult CUDAAPI cuMemcpyAtoHAsync_v2(void *dst, CUarray src, size_t offset, size_t bytes,
                                      CUstream stream) {
    return copy_row(host_end(dst), array_end(src, offset), bytes, stream, false, false);
}
CUresult CUDAAPI cuMemcpyAtoHAsync_v2_ptsz(void *dst, CUarray src, size_t offset, size_t bytes,
                                           CUstream stream) {
    return copy_row(host_end(dst), array_end(src, offset), bytes, stream, false, true);
}
