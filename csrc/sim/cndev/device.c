/* What a device is: its names and numbers, versions, and where it is. */
#include "cndev_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { VENDOR = 0xcabc };

void sim_uuid(const uint8_t uuid[16], uint8_t text[37]) {
    char whole[SIM_UUID_TEXT];
    sim_node_uuid(uuid, whole);
    memcpy(text, strchr(whole, '-') + 1, 37);
}

/* ---- The library ----------------------------------------------------------------------------- */

const char *cndevGetErrorString(cndevRet_t error) {
    static const char *const texts[] = {
        [CNDEV_SUCCESS] = "No error",
        [CNDEV_ERROR_NO_DRIVER] = "No driver",
        [CNDEV_ERROR_LOW_DRIVER_VERSION] = "Driver version low",
        [CNDEV_ERROR_UNSUPPORTED_API_VERSION] = "API version is not supported",
        [CNDEV_ERROR_UNINITIALIZED] = "API is not initialized",
        [CNDEV_ERROR_INVALID_ARGUMENT] = "Invalid argument",
        [CNDEV_ERROR_INVALID_DEVICE_ID] = "Invalid device",
        [CNDEV_ERROR_UNKNOWN] = "Unknown error",
        [CNDEV_ERROR_MALLOC] = "Allocation failed",
        [CNDEV_ERROR_INSUFFICIENT_SPACE] = "Insufficient space",
        [CNDEV_ERROR_NOT_SUPPORTED] = "Not supported",
        [CNDEV_ERROR_INVALID_LINK] = "Invalid link",
        [CNDEV_ERROR_NO_DEVICES] = "No devices",
        [CNDEV_ERROR_NO_PERMISSION] = "No permission",
        [CNDEV_ERROR_NOT_FOUND] = "Not found",
        [CNDEV_ERROR_IN_USE] = "In use",
        [CNDEV_ERROR_DUPLICATE] = "Duplicate",
        [CNDEV_ERROR_TIMEOUT] = "Timeout",
        [CNDEV_ERROR_IN_PROBLEM] = "Device in problem",
    };
    bool known = error >= 0 && (size_t)error < sizeof texts / sizeof *texts;
    return known ? texts[error] : "No such error";
}

/* Of the driver and library that the simulator stands for. */
enum { DRIVER_MAJOR = 5, DRIVER_MINOR = 10, DRIVER_BUILD = 29 };

cndevRet_t cndevGetLibVersion(cndevLibVersionInfo_t *version) {
    SIM_LOOK look = sim_look(__func__, version);
    if (!look.state || !sim_speaks(&look, version->version))
        return look.result;
    version->libMajorVersion = 3;
    version->libMinorVersion = 11;
    version->libBuildVersion = 0;
    return CNDEV_SUCCESS;
}

cndevRet_t cndevGetVersionInfo(cndevVersionInfo_t *version, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, version);
    if (!look.device || !sim_speaks(&look, version->version))
        return look.result;
    *version = (cndevVersionInfo_t){
        .version = version->version,
        .mcuMajorVersion = 1,
        .driverMajorVersion = DRIVER_MAJOR,
        .driverMinorVersion = DRIVER_MINOR,
        .driverBuildVersion = DRIVER_BUILD,
    };
    return CNDEV_SUCCESS;
}

cndevRet_t cndevGetLowestSupportDriverVersion(cndevVersionInfo_t *version) {
    SIM_LOOK look = sim_look(__func__, version);
    if (!look.state || !sim_speaks(&look, version->version))
        return look.result;
    version->driverMajorVersion = DRIVER_MAJOR;
    version->driverMinorVersion = DRIVER_MINOR;
    version->driverBuildVersion = 0;
    return CNDEV_SUCCESS;
}

/* ---- Handles ---------------------------------------------------------------------------------- */

cndevRet_t cndevGetDeviceCount(cndevCardInfo_t *cards) {
    SIM_LOOK look = sim_look(__func__, cards);
    if (!look.state || !sim_speaks(&look, cards->version))
        return look.result;
    cards->number = (uint32_t)(int32_t)sim_session_count();
    return CNDEV_SUCCESS;
}

