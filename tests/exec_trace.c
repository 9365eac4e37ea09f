/* What a device does beside and after each other, for test_sim_trace.py, which reads what is
 * printed, or the trace that is written meanwhile. Times are simulated, in milliseconds. */
#include "exec_client.h"

enum { MB = 1000 * 1000 };

static void *pinned(size_t bytes) {
    void *host;
    OK(cuMemHostAlloc(&host, bytes, CU_MEMHOSTALLOC_PORTABLE));
    return host;
}

/* Streams that begin at one simulated moment: when the returned event comes. */
static CUevent begin_together(CUstream gate, CUstream *streams, int count) {
    shut(gate, 0);
    CUevent start = mark(gate);
    for (int i = 0; i < count; i++) {
        streams[i] = new_stream(CU_STREAM_NON_BLOCKING);
        OK(cuStreamWaitEvent(streams[i], start, 0));
    }
    return start;
}

/* Two copies to the device and one to the host of 4 MB each, and a kernel on all processors of
 * 6 ms: prints when each ended. */
static void lanes(void) {
    client_start(0);
    CUdeviceptr ptr = alloc(16 * MB);
    uint8_t *host = pinned(16 * MB);
    CUstream gate = new_stream(CU_STREAM_NON_BLOCKING), streams[4];
    CUevent start = begin_together(gate, streams, 4), ends[4];
    OK(cuMemcpyHtoDAsync(ptr, host, 4 * MB, streams[0]));
    OK(cuMemcpyHtoDAsync(ptr + 4 * MB, host + 4 * MB, 4 * MB, streams[1]));
    OK(cuMemcpyDtoHAsync(host + 8 * MB, ptr + 8 * MB, 4 * MB, streams[2]));
    run(streams[3], 6 * MS, 4000);
    for (int i = 0; i < 4; i++)
        ends[i] = mark(streams[i]);
    open_gate(0);
    OK(cuCtxSynchronize());
    for (int i = 0; i < 4; i++)
        printf("%.3f\n", between(start, ends[i]));
}

static void CUDA_CB count_up(void *arg) { ++*(int *)arg; }

/* Kernels that wait for each other, a copy, a fill, a host function and a graph. */
static void scene(void) {
    client_start(0);
    CUdeviceptr ptr = alloc(4 * MB);
    void *host = pinned(4 * MB);
    int called = 0;
    CUstream streams[2], gate = new_stream(CU_STREAM_NON_BLOCKING);
    begin_together(gate, streams, 2);
    OK(cuMemcpyHtoDAsync(ptr, host, 4 * MB, streams[0])); /* 4 ms */
    run(streams[0], 3 * MS, 20);
    CUevent first = mark(streams[0]);
    run(streams[1], 5 * MS, 20);
    OK(cuStreamWaitEvent(streams[1], first, 0)); /* till 7 ms */
    run(streams[1], 2 * MS, 4000);
    OK(cuMemsetD8Async(ptr, 1, 4 * MB, streams[1]));
    OK(cuLaunchHostFunc(streams[1], count_up, &called));
    open_gate(0);
    OK(cuStreamSynchronize(streams[1]));
    SAME(called, 1);
    CUgraph graph;
    CUgraphExec exec;
    OK(cuStreamBeginCapture(streams[0], CU_STREAM_CAPTURE_MODE_GLOBAL));
    run(streams[0], 1 * MS, 20);
    run(streams[0], 1 * MS, 20);
    OK(cuStreamEndCapture(streams[0], &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphLaunch(exec, streams[0]));
    OK(cuCtxSynchronize());
}

/* COUNT: so many kernels of 10 us. */
static void many(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < (int)client_number(0); i++)
        run(stream, 10000, 1);
    OK(cuStreamSynchronize(stream));
}

/* Every call that has a cost of its own: prints how long each took, in real milliseconds. */
static double clock_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

#define TIMED(name, call)                                                                          \
    do {                                                                                           \
        double timed_ = clock_ms();                                                                \
        OK(call);                                                                                  \
        printf("%s %f\n", name, clock_ms() - timed_);                                              \
    } while (0)

static void calls(void) {
    CUcontext ctx;
    CUmodule module;
    CUstream stream;
    CUevent event, timed;
    CUdeviceptr ptr;
    CUgraph graph;
    CUgraphExec exec;
    size_t free_bytes, total;
    void *host;
    int count = 0;
    TIMED("init", cuInit(0));
    TIMED("context_create", cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    TIMED("module_load", cuModuleLoadData(&module, client_image));
    CUfunction function = client_function(module, "nothing");
    TIMED("call", cuCtxGetCurrent(&ctx));
    TIMED("alloc", cuMemAlloc(&ptr, 4096));
    TIMED("free", cuMemFree(ptr));
    TIMED("mem_info", cuMemGetInfo(&free_bytes, &total));
    TIMED("host_alloc", cuMemHostAlloc(&host, 4096, 0));
    TIMED("stream_create", cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    TIMED("alloc_async", cuMemAllocAsync(&ptr, 4096, stream));
    TIMED("copy", cuMemcpyHtoDAsync(ptr, host, 4, stream));
    TIMED("mem_op", cuStreamWriteValue32(stream, ptr, 1, 0));
    TIMED("free_async", cuMemFreeAsync(ptr, stream));
    TIMED("launch", cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    TIMED("host_func", cuLaunchHostFunc(stream, count_up, &count));
    TIMED("event_create", cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&timed, 0));
    TIMED("event_record", cuEventRecord(event, stream));
    TIMED("event_record_timing", cuEventRecord(timed, stream));
    TIMED("stream_wait_event", cuStreamWaitEvent(stream, event, 0));
    TIMED("sync", cuStreamSynchronize(stream));
    TIMED("event_query", cuEventQuery(event));
    TIMED("event_destroy", cuEventDestroy(event));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    double before = clock_ms();
    OK(cuGraphLaunch(exec, stream));
    printf("graph_launch %f\ngraph_node %f\n", clock_ms() - before, clock_ms() - before);
    TIMED("stream_destroy", cuStreamDestroy(stream));
    TIMED("host_free", cuMemFreeHost(host));
    TIMED("module_unload", cuModuleUnload(module));
    TIMED("context_destroy", cuDevicePrimaryCtxRelease(0));
}

const struct client_case client_cases[] = {
    {"lanes", lanes}, {"scene", scene}, {"many", many}, {"calls", calls}, {NULL, NULL},
};
