/* Graphs that allocate memory when they run. */
#include "tenant_cuda.h"

enum { GRAPH, EXEC, STREAM };
enum { FREES_ITSELF, REPEATS, HELD };

static CUmemPoolProps place(void) {
    return (CUmemPoolProps){
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda.device},
    };
}

static void build(struct thing *thing) {
    CUgraph graph;
    CUgraphNode taken, freed;
    CUDA_MEM_ALLOC_NODE_PARAMS what = {.poolProps = place(), .bytesize = thing->size};
    MUST(cu.cuGraphCreate(&graph, 0));
    thing->object[GRAPH] = graph;
    MUST(cu.cuGraphAddMemAllocNode(&taken, graph, NULL, 0, &what));
    thing->pointer[0] = what.dptr;
    if (thing->flag[FREES_ITSELF])
        MUST(cu.cuGraphAddMemFreeNode(&freed, graph, &taken, 1, what.dptr));
}

static void capture(struct thing *thing) {
    CUstream stream = thing->object[STREAM];
    MUST(cu.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    MUST(cu.cuMemAllocAsync(&thing->pointer[0], thing->size, stream));
    MUST(cu.cuMemsetD8Async(thing->pointer[0], 7, thing->size < 4096 ? thing->size : 4096, stream));
    if (thing->flag[FREES_ITSELF])
        MUST(cu.cuMemFreeAsync(thing->pointer[0], stream));
    MUST(cu.cuStreamEndCapture(stream, (CUgraph *)&thing->object[GRAPH]));
}

static int instantiate(struct thing *thing, uint64_t *dice) {
    CUgraphExec *exec = (CUgraphExec *)&thing->object[EXEC];
    CUgraph graph = thing->object[GRAPH];
    CUDA_GRAPH_INSTANTIATE_PARAMS parameters = {.flags = CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD,
                                                .hUploadStream = thing->object[STREAM]};
    switch (roll(dice, 4)) {
    case 0:
        return cu.cuGraphInstantiate_v2(exec, graph, NULL, NULL, 0);
    case 1:
        return cu.cuGraphInstantiateWithFlags(exec, graph, 0);
    case 2:
        /* Launching again frees what the last launch left. */
        thing->flag[REPEATS] = true;
        return cu.cuGraphInstantiateWithFlags(exec, graph,
                                              CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    default:
        return cu.cuGraphInstantiateWithParams(exec, graph, &parameters);
    }
}

/* Lets go of what a launch has left allocated. */
static void empty(struct thing *thing, uint64_t *dice) {
    if (!thing->flag[HELD])
        return;
    if (roll(dice, 2)) {
        MUST(cu.cuStreamSynchronize(thing->object[STREAM]));
        MUST(cu.cuMemFree_v2(thing->pointer[0]));
    } else
        MUST(cu.cuMemFreeAsync(thing->pointer[0], thing->object[STREAM]));
    thing->flag[HELD] = false;
}

static void graph_give(struct thing *thing, uint64_t dice) {
    bool early = roll(&dice, 2);
    /* An executable graph may go while what it allocated is still in use. */
    if (early && thing->object[EXEC]) {
        MUST(cu.cuStreamSynchronize(thing->object[STREAM]));
        MUST(cu.cuGraphExecDestroy(thing->object[EXEC]));
    }
    empty(thing, &dice);
    MUST(cu.cuStreamSynchronize(thing->object[STREAM]));
    if (!early && thing->object[EXEC])
        MUST(cu.cuGraphExecDestroy(thing->object[EXEC]));
    MUST(cu.cuGraphDestroy(thing->object[GRAPH]));
    MUST(cu.cuStreamDestroy_v2(thing->object[STREAM]));
}

static int graph_get(struct thing *thing, uint64_t size, uint64_t dice) {
    thing->size = size;
    thing->flag[FREES_ITSELF] = roll(&dice, 2);
    MUST(cu.cuStreamCreate((CUstream *)&thing->object[STREAM], CU_STREAM_NON_BLOCKING));
    if (roll(&dice, 2))
        build(thing);
    else
        capture(thing);
    CUresult result = instantiate(thing, &dice);
    if (result != CUDA_SUCCESS) {
        thing->object[EXEC] = NULL;
        graph_give(thing, dice);
    }
    return result;
}

static int launch(struct thing *thing, uint64_t *dice) {
    if (thing->flag[HELD] && !thing->flag[REPEATS])
        empty(thing, dice);
    CUstream stream = thing->object[STREAM];
    CUresult result = roll(dice, 2) ? cu.cuGraphLaunch(thing->object[EXEC], stream)
                                    : cu.cuGraphLaunch_ptsz(thing->object[EXEC], stream);
    if (result == CUDA_SUCCESS)
        thing->flag[HELD] = !thing->flag[FREES_ITSELF];
    else if (thing->flag[HELD]) {
        /* The driver may have freed what the last launch left, or not have come so far. */
        CUresult freed = cu.cuMemFreeAsync(thing->pointer[0], stream);
        if (freed != CUDA_SUCCESS && freed != CUDA_ERROR_INVALID_VALUE)
            fail("freeing after a failed launch is answered with %d", (int)freed);
        thing->flag[HELD] = false;
    }
    return result;
}

static void check_reserve(void) {
    cuuint64_t used = 0, reserved = 0;
    MUST(cu.cuDeviceGetGraphMemAttribute(cuda.device, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used));
    MUST(cu.cuDeviceGetGraphMemAttribute(cuda.device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH,
                                         &reserved));
    if (used > reserved)
        fail("graphs use %llu bytes of %llu", (unsigned long long)used,
             (unsigned long long)reserved);
}

static int graph_poke(struct thing *thing, uint64_t dice) {
    CUresult result = CUDA_SUCCESS;
    switch (roll(&dice, 8)) {
    case 0:
        return cu.cuGraphUpload(thing->object[EXEC], thing->object[STREAM]);
    case 1:
        MUST(cu.cuDeviceGraphMemTrim(cuda.device));
        break;
    case 2:
        MUST(cu.cuStreamSynchronize(thing->object[STREAM]));
        check_reserve();
        break;
    case 3:
        for (unsigned i = 0; i < 4 && result == CUDA_SUCCESS; i++)
            result = launch(thing, &dice);
        break;
    default:
        result = launch(thing, &dice);
    }
    return result;
}

const struct kind graph_kinds[] = {
    {"graph", graph_get, graph_poke, graph_give, false, NULL, false},
    {0},
};
