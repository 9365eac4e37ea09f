/* Managed memory: advice and prefetches. It lies in the pages of the device that it was allocated
 * on, always; what is said of other places is remembered per allocation and answered. */
#include "managed.h"
#include "memory.h"

#include "exec.h"

#include <stdlib.h>
#include <string.h>

struct advice {
    struct advice *next;
    uint64_t id; /* of the allocation */
    bool read_mostly;
    CUmemLocation preferred, prefetched; /* type INVALID: none */
    uint32_t accessed_by;                /* bit per ordinal; SIM_DEVICES_MAX: the host */
};

static pthread_mutex_t advice_lock = PTHREAD_MUTEX_INITIALIZER;
static struct advice *advices;
static _Atomic uint32_t advice_count; /* relaxed: only saves taking the lock */

/* Under advice_lock. With `make`, NULL means no host memory. */
static struct advice *find(uint64_t id, bool make) {
    struct advice *advice = advices;
    while (advice && advice->id != id)
        advice = advice->next;
    if (advice || !make)
        return advice;
    advice = calloc(1, sizeof *advice);
    if (!advice)
        return NULL;
    advice->id = id;
    advice->next = advices;
    advices = advice;
    atomic_fetch_add_explicit(&advice_count, 1, memory_order_relaxed);
    return advice;
}

void managed_forget(uint64_t id) {
    if (!atomic_load_explicit(&advice_count, memory_order_relaxed))
        return;
    pthread_mutex_lock(&advice_lock);
    for (struct advice **link = &advices; *link; link = &(*link)->next) {
        if ((*link)->id != id)
            continue;
        struct advice *advice = *link;
        *link = advice->next;
        free(advice);
        atomic_fetch_sub_explicit(&advice_count, 1, memory_order_relaxed);
        break;
    }
    pthread_mutex_unlock(&advice_lock);
}

/* The managed allocation that all of [ptr, ptr + bytes) lies in. */
static bool managed_range(CUdeviceptr ptr, size_t bytes, struct sim_memory_info *info) {
    return bytes && sim_memory_find(ptr, info) && info->kind == SIM_MEMORY_MANAGED &&
           bytes <= info->bytes - (ptr - info->base);
}

static CUresult check_location(const CUmemLocation *location) {
    switch (location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        return location->id >= 0 && location->id < sim_device_count() ? CUDA_SUCCESS
                                                                      : CUDA_ERROR_INVALID_DEVICE;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* The place that an old call's device means. */
static CUmemLocation location_of(CUdevice dev) {
    CUmemLocation location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = dev};
    if (dev == CU_DEVICE_CPU)
        location = (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_HOST, .id = 0};
    return location;
}

/* ---- Advice -------------------------------------------------------------------------------- */

static CUresult advise(CUdeviceptr ptr, size_t bytes, CUmem_advise what,
                       const CUmemLocation *location) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_memory_info info;
    if (!managed_range(ptr, bytes, &info))
        return CUDA_ERROR_INVALID_VALUE;
    bool placed = what == CU_MEM_ADVISE_SET_PREFERRED_LOCATION ||
                  what == CU_MEM_ADVISE_SET_ACCESSED_BY || what == CU_MEM_ADVISE_UNSET_ACCESSED_BY;
    if (placed && (result = check_location(location)) != CUDA_SUCCESS)
        return result;
    uint32_t bit =
        1u << (location->type == CU_MEM_LOCATION_TYPE_DEVICE && placed ? location->id
                                                                       : (int)SIM_DEVICES_MAX);
    pthread_mutex_lock(&advice_lock);
    struct advice *advice = find(info.id, true);
    if (!advice)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else
        switch (what) {
        case CU_MEM_ADVISE_SET_READ_MOSTLY:
        case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
            advice->read_mostly = what == CU_MEM_ADVISE_SET_READ_MOSTLY;
            break;
        case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
            advice->preferred = *location;
            break;
        case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
            advice->preferred = (CUmemLocation){0};
            break;
        case CU_MEM_ADVISE_SET_ACCESSED_BY:
            advice->accessed_by |= bit;
            break;
        case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
            advice->accessed_by &= ~bit;
            break;
        default:
            result = CUDA_ERROR_INVALID_VALUE;
        }
    pthread_mutex_unlock(&advice_lock);
    return result;
}

