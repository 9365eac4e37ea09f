/* The calls that build graphs and ask for their structure. */
#include "graph.h"

#include <string.h>

/* ---- Graphs -------------------------------------------------------------------------------- */

CUresult CUDAAPI cuGraphCreate(CUgraph *handle, unsigned flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    sim_graph_enter();
    struct sim_graph *graph = sim_graph_make();
    sim_graph_leave();
    if (graph == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = (CUgraph)graph;
    return CUDA_SUCCESS;
}

/* Whether a graph is the application's to change: no executable's and not being captured into. */
static bool is_open(const struct sim_graph *graph) { return graph != NULL && graph->exec == NULL; }

CUresult CUDAAPI cuGraphDestroy(CUgraph handle) {
    struct sim_graph_object *objects = NULL;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_graph *graph = sim_graph_find(handle);
    if (!is_open(graph) || graph->parent != NULL || graph->capturing)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        sim_graph_unmake(graph, &objects);
    sim_graph_leave();
    sim_graph_objects_release(objects);
    return result;
}

CUresult CUDAAPI cuGraphClone(CUgraph *clone, CUgraph original) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (clone == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    sim_graph_enter();
    struct sim_graph *graph = sim_graph_find(original), *copy = NULL;
    result = !is_open(graph) || graph->capturing ? CUDA_ERROR_INVALID_VALUE
                                                 : sim_graph_copy(graph, false, &copy);
    sim_graph_leave();
    if (result == CUDA_SUCCESS)
        *clone = (CUgraph)copy;
    return result;
}

CUresult CUDAAPI cuGraphGetId(CUgraph handle, unsigned *id) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_graph *graph = sim_graph_find(handle);
    if (graph == NULL || id == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *id = graph->id;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphNodeFindInClone(CUgraphNode *found, CUgraphNode original, CUgraph clone) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    const struct sim_graph_node *node = sim_graph_node_find(original);
    const struct sim_graph *graph = sim_graph_find(clone);
    struct sim_graph_node *copy = NULL;
    if (found != NULL && node != NULL && graph != NULL && graph->cloned_from == node->graph->id)
        copy = sim_graph_node_by_id(graph, node->id);
    sim_graph_leave();
    if (copy == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *found = (CUgraphNode)copy;
    return CUDA_SUCCESS;
}

/* ---- Lists of nodes and edges -------------------------------------------------------------- */

/* Where a call puts what it lists: `room` places, of which `count` are taken. */
struct list {
    CUgraphNode *first, *second; /* the second end of edges, or NULL */
    CUgraphEdgeData *data;       /* or NULL */
    size_t room, count;
    bool lossy; /* the call has no place for edge data, and there was some */
};

static bool plain(const CUgraphEdgeData *data) {
    static const CUgraphEdgeData none;
    return memcmp(data, &none, sizeof none) == 0;
}

static void put(struct list *list, struct sim_graph_node *first, struct sim_graph_node *second,
                const CUgraphEdgeData *data) {
    if (data != NULL && list->data == NULL && !plain(data))
        list->lossy = true;
    if (list->first != NULL && list->count < list->room) {
        list->first[list->count] = (CUgraphNode)first;
        if (list->second != NULL)
            list->second[list->count] = (CUgraphNode)second;
        if (list->data != NULL && data != NULL)
            list->data[list->count] = *data;
    }
    list->count++;
}

/* Clears the places that are left, and says how many there were to list. */
static CUresult finish(struct list *list, bool edge_data, size_t *count) {
    if (list->lossy && list->first != NULL && !edge_data)
        return CUDA_ERROR_LOSSY_QUERY;
    for (size_t i = list->count; list->first != NULL && i < list->room; i++) {
        list->first[i] = NULL;
        if (list->second != NULL)
            list->second[i] = NULL;
    }
    *count = list->first == NULL || list->count < list->room ? list->count : list->room;
    return CUDA_SUCCESS;
}

static CUresult list_nodes(CUgraph handle, CUgraphNode *nodes, size_t *count, bool roots) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct list list = {.first = nodes, .room = *count};
    sim_graph_enter();
    const struct sim_graph *graph = sim_graph_find(handle);
    for (size_t i = 0; graph != NULL && i < graph->count; i++)
        if (!roots || graph->nodes[i]->before.count == 0)
            put(&list, graph->nodes[i], NULL, NULL);
    sim_graph_leave();
    return graph == NULL ? CUDA_ERROR_INVALID_VALUE : finish(&list, true, count);
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    return list_nodes(graph, nodes, count, false);
}
CUresult CUDAAPI cuGraphGetRootNodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    return list_nodes(graph, nodes, count, true);
}

