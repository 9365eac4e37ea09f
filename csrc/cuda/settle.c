/* What the driver gives back on its own: memory whose free was queued in a stream, pools that shrink
 * at a synchronisation, graphs' memory, handles that were kept by a descriptor.
 */
#include "shim.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define DEBTS 65536u

/* A linear allocation whose free is queued: its entry is LEAVING until the event has passed. */
struct debt {
    bool used;         /* else a free place */
    bool queued;       /* the driver has been told */
    uint16_t context;  /* of the event */
    uint16_t owner;    /* context of the allocation */
    uint64_t pointer;  /* 0: given out again meanwhile */
    CUevent event;     /* NULL, or it cannot be asked: only a wait for the whole context tells */
    uint64_t sequence; /* when it was queued, see aliquot_queue_next */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct debt *debts; /* DEBTS of them, committed as they are touched */
static uint32_t debt_mark; /* places at and above it are free */

_Atomic uint32_t aliquot_lazy;

CUstreamCaptureMode aliquot_capture_relax(void) {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    if (HAVE(cuThreadExchangeStreamCaptureMode))
        REAL(cuThreadExchangeStreamCaptureMode)(&mode);
    return mode;
}

void aliquot_capture_restore(CUstreamCaptureMode mode) {
    if (HAVE(cuThreadExchangeStreamCaptureMode))
        REAL(cuThreadExchangeStreamCaptureMode)(&mode);
}

CUresult aliquot_capture_status(CUstream stream, bool per_thread, bool *capturing) {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUresult result = CUDA_SUCCESS;
    if (per_thread && HAVE(cuStreamIsCapturing_ptsz))
        result = REAL(cuStreamIsCapturing_ptsz)(stream, &status);
    else if (HAVE(cuStreamIsCapturing))
        result = REAL(cuStreamIsCapturing)(stream, &status);
    *capturing = status != CU_STREAM_CAPTURE_STATUS_NONE;
    return result;
}

bool aliquot_capturing(CUstream stream, bool per_thread) {
    bool capturing;
    return aliquot_capture_status(stream, per_thread, &capturing) != CUDA_SUCCESS || capturing;
}

/* -- Debts ---------------------------------------------------------------------------------------- */

/* An event behind what is queued in the stream, made in its context; NULL when there is none to be
 * had. */
static CUevent mark_stream(const struct aliquot_context *context, CUstream stream,
                           bool per_thread) {
    const struct aliquot_context *current = aliquot_context_current();
    CUcontext popped;
    CUevent event = NULL;
    bool push = context && current && context->handle != current->handle;
    if (push && REAL(cuCtxPushCurrent_v2)(context->handle) != CUDA_SUCCESS)
        return NULL;
    if (REAL(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING) != CUDA_SUCCESS)
        event = NULL;
    else if ((per_thread ? REAL(cuEventRecord_ptsz) : REAL(cuEventRecord))(event, stream) !=
             CUDA_SUCCESS) {
        REAL(cuEventDestroy_v2)(event);
        event = NULL;
    }
    if (push)
        REAL(cuCtxPopCurrent_v2)(&popped);
    return event;
}

/* Under the mutex. NULL: all are in use; the charge then stays until the address is given out again
 * or the context ends: too much rather than too little. */
static struct debt *free_place(void) {
    if (!debts) {
        void *at = mmap(NULL, DEBTS * sizeof *debts, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return NULL;
        debts = at;
    }
    if (debt_mark < DEBTS)
        return &debts[debt_mark++];
    for (uint32_t i = 0; i < DEBTS; i++)
        if (!debts[i].used)
            return &debts[i];
    return NULL;
}

uint32_t aliquot_debt_begin(uint64_t pointer, uint16_t owner) {
    pthread_mutex_lock(&mutex);
    struct debt *debt = free_place();
    if (debt)
        *debt = (struct debt){.used = true, .pointer = pointer, .owner = owner};
    pthread_mutex_unlock(&mutex);
    return debt ? (uint32_t)(debt - debts) + 1 : 0;
}

static void lower_mark(void) {
    while (debt_mark && !debts[debt_mark - 1].used)
        debt_mark--;
    if (!debt_mark)
        atomic_fetch_and_explicit(&aliquot_lazy, ~ALIQUOT_LAZY_FREES, memory_order_relaxed);
}

void aliquot_debt_end(uint32_t id) {
    pthread_mutex_lock(&mutex);
    if (id)
        debts[id - 1] = (struct debt){0};
    lower_mark();
    pthread_mutex_unlock(&mutex);
}

void aliquot_debt_queued(uint32_t id, CUstream stream, bool per_thread, bool may_mark) {
    if (!id)
        return;
    const struct aliquot_context *context;
    /* Asked twice: of which context it is nobody can tell later. */
    if (aliquot_stream_context(stream, &context) != CUDA_SUCCESS)
        aliquot_stream_context(stream, &context);
    uint64_t now = aliquot_queue_next();
    CUstreamCaptureMode mode = aliquot_capture_relax();
    CUevent event = context && may_mark ? mark_stream(context, stream, per_thread) : NULL;
    aliquot_capture_restore(mode);
    pthread_mutex_lock(&mutex);
    struct debt *debt = &debts[id - 1];
    debt->queued = true;
    debt->event = event;
    debt->sequence = now;
    debt->context = context ? context->index : (uint16_t)0;
    atomic_fetch_or_explicit(&aliquot_lazy, ALIQUOT_LAZY_FREES, memory_order_relaxed);
    pthread_mutex_unlock(&mutex);
}

void aliquot_debt_cancel(uint64_t pointer) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < debt_mark; i++)
        if (debts[i].pointer == pointer)
            debts[i].pointer = 0;
    pthread_mutex_unlock(&mutex);
}

