/* Memory whose addresses and pages are apart, and memory shared between processes. */
#include "tenant_cuda.h"

#include <string.h>
#include <unistd.h>

/* -- Pages by handle ------------------------------------------------------------------------------- */

static const CUmemAccessDesc all_access = {
    .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
    .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
};

/* Reserves addresses and maps the handle there `times` times over. */
static void map(struct thing *thing, unsigned times) {
    CUdeviceptr *at = &thing->pointer[thing->count];
    CUmemAccessDesc access = all_access;
    access.location.id = cuda.device;
    MUST(cu.cuMemAddressReserve(at, thing->size * times, 0, 0, 0));
    for (unsigned i = 0; i < times; i++)
        MUST(cu.cuMemMap(*at + i * thing->size, thing->size, 0, thing->handle, 0));
    MUST(cu.cuMemSetAccess(*at, thing->size * times, &access, 1));
    /* The places after the first are kept beside it, without addresses of their own. */
    for (unsigned i = 1; i < times; i++)
        thing->pointer[thing->count + i] = 0;
    thing->count += times;
}

/* Unmaps the last reservation, all of its mappings in one call. */
static void unmap(struct thing *thing) {
    unsigned times = 1;
    while (!thing->pointer[thing->count - times])
        times++;
    thing->count -= times;
    MUST(cu.cuMemUnmap(thing->pointer[thing->count], thing->size * times));
    MUST(cu.cuMemAddressFree(thing->pointer[thing->count], thing->size * times));
}

static unsigned reservations(const struct thing *thing) {
    unsigned found = 0;
    for (unsigned i = 0; i < thing->count; i++)
        found += thing->pointer[i] != 0;
    return found;
}

static CUmemAllocationProp properties(void) {
    return (CUmemAllocationProp){
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda.device},
    };
}

static int pages_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUmemAllocationProp what = properties();
    CUmemGenericAllocationHandle handle;
    thing->size = round_up(size, tenant.granularity);
    CUresult result = cu.cuMemCreate(&handle, thing->size, &what, 0);
    if (result != CUDA_SUCCESS)
        return result;
    thing->handle = handle;
    thing->references = 1;
    if (roll(&dice, 3))
        map(thing, 1 + roll(&dice, 3));
    return CUDA_SUCCESS;
}

static void let_go(struct thing *thing) {
    MUST(cu.cuMemRelease(thing->handle));
    if (!--thing->references)
        thing->handle = 0;
}

