/* Queues, what is put into them beside kernels and copies, and notifiers. */
#include "cndrv_sim.h"

#include "../event.h"
#include "../exec_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- Queues -------------------------------------------------------------------------------------- */

CNresult cnCreateQueueWithPriority(CNqueue *queue, unsigned int flags, int priority) {
    struct sim_context *context;
    CUstream made;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && (!queue || flags))
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuStreamCreateWithPriority(&made, CU_STREAM_NON_BLOCKING, priority));
    if (result == CN_SUCCESS)
        *queue = (CNqueue)(void *)made;
    return result;
}

CNresult cnCreateQueue(CNqueue *queue, unsigned int flags) {
    return cnCreateQueueWithPriority(queue, flags, 0);
}

/* A call in the current context about a queue. */
#define QUEUED(symbol, parameters, call)                                                           \
    CNresult symbol parameters {                                                                   \
        struct sim_context *context;                                                               \
        CNresult result = cn_enter(&context);                                                      \
        return result == CN_SUCCESS ? cn_queued(call) : result;                                    \
    }

QUEUED(cnQueryQueue, (CNqueue queue), cuStreamQuery(cn_stream(queue)))
QUEUED(cnQueueSync, (CNqueue queue), cuStreamSynchronize(cn_stream(queue)))
QUEUED(cnQueueGetPriority, (CNqueue queue, int *priority),
       cuStreamGetPriority(cn_stream(queue), priority))

CNresult cnDestroyQueue(CNqueue queue) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && queue <= CN_QUEUE_TYPE_LEGACY)
        result = CN_QUEUE_ERROR_INVALID;
    return result == CN_SUCCESS ? cn_queued(cuStreamDestroy(cn_stream(queue))) : result;
}

CNresult cnQueueGetContext(CNqueue queue, CNcontext *context) {
    struct sim_context *current;
    CUcontext found;
    CNresult result = cn_enter(&current);
    if (result == CN_SUCCESS && !context)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_queued(cuStreamGetCtx(cn_stream(queue), &found));
    if (result == CN_SUCCESS)
        *context = (CNcontext)(void *)found;
    return result;
}

/* ---- The host's functions --------------------------------------------------------------------------- */

QUEUED(cnInvokeHostFunc, (CNqueue queue, CNhostFn function, void *argument),
       cuLaunchHostFunc(cn_stream(queue), function, argument))

/* Good is 0 in both. */
QUEUED(cnQueueAddCallback,
       (CNqueue queue, CNqueueCallback callback, void *argument, unsigned int flags),
       cuStreamAddCallback(cn_stream(queue), (CUstreamCallback)(void *)callback, argument, flags))

/* ---- Atomic operations ------------------------------------------------------------------------------- */

/* Whether it is a word of cnMallocHost's memory. */
static bool is_word(uint64_t address) {
    struct sim_memory_info info;
    return address % 8 == 0 && sim_memory_find(address, &info) && info.kind == SIM_MEMORY_HOST;
}

static CNresult check_operation(uint64_t address, int kind, uint64_t flag) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    if (result != CN_SUCCESS)
        return result;
    if (!is_word(address))
        return CN_ERROR_INVALID_ADDRESS;
    bool known = kind == CN_ATOMIC_OP_REQUEST
                     ? flag <= CN_ATOMIC_REQUEST_CLEAR
                     : kind == CN_ATOMIC_OP_COMPARE && flag <= CN_ATOMIC_COMPARE_LESS;
    return known ? CN_SUCCESS : CN_ERROR_INVALID_VALUE;
}

/* Sequentially consistent: what the program did before it is seen by whoever waits for it. */
static void request(uint64_t address, uint64_t value, uint64_t flag) {
    _Atomic uint64_t *word = (_Atomic uint64_t *)address;
    if (flag == CN_ATOMIC_REQUEST_ADD)
        atomic_fetch_add(word, value);
    else
        atomic_store(word, flag == CN_ATOMIC_REQUEST_SET ? value : 0);
}

struct addition {
    uint64_t address, value;
};

static void add(void *argument) {
    struct addition *addition = argument;
    request(addition->address, addition->value, CN_ATOMIC_REQUEST_ADD);
    free(addition);
    sim_engine_written();
}

static CNresult queue_addition(struct sim_stream *stream, uint64_t address, uint64_t value) {
    struct addition *addition = malloc(sizeof *addition);
    if (!addition)
        return CN_ERROR_SYSTEM_OUT_OF_MEMORY;
    *addition = (struct addition){address, value};
    CUresult result = sim_stream_call(stream, add, addition);
    if (result != CUDA_SUCCESS)
        free(addition);
    return cn_queued(result);
}

