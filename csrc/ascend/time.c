/* What shim/time needs of the Ascend runtime: contexts, streams and events by their handles; and what the
 * limiter is told of them. Work in a stream is launched with the stream's context current. */
#include "shim.h"

#include <string.h>

/* Contexts that launch, and the devices that they are of: so many are known at a time. */
enum { CONTEXTS = 256 };
static struct aliquot_lock lock;
static struct {
    rtContext_t handle; /* NULL: free */
    int device;
} contexts[CONTEXTS];

static rtStream_t stream_of(uint64_t lane) {
    return lane & ALIQUOT_LANE_DEFAULT ? NULL : (rtStream_t)(uintptr_t)lane;
}

static rtContext_t current(void) {
    rtContext_t context = NULL;
    rtError_t result;
    ALIQUOT_CALL(result, rtCtxGetCurrent, (&context));
    return result == RT_OK ? context : NULL;
}

/* Each context has a default stream. */
static uint64_t lane_of(rtStream_t stream) {
    if (stream)
        return (uintptr_t)stream;
    return (aliquot_one_device ? 0 : (uintptr_t)current()) | ALIQUOT_LANE_DEFAULT;
}

struct aliquot_gated aliquot_hold_back(uint64_t what, rtStream_t stream) {
    struct aliquot_gated gated = {.launch = {.what = what}};
    struct aliquot_thread *thread = aliquot_self;
    if (__builtin_expect(!thread || !thread->limiter, 0)) {
        thread = aliquot_this_thread();
        if (!thread)
            return gated;
    }
    gated.launch.lane = lane_of(stream);
    gated.ticket = aliquot_gate(thread, &gated.launch);
    return gated;
}

/* -- The runtime -------------------------------------------------------------------------------------- */

bool aliquot_vendor_ready(void) { return aliquot_ready() == RT_OK; }

bool aliquot_vendor_captured(uint64_t lane) {
    uint32_t status = RT_CAPTURE_NONE;
    rtModel_t model;
    rtError_t result = RT_OK;
    if (aliquot_stream_bound(stream_of(lane)))
        return true;
    if (HAS(rtStreamGetCaptureInfo))
        ALIQUOT_CALL(result, rtStreamGetCaptureInfo, (stream_of(lane), &status, &model));
    /* Where it is not supported there are no captures. */
    return result != RT_FEATURE_NOT_SUPPORT && (result != RT_OK || status != RT_CAPTURE_NONE);
}

/* Our own calls must not invalidate a capture of the program: they are made in relaxed mode. */
static uint32_t exchange(uint32_t mode) {
    rtError_t result;
    if (HAS(rtThreadExchangeCaptureMode))
        ALIQUOT_CALL(result, rtThreadExchangeCaptureMode, (&mode));
    return mode;
}

/* (A thread without a context keeps ours: there is no way back.) */
bool aliquot_vendor_enter(struct aliquot_visit *visit, void *context) {
    rtError_t result = RT_OK;
    visit->mode = (int)exchange(RT_CAPTURE_MODE_RELAXED);
    visit->before = current();
    visit->moved = visit->before != context;
    if (visit->moved)
        ALIQUOT_CALL(result, rtCtxSetCurrent, (context));
    if (result != RT_OK)
        exchange((uint32_t)visit->mode);
    return result == RT_OK;
}

void aliquot_vendor_leave(const struct aliquot_visit *visit) {
    rtError_t result;
    if (visit->moved && visit->before)
        ALIQUOT_CALL(result, rtCtxSetCurrent, (visit->before));
    exchange((uint32_t)visit->mode);
}

void *aliquot_vendor_context(uint64_t lane) {
    (void)lane;
    return current();
}

int aliquot_vendor_watch(void *context, uint64_t lane) {
    int device = aliquot_device_current();
    (void)lane; /* of the current context, which this is */
    if (device < -1)
        return ALIQUOT_UNTOLD;
    aliquot_lock(&lock);
    unsigned place = 0;
    while (place < CONTEXTS && contexts[place].handle && contexts[place].handle != context)
        place++;
    if (place < CONTEXTS) {
        contexts[place].handle = context;
        contexts[place].device = device;
    }
    aliquot_unlock(&lock);
    /* One whose end would go unnoticed is not measured. */
    return place < CONTEXTS && device >= 0 ? device : -1;
}

void *aliquot_vendor_event(void) {
    rtEvent_t event;
    rtError_t result;
    ALIQUOT_CALL(result, rtEventCreate, (&event));
    return result == RT_OK ? event : NULL;
}

bool aliquot_vendor_put(void *event, uint64_t lane) {
    rtError_t result;
    ALIQUOT_CALL(result, rtEventRecord, (event, stream_of(lane)));
    return result == RT_OK;
}

int aliquot_vendor_reached(void *event) {
    uint32_t status = RT_EVENT_INIT;
    rtError_t result;
    ALIQUOT_CALL(result, rtEventQueryStatus, (event, &status));
    return result != RT_OK ? -1 : status == RT_EVENT_RECORDED;
}

