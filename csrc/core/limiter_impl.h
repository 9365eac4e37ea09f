/* What the parts of the limiter share: limiter.c (giving out, waiting), ledger.c (what processes of a
 * slice account together), meter.c (predicting, measuring) and observe.c (seeing what is done). */
#ifndef ALIQUOT_LIMITER_IMPL_H
#define ALIQUOT_LIMITER_IMPL_H

#include "limiter.h"
#include "lock.h"

enum {
    LANES = 64,      /* of a device that are asked whether they are idle; those of late */
    MARKS = 32,      /* of a device under way */
    LOOSE_MARKS = 8, /* the same where nobody else wants the device, and there is no cap */
    LEARNED = 1024,  /* launches of which the length is known; direct-mapped */
    SURE = 8,        /* measurements while others run until they are believed */
    LONGER = 16,     /* the same, one after the other, until something is believed to take longer */
    TICKET_MARK = 1, /* an event is to be put behind the launch */
    TICKET_MEASURE = 2,
    TICKET_GIVEN = 4, /* the launch is under way from here to there */
    TICKET_ROUSE = 8, /* the observer is to be woken: it sleeps for longer than the work takes */
};

#define US 1000ull
#define MS 1000000ull
#define NEVER UINT64_MAX

/* The cap's bucket: a slice may be ahead of its cap by what it gets in this time. */
#define TOLERANCE_NS (8 * MS)
/* A beat that stands still for so long is a dead agent's. */
#define BEAT_NS (1000 * MS)
/* Who waits looks up after it, and rings again after that. */
#define WAIT_NS (10 * MS)
#define RING_NS (100 * MS)
/* Of several processes, each in its turn is the first one; the others give it so much time for it. */
#define FIRST_NS (60 * US)
/* In its turn, a process without work keeps the device for so long: less than what it costs to give
 * it away. */
#define GRACE_NS (200 * US)
/* Work that is so much later than predicted waits for something: perhaps for a launch of ours. */
#define OVERDUE_NS (20 * MS)
/* A launch that nobody has measured may be long: what the arbiter is told of it. */
#define UNMEASURED_NS (50 * MS)
/* While nobody else wants the device, figures may be so old. */
#define TICK_NS (10 * MS)
/* How often what is known is measured again, and how often anything is. */
#define STALE_NS (1000 * MS)
#define SAMPLE_NS (10 * MS)

/* An event behind a launch. */
struct mark {
    void *event;  /* NULL: free */
    void *before; /* where the launch is measured by itself: an event before it */
    struct aliquot_launch launch;
    uint64_t spent_ns;   /* the flow's, this launch included */
    uint64_t entered_ns; /* when it was let go: not later than its launch */
    uint64_t host_ns;    /* when the driver had taken it */
    uint64_t due_ns;     /* when it was expected to be done */
    uint32_t launch_ns;  /* predicted for the launch itself */
    uint32_t asides;     /* the process', when it was put */
    uint64_t alone_ns;   /* until when no other process of the slice could launch; 0: they could */
    bool unmeasured;
};

struct lane {
    uint64_t key; /* 0: free */
    enum aliquot_lane_kind kind;
    uint64_t used_ns; /* when it last came to the slow path */
};

/* One device of this process. All under `lock`, but for what says otherwise. */
struct aliquot_flow {
    struct aliquot_lock lock;
    uint32_t device;
    bool observed;            /* an observer was started */
    uint32_t launching;       /* threads that were let go and are not back from the driver */
    _Atomic uint32_t waiting; /* threads that wait for the gate. Written under the lock */

    /* Predicted work: given out to threads, less what came back unused. When all that the slice's
     * processes were given will be done is in the ledger. */
    uint64_t given_ns;
    uint64_t marked_ns; /* given_ns when the last mark was put */
    uint64_t done_ns;   /* of given_ns: up to there it is done, as far as marks tell */
    uint32_t pace;      /* measured length of what was predicted as 1,024 */

    /* Measured work. */
    uint64_t busy_ns; /* clock: since when the device has worked for us, as far as marks tell; 0: it
                         does not */
    uint64_t gap_ns;  /* clock: when something was last launched while nothing was under way */
    uint32_t asides;  /* of the mark that was reached last */
    uint32_t detained;      /* measurements in a row that were not believed */
    uint64_t unmeasured_ns; /* clock: when what nobody has measured should be done at the latest */
    uint64_t sampled_ns;    /* clock: when a launch was measured by itself last */

