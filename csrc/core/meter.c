/* Predicting, measuring and charging. See limiter.h. */
#include "limiter_impl.h"

#include <string.h>

/* A launch that is found done so soon after the host made it had not been waiting behind others. */
#define BACKLOG_NS (20 * US)
/* Who was so long about a launch had no processor meanwhile, and the device may have begun before: what is
 * measured then is not believed, unless launches always are so long. */
#define DETAINED_NS (50 * US)
enum { DETAINED_MOST = 3 };

/* Who used the device so lately may have had a part of what is measured. */
#define MIXED_NS (50 * MS)

/* Work that ends so soon after a launch was let through had waited for it. */
#define HELPED_NS (10 * MS)

/* Time before what is charged that other processes of the slice may have left uncharged. */
#define HOLES_NS (5 * MS)

/* -- What is known of launches ------------------------------------------------------------------ */

/* Whether anything of ours may have run between a mark and the launch behind it. */
static bool crowded(const struct aliquot_flow *flow, uint64_t now) {
    unsigned lanes = 0;
    for (uint32_t i = 0; i < LANES; i++)
        lanes += flow->lanes[i].key && now - flow->lanes[i].used_ns < MIXED_NS;
    return lanes > 1 || now - flow->mixed_ns < MIXED_NS;
}

static struct learned *learned_at(struct aliquot_limiter *limiter,
                                  const struct aliquot_launch *launch) {
    uint64_t mixed = (launch->what ^ launch->lane << 7 ^ launch->lane >> 9) * 0x9e3779b97f4a7c15ull;
    return &limiter->state->learned[mixed >> 54];
}
static_assert(LEARNED == 1 << 10, "the place is ten bits");

uint32_t aliquot_learned(struct aliquot_limiter *limiter, const struct aliquot_launch *launch,
                         uint64_t *at_ns) {
    aliquot_lock(&limiter->state->lock);
    const struct learned *learned = learned_at(limiter, launch);
    bool known = learned->ns && learned->what == launch->what && learned->lane == launch->lane;
    uint32_t ns = known ? learned->ns : 0;
    *at_ns = known ? learned->at_ns : 0;
    aliquot_unlock(&limiter->state->lock);
    return ns;
}

static void learn(struct aliquot_limiter *limiter, const struct aliquot_flow *flow,
                  const struct aliquot_launch *launch, uint64_t took_ns, uint64_t now) {
    bool shared = crowded(flow, now);
    /* If all that is predicted takes less time than predicted, this does too. */
    if (shared && flow->pace < 1024)
        took_ns = flow_paced(flow, took_ns);
    aliquot_lock(&limiter->state->lock);
    struct learned *learned = learned_at(limiter, launch);
    bool known = learned->ns && learned->what == launch->what && learned->lane == launch->lane;
    /* What is measured may hold up to something else that ran beside it, never less than the launch
     * itself: less is believed sooner than more. */
    uint64_t ns = !known                  ? took_ns
                  : took_ns < learned->ns ? (learned->ns + 3 * took_ns) / 4
                  : shared                ? (31ull * learned->ns + took_ns) / 32
                                          : (3ull * learned->ns + took_ns) / 4;
    *learned = (struct learned){
        .what = launch->what,
        .lane = launch->lane,
        .ns = (uint32_t)most(1, least(ns, ALIQUOT_UNMEASURED - 1)),
        .at_ns = now,
    };
    aliquot_unlock(&limiter->state->lock);
}

/* -- The cap ------------------------------------------------------------------------------------ */

static uint32_t cap_of(const struct aliquot_limiter *limiter, uint32_t device) {
    /* relaxed: it may change at any time. */
    uint32_t cores =
        atomic_load_explicit(&limiter->grant->device[device].cores, memory_order_relaxed);
    return cores >= 1 && cores < 100 ? cores : 100;
}

