/* What runs on the AI cores: kernels, tasks, models, and memsets. */
#include "shim.h"

#include <pthread.h>

/* Names of what is launched: a kernel by its function and how many blocks it has. */
static inline uint64_t kernel(const void *function, uint64_t blocks) {
    return (uintptr_t)function + (aliquot_class(blocks) << 48);
}
/* One of those that a handle stands for. (Keys are dense, addresses are multiples of 8.) */
static inline uint64_t keyed(const void *handle, uint64_t key, uint64_t blocks) {
    return kernel((const void *)((uintptr_t)handle + key * 0x9e3779b97f4aull), blocks);
}
/* A task that only its size tells from others, by the function that takes it. */
static inline uint64_t task(unsigned function, uint64_t size) {
    return function + (aliquot_class(size) << 16);
}

#define LAUNCH(...) LAUNCHED(aliquot_gone_on, __VA_ARGS__)
/* The runtime's call comes back when it is done. */
#define LAUNCH_AND_WAIT(...) LAUNCHED(aliquot_gone_by, __VA_ARGS__)
#define LAUNCHED(gone, symbol, what, stream, parameters, arguments)                                \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        rtStream_t lane = stream; /* which is found out once */                                    \
        struct aliquot_gated gated;                                                                \
        bool held = __builtin_expect(!aliquot_passes(what, lane), 0);                              \
        if (held)                                                                                  \
            gated = aliquot_hold_back(what, lane);                                                 \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        if (held)                                                                                  \
            gone(&gated, result == RT_OK);                                                         \
        return result;                                                                             \
    }

/* -- Kernels that are registered by an address --------------------------------------------------------- */

LAUNCH(rtKernelLaunch, kernel(stub, blocks), stream,
       (const void *stub, uint32_t blocks, void *args, uint32_t size, void *shared,
        rtStream_t stream),
       (stub, blocks, args, size, shared, stream))
LAUNCH(rtKernelLaunchWithFlag, kernel(stub, blocks), stream,
       (const void *stub, uint32_t blocks, rtArgsEx_t *args, void *shared, rtStream_t stream,
        uint32_t flags),
       (stub, blocks, args, shared, stream, flags))
LAUNCH(rtKernelLaunchWithFlagV2, kernel(stub, blocks), stream,
       (const void *stub, uint32_t blocks, rtArgsEx_t *args, void *shared, rtStream_t stream,
        uint32_t flags, const void *config),
       (stub, blocks, args, shared, stream, flags, config))
LAUNCH(rtVectorCoreKernelLaunch, kernel(stub, blocks), stream,
       (const void *stub, uint32_t blocks, rtArgsEx_t *args, void *shared, rtStream_t stream,
        uint32_t flags, const void *config),
       (stub, blocks, args, shared, stream, flags, config))

/* In two steps: the first names blocks and stream, for the thread's next launch. */
static struct aliquot_table first_steps; /* by thread: the stream; blocks are not told apart */

rtError_t aliquot_rtConfigureCall(uint32_t blocks, void *shared, rtStream_t stream) {
    if (aliquot_is_inner())
        return REAL(rtConfigureCall)(blocks, shared, stream);
    rtError_t result;
    ALIQUOT_CALL(result, rtConfigureCall, (blocks, shared, stream));
    if (result == RT_OK && aliquot_ready() == RT_OK)
        aliquot_table_put(&first_steps, (uintptr_t)pthread_self(), (uintptr_t)stream);
    return result;
}

static rtStream_t first_step(void) {
    uint64_t stream = 0;
    if (aliquot_prepared())
        aliquot_table_take(&first_steps, (uintptr_t)pthread_self(), &stream);
    return (rtStream_t)(uintptr_t)stream;
}

LAUNCH(rtLaunch, kernel(stub, 0), first_step(), (const void *stub), (stub))

/* -- By a handle ------------------------------------------------------------------------------------------ */

LAUNCH(rtKernelLaunchWithHandle, keyed(handle, key, blocks), stream,
       (void *handle, const uint64_t key, uint32_t blocks, rtArgsEx_t *args, void *shared,
        rtStream_t stream, const void *info),
       (handle, key, blocks, args, shared, stream, info))
LAUNCH(rtKernelLaunchWithHandleV2, keyed(handle, key, blocks), stream,
       (void *handle, const uint64_t key, uint32_t blocks, rtArgsEx_t *args, void *shared,
        rtStream_t stream, const void *config),
       (handle, key, blocks, args, shared, stream, config))
LAUNCH(rtVectorCoreKernelLaunchWithHandle, keyed(handle, key, blocks), stream,
       (void *handle, const uint64_t key, uint32_t blocks, rtArgsEx_t *args, void *shared,
        rtStream_t stream, const void *config),
       (handle, key, blocks, args, shared, stream, config))
