/* Physical memory by handle, what others share, and what must not be charged. */
#include "tenant_ascend.h"

#include <stdlib.h>
#include <string.h>

/* -- Physical memory by handle ------------------------------------------------------------------------- */

static int create(void **handle, uint64_t size, unsigned device, bool by_runtime) {
    struct property property = {.id = device, .type = 1};
    struct driver_property driver = {.side = 1, .device = device};
    return by_runtime ? npu.rtMallocPhysical(handle, size, &driver, 0)
                      : npu.aclrtMallocPhysical(handle, size, &property, 0);
}

/* Maps the handle at addresses of its own. */
static void map(struct thing *thing) {
    void *at = NULL;
    MUST(npu.aclrtReserveMemAddress(&at, thing->size, 0, NULL, 0));
    MUST(thing->count % 2 ? npu.rtMapMem(at, thing->size, 0, (void *)thing->handle, 0)
                          : npu.aclrtMapMem(at, thing->size, 0, (void *)thing->handle, 0));
    thing->pointer[thing->count++] = (uintptr_t)at;
}

static void unmap(struct thing *thing) {
    void *at = (void *)thing->pointer[--thing->count];
    MUST(thing->count % 2 ? npu.rtUnmapMem(at) : npu.aclrtUnmapMem(at));
    MUST(npu.aclrtReleaseMemAddress(at));
}

static int pages_get(struct thing *thing, uint64_t size, uint64_t dice) {
    void *handle = NULL;
    thing->size = round_up(size, tenant.granularity);
    unsigned maps = roll(&dice, 3);
    int result = create(&handle, thing->size, 0, roll(&dice, 2));
    if (result != OK)
        return result;
    thing->handle = (uintptr_t)handle;
    thing->references = 1;
    while (maps--)
        map(thing);
    return OK;
}

static void let_go(struct thing *thing) {
    void *handle = (void *)thing->handle;
    MUST(thing->references % 2 ? npu.aclrtFreePhysical(handle) : npu.rtFreePhysical(handle));
    if (!--thing->references)
        thing->handle = 0;
}

static int share_pages(struct thing *thing) {
    struct letter letter = {.kind = LETTER_MEMORY, .size = thing->size, .number = -1, .fd = -1};
    void *handle = (void *)thing->handle;
    uint64_t number = 0;
    if (!thing->references)
        return ABSENT;
    MUST(thing->references % 2 ? npu.aclrtMemExportToShareableHandle(handle, 0, ANYONE, &number)
                               : npu.rtsMemExportToShareableHandle(handle, 0, ANYONE, &number));
    memcpy(letter.key, &number, sizeof number);
    post(&letter);
    return OK;
}

static int pages_poke(struct thing *thing, uint64_t dice) {
    void *again = NULL;
    switch (roll(&dice, 6)) {
    case 0:
        if (thing->references && thing->count < PIECES)
            map(thing);
        break;
    case 1:
        if (thing->count && (thing->references || thing->count > 1))
            unmap(thing);
        break;
    case 2:
        if (thing->count) {
            void *at = (void *)thing->pointer[0];
            MUST(roll(&dice, 2) ? npu.rtMemRetainAllocationHandle(at, &again)
                                : npu.aclrtMemRetainAllocationHandle(at, &again));
            thing->handle = (uintptr_t)again;
            thing->references++;
        }
        break;
    case 3:
        if (thing->references && (thing->count || thing->references > 1))
            let_go(thing);
        break;
    case 4:
        share_pages(thing);
        break;
    default:
        if (thing->count) {
            mark(thing->pointer[0], thing->size);
            /* The same pages under another address. */
            uint64_t one, other;
            vendor.read(&one, thing->pointer[0], sizeof one);
            vendor.read(&other, thing->pointer[thing->count - 1], sizeof other);
            if (one != other)
                fail("two mappings of one handle differ");
        }
    }
    return OK;
}

static void pages_give(struct thing *thing, uint64_t dice) {
    while (thing->references || thing->count)
        if (thing->references && (!thing->count || roll(&dice, 2)))
            let_go(thing);
        else
            unmap(thing);
}

/* -- What must not be charged, and what must fail ---------------------------------------------------- */

/* Physical memory of the host. */
static int elsewhere_get(struct thing *thing, uint64_t size, uint64_t dice) {
    struct property property = {.type = 0};
    struct driver_property driver = {.side = 0};
    void *handle = NULL;
    thing->size = round_up(size, tenant.granularity);
    MUST(roll(&dice, 2) ? npu.rtMallocPhysical(&handle, thing->size, &driver, 0)
                        : npu.aclrtMallocPhysical(&handle, thing->size, &property, 0));
    thing->handle = (uintptr_t)handle;
    return OK;
}

