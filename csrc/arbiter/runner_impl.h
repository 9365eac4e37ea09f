/* What the parts of the runner share: runner.c (the thread), runner_join.c (who is there) and look.c
 * (reading a container, writing its gates). */
#ifndef ALIQUOT_RUNNER_IMPL_H
#define ALIQUOT_RUNNER_IMPL_H

#include "runner.h"
#include "seen.h"

#include "../region/region.h"

#include <pthread.h>

#define US 1000ull
#define MS 1000000ull
#define NEVER UINT64_MAX

/* What is due may be done so much later, if somebody rings meanwhile: it is not worth waking up for. */
#define SLACK_NS (1 * MS)
/* The timer stays as it is set, though nothing be due by then, until it would go off so soon. */
#define EARLY_NS (1 * MS)
/* A bell holds 4,096 rings, and it is not emptied for each of them. */
#define RINGS 16
/* A shim that has not seen a beat for a second takes the agent for dead. */
#define BEAT_NS (200 * MS)
/* Figures for people are made anew, and everybody is looked at, rung or not. */
#define FIGURES_NS (1000 * MS)
/* A container without a bell is looked at so often. */
#define NO_BELL_NS (10 * MS)
/* A container may ring a few times at once; one that goes on is listened to at most so often. What
 * it costs to look at it counts for more, so that one with many processes takes no more of our time
 * than another. */
#define LISTEN_NS (200 * US)
#define LISTEN_AHEAD 16
#define LISTEN_COST 20
/* A container that rings is looked through for new processes so often, and whenever none of those
 * that we know has news. */
#define COUNT_NS (20 * MS)
/* A word that stays as it is for so long may be a dead process': its lock says so. */
#define DOUBT_NS (5 * MS)
#define MOST_DOUBT_NS (100 * MS)
/* The same, of whoever was given the device just now: most are through with it by then. */
#define OPENED_DOUBT_NS (10 * MS)
/* The kernel goes through all locks of the file to tell whether one is held, and a container may hold
 * any number: asking takes a hundredth of our time at the most. */
#define DOUBT_COST 100
/* So many threads are woken when a gate changes: a container may have any number of them sleep on it.
 * The others look up by themselves. */
#define MOST_WOKEN 256

/* What is remembered of one word of `flow`. */
struct word {
    uint64_t value;    /* as it was read last */
    uint64_t since_ns; /* when it became so, or its owner was last known to live */
    uint64_t doubt_ns; /* how long after it its owner is asked for */
    bool dead;         /* its owner is: it speaks of nobody */
};

/* One device of a container. */
struct column {
    int member;     /* of the arbiter */
    uint32_t shift; /* what is added to the arbiter's gate numbers: a gate goes on from the number
                       that an agent before us left, so that nobody takes a new one for an old one */
    uint64_t gate;  /* as it stands in the grant */
    bool closed;    /* the gate was closed, and nobody was woken for it yet */
    uint64_t device_ns;                  /* as it was read last */
    uint32_t told_wanted, told_received; /* permille, as they stand in the grant */
    uint64_t *flow;                      /* [container.slots], 0 for the dead */
    struct word *word;
    struct aliquot_passed_over *over;
};

struct container {
    uint32_t number; /* its index */
    struct aliquot_grant *grant;
    int usage, bell; /* bell -1: it has none */
    uint32_t column_count, slots;
    bool rung;           /* it is to be looked at */
    bool told;           /* a gate of it was closed since it was looked at */
    bool noted;          /* it is among the runner's news */
    uint64_t counted_ns; /* clock: when it was looked for new processes last */
    uint32_t rings;      /* heard since its bell was emptied */
    bool deaf;           /* its bell is not listened to until `listen_ns` */
    uint64_t listen_ns;  /* clock: a leaky bucket of what it cost */
    uint64_t ask_ns;     /* clock: before it the kernel is not asked for its locks */
    uint64_t again_ns; /* clock: when it is looked at again because of a word in doubt, or NEVER */
    struct container *next; /* of the runner's news */
    struct column column[ALIQUOT_MAX_DEVICES];
};

struct aliquot_runner {
    pthread_t thread;
    pthread_mutex_t lock; /* of all below, but for descriptors and what the thread alone uses */
    struct aliquot_arbiter *arbiter;
    struct container **container; /* by number; NULL: free */
    uint32_t container_room;
    struct container **owner; /* by the arbiter's members */
    uint32_t owner_room;
    bool ending, gathering;
    bool asked; /* somebody came, left or has other terms */
    bool edges; /* the kernel tells of each ring, also where a bell was not emptied */
    int epoll, timer, command;
    /* The thread's own. */
    struct container *news; /* those that are to be looked at whatever the time is */
    uint64_t alarm_ns;      /* when the timer goes off */
    uint64_t tend_ns;       /* when somebody is to be tended; not later */
    uint64_t doubt_ns;      /* when somebody is to be doubted; not later */
    uint64_t beat_ns, figures_ns;
};

uint64_t runner_now(void);

/* -- runner.c; the lock is held --------------------------------------------------------------- */

/* Has a container looked at, whatever the time is. */
void runner_note(struct aliquot_runner *runner, struct container *container);

/* Has the thread decide anew. */
void runner_call(struct aliquot_runner *runner);

/* What is to be heard of a bell. */
uint32_t runner_bell_events(const struct aliquot_runner *runner);

/* What was counted of a column up to now. */
void runner_read_account(struct aliquot_runner *runner, const struct column *column, uint64_t now,
                         struct aliquot_account *account);

/* -- look.c ------------------------------------------------------------------------------------- */

/* Makes room for `slots` words of each column. False: no memory; it stays as it is. */
bool container_room(struct container *container, uint32_t slots);
void container_free(struct container *container);

/* Reads what the container says and tells the arbiter. */
void container_look(struct container *container, struct aliquot_arbiter *arbiter, uint64_t now);

/* Writes a gate of the arbiter into the grant. */
void column_write(struct container *container, uint32_t column, uint64_t gate);

/* Writes the figures for people into the grant. */
void column_tell(struct container *container, uint32_t column,
                 const struct aliquot_account *account);

#endif
