/* Copies that say how their source may be read: one by one, or many in a call. */
#include "copy.h"

static bool known_order(CUmemcpySrcAccessOrder order) {
    return order >= CU_MEMCPY_SRC_ACCESS_ORDER_STREAM && order <= CU_MEMCPY_SRC_ACCESS_ORDER_ANY;
}

static enum sim_copy_sync sync_of(CUmemcpySrcAccessOrder order) {
    return order == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL ? SIM_COPY_CONSUMED : SIM_COPY_ASYNC;
}

static bool known_flags(unsigned flags) {
    return (flags & ~(unsigned)CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE) == 0;
}

/* Enters a call that takes any stream but the legacy default one. */
static CUresult enter(CUstream handle, bool per_thread, struct sim_stream **stream) {
    CUresult result = sim_copy_enter(handle, per_thread, false, stream);
    return result == CUDA_SUCCESS && (*stream)->legacy ? CUDA_ERROR_INVALID_VALUE : result;
}

/* ---- Between pointers ---------------------------------------------------------------------- */

static CUresult copy_one(struct sim_stream *stream, CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                         CUmemcpySrcAccessOrder order) {
    CUDA_MEMCPY3D given;
    sim_copy_describe(CU_MEMORYTYPE_UNIFIED, dst, CU_MEMORYTYPE_UNIFIED, src, bytes, &given);
    return sim_copy_do(stream, &given, sync_of(order));
}

