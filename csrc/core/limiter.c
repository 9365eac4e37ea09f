/* Giving out parts of the device's time, and waiting for them. See limiter.h. */
#include "limiter_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct aliquot_limiter *aliquot_limiter_new(const struct aliquot_limiter_seam *seam, void *env,
                                            const struct aliquot_grant *grant,
                                            struct aliquot_usage *usage, uint32_t slot) {
    struct aliquot_limiter *limiter = calloc(1, sizeof *limiter);
    uint32_t count =
        grant->device_count < ALIQUOT_MAX_DEVICES ? grant->device_count : ALIQUOT_MAX_DEVICES;
    struct aliquot_flow *flow = calloc(count, sizeof *flow);
    struct aliquot_limiter_state *state = calloc(1, sizeof *state);
    if (!limiter || !flow || !state) {
        free(limiter);
        free(flow);
        free(state);
        return NULL;
    }
    *limiter = (struct aliquot_limiter){
        .seam = seam,
        .env = env,
        .flow = flow,
        .grant = grant,
        .usage = usage,
        .slot = slot,
        .device_count = count,
        .state = state,
    };
    uint64_t now = seam->now(env);
    for (uint32_t i = 0; i < count; i++) {
        limiter->front[i].gate = &grant->device[i].gate;
        /* Parts of a new thread are of epoch 0: given by nobody. */
        atomic_init(&limiter->front[i].epoch, 1);
        flow[i].device = i;
        flow[i].pace = 1024;
        flow[i].sharers = 1;
        flow[i].let_pause_ns = OVERDUE_NS;
        /* Marks at 0 would be those of a flow that has given nothing. */
        flow[i].given_ns = flow[i].done_ns = flow[i].marked_ns = 1;
    }
    atomic_init(&state->beat, atomic_load_explicit(&grant->beat, memory_order_relaxed));
    atomic_init(&state->beat_ns, now);
    return limiter;
}

void aliquot_limiter_free(struct aliquot_limiter *limiter) {
    free(limiter->flow);
    free(limiter->state);
    free(limiter);
}

struct aliquot_thread *aliquot_thread_new(struct aliquot_limiter *limiter) {
    struct aliquot_thread *thread = calloc(1, sizeof *thread);
    if (thread)
        aliquot_thread_begin(thread, limiter);
    return thread;
}

void aliquot_thread_begin(struct aliquot_thread *thread, struct aliquot_limiter *limiter) {
    thread->limiter = limiter;
    aliquot_lock(&limiter->state->lock);
    thread->next = limiter->state->threads;
    thread->link = &limiter->state->threads;
    if (thread->next)
        thread->next->link = &thread->next;
    limiter->state->threads = thread;
    aliquot_unlock(&limiter->state->lock);
}

static void take_back(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                      struct aliquot_part *part, uint64_t now);

void aliquot_thread_end(struct aliquot_thread *thread) {
    struct aliquot_limiter *limiter = thread->limiter;
    for (uint32_t i = 0; i < limiter->device_count; i++) {
        struct aliquot_flow *flow = &limiter->flow[i];
        aliquot_lock(&flow->lock);
        take_back(limiter, flow, &thread->part[i], now_of(limiter));
        aliquot_unlock(&flow->lock);
    }
    aliquot_lock(&limiter->state->lock);
    *thread->link = thread->next;
    if (thread->next)
        thread->next->link = thread->link;
    aliquot_unlock(&limiter->state->lock);
}

/* -- The gate ----------------------------------------------------------------------------------- */

/* Whether nobody shares out time any more, or ever did. */
static bool left_alone(struct aliquot_limiter *limiter, uint64_t now) {
    struct aliquot_limiter_state *state = limiter->state;
    /* relaxed, all: hints about another program's life. */
    uint64_t beat = atomic_load_explicit(&limiter->grant->beat, memory_order_relaxed);
    if (beat != atomic_load_explicit(&state->beat, memory_order_relaxed)) {
        atomic_store_explicit(&state->beat, beat, memory_order_relaxed);
        atomic_store_explicit(&state->beat_ns, now, memory_order_relaxed);
        return false;
    }
    uint64_t since = atomic_load_explicit(&state->beat_ns, memory_order_relaxed);
    return beat == 0 || (now > since && now - since > BEAT_NS);
}

