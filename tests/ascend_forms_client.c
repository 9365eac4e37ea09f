/* A program that calls the Ascend runtime by every form that no other one here calls it by, written without
 * the vendor's headers. "names" tells which; "do NAME" does one and answers with the code that the runtime
 * answered, or -1 where what was to come of it has not; "end NAME" the same of a device's or context's.
 */
#include "ascend_program.h"

#include <pthread.h>

enum { BYTES = 4096, ROW = 64, ROWS = 8, WITHIN = 6, BETWEEN = 3, SUM = 10 };

struct arguments {
    void *args;
    uint8_t rest[248];
};
struct grid {
    uint32_t x, y, z;
};
struct place {
    uint32_t type, id;
};

#define COPY void *, uint64_t, const void *, uint64_t, int, void *
#define REDUCE void *, uint64_t, const void *, uint64_t, int, int, void *
#define BATCH void **, size_t *, void **, size_t *, size_t, void *, size_t *, size_t

#define ACL(X)                                                                                     \
    X(aclrtSetDevice, (int32_t))                                                                   \
    X(aclrtSetDeviceWithoutTsdVXX, (int32_t))                                                      \
    X(aclrtResetDeviceWithoutTsdVXX, (int32_t))                                                    \
    X(aclrtMallocAlign32, (void **, size_t, int))                                                  \
    X(aclrtCreateStream, (void **))                                                                \
    X(aclrtDestroyStreamForce, (void *))                                                           \
    X(aclrtSynchronizeStreamWithTimeout, (void *, int32_t))                                        \
    X(aclrtSynchronizeDeviceWithTimeout, (int32_t))                                                \
    X(aclrtCreateEvent, (void **))                                                                 \
    X(aclrtRecordEvent, (void *, void *))                                                          \
    X(aclrtSynchronizeEvent, (void *))                                                             \
    X(aclrtSynchronizeEventWithTimeout, (void *, int32_t))                                         \
    X(aclrtStreamWaitEventWithTimeout, (void *, void *, int32_t))                                  \
    X(aclrtBinaryLoadFromFile, (const char *, void *, void **))                                    \
    X(aclrtBinaryGetFunction, (void *, const char *, void **))                                     \
    X(aclrtBinaryUnLoad, (void *))                                                                 \
    X(aclrtKernelArgsInit, (void *, void **))                                                      \
    X(aclrtKernelArgsAppend, (void *, void *, size_t, void **))                                    \
    X(aclrtKernelArgsFinalize, (void *))                                                           \
    X(aclrtLaunchKernelWithConfig, (void *, uint32_t, void *, void *, void *, void *))             \
    X(aclrtLaunchKernelWithArgsArray, (void *, uint32_t, void *, void *, void **))                 \
    X(aclrtRandomNumAsync, (const void *, void *, void *))                                         \
    X(aclrtReduceAsync, (void *, const void *, uint64_t, int, int, void *, void *))                \
    X(aclrtMemsetD32, (void *, size_t, uint32_t, size_t))                                          \
    X(aclrtMemsetD32Async, (void *, size_t, uint32_t, size_t, void *))                             \
    X(aclrtMemcpyAsyncWithCondition, (COPY))                                                       \
    X(aclrtMemcpy2dAsync, (void *, size_t, const void *, size_t, size_t, size_t, int, void *))     \
    X(aclrtMemcpyAsyncWithOffset,                                                                  \
      (void **, size_t, size_t, const void **, size_t, size_t, int, void *))                       \
    X(aclrtGetMemcpyDescSize, (int, size_t *))                                                     \
    X(aclrtSetMemcpyDesc, (void *, int, void *, void *, size_t, void *))                           \
    X(aclrtMemcpyAsyncWithDesc, (void *, int, void *))                                             \
    X(aclrtMemcpyBatchAsync, (BATCH, size_t *, void *))                                            \
    X(aclrtMemcpyBatchAsyncV2, (BATCH, void *))                                                    \
    X(aclrtMemManagedPrefetchAsync, (const void *, size_t, struct place, uint32_t, void *))        \
    X(aclrtMemManagedPrefetchBatchAsync,                                                           \
      (const void **, size_t *, size_t, struct place *, size_t *, size_t, uint64_t, void *))       \
    X(aclrtCntNotifyCreate, (void **, uint64_t))                                                   \
    X(aclrtCntNotifyRecord, (void *, void *, void *))                                              \
    X(aclrtCntNotifyWaitWithTimeout, (void *, void *, void *))                                     \
    X(aclmdlRICaptureToModelRIBegin, (void *, void *, int))

