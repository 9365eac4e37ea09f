/* The two files between one container (or one `aliquot run`) and whoever made it.
 *
 *   grant   written by the agent or the command that made the region, read-only to the container:
 *           what the slice is
 *   usage   written by the processes of the slice: what they hold
 *
 * Where an agent shares out time there is a FIFO `bell` beside them: a byte in it says that `usage`
 * has news. It carries nothing, may be lost, and is never waited for.
 *
 * This header is the one definition of their layout. C includes it; Python reads it through cffi
 * (shim/region.cdef repeats the declarations and a test compares every offset). All integers are
 * little-endian host integers; sizes are bytes; times are nanoseconds of CLOCK_MONOTONIC unless
 * said otherwise.
 *
 * Trust: `grant` is trusted by the shim. `usage` is hostile input to everybody but the slice's own
 * processes: a reader outside copies it and clamps every index (region.c does). Inside the slice a
 * scribbler can only hurt its own slice.
 */
#ifndef ALIQUOT_REGION_H
#define ALIQUOT_REGION_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define ALIQUOT_REGION_ABI 2u
#define ALIQUOT_MAX_DEVICES 16u
#define ALIQUOT_MAX_SLOTS 1024u
#define ALIQUOT_MAX_HOLDS 2048u
#define ALIQUOT_NAME_BYTES 64u

/* "AQGRANT1" and "AQUSAGE1" read as little-endian integers. */
#define ALIQUOT_GRANT_MAGIC 0x31544e4152475141ull
#define ALIQUOT_USAGE_MAGIC 0x3145474153555141ull

/* `cap` of a device whose memory is not limited. */
#define ALIQUOT_NO_CAP UINT64_MAX

/* A share of time that nobody has measured. */
#define ALIQUOT_UNKNOWN UINT32_MAX

/* One device of the slice. */
struct aliquot_grant_device {
    uint8_t uuid[16];           /* the driver's device UUID, the only name a device has here */
    _Atomic uint64_t cap;       /* bytes that the slice may hold; ALIQUOT_NO_CAP: all of it */
    _Atomic uint64_t unclaimed; /* bytes the maker of the region saw on the device that no slot
                                   has charged; counted against the cap */
    uint64_t page_bytes;        /* granularity in which the device gives memory, a power of two */
    uint64_t context_bytes;     /* estimate of what one context takes */
    /* What the agent saw lately of the slice on the device, in thousandths of the time. */
    _Atomic uint32_t busy_permille;        /* its kernels ran; ALIQUOT_UNKNOWN: not measured */
    _Atomic uint32_t memory_busy_permille; /* they moved memory; ALIQUOT_UNKNOWN as above */
    _Atomic uint32_t cores;                /* percent of the device that the slice may have */
    uint32_t enforcement;                  /* enum aliquot_enforcement: who holds the cap */
    _Atomic uint64_t gate;                 /* see ALIQUOT_GATE_FREE; a futex on its low half */
    _Atomic uint32_t window_us; /* work that may be under way at a time, in predicted us */
    /* For people: what the slice was promised, and what it wanted and got lately. */
    _Atomic uint32_t cores_min; /* percent that are guaranteed; 0: none */
    _Atomic uint32_t weight;    /* its part of what is spare, against those of others */
    _Atomic int32_t priority;   /* a higher one takes the device at once */
    _Atomic uint32_t wanted_permille;
    _Atomic uint32_t received_permille;
    char label[ALIQUOT_NAME_BYTES]; /* what its vendor calls it, NUL-terminated; empty: "GPU-" and
                                       the UUID */
    uint8_t reserved[96];
};

enum aliquot_enforcement {
    ALIQUOT_BY_SHIM = 0,
    ALIQUOT_BY_DRIVER = 1, /* the shim shows the cap and counts, and refuses nothing */
};
static_assert(sizeof(struct aliquot_grant_device) == 256, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, cap) == 16, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, unclaimed) == 24, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, page_bytes) == 32, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, context_bytes) == 40, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, busy_permille) == 48, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, cores) == 56, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, enforcement) == 60, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, gate) == 64, "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, received_permille) == 92,
              "grant device layout");
