/* Seeing what is done, so that a device that a process does not use is given to another at once. */
#include "limiter_impl.h"

/* How soon the device is looked at again when it should be done and is not: sooner than it takes to
 * give it to somebody else, and with more patience the longer it takes. */
#define POLL_NS (25 * US)
#define LONGEST_POLL_NS (250 * US)
#define SHORT_NS (5 * MS)
/* What is left of a turn is worth being offered to those who wait. */
#define WORTH_NS (100 * US)
/* Who has nothing to do looks by itself after it. */
#define IDLE_TICK_NS (1000 * MS)
#define START_NS (200 * US)

static uint64_t poll_again(const struct aliquot_flow *flow, uint64_t due_ns, uint64_t now) {
    if (due_ns > now) {
        /* Nobody knows how long it takes. */
        if (flow->unmeasured_ns > now)
            return now + most(2 * POLL_NS, (now + UNMEASURED_NS - flow->unmeasured_ns) / 4);
        /* Predictions of much may be far too long; and nobody knows when other processes of the slice
         * will have had their part. */
        uint64_t own_ns = flow->sharers > 1 ? most(2 * POLL_NS, (due_ns - now) / 2) : NEVER - now;
        return least(least(due_ns, now + own_ns), now + most(SHORT_NS, (due_ns - now) / 8));
    }
    return now + least(most(POLL_NS, (now - due_ns) / 8), LONGEST_POLL_NS);
}

static void rest(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now) {
    flow->active = false;
    aliquot_flow_publish(limiter, flow, now);
}

/* Looks at one device. Returns when to look again; `*ring`: the arbiter has news. */
static uint64_t observe(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t gate,
                        uint64_t now, bool *ring, bool *wake) {
    unsigned state = aliquot_gate_now(limiter, gate, now);
    aliquot_flow_turn(limiter, flow, state, gate, now);
    if (flow->mark_count)
        aliquot_meter_look(limiter, flow, now);
    if (!flow->active)
        /* Who launches wakes us, unless that was before we slept: in a turn we look again. */
        return state == ALIQUOT_GATE_TURN && now < flow->turn_end_ns ? now + START_NS
                                                                     : now + IDLE_TICK_NS;
    bool contended = state >= ALIQUOT_GATE_TURN;
    uint64_t due_ns = aliquot_ledger_due(limiter, flow->device, now);
    if (!contended && now < due_ns + TICK_NS)
        return due_ns + TICK_NS;
    if (flow->sharers > 1)
        aliquot_flow_count(limiter, flow, now);
    if (state == ALIQUOT_GATE_TURN && now < due_ns && flow_left(flow))
        return poll_again(flow, due_ns, now);
    /* Whatever threads still have is void: they come and ask. */
    aliquot_flow_void(limiter, flow, now);
    bool stuck;
    if (!aliquot_meter_drained(limiter, flow, now, &stuck)) {
        if (contended)
            aliquot_flow_publish(limiter, flow, now);
        return contended ? poll_again(flow, due_ns, now) : now + TICK_NS;
    }
    aliquot_meter_settle(limiter, flow, now);
    uint32_t waiting = atomic_load_explicit(&flow->waiting, memory_order_relaxed);
    if (state == ALIQUOT_GATE_TURN && flow->turn_end_ns > now) {
        uint64_t left = flow->turn_end_ns - now;
        if (waiting && !flow->offered && left >= WORTH_NS && left >= flow->refused_ns / 2) {
            /* Done sooner than predicted: there is room again, for one of them at least. */
            flow->offered = true;
            *wake = true;
            return now + GRACE_NS / 2;
        }
        if (!waiting) {
            if (!flow->grace_ns)
                flow->grace_ns = now;
            if (now < flow->grace_ns + GRACE_NS)
                return least(flow->grace_ns + GRACE_NS, flow->turn_end_ns);
        }
    }
    flow->grace_ns = 0;
    rest(limiter, flow, now);
    *ring = contended;
    if (contended)
        flow->rung_ns = now;
    return now + IDLE_TICK_NS;
}

void aliquot_observe(struct aliquot_limiter *limiter, uint32_t device) {
    struct aliquot_flow *flow = &limiter->flow[device];
    /* relaxed: it is only ended in harnesses. */
    while (!atomic_load_explicit(&limiter->stopped, memory_order_relaxed)) {
        bool ring = false, wake = false;
        aliquot_lock(&flow->lock);
        uint64_t gate = gate_word(limiter, device), now = now_of(limiter);
        uint64_t next = observe(limiter, flow, gate, now, &ring, &wake);
        flow->observe_ns = next;
        aliquot_unlock(&flow->lock);
        if (wake)
            wake_role(limiter, device, ALIQUOT_GATE_LAUNCHERS);
        if (ring)
            limiter->seam->ring(limiter->env);
        limiter->seam->wait(limiter->env, gate_futex(limiter, device), (uint32_t)gate,
                            ALIQUOT_GATE_OBSERVERS, next);
    }
}

void aliquot_limiter_stop(struct aliquot_limiter *limiter) {
    atomic_store_explicit(&limiter->stopped, true, memory_order_relaxed);
    for (uint32_t i = 0; i < limiter->device_count; i++)
        wake_role(limiter, i, ALIQUOT_GATE_OBSERVERS);
}
