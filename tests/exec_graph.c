/* Graphs: built, asked, instantiated, launched, changed. */
#include "exec_graph.h"

/* ---- Running ------------------------------------------------------------------------------- */

static void nodes_run_in_the_order_of_their_edges(void) {
    client_start(0);
    CUdeviceptr a = alloc(4096), b = alloc(4096), c = alloc(4096);
    CUgraph graph = new_graph();
    int counter = 0;
    CUgraphNode fill = add_fill(graph, NULL, 0, a, 5, 1024);
    CUgraphNode wait = add_spin(graph, &fill, 1, 10 * MS, 1);
    CUgraphNode copy = add_copy(graph, &wait, 1, b, a, 4096);
    CUgraphNode again = add_fill(graph, &copy, 1, a, 6, 1024);
    CUgraphNode both[2] = {add_copy(graph, &copy, 1, c, b, 4096), again};
    add_host(graph, both, 2, &counter);
    CUgraphExec exec = instantiate(graph);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    shut(stream, 0);
    CUevent before = mark(stream);
    OK(cuGraphLaunch(exec, stream));
    CUevent after = mark(stream);
    SAME(peek32(b), 0);
    open_gate(0);
    OK(cuStreamSynchronize(stream));
    WITHIN(before, after, 10, FOREVER);
    SAME(peek32(a), 6);
    SAME(peek32(b), 5);
    SAME(peek32(c + 4092), 5);
    SAME(counter, 1);
    for (int i = 0; i < 50; i++)
        OK(cuGraphLaunch(exec, stream));
    OK(cuGraphDestroy(graph));    /* the executable lives on */
    OK(cuGraphExecDestroy(exec)); /* and what was launched is carried out */
    OK(cuStreamSynchronize(stream));
    SAME(counter, 51);
}

static void branches_run_together(void) {
    client_start(0);
    CUgraph graph = new_graph();
    CUgraphNode root = add_spin(graph, NULL, 0, 20 * MS, 1), ends[8];
    for (int i = 0; i < 8; i++) {
        CUgraphNode first = add_spin(graph, &root, 1, 5 * MS, 2);
        ends[i] = add_spin(graph, &first, 1, 5 * MS, 2);
    }
    add_spin(graph, ends, 8, 10 * MS, 1);
    CUgraphExec exec = instantiate(graph);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    shut(stream, 0);
    CUevent before = mark(stream);
    OK(cuGraphLaunch(exec, stream));
    CUevent after = mark(stream);
    open_gate(0);
    OK(cuStreamSynchronize(stream));
    EXACTLY(before, after, 40);
}

static void a_long_chain_leaves_no_gap(void) {
    client_start(0);
    CUgraph graph = new_graph();
    CUgraphNode last = add_spin(graph, NULL, 0, MS / 10, 1);
    for (int i = 1; i < 400; i++)
        last = add_spin(graph, &last, 1, MS / 10, 1);
    CUgraphExec exec = instantiate(graph);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    shut(stream, 0);
    CUevent before = mark(stream);
    OK(cuGraphLaunch(exec, stream));
    OK(cuGraphLaunch(exec, stream));
    CUevent after = mark(stream);
    open_gate(0);
    OK(cuStreamSynchronize(stream));
    EXACTLY(before, after, 80);
}

static void launches_of_one_executable_follow_each_other(void) {
    client_start(0);
    CUgraph graph = new_graph();
    add_spin(graph, NULL, 0, 20 * MS, 1);
    CUgraphExec exec = instantiate(graph), other = instantiate(graph);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_NON_BLOCKING);
    CUstream c = new_stream(CU_STREAM_NON_BLOCKING);
    shut(a, 0);
    CUevent start = mark(a);
    OK(cuStreamWaitEvent(b, start, 0));
    OK(cuStreamWaitEvent(c, start, 0));
    OK(cuGraphLaunch(exec, a));
    OK(cuGraphLaunch(exec, b));
    OK(cuGraphLaunch(other, c));
    CUevent a_end = mark(a), b_end = mark(b), c_end = mark(c);
    open_gate(0);
    OK(cuCtxSynchronize());
    EXACTLY(start, a_end, 20);
    EXACTLY(start, b_end, 40);
    EXACTLY(start, c_end, 20);
}

