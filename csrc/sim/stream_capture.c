/* The calls of stream capture. */
#include "capture.h"

/* ---- Beginning and ending ------------------------------------------------------------------ */

static CUresult begin(CUstream handle, CUstreamCaptureMode mode, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    return result != CUDA_SUCCESS ? result : sim_capture_begin(stream, mode, NULL, NULL, NULL, 0);
}

/* The living nodes behind `count` handles, which are the nodes. */
static CUresult check_nodes(const CUgraphNode *nodes, size_t count) {
    if (count > 0 && nodes == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (sim_graph_node_find(nodes[i]) == NULL)
            return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

static CUresult begin_to_graph(CUstream handle, CUgraph graph, const CUgraphNode *dependencies,
                               const CUgraphEdgeData *data, size_t count, CUstreamCaptureMode mode,
                               bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result == CUDA_SUCCESS && sim_graph_find(graph) == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = check_nodes(dependencies, count);
    return result == CUDA_SUCCESS
               ? sim_capture_begin(stream, mode, graph,
                                   (struct sim_graph_node *const *)dependencies, data, count)
               : result;
}

static CUresult finish(CUstream handle, CUgraph *graph, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    return graph == NULL ? CUDA_ERROR_INVALID_VALUE : sim_capture_finish(stream, graph);
}

CUresult CUDAAPI cuStreamBeginCapture(CUstream stream) {
    return begin(stream, CU_STREAM_CAPTURE_MODE_GLOBAL, false);
}
CUresult CUDAAPI cuStreamBeginCapture_ptsz(CUstream stream) {
    return begin(stream, CU_STREAM_CAPTURE_MODE_GLOBAL, true);
}
CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
    return begin(stream, mode, false);
}
CUresult CUDAAPI cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode) {
    return begin(stream, mode, true);
}
CUresult CUDAAPI cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph,
                                             const CUgraphNode *dependencies,
                                             const CUgraphEdgeData *data, size_t count,
                                             CUstreamCaptureMode mode) {
    return begin_to_graph(stream, graph, dependencies, data, count, mode, false);
}
CUresult CUDAAPI cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph,
                                                  const CUgraphNode *dependencies,
                                                  const CUgraphEdgeData *data, size_t count,
                                                  CUstreamCaptureMode mode) {
    return begin_to_graph(stream, graph, dependencies, data, count, mode, true);
}
CUresult CUDAAPI cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    return finish(stream, graph, false);
}
CUresult CUDAAPI cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph) {
    return finish(stream, graph, true);
}

CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    CUresult result = sim_ready();
    return result != CUDA_SUCCESS ? result : sim_capture_exchange_mode(mode);
}

/* ---- Asking -------------------------------------------------------------------------------- */

/* Enters a call that only asks. In the legacy default stream it has no answer while a stream of its
 * order captures; the capture goes on. */
static CUresult enter_asking(CUstream handle, bool per_thread, struct sim_stream **stream) {
    CUresult result = sim_stream_enter(handle, per_thread, stream);
    if (result == CUDA_SUCCESS && (*stream)->legacy &&
        atomic_load_explicit(&(*stream)->exec->capturing, memory_order_relaxed) != 0)
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    return result;
}

