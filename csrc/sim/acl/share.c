/* Memory of other processes: linear memory by names, and physical memory by shareable numbers. Who may have
 * it stands in a file of the node's directory, one for each, as the real runtime keeps it in the driver.
 */
#include "acl_sim.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ALLOWED = 32, PATH_BYTES = 4096 + 128 };

/* What a name stands for. */
struct entry {
    CUipcMemHandle handle; /* of linear memory */
    int32_t allowed[ALLOWED];
    uint32_t count;
    bool anyone;
};

static void path_of(const char *name, char *path, size_t room) {
    snprintf(path, room, "%s/acl-%s", sim_state->directory, name);
}

/* Whether it is one that we could have given out: a path of nobody's making is never opened. */
static bool is_name(const char *name) {
    return name && *name && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(name);
}

/* A descriptor of the entry, locked; -1: there is none. */
static int open_entry(const char *name, struct entry *entry, bool make) {
    char path[PATH_BYTES];
    if (!is_name(name))
        return -1;
    path_of(name, path, sizeof path);
    int file = open(path, O_RDWR | O_CLOEXEC | (make ? O_CREAT | O_EXCL : 0), 0666);
    if (file < 0)
        return -1;
    flock(file, LOCK_EX);
    if (!make && pread(file, entry, sizeof *entry, 0) != (ssize_t)sizeof *entry) {
        close(file);
        return -1;
    }
    return file;
}

static rtError_t write_entry(int file, const struct entry *entry) {
    bool written = pwrite(file, entry, sizeof *entry, 0) == (ssize_t)sizeof *entry;
    close(file);
    return written ? RT_OK : RT_INTERNAL_ERROR;
}

static rtError_t remove_entry(const char *name) {
    char path[PATH_BYTES];
    if (!is_name(name))
        return RT_PARAM_INVALID;
    path_of(name, path, sizeof path);
    return unlink(path) == 0 ? RT_OK : RT_PARAM_INVALID;
}

/* These processes may have it, too. */
static rtError_t allow(const char *name, const int32_t *processes, size_t count) {
    struct entry entry;
    int file = processes && count && count <= ALLOWED ? open_entry(name, &entry, false) : -1;
    if (file < 0)
        return RT_PARAM_INVALID;
    for (size_t i = 0; i < count && entry.count < ALLOWED; i++)
        entry.allowed[entry.count++] = processes[i];
    return write_entry(file, &entry);
}

/* The entry, if this process may have what it stands for. */
static bool may_have(const char *name, struct entry *entry) {
    int file = open_entry(name, entry, false);
    if (file < 0)
        return false;
    close(file);
    bool found = entry->anyone;
    for (uint32_t i = 0; i < entry->count && i < ALLOWED; i++)
        found |= entry->allowed[i] == getpid();
    return found;
}

/* -- Linear memory --------------------------------------------------------------------------------- */

/* Names opened and given out here. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct opened {
    char name[RT_IPC_NAME_BYTES];
    void *pointer; /* NULL: given out here */
    struct opened *next;
} * names;

static void remember(const char *name, void *pointer) {
    struct opened *one = calloc(1, sizeof *one);
    if (!one)
        return;
    snprintf(one->name, sizeof one->name, "%s", name);
    one->pointer = pointer;
    pthread_mutex_lock(&lock);
    one->next = names;
    names = one;
    pthread_mutex_unlock(&lock);
}

/* Takes the latest that has the name, or the pointer, off the list. */
static bool recall(const char *name, const void *pointer, struct opened *found) {
    pthread_mutex_lock(&lock);
    struct opened **link = &names;
    while (*link && (name ? strcmp((*link)->name, name) != 0 : (*link)->pointer != pointer))
        link = &(*link)->next;
    struct opened *one = *link;
    if (one) {
        *link = one->next;
        *found = *one;
        free(one);
    }
    pthread_mutex_unlock(&lock);
    return one;
}

