/* The tenant on Ascend's runtime, written from the published interface without a header of the vendor's. */
#include "tenant.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, BAD_ARGUMENT = 107000, OUT_OF_MEMORY = 207001 };
enum { TO_DEVICE = 1, FROM_DEVICE = 2 };
/* Names of shared memory, which any process may open. */
enum { NAME = 65, ANYONE = 1 };

struct config {
    struct {
        uint32_t attr, device, rest;
    } * attrs;
    size_t count;
};
/* Physical memory as AscendCL describes it, and as the runtime's own functions do. */
struct property {
    uint32_t handle_type, allocation_type, memory, id, type;
    uint64_t reserve;
};
struct driver_property {
    uint32_t side, device, module, page_type, memory_type;
    uint64_t reserve;
};

/* Of AscendCL: thin wrappers in libascendcl over what libruntime calls by the same name and "Impl". */
#define WRAPPED(F)                                                                                 \
    F(aclInit, (const char *))                                                                     \
    F(aclrtSetDevice, (int32_t))                                                                   \
    F(aclrtResetDevice, (int32_t))                                                                 \
    F(aclrtResetDeviceForce, (int32_t))                                                            \
    F(aclrtGetDeviceCount, (uint32_t *))                                                           \
    F(aclrtCreateContext, (void **, int32_t))                                                      \
    F(aclrtDestroyContext, (void *))                                                               \
    F(aclrtGetCurrentContext, (void **))                                                           \
    F(aclrtSetCurrentContext, (void *))                                                            \
    F(aclrtMalloc, (void **, size_t, int))                                                         \
    F(aclrtMallocAlign32, (void **, size_t, int))                                                  \
    F(aclrtMallocCached, (void **, size_t, int))                                                   \
    F(aclrtMallocWithCfg, (void **, size_t, int, struct config *))                                 \
    F(aclrtMallocForTaskScheduler, (void **, size_t, int, struct config *))                        \
    F(aclrtMemAllocManaged, (void **, uint64_t, uint32_t))                                         \
    F(aclrtFree, (void *))                                                                         \
    F(aclrtFreeWithDevSync, (void *))                                                              \
    F(aclrtMallocHost, (void **, size_t))                                                          \
    F(aclrtFreeHost, (void *))                                                                     \
    F(aclrtGetMemInfo, (int, size_t *, size_t *))                                                  \
    F(aclrtMemcpy, (void *, size_t, const void *, size_t, int))                                    \
    F(aclrtMemsetAsync, (void *, size_t, int32_t, size_t, void *))                                 \
    F(aclrtMallocPhysical, (void **, size_t, const struct property *, uint64_t))                   \
    F(aclrtFreePhysical, (void *))                                                                 \
    F(aclrtReserveMemAddress, (void **, size_t, size_t, void *, uint64_t))                         \
    F(aclrtReleaseMemAddress, (void *))                                                            \
    F(aclrtMapMem, (void *, size_t, size_t, void *, uint64_t))                                     \
    F(aclrtUnmapMem, (void *))                                                                     \
    F(aclrtMemRetainAllocationHandle, (void *, void **))                                           \
    F(aclrtIpcMemGetExportKey, (void *, size_t, char *, size_t, uint64_t))                         \
    F(aclrtIpcMemImportByKey, (void **, const char *, uint64_t))                                   \
    F(aclrtIpcMemClose, (const char *))                                                            \
    F(aclrtMemExportToShareableHandle, (void *, int, uint64_t, uint64_t *))                        \
    F(aclrtMemImportFromShareableHandle, (uint64_t, int32_t, void **))                             \
    F(aclrtCreateStream, (void **))                                                                \
    F(aclrtSynchronizeStream, (void *))                                                            \
    F(aclrtSynchronizeDevice, (void))

