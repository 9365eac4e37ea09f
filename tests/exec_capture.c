/* Stream capture: what is recorded, what it forbids, and what ends it. */
#include "exec_client.h"

static CUgraph end(CUstream stream) {
    CUgraph graph = NULL;
    OK(cuStreamEndCapture(stream, &graph));
    CHECK(graph != NULL);
    return graph;
}

/* The capture ends with that error and without a graph; the stream works again. */
static void ends_with(CUresult code, CUstream stream) {
    CUgraph graph = (CUgraph)1;
    GIVES(code, cuStreamEndCapture(stream, &graph));
    CHECK(graph == NULL);
    OK(cuStreamQuery(stream));
}

static size_t count_nodes(CUgraph graph) {
    size_t count;
    OK(cuGraphGetNodes(graph, NULL, &count));
    return count;
}

static size_t count_edges(CUgraph graph) {
    size_t count;
    OK(cuGraphGetEdges(graph, NULL, NULL, NULL, &count));
    return count;
}

static void launch(CUgraph graph, CUstream stream) {
    CUgraphExec exec;
    OK(cuGraphInstantiate(&exec, graph, 0));
    OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuGraphExecDestroy(exec));
}

static CUstream begin(CUstreamCaptureMode mode) {
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuStreamBeginCapture(stream, mode));
    return stream;
}

static void CUDA_CB add_one(void *arg) { ++*(int *)arg; }
static void CUDA_CB callback(CUstream stream, CUresult status, void *arg) {
    (void)stream, (void)status, (void)arg;
}

/* ---- Recording ----------------------------------------------------------------------------- */

static void work_is_recorded_and_not_done(void) {
    client_start(0);
    CUdeviceptr a = alloc(4096), b = alloc(4096);
    uint32_t *host;
    int counter = 0;
    OK(cuMemHostAlloc((void **)&host, 4096, 0));
    CUstream stream = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    run(stream, 5 * MS, 1);
    OK(cuMemsetD32Async(a, 3, 1024, stream));
    OK(cuMemcpyDtoDAsync(b, a, 4096, stream));
    OK(cuMemcpyDtoHAsync(host, b, 4096, stream));
    OK(cuLaunchHostFunc(stream, add_one, &counter));
    OK(cuStreamWriteValue32(stream, b, 9, 0));
    CUgraph graph = end(stream);
    SAME(count_nodes(graph), 6);
    SAME(count_edges(graph), 5);
    OK(cuStreamQuery(stream));
    SAME(counter, 0);
    SAME(peek32(a), 0);
    launch(graph, stream);
    SAME(counter, 1);
    SAME(host[1023], 3);
    SAME(peek32(b), 9);
    launch(graph, NULL);
    SAME(counter, 2);
}

static void streams_join_and_are_joined_by_events(void) {
    client_start(0);
    CUdeviceptr a = alloc(64);
    CUstream main = begin(CU_STREAM_CAPTURE_MODE_GLOBAL), side[3];
    CUevent fork = new_event(0), join[3];
    run(main, MS, 1);
    OK(cuEventRecord(fork, main));
    for (int i = 0; i < 3; i++) {
        side[i] = new_stream(CU_STREAM_NON_BLOCKING);
        join[i] = new_event(0);
        CUstreamCaptureStatus status;
        OK(cuStreamIsCapturing(side[i], &status));
        SAME(status, CU_STREAM_CAPTURE_STATUS_NONE);
        OK(cuStreamWaitEvent(side[i], fork, 0));
        OK(cuStreamIsCapturing(side[i], &status));
        SAME(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
        run(side[i], 10 * MS, 1);
        OK(cuEventRecord(join[i], side[i]));
    }
    for (int i = 0; i < 3; i++)
        OK(cuStreamWaitEvent(main, join[i], 0));
    OK(cuMemsetD32Async(a, 1, 1, main));
    CUgraph graph = end(main);
    SAME(count_nodes(graph), 5);
    CUstreamCaptureStatus status;
    OK(cuStreamIsCapturing(side[0], &status));
    SAME(status, CU_STREAM_CAPTURE_STATUS_NONE);
    shut(main, 0);
    CUevent before = mark(main);
    CUgraphExec exec;
    OK(cuGraphInstantiate(&exec, graph, 0));
    OK(cuGraphLaunch(exec, main));
    CUevent after = mark(main);
    open_gate(0);
    OK(cuStreamSynchronize(main));
    EXACTLY(before, after, 11);
}

static void a_stream_that_is_not_joined_spoils_the_capture(void) {
    client_start(0);
    CUstream main = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    CUstream side = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = new_event(0);
    run(main, MS, 1);
    OK(cuEventRecord(event, main));
    OK(cuStreamWaitEvent(side, event, 0)); /* alone it does no harm */
    run(side, MS, 1);
    CUgraph graph = (CUgraph)1;
    GIVES(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, cuStreamEndCapture(side, &graph));
    ends_with(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, main);
    OK(cuStreamQuery(side));
}

static void memory_is_allocated_by_nodes(void) {
    client_start(0);
    CUdeviceptr out = alloc(64), inside;
    CUstream stream = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    OK(cuMemAllocAsync(&inside, 4 << 20, stream));
    OK(cuMemsetD32Async(inside, 8, 16, stream));
    OK(cuMemcpyDtoDAsync(out, inside, 64, stream));
    OK(cuMemFreeAsync(inside, stream));
    CUgraph graph = end(stream);
    SAME(count_nodes(graph), 4);
    for (int i = 0; i < 3; i++)
        launch(graph, stream);
    SAME(peek32(out), 8);
    uint64_t used;
    OK(cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used));
    SAME(used, 0);
}

