/* The tenant on Cambricon's driver library, written from the published interface without a header of the
 * vendor's. */
#include "tenant.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OK = 0,
    NOT_INITIALIZED = 100002,
    INVALID_VALUE = 100006,
    INVALID_HANDLE = 100014,
    OUT_OF_MEMORY = 100100,
    NO_ROOM = 100202, /* for a context */
};

typedef void *handle;
struct placed {
    uint32_t type, handle_types, place, id, flags;
};

struct pool_properties {
    uint32_t type, handle_types, place, id;
    size_t most;
    unsigned char reserved[64];
};
enum { BY_DESCRIPTOR = 1 };
enum { THRESHOLD = 4, RESERVED = 5, RESERVED_MOST = 6, USED = 7 }; /* of pools */

#define FUNCTIONS(F)                                                                               \
    F(cnInit, (unsigned))                                                                          \
    F(cnDeviceGet, (uint64_t *, int))                                                              \
    F(cnDeviceGetCount, (int *))                                                                   \
    F(cnDeviceTotalMem, (uint64_t *, uint64_t))                                                    \
    F(cnDeviceGetMemPool, (handle *, uint64_t))                                                    \
    F(cnCtxCreate, (handle *, unsigned, uint64_t))                                                 \
    F(cnCtxDestroy, (handle))                                                                      \
    F(cnCtxGetCurrent, (handle *))                                                                 \
    F(cnCtxSetCurrent, (handle))                                                                   \
    F(cnCtxSync, (void))                                                                           \
    F(cnSharedContextAcquire, (handle *, uint64_t))                                                \
    F(cnSharedContextRelease, (uint64_t))                                                          \
    F(cnSharedContextReset, (uint64_t))                                                            \
    F(cnMemGetInfo, (uint64_t *, uint64_t *))                                                      \
    F(cnMemGetNodeInfo, (uint64_t *, uint64_t *, int))                                             \
    F(cnMalloc, (address *, uint64_t))                                                             \
    F(cnMallocSecurity, (address *, uint64_t))                                                     \
    F(cnMallocConstant, (address *, uint64_t))                                                     \
    F(cnMallocPeerAble, (address *, uint64_t))                                                     \
    F(cnZmalloc, (address *, uint64_t))                                                            \
    F(cnMallocNode, (address *, uint64_t, int))                                                    \
    F(cnMallocNodeConstant, (address *, uint64_t, int))                                            \
    F(cnMallocFrameBuffer, (address *, uint64_t, int))                                             \
    F(cnZmallocNode, (address *, uint64_t, int))                                                   \
    F(cnFree, (address))                                                                           \
    F(cnMallocHost, (void **, uint64_t))                                                           \
    F(cnFreeHost, (void *))                                                                        \
    F(cnMemcpyHtoD, (address, const void *, uint64_t))                                             \
    F(cnMemcpyDtoH, (void *, address, uint64_t))                                                   \
    F(cnMemsetD8Async, (address, unsigned char, uint64_t, handle))                                 \
    F(cnMemCreate, (uint64_t *, uint64_t, struct placed *, uint64_t))                              \
    F(cnMemRelease, (uint64_t))                                                                    \
    F(cnMemAddressReserve, (address *, uint64_t, uint64_t, address, uint64_t))                     \
    F(cnMemAddressFree, (address, uint64_t))                                                       \
    F(cnMemMap, (address, uint64_t, uint64_t, uint64_t, uint64_t))                                 \
    F(cnMemUnmap, (address, uint64_t))                                                             \
    F(cnMemSetAccess, (address, uint64_t, void *, uint64_t))                                       \
    F(cnMemRetainAllocationHandle, (uint64_t *, address))                                          \
    F(cnMemGetAllocationGranularity, (uint64_t *, struct placed *, int))                           \
    F(cnMemExportToShareableHandle, (void *, uint64_t, int, uint64_t))                             \
    F(cnMemImportFromShareableHandle, (uint64_t *, void *, int))                                   \
    F(cnIpcGetMemHandle, (handle *, address))                                                      \
    F(cnIpcOpenMemHandle, (address *, handle, unsigned))                                           \
    F(cnIpcCloseMemHandle, (address))                                                              \
    F(cnMemPoolCreate, (handle *, struct pool_properties *))                                       \
    F(cnMemPoolDestroy, (handle))                                                                  \
    F(cnMemPoolSetAttribute, (handle, int, void *))                                                \
    F(cnMemAllocAsync, (address *, size_t, handle))                                                \
    F(cnMemAllocFromPoolAsync, (address *, size_t, handle, handle))                                \
    F(cnMemFreeAsync, (address, handle))                                                           \
    F(cnMemPoolTrimTo, (handle, size_t))                                                           \
    F(cnMemPoolGetAttribute, (handle, int, void *))                                                \
    F(cnCreateQueue, (handle *, unsigned))                                                         \
    F(cnDestroyQueue, (handle))                                                                    \
    F(cnQueueSync, (handle))                                                                       \
    F(cnModuleLoad, (const char *, handle *))                                                      \
    F(cnModuleLoadFatBinary, (const void *, handle *))                                             \
    F(cnModuleUnload, (handle))