static CUresult is_capturing(CUstream handle, CUstreamCaptureStatus *status, bool per_thread) {
    struct sim_stream *stream;
    struct sim_capture_info info;
    CUresult result = enter_asking(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (status == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_info(stream, &info);
    *status = info.status;
    return result;
}

/* Whether a form of the call that gives no edge data would hide some. */
static bool has_edge_data(const struct sim_edges *ends) {
    for (size_t i = 0; i < ends->count; i++)
        if (ends->data[i].from_port != 0 || ends->data[i].to_port != 0 || ends->data[i].type != 0)
            return true;
    return false;
}

static CUresult get_info(CUstream handle, CUstreamCaptureStatus *status, cuuint64_t *id,
                         CUgraph *graph, const CUgraphNode **dependencies,
                         const CUgraphEdgeData **data, size_t *count, bool per_thread) {
    struct sim_stream *stream;
    struct sim_capture_info info;
    CUresult result = enter_asking(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (status == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_info(stream, &info);
    *status = info.status;
    if (result != CUDA_SUCCESS || info.status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return result;
    if (dependencies != NULL && data == NULL && has_edge_data(info.ends))
        return CUDA_ERROR_LOSSY_QUERY;
    if (id != NULL)
        *id = info.id;
    if (graph != NULL)
        *graph = info.graph;
    if (dependencies != NULL)
        *dependencies = (const CUgraphNode *)info.ends->node;
    if (data != NULL)
        *data = info.ends->data;
    if (count != NULL)
        *count = info.ends->count;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    return is_capturing(stream, status, false);
}
CUresult CUDAAPI cuStreamIsCapturing_ptsz(CUstream stream, CUstreamCaptureStatus *status) {
    return is_capturing(stream, status, true);
}
CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus *status,
                                        cuuint64_t *id) {
    return get_info(stream, status, id, NULL, NULL, NULL, NULL, false);
}
CUresult CUDAAPI cuStreamGetCaptureInfo_ptsz(CUstream stream, CUstreamCaptureStatus *status,
                                             cuuint64_t *id) {
    return get_info(stream, status, id, NULL, NULL, NULL, NULL, true);
}
CUresult CUDAAPI cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus *status,
                                           cuuint64_t *id, CUgraph *graph,
                                           const CUgraphNode **dependencies, size_t *count) {
    return get_info(stream, status, id, graph, dependencies, NULL, count, false);
}
CUresult CUDAAPI cuStreamGetCaptureInfo_v2_ptsz(CUstream stream, CUstreamCaptureStatus *status,
                                                cuuint64_t *id, CUgraph *graph,
                                                const CUgraphNode **dependencies, size_t *count) {
    return get_info(stream, status, id, graph, dependencies, NULL, count, true);
}
CUresult CUDAAPI cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus *status,
                                           cuuint64_t *id, CUgraph *graph,
                                           const CUgraphNode **dependencies,
                                           const CUgraphEdgeData **data, size_t *count) {
    return get_info(stream, status, id, graph, dependencies, data, count, false);
}
CUresult CUDAAPI cuStreamGetCaptureInfo_v3_ptsz(CUstream stream, CUstreamCaptureStatus *status,
                                                cuuint64_t *id, CUgraph *graph,
                                                const CUgraphNode **dependencies,
                                                const CUgraphEdgeData **data, size_t *count) {
    return get_info(stream, status, id, graph, dependencies, data, count, true);
}

/* ---- Changing ------------------------------------------------------------------------------ */

static CUresult update(CUstream handle, CUgraphNode *dependencies, const CUgraphEdgeData *data,
                       size_t count, unsigned flags, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = enter_asking(handle, per_thread, &stream);
    if (result == CUDA_SUCCESS && flags != CU_STREAM_ADD_CAPTURE_DEPENDENCIES &&
        flags != CU_STREAM_SET_CAPTURE_DEPENDENCIES)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = check_nodes(dependencies, count);
    return result == CUDA_SUCCESS
               ? sim_capture_update(stream, (struct sim_graph_node *const *)dependencies, data,
                                    count, flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
               : result;
}

CUresult CUDAAPI cuStreamUpdateCaptureDependencies(CUstream stream, CUgraphNode *dependencies,
                                                   size_t count, unsigned flags) {
    return update(stream, dependencies, NULL, count, flags, false);
}
CUresult CUDAAPI cuStreamUpdateCaptureDependencies_ptsz(CUstream stream, CUgraphNode *dependencies,
                                                        size_t count, unsigned flags) {
    return update(stream, dependencies, NULL, count, flags, true);
}
CUresult CUDAAPI cuStreamUpdateCaptureDependencies_v2(CUstream stream, CUgraphNode *dependencies,
                                                      const CUgraphEdgeData *data, size_t count,
                                                      unsigned flags) {
    return update(stream, dependencies, data, count, flags, false);
}
CUresult CUDAAPI cuStreamUpdateCaptureDependencies_v2_ptsz(CUstream stream,
                                                           CUgraphNode *dependencies,
                                                           const CUgraphEdgeData *data,
                                                           size_t count, unsigned flags) {
    return update(stream, dependencies, data, count, flags, true);
}