/* Under the mutex. */
static void pay(struct debt *debt) {
    if (debt->event)
        REAL(cuEventDestroy_v2)(debt->event);
    if (debt->pointer)
        aliquot_left(debt->pointer);
    *debt = (struct debt){0};
}

static void settle_debts(void) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < debt_mark; i++)
        if (debts[i].event && REAL(cuEventQuery)(debts[i].event) == CUDA_SUCCESS)
            pay(&debts[i]);
    lower_mark();
    pthread_mutex_unlock(&mutex);
}

void aliquot_debts_context_gone(uint16_t context) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < debt_mark; i++) {
        if (debts[i].owner == context)
            debts[i].pointer = 0; /* freed with its context */
        if (debts[i].queued && debts[i].context == context) {
            /* Its event went with it, and so did the work it waited for. */
            debts[i].event = NULL;
            pay(&debts[i]);
        }
    }
    lower_mark();
    pthread_mutex_unlock(&mutex);
}

/* All work that was queued in a context up to that number of frees is done. */
static void context_drained(uint16_t context, uint64_t before) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < debt_mark; i++)
        if (debts[i].queued && debts[i].context == context && debts[i].sequence <= before)
            pay(&debts[i]);
    lower_mark();
    pthread_mutex_unlock(&mutex);
    if (aliquot_context_count() == 1)
        aliquot_pools_drained(before);
}

/* -- Settling ------------------------------------------------------------------------------------- */

static void settle(uint32_t device, bool all) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return;
    CUstreamCaptureMode mode = aliquot_capture_relax();
    settle_debts();
    aliquot_pools_settle(device, all);
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        if (all || d == device)
            aliquot_graph_settle(d);
    aliquot_vmm_settle();
    aliquot_capture_restore(mode);
}

void aliquot_settle_device(uint32_t device) { settle(device, false); }
void aliquot_settle_all(void) { settle(0, true); }

CUresult aliquot_cuStreamSynchronize(CUstream stream) {
    CUresult result = REAL(cuStreamSynchronize)(stream);
    aliquot_time_waited();
    aliquot_synchronised();
    return result;
}

CUresult aliquot_cuStreamSynchronize_ptsz(CUstream stream) {
    CUresult result = REAL(cuStreamSynchronize_ptsz)(stream);
    aliquot_time_waited();
    aliquot_synchronised();
    return result;
}

CUresult aliquot_cuEventSynchronize(CUevent event) {
    CUresult result = REAL(cuEventSynchronize)(event);
    aliquot_time_waited();
    aliquot_synchronised();
    return result;
}

static void context_synchronised(CUresult result, const struct aliquot_context *context,
                                 uint64_t before) {
    aliquot_time_waited();
    /* relaxed: a hint, as in aliquot_synchronised. */
    if (!atomic_load_explicit(&aliquot_lazy, memory_order_relaxed))
        return;
    if (result == CUDA_SUCCESS && context)
        context_drained(context->index, before);
    aliquot_settle_all();
}

CUresult aliquot_cuCtxSynchronize(void) {
    uint64_t before = aliquot_queue_sequence();
    CUresult result = REAL(cuCtxSynchronize)();
    context_synchronised(result, aliquot_context_current(), before);
    return result;
}

CUresult aliquot_cuCtxSynchronize_v2(CUcontext context) {
    uint64_t before = aliquot_queue_sequence();
    CUresult result = REAL(cuCtxSynchronize_v2)(context);
    context_synchronised(result, context ? aliquot_context_of(context) : aliquot_context_current(),
                         before);
    return result;
}

void aliquot_settle_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    if (debts)
        munmap(debts, DEBTS * sizeof *debts);
    debts = NULL;
    debt_mark = 0;
    atomic_store_explicit(&aliquot_lazy, 0, memory_order_relaxed);
}
