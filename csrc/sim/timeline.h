/* Who occupies a device when: the shared, discrete-event model of what processes do on it.
 *
 * Each process has one entry per device. An entry owns a clock of its own, `run_ns`, that advances
 * one nanosecond per nanosecond of real time (CLOCK_MONOTONIC) while the entry holds the device
 * and stands still otherwise; so it also counts the device time that the process has used. A
 * process says by `demand_ns` up to which reading of that clock it has work. The model hands the
 * device to the entries that have work, round robin, a slice at a time; going from one process to
 * another takes `switch_ns`, in which nobody's clock advances. Otherwise the device is never idle
 * while one has work.
 *
 * Or all that have work hold it together, as clients of an MPS server: their clocks go at full pace
 * while their kernels fit the processors side by side, else all of them as much slower as they are
 * too many.
 *
 * Copies to and from outside take no part in that. They run on copy engines, beside kernels.
 *
 * It is a pure function of time, advanced by whoever looks, under the timeline's own lock, which a
 * holder's death does not keep. How the clock went is kept as knots (real time, clock), straight
 * lines between them, until the process has read them: from these it dates the ends of its kernels.
 * What happened is kept as turns, the youngest ones, for whoever wants the truth.
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
    SIM_TURNS_KEPT = 8192,           /* the youngest; 2^n */
    SIM_COPY_ENGINES_MAX = 16,
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

/* The way of a copy. Each carries one copy at a time: one alone has all of its bandwidth. */
enum sim_lane {
    SIM_LANE_TO_DEVICE, /* from the host */
    SIM_LANE_TO_HOST,
    SIM_LANE_PEER, /* to or from another device */
    SIM_LANE_COUNT,
};

enum sim_turn_kind {
    SIM_TURN_RUN,    /* held the device */
    SIM_TURN_SWITCH, /* the device was being given to it */
    SIM_TURN_COPY,   /* had a copy engine */
};

/* Who occupied what, from when till when. A copy's end may lie ahead. */
struct sim_turn {
    uint64_t from_ns, to_ns;         /* real time */
    uint64_t from_run_ns, to_run_ns; /* RUN: the process's clock */
    uint64_t since_ns;               /* RUN, SWITCH: when it began to wait for it */
    uint32_t process;                /* as it said when it joined */
    uint8_t kind;                    /* enum sim_turn_kind */
    uint8_t sealed;                  /* has been read: what follows is a turn of its own */
    uint8_t engine, lane;            /* COPY */
};

/* One process on one device. Written under the timeline's lock only. */
struct sim_timeline_entry {
    uint32_t owner;     /* the process's slot in the shared state; SIM_TIMELINE_NONE: free */
    uint32_t process;   /* what its turns are put down to */
    uint32_t sms;       /* processors that its work takes */
    uint32_t crowd;     /* processors that all took together, when its last knot was made */
    uint64_t rest;      /* of a division by `crowd`, that no look makes a difference */
    uint64_t turn;      /* number of its last turn */
    uint64_t wanted_ns; /* since when it has had work, and nothing of it was done */
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
    uint32_t crowd;   /* processors that were wanted, those that there are at the least */
    uint64_t from_ns; /* real time at the step's start and end */
    uint64_t to_ns;
    uint64_t busy_ns, switched_ns;        /* of the device, at the end */
    uint64_t running[SIM_TIMELINE_WORDS]; /* bit per entry whose clock went; none: a switch */
    struct {
        uint64_t from_run_ns, to_run_ns; /* its clock at the start and end */
        uint64_t rest;
    } of[SIM_TIMELINE_ENTRIES];
};

/* How a device is shared. */
struct sim_sharing {
    uint64_t slice_ns;     /* how long a process keeps it while others wait; 0: 2 ms */
    uint64_t switch_ns;    /* until another one can run on it */
    uint32_t together;     /* not 0: all at once, as under MPS; neither slices nor switches */
    uint32_t sms;          /* processors; 0: 1 */
    uint32_t copy_engines; /* up to SIM_COPY_ENGINES_MAX; 0: 1 */
};