static void a_graph_may_be_empty(void) {
    client_start(0);
    CUgraph graph = new_graph();
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphLaunch(exec, NULL));
    OK(cuGraphUpload(exec, NULL));
    OK(cuStreamSynchronize(NULL));
    CUgraphNode empty[3];
    OK(cuGraphAddEmptyNode(&empty[0], graph, NULL, 0));
    OK(cuGraphAddEmptyNode(&empty[1], graph, empty, 1));
    OK(cuGraphAddEmptyNode(&empty[2], graph, empty, 2));
    OK(cuGraphLaunch(instantiate(graph), NULL));
    OK(cuStreamSynchronize(NULL));
}

static void child_graphs_run_in_place(void) {
    client_start(0);
    CUdeviceptr a = alloc(64), b = alloc(64);
    CUgraph child = new_graph(), graph = new_graph(), inner = new_graph();
    CUgraphNode node, first = add_fill(graph, NULL, 0, a, 1, 16);
    add_copy(inner, NULL, 0, b, a, 64);
    CUgraphNode inside;
    OK(cuGraphAddChildGraphNode(&inside, child, NULL, 0, inner));
    OK(cuGraphAddChildGraphNode(&node, graph, &first, 1, child));
    add_fill(graph, &node, 1, a, 2, 16);
    OK(cuGraphDestroy(child)); /* the node has a copy */
    OK(cuGraphDestroy(inner));
    CUgraph own;
    OK(cuGraphChildGraphNodeGetGraph(node, &own));
    CHECK(own != child);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphDestroy(own));
    size_t count;
    OK(cuGraphGetNodes(own, NULL, &count));
    SAME(count, 1);
    OK(cuGraphLaunch(instantiate(graph), NULL));
    OK(cuStreamSynchronize(NULL));
    SAME(peek32(a), 2);
    SAME(peek32(b), 1);
}

static void events_and_words_are_nodes(void) {
    client_start(0);
    CUdeviceptr words = alloc(64);
    CUgraph graph = new_graph();
    CUevent event = new_event(0), gate = new_event(0);
    CUgraphNode node, next;
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUstream other = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuGraphAddEventWaitNode(&node, graph, NULL, 0, gate));
    CUstreamBatchMemOpParams ops[2];
    memset(ops, 0, sizeof ops);
    ops[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    ops[0].writeValue.address = words;
    ops[0].writeValue.value = 3;
    ops[1].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    ops[1].waitValue.address = words + 4;
    ops[1].waitValue.value = 4;
    CUDA_BATCH_MEM_OP_NODE_PARAMS batch = {.ctx = client_ctx, .count = 2, .paramArray = ops};
    OK(cuGraphAddBatchMemOpNode(&next, graph, &node, 1, &batch));
    OK(cuGraphAddEventRecordNode(&node, graph, &next, 1, event));
    CUgraphExec exec = instantiate(graph);
    shut(other, 0);
    OK(cuEventRecord(gate, other));
    OK(cuGraphLaunch(exec, stream));
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(event)); /* recorded by the launch */
    OK(cuStreamWaitValue32(other, words, 3, CU_STREAM_WAIT_VALUE_EQ));
    OK(cuStreamWriteValue32(other, words + 4, 4, 0));
    open_gate(0);
    OK(cuEventSynchronize(event));
    OK(cuStreamSynchronize(stream));
    WITHIN(gate, event, 0, FOREVER);
    CUevent found;
    OK(cuGraphEventRecordNodeGetEvent(node, &found));
    CHECK(found == event);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphEventWaitNodeGetEvent(node, &found));
}

/* ---- Structure ----------------------------------------------------------------------------- */

