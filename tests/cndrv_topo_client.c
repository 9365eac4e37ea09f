/* A client of libcndrv.so for what is put into queues beside kernels: TaskTopos, captures, host functions,
 * atomic operations, copies between devices, pools. It prints what it finds, so that runs with and without
 * a slice can be held against each other.
 *
 * cndrv_topo_client tour         all of it, once
 *                   launch N NS  an entity of a kernel of so many nanoseconds, N times, when told "go"
 *                   pools N      N pools that grow by turns to the last page; says how far
 */
#include "cndrv_program.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

struct kernel_node {
    handle kernel;
    unsigned x, y, z;
    int kind;
    unsigned reserved;
    void **parameters, **extra;
};
struct host_node {
    void (*function)(void *);
    void *argument;
};
struct fill_node {
    u64 to;
    size_t pitch;
    unsigned value, element;
    size_t width, height;
};
struct box {
    void *to;
    u64 to_at[3];
    struct {
        u64 pitch;
        void *at;
        u64 x, y;
    } to_pitched;
    u64 depth, height, width;
    uint32_t direction;
    void *from;
    u64 from_at[3];
    struct {
        u64 pitch;
        void *at;
        u64 x, y;
    } from_pitched;
};
struct pool_properties {
    uint32_t type, handles, place, ordinal;
    size_t most;
    unsigned char reserved[64];
};

result cnCtxSetCurrent(handle);
result cnDeviceCanPeerAble(int *, u64, u64);
result cnDeviceGetByUuidStr(u64 *, const char *);
result cnDeviceGetUuidStr(char *, int, u64);
result cnMemcpyAsync(u64, u64, u64, handle);
result cnMemcpyHtoDAsync(u64, const void *, u64, handle);
result cnMemcpyDtoHAsync_V2(void *, u64, u64, handle);
result cnMemcpyPeer(u64, handle, u64, handle, u64);
result cnMemcpyPeerAsync(u64, handle, u64, handle, u64, handle);
result cnMemcpy2D(u64, u64, u64, u64, u64, u64);
result cnMemcpy3D(struct box *);
result cnMemsetD32Async(u64, unsigned, u64, handle);
result cnInvokeHostFunc(handle, void (*)(void *), void *);
result cnQueueAddCallback(handle, void (*)(handle, result, void *), void *, unsigned);
result cnQueueAtomicOperation(handle, u64, u64, u64, int, u64);
result cnAtomicOperation(u64, u64, u64, int, u64);
result cnAtomicReadOps(u64, u64 *);
result cnQueueWaitNotifier(handle, handle);
result cnQueueWaitNotifierWithFlags(handle, handle, unsigned);
result cnPlaceNotifierWithFlags(handle, handle, unsigned);
result cnQueueBeginCapture(handle, int);
result cnQueueEndCapture(handle, handle *);
result cnQueueIsCapturing(handle, int *);
result cnQueueGetCaptureInfo(handle, int *, u64 *, handle *, const handle **, size_t *);
result cnQueueUpdateCaptureDependencies(handle, handle *, size_t, unsigned);
result cnThreadExchangeQueueCaptureMode(int *);
result cnTaskTopoCreate(handle *, unsigned);
result cnTaskTopoDestroy(handle);
result cnTaskTopoClone(handle *, handle);
result cnTaskTopoNodeFindInClone(handle *, handle, handle);
result cnTaskTopoDestroyNode(handle);
result cnTaskTopoGetNodes(handle, handle *, size_t *);
result cnTaskTopoGetRootNodes(handle, handle *, size_t *);
result cnTaskTopoGetEdges(handle, handle *, handle *, size_t *);
result cnTaskTopoAddDependencies(handle, const handle *, const handle *, size_t);
result cnTaskTopoRemoveDependencies(handle, const handle *, const handle *, size_t);
result cnTaskTopoNodeGetDependencies(handle, handle *, size_t *);
result cnTaskTopoNodeGetDependentNodes(handle, handle *, size_t *);
result cnTaskTopoNodeGetType(handle, int *);
result cnTaskTopoAddEmptyNode(handle *, handle, const handle *, size_t);
result cnTaskTopoAddHostNode(handle *, handle, const handle *, size_t, const struct host_node *);
result cnTaskTopoAddKernelNode(handle *, handle, const handle *, size_t,
                               const struct kernel_node *);