#define RUNTIME(X)                                                                                 \
    X(rtSetDeviceEx, (int32_t))                                                                    \
    X(rtSetDeviceWithFlags, (int32_t, uint64_t))                                                   \
    X(rtSetDeviceWithoutTsd, (int32_t))                                                            \
    X(rtsSetDevice, (int32_t))                                                                     \
    X(rtDeviceReset, (int32_t))                                                                    \
    X(rtDeviceResetForce, (int32_t))                                                               \
    X(rtDeviceResetWithoutTsd, (int32_t))                                                          \
    X(rtsResetDevice, (int32_t))                                                                   \
    X(rtsDeviceResetForce, (int32_t))                                                              \
    X(rtCtxCreate, (void **, uint32_t, int32_t))                                                   \
    X(rtCtxCreateEx, (void **, uint32_t, int32_t))                                                 \
    X(rtsCtxCreate, (void **, uint64_t, int32_t))                                                  \
    X(rtCtxDestroy, (void *))                                                                      \
    X(rtCtxDestroyEx, (void *))                                                                    \
    X(rtsCtxDestroy, (void *))                                                                     \
    X(rtsMemGetInfo, (uint32_t, size_t *, size_t *))                                               \
    X(rtDeviceSynchronize, (void))                                                                 \
    X(rtDeviceSynchronizeWithTimeout, (int32_t))                                                   \
    X(rtEventSynchronize, (void *))                                                                \
    X(rtEventSynchronizeWithTimeout, (void *, int32_t))                                            \
    X(rtsEventSynchronize, (void *, int32_t))                                                      \
    X(rtStreamSynchronize, (void *))                                                               \
    X(rtStreamSynchronizeWithTimeout, (void *, int32_t))                                           \
    X(rtStreamWaitEvent, (void *, void *))                                                         \
    X(rtStreamWaitEventWithTimeout, (void *, void *, uint32_t))                                    \
    X(rtsEventWait, (void *, void *, uint32_t))                                                    \
    X(rtNotifyCreate, (int32_t, void **))                                                          \
    X(rtNotifyRecord, (void *, void *))                                                            \
    X(rtNotifyWaitWithTimeOut, (void *, void *, uint32_t))                                         \
    X(rtCntNotifyWaitWithTimeout, (void *, void *, const void *))                                  \
    X(rtsCntNotifyWaitWithTimeout, (void *, void *, void *))                                       \
    X(rtsValueWrite, (const void *, uint64_t, uint32_t, void *))                                   \
    X(rtsValueWait, (const void *, uint64_t, uint32_t, void *))                                    \
    X(rtSubscribeReport, (uint64_t, void *))                                                       \
    X(rtUnSubscribeReport, (uint64_t, void *))                                                     \
    X(rtProcessReport, (int32_t))                                                                  \
    X(rtsCallbackLaunch, (void (*)(void *), void *, void *, bool))                                 \
    X(rtStreamDestroy, (void *))                                                                   \
    X(rtStreamDestroyForce, (void *))                                                              \
    X(rtBinaryUnLoad, (void *))                                                                    \
    X(rtDevBinaryRegister, (const void *, void **))                                                \
    X(rtDevBinaryUnRegister, (void *))                                                             \
    X(rtFunctionRegister, (void *, const void *, const char *, const void *, uint32_t))            \
    X(rtMemcpy, (void *, uint64_t, const void *, uint64_t, int))                                   \
    X(rtMemset, (void *, uint64_t, uint32_t, uint64_t))                                            \
    X(rtMemsetAsync, (void *, uint64_t, uint32_t, uint64_t, void *))                               \
    X(rtsMemset, (void *, uint64_t, uint32_t, uint64_t))                                           \
    X(rtsMemsetAsync, (void *, uint64_t, uint32_t, uint64_t, void *))                              \
    X(rtMemsetD32, (void *, uint64_t, uint32_t, uint64_t))                                         \
    X(rtMemsetD32Async, (void *, uint64_t, uint32_t, uint64_t, void *))                            \
    X(rtMemcpyAsyncEx, (COPY, void *))                                                             \
    X(rtMemcpyAsyncWithCfg, (COPY, uint32_t))                                                      \
    X(rtMemcpyAsyncWithCfgV2, (COPY, const void *))                                                \
    X(rtMemcpyAsyncPtr, (void *, uint64_t, uint64_t, int, void *, uint32_t))                       \
    X(rtMemcpyAsyncPtrV2, (void *, uint64_t, uint64_t, int, void *, const void *))                 \
    X(rtMemcpyD2DAddrAsync,                                                                        \
      (void *, uint64_t, uint64_t, const void *, uint64_t, uint64_t, void *))                      \
    X(rtMemcpy2dAsync,                                                                             \
      (void *, uint64_t, const void *, uint64_t, uint64_t, uint64_t, int, void *))                 \
    X(rtsMemcpy2DAsync, (void *, void *, void *))                                                  \
    X(rtMemcpyAsyncWithOffset,                                                                     \
      (void **, uint64_t, uint64_t, const void **, uint64_t, uint64_t, int, void *))               \
    X(rtsMemcpyAsyncWithDesc, (void *, int, void *, void *))                                       \
    X(rtsMemcpyBatchAsync, (BATCH, size_t *, void *))                                              \
    X(rtReduceAsync, (REDUCE))                                                                     \
    X(rtReduceAsyncV2, (REDUCE, void *))                                                           \
    X(rtReduceAsyncWithCfg, (REDUCE, uint32_t))                                                    \
    X(rtReduceAsyncWithCfgV2, (REDUCE, const void *))                                              \
    X(rtKernelLaunchWithFlag,                                                                      \
      (const void *, uint32_t, struct arguments *, void *, void *, uint32_t))                      \
    X(rtKernelLaunchWithHandle,                                                                    \
      (void *, uint64_t, uint32_t, struct arguments *, void *, void *, const void *))              \
    X(rtVectorCoreKernelLaunch,                                                                    \
      (const void *, uint32_t, struct arguments *, void *, void *, uint32_t, const void *))        \
    X(rtVectorCoreKernelLaunchWithHandle,                                                          \
      (void *, uint64_t, uint32_t, struct arguments *, void *, void *, const void *))              \
    X(rtCreateLaunchArgs, (size_t, size_t, size_t, void *, void **))                               \
    X(rtAppendLaunchAddrInfo, (void *, void *))                                                    \
    X(rtLaunchKernelByFuncHandle, (void *, uint32_t, void *, void *))                              \
    X(rtLaunchKernelByFuncHandleV2, (void *, uint32_t, void *, void *, const void *))              \
    X(rtLaunchKernelByFuncHandleV3,                                                                \
      (void *, uint32_t, const struct arguments *, void *, const void *))                          \
    X(rtLaunchKernelExByFuncHandle, (void *, void *, void *, void *))                              \
    X(rtLaunchKernelWithArgsArray, (void *, uint32_t, void *, void *, void **))                    \
    X(rtLaunchSIMTKernelWithArgsArray,                                                             \
      (void *, struct grid, struct grid, size_t, void *, void *, void **))                         \
    X(rtLaunchSIMTKernelWithHostArgs,                                                              \
      (void *, struct grid, struct grid, size_t, void *, void *, void *, size_t, void *, size_t))  \
    X(rtsLaunchKernelWithConfig, (void *, uint32_t, void *, void *, void *, void *))               \
    X(rtsLaunchKernelWithDevArgs,                                                                  \
      (void *, uint32_t, void *, void *, const void *, uint32_t, void *))                          \
    X(rtsLaunchKernelWithHostArgs,                                                                 \
      (void *, uint32_t, void *, void *, void *, uint32_t, void *, uint32_t))                      \
    X(rtKernelLaunchEx, (void *, uint32_t, uint32_t, void *))                                      \
    X(rtKernelLaunchFwk, (const char *, void *, uint32_t, uint32_t, void *))                       \
    X(rtCpuKernelLaunchWithFlag,                                                                   \
      (const void *, const void *, uint32_t, const struct arguments *, void *, void *, uint32_t))  \
    X(rtAicpuKernelLaunchWithFlag,                                                                 \
      (const void *, uint32_t, const struct arguments *, void *, void *, uint32_t))                \
    X(rtAicpuKernelLaunchExWithArgs,                                                               \
      (uint32_t, const char *, uint32_t, const struct arguments *, void *, void *, uint32_t))      \
    X(rtFftsPlusTaskLaunch, (void *, void *))                                                      \
    X(rtFftsPlusTaskLaunchWithFlag, (void *, void *, uint32_t))                                    \
    X(rtStarsTaskLaunch, (const void *, uint32_t, void *))                                         \
    X(rtStarsTaskLaunchWithFlag, (const void *, uint32_t, void *, uint32_t))                       \
    X(rtMultipleTaskInfoLaunch, (const void *, void *))                                            \
    X(rtsLaunchRandomNumTask, (const void *, void *, void *))                                      \
    X(rtsLaunchReduceAsyncTask, (const void *, void *, void *))                                    \
    X(rtMultipleTaskInfoLaunchWithFlag, (const void *, void *, uint32_t))                          \
    X(rtFftsTaskLaunch, (void *, void *))                                                          \
    X(rtFftsTaskLaunchWithFlag, (void *, void *, uint32_t))                                        \
    X(rtLaunchDvppTask, (const void *, uint32_t, void *, void *))                                  \
    X(rtFusionLaunch, (void *, void *, void *))                                                    \
    X(rtCCULaunch, (void *, void *))                                                               \
    X(rtCpuKernelLaunch,                                                                           \
      (const void *, const void *, uint32_t, const void *, uint32_t, void *, void *))              \
    X(rtAicpuKernelLaunch, (const void *, uint32_t, const void *, uint32_t, void *, void *))       \
    X(rtGeneralCtrl, (uintptr_t *, uint32_t, uint32_t))                                            \
    X(rtModelCreate, (void **, uint32_t))                                                          \
    X(rtModelBindStream, (void *, void *, uint32_t))                                               \
    X(rtModelUnbindStream, (void *, void *))                                                       \
    X(rtModelLoadComplete, (void *))                                                               \
    X(rtModelExecuteAsync, (void *, void *, uint32_t))                                             \
    X(rtStreamBeginCaptureToModel, (void *, void *, int))

