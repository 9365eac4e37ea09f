/* The calls on memory pools, and allocation in stream order. */
#include "pool.h"

#include "exec.h"

#include <string.h>

/* The pools that a device or the host starts with, and those that are current. */
enum { PLACES = SIM_DEVICES_MAX + 1, TYPES = 2 }; /* the last place is the host */
static struct {
    pthread_mutex_t lock;
    struct pool *builtin[PLACES][TYPES];
    struct pool *current[PLACES][TYPES]; /* NULL: the builtin one */
} defaults = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int place_of(const CUmemLocation *location) {
    switch (location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        return location->id >= 0 && location->id < sim_device_count() ? location->id : -1;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        return SIM_DEVICES_MAX;
    default:
        return -1;
    }
}

/* Index of an allocation type, or -1. */
static int type_of(CUmemAllocationType type) {
    return type == CU_MEM_ALLOCATION_TYPE_PINNED    ? 0
           : type == CU_MEM_ALLOCATION_TYPE_MANAGED ? 1
                                                    : -1;
}

/* Under defaults.lock. */
static CUresult builtin_pool(int place, int type, const CUmemLocation *location,
                             struct pool **pool) {
    CUresult result = CUDA_SUCCESS;
    if (!defaults.builtin[place][type]) {
        CUmemPoolProps props = {.allocType = type ? CU_MEM_ALLOCATION_TYPE_MANAGED
                                                  : CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = *location};
        result = pool_make(&props, true, &defaults.builtin[place][type]);
    }
    *pool = defaults.builtin[place][type];
    return result;
}

static CUresult default_pool(const CUmemLocation *location, CUmemAllocationType type, bool current,
                             struct pool **pool) {
    int place = place_of(location), kind = type_of(type);
    if (place < 0)
        return location->type == CU_MEM_LOCATION_TYPE_DEVICE ? CUDA_ERROR_INVALID_DEVICE
                                                             : CUDA_ERROR_INVALID_VALUE;
    if (kind < 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&defaults.lock);
    if (current && defaults.current[place][kind])
        *pool = defaults.current[place][kind];
    else
        result = builtin_pool(place, kind, location, pool);
    pthread_mutex_unlock(&defaults.lock);
    return result;
}

static CUresult device_pool(CUdevice dev, bool current, struct pool **pool) {
    CUmemLocation location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = dev};
    return default_pool(&location, CU_MEM_ALLOCATION_TYPE_PINNED, current, pool);
}

static CUresult answer_pool(CUmemoryPool *out, const CUmemLocation *location,
                            CUmemAllocationType type, bool current) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !location)
        return CUDA_ERROR_INVALID_VALUE;
    struct pool *pool;
    result = default_pool(location, type, current, &pool);
    if (result == CUDA_SUCCESS)
        *out = (CUmemoryPool)pool;
    return result;
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice dev) {
    CUmemLocation location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = dev};
    return answer_pool(pool, &location, CU_MEM_ALLOCATION_TYPE_PINNED, false);
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev) {
    CUmemLocation location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = dev};
    return answer_pool(pool, &location, CU_MEM_ALLOCATION_TYPE_PINNED, true);
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location,
                                CUmemAllocationType type) {
    return answer_pool(pool, location, type, false);
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) {
    return answer_pool(pool, location, type, true);
}

CUresult cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!location || !pool || pool->imported)
        return CUDA_ERROR_INVALID_VALUE;
    int place = place_of(location), kind = type_of(type);
    if (place < 0)
        return location->type == CU_MEM_LOCATION_TYPE_DEVICE ? CUDA_ERROR_INVALID_DEVICE
                                                             : CUDA_ERROR_INVALID_VALUE;
    if (kind < 0 || kind != type_of(pool->props.allocType) ||
        place != place_of(&pool->props.location))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&defaults.lock);
    defaults.current[place][kind] = pool->builtin ? NULL : pool;
    pthread_mutex_unlock(&defaults.lock);
    return CUDA_SUCCESS;
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
    CUmemLocation location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = dev};
    return cuMemSetMemPool(&location, CU_MEM_ALLOCATION_TYPE_PINNED, pool);
}

/* ---- Making, ending ------------------------------------------------------------------------ */

CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *props) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !props)
        return CUDA_ERROR_INVALID_VALUE;
    result = pool_check_props(props);
    struct pool *pool;
    if (result == CUDA_SUCCESS)
        result = pool_make(props, false, &pool);
    if (result == CUDA_SUCCESS)
        *out = (CUmemoryPool)pool;
    return result;
}

CUresult cuMemPoolDestroy(CUmemoryPool handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!pool || pool->builtin || !sim_handle_drop(SIM_HANDLE_POOL, handle))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&defaults.lock);
    for (int p = 0; p < PLACES; p++)
        for (int t = 0; t < TYPES; t++)
            if (defaults.current[p][t] == pool)
                defaults.current[p][t] = NULL;
    pthread_mutex_unlock(&defaults.lock);
    pool_abandon(pool);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool handle, size_t keep) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!pool)
        return CUDA_ERROR_INVALID_VALUE;
    pool_trim(pool, keep);
    return CUDA_SUCCESS;
}

/* ---- Attributes ---------------------------------------------------------------------------- */

CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void *value) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!pool || !value)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&pool->heap.lock);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        pool->follow_events = *(int *)value != 0;
        break;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        pool->opportunistic = *(int *)value != 0;
        break;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        pool->internal_dependencies = *(int *)value != 0;
        break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        pool->threshold = *(cuuint64_t *)value;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        if (*(cuuint64_t *)value) /* it can only be set back */
            result = CUDA_ERROR_INVALID_VALUE;
        else
            pool->reserved_high = pool->reserved;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        if (*(cuuint64_t *)value)
            result = CUDA_ERROR_INVALID_VALUE;
        else
            pool->used_high = pool->used;
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_unlock(&pool->heap.lock);
    return result;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void *value) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!pool || !value)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&pool->heap.lock);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        *(int *)value = pool->follow_events;
        break;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        *(int *)value = pool->opportunistic;
        break;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        *(int *)value = pool->internal_dependencies;
        break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        *(cuuint64_t *)value = pool->threshold;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        *(cuuint64_t *)value = pool->reserved;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        *(cuuint64_t *)value = pool->reserved_high;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        *(cuuint64_t *)value = pool->used;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        *(cuuint64_t *)value = pool->used_high;
        break;
    case CU_MEMPOOL_ATTR_ALLOCATION_TYPE:
        *(int *)value = (int)pool->props.allocType;
        break;
    case CU_MEMPOOL_ATTR_EXPORT_HANDLE_TYPES:
        *(int *)value = (int)pool->props.handleTypes;
        break;
    case CU_MEMPOOL_ATTR_LOCATION_ID:
        *(int *)value = pool->props.location.id;
        break;
    case CU_MEMPOOL_ATTR_LOCATION_TYPE:
        *(int *)value = (int)pool->props.location.type;
        break;
    case CU_MEMPOOL_ATTR_MAX_POOL_SIZE:
        *(cuuint64_t *)value = pool->props.maxSize;
        break;
    case CU_MEMPOOL_ATTR_HW_DECOMPRESS_ENABLED:
        *(int *)value = 0;
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_unlock(&pool->heap.lock);
    return result;
}

/* ---- Access -------------------------------------------------------------------------------- */

