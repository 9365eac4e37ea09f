/* CUDA's driver, as accel.h has it. */
#include "accel.h"

#include <cuda.h>
#include <fcntl.h>
#include <sys/mman.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        CUresult ok_ = (call);                                                                     \
        if (ok_ != CUDA_SUCCESS)                                                                   \
            fail(__FILE__, __LINE__, #call, ok_, CUDA_SUCCESS);                                    \
    } while (0)

static const char image[] = ".version 7.0\n.target sm_50\n.address_size 64\n"
                            ".visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }\n";

/* A context and its kernel. */
struct place {
    CUcontext context;
    CUfunction spin;
};
static struct place own[ACCEL_DEVICES];
static _Thread_local CUfunction spin; /* of the current context */

/* -- Devices and contexts ------------------------------------------------------------------------ */

static void enter(const struct place *place) {
    OK(cuCtxSetCurrent(place->context));
    spin = place->spin;
}

static void load(struct place *place) {
    CUmodule module;
    OK(cuCtxSetCurrent(place->context));
    OK(cuModuleLoadData(&module, image));
    OK(cuModuleGetFunction(&place->spin, module, "aliquot_spin_ns"));
    enter(place);
}

void accel_start(int device) {
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&own[device].context, device));
    load(&own[device]);
}

void accel_enter(int device) { enter(&own[device]); }

void accel_stop(int device, bool at_once) {
    if (at_once)
        OK(cuDevicePrimaryCtxReset(device));
    else
        OK(cuDevicePrimaryCtxRelease(device));
}

void *accel_context_new(void) {
    struct place *place = calloc(1, sizeof *place);
    CHECK(place);
    OK(cuCtxCreate(&place->context, NULL, 0, 0));
    load(place);
    return place;
}

void accel_context_enter(void *context) { enter(context); }

void accel_context_end(void *context) {
    OK(cuCtxDestroy(((struct place *)context)->context));
    free(context);
}

/* -- Queues --------------------------------------------------------------------------------------- */

static accel_queue new_queue(unsigned flags) {
    CUstream stream;
    OK(cuStreamCreate(&stream, flags));
    return stream;
}

accel_queue accel_queue_new(void) { return new_queue(CU_STREAM_NON_BLOCKING); }
accel_queue accel_queue_joined(void) { return new_queue(CU_STREAM_DEFAULT); }
accel_queue accel_queue_own(void) { return CU_STREAM_PER_THREAD; }

void accel_queue_end(accel_queue queue) {
    if (queue != CU_STREAM_PER_THREAD)
        OK(cuStreamDestroy(queue));
}

static CUresult launch(accel_queue queue, uint64_t ns, unsigned blocks) {
    void *parameters[] = {&ns};
    return cuLaunchKernel(spin, blocks, 1, 1, 1024, 1, 1, 0, queue, parameters, NULL);
}

void accel_kernel(accel_queue queue, uint64_t ns, unsigned blocks) {
    OK(launch(queue, ns, blocks));
}

void accel_wait(accel_queue queue) { OK(cuStreamSynchronize(queue)); }
void accel_wait_all(void) { OK(cuCtxSynchronize()); }

bool accel_refuses(accel_queue queue) {
    CUcontext context;
    return launch(queue, MS, 1) && cuStreamQuery(queue) && cuCtxSynchronize() &&
           cuCtxGetCurrent(&context) == CUDA_ERROR_NOT_INITIALIZED;
}

accel_event accel_record(accel_queue queue) {
    CUevent event;
    OK(cuEventCreate(&event, CU_EVENT_DEFAULT));
    OK(cuEventRecord(event, queue));
    return event;
}

void accel_wait_event(accel_queue queue, accel_event event) {
    OK(cuStreamWaitEvent(queue, event, 0));
}

bool accel_done(accel_event event) {
    CUresult result = cuEventQuery(event);
    if (result != CUDA_ERROR_NOT_READY)
        OK(result);
    return result == CUDA_SUCCESS;
}

