/* The limiter: how one process keeps to what its slice may have of the devices' time.
 *
 * A launch takes its predicted nanoseconds from what its thread was given, and reads two words: that
 * is the fast path, here in this header. A thread whose part is spent, or that launches what nobody
 * has measured, comes to aliquot_gate_enter: it gets another part, or waits.
 *
 * Parts are given out so that no more than a window of predicted work is under way, and no more than
 * the turn has left. What really ran is measured by events ("marks") behind launches; predictions,
 * the time at which work will be done, and the charge follow from them.
 *
 * Time and driver are reached through struct aliquot_limiter_seam only, so that the same code runs
 * in a process (csrc/shim/time) and in a harness with an exact clock (tests).
 *
 * Times are nanoseconds of the seam's clock. errno is preserved by every function here.
 */
#ifndef ALIQUOT_LIMITER_H
#define ALIQUOT_LIMITER_H

#include "../region/region.h"

#include <stdbool.h>

struct aliquot_limiter;
struct aliquot_flow;

/* What is launched, and where, as two words that the vendor's part makes:
 *   what   the kernel, graph or kind of operation; equal words take about equal time
 *   lane   the stream. Whatever work has the same `lane` is carried out in order.
 * Both together must name one device, since what is known of them includes it. */
struct aliquot_launch {
    uint64_t what;
    uint64_t lane;
};

enum aliquot_lane_kind {
    ALIQUOT_LANE_PLAIN,  /* any thread may ask whether it is idle */
    ALIQUOT_LANE_THREAD, /* only the thread that launches there can name it */
};

/* What the limiter needs of the world. `env` is the process' own. None of it is called with a lock of
 * the limiter held, except now, reached, drop, aside and idle, which do not wait. (A mark may: a stream takes
 * so many launches and then lets its launcher wait.) */
struct aliquot_limiter_seam {
    /* CLOCK_MONOTONIC. */
    uint64_t (*now)(void *env);
    /* Sleeps while `*word` is `seen`, until somebody wakes those on the word that sleep as `role`
     * (ALIQUOT_GATE_LAUNCHERS, ALIQUOT_GATE_OBSERVERS), or until `deadline_ns`; may return early. The
     * word may lie in the grant, which others write and wake. */
    void (*wait)(void *env, const _Atomic uint32_t *word, uint32_t seen, uint32_t role,
                 uint64_t deadline_ns);
    /* All who sleep on it as `role` in this process. */
    void (*wake)(void *env, _Atomic uint32_t *word, uint32_t role);
    void (*ring)(void *env); /* tells the arbiter that usage has news */
    /* Starts a thread that calls aliquot_observe(limiter, device). False: there is none, and threads
     * that wait look themselves. */
    bool (*observer)(void *env, struct aliquot_limiter *limiter, uint32_t device);

    /* The device of the calling thread's launch, as an index into the grant (-1: not in the slice),
     * and what kind of lane it is. */
    int (*device)(void *env, const struct aliquot_launch *launch, enum aliquot_lane_kind *kind);
    /* Whether the launch is only being recorded (captured), not carried out. True also when the
     * driver cannot tell. */
    bool (*captured)(void *env, const struct aliquot_launch *launch);
    /* Puts an event behind what the calling thread has launched in the lane. NULL: it cannot be. */
    void *(*mark)(void *env, const struct aliquot_launch *launch);
    /* 1: reached, at `*at_ns`; 0: not yet; -1: it will never be (its context is gone). */
    int (*reached)(void *env, void *mark, uint64_t *at_ns);
    void (*drop)(void *env, void *mark); /* it is not needed any more */
    /* Whether, since it was asked last, something was queued that launches may wait for and that takes
     * no time of the compute units: a copy, a host function, a wait for a value. NULL: never. */
    bool (*aside)(void *env);
    /* 1: the lane has nothing to do; 0: it has; -1: it cannot be asked. Any thread. */
    int (*idle)(void *env, uint64_t lane);
};

/* -- What the fast path reads ------------------------------------------------------------------ */

enum {
    ALIQUOT_KNOWN = 256, /* launches that a thread knows; direct-mapped */
};

struct aliquot_known {
    uint64_t what, lane; /* lane 0: free */
    uint32_t ns;         /* predicted; ALIQUOT_UNMEASURED */
    uint32_t device;     /* index into the grant */
};

/* More than any part: who launches it comes to aliquot_gate_enter, except where nothing is measured.
 */
#define ALIQUOT_UNMEASURED UINT32_MAX

/* What a thread was given of one device. Written by its thread; read by others of the process. */
struct aliquot_part {
    uint64_t gate;           /* of the grant, when it was given */
    uint64_t epoch;          /* of the flow, when it was given */
    _Atomic int64_t left_ns; /* relaxed: read only for sums that later marks correct */
};

struct aliquot_thread {
    struct aliquot_part part[ALIQUOT_MAX_DEVICES];
    struct aliquot_known known[ALIQUOT_KNOWN];
    uint64_t generation; /* of what is known: see aliquot_limiter_forget_lane */
    void *before;        /* mark before the launch that is under way, where it is measured */
    uint64_t entered_ns; /* when the launch that is under way was let go */
    uint32_t launch_ns;  /* what it was given out as; 0: nobody has measured it */
    bool begins;         /* nothing else was to be done when it was let go */
    struct aliquot_limiter *limiter;
    struct aliquot_thread *next, **link; /* of the limiter's list; under its lock */
};