/* The call's lists, checked before anything is queued. */
static CUresult check_lists(const CUdeviceptr *dsts, const CUdeviceptr *srcs, const size_t *sizes,
                            size_t count, const CUmemcpyAttributes *attrs, const size_t *starts,
                            size_t attr_count) {
    if (dsts == NULL || srcs == NULL || sizes == NULL || count == 0 || attrs == NULL ||
        starts == NULL || attr_count == 0 || attr_count > count || starts[0] != 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < attr_count; i++)
        if (!known_order(attrs[i].srcAccessOrder) || !known_flags(attrs[i].flags) ||
            starts[i] >= count || (i > 0 && starts[i] <= starts[i - 1]))
            return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

static CUresult copy_batch(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                           CUmemcpyAttributes *attrs, size_t *starts, size_t attr_count,
                           size_t *fail, CUstream handle, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = enter(handle, per_thread, &stream);
    if (fail != NULL)
        *fail = SIZE_MAX; /* no single copy is at fault */
    if (result == CUDA_SUCCESS)
        result = check_lists(dsts, srcs, sizes, count, attrs, starts, attr_count);
    if (result != CUDA_SUCCESS)
        return result;
    for (size_t i = 0; i < count; i++) {
        struct sim_copy copy;
        result = sizes[i] == 0 ? CUDA_ERROR_INVALID_VALUE
                               : sim_copy_linear(CU_MEMORYTYPE_UNIFIED, dsts[i],
                                                 CU_MEMORYTYPE_UNIFIED, srcs[i], sizes[i], &copy);
        if (result != CUDA_SUCCESS && !sim_stream_capturing(stream)) {
            if (fail != NULL)
                *fail = i;
            return result;
        }
    }
    for (size_t i = 0, attr = 0; i < count; i++) {
        while (attr + 1 < attr_count && starts[attr + 1] <= i)
            attr++;
        result = copy_one(stream, dsts[i], srcs[i], sizes[i], attrs[attr].srcAccessOrder);
        if (result != CUDA_SUCCESS) {
            if (fail != NULL)
                *fail = i;
            return result;
        }
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes,
                                    size_t count, CUmemcpyAttributes *attrs, size_t *starts,
                                    size_t attr_count, size_t *fail, CUstream stream) {
    return copy_batch(dsts, srcs, sizes, count, attrs, starts, attr_count, fail, stream, false);
}
CUresult CUDAAPI cuMemcpyBatchAsync_ptsz(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes,
                                         size_t count, CUmemcpyAttributes *attrs, size_t *starts,
                                         size_t attr_count, size_t *fail, CUstream stream) {
    return copy_batch(dsts, srcs, sizes, count, attrs, starts, attr_count, fail, stream, true);
}
CUresult CUDAAPI cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes,
                                       size_t count, CUmemcpyAttributes *attrs, size_t *starts,
                                       size_t attr_count, CUstream stream) {
    return copy_batch(dsts, srcs, sizes, count, attrs, starts, attr_count, NULL, stream, false);
}
CUresult CUDAAPI cuMemcpyBatchAsync_v2_ptsz(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes,
                                            size_t count, CUmemcpyAttributes *attrs, size_t *starts,
                                            size_t attr_count, CUstream stream) {
    return copy_batch(dsts, srcs, sizes, count, attrs, starts, attr_count, NULL, stream, true);
}

static CUresult copy_with_attributes(CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                                     const CUmemcpyAttributes *attr, CUstream handle,
                                     bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_copy_enter(handle, per_thread, false, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (attr == NULL || !known_order(attr->srcAccessOrder) || !known_flags(attr->flags))
        return CUDA_ERROR_INVALID_VALUE;
    return copy_one(stream, dst, src, bytes, attr->srcAccessOrder);
}

CUresult CUDAAPI cuMemcpyWithAttributesAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                                             CUmemcpyAttributes *attr, CUstream stream) {
    return copy_with_attributes(dst, src, bytes, attr, stream, false);
}
CUresult CUDAAPI cuMemcpyWithAttributesAsync_ptsz(CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                                                  CUmemcpyAttributes *attr, CUstream stream) {
    return copy_with_attributes(dst, src, bytes, attr, stream, true);
}

/* ---- Boxes --------------------------------------------------------------------------------- */

/* One operand as the general description has it; *element is the array's, and stays what it was
 * for a pointer. */
static CUresult describe(const CUmemcpy3DOperand *operand, const CUextent3D *extent, bool source,
                         size_t element, CUDA_MEMCPY3D *box) {
    if (operand->type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
        const CUoffset3D *offset = &operand->op.array.offset;
        if (source) {
            box->srcMemoryType = CU_MEMORYTYPE_ARRAY;
            box->srcArray = operand->op.array.array;
            box->srcXInBytes = offset->x * element;
            box->srcY = offset->y;
            box->srcZ = offset->z;
        } else {
            box->dstMemoryType = CU_MEMORYTYPE_ARRAY;
            box->dstArray = operand->op.array.array;
            box->dstXInBytes = offset->x * element;
            box->dstY = offset->y;
            box->dstZ = offset->z;
        }
        return CUDA_SUCCESS;
    }
    if (operand->type != CU_MEMCPY_OPERAND_TYPE_POINTER)
        return CUDA_ERROR_INVALID_VALUE;
    size_t row = operand->op.ptr.rowLength, height = operand->op.ptr.layerHeight;
    if ((row != 0 && row < extent->width) || (height != 0 && height < extent->height))
        return CUDA_ERROR_INVALID_VALUE;
    size_t pitch = (row != 0 ? row : extent->width) * element;
    height = height != 0 ? height : extent->height;
    if (source) {
        box->srcMemoryType = CU_MEMORYTYPE_UNIFIED;
        box->srcDevice = operand->op.ptr.ptr;
        box->srcPitch = pitch;
        box->srcHeight = height;
    } else {
        box->dstMemoryType = CU_MEMORYTYPE_UNIFIED;
        box->dstDevice = operand->op.ptr.ptr;
        box->dstPitch = pitch;
        box->dstHeight = height;
    }
    return CUDA_SUCCESS;
}

/* Bytes of an element of the operand; 0 for a pointer. */
static CUresult element_of(const CUmemcpy3DOperand *operand, size_t *bytes) {
    *bytes = 0;
    if (operand->type != CU_MEMCPY_OPERAND_TYPE_ARRAY)
        return CUDA_SUCCESS;
    const struct sim_array *array = sim_array_get(operand->op.array.array);
    if (array == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    *bytes = array->element_bytes;
    return CUDA_SUCCESS;
}

static CUresult read_box(const CUDA_MEMCPY3D_BATCH_OP *op, CUDA_MEMCPY3D *box) {
    size_t src, dst;
    if (!known_order(op->srcAccessOrder) || !known_flags(op->flags) || op->extent.width == 0 ||
        op->extent.height == 0 || op->extent.depth == 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = element_of(&op->src, &src);
    if (result == CUDA_SUCCESS)
        result = element_of(&op->dst, &dst);
    if (result != CUDA_SUCCESS)
        return result;
    if (src != 0 && dst != 0 && src != dst)
        return CUDA_ERROR_INVALID_VALUE;
    size_t element = src != 0 ? src : dst != 0 ? dst : 1;
    *box = (CUDA_MEMCPY3D){.WidthInBytes = op->extent.width * element,
                           .Height = op->extent.height,
                           .Depth = op->extent.depth};
    result = describe(&op->src, &op->extent, true, element, box);
    return result != CUDA_SUCCESS ? result : describe(&op->dst, &op->extent, false, element, box);
}

static CUresult copy_boxes(size_t count, const CUDA_MEMCPY3D_BATCH_OP *ops, size_t *fail,
                           unsigned long long flags, CUstream handle, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = enter(handle, per_thread, &stream);
    if (fail != NULL)
        *fail = SIZE_MAX;
    if (result != CUDA_SUCCESS)
        return result;
    if (count == 0 || ops == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    bool capturing = sim_stream_capturing(stream);
    /* All are checked before the first is queued. */
    for (size_t pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < count; i++) {
            CUDA_MEMCPY3D box;
            struct sim_copy copy;
            result = read_box(&ops[i], &box);
            if (result == CUDA_SUCCESS)
                result = pass == 0 ? sim_copy_read(&box, capturing, &copy)
                                   : sim_copy_do(stream, &box, sync_of(ops[i].srcAccessOrder));
            if (result != CUDA_SUCCESS) {
                if (fail != NULL)
                    *fail = i;
                return result;
            }
        }
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpy3DBatchAsync(size_t count, CUDA_MEMCPY3D_BATCH_OP *ops, size_t *fail,
                                      unsigned long long flags, CUstream stream) {
    return copy_boxes(count, ops, fail, flags, stream, false);
}
CUresult CUDAAPI cuMemcpy3DBatchAsync_ptsz(size_t count, CUDA_MEMCPY3D_BATCH_OP *ops, size_t *fail,
                                           unsigned long long flags, CUstream stream) {
    return copy_boxes(count, ops, fail, flags, stream, true);
}
CUresult CUDAAPI cuMemcpy3DBatchAsync_v2(size_t count, CUDA_MEMCPY3D_BATCH_OP *ops,
                                         unsigned long long flags, CUstream stream) {
    return copy_boxes(count, ops, NULL, flags, stream, false);
}
CUresult CUDAAPI cuMemcpy3DBatchAsync_v2_ptsz(size_t count, CUDA_MEMCPY3D_BATCH_OP *ops,
                                              unsigned long long flags, CUstream stream) {
    return copy_boxes(count, ops, NULL, flags, stream, true);
}

static CUresult copy_one_box(CUDA_MEMCPY3D_BATCH_OP *op, unsigned long long flags, CUstream handle,
                             bool per_thread) {
    struct sim_stream *stream;
    CUDA_MEMCPY3D box;
    CUresult result = sim_copy_enter(handle, per_thread, false, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (op == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = read_box(op, &box);
    return result != CUDA_SUCCESS ? result : sim_copy_do(stream, &box, sync_of(op->srcAccessOrder));
}

CUresult CUDAAPI cuMemcpy3DWithAttributesAsync(CUDA_MEMCPY3D_BATCH_OP *op, unsigned long long flags,
                                               CUstream stream) {
    return copy_one_box(op, flags, stream, false);
}
CUresult CUDAAPI cuMemcpy3DWithAttributesAsync_ptsz(CUDA_MEMCPY3D_BATCH_OP *op,
                                                    unsigned long long flags, CUstream stream) {
    return copy_one_box(op, flags, stream, true);
}
