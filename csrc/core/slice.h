/* The slice of this process: its place in the region, and the arithmetic of the cap.
 *
 * Add, sum, withdraw: a charge is added to the process' own word, all words of the slice are
 * summed, and the charge is withdrawn when the sum passes the cap. Nothing is stored that could
 * drift from what the processes hold.
 *
 * errno is preserved by every function here.
 */
#ifndef ALIQUOT_SLICE_H
#define ALIQUOT_SLICE_H

#include "../region/region.h"

#include <stdbool.h>

/* Why a slice could not be attached, for one line on standard error. */
struct aliquot_error {
    char text[512];
};

/* What the fast paths read. Written once at attachment, before `attached` is set; a forked child
 * starts from zero (see struct aliquot_fork_page). */
struct aliquot_slice {
    const struct aliquot_grant *grant; /* read-only mapping of the whole file */
    struct aliquot_usage *usage;       /* shared mapping of the whole file */
    uint32_t slot;
    uint32_t device_count;
};
extern struct aliquot_slice aliquot_slice;

/* One page that the kernel replaces by zeros in a forked child: how a child knows that neither the
 * slot nor the entries of the tables are its own. */
struct aliquot_fork_page {
    _Atomic uint32_t attached; /* this process has a slot */
    _Atomic uint32_t ready;    /* the vendor's part has mapped its devices; the vendor's to set */
};
extern struct aliquot_fork_page *_Atomic aliquot_fork_page;

/* Whether this process (and not only a parent of it) has a slot. */
static inline bool aliquot_attached(void) {
    /* acquire: pairs with the release at the end of aliquot_attach. */
    return atomic_load_explicit(
        &atomic_load_explicit(&aliquot_fork_page, memory_order_acquire)->attached,
        memory_order_acquire);
}

/* Whether the vendor's part is ready in this process, which implies attached. */
static inline bool aliquot_prepared(void) {
    /* acquire: pairs with the release in aliquot_set_prepared. */
    return atomic_load_explicit(
        &atomic_load_explicit(&aliquot_fork_page, memory_order_acquire)->ready,
        memory_order_acquire);
}
static inline void aliquot_set_prepared(void) {
    /* release: what was written before is seen by whoever sees `ready`. */
    atomic_store_explicit(&atomic_load_explicit(&aliquot_fork_page, memory_order_relaxed)->ready, 1,
                          memory_order_release);
}

/* Maps the region in `directory` and takes a slot. Returns true when the process is attached,
 * by this call or an earlier one, by any thread; false with a message otherwise. `forget` is called
 * first when the process is a forked child of an attached one: what the tables hold is not its own.
 */
bool aliquot_attach(const char *directory, void (*forget)(void), struct aliquot_error *error);

/* Called before a refusal: takes up what the driver has given back meanwhile (pools that shrank,
 * frees that were queued). Set once by the vendor's part before the first charge. */
extern void (*aliquot_settle)(uint32_t device);

/* The slow part of aliquot_charge: clears dead slots, settles, tries again under the region's lock,
 * counts the refusal. Returns as aliquot_charge does. */
bool aliquot_charge_again(uint32_t device, uint64_t bytes);

/* Bytes that all processes of the slice hold on the device, and what nobody claims. */
static inline uint64_t aliquot_used(uint32_t device) {
    const struct aliquot_slice *slice = &aliquot_slice;
    /* acquire: pairs with the release in claim_slot: a raised mark comes before its charges. */
    uint32_t slots = atomic_load_explicit(&slice->usage->high_water, memory_order_acquire);
    if (slots > ALIQUOT_MAX_SLOTS)
        slots = ALIQUOT_MAX_SLOTS;
    const _Atomic uint64_t *word = slice->usage->charge[device];
    uint64_t a =
        atomic_load_explicit(&slice->grant->device[device].unclaimed, memory_order_relaxed);
    uint64_t b = 0, c = 0, d = 0;
    /* A line of the cache at a time, in sums that do not wait for each other. Words at and above
     * the mark are zero, or those of a process that is just attaching.
     * seq_cst: of two that add and then sum, at least one sees the other. */
    for (const _Atomic uint64_t *end = word + slots; word < end; word += 8) {
        a += atomic_load(&word[0]);
        b += atomic_load(&word[1]);
        c += atomic_load(&word[2]);
        d += atomic_load(&word[3]);
        a += atomic_load(&word[4]);
        b += atomic_load(&word[5]);
        c += atomic_load(&word[6]);
        d += atomic_load(&word[7]);
    }
    return (a + b) + (c + d);
}
static_assert(ALIQUOT_MAX_SLOTS % 8 == 0, "slots are summed eight at a time");

/* The cap in bytes, or ALIQUOT_NO_CAP. It may change at any time. */
static inline uint64_t aliquot_cap(uint32_t device) {
    return atomic_load_explicit(&aliquot_slice.grant->device[device].cap, memory_order_relaxed);
}

void aliquot_raise_peak(uint32_t device, uint64_t sum);

