/* The state that all processes on one simulated node share: the node's configuration, who runs,
 * and which process holds which page of which device.
 *
 * A state is a directory with a file `state`, mapped by everybody, and one sparse file `vram<N>`
 * per device whose offsets are the device's physical memory. This file also compiles into the
 * Python binding (aliquot.sim._state), so it needs nothing of CUDA.
 *
 * What survives kill -9 at any instruction:
 * - a process is alive while its byte of `state` is locked (open file description lock, held by a
 *   mapping whose descriptor is closed);
 * - the frame words say who holds each page; every counter is derived from them and counted anew
 *   by whoever takes over the lock of a holder that died;
 * - locks name their holder's slot, so a waiter that finds the slot dead takes the lock over.
 */
#ifndef ALIQUOT_SIM_STATE_H
#define ALIQUOT_SIM_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "timeline.h"

enum {
    SIM_DEVICES_MAX = 16,
    SIM_SLOTS_MAX = 1024,   /* processes at a time, the dead ones not yet cleared included */
    SIM_GROUPS_MAX = 1024,  /* names of ALIQUOT_SIM_GROUP in the life of a state */
    SIM_SHARES_MAX = 65536, /* pieces of memory that are shared between processes */
    SIM_GROUP_NAME = 64,
    SIM_LIMITS_MAX = 1024,     /* cgroups with a limit on a device */
    SIM_PROCESSES_KEPT = 4096, /* the youngest, those that have ended too; 2^n */
    SIM_RECORDS_KEPT = 16384,  /* of what was done on a device, the youngest; 2^n */
    SIM_SLOT_NONE = 0xffffffff,
};

#define SIM_STATE_MAGIC UINT64_C(0x4d49532d544f5551) /* "QUOT-SIM" read as little-endian */
#define SIM_STATE_VERSION 6u

/* ---- Configuration: what the node file says, as plain numbers ------------------------------ */

/* Host-side cost of a call, in nanoseconds. */
enum sim_cost {
    SIM_COST_INIT,           /* first cuInit */
    SIM_COST_CONTEXT_CREATE, /* cuCtxCreate, first retain of a primary context */
    SIM_COST_ALLOC,          /* cuMemAlloc and its kin, arrays, cuMemCreate */
    SIM_COST_FREE,
    SIM_COST_ALLOC_ASYNC, /* cuMemAllocAsync, cuMemAllocFromPoolAsync */
    SIM_COST_FREE_ASYNC,
    SIM_COST_MEM_INFO, /* cuMemGetInfo */
    SIM_COST_MODULE_LOAD,
    SIM_COST_LAUNCH,
    SIM_COST_GRAPH_LAUNCH, /* per launch */
    SIM_COST_GRAPH_NODE,   /* per kernel node of a launch */
    SIM_COST_EVENT_RECORD, /* without timing */
    SIM_COST_EVENT_RECORD_TIMING,
    SIM_COST_EVENT_QUERY,
    SIM_COST_STREAM_WAIT_EVENT,
    SIM_COST_COPY,            /* per copy or memset call */
    SIM_COST_SYNC,            /* per synchronising call, beside the wait */
    SIM_COST_CONTEXT_DESTROY, /* cuCtxDestroy, last release of a primary context */
    SIM_COST_STREAM_CREATE,
    SIM_COST_STREAM_DESTROY,
    SIM_COST_EVENT_CREATE,
    SIM_COST_EVENT_DESTROY,
    SIM_COST_HOST_ALLOC, /* page-locked memory, registering included */
    SIM_COST_HOST_FREE,
    SIM_COST_MODULE_UNLOAD,
    SIM_COST_HOST_FUNC, /* cuLaunchHostFunc, cuStreamAddCallback */
    SIM_COST_MEM_OP,    /* cuStreamWaitValue, cuStreamWriteValue and batches of them */
    SIM_COST_NVML,      /* of every call of NVML's about a device */
    SIM_COST_CALL,      /* of every call of the driver's, beside its own */
    SIM_COST_COUNT,
};

/* Spends the host cost of a call, by waiting on the clock. */
void sim_cost_wait(uint64_t ns);

