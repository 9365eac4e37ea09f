/* Memory by address, by each call that gives it. */
#include "tenant_cambricon.h"

#include <string.h>

int plainly(address *to, uint64_t size, unsigned way) {
    switch (way) {
    case 0:
        return cn.cnMalloc(to, size);
    case 1:
        return cn.cnZmalloc(to, size);
    case 2:
        return cn.cnMallocConstant(to, size);
    case 3:
        return cn.cnMallocPeerAble(to, size);
    case 4:
        return cn.cnMallocSecurity(to, size);
    case 5:
        return cn.cnMallocNode(to, size, 0);
    case 6:
        return cn.cnMallocNodeConstant(to, size, 0);
    case 7:
        return cn.cnMallocFrameBuffer(to, size, 0);
    default:
        return cn.cnZmallocNode(to, size, 0);
    }
}

static int linear_get(struct thing *thing, uint64_t size, uint64_t dice) {
    int result = plainly(&thing->pointer[0], size, roll(&dice, 9));
    if (result == OK)
        mark(thing->pointer[0], size);
    return result;
}

void work(const struct thing *thing, handle in) {
    enum { EDGE = 16, MOST = 4096 };
    if (thing->size <= 2 * EDGE)
        return;
    uint64_t length = thing->size - 2 * EDGE < MOST ? thing->size - 2 * EDGE : MOST;
    MUST(cn.cnMemsetD8Async(thing->pointer[0] + EDGE, 7, length, in));
}

static int linear_send(struct thing *thing) {
    struct letter letter = {.kind = LETTER_IPC, .size = thing->size, .number = -1, .fd = -1};
    handle name = NULL;
    MUST(cn.cnIpcGetMemHandle(&name, thing->pointer[0]));
    memcpy(letter.key, &name, sizeof name);
    thing->flag[0] = true;
    post(&letter);
    return OK;
}

static int linear_poke(struct thing *thing, uint64_t dice) {
    check_mark(thing->pointer[0], thing->size);
    if (roll(&dice, 2))
        return linear_send(thing);
    work(thing, cambricon.queue[roll(&dice, 2)]);
    return OK;
}

static void linear_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    if (!thing->flag[0]) /* others may write what they were shown */
        check_mark(thing->pointer[0], thing->size);
    MUST(cn.cnFree(thing->pointer[0]));
}

/* Host memory: takes nothing of the device. */
int pinned_get(struct thing *thing, uint64_t size, uint64_t dice) {
    (void)dice;
    return cn.cnMallocHost(&thing->object[0], size < MIB ? size : MIB);
}

void pinned_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cn.cnFreeHost(thing->object[0]));
}

const struct kind linear_kinds[] = {
    {"linear", linear_get, linear_poke, linear_give, true, linear_send, false},
    {"pinned", pinned_get, nothing_poke, pinned_give, true, NULL, false},
    {0},
};