CNresult cnQueueAtomicOperation(CNqueue queue, uint64_t address, uint64_t first, uint64_t second,
                                int kind, uint64_t flag) {
    struct sim_stream *stream;
    CUstream in = cn_stream(queue);
    CNresult result = check_operation(address, kind, flag);
    (void)second;
    if (result == CN_SUCCESS)
        result = cn_queued(sim_stream_enter_work(in, false, &stream));
    if (result != CN_SUCCESS)
        return result;
    if (sim_stream_capturing(stream)) /* a TaskTopo has no such node */
        return cn_error(sim_capture_forbid_stream(stream));
    if (kind == CN_ATOMIC_OP_REQUEST && flag == CN_ATOMIC_REQUEST_ADD)
        return queue_addition(stream, address, first);
    if (kind == CN_ATOMIC_OP_REQUEST)
        return cn_error(
            cuStreamWriteValue64(in, address, flag == CN_ATOMIC_REQUEST_SET ? first : 0, 0));
    if (flag == CN_ATOMIC_COMPARE_EQUAL)
        return cn_error(cuStreamWaitValue64(in, address, first, CU_STREAM_WAIT_VALUE_EQ));
    return cn_error(cuStreamWaitValue64(in, address, first + (flag == CN_ATOMIC_COMPARE_LESS),
                                        CU_STREAM_WAIT_VALUE_GEQ));
}

CNresult cnAtomicOperation(uint64_t address, uint64_t first, uint64_t second, int kind,
                           uint64_t flag) {
    CNresult result = check_operation(address, kind, flag);
    (void)second;
    if (result != CN_SUCCESS)
        return result;
    if (kind == CN_ATOMIC_OP_REQUEST) {
        request(address, first, flag);
        sim_engine_written();
        return CN_SUCCESS;
    }
    uint64_t value = atomic_load((_Atomic uint64_t *)address);
    bool reached = flag == CN_ATOMIC_COMPARE_EQUAL  ? first == value
                   : flag == CN_ATOMIC_COMPARE_LESS ? first < value
                                                    : first <= value;
    return reached ? CN_SUCCESS : CN_ERROR_NOT_READY;
}

CNresult cnAtomicReadOps(uint64_t address, uint64_t *value) {
    CNresult result = check_operation(address, CN_ATOMIC_OP_COMPARE, 0);
    if (result == CN_SUCCESS && !value)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        *value = atomic_load((_Atomic uint64_t *)address);
    return result;
}

/* ---- Captures ----------------------------------------------------------------------------------------- */

/* The driver's status and modes have the same numbers. */
#define CAPTURE(symbol, parameters, call)                                                          \
    CNresult symbol parameters {                                                                   \
        struct sim_context *context;                                                               \
        CNresult result = cn_enter(&context);                                                      \
        return result == CN_SUCCESS ? cn_error(call) : result;                                     \
    }

/* NULL is a queue that cannot be captured. */
CAPTURE(cnQueueBeginCapture, (CNqueue queue, CNqueueCaptureMode mode),
        queue ? cuStreamBeginCapture(cn_stream(queue), (CUstreamCaptureMode)mode)
              : CUDA_ERROR_INVALID_VALUE)
CAPTURE(cnQueueEndCapture, (CNqueue queue, CNtaskTopo *topo),
        cuStreamEndCapture(cn_stream(queue), (CUgraph *)(void *)topo))
CAPTURE(cnQueueIsCapturing, (CNqueue queue, CNqueueCaptureStatus *status),
        cuStreamIsCapturing(cn_stream(queue), (CUstreamCaptureStatus *)(void *)status))
CAPTURE(cnQueueGetCaptureInfo,
        (CNqueue queue, CNqueueCaptureStatus *status, uint64_t *id, CNtaskTopo *topo,
         const CNtaskTopoNode **dependencies, size_t *count),
        cuStreamGetCaptureInfo(cn_stream(queue), (CUstreamCaptureStatus *)(void *)status,
                               (cuuint64_t *)id, (CUgraph *)(void *)topo,
                               (const CUgraphNode **)(void *)dependencies, NULL, count))
CAPTURE(cnQueueUpdateCaptureDependencies,
        (CNqueue queue, CNtaskTopoNode *dependencies, size_t count, unsigned int flags),
        cuStreamUpdateCaptureDependencies(cn_stream(queue), (CUgraphNode *)(void *)dependencies,
                                          NULL, count, flags))

CNresult cnThreadExchangeQueueCaptureMode(CNqueueCaptureMode *mode) {
    CNresult result = cn_begin();
    return result == CN_SUCCESS
               ? cn_error(cuThreadExchangeStreamCaptureMode((CUstreamCaptureMode *)(void *)mode))
               : result;
}

