/* Streams and events. */
#include "acl_sim.h"

rtError_t rtStreamCreateWithFlags(rtStream_t *stream, int32_t priority, uint32_t flags) {
    (void)flags;
    (void)priority;
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    return stream ? acl_error(cuStreamCreate((CUstream *)stream, CU_STREAM_NON_BLOCKING))
                  : RT_PARAM_INVALID;
}

rtError_t rtStreamCreate(rtStream_t *stream, int32_t priority) {
    return rtStreamCreateWithFlags(stream, priority, 0);
}

rtError_t rtStreamDestroy(rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    return stream ? acl_error(cuStreamDestroy_v2(stream)) : RT_PARAM_INVALID;
}

rtError_t rtsStreamDestroy(rtStream_t stream, uint64_t flags) {
    return flags > 1 ? RT_PARAM_INVALID : rtStreamDestroy(stream);
}

rtError_t rtStreamDestroyForce(rtStream_t stream) { return rtStreamDestroy(stream); }

static rtError_t enter(rtStream_t stream, CUstream *in) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_stream(stream, in) : result;
}

rtError_t rtStreamQuery(rtStream_t stream) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    return result == RT_OK ? acl_error(cuStreamQuery(in)) : result;
}

rtError_t rtStreamSynchronize(rtStream_t stream) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    return result == RT_OK ? acl_error(cuStreamSynchronize(in)) : result;
}

rtError_t rtStreamSynchronizeWithTimeout(rtStream_t stream, int32_t timeout) {
    /* Work of the simulator ends by itself. */
    return timeout < -1 ? RT_PARAM_INVALID : rtStreamSynchronize(stream);
}

rtError_t rtsStreamQuery(rtStream_t stream) { return rtStreamQuery(stream); }

rtError_t rtsStreamSynchronize(rtStream_t stream, int32_t timeout) {
    return rtStreamSynchronizeWithTimeout(stream, timeout);
}

rtError_t rtStreamWaitEvent(rtStream_t stream, rtEvent_t event) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    if (result != RT_OK || acl_event_waits(stream, event, &result))
        return result;
    return acl_error(cuStreamWaitEvent(in, event, 0));
}

rtError_t rtStreamWaitEventWithTimeout(rtStream_t stream, rtEvent_t event, uint32_t timeout) {
    (void)timeout; /* seconds, after which the device gives up */
    return rtStreamWaitEvent(stream, event);
}

rtError_t rtsEventWait(rtStream_t stream, rtEvent_t event, uint32_t timeout) {
    return rtStreamWaitEventWithTimeout(stream, event, timeout);
}

rtError_t rtEventCreate(rtEvent_t *event) { return rtEventCreateWithFlag(event, 0); }

rtError_t rtEventCreateWithFlag(rtEvent_t *event, uint32_t flag) {
    (void)flag;
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    return event ? acl_error(cuEventCreate((CUevent *)event, CU_EVENT_DEFAULT)) : RT_PARAM_INVALID;
}

rtError_t rtEventDestroy(rtEvent_t event) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_error(cuEventDestroy_v2(event)) : result;
}

rtError_t rtEventRecord(rtEvent_t event, rtStream_t stream) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    if (result != RT_OK || acl_event_records(event, stream, &result))
        return result;
    return acl_error(cuEventRecord(event, in));
}

rtError_t rtEventQueryStatus(rtEvent_t event, uint32_t *status) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!status)
        return RT_PARAM_INVALID;
    CUresult answer = cuEventQuery(event);
    if (answer != CUDA_SUCCESS && answer != CUDA_ERROR_NOT_READY)
        return acl_error(answer);
    *status = answer == CUDA_SUCCESS ? RT_EVENT_RECORDED : RT_EVENT_INIT;
    return RT_OK;
}

rtError_t rtEventSynchronize(rtEvent_t event) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_error(cuEventSynchronize(event)) : result;
}

rtError_t rtEventElapsedTime(float *ms, rtEvent_t start, rtEvent_t end) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_error(cuEventElapsedTime(ms, start, end)) : result;
}

rtError_t rtEventSynchronizeWithTimeout(rtEvent_t event, const int32_t timeout) {
    return timeout < -1 ? RT_PARAM_INVALID : rtEventSynchronize(event);
}

rtError_t rtsEventSynchronize(rtEvent_t event, const int32_t timeout) {
    return rtEventSynchronizeWithTimeout(event, timeout);
}