/* Whose device it is: each vendor's libraries show that vendor's devices alone. */
enum sim_vendor {
    SIM_VENDOR_NVIDIA,
    SIM_VENDOR_ASCEND,
    SIM_VENDOR_CAMBRICON,
};

/* One device. Bytes, nanoseconds, MHz; zero where a reading does not exist on the model. */
struct sim_device_config {
    char name[96];
    uint8_t uuid[16];
    uint32_t vendor;           /* enum sim_vendor */
    uint64_t memory;           /* what nvidia-smi calls total */
    uint64_t reserved;         /* NVML's reserved; memory - reserved is CUDA's total */
    uint64_t page_size;        /* a power of two; memory - reserved is a multiple of it */
    uint64_t context_bytes;    /* cost of a context, 1 KiB of stack a thread included */
    uint64_t pool_chunk;       /* least growth of a memory pool's reservation */
    uint64_t slice_ns;         /* time-slice between processes */
    uint64_t switch_ns;        /* from one process to another */
    uint64_t release_delay_ns; /* after the first look at a killed process until its memory goes */
    uint64_t kernel_ns;        /* device time of a kernel of one wave of blocks */
    uint64_t wave_ns;          /* and of each further wave */
    uint64_t host_copy_bytes_per_us;   /* pinned host memory from or to the device */
    uint64_t device_copy_bytes_per_us; /* inside the device; memsets */
    uint64_t peer_copy_bytes_per_us;   /* to another device over NVLink */
    uint64_t cost_ns[SIM_COST_COUNT];
    uint64_t l2_bytes;
    uint32_t sms;
    uint32_t mps;          /* processes run together instead of in turn */
    uint32_t copy_engines; /* 1 to SIM_COPY_ENGINES_MAX */
    uint32_t cc_major, cc_minor;
    uint32_t pci_domain, pci_bus, pci_device;
    uint32_t pci_id;   /* PCI device id, 0x20b0 */
    int32_t numa_node; /* -1: none */
    uint32_t clock_mhz, memory_clock_mhz, bus_width_bits;
    uint32_t power_watts;   /* limit */
    uint32_t link_mb_per_s; /* one NVLink, one direction */
    uint32_t nvlink_version;
    uint8_t links[SIM_DEVICES_MAX]; /* NVLinks to each other device; 0: only through PCIe */
};

struct sim_node_config {
    uint32_t device_count;
    uint32_t driver_version; /* as cuDriverGetVersion: 13000 */
    char name[64];           /* profile or file stem */
    uint32_t memory_limits;  /* the driver takes limits for cgroups */
    uint32_t trace;          /* what is done is recorded from the start */
    char driver_text[32];    /* as NVML and file names say the driver's release: 580.65.06 */
    struct sim_device_config devices[SIM_DEVICES_MAX];
};

/* ---- Locks --------------------------------------------------------------------------------- */

/* A lock between processes. `word`: 0 free, else holder's slot + 1, top bit: somebody waits. */
struct sim_lock {
    _Atomic uint32_t word;
};

struct sim_state; /* one process's view of a state */

/* Takes the lock; the caller has a slot. Returns true when its former holder died holding it: the
 * caller must put right what it guards. */
bool sim_lock_take(struct sim_state *state, struct sim_lock *lock);
/* The same without waiting, for what needs no putting right: false when somebody alive has it. */
bool sim_lock_try(struct sim_state *state, struct sim_lock *lock);
void sim_lock_drop(struct sim_state *state, struct sim_lock *lock);

/* ---- The mapped file ----------------------------------------------------------------------- */

/* A process. `status`: generation << 8 | enum sim_slot_status. FREE to LIVE by the holder of the
 * slot's byte lock, LIVE to DEAD and DEAD to FREE by whoever finds the byte unlocked. */
