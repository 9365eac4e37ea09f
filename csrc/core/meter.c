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
                         uint64_t *again_ns) {
    aliquot_lock(&limiter->state->lock);
    const struct learned *learned = learned_at(limiter, launch);
    bool known = learned->ns && learned->what == launch->what && learned->lane == launch->lane;
    uint32_t ns = known ? learned->ns : 0;
    *again_ns = known ? learned->again_ns : 0;
    aliquot_unlock(&limiter->state->lock);
    return ns;
}

static void learn(struct aliquot_limiter *limiter, const struct aliquot_flow *flow,
                  const struct aliquot_launch *launch, uint64_t took_ns, bool alone, uint64_t now) {
    unsigned others = aliquot_gate_others(gate_word(limiter, flow->device));
    bool shared = crowded(flow, now), mixed = !alone && now - flow->mixed_ns < MIXED_NS;
    /* If all that is predicted takes less time than predicted, this does too. */
    if (shared && !mixed && !alone && flow->pace < 1024)
        took_ns = flow_paced(flow, took_ns);
    took_ns = least(took_ns, ALIQUOT_UNMEASURED - 1);
    aliquot_lock(&limiter->state->lock);
    struct learned *learned = learned_at(limiter, launch);
    bool known = learned->ns && learned->what == launch->what && learned->lane == launch->lane;
    struct learned fresh = {.what = launch->what, .lane = launch->lane, .ns = (uint32_t)took_ns};
    if (known) {
        fresh = *learned;
        /* What is measured may hold up to something else that ran beside it, and all that other
         * processes did in their time, never less than the launch itself: less is believed sooner than
         * more. */
        if (alone && !learned->sure)
            fresh.ns = (uint32_t)took_ns;
        else if (took_ns <= learned->ns)
            fresh.ns = (uint32_t)((learned->ns + 3ull * took_ns) / 4);
        else if (!shared || alone)
            fresh.ns = (uint32_t)((3ull * learned->ns + took_ns) / 4);
        else if (!mixed || took_ns - learned->ns <= learned->ns / 16)
            fresh.ns = (uint32_t)((31ull * learned->ns + took_ns) / 32);
        if (mixed && took_ns > learned->ns + learned->ns / 16) {
            if (!fresh.longer++ || took_ns < fresh.longer_ns)
                fresh.longer_ns = (uint32_t)took_ns;
            if (fresh.longer == LONGER) {
                fresh.ns = fresh.longer_ns;
                fresh.longer = 0;
            }
        } else {
            fresh.longer = 0;
        }
    }
    fresh.ns = (uint32_t)most(1, fresh.ns);
    fresh.sure = (!mixed && !others) || (known && learned->sure);
    fresh.again_ns = now + (fresh.sure ? STALE_NS : SAMPLE_NS);
    *learned = fresh;
    aliquot_unlock(&limiter->state->lock);
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

/* Work was done at `end_ns` up to `spent_ns` of what was given out; the last of it was launched at
 * `host_ns`. `queued`: all the while the device had more of ours to do. */
static void work_done(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t end_ns,
                      uint64_t spent_ns, uint64_t host_ns, bool queued, uint64_t now) {
    uint64_t predicted = spent_ns > flow->done_ns ? spent_ns - flow->done_ns : 0;
    uint64_t sure_ns = end_ns;
    bool mixed = now - flow->mixed_ns < MIXED_NS;
    if (flow->busy_ns && end_ns > flow->busy_ns) {
        uint64_t passed = end_ns - flow->busy_ns;
        queued = queued && flow->gap_ns <= flow->busy_ns;
        if (queued && !mixed && !flow->deserted)
            sure_ns = flow->busy_ns;
        if (mixed) {
            flow->pace = aliquot_ledger_pace(limiter, flow->device);
        } else if (!queued && !crowded(flow, now)) {
            flow->pace = (flow->pace * 3 + 1024) / 4;
        } else if (queued && predicted > 100 * US &&
                   !aliquot_gate_others(gate_word(limiter, flow->device))) {
            uint64_t pace = least(4096, most(256, passed * 1024 / predicted));
            flow->pace = (uint32_t)((flow->pace * 3 + pace) / 4);
            /* Outside of turns, what it took longer may have been others' work. */
            if (!flow->turn)
                flow->pace = (uint32_t)least(flow->pace, 1024);
        }
        flow->busy_ns = end_ns;
    }
    /* Of several processes, none knows what the device did between two launches of its own. */
    if (mixed && !flow->deserted)
        sure_ns = least(host_ns, end_ns);
    flow->done_ns = most(flow->done_ns, spent_ns);
    aliquot_ledger_charge(limiter, flow->device, sure_ns, end_ns, flow_left(flow),
                          mixed ? NEVER : flow_paced(flow, predicted), now);
    aliquot_ledger_bound(limiter, flow->device, end_ns + flow_left(flow), NEVER, now);
}

/* Returns whether all the while the device had more of ours to do. */
static bool mark_reached(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                         const struct mark *mark, uint64_t at_ns, uint64_t now) {
    uint64_t began_ns, length = mark->launch_ns, spent_ns = mark->spent_ns;
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
            learn(limiter, flow, &mark->launch, length, at_ns < mark->alone_ns, now);
        if (flow->alone_ns > now) {
            flow->alone_ns = 0;
            aliquot_ledger_be_alone(limiter, flow->device, 0);
        }
        flow->unmeasured_ns = 0;
        /* What others did meanwhile was none of it. */
        uint64_t again_ns;
        if (now - flow->mixed_ns < MIXED_NS)
            length = least(length, aliquot_learned(limiter, &mark->launch, &again_ns));
        /* The launch was given out as another length than it had: what is expected and counted moves
         * by the difference. */
        if (spent_ns > flow->done_ns) {
            int64_t more = (int64_t)length - (int64_t)mark->launch_ns;
            flow->given_ns += (uint64_t)more;
            flow->marked_ns += (uint64_t)more;
            for (uint32_t i = 0; i < flow->mark_count; i++)
                if (flow->marks[i].spent_ns > spent_ns)
                    flow->marks[i].spent_ns += (uint64_t)more;
            spent_ns += (uint64_t)more;
            aliquot_ledger_shift(limiter, flow->device, more, more * (int64_t)flow->pace / 1024,
                                 now);
        }
    } else if (at_ns > mark->entered_ns && at_ns - mark->entered_ns + BACKLOG_NS < length) {
        /* It cannot have taken longer than from its launch to its end. */
        learn(limiter, flow, &mark->launch, at_ns - mark->entered_ns, false, now);
    }
    bool queued = !aside && at_ns > mark->host_ns + length + BACKLOG_NS;
    work_done(limiter, flow, at_ns, spent_ns, aside ? at_ns : mark->host_ns, queued, now);
    return queued;
}

