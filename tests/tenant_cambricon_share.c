/* Physical memory by handle, what others share, and what must not be charged. */
#include "tenant_cambricon.h"

#include <string.h>
#include <unistd.h>

/* -- Physical memory by handle ------------------------------------------------------------------------- */

/* Maps the handle at addresses of its own. */
static void map(struct thing *thing) {
    uint32_t access[5] = {1, (uint32_t)cambricon.device, 0, 0, 0};
    address *at = &thing->pointer[thing->count++];
    MUST(cn.cnMemAddressReserve(at, thing->size, 0, 0, 0));
    MUST(cn.cnMemMap(*at, thing->size, 0, thing->handle, 0));
    MUST(cn.cnMemSetAccess(*at, thing->size, access, 1));
}

static void unmap(struct thing *thing) {
    address at = thing->pointer[--thing->count];
    MUST(cn.cnMemUnmap(at, thing->size));
    MUST(cn.cnMemAddressFree(at, thing->size));
}

static int pages_get(struct thing *thing, uint64_t size, uint64_t dice) {
    struct placed what = on_device();
    thing->size = round_up(size, tenant.granularity);
    int result = cn.cnMemCreate(&thing->handle, thing->size, &what, 0);
    if (result != OK)
        return result;
    thing->references = 1;
    for (unsigned maps = roll(&dice, 3); maps; maps--)
        map(thing);
    return OK;
}

static void let_go(struct thing *thing) {
    MUST(cn.cnMemRelease(thing->handle));
    if (!--thing->references)
        thing->handle = 0;
}

static void share_pages(struct thing *thing, bool keep) {
    struct letter letter = {.kind = LETTER_MEMORY, .size = thing->size, .number = -1, .fd = -1};
    MUST(cn.cnMemExportToShareableHandle(&letter.fd, thing->handle, BY_DESCRIPTOR, 0));
    if (keep)
        offer(thing, &letter);
    post(&letter);
}

static int pages_send(struct thing *thing) {
    if (!thing->references)
        return ABSENT;
    share_pages(thing, false);
    return OK;
}

static int pages_poke(struct thing *thing, uint64_t dice) {
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
            MUST(cn.cnMemRetainAllocationHandle(&thing->handle, thing->pointer[0]));
            thing->references++;
        }
        break;
    case 3:
        if (thing->references && (thing->count || thing->references > 1))
            let_go(thing);
        break;
    case 4:
        if (thing->references)
            share_pages(thing, true);
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
    int lock = thing->descriptor ? hold_letters(false) : -1;
    while (thing->references || thing->count)
        if (thing->references && (!thing->count || roll(&dice, 2)))
            let_go(thing);
        else
            unmap(thing);
    if (thing->descriptor)
        close(thing->descriptor);
    if (lock >= 0)
        close(lock);
}

/* -- What others share ------------------------------------------------------------------------------ */

static int open_memory(struct thing *thing, struct letter *letter, uint64_t dice) {
    int lock = letter->number >= 0 ? hold_letters(true) : -1;
    int result = INVALID_VALUE;
    if (lock < 0 || fetch(letter)) {
        result = cn.cnMemImportFromShareableHandle(&thing->handle, (void *)(intptr_t)letter->fd,
                                                   BY_DESCRIPTOR);
        close(letter->fd);
    }
    if (lock >= 0)
        close(lock);
    if (result != OK)
        return result;
    thing->references = 1;
    if (roll(&dice, 2))
        map(thing);
    return OK;
}

/* A letter may tell of memory that is gone: then the driver says so, and nothing is held. */
static int shared_get(struct thing *thing, uint64_t size, uint64_t dice) {
    struct letter letter;
    handle name;
    (void)size;
    if (!receive(&letter))
        return ABSENT;
    thing->size = letter.size;
    thing->flag[letter.kind] = true;
    memcpy(&name, letter.key, sizeof name);
    int result = letter.kind == LETTER_IPC ? cn.cnIpcOpenMemHandle(&thing->pointer[0], name, 0)
                                           : open_memory(thing, &letter, dice);
    if (result == OK || result == OUT_OF_MEMORY)
        return result;
    if (result != INVALID_VALUE && result != INVALID_HANDLE)
        fail("opening what was shared (%d) is answered with %d", (int)letter.kind, result);
    if (letter.kind == LETTER_MEMORY && letter.number < 0)
        fail("memory is gone although its descriptor is open");
    return ABSENT;
}

static int shared_poke(struct thing *thing, uint64_t dice) {
    return thing->flag[LETTER_MEMORY] ? pages_poke(thing, dice) : OK;
}

static void shared_give(struct thing *thing, uint64_t dice) {
    if (thing->flag[LETTER_IPC])
        MUST(cn.cnIpcCloseMemHandle(thing->pointer[0]));
    else
        pages_give(thing, dice);
}

/* -- What must not be charged, and what must fail ---------------------------------------------------- */

/* (Physical memory is of devices alone: this holds memory of the host.) */
static int elsewhere_poke(struct thing *thing, uint64_t dice) {
    struct placed what = on_device();
    uint64_t got;
    int result;
    (void)thing;
    switch (roll(&dice, 4)) {
    case 0:
        result = cn.cnMemCreate(&got, tenant.granularity / 2, &what, 0);
        if (result != INVALID_VALUE)
            fail("half a page is answered with %d", result);
        break;
    case 1:
        result = cn.cnMemCreate(&got, round_up(tenant.total * 2, tenant.granularity), &what, 0);
        if (result != OUT_OF_MEMORY)
            fail("twice the device is answered with %d", result);
        break;
    case 2:
        what.id = 99;
        result = cn.cnMemCreate(&got, tenant.granularity, &what, 0);
        if (result == OK || result == OUT_OF_MEMORY)
            fail("device 99 is answered with %d", result);
        break;
    default:
        result = cn.cnMemCreate(&got, 0, &what, 0);
        if (result != INVALID_VALUE)
            fail("no bytes are answered with %d", result);
    }
    return OK;
}

/* Addresses without memory, more of them than the device has bytes. */
static int addresses_get(struct thing *thing, uint64_t size, uint64_t dice) {
    (void)size;
    (void)dice;
    thing->size = round_up(tenant.total + tenant.total / 8, tenant.granularity);
    MUST(cn.cnMemAddressReserve(&thing->pointer[0], thing->size, 0, 0, 0));
    return OK;
}

static void addresses_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cn.cnMemAddressFree(thing->pointer[0], thing->size));
}

const struct kind share_kinds[] = {
    {"pages", pages_get, pages_poke, pages_give, false, pages_send, false},
    {"elsewhere", pinned_get, elsewhere_poke, pinned_give, true, NULL, false},
    {"addresses", addresses_get, nothing_poke, addresses_give, false, NULL, false},
    {"shared", shared_get, shared_poke, shared_give, false, NULL, false},
    {0},
};
