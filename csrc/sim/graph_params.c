/* What graph nodes do: descriptions checked when they are given, and kept with all they point to.
 * All under the graph lock. */
#include "copy.h"
#include "event.h"
#include "graph.h"

#include <stdlib.h>
#include <string.h>

/* ---- Kernels ------------------------------------------------------------------------------- */

/* The context and function of a kernel node. */
static CUresult resolve_kernel(CUDA_KERNEL_NODE_PARAMS_v3 *kernel, struct sim_launch *launch) {
    CUfunction handle = kernel->func != NULL ? kernel->func : (CUfunction)kernel->kern;
    if (kernel->ctx != NULL) {
        launch->ctx = sim_context_get(kernel->ctx);
        if (launch->ctx == NULL)
            return CUDA_ERROR_INVALID_CONTEXT;
    } else {
        CUresult result = sim_enter(&launch->ctx);
        if (result != CUDA_SUCCESS)
            return result;
    }
    CUresult result = sim_function_resolve(launch->ctx, handle, &launch->function);
    if (result == CUDA_ERROR_INVALID_CONTEXT && kernel->ctx == NULL) {
        /* A living function, as the error says, which brings its own context. */
        launch->ctx = ((const struct sim_function *)handle)->ctx;
        result = sim_function_resolve(launch->ctx, handle, &launch->function);
    }
    kernel->ctx = (CUcontext)launch->ctx;
    return result;
}

/* An empty store: room for the arguments, then the pointers to them. */
static struct sim_kernel_store *new_store(const struct sim_launch *launch,
                                          const struct sim_launch_attributes *attributes,
                                          size_t bytes, uint32_t param_count) {
    size_t room = (bytes + 15) / 16 * 16;
    struct sim_kernel_store *store = calloc(1, sizeof *store + room + param_count * sizeof(void *));
    if (store == NULL)
        return NULL;
    store->launch = *launch;
    if (attributes != NULL)
        store->attributes = *attributes;
    store->launch.attributes = &store->attributes;
    store->param_count = param_count;
    store->bytes = bytes;
    if (param_count != 0)
        store->pointers = (void **)(void *)(store->data + room);
    store->extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
    store->extra[1] = store->data;
    store->extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
    store->extra[3] = &store->bytes;
    store->extra[4] = CU_LAUNCH_PARAM_END;
    return store;
}

bool sim_kernel_alive(const struct sim_kernel_store *store) {
    struct sim_function *function;
    return sim_context_get((CUcontext)store->launch.ctx) != NULL &&
           sim_function_resolve(store->launch.ctx, (CUfunction)store->launch.function, &function) ==
               CUDA_SUCCESS;
}

static CUresult take_kernel(struct sim_node_params *params,
                            const struct sim_launch_attributes *attributes) {
    CUDA_KERNEL_NODE_PARAMS_v3 *kernel = &params->api.kernel;
    struct sim_launch launch = {
        .grid = {kernel->gridDimX, kernel->gridDimY, kernel->gridDimZ},
        .block = {kernel->blockDimX, kernel->blockDimY, kernel->blockDimZ},
        .shared = kernel->sharedMemBytes,
        .attributes = attributes,
    };
    CUresult result = resolve_kernel(kernel, &launch);
    if (result == CUDA_SUCCESS)
        result = sim_launch_check(&launch);
    if (result == CUDA_SUCCESS)
        result = sim_launch_arguments(&launch, kernel->kernelParams, kernel->extra);
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_function *function = launch.function;
    const uint8_t *buffer = NULL;
    size_t bytes = function->param_bytes;
    if (kernel->extra != NULL) {
        result = sim_launch_extra(kernel->extra, &buffer, &bytes);
        if (result != CUDA_SUCCESS)
            return result;
    }
    struct sim_kernel_store *store = new_store(&launch, attributes, bytes, function->param_count);
    if (store == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < function->param_count; i++)
        store->pointers[i] = store->data + function->params[i].offset;
    if (buffer != NULL) {
        memcpy(store->data, buffer, bytes);
        kernel->extra = store->extra;
    } else {
        for (uint32_t i = 0; i < function->param_count; i++)
            memcpy(store->pointers[i], kernel->kernelParams[i], function->params[i].size);
        kernel->kernelParams = store->pointers;
    }
    params->store = store;
    return CUDA_SUCCESS;
}

