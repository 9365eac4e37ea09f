/* A program that shares memory of Ascend devices with others, or has it of pools, written without the vendor's headers: it
 * declares what it calls by the published interface, and looks it up in the libraries as frameworks do.
 * It does what standard input says, a line each, and answers a line each, which begins with the code that
 * the runtime answered.
 */
#include "ascend_program.h"

#include <inttypes.h>

enum { NAME = 65, BLOCK = 128, ANYONE = 1, DEFAULT = 1, FABRIC = 2 };
struct property {
    uint32_t handle_type, allocation_type, memory;
    struct {
        uint32_t id, type;
    } location;
    uint64_t reserve;
};
struct pool_property {
    int32_t allocation_type, handle_type;
    struct {
        uint32_t id, type;
    } location;
    size_t room;
    uint8_t reserve[32];
};
struct driver_pool_property {
    uint32_t side, device, handle_type;
    size_t room;
    uint64_t reserve;
};
struct driver_property {
    uint32_t side, device, module, page_type, memory_type;
    uint64_t reserve;
};

#define ACL(X)                                                                                     \
    X(aclrtSetDevice, (int32_t))                                                                   \
    X(aclrtResetDevice, (int32_t))                                                                 \
    X(aclrtMallocAlign32, (void **, size_t, int))                                                  \
    X(aclrtFree, (void *))                                                                         \
    X(aclrtMemset, (void *, size_t, int32_t, size_t))                                              \
    X(aclrtMemcpy, (void *, size_t, const void *, size_t, int))                                    \
    X(aclrtGetMemInfo, (int, size_t *, size_t *))                                                  \
    X(aclrtIpcMemGetExportKey, (void *, size_t, char *, size_t, uint64_t))                         \
    X(aclrtIpcMemImportByKey, (void **, const char *, uint64_t))                                   \
    X(aclrtIpcMemSetImportPid, (const char *, int32_t *, size_t))                                  \
    X(aclrtIpcMemClose, (const char *))                                                            \
    X(aclrtMallocPhysical, (void **, size_t, const struct property *, uint64_t))                   \
    X(aclrtFreePhysical, (void *))                                                                 \
    X(aclrtCreateStream, (void **))                                                                \
    X(aclrtSynchronizeStream, (void *))                                                            \
    X(aclrtMemPoolCreate, (void **, const struct pool_property *))                                 \
    X(aclrtMemPoolDestroy, (void *))                                                               \
    X(aclrtMemPoolSetAttr, (void *, int, void *))                                                  \
    X(aclrtMemPoolMallocAsync, (void **, size_t, void *, void *))                                  \
    X(aclrtMemPoolFreeAsync, (void *, void *))                                                     \
    X(aclrtMemPoolTrimTo, (void *, size_t))                                                        \
    X(aclrtReserveMemAddress, (void **, size_t, size_t, void *, uint64_t))                         \
    X(aclrtMapMem, (void *, size_t, size_t, void *, uint64_t))                                     \
    X(aclrtUnmapMem, (void *))                                                                     \
    X(aclrtMemExportToShareableHandle, (void *, int, uint64_t, uint64_t *))                        \
    X(aclrtMemExportToShareableHandleV2, (void *, uint64_t, int, void *))                          \
    X(aclrtMemImportFromShareableHandle, (uint64_t, int32_t, void **))                             \
    X(aclrtMemImportFromShareableHandleV2, (void *, int, uint64_t, void **))

#define RUNTIME(X)                                                                                 \
    X(rtsFree, (void *))                                                                           \
    X(rtMemPoolCreate, (void **, const struct driver_pool_property *))                             \
    X(rtMemPoolDestroy, (void *))                                                                  \
    X(rtMemPoolMallocAsync, (void **, uint64_t, void *, void *))                                   \
    X(rtMemPoolFreeAsync, (void *, void *))                                                        \
    X(rtMemPoolTrimTo, (void *, uint64_t))                                                         \
    X(rtIpcSetMemoryName, (const void *, uint64_t, char *, uint32_t))                              \
    X(rtIpcDestroyMemoryName, (const char *))                                                      \
    X(rtIpcOpenMemory, (void **, const char *))                                                    \
    X(rtIpcCloseMemory, (const void *))                                                            \
    X(rtSetIpcMemPid, (const char *, int32_t *, int32_t))                                          \
    X(rtsIpcMemGetExportKey, (const void *, size_t, char *, uint32_t, uint64_t))                   \
    X(rtsIpcMemImportByKey, (void **, const char *, uint64_t))                                     \
    X(rtsIpcMemClose, (const char *))                                                              \
    X(rtsIpcMemSetImportPid, (const char *, int32_t *, int))                                       \
    X(rtMallocPhysical, (void **, size_t, struct driver_property *, uint64_t))                     \
    X(rtFreePhysical, (void *))                                                                    \
    X(rtsMemMallocPhysical, (void **, size_t, int, void *))                                        \
    X(rtsMemFreePhysical, (void **))                                                               \
    X(rtMapMem, (void *, size_t, size_t, void *, uint64_t))                                        \
    X(rtUnmapMem, (void *))                                                                        \
    X(rtsMemMap, (void *, size_t, size_t, void *, uint64_t))                                       \
    X(rtsMemUnmap, (void *))                                                                       \
    X(rtMemExportToShareableHandle, (void *, int, uint64_t, uint64_t *))                           \
    X(rtMemExportToShareableHandleV2, (void *, int, uint64_t, void *))                             \
    X(rtsMemExportToShareableHandle, (void *, int, uint64_t, uint64_t *))                          \
    X(rtMemImportFromShareableHandle, (uint64_t, int32_t, void **))                                \
    X(rtMemImportFromShareableHandleV2, (const void *, int, uint64_t, int32_t, void **))           \
    X(rtsMemImportFromShareableHandle, (uint64_t, int32_t, void **))                               \
    X(rtMemSetPidToShareableHandle, (uint64_t, int *, uint32_t))