result cnTaskTopoAddMemcpyNode(handle *, handle, const handle *, size_t, const struct box *);
result cnTaskTopoAddMemsetNode(handle *, handle, const handle *, size_t, const struct fill_node *);
result cnTaskTopoAddChildTopoNode(handle *, handle, const handle *, size_t, handle);
result cnTaskTopoAddNotifierPlaceNode(handle *, handle, const handle *, size_t, handle);
result cnTaskTopoAddNotifierWaitNode(handle *, handle, const handle *, size_t, handle);
result cnTaskTopoKernelNodeGetParams(handle, struct kernel_node *);
result cnTaskTopoKernelNodeSetParams(handle, const struct kernel_node *);
result cnTaskTopoHostNodeGetParams(handle, struct host_node *);
result cnTaskTopoMemcpyNodeGetParams(handle, struct box *);
result cnTaskTopoMemsetNodeGetParams(handle, struct fill_node *);
result cnTaskTopoMemsetNodeSetParams(handle, const struct fill_node *);
result cnTaskTopoInstantiate(handle *, handle, handle *, char *, size_t);
result cnTaskTopoEntityDestroy(handle);
result cnTaskTopoEntityInvoke(handle, handle);
result cnTaskTopoUpload(handle, handle);
result cnTaskTopoEntityUpdate(handle, handle, handle *, int *);
result cnTaskTopoEntityKernelNodeSetParams(handle, handle, const struct kernel_node *);
result cnTaskTopoEntityMemsetNodeSetParams(handle, handle, const struct fill_node *);
result cnUserObjectCreate(handle *, void *, void (*)(void *), unsigned, unsigned);
result cnUserObjectRelease(handle, unsigned);
result cnTaskTopoAcquireUserObject(handle, handle, unsigned, unsigned);
result cnDeviceGetDefaultMemPool(handle *, u64);
result cnDeviceGetMemPool(handle *, u64);
result cnDeviceSetMemPool(u64, handle);
result cnMemPoolCreate(handle *, struct pool_properties *);
result cnMemPoolDestroy(handle);
result cnMemPoolTrimTo(handle, size_t);
result cnMemPoolGetAttribute(handle, int, void *);
result cnMemPoolSetAttribute(handle, int, void *);
result cnMemAllocAsync(u64 *, size_t, handle);
result cnMemAllocFromPoolAsync(u64 *, size_t, handle, handle);
result cnMemFreeAsync(u64, handle);

enum { GLOBAL, LOCAL, RELAXED };                               /* modes of captures */
enum { REQUEST, COMPARE };                                     /* atomic operations */
enum { ADD, SET, CLEAR };                                      /* requests */
enum { EQUAL, LESS_EQUAL, LESS };                              /* comparisons */
enum { RELEASE_THRESHOLD = 4, RESERVED, RESERVED_HIGH, USED }; /* attributes of pools */

static const char image[] = "mlu-image 1\nkernel spin parameter\nkernel short 1000\n";
static handle spin, brief, context;

/* -- Graphs -- */

static atomic_int calls;
static void count(void *argument) {
    calls += (int)(intptr_t)argument;
    /* Whoever is called from a queue may not call the library. */
    u64 left, total;
    if (cnMemGetInfo(&left, &total) != 100051)
        calls += 1000;
}

