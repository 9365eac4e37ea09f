/* Texture and surface objects: the descriptors that they were made from, kept and checked. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

struct texture {
    CUDA_RESOURCE_DESC resource;
    CUDA_TEXTURE_DESC texture;
    CUDA_RESOURCE_VIEW_DESC view;
    bool viewed;
};

/* The device's limit for textures of linear memory, elements of any format. */
#define LINEAR_TEXELS (UINT64_C(1) << 28)

static CUresult check_linear(const CUDA_RESOURCE_DESC *desc) {
    CUdeviceptr address = desc->res.linear.devPtr;
    unsigned channels = desc->res.linear.numChannels;

    if ((channels != 1 && channels != 2 && channels != 4) || !desc->res.linear.sizeInBytes ||
        desc->res.linear.sizeInBytes / channels > LINEAR_TEXELS * 4)
        return CUDA_ERROR_INVALID_VALUE;
    return sim_memory_check(address, desc->res.linear.sizeInBytes, false);
}

static CUresult check_rows(const CUDA_RESOURCE_DESC *desc) {
    size_t rows = desc->res.pitch2D.height, pitch = desc->res.pitch2D.pitchInBytes;
    unsigned channels = desc->res.pitch2D.numChannels;

    if ((channels != 1 && channels != 2 && channels != 4) || !rows || !desc->res.pitch2D.width ||
        pitch % 32 || pitch < desc->res.pitch2D.width)
        return CUDA_ERROR_INVALID_VALUE;
    return sim_memory_check(desc->res.pitch2D.devPtr, pitch * (rows - 1) + 1, false);
}

static CUresult check_resource(const CUDA_RESOURCE_DESC *desc) {
    if (!desc || desc->flags)
        return CUDA_ERROR_INVALID_VALUE;
    switch (desc->resType) {
    case CU_RESOURCE_TYPE_ARRAY:
        return sim_array_get(desc->res.array.hArray) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY:
        return sim_handle_check(SIM_HANDLE_MIPMAP, desc->res.mipmap.hMipmappedArray)
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_HANDLE;
    case CU_RESOURCE_TYPE_LINEAR:
        return check_linear(desc);
    case CU_RESOURCE_TYPE_PITCH2D:
        return check_rows(desc);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* Makes an object of either kind; its handle is where it lies. */
static CUresult make(enum sim_handle_kind kind, const CUDA_RESOURCE_DESC *resource,
                     const CUDA_TEXTURE_DESC *texture, const CUDA_RESOURCE_VIEW_DESC *view,
                     unsigned long long *handle) {
    struct texture *made = calloc(1, sizeof *made);

    if (!made)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->resource = *resource;
    if (texture)
        made->texture = *texture;
    if (view)
        made->view = *view;
    made->viewed = view != NULL;
    if (!sim_handle_add(kind, made)) {
        free(made);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *handle = (uintptr_t)made;
    return CUDA_SUCCESS;
}

static CUresult enter_object(enum sim_handle_kind kind, unsigned long long handle,
                             struct texture **object) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    *object = (struct texture *)(uintptr_t)handle;
    return sim_handle_check(kind, *object) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult destroy(enum sim_handle_kind kind, unsigned long long handle) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    struct texture *object = (struct texture *)(uintptr_t)handle;
    if (!sim_handle_drop(kind, object))
        return CUDA_ERROR_INVALID_VALUE;
    free(object);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexObjectCreate(CUtexObject *out, const CUDA_RESOURCE_DESC *resource,
                                   const CUDA_TEXTURE_DESC *texture,
                                   const CUDA_RESOURCE_VIEW_DESC *view) {
    struct sim_context *ctx;

    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !texture)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_resource(resource);
    if (result != CUDA_SUCCESS)
        return result;
    bool arrays = resource->resType == CU_RESOURCE_TYPE_ARRAY ||
                  resource->resType == CU_RESOURCE_TYPE_MIPMAPPED_ARRAY;
    if (view && !arrays)
        return CUDA_ERROR_INVALID_VALUE;
    return make(SIM_HANDLE_TEXTURE, resource, texture, view, out);
}

CUresult CUDAAPI cuTexObjectDestroy(CUtexObject handle) {
    return destroy(SIM_HANDLE_TEXTURE, handle);
}

CUresult CUDAAPI cuTexObjectGetResourceDesc(CUDA_RESOURCE_DESC *desc, CUtexObject handle) {
    struct texture *object;

    CUresult result = enter_object(SIM_HANDLE_TEXTURE, handle, &object);
    if (result != CUDA_SUCCESS)
        return result;
    if (!desc)
        return CUDA_ERROR_INVALID_VALUE;
    *desc = object->resource;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexObjectGetTextureDesc(CUDA_TEXTURE_DESC *desc, CUtexObject handle) {
    struct texture *object;

    CUresult result = enter_object(SIM_HANDLE_TEXTURE, handle, &object);
    if (result != CUDA_SUCCESS)
        return result;
    if (!desc)
        return CUDA_ERROR_INVALID_VALUE;
    *desc = object->texture;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexObjectGetResourceViewDesc(CUDA_RESOURCE_VIEW_DESC *desc, CUtexObject handle) {
    struct texture *object;

    CUresult result = enter_object(SIM_HANDLE_TEXTURE, handle, &object);
    if (result != CUDA_SUCCESS)
        return result;
    if (!desc || !object->viewed)
        return CUDA_ERROR_INVALID_VALUE;
    *desc = object->view;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuSurfObjectCreate(CUsurfObject *out, const CUDA_RESOURCE_DESC *resource) {
    struct sim_context *ctx;

    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !resource || resource->resType != CU_RESOURCE_TYPE_ARRAY)
        return CUDA_ERROR_INVALID_VALUE;
    const struct sim_array *array = sim_array_get(resource->res.array.hArray);
    if (!array)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!(array->desc.Flags & CUDA_ARRAY3D_SURFACE_LDST))
        return CUDA_ERROR_INVALID_VALUE;
    return make(SIM_HANDLE_SURFACE, resource, NULL, NULL, out);
}

CUresult CUDAAPI cuSurfObjectDestroy(CUsurfObject handle) {
    return destroy(SIM_HANDLE_SURFACE, handle);
}

CUresult CUDAAPI cuSurfObjectGetResourceDesc(CUDA_RESOURCE_DESC *desc, CUsurfObject handle) {
    struct texture *object;

    CUresult result = enter_object(SIM_HANDLE_SURFACE, handle, &object);
    if (result != CUDA_SUCCESS)
        return result;
    if (!desc)
        return CUDA_ERROR_INVALID_VALUE;
    *desc = object->resource;
    return CUDA_SUCCESS;
}
