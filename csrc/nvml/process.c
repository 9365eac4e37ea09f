/* Who is on a device: the slice's own processes, by the pids that they know themselves by.
 *
 * NVML has a list for each kind of work. All of a slice's processes are in that of computing: what
 * runs under MPS too, and a slice has no graphics, so that those two lists are empty.
 */
#include "view.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- Lists ----------------------------------------------------------------------------------- */

enum { NO_INSTANCE = 0xffffffff };

/* A list that is being handed on. All versions of an entry begin as nvmlProcessInfo_t does, as far as
 * they go; what a longer one has more is zero. */
struct list {
    char *out;
    size_t size; /* of an entry */
    unsigned room, count;
    unsigned instance, compute; /* of the partition that is looked at */
};

static void add_process(uint32_t pid, uint64_t bytes, void *argument) {
    struct list *list = argument;
    nvmlProcessInfo_t entry = {.pid = pid,
                               .usedGpuMemory = bytes,
                               .gpuInstanceId = list->instance,
                               .computeInstanceId = list->compute};
    if (list->count < list->room) {
        char *at = list->out + list->count * list->size;
        memset(at, 0, list->size);
        memcpy(at, &entry, list->size < sizeof entry ? list->size : sizeof entry);
    }
    list->count++;
}

static void add_part(nvmlDevice_t part, void *argument) {
    struct list *list = argument;
    uint32_t index;
    if (!aliquot_view_device(part, &index))
        return;
    if (REAL(nvmlDeviceGetGpuInstanceId)(part, &list->instance) != NVML_SUCCESS)
        list->instance = NO_INSTANCE;
    if (REAL(nvmlDeviceGetComputeInstanceId)(part, &list->compute) != NVML_SUCCESS)
        list->compute = NO_INSTANCE;
    aliquot_view_processes(index, add_process, list);
}

/* Answers a list after the driver was asked for its own with no room for it, which says what it makes
 * of the handle. `*count` is the room in `out`, and gets what there is. */
static nvmlReturn_t answer(nvmlReturn_t said, nvmlDevice_t device, unsigned *count, void *out,
                           size_t size) {
    if (said != NVML_SUCCESS && said != NVML_ERROR_INSUFFICIENT_SIZE)
        return said;
    struct list list = {
        .out = out, .size = size, .room = *count, .instance = NO_INSTANCE, .compute = NO_INSTANCE};
    uint32_t index;
    if (!size)
        ; /* nobody */
    else if (!aliquot_view_device(device, &index))
        aliquot_view_parts(device, add_part, &list);
    else if (aliquot_view_is_part(device))
        add_part(device, &list);
    else
        aliquot_view_processes(index, add_process, &list);
    *count = list.count;
    return list.count > list.room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

/* Arguments that the driver refuses, whatever there is to list. */
#define ODD_LIST(count, out) (!(count) || (*(count) && !(out)))

#define LIST(name, entry, size)                                                                    \
    nvmlReturn_t aliquot_##name(nvmlDevice_t device, unsigned int *count, entry *out) {            \
        if (OWN_CALL() || ODD_LIST(count, out))                                                    \
            return REAL(name)(device, count, out);                                                 \
        ENTER();                                                                                   \
        unsigned none = 0;                                                                         \
        return answer(REAL(name)(device, &none, NULL), device, count, out, size);                  \
    }

LIST(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t, sizeof *out)
LIST(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, sizeof *out)
LIST(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t, sizeof *out)
LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t, 0)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t, 0)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t, 0)
LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t, 0)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, 0)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t, 0)
/* Sessions are everybody's, by pids of the host. */
LIST(nvmlDeviceGetEncoderSessions, nvmlEncoderSessionInfo_t, 0)
LIST(nvmlDeviceGetFBCSessions, nvmlFBCSessionInfo_t, 0)

nvmlReturn_t aliquot_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                           nvmlProcessDetailList_t *details) {
    if (OWN_CALL() || !details || ODD_LIST(&details->numProcArrayEntries, details->procArray))
        return REAL(nvmlDeviceGetRunningProcessDetailList)(device, details);
    ENTER();
    nvmlProcessDetailList_t none = {.version = details->version, .mode = details->mode};
    nvmlReturn_t said = REAL(nvmlDeviceGetRunningProcessDetailList)(device, &none);
    bool compute = details->mode == NVML_PROCESS_MODE_COMPUTE;
    return answer(said, device, &details->numProcArrayEntries, details->procArray,
                  compute ? sizeof *details->procArray : 0);
}

/* ---- Accounting ------------------------------------------------------------------------------ */

/* The driver keeps accounts by pids of the host, of everybody, and long after their end. Nothing tells
 * which are the slice's, so that it has none. */
nvmlReturn_t aliquot_nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count,
                                                 unsigned int *pids) {
    if (OWN_CALL() || ODD_LIST(count, pids))
        return REAL(nvmlDeviceGetAccountingPids)(device, count, pids);
    ENTER();
    unsigned none = 0;
    return answer(REAL(nvmlDeviceGetAccountingPids)(device, &none, NULL), device, count, pids, 0);
}

nvmlReturn_t aliquot_nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid,
                                                  nvmlAccountingStats_t *stats) {
    if (OWN_CALL() || !stats)
        return REAL(nvmlDeviceGetAccountingStats)(device, pid, stats);
    ENTER();
    nvmlAccountingStats_t unseen;
    nvmlReturn_t result = REAL(nvmlDeviceGetAccountingStats)(device, pid, &unseen);
    return result == NVML_SUCCESS ? NVML_ERROR_NOT_FOUND : result;
}