static_assert(offsetof(struct aliquot_grant_device, label) == 96, "grant device layout");

/* The gate: what the slice may launch on the device now.
 *
 *   bits  0 to 1    one of the four below
 *   bits  2 to 5    how many slices besides this one run there at the moment: while it is not zero,
 *                   a slice is charged its part of the time that passes
 *   bits  6 to 31   a number that is another one whenever any of it changes
 *   bits 32 to 63   TURN: length of the turn, us of device time from when the slice sees it
 *
 * FREE    nobody else is on the device: nothing is measured, nothing waits
 * OPEN    nobody else wants the device: launches pass, are measured, and not too many are under way
 * TURN    the slice has the device, for as long as is written
 * CLOSED  others have it: who wants to launch says so, rings and waits
 *
 * Who sleeps on it says as what (the futex' bitset): what opens is news to those who wait to launch,
 * what closes to those who see to it that the device is given back.
 */
#define ALIQUOT_GATE_LAUNCHERS 1u
#define ALIQUOT_GATE_OBSERVERS 2u
#define ALIQUOT_GATE_FREE 0u
#define ALIQUOT_GATE_OPEN 1u
#define ALIQUOT_GATE_TURN 2u
#define ALIQUOT_GATE_CLOSED 3u

static inline unsigned aliquot_gate_state(uint64_t gate) { return gate & 3u; }
static inline unsigned aliquot_gate_others(uint64_t gate) { return gate >> 2 & 15u; }
static inline uint32_t aliquot_gate_number(uint64_t gate) { return gate >> 6 & 0x3ffffffu; }
static inline uint64_t aliquot_gate_turn_ns(uint64_t gate) { return (gate >> 32) * 1000u; }
static inline uint64_t aliquot_gate_word(unsigned state, unsigned others, uint32_t number,
                                         uint64_t turn_ns) {
    uint64_t us = turn_ns / 1000u;
    return (us < UINT32_MAX ? us : UINT32_MAX) << 32 | (uint64_t)(number & 0x3ffffffu) << 6 |
           (uint64_t)(others & 15u) << 2 | (state & 3u);
}

struct aliquot_grant {
    uint64_t magic;
    uint32_t abi;
    uint32_t size;                 /* sizeof(struct aliquot_grant) */
    uint32_t device_count;         /* 1 to ALIQUOT_MAX_DEVICES */
    uint32_t flags;                /* none yet: 0 */
    _Atomic uint64_t beat;         /* counter that a living agent advances; 0: no agent */
    char name[ALIQUOT_NAME_BYTES]; /* of the slice, NUL-terminated, for messages */
    uint8_t reserved[160];
    struct aliquot_grant_device device[ALIQUOT_MAX_DEVICES];
};
static_assert(offsetof(struct aliquot_grant, beat) == 24, "grant layout");
static_assert(offsetof(struct aliquot_grant, name) == 32, "grant layout");
static_assert(offsetof(struct aliquot_grant, device) == 256, "grant layout");
static_assert(sizeof(struct aliquot_grant) == 4352, "grant layout");

/* One process of the slice. A slot is owned by whoever holds the write lock on byte number `slot`
 * of the file `usage` (an open-file-description lock: the kernel drops it however the owner dies).
 * The owner writes the fields; whoever finds the lock free may clear them, holding it. */
struct aliquot_slot {
    _Atomic uint32_t pid; /* as the process sees itself; 0: never used or cleared */
    uint32_t reserved0;
    uint64_t attached_unix_ns; /* CLOCK_REALTIME at attachment */
    char command[16];          /* comm, NUL-terminated */
    uint8_t reserved[32];
};
static_assert(sizeof(struct aliquot_slot) == 64, "slot layout");
static_assert(offsetof(struct aliquot_slot, attached_unix_ns) == 8, "slot layout");
static_assert(offsetof(struct aliquot_slot, command) == 16, "slot layout");

