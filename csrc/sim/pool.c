/* Memory pools: reservations that grow by chunks, are cut into allocations, and shrink at
 * synchronisations. */
#include "pool.h"

#include "exec.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Guards the list of living pools and the spare structs; taken before any heap.lock. */
static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pool *pools, *spare_pools;

/* Chunks without an allocation, in all pools: what a synchronisation might give back. Relaxed: a
 * count that is seen late is seen at the next synchronisation. */
static _Atomic uint32_t idle_chunks;

static void count_idle(int change) {
    atomic_fetch_add_explicit(&idle_chunks, (uint32_t)change, memory_order_relaxed);
}

CUresult pool_init(void) {
    sim_exec_on_sync(sim_pool_trim_all);
    return CUDA_SUCCESS;
}

struct pool *pool_get(CUmemoryPool handle) {
    return sim_handle_check(SIM_HANDLE_POOL, handle) ? (struct pool *)handle : NULL;
}

/* ---- Making -------------------------------------------------------------------------------- */

CUresult pool_check_props(const CUmemPoolProps *props) {
    if (props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED &&
        props->allocType != CU_MEM_ALLOCATION_TYPE_MANAGED)
        return CUDA_ERROR_INVALID_VALUE;
    if (props->handleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (props->handleTypes && props->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED)
        return CUDA_ERROR_INVALID_VALUE;
    switch (props->location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        return props->location.id >= 0 && props->location.id < sim_device_count()
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_DEVICE;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        return props->handleTypes ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult pool_make(const CUmemPoolProps *props, bool builtin, struct pool **out) {
    pthread_mutex_lock(&pools_lock);
    struct pool *pool = spare_pools;
    if (pool)
        spare_pools = pool->next;
    pthread_mutex_unlock(&pools_lock);
    if (!pool)
        pool = malloc(sizeof *pool); /* kept for ever: extents point into it */
    if (!pool)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(pool, 0, sizeof *pool);
    heap_init(&pool->heap);
    pool->props = *props;
    pool->builtin = builtin;
    bool device = props->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
    pool->dev = device ? props->location.id : CU_DEVICE_CPU;
    pool->physical = device ? sim_device_physical(pool->dev) : SIM_DEVICES_MAX;
    const struct sim_device_config *config = sim_device_config(device ? pool->dev : 0);
    pool->page = config->page_size;
    pool->chunk = config->pool_chunk;
    pool->follow_events = pool->opportunistic = pool->internal_dependencies = 1;
    if (device)
        pool->access[pool->dev] = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    else
        for (int d = 0; d < sim_device_count(); d++)
            pool->access[d] = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (!sim_handle_add(SIM_HANDLE_POOL, pool)) {
        heap_fini(&pool->heap);
        free(pool);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&pools_lock);
    pool->next = pools;
    pools = pool;
    pthread_mutex_unlock(&pools_lock);
    *out = pool;
    return CUDA_SUCCESS;
}

/* ---- Chunks. Under heap.lock ---------------------------------------------------------------- */

static void drop_chunk(struct pool *pool, struct extent *chunk) {
    heap_remove(&pool->heap, chunk);
    count_idle(-1);
    pool->reserved -= chunk->span;
    (void)extent_withdraw(chunk);
    if (pool->physical == SIM_DEVICES_MAX) {
        munmap((void *)chunk->base, chunk->span);
        extent_free(chunk);
    } else {
        extent_release(chunk);
    }
}

static void mark_written(const struct extent *chunk) {
    _Atomic uint32_t *words = sim_frame_words(sim_state, chunk->physical);
    const struct sim_frame_run *runs = sim_frames_runs(&chunk->frames);
    for (uint32_t r = 0; r < chunk->frames.run_count; r++)
        for (uint32_t f = 0; f < runs[r].count; f++)
            sim_frame_touch(&words[runs[r].first + f]);
}

/* Device pages, with their addresses, as a chunk's; false when there are too few. */
static bool fill_from_device(struct pool *pool, struct extent *chunk, uint64_t bytes) {
    if (!sim_frames_take(sim_state, pool->physical, bytes / pool->page, &chunk->frames))
        return false;
    if (pool->props.allocType == CU_MEM_ALLOCATION_TYPE_MANAGED)
        mark_written(chunk); /* the host may write it at any time, unseen */
    if (extent_place(chunk, false))
        return true;
    sim_frames_give(sim_state, pool->physical, &chunk->frames);
    return false;
}

static bool fill_from_host(struct extent *chunk, uint64_t bytes) {
    uint64_t align = UINT64_C(1) << HEAP_PAGE_SHIFT;
    chunk->base = addresses_reserve(bytes, align, 0);
    if (!chunk->base)
        return false;
    if (mprotect((void *)chunk->base, bytes, PROT_READ | PROT_WRITE) != 0) {
        addresses_release(chunk->base, bytes);
        return false;
    }
    chunk->span = bytes;
    extent_publish(chunk);
    return true;
}

static bool add_chunk(struct pool *pool, uint64_t bytes) {
    struct extent *chunk = extent_new(EXTENT_POOL, pool->physical);
    if (!chunk)
        return false;
    chunk->owner = pool;
    chunk->heap = &pool->heap;
    chunk->span = bytes;
    bool filled = pool->physical == SIM_DEVICES_MAX ? fill_from_host(chunk, bytes)
                                                    : fill_from_device(pool, chunk, bytes);
    if (!filled) {
        extent_free(chunk);
        return false;
    }
    pool->reserved += bytes;
    count_idle(1);
    /* Nobody finds a block in it before this: the lock is ours. */
    if (!heap_add(&pool->heap, chunk)) {
        count_idle(-1);
        pool->reserved -= bytes;
        (void)extent_withdraw(chunk);
        extent_release(chunk);
        return false;
    }
    if (pool->reserved > pool->reserved_high)
        pool->reserved_high = pool->reserved;
    return true;
}

/* Grows by a chunk, or by just the pages that are needed when there is no room for more. */
static bool grow(struct pool *pool, uint64_t bytes) {
    if (bytes > UINT64_MAX - pool->page)
        return false;
    uint64_t need = (bytes + pool->page - 1) / pool->page * pool->page;
    uint64_t most = pool->props.maxSize ? pool->props.maxSize : UINT64_MAX;
    uint64_t room = most > pool->reserved ? most - pool->reserved : 0;
    uint64_t wish = need > pool->chunk ? need : pool->chunk;
    if (wish <= room && add_chunk(pool, wish))
        return true;
    return need < wish && need <= room && add_chunk(pool, need);
}

/* ---- Taking -------------------------------------------------------------------------------- */

static uint64_t block_bytes(const struct block *block) {
    return (uint64_t)block->units << HEAP_UNIT_SHIFT;
}

static void unlink_free(struct pool_free *entry) {
    if (entry->before)
        entry->before->after = entry->after;
    else
        entry->pool->pending = entry->after;
    if (entry->after)
        entry->after->before = entry->before;
}

/* A block whose free is under way in the same stream may be used there at once: the stream orders
 * the uses. Only as a whole, for what was cut off would be there for other streams. */
static struct block *reuse(struct pool *pool, uint64_t bytes, const void *stream, bool wasting) {
    enum { TRIES = 32 };
    struct pool_free *entry = pool->pending;
    for (int t = 0; stream && entry && t < TRIES; t++, entry = entry->after) {
        struct block *block = entry->block;
        if (entry->stream != stream || block_bytes(block) < bytes ||
            (!wasting && block_bytes(block) - bytes > bytes / 4 + HEAP_UNIT))
            continue;
        unlink_free(entry);
        entry->block = NULL;
        block->pending = NULL;
        pool->used -= block_bytes(block);
        return block;
    }
    return NULL;
}

CUresult pool_take(struct pool *pool, uint64_t bytes, const void *stream, CUdeviceptr *ptr) {
    bool no_memory = false;
    pthread_mutex_lock(&pool->heap.lock);
    struct block *block = heap_take(&pool->heap, bytes, &no_memory);
    bool reused = false;
    if (!block && !no_memory)
        reused = (block = reuse(pool, bytes, stream, false)) != NULL;
    if (!block && !no_memory && grow(pool, bytes))
        block = heap_take(&pool->heap, bytes, &no_memory);
    if (!block && !no_memory)
        reused = (block = reuse(pool, bytes, stream, true)) != NULL;
    if (block) {
        if (!reused && block->chunk->chunk.live == 1)
            count_idle(-1);
        block->bytes = bytes;
        block->live.ctx = NULL;
        block->live.id = memory_next_id();
        block->flags =
            pool->props.allocType == CU_MEM_ALLOCATION_TYPE_MANAGED ? (uint32_t)BLOCK_MANAGED : 0;
        pool->used += block_bytes(block);
        if (pool->used > pool->used_high)
            pool->used_high = pool->used;
        *ptr = block->address;
    }
    pthread_mutex_unlock(&pool->heap.lock);
    /* A reused block may still be in use by what the stream has queued. */
    if (block && !reused)
        memory_wipe(block->chunk, *ptr, bytes);
    return block ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* ---- Giving back --------------------------------------------------------------------------- */

/* Under heap.lock. */
static void trim_locked(struct pool *pool, uint64_t keep) {
    struct extent *next;
    for (struct extent *chunk = pool->heap.chunks; chunk && pool->reserved > keep; chunk = next) {
        next = chunk->chunk.after;
        if (!chunk->chunk.live)
            drop_chunk(pool, chunk);
    }
}

void pool_trim(struct pool *pool, uint64_t keep) {
    pthread_mutex_lock(&pool->heap.lock);
    trim_locked(pool, keep);
    pthread_mutex_unlock(&pool->heap.lock);
}

void sim_pool_trim_all(CUdevice dev) {
    if (!atomic_load_explicit(&idle_chunks, memory_order_relaxed))
        return;
    pthread_mutex_lock(&pools_lock);
    for (struct pool *pool = pools; pool; pool = pool->next) {
        if (pool->dev != dev && pool->dev != CU_DEVICE_CPU)
            continue;
        pthread_mutex_lock(&pool->heap.lock);
        trim_locked(pool, pool->threshold);
        pthread_mutex_unlock(&pool->heap.lock);
    }
    pthread_mutex_unlock(&pools_lock);
}

/* An abandoned pool without allocations ends. Releases heap.lock. */
static void unlock_or_end(struct pool *pool) {
    bool over = pool->destroyed && !pool->heap.live && !pool->imports && !pool->queued;
    if (pool->destroyed)
        trim_locked(pool, 0);
    pthread_mutex_unlock(&pool->heap.lock);
    if (!over)
        return;
    pthread_mutex_lock(&pools_lock);
    struct pool **link = &pools;
    while (*link && *link != pool)
        link = &(*link)->next;
    bool mine = *link != NULL;
    if (mine)
        *link = pool->next;
    pthread_mutex_unlock(&pools_lock);
    if (!mine)
        return;
    if (pool->share.nonce)
        share_release(&pool->share);
    heap_fini(&pool->heap);
    pthread_mutex_lock(&pools_lock);
    pool->next = spare_pools;
    spare_pools = pool;
    pthread_mutex_unlock(&pools_lock);
}

/* Under heap.lock, which it releases. */
static void give_and_unlock(struct pool *pool, struct block *block) {
    pool->used -= block_bytes(block);
    if (heap_give(&pool->heap, block))
        count_idle(1);
    unlock_or_end(pool);
}

void pool_abandon(struct pool *pool) {
    pthread_mutex_lock(&pool->heap.lock);
    pool->destroyed = true;
    unlock_or_end(pool);
}

/* Under heap.lock. */
static void give_all(struct pool *pool) {
    for (struct pool_free *entry = pool->pending; entry; entry = entry->after) {
        entry->block->pending = NULL;
        entry->block = NULL;
    }
    pool->pending = NULL;
    for (struct extent *chunk = pool->heap.chunks; chunk; chunk = chunk->chunk.after)
        for (uint32_t number = chunk->chunk.first; number;) {
            struct block *block = heap_block(number);
            number = block->after;
            /* A free one behind it is joined to it when it goes; what follows that is live. */
            if (number && !heap_block(number)->bytes)
                number = heap_block(number)->after;
            if (!block->bytes)
                continue;
            pool->used -= block_bytes(block);
            if (heap_give(&pool->heap, block)) {
                count_idle(1);
                break;
            }
        }
}

/* A program's own pool of the device that still gives or holds something, or NULL. */
static struct pool *next_of(CUdevice dev) {
    pthread_mutex_lock(&pools_lock);
    struct pool *pool = pools;
    for (bool found = false; pool && !found;) {
        if (pool->dev == dev && !pool->builtin && !pool->imported) {
            pthread_mutex_lock(&pool->heap.lock);
            found = !pool->destroyed || pool->heap.live;
            pthread_mutex_unlock(&pool->heap.lock);
        }
        if (!found)
            pool = pool->next;
    }
    pthread_mutex_unlock(&pools_lock);
    return pool;
}

void sim_pools_end(CUdevice dev) {
    struct pool *pool;
    while ((pool = next_of(dev))) {
        (void)sim_handle_drop(SIM_HANDLE_POOL, pool);
        pthread_mutex_lock(&pool->heap.lock);
        give_all(pool);
        pool->destroyed = true;
        unlock_or_end(pool);
    }
}

void pool_import_gone(struct pool *pool) {
    pthread_mutex_lock(&pool->heap.lock);
    pool->imports--;
    unlock_or_end(pool);
}

/* The pool's live block at exactly that address that is not being freed, heap locked. */
static struct block *lock_exact(struct extent *extent, CUdeviceptr ptr, struct pool **pool) {
    struct heap *heap;
    struct block *block = block_lock(ptr, &heap);
    if (!block)
        return NULL;
    if (block->chunk != extent || extent->kind != EXTENT_POOL || block->address != ptr ||
        block->pending) {
        pthread_mutex_unlock(&heap->lock);
        return NULL;
    }
    *pool = extent->owner;
    return block;
}

CUresult pool_free_now(struct extent *extent, CUdeviceptr ptr) {
    struct pool *pool = extent->owner;
    if (pool->dev != CU_DEVICE_CPU)
        sim_exec_drain(pool->dev);
    struct block *block = lock_exact(extent, ptr, &pool);
    if (!block)
        return CUDA_ERROR_INVALID_VALUE;
    give_and_unlock(pool, block);
    return CUDA_SUCCESS;
}

/* The stream has come to the free. */
static void free_arrived(void *argument) {
    struct pool_free *entry = argument;
    struct pool *pool = entry->pool;
    pthread_mutex_lock(&pool->heap.lock);
    struct block *block = entry->block;
    pool->queued--;
    if (block) {
        unlink_free(entry);
        block->pending = NULL;
        give_and_unlock(pool, block);
    } else {
        unlock_or_end(pool);
    }
    free(entry);
}

CUresult pool_free_later(struct extent *extent, CUdeviceptr ptr, void *stream) {
    struct pool *pool;
    struct pool_free *entry = malloc(sizeof *entry);
    if (!entry)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct block *block = lock_exact(extent, ptr, &pool);
    if (!block) {
        free(entry);
        return CUDA_ERROR_INVALID_VALUE;
    }
    *entry = (struct pool_free){.pool = pool, .block = block, .stream = stream};
    entry->after = pool->pending;
    if (entry->after)
        entry->after->before = entry;
    pool->pending = entry;
    pool->queued++;
    block->pending = entry;
    pthread_mutex_unlock(&pool->heap.lock);
    CUresult result = sim_stream_call(stream, free_arrived, entry);
    if (result == CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&pool->heap.lock);
    pool->queued--;
    if (entry->block) {
        unlink_free(entry);
        block->pending = NULL;
    }
    pthread_mutex_unlock(&pool->heap.lock);
    free(entry);
    return result;
}