ACL(DECLARE)
RUNTIME(DECLARE)

static int export_memory(const char *how, void *pointer, size_t size, char *name, bool anyone) {
    if (is(how, "acl"))
        return aclrtIpcMemGetExportKey(pointer, size, name, NAME, anyone);
    if (is(how, "rts"))
        return rtsIpcMemGetExportKey(pointer, size, name, NAME, anyone);
    return rtIpcSetMemoryName(pointer, size, name, NAME);
}

static int allow(const char *how, const char *name, int32_t process) {
    if (is(how, "acl"))
        return aclrtIpcMemSetImportPid(name, &process, 1);
    return is(how, "rts") ? rtsIpcMemSetImportPid(name, &process, 1)
                          : rtSetIpcMemPid(name, &process, 1);
}

static int open_memory(const char *how, const char *name, void **pointer) {
    if (is(how, "acl"))
        return aclrtIpcMemImportByKey(pointer, name, 0);
    return is(how, "rts") ? rtsIpcMemImportByKey(pointer, name, 0) : rtIpcOpenMemory(pointer, name);
}

/* By its name, or by its address. */
static int close_memory(const char *how, const char *name, const void *pointer) {
    if (is(how, "acl"))
        return aclrtIpcMemClose(name);
    return is(how, "rts") ? rtsIpcMemClose(name) : rtIpcCloseMemory(pointer);
}

static int physical(const char *how, size_t size, void **handle) {
    struct property property = {.location = {.id = 0, .type = 1}};
    struct driver_property other = {.side = 1, .device = 0};
    if (is(how, "acl"))
        return aclrtMallocPhysical(handle, size, &property, 0);
    return is(how, "rts") ? rtsMemMallocPhysical(handle, size, 0, NULL)
                          : rtMallocPhysical(handle, size, &other, 0);
}

static int release(const char *how, void *handle) {
    if (is(how, "acl"))
        return aclrtFreePhysical(handle);
    return is(how, "rts") ? rtsMemFreePhysical(&handle) : rtFreePhysical(handle);
}

static int map(const char *how, void *at, size_t size, void *handle) {
    if (is(how, "acl"))
        return aclrtMapMem(at, size, 0, handle, 0);
    return is(how, "rts") ? rtsMemMap(at, size, 0, handle, 0) : rtMapMem(at, size, 0, handle, 0);
}

static int unmap(const char *how, void *at) {
    if (is(how, "acl"))
        return aclrtUnmapMem(at);
    return is(how, "rts") ? rtsMemUnmap(at) : rtUnmapMem(at);
}

/* The number stands for the memory; with "fabric" a block does, which begins with it here. */
static int export_physical(const char *how, void *handle, bool anyone, uint64_t *number) {
    uint8_t block[BLOCK];
    int code;
    if (is(how, "acl"))
        return aclrtMemExportToShareableHandle(handle, 0, anyone, number);
    if (is(how, "rt"))
        return rtMemExportToShareableHandle(handle, 0, anyone, number);
    if (is(how, "rts"))
        return rtsMemExportToShareableHandle(handle, 0, anyone, number);
    if (is(how, "acl-v2"))
        return aclrtMemExportToShareableHandleV2(handle, anyone, DEFAULT, number);
    code = is(how, "acl-fabric") ? aclrtMemExportToShareableHandleV2(handle, anyone, FABRIC, block)
                                 : rtMemExportToShareableHandleV2(handle, FABRIC, anyone, block);
    memcpy(number, block, sizeof *number);
    return code;
}

static int import_physical(const char *how, uint64_t number, void **handle) {
    uint8_t block[BLOCK] = {0};
    memcpy(block, &number, sizeof number);
    if (is(how, "acl"))
        return aclrtMemImportFromShareableHandle(number, 0, handle);
    if (is(how, "rt"))
        return rtMemImportFromShareableHandle(number, 0, handle);
    if (is(how, "rts"))
        return rtsMemImportFromShareableHandle(number, 0, handle);
    if (is(how, "acl-v2"))
        return aclrtMemImportFromShareableHandleV2(&number, DEFAULT, 0, handle);
    return is(how, "acl-fabric") ? aclrtMemImportFromShareableHandleV2(block, FABRIC, 0, handle)
                                 : rtMemImportFromShareableHandleV2(block, FABRIC, 0, 0, handle);
}

