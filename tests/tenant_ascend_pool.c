/* Memory in the order of streams, from pools of a program's own: there is no other. Pieces come and go; the
 * pool may be destroyed before they do. */
#include "tenant_ascend.h"

/* Of the runtime's own functions and AscendCL's, which are the same. */
static int take(void **given, uint64_t size, void *pool, void *in, bool by_runtime) {
    return by_runtime ? npu.rtMemPoolMallocAsync(given, size, pool, in)
                      : npu.aclrtMemPoolMallocAsync(given, size, pool, in);
}

static void give_back(struct thing *thing, uint64_t *dice) {
    void *piece = (void *)thing->pointer[--thing->count], *in = ascend.stream[roll(dice, 2)];
    MUST(roll(dice, 2) ? npu.rtMemPoolFreeAsync(piece, in) : npu.aclrtMemPoolFreeAsync(piece, in));
}

static void destroy(struct thing *thing, uint64_t *dice) {
    MUST(roll(dice, 2) ? npu.rtMemPoolDestroy(thing->object[0])
                       : npu.aclrtMemPoolDestroy(thing->object[0]));
    thing->object[0] = NULL;
}

static int piece_get(struct thing *thing, uint64_t size, uint64_t *dice) {
    void *piece = NULL, *in = ascend.stream[roll(dice, 2)];
    if (thing->count == PIECES || !thing->object[0])
        return OK;
    int result = take(&piece, size, thing->object[0], in, roll(dice, 2));
    if (result != OK)
        return result;
    MUST(npu.aclrtSynchronizeStream(in));
    thing->pointer[thing->count++] = (uintptr_t)piece;
    return OK;
}

static int make(void **pool, bool by_runtime) {
    struct pool_property property = {.location = {.id = 0, .type = 1}};
    struct driver_pool_property driver = {.side = 1, .device = 0};
    return by_runtime ? npu.rtMemPoolCreate(pool, &driver)
                      : npu.aclrtMemPoolCreate(pool, &property);
}

static void keep(void *pool, uint64_t threshold, bool by_runtime) {
    MUST(by_runtime ? npu.rtMemPoolSetAttr(pool, THRESHOLD, &threshold)
                    : npu.aclrtMemPoolSetAttr(pool, THRESHOLD, &threshold));
}

static int pool_get(struct thing *thing, uint64_t size, uint64_t dice) {
    const uint64_t threshold[] = {0, 16 * MIB, UINT64_MAX};
    int result = make(&thing->object[0], roll(&dice, 2));
    if (result != OK)
        return result;
    keep(thing->object[0], threshold[roll(&dice, 3)], roll(&dice, 2));
    result = piece_get(thing, size, &dice);
    if (result != OK)
        destroy(thing, &dice);
    return result;
}

static void check_pool(void *pool) {
    uint64_t reserved = 0, used = 0, most = 0;
    MUST(npu.rtMemPoolGetAttr(pool, USED, &used));
    MUST(npu.aclrtMemPoolGetAttr(pool, RESERVED, &reserved));
    MUST(npu.rtMemPoolGetAttr(pool, RESERVED_MOST, &most));
    if (used > reserved || reserved > most)
        fail("a pool uses %llu bytes of %llu, at most %llu", (unsigned long long)used,
             (unsigned long long)reserved, (unsigned long long)most);
}

static int pool_poke(struct thing *thing, uint64_t dice) {
    if (!thing->object[0])
        return OK;
    check_pool(thing->object[0]);
    switch (roll(&dice, 8)) {
    case 0:
        return piece_get(thing, thing->size, &dice);
    case 1:
        return piece_get(thing, 1 + thing->size / 16, &dice);
    case 2:
        if (thing->count > 1)
            give_back(thing, &dice);
        break;
    case 3:
        MUST(npu.aclrtMemPoolTrimTo(thing->object[0], roll(&dice, 3) * 8 * MIB));
        break;
    case 4:
        MUST(npu.rtMemPoolTrimTo(thing->object[0], 0));
        break;
    case 5:
        keep(thing->object[0], roll(&dice, 2) ? 64 * MIB : 0, roll(&dice, 2));
        break;
    case 6:
        destroy(thing, &dice);
        break;
    default:
        if (thing->count)
            mark(thing->pointer[0], thing->size);
    }
    return OK;
}

static void pool_give(struct thing *thing, uint64_t dice) {
    if (thing->object[0] && roll(&dice, 2))
        destroy(thing, &dice);
    while (thing->count)
        give_back(thing, &dice);
    if (thing->object[0])
        destroy(thing, &dice);
}

const struct kind pool_kinds[] = {
    {"pool", pool_get, pool_poke, pool_give, true, NULL, false},
    {0},
};