static void kinds(handle topo) {
    handle nodes[16] = {0};
    int type, have[8] = {0};
    size_t many = 16, roots = 16, edges = 0;
    WELL(cnTaskTopoGetNodes(topo, nodes, &many));
    WELL(cnTaskTopoGetRootNodes(topo, NULL, &roots));
    WELL(cnTaskTopoGetEdges(topo, NULL, NULL, &edges));
    for (size_t i = 0; i < many; i++) {
        WELL(cnTaskTopoNodeGetType(nodes[i], &type));
        have[type]++;
    }
    printf("nodes %zu roots %zu edges %zu kinds", many, roots, edges);
    for (int i = 0; i < 8; i++)
        printf(" %d", have[i]);
    puts("");
}

static struct box row(void *to, void *from, u64 bytes) {
    return (struct box){.to = to,
                        .from = from,
                        .to_pitched = {.pitch = bytes, .y = 1},
                        .from_pitched = {.pitch = bytes, .y = 1},
                        .depth = 1,
                        .height = 1,
                        .width = bytes};
}

static void graphs(void) {
    handle topo, child, clone, entity, kernel, filled, copied, called, empty, node, queue, found;
    handle placed, began, waited, pair[2];
    unsigned char back[64] = {0};
    u64 memory_, ns = 3000000, other;
    void *parameters[] = {&ns};
    struct kernel_node run = {spin, 2, 3, 1, UNION1, 0, parameters, NULL}, told;
    struct host_node call = {count, (void *)1}, told_call;
    struct fill_node told_fill;
    struct box told_copy;
    size_t many = 4;
    handle some[4];
    WELL(cnMalloc(&memory_, 4096));
    WELL(cnCreateQueue(&queue, 0));
    WELL(cnCreateNotifier(&placed, 0));
    WELL(cnCreateNotifier(&began, 0));
    WELL(cnTaskTopoCreate(&topo, 0));
    SAY(cnTaskTopoCreate(&child, 7));
    WELL(cnTaskTopoAddKernelNode(&kernel, topo, NULL, 0, &run));
    struct fill_node fill = {memory_, 0, 0x07070707, 4, 8, 1};
    WELL(cnTaskTopoAddMemsetNode(&filled, topo, &kernel, 1, &fill));
    struct box copy = row(back, (void *)memory_, 32);
    WELL(cnTaskTopoAddMemcpyNode(&copied, topo, &filled, 1, &copy));
    WELL(cnTaskTopoAddHostNode(&called, topo, &copied, 1, &call));
    WELL(cnTaskTopoAddEmptyNode(&empty, topo, NULL, 0));
    WELL(cnTaskTopoAddNotifierPlaceNode(&node, topo, &called, 1, placed));
    WELL(cnTaskTopoAddNotifierWaitNode(&waited, topo, &empty, 1, began));
    WELL(cnTaskTopoCreate(&child, 0));
    struct kernel_node small = {brief, 1, 1, 1, UNION1, 0, NULL, NULL};
    WELL(cnTaskTopoAddKernelNode(&found, child, NULL, 0, &small));
    pair[0] = waited, pair[1] = kernel;
    WELL(cnTaskTopoAddChildTopoNode(&node, topo, pair, 2, child));
    kinds(topo);
    /* Edges come and go. */
    WELL(cnTaskTopoAddDependencies(topo, &empty, &called, 1));
    WELL(cnTaskTopoNodeGetDependencies(called, some, &many));
    printf("the call waits for %zu\n", many);
    WELL(cnTaskTopoRemoveDependencies(topo, &empty, &called, 1));
    SAY(cnTaskTopoRemoveDependencies(topo, &empty, &called, 1));
    many = 4;
    WELL(cnTaskTopoNodeGetDependentNodes(kernel, some, &many));
    printf("the kernel has %zu behind it\n", many);
    /* What was told is told again. */
    WELL(cnTaskTopoKernelNodeGetParams(kernel, &told));
    memcpy(&other, told.parameters[0], sizeof other);
    printf("kernel %d %u %u %u %d %llu\n", told.kernel == spin, told.x, told.y, told.z, told.kind,
           (unsigned long long)other);
    WELL(cnTaskTopoHostNodeGetParams(called, &told_call));
    WELL(cnTaskTopoMemsetNodeGetParams(filled, &told_fill));
    WELL(cnTaskTopoMemcpyNodeGetParams(copied, &told_copy));
    printf("host %d fill %x %u %zu copy %d %d %llu\n", told_call.function == count, told_fill.value,
           told_fill.element, told_fill.width, told_copy.to == (void *)back,
           told_copy.from == (void *)memory_, (unsigned long long)told_copy.width);
    SAY(cnTaskTopoKernelNodeGetParams(filled, &told));
    /* It runs, again and again. */
    WELL(cnTaskTopoInstantiate(&entity, topo, NULL, NULL, 0));
    WELL(cnTaskTopoUpload(entity, queue));
    for (int i = 0; i < 3; i++)
        WELL(cnTaskTopoEntityInvoke(entity, queue));
    SAY(cnQueryQueue(queue));
    WELL(cnWaitNotifier(placed));
    WELL(cnQueueSync(queue));
    printf("called %d, read %d %d\n", calls, back[0], back[31]);
    /* A change of the graph changes no entity; one of an entity changes that. */
    fill.value = 0x09090909;
    WELL(cnTaskTopoMemsetNodeSetParams(filled, &fill));
    WELL(cnTaskTopoEntityInvoke(entity, queue));
    WELL(cnQueueSync(queue));
    printf("still %d\n", back[0]);
    int outcome = -1;
    WELL(cnTaskTopoEntityUpdate(entity, topo, &node, &outcome));
    WELL(cnTaskTopoEntityInvoke(entity, queue));
    WELL(cnQueueSync(queue));
    printf("updated (%d): %d\n", outcome, back[0]);
    fill.value = 0x0b0b0b0b;
    WELL(cnTaskTopoEntityMemsetNodeSetParams(entity, filled, &fill));
    run.kernel = brief;
    WELL(cnTaskTopoEntityKernelNodeSetParams(entity, kernel, &run));
    WELL(cnTaskTopoEntityInvoke(entity, NULL));
    WELL(cnCtxSync());
    printf("of the entity: %d\n", back[0]);
    /* Another topology is none that it can take. */
    WELL(cnTaskTopoClone(&clone, topo));
    WELL(cnTaskTopoNodeFindInClone(&found, copied, clone));
    WELL(cnTaskTopoDestroyNode(found));
    kinds(clone);
    printf("update: %d", cnTaskTopoEntityUpdate(entity, clone, &node, &outcome));
    printf(" %d\n", outcome);
    /* What it is given it keeps until it goes. */
    static atomic_int ends;
    handle object;
    WELL(cnUserObjectCreate(&object, &ends, (void (*)(void *))(uintptr_t)count, 1, 1));
    calls = 0;
    WELL(cnTaskTopoAcquireUserObject(topo, object, 1, 1));
    WELL(cnTaskTopoEntityDestroy(entity));
    SAY(cnTaskTopoEntityDestroy(entity));
    SAY(cnTaskTopoEntityInvoke(entity, queue));
    WELL(cnTaskTopoDestroy(topo));
    SAY(cnTaskTopoDestroy(topo));
    SAY(cnTaskTopoInstantiate(&entity, topo, NULL, NULL, 0));
    WELL(cnTaskTopoDestroy(clone));
    WELL(cnTaskTopoDestroy(child));
    WELL(cnDestroyNotifier(placed));
    WELL(cnDestroyNotifier(began));
    WELL(cnDestroyQueue(queue));
    WELL(cnFree(memory_));
}

