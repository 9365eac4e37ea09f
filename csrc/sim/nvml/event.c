/* Event sets: who waits for faults of which devices. Faults are injected from outside (state_pid.c). */
#include "nvml_sim.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct nvmlEventSet_st {
    uint32_t next; /* fault that was not looked at yet */
    unsigned long long wanted[SIM_DEVICES_MAX];
};

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
    ENTER(device, types);
    *types = nvmlEventTypeXidCriticalError | nvmlEventTypeSingleBitEccError |
             nvmlEventTypeDoubleBitEccError;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out) {
    struct sim_state *state = sim_nvml_state();
    if (!state)
        return NVML_ERROR_UNINITIALIZED;
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct nvmlEventSet_st *set = calloc(1, sizeof *set);
    if (!set)
        return NVML_ERROR_MEMORY;
    set->next = atomic_load_explicit(&state->header->fault_count, memory_order_acquire);
    *out = set;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    if (!set)
        return NVML_ERROR_INVALID_ARGUMENT;
    free(set);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                      nvmlEventSet_t set) {
    ENTER(device, set);
    unsigned long long supported = 0;
    nvmlDeviceGetSupportedEventTypes(device, &supported);
    if (types & ~supported)
        return NVML_ERROR_NOT_SUPPORTED;
    set->wanted[physical] |= types;
    return NVML_SUCCESS;
}

/* The next fault that the set waits for; false when there is none yet. */
static bool take_fault(struct sim_state *state, nvmlEventSet_t set, nvmlEventData_t *data) {
    /* acquire: pairs with the release in sim_state_inject. */
    uint32_t count = atomic_load_explicit(&state->header->fault_count, memory_order_acquire);
    if (count - set->next > SIM_FAULTS_MAX)
        set->next = count - SIM_FAULTS_MAX; /* the oldest are lost */
    while (set->next != count) {
        struct sim_fault fault = state->header->faults[set->next++ % SIM_FAULTS_MAX];
        if (fault.device >= SIM_DEVICES_MAX ||
            !(set->wanted[fault.device] & nvmlEventTypeXidCriticalError))
            continue;
        *data = (nvmlEventData_t){
            .device = sim_nvml_handle(fault.device),
            .eventType = nvmlEventTypeXidCriticalError,
            .eventData = fault.xid,
            .gpuInstanceId = 0xffffffff,
            .computeInstanceId = 0xffffffff,
        };
        return true;
    }
    return false;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data,
                                 unsigned int timeout_ms) {
    struct sim_state *state = sim_nvml_state();
    if (!state)
        return NVML_ERROR_UNINITIALIZED;
    if (!set || !data)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_nsec -= 1000000000;
        end.tv_sec++;
    }
    for (;;) {
        if (take_fault(state, set, data))
            return NVML_SUCCESS;
        /* An absolute time, unlike FUTEX_WAIT's. */
        if (syscall(SYS_futex, &state->header->fault_count, FUTEX_WAIT_BITSET, set->next, &end,
                    NULL, FUTEX_BITSET_MATCH_ANY) != 0 &&
            errno == ETIMEDOUT)
            return NVML_ERROR_TIMEOUT;
    }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
    return nvmlEventSetWait_v2(set, data, timeout_ms);
}