    /* The turn. */
    uint32_t number; /* of the gate that `turn_end_ns` belongs to */
    bool turn;       /* `number` is that of a turn */
    bool
        deserted; /* it is taken for open, since the agent is dead: nobody says who else is there */
    uint64_t turn_end_ns;  /* clock */
    uint64_t turn_seen_ns; /* clock: when it was taken up */
    /* Of those for whom too little of it was left, the shortest launch; 0: there are none, or nobody
     * knows. */
    uint64_t refused_ns;

    bool active;           /* as in the flow word */
    bool offered;          /* those who wait were told to try again, and nobody has since */
    uint32_t rings;        /* as in the flow word */
    uint64_t rung_ns;      /* clock: when it was rung last */
    uint64_t progress_ns;  /* clock: when any mark was last found reached */
    uint64_t let_pause_ns; /* before another one is let through */
    uint64_t let_ns;       /* clock: when a launch was let through last */
    uint64_t look_ns;      /* clock: when marks were looked at last */
    uint64_t observe_ns;   /* clock: when the observer looks next, if nobody wakes it */
    uint64_t grace_ns;     /* clock: since when it has had nothing to do in its turn; 0: it has */
    /* What other processes of the slice have under way, as they said last, and when it was added up. */
    uint64_t others_ns, counted_ns;
    uint64_t mixed_ns; /* clock: when others of the slice last had something under way */
    uint32_t sharers;  /* processes of the slice that have something under way, this one included */
    uint32_t waiters, rank; /* that wait, this one included, and how many of them come before it */
    uint64_t alone_ns;      /* clock: until then the others wait for our measurement */

    uint32_t mark_count;
    struct mark marks[MARKS];
    struct lane lanes[LANES];
};

struct learned {
    uint64_t what, lane;
    uint32_t ns; /* 0: free */
    /* What was longer, measured while others ran too: the shortest, and how many one after the other. */
    uint32_t longer_ns, longer;
    bool sure;         /* it was measured while nothing else ran */
    uint64_t again_ns; /* clock: when it is to be measured again */
};

struct aliquot_limiter_state {
    struct aliquot_lock lock; /* of `threads` and `learned`; taken after a flow's */
    struct aliquot_thread *threads;
    _Atomic uint64_t generation; /* of what threads know */
    _Atomic uint32_t asides;     /* grows when anything was queued aside; relaxed: a figure */
    struct learned learned[LEARNED];

    /* The agent's life. */
    _Atomic uint64_t beat, beat_ns;
};

static inline uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

static inline uint64_t now_of(const struct aliquot_limiter *limiter) {
    return limiter->seam->now(limiter->env);
}

/* -- limiter.c --------------------------------------------------------------------------------- */

/* What the gate says, with a dead agent's taken for open. */
unsigned aliquot_gate_now(struct aliquot_limiter *limiter, uint64_t gate, uint64_t now);

/* The gate's word. seq_cst: what the flow word says was written before, or after, is seen so by the
 * arbiter, which writes the gate before it reads flow words. */
static inline uint64_t gate_word(const struct aliquot_limiter *limiter, uint32_t device) {
    return atomic_load(limiter->front[device].gate);
}
static inline const _Atomic uint32_t *gate_futex(const struct aliquot_limiter *limiter,
                                                 uint32_t device) {
    return (const _Atomic uint32_t *)(const void *)limiter->front[device].gate;
}
static inline void wake_role(struct aliquot_limiter *limiter, uint32_t device, uint32_t role) {
    limiter->seam->wake(limiter->env, (_Atomic uint32_t *)(uintptr_t)gate_futex(limiter, device),
                        role);
}

/* Takes up a turn that has begun: its end is counted from when a process of the slice first sees it. */
void aliquot_flow_turn(struct aliquot_limiter *limiter, struct aliquot_flow *flow, unsigned state,
                       uint64_t gate, uint64_t now);

/* Writes the flow word. */
void aliquot_flow_publish(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now);

/* Adds up what other processes of the slice have under way on the device, as they said last. */
void aliquot_flow_count(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now);

/* Takes back what threads were given and have not used. */
void aliquot_flow_void(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now);

/* -- meter.c ----------------------------------------------------------------------------------- */

/* How long it takes (0: nobody knows), and when it is to be measured again. */
uint32_t aliquot_learned(struct aliquot_limiter *limiter, const struct aliquot_launch *launch,
                         uint64_t *again_ns);

/* Looks at the marks: learns, charges, corrects what is expected. Returns how many were reached. */
uint32_t aliquot_meter_look(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                            uint64_t now);

/* Whether something is under way of which nobody knows the length, or that is later than it should
 * be: how much is under way cannot be told. */
bool aliquot_meter_late(const struct aliquot_limiter *limiter, const struct aliquot_flow *flow,
                        uint64_t now);

