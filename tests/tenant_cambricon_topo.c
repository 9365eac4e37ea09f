/* Work that is recorded into a topology of tasks, which takes no memory of its own. */
#include "tenant_cambricon.h"

enum { TOPO, ENTITY, QUEUE };

/* The bytes that are filled. */
static uint64_t length(const struct thing *thing) {
    return thing->size < 4096 ? thing->size : 4096;
}

static void capture(struct thing *thing) {
    enum { RELAXED = 2 }; /* others allocate meanwhile */
    MUST(cn.cnQueueBeginCapture(thing->object[QUEUE], RELAXED));
    MUST(cn.cnMemsetD8Async(thing->pointer[0], 9, length(thing), thing->object[QUEUE]));
    MUST(cn.cnQueueEndCapture(thing->object[QUEUE], &thing->object[TOPO]));
}

static void build(struct thing *thing) {
    struct memset_node what = {.at = thing->pointer[0],
                               .element_bytes = 1,
                               .value = 9,
                               .width = length(thing),
                               .height = 1};
    handle node;
    MUST(cn.cnTaskTopoCreate(&thing->object[TOPO], 0));
    MUST(cn.cnTaskTopoAddMemsetNode(&node, thing->object[TOPO], NULL, 0, &what));
}

/* What is recorded fills memory, which is there before and after. */
static int recording_get(struct thing *thing, uint64_t size, uint64_t dice) {
    int result = vendor.allocate(&thing->pointer[0], size);
    if (result != OK)
        return result;
    MUST(cn.cnCreateQueue(&thing->object[QUEUE], 0));
    if (roll(&dice, 2))
        capture(thing);
    else
        build(thing);
    MUST(cn.cnTaskTopoInstantiate(&thing->object[ENTITY], thing->object[TOPO], NULL, NULL, 0));
    return OK;
}

static int recording_poke(struct thing *thing, uint64_t dice) {
    unsigned char byte = 0;
    if (roll(&dice, 2))
        MUST(cn.cnTaskTopoUpload(thing->object[ENTITY], thing->object[QUEUE]));
    for (unsigned times = 1 + roll(&dice, 3); times; times--)
        MUST(cn.cnTaskTopoEntityInvoke(thing->object[ENTITY], thing->object[QUEUE]));
    MUST(cn.cnQueueSync(thing->object[QUEUE]));
    vendor.read(&byte, thing->pointer[0], 1);
    if (byte != 9)
        fail("a topology has filled memory with %d", byte);
    return OK;
}

static void recording_give(struct thing *thing, uint64_t dice) {
    bool first = roll(&dice, 2);
    if (first)
        MUST(cn.cnTaskTopoDestroy(thing->object[TOPO]));
    MUST(cn.cnTaskTopoEntityDestroy(thing->object[ENTITY]));
    if (!first)
        MUST(cn.cnTaskTopoDestroy(thing->object[TOPO]));
    MUST(cn.cnDestroyQueue(thing->object[QUEUE]));
    MUST(vendor.free(thing->pointer[0]));
}

const struct kind topo_kinds[] = {
    {"recording", recording_get, recording_poke, recording_give, true, NULL, true},
    {0},
};
