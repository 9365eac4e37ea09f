/* What the processes of a slice account together: see limiter.h.
 *
 * A device does their work one piece after the other, in an order that none of them knows. Whatever it
 * is, what they were given is done at `due_ns`: each part moves it on by its length, from now if
 * nothing was to be done. So no two of them take the same room, and the time in which the device
 * worked for the slice is that before `due_ns`. `charged_until_ns` follows, as marks tell that the
 * device got so far: what lies between both words is given and not charged.
 *
 * Each word is moved by itself, without a lock, since a process may be stopped or killed anywhere.
 * relaxed, all: nothing but figures depends on them. What somebody scribbles there harms his own slice
 * only, and what passes is charged once: by whoever moves `charged_until_ns` over it.
 */
#include "limiter_impl.h"

/* No word is that far from now. */
#define FAR_NS (3600ull * 1000 * MS)

static struct aliquot_usage_time *time_of(const struct aliquot_limiter *limiter, uint32_t device) {
    return &limiter->usage->time[device];
}

static uint64_t load(const _Atomic uint64_t *word) {
    return atomic_load_explicit(word, memory_order_relaxed);
}

static bool replace(_Atomic uint64_t *word, uint64_t *seen, uint64_t fresh) {
    return atomic_compare_exchange_weak_explicit(word, seen, fresh, memory_order_relaxed,
                                                 memory_order_relaxed);
}

static uint64_t after(uint64_t to, uint64_t from) { return to > from ? to - from : 0; }

/* -- The cap ------------------------------------------------------------------------------------ */

static uint32_t cap_of(const struct aliquot_limiter *limiter, uint32_t device) {
    /* relaxed: it may change at any time. */
    uint32_t cores =
        atomic_load_explicit(&limiter->grant->device[device].cores, memory_order_relaxed);
    return cores >= 1 && cores < 100 ? cores : 100;
}

