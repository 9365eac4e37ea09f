/* What the files of the execution half share: operations, streams, fences, the engine.
 *
 * Two kinds of locks. A stream's `push_lock` orders those who queue work; the engine's lock guards
 * everything that carries work out (all fields marked E). push_lock is taken before the engine's,
 * never after it; an event's lock is taken last. No lock is held while foreign code runs.
 */
#ifndef ALIQUOT_SIM_EXEC_IMPL_H
#define ALIQUOT_SIM_EXEC_IMPL_H

#include <pthread.h>

#include "exec.h"
#include "sim.h"
#include "slots.h"
#include "timeline.h"

enum {
    SIM_STREAM_QUEUE = 1024,  /* operations a stream holds before it blocks who queues; 2^n */
    SIM_POLL_FIRST_NS = 5000, /* between looks at words that are waited for, growing to */
    SIM_POLL_LAST_NS = 1000000,
    SIM_INLINE_BYTES = 64 << 10, /* a copy up to this is done by whoever finds its turn come */
};
#define SIM_NEVER UINT64_MAX

/* ---- Operations ---------------------------------------------------------------------------- */

enum sim_op_kind {
    SIM_OP_NOTHING, /* takes its place in the order, and its time, and does nothing */
    SIM_OP_KERNEL,
    SIM_OP_RECORD, /* completes a fence */
    SIM_OP_WAIT,   /* waits for a fence */
    SIM_OP_COPY,   /* bytes from one address to another */
    SIM_OP_FILL,   /* bytes of one value */
    SIM_OP_JOB,    /* a copy or fill with rows: see struct sim_job */
    SIM_OP_WRITE,  /* writes a word */
    SIM_OP_POLL,   /* waits for a word */
    SIM_OP_SHARED, /* waits for another process's record */
    SIM_OP_CALL,   /* the driver's own function, called without locks */
    SIM_OP_HOST,   /* the application's function, on its own thread */
    SIM_OP_GRAPH,  /* a launch of a graph */
};

enum sim_op_flag {
    SIM_OP_FREE_SOURCE = 1,  /* COPY: the source is a staging buffer to be freed */
    SIM_OP_KNOWN_SOURCE = 2, /* COPY: the source was memory that the driver knows */
    SIM_OP_WORD_64 = 4,      /* WRITE, POLL: eight bytes, else four */
    SIM_OP_PRIORITY = 8,     /* KERNEL: has a priority of its own */
};

struct sim_fence;
struct sim_job;
struct sim_run;

/* One piece of queued work. It owns what it points to: carried out or dropped, it is released. */
struct sim_op {
    uint64_t queued_ns; /* CLOCK_MONOTONIC; it cannot start before */
    uint64_t ticket;    /* order of queueing within the process */
    uint64_t ns;        /* how long it takes */
    uint32_t sms;       /* processors it takes for `ns` of device time; 0: `ns` of real time */
    uint8_t kind;       /* enum sim_op_kind */
    uint8_t flags;      /* enum sim_op_flag */
    union {
        uint8_t width;   /* FILL: bytes of the value: 1, 2, 4 */
        uint8_t compare; /* POLL: CU_STREAM_WAIT_VALUE_{GEQ,EQ,AND,NOR} */
        uint8_t lane;    /* COPY, JOB, NOTHING with time but no processors: enum sim_lane */
    };
    uint8_t record; /* what it is for those who trace: enum sim_record_kind + 1; 0: by its kind */
    union {
        struct {
            CUdeviceptr dst, src;
            size_t bytes;
        } copy;
        struct {
            CUdeviceptr dst;
            size_t bytes;
            uint32_t value;
        } fill;
        struct sim_job *job;
        struct {
            CUdeviceptr ptr;
            uint64_t value;
        } word;
        struct {
            struct sim_shared_event *event;
            uint64_t number;
        } shared;
        struct {
            void (*fn)(void *arg);
            void *arg;
            /* cuStreamAddCallback's form, instead of fn */
            CUstreamCallback callback;
            CUstream handle;
        } call;
        struct {
            const char *name; /* lives as long as the process */
            int priority;     /* where SIM_OP_PRIORITY says so */
        } kernel;
        struct sim_fence *fence;
        struct sim_run *run;
    };
};
_Static_assert(sizeof(struct sim_op) == 64, "an operation fills a cache line");

