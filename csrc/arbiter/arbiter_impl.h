/* What arbiter.c (who is there), shares.c (who is owed how much) and step.c (who goes) share. */
#ifndef ALIQUOT_ARBITER_IMPL_H
#define ALIQUOT_ARBITER_IMPL_H

#include "arbiter.h"

#include "../region/region.h"

#define US 1000ull
#define MS 1000000ull

/* Who wanted a device so lately counts among those who share it: what a program does between two
 * launches is no reason to give its part to others for good. */
#define RECENT_ROUNDS 4
/* Whether who keeps an idle device by his priority has anything to do is looked at so often. */
#define COURT_NS (5 * MS)
/* Nobody who wants a device gets less: a kernel that others wait for must come to its end. */
#define LEAST_SHARE 0.01
/* So much of a turn may have gone into handing the device over; that is charged to nobody. */
#define HANDOVER_NS (100 * US)
/* Who is overtaken falls no further behind, in virtual time. */
#define LONGEST_DEBT_NS (2000 * MS)
/* Who has several devices takes none of them from somebody whom he owes more, in virtual time. */
#define MOST_OWED_NS (200 * MS)
/* Turns are so long that of any 200 ms nobody has more than 2 hundredths more or less than is due to
 * him (with rounds of 5 ms): with a share of s, a turn that brings ahead by t makes s (1 - s) t. In parts
 * of a round, where all go in the same order in each round; and where their rounds differ. */
#define SAME_LUMP 0.68
#define OWN_LUMP 0.4
/* And nobody waits for longer than so many rounds. */
#define MOST_ROUNDS 8
/* Who began his last turn and ended it by himself is looked at for that only after so many times the
 * usual: timers cost. */
#define PROMPT_STARTS 4
/* No turn is longer. */
#define LONGEST_NS (50 * MS)

struct member {
    struct party *party; /* NULL: the number is free */
    uint32_t device;
    struct aliquot_terms terms;
    struct aliquot_seen seen;
    uint64_t gate;
    bool dirty;       /* the gate is to be written */
    uint64_t used_ns; /* seen.device_ns when the gate was opened */
    struct aliquot_account account;
    /* The second that `*_permille` will be made of. */
    uint64_t second_ns, second_wanted_ns, second_held_ns;
};

/* A party on one device. */
struct stake {
    struct party *party;
    uint32_t device;
    uint32_t members, weight, min, max; /* sums over its members; thousandths */
    uint64_t v;                         /* virtual time: time held, divided by the share */
    double share;                       /* of the device, among those who want it */
    double round_ns;                    /* how far a turn brings it ahead, in virtual time */
    double due;                         /* virtual time: up to here its present turn goes */
    bool shares;                        /* it is among those who want the device */
    bool open;                          /* share is not settled yet (while shares are made) */
};

enum party_state { RESTING, HOLDING, DRAINING };

struct party {
    struct party *next, **link;
    uint32_t group;
    uint32_t member_count, stake_count;
    uint32_t *members;
    struct stake **stakes;
    int32_t priority; /* the highest of its members */
    uint32_t floor;
    uint64_t quiet_ns;
    bool native; /* takes part in nothing */
    bool lone;   /* shares with nobody, and has no cap: it asks for nothing */

    uint64_t now_ns; /* accounted up to here */
    enum party_state state;
    bool turn;           /* HOLDING: for a time; else until somebody else wants it */
    bool unrivalled;     /* in a turn, though only lower priorities want what it has */
    bool pausing;        /* in a turn with nothing to do; lower priorities wait for the quiet */
    bool overtaken;      /* others go although it has not drained */
    bool prompt;         /* it began its last turn, and ended it by itself */
    bool rang;           /* HOLDING in a turn that is about over */
    bool wanting;        /* waits, or holds */
    bool courted;        /* HOLDING, and lower priorities wait for it to be quiet */
    bool gave_way;       /* DRAINING because it was quiet: that is no work */
    uint64_t opened_ns;  /* HOLDING */
    uint64_t ring_ns;    /* HOLDING in a turn: from when on its ring is taken for the end of it */
    uint64_t end_ns;     /* HOLDING in a turn: when it is closed in any case */
    uint64_t late_ns;    /* HOLDING in a turn: when it is looked at for that, if nobody rings */
    uint64_t closed_ns;  /* DRAINING: since when */
    uint64_t due_ns;     /* not RESTING: when it is looked at, whatever happens */
    uint64_t left_ns;    /* DRAINING: what was said to be under way, the most of it */
    uint64_t wanted_ns;  /* when it last wanted anything; 0: never */
    uint64_t busy_ns;    /* when it last had something on a device; 0: never */
    uint64_t from_floor; /* HOLDING by the floor: what it may use of it */
};