ACL(DECLARE)
RUNTIME(DECLARE)

static const char stub;
static uint64_t ns = 1000000; /* that a kernel takes */
static struct arguments arguments = {.args = &ns};
static void *stream, *other, *event, *notify, *counter, *file, *kernel, *code, *model;
static uint8_t *from, *to, *words, *entry; /* of the device */
static uint64_t task[16];                  /* of which only that there is one is looked at */
static void *pieces[] = {&ns};
static struct { uint32_t what, value[2]; } attribute = {0, {1, 0}};
static struct {
    void *attributes;
    uint32_t count;
} blocks = {&attribute, 1};
static const struct grid one = {1, 1, 1};
static const struct {
    const char *library, *kernel, *operator;
} names = {"none", "aliquot_spin_ns", "none"};

static void *must(int failed, void *made) {
    if (failed) {
        printf("not so: %d\n", failed);
        exit(1);
    }
    return made;
}
#define MADE(call, thing) must(call, &(thing))

static void prepare(void) {
    struct {
        uint32_t magic, version;
        const void *data;
        uint64_t length;
    } all = {0, 0, &stub, 1};
    void *memory, *streams[3];
    if (stream)
        return;
    MADE(aclrtSetDevice(0), memory);
    MADE(aclrtMallocAlign32(&memory, 4 * BYTES, 0), memory);
    from = memory;
    to = from + BYTES;
    words = to + BYTES;
    entry = words + BYTES;
    for (int i = 0; i < 3; i++)
        MADE(aclrtCreateStream(&streams[i]), streams);
    stream = streams[0];
    other = streams[1];
    MADE(aclrtCreateEvent(&event), event);
    MADE(rtNotifyCreate(0, &notify), notify);
    MADE(aclrtCntNotifyCreate(&counter, 0), counter);
    MADE(aclrtBinaryLoadFromFile("/bin/true", NULL, &file), file);
    MADE(aclrtBinaryGetFunction(file, "aliquot_spin_ns", &kernel), kernel);
    MADE(rtDevBinaryRegister(&all, &code), code);
    MADE(rtFunctionRegister(code, &stub, "aliquot_spin_ns", NULL, 0), code);
    /* A model of one kernel. */
    MADE(rtModelCreate(&model, 0), model);
    MADE(rtModelBindStream(model, streams[2], 0), model);
    MADE(rtKernelLaunchWithFlag(&stub, 1, &arguments, NULL, streams[2], 0), model);
    MADE(rtModelUnbindStream(model, streams[2]), model);
    MADE(rtModelLoadComplete(model), model);
}

