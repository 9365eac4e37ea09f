/* Memory that graphs allocate when they run. It comes from a pool of the device's that the driver
 * keeps for graphs: a launch is charged beforehand with what the pool may have to grow by, and settled
 * from the pool's counter.
 *
 * Graphs that do not run at the same time may have the same pages, so a graph that is launched again
 * may find its pages with another one. The pool never needs more than the sum of what the graphs that
 * were launched may take (the spread): while that is no more than it has, nothing is charged.
 */
#include "time.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define EXECS 65536u

/* How long a launch that has no room beside the others waits for them to be done. */
#define PATIENCE_NS 2000000000ll

/* An executable graph with memory nodes. */
struct exec {
    CUgraphExec handle; /* NULL: destroyed while it ran, or a free place */
    CUevent event;      /* recorded behind its last launch; NULL: not launched */
    uint16_t context;   /* of the event */
    uint32_t epoch;     /* in which it was counted into the spread */
    struct demand {
        uint64_t bytes[ALIQUOT_MAX_DEVICES]; /* that its nodes allocate, each in pages */
        uint32_t nodes[ALIQUOT_MAX_DEVICES];
    } demand;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of everything here */
static struct exec *execs;           /* EXECS of them, committed as they are touched */
static uint32_t exec_mark;           /* places at and above it are free */
static struct aliquot_table handles; /* exec to place */
static _Atomic uint32_t exec_count;  /* with a handle */

static uint64_t charged[ALIQUOT_MAX_DEVICES]; /* bytes, of each device's graph pool */
static struct demand spread;

/* Advanced when the pools are trimmed, from 1: what was launched before may have to grow again. */
static uint32_t epoch = 1;

/* For reading: from foreseeing what a launch may take until it is launched. For writing: where the
 * pool must not be touched meanwhile. */
static pthread_rwlock_t launching = PTHREAD_RWLOCK_INITIALIZER;

/* Whether the driver tells it; a driver that cannot has no such memory. */
static bool tells(uint32_t device, CUgraphMem_attribute which, cuuint64_t *value) {
    *value = 0;
    return !HAVE(cuDeviceGetGraphMemAttribute) ||
           REAL(cuDeviceGetGraphMemAttribute)(aliquot_device_ordinal(device), which, value) ==
               CUDA_SUCCESS;
}

/* Under the mutex: makes the charge what the pool has reserved, of which `ahead` is charged besides. Where
 * the driver does not tell, all of it stays charged until it does. */
static void settle(uint32_t device, uint64_t ahead) {
    uint64_t booked = charged[device] + ahead;
    cuuint64_t now;
    if (!tells(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &now))
        now = booked;
    if (now > booked)
        aliquot_charge_given(device, now - booked);
    else if (now < booked)
        aliquot_withdraw(device, booked - now);
    /* It was trimmed: what is left is in use by graphs that will be counted again. */
    if (now < charged[device]) {
        spread.bytes[device] = now;
        epoch++;
    }
    if (!now)
        spread.nodes[device] = 0;
    charged[device] = now;
    uint64_t any = 0;
    for (uint32_t d = 0; d < ALIQUOT_MAX_DEVICES; d++)
        any |= charged[d];
    if (any)
        atomic_fetch_or_explicit(&aliquot_lazy, ALIQUOT_LAZY_GRAPHS, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(&aliquot_lazy, ~ALIQUOT_LAZY_GRAPHS, memory_order_relaxed);
}

void aliquot_graph_settle(uint32_t device) {
    pthread_mutex_lock(&mutex);
    if (charged[device])
        settle(device, 0);
    pthread_mutex_unlock(&mutex);
}

/* -- What a graph may take ---------------------------------------------------------------------- */

static CUresult add_graph(CUgraph graph, struct demand *demand, unsigned depth);

static CUresult add_node(CUgraphNode node, struct demand *demand, unsigned depth) {
    CUDA_MEM_ALLOC_NODE_PARAMS allocation;
    CUgraphNodeType type;
    CUgraph child;
    CUresult result = REAL(cuGraphNodeGetType)(node, &type);
    if (result == CUDA_SUCCESS && type == CU_GRAPH_NODE_TYPE_GRAPH) {
        result = REAL(cuGraphChildGraphNodeGetGraph)(node, &child);
        return result == CUDA_SUCCESS ? add_graph(child, demand, depth + 1) : result;
    }
    if (result != CUDA_SUCCESS || type != CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        return result;
    result = REAL(cuGraphMemAllocNodeGetParams)(node, &allocation);
    if (result != CUDA_SUCCESS || allocation.poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return result;
    int device = aliquot_device_index(allocation.poolProps.location.id);
    if (device >= 0) {
        demand->bytes[device] += aliquot_whole_pages((uint32_t)device, allocation.bytesize);
        demand->nodes[device]++;
    }
    return result;
}

/* Sums the allocation nodes of a graph and of its child graphs. Errors: the driver's, where it does not
 * tell what is in them; OUT_OF_MEMORY. */
static CUresult add_graph(CUgraph graph, struct demand *demand, unsigned depth) {
    size_t count = 0;
    CUresult result = REAL(cuGraphGetNodes)(graph, NULL, &count);
    if (result != CUDA_SUCCESS || !count || depth > 16)
        return result;
    size_t size = count * sizeof(CUgraphNode);
    CUgraphNode *node =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (node == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = REAL(cuGraphGetNodes)(graph, node, &count);
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = add_node(node[i], demand, depth);
    munmap(node, size);
    return result;
}

/* Under the mutex. A place for an executable graph, perhaps that of one whose last launch is done. */
static struct exec *free_place(void) {
    if (!execs) {
        void *at = mmap(NULL, EXECS * sizeof *execs, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return NULL;
        execs = at;
    }
    for (uint32_t i = 0; i < exec_mark; i++) {
        struct exec *exec = &execs[i];
        if (exec->handle ||
            (exec->event && REAL(cuEventQuery)(exec->event) == CUDA_ERROR_NOT_READY))
            continue;
        if (exec->event)
            REAL(cuEventDestroy_v2)(exec->event);
        return exec;
    }
    return exec_mark < EXECS ? &execs[exec_mark++] : NULL;
}

/* Writes down what an executable graph may take. Errors: as add_graph; OUT_OF_MEMORY, for too many of
 * them. */
static CUresult remember(CUgraphExec handle, CUgraph graph) {
    struct demand demand = {{0}, {0}};
    if (aliquot_ready() != CUDA_SUCCESS || !HAVE(cuGraphMemAllocNodeGetParams))
        return CUDA_SUCCESS;
    CUstreamCaptureMode mode = aliquot_capture_relax();
    CUresult result = add_graph(graph, &demand, 0);
    uint64_t any = 0;
    for (uint32_t d = 0; d < ALIQUOT_MAX_DEVICES; d++)
        any |= demand.bytes[d];
    struct exec *exec = NULL;
    if (any && result == CUDA_SUCCESS) {
        pthread_mutex_lock(&mutex);
        exec = free_place();
        if (exec) {
            *exec = (struct exec){.handle = handle, .demand = demand};
            aliquot_table_put(&handles, (uintptr_t)handle, (uint64_t)(exec - execs));
            /* relaxed: the launching thread has the exec from the one that made it. */
            atomic_fetch_add_explicit(&exec_count, 1, memory_order_relaxed);
        }
        pthread_mutex_unlock(&mutex);
    }
    aliquot_capture_restore(mode);
    if (result == CUDA_SUCCESS && any && !exec)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    return result;
}

/* -- Launching ---------------------------------------------------------------------------------- */

struct launch {
    CUgraphExec handle;
    CUstream stream;
    bool per_thread;
    CUresult (*run)(CUgraphExec, CUstream);
};

/* Under the mutex: the executable graph of a handle, or NULL. */
static struct exec *find(CUgraphExec handle) {
    uint64_t index;
    return aliquot_table_get(&handles, (uintptr_t)handle, &index) ? &execs[index] : NULL;
}

/* Under the mutex: counts the graph into the spread, and says what each pool may grow by. */
static bool foresee(struct exec *exec, uint64_t growth[ALIQUOT_MAX_DEVICES]) {
    bool counted = exec->epoch == epoch, any = false;
    exec->epoch = epoch;
    for (uint32_t d = 0; d < ALIQUOT_MAX_DEVICES; d++) {
        uint64_t demand = exec->demand.bytes[d];
        spread.bytes[d] += counted ? 0 : demand;
        spread.nodes[d] += counted ? 0 : exec->demand.nodes[d];
        uint64_t lacking = spread.bytes[d] > charged[d] ? spread.bytes[d] - charged[d] : 0;
        growth[d] = lacking < demand ? lacking : demand;
        any |= growth[d] != 0;
    }
    return any;
}

/* Under the mutex: an event behind the launch, so that one can see when its memory is free. */
static void mark(struct exec *exec, const struct launch *launch) {
    const struct aliquot_context *context;
    const struct aliquot_context *current = aliquot_context_current();
    CUcontext popped;
    if (aliquot_stream_context(launch->stream, &context) != CUDA_SUCCESS || !context || !current)
        return;
    bool push = context->handle != current->handle;
    if (push && REAL(cuCtxPushCurrent_v2)(context->handle) != CUDA_SUCCESS)
        return;
    if (exec->event && exec->context != context->index) {
        REAL(cuEventDestroy_v2)(exec->event);
        exec->event = NULL;
    }
    if (!exec->event)
        REAL(cuEventCreate)(&exec->event, CU_EVENT_DISABLE_TIMING);
    exec->context = context->index;
    if (exec->event)
        (launch->per_thread ? REAL(cuEventRecord_ptsz) : REAL(cuEventRecord))(exec->event,
                                                                              launch->stream);
    if (push)
        REAL(cuCtxPopCurrent_v2)(&popped);
}

/* Launches, and books what came of it; `ahead` was charged. */
static CUresult run(const struct launch *launch, const uint64_t ahead[ALIQUOT_MAX_DEVICES]) {
    CUresult result;
    ALIQUOT_RETRY(result, launch->run(launch->handle, launch->stream));
    CUstreamCaptureMode mode = aliquot_capture_relax();
    pthread_mutex_lock(&mutex);
    struct exec *exec = find(launch->handle);
    if (exec && result == CUDA_SUCCESS)
        mark(exec, launch);
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        if (ahead[d])
            settle(d, ahead[d]);
    pthread_mutex_unlock(&mutex);
    aliquot_capture_restore(mode);
    return result;
}

/* Whether no graph with memory is under way, so that the pools' counters of what is in use are true.
 * Nothing is launched meanwhile. */
static bool wait_for_all(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t deadline = now.tv_sec * 1000000000ll + now.tv_nsec + PATIENCE_NS;
    for (long pause = 20000;; pause = pause < 500000 ? pause * 2 : 1000000) {
        bool busy = false;
        pthread_mutex_lock(&mutex);
        for (uint32_t i = 0; i < exec_mark && !busy; i++)
            busy = execs[i].event && REAL(cuEventQuery)(execs[i].event) == CUDA_ERROR_NOT_READY;
        pthread_mutex_unlock(&mutex);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (!busy || now.tv_sec * 1000000000ll + now.tv_nsec > deadline)
            return !busy;
        nanosleep(&(struct timespec){0, pause}, NULL);
    }
}

/* There is no room for the pools to grow: launches if what graphs have that do not run suffices. */
static CUresult squeeze(const struct launch *launch) {
    static const uint64_t nothing[ALIQUOT_MAX_DEVICES];
    uint64_t growth[ALIQUOT_MAX_DEVICES];
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    CUstreamCaptureMode mode = aliquot_capture_relax();
    pthread_rwlock_wrlock(&launching);
    bool fits = wait_for_all();
    pthread_mutex_lock(&mutex);
    struct exec *exec = find(launch->handle);
    /* Counted again where the pools were trimmed since: what it is about to hold is not there for others. */
    if (exec)
        foresee(exec, growth);
    for (uint32_t d = 0; exec && d < aliquot_slice.device_count && fits; d++) {
        if (!exec->demand.bytes[d])
            continue;
        cuuint64_t used;
        fits = tells(d, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used);
        /* The counter counts bytes; each allocation may have a page that it does not fill. */
        used += used ? spread.nodes[d] * aliquot_page_bytes(d) : 0;
        fits &= used + exec->demand.bytes[d] <= charged[d];
    }
    pthread_mutex_unlock(&mutex);
    aliquot_capture_restore(mode);
    if (fits)
        result = run(launch, nothing);
    pthread_rwlock_unlock(&launching);
    return result;
}

/* Calls the driver after charging what the launch may newly take. */
static CUresult with_memory(const struct launch *launch) {
    uint64_t growth[ALIQUOT_MAX_DEVICES] = {0};
    /* relaxed: the launching thread has the exec from the one that made it. */
    if (__builtin_expect(!atomic_load_explicit(&exec_count, memory_order_relaxed), 1) ||
        aliquot_ready() != CUDA_SUCCESS || aliquot_capturing(launch->stream, launch->per_thread))
        return launch->run(launch->handle, launch->stream);
    pthread_rwlock_rdlock(&launching);
    pthread_mutex_lock(&mutex);
    struct exec *exec = find(launch->handle);
    bool may_grow = exec && foresee(exec, growth), refused = false;
    pthread_mutex_unlock(&mutex);
    if (!exec || !may_grow) {
        CUresult result = exec ? run(launch, growth) : launch->run(launch->handle, launch->stream);
        pthread_rwlock_unlock(&launching);
        return result;
    }
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        if (growth[d] && (refused || !aliquot_charge(d, growth[d]))) {
            refused = true;
            growth[d] = 0;
        }
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    if (!refused)
        result = run(launch, growth);
    else
        for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
            if (growth[d])
                aliquot_withdraw(d, growth[d]);
    pthread_rwlock_unlock(&launching);
    return refused ? squeeze(launch) : result;
}

/* A graph is one launch, of the time that it took before: nothing is known of what it consists of. */
static CUresult gated(const struct launch *launch) {
    struct aliquot_gated gate =
        aliquot_hold_back((uintptr_t)launch->handle, launch->stream, launch->per_thread);
    return aliquot_went(&gate, with_memory(launch));
}

CUresult aliquot_cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    return gated(&(struct launch){exec, stream, false, REAL(cuGraphLaunch)});
}

CUresult aliquot_cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) {
    return gated(&(struct launch){exec, stream, true, REAL(cuGraphLaunch_ptsz)});
}

CUresult aliquot_cuGraphUpload(CUgraphExec exec, CUstream stream) {
    return with_memory(&(struct launch){exec, stream, false, REAL(cuGraphUpload)});
}

CUresult aliquot_cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream) {
    return with_memory(&(struct launch){exec, stream, true, REAL(cuGraphUpload_ptsz)});
}

/* -- Instantiation ------------------------------------------------------------------------------ */

static CUresult instantiated(CUresult result, CUgraphExec *exec, CUgraph graph) {
    if (result == CUDA_SUCCESS && (result = remember(*exec, graph)) != CUDA_SUCCESS) {
        REAL(cuGraphExecDestroy)(*exec);
        *exec = NULL;
    }
    return result;
}

CUresult aliquot_cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *error, char *log,
                                    size_t size) {
    return instantiated(REAL(cuGraphInstantiate)(exec, graph, error, log, size), exec, graph);
}

CUresult aliquot_cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *error,
                                       char *log, size_t size) {
    return instantiated(REAL(cuGraphInstantiate_v2)(exec, graph, error, log, size), exec, graph);
}

CUresult aliquot_cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph,
                                             unsigned long long flags) {
    return instantiated(REAL(cuGraphInstantiateWithFlags)(exec, graph, flags), exec, graph);
}

