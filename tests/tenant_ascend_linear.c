/* Memory by pointer, by each call that gives it, and contexts. */
#include "tenant_ascend.h"

#include <stdlib.h>
#include <string.h>

static int given(struct thing *thing, int result, void *const *pointer) {
    thing->pointer[0] = (uintptr_t)*pointer;
    if (result == OK)
        mark(thing->pointer[0], thing->size);
    return result;
}

/* What is asked for is what is taken: 0 is the runtime's plainest. */
static int linear_get(struct thing *thing, uint64_t size, uint64_t dice) {
    struct config config = {NULL, 0};
    __typeof__(*config.attrs) on_device = {.attr = 2, .device = 0};
    void *got = NULL;
    switch (roll(&dice, 7)) {
    case 0:
        return given(thing, npu.rtMalloc(&got, size, 2, 33), &got);
    case 1:
        return given(thing, npu.rtMallocCached(&got, size, 2, 33), &got);
    case 2:
        return given(thing, npu.rtMemAlloc(&got, size, 0, 0, NULL), &got);
    case 3:
        return given(thing, npu.rtsMalloc(&got, size, 0, 0, &config), &got);
    case 4:
        config.attrs = &on_device;
        config.count = 1;
        return given(thing, npu.aclrtMallocWithCfg(&got, size, 0, &config), &got);
    case 5:
        return given(thing, npu.aclrtMallocForTaskScheduler(&got, size, 0, NULL), &got);
    default:
        return given(thing, npu.aclrtMallocAlign32(&got, size, 0), &got);
    }
}

/* AscendCL's own take somewhat more. */
static int padded_get(struct thing *thing, uint64_t size, uint64_t dice) {
    void *got = NULL;
    int result =
        roll(&dice, 2) ? npu.aclrtMalloc(&got, size, 0) : npu.aclrtMallocCached(&got, size, 0);
    return given(thing, result, &got);
}

static int managed_get(struct thing *thing, uint64_t size, uint64_t dice) {
    void *got = NULL;
    int result = roll(&dice, 2) ? npu.aclrtMemAllocManaged(&got, size, 0)
                                : npu.rtMemAllocManaged(&got, size, 0, 33);
    return given(thing, result, &got);
}

static int dvpp_get(struct thing *thing, uint64_t size, uint64_t dice) {
    void *got = NULL;
    int result = roll(&dice, 2) ? npu.rtDvppMallocWithFlag(&got, size, 0, 33)
                                : npu.rtDvppMalloc(&got, size, 33);
    return given(thing, result, &got);
}

/* Work between the signs. */
static int work_poke(struct thing *thing, uint64_t dice) {
    enum { EDGE = 16, MOST = 4096 };
    check_mark(thing->pointer[0], thing->size);
    if (thing->size > 2 * EDGE) {
        uint64_t length = thing->size - 2 * EDGE < MOST ? thing->size - 2 * EDGE : MOST;
        MUST(npu.aclrtMemsetAsync((void *)(thing->pointer[0] + EDGE), length, 7, length,
                                  ascend.stream[roll(&dice, 2)]));
    }
    return OK;
}

/* What was shown once is shown by the same name again: every other one would be a name more. */
static int linear_send(struct thing *thing) {
    struct letter letter = {.kind = LETTER_IPC, .size = thing->size, .number = -1, .fd = -1};
    void *pointer = (void *)thing->pointer[0];
    if (!thing->object[0]) {
        char name[NAME] = "";
        MUST(thing->size % 2
                 ? npu.rtsIpcMemGetExportKey(pointer, thing->size, name, NAME, ANYONE)
                 : npu.aclrtIpcMemGetExportKey(pointer, thing->size, name, NAME, ANYONE));
        thing->object[0] = strdup(name);
    }
    strcpy(letter.key, thing->object[0]);
    thing->flag[0] = true;
    post(&letter);
    return OK;
}

static int linear_poke(struct thing *thing, uint64_t dice) {
    return roll(&dice, 2) ? linear_send(thing) : work_poke(thing, dice);
}

static void linear_give(struct thing *thing, uint64_t dice) {
    void *pointer = (void *)thing->pointer[0];
    if (!thing->flag[0]) /* others may write what they were shown */
        check_mark(thing->pointer[0], thing->size);
    free(thing->object[0]);
    switch (roll(&dice, 5)) {
    case 0:
        MUST(npu.aclrtFree(pointer));
        break;
    case 1:
    case 2:
        pthread_rwlock_rdlock(&ascend.capturing);
        MUST(roll(&dice, 2) ? npu.rtFreeWithDevSync(pointer) : npu.aclrtFreeWithDevSync(pointer));
        pthread_rwlock_unlock(&ascend.capturing);
        break;
    default:
        MUST(npu.rtFree(pointer));
    }
}

static void managed_give(struct thing *thing, uint64_t dice) {
    check_mark(thing->pointer[0], thing->size);
    if (roll(&dice, 2))
        MUST(npu.rtFree((void *)thing->pointer[0]));
    else
        MUST(npu.rtMemFreeManaged((void *)thing->pointer[0]));
}

static void dvpp_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    check_mark(thing->pointer[0], thing->size);
    MUST(npu.rtDvppFree((void *)thing->pointer[0]));
}

/* Host memory: takes nothing of the device. */
static int pinned_get(struct thing *thing, uint64_t size, uint64_t dice) {
    size = size < MIB ? size : MIB;
    return roll(&dice, 2) ? npu.aclrtMallocHost(&thing->object[0], size)
                          : npu.rtMallocHost(&thing->object[0], size, 33);
}

static void pinned_give(struct thing *thing, uint64_t dice) {
    MUST(roll(&dice, 2) ? npu.aclrtFreeHost(thing->object[0]) : npu.rtFreeHost(thing->object[0]));
}

/* -- Contexts: views of the device, which stays open as long as one of them is there ----------------- */

static int context_get(struct thing *thing, uint64_t size, uint64_t dice) {
    void *before = vendor.current();
    (void)size;
    (void)dice;
    int result = npu.aclrtCreateContext(&thing->object[0], 0);
    if (result == OK)
        MUST(npu.aclrtSetCurrentContext(before));
    return result;
}

static void context_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(npu.aclrtDestroyContext(thing->object[0]));
}

const struct kind linear_kinds[] = {
    {"linear", linear_get, linear_poke, linear_give, true, linear_send, false},
    {"padded", padded_get, work_poke, linear_give, true, NULL, false},
    {"managed", managed_get, work_poke, managed_give, true, NULL, false},
    {"dvpp", dvpp_get, work_poke, dvpp_give, true, NULL, false},
    {"pinned", pinned_get, nothing_poke, pinned_give, true, NULL, false},
    {"context", context_get, nothing_poke, context_give, false, NULL, false},
    {0},
};
