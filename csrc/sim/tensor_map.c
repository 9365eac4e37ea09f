/* cuTensorMap*: descriptors of tensors for the copy engine of a multiprocessor. They are opaque to
 * programs; no kernel reads them here, so what is kept is what was asked for, after the checks.
 */
#include "sim.h"

#include <string.h>

#define MAX_RANK 5u

/* What lies in a CUtensorMap. */
struct encoded {
    uint64_t address;
    uint64_t dim[MAX_RANK];
    uint64_t stride[MAX_RANK - 1];
    uint32_t box[MAX_RANK];
    uint8_t magic[4];
    uint8_t type, rank, interleave, swizzle, promotion, fill, element_strides[MAX_RANK];
};
_Static_assert(sizeof(struct encoded) <= sizeof(CUtensorMap), "it fits");

static const uint8_t magic[4] = {'t', 'm', 'a', 'p'};

/* Bits of an element, 0 for no type. */
static unsigned element_bits(CUtensorMapDataType type) {
    switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
        return 8;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
        return 16;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ:
        return 32;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
        return 64;
    case CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B:
    case CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN16B:
        return 4;
    case CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B:
        return 6;
    default:
        return 0;
    }
}

static bool is_floating(CUtensorMapDataType type) {
    return type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ||
           type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT64 ||
           type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ ||
           type == CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 || type == CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ;
}

/* Packed values that lie with gaps: they ask for twice the alignment. */
static bool has_gaps(CUtensorMapDataType type) {
    return type == CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN16B ||
           type == CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B;
}

static unsigned swizzle_span(CUtensorMapSwizzle swizzle) {
    switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_NONE:
        return 0;
    case CU_TENSOR_MAP_SWIZZLE_32B:
        return 32;
    case CU_TENSOR_MAP_SWIZZLE_64B:
        return 64;
    default:
        return 128;
    }
}

/* The arguments that all three encodings have. */
struct request {
    CUtensorMapDataType type;
    cuuint32_t rank;
    void *address;
    const cuuint64_t *dim, *stride;
    const cuuint32_t *element_strides;
    CUtensorMapInterleave interleave;
    CUtensorMapSwizzle swizzle;
    CUtensorMapL2promotion promotion;
    CUtensorMapFloatOOBfill fill;
};

static bool check_kinds(const struct request *request) {
    bool interleaved = request->interleave != CU_TENSOR_MAP_INTERLEAVE_NONE;

    if (request->interleave < 0 || request->interleave > CU_TENSOR_MAP_INTERLEAVE_32B ||
        request->swizzle < 0 || request->swizzle > CU_TENSOR_MAP_SWIZZLE_128B_ATOM_64B ||
        request->promotion < 0 || request->promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B ||
        request->fill < 0 || request->fill > CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA)
        return false;
    if (request->interleave == CU_TENSOR_MAP_INTERLEAVE_32B &&
        request->swizzle != CU_TENSOR_MAP_SWIZZLE_32B)
        return false;
    if (request->type == CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B && interleaved)
        return false;
    if (request->fill && !is_floating(request->type))
        return false;
    return request->rank >= (interleaved ? 3u : 1u) && request->rank <= MAX_RANK;
}

static bool check_shape(const struct request *request) {
    bool wide = request->interleave == CU_TENSOR_MAP_INTERLEAVE_32B || has_gaps(request->type);
    unsigned align = wide ? 32 : 16;
    cuuint64_t unit = has_gaps(request->type)                                 ? 128
                      : request->type == CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B ? 2
                                                                              : 1;

    if ((uintptr_t)request->address % align || !request->dim || !request->element_strides ||
        (request->rank > 1 && !request->stride) || request->dim[0] % unit)
        return false;
    for (unsigned i = 0; i < request->rank; i++) {
        if (!request->dim[i] || request->dim[i] > UINT64_C(1) << 32)
            return false;
        /* Dimension 0 has no step where nothing is interleaved. */
        bool counts = i || request->interleave != CU_TENSOR_MAP_INTERLEAVE_NONE;
        if (counts && (!request->element_strides[i] || request->element_strides[i] > 8))
            return false;
        if (i + 1 < request->rank &&
            (request->stride[i] % align || request->stride[i] >= UINT64_C(1) << 40))
            return false;
    }
    return true;
}

/* The innermost side of the box, in bytes, against the swizzle. */
static bool check_inner(const struct request *request, uint64_t elements) {
    unsigned span = swizzle_span(request->swizzle);
    uint64_t bytes = elements * element_bits(request->type) / 8;

    if (request->interleave != CU_TENSOR_MAP_INTERLEAVE_NONE)
        return true;
    return bytes % 16 == 0 && (!span || bytes <= span);
}