/* -- Captures -- */

static void *other_thread(void *argument) {
    handle *out = argument, topo;
    printf("from elsewhere: %d", cnCtxSetCurrent(context));
    printf(" %d\n", cnQueueEndCapture(*out, &topo));
    return NULL;
}

static void called_back(handle queue, result status, void *argument) {
    (void)queue;
    *(atomic_int *)argument = status == 0 ? 1 : -1;
}

static void captures(void) {
    handle one, two, topo = NULL, entity, forked, joined;
    const handle *ends;
    int status = -1;
    size_t many;
    u64 id, memory_, ns = 2000000;
    void *parameters[] = {&ns};
    unsigned char back[16] = {0};
    WELL(cnMalloc(&memory_, 4096));
    WELL(cnCreateQueue(&one, 0));
    WELL(cnCreateQueue(&two, 0));
    WELL(cnCreateNotifier(&forked, 0));
    WELL(cnCreateNotifier(&joined, 0));
    SAY(cnQueueBeginCapture(NULL, GLOBAL));
    SAY(cnQueueEndCapture(one, &topo));
    WELL(cnQueueBeginCapture(one, LOCAL));
    SAY(cnQueueBeginCapture(one, LOCAL));
    WELL(cnQueueIsCapturing(one, &status));
    printf("captures: %d\n", status);
    WELL(cnInvokeKernel(spin, 1, 1, 1, UNION1, 0, one, parameters, NULL));
    WELL(cnMemsetD32Async(memory_, 0x05050505, 4, one));
    /* Another queue takes part from the notifier to the notifier. */
    WELL(cnPlaceNotifier(forked, one));
    WELL(cnQueueWaitNotifier(two, forked));
    WELL(cnQueueIsCapturing(two, &status));
    printf("the other, too: %d\n", status);
    WELL(cnInvokeKernel(brief, 1, 1, 1, UNION1, 0, two, NULL, NULL));
    calls = 0;
    WELL(cnInvokeHostFunc(two, count, (void *)1));
    WELL(cnMemcpyDtoHAsync_V2(back, memory_, sizeof back, one));
    WELL(cnPlaceNotifier(joined, two));
    WELL(cnQueueWaitNotifier(one, joined));
    WELL(cnQueueGetCaptureInfo(one, &status, &id, &topo, &ends, &many));
    printf("info: %d %d, %zu ends\n", status, id != 0, many);
    WELL(cnQueueEndCapture(one, &topo));
    kinds(topo);
    printf("nothing ran: %d %d\n", calls, back[0]);
    WELL(cnTaskTopoInstantiate(&entity, topo, NULL, NULL, 0));
    WELL(cnTaskTopoEntityInvoke(entity, two));
    WELL(cnQueueSync(two));
    printf("and now: %d %d\n", calls, back[0]);
    WELL(cnTaskTopoEntityDestroy(entity));
    WELL(cnTaskTopoDestroy(topo));

    /* What is not joined, is broken, or is not ours to end. */
    WELL(cnQueueBeginCapture(one, RELAXED));
    WELL(cnPlaceNotifier(forked, one));
    WELL(cnQueueWaitNotifier(two, forked));
    WELL(cnInvokeKernel(brief, 1, 1, 1, UNION1, 0, two, NULL, NULL));
    printf("unjoined: %d", cnQueueEndCapture(one, &topo));
    printf(" %d\n", topo == NULL);
    WELL(cnQueueBeginCapture(one, GLOBAL));
    SAY(cnQueueSync(one));
    SAY(cnInvokeKernel(brief, 1, 1, 1, UNION1, 0, one, NULL, NULL));
    SAY(cnQueueEndCapture(one, &topo));
    WELL(cnQueueBeginCapture(one, GLOBAL));
    SAY(cnMalloc(&id, 4096));
    SAY(cnQueueEndCapture(one, &topo));
    WELL(cnQueueBeginCapture(one, RELAXED));
    WELL(cnMalloc(&id, 4096));
    WELL(cnFree(id));
    SAY(cnQueueAddCallback(one, called_back, NULL, 0));
    SAY(cnQueueEndCapture(one, &topo));
    WELL(cnQueueBeginCapture(one, GLOBAL));
    pthread_t thread;
    pthread_create(&thread, NULL, other_thread, &one);
    pthread_join(thread, NULL);
    int mode = RELAXED;
    WELL(cnThreadExchangeQueueCaptureMode(&mode));
    printf("mode before: %d\n", mode);
    WELL(cnThreadExchangeQueueCaptureMode(&mode));
    WELL(cnPlaceNotifierWithFlags(joined, one, 1));
    WELL(cnQueueWaitNotifierWithFlags(one, joined, 1));
    WELL(cnQueueUpdateCaptureDependencies(one, NULL, 0, 1));
    WELL(cnInvokeKernel(brief, 1, 1, 1, UNION1, 0, one, NULL, NULL));
    WELL(cnQueueEndCapture(one, &topo));
    kinds(topo);
    WELL(cnTaskTopoDestroy(topo));
    WELL(cnDestroyNotifier(forked));
    WELL(cnDestroyNotifier(joined));
    WELL(cnDestroyQueue(one));
    WELL(cnDestroyQueue(two));
    WELL(cnFree(memory_));
}

