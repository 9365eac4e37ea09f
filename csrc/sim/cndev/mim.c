/* Hardware partitions (MIM), as far as they are told of: their making is the administrator's. */
#include "share.h"

#include <assert.h>
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

static cndevRet_t tell(const struct sim_look *look, uint32_t instance, void *row) {
    cndevMluInstanceInfo_t *info = row;
    struct sim_share_info found;
    uint32_t first = 0;
    cndevRet_t result = sim_instance_read(look, instance, &found);
    if (result != CNDEV_SUCCESS)
        return result;
    int32_t mib = (int32_t)(found.bytes >> 20);
    int32_t cores = (int32_t)sim_instance_cores(look, &found, &first);
    *info = (cndevMluInstanceInfo_t){
        .parentDevice = look->slot,
        .placement = {SIM_CNDEV_VERSION, (int32_t)first, cores},
        .mluCoreCount = cores,
        .memorySize = mib,
    };
    SIM_TELL_INSTANCE(look, &found, info);
    snprintf(info->profileName, sizeof info->profileName, "%um.%dgb", found.quota, mib >> 10);
    snprintf(info->ipcmDevNodeName, sizeof info->ipcmDevNodeName, "/dev/cambricon_ipcm%umi%u",
             sim_node_minor(look->state->node, look->number), instance);
    return CNDEV_SUCCESS;
}
static_assert(sizeof(cndevMluInstanceInfo_t) <= SIM_INSTANCE_BYTES, "room for one");

cndevRet_t cndevGetMluInstanceInfo(cndevMluInstanceInfo_t *info, cndevMluInstance_t handle) {
    uint32_t instance;
    SIM_LOOK look = sim_look_at_instance(__func__, handle, info, &instance);
    if (!look.device || !sim_speaks(&look, info->version))
        return look.result;
    return tell(&look, instance, info);
}

cndevRet_t cndevGetAllMluInstanceInfo(int32_t *count, cndevMluInstanceInfo_t *infos,
                                      cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, count);
    if (!look.device || !infos || !sim_speaks(&look, infos->version))
        return look.result ? look.result : CNDEV_ERROR_INVALID_ARGUMENT;
    return sim_list_instances(&look, count, infos, sizeof *infos, tell);
}

/* The instance of that number on a card, if there is one. */
cndevRet_t cndevGetMluInstanceById(cndevMluInstance_t *handle, int32_t instance,
                                   cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, handle);
    struct sim_share_info found;
    if (!look.device)
        return look.result;
    if (instance < 1 || instance > SIM_SHARE_IDS)
        return CNDEV_ERROR_NOT_FOUND;
    cndevRet_t result = sim_instance_read(&look, (uint32_t)instance, &found);
    if (result == CNDEV_SUCCESS)
        *handle = (cndevMluInstance_t)((uint32_t)instance << 8 | (uint32_t)look.slot);
    return result;
}

#endif