static void share_pages(struct thing *thing, bool keep) {
    struct letter letter = {.kind = LETTER_MEMORY, .size = thing->size, .number = -1, .fd = -1};
    MUST(cu.cuMemExportToShareableHandle(&letter.fd, thing->handle,
                                         CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    if (keep)
        offer(thing, &letter);
    post(&letter);
}

static int pages_send(struct thing *thing) {
    if (!thing->references)
        return ABSENT;
    share_pages(thing, false);
    return CUDA_SUCCESS;
}

static int pages_poke(struct thing *thing, uint64_t dice) {
    CUmemGenericAllocationHandle again;
    switch (roll(&dice, 6)) {
    case 0:
        if (thing->references && thing->count + 2 <= PIECES)
            map(thing, 1 + roll(&dice, 2));
        break;
    case 1:
        if (thing->count && (thing->references || reservations(thing) > 1))
            unmap(thing);
        break;
    case 2:
        if (thing->count) {
            MUST(cu.cuMemRetainAllocationHandle(&again, (void *)thing->pointer[0]));
            thing->handle = again;
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
            if (thing->count > 1 && !thing->pointer[1]) {
                /* The same pages under two addresses. */
                uint8_t one = 0, two = 1;
                MUST(cu.cuMemcpyDtoH_v2(&one, thing->pointer[0], 1));
                MUST(cu.cuMemcpyDtoH_v2(&two, thing->pointer[0] + thing->size, 1));
                if (one != two)
                    fail("two mappings of one handle differ");
            }
        }
    }
    return CUDA_SUCCESS;
}

static void pages_give(struct thing *thing, uint64_t dice) {
    int lock = thing->descriptor ? hold_letters(false) : -1;
    bool first = roll(&dice, 2);
    if (first && thing->descriptor)
        close(thing->descriptor);
    while (thing->references || thing->count)
        if (thing->references && (!thing->count || roll(&dice, 2)))
            let_go(thing);
        else
            unmap(thing);
    if (!first && thing->descriptor)
        close(thing->descriptor);
    if (lock >= 0)
        close(lock);
}

/* -- What must not be charged, and what must fail -------------------------------------------------- */

static int elsewhere_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUmemAllocationProp what = properties();
    CUmemGenericAllocationHandle handle;
    what.location = (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_HOST};
    what.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
    if (roll(&dice, 2))
        what.location = (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_HOST_NUMA, .id = 0};
    thing->size = round_up(size, tenant.granularity);
    MUST(cu.cuMemCreate(&handle, thing->size, &what, 0));
    thing->handle = handle;
    return CUDA_SUCCESS;
}

static int elsewhere_poke(struct thing *thing, uint64_t dice) {
    CUmemAllocationProp what = properties();
    CUmemGenericAllocationHandle handle;
    CUresult result;
    (void)thing;
    switch (roll(&dice, 4)) {
    case 0:
        result = cu.cuMemCreate(&handle, tenant.granularity / 2, &what, 0);
        if (result != CUDA_ERROR_INVALID_VALUE)
            fail("half a page is answered with %d", (int)result);
        break;
    case 1:
        result = cu.cuMemCreate(&handle, round_up(tenant.total * 2, tenant.granularity), &what, 0);
        if (result != CUDA_ERROR_OUT_OF_MEMORY)
            fail("twice the device is answered with %d", (int)result);
        break;
    case 2:
        what.location.id = 99;
        result = cu.cuMemCreate(&handle, tenant.granularity, &what, 0);
        if (result != CUDA_ERROR_INVALID_DEVICE && result != CUDA_ERROR_INVALID_VALUE)
            fail("device 99 is answered with %d", (int)result);
        break;
    default:
        result = cu.cuMemCreate(&handle, 0, &what, 0);
        if (result != CUDA_ERROR_INVALID_VALUE)
            fail("no bytes are answered with %d", (int)result);
    }
    return CUDA_SUCCESS;
}

static void elsewhere_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cu.cuMemRelease(thing->handle));
}

/* Addresses without memory, more of them than the device has bytes. */
static int addresses_get(struct thing *thing, uint64_t size, uint64_t dice) {
    (void)size;
    (void)dice;
    thing->size = round_up(tenant.total + tenant.total / 8, tenant.granularity);
    MUST(cu.cuMemAddressReserve(&thing->pointer[0], thing->size, 0, 0, 0));
    return CUDA_SUCCESS;
}

static void addresses_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cu.cuMemAddressFree(thing->pointer[0], thing->size));
}

/* -- Multicast, of two devices: keeps the memory that is bound to it ------------------------------------------------ */

static int team_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUmulticastObjectProp what = {.numDevices = 2,
                                  .handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR};
    CUmemGenericAllocationHandle team, memory;
    CUmemAllocationProp props = properties();
    size_t step = 0;
    what.size = size;
    MUST(cu.cuMulticastGetGranularity(&step, &what, CU_MULTICAST_GRANULARITY_MINIMUM));
    thing->size = what.size = round_up(size, round_up(step, tenant.granularity));
    CUresult result = cu.cuMemCreate(&memory, thing->size, &props, 0);
    if (result != CUDA_SUCCESS)
        return result;
    MUST(cu.cuMulticastCreate(&team, &what));
    for (CUdevice member = 0; member < 2; member++)
        MUST(cu.cuMulticastAddDevice(team, member));
    thing->other_handle = team;
    thing->handle = memory;
    thing->references = 1;
    if (roll(&dice, 2)) {
        map(thing, 1);
        MUST(cu.cuMulticastBindAddr(team, 0, thing->pointer[0], thing->size, 0));
    } else
        MUST(cu.cuMulticastBindMem(team, 0, memory, 0, thing->size, 0));
    thing->flag[0] = true; /* bound */
    return CUDA_SUCCESS;
}

static int team_poke(struct thing *thing, uint64_t dice) {
    if (roll(&dice, 2) && thing->references) {
        let_go(thing); /* the team keeps it */
        return CUDA_SUCCESS;
    }
    if (!thing->flag[0] || !(thing->references || thing->count))
        return CUDA_SUCCESS;
    MUST(cu.cuMulticastUnbind(thing->other_handle, cuda.device, 0, thing->size));
    thing->flag[0] = false;
    return CUDA_SUCCESS;
}