unsigned aliquot_gate_now(struct aliquot_limiter *limiter, uint64_t gate, uint64_t now) {
    unsigned state = aliquot_gate_state(gate);
    if (state >= ALIQUOT_GATE_TURN && left_alone(limiter, now))
        return ALIQUOT_GATE_OPEN;
    return state;
}

void aliquot_flow_turn(struct aliquot_limiter *limiter, struct aliquot_flow *flow, unsigned state,
                       uint64_t gate, uint64_t now) {
    uint32_t number = aliquot_gate_number(gate);
    bool turn = state == ALIQUOT_GATE_TURN;
    flow->deserted = state != aliquot_gate_state(gate);
    if (flow->number == number && flow->turn == turn)
        return;
    if (turn) {
        flow->turn_seen_ns = now;
        flow->turn_end_ns = aliquot_ledger_turn(limiter, flow->device, gate, flow->turn, now);
        flow->refused_ns = 0;
        flow->grace_ns = 0;
        flow->offered = false;
    }
    flow->number = number;
    flow->turn = turn;
}

void aliquot_flow_publish(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                          uint64_t now) {
    uint32_t waiting = atomic_load_explicit(&flow->waiting, memory_order_relaxed);
    uint64_t left_ns = flow_left(flow);
    if (flow->unmeasured_ns > now)
        left_ns = most(left_ns, flow->unmeasured_ns - now);
    /* seq_cst: pairs with the arbiter's, which closes a gate and then reads this; whoever becomes
     * active reads the gate again after it. */
    atomic_store(&limiter->usage->flow[flow->device][limiter->slot],
                 aliquot_flow_word(waiting, flow->active, flow->rings, flow->number,
                                   flow->active ? left_ns : 0));
}

/* -- Parts -------------------------------------------------------------------------------------- */

static void take_back(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                      struct aliquot_part *part, uint64_t now) {
    uint64_t epoch =
        atomic_load_explicit(&limiter->front[flow->device].epoch, memory_order_relaxed);
    int64_t left = atomic_load_explicit(&part->left_ns, memory_order_relaxed);
    if (part->epoch != epoch || left <= 0 || left > INT64_MAX / 4)
        return;
    atomic_store_explicit(&part->left_ns, 0, memory_order_relaxed);
    uint64_t back = (uint64_t)left;
    flow->given_ns -= least(back, flow->given_ns - flow->done_ns);
    flow->marked_ns = least(flow->marked_ns, flow->given_ns);
    for (uint32_t i = 0; i < flow->mark_count; i++)
        flow->marks[i].spent_ns = least(flow->marks[i].spent_ns, flow->given_ns);
    aliquot_ledger_shift(limiter, flow->device, -left, -(int64_t)flow_paced(flow, back), now);
}

void aliquot_flow_void(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now) {
    aliquot_lock(&limiter->state->lock);
    for (struct aliquot_thread *thread = limiter->state->threads; thread; thread = thread->next)
        take_back(limiter, flow, &thread->part[flow->device], now);
    aliquot_unlock(&limiter->state->lock);
    /* relaxed: see struct aliquot_front. */
    atomic_fetch_add_explicit(&limiter->front[flow->device].epoch, 1, memory_order_relaxed);
}

static void note_lane(struct aliquot_flow *flow, uint64_t key, enum aliquot_lane_kind kind,
                      uint64_t now) {
    struct lane *oldest = &flow->lanes[0];
    for (uint32_t i = 0; i < LANES; i++) {
        struct lane *lane = &flow->lanes[i];
        if (lane->key == key) {
            lane->used_ns = now;
            return;
        }
        if (!lane->key || (oldest->key && lane->used_ns < oldest->used_ns))
            oldest = lane;
    }
    *oldest = (struct lane){.key = key, .kind = kind, .used_ns = now};
}