void aliquot_meter_cap(struct aliquot_limiter *limiter, uint32_t device, int64_t ns, uint64_t now) {
    uint32_t cores = cap_of(limiter, device);
    if (cores == 100 || ns == 0)
        return;
    _Atomic uint64_t *allowed = &limiter->usage->time[device].allowed_ns;
    /* relaxed: one word that all processes of the slice move; nothing else depends on it. */
    uint64_t old = atomic_load_explicit(allowed, memory_order_relaxed), fresh;
    do {
        int64_t ahead = (int64_t)(old - now);
        /* What somebody scribbled, or an age of idleness. */
        if (ahead < 0 || ahead > (int64_t)(3600ull * 1000 * MS))
            ahead = 0;
        ahead += ns * 100 / (int64_t)cores;
        fresh = now + (uint64_t)(ahead > 0 ? ahead : 0);
    } while (!atomic_compare_exchange_weak_explicit(allowed, &old, fresh, memory_order_relaxed,
                                                    memory_order_relaxed));
}

uint64_t aliquot_meter_allowed(struct aliquot_limiter *limiter, uint32_t device, uint64_t waited_ns,
                               uint64_t now) {
    if (cap_of(limiter, device) == 100)
        return now;
    /* Whom other processes of the slice always forestall may be further ahead than they. */
    uint64_t patience_ns = waited_ns > 2 * TOLERANCE_NS ? waited_ns - 2 * TOLERANCE_NS : 0;
    uint64_t ahead_ns = TOLERANCE_NS + least(patience_ns, 4 * TOLERANCE_NS);
    uint64_t allowed =
        atomic_load_explicit(&limiter->usage->time[device].allowed_ns, memory_order_relaxed);
    if (allowed <= now + ahead_ns || allowed - now > 3600ull * 1000 * MS)
        return now;
    return allowed - ahead_ns;
}

/* -- Charging ----------------------------------------------------------------------------------- */

/* Charges that work of ours took `ns` of the time from `from_ns` to `to_ns`. Processes of the slice lay
 * what they charge end to end, so that what is charged is never more than what has passed. Returns
 * what was charged. */
static uint64_t charge(struct aliquot_limiter *limiter, uint32_t device, uint64_t from_ns,
                       uint64_t to_ns, uint64_t ns, uint64_t holes_ns) {
    struct aliquot_usage_time *time = &limiter->usage->time[device];
    /* relaxed: each span is charged by who moves the word over it; the sums are figures. */
    uint64_t until = atomic_load_explicit(&time->charged_until_ns, memory_order_relaxed);
    uint64_t charged, start;
    do {
        start = from_ns - least(from_ns, holes_ns);
        /* A word from the future was scribbled. */
        start = until > start && until < to_ns + 3600ull * 1000 * MS ? until : start;
        if (start >= to_ns)
            return 0;
        charged = least(ns, to_ns - start);
    } while (!atomic_compare_exchange_weak_explicit(&time->charged_until_ns, &until,
                                                    start + charged, memory_order_relaxed,
                                                    memory_order_relaxed));
    unsigned others = aliquot_gate_others(gate_word(limiter, device));
    charged /= others + 1;
    atomic_fetch_add_explicit(&time->device_ns, charged, memory_order_relaxed);
    return charged;
}

/* Work was done at `end_ns` up to `spent_ns` of what was given out. `queued`: all the while the
 * device had more of ours to do, so that all of the time counts; otherwise what was predicted does. */
