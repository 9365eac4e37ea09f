/* When an entry will have had what it wants, if nobody comes and nobody goes. */
#include "timeline_impl.h"

/* ---- In turn ------------------------------------------------------------------------------- */

/* The entries that have work, in the order of their turns, and what each has left. */
struct order {
    uint32_t count, own; /* own: place of the one that is asked for; `count` when it has no work */
    uint64_t left_ns[SIM_TIMELINE_ENTRIES];
};

static void list_turns(const struct sim_timeline *timeline, uint32_t first, uint32_t index,
                       struct order *order) {
    order->count = 0;
    order->own = SIM_TIMELINE_NONE;
    for (uint32_t i = first; i != SIM_TIMELINE_NONE;) {
        const struct sim_timeline_entry *entry = &timeline->entries[i];
        if (i == index)
            order->own = order->count;
        order->left_ns[order->count++] = entry->demand_ns - entry->run_ns;
        i = sim_next_busy(timeline, i);
        if (i == first)
            break;
    }
    if (order->own == SIM_TIMELINE_NONE)
        order->own = order->count; /* it would come last */
}

/* How long until the own entry has had `need_ns`, when the first turn begins now. `loaded`: the
 * device was the own entry's last, so that it needs no switch if nobody comes between. */
static uint64_t take_turns(struct order *order, uint64_t need_ns, bool loaded,
                           const struct sim_sharing *sharing) {
    uint64_t length = 0, slice_ns = sharing->slice_ns, switch_ns = sharing->switch_ns;
    for (;;) {
        uint64_t before = 0, after = 0, shortest = UINT64_MAX;
        for (uint32_t i = 0; i < order->count; i++) {
            if (i == order->own || order->left_ns[i] == 0)
                continue;
            uint64_t turn = switch_ns + sim_least(slice_ns, order->left_ns[i]);
            before += i < order->own ? turn : 0;
            after += i < order->own ? 0 : turn;
            shortest = sim_least(shortest, order->left_ns[i]);
        }
        uint64_t own_ns = loaded && before == 0 ? 0 : switch_ns;
        if (before + after == 0)
            return length + own_ns + need_ns;
        if (need_ns <= slice_ns)
            return length + before + own_ns + need_ns;
        /* Whole rounds in which nobody comes to an end are taken together; where the first begins
         * without a switch it is taken alone. */
        uint64_t rounds = sim_most(1, sim_least(shortest, need_ns - 1) / slice_ns);
        if (own_ns != switch_ns)
            rounds = 1;
        length += rounds * (before + own_ns + slice_ns + after);
        need_ns -= rounds * slice_ns;
        for (uint32_t i = 0; i < order->count; i++)
            order->left_ns[i] -= sim_least(order->left_ns[i], rounds * slice_ns);
        loaded = after == 0;
    }
}

static uint64_t predict_in_turn(const struct sim_timeline *timeline, uint32_t index,
                                uint64_t need_ns) {
    struct order order;
    uint64_t at_ns = timeline->now_ns;
    uint32_t holder = timeline->holder;
    bool holds = holder != SIM_TIMELINE_NONE && sim_is_busy(timeline, holder) &&
                 timeline->slice_end_ns > at_ns;
    bool loaded = timeline->loaded == timeline->entries[index].process;
    list_turns(timeline, sim_next_busy(timeline, holder), index, &order);
    if (holds && order.count > 0) {
        /* What is left of the present turn, and of the switch that begins it; its holder comes last
         * in the list. */
        at_ns = sim_most(at_ns, timeline->switch_end_ns);
        uint64_t rest = sim_least(timeline->slice_end_ns - at_ns, order.left_ns[order.count - 1]);
        if (order.own == order.count - 1) {
            rest = sim_least(rest, need_ns);
            need_ns -= rest;
        }
        order.left_ns[order.count - 1] -= rest;
        at_ns += rest;
    }
    return need_ns > 0 ? at_ns + take_turns(&order, need_ns, loaded, &timeline->sharing) : at_ns;
}

/* ---- Together ------------------------------------------------------------------------------ */

static uint64_t predict_together(const struct sim_timeline *timeline, uint32_t index,
                                 uint64_t need_ns) {
    const struct sim_timeline_entry *entries = timeline->entries;
    uint64_t left_ns[SIM_TIMELINE_ENTRIES] = {0}, at_ns = timeline->now_ns;
    uint32_t sms = timeline->sharing.sms;
    uint32_t wanted = 0; /* by the others, and by itself, which may have no work yet */
    for (uint32_t i = 0; i < timeline->high; i++) {
        if (!sim_is_busy(timeline, i) && i != index)
            continue;
        left_ns[i] = i == index ? need_ns : entries[i].demand_ns - entries[i].run_ns;
        wanted += entries[i].sms;
    }
    while (left_ns[index] > 0) {
        uint32_t crowd = wanted > sms ? wanted : sms;
        uint64_t step_ns = left_ns[index];
        for (uint32_t i = 0; i < timeline->high; i++)
            if (left_ns[i] > 0)
                step_ns = sim_least(step_ns, left_ns[i]);
        uint64_t rest = entries[index].crowd == crowd ? entries[index].rest : 0;
        at_ns += sim_time_for(step_ns, sms, crowd, at_ns == timeline->now_ns ? rest : 0);
        for (uint32_t i = 0; i < timeline->high; i++) {
            if (left_ns[i] == 0)
                continue;
            left_ns[i] -= step_ns;
            if (left_ns[i] == 0)
                wanted -= entries[i].sms;
        }
    }
    return at_ns;
}

uint64_t sim_timeline_predict(struct sim_timeline *timeline, int index, uint64_t run_ns) {
    sim_timeline_lock(timeline);
    const struct sim_timeline_entry *entry = &timeline->entries[index];
    uint64_t need_ns = run_ns > entry->run_ns ? run_ns - entry->run_ns : 0;
    uint64_t at_ns = timeline->now_ns;
    if (need_ns > 0 && timeline->sharing.together != 0)
        at_ns = predict_together(timeline, (uint32_t)index, need_ns);
    else if (need_ns > 0)
        at_ns = predict_in_turn(timeline, (uint32_t)index, need_ns);
    sim_timeline_unlock(timeline);
    return at_ns;
}
