/* What a device reads now: memory, how busy it is, power and heat, health, and its settings. */
#include "share.h"

#include <stdio.h>

/* ---- Memory, in MiB --------------------------------------------------------------------------- */

static int64_t mib(uint64_t bytes) { return (int64_t)(bytes >> 20); }

static int64_t mib_used(const struct sim_look *look) {
    return mib(look->device->memory - look->device->reserved -
               sim_free_bytes(look->state, look->number));
}

#if SIM_CNDEV_VERSION >= 6
/* An instance of the hardware's (MIM), by its handle, is asked as a card is. */
static cndevRet_t of_instance(const struct sim_look *look, uint32_t instance,
                              cndevMemoryInfoV2_t *memory) {
    struct sim_share_info found;
    cndevRet_t result = sim_instance_read(look, instance, &found);
    if (result != CNDEV_SUCCESS)
        return CNDEV_ERROR_INVALID_DEVICE_ID;
    *memory = (cndevMemoryInfoV2_t){
        .physicalMemoryTotal = mib(found.bytes),
        .physicalMemoryUsed = mib(found.used),
        .virtualMemoryTotal = INT64_C(1) << 20,
        .virtualMemoryUsed = mib(found.used),
        .globalMemory = (uint64_t)mib(found.bytes),
    };
    return CNDEV_SUCCESS;
}

cndevRet_t cndevGetMemoryUsageV2(cndevMemoryInfoV2_t *memory, cndevDevice_t device) {
    uint32_t instance;
    SIM_LOOK look = sim_look_at_instance(__func__, device, memory, &instance);
    if (!look.device || instance)
        return look.device ? of_instance(&look, instance, memory) : look.result;
    *memory = (cndevMemoryInfoV2_t){
        .physicalMemoryTotal = mib(look.device->memory),
        .physicalMemoryUsed = mib_used(&look),
        .reservedMemory = mib(look.device->reserved),
        .virtualMemoryTotal = INT64_C(1) << 20, /* a TiB */
        .globalMemory = (uint64_t)mib(look.device->memory - look.device->reserved),
    };
    memory->virtualMemoryUsed = memory->physicalMemoryUsed;
    return CNDEV_SUCCESS;
}
#else
cndevRet_t cndevGetMemoryUsage(cndevMemoryInfo_t *memory, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, memory);
    if (!look.device || !sim_speaks(&look, memory->version))
        return look.result;
    *memory = (cndevMemoryInfo_t){
        .version = memory->version,
        .physicalMemoryTotal = mib(look.device->memory - look.device->reserved),
        .physicalMemoryUsed = mib_used(&look),
        .virtualMemoryTotal = INT64_C(1) << 20,
        .channelNumber = 1,
    };
    memory->virtualMemoryUsed = memory->channelMemoryUsed[0] = memory->physicalMemoryUsed;
    return CNDEV_SUCCESS;
}
#endif

/* ---- Load, power, heat ------------------------------------------------------------------------ */

cndevRet_t cndevGetDeviceUtilizationInfo(cndevUtilizationInfo_t *utilization,
                                         cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, utilization);
    if (!look.device || !sim_speaks(&look, utilization->version))
        return look.result;
    enum { CORES = sizeof utilization->coreUtilization / sizeof *utilization->coreUtilization };
    struct sim_usage usage = sim_device_usage(look.state, look.number);
    int32_t percent = (int32_t)sim_percent(usage.run_ns, &usage);
    utilization->averageCoreUtilization = percent;
    for (uint32_t c = 0; c < CORES; c++)
        utilization->coreUtilization[c] =
            c < look.device->sms && !sim_mim_is_on(&look) ? percent : 0;
    /* Each instance of the hardware's keeps cores of its own busy. */
    for (uint32_t i = 1; i <= SIM_SHARE_IDS; i++) {
        struct sim_share_info found;
        uint32_t first;
        if (sim_instance_read(&look, i, &found) != CNDEV_SUCCESS)
            continue;
        uint32_t cores = sim_instance_cores(&look, &found, &first);
        int32_t busy = found.quota ? (int32_t)(found.permille * 10 / found.quota) : 0;
        for (uint32_t c = first; c < first + cores && c < CORES; c++)
            utilization->coreUtilization[c] = busy < 100 ? busy : 100;
    }
    return CNDEV_SUCCESS;
}

#if SIM_CNDEV_VERSION >= 6
cndevRet_t cndevGetDevicePowerInfo(cndevDevicePowerInfo_t *power, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, power);
    if (!look.device)
        return look.result;
    int32_t limit = (int32_t)look.device->power_watts;
    *power = (cndevDevicePowerInfo_t){
        .usage = (int32_t)(sim_power(look.state, look.number) / 1000),
        .cap = limit,
        .tdp = limit,
        .maxPower = limit,
    };
    return CNDEV_SUCCESS;
}
#endif

