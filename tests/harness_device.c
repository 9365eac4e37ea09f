/* The model of a device: streams in order, the kernels of one process one after another, processes
 * round robin, a slice at a time, with a cost for each switch. See harness.h. */
#include "harness.h"

#include <stdlib.h>
#include <string.h>

enum { RING = 2048 };

/* A kernel, or (`event` not NULL) a mark. */
struct op {
    uint64_t left_ns, arrived;
    const bool *flag;
    struct event *event;
};

struct stream {
    struct op *ring;
    uint64_t head, tail;
    uint64_t kernels; /* pending */
    struct task *waiter;
    uint64_t waits_for;
};

struct context {
    unsigned device, container;
    struct stream stream[STREAMS];
    bool used;
};

static struct gpu {
    struct gpu_settings settings;
    struct context contexts[CONTEXTS];
    unsigned count;
    struct context *holder;
    uint64_t now_ns;       /* the model has gone up to here */
    uint64_t slice_end_ns; /* of the holder */
    uint64_t switch_end_ns;
    uint64_t busy_ns[CONTEXTS], idle_ns;
    uint64_t idle_from_ns, longest_idle_ns; /* idle_from_ns 0: it is not idle */
    uint64_t arrivals, tick_ns;
} gpus[DEVICES];

static struct event *free_events;

void gpu_init(unsigned device, const struct gpu_settings *settings) {
    memset(&gpus[device], 0, sizeof gpus[device]);
    gpus[device].settings = *settings;
}

struct context *gpu_context(unsigned device, unsigned container) {
    struct gpu *gpu = &gpus[device];
    if (gpu->count == CONTEXTS)
        abort();
    struct context *context = &gpu->contexts[gpu->count++];
    *context = (struct context){.device = device, .container = container, .used = true};
    return context;
}

/* The next kernel of a context: the one that came first among the heads of its streams. Marks at
 * heads are reached on the way. */
static struct stream *next_of(struct context *context, uint64_t now) {
    struct stream *best = NULL;
    for (unsigned i = 0; i < STREAMS; i++) {
        struct stream *stream = &context->stream[i];
        while (stream->head != stream->tail && stream->ring[stream->head % RING].event) {
            struct event *event = stream->ring[stream->head++ % RING].event;
            event->reached = true;
            event->at_ns = now;
        }
        if (stream->head == stream->tail)
            continue;
        if (!best ||
            stream->ring[stream->head % RING].arrived < best->ring[best->head % RING].arrived)
            best = stream;
    }
    return best;
}

static struct context *turn_after(struct gpu *gpu, const struct context *context, uint64_t now) {
    unsigned start = context ? (unsigned)(context - gpu->contexts) + 1 : 0;
    for (unsigned i = 0; i < gpu->count; i++) {
        struct context *other = &gpu->contexts[(start + i) % gpu->count];
        if (other->used && next_of(other, now))
            return other;
    }
    return NULL;
}

static void finish(struct stream *stream, uint64_t now) {
    stream->head++;
    stream->kernels--;
    if (stream->waiter && stream->kernels <= stream->waits_for)
        task_wake(stream->waiter, now);
}

/* An idle stretch is over, or looked at. */
static void note_idle(struct gpu *gpu) {
    uint64_t from_ns = gpu->idle_from_ns;
    if (from_ns && from_ns < gpu->settings.settled_ns)
        from_ns = gpu->settings.settled_ns;
    if (from_ns && gpu->now_ns > from_ns && gpu->now_ns - from_ns > gpu->longest_idle_ns)
        gpu->longest_idle_ns = gpu->now_ns - from_ns;
    gpu->idle_from_ns = 0;
}