/* Gives back bytes that were charged. */
static inline void aliquot_withdraw(uint32_t device, uint64_t bytes) {
    /* seq_cst: pairs with the sums of aliquot_used. */
    atomic_fetch_sub(&aliquot_slice.usage->charge[device][aliquot_slice.slot], bytes);
}

/* Charges without asking: for what the device has already given. */
static inline void aliquot_charge_given(uint32_t device, uint64_t bytes) {
    /* seq_cst: pairs with the sums of aliquot_used. */
    atomic_fetch_add(&aliquot_slice.usage->charge[device][aliquot_slice.slot], bytes);
    /* What is above the cap is most likely another process' charge on its way to being withdrawn. */
    uint64_t sum = aliquot_used(device), cap = aliquot_cap(device);
    aliquot_raise_peak(device, sum < cap ? sum : cap);
}

/* Adds, sums, withdraws. Returns whether it fitted; `*sum` is what all hold then. While a charge passes from
 * one word to another the sum may have met it in neither, and does not count. */
static inline bool aliquot_add_once(uint32_t device, uint64_t bytes, uint64_t *sum) {
    uint64_t cap = aliquot_cap(device);
    /* No sum of 1,024 charges under 2^53 can wrap, and no device has as much. */
    if (__builtin_expect(bytes > cap || bytes >> 53, 0))
        return false;
    /* seq_cst, both loads: what is equal here and there had none between; see region.h. */
    uint64_t moved = atomic_load(&aliquot_slice.usage->moves_ended);
    atomic_fetch_add(&aliquot_slice.usage->charge[device][aliquot_slice.slot], bytes);
    *sum = aliquot_used(device);
    if (__builtin_expect(*sum > cap || moved != atomic_load(&aliquot_slice.usage->moves_begun),
                         0)) {
        aliquot_withdraw(device, bytes);
        return false;
    }
    return true;
}

/* The same for what is to be held, without the second chance of aliquot_charge. */
static inline bool aliquot_charge_once(uint32_t device, uint64_t bytes) {
    uint64_t sum;
    if (!aliquot_add_once(device, bytes, &sum))
        return false;
    /* relaxed: a figure for people. */
    if (__builtin_expect(sum > atomic_load_explicit(&aliquot_slice.usage->device[device].peak,
                                                    memory_order_relaxed),
                         0))
        aliquot_raise_peak(device, sum);
    return true;
}

/* Charges `bytes` on `device` (index into the grant) if the slice has room for them. */
static inline bool aliquot_charge(uint32_t device, uint64_t bytes) {
    return __builtin_expect(aliquot_charge_once(device, bytes), 1) ||
           aliquot_charge_again(device, bytes);
}

/* Whether a process of the slice died so recently with memory that the driver may still be giving
 * it back: an out-of-memory from the driver is worth another try. Sleeps a little before it says
 * yes; says no after two seconds since the death was found. `*round` counts the tries, from 0. */
bool aliquot_give_back_due(unsigned *round);

/* The region's lock for a moment, to write down who shares memory: a descriptor whose closing drops it. -1
 * when it could not be had in time (or there is no descriptor left); the caller then goes on without, in a
 * way that can refuse too much but never grants too much. */
int aliquot_lock_holds(void);

/* Memory shared between processes (IPC, exported handles), in hold.c. `key` names it in every
 * process that holds it.
 *   export: this process, which is charged for it, gave out a handle
 *   alias:  `other` is another name of the memory `key` that this process exported
 *   import: this process is about to open it. Whoever opens memory that a process of the slice is
 *           charged for is not charged again; memory that was charged in the slice and that nobody
 *           answers for any more is charged to whoever opens it. Returns the key by which it is to
 *           be dropped, or 0 for memory that nobody in the slice exported: it is not written down
 *   drop:   this process let go of one, or could not open it. What is charged for it here is
 *           withdrawn, or passes to another holder. `bytes` is what this process charged itself (0:
 *           it imported), in case the region does not know the hold
 * Export, alias and import write nothing down when the region's table is full or cannot be locked, and
 * count that as lost (export: false). From then on what seems to be a stranger's memory may be the slice's own
 * (doubtful): whoever opens it is charged, lest nobody be. A drop that cannot have the lock stays charged
 * until it can (settle: under the lock `fd`). */
bool aliquot_hold_export(uint64_t key, uint32_t device, uint64_t bytes);
void aliquot_hold_alias(uint64_t key, uint64_t other);
uint64_t aliquot_hold_import(uint64_t key);
void aliquot_hold_drop(uint64_t key, uint32_t device, uint64_t bytes);
bool aliquot_hold_doubtful(void);
void aliquot_hold_settle(int fd);
/* In a forked child, which owes nothing of its parent's. */
void aliquot_hold_forget(void);

/* Tells whoever shares out time that `usage` has news: a byte in the FIFO `bell` beside it. Never waits,
 * and nobody may be listening. */
void aliquot_ring_bell(void);

/* Counts a driver function that was handed to the program and is in no table of ours. */
void aliquot_count_unknown(void);

#endif
