/* What an address means: the look-ups that copies, launches and attributes make. */
#include "memory.h"

#include <string.h>
#include <sys/mman.h>

struct block *block_lock(CUdeviceptr address, struct heap **heap) {
    struct extent *extent = extent_find(address);
    struct heap *candidate = extent ? extent->heap : NULL;
    if (!candidate)
        return NULL;
    pthread_mutex_lock(&candidate->lock);
    /* Again: until now the chunk could have been given back. */
    extent = extent_find(address);
    struct block *block = extent && extent->heap == candidate ? heap_find(extent, address) : NULL;
    if (!block) {
        pthread_mutex_unlock(&candidate->lock);
        return NULL;
    }
    *heap = candidate;
    return block;
}

static bool find_block(CUdeviceptr ptr, struct sim_memory_info *info) {
    struct heap *heap;
    struct block *block = block_lock(ptr, &heap);
    if (!block)
        return false;
    const struct extent *extent = block->chunk;
    bool pool = extent->kind == EXTENT_POOL;
    bool managed = block->flags & BLOCK_MANAGED;
    *info = (struct sim_memory_info){
        .kind = pool      ? SIM_MEMORY_POOL
                : managed ? SIM_MEMORY_MANAGED
                          : SIM_MEMORY_LINEAR,
        .dev =
            extent->physical < SIM_DEVICES_MAX ? sim_devices[extent->physical].dev : CU_DEVICE_CPU,
        .base = block->address,
        .bytes = block->bytes,
        .ctx = pool ? NULL : block->live.ctx,
        .id = block->live.id,
        .flags = block->flags >> BLOCK_ATTACH_SHIFT,
        .pool = pool ? extent->owner : NULL,
    };
    pthread_mutex_unlock(&heap->lock);
    /* Behind the end as asked for there is padding, which is nobody's. */
    return ptr - info->base < info->bytes;
}

bool sim_memory_find(CUdeviceptr ptr, struct sim_memory_info *info) {
    const struct extent *extent = extent_find(ptr);
    if (!extent || extent->kind == EXTENT_ARRAY)
        return false;
    if (extent->heap)
        return find_block(ptr, info);
    static const enum sim_memory_kind kinds[] = {
        [EXTENT_LINEAR] = SIM_MEMORY_LINEAR,
        [EXTENT_GRAPH] = SIM_MEMORY_GRAPH,
        [EXTENT_VMM] = SIM_MEMORY_VMM,
        [EXTENT_IPC] = SIM_MEMORY_LINEAR,
        [EXTENT_IMPORT] = SIM_MEMORY_POOL,
        [EXTENT_MODULE] = SIM_MEMORY_MODULE,
        [EXTENT_EXTERNAL] = SIM_MEMORY_LINEAR,
        [EXTENT_HOST] = SIM_MEMORY_HOST,
        [EXTENT_REGISTERED] = SIM_MEMORY_REGISTERED,
    };
    *info = (struct sim_memory_info){
        .kind = extent->managed ? SIM_MEMORY_MANAGED : kinds[extent->kind],
        .dev = extent->kind == EXTENT_MODULE        ? extent->ctx->dev
               : extent->physical < SIM_DEVICES_MAX ? sim_devices[extent->physical].dev
                                                    : CU_DEVICE_CPU,
        .base = extent->base,
        .bytes = extent->bytes,
        .ctx = extent->ctx,
        .id = extent->id,
        .flags = extent->flags,
        .pool = extent->pool,
    };
    return ptr - info->base < info->bytes;
}

static bool accessible(const struct extent *extent, bool write) {
    if (!extent->backed)
        return false;
    return extent->kind != EXTENT_VMM || (write ? extent->writable : extent->readable) != 0;
}

CUresult sim_memory_check(CUdeviceptr ptr, size_t bytes, bool write) {
    if (ptr + bytes < ptr)
        return CUDA_ERROR_INVALID_VALUE;
    while (bytes) {
        const struct extent *extent = extent_find(ptr);
        struct sim_memory_info info;
        if (!extent || !accessible(extent, write) || !sim_memory_find(ptr, &info))
            return CUDA_ERROR_INVALID_VALUE;
        size_t here = info.bytes - (ptr - info.base);
        if (here >= bytes)
            return CUDA_SUCCESS;
        /* Only mappings are neighbours on purpose. */
        if (info.kind != SIM_MEMORY_VMM)
            return CUDA_ERROR_INVALID_VALUE;
        ptr += here;
        bytes -= here;
    }
    return CUDA_SUCCESS;
}

void memory_wipe(const struct extent *extent, CUdeviceptr ptr, uint64_t bytes) {
    if (extent->physical >= SIM_DEVICES_MAX)
        return;
    _Atomic uint32_t *words = sim_frame_words(sim_state, extent->physical);
    uint64_t page = sim_devices[extent->physical].page;
    uint64_t offset = ptr - extent->base, end = offset + bytes;

    while (offset < end) {
        uint64_t stop = (offset & ~(page - 1)) + page;
        if (stop > end)
            stop = end;
        /* Relaxed: what was written before is ordered by the block's way through the heap. */
        uint32_t word =
            atomic_load_explicit(&words[extent_frame(extent, offset)], memory_order_relaxed);
        void *from = (void *)(extent->base + offset);
        /* A whole page is dropped, which is faster than writing it. */
        if ((word & SIM_FRAME_TOUCHED) &&
            (stop - offset < page || madvise(from, page, MADV_REMOVE) != 0))
            memset(from, 0, stop - offset);
        offset = stop;
    }
}

bool sim_memory_touch(CUdeviceptr ptr, size_t bytes) {
    while (bytes) {
        const struct extent *extent = extent_find(ptr);
        if (!extent) {
            /* Ordinary host memory, unless it is a hole in the window. */
            uint64_t offset = ptr - (uintptr_t)sim_state->window;
            return offset >> sim_state->window_shift >= sim_state->node->device_count;
        }
        size_t here = extent->span - (ptr - extent->base);
        if (here > bytes)
            here = bytes;
        if (!extent->backed)
            return false;
        if (extent->physical < SIM_DEVICES_MAX && extent_frames(extent)->frames) {
            _Atomic uint32_t *words = sim_frame_words(sim_state, extent->physical);
            uint64_t page = sim_devices[extent->physical].page;
            uint64_t offset = ptr - extent->base;
            if (extent->in_window) {
                uint32_t first = sim_frames_runs(&extent->frames)[0].first;
                for (uint64_t at = offset & ~(page - 1); at < offset + here; at += page)
                    sim_frame_touch(
                        &words[first + (at >> sim_devices[extent->physical].page_shift)]);
            } else {
                for (uint64_t at = offset & ~(page - 1); at < offset + here; at += page)
                    sim_frame_touch(&words[extent_frame(extent, at)]);
            }
        }
        ptr += here;
        bytes -= here;
    }
    return true;
}
