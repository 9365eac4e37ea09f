/* What is certain to come: how long kernels that are already queued will keep the device busy, and
 * when somebody has to look so that everything else happens in time. */
#include "exec_impl.h"

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Whether the engine itself has to be there when this operation's turn comes. */
static bool needs_engine(const struct sim_stream *stream, const struct sim_op *op) {
    if (stream->exec->dying)
        return true; /* it is dropped, not run */
    if (stream->blocking && op->ticket > stream->exec->blocked_ticket)
        return true; /* others wait for all that was before it */
    switch (op->kind) {
    case SIM_OP_KERNEL:
        return false;
    case SIM_OP_NOTHING:
        return op->ns != 0 && op->sms == 0;
    case SIM_OP_RECORD:
        return op->fence->waiters != NULL || op->fence->shared != NULL;
    default:
        return true;
    }
}

/* Whether the engine has to be there because the operation takes other processors than the head:
 * where processes run together, that changes how fast all of them go. */
static bool changes_pace(const struct sim_stream *stream, const struct sim_op *op) {
    return op->sms != 0 && sim_engine.devices[stream->exec->dev].together &&
           stream->item.op != NULL && op->sms != stream->item.op->sms;
}

/* Extends `scanned` over the kernels that follow the head without a gap. */
static void scan(struct sim_stream *stream, uint64_t limit) {
    limit = least(limit, sim_stream_tail(stream));
    while (stream->scanned < limit) {
        const struct sim_op *op = sim_stream_slot(stream, stream->scanned);
        if (needs_engine(stream, op) || changes_pace(stream, op))
            return;
        if (op->sms != 0)
            stream->scanned_ns += op->ns;
        stream->scanned++;
    }
}

void sim_stream_rescan(struct sim_stream *stream) {
    stream->scanned = sim_stream_head(stream) + 1;
    stream->scanned_ns = 0;
}

/* Device time that is certain to follow the item's own. */
static uint64_t following(struct sim_item *item) {
    if (item->run != NULL)
        return item->tail_ns;
    scan(item->stream, SIM_NEVER);
    return item->stream->scanned_ns;
}

uint64_t sim_device_foreseen(struct sim_engine_device *device) {
    uint64_t run_ns = 0;
    for (struct sim_item *item = device->running; item != NULL; item = item->next)
        run_ns = most(run_ns, item->end_ns + following(item));
    /* Kernels of one stream follow each other, so that a queued one and what follows it take at
     * least their sum from now on. */
    for (struct sim_item *item = device->queued; item != NULL; item = item->next)
        run_ns = most(run_ns, device->run_ns + item->op->ns + following(item));
    return run_ns;
}

/* Settles one stream. Readings of the device's clock at which the engine has to look go to
 * *need_run_ns, real times to *need_ns. */
static enum sim_watch settle_stream(struct sim_stream *stream, uint64_t tail, uint64_t *need_run_ns,
                                    uint64_t *need_ns) {
    struct sim_item *item = &stream->item;
    const struct sim_engine_device *device = sim_item_device(item);
    bool watched = stream->exec->blocked != NULL;
    switch (item->state) {
    case SIM_ITEM_RUNNING:
    case SIM_ITEM_QUEUED: {
        uint64_t follows_ns = following(item);
        if (stream->scanned >= tail && !watched)
            return SIM_WATCH_KERNELS;
        if (item->state == SIM_ITEM_RUNNING)
            *need_run_ns = least(*need_run_ns, item->end_ns + follows_ns);
        else if (device->running != NULL)
            *need_run_ns = least(*need_run_ns, device->running->end_ns);
        return SIM_WATCH_ALL;
    }
    case SIM_ITEM_TIMED:
        if (sim_stream_head(stream) + 1 == tail && !watched)
            return SIM_WATCH_NONE;
        *need_ns = least(*need_ns, item->end_ns);
        return SIM_WATCH_ALL;
    case SIM_ITEM_FUTURE:
        *need_ns = least(*need_ns, item->ready_ns);
        return SIM_WATCH_ALL;
    default:
        return SIM_WATCH_ALL; /* a report, a fence or the legacy order will come by */
    }
}