LAUNCH(rtLaunchKernelByFuncHandle, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, rtLaunchArgsHandle args, rtStream_t stream),
       (function, blocks, args, stream))
LAUNCH(rtLaunchKernelByFuncHandleV2, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, rtLaunchArgsHandle args, rtStream_t stream,
        const void *config),
       (function, blocks, args, stream, config))
LAUNCH(rtLaunchKernelByFuncHandleV3, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, const rtArgsEx_t *args, rtStream_t stream,
        const void *config),
       (function, blocks, args, stream, config))
LAUNCH(rtLaunchKernelWithArgsArray, kernel(function, blocks), stream,
       (void *function, uint32_t blocks, rtStream_t stream, void *config, void **args),
       (function, blocks, stream, config, args))
LAUNCH(rtsLaunchKernelWithConfig, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, rtStream_t stream, void *config, void *args,
        void *reserve),
       (function, blocks, stream, config, args, reserve))
LAUNCH(rtsLaunchKernelWithDevArgs, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, rtStream_t stream, void *config, const void *args,
        uint32_t size, void *reserve),
       (function, blocks, stream, config, args, size, reserve))
LAUNCH(rtsLaunchKernelWithHostArgs, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, rtStream_t stream, void *config, void *args,
        uint32_t size, void *holders, uint32_t count),
       (function, blocks, stream, config, args, size, holders, count))
LAUNCH(aclrtLaunchKernelImpl, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, const void *args, size_t size, rtStream_t stream),
       (function, blocks, args, size, stream))
LAUNCH(aclrtLaunchKernelV2Impl, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, const void *args, size_t size, void *config,
        rtStream_t stream),
       (function, blocks, args, size, config, stream))
LAUNCH(aclrtLaunchKernelWithConfigImpl, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, rtStream_t stream, void *config, void *args,
        void *reserve),
       (function, blocks, stream, config, args, reserve))
LAUNCH(aclrtLaunchKernelWithHostArgsImpl, kernel(function, blocks), stream,
       (rtFuncHandle function, uint32_t blocks, rtStream_t stream, void *config, void *args,
        size_t size, void *holders, size_t count),
       (function, blocks, stream, config, args, size, holders, count))

LAUNCH(aclrtLaunchKernelWithArgsArrayImpl, kernel(function, blocks), stream,
       (void *function, uint32_t blocks, rtStream_t stream, void *config, void **args),
       (function, blocks, stream, config, args))
LAUNCH(rtLaunchKernelExByFuncHandle, kernel(function, 0), stream,
       (rtFuncHandle function, void *config, rtLaunchArgsHandle args, rtStream_t stream),
       (function, config, args, stream))

static inline uint64_t threads(rtDim3 grid, rtDim3 block) {
    return (uint64_t)grid.x * grid.y * grid.z * ((uint64_t)block.x * block.y * block.z);
}
LAUNCH(rtLaunchSIMTKernelWithArgsArray, kernel(function, threads(grid, block)), stream,
       (void *function, rtDim3 grid, rtDim3 block, size_t shared, rtStream_t stream, void *config,
        void **args),
       (function, grid, block, shared, stream, config, args))
LAUNCH(rtLaunchSIMTKernelWithHostArgs, kernel(function, threads(grid, block)), stream,
       (void *function, rtDim3 grid, rtDim3 block, size_t shared, rtStream_t stream, void *config,
        void *args, size_t size, void *holders, size_t count),
       (function, grid, block, shared, stream, config, args, size, holders, count))

/* -- On the AI CPUs ------------------------------------------------------------------------------------------ */

LAUNCH(rtKernelLaunchEx, task(1, size), stream,
       (void *args, uint32_t size, uint32_t flags, rtStream_t stream), (args, size, flags, stream))
LAUNCH(rtKernelLaunchFwk, kernel(name, size), stream,
       (const char *name, void *args, uint32_t size, uint32_t flags, rtStream_t stream),
       (name, args, size, flags, stream))
LAUNCH(rtCpuKernelLaunchWithFlag, kernel(name, blocks), stream,
       (const void *library, const void *name, uint32_t blocks, const rtArgsEx_t *args,
        void *shared, rtStream_t stream, uint32_t flags),
       (library, name, blocks, args, shared, stream, flags))
LAUNCH(rtAicpuKernelLaunchWithFlag, kernel(names, blocks), stream,
       (const void *names, uint32_t blocks, const rtArgsEx_t *args, void *shared, rtStream_t stream,
        uint32_t flags),
       (names, blocks, args, shared, stream, flags))
LAUNCH(rtCpuKernelLaunch, kernel(name, blocks), stream,
       (const void *library, const void *name, uint32_t blocks, const void *args, uint32_t size,
        void *shared, rtStream_t stream),
       (library, name, blocks, args, size, shared, stream))