/* -- What is to come of it ------------------------------------------------------------------------- */

static void *addresses(uint64_t first, uint64_t second) {
    uint64_t both[] = {first, second};
    return must(rtMemcpy(words, sizeof both, both, sizeof both, 1), words);
}

/* What copies begin with: the one is 7s, the other is not. */
static void fresh(void) {
    uint8_t sevens[BYTES], none[BYTES] = {0};
    memset(sevens, 7, sizeof sevens);
    MADE(rtMemcpy(from, BYTES, sevens, BYTES, 1), from);
    MADE(rtMemcpy(to, BYTES, none, BYTES, 1), to);
}
static int expect(int failed, uint8_t value, size_t bytes) {
    uint8_t back[BYTES];
    if (!failed)
        failed = rtStreamSynchronize(stream);
    if (!failed)
        failed = rtMemcpy(back, BYTES, to, BYTES, 2);
    for (size_t i = 0; i < BYTES && !failed; i++)
        failed = back[i] == (i < bytes ? value : 0) ? 0 : -1;
    return failed;
}
#define COPIED(...) (fresh(), expect(__VA_ARGS__, 7, BYTES))
#define FILLED(...) (fresh(), expect(__VA_ARGS__, 9, BYTES))
#define NINES 0x09090909u

/* As the device reads it. */
static void *description(void) {
    struct {
        uint32_t reserved[3], size;
        uint64_t from, to;
    } all = {.size = BYTES, .from = (uintptr_t)from, .to = (uintptr_t)to};
    return must(rtMemcpy(entry, sizeof all, &all, sizeof all, 1), entry);
}
static void *described(void) {
    size_t size = 0;
    MADE(aclrtGetMemcpyDescSize(WITHIN, &size), size);
    return must(size > BYTES ? -1 : aclrtSetMemcpyDesc(entry, WITHIN, from, to, BYTES, NULL),
                entry);
}
/* Words of the device's that hold the addresses. */
static void *to_at(void) { return addresses((uintptr_t)to, (uintptr_t)from); }
static const void *from_at(void) { return words + sizeof(uint64_t); }

/* Rows, which are copied one beside the other. */
static struct {
    void *to, *from;
    uint64_t to_pitch, from_pitch, width, height;
    uint32_t kind;
} rows;
static void *all_rows(void) {
    rows.to = to;
    rows.from = from;
    rows.to_pitch = rows.width = ROW;
    rows.from_pitch = 2 * ROW;
    rows.height = ROWS;
    rows.kind = BETWEEN;
    return &rows;
}
#define ROWS_COPIED(...) (fresh(), expect(__VA_ARGS__, 7, ROW * ROWS))

/* Two halves. */
static void *tos[2], *froms[2];
static size_t sizes[2] = {BYTES / 2, BYTES / 2}, places[1], failed_at;
static uint64_t attributes[4];
static void halves(void) {
    fresh();
    for (int i = 0; i < 2; i++) {
        tos[i] = to + i * BYTES / 2;
        froms[i] = from + i * BYTES / 2;
    }
}
#define HALVES tos, sizes, froms, sizes, 2, attributes, places, 1
#define HALVES_COPIED(...) (halves(), expect(__VA_ARGS__, 7, BYTES))

