/* Linear device memory, and what an address means. */
#include "memory.h"

#include "exec.h"
#include "managed.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t memory_next_id(void) {
    static _Atomic uint64_t last;
    /* Relaxed: the numbers are only compared for equality. */
    return atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
}

CUresult sim_memory_init(void) {
    if (!heaps_init())
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t p = 0; p < sim_state->node->device_count; p++) {
        struct device_memory *device = &sim_devices[p];
        device->physical = p;
        device->dev = sim_device_ordinal(p);
        device->page = sim_state->node->devices[p].page_size;
        device->page_shift = (unsigned)__builtin_ctzll(device->page);
        device->small_limit = device->page / 2;
        device->pages = calloc(sim_state->header->devices[p].frame_count, sizeof *device->pages);
        if (!device->pages)
            return CUDA_ERROR_OUT_OF_MEMORY;
        heap_init(&device->small);
    }
    return pool_init();
}

/* ---- Allocating ---------------------------------------------------------------------------- */

static void touch_frames(uint32_t physical, const struct sim_frames *frames) {
    _Atomic uint32_t *words = sim_frame_words(sim_state, physical);
    const struct sim_frame_run *runs = sim_frames_runs(frames);
    for (uint32_t r = 0; r < frames->run_count; r++)
        for (uint32_t f = 0; f < runs[r].count; f++)
            sim_frame_touch(&words[runs[r].first + f]);
}

/* A new page for small allocations. Under the heap's lock. */
static bool add_page(struct device_memory *device) {
    struct extent *extent =
        device->spare ? device->spare : extent_new(EXTENT_SMALL, device->physical);
    if (!extent)
        return false;
    device->spare = extent;
    if (!sim_frames_take(sim_state, device->physical, 1, &extent->frames))
        return false;
    extent->heap = &device->small;
    extent->span = device->page;
    extent->base = (CUdeviceptr)sim_state->vram[device->physical] +
                   ((uint64_t)extent->frames.one.first << device->page_shift);
    extent->in_window = true; /* one page always has its place there */
    if (!heap_add(&device->small, extent)) {
        sim_frames_give(sim_state, device->physical, &extent->frames);
        return false;
    }
    device->spare = NULL;
    extent_publish(extent);
    return true;
}