/* Memory that one process exported and others of the slice may have opened: who holds it, and in
 * whose slot it is charged. All fields are written under the region's lock.
 *
 * An entry without a holder (`count` 0) is a note that may be overwritten. Memory whose last holder
 * let go may live on in a descriptor that is under way to somebody, who is charged for it when he
 * opens it. And memory may have several names: `device` ALIQUOT_MAX_DEVICES says that `key` is
 * another name of the memory whose key stands in `bytes`; it is nobody's (`slot` ALIQUOT_MAX_SLOTS),
 * `count` is 1, and it goes with the memory's last holder. */
struct aliquot_hold {
    uint64_t key;     /* names the shared memory; 0: free entry */
    uint64_t bytes;   /* of one charge */
    uint32_t slot;    /* holder */
    uint32_t device;  /* index into grant.device */
    uint32_t count;   /* how many times this slot holds it */
    uint32_t charged; /* how many of those are charged in this slot */
};
static_assert(sizeof(struct aliquot_hold) == 32, "hold layout");

/* Container-wide figures of one device; they outlive the processes. */
struct aliquot_usage_device {
    _Atomic uint64_t peak;     /* largest sum of charges that was granted, bytes */
    _Atomic uint64_t refusals; /* requests refused at the cap */
    uint8_t reserved[48];
};
static_assert(sizeof(struct aliquot_usage_device) == 64, "usage device layout");

/* Container-wide time on one device. Nanoseconds; clocks are the container's CLOCK_MONOTONIC, which
 * need not be the host's. */
struct aliquot_usage_time {
    _Atomic uint64_t charged_until_ns; /* clock: up to here device time has been charged */
    _Atomic uint64_t device_ns;        /* charged: work of the slice ran on the device */
    _Atomic uint64_t allowed_ns;  /* clock: when the cap lets the slice go on (a leaky bucket) */
    _Atomic uint64_t wait_ns;     /* threads waited to launch, added up */
    _Atomic uint64_t waits;       /* how often */
    uint64_t reserved0;           /* 0 */
    _Atomic uint64_t let_through; /* launches that passed a closed gate, since older work waited */
    /* What the slice's processes launch by, together; see core/ledger.c. */
    _Atomic uint64_t due_ns; /* clock: when all that they were given should be done */
    _Atomic uint64_t turn;   /* the turn that any of them saw last: see aliquot_turn_word */
    /* Before `charged_until_ns`, what was not charged last, since nothing was to be done. */
    _Atomic uint64_t hole_ns;
    _Atomic uint64_t hole_until_ns; /* clock */
    _Atomic uint64_t began_ns; /* clock: since when there has always been something to be done */
    _Atomic uint64_t given_ns; /* predicted: what was given out since then */
    _Atomic uint64_t alone_until_ns; /* clock: so long one of them measures, and others wait */
    _Atomic uint64_t ahead_ns;       /* charged for work that was not done by then */
    _Atomic uint32_t pace;           /* what they take of what is predicted as 1,024; 0: as much */
    uint8_t reserved[4];
};
static_assert(sizeof(struct aliquot_usage_time) == 128, "usage time layout");
static_assert(offsetof(struct aliquot_usage_time, due_ns) == 56, "usage time layout");

/* A turn of the slice, a word:
 *
 *   bits  0 to 25   number of its gate
 *   bit  26         something was launched in it
 *   bits 27 to 63   clock: when it ends, units of 1,024 ns, without what is above (39 hours)
 */
static inline uint32_t aliquot_turn_number(uint64_t turn) { return turn & 0x3ffffffu; }
static inline unsigned aliquot_turn_used(uint64_t turn) { return turn >> 26 & 1u; }
/* The end that is nearest to `now`. */
static inline uint64_t aliquot_turn_end_ns(uint64_t turn, uint64_t now) {
    uint64_t ahead = ((turn >> 27) - (now >> 10)) & 0x1fffffffffull;
    uint64_t units = (now >> 10) + ahead - (ahead >> 36 ? 1ull << 37 : 0);
    return units << 10;
}
static inline uint64_t aliquot_turn_word(uint32_t number, unsigned used, uint64_t end_ns) {
    return (end_ns >> 10) << 27 | (uint64_t)(used & 1u) << 26 | (number & 0x3ffffffu);
}

