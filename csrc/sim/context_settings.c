/* What can be asked of and set for a context: limits, which take memory; flags, caches, peers. */
#include "context.h"

#include "exec.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>

/* ---- Limits -------------------------------------------------------------------------------- */

enum {
    DEFAULT_STACK = 1024,   /* bytes a thread; part of the node's context cost */
    MAX_STACK = 512 << 10,  /* local memory that a thread can have */
    DEFAULT_FIFO = 1 << 20, /* part of the context cost too, */
    DEFAULT_HEAP = 8 << 20, /* and this */
    DEFAULT_SYNC_DEPTH = 2,
    DEFAULT_PENDING = 2048,
    MAX_FETCH = 128,
};

void context_settings_init(struct sim_context *ctx) {
    size_t *limits = ctx->memory->limits;
    limits[CU_LIMIT_STACK_SIZE] = DEFAULT_STACK;
    limits[CU_LIMIT_PRINTF_FIFO_SIZE] = DEFAULT_FIFO;
    limits[CU_LIMIT_MALLOC_HEAP_SIZE] = DEFAULT_HEAP;
    limits[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = DEFAULT_SYNC_DEPTH;
    limits[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = DEFAULT_PENDING;
    limits[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = MAX_FETCH;
}

/* Sets a limit whose memory above `included` bytes takes pages of the device. */
static CUresult set_memory_limit(struct sim_context *ctx, CUlimit limit, size_t value,
                                 struct sim_frames *charge, uint64_t bytes, uint64_t included) {
    uint64_t above = bytes > included ? bytes - included : 0;
    CUresult result =
        memory_charge(ctx->physical, charge, pages_of(&sim_devices[ctx->physical], above));
    if (result == CUDA_SUCCESS)
        ctx->memory->limits[limit] = value;
    return result;
}

static CUresult set_limit(struct sim_context *ctx, CUlimit limit, size_t value) {
    struct sim_context_memory *memory = ctx->memory;
    int threads = 0, persisting = 0;
    uint64_t all;
    switch (limit) {
    case CU_LIMIT_STACK_SIZE:
        if (value > MAX_STACK)
            return CUDA_ERROR_INVALID_VALUE;
        (void)sim_device_attribute(ctx->dev, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                                   &threads);
        all = (uint64_t)threads * sim_device_config(ctx->dev)->sms;
        return set_memory_limit(ctx, limit, value, &memory->stack, all * value,
                                all * DEFAULT_STACK);
    case CU_LIMIT_PRINTF_FIFO_SIZE:
        return set_memory_limit(ctx, limit, value, &memory->fifo, value, DEFAULT_FIFO);
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        return set_memory_limit(ctx, limit, value, &memory->heap, value, DEFAULT_HEAP);
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
    case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
        break;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
        if (value > MAX_FETCH)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_LIMIT_PERSISTING_L2_CACHE_SIZE:
        (void)sim_device_attribute(ctx->dev, CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE,
                                   &persisting);
        if (!persisting)
            return CUDA_ERROR_UNSUPPORTED_LIMIT;
        if (value > (size_t)persisting)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    default:
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    }
    memory->limits[limit] = value;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned)limit >= CU_LIMIT_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    ctx = ctx->owner;
    pthread_mutex_lock(&ctx->memory->lock);
    result = set_limit(ctx, limit, value);
    pthread_mutex_unlock(&ctx->memory->lock);
    return result;
}

CUresult cuCtxGetLimit(size_t *value, CUlimit limit) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!value || (unsigned)limit >= CU_LIMIT_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    if (limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE)
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    ctx = ctx->owner;
    pthread_mutex_lock(&ctx->memory->lock);
    *value = ctx->memory->limits[limit];
    pthread_mutex_unlock(&ctx->memory->lock);
    return CUDA_SUCCESS;
}

/* ---- What can be asked --------------------------------------------------------------------- */

CUresult cuCtxGetApiVersion(CUcontext handle, unsigned *version) {
    enum { API_VERSION = 3020 };
    struct sim_context *ctx;
    CUresult result = context_resolve(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!version)
        return CUDA_ERROR_INVALID_VALUE;
    *version = API_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext handle, unsigned long long *id) {
    struct sim_context *ctx;
    CUresult result = context_resolve(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!id)
        return CUDA_ERROR_INVALID_VALUE;
    *id = ctx->id;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned *flags) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!flags)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = ctx->flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned flags) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!context_flags_valid(flags))
        return CUDA_ERROR_INVALID_VALUE;
    ctx->flags = flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (least)
        *least = 0;
    if (greatest)
        *greatest = ctx->priority_greatest;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *config) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!config)
        return CUDA_ERROR_INVALID_VALUE;
    *config = ctx->owner->memory->cache;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL)
        return CUDA_ERROR_INVALID_VALUE;
    ctx->owner->memory->cache = config;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig *config) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!config)
        return CUDA_ERROR_INVALID_VALUE;
    *config = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE; /* no newer device has another */
    return CUDA_SUCCESS;
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS && (unsigned)config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE)
        result = CUDA_ERROR_INVALID_VALUE;
    return result;
}

