/* Models: work that is recorded from streams, and launched as one. Each is a graph of the driver's. */
#include "acl_sim.h"

#include <pthread.h>
#include <stdlib.h>

/* A recording or what became of it. Kernels in it are launches of a function of its own. */
struct model {
    cuuint64_t capture; /* 0: it has ended */
    CUmodule module;
    CUfunction spin;
    CUgraph graph;
    CUgraphExec exec;
    struct model *next; /* recordings that have not ended */
};
static struct model *recordings;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const char code[] = ".version 7.0\n.target sm_50\n.address_size 64\n"
                           ".visible .entry spin(.param .u64 ns) { ret; }\n";

static cuuint64_t capture_of(CUstream stream, CUstreamCaptureStatus *status) {
    cuuint64_t id = 0;
    *status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    cuStreamGetCaptureInfo_v3(stream, status, &id, NULL, NULL, NULL, NULL);
    return id;
}

/* The recording that a stream belongs to; taken off the list if it is to end. */
static struct model *recording_of(CUstream stream, bool ends) {
    CUstreamCaptureStatus status;
    cuuint64_t id = capture_of(stream, &status);
    pthread_mutex_lock(&lock);
    struct model **link = &recordings;
    while (*link && (*link)->capture != id)
        link = &(*link)->next;
    struct model *found = *link;
    if (found && ends)
        *link = found->next;
    pthread_mutex_unlock(&lock);
    return found;
}

static rtError_t destroy(struct model *model) {
    if (model->exec)
        cuGraphExecDestroy(model->exec);
    if (model->graph)
        cuGraphDestroy(model->graph);
    cuModuleUnload(model->module);
    free(model);
    return RT_OK;
}

static rtError_t enter(rtStream_t stream, CUstream *in) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_stream(stream, in) : result;
}

/* Its processors are filled as far as the kernel fills the device's: two blocks each. */
rtError_t acl_record_kernel(CUstream stream, uint32_t sms, uint64_t ns) {
    const struct model *model = recording_of(stream, false);
    void *parameters[] = {&ns};
    if (!model)
        return RT_CAPTURE_INVALIDATED;
    return acl_error(
        cuLaunchKernel(model->spin, 2 * sms, 1, 1, 1024, 1, 1, 0, stream, parameters, NULL));
}

rtError_t rtStreamBeginCapture(rtStream_t stream, uint32_t mode) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    if (result == RT_OK && (!stream || mode > CU_STREAM_CAPTURE_MODE_RELAXED))
        result = RT_PARAM_INVALID;
    if (result != RT_OK)
        return result;
    struct model *model = calloc(1, sizeof *model);
    if (!model)
        return RT_INTERNAL_ERROR;
    CUresult made = cuModuleLoadData(&model->module, code);
    if (made == CUDA_SUCCESS)
        made = cuModuleGetFunction(&model->spin, model->module, "spin");
    if (made == CUDA_SUCCESS)
        made = cuStreamBeginCapture_v2(in, (CUstreamCaptureMode)mode);
    if (made != CUDA_SUCCESS) {
        destroy(model);
        return acl_error(made);
    }
    CUstreamCaptureStatus status;
    model->capture = capture_of(in, &status);
    pthread_mutex_lock(&lock);
    model->next = recordings;
    recordings = model;
    pthread_mutex_unlock(&lock);
    return RT_OK;
}

rtError_t rtStreamEndCapture(rtStream_t stream, rtModel_t *made) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    if (result == RT_OK && (!stream || !made))
        result = RT_PARAM_INVALID;
    if (result != RT_OK)
        return result;
    struct model *model = recording_of(in, true);
    if (!model)
        return RT_CAPTURE_INVALIDATED;
    model->capture = 0;
    CUresult ended = cuStreamEndCapture(in, &model->graph);
    if (ended == CUDA_SUCCESS)
        ended = cuGraphInstantiateWithFlags(&model->exec, model->graph, 0);
    if (ended != CUDA_SUCCESS) {
        destroy(model);
        return ended == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED ? RT_CAPTURE_INVALIDATED
                                                              : acl_error(ended);
    }
    *made = model;
    return RT_OK;
}

rtError_t rtStreamGetCaptureInfo(rtStream_t stream, uint32_t *status, rtModel_t *model) {
    CUstream in;
    rtError_t result = status ? enter(stream, &in) : RT_PARAM_INVALID;
    if (result != RT_OK)
        return result;
    CUstreamCaptureStatus found;
    capture_of(in, &found);
    *status = (uint32_t)found;
    if (model)
        *model = found == CU_STREAM_CAPTURE_STATUS_NONE ? NULL : recording_of(in, false);
    return RT_OK;
}

rtError_t rtThreadExchangeCaptureMode(uint32_t *mode) {
    CUstreamCaptureMode before;
    if (!mode || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return RT_PARAM_INVALID;
    before = (CUstreamCaptureMode)*mode;
    rtError_t result = acl_error(cuThreadExchangeStreamCaptureMode(&before));
    *mode = (uint32_t)before;
    return result;
}

/* -- Launches ----------------------------------------------------------------------------------------- */

rtError_t rtsModelExecuteAsync(rtModel_t model, rtStream_t stream) {
    CUstream in;
    rtError_t result = model ? enter(stream, &in) : RT_PARAM_INVALID;
    return result == RT_OK ? acl_error(cuGraphLaunch(((struct model *)model)->exec, in)) : result;
}

rtError_t rtModelExecuteAsync(rtModel_t model, rtStream_t stream, uint32_t flag) {
    (void)flag;
    return rtsModelExecuteAsync(model, stream);
}

rtError_t rtModelExecute(rtModel_t model, rtStream_t stream, uint32_t flag) {
    return rtModelExecuteAsync(model, stream, flag);
}

rtError_t rtModelExecuteSync(rtModel_t model, rtStream_t stream, uint32_t flag, int32_t timeout) {
    rtError_t result = rtModelExecuteAsync(model, stream, flag);
    return result == RT_OK ? rtStreamSynchronizeWithTimeout(stream, timeout) : result;
}

rtError_t rtsModelExecute(rtModel_t model, int32_t timeout) {
    return rtModelExecuteSync(model, NULL, 0, timeout);
}

rtError_t rtModelDestroy(rtModel_t model) {
    rtError_t result = model ? acl_enter(NULL) : RT_PARAM_INVALID;
    return result == RT_OK ? destroy(model) : result;
}
