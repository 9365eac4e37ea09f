/* Event sets: who waits for faults of which devices. They are injected from outside (state_fault.c). */
#include "nvml_sim.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct nvmlEventSet_st {
    pthread_mutex_t lock;                       /* several threads may wait on one set */
    uint32_t next;                              /* fault that was not looked at yet */
    unsigned long long wanted[SIM_DEVICES_MAX]; /* by number on the node */
};

/* Only the first of them ever happens. */
static const unsigned long long supported =
    nvmlEventTypeXidCriticalError | nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError;

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
    SIM_LOOK look = sim_look_at(device, types);
    if (look.device)
        *types = supported;
    return look.result;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out) {
    SIM_LOOK look = sim_look(out);
    if (!look.state)
        return look.result;
    struct nvmlEventSet_st *set = calloc(1, sizeof *set);
    if (!set)
        return NVML_ERROR_MEMORY;
    pthread_mutex_init(&set->lock, NULL);
    /* Acquire: pairs with the release in sim_state_inject. What was before is nobody's event. */
    set->next = atomic_load_explicit(&look.state->header->fault_count, memory_order_acquire);
    *out = set;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    SIM_LOOK look = sim_look(set);
    if (!look.state)
        return look.result;
    pthread_mutex_destroy(&set->lock);
    free(set);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                      nvmlEventSet_t set) {
    SIM_LOOK look = sim_look_at(device, set);
    if (!look.device)
        return look.result;
    if (types & ~supported)
        return NVML_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&set->lock);
    set->wanted[look.number] |= types;
    pthread_mutex_unlock(&set->lock);
    return NVML_SUCCESS;
}

/* The next fault that the set waits for. False when there is none yet: `*seen` faults there were. */
static bool take_fault(const struct sim_look *look, nvmlEventSet_t set, struct sim_fault *fault,
                       uint32_t *seen) {
    struct sim_state_header *header = look->state->header;
    bool found = false;
    pthread_mutex_lock(&set->lock);
    /* Acquire: pairs with the release in sim_state_inject. */
    *seen = atomic_load_explicit(&header->fault_count, memory_order_acquire);
    if (*seen != set->next) {
        /* Under the lock, so that none is overwritten while it is read. */
        sim_lock_take(look->state, &header->table_lock);
        *seen = atomic_load_explicit(&header->fault_count, memory_order_relaxed);
        if (*seen - set->next > SIM_FAULTS_MAX)
            set->next = *seen - SIM_FAULTS_MAX; /* the oldest are lost */
        while (!found && set->next != *seen) {
            *fault = header->faults[set->next++ % SIM_FAULTS_MAX];
            found = fault->device < SIM_DEVICES_MAX &&
                    (set->wanted[fault->device] & nvmlEventTypeXidCriticalError);
        }
        sim_lock_drop(look->state, &header->table_lock);
    }
    pthread_mutex_unlock(&set->lock);
    return found;
}

static struct timespec end_of(unsigned int timeout_ms) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_nsec -= 1000000000;
        end.tv_sec++;
    }
    return end;
}

/* Looks once. `*word` is what to sleep on while it is `*seen`; NULL when that is of no use. */
static nvmlReturn_t look_for_event(nvmlEventSet_t set, nvmlEventData_t *data,
                                   _Atomic uint32_t **word, uint32_t *seen) {
    SIM_LOOK look = sim_look(data);
    struct sim_fault fault;
    *word = NULL;
    if (!look.state)
        return look.result;
    if (!set)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!take_fault(&look, set, &fault, seen)) {
        *word = &look.state->header->fault_count;
        return NVML_ERROR_TIMEOUT;
    }
    *data = (nvmlEventData_t){.device = sim_handle_of(fault.device),
                              .eventType = nvmlEventTypeXidCriticalError,
                              .eventData = fault.code,
                              .gpuInstanceId = 0xffffffff,
                              .computeInstanceId = 0xffffffff};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data,
                                 unsigned int timeout_ms) {
    struct timespec end = end_of(timeout_ms);
    for (bool over = false;;) {
        _Atomic uint32_t *word;
        uint32_t seen;
        nvmlReturn_t result = look_for_event(set, data, &word, &seen);
        if (!word || over)
            return result;
        /* An absolute time, unlike FUTEX_WAIT's. The node may be shut down meanwhile, which wakes
         * us, or makes the word's address none: the next look tells. */
        over = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, &end, NULL,
                       FUTEX_BITSET_MATCH_ANY) != 0 &&
               errno == ETIMEDOUT;
    }
}

/* The first version's structure ends before the instances of MIG. */
nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
    nvmlEventData_t full;
    if (!data)
        return nvmlEventSetWait_v2(set, NULL, timeout_ms);
    nvmlReturn_t result = nvmlEventSetWait_v2(set, &full, timeout_ms);
    if (result == NVML_SUCCESS)
        memcpy(data, &full, offsetof(nvmlEventData_t, gpuInstanceId));
    return result;
}