/* A device that has such engines: the current context's, else the first. */
static CUresult check_device(void) {
    struct sim_context *ctx;
    CUresult result = sim_ready();

    if (result != CUDA_SUCCESS)
        return result;
    CUdevice dev = sim_enter(&ctx) == CUDA_SUCCESS ? ctx->dev : 0;
    return sim_device_config(dev)->cc_major >= 9 ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult encode(CUtensorMap *map, const struct request *request, const cuuint32_t *box) {
    struct encoded encoded = {
        .address = (uintptr_t)request->address,
        .type = (uint8_t)request->type,
        .rank = (uint8_t)request->rank,
        .interleave = (uint8_t)request->interleave,
        .swizzle = (uint8_t)request->swizzle,
        .promotion = (uint8_t)request->promotion,
        .fill = (uint8_t)request->fill,
    };

    memcpy(encoded.magic, magic, sizeof magic);
    for (unsigned i = 0; i < request->rank; i++) {
        encoded.dim[i] = request->dim[i];
        encoded.box[i] = box[i];
        encoded.element_strides[i] = (uint8_t)request->element_strides[i];
        if (i + 1 < request->rank)
            encoded.stride[i] = request->stride[i];
    }
    memset(map, 0, sizeof *map);
    memcpy(map, &encoded, sizeof encoded);
    return CUDA_SUCCESS;
}

static CUresult begin(const CUtensorMap *map, const struct request *request) {
    CUresult result = check_device();

    if (result != CUDA_SUCCESS)
        return result;
    return map && (uintptr_t)map % 64 == 0 && element_bits(request->type) && check_kinds(request) &&
                   check_shape(request)
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuTensorMapEncodeTiled(
    CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
    const cuuint64_t *dim, const cuuint64_t *stride, const cuuint32_t *box,
    const cuuint32_t *element_strides, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
    CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    struct request request = {type,       rank,    address,   dim, stride, element_strides,
                              interleave, swizzle, promotion, fill};

    CUresult result = begin(map, &request);
    if (result != CUDA_SUCCESS)
        return result;
    for (unsigned i = 0; box && i < rank; i++) {
        if (!box[i] || box[i] > 256)
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (!box || !check_inner(&request, box[0]) || (has_gaps(type) && box[0] != 128))
        return CUDA_ERROR_INVALID_VALUE;
    return encode(map, &request, box);
}

/* Both forms over convolution windows: the corners of the window, and what is fetched of it. */
static CUresult encode_window(CUtensorMap *map, const struct request *request, const int *lower,
                              const int *upper, unsigned sides, cuuint32_t channels,
                              cuuint32_t pixels) {
    cuuint32_t box[MAX_RANK] = {channels, pixels};
    /* Fewer sides leave each more bits. */
    int limit = sides == 1 ? 32768 : sides == 2 ? 128 : 16;

    CUresult result = begin(map, request);
    if (result != CUDA_SUCCESS)
        return result;
    if (request->rank < 3 || !lower || !upper || !channels || channels > 256 || pixels > 1024 ||
        !check_inner(request, channels) || (has_gaps(request->type) && channels != 128))
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < sides; i++) {
        if (lower[i] < -limit || lower[i] >= limit || upper[i] < -limit || upper[i] >= limit)
            return CUDA_ERROR_INVALID_VALUE;
        /* The corners are offsets from either end: what is left between must not be nothing. */
        if ((int64_t)request->dim[i + 1] + upper[i] <= lower[i])
            return CUDA_ERROR_INVALID_VALUE;
    }
    return encode(map, request, box);
}

CUresult CUDAAPI cuTensorMapEncodeIm2col(
    CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
    const cuuint64_t *dim, const cuuint64_t *stride, const int *lower, const int *upper,
    cuuint32_t channels, cuuint32_t pixels, const cuuint32_t *element_strides,
    CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
    CUtensorMapFloatOOBfill fill) {
    struct request request = {type,       rank,    address,   dim, stride, element_strides,
                              interleave, swizzle, promotion, fill};

    return encode_window(map, &request, lower, upper, rank > 2 ? rank - 2 : 0, channels, pixels);
}

CUresult CUDAAPI cuTensorMapEncodeIm2colWide(
    CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
    const cuuint64_t *dim, const cuuint64_t *stride, int lower, int upper, cuuint32_t channels,
    cuuint32_t pixels, const cuuint32_t *element_strides, CUtensorMapInterleave interleave,
    CUtensorMapIm2ColWideMode mode, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
    CUtensorMapFloatOOBfill fill) {
    struct request request = {type,       rank,    address,   dim, stride, element_strides,
                              interleave, swizzle, promotion, fill};

    if (swizzle_span(swizzle) < 64 ||
        (mode != CU_TENSOR_MAP_IM2COL_WIDE_MODE_W && mode != CU_TENSOR_MAP_IM2COL_WIDE_MODE_W128))
        return CUDA_ERROR_INVALID_VALUE;
    return encode_window(map, &request, &lower, &upper, 1, channels,
                         mode == CU_TENSOR_MAP_IM2COL_WIDE_MODE_W128 ? 128 : pixels);
}

CUresult CUDAAPI cuTensorMapReplaceAddress(CUtensorMap *map, void *address) {
    struct encoded encoded;

    CUresult result = check_device();
    if (result != CUDA_SUCCESS)
        return result;
    if (!map)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&encoded, map, sizeof encoded);
    bool wide = encoded.interleave == CU_TENSOR_MAP_INTERLEAVE_32B ||
                has_gaps((CUtensorMapDataType)encoded.type);
    if (memcmp(encoded.magic, magic, sizeof magic) || (uintptr_t)address % (wide ? 32 : 16))
        return CUDA_ERROR_INVALID_VALUE;
    encoded.address = (uintptr_t)address;
    memcpy(map, &encoded, sizeof encoded);
    return CUDA_SUCCESS;
}
