/* TaskTopos: graphs, their nodes, and the entities that run. */
#include "cndrv_sim.h"

/* ---- Handles ---------------------------------------------------------------------------------------- */

static CUgraph graph_of(CNtaskTopo topo) { return (CUgraph)(void *)topo; }
static CUgraphNode node_of(CNtaskTopoNode node) { return (CUgraphNode)(void *)node; }
static CUgraphExec exec_of(CNtaskTopoEntity entity) { return (CUgraphExec)(void *)entity; }
static CUevent event_of(CNnotifier notifier) { return (CUevent)(void *)notifier; }

/* Where the driver writes them, or reads many. */
#define GRAPH_OUT(topo) ((CUgraph *)(void *)(topo))
#define NODE_OUT(node) ((CUgraphNode *)(void *)(node))
#define NODES(nodes) ((const CUgraphNode *)(const void *)(nodes))

/* A handle that is none is a wrong value. */
static CNresult told(CUresult result) {
    return cn_error_as(result, CUDA_ERROR_INVALID_HANDLE, CN_ERROR_INVALID_VALUE);
}

#define TOPO(symbol, parameters, call)                                                             \
    CNresult symbol parameters {                                                                   \
        CNresult result = cn_begin();                                                              \
        return result == CN_SUCCESS ? told(call) : result;                                         \
    }

/* In the current context. */
#define HERE(symbol, parameters, well, call)                                                       \
    CNresult symbol parameters {                                                                   \
        struct sim_context *context;                                                               \
        CNresult result = cn_enter(&context);                                                      \
        if (result == CN_SUCCESS && !(well))                                                       \
            result = CN_ERROR_INVALID_VALUE;                                                       \
        return result == CN_SUCCESS ? told(call) : result;                                         \
    }

/* ---- Graphs ------------------------------------------------------------------------------------------ */

TOPO(cnTaskTopoCreate, (CNtaskTopo * topo, unsigned int flags),
     cuGraphCreate(GRAPH_OUT(topo), flags))
TOPO(cnTaskTopoDestroy, (CNtaskTopo topo), cuGraphDestroy(graph_of(topo)))
TOPO(cnTaskTopoClone, (CNtaskTopo * clone, CNtaskTopo topo),
     cuGraphClone(GRAPH_OUT(clone), graph_of(topo)))
TOPO(cnTaskTopoNodeFindInClone, (CNtaskTopoNode * found, CNtaskTopoNode node, CNtaskTopo clone),
     cuGraphNodeFindInClone(NODE_OUT(found), node_of(node), graph_of(clone)))
TOPO(cnTaskTopoDestroyNode, (CNtaskTopoNode node), cuGraphDestroyNode(node_of(node)))
TOPO(cnTaskTopoGetEdges, (CNtaskTopo topo, CNtaskTopoNode *from, CNtaskTopoNode *to, size_t *count),
     cuGraphGetEdges(graph_of(topo), NODE_OUT(from), NODE_OUT(to), NULL, count))
TOPO(cnTaskTopoGetNodes, (CNtaskTopo topo, CNtaskTopoNode *nodes, size_t *count),
     cuGraphGetNodes(graph_of(topo), NODE_OUT(nodes), count))
TOPO(cnTaskTopoGetRootNodes, (CNtaskTopo topo, CNtaskTopoNode *nodes, size_t *count),
     cuGraphGetRootNodes(graph_of(topo), NODE_OUT(nodes), count))
TOPO(cnTaskTopoAddDependencies,
     (CNtaskTopo topo, const CNtaskTopoNode *from, const CNtaskTopoNode *to, size_t count),
     cuGraphAddDependencies(graph_of(topo), NODES(from), NODES(to), NULL, count))
TOPO(cnTaskTopoRemoveDependencies,
     (CNtaskTopo topo, const CNtaskTopoNode *from, const CNtaskTopoNode *to, size_t count),
     cuGraphRemoveDependencies(graph_of(topo), NODES(from), NODES(to), NULL, count))
TOPO(cnTaskTopoNodeGetDependencies, (CNtaskTopoNode node, CNtaskTopoNode *nodes, size_t *count),
     cuGraphNodeGetDependencies(node_of(node), NODE_OUT(nodes), NULL, count))
TOPO(cnTaskTopoNodeGetDependentNodes, (CNtaskTopoNode node, CNtaskTopoNode *nodes, size_t *count),
     cuGraphNodeGetDependentNodes(node_of(node), NODE_OUT(nodes), NULL, count))