CUresult aliquot_cuGraphExecDestroy(CUgraphExec handle) {
    uint64_t index;
    bool ours = false;
    if (handle && atomic_load_explicit(&exec_count, memory_order_relaxed)) {
        /* The driver may give the handle out again at once. */
        pthread_mutex_lock(&mutex);
        ours = aliquot_table_take(&handles, (uintptr_t)handle, &index);
        pthread_mutex_unlock(&mutex);
    }
    aliquot_time_what_leaves((uintptr_t)handle);
    CUresult result = REAL(cuGraphExecDestroy)(handle);
    if (!ours)
        return result;
    pthread_mutex_lock(&mutex);
    if (result == CUDA_SUCCESS) {
        execs[index].handle = NULL;
        atomic_fetch_sub_explicit(&exec_count, 1, memory_order_relaxed);
    } else
        aliquot_table_put(&handles, (uintptr_t)handle, index);
    pthread_mutex_unlock(&mutex);
    return result;
}

void aliquot_graph_context_gone(uint16_t context) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < exec_mark; i++)
        if (execs[i].context == context)
            execs[i].event = NULL; /* gone with it, and the launch with both */
    pthread_mutex_unlock(&mutex);
}

/* Instantiating with upload maps the memory at once: it is done in two steps that are charged as
 * such, with the same outcome. */
