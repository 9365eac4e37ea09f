/* What a device is: its names, its settings, and figures of its model. */
#include "nvml_sim.h"

#include <string.h>

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    SIM_LOOK look = sim_look_at(device, name);
    return look.device ? sim_text(look.device->name, name, length) : look.result;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    SIM_LOOK look = sim_look_at(device, uuid);
    if (!look.device)
        return look.result;
    char text[SIM_UUID_TEXT];
    sim_node_uuid(look.device->uuid, text);
    return sim_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    SIM_LOOK look = sim_look_at(device, index);
    for (uint32_t i = 0; look.device && i < sim_visible_count(); i++)
        if (sim_visible(i) == device)
            *index = i;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) {
    SIM_LOOK look = sim_look_at(device, minor);
    if (look.device)
        *minor = sim_node_minor(look.state->node, look.number);
    return look.result;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *type) {
    SIM_LOOK look = sim_look_at(device, type);
    if (look.device)
        *type = NVML_BRAND_NVIDIA;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch) {
    SIM_LOOK look = sim_look_at(device, arch);
    if (!look.device)
        return look.result;
    static const struct {
        unsigned from; /* ten times the compute capability */
        nvmlDeviceArchitecture_t arch;
    } known[] = {
        {100, NVML_DEVICE_ARCH_BLACKWELL}, {90, NVML_DEVICE_ARCH_HOPPER},
        {89, NVML_DEVICE_ARCH_ADA},        {80, NVML_DEVICE_ARCH_AMPERE},
        {75, NVML_DEVICE_ARCH_TURING},     {70, NVML_DEVICE_ARCH_VOLTA},
        {60, NVML_DEVICE_ARCH_PASCAL},     {50, NVML_DEVICE_ARCH_MAXWELL},
    };
    *arch = NVML_DEVICE_ARCH_UNKNOWN;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        if (look.device->cc_major * 10 + look.device->cc_minor < known[k].from)
            continue;
        *arch = known[k].arch;
        break;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    SIM_LOOK look = sim_look_at(device, major);
    if (!look.device)
        return look.result;
    if (!minor)
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = (int)look.device->cc_major;
    *minor = (int)look.device->cc_minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *cores) {
    SIM_LOOK look = sim_look_at(device, cores);
    if (!look.device)
        return look.result;
    unsigned cc = look.device->cc_major * 10 + look.device->cc_minor;
    bool half = (cc >= 70 && cc <= 80) || cc == 60; /* 64 FP32 units a multiprocessor, not 128 */
    *cores = look.device->sms * (half ? 64 : 128);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *bits) {
    SIM_LOOK look = sim_look_at(device, bits);
    if (look.device)
        *bits = look.device->bus_width_bits;
    return look.result;
}

/* ---- Clocks: what runs, runs at the highest -------------------------------------------------- */

static nvmlReturn_t read_clock(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz) {
    SIM_LOOK look = sim_look_at(device, mhz);
    if (!look.device)
        return look.result;
    switch (type) {
    case NVML_CLOCK_GRAPHICS:
    case NVML_CLOCK_SM:
        *mhz = look.device->clock_mhz;
        return NVML_SUCCESS;
    case NVML_CLOCK_MEM:
        *mhz = look.device->memory_clock_mhz;
        return NVML_SUCCESS;
    case NVML_CLOCK_VIDEO:
        return NVML_ERROR_NOT_SUPPORTED;
    default:
        return NVML_ERROR_INVALID_ARGUMENT;
    }
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                       unsigned int *mhz) {
    return read_clock(device, type, mhz);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz) {
    return read_clock(device, type, mhz);
}

nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t type, nvmlClockId_t id,
                                unsigned int *mhz) {
    return id >= NVML_CLOCK_ID_COUNT ? NVML_ERROR_INVALID_ARGUMENT : read_clock(device, type, mhz);
}

nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t device, nvmlClockType_t type,
                                            unsigned int *mhz) {
    return read_clock(device, type, mhz);
}

