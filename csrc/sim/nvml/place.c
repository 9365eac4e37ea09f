/* Where a device is: on the PCI bus, near which processors and memory, and what it is linked with. */
#include "nvml_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NVIDIA = 0x10de };

/* ---- PCI ------------------------------------------------------------------------------------ */

static void fill_pci(const struct sim_device_config *config, nvmlPciInfo_t *pci) {
    unsigned bus = config->pci_bus & 0xff, device = config->pci_device & 0x1f;
    memset(pci, 0, sizeof *pci);
    pci->domain = config->pci_domain;
    pci->bus = bus;
    pci->device = device;
    pci->pciDeviceId = config->pci_id << 16 | NVIDIA;
    pci->pciSubSystemId = config->pci_id << 16 | NVIDIA;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0",
             config->pci_domain & 0xffff, bus, device);
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", config->pci_domain, bus, device);
}

/* The structure began with the legacy name, four numbers and the device's id; 2.285 (_v2) added the
 * subsystem's id and four reserved words; _v3 put the long name in their place. Old programs have
 * room for no more than their own. */
enum {
    PCI_V1_BYTES = offsetof(nvmlPciInfo_t, pciSubSystemId),
    PCI_V2_TOLD = offsetof(nvmlPciInfo_t, busId),
    PCI_V2_BYTES = PCI_V2_TOLD + 4 * sizeof(unsigned int),
};

/* Writes the first `bytes` of the structure, of which `told` say something. */
static void give_pci(const struct sim_device_config *config, nvmlPciInfo_t *pci, size_t told,
                     size_t bytes) {
    nvmlPciInfo_t full;
    fill_pci(config, &full);
    memset((char *)&full + told, 0, sizeof full - told);
    memcpy(pci, &full, bytes);
}

static nvmlReturn_t read_pci(nvmlDevice_t device, nvmlPciInfo_t *pci, size_t told, size_t bytes) {
    SIM_LOOK look = sim_look_at(device, pci);
    if (look.device)
        give_pci(look.device, pci, told, bytes);
    return look.result;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return read_pci(device, pci, sizeof *pci, sizeof *pci);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return read_pci(device, pci, PCI_V2_TOLD, PCI_V2_BYTES);
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return read_pci(device, pci, PCI_V1_BYTES, PCI_V1_BYTES);
}

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *pci) {
    enum { DISPLAY = 3, CONTROLLER_3D = 2 };
    SIM_LOOK look = sim_look_at(device, pci);
    if (!look.device)
        return look.result;
    if (pci->version != nvmlPciInfoExt_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlPciInfo_t full;
    fill_pci(look.device, &full);
    *pci = (nvmlPciInfoExt_t){.version = nvmlPciInfoExt_v1,
                              .domain = full.domain,
                              .bus = full.bus,
                              .device = full.device,
                              .pciDeviceId = full.pciDeviceId,
                              .pciSubSystemId = full.pciSubSystemId,
                              .baseClass = DISPLAY,
                              .subClass = CONTROLLER_3D};
    memcpy(pci->busId, full.busId, sizeof pci->busId);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t device, unsigned int *board) {
    SIM_LOOK look = sim_look_at(device, board);
    if (look.device)
        *board = (unsigned)sim_node_pci_key(look.device);
    return look.result;
}

nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t device, nvmlDevice_t other, int *same) {
    SIM_LOOK look = sim_look_at(device, same);
    if (!look.device)
        return look.result;
    if (sim_number_of(other) < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    *same = device == other;
    return NVML_SUCCESS;
}

/* The generation that came with the device's architecture, and all of a slot's lanes. */
static nvmlReturn_t read_generation(nvmlDevice_t device, unsigned int *generation) {
    SIM_LOOK look = sim_look_at(device, generation);
    if (look.device)
        *generation = look.device->cc_major >= 9 ? 5 : look.device->cc_major == 8 ? 4 : 3;
    return look.result;
}

static nvmlReturn_t read_width(nvmlDevice_t device, unsigned int *width) {
    SIM_LOOK look = sim_look_at(device, width);
    if (look.device)
        *width = 16;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation) {
    return read_generation(device, generation);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation) {
    return read_generation(device, generation);
}

nvmlReturn_t nvmlDeviceGetGpuMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation) {
    return read_generation(device, generation);
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned int *width) {
    return read_width(device, width);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int *width) {
    return read_width(device, width);
}

nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t device, unsigned int *replays) {
    SIM_LOOK look = sim_look_at(device, replays);
    if (look.device)
        *replays = 0;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetBusType(nvmlDevice_t device, nvmlBusType_t *type) {
    SIM_LOOK look = sim_look_at(device, type);
    if (look.device)
        *type = NVML_BUS_TYPE_PCIE;
    return look.result;
}

/* ---- Processors and memory of the host ------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node) {
    SIM_LOOK look = sim_look_at(device, node);
    if (!look.device)
        return look.result;
    if (look.device->numa_node < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *node = (unsigned)look.device->numa_node;
    return NVML_SUCCESS;
}

static void set_bit(unsigned long *set, unsigned words, unsigned long bit) {
    enum { BITS = sizeof(unsigned long) * 8 };
    if (bit / BITS < words)
        set[bit / BITS] |= 1ul << bit % BITS;
}

/* Puts a list such as "0-3,8" into a set of bits. */
static void set_list(const char *text, unsigned long *set, unsigned words) {
    for (char *at = (char *)text; *at >= '0' && *at <= '9';) {
        unsigned long first = strtoul(at, &at, 10), last = first;
        if (*at == '-')
            last = strtoul(at + 1, &at, 10);
        for (unsigned long bit = first; bit <= last && bit / 8 < words * sizeof *set; bit++)
            set_bit(set, words, bit);
        at += *at == ',';
    }
}

/* The processors of the device's NUMA node; all, where this host has no such node. */
static nvmlReturn_t read_affinity(nvmlDevice_t device, unsigned int words, unsigned long *set) {
    SIM_LOOK look = sim_look_at(device, set);
    if (!look.device)
        return look.result;
    if (!words)
        return NVML_ERROR_INVALID_ARGUMENT;
    char text[4096];
    memset(set, 0, words * sizeof *set);
    if (!sim_cpu_list(look.device, text, sizeof text))
        return NVML_ERROR_NOT_SUPPORTED;
    set_list(text, set, words);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int words, unsigned long *set) {
    return read_affinity(device, words, set);
}

nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned int words,
                                                 unsigned long *set, nvmlAffinityScope_t scope) {
    return scope > NVML_AFFINITY_SCOPE_SOCKET ? NVML_ERROR_INVALID_ARGUMENT
                                              : read_affinity(device, words, set);
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned int words,
                                         unsigned long *set, nvmlAffinityScope_t scope) {
    SIM_LOOK look = sim_look_at(device, set);
    if (!look.device)
        return look.result;
    if (!words || scope > NVML_AFFINITY_SCOPE_SOCKET)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (look.device->numa_node < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    memset(set, 0, words * sizeof *set);
    set_bit(set, words, (unsigned long)look.device->numa_node);
    return NVML_SUCCESS;
}

/* ---- Topology -------------------------------------------------------------------------------- */

static nvmlGpuTopologyLevel_t level_between(const struct sim_look *look, uint32_t other) {
    if (other == look->number)
        return NVML_TOPOLOGY_INTERNAL;
    return look->state->node->devices[other].numa_node == look->device->numa_node
               ? NVML_TOPOLOGY_NODE
               : NVML_TOPOLOGY_SYSTEM;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t other,
                                                 nvmlGpuTopologyLevel_t *level) {
    SIM_LOOK look = sim_look_at(device, level);
    if (!look.device)
        return look.result;
    int64_t second = sim_number_of(other);
    if (second < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    *level = level_between(&look, (uint32_t)second);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, nvmlGpuTopologyLevel_t level,
                                              unsigned int *count, nvmlDevice_t *out) {
    SIM_LOOK look = sim_look_at(device, count);
    if (!look.device)
        return look.result;
    unsigned found = 0, room = out ? *count : 0;
    for (uint32_t i = 0; i < sim_visible_count(); i++) {
        nvmlDevice_t other = sim_visible(i);
        if (other == device || level_between(&look, sim_session_device(i)) > level)
            continue;
        if (found < room)
            out[found] = other;
        found++;
    }
    /* Fewer than there is room for are the answer; without room, how many there are. */
    *count = out && found > room ? room : found;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device, nvmlDevice_t other,
                                    nvmlGpuP2PCapsIndex_t index, nvmlGpuP2PStatus_t *status) {
    SIM_LOOK look = sim_look_at(device, status);
    if (!look.device)
        return look.result;
    int64_t second = sim_number_of(other);
    if (second < 0 || other == device || index >= NVML_P2P_CAPS_INDEX_UNKNOWN)
        return NVML_ERROR_INVALID_ARGUMENT;
    /* As the driver: devices without links are no peers. */
    if (look.device->links[second])
        *status =
            index == NVML_P2P_CAPS_INDEX_PCI ? NVML_P2P_STATUS_NOT_SUPPORTED : NVML_P2P_STATUS_OK;
    else
        *status = index == NVML_P2P_CAPS_INDEX_NVLINK ? NVML_P2P_STATUS_NOT_SUPPORTED
                                                      : NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

/* ---- NVLinks: numbered by the devices that they lead to ---------------------------------------- */

/* The device at the other end of a link; -1 when there is no such link. */
static int64_t far_end(const struct sim_look *look, unsigned link) {
    for (uint32_t d = 0; d < look->state->node->device_count; d++) {
        if (link < look->device->links[d])
            return d;
        link -= look->device->links[d];
    }
    return -1;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link,
                                      nvmlEnableState_t *active) {
    SIM_LOOK look = sim_look_at(device, active);
    if (!look.device)
        return look.result;
    if (link >= NVML_NVLINK_MAX_LINKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (far_end(&look, link) < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *active = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link,
                                        unsigned int *version) {
    SIM_LOOK look = sim_look_at(device, version);
    if (!look.device)
        return look.result;
    if (far_end(&look, link) < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *version = look.device->nvlink_version;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned int link,
                                           nvmlNvLinkCapability_t capability,
                                           unsigned int *result) {
    SIM_LOOK look = sim_look_at(device, result);
    if (!look.device)
        return look.result;
    if (capability >= NVML_NVLINK_CAP_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (far_end(&look, link) < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *result = capability == NVML_NVLINK_CAP_P2P_SUPPORTED ||
              capability == NVML_NVLINK_CAP_P2P_ATOMICS || capability == NVML_NVLINK_CAP_VALID;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned int link,
                                                 nvmlIntNvLinkDeviceType_t *type) {
    SIM_LOOK look = sim_look_at(device, type);
    if (!look.device)
        return look.result;
    if (far_end(&look, link) < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *type = NVML_NVLINK_DEVICE_TYPE_GPU;
    return NVML_SUCCESS;
}

static nvmlReturn_t read_remote(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci,
                                size_t told, size_t bytes) {
    SIM_LOOK look = sim_look_at(device, pci);
    if (!look.device)
        return look.result;
    int64_t other = far_end(&look, link);
    if (other < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    give_pci(&look.state->node->devices[other], pci, told, bytes);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link,
                                                 nvmlPciInfo_t *pci) {
    return read_remote(device, link, pci, sizeof *pci, sizeof *pci);
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo(nvmlDevice_t device, unsigned int link,
                                              nvmlPciInfo_t *pci) {
    return read_remote(device, link, pci, PCI_V2_TOLD, PCI_V2_BYTES);
}
