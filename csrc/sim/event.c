/* Events: recording, waiting, asking, and the time between two of them. */
#include "event.h"

#include <stdlib.h>

static struct sim_slots events;
static pthread_once_t events_once = PTHREAD_ONCE_INIT;

enum { EVENT_SLOT = 256, EVENT_SLOTS = 1 << 22 };
_Static_assert(sizeof(struct sim_event) <= EVENT_SLOT, "an event fits its slot");

static void make_events(void) { sim_slots_init(&events, EVENT_SLOT, EVENT_SLOTS); }

struct sim_event *sim_event_find(CUevent handle) {
    return sim_slots_get(&events, handle);
}

/* ---- Recording ----------------------------------------------------------------------------- */

struct sim_fence *sim_event_fence(struct sim_event *event) {
    pthread_mutex_lock(&event->lock);
    struct sim_fence *fence = event->fence;
    if (fence != NULL)
        sim_fence_hold(fence);
    pthread_mutex_unlock(&event->lock);
    return fence;
}

/* Makes `fence`, whose reference the event takes over, what others wait for. */
static void set_fence(struct sim_event *event, struct sim_fence *fence) {
    pthread_mutex_lock(&event->lock);
    struct sim_fence *former = event->fence;
    event->fence = fence;
    pthread_mutex_unlock(&event->lock);
    sim_fence_drop(former);
}

struct sim_fence *sim_event_renew(struct sim_event *event) {
    struct sim_fence *fence = sim_fence_new();
    if (fence == NULL)
        return NULL;
    if (event->shared != NULL) {
        fence->shared = event->shared;
        fence->number = sim_shared_event_record(event->shared);
    }
    sim_fence_hold(fence);
    set_fence(event, fence);
    return fence;
}

/* Forgets what an earlier record captured. */
static void leave_capture(struct sim_event *event) {
    if (event->capture_id == 0)
        return;
    sim_graph_enter();
    event->capture_id = 0;
    event->ends.count = 0;
    sim_graph_leave();
}

