/* sMLU: profiles and instances, by the interface's functions (share.c has what they do). */
#include "share.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#if SIM_CNDEV_VERSION >= 6

cndevRet_t cndevGetSMLUMode(cndevSMLUMode_t *mode, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, mode);
    if (look.device && sim_speaks(&look, mode->version))
        mode->smluMode = !atomic_load_explicit(
            &look.state->header->devices[look.number].mlu.no_smlu, memory_order_relaxed);
    return look.result;
}

cndevRet_t cndevSetSMLUMode(cndevSMLUMode_t *mode, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, mode);
    if (!look.device || !sim_speaks(&look, mode->version))
        return look.result;
    if (mode->smluMode > CNDEV_FEATURE_ENABLED)
        return CNDEV_ERROR_INVALID_ARGUMENT;
    return sim_share_switch(&look, mode->smluMode == CNDEV_FEATURE_ENABLED);
}

/* ---- Profiles ------------------------------------------------------------------------------- */

cndevRet_t cndevCreateSMluProfileInfo(cndevSMluSet_t *set, int32_t *profile, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, set);
    if (!look.device || !sim_speaks(&look, set->version))
        return look.result;
    return profile ? sim_profile_make(&look, set->mluQuota, set->memorySize, profile)
                   : CNDEV_ERROR_INVALID_ARGUMENT;
}

cndevRet_t cndevDestroySMluProfileInfo(int32_t profile, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, "");
    return look.device ? sim_profile_drop(&look, profile) : look.result;
}

cndevRet_t cndevGetSMluProfileIdInfo(cndevSMluProfileIdInfo_t *ids, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, ids);
    if (!look.device || !sim_speaks(&look, ids->version))
        return look.result;
    ids->count = 0;
    for (int32_t p = 0; p < SIM_MLU_PROFILES_MAX; p++) {
        struct sim_mlu_profile profile;
        uint32_t total, remain;
        cndevRet_t result = sim_profile_read(&look, p, &profile, &total, &remain);
        if (result == CNDEV_SUCCESS)
            ids->profileId[ids->count++] = p;
        else if (result != CNDEV_ERROR_NOT_FOUND)
            return result;
    }
    return CNDEV_SUCCESS;
}

static void name_profile(char name[100], uint32_t quota, uint64_t bytes) {
    snprintf(name, 100, "%u.%llum", quota, (unsigned long long)(bytes >> 20));
}

cndevRet_t cndevGetSMluProfileInfo(cndevSMluProfileInfo_t *info, int32_t profile,
                                   cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, info);
    if (!look.device || !sim_speaks(&look, info->version))
        return look.result;
    struct sim_mlu_profile found;
    uint32_t total, remain;
    cndevRet_t result = sim_profile_read(&look, profile, &found, &total, &remain);
    if (result != CNDEV_SUCCESS)
        return result;
    *info = (cndevSMluProfileInfo_t){.version = info->version,
                                     .profileId = profile,
                                     .totalCapacity = total,
                                     .remainCapacity = remain,
                                     .mluQuota = {found.quota, 0},
                                     .memorySize = {found.bytes, 0}};
    name_profile(info->name, found.quota, found.bytes);
    return CNDEV_SUCCESS;
}

/* ---- Instances --------------------------------------------------------------------------------- */

cndevRet_t cndevCreateSMluInstanceByProfileId(cndevMluInstance_t *handle, uint32_t profile,
                                              cndevDevice_t device, char *name) {
    SIM_LOOK look = sim_look_at(__func__, device, handle);
    if (!look.device)
        return look.result;
    uint32_t instance = 0;
    cndevRet_t result = sim_share_create(&look, profile, name ? name : "", &instance);
    if (result == CNDEV_SUCCESS)
        *handle = (cndevMluInstance_t)(instance << 8 | (uint32_t)look.slot);
    return result;
}

cndevRet_t cndevDestroySMluInstanceByHandle(cndevMluInstance_t handle) {
    uint32_t instance;
    SIM_LOOK look = sim_look_at_instance(__func__, handle, "", &instance);
    return look.device ? sim_share_destroy(&look, instance) : look.result;
}

