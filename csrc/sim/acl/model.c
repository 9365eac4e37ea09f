/* Models: work that is recorded, by a capture or in streams that are bound, and carried out when the model
 * is executed: in the order in which it was recorded, in the stream that executes it.
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
    rtStream_t origin; /* of its capture, while that is under way */
    bool whole;        /* it may be executed */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Streams, and events recorded in them, that record. Under the lock. */
static struct part {
    void *of; /* NULL: a free place */
    struct model *model;
    struct part *next;
} * parts;
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

bool acl_captures(rtStream_t stream) {
    if (!stream || nobody_records())
        return false;
    pthread_mutex_lock(&lock);
    struct part *part = find(stream);
    bool captures = part && part->model->origin;
    pthread_mutex_unlock(&lock);
    return captures;
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

/* -- Captures ----------------------------------------------------------------------------------------- */

rtError_t rtStreamBeginCapture(rtStream_t stream, const uint32_t mode) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!stream || mode > 2)
        return RT_PARAM_INVALID;
    pthread_mutex_lock(&lock);
    struct model *model = find(stream) ? NULL : new_model();
    result = model ? join(stream, model) : RT_STREAM_CAPTURED;
    if (result == RT_OK)
        model->origin = stream;
    else
        free(model);
    pthread_mutex_unlock(&lock);
    return result;
}

rtError_t rtStreamEndCapture(rtStream_t stream, rtModel_t *handle) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!stream || !handle)
        return RT_PARAM_INVALID;
    pthread_mutex_lock(&lock);
    struct part *part = find(stream);
    struct model *model = part ? part->model : NULL;
    if (!model || !model->origin)
        result = RT_STREAM_NOT_CAPTURED;
    else if (model->origin != stream)
        result = RT_CAPTURE_UNMATCHED;
    if (result == RT_OK) {
        close_model(model);
        model->origin = NULL;
        model->whole = true;
        *handle = model;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

rtError_t rtStreamGetCaptureInfo(rtStream_t stream, uint32_t *status, rtModel_t *model) {
    if (!status)
        return RT_PARAM_INVALID;
    *status = RT_CAPTURE_NONE;
    pthread_mutex_lock(&lock);
    struct part *part = stream ? find(stream) : NULL;
    bool captures = part && part->model->origin;
    if (captures)
        *status = RT_CAPTURE_ACTIVE;
    if (model)
        *model = captures ? part->model : NULL;
    pthread_mutex_unlock(&lock);
    return RT_OK;
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
    if (!model || model->whole || model->origin)
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
    if (!model || model->origin)
        return RT_PARAM_INVALID;
    pthread_mutex_lock(&lock);
    close_model(model);
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
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!model || !model->whole || flag || acl_captures(stream))
        return RT_PARAM_INVALID;
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

/* Captures here are as if all calls were made in relaxed mode: what is asked for is only kept. */
rtError_t rtThreadExchangeCaptureMode(uint32_t *mode) {
    static _Thread_local uint32_t own;
    if (!mode || *mode > RT_CAPTURE_MODE_RELAXED)
        return RT_PARAM_INVALID;
    uint32_t before = own;
    own = *mode;
    *mode = before;
    return RT_OK;
}