static void external_events_become_nodes(void) {
    client_start(0);
    CUevent out = new_event(0), in = new_event(0);
    CUstream stream = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    OK(cuStreamWaitEvent(stream, in, CU_EVENT_WAIT_EXTERNAL));
    OK(cuEventRecordWithFlags(out, stream, CU_EVENT_RECORD_EXTERNAL));
    CUgraph graph = end(stream);
    SAME(count_nodes(graph), 2);
    CUstream other = new_stream(CU_STREAM_NON_BLOCKING);
    run(other, 10 * MS, 1);
    OK(cuEventRecord(in, other));
    launch(graph, stream);
    OK(cuEventQuery(in));
    OK(cuEventQuery(out));
    WITHIN(in, out, 0, FOREVER);
}

static void a_graph_launched_in_a_capture_becomes_a_child(void) {
    client_start(0);
    CUdeviceptr a = alloc(64);
    CUstream stream = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    OK(cuMemsetD32Async(a, 4, 1, stream));
    CUgraph inner = end(stream);
    CUgraphExec exec;
    OK(cuGraphInstantiate(&exec, inner, 0));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuGraphLaunch(exec, stream));
    OK(cuMemsetD32Async(a + 4, 5, 1, stream));
    CUgraph outer = end(stream);
    SAME(count_nodes(outer), 2);
    SAME(peek32(a), 0);
    launch(outer, stream);
    SAME(peek32(a), 4);
    SAME(peek32(a + 4), 5);
}

static void a_capture_goes_into_a_graph_that_is_there(void) {
    client_start(0);
    CUgraph graph, back = NULL;
    CUgraphNode root;
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddEmptyNode(&root, graph, NULL, 0));
    OK(cuStreamBeginCaptureToGraph(stream, graph, &root, NULL, 1, CU_STREAM_CAPTURE_MODE_RELAXED));
    run(stream, MS, 1);
    OK(cuStreamEndCapture(stream, &back));
    CHECK(back == graph);
    SAME(count_nodes(graph), 2);
    SAME(count_edges(graph), 1);
    /* An error leaves the application's graph to the application. */
    OK(cuStreamBeginCaptureToGraph(stream, graph, NULL, NULL, 0, CU_STREAM_CAPTURE_MODE_RELAXED));
    GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(stream));
    ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
    OK(cuGraphDestroy(graph));
}

