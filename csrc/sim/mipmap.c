/* Mipmapped arrays, and arrays whose memory is mapped later. */
#include "array.h"

#include "exec.h"
#include "vmm.h"

#include <stdlib.h>
#include <string.h>

struct sim_mipmap *mipmap_get(CUmipmappedArray handle) {
    return sim_handle_check(SIM_HANDLE_MIPMAP, handle) ? (struct sim_mipmap *)handle : NULL;
}

static unsigned most_levels(const CUDA_ARRAY3D_DESCRIPTOR *desc) {
    size_t longest = desc->Width > desc->Height ? desc->Width : desc->Height;
    if (!array_layered(desc) && desc->Depth > longest)
        longest = desc->Depth;
    unsigned levels = 1;
    while (longest >>= 1)
        levels++;
    return levels;
}

static size_t halved(size_t length, unsigned level) {
    size_t there = length >> level;
    return length && !there ? 1 : there;
}

CUresult cuMipmappedArrayCreate(CUmipmappedArray *out, const CUDA_ARRAY3D_DESCRIPTOR *desc,
                                unsigned count) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !desc || !count)
        return CUDA_ERROR_INVALID_VALUE;
    result = array_check(ctx->dev, desc);
    if (result == CUDA_SUCCESS)
        result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_ALLOC);
    unsigned levels = most_levels(desc) < count ? most_levels(desc) : count;
    struct sim_mipmap *mipmap = calloc(1, sizeof *mipmap + levels * sizeof mipmap->levels[0]);
    if (!mipmap)
        return CUDA_ERROR_OUT_OF_MEMORY;
    mipmap->desc = *desc;
    mipmap->memory.mipmap = true;
    mipmap->memory.object = mipmap;
    for (unsigned l = 0; l < levels; l++) {
        CUDA_ARRAY3D_DESCRIPTOR level = *desc;
        level.Width = halved(desc->Width, l);
        level.Height = halved(desc->Height, l);
        level.Depth = array_layered(desc) ? desc->Depth : halved(desc->Depth, l);
        array_lay_out(&mipmap->levels[l], ctx->dev, &level);
        mipmap->levels[l].ctx = ctx->owner;
        mipmap->levels[l].mipmap = mipmap;
        mipmap->levels[l].memory = &mipmap->memory;
        mipmap->memory.bytes += mipmap->levels[l].bytes;
    }
    bool listed = sim_handle_add(SIM_HANDLE_MIPMAP, mipmap);
    for (unsigned l = 0; listed && l < levels; l++) {
        listed = sim_handle_add(SIM_HANDLE_ARRAY, &mipmap->levels[l]);
        mipmap->level_count += listed;
    }
    result =
        listed ? array_get_memory(&mipmap->memory, ctx, desc->Flags) : CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS) {
        (void)sim_handle_drop(SIM_HANDLE_MIPMAP, mipmap);
        for (unsigned l = 0; l < mipmap->level_count; l++)
            (void)sim_handle_drop(SIM_HANDLE_ARRAY, &mipmap->levels[l]);
        free(mipmap);
        return result;
    }
    CUdeviceptr at = mipmap->memory.extent ? mipmap->memory.extent->base : 0;
    for (unsigned l = 0; at && l < levels; at += mipmap->levels[l].bytes, l++)
        mipmap->levels[l].base = at;
    *out = (CUmipmappedArray)mipmap;
    return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray handle) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_mipmap *mipmap = mipmap_get(handle);
    if (!mipmap)
        return CUDA_ERROR_INVALID_HANDLE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_exec_drain(mipmap->levels[0].dev);
    if (!sim_handle_drop(SIM_HANDLE_MIPMAP, mipmap))
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&arrays_lock);
    array_end(&mipmap->memory);
    pthread_mutex_unlock(&arrays_lock);
    return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayGetLevel(CUarray *level, CUmipmappedArray handle, unsigned index) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_mipmap *mipmap = mipmap_get(handle);
    if (!mipmap)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!level || index >= mipmap->level_count)
        return CUDA_ERROR_INVALID_VALUE;
    *level = (CUarray)&mipmap->levels[index];
    return CUDA_SUCCESS;
}

/* ---- What is mapped later ------------------------------------------------------------------ */

static CUresult requirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *out, unsigned flags, uint64_t bytes,
                             CUdevice array_dev, CUdevice dev) {
    if (!out || !(flags & CUDA_ARRAY3D_DEFERRED_MAPPING))
        return CUDA_ERROR_INVALID_VALUE;
    if (dev != array_dev)
        return CUDA_ERROR_INVALID_DEVICE;
    const struct device_memory *device = device_memory_of(dev);
    *out = (CUDA_ARRAY_MEMORY_REQUIREMENTS){.size = pages_of(device, bytes) << device->page_shift,
                                            .alignment = device->page};
    return CUDA_SUCCESS;
}

CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *out, CUarray handle,
                                      CUdevice dev) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_array *array = sim_array_get(handle);
    return array ? requirements(out, array->desc.Flags, array->memory->bytes, array->dev, dev)
                 : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *out,
                                               CUmipmappedArray handle, CUdevice dev) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_mipmap *mipmap = mipmap_get(handle);
    return mipmap ? requirements(out, mipmap->desc.Flags, mipmap->memory.bytes,
                                 mipmap->levels[0].dev, dev)
                  : CUDA_ERROR_INVALID_HANDLE;
}

enum { TILE_BYTES = 65536 };

