/* Which devices there are: those of the slice, in the driver's order. */
#include "view.h"

#include <string.h>

/* The slice's devices are the driver's without those of others, so that a place in this list is a
 * place in the container. Answers the handle at `wanted`, and how many there are. */
static nvmlReturn_t list(unsigned wanted, nvmlDevice_t *found, unsigned *count) {
    unsigned total = 0, own = 0;
    nvmlReturn_t result = aliquot_view_real_count(&total);
    for (unsigned i = 0; result == NVML_SUCCESS && i < total; i++) {
        nvmlDevice_t device;
        uint32_t index;
        nvmlReturn_t got = aliquot_view_real_handle(i, &device);
        /* One that is lost, or that this process may not use, is none of the slice's. */
        if (got != NVML_SUCCESS || !aliquot_view_device(device, &index))
            continue;
        if (own++ == wanted && found)
            *found = device;
    }
    *count = own;
    return result;
}

static nvmlReturn_t get_count(unsigned *count) {
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    return list(0, NULL, count);
}

nvmlReturn_t aliquot_nvmlDeviceGetCount(unsigned int *count);
nvmlReturn_t aliquot_nvmlDeviceGetCount(unsigned int *count) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetCount)(count);
    ENTER();
    return get_count(count);
}

nvmlReturn_t aliquot_nvmlDeviceGetCount_v2(unsigned int *count);
nvmlReturn_t aliquot_nvmlDeviceGetCount_v2(unsigned int *count) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetCount_v2)(count);
    ENTER();
    return get_count(count);
}

static nvmlReturn_t by_index(unsigned index, nvmlDevice_t *device) {
    unsigned count;
    if (!device)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = list(index, device, &count);
    return result == NVML_SUCCESS && index >= count ? NVML_ERROR_INVALID_ARGUMENT : result;
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device);
nvmlReturn_t aliquot_nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByIndex)(index, device);
    ENTER();
    return by_index(index, device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device);
nvmlReturn_t aliquot_nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByIndex_v2)(index, device);
    ENTER();
    return by_index(index, device);
}

/* What the driver found, if it is the slice's: else there is no such device here. */
static nvmlReturn_t only_own(nvmlReturn_t result, nvmlDevice_t *device) {
    uint32_t index;
    if (result == NVML_SUCCESS && device && !aliquot_view_device(*device, &index)) {
        *device = NULL;
        return NVML_ERROR_NOT_FOUND;
    }
    return result;
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device);
nvmlReturn_t aliquot_nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByUUID)(uuid, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleByUUID)(uuid, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device);
nvmlReturn_t aliquot_nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByUUIDV)(uuid, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleByUUIDV)(uuid, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device);
nvmlReturn_t aliquot_nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleBySerial)(serial, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleBySerial)(serial, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByPciBusId(const char *address, nvmlDevice_t *device);
nvmlReturn_t aliquot_nvmlDeviceGetHandleByPciBusId(const char *address, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByPciBusId)(address, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleByPciBusId)(address, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *device);
nvmlReturn_t aliquot_nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByPciBusId_v2)(address, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleByPciBusId_v2)(address, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index);
nvmlReturn_t aliquot_nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetIndex)(device, index);
    ENTER();
    unsigned count, own = 0;
    nvmlReturn_t result = REAL(nvmlDeviceGetIndex)(device, index);
    if (result != NVML_SUCCESS)
        return result;
    for (result = list(0, NULL, &count); result == NVML_SUCCESS && own < count; own++) {
        nvmlDevice_t other;
        if (list(own, &other, &count) == NVML_SUCCESS && other == device) {
            *index = own;
            return NVML_SUCCESS;
        }
    }
    return result == NVML_SUCCESS ? NVML_ERROR_INVALID_ARGUMENT : result;
}

/* ---- Lists of devices ------------------------------------------------------------------------ */

enum { MOST_DEVICES = 256 };

/* Hands on those of `all` that are the slice's, as NVML hands on lists. */
static nvmlReturn_t hand_on(const nvmlDevice_t *all, unsigned total, unsigned *count,
                            nvmlDevice_t *out) {
    unsigned own = 0, room = *count;
    for (unsigned i = 0; i < total; i++) {
        uint32_t index;
        if (!aliquot_view_device(all[i], &index))
            continue;
        if (out && own < room)
            out[own] = all[i];
        own++;
    }
    *count = own;
    return out && own > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t aliquot_nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device,
                                                      nvmlGpuTopologyLevel_t level,
                                                      unsigned int *count, nvmlDevice_t *out);
nvmlReturn_t aliquot_nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device,
                                                      nvmlGpuTopologyLevel_t level,
                                                      unsigned int *count, nvmlDevice_t *out) {
    if (OWN_CALL() || !count)
        return REAL(nvmlDeviceGetTopologyNearestGpus)(device, level, count, out);
    ENTER();
    nvmlDevice_t all[MOST_DEVICES];
    unsigned total = MOST_DEVICES;
    nvmlReturn_t result = REAL(nvmlDeviceGetTopologyNearestGpus)(device, level, &total, all);
    return result == NVML_SUCCESS ? hand_on(all, total, count, out) : result;
}

nvmlReturn_t aliquot_nvmlSystemGetTopologyGpuSet(unsigned int cpu, unsigned int *count,
                                                 nvmlDevice_t *out);
nvmlReturn_t aliquot_nvmlSystemGetTopologyGpuSet(unsigned int cpu, unsigned int *count,
                                                 nvmlDevice_t *out) {
    if (OWN_CALL() || !count)
        return REAL(nvmlSystemGetTopologyGpuSet)(cpu, count, out);
    ENTER();
    nvmlDevice_t all[MOST_DEVICES];
    unsigned total = MOST_DEVICES;
    nvmlReturn_t result = REAL(nvmlSystemGetTopologyGpuSet)(cpu, &total, all);
    return result == NVML_SUCCESS ? hand_on(all, total, count, out) : result;
}