rtError_t rtsIpcMemGetExportKey(const void *pointer, size_t size, char *name, uint32_t room,
                                uint64_t flags) {
    static _Atomic uint32_t numbers;
    struct entry entry = {.anyone = flags & RT_IPC_MEM_EXPORT_ANY_PROCESS};
    char made[RT_IPC_NAME_BYTES];
    size_t bytes;
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!pointer || !size || !name || room < RT_IPC_NAME_BYTES)
        return RT_PARAM_INVALID;
    if (cuMemGetAddressRange_v2(NULL, &bytes, (CUdeviceptr)pointer) != CUDA_SUCCESS || size > bytes)
        return RT_PARAM_INVALID;
    result = acl_error(cuIpcGetMemHandle(&entry.handle, (CUdeviceptr)pointer));
    if (result != RT_OK)
        return result;
    snprintf(made, sizeof made, "%d-%llx-%u", getpid(), (unsigned long long)sim_now_ns(),
             atomic_fetch_add_explicit(&numbers, 1, memory_order_relaxed));
    int file = open_entry(made, &entry, true);
    result = file < 0 ? RT_INTERNAL_ERROR : write_entry(file, &entry);
    if (result == RT_OK) {
        memset(name, 0, room);
        strcpy(name, made);
        remember(made, NULL);
    }
    return result;
}

rtError_t rtIpcSetMemoryName(const void *pointer, uint64_t size, char *name, uint32_t room) {
    return rtsIpcMemGetExportKey(pointer, size, name, room, 0);
}

rtError_t rtIpcDestroyMemoryName(const char *name) { return remove_entry(name); }

rtError_t rtSetIpcMemPid(const char *name, int32_t processes[], int32_t count) {
    return allow(name, processes, count > 0 ? (size_t)count : 0);
}

rtError_t rtsIpcMemSetImportPid(const char *name, int32_t processes[], int count) {
    return rtSetIpcMemPid(name, processes, count);
}

rtError_t rtIpcOpenMemory(void **pointer, const char *name) {
    struct entry entry;
    CUdeviceptr given;
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!pointer || !may_have(name, &entry))
        return RT_PARAM_INVALID;
    result =
        acl_error(cuIpcOpenMemHandle_v2(&given, entry.handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    if (result == RT_OK) {
        *pointer = (void *)given;
        remember(name, *pointer);
    }
    return result;
}

rtError_t rtsIpcMemImportByKey(void **pointer, const char *name, uint64_t flags) {
    return flags > 1 ? RT_PARAM_INVALID : rtIpcOpenMemory(pointer, name);
}

rtError_t rtIpcCloseMemory(const void *pointer) {
    struct opened found;
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!pointer || !recall(NULL, pointer, &found))
        return RT_PARAM_INVALID;
    return acl_error(cuIpcCloseMemHandle((CUdeviceptr)pointer));
}

rtError_t rtsIpcMemClose(const char *name) {
    struct opened found;
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!name || !recall(name, NULL, &found))
        return RT_PARAM_INVALID;
    return found.pointer ? acl_error(cuIpcCloseMemHandle((CUdeviceptr)found.pointer))
                         : remove_entry(name);
}

/* -- Physical memory ---------------------------------------------------------------------------------- */

#define NUMBER_BITS 16
static_assert(SIM_SHARES_MAX <= 1 << NUMBER_BITS, "a share's number takes so many bits");

static void name_of(uint64_t shareable, char *name, size_t room) {
    snprintf(name, room, "physical-%llx", (unsigned long long)shareable);
}

