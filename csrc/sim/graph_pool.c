/* The memory behind graphs' allocation nodes: one pool of pages per device, which stay until they
 * are trimmed, and which graphs that do not run share. */
#include "memory.h"

#include "exec.h"

#include <stdlib.h>
#include <string.h>

/* One device's. All under `lock`. A block is an EXTENT_GRAPH: `uses` counts the launches that were
 * promised memory and have not freed it; `sync_memops` is not used; `flags` holds GRAPH_*. */
static struct graph_pool {
    pthread_mutex_t lock;
    struct extent *blocks;  /* by `next` */
    struct sim_frames idle; /* pages behind no block */
    uint64_t reserved, reserved_high;
    uint64_t used, used_high;
} graph_pools[SIM_DEVICES_MAX] = {
    [0 ... SIM_DEVICES_MAX - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};

enum {
    GRAPH_IN_USE = 1,
    GRAPH_DOOMED = 2,
    GRAPH_FREE_SHIFT = 8, /* above it: how many frees are queued, each of one launch's use */
    GRAPH_ONE_FREE = 1 << GRAPH_FREE_SHIFT,
};

static uint32_t queued_frees(const struct extent *block) {
    return block->flags >> GRAPH_FREE_SHIFT;
}

static struct graph_pool *pool_of(const struct extent *block) {
    return &graph_pools[block->physical];
}

static uint64_t block_bytes(const struct extent *block) {
    return (block->bytes + HEAP_UNIT - 1) / HEAP_UNIT * HEAP_UNIT;
}

static struct extent *find_block(CUdeviceptr ptr) {
    struct extent *block = extent_find(ptr);
    return block && block->kind == EXTENT_GRAPH && block->base == ptr ? block : NULL;
}

/* ---- Addresses ----------------------------------------------------------------------------- */

CUresult sim_graph_memory_reserve(int dev, const CUmemPoolProps *props, size_t bytes,
                                  CUdeviceptr *ptr) {
    if (!bytes || props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED || props->handleTypes ||
        props->location.type != CU_MEM_LOCATION_TYPE_DEVICE || props->location.id != dev)
        return CUDA_ERROR_INVALID_VALUE;
    struct device_memory *device = device_memory_of(dev);
    uint64_t pages = pages_of(device, bytes);
    if (pages > sim_state->header->devices[device->physical].frame_count)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct extent *block = extent_new(EXTENT_GRAPH, device->physical);
    if (!block)
        return CUDA_ERROR_OUT_OF_MEMORY;
    block->backed = false;
    block->bytes = bytes;
    block->id = memory_next_id();
    block->span = pages << device->page_shift;
    block->base = addresses_reserve(block->span, UINT64_C(1) << HEAP_PAGE_SHIFT, 0);
    if (!block->base) {
        extent_free(block);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    extent_publish(block);
    struct graph_pool *pool = pool_of(block);
    pthread_mutex_lock(&pool->lock);
    block->next = pool->blocks;
    pool->blocks = block;
    pthread_mutex_unlock(&pool->lock);
    *ptr = block->base;
    return CUDA_SUCCESS;
}

/* Takes a block's pages away and keeps them. Under the pool's lock. */
static void unback(struct graph_pool *pool, struct extent *block) {
    if (!block->backed)
        return;
    block->backed = false;
    addresses_unmap(block->base, block->span);
    if (!sim_frames_append(&pool->idle, &block->frames)) {
        pool->reserved -= block->frames.frames << sim_devices[block->physical].page_shift;
        sim_frames_give(sim_state, block->physical, &block->frames);
    }
}

static void set_used(struct graph_pool *pool, struct extent *block, bool used) {
    if (used == ((block->flags & GRAPH_IN_USE) != 0))
        return;
    block->flags ^= GRAPH_IN_USE;
    if (!used) {
        pool->used -= block_bytes(block);
        return;
    }
    pool->used += block_bytes(block);
    if (pool->used > pool->used_high)
        pool->used_high = pool->used;
}

/* Ends a block that no launch needs any more. Under the pool's lock, which it releases. */
static void end_and_unlock(struct graph_pool *pool, struct extent *block) {
    struct extent **link = &pool->blocks;
    while (*link && *link != block)
        link = &(*link)->next;
    bool mine = *link && extent_withdraw(block);
    if (mine) {
        *link = block->next;
        unback(pool, block);
        addresses_release(block->base, block->span);
    }
    pthread_mutex_unlock(&pool->lock);
    if (mine)
        extent_free(block);
}

static bool needed(const struct extent *block) {
    return block->uses || (block->flags & GRAPH_IN_USE);
}

void sim_graph_memory_unreserve(int dev, CUdeviceptr ptr) {
    struct extent *block = find_block(ptr);
    (void)dev;
    if (!block)
        return;
    struct graph_pool *pool = pool_of(block);
    pthread_mutex_lock(&pool->lock);
    if (needed(block)) {
        block->flags |= GRAPH_DOOMED; /* its free ends it */
        pthread_mutex_unlock(&pool->lock);
    } else {
        end_and_unlock(pool, block);
    }
}

bool sim_graph_memory_live(int dev, CUdeviceptr ptr) {
    struct extent *block = find_block(ptr);
    (void)dev;
    if (!block)
        return false;
    struct graph_pool *pool = pool_of(block);
    pthread_mutex_lock(&pool->lock);
    bool live = block->uses > queued_frees(block);
    pthread_mutex_unlock(&pool->lock);
    return live;
}

/* ---- Pages --------------------------------------------------------------------------------- */

/* Pages for a block: what lies idle, then what graphs hold that do not run, then new ones. Under
 * the pool's lock. */
static bool find_pages(struct graph_pool *pool, struct extent *block, uint64_t pages) {
    for (struct extent *other = pool->blocks; other && pool->idle.frames < pages;
         other = other->next)
        if (other != block && !other->uses && !(other->flags & GRAPH_IN_USE))
            unback(pool, other);
    if (pool->idle.frames < pages) {
        struct sim_frames more;
        uint64_t lacking = pages - pool->idle.frames;
        if (!sim_frames_take(sim_state, block->physical, lacking, &more))
            return false;
        if (!sim_frames_append(&pool->idle, &more)) {
            sim_frames_give(sim_state, block->physical, &more);
            return false;
        }
        pool->reserved += lacking << sim_devices[block->physical].page_shift;
        if (pool->reserved > pool->reserved_high)
            pool->reserved_high = pool->reserved;
    }
    if (!sim_frames_cut(&pool->idle, pages, &block->frames))
        return false; /* what was cut is in the block's list: unback puts it back */
    return true;
}

CUresult sim_graph_memory_back(int dev, CUdeviceptr ptr) {
    struct extent *block = find_block(ptr);
    if (!block)
        return CUDA_ERROR_INVALID_VALUE;
    (void)dev;
    struct graph_pool *pool = pool_of(block);
    uint64_t pages = block->span >> sim_devices[block->physical].page_shift;
    bool done = true;
    pthread_mutex_lock(&pool->lock);
    if (!block->backed) {
        done = find_pages(pool, block, pages) &&
               addresses_map(block->base, block->physical, &block->frames, 0, pages);
        block->backed = true;
        if (!done)
            unback(pool, block);
    }
    block->uses += done;
    pthread_mutex_unlock(&pool->lock);
    return done ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* Under the pool's lock, which it releases. */
static void settle_and_unlock(struct graph_pool *pool, struct extent *block) {
    if ((block->flags & GRAPH_DOOMED) && !needed(block))
        end_and_unlock(pool, block);
    else
        pthread_mutex_unlock(&pool->lock);
}

void sim_graph_memory_unback(int dev, CUdeviceptr ptr) {
    struct extent *block = find_block(ptr);
    (void)dev;
    if (!block)
        return;
    struct graph_pool *pool = pool_of(block);
    pthread_mutex_lock(&pool->lock);
    block->uses -= block->uses > 0;
    settle_and_unlock(pool, block);
}

void sim_graph_memory_use(int dev, CUdeviceptr ptr, bool used) {
    struct extent *block = find_block(ptr);
    (void)dev;
    if (!block)
        return;
    struct graph_pool *pool = pool_of(block);
    pthread_mutex_lock(&pool->lock);
    if (!used && (block->flags & GRAPH_IN_USE))
        block->uses -= block->uses > 0;
    set_used(pool, block, used);
    settle_and_unlock(pool, block);
}

/* ---- Freed outside of a graph -------------------------------------------------------------- */

/* Of two frees of one use, one wins. */
static bool claim_free(struct extent *block, CUdeviceptr ptr) {
    struct graph_pool *pool = pool_of(block);
    pthread_mutex_lock(&pool->lock);
    bool mine = block->kind == EXTENT_GRAPH && block->base == ptr && block->flags & GRAPH_IN_USE &&
                block->uses > queued_frees(block);
    if (mine)
        block->flags += GRAPH_ONE_FREE;
    pthread_mutex_unlock(&pool->lock);
    return mine;
}

static void free_arrived(void *argument) {
    struct extent *block = argument;
    struct graph_pool *pool = pool_of(block);
    pthread_mutex_lock(&pool->lock);
    block->flags -= GRAPH_ONE_FREE;
    block->uses -= block->uses > 0;
    set_used(pool, block, false);
    settle_and_unlock(pool, block);
}

CUresult graph_free_now(struct extent *block, CUdeviceptr ptr) {
    /* The launch that allocates it may still be queued. */
    sim_exec_drain(sim_devices[block->physical].dev);
    if (!claim_free(block, ptr))
        return CUDA_ERROR_INVALID_VALUE;
    free_arrived(block);
    return CUDA_SUCCESS;
}

CUresult graph_free_later(struct extent *block, CUdeviceptr ptr, void *stream) {
    struct graph_pool *pool = pool_of(block);
    pthread_mutex_lock(&pool->lock);
    /* It need not be in use yet, when the launch comes before in the stream. */
    bool valid =
        block->kind == EXTENT_GRAPH && block->base == ptr && block->uses > queued_frees(block);
    if (valid)
        block->flags += GRAPH_ONE_FREE;
    pthread_mutex_unlock(&pool->lock);
    if (!valid)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = sim_stream_call(stream, free_arrived, block);
    if (result != CUDA_SUCCESS) {
        pthread_mutex_lock(&pool->lock);
        block->flags -= GRAPH_ONE_FREE;
        pthread_mutex_unlock(&pool->lock);
    }
    return result;
}

/* ---- Calls --------------------------------------------------------------------------------- */

static CUresult check(CUdevice dev) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && (dev < 0 || dev >= sim_device_count()))
        result = CUDA_ERROR_INVALID_DEVICE;
    return result;
}

CUresult cuDeviceGraphMemTrim(CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    struct device_memory *device = device_memory_of(dev);
    struct graph_pool *pool = &graph_pools[device->physical];
    pthread_mutex_lock(&pool->lock);
    for (struct extent *block = pool->blocks; block; block = block->next)
        if (!block->uses && !(block->flags & GRAPH_IN_USE))
            unback(pool, block);
    pool->reserved -= pool->idle.frames << device->page_shift;
    sim_frames_give(sim_state, device->physical, &pool->idle);
    pthread_mutex_unlock(&pool->lock);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetGraphMemAttribute(CUdevice dev, CUgraphMem_attribute attribute, void *value) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!value)
        return CUDA_ERROR_INVALID_VALUE;
    struct graph_pool *pool = &graph_pools[sim_device_physical(dev)];
    pthread_mutex_lock(&pool->lock);
    switch (attribute) {
    case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT:
        *(cuuint64_t *)value = pool->used;
        break;
    case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH:
        *(cuuint64_t *)value = pool->used_high;
        break;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT:
        *(cuuint64_t *)value = pool->reserved;
        break;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH:
        *(cuuint64_t *)value = pool->reserved_high;
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_unlock(&pool->lock);
    return result;
}

CUresult cuDeviceSetGraphMemAttribute(CUdevice dev, CUgraphMem_attribute attribute, void *value) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!value || *(cuuint64_t *)value) /* the high marks can only be set back */
        return CUDA_ERROR_INVALID_VALUE;
    struct graph_pool *pool = &graph_pools[sim_device_physical(dev)];
    pthread_mutex_lock(&pool->lock);
    if (attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)
        pool->used_high = pool->used;
    else if (attribute == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
        pool->reserved_high = pool->reserved;
    else
        result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&pool->lock);
    return result;
}