/* One device. All zero is not valid: see sim_timeline_init. */
struct sim_timeline {
    pthread_mutex_t lock; /* process-shared, robust */
    struct sim_sharing sharing;
    uint64_t now_ns;  /* real time up to which the model has gone */
    uint64_t idle_ns; /* since when nobody had work; meaningful while `busy` is empty */
    uint64_t switch_end_ns;
    uint64_t slice_end_ns;
    uint64_t busy_ns;     /* real time that any process has held it, those gone included */
    uint64_t switched_ns; /* that went to switches */
    uint32_t holder;      /* entry that holds the device, or was the last to; SIM_TIMELINE_NONE */
    uint32_t loaded;      /* process that held it last; 0: none yet */
    uint32_t high;        /* entries at and above it have never been used */
    uint32_t pad;
    uint64_t busy[SIM_TIMELINE_WORDS]; /* bit per entry with run_ns < demand_ns */
    struct sim_timeline_step step;
    struct sim_usage_period usage[SIM_USAGE_PERIODS]; /* of all, those gone included */
    uint64_t engine_free_ns[SIM_COPY_ENGINES_MAX];    /* when its last copy ends */
    uint64_t lane_free_ns[SIM_LANE_COUNT];
    struct sim_timeline_entry entries[SIM_TIMELINE_ENTRIES];
    uint64_t turn_count;                   /* ever; */
    struct sim_turn turns[SIM_TURNS_KEPT]; /* turn n is in turns[n % SIM_TURNS_KEPT] */
};

/* Makes an empty timeline in shared, zeroed memory (called once, by whoever creates the state). */
void sim_timeline_init(struct sim_timeline *timeline, const struct sim_sharing *sharing);

/* Takes an entry for process slot `owner`; -1 when all are taken. An owner that already has one
 * gets it again. `process`: what its turns are put down to. */
int sim_timeline_join(struct sim_timeline *timeline, uint32_t owner, uint32_t process);
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
/* What a process wants of a device. */
struct sim_demand {
    uint64_t since_ns; /* real time since when: on a device that has been idle since then, the work
                        * is dated back */
    uint64_t until_ns; /* reading of its clock up to which it has work; less than was said before
                        * takes back what has not been run */
    uint32_t sms;      /* processors that it takes; 0: all */
};
/* Advances the model to `now_ns`, then says what entry `index` wants from then on. Fills `view` as
 * sim_timeline_look does. */
void sim_timeline_demand(struct sim_timeline *timeline, int index, uint64_t now_ns,
                         const struct sim_demand *demand, struct sim_timeline_view *view);
/* Real time at which entry `index` will read `run_ns`, were no demand to change after the
 * timeline's now. A lower bound when others may come, an upper one when others may go. */
uint64_t sim_timeline_predict(struct sim_timeline *timeline, int index, uint64_t run_ns);

/* Device time that `owner` has held, and whether it has work, at `now_ns`; for whoever records
 * the truth. Any process may call it. */
uint64_t sim_timeline_busy_ns(struct sim_timeline *timeline, uint32_t owner, uint64_t now_ns,
                              bool *busy);

struct sim_totals {
    uint64_t busy_ns;     /* that anybody has held the device */
    uint64_t switched_ns; /* that it went from one to another */
    uint64_t turns;       /* there have ever been */
};
/* What was so far, at `now_ns`. Any process may call it. */
struct sim_totals sim_timeline_totals(struct sim_timeline *timeline, uint64_t now_ns);

/* Takes a copy engine for a copy of entry `index` that could begin at `ready_ns` (not later than
 * `now_ns`) and takes `length_ns`. True: it begins at *start_ns. False: all are taken, or its lane
 * is, and it is no use to ask again before *start_ns. */
bool sim_timeline_copy(struct sim_timeline *timeline, int index, uint64_t now_ns, uint64_t ready_ns,
                       uint64_t length_ns, enum sim_lane lane, uint64_t *start_ns);

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

/* The truth: reads up to `room` turns from number *first on, in the order in which they began, as
 * far as they have come at `now_ns`; what then goes on is a turn of its own. *first becomes the
 * number after the last one read. *lost grows by how many were not kept. Answers how many were
 * read. Any process may call it. */
uint32_t sim_timeline_turns(struct sim_timeline *timeline, uint64_t now_ns, uint64_t *first,
                            struct sim_turn *turns, uint32_t room, uint64_t *lost);

#endif
