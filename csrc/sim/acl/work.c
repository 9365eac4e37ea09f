/* What a stream is given to do, at once or from a model. */
#include "acl_sim.h"

#include <stdlib.h>
#include <string.h>

/* Queued: what it is, and whether it is done once and then gone. */
struct queued {
    struct acl_indirect copy;
    bool once;
};

static void copy_indirect(void *argument) {
    struct queued *queued = argument;
    const struct acl_indirect *copy = &queued->copy;
    /* (Addresses of the device's are the host's.) */
    memmove((char *)(uintptr_t)*copy->to + copy->to_offset,
            (const char *)(uintptr_t)*copy->from + copy->from_offset,
            copy->size_at ? *copy->size_at : copy->size);
    if (queued->once)
        free(queued);
}

static CUresult queue_indirect(const struct acl_indirect *copy, CUstream in) {
    CUstreamCaptureStatus status;
    CUresult result = cuStreamIsCapturing(in, &status);
    struct queued *queued = result == CUDA_SUCCESS ? malloc(sizeof *queued) : NULL;
    if (!queued)
        return result == CUDA_SUCCESS ? CUDA_ERROR_UNKNOWN : result;
    *queued = (struct queued){.copy = *copy, .once = status == CU_STREAM_CAPTURE_STATUS_NONE};
    result = cuLaunchHostFunc(in, copy_indirect, queued);
    if (result != CUDA_SUCCESS)
        free(queued);
    return result;
}

rtError_t acl_do(const struct acl_work *work, rtStream_t stream) {
    CUstream in;
    struct sim_stream *found;
    struct sim_op op;
    int32_t device;
    rtError_t result = acl_enter(&device);
    if (result == RT_OK)
        result = acl_stream(stream, &in);
    if (result != RT_OK)
        return result;
    switch (work->kind) {
    case ACL_KERNEL:
        result = acl_error(sim_stream_enter_work(in, false, &found));
        if (result != RT_OK)
            return result;
        op = work->kernel;
        sim_cost(device, SIM_COST_LAUNCH);
        if (sim_stream_capturing(found))
            return acl_record_kernel(in, op.sms, op.ns);
        return acl_error(sim_stream_submit(found, &op, NULL));
    case ACL_COPY:
        return acl_error(cuMemcpyAsync(work->copy.to, work->copy.from, work->copy.size, in));
    case ACL_INDIRECT:
        return acl_error(queue_indirect(&work->indirect, in));
    case ACL_FILL:
        if (work->fill.words)
            return acl_error(
                cuMemsetD32Async(work->fill.at, work->fill.value, work->fill.size / 4, in));
        return acl_error(
            cuMemsetD8Async(work->fill.at, (unsigned char)work->fill.value, work->fill.size, in));
    case ACL_HOST:
        return acl_error(cuLaunchHostFunc(in, work->host.function, work->host.data));
    case ACL_WRITE:
        return acl_error(cuStreamWriteValue64(in, work->word.at, work->word.value, 0));
    default:
        return acl_error(
            cuStreamWaitValue64(in, work->word.at, work->word.value, work->word.compare));
    }
}

rtError_t acl_submit(const struct acl_work *work, rtStream_t stream) {
    rtError_t result;
    return acl_records(stream, work, &result) ? result : acl_do(work, stream);
}
