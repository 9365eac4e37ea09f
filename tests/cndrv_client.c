/* A client of libcndrv.so that has no header of anybody's: it declares what it uses as the interface
 * is published. It prints what it finds, so that runs with and without a slice can be held against
 * each other.
 *
 * cndrv_client tour            all of it, once
 *              fill [MIB]      takes memory to the last page when told to, says how much, and waits
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int result;
typedef uint64_t u64;
typedef void *handle;

result cnInit(unsigned);
result cnGetLibVersion(int *, int *, int *);
result cnGetErrorName(int, const char **);
result cnDeviceGetCount(int *);
result cnDeviceGet(u64 *, int);
result cnDeviceGetName(char *, unsigned, u64);
result cnDeviceGetUuidStr(char *, int, u64);
result cnDeviceTotalMem(u64 *, u64);
result cnCtxCreate(handle *, unsigned, u64);
result cnCtxDestroy(handle);
result cnCtxGetCurrent(handle *);
result cnCtxSetCurrent(handle);
result cnCtxGetDevice(u64 *);
result cnCtxSync(void);
result cnSharedContextAcquire(handle *, u64);
result cnSharedContextRelease(u64);
result cnMemGetInfo(u64 *, u64 *);
result cnMemGetNodeInfo(u64 *, u64 *, int);
result cnMalloc(u64 *, u64);
result cnZmalloc(u64 *, u64);
result cnMallocConstant(u64 *, u64);
result cnMallocNode(u64 *, u64, int);
result cnMallocFrameBuffer(u64 *, u64, int);
result cnFree(u64);
result cnMemGetAddressRange(u64 *, u64 *, u64);
result cnMemcpyHtoD(u64, const void *, u64);
result cnMemcpyDtoH(void *, u64, u64);
result cnMemcpyDtoD(u64, u64, u64);
result cnMemsetD8(u64, unsigned char, u64);
result cnMemsetD32Async(u64, unsigned, u64, handle);
result cnMemCreate(u64 *, u64, void *, u64);
result cnMemRelease(u64);
result cnMemAddressReserve(u64 *, u64, u64, u64, u64);
result cnMemAddressFree(u64, u64);
result cnMemMap(u64, u64, u64, u64, u64);
result cnMemUnmap(u64, u64);
result cnMemSetAccess(u64, u64, void *, u64);
result cnMemRetainAllocationHandle(u64 *, u64);
result cnMemGetAllocationGranularity(u64 *, void *, int);
result cnMemAllocAsync(u64 *, size_t, handle);
result cnMemFreeAsync(u64, handle);
result cnCreateQueue(handle *, unsigned);
result cnDestroyQueue(handle);
result cnQueryQueue(handle);
result cnQueueSync(handle);
result cnQueueWaitNotifier(handle, handle);
result cnCreateNotifier(handle *, unsigned);
result cnDestroyNotifier(handle);
result cnPlaceNotifier(handle, handle);
result cnQueryNotifier(handle);
result cnWaitNotifier(handle);
result cnNotifierElapsedTime(float *, handle, handle);
result cnModuleLoadFatBinary(const void *, handle *);
result cnModuleUnload(handle);
result cnModuleGetKernel(handle, const char *, handle *);
result cnInvokeKernel(handle, unsigned, unsigned, unsigned, int, unsigned, handle, void **,
                      void **);
struct config {
    unsigned x, y, z;
    int kind;
    unsigned reserved;
    handle queue;
    void *attributes;
    unsigned count;
};
result cnInvokeKernelEx(const struct config *, handle, void **, void **);

/* Type, handle types, kind of place (a device), its ordinal, flags. */
static uint32_t placed[5] = {1, 0, 1, 0, 0};
static const char image[] =
    "mlu-image 1\nmemory 3000000\nkernel spin parameter\nkernel short 1000\n";
enum { UNION1 = 4, PAGE = 2 << 20 };

static void check(const char *what, long long got, long long wanted) {
    if (got == wanted)
        return;
    printf("wrong %s: %lld, not %lld\n", what, got, wanted);
    exit(1);
}
#define WELL(call) check(#call, call, 0)
#define SAY(call) printf("%s: %d\n", #call, call)