static void team_give(struct thing *thing, uint64_t dice) {
    bool unbind = thing->flag[0] && roll(&dice, 2), team_first = roll(&dice, 2);
    if (unbind)
        MUST(cu.cuMulticastUnbind(thing->other_handle, cuda.device, 0, thing->size));
    if (team_first)
        MUST(cu.cuMemRelease(thing->other_handle));
    pages_give(thing, dice);
    if (!team_first)
        MUST(cu.cuMemRelease(thing->other_handle));
}

/* -- What others share ------------------------------------------------------------------------------ */

static int open_pool(struct thing *thing, struct letter *letter) {
    CUmemPoolPtrExportData piece;
    CUmemoryPool pool;
    CUresult result = cu.cuMemPoolImportFromShareableHandle(
        &pool, (void *)(intptr_t)letter->fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    close(letter->fd);
    if (result != CUDA_SUCCESS)
        return result;
    thing->object[0] = pool;
    memcpy(&piece, letter->key, sizeof piece);
    result = cu.cuMemPoolImportPointer(&thing->pointer[0], pool, &piece);
    if (result != CUDA_SUCCESS)
        MUST(cu.cuMemPoolDestroy(pool));
    return result;
}

static int open_memory(struct thing *thing, struct letter *letter, uint64_t dice) {
    CUmemGenericAllocationHandle handle;
    int lock = letter->number >= 0 ? hold_letters(true) : -1;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    if (lock < 0 || fetch(letter)) {
        result = cu.cuMemImportFromShareableHandle(&handle, (void *)(intptr_t)letter->fd,
                                                   CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
        close(letter->fd);
    }
    if (lock >= 0)
        close(lock);
    if (result != CUDA_SUCCESS)
        return result;
    thing->handle = handle;
    thing->references = 1;
    if (roll(&dice, 2))
        map(thing, 1);
    return CUDA_SUCCESS;
}

/* A letter may tell of memory that is gone: then the driver says so, and nothing is held. */
static int shared_get(struct thing *thing, uint64_t size, uint64_t dice) {
    struct letter letter;
    (void)size;
    if (!receive(&letter))
        return ABSENT;
    thing->size = letter.size;
    thing->references = 0;
    CUresult result;
    if (letter.kind == LETTER_IPC) {
        CUipcMemHandle handle;
        memcpy(&handle, letter.key, sizeof handle);
        result = cu.cuIpcOpenMemHandle_v2(&thing->pointer[0], handle,
                                          CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    } else if (letter.kind == LETTER_MEMORY)
        result = open_memory(thing, &letter, dice);
    else
        result = open_pool(thing, &letter);
    thing->flag[letter.kind] = true;
    if (result == CUDA_SUCCESS || result == CUDA_ERROR_OUT_OF_MEMORY)
        return result;
    if (result != CUDA_ERROR_INVALID_VALUE && result != CUDA_ERROR_INVALID_HANDLE)
        fail("opening what was shared (%d) is answered with %d", (int)letter.kind, (int)result);
    if (letter.kind == LETTER_MEMORY && letter.number < 0)
        fail("memory is gone although its descriptor is open");
    return ABSENT;
}

static int shared_poke(struct thing *thing, uint64_t dice) {
    if (thing->flag[LETTER_MEMORY])
        return roll(&dice, 4) == 3 ? CUDA_SUCCESS : pages_poke(thing, dice);
    return CUDA_SUCCESS;
}

static void shared_give(struct thing *thing, uint64_t dice) {
    if (thing->flag[LETTER_IPC])
        MUST(cu.cuIpcCloseMemHandle(thing->pointer[0]));
    else if (thing->flag[LETTER_MEMORY])
        pages_give(thing, dice);
    else {
        MUST(cu.cuMemFree_v2(thing->pointer[0]));
        MUST(cu.cuMemPoolDestroy(thing->object[0]));
    }
}

const struct kind share_kinds[] = {
    {"pages", pages_get, pages_poke, pages_give, false, pages_send, false},
    {"elsewhere", elsewhere_get, elsewhere_poke, elsewhere_give, false, NULL, false},
    {"addresses", addresses_get, nothing_poke, addresses_give, false, NULL, false},
    {"team", team_get, team_poke, team_give, false, NULL, false},
    {"shared", shared_get, shared_poke, shared_give, false, NULL, false},
    {0},
};