static CUresult list_edges(CUgraph handle, CUgraphNode *from, CUgraphNode *to,
                           CUgraphEdgeData *data, bool edge_data, size_t *count) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL || (from == NULL) != (to == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    struct list list = {.first = from, .second = to, .data = data, .room = *count};
    sim_graph_enter();
    const struct sim_graph *graph = sim_graph_find(handle);
    for (size_t i = 0; graph != NULL && i < graph->count; i++) {
        struct sim_graph_node *node = graph->nodes[i];
        for (size_t j = 0; j < node->after.count; j++)
            put(&list, node, node->after.node[j], &node->after.data[j]);
    }
    sim_graph_leave();
    return graph == NULL ? CUDA_ERROR_INVALID_VALUE : finish(&list, edge_data && data, count);
}

CUresult CUDAAPI cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count) {
    return list_edges(graph, from, to, NULL, false, count);
}
CUresult CUDAAPI cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *from, CUgraphNode *to,
                                    CUgraphEdgeData *data, size_t *count) {
    return list_edges(graph, from, to, data, true, count);
}

static CUresult list_neighbours(CUgraphNode handle, CUgraphNode *nodes, CUgraphEdgeData *data,
                                size_t *count, bool after) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct list list = {.first = nodes, .data = data, .room = *count};
    sim_graph_enter();
    const struct sim_graph_node *node = sim_graph_node_find(handle);
    if (node != NULL) {
        const struct sim_edges *edges = after ? &node->after : &node->before;
        for (size_t i = 0; i < edges->count; i++)
            put(&list, edges->node[i], NULL, &edges->data[i]);
    }
    sim_graph_leave();
    return node == NULL ? CUDA_ERROR_INVALID_VALUE : finish(&list, data != NULL, count);
}

CUresult CUDAAPI cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode *nodes, size_t *count) {
    return list_neighbours(node, nodes, NULL, count, false);
}
CUresult CUDAAPI cuGraphNodeGetDependencies_v2(CUgraphNode node, CUgraphNode *nodes,
                                               CUgraphEdgeData *data, size_t *count) {
    return list_neighbours(node, nodes, data, count, false);
}
CUresult CUDAAPI cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode *nodes, size_t *count) {
    return list_neighbours(node, nodes, NULL, count, true);
}
CUresult CUDAAPI cuGraphNodeGetDependentNodes_v2(CUgraphNode node, CUgraphNode *nodes,
                                                 CUgraphEdgeData *data, size_t *count) {
    return list_neighbours(node, nodes, data, count, true);
}

/* ---- Edges --------------------------------------------------------------------------------- */