CUresult cuCtxResetPersistingL2Cache(void) {
    struct sim_context *ctx;
    return sim_enter(&ctx);
}

CUresult cuCtxGetExecAffinity(CUexecAffinityParam *affinity, CUexecAffinityType type) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!affinity || (unsigned)type >= CU_EXEC_AFFINITY_TYPE_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
}

/* ---- Peers --------------------------------------------------------------------------------- */

/* Where the living peer stands in the list, or the first free place, or CONTEXT_PEERS. */
static uint32_t peer_place(const struct sim_context_memory *memory, const struct sim_context *peer,
                           bool *there) {
    uint32_t empty = CONTEXT_PEERS;
    *there = false;
    for (uint32_t p = 0; p < CONTEXT_PEERS; p++) {
        const struct sim_context *known = memory->peers[p].ctx;
        if (!known ||
            atomic_load_explicit(&known->serial, memory_order_relaxed) != memory->peers[p].serial) {
            empty = empty < p ? empty : p;
        } else if (known == peer) {
            *there = true;
            return p;
        }
    }
    return empty;
}

static CUresult peer_arguments(CUcontext handle, struct sim_context **ctx,
                               struct sim_context **peer) {
    CUresult result = sim_enter(ctx);
    if (result != CUDA_SUCCESS)
        return result;
    *peer = sim_context_get(handle);
    return *peer ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuCtxEnablePeerAccess(CUcontext handle, unsigned flags) {
    struct sim_context *ctx, *peer;
    CUresult result = peer_arguments(handle, &ctx, &peer);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (ctx->dev == peer->dev)
        return CUDA_ERROR_INVALID_DEVICE;
    if (!sim_device_peers(ctx->dev, peer->dev))
        return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    struct sim_context_memory *memory = ctx->owner->memory;
    bool there;
    pthread_mutex_lock(&memory->lock);
    uint32_t place = peer_place(memory, peer, &there);
    if (there)
        result = CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    else if (place == CONTEXT_PEERS)
        result = CUDA_ERROR_TOO_MANY_PEERS;
    if (result == CUDA_SUCCESS) {
        memory->peers[place].ctx = peer;
        memory->peers[place].serial = atomic_load_explicit(&peer->serial, memory_order_relaxed);
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

CUresult cuCtxDisablePeerAccess(CUcontext handle) {
    struct sim_context *ctx, *peer;
    CUresult result = peer_arguments(handle, &ctx, &peer);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_context_memory *memory = ctx->owner->memory;
    bool there;
    pthread_mutex_lock(&memory->lock);
    uint32_t place = peer_place(memory, peer, &there);
    if (there)
        memory->peers[place].ctx = NULL;
    pthread_mutex_unlock(&memory->lock);
    return there ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}