static void *launch_args(void) {
    static uint64_t room[64];
    static void *handle;
    if (!handle) {
        MADE(rtCreateLaunchArgs(sizeof ns, 0, 0, room, &handle), handle);
        MADE(rtAppendLaunchAddrInfo(handle, (void *)(uintptr_t)ns), handle);
    }
    return handle;
}
static void *kernel_args(void) {
    void *handle, *piece;
    MADE(aclrtKernelArgsInit(kernel, &handle), handle);
    MADE(aclrtKernelArgsAppend(handle, &ns, sizeof ns, &piece), piece);
    return must(aclrtKernelArgsFinalize(handle), handle);
}

/* What one function does for several: which, and the words of that one. */
static int control(uint32_t type, uint32_t count, uintptr_t *with) {
    return rtGeneralCtrl(with, count, type);
}
#define W(pointer) (uintptr_t)(pointer)
#define WORDS(...) (sizeof((uintptr_t[]){__VA_ARGS__}) / sizeof(uintptr_t))
#define CONTROL(type, ...) control(type, WORDS(__VA_ARGS__), (uintptr_t[]){__VA_ARGS__})

static void *recorded(void) { return must(aclrtRecordEvent(event, other), event); }
static void *told(void) { return must(rtNotifyRecord(notify, other), notify); }
static void *counted(void) {
    uint32_t how[] = {0, 5};
    return must(aclrtCntNotifyRecord(counter, other, how), counter);
}
static struct {
    uint32_t mode, value, timeout;
    uint8_t clears, rest[3];
} until = {1, 5, 0, 1, {0}};
static void *written(void) { return must(rtsValueWrite(words, 3, 0, other), words); }

static int calls;
static void call(void *data) { calls += data == &calls; }
static int called(void) {
    uint64_t self = (uint64_t)pthread_self();
    int before = calls, failed = rtSubscribeReport(self, stream);
    if (!failed)
        failed = rtsCallbackLaunch(call, &calls, stream, false);
    while (!failed && calls == before)
        failed = rtProcessReport(1000);
    return failed ? failed : rtUnSubscribeReport(self, stream);
}

static void *new_stream(void) {
    void *made;
    MADE(aclrtCreateStream(&made), made);
    return made;
}
static void *new_file(void) {
    void *made;
    MADE(aclrtBinaryLoadFromFile("/bin/true", NULL, &made), made);
    return made;
}
static void *new_code(void) {
    struct {
        uint32_t magic, version;
        const void *data;
        uint64_t length;
    } all = {0, 0, &stub, 1};
    void *made;
    MADE(rtDevBinaryRegister(&all, &made), made);
    return made;
}

static int tells_memory(void) {
    size_t left = 0, total = 0;
    int failed = rtsMemGetInfo(1, &left, &total);
    return failed ? failed : left && left <= total ? 0 : -1;
}

/* -- All of them ------------------------------------------------------------------------------------ */

#define PLACE ((struct place){1, 0})
static struct place there = {1, 0};
static const void *spots[1];