/* A copy or fill of `depth` slices of `height` rows of `row_bytes` bytes. */
struct sim_job {
    uint8_t *dst;
    const uint8_t *src; /* NULL: fill with `value` of `width` bytes */
    size_t row_bytes, height, depth;
    size_t dst_pitch, dst_slice; /* bytes from row to row and from slice to slice */
    size_t src_pitch, src_slice;
    uint32_t value;
    uint8_t width;
    void *staging; /* malloc'ed source to be freed, or NULL */
};

/* A moment in a stream's order: what an event's record makes and others wait for. */
struct sim_fence {
    _Atomic uint32_t refs;
    _Atomic uint32_t done;     /* release by the engine after time_ns; acquire by who looks */
    uint64_t time_ns;          /* simulated time of completion; CLOCK_MONOTONIC's scale */
    struct sim_stream *stream; /* E: where it is queued, while it is not done, and after how */
    uint64_t position;         /* many operations of that it is completed */
    struct sim_item *waiters;  /* E */
    /* An interprocess event whose record it is, or NULL; set before it is queued. */
    struct sim_shared_event *shared;
    uint64_t number; /* of the record */
};

/* Completes a fence that nobody waits for yet, or whose waiters the engine sees to. */
void sim_fence_finish(struct sim_fence *fence, uint64_t time_ns);
struct sim_fence *sim_fence_new(void); /* NULL: no host memory; one reference */
void sim_fence_hold(struct sim_fence *fence);
void sim_fence_drop(struct sim_fence *fence); /* NULL is fine */
/* Pairs with the engine's release: time_ns may be read after. */
static inline bool sim_fence_done(const struct sim_fence *fence) {
    return atomic_load_explicit(&fence->done, memory_order_acquire) != 0;
}

/* ---- What the engine schedules ------------------------------------------------------------- */

enum sim_item_state {
    SIM_ITEM_IDLE,    /* nothing to do */
    SIM_ITEM_PENDING, /* to be looked at: on the work list */
    SIM_ITEM_FUTURE,  /* not before `ready_ns`: on the list of the future */
    SIM_ITEM_ORDERED, /* held by the legacy default stream's order */
    SIM_ITEM_FENCED,  /* on its fence's list */
    SIM_ITEM_POLLING, /* its word has not come yet */
    SIM_ITEM_QUEUED,  /* waits for processors: on its device's list */
    SIM_ITEM_RUNNING, /* on processors */
    SIM_ITEM_TIMED,   /* done at `end_ns` */
    SIM_ITEM_AWAY,    /* in the hands of a thread that will report */
};

/* One operation on its way: the head of a stream, or a node of a running graph. All E. */
struct sim_item {
    struct sim_item *next, *previous; /* in the list that its state names */
    struct sim_stream *stream;        /* whose head it is, or whose graph's node */
    struct sim_run *run;              /* NULL: the stream's head */
    struct sim_op *op;
    enum sim_item_state state;
    uint32_t node; /* index in run */
    int priority;  /* numerically lower goes first */
    CUdevice dev;
    bool effected;           /* its bytes have been moved */
    uint32_t sms;            /* RUNNING: processors it holds */
    uint64_t since_ns;       /* when nothing before it was left to be done */
    uint64_t start_ns;       /* TIMED: when it began; RUNNING: when it was let begin, */
    uint64_t begin_ns;       /* at this reading of the device's clock, and */
    uint64_t ran_ns;         /* when that went on from there; 0: it has not yet */
    struct sim_fence *fence; /* FENCED: whose list it is on */
    uint64_t ready_ns;
    uint64_t end_ns; /* TIMED: real time; RUNNING: reading of the device's clock */
    /* Graph nodes: device time that is certain to follow in the same run, and how long after the end
     * nothing but kernels happens. */
    uint64_t tail_ns, quiet_ns;
};

