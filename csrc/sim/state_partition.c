/* Partitions of devices. Whoever is killed in the middle of making one leaves nothing behind: its
 * id is written last. */
#include "state_private.h"

struct sim_partition *sim_partition_find(struct sim_state *state, uint32_t device, uint32_t id) {
    struct sim_partition *all = state->header->devices[device].partitions;
    for (uint32_t p = 0; id && p < SIM_PARTITIONS_MAX; p++)
        /* Relaxed, here and below: the lock orders. */
        if (atomic_load_explicit(&all[p].id, memory_order_relaxed) == id)
            return &all[p];
    return NULL;
}

bool sim_partition_add(struct sim_state *state, uint32_t device, const struct sim_partition *made) {
    struct sim_partition *all = state->header->devices[device].partitions;
    uint32_t id = atomic_load_explicit(&made->id, memory_order_relaxed);
    for (uint32_t p = 0; p < SIM_PARTITIONS_MAX; p++) {
        if (atomic_load_explicit(&all[p].id, memory_order_relaxed))
            continue;
        all[p].kind = made->kind;
        all[p].cores = made->cores;
        for (uint32_t n = 0; n < sizeof all[p].detail / sizeof *all[p].detail; n++)
            all[p].detail[n] = made->detail[n];
        all[p].memory = made->memory;
        for (uint32_t n = 0; n < sizeof all[p].name; n++)
            all[p].name[n] = made->name[n];
        /* Release: whoever takes the lock over from us, killed here, finds it whole or not. */
        atomic_store_explicit(&all[p].id, id, memory_order_release);
        return true;
    }
    return false;
}

bool sim_partition_remove(struct sim_state *state, uint32_t device, uint32_t id) {
    struct sim_partition *found = sim_partition_find(state, device, id);
    if (found)
        atomic_store_explicit(&found->id, 0, memory_order_release);
    return found != NULL;
}

uint32_t sim_partition_sum(struct sim_state *state, uint32_t device, struct sim_partition *sum) {
    const struct sim_partition *all = state->header->devices[device].partitions;
    uint32_t count = 0;
    *sum = (struct sim_partition){0};
    for (uint32_t p = 0; p < SIM_PARTITIONS_MAX; p++) {
        if (!atomic_load_explicit(&all[p].id, memory_order_relaxed))
            continue;
        count++;
        sum->cores += all[p].cores;
        sum->memory += all[p].memory;
        for (uint32_t n = 0; n < sizeof sum->detail / sizeof *sum->detail; n++)
            sum->detail[n] += all[p].detail[n];
    }
    return count;
}