static void memory(const char *when) {
    u64 left = 0, total = 0;
    WELL(cnMemGetInfo(&left, &total));
    printf("%s: %llu of %llu\n", when, (unsigned long long)left, (unsigned long long)total);
}

/* Takes memory to the last page; returns how many allocations that were, at most `most`. */
static unsigned fill(u64 *to, unsigned most, u64 bytes, result *refusal) {
    unsigned count = 0;
    *refusal = 0;
    while (count < most && !(*refusal = cnMalloc(&to[count], bytes)))
        count++;
    return count;
}

static void linear(void) {
    static u64 held[1 << 16];
    result refusal;
    u64 base, bytes, other;
    unsigned count = fill(held, 1 << 16, 8 * PAGE, &refusal);
    printf("eights: %u, then %d\n", count, refusal);
    unsigned more = fill(held + count, 8, PAGE - 5, &refusal);
    printf("ones: %u, then %d\n", more, refusal);
    memory("full");
    SAY(cnMalloc(&base, 1));
    SAY(cnZmalloc(&base, PAGE + 1));
    SAY(cnMallocConstant(&base, 16 * PAGE));
    SAY(cnMallocNode(&base, 4096, 0));
    SAY(cnMallocFrameBuffer(&base, 4096, 0));
    SAY(cnMemCreate(&base, PAGE, placed, 0));
    /* One page is given back, and only one is to be had again. */
    if (more) {
        WELL(cnFree(held[count]));
        SAY(cnMalloc(&held[count], PAGE + 1));
        SAY(cnMalloc(&held[count], PAGE));
        SAY(cnMalloc(&other, 1));
    }
    WELL(cnMemGetAddressRange(&base, &bytes, held[0] + 100));
    check("base", base == held[0] && bytes == 8 * PAGE, 1);
    for (unsigned i = 0; i < count + more; i++)
        WELL(cnFree(held[i]));
    memory("empty");
    SAY(cnFree(held[0]));
    SAY(cnFree(0));
    SAY(cnFree(12345));
    SAY(cnMalloc(&base, 0));
    SAY(cnMalloc(&base, UINT64_MAX));
    SAY(cnMalloc(&base, UINT64_MAX / 2));
    SAY(cnMalloc(NULL, 4096));
    SAY(cnMallocNode(&base, 4096, 7));
    memory("as before");
}

static void bytes_stay(void) {
    u64 one, two;
    unsigned char text[64] = "what is written is read", back[64];
    WELL(cnMalloc(&one, 4096));
    WELL(cnMalloc(&two, 4096));
    WELL(cnMemcpyHtoD(one, text, sizeof text));
    WELL(cnMemcpyDtoD(two + 64, one, sizeof text));
    WELL(cnMemcpyDtoH(back, two + 64, sizeof back));
    check("bytes", memcmp(text, back, sizeof text), 0);
    WELL(cnMemsetD8(one, 7, 10));
    WELL(cnMemsetD32Async(one + 8, 0x01020304, 3, NULL));
    WELL(cnQueueSync(NULL));
    WELL(cnMemcpyDtoH(back, one, sizeof back));
    printf("filled: %d %d %d %d\n", back[7], back[8], back[11], back[19]);
    SAY(cnMemcpyHtoD(one + 4000, text, 100));
    SAY(cnMemsetD8(one, 7, 5000));
    WELL(cnFree(one));
    WELL(cnFree(two));
}