static void a_capture_tells_and_takes_dependencies(void) {
    client_start(0);
    CUstream stream = begin(CU_STREAM_CAPTURE_MODE_RELAXED);
    CUstreamCaptureStatus status;
    cuuint64_t id;
    CUgraph graph;
    const CUgraphNode *nodes;
    const CUgraphEdgeData *data;
    size_t count;
    run(stream, MS, 1);
    OK(cuStreamGetCaptureInfo(stream, &status, &id, &graph, &nodes, &data, &count));
    SAME(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK(id != 0);
    SAME(count, 1);
    CUgraphNode first = nodes[0], own;
    OK(cuGraphAddEmptyNode(&own, graph, &first, 1));
    OK(cuStreamUpdateCaptureDependencies(stream, &own, NULL, 1,
                                         CU_STREAM_ADD_CAPTURE_DEPENDENCIES));
    OK(cuStreamGetCaptureInfo(stream, &status, NULL, NULL, NULL, NULL, &count));
    SAME(count, 2);
    OK(cuStreamUpdateCaptureDependencies(stream, &own, NULL, 1,
                                         CU_STREAM_SET_CAPTURE_DEPENDENCIES));
    run(stream, MS, 1);
    OK(cuStreamUpdateCaptureDependencies(stream, NULL, NULL, 0,
                                         CU_STREAM_SET_CAPTURE_DEPENDENCIES));
    run(stream, MS, 1); /* a second root */
    OK(cuStreamUpdateCaptureDependencies(stream, &first, NULL, 1,
                                         CU_STREAM_ADD_CAPTURE_DEPENDENCIES));
    CUgraph done = end(stream);
    CHECK(done == graph);
    SAME(count_nodes(graph), 4);
    size_t roots;
    OK(cuGraphGetRootNodes(graph, NULL, &roots));
    SAME(roots, 2);
    GIVES(CUDA_ERROR_ILLEGAL_STATE, cuStreamUpdateCaptureDependencies(
                                        stream, NULL, NULL, 0, CU_STREAM_SET_CAPTURE_DEPENDENCIES));
    OK(cuStreamGetCaptureInfo(stream, &status, NULL, NULL, NULL, NULL, NULL));
    SAME(status, CU_STREAM_CAPTURE_STATUS_NONE);
}

/* ---- What is forbidden --------------------------------------------------------------------- */

static void waiting_for_a_capture_is_refused_and_spoils_it(void) {
    client_start(0);
    CUevent event = new_event(0), free_event = new_event(0);
    for (int i = 0; i < 7; i++) {
        CUstream stream = begin(CU_STREAM_CAPTURE_MODE_RELAXED);
        run(stream, MS, 1);
        OK(cuEventRecord(event, stream));
        float ms;
        if (i == 0)
            GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(stream));
        else if (i == 1)
            GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamQuery(stream));
        else if (i == 2)
            GIVES(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(event));
        else if (i == 3)
            GIVES(CUDA_ERROR_CAPTURED_EVENT, cuEventSynchronize(event));
        else if (i == 4)
            GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuCtxSynchronize());
        else if (i == 5)
            GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                  cuStreamAddCallback(stream, callback, NULL, 0));
        else
            GIVES(CUDA_ERROR_CAPTURED_EVENT, cuEventElapsedTime(&ms, event, free_event));
        uint64_t ns = 1;
        void *params[] = {&ns};
        GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
              cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
        CUstreamCaptureStatus status;
        OK(cuStreamIsCapturing(stream, &status));
        SAME(status, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
        ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
    }
    OK(cuEventQuery(event)); /* what it captured is gone */
}

static void a_bad_call_does_not_spoil_the_capture(void) {
    client_start(0);
    CUstream stream = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuLaunchKernel(nothing, 0, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD32Async(2, 1, 1, stream));
    OK(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    SAME(count_nodes(end(stream)), 1);
}

static void the_legacy_stream_must_not_depend_on_a_capture(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_DEFAULT);
    GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
          cuStreamBeginCapture(NULL, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    GIVES(CUDA_ERROR_ILLEGAL_STATE, cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    GIVES(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
          cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
    OK(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    stream = begin(CU_STREAM_CAPTURE_MODE_RELAXED); /* not a blocking one: no harm */
    OK(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    SAME(count_nodes(end(stream)), 0);
}

static void captures_do_not_mix(void) {
    client_start(0);
    CUstream a = begin(CU_STREAM_CAPTURE_MODE_RELAXED), b = begin(CU_STREAM_CAPTURE_MODE_RELAXED);
    CUevent event = new_event(0), outside = mark(NULL);
    run(a, MS, 1);
    OK(cuEventRecord(event, a));
    GIVES(CUDA_ERROR_STREAM_CAPTURE_MERGE, cuStreamWaitEvent(b, event, 0));
    ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, a);
    ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, b);
    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_RELAXED));
    GIVES(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(a, outside, 0));
    ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, a);
    CUgraph graph;
    GIVES(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(a, &graph));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamEndCapture(a, NULL));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamBeginCapture(a, 7));
}

static void a_destroyed_stream_takes_its_capture_along(void) {
    client_start(0);
    CUstream a = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    run(a, MS, 1);
    OK(cuStreamDestroy(a));
    CUdeviceptr ptr;
    OK(cuMemAlloc(&ptr, 4096)); /* nobody captures any more */
    a = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    CUstream b = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = new_event(0);
    OK(cuEventRecord(event, a));
    OK(cuStreamWaitEvent(b, event, 0));
    OK(cuStreamDestroy(b));
    ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, a);
}

/* ---- Modes --------------------------------------------------------------------------------- */

struct attempt {
    CUstreamCaptureMode mode; /* of the thread */
    CUresult code;            /* of an unsafe call */
    CUstream end;             /* whose capture it tries to end */
    CUresult end_code;
};

static void *attempt(void *arg) {
    struct attempt *attempt = arg;
    CUdeviceptr ptr = 0;
    CUgraph graph;
    OK(cuCtxSetCurrent(client_ctx));
    OK(cuThreadExchangeStreamCaptureMode(&attempt->mode));
    attempt->code = cuMemAlloc(&ptr, 4096);
    if (attempt->end != NULL)
        attempt->end_code = cuStreamEndCapture(attempt->end, &graph);
    return NULL;
}

