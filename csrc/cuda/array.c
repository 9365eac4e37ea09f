/* Arrays and mipmapped arrays. The driver does not say what they take: the estimate is the memory
 * with rows padded to 64 bytes and, where there is a height, heights to 8, in whole pages. */
#include "shim.h"

static uint64_t element_bytes(CUarray_format format, unsigned channels) {
    uint64_t bytes;
    switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        bytes = 1;
        break;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        bytes = 2;
        break;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        bytes = 4;
        break;
    case CU_AD_FORMAT_BC1_UNORM:
    case CU_AD_FORMAT_BC1_UNORM_SRGB:
    case CU_AD_FORMAT_BC4_UNORM:
    case CU_AD_FORMAT_BC4_SNORM:
        /* Blocks of 4 x 4 texels; sized as the texels' share. */
        return 1;
    default:
        /* Planar video and normalised formats: no more than four bytes a channel. */
        bytes = 4;
        break;
    }
    return bytes * (channels ? channels : 1);
}

static uint64_t padded(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

/* Bytes of one level. */
static uint64_t level_bytes(uint64_t width, uint64_t height, uint64_t depth, uint64_t element) {
    uint64_t rows = height ? padded(height, 8) : 1;
    uint64_t row, bytes;
    if (__builtin_mul_overflow(width, element, &row) || row > 1ull << 52 ||
        __builtin_mul_overflow(padded(row, 64), rows, &bytes) ||
        __builtin_mul_overflow(bytes, depth ? depth : 1, &bytes))
        return 1ull << 52;
    return bytes;
}

static uint64_t half(uint64_t value) { return value > 1 ? value / 2 : value; }

/* The driver makes no more levels than it takes to halve the longest side down to one. */
static unsigned most_levels(const CUDA_ARRAY3D_DESCRIPTOR *what, bool layered) {
    uint64_t longest = what->Width > what->Height ? what->Width : what->Height;
    if (!layered && what->Depth > longest)
        longest = what->Depth;
    return longest ? 64u - (unsigned)__builtin_clzll(longest) : 1u;
}

static uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *what, unsigned levels) {
    if (what->Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING))
        return 0;
    uint64_t width = what->Width, height = what->Height, depth = what->Depth;
    uint64_t element = element_bytes(what->Format, what->NumChannels), bytes = 0;
    bool layered = what->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP);
    unsigned most = most_levels(what, layered);
    for (unsigned level = 0; level < levels && level < most; level++) {
        uint64_t more = level_bytes(width, height, depth, element);
        bytes = bytes + more > 1ull << 52 ? 1ull << 52 : bytes + more;
        width = half(width);
        height = half(height);
        depth = layered ? depth : half(depth);
    }
    return bytes;
}

static CUresult charge(struct aliquot_request *request, const CUDA_ARRAY3D_DESCRIPTOR *what,
                       unsigned levels) {
    *request = (struct aliquot_request){0};
    return what ? aliquot_request(request, array_bytes(what, levels)) : CUDA_SUCCESS;
}

static CUresult settle(const struct aliquot_request *request, CUresult result, const void *handle) {
    return aliquot_requested(request, result, (uintptr_t)handle, ALIQUOT_ARRAY, false);
}

static CUDA_ARRAY3D_DESCRIPTOR flat(const CUDA_ARRAY_DESCRIPTOR *what) {
    return (CUDA_ARRAY3D_DESCRIPTOR){.Width = what->Width,
                                     .Height = what->Height,
                                     .Format = what->Format,
                                     .NumChannels = what->NumChannels};
}

CUresult aliquot_cuArrayCreate_v2(CUarray *array, const CUDA_ARRAY_DESCRIPTOR *what) {
    struct aliquot_request request = {0};
    if (what) {
        CUDA_ARRAY3D_DESCRIPTOR solid = flat(what);
        CUresult refused = charge(&request, &solid, 1);
        if (refused != CUDA_SUCCESS)
            return refused;
    }
    CUresult result;
    ALIQUOT_RETRY(result, REAL(cuArrayCreate_v2)(array, what));
    return settle(&request, result, result == CUDA_SUCCESS ? *array : NULL);
}

CUresult aliquot_cuArrayCreate(CUarray *array, const CUDA_ARRAY_DESCRIPTOR_v1 *what) {
    struct aliquot_request request = {0};
    if (what) {
        CUDA_ARRAY3D_DESCRIPTOR solid = {.Width = what->Width,
                                         .Height = what->Height,
                                         .Format = what->Format,
                                         .NumChannels = what->NumChannels};
        CUresult refused = charge(&request, &solid, 1);
        if (refused != CUDA_SUCCESS)
            return refused;
    }
    CUresult result;
    ALIQUOT_RETRY(result, REAL(cuArrayCreate)(array, what));
    return settle(&request, result, result == CUDA_SUCCESS ? *array : NULL);
}

CUresult aliquot_cuArray3DCreate_v2(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *what) {
    struct aliquot_request request;
    CUresult result = charge(&request, what, 1);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuArray3DCreate_v2)(array, what));
    return settle(&request, result, result == CUDA_SUCCESS ? *array : NULL);
}

CUresult aliquot_cuArray3DCreate(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR_v1 *what) {
    struct aliquot_request request = {0};
    if (what) {
        CUDA_ARRAY3D_DESCRIPTOR solid = {.Width = what->Width,
                                         .Height = what->Height,
                                         .Depth = what->Depth,
                                         .Format = what->Format,
                                         .NumChannels = what->NumChannels,
                                         .Flags = what->Flags};
        CUresult refused = charge(&request, &solid, 1);
        if (refused != CUDA_SUCCESS)
            return refused;
    }
    CUresult result;
    ALIQUOT_RETRY(result, REAL(cuArray3DCreate)(array, what));
    return settle(&request, result, result == CUDA_SUCCESS ? *array : NULL);
}

CUresult aliquot_cuMipmappedArrayCreate(CUmipmappedArray *array,
                                        const CUDA_ARRAY3D_DESCRIPTOR *what, unsigned int levels) {
    struct aliquot_request request;
    CUresult result = charge(&request, what, levels);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuMipmappedArrayCreate)(array, what, levels));
    return settle(&request, result, result == CUDA_SUCCESS ? *array : NULL);
}

CUresult aliquot_cuArrayDestroy(CUarray array) {
    struct aliquot_departure departure = aliquot_depart((uintptr_t)array);
    return aliquot_departed(&departure, REAL(cuArrayDestroy)(array));
}

CUresult aliquot_cuMipmappedArrayDestroy(CUmipmappedArray array) {
    struct aliquot_departure departure = aliquot_depart((uintptr_t)array);
    return aliquot_departed(&departure, REAL(cuMipmappedArrayDestroy)(array));
}
