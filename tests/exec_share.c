/* One process of several on a device. Its first argument says what it does, the rest are numbers;
 * what it prints is read by test_sim_exec.py. Times are simulated, in milliseconds. */
#include "exec_client.h"

static uint64_t ns(double ms) { return (uint64_t)(ms * 1e6); }

static void say(const char *line) {
    puts(line);
    fflush(stdout);
}

/* Waits until the test has written a line to it. */
static void wait_for_start(void) {
    char line[16];
    say("ready");
    CHECK(fgets(line, sizeof line, stdin) != NULL);
}

/* TOTAL EACH [BLOCKS]: runs kernels of EACH ms, TOTAL ms in all, and prints how long that took. */
static void busy(void) {
    double total = client_number(0), each = client_number(1);
    unsigned blocks = client_number(2) > 0 ? (unsigned)client_number(2) : 4000;
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    int count = (int)(total / each + 0.5), first = count < 900 ? count : 900;
    shut(stream, 0);
    CUevent before = mark(stream);
    for (int i = 0; i < first; i++)
        run(stream, ns(each), blocks);
    wait_for_start();
    open_gate(0);
    for (int i = first; i < count; i++)
        run(stream, ns(each), blocks);
    CUevent after = mark(stream);
    OK(cuStreamSynchronize(stream));
    printf("%f\n", between(before, after));
}

/* TOTAL EACH: as busy, but waits for each kernel before it launches the next. */
static void stepwise(void) {
    double total = client_number(0), each = client_number(1);
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    wait_for_start();
    CUevent before = mark(stream);
    for (double done = 0; done < total - each / 2; done += each) {
        run(stream, ns(each), 1);
        OK(cuStreamSynchronize(stream));
    }
    CUevent after = mark(stream);
    OK(cuStreamSynchronize(stream));
    printf("%f\n", between(before, after));
}

/* MS: starts one long kernel and waits to be killed. */
static void hold(void) {
    client_start(0);
    wait_for_start();
    run(NULL, ns(client_number(0)), 4000);
    say("running");
    OK(cuCtxSynchronize());
}

/* Records an event behind a gate, prints its handle, opens the gate when told to. */
static void export_event(void) {
    client_start(0);
    CUevent event;
    CUipcEventHandle handle;
    OK(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuIpcGetEventHandle(&handle, new_event(0)));
    OK(cuIpcGetEventHandle(&handle, event));
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    shut(stream, 0);
    run(stream, 5 * MS, 1);
    OK(cuEventRecord(event, stream));
    for (size_t i = 0; i < sizeof handle; i++)
        printf("%02x", (unsigned)(uint8_t)handle.reserved[i]);
    say("");
    wait_for_start();
    open_gate(0);
    wait_for_start(); /* nobody in this process looks: the event comes by itself */
    OK(cuEventDestroy(event));
}

/* HANDLE: waits for another process's event, as a host and in a stream. */
static void import_event(void) {
    client_start(0);
    CUevent event;
    CUipcEventHandle handle;
    for (size_t i = 0; i < sizeof handle; i++) {
        unsigned byte;
        CHECK(sscanf(client_argv[2] + 2 * i, "%2x", &byte) == 1);
        handle.reserved[i] = (char)byte;
    }
    OK(cuIpcOpenEventHandle(&event, handle));
    CUdeviceptr word = alloc(4);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    OK(cuStreamWaitEvent(stream, event, 0));
    OK(cuMemsetD32Async(word, 1, 1, stream));
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    SAME(peek32(word), 0);
    say("waiting");
    OK(cuEventSynchronize(event));
    OK(cuStreamSynchronize(stream));
    SAME(peek32(word), 1);
    /* And the other way: it is recorded here. */
    OK(cuEventRecord(event, stream));
    OK(cuEventSynchronize(event));
    OK(cuEventQuery(event));
    memset(&handle, 3, sizeof handle);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuIpcOpenEventHandle(&event, handle));
    say("done");
}

/* Launches and waits in many threads until it is killed; says when the first has begun. */
static void *churn_thread(void *arg) {
    OK(cuCtxSetCurrent(client_ctx));
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUdeviceptr ptr;
    OK(cuMemAlloc(&ptr, 1 << 20));
    for (unsigned i = 0;; i++) {
        run(stream, i * 7919 % 300000, 1 + i % 100);
        OK(cuMemsetD8Async(ptr, 1, i * 31 % (1 << 20), stream));
        if (i % 5 == 0)
            OK(cuStreamSynchronize(stream));
        if (i == 5 && arg != NULL)
            say("churns");
    }
    return arg;
}
static void churn(void) {
    client_start(0);
    wait_for_start();
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, churn_thread, i == 0 ? client_ctx : NULL);
    }
    pause();
}

/* Forks with work under way: the child is refused, and neither hangs. */
static void fork_while_busy(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < 200; i++)
        run(stream, MS / 10, 1);
    CUdeviceptr word = alloc(4);
    OK(cuMemsetD32Async(word, 1, 1, stream));
    pid_t child = fork();
    if (child == 0) {
        CUevent event;
        bool refused = cuStreamQuery(stream) == CUDA_ERROR_NOT_INITIALIZED &&
                       cuStreamSynchronize(stream) == CUDA_ERROR_NOT_INITIALIZED &&
                       cuEventCreate(&event, 0) == CUDA_ERROR_NOT_INITIALIZED &&
                       cuCtxSynchronize() == CUDA_ERROR_NOT_INITIALIZED &&
                       cuInit(0) == CUDA_ERROR_NOT_INITIALIZED;
        _Exit(refused ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    OK(cuStreamSynchronize(stream));
    SAME(peek32(word), 1);
    say("done");
}

/* Ends with work queued and threads at it. */
static void exit_while_busy(void) {
    client_start(0);
    CUdeviceptr ptr = alloc(64 << 20);
    for (int i = 0; i < 100; i++) {
        CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
        run(stream, 2 * MS, 1);
        OK(cuMemsetD8Async(ptr, 1, 64 << 20, stream));
        run(stream, 1000 * MS, 1);
    }
    say("done");
    exit(0);
}

const struct client_case client_cases[] = {
    {"wait_for_start", wait_for_start},
    {"busy", busy},
    {"stepwise", stepwise},
    {"hold", hold},
    {"export_event", export_event},
    {"import_event", import_event},
    {"churn", churn},
    {"fork_while_busy", fork_while_busy},
    {"exit_while_busy", exit_while_busy},
    {NULL, NULL},
};
