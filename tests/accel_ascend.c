/* Ascend's runtime, as accel.h has it, declared as the interface is published. Streams of threads of
 * their own and such as wait for the default one are not there: a new stream stands for either. */
#include "accel.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

int aclInit(const char *);
int aclrtSetDevice(int32_t);
int aclrtResetDevice(int32_t);
int aclrtResetDeviceForce(int32_t);
int aclrtCreateContext(void **, int32_t);
int aclrtDestroyContext(void *);
int aclrtGetCurrentContext(void **);
int aclrtSetCurrentContext(void *);
int aclrtCreateStream(void **);
int aclrtDestroyStream(void *);
int aclrtStreamQuery(void *, int *);
int aclrtSynchronizeStream(void *);
int aclrtSynchronizeDevice(void);
int aclrtCreateEvent(void **);
int aclrtRecordEvent(void *, void *);
int aclrtStreamWaitEvent(void *, void *);
int aclrtQueryEventStatus(void *, int *);
int aclrtEventElapsedTime(float *, void *, void *);
int aclrtDestroyEvent(void *);
int aclrtLaunchHostFunc(void *, void (*)(void *), void *);
int aclrtCreateNotify(void **, uint64_t);
int aclrtRecordNotify(void *, void *);
int aclrtWaitAndResetNotify(void *, void *, uint32_t);
int aclrtBinaryLoadFromFile(const char *, void *, void **);
int aclrtBinaryGetFunction(void *, const char *, void **);
int aclrtLaunchKernel(void *, uint32_t, const void *, size_t, void *);
int aclmdlRICaptureBegin(void *, int);
int aclmdlRICaptureEnd(void *, void **);
int aclmdlRIExecuteAsync(void *, void *);
int aclmdlRIDestroy(void *);
int aclrtMalloc(void **, size_t, int);
int aclrtFree(void *);
int aclrtMallocHost(void **, size_t);
int aclrtHostRegister(void *, uint64_t, int, void **);
int aclrtMemcpy(void *, size_t, const void *, size_t, int);
int aclrtMemcpyAsync(void *, size_t, const void *, size_t, int, void *);
int aclrtMemset(void *, size_t, int32_t, size_t);
int aclrtMemsetAsync(void *, size_t, int32_t, size_t, void *);
int aclrtMemPoolCreate(void **, const void *);
int aclrtMemPoolMallocAsync(void **, size_t, void *, void *);
int aclrtMemPoolFreeAsync(void *, void *);
int aclrtValueWrite(void *, uint64_t, uint32_t, void *);
int aclrtValueWait(void *, uint64_t, uint32_t, void *);

enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3 };
enum { MAPPED = 0, AT_LEAST = 0, GLOBAL = 0, OUT_OF_MEMORY = 207001 };

#define OK(call) SAME(call, 0)

static void *own[ACCEL_DEVICES]; /* contexts */
static void *spin;

/* -- Devices and contexts ------------------------------------------------------------------------ */

static void load(void) {
    void *binary;
    if (spin)
        return;
    /* Code of which nothing is known but that there is some. */
    OK(aclrtBinaryLoadFromFile("/proc/self/exe", NULL, &binary));
    OK(aclrtBinaryGetFunction(binary, "aliquot_spin_ns", &spin));
}

void accel_start(int device) {
    static bool begun;
    if (!begun)
        OK(aclInit(NULL));
    begun = true;
    OK(aclrtSetDevice(device));
    OK(aclrtGetCurrentContext(&own[device]));
    load();
}

void accel_enter(int device) { OK(aclrtSetCurrentContext(own[device])); }

void accel_stop(int device, bool at_once) {
    if (at_once)
        OK(aclrtResetDeviceForce(device));
    else
        OK(aclrtResetDevice(device));
}

void *accel_context_new(void) {
    void *context;
    OK(aclrtCreateContext(&context, 0));
    OK(aclrtSetCurrentContext(context));
    load();
    return context;
}

void accel_context_enter(void *context) { OK(aclrtSetCurrentContext(context)); }
void accel_context_end(void *context) { OK(aclrtDestroyContext(context)); }

/* -- Queues --------------------------------------------------------------------------------------- */

accel_queue accel_queue_new(void) {
    void *stream;
    OK(aclrtCreateStream(&stream));
    return stream;
}

accel_queue accel_queue_joined(void) { return accel_queue_new(); }
accel_queue accel_queue_own(void) { return accel_queue_new(); }
void accel_queue_end(accel_queue queue) { OK(aclrtDestroyStream(queue)); }

void accel_kernel(accel_queue queue, uint64_t ns, unsigned blocks) {
    OK(aclrtLaunchKernel(spin, blocks, &ns, sizeof ns, queue));
}

void accel_wait(accel_queue queue) { OK(aclrtSynchronizeStream(queue)); }
void accel_wait_all(void) { OK(aclrtSynchronizeDevice()); }

bool accel_refuses(accel_queue queue) {
    uint64_t ns = MS;
    int status;
    return aclrtLaunchKernel(spin, 1, &ns, sizeof ns, queue) && aclrtStreamQuery(queue, &status) &&
           aclrtSynchronizeDevice();
}