/* -- Host functions and atomic operations -- */

static void order(void) {
    handle queue, other, notifier;
    atomic_int seen = 0;
    void *words;
    u64 value, ns = 2000000;
    void *parameters[] = {&ns};
    WELL(cnCreateQueue(&queue, 0));
    WELL(cnCreateQueue(&other, 0));
    WELL(cnCreateNotifier(&notifier, 0));
    WELL(cnMallocHost(&words, 4096));
    u64 word = (u64)words;
    memset(words, 0, 4096);
    calls = 0;
    WELL(cnInvokeKernel(spin, 1, 1, 1, UNION1, 0, queue, parameters, NULL));
    WELL(cnInvokeHostFunc(queue, count, (void *)1));
    WELL(cnInvokeKernel(brief, 1, 1, 1, UNION1, 0, queue, NULL, NULL));
    WELL(cnQueueAddCallback(queue, called_back, &seen, 0));
    SAY(cnQueueAddCallback(queue, called_back, &seen, 1));
    SAY(cnInvokeHostFunc(queue, NULL, NULL));
    WELL(cnQueueSync(queue));
    printf("called %d, back %d\n", calls, seen);
    /* A queue waits for a word that another one, and the host, write. */
    WELL(cnQueueAtomicOperation(queue, word, 3, 0, COMPARE, EQUAL));
    WELL(cnInvokeKernel(brief, 1, 1, 1, UNION1, 0, queue, NULL, NULL));
    WELL(cnPlaceNotifier(notifier, queue));
    SAY(cnQueryNotifier(notifier));
    WELL(cnQueueAtomicOperation(other, word, 1, 0, REQUEST, ADD));
    WELL(cnQueueSync(other));
    SAY(cnQueryNotifier(notifier));
    SAY(cnAtomicOperation(word, 2, 0, COMPARE, LESS_EQUAL));
    SAY(cnAtomicOperation(word, 1, 0, COMPARE, LESS_EQUAL));
    SAY(cnAtomicOperation(word, 1, 0, COMPARE, LESS));
    WELL(cnAtomicOperation(word, 2, 0, REQUEST, ADD));
    WELL(cnWaitNotifier(notifier));
    WELL(cnQueueAtomicOperation(queue, word + 8, 7, 0, REQUEST, SET));
    WELL(cnQueueAtomicOperation(queue, word, 0, 0, REQUEST, CLEAR));
    WELL(cnQueueAtomicOperation(other, word + 8, 6, 0, COMPARE, LESS));
    WELL(cnQueueSync(queue));
    WELL(cnQueueSync(other));
    WELL(cnAtomicReadOps(word, &value));
    printf("words %llu", (unsigned long long)value);
    WELL(cnAtomicReadOps(word + 8, &value));
    printf(" %llu\n", (unsigned long long)value);
    SAY(cnAtomicReadOps(12345, &value));
    SAY(cnQueueAtomicOperation(queue, (u64)&value, 1, 0, REQUEST, SET));
    SAY(cnQueueAtomicOperation(queue, word, 1, 0, REQUEST, 9));
    WELL(cnQueueBeginCapture(queue, RELAXED));
    SAY(cnQueueAtomicOperation(queue, word, 1, 0, REQUEST, SET));
    SAY(cnQueueEndCapture(queue, &other));
    WELL(cnFreeHost(words));
    WELL(cnDestroyNotifier(notifier));
    WELL(cnDestroyQueue(queue));
}