#define MEMBER(symbol, parameters) int(*symbol) parameters;
static struct { FUNCTIONS(MEMBER) } cn;
#undef MEMBER

static uint64_t device;
static handle queue[2], pool;

static struct placed on_device(void) {
    return (struct placed){1, BY_DESCRIPTOR, 1, (uint32_t)device, 0};
}

/* -- Finding it ------------------------------------------------------------------------------------ */

/* By the library's own handle, or among what is global. */
static void load(const char *file, int mode, bool global) {
    void *library = file ? dlopen(file, global ? mode | RTLD_GLOBAL : mode) : NULL;
    if (file && !library)
        fail("%s", dlerror());
#define LOAD(symbol, parameters)                                                                   \
    cn.symbol = (__typeof__(cn.symbol))symbol_of(global ? NULL : library, #symbol);
    FUNCTIONS(LOAD)
#undef LOAD
}

static int retain(void) {
    int result = cn.cnSharedContextAcquire(&tenant.primary, device);
    if (result == NO_ROOM)
        return OUT_OF_MEMORY;
    if (result != OK)
        return result;
    MUST(cn.cnCtxSetCurrent(tenant.primary));
    for (int i = 0; i < 2; i++)
        MUST(cn.cnCreateQueue(&queue[i], 0));
    return OK;
}

static int start(void) {
    uint64_t bytes;
    MUST(cn.cnInit(0));
    MUST(cn.cnDeviceGet(&device, 0));
    MUST(cn.cnDeviceTotalMem(&bytes, device));
    tenant.total = bytes;
    MUST(cn.cnDeviceGetMemPool(&pool, device));
    struct placed what = on_device();
    MUST(cn.cnMemGetAllocationGranularity(&bytes, &what, 0));
    tenant.granularity = bytes;
    return retain();
}

static int release(bool reset) {
    return reset ? cn.cnSharedContextReset(device) : cn.cnSharedContextRelease(device);
}

static void *current(void) {
    handle context = NULL;
    MUST(cn.cnCtxGetCurrent(&context));
    return context;
}

static int enter(void *context) { return cn.cnCtxSetCurrent(context); }
static int synchronise(void) { return cn.cnCtxSync(); }
static void breathe(unsigned number) { MUST(cn.cnQueueSync(queue[number % 2])); }
static void trim(void) { MUST(cn.cnMemPoolTrimTo(pool, 0)); }

static void info(size_t *free_bytes, size_t *total, size_t *also) {
    uint64_t left, all, of_device;
    MUST(cn.cnMemGetInfo(&left, &all));
    MUST(cn.cnDeviceTotalMem(&of_device, device));
    *free_bytes = left;
    *total = all;
    *also = of_device;
    MUST(cn.cnMemGetNodeInfo(&left, &all, 0));
    if (all != *total)
        fail("a device of %zu bytes, and its only node of %llu", *total, (unsigned long long)all);
}

/* -- Memory by address ------------------------------------------------------------------------------- */

static int allocate(address *pointer, uint64_t size) { return cn.cnMalloc(pointer, size); }
static int release_memory(address pointer) { return cn.cnFree(pointer); }

static void write_to(address to, const void *from, size_t size) {
    MUST(cn.cnMemcpyHtoD(to, from, size));
}

static void read_from(void *to, address from, size_t size) {
    MUST(cn.cnMemcpyDtoH(to, from, size));
}

static int plainly(address *to, uint64_t size, unsigned way) {
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

/* Work between the signs. */
static void work(const struct thing *thing, handle in) {
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
    work(thing, queue[roll(&dice, 2)]);
    return OK;
}

static void linear_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    if (!thing->flag[0]) /* others may write what they were shown */
        check_mark(thing->pointer[0], thing->size);
    MUST(cn.cnFree(thing->pointer[0]));
}

/* Host memory: takes nothing of the device. */
static int pinned_get(struct thing *thing, uint64_t size, uint64_t dice) {
    (void)dice;
    return cn.cnMallocHost(&thing->object[0], size < MIB ? size : MIB);
}

static void pinned_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cn.cnFreeHost(thing->object[0]));
}

