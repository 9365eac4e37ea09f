/* Hardware partitions (MIM), as far as they are told of: their making is the administrator's. */
#include "share.h"

#include <stdio.h>
#include <string.h>

#if SIM_CNDEV_VERSION >= 6

cndevRet_t cndevGetMimMode(cndevMimMode_t *mode, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, mode);
    if (look.device && sim_speaks(&look, mode->version))
        mode->mimMode = sim_mim_is_on(&look);
    return look.result;
}

cndevRet_t cndevSetMimMode(cndevMimMode_t *mode, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, mode);
    if (!look.device || !sim_speaks(&look, mode->version))
        return look.result;
    if (mode->mimMode > CNDEV_FEATURE_ENABLED)
        return CNDEV_ERROR_INVALID_ARGUMENT;
    return sim_mim_switch(&look, mode->mimMode == CNDEV_FEATURE_ENABLED);
}

static cndevRet_t fill(const struct sim_look *look, uint32_t instance,
                       cndevMluInstanceInfo_t *info) {
    struct sim_share_info found;
    cndevRet_t result = sim_instance_read(look, instance, &found);
    if (result != CNDEV_SUCCESS)
        return result;
    int32_t mib = (int32_t)(found.bytes >> 20);
    *info = (cndevMluInstanceInfo_t){
        .version = SIM_CNDEV_VERSION,
        .parentDevice = look->slot,
        .instanceId = (int32_t)instance,
        .domain = (int32_t)look->device->pci_domain,
        .bus = (int32_t)look->device->pci_bus,
        .device = (int32_t)look->device->pci_device,
        .mluCoreCount = (int32_t)(look->device->sms * found.quota / 100),
        .memorySize = mib,
    };
    sim_uuid(found.uuid, info->uuid);
    snprintf(info->profileName, sizeof info->profileName, "%um.%dgb", found.quota, mib >> 10);
    memcpy(info->instanceName, found.name, sizeof info->instanceName);
    memcpy(info->devNodeName, found.file, sizeof info->devNodeName);
    snprintf(info->ipcmDevNodeName, sizeof info->ipcmDevNodeName, "/dev/cambricon_ipcm%umi%u",
             sim_node_minor(look->state->node, look->number), instance);
    return CNDEV_SUCCESS;
}

cndevRet_t cndevGetMluInstanceInfo(cndevMluInstanceInfo_t *info, cndevMluInstance_t handle) {
    SIM_LOOK look = sim_look_at(__func__, handle & 0xff, info);
    if (!look.device || !sim_speaks(&look, info->version))
        return look.result;
    return fill(&look, (uint32_t)handle >> 8, info);
}

/* `*count` is the caller's room, and gets what there is. */
cndevRet_t cndevGetAllMluInstanceInfo(int32_t *count, cndevMluInstanceInfo_t *infos,
                                      cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, count);
    if (!look.device || !infos || !sim_speaks(&look, infos->version))
        return look.result ? look.result : CNDEV_ERROR_INVALID_ARGUMENT;
    int32_t found = 0;
    for (uint32_t i = 1; i <= SIM_SHARE_IDS; i++) {
        cndevMluInstanceInfo_t one;
        cndevRet_t result = fill(&look, i, &one);
        if (result == CNDEV_ERROR_NOT_FOUND)
            continue;
        if (result != CNDEV_SUCCESS)
            return result;
        if (found < *count)
            infos[found] = one;
        found++;
    }
    bool fits = found <= *count;
    *count = found;
    return fits ? CNDEV_SUCCESS : CNDEV_ERROR_INSUFFICIENT_SPACE;
}

#endif