struct device {
    struct stake **stakes;
    uint32_t stake_count;
    struct party *holder;  /* that has it, or drains and is not overtaken yet */
    struct party *claimed; /* that gathers its devices */
    uint64_t v;            /* virtual time of who was served last */
    double floor_ns;       /* what lower priorities have saved up */
    bool changed;          /* who is there, or on which terms */
    bool news;             /* something else was seen of a party, or is to be told */
    bool touched;          /* it is decided anew in this step */
    uint64_t now_ns;       /* accounted up to here */
    uint64_t passed_ns;    /* that was accounted last */
    uint64_t next_ns;      /* when it is to be decided anew, whatever happens */
    bool rotates;          /* all turns bring as far ahead, and who waited longest goes first */
};

struct aliquot_arbiter {
    struct aliquot_arbiter_settings settings;
    struct member *members;
    uint32_t member_count;
    struct party *parties;
    uint32_t device_count; /* no higher ones were ever used */
    struct device device[ALIQUOT_ARBITER_DEVICES];
};

static inline uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }
static inline double smaller(double a, double b) { return a < b ? a : b; }
static inline double larger(double a, double b) { return a > b ? a : b; }

static inline bool any_active(const struct aliquot_arbiter *arbiter, const struct party *party) {
    for (uint32_t i = 0; i < party->member_count; i++)
        if (arbiter->members[party->members[i]].seen.active)
            return true;
    return false;
}

/* The devices of a party are to be decided anew. */
static inline void arbiter_touch(struct aliquot_arbiter *arbiter, const struct party *party) {
    for (uint32_t i = 0; i < party->stake_count; i++)
        arbiter->device[party->stakes[i]->device].news = true;
}

/* It would take the devices if it got them. */
static inline bool asks(const struct party *party) {
    return party->wanting && !party->native && !party->lone &&
           (party->state == RESTING || party->overtaken);
}

static inline bool occupies(const struct party *party) {
    return (party->state == HOLDING && party->turn && !party->pausing) ||
           party->state == DRAINING || party->overtaken;
}

/* -- shares.c ---------------------------------------------------------------------------------- */

/* Adds up what has passed: on a device, for a party, everywhere. */
void arbiter_account_device(struct device *device, uint64_t round_ns, uint64_t now);
void arbiter_account_party(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now);
void arbiter_account(struct aliquot_arbiter *arbiter, uint64_t now);

/* First what each is guaranteed, then the rest by weight, to nobody more than his cap. Only those of
 * the priority that is served now share. */
void arbiter_make_shares(const struct aliquot_arbiter *arbiter, struct device *device,
                         int32_t priority, uint64_t now);

/* The priority that is served on a device now, and `*until`: how long for want of anything to do. */
int32_t arbiter_served(const struct device *device, uint64_t now, const struct party **top,
                       uint64_t *until);

/* Whether a lower priority may go by what it was left. */
bool arbiter_floor_allows(const struct aliquot_arbiter *arbiter, const struct device *device);

/* -- gates.c ----------------------------------------------------------------------------------- */

/* Gives all gates of a party one state. */
void arbiter_set_gates(struct aliquot_arbiter *arbiter, const struct party *party, unsigned state,
                       uint64_t turn_ns);

/* A party has its devices from now on, for a turn where others want them; `from_floor`: no longer. */
void arbiter_open(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now,
                  uint64_t from_floor);

/* Closes the gates of a party that holds: it drains. */
void arbiter_close(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now);

/* A party has drained: its devices are anybody's. */
void arbiter_release(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now);

/* Whether anybody else wants what the party has, and goes before it (`*higher`: at once). */
bool arbiter_contended(const struct aliquot_arbiter *arbiter, const struct party *party,
                       bool *higher);

/* Whether a lower priority waits for any of what the party has. */
bool arbiter_courted(const struct aliquot_arbiter *arbiter, const struct party *party);

/* The virtual time up to which those who ask for a device, and perhaps one more, have had their parts. */
double arbiter_even(const struct device *device, const struct stake *more);

/* -- step.c ------------------------------------------------------------------------------------ */

/* A party goes on with its devices until somebody else wants them. */
void arbiter_keep(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now);

#endif