enum sim_slot_status { SIM_SLOT_FREE, SIM_SLOT_LIVE, SIM_SLOT_DEAD };
struct sim_slot {
    _Atomic uint64_t status;
    _Atomic uint32_t exiting; /* ended by itself: no release delay */
    uint32_t group;
    int32_t pid;            /* in its own pid namespace; for people, never for liveness */
    uint32_t process;       /* its number among all that ever were: see struct sim_process */
    uint64_t pid_namespace; /* inode of /proc/self/ns/pid; 0: there was no /proc */
    uint64_t start_ticks;   /* field 22 of /proc/self/stat: with both, the host finds its pid */
    /* Generation (its low half) << 32 | pid in the node's pid namespace; written by whoever in
     * that namespace found it first. Of another generation: not known yet. */
    _Atomic uint64_t host_pid;
    uint64_t
        cgroup; /* number of its cgroup's directory, when it began; 0: not known, or not asked */
    uint64_t dead_ns; /* CLOCK_MONOTONIC of the first look that found it dead */
    /* Its partition of each device, 0: none, or SIM_PARTITION_GONE. Relaxed: written under the
     * device's lock, or before the process does anything. */
    _Atomic uint32_t partition[SIM_DEVICES_MAX];
    _Atomic uint64_t managed[SIM_DEVICES_MAX]; /* of `frames`, managed memory; by the process */
    _Atomic uint64_t frames[SIM_DEVICES_MAX];  /* derived; written under the device's lock */
};

struct sim_group {
    char name[SIM_GROUP_NAME];
    uint64_t used[SIM_DEVICES_MAX]; /* frames; derived; under the device's lock */
    uint64_t max[SIM_DEVICES_MAX];  /* most ever; under the device's lock */
};

/* A frame's word: SIM_FRAME_OWNER holder's slot + 1, or 0 when free; SIM_FRAME_SHARE number of the
 * share it belongs to + 1, or 0 when private; SIM_FRAME_TOUCHED: may hold bytes that are not zero.
 * All but the last bit change under the device's lock. */
#define SIM_FRAME_OWNER UINT32_C(0x000007ff)
#define SIM_FRAME_TOUCHED UINT32_C(0x00000800)
#define SIM_FRAME_SHARE_SHIFT 12
#define SIM_FRAME_NOBODY UINT32_C(0x7ff) /* kept alive by an exported descriptor only */

/* What is known of a process, also when it has ended. Process n is in processes[n %
 * SIM_PROCESSES_KEPT], while `number` says so; numbers begin with 1. By itself, when it begins. */
struct sim_process {
    _Atomic uint32_t number; /* release after the rest, acquire before it is read */
    int32_t pid;             /* in its own pid namespace */
    uint32_t group;          /* of ALIQUOT_SIM_GROUP */
    char command[16];        /* as the kernel calls it */
    char container[64];      /* empty: in none */
};

/* What was done on a device, once it is over; kept while somebody traces. Times are of
 * CLOCK_MONOTONIC. */
enum sim_record_kind {
    SIM_RECORD_KERNEL,
    SIM_RECORD_COPY, /* also within the device, and then on processors */
    SIM_RECORD_FILL,
    SIM_RECORD_GRAPH, /* a launch of a graph, from its first node to its last */
    SIM_RECORD_HOST,  /* a function of the application's, in stream order */
    SIM_RECORD_WAIT,  /* a stream waited for an event or a word */
    SIM_RECORD_BLOCK, /* a thread of the application waited for the device */
    SIM_RECORD_KINDS,
};
enum { SIM_RECORD_NODE = 1 }; /* flag: a node of a graph */
struct sim_record {
    _Atomic uint64_t sequence; /* its number + 1, once all of it is there; else anything else */
    uint64_t queued_ns;        /* when it was launched */
    uint64_t since_ns;         /* when nothing before it was left to be done */
    uint64_t start_ns, end_ns; /* when it ran */
    uint64_t bytes;            /* COPY, FILL */
    uint64_t stream;           /* number in the process; BLOCK: the thread's */
    uint32_t process;
    uint32_t sms; /* processors that it took */
    uint8_t kind; /* enum sim_record_kind */
    uint8_t flags;
    uint8_t lane;  /* COPY without processors: enum sim_lane */
    char name[61]; /* cut, always with its end */
};
_Static_assert(sizeof(struct sim_record) == 128, "records fill two cache lines");