void aliquot_flow_count(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now) {
    uint32_t slots = atomic_load_explicit(&limiter->usage->high_water, memory_order_relaxed);
    if (slots > 64 && now - flow->counted_ns < 100 * US)
        return;
    const _Atomic uint64_t *words = limiter->usage->flow[flow->device];
    flow->counted_ns = now;
    flow->others_ns = 0;
    flow->sharers = flow->waiters = 1;
    flow->rank = 0;
    for (uint32_t i = 0; i < slots && i < ALIQUOT_MAX_SLOTS; i++) {
        uint64_t word = atomic_load(&words[i]);
        if (i == limiter->slot)
            continue;
        flow->waiters += aliquot_flow_waiting(word) > 0;
        flow->rank += i < limiter->slot && aliquot_flow_waiting(word) > 0;
        if (!aliquot_flow_active(word))
            continue;
        flow->others_ns += aliquot_flow_left_ns(word);
        flow->sharers += aliquot_flow_left_ns(word) > 0;
    }
    if (flow->sharers > 1) {
        flow->mixed_ns = now;
        flow->pace = aliquot_ledger_pace(limiter, flow->device);
    }
}

/* -- Waiting ------------------------------------------------------------------------------------ */

enum verdict {
    PASS,
    LATER, /* own work must be done first, or the cap says so: `until` */
    GATE,  /* somebody else has the device, or the turn is spent */
};

static bool capped(const struct aliquot_limiter *limiter, uint32_t device) {
    return atomic_load_explicit(&limiter->grant->device[device].cores, memory_order_relaxed) < 100;
}

static uint64_t window_of(const struct aliquot_limiter *limiter, uint32_t device) {
    uint32_t us =
        atomic_load_explicit(&limiter->grant->device[device].window_us, memory_order_relaxed);
    return us >= 100 && us <= 1000000 ? us * US : ALIQUOT_WINDOW_US * US;
}

/* Whether a launch of predicted `ns` may go now, behind what is done at `due_ns`. `*room` is how much
 * more may. */
static enum verdict judge(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                          unsigned state, uint64_t ns, uint64_t waited_ns, uint64_t now,
                          uint64_t due_ns, uint64_t *room, uint64_t *until) {
    uint64_t window = window_of(limiter, flow->device);
    aliquot_flow_count(limiter, flow, now);
    /* Who may not go by the cap asks for no turn. */
    uint64_t allowed = aliquot_ledger_allowed(limiter, flow->device, waited_ns, now);
    if (allowed > now) {
        *until = allowed + TOLERANCE_NS / 2;
        return LATER;
    }
    if (state == ALIQUOT_GATE_CLOSED)
        return GATE;
    uint64_t alone_ns = aliquot_ledger_alone(limiter, flow->device, now);
    if (alone_ns > now && alone_ns != flow->alone_ns) {
        *until = least(alone_ns, now + 100 * US);
        return LATER;
    }
    if (state == ALIQUOT_GATE_TURN) {
        uint64_t start = most(due_ns, now);
        uint64_t paced = flow_paced(flow, ns);
        bool used = aliquot_ledger_turn_used(limiter, flow->device);
        /* Each is the first one now and then, so that none waits for ever, and each can measure. (The
         * number grows when the gate opens and when it closes.) */
        if (!used && flow->number / 2 % flow->waiters != flow->rank &&
            now < flow->turn_seen_ns + FIRST_NS) {
            *until = now;
            return LATER;
        }
        /* One that ends beyond the turn goes if most of it lies within, and in any case if it is the
         * turn's first. */
        if ((start >= flow->turn_end_ns || flow->turn_end_ns - start < paced / 2) &&
            (used || start >= flow->turn_end_ns)) {
            flow->refused_ns = flow->refused_ns ? least(flow->refused_ns, paced) : paced;
            return GATE;
        }
        /* Less at a time towards its end, so that a mark stands near it, and that none of several
         * processes has still got what others wait for. */
        uint64_t rest = flow->turn_end_ns > start ? flow->turn_end_ns - start : 0;
        uint32_t takers = flow->sharers > flow->waiters ? flow->sharers : flow->waiters;
        *room = most(paced, least(rest, most(2 * paced, rest / (2 * takers))));
    } else {
        *room = window;
    }
    /* Where nothing else limits it, a launch that nobody has measured need not be waited for: it only
     * stands for more of the work that may be under way. */
    bool strict = state == ALIQUOT_GATE_TURN || capped(limiter, flow->device);
    bool full = due_ns > now + window;
    if (full || flow->mark_count >= (strict ? MARKS : LOOSE_MARKS) ||
        (strict && aliquot_meter_late(limiter, flow, now))) {
        *until = full ? due_ns - window : now;
        return LATER;
    }
    *room = least(*room, window / 4);
    return PASS;
}