static void charge_up_to(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                         uint64_t end_ns, uint64_t spent_ns, bool queued, uint64_t now) {
    uint64_t predicted = spent_ns > flow->charged_ns ? spent_ns - flow->charged_ns : 0;
    if (flow->busy_ns && end_ns > flow->busy_ns) {
        uint64_t passed = end_ns - flow->busy_ns;
        bool mixed = now - flow->mixed_ns < MIXED_NS;
        /* Nothing of ours ran before the turn. */
        uint64_t base_ns = least(flow->busy_ns, most(flow->turn_begin_ns, end_ns - HOLES_NS));
        queued = queued && flow->gap_ns <= flow->busy_ns;
        uint64_t charged = charge(limiter, flow->device, flow->busy_ns, end_ns,
                                  queued ? passed : least(passed, predicted),
                                  mixed && !queued ? flow->busy_ns - base_ns : 0);
        /* The prediction was counted when it was given out. */
        aliquot_meter_cap(limiter, flow->device, (int64_t)charged - (int64_t)predicted, now);
        if (mixed || (!queued && !crowded(flow, now))) {
            flow->pace = (flow->pace * 3 + 1024) / 4;
        } else if (queued && predicted > 100 * US &&
                   !aliquot_gate_others(gate_word(limiter, flow->device))) {
            uint64_t pace = least(4096, most(256, passed * 1024 / predicted));
            flow->pace = (uint32_t)((flow->pace * 3 + pace) / 4);
        }
        flow->busy_ns = end_ns;
    } else if (predicted) {
        aliquot_meter_cap(limiter, flow->device, -(int64_t)predicted, now);
    }
    flow->charged_ns = most(flow->charged_ns, spent_ns);
}

/* -- Marks -------------------------------------------------------------------------------------- */

static void end_mark(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                     struct mark *mark) {
    if (mark->before)
        limiter->seam->drop(limiter->env, mark->before);
    limiter->seam->drop(limiter->env, mark->event);
    *mark = flow->marks[--flow->mark_count];
    flow->marks[flow->mark_count].event = NULL;
}

static void mark_reached(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                         const struct mark *mark, uint64_t at_ns, uint64_t now) {
    uint64_t began_ns, length = mark->launch_ns;
    /* Launches that waited for something else did not have the device all the while: what they were
     * predicted to take counts. */
    bool aside = mark->asides != flow->asides;
    flow->asides = mark->asides;
    if (mark->before && limiter->seam->reached(limiter->env, mark->before, &began_ns) == 1 &&
        began_ns <= at_ns) {
        /* It began neither before it was launched nor before what the device did for us before. */
        uint64_t start_ns = most(began_ns, least(most(mark->host_ns, flow->busy_ns), at_ns));
        unsigned others = aliquot_gate_others(gate_word(limiter, flow->device));
        length = (at_ns - start_ns) / (others + 1);
        bool detained = mark->host_ns > mark->entered_ns + DETAINED_NS && start_ns > began_ns;
        flow->detained = detained && flow->detained < DETAINED_MOST ? flow->detained + 1 : 0;
        if (!flow->detained)
            learn(limiter, flow, &mark->launch, length, now);
        flow->unmeasured_ns = 0;
        /* The launch was given out as another length than it had: what is expected and counted moves
         * by the difference. */
        if (mark->spent_ns > flow->charged_ns) {
            int64_t more = (int64_t)length - (int64_t)mark->launch_ns;
            flow->given_ns += (uint64_t)more;
            flow->marked_ns += (uint64_t)more;
            for (uint32_t i = 0; i < flow->mark_count; i++)
                if (flow->marks[i].spent_ns > mark->spent_ns)
                    flow->marks[i].spent_ns += (uint64_t)more;
            aliquot_meter_cap(limiter, flow->device, more, now);
            charge_up_to(limiter, flow, at_ns, mark->spent_ns + (uint64_t)more,
                         !aside && at_ns > mark->host_ns + length + BACKLOG_NS, now);
            return;
        }
    }
    bool queued = !aside && at_ns > mark->host_ns + length + BACKLOG_NS;
    /* It cannot have taken longer than from its launch to its end. */
    if (at_ns > mark->entered_ns && at_ns - mark->entered_ns + BACKLOG_NS < length)
        learn(limiter, flow, &mark->launch, at_ns - mark->entered_ns, now);
    charge_up_to(limiter, flow, at_ns, mark->spent_ns, queued, now);
}

