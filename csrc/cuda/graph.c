/* Memory that graphs allocate when they run. It comes from a pool of the device's that the driver
 * keeps for graphs: a launch is charged beforehand with all that its nodes may take, and settled
 * from the pool's counter. Launching again what has been launched takes nothing new.
 */
#include "shim.h"

#include <pthread.h>
#include <sys/mman.h>
#include <string.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t charged[ALIQUOT_MAX_DEVICES]; /* bytes, of each device's graph pool */

/* Executable graphs with memory nodes: exec << 4 | device to pages << 24 | epoch in which it was
 * last launched. An exec is at least 16-aligned or a small number: either way the key is unique. */
static struct aliquot_table execs;
static _Atomic uint32_t exec_count;
#define EPOCH_BITS 24
#define EPOCH_MASK ((1u << EPOCH_BITS) - 1)
/* Advanced when the pools are trimmed, from 1: what was launched before may have to grow again. */
static _Atomic uint32_t epoch = 1;

static uint64_t exec_key(CUgraphExec exec, uint32_t device) {
    return (uint64_t)(uintptr_t)exec << 4 | device;
}

static uint64_t reserved(uint32_t device) {
    cuuint64_t value = 0;
    if (HAVE(cuDeviceGetGraphMemAttribute))
        REAL(cuDeviceGetGraphMemAttribute)
    (aliquot_device_ordinal(device), CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &value);
    return value;
}

/* Under the mutex: makes the charge what the pool has reserved, of which `ahead` is charged besides. */
static void settle(uint32_t device, uint64_t ahead) {
    uint64_t booked = charged[device] + ahead, now = reserved(device);
    if (now > booked)
        aliquot_charge_given(device, now - booked);
    else if (now < booked)
        aliquot_withdraw(device, booked - now);
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

struct demand {
    uint64_t bytes[ALIQUOT_MAX_DEVICES];
};

static void add_node(CUgraphNode node, struct demand *demand) {
    CUDA_MEM_ALLOC_NODE_PARAMS allocation;
    if (REAL(cuGraphMemAllocNodeGetParams)(node, &allocation) != CUDA_SUCCESS ||
        allocation.poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return;
    int device = aliquot_device_index(allocation.poolProps.location.id);
    if (device >= 0)
        demand->bytes[device] += aliquot_whole_pages((uint32_t)device, allocation.bytesize);
}

/* Sums the allocation nodes of a graph and of its child graphs. */
static void add_graph(CUgraph graph, struct demand *demand, unsigned depth) {
    size_t count = 0;
    if (depth > 16 || REAL(cuGraphGetNodes)(graph, NULL, &count) != CUDA_SUCCESS || !count)
        return;
    size_t size = count * sizeof(CUgraphNode);
    CUgraphNode *node = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (node == MAP_FAILED)
        return;
    if (REAL(cuGraphGetNodes)(graph, node, &count) != CUDA_SUCCESS)
        count = 0;
    for (size_t i = 0; i < count; i++) {
        CUgraphNodeType type;
        CUgraph child;
        if (REAL(cuGraphNodeGetType)(node[i], &type) != CUDA_SUCCESS)
            continue;
        if (type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
            add_node(node[i], demand);
        else if (type == CU_GRAPH_NODE_TYPE_GRAPH &&
                 REAL(cuGraphChildGraphNodeGetGraph)(node[i], &child) == CUDA_SUCCESS)
            add_graph(child, demand, depth + 1);
    }
    munmap(node, size);
}

static void remember(CUgraphExec exec, CUgraph graph) {
    struct demand demand = {{0}};
    if (aliquot_ready() != CUDA_SUCCESS || !HAVE(cuGraphMemAllocNodeGetParams))
        return;
    CUstreamCaptureMode mode = aliquot_capture_relax();
    add_graph(graph, &demand, 0);
    aliquot_capture_restore(mode);
    for (uint32_t d = 0; d < ALIQUOT_MAX_DEVICES; d++)
        if (demand.bytes[d] &&
            aliquot_table_put(&execs, exec_key(exec, d),
                              demand.bytes[d] / aliquot_page_bytes(d) << EPOCH_BITS))
            atomic_fetch_add_explicit(&exec_count, 1, memory_order_relaxed);
}

/* -- Launching ---------------------------------------------------------------------------------- */

/* Calls `run` after charging what the graph may newly take. */
static CUresult with_memory(CUgraphExec exec, CUstream stream,
                            CUresult (*run)(CUgraphExec, CUstream)) {
    /* relaxed: the launching thread has the exec from the one that made it. */
    if (__builtin_expect(!atomic_load_explicit(&exec_count, memory_order_relaxed), 1) ||
        aliquot_ready() != CUDA_SUCCESS)
        return run(exec, stream);
    uint64_t value[ALIQUOT_MAX_DEVICES], ahead[ALIQUOT_MAX_DEVICES] = {0};
    bool ours[ALIQUOT_MAX_DEVICES] = {false}, refused = false, any = false;
    uint32_t now = atomic_load_explicit(&epoch, memory_order_relaxed) & EPOCH_MASK;
    for (uint32_t d = 0; d < aliquot_slice.device_count && !refused; d++) {
        ours[d] = aliquot_table_get(&execs, exec_key(exec, d), &value[d]) &&
                  (value[d] & EPOCH_MASK) != now;
        uint64_t bytes = ours[d] ? (value[d] >> EPOCH_BITS) * aliquot_page_bytes(d) : 0;
        if (!bytes)
            continue;
        refused = !aliquot_charge(d, bytes);
        ahead[d] = refused ? 0 : bytes;
        any = true;
    }
    if (!any)
        return run(exec, stream);
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    if (!refused)
        ALIQUOT_RETRY(result, run(exec, stream));
    CUstreamCaptureMode mode = aliquot_capture_relax();
    pthread_mutex_lock(&mutex);
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        if (ahead[d]) {
            settle(d, ahead[d]);
            if (result == CUDA_SUCCESS)
                aliquot_table_put(&execs, exec_key(exec, d), (value[d] & ~(uint64_t)EPOCH_MASK) | now);
        }
    pthread_mutex_unlock(&mutex);
    aliquot_capture_restore(mode);
    return result;
}

CUresult aliquot_cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    return with_memory(exec, stream, REAL(cuGraphLaunch));
}

CUresult aliquot_cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) {
    return with_memory(exec, stream, REAL(cuGraphLaunch_ptsz));
}

CUresult aliquot_cuGraphUpload(CUgraphExec exec, CUstream stream) {
    return with_memory(exec, stream, REAL(cuGraphUpload));
}

CUresult aliquot_cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream) {
    return with_memory(exec, stream, REAL(cuGraphUpload_ptsz));
}

