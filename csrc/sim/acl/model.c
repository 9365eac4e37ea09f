/* Models: work that is recorded and carried out when the model is executed. What a capture records is a
 * graph of the driver's; what is put in streams that are bound is done in the order in which it came.
 */
#include "acl_sim.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC UINT64_C(0x4c45444f4d2d5153)

struct model {
    uint64_t magic;
    struct acl_work *work;
    size_t count, room;
    bool whole; /* it may be executed */
    /* Of a capture: its number while it is under way, and the graph. Kernels in it are launches of a function
     * of its own. */
    cuuint64_t capture;
    CUstream stream; /* in which it began */
    CUmodule module;
    CUfunction spin;
    CUgraph graph;
    CUgraphExec exec;
    struct model *next; /* of those under way */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Streams, and events recorded in them, that record. Under the lock. */
static struct part {
    void *of; /* NULL: a free place */
    struct model *model;
    struct part *next;
} * parts;
static struct model *recordings;
static _Atomic uint32_t part_count; /* relaxed: a hint; the lock is taken to be sure */

static struct model *model_of(rtModel_t handle) {
    struct model *model = handle;
    return model && model->magic == MAGIC ? model : NULL;
}

/* Under the lock. */
static struct part *find(const void *of) {
    struct part *part = parts;
    while (part && part->of != of)
        part = part->next;
    return part;
}

static rtError_t join(void *of, struct model *model) {
    struct part *part = find(of);
    if (part)
        return part->model == model ? RT_OK : RT_STREAM_CAPTURED;
    part = find(NULL);
    if (!part) {
        part = calloc(1, sizeof *part);
        if (!part)
            return RT_INTERNAL_ERROR;
        part->next = parts;
        parts = part;
    }
    part->of = of;
    part->model = model;
    atomic_fetch_add_explicit(&part_count, 1, memory_order_relaxed);
    return RT_OK;
}

static void leave(struct part *part) {
    part->of = NULL;
    atomic_fetch_sub_explicit(&part_count, 1, memory_order_relaxed);
}

/* All that records into the model stops. */
static void close_model(const struct model *model) {
    for (struct part *part = parts; part; part = part->next)
        if (part->of && part->model == model)
            leave(part);
}

static struct model *new_model(void) {
    struct model *model = calloc(1, sizeof *model);
    if (model)
        model->magic = MAGIC;
    return model;
}

/* -- Recording -------------------------------------------------------------------------------------- */

static bool nobody_records(void) {
    return !atomic_load_explicit(&part_count, memory_order_relaxed);
}

static rtError_t append(struct model *model, const struct acl_work *work) {
    if (model->count == model->room) {
        size_t room = model->room ? model->room * 2 : 16;
        struct acl_work *grown = realloc(model->work, room * sizeof *grown);
        if (!grown)
            return RT_INTERNAL_ERROR;
        model->work = grown;
        model->room = room;
    }
    model->work[model->count++] = *work;
    return RT_OK;
}

bool acl_records(rtStream_t stream, const struct acl_work *work, rtError_t *result) {
    if (!stream || nobody_records())
        return false;
    pthread_mutex_lock(&lock);
    struct part *part = find(stream);
    if (part)
        *result = append(part->model, work);
    pthread_mutex_unlock(&lock);
    return part;
}

/* An event that is recorded in a stream is part of what that records. */
bool acl_event_records(rtEvent_t event, rtStream_t stream, rtError_t *result) {
    if (!event || nobody_records())
        return false;
    pthread_mutex_lock(&lock);
    struct part *part = stream ? find(stream) : NULL, *known = find(event);
    if (!part && known)
        leave(known); /* recorded elsewhere from now on */
    if (part)
        *result = join(event, part->model);
    pthread_mutex_unlock(&lock);
    return part;
}

/* A stream that waits for such an event records, too. */
bool acl_event_waits(rtStream_t stream, rtEvent_t event, rtError_t *result) {
    if (!event || nobody_records())
        return false;
    pthread_mutex_lock(&lock);
    struct part *part = find(event), *own = stream ? find(stream) : NULL;
    bool taken = part || own;
    if (part)
        *result = stream ? join(stream, part->model) : RT_STREAM_CAPTURED;
    else if (own) /* what was before the model is done before it */
        *result = RT_OK;
    pthread_mutex_unlock(&lock);
    return taken;
}

/* -- Captures ---------------------------------------------------------------------------------------- */

static const char code[] = ".version 7.0\n.target sm_50\n.address_size 64\n"
                           ".visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }\n";

static cuuint64_t capture_of(CUstream stream, CUstreamCaptureStatus *status) {
    cuuint64_t id = 0;
    *status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    cuStreamGetCaptureInfo_v3(stream, status, &id, NULL, NULL, NULL, NULL);
    return id;
}

/* The recording that a stream belongs to. */
static struct model *recording_of(CUstream stream) {
    CUstreamCaptureStatus status;
    cuuint64_t id = capture_of(stream, &status);
    pthread_mutex_lock(&lock);
    /* One that was invalidated is known by its stream alone. */
    struct model *found = status == CU_STREAM_CAPTURE_STATUS_NONE ? NULL : recordings;
    while (found && (id ? found->capture != id : found->stream != stream))
        found = found->next;
    pthread_mutex_unlock(&lock);
    return found;
}

static void end_recording(struct model *model) {
    pthread_mutex_lock(&lock);
    struct model **link = &recordings;
    while (*link != model)
        link = &(*link)->next;
    *link = model->next;
    model->capture = 0;
    pthread_mutex_unlock(&lock);
}

static void drop_graph(struct model *model) {
    if (model->exec)
        cuGraphExecDestroy(model->exec);
    if (model->graph)
        cuGraphDestroy(model->graph);
    if (model->module)
        cuModuleUnload(model->module);
    model->exec = NULL;
    model->graph = NULL;
    model->module = NULL;
}

static rtError_t enter(rtStream_t stream, CUstream *in) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_stream(stream, in) : result;
}

