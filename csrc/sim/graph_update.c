/* Changing executables: single nodes, whole graphs, switching nodes off. */
#include "graph_exec.h"

#include "copy.h"

#include <string.h>

/* ---- What may change ----------------------------------------------------------------------- */

static bool same_place(const struct sim_place *a, const struct sim_place *b) {
    return a->dev == b->dev && (a->where == SIM_WHERE_DEVICE) == (b->where == SIM_WHERE_DEVICE);
}

/* A copy keeps its kinds of memory and its devices. */
static CUgraphExecUpdateResult check_copy(const CUDA_MEMCPY_NODE_PARAMS *old,
                                          const CUDA_MEMCPY_NODE_PARAMS *new) {
    struct sim_copy before, after;
    const CUDA_MEMCPY3D *a = &old->copyParams, *b = &new->copyParams;
    if (a->srcMemoryType != b->srcMemoryType || a->dstMemoryType != b->dstMemoryType)
        return CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
    if (sim_copy_read(a, true, &before) != CUDA_SUCCESS) /* its memory is gone: anything goes */
        return CU_GRAPH_EXEC_UPDATE_SUCCESS;
    if (sim_copy_read(b, true, &after) != CUDA_SUCCESS)
        return CU_GRAPH_EXEC_UPDATE_ERROR;
    return same_place(&before.src, &after.src) && same_place(&before.dst, &after.dst)
               ? CU_GRAPH_EXEC_UPDATE_SUCCESS
               : CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
}

