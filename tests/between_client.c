/* Schedules that storms meet once in a while, forced. Prints what the calls
 * answer that the case is about. See between_driver.c.
 *
 *   trimmed  a launch of a graph has been refused its own pages, and before it tries again with those of
 *            the others, another thread trims the pool and launches another graph
 */
#define CLIENT_CASES
#include "client.h"

#include <cuda.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#define OK(call) SAME((int)(call), 0)

enum { MIB = 1 << 20 };

/* What another thread does when the first is between two calls of the shim's. */
static struct {
    void (*act)(void);
    pthread_t first, thread;
    _Atomic bool armed, done;
    _Atomic int id;
} other;

static void *run_other(void *argument) {
    (void)argument;
    atomic_store(&other.id, gettid());
    other.act();
    atomic_store(&other.done, true);
    return NULL;
}

/* Whether the other thread waits for something that the first has. */
static bool other_waits(void) {
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", atomic_load(&other.id));
    int fd = open(path, O_RDONLY);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    const char *name_end = length > 0 ? strrchr(text, ')') : NULL;
    if (fd >= 0)
        close(fd);
    return name_end && name_end[2] == 'S';
}

/* The other thread gets as far as it can. */
void between(void) {
    if (!atomic_load(&other.armed) || !pthread_equal(pthread_self(), other.first))
        return;
    if (!other.thread)
        OK(pthread_create(&other.thread, NULL, run_other, NULL));
    while (!atomic_load(&other.done) && !(atomic_load(&other.id) && other_waits()))
        sched_yield();
}

static void arm(void (*act)(void)) {
    other.act = act;
    other.first = pthread_self();
    atomic_store(&other.armed, true);
}

static void disarm(void) {
    atomic_store(&other.armed, false);
    OK(pthread_join(other.thread, NULL));
}

/* -- trimmed ---------------------------------------------------------------------------------------- */

static CUcontext context;
static CUstream stream;
static CUgraphExec graphs[2];
static CUresult launched_meanwhile = CUDA_ERROR_UNKNOWN;

/* A graph that allocates 100 MiB, and frees them or not. */
static CUgraphExec allocating(bool frees) {
    CUgraph graph;
    CUgraphNode taken, freed;
    CUgraphExec exec;
    CUDA_MEM_ALLOC_NODE_PARAMS what = {
        .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}}},
        .bytesize = 100 * MIB};
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddMemAllocNode(&taken, graph, NULL, 0, &what));
    if (frees)
        OK(cuGraphAddMemFreeNode(&freed, graph, &taken, 1, what.dptr));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    return exec;
}

static void trim_and_launch(void) {
    OK(cuCtxSetCurrent(context));
    OK(cuDeviceGraphMemTrim(0));
    launched_meanwhile = cuGraphLaunch(graphs[1], stream);
}

static void trimmed(void) {
    CUdeviceptr rest;
    size_t free_bytes, total;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    graphs[0] = allocating(false);
    graphs[1] = allocating(true);
    OK(cuGraphLaunch(graphs[1], stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemGetInfo_v2(&free_bytes, &total));
    OK(cuMemAlloc_v2(&rest, free_bytes - 10 * MIB));
    arm(trim_and_launch);
    CUresult squeezed = cuGraphLaunch(graphs[0], stream);
    disarm();
    /* The first has the pages that the second had, and keeps them. */
    CUresult again = cuGraphLaunch(graphs[1], stream);
    OK(cuStreamSynchronize(stream));
    printf("%d %d %d\n", (int)launched_meanwhile, (int)squeezed, (int)again);
}

const struct client_case client_cases[] = {{"trimmed", trimmed}, {NULL, NULL}};
