/* Queueing work and waiting for it: the application's side of the engine. */
#include "event_shared.h"
#include "exec_impl.h"

#include <stdlib.h>
#include <time.h>

uint64_t sim_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Fences -------------------------------------------------------------------------------- */

struct sim_fence *sim_fence_new(void) {
    struct sim_fence *fence = calloc(1, sizeof *fence);
    if (fence != NULL)
        atomic_store_explicit(&fence->refs, 1, memory_order_relaxed); /* not shared yet */
    return fence;
}

void sim_fence_finish(struct sim_fence *fence, uint64_t time_ns) {
    fence->time_ns = time_ns;
    /* Release: pairs with sim_fence_done. */
    atomic_store_explicit(&fence->done, 1, memory_order_release);
    if (fence->shared != NULL)
        sim_shared_event_complete(fence->shared, fence->number);
}

void sim_fence_hold(struct sim_fence *fence) {
    /* Relaxed: who takes a reference has one, or holds the lock of one who has. */
    atomic_fetch_add_explicit(&fence->refs, 1, memory_order_relaxed);
}

void sim_fence_drop(struct sim_fence *fence) {
    /* Acquire-release: the last one sees all that the others did with it. */
    if (fence != NULL && atomic_fetch_sub_explicit(&fence->refs, 1, memory_order_acq_rel) == 1)
        free(fence);
}

/* ---- Queueing ------------------------------------------------------------------------------ */

void sim_op_release(struct sim_op *op) {
    switch (op->kind) {
    case SIM_OP_RECORD:
    case SIM_OP_WAIT:
        sim_fence_drop(op->fence);
        break;
    case SIM_OP_COPY:
        if ((op->flags & SIM_OP_FREE_SOURCE) != 0)
            free((void *)(uintptr_t)op->copy.src);
        break;
    case SIM_OP_JOB:
        free(op->job->staging);
        free(op->job);
        break;
    case SIM_OP_CALL:
        if (op->call.fn != NULL)
            op->call.fn(op->call.arg);
        break;
    default:
        break;
    }
    op->kind = SIM_OP_NOTHING;
}

/* Does the operation in the caller when nothing is before it and it is quickly done. */
static bool do_at_once(struct sim_op *op) {
    switch (op->kind) {
    case SIM_OP_NOTHING:
    case SIM_OP_KERNEL:
        return true;
    case SIM_OP_RECORD:
        sim_fence_finish(op->fence, sim_now_ns());
        break;
    case SIM_OP_WAIT:
        if (!sim_fence_done(op->fence))
            return false;
        break;
    case SIM_OP_POLL:
    case SIM_OP_SHARED:
        return sim_effect(op);
    case SIM_OP_COPY:
    case SIM_OP_FILL:
    case SIM_OP_JOB:
    case SIM_OP_WRITE:
        if (sim_effect_bytes(op) > SIM_INLINE_BYTES)
            return false;
        sim_effect(op);
        if (atomic_load_explicit(&sim_engine.words, memory_order_relaxed) != 0)
            sim_engine_written();
        break;
    case SIM_OP_CALL:
        break; /* the release calls it */
    default:
        return false;
    }
    sim_op_release(op);
    return true;
}

/* Waits until a full queue has room. */
static void wait_for_room(struct sim_stream *stream);

static bool make_queue(struct sim_stream *stream) {
    if (stream->queue == NULL)
        stream->queue = malloc(SIM_STREAM_QUEUE * sizeof *stream->queue);
    return stream->queue != NULL;
}

/* Puts the operation into the queue. False: no host memory. */
static bool push(struct sim_stream *stream, const struct sim_op *op, uint64_t *queued_ns,
                 uint64_t *position) {
    struct sim_engine_device *device = &sim_engine.devices[stream->exec->dev];
    pthread_mutex_lock(&stream->push_lock);
    uint64_t tail;
    for (;;) {
        tail = atomic_load_explicit(&stream->tail, memory_order_relaxed); /* under the lock */
        /* Acquire: pairs with the engine's release of the slot. */
        if (tail - atomic_load_explicit(&stream->head, memory_order_acquire) < SIM_STREAM_QUEUE)
            break;
        pthread_mutex_unlock(&stream->push_lock);
        wait_for_room(stream);
        pthread_mutex_lock(&stream->push_lock);
    }
    if (!make_queue(stream)) {
        pthread_mutex_unlock(&stream->push_lock);
        return false;
    }
    struct sim_op *slot = sim_stream_slot(stream, tail);
    *slot = *op;
    slot->queued_ns = *queued_ns = sim_now_ns();
    /* Relaxed: numbers only; who follows another's call takes a greater one. */
    slot->ticket = atomic_fetch_add_explicit(&sim_engine.tickets, 1, memory_order_relaxed);
    if (op->kind == SIM_OP_RECORD) {
        op->fence->stream = stream;
        op->fence->position = tail + 1;
    }
    /* Relaxed: they only have to be seen by who sees this call return. */
    if (stream->blocking)
        atomic_fetch_add_explicit(&stream->exec->ordered, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&device->unfinished, 1, memory_order_relaxed);
    /* Release: pairs with sim_stream_tail. */
    atomic_store_explicit(&stream->tail, tail + 1, memory_order_release);
    pthread_mutex_unlock(&stream->push_lock);
    if (position != NULL)
        *position = tail + 1;
    return true;
}

