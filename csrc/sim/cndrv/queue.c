/* Queues, notifiers, and the process' clock on each device. */
#include "cndrv_sim.h"

#include <errno.h>
#include <time.h>

/* Who waits looks again so often: another process that goes lets it on sooner than it was told. */
#define LOOK_NS 1000000u

/* ---- The clock ---------------------------------------------------------------------------------- */

/* When the clock of the view read so much; it does by now. */
static uint64_t real_at(const struct sim_timeline_view *view, uint64_t run_ns) {
    for (uint32_t i = 0; i < view->knot_count; i++) {
        const struct sim_knot *b = &view->knots[i];
        if (b->run_ns < run_ns)
            continue;
        if (!i || b->run_ns == run_ns)
            return b->real_ns;
        const struct sim_knot *a = b - 1;
        return b->real_ns - (uint64_t)((__uint128_t)(b->run_ns - run_ns) *
                                       (b->real_ns - a->real_ns) / (b->run_ns - a->run_ns));
    }
    return view->now_ns;
}

/* Notifiers that are reached by now know when. */
static void take_view(struct sim_cn_device *device, const struct sim_timeline_view *view) {
    device->run_ns = view->run_ns;
    struct sim_cn_object **link = &device->pending;
    while (*link) {
        struct sim_cn_object *notifier = *link;
        if (notifier->run_ns > view->run_ns) {
            link = &notifier->next;
            continue;
        }
        notifier->real_ns = real_at(view, notifier->run_ns);
        notifier->waits = false;
        *link = notifier->next;
    }
}

static void look(struct sim_cn_device *device) {
    struct sim_timeline_view view;
    sim_timeline_look(device->timeline, device->entry, sim_state_now(), &view);
    take_view(device, &view);
}

void sim_cn_work(struct sim_cn_device *device, uint64_t *tail, uint64_t ns) {
    struct sim_timeline_view view;
    uint64_t now = sim_state_now();
    if (ns) {
        device->tail_ns += ns;
        struct sim_demand demand = {.since_ns = now, .until_ns = device->tail_ns};
        sim_timeline_demand(device->timeline, device->entry, now, &demand, &view);
        take_view(device, &view);
    }
    *tail = device->tail_ns;
}

void sim_cn_wait(struct sim_cn_device *device, uint64_t run_ns) {
    for (;;) {
        look(device);
        if (device->run_ns >= run_ns)
            return;
        uint64_t now = sim_state_now();
        uint64_t due = sim_timeline_predict(device->timeline, device->entry, run_ns);
        if (due > now + LOOK_NS)
            due = now + LOOK_NS;
        struct timespec until = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
        sim_cn_leave();
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
            ;
        /* It was initialised, and is for as long as the process is. */
        (void)sim_cn_enter();
    }
}

/* ---- Queues -------------------------------------------------------------------------------------- */

uint64_t *sim_cn_tail(CNqueue queue, struct sim_cn_device **device) {
    struct sim_cn_object *found;
    if (!queue || queue == CN_QUEUE_TYPE_PER_THREAD || queue == CN_QUEUE_TYPE_LEGACY)
        found = sim_cn_current();
    else
        found = sim_cn_find(SIM_CN_QUEUE, queue);
    if (!found)
        return NULL;
    *device = found->device;
    return &found->tail_ns;
}

static CNresult no_queue(CNqueue queue) {
    return (uintptr_t)queue > (uintptr_t)CN_QUEUE_TYPE_LEGACY ? CN_QUEUE_ERROR_INVALID
                                                              : CN_CONTEXT_ERROR_INVALID;
}

CNresult cnCreateQueueWithPriority(CNqueue *queue, unsigned int flags, int priority) {
    CNresult result = sim_cn_enter();
    (void)priority;
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *context = sim_cn_current();
    if (!context || !queue || flags)
        return sim_cn_left(context ? CN_ERROR_INVALID_VALUE : CN_CONTEXT_ERROR_INVALID);
    struct sim_cn_object *made = sim_cn_new(SIM_CN_QUEUE, context);
    if (made)
        *queue = (CNqueue)(void *)made;
    return sim_cn_left(made ? CN_SUCCESS : CN_ERROR_SYSTEM_OUT_OF_MEMORY);
}

CNresult cnCreateQueue(CNqueue *queue, unsigned int flags) {
    return cnCreateQueueWithPriority(queue, flags, 0);
}

CNresult cnDestroyQueue(CNqueue queue) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *found = sim_cn_find(SIM_CN_QUEUE, queue);
    if (!found)
        return sim_cn_left(CN_QUEUE_ERROR_INVALID);
    sim_cn_end(found);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnQueryQueue(CNqueue queue) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    const uint64_t *tail = sim_cn_tail(queue, &device);
    if (!tail)
        return sim_cn_left(no_queue(queue));
    look(device);
    return sim_cn_left(device->run_ns >= *tail ? CN_SUCCESS : CN_ERROR_NOT_READY);
}

CNresult cnQueueSync(CNqueue queue) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    const uint64_t *tail = sim_cn_tail(queue, &device);
    if (!tail)
        return sim_cn_left(no_queue(queue));
    sim_cn_wait(device, *tail);
    sim_cn_trim(device);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnQueueGetContext(CNqueue queue, CNcontext *context) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *found = sim_cn_find(SIM_CN_QUEUE, queue);
    if (!found || !context)
        return sim_cn_left(found ? CN_ERROR_INVALID_VALUE : CN_QUEUE_ERROR_INVALID);
    *context = (CNcontext)(void *)found->context;
    return sim_cn_left(CN_SUCCESS);
}

