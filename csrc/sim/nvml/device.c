/* What a device is: its names, its place, its links, and figures of its model. */
#include "nvml_sim.h"

#include <stdio.h>
#include <string.h>

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    ENTER(device, name);
    return sim_nvml_text(sim_nvml_config(physical)->name, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    ENTER(device, uuid);
    char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    int at = sprintf(text, "GPU-");
    for (int b = 0; b < 16; b++)
        at += sprintf(text + at, b == 4 || b == 6 || b == 8 || b == 10 ? "-%02x" : "%02x",
                      sim_nvml_config(physical)->uuid[b]);
    return sim_nvml_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length) {
    ENTER(device, serial);
    const uint8_t *uuid = sim_nvml_config(physical)->uuid;
    char text[NVML_DEVICE_SERIAL_BUFFER_SIZE];
    snprintf(text, sizeof text, "1%03u%03u%03u%03u", uuid[0], uuid[1], uuid[2], uuid[3]);
    return sim_nvml_text(text, serial, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    ENTER(device, index);
    *index = sim_nvml_index(physical);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) {
    ENTER(device, minor);
    *minor = physical;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *type) {
    ENTER(device, type);
    *type = NVML_BRAND_NVIDIA;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch) {
    ENTER(device, arch);
    const struct sim_device_config *config = sim_nvml_config(physical);
    unsigned cc = config->cc_major * 10 + config->cc_minor;
    *arch = cc >= 100  ? NVML_DEVICE_ARCH_BLACKWELL
            : cc >= 90 ? NVML_DEVICE_ARCH_HOPPER
            : cc >= 89 ? NVML_DEVICE_ARCH_ADA
            : cc >= 80 ? NVML_DEVICE_ARCH_AMPERE
            : cc >= 75 ? NVML_DEVICE_ARCH_TURING
            : cc >= 70 ? NVML_DEVICE_ARCH_VOLTA
                       : NVML_DEVICE_ARCH_UNKNOWN;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    ENTER(device, major);
    if (!minor)
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = (int)sim_nvml_config(physical)->cc_major;
    *minor = (int)sim_nvml_config(physical)->cc_minor;
    return NVML_SUCCESS;
}

/* ---- Place --------------------------------------------------------------------------------- */

static void fill_pci(uint32_t physical, nvmlPciInfo_t *pci) {
    const struct sim_device_config *config = sim_nvml_config(physical);
    memset(pci, 0, sizeof *pci);
    pci->domain = config->pci_domain;
    pci->bus = config->pci_bus;
    pci->device = config->pci_device;
    pci->pciDeviceId = config->pci_id << 16 | 0x10de;
    pci->pciSubSystemId = config->pci_id << 16 | 0x10de;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0",
             config->pci_domain & 0xffff, config->pci_bus & 0xff, config->pci_device & 0x1f);
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", config->pci_domain,
             config->pci_bus & 0xff, config->pci_device & 0x1f);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    ENTER(device, pci);
    fill_pci(physical, pci);
    return NVML_SUCCESS;
}

