/* Random work in random streams, each step behind the one before by an event: whatever is chosen,
 * the word that the steps change must have the value of the last one, at every wait. */
#include "exec_client.h"

enum { STREAMS = 6, LARGE = 1 << 20 };

struct chain {
    uint64_t random;
    CUstream streams[STREAMS];
    CUevent last;      /* of the step before */
    CUdeviceptr words; /* LARGE bytes; the first word is the one, the second a scratch */
    uint32_t *pinned;
    CUgraph graph; /* fills the word with a value that is set before each launch */
    CUgraphNode fill;
    CUgraphExec exec;
    uint32_t value;
    bool dead; /* a host function saw a wrong value */
};

struct check {
    struct chain *chain;
    uint32_t value;
};

static unsigned pick(struct chain *chain, unsigned below) {
    chain->random = chain->random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(chain->random >> 33) % below;
}

static void CUDA_CB check_word(void *arg) {
    struct check *check = arg;
    if (peek32(check->chain->words) != check->value)
        check->chain->dead = true;
    free(check);
}

static void step(struct chain *chain) {
    CUstream stream = chain->streams[pick(chain, STREAMS)];
    CUdeviceptr word = chain->words;
    OK(cuStreamWaitEvent(stream, chain->last, 0));
    uint32_t value = chain->value + 1;
    switch (pick(chain, 11)) {
    case 0:
        OK(cuMemsetD32Async(word, value, 1, stream));
        break;
    case 1:
        OK(cuMemsetD32Async(word, value, LARGE / 4, stream));
        break;
    case 2: /* by way of a scratch */
        OK(cuStreamWriteValue32(stream, word + 4, value, 0));
        OK(cuMemcpyDtoDAsync(word, word + 4, 4, stream));
        break;
    case 3:
        OK(cuMemcpyHtoDAsync(word, &value, 4, stream)); /* pageable: read at once */
        break;
    case 4:
        OK(cuEventSynchronize(chain->last));
        *chain->pinned = value;
        OK(cuMemcpyHtoDAsync(word, chain->pinned, 4, stream));
        break;
    case 5: {
        CUDA_MEMSET_NODE_PARAMS fill = {
            .dst = word, .value = value, .elementSize = 4, .width = 1, .height = 1};
        OK(cuGraphExecMemsetNodeSetParams(chain->exec, chain->fill, &fill, client_ctx));
        OK(cuGraphLaunch(chain->exec, stream));
        break;
    }
    case 6: {
        struct check *check = malloc(sizeof *check);
        *check = (struct check){chain, chain->value};
        OK(cuLaunchHostFunc(stream, check_word, check));
        value = chain->value;
        break;
    }
    case 7: {
        CUdeviceptr ptr;
        OK(cuMemAllocAsync(&ptr, 4096, stream));
        OK(cuMemsetD32Async(ptr, value, 16, stream));
        OK(cuMemcpyDtoDAsync(word, ptr, 4, stream));
        OK(cuMemFreeAsync(ptr, stream));
        break;
    }
    default:
        run(stream, pick(chain, 4) == 0 ? pick(chain, 200000) : 0, 1 + pick(chain, 100));
        value = chain->value;
    }
    chain->value = value;
    OK(cuEventRecord(chain->last, stream));
}

static void wait_somehow(struct chain *chain) {
    switch (pick(chain, 6)) {
    case 0:
        OK(cuEventSynchronize(chain->last));
        break;
    case 1:
        for (int i = 0; i < STREAMS; i++)
            OK(cuStreamSynchronize(chain->streams[i]));
        break;
    case 2:
        OK(cuCtxSynchronize());
        break;
    case 3:
        while (cuEventQuery(chain->last) == CUDA_ERROR_NOT_READY)
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
        break;
    case 4: {
        CUdeviceptr ptr;
        OK(cuMemAlloc(&ptr, 4096));
        OK(cuMemFree(ptr)); /* waits for the device */
        break;
    }
    default: {
        uint32_t value;
        OK(cuMemcpyDtoHAsync(&value, chain->words, 4, chain->streams[0]));
        OK(cuEventSynchronize(chain->last));
    }
    }
    SAME(peek32(chain->words), chain->value);
    CHECK(!chain->dead);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double until;
static _Atomic unsigned long waits;

static void *work(void *arg) {
    struct chain chain = {.random = (uint64_t)(uintptr_t)arg * 7919 + 1};
    OK(cuCtxSetCurrent(client_ctx));
    chain.last = new_event(CU_EVENT_DISABLE_TIMING);
    chain.words = alloc(LARGE);
    void *pinned;
    OK(cuMemHostAlloc(&pinned, 4096, 0));
    chain.pinned = pinned;
    for (int i = 0; i < STREAMS; i++)
        chain.streams[i] = i == 0   ? NULL
                           : i == 1 ? CU_STREAM_PER_THREAD
                                    : new_stream(i % 2 ? CU_STREAM_NON_BLOCKING : 0);
    CUDA_MEMSET_NODE_PARAMS fill = {.dst = chain.words, .elementSize = 4, .width = 1, .height = 1};
    OK(cuGraphCreate(&chain.graph, 0));
    OK(cuGraphAddMemsetNode(&chain.fill, chain.graph, NULL, 0, &fill, client_ctx));
    OK(cuGraphInstantiate(&chain.exec, chain.graph, 0));
    while (seconds() < until) {
        for (unsigned i = 1 + pick(&chain, 60); i > 0; i--)
            step(&chain);
        wait_somehow(&chain);
        waits++;
    }
    return NULL;
}

/* SECONDS SEED THREADS */
static void chains(void) {
    client_start(0);
    pthread_t threads[16];
    int count = (int)client_number(2);
    until = seconds() + client_number(0);
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, work,
                       (void *)(uintptr_t)(client_number(1) * 100 + i + 1));
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    printf("%lu\n", waits);
}

const struct client_case client_cases[] = {
    {"chains", chains},
    {NULL, NULL},
};