/* ---- Notifiers ------------------------------------------------------------------------------------ */

static CUevent event_of(CNnotifier notifier) { return (CUevent)(void *)notifier; }

CNresult cn_noted(CUresult result, CNnotifier notifier) {
    if (result != CUDA_ERROR_INVALID_HANDLE)
        return cn_error(result);
    return sim_event_find(event_of(notifier)) ? CN_QUEUE_ERROR_INVALID : CN_NOTIFIER_ERROR_INVALID;
}

CNresult cnCreateNotifier(CNnotifier *notifier, unsigned int flags) {
    const unsigned known =
        CN_NOTIFIER_DISABLE_TIMING_SW | CN_NOTIFIER_DISABLE_TIMING_ALL | CN_NOTIFIER_INTERPROCESS;
    struct sim_context *context;
    CUevent made;
    CNresult result = cn_enter(&context);
    if (result != CN_SUCCESS)
        return result;
    bool shared = flags & CN_NOTIFIER_INTERPROCESS;
    if (!notifier || flags & ~known || (shared && !(flags & CN_NOTIFIER_DISABLE_TIMING_ALL)))
        return CN_ERROR_INVALID_VALUE;
    unsigned wanted = shared ? CU_EVENT_INTERPROCESS : CU_EVENT_DEFAULT;
    if (flags & (CN_NOTIFIER_DISABLE_TIMING_SW | CN_NOTIFIER_DISABLE_TIMING_ALL))
        wanted |= CU_EVENT_DISABLE_TIMING;
    result = cn_error(cuEventCreate(&made, wanted));
    if (result == CN_SUCCESS)
        *notifier = (CNnotifier)(void *)made;
    return result;
}

/* A call in the current context about a notifier, and perhaps a queue. */
#define NOTED(symbol, parameters, call)                                                            \
    CNresult symbol parameters {                                                                   \
        struct sim_context *context;                                                               \
        CNresult result = cn_enter(&context);                                                      \
        return result == CN_SUCCESS ? cn_noted(call, notifier) : result;                           \
    }

NOTED(cnDestroyNotifier, (CNnotifier notifier), cuEventDestroy(event_of(notifier)))
NOTED(cnPlaceNotifier, (CNnotifier notifier, CNqueue queue),
      cuEventRecord(event_of(notifier), cn_stream(queue)))
NOTED(cnPlaceNotifierWithFlags, (CNnotifier notifier, CNqueue queue, unsigned int flags),
      cuEventRecordWithFlags(event_of(notifier), cn_stream(queue), flags))
NOTED(cnQueryNotifier, (CNnotifier notifier), cuEventQuery(event_of(notifier)))
NOTED(cnWaitNotifier, (CNnotifier notifier), cuEventSynchronize(event_of(notifier)))
NOTED(cnQueueWaitNotifier, (CNqueue queue, CNnotifier notifier),
      cuStreamWaitEvent(cn_stream(queue), event_of(notifier), 0))
NOTED(cnQueueWaitNotifierWithFlags, (CNqueue queue, CNnotifier notifier, unsigned int flags),
      cuStreamWaitEvent(cn_stream(queue), event_of(notifier), flags))

CNresult cnNotifierElapsedTime(float *milliseconds, CNnotifier start, CNnotifier end) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && !milliseconds)
        result = CN_ERROR_INVALID_VALUE;
    return result == CN_SUCCESS
               ? cn_error_as(cuEventElapsedTime(milliseconds, event_of(start), event_of(end)),
                             CUDA_ERROR_INVALID_HANDLE, CN_NOTIFIER_ERROR_INVALID)
               : result;
}

CNresult cnNotifierElapsedExecTime(float *milliseconds, CNnotifier start, CNnotifier end) {
    return cnNotifierElapsedTime(milliseconds, start, end);
}

static_assert(sizeof(CNIpcNotifierHandle) == sizeof(CUipcEventHandle), "one handle as the other");

NOTED(cnIpcGetNotifierHandle, (CNIpcNotifierHandle * handle, CNnotifier notifier),
      cuIpcGetEventHandle((CUipcEventHandle *)(void *)handle, event_of(notifier)))

CNresult cnIpcOpenNotifierHandle(CNnotifier *notifier, CNIpcNotifierHandle handle) {
    struct sim_context *context;
    CUipcEventHandle whole;
    CUevent opened;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && !notifier)
        result = CN_ERROR_INVALID_VALUE;
    memcpy(&whole, &handle, sizeof whole);
    if (result == CN_SUCCESS)
        result = cn_error(cuIpcOpenEventHandle(&opened, whole));
    if (result == CN_SUCCESS)
        *notifier = (CNnotifier)(void *)opened;
    return result;
}