/* A kernel of ours that is far beyond its time may wait for this very launch: it is let through, one
 * at a time. Where nobody else wants the device, and the cap has room, all are: a stream that waits for
 * the host may be filled by then. */
static bool let_through(struct aliquot_limiter *limiter, struct aliquot_flow *flow, unsigned state,
                        uint64_t now) {
    bool stuck;
    bool all =
        state < ALIQUOT_GATE_TURN && aliquot_ledger_allowed(limiter, flow->device, 0, now) <= now;
    if (!all && now - flow->let_ns < flow->let_pause_ns)
        return false;
    if (aliquot_meter_drained(limiter, flow, now, &stuck) || !stuck)
        return false;
    if (all)
        return true;
    /* If it was not this one, the next has to wait longer: it may just be a long kernel. */
    flow->let_ns = now;
    flow->let_pause_ns = least(4 * flow->let_pause_ns, 5000 * MS);
    /* relaxed: a figure. */
    atomic_fetch_add_explicit(&limiter->usage->time[flow->device].let_through, 1,
                              memory_order_relaxed);
    return true;
}

/* Whether the arbiter takes it that the process waits: its word has said so since it was rung or
 * rested, and no turn has come and gone meanwhile (of who lets one pass, only another ring is heard). */
static bool known_to_wait(const struct aliquot_limiter *limiter, const struct aliquot_flow *flow,
                          uint64_t gate) {
    /* relaxed: only this process writes it. */
    uint64_t word = atomic_load_explicit(&limiter->usage->flow[flow->device][limiter->slot],
                                         memory_order_relaxed);
    uint32_t passed = (aliquot_gate_number(gate) - aliquot_flow_number(word)) & 0xffffu;
    return aliquot_gate_state(gate) == ALIQUOT_GATE_CLOSED && aliquot_flow_waiting(word) &&
           !aliquot_flow_active(word) && passed <= 1;
}

/* Sleeps a little; the flow's lock is held, and let go meanwhile. */
static void wait_for(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                     enum verdict verdict, uint64_t gate, uint64_t until, uint64_t now) {
    bool ring = false;
    if (verdict == GATE) {
        flow->rings++;
        /* Nothing is under way, and what was kept for somebody who might come is too little for him. */
        if (flow->grace_ns)
            flow->active = false;
        flow->grace_ns = 0;
        /* One that has work on the device rings when that is done. */
        ring = (!flow->active && !known_to_wait(limiter, flow, gate)) ||
               now - flow->rung_ns >= RING_NS;
        if (ring)
            flow->rung_ns = now;
        until = now + WAIT_NS;
        atomic_fetch_add_explicit(&flow->waiting, 1, memory_order_relaxed);
        aliquot_flow_publish(limiter, flow, now);
    } else {
        /* Predictions may be wrong, and marks come a little late. */
        until = most(until, now + 20 * US);
        until = least(until, now + (flow->mark_count ? WAIT_NS / 5 : WAIT_NS));
    }
    aliquot_unlock(&flow->lock);
    if (ring)
        limiter->seam->ring(limiter->env);
    limiter->seam->wait(limiter->env, gate_futex(limiter, flow->device), (uint32_t)gate,
                        ALIQUOT_GATE_LAUNCHERS, until);
    aliquot_lock(&flow->lock);
    if (verdict == GATE)
        atomic_fetch_sub_explicit(&flow->waiting, 1, memory_order_relaxed);
}

/* -- The slow path ------------------------------------------------------------------------------ */

static void forget_known(struct aliquot_thread *thread) {
    uint64_t generation =
        atomic_load_explicit(&thread->limiter->state->generation, memory_order_acquire);
    if (thread->generation != generation) {
        memset(thread->known, 0, sizeof thread->known);
        thread->generation = generation;
    }
}

static void know(struct aliquot_thread *thread, const struct aliquot_launch *launch,
                 uint32_t device, uint32_t ns) {
    thread->known[aliquot_known_place(launch)] = (struct aliquot_known){
        .what = launch->what,
        .lane = launch->lane,
        .ns = ns ? ns : ALIQUOT_UNMEASURED,
        .device = device,
    };
}