static void structure_is_what_was_built(void) {
    client_start(0);
    CUgraph graph = new_graph();
    CUgraphNode n[4], list[8], to[8];
    size_t count;
    for (int i = 0; i < 4; i++)
        OK(cuGraphAddEmptyNode(&n[i], graph, n, i == 3 ? 2 : 0));
    OK(cuGraphAddDependencies(graph, &n[0], &n[2], NULL, 1));
    OK(cuGraphGetNodes(graph, NULL, &count));
    SAME(count, 4);
    count = 8;
    OK(cuGraphGetNodes(graph, list, &count));
    SAME(count, 4);
    CHECK(list[0] == n[0] && list[3] == n[3] && list[4] == NULL);
    count = 1;
    OK(cuGraphGetRootNodes(graph, list, &count));
    SAME(count, 1);
    CHECK(list[0] == n[0]);
    count = 8;
    OK(cuGraphGetEdges(graph, list, to, NULL, &count));
    SAME(count, 3);
    count = 8;
    OK(cuGraphNodeGetDependencies(n[3], list, NULL, &count));
    SAME(count, 2);
    CHECK(list[0] == n[0] && list[1] == n[1]);
    OK(cuGraphNodeGetDependentNodes(n[0], NULL, NULL, &count));
    SAME(count, 2);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &n[0], &n[2], NULL, 1));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &n[3], &n[0], NULL, 1));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &n[1], &n[1], NULL, 1));
    OK(cuGraphRemoveDependencies(graph, &n[0], &n[2], NULL, 1));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphRemoveDependencies(graph, &n[0], &n[2], NULL, 1));
    CUgraph clone, containing;
    OK(cuGraphClone(&clone, graph));
    CUgraphNode twin;
    OK(cuGraphNodeFindInClone(&twin, n[3], clone));
    CHECK(twin != n[3]);
    OK(cuGraphNodeGetContainingGraph(twin, &containing));
    CHECK(containing == clone);
    OK(cuGraphDestroyNode(n[1]));
    OK(cuGraphNodeGetDependencies(n[3], NULL, NULL, &count));
    SAME(count, 1);
    OK(cuGraphNodeGetDependencies(twin, NULL, NULL, &count));
    SAME(count, 2);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphDestroyNode(n[1]));
    CUgraphNodeType type;
    OK(cuGraphNodeGetType(n[0], &type));
    SAME(type, CU_GRAPH_NODE_TYPE_EMPTY);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddEmptyNode(&twin, clone, n, 1)); /* of another graph */
    CUgraphNode twice[2] = {n[0], n[0]};
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddEmptyNode(&twin, graph, twice, 2));
    OK(cuGraphDestroy(graph));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphDestroy(graph));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphNodeGetType(n[0], &type));
}

static void edge_data_is_kept_and_never_hidden(void) {
    client_start(0);
    CUgraph graph = new_graph();
    CUgraphNode a = add_spin(graph, NULL, 0, 1000, 1), b = add_spin(graph, NULL, 0, 1000, 1), e;
    CUgraphEdgeData data = {.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC,
                            .type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC};
    OK(cuGraphAddDependencies(graph, &a, &b, &data, 1));
    CUgraphNode from[2], to[2];
    CUgraphEdgeData back[2];
    size_t count = 2;
    GIVES(CUDA_ERROR_LOSSY_QUERY, cuGraphGetEdges(graph, from, to, NULL, &count));
    OK(cuGraphGetEdges(graph, from, to, back, &count));
    SAME(count, 1);
    SAME(back[0].from_port, CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC);
    OK(cuGraphAddEmptyNode(&e, graph, NULL, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &e, &b, &data, 1));
    OK(cuGraphLaunch(instantiate(graph), NULL));
    OK(cuCtxSynchronize());
}

