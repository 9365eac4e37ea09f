/* Texture and surface references: bookkeeping of what a program binds to them. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

#define REFERENCE_ROOM (1u << 20)
#define SLOT_BYTES 256u

/* What CUtexref and CUsurfref point to. Guarded by nothing: the driver asks the caller not to
 * change a reference from two threads. */
struct sim_texture_ref {
    uint32_t live; /* of sim_slots */
    uint32_t slot_next;
    struct sim_module *module; /* whose part it is; NULL: of cuTexRefCreate */
    bool surface;
    CUarray array;
    CUmipmappedArray mipmap;
    CUdeviceptr address;
    size_t bytes;
    size_t pitch; /* 0: not two-dimensional */
    CUaddress_mode address_mode[3];
    CUfilter_mode filter;
    CUfilter_mode mipmap_filter;
    float bias, least_level, most_level;
    unsigned anisotropy;
    float border[4];
    unsigned flags;
    CUarray_format format;
    int channels;
};
_Static_assert(sizeof(struct sim_texture_ref) <= SLOT_BYTES, "references fill their slots");

static struct sim_slots slots;

bool sim_texture_refs_init(void) { return sim_slots_init(&slots, SLOT_BYTES, REFERENCE_ROOM); }

CUresult sim_texture_ref_make(struct sim_module *module, struct sim_texture_ref **out) {
    struct sim_texture_ref *reference = sim_slots_take(&slots);

    if (!reference)
        return CUDA_ERROR_OUT_OF_MEMORY;
    reference->module = module;
    reference->format = CU_AD_FORMAT_FLOAT;
    reference->channels = 1;
    for (unsigned i = 0; i < 3; i++)
        reference->address_mode[i] = CU_TR_ADDRESS_MODE_CLAMP;
    sim_slots_publish(reference);
    *out = reference;
    return CUDA_SUCCESS;
}

void sim_texture_ref_free(struct sim_texture_ref *reference) {
    if (reference)
        sim_slots_give(&slots, reference);
}

bool sim_texture_ref_check(CUtexref handle) { return sim_slots_get(&slots, handle) != NULL; }

/* What all calls share: a context and a living reference. */
static CUresult enter_reference(const void *handle, struct sim_texture_ref **reference) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    *reference = sim_slots_get(&slots, handle);
    return *reference ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuTexRefCreate(CUtexref *out) {
    struct sim_context *ctx;

    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    return out ? sim_texture_ref_make(NULL, (struct sim_texture_ref **)out)
               : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuTexRefDestroy(CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (reference->module) /* it goes with its module */
        return CUDA_ERROR_INVALID_VALUE;
    sim_texture_ref_free(reference);
    return CUDA_SUCCESS;
}

/* ---- What is bound ------------------------------------------------------------------------- */

static void unbind(struct sim_texture_ref *reference) {
    reference->array = NULL;
    reference->mipmap = NULL;
    reference->address = 0;
    reference->bytes = reference->pitch = 0;
}

CUresult CUDAAPI cuTexRefSetArray(CUtexref handle, CUarray array, unsigned int flags) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_array *what = sim_array_get(array);
    if (!what)
        return CUDA_ERROR_INVALID_HANDLE;
    if (flags & ~(unsigned)CU_TRSA_OVERRIDE_FORMAT)
        return CUDA_ERROR_INVALID_VALUE;
    unbind(reference);
    reference->array = array;
    if (flags & CU_TRSA_OVERRIDE_FORMAT) {
        reference->format = what->desc.Format;
        reference->channels = (int)what->desc.NumChannels;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetMipmappedArray(CUtexref handle, CUmipmappedArray mipmap,
                                           unsigned int flags) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_handle_check(SIM_HANDLE_MIPMAP, mipmap))
        return CUDA_ERROR_INVALID_HANDLE;
    if (flags & ~(unsigned)CU_TRSA_OVERRIDE_FORMAT)
        return CUDA_ERROR_INVALID_VALUE;
    unbind(reference);
    reference->mipmap = mipmap;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetAddress_v2(size_t *offset, CUtexref handle, CUdeviceptr address,
                                       size_t bytes) {
    struct sim_context *ctx;
    struct sim_texture_ref *reference;
    int align = 0;

    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        result = enter_reference(handle, &reference);
    if (result == CUDA_SUCCESS)
        result = sim_device_attribute(ctx->dev, CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, &align);
    if (result != CUDA_SUCCESS)
        return result;
    if (!address) { /* nothing is bound from now on */
        unbind(reference);
        if (offset)
            *offset = 0;
        return CUDA_SUCCESS;
    }
    size_t over = (size_t)(address % (unsigned)align);
    if (over && !offset)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_memory_check(address, bytes, false);
    if (result != CUDA_SUCCESS)
        return result;
    unbind(reference);
    reference->address = address;
    reference->bytes = bytes;
    if (offset)
        *offset = over;
    return CUDA_SUCCESS;
}

static CUresult bind_rows(CUtexref handle, const CUDA_ARRAY_DESCRIPTOR *desc, CUdeviceptr address,
                          size_t pitch) {
    struct sim_context *ctx;
    struct sim_texture_ref *reference;
    int align = 0;

    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        result = enter_reference(handle, &reference);
    if (result == CUDA_SUCCESS)
        result =
            sim_device_attribute(ctx->dev, CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT, &align);
    if (result != CUDA_SUCCESS)
        return result;
    if (!desc || !desc->Width || !desc->Height || pitch % (unsigned)align)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_memory_check(address, pitch * (desc->Height - 1) + 1, false);
    if (result != CUDA_SUCCESS)
        return result;
    unbind(reference);
    reference->address = address;
    reference->pitch = pitch;
    reference->bytes = pitch * desc->Height;
    reference->format = desc->Format;
    reference->channels = (int)desc->NumChannels;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetAddress2D_v3(CUtexref handle, const CUDA_ARRAY_DESCRIPTOR *desc,
                                         CUdeviceptr address, size_t pitch) {
    return bind_rows(handle, desc, address, pitch);
}

CUresult CUDAAPI cuTexRefSetAddress2D_v2(CUtexref handle, const CUDA_ARRAY_DESCRIPTOR *desc,
                                         CUdeviceptr address, size_t pitch) {
    return bind_rows(handle, desc, address, pitch);
}

CUresult CUDAAPI cuTexRefGetAddress_v2(CUdeviceptr *address, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!address || !reference->address)
        return CUDA_ERROR_INVALID_VALUE;
    *address = reference->address;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefGetArray(CUarray *array, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!array || !reference->array)
        return CUDA_ERROR_INVALID_VALUE;
    *array = reference->array;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefGetMipmappedArray(CUmipmappedArray *mipmap, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!mipmap || !reference->mipmap)
        return CUDA_ERROR_INVALID_VALUE;
    *mipmap = reference->mipmap;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuSurfRefSetArray(CUsurfref handle, CUarray array, unsigned int flags) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_array *what = sim_array_get(array);
    if (!what)
        return CUDA_ERROR_INVALID_HANDLE;
    if (flags || !(what->desc.Flags & CUDA_ARRAY3D_SURFACE_LDST))
        return CUDA_ERROR_INVALID_VALUE;
    reference->array = array;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuSurfRefGetArray(CUarray *array, CUsurfref handle) {
    return cuTexRefGetArray(array, (CUtexref)handle);
}

/* ---- How it is read ------------------------------------------------------------------------ */

CUresult CUDAAPI cuTexRefSetFormat(CUtexref handle, CUarray_format format, int channels) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (channels != 1 && channels != 2 && channels != 4)
        return CUDA_ERROR_INVALID_VALUE;
    reference->format = format;
    reference->channels = channels;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefGetFormat(CUarray_format *format, int *channels, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!format && !channels)
        return CUDA_ERROR_INVALID_VALUE;
    if (format)
        *format = reference->format;
    if (channels)
        *channels = reference->channels;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetAddressMode(CUtexref handle, int dimension, CUaddress_mode mode) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (dimension < 0 || dimension > 2 || mode < CU_TR_ADDRESS_MODE_WRAP ||
        mode > CU_TR_ADDRESS_MODE_BORDER)
        return CUDA_ERROR_INVALID_VALUE;
    reference->address_mode[dimension] = mode;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefGetAddressMode(CUaddress_mode *mode, CUtexref handle, int dimension) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!mode || dimension < 0 || dimension > 2)
        return CUDA_ERROR_INVALID_VALUE;
    *mode = reference->address_mode[dimension];
    return CUDA_SUCCESS;
}

