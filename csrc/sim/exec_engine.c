/* The engine: carries queued work out in the order of simulated time.
 *
 * It is a discrete-event simulation driven by whoever looks: a thread that queues, asks or waits,
 * or the engine's own thread when nobody else would in time. A look that comes late finds the
 * same past as one in time: kernels are dated by the device's clock, not by the look.
 */
#include "exec_impl.h"

struct sim_engine sim_engine = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .deadline_ns = SIM_NEVER,
};

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* ---- Lists --------------------------------------------------------------------------------- */

static struct sim_item **list_of(struct sim_item *item) {
    switch (item->state) {
    case SIM_ITEM_FUTURE:
        return &sim_engine.future;
    case SIM_ITEM_TIMED:
        return &sim_engine.timed;
    case SIM_ITEM_POLLING:
        return &sim_engine.polling;
    case SIM_ITEM_ORDERED:
        return &item->stream->exec->blocked;
    case SIM_ITEM_FENCED:
        return &item->fence->waiters;
    case SIM_ITEM_QUEUED:
        return &sim_item_device(item)->queued;
    case SIM_ITEM_RUNNING:
        return &sim_item_device(item)->running;
    default:
        return NULL;
    }
}

/* Whether `a` comes before `b` in the list of their state. */
static bool before(const struct sim_item *a, const struct sim_item *b) {
    switch (a->state) {
    case SIM_ITEM_FUTURE:
        return a->ready_ns < b->ready_ns;
    case SIM_ITEM_QUEUED:
        if (a->priority != b->priority)
            return a->priority < b->priority;
        if (a->ready_ns != b->ready_ns)
            return a->ready_ns < b->ready_ns;
        return a->op->ticket < b->op->ticket;
    case SIM_ITEM_RUNNING:
    case SIM_ITEM_TIMED:
        return a->end_ns < b->end_ns;
    default:
        return true; /* no order: in front */
    }
}

static void enlist(struct sim_item *item, enum sim_item_state state) {
    item->state = state;
    struct sim_item **head = list_of(item), *after = NULL, *next = *head;
    while (next != NULL && !before(item, next)) {
        after = next;
        next = next->next;
    }
    item->previous = after;
    item->next = next;
    if (next != NULL)
        next->previous = item;
    if (after != NULL)
        after->next = item;
    else
        *head = item;
}

static void delist(struct sim_item *item) {
    struct sim_item **head = list_of(item);
    if (head == NULL)
        return;
    if (item->next != NULL)
        item->next->previous = item->previous;
    if (item->previous != NULL)
        item->previous->next = item->next;
    else
        *head = item->next;
    item->state = SIM_ITEM_IDLE;
}

void sim_engine_pend(struct sim_item *item) {
    if (item->state == SIM_ITEM_PENDING)
        return;
    delist(item);
    item->state = SIM_ITEM_PENDING;
    item->next = NULL;
    if (sim_engine.work == NULL)
        sim_engine.work = item;
    else
        sim_engine.work_last->next = item;
    sim_engine.work_last = item;
}

void sim_engine_drop(struct sim_item *item) {
    if (item->state != SIM_ITEM_IDLE && item->state != SIM_ITEM_RUNNING &&
        item->state != SIM_ITEM_TIMED && item->state != SIM_ITEM_AWAY)
        sim_engine_pend(item);
}

static void pend_all(struct sim_item **list) {
    while (*list != NULL)
        sim_engine_pend(*list);
}

/* ---- Streams come and go ------------------------------------------------------------------- */

static void leave_active(struct sim_stream *stream) {
    if (stream->next != NULL)
        stream->next->previous = stream->previous;
    if (stream->previous != NULL)
        stream->previous->next = stream->next;
    else
        sim_engine.active = stream->next;
}

static void join_active(struct sim_stream *stream) {
    stream->previous = NULL;
    stream->next = sim_engine.active;
    if (sim_engine.active != NULL)
        sim_engine.active->previous = stream;
    sim_engine.active = stream;
}

