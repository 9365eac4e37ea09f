/* What shim/time needs of the CUDA driver: contexts, streams and events by their handles. */
#include "time.h"

/* -- Launches -------------------------------------------------------------------------------------- */

/* The lane of a default stream where there are several devices: the current context tells. */
static uint64_t lane_of_context(CUstream stream, bool per_thread,
                                const struct aliquot_thread *thread) {
    CUcontext handle = NULL;
    REAL(cuCtxGetCurrent)(&handle);
    uint64_t lane = (uintptr_t)handle | ALIQUOT_LANE_DEFAULT;
    if (stream == CU_STREAM_PER_THREAD || (!stream && per_thread))
        lane = (lane + ((uintptr_t)thread << 12)) | ALIQUOT_LANE_OWN;
    return lane;
}

struct aliquot_gated aliquot_hold_back(uint64_t what, CUstream stream, bool per_thread) {
    struct aliquot_gated gated = {.launch = {.what = what}};
    struct aliquot_thread *thread = aliquot_self;
    if (__builtin_expect(!thread || !thread->limiter, 0)) {
        thread = aliquot_this_thread();
        if (!thread)
            return gated;
    }
    gated.launch.lane = aliquot_lane(stream, per_thread, thread);
    if (__builtin_expect(!gated.launch.lane, 0))
        gated.launch.lane = lane_of_context(stream, per_thread, thread);
    gated.ticket = aliquot_gate(thread, &gated.launch);
    return gated;
}

/* -- The driver ------------------------------------------------------------------------------------ */

bool aliquot_vendor_ready(void) { return aliquot_ready() == CUDA_SUCCESS; }

bool aliquot_vendor_captured(uint64_t lane) {
    return aliquot_capturing(aliquot_lane_stream(lane), false);
}

bool aliquot_vendor_enter(struct aliquot_visit *visit, void *context) {
    CUcontext current = NULL;
    visit->mode = (int)aliquot_capture_relax();
    REAL(cuCtxGetCurrent)(&current);
    visit->moved = current != context;
    if (!visit->moved || REAL(cuCtxPushCurrent_v2)(context) == CUDA_SUCCESS)
        return true;
    aliquot_capture_restore((CUstreamCaptureMode)visit->mode);
    return false;
}

void aliquot_vendor_leave(const struct aliquot_visit *visit) {
    CUcontext popped;
    if (visit->moved)
        REAL(cuCtxPopCurrent_v2)(&popped);
    aliquot_capture_restore((CUstreamCaptureMode)visit->mode);
}

void *aliquot_vendor_context(uint64_t lane) {
    CUcontext handle = NULL;
    if (!(lane & ALIQUOT_LANE_DEFAULT) && HAVE(cuStreamGetCtx))
        return REAL(cuStreamGetCtx)(aliquot_lane_stream(lane), &handle) == CUDA_SUCCESS ? handle
                                                                                        : NULL;
    return REAL(cuCtxGetCurrent)(&handle) == CUDA_SUCCESS ? handle : NULL;
}

/* Whether the lane is a stream of a green context, which ends by itself. */
static bool is_green(uint64_t lane) {
    CUcontext whole;
    CUgreenCtx part = NULL;
    return !(lane & ALIQUOT_LANE_DEFAULT) && HAVE(cuStreamGetCtx) && HAVE(cuStreamGetCtx_v2) &&
           REAL(cuStreamGetCtx_v2)(aliquot_lane_stream(lane), &whole, &part) == CUDA_SUCCESS &&
           part;
}

int aliquot_vendor_watch(void *context, uint64_t lane) {
    struct aliquot_visit visit;
    CUdevice ordinal;
    if (!is_green(lane))
        aliquot_context_of(context);
    if (!aliquot_vendor_enter(&visit, context))
        return ALIQUOT_UNTOLD;
    bool known = REAL(cuCtxGetDevice)(&ordinal) == CUDA_SUCCESS;
    aliquot_vendor_leave(&visit);
    return known ? aliquot_device_index(ordinal) : ALIQUOT_UNTOLD;
}

void *aliquot_vendor_event(void) {
    CUevent event;
    return REAL(cuEventCreate)(&event, CU_EVENT_DEFAULT) == CUDA_SUCCESS ? event : NULL;
}

bool aliquot_vendor_put(void *event, uint64_t lane) {
    return REAL(cuEventRecord)(event, aliquot_lane_stream(lane)) == CUDA_SUCCESS;
}

int aliquot_vendor_reached(void *event) {
    CUresult result = REAL(cuEventQuery)(event);
    return result == CUDA_SUCCESS ? 1 : result == CUDA_ERROR_NOT_READY ? 0 : -1;
}

bool aliquot_vendor_between(void *from, void *to, int64_t *ns) {
    float ms = 0;
    CUresult result;
    if (HAVE(cuEventElapsedTime_v2))
        result = REAL(cuEventElapsedTime_v2)(&ms, from, to);
    else
        result = REAL(cuEventElapsedTime)(&ms, from, to);
    *ns = (int64_t)((double)ms * 1e6);
    return result == CUDA_SUCCESS;
}

uint64_t aliquot_vendor_lane_new(void) {
    CUstream stream;
    return REAL(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS ? (uintptr_t)stream
                                                                                 : 0;
}

void aliquot_vendor_lane_end(uint64_t lane) {
    if (HAVE(cuStreamDestroy_v2))
        REAL(cuStreamDestroy_v2)(aliquot_lane_stream(lane));
}

int aliquot_vendor_idle(uint64_t lane) {
    CUresult result = REAL(cuStreamQuery)(aliquot_lane_stream(lane));
    return result == CUDA_SUCCESS ? 1 : result == CUDA_ERROR_NOT_READY ? 0 : -1;
}
