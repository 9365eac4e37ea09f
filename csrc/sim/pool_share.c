/* Pools and their allocations in other processes. */
#include "pool.h"

#include "exec.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT_MAGIC UINT64_C(0x4c4f4f502d5153) /* "SQ-POOL" read as little-endian */

/* What CUmemPoolPtrExportData holds: an allocation as a part of a chunk. */
struct exported {
    uint64_t magic;
    uint8_t id[16];              /* of the state */
    struct sim_share_name chunk; /* the memory */
    uint64_t pool;               /* nonce of the pool's share */
    uint64_t offset, bytes;
};
_Static_assert(sizeof(struct exported) <= sizeof(CUmemPoolPtrExportData), "it has 64 bytes");

/* A pointer that was imported, mapped apart from the rest of its chunk. */
struct import {
    struct pool *pool;
    CUdeviceptr map;
    uint64_t map_bytes;
};

/* ---- The pool ------------------------------------------------------------------------------ */

CUresult cuMemPoolExportToShareableHandle(void *out, CUmemoryPool handle,
                                          CUmemAllocationHandleType type,
                                          unsigned long long flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    if (!out || !pool || pool->imported || flags ||
        type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
        !(pool->props.handleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&pool->heap.lock);
    uint32_t detail[4] = {pool->physical};
    bool shared = pool->share.nonce ||
                  share_make(SIM_DEVICES_MAX, SIM_SHARE_POOL, NULL, 0, detail, &pool->share);
    pthread_mutex_unlock(&pool->heap.lock);
    if (!shared)
        return CUDA_ERROR_OUT_OF_MEMORY;
    int descriptor = sim_share_export(sim_state, &pool->share);
    if (descriptor < 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    *(int *)out = descriptor;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool *out, void *handle,
                                            CUmemAllocationHandleType type,
                                            unsigned long long flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_share_name name;
    if (!out || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
        !sim_share_identify(sim_state, (int)(intptr_t)handle, &name) || !share_acquire(&name))
        return CUDA_ERROR_INVALID_VALUE;
    const struct sim_share *record = sim_share_record(sim_state, &name);
    CUdevice dev = record->kind == SIM_SHARE_POOL ? sim_device_ordinal(record->detail[0]) : -1;
    if (dev < 0) {
        result =
            record->kind == SIM_SHARE_POOL ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_INVALID_VALUE;
        share_release(&name);
        return result;
    }
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = dev}};
    struct pool *pool;
    result = pool_make(&props, false, &pool);
    if (result != CUDA_SUCCESS) {
        share_release(&name);
        return result;
    }
    pool->imported = true;
    pool->share = name;
    *out = (CUmemoryPool)pool;
    return CUDA_SUCCESS;
}

/* ---- Its allocations ----------------------------------------------------------------------- */

CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData *out, CUdeviceptr ptr) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct heap *heap;
    struct block *block = out ? block_lock(ptr, &heap) : NULL;
    if (!block)
        return CUDA_ERROR_INVALID_VALUE;
    struct extent *chunk = block->chunk;
    struct pool *pool = chunk->owner;
    if (chunk->kind != EXTENT_POOL || block->address != ptr || !pool->share.nonce ||
        pool->imported) {
        pthread_mutex_unlock(&heap->lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    bool shared = chunk->share.nonce || share_make(chunk->physical, SIM_SHARE_IPC, &chunk->frames,
                                                   chunk->span, NULL, &chunk->share);
    struct exported data = {.magic = EXPORT_MAGIC,
                            .chunk = chunk->share,
                            .pool = pool->share.nonce,
                            .offset = ptr - chunk->base,
                            .bytes = block->bytes};
    pthread_mutex_unlock(&heap->lock);
    if (!shared)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(data.id, sim_state->header->id, sizeof data.id);
    memset(out, 0, sizeof *out);
    memcpy(out, &data, sizeof data);
    return CUDA_SUCCESS;
}

/* Maps the pages around the allocation; the share is held. */
static CUresult map_import(struct pool *pool, const struct exported *data, CUdeviceptr *ptr) {
    const struct device_memory *device = &sim_devices[pool->physical];
    uint64_t skip = data->offset >> device->page_shift;
    uint64_t pages = ((data->offset + data->bytes - 1) >> device->page_shift) - skip + 1;
    struct import *import = calloc(1, sizeof *import);
    struct extent *extent = extent_new(EXTENT_IMPORT, pool->physical);
    if (!import || !extent || !sim_share_frames(sim_state, &data->chunk, &extent->frames) ||
        skip + pages > extent->frames.frames)
        goto failed;
    import->pool = pool;
    import->map_bytes = pages << device->page_shift;
    import->map = addresses_reserve(import->map_bytes, device->page, 0);
    if (!import->map)
        goto failed;
    if (!addresses_map(import->map, pool->physical, &extent->frames, skip, pages)) {
        addresses_release(import->map, import->map_bytes);
        goto failed;
    }
    uint64_t inside = data->offset & (device->page - 1);
    extent->base = import->map + inside;
    extent->span = extent->bytes = data->bytes;
    extent->backing_offset = (skip << device->page_shift) + inside;
    extent->share = data->chunk;
    extent->id = memory_next_id();
    extent->owner = import;
    extent->pool = (CUmemoryPool)pool;
    extent_publish(extent);
    *ptr = extent->base;
    return CUDA_SUCCESS;
failed:
    free(import);
    if (extent)
        extent_free(extent);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemPoolImportPointer(CUdeviceptr *ptr, CUmemoryPool handle, CUmemPoolPtrExportData *in) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pool *pool = pool_get(handle);
    struct exported data;
    if (!ptr || !in || !pool || !pool->imported)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&data, in, sizeof data);
    if (data.magic != EXPORT_MAGIC || !data.bytes || data.pool != pool->share.nonce ||
        memcmp(data.id, sim_state->header->id, sizeof data.id) != 0 ||
        data.chunk.device != pool->physical || !share_acquire(&data.chunk))
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t span = sim_share_record(sim_state, &data.chunk)->bytes;
    result = data.offset < span && data.bytes <= span - data.offset ? map_import(pool, &data, ptr)
                                                                    : CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS) {
        share_release(&data.chunk);
        return result;
    }
    pthread_mutex_lock(&pool->heap.lock);
    pool->imports++;
    pthread_mutex_unlock(&pool->heap.lock);
    return CUDA_SUCCESS;
}

static void end_import(struct extent *extent) {
    struct import *import = extent->owner;
    addresses_release(import->map, import->map_bytes);
    share_release(&extent->share);
    pool_import_gone(import->pool);
    free(import);
    extent_free(extent);
}

CUresult pool_drop_import(struct extent *extent, CUdeviceptr ptr) {
    if (extent->base != ptr || !extent->owner)
        return CUDA_ERROR_INVALID_VALUE;
    sim_exec_drain(sim_devices[extent->physical].dev);
    if (!extent_withdraw(extent))
        return CUDA_ERROR_INVALID_VALUE;
    end_import(extent);
    return CUDA_SUCCESS;
}

static void import_arrived(void *argument) { end_import(argument); }

CUresult pool_drop_import_later(struct extent *extent, CUdeviceptr ptr, void *stream) {
    if (extent->base != ptr || !extent->owner || !extent_withdraw(extent))
        return CUDA_ERROR_INVALID_VALUE;
    /* Queued work finds the addresses gone from the books but still mapped. */
    CUresult result = sim_stream_call(stream, import_arrived, extent);
    if (result != CUDA_SUCCESS)
        extent_publish(extent);
    return result;
}