nvmlReturn_t nvmlDeviceGetDefaultApplicationsClock(nvmlDevice_t device, nvmlClockType_t type,
                                                   unsigned int *mhz) {
    return read_clock(device, type, mhz);
}

/* ---- Power's limits -------------------------------------------------------------------------- */

static nvmlReturn_t read_limit(nvmlDevice_t device, unsigned int *milliwatts) {
    SIM_LOOK look = sim_look_at(device, milliwatts);
    if (look.device)
        *milliwatts = look.device->power_watts * 1000;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *milliwatts) {
    return read_limit(device, milliwatts);
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *milliwatts) {
    return read_limit(device, milliwatts);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device,
                                                      unsigned int *milliwatts) {
    return read_limit(device, milliwatts);
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least,
                                                          unsigned int *most) {
    nvmlReturn_t result = read_limit(device, least);
    return result == NVML_SUCCESS ? read_limit(device, most) : result;
}

/* ---- Settings: as a data centre device comes, none of which can be changed here --------------- */

static nvmlReturn_t answer(nvmlDevice_t device, nvmlEnableState_t *state, nvmlEnableState_t value) {
    SIM_LOOK look = sim_look_at(device, state);
    if (look.device)
        *state = value;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
    return answer(device, mode, NVML_FEATURE_ENABLED);
}

nvmlReturn_t nvmlDeviceGetPowerManagementMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
    return answer(device, mode, NVML_FEATURE_ENABLED);
}

nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, nvmlEnableState_t *active) {
    return answer(device, active, NVML_FEATURE_DISABLED);
}

nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, nvmlEnableState_t *active) {
    return answer(device, active, NVML_FEATURE_DISABLED);
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode) {
    SIM_LOOK look = sim_look_at(device, mode);
    if (look.device)
        *mode = NVML_COMPUTEMODE_DEFAULT;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t device,
                                             nvmlGpuVirtualizationMode_t *mode) {
    SIM_LOOK look = sim_look_at(device, mode);
    if (look.device)
        *mode = NVML_GPU_VIRTUALIZATION_MODE_NONE;
    return look.result;
}

/* MIG's mode is NOT_SUPPORTED, as on a device without MIG: a stub. */
static nvmlReturn_t answer_none(nvmlDevice_t device, unsigned int *number) {
    SIM_LOOK look = sim_look_at(device, number);
    if (look.device)
        *number = 0;
    return look.result;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is) {
    return answer_none(device, is);
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *most) {
    return answer_none(device, most);
}

nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned int *is) {
    return answer_none(device, is);
}

nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t device, unsigned int *fans) {
    return answer_none(device, fans); /* their speed is NOT_SUPPORTED */
}

/* ---- Memory errors: there are none ------------------------------------------------------------ */

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current,
                                  nvmlEnableState_t *pending) {
    nvmlReturn_t result = answer(device, current, NVML_FEATURE_ENABLED);
    return result == NVML_SUCCESS ? answer(device, pending, NVML_FEATURE_ENABLED) : result;
}

nvmlReturn_t nvmlDeviceGetDefaultEccMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
    return answer(device, mode, NVML_FEATURE_ENABLED);
}

static nvmlReturn_t count_errors(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                 nvmlEccCounterType_t counter, unsigned long long *errors) {
    SIM_LOOK look = sim_look_at(device, errors);
    if (!look.device)
        return look.result;
    if (type >= NVML_MEMORY_ERROR_TYPE_COUNT || counter >= NVML_ECC_COUNTER_TYPE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    *errors = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                         nvmlEccCounterType_t counter, unsigned long long *errors) {
    return count_errors(device, type, counter, errors);
}

nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                             nvmlEccCounterType_t counter,
                                             nvmlMemoryLocation_t location,
                                             unsigned long long *errors) {
    return location >= NVML_MEMORY_LOCATION_COUNT ? NVML_ERROR_INVALID_ARGUMENT
                                                  : count_errors(device, type, counter, errors);
}