/* Its processors are filled as far as the kernel fills the device's: two blocks each. */
rtError_t acl_record_kernel(CUstream stream, uint32_t sms, uint64_t ns) {
    const struct model *model = recording_of(stream);
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
    if (result == RT_OK && recording_of(in))
        result = RT_STREAM_CAPTURED;
    if (result != RT_OK)
        return result;
    struct model *model = new_model();
    if (!model)
        return RT_INTERNAL_ERROR;
    CUresult made = sim_module_load_own(code, &model->module);
    if (made == CUDA_SUCCESS)
        made = cuModuleGetFunction(&model->spin, model->module, "aliquot_spin_ns");
    if (made == CUDA_SUCCESS)
        made = cuStreamBeginCapture_v2(in, (CUstreamCaptureMode)mode);
    if (made != CUDA_SUCCESS) {
        drop_graph(model);
        free(model);
        return acl_error(made);
    }
    CUstreamCaptureStatus status;
    model->capture = capture_of(in, &status);
    model->stream = in;
    pthread_mutex_lock(&lock);
    model->next = recordings;
    recordings = model;
    pthread_mutex_unlock(&lock);
    return RT_OK;
}

/* Models within models: chips that have none answer so. */
rtError_t rtStreamBeginCaptureToModel(rtStream_t stream, rtModel_t model, uint32_t mode) {
    (void)stream;
    (void)model;
    (void)mode;
    return RT_FEATURE_NOT_SUPPORT;
}

