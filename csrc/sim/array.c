/* CUDA arrays: their layout, which is row by row here, and their memory. */
#include "array.h"

#include "exec.h"
#include "vmm.h"

#include <stdlib.h>
#include <string.h>

enum { ROW_ALIGN = 64, ROWS_ALIGN = 8 };

struct own_array {
    struct sim_array array; /* first: what CUarray points to */
    struct sim_array_memory memory;
};

pthread_mutex_t arrays_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_array_memory *all;

struct sim_array *sim_array_get(CUarray handle) {
    return sim_handle_check(SIM_HANDLE_ARRAY, handle) ? (struct sim_array *)handle : NULL;
}

/* ---- Layout -------------------------------------------------------------------------------- */

/* Bytes of an element, 0 for what is not a format here; *block: edge of a compressed block. */
static size_t element_bytes(CUarray_format format, unsigned channels, unsigned *block) {
    *block = 1;
    bool counted = channels == 1 || channels == 2 || channels == 4;
    switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return counted ? channels : 0;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return counted ? 2u * channels : 0;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return counted ? 4u * channels : 0;
    case CU_AD_FORMAT_UNORM_INT8X1:
    case CU_AD_FORMAT_SNORM_INT8X1:
        return channels == 1 ? 1 : 0;
    case CU_AD_FORMAT_UNORM_INT8X2:
    case CU_AD_FORMAT_SNORM_INT8X2:
    case CU_AD_FORMAT_UNORM_INT16X1:
    case CU_AD_FORMAT_SNORM_INT16X1:
        return counted ? 2 : 0;
    case CU_AD_FORMAT_UNORM_INT8X4:
    case CU_AD_FORMAT_SNORM_INT8X4:
    case CU_AD_FORMAT_UNORM_INT16X2:
    case CU_AD_FORMAT_SNORM_INT16X2:
    case CU_AD_FORMAT_UNORM_INT_101010_2:
        return counted ? 4 : 0;
    case CU_AD_FORMAT_UNORM_INT16X4:
    case CU_AD_FORMAT_SNORM_INT16X4:
        return channels == 4 ? 8 : 0;
    case CU_AD_FORMAT_BC1_UNORM:
    case CU_AD_FORMAT_BC1_UNORM_SRGB:
    case CU_AD_FORMAT_BC4_UNORM:
    case CU_AD_FORMAT_BC4_SNORM:
        *block = 4;
        return 8;
    case CU_AD_FORMAT_BC2_UNORM:
    case CU_AD_FORMAT_BC2_UNORM_SRGB:
    case CU_AD_FORMAT_BC3_UNORM:
    case CU_AD_FORMAT_BC3_UNORM_SRGB:
    case CU_AD_FORMAT_BC5_UNORM:
    case CU_AD_FORMAT_BC5_SNORM:
    case CU_AD_FORMAT_BC6H_UF16:
    case CU_AD_FORMAT_BC6H_SF16:
    case CU_AD_FORMAT_BC7_UNORM:
    case CU_AD_FORMAT_BC7_UNORM_SRGB:
        *block = 4;
        return 16;
    default:
        return 0;
    }
}

/* Planar, semi-planar and packed formats of video. */
static bool is_video(CUarray_format format) {
    return (format >= CU_AD_FORMAT_UINT8_PACKED_422 && format <= CU_AD_FORMAT_UINT16_PLANAR_444) ||
           (format >= CU_AD_FORMAT_P010 && format <= CU_AD_FORMAT_YUV444_16bit_SemiPlanar);
}

bool array_layered(const CUDA_ARRAY3D_DESCRIPTOR *desc) {
    return desc->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP);
}

static size_t limit(CUdevice dev, CUdevice_attribute attribute) {
    int value = 0;
    (void)sim_device_attribute(dev, attribute, &value);
    return (size_t)value;
}