bool aliquot_vendor_between(void *from, void *to, int64_t *ns) {
    float ms = 0;
    rtError_t result;
    ALIQUOT_CALL(result, rtEventElapsedTime, (&ms, from, to));
    *ns = (int64_t)((double)ms * 1e6);
    return result == RT_OK;
}

uint64_t aliquot_vendor_lane_new(void) {
    rtStream_t stream;
    rtError_t result;
    ALIQUOT_CALL(result, rtStreamCreate, (&stream, 0));
    return result == RT_OK ? (uintptr_t)stream : 0;
}

void aliquot_vendor_lane_end(uint64_t lane) {
    rtError_t result;
    ALIQUOT_CALL(result, rtStreamDestroy, (stream_of(lane)));
}

int aliquot_vendor_idle(uint64_t lane) {
    rtError_t result;
    ALIQUOT_CALL(result, rtStreamQuery, (stream_of(lane)));
    return result == RT_OK ? 1 : result == RT_STREAM_NOT_COMPLETE ? 0 : -1;
}

/* -- Ends ------------------------------------------------------------------------------------------------ */

/* The next context of a device from place *at on, which is moved behind it; NULL: there is none. */
static rtContext_t next_of(uint32_t device, unsigned *at, bool drop) {
    rtContext_t found = NULL;
    aliquot_lock(&lock);
    for (; *at < CONTEXTS && !found; ++*at)
        if (contexts[*at].handle && contexts[*at].device == (int)device) {
            found = contexts[*at].handle;
            if (drop)
                contexts[*at].handle = NULL;
        }
    aliquot_unlock(&lock);
    return found;
}

void aliquot_time_device_leaves(uint32_t device) {
    unsigned at = 0;
    for (rtContext_t context; (context = next_of(device, &at, false));)
        aliquot_marks_context_leaves(context);
}

void aliquot_time_device_left(uint32_t device, bool gone) {
    unsigned at = 0;
    for (rtContext_t context; (context = next_of(device, &at, gone));)
        aliquot_marks_context_left(context, gone);
}

void aliquot_lanes_forget(void) {
    lock = (struct aliquot_lock){0};
    memset(contexts, 0, sizeof contexts);
}

#define STREAM_ENDS(symbol, parameters, arguments)                                                 \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        aliquot_marks_stream_leaves((uintptr_t)stream);                                            \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        if (result == RT_OK && aliquot_prepared())                                                 \
            aliquot_stream_unbound(stream);                                                        \
        return result;                                                                             \
    }
STREAM_ENDS(rtStreamDestroy, (rtStream_t stream), (stream))
STREAM_ENDS(rtStreamDestroyForce, (rtStream_t stream), (stream))
STREAM_ENDS(rtsStreamDestroy, (rtStream_t stream, uint64_t flags), (stream, flags))
STREAM_ENDS(aclrtDestroyStreamImpl, (rtStream_t stream), (stream))
STREAM_ENDS(aclrtDestroyStreamForceImpl, (rtStream_t stream), (stream))

/* Code goes, and other code may come to its addresses. */
#define UNLOADS(symbol)                                                                            \
    rtError_t aliquot_##symbol(void *handle) {                                                     \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(handle);                                                           \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (handle));                                                    \
        aliquot_time_unloads();                                                                    \
        return result;                                                                             \
    }
UNLOADS(rtDevBinaryUnRegister)
UNLOADS(rtBinaryUnLoad)
UNLOADS(aclrtBinaryUnLoadImpl)

/* -- Waiting --------------------------------------------------------------------------------------------- */

#define WAIT(symbol, parameters, arguments)                                                        \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        if (result == RT_OK) {                                                                     \
            aliquot_time_waited();                                                                 \
            aliquot_pools_waited();                                                                \
        }                                                                                          \
        return result;                                                                             \
    }
WAIT(rtStreamSynchronize, (rtStream_t stream), (stream))
WAIT(rtStreamSynchronizeWithTimeout, (rtStream_t stream, int32_t timeout), (stream, timeout))
WAIT(rtDeviceSynchronize, (void), ())
WAIT(rtDeviceSynchronizeWithTimeout, (int32_t timeout), (timeout))
WAIT(rtEventSynchronize, (rtEvent_t event), (event))
WAIT(rtEventSynchronizeWithTimeout, (rtEvent_t event, const int32_t timeout), (event, timeout))
WAIT(rtsStreamSynchronize, (rtStream_t stream, int32_t timeout), (stream, timeout))
WAIT(rtsEventSynchronize, (rtEvent_t event, const int32_t timeout), (event, timeout))
WAIT(aclrtSynchronizeEventWithTimeoutImpl, (rtEvent_t event, int32_t timeout), (event, timeout))
WAIT(aclrtSynchronizeStreamImpl, (rtStream_t stream), (stream))
WAIT(aclrtSynchronizeStreamWithTimeoutImpl, (rtStream_t stream, int32_t timeout), (stream, timeout))
WAIT(aclrtSynchronizeDeviceImpl, (void), ())
WAIT(aclrtSynchronizeDeviceWithTimeoutImpl, (int32_t timeout), (timeout))
WAIT(aclrtSynchronizeEventImpl, (rtEvent_t event), (event))
