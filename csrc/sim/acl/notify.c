/* Notifies: a word that one stream sets and another waits for and clears, in this process or another one.
 * Each is a page of a file in the node's directory.
 */
#include "acl_sim.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PATH_BYTES = 4096 + 128 };
#define MAGIC UINT64_C(0x5946544f4e2d5153)

struct notify {
    uint64_t magic;
    uint64_t *word;
    char name[RT_IPC_NAME_BYTES];
    bool own;
};

static void path_of(const char *name, char *path, size_t room) {
    snprintf(path, room, "%s/acl-notify-%s", sim_state->directory, name);
}

static bool is_name(const char *name) {
    return name && *name && strspn(name, "abcdef0123456789-") == strlen(name);
}

/* A notify over the file, which is made or must be there. */
static rtError_t attach(const char *name, bool own, rtNotify_t *handle) {
    char path[PATH_BYTES];
    path_of(name, path, sizeof path);
    int file = open(path, O_RDWR | O_CLOEXEC | (own ? O_CREAT | O_EXCL : 0), 0666);
    if (file < 0)
        return RT_PARAM_INVALID;
    void *at = ftruncate(file, PAGE) == 0
                   ? mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                   : MAP_FAILED;
    close(file);
    struct notify *notify = at != MAP_FAILED ? calloc(1, sizeof *notify) : NULL;
    rtError_t result = notify ? acl_error(cuMemHostRegister_v2(at, PAGE, 0)) : RT_INTERNAL_ERROR;
    if (result != RT_OK) {
        if (at != MAP_FAILED)
            munmap(at, PAGE);
        free(notify);
        return result;
    }
    *notify = (struct notify){.magic = MAGIC, .word = at, .own = own};
    snprintf(notify->name, sizeof notify->name, "%s", name);
    *handle = notify;
    return RT_OK;
}

static struct notify *notify_of(rtNotify_t handle) {
    struct notify *notify = handle;
    return notify && notify->magic == MAGIC ? notify : NULL;
}

rtError_t rtsNotifyCreate(rtNotify_t *handle, uint64_t flag) {
    static _Atomic uint32_t numbers;
    char name[RT_IPC_NAME_BYTES];
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!handle || flag > 1)
        return RT_PARAM_INVALID;
    snprintf(name, sizeof name, "%d-%llx-%u", getpid(), (unsigned long long)sim_now_ns(),
             atomic_fetch_add_explicit(&numbers, 1, memory_order_relaxed));
    return attach(name, true, handle);
}
rtError_t rtNotifyCreate(int32_t device, rtNotify_t *handle) {
    return device < 0 || device >= sim_device_count() ? RT_PARAM_INVALID
                                                      : rtsNotifyCreate(handle, 0);
}

rtError_t rtNotifyDestroy(rtNotify_t handle) {
    struct notify *notify = notify_of(handle);
    char path[PATH_BYTES];
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!notify)
        return RT_PARAM_INVALID;
    notify->magic = 0;
    path_of(notify->name, path, sizeof path);
    if (notify->own)
        unlink(path);
    result = acl_error(cuMemHostUnregister(notify->word));
    munmap(notify->word, PAGE);
    return result;
}
rtError_t rtsNotifyDestroy(rtNotify_t handle) { return rtNotifyDestroy(handle); }

static rtError_t put(rtNotify_t handle, rtStream_t stream, enum acl_kind kind, uint64_t value) {
    struct notify *notify = notify_of(handle);
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!notify)
        return RT_PARAM_INVALID;
    struct acl_work work = {.kind = kind,
                            .word = {(CUdeviceptr)notify->word, value, RT_VALUE_WAIT_EQ}};
    return acl_submit(&work, stream);
}

rtError_t rtNotifyRecord(rtNotify_t handle, rtStream_t stream) {
    return put(handle, stream, ACL_WRITE, 1);
}
rtError_t rtsNotifyRecord(rtNotify_t handle, rtStream_t stream) {
    return rtNotifyRecord(handle, stream);
}

