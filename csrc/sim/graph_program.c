/* Compiling graphs: nodes become operations, child graphs are laid flat. */
#include "graph_exec.h"

#include "copy.h"
#include "event.h"

#include <stdlib.h>
#include <string.h>

void sim_program_hold(struct sim_program *program) {
    /* Relaxed: who holds it anew holds it already, or has the graph lock. */
    __atomic_fetch_add(&program->holders, 1, __ATOMIC_RELAXED);
}

void sim_program_drop(struct sim_program *program) {
    /* Acquire-release: the last one sees all that the others did. */
    if (program == NULL || __atomic_fetch_sub(&program->holders, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    for (uint32_t i = 0; i < program->step_count; i++)
        if (program->steps[i].op.kind == SIM_OP_JOB)
            free(program->steps[i].op.job);
    free(program->steps);
    free(program->next);
    free(program->memory);
    free(atomic_load_explicit(&program->spare, memory_order_relaxed)); /* nobody else has it */
    free(program);
}

/* ---- Steps --------------------------------------------------------------------------------- */

/* A program in the making. */
struct builder {
    struct sim_program *program;
    bool priorities;
    uint32_t step_room;
    uint32_t *from, *to; /* edges between steps */
    size_t edge_count, edge_room;
    struct sim_program_memory *frees;
    uint32_t memory_room, free_room;
    struct sim_graph_node *failed;
};

static struct sim_step *add_step(struct builder *builder, CUdevice dev) {
    struct sim_program *program = builder->program;
    if (program->step_count == builder->step_room) {
        uint32_t room = builder->step_room == 0 ? 16 : builder->step_room * 2;
        void *more = realloc(program->steps, room * sizeof *program->steps);
        if (more == NULL)
            return NULL;
        program->steps = more;
        builder->step_room = room;
    }
    struct sim_step *step = &program->steps[program->step_count++];
    *step = (struct sim_step){.op.kind = SIM_OP_NOTHING, .dev = dev};
    return step;
}

static bool add_edge(struct builder *builder, uint32_t from, uint32_t to) {
    if (builder->edge_count == builder->edge_room) {
        size_t room = builder->edge_room == 0 ? 32 : builder->edge_room * 2;
        void *more = realloc(builder->from, room * sizeof *builder->from);
        if (more == NULL)
            return false;
        builder->from = more;
        more = realloc(builder->to, room * sizeof *builder->to);
        if (more == NULL)
            return false;
        builder->to = more;
        builder->edge_room = room;
    }
    builder->from[builder->edge_count] = from;
    builder->to[builder->edge_count++] = to;
    return true;
}

static bool add_memory(struct builder *builder, CUdevice dev, CUdeviceptr ptr, bool alloc) {
    struct sim_program *program = builder->program;
    struct sim_program_memory **list = alloc ? &program->memory : &builder->frees;
    uint32_t *count = alloc ? &program->alloc_count : &program->free_count;
    uint32_t *room = alloc ? &builder->memory_room : &builder->free_room;
    if (*count == *room) {
        uint32_t more = *room == 0 ? 8 : *room * 2;
        void *grown = realloc(*list, more * sizeof **list);
        if (grown == NULL)
            return false;
        *list = grown;
        *room = more;
    }
    (*list)[(*count)++] = (struct sim_program_memory){.dev = dev, .ptr = ptr, .alloc = alloc};
    return true;
}

/* ---- What nodes do ------------------------------------------------------------------------- */

static CUdevice device_of(CUcontext handle, CUdevice otherwise) {
    const struct sim_context *ctx = sim_context_get(handle);
    return ctx != NULL ? ctx->dev : otherwise;
}

static CUresult compile_kernel(struct builder *builder, const struct sim_node_params *params,
                               struct sim_step *step) {
    struct sim_launch *launch = &sim_kernel_store(params)->launch;
    struct sim_function *function;
    /* The module may have been unloaded since. */
    CUresult result =
        sim_context_get((CUcontext)launch->ctx) == NULL
            ? CUDA_ERROR_CONTEXT_IS_DESTROYED
            : sim_function_resolve(launch->ctx, (CUfunction)launch->function, &function);
    if (result != CUDA_SUCCESS)
        return result;
    const CUlaunchAttributeValue *priority =
        sim_launch_attribute(launch, CU_LAUNCH_ATTRIBUTE_PRIORITY);
    step->dev = launch->ctx->dev;
    step->op.kind = SIM_OP_KERNEL;
    sim_launch_time(launch, &step->op);
    step->has_priority = builder->priorities && priority != NULL;
    step->priority = step->has_priority ? priority->priority : 0;
    builder->program->kernel_count++;
    return CUDA_SUCCESS;
}

static CUresult compile_copy(const CUDA_MEMCPY_NODE_PARAMS *node, struct sim_step *step) {
    struct sim_copy copy;
    step->dev = device_of(node->copyCtx, step->dev);
    CUresult result = sim_copy_read(&node->copyParams, true, &copy);
    return result == CUDA_SUCCESS ? sim_copy_op(&copy, step->dev, &step->op) : result;
}

static CUresult compile_fill(const CUDA_MEMSET_NODE_PARAMS_v2 *node, struct sim_step *step) {
    struct sim_place place;
    step->dev = device_of(node->ctx, step->dev);
    CUresult result = sim_fill_check(node->dst, node->pitch, node->elementSize, node->width,
                                     node->height, true, &place);
    return result == CUDA_SUCCESS ? sim_fill_op(&place, node->value, node->elementSize, node->width,
                                                node->height, step->dev, &step->op)
                                  : result;
}

static CUresult compile_memory(struct builder *builder, struct sim_step *step, CUdeviceptr ptr,
                               bool alloc) {
    struct sim_memory_info info;
    if (!sim_memory_find(ptr, &info) || info.kind != SIM_MEMORY_GRAPH)
        return CUDA_ERROR_INVALID_VALUE;
    step->op.kind = SIM_OP_CALL;
    step->memory = alloc ? builder->program->alloc_count : builder->program->free_count;
    step->frees = !alloc;
    return add_memory(builder, info.dev, ptr, alloc) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* A batch becomes a chain of steps; *last is its end. */
static CUresult compile_batch(struct builder *builder, const CUDA_BATCH_MEM_OP_NODE_PARAMS_v2 *node,
                              uint32_t *last) {
    CUdevice dev = device_of(node->ctx, 0);
    for (unsigned i = 0; i < node->count; i++) {
        struct sim_step *step = i == 0 ? &builder->program->steps[*last] : add_step(builder, dev);
        if (step == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        CUresult result = sim_memop_op(&node->paramArray[i], &step->op);
        if (result != CUDA_SUCCESS)
            return result;
        uint32_t index = (uint32_t)(step - builder->program->steps);
        if (i > 0 && !add_edge(builder, *last, index))
            return CUDA_ERROR_OUT_OF_MEMORY;
        *last = index;
    }
    return CUDA_SUCCESS;
}

static CUresult compile_graph(struct builder *builder, const struct sim_graph *graph,
                              uint32_t before, uint32_t *after);

/* Makes the steps of a node: from `*first` to `*last`, which are one for most. */
static CUresult compile_node(struct builder *builder, struct sim_graph_node *node, uint32_t *first,
                             uint32_t *last) {
    const CUgraphNodeParams *api = &node->params.api;
    struct sim_step *step = add_step(builder, 0);
    if (step == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *first = *last = (uint32_t)(step - builder->program->steps);
    if (node->disabled)
        return CUDA_SUCCESS;
    switch (api->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return compile_kernel(builder, &node->params, step);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return compile_copy(&api->memcpy, step);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return compile_fill(&api->memset, step);
    case CU_GRAPH_NODE_TYPE_HOST:
        step->op.kind = SIM_OP_HOST;
        step->op.call.fn = api->host.fn;
        step->op.call.arg = api->host.userData;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return compile_graph(builder, sim_graph_find(api->graph.graph), *first, last);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        step->op.kind = api->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD ? SIM_OP_RECORD : SIM_OP_WAIT;
        step->event = sim_event_find(api->eventRecord.event);
        return step->event != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        return compile_memory(builder, step, api->alloc.dptr, true);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return compile_memory(builder, step, api->free.dptr, false);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return compile_batch(builder, &api->memOp, last);
    default:
        return CUDA_SUCCESS;
    }
}

/* Lays a graph's nodes behind the step `before`; *after is a step behind all of them. */
static CUresult compile_graph(struct builder *builder, const struct sim_graph *graph,
                              uint32_t before, uint32_t *after) {
    uint32_t *last = malloc((graph->count + 1) * sizeof *last);
    uint32_t *first = malloc((graph->count + 1) * sizeof *first);
    CUresult result = last == NULL || first == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    for (size_t i = 0; i < graph->count && result == CUDA_SUCCESS; i++) {
        graph->nodes[i]->index = (uint32_t)i;
        result = compile_node(builder, graph->nodes[i], &first[i], &last[i]);
        if (result != CUDA_SUCCESS)
            builder->failed = graph->nodes[i]; /* the outermost node is the last to say so */
    }
    struct sim_step *end = result == CUDA_SUCCESS ? add_step(builder, 0) : NULL;
    if (result == CUDA_SUCCESS && end == NULL)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS) {
        bool ok = true;
        *after = (uint32_t)(end - builder->program->steps);
        for (size_t i = 0; i < graph->count; i++) {
            const struct sim_graph_node *node = graph->nodes[i];
            for (size_t j = 0; j < node->before.count; j++)
                ok = ok && add_edge(builder, last[node->before.node[j]->index], first[i]);
            if (node->before.count == 0 && before != UINT32_MAX)
                ok = ok && add_edge(builder, before, first[i]);
            if (node->after.count == 0)
                ok = ok && add_edge(builder, last[i], *after);
        }
        if (graph->count == 0 && before != UINT32_MAX)
            ok = ok && add_edge(builder, before, *after);
        if (!ok)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    free(last);
    free(first);
    return result;
}

/* ---- Order --------------------------------------------------------------------------------- */

/* Sorts the edges into each step's list of successors. */
static bool sort_edges(struct builder *builder) {
    struct sim_program *program = builder->program;
    program->next = malloc((builder->edge_count + 1) * sizeof *program->next);
    if (program->next == NULL)
        return false;
    for (size_t i = 0; i < builder->edge_count; i++) {
        program->steps[builder->from[i]].next_count++;
        program->steps[builder->to[i]].before++;
    }
    uint32_t first = 0;
    for (uint32_t i = 0; i < program->step_count; i++) {
        program->steps[i].next_first = first;
        first += program->steps[i].next_count;
        program->steps[i].next_count = 0;
    }
    for (size_t i = 0; i < builder->edge_count; i++) {
        struct sim_step *from = &program->steps[builder->from[i]];
        program->next[from->next_first + from->next_count++] = builder->to[i];
    }
    return true;
}

#define MOST_NS (UINT64_C(1) << 60) /* so that sums do not overflow */

/* What follows a step for certain, its successors being known already. */
static void foresee(const struct sim_program *program, struct sim_step *step) {
    step->quiet_ns = step->next_count > 0 ? UINT64_MAX : 0;
    for (uint32_t i = 0; i < step->next_count; i++) {
        const struct sim_step *next = &program->steps[program->next[step->next_first + i]];
        uint64_t tail_ns = 0, quiet_ns = 0;
        if (next->op.kind == SIM_OP_KERNEL && next->dev == step->dev) {
            tail_ns = next->op.ns + next->tail_ns;
            quiet_ns = next->op.ns + next->quiet_ns;
        } else if (next->op.kind == SIM_OP_NOTHING && next->op.ns == 0) {
            tail_ns = next->tail_ns;
            quiet_ns = next->quiet_ns;
        }
        if (tail_ns > MOST_NS)
            tail_ns = MOST_NS;
        if (tail_ns > step->tail_ns)
            step->tail_ns = tail_ns;
        if (quiet_ns > MOST_NS)
            quiet_ns = MOST_NS;
        if (quiet_ns < step->quiet_ns)
            step->quiet_ns = quiet_ns;
    }
}

/* Goes through the steps from the last ones to the first. */
static bool foresee_all(struct sim_program *program) {
    uint32_t *left = malloc(program->step_count * sizeof *left);
    uint32_t *order = malloc(program->step_count * sizeof *order);
    if (left == NULL || order == NULL) {
        free(left);
        free(order);
        return false;
    }
    uint32_t done = 0, count = 0;
    for (uint32_t i = 0; i < program->step_count; i++) {
        left[i] = program->steps[i].before;
        if (left[i] == 0)
            order[count++] = i;
    }
    for (; done < count; done++) {
        const struct sim_step *step = &program->steps[order[done]];
        for (uint32_t i = 0; i < step->next_count; i++) {
            uint32_t next = program->next[step->next_first + i];
            if (--left[next] == 0)
                order[count++] = next;
        }
    }
    while (count > 0)
        foresee(program, &program->steps[order[--count]]);
    free(left);
    free(order);
    return true;
}

/* Puts the frees behind the allocations. */
static bool join_memory(struct builder *builder) {
    struct sim_program *program = builder->program;
    uint32_t count = program->alloc_count + program->free_count;
    if (count == 0)
        return true;
    void *grown = realloc(program->memory, count * sizeof *program->memory);
    if (grown == NULL)
        return false;
    program->memory = grown;
    if (program->free_count > 0)
        memcpy(program->memory + program->alloc_count, builder->frees,
               program->free_count * sizeof *builder->frees);
    for (uint32_t i = 0; i < program->step_count; i++)
        if (program->steps[i].frees)
            program->steps[i].memory += program->alloc_count;
    return true;
}

CUresult sim_program_make(const struct sim_graph *graph, bool priorities, struct sim_program **out,
                          struct sim_graph_node **failed) {
    struct builder builder = {.program = calloc(1, sizeof *builder.program),
                              .priorities = priorities};
    uint32_t end;
    if (builder.program == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    builder.program->holders = 1;
    CUresult result = compile_graph(&builder, graph, UINT32_MAX, &end);
    if (result == CUDA_SUCCESS &&
        (!sort_edges(&builder) || !foresee_all(builder.program) || !join_memory(&builder)))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    free(builder.from);
    free(builder.to);
    free(builder.frees);
    if (failed != NULL)
        *failed = builder.failed;
    if (result == CUDA_SUCCESS)
        *out = builder.program;
    else
        sim_program_drop(builder.program);
    return result;
}
