#include "timeline.h"

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

void sim_timeline_init(struct sim_timeline *timeline, uint64_t slice_ns) {
    memset(timeline, 0, sizeof *timeline);
    timeline->slice_ns = slice_ns != 0 ? slice_ns : DEFAULT_SLICE_NS;
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

static bool is_busy(const struct sim_timeline *timeline, uint32_t index) {
    return (timeline->busy[index / 64] >> (index % 64) & 1) != 0;
}

static void set_busy(struct sim_timeline *timeline, uint32_t index, bool busy) {
    uint64_t bit = UINT64_C(1) << (index % 64);
    if (busy)
        timeline->busy[index / 64] |= bit;
    else
        timeline->busy[index / 64] &= ~bit;
}

static uint32_t busy_count(const struct sim_timeline *timeline) {
    uint32_t count = 0;
    for (int i = 0; i < SIM_TIMELINE_WORDS; i++)
        count += (uint32_t)__builtin_popcountll(timeline->busy[i]);
    return count;
}

/* The busy entry that follows `index` round robin (any index, NONE included); NONE if none. */
static uint32_t next_busy(const struct sim_timeline *timeline, uint32_t index) {
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

/* Notes that the entry held the device from `from` to `to`. Doing it twice does no harm. */
static void note_run(struct sim_timeline_entry *entry, struct sim_knot from, struct sim_knot to) {
    uint32_t count = entry->knot_count;
    if (count > 0 && entry->knots[count - 1].real_ns >= to.real_ns)
        return;
    if (count == 0 || entry->knots[count - 1].real_ns < from.real_ns) {
        push_knot(entry, from.real_ns, from.run_ns);
    } else if (count > 1 && entry->knots[count - 2].run_ns < entry->knots[count - 1].run_ns &&
               entry->knots[count - 1].real_ns == from.real_ns) {
        entry->knots[count - 1] = to; /* goes on in the same direction */
        return;
    }
    push_knot(entry, to.real_ns, to.run_ns);
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* ---- Usage --------------------------------------------------------------------------------- */

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
    period->run_ns = (uint32_t)least(period->run_ns + run_ns, SIM_USAGE_PERIOD_NS);
    period->copy_ns = (uint32_t)least(period->copy_ns + copy_ns, SIM_USAGE_PERIOD_NS);
}

/* Notes that the entry ran kernels, or moved bytes, from `from_ns` to `to_ns`. */
static void add_usage(struct sim_timeline *timeline, struct sim_timeline_entry *entry,
                      uint64_t from_ns, uint64_t to_ns, bool copies) {
    while (from_ns < to_ns) {
        uint64_t number = from_ns / SIM_USAGE_PERIOD_NS;
        uint64_t last = (to_ns - 1) / SIM_USAGE_PERIOD_NS;
        if (last - number >= SIM_USAGE_PERIODS) {
            from_ns = (last - SIM_USAGE_PERIODS + 1) * SIM_USAGE_PERIOD_NS;
            continue;
        }
        uint64_t end_ns = least(to_ns, (number + 1) * SIM_USAGE_PERIOD_NS);
        uint64_t run_ns = copies ? 0 : end_ns - from_ns, copy_ns = copies ? end_ns - from_ns : 0;
        add_to(entry->usage, (uint32_t)number, run_ns, copy_ns);
        add_to(timeline->usage, (uint32_t)number, run_ns, copy_ns);
        from_ns = end_ns;
    }
}

/* Counts what the entry has moved up to `now_ns`. */
static void count_copies(struct sim_timeline *timeline, struct sim_timeline_entry *entry,
                         uint64_t now_ns) {
    uint64_t from_ns = entry->copy_from_ns, until_ns = least(entry->copy_until_ns, now_ns);
    if (until_ns <= from_ns)
        return;
    /* First: who dies in between has counted too little, not twice. */
    entry->copy_from_ns = until_ns;
    entry->copy_ns += until_ns - from_ns;
    add_usage(timeline, entry, from_ns, until_ns, true);
}

/* ---- Steps --------------------------------------------------------------------------------- */

static void apply_step(struct sim_timeline *timeline) {
    const struct sim_timeline_step *step = &timeline->step;
    struct sim_timeline_entry *entry = &timeline->entries[step->entry];
    note_run(entry, (struct sim_knot){step->from_ns, step->from_run_ns},
             (struct sim_knot){step->to_ns, step->to_run_ns});
    entry->run_ns = step->to_run_ns;
    timeline->busy_ns = step->busy_ns;
    timeline->now_ns = step->to_ns;
}

/* Lets `index` hold the device for `length` ns from the model's now. */
static void run_step(struct sim_timeline *timeline, uint32_t index, uint64_t length) {
    struct sim_timeline_entry *entry = &timeline->entries[index];
    uint64_t from_ns = timeline->now_ns;
    timeline->step = (struct sim_timeline_step){
        .entry = index,
        .from_ns = timeline->now_ns,
        .to_ns = timeline->now_ns + length,
        .from_run_ns = entry->run_ns,
        .to_run_ns = entry->run_ns + length,
        .busy_ns = timeline->busy_ns + length,
    };
    /* A signal fence suffices: a killed process's stores up to its last instruction are seen. */
    atomic_signal_fence(memory_order_release);
    timeline->step.valid = 1;
    atomic_signal_fence(memory_order_release);
    apply_step(timeline);
    atomic_signal_fence(memory_order_release);
    timeline->step.valid = 0;
    add_usage(timeline, entry, from_ns, timeline->now_ns, false);
    if (entry->run_ns >= entry->demand_ns)
        set_busy(timeline, index, false);
}

static void advance(struct sim_timeline *timeline, uint64_t to_ns) {
    while (timeline->now_ns < to_ns) {
        uint32_t busy = busy_count(timeline);
        if (busy == 0) {
            timeline->now_ns = to_ns;
            return;
        }
        uint32_t holder = timeline->holder;
        bool over = timeline->now_ns >= timeline->slice_end_ns;
        if (holder == SIM_TIMELINE_NONE || !is_busy(timeline, holder) || (over && busy > 1)) {
            uint32_t next = next_busy(timeline, holder);
            timeline->slice_end_ns = timeline->now_ns + timeline->slice_ns;
            if (next != holder)
                timeline->entries[next].turns++;
            holder = next;
            timeline->holder = next;
        }
        const struct sim_timeline_entry *entry = &timeline->entries[holder];
        uint64_t length = least(to_ns - timeline->now_ns, entry->demand_ns - entry->run_ns);
        if (busy > 1)
            length = least(length, timeline->slice_end_ns - timeline->now_ns);
        run_step(timeline, holder, length);
        if (busy == 1 && timeline->now_ns >= timeline->slice_end_ns) {
            /* Alone: its slices follow each other, and a newcomer waits for the present one. */
            uint64_t past = timeline->now_ns - timeline->slice_end_ns;
            timeline->slice_end_ns += (past / timeline->slice_ns + 1) * timeline->slice_ns;
        }
        if (busy == 1 && !is_busy(timeline, holder))
            timeline->idle_ns = timeline->now_ns;
    }
}

/* ---- The lock ------------------------------------------------------------------------------ */

/* Makes the state whole after its lock's holder died at any instruction. */
static void repair(struct sim_timeline *timeline) {
    if (timeline->step.valid == 1 && timeline->step.entry < SIM_TIMELINE_ENTRIES)
        apply_step(timeline);
    timeline->step.valid = 0;
    if (timeline->high > SIM_TIMELINE_ENTRIES)
        timeline->high = SIM_TIMELINE_ENTRIES;
    for (uint32_t i = 0; i < timeline->high; i++) {
        struct sim_timeline_entry *entry = &timeline->entries[i];
        uint32_t ascending = 0;
        while (ascending < least(entry->knot_count, SIM_TIMELINE_KNOTS) &&
               (ascending == 0 ||
                entry->knots[ascending].real_ns > entry->knots[ascending - 1].real_ns))
            ascending++;
        if (ascending != entry->knot_count)
            entry->knot_count = 0;
        set_busy(timeline, i,
                 entry->owner != SIM_TIMELINE_NONE && entry->run_ns < entry->demand_ns);
    }
    if (timeline->holder != SIM_TIMELINE_NONE && !is_busy(timeline, timeline->holder))
        timeline->holder = SIM_TIMELINE_NONE;
    if (busy_count(timeline) == 0)
        timeline->idle_ns = timeline->now_ns;
}

static void lock(struct sim_timeline *timeline) {
    if (pthread_mutex_lock(&timeline->lock) == EOWNERDEAD) {
        repair(timeline);
        pthread_mutex_consistent(&timeline->lock);
    }
}

static void unlock(struct sim_timeline *timeline) { pthread_mutex_unlock(&timeline->lock); }

/* ---- Owners -------------------------------------------------------------------------------- */

static struct sim_timeline_entry *find_owner(struct sim_timeline *timeline, uint32_t owner) {
    for (uint32_t i = 0; i < timeline->high; i++)
        if (timeline->entries[i].owner == owner)
            return &timeline->entries[i];
    return NULL;
}

int sim_timeline_join(struct sim_timeline *timeline, uint32_t owner) {
    lock(timeline);
    struct sim_timeline_entry *entry = find_owner(timeline, owner);
    if (entry == NULL) {
        entry = find_owner(timeline, SIM_TIMELINE_NONE);
        if (entry == NULL && timeline->high < SIM_TIMELINE_ENTRIES)
            entry = &timeline->entries[timeline->high];
        if (entry != NULL) {
            entry->run_ns = 0;
            entry->demand_ns = 0;
            entry->turns = 0;
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
    unlock(timeline);
    return index;
}

void sim_timeline_leave(struct sim_timeline *timeline, uint32_t owner) {
    lock(timeline);
    struct sim_timeline_entry *entry = find_owner(timeline, owner);
    if (entry != NULL) {
        uint32_t index = (uint32_t)(entry - timeline->entries);
        uint64_t now_ns = clock_ns();
        advance(timeline, most(timeline->now_ns, now_ns));
        count_copies(timeline, entry, now_ns);
        if (is_busy(timeline, index)) {
            set_busy(timeline, index, false);
            if (busy_count(timeline) == 0)
                timeline->idle_ns = timeline->now_ns;
        }
        entry->demand_ns = entry->run_ns;
        atomic_signal_fence(memory_order_release);
        entry->owner = SIM_TIMELINE_NONE;
    }
    unlock(timeline);
}

/* ---- Looking ------------------------------------------------------------------------------- */

static void fill_view(struct sim_timeline *timeline, uint32_t index,
                      struct sim_timeline_view *view) {
    struct sim_timeline_entry *entry = &timeline->entries[index];
    view->now_ns = timeline->now_ns;
    view->run_ns = entry->run_ns;
    view->alone = busy_count(timeline) <= (is_busy(timeline, index) ? 1u : 0u);
    view->knot_count = entry->knot_count;
    memcpy(view->knots, entry->knots, entry->knot_count * sizeof *entry->knots);
    entry->knot_count = 0;
    if (view->knot_count == 0 || view->knots[view->knot_count - 1].real_ns < timeline->now_ns)
        view->knots[view->knot_count++] = (struct sim_knot){timeline->now_ns, entry->run_ns};
}

void sim_timeline_look(struct sim_timeline *timeline, int index, uint64_t now_ns,
                       struct sim_timeline_view *view) {
    lock(timeline);
    advance(timeline, now_ns);
    fill_view(timeline, (uint32_t)index, view);
    unlock(timeline);
}

void sim_timeline_demand(struct sim_timeline *timeline, int index, uint64_t now_ns,
                         uint64_t since_ns, uint64_t demand_ns, struct sim_timeline_view *view) {
    lock(timeline);
    advance(timeline, now_ns);
    struct sim_timeline_entry *entry = &timeline->entries[index];
    if (demand_ns < entry->demand_ns && is_busy(timeline, (uint32_t)index)) {
        entry->demand_ns = most(demand_ns, entry->run_ns);
        if (entry->demand_ns == entry->run_ns) {
            set_busy(timeline, (uint32_t)index, false);
            if (busy_count(timeline) == 0)
                timeline->idle_ns = timeline->now_ns;
        }
    } else if (demand_ns > entry->run_ns) {
        /* While nobody had work the model may go back and let this one have run since then. */
        uint64_t since = most(since_ns, timeline->idle_ns);
        if (busy_count(timeline) == 0 && since < timeline->now_ns)
            timeline->now_ns = since;
        entry->demand_ns = demand_ns;
        set_busy(timeline, (uint32_t)index, true);
        advance(timeline, now_ns);
    }
    fill_view(timeline, (uint32_t)index, view);
    unlock(timeline);
}

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
        i = next_busy(timeline, i);
        if (i == first)
            break;
    }
    if (order->own == SIM_TIMELINE_NONE)
        order->own = order->count; /* it would come last */
}

/* How long until the own entry has had `need_ns`, when the first turn begins now. */
static uint64_t take_turns(struct order *order, uint64_t need_ns, uint64_t slice_ns) {
    uint64_t length = 0;
    for (;;) {
        uint64_t before = 0, after = 0, shortest = UINT64_MAX;
        for (uint32_t i = 0; i < order->count; i++) {
            if (i == order->own || order->left_ns[i] == 0)
                continue;
            uint64_t turn = least(slice_ns, order->left_ns[i]);
            before += i < order->own ? turn : 0;
            after += i < order->own ? 0 : turn;
            shortest = least(shortest, order->left_ns[i]);
        }
        if (before + after == 0)
            return length + need_ns;
        if (need_ns <= slice_ns)
            return length + before + need_ns;
        /* Whole rounds in which nobody comes to an end are taken together. */
        uint64_t rounds = most(1, least(shortest, need_ns - 1) / slice_ns);
        length += rounds * (before + slice_ns + after);
        need_ns -= rounds * slice_ns;
        for (uint32_t i = 0; i < order->count; i++)
            order->left_ns[i] -= least(order->left_ns[i], rounds * slice_ns);
    }
}

uint64_t sim_timeline_predict(struct sim_timeline *timeline, int index, uint64_t run_ns) {
    struct order order;
    lock(timeline);
    const struct sim_timeline_entry *entry = &timeline->entries[index];
    uint64_t need_ns = run_ns > entry->run_ns ? run_ns - entry->run_ns : 0;
    uint64_t at_ns = timeline->now_ns;
    uint32_t holder = timeline->holder;
    bool holds =
        holder != SIM_TIMELINE_NONE && is_busy(timeline, holder) && timeline->slice_end_ns > at_ns;
    list_turns(timeline, next_busy(timeline, holder), (uint32_t)index, &order);
    if (holds && order.count > 0) {
        /* What is left of the present turn; its holder comes last in the list. */
        uint64_t rest = least(timeline->slice_end_ns - at_ns, order.left_ns[order.count - 1]);
        if (order.own == order.count - 1) {
            rest = least(rest, need_ns);
            need_ns -= rest;
        }
        order.left_ns[order.count - 1] -= rest;
        at_ns += rest;
    }
    if (need_ns > 0)
        at_ns += take_turns(&order, need_ns, timeline->slice_ns);
    unlock(timeline);
    return at_ns;
}

uint64_t sim_timeline_busy_ns(struct sim_timeline *timeline, uint32_t owner, uint64_t now_ns,
                              bool *busy) {
    lock(timeline);
    advance(timeline, now_ns);
    const struct sim_timeline_entry *entry = find_owner(timeline, owner);
    uint64_t run_ns = entry == NULL ? 0 : entry->run_ns;
    if (busy != NULL)
        *busy = entry != NULL && is_busy(timeline, (uint32_t)(entry - timeline->entries));
    unlock(timeline);
    return run_ns;
}

void sim_timeline_copied(struct sim_timeline *timeline, int index, uint64_t now_ns,
                         uint64_t from_ns, uint64_t to_ns) {
    lock(timeline);
    struct sim_timeline_entry *entry = &timeline->entries[index];
    if (from_ns > entry->copy_until_ns) {
        count_copies(timeline, entry, entry->copy_until_ns); /* all of it has passed */
        entry->copy_from_ns = from_ns;
    }
    entry->copy_until_ns = most(entry->copy_until_ns, to_ns);
    count_copies(timeline, entry, now_ns);
    unlock(timeline);
}

void sim_timeline_usage(struct sim_timeline *timeline, uint32_t owner, uint64_t now_ns,
                        uint64_t since_ns, struct sim_usage *usage) {
    uint64_t end = now_ns / SIM_USAGE_PERIOD_NS;
    uint64_t first = most(end - least(end, SIM_USAGE_WINDOW), since_ns / SIM_USAGE_PERIOD_NS);
    *usage = (struct sim_usage){.end_ns = end * SIM_USAGE_PERIOD_NS};
    lock(timeline);
    advance(timeline, now_ns);
    for (uint32_t i = 0; i < timeline->high; i++)
        if (timeline->entries[i].owner != SIM_TIMELINE_NONE)
            count_copies(timeline, &timeline->entries[i], now_ns);
    const struct sim_timeline_entry *entry =
        owner == SIM_TIMELINE_NONE ? NULL : find_owner(timeline, owner);
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
    unlock(timeline);
}
