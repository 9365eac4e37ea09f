/* What a device reads now: memory, how busy it is, and what follows from that. */
#include "nvml_sim.h"

#include <time.h>

/* ---- Memory ---------------------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    SIM_LOOK look = sim_look_at(device, memory);
    if (!look.device)
        return look.result;
    if (memory->version != nvmlMemory_v2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = look.device->memory;
    memory->reserved = look.device->reserved;
    memory->free = sim_free_bytes(look.state, look.number);
    memory->used = memory->total - memory->reserved - memory->free;
    struct sim_limit limit;
    uint64_t used;
    if (sim_limit_own(look.state, look.number, &limit, &used)) {
        /* What the process's cgroup may have is all that there is, as for cuMemGetInfo. */
        uint64_t left = limit.hard > used ? limit.hard - used : 0;
        memory->total = limit.hard;
        memory->reserved = 0;
        memory->used = used;
        memory->free = memory->free < left ? memory->free : left;
    }
    return NVML_SUCCESS;
}

/* The first version knows nothing of reserved memory: it counts as used. */
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    SIM_LOOK look = sim_look_at(device, memory);
    if (!look.device)
        return look.result;
    memory->total = look.device->memory;
    memory->free = sim_free_bytes(look.state, look.number);
    memory->used = memory->total - memory->free;
    return NVML_SUCCESS;
}

/* As large as the memory, rounded up, as on data centre devices. */
nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory) {
    SIM_LOOK look = sim_look_at(device, memory);
    if (!look.device)
        return look.result;
    uint64_t size = 1;
    while (size < look.device->memory)
        size *= 2;
    *memory = (nvmlBAR1Memory_t){.bar1Total = size, .bar1Free = size, .bar1Used = 0};
    return NVML_SUCCESS;
}

/* ---- How busy -------------------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    SIM_LOOK look = sim_look_at(device, rates);
    if (!look.device)
        return look.result;
    struct sim_usage usage = sim_device_usage(look.state, look.number);
    /* Kernels are not computed, so nobody knows what they would have moved: copies count. */
    *rates = (nvmlUtilization_t){.gpu = sim_percent(usage.run_ns, &usage),
                                 .memory = sim_percent(usage.copy_ns, &usage)};
    return NVML_SUCCESS;
}

/* There are no engines for video. */
static nvmlReturn_t idle_engine(nvmlDevice_t device, unsigned int *utilization,
                                unsigned int *period_us) {
    SIM_LOOK look = sim_look_at(device, utilization);
    if (!look.device)
        return look.result;
    if (!period_us)
        return NVML_ERROR_INVALID_ARGUMENT;
    *utilization = 0;
    *period_us = SIM_USAGE_PERIOD_NS / 1000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned int *utilization,
                                             unsigned int *period_us) {
    return idle_engine(device, utilization, period_us);
}

nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned int *utilization,
                                             unsigned int *period_us) {
    return idle_engine(device, utilization, period_us);
}

/* ---- What follows from it --------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
    SIM_LOOK look = sim_look_at(device, milliwatts);
    if (look.device)
        *milliwatts = sim_power(look.state, look.number);
    return look.result;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor,
                                      unsigned int *degrees) {
    SIM_LOOK look = sim_look_at(device, degrees);
    if (!look.device)
        return look.result;
    if (sensor != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    *degrees = sim_temperature(look.state, look.number);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature) {
    SIM_LOOK look = sim_look_at(device, temperature);
    if (!look.device)
        return look.result;
    if (temperature->version != nvmlTemperature_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensorType != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    temperature->temperature = (int)sim_temperature(look.state, look.number);
    return NVML_SUCCESS;
}

static nvmlReturn_t read_state(nvmlDevice_t device, nvmlPstates_t *state) {
    SIM_LOOK look = sim_look_at(device, state);
    if (look.device)
        *state = NVML_PSTATE_0;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *state) {
    return read_state(device, state);
}

nvmlReturn_t nvmlDeviceGetPowerState(nvmlDevice_t device, nvmlPstates_t *state) {
    return read_state(device, state);
}

static nvmlReturn_t read_reasons(nvmlDevice_t device, unsigned long long *reasons) {
    SIM_LOOK look = sim_look_at(device, reasons);
    if (!look.device)
        return look.result;
    struct sim_usage usage = sim_device_usage(look.state, look.number);
    *reasons = (unsigned long long)(usage.run_ns ? nvmlClocksEventReasonNone
                                                 : nvmlClocksEventReasonGpuIdle);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device,
                                                    unsigned long long *reasons) {
    return read_reasons(device, reasons);
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                       unsigned long long *reasons) {
    return read_reasons(device, reasons);
}

/* ---- Fields: the few that there are ------------------------------------------------------------ */

static void read_field(const struct sim_look *look, nvmlFieldValue_t *field) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    field->timestamp = (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    field->latencyUsec = 0;
    field->nvmlReturn = NVML_SUCCESS;
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    switch (field->fieldId) {
    case NVML_FI_DEV_POWER_AVERAGE:
    case NVML_FI_DEV_POWER_INSTANT:
        field->value.uiVal = sim_power(look->state, look->number);
        break;
    case NVML_FI_DEV_NVLINK_LINK_COUNT:
        field->value.uiVal = 0;
        for (uint32_t d = 0; d < look->state->node->device_count; d++)
            field->value.uiVal += look->device->links[d];
        break;
    default:
        field->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    }
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    SIM_LOOK look = sim_look_at(device, values);
    if (!look.device)
        return look.result;
    if (count <= 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int v = 0; v < count; v++)
        read_field(&look, &values[v]);
    return NVML_SUCCESS;
}