/* Goes on to `now`; returns when something happens next. */
static uint64_t advance(struct gpu *gpu, uint64_t now) {
    /* A task may have been here a little before its time. */
    if (now < gpu->now_ns)
        now = gpu->now_ns;
    for (;;) {
        struct context *holder = gpu->holder;
        struct stream *stream = holder && holder->used ? next_of(holder, gpu->now_ns) : NULL;
        if (!stream || gpu->now_ns >= gpu->slice_end_ns) {
            struct context *next = turn_after(gpu, holder, gpu->now_ns);
            if (!next) {
                if (!gpu->idle_from_ns)
                    gpu->idle_from_ns = gpu->now_ns + 1;
                gpu->idle_ns += now - gpu->now_ns;
                gpu->now_ns = now;
                return UINT64_MAX;
            }
            if (next != holder)
                gpu->switch_end_ns = gpu->now_ns + gpu->settings.switch_ns;
            gpu->holder = next;
            gpu->slice_end_ns = gpu->now_ns + gpu->settings.slice_ns;
            continue;
        }
        note_idle(gpu);
        if (gpu->now_ns < gpu->switch_end_ns) {
            if (now < gpu->switch_end_ns) {
                gpu->now_ns = now;
                return gpu->switch_end_ns;
            }
            gpu->now_ns = gpu->switch_end_ns;
        }
        struct op *op = &stream->ring[stream->head % RING];
        uint64_t end_ns = gpu->slice_end_ns;
        bool waits = op->flag && !*op->flag;
        if (!waits && gpu->now_ns + op->left_ns < end_ns)
            end_ns = gpu->now_ns + op->left_ns;
        if (end_ns < gpu->now_ns)
            end_ns = gpu->now_ns;
        uint64_t until = end_ns < now ? end_ns : now;
        uint64_t ran = until - gpu->now_ns;
        gpu->busy_ns[holder->container] += ran;
        op->left_ns -= ran < op->left_ns ? ran : op->left_ns;
        gpu->now_ns = until;
        if (!op->left_ns && !waits) {
            finish(stream, gpu->now_ns);
            next_of(holder, gpu->now_ns);
            continue;
        }
        if (gpu->now_ns == now && now < end_ns)
            return end_ns;
        if (gpu->now_ns == now && waits)
            return gpu->slice_end_ns > now ? gpu->slice_end_ns : now + 1000;
    }
}

static void tick(void *argument);

static void look(struct gpu *gpu) {
    uint64_t now = clock_now(), next = advance(gpu, now);
    if (next == UINT64_MAX || (next == gpu->tick_ns && next > now))
        return;
    gpu->tick_ns = next;
    clock_at(next, tick, gpu);
}

static void tick(void *argument) {
    struct gpu *gpu = argument;
    if (gpu->tick_ns == clock_now())
        look(gpu);
}

static void arrive(void *argument) { look(argument); }

static struct op *push(struct context *context, unsigned number) {
    struct stream *stream = &context->stream[number];
    if (!stream->ring)
        stream->ring = calloc(RING, sizeof *stream->ring);
    if (!stream->ring || stream->tail - stream->head == RING)
        abort();
    struct gpu *gpu = &gpus[context->device];
    /* What was there before runs up to the moment at which this one comes. */
    advance(gpu, clock_now());
    struct op *op = &stream->ring[stream->tail++ % RING];
    *op = (struct op){.arrived = ++gpu->arrivals};
    return op;
}

void gpu_launch(struct context *context, unsigned stream, uint64_t ns, const bool *flag) {
    struct op *op = push(context, stream);
    op->left_ns = ns;
    op->flag = flag;
    context->stream[stream].kernels++;
    clock_at(clock_now(), arrive, &gpus[context->device]);
}

uint64_t gpu_pending(const struct context *context, unsigned stream) {
    advance(&gpus[context->device], clock_now());
    return context->stream[stream].kernels;
}

void gpu_wait(struct context *context, unsigned number, uint64_t most) {
    struct stream *stream = &context->stream[number];
    while (gpu_pending(context, number) > most) {
        stream->waiter = task_self();
        stream->waits_for = most;
        task_sleep(UINT64_MAX);
    }
    stream->waiter = NULL;
}

struct event *gpu_record(struct context *context, unsigned stream) {
    struct event *event = free_events;
    if (event)
        free_events = event->next_free;
    else
        event = malloc(sizeof *event);
    if (!event)
        abort();
    *event = (struct event){.used = true};
    push(context, stream)->event = event;
    clock_at(clock_now(), arrive, &gpus[context->device]);
    return event;
}

void gpu_release(struct event *event) {
    /* One that is still queued stays its own. */
    if (!event->reached)
        return;
    event->used = false;
    event->next_free = free_events;
    free_events = event;
}

void gpu_destroy(struct context *context) {
    advance(&gpus[context->device], clock_now());
    context->used = false;
    look(&gpus[context->device]);
}

void gpu_kick(unsigned device) { look(&gpus[device]); }

uint64_t gpu_busy(unsigned device, unsigned container) {
    advance(&gpus[device], clock_now());
    return gpus[device].busy_ns[container];
}

uint64_t gpu_idle(unsigned device) {
    advance(&gpus[device], clock_now());
    return gpus[device].idle_ns;
}

uint64_t gpu_longest_idle(unsigned device) {
    struct gpu *gpu = &gpus[device];
    advance(gpu, clock_now());
    note_idle(gpu);
    return gpu->longest_idle_ns;
}

bool gpu_has_work(unsigned device, unsigned container) {
    struct gpu *gpu = &gpus[device];
    advance(gpu, clock_now());
    for (unsigned i = 0; i < gpu->count; i++)
        if (gpu->contexts[i].used && gpu->contexts[i].container == container)
            for (unsigned j = 0; j < STREAMS; j++)
                if (gpu->contexts[i].stream[j].kernels)
                    return true;
    return false;
}