void aliquot_ledger_cap(struct aliquot_limiter *limiter, uint32_t device, int64_t ns,
                        uint64_t now) {
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

uint64_t aliquot_ledger_allowed(struct aliquot_limiter *limiter, uint32_t device,
                                uint64_t waited_ns, uint64_t now) {
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

/* -- Charges ------------------------------------------------------------------------------------ */

/* The device worked for the slice for `ns`, of which `expected_ns` were given out and counted. */
static void charge(struct aliquot_limiter *limiter, uint32_t device, uint64_t ns,
                   uint64_t expected_ns, uint64_t now) {
    if (!ns && !expected_ns)
        return;
    struct aliquot_usage_time *time = time_of(limiter, device);
    /* What was charged too early is not charged again. */
    uint64_t ahead = load(&time->ahead_ns), taken;
    do
        taken = ahead < FAR_NS ? least(ahead, ns) : 0;
    while (ahead && !replace(&time->ahead_ns, &ahead, ahead < FAR_NS ? ahead - taken : 0));
    uint64_t charged = (ns - taken) / (aliquot_gate_others(gate_word(limiter, device)) + 1);
    atomic_fetch_add_explicit(&time->device_ns, charged, memory_order_relaxed);
    aliquot_ledger_cap(limiter, device, (int64_t)charged - (int64_t)expected_ns, now);
}

/* What was not charged, since nothing was to be done by then, was work from `from_ns` on: of a hole
 * that lies before `to_ns`. */
static uint64_t fill_hole(struct aliquot_usage_time *time, uint64_t from_ns, uint64_t to_ns) {
    uint64_t size = load(&time->hole_ns), until = load(&time->hole_until_ns);
    if (!size || size > FAR_NS || until <= from_ns || until > to_ns ||
        !atomic_compare_exchange_strong_explicit(&time->hole_ns, &size, 0, memory_order_relaxed,
                                                 memory_order_relaxed))
        return 0;
    return least(size, until - from_ns);
}

void aliquot_ledger_charge(struct aliquot_limiter *limiter, uint32_t device, uint64_t sure_ns,
                           uint64_t to_ns, uint64_t left_ns, uint64_t most_ns, uint64_t now) {
    struct aliquot_usage_time *time = time_of(limiter, device);
    uint64_t from = load(&time->charged_until_ns), expected, worked, left_out, ahead;
    uint64_t filled = fill_hole(time, sure_ns, least(from, to_ns));
    do {
        uint64_t due = aliquot_ledger_due(limiter, device, now);
        /* More is left than should be: it has not worked all the time, as far as anybody can tell. */
        ahead = sure_ns < to_ns ? 0 : after(to_ns + left_ns, most(due, to_ns));
        expected = worked = left_out = 0;
        /* A word from the future was scribbled; one of long ago is that of a slice that rested. */
        if (from >= to_ns && from - to_ns < FAR_NS)
            break;
        uint64_t begin = from > to_ns || to_ns - from > FAR_NS ? to_ns : from;
        uint64_t until = least(most(due, begin), to_ns);
        expected = until - begin;
        if (sure_ns >= to_ns) {
            until = begin + least(after(expected, ahead), most_ns);
            ahead = after(ahead, expected);
        }
        uint64_t sure = least(most(sure_ns, until), to_ns);
        worked = until - begin + (to_ns - sure);
        left_out = sure - until;
    } while (!replace(&time->charged_until_ns, &from, to_ns));
    if (left_out) {
        atomic_store_explicit(&time->hole_until_ns, least(most(sure_ns, from), to_ns),
                              memory_order_relaxed);
        atomic_store_explicit(&time->hole_ns, left_out, memory_order_relaxed);
    }
    charge(limiter, device, worked + filled, expected, now);
    if (ahead)
        atomic_fetch_add_explicit(&time->ahead_ns, ahead, memory_order_relaxed);
}

uint64_t aliquot_ledger_charged(const struct aliquot_limiter *limiter, uint32_t device,
                                uint64_t at_ns, uint64_t now) {
    return most(at_ns, least(load(&time_of(limiter, device)->charged_until_ns), now));
}

/* -- What is to be done ------------------------------------------------------------------------- */

uint64_t aliquot_ledger_due(const struct aliquot_limiter *limiter, uint32_t device, uint64_t now) {
    uint64_t due = load(&time_of(limiter, device)->due_ns);
    return due > now && due - now > FAR_NS ? now : due;
}

uint32_t aliquot_ledger_pace(const struct aliquot_limiter *limiter, uint32_t device) {
    uint32_t pace = atomic_load_explicit(&time_of(limiter, device)->pace, memory_order_relaxed);
    return pace ? (uint32_t)least(4096, most(256, pace)) : 1024;
}

bool aliquot_ledger_give(struct aliquot_limiter *limiter, uint32_t device, uint64_t due_ns,
                         uint64_t predicted_ns, uint64_t ns, uint64_t now) {
    struct aliquot_usage_time *time = time_of(limiter, device);
    uint64_t seen = load(&time->due_ns);
    if (aliquot_ledger_due(limiter, device, now) != due_ns)
        return false;
    /* Nothing was to be done since. First, so that nobody takes that time for work. */
    if (due_ns < now)
        aliquot_ledger_charge(limiter, device, now, now, 0, UINT64_MAX, now);
    if (!atomic_compare_exchange_strong_explicit(&time->due_ns, &seen, most(due_ns, now) + ns,
                                                 memory_order_relaxed, memory_order_relaxed))
        return false;
    if (due_ns < now) {
        /* Unless marks say so again, nothing is faster than it was measured. */
        uint32_t pace = aliquot_ledger_pace(limiter, device);
        if (pace < 1024)
            atomic_store_explicit(&time->pace, pace + (1024 - pace + 15) / 16,
                                  memory_order_relaxed);
        atomic_store_explicit(&time->given_ns, 0, memory_order_relaxed);
        atomic_store_explicit(&time->began_ns, now, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&time->given_ns, predicted_ns, memory_order_relaxed);
    aliquot_ledger_cap(limiter, device, (int64_t)ns, now);
    return true;
}

void aliquot_ledger_begin(struct aliquot_limiter *limiter, uint32_t device, uint64_t given_ns,
                          uint64_t launched_ns) {
    struct aliquot_usage_time *time = time_of(limiter, device);
    uint64_t late = after(launched_ns, given_ns);
    /* Unless others were launched before it. */
    if (late > MS || !late ||
        !atomic_compare_exchange_strong_explicit(&time->charged_until_ns, &given_ns, launched_ns,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    atomic_fetch_add_explicit(&time->due_ns, late, memory_order_relaxed);
    atomic_fetch_add_explicit(&time->began_ns, late, memory_order_relaxed);
}

/* Moves `due_ns` by `ns`, as far as from `low_ns` to `high_ns` and not to where it is charged. */
static void move(struct aliquot_limiter *limiter, uint32_t device, int64_t ns, uint64_t low_ns,
                 uint64_t high_ns, uint64_t now) {
    struct aliquot_usage_time *time = time_of(limiter, device);
    uint64_t seen = load(&time->due_ns), due, fresh, from;
    do {
        due = seen > now && seen - now > FAR_NS ? now : seen;
        from = least(load(&time->charged_until_ns), now);
        fresh = ns < 0 ? after(due, (uint64_t)-ns) : due + (uint64_t)ns;
        fresh = most(least(fresh, high_ns), low_ns);
        /* What is charged has been done. */
        if (fresh < due)
            fresh = least(most(fresh, from), due);
        if (fresh == seen)
            return;
    } while (!replace(&time->due_ns, &seen, fresh));
    aliquot_ledger_cap(limiter, device, (int64_t)after(fresh, from) - (int64_t)after(due, from),
                       now);
}

void aliquot_ledger_shift(struct aliquot_limiter *limiter, uint32_t device, int64_t predicted_ns,
                          int64_t ns, uint64_t now) {
    atomic_fetch_add_explicit(&time_of(limiter, device)->given_ns, (uint64_t)predicted_ns,
                              memory_order_relaxed);
    move(limiter, device, ns, 0, UINT64_MAX, now);
}

void aliquot_ledger_bound(struct aliquot_limiter *limiter, uint32_t device, uint64_t low_ns,
                          uint64_t high_ns, uint64_t now) {
    move(limiter, device, 0, low_ns, high_ns, now);
}

void aliquot_ledger_learn(struct aliquot_limiter *limiter, uint32_t device, uint64_t at_ns,
                          uint64_t left_ns, bool queued) {
    struct aliquot_usage_time *time = time_of(limiter, device);
    uint64_t old = aliquot_ledger_pace(limiter, device);
    uint64_t began = load(&time->began_ns), given = load(&time->given_ns);
    uint64_t done = after(given, left_ns * 1024 / old);
    if (at_ns <= began || at_ns - began > FAR_NS || done < 500 * US || given > FAR_NS ||
        aliquot_gate_others(gate_word(limiter, device)))
        return;
    uint64_t fresh = least(4096, most(256, (at_ns - began) * 1024 / done));
    /* The device cannot have taken less for what is done. It may have taken more: more may be done than
     * is known, and it may have waited for the host, unless it never had to. */
    if (fresh < old)
        fresh = (old + fresh) / 2;
    else if (queued && !left_ns)
        fresh = (7 * old + fresh) / 8;
    else
        fresh = most(old, (15 * old + least(fresh, 1024)) / 16);
    atomic_store_explicit(&time->pace, (uint32_t)fresh, memory_order_relaxed);
}

/* -- Turns -------------------------------------------------------------------------------------- */

uint64_t aliquot_ledger_turn(struct aliquot_limiter *limiter, uint32_t device, uint64_t gate,
                             bool follows, uint64_t now) {
    _Atomic uint64_t *word = &time_of(limiter, device)->turn;
    uint32_t number = aliquot_gate_number(gate);
    uint64_t seen = load(word), end;
    do {
        end = aliquot_turn_end_ns(seen, now);
        if (seen && aliquot_turn_number(seen) == number)
            return end;
        /* What the caller read of the gate is old: others have seen the one after it. */
        uint32_t newer = (aliquot_turn_number(seen) - number) & 0x3ffffffu;
        if (newer < 64 && end + STALE_NS > now && end < now + STALE_NS)
            return now;
        /* A turn that follows on one of ours goes on from its end. */
        end =
            (follows && end > now && end < now + STALE_NS ? end : now) + aliquot_gate_turn_ns(gate);
    } while (!replace(word, &seen, aliquot_turn_word(number, 0, end)));
    return end;
}

bool aliquot_ledger_turn_used(const struct aliquot_limiter *limiter, uint32_t device) {
    return aliquot_turn_used(load(&time_of(limiter, device)->turn));
}

void aliquot_ledger_use_turn(struct aliquot_limiter *limiter, uint32_t device, uint64_t gate) {
    _Atomic uint64_t *word = &time_of(limiter, device)->turn;
    uint64_t seen = load(word);
    while (aliquot_turn_number(seen) == aliquot_gate_number(gate) && !aliquot_turn_used(seen) &&
           !replace(word, &seen, seen | 1ull << 26))
        ;
}

/* No measurement keeps others for longer. */
#define LONGEST_ALONE_NS (20 * MS)

uint64_t aliquot_ledger_alone(const struct aliquot_limiter *limiter, uint32_t device,
                              uint64_t now) {
    uint64_t until = load(&time_of(limiter, device)->alone_until_ns);
    return until > now + LONGEST_ALONE_NS ? now : until;
}

void aliquot_ledger_be_alone(struct aliquot_limiter *limiter, uint32_t device, uint64_t until_ns) {
    atomic_store_explicit(&time_of(limiter, device)->alone_until_ns, until_ns,
                          memory_order_relaxed);
}