/* A fill of several rows keeps its shape. */
static CUgraphExecUpdateResult check_fill(const CUDA_MEMSET_NODE_PARAMS_v2 *old,
                                          const CUDA_MEMSET_NODE_PARAMS_v2 *new) {
    struct sim_memory_info before, after;
    bool rows = old->height > 1 || new->height > 1;
    if (rows && (old->width != new->width || old->height != new->height ||
                 old->pitch != new->pitch || old->elementSize != new->elementSize))
        return CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
    return sim_memory_find(old->dst, &before) && sim_memory_find(new->dst, &after) &&
                   before.dev != after.dev
               ? CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED
               : CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

static int cooperative(const struct sim_kernel_store *store) {
    const CUlaunchAttributeValue *value =
        sim_launch_attribute(&store->launch, CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
    return value != NULL ? value->cooperative : 0;
}

static CUgraphExecUpdateResult check_kernel(const struct sim_graph_exec *exec,
                                            const struct sim_kernel_store *old,
                                            const struct sim_kernel_store *new) {
    const CUlaunchAttributeValue *a =
        sim_launch_attribute(&old->launch, CU_LAUNCH_ATTRIBUTE_PRIORITY);
    const CUlaunchAttributeValue *b =
        sim_launch_attribute(&new->launch, CU_LAUNCH_ATTRIBUTE_PRIORITY);
    if (old->launch.ctx != new->launch.ctx)
        return CU_GRAPH_EXEC_UPDATE_ERROR_FUNCTION_CHANGED;
    if (cooperative(old) != cooperative(new))
        return CU_GRAPH_EXEC_UPDATE_ERROR_ATTRIBUTES_CHANGED;
    if ((exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY) != 0 &&
        (a != NULL ? a->priority : 0) != (b != NULL ? b->priority : 0))
        return CU_GRAPH_EXEC_UPDATE_ERROR_ATTRIBUTES_CHANGED;
    return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

/* A batch keeps its context, its length and its operations. */
static CUgraphExecUpdateResult check_batch(const CUDA_BATCH_MEM_OP_NODE_PARAMS_v2 *old,
                                           const CUDA_BATCH_MEM_OP_NODE_PARAMS_v2 *new) {
    bool same = old->ctx == new->ctx && old->count == new->count;
    for (unsigned i = 0; same && i < old->count; i++)
        same = old->paramArray[i].operation == new->paramArray[i].operation;
    return same ? CU_GRAPH_EXEC_UPDATE_SUCCESS : CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
}

static CUgraphExecUpdateResult check(const struct sim_graph_exec *exec,
                                     const struct sim_node_params *old,
                                     const struct sim_node_params *new) {
    if (old->api.type != new->api.type)
        return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
    switch (old->api.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return check_kernel(exec, old->store, new->store);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return check_copy(&old->api.memcpy, &new->api.memcpy);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return check_fill(&old->api.memset, &new->api.memset);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return check_batch(&old->api.memOp, &new->api.memOp);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        return old->api.alloc.dptr == new->api.alloc.dptr
                   ? CU_GRAPH_EXEC_UPDATE_SUCCESS
                   : CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return old->api.free.dptr == new->api.free.dptr ? CU_GRAPH_EXEC_UPDATE_SUCCESS
                                                        : CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
    default:
        return CU_GRAPH_EXEC_UPDATE_SUCCESS;
    }
}

/* ---- Whole graphs -------------------------------------------------------------------------- */

/* An update under way: nodes of the new graph are paired with those of the executable by `index`
 * of the new one, which is the place of its partner. */
struct update {
    struct sim_graph_exec *exec;
    CUgraphExecUpdateResult result;
    struct sim_graph_node *node, *from; /* where it failed */
};

static bool fail(struct update *update, CUgraphExecUpdateResult result, struct sim_graph_node *node,
                 struct sim_graph_node *from) {
    update->result = result;
    update->node = node;
    update->from = from;
    return false;
}

/* Pairs two nodes and all that they depend on, in the order of their edges. */
static bool pair(struct update *update, struct sim_graph_node *old, struct sim_graph_node *new,
                 uint64_t mark, struct sim_edges *stack) {
    stack->count = 0;
    if (new->mark == mark)
        return true;
    new->mark = old->mark = mark;
    new->index = old->index;
    if (!sim_edges_add(stack, new, NULL))
        return fail(update, CU_GRAPH_EXEC_UPDATE_ERROR, NULL, NULL);
    while (stack->count > 0) {
        new = stack->node[--stack->count];
        old = old->graph->nodes[new->index];
        if (old->before.count != new->before.count)
            return fail(update, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, new, NULL);
        for (size_t i = 0; i < new->before.count; i++) {
            struct sim_graph_node *a = old->before.node[i], *b = new->before.node[i];
            if (memcmp(&old->before.data[i], &new->before.data[i], sizeof *new->before.data) != 0 ||
                (a->mark == mark) != (b->mark == mark) || (b->mark == mark && b->index != a->index))
                return fail(update, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, new, b);
            if (b->mark == mark)
                continue;
            a->mark = b->mark = mark;
            b->index = a->index;
            if (!sim_edges_add(stack, b, NULL))
                return fail(update, CU_GRAPH_EXEC_UPDATE_ERROR, NULL, NULL);
        }
    }
    return true;
}

/* Pairs all nodes, starting from those that nothing depends on, in the order of their making. */
static bool pair_all(struct update *update, const struct sim_graph *old,
                     const struct sim_graph *new) {
    struct sim_edges stack = {0};
    uint64_t mark = sim_graph_mark();
    bool ok = old->count == new->count ||
              fail(update, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, NULL, NULL);
    for (size_t i = 0; i < old->count; i++)
        old->nodes[i]->index = (uint32_t)i;
    size_t place = 0;
    for (size_t i = 0; ok && i < new->count; i++) {
        if (new->nodes[i]->after.count > 0)
            continue;
        while (place < old->count && old->nodes[place]->after.count > 0)
            place++;
        if (place == old->count)
            ok = fail(update, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, new->nodes[i], NULL);
        else
            ok = pair(update, old->nodes[place++], new->nodes[i], mark, &stack);
    }
    sim_edges_free(&stack);
    return ok;
}

/* Checks, or makes, the change of every node. Child graphs in turn. */
static bool update_graph(struct update *update, struct sim_graph *old, const struct sim_graph *new,
                         bool apply) {
    if (!pair_all(update, old, new))
        return false;
    for (size_t i = 0; i < new->count; i++) {
        struct sim_graph_node *node = new->nodes[i], *partner = old->nodes[node->index];
        CUgraphExecUpdateResult result = check(update->exec, &partner->params, &node->params);
        if (result != CU_GRAPH_EXEC_UPDATE_SUCCESS)
            return fail(update, result, node, NULL);
        if (node->params.api.type == CU_GRAPH_NODE_TYPE_GRAPH) {
            if (!update_graph(update, sim_graph_find(partner->params.api.graph.graph),
                              sim_graph_find(node->params.api.graph.graph), apply))
                return false;
            continue;
        }
        if (!apply)
            continue;
        struct sim_node_params params;
        if (sim_node_params_copy(&node->params, true, &params) != CUDA_SUCCESS)
            return fail(update, CU_GRAPH_EXEC_UPDATE_ERROR, node, NULL);
        sim_node_params_free(&partner->params);
        partner->params = params;
    }
    return true;
}

static CUresult update_exec(CUgraphExec handle, CUgraph graph_handle, struct update *update) {
    CUresult result = sim_ready();
    *update = (struct update){.result = CU_GRAPH_EXEC_UPDATE_ERROR};
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_graph_exec *exec = sim_graph_exec_find(handle);
    const struct sim_graph *graph = sim_graph_find(graph_handle);
    if (exec == NULL || graph == NULL || graph->capturing) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        update->exec = exec;
        /* All is checked before anything is changed. */
        if (update_graph(update, exec->graph, graph, false) &&
            update_graph(update, exec->graph, graph, true))
            update->result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
        else
            result = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
        sim_graph_exec_changed(exec);
    }
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *error_node,
                                   CUgraphExecUpdateResult *update_result) {
    struct update update;
    CUresult result = update_exec(exec, graph, &update);
    if (error_node != NULL)
        *error_node = (CUgraphNode)update.node;
    if (update_result != NULL)
        *update_result = update.result;
    return result;
}

CUresult CUDAAPI cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph,
                                      CUgraphExecUpdateResultInfo *info) {
    struct update update;
    CUresult result = update_exec(exec, graph, &update);
    if (info != NULL)
        *info = (CUgraphExecUpdateResultInfo){.result = update.result,
                                              .errorNode = (CUgraphNode)update.node,
                                              .errorFromNode = (CUgraphNode)update.from};
    return result;
}

/* ---- Single nodes -------------------------------------------------------------------------- */

static bool one_row(const CUDA_MEMCPY3D *copy) { return copy->Height <= 1 && copy->Depth <= 1; }

/* What the calls for one node ask beyond what updates of whole graphs do. */
static bool can_set(const struct sim_node_params *old, const struct sim_node_params *new) {
    switch (old->api.type) {
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return one_row(&old->api.memcpy.copyParams) && one_row(&new->api.memcpy.copyParams) &&
               new->api.memcpy.copyParams.WidthInBytes > 0;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return new->api.memset.width > 0 && new->api.memset.height > 0;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return false;
    default:
        return true;
    }
}

/* G: gives the executable's node a new description, which it takes over. */
static CUresult replace(struct sim_graph_exec *exec, struct sim_graph_node *node,
                        struct sim_node_params *params) {
    if (!can_set(&node->params, params) ||
        check(exec, &node->params, params) != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
        sim_node_params_free(params);
        return CUDA_ERROR_INVALID_VALUE;
    }
    sim_node_params_free(&node->params);
    node->params = *params;
    sim_graph_exec_changed(exec);
    return CUDA_SUCCESS;
}

static CUresult set(CUgraphExec handle, CUgraphNode node_handle, const CUgraphNodeParams *given) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_graph_exec *exec = sim_graph_exec_find(handle);
    const struct sim_graph_node *original = sim_graph_node_find(node_handle);
    struct sim_graph_node *node =
        exec == NULL || original == NULL ? NULL : sim_graph_exec_node(exec, original);
    struct sim_node_params params;
    if (node == NULL || given == NULL || node->params.api.type != given->type ||
        given->type == CU_GRAPH_NODE_TYPE_GRAPH) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        const struct sim_launch_attributes *attributes =
            given->type == CU_GRAPH_NODE_TYPE_KERNEL ? &sim_kernel_store(&node->params)->attributes
                                                     : NULL;
        result = sim_node_params_take(given, attributes, &params);
        if (result == CUDA_SUCCESS)
            result = replace(exec, node, &params);
    }
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                const CUDA_KERNEL_NODE_PARAMS_v1 *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    if (given != NULL)
        memcpy(&params.kernel, given, sizeof *given); /* the newer forms only go on behind it */
    return set(exec, node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                                   const CUDA_KERNEL_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    if (given != NULL)
        memcpy(&params.kernel, given, sizeof *given);
    return set(exec, node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                const CUDA_MEMCPY3D *given, CUcontext ctx) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};
    if (given != NULL)
        params.memcpy.copyParams = *given;
    params.memcpy.copyCtx = ctx;
    return set(exec, node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                const CUDA_MEMSET_NODE_PARAMS *given,
                                                CUcontext ctx) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMSET};
    if (given != NULL)
        memcpy(&params.memset, given, sizeof *given);
    params.memset.ctx = ctx;
    return set(exec, node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                              const CUDA_HOST_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_HOST};
    if (given != NULL)
        memcpy(&params.host, given, sizeof *given);
    return set(exec, node, given != NULL ? &params : NULL);
}
CUresult CUDAAPI cuGraphExecEventRecordNodeSetEvent(CUgraphExec exec, CUgraphNode node,
                                                    CUevent event) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD,
                                .eventRecord = {.event = event}};
    return set(exec, node, &params);
}
CUresult CUDAAPI cuGraphExecEventWaitNodeSetEvent(CUgraphExec exec, CUgraphNode node,
                                                  CUevent event) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT,
                                .eventWait = {.event = event}};
    return set(exec, node, &params);
}
CUresult CUDAAPI cuGraphExecBatchMemOpNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                    const CUDA_BATCH_MEM_OP_NODE_PARAMS *given) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};
    if (given != NULL)
        memcpy(&params.memOp, given, sizeof *given);
    return set(exec, node, given != NULL ? &params : NULL);
}