static CUresult alloc_small(struct device_memory *device, const struct sim_memory_want *want,
                            uint64_t bytes, CUdeviceptr *ptr) {
    bool no_memory = false;
    pthread_mutex_lock(&device->small.lock);
    struct block *block = heap_take(&device->small, bytes, &no_memory);
    if (!block && !no_memory && add_page(device))
        block = heap_take(&device->small, bytes, &no_memory);
    if (block) {
        block->flags = 0;
        block->live.ctx = want->ctx;
        /* Apart from those of memory_next_id, and the devices' from each other. */
        block->live.id = (uint64_t)(device->physical + 1) << 48 | ++device->next_id;
        if (want->managed) {
            /* The host may write it at any time, unseen. */
            block->flags = BLOCK_MANAGED | want->flags << BLOCK_ATTACH_SHIFT;
            touch_frames(device->physical, &block->chunk->frames);
        }
        *ptr = block->address;
    }
    pthread_mutex_unlock(&device->small.lock);
    if (block)
        memory_wipe(block->chunk, *ptr, bytes);
    return block ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult alloc_pages(struct device_memory *device, const struct sim_memory_want *want,
                            uint64_t bytes, CUdeviceptr *ptr) {
    struct extent *extent = extent_new(EXTENT_LINEAR, device->physical);
    if (!extent)
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint64_t pages = pages_of(device, bytes);
    bool taken = want->managed
                     ? sim_frames_take_managed(sim_state, device->physical, pages, &extent->frames)
                     : sim_frames_take(sim_state, device->physical, pages, &extent->frames);
    if (!taken) {
        extent_free(extent);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    extent->bytes = bytes;
    extent->ctx = want->ctx;
    extent->id = memory_next_id();
    extent->managed = want->managed;
    extent->flags = want->flags;
    if (want->managed)
        touch_frames(device->physical, &extent->frames);
    if (!extent_place(extent, false)) {
        sim_frames_give(sim_state, device->physical, &extent->frames);
        extent_free(extent);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *ptr = extent->base;
    return CUDA_SUCCESS;
}

CUresult memory_alloc(const struct sim_memory_want *want, uint64_t bytes, CUdeviceptr *ptr) {
    struct device_memory *device = &sim_devices[want->ctx->physical];
    if (bytes <= device->small_limit)
        return alloc_small(device, want, bytes, ptr);
    return alloc_pages(device, want, bytes, ptr);
}

/* ---- Freeing ------------------------------------------------------------------------------- */

/* A wholly free page of the small heap goes back at once: a page counts from its first tenant to
 * its last. Under the heap's lock. */
static void drop_page(struct device_memory *device, struct extent *extent) {
    heap_remove(&device->small, extent);
    (void)extent_withdraw(extent);
    if (extent->share.nonce || device->spare) {
        extent_release(extent);
        return;
    }
    sim_frames_give(sim_state, device->physical, &extent->frames);
    device->spare = extent;
}

/* The live block at exactly that address. Under the heap's lock. */
static struct block *exact_small(CUdeviceptr ptr) {
    const struct extent *extent = extent_find(ptr); /* again, now that it cannot change */
    struct block *block = extent && extent->kind == EXTENT_SMALL ? heap_find(extent, ptr) : NULL;
    return block && block->address == ptr ? block : NULL;
}

/* `id` 0: cuMemFree; else the allocation whose free was queued. */
static CUresult free_small(struct device_memory *device, CUdeviceptr ptr, uint64_t id) {
    pthread_mutex_lock(&device->small.lock);
    struct block *block = exact_small(ptr);
    bool found = block && (id ? block->live.id == id : !(block->flags & BLOCK_FREEING));
    struct extent *extent = found ? block->chunk : NULL;
    if (found && (block->flags & BLOCK_MANAGED))
        managed_forget(block->live.id);
    if (found && heap_give(&device->small, block))
        drop_page(device, extent);
    pthread_mutex_unlock(&device->small.lock);
    return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult free_any(CUdeviceptr ptr) {
    struct extent *extent = extent_find(ptr);
    if (!extent)
        return CUDA_ERROR_INVALID_VALUE;
    struct device_memory *device = &sim_devices[extent->physical];
    switch (extent->kind) {
    case EXTENT_SMALL:
        sim_exec_drain(device->dev);
        return free_small(device, ptr, 0);
    case EXTENT_LINEAR:
        if (extent->base != ptr ||
            atomic_load_explicit(&extent->freeing, memory_order_relaxed)) /* only a claim */
            return CUDA_ERROR_INVALID_VALUE;
        sim_exec_drain(device->dev);
        if (!extent_withdraw(extent))
            return CUDA_ERROR_INVALID_VALUE;
        if (extent->managed)
            managed_forget(extent->id);
        extent_release(extent);
        return CUDA_SUCCESS;
    case EXTENT_POOL:
        return pool_free_now(extent, ptr);
    case EXTENT_GRAPH:
        return graph_free_now(extent, ptr);
    case EXTENT_IMPORT:
        return pool_drop_import(extent, ptr);
    case EXTENT_EXTERNAL:
        return external_free_now(extent, ptr);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* Queued in a stream. The allocation may be gone before, with its context: its id tells. */
struct queued_free {
    struct extent *extent; /* LINEAR; NULL: a small one */
    struct device_memory *device;
    CUdeviceptr ptr;
    uint64_t id;
};

static void free_arrived(void *argument) {
    struct queued_free *queued = argument;
    struct extent *extent = queued->extent;
    if (!extent)
        (void)free_small(queued->device, queued->ptr, queued->id);
    else if (extent_find(queued->ptr) == extent && extent->kind == EXTENT_LINEAR &&
             extent->id == queued->id && extent_withdraw(extent))
        extent_release(extent);
    free(queued);
}

/* Of two frees of one allocation, one wins. Returns its id, or 0. Relaxed: the exchange itself
 * decides, and nothing else is published by it. */
static uint64_t claim(struct device_memory *device, struct extent *extent, CUdeviceptr ptr) {
    if (extent->kind == EXTENT_LINEAR)
        return extent->base == ptr && !extent->managed &&
                       !atomic_exchange_explicit(&extent->freeing, true, memory_order_relaxed)
                   ? extent->id
                   : 0;
    pthread_mutex_lock(&device->small.lock);
    struct block *block = exact_small(ptr);
    uint64_t id = 0;
    if (block && !(block->flags & (BLOCK_FREEING | BLOCK_MANAGED))) {
        block->flags |= BLOCK_FREEING;
        id = block->live.id;
    }
    pthread_mutex_unlock(&device->small.lock);
    return id;
}

CUresult memory_free_later(struct extent *extent, CUdeviceptr ptr, void *stream) {
    struct device_memory *device = &sim_devices[extent->physical];
    bool whole = extent->kind == EXTENT_LINEAR;
    struct queued_free *queued = malloc(sizeof *queued);
    if (!queued)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *queued = (struct queued_free){whole ? extent : NULL, device, ptr, claim(device, extent, ptr)};
    if (!queued->id) {
        free(queued);
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = sim_stream_call(stream, free_arrived, queued);
    if (result == CUDA_SUCCESS)
        return result;
    if (whole) {
        atomic_store_explicit(&extent->freeing, false, memory_order_relaxed);
    } else {
        pthread_mutex_lock(&device->small.lock);
        exact_small(ptr)->flags &= ~(uint32_t)BLOCK_FREEING;
        pthread_mutex_unlock(&device->small.lock);
    }
    free(queued);
    return result;
}

static void free_small_of(struct device_memory *device, const struct sim_context *ctx) {
    pthread_mutex_lock(&device->small.lock);
    struct extent *next;
    for (struct extent *extent = device->small.chunks; extent; extent = next) {
        next = extent->chunk.after;
        for (uint32_t number = extent->chunk.first; number;) {
            struct block *block = heap_block(number);
            number = block->after;
            /* A free one behind it is joined to it when it goes; what follows that is live. */
            if (number && !heap_block(number)->bytes)
                number = heap_block(number)->after;
            if (block->bytes && block->live.ctx == ctx && heap_give(&device->small, block)) {
                drop_page(device, extent);
                break;
            }
        }
    }
    pthread_mutex_unlock(&device->small.lock);
}

/* ---- Calls --------------------------------------------------------------------------------- */

static CUresult alloc_call(CUdeviceptr *ptr, size_t bytes, bool managed, unsigned flags) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!ptr || !bytes)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_ALLOC);
    struct sim_memory_want want = {.ctx = ctx->owner, .managed = managed, .flags = flags};
    return memory_alloc(&want, bytes, ptr);
}

CUresult CUDAAPI cuMemAlloc_v2(CUdeviceptr *ptr, size_t bytes) {
    return alloc_call(ptr, bytes, false, 0);
}

CUresult CUDAAPI cuMemAllocManaged(CUdeviceptr *ptr, size_t bytes, unsigned flags) {
    if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)
        return sim_ready() ? sim_ready() : CUDA_ERROR_INVALID_VALUE;
    return alloc_call(ptr, bytes, true, flags);
}

CUresult CUDAAPI cuMemAllocPitch_v2(CUdeviceptr *ptr, size_t *pitch, size_t width, size_t height,
                                    unsigned element) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!pitch || !width || !height || (element != 4 && element != 8 && element != 16) ||
        width > SIZE_MAX - HEAP_UNIT)
        return CUDA_ERROR_INVALID_VALUE;
    size_t row = (width + HEAP_UNIT - 1) / HEAP_UNIT * HEAP_UNIT;
    if (height > SIZE_MAX / row)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = alloc_call(ptr, row * height, false, 0);
    if (result == CUDA_SUCCESS)
        *pitch = row;
    return result;
}

CUresult CUDAAPI cuMemFree_v2(CUdeviceptr ptr) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS || !ptr)
        return result;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_FREE);
    return free_any(ptr);
}

