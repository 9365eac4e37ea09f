/* What shim/time needs of CNDrv: contexts, queues and notifiers by their handles; and the order
 * functions, after which it looks. */
#include "shim.h"

#include "shim/memory/physical.h"

/* The lane of a queue; that of a default one depends on the context where there are several
 * devices. */
static uint64_t lane_of(CNqueue queue, const struct aliquot_thread *thread) {
    uint64_t lane = ALIQUOT_LANE_DEFAULT;
    if (queue > CN_QUEUE_TYPE_LEGACY)
        return (uintptr_t)queue;
    if (!aliquot_one_device) {
        CNcontext handle = NULL;
        REAL(cnCtxGetCurrent)(&handle);
        lane |= (uintptr_t)handle;
        if (queue == CN_QUEUE_TYPE_PER_THREAD)
            lane += (uintptr_t)thread << 12;
    } else if (queue == CN_QUEUE_TYPE_PER_THREAD)
        lane |= (uintptr_t)thread;
    return queue == CN_QUEUE_TYPE_PER_THREAD ? lane | ALIQUOT_LANE_OWN : lane;
}

/* The queue of a lane, for the thread that launches there. */
static CNqueue queue_of(uint64_t lane) {
    if (lane & ALIQUOT_LANE_DEFAULT)
        return lane & ALIQUOT_LANE_OWN ? CN_QUEUE_TYPE_PER_THREAD : NULL;
    return (CNqueue)(uintptr_t)lane;
}

struct aliquot_gated aliquot_hold_back(uint64_t what, CNqueue queue) {
    struct aliquot_gated gated = {.launch = {.what = what}};
    struct aliquot_thread *thread = aliquot_self;
    if (__builtin_expect(!thread || !thread->limiter, 0)) {
        thread = aliquot_this_thread();
        if (!thread)
            return gated;
    }
    gated.launch.lane = lane_of(queue, thread);
    gated.ticket = aliquot_gate(thread, &gated.launch);
    return gated;
}

/* -- The driver ------------------------------------------------------------------------------------- */

bool aliquot_vendor_ready(void) { return aliquot_ready() == CN_SUCCESS; }

bool aliquot_vendor_captured(uint64_t lane) {
    CNqueueCaptureStatus status = CN_QUEUE_CAPTURE_STATUS_NONE;
    CNresult result = CN_SUCCESS;
    /* The default queue of all threads cannot be captured. */
    if ((!(lane & ALIQUOT_LANE_DEFAULT) || lane & ALIQUOT_LANE_OWN) && HAVE(cnQueueIsCapturing))
        result = REAL(cnQueueIsCapturing)(queue_of(lane), &status);
    return result != CN_SUCCESS || status != CN_QUEUE_CAPTURE_STATUS_NONE;
}

CNqueueCaptureMode aliquot_capture_mode(CNqueueCaptureMode mode) {
    if (HAVE(cnThreadExchangeQueueCaptureMode))
        REAL(cnThreadExchangeQueueCaptureMode)(&mode);
    return mode;
}

bool aliquot_vendor_enter(struct aliquot_visit *visit, void *context) {
    CNcontext current = NULL;
    visit->mode = (int)aliquot_capture_mode(CN_QUEUE_CAPTURE_MODE_RELAXED);
    /* (Where that is not known there is no way back.) */
    bool known = REAL(cnCtxGetCurrent)(&current) == CN_SUCCESS;
    visit->before = current;
    visit->moved = current != context;
    if (known && (!visit->moved || REAL(cnCtxSetCurrent)(context) == CN_SUCCESS))
        return true;
    aliquot_capture_mode((CNqueueCaptureMode)visit->mode);
    return false;
}

void aliquot_vendor_leave(const struct aliquot_visit *visit) {
    if (visit->moved)
        REAL(cnCtxSetCurrent)(visit->before);
    aliquot_capture_mode((CNqueueCaptureMode)visit->mode);
}

void *aliquot_vendor_context(uint64_t lane) {
    CNcontext handle = NULL;
    if (!(lane & ALIQUOT_LANE_DEFAULT) && HAVE(cnQueueGetContext))
        return REAL(cnQueueGetContext)(queue_of(lane), &handle) == CN_SUCCESS ? handle : NULL;
    return REAL(cnCtxGetCurrent)(&handle) == CN_SUCCESS ? handle : NULL;
}

