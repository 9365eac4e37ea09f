/* What the slice has of a device, and who uses it: memory, processes, time. */
#include "view.h"

#include <stddef.h>

/* ---- Initialisation ------------------------------------------------------------------------- */

nvmlReturn_t aliquot_nvmlInit(void);
nvmlReturn_t aliquot_nvmlInit(void) {
    if (OWN_CALL())
        return REAL(nvmlInit)();
    ENTER();
    return aliquot_view_attach() ? REAL(nvmlInit)() : NVML_ERROR_OPERATING_SYSTEM;
}

nvmlReturn_t aliquot_nvmlInit_v2(void);
nvmlReturn_t aliquot_nvmlInit_v2(void) {
    if (OWN_CALL())
        return REAL(nvmlInit_v2)();
    ENTER();
    return aliquot_view_attach() ? REAL(nvmlInit_v2)() : NVML_ERROR_OPERATING_SYSTEM;
}

nvmlReturn_t aliquot_nvmlInitWithFlags(unsigned int flags);
nvmlReturn_t aliquot_nvmlInitWithFlags(unsigned int flags) {
    if (OWN_CALL())
        return REAL(nvmlInitWithFlags)(flags);
    ENTER();
    return aliquot_view_attach() ? REAL(nvmlInitWithFlags)(flags) : NVML_ERROR_OPERATING_SYSTEM;
}

/* ---- Memory -------------------------------------------------------------------------------- */

/* The cap of a device that is the slice's and has one; 0 otherwise: then the driver's word stands.
 * `*used` gets what counts against it, which may be more than the cap for a moment: it is cut off. */
static uint64_t cap_of(nvmlDevice_t device, uint64_t *used) {
    uint32_t index;
    const struct aliquot_grant_device *own = aliquot_view_device(device, &index);
    /* relaxed: figures for people. */
    uint64_t cap = own ? atomic_load_explicit(&own->cap, memory_order_relaxed) : ALIQUOT_NO_CAP;
    if (cap == ALIQUOT_NO_CAP)
        return 0;
    aliquot_view_processes(index, NULL, 0, used);
    uint64_t unclaimed = atomic_load_explicit(&own->unclaimed, memory_order_relaxed);
    *used = unclaimed < cap && *used < cap - unclaimed ? *used + unclaimed : cap;
    return cap;
}

nvmlReturn_t aliquot_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory);
nvmlReturn_t aliquot_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetMemoryInfo)(device, memory);
    ENTER();
    nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo)(device, memory);
    if (result != NVML_SUCCESS)
        return result;
    uint64_t used, cap = cap_of(device, &used);
    if (cap)
        *memory = (nvmlMemory_t){.total = cap, .free = cap - used, .used = used};
    return result;
}

nvmlReturn_t aliquot_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory);
nvmlReturn_t aliquot_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetMemoryInfo_v2)(device, memory);
    ENTER();
    nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo_v2)(device, memory);
    if (result != NVML_SUCCESS)
        return result;
    uint64_t used, cap = cap_of(device, &used);
    if (cap) {
        /* What the driver reserves is not of the cap. */
        memory->total = cap;
        memory->reserved = 0;
        memory->free = cap - used;
        memory->used = used;
    }
    return result;
}

/* ---- Processes ----------------------------------------------------------------------------- */

/* Lists the slice's processes as NVML does, in entries of `size` bytes: the first two members are the
 * same in all versions, and what follows says that there is no partition. */
static nvmlReturn_t list_processes(nvmlDevice_t device, unsigned *count, void *out, size_t size) {
    uint32_t index;
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!aliquot_view_device(device, &index))
        return NVML_ERROR_INVALID_ARGUMENT;
    struct aliquot_view_process found[ALIQUOT_MAX_SLOTS];
    unsigned room = out ? *count : 0;
    unsigned total = aliquot_view_processes(index, found, ALIQUOT_MAX_SLOTS, NULL);
    for (unsigned p = 0; p < total && p < room; p++) {
        nvmlProcessInfo_t entry = {
            .pid = found[p].pid,
            .usedGpuMemory = found[p].bytes,
            .gpuInstanceId = 0xffffffff,
            .computeInstanceId = 0xffffffff,
        };
        __builtin_memcpy((char *)out + p * size, &entry, size);
    }
    *count = total;
    return total > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