static int elsewhere_poke(struct thing *thing, uint64_t dice) {
    void *handle;
    int result;
    (void)thing;
    unsigned what = roll(&dice, 4);
    bool by_runtime = roll(&dice, 2);
    /* (At the cap the runtime is not asked.) */
    switch (what) {
    case 0:
        result = create(&handle, tenant.granularity / 2, 0, by_runtime);
        if (result != BAD_ARGUMENT && result != OUT_OF_MEMORY)
            fail("half a page is answered with %d", result);
        break;
    case 1:
        result = create(&handle, round_up(tenant.total * 2, tenant.granularity), 0, by_runtime);
        if (result != OUT_OF_MEMORY)
            fail("twice the device is answered with %d", result);
        break;
    case 2:
        result = create(&handle, tenant.granularity, 99, by_runtime);
        if (result == OK || result == OUT_OF_MEMORY)
            fail("device 99 is answered with %d", result);
        break;
    default:
        result = create(&handle, 0, 0, by_runtime);
        if (result != BAD_ARGUMENT)
            fail("no bytes are answered with %d", result);
    }
    return OK;
}

static void elsewhere_give(struct thing *thing, uint64_t dice) {
    void *handle = (void *)thing->handle;
    MUST(roll(&dice, 2) ? npu.rtFreePhysical(handle) : npu.aclrtFreePhysical(handle));
}

/* Addresses without memory, more of them than the device has bytes. */
static int addresses_get(struct thing *thing, uint64_t size, uint64_t dice) {
    void *at = NULL;
    (void)size;
    (void)dice;
    thing->size = round_up(tenant.total + tenant.total / 8, tenant.granularity);
    MUST(npu.aclrtReserveMemAddress(&at, thing->size, 0, NULL, 0));
    thing->pointer[0] = (uintptr_t)at;
    return OK;
}

static void addresses_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(npu.aclrtReleaseMemAddress((void *)thing->pointer[0]));
}

/* -- What others share ------------------------------------------------------------------------------ */

static int open_memory(struct thing *thing, const struct letter *letter, uint64_t *dice) {
    void *handle = NULL;
    uint64_t number;
    memcpy(&number, letter->key, sizeof number);
    int result = roll(dice, 2) ? npu.rtsMemImportFromShareableHandle(number, 0, &handle)
                               : npu.aclrtMemImportFromShareableHandle(number, 0, &handle);
    if (result != OK)
        return result;
    thing->handle = (uintptr_t)handle;
    thing->references = 1;
    if (roll(dice, 2))
        map(thing);
    return OK;
}

/* A letter may tell of memory that is gone: then the runtime says so, and nothing is held. */
static int shared_get(struct thing *thing, uint64_t size, uint64_t dice) {
    struct letter letter;
    void *pointer = NULL;
    int result;
    (void)size;
    if (!receive(&letter))
        return ABSENT;
    thing->size = letter.size;
    thing->flag[letter.kind] = true;
    if (letter.kind == LETTER_MEMORY)
        result = open_memory(thing, &letter, &dice);
    else {
        result = roll(&dice, 2) ? npu.rtIpcOpenMemory(&pointer, letter.key)
                                : npu.aclrtIpcMemImportByKey(&pointer, letter.key, 0);
        thing->pointer[0] = (uintptr_t)pointer;
        thing->object[0] = result == OK ? strdup(letter.key) : NULL;
    }
    if (result == OK || result == OUT_OF_MEMORY)
        return result;
    if (result != BAD_ARGUMENT)
        fail("opening what was shared (%d) is answered with %d", (int)letter.kind, result);
    return ABSENT;
}

static int shared_poke(struct thing *thing, uint64_t dice) {
    if (!thing->flag[LETTER_MEMORY] || roll(&dice, 6) == 4)
        return OK;
    return pages_poke(thing, dice);
}

static void shared_give(struct thing *thing, uint64_t dice) {
    if (thing->flag[LETTER_MEMORY]) {
        pages_give(thing, dice);
        return;
    }
    /* Not by its address, of which another name may have been opened too. */
    MUST(npu.aclrtIpcMemClose(thing->object[0]));
    free(thing->object[0]);
}

const struct kind share_kinds[] = {
    {"pages", pages_get, pages_poke, pages_give, false, NULL, false},
    {"elsewhere", elsewhere_get, elsewhere_poke, elsewhere_give, false, NULL, false},
    {"addresses", addresses_get, nothing_poke, addresses_give, false, NULL, false},
    {"shared", shared_get, shared_poke, shared_give, false, NULL, false},
    {0},
};