/* Everything that was given out is done, and nothing is given out: what no mark told is charged. */
void aliquot_meter_settle(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now);

/* Whether nothing that was launched is under way, as far as can be told. `*stuck`: something is, far
 * beyond its time. */
bool aliquot_meter_drained(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now,
                           bool *stuck);

/* Time of the device that predicted `ns` take at the pace of late. */
static inline uint64_t flow_paced(const struct aliquot_flow *flow, uint64_t ns) {
    return ns * flow->pace >> 10;
}

/* Time of the device that what was given out here, and is not known to be done, takes. */
static inline uint64_t flow_left(const struct aliquot_flow *flow) {
    return flow->given_ns > flow->done_ns ? flow_paced(flow, flow->given_ns - flow->done_ns) : 0;
}

/* -- ledger.c ---------------------------------------------------------------------------------- */

/* When all that processes of the slice were given will be done; in the past: it is. */
uint64_t aliquot_ledger_due(const struct aliquot_limiter *limiter, uint32_t device, uint64_t now);

/* Gives out work of predicted length that takes `ns` of device time. False: `due_ns`, from which it
 * was decided so, is another one now. */
bool aliquot_ledger_give(struct aliquot_limiter *limiter, uint32_t device, uint64_t due_ns,
                         uint64_t predicted_ns, uint64_t ns, uint64_t now);

/* What was given out at `given_ns`, when nothing was to be done, was launched at `launched_ns`. */
void aliquot_ledger_begin(struct aliquot_limiter *limiter, uint32_t device, uint64_t given_ns,
                          uint64_t launched_ns);

/* What was given out is more, or (negative) less, in predicted and in device time. */
void aliquot_ledger_shift(struct aliquot_limiter *limiter, uint32_t device, int64_t predicted_ns,
                          int64_t ns, uint64_t now);

/* What was given out will be done not before `low_ns` and not after `high_ns`. */
void aliquot_ledger_bound(struct aliquot_limiter *limiter, uint32_t device, uint64_t low_ns,
                          uint64_t high_ns, uint64_t now);

/* What several processes take of what is predicted as 1,024. What each of their launches takes can
 * hardly be measured, since others come between; what all of them take can. */
uint32_t aliquot_ledger_pace(const struct aliquot_limiter *limiter, uint32_t device);

/* Of what processes of the slice were given, all but `left_ns`, at most, was done at `at_ns`. `queued`:
 * the device never waited for them. */
void aliquot_ledger_learn(struct aliquot_limiter *limiter, uint32_t device, uint64_t at_ns,
                          uint64_t left_ns, bool queued);

/* Charges up to `to_ns`: all from `sure_ns` on, when the device is known to have worked for the
 * slice, and before it as long as anything was to be done. By then `left_ns` of what was given out, at
 * least, was not done; and unless it is sure, `most_ns` is all that was, if anybody knows. */
void aliquot_ledger_charge(struct aliquot_limiter *limiter, uint32_t device, uint64_t sure_ns,
                           uint64_t to_ns, uint64_t left_ns, uint64_t most_ns, uint64_t now);

/* Up to when it is charged, not before `at_ns` and not after now. */
uint64_t aliquot_ledger_charged(const struct aliquot_limiter *limiter, uint32_t device,
                                uint64_t at_ns, uint64_t now);

/* When the turn that the gate gives ends. `follows`: the caller saw the turn before it. */
uint64_t aliquot_ledger_turn(struct aliquot_limiter *limiter, uint32_t device, uint64_t gate,
                             bool follows, uint64_t now);

/* Until when another process of the slice measures. */
uint64_t aliquot_ledger_alone(const struct aliquot_limiter *limiter, uint32_t device, uint64_t now);
void aliquot_ledger_be_alone(struct aliquot_limiter *limiter, uint32_t device, uint64_t until_ns);

/* Whether anything was launched in the turn that was seen last; something was in the gate's. */
bool aliquot_ledger_turn_used(const struct aliquot_limiter *limiter, uint32_t device);
void aliquot_ledger_use_turn(struct aliquot_limiter *limiter, uint32_t device, uint64_t gate);

/* The cap's bucket: `ns` of device time were used, or (negative) were not. */
void aliquot_ledger_cap(struct aliquot_limiter *limiter, uint32_t device, int64_t ns, uint64_t now);

/* When the cap lets the slice go on; not later than now: it may. `waited_ns`: how long the caller has
 * waited for it. */
uint64_t aliquot_ledger_allowed(struct aliquot_limiter *limiter, uint32_t device,
                                uint64_t waited_ns, uint64_t now);

#endif