/* The first two versions have a shorter structure, which begins in the same way. */
enum {
    PCI_V1_BYTES = offsetof(nvmlPciInfo_t, pciSubSystemId) + sizeof(unsigned int),
    PCI_V2_BYTES = PCI_V1_BYTES + 4 * sizeof(unsigned int), /* four reserved words */
};

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    ENTER(device, pci);
    nvmlPciInfo_t full;
    fill_pci(physical, &full);
    memset(pci, 0, PCI_V2_BYTES);
    memcpy(pci, &full, PCI_V1_BYTES);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return nvmlDeviceGetPciInfo_v2(device, pci);
}

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node) {
    ENTER(device, node);
    if (sim_nvml_config(physical)->numa_node < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *node = (unsigned)sim_nvml_config(physical)->numa_node;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t other,
                                                 nvmlGpuTopologyLevel_t *level) {
    ENTER(device, level);
    int64_t second = sim_nvml_physical(other);
    if (second < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    bool same = sim_nvml_config(physical)->numa_node == sim_nvml_config((uint32_t)second)->numa_node;
    *level = physical == (uint32_t)second ? NVML_TOPOLOGY_INTERNAL
             : same                       ? NVML_TOPOLOGY_NODE
                                          : NVML_TOPOLOGY_SYSTEM;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, nvmlGpuTopologyLevel_t level,
                                              unsigned int *count, nvmlDevice_t *out) {
    ENTER(device, count);
    unsigned found = 0, total, room = *count;
    nvmlDeviceGetCount_v2(&total);
    for (unsigned i = 0; i < total; i++) {
        nvmlDevice_t other;
        nvmlGpuTopologyLevel_t between;
        nvmlDeviceGetHandleByIndex_v2(i, &other);
        nvmlDeviceGetTopologyCommonAncestor(device, other, &between);
        if (other->physical == physical || between > level)
            continue;
        if (out && found < room)
            out[found] = other;
        found++;
    }
    *count = found;
    return out && found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device, nvmlDevice_t other,
                                    nvmlGpuP2PCapsIndex_t index, nvmlGpuP2PStatus_t *status) {
    ENTER(device, status);
    int64_t second = sim_nvml_physical(other);
    if (second < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    bool linked = sim_nvml_config(physical)->links[second] > 0;
    *status = index == NVML_P2P_CAPS_INDEX_NVLINK && !linked ? NVML_P2P_STATUS_NOT_SUPPORTED
                                                             : NVML_P2P_STATUS_OK;
    return NVML_SUCCESS;
}

/* ---- NVLinks: numbered by the devices that they lead to ------------------------------------- */

/* The device at the other end of a link; -1 when there is no such link. */
static int64_t far_end(uint32_t physical, unsigned link) {
    const struct sim_device_config *config = sim_nvml_config(physical);
    for (uint32_t d = 0; d < sim_nvml_state()->node->device_count; d++) {
        if (link < config->links[d])
            return d;
        link -= config->links[d];
    }
    return -1;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link,
                                      nvmlEnableState_t *active) {
    ENTER(device, active);
    if (link >= NVML_NVLINK_MAX_LINKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (far_end(physical, 0) < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *active = far_end(physical, link) >= 0 ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link,
                                        unsigned int *version) {
    ENTER(device, version);
    if (far_end(physical, link) < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *version = sim_nvml_config(physical)->nvlink_version;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link,
                                                 nvmlPciInfo_t *pci) {
    ENTER(device, pci);
    int64_t other = far_end(physical, link);
    if (other < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    fill_pci((uint32_t)other, pci);
    return NVML_SUCCESS;
}

/* ---- Figures of the model ------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *limit) {
    ENTER(device, limit);
    *limit = sim_nvml_config(physical)->power_watts * 1000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *limit) {
    return nvmlDeviceGetPowerManagementLimit(device, limit);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned int *limit) {
    return nvmlDeviceGetPowerManagementLimit(device, limit);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                       unsigned int *clock) {
    ENTER(device, clock);
    const struct sim_device_config *config = sim_nvml_config(physical);
    if (type != NVML_CLOCK_GRAPHICS && type != NVML_CLOCK_SM && type != NVML_CLOCK_MEM)
        return NVML_ERROR_NOT_SUPPORTED;
    *clock = type == NVML_CLOCK_MEM ? config->memory_clock_mhz : config->clock_mhz;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                    unsigned int *clock) {
    return nvmlDeviceGetMaxClockInfo(device, type, clock);
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *bits) {
    ENTER(device, bits);
    *bits = sim_nvml_config(physical)->bus_width_bits;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode) {
    ENTER(device, mode);
    *mode = NVML_COMPUTEMODE_DEFAULT;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
    ENTER(device, mode);
    *mode = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, nvmlEnableState_t *active) {
    ENTER(device, active);
    *active = NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, nvmlEnableState_t *active) {
    return nvmlDeviceGetDisplayActive(device, active);
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current,
                                  nvmlEnableState_t *pending) {
    ENTER(device, current);
    if (!pending)
        return NVML_ERROR_INVALID_ARGUMENT;
    *current = *pending = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                         nvmlEccCounterType_t counter, unsigned long long *errors) {
    ENTER(device, errors);
    if (type >= NVML_MEMORY_ERROR_TYPE_COUNT || counter >= NVML_ECC_COUNTER_TYPE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    *errors = 0;
    return NVML_SUCCESS;
}