static cndevRet_t tell(const struct sim_look *look, uint32_t instance, void *row) {
    cndevSMluInfo_t *info = row;
    struct sim_share_info found;
    cndevRet_t result = sim_share_read(look, instance, &found);
    if (result != CNDEV_SUCCESS)
        return result;
    *info = (cndevSMluInfo_t){.profileId = (int32_t)found.profile,
                              .mluQuota = {found.quota, (found.permille + 5) / 10},
                              .memorySize = {found.bytes, found.used}};
    SIM_TELL_INSTANCE(look, &found, info);
    name_profile(info->profileName, found.quota, found.bytes);
    return CNDEV_SUCCESS;
}
static_assert(sizeof(cndevSMluInfo_t) <= SIM_INSTANCE_BYTES, "room for one");

cndevRet_t cndevGetSMluInstanceInfo(cndevSMluInfo_t *info, cndevMluInstance_t handle) {
    uint32_t instance;
    SIM_LOOK look = sim_look_at_instance(__func__, handle, info, &instance);
    if (!look.device || !sim_speaks(&look, info->version))
        return look.result;
    return tell(&look, instance, info);
}

cndevRet_t cndevGetAllSMluInstanceInfo(int32_t *count, cndevSMluInfo_t *infos,
                                       cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, count);
    if (!look.device || !infos || !sim_speaks(&look, infos->version))
        return look.result ? look.result : CNDEV_ERROR_INVALID_ARGUMENT;
    return sim_list_instances(&look, count, infos, sizeof *infos, tell);
}

cndevRet_t cndevUpdateSMluInstanceQuotaByHandle(cndevMluInstance_t handle, cndevSMluSet_t *set) {
    uint32_t instance;
    SIM_LOOK look = sim_look_at_instance(__func__, handle, set, &instance);
    if (!look.device || !sim_speaks(&look, set->version))
        return look.result;
    return sim_share_update(&look, instance, set->mluQuota, set->memorySize);
}

/* ---- By name --------------------------------------------------------------------------------- */

/* The handle of the instance of that name; 0 without one. */
static cndevMluInstance_t named(cndevDevice_t device, const char *name) {
    SIM_LOOK look = sim_look_at(__func__, device, name);
    for (uint32_t i = 1; look.device && i <= SIM_SHARE_IDS; i++) {
        cndevSMluInfo_t one;
        if (tell(&look, i, &one) == CNDEV_SUCCESS && strcmp(one.instanceName, name) == 0)
            return (cndevMluInstance_t)(i << 8 | (uint32_t)look.slot);
    }
    return 0;
}

cndevRet_t cndevDestroySMluInstanceByInstanceName(cndevDevice_t device, char *name) {
    cndevMluInstance_t handle = named(device, name);
    return handle ? cndevDestroySMluInstanceByHandle(handle) : CNDEV_ERROR_NOT_FOUND;
}

cndevRet_t cndevUpdateSMluInstanceQuotaByInstanceName(cndevDevice_t device, char *name,
                                                      cndevSMluSet_t *set) {
    cndevMluInstance_t handle = named(device, name);
    return handle ? cndevUpdateSMluInstanceQuotaByHandle(handle, set) : CNDEV_ERROR_NOT_FOUND;
}

cndevRet_t cndevCreateSMluInstanceByProfileName(cndevMluInstance_t *handle, char *profile,
                                                cndevDevice_t device, char *name) {
    cndevSMluProfileIdInfo_t ids = {.version = SIM_CNDEV_VERSION};
    cndevRet_t result = cndevGetSMluProfileIdInfo(&ids, device);
    for (int32_t p = 0; result == CNDEV_SUCCESS && profile && p < ids.count; p++) {
        cndevSMluProfileInfo_t info = {.version = SIM_CNDEV_VERSION};
        if (cndevGetSMluProfileInfo(&info, ids.profileId[p], device) == CNDEV_SUCCESS &&
            strcmp(info.name, profile) == 0)
            return cndevCreateSMluInstanceByProfileId(handle, (uint32_t)ids.profileId[p], device,
                                                      name);
    }
    return result == CNDEV_SUCCESS ? CNDEV_ERROR_NOT_FOUND : result;
}

cndevRet_t cndevGetDeviceHandleFromMluInstanceHandle(cndevDevice_t *device,
                                                     cndevMluInstance_t handle) {
    SIM_LOOK look = sim_look_at(__func__, handle & 0xff, device);
    if (look.device)
        *device = look.slot;
    return look.result;
}

cndevRet_t cndevGetMluInstanceId(int32_t *instance, cndevMluInstance_t handle) {
    SIM_LOOK look = sim_look_at(__func__, handle & 0xff, instance);
    if (look.device)
        *instance = handle >> 8;
    return look.result;
}

#endif
