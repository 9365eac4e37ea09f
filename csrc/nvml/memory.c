/* Beginning, and what the slice has of a device: its memory and its time. */
#include "view.h"

/* The region first: without the slice it was promised, a process sees no device. */
nvmlReturn_t aliquot_nvmlInit(void) {
    if (OWN_CALL())
        return REAL(nvmlInit)();
    ENTER();
    return aliquot_view_attach() ? REAL(nvmlInit)() : NVML_ERROR_OPERATING_SYSTEM;
}

nvmlReturn_t aliquot_nvmlInit_v2(void) {
    if (OWN_CALL())
        return REAL(nvmlInit_v2)();
    ENTER();
    return aliquot_view_attach() ? REAL(nvmlInit_v2)() : NVML_ERROR_OPERATING_SYSTEM;
}

nvmlReturn_t aliquot_nvmlInitWithFlags(unsigned int flags) {
    if (OWN_CALL())
        return REAL(nvmlInitWithFlags)(flags);
    ENTER();
    return aliquot_view_attach() ? REAL(nvmlInitWithFlags)(flags) : NVML_ERROR_OPERATING_SYSTEM;
}

/* ---- Memory -------------------------------------------------------------------------------- */

static void add_bytes(uint32_t pid, uint64_t bytes, void *argument) {
    (void)pid;
    uint64_t *sum = argument;
    *sum = __builtin_add_overflow(*sum, bytes, sum) ? UINT64_MAX : *sum;
}

/* Whether the device is the slice's and has a cap; otherwise the driver's word stands. `*used` gets
 * what counts against it, which may be more than the cap for a moment: it is cut off. */
static bool cap_of(nvmlDevice_t device, uint64_t *cap, uint64_t *used) {
    uint32_t index;
    const struct aliquot_grant_device *own = aliquot_view_device(device, &index);
    /* relaxed: figures for people. */
    *cap = own ? atomic_load_explicit(&own->cap, memory_order_relaxed) : ALIQUOT_NO_CAP;
    if (*cap == ALIQUOT_NO_CAP)
        return false;
    *used = atomic_load_explicit(&own->unclaimed, memory_order_relaxed);
    aliquot_view_processes(index, add_bytes, used);
    if (*used > *cap)
        *used = *cap;
    return true;
}

static void show_cap(nvmlDevice_t device, nvmlMemory_t *memory) {
    uint64_t cap, used;
    if (cap_of(device, &cap, &used))
        *memory = (nvmlMemory_t){.total = cap, .free = cap - used, .used = used};
}

nvmlReturn_t aliquot_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetMemoryInfo)(device, memory);
    ENTER();
    nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo)(device, memory);
    if (result == NVML_SUCCESS)
        show_cap(device, memory);
    return result;
}

/* With confidential computing all that a process gets of the device is protected memory. */
nvmlReturn_t aliquot_nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t device,
                                                                  nvmlMemory_t *memory) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetConfComputeProtectedMemoryUsage)(device, memory);
    ENTER();
    nvmlReturn_t result = REAL(nvmlDeviceGetConfComputeProtectedMemoryUsage)(device, memory);
    if (result == NVML_SUCCESS)
        show_cap(device, memory);
    return result;
}

nvmlReturn_t aliquot_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetMemoryInfo_v2)(device, memory);
    ENTER();
    nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo_v2)(device, memory);
    uint64_t cap, used;
    if (result == NVML_SUCCESS && cap_of(device, &cap, &used)) {
        memory->total = cap;
        memory->reserved = 0; /* what the driver reserves is not of the cap */
        memory->free = cap - used;
        memory->used = used;
    }
    return result;
}

/* ---- Time ---------------------------------------------------------------------------------- */

/* Of the slice's part of the device, in percent: half a device that is busy half of the time is all of
 * a half's. Where nobody measured it (there is no agent, or the driver tells it nothing) the device's
 * own reading stands: it is true of the device, and clients take "not supported" for a fault. */
nvmlReturn_t aliquot_nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetUtilizationRates)(device, rates);
    ENTER();
    nvmlReturn_t result = REAL(nvmlDeviceGetUtilizationRates)(device, rates);
    const struct aliquot_grant_device *own =
        result == NVML_SUCCESS ? aliquot_view_device(device, NULL) : NULL;
    if (!own)
        return result;
    /* relaxed: figures for people. */
    uint32_t busy = atomic_load_explicit(&own->busy_permille, memory_order_relaxed);
    uint32_t memory = atomic_load_explicit(&own->memory_busy_permille, memory_order_relaxed);
    uint32_t cores = atomic_load_explicit(&own->cores, memory_order_relaxed);
    if (cores < 1 || cores > 100)
        cores = 100;
    if (busy != ALIQUOT_UNKNOWN) {
        uint32_t share = (busy < 1000 ? busy * 10 + cores / 2 : 10000) / cores;
        rates->gpu = share < 100 ? share : 100;
    }
    /* Nobody has a part of the memory's time. */
    if (memory != ALIQUOT_UNKNOWN)
        rates->memory = memory < 1000 ? (memory + 5) / 10 : 100;
    return result;
}
