/* Making, launching and ending executables. */
#include "graph_exec.h"

#include <stdlib.h>

static struct sim_slots execs;
static pthread_once_t once = PTHREAD_ONCE_INIT;

enum { EXEC_SLOT = 256, EXEC_SLOTS = 1 << 20 };
_Static_assert(sizeof(struct sim_graph_exec) <= EXEC_SLOT, "an executable fits its slot");

static void make_slots(void) { sim_slots_init(&execs, EXEC_SLOT, EXEC_SLOTS); }

struct sim_graph_exec *sim_graph_exec_find(CUgraphExec handle) {
    return sim_slots_get(&execs, handle);
}

/* ---- Life ---------------------------------------------------------------------------------- */

static struct sim_graph_exec *make_exec(void) {
    static _Atomic uint32_t ids;
    pthread_once(&once, make_slots);
    struct sim_graph_exec *exec = execs.base == NULL ? NULL : sim_slots_take(&execs);
    if (exec == NULL)
        return NULL;
    exec->id = atomic_fetch_add_explicit(&ids, 1, memory_order_relaxed) + 1; /* a number only */
    atomic_store_explicit(&exec->holders, 1, memory_order_relaxed);          /* not shared yet */
    pthread_mutex_init(&exec->launching, NULL);
    return exec;
}

void sim_graph_exec_drop(struct sim_graph_exec *exec) {
    struct sim_graph_object *objects = NULL;
    /* Acquire-release: the last one sees all that the others did. */
    if (atomic_fetch_sub_explicit(&exec->holders, 1, memory_order_acq_rel) != 1)
        return;
    sim_graph_enter();
    sim_program_drop(exec->program);
    sim_fence_drop(exec->last);
    if (exec->graph != NULL)
        sim_graph_unmake(exec->graph, &objects);
    sim_slots_give(&execs, exec);
    sim_graph_leave();
    sim_graph_objects_release(objects);
}

void sim_graph_exec_changed(struct sim_graph_exec *exec) {
    sim_program_drop(exec->program);
    exec->program = NULL;
}

CUresult sim_graph_exec_compile(struct sim_graph_exec *exec, struct sim_graph_node **failed) {
    bool priorities = (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY) != 0;
    if (exec->program != NULL)
        return CUDA_SUCCESS;
    return sim_program_make(exec->graph, priorities, &exec->program, failed);
}

struct sim_graph_node *sim_graph_exec_node(const struct sim_graph_exec *exec,
                                           const struct sim_graph_node *node) {
    struct sim_graph *copy = NULL;
    if (node->graph == exec->origin && node->graph->id == exec->origin_id) {
        copy = exec->graph;
    } else if (node->graph->parent != NULL) {
        const struct sim_graph_node *parent = sim_graph_exec_node(exec, node->graph->parent);
        if (parent != NULL)
            copy = sim_graph_find(parent->params.api.graph.graph);
    }
    return copy == NULL ? NULL : sim_graph_node_by_id(copy, node->id);
}

/* ---- Instantiation ------------------------------------------------------------------------- */

/* The node of the original that a node of the executable's copy stands for. */
static struct sim_graph_node *original_of(const struct sim_graph *graph,
                                          const struct sim_graph_node *node) {
    return node == NULL ? NULL : sim_graph_node_by_id(graph, node->id);
}

static CUresult instantiate(CUgraphExec *handle, CUgraph graph_handle, uint64_t flags,
                            CUgraphNode *error_node) {
    const uint64_t known =
        CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
        CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
    if (handle == NULL || (flags & ~known) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0)
        return (flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0
                   ? CUDA_ERROR_INVALID_VALUE
                   : sim_unsupported("graphs launched from the device");
    struct sim_graph_exec *exec = make_exec();
    if (exec == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    exec->flags = flags;
    sim_graph_enter();
    struct sim_graph *graph = sim_graph_find(graph_handle);
    struct sim_graph_node *failed = NULL;
    CUresult result = CUDA_SUCCESS;
    if (graph == NULL || graph->capturing || (graph->allocations > 0 && graph->executables > 0))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = sim_graph_copy(graph, true, &exec->graph);
    if (result == CUDA_SUCCESS)
        result = sim_graph_exec_compile(exec, &failed);
    if (result == CUDA_SUCCESS) {
        exec->origin = graph;
        exec->origin_id = graph->id;
        exec->graph->exec = exec;
        graph->executables++;
        sim_slots_publish(exec);
        *handle = (CUgraphExec)exec;
    } else if (graph != NULL && error_node != NULL) {
        *error_node = (CUgraphNode)original_of(graph, failed);
    }
    sim_graph_leave();
    if (result != CUDA_SUCCESS)
        sim_graph_exec_drop(exec);
    return result;
}

static CUresult instantiate_plain(CUgraphExec *exec, CUgraph graph, CUgraphNode *error_node,
                                  char *log, size_t log_bytes) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (error_node != NULL)
        *error_node = NULL;
    if (log != NULL && log_bytes > 0)
        *log = '\0';
    return instantiate(exec, graph, 0, error_node);
}

CUresult CUDAAPI cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *error_node,
                                    char *log, size_t log_bytes) {
    return instantiate_plain(exec, graph, error_node, log, log_bytes);
}
CUresult CUDAAPI cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *error_node,
                                       char *log, size_t log_bytes) {
    return instantiate_plain(exec, graph, error_node, log, log_bytes);
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph,
                                             unsigned long long flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0)
        return CUDA_ERROR_INVALID_VALUE; /* there is no stream to do it in */
    return instantiate(exec, graph, flags, NULL);
}