enum sim_share_status { SIM_SHARE_FREE, SIM_SHARE_BUILDING, SIM_SHARE_LIVE };
enum sim_share_kind {
    SIM_SHARE_IPC,
    SIM_SHARE_VMM,
    SIM_SHARE_HOST,      /* host memory: a file `share-…` of the state's directory */
    SIM_SHARE_POOL,      /* an exported pool; owns no memory itself */
    SIM_SHARE_MULTICAST, /* owns no memory either */
};

/* Memory that several processes may hold: exported by IPC handle, by descriptor, or by a pool.
 * It lives while `holders` has a bit or a descriptor that was exported is open anywhere; its
 * frames' owner is `owner`. Guarded by the device's lock, by the table lock where there is no
 * device; numbers are given out under the table lock. */
struct sim_share {
    _Atomic uint64_t status; /* nonce << 2 | enum sim_share_status */
    uint32_t kind;           /* enum sim_share_kind */
    uint32_t device;         /* SIM_DEVICES_MAX: none */
    uint32_t owner;          /* slot that is charged, or SIM_SLOT_NONE */
    uint32_t first_frame;    /* SIM_SLOT_NONE: scattered, found by the frames' words */
    uint64_t frames;
    uint64_t bytes;
    uint32_t exported;  /* descriptors were made: whether one is open, locks on its file tell */
    uint32_t detail[4]; /* the kind's own: location of VMM memory, devices of a multicast team */
    uint32_t pad;
    _Atomic uint64_t holders[SIM_SLOTS_MAX / 64]; /* by slot */
};

/* Faults that were injected, for whoever waits for events of the driver. */
enum { SIM_FAULTS_MAX = 64, SIM_STANDING_MAX = 64 };
struct sim_fault {
    uint32_t device;
    uint32_t code;     /* the vendor's: an XID of NVIDIA's */
    uint32_t severity; /* the vendor's */
    uint32_t cleared;  /* it is over: devices of other vendors keep faults until they are told so */
};

/* A hardware or driver partition of a device (vNPU, sMLU). It outlives whoever made it. */
enum { SIM_PARTITIONS_MAX = 32 };
struct sim_partition {
    /* As the vendor numbers it; 0: there is none. Written last, release, and taken away first. */
    _Atomic uint32_t id;
    uint32_t kind;  /* the vendor's own: number of a template or profile */
    uint32_t cores; /* the vendor's own: AI cores, percent */
    uint32_t detail[3];
    uint64_t memory; /* bytes */
    char name[100];  /* the vendor's own: of the template, of the instance */
};

/* What only Cambricon's devices have. Profiles are sizes of shares that were asked for, by their
 * number, under the device's lock. */
enum { SIM_MLU_PROFILES_MAX = 64 };
struct sim_mlu_profile {
    uint32_t exists;
    uint32_t quota; /* percent of the device */
    uint64_t bytes;
};
struct sim_mlu {
    _Atomic uint32_t mode;    /* who may compute on it, as the driver counts; relaxed */
    _Atomic uint32_t no_smlu; /* shares are switched off; relaxed */
    _Atomic uint32_t
        mim; /* its partitions are the hardware's (MIM), and there are no shares; relaxed */
    struct sim_mlu_profile profiles[SIM_MLU_PROFILES_MAX];
};

/* What the processes of a cgroup may hold of a device, managed memory left out. */
#define SIM_LIMIT_NONE UINT64_MAX
struct sim_limit {
    uint64_t cgroup;     /* number of its directory; 0: no limit */
    uint64_t soft, hard; /* bytes; the soft one is only kept and told */
};

struct sim_device_state {
    struct sim_lock lock;
    uint32_t frame_count;
    uint64_t frames_offset;       /* in the file: frame_count words */
    uint64_t bitmap_offset;       /* in the file: a bit per frame, 1 free; derived */
    _Atomic uint64_t free_frames; /* derived; written under the lock */
    uint32_t free_hint;           /* no free frame below it; derived */
    uint32_t descriptors;         /* perhaps some shares live by descriptors only; under the lock */
    uint32_t limit_high;          /* limits at and above it were never set */
    uint32_t standing_count;      /* of `standing`, under table_lock */
    struct sim_fault standing[SIM_STANDING_MAX]; /* faults that are not over, under table_lock */
    struct sim_partition partitions[SIM_PARTITIONS_MAX]; /* under the lock */
    struct sim_mlu mlu;
    struct sim_limit limits[SIM_LIMITS_MAX]; /* under the lock */
    struct sim_timeline timeline;
    _Atomic uint64_t record_count;               /* ever; relaxed: gives numbers out */
    struct sim_record records[SIM_RECORDS_KEPT]; /* record n is in records[n % that] */
};

