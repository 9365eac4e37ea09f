/* Who occupies a device when: the shared, discrete-event model of time-slicing between processes.
 *
 * Each process has one entry per device. An entry owns a clock of its own, `run_ns`, that advances
 * one nanosecond per nanosecond of real time (CLOCK_MONOTONIC) while the entry holds the device
 * and stands still otherwise; so it also counts the device time that the process has used. A
 * process says by `demand_ns` up to which reading of that clock it has work. The model hands the
 * device to the entries that have work, round robin, a slice at a time, and never leaves it idle
 * while one has work. It is a pure function of time, advanced by whoever looks, under the
 * timeline's own lock, which a holder's death does not keep.
 *
 * How the clock went is kept as knots (real time, clock), straight lines between them, until the
 * process has read them: from these it dates the ends of its kernels.
 */
#ifndef ALIQUOT_SIM_TIMELINE_H
#define ALIQUOT_SIM_TIMELINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    SIM_TIMELINE_ENTRIES = 256, /* processes on one device at a time */
    SIM_TIMELINE_KNOTS = 32,    /* unread knots an entry; the oldest are thinned beyond that */
    SIM_TIMELINE_WORDS = SIM_TIMELINE_ENTRIES / 64,
    SIM_USAGE_PERIODS = 16,          /* kept of the past, for whoever asks how busy it was */
    SIM_USAGE_PERIOD_NS = 100000000, /* of CLOCK_MONOTONIC: period n begins at n of these */
    SIM_USAGE_WINDOW = 10,           /* periods that figures for people are made of */
    SIM_TIMELINE_NONE = 0xffffffff,
};

/* A point of an entry's clock: at `real_ns` it read `run_ns`. */
struct sim_knot {
    uint64_t real_ns;
    uint64_t run_ns;
};

/* What was done in one period: kernels, and copies and fills. It is there by its number only:
 * periods in which nothing was done leave no trace. Killed while it writes, a process loses what it
 * was about to add, and never leaves a figure that is too large. */
struct sim_usage_period {
    uint32_t number;
    uint32_t run_ns;
    uint32_t copy_ns;
};

/* One process on one device. Written under the timeline's lock only. */
struct sim_timeline_entry {
    uint32_t owner; /* the process's slot in the shared state; SIM_TIMELINE_NONE: free */
    uint32_t knot_count;
    uint64_t run_ns;    /* device time that the process has held the device; never falls */
    uint64_t demand_ns; /* reading of run_ns up to which it has work; busy while run < demand */
    uint64_t turns;     /* times it was given the device */
    uint64_t copy_ns;   /* real time in which it moved bytes, up to copy_from_ns */
    uint64_t copy_from_ns, copy_until_ns;             /* moves bytes, and is not in copy_ns yet */
    struct sim_usage_period usage[SIM_USAGE_PERIODS]; /* by number % SIM_USAGE_PERIODS */
    struct sim_knot knots[SIM_TIMELINE_KNOTS];
};

/* The change that one step of the model makes, written before it is applied: a successor of a
 * killed holder applies it again, which is harmless. */
struct sim_timeline_step {
    uint32_t valid;
    uint32_t entry;   /* that held the device */
    uint64_t from_ns; /* real time at the step's start and end */
    uint64_t to_ns;
    uint64_t from_run_ns; /* its clock at the start and end */
    uint64_t to_run_ns;
    uint64_t busy_ns; /* of the device, at the end */
};

/* One device. All zero is not valid: see sim_timeline_init. */
struct sim_timeline {
    pthread_mutex_t lock; /* process-shared, robust */
    uint64_t slice_ns;    /* from the node; 0: 2 ms */
    uint64_t now_ns;      /* real time up to which the model has gone */
    uint64_t idle_ns;     /* since when nobody had work; meaningful while `busy` is empty */
    uint64_t slice_end_ns;
    uint64_t busy_ns; /* device time that any process has held it, those gone included */
    uint32_t holder;  /* entry that holds the device, or SIM_TIMELINE_NONE */
    uint32_t high;    /* entries at and above it have never been used */
    uint64_t busy[SIM_TIMELINE_WORDS]; /* bit per entry with run_ns < demand_ns */
    struct sim_timeline_step step;
    struct sim_usage_period usage[SIM_USAGE_PERIODS]; /* of all, those gone included */
    struct sim_timeline_entry entries[SIM_TIMELINE_ENTRIES];
};

/* Makes an empty timeline in shared memory (called once, by whoever creates the state).
 * `slice_ns`: how long a process keeps the device while others wait; 0 takes 2 ms. */
void sim_timeline_init(struct sim_timeline *timeline, uint64_t slice_ns);

/* Takes an entry for process slot `owner`; -1 when all are taken. An owner that already has one
 * gets it again. */
int sim_timeline_join(struct sim_timeline *timeline, uint32_t owner);
/* Gives up the entry of `owner`: at a process's end, by itself or by whoever finds it dead. What
 * it had queued beyond the present moment is dropped. No effect when it has none. */
void sim_timeline_leave(struct sim_timeline *timeline, uint32_t owner);

/* What the owner learns when it looks. */
struct sim_timeline_view {
    uint64_t now_ns; /* the model's real time: what the knots reach up to */
    uint64_t run_ns; /* own clock at now_ns */
    bool alone;      /* nobody else had work at now_ns */
    uint32_t knot_count;
    struct sim_knot knots[SIM_TIMELINE_KNOTS + 2]; /* since the last look, ascending */
};

/* Advances the model to `now_ns` and reads entry `index`. */
void sim_timeline_look(struct sim_timeline *timeline, int index, uint64_t now_ns,
                       struct sim_timeline_view *view);
/* Advances the model to `now_ns`, then says that entry `index` has work up to `demand_ns` of its
 * clock, wanted since real time `since_ns`: on a device that has been idle since then, the work
 * is dated back. Less than was said before takes back what has not been run. Fills `view` as sim_timeline_look does. */
void sim_timeline_demand(struct sim_timeline *timeline, int index, uint64_t now_ns,
                         uint64_t since_ns, uint64_t demand_ns, struct sim_timeline_view *view);
/* Real time at which entry `index` will read `run_ns`, were no demand to change after the
 * timeline's now. A lower bound when others may come, an upper one when others may go. */
uint64_t sim_timeline_predict(struct sim_timeline *timeline, int index, uint64_t run_ns);

/* Device time that `owner` has held, and whether it has work, at `now_ns`; for whoever records
 * the truth. Any process may call it. */
uint64_t sim_timeline_busy_ns(struct sim_timeline *timeline, uint32_t owner, uint64_t now_ns,
                              bool *busy);

/* Says that entry `index` moves bytes from `from_ns` (not later than `now_ns`) to `to_ns`. */
void sim_timeline_copied(struct sim_timeline *timeline, int index, uint64_t now_ns,
                         uint64_t from_ns, uint64_t to_ns);

/* How busy a device or a process was. The copies of several at once count each, up to all of the
 * time. */
struct sim_usage {
    uint64_t end_ns;    /* of the last whole period */
    uint64_t length_ns; /* up to there; 0: no period is over since it was asked for */
    uint64_t run_ns;    /* of that, kernels ran */
    uint64_t copy_ns;   /* of that, bytes were moved */
};
/* Usage of `owner`, or of the device (SIM_TIMELINE_NONE), in the whole periods of the second before
 * `now_ns`; only those that ended after `since_ns`. Any process may call it. */
void sim_timeline_usage(struct sim_timeline *timeline, uint32_t owner, uint64_t now_ns,
                        uint64_t since_ns, struct sim_usage *usage);

#endif