#define FORMS(X)                                                                                   \
    X(rtMemcpyAsyncEx, COPIED(rtMemcpyAsyncEx(to, BYTES, from, BYTES, BETWEEN, stream, NULL)))     \
    X(rtMemcpyAsyncWithCfg,                                                                        \
      COPIED(rtMemcpyAsyncWithCfg(to, BYTES, from, BYTES, BETWEEN, stream, 0)))                    \
    X(rtMemcpyAsyncWithCfgV2,                                                                      \
      COPIED(rtMemcpyAsyncWithCfgV2(to, BYTES, from, BYTES, BETWEEN, stream, NULL)))               \
    X(aclrtMemcpyAsyncWithCondition,                                                               \
      COPIED(aclrtMemcpyAsyncWithCondition(to, BYTES, from, BYTES, BETWEEN, stream)))              \
    X(rtMemcpyAsyncPtr, COPIED(rtMemcpyAsyncPtr(description(), BYTES, BYTES, BETWEEN, stream, 0))) \
    X(rtMemcpyAsyncPtrV2,                                                                          \
      COPIED(rtMemcpyAsyncPtrV2(description(), BYTES, BYTES, BETWEEN, stream, NULL)))              \
    X(rtMemcpyD2DAddrAsync,                                                                        \
      COPIED(rtMemcpyD2DAddrAsync(to_at(), BYTES, 0, from_at(), BYTES, 0, stream)))                \
    X(rtMemcpyAsyncWithOffset,                                                                     \
      COPIED(rtMemcpyAsyncWithOffset(to_at(), BYTES, 0, (const void **)(uintptr_t)from_at(),       \
                                     BYTES, 0, WITHIN, stream)))                                   \
    X(aclrtMemcpyAsyncWithOffset,                                                                  \
      COPIED(aclrtMemcpyAsyncWithOffset(to_at(), BYTES, 0, (const void **)(uintptr_t)from_at(),    \
                                        BYTES, 0, WITHIN, stream)))                                \
    X(rtsMemcpyAsyncWithDesc, COPIED(rtsMemcpyAsyncWithDesc(described(), WITHIN, NULL, stream)))   \
    X(aclrtMemcpyAsyncWithDesc, COPIED(aclrtMemcpyAsyncWithDesc(described(), WITHIN, stream)))     \
    X(rtsMemcpyBatchAsync, HALVES_COPIED(rtsMemcpyBatchAsync(HALVES, &failed_at, stream)))         \
    X(aclrtMemcpyBatchAsync, HALVES_COPIED(aclrtMemcpyBatchAsync(HALVES, &failed_at, stream)))     \
    X(aclrtMemcpyBatchAsyncV2, HALVES_COPIED(aclrtMemcpyBatchAsyncV2(HALVES, stream)))             \
    X(rtMemcpy2dAsync,                                                                             \
      ROWS_COPIED(rtMemcpy2dAsync(to, ROW, from, 2 * ROW, ROW, ROWS, BETWEEN, stream)))            \
    X(rtsMemcpy2DAsync, ROWS_COPIED(rtsMemcpy2DAsync(all_rows(), NULL, stream)))                   \
    X(aclrtMemcpy2dAsync,                                                                          \
      ROWS_COPIED(aclrtMemcpy2dAsync(to, ROW, from, 2 * ROW, ROW, ROWS, BETWEEN, stream)))         \
    X(aclrtMemManagedPrefetchAsync, aclrtMemManagedPrefetchAsync(from, BYTES, PLACE, 0, stream))   \
    X(aclrtMemManagedPrefetchBatchAsync,                                                           \
      (spots[0] = from,                                                                            \
       aclrtMemManagedPrefetchBatchAsync(spots, sizes, 1, &there, places, 1, 0, stream)))          \
    X(rtMemset, FILLED(rtMemset(to, BYTES, 9, BYTES)))                                             \
    X(rtMemsetAsync, FILLED(rtMemsetAsync(to, BYTES, 9, BYTES, stream)))                           \
    X(rtsMemset, FILLED(rtsMemset(to, BYTES, 9, BYTES)))                                           \
    X(rtsMemsetAsync, FILLED(rtsMemsetAsync(to, BYTES, 9, BYTES, stream)))                         \
    X(rtMemsetD32, FILLED(rtMemsetD32(to, BYTES, NINES, BYTES / 4)))                               \
    X(rtMemsetD32Async, FILLED(rtMemsetD32Async(to, BYTES, NINES, BYTES / 4, stream)))             \
    X(aclrtMemsetD32, FILLED(aclrtMemsetD32(to, BYTES, NINES, BYTES / 4)))                         \
    X(aclrtMemsetD32Async, FILLED(aclrtMemsetD32Async(to, BYTES, NINES, BYTES / 4, stream)))       \
    X(rtReduceAsync, rtReduceAsync(to, BYTES, from, BYTES, SUM, 0, stream))                        \
    X(rtReduceAsyncV2, rtReduceAsyncV2(to, BYTES, from, BYTES, SUM, 0, stream, words))             \
    X(rtReduceAsyncWithCfg, rtReduceAsyncWithCfg(to, BYTES, from, BYTES, SUM, 0, stream, 0))       \
    X(rtReduceAsyncWithCfgV2,                                                                      \
      rtReduceAsyncWithCfgV2(to, BYTES, from, BYTES, SUM, 0, stream, NULL))                        \
    X(aclrtReduceAsync, aclrtReduceAsync(to, from, BYTES / 4, SUM, 0, stream, NULL))               \
    X(aclrtRandomNumAsync, aclrtRandomNumAsync(task, stream, NULL))                                \
    X(rtsLaunchRandomNumTask, rtsLaunchRandomNumTask(task, stream, NULL))                          \
    X(rtsLaunchReduceAsyncTask, rtsLaunchReduceAsyncTask(task, stream, NULL))                      \
    X(rtKernelLaunchWithFlag, rtKernelLaunchWithFlag(&stub, 1, &arguments, NULL, stream, 0))       \
    X(rtKernelLaunchWithHandle,                                                                    \
      rtKernelLaunchWithHandle(code, 1, 1, &arguments, NULL, stream, NULL))                        \
    X(rtVectorCoreKernelLaunch,                                                                    \
      rtVectorCoreKernelLaunch(&stub, 1, &arguments, NULL, stream, 0, NULL))                       \
    X(rtVectorCoreKernelLaunchWithHandle,                                                          \
      rtVectorCoreKernelLaunchWithHandle(code, 1, 1, &arguments, NULL, stream, NULL))              \
    X(rtLaunchKernelByFuncHandle, rtLaunchKernelByFuncHandle(kernel, 1, launch_args(), stream))    \
    X(rtLaunchKernelByFuncHandleV2,                                                                \
      rtLaunchKernelByFuncHandleV2(kernel, 1, launch_args(), stream, NULL))                        \
    X(rtLaunchKernelByFuncHandleV3,                                                                \
      rtLaunchKernelByFuncHandleV3(kernel, 1, &arguments, stream, NULL))                           \
    X(rtLaunchKernelExByFuncHandle,                                                                \
      rtLaunchKernelExByFuncHandle(kernel, &blocks, launch_args(), stream))                        \
    X(rtLaunchKernelWithArgsArray, rtLaunchKernelWithArgsArray(kernel, 1, stream, NULL, pieces))   \
    X(aclrtLaunchKernelWithArgsArray,                                                              \
      aclrtLaunchKernelWithArgsArray(kernel, 1, stream, NULL, pieces))                             \
    X(rtLaunchSIMTKernelWithArgsArray,                                                             \
      rtLaunchSIMTKernelWithArgsArray(kernel, one, one, 0, stream, NULL, pieces))                  \
    X(rtLaunchSIMTKernelWithHostArgs,                                                              \
      rtLaunchSIMTKernelWithHostArgs(kernel, one, one, 0, stream, NULL, &ns, sizeof ns, NULL, 0))  \
    X(rtsLaunchKernelWithConfig,                                                                   \
      rtsLaunchKernelWithConfig(kernel, 1, stream, NULL, kernel_args(), NULL))                     \
    X(aclrtLaunchKernelWithConfig,                                                                 \
      aclrtLaunchKernelWithConfig(kernel, 1, stream, NULL, kernel_args(), NULL))                   \
    X(rtsLaunchKernelWithDevArgs,                                                                  \
      rtsLaunchKernelWithDevArgs(kernel, 1, stream, NULL, &ns, sizeof ns, NULL))                   \
    X(rtsLaunchKernelWithHostArgs,                                                                 \
      rtsLaunchKernelWithHostArgs(kernel, 1, stream, NULL, &ns, sizeof ns, NULL, 0))               \
    X(rtKernelLaunchEx, rtKernelLaunchEx(task, sizeof task, 0, stream))                            \
    X(rtKernelLaunchFwk, rtKernelLaunchFwk(names.kernel, &ns, sizeof ns, 0, stream))               \
    X(rtCpuKernelLaunchWithFlag,                                                                   \
      rtCpuKernelLaunchWithFlag(names.library, names.kernel, 1, &arguments, NULL, stream, 0))      \
    X(rtAicpuKernelLaunchWithFlag,                                                                 \
      rtAicpuKernelLaunchWithFlag(&names, 1, &arguments, NULL, stream, 0))                         \
    X(rtAicpuKernelLaunchExWithArgs,                                                               \
      rtAicpuKernelLaunchExWithArgs(2, names.kernel, 1, &arguments, NULL, stream, 0))              \
    X(rtFftsPlusTaskLaunch, rtFftsPlusTaskLaunch(task, stream))                                    \
    X(rtFftsPlusTaskLaunchWithFlag, rtFftsPlusTaskLaunchWithFlag(task, stream, 0))                 \
    X(rtStarsTaskLaunch, rtStarsTaskLaunch(task, 64, stream))                                      \
    X(rtStarsTaskLaunchWithFlag, rtStarsTaskLaunchWithFlag(task, 64, stream, 0))                   \
    X(rtMultipleTaskInfoLaunch, rtMultipleTaskInfoLaunch(task, stream))                            \
    X(rtMultipleTaskInfoLaunchWithFlag, rtMultipleTaskInfoLaunchWithFlag(task, stream, 0))         \
    X(rtFftsTaskLaunch, rtFftsTaskLaunch(task, stream))                                            \
    X(rtFftsTaskLaunchWithFlag, rtFftsTaskLaunchWithFlag(task, stream, 0))                         \
    X(rtLaunchDvppTask, rtLaunchDvppTask(task, 64, stream, NULL))                                  \
    X(rtFusionLaunch, rtFusionLaunch(task, stream, task))                                          \
    X(rtCCULaunch, rtCCULaunch(task, stream))                                                      \
    X(rtCpuKernelLaunch,                                                                           \
      rtCpuKernelLaunch(names.library, names.kernel, 1, &ns, sizeof ns, NULL, stream))             \
    X(rtAicpuKernelLaunch, rtAicpuKernelLaunch(&names, 1, &ns, sizeof ns, NULL, stream))           \
    X(rtGeneralCtrl_reduce, CONTROL(1, W(to), BYTES, W(from), BYTES, SUM, 0, W(stream), 0))        \
    X(rtGeneralCtrl_ffts_flag, CONTROL(2, W(task), W(stream), 0))                                  \
    X(rtGeneralCtrl_ffts, CONTROL(3, W(task), W(stream)))                                          \
    X(rtGeneralCtrl_stars, CONTROL(6, W(task), 64, W(stream)))                                     \
    X(rtGeneralCtrl_stars_flag, CONTROL(11, W(task), 64, W(stream), 0))                            \
    X(rtGeneralCtrl_multiple, CONTROL(13, W(task), W(stream)))                                     \
    X(rtGeneralCtrl_multiple_flag, CONTROL(16, W(task), W(stream), 0))                             \
    X(rtGeneralCtrl_copy, COPIED(CONTROL(0, W(to), BYTES, W(from), BYTES, BETWEEN, W(stream), 0))) \
    X(rtModelExecuteAsync, rtModelExecuteAsync(model, stream, 0))                                  \
    X(rtStreamBeginCaptureToModel, rtStreamBeginCaptureToModel(stream, model, 2))                  \
    X(aclmdlRICaptureToModelRIBegin, aclmdlRICaptureToModelRIBegin(stream, model, 2))              \
    X(rtDeviceSynchronize, rtDeviceSynchronize())                                                  \
    X(rtDeviceSynchronizeWithTimeout, rtDeviceSynchronizeWithTimeout(-1))                          \
    X(aclrtSynchronizeDeviceWithTimeout, aclrtSynchronizeDeviceWithTimeout(-1))                    \
    X(rtStreamSynchronizeWithTimeout, rtStreamSynchronizeWithTimeout(stream, -1))                  \
    X(aclrtSynchronizeStreamWithTimeout, aclrtSynchronizeStreamWithTimeout(stream, -1))            \
    X(rtEventSynchronize, rtEventSynchronize(recorded()))                                          \
    X(rtEventSynchronizeWithTimeout, rtEventSynchronizeWithTimeout(recorded(), -1))                \
    X(rtsEventSynchronize, rtsEventSynchronize(recorded(), -1))                                    \
    X(aclrtSynchronizeEvent, aclrtSynchronizeEvent(recorded()))                                    \
    X(aclrtSynchronizeEventWithTimeout, aclrtSynchronizeEventWithTimeout(recorded(), -1))          \
    X(rtStreamWaitEvent, rtStreamWaitEvent(stream, recorded()))                                    \
    X(rtStreamWaitEventWithTimeout, rtStreamWaitEventWithTimeout(stream, recorded(), 0))           \
    X(rtsEventWait, rtsEventWait(stream, recorded(), 0))                                           \
    X(aclrtStreamWaitEventWithTimeout, aclrtStreamWaitEventWithTimeout(stream, recorded(), -1))    \
    X(rtNotifyWaitWithTimeOut, rtNotifyWaitWithTimeOut(told(), stream, 0))                         \
    X(rtCntNotifyWaitWithTimeout, rtCntNotifyWaitWithTimeout(counted(), stream, &until))           \
    X(rtsCntNotifyWaitWithTimeout, rtsCntNotifyWaitWithTimeout(counted(), stream, &until))         \
    X(aclrtCntNotifyWaitWithTimeout, aclrtCntNotifyWaitWithTimeout(counted(), stream, &until))     \
    X(rtsValueWait, rtsValueWait(written(), 3, 1, stream))                                         \
    X(rtsCallbackLaunch, called())                                                                 \
    X(rtStreamDestroy, rtStreamDestroy(new_stream()))                                              \
    X(rtStreamDestroyForce, rtStreamDestroyForce(new_stream()))                                    \
    X(aclrtDestroyStreamForce, aclrtDestroyStreamForce(new_stream()))                              \
    X(rtBinaryUnLoad, rtBinaryUnLoad(new_file()))                                                  \
    X(aclrtBinaryUnLoad, aclrtBinaryUnLoad(new_file()))                                            \
    X(rtDevBinaryUnRegister, rtDevBinaryUnRegister(new_code()))                                    \
    X(rtsMemGetInfo, tells_memory())

