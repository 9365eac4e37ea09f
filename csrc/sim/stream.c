/* Streams: making, finding, asking and waiting. */
#include "exec_impl.h"

#include <stdlib.h>
#include <string.h>

static struct sim_slots streams;
static pthread_once_t streams_once = PTHREAD_ONCE_INIT;

enum { STREAM_SLOT = 1024, STREAM_SLOTS = 1 << 20 };
_Static_assert(sizeof(struct sim_stream) <= STREAM_SLOT, "a stream fits its slot");

static void make_streams(void) { sim_slots_init(&streams, STREAM_SLOT, STREAM_SLOTS); }

/* ---- Life ---------------------------------------------------------------------------------- */

struct sim_stream *sim_stream_make(struct sim_context *ctx, unsigned flags, int priority) {
    static _Atomic uint64_t ids;
    pthread_once(&streams_once, make_streams);
    struct sim_stream *stream = streams.base == NULL ? NULL : sim_slots_take(&streams);
    if (stream == NULL)
        return NULL;
    stream->ctx = ctx;
    stream->exec = sim_exec_of(ctx);
    stream->context_serial = stream->exec->serial;
    /* Relaxed: a number only. */
    stream->id = atomic_fetch_add_explicit(&ids, 1, memory_order_relaxed) + 1;
    stream->flags = flags;
    stream->priority = priority;
    stream->blocking = (flags & CU_STREAM_NON_BLOCKING) == 0;
    pthread_mutex_init(&stream->push_lock, NULL);
    sim_stream_attributes_reset(stream);
    stream->item = (struct sim_item){.stream = stream, .priority = priority, .dev = ctx->dev};
    sim_engine_lock();
    stream->sibling = stream->exec->streams;
    if (stream->sibling != NULL)
        stream->sibling->sibling_before = stream;
    stream->exec->streams = stream;
    struct sim_fence *gate = stream->exec->gate;
    if (gate != NULL && !sim_fence_done(gate))
        sim_fence_hold(gate);
    else
        gate = NULL;
    sim_engine_unlock();
    if (gate != NULL) {
        struct sim_op op = {.kind = SIM_OP_WAIT, .fence = gate};
        sim_stream_submit(stream, &op, NULL);
    }
    sim_slots_publish(stream);
    return stream;
}

void sim_stream_recycle(struct sim_stream *stream) {
    if (stream->sibling != NULL)
        stream->sibling->sibling_before = stream->sibling_before;
    if (stream->sibling_before != NULL)
        stream->sibling_before->sibling = stream->sibling;
    else
        stream->exec->streams = stream->sibling;
    free(stream->queue);
    free(stream->ends.node);
    free(stream->ends.data);
    /* Release: pairs with who waits for a stream that goes; it is told by the id. */
    atomic_store_explicit(&stream->id, 0, memory_order_release);
    sim_slots_give(&streams, stream);
}

bool sim_stream_unmake(struct sim_stream *stream) {
    if (!sim_handle_end(stream))
        return false;
    sim_engine_lock();
    stream->destroyed = true;
    /* Relaxed: nobody queues in a stream that is destroyed; what is queued already keeps it. */
    if (atomic_load_explicit(&stream->active, memory_order_relaxed) == 0)
        sim_stream_recycle(stream);
    sim_engine_unlock();
    return true;
}

void sim_stream_prioritise(struct sim_stream *stream, int priority) {
    if (priority > 0)
        priority = 0;
    if (priority < stream->ctx->priority_greatest)
        priority = stream->ctx->priority_greatest;
    sim_engine_lock();
    stream->priority = priority;
    sim_engine_unlock();
}

struct sim_stream *sim_stream_find(CUstream handle) {
    return sim_slots_get(&streams, handle);
}

struct sim_context *sim_stream_context(const struct sim_stream *stream) {
    return stream->ctx;
}

/* ---- Per-thread default streams ------------------------------------------------------------ */

struct thread_stream {
    uint32_t serial; /* of the context */
    struct sim_stream *stream;
    struct thread_stream *next;
};

static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

/* At a thread's end its default streams go; what they hold is still carried out. */
static void end_thread(void *first) {
    for (struct thread_stream *own = first, *next; own != NULL; own = next) {
        next = own->next;
        if (sim_ready() == CUDA_SUCCESS && sim_stream_find((CUstream)own->stream) != NULL &&
            own->stream->context_serial == own->serial && own->stream->per_thread)
            sim_stream_unmake(own->stream);
        free(own);
    }
}

static void make_thread_key(void) { pthread_key_create(&thread_key, end_thread); }