cndevRet_t cndevGetDeviceHandleByIndex(int32_t index, cndevDevice_t *device) {
    SIM_LOOK look = sim_look_at(__func__, index, device);
    if (look.device)
        *device = look.slot;
    return look.result;
}

/* The first slot of which `is` holds; CNDEV_ERROR_NOT_FOUND without one. */
static cndevRet_t find(const char *function, const char *wanted, cndevDevice_t *device,
                       bool (*is)(const struct sim_device_config *, const char *)) {
    SIM_LOOK look = sim_look(function, device);
    if (!look.state)
        return look.result;
    if (!wanted)
        return CNDEV_ERROR_INVALID_ARGUMENT;
    for (int32_t slot = 0; slot < (int32_t)sim_session_count(); slot++) {
        if (!is(&look.state->node->devices[sim_session_device((uint32_t)slot)], wanted))
            continue;
        *device = slot;
        return CNDEV_SUCCESS;
    }
    return CNDEV_ERROR_NOT_FOUND;
}

static uint64_t serial_of(const struct sim_device_config *device) {
    uint64_t serial;
    memcpy(&serial, device->uuid, sizeof serial);
    return serial;
}

static bool has_address(const struct sim_device_config *device, const char *text) {
    unsigned domain, bus, slot, function;
    return sscanf(text, "%x:%x:%x.%x", &domain, &bus, &slot, &function) == 4 &&
           domain == device->pci_domain && bus == device->pci_bus && slot == device->pci_device &&
           function == 0;
}

static bool has_uuid(const struct sim_device_config *device, const char *text) {
    uint8_t own[37];
    sim_uuid(device->uuid, own);
    return strcasecmp((const char *)own, strncmp(text, "MLU-", 4) == 0 ? text + 4 : text) == 0;
}

static bool has_serial(const struct sim_device_config *device, const char *text) {
    return strtoull(text, NULL, 16) == serial_of(device);
}

cndevRet_t cndevGetDeviceHandleByPciBusId(const char *address, cndevDevice_t *device) {
    return find(__func__, address, device, has_address);
}

cndevRet_t cndevGetDeviceHandleByUUID(const char *uuid, cndevDevice_t *device) {
    return find(__func__, uuid, device, has_uuid);
}

cndevRet_t cndevGetDeviceHandleBySerial(const char *serial, cndevDevice_t *device) {
    return find(__func__, serial, device, has_serial);
}

/* ---- Names and numbers ------------------------------------------------------------------------ */

cndevRet_t cndevGetUUID(cndevUUID_t *uuid, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, uuid);
    if (!look.device || !sim_speaks(&look, uuid->version))
        return look.result;
    sim_uuid(look.device->uuid, uuid->uuid);
    uuid->ncsUUID64 = serial_of(look.device);
    return CNDEV_SUCCESS;
}

cndevRet_t cndevGetCardSN(cndevCardSN_t *serial, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, serial);
    if (!look.device || !sim_speaks(&look, serial->version))
        return look.result;
    serial->sn = serial_of(look.device);
    serial->motherBoardSn = 0;
    return CNDEV_SUCCESS;
}

/* The numbers of models that are published; 0 is none of ours. */
static uint32_t name_of(const struct sim_device_config *device) {
    return strstr(device->name, "MLU370") ? 23 : strstr(device->name, "MLU590") ? 26 : 0;
}

cndevRet_t cndevGetCardName(cndevCardName_t *name, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, name);
    if (!look.device || !sim_speaks(&look, name->version))
        return look.result;
    name->id = name_of(look.device);
    return CNDEV_SUCCESS;
}

const char *cndevGetCardNameString(uint32_t name) {
    return name == 23 ? "MLU370" : name == 26 ? "MLU590" : "Unknown";
}

const char *cndevGetCardNameStringByDevId(cndevDevice_t device) {
    static char names[SIM_DEVICES_MAX][sizeof(((struct sim_device_config *)0)->name)];
    SIM_LOOK look = sim_look_at(__func__, device, names);
    if (!look.device)
        return NULL;
    return strcpy(names[look.slot], look.device->name);
}

cndevRet_t cndevDeviceGetMinorNumber(uint32_t *minor, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, minor);
    if (look.device)
        *minor = sim_node_minor(look.state->node, look.number);
    return look.result;
}

