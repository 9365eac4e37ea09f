/* Memory allocated and freed in capturing streams: called by the calls that do it otherwise. */
#include "graph.h"

CUresult sim_capture_mem_alloc(struct sim_stream *stream, const CUmemPoolProps *props, size_t bytes,
                               CUdeviceptr *ptr) {
    const CUgraphNodeParams given = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC,
                                     .alloc = {.poolProps = *props, .bytesize = bytes}};
    struct sim_graph_node *node;
    CUresult result = sim_capture_node(stream, &given, NULL, &node);
    if (result == CUDA_SUCCESS)
        *ptr = node->params.api.alloc.dptr;
    return result;
}

CUresult sim_capture_mem_free(struct sim_stream *stream, CUdeviceptr ptr) {
    const CUgraphNodeParams given = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE, .free = {.dptr = ptr}};
    return sim_capture_node(stream, &given, NULL, NULL);
}
