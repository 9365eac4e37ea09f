/* cuStreamWaitValue, cuStreamWriteValue and batches of them. */
#include "graph.h"

enum { BATCH_MOST = 256 };

/* A word that a stream waits for or writes: aligned, and where the device reaches it. */
static CUresult check_word(CUdeviceptr ptr, bool wide, bool write) {
    size_t bytes = wide ? 8 : 4;
    if (ptr % bytes != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return sim_memory_check(ptr, bytes, write);
}

CUresult sim_memop_op(const CUstreamBatchMemOpParams *given, struct sim_op *op) {
    const unsigned wait_flags = CU_STREAM_WAIT_VALUE_NOR | CU_STREAM_WAIT_VALUE_FLUSH;
    const unsigned write_flags = CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER;
    bool wide = false;
    *op = (struct sim_op){.kind = SIM_OP_NOTHING};
    switch (given->operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        wide = true; /* fall through */
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        if ((given->waitValue.flags & ~wait_flags) != 0)
            return CUDA_ERROR_INVALID_VALUE;
        op->kind = SIM_OP_POLL;
        op->flags = wide ? SIM_OP_WORD_64 : 0;
        op->compare = given->waitValue.flags & CU_STREAM_WAIT_VALUE_NOR;
        op->word.ptr = given->waitValue.address;
        op->word.value = wide ? given->waitValue.value64 : given->waitValue.value;
        return check_word(op->word.ptr, wide, false);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        wide = true; /* fall through */
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        if ((given->writeValue.flags & ~write_flags) != 0)
            return CUDA_ERROR_INVALID_VALUE;
        op->kind = SIM_OP_WRITE;
        op->flags = wide ? SIM_OP_WORD_64 : 0;
        op->word.ptr = given->writeValue.address;
        op->word.value = wide ? given->writeValue.value64 : given->writeValue.value;
        return check_word(op->word.ptr, wide, true);
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return given->flushRemoteWrites.flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_STREAM_MEM_OP_BARRIER:
        return given->memoryBarrier.flags <= CU_STREAM_MEMORY_BARRIER_TYPE_GPU
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    case CU_STREAM_MEM_OP_ATOMIC_REDUCTION:
        return sim_unsupported("CU_STREAM_MEM_OP_ATOMIC_REDUCTION");
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult sim_memop_check(const CUstreamBatchMemOpParams *ops, unsigned count, unsigned flags) {
    struct sim_op op;
    if (ops == NULL || count == 0 || count > BATCH_MOST || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++) {
        CUresult result = sim_memop_op(&ops[i], &op);
        if (result != CUDA_SUCCESS)
            return result;
    }
    return CUDA_SUCCESS;
}

static CUresult do_batch(CUstream handle, unsigned count, CUstreamBatchMemOpParams *ops,
                         unsigned flags, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_work(handle, per_thread, &stream);
    if (result == CUDA_SUCCESS)
        result = sim_memop_check(ops, count, flags);
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(stream->exec->dev, SIM_COST_MEM_OP);
    if (sim_stream_capturing(stream)) {
        CUgraphNodeParams node = {
            .type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
            .memOp = {
                .ctx = (CUcontext)stream->ctx, .count = count, .paramArray = ops, .flags = flags}};
        return sim_capture_node(stream, &node, NULL, NULL);
    }
    for (unsigned i = 0; i < count && result == CUDA_SUCCESS; i++) {
        struct sim_op op;
        result = sim_memop_op(&ops[i], &op);
        if (result == CUDA_SUCCESS)
            result = sim_stream_submit(stream, &op, NULL);
    }
    return result;
}

static CUresult wait_value(CUstream stream, CUdeviceptr ptr, uint64_t value, unsigned flags,
                           bool wide, bool per_thread) {
    CUstreamBatchMemOpParams op = {.waitValue = {.operation = wide ? CU_STREAM_MEM_OP_WAIT_VALUE_64
                                                                   : CU_STREAM_MEM_OP_WAIT_VALUE_32,
                                                 .address = ptr,
                                                 .value64 = value,
                                                 .flags = flags}};
    return do_batch(stream, 1, &op, 0, per_thread);
}

static CUresult write_value(CUstream stream, CUdeviceptr ptr, uint64_t value, unsigned flags,
                            bool wide, bool per_thread) {
    CUstreamBatchMemOpParams op = {
        .writeValue = {.operation =
                           wide ? CU_STREAM_MEM_OP_WRITE_VALUE_64 : CU_STREAM_MEM_OP_WRITE_VALUE_32,
                       .address = ptr,
                       .value64 = value,
                       .flags = flags}};
    return do_batch(stream, 1, &op, 0, per_thread);
}

CUresult CUDAAPI cuStreamWaitValue32(CUstream stream, CUdeviceptr ptr, cuuint32_t value,
                                     unsigned flags) {
    return wait_value(stream, ptr, value, flags, false, false);
}
CUresult CUDAAPI cuStreamWaitValue32_ptsz(CUstream stream, CUdeviceptr ptr, cuuint32_t value,
                                          unsigned flags) {
    return wait_value(stream, ptr, value, flags, false, true);
}
CUresult CUDAAPI cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr ptr, cuuint32_t value,
                                        unsigned flags) {
    return wait_value(stream, ptr, value, flags, false, false);
}
CUresult CUDAAPI cuStreamWaitValue32_v2_ptsz(CUstream stream, CUdeviceptr ptr, cuuint32_t value,
                                             unsigned flags) {
    return wait_value(stream, ptr, value, flags, false, true);
}
CUresult CUDAAPI cuStreamWaitValue64(CUstream stream, CUdeviceptr ptr, cuuint64_t value,
                                     unsigned flags) {
    return wait_value(stream, ptr, value, flags, true, false);
}
CUresult CUDAAPI cuStreamWaitValue64_ptsz(CUstream stream, CUdeviceptr ptr, cuuint64_t value,
                                          unsigned flags) {
    return wait_value(stream, ptr, value, flags, true, true);
}
CUresult CUDAAPI cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr ptr, cuuint64_t value,
                                        unsigned flags) {
    return wait_value(stream, ptr, value, flags, true, false);
}
CUresult CUDAAPI cuStreamWaitValue64_v2_ptsz(CUstream stream, CUdeviceptr ptr, cuuint64_t value,
                                             unsigned flags) {
    return wait_value(stream, ptr, value, flags, true, true);
}
CUresult CUDAAPI cuStreamWriteValue32(CUstream stream, CUdeviceptr ptr, cuuint32_t value,
                                      unsigned flags) {
    return write_value(stream, ptr, value, flags, false, false);
}
CUresult CUDAAPI cuStreamWriteValue32_ptsz(CUstream stream, CUdeviceptr ptr, cuuint32_t value,
                                           unsigned flags) {
    return write_value(stream, ptr, value, flags, false, true);
}
CUresult CUDAAPI cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr ptr, cuuint32_t value,
                                         unsigned flags) {
    return write_value(stream, ptr, value, flags, false, false);
}
CUresult CUDAAPI cuStreamWriteValue32_v2_ptsz(CUstream stream, CUdeviceptr ptr, cuuint32_t value,
                                              unsigned flags) {
    return write_value(stream, ptr, value, flags, false, true);
}
CUresult CUDAAPI cuStreamWriteValue64(CUstream stream, CUdeviceptr ptr, cuuint64_t value,
                                      unsigned flags) {
    return write_value(stream, ptr, value, flags, true, false);
}
CUresult CUDAAPI cuStreamWriteValue64_ptsz(CUstream stream, CUdeviceptr ptr, cuuint64_t value,
                                           unsigned flags) {
    return write_value(stream, ptr, value, flags, true, true);
}
CUresult CUDAAPI cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr ptr, cuuint64_t value,
                                         unsigned flags) {
    return write_value(stream, ptr, value, flags, true, false);
}
CUresult CUDAAPI cuStreamWriteValue64_v2_ptsz(CUstream stream, CUdeviceptr ptr, cuuint64_t value,
                                              unsigned flags) {
    return write_value(stream, ptr, value, flags, true, true);
}

CUresult CUDAAPI cuStreamBatchMemOp(CUstream stream, unsigned count, CUstreamBatchMemOpParams *ops,
                                    unsigned flags) {
    return do_batch(stream, count, ops, flags, false);
}
CUresult CUDAAPI cuStreamBatchMemOp_ptsz(CUstream stream, unsigned count,
                                         CUstreamBatchMemOpParams *ops, unsigned flags) {
    return do_batch(stream, count, ops, flags, true);
}
CUresult CUDAAPI cuStreamBatchMemOp_v2(CUstream stream, unsigned count,
                                       CUstreamBatchMemOpParams *ops, unsigned flags) {
    return do_batch(stream, count, ops, flags, false);
}
CUresult CUDAAPI cuStreamBatchMemOp_v2_ptsz(CUstream stream, unsigned count,
                                            CUstreamBatchMemOpParams *ops, unsigned flags) {
    return do_batch(stream, count, ops, flags, true);
}
