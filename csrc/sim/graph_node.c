/* The calls that read and change what a node of a graph does. */
#include "graph.h"

#include <string.h>

/* ---- Reading ------------------------------------------------------------------------------- */

/* Copies `bytes` of a node's description, which must be of that type. */
static CUresult get(CUgraphNode handle, CUgraphNodeType type, void *out, size_t bytes) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    const struct sim_graph_node *node = sim_graph_node_find(handle);
    if (node == NULL || out == NULL || node->params.api.type != type)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        memcpy(out, &node->params.api.kernel, bytes); /* all start where the union does */
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1 *params) {
    return get(node, CU_GRAPH_NODE_TYPE_KERNEL, params, sizeof *params);
}
CUresult CUDAAPI cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS *params) {
    return get(node, CU_GRAPH_NODE_TYPE_KERNEL, params, sizeof *params);
}
CUresult CUDAAPI cuGraphMemsetNodeGetParams(CUgraphNode node, CUDA_MEMSET_NODE_PARAMS *params) {
    return get(node, CU_GRAPH_NODE_TYPE_MEMSET, params, sizeof *params);
}
CUresult CUDAAPI cuGraphHostNodeGetParams(CUgraphNode node, CUDA_HOST_NODE_PARAMS *params) {
    return get(node, CU_GRAPH_NODE_TYPE_HOST, params, sizeof *params);
}
CUresult CUDAAPI cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph *graph) {
    return get(node, CU_GRAPH_NODE_TYPE_GRAPH, graph, sizeof *graph);
}
CUresult CUDAAPI cuGraphEventRecordNodeGetEvent(CUgraphNode node, CUevent *event) {
    return get(node, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event, sizeof *event);
}
CUresult CUDAAPI cuGraphEventWaitNodeGetEvent(CUgraphNode node, CUevent *event) {
    return get(node, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event, sizeof *event);
}
CUresult CUDAAPI cuGraphBatchMemOpNodeGetParams(CUgraphNode node,
                                                CUDA_BATCH_MEM_OP_NODE_PARAMS *params) {
    return get(node, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, params, sizeof *params);
}
CUresult CUDAAPI cuGraphMemAllocNodeGetParams(CUgraphNode node,
                                              CUDA_MEM_ALLOC_NODE_PARAMS *params) {
    return get(node, CU_GRAPH_NODE_TYPE_MEM_ALLOC, params, sizeof *params);
}
CUresult CUDAAPI cuGraphMemFreeNodeGetParams(CUgraphNode node, CUdeviceptr *ptr) {
    return get(node, CU_GRAPH_NODE_TYPE_MEM_FREE, ptr, sizeof *ptr);
}

