/* Cambricon's driver, as accel.h has it, declared as the interface is published. Queues that wait for
 * the default one are not there: a new queue stands for them. What the atomic operations of queues
 * reach is memory that the driver gave: words of a file are waited for and set by functions of the
 * host, in order of the queue. */
#include "accel.h"

#include <fcntl.h>
#include <sys/mman.h>

typedef void *handle;
int cnInit(unsigned);
int cnDeviceGet(uint64_t *, int);
int cnSharedContextAcquire(handle *, uint64_t);
int cnSharedContextRelease(uint64_t);
int cnSharedContextReset(uint64_t);
int cnCtxCreate(handle *, unsigned, uint64_t);
int cnCtxDestroy(handle);
int cnCtxSetCurrent(handle);
int cnCtxSync(void);
int cnModuleLoadFatBinary(const void *, handle *);
int cnModuleGetKernel(handle, const char *, handle *);
int cnInvokeKernel(handle, unsigned, unsigned, unsigned, int, unsigned, handle, void **, void **);
int cnCreateQueue(handle *, unsigned);
int cnDestroyQueue(handle);
int cnQueryQueue(handle);
int cnQueueSync(handle);
int cnCreateNotifier(handle *, unsigned);
int cnPlaceNotifier(handle, handle);
int cnQueueWaitNotifier(handle, handle);
int cnQueryNotifier(handle);
int cnNotifierElapsedTime(float *, handle, handle);
int cnDestroyNotifier(handle);
int cnInvokeHostFunc(handle, void (*)(void *), void *);
int cnQueueAtomicOperation(handle, uint64_t, uint64_t, uint64_t, int, uint64_t);
int cnQueueBeginCapture(handle, int);
int cnQueueEndCapture(handle, handle *);
int cnTaskTopoInstantiate(handle *, handle, handle *, char *, size_t);
int cnTaskTopoDestroy(handle);
int cnTaskTopoEntityInvoke(handle, handle);
int cnTaskTopoEntityDestroy(handle);
int cnMalloc(uint64_t *, uint64_t);
int cnFree(uint64_t);
int cnMallocHost(void **, uint64_t);
int cnMemAllocAsync(uint64_t *, size_t, handle);
int cnMemFreeAsync(uint64_t, handle);
int cnMemcpyHtoDAsync(uint64_t, const void *, uint64_t, handle);
int cnMemcpyDtoHAsync(void *, uint64_t, uint64_t, handle);
int cnMemcpyDtoDAsync(uint64_t, uint64_t, uint64_t, handle);
int cnMemcpyDtoH(void *, uint64_t, uint64_t);
int cnMemsetD8(uint64_t, unsigned char, uint64_t);
int cnMemsetD8Async(uint64_t, unsigned char, uint64_t, handle);

enum { NOT_READY = 1, OUT_OF_MEMORY = 100100 };
enum { UNION1 = 4, GLOBAL = 0, REQUEST = 0, COMPARE = 1, SET = 1, AT_MOST = 1 };
static const char image[] = "mlu-image 1\nkernel spin parameter\n";

#define OK(call) SAME(call, 0)

/* A context and its kernel. */
struct place {
    handle context, spin;
};
static struct place own[ACCEL_DEVICES];
static _Thread_local handle spin; /* of the current context */

/* -- Devices and contexts ------------------------------------------------------------------------ */

static uint64_t device_of(int ordinal) {
    uint64_t device;
    OK(cnDeviceGet(&device, ordinal));
    return device;
}

static void enter(const struct place *place) {
    OK(cnCtxSetCurrent(place->context));
    spin = place->spin;
}

static void load(struct place *place) {
    handle module;
    OK(cnCtxSetCurrent(place->context));
    OK(cnModuleLoadFatBinary(image, &module));
    OK(cnModuleGetKernel(module, "spin", &place->spin));
    enter(place);
}

void accel_start(int device) {
    OK(cnInit(0));
    OK(cnSharedContextAcquire(&own[device].context, device_of(device)));
    load(&own[device]);
}

void accel_enter(int device) { enter(&own[device]); }

void accel_stop(int device, bool at_once) {
    if (at_once)
        OK(cnSharedContextReset(device_of(device)));
    else
        OK(cnSharedContextRelease(device_of(device)));
}

void *accel_context_new(void) {
    struct place *place = calloc(1, sizeof *place);
    CHECK(place);
    OK(cnCtxCreate(&place->context, 0, device_of(0)));
    load(place);
    return place;
}

void accel_context_enter(void *context) { enter(context); }

void accel_context_end(void *context) {
    OK(cnCtxDestroy(((struct place *)context)->context));
    free(context);
}

/* -- Queues --------------------------------------------------------------------------------------- */

#define PER_THREAD ((handle)1)

accel_queue accel_queue_new(void) {
    handle queue;
    OK(cnCreateQueue(&queue, 0));
    return queue;
}

accel_queue accel_queue_joined(void) { return accel_queue_new(); }
accel_queue accel_queue_own(void) { return PER_THREAD; }

void accel_queue_end(accel_queue queue) {
    if (queue != PER_THREAD)
        OK(cnDestroyQueue(queue));
}

static int launch(accel_queue queue, uint64_t ns, unsigned blocks) {
    void *parameters[] = {&ns};
    return cnInvokeKernel(spin, blocks, 1, 1, UNION1, 0, queue, parameters, NULL);
}