/* ---- Streams ------------------------------------------------------------------------------- */

struct sim_capture;
struct sim_graph_node;

/* Edges of a graph (graph.h): growing arrays, laid out as the driver's calls take and give them. */
struct sim_edges {
    struct sim_graph_node **node;
    CUgraphEdgeData *data;
    size_t count, room;
};

enum { SIM_STREAM_ATTRIBUTES = 6 };

enum sim_watch {
    SIM_WATCH_NONE,    /* nobody will look: let the engine advance */
    SIM_WATCH_KERNELS, /* kernels run till the device's horizon; more of them only move that */
    SIM_WATCH_ALL,     /* the engine will look in time, whatever comes */
};

struct sim_stream {
    uint32_t live; /* as slots.h says */
    uint32_t context_serial;
    struct sim_context *ctx;
    struct sim_exec *exec;
    _Atomic uint64_t id; /* unique in the process; 0 once it is gone. Release when that is so. */
    unsigned flags;      /* CU_STREAM_* */
    int priority;
    bool blocking; /* takes part in the legacy default stream's order */
    bool legacy;
    bool per_thread;
    /* Attributes, kept and given back: see stream_info.c; under push_lock. */
    CUlaunchAttributeValue attributes[SIM_STREAM_ATTRIBUTES];

    pthread_mutex_t push_lock;
    struct sim_op *queue; /* SIM_STREAM_QUEUE of them, made with the first queued operation */
    /* Counts of operations queued and completed. `tail`: release after the slot is written, pairs
     * with the engine's acquire. `head`: release after the effects, pairs with acquire by those
     * who find the stream idle or wait for room. */
    _Atomic uint64_t tail;
    _Atomic uint64_t head;
    /* Sequentially consistent fences on both sides of `tail` and `active`. */
    _Atomic uint32_t active; /* 1: with the engine, in `incoming` or its list */
    /* enum sim_watch: what who queues behind the head has to see to. Written under the engine's
     * lock; sequentially consistent with `tail`: either who queues reads the new value, or the
     * engine, which writes it before it reads `tail` again, finds what was queued. */
    _Atomic uint32_t watch;
    /* Written under the graph lock; NULL: work is carried out. Acquire-release, so that who sees
     * the end of a capture sees what it did. */
    _Atomic(struct sim_capture *) capture;
    struct sim_edges ends;            /* under the graph lock: what captured work depends on next */
    struct sim_stream *captured_next; /* under the graph lock: of the same capture */

    struct sim_stream *incoming;                 /* next in the engine's stack of newcomers */
    struct sim_stream *next, *previous;          /* E: the engine's list of active streams */
    struct sim_stream *sibling, *sibling_before; /* E: streams of the context */
    struct sim_item item;                        /* E: the head */
    uint64_t last_ns;    /* E: simulated time at which the last operation ended */
    uint64_t scanned;    /* E: operations up to here are known kernels, `scanned_ns` of them */
    uint64_t scanned_ns; /* E: between the head (not included) and `scanned` */
    bool destroyed;      /* E: goes when it is empty */
};

/* What a device allows a launch, read once a context. */
struct sim_launch_limits {
    uint32_t block[3], grid[3];
    uint32_t block_threads;
    bool cooperative, clusters;
};