/* Lists nobody. The driver is asked first, for what it says of the handle. */
static nvmlReturn_t list_nobody(nvmlReturn_t said, unsigned *count) {
    if (said != NVML_SUCCESS && said != NVML_ERROR_INSUFFICIENT_SIZE)
        return said;
    if (count)
        *count = 0;
    return NVML_SUCCESS;
}

/* What the driver says of a list of its own that has no room, which is no error of the caller. */
static bool is_refused(nvmlReturn_t said) {
    return said != NVML_SUCCESS && said != NVML_ERROR_INSUFFICIENT_SIZE;
}

nvmlReturn_t aliquot_nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                          nvmlProcessInfo_v1_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                          nvmlProcessInfo_v1_t *out) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetComputeRunningProcesses)(device, count, out);
    ENTER();
    unsigned none = 0;
    nvmlReturn_t said = REAL(nvmlDeviceGetComputeRunningProcesses)(device, &none, NULL);
    return is_refused(said) ? said : list_processes(device, count, out, sizeof *out);
}

nvmlReturn_t aliquot_nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device,
                                                             unsigned int *count,
                                                             nvmlProcessInfo_v2_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device,
                                                             unsigned int *count,
                                                             nvmlProcessInfo_v2_t *out) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetComputeRunningProcesses_v2)(device, count, out);
    ENTER();
    unsigned none = 0;
    nvmlReturn_t said = REAL(nvmlDeviceGetComputeRunningProcesses_v2)(device, &none, NULL);
    return is_refused(said) ? said : list_processes(device, count, out, sizeof *out);
}

nvmlReturn_t aliquot_nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
                                                             unsigned int *count,
                                                             nvmlProcessInfo_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
                                                             unsigned int *count,
                                                             nvmlProcessInfo_t *out) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetComputeRunningProcesses_v3)(device, count, out);
    ENTER();
    unsigned none = 0;
    nvmlReturn_t said = REAL(nvmlDeviceGetComputeRunningProcesses_v3)(device, &none, NULL);
    return is_refused(said) ? said : list_processes(device, count, out, sizeof *out);
}

nvmlReturn_t aliquot_nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                           nvmlProcessInfo_v1_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                           nvmlProcessInfo_v1_t *out) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetGraphicsRunningProcesses)(device, count, out);
    ENTER();
    unsigned none = 0;
    return list_nobody(REAL(nvmlDeviceGetGraphicsRunningProcesses)(device, &none, NULL), count);
}

nvmlReturn_t aliquot_nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device,
                                                              unsigned int *count,
                                                              nvmlProcessInfo_v2_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device,
                                                              unsigned int *count,
                                                              nvmlProcessInfo_v2_t *out) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetGraphicsRunningProcesses_v2)(device, count, out);
    ENTER();
    unsigned none = 0;
    return list_nobody(REAL(nvmlDeviceGetGraphicsRunningProcesses_v2)(device, &none, NULL), count);
}

nvmlReturn_t aliquot_nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device,
                                                              unsigned int *count,
                                                              nvmlProcessInfo_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device,
                                                              unsigned int *count,
                                                              nvmlProcessInfo_t *out) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetGraphicsRunningProcesses_v3)(device, count, out);
    ENTER();
    unsigned none = 0;
    return list_nobody(REAL(nvmlDeviceGetGraphicsRunningProcesses_v3)(device, &none, NULL), count);
}

nvmlReturn_t aliquot_nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device,
                                                             unsigned int *count,
                                                             nvmlProcessInfo_v1_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device,
                                                             unsigned int *count,
                                                             nvmlProcessInfo_v1_t *out) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetMPSComputeRunningProcesses)(device, count, out);
    ENTER();
    unsigned none = 0;
    return list_nobody(REAL(nvmlDeviceGetMPSComputeRunningProcesses)(device, &none, NULL), count);
}