static void physical(void) {
    u64 granularity, handle_, other, address, again;
    uint32_t access[5] = {1, 0, 0, 0, 0};
    WELL(cnMemGetAllocationGranularity(&granularity, placed, 0));
    printf("granularity: %llu\n", (unsigned long long)granularity);
    WELL(cnMemCreate(&handle_, 4 * granularity, placed, 0));
    memory("created");
    WELL(cnMemAddressReserve(&address, 4 * granularity, 0, 0, 0));
    memory("reserved");
    WELL(cnMemMap(address, 4 * granularity, 0, handle_, 0));
    WELL(cnMemSetAccess(address, 4 * granularity, access, 1));
    WELL(cnMemsetD8(address, 1, 4 * granularity));
    WELL(cnMemRetainAllocationHandle(&again, address));
    check("handle", again == handle_, 1);
    WELL(cnMemRelease(handle_));
    WELL(cnMemRelease(again));
    memory("mapped only");
    SAY(cnFree(address));
    WELL(cnMemUnmap(address, 4 * granularity));
    memory("unmapped");
    SAY(cnMemUnmap(address, 4 * granularity));
    WELL(cnMemAddressFree(address, 4 * granularity));
    SAY(cnMemCreate(&other, granularity + 1, placed, 0));
    SAY(cnMemCreate(&other, granularity << 30, placed, 0));
    placed[3] = 9;
    check("no such device", cnMemCreate(&other, granularity, placed, 0) != 0, 1);
    placed[3] = 0;
    memory("none left");
}

static void pooled(void) {
    u64 one, two;
    handle queue;
    WELL(cnCreateQueue(&queue, 0));
    WELL(cnMemAllocAsync(&one, 3 * PAGE, queue));
    WELL(cnMemAllocAsync(&two, PAGE, NULL));
    memory("pooled");
    WELL(cnMemFreeAsync(one, queue));
    WELL(cnQueueSync(queue));
    memory("one freed");
    WELL(cnMemFreeAsync(two, queue));
    WELL(cnMemAllocAsync(&one, PAGE, queue));
    memory("used again");
    WELL(cnMemFreeAsync(one, queue));
    WELL(cnCtxSync());
    memory("pool empty");
    SAY(cnMemAllocAsync(&one, (size_t)1 << 40, queue));
    SAY(cnMemFreeAsync(12345, queue));
    WELL(cnDestroyQueue(queue));
}

static void work(void) {
    handle module, spin, brief, queue, other, begin, end;
    u64 ns = 60000000;
    void *parameters[] = {&ns, NULL};
    float ms;
    WELL(cnModuleLoadFatBinary(image, &module));
    memory("loaded");
    SAY(cnModuleLoadFatBinary("something else", &queue));
    WELL(cnModuleGetKernel(module, "spin", &spin));
    WELL(cnModuleGetKernel(module, "short", &brief));
    SAY(cnModuleGetKernel(module, "long", &queue));
    WELL(cnCreateQueue(&queue, 0));
    WELL(cnCreateQueue(&other, 0));
    WELL(cnCreateNotifier(&begin, 0));
    WELL(cnCreateNotifier(&end, 0));
    SAY(cnNotifierElapsedTime(&ms, begin, end));
    WELL(cnPlaceNotifier(begin, queue));
    WELL(cnInvokeKernel(spin, 1, 1, 1, UNION1, 0, queue, parameters, NULL));
    WELL(cnPlaceNotifier(end, queue));
    SAY(cnQueryQueue(queue));
    SAY(cnQueryNotifier(end));
    SAY(cnNotifierElapsedTime(&ms, begin, end));
    WELL(cnQueueWaitNotifier(other, end));
    struct config config = {4, 1, 1, UNION1, 0, other, NULL, 0};
    WELL(cnInvokeKernelEx(&config, brief, NULL, NULL));
    WELL(cnQueueSync(other));
    SAY(cnQueryNotifier(end));
    WELL(cnWaitNotifier(end));
    WELL(cnNotifierElapsedTime(&ms, begin, end));
    check("at least as long as it runs", ms >= 59.9f, 1);
    for (int i = 0; i < 200; i++)
        WELL(cnInvokeKernel(brief, 1, 1, 1, UNION1, 0, i % 3 ? queue : NULL, NULL, NULL));
    WELL(cnCtxSync());
    SAY(cnQueryQueue(queue));
    SAY(cnInvokeKernel(spin, 1, 1, 1, UNION1, 0, queue, NULL, NULL));
    SAY(cnInvokeKernel(NULL, 1, 1, 1, UNION1, 0, queue, NULL, NULL));
    SAY(cnInvokeKernelEx(NULL, spin, NULL, NULL));
    WELL(cnDestroyQueue(queue));
    SAY(cnInvokeKernel(brief, 1, 1, 1, UNION1, 0, queue, NULL, NULL));
    SAY(cnQueueSync(queue));
    SAY(cnDestroyQueue(queue));
    WELL(cnDestroyQueue(other));
    WELL(cnDestroyNotifier(begin));
    SAY(cnDestroyNotifier(begin));
    WELL(cnDestroyNotifier(end));
    WELL(cnModuleUnload(module));
    SAY(cnModuleUnload(module));
    memory("unloaded");
}