uint32_t aliquot_meter_look(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                            uint64_t now) {
    uint32_t count = 0;
    flow->look_ns = now;
    uint64_t latest_ns = 0;
    /* In the order of what they stand behind, so that spans are charged one after the other. */
    for (bool again = true; again;) {
        struct mark *first = NULL;
        uint64_t first_ns = 0;
        again = false;
        for (uint32_t i = 0; i < flow->mark_count; i++) {
            struct mark *mark = &flow->marks[i];
            uint64_t at_ns;
            if (first && first->spent_ns <= mark->spent_ns)
                continue;
            int reached = limiter->seam->reached(limiter->env, mark->event, &at_ns);
            if (reached < 0) {
                end_mark(limiter, flow, mark);
                i--;
                continue;
            }
            if (reached) {
                first = mark;
                first_ns = least(at_ns, now);
            }
        }
        if (first) {
            struct mark done = *first;
            uint64_t place = (uint64_t)(first - flow->marks);
            mark_reached(limiter, flow, &done, first_ns, now);
            end_mark(limiter, flow, &flow->marks[place]);
            latest_ns = most(latest_ns, first_ns);
            count++;
            again = true;
        }
    }
    if (count) {
        /* It was the launch let through last that was waited for. */
        if (flow->let_ns && now - flow->let_ns < HELPED_NS)
            flow->let_pause_ns = OVERDUE_NS;
        flow->progress_ns = now;
        uint64_t left = flow->given_ns > flow->charged_ns ? flow->given_ns - flow->charged_ns : 0;
        flow->due_ns = latest_ns + flow_paced(flow, left) * flow->sharers;
    }
    return count;
}

bool aliquot_meter_late(const struct aliquot_flow *flow, uint64_t now) {
    for (uint32_t i = 0; i < flow->mark_count; i++) {
        const struct mark *mark = &flow->marks[i];
        uint64_t length = mark->due_ns > mark->host_ns ? mark->due_ns - mark->host_ns : 0;
        if (mark->unmeasured || now > mark->due_ns + 100 * US + length / 4)
            return true;
    }
    return false;
}

bool aliquot_meter_drained(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now,
                           bool *stuck) {
    *stuck = false;
    unsigned others = aliquot_gate_others(gate_word(limiter, flow->device));
    for (uint32_t i = 0; i < flow->mark_count; i++) {
        const struct mark *mark = &flow->marks[i];
        uint64_t length = mark->due_ns > mark->host_ns ? mark->due_ns - mark->host_ns : 0;
        /* As long as one after the other is done, they are only slow. */
        uint64_t due_ns = most(mark->due_ns, flow->progress_ns + length);
        if (now > due_ns + OVERDUE_NS + length / 2 + others * length)
            *stuck = true;
    }
    if (flow->mark_count || flow->launching)
        return false;
    if (!flow->busy_ns)
        return true;
    /* No mark stands behind the last launches: their streams are asked. One that cannot tell, or
     * that waits for what is no work of the device, is believed to be done in time. */
    bool late = now > flow->due_ns + 100 * US;
    bool far = now > most(flow->due_ns, flow->progress_ns) + OVERDUE_NS;
    for (uint32_t i = 0; i < LANES; i++) {
        const struct lane *lane = &flow->lanes[i];
        if (!lane->key)
            continue;
        int idle =
            lane->kind == ALIQUOT_LANE_PLAIN ? limiter->seam->idle(limiter->env, lane->key) : -1;
        if (idle == 1)
            continue;
        if (idle == 0 && far)
            *stuck = true;
        if (!late)
            return false;
    }
    return true;
}

void aliquot_meter_settle(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                          uint64_t now) {
    if (flow->busy_ns) {
        /* Found at `now`, and over a little earlier. */
        charge_up_to(limiter, flow, now, flow->given_ns, false, now);
        flow->busy_ns = 0;
    }
    flow->charged_ns = flow->given_ns;
    flow->due_ns = now;
}