/* Of libruntime, as operators and older frameworks call it. */
#define RUNTIME(F)                                                                                 \
    F(rtSetDevice, (int32_t))                                                                      \
    F(rtMalloc, (void **, uint64_t, uint32_t, uint16_t))                                           \
    F(rtMallocCached, (void **, uint64_t, uint32_t, uint16_t))                                     \
    F(rtMemAlloc, (void **, uint64_t, uint32_t, uint32_t, struct config *))                        \
    F(rtsMalloc, (void **, uint64_t, uint32_t, uint32_t, struct config *))                         \
    F(rtMemAllocManaged, (void **, uint64_t, uint32_t, uint16_t))                                  \
    F(rtMemFreeManaged, (void *))                                                                  \
    F(rtDvppMalloc, (void **, uint64_t, uint16_t))                                                 \
    F(rtDvppMallocWithFlag, (void **, uint64_t, uint32_t, uint16_t))                               \
    F(rtDvppFree, (void *))                                                                        \
    F(rtFree, (void *))                                                                            \
    F(rtFreeWithDevSync, (void *))                                                                 \
    F(rtMallocHost, (void **, uint64_t, uint16_t))                                                 \
    F(rtFreeHost, (void *))                                                                        \
    F(rtMemGetInfo, (size_t *, size_t *))                                                          \
    F(rtMemGetInfoEx, (uint32_t, size_t *, size_t *))                                              \
    F(rtMallocPhysical, (void **, size_t, struct driver_property *, uint64_t))                     \
    F(rtIpcOpenMemory, (void **, const char *))                                                    \
    F(rtIpcCloseMemory, (const void *))                                                            \
    F(rtsIpcMemGetExportKey, (const void *, size_t, char *, uint32_t, uint64_t))                   \
    F(rtsMemExportToShareableHandle, (void *, int, uint64_t, uint64_t *))                          \
    F(rtsMemImportFromShareableHandle, (uint64_t, int32_t, void **))                               \
    F(rtFreePhysical, (void *))                                                                    \
    F(rtMapMem, (void *, size_t, size_t, void *, uint64_t))                                        \
    F(rtUnmapMem, (void *))                                                                        \
    F(rtMemRetainAllocationHandle, (void *, void **))

#define MEMBER(symbol, parameters) int(*symbol) parameters;
static struct {
    WRAPPED(MEMBER)
    RUNTIME(MEMBER)
} npu;
#undef MEMBER

static void *stream[2];

/* -- Finding it ------------------------------------------------------------------------------------ */

/* AscendCL's own functions, which are linked with the runtime, or the runtime alone, as others that
 * stand in AscendCL's place call it. */
static void load(const char *file, int mode, bool runtime_alone) {
    void *library = NULL;
    if (file && runtime_alone)
        file = "libruntime.so";
    if (file && !(library = dlopen(file, mode)))
        fail("%s", dlerror());
#define LOAD(symbol, parameters) npu.symbol = (__typeof__(npu.symbol))symbol_of(library, #symbol);
#define LOAD_WRAPPED(symbol, parameters)                                                           \
    npu.symbol =                                                                                   \
        (__typeof__(npu.symbol))symbol_of(library, runtime_alone ? #symbol "Impl" : #symbol);
    RUNTIME(LOAD)
    WRAPPED(LOAD_WRAPPED)
#undef LOAD
#undef LOAD_WRAPPED
}

static int retain(void) {
    int result = npu.aclrtSetDevice(0);
    if (result != OK)
        return result;
    MUST(npu.aclrtGetCurrentContext(&tenant.primary));
    for (int i = 0; i < 2; i++)
        MUST(npu.aclrtCreateStream(&stream[i]));
    return OK;
}

static int start(void) {
    size_t free_bytes;
    MUST(npu.aclInit(NULL));
    int result = retain();
    if (result != OK)
        return result;
    tenant.granularity = 2 * MIB;
    MUST(npu.rtMemGetInfo(&free_bytes, &tenant.total));
    return OK;
}

static int release(bool reset) {
    return reset ? npu.aclrtResetDeviceForce(0) : npu.aclrtResetDevice(0);
}

static void *current(void) {
    void *context = NULL;
    MUST(npu.aclrtGetCurrentContext(&context));
    return context;
}

static int enter(void *context) { return npu.aclrtSetCurrentContext(context); }
static int synchronise(void) { return npu.aclrtSynchronizeDevice(); }
static void breathe(unsigned number) { MUST(npu.aclrtSynchronizeStream(stream[number % 2])); }
static void trim(void) {}

static void info(size_t *free_bytes, size_t *total, size_t *also) {
    size_t ignored;
    MUST(npu.aclrtGetMemInfo(1, free_bytes, total));
    MUST(npu.rtMemGetInfo(&ignored, also));
    /* By AscendCL's kinds of memory and the runtime's own the device is the same. */
    size_t others;
    MUST(npu.rtMemGetInfoEx(4, &ignored, &others));
    if (others != *also)
        fail("a device of %zu bytes, or of %zu", others, *also);
}

/* -- Memory by pointer: each call that gives it ------------------------------------------------------ */

static int allocate(address *pointer, uint64_t size) {
    void *given = NULL;
    int result = npu.rtMalloc(&given, size, 2, 33);
    *pointer = (uintptr_t)given;
    return result;
}

static int release_memory(address pointer) { return npu.rtFree((void *)pointer); }

static void write_to(address to, const void *from, size_t size) {
    MUST(npu.aclrtMemcpy((void *)to, size, from, size, TO_DEVICE));
}

static void read_from(void *to, address from, size_t size) {
    MUST(npu.aclrtMemcpy(to, size, (void *)from, size, FROM_DEVICE));
}

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
                                  stream[roll(&dice, 2)]));
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
        MUST(npu.rtFreeWithDevSync(pointer));
        break;
    case 2:
        MUST(npu.aclrtFreeWithDevSync(pointer));
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
    void *before = current();
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
            read_from(&one, thing->pointer[0], sizeof one);
            read_from(&other, thing->pointer[thing->count - 1], sizeof other);
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