rtError_t rtStreamEndCapture(rtStream_t stream, rtModel_t *made) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    if (result == RT_OK && (!stream || !made))
        result = RT_PARAM_INVALID;
    if (result != RT_OK)
        return result;
    struct model *model = recording_of(in);
    if (!model)
        return RT_STREAM_NOT_CAPTURED;
    CUresult ended = cuStreamEndCapture(in, &model->graph);
    if (ended == CUDA_ERROR_STREAM_CAPTURE_UNMATCHED ||
        ended == CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
        return acl_error(ended); /* it goes on */
    end_recording(model);
    if (ended == CUDA_SUCCESS)
        ended = cuGraphInstantiateWithFlags(&model->exec, model->graph, 0);
    if (ended != CUDA_SUCCESS) {
        drop_graph(model);
        free(model);
        return acl_error(ended);
    }
    model->whole = true;
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
        *model = found == CU_STREAM_CAPTURE_STATUS_NONE ? NULL : recording_of(in);
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

/* -- Models that are built ------------------------------------------------------------------------------- */

rtError_t rtModelCreate(rtModel_t *handle, uint32_t flag) {
    rtError_t result = acl_enter(NULL);
    if (result == RT_OK && (!handle || flag))
        result = RT_PARAM_INVALID;
    if (result != RT_OK)
        return result;
    *handle = new_model();
    return *handle ? RT_OK : RT_INTERNAL_ERROR;
}
rtError_t rtsModelCreate(rtModel_t *model, uint32_t flag) { return rtModelCreate(model, flag); }

rtError_t rtModelBindStream(rtModel_t handle, rtStream_t stream, uint32_t flag) {
    (void)flag; /* whether it is the first one */
    struct model *model = model_of(handle);
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!model || !stream || model->whole)
        return RT_PARAM_INVALID;
    pthread_mutex_lock(&lock);
    result = find(stream) ? RT_PARAM_INVALID : join(stream, model);
    pthread_mutex_unlock(&lock);
    return result;
}
rtError_t rtsModelBindStream(rtModel_t model, rtStream_t stream, uint32_t flag) {
    return rtModelBindStream(model, stream, flag);
}

rtError_t rtModelUnbindStream(rtModel_t handle, rtStream_t stream) {
    struct model *model = model_of(handle);
    if (!model || !stream)
        return RT_PARAM_INVALID;
    pthread_mutex_lock(&lock);
    struct part *part = find(stream);
    bool bound = part && part->model == model;
    if (bound)
        leave(part);
    pthread_mutex_unlock(&lock);
    return bound ? RT_OK : RT_STREAM_MODEL;
}
rtError_t rtsModelUnbindStream(rtModel_t model, rtStream_t stream) {
    return rtModelUnbindStream(model, stream);
}

rtError_t rtEndGraph(rtModel_t handle, rtStream_t stream) {
    struct model *model = model_of(handle);
    if (!model || !stream)
        return RT_PARAM_INVALID;
    pthread_mutex_lock(&lock);
    struct part *part = find(stream);
    bool bound = part && part->model == model;
    pthread_mutex_unlock(&lock);
    return bound ? RT_OK : RT_STREAM_MODEL;
}
rtError_t rtsEndGraph(rtModel_t model, rtStream_t stream) { return rtEndGraph(model, stream); }

rtError_t rtModelLoadComplete(rtModel_t handle) {
    struct model *model = model_of(handle);
    if (!model || model->whole || model->capture)
        return RT_PARAM_INVALID;
    model->whole = true;
    return RT_OK;
}
rtError_t rtsModelLoadComplete(rtModel_t model, void *reserve) {
    return reserve ? RT_PARAM_INVALID : rtModelLoadComplete(model);
}

rtError_t rtModelDestroy(rtModel_t handle) {
    struct model *model = model_of(handle);
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    if (!model || model->capture)
        return RT_PARAM_INVALID;
    pthread_mutex_lock(&lock);
    close_model(model);
    drop_graph(model);
    model->magic = 0;
    free(model->work);
    model->work = NULL; /* the handle itself stays, so that a stale one is found stale */
    pthread_mutex_unlock(&lock);
    return RT_OK;
}
rtError_t rtsModelDestroy(rtModel_t model) { return rtModelDestroy(model); }

/* -- Executing ------------------------------------------------------------------------------------------- */

rtError_t rtModelExecuteAsync(rtModel_t handle, rtStream_t stream, uint32_t flag) {
    struct model *model = model_of(handle);
    CUstream in;
    rtError_t result = enter(stream, &in);
    if (result != RT_OK)
        return result;
    if (!model || !model->whole || flag)
        return RT_PARAM_INVALID;
    if (model->exec)
        return acl_error(cuGraphLaunch(model->exec, in));
    for (size_t i = 0; i < model->count && result == RT_OK; i++)
        result = acl_do(&model->work[i], stream);
    return result;
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

rtError_t rtsModelExecuteAsync(rtModel_t model, rtStream_t stream) {
    return rtModelExecuteAsync(model, stream, 0);
}