static CUresult
with_parameters(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *parameters,
                CUresult (*instantiate)(CUgraphExec *, CUgraph, CUDA_GRAPH_INSTANTIATE_PARAMS *),
                CUresult (*upload)(CUgraphExec, CUstream), bool per_thread) {
    struct demand demand = {{0}, {0}};
    /* (Of what is no graph the driver says so itself.) */
    if (parameters && parameters->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD && upload && graph &&
        HAVE(cuGraphMemAllocNodeGetParams) && aliquot_ready() == CUDA_SUCCESS) {
        CUresult told = add_graph(graph, &demand, 0);
        if (told != CUDA_SUCCESS)
            return told;
    }
    uint64_t any = 0;
    for (uint32_t d = 0; d < ALIQUOT_MAX_DEVICES; d++)
        any |= demand.bytes[d];
    if (!any)
        return instantiated(instantiate(exec, graph, parameters), exec, graph);
    CUDA_GRAPH_INSTANTIATE_PARAMS plain = *parameters;
    plain.flags &= ~(cuuint64_t)CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
    CUresult result = instantiated(instantiate(exec, graph, &plain), exec, graph);
    parameters->hErrNode_out = plain.hErrNode_out;
    parameters->result_out = plain.result_out;
    if (result == CUDA_SUCCESS) {
        result =
            with_memory(&(struct launch){*exec, parameters->hUploadStream, per_thread, upload});
        if (result != CUDA_SUCCESS) {
            aliquot_cuGraphExecDestroy(*exec);
            *exec = NULL;
        }
    }
    return result;
}