/* A device's and a context's beginnings, and ends. */
static void *context;
#define BEGINNINGS(X)                                                                              \
    X(rtSetDeviceEx, rtSetDeviceEx(0))                                                             \
    X(rtSetDeviceWithFlags, rtSetDeviceWithFlags(0, 0))                                            \
    X(rtSetDeviceWithoutTsd, rtSetDeviceWithoutTsd(0))                                             \
    X(rtsSetDevice, rtsSetDevice(0))                                                               \
    X(aclrtSetDeviceWithoutTsdVXX, aclrtSetDeviceWithoutTsdVXX(0))                                 \
    X(rtCtxCreate, rtCtxCreate(&context, 0, 0))                                                    \
    X(rtCtxCreateEx, rtCtxCreateEx(&context, 0, 0))                                                \
    X(rtsCtxCreate, rtsCtxCreate(&context, 0, 0))
#define ENDS(X)                                                                                    \
    X(rtDeviceReset, rtDeviceReset(0))                                                             \
    X(rtDeviceResetForce, rtDeviceResetForce(0))                                                   \
    X(rtDeviceResetWithoutTsd, rtDeviceResetWithoutTsd(0))                                         \
    X(rtsResetDevice, rtsResetDevice(0))                                                           \
    X(rtsDeviceResetForce, rtsDeviceResetForce(0))                                                 \
    X(aclrtResetDeviceWithoutTsdVXX, aclrtResetDeviceWithoutTsdVXX(0))                             \
    X(rtCtxDestroy, rtCtxDestroy(context))                                                         \
    X(rtCtxDestroyEx, rtCtxDestroyEx(context))                                                     \
    X(rtsCtxDestroy, rtsCtxDestroy(context))

#define NAME(name, ...) printf("%s ", #name);
#define DO(name, ...)                                                                              \
    if (is(how, #name)) {                                                                          \
        answer(__VA_ARGS__);                                                                       \
        return;                                                                                    \
    }

void obey(const char *what, const char *how, const char *a, const char *b) {
    (void)a;
    (void)b;
    if (is(what, "names")) {
        if (is(how, "forms")) {
            FORMS(NAME)
        } else if (is(how, "beginnings")) {
            BEGINNINGS(NAME)
        } else {
            ENDS(NAME)
        }
        printf("\n");
    } else if (is(what, "do")) {
        prepare();
        FORMS(DO)
        printf("not so: %s\n", how);
    } else if (is(what, "begin")) {
        BEGINNINGS(DO)
        printf("not so: %s\n", how);
    } else if (is(what, "end")) {
        ENDS(DO)
        printf("not so: %s\n", how);
    } else if (is(what, "sync")) {
        answer(rtDeviceSynchronize());
    } else {
        printf("not so: %s\n", what);
    }
}

PROGRAM