TOPO(cnTaskTopoDebugDotPrint, (CNtaskTopo topo, const char *path, unsigned int flags),
     cuGraphDebugDotPrint(graph_of(topo), path, flags &CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE))

CNresult cnTaskTopoNodeGetType(CNtaskTopoNode node, CNtaskTopoNodeType *type) {
    static const struct {
        CUgraphNodeType driver;
        CNtaskTopoNodeType here;
    } types[] = {
        {CU_GRAPH_NODE_TYPE_EMPTY, CN_TASK_TOPO_NODE_TYPE_EMPTY},
        {CU_GRAPH_NODE_TYPE_KERNEL, CN_TASK_TOPO_NODE_TYPE_KERNEL},
        {CU_GRAPH_NODE_TYPE_HOST, CN_TASK_TOPO_NODE_TYPE_HOST},
        {CU_GRAPH_NODE_TYPE_MEMCPY, CN_TASK_TOPO_NODE_TYPE_MEMCPY},
        {CU_GRAPH_NODE_TYPE_MEMSET, CN_TASK_TOPO_NODE_TYPE_MEMSET},
        {CU_GRAPH_NODE_TYPE_GRAPH, CN_TASK_TOPO_NODE_TYPE_TASK_TOPO},
        {CU_GRAPH_NODE_TYPE_EVENT_RECORD, CN_TASK_TOPO_NODE_TYPE_NOTIFIER_PLACE},
        {CU_GRAPH_NODE_TYPE_WAIT_EVENT, CN_TASK_TOPO_NODE_TYPE_NOTIFIER_WAIT},
    };
    CUgraphNodeType found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !type)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = told(cuGraphNodeGetType(node_of(node), &found));
    for (size_t i = 0; result == CN_SUCCESS && i < sizeof types / sizeof *types; i++)
        if (types[i].driver == found)
            *type = types[i].here;
    return result;
}

/* ---- Objects of the program's that graphs keep ------------------------------------------------------- */

#define OBJECT(object) ((CUuserObject)(void *)(object))

TOPO(cnUserObjectCreate,
     (CNuserObject * object, void *pointer, CNhostFn destroy, unsigned int count,
      unsigned int flags),
     cuUserObjectCreate((CUuserObject *)(void *)object, pointer, destroy, count, flags))
TOPO(cnUserObjectAcquire, (CNuserObject object, unsigned int count),
     cuUserObjectRetain(OBJECT(object), count))
TOPO(cnUserObjectRelease, (CNuserObject object, unsigned int count),
     cuUserObjectRelease(OBJECT(object), count))
TOPO(cnTaskTopoAcquireUserObject,
     (CNtaskTopo topo, CNuserObject object, unsigned int count, unsigned int flags),
     cuGraphRetainUserObject(graph_of(topo), OBJECT(object), count, flags))
TOPO(cnTaskTopoReleaseUserObject, (CNtaskTopo topo, CNuserObject object, unsigned int count),
     cuGraphReleaseUserObject(graph_of(topo), OBJECT(object), count))

/* ---- Nodes -------------------------------------------------------------------------------------------- */

/* What each kind's parameters are for the driver. */

static CUDA_HOST_NODE_PARAMS host(const CN_HOST_NODE_PARAMS *parameters) {
    return (CUDA_HOST_NODE_PARAMS){.fn = parameters->fn, .userData = parameters->userData};
}

/* Only rows, one of them. */
static bool one_row(const CNmemcpy3dParam *copy) {
    return copy && copy->extent.width && copy->extent.height == 1 && copy->extent.depth == 1 &&
           copy->src && copy->dst;
}

static CUDA_MEMCPY3D row(const CNmemcpy3dParam *copy) {
    const CNmemcpy3dParam plain = {
        .dst = copy->dst, .src = copy->src, .extent = {1, 1, copy->extent.width}};
    return cn_copy(&plain);
}

static bool one_fill(const CN_MEMSET_NODE_PARAMS *fill) {
    return fill && fill->width && fill->height == 1;
}

static CUDA_MEMSET_NODE_PARAMS fill_of(const CN_MEMSET_NODE_PARAMS *fill) {
    return (CUDA_MEMSET_NODE_PARAMS){.dst = fill->dst,
                                     .pitch = fill->pitch,
                                     .value = fill->value,
                                     .elementSize = fill->elementSize,
                                     .width = fill->width,
                                     .height = fill->height};
}

/* The calling thread's context. */
static CUcontext here(void) {
    CUcontext context = NULL;
    cuCtxGetCurrent(&context);
    return context;
}