static bool fits(CUdevice dev, const CUDA_ARRAY3D_DESCRIPTOR *desc) {
    if (desc->Flags & CUDA_ARRAY3D_CUBEMAP) {
        size_t layers = limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS);
        bool many = desc->Flags & CUDA_ARRAY3D_LAYERED;
        return desc->Width == desc->Height &&
               desc->Width <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH) &&
               (many ? desc->Depth && desc->Depth % 6 == 0 && desc->Depth <= layers
                     : desc->Depth == 6);
    }
    if (desc->Flags & CUDA_ARRAY3D_LAYERED)
        return desc->Depth &&
               desc->Depth <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS) &&
               desc->Width <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH) &&
               desc->Height <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT);
    if (desc->Depth)
        return desc->Height &&
               desc->Width <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH) &&
               desc->Height <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT) &&
               desc->Depth <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH);
    if (desc->Height)
        return desc->Width <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH) &&
               desc->Height <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT);
    return desc->Width <= limit(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH);
}

CUresult array_check(CUdevice dev, const CUDA_ARRAY3D_DESCRIPTOR *desc) {
    const unsigned known = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST | CUDA_ARRAY3D_CUBEMAP |
                           CUDA_ARRAY3D_TEXTURE_GATHER | CUDA_ARRAY3D_DEPTH_TEXTURE |
                           CUDA_ARRAY3D_COLOR_ATTACHMENT | CUDA_ARRAY3D_SPARSE |
                           CUDA_ARRAY3D_DEFERRED_MAPPING | CUDA_ARRAY3D_VIDEO_ENCODE_DECODE;
    unsigned block;
    if (!desc->Width || (desc->Flags & ~known) ||
        ((desc->Flags & CUDA_ARRAY3D_SPARSE) && (desc->Flags & CUDA_ARRAY3D_DEFERRED_MAPPING)))
        return CUDA_ERROR_INVALID_VALUE;
    if (!element_bytes(desc->Format, desc->NumChannels, &block))
        return is_video(desc->Format) ? sim_unsupported("arrays of video formats")
                                      : CUDA_ERROR_INVALID_VALUE;
    return fits(dev, desc) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

void array_lay_out(struct sim_array *array, CUdevice dev, const CUDA_ARRAY3D_DESCRIPTOR *desc) {
    unsigned block;
    size_t element = element_bytes(desc->Format, desc->NumChannels, &block);
    size_t columns = (desc->Width + block - 1) / block;
    size_t rows = desc->Height ? (desc->Height + block - 1) / block : 1;
    size_t padded = desc->Height ? (rows + ROWS_ALIGN - 1) / ROWS_ALIGN * ROWS_ALIGN : 1;
    *array = (struct sim_array){.dev = dev, .desc = *desc, .element_bytes = element};
    array->width = columns;
    array->height = rows;
    array->depth = desc->Depth ? desc->Depth : 1;
    array->row_bytes = columns * element;
    array->pitch = (array->row_bytes + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    array->slice_bytes = array->pitch * padded;
    array->bytes = array->slice_bytes * array->depth;
}

/* ---- Memory -------------------------------------------------------------------------------- */

CUresult array_get_memory(struct sim_array_memory *memory, struct sim_context *ctx,
                          unsigned flags) {
    memory->ctx = ctx->owner;
    if (!(flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING))) {
        struct device_memory *device = &sim_devices[ctx->physical];
        struct extent *extent = extent_new(EXTENT_ARRAY, ctx->physical);
        if (!extent)
            return CUDA_ERROR_OUT_OF_MEMORY;
        if (!sim_frames_take(sim_state, ctx->physical, pages_of(device, memory->bytes),
                             &extent->frames)) {
            extent_free(extent);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        extent->ctx = ctx->owner;
        extent->bytes = memory->bytes;
        if (!extent_place(extent, false)) {
            sim_frames_give(sim_state, ctx->physical, &extent->frames);
            extent_free(extent);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        memory->extent = extent;
    }
    pthread_mutex_lock(&arrays_lock);
    memory->next = all;
    memory->from = &all;
    if (memory->next)
        memory->next->from = &memory->next;
    all = memory;
    pthread_mutex_unlock(&arrays_lock);
    return CUDA_SUCCESS;
}

void array_drop_tile(struct tile **link) {
    struct tile *tile = *link;
    *link = tile->next;
    pthread_mutex_lock(&vmm_lock);
    tile->memory->maps--;
    vmm_settle(tile->memory);
    pthread_mutex_unlock(&vmm_lock);
    free(tile);
}

void array_end(struct sim_array_memory *memory) {
    *memory->from = memory->next;
    if (memory->next)
        memory->next->from = memory->from;
    while (memory->tiles)
        array_drop_tile(&memory->tiles);
    if (memory->extent) {
        (void)extent_withdraw(memory->extent);
        extent_release(memory->extent);
    }
    if (memory->mipmap) {
        struct sim_mipmap *mipmap = memory->object;
        for (unsigned l = 0; l < mipmap->level_count; l++)
            (void)sim_handle_drop(SIM_HANDLE_ARRAY, &mipmap->levels[l]);
    }
    free(memory->object);
}

void array_context_fini(const struct sim_context *ctx) {
    pthread_mutex_lock(&arrays_lock);
    struct sim_array_memory *next;
    for (struct sim_array_memory *memory = all; memory; memory = next) {
        next = memory->next;
        if (memory->ctx == ctx &&
            sim_handle_drop(memory->mipmap ? SIM_HANDLE_MIPMAP : SIM_HANDLE_ARRAY, memory->object))
            array_end(memory);
    }
    pthread_mutex_unlock(&arrays_lock);
}

/* ---- Arrays -------------------------------------------------------------------------------- */

static CUresult create(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR *desc) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !desc)
        return CUDA_ERROR_INVALID_VALUE;
    result = array_check(ctx->dev, desc);
    if (result == CUDA_SUCCESS)
        result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_ALLOC);
    struct own_array *own = calloc(1, sizeof *own);
    if (!own)
        return CUDA_ERROR_OUT_OF_MEMORY;
    array_lay_out(&own->array, ctx->dev, desc);
    own->memory.bytes = own->array.bytes;
    own->memory.object = own;
    own->array.ctx = ctx->owner;
    own->array.memory = &own->memory;
    if (!sim_handle_add(SIM_HANDLE_ARRAY, own)) {
        free(own);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    result = array_get_memory(&own->memory, ctx, desc->Flags);
    if (result != CUDA_SUCCESS) {
        (void)sim_handle_drop(SIM_HANDLE_ARRAY, own);
        free(own);
        return result;
    }
    own->array.base = own->memory.extent ? own->memory.extent->base : 0;
    *out = (CUarray)own;
    return CUDA_SUCCESS;
}

CUresult cuArray3DCreate_v2(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR *desc) {
    return create(out, desc);
}

CUresult cuArrayCreate_v2(CUarray *out, const CUDA_ARRAY_DESCRIPTOR *desc) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!desc)
        return CUDA_ERROR_INVALID_VALUE;
    const CUDA_ARRAY3D_DESCRIPTOR flat = {.Width = desc->Width,
                                          .Height = desc->Height,
                                          .Format = desc->Format,
                                          .NumChannels = desc->NumChannels};
    return create(out, &flat);
}

