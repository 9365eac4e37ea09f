/* What a device reads now: memory, processes, how busy it is, and what follows from that. */
#include "nvml_sim.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sim_truth *truth; /* half a megabyte: made once */

/* What a process's clock on a device read at the last look, to tell how busy it has been since. */
static struct look {
    uint64_t at_ns, run_ns, status;
} last_look[SIM_DEVICES_MAX][SIM_SLOTS_MAX];

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

const struct sim_truth *sim_nvml_truth(void) {
    pthread_mutex_lock(&mutex);
    if (!truth)
        truth = calloc(1, sizeof *truth);
    if (truth)
        sim_state_truth(sim_nvml_state(), truth);
    return truth;
}

void sim_nvml_truth_done(void) { pthread_mutex_unlock(&mutex); }

/* ---- Memory -------------------------------------------------------------------------------- */

static nvmlReturn_t read_memory(uint32_t physical, nvmlMemory_v2_t *memory) {
    const struct sim_truth *found = sim_nvml_truth();
    if (found) {
        memory->total = sim_nvml_config(physical)->memory;
        memory->reserved = found->reserved_bytes[physical];
        memory->free = found->free_bytes[physical];
        memory->used = found->total_bytes[physical] - found->free_bytes[physical];
    }
    sim_nvml_truth_done();
    return found ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    ENTER(device, memory);
    if (memory->version != nvmlMemory_v2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return read_memory(physical, memory);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    ENTER(device, memory);
    nvmlMemory_v2_t read = {0};
    nvmlReturn_t result = read_memory(physical, &read);
    /* The first version knows nothing of reserved memory: it counts as used. */
    *memory = (nvmlMemory_t){
        .total = read.total, .free = read.free, .used = read.used + read.reserved};
    return result;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory) {
    ENTER(device, memory);
    uint64_t size = 1;
    while (size < sim_nvml_config(physical)->memory)
        size *= 2; /* as large as the memory, rounded up, on data centre devices */
    *memory = (nvmlBAR1Memory_t){.bar1Total = size, .bar1Free = size, .bar1Used = 0};
    return NVML_SUCCESS;
}

/* ---- Processes ----------------------------------------------------------------------------- */

/* Those that hold memory of the device. `out` NULL only counts. Returns how many there are. */
static unsigned list_processes(uint32_t physical, nvmlProcessInfo_t *out, unsigned room) {
    const struct sim_truth *found = sim_nvml_truth();
    unsigned count = 0;
    for (uint32_t p = 0; found && p < found->process_count; p++) {
        const struct sim_truth_process *process = &found->processes[p];
        if (process->dead || !process->bytes[physical])
            continue;
        int32_t pid = sim_slot_seen_pid(sim_nvml_state(), process->slot);
        if (out && count < room)
            out[count] = (nvmlProcessInfo_t){
                .pid = (unsigned)(pid ? pid : process->pid),
                .usedGpuMemory = process->bytes[physical],
                .gpuInstanceId = 0xffffffff,
                .computeInstanceId = 0xffffffff,
            };
        count++;
    }
    sim_nvml_truth_done();
    return count;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_t *out) {
    ENTER(device, count);
    unsigned room = *count;
    *count = list_processes(physical, out, room);
    return *count > room || (*count && !out) ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_v2_t *out) {
    static_assert(sizeof(nvmlProcessInfo_v2_t) == sizeof(nvmlProcessInfo_t), "the same layout");
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, (nvmlProcessInfo_t *)(void *)out);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                  nvmlProcessInfo_v1_t *out) {
    ENTER(device, count);
    unsigned room = *count;
    nvmlProcessInfo_t *full = room && out ? calloc(room, sizeof *full) : NULL;
    if (room && out && !full)
        return NVML_ERROR_MEMORY;
    *count = list_processes(physical, full, room);
    for (unsigned p = 0; full && p < room && p < *count; p++)
        out[p] = (nvmlProcessInfo_v1_t){full[p].pid, full[p].usedGpuMemory};
    free(full);
    return *count > room || (*count && !out) ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

/* Nobody draws, and nobody shares by MPS. */
static nvmlReturn_t nobody(nvmlDevice_t device, unsigned int *count) {
    ENTER(device, count);
    *count = 0;
    return NVML_SUCCESS;
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

/* ---- How busy ------------------------------------------------------------------------------ */

static uint32_t busy_permille(uint32_t physical) {
    return sim_timeline_busy_permille(&sim_nvml_state()->header->devices[physical].timeline,
                                      now_ns(CLOCK_MONOTONIC));
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    ENTER(device, rates);
    /* Kernels are not computed, so nobody knows how much they would have moved. */
    *rates = (nvmlUtilization_t){.gpu = (busy_permille(physical) + 5) / 10, .memory = 0};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                             nvmlProcessUtilizationSample_t *out,
                                             unsigned int *count, unsigned long long since) {
    ENTER(device, count);
    struct sim_state *state = sim_nvml_state();
    const struct sim_truth *found = sim_nvml_truth();
    unsigned room = *count, made = 0;
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    for (uint32_t p = 0; found && p < found->process_count; p++) {
        uint32_t slot = found->processes[p].slot;
        struct look *look = &last_look[physical][slot];
        uint64_t status = sim_slot_status(state, slot);
        uint64_t run = sim_timeline_busy_ns(&state->header->devices[physical].timeline, slot, now,
                                            NULL);
        bool known = look->at_ns && look->status == status && run >= look->run_ns;
        if (found->processes[p].dead || (known && now == look->at_ns))
            continue;
        uint64_t busy = known ? (run - look->run_ns) * 100 / (now - look->at_ns) : 0;
        if (out) {
            bool was_known = known && run > look->run_ns;
            *look = (struct look){now, run, status};
            if (!was_known || made >= room)
                continue;
            int32_t pid = sim_slot_seen_pid(state, slot);
            out[made] = (nvmlProcessUtilizationSample_t){
                .pid = (unsigned)(pid ? pid : found->processes[p].pid),
                .timeStamp = now_ns(CLOCK_REALTIME) / 1000,
                .smUtil = (unsigned)(busy > 100 ? 100 : busy),
            };
        }
        made++;
    }
    sim_nvml_truth_done();
    (void)since; /* there is one sample a process, the latest */
    *count = made;
    if (!out)
        return made ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_ERROR_NOT_FOUND;
    return made ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

/* A tenth of the limit when idle, and with the load up to all of it. */
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
    ENTER(device, milliwatts);
    unsigned limit = sim_nvml_config(physical)->power_watts * 1000;
    *milliwatts = limit / 10 + (unsigned)((uint64_t)limit * 9 / 10 * busy_permille(physical) / 1000);
    return NVML_SUCCESS;
}

static nvmlReturn_t read_temperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor,
                                     unsigned int *degrees) {
    ENTER(device, degrees);
    if (sensor != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    *degrees = 30 + 45 * busy_permille(physical) / 1000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor,
                                      unsigned int *degrees) {
    return read_temperature(device, sensor, degrees);
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature) {
    ENTER(device, temperature);
    if (temperature->version != nvmlTemperature_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    unsigned degrees = 0;
    nvmlReturn_t result = read_temperature(device, temperature->sensorType, &degrees);
    temperature->temperature = (int)degrees;
    return result;
}

nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *state) {
    ENTER(device, state);
    *state = NVML_PSTATE_0;
    return NVML_SUCCESS;
}