struct sim_state_header {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes; /* sizeof of this: another build's layout is refused */
    uint64_t file_bytes;
    uint8_t id[16];         /* of this state: handles of another one are refused */
    uint64_t pid_namespace; /* of the node's maker: pids in it are what NVML calls pids */
    char container[64];     /* in which the node was made, or empty */
    struct sim_node_config node;
    struct sim_lock sweep_lock; /* one process at a time clears up after the dead */
    struct sim_lock table_lock; /* groups, the shares' numbers, shares without a device */
    uint32_t group_count;
    _Atomic uint32_t slot_high;  /* slots at and above it were never used */
    _Atomic uint32_t share_high; /* the same of shares */
    _Atomic uint32_t share_hint; /* where to look for a free one first */
    uint32_t pad;
    _Atomic uint64_t next_id; /* serial numbers that are unique on the node */
    /* Faults ever injected, a futex; fault n is in faults[n % SIM_FAULTS_MAX], under table_lock. */
    _Atomic uint32_t fault_count;
    _Atomic uint32_t tracing; /* records are kept; relaxed: begins soon after it is said */
    _Atomic uint32_t process_count;
    uint32_t pad1;
    struct sim_fault faults[SIM_FAULTS_MAX];
    struct sim_group groups[SIM_GROUPS_MAX];
    struct sim_slot slots[SIM_SLOTS_MAX];
    struct sim_process processes[SIM_PROCESSES_KEPT];
    struct sim_share shares[SIM_SHARES_MAX];
    struct sim_device_state devices[SIM_DEVICES_MAX];
    /* Words for IPC events and whatever else execution shares; zero at first. */
    _Alignas(64) uint8_t exec[1 << 20];
};

/* One process's view. `header` and `vram[d]` are shared mappings (not inherited by fork). */
struct sim_state {
    struct sim_state_header *header;
    const struct sim_node_config *node;
    uint32_t slot; /* own slot */
    uint32_t mode; /* of the node's files, and of those made in it */
    char directory[4096];
    uint8_t *vram[SIM_DEVICES_MAX]; /* NULL unless asked for at opening */
    uint8_t *window;                /* address range that holds all of vram, or NULL */
    unsigned window_shift;          /* vram[d] == window + (d << window_shift) */
};

/* ---- The node as programs find it ----------------------------------------------------------- */

/* The folder of the node: ALIQUOT_SIM, or where containers have theirs. In the latter a program
 * sees the devices whose files it can open, as with a real driver: *by_file (may be NULL). */
const char *sim_node_folder(bool *by_file);
/* How many of the vendor's devices come before a device of the node: the number in its file's name. */
uint32_t sim_node_minor(const struct sim_node_config *node, uint32_t device);
/* Whether the file of a device can be opened: /dev/nvidia<minor>, or as its vendor calls it. */
bool sim_node_openable(const struct sim_node_config *node, uint32_t device);
/* Order of PCI addresses. */
uint64_t sim_node_pci_key(const struct sim_device_config *device);
enum { SIM_UUID_TEXT = 48 };
/* A UUID as NVIDIA writes it: GPU-01234567-89ab-... */
void sim_node_uuid(const uint8_t uuid[16], char text[SIM_UUID_TEXT]);
/* The driver's version that the node in a folder says, without opening it; 0: no node there. */
uint32_t sim_node_driver_version(const char *directory);

/* ---- Making and opening -------------------------------------------------------------------- */

/* Makes `state` and the vram files in an existing, empty directory. Returns 0 or an errno value
 * with one line in `why`. `mode`: of the files, 0600 or, for a node of several users, 0666. */