CUresult cuMemAdvise(CUdeviceptr ptr, size_t bytes, CUmem_advise what, CUdevice dev) {
    CUmemLocation location = location_of(dev);
    return advise(ptr, bytes, what, &location);
}

CUresult cuMemAdvise_v2(CUdeviceptr ptr, size_t bytes, CUmem_advise what, CUmemLocation location) {
    return advise(ptr, bytes, what, &location);
}

/* ---- Prefetches ---------------------------------------------------------------------------- */

static CUresult enter_stream(CUstream handle, bool per_thread) {
    struct sim_context *ctx;
    struct sim_stream *stream;
    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        result = sim_stream_resolve(ctx, handle, per_thread, &stream);
    if (result == CUDA_SUCCESS && sim_stream_capturing(stream))
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return result;
}

static CUresult prefetch_one(CUdeviceptr ptr, size_t bytes, const CUmemLocation *location) {
    struct sim_memory_info info;
    if (!managed_range(ptr, bytes, &info))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = check_location(location);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&advice_lock);
    struct advice *advice = find(info.id, true);
    if (advice)
        advice->prefetched = *location;
    pthread_mutex_unlock(&advice_lock);
    return advice ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult prefetch(CUdeviceptr ptr, size_t bytes, CUmemLocation location, unsigned flags,
                         CUstream stream, bool per_thread) {
    CUresult result = enter_stream(stream, per_thread);
    if (result == CUDA_SUCCESS && flags)
        result = CUDA_ERROR_INVALID_VALUE;
    return result == CUDA_SUCCESS ? prefetch_one(ptr, bytes, &location) : result;
}

CUresult cuMemPrefetchAsync(CUdeviceptr ptr, size_t bytes, CUdevice dev, CUstream stream) {
    return prefetch(ptr, bytes, location_of(dev), 0, stream, false);
}
CUresult cuMemPrefetchAsync_ptsz(CUdeviceptr ptr, size_t bytes, CUdevice dev, CUstream stream) {
    return prefetch(ptr, bytes, location_of(dev), 0, stream, true);
}
CUresult cuMemPrefetchAsync_v2(CUdeviceptr ptr, size_t bytes, CUmemLocation location,
                               unsigned flags, CUstream stream) {
    return prefetch(ptr, bytes, location, flags, stream, false);
}
CUresult cuMemPrefetchAsync_v2_ptsz(CUdeviceptr ptr, size_t bytes, CUmemLocation location,
                                    unsigned flags, CUstream stream) {
    return prefetch(ptr, bytes, location, flags, stream, true);
}

/* `where` NULL: no prefetch, the contents are only given up, which nothing here depends on. */
static CUresult batch(const CUdeviceptr *ptrs, const size_t *bytes, size_t count,
                      const CUmemLocation *where, const size_t *first, size_t where_count,
                      unsigned long long flags, CUstream stream, bool per_thread) {
    CUresult result = enter_stream(stream, per_thread);
    if (result != CUDA_SUCCESS)
        return result;
    if (!ptrs || !bytes || !count || flags || (where && (!first || !where_count || first[0])))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t w = 1; w < where_count; w++)
        if (first[w] <= first[w - 1] || first[w] >= count)
            return CUDA_ERROR_INVALID_VALUE;
    size_t w = 0;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        struct sim_memory_info info;
        while (where && w + 1 < where_count && first[w + 1] <= i)
            w++;
        if (where)
            result = prefetch_one(ptrs[i], bytes[i], &where[w]);
        else if (!managed_range(ptrs[i], bytes[i], &info))
            result = CUDA_ERROR_INVALID_VALUE;
    }
    return result;
}

