/* A client of libcndrv.so that has no header of anybody's: memory of all kinds, copies, fills, images in
 * files, and what can be asked.
 *
 * cndrv_kinds_client tour   all of it, once, on a card of the 300 series or later
 *                    merge  what earlier ones can besides
 */
#include "cndrv_program.h"

result cnCtxGetCurrent(handle *);
result cnGetExportFunction(const char *, const void **);
result cnMallocSecurity(u64 *, u64);
result cnMallocPeerAble(u64 *, u64);
result cnMallocNodeConstant(u64 *, u64, int);
result cnZmallocNode(u64 *, u64, int);
result cnMemMerge(u64 *, unsigned, const u64 *);
result cnMemGetAddressRange(u64 *, u64 *, u64);
result cnMemcpy(u64, u64, u64);
result cnMemcpyAsync(u64, u64, u64, handle);
result cnMemcpyAsync_V2(u64, u64, u64, handle);
result cnMemcpyAsync_V3(u64, u64, u64, handle);
result cnMemcpyHtoDAsync(u64, const void *, u64, handle);
result cnMemcpyHtoDAsync_V2(u64, const void *, u64, handle);
result cnMemcpyDtoHAsync(void *, u64, u64, handle);
result cnMemcpyDtoHAsync_V2(void *, u64, u64, handle);
result cnMemcpyDtoDAsync(u64, u64, u64, handle);
result cnMemcpy2D(u64, u64, u64, u64, u64, u64);
result cnMemcpy2DAsync(u64, u64, u64, u64, u64, u64, handle);
result cnMemcpyDtoD2D(u64, u64, u64, u64, u64, u64);
struct box {
    void *to;
    u64 to_x, to_y, to_z;
    u64 to_pitch;
    void *to_pointer;
    u64 to_width, to_height;
    u64 depth, height, width;
    uint32_t direction;
    void *from;
    u64 from_x, from_y, from_z;
    u64 from_pitch;
    void *from_pointer;
    u64 from_width, from_height;
};
result cnMemcpy3D(struct box *);
result cnMemcpy3DAsync(const struct box *, handle);
result cnMemcpyDtoD3D(struct box *);
result cnMemsetD8Async(u64, unsigned char, u64, handle);
result cnMemsetD16(u64, unsigned short, u64);
result cnMemsetD16Async(u64, unsigned short, u64, handle);
result cnMemsetD32(u64, unsigned, u64);
result cnMemsetD32Async(u64, unsigned, u64, handle);
result cnModuleLoad(const char *, handle *);
result cnModuleUnload(handle);
result cnModuleQueryMemoryUsage(const char *, size_t *);
result cnModuleQueryFatBinaryMemoryUsage(const void *, size_t *);
result cnKernelGetAttribute(int64_t *, int, handle);
result cnDeviceGetAttribute(int *, int, u64);
result cnDeviceGetPCIBusId(char *, int, u64);
result cnDeviceGetByPCIBusId(u64 *, const char *);
result cnDeviceTotalMem(u64 *, u64);
result cnDriverGetVersion(int *, int *, int *);
result cnGetDriverVersion(int *, int *, int *);
result cnGetErrorString(int, const char **);
result cnGetMemAttribute(void *, int, u64);
result cnGetMemAttributes(unsigned, int *, void **, u64);
result cnGetCtxConfigParam_pt(handle, int, u64 *);
result cnGetCtxConfigParam_pp(handle, int, u64 *);
result cnSetCtxConfigParam_pt(handle, int, u64 *);
result cnSetCtxConfigParam_pp(handle, int, u64 *);
result cnGetCtxMaxParallelUnionTasks(handle, int, int *);
result cnCtxGetQueuePriorityRange(int *, int *);
result cnCreateQueueWithPriority(handle *, unsigned, int);
result cnQueueGetPriority(handle, int *);
result cnQueueGetContext(handle, handle *);
result cnNotifierElapsedExecTime(float *, handle, handle);
result cnSharedContextGetState(u64, unsigned *, int *);
result cnProfilerStart(void);
result cnProfilerStop(void);

enum { MOST = 1 << 12, BLOCK = 8 * PAGE };