int sim_state_create(const char *directory, const struct sim_node_config *node, uint32_t mode,
                     char *why, size_t why_bytes);
/* Maps a state and takes a slot in it, tagged with `group` (NULL: ""). With `vram`, the devices'
 * memory is mapped too. A state of another version, layout or size is refused.
 * Returns 0 or an errno value with one line in `why`. */
int sim_state_open(const char *directory, const char *group, bool vram, struct sim_state **state,
                   char *why, size_t why_bytes);
/* Gives up the slot and all it holds at once, and unmaps. */
void sim_state_close(struct sim_state *state);

/* ---- Processes ----------------------------------------------------------------------------- */

/* Looks for processes that died and descriptors that were closed, and frees what they held and
 * the release delay no longer covers. With `wait`, another process's sweep is waited for and done
 * again; else it suffices. Returns true when anything was freed. */
bool sim_state_sweep(struct sim_state *state, bool wait);
/* The status word of a slot, to be kept and given to sim_slot_alive. */
uint64_t sim_slot_status(const struct sim_state *state, uint32_t slot);
/* Whether the process that had this status is still alive. A few microseconds. */
bool sim_slot_alive(struct sim_state *state, uint32_t slot, uint64_t status);

/* The pid that NVML tells of a living slot's process: in the pid namespace of the node's maker (the
 * host). Who looks from there finds it in /proc and leaves it for all others to read; who looks
 * from another namespace before that gets the pid that it sees itself, else the one that the
 * process has in its own namespace. 0: the process is gone, or hidden from the host's reader. */
int32_t sim_slot_host_pid(struct sim_state *state, uint32_t slot);

/* Injects a fault, or says that one is over: everybody who waits for events is woken. */
void sim_state_inject(struct sim_state *state, const struct sim_fault *fault);
/* Copies the faults of a device that are not over; returns how many. */
uint32_t sim_state_standing(struct sim_state *state, uint32_t device,
                            struct sim_fault out[SIM_STANDING_MAX]);

/* ---- Partitions (state_partition.c), under the device's lock --------------------------------- */

/* The partition of that id, or NULL. */
struct sim_partition *sim_partition_find(struct sim_state *state, uint32_t device, uint32_t id);
/* Adds one, whose id is not taken. False: there is room for no more. */
bool sim_partition_add(struct sim_state *state, uint32_t device, const struct sim_partition *made);
/* Takes one away. False: there is none of that id. */
bool sim_partition_remove(struct sim_state *state, uint32_t device, uint32_t id);
/* What all partitions of a device have together; returns how many there are. */
uint32_t sim_partition_sum(struct sim_state *state, uint32_t device, struct sim_partition *sum);

/* ---- Who is in which partition (state_member.c) ---------------------------------------------- */

enum { SIM_PARTITION_GONE = 0xffffffff }; /* of a process: it was destroyed */
/* The process belongs to that partition of a device from now on (0: to none). */
void sim_partition_enter(struct sim_state *state, uint32_t device, uint32_t id);
/* The process belongs to the partition whose device file it can open, as in a container; it is done
 * when a state is opened. */
void sim_partition_join(struct sim_state *state);
/* Path of the device file by which a partition is used; empty: its vendor has none. */
enum { SIM_PARTITION_FILE = 100 };
void sim_partition_file(const struct sim_node_config *node, uint32_t device, uint32_t id,
                        char path[SIM_PARTITION_FILE]);
/* The device time that a partition's processes had in the last second, in thousandths. */
uint32_t sim_partition_permille(struct sim_state *state, uint32_t device, uint32_t id);

/* Under the device's lock: bytes that a partition's processes hold, the dead ones that are not
 * cleared too; and its processes are in none that is there any more. */
uint64_t sim_partition_held(struct sim_state *state, uint32_t device, uint32_t id);
void sim_partition_expel(struct sim_state *state, uint32_t device, uint32_t id);

/* ---- Frames (bytes are pages here) --------------------------------------------------------- */