/* Looks for the dead at most once per tick of the coarse clock: this call is made often. */
static void look_around(void) {
    static _Atomic uint64_t last;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    uint64_t tick = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    uint64_t seen = atomic_load_explicit(&last, memory_order_relaxed);
    /* Relaxed: it only thins the looks out. */
    if (tick != seen && atomic_compare_exchange_strong_explicit(
                            &last, &seen, tick, memory_order_relaxed, memory_order_relaxed))
        (void)sim_state_sweep(sim_state, false);
}

CUresult CUDAAPI cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!free_bytes || !total)
        return CUDA_ERROR_INVALID_VALUE;
    sim_cost(ctx->dev, SIM_COST_MEM_INFO);
    look_around();
    const struct device_memory *device = &sim_devices[ctx->physical];
    const struct sim_device_state *shared = &sim_state->header->devices[ctx->physical];
    *free_bytes = atomic_load_explicit(&shared->free_frames, memory_order_relaxed)
                  << device->page_shift;
    *total = (size_t)shared->frame_count << device->page_shift;
    struct sim_limit limit;
    uint64_t used;
    if (sim_limit_own(sim_state, ctx->physical, &limit, &used)) {
        uint64_t left = limit.hard > used ? limit.hard - used : 0;
        *total = limit.hard;
        *free_bytes = *free_bytes < left ? *free_bytes : left;
    }
    return CUDA_SUCCESS;
}