LAUNCH(rtAicpuKernelLaunch, kernel(names, blocks), stream,
       (const void *names, uint32_t blocks, const void *args, uint32_t size, void *shared,
        rtStream_t stream),
       (names, blocks, args, size, shared, stream))
LAUNCH(rtAicpuKernelLaunchExWithArgs, keyed(name, type, blocks), stream,
       (const uint32_t type, const char *const name, const uint32_t blocks, const void *args,
        void *shared, const rtStream_t stream, const uint32_t flags),
       (type, name, blocks, args, shared, stream, flags))

/* -- Tasks and models ---------------------------------------------------------------------------------------- */

LAUNCH(rtFftsPlusTaskLaunch, task(2, 0), stream, (void *entry, rtStream_t stream), (entry, stream))
LAUNCH(rtFftsPlusTaskLaunchWithFlag, task(2, 0), stream,
       (void *entry, rtStream_t stream, uint32_t flag), (entry, stream, flag))
LAUNCH(rtFftsTaskLaunch, task(7, 0), stream, (void *entry, rtStream_t stream), (entry, stream))
LAUNCH(rtFftsTaskLaunchWithFlag, task(7, 0), stream,
       (void *entry, rtStream_t stream, uint32_t flag), (entry, stream, flag))
LAUNCH(rtStarsTaskLaunch, task(3, size), stream,
       (const void *entry, uint32_t size, rtStream_t stream), (entry, size, stream))
LAUNCH(rtStarsTaskLaunchWithFlag, task(3, size), stream,
       (const void *entry, uint32_t size, rtStream_t stream, uint32_t flag),
       (entry, size, stream, flag))
LAUNCH(rtMultipleTaskInfoLaunch, task(4, 0), stream, (const void *entries, rtStream_t stream),
       (entries, stream))
LAUNCH(rtMultipleTaskInfoLaunchWithFlag, task(4, 0), stream,
       (const void *entries, rtStream_t stream, const uint32_t flag), (entries, stream, flag))
LAUNCH(rtLaunchDvppTask, task(8, size), stream,
       (const void *entry, uint32_t size, rtStream_t stream, void *config),
       (entry, size, stream, config))
LAUNCH(rtFusionLaunch, task(9, 0), stream, (void *entry, const rtStream_t stream, void *args),
       (entry, stream, args))
LAUNCH(rtsLaunchRandomNumTask, task(5, 0), stream,
       (const void *entry, const rtStream_t stream, void *reserve), (entry, stream, reserve))
LAUNCH(rtsLaunchReduceAsyncTask, task(6, 0), stream,
       (const void *entry, const rtStream_t stream, void *reserve), (entry, stream, reserve))
LAUNCH(aclrtRandomNumAsyncImpl, task(5, 0), stream,
       (const void *entry, const rtStream_t stream, void *reserve), (entry, stream, reserve))
LAUNCH(aclrtReduceAsyncImpl, task(6, count), stream,
       (void *to, const void *from, uint64_t count, uint32_t kind, uint32_t type, rtStream_t stream,
        void *reserve),
       (to, from, count, kind, type, stream, reserve))

#define REDUCE_PARAMETERS                                                                          \
    void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind, uint32_t type,        \
        rtStream_t stream
LAUNCH(rtReduceAsync, task(6, size), stream, (REDUCE_PARAMETERS),
       (to, room, from, size, kind, type, stream))
LAUNCH(rtReduceAsyncWithCfg, task(6, size), stream, (REDUCE_PARAMETERS, uint32_t config),
       (to, room, from, size, kind, type, stream, config))
LAUNCH(rtReduceAsyncWithCfgV2, task(6, size), stream, (REDUCE_PARAMETERS, const void *config),
       (to, room, from, size, kind, type, stream, config))
LAUNCH(rtReduceAsyncV2, task(6, size), stream, (REDUCE_PARAMETERS, void *overflow),
       (to, room, from, size, kind, type, stream, overflow))

/* One function for several, by numbers: what each of those that launch has of words, where its stream is among
 * them, which task that is, and where its size is (0: it has none). */
static const struct control {
    uint8_t words, stream, task, size;
} controls[] = {
    [RT_CONTROL_REDUCE] = {8, 6, 6, 3},        [RT_CONTROL_FFTS_FLAG] = {3, 1, 2, 0},
    [RT_CONTROL_FFTS] = {2, 1, 2, 0},          [RT_CONTROL_STARS] = {3, 2, 3, 1},
    [RT_CONTROL_STARS_FLAG] = {4, 2, 3, 1},    [RT_CONTROL_MULTIPLE] = {2, 1, 4, 0},
    [RT_CONTROL_MULTIPLE_FLAG] = {3, 1, 4, 0},
};