/* What one process does on one device, a word in `flow`:
 *
 *   bits  0 to 9    threads that wait for the gate
 *   bit  10         active: it has work on the device, or may launch without asking
 *   bits 11 to 23   grows while it waits: a word that stays as it is speaks of nobody
 *   bits 24 to 39   low half of the number of the gate under which it was active last
 *   bits 40 to 63   predicted device time of its work under way, units of 16,384 ns
 */
static inline unsigned aliquot_flow_waiting(uint64_t flow) { return flow & 0x3ffu; }
static inline unsigned aliquot_flow_active(uint64_t flow) { return flow >> 10 & 1u; }
static inline unsigned aliquot_flow_rings(uint64_t flow) { return flow >> 11 & 0x1fffu; }
static inline unsigned aliquot_flow_number(uint64_t flow) { return flow >> 24 & 0xffffu; }
static inline uint64_t aliquot_flow_left_ns(uint64_t flow) { return flow >> 40 << 14; }
static inline uint64_t aliquot_flow_word(unsigned waiting, unsigned active, unsigned rings,
                                         uint32_t number, uint64_t left_ns) {
    uint64_t left = (left_ns + 16383u) >> 14;
    return (left < 0xffffffu ? left : 0xffffffu) << 40 | (uint64_t)(number & 0xffffu) << 24 |
           (uint64_t)(rings & 0x1fffu) << 11 | (uint64_t)(active & 1u) << 10 |
           (waiting < 0x3ffu ? waiting : 0x3ffu);
}

struct aliquot_usage {
    uint64_t magic;
    uint32_t abi;
    uint32_t size;               /* sizeof(struct aliquot_usage) */
    _Atomic uint32_t high_water; /* slots below it may be in use; only grows */
    uint32_t reserved0;
    _Atomic uint64_t reclaimed_ns; /* when a dead slot that held memory was last cleared */
    _Atomic uint64_t
        unknown_functions;       /* driver functions handed out that the shim does not know */
    _Atomic uint64_t lost_holds; /* times that shared memory could not be written down in `hold` */
    /* Of charges that pass from one slot to another: begun before, ended after. Who sums the words while
     * one passes may have met neither; see aliquot_charge_once(). */
    _Atomic uint64_t moves_begun, moves_ended;
    uint8_t reserved1[960];
    struct aliquot_usage_device device[ALIQUOT_MAX_DEVICES];
    struct aliquot_usage_time time[ALIQUOT_MAX_DEVICES];
    /* Charges, one word a process, side by side for each device: summing a slice reads
     * high_water consecutive words. Only the owner of a slot adds and subtracts, except that a
     * hold may move to another slot under the region's lock. */
    _Atomic uint64_t charge[ALIQUOT_MAX_DEVICES][ALIQUOT_MAX_SLOTS];
    struct aliquot_slot slot[ALIQUOT_MAX_SLOTS];
    struct aliquot_hold hold[ALIQUOT_MAX_HOLDS];
    /* What each process does on each device; written by the owner of the slot. */
    _Atomic uint64_t flow[ALIQUOT_MAX_DEVICES][ALIQUOT_MAX_SLOTS];
};
static_assert(offsetof(struct aliquot_usage, high_water) == 16, "usage layout");
static_assert(offsetof(struct aliquot_usage, reclaimed_ns) == 24, "usage layout");
static_assert(offsetof(struct aliquot_usage, device) == 1024, "usage layout");
static_assert(offsetof(struct aliquot_usage, charge) == 4096, "usage layout");
static_assert(offsetof(struct aliquot_usage, slot) == 4096 + 131072, "usage layout");
static_assert(offsetof(struct aliquot_usage, hold) == 4096 + 131072 + 65536, "usage layout");
static_assert(offsetof(struct aliquot_usage, time) == 2048, "usage layout");
static_assert(offsetof(struct aliquot_usage, flow) == 4096 + 131072 + 65536 + 65536,
              "usage layout");
static_assert(sizeof(struct aliquot_usage) == 4096 + 131072 + 65536 + 65536 + 131072,
              "usage layout");