static void set_part(struct aliquot_limiter *limiter, struct aliquot_part *part, uint32_t device,
                     uint64_t gate, int64_t left) {
    part->gate = gate;
    part->epoch = atomic_load_explicit(&limiter->front[device].epoch, memory_order_relaxed);
    atomic_store_explicit(&part->left_ns, left, memory_order_relaxed);
}

static void start_observer(struct aliquot_limiter *limiter, struct aliquot_flow *flow) {
    bool start = !flow->observed;
    flow->observed = true;
    aliquot_unlock(&flow->lock);
    if (start)
        limiter->seam->observer(limiter->env, limiter, flow->device);
    aliquot_lock(&flow->lock);
}

/* With what a launch was given that has not gone and will not. */
static void take_back_launch(struct aliquot_thread *thread, struct aliquot_flow *flow, uint64_t ns,
                             uint64_t now) {
    struct aliquot_part *part = &thread->part[flow->device];
    uint64_t given = ns ? ns : window_of(thread->limiter, flow->device);
    atomic_fetch_add_explicit(&part->left_ns, (int64_t)given, memory_order_relaxed);
    take_back(thread->limiter, flow, part, now);
}

/* Gives the thread a part, beginning with this launch, behind what is done at `due_ns`. The flow's
 * lock is held. False: another process was given one meanwhile. */
static bool give(struct aliquot_thread *thread, struct aliquot_flow *flow, uint64_t gate,
                 uint64_t ns, uint64_t again_ns, uint64_t due_ns, uint64_t room, uint64_t now,
                 aliquot_ticket *given) {
    struct aliquot_limiter *limiter = thread->limiter;
    uint64_t window = window_of(limiter, flow->device);
    aliquot_ticket ticket = TICKET_GIVEN;
    /* Of several processes, one measures while the others wait for it. The first launch of a turn may seem
     * long, since the device has to turn to us: the second one is measured, if there is one. */
    bool mixed = flow->turn && (flow->waiters > 1 || flow->sharers > 1);
    bool opens = flow->turn && !aliquot_ledger_turn_used(limiter, flow->device);
    bool only = flow->turn && most(due_ns, now) + 2 * ns > flow->turn_end_ns;
    bool alone = flow->alone_ns > now || (mixed && opens && only && due_ns <= now);
    bool stale = ns && now >= again_ns && now - flow->sampled_ns >= SAMPLE_NS;
    bool hold = mixed && opens && due_ns <= now && (!ns || stale);
    if (!ns || (stale && (mixed ? alone : !opens || now - again_ns >= 3 * STALE_NS))) {
        ticket |= TICKET_MARK | TICKET_MEASURE;
    } else if (flow->given_ns + ns - flow->marked_ns >= window / 2 || room <= 2 * ns) {
        ticket |= TICKET_MARK;
    }
    /* What is measured by itself is given by itself, so that its mark stands behind nothing else. */
    uint64_t first = ns ? ns : window;
    bool single = ticket & TICKET_MEASURE || hold;
    uint64_t part = ns && !single ? most(first, room - room % ns) : first;
    if (!aliquot_ledger_give(limiter, flow->device, due_ns, part, flow_paced(flow, part), now))
        return false;
    if (flow->turn)
        aliquot_ledger_use_turn(limiter, flow->device, gate);
    if (ticket & TICKET_MEASURE)
        flow->sampled_ns = now;
    if (hold) {
        flow->alone_ns = now + (ns ? 3 * ns + 50 * US : 10 * MS);
        aliquot_ledger_be_alone(limiter, flow->device, flow->alone_ns);
    } else if (!alone) {
        flow->alone_ns = 0;
    }
    if (!ns)
        flow->unmeasured_ns = now + UNMEASURED_NS;
    if (!flow->busy_ns) {
        flow->busy_ns = now;
        flow->done_ns = flow->given_ns;
    }
    if (!flow->mark_count && due_ns <= now)
        flow->gap_ns = now;
    flow->given_ns += part;
    flow->grace_ns = 0;
    flow->offered = false;
    set_part(limiter, &thread->part[flow->device], flow->device, gate, (int64_t)(part - first));
    *given = ticket;
    return true;
}

