/* Host functions and callbacks in streams: the application's code, on the engine's thread for it. */
#include "graph.h"

/* ---- cuLaunchHostFunc ---------------------------------------------------------------------- */

static CUresult launch_host(CUstream handle, CUhostFn fn, void *data, unsigned sync_mode,
                            bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_work(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (fn == NULL || sync_mode > CU_HOST_TASK_SPINWAIT)
        return CUDA_ERROR_INVALID_VALUE;
    sim_cost(stream->exec->dev, SIM_COST_HOST_FUNC);
    if (sim_stream_capturing(stream)) {
        CUgraphNodeParams node = {.type = CU_GRAPH_NODE_TYPE_HOST,
                                  .host = {.fn = fn, .userData = data, .syncMode = sync_mode}};
        return sim_capture_node(stream, &node, NULL, NULL);
    }
    struct sim_op op = {.kind = SIM_OP_HOST, .call = {.fn = fn, .arg = data}};
    return sim_stream_submit(stream, &op, NULL);
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream stream, CUhostFn fn, void *data) {
    return launch_host(stream, fn, data, CU_HOST_TASK_BLOCKING, false);
}
CUresult CUDAAPI cuLaunchHostFunc_ptsz(CUstream stream, CUhostFn fn, void *data) {
    return launch_host(stream, fn, data, CU_HOST_TASK_BLOCKING, true);
}
CUresult CUDAAPI cuLaunchHostFunc_v2(CUstream stream, CUhostFn fn, void *data, unsigned sync_mode) {
    return launch_host(stream, fn, data, sync_mode, false);
}
CUresult CUDAAPI cuLaunchHostFunc_v2_ptsz(CUstream stream, CUhostFn fn, void *data,
                                          unsigned sync_mode) {
    return launch_host(stream, fn, data, sync_mode, true);
}

/* ---- cuStreamAddCallback ------------------------------------------------------------------- */

static CUresult add_callback(CUstream handle, CUstreamCallback callback, void *data, unsigned flags,
                             bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_work(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (callback == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    sim_cost(stream->exec->dev, SIM_COST_HOST_FUNC);
    if (sim_stream_capturing(stream)) /* a graph has no such node */
        return sim_capture_forbid_stream(stream);
    struct sim_op op = {.kind = SIM_OP_HOST,
                        .call = {.callback = callback, .handle = handle, .arg = data}};
    return sim_stream_submit(stream, &op, NULL);
}

CUresult CUDAAPI cuStreamAddCallback(CUstream stream, CUstreamCallback callback, void *data,
                                     unsigned flags) {
    return add_callback(stream, callback, data, flags, false);
}
CUresult CUDAAPI cuStreamAddCallback_ptsz(CUstream stream, CUstreamCallback callback, void *data,
                                          unsigned flags) {
    return add_callback(stream, callback, data, flags, true);
}
