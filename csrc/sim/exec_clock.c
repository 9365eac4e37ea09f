/* A device's clock as this process sees it: how its device time went against real time. */
#include "exec_impl.h"

#include <stdlib.h>
#include <string.h>

void sim_clock_open(struct sim_engine_device *device, CUdevice dev) {
    if (device->timeline != NULL)
        return;
    device->sms = sim_device_config(dev)->sms != 0 ? sim_device_config(dev)->sms : 1;
    device->sms_free = device->sms;
    device->timeline = &sim_state->header->devices[sim_device_physical(dev)].timeline;
    device->together = sim_device_config(dev)->mps != 0;
    uint32_t process = sim_state->header->slots[sim_state->slot].process;
    device->entry = sim_timeline_join(device->timeline, sim_state->slot, process);
    if (device->entry >= 0)
        return;
    /* More processes than the shared model has room for: this one runs as if it were alone. */
    sim_log("device %d: no room in the timeline for this process; its kernels are not sliced",
            (int)dev);
    static struct sim_timeline private_timeline[SIM_DEVICES_MAX];
    device->timeline = &private_timeline[dev];
    sim_timeline_init(device->timeline, &(struct sim_sharing){
                                            .sms = device->sms,
                                            .copy_engines = sim_device_config(dev)->copy_engines,
                                        });
    device->entry = sim_timeline_join(device->timeline, sim_state->slot, process);
}

/* Whether the line from a to b goes on straight to c; only those that stand or run at full pace are
 * taken together, so that nothing is rounded. */
static bool straight(struct sim_knot a, struct sim_knot b, struct sim_knot c) {
    if (a.run_ns == b.run_ns)
        return b.run_ns == c.run_ns;
    return b.run_ns - a.run_ns == b.real_ns - a.real_ns &&
           c.run_ns - b.run_ns == c.real_ns - b.real_ns;
}

static void push_knot(struct sim_engine_device *device, struct sim_knot knot) {
    if (device->knot_count > 1 && straight(device->knots[device->knot_count - 2],
                                           device->knots[device->knot_count - 1], knot)) {
        device->knots[device->knot_count - 1] = knot;
        return;
    }
    if (device->knot_count == device->knot_room) {
        uint32_t room = device->knot_room == 0 ? 64 : device->knot_room * 2;
        struct sim_knot *knots = realloc(device->knots, room * sizeof *knots);
        if (knots == NULL) {
            /* Without memory the way between is taken as a straight line. */
            if (device->knot_count > 0)
                device->knots[device->knot_count - 1] = knot;
            return;
        }
        device->knots = knots;
        device->knot_room = room;
    }
    device->knots[device->knot_count++] = knot;
}

static void take_view(struct sim_engine_device *device, const struct sim_timeline_view *view) {
    /* The model may have gone back over a time in which the device was idle. */
    uint64_t first = view->knots[0].real_ns;
    while (device->knot_count > 0 && device->knots[device->knot_count - 1].real_ns >= first)
        device->knot_count--;
    for (uint32_t i = 0; i < view->knot_count; i++)
        push_knot(device, view->knots[i]);
    device->known_ns = view->now_ns;
    device->run_ns = view->run_ns;
    atomic_store_explicit(&device->shared, view->alone ? 0 : 1, memory_order_relaxed);
    /* While it can still be told: what lies far back is forgotten. */
    for (struct sim_item *item = device->running; item != NULL; item = item->next)
        if (item->ran_ns == 0 && device->run_ns > item->begin_ns)
            item->ran_ns = sim_clock_left_at(device, item->begin_ns);
}

void sim_clock_look(struct sim_engine_device *device, uint64_t now_ns) {
    struct sim_timeline_view view;
    sim_timeline_look(device->timeline, device->entry, now_ns, &view);
    take_view(device, &view);
}

void sim_clock_post(struct sim_engine_device *device, uint64_t now_ns, uint64_t since_ns,
                    uint64_t run_ns) {
    struct sim_timeline_view view;
    struct sim_demand demand = {
        .since_ns = since_ns, .until_ns = run_ns, .sms = device->sms - device->sms_free};
    sim_timeline_demand(device->timeline, device->entry, now_ns, &demand, &view);
    take_view(device, &view);
    device->posted_ns = run_ns;
    device->posted_sms = demand.sms;
}

uint64_t sim_clock_run_at(const struct sim_engine_device *device, uint64_t real_ns) {
    uint32_t low = 0, high = device->knot_count; /* first knot later than real_ns */
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (device->knots[middle].real_ns > real_ns)
            high = middle;
        else
            low = middle + 1;
    }
    if (low == device->knot_count)
        return device->run_ns;
    if (low == 0)
        return device->knots[0].run_ns;
    const struct sim_knot *a = &device->knots[low - 1], *b = &device->knots[low];
    uint64_t passed = real_ns - a->real_ns, length = b->real_ns - a->real_ns;
    uint64_t gained = b->run_ns - a->run_ns;
    return a->run_ns +
           (gained == length ? passed : (uint64_t)((__uint128_t)passed * gained / length));
}

uint64_t sim_clock_real_at(const struct sim_engine_device *device, uint64_t run_ns) {
    if (run_ns > device->run_ns || device->knot_count == 0)
        return SIM_NEVER;
    uint32_t low = 0, high = device->knot_count - 1; /* first knot that reads at least run_ns */
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (device->knots[middle].run_ns >= run_ns)
            high = middle;
        else
            low = middle + 1;
    }
    const struct sim_knot *b = &device->knots[low];
    if (low == 0 || b->run_ns == run_ns)
        return b->real_ns;
    const struct sim_knot *a = b - 1;
    uint64_t length = b->real_ns - a->real_ns, gained = b->run_ns - a->run_ns;
    uint64_t missing = b->run_ns - run_ns;
    return b->real_ns -
           (gained == length ? missing : (uint64_t)((__uint128_t)missing * length / gained));
}

uint64_t sim_clock_left_at(const struct sim_engine_device *device, uint64_t run_ns) {
    if (device->run_ns <= run_ns)
        return SIM_NEVER;
    uint32_t low = 0, high = device->knot_count - 1; /* first knot that reads more */
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (device->knots[middle].run_ns > run_ns)
            high = middle;
        else
            low = middle + 1;
    }
    if (low == 0)
        return device->knots[0].real_ns;
    const struct sim_knot *a = &device->knots[low - 1];
    return a->run_ns == run_ns ? a->real_ns : sim_clock_real_at(device, run_ns);
}

uint64_t sim_clock_predict(const struct sim_engine_device *device, uint64_t run_ns) {
    uint64_t real_ns = sim_clock_real_at(device, run_ns);
    if (real_ns != SIM_NEVER)
        return real_ns;
    if (sim_engine_alone(device))
        return device->known_ns + (run_ns - device->run_ns);
    return sim_timeline_predict(device->timeline, device->entry, run_ns);
}

void sim_clock_forget(struct sim_engine_device *device, uint64_t real_ns) {
    uint32_t gone = 0;
    while (gone + 2 < device->knot_count && device->knots[gone + 1].real_ns < real_ns)
        gone++;
    if (gone < 32)
        return;
    device->knot_count -= gone;
    memmove(device->knots, device->knots + gone, device->knot_count * sizeof *device->knots);
}