/* -- Instantiation ------------------------------------------------------------------------------ */

static CUresult instantiated(CUresult result, const CUgraphExec *exec, CUgraph graph) {
    if (result == CUDA_SUCCESS)
        remember(*exec, graph);
    return result;
}

CUresult aliquot_cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *error,
                                    char *log, size_t size) {
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

CUresult aliquot_cuGraphExecDestroy(CUgraphExec exec) {
    uint64_t value[ALIQUOT_MAX_DEVICES];
    bool ours[ALIQUOT_MAX_DEVICES] = {false};
    if (exec && atomic_load_explicit(&exec_count, memory_order_relaxed))
        for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
            ours[d] = aliquot_table_take(&execs, exec_key(exec, d), &value[d]);
    CUresult result = REAL(cuGraphExecDestroy)(exec);
    for (uint32_t d = 0; d < ALIQUOT_MAX_DEVICES; d++) {
        if (!ours[d])
            continue;
        if (result != CUDA_SUCCESS)
            aliquot_table_put(&execs, exec_key(exec, d), value[d]);
        else
            atomic_fetch_sub_explicit(&exec_count, 1, memory_order_relaxed);
    }
    return result;
}

/* Instantiating with upload maps the memory at once: it is done in two steps that are charged as
 * such, with the same outcome. */
static CUresult with_parameters(
    CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *parameters,
    CUresult (*instantiate)(CUgraphExec *, CUgraph, CUDA_GRAPH_INSTANTIATE_PARAMS *),
    CUresult (*upload)(CUgraphExec, CUstream)) {
    struct demand demand = {{0}};
    if (parameters && parameters->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD && upload &&
        HAVE(cuGraphMemAllocNodeGetParams) && aliquot_ready() == CUDA_SUCCESS)
        add_graph(graph, &demand, 0);
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
        result = with_memory(*exec, parameters->hUploadStream, upload);
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
                           REAL(cuGraphUpload));
}

CUresult
aliquot_cuGraphInstantiateWithParams_ptsz(CUgraphExec *exec, CUgraph graph,
                                          CUDA_GRAPH_INSTANTIATE_PARAMS *parameters) {
    return with_parameters(exec, graph, parameters, REAL(cuGraphInstantiateWithParams_ptsz),
                           REAL(cuGraphUpload_ptsz));
}

CUresult aliquot_cuDeviceGraphMemTrim(CUdevice ordinal) {
    CUresult result = REAL(cuDeviceGraphMemTrim)(ordinal);
    if (result != CUDA_SUCCESS || aliquot_ready() != CUDA_SUCCESS)
        return result;
    int device = aliquot_device_index(ordinal);
    atomic_fetch_add_explicit(&epoch, 1, memory_order_relaxed);
    if (device >= 0)
        aliquot_graph_settle((uint32_t)device);
    return result;
}

void aliquot_graph_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    memset(charged, 0, sizeof charged);
    aliquot_table_reset(&execs);
    atomic_store_explicit(&exec_count, 0, memory_order_relaxed);
}