double accel_between(accel_event from, accel_event to) {
    float ms;
    OK(cuEventElapsedTime(&ms, from, to));
    return (double)ms;
}

void accel_event_end(accel_event event) { OK(cuEventDestroy(event)); }

void accel_host_call(accel_queue queue, void (*call)(void *), void *argument) {
    OK(cuLaunchHostFunc(queue, call, argument));
}

void accel_record_begin(accel_queue queue) {
    OK(cuStreamBeginCapture(queue, CU_STREAM_CAPTURE_MODE_GLOBAL));
}

accel_graph accel_record_end(accel_queue queue) {
    CUgraph graph;
    CUgraphExec made;
    OK(cuStreamEndCapture(queue, &graph));
    OK(cuGraphInstantiate(&made, graph, 0));
    OK(cuGraphDestroy(graph));
    return made;
}

void accel_graph_launch(accel_graph graph, accel_queue queue) { OK(cuGraphLaunch(graph, queue)); }
void accel_graph_end(accel_graph graph) { OK(cuGraphExecDestroy(graph)); }

/* -- Memory ----------------------------------------------------------------------------------------- */

uint64_t accel_memory(size_t bytes) {
    CUdeviceptr memory;
    OK(cuMemAlloc(&memory, bytes));
    OK(cuMemsetD8(memory, 0, bytes));
    OK(cuCtxSynchronize());
    return memory;
}

void accel_memory_end(uint64_t memory) { OK(cuMemFree(memory)); }

bool accel_lacks(size_t bytes) {
    CUdeviceptr memory;
    return cuMemAlloc(&memory, bytes) == CUDA_ERROR_OUT_OF_MEMORY;
}

void *accel_host_memory(size_t bytes) {
    void *memory;
    OK(cuMemHostAlloc(&memory, bytes, 0));
    return memory;
}

void accel_copy_in(accel_queue queue, uint64_t to, const void *from, size_t bytes) {
    OK(cuMemcpyHtoDAsync(to, from, bytes, queue));
}

void accel_copy_out(accel_queue queue, void *to, uint64_t from, size_t bytes) {
    OK(cuMemcpyDtoHAsync(to, from, bytes, queue));
}

void accel_copy(accel_queue queue, uint64_t to, uint64_t from, size_t bytes) {
    OK(cuMemcpyDtoDAsync(to, from, bytes, queue));
}

void accel_fill(accel_queue queue, uint64_t to, unsigned char byte, size_t bytes) {
    OK(cuMemsetD8Async(to, byte, bytes, queue));
}

unsigned char accel_read(uint64_t from) {
    unsigned char byte;
    OK(cuMemcpyDtoH(&byte, from, 1));
    return byte;
}

uint64_t accel_take(accel_queue queue, size_t bytes) {
    CUdeviceptr memory;
    OK(cuMemAllocAsync(&memory, bytes, queue));
    return memory;
}

void accel_give(accel_queue queue, uint64_t memory) { OK(cuMemFreeAsync(memory, queue)); }

static CUdeviceptr words;

uint64_t *accel_words(const char *path) {
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    CHECK(!path || (fd >= 0 && ftruncate(fd, 4096) == 0));
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                    path ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS, fd, 0);
    CHECK(at != MAP_FAILED);
    OK(cuMemHostRegister(at, 4096, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
    OK(cuMemHostGetDevicePointer(&words, at, 0));
    return at;
}

uint64_t accel_word(unsigned number) { return words + 8 * number; }

void accel_await(accel_queue queue, uint64_t word, uint64_t value) {
    OK(cuStreamWaitValue64(queue, word, value, CU_STREAM_WAIT_VALUE_GEQ));
}

void accel_set(accel_queue queue, uint64_t word, uint64_t value) {
    OK(cuStreamWriteValue64(queue, word, value, 0));
}