uint32_t aliquot_meter_look(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                            uint64_t now) {
    uint32_t count = 0;
    flow->look_ns = now;
    uint64_t latest_ns = 0;
    bool queued = false;
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
            queued = mark_reached(limiter, flow, &done, first_ns, now);
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
        aliquot_flow_count(limiter, flow, now);
        uint64_t left_ns = flow_left(flow) + flow->others_ns;
        /* Others may have told of what was done later. */
        latest_ns = aliquot_ledger_charged(limiter, flow->device, latest_ns, now);
        aliquot_ledger_bound(limiter, flow->device, 0, latest_ns + left_ns, now);
        if (flow->sharers > 1)
            aliquot_flow_publish(limiter, flow, now);
        if (now - flow->mixed_ns < MIXED_NS)
            aliquot_ledger_learn(limiter, flow->device, latest_ns, left_ns, queued);
    }
    return count;
}

/* When a mark should be reached. What other processes were given after it may be done before. */
static uint64_t mark_due(const struct aliquot_limiter *limiter, const struct aliquot_flow *flow,
                         const struct mark *mark, uint64_t now) {
    return flow->sharers > 1 ? most(mark->due_ns, aliquot_ledger_due(limiter, flow->device, now))
                             : mark->due_ns;
}

bool aliquot_meter_late(const struct aliquot_limiter *limiter, const struct aliquot_flow *flow,
                        uint64_t now) {
    for (uint32_t i = 0; i < flow->mark_count; i++) {
        const struct mark *mark = &flow->marks[i];
        uint64_t due_ns = mark_due(limiter, flow, mark, now);
        uint64_t length = due_ns > mark->host_ns ? due_ns - mark->host_ns : 0;
        if (mark->unmeasured || now > due_ns + 100 * US + length / 4)
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
        uint64_t due_ns = mark_due(limiter, flow, mark, now);
        uint64_t length = due_ns > mark->host_ns ? due_ns - mark->host_ns : 0;
        /* As long as one after the other is done, they are only slow. */
        due_ns = most(due_ns, flow->progress_ns + length);
        if (now > due_ns + OVERDUE_NS + length / 2 + others * length)
            *stuck = true;
    }
    if (flow->mark_count || flow->launching)
        return false;
    if (!flow->busy_ns)
        return true;
    /* No mark stands behind the last launches: their streams are asked. One that cannot tell, or
     * that waits for what is no work of the device, is believed to be done in time. */
    uint64_t due_ns = aliquot_ledger_due(limiter, flow->device, now);
    bool late = now > due_ns + 100 * US;
    bool far = now > most(due_ns, flow->progress_ns) + OVERDUE_NS;
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
    bool mixed = now - flow->mixed_ns < MIXED_NS;
    uint64_t left_ns = mixed ? NEVER : flow_left(flow);
    flow->busy_ns = 0;
    flow->done_ns = flow->given_ns;
    /* Said before the others are asked: the last one of them finds that there is nothing. */
    aliquot_flow_publish(limiter, flow, now);
    aliquot_flow_count(limiter, flow, now);
    aliquot_ledger_bound(limiter, flow->device, 0, now + flow->others_ns, now);
    /* Found at `now`, and over a little earlier: what was predicted counts. */
    uint64_t due_ns = aliquot_ledger_due(limiter, flow->device, now);
    if (!flow->others_ns) {
        aliquot_ledger_charge(limiter, flow->device, due_ns, due_ns, 0, left_ns, now);
        /* relaxed: a figure. All is done, and nothing is charged ahead of it. */
        atomic_store_explicit(&limiter->usage->time[flow->device].ahead_ns, 0,
                              memory_order_relaxed);
    }
}
