/* Programs that share a device's time, run by test_time_shim.py behind the shim. They know of nothing
 * but the driver: what they print is for the test, which answers with a line. */
#include "exec_client.h"

static void say(const char *line) {
    puts(line);
    fflush(stdout);
}

/* Says a word and waits until the test has answered. */
static void ask(const char *word) {
    char line[16];
    say(word);
    CHECK(fgets(line, sizeof line, stdin) != NULL);
}

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* COUNT EACH: kernels of EACH ms in two streams and the default one; prints the nanoseconds that it
 * took. */
static void steady(void) {
    int count = (int)client_number(0);
    uint64_t each = (uint64_t)(client_number(1) * 1e6);
    client_start(0);
    CUstream streams[] = {new_stream(CU_STREAM_NON_BLOCKING), new_stream(0), NULL};
    ask("ready");
    uint64_t began = clock_ns();
    for (int i = 0; i < count; i++)
        run(streams[i % 3], each, 4000);
    OK(cuCtxSynchronize());
    printf("%llu\n", (unsigned long long)(clock_ns() - began));
}

static void CUDA_CB dawdle(void *argument) {
    (void)argument;
    usleep(2000);
}

/* KIND: kernels that wait for something else in between: copies in their stream (0), copies in another
 * one (1), host functions (2). 26 ms of kernels. */
static void beside(void) {
    int kind = (int)client_number(0);
    client_start(0);
    CUstream kernels = new_stream(CU_STREAM_NON_BLOCKING),
             copies = new_stream(CU_STREAM_NON_BLOCKING);
    size_t bytes = 32 << 20;
    CUdeviceptr memory = alloc(bytes);
    CUevent copied = new_event(0), used = new_event(0);
    void *host;
    OK(cuMemHostAlloc(&host, bytes, 0));
    for (int i = 0; i < 10; i++) {
        run(kernels, MS / 10, 4000);
        OK(cuStreamSynchronize(kernels));
    }
    for (int i = 0; i < 50; i++) {
        if (kind == 0)
            OK(cuMemcpyHtoDAsync(memory, host, bytes, kernels));
        if (kind == 1) {
            OK(cuStreamWaitEvent(copies, used, 0));
            OK(cuMemcpyHtoDAsync(memory, host, bytes, copies));
            OK(cuEventRecord(copied, copies));
            OK(cuStreamWaitEvent(kernels, copied, 0));
        }
        if (kind == 2)
            OK(cuLaunchHostFunc(kernels, dawdle, NULL));
        for (int j = 0; j < 5; j++)
            run(kernels, MS / 10, 4000);
        OK(cuEventRecord(used, kernels));
    }
    OK(cuCtxSynchronize());
    say("done");
}

/* Kernels one by one, until the input ends. Says "on" after the first hundred. */
static void endless(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    for (int i = 0;; i++) {
        run(stream, MS / 5, 4000);
        if (i % 10 == 9)
            OK(cuStreamSynchronize(stream));
        if (i == 100)
            say("on");
    }
}

/* A launch when the test says so, and the end of it. */
static void one_launch(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    ask("ready");
    run(stream, MS, 1);
    say("launched");
    OK(cuStreamSynchronize(stream));
    say("done");
}

/* Captures while the gate is closed, then launches what it captured. */
static void capture(void) {
    CUgraph graph;
    CUgraphExec exec;
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUdeviceptr word = alloc(64);
    ask("ready");
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    for (int i = 0; i < 50; i++) {
        run(stream, MS / 10, 1);
        OK(cuMemsetD32Async(word, (unsigned)i, 16, stream));
    }
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&exec, graph, 0));
    ask("captured");
    for (int i = 0; i < 5; i++)
        OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
    SAME(read32(word), 49);
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
    say("done");
}

static struct work {
    CUcontext context;
    CUfunction spin;
} work_of(CUcontext context) {
    CUmodule module;
    struct work work = {.context = context};
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, client_image));
    work.spin = client_function(module, "aliquot_spin_ns");
    return work;
}

static void do_work(const struct work *work, CUstream stream, int count) {
    uint64_t ns = MS / 10;
    void *params[] = {&ns};
    OK(cuCtxSetCurrent(work->context));
    for (int i = 0; i < count; i++)
        OK(cuLaunchKernel(work->spin, 1 + (unsigned)i % 3, 1, 1, 64, 1, 1, 0, stream, params,
                          NULL));
}