/* A context's half here: ctx->exec. */
struct sim_exec {
    struct sim_context *ctx;
    const struct sim_device_config *config;
    CUdevice dev;
    uint32_t serial, owner_serial; /* of the context, and of the one whose memory it uses */
    struct sim_launch_limits limits;
    struct sim_stream *legacy;
    struct sim_exec *next;      /* E: of another context */
    struct sim_stream *streams; /* E: all of the context, default ones included, and those that
                                 * were destroyed with work left */
    /* Unfinished operations of streams that the legacy order concerns. Incremented before the
     * operation is queued; release decrement after it is done, acquire by those who find 0. */
    _Atomic uint64_t ordered;
    /* Streams of the legacy order that capture: work in the legacy default stream would depend on
     * them. Relaxed: a capture in another thread is the application's to order. */
    _Atomic uint32_t capturing;
    struct sim_fence *gate;   /* E: what streams that are made wait for first, or NULL */
    struct sim_item *blocked; /* E: items in state ORDERED */
    uint64_t blocked_ticket;  /* E: least ticket among them; SIM_NEVER: none */
    bool dying;               /* E: work is dropped instead of done */
};

static inline struct sim_exec *sim_exec_of(const struct sim_context *ctx) { return ctx->exec; }

static inline struct sim_op *sim_stream_slot(const struct sim_stream *stream, uint64_t position) {
    return &stream->queue[position & (SIM_STREAM_QUEUE - 1)];
}
/* E: operations completed. Relaxed: only the engine writes it. */
static inline uint64_t sim_stream_head(const struct sim_stream *stream) {
    return atomic_load_explicit(&stream->head, memory_order_relaxed);
}
/* E: operations queued. Acquire: pairs with the release of who queued; the slots are seen. */
static inline uint64_t sim_stream_tail(const struct sim_stream *stream) {
    return atomic_load_explicit(&stream->tail, memory_order_acquire);
}
/* Whether everything queued is done. Acquire: pairs with the engine's release; the effects are
 * seen. */
static inline bool sim_stream_empty(const struct sim_stream *stream) {
    return atomic_load_explicit(&stream->head, memory_order_acquire) ==
           atomic_load_explicit(&stream->tail, memory_order_acquire);
}

/* Relaxed: a number, valid as long as the caller knows the stream to be there. */
static inline uint64_t sim_stream_id(const struct sim_stream *stream) {
    return atomic_load_explicit(&stream->id, memory_order_relaxed);
}

/* Whether nothing that work queued now would have to wait for is unfinished. */
static inline bool sim_stream_idle(const struct sim_stream *stream) {
    if (!stream->blocking)
        return sim_stream_empty(stream);
    /* Acquire: pairs with the engine's release decrement. */
    if (stream->legacy)
        return atomic_load_explicit(&stream->exec->ordered, memory_order_acquire) == 0;
    return sim_stream_empty(stream) && sim_stream_empty(stream->exec->legacy);
}

/* Queues *op (kind, flags, ns, sms and the union filled in), which then owns its resources, also
 * on failure. Waits for room. Work whose turn has come may be carried out before this returns.
 * `position`, when not NULL, gets the stream's tail after it: what sim_stream_wait takes.
 * Errors: OUT_OF_MEMORY (host). */
CUresult sim_stream_submit(struct sim_stream *stream, struct sim_op *op, uint64_t *position);
/* Makes the further work of `stream` wait for what is queued in `other`.
 * Errors: OUT_OF_MEMORY (host). */
CUresult sim_stream_follow(struct sim_stream *stream, struct sim_stream *other);
/* Waits until the stream that had `id` has completed `position` operations, or is gone. */
void sim_stream_wait(struct sim_stream *stream, uint64_t id, uint64_t position);
/* Waits until a fence is done. */
void sim_fence_wait(struct sim_fence *fence);
/* Lets everything happen that is due. */
void sim_engine_poll(void);
/* Something was written that a stream may wait for. */
void sim_engine_written(void);
/* Calls the hooks of sim_exec_on_sync. */
void sim_exec_synced(CUdevice dev);
/* Releases what an operation owns, without doing it; a CALL is called. */
void sim_op_release(struct sim_op *op);

