/* Building graphs, for the programs that test them. */
#ifndef EXEC_GRAPH_H
#define EXEC_GRAPH_H

#include "exec_client.h"

static inline CUgraph new_graph(void) {
    CUgraph graph;
    OK(cuGraphCreate(&graph, 0));
    return graph;
}

static inline CUgraphNode add_spin(CUgraph graph, const CUgraphNode *before, size_t count,
                                   uint64_t ns, unsigned blocks) {
    CUgraphNode node;
    void *params[] = {&ns};
    CUDA_KERNEL_NODE_PARAMS kernel = {.func = spin,
                                      .gridDimX = blocks,
                                      .gridDimY = 1,
                                      .gridDimZ = 1,
                                      .blockDimX = 1024,
                                      .blockDimY = 1,
                                      .blockDimZ = 1,
                                      .kernelParams = params};
    OK(cuGraphAddKernelNode(&node, graph, before, count, &kernel));
    ns = 0; /* the node has its own */
    return node;
}

static inline CUgraphNode add_fill(CUgraph graph, const CUgraphNode *before, size_t count,
                                   CUdeviceptr dst, uint32_t value, size_t words) {
    CUgraphNode node;
    CUDA_MEMSET_NODE_PARAMS fill = {
        .dst = dst, .value = value, .elementSize = 4, .width = words, .height = 1};
    OK(cuGraphAddMemsetNode(&node, graph, before, count, &fill, client_ctx));
    return node;
}

static inline CUDA_MEMCPY3D line(CUdeviceptr dst, CUdeviceptr src, size_t bytes) {
    return (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                           .srcDevice = src,
                           .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                           .dstDevice = dst,
                           .WidthInBytes = bytes,
                           .Height = 1,
                           .Depth = 1};
}

static inline CUgraphNode add_copy(CUgraph graph, const CUgraphNode *before, size_t count,
                                   CUdeviceptr dst, CUdeviceptr src, size_t bytes) {
    CUgraphNode node;
    CUDA_MEMCPY3D copy = line(dst, src, bytes);
    OK(cuGraphAddMemcpyNode(&node, graph, before, count, &copy, client_ctx));
    return node;
}

static inline CUgraphExec instantiate(CUgraph graph) {
    CUgraphExec exec;
    OK(cuGraphInstantiate(&exec, graph, 0));
    return exec;
}

static inline void CUDA_CB add_one(void *arg) { ++*(int *)arg; }

static inline CUgraphNode add_host(CUgraph graph, const CUgraphNode *before, size_t count,
                                   int *counter) {
    CUgraphNode node;
    CUDA_HOST_NODE_PARAMS host = {.fn = add_one, .userData = counter};
    OK(cuGraphAddHostNode(&node, graph, before, count, &host));
    return node;
}

#endif