static CUresult check_access(const struct pool *pool, const CUmemAccessDesc *wish) {
    if (wish->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        /* The host reaches host and managed memory, whatever is said. */
        return wish->location.type == CU_MEM_LOCATION_TYPE_HOST ||
                       wish->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    CUdevice dev = wish->location.id;
    if (dev < 0 || dev >= sim_device_count())
        return CUDA_ERROR_INVALID_DEVICE;
    if (wish->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
        wish->flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        wish->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
        return CUDA_ERROR_INVALID_VALUE;
    if (dev == pool->dev) /* its own memory cannot be taken from a device */
        return wish->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? CUDA_SUCCESS
                                                                 : CUDA_ERROR_INVALID_VALUE;
    if (pool->dev != CU_DEVICE_CPU && wish->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
        !sim_device_peers(dev, pool->dev))
        return CUDA_ERROR_INVALID_DEVICE;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc *wishes, size_t count) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!pool || (count && !wishes))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t w = 0; w < count; w++) {
        result = check_access(pool, &wishes[w]);
        if (result != CUDA_SUCCESS)
            return result;
    }
    pthread_mutex_lock(&pool->heap.lock);
    for (size_t w = 0; w < count; w++)
        if (wishes[w].location.type == CU_MEM_LOCATION_TYPE_DEVICE)
            pool->access[wishes[w].location.id] = wishes[w].flags;
    pthread_mutex_unlock(&pool->heap.lock);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool handle,
                            CUmemLocation *location) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!pool || !flags || !location)
        return CUDA_ERROR_INVALID_VALUE;
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) {
        if (place_of(location) < 0)
            return CUDA_ERROR_INVALID_VALUE;
        bool host =
            pool->dev == CU_DEVICE_CPU || pool->props.allocType == CU_MEM_ALLOCATION_TYPE_MANAGED;
        *flags = host ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
        return CUDA_SUCCESS;
    }
    if (location->id < 0 || location->id >= sim_device_count())
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&pool->heap.lock);
    *flags = pool->access[location->id];
    pthread_mutex_unlock(&pool->heap.lock);
    return CUDA_SUCCESS;
}

/* ---- In stream order ----------------------------------------------------------------------- */

static CUresult alloc_async(CUdeviceptr *ptr, size_t bytes, struct pool *pool, CUstream handle,
                            bool per_thread) {
    struct sim_context *ctx;
    struct sim_stream *stream;
    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS && (!ptr || !bytes))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = sim_stream_resolve(ctx, handle, per_thread, &stream);
    if (result == CUDA_SUCCESS && !pool)
        result = device_pool(sim_stream_context(stream)->dev, true, &pool);
    if (result != CUDA_SUCCESS)
        return result;
    if (sim_stream_capturing(stream))
        return sim_capture_mem_alloc(stream, &pool->props, bytes, ptr);
    sim_cost(ctx->dev, SIM_COST_ALLOC_ASYNC);
    return pool_take(pool, bytes, stream, ptr);
}

CUresult cuMemAllocAsync(CUdeviceptr *ptr, size_t bytes, CUstream stream) {
    return alloc_async(ptr, bytes, NULL, stream, false);
}
CUresult cuMemAllocAsync_ptsz(CUdeviceptr *ptr, size_t bytes, CUstream stream) {
    return alloc_async(ptr, bytes, NULL, stream, true);
}

static CUresult alloc_from(CUdeviceptr *ptr, size_t bytes, CUmemoryPool handle, CUstream stream,
                           bool per_thread) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!pool || pool->imported)
        return CUDA_ERROR_INVALID_VALUE;
    return alloc_async(ptr, bytes, pool, stream, per_thread);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *ptr, size_t bytes, CUmemoryPool pool,
                                 CUstream stream) {
    return alloc_from(ptr, bytes, pool, stream, false);
}
CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *ptr, size_t bytes, CUmemoryPool pool,
                                      CUstream stream) {
    return alloc_from(ptr, bytes, pool, stream, true);
}

static CUresult free_async(CUdeviceptr ptr, CUstream handle, bool per_thread) {
    struct sim_context *ctx;
    struct sim_stream *stream;
    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        result = sim_stream_resolve(ctx, handle, per_thread, &stream);
    if (result != CUDA_SUCCESS || !ptr)
        return result;
    if (sim_stream_capturing(stream))
        return sim_capture_mem_free(stream, ptr);
    sim_cost(ctx->dev, SIM_COST_FREE_ASYNC);
    struct extent *extent = extent_find(ptr);
    if (!extent)
        return CUDA_ERROR_INVALID_VALUE;
    switch (extent->kind) {
    case EXTENT_POOL:
        return pool_free_later(extent, ptr, stream);
    case EXTENT_GRAPH:
        return graph_free_later(extent, ptr, stream);
    case EXTENT_LINEAR:
    case EXTENT_SMALL:
        return memory_free_later(extent, ptr, stream);
    case EXTENT_IMPORT:
        return pool_drop_import_later(extent, ptr, stream);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemFreeAsync(CUdeviceptr ptr, CUstream stream) { return free_async(ptr, stream, false); }
CUresult cuMemFreeAsync_ptsz(CUdeviceptr ptr, CUstream stream) {
    return free_async(ptr, stream, true);
}