CUresult sim_event_record(struct sim_event *event, struct sim_stream *stream) {
    struct sim_fence *fence = sim_fence_new();
    if (fence == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    leave_capture(event);
    if (event->shared != NULL) {
        fence->shared = event->shared;
        fence->number = sim_shared_event_record(event->shared);
    }
    /* One reference for the operation, one for the event, which others find it by only once it is
     * in its stream's order. */
    sim_fence_hold(fence);
    struct sim_op op = {.kind = SIM_OP_RECORD, .fence = fence};
    CUresult result = sim_stream_submit(stream, &op, NULL);
    if (result == CUDA_SUCCESS)
        set_fence(event, fence);
    else
        sim_fence_drop(fence);
    return result;
}

static CUresult capture_node(struct sim_stream *stream, CUgraphNodeType type, CUevent event) {
    CUgraphNodeParams params = {.type = type};
    if (type == CU_GRAPH_NODE_TYPE_EVENT_RECORD)
        params.eventRecord.event = event;
    else
        params.eventWait.event = event;
    return sim_capture_node(stream, &params, NULL, NULL);
}

static CUresult record(CUevent handle, CUstream stream_handle, unsigned flags, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_work(stream_handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_event *event = sim_event_find(handle);
    if (event == NULL || event->context_serial != stream->exec->owner_serial)
        return CUDA_ERROR_INVALID_HANDLE;
    if ((flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    sim_cost(event->dev, (event->flags & CU_EVENT_DISABLE_TIMING) != 0
                             ? SIM_COST_EVENT_RECORD
                             : SIM_COST_EVENT_RECORD_TIMING);
    if (!sim_stream_capturing(stream))
        return (flags & CU_EVENT_RECORD_EXTERNAL) != 0 ? CUDA_ERROR_INVALID_VALUE
                                                       : sim_event_record(event, stream);
    if ((flags & CU_EVENT_RECORD_EXTERNAL) != 0)
        return capture_node(stream, CU_GRAPH_NODE_TYPE_EVENT_RECORD, handle);
    result = sim_capture_record(stream, event);
    if (result == CUDA_SUCCESS)
        set_fence(event, NULL);
    return result;
}

CUresult CUDAAPI cuEventRecord(CUevent event, CUstream stream) {
    return record(event, stream, 0, false);
}
CUresult CUDAAPI cuEventRecord_ptsz(CUevent event, CUstream stream) {
    return record(event, stream, 0, true);
}
CUresult CUDAAPI cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned int flags) {
    return record(event, stream, flags, false);
}
CUresult CUDAAPI cuEventRecordWithFlags_ptsz(CUevent event, CUstream stream, unsigned int flags) {
    return record(event, stream, flags, true);
}

/* ---- Streams wait -------------------------------------------------------------------------- */

/* The number of another process's record that is the event's last, and not completed; 0: there is
 * none. */
static uint64_t foreign_record(struct sim_event *event, const struct sim_fence *fence) {
    if (event->shared == NULL)
        return 0;
    uint64_t last = sim_shared_event_last(event->shared);
    bool own = fence != NULL && fence->number == last;
    return own || sim_shared_event_done(event->shared, last, false) ? 0 : last;
}

/* Makes the stream's further work wait for the event's last record. */
static CUresult queue_wait(struct sim_stream *stream, struct sim_event *event) {
    struct sim_fence *fence = sim_event_fence(event);
    uint64_t foreign = foreign_record(event, fence);
    if (foreign != 0) {
        sim_fence_drop(fence);
        struct sim_op op = {.kind = SIM_OP_SHARED,
                            .shared = {.event = event->shared, .number = foreign}};
        return sim_stream_submit(stream, &op, NULL);
    }
    if (fence == NULL)
        return CUDA_SUCCESS; /* never recorded: nothing to wait for */
    struct sim_op op = {.kind = SIM_OP_WAIT, .fence = fence};
    return sim_stream_submit(stream, &op, NULL);
}

static CUresult wait_event(CUstream stream_handle, CUevent handle, unsigned flags,
                           bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_work(stream_handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_event *event = sim_event_find(handle);
    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    bool capturing = sim_stream_capturing(stream);
    if ((flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL) != 0 || (flags != 0 && !capturing))
        return CUDA_ERROR_INVALID_VALUE;
    sim_cost(stream->exec->dev, SIM_COST_STREAM_WAIT_EVENT);
    if (capturing && flags != 0)
        return capture_node(stream, CU_GRAPH_NODE_TYPE_WAIT_EVENT, handle);
    if (capturing || sim_capture_holds(event))
        return sim_capture_wait(stream, event);
    return queue_wait(stream, event);
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
    return wait_event(stream, event, flags, false);
}
CUresult CUDAAPI cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned int flags) {
    return wait_event(stream, event, flags, true);
}

/* ---- The host asks and waits --------------------------------------------------------------- */

/* Enters a call that asks after an event that is not of a capture; *fence is held or NULL. */
static CUresult enter(CUevent handle, struct sim_event **event, struct sim_fence **fence) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    *event = sim_event_find(handle);
    if (*event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = sim_capture_holds(*event) ? sim_capture_forbid_event(*event) : sim_capture_unsafe();
    *fence = result == CUDA_SUCCESS ? sim_event_fence(*event) : NULL;
    return result;
}

CUresult CUDAAPI cuEventQuery(CUevent handle) {
    struct sim_event *event;
    struct sim_fence *fence;
    CUresult result = enter(handle, &event, &fence);
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(event->dev, SIM_COST_EVENT_QUERY);
    uint64_t foreign = foreign_record(event, fence);
    if (foreign != 0) {
        if (!sim_shared_event_done(event->shared, foreign, true))
            result = CUDA_ERROR_NOT_READY;
    } else if (fence != NULL && !sim_fence_done(fence)) {
        sim_engine_poll();
        if (!sim_fence_done(fence))
            result = CUDA_ERROR_NOT_READY;
    }
    sim_fence_drop(fence);
    return result;
}

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
    struct sim_event *event;
    struct sim_fence *fence;
    CUresult result = enter(handle, &event, &fence);
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(event->dev, SIM_COST_SYNC);
    uint64_t foreign = foreign_record(event, fence);
    if (foreign != 0)
        sim_shared_event_wait(event->shared, foreign);
    else if (fence != NULL)
        sim_fence_wait(fence);
    sim_fence_drop(fence);
    sim_exec_synced(event->dev);
    return CUDA_SUCCESS;
}

/* Simulated time of an event's last record. */
static CUresult time_of(CUevent handle, CUdevice *dev, uint64_t *time_ns) {
    struct sim_event *event;
    struct sim_fence *fence;
    CUresult result = enter(handle, &event, &fence);
    if (result != CUDA_SUCCESS)
        return result;
    if (fence == NULL || (event->flags & CU_EVENT_DISABLE_TIMING) != 0)
        result = CUDA_ERROR_INVALID_HANDLE;
    else if (!sim_fence_done(fence))
        sim_engine_poll();
    if (result == CUDA_SUCCESS && !sim_fence_done(fence))
        result = CUDA_ERROR_NOT_READY;
    if (result == CUDA_SUCCESS)
        *time_ns = fence->time_ns;
    *dev = event->dev;
    sim_fence_drop(fence);
    return result;
}

static CUresult elapsed(float *milliseconds, CUevent from, CUevent to) {
    uint64_t from_ns, to_ns;
    CUdevice from_dev, to_dev;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (milliseconds == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult started = time_of(from, &from_dev, &from_ns);
    CUresult ended = time_of(to, &to_dev, &to_ns);
    if (started != CUDA_SUCCESS && started != CUDA_ERROR_NOT_READY)
        return started;
    if (ended != CUDA_SUCCESS && ended != CUDA_ERROR_NOT_READY)
        return ended;
    if (from_dev != to_dev)
        return CUDA_ERROR_INVALID_HANDLE;
    if (started != CUDA_SUCCESS || ended != CUDA_SUCCESS)
        return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)((double)(int64_t)(to_ns - from_ns) / 1e6);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to) {
    return elapsed(milliseconds, from, to);
}
CUresult CUDAAPI cuEventElapsedTime_v2(float *milliseconds, CUevent from, CUevent to) {
    return elapsed(milliseconds, from, to);
}

/* ---- Life ---------------------------------------------------------------------------------- */

CUresult sim_event_make(struct sim_context *ctx, unsigned flags, struct sim_shared_event *shared,
                        bool imported, CUevent *handle) {
    pthread_once(&events_once, make_events);
    struct sim_event *event = events.base == NULL ? NULL : sim_slots_take(&events);
    if (event == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    event->context_serial = sim_exec_of(ctx)->owner_serial;
    event->dev = ctx->dev;
    event->flags = flags;
    event->shared = shared;
    event->imported = imported;
    pthread_mutex_init(&event->lock, NULL);
    sim_slots_publish(event);
    *handle = (CUevent)event;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventCreate(CUevent *handle, unsigned int flags) {
    const unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    struct sim_context *ctx;
    struct sim_shared_event *shared = NULL;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL || (flags & ~known) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    sim_cost(ctx->dev, SIM_COST_EVENT_CREATE);
    if ((flags & CU_EVENT_INTERPROCESS) != 0) {
        if ((flags & CU_EVENT_DISABLE_TIMING) == 0)
            return CUDA_ERROR_INVALID_VALUE;
        shared = sim_shared_event_take(ctx->physical);
        if (shared == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    result = sim_event_make(ctx, flags, shared, false, handle);
    if (result != CUDA_SUCCESS && shared != NULL)
        sim_shared_event_give(shared);
    return result;
}

static CUresult destroy(CUevent handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_event *event = sim_event_find(handle);
    if (event == NULL || !sim_handle_end(event))
        return CUDA_ERROR_INVALID_HANDLE;
    sim_cost(event->dev, SIM_COST_EVENT_DESTROY);
    /* Those who wait have a reference of their own. */
    set_fence(event, NULL);
    sim_edges_free(&event->ends);
    if (event->shared != NULL && !event->imported)
        sim_shared_event_give(event->shared);
    sim_slots_give(&events, event);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent event) { return destroy(event); }
CUresult CUDAAPI cuEventDestroy_v2(CUevent event) { return destroy(event); }

/* ---- Events of whole contexts -------------------------------------------------------------- */

static CUresult enter_context(CUcontext context, CUevent handle, struct sim_exec **exec,
                              struct sim_event **event) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_context *ctx = sim_context_get(context);
    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    *exec = sim_exec_of(ctx);
    *event = sim_event_find(handle);
    if (*event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return sim_capture_forbid_context(*exec);
}

/* All streams of a context, at most `room` of them; answers how many there are. */
static size_t list_streams(const struct sim_exec *exec, struct sim_stream **streams, uint64_t *ids,
                           size_t room) {
    size_t count = 0;
    sim_engine_lock();
    for (struct sim_stream *stream = exec->streams; stream; stream = stream->sibling, count++) {
        if (count < room) {
            streams[count] = stream;
            ids[count] = sim_stream_id(stream);
        }
    }
    sim_engine_unlock();
    return count;
}

CUresult sim_stream_follow(struct sim_stream *stream, struct sim_stream *other) {
    struct sim_fence *fence = sim_fence_new();
    if (fence == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    sim_fence_hold(fence);
    struct sim_op record_op = {.kind = SIM_OP_RECORD, .fence = fence};
    CUresult result = sim_stream_submit(other, &record_op, NULL);
    if (result != CUDA_SUCCESS) {
        sim_fence_drop(fence);
        return result;
    }
    struct sim_op wait_op = {.kind = SIM_OP_WAIT, .fence = fence};
    return sim_stream_submit(stream, &wait_op, NULL);
}

/* Has `meet` follow all streams of the context, or, where it is NULL, them all wait for `event`. */
static CUresult each_stream(struct sim_exec *exec, struct sim_stream *meet,
                            struct sim_event *event) {
    size_t room = list_streams(exec, NULL, NULL, 0) + 16; /* some may come meanwhile */
    struct sim_stream **streams = calloc(room, sizeof *streams);
    uint64_t *ids = calloc(room, sizeof *ids);
    CUresult result = streams == NULL || ids == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    if (result == CUDA_SUCCESS) {
        size_t count = list_streams(exec, streams, ids, room);
        for (size_t i = 0; i < count && i < room && result == CUDA_SUCCESS; i++) {
            if (streams[i] == meet || sim_stream_id(streams[i]) != ids[i])
                continue;
            if (meet == NULL)
                result = queue_wait(streams[i], event);
            else if (!sim_stream_empty(streams[i]))
                result = sim_stream_follow(meet, streams[i]);
        }
    }
    free(streams);
    free(ids);
    return result;
}

CUresult CUDAAPI cuCtxRecordEvent(CUcontext context, CUevent handle) {
    struct sim_exec *exec;
    struct sim_event *event;
    CUresult result = enter_context(context, handle, &exec, &event);
    if (result != CUDA_SUCCESS)
        return result;
    /* A stream of its own, so that no other has to wait for where they meet. */
    struct sim_stream *meet = sim_stream_make(exec->ctx, CU_STREAM_NON_BLOCKING, 0);
    if (meet == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = each_stream(exec, meet, NULL);
    if (result == CUDA_SUCCESS)
        result = sim_event_record(event, meet);
    sim_stream_unmake(meet);
    return result;
}

CUresult CUDAAPI cuCtxWaitEvent(CUcontext context, CUevent handle) {
    struct sim_exec *exec;
    struct sim_event *event;
    CUresult result = enter_context(context, handle, &exec, &event);
    if (result != CUDA_SUCCESS)
        return result;
    /* Streams that are made later wait too: sim_stream_make. */
    struct sim_fence *fence = sim_event_fence(event);
    sim_engine_lock();
    struct sim_fence *former = exec->gate;
    exec->gate = fence;
    sim_engine_unlock();
    sim_fence_drop(former);
    return each_stream(exec, NULL, event);
}
