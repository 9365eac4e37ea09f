/* The arbiter: whose gate is open on which device. Pure: time and observations go in, gates come out.
 *
 * Parties want devices. A party is one container, or all containers of a group: its members get the
 * devices together. A member is one container's slice of one device.
 *
 * Each device is given out in turns. What each has had is counted in virtual time: time held, divided by
 * his share. Either all go in the same order in each round, and whoever is behind or ahead has a longer
 * turn or a shorter one; or, where shares differ much, each has rounds of his own, and of those who are not
 * ahead he goes first whose turn has to end first. Shares follow from four numbers: first everybody
 * who wants the device gets what he is guaranteed, then the rest goes by weight, to nobody more than
 * his cap. A higher priority takes the device at once and keeps it until it has been quiet for a
 * while; what lower ones are left is the floor.
 *
 * What is charged is the time from the opening of a gate until its holder has nothing on the device
 * any more, by the arbiter's own clock: a container cannot lie about it. A holder that does not drain
 * is overtaken, and the time is split.
 *
 * Times are nanoseconds of one monotonic clock that the caller names in `now`.
 */
#ifndef ALIQUOT_ARBITER_H
#define ALIQUOT_ARBITER_H

#include <stdbool.h>
#include <stdint.h>

enum {
    ALIQUOT_ARBITER_DEVICES = 64, /* of a node */
    ALIQUOT_ARBITER_MEMBERS = 16384,
};

/* What a member was promised. */
struct aliquot_terms {
    uint32_t cores_min; /* thousandths of the device that it gets whenever it wants them */
    uint32_t cores_max; /* thousandths that it never passes; held by the limiter, known here */
    uint32_t weight;    /* of what is spare; 1 to ALIQUOT_MAX_WEIGHT */
    int32_t priority;   /* a higher one goes first */
    uint64_t quiet_ns;  /* how long a higher priority keeps the device when it is idle */
    uint32_t floor;     /* thousandths that lower priorities get while this one wants the device */
    uint32_t group;     /* 0: none; members with the same number are granted together */
    bool native;        /* its gate is FREE: it takes part in nothing */
};

/* What was seen of a member: the words of its processes (`flow` in the region), put together. */
struct aliquot_seen {
    bool waiting;       /* some process waits to launch, and lives */
    bool active;        /* some process has work on the device, or may launch without asking */
    bool begun;         /* some process was active under the gate's present number */
    bool late;          /* some process waits that was not active under that number */
    uint64_t left_ns;   /* predicted device time of all work under way */
    uint64_t device_ns; /* what the container says that it has used so far (struct
                           aliquot_usage_time); believed only where it hardly matters */
};

/* For metrics; all since the member came, but for the last two. */
struct aliquot_account {
    uint64_t held_ns;   /* the device was its own, or it ran there */
    uint64_t split_ns;  /* of that, while others ran there too (each is charged his part) */
    uint64_t wanted_ns; /* it held it, or waited for it */
    uint64_t turns;     /* gates opened */
    uint64_t overruns;  /* it did not drain in time */
    uint64_t preempted; /* its turn was ended for a higher priority */
    uint32_t wanted_permille, received_permille; /* of the last whole second */
};

struct aliquot_arbiter;

struct aliquot_arbiter_settings {
    uint64_t round_ns; /* with two who want all, a round of turns takes twice that; with more it is
                            longer by as much as shares allow. 0: 5 ms */
    uint64_t least_ns; /* no turn is shorter. 0: 400 us */
    uint64_t start_ns; /* a turn that nobody begins is over after it. 0: 2 ms */
    uint64_t drain_ns; /* beyond what is predicted, before a holder is overtaken. 0: 20 ms */
};

/* NULL: no memory. `settings` NULL: all as it is. */
struct aliquot_arbiter *aliquot_arbiter_new(const struct aliquot_arbiter_settings *settings);
void aliquot_arbiter_free(struct aliquot_arbiter *arbiter);

/* A container comes with `count` devices of the node (`device[i]` < ALIQUOT_ARBITER_DEVICES, each
 * once). Returns the number of its first member, the others following, or a negative errno: -EINVAL,
 * -ENOMEM. Numbers are used again after aliquot_arbiter_leave. All its gates are closed. */
int aliquot_arbiter_join(struct aliquot_arbiter *arbiter, uint64_t now, uint32_t count,
                         const uint32_t *device, const struct aliquot_terms *terms);
void aliquot_arbiter_leave(struct aliquot_arbiter *arbiter, uint64_t now, int member);
/* New terms; a change takes effect in the next step. -EINVAL for what is out of range. */
int aliquot_arbiter_change(struct aliquot_arbiter *arbiter, uint64_t now, int member,
                           const struct aliquot_terms *terms);

/* The container that came last, of which `member` is one, has its devices already, from an arbiter
 * before this one. It goes on until somebody else wants them; where others go on already, it is
 * closed and drains. */
void aliquot_arbiter_found(struct aliquot_arbiter *arbiter, uint64_t now, int member);

/* What the caller saw of a member since the last step. Whoever was not looked at is as before. */
void aliquot_arbiter_see(struct aliquot_arbiter *arbiter, int member,
                         const struct aliquot_seen *seen);

/* The member rang. True: most of its turn is over and it always ended that by itself, so that it will be
 * closed in the next step, and need not be looked at before, only after that. */
bool aliquot_arbiter_rang(struct aliquot_arbiter *arbiter, int member, uint64_t now);

/* The member must be looked at before the next step: it holds a gate, drains, or its news depend on
 * the passing of time. (Others ring.) */
bool aliquot_arbiter_watched(const struct aliquot_arbiter *arbiter, int member);

/* Of whoever rings with all his news, it is enough to look when the passing of time is news too. (An
 * opened gate is no news; a closed one is, see below.) */
bool aliquot_arbiter_due(const struct aliquot_arbiter *arbiter, int member, uint64_t now);

/* A gate that is to be written: region.h's word. */
struct aliquot_gate_change {
    int member;
    uint64_t gate;
};

/* Decides. Writes at most `room` changes and returns their number; `*next` is the time at which it
 * must be called again if nothing happens before (UINT64_MAX: never). When `room` was filled, call it
 * again at once. Order matters: gates are written in the order given, and what was closed must be
 * looked at before anything is opened that waits for it; a change that opens is only ever made from
 * what was seen. */
uint32_t aliquot_arbiter_step(struct aliquot_arbiter *arbiter, uint64_t now,
                              struct aliquot_gate_change *change, uint32_t room, uint64_t *next);

/* The gate's present word, and the account up to `now`. */
uint64_t aliquot_arbiter_gate(const struct aliquot_arbiter *arbiter, int member);
void aliquot_arbiter_read(struct aliquot_arbiter *arbiter, uint64_t now, int member,
                          struct aliquot_account *account);

#endif