/* All edges are made, or taken away, or none. */
static CUresult change_edges(CUgraph handle, const CUgraphNode *from, const CUgraphNode *to,
                             const CUgraphEdgeData *data, size_t count, bool add) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS || count == 0)
        return result;
    if (from == NULL || to == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    sim_graph_enter();
    const struct sim_graph *graph = sim_graph_find(handle);
    if (!is_open(graph))
        result = CUDA_ERROR_INVALID_VALUE;
    else if (!add && graph->allocations > 0)
        result = CUDA_ERROR_NOT_SUPPORTED;
    size_t done = 0;
    for (; done < count && result == CUDA_SUCCESS; done++) {
        struct sim_graph_node *a = sim_graph_node_find(from[done]);
        struct sim_graph_node *b = sim_graph_node_find(to[done]);
        const CUgraphEdgeData *kind = data != NULL ? &data[done] : NULL;
        if (a == NULL || b == NULL || a->graph != graph || b->graph != graph)
            result = CUDA_ERROR_INVALID_VALUE;
        else
            result = add ? sim_graph_connect(a, b, kind) : sim_graph_disconnect(a, b, kind);
    }
    if (result != CUDA_SUCCESS && done > 0)
        for (size_t i = done - 1; i-- > 0;) {
            struct sim_graph_node *a = sim_graph_node_find(from[i]);
            struct sim_graph_node *b = sim_graph_node_find(to[i]);
            const CUgraphEdgeData *kind = data != NULL ? &data[i] : NULL;
            if (add)
                sim_graph_disconnect(a, b, kind);
            else
                sim_graph_connect(a, b, kind);
        }
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from,
                                        const CUgraphNode *to, size_t count) {
    return change_edges(graph, from, to, NULL, count, true);
}
CUresult CUDAAPI cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from,
                                           const CUgraphNode *to, const CUgraphEdgeData *data,
                                           size_t count) {
    return change_edges(graph, from, to, data, count, true);
}
CUresult CUDAAPI cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode *from,
                                           const CUgraphNode *to, size_t count) {
    return change_edges(graph, from, to, NULL, count, false);
}
CUresult CUDAAPI cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode *from,
                                              const CUgraphNode *to, const CUgraphEdgeData *data,
                                              size_t count) {
    return change_edges(graph, from, to, data, count, false);
}

/* ---- Nodes --------------------------------------------------------------------------------- */