CUresult CUDAAPI cuGraphExecChildGraphNodeSetParams(CUgraphExec handle, CUgraphNode node_handle,
                                                    CUgraph child) {
    struct update update = {.result = CU_GRAPH_EXEC_UPDATE_ERROR};
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_graph_exec *exec = sim_graph_exec_find(handle);
    const struct sim_graph_node *original = sim_graph_node_find(node_handle);
    struct sim_graph_node *node =
        exec == NULL || original == NULL ? NULL : sim_graph_exec_node(exec, original);
    const struct sim_graph *graph = sim_graph_find(child);
    update.exec = exec;
    if (node == NULL || graph == NULL || graph->capturing ||
        node->params.api.type != CU_GRAPH_NODE_TYPE_GRAPH) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        struct sim_graph *own = sim_graph_find(node->params.api.graph.graph);
        if (!update_graph(&update, own, graph, false) || !update_graph(&update, own, graph, true))
            result = CUDA_ERROR_INVALID_VALUE;
        sim_graph_exec_changed(exec);
    }
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                          CUgraphNodeParams *params) {
    if (params != NULL && params->type == CU_GRAPH_NODE_TYPE_GRAPH)
        return cuGraphExecChildGraphNodeSetParams(exec, node, params->graph.graph);
    return set(exec, node, params);
}