static aliquot_ticket enter(struct aliquot_thread *thread, const struct aliquot_launch *launch) {
    struct aliquot_limiter *limiter = thread->limiter;
    const struct aliquot_limiter_seam *seam = limiter->seam;
    forget_known(thread);
    enum aliquot_lane_kind kind = ALIQUOT_LANE_PLAIN;
    int device = seam->device(limiter->env, launch, &kind);
    if (device < 0 || (uint32_t)device >= limiter->device_count)
        return 0;
    struct aliquot_flow *flow = &limiter->flow[device];
    uint64_t again_ns;
    uint32_t ns = aliquot_learned(limiter, launch, &again_ns);
    know(thread, launch, (uint32_t)device, ns);
    uint64_t gate = gate_word(limiter, (uint32_t)device);
    if (aliquot_gate_state(gate) == ALIQUOT_GATE_FREE && !capped(limiter, (uint32_t)device)) {
        set_part(limiter, &thread->part[device], (uint32_t)device, gate, INT64_MAX / 2);
        return 0;
    }
    if (seam->captured(limiter->env, launch))
        return 0;

    uint64_t waited_from = 0, due_ns, now = now_of(limiter);
    aliquot_ticket ticket = 0;
    aliquot_lock(&flow->lock);
    if (!flow->observed)
        start_observer(limiter, flow);
    note_lane(flow, launch->lane, kind, now);
    take_back(limiter, flow, &thread->part[device], now);
    for (;;) {
        now = now_of(limiter);
        gate = gate_word(limiter, (uint32_t)device);
        if (!ns) {
            /* It may have been measured while it waited. */
            ns = aliquot_learned(limiter, launch, &again_ns);
            know(thread, launch, (uint32_t)device, ns);
        }
        unsigned state = aliquot_gate_now(limiter, gate, now);
        aliquot_flow_turn(limiter, flow, state, gate, now);
        if (flow->mark_count && now - flow->look_ns >= 20 * US)
            aliquot_meter_look(limiter, flow, now);
        uint64_t room = 0, until = 0;
        due_ns = aliquot_ledger_due(limiter, (uint32_t)device, now);
        enum verdict verdict = judge(limiter, flow, state, ns, waited_from ? now - waited_from : 0,
                                     now, due_ns, &room, &until);
        if (verdict != PASS) {
            if (let_through(limiter, flow, state, now))
                room = 0;
            else {
                bool counts =
                    verdict == GATE || aliquot_ledger_allowed(limiter, flow->device, 0, now) > now;
                if (counts && !waited_from)
                    waited_from = now;
                wait_for(limiter, flow, verdict, gate, until, now);
                continue;
            }
        }
        if (!give(thread, flow, gate, ns, again_ns, due_ns, room, now, &ticket))
            continue;
        bool was = flow->active;
        flow->active = true;
        /* Marks fill a stream too. One that is stuck must have room for all that the program puts there
         * before it sees to it that it goes on. */
        if (verdict != PASS && flow->mark_count >= LOOSE_MARKS)
            ticket &= ~(aliquot_ticket)(TICKET_MARK | TICKET_MEASURE);
        aliquot_flow_publish(limiter, flow, now);
        /* The gate may have closed before the arbiter could see that we are active: what has not been
         * launched is given back, and it is tried again. (Who is let through goes.) */
        if (verdict == PASS && !was && gate_word(limiter, (uint32_t)device) != gate) {
            take_back_launch(thread, flow, ns, now);
            flow->active = was;
            aliquot_flow_publish(limiter, flow, now);
            continue;
        }
        /* The observer of an idle device sleeps for long. Where others wait, it must not miss the end. */
        uint64_t late_ns = state >= ALIQUOT_GATE_TURN ? 0 : 2 * TICK_NS;
        if (!was && flow->observe_ns > aliquot_ledger_due(limiter, (uint32_t)device, now) + late_ns)
            ticket |= TICKET_ROUSE;
        break;
    }
    flow->launching++;
    aliquot_unlock(&flow->lock);
    thread->entered_ns = now;
    thread->launch_ns = ns;
    thread->begins = ticket && due_ns <= now;
    if (ticket & TICKET_MEASURE)
        thread->before = seam->mark(limiter->env, launch);
    if (waited_from) {
        struct aliquot_usage_time *time = &limiter->usage->time[device];
        /* relaxed: figures. */
        atomic_fetch_add_explicit(&time->wait_ns, now - waited_from, memory_order_relaxed);
        atomic_fetch_add_explicit(&time->waits, 1, memory_order_relaxed);
    }
    return ticket | (uint32_t)device << 8;
}