/* Takes up the stream's next operation, or lets the stream go when there is none. */
static void next_operation(struct sim_stream *stream) {
    uint64_t head = sim_stream_head(stream);
    if (head == sim_stream_tail(stream)) {
        stream->item.state = SIM_ITEM_IDLE;
        stream->item.op = NULL;
        leave_active(stream);
        /* Sequentially consistent fence: pairs with the one of who queues. Either that finds 0,
         * or what was queued is seen here. */
        atomic_store_explicit(&stream->active, 0, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        if (head == sim_stream_tail(stream) ||
            atomic_exchange_explicit(&stream->active, 1, memory_order_acq_rel) != 0) {
            if (stream->destroyed &&
                atomic_load_explicit(&stream->active, memory_order_relaxed) == 0)
                sim_stream_recycle(stream);
            return;
        }
        join_active(stream);
    }
    struct sim_item *item = &stream->item;
    item->op = sim_stream_slot(stream, head);
    item->effected = false;
    item->priority =
        (item->op->flags & SIM_OP_PRIORITY) != 0 ? item->op->kernel.priority : stream->priority;
    item->ready_ns = most(item->op->queued_ns, stream->last_ns);
    item->since_ns = item->ready_ns;
    if (stream->scanned <= head) {
        stream->scanned = head + 1;
        stream->scanned_ns = 0;
    } else if (item->op->sms != 0) {
        stream->scanned_ns -= least(stream->scanned_ns, item->op->ns);
    }
    sim_engine_pend(item);
}

/* Takes in the streams that have got work since the last time. */
static void take_incoming(void) {
    /* Acquire: pairs with the release push in sim_stream_submit. */
    struct sim_stream *stream =
        atomic_exchange_explicit(&sim_engine.incoming, NULL, memory_order_acquire);
    while (stream != NULL) {
        struct sim_stream *next = stream->incoming;
        join_active(stream);
        next_operation(stream);
        stream = next;
    }
}

/* ---- Completion ---------------------------------------------------------------------------- */

static bool changed; /* E: the waiters have reason to look again */

void sim_engine_complete_fence(struct sim_fence *fence, uint64_t time_ns) {
    fence->stream = NULL;
    sim_fence_finish(fence, time_ns);
    pend_all(&fence->waiters);
    changed = true;
}

static void complete(struct sim_item *item, uint64_t time_ns) {
    if (sim_tracing(sim_state))
        sim_record_item(item, time_ns);
    while (item->run != NULL) {
        struct sim_item *launch;
        uint64_t end_ns;
        item->state = SIM_ITEM_IDLE;
        if (!sim_run_node_done(item->run, item, time_ns, &launch, &end_ns))
            return;
        item = launch;
        time_ns = end_ns;
        if (sim_tracing(sim_state))
            sim_record_item(item, time_ns);
    }
    struct sim_stream *stream = item->stream;
    struct sim_exec *exec = stream->exec;
    item->state = SIM_ITEM_IDLE;
    stream->last_ns = time_ns;
    sim_op_release(item->op);
    /* Release: the effects come before who finds the operation done. */
    atomic_store_explicit(&stream->head, sim_stream_head(stream) + 1, memory_order_release);
    if (stream->blocking)
        atomic_fetch_sub_explicit(&exec->ordered, 1, memory_order_release);
    atomic_fetch_sub_explicit(&sim_engine.devices[exec->dev].unfinished, 1, memory_order_release);
    changed = true;
    exec->blocked_ticket = SIM_NEVER;
    while (exec->blocked != NULL) {
        exec->blocked->ready_ns = most(exec->blocked->ready_ns, time_ns);
        sim_engine_pend(exec->blocked);
    }
    next_operation(stream);
}

/* ---- One item's turn ----------------------------------------------------------------------- */

/* Whether the legacy default stream's order holds the head of `stream` back. */
static bool held_by_order(const struct sim_stream *stream, const struct sim_op *op) {
    if (!stream->blocking)
        return false;
    if (!stream->legacy) {
        const struct sim_stream *legacy = stream->exec->legacy;
        return sim_stream_head(legacy) != sim_stream_tail(legacy) &&
               sim_stream_slot(legacy, sim_stream_head(legacy))->ticket < op->ticket;
    }
    for (const struct sim_stream *other = sim_engine.active; other != NULL; other = other->next)
        if (other->exec == stream->exec && other->blocking && !other->legacy &&
            other->item.op != NULL && other->item.op->ticket < op->ticket)
            return true;
    return false;
}

static void hold_by_order(struct sim_item *item) {
    struct sim_exec *exec = item->stream->exec;
    if (item->op->ticket < exec->blocked_ticket) {
        exec->blocked_ticket = item->op->ticket;
        for (struct sim_stream *stream = sim_engine.active; stream != NULL; stream = stream->next)
            if (stream->exec == exec)
                sim_stream_rescan(stream);
    }
    enlist(item, SIM_ITEM_ORDERED);
}

static void hold_by_fence(struct sim_item *item, struct sim_fence *fence) {
    item->fence = fence;
    if (fence->waiters == NULL && fence->stream != NULL && fence->stream != item->stream)
        sim_stream_rescan(fence->stream);
    enlist(item, SIM_ITEM_FENCED);
}

/* Takes the time that the operation takes, after its effect, from `ready_ns` on. */
static void spend(struct sim_item *item) {
    const struct sim_op *op = item->op;
    if (op->ns == 0) {
        complete(item, item->ready_ns);
    } else if (op->sms != 0) {
        sim_clock_open(sim_item_device(item), item->dev);
        enlist(item, SIM_ITEM_QUEUED);
    } else {
        /* Time without processors is a copy's to or from outside the device. */
        struct sim_engine_device *device = sim_item_device(item);
        sim_clock_open(device, item->dev);
        bool begins = sim_timeline_copy(device->timeline, device->entry, sim_engine.now_ns,
                                        item->ready_ns, op->ns, op->lane, &item->start_ns);
        if (begins) {
            item->end_ns = item->start_ns + op->ns;
            enlist(item, SIM_ITEM_TIMED);
        } else {
            item->ready_ns = item->start_ns; /* looks again when one may be free */
            enlist(item, SIM_ITEM_FUTURE);
        }
    }
}

void sim_engine_report(struct sim_item *item) {
    changed = true; /* who waits did not know till when: now it can be told */
    if (item->op->ns != 0) {
        spend(item);
        return;
    }
    /* What no model dates took the time that it took. */
    item->end_ns = most(sim_now_ns(), item->ready_ns);
    enlist(item, SIM_ITEM_TIMED);
}

static void call_out(struct sim_item *item) {
    void (*fn)(void *) = item->op->call.fn;
    void *arg = item->op->call.arg;
    item->op->call.fn = NULL; /* called once: releasing the operation would call it too */
    item->state = SIM_ITEM_AWAY;
    sim_engine_unlock();
    fn(arg);
    sim_engine_lock();
    complete(item, item->ready_ns);
}

/* Something was written at `time_ns`, which may be what they wait for. */
static void pend_polls(uint64_t time_ns) {
    while (sim_engine.polling != NULL) {
        sim_engine.polling->ready_ns = most(sim_engine.polling->ready_ns, time_ns);
        sim_engine_pend(sim_engine.polling);
    }
}

void sim_engine_written(void) {
    sim_engine_lock();
    if (sim_engine.polling != NULL)
        pend_polls(sim_now_ns());
    uint64_t need_ns = sim_engine_advance();
    sim_engine_unlock();
    sim_engine_need(need_ns);
}

static void poll_word(struct sim_item *item) {
    if (sim_effect(item->op)) {
        complete(item, item->ready_ns);
        return;
    }
    if (sim_engine.polling == NULL) {
        sim_engine.poll_ns = SIM_POLL_FIRST_NS;
        sim_engine.poll_next_ns = sim_engine.now_ns + SIM_POLL_FIRST_NS;
        atomic_store_explicit(&sim_engine.words, 1, memory_order_relaxed);
    }
    enlist(item, SIM_ITEM_POLLING);
}

static void effect(struct sim_item *item) {
    if (!item->effected) {
        item->effected = true;
        if (sim_effect_bytes(item->op) > SIM_INLINE_BYTES) {
            item->state = SIM_ITEM_AWAY;
            if (sim_thread_copy(item))
                return;
        }
        sim_effect(item->op);
        pend_polls(item->ready_ns);
    }
    spend(item);
}

/* What a dying context does with its work. */
static void drop(struct sim_item *item) {
    if (item->op->kind == SIM_OP_CALL && item->op->call.fn != NULL) {
        call_out(item);
        return;
    }
    if (item->op->kind == SIM_OP_GRAPH) { /* its nodes are dropped one by one */
        item->state = SIM_ITEM_AWAY;
        sim_run_start(item->op->run, item, item->ready_ns);
        return;
    }
    if (item->op->kind == SIM_OP_RECORD)
        sim_engine_complete_fence(item->op->fence, sim_engine.time_ns);
    complete(item, sim_engine.time_ns);
}

/* The fence that has to be done before the operation, or NULL. */
static struct sim_fence *awaited(const struct sim_op *op) {
    if (op->kind == SIM_OP_WAIT)
        return op->fence;
    return op->kind == SIM_OP_GRAPH ? sim_run_before(op->run) : NULL;
}

static void look_at(struct sim_item *item) {
    struct sim_op *op = item->op;
    if (item->stream->exec->dying) {
        drop(item);
        return;
    }
    struct sim_fence *fence = NULL;
    if (item->ready_ns <= sim_engine.time_ns) {
        if (item->run == NULL && held_by_order(item->stream, op)) {
            hold_by_order(item);
            return;
        }
        fence = awaited(op);
        if (fence != NULL && !sim_fence_done(fence)) {
            hold_by_fence(item, fence);
            return;
        }
        if (fence != NULL)
            item->ready_ns = most(item->ready_ns, fence->time_ns);
    }
    if (item->ready_ns > sim_engine.time_ns) {
        enlist(item, SIM_ITEM_FUTURE);
        return;
    }
    switch (op->kind) {
    case SIM_OP_RECORD:
        sim_engine_complete_fence(op->fence, item->ready_ns);
        complete(item, item->ready_ns);
        return;
    case SIM_OP_POLL:
    case SIM_OP_SHARED:
        poll_word(item);
        return;
    case SIM_OP_CALL:
        call_out(item);
        return;
    case SIM_OP_HOST:
        item->state = SIM_ITEM_AWAY;
        if (!sim_thread_host(item))
            sim_engine_report(item);
        return;
    case SIM_OP_GRAPH:
        item->state = SIM_ITEM_AWAY;
        sim_run_start(op->run, item, item->ready_ns);
        return;
    case SIM_OP_NOTHING:
    case SIM_OP_KERNEL:
    case SIM_OP_WAIT:
        spend(item);
        return;
    default:
        effect(item);
        return;
    }
}

/* ---- Processors ---------------------------------------------------------------------------- */

/* Starts kernels in their order as far as there are processors; one that does not fit holds back
 * those behind it, as its blocks would take whatever comes free. */
static void start_kernels(struct sim_engine_device *device) {
    uint64_t since_ns = SIM_NEVER;
    while (device->queued != NULL) {
        struct sim_item *item = device->queued;
        uint32_t sms = item->op->sms < device->sms ? item->op->sms : device->sms;
        if (sms > device->sms_free)
            break;
        delist(item);
        device->sms_free -= sms;
        item->sms = sms;
        item->begin_ns = sim_clock_run_at(device, sim_engine.time_ns);
        item->start_ns = sim_engine.time_ns;
        item->ran_ns = 0;
        item->end_ns = item->begin_ns + item->op->ns;
        enlist(item, SIM_ITEM_RUNNING);
        if (item->end_ns > device->posted_ns ||
            (device->together && device->sms - device->sms_free != device->posted_sms))
            since_ns = least(since_ns, sim_engine.time_ns);
    }
    if (since_ns != SIM_NEVER)
        sim_clock_post(device, sim_engine.now_ns, since_ns, sim_device_foreseen(device));
}

static void end_kernel(struct sim_engine_device *device) {
    struct sim_item *item = device->running;
    delist(item);
    device->sms_free += item->sms;
    complete(item, sim_engine.time_ns);
}

/* ---- The loop ------------------------------------------------------------------------------ */

static void wake_waiters(void) {
    if (!changed)
        return;
    changed = false;
    if (sim_engine.waiters == 0)
        return;
    /* Relaxed: the kernel compares it; what waiters read they read under the lock. */
    atomic_fetch_add_explicit(&sim_engine.progress, 1, memory_order_relaxed);
    sim_futex_wake(&sim_engine.progress, INT32_MAX);
}

/* Brings simulated time to its next event; false when none is due yet. */
static bool next_event(void) {
    uint64_t when_ns = SIM_NEVER;
    struct sim_engine_device *ending = NULL;
    for (int dev = 0; dev < SIM_DEVICES_MAX; dev++) {
        struct sim_engine_device *device = &sim_engine.devices[dev];
        if (device->running == NULL)
            continue;
        uint64_t end_ns = sim_clock_real_at(device, device->running->end_ns);
        if (end_ns < when_ns) {
            when_ns = end_ns;
            ending = device;
        }
    }
    struct sim_item *item = NULL;
    if (sim_engine.timed != NULL && sim_engine.timed->end_ns < when_ns) {
        item = sim_engine.timed;
        when_ns = item->end_ns;
    }
    if (sim_engine.future != NULL && sim_engine.future->ready_ns < when_ns) {
        item = sim_engine.future;
        when_ns = item->ready_ns;
    }
    if (when_ns > sim_engine.now_ns)
        return false;
    sim_engine.time_ns = most(sim_engine.time_ns, when_ns);
    if (item == NULL) {
        end_kernel(ending);
    } else if (item->state == SIM_ITEM_FUTURE) {
        sim_engine_pend(item);
    } else {
        delist(item);
        complete(item, item->end_ns);
    }
    return true;
}

/* Looks at the words that are waited for, at growing intervals: what the host or another process
 * writes gives no sign. It was written before the look ended, and perhaps after it began: `now_ns`
 * goes on to then, lest it count as written before what was queued ahead of it. */
static void look_at_words(void) {
    if (sim_engine.polling == NULL) {
        atomic_store_explicit(&sim_engine.words, 0, memory_order_relaxed);
        return;
    }
    if (sim_engine.now_ns < sim_engine.poll_next_ns)
        return;
    for (struct sim_item *item = sim_engine.polling, *next; item != NULL; item = next) {
        next = item->next;
        if (sim_effect(item->op)) {
            sim_engine.now_ns = most(sim_engine.now_ns, sim_now_ns());
            delist(item);
            item->end_ns = most(sim_engine.now_ns, item->ready_ns);
            enlist(item, SIM_ITEM_TIMED);
        }
    }
    sim_engine.poll_ns = least(sim_engine.poll_ns * 2, SIM_POLL_LAST_NS);
    sim_engine.poll_next_ns = sim_engine.now_ns + sim_engine.poll_ns;
}

uint64_t sim_engine_advance(void) {
    sim_engine.now_ns = most(sim_engine.now_ns, sim_now_ns());
    look_at_words();
    for (int dev = 0; dev < SIM_DEVICES_MAX; dev++) {
        struct sim_engine_device *device = &sim_engine.devices[dev];
        if (device->running != NULL) {
            sim_clock_forget(device, sim_engine.time_ns);
            sim_clock_look(device, sim_engine.now_ns);
        }
    }
    take_incoming();
    uint64_t need_ns;
    do {
        do {
            while (sim_engine.work != NULL) {
                struct sim_item *item = sim_engine.work;
                sim_engine.work = item->next;
                item->state = SIM_ITEM_IDLE;
                look_at(item);
            }
            for (int dev = 0; dev < SIM_DEVICES_MAX; dev++)
                if (sim_engine.devices[dev].queued != NULL)
                    start_kernels(&sim_engine.devices[dev]);
            take_incoming();
        } while (sim_engine.work != NULL || next_event());
    } while (!sim_engine_settle(&need_ns));
    wake_waiters();
    return need_ns;
}