/* Nodes of running graphs: the engine has to be there whenever a chain of kernels ends. */
static void settle_runs(const struct sim_engine_device *device, uint64_t *need_run_ns) {
    for (const struct sim_item *item = device->running; item != NULL; item = item->next)
        if (item->run != NULL)
            *need_run_ns = least(*need_run_ns, item->end_ns + item->quiet_ns);
    for (const struct sim_item *item = device->queued; item != NULL; item = item->next)
        if (item->run != NULL && device->running != NULL)
            *need_run_ns = least(*need_run_ns, device->running->end_ns);
}

bool sim_engine_settle(uint64_t *need_ns) {
    uint64_t need_run_ns[SIM_DEVICES_MAX];
    bool settled = true;
    *need_ns = sim_engine.polling != NULL ? sim_engine.poll_next_ns : SIM_NEVER;
    for (int dev = 0; dev < SIM_DEVICES_MAX; dev++) {
        struct sim_engine_device *device = &sim_engine.devices[dev];
        need_run_ns[dev] = SIM_NEVER;
        settle_runs(device, &need_run_ns[dev]);
        /* One that ends beside others leaves processors, by which the others' pace may change, and
         * so may the next node of a graph. */
        if (device->together && device->running != NULL &&
            (device->running->next != NULL || device->running->run != NULL))
            need_run_ns[dev] = device->running->end_ns;
    }
    for (struct sim_stream *stream = sim_engine.active; stream != NULL; stream = stream->next) {
        uint64_t tail = sim_stream_tail(stream);
        enum sim_watch watch = settle_stream(stream, tail, &need_run_ns[stream->item.dev], need_ns);
        atomic_store_explicit(&stream->watch, watch, memory_order_relaxed);
        /* Sequentially consistent fence: pairs with the one of who queues. Either that sees the
         * new value, or what was queued is seen here. */
        if (watch != SIM_WATCH_ALL) {
            atomic_thread_fence(memory_order_seq_cst);
            settled = settled && sim_stream_tail(stream) == tail;
        }
    }
    if (!settled)
        return false;
    for (const struct sim_item *item = sim_engine.timed; item != NULL; item = item->next)
        if (item->run != NULL)
            *need_ns = least(*need_ns, item->end_ns);
    for (const struct sim_item *item = sim_engine.future; item != NULL; item = item->next)
        if (item->run != NULL)
            *need_ns = least(*need_ns, item->ready_ns);
    for (int dev = 0; dev < SIM_DEVICES_MAX; dev++) {
        struct sim_engine_device *device = &sim_engine.devices[dev];
        uint64_t horizon_ns = 0;
        if (device->running != NULL) {
            uint64_t run_ns = sim_device_foreseen(device);
            if (run_ns > device->posted_ns ||
                (device->together && device->posted_sms != device->sms - device->sms_free))
                sim_clock_post(device, sim_engine.now_ns, sim_engine.now_ns, run_ns);
            horizon_ns = sim_clock_predict(device, device->posted_ns);
        }
        atomic_store_explicit(&device->horizon_ns, horizon_ns, memory_order_relaxed);
        if (need_run_ns[dev] != SIM_NEVER)
            *need_ns = least(*need_ns, sim_clock_predict(device, need_run_ns[dev]));
    }
    return true;
}

void sim_engine_retract(CUdevice dev) {
    struct sim_engine_device *device = &sim_engine.devices[dev];
    uint64_t run_ns = sim_device_foreseen(device);
    if (device->timeline != NULL && run_ns < device->posted_ns)
        sim_clock_post(device, sim_engine.now_ns, sim_engine.now_ns, run_ns);
}

uint64_t sim_stream_due(struct sim_stream *stream, uint64_t position) {
    const struct sim_item *item = &stream->item;
    struct sim_engine_device *device = sim_item_device(item);
    switch (item->state) {
    case SIM_ITEM_TIMED:
        return item->end_ns;
    case SIM_ITEM_FUTURE:
        return item->ready_ns;
    case SIM_ITEM_QUEUED:
        return device->running == NULL ? SIM_NEVER
                                       : sim_clock_predict(device, device->running->end_ns);
    case SIM_ITEM_RUNNING: {
        uint64_t follows_ns = 0;
        scan(stream, position);
        if (position >= stream->scanned) {
            follows_ns = stream->scanned_ns;
        } else {
            for (uint64_t at = sim_stream_head(stream) + 1; at < position; at++) {
                const struct sim_op *op = sim_stream_slot(stream, at);
                follows_ns += op->sms != 0 ? op->ns : 0;
            }
        }
        return sim_clock_predict(device, item->end_ns + follows_ns);
    }
    default:
        return SIM_NEVER;
    }
}