CUresult CUDAAPI cuGraphMemcpyNodeGetParams(CUgraphNode node, CUDA_MEMCPY3D *params) {
    CUDA_MEMCPY_NODE_PARAMS own;
    CUresult result = get(node, CU_GRAPH_NODE_TYPE_MEMCPY, &own, sizeof own);
    if (result == CUDA_SUCCESS && params == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        *params = own.copyParams;
    return result;
}

CUresult CUDAAPI cuGraphNodeGetParams(CUgraphNode handle, CUgraphNodeParams *params) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    const struct sim_graph_node *node = sim_graph_node_find(handle);
    if (node == NULL || params == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        *params = node->params.api;
    sim_graph_leave();
    return result;
}

/* ---- Changing ------------------------------------------------------------------------------ */

/* G: whether a node may get a new description of that type: memory keeps what it was made with. */
static bool can_set(const struct sim_graph_node *node, CUgraphNodeType type) {
    return node != NULL && node->graph->exec == NULL && node->params.api.type == type &&
           type != CU_GRAPH_NODE_TYPE_MEM_ALLOC && type != CU_GRAPH_NODE_TYPE_MEM_FREE &&
           type != CU_GRAPH_NODE_TYPE_GRAPH;
}

/* A kernel node keeps its attributes. */
static CUresult set(CUgraphNode handle, const CUgraphNodeParams *given) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (given == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    sim_graph_enter();
    struct sim_graph_node *node = sim_graph_node_find(handle);
    struct sim_node_params params;
    if (!can_set(node, given->type)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        const struct sim_launch_attributes *attributes =
            given->type == CU_GRAPH_NODE_TYPE_KERNEL ? &sim_kernel_store(&node->params)->attributes
                                                     : NULL;
        result = sim_node_params_take(given, attributes, &params);
        if (result == CUDA_SUCCESS) {
            sim_node_params_free(&node->params);
            node->params = params;
        }
    }
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphKernelNodeSetParams(CUgraphNode node,
                                            const CUDA_KERNEL_NODE_PARAMS_v1 *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    if (given != NULL)
        memcpy(&params.kernel, given, sizeof *given); /* the newer forms only go on behind it */
    return set(node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphKernelNodeSetParams_v2(CUgraphNode node,
                                               const CUDA_KERNEL_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    if (given != NULL)
        memcpy(&params.kernel, given, sizeof *given);
    return set(node, given != NULL ? &params : NULL);
}

/* The context of a node whose call gives none. */
static CUcontext context_of(CUgraphNode handle) {
    sim_graph_enter();
    const struct sim_graph_node *node = sim_graph_node_find(handle);
    CUcontext ctx = NULL;
    if (node != NULL && node->params.api.type == CU_GRAPH_NODE_TYPE_MEMCPY)
        ctx = node->params.api.memcpy.copyCtx;
    else if (node != NULL && node->params.api.type == CU_GRAPH_NODE_TYPE_MEMSET)
        ctx = node->params.api.memset.ctx;
    sim_graph_leave();
    return ctx;
}

CUresult CUDAAPI cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};
    if (given != NULL)
        params.memcpy.copyParams = *given;
    params.memcpy.copyCtx = context_of(node);
    return set(node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphMemsetNodeSetParams(CUgraphNode node,
                                            const CUDA_MEMSET_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMSET};
    if (given != NULL)
        memcpy(&params.memset, given, sizeof *given);
    params.memset.ctx = context_of(node);
    return set(node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphHostNodeSetParams(CUgraphNode node, const CUDA_HOST_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_HOST};
    if (given != NULL)
        memcpy(&params.host, given, sizeof *given);
    return set(node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphEventRecordNodeSetEvent(CUgraphNode node, CUevent event) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD,
                                .eventRecord = {.event = event}};
    return set(node, &params);
}
CUresult CUDAAPI cuGraphEventWaitNodeSetEvent(CUgraphNode node, CUevent event) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT,
                                .eventWait = {.event = event}};
    return set(node, &params);
}
CUresult CUDAAPI cuGraphBatchMemOpNodeSetParams(CUgraphNode node,
                                                const CUDA_BATCH_MEM_OP_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};
    if (given != NULL)
        memcpy(&params.memOp, given, sizeof *given);
    return set(node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphNodeSetParams(CUgraphNode node, CUgraphNodeParams *params) {
    return set(node, params);
}
CUresult CUDAAPI cuGraphNodeSetParams_v2(CUgraphNode node, CUgraphNodeParams *params) {
    return set(node, params);
}

/* ---- Attributes of kernel nodes ------------------------------------------------------------ */

/* G: a kernel node's own store, or NULL. */
static struct sim_kernel_store *find_kernel(CUgraphNode handle) {
    struct sim_graph_node *node = sim_graph_node_find(handle);
    return node == NULL || node->params.api.type != CU_GRAPH_NODE_TYPE_KERNEL
               ? NULL
               : sim_kernel_store(&node->params);
}

static bool of_nodes(CUkernelNodeAttrID id) {
    switch (id) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    case CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING:
    case CU_LAUNCH_ATTRIBUTE_PORTABLE_CLUSTER_SIZE_MODE:
    case CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE:
        return true;
    default:
        return false;
    }
}

CUresult CUDAAPI cuGraphKernelNodeGetAttribute(CUgraphNode handle, CUkernelNodeAttrID id,
                                               CUkernelNodeAttrValue *value) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    const struct sim_kernel_store *store = find_kernel(handle);
    if (store == NULL || value == NULL || !of_nodes(id))
        result = CUDA_ERROR_INVALID_VALUE;
    else
        *value = store->attributes.value[id]; /* zero where it was not set */
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphKernelNodeSetAttribute(CUgraphNode handle, CUkernelNodeAttrID id,
                                               const CUkernelNodeAttrValue *value) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_kernel_store *store = find_kernel(handle);
    if (store == NULL || value == NULL || !of_nodes(id)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        struct sim_launch_attributes before = store->attributes;
        result = sim_launch_attribute_set(&store->attributes, id, value);
        if (result == CUDA_SUCCESS)
            result = sim_kernel_alive(store) ? sim_launch_check(&store->launch)
                                             : CUDA_ERROR_INVALID_VALUE;
        if (result != CUDA_SUCCESS)
            store->attributes = before;
    }
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_kernel_store *to = find_kernel(dst);
    const struct sim_kernel_store *from = find_kernel(src);
    if (to == NULL || from == NULL || to->launch.ctx != from->launch.ctx)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        to->attributes = from->attributes;
    sim_graph_leave();
    return result;
}