rtError_t rtsMemExportToShareableHandle(rtDrvMemHandle handle, uint32_t type, uint64_t flags,
                                        uint64_t *shareable) {
    struct entry entry = {.anyone = flags & RT_IPC_MEM_EXPORT_ANY_PROCESS};
    struct sim_share_name share;
    char name[RT_IPC_NAME_BYTES];
    int descriptor;
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    if (!shareable || type)
        return RT_PARAM_INVALID;
    result =
        acl_error(cuMemExportToShareableHandle(&descriptor, (CUmemGenericAllocationHandle)handle,
                                               CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    if (result != RT_OK)
        return result;
    bool known = sim_share_identify(sim_state, descriptor, &share);
    close(descriptor);
    if (!known)
        return RT_INTERNAL_ERROR;
    *shareable = share.nonce << NUMBER_BITS | share.number;
    name_of(*shareable, name, sizeof name);
    int file = open_entry(name, &entry, true);
    if (file < 0) { /* given out before: the same number, and now perhaps to all */
        struct entry before;
        file = open_entry(name, &before, false);
        before.anyone |= entry.anyone;
        entry = before;
    }
    return file < 0 ? RT_INTERNAL_ERROR : write_entry(file, &entry);
}

rtError_t rtMemExportToShareableHandle(rtDrvMemHandle handle, uint32_t type, uint64_t flags,
                                       uint64_t *shareable) {
    return rtsMemExportToShareableHandle(handle, type, flags, shareable);
}

rtError_t rtMemExportToShareableHandleV2(rtDrvMemHandle handle, uint32_t kind, uint64_t flags,
                                         void *shareable) {
    uint64_t number;
    if (!shareable || (kind != RT_MEM_SHARE_HANDLE_DEFAULT && kind != RT_MEM_SHARE_HANDLE_FABRIC))
        return RT_PARAM_INVALID;
    rtError_t result = rtsMemExportToShareableHandle(handle, 0, flags, &number);
    if (result != RT_OK)
        return result;
    if (kind == RT_MEM_SHARE_HANDLE_FABRIC)
        memset(shareable, 0, RT_MEM_FABRIC_BYTES);
    memcpy(shareable, &number, sizeof number);
    return RT_OK;
}

rtError_t rtMemSetPidToShareableHandle(uint64_t shareable, int processes[], uint32_t count) {
    char name[RT_IPC_NAME_BYTES];
    rtError_t result = acl_begin();
    name_of(shareable, name, sizeof name);
    return result == RT_OK ? allow(name, processes, count) : result;
}

rtError_t rtsMemImportFromShareableHandle(uint64_t shareable, int32_t device,
                                          rtDrvMemHandle *handle) {
    struct entry entry;
    char name[RT_IPC_NAME_BYTES];
    CUmemGenericAllocationHandle given;
    struct sim_share_name share = {.number = (uint32_t)(shareable & (SIM_SHARES_MAX - 1)),
                                   .nonce = shareable >> NUMBER_BITS};
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    name_of(shareable, name, sizeof name);
    if (!handle || device < 0 || device >= sim_device_count() || !may_have(name, &entry))
        return RT_PARAM_INVALID;
    share.device = sim_state->header->shares[share.number].device;
    if (!share_acquire(&share))
        return RT_PARAM_INVALID;
    int descriptor = sim_share_export(sim_state, &share);
    result =
        descriptor < 0
            ? RT_INTERNAL_ERROR
            : acl_error(cuMemImportFromShareableHandle(&given, (void *)(intptr_t)descriptor,
                                                       CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    if (descriptor >= 0)
        close(descriptor);
    share_release(&share);
    if (result == RT_OK)
        *handle = (void *)given;
    return result;
}

rtError_t rtMemImportFromShareableHandle(uint64_t shareable, int32_t device,
                                         rtDrvMemHandle *handle) {
    return rtsMemImportFromShareableHandle(shareable, device, handle);
}

rtError_t rtMemImportFromShareableHandleV2(const void *shareable, uint32_t kind, uint64_t flags,
                                           int32_t device, rtDrvMemHandle *handle) {
    uint64_t number;
    if (!shareable || flags ||
        (kind != RT_MEM_SHARE_HANDLE_DEFAULT && kind != RT_MEM_SHARE_HANDLE_FABRIC))
        return RT_PARAM_INVALID;
    memcpy(&number, shareable, sizeof number);
    return rtsMemImportFromShareableHandle(number, device, handle);
}