/* -- In the order of queues, from the device's pool --------------------------------------------------- */

static int async_get(struct thing *thing, uint64_t size, uint64_t dice) {
    unsigned way = roll(&dice, 3);
    handle in = way ? queue[way - 1] : NULL;
    int result = roll(&dice, 2) ? cn.cnMemAllocFromPoolAsync(&thing->pointer[0], size, pool, in)
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
        MUST(cn.cnMemPoolSetAttribute(pool, THRESHOLD, &threshold));
        break;
    case 1:
        MUST(cn.cnMemPoolTrimTo(pool, 0));
        break;
    case 2:
        MUST(cn.cnQueueSync(queue[0]));
        break;
    default:
        work(thing, queue[roll(&dice, 2)]);
    }
    return OK;
}

static void free_in_order(address pointer, uint64_t *dice) {
    unsigned way = roll(dice, 3);
    MUST(cn.cnMemFreeAsync(pointer, way ? queue[way - 1] : NULL));
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
    struct pool_properties properties = {.type = 1, .place = 1, .id = (uint32_t)device};
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

/* -- Code ------------------------------------------------------------------------------------------------ */

static char *image_of(uint64_t size) {
    char *text = malloc(128);
    if (!text)
        fail("no memory for an image");
    /* Images of more than some pages would only test the reader of their text. */
    snprintf(text, 128, "mlu-image 1\nmemory %llu\nkernel work 1000\n",
             (unsigned long long)(size < 5 * MIB ? size : 5 * MIB));
    return text;
}

static int load_module(handle *module, uint64_t size, bool from_file) {
    char name[] = "/tmp/tenant-XXXXXX", *text = image_of(size);
    int result;
    if (from_file) {
        int fd = mkstemp(name);
        FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
        if (!file || fputs(text, file) < 0 || fclose(file) != 0)
            fail("a module cannot be written to %s", name);
        result = cn.cnModuleLoad(name, module);
        unlink(name);
    } else
        result = cn.cnModuleLoadFatBinary(text, module);
    free(text);
    return result;
}

static int module_get(struct thing *thing, uint64_t size, uint64_t dice) {
    return load_module(&thing->object[0], size, roll(&dice, 2));
}

static void module_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cn.cnModuleUnload(thing->object[0]));
}

/* -- Contexts: what they hold dies with them ------------------------------------------------------------- */

enum { CONTEXT, MODULE, QUEUE };

/* Something more in the context, which is current. */
static int furnish(struct thing *thing, uint64_t size, uint64_t *dice) {
    address pointer;
    int result;
    switch (roll(dice, 4)) {
    case 0:
        return plainly(&pointer, size, roll(dice, 9));
    case 1:
        return plainly(&pointer, 1 + size / 4096, roll(dice, 9));
    case 2:
        return load_module(&thing->object[MODULE], size, roll(dice, 2));
    default:
        /* From the device's pool: it outlives the context. */
        if (thing->count == PIECES)
            return OK;
        result = cn.cnMemAllocAsync(&thing->pointer[thing->count], size, thing->object[QUEUE]);
        if (result == OK) {
            thing->count++;
            MUST(cn.cnQueueSync(thing->object[QUEUE]));
        }
        return result;
    }
}

static int context_get(struct thing *thing, uint64_t size, uint64_t dice) {
    handle before = current();
    int result = cn.cnCtxCreate(&thing->object[CONTEXT], 0, device);
    if (result != OK)
        return result == NO_ROOM ? OUT_OF_MEMORY : result;
    MUST(cn.cnCreateQueue(&thing->object[QUEUE], 0));
    for (unsigned i = roll(&dice, 4); i && result == OK; i--)
        result = furnish(thing, size, &dice);
    if (result != OK && result != OUT_OF_MEMORY)
        fail("memory in a new context is answered with %d", result);
    MUST(cn.cnCtxSetCurrent(before));
    return OK;
}

static int context_poke(struct thing *thing, uint64_t dice) {
    handle before = current();
    MUST(cn.cnCtxSetCurrent(thing->object[CONTEXT]));
    int result = furnish(thing, thing->size, &dice);
    MUST(cn.cnCtxSetCurrent(before));
    return result;
}