/* The standard shapes of a 64 KiB tile, by the logarithm of the element's bytes. */
static const struct {
    unsigned width, height, depth;
} flat_tiles[] = {{256, 256, 1}, {256, 128, 1}, {128, 128, 1}, {128, 64, 1}, {64, 64, 1}},
  deep_tiles[] = {{64, 32, 32}, {32, 32, 32}, {32, 32, 16}, {32, 16, 16}, {16, 16, 16}};

static CUresult sparse_properties(CUDA_ARRAY_SPARSE_PROPERTIES *out, const struct sim_array *levels,
                                  unsigned count) {
    const CUDA_ARRAY3D_DESCRIPTOR *desc = &levels[0].desc;
    if (!out || !(desc->Flags & CUDA_ARRAY3D_SPARSE))
        return CUDA_ERROR_INVALID_VALUE;
    unsigned size = (unsigned)__builtin_ctzll(levels[0].element_bytes);
    bool deep = !array_layered(desc) && desc->Depth > 1;
    *out = (CUDA_ARRAY_SPARSE_PROPERTIES){0};
    out->tileExtent.width = deep ? deep_tiles[size].width : flat_tiles[size].width;
    out->tileExtent.height = deep ? deep_tiles[size].height : flat_tiles[size].height;
    out->tileExtent.depth = deep ? deep_tiles[size].depth : flat_tiles[size].depth;
    unsigned tail = 0;
    while (tail < count && levels[tail].width >= out->tileExtent.width &&
           levels[tail].height >= out->tileExtent.height)
        tail++;
    out->miptailFirstLevel = tail;
    out->miptailSize = tail < count ? TILE_BYTES * (array_layered(desc) ? levels[0].depth : 1) : 0;
    return CUDA_SUCCESS;
}

CUresult cuArrayGetSparseProperties(CUDA_ARRAY_SPARSE_PROPERTIES *out, CUarray handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_array *array = sim_array_get(handle);
    return array ? sparse_properties(out, array, 1) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuMipmappedArrayGetSparseProperties(CUDA_ARRAY_SPARSE_PROPERTIES *out,
                                             CUmipmappedArray handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_mipmap *mipmap = mipmap_get(handle);
    return mipmap ? sparse_properties(out, mipmap->levels, mipmap->level_count)
                  : CUDA_ERROR_INVALID_HANDLE;
}

/* ---- Mapping ------------------------------------------------------------------------------- */

static struct sim_array_memory *memory_of(const CUarrayMapInfo *info) {
    if (info->resourceType == CU_RESOURCE_TYPE_ARRAY) {
        struct sim_array *array = sim_array_get(info->resource.array);
        return array ? array->memory : NULL;
    }
    if (info->resourceType == CU_RESOURCE_TYPE_MIPMAPPED_ARRAY) {
        struct sim_mipmap *mipmap = mipmap_get(info->resource.mipmap);
        return mipmap ? &mipmap->memory : NULL;
    }
    return NULL;
}

static bool same_place(const CUarrayMapInfo *one, const CUarrayMapInfo *other) {
    return one->subresourceType == other->subresourceType &&
           memcmp(&one->subresource, &other->subresource, sizeof one->subresource) == 0;
}

/* What was mapped at the place goes; what is to be mapped comes. Under arrays_lock. */
static CUresult map_tile(const CUarrayMapInfo *info) {
    struct sim_array_memory *memory = memory_of(info);
    if (!memory || memory->extent || info->flags ||
        (info->memOperationType != CU_MEM_OPERATION_TYPE_MAP &&
         info->memOperationType != CU_MEM_OPERATION_TYPE_UNMAP) ||
        info->memHandleType != CU_MEM_HANDLE_TYPE_GENERIC)
        return CUDA_ERROR_INVALID_VALUE;
    struct tile *tile = NULL;
    if (info->memOperationType == CU_MEM_OPERATION_TYPE_MAP) {
        tile = malloc(sizeof *tile);
        if (!tile)
            return CUDA_ERROR_OUT_OF_MEMORY;
        pthread_mutex_lock(&vmm_lock);
        struct vmm *vmm = vmm_get(info->memHandle.memHandle);
        bool fits = vmm && !vmm->multicast && info->offset < vmm->bytes && info->deviceBitMask;
        if (fits)
            vmm->maps++;
        pthread_mutex_unlock(&vmm_lock);
        if (!fits) {
            free(tile);
            return CUDA_ERROR_INVALID_VALUE;
        }
        *tile = (struct tile){.memory = vmm, .where = *info};
    }
    for (struct tile **link = &memory->tiles; *link;) {
        if (same_place(&(*link)->where, info))
            array_drop_tile(link);
        else
            link = &(*link)->next;
    }
    if (tile) {
        tile->next = memory->tiles;
        memory->tiles = tile;
    }
    return CUDA_SUCCESS;
}

/* The memory is kept from now on, whatever the stream still does: only the accounting shows. What
 * such arrays contain is not simulated. */
static CUresult map_array(const CUarrayMapInfo *list, unsigned count, CUstream handle,
                          bool per_thread) {
    struct sim_context *ctx;
    struct sim_stream *stream;
    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        result = sim_stream_resolve(ctx, handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (!list || !count)
        return CUDA_ERROR_INVALID_VALUE;
    if (sim_stream_capturing(stream))
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    pthread_mutex_lock(&arrays_lock);
    for (unsigned i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = map_tile(&list[i]);
    pthread_mutex_unlock(&arrays_lock);
    return result;
}

CUresult cuMemMapArrayAsync(CUarrayMapInfo *list, unsigned count, CUstream stream) {
    return map_array(list, count, stream, false);
}
CUresult cuMemMapArrayAsync_ptsz(CUarrayMapInfo *list, unsigned count, CUstream stream) {
    return map_array(list, count, stream, true);
}