CUresult cuArrayDestroy(CUarray handle) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_array *array = sim_array_get(handle);
    if (!array || array->mipmap)
        return CUDA_ERROR_INVALID_HANDLE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_exec_drain(array->dev);
    if (!sim_handle_drop(SIM_HANDLE_ARRAY, array))
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&arrays_lock);
    array_end(array->memory);
    pthread_mutex_unlock(&arrays_lock);
    return CUDA_SUCCESS;
}

CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *desc, CUarray handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_array *array = sim_array_get(handle);
    if (!array)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!desc)
        return CUDA_ERROR_INVALID_VALUE;
    *desc = array->desc;
    return CUDA_SUCCESS;
}

CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *desc, CUarray handle) {
    CUDA_ARRAY3D_DESCRIPTOR full;
    CUresult result = cuArray3DGetDescriptor_v2(&full, handle);
    if (result != CUDA_SUCCESS)
        return result;
    if (!desc)
        return CUDA_ERROR_INVALID_VALUE;
    *desc = (CUDA_ARRAY_DESCRIPTOR){full.Width, full.Height, full.Format, full.NumChannels};
    return CUDA_SUCCESS;
}

CUresult cuArrayGetPlane(CUarray *plane, CUarray handle, unsigned index) {
    CUresult result = sim_ready();
    (void)index;
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_array_get(handle))
        return CUDA_ERROR_INVALID_HANDLE;
    (void)plane;
    return CUDA_ERROR_INVALID_VALUE; /* none of the formats here has planes */
}