/* A stream of `ctx`, a valid handle; NULL: no host memory. */
struct sim_stream *sim_stream_make(struct sim_context *ctx, unsigned flags, int priority);
/* The same with the checks of cuStreamCreateWithPriority. Errors: INVALID_VALUE, OUT_OF_MEMORY. */
CUresult sim_stream_create(struct sim_context *ctx, CUstream *handle, unsigned flags, int priority);
/* Gives a stream's attributes their first values. */
void sim_stream_attributes_reset(struct sim_stream *stream);
/* Changes the priority of what starts from now on. */
void sim_stream_prioritise(struct sim_stream *stream, int priority);
/* Ends the handle; what is queued is still carried out. False: it was no handle any more. */
bool sim_stream_unmake(struct sim_stream *stream);
/* E: an ended stream has nothing queued any more: its struct may be used again. */
void sim_stream_recycle(struct sim_stream *stream);
/* The living stream behind a handle that is no special value, or NULL. Takes any value. */
struct sim_stream *sim_stream_find(CUstream handle);

/* Enters a call on a stream: the thread's current context, and the stream. Errors: those of
 * sim_enter and sim_stream_resolve. */
CUresult sim_stream_enter(CUstream handle, bool per_thread, struct sim_stream **stream);
/* The same for a call that queues or captures work. Errors: also STREAM_CAPTURE_IMPLICIT, when
 * work in the legacy default stream would have to wait for a stream that captures. */
CUresult sim_stream_enter_work(CUstream handle, bool per_thread, struct sim_stream **stream);
/* The same for a call that waits for, or asks after, the stream's work. Errors: also
 * STREAM_CAPTURE_UNSUPPORTED on a capturing stream, whose capture is then invalid, and where
 * sim_capture_unsafe forbids it. */
CUresult sim_stream_enter_sync(CUstream handle, bool per_thread, struct sim_stream **stream);
/* Waits for all that is queued in the stream, as cuStreamSynchronize does, without the hooks. */
void sim_stream_finish(struct sim_stream *stream);
/* Whether it is all done, as cuStreamQuery tells. */
bool sim_stream_finished(struct sim_stream *stream);

/* ---- The engine ---------------------------------------------------------------------------- */

/* A device as this process uses it. All E but the atomics. */
struct sim_engine_device {
    struct sim_timeline *timeline; /* NULL: not used yet */
    int entry;
    uint32_t sms;
    uint32_t sms_free;
    uint64_t run_ns; /* the clock at known_ns */
    uint64_t known_ns;
    uint64_t posted_ns;      /* reading of the clock up to which work has been announced, */
    uint32_t posted_sms;     /* and how many processors it takes */
    bool together;           /* processes run together: what they take counts */
    _Atomic uint32_t shared; /* others wanted it at the last look; relaxed, a hint */
    struct sim_knot *knots;  /* how the clock went, ascending; the last is (known_ns, run_ns) */
    uint32_t knot_count, knot_room;
    struct sim_item *queued;  /* by priority, readiness, ticket */
    struct sim_item *running; /* by end_ns */
    /* Real time at which the announced work will be over, as far as is known; 0: none. Relaxed:
     * who queues compares it with the clock, and errs to the side of a look too many. */
    _Atomic uint64_t horizon_ns;
    _Atomic uint64_t unfinished; /* operations queued on the device; ordered as sim_exec.ordered */
};

struct sim_engine {
    pthread_mutex_t lock;
    uint64_t time_ns;                      /* E: simulated time up to which all is done */
    uint64_t now_ns;                       /* E: real time of the look under way */
    _Atomic(struct sim_stream *) incoming; /* stack; release push, acquire exchange */
    struct sim_stream *active;             /* E */
    struct sim_item *work, *work_last;     /* E: PENDING, first in first out */
    struct sim_item *future;               /* E: by ready_ns */
    struct sim_item *timed;                /* E: by end_ns */
    struct sim_item *polling;              /* E */
    uint64_t poll_ns;                      /* E: present interval between looks at words */
    uint64_t poll_next_ns;                 /* E: when the next look is due */
    struct sim_engine_device devices[SIM_DEVICES_MAX]; /* by ordinal */
    /* When the engine's thread has to look by itself. It resets it to SIM_NEVER before it looks, so
     * that whoever needs it meanwhile sets a time anew. Lowered with release, read with acquire. */
    _Atomic uint64_t deadline_ns;
    _Atomic uint32_t bell;     /* futex: rung to make the engine's thread look at deadline_ns */
    _Atomic uint32_t progress; /* futex: changes when something was completed while waiters > 0 */
    uint32_t waiters;          /* E */
    _Atomic uint32_t words;    /* 1 while `polling` is not empty; relaxed, a hint for writers */
    _Atomic uint64_t tickets;  /* relaxed: numbers only */
};
extern struct sim_engine sim_engine;