/* ---- Memory of a launch -------------------------------------------------------------------- */

static bool freed_by(const struct sim_program *program, CUdeviceptr ptr) {
    for (uint32_t i = 0; i < program->free_count; i++)
        if (program->memory[program->alloc_count + i].ptr == ptr)
            return true;
    return false;
}

static bool allocated_by(const struct sim_program *program, CUdeviceptr ptr) {
    for (uint32_t i = 0; i < program->alloc_count; i++)
        if (program->memory[i].ptr == ptr)
            return true;
    return false;
}

/* What an earlier launch allocated must have been freed, or is freed now where the executable was
 * made so; what this one frees for others must be there. */
static CUresult check_memory(const struct sim_graph_exec *exec, const struct sim_program *program,
                             struct sim_stream *stream) {
    bool automatic = (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0;
    for (uint32_t i = 0; i < program->alloc_count; i++) {
        const struct sim_program_memory *memory = &program->memory[i];
        if (freed_by(program, memory->ptr) || !sim_graph_memory_live(memory->dev, memory->ptr))
            continue;
        CUresult result =
            automatic ? cuMemFreeAsync(memory->ptr, (CUstream)stream) : CUDA_ERROR_INVALID_VALUE;
        if (result != CUDA_SUCCESS)
            return result;
    }
    for (uint32_t i = 0; i < program->free_count; i++) {
        const struct sim_program_memory *memory = &program->memory[program->alloc_count + i];
        if (!allocated_by(program, memory->ptr) && !sim_graph_memory_live(memory->dev, memory->ptr))
            return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static void unback(const struct sim_program *program, uint32_t count) {
    while (count-- > 0)
        sim_graph_memory_unback(program->memory[count].dev, program->memory[count].ptr);
}

static CUresult back(const struct sim_program *program) {
    for (uint32_t i = 0; i < program->alloc_count; i++) {
        CUresult result = sim_graph_memory_back(program->memory[i].dev, program->memory[i].ptr);
        if (result != CUDA_SUCCESS) {
            unback(program, i);
            return result;
        }
    }
    return CUDA_SUCCESS;
}

/* ---- Launching ----------------------------------------------------------------------------- */

/* The executable's program, held. */
static CUresult take_program(struct sim_graph_exec *exec, struct sim_program **program) {
    sim_graph_enter();
    CUresult result = sim_graph_exec_compile(exec, NULL);
    if (result == CUDA_SUCCESS) {
        *program = exec->program;
        sim_program_hold(*program);
    }
    sim_graph_leave();
    return result;
}

/* Queues a run; it is freed behind itself in the same stream. */
static CUresult queue_run(struct sim_graph_exec *exec, struct sim_program *program,
                          struct sim_stream *stream) {
    sim_graph_enter();
    struct sim_run *run = sim_run_make(exec, program, stream);
    sim_graph_leave();
    if (run == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct sim_op op = {.kind = SIM_OP_GRAPH, .run = run};
    CUresult result = sim_stream_submit(stream, &op, NULL);
    if (result != CUDA_SUCCESS) {
        sim_run_free(run);
        return result;
    }
    return sim_stream_call(stream, sim_run_free, run);
}

static CUresult launch_program(struct sim_graph_exec *exec, struct sim_program *program,
                               struct sim_stream *stream) {
    const struct sim_device_config *config = stream->exec->config;
    uint64_t cost_ns = config->cost_ns[SIM_COST_GRAPH_LAUNCH] +
                       program->kernel_count * config->cost_ns[SIM_COST_GRAPH_NODE];
    if (cost_ns != 0)
        sim_cost_wait(cost_ns);
    CUresult result = check_memory(exec, program, stream);
    if (result == CUDA_SUCCESS)
        result = back(program);
    if (result != CUDA_SUCCESS)
        return result;
    result = queue_run(exec, program, stream);
    if (result != CUDA_SUCCESS)
        unback(program, program->alloc_count);
    return result;
}

/* A launch in a capturing stream becomes a child graph. */
static CUresult capture_launch(struct sim_graph_exec *exec, struct sim_stream *stream) {
    CUgraphNodeParams node = {.type = CU_GRAPH_NODE_TYPE_GRAPH,
                              .graph = {.graph = (CUgraph)exec->graph,
                                        .ownership = CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE}};
    return sim_capture_node(stream, &node, NULL, NULL);
}

static CUresult launch(CUgraphExec handle, CUstream stream_handle, bool per_thread) {
    struct sim_stream *stream;
    struct sim_program *program;
    CUresult result = sim_stream_enter_work(stream_handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_graph_exec *exec = sim_graph_exec_find(handle);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (sim_stream_capturing(stream))
        return capture_launch(exec, stream);
    pthread_mutex_lock(&exec->launching);
    result = take_program(exec, &program);
    if (result == CUDA_SUCCESS) {
        result = launch_program(exec, program, stream);
        sim_program_drop(program);
    }
    pthread_mutex_unlock(&exec->launching);
    return result;
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    return launch(exec, stream, false);
}
CUresult CUDAAPI cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) {
    return launch(exec, stream, true);
}

/* ---- Uploading ----------------------------------------------------------------------------- */

static CUresult upload(CUgraphExec handle, CUstream stream_handle, bool per_thread) {
    struct sim_stream *stream;
    struct sim_program *program;
    CUresult result = sim_stream_enter_work(stream_handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_graph_exec *exec = sim_graph_exec_find(handle);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (sim_stream_capturing(stream))
        return sim_capture_forbid_stream(stream);
    pthread_mutex_lock(&exec->launching);
    result = take_program(exec, &program);
    if (result == CUDA_SUCCESS) {
        /* The pages come now; the promise of them is not kept up. */
        result = back(program);
        if (result == CUDA_SUCCESS)
            unback(program, program->alloc_count);
        sim_program_drop(program);
    }
    pthread_mutex_unlock(&exec->launching);
    if (result == CUDA_SUCCESS) {
        struct sim_op op = {.kind = SIM_OP_NOTHING};
        result = sim_stream_submit(stream, &op, NULL);
    }
    return result;
}

CUresult CUDAAPI cuGraphUpload(CUgraphExec exec, CUstream stream) {
    return upload(exec, stream, false);
}
CUresult CUDAAPI cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream) {
    return upload(exec, stream, true);
}

static CUresult instantiate_with_params(CUgraphExec *exec, CUgraph graph,
                                        CUDA_GRAPH_INSTANTIATE_PARAMS *params, bool per_thread) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    params->hErrNode_out = NULL;
    params->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
    result = instantiate(exec, graph, params->flags, &params->hErrNode_out);
    if (result == CUDA_SUCCESS && (params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0) {
        result = upload(*exec, params->hUploadStream, per_thread);
        if (result != CUDA_SUCCESS)
            cuGraphExecDestroy(*exec);
    }
    if (result == CUDA_SUCCESS)
        params->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
    return result;
}

CUresult CUDAAPI cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph graph,
                                              CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    return instantiate_with_params(exec, graph, params, false);
}
CUresult CUDAAPI cuGraphInstantiateWithParams_ptsz(CUgraphExec *exec, CUgraph graph,
                                                   CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    return instantiate_with_params(exec, graph, params, true);
}

/* ---- The end, and questions ---------------------------------------------------------------- */

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_graph_exec *exec = sim_graph_exec_find(handle);
    bool ended = exec != NULL && sim_handle_end(exec);
    if (ended && exec->origin->live != 0 && exec->origin->id == exec->origin_id)
        exec->origin->executables--;
    sim_graph_leave();
    if (!ended)
        return CUDA_ERROR_INVALID_VALUE;
    sim_graph_exec_drop(exec);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t *flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_graph_exec *exec = sim_graph_exec_find(handle);
    if (exec == NULL || flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphExecGetId(CUgraphExec handle, unsigned *id) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_graph_exec *exec = sim_graph_exec_find(handle);
    if (exec == NULL || id == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *id = exec->id;
    return CUDA_SUCCESS;
}
