/* Who is on a device: its processes by their pids on the host, what they hold, how busy they are. */
#include "nvml_sim.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

enum { NO_INSTANCE = 0xffffffff }; /* of MIG */

/* What a list's caller learns: `*count` is the room it has, and gets what there is. */
static nvmlReturn_t check_room(const void *out, unsigned *count, unsigned found) {
    unsigned room = *count;
    if (room && !out)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

/* ---- Processes that compute ------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_t *out) {
    SIM_LOOK look = sim_look_at(device, count);
    if (!look.device)
        return look.result;
    struct sim_holder holders[SIM_SLOTS_MAX];
    unsigned found = sim_holders(look.state, look.number, holders);
    nvmlReturn_t result = check_room(out, count, found);
    for (unsigned p = 0; result == NVML_SUCCESS && p < found; p++)
        out[p] = (nvmlProcessInfo_t){.pid = holders[p].pid,
                                     .usedGpuMemory = holders[p].bytes,
                                     .gpuInstanceId = NO_INSTANCE,
                                     .computeInstanceId = NO_INSTANCE};
    return result;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_v2_t *out) {
    static_assert(sizeof(nvmlProcessInfo_v2_t) == sizeof(nvmlProcessInfo_t), "the same layout");
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, (nvmlProcessInfo_t *)(void *)out);
}

/* Without instances: 16 bytes a process. */
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                  nvmlProcessInfo_v1_t *out) {
    SIM_LOOK look = sim_look_at(device, count);
    if (!look.device)
        return look.result;
    struct sim_holder holders[SIM_SLOTS_MAX];
    unsigned found = sim_holders(look.state, look.number, holders);
    nvmlReturn_t result = check_room(out, count, found);
    for (unsigned p = 0; result == NVML_SUCCESS && p < found; p++)
        out[p] = (nvmlProcessInfo_v1_t){.pid = holders[p].pid, .usedGpuMemory = holders[p].bytes};
    return result;
}

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                   nvmlProcessDetailList_t *list) {
    SIM_LOOK look = sim_look_at(device, list);
    if (!look.device)
        return look.result;
    if (list->version != nvmlProcessDetailList_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (list->mode >= NVML_PROCESS_MODE_MAX)
        return NVML_ERROR_INVALID_ARGUMENT;
    bool none = list->mode == NVML_PROCESS_MODE_GRAPHICS || list->mode == NVML_PROCESS_MODE_MPS;
    struct sim_holder holders[SIM_SLOTS_MAX];
    unsigned found = none ? 0 : sim_holders(look.state, look.number, holders);
    nvmlReturn_t result = check_room(list->procArray, &list->numProcArrayEntries, found);
    for (unsigned p = 0; result == NVML_SUCCESS && p < found; p++)
        list->procArray[p] = (nvmlProcessDetail_v1_t){.pid = holders[p].pid,
                                                      .usedGpuMemory = holders[p].bytes,
                                                      .gpuInstanceId = NO_INSTANCE,
                                                      .computeInstanceId = NO_INSTANCE};
    return result;
}

/* ---- Nobody draws, and nobody shares by MPS ---------------------------------------------------- */

static nvmlReturn_t nobody(nvmlDevice_t device, unsigned int *count) {
    SIM_LOOK look = sim_look_at(device, count);
    if (look.device)
        *count = 0;
    return look.result;
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                      nvmlProcessInfo_t *out) {
    (void)out;
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                      nvmlProcessInfo_v2_t *out) {
    (void)out;
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                   nvmlProcessInfo_v1_t *out) {
    (void)out;
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                        nvmlProcessInfo_t *out) {
    (void)out;
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                        nvmlProcessInfo_v2_t *out) {
    (void)out;
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_v1_t *out) {
    (void)out;
    return nobody(device, count);
}

/* ---- How busy they are -------------------------------------------------------------------------- */

struct sample {
    uint64_t time_us; /* of CLOCK_REALTIME, at the end of the last whole period */
    uint32_t pid, run_percent, copy_percent;
};

static uint64_t clock_us(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* One sample for each living process that did something in the second before now, and after
 * `since_us`. */
static unsigned take_samples(const struct sim_look *look, uint64_t since_us,
                             struct sample out[SIM_SLOTS_MAX]) {
    struct sim_state_header *header = look->state->header;
    struct sim_timeline *timeline = &header->devices[look->number].timeline;
    uint64_t now_ns = sim_state_now(), now_us = clock_us(CLOCK_REALTIME);
    uint64_t age_us = now_us > since_us ? now_us - since_us : 0;
    /* Half a period more: the two clocks are not read at once, and samples end with periods. */
    uint64_t since_ns =
        age_us < now_ns / 1000 ? now_ns - age_us * 1000 + SIM_USAGE_PERIOD_NS / 2 : 0;
    unsigned count = 0;
    sim_state_sweep(look->state, true);
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    for (uint32_t s = 0; s < high; s++) {
        struct sim_usage usage;
        if (sim_slot_status_of(sim_slot_status(look->state, s)) != SIM_SLOT_LIVE)
            continue;
        sim_timeline_usage(timeline, s, now_ns, since_ns, &usage);
        if (!usage.run_ns && !usage.copy_ns)
            continue;
        int32_t pid = sim_slot_host_pid(look->state, s);
        if (!pid)
            continue;
        out[count++] = (struct sample){
            .time_us = now_us - (now_ns - usage.end_ns) / 1000,
            .pid = (uint32_t)pid,
            .run_percent = sim_percent(usage.run_ns, &usage),
            .copy_percent = sim_percent(usage.copy_ns, &usage),
        };
    }
    return count;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                             nvmlProcessUtilizationSample_t *out,
                                             unsigned int *count, unsigned long long since) {
    SIM_LOOK look = sim_look_at(device, count);
    if (!look.device)
        return look.result;
    struct sample samples[SIM_SLOTS_MAX];
    unsigned found = take_samples(&look, since, samples);
    if (!found)
        return *count = 0, NVML_ERROR_NOT_FOUND;
    if (!out)
        *count = 0; /* asks how many there are, whatever it says */
    nvmlReturn_t result = check_room(out, count, found);
    for (unsigned p = 0; result == NVML_SUCCESS && p < found; p++)
        out[p] = (nvmlProcessUtilizationSample_t){.pid = samples[p].pid,
                                                  .timeStamp = samples[p].time_us,
                                                  .smUtil = samples[p].run_percent,
                                                  .memUtil = samples[p].copy_percent};
    return result;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                   nvmlProcessesUtilizationInfo_t *info) {
    SIM_LOOK look = sim_look_at(device, info);
    if (!look.device)
        return look.result;
    if (info->version != nvmlProcessesUtilizationInfo_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    struct sample samples[SIM_SLOTS_MAX];
    unsigned found = take_samples(&look, info->lastSeenTimeStamp, samples);
    if (!found)
        return info->processSamplesCount = 0, NVML_ERROR_NOT_FOUND;
    if (!info->procUtilArray)
        info->processSamplesCount = 0;
    nvmlReturn_t result = check_room(info->procUtilArray, &info->processSamplesCount, found);
    for (unsigned p = 0; result == NVML_SUCCESS && p < found; p++)
        info->procUtilArray[p] = (nvmlProcessUtilizationInfo_v1_t){
            .timeStamp = samples[p].time_us,
            .pid = samples[p].pid,
            .smUtil = samples[p].run_percent,
            .memUtil = samples[p].copy_percent,
        };
    return result;
}
