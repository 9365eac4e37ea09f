/* What happened on a device: turns, copy engines, and how busy it was. */
#include "timeline_impl.h"

#include <stdatomic.h>

/* ---- Periods ------------------------------------------------------------------------------- */

/* The record of a period; NULL when it is too old to be kept. */
static struct sim_usage_period *period_of(struct sim_usage_period *usage, uint32_t number) {
    struct sim_usage_period *period = &usage[number % SIM_USAGE_PERIODS];
    if (period->number == number)
        return period;
    if (period->number > number)
        return NULL;
    period->run_ns = 0;
    period->copy_ns = 0;
    atomic_signal_fence(memory_order_release);
    period->number = number;
    return period;
}

static void add_to(struct sim_usage_period *usage, uint32_t number, uint64_t run_ns,
                   uint64_t copy_ns) {
    struct sim_usage_period *period = period_of(usage, number);
    if (period == NULL)
        return;
    period->run_ns = (uint32_t)sim_least(period->run_ns + run_ns, SIM_USAGE_PERIOD_NS);
    period->copy_ns = (uint32_t)sim_least(period->copy_ns + copy_ns, SIM_USAGE_PERIOD_NS);
}

void sim_add_usage(struct sim_timeline *timeline, struct sim_timeline_entry *entry,
                   uint64_t from_ns, uint64_t to_ns, bool copies) {
    struct sim_usage_period *usage = entry != NULL ? entry->usage : timeline->usage;
    while (from_ns < to_ns) {
        uint64_t number = from_ns / SIM_USAGE_PERIOD_NS;
        uint64_t last = (to_ns - 1) / SIM_USAGE_PERIOD_NS;
        if (last - number >= SIM_USAGE_PERIODS) {
            from_ns = (last - SIM_USAGE_PERIODS + 1) * SIM_USAGE_PERIOD_NS;
            continue;
        }
        uint64_t end_ns = sim_least(to_ns, (number + 1) * SIM_USAGE_PERIOD_NS);
        uint64_t run_ns = copies ? 0 : end_ns - from_ns, copy_ns = copies ? end_ns - from_ns : 0;
        add_to(usage, (uint32_t)number, run_ns, copy_ns);
        from_ns = end_ns;
    }
}

void sim_count_copies(struct sim_timeline *timeline, struct sim_timeline_entry *entry,
                      uint64_t now_ns) {
    uint64_t from_ns = entry->copy_from_ns, until_ns = sim_least(entry->copy_until_ns, now_ns);
    if (until_ns <= from_ns)
        return;
    /* First: who dies in between has counted too little, not twice. */
    entry->copy_from_ns = until_ns;
    entry->copy_ns += until_ns - from_ns;
    sim_add_usage(timeline, entry, from_ns, until_ns, true);
    sim_add_usage(timeline, NULL, from_ns, until_ns, true);
}

/* ---- Turns --------------------------------------------------------------------------------- */

static struct sim_turn *turn_at(struct sim_timeline *timeline, uint64_t number) {
    return &timeline->turns[number % SIM_TURNS_KEPT];
}

static void push_turn(struct sim_timeline *timeline, const struct sim_turn *turn) {
    *turn_at(timeline, timeline->turn_count) = *turn;
    /* Who dies before it counts has noted nothing. */
    atomic_signal_fence(memory_order_release);
    timeline->turn_count++;
}

void sim_note_turn(struct sim_timeline *timeline, struct sim_timeline_entry *entry,
                   const struct sim_turn *turn) {
    uint64_t number = entry->turn;
    if (number < timeline->turn_count && timeline->turn_count - number <= SIM_TURNS_KEPT) {
        struct sim_turn *last = turn_at(timeline, number);
        if (last->process == entry->process && last->kind == turn->kind &&
            last->from_ns <= turn->from_ns && last->to_ns >= turn->to_ns)
            return; /* noted already, by one who died before it could say so */
        if (last->process == entry->process && last->kind == turn->kind && last->sealed == 0 &&
            last->to_ns == turn->from_ns) {
            last->to_run_ns = turn->to_run_ns;
            last->to_ns = turn->to_ns;
            return;
        }
    }
    struct sim_turn own = *turn;
    own.process = entry->process;
    own.since_ns = sim_least(entry->wanted_ns, turn->from_ns);
    entry->turn = timeline->turn_count;
    push_turn(timeline, &own);
}