aliquot_ticket aliquot_gate_enter(struct aliquot_thread *thread,
                                  const struct aliquot_launch *launch) {
    int saved = errno;
    aliquot_ticket ticket = enter(thread, launch);
    errno = saved;
    return ticket;
}

/* Under the flow's lock: the driver has refused the launch, which so takes no time of anybody's. */
static void refused(struct aliquot_thread *thread, struct aliquot_flow *flow, aliquot_ticket ticket,
                    uint64_t now) {
    /* relaxed: who made what was given out void has the lock. */
    if (thread->part[flow->device].epoch !=
        atomic_load_explicit(&thread->limiter->front[flow->device].epoch, memory_order_relaxed))
        return;
    take_back_launch(thread, flow, thread->launch_ns, now);
    bool unmeasured = false;
    for (uint32_t i = 0; i < flow->mark_count; i++)
        unmeasured |= flow->marks[i].unmeasured;
    if (ticket & TICKET_MEASURE && !unmeasured)
        flow->unmeasured_ns = 0;
    aliquot_flow_publish(thread->limiter, flow, now);
}

static void launched(struct aliquot_thread *thread, const struct aliquot_launch *launch,
                     aliquot_ticket ticket, bool done, bool waited) {
    int saved = errno;
    struct aliquot_limiter *limiter = thread->limiter;
    struct aliquot_flow *flow = &limiter->flow[ticket >> 8];
    void *before = thread->before;
    thread->before = NULL;
    /* Before the mark, which costs as much as a launch. */
    uint64_t launched_ns = waited ? thread->entered_ns : now_of(limiter);
    if (done && thread->begins)
        aliquot_ledger_begin(limiter, flow->device, thread->entered_ns, launched_ns);
    if (ticket & TICKET_ROUSE)
        wake_role(limiter, flow->device, ALIQUOT_GATE_OBSERVERS);
    void *event = done && ticket & TICKET_MARK ? limiter->seam->mark(limiter->env, launch) : NULL;
    aliquot_lock(&flow->lock);
    flow->launching--;
    uint64_t now = now_of(limiter);
    if (!done)
        refused(thread, flow, ticket, now);
    if (event && flow->mark_count == MARKS) {
        limiter->seam->drop(limiter->env, event);
        event = NULL;
    }
    if (event) {
        /* relaxed: see struct aliquot_limiter_state. */
        uint32_t asides = atomic_load_explicit(&limiter->state->asides, memory_order_relaxed);
        if (limiter->seam->aside && limiter->seam->aside(limiter->env))
            asides =
                1 + atomic_fetch_add_explicit(&limiter->state->asides, 1, memory_order_relaxed);
        uint32_t ns = thread->launch_ns;
        int64_t left =
            atomic_load_explicit(&thread->part[flow->device].left_ns, memory_order_relaxed);
        /* What the thread was given and has not launched lies behind the mark. */
        uint64_t spent =
            flow->given_ns - least((uint64_t)(left > 0 ? left : 0), flow->given_ns - flow->done_ns);
        uint64_t due_ns = aliquot_ledger_due(limiter, flow->device, now);
        flow->marks[flow->mark_count++] = (struct mark){
            .event = event,
            .before = before,
            .launch = *launch,
            .spent_ns = spent,
            .entered_ns = thread->entered_ns,
            .host_ns = launched_ns,
            .due_ns = ns ? due_ns : most(due_ns, now) + UNMEASURED_NS,
            .alone_ns = before && ns ? flow->alone_ns : 0,
            .unmeasured = !ns,
            .asides = asides,
            .launch_ns = ns ? ns : (uint32_t)window_of(limiter, flow->device),
        };
        flow->marked_ns = spent;
    } else if (before) {
        limiter->seam->drop(limiter->env, before);
    }
    aliquot_unlock(&flow->lock);
    errno = saved;
}

void aliquot_launched(struct aliquot_thread *thread, const struct aliquot_launch *launch,
                      aliquot_ticket ticket, bool done) {
    launched(thread, launch, ticket, done, false);
}

void aliquot_launched_and_waited(struct aliquot_thread *thread, const struct aliquot_launch *launch,
                                 aliquot_ticket ticket, bool done) {
    launched(thread, launch, ticket, done, true);
}