int aliquot_vendor_watch(void *context, uint64_t lane) {
    struct aliquot_visit visit;
    (void)lane;
    if (!aliquot_vendor_enter(&visit, context))
        return ALIQUOT_UNTOLD;
    const struct aliquot_context *found = aliquot_context_of(context);
    aliquot_vendor_leave(&visit);
    return found ? found->device : ALIQUOT_UNTOLD;
}

void *aliquot_vendor_event(void) {
    CNnotifier notifier;
    return REAL(cnCreateNotifier)(&notifier, CN_NOTIFIER_DEFAULT) == CN_SUCCESS ? notifier : NULL;
}

bool aliquot_vendor_put(void *event, uint64_t lane) {
    return REAL(cnPlaceNotifier)(event, queue_of(lane)) == CN_SUCCESS;
}

int aliquot_vendor_reached(void *event) {
    CNresult result = REAL(cnQueryNotifier)(event);
    return result == CN_SUCCESS ? 1 : result == CN_ERROR_NOT_READY ? 0 : -1;
}

bool aliquot_vendor_between(void *from, void *to, int64_t *ns) {
    float ms = 0;
    CNresult result = REAL(cnNotifierElapsedTime)(&ms, from, to);
    *ns = (int64_t)((double)ms * 1e6);
    return result == CN_SUCCESS;
}

uint64_t aliquot_vendor_lane_new(void) {
    CNqueue queue;
    return REAL(cnCreateQueue)(&queue, 0) == CN_SUCCESS ? (uintptr_t)queue : 0;
}

void aliquot_vendor_lane_end(uint64_t lane) { REAL(cnDestroyQueue)(queue_of(lane)); }

int aliquot_vendor_idle(uint64_t lane) {
    CNresult result = REAL(cnQueryQueue)(queue_of(lane));
    return result == CN_SUCCESS ? 1 : result == CN_ERROR_NOT_READY ? 0 : -1;
}

/* -- Waiting and asking ------------------------------------------------------------------------------- */

static CNresult asked(CNresult result) {
    if (result == CN_SUCCESS)
        aliquot_time_waited();
    return result;
}

static CNresult waited(CNresult result) {
    aliquot_pools_waited();
    aliquot_physical_settle();
    return asked(result);
}

CNresult aliquot_cnQueryQueue(CNqueue queue) { return asked(REAL(cnQueryQueue)(queue)); }

CNresult aliquot_cnQueryNotifier(CNnotifier notifier) {
    return asked(REAL(cnQueryNotifier)(notifier));
}

CNresult aliquot_cnQueueSync(CNqueue queue) { return waited(REAL(cnQueueSync)(queue)); }

CNresult aliquot_cnCtxSync(void) { return waited(REAL(cnCtxSync)()); }

CNresult aliquot_cnWaitNotifier(CNnotifier notifier) {
    return waited(REAL(cnWaitNotifier)(notifier));
}

/* -- Ending, and capturing ------------------------------------------------------------------------------ */

CNresult aliquot_cnDestroyQueue(CNqueue queue) {
    if (queue > CN_QUEUE_TYPE_LEGACY)
        aliquot_marks_stream_leaves((uintptr_t)queue);
    return REAL(cnDestroyQueue)(queue);
}

CNresult aliquot_cnTaskTopoEntityDestroy(CNtaskTopoEntity entity) {
    CNresult result = REAL(cnTaskTopoEntityDestroy)(entity);
    if (result == CN_SUCCESS)
        aliquot_time_what_leaves((uintptr_t)entity);
    return result;
}

CNresult aliquot_cnQueueBeginCapture(CNqueue queue, CNqueueCaptureMode mode) {
    aliquot_marks_capture(1);
    CNresult result = REAL(cnQueueBeginCapture)(queue, mode);
    if (result != CN_SUCCESS)
        aliquot_marks_capture(-1);
    return result;
}

/* A capture that has failed ends here too; where there is none, none is ended. */
CNresult aliquot_cnQueueEndCapture(CNqueue queue, CNtaskTopo *topo) {
    CNresult result = REAL(cnQueueEndCapture)(queue, topo);
    if (result == CN_SUCCESS || result == CN_ERROR_QUEUE_CAPTURE_INVALIDATED ||
        result == CN_ERROR_QUEUE_CAPTURE_UNJOINED)
        aliquot_marks_capture(-1);
    return result;
}