static rtError_t control(uintptr_t *words, uint32_t count, uint32_t type) {
    rtError_t result;
    ALIQUOT_CALL(result, rtGeneralCtrl, (words, count, type));
    return result;
}

rtError_t aliquot_rtGeneralCtrl(uintptr_t *words, uint32_t count, uint32_t type) {
    if (aliquot_is_inner())
        return REAL(rtGeneralCtrl)(words, count, type);
    const struct control *of = type < sizeof controls / sizeof *controls ? &controls[type] : NULL;
    if (type == RT_CONTROL_COPY)
        aliquot_note_aside();
    /* (With another number of words the runtime refuses it.) */
    if (!words || !of || !of->words || of->words != count)
        return control(words, count, type);
    rtStream_t stream = (rtStream_t)words[of->stream];
    uint64_t what = task(of->task, of->size ? words[of->size] : 0);
    if (__builtin_expect(aliquot_passes(what, stream), 1))
        return control(words, count, type);
    struct aliquot_gated gated = aliquot_hold_back(what, stream);
    rtError_t result = control(words, count, type);
    aliquot_gone_on(&gated, result == RT_OK);
    return result;
}

LAUNCH(rtModelExecute, (uintptr_t)model, stream,
       (rtModel_t model, rtStream_t stream, uint32_t flag), (model, stream, flag))
LAUNCH(rtModelExecuteAsync, (uintptr_t)model, stream,
       (rtModel_t model, rtStream_t stream, uint32_t flag), (model, stream, flag))
LAUNCH_AND_WAIT(rtModelExecuteSync, (uintptr_t)model, stream,
                (rtModel_t model, rtStream_t stream, uint32_t flag, int32_t timeout),
                (model, stream, flag, timeout))
LAUNCH_AND_WAIT(rtsModelExecute, (uintptr_t)model, NULL, (rtModel_t model, int32_t timeout),
                (model, timeout))
LAUNCH(rtsModelExecuteAsync, (uintptr_t)model, stream, (rtModel_t model, rtStream_t stream),
       (model, stream))
LAUNCH_AND_WAIT(aclmdlRIExecuteImpl, (uintptr_t)model, NULL, (rtModel_t model, int32_t timeout),
                (model, timeout))
LAUNCH(aclmdlRIExecuteAsyncImpl, (uintptr_t)model, stream, (rtModel_t model, rtStream_t stream),
       (model, stream))

/* -- Memsets ---------------------------------------------------------------------------------------------------- */

#define FILL aliquot_operation(ALIQUOT_FILL, size)
LAUNCH_AND_WAIT(rtMemset, FILL, NULL, (void *pointer, uint64_t room, uint32_t value, uint64_t size),
                (pointer, room, value, size))
LAUNCH(rtMemsetAsync, FILL, stream,
       (void *pointer, uint64_t room, uint32_t value, uint64_t size, rtStream_t stream),
       (pointer, room, value, size, stream))
LAUNCH_AND_WAIT(rtsMemset, FILL, NULL,
                (void *pointer, uint64_t room, uint32_t value, uint64_t size),
                (pointer, room, value, size))
LAUNCH(rtsMemsetAsync, FILL, stream,
       (void *pointer, uint64_t room, uint32_t value, uint64_t size, rtStream_t stream),
       (pointer, room, value, size, stream))
LAUNCH_AND_WAIT(aclrtMemsetImpl, FILL, NULL,
                (void *pointer, size_t room, int32_t value, size_t size),
                (pointer, room, value, size))
LAUNCH(aclrtMemsetAsyncImpl, FILL, stream,
       (void *pointer, size_t room, int32_t value, size_t size, rtStream_t stream),
       (pointer, room, value, size, stream))

/* Words of 32 bits, which are counted. */
#define FILL_WORDS aliquot_operation(ALIQUOT_FILL, 4 * (uint64_t)count)
LAUNCH_AND_WAIT(rtMemsetD32, FILL_WORDS, NULL,
                (void *pointer, uint64_t room, uint32_t value, uint64_t count),
                (pointer, room, value, count))
LAUNCH(rtMemsetD32Async, FILL_WORDS, stream,
       (void *pointer, uint64_t room, uint32_t value, uint64_t count, rtStream_t stream),
       (pointer, room, value, count, stream))
LAUNCH_AND_WAIT(aclrtMemsetD32Impl, FILL_WORDS, NULL,
                (void *pointer, size_t room, uint32_t value, size_t count),
                (pointer, room, value, count))
LAUNCH(aclrtMemsetD32AsyncImpl, FILL_WORDS, stream,
       (void *pointer, size_t room, uint32_t value, size_t count, rtStream_t stream),
       (pointer, room, value, count, stream))

void aliquot_launch_forget(void) { aliquot_table_reset(&first_steps); }