/* -- Copies -- */

static void copies(void) {
    unsigned char text[256], back[256] = {0};
    u64 one, two;
    handle queue;
    for (int i = 0; i < 256; i++)
        text[i] = (unsigned char)i;
    WELL(cnCreateQueue(&queue, 0));
    WELL(cnMalloc(&one, 4096));
    WELL(cnMalloc(&two, 4096));
    WELL(cnMemcpyHtoDAsync(one, text, sizeof text, queue));
    WELL(cnMemcpyAsync(two, one, sizeof text, queue));
    WELL(cnMemcpyDtoHAsync_V2(back, two, sizeof back, queue));
    WELL(cnQueueSync(queue));
    check("what went round", memcmp(text, back, sizeof text), 0);
    WELL(cnMemcpy2D(two + 1024, 64, one, 16, 8, 4));
    WELL(cnMemcpyDtoH(back, two + 1024, 256));
    printf("rows %d %d %d\n", back[0], back[64], back[135]);
    struct box box = {.to = (void *)two,
                      .from = (void *)one,
                      .to_pitched = {32, (void *)two, 8, 2},
                      .from_pitched = {16, (void *)one, 8, 2},
                      .depth = 2,
                      .height = 2,
                      .width = 8};
    WELL(cnMemcpy3D(&box));
    WELL(cnMemcpyDtoH(back, two, 256));
    printf("a box %d %d %d\n", back[32], back[64], back[103]);
    box.width = 0;
    SAY(cnMemcpy3D(&box));
    SAY(cnMemcpy3D(NULL));
    SAY(cnMemcpy2D(two, 64, one, 16, 8, 0));
    SAY(cnMemcpyAsync(two, one, 0, queue));
    /* Of contexts of one device there are none. */
    handle second;
    WELL(cnCtxCreate(&second, 0, 0));
    WELL(cnCtxSetCurrent(context));
    SAY(cnMemcpyPeer(two, second, one, context, 16));
    SAY(cnMemcpyPeer(two, NULL, one, context, 16));
    WELL(cnMemcpyPeer(two, context, one, context, 16));
    WELL(cnMemcpyPeerAsync(two + 64, context, one, context, 16, queue));
    WELL(cnQueueSync(queue));
    WELL(cnCtxDestroy(second));
    WELL(cnCtxSetCurrent(context));
    char uuid[37];
    u64 device;
    int can = -1;
    WELL(cnDeviceGetUuidStr(uuid, 37, 0));
    WELL(cnDeviceGetByUuidStr(&device, uuid));
    SAY(cnDeviceGetByUuidStr(&device, "nobody's"));
    WELL(cnDeviceCanPeerAble(&can, 0, 0));
    printf("with itself: %llu %d\n", (unsigned long long)device, can);
    WELL(cnFree(one));
    WELL(cnFree(two));
    WELL(cnDestroyQueue(queue));
}