CUresult cuMemPrefetchBatchAsync(CUdeviceptr *ptrs, size_t *bytes, size_t count,
                                 CUmemLocation *where, size_t *first, size_t where_count,
                                 unsigned long long flags, CUstream stream) {
    if (sim_ready() == CUDA_SUCCESS && !where)
        return CUDA_ERROR_INVALID_VALUE;
    return batch(ptrs, bytes, count, where, first, where_count, flags, stream, false);
}
CUresult cuMemPrefetchBatchAsync_ptsz(CUdeviceptr *ptrs, size_t *bytes, size_t count,
                                      CUmemLocation *where, size_t *first, size_t where_count,
                                      unsigned long long flags, CUstream stream) {
    if (sim_ready() == CUDA_SUCCESS && !where)
        return CUDA_ERROR_INVALID_VALUE;
    return batch(ptrs, bytes, count, where, first, where_count, flags, stream, true);
}
CUresult cuMemDiscardBatchAsync(CUdeviceptr *ptrs, size_t *bytes, size_t count,
                                unsigned long long flags, CUstream stream) {
    return batch(ptrs, bytes, count, NULL, NULL, 0, flags, stream, false);
}
CUresult cuMemDiscardBatchAsync_ptsz(CUdeviceptr *ptrs, size_t *bytes, size_t count,
                                     unsigned long long flags, CUstream stream) {
    return batch(ptrs, bytes, count, NULL, NULL, 0, flags, stream, true);
}
CUresult cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr *ptrs, size_t *bytes, size_t count,
                                           CUmemLocation *where, size_t *first, size_t where_count,
                                           unsigned long long flags, CUstream stream) {
    return cuMemPrefetchBatchAsync(ptrs, bytes, count, where, first, where_count, flags, stream);
}
CUresult cuMemDiscardAndPrefetchBatchAsync_ptsz(CUdeviceptr *ptrs, size_t *bytes, size_t count,
                                                CUmemLocation *where, size_t *first,
                                                size_t where_count, unsigned long long flags,
                                                CUstream stream) {
    return cuMemPrefetchBatchAsync_ptsz(ptrs, bytes, count, where, first, where_count, flags,
                                        stream);
}

/* ---- Range attributes ---------------------------------------------------------------------- */

/* As old calls name a place: a device, the host, or nowhere. */
static int old_name(const CUmemLocation *location) {
    return location->type == CU_MEM_LOCATION_TYPE_DEVICE    ? location->id
           : location->type == CU_MEM_LOCATION_TYPE_INVALID ? CU_DEVICE_INVALID
                                                            : CU_DEVICE_CPU;
}

/* `data` holds as many devices as there is room for; what is left over says "invalid". */
static CUresult accessed_by(int *data, size_t bytes, uint32_t mask) {
    if (!bytes || bytes % sizeof *data)
        return CUDA_ERROR_INVALID_VALUE;
    size_t room = bytes / sizeof *data, at = 0;
    for (int d = 0; d < sim_device_count() && at < room; d++)
        if (mask >> d & 1)
            data[at++] = d;
    if ((mask >> SIM_DEVICES_MAX & 1) && at < room)
        data[at++] = CU_DEVICE_CPU;
    while (at < room)
        data[at++] = CU_DEVICE_INVALID;
    return CUDA_SUCCESS;
}

static CUresult range_attribute(void *data, size_t bytes, CUmem_range_attribute attribute,
                                const struct advice *advice) {
    if (!data)
        return CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY)
        return accessed_by(data, bytes, advice->accessed_by);
    if (bytes != sizeof(int))
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
        *(int *)data = advice->read_mostly;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
        *(int *)data = old_name(&advice->preferred);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
        *(int *)data = old_name(&advice->prefetched);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
        *(int *)data = (int)advice->preferred.type;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
        *(int *)data = advice->preferred.id;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
        *(int *)data = (int)advice->prefetched.type;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
        *(int *)data = advice->prefetched.id;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemRangeGetAttributes(void **data, size_t *sizes, CUmem_range_attribute *attributes,
                                 size_t count, CUdeviceptr ptr, size_t bytes) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_memory_info info;
    if (!data || !sizes || !attributes || !count || !managed_range(ptr, bytes, &info))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&advice_lock);
    const struct advice *there = find(info.id, false);
    struct advice advice = there ? *there : (struct advice){0};
    pthread_mutex_unlock(&advice_lock);
    for (size_t a = 0; a < count && result == CUDA_SUCCESS; a++)
        result = range_attribute(data[a], sizes[a], attributes[a], &advice);
    return result;
}

CUresult cuMemRangeGetAttribute(void *data, size_t size, CUmem_range_attribute attribute,
                                CUdeviceptr ptr, size_t bytes) {
    return cuMemRangeGetAttributes(&data, &size, &attribute, 1, ptr, bytes);
}