struct sim_frame_run { /* physically contiguous pages */
    uint32_t first;
    uint32_t count;
};
/* Pages of a device, ascending. One run, the usual case, needs no memory of its own. */
struct sim_frames {
    uint32_t run_count;
    uint32_t run_room;
    uint64_t frames;
    bool managed; /* of managed memory, which no cgroup's limit counts */
    struct sim_frame_run one;
    struct sim_frame_run *runs; /* malloc'ed, or NULL: `one` */
};
static inline const struct sim_frame_run *sim_frames_runs(const struct sim_frames *frames) {
    return frames->runs ? frames->runs : &frames->one;
}

/* Takes `count` pages of a device for the own slot: one run where there is one, else as many as
 * needed, and as the limit of the process's cgroup allows. When there are too few, the dead are cleared up after and it is tried once more.
 * Errors: false, nothing is taken then (too few pages, or no host memory). */
bool sim_frames_take(struct sim_state *state, uint32_t device, uint64_t count,
                     struct sim_frames *frames);
/* The same for managed memory. */
bool sim_frames_take_managed(struct sim_state *state, uint32_t device, uint64_t count,
                             struct sim_frames *frames);
/* Gives private pages back, zeroing those that may have been written, and empties `frames`. */
void sim_frames_give(struct sim_state *state, uint32_t device, struct sim_frames *frames);
/* Appends `more` to `frames` (kept ascending within each take only). False: no host memory. */
bool sim_frames_append(struct sim_frames *frames, struct sim_frames *more);
/* Cuts the last `count` pages off into `tail`. False: no host memory. */
bool sim_frames_cut(struct sim_frames *frames, uint64_t count, struct sim_frames *tail);
/* Frees the list, not the pages. */
void sim_frames_forget(struct sim_frames *frames);

static inline _Atomic uint32_t *sim_frame_words(const struct sim_state *state, uint32_t device) {
    return (_Atomic uint32_t *)(void *)((uint8_t *)state->header +
                                        state->header->devices[device].frames_offset);
}
/* Says that a page may have been written. */
static inline void sim_frame_touch(_Atomic uint32_t *word) {
    /* Relaxed: it is read by the owner's give-back, which the owner orders after its writes, and
     * by a dead owner's successor, whom the kernel orders. */
    if (!(atomic_load_explicit(word, memory_order_relaxed) & SIM_FRAME_TOUCHED))
        atomic_fetch_or_explicit(word, SIM_FRAME_TOUCHED, memory_order_relaxed);
}

/* ---- Shares -------------------------------------------------------------------------------- */

/* Which share, and that it is still the same one. */
struct sim_share_name {
    uint32_t number;
    uint32_t device; /* SIM_DEVICES_MAX: none */
    uint64_t nonce;  /* 0: no share */
};

/* Makes a share that the own slot holds, of `frames` (NULL: none), which belong to it from now on.
 * False: all SIM_SHARES_MAX are taken. */
bool sim_share_make(struct sim_state *state, uint32_t device, enum sim_share_kind kind,
                    const struct sim_frames *frames, uint64_t bytes, const uint32_t detail[4],
                    struct sim_share_name *name);
/* Takes part in a share (again: once per process; the process counts its own uses). False when it
 * is gone. */
bool sim_share_hold(struct sim_state *state, const struct sim_share_name *name);
/* The process's last use is gone. The frames go on to another holder, or are freed. */
void sim_share_drop(struct sim_state *state, const struct sim_share_name *name);
/* The pages of a held share, in the order of its addresses. False: no host memory. */
bool sim_share_frames(struct sim_state *state, const struct sim_share_name *name,
                      struct sim_frames *frames);
/* A new descriptor that stands for a held share: it keeps the share alive while it is open
 * anywhere. -1 and errno. */
int sim_share_export(struct sim_state *state, const struct sim_share_name *name);
/* The share that a descriptor stands for. False when it is not one of this state's. */
bool sim_share_identify(struct sim_state *state, int descriptor, struct sim_share_name *name);
/* The record of a held share: kind, bytes and detail do not change. */
static inline struct sim_share *sim_share_record(struct sim_state *state,
                                                 const struct sim_share_name *name) {
    return &state->header->shares[name->number];
}
/* Opens the file that stands for a share, made when it is missing. -1 and errno. */
int sim_share_file(const struct sim_state *state, const struct sim_share_name *name);
/* Path of the file that stands for a share in the state's directory. */
void sim_share_path(const struct sim_state *state, const struct sim_share_name *name, char *path,
                    size_t path_bytes);