/* -- Pools -- */

static void pools(void) {
    struct pool_properties properties = {1, 0, 1, 0, 0, {0}}, wrong = {1, 0, 1, 9, 0, {0}};
    handle pool, own, now, queue;
    u64 one, two, bytes;
    WELL(cnCreateQueue(&queue, 0));
    WELL(cnDeviceGetDefaultMemPool(&pool, 0));
    WELL(cnMemPoolCreate(&own, &properties));
    check("a pool of no device", cnMemPoolCreate(&now, &wrong) != 0, 1);
    SAY(cnMemPoolCreate(NULL, &properties));
    WELL(cnMemAllocFromPoolAsync(&one, 3 * PAGE, own, queue));
    memory("from its own");
    WELL(cnDeviceSetMemPool(0, own));
    WELL(cnDeviceGetMemPool(&now, 0));
    check("the pool that was set", now == own, 1);
    WELL(cnMemAllocAsync(&two, PAGE, queue));
    WELL(cnMemPoolGetAttribute(own, USED, &bytes));
    printf("used %llu\n", (unsigned long long)bytes);
    /* What it may keep it keeps, until it is told. */
    bytes = 64 * PAGE;
    WELL(cnMemPoolSetAttribute(own, RELEASE_THRESHOLD, &bytes));
    WELL(cnMemFreeAsync(one, queue));
    WELL(cnQueueSync(queue));
    memory("kept");
    WELL(cnMemPoolTrimTo(own, 0));
    memory("trimmed");
    WELL(cnMemFreeAsync(two, queue));
    WELL(cnQueueSync(queue));
    WELL(cnMemPoolDestroy(own));
    memory("destroyed");
    WELL(cnDeviceGetMemPool(&now, 0));
    check("the default one again", now == pool, 1);
    SAY(cnMemPoolDestroy(pool));
    SAY(cnMemPoolGetAttribute(pool, 99, &bytes));
    WELL(cnDestroyQueue(queue));
}