static CUresult copy_kernel(const struct sim_kernel_store *from, struct sim_node_params *copy) {
    struct sim_kernel_store *store =
        new_store(&from->launch, &from->attributes, from->bytes, from->param_count);
    if (store == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < from->param_count; i++)
        store->pointers[i] = store->data + ((uint8_t *)from->pointers[i] - from->data);
    memcpy(store->data, from->data, from->bytes);
    if (copy->api.kernel.extra != NULL)
        copy->api.kernel.extra = store->extra;
    else
        copy->api.kernel.kernelParams = store->pointers;
    copy->store = store;
    return CUDA_SUCCESS;
}

/* ---- Copies and fills ---------------------------------------------------------------------- */

/* The living context that a node runs in; NULL means the current one, and is filled in. */
static CUresult resolve_context(CUcontext *handle) {
    struct sim_context *ctx;
    if (*handle != NULL)
        return sim_context_get(*handle) != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        *handle = (CUcontext)ctx;
    return result;
}

static CUresult take_copy(CUDA_MEMCPY_NODE_PARAMS *node) {
    struct sim_copy copy;
    if (node->flags != 0 || node->copyParams.reserved0 != NULL ||
        node->copyParams.reserved1 != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = resolve_context(&node->copyCtx);
    return result == CUDA_SUCCESS ? sim_copy_read(&node->copyParams, true, &copy) : result;
}

static CUresult take_fill(CUDA_MEMSET_NODE_PARAMS_v2 *node) {
    struct sim_place place;
    CUresult result = resolve_context(&node->ctx);
    return result == CUDA_SUCCESS ? sim_fill_check(node->dst, node->pitch, node->elementSize,
                                                   node->width, node->height, true, &place)
                                  : result;
}

/* ---- Child graphs -------------------------------------------------------------------------- */

static CUresult take_child(CUDA_CHILD_GRAPH_NODE_PARAMS *node) {
    struct sim_graph *graph = sim_graph_find(node->graph), *copy;
    if (graph == NULL || graph->capturing)
        return CUDA_ERROR_INVALID_VALUE;
    if (node->ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE) {
        if (graph->parent != NULL || graph->executables > 0)
            return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
    }
    if (node->ownership != CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE || graph->allocations > 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = sim_graph_copy(graph, false, &copy);
    if (result == CUDA_SUCCESS)
        node->graph = (CUgraph)copy;
    return result;
}

static CUresult copy_child(bool executable, struct sim_node_params *copy) {
    struct sim_graph *graph = sim_graph_find(copy->api.graph.graph), *made;
    copy->api.graph.graph = NULL; /* in case that it fails: the original is not ours */
    CUresult result = sim_graph_copy(graph, executable, &made);
    if (result == CUDA_SUCCESS)
        copy->api.graph.graph = (CUgraph)made;
    return result;
}

/* ---- Memory -------------------------------------------------------------------------------- */

static CUresult check_access(const CUDA_MEM_ALLOC_NODE_PARAMS_v2 *node) {
    if (node->accessDescCount > 0 && node->accessDescs == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < node->accessDescCount; i++) {
        const CUmemAccessDesc *access = &node->accessDescs[i];
        if (access->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
            return CUDA_ERROR_INVALID_VALUE;
        if (access->location.id < 0 || access->location.id >= sim_device_count())
            return CUDA_ERROR_INVALID_DEVICE;
        if (access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static CUresult take_alloc(struct sim_node_params *params) {
    CUDA_MEM_ALLOC_NODE_PARAMS_v2 *node = &params->api.alloc;
    CUdevice dev = node->poolProps.location.id;
    if (node->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE || dev < 0 ||
        dev >= sim_device_count() || node->poolProps.handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = check_access(node);
    if (result != CUDA_SUCCESS)
        return result;
    size_t bytes = node->accessDescCount * sizeof *node->accessDescs;
    struct sim_alloc_store *store = calloc(1, sizeof *store + bytes);
    struct sim_graph_memory *memory = calloc(1, sizeof *memory);
    result = store == NULL || memory == NULL
                 ? CUDA_ERROR_OUT_OF_MEMORY
                 : sim_graph_memory_reserve(dev, &node->poolProps, node->bytesize, &memory->ptr);
    if (result != CUDA_SUCCESS) {
        free(store);
        free(memory);
        return result;
    }
    memory->holders = 1;
    memory->dev = dev;
    store->memory = memory;
    if (bytes > 0)
        memcpy(store->access, node->accessDescs, bytes);
    node->accessDescs = node->accessDescCount > 0 ? store->access : NULL;
    node->dptr = memory->ptr;
    params->store = store;
    return CUDA_SUCCESS;
}

static CUresult copy_alloc(const struct sim_alloc_store *from, struct sim_node_params *copy) {
    size_t bytes = copy->api.alloc.accessDescCount * sizeof *from->access;
    struct sim_alloc_store *store = calloc(1, sizeof *store + bytes);
    if (store == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(store->access, from->access, bytes);
    store->memory = from->memory;
    store->memory->holders++;
    copy->api.alloc.accessDescs = bytes > 0 ? store->access : NULL;
    copy->store = store;
    return CUDA_SUCCESS;
}

static void free_alloc(struct sim_alloc_store *store) {
    if (--store->memory->holders == 0) {
        sim_graph_memory_unreserve(store->memory->dev, store->memory->ptr);
        free(store->memory);
    }
}

static CUresult take_free(const CUDA_MEM_FREE_NODE_PARAMS *node) {
    struct sim_memory_info info;
    return sim_memory_find(node->dptr, &info) && info.kind == SIM_MEMORY_GRAPH &&
                   info.base == node->dptr
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}

/* ---- Words --------------------------------------------------------------------------------- */

static CUresult take_batch(struct sim_node_params *params) {
    CUDA_BATCH_MEM_OP_NODE_PARAMS_v2 *node = &params->api.memOp;
    CUresult result = resolve_context(&node->ctx);
    if (result == CUDA_SUCCESS)
        result = sim_memop_check(node->paramArray, node->count, node->flags);
    if (result != CUDA_SUCCESS)
        return result;
    params->store = malloc(node->count * sizeof *node->paramArray);
    if (params->store == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(params->store, node->paramArray, node->count * sizeof *node->paramArray);
    node->paramArray = params->store;
    return CUDA_SUCCESS;
}

static CUresult copy_batch(struct sim_node_params *copy) {
    CUDA_BATCH_MEM_OP_NODE_PARAMS_v2 *node = &copy->api.memOp;
    copy->store = malloc(node->count * sizeof *node->paramArray);
    if (copy->store == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(copy->store, node->paramArray, node->count * sizeof *node->paramArray);
    node->paramArray = copy->store;
    return CUDA_SUCCESS;
}

/* ---- All ----------------------------------------------------------------------------------- */

CUresult sim_node_params_take(const CUgraphNodeParams *given,
                              const struct sim_launch_attributes *attributes,
                              struct sim_node_params *params) {
    params->api = *given;
    params->store = NULL;
    switch (given->type) {
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return take_kernel(params, attributes);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return take_copy(&params->api.memcpy);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return take_fill(&params->api.memset);
    case CU_GRAPH_NODE_TYPE_HOST:
        return given->host.fn != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return take_child(&params->api.graph);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return sim_event_find(given->eventRecord.event) != NULL ? CUDA_SUCCESS
                                                                : CUDA_ERROR_INVALID_VALUE;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        return take_alloc(params);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return take_free(&params->api.free);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return take_batch(params);
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
        return sim_unsupported("graph nodes of external semaphores");
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:
        /* The condition is set by kernels, which are not computed. */
        return sim_unsupported("conditional graph nodes");
    case CU_GRAPH_NODE_TYPE_MEMCPY_BATCH:
        return sim_unsupported("batch copy graph nodes");
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult sim_node_params_copy(const struct sim_node_params *params, bool executable,
                              struct sim_node_params *copy) {
    copy->api = params->api;
    copy->store = NULL;
    switch (params->api.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return copy_kernel(params->store, copy);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return copy_child(executable, copy);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        return copy_alloc(params->store, copy);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return copy_batch(copy);
    default:
        return CUDA_SUCCESS;
    }
}

void sim_node_params_free(struct sim_node_params *params) {
    if (params->api.type == CU_GRAPH_NODE_TYPE_GRAPH) {
        struct sim_graph *child = sim_graph_find(params->api.graph.graph);
        struct sim_graph_object *objects = NULL;
        if (child != NULL && child->parent == NULL &&
            params->api.graph.ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE)
            sim_graph_unmake(child, &objects); /* a fresh copy: its objects live on elsewhere */
        sim_graph_objects_release(objects);
    } else if (params->api.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC && params->store != NULL) {
        free_alloc(params->store);
    }
    free(params->store);
    params->store = NULL;
}