nvmlReturn_t aliquot_nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device,
                                                                unsigned int *count,
                                                                nvmlProcessInfo_v2_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device,
                                                                unsigned int *count,
                                                                nvmlProcessInfo_v2_t *out) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetMPSComputeRunningProcesses_v2)(device, count, out);
    ENTER();
    unsigned none = 0;
    return list_nobody(REAL(nvmlDeviceGetMPSComputeRunningProcesses_v2)(device, &none, NULL),
                       count);
}

nvmlReturn_t aliquot_nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device,
                                                                unsigned int *count,
                                                                nvmlProcessInfo_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device,
                                                                unsigned int *count,
                                                                nvmlProcessInfo_t *out) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetMPSComputeRunningProcesses_v3)(device, count, out);
    ENTER();
    unsigned none = 0;
    return list_nobody(REAL(nvmlDeviceGetMPSComputeRunningProcesses_v3)(device, &none, NULL),
                       count);
}

nvmlReturn_t aliquot_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                           nvmlProcessDetailList_t *list);
nvmlReturn_t aliquot_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                           nvmlProcessDetailList_t *list) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetRunningProcessDetailList)(device, list);
    /* As on devices without it: clients fall back to the lists above. */
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t aliquot_nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count,
                                                 unsigned int *pids);
nvmlReturn_t aliquot_nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count,
                                                 unsigned int *pids) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetAccountingPids)(device, count, pids);
    ENTER();
    unsigned none = 0;
    return list_nobody(REAL(nvmlDeviceGetAccountingPids)(device, &none, NULL), count);
}

/* ---- Time ---------------------------------------------------------------------------------- */

nvmlReturn_t aliquot_nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates);
nvmlReturn_t aliquot_nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetUtilizationRates)(device, rates);
    ENTER();
    nvmlReturn_t result = REAL(nvmlDeviceGetUtilizationRates)(device, rates);
    if (result != NVML_SUCCESS)
        return result;
    uint32_t index;
    const struct aliquot_grant_device *own = aliquot_view_device(device, &index);
    /* relaxed: figures for people. */
    uint32_t busy =
        own ? atomic_load_explicit(&own->busy_permille, memory_order_relaxed) : ALIQUOT_UNKNOWN;
    if (busy == ALIQUOT_UNKNOWN)
        return result; /* nobody tells us apart: the device's own reading */
    uint32_t cores = atomic_load_explicit(&own->cores, memory_order_relaxed);
    uint32_t memory = atomic_load_explicit(&own->memory_busy_permille, memory_order_relaxed);
    /* Of the slice's part: half a device that is busy half of the time is all of a half's. */
    uint32_t share = (busy * 10 + (cores ? cores : 100) / 2) / (cores ? cores : 100);
    rates->gpu = share < 100 ? share : 100;
    if (memory != ALIQUOT_UNKNOWN)
        rates->memory = memory < 1000 ? memory / 10 : 100;
    return result;
}

nvmlReturn_t aliquot_nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                     nvmlProcessUtilizationSample_t *out,
                                                     unsigned int *count, unsigned long long since);
nvmlReturn_t aliquot_nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                     nvmlProcessUtilizationSample_t *out,
                                                     unsigned int *count,
                                                     unsigned long long since) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetProcessUtilization)(device, out, count, since);
    /* The driver's samples are by pids of the host: nothing new of ours. */
    *count = 0;
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t aliquot_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                           nvmlProcessesUtilizationInfo_t *info);
nvmlReturn_t aliquot_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                           nvmlProcessesUtilizationInfo_t *info) {
    if (OWN_CALL() || !info)
        return REAL(nvmlDeviceGetProcessesUtilizationInfo)(device, info);
    info->processSamplesCount = 0;
    return NVML_ERROR_NOT_FOUND;
}