cndevRet_t cndevGetTemperatureInfo(cndevTemperatureInfo_t *temperature, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, temperature);
    if (!look.device || !sim_speaks(&look, temperature->version))
        return look.result;
    int32_t degrees = (int32_t)sim_temperature(look.state, look.number);
    *temperature = (cndevTemperatureInfo_t){
        .version = temperature->version, .board = degrees, .chip = degrees, .memory = degrees};
    return CNDEV_SUCCESS;
}

/* ---- Health ----------------------------------------------------------------------------------- */

cndevRet_t cndevGetCardHealthState(cndevCardHealthState_t *health, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, health);
    if (!look.device || !sim_speaks(&look, health->version))
        return look.result;
    struct sim_fault faults[SIM_STANDING_MAX];
    health->health = !sim_state_standing(look.state, look.number, faults);
#if SIM_CNDEV_VERSION >= 6
    health->deviceState =
        health->health ? CNDEV_HEALTH_STATE_DEVICE_GOOD : CNDEV_HEALTH_STATE_DEVICE_IN_PROBLEM;
    health->driverState = CNDEV_HEALTH_STATE_DRIVER_RUNNING;
#endif
    return CNDEV_SUCCESS;
}

#if SIM_CNDEV_VERSION >= 6
cndevRet_t cndevGetCardHealthStateV2(cndevCardHealthStateV2_t *health, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, health);
    if (!look.device)
        return look.result;
    enum { ROOM = sizeof health->incidents / sizeof *health->incidents };
    struct sim_fault faults[SIM_STANDING_MAX];
    uint32_t count = sim_state_standing(look.state, look.number, faults);
    *health = (cndevCardHealthStateV2_t){
        .health = !count,
        .deviceState =
            count ? CNDEV_HEALTH_STATE_DEVICE_IN_PROBLEM : CNDEV_HEALTH_STATE_DEVICE_GOOD,
        .driverState = CNDEV_HEALTH_STATE_DRIVER_RUNNING,
        .incident_count = count < ROOM ? count : ROOM,
    };
    for (uint32_t i = 0; i < health->incident_count; i++) {
        cndevDiagErrorDetail_t *detail = &health->incidents[i].error;
        snprintf(detail->msg, sizeof detail->msg, "injected fault 0x%x", faults[i].code);
        detail->device_id = (uint32_t)look.slot;
        detail->code = faults[i].code;
        detail->severity = faults[i].severity;
    }
    return CNDEV_SUCCESS;
}
#endif

/* No memory errors, ever. */
cndevRet_t cndevGetECCInfo(cndevECCInfo_t *errors, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, errors);
    if (look.device && sim_speaks(&look, errors->version))
        *errors = (cndevECCInfo_t){.version = errors->version};
    return look.result;
}

cndevRet_t cndevGetMemEccCounter(cndevMemEccCounter_t *errors, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, errors);
    if (look.device && sim_speaks(&look, errors->version))
        *errors = (cndevMemEccCounter_t){.version = errors->version};
    return look.result;
}

cndevRet_t cndevGetRemappedRowsV2(cndevRemappedRowV2_t *rows, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, rows);
    if (look.device && sim_speaks(&look, rows->version))
        *rows = (cndevRemappedRowV2_t){.version = rows->version};
    return look.result;
}

cndevRet_t cndevGetRepairStatus(cndevRepairStatus_t *status, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, status);
    if (look.device && sim_speaks(&look, status->version))
        *status = (cndevRepairStatus_t){.version = status->version};
    return look.result;
}

/* A reset mends what was injected. */
cndevRet_t cndevResetDevice(cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, "");
    struct sim_fault faults[SIM_STANDING_MAX];
    uint32_t count = look.device ? sim_state_standing(look.state, look.number, faults) : 0;
    for (uint32_t f = 0; f < count; f++) {
        faults[f].cleared = 1;
        sim_state_inject(look.state, &faults[f]);
    }
    return look.result;
}

/* ---- Settings --------------------------------------------------------------------------------- */

cndevRet_t cndevGetComputeMode(cndevComputeMode_t *mode, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, mode);
    if (look.device && sim_speaks(&look, mode->version))
        mode->mode = atomic_load_explicit(&look.state->header->devices[look.number].mlu.mode,
                                          memory_order_relaxed);
    return look.result;
}

cndevRet_t cndevSetComputeMode(cndevComputeMode_t *mode, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, mode);
    if (!look.device || !sim_speaks(&look, mode->version))
        return look.result;
    if (mode->mode > CNDEV_COMPUTE_MODE_PROHIBITED)
        return CNDEV_ERROR_INVALID_ARGUMENT;
    atomic_store_explicit(&look.state->header->devices[look.number].mlu.mode, mode->mode,
                          memory_order_relaxed);
    return CNDEV_SUCCESS;
}