CUresult CUDAAPI cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType *type) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_graph_node *node = sim_graph_node_find(handle);
    if (node == NULL || type == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *type = node->params.api.type;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphNodeGetContainingGraph(CUgraphNode handle, CUgraph *graph) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_graph_node *node = sim_graph_node_find(handle);
    if (node == NULL || graph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *graph = (CUgraph)node->graph;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphNodeGetLocalId(CUgraphNode handle, unsigned *id) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_graph_node *node = sim_graph_node_find(handle);
    if (node == NULL || id == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *id = node->id;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphNodeGetToolsId(CUgraphNode handle, unsigned long long *id) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_graph_node *node = sim_graph_node_find(handle);
    if (node == NULL || id == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *id = (unsigned long long)node->graph->id << 32 | node->id;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphDestroyNode(CUgraphNode handle) {
    struct sim_graph_object *objects = NULL;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_graph_node *node = sim_graph_node_find(handle);
    if (node == NULL || !is_open(node->graph) || node->graph->capturing)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (node->graph->allocations > 0)
        result = CUDA_ERROR_NOT_SUPPORTED;
    else
        sim_graph_remove(node, &objects);
    sim_graph_leave();
    sim_graph_objects_release(objects);
    return result;
}

/* ---- Adding nodes -------------------------------------------------------------------------- */

static CUresult add(CUgraphNode *handle, CUgraph graph_handle, const CUgraphNode *before,
                    const CUgraphEdgeData *data, size_t count, const CUgraphNodeParams *given,
                    struct sim_graph_node **made) {
    struct sim_node_params params;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL || given == NULL || (count > 0 && before == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    sim_graph_enter();
    struct sim_graph *graph = sim_graph_find(graph_handle);
    if (!is_open(graph))
        result = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        if (sim_graph_node_find(before[i]) == NULL)
            result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = sim_node_params_take(given, NULL, &params);
    if (result == CUDA_SUCCESS) {
        result = sim_graph_add(graph, (struct sim_graph_node *const *)before, data, count, &params,
                               made);
        if (result != CUDA_SUCCESS)
            sim_node_params_free(&params);
    }
    sim_graph_leave();
    if (result == CUDA_SUCCESS)
        *handle = (CUgraphNode)*made;
    return result;
}

static CUresult add_generic(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                            const CUgraphEdgeData *data, size_t count, CUgraphNodeParams *params) {
    struct sim_graph_node *made;
    if (params != NULL && (params->reserved0[0] != 0 || params->reserved0[1] != 0 ||
                           params->reserved0[2] != 0 || params->reserved2 != 0))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = add(node, graph, before, data, count, params, &made);
    if (result == CUDA_SUCCESS && params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        params->alloc.dptr = made->params.api.alloc.dptr;
    if (result == CUDA_SUCCESS && params->type == CU_GRAPH_NODE_TYPE_GRAPH)
        params->graph.graph = made->params.api.graph.graph;
    return result;
}

CUresult CUDAAPI cuGraphAddNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                size_t count, CUgraphNodeParams *params) {
    return add_generic(node, graph, before, NULL, count, params);
}
CUresult CUDAAPI cuGraphAddNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                   const CUgraphEdgeData *data, size_t count,
                                   CUgraphNodeParams *params) {
    return add_generic(node, graph, before, data, count, params);
}
CUresult CUDAAPI cuGraphAddNode_v3(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                   const CUgraphEdgeData *data, size_t count,
                                   CUgraphNodeParams *params) {
    return add_generic(node, graph, before, data, count, params);
}

/* The calls of one type each. */
static CUresult add_typed(CUgraphNode *node, CUgraph graph, const CUgraphNode *before, size_t count,
                          const CUgraphNodeParams *params) {
    struct sim_graph_node *made;
    return add(node, graph, before, NULL, count, params, &made);
}

CUresult CUDAAPI cuGraphAddKernelNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                      size_t count, const CUDA_KERNEL_NODE_PARAMS_v1 *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    if (given != NULL)
        memcpy(&params.kernel, given, sizeof *given); /* the newer forms only go on behind it */
    return add_typed(node, graph, before, count, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph,
                                         const CUgraphNode *before, size_t count,
                                         const CUDA_KERNEL_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    if (given != NULL)
        memcpy(&params.kernel, given, sizeof *given);
    return add_typed(node, graph, before, count, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                      size_t count, const CUDA_MEMCPY3D *given, CUcontext ctx) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};
    if (given != NULL)
        params.memcpy.copyParams = *given;
    params.memcpy.copyCtx = ctx;
    return add_typed(node, graph, before, count, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                      size_t count, const CUDA_MEMSET_NODE_PARAMS *given,
                                      CUcontext ctx) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMSET};
    if (given != NULL)
        memcpy(&params.memset, given, sizeof *given);
    params.memset.ctx = ctx;
    return add_typed(node, graph, before, count, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                    size_t count, const CUDA_HOST_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_HOST};
    if (given != NULL)
        memcpy(&params.host, given, sizeof *given);
    return add_typed(node, graph, before, count, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphAddChildGraphNode(CUgraphNode *node, CUgraph graph,
                                          const CUgraphNode *before, size_t count, CUgraph child) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_GRAPH, .graph = {.graph = child}};
    return add_typed(node, graph, before, count, &params);
}
CUresult CUDAAPI cuGraphAddEmptyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                     size_t count) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EMPTY};
    return add_typed(node, graph, before, count, &params);
}
CUresult CUDAAPI cuGraphAddEventRecordNode(CUgraphNode *node, CUgraph graph,
                                           const CUgraphNode *before, size_t count, CUevent event) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD,
                                .eventRecord = {.event = event}};
    return add_typed(node, graph, before, count, &params);
}
CUresult CUDAAPI cuGraphAddEventWaitNode(CUgraphNode *node, CUgraph graph,
                                         const CUgraphNode *before, size_t count, CUevent event) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT,
                                .eventWait = {.event = event}};
    return add_typed(node, graph, before, count, &params);
}
CUresult CUDAAPI cuGraphAddBatchMemOpNode(CUgraphNode *node, CUgraph graph,
                                          const CUgraphNode *before, size_t count,
                                          const CUDA_BATCH_MEM_OP_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};
    if (given != NULL)
        memcpy(&params.memOp, given, sizeof *given);
    return add_typed(node, graph, before, count, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphAddMemAllocNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                        size_t count, CUDA_MEM_ALLOC_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    if (given == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&params.alloc, given, sizeof *given);
    CUresult result = add_generic(node, graph, before, NULL, count, &params);
    if (result == CUDA_SUCCESS)
        given->dptr = params.alloc.dptr;
    return result;
}
CUresult CUDAAPI cuGraphAddMemFreeNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                       size_t count, CUdeviceptr ptr) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE, .free = {.dptr = ptr}};
    return add_typed(node, graph, before, count, &params);
}
