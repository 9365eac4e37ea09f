/* Launches of graphs on their way through the engine. */
#include "graph_exec.h"

#include "event.h"

#include <stdlib.h>
#include <string.h>

/* A step of a run. All E once it is launched. */
struct node {
    struct sim_item item;
    struct sim_op op;
    uint32_t waiting; /* steps that it still waits for */
};

struct sim_run {
    struct sim_graph_exec *exec;
    struct sim_program *program;
    struct sim_stream *stream;
    struct sim_fence *before; /* of the executable's former launch, or NULL */
    struct sim_fence *done;
    struct sim_item *launch; /* E: the item in whose place the run runs */
    uint32_t left;           /* E: steps that are not done */
    uint64_t end_ns;         /* E */
    struct node nodes[];
};

struct sim_fence *sim_run_before(struct sim_run *run) {
    return run->before;
}

/* ---- Making -------------------------------------------------------------------------------- */

static void alloc_arrived(void *arg) {
    const struct sim_program_memory *memory = arg;
    sim_graph_memory_use(memory->dev, memory->ptr, true);
}

static void free_arrived(void *arg) {
    const struct sim_program_memory *memory = arg;
    sim_graph_memory_use(memory->dev, memory->ptr, false);
}

/* Gives the steps that record events fences, which replace the events' own; the steps that wait
 * take the fences of then. */
static bool make_fences(struct sim_run *run) {
    const struct sim_program *program = run->program;
    for (int kind = 0; kind < 2; kind++) {
        for (uint32_t i = 0; i < program->step_count; i++) {
            const struct sim_step *step = &program->steps[i];
            struct sim_op *op = &run->nodes[i].op;
            if (kind == 0 && step->op.kind == SIM_OP_RECORD) {
                op->fence = sim_event_renew(step->event);
                if (op->fence == NULL)
                    return false;
            } else if (kind == 1 && step->op.kind == SIM_OP_WAIT) {
                op->fence = sim_event_fence(step->event);
                if (op->fence == NULL) /* never recorded */
                    op->kind = SIM_OP_NOTHING;
            }
        }
    }
    return true;
}

/* Zeroed memory for a run: large ones would cost the host's allocator much every time. */
static struct sim_run *take_memory(struct sim_program *program) {
    size_t bytes = sizeof(struct sim_run) + program->step_count * sizeof(struct node);
    /* Acquire: pairs with the release in give_memory; nobody writes to it any more. */
    struct sim_run *run = atomic_exchange_explicit(&program->spare, NULL, memory_order_acquire);
    if (run == NULL)
        return calloc(1, bytes);
    memset(run, 0, bytes);
    return run;
}

static void give_memory(struct sim_program *program, struct sim_run *run) {
    free(atomic_exchange_explicit(&program->spare, run, memory_order_acq_rel));
}

/* Completes a fence of a run that could not be launched: nobody shall wait for ever. */
static void finish_unlaunched(struct sim_fence *fence) {
    if (fence == NULL || sim_fence_done(fence))
        return;
    sim_engine_lock();
    sim_engine_complete_fence(fence, sim_now_ns());
    sim_engine_unlock();
}

/* Lets go of all that a run holds but its executable. */
static void end_run(struct sim_run *run) {
    struct sim_program *program = run->program;
    for (uint32_t i = 0; i < program->step_count; i++) {
        struct sim_op *op = &run->nodes[i].op;
        if (op->kind == SIM_OP_RECORD)
            finish_unlaunched(op->fence);
        if (op->kind == SIM_OP_RECORD || op->kind == SIM_OP_WAIT)
            sim_fence_drop(op->fence);
    }
    finish_unlaunched(run->done);
    sim_fence_drop(run->before);
    sim_fence_drop(run->done);
    give_memory(program, run);
    sim_program_drop(program);
}

struct sim_run *sim_run_make(struct sim_graph_exec *exec, struct sim_program *program,
                             struct sim_stream *stream) {
    struct sim_run *run = take_memory(program);
    if (run == NULL)
        return NULL;
    /* Relaxed: the handle, which the caller found, holds it. */
    atomic_fetch_add_explicit(&exec->holders, 1, memory_order_relaxed);
    sim_program_hold(program);
    run->exec = exec;
    run->program = program;
    run->stream = stream;
    run->done = sim_fence_new();
    for (uint32_t i = 0; i < program->step_count; i++) {
        const struct sim_step *step = &program->steps[i];
        struct node *node = &run->nodes[i];
        node->op = step->op;
        if (step->op.kind == SIM_OP_CALL) {
            node->op.call.fn = step->frees ? free_arrived : alloc_arrived;
            node->op.call.arg = &program->memory[step->memory];
        }
        node->waiting = step->before;
        node->item =
            (struct sim_item){.stream = stream,
                              .run = run,
                              .op = &node->op,
                              .node = i,
                              .dev = step->dev,
                              .priority = step->has_priority ? step->priority : stream->priority,
                              .tail_ns = step->tail_ns,
                              .quiet_ns = step->quiet_ns};
    }
    if (run->done == NULL || !make_fences(run)) {
        end_run(run);
        /* Not the last: the handle, which the caller found, is another. Relaxed: so nothing has to
         * be seen by anybody. */
        atomic_fetch_sub_explicit(&exec->holders, 1, memory_order_relaxed);
        return NULL;
    }
    run->before = exec->last;
    exec->last = run->done;
    sim_fence_hold(run->done);
    return run;
}

void sim_run_free(void *arg) {
    struct sim_run *run = arg;
    struct sim_graph_exec *exec = run->exec;
    end_run(run);
    sim_graph_exec_drop(exec);
}

/* ---- Running (E) --------------------------------------------------------------------------- */

static void begin(struct node *node, uint64_t time_ns) {
    if (time_ns > node->item.ready_ns)
        node->item.ready_ns = time_ns;
    node->item.since_ns = node->item.ready_ns;
    sim_engine_pend(&node->item);
}

void sim_run_start(struct sim_run *run, struct sim_item *item, uint64_t time_ns) {
    run->launch = item;
    run->left = run->program->step_count;
    run->end_ns = time_ns;
    for (uint32_t i = 0; i < run->program->step_count; i++) {
        run->nodes[i].op.queued_ns = item->op->queued_ns;
        run->nodes[i].op.ticket = item->op->ticket;
        if (run->nodes[i].waiting == 0)
            begin(&run->nodes[i], time_ns);
    }
}

bool sim_run_node_done(struct sim_run *run, struct sim_item *item, uint64_t time_ns,
                       struct sim_item **launch, uint64_t *end_ns) {
    const struct sim_step *step = &run->program->steps[item->node];
    if (time_ns > run->end_ns)
        run->end_ns = time_ns;
    for (uint32_t i = 0; i < step->next_count; i++) {
        struct node *next = &run->nodes[run->program->next[step->next_first + i]];
        if (time_ns > next->item.ready_ns)
            next->item.ready_ns = time_ns;
        if (--next->waiting == 0)
            begin(next, time_ns);
    }
    if (--run->left > 0)
        return false;
    *launch = run->launch;
    *end_ns = run->end_ns;
    sim_engine_complete_fence(run->done, run->end_ns);
    return true;
}

void sim_run_pend(struct sim_run *run) {
    for (uint32_t i = 0; i < run->program->step_count; i++)
        sim_engine_drop(&run->nodes[i].item);
}
