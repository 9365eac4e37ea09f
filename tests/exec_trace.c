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

/* Kernels that wait for each other, a copy, a fill, a host function and a graph. */
static void CUDA_CB count_up(void *arg) { ++*(int *)arg; }

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

const struct client_case client_cases[] = {
    {"lanes", lanes},
    {"scene", scene},
    {"many", many},
    {NULL, NULL},
};
