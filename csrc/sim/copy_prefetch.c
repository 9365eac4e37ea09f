/* Prefetching, discarding, advising and attaching managed memory. All of it is where everybody
 * reaches it already, so these calls are checked, take their place in the stream's order, and move
 * nothing. */
#include "copy.h"
#include "graph.h"

/* ---- Checks -------------------------------------------------------------------------------- */

static CUresult check_managed(CUdeviceptr ptr, size_t bytes) {
    struct sim_memory_info info;
    if (bytes == 0 || !sim_memory_find(ptr, &info) || info.kind != SIM_MEMORY_MANAGED ||
        bytes > info.bytes - (ptr - info.base))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

static CUresult check_device(CUdevice dev) {
    int concurrent = 0;
    if (dev < 0 || dev >= sim_device_count())
        return CUDA_ERROR_INVALID_DEVICE;
    sim_device_attribute(dev, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, &concurrent);
    return concurrent != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

static CUresult check_location(const CUmemLocation *location) {
    switch (location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        return check_device(location->id);
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        return CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
        return location->id >= 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* Location of the calls that name a device or CU_DEVICE_CPU. */
static CUmemLocation location_of(CUdevice dev) {
    return (CUmemLocation){.type = dev == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST
                                                        : CU_MEM_LOCATION_TYPE_DEVICE,
                           .id = dev};
}

/* Takes a place in the stream's order. */
static CUresult queue_nothing(struct sim_stream *stream) {
    if (sim_stream_capturing(stream))
        return sim_capture_forbid_stream(stream);
    struct sim_op op = {.kind = SIM_OP_NOTHING};
    return sim_stream_submit(stream, &op, NULL);
}

/* ---- Prefetching --------------------------------------------------------------------------- */

static CUresult prefetch(CUdeviceptr ptr, size_t bytes, CUmemLocation location, unsigned flags,
                         CUstream handle, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_work(handle, per_thread, &stream);
    if (result == CUDA_SUCCESS && flags != 0)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = check_managed(ptr, bytes);
    if (result == CUDA_SUCCESS)
        result = check_location(&location);
    if (result == CUDA_SUCCESS)
        result = check_device(stream->exec->dev);
    if (result == CUDA_SUCCESS)
        sim_managed_prefetched(ptr, location);
    return result == CUDA_SUCCESS ? queue_nothing(stream) : result;
}

CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr ptr, size_t bytes, CUdevice dev, CUstream stream) {
    return prefetch(ptr, bytes, location_of(dev), 0, stream, false);
}
CUresult CUDAAPI cuMemPrefetchAsync_ptsz(CUdeviceptr ptr, size_t bytes, CUdevice dev,
                                         CUstream stream) {
    return prefetch(ptr, bytes, location_of(dev), 0, stream, true);
}
CUresult CUDAAPI cuMemPrefetchAsync_v2(CUdeviceptr ptr, size_t bytes, CUmemLocation location,
                                       unsigned flags, CUstream stream) {
    return prefetch(ptr, bytes, location, flags, stream, false);
}
CUresult CUDAAPI cuMemPrefetchAsync_v2_ptsz(CUdeviceptr ptr, size_t bytes, CUmemLocation location,
                                            unsigned flags, CUstream stream) {
    return prefetch(ptr, bytes, location, flags, stream, true);
}

/* ---- Many at a time ------------------------------------------------------------------------ */

/* A batch of ranges; `locations` of prefetches, NULL for discarding only. */
static CUresult do_batch(const CUdeviceptr *ptrs, const size_t *sizes, size_t count,
                         const CUmemLocation *locations, const size_t *starts,
                         size_t location_count, unsigned long long flags, CUstream handle,
                         bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_work(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (ptrs == NULL || sizes == NULL || count == 0 || flags != 0 || stream->legacy)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = check_managed(ptrs[i], sizes[i]);
    for (size_t i = 0; i < location_count && result == CUDA_SUCCESS; i++) {
        if (starts[i] >= count || (i == 0 ? starts[0] != 0 : starts[i] <= starts[i - 1]))
            result = CUDA_ERROR_INVALID_VALUE;
        else
            result = check_location(&locations[i]);
    }
    return result == CUDA_SUCCESS ? queue_nothing(stream) : result;
}

static CUresult prefetch_batch(CUdeviceptr *ptrs, size_t *sizes, size_t count,
                               CUmemLocation *locations, size_t *starts, size_t location_count,
                               unsigned long long flags, CUstream stream, bool per_thread) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (locations == NULL || starts == NULL || location_count == 0 || location_count > count)
        return CUDA_ERROR_INVALID_VALUE;
    return do_batch(ptrs, sizes, count, locations, starts, location_count, flags, stream,
                    per_thread);
}

CUresult CUDAAPI cuMemPrefetchBatchAsync(CUdeviceptr *ptrs, size_t *sizes, size_t count,
                                         CUmemLocation *locations, size_t *starts,
                                         size_t location_count, unsigned long long flags,
                                         CUstream stream) {
    return prefetch_batch(ptrs, sizes, count, locations, starts, location_count, flags, stream,
                          false);
}
CUresult CUDAAPI cuMemPrefetchBatchAsync_ptsz(CUdeviceptr *ptrs, size_t *sizes, size_t count,
                                              CUmemLocation *locations, size_t *starts,
                                              size_t location_count, unsigned long long flags,
                                              CUstream stream) {
    return prefetch_batch(ptrs, sizes, count, locations, starts, location_count, flags, stream,
                          true);
}
CUresult CUDAAPI cuMemDiscardBatchAsync(CUdeviceptr *ptrs, size_t *sizes, size_t count,
                                        unsigned long long flags, CUstream stream) {
    return do_batch(ptrs, sizes, count, NULL, NULL, 0, flags, stream, false);
}
CUresult CUDAAPI cuMemDiscardBatchAsync_ptsz(CUdeviceptr *ptrs, size_t *sizes, size_t count,
                                             unsigned long long flags, CUstream stream) {
    return do_batch(ptrs, sizes, count, NULL, NULL, 0, flags, stream, true);
}
CUresult CUDAAPI cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr *ptrs, size_t *sizes, size_t count,
                                                   CUmemLocation *locations, size_t *starts,
                                                   size_t location_count, unsigned long long flags,
                                                   CUstream stream) {
    return prefetch_batch(ptrs, sizes, count, locations, starts, location_count, flags, stream,
                          false);
}
CUresult CUDAAPI cuMemDiscardAndPrefetchBatchAsync_ptsz(CUdeviceptr *ptrs, size_t *sizes,
                                                        size_t count, CUmemLocation *locations,
                                                        size_t *starts, size_t location_count,
                                                        unsigned long long flags, CUstream stream) {
    return prefetch_batch(ptrs, sizes, count, locations, starts, location_count, flags, stream,
                          true);
}

/* ---- Advising ------------------------------------------------------------------------------ */

static CUresult advise(CUdeviceptr ptr, size_t bytes, CUmem_advise advice, CUmemLocation location) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS)
        result = check_managed(ptr, bytes);
    if (result != CUDA_SUCCESS)
        return result;
    switch (advice) {
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
        return CUDA_SUCCESS; /* the location does not matter */
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
        return check_location(&location);
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
    case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
        if (location.type != CU_MEM_LOCATION_TYPE_DEVICE &&
            location.type != CU_MEM_LOCATION_TYPE_HOST)
            return CUDA_ERROR_INVALID_VALUE;
        return check_location(&location);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult CUDAAPI cuMemAdvise(CUdeviceptr ptr, size_t bytes, CUmem_advise advice, CUdevice dev) {
    return cuMemAdvise_v2(ptr, bytes, advice, location_of(dev));
}
CUresult CUDAAPI cuMemAdvise_v2(CUdeviceptr ptr, size_t bytes, CUmem_advise advice,
                                CUmemLocation location) {
    CUresult result = advise(ptr, bytes, advice, location);
    return result == CUDA_SUCCESS ? sim_managed_advised(ptr, advice, location) : result;
}

/* ---- Attaching ----------------------------------------------------------------------------- */

static CUresult attach(CUstream handle, CUdeviceptr ptr, size_t bytes, unsigned flags,
                       bool per_thread) {
    struct sim_stream *stream;
    struct sim_memory_info info;
    CUresult result = sim_stream_enter_work(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST &&
        flags != CU_MEM_ATTACH_SINGLE)
        return CUDA_ERROR_INVALID_VALUE;
    if (flags == CU_MEM_ATTACH_SINGLE && stream->legacy)
        return CUDA_ERROR_INVALID_VALUE; /* no stream of its own */
    if (!sim_memory_find(ptr, &info) || info.kind != SIM_MEMORY_MANAGED || info.base != ptr ||
        (bytes != 0 && bytes != info.bytes))
        return CUDA_ERROR_INVALID_VALUE;
    return queue_nothing(stream);
}

CUresult CUDAAPI cuStreamAttachMemAsync(CUstream stream, CUdeviceptr ptr, size_t bytes,
                                        unsigned flags) {
    return attach(stream, ptr, bytes, flags, false);
}
CUresult CUDAAPI cuStreamAttachMemAsync_ptsz(CUstream stream, CUdeviceptr ptr, size_t bytes,
                                             unsigned flags) {
    return attach(stream, ptr, bytes, flags, true);
}