#define ADDED                                                                                      \
    CNtaskTopoNode *node, CNtaskTopo topo, const CNtaskTopoNode *dependencies, size_t count
#define TO NODE_OUT(node), graph_of(topo), NODES(dependencies), count

TOPO(cnTaskTopoAddEmptyNode, (ADDED), cuGraphAddEmptyNode(TO))
static CUresult add_host(ADDED, const CN_HOST_NODE_PARAMS *parameters) {
    const CUDA_HOST_NODE_PARAMS function = host(parameters);
    return cuGraphAddHostNode(TO, &function);
}
HERE(cnTaskTopoAddHostNode, (ADDED, const CN_HOST_NODE_PARAMS *parameters), parameters,
     add_host(node, topo, dependencies, count, parameters))
TOPO(cnTaskTopoAddChildTopoNode, (ADDED, CNtaskTopo child),
     cuGraphAddChildGraphNode(TO, graph_of(child)))
TOPO(cnTaskTopoAddNotifierPlaceNode, (ADDED, CNnotifier notifier),
     cuGraphAddEventRecordNode(TO, event_of(notifier)))
TOPO(cnTaskTopoAddNotifierWaitNode, (ADDED, CNnotifier notifier),
     cuGraphAddEventWaitNode(TO, event_of(notifier)))

static CUresult add_copy(ADDED, const CNmemcpy3dParam *parameters) {
    const CUDA_MEMCPY3D copy = row(parameters);
    return cuGraphAddMemcpyNode(TO, &copy, here());
}
HERE(cnTaskTopoAddMemcpyNode, (ADDED, const CNmemcpy3dParam *parameters), one_row(parameters),
     add_copy(node, topo, dependencies, count, parameters))

static CUresult add_fill(ADDED, const CN_MEMSET_NODE_PARAMS *parameters) {
    const CUDA_MEMSET_NODE_PARAMS fill = fill_of(parameters);
    return cuGraphAddMemsetNode(TO, &fill, here());
}
HERE(cnTaskTopoAddMemsetNode, (ADDED, const CN_MEMSET_NODE_PARAMS *parameters),
     one_fill(parameters), add_fill(node, topo, dependencies, count, parameters))

CNresult cnTaskTopoAddKernelNode(ADDED, const CN_KERNEL_NODE_PARAMS *parameters) {
    struct sim_context *context;
    struct cn_launch launch;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS)
        result = parameters ? cn_launch(&launch, parameters) : CN_ERROR_INVALID_VALUE;
    return result == CN_SUCCESS ? told(cuGraphAddKernelNode(TO, &launch.node)) : result;
}

/* ---- Their parameters ---------------------------------------------------------------------------------- */

CNresult cnTaskTopoHostNodeGetParams(CNtaskTopoNode node, CN_HOST_NODE_PARAMS *parameters) {
    CUDA_HOST_NODE_PARAMS found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !parameters)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = told(cuGraphHostNodeGetParams(node_of(node), &found));
    if (result == CN_SUCCESS)
        *parameters = (CN_HOST_NODE_PARAMS){found.fn, found.userData};
    return result;
}

CNresult cnTaskTopoKernelNodeGetParams(CNtaskTopoNode node, CN_KERNEL_NODE_PARAMS *parameters) {
    CUDA_KERNEL_NODE_PARAMS found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !parameters)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = told(cuGraphKernelNodeGetParams(node_of(node), &found));
    if (result == CN_SUCCESS)
        cn_launched(&found, parameters);
    return result;
}

CNresult cnTaskTopoMemcpyNodeGetParams(CNtaskTopoNode node, CNmemcpy3dParam *parameters) {
    CUDA_MEMCPY3D found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !parameters)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = told(cuGraphMemcpyNodeGetParams(node_of(node), &found));
    if (result != CN_SUCCESS)
        return result;
    /* What was captured as one of the host's is by its pointer there. */
    const void *from =
        found.srcMemoryType == CU_MEMORYTYPE_HOST ? found.srcHost : (void *)found.srcDevice;
    void *to = found.dstMemoryType == CU_MEMORYTYPE_HOST ? found.dstHost : (void *)found.dstDevice;
    *parameters = (CNmemcpy3dParam){
        .dst = to,
        .src = (void *)(uintptr_t)from,
        .extent = {1, 1, found.WidthInBytes},
        .dstPtr = {.pitch = found.WidthInBytes, .ysize = 1},
        .srcPtr = {.pitch = found.WidthInBytes, .ysize = 1},
    };
    return result;
}