/* ---- Switching off ------------------------------------------------------------------------- */

/* G: the executable's node, if it is one that can be switched off. */
static struct sim_graph_node *find_switchable(CUgraphExec handle, CUgraphNode node_handle,
                                              struct sim_graph_exec **exec) {
    const struct sim_graph_node *original = sim_graph_node_find(node_handle);
    *exec = sim_graph_exec_find(handle);
    struct sim_graph_node *node =
        *exec == NULL || original == NULL ? NULL : sim_graph_exec_node(*exec, original);
    if (node == NULL)
        return NULL;
    CUgraphNodeType type = node->params.api.type;
    return type == CU_GRAPH_NODE_TYPE_KERNEL || type == CU_GRAPH_NODE_TYPE_MEMSET ||
                   type == CU_GRAPH_NODE_TYPE_MEMCPY
               ? node
               : NULL;
}

CUresult CUDAAPI cuGraphNodeSetEnabled(CUgraphExec handle, CUgraphNode node_handle,
                                       unsigned enabled) {
    struct sim_graph_exec *exec;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_graph_node *node = find_switchable(handle, node_handle, &exec);
    if (node == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (node->disabled != (enabled == 0)) {
        node->disabled = enabled == 0;
        sim_graph_exec_changed(exec);
    }
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphNodeGetEnabled(CUgraphExec handle, CUgraphNode node_handle,
                                       unsigned *enabled) {
    struct sim_graph_exec *exec;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    const struct sim_graph_node *node = find_switchable(handle, node_handle, &exec);
    if (node == NULL || enabled == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        *enabled = !node->disabled;
    sim_graph_leave();
    return result;
}