CUresult aliquot_cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph graph,
                                              CUDA_GRAPH_INSTANTIATE_PARAMS *parameters) {
    return with_parameters(exec, graph, parameters, REAL(cuGraphInstantiateWithParams),
                           REAL(cuGraphUpload), false);
}

CUresult aliquot_cuGraphInstantiateWithParams_ptsz(CUgraphExec *exec, CUgraph graph,
                                                   CUDA_GRAPH_INSTANTIATE_PARAMS *parameters) {
    return with_parameters(exec, graph, parameters, REAL(cuGraphInstantiateWithParams_ptsz),
                           REAL(cuGraphUpload_ptsz), true);
}

CUresult aliquot_cuDeviceGraphMemTrim(CUdevice ordinal) {
    int device = aliquot_ready() == CUDA_SUCCESS ? aliquot_device_index(ordinal) : -1;
    if (device < 0)
        return REAL(cuDeviceGraphMemTrim)(ordinal);
    /* A launch on its way has been told what the pool has. */
    pthread_rwlock_wrlock(&launching);
    CUresult result = REAL(cuDeviceGraphMemTrim)(ordinal);
    if (result == CUDA_SUCCESS)
        aliquot_graph_settle((uint32_t)device);
    pthread_rwlock_unlock(&launching);
    return result;
}

void aliquot_graph_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    pthread_rwlock_init(&launching, NULL);
    memset(charged, 0, sizeof charged);
    memset(&spread, 0, sizeof spread);
    if (execs)
        munmap(execs, EXECS * sizeof *execs);
    execs = NULL;
    exec_mark = 0;
    aliquot_table_reset(&handles);
    atomic_store_explicit(&exec_count, 0, memory_order_relaxed);
}