static void forge(void) {
    void *handle = NULL;
    char own[64];
    address linear, small;
    MUST(allocate(&linear, 4 * MIB));
    MUST(allocate(&small, 4096));
    say("free a part", npu.rtFree((void *)(linear + 4096)));
    say("free a part of a page", npu.aclrtFree((void *)(small + 256)));
    say("free nothing", npu.rtFree(NULL));
    say("free nothing of AscendCL's", npu.aclrtFree(NULL));
    say("free what is the host's", npu.aclrtFree(own));
    say("free by another call", npu.rtDvppFree((void *)(linear + 4096)));
    say("free", npu.aclrtFree((void *)small));
    say("free it again", npu.rtFreeWithDevSync((void *)small));
    say("release a handle of nobody", npu.aclrtFreePhysical((void *)0x123456));
    say("release a pointer", npu.rtFreePhysical((void *)linear));
    say("retain what is not mapped", npu.aclrtMemRetainAllocationHandle((void *)linear, &handle));
    say("unmap what is not mapped", npu.rtUnmapMem((void *)linear));
    say("map where nothing is reserved", npu.aclrtMapMem((void *)linear, 2 * MIB, 0, own, 0));
    say("release what is not reserved", npu.aclrtReleaseMemAddress((void *)linear));
    say("open what has no name", npu.aclrtIpcMemImportByKey(&handle, "nobody", 0));
    say("close what is not open", npu.rtIpcCloseMemory((void *)linear));
    say("take a number of nobody", npu.aclrtMemImportFromShareableHandle(12345, 0, &handle));
    say("allocate nothing", npu.aclrtMalloc(&handle, 0, 0));
    say("allocate to nowhere", npu.rtMalloc(NULL, 4096, 2, 33));
    MUST(release_memory(linear));
}

static void expect_nothing(address of_parent) {
    void *pointer = NULL;
    size_t free_bytes, total;
    uint32_t count;
    if (!npu.rtSetDevice(0) || !npu.aclrtSetDevice(0) || !npu.rtMalloc(&pointer, 1, 2, 33) ||
        !npu.rtFree((void *)of_parent) || !npu.rtMemGetInfo(&free_bytes, &total) ||
        !npu.aclrtGetDeviceCount(&count))
        fail("a child can use its parent's runtime");
}

static const struct kind kinds[] = {
    {"linear", linear_get, linear_poke, linear_give, true, linear_send, false},
    {"padded", padded_get, work_poke, linear_give, true, NULL, false},
    {"managed", managed_get, work_poke, managed_give, true, NULL, false},
    {"dvpp", dvpp_get, work_poke, dvpp_give, true, NULL, false},
    {"pinned", pinned_get, nothing_poke, pinned_give, true, NULL, false},
    {"pages", pages_get, pages_poke, pages_give, false, NULL, false},
    {"elsewhere", elsewhere_get, elsewhere_poke, elsewhere_give, false, NULL, false},
    {"addresses", addresses_get, nothing_poke, addresses_give, false, NULL, false},
    {"shared", shared_get, shared_poke, shared_give, false, NULL, false},
    {"context", context_get, nothing_poke, context_give, false, NULL, false},
    {0},
};
static const struct kind *const lists[] = {kinds, NULL};

const struct vendor vendor = {
    .library = "libascendcl.so",
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
    .expect_nothing = expect_nothing,
};
