/* What the parts of the limiter share: limiter.c (giving out, waiting), meter.c (predicting,
 * measuring, charging) and observe.c (seeing what is done). */
#ifndef ALIQUOT_LIMITER_IMPL_H
#define ALIQUOT_LIMITER_IMPL_H

#include "limiter.h"
#include "lock.h"

enum {
    LANES = 64,      /* of a device that are asked whether they are idle; those of late */
    MARKS = 32,      /* of a device under way */
    LOOSE_MARKS = 8, /* the same where nobody else wants the device, and there is no cap */
    FOLLOWED = 64,   /* processes of the slice that are followed more closely */
    LEARNED = 1024,  /* launches of which the length is known; direct-mapped */
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

    /* Predicted work: given out to threads, less what came back unused. */
    uint64_t given_ns;
    uint64_t marked_ns; /* given_ns when the last mark was put */
    uint64_t due_ns;    /* when what was given out will be done; in the past: it is */
    uint32_t pace;      /* measured length of what was predicted as 1,024 */

    /* Measured work. */
    uint64_t
        busy_ns;     /* clock: since when the device has worked for us, uncharged; 0: it does not */
    uint64_t gap_ns; /* clock: when something was last launched while nothing was under way */
    uint64_t charged_ns;    /* of given_ns: up to there it is charged */
    uint32_t asides;        /* of the mark that was reached last */
    uint32_t detained;      /* measurements in a row that were not believed */
    uint64_t unmeasured_ns; /* clock: when what nobody has measured should be done at the latest */
    uint64_t sampled_ns;    /* clock: when a launch was measured by itself last */

    /* The turn. */
    uint32_t number;                     /* of the gate that `turn_end_ns` belongs to */
    bool turn;                           /* `number` is that of a turn */
    bool turn_used;                      /* something was launched in it */
    uint64_t turn_begin_ns, turn_end_ns; /* clock */
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
    /* What other processes of the slice had under way, and when that was added up. */
    uint64_t others_ns, counted_ns;
    uint64_t mixed_ns; /* clock: when others of the slice last had something under way */
    uint32_t sharers;  /* processes of the slice that have something under way, this one included */

    struct followed {
        uint64_t word, since_ns;
    } followed[FOLLOWED]; /* flow words of other processes, and when they were first seen */

    uint32_t mark_count;
    struct mark marks[MARKS];
    struct lane lanes[LANES];
};

struct learned {
    uint64_t what, lane;
    uint32_t ns; /* 0: free */
    uint64_t at_ns;
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

/* Takes up a turn that has begun: its end is counted from when the process first sees it. */
void aliquot_flow_turn(struct aliquot_flow *flow, unsigned state, uint64_t gate, uint64_t now);

/* Writes the flow word. */
void aliquot_flow_publish(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now);

/* Adds up what other processes of the slice have under way on the device, as they said last. The
 * device takes turns between them. */
void aliquot_flow_count(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now);

/* Takes back what threads were given and have not used. */
void aliquot_flow_void(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now);

/* -- meter.c ----------------------------------------------------------------------------------- */

uint32_t aliquot_learned(struct aliquot_limiter *limiter, const struct aliquot_launch *launch,
                         uint64_t *at_ns);

/* Looks at the marks: learns, charges, corrects what is expected. Returns how many were reached. */
uint32_t aliquot_meter_look(struct aliquot_limiter *limiter, struct aliquot_flow *flow,
                            uint64_t now);

/* Whether something is under way of which nobody knows the length, or that is later than it should
 * be: how much is under way cannot be told. */
bool aliquot_meter_late(const struct aliquot_flow *flow, uint64_t now);

/* Everything that was given out is done, and nothing is given out: charges what no mark told. */
void aliquot_meter_settle(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now);

/* Whether nothing that was launched is under way, as far as can be told. `*stuck`: something is, far
 * beyond its time. */
bool aliquot_meter_drained(struct aliquot_limiter *limiter, struct aliquot_flow *flow, uint64_t now,
                           bool *stuck);

/* Predicted time until what is under way is done. */
static inline uint64_t flow_left(const struct aliquot_flow *flow, uint64_t now) {
    return flow->due_ns > now ? flow->due_ns - now : 0;
}

/* Device time of its own that this takes. */
static inline uint64_t flow_own(const struct aliquot_flow *flow, uint64_t now) {
    return flow_left(flow, now) / flow->sharers;
}

/* Time of the device that predicted `ns` take at the pace of late. */
static inline uint64_t flow_paced(const struct aliquot_flow *flow, uint64_t ns) {
    return ns * flow->pace >> 10;
}

/* The cap's bucket: `ns` of device time were used, or (negative) were not. */
void aliquot_meter_cap(struct aliquot_limiter *limiter, uint32_t device, int64_t ns, uint64_t now);

/* When the cap lets the slice go on; not later than now: it may. `waited_ns`: how long the caller has
 * waited for it. */
uint64_t aliquot_meter_allowed(struct aliquot_limiter *limiter, uint32_t device, uint64_t waited_ns,
                               uint64_t now);

#endif