/* One device, as the fast path sees it. */
struct aliquot_front {
    const _Atomic uint64_t *gate; /* in the grant */
    /* Grows when what was given out is void. Relaxed in the fast path: who reads the old value
     * launches once more, as if it had come a moment earlier. */
    _Atomic uint64_t epoch;
};

struct aliquot_limiter {
    struct aliquot_front front[ALIQUOT_MAX_DEVICES];
    const struct aliquot_limiter_seam *seam;
    void *env;
    struct aliquot_flow *flow; /* [device_count] */
    _Atomic bool stopped;
    const struct aliquot_grant *grant;
    struct aliquot_usage *usage;
    uint32_t slot, device_count;
    struct aliquot_limiter_state *state; /* limiter.c's own */
};

/* Makes the limiter of a process that has slot `slot` of a region. NULL: no host memory. It lives as
 * long as the process. */
struct aliquot_limiter *aliquot_limiter_new(const struct aliquot_limiter_seam *seam, void *env,
                                            const struct aliquot_grant *grant,
                                            struct aliquot_usage *usage, uint32_t slot);
/* Ends it: for harnesses, and for a forked child, which has no observers. Marks are not dropped, and
 * threads of it must be gone or be ended later. */
void aliquot_limiter_free(struct aliquot_limiter *limiter);

/* A thread's part in it: made at its first launch, ended with the thread. NULL: no host memory; the
 * thread's launches are then not held back. */
struct aliquot_thread *aliquot_thread_new(struct aliquot_limiter *limiter);

/* The same in memory of the caller's, which is zeroed at the beginning. */
void aliquot_thread_begin(struct aliquot_thread *thread, struct aliquot_limiter *limiter);
void aliquot_thread_end(struct aliquot_thread *thread);

/* What aliquot_gate returned, to be handed to aliquot_launched. 0: that need not be called. */
typedef uint32_t aliquot_ticket;

/* The slow path of aliquot_gate: measures, waits, gives out. */
aliquot_ticket aliquot_gate_enter(struct aliquot_thread *thread,
                                  const struct aliquot_launch *launch);

/* After the driver took the launch, or refused it (`done` false), when there is a ticket. */
void aliquot_launched(struct aliquot_thread *thread, const struct aliquot_launch *launch,
                      aliquot_ticket ticket, bool done);
/* The same where the driver's call has come back only when it was done, so that it may have begun at any
 * time since it was let go. */
void aliquot_launched_and_waited(struct aliquot_thread *thread, const struct aliquot_launch *launch,
                                 aliquot_ticket ticket, bool done);

static inline uint32_t aliquot_known_place(const struct aliquot_launch *launch) {
    uint64_t mixed = (launch->what ^ launch->lane << 7 ^ launch->lane >> 9) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(mixed >> 56);
}
static_assert(ALIQUOT_KNOWN == 256, "the place is eight bits");

/* Whether a launch may go at once: then its prediction was taken from the thread's part. */
static inline bool aliquot_gate_passes(struct aliquot_thread *thread,
                                       const struct aliquot_launch *launch) {
    const struct aliquot_known *known = &thread->known[aliquot_known_place(launch)];
    if (__builtin_expect(known->what != launch->what || known->lane != launch->lane, 0))
        return false;
    struct aliquot_part *part = &thread->part[known->device];
    const struct aliquot_front *front = &thread->limiter->front[known->device];
    /* relaxed, all: a word that is read late is as if the launch had come a moment earlier. */
    int64_t left = atomic_load_explicit(&part->left_ns, memory_order_relaxed) - known->ns;
    if (__builtin_expect(
            left < 0 || atomic_load_explicit(front->gate, memory_order_relaxed) != part->gate ||
                atomic_load_explicit(&front->epoch, memory_order_relaxed) != part->epoch,
            0))
        return false;
    atomic_store_explicit(&part->left_ns, left, memory_order_relaxed);
    return true;
}

/* Before a launch. */
static inline aliquot_ticket aliquot_gate(struct aliquot_thread *thread,
                                          const struct aliquot_launch *launch) {
    return __builtin_expect(aliquot_gate_passes(thread, launch), 1)
               ? 0
               : aliquot_gate_enter(thread, launch);
}

/* -- Around it --------------------------------------------------------------------------------- */

/* The calling thread has waited for work (a stream, an event, a context): what is done is seen now
 * instead of when somebody looks. Cheap when nobody else wants the device. */
void aliquot_waited(struct aliquot_limiter *limiter);

/* A stream is about to go, or a context with all its streams and events (`lane` 0: whatever lane
 * `belongs` says of): what is known of it goes first. Marks of a stream that goes stay valid. */
void aliquot_limiter_forget_lane(struct aliquot_limiter *limiter, uint64_t lane,
                                 bool (*belongs)(void *context, uint64_t lane), void *context);

/* Kernels (or graphs) may be other ones under the same names from now on: predictions go; or only
 * those of what has one name. */
void aliquot_limiter_forget_known(struct aliquot_limiter *limiter);
void aliquot_limiter_forget_what(struct aliquot_limiter *limiter, uint64_t what);

/* The loop of an observer; there is one for each device that was launched on. It never returns, but
 * in a harness that ends its limiter by aliquot_limiter_stop. */
void aliquot_observe(struct aliquot_limiter *limiter, uint32_t device);
void aliquot_limiter_stop(struct aliquot_limiter *limiter);

#endif
