/* What a stream is given to do, at once or from a model. */
#include "acl_sim.h"

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
    case ACL_FILL:
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