rtError_t rtNotifyWaitWithTimeOut(rtNotify_t handle, rtStream_t stream, uint32_t timeout) {
    (void)timeout; /* seconds, after which the device gives up */
    rtError_t result = put(handle, stream, ACL_WAIT, 1);
    return result == RT_OK ? put(handle, stream, ACL_WRITE, 0) : result;
}
rtError_t rtNotifyWait(rtNotify_t handle, rtStream_t stream) {
    return rtNotifyWaitWithTimeOut(handle, stream, 0);
}
rtError_t rtsNotifyWaitAndReset(rtNotify_t handle, rtStream_t stream, uint32_t timeout) {
    return rtNotifyWaitWithTimeOut(handle, stream, timeout);
}

rtError_t rtNotifyReset(rtNotify_t handle) {
    struct notify *notify = notify_of(handle);
    if (!notify)
        return RT_PARAM_INVALID;
    __atomic_store_n(notify->word, 0, __ATOMIC_RELEASE);
    return RT_OK;
}

rtError_t rtIpcSetNotifyName(rtNotify_t handle, char *name, uint32_t room) {
    struct notify *notify = notify_of(handle);
    if (!notify || !notify->own || !name || room < RT_IPC_NAME_BYTES)
        return RT_PARAM_INVALID;
    memset(name, 0, room);
    strcpy(name, notify->name);
    return RT_OK;
}
rtError_t rtsNotifyGetExportKey(rtNotify_t handle, char *name, uint32_t room, uint64_t flag) {
    (void)flag;
    return rtIpcSetNotifyName(handle, name, room);
}

rtError_t rtIpcOpenNotify(rtNotify_t *handle, const char *name) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    return handle && is_name(name) ? attach(name, false, handle) : RT_PARAM_INVALID;
}
rtError_t rtsNotifyImportByKey(rtNotify_t *handle, const char *name, uint64_t flag) {
    (void)flag;
    return rtIpcOpenNotify(handle, name);
}

/* -- Those that count: the word is a number -------------------------------------------------------- */

enum { RECORD_SET = 0, WAIT_EQUAL = 1, WAIT_AT_LEAST = 3, WAIT_LAST = 4 };

rtError_t rtCntNotifyCreateWithFlag(int32_t device, rtNotify_t *handle, uint32_t flags) {
    return flags ? RT_PARAM_INVALID : rtNotifyCreate(device, handle);
}
rtError_t rtCntNotifyDestroy(rtNotify_t handle) { return rtNotifyDestroy(handle); }

/* (The streams of this device set words and add nothing to them.) */
rtError_t rtsCntNotifyRecord(rtNotify_t handle, rtStream_t stream, void *how) {
    const struct { uint32_t mode, value; } *record = how;
    if (!record)
        return RT_PARAM_INVALID;
    return record->mode == RECORD_SET ? put(handle, stream, ACL_WRITE, record->value)
                                      : RT_FEATURE_NOT_SUPPORT;
}

rtError_t rtsCntNotifyWaitWithTimeout(rtNotify_t handle, rtStream_t stream, void *until) {
    const struct {
        uint32_t mode, value, timeout;
        uint8_t clears;
    } *wait = until;
    struct notify *notify = notify_of(handle);
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!wait || !notify || wait->mode > WAIT_LAST)
        return RT_PARAM_INVALID;
    if (wait->mode != WAIT_EQUAL && wait->mode != WAIT_AT_LEAST)
        return RT_FEATURE_NOT_SUPPORT;
    const struct acl_work work = {
        .kind = ACL_WAIT,
        .word = {(CUdeviceptr)notify->word, wait->value,
                 wait->mode == WAIT_EQUAL ? RT_VALUE_WAIT_EQ : RT_VALUE_WAIT_GEQ}};
    result = acl_submit(&work, stream);
    return result == RT_OK && wait->clears ? put(handle, stream, ACL_WRITE, 0) : result;
}
rtError_t rtCntNotifyWaitWithTimeout(rtNotify_t handle, rtStream_t stream, const void *until) {
    return rtsCntNotifyWaitWithTimeout(handle, stream, (void *)(uintptr_t)until);
}
