/* The model of a device's time: its steps, and what processes say to it and learn from it. */
#include "timeline_impl.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { DEFAULT_SLICE_NS = 2000000 };

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void sim_timeline_init(struct sim_timeline *timeline, const struct sim_sharing *sharing) {
    timeline->sharing = *sharing;
    if (timeline->sharing.slice_ns == 0)
        timeline->sharing.slice_ns = DEFAULT_SLICE_NS;
    if (timeline->sharing.sms == 0)
        timeline->sharing.sms = 1;
    if (timeline->sharing.copy_engines == 0)
        timeline->sharing.copy_engines = 1;
    if (timeline->sharing.copy_engines > SIM_COPY_ENGINES_MAX)
        timeline->sharing.copy_engines = SIM_COPY_ENGINES_MAX;
    timeline->holder = SIM_TIMELINE_NONE;
    for (uint32_t i = 0; i < SIM_TIMELINE_ENTRIES; i++)
        timeline->entries[i].owner = SIM_TIMELINE_NONE;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&timeline->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

/* ---- The set of entries that have work ----------------------------------------------------- */

static void set_busy(struct sim_timeline *timeline, uint32_t index, bool busy) {
    uint64_t bit = UINT64_C(1) << (index % 64);
    if (busy)
        timeline->busy[index / 64] |= bit;
    else
        timeline->busy[index / 64] &= ~bit;
}

uint32_t sim_busy_count(const struct sim_timeline *timeline) {
    uint32_t count = 0;
    for (int i = 0; i < SIM_TIMELINE_WORDS; i++)
        count += (uint32_t)__builtin_popcountll(timeline->busy[i]);
    return count;
}

uint32_t sim_next_busy(const struct sim_timeline *timeline, uint32_t index) {
    uint32_t start = index == SIM_TIMELINE_NONE ? 0 : (index + 1) % SIM_TIMELINE_ENTRIES;
    for (uint32_t step = 0; step <= SIM_TIMELINE_WORDS; step++) {
        uint32_t word = (start / 64 + step) % SIM_TIMELINE_WORDS;
        uint64_t bits = timeline->busy[word];
        if (step == 0)
            bits &= ~UINT64_C(0) << (start % 64);
        if (bits != 0)
            return word * 64 + (uint32_t)__builtin_ctzll(bits);
    }
    return SIM_TIMELINE_NONE;
}

/* The first entry of a set from `from` on; NONE if there is none. */
static uint32_t first_of(const uint64_t set[SIM_TIMELINE_WORDS], uint32_t from) {
    for (uint32_t word = from / 64; word < SIM_TIMELINE_WORDS; word++) {
        uint64_t bits = set[word];
        if (word == from / 64)
            bits &= ~UINT64_C(0) << (from % 64);
        if (bits != 0)
            return word * 64 + (uint32_t)__builtin_ctzll(bits);
    }
    return SIM_TIMELINE_NONE;
}

uint32_t sim_crowd(const struct sim_timeline *timeline) {
    uint32_t sms = 0;
    for (uint32_t i = first_of(timeline->busy, 0); i != SIM_TIMELINE_NONE;
         i = first_of(timeline->busy, i + 1))
        sms += timeline->entries[i].sms;
    return sms > timeline->sharing.sms ? sms : timeline->sharing.sms;
}

/* ---- Knots --------------------------------------------------------------------------------- */

/* Drops every other of the inner knots: what is left is still a line through true points. */
static void thin(struct sim_timeline_entry *entry) {
    uint32_t kept = 1;
    for (uint32_t i = 2; i + 1 < entry->knot_count; i += 2)
        entry->knots[kept++] = entry->knots[i];
    entry->knots[kept++] = entry->knots[entry->knot_count - 1];
    entry->knot_count = kept;
}

static void push_knot(struct sim_timeline_entry *entry, uint64_t real_ns, uint64_t run_ns) {
    if (entry->knot_count >= SIM_TIMELINE_KNOTS)
        thin(entry);
    entry->knots[entry->knot_count] = (struct sim_knot){real_ns, run_ns};
    atomic_signal_fence(memory_order_release);
    entry->knot_count++;
}

/* Notes that the entry held the device from `from` to `to`, in a crowd that says how fast its clock
 * went. Doing it twice does no harm. */
static void note_run(struct sim_timeline_entry *entry, uint32_t crowd, struct sim_knot from,
                     struct sim_knot to) {
    uint32_t count = entry->knot_count;
    if (count > 0 && entry->knots[count - 1].real_ns >= to.real_ns)
        return;
    if (count == 0 || entry->knots[count - 1].real_ns < from.real_ns) {
        push_knot(entry, from.real_ns, from.run_ns);
    } else if (count > 1 && entry->knots[count - 2].run_ns < entry->knots[count - 1].run_ns &&
               entry->knots[count - 1].real_ns == from.real_ns && entry->crowd == crowd) {
        entry->knots[count - 1] = to; /* goes on in the same direction */
        return;
    }
    entry->crowd = crowd;
    push_knot(entry, to.real_ns, to.run_ns);
}

/* ---- Steps --------------------------------------------------------------------------------- */

/* Once more does no harm. */
static void apply_step(struct sim_timeline *timeline) {
    const struct sim_timeline_step *step = &timeline->step;
    struct sim_turn turn = {.from_ns = step->from_ns, .to_ns = step->to_ns};
    uint32_t i = first_of(step->running, 0);
    if (i == SIM_TIMELINE_NONE && timeline->holder < SIM_TIMELINE_ENTRIES) {
        struct sim_timeline_entry *entry = &timeline->entries[timeline->holder];
        turn.kind = SIM_TURN_SWITCH;
        sim_note_turn(timeline, entry, &turn);
        entry->wanted_ns = step->to_ns;
    }
    for (; i != SIM_TIMELINE_NONE; i = first_of(step->running, i + 1)) {
        struct sim_timeline_entry *entry = &timeline->entries[i];
        note_run(entry, step->crowd, (struct sim_knot){step->from_ns, step->of[i].from_run_ns},
                 (struct sim_knot){step->to_ns, step->of[i].to_run_ns});
        entry->run_ns = step->of[i].to_run_ns;
        entry->rest = step->of[i].rest;
        turn.kind = SIM_TURN_RUN;
        turn.from_run_ns = step->of[i].from_run_ns;
        turn.to_run_ns = step->of[i].to_run_ns;
        sim_note_turn(timeline, entry, &turn);
        entry->wanted_ns = step->to_ns;
    }
    timeline->busy_ns = step->busy_ns;
    timeline->switched_ns = step->switched_ns;
    timeline->now_ns = step->to_ns;
}

/* Lets the model go on by `length` ns, in which the clocks of `running` go. */
static void take_step(struct sim_timeline *timeline, const uint64_t running[SIM_TIMELINE_WORDS],
                      uint32_t crowd, uint64_t length) {
    struct sim_timeline_step *step = &timeline->step;
    uint32_t sms = timeline->sharing.sms, first = first_of(running, 0);
    step->crowd = crowd;
    step->from_ns = timeline->now_ns;
    step->to_ns = timeline->now_ns + length;
    step->busy_ns = timeline->busy_ns + (first == SIM_TIMELINE_NONE ? 0 : length);
    step->switched_ns = timeline->switched_ns + (first == SIM_TIMELINE_NONE ? length : 0);
    memcpy(step->running, running, sizeof step->running);
    for (uint32_t i = first; i != SIM_TIMELINE_NONE; i = first_of(running, i + 1)) {
        const struct sim_timeline_entry *entry = &timeline->entries[i];
        /* What was left over in another crowd is dropped: less than a nanosecond. */
        uint64_t rest = entry->crowd == crowd ? entry->rest : 0;
        unsigned __int128 gain = (unsigned __int128)length * sms + rest;
        step->of[i].from_run_ns = entry->run_ns;
        step->of[i].to_run_ns = entry->run_ns + (uint64_t)(gain / crowd);
        step->of[i].rest = (uint64_t)(gain % crowd);
    }
    /* A signal fence suffices: a killed process's stores up to its last instruction are seen. */
    atomic_signal_fence(memory_order_release);
    step->valid = 1;
    atomic_signal_fence(memory_order_release);
    apply_step(timeline);
    atomic_signal_fence(memory_order_release);
    step->valid = 0;
    if (first != SIM_TIMELINE_NONE)
        sim_add_usage(timeline, NULL, step->from_ns, step->to_ns, false);
    for (uint32_t i = first; i != SIM_TIMELINE_NONE; i = first_of(step->running, i + 1)) {
        struct sim_timeline_entry *entry = &timeline->entries[i];
        sim_add_usage(timeline, entry, step->from_ns, step->to_ns, false);
        if (entry->run_ns >= entry->demand_ns)
            set_busy(timeline, i, false);
    }
    if (sim_busy_count(timeline) == 0)
        timeline->idle_ns = timeline->now_ns;
}

/* All who have work run until one of them has none left, at the longest `most_ns`. */
static void run_together(struct sim_timeline *timeline, uint64_t most_ns) {
    uint32_t crowd = sim_crowd(timeline), sms = timeline->sharing.sms;
    for (uint32_t i = first_of(timeline->busy, 0); i != SIM_TIMELINE_NONE;
         i = first_of(timeline->busy, i + 1)) {
        const struct sim_timeline_entry *entry = &timeline->entries[i];
        uint64_t rest = entry->crowd == crowd ? entry->rest : 0;
        most_ns =
            sim_least(most_ns, sim_time_for(entry->demand_ns - entry->run_ns, sms, crowd, rest));
    }
    take_step(timeline, timeline->busy, crowd, most_ns);
}

/* The one whose turn it is runs, after a switch where it needs one: a step of at most `most_ns`. */
static void run_in_turn(struct sim_timeline *timeline, uint32_t busy, uint64_t most_ns) {
    uint32_t holder = timeline->holder;
    uint64_t slice_ns = timeline->sharing.slice_ns;
    bool over = timeline->now_ns >= timeline->slice_end_ns;
    if (holder == SIM_TIMELINE_NONE || !sim_is_busy(timeline, holder) || (over && busy > 1)) {
        uint32_t next = sim_next_busy(timeline, holder);
        if (next != holder)
            timeline->entries[next].turns++;
        timeline->holder = holder = next;
        timeline->switch_end_ns = timeline->now_ns;
        if (timeline->loaded != timeline->entries[next].process)
            timeline->switch_end_ns += timeline->sharing.switch_ns;
        timeline->slice_end_ns = timeline->switch_end_ns + slice_ns;
        timeline->loaded = timeline->entries[next].process;
    }
    const struct sim_timeline_entry *entry = &timeline->entries[holder];
    uint64_t running[SIM_TIMELINE_WORDS] = {0};
    if (timeline->now_ns < timeline->switch_end_ns) {
        take_step(timeline, running, timeline->sharing.sms,
                  sim_least(most_ns, timeline->switch_end_ns - timeline->now_ns));
        return;
    }
    uint64_t length = sim_least(most_ns, entry->demand_ns - entry->run_ns);
    if (busy > 1)
        length = sim_least(length, timeline->slice_end_ns - timeline->now_ns);
    running[holder / 64] = UINT64_C(1) << (holder % 64);
    take_step(timeline, running, timeline->sharing.sms, length);
    if (busy == 1 && timeline->now_ns >= timeline->slice_end_ns) {
        /* Alone: its slices follow each other, and a newcomer waits for the present one. */
        uint64_t past = timeline->now_ns - timeline->slice_end_ns;
        timeline->slice_end_ns += (past / slice_ns + 1) * slice_ns;
    }
}

void sim_timeline_advance(struct sim_timeline *timeline, uint64_t to_ns) {
    while (timeline->now_ns < to_ns) {
        uint32_t busy = sim_busy_count(timeline);
        if (busy == 0)
            timeline->now_ns = to_ns;
        else if (timeline->sharing.together != 0)
            run_together(timeline, to_ns - timeline->now_ns);
        else
            run_in_turn(timeline, busy, to_ns - timeline->now_ns);
    }
}

/* ---- The lock ------------------------------------------------------------------------------ */

/* Makes the state whole after its lock's holder died at any instruction. */
static void repair(struct sim_timeline *timeline) {
    if (timeline->step.valid == 1)
        apply_step(timeline);
    timeline->step.valid = 0;
    if (timeline->high > SIM_TIMELINE_ENTRIES)
        timeline->high = SIM_TIMELINE_ENTRIES;
    for (uint32_t i = 0; i < timeline->high; i++) {
        struct sim_timeline_entry *entry = &timeline->entries[i];
        uint32_t ascending = 0;
        while (ascending < sim_least(entry->knot_count, SIM_TIMELINE_KNOTS) &&
               (ascending == 0 ||
                entry->knots[ascending].real_ns > entry->knots[ascending - 1].real_ns))
            ascending++;
        if (ascending != entry->knot_count)
            entry->knot_count = 0;
        set_busy(timeline, i,
                 entry->owner != SIM_TIMELINE_NONE && entry->run_ns < entry->demand_ns);
    }
    if (sim_busy_count(timeline) == 0)
        timeline->idle_ns = timeline->now_ns;
}

void sim_timeline_lock(struct sim_timeline *timeline) {
    if (pthread_mutex_lock(&timeline->lock) == EOWNERDEAD) {
        repair(timeline);
        pthread_mutex_consistent(&timeline->lock);
    }
}

void sim_timeline_unlock(struct sim_timeline *timeline) { pthread_mutex_unlock(&timeline->lock); }

/* ---- Owners -------------------------------------------------------------------------------- */

struct sim_timeline_entry *sim_find_owner(struct sim_timeline *timeline, uint32_t owner) {
    for (uint32_t i = 0; i < timeline->high; i++)
        if (timeline->entries[i].owner == owner)
            return &timeline->entries[i];
    return NULL;
}

int sim_timeline_join(struct sim_timeline *timeline, uint32_t owner, uint32_t process) {
    sim_timeline_lock(timeline);
    struct sim_timeline_entry *entry = sim_find_owner(timeline, owner);
    if (entry == NULL) {
        entry = sim_find_owner(timeline, SIM_TIMELINE_NONE);
        if (entry == NULL && timeline->high < SIM_TIMELINE_ENTRIES)
            entry = &timeline->entries[timeline->high];
        if (entry != NULL) {
            entry->run_ns = 0;
            entry->demand_ns = 0;
            entry->turns = 0;
            entry->process = process;
            entry->sms = timeline->sharing.sms;
            entry->crowd = 0;
            entry->rest = 0;
            entry->turn = UINT64_MAX;
            entry->wanted_ns = 0;
            entry->knot_count = 0;
            entry->copy_ns = entry->copy_from_ns = entry->copy_until_ns = 0;
            memset(entry->usage, 0, sizeof entry->usage);
            uint32_t index = (uint32_t)(entry - timeline->entries);
            if (timeline->high <= index)
                timeline->high = index + 1;
            atomic_signal_fence(memory_order_release);
            entry->owner = owner;
        }
    }
    int index = entry == NULL ? -1 : (int)(entry - timeline->entries);
    sim_timeline_unlock(timeline);
    return index;
}

void sim_timeline_leave(struct sim_timeline *timeline, uint32_t owner) {
    sim_timeline_lock(timeline);
    struct sim_timeline_entry *entry = sim_find_owner(timeline, owner);
    if (entry != NULL) {
        uint32_t index = (uint32_t)(entry - timeline->entries);
        uint64_t now_ns = clock_ns();
        sim_timeline_advance(timeline, sim_most(timeline->now_ns, now_ns));
        sim_count_copies(timeline, entry, now_ns);
        if (sim_is_busy(timeline, index)) {
            set_busy(timeline, index, false);
            if (sim_busy_count(timeline) == 0)
                timeline->idle_ns = timeline->now_ns;
        }
        entry->demand_ns = entry->run_ns;
        atomic_signal_fence(memory_order_release);
        entry->owner = SIM_TIMELINE_NONE;
    }
    sim_timeline_unlock(timeline);
}

/* ---- Looking ------------------------------------------------------------------------------- */

static void fill_view(struct sim_timeline *timeline, uint32_t index,
                      struct sim_timeline_view *view) {
    struct sim_timeline_entry *entry = &timeline->entries[index];
    view->now_ns = timeline->now_ns;
    view->run_ns = entry->run_ns;
    view->alone = sim_busy_count(timeline) <= (sim_is_busy(timeline, index) ? 1u : 0u);
    view->knot_count = entry->knot_count;
    memcpy(view->knots, entry->knots, entry->knot_count * sizeof *entry->knots);
    entry->knot_count = 0;
    if (view->knot_count == 0 || view->knots[view->knot_count - 1].real_ns < timeline->now_ns)
        view->knots[view->knot_count++] = (struct sim_knot){timeline->now_ns, entry->run_ns};
}

void sim_timeline_look(struct sim_timeline *timeline, int index, uint64_t now_ns,
                       struct sim_timeline_view *view) {
    sim_timeline_lock(timeline);
    sim_timeline_advance(timeline, now_ns);
    fill_view(timeline, (uint32_t)index, view);
    sim_timeline_unlock(timeline);
}

void sim_timeline_demand(struct sim_timeline *timeline, int index, uint64_t now_ns,
                         const struct sim_demand *demand, struct sim_timeline_view *view) {
    uint32_t sms = timeline->sharing.sms;
    sim_timeline_lock(timeline);
    sim_timeline_advance(timeline, now_ns);
    struct sim_timeline_entry *entry = &timeline->entries[index];
    entry->sms = demand->sms != 0 && demand->sms < sms ? demand->sms : sms;
    if (demand->until_ns < entry->demand_ns && sim_is_busy(timeline, (uint32_t)index)) {
        entry->demand_ns = sim_most(demand->until_ns, entry->run_ns);
        if (entry->demand_ns == entry->run_ns) {
            set_busy(timeline, (uint32_t)index, false);
            if (sim_busy_count(timeline) == 0)
                timeline->idle_ns = timeline->now_ns;
        }
    } else if (demand->until_ns > entry->run_ns) {
        /* While nobody had work the model may go back and let this one have run since then. */
        uint64_t since = sim_most(demand->since_ns, timeline->idle_ns);
        if (sim_busy_count(timeline) == 0 && since < timeline->now_ns)
            timeline->now_ns = since;
        if (!sim_is_busy(timeline, (uint32_t)index))
            entry->wanted_ns = sim_least(timeline->now_ns, sim_most(since, entry->wanted_ns));
        entry->demand_ns = demand->until_ns;
        set_busy(timeline, (uint32_t)index, true);
        sim_timeline_advance(timeline, now_ns);
    }
    fill_view(timeline, (uint32_t)index, view);
    sim_timeline_unlock(timeline);
}

uint64_t sim_timeline_busy_ns(struct sim_timeline *timeline, uint32_t owner, uint64_t now_ns,
                              bool *busy) {
    sim_timeline_lock(timeline);
    sim_timeline_advance(timeline, now_ns);
    const struct sim_timeline_entry *entry = sim_find_owner(timeline, owner);
    uint64_t run_ns = entry == NULL ? 0 : entry->run_ns;
    if (busy != NULL)
        *busy = entry != NULL && sim_is_busy(timeline, (uint32_t)(entry - timeline->entries));
    sim_timeline_unlock(timeline);
    return run_ns;
}

struct sim_totals sim_timeline_totals(struct sim_timeline *timeline, uint64_t now_ns) {
    sim_timeline_lock(timeline);
    sim_timeline_advance(timeline, now_ns);
    struct sim_totals totals = {timeline->busy_ns, timeline->switched_ns, timeline->turn_count};
    sim_timeline_unlock(timeline);
    return totals;
}