static void nodes_give_back_their_parameters(void) {
    client_start(0);
    CUdeviceptr a = alloc(4096);
    CUgraph graph = new_graph();
    CUgraphNode node = add_spin(graph, NULL, 0, 123456, 7);
    CUDA_KERNEL_NODE_PARAMS kernel;
    OK(cuGraphKernelNodeGetParams(node, &kernel));
    CHECK(kernel.func == spin);
    SAME(kernel.gridDimX, 7);
    SAME(*(uint64_t *)kernel.kernelParams[0], 123456);
    uint64_t ns = 99, packed[1] = {77};
    void *params[] = {&ns};
    kernel.kernelParams = params;
    kernel.gridDimX = 2;
    OK(cuGraphKernelNodeSetParams(node, &kernel));
    OK(cuGraphKernelNodeGetParams(node, &kernel));
    SAME(*(uint64_t *)kernel.kernelParams[0], 99);
    size_t bytes = 8;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                     CU_LAUNCH_PARAM_END};
    kernel.kernelParams = NULL;
    kernel.extra = extra;
    OK(cuGraphKernelNodeSetParams(node, &kernel));
    OK(cuGraphKernelNodeGetParams(node, &kernel));
    SAME(*(uint64_t *)kernel.extra[1], 77);
    kernel.gridDimX = 0;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphKernelNodeSetParams(node, &kernel));
    CUkernelNodeAttrValue value;
    memset(&value, 0, sizeof value);
    value.priority = -1;
    OK(cuGraphKernelNodeSetAttribute(node, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value));
    CUgraphNode other = add_spin(graph, NULL, 0, 1, 1);
    OK(cuGraphKernelNodeCopyAttributes(other, node));
    memset(&value, 0, sizeof value);
    OK(cuGraphKernelNodeGetAttribute(other, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value));
    SAME(value.priority, -1);
    CUDA_MEMSET_NODE_PARAMS fill;
    node = add_fill(graph, NULL, 0, a, 3, 10);
    OK(cuGraphMemsetNodeGetParams(node, &fill));
    SAME(fill.width, 10);
    fill.width = 4096;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphMemsetNodeSetParams(node, &fill));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphKernelNodeGetParams(node, &kernel));
    CUgraphNodeParams any = {0};
    OK(cuGraphNodeGetParams(node, &any));
    SAME(any.type, CU_GRAPH_NODE_TYPE_MEMSET);
    SAME(any.memset.width, 10);
}

static void a_node_of_any_type_is_added_by_one_call(void) {
    client_start(0);
    CUdeviceptr a = alloc(64);
    CUgraph graph = new_graph();
    CUgraphNode node, next;
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMSET};
    params.memset.dst = a;
    params.memset.elementSize = 1;
    params.memset.value = 9;
    params.memset.width = 64;
    params.memset.height = 1;
    OK(cuGraphAddNode(&node, graph, NULL, NULL, 0, &params));
    memset(&params, 0, sizeof params);
    params.type = CU_GRAPH_NODE_TYPE_KERNEL;
    params.kernel.func = nothing;
    params.kernel.gridDimX = params.kernel.gridDimY = params.kernel.gridDimZ = 1;
    params.kernel.blockDimX = params.kernel.blockDimY = params.kernel.blockDimZ = 1;
    CUgraphEdgeData data = {0};
    OK(cuGraphAddNode(&next, graph, &node, &data, 1, &params));
    params.reserved2 = 1;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddNode(&next, graph, NULL, NULL, 0, &params));
    params.reserved2 = 0;
    params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
    GIVES(CUDA_ERROR_NOT_SUPPORTED, cuGraphAddNode(&next, graph, NULL, NULL, 0, &params));
    OK(cuGraphLaunch(instantiate(graph), NULL));
    OK(cuCtxSynchronize());
    SAME(peek32(a), 0x09090909);
}

/* ---- Executables change -------------------------------------------------------------------- */