/* Captures are not there yet: cnQueueBeginCapture says so. */
CNresult cnQueueIsCapturing(CNqueue queue, CNqueueCaptureStatus *status) {
    CNresult result = sim_cn_enter();
    struct sim_cn_device *device;
    if (result != CN_SUCCESS)
        return result;
    if (!status || !sim_cn_tail(queue, &device))
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    *status = CN_QUEUE_CAPTURE_STATUS_NONE;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnThreadExchangeQueueCaptureMode(CNqueueCaptureMode *mode) {
    static __thread CNqueueCaptureMode own;
    if (!mode || (unsigned)*mode > CN_QUEUE_CAPTURE_MODE_RELAXED)
        return CN_ERROR_INVALID_VALUE;
    CNqueueCaptureMode before = own;
    own = *mode;
    *mode = before;
    return CN_SUCCESS;
}

/* ---- Notifiers ------------------------------------------------------------------------------------ */

static void forget(struct sim_cn_device *device, const struct sim_cn_object *notifier) {
    struct sim_cn_object **link = &device->pending;
    while (*link && *link != notifier)
        link = &(*link)->next;
    if (*link)
        *link = notifier->next;
}

void sim_cn_forget_pending(struct sim_cn_device *device, const struct sim_cn_object *context) {
    struct sim_cn_object **link = &device->pending;
    while (*link)
        if ((*link)->context == context)
            *link = (*link)->next;
        else
            link = &(*link)->next;
}

CNresult cnCreateNotifier(CNnotifier *notifier, unsigned int flags) {
    CNresult result = sim_cn_enter();
    (void)flags;
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *context = sim_cn_current();
    if (!context || !notifier)
        return sim_cn_left(context ? CN_ERROR_INVALID_VALUE : CN_CONTEXT_ERROR_INVALID);
    struct sim_cn_object *made = sim_cn_new(SIM_CN_NOTIFIER, context);
    if (made)
        *notifier = (CNnotifier)(void *)made;
    return sim_cn_left(made ? CN_SUCCESS : CN_ERROR_SYSTEM_OUT_OF_MEMORY);
}

CNresult cnDestroyNotifier(CNnotifier notifier) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *found = sim_cn_find(SIM_CN_NOTIFIER, notifier);
    if (!found)
        return sim_cn_left(CN_NOTIFIER_ERROR_INVALID);
    forget(found->device, found);
    sim_cn_end(found);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnPlaceNotifier(CNnotifier notifier, CNqueue queue) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    struct sim_cn_object *found = sim_cn_find(SIM_CN_NOTIFIER, notifier);
    const uint64_t *tail = sim_cn_tail(queue, &device);
    if (!found || !tail)
        return sim_cn_left(found ? no_queue(queue) : CN_NOTIFIER_ERROR_INVALID);
    if (found->device != device)
        return sim_cn_left(CN_OPS_ERROR_NOT_PERMITTED);
    forget(device, found);
    look(device);
    found->placed = true;
    found->run_ns = *tail;
    found->real_ns = sim_state_now();
    found->waits = *tail > device->run_ns;
    if (found->waits) {
        found->next = device->pending;
        device->pending = found;
    }
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnQueryNotifier(CNnotifier notifier) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *found = sim_cn_find(SIM_CN_NOTIFIER, notifier);
    if (!found)
        return sim_cn_left(CN_NOTIFIER_ERROR_INVALID);
    if (found->waits)
        look(found->device);
    return sim_cn_left(found->waits ? CN_ERROR_NOT_READY : CN_SUCCESS);
}

CNresult cnWaitNotifier(CNnotifier notifier) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *found = sim_cn_find(SIM_CN_NOTIFIER, notifier);
    if (!found)
        return sim_cn_left(CN_NOTIFIER_ERROR_INVALID);
    struct sim_cn_device *device = found->device;
    if (found->waits)
        sim_cn_wait(device, found->run_ns);
    sim_cn_trim(device);
    return sim_cn_left(CN_SUCCESS);
}

/* A device does what was launched in the order in which it was: so it has waited. */
CNresult cnQueueWaitNotifier(CNqueue queue, CNnotifier notifier) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    const struct sim_cn_object *found = sim_cn_find(SIM_CN_NOTIFIER, notifier);
    uint64_t *tail = sim_cn_tail(queue, &device);
    if (!found || !tail)
        return sim_cn_left(found ? no_queue(queue) : CN_NOTIFIER_ERROR_INVALID);
    if (found->device != device)
        return sim_cn_left(CN_OPS_ERROR_NOT_PERMITTED);
    if (found->placed && found->run_ns > *tail)
        *tail = found->run_ns;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnNotifierElapsedTime(float *milliseconds, CNnotifier start, CNnotifier end) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *from = sim_cn_find(SIM_CN_NOTIFIER, start);
    const struct sim_cn_object *to = sim_cn_find(SIM_CN_NOTIFIER, end);
    if (!from || !to || !from->placed || !to->placed)
        return sim_cn_left(CN_NOTIFIER_ERROR_INVALID);
    if (!milliseconds || from->device != to->device)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    look(from->device);
    if (from->waits || to->waits)
        return sim_cn_left(CN_ERROR_NOT_READY);
    *milliseconds = (float)((double)(int64_t)(to->real_ns - from->real_ns) / 1e6);
    return sim_cn_left(CN_SUCCESS);
}