void accel_kernel(accel_queue queue, uint64_t ns, unsigned blocks) {
    OK(launch(queue, ns, blocks));
}

void accel_wait(accel_queue queue) { OK(cnQueueSync(queue)); }
void accel_wait_all(void) { OK(cnCtxSync()); }

bool accel_refuses(accel_queue queue) {
    return launch(queue, MS, 1) && cnQueryQueue(queue) && cnCtxSync();
}

accel_event accel_record(accel_queue queue) {
    handle notifier;
    OK(cnCreateNotifier(&notifier, 0));
    OK(cnPlaceNotifier(notifier, queue));
    return notifier;
}

void accel_wait_event(accel_queue queue, accel_event event) {
    OK(cnQueueWaitNotifier(queue, event));
}

bool accel_done(accel_event event) {
    int result = cnQueryNotifier(event);
    if (result != NOT_READY)
        OK(result);
    return result == 0;
}

double accel_between(accel_event from, accel_event to) {
    float ms;
    OK(cnNotifierElapsedTime(&ms, from, to));
    return (double)ms;
}

void accel_event_end(accel_event event) { OK(cnDestroyNotifier(event)); }

void accel_host_call(accel_queue queue, void (*call)(void *), void *argument) {
    OK(cnInvokeHostFunc(queue, call, argument));
}

void accel_record_begin(accel_queue queue) { OK(cnQueueBeginCapture(queue, GLOBAL)); }

accel_graph accel_record_end(accel_queue queue) {
    handle topo, entity;
    OK(cnQueueEndCapture(queue, &topo));
    OK(cnTaskTopoInstantiate(&entity, topo, NULL, NULL, 0));
    OK(cnTaskTopoDestroy(topo));
    return entity;
}

void accel_graph_launch(accel_graph graph, accel_queue queue) {
    OK(cnTaskTopoEntityInvoke(graph, queue));
}

void accel_graph_end(accel_graph graph) { OK(cnTaskTopoEntityDestroy(graph)); }

/* -- Memory ----------------------------------------------------------------------------------------- */

uint64_t accel_memory(size_t bytes) {
    uint64_t memory;
    OK(cnMalloc(&memory, bytes));
    OK(cnMemsetD8(memory, 0, bytes));
    return memory;
}

void accel_memory_end(uint64_t memory) { OK(cnFree(memory)); }

bool accel_lacks(size_t bytes) {
    uint64_t memory;
    return cnMalloc(&memory, bytes) == OUT_OF_MEMORY;
}

void *accel_host_memory(size_t bytes) {
    void *memory;
    OK(cnMallocHost(&memory, bytes));
    return memory;
}

void accel_copy_in(accel_queue queue, uint64_t to, const void *from, size_t bytes) {
    OK(cnMemcpyHtoDAsync(to, from, bytes, queue));
}

void accel_copy_out(accel_queue queue, void *to, uint64_t from, size_t bytes) {
    OK(cnMemcpyDtoHAsync(to, from, bytes, queue));
}

void accel_copy(accel_queue queue, uint64_t to, uint64_t from, size_t bytes) {
    OK(cnMemcpyDtoDAsync(to, from, bytes, queue));
}

void accel_fill(accel_queue queue, uint64_t to, unsigned char byte, size_t bytes) {
    OK(cnMemsetD8Async(to, byte, bytes, queue));
}

unsigned char accel_read(uint64_t from) {
    unsigned char byte;
    OK(cnMemcpyDtoH(&byte, from, 1));
    return byte;
}

uint64_t accel_take(accel_queue queue, size_t bytes) {
    uint64_t memory;
    OK(cnMemAllocAsync(&memory, bytes, queue));
    return memory;
}

void accel_give(accel_queue queue, uint64_t memory) { OK(cnMemFreeAsync(memory, queue)); }

static uint64_t *words;
static bool of_file;

uint64_t *accel_words(const char *path) {
    void *at;
    of_file = path != NULL;
    if (of_file) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
        at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(at != MAP_FAILED);
    } else {
        at = accel_host_memory(4096);
        memset(at, 0, 4096);
    }
    return words = at;
}

uint64_t accel_word(unsigned number) { return (uintptr_t)&words[number]; }

/* A word and what is waited for, or set. */
struct order {
    uint64_t *word, value;
};

static struct order *order(uint64_t word, uint64_t value) {
    struct order *made = malloc(sizeof *made);
    CHECK(made);
    *made = (struct order){(uint64_t *)word, value};
    return made;
}

/* Acquire and release: each pairs with the other, of whichever process. */
static void await(void *argument) {
    struct order *waited = argument;
    while (__atomic_load_n(waited->word, __ATOMIC_ACQUIRE) < waited->value)
        usleep(50);
    free(waited);
}

static void set(void *argument) {
    struct order *wanted = argument;
    __atomic_store_n(wanted->word, wanted->value, __ATOMIC_RELEASE);
    free(wanted);
}

void accel_await(accel_queue queue, uint64_t word, uint64_t value) {
    if (of_file)
        accel_host_call(queue, await, order(word, value));
    else
        OK(cnQueueAtomicOperation(queue, word, value, 0, COMPARE, AT_MOST));
}

void accel_set(accel_queue queue, uint64_t word, uint64_t value) {
    if (of_file)
        accel_host_call(queue, set, order(word, value));
    else
        OK(cnQueueAtomicOperation(queue, word, value, 0, REQUEST, SET));
}
