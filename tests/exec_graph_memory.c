/* Graphs: the memory that they allocate, the objects that they keep, and how they are drawn. */
#include "exec_graph.h"

/* ---- Memory nodes -------------------------------------------------------------------------- */

static CUgraphNode add_alloc(CUgraph graph, size_t bytes, CUdeviceptr *ptr) {
    CUgraphNode node;
    CUDA_MEM_ALLOC_NODE_PARAMS params = {
        .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                      .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}},
        .bytesize = bytes};
    OK(cuGraphAddMemAllocNode(&node, graph, NULL, 0, &params));
    *ptr = params.dptr;
    return node;
}

static uint64_t graph_memory(CUgraphMem_attribute attribute) {
    uint64_t value;
    OK(cuDeviceGetGraphMemAttribute(0, attribute, &value));
    return value;
}

static void memory_of_a_graph_comes_and_goes_with_its_launches(void) {
    client_start(0);
    CUdeviceptr inside, out = alloc(64);
    CUgraph graph = new_graph(), clone;
    CUgraphNode node = add_alloc(graph, 8 << 20, &inside), next;
    next = add_fill(graph, &node, 1, inside, 42, 16);
    next = add_copy(graph, &next, 1, out, inside, 64);
    OK(cuGraphAddMemFreeNode(&node, graph, &next, 1, inside));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddMemFreeNode(&node, graph, &next, 1, inside));
    GIVES(CUDA_ERROR_NOT_SUPPORTED, cuGraphClone(&clone, graph));
    GIVES(CUDA_ERROR_NOT_SUPPORTED, cuGraphDestroyNode(next));
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 0);
    CUgraphExec exec = instantiate(graph), second;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiate(&second, graph, 0));
    for (int i = 0; i < 3; i++)
        OK(cuGraphLaunch(exec, NULL));
    OK(cuCtxSynchronize());
    SAME(peek32(out), 42);
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 0);
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_USED_MEM_HIGH), 8 << 20);
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 8 << 20);
    OK(cuDeviceGraphMemTrim(0));
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 0);
    OK(cuGraphExecDestroy(exec));
    exec = instantiate(graph);
    OK(cuGraphUpload(exec, NULL));
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 8 << 20);
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
    OK(cuDeviceGraphMemTrim(0));
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 0);
}

static void memory_that_a_graph_leaves_is_freed_by_others(void) {
    client_start(0);
    CUdeviceptr left;
    CUgraph graph = new_graph(), freeing = new_graph();
    CUgraphNode node = add_alloc(graph, 1 << 20, &left);
    add_fill(graph, &node, 1, left, 7, 4);
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphLaunch(exec, NULL));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(exec, NULL)); /* it is still there */
    SAME(read32(left), 7);
    OK(cuMemFreeAsync(left, NULL));
    OK(cuGraphLaunch(exec, NULL));
    OK(cuMemFree(left));
    OK(cuGraphLaunch(exec, NULL));
    OK(cuGraphAddMemFreeNode(&node, freeing, NULL, 0, left));
    CUgraphExec free_exec = instantiate(freeing);
    OK(cuGraphLaunch(free_exec, NULL));
    OK(cuCtxSynchronize());
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 0);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(free_exec, NULL));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFree(left));
    OK(cuGraphExecDestroy(exec));
    CUgraphExec automatic;
    OK(cuGraphInstantiate(&automatic, graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
    for (int i = 0; i < 5; i++)
        OK(cuGraphLaunch(automatic, NULL));
    OK(cuCtxSynchronize());
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 1 << 20);
    OK(cuGraphExecDestroy(automatic));
    OK(cuGraphDestroy(graph)); /* what it left is not freed by that */
    SAME(read32(left), 7);
    OK(cuMemFree(left));
    SAME(graph_memory(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 0);
}

static void a_launch_without_memory_for_it_is_refused_whole(void) {
    client_start(0);
    size_t free_bytes, total;
    OK(cuMemGetInfo(&free_bytes, &total));
    CUdeviceptr most, first, second, word = alloc(4);
    CUgraph graph = new_graph();
    CUgraphNode nodes[2], fill;
    nodes[0] = add_alloc(graph, 64 << 20, &first);
    nodes[1] = add_alloc(graph, 64 << 20, &second);
    fill = add_fill(graph, nodes, 2, word, 1, 1);
    CUgraphExec exec = instantiate(graph);
    OK(cuMemAlloc(&most, free_bytes - (96 << 20)));
    GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuGraphLaunch(exec, NULL));
    GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuGraphUpload(exec, NULL));
    OK(cuCtxSynchronize());
    SAME(peek32(word), 0);
    OK(cuMemFree(most));
    OK(cuGraphLaunch(exec, NULL));
    OK(cuCtxSynchronize());
    SAME(peek32(word), 1);
    (void)fill;
}

/* ---- User objects, drawings ---------------------------------------------------------------- */

static void user_objects_live_as_long_as_their_graphs(void) {
    client_start(0);
    int gone = 0, other = 0;
    CUuserObject object, second;
    CUgraph graph = new_graph(), clone;
    OK(cuUserObjectCreate(&object, &gone, add_one, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    OK(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
    OK(cuUserObjectCreate(&second, &other, add_one, 2, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    OK(cuGraphRetainUserObject(graph, second, 1, 0));
    OK(cuUserObjectRelease(second, 2));
    SAME(other, 0);
    OK(cuGraphReleaseUserObject(graph, second, 1));
    SAME(other, 1);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphReleaseUserObject(graph, object, 2));
    OK(cuGraphClone(&clone, graph));
    add_spin(graph, NULL, 0, 1000, 1);
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphDestroy(graph));
    OK(cuGraphDestroy(clone));
    SAME(gone, 0);
    shut(NULL, 0);
    OK(cuGraphLaunch(exec, NULL));
    OK(cuGraphExecDestroy(exec));
    SAME(gone, 0); /* it has yet to run */
    open_gate(0);
    OK(cuCtxSynchronize());
    SAME(gone, 1);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuUserObjectCreate(&object, &gone, add_one, 1, 0));
}

static void a_graph_is_drawn(void) {
    client_start(0);
    CUdeviceptr a = alloc(64);
    CUgraph graph = new_graph();
    CUgraphNode node = add_fill(graph, NULL, 0, a, 1, 16);
    add_spin(graph, &node, 1, 5, 1);
    char path[64], text[4096] = {0};
    snprintf(path, sizeof path, "graph-%ld.dot", (long)getpid());
    OK(cuGraphDebugDotPrint(graph, path, CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE));
    FILE *file = fopen(path, "r");
    CHECK(file != NULL && fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    remove(path);
    CHECK(strstr(text, "digraph") && strstr(text, "aliquot_spin_ns") && strstr(text, "->"));
    GIVES(CUDA_ERROR_FILE_NOT_FOUND, cuGraphDebugDotPrint(graph, "no/such/folder/g.dot", 0));
}

const struct client_case client_cases[] = {
    {"memory_of_a_graph_comes_and_goes_with_its_launches",
     memory_of_a_graph_comes_and_goes_with_its_launches},
    {"memory_that_a_graph_leaves_is_freed_by_others",
     memory_that_a_graph_leaves_is_freed_by_others},
    {"a_launch_without_memory_for_it_is_refused_whole",
     a_launch_without_memory_for_it_is_refused_whole},
    {"user_objects_live_as_long_as_their_graphs", user_objects_live_as_long_as_their_graphs},
    {"a_graph_is_drawn", a_graph_is_drawn},
    {NULL, NULL},
};
