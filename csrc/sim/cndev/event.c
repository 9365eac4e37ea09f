/* Events: who waits for faults of which devices. They are injected from outside (state_fault.c). */
#include "cndev_sim.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct cndevEventHandle_st {
    pthread_mutex_t lock;                       /* several threads may wait with one handle */
    uint32_t next;                              /* fault that was not looked at yet */
    unsigned long long wanted[SIM_DEVICES_MAX]; /* by number on the node */
};

cndevRet_t cndevGetSupportedEventTypes(unsigned long long *types, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, types);
    if (look.device)
        *types = cndevEventTypeXidError;
    return look.result;
}

cndevRet_t cndevEventHandleCreate(cndevEventHandle *out) {
    SIM_LOOK look = sim_look(__func__, out);
    if (!look.state)
        return look.result;
    cndevEventHandle handle = calloc(1, sizeof *handle);
    if (!handle)
        return CNDEV_ERROR_MALLOC;
    pthread_mutex_init(&handle->lock, NULL);
    /* Acquire: pairs with the release in sim_state_inject. What was before is nobody's event. */
    handle->next = atomic_load_explicit(&look.state->header->fault_count, memory_order_acquire);
    *out = handle;
    return CNDEV_SUCCESS;
}

cndevRet_t cndevEventHandleDestroy(cndevEventHandle handle) {
    SIM_LOOK look = sim_look(__func__, handle);
    if (!look.state)
        return look.result;
    pthread_mutex_destroy(&handle->lock);
    free(handle);
    return CNDEV_SUCCESS;
}

cndevRet_t cndevRegisterEvents(cndevEventHandle handle, unsigned long long types,
                               cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, handle);
    if (!look.device)
        return look.result;
    pthread_mutex_lock(&handle->lock);
    handle->wanted[look.number] |= types;
    pthread_mutex_unlock(&handle->lock);
    return CNDEV_SUCCESS;
}

/* The next fault that is waited for. False when there is none yet: `*seen` faults there were. */
static bool take_fault(const struct sim_look *look, cndevEventHandle handle,
                       struct sim_fault *fault, uint32_t *seen) {
    struct sim_state_header *header = look->state->header;
    bool found = false;
    pthread_mutex_lock(&handle->lock);
    /* Under the lock, so that none is overwritten while it is read. */
    sim_lock_take(look->state, &header->table_lock);
    *seen = atomic_load_explicit(&header->fault_count, memory_order_relaxed);
    if (*seen - handle->next > SIM_FAULTS_MAX)
        handle->next = *seen - SIM_FAULTS_MAX; /* the oldest are lost */
    while (!found && handle->next != *seen) {
        *fault = header->faults[handle->next++ % SIM_FAULTS_MAX];
        found = fault->device < SIM_DEVICES_MAX && !fault->cleared &&
                (handle->wanted[fault->device] & cndevEventTypeXidError);
    }
    sim_lock_drop(look->state, &header->table_lock);
    pthread_mutex_unlock(&handle->lock);
    return found;
}

/* Looks once. `*word` is what to sleep on while it is `*seen`; NULL when that is of no use. */
static cndevRet_t look_for_event(cndevEventHandle handle, cndevEventData_t *event,
                                 _Atomic uint32_t **word, uint32_t *seen) {
    SIM_LOOK look = sim_look("cndevEventWait", event);
    struct sim_fault fault;
    *word = NULL;
    if (!look.state || !sim_speaks(&look, (int32_t)event->version))
        return look.result;
    if (!handle)
        return CNDEV_ERROR_INVALID_ARGUMENT;
    if (!take_fault(&look, handle, &fault, seen)) {
        *word = &look.state->header->fault_count;
        return CNDEV_ERROR_TIMEOUT;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *event = (cndevEventData_t){
        .version = event->version,
        .device = (int32_t)sim_session_index(fault.device),
        .eventData = fault.code,
        .eventType = cndevEventTypeXidError,
        .timestamp = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000,
        .computeInstanceId = UINT32_MAX,
        .mluInstanceId = UINT32_MAX,
    };
    return CNDEV_SUCCESS;
}

/* `timeout`: milliseconds; -1 is without end. */
cndevRet_t cndevEventWait(cndevEventHandle handle, cndevEventData_t *event, int32_t timeout) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout / 1000;
    end.tv_nsec += (long)(timeout % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_nsec -= 1000000000;
        end.tv_sec++;
    }
    for (bool over = timeout == 0;;) {
        _Atomic uint32_t *word;
        uint32_t seen;
        cndevRet_t result = look_for_event(handle, event, &word, &seen);
        if (!word || over)
            return result;
        /* The node may be released meanwhile, which wakes us, or makes the word's address none: the
         * next look tells. */
        over = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, timeout < 0 ? NULL : &end, NULL,
                       FUTEX_BITSET_MATCH_ANY) != 0 &&
               errno == ETIMEDOUT;
    }
}

cndevRet_t cndevInjectEventError(uint64_t event, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, "");
    struct sim_fault fault = {.device = look.number, .code = (uint32_t)event};
    if (look.device)
        sim_state_inject(look.state, &fault);
    return look.result;
}