/* Says how much there is of a kind, and gives it back. */
#define FILL(call)                                                                                 \
    do {                                                                                           \
        unsigned count = 0;                                                                        \
        while (count < MOST && !(refusal = (call)))                                                \
            count++;                                                                               \
        printf("%s: %u, then %d\n", #call, count, refusal);                                        \
        memory("full");                                                                            \
        while (count)                                                                              \
            WELL(cnFree(held[--count]));                                                           \
    } while (0)

static void kinds(void) {
    static u64 held[MOST];
    const void *function = NULL;
    result refusal = 0;
    u64 address;
    FILL(cnMallocSecurity(&held[count], BLOCK));
    FILL(cnMallocPeerAble(&held[count], BLOCK));
    FILL(cnMallocNodeConstant(&held[count], BLOCK, 0));
    FILL(cnZmallocNode(&held[count], BLOCK, 0));
    SAY(cnZmallocNode(&address, BLOCK, 3));
    SAY(cnMallocSecurity(NULL, BLOCK));
    /* By whatever way a program comes to a function, it is held to the cap. */
    WELL(cnGetExportFunction("cnMalloc", &function));
    result (*allocate)(u64 *, u64);
    memcpy(&allocate, &function, sizeof allocate);
    FILL(allocate(&held[count], BLOCK));
    SAY(cnGetExportFunction("cnNothingOfTheKind", &function));
    SAY(cnGetExportFunction(NULL, &function));
    SAY(cnGetExportFunction("cnMalloc", NULL));
    memory("none held");
}

/* ---- Copies ---------------------------------------------------------------------------------------- */

enum { SIDE = 64, BYTES = SIDE * SIDE };

static unsigned char *there, *back; /* of the host, that the card knows */
static u64 one, two;
static handle queue;

static void begin_copy(void) {
    static unsigned char seed;
    seed++;
    for (unsigned i = 0; i < BYTES; i++)
        there[i] = (unsigned char)(i * 7 + seed);
    WELL(cnMemsetD8(one, 0, BYTES));
    WELL(cnMemsetD8(two, 0, BYTES));
    memset(back, 0, BYTES);
    WELL(cnMemcpyHtoD(one, there, BYTES));
}

/* Whether what the call did to `two` was to bring all of `one` there. */
#define COPIES(call)                                                                               \
    do {                                                                                           \
        begin_copy();                                                                              \
        WELL(call);                                                                                \
        WELL(cnQueueSync(queue));                                                                  \
        WELL(cnMemcpyDtoH(back, two, BYTES));                                                      \
        check("bytes of " #call, memcmp(there, back, BYTES), 0);                                   \
    } while (0)
/* The same for `back`. */
#define FETCHES(call)                                                                              \
    do {                                                                                           \
        begin_copy();                                                                              \
        WELL(call);                                                                                \
        WELL(cnQueueSync(queue));                                                                  \
        check("bytes of " #call, memcmp(there, back, BYTES), 0);                                   \
    } while (0)

static void copies(void) {
    WELL(cnMallocHost((void **)&there, BYTES));
    WELL(cnMallocHost((void **)&back, BYTES));
    WELL(cnMalloc(&one, BYTES));
    WELL(cnMalloc(&two, BYTES));
    WELL(cnCreateQueue(&queue, 0));
    COPIES(cnMemcpy(two, one, BYTES));
    COPIES(cnMemcpyAsync(two, one, BYTES, queue));
    COPIES(cnMemcpyAsync_V2(two, one, BYTES, queue));
    COPIES(cnMemcpyAsync_V3(two, one, BYTES, queue));
    COPIES(cnMemcpyDtoDAsync(two, one, BYTES, queue));
    COPIES(cnMemcpyHtoDAsync(two, there, BYTES, queue));
    COPIES(cnMemcpyHtoDAsync_V2(two, there, BYTES, queue));
    FETCHES(cnMemcpyDtoHAsync(back, one, BYTES, queue));
    FETCHES(cnMemcpyDtoHAsync_V2(back, one, BYTES, queue));
    FETCHES(cnMemcpyAsync_V3((u64)(uintptr_t)back, one, BYTES, queue));
    COPIES(cnMemcpy2D(two, SIDE, one, SIDE, SIDE, SIDE));
    COPIES(cnMemcpy2DAsync(two, SIDE, one, SIDE, SIDE, SIDE, queue));
    COPIES(cnMemcpyDtoD2D(two, SIDE, one, SIDE, SIDE, SIDE));
    struct box box = {
        .to = (void *)(uintptr_t)two,
        .to_pitch = 16,
        .to_width = 16,
        .to_height = 16,
        .from = (void *)(uintptr_t)one,
        .from_pitch = 16,
        .from_width = 16,
        .from_height = 16,
        .width = 16,
        .height = 16,
        .depth = 16,
    };
    COPIES(cnMemcpy3D(&box));
    COPIES(cnMemcpy3DAsync(&box, queue));
    COPIES(cnMemcpyDtoD3D(&box));
    SAY(cnMemcpy(two, one, 0));
    SAY(cnMemcpyDtoDAsync(two, 12345, 64, queue));
    SAY(cnMemcpyHtoDAsync_V2(two + PAGE * 64, there, BYTES, queue));
    SAY(cnMemcpyDtoD2D(two, SIDE, one, SIDE, 0, SIDE));
    SAY(cnMemcpyDtoD3D(NULL));
    box.depth = 1 << 20;
    SAY(cnMemcpy3DAsync(&box, queue));
    SAY(cnMemcpyAsync_V2(two, one, BYTES, back));
}

static void fills(void) {
    unsigned last;
#define FILLS(call, value)                                                                         \
    do {                                                                                           \
        WELL(cnMemsetD8(one, 0, BYTES));                                                           \
        WELL(call);                                                                                \
        WELL(cnQueueSync(queue));                                                                  \
        WELL(cnMemcpyDtoH(&last, one + 96, sizeof last));                                          \
        check("what " #call " wrote", last, value);                                                \
    } while (0)
    FILLS(cnMemsetD8Async(one, 0x5a, 100, queue), 0x5a5a5a5a);
    FILLS(cnMemsetD16(one, 0x1234, 50), 0x12341234);
    FILLS(cnMemsetD16Async(one, 0x4321, 49, queue), 0x4321);
    FILLS(cnMemsetD32(one, 0x01020304, 25), 0x01020304);
    FILLS(cnMemsetD32Async(one, 0x04030201, 25, queue), 0x04030201);
    SAY(cnMemsetD16(12345, 1, 1));
    SAY(cnMemsetD32(one, 1, 0));
    SAY(cnMemsetD16Async(one, 1, (u64)1 << 40, queue));
    SAY(cnMemsetD16Async(one, 1, 1, back));
}

/* ---- Images ---------------------------------------------------------------------------------------- */

static void images(void) {
    static const char text[] = "mlu-image 1\nmemory 5000000\nkernel spin parameter\n";
    char path[] = "/tmp/cndrv-kinds-XXXXXX";
    handle module, kernel, begin, end;
    size_t bytes = 0;
    int64_t value = -1;
    float ms = -1;
    u64 ns = 5000000;
    void *parameters[] = {&ns, NULL};
    int fd = mkstemp(path);
    check("a file", fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), 1);
    close(fd);
    WELL(cnModuleQueryMemoryUsage(path, &bytes));
    printf("an image in a file: %zu\n", bytes);
    WELL(cnModuleQueryFatBinaryMemoryUsage(text, &bytes));
    printf("and in memory: %zu\n", bytes);
    WELL(cnModuleLoad(path, &module));
    memory("loaded from a file");
    WELL(cnModuleGetKernel(module, "spin", &kernel));
    for (int i = 0; i < 5; i++) {
        WELL(cnKernelGetAttribute(&value, i, kernel));
        printf("a kernel's %d: %lld\n", i, (long long)value);
    }
    SAY(cnKernelGetAttribute(&value, 5, kernel));
    SAY(cnKernelGetAttribute(&value, 0, module));
    WELL(cnProfilerStart());
    WELL(cnCreateNotifier(&begin, 0));
    WELL(cnCreateNotifier(&end, 0));
    WELL(cnPlaceNotifier(begin, queue));
    WELL(cnInvokeKernel(kernel, 1, 1, 1, UNION1, 0, queue, parameters, NULL));
    WELL(cnPlaceNotifier(end, queue));
    WELL(cnQueueSync(queue));
    WELL(cnNotifierElapsedExecTime(&ms, begin, end));
    check("at least as long as it runs", ms >= 4.9f, 1);
    WELL(cnProfilerStop());
    WELL(cnDestroyNotifier(begin));
    WELL(cnDestroyNotifier(end));
    WELL(cnModuleUnload(module));
    unlink(path);
    SAY(cnModuleLoad(path, &module));
    SAY(cnModuleLoad(NULL, &module));
    SAY(cnModuleQueryMemoryUsage(path, &bytes));
    memory("unloaded");
}

/* ---- What can be asked ----------------------------------------------------------------------------- */

static void asked_of_device(u64 device) {
    static const int attributes[] = {0x1,   0x2,   0x9,   0x109, 0x10a, 0x201, 0x205, 0x206,
                                     0x20a, 0x301, 0x302, 0x303, 0x306, 0x307, 0x30b, 0x30c,
                                     0x310, 0x311, 0x312, 0x313, 0x402, 0x404, 0x405};
    int value = -1, major = 0, minor = 0, patch = 0, state = -1;
    unsigned flags = 77;
    u64 found = 99, bytes = 0;
    char place[32];
    const char *text = NULL;
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        WELL(cnDeviceGetAttribute(&value, attributes[i], device));
        printf("attribute %#x: %d\n", (unsigned)attributes[i], value);
    }
    /* All that tell of the memory tell of the same. */
    WELL(cnDeviceTotalMem(&bytes, device));
    WELL(cnDeviceGetAttribute(&value, 0x405, device));
    check("MiB in all", value, (long long)(bytes >> 20));
    SAY(cnDeviceGetAttribute(&value, 0x7777, device));
    SAY(cnDeviceGetAttribute(&value, 0x405, 77));
    SAY(cnDeviceGetAttribute(NULL, 0x405, device));
    WELL(cnDeviceGetPCIBusId(place, sizeof place, device));
    WELL(cnDeviceGetByPCIBusId(&found, place));
    check("the device at its place", (long long)found, (long long)device);
    SAY(cnDeviceGetPCIBusId(place, 3, device));
    SAY(cnDeviceGetByPCIBusId(&found, "ffff:ff:1f.0"));
    WELL(cnDriverGetVersion(&major, &minor, &patch));
    printf("interface: %d.%d.%d\n", major, minor, patch);
    WELL(cnGetDriverVersion(&major, &minor, &patch));
    printf("driver: %d.%d.%d\n", major, minor, patch);
    WELL(cnGetErrorString(100100, &text));
    puts(text);
    WELL(cnSharedContextGetState(device, &flags, &state));
    printf("shared: %u %d\n", flags, state);
}

static void asked_of_memory(handle context) {
    int type = -1, ordinal = -1, is_linear = -1, mapped = -1;
    int attributes[] = {1, 7, 0x11, 0x12};
    u64 start = 0, bytes = 0;
    void *values[] = {&type, &ordinal, &start, &bytes};
    handle owner = NULL;
    WELL(cnGetMemAttributes(4, attributes, values, one + 100));
    check("its start", (long long)start, (long long)one);
    printf("memory: type %d of %d, %llu bytes\n", type, ordinal, (unsigned long long)bytes);
    WELL(cnGetMemAttribute(&owner, 6, one));
    check("its context", owner == context, 1);
    WELL(cnGetMemAttribute(&is_linear, 0x18, one));
    WELL(cnGetMemAttribute(&mapped, 0x16, one));
    printf("linear %d, mapped %d\n", is_linear, mapped);
    WELL(cnGetMemAttribute(&type, 1, (u64)(uintptr_t)there));
    printf("of the host: %d\n", type);
    SAY(cnGetMemAttribute(&type, 1, 12345));
    printf("of nobody: %d\n", type);
    SAY(cnGetMemAttribute(NULL, 1, one));
    SAY(cnGetMemAttribute(&type, 0x77, one));
    SAY(cnGetMemAttributes(0, attributes, values, one));
}

static void asked_of_context(handle context) {
    int least = 0, greatest = 0, priority = 77, number = -1;
    u64 value = 0;
    handle urgent, owner = NULL;
    for (int i = 0; i < 3; i++) {
        WELL(cnGetCtxConfigParam_pt(context, i, &value));
        printf("a thread's %d: %llu\n", i, (unsigned long long)(i == 2 ? (uint32_t)value : value));
    }
    WELL(cnGetCtxMaxParallelUnionTasks(context, UNION1, &number));
    printf("at once: %d\n", number);
    value = 1;
    WELL(cnSetCtxConfigParam_pt(context, 0, &value));
    WELL(cnGetCtxConfigParam_pt(context, 1, &value));
    printf("clusters: %llu\n", (unsigned long long)value);
    WELL(cnGetCtxMaxParallelUnionTasks(context, UNION1, &number));
    printf("at once: %d\n", number);
    WELL(cnGetCtxMaxParallelUnionTasks(context, 1, &number));
    printf("blocks at once: %d\n", number);
    WELL(cnGetCtxConfigParam_pp(context, 0, &value));
    value &= 1;
    WELL(cnSetCtxConfigParam_pp(context, 0, &value));
    value = UNION1;
    WELL(cnSetCtxConfigParam_pt(context, 2, &value));
    value = 0;
    SAY(cnSetCtxConfigParam_pt(context, 0, &value));
    SAY(cnSetCtxConfigParam_pt(context, 1, &value));
    SAY(cnGetCtxConfigParam_pt(context, 3, &value));
    SAY(cnGetCtxConfigParam_pt(NULL, 0, &value));
    SAY(cnGetCtxConfigParam_pp(context, 0, NULL));
    SAY(cnGetCtxMaxParallelUnionTasks(context, 5, &number));
    WELL(cnCtxGetQueuePriorityRange(&least, &greatest));
    printf("priorities: %d to %d\n", least, greatest);
    WELL(cnCreateQueueWithPriority(&urgent, 0, greatest));
    WELL(cnQueueGetPriority(urgent, &priority));
    check("its priority", priority, greatest);
    WELL(cnQueueGetContext(urgent, &owner));
    check("its context", owner == context, 1);
    WELL(cnDestroyQueue(urgent));
}

static void tour(void) {
    int value;
    u64 parts[2], whole;
    const void *function;
    SAY(cnGetExportFunction("cnInit", &function));
    SAY(cnMallocSecurity(&whole, 4096));
    SAY(cnMemMerge(&whole, 1, &whole));
    SAY(cnDeviceGetAttribute(&value, 0x405, 0));
    handle context = begin_on(0);
    memory("context");
    kinds();
    copies();
    fills();
    images();
    asked_of_device(0);
    asked_of_memory(context);
    asked_of_context(context);
    WELL(cnMalloc(&parts[0], BLOCK));
    WELL(cnMalloc(&parts[1], BLOCK));
    SAY(cnMemMerge(&whole, 2, parts));
    WELL(cnFree(parts[0]));
    WELL(cnFree(parts[1]));
    WELL(cnDestroyQueue(queue));
    WELL(cnFree(one));
    WELL(cnFree(two));
    WELL(cnFreeHost(there));
    WELL(cnFreeHost(back));
    memory("as before");
    WELL(cnCtxDestroy(context));
    puts("end");
}

/* ---- Merges ---------------------------------------------------------------------------------------- */

static void merges(void) {
    u64 parts[3], whole = 0, base = 0, bytes = 0, more, small[2], again[2];
    unsigned char first = 0, second = 0;
    handle context = begin_on(0);
    for (unsigned i = 0; i < 3; i++) {
        WELL(cnMalloc(&parts[i], (i + 1) * BLOCK));
        WELL(cnMemsetD8(parts[i], (unsigned char)(i + 1), (i + 1) * BLOCK));
    }
    memory("in three");
    WELL(cnMemMerge(&whole, 3, parts));
    memory("in one");
    WELL(cnMemGetAddressRange(&base, &bytes, whole + 5 * BLOCK));
    check("where it begins", (long long)base, (long long)whole);
    printf("it has %llu bytes\n", (unsigned long long)bytes);
    WELL(cnMemcpyDtoH(&first, whole + BLOCK - 1, 1));
    WELL(cnMemcpyDtoH(&second, whole + BLOCK, 1));
    printf("the parts are in their order: %d %d\n", first, second);
    for (unsigned i = 0; i < 3; i++)
        if (parts[i] != whole)
            SAY(cnFree(parts[i]));
    /* What is held is as much as before: no more is to be had. */
    u64 left = 0, total = 0;
    WELL(cnMemGetInfo(&left, &total));
    SAY(cnMalloc(&more, left + 1));
    WELL(cnMalloc(&more, left));
    WELL(cnFree(more));
    /* What cannot be merged stays as it was. */
    WELL(cnMalloc(&small[0], 4096));
    WELL(cnMalloc(&small[1], BLOCK));
    SAY(cnMemMerge(&more, 2, small));
    again[0] = again[1] = small[1];
    SAY(cnMemMerge(&more, 2, again));
    SAY(cnMemMerge(&more, 0, small));
    SAY(cnMemMerge(&more, 1, NULL));
    SAY(cnMemMerge(NULL, 1, small));
    memory("nothing merged");
    WELL(cnFree(small[0]));
    WELL(cnFree(small[1]));
    WELL(cnFree(whole));
    SAY(cnFree(whole));
    memory("none held");
    WELL(cnCtxDestroy(context));
    puts("end");
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "tour"))
        tour();
    else if (!strcmp(what, "merge"))
        merges();
    else
        return 2;
    return 0;
}