/* Streams and contexts come and go with work of theirs under way. */
static void coming_and_going(void) {
    client_start(0);
    for (int round = 0; round < 8; round++) {
        CUcontext context[2];
        for (int i = 0; i < 2; i++) {
            OK(cuCtxCreate(&context[i], NULL, 0, 0));
            struct work work = work_of(context[i]);
            CUstream stream = new_stream(i ? CU_STREAM_NON_BLOCKING : 0);
            do_work(&work, stream, 30);
            do_work(&work, NULL, 10);
            do_work(&work, CU_STREAM_PER_THREAD, 10);
            if (round % 2)
                OK(cuStreamDestroy(stream));
        }
        for (int i = 0; i < 2; i++)
            OK(cuCtxDestroy(context[i]));
        OK(cuCtxSetCurrent(client_ctx));
    }
    for (int round = 0; round < 4; round++) {
        CUcontext primary;
        OK(cuDevicePrimaryCtxRetain(&primary, 0));
        struct work work = work_of(primary);
        do_work(&work, NULL, 50);
        if (round % 2)
            OK(cuDevicePrimaryCtxReset(0));
        else
            OK(cuDevicePrimaryCtxRelease(0));
    }
    say("done");
}

static pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;

static void *own_stream(void *argument) {
    int count = *(int *)argument;
    OK(cuCtxSetCurrent(client_ctx));
    for (int i = 0; i < count; i++) {
        pthread_mutex_lock(&own);
        run(CU_STREAM_PER_THREAD, MS / 20, 1);
        pthread_mutex_unlock(&own);
        if (i % 16 == 15)
            OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    }
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    return NULL;
}

/* Threads with streams of their own, and a lock of the program's that each has while it launches. They
 * end, and others come. */
static void threads(void) {
    int count = 100;
    client_start(0);
    ask("ready");
    for (int round = 0; round < 2; round++) {
        pthread_t thread[8];
        for (int i = 0; i < 8; i++)
            CHECK(pthread_create(&thread[i], NULL, own_stream, &count) == 0);
        for (int i = 0; i < 8; i++)
            CHECK(pthread_join(thread[i], NULL) == 0);
    }
    say("done");
}

/* A stream waits for a word that another one writes, by what is never held back. */
static void write_value(void) {
    client_start(0);
    CUstream waits = new_stream(CU_STREAM_NON_BLOCKING),
             writes = new_stream(CU_STREAM_NON_BLOCKING);
    shut(waits, 3);
    run(waits, MS, 1);
    ask("ready");
    OK(cuStreamWriteValue32(writes, client_gates_ptr + 12, 1, 0));
    OK(cuStreamSynchronize(waits));
    say("done");
}

/* A stream waits for a word that another one fills, by what is held back. */
static void fill(void) {
    client_start(0);
    CUdeviceptr word = alloc(64);
    CUstream waits = new_stream(CU_STREAM_NON_BLOCKING), fills = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuStreamWaitValue32(waits, word, 1, CU_STREAM_WAIT_VALUE_EQ));
    run(waits, MS, 1);
    ask("ready");
    OK(cuMemsetD32Async(word, 1, 1, fills));
    OK(cuStreamSynchronize(waits));
    say("done");
}

/* Forks before the driver is initialised, and again when work is under way: the first child has a
 * place of its own, the second is refused by the driver. */
static void forks(void) {
    int status;
    pid_t before = fork();
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < 100; i++)
        run(stream, MS / 10, 1);
    OK(cuStreamSynchronize(stream));
    if (before == 0)
        exit(0);
    for (int i = 0; i < 100; i++)
        run(stream, MS / 10, 1);
    pid_t after = fork();
    if (after == 0) {
        uint64_t ns = MS;
        void *params[] = {&ns};
        CUresult launched = cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
        CUresult queried = cuStreamQuery(stream), waited = cuCtxSynchronize();
        exit(launched && queried && waited ? 0 : 1);
    }
    CHECK(waitpid(before, &status, 0) == before && status == 0);
    CHECK(waitpid(after, &status, 0) == after && status == 0);
    OK(cuStreamSynchronize(stream));
    say("done");
}

const struct client_case client_cases[] = {
    {"steady", steady},   {"beside", beside},
    {"endless", endless}, {"one_launch", one_launch},
    {"capture", capture}, {"coming_and_going", coming_and_going},
    {"threads", threads}, {"write_value", write_value},
    {"fill", fill},       {"forks", forks},
    {NULL, NULL},
};