static void context_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cn.cnCtxDestroy(thing->object[CONTEXT]));
    while (thing->count)
        MUST(cn.cnMemFreeAsync(thing->pointer[--thing->count], NULL));
}

/* -- Physical memory by handle ------------------------------------------------------------------------- */

/* Maps the handle at addresses of its own. */
static void map(struct thing *thing) {
    uint32_t access[5] = {1, (uint32_t)device, 0, 0, 0};
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
            read_from(&one, thing->pointer[0], sizeof one);
            read_from(&other, thing->pointer[thing->count - 1], sizeof other);
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

static void forge(void) {
    uint64_t got;
    char own[64];
    address linear, small;
    handle context, before = current();
    MUST(cn.cnMalloc(&linear, 4 * MIB));
    MUST(cn.cnMalloc(&small, 4096));
    say("free a part", cn.cnFree(linear + 4096));
    say("free a part of a page", cn.cnFree(small + 256));
    say("free nothing", cn.cnFree(0));
    say("free what is the host's", cn.cnFree((uintptr_t)own));
    say("free in order what is not there", cn.cnMemFreeAsync(12345, queue[0]));
    say("free", cn.cnFree(small));
    say("free it again", cn.cnFree(small));
    say("release a handle of nobody", cn.cnMemRelease(0x123456));
    say("release a pointer", cn.cnMemRelease(linear));
    say("retain what is not mapped", cn.cnMemRetainAllocationHandle(&got, linear));
    say("unmap what is not mapped", cn.cnMemUnmap(linear, 4 * MIB));
    say("map where nothing is reserved", cn.cnMemMap(linear, 4 * MIB, 0, 0x123456, 0));
    say("allocate nothing", cn.cnMalloc(&small, 0));
    say("allocate to nowhere", cn.cnMalloc(NULL, 4096));
    say("allocate on a node that is not there", cn.cnMallocNode(&small, 4096, 7));
    say("unload what is no module", cn.cnModuleUnload((handle)own));
    MUST(cn.cnCtxCreate(&context, 0, device));
    MUST(cn.cnCtxSetCurrent(before));
    say("destroy a context", cn.cnCtxDestroy(context));
    say("destroy it again", cn.cnCtxDestroy(context));
    MUST(cn.cnFree(linear));
}

static void expect_uninitialised(void) {
    int count;
    if (cn.cnDeviceGetCount(&count) != NOT_INITIALIZED)
        fail("the driver is initialised already");
}

static void expect_nothing(address of_parent) {
    address pointer;
    uint64_t free_bytes, total;
    int count, no = NOT_INITIALIZED;
    if (cn.cnInit(0) != no || cn.cnMalloc(&pointer, 1) != no || cn.cnFree(of_parent) != no ||
        cn.cnMemGetInfo(&free_bytes, &total) != no || cn.cnDeviceGetCount(&count) != no)
        fail("a child can use its parent's driver");
}

static const struct kind kinds[] = {
    {"linear", linear_get, linear_poke, linear_give, true, linear_send, false},
    {"pinned", pinned_get, nothing_poke, pinned_give, false, NULL, false},
    {"async", async_get, async_poke, async_give, false, NULL, false},
    {"pool", pool_get, pool_poke, pool_give, false, NULL, false},
    {"pages", pages_get, pages_poke, pages_give, false, pages_send, false},
    {"elsewhere", pinned_get, elsewhere_poke, pinned_give, false, NULL, false},
    {"addresses", addresses_get, nothing_poke, addresses_give, false, NULL, false},
    {"shared", shared_get, shared_poke, shared_give, false, NULL, false},
    {"module", module_get, nothing_poke, module_give, true, NULL, true},
    {"context", context_get, context_poke, context_give, false, NULL, true},
    {0},
};
static const struct kind *const lists[] = {kinds, NULL};

const struct vendor vendor = {
    .library = "libcndrv.so",
    .out_of_memory = OUT_OF_MEMORY,
    .kinds = lists,
    .load = load,
    .start = start,
    .retain = retain,
    .release = release,
    .current = current,
    .enter = enter,
    .synchronise = synchronise,
    .breathe = breathe,
    .trim = trim,
    .info = info,
    .allocate = allocate,
    .free = release_memory,
    .write = write_to,
    .read = read_from,
    .forge = forge,
    .expect_uninitialised = expect_uninitialised,
    .expect_nothing = expect_nothing,
};