static CUresult find_thread_stream(struct sim_exec *exec, struct sim_stream **stream) {
    pthread_once(&thread_once, make_thread_key);
    struct thread_stream *first = pthread_getspecific(thread_key);
    for (struct thread_stream *own = first; own != NULL; own = own->next) {
        if (own->serial == exec->serial) {
            *stream = own->stream;
            return CUDA_SUCCESS;
        }
    }
    struct thread_stream *own = malloc(sizeof *own);
    struct sim_stream *made = own == NULL ? NULL : sim_stream_make(exec->ctx, CU_STREAM_DEFAULT, 0);
    if (made == NULL) {
        free(own);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    made->per_thread = true;
    *own = (struct thread_stream){.serial = exec->serial, .stream = made, .next = first};
    pthread_setspecific(thread_key, own);
    *stream = made;
    return CUDA_SUCCESS;
}

/* ---- Finding ------------------------------------------------------------------------------- */

CUresult sim_stream_resolve(struct sim_context *ctx, CUstream handle, bool per_thread,
                            struct sim_stream **stream) {
    if (handle == NULL)
        handle = per_thread ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY;
    if (handle == CU_STREAM_LEGACY) {
        *stream = sim_exec_of(ctx)->legacy;
        return CUDA_SUCCESS;
    }
    if (handle == CU_STREAM_PER_THREAD)
        return find_thread_stream(sim_exec_of(ctx), stream);
    struct sim_stream *found = sim_stream_find(handle);
    if (found == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    *stream = found;
    return CUDA_SUCCESS;
}

CUresult sim_stream_enter(CUstream handle, bool per_thread, struct sim_stream **stream) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    return result != CUDA_SUCCESS ? result : sim_stream_resolve(ctx, handle, per_thread, stream);
}

CUresult sim_stream_enter_work(CUstream handle, bool per_thread, struct sim_stream **stream) {
    CUresult result = sim_stream_enter(handle, per_thread, stream);
    if (result == CUDA_SUCCESS && (*stream)->legacy &&
        atomic_load_explicit(&(*stream)->exec->capturing, memory_order_relaxed) != 0)
        return sim_capture_implicit((*stream)->exec);
    return result;
}

CUresult sim_stream_enter_sync(CUstream handle, bool per_thread, struct sim_stream **stream) {
    CUresult result = sim_stream_enter_work(handle, per_thread, stream);
    if (result == CUDA_SUCCESS)
        result = sim_stream_capturing(*stream) ? sim_capture_forbid_stream(*stream)
                                               : sim_capture_unsafe();
    return result;
}

bool sim_stream_capturing(const struct sim_stream *stream) {
    /* Acquire: pairs with the release at a capture's end. */
    return atomic_load_explicit(&stream->capture, memory_order_acquire) != NULL;
}

/* ---- Waiting ------------------------------------------------------------------------------- */

bool sim_stream_finished(struct sim_stream *stream) {
    if (stream->legacy ? sim_stream_idle(stream) : sim_stream_empty(stream))
        return true;
    sim_engine_poll();
    return stream->legacy ? sim_stream_idle(stream) : sim_stream_empty(stream);
}

void sim_stream_finish(struct sim_stream *stream) {
    if (stream->legacy) {
        /* Its order makes it wait for the blocking streams: put something there to wait for. */
        struct sim_op op = {.kind = SIM_OP_NOTHING};
        uint64_t position = 0;
        if (!sim_stream_idle(stream) && sim_stream_submit(stream, &op, &position) == CUDA_SUCCESS)
            sim_stream_wait(stream, sim_stream_id(stream), position);
        return;
    }
    sim_stream_wait(stream, sim_stream_id(stream), sim_stream_tail(stream));
}

static CUresult query(CUstream handle, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_sync(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(stream->exec->dev, SIM_COST_EVENT_QUERY);
    if (!sim_stream_finished(stream))
        return CUDA_ERROR_NOT_READY;
    return CUDA_SUCCESS;
}

static CUresult synchronize(CUstream handle, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_sync(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    CUdevice dev = stream->exec->dev;
    sim_cost(dev, SIM_COST_SYNC);
    sim_stream_finish(stream);
    sim_exec_synced(dev);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamQuery(CUstream stream) { return query(stream, false); }
CUresult CUDAAPI cuStreamQuery_ptsz(CUstream stream) { return query(stream, true); }
CUresult CUDAAPI cuStreamSynchronize(CUstream stream) { return synchronize(stream, false); }
CUresult CUDAAPI cuStreamSynchronize_ptsz(CUstream stream) { return synchronize(stream, true); }

/* ---- Creation ------------------------------------------------------------------------------ */

CUresult sim_stream_create(struct sim_context *ctx, CUstream *handle, unsigned flags,
                           int priority) {
    if (handle == NULL || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    sim_cost(ctx->dev, SIM_COST_STREAM_CREATE);
    if (priority > 0)
        priority = 0;
    if (priority < ctx->priority_greatest)
        priority = ctx->priority_greatest;
    struct sim_stream *stream = sim_stream_make(ctx, flags, priority);
    if (stream == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = (CUstream)stream;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamCreate(CUstream *handle, unsigned flags) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    return result != CUDA_SUCCESS ? result : sim_stream_create(ctx, handle, flags, 0);
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *handle, unsigned flags, int priority) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    return result != CUDA_SUCCESS ? result : sim_stream_create(ctx, handle, flags, priority);
}

static CUresult destroy(CUstream handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_stream *stream = sim_stream_find(handle);
    if (stream == NULL || stream->per_thread || stream->legacy)
        return CUDA_ERROR_INVALID_HANDLE;
    if (sim_stream_capturing(stream))
        sim_capture_lose_stream(stream);
    sim_cost(stream->item.dev, SIM_COST_STREAM_DESTROY);
    return sim_stream_unmake(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuStreamDestroy(CUstream stream) { return destroy(stream); }
CUresult CUDAAPI cuStreamDestroy_v2(CUstream stream) { return destroy(stream); }