/* For programs that were built before there was more than 4 GiB. */
static unsigned int as_much_as_fits(size_t bytes) {
    return bytes > UINT32_MAX ? UINT32_MAX : (unsigned int)bytes;
}

CUresult CUDAAPI cuMemGetInfo(unsigned int *free_bytes, unsigned int *total) {
    size_t wide_free, wide_total;
    CUresult result = cuMemGetInfo_v2(free_bytes ? &wide_free : NULL, total ? &wide_total : NULL);
    if (result != CUDA_SUCCESS)
        return result;
    *free_bytes = as_much_as_fits(wide_free);
    *total = as_much_as_fits(wide_total);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr ptr) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_memory_info info;
    if (!sim_memory_find(ptr, &info))
        return CUDA_ERROR_NOT_FOUND;
    if (base)
        *base = info.base;
    if (bytes)
        *bytes = info.bytes;
    return CUDA_SUCCESS;
}

/* ---- For contexts -------------------------------------------------------------------------- */

CUresult memory_charge(uint32_t physical, struct sim_frames *charge, uint64_t pages) {
    if (pages > charge->frames) {
        struct sim_frames more;
        if (!sim_frames_take(sim_state, physical, pages - charge->frames, &more))
            return CUDA_ERROR_OUT_OF_MEMORY;
        if (!sim_frames_append(charge, &more)) {
            sim_frames_give(sim_state, physical, &more);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    } else if (pages < charge->frames) {
        struct sim_frames less = {0};
        if (!sim_frames_cut(charge, charge->frames - pages, &less))
            sim_log("device %u: pages of a context are kept: no host memory", physical);
        sim_frames_give(sim_state, physical, &less);
    }
    return CUDA_SUCCESS;
}

void memory_context_fini(struct sim_context *ctx) {
    ipc_context_fini(ctx);
    array_context_fini(ctx);
    free_small_of(&sim_devices[ctx->physical], ctx);
    struct extent *next;
    for (struct extent *extent = extent_withdraw_context(ctx); extent; extent = next) {
        next = extent->next;
        switch (extent->kind) {
        case EXTENT_HOST:
        case EXTENT_REGISTERED:
        case EXTENT_MODULE:
            host_gone(extent);
            break;
        case EXTENT_EXTERNAL:
            external_gone(extent);
            break;
        default:
            extent_release(extent);
        }
    }
}