/* What an unsafe call of another thread gives in that mode. */
static CUresult elsewhere(CUstreamCaptureMode mode, CUstream end_stream, CUresult *end_code) {
    struct attempt it = {.mode = mode, .end = end_stream};
    pthread_t thread;
    pthread_create(&thread, NULL, attempt, &it);
    pthread_join(thread, NULL);
    if (end_code != NULL)
        *end_code = it.end_code;
    return it.code;
}

static CUresult here(CUstreamCaptureMode mode) {
    CUdeviceptr ptr;
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    CUresult result = cuMemAlloc(&ptr, 4096);
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    return result;
}

static void unsafe_calls_are_forbidden_as_the_modes_say(void) {
    client_start(0);
    const CUstreamCaptureMode G = CU_STREAM_CAPTURE_MODE_GLOBAL;
    const CUstreamCaptureMode T = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    const CUstreamCaptureMode R = CU_STREAM_CAPTURE_MODE_RELAXED;
    const CUresult no = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, yes = CUDA_SUCCESS;
    const struct {
        CUstreamCaptureMode capture, thread;
        CUresult here, elsewhere;
    } table[] = {
        {G, G, no, no},   {G, T, no, yes},  {G, R, yes, yes}, {T, G, no, yes},  {T, T, no, yes},
        {T, R, yes, yes}, {R, G, yes, yes}, {R, T, yes, yes}, {R, R, yes, yes},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        for (int place = 0; place < 2; place++) {
            CUstream stream = begin(table[i].capture);
            CUresult wanted = place ? table[i].elsewhere : table[i].here;
            SAME(place ? elsewhere(table[i].thread, NULL, NULL) : here(table[i].thread), wanted);
            if (wanted == yes)
                end(stream);
            else
                ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
        }
    }
    CUstreamCaptureMode wrong = 5;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuThreadExchangeStreamCaptureMode(&wrong));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuThreadExchangeStreamCaptureMode(NULL));
}

static void only_a_relaxed_capture_ends_in_another_thread(void) {
    client_start(0);
    CUresult code;
    CUstream stream = begin(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    elsewhere(CU_STREAM_CAPTURE_MODE_RELAXED, stream, &code);
    SAME(code, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    end(stream);
    stream = begin(CU_STREAM_CAPTURE_MODE_RELAXED);
    elsewhere(CU_STREAM_CAPTURE_MODE_RELAXED, stream, &code);
    SAME(code, CUDA_SUCCESS);
    OK(cuStreamQuery(stream));
}

static void copies_that_synchronise_are_unsafe(void) {
    client_start(0);
    CUdeviceptr a = alloc(64);
    uint32_t word = 0;
    CUstream stream = begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemcpyHtoD(a, &word, 4));
    ends_with(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
    OK(cuMemcpyHtoD(a, &word, 4));
}

const struct client_case client_cases[] = {
    {"work_is_recorded_and_not_done", work_is_recorded_and_not_done},
    {"streams_join_and_are_joined_by_events", streams_join_and_are_joined_by_events},
    {"a_stream_that_is_not_joined_spoils_the_capture",
     a_stream_that_is_not_joined_spoils_the_capture},
    {"memory_is_allocated_by_nodes", memory_is_allocated_by_nodes},
    {"external_events_become_nodes", external_events_become_nodes},
    {"a_graph_launched_in_a_capture_becomes_a_child",
     a_graph_launched_in_a_capture_becomes_a_child},
    {"a_capture_goes_into_a_graph_that_is_there", a_capture_goes_into_a_graph_that_is_there},
    {"a_capture_tells_and_takes_dependencies", a_capture_tells_and_takes_dependencies},
    {"waiting_for_a_capture_is_refused_and_spoils_it",
     waiting_for_a_capture_is_refused_and_spoils_it},
    {"a_bad_call_does_not_spoil_the_capture", a_bad_call_does_not_spoil_the_capture},
    {"the_legacy_stream_must_not_depend_on_a_capture",
     the_legacy_stream_must_not_depend_on_a_capture},
    {"captures_do_not_mix", captures_do_not_mix},
    {"a_destroyed_stream_takes_its_capture_along", a_destroyed_stream_takes_its_capture_along},
    {"unsafe_calls_are_forbidden_as_the_modes_say", unsafe_calls_are_forbidden_as_the_modes_say},
    {"only_a_relaxed_capture_ends_in_another_thread",
     only_a_relaxed_capture_ends_in_another_thread},
    {"copies_that_synchronise_are_unsafe", copies_that_synchronise_are_unsafe},
    {NULL, NULL},
};