CNresult cnTaskTopoMemsetNodeGetParams(CNtaskTopoNode node, CN_MEMSET_NODE_PARAMS *parameters) {
    CUDA_MEMSET_NODE_PARAMS found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !parameters)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = told(cuGraphMemsetNodeGetParams(node_of(node), &found));
    if (result == CN_SUCCESS)
        *parameters = (CN_MEMSET_NODE_PARAMS){found.dst,         found.pitch, found.value,
                                              found.elementSize, found.width, found.height};
    return result;
}

TOPO(cnTaskTopoChildTopoNodeGetTopo, (CNtaskTopoNode node, CNtaskTopo *topo),
     cuGraphChildGraphNodeGetGraph(node_of(node), GRAPH_OUT(topo)))
TOPO(cnTaskTopoNotifierPlaceNodeGetNotifier, (CNtaskTopoNode node, CNnotifier *notifier),
     cuGraphEventRecordNodeGetEvent(node_of(node), (CUevent *)(void *)notifier))
TOPO(cnTaskTopoNotifierWaitNodeGetNotifier, (CNtaskTopoNode node, CNnotifier *notifier),
     cuGraphEventWaitNodeGetEvent(node_of(node), (CUevent *)(void *)notifier))
TOPO(cnTaskTopoNotifierPlaceNodeSetNotifier, (CNtaskTopoNode node, CNnotifier notifier),
     cuGraphEventRecordNodeSetEvent(node_of(node), event_of(notifier)))
TOPO(cnTaskTopoNotifierWaitNodeSetNotifier, (CNtaskTopoNode node, CNnotifier notifier),
     cuGraphEventWaitNodeSetEvent(node_of(node), event_of(notifier)))

/* Sets the parameters of a node; of an entity's, where there is one. */

static CNresult set_host(CNtaskTopoEntity entity, CNtaskTopoNode node,
                         const CN_HOST_NODE_PARAMS *parameters) {
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !parameters)
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    const CUDA_HOST_NODE_PARAMS wanted = host(parameters);
    return told(entity ? cuGraphExecHostNodeSetParams(exec_of(entity), node_of(node), &wanted)
                       : cuGraphHostNodeSetParams(node_of(node), &wanted));
}

static CNresult set_kernel(CNtaskTopoEntity entity, CNtaskTopoNode node,
                           const CN_KERNEL_NODE_PARAMS *parameters) {
    struct cn_launch launch;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS)
        result = parameters ? cn_launch(&launch, parameters) : CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    return told(entity
                    ? cuGraphExecKernelNodeSetParams(exec_of(entity), node_of(node), &launch.node)
                    : cuGraphKernelNodeSetParams(node_of(node), &launch.node));
}

static CNresult set_copy(CNtaskTopoEntity entity, CNtaskTopoNode node,
                         const CNmemcpy3dParam *parameters) {
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !one_row(parameters))
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    const CUDA_MEMCPY3D wanted = row(parameters);
    return told(
        entity ? cuGraphExecMemcpyNodeSetParams(exec_of(entity), node_of(node), &wanted, here())
               : cuGraphMemcpyNodeSetParams(node_of(node), &wanted));
}

static CNresult set_fill(CNtaskTopoEntity entity, CNtaskTopoNode node,
                         const CN_MEMSET_NODE_PARAMS *parameters) {
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !one_fill(parameters))
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    const CUDA_MEMSET_NODE_PARAMS wanted = fill_of(parameters);
    return told(
        entity ? cuGraphExecMemsetNodeSetParams(exec_of(entity), node_of(node), &wanted, here())
               : cuGraphMemsetNodeSetParams(node_of(node), &wanted));
}

/* No entity is none to set the parameters of. */
#define BOTH(kind, type, set)                                                                      \
    CNresult cnTaskTopo##kind##NodeSetParams(CNtaskTopoNode node, const type *parameters) {        \
        return set(NULL, node, parameters);                                                        \
    }                                                                                              \
    CNresult cnTaskTopoEntity##kind##NodeSetParams(CNtaskTopoEntity entity, CNtaskTopoNode node,   \
                                                   const type *parameters) {                       \
        return entity ? set(entity, node, parameters) : CN_ERROR_INVALID_VALUE;                    \
    }
BOTH(Host, CN_HOST_NODE_PARAMS, set_host)
BOTH(Kernel, CN_KERNEL_NODE_PARAMS, set_kernel)
BOTH(Memcpy, CNmemcpy3dParam, set_copy)
BOTH(Memset, CN_MEMSET_NODE_PARAMS, set_fill)

