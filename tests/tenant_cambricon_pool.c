/* Memory in the order of queues: from the device's pool, and from pools of a program's own. */
#include "tenant_cambricon.h"

/* -- In the order of queues, from the device's pool --------------------------------------------------- */

static int async_get(struct thing *thing, uint64_t size, uint64_t dice) {
    unsigned way = roll(&dice, 3);
    handle in = way ? cambricon.queue[way - 1] : NULL;
    int result = roll(&dice, 2)
                     ? cn.cnMemAllocFromPoolAsync(&thing->pointer[0], size, cambricon.pool, in)
                     : cn.cnMemAllocAsync(&thing->pointer[0], size, in);
    if (result == OK) {
        MUST(cn.cnQueueSync(in));
        mark(thing->pointer[0], size);
    }
    return result;
}

static int async_poke(struct thing *thing, uint64_t dice) {
    uint64_t threshold = roll(&dice, 2) ? 64 * MIB : 0;
    check_mark(thing->pointer[0], thing->size);
    switch (roll(&dice, 4)) {
    case 0:
        MUST(cn.cnMemPoolSetAttribute(cambricon.pool, THRESHOLD, &threshold));
        break;
    case 1:
        MUST(cn.cnMemPoolTrimTo(cambricon.pool, 0));
        break;
    case 2:
        MUST(cn.cnQueueSync(cambricon.queue[0]));
        break;
    default:
        work(thing, cambricon.queue[roll(&dice, 2)]);
    }
    return OK;
}

static void free_in_order(address pointer, uint64_t *dice) {
    unsigned way = roll(dice, 3);
    MUST(cn.cnMemFreeAsync(pointer, way ? cambricon.queue[way - 1] : NULL));
}

static void async_give(struct thing *thing, uint64_t dice) {
    check_mark(thing->pointer[0], thing->size);
    free_in_order(thing->pointer[0], &dice);
}

/* -- A pool of its own: pieces come and go; it may be destroyed before they do ---------------------- */

static int piece_get(struct thing *thing, uint64_t size) {
    if (thing->count == PIECES || !thing->object[0])
        return OK;
    int result =
        cn.cnMemAllocFromPoolAsync(&thing->pointer[thing->count], size, thing->object[0], NULL);
    thing->count += result == OK;
    return result;
}

static int pool_get(struct thing *thing, uint64_t size, uint64_t dice) {
    struct pool_properties properties = {.type = 1, .place = 1, .id = (uint32_t)cambricon.device};
    uint64_t threshold[] = {0, 16 * MIB, UINT64_MAX};
    int result = cn.cnMemPoolCreate(&thing->object[0], &properties);
    if (result != OK)
        return result;
    MUST(cn.cnMemPoolSetAttribute(thing->object[0], THRESHOLD, &threshold[roll(&dice, 3)]));
    result = piece_get(thing, size);
    if (result != OK)
        MUST(cn.cnMemPoolDestroy(thing->object[0]));
    return result;
}

static void check_pool(handle of) {
    uint64_t reserved = 0, used = 0, most = 0;
    MUST(cn.cnMemPoolGetAttribute(of, USED, &used));
    MUST(cn.cnMemPoolGetAttribute(of, RESERVED, &reserved));
    MUST(cn.cnMemPoolGetAttribute(of, RESERVED_MOST, &most));
    if (used > reserved || reserved > most)
        fail("a pool uses %llu bytes of %llu, at most %llu", (unsigned long long)used,
             (unsigned long long)reserved, (unsigned long long)most);
}

static int pool_poke(struct thing *thing, uint64_t dice) {
    if (!thing->object[0])
        return OK;
    check_pool(thing->object[0]);
    switch (roll(&dice, 6)) {
    case 0:
        return piece_get(thing, thing->size);
    case 1:
        return piece_get(thing, 1 + thing->size / 16);
    case 2:
        if (thing->count > 1)
            free_in_order(thing->pointer[--thing->count], &dice);
        break;
    case 3:
        MUST(cn.cnMemPoolTrimTo(thing->object[0], roll(&dice, 3) * 8 * MIB));
        break;
    case 4:
        MUST(cn.cnMemPoolDestroy(thing->object[0]));
        thing->object[0] = NULL;
        break;
    default:
        break;
    }
    return OK;
}

static void pool_give(struct thing *thing, uint64_t dice) {
    if (thing->object[0] && roll(&dice, 2)) {
        MUST(cn.cnMemPoolDestroy(thing->object[0]));
        thing->object[0] = NULL;
    }
    while (thing->count)
        free_in_order(thing->pointer[--thing->count], &dice);
    if (thing->object[0])
        MUST(cn.cnMemPoolDestroy(thing->object[0]));
}

const struct kind pool_kinds[] = {
    {"async", async_get, async_poke, async_give, false, NULL, false},
    {"pool", pool_get, pool_poke, pool_give, false, NULL, false},
    {0},
};
