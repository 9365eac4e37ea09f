/* cuGraphDebugDotPrint: a graph as a drawing in the DOT language. */
#include "graph.h"

#include <errno.h>
#include <stdio.h>

static const char *type_name(CUgraphNodeType type) {
    static const char *const names[] = {
        [CU_GRAPH_NODE_TYPE_KERNEL] = "KERNEL",
        [CU_GRAPH_NODE_TYPE_MEMCPY] = "MEMCPY",
        [CU_GRAPH_NODE_TYPE_MEMSET] = "MEMSET",
        [CU_GRAPH_NODE_TYPE_HOST] = "HOST",
        [CU_GRAPH_NODE_TYPE_GRAPH] = "GRAPH",
        [CU_GRAPH_NODE_TYPE_EMPTY] = "EMPTY",
        [CU_GRAPH_NODE_TYPE_WAIT_EVENT] = "WAIT_EVENT",
        [CU_GRAPH_NODE_TYPE_EVENT_RECORD] = "EVENT_RECORD",
        [CU_GRAPH_NODE_TYPE_MEM_ALLOC] = "MEM_ALLOC",
        [CU_GRAPH_NODE_TYPE_MEM_FREE] = "MEM_FREE",
        [CU_GRAPH_NODE_TYPE_BATCH_MEM_OP] = "BATCH_MEM_OP",
    };
    return (size_t)type < sizeof names / sizeof *names && names[type] ? names[type] : "NODE";
}

static bool wanted(unsigned flags, unsigned flag) {
    return (flags & (flag | CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE)) != 0;
}

static void print_kernel(FILE *file, const struct sim_graph_node *node, unsigned flags) {
    const struct sim_kernel_store *store = sim_kernel_store(&node->params);
    fprintf(file, "\\n%s",
            sim_kernel_alive(store) ? store->launch.function->image->name : "(unloaded)");
    if (!wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_PARAMS))
        return;
    const struct sim_launch *launch = &store->launch;
    fprintf(file, "\\n<<<(%u,%u,%u),(%u,%u,%u),%u>>>", launch->grid[0], launch->grid[1],
            launch->grid[2], launch->block[0], launch->block[1], launch->block[2], launch->shared);
}

static void print_params(FILE *file, const struct sim_graph_node *node, unsigned flags) {
    const CUgraphNodeParams *api = &node->params.api;
    switch (api->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        print_kernel(file, node, flags);
        break;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        if (wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_MEMCPY_NODE_PARAMS))
            fprintf(file, "\\n%zu x %zu x %zu bytes", api->memcpy.copyParams.WidthInBytes,
                    api->memcpy.copyParams.Height, api->memcpy.copyParams.Depth);
        break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        if (wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_MEMSET_NODE_PARAMS))
            fprintf(file, "\\n0x%llx: %zu x %zu of %u bytes, value %u", api->memset.dst,
                    api->memset.width, api->memset.height, api->memset.elementSize,
                    api->memset.value);
        break;
    case CU_GRAPH_NODE_TYPE_HOST:
        if (wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_HOST_NODE_PARAMS))
            fprintf(file, "\\n%p(%p)", (void *)(uintptr_t)api->host.fn, api->host.userData);
        break;
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        if (wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_EVENT_NODE_PARAMS))
            fprintf(file, "\\nevent %p", (void *)api->eventRecord.event);
        break;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        if (wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_MEM_ALLOC_NODE_PARAMS))
            fprintf(file, "\\n0x%llx: %zu bytes", api->alloc.dptr, api->alloc.bytesize);
        break;
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        if (wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_MEM_FREE_NODE_PARAMS))
            fprintf(file, "\\n0x%llx", api->free.dptr);
        break;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        if (wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_BATCH_MEM_OP_NODE_PARAMS))
            fprintf(file, "\\n%u operations", api->memOp.count);
        break;
    default:
        break;
    }
}

/* G. */
static void print_graph(FILE *file, const struct sim_graph *graph, unsigned flags) {
    fprintf(file, "subgraph cluster_%u {\nlabel=\"graph_%u\"\n", graph->id, graph->id);
    for (size_t i = 0; i < graph->count; i++) {
        const struct sim_graph_node *node = graph->nodes[i];
        fprintf(file, "\"graph_%u_node_%u\" [shape=record, label=\"%u\\n%s", graph->id, node->id,
                node->id, type_name(node->params.api.type));
        print_params(file, node, flags);
        if (wanted(flags, CU_GRAPH_DEBUG_DOT_FLAGS_HANDLES))
            fprintf(file, "\\nhandle %p", (const void *)node);
        fprintf(file, "\"];\n");
    }
    for (size_t i = 0; i < graph->count; i++) {
        const struct sim_graph_node *node = graph->nodes[i];
        for (size_t j = 0; j < node->after.count; j++)
            fprintf(file, "\"graph_%u_node_%u\" -> \"graph_%u_node_%u\";\n", graph->id, node->id,
                    graph->id, node->after.node[j]->id);
    }
    fprintf(file, "}\n");
    for (size_t i = 0; i < graph->count; i++) {
        const struct sim_graph *child =
            graph->nodes[i]->params.api.type == CU_GRAPH_NODE_TYPE_GRAPH
                ? sim_graph_find(graph->nodes[i]->params.api.graph.graph)
                : NULL;
        if (child != NULL)
            print_graph(file, child, flags);
    }
}

CUresult CUDAAPI cuGraphDebugDotPrint(CUgraph handle, const char *path, unsigned flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (path == NULL || sim_graph_find(handle) == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    FILE *file = fopen(path, "we");
    if (file == NULL)
        return errno == ENOENT ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_ERROR_OPERATING_SYSTEM;
    fprintf(file, "digraph dot {\n");
    sim_graph_enter();
    const struct sim_graph *graph = sim_graph_find(handle);
    if (graph != NULL)
        print_graph(file, graph, flags);
    sim_graph_leave();
    fprintf(file, "}\n");
    return fclose(file) == 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}
