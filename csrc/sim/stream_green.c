/* Streams and events of green contexts. */
#include "exec_impl.h"

/* The context that a green one stands for. */
static CUresult enter(CUgreenCtx handle, struct sim_context **ctx) {
    CUcontext context;
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS)
        result = cuCtxFromGreenCtx(&context, handle);
    if (result != CUDA_SUCCESS)
        return result;
    *ctx = sim_context_get(context);
    return *ctx != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult CUDAAPI cuGreenCtxStreamCreate(CUstream *stream, CUgreenCtx green, unsigned flags,
                                        int priority) {
    struct sim_context *ctx;
    CUresult result = enter(green, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if ((flags & CU_STREAM_NON_BLOCKING) == 0) /* it would have to wait for the primary context */
        return CUDA_ERROR_INVALID_VALUE;
    return sim_stream_create(ctx, stream, flags, priority);
}

CUresult CUDAAPI cuGreenCtxRecordEvent(CUgreenCtx green, CUevent event) {
    struct sim_context *ctx;
    CUresult result = enter(green, &ctx);
    return result == CUDA_SUCCESS ? cuCtxRecordEvent((CUcontext)ctx, event) : result;
}

CUresult CUDAAPI cuGreenCtxWaitEvent(CUgreenCtx green, CUevent event) {
    struct sim_context *ctx;
    CUresult result = enter(green, &ctx);
    return result == CUDA_SUCCESS ? cuCtxWaitEvent((CUcontext)ctx, event) : result;
}

CUresult CUDAAPI cuStreamGetGreenCtx(CUstream handle, CUgreenCtx *green) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, false, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (green == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *green = stream->ctx->green ? sim_green_handle(stream->ctx) : NULL;
    return CUDA_SUCCESS;
}

static CUresult get_resource(CUstream handle, CUdevResource *resource, CUdevResourceType type,
                             bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    return result == CUDA_SUCCESS ? cuCtxGetDevResource((CUcontext)stream->ctx, resource, type)
                                  : result;
}

CUresult CUDAAPI cuStreamGetDevResource(CUstream stream, CUdevResource *resource,
                                        CUdevResourceType type) {
    return get_resource(stream, resource, type, false);
}
CUresult CUDAAPI cuStreamGetDevResource_ptsz(CUstream stream, CUdevResource *resource,
                                             CUdevResourceType type) {
    return get_resource(stream, resource, type, true);
}