/* -- Roles -- */

static void tour(void) {
    graphs();
    memory("after graphs");
    captures();
    memory("after captures");
    order();
    copies();
    memory("after copies");
    pools();
    memory("after pools");
}

static void launch(unsigned times, u64 ns) {
    handle topo, entity, node, queue;
    void *parameters[] = {&ns};
    struct kernel_node run = {spin, 1, 1, 1, UNION1, 0, parameters, NULL};
    struct timespec from, to;
    WELL(cnCreateQueue(&queue, 0));
    WELL(cnTaskTopoCreate(&topo, 0));
    WELL(cnTaskTopoAddKernelNode(&node, topo, NULL, 0, &run));
    WELL(cnTaskTopoInstantiate(&entity, topo, NULL, NULL, 0));
    puts("ready");
    wait_for_line();
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (unsigned i = 0; i < times; i++)
        WELL(cnTaskTopoEntityInvoke(entity, queue));
    WELL(cnQueueSync(queue));
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%lld\n", (long long)(to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec);
}

/* Pools that grow by turns, one page at a time, until none can. */
static void grow(unsigned many) {
    struct pool_properties properties = {1, 0, 1, 0, 0, {0}};
    handle pool[8], queue;
    u64 at, reserved, sum = 0;
    result refusal = 0;
    unsigned taken = 0;
    WELL(cnCreateQueue(&queue, 0));
    for (unsigned i = 0; i < many; i++)
        WELL(cnMemPoolCreate(&pool[i], &properties));
    for (unsigned refused = 0, i = 0; refused < many; i = (i + 1) % many) {
        result got = cnMemAllocFromPoolAsync(&at, PAGE, pool[i], queue);
        refused = got ? refused + 1 : 0;
        refusal = got ? got : refusal;
        taken += !got;
    }
    WELL(cnQueueSync(queue));
    for (unsigned i = 0; i < many; i++) {
        WELL(cnMemPoolGetAttribute(pool[i], RESERVED, &reserved));
        sum += reserved;
    }
    printf("taken %u, reserved %llu, then %d\n", taken, (unsigned long long)sum, refusal);
    wait_for_line();
}

int main(int argc, char **argv) {
    handle module;
    const char *what = argc > 1 ? argv[1] : "";
    context = begin_on(0);
    WELL(cnModuleLoadFatBinary(image, &module));
    WELL(cnModuleGetKernel(module, "spin", &spin));
    WELL(cnModuleGetKernel(module, "short", &brief));
    if (!strcmp(what, "tour"))
        tour();
    else if (!strcmp(what, "launch") && argc > 3)
        launch((unsigned)atoi(argv[2]), (u64)atoll(argv[3]));
    else if (!strcmp(what, "pools") && argc > 2)
        grow((unsigned)atoi(argv[2]));
    else
        return 2;
    puts("end");
    return 0;
}