cndevRet_t cndevGetCoreCount(cndevCardCoreCount_t *cores, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, cores);
    if (!look.device || !sim_speaks(&look, cores->version))
        return look.result;
    cores->count = (int32_t)look.device->sms;
    return CNDEV_SUCCESS;
}

/* ---- Where it is ------------------------------------------------------------------------------ */

cndevRet_t cndevGetPCIeInfoV2(cndevPCIeInfoV2_t *pcie, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, pcie);
    if (!look.device)
        return look.result;
    *pcie = (cndevPCIeInfoV2_t){
        .subsystemId = look.device->pci_id,
        .deviceId = look.device->pci_id,
        .vendor = VENDOR,
        .subsystemVendor = VENDOR,
        .domain = look.device->pci_domain,
        .bus = look.device->pci_bus,
        .device = look.device->pci_device,
        .slotId = (uint16_t)look.slot,
    };
    return CNDEV_SUCCESS;
}

cndevRet_t cndevGetNUMANodeIdByDevId(cndevNUMANodeId_t *node, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, node);
    if (!look.device || !sim_speaks(&look, node->version))
        return look.result;
    node->nodeId = look.device->numa_node;
    return CNDEV_SUCCESS;
}

cndevRet_t cndevTopologyGetRelationship(cndevTopologyRelationship_t *relationship,
                                        cndevDevice_t first, cndevDevice_t second) {
    SIM_LOOK look = sim_look_at(__func__, first, relationship);
    if (!look.device || !sim_speaks(&look, relationship->version))
        return look.result;
    if (second < 0 || second >= (int32_t)sim_session_count())
        return CNDEV_ERROR_INVALID_DEVICE_ID;
    int32_t there = look.state->node->devices[sim_session_device((uint32_t)second)].numa_node;
    relationship->relation = first == second                   ? CNDEV_TOPOLOGY_SELF
                             : look.device->numa_node == there ? CNDEV_TOPOLOGY_CPU
                                                               : CNDEV_TOPOLOGY_SYSTEM;
    return CNDEV_SUCCESS;
}

/* ---- Links: to each other device, one after another ------------------------------------------- */

/* The number on the node of the device at a link's other end; -1 when there is no such link. */
static int64_t across(const struct sim_look *look, int32_t link) {
    for (uint32_t d = 0; link >= 0 && d < look->state->node->device_count; d++) {
        if (link < look->device->links[d])
            return d;
        link -= look->device->links[d];
    }
    return -1;
}

int32_t cndevGetMLULinkPortNumber(cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, "");
    int32_t links = 0;
    for (uint32_t d = 0; look.device && d < look.state->node->device_count; d++)
        links += look.device->links[d];
    return links;
}

cndevRet_t cndevGetMLULinkRemoteInfo(cndevMLULinkRemoteInfo_t *remote, cndevDevice_t device,
                                     int32_t link) {
    SIM_LOOK look = sim_look_at(__func__, device, remote);
    if (!look.device || !sim_speaks(&look, remote->version))
        return look.result;
    int64_t other = across(&look, link);
    if (other < 0)
        return CNDEV_ERROR_INVALID_LINK;
    const struct sim_device_config *there = &look.state->node->devices[other];
    *remote = (cndevMLULinkRemoteInfo_t){.version = remote->version,
                                         .mcSn = serial_of(there),
                                         .slotId = (uint32_t)sim_session_index((uint32_t)other),
                                         .ncsUUID64 = serial_of(there)};
    sim_uuid(there->uuid, remote->uuid);
    return CNDEV_SUCCESS;
}

#if SIM_CNDEV_VERSION >= 6
cndevRet_t cndevGetMLULinkStatusV2(cndevMLULinkStatusV2_t *status, cndevDevice_t device,
                                   int32_t link) {
    SIM_LOOK look = sim_look_at(__func__, device, status);
    if (!look.device)
        return look.result;
    if (across(&look, link) < 0)
        return CNDEV_ERROR_INVALID_LINK;
    *status = (cndevMLULinkStatusV2_t){
        .macState = CNDEV_MLULINK_MAC_STATE_UP, .serdesState = 1, .presenceState = 1};
    return CNDEV_SUCCESS;
}
#endif
