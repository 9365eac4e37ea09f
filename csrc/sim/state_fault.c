/* Faults that are injected from outside, and those that stand. */
#include "state_private.h"

#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Keeps the list of a device's standing faults. NVIDIA's are told once, and stand nowhere. */
static void stand(struct sim_state *state, const struct sim_fault *fault) {
    struct sim_device_state *device = &state->header->devices[fault->device];
    if (state->node->devices[fault->device].vendor == SIM_VENDOR_NVIDIA)
        return;
    uint32_t at = 0;
    while (at < device->standing_count && device->standing[at].code != fault->code)
        at++;
    if (!fault->cleared) {
        if (at == SIM_STANDING_MAX)
            return;
        device->standing[at] = *fault;
        if (at == device->standing_count)
            device->standing_count++;
    } else if (at < device->standing_count) {
        device->standing[at] = device->standing[device->standing_count - 1];
        device->standing_count--;
    }
}

void sim_state_inject(struct sim_state *state, const struct sim_fault *fault) {
    struct sim_state_header *header = state->header;
    sim_lock_take(state, &header->table_lock);
    stand(state, fault);
    uint32_t count = atomic_load_explicit(&header->fault_count, memory_order_relaxed);
    header->faults[count % SIM_FAULTS_MAX] = *fault;
    /* release: who sees the count sees the fault. */
    atomic_store_explicit(&header->fault_count, count + 1, memory_order_release);
    sim_lock_drop(state, &header->table_lock);
    syscall(SYS_futex, &header->fault_count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

uint32_t sim_state_standing(struct sim_state *state, uint32_t device,
                            struct sim_fault out[SIM_STANDING_MAX]) {
    struct sim_device_state *shared = &state->header->devices[device];
    sim_lock_take(state, &state->header->table_lock);
    uint32_t count = shared->standing_count;
    memcpy(out, shared->standing, count * sizeof *out);
    sim_lock_drop(state, &state->header->table_lock);
    return count;
}