accel_event accel_record(accel_queue queue) {
    void *event;
    OK(aclrtCreateEvent(&event));
    OK(aclrtRecordEvent(event, queue));
    return event;
}

void accel_wait_event(accel_queue queue, accel_event event) {
    OK(aclrtStreamWaitEvent(queue, event));
}

bool accel_done(accel_event event) {
    int complete;
    OK(aclrtQueryEventStatus(event, &complete));
    return complete != 0;
}

double accel_between(accel_event from, accel_event to) {
    float ms;
    OK(aclrtEventElapsedTime(&ms, from, to));
    return (double)ms;
}

void accel_event_end(accel_event event) { OK(aclrtDestroyEvent(event)); }

void accel_host_call(accel_queue queue, void (*call)(void *), void *argument) {
    OK(aclrtLaunchHostFunc(queue, call, argument));
}

accel_flag accel_flag_new(void) {
    void *notify;
    OK(aclrtCreateNotify(&notify, 0));
    return notify;
}

void accel_flag_set(accel_queue queue, accel_flag flag) { OK(aclrtRecordNotify(flag, queue)); }

void accel_flag_await(accel_queue queue, accel_flag flag) {
    OK(aclrtWaitAndResetNotify(flag, queue, 0));
}

void accel_record_begin(accel_queue queue) { OK(aclmdlRICaptureBegin(queue, GLOBAL)); }

accel_graph accel_record_end(accel_queue queue) {
    void *model;
    OK(aclmdlRICaptureEnd(queue, &model));
    return model;
}

void accel_graph_launch(accel_graph graph, accel_queue queue) {
    OK(aclmdlRIExecuteAsync(graph, queue));
}

void accel_graph_end(accel_graph graph) { OK(aclmdlRIDestroy(graph)); }

/* -- Memory ----------------------------------------------------------------------------------------- */

uint64_t accel_memory(size_t bytes) {
    void *memory;
    OK(aclrtMalloc(&memory, bytes, 0));
    OK(aclrtMemset(memory, bytes, 0, bytes));
    return (uintptr_t)memory;
}

void accel_memory_end(uint64_t memory) { OK(aclrtFree((void *)memory)); }

bool accel_lacks(size_t bytes) {
    void *memory;
    return aclrtMalloc(&memory, bytes, 0) == OUT_OF_MEMORY;
}

void *accel_host_memory(size_t bytes) {
    void *memory;
    OK(aclrtMallocHost(&memory, bytes));
    return memory;
}

void accel_copy_in(accel_queue queue, uint64_t to, const void *from, size_t bytes) {
    OK(aclrtMemcpyAsync((void *)to, bytes, from, bytes, HOST_TO_DEVICE, queue));
}

void accel_copy_out(accel_queue queue, void *to, uint64_t from, size_t bytes) {
    OK(aclrtMemcpyAsync(to, bytes, (void *)from, bytes, DEVICE_TO_HOST, queue));
}

void accel_copy(accel_queue queue, uint64_t to, uint64_t from, size_t bytes) {
    OK(aclrtMemcpyAsync((void *)to, bytes, (void *)from, bytes, DEVICE_TO_DEVICE, queue));
}

void accel_fill(accel_queue queue, uint64_t to, unsigned char byte, size_t bytes) {
    OK(aclrtMemsetAsync((void *)to, bytes, byte, bytes, queue));
}

unsigned char accel_read(uint64_t from) {
    unsigned char byte;
    OK(aclrtMemcpy(&byte, 1, (void *)from, 1, DEVICE_TO_HOST));
    return byte;
}

/* Of device 0, for all threads. */
static void *pool;

static void make_pool(void) {
    const struct {
        uint32_t allocation_type, handle_type, id, place;
        size_t most;
        unsigned char reserved[32];
    } property = {.place = 1};
    OK(aclrtMemPoolCreate(&pool, &property));
}

uint64_t accel_take(accel_queue queue, size_t bytes) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    void *memory;
    pthread_once(&once, make_pool);
    OK(aclrtMemPoolMallocAsync(&memory, bytes, pool, queue));
    return (uintptr_t)memory;
}

void accel_give(accel_queue queue, uint64_t memory) {
    OK(aclrtMemPoolFreeAsync((void *)memory, queue));
}

static uint64_t *words;

uint64_t *accel_words(const char *path) {
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    void *at, *mapped;
    CHECK(!path || (fd >= 0 && ftruncate(fd, 4096) == 0));
    at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, path ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS,
              fd, 0);
    CHECK(at != MAP_FAILED);
    OK(aclrtHostRegister(at, 4096, MAPPED, &mapped));
    words = mapped;
    return at;
}

uint64_t accel_word(unsigned number) { return (uintptr_t)&words[number]; }

void accel_await(accel_queue queue, uint64_t word, uint64_t value) {
    OK(aclrtValueWait((void *)word, value, AT_LEAST, queue));
}

void accel_set(accel_queue queue, uint64_t word, uint64_t value) {
    OK(aclrtValueWrite((void *)word, value, 0, queue));
}