uint32_t sim_timeline_turns(struct sim_timeline *timeline, uint64_t now_ns, uint64_t *first,
                            struct sim_turn *turns, uint32_t room, uint64_t *lost) {
    uint32_t count = 0;
    sim_timeline_lock(timeline);
    sim_timeline_advance(timeline, now_ns);
    uint64_t oldest = timeline->turn_count - sim_least(timeline->turn_count, SIM_TURNS_KEPT);
    if (*first < oldest) {
        *lost += oldest - *first;
        *first = oldest;
    }
    for (; count < room && *first < timeline->turn_count; (*first)++) {
        struct sim_turn *turn = turn_at(timeline, *first);
        turn->sealed = 1;
        turns[count++] = *turn;
    }
    sim_timeline_unlock(timeline);
    return count;
}

/* ---- Copy engines -------------------------------------------------------------------------- */

bool sim_timeline_copy(struct sim_timeline *timeline, int index, uint64_t now_ns, uint64_t ready_ns,
                       uint64_t length_ns, enum sim_lane lane, uint64_t *start_ns) {
    sim_timeline_lock(timeline);
    struct sim_timeline_entry *entry = &timeline->entries[index];
    uint32_t engine = 0;
    for (uint32_t i = 1; i < timeline->sharing.copy_engines; i++)
        if (timeline->engine_free_ns[i] < timeline->engine_free_ns[engine])
            engine = i;
    uint64_t free_ns = sim_most(timeline->engine_free_ns[engine], timeline->lane_free_ns[lane]);
    uint64_t from_ns = sim_most(ready_ns, free_ns), to_ns = from_ns + length_ns;
    bool begins = from_ns <= now_ns;
    *start_ns = from_ns;
    if (begins) {
        timeline->engine_free_ns[engine] = to_ns;
        timeline->lane_free_ns[lane] = to_ns;
        if (from_ns > entry->copy_until_ns) {
            sim_count_copies(timeline, entry, entry->copy_until_ns); /* all of it has passed */
            entry->copy_from_ns = from_ns;
        }
        entry->copy_until_ns = sim_most(entry->copy_until_ns, to_ns);
        sim_count_copies(timeline, entry, now_ns);
        push_turn(timeline, &(struct sim_turn){.from_ns = from_ns,
                                               .to_ns = to_ns,
                                               .process = entry->process,
                                               .kind = SIM_TURN_COPY,
                                               .engine = (uint8_t)engine,
                                               .lane = (uint8_t)lane});
    }
    sim_timeline_unlock(timeline);
    return begins;
}

/* ---- For people ---------------------------------------------------------------------------- */

void sim_timeline_usage(struct sim_timeline *timeline, uint32_t owner, uint64_t now_ns,
                        uint64_t since_ns, struct sim_usage *usage) {
    uint64_t end = now_ns / SIM_USAGE_PERIOD_NS;
    uint64_t first =
        sim_most(end - sim_least(end, SIM_USAGE_WINDOW), since_ns / SIM_USAGE_PERIOD_NS);
    *usage = (struct sim_usage){.end_ns = end * SIM_USAGE_PERIOD_NS};
    sim_timeline_lock(timeline);
    sim_timeline_advance(timeline, now_ns);
    for (uint32_t i = 0; i < timeline->high; i++)
        if (timeline->entries[i].owner != SIM_TIMELINE_NONE)
            sim_count_copies(timeline, &timeline->entries[i], now_ns);
    const struct sim_timeline_entry *entry =
        owner == SIM_TIMELINE_NONE ? NULL : sim_find_owner(timeline, owner);
    const struct sim_usage_period *periods = entry != NULL ? entry->usage : timeline->usage;
    if (first < end)
        usage->length_ns = (end - first) * SIM_USAGE_PERIOD_NS;
    for (uint64_t n = first; n < end && (entry != NULL || owner == SIM_TIMELINE_NONE); n++) {
        const struct sim_usage_period *period = &periods[n % SIM_USAGE_PERIODS];
        if (period->number == (uint32_t)n) {
            usage->run_ns += period->run_ns;
            usage->copy_ns += period->copy_ns;
        }
    }
    sim_timeline_unlock(timeline);
}