static inline struct sim_engine_device *sim_item_device(const struct sim_item *item) {
    return &sim_engine.devices[item->dev];
}

static inline void sim_engine_lock(void) { pthread_mutex_lock(&sim_engine.lock); }
static inline void sim_engine_unlock(void) { pthread_mutex_unlock(&sim_engine.lock); }

uint64_t sim_now_ns(void); /* CLOCK_MONOTONIC */

/* Does everything that is due by the clock, in the order of simulated time. E; drops the lock
 * while driver functions are called. Answers the real time at which it has to be called again for
 * things to go on, SIM_NEVER if only a report or new work can change anything. */
uint64_t sim_engine_advance(void);
/* Sees to it that the engine's thread looks at `when_ns` at the latest. */
void sim_engine_need(uint64_t when_ns);
/* E: what an item in state AWAY had to do is done. Then the caller advances. */
void sim_engine_report(struct sim_item *item);
/* E: the item is to be looked at (again). */
void sim_engine_pend(struct sim_item *item);
/* E: the item of a dying context is looked at, and dropped, unless it is running. */
void sim_engine_drop(struct sim_item *item);
/* E: a fence is completed at `time_ns`. */
void sim_engine_complete_fence(struct sim_fence *fence, uint64_t time_ns);

/* exec_ahead.c: what is certain to come. All E. */

/* Reading of the device's clock up to which it has work for certain. */
uint64_t sim_device_foreseen(struct sim_engine_device *device);
/* Forgets what was found out about operations behind the head. */
void sim_stream_rescan(struct sim_stream *stream);
/* Ends a look: says for every stream who has to see to what is queued next, announces work to the
 * timelines, and answers in *need_ns when the engine has to look by itself. False when something
 * was queued meanwhile that changes the answer: the look goes on. */
bool sim_engine_settle(uint64_t *need_ns);
/* Takes back what was announced of a device's work and will not come. */
void sim_engine_retract(CUdevice dev);
/* Real time before which the stream will certainly not have completed `position` operations;
 * SIM_NEVER when its head waits for something else than time. */
uint64_t sim_stream_due(struct sim_stream *stream, uint64_t position);

static inline bool sim_engine_alone(const struct sim_engine_device *device) {
    return atomic_load_explicit(&device->shared, memory_order_relaxed) == 0;
}
/* While other processes want a device too: from time to time sees whether they still live. Answers
 * until when to sleep who would sleep till `until_ns`. Without locks. */
uint64_t sim_engine_sweep(uint64_t until_ns);

/* exec_clock.c: a device's clock, E. */
void sim_clock_open(struct sim_engine_device *device, CUdevice dev);
void sim_clock_look(struct sim_engine_device *device, uint64_t now_ns);
/* Announces work up to `run_ns` of the clock, wanted since real time `since_ns`, on as many
 * processors as kernels are running on. */
void sim_clock_post(struct sim_engine_device *device, uint64_t now_ns, uint64_t since_ns,
                    uint64_t run_ns);
uint64_t sim_clock_run_at(const struct sim_engine_device *device, uint64_t real_ns);
/* Real time at which the clock read `run_ns`; SIM_NEVER when it has not yet. */
uint64_t sim_clock_real_at(const struct sim_engine_device *device, uint64_t run_ns);
/* Real time at which it will, as far as is known. */
uint64_t sim_clock_predict(const struct sim_engine_device *device, uint64_t run_ns);
/* Forgets what lies before real time `real_ns`. */
void sim_clock_forget(struct sim_engine_device *device, uint64_t real_ns);