static void contexts(u64 device) {
    handle one, shared, again, current;
    u64 address;
    WELL(cnCtxGetCurrent(&current));
    WELL(cnCtxCreate(&one, 0, device));
    memory("two contexts");
    WELL(cnMalloc(&address, 3 * PAGE));
    memory("and memory");
    WELL(cnCtxDestroy(one));
    SAY(cnCtxDestroy(one));
    SAY(cnMalloc(&address, PAGE));
    SAY(cnMemGetInfo(&address, &address));
    WELL(cnCtxSetCurrent(current));
    memory("one context");
    WELL(cnSharedContextAcquire(&shared, device));
    WELL(cnSharedContextAcquire(&again, device));
    check("shared", shared == again, 1);
    memory("shared");
    WELL(cnCtxSetCurrent(shared));
    WELL(cnMalloc(&address, PAGE));
    WELL(cnSharedContextRelease(device));
    memory("still shared");
    WELL(cnSharedContextRelease(device));
    SAY(cnSharedContextRelease(device));
    SAY(cnCtxSetCurrent(shared));
    WELL(cnCtxSetCurrent(current));
    memory("not shared");
}

static void tour(void) {
    int count = 0, version[3];
    u64 device, bytes;
    handle context;
    char text[64];
    const char *name;
    SAY(cnDeviceGetCount(&count));
    SAY(cnMalloc(&bytes, 4096));
    SAY(cnFree(4096));
    SAY(cnMemGetInfo(&bytes, &bytes));
    SAY(cnQueueSync(NULL));
    SAY(cnCtxCreate(&context, 0, 0));
    SAY(cnInit(1));
    WELL(cnInit(0));
    WELL(cnInit(0));
    WELL(cnGetLibVersion(&version[0], &version[1], &version[2]));
    WELL(cnGetErrorName(100100, &name));
    printf("version: %d.%d.%d %s\n", version[0], version[1], version[2], name);
    WELL(cnDeviceGetCount(&count));
    WELL(cnDeviceGet(&device, 0));
    SAY(cnDeviceGet(&bytes, count));
    WELL(cnDeviceGetName(text, sizeof text, device));
    printf("devices: %d %s\n", count, text);
    SAY(cnDeviceGetName(text, 2, device));
    WELL(cnDeviceGetUuidStr(text, 37, device));
    WELL(cnDeviceTotalMem(&bytes, device));
    printf("uuid: %s\ntotal: %llu\n", text, (unsigned long long)bytes);
    SAY(cnDeviceTotalMem(&bytes, 77));
    SAY(cnMemGetInfo(&bytes, &bytes));
    SAY(cnMalloc(&bytes, 4096));
    WELL(cnCtxCreate(&context, 0, device));
    SAY(cnMemGetInfo(NULL, &bytes));
    SAY(cnMemGetNodeInfo(&bytes, &bytes, 0));
    memory("context");
    linear();
    bytes_stay();
    physical();
    pooled();
    work();
    contexts(device);
    WELL(cnCtxDestroy(context));
    puts("end");
}

static handle begin(void) {
    handle context;
    u64 device;
    WELL(cnInit(0));
    WELL(cnDeviceGet(&device, 0));
    WELL(cnCtxCreate(&context, 0, device));
    return context;
}

static void wait_for_line(void) {
    char line[16];
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        exit(2);
}

int main(int argc, char **argv) {
    static u64 held[1 << 16];
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "tour"))
        tour();
    else if (!strcmp(what, "fill")) {
        result refusal;
        unsigned most = argc > 2 ? (unsigned)atoi(argv[2]) / 2 : 1 << 16;
        begin();
        puts("ready");
        wait_for_line();
        unsigned count = fill(held, most, PAGE, &refusal);
        printf("filled %u %d\n", count, refusal);
        wait_for_line();
    } else
        return 2;
    return 0;
}