/* Sees to it that somebody looks in time at what was queued. */
static void attend(struct sim_stream *stream, const struct sim_op *op, uint64_t queued_ns) {
    enum { LATE_NS = 1000000, SOON_NS = 2000 };
    /* Pairs with the fences in the engine's next_operation and sim_engine_settle. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&stream->active, memory_order_relaxed) == 0 &&
        atomic_exchange_explicit(&stream->active, 1, memory_order_relaxed) == 0) {
        stream->incoming = atomic_load_explicit(&sim_engine.incoming, memory_order_relaxed);
        /* Release: pairs with the engine's exchange. */
        while (!atomic_compare_exchange_weak_explicit(&sim_engine.incoming, &stream->incoming,
                                                      stream, memory_order_release,
                                                      memory_order_relaxed)) {
        }
        sim_engine_poll();
        return;
    }
    uint32_t watch = atomic_load_explicit(&stream->watch, memory_order_relaxed);
    if (watch == SIM_WATCH_ALL)
        return;
    if (watch == SIM_WATCH_KERNELS &&
        (op->kind == SIM_OP_KERNEL || (op->kind == SIM_OP_RECORD && op->fence->shared == NULL))) {
        const struct sim_engine_device *device = &sim_engine.devices[stream->exec->dev];
        uint64_t horizon_ns = atomic_load_explicit(&device->horizon_ns, memory_order_relaxed);
        if (horizon_ns > queued_ns + SOON_NS) {
            /* A device that nobody else wants waits for a late look without any loss. */
            sim_engine_need(horizon_ns + (sim_engine_alone(device) ? LATE_NS : 0));
            return;
        }
    }
    sim_engine_poll();
}

CUresult sim_stream_submit(struct sim_stream *stream, struct sim_op *op, uint64_t *position) {
    if (op->ns == 0 && !sim_tracing(sim_state) && sim_stream_idle(stream) && do_at_once(op)) {
        if (position != NULL)
            *position = 0;
        return CUDA_SUCCESS;
    }
    uint64_t queued_ns;
    if (!push(stream, op, &queued_ns, position)) {
        sim_op_release(op);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    attend(stream, op, queued_ns);
    return CUDA_SUCCESS;
}

CUresult sim_stream_call(struct sim_stream *stream, void (*fn)(void *arg), void *arg) {
    struct sim_op op = {.kind = SIM_OP_CALL, .call = {.fn = fn, .arg = arg}};
    return sim_stream_submit(stream, &op, NULL);
}

/* ---- Waiting ------------------------------------------------------------------------------- */

void sim_engine_poll(void) {
    sim_engine_lock();
    uint64_t need_ns = sim_engine_advance();
    sim_engine_unlock();
    sim_engine_need(need_ns);
}

/* What a thread waits for: a stream's completing `position` operations, or a fence. */
struct target {
    struct sim_stream *stream;
    uint64_t id; /* of the stream; it is not waited for when it has gone */
    uint64_t position;
    uint64_t aim; /* how far it is wanted in one go: it is no use to wake before that is due */
    struct sim_fence *fence;
    const char *what; /* for those who trace: why it waits */
};

static bool reached(const struct target *target) {
    if (target->fence != NULL)
        return sim_fence_done(target->fence);
    if (target->stream == NULL)
        return true;
    /* Acquire: the effects of what is done are seen. */
    return atomic_load_explicit(&target->stream->head, memory_order_acquire) >= target->position ||
           atomic_load_explicit(&target->stream->id, memory_order_acquire) != target->id;
}

/* E: before when it is no use to look. */
static uint64_t due(const struct target *target) {
    if (target->stream != NULL)
        return sim_stream_due(target->stream, target->aim);
    struct sim_stream *stream = target->fence->stream;
    return stream == NULL ? SIM_NEVER : sim_stream_due(stream, target->fence->position);
}

/* E: whose device's work is waited for; -1: that was over meanwhile. */
static CUdevice device_of(const struct target *target) {
    const struct sim_stream *stream =
        target->stream != NULL ? target->stream : target->fence->stream;
    return stream == NULL || reached(target) ? -1 : stream->exec->dev;
}

/* The waiter looks by itself, so that its kernels need no other thread. */
static void await(const struct target *target) {
    if (reached(target))
        return;
    uint64_t since_ns = sim_tracing(sim_state) ? sim_now_ns() : 0;
    sim_engine_lock();
    CUdevice dev = device_of(target);
    for (;;) {
        uint64_t need_ns = sim_engine_advance();
        if (reached(target)) {
            sim_engine_unlock();
            sim_engine_need(need_ns);
            if (since_ns != 0 && dev >= 0)
                sim_record_block(dev, target->what, since_ns);
            return;
        }
        uint64_t due_ns = due(target);
        uint64_t until_ns = need_ns < due_ns ? need_ns : due_ns;
        uint32_t seen = atomic_load_explicit(&sim_engine.progress, memory_order_relaxed);
        sim_engine.waiters++;
        sim_engine_unlock();
        until_ns = sim_engine_sweep(until_ns);
        sim_futex_wait(&sim_engine.progress, seen, until_ns);
        sim_engine_lock();
        sim_engine.waiters--;
    }
}

void sim_stream_wait(struct sim_stream *stream, uint64_t id, uint64_t position) {
    await(&(struct target){
        .stream = stream, .id = id, .position = position, .aim = position, .what = "synchronise"});
}

void sim_fence_wait(struct sim_fence *fence) {
    await(&(struct target){.fence = fence, .what = "event"});
}

static void wait_for_room(struct sim_stream *stream) {
    enum { AIM = 64 }; /* so many at a time, that the launcher does not sleep for each */
    uint64_t head = atomic_load_explicit(&stream->tail, memory_order_relaxed) - SIM_STREAM_QUEUE;
    uint64_t id = atomic_load_explicit(&stream->id, memory_order_relaxed);
    await(&(struct target){.stream = stream,
                           .id = id,
                           .position = head + 1,
                           .aim = head + AIM,
                           .what = "queue is full"});
}
