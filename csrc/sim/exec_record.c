/* Records of what was done, for whoever traces. */
#include "exec_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- Names --------------------------------------------------------------------------------- */

/* Kernels are named in records after their module may have gone, so each name is kept once. */
struct name {
    struct name *next;
    char text[];
};

const char *sim_record_name(const char *text) {
    enum { BUCKETS = 1024 };
    static struct name *buckets[BUCKETS];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *at = text; *at; at++)
        hash = (hash ^ (uint8_t)*at) * 16777619u;
    pthread_mutex_lock(&lock);
    struct name *name = buckets[hash % BUCKETS];
    while (name != NULL && strcmp(name->text, text) != 0)
        name = name->next;
    if (name == NULL && (name = malloc(sizeof *name + strlen(text) + 1)) != NULL) {
        strcpy(name->text, text);
        name->next = buckets[hash % BUCKETS];
        buckets[hash % BUCKETS] = name;
    }
    pthread_mutex_unlock(&lock);
    return name != NULL ? name->text : NULL;
}

/* ---- Items --------------------------------------------------------------------------------- */

/* What an operation is for people; SIM_RECORD_KINDS: nothing to speak of. */
static enum sim_record_kind kind_of(const struct sim_op *op) {
    if (op->record != 0)
        return (enum sim_record_kind)(op->record - 1);
    switch (op->kind) {
    case SIM_OP_KERNEL:
        return SIM_RECORD_KERNEL;
    case SIM_OP_COPY:
        return SIM_RECORD_COPY;
    case SIM_OP_FILL:
        return SIM_RECORD_FILL;
    case SIM_OP_JOB:
        return op->job->src != NULL ? SIM_RECORD_COPY : SIM_RECORD_FILL;
    case SIM_OP_GRAPH:
        return SIM_RECORD_GRAPH;
    case SIM_OP_HOST:
        return SIM_RECORD_HOST;
    case SIM_OP_WAIT:
    case SIM_OP_POLL:
    case SIM_OP_SHARED:
        return SIM_RECORD_WAIT;
    default:
        return SIM_RECORD_KINDS;
    }
}

void sim_record_item(const struct sim_item *item, uint64_t end_ns) {
    const struct sim_op *op = item->op;
    enum sim_record_kind kind = kind_of(op);
    if (kind == SIM_RECORD_KINDS || item->stream->exec->dying)
        return;
    struct sim_record record = {.queued_ns = op->queued_ns,
                                .since_ns = item->since_ns,
                                .start_ns = item->since_ns,
                                .end_ns = end_ns,
                                .stream = sim_stream_id(item->stream),
                                .sms = op->sms,
                                .kind = (uint8_t)kind,
                                .flags = item->run != NULL ? SIM_RECORD_NODE : 0};
    const char *name = NULL;
    if (kind == SIM_RECORD_COPY || kind == SIM_RECORD_FILL) {
        /* What is left of a copy that was done at once has its bytes where a copy has them. */
        record.bytes = op->kind == SIM_OP_NOTHING ? op->copy.bytes : sim_effect_bytes(op);
        record.lane = op->lane;
    }
    if (op->sms != 0 && op->ns != 0) {
        /* It ran from when the device's clock went on, which may be turns later. */
        record.start_ns = item->ran_ns;
        if (item->ran_ns == 0)
            record.start_ns = sim_clock_left_at(sim_item_device(item), item->begin_ns);
        if (record.start_ns > end_ns)
            record.start_ns = end_ns;
        if (record.start_ns < item->start_ns)
            record.start_ns = item->start_ns;
    } else if (op->ns != 0) {
        record.start_ns = item->start_ns;
    } else if (kind == SIM_RECORD_HOST) {
        record.start_ns = item->ready_ns;
    }
    if (kind == SIM_RECORD_KERNEL)
        name = op->kernel.name;
    if (kind == SIM_RECORD_WAIT) {
        if (record.end_ns <= record.start_ns)
            return; /* had come already */
        name = op->kind == SIM_OP_POLL ? "value" : "event";
    }
    sim_state_record(sim_state, sim_device_physical(item->dev), &record, name);
}

void sim_record_block(CUdevice dev, const char *what, uint64_t since_ns) {
    struct sim_record record = {.queued_ns = since_ns,
                                .since_ns = since_ns,
                                .start_ns = since_ns,
                                .end_ns = sim_now_ns(),
                                .stream = (uint64_t)syscall(SYS_gettid),
                                .kind = SIM_RECORD_BLOCK};
    sim_state_record(sim_state, sim_device_physical(dev), &record, what);
}