nvmlReturn_t aliquot_nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device,
                                                     nvmlAccountingStats_v2_t *stats) {
    if (OWN_CALL() || !stats)
        return REAL(nvmlDeviceGetAccountingStats_v2)(device, stats);
    ENTER();
    nvmlAccountingStats_v2_t unseen = *stats;
    nvmlReturn_t result = REAL(nvmlDeviceGetAccountingStats_v2)(device, &unseen);
    return result == NVML_SUCCESS ? NVML_ERROR_NOT_FOUND : result;
}

/* ---- How busy they are ------------------------------------------------------------------------- */

/* The pids of the slice on a device. */
struct own {
    unsigned count;
    uint32_t pid[ALIQUOT_MAX_SLOTS];
};

static void add_pid(uint32_t pid, uint64_t bytes, void *argument) {
    (void)bytes;
    struct own *own = argument;
    if (own->count < ALIQUOT_MAX_SLOTS)
        own->pid[own->count++] = pid;
}

/* Samples have pids of the host. They tell processes apart only where those are the slice's own pids
 * too: in the host's own namespace. (Elsewhere a number may be that of somebody else.) */
static void list_own(nvmlDevice_t device, struct own *own) {
    const ino_t of_the_host = 0xeffffffc; /* PROC_PID_INIT_INO of linux/proc_ns.h */
    struct stat namespace;
    uint32_t index;
    own->count = 0;
    if (stat("/proc/self/ns/pid", &namespace) == 0 && namespace.st_ino == of_the_host &&
        aliquot_view_device(device, &index))
        aliquot_view_processes(index, add_pid, own);
}

static bool is_own(const struct own *own, uint32_t pid) {
    for (unsigned i = 0; i < own->count; i++)
        if (own->pid[i] == pid)
            return true;
    return false;
}

/* Samples that the driver is asked for; both kinds have a pid. */
struct samples {
    nvmlReturn_t (*ask)(const struct samples *samples, unsigned *count, void *out);
    nvmlDevice_t device;
    unsigned long long since;
    unsigned version;
    size_t size, pid_at; /* of one */
};

/* Asks for all samples and keeps the slice's own. `*kept` is to be freed. */
static nvmlReturn_t ask_own(const struct samples *samples, char **kept, unsigned *count) {
    unsigned total = 0;
    *count = 0;
    nvmlReturn_t result = samples->ask(samples, &total, NULL);
    /* More may come while we make room. */
    for (unsigned try = 0; result == NVML_ERROR_INSUFFICIENT_SIZE && try < 4; try++) {
        free(*kept);
        total += 8;
        if (!(*kept = calloc(total, samples->size)))
            return NVML_ERROR_MEMORY;
        result = samples->ask(samples, &total, *kept);
    }
    if (result != NVML_SUCCESS || !*kept)
        return result;
    struct own own;
    list_own(samples->device, &own);
    for (unsigned i = 0; i < total; i++) {
        char *sample = *kept + i * samples->size;
        uint32_t pid;
        memcpy(&pid, sample + samples->pid_at, sizeof pid);
        if (is_own(&own, pid))
            memmove(*kept + (*count)++ * samples->size, sample, samples->size);
    }
    return NVML_SUCCESS;
}

/* Without a place for them, a caller asks how many there are. */
static nvmlReturn_t hand_on(const struct samples *samples, unsigned *count, void *out) {
    char *kept = NULL;
    unsigned found, room = out ? *count : 0;
    nvmlReturn_t result = ask_own(samples, &kept, &found);
    if (result == NVML_SUCCESS || result == NVML_ERROR_NOT_FOUND) {
        *count = found;
        result = !found         ? NVML_ERROR_NOT_FOUND
                 : found > room ? NVML_ERROR_INSUFFICIENT_SIZE
                                : NVML_SUCCESS;
        if (result == NVML_SUCCESS)
            memcpy(out, kept, found * samples->size);
    }
    free(kept);
    return result;
}

static nvmlReturn_t ask_samples(const struct samples *samples, unsigned *count, void *out) {
    return REAL(nvmlDeviceGetProcessUtilization)(samples->device, out, count, samples->since);
}

nvmlReturn_t aliquot_nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                     nvmlProcessUtilizationSample_t *out,
                                                     unsigned int *count,
                                                     unsigned long long since) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetProcessUtilization)(device, out, count, since);
    ENTER();
    struct samples samples = {.ask = ask_samples,
                              .device = device,
                              .since = since,
                              .size = sizeof *out,
                              .pid_at = offsetof(nvmlProcessUtilizationSample_t, pid)};
    return hand_on(&samples, count, out);
}

static nvmlReturn_t ask_infos(const struct samples *samples, unsigned *count, void *out) {
    nvmlProcessesUtilizationInfo_t info = {.version = samples->version,
                                           .processSamplesCount = *count,
                                           .lastSeenTimeStamp = samples->since,
                                           .procUtilArray = out};
    nvmlReturn_t result = REAL(nvmlDeviceGetProcessesUtilizationInfo)(samples->device, &info);
    *count = info.processSamplesCount;
    return result;
}

nvmlReturn_t aliquot_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                           nvmlProcessesUtilizationInfo_t *info) {
    if (OWN_CALL() || !info)
        return REAL(nvmlDeviceGetProcessesUtilizationInfo)(device, info);
    ENTER();
    struct samples samples = {.ask = ask_infos,
                              .device = device,
                              .since = info->lastSeenTimeStamp,
                              .version = info->version,
                              .size = sizeof *info->procUtilArray,
                              .pid_at = offsetof(nvmlProcessUtilizationInfo_v1_t, pid)};
    return hand_on(&samples, &info->processSamplesCount, info->procUtilArray);
}