static bool is_filter(CUfilter_mode filter) {
    return filter == CU_TR_FILTER_MODE_POINT || filter == CU_TR_FILTER_MODE_LINEAR;
}

CUresult CUDAAPI cuTexRefSetFilterMode(CUtexref handle, CUfilter_mode filter) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!is_filter(filter))
        return CUDA_ERROR_INVALID_VALUE;
    reference->filter = filter;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefGetFilterMode(CUfilter_mode *filter, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!filter)
        return CUDA_ERROR_INVALID_VALUE;
    *filter = reference->filter;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetMipmapFilterMode(CUtexref handle, CUfilter_mode filter) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!is_filter(filter))
        return CUDA_ERROR_INVALID_VALUE;
    reference->mipmap_filter = filter;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefGetMipmapFilterMode(CUfilter_mode *filter, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!filter)
        return CUDA_ERROR_INVALID_VALUE;
    *filter = reference->mipmap_filter;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetMipmapLevelBias(CUtexref handle, float bias) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result == CUDA_SUCCESS)
        reference->bias = bias;
    return result;
}

CUresult CUDAAPI cuTexRefGetMipmapLevelBias(float *bias, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!bias)
        return CUDA_ERROR_INVALID_VALUE;
    *bias = reference->bias;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetMipmapLevelClamp(CUtexref handle, float least, float most) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    reference->least_level = least;
    reference->most_level = most;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefGetMipmapLevelClamp(float *least, float *most, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!least || !most)
        return CUDA_ERROR_INVALID_VALUE;
    *least = reference->least_level;
    *most = reference->most_level;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetMaxAnisotropy(CUtexref handle, unsigned int most) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result == CUDA_SUCCESS)
        reference->anisotropy = most;
    return result;
}

CUresult CUDAAPI cuTexRefGetMaxAnisotropy(int *most, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!most)
        return CUDA_ERROR_INVALID_VALUE;
    *most = (int)reference->anisotropy;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetBorderColor(CUtexref handle, float *color) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!color)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(reference->border, color, sizeof reference->border);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefGetBorderColor(float *color, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!color)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(color, reference->border, sizeof reference->border);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexRefSetFlags(CUtexref handle, unsigned int flags) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result == CUDA_SUCCESS)
        reference->flags = flags;
    return result;
}

CUresult CUDAAPI cuTexRefGetFlags(unsigned int *flags, CUtexref handle) {
    struct sim_texture_ref *reference;

    CUresult result = enter_reference(handle, &reference);
    if (result != CUDA_SUCCESS)
        return result;
    if (!flags)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = reference->flags;
    return CUDA_SUCCESS;
}