/* 0: all bytes of the memory are `value`. */
static int check(const void *at, size_t size, int value) {
    uint8_t *read = malloc(size);
    int code = read ? aclrtMemcpy(read, size, at, size, 2) : -1;
    for (size_t i = 0; code == 0 && i < size; i++)
        code = read[i] == value ? 0 : -2;
    free(read);
    return code;
}

enum { KEEPS = 4 }; /* the attribute that says how much a pool keeps that nobody uses */

static int make_pool(const char *how, void **pool) {
    struct pool_property property = {.location = {.id = 0, .type = 1}};
    struct driver_pool_property other = {.side = 1, .device = 0};
    return is(how, "acl") ? aclrtMemPoolCreate(pool, &property) : rtMemPoolCreate(pool, &other);
}

static void *stream(void) {
    static void *made;
    if (!made && aclrtCreateStream(&made) != 0)
        printf("not so: no stream\n");
    return made;
}

/* What is said of pools, in a stream of the program's. */
static void obey_of_pool(const char *what, const char *how, void *one, uint64_t size) {
    bool acl = is(how, "acl");
    void *got = NULL;
    if (is(what, "pool"))
        answer_thing(make_pool(how, &got), &got);
    else if (is(what, "pool-keeps"))
        answer(aclrtMemPoolSetAttr(one, KEEPS, &size));
    else if (is(what, "pool-gives"))
        answer_thing(acl ? aclrtMemPoolMallocAsync(&got, size, one, stream())
                         : rtMemPoolMallocAsync(&got, size, one, stream()),
                     &got);
    else if (is(what, "pool-takes"))
        answer(acl ? aclrtMemPoolFreeAsync(one, stream()) : rtMemPoolFreeAsync(one, stream()));
    else if (is(what, "pool-trim"))
        answer(acl ? aclrtMemPoolTrimTo(one, size) : rtMemPoolTrimTo(one, size));
    else if (is(what, "pool-end"))
        answer(acl ? aclrtMemPoolDestroy(one) : rtMemPoolDestroy(one));
    else if (is(what, "pool-sync"))
        answer(aclrtSynchronizeStream(stream()));
    else
        printf("not so: %s\n", what);
}

void obey(const char *what, const char *how, const char *a, const char *b) {
    void *one = is_number(a) ? thing(atoi(a)) : NULL, *got = NULL;
    uint64_t number = strtoull(a, NULL, 10), size = strtoull(b, NULL, 10);
    char name[NAME] = "";
    if (is(what, "set"))
        answer(aclrtSetDevice(atoi(how)));
    else if (is(what, "reset"))
        answer(aclrtResetDevice(atoi(how)));
    else if (is(what, "give"))
        answer_thing(aclrtMallocAlign32(&got, number, 0), &got);
    else if (is(what, "free"))
        answer(is(how, "rts") ? rtsFree(one) : aclrtFree(one));
    else if (is(what, "fill"))
        answer(aclrtMemset(one, size, atoi(how), size));
    else if (is(what, "check"))
        answer(check(one, size, atoi(how)));
    else if (is(what, "free-bytes")) {
        size_t left = 0, total = 0;
        int code = aclrtGetMemInfo(1, &left, &total);
        printf("%d %zu\n", code, left);
    } else if (is(what, "export") || is(what, "export-all")) {
        int code = export_memory(how, one, size, name, is(what, "export-all"));
        printf("%d %s\n", code, name);
    } else if (is(what, "allow"))
        answer(allow(how, a, atoi(b)));
    else if (is(what, "open"))
        answer_thing(open_memory(how, a, &got), &got);
    else if (is(what, "close"))
        answer(close_memory(how, b, one));
    else if (is(what, "destroy"))
        answer(rtIpcDestroyMemoryName(a));
    else if (is(what, "physical"))
        answer_thing(physical(how, number, &got), &got);
    else if (is(what, "release"))
        answer(release(how, one));
    else if (is(what, "map")) {
        int code = aclrtReserveMemAddress(&got, size, 0, NULL, 0);
        answer_thing(code ? code : map(how, got, size, one), &got);
    } else if (is(what, "unmap"))
        answer(unmap(how, one));
    else if (is(what, "share") || is(what, "share-all")) {
        uint64_t shareable = 0;
        int code = export_physical(how, one, is(what, "share-all"), &shareable);
        printf("%d %" PRIu64 "\n", code, shareable);
    } else if (is(what, "allow-number")) {
        int process = atoi(b);
        answer(rtMemSetPidToShareableHandle(number, &process, 1));
    } else if (is(what, "take"))
        answer_thing(import_physical(how, number, &got), &got);
    else
        obey_of_pool(what, how, one, size);
}

PROGRAM