/* Lock bytes of the file `usage`. They are names, not data. */
#define ALIQUOT_LOCK_SLOT(slot) ((int64_t)(slot))
#define ALIQUOT_LOCK_REGION ((int64_t)ALIQUOT_MAX_SLOTS)

/* What a region is made from. */
struct aliquot_region_device {
    uint8_t uuid[16];
    uint64_t cap;                   /* bytes or ALIQUOT_NO_CAP */
    uint64_t page_bytes;            /* power of two */
    uint64_t context_bytes;         /* 0 when unknown */
    uint32_t cores;                 /* percent of the device, 1 to 100: the cap */
    uint32_t enforcement;           /* enum aliquot_enforcement */
    uint32_t cores_min;             /* percent that are guaranteed, 0 to cores */
    uint32_t weight;                /* 1 to ALIQUOT_MAX_WEIGHT; 0 stands for 100 */
    int32_t priority;               /* within ALIQUOT_MAX_PRIORITY of 0 */
    uint32_t gate;                  /* ALIQUOT_GATE_*: before anybody shares out time */
    char label[ALIQUOT_NAME_BYTES]; /* what its vendor calls it, NUL-terminated; may be empty */
};

#define ALIQUOT_MAX_WEIGHT 10000u
#define ALIQUOT_MAX_PRIORITY 100
#define ALIQUOT_WINDOW_US 2000u /* unless it is set otherwise */

/* Creates `grant` (mode 0444) and `usage` (mode 0666, every block allocated) in the directory
 * `dirfd`, which must not hold them yet; both appear whole or not at all. Returns 0 or a negative
 * errno: -EEXIST, -ENOSPC, -EINVAL for a device_count or page size out of range, … */
int aliquot_region_create(int dirfd, const char *name, const struct aliquot_region_device *device,
                          uint32_t device_count);

/* Checks a file that was read whole into memory. Returns NULL when it is a region file of this ABI,
 * else a message (static storage) saying what is wrong: truncated, not such a file, another ABI. */
const char *aliquot_grant_check(const void *bytes, size_t size);
const char *aliquot_usage_check(const void *bytes, size_t size);

/* Whether the owner of `slot` lives, by the lock on the open file `usage_fd` (any access mode).
 * Returns 1, 0 or a negative errno. */
int aliquot_slot_alive(int usage_fd, uint32_t slot);

/* Clears a slot whose lock the caller holds (or knows to be free and guarded), passing on what
 * living processes still hold of its exported memory; that needs the region's lock. `usage_fd` -1:
 * it has no exported memory, and no lock is needed. */
void aliquot_slot_clear(int usage_fd, struct aliquot_usage *usage, uint32_t slot);

/* Clears the charges of a slot whose owner is dead; `usage_fd` is open for writing. Returns 1 when
 * it was cleared, 0 when its owner lives or it was empty, or a negative errno. `usage` is a
 * writable mapping of the whole file. The caller holds the region lock when others may be
 * attaching. */
int aliquot_slot_reclaim(int usage_fd, struct aliquot_usage *usage, uint32_t slot);

/* Around every passing of charges from one slot to another, until they are withdrawn from the old one. */
void aliquot_move_begin(struct aliquot_usage *usage);
void aliquot_move_end(struct aliquot_usage *usage);

/* Moves up to `charges` charges of the shared memory that `from` names to the slots of its other
 * living holders in the slice. Under the region's lock, and between the two above. The caller withdraws
 * them from the old slot, afterwards: the sum is never too small. */
void aliquot_hold_pass_on(int usage_fd, struct aliquot_usage *usage,
                          const struct aliquot_hold *from, uint32_t charges);

/* The holder of an entry has let go of the last one: leaves a note if nobody else holds the memory.
 * Under the region's lock. */
void aliquot_hold_end(struct aliquot_usage *usage, struct aliquot_hold *hold);

/* Takes the region's lock on the open file `usage_fd` (open for writing); waits at most
 * `timeout_ns`. Returns 0, -ETIMEDOUT or another negative errno. The lock goes with the open file
 * description or by aliquot_region_unlock. */
int aliquot_region_lock(int usage_fd, int64_t timeout_ns);
void aliquot_region_unlock(int usage_fd);

#endif