static void an_executable_changes_for_later_launches_only(void) {
    client_start(0);
    CUdeviceptr a = alloc(64), b = alloc(64);
    CUgraph graph = new_graph();
    CUgraphNode node = add_spin(graph, NULL, 0, 1, 1);
    CUgraphNode fill = add_fill(graph, &node, 1, a, 1, 16);
    CUgraphExec exec = instantiate(graph);
    shut(NULL, 0);
    OK(cuGraphLaunch(exec, NULL));
    CUDA_MEMSET_NODE_PARAMS params = {
        .dst = b, .value = 2, .elementSize = 4, .width = 16, .height = 1};
    OK(cuGraphExecMemsetNodeSetParams(exec, fill, &params, client_ctx));
    OK(cuGraphNodeSetEnabled(exec, node, 0));
    unsigned enabled;
    OK(cuGraphNodeGetEnabled(exec, node, &enabled));
    SAME(enabled, 0);
    open_gate(0);
    OK(cuCtxSynchronize());
    SAME(peek32(a), 1);
    SAME(peek32(b), 0);
    OK(cuGraphLaunch(exec, NULL));
    OK(cuCtxSynchronize());
    SAME(peek32(b), 2);
    params.dst = 1; /* nowhere */
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuGraphExecMemsetNodeSetParams(exec, fill, &params, client_ctx));
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuGraphExecHostNodeSetParams(exec, fill, &(CUDA_HOST_NODE_PARAMS){.fn = add_one}));
    CUgraph other = new_graph();
    CUgraphNode foreign = add_fill(other, NULL, 0, a, 1, 1);
    params.dst = b;
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuGraphExecMemsetNodeSetParams(exec, foreign, &params, client_ctx));
}

static void an_executable_takes_over_a_graph_of_the_same_shape(void) {
    client_start(0);
    CUdeviceptr a = alloc(4096), b = alloc(4096);
    CUgraph one = new_graph(), two = new_graph(), three_nodes = new_graph(), types = new_graph();
    CUgraphNode n = add_fill(one, NULL, 0, a, 1, 16);
    add_copy(one, &n, 1, b, a, 64);
    n = add_fill(two, NULL, 0, a + 64, 2, 16);
    add_copy(two, &n, 1, b + 64, a + 64, 64);
    n = add_fill(three_nodes, NULL, 0, a, 1, 16);
    n = add_copy(three_nodes, &n, 1, b, a, 64);
    add_fill(three_nodes, &n, 1, a, 1, 16);
    n = add_fill(types, NULL, 0, a, 1, 16);
    CUgraphNode odd = add_fill(types, &n, 1, a, 1, 16);
    CUgraphExec exec = instantiate(one);
    CUgraphExecUpdateResultInfo info;
    OK(cuGraphExecUpdate(exec, two, &info));
    SAME(info.result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
    OK(cuGraphLaunch(exec, NULL));
    OK(cuCtxSynchronize());
    SAME(peek32(b), 0);
    SAME(peek32(b + 64), 2);
    GIVES(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(exec, three_nodes, &info));
    SAME(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    GIVES(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(exec, types, &info));
    SAME(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED);
    CHECK(info.errorNode == odd);
    OK(cuGraphLaunch(exec, NULL)); /* as before the failures */
    OK(cuCtxSynchronize());
    SAME(peek32(b + 64), 2);
}

const struct client_case client_cases[] = {
    {"nodes_run_in_the_order_of_their_edges", nodes_run_in_the_order_of_their_edges},
    {"branches_run_together", branches_run_together},
    {"a_long_chain_leaves_no_gap", a_long_chain_leaves_no_gap},
    {"launches_of_one_executable_follow_each_other", launches_of_one_executable_follow_each_other},
    {"a_graph_may_be_empty", a_graph_may_be_empty},
    {"child_graphs_run_in_place", child_graphs_run_in_place},
    {"events_and_words_are_nodes", events_and_words_are_nodes},
    {"structure_is_what_was_built", structure_is_what_was_built},
    {"edge_data_is_kept_and_never_hidden", edge_data_is_kept_and_never_hidden},
    {"nodes_give_back_their_parameters", nodes_give_back_their_parameters},
    {"a_node_of_any_type_is_added_by_one_call", a_node_of_any_type_is_added_by_one_call},
    {"an_executable_changes_for_later_launches_only",
     an_executable_changes_for_later_launches_only},
    {"an_executable_takes_over_a_graph_of_the_same_shape",
     an_executable_takes_over_a_graph_of_the_same_shape},
    {NULL, NULL},
};