/* ---- Limits of cgroups (state_limit.c) ------------------------------------------------------- */

/* Number of a cgroup's directory, given by its path in a cgroup v2 file system. 0 or an errno value. */
int sim_cgroup_id(const char *path, uint64_t *id);
/* Sets the limits of a group, or clears them (soft 0, hard SIM_LIMIT_NONE). False: no room. */
bool sim_limit_set(struct sim_state *state, uint32_t device, const struct sim_limit *limit);
/* What is set for a group, and the bytes that count for it. False: nothing is set. */
bool sim_limit_read(struct sim_state *state, uint32_t device, uint64_t cgroup,
                    struct sim_limit *limit, uint64_t *used);
/* The same of the process's own group; false also when it has no hard limit. */
bool sim_limit_own(struct sim_state *state, uint32_t device, struct sim_limit *limit,
                   uint64_t *used);

/* ---- What was done (state_record.c) ---------------------------------------------------------- */

/* Whether somebody wants records. Relaxed: see the field. */
static inline bool sim_tracing(const struct sim_state *state) {
    return atomic_load_explicit(&state->header->tracing, memory_order_relaxed) != 0;
}
/* Lets records be kept from now on. */
void sim_state_trace(struct sim_state *state);
/* Keeps a record of the calling process; `sequence` and `process` are filled in. `name`: NULL is the
 * empty one. */
void sim_state_record(struct sim_state *state, uint32_t device, const struct sim_record *record,
                      const char *name);
/* Reads up to `room` records of a device from number *first on; *first becomes the number after the
 * last one read. *lost grows by how many were not kept. One that is just being written ends the
 * reading, unless `skip` gives it up as lost. Answers how many were read. */
uint32_t sim_state_records(struct sim_state *state, uint32_t device, uint64_t *first,
                           struct sim_record *records, uint32_t room, bool skip, uint64_t *lost);
/* Turns of a device, as sim_timeline_turns tells them, up to now. */
uint32_t sim_state_turns(struct sim_state *state, uint32_t device, uint64_t *first,
                         struct sim_turn *turns, uint32_t room, uint64_t *lost);
/* How many turns and records of a device there have ever been, up to now. */
void sim_state_recorded(struct sim_state *state, uint32_t device, uint64_t *turns,
                        uint64_t *records);
/* What is known of a process by its number. False: too long ago. */
bool sim_state_process(struct sim_state *state, uint32_t number, struct sim_process *process);
/* Group of a process that is known, as a text. */
const char *sim_state_group(const struct sim_state *state, uint32_t group);

/* ---- Truth --------------------------------------------------------------------------------- */

struct sim_truth_process {
    int32_t pid;
    uint32_t slot;
    uint32_t dead; /* killed, not yet released */
    char group[SIM_GROUP_NAME];
    uint64_t bytes[SIM_DEVICES_MAX];
    uint64_t ran_ns[SIM_DEVICES_MAX]; /* device time that it has had */
};
struct sim_truth_group {
    char name[SIM_GROUP_NAME];
    uint64_t used_bytes[SIM_DEVICES_MAX];
    uint64_t max_used_bytes[SIM_DEVICES_MAX];
};
struct sim_truth {
    uint32_t device_count, process_count, group_count;
    uint64_t total_bytes[SIM_DEVICES_MAX];
    uint64_t free_bytes[SIM_DEVICES_MAX];
    uint64_t reserved_bytes[SIM_DEVICES_MAX];
    uint64_t busy_ns[SIM_DEVICES_MAX];     /* that kernels of anybody ran */
    uint64_t switched_ns[SIM_DEVICES_MAX]; /* that went to switches between processes */
    struct sim_truth_process processes[SIM_SLOTS_MAX];
    struct sim_truth_group groups[SIM_GROUPS_MAX];
};
/* Sweeps, then reads everything, each device under its lock. */
void sim_state_truth(struct sim_state *state, struct sim_truth *truth);

#endif