TOPO(cnTaskTopoEntityChildTopoNodeSetParams,
     (CNtaskTopoEntity entity, CNtaskTopoNode node, CNtaskTopo child),
     cuGraphExecChildGraphNodeSetParams(exec_of(entity), node_of(node), graph_of(child)))
TOPO(cnTaskTopoEntityNotifierPlaceNodeSetNotifier,
     (CNtaskTopoEntity entity, CNtaskTopoNode node, CNnotifier notifier),
     cuGraphExecEventRecordNodeSetEvent(exec_of(entity), node_of(node), event_of(notifier)))
TOPO(cnTaskTopoEntityNotifierWaitNodeSetNotifier,
     (CNtaskTopoEntity entity, CNtaskTopoNode node, CNnotifier notifier),
     cuGraphExecEventWaitNodeSetEvent(exec_of(entity), node_of(node), event_of(notifier)))

/* ---- Entities ---------------------------------------------------------------------------------------- */

CNresult cnTaskTopoInstantiate(CNtaskTopoEntity *entity, CNtaskTopo topo, CNtaskTopoNode *error,
                               char *log, size_t bytes) {
    struct sim_context *context;
    CUgraphExec made;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && !entity)
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    CUDA_GRAPH_INSTANTIATE_PARAMS how = {.flags = 0};
    result = told(cuGraphInstantiateWithParams(&made, graph_of(topo), &how));
    if (log && bytes)
        *log = 0;
    if (result == CN_SUCCESS)
        *entity = (CNtaskTopoEntity)(void *)made;
    else if (error)
        *error = (CNtaskTopoNode)(void *)how.hErrNode_out;
    return result;
}

TOPO(cnTaskTopoEntityDestroy, (CNtaskTopoEntity entity), cuGraphExecDestroy(exec_of(entity)))
HERE(cnTaskTopoEntityInvoke, (CNtaskTopoEntity entity, CNqueue queue), entity,
     cuGraphLaunch(exec_of(entity), cn_stream(queue)))
HERE(cnTaskTopoUpload, (CNtaskTopoEntity entity, CNqueue queue), entity,
     cuGraphUpload(exec_of(entity), cn_stream(queue)))

CNresult cnTaskTopoEntityUpdate(CNtaskTopoEntity entity, CNtaskTopo topo, CNtaskTopoNode *error,
                                CNtaskTopoEntityUpdateResult *found) {
    static const CNtaskTopoEntityUpdateResult results[] = {
        [CU_GRAPH_EXEC_UPDATE_SUCCESS] = CN_TASK_TOPO_ENTITY_UPDATE_SUCCESS,
        [CU_GRAPH_EXEC_UPDATE_ERROR] = CN_TASK_TOPO_ENTITY_UPDATE_ERROR,
        [CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED] =
            CN_TASK_TOPO_ENTITY_UPDATE_ERROR_TOPOLOGY_CHANGED,
        [CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED] =
            CN_TASK_TOPO_ENTITY_UPDATE_ERROR_NODE_TYPE_CHANGED,
        [CU_GRAPH_EXEC_UPDATE_ERROR_FUNCTION_CHANGED] =
            CN_TASK_TOPO_ENTITY_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE,
        [CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED] =
            CN_TASK_TOPO_ENTITY_UPDATE_ERROR_PARAMETERS_CHANGED,
        [CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED] = CN_TASK_TOPO_ENTITY_UPDATE_ERROR_NOT_SUPPORTED,
        [CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE] =
            CN_TASK_TOPO_ENTITY_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE,
        [CU_GRAPH_EXEC_UPDATE_ERROR_ATTRIBUTES_CHANGED] =
            CN_TASK_TOPO_ENTITY_UPDATE_ERROR_ATTRIBUTES_CHANGED,
    };
    CUgraphExecUpdateResultInfo info = {.result = CU_GRAPH_EXEC_UPDATE_ERROR};
    CNresult result = cn_begin();
    if (result == CN_SUCCESS)
        result = told(cuGraphExecUpdate(exec_of(entity), graph_of(topo), &info));
    if (found)
        *found = (size_t)info.result < sizeof results / sizeof *results
                     ? results[info.result]
                     : CN_TASK_TOPO_ENTITY_UPDATE_ERROR;
    if (error)
        *error = (CNtaskTopoNode)(void *)info.errorNode;
    return result;
}