/* Real time at which the clock went on from `run_ns`; SIM_NEVER when it has not yet. */
uint64_t sim_clock_left_at(const struct sim_engine_device *device, uint64_t run_ns);

/* exec_record.c: keeps a record of an item that is done at `end_ns`. E. */
void sim_record_item(const struct sim_item *item, uint64_t end_ns);
/* Keeps a record of the calling thread's having waited on device `dev` since `since_ns`. */
void sim_record_block(CUdevice dev, const char *what, uint64_t since_ns);
/* A copy of a name that lives as long as the process; the same one for the same name. NULL: no host
 * memory. */
const char *sim_record_name(const char *name);

/* exec_thread.c: hands an item in state AWAY to the thread for copies or for host functions. E.
 * False: no thread could be made. */
bool sim_thread_copy(struct sim_item *item);
bool sim_thread_host(struct sim_item *item);
/* Whether the calling thread is in one of the application's host functions. */
extern _Thread_local bool sim_in_host_function __attribute__((tls_model("initial-exec")));
void sim_futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until_ns);
void sim_futex_wake(_Atomic uint32_t *word, int count);

/* stream_memop.c: the operation of one entry of a batch, and the checks of a whole batch.
 * Errors: INVALID_VALUE, NOT_SUPPORTED. */
CUresult sim_memop_op(const CUstreamBatchMemOpParams *given, struct sim_op *op);
CUresult sim_memop_check(const CUstreamBatchMemOpParams *ops, unsigned count, unsigned flags);

/* exec_effect.c: moves an operation's bytes, writes its word. False for a poll: not yet. */
bool sim_effect(const struct sim_op *op);
/* Bytes that the effect moves: whether it is worth a thread. */
size_t sim_effect_bytes(const struct sim_op *op);

/* ---- Graph runs (graph_run.c), called by the engine. All E. -------------------------------- */

/* The launch's turn has come: its first nodes are handed to the engine. */
void sim_run_start(struct sim_run *run, struct sim_item *item, uint64_t time_ns);
/* A node is done. True: it was the last, and the launch's own item is done at *end_ns. */
bool sim_run_node_done(struct sim_run *run, struct sim_item *item, uint64_t time_ns,
                       struct sim_item **launch, uint64_t *end_ns);
/* Drops what waits in a run of a dying context. */
void sim_run_pend(struct sim_run *run);
/* The fence of the executable's former launch, to be waited for, or NULL. */
struct sim_fence *sim_run_before(struct sim_run *run);

/* ---- Capture (exec_capture.c) -------------------------------------------------------------- */

/* Refuses, and invalidates the captures, when a stream of the context captures.
 * Errors: STREAM_CAPTURE_UNSUPPORTED. */
CUresult sim_capture_forbid_context(struct sim_exec *exec);
/* Invalidates the captures that work in the legacy default stream would depend on.
 * Errors: STREAM_CAPTURE_IMPLICIT. */
CUresult sim_capture_implicit(struct sim_exec *exec);
/* Refuses to wait for a stream or an event of a capture, which is then invalid.
 * Errors: STREAM_CAPTURE_UNSUPPORTED. */
CUresult sim_capture_forbid_stream(struct sim_stream *stream);
/* Invalidates the capture of a stream that is destroyed. */
void sim_capture_lose_stream(struct sim_stream *stream);
/* Ends the captures of a context that goes. */
void sim_capture_end_context(struct sim_exec *exec);

/* ---- Handles ------------------------------------------------------------------------------- */

/* Ends a handle of slots.h: false when it was not alive, as for the second of two threads that
 * destroy it at once. The slot stays readable until it is given back. */
static inline bool sim_handle_end(void *slot) {
    uint32_t alive = 1;
    /* Acquire-release: the one that wins sees all that was done before. */
    return __atomic_compare_exchange_n(&((struct sim_slot_head *)slot)->live, &alive, 0, false,
                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

#endif
