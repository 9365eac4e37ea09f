/* Who is in which partition of a device, and what its limit leaves.
 *
 * As with the real drivers, a container belongs to the partition whose device file it has. On the
 * node itself a process is in none, and has the whole device.
 */
#include "state_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

void sim_partition_file(const struct sim_node_config *node, uint32_t device, uint32_t id,
                        char path[SIM_PARTITION_FILE]) {
    path[0] = 0;
    if (node->devices[device].vendor == SIM_VENDOR_CAMBRICON)
        snprintf(path, SIM_PARTITION_FILE, "/dev/cambricon-caps/cap_dev%u_mi%u",
                 sim_node_minor(node, device), id);
    else if (node->devices[device].vendor == SIM_VENDOR_ASCEND)
        snprintf(path, SIM_PARTITION_FILE, "/dev/davinci%u", id);
}

/* ---- Under the device's lock ---------------------------------------------------------------- */

uint64_t sim_partition_held(struct sim_state *state, uint32_t device, uint32_t id) {
    struct sim_state_header *header = state->header;
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    uint64_t frames = 0;
    for (uint32_t s = 0; s < high; s++) {
        struct sim_slot *slot = &header->slots[s];
        if (sim_slot_status_of(sim_slot_status(state, s)) != SIM_SLOT_FREE &&
            atomic_load_explicit(&slot->partition[device], memory_order_relaxed) == id)
            frames += atomic_load_explicit(&slot->frames[device], memory_order_relaxed);
    }
    return frames * state->node->devices[device].page_size;
}

uint64_t sim_partition_room(struct sim_state *state, uint32_t device) {
    uint32_t own = atomic_load_explicit(&state->header->slots[state->slot].partition[device],
                                        memory_order_relaxed);
    if (!own)
        return UINT64_MAX;
    const struct sim_partition *partition =
        own == SIM_PARTITION_GONE ? NULL : sim_partition_find(state, device, own);
    uint64_t held = sim_partition_held(state, device, own);
    if (!partition || partition->memory <= held)
        return 0;
    return (partition->memory - held) / state->node->devices[device].page_size;
}

void sim_partition_expel(struct sim_state *state, uint32_t device, uint32_t id) {
    struct sim_state_header *header = state->header;
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    for (uint32_t s = 0; s < high; s++) {
        /* Who was in it must not come to be in its number's next one, nor in none. */
        uint32_t was = id;
        atomic_compare_exchange_strong_explicit(&header->slots[s].partition[device], &was,
                                                SIM_PARTITION_GONE, memory_order_relaxed,
                                                memory_order_relaxed);
    }
}

/* ---- Without it ------------------------------------------------------------------------------ */

uint32_t sim_partition_permille(struct sim_state *state, uint32_t device, uint32_t id) {
    struct sim_state_header *header = state->header;
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    uint64_t permille = 0;
    for (uint32_t s = 0; s < high; s++) {
        struct sim_usage usage;
        if (atomic_load_explicit(&header->slots[s].partition[device], memory_order_relaxed) != id)
            continue;
        sim_timeline_usage(&header->devices[device].timeline, s, sim_state_now(), 0, &usage);
        permille += usage.length_ns ? usage.run_ns * 1000 / usage.length_ns : 0;
    }
    return permille > 1000 ? 1000 : (uint32_t)permille;
}

void sim_partition_enter(struct sim_state *state, uint32_t device, uint32_t id) {
    sim_device_lock(state, device);
    atomic_store_explicit(&state->header->slots[state->slot].partition[device], id,
                          memory_order_relaxed);
    sim_device_unlock(state, device);
}

static bool openable(const char *path) {
    int descriptor = *path ? open(path, O_RDWR | O_CLOEXEC | O_NOCTTY) : -1;
    if (descriptor >= 0)
        close(descriptor);
    return descriptor >= 0;
}

void sim_partition_join(struct sim_state *state) {
    bool by_file;
    (void)sim_node_folder(&by_file);
    for (uint32_t d = 0; by_file && d < state->node->device_count; d++) {
        uint32_t own = 0;
        for (uint32_t p = 0; p < SIM_PARTITIONS_MAX && !own; p++) {
            char path[SIM_PARTITION_FILE];
            /* Acquire: pairs with the release that made it. */
            uint32_t id = atomic_load_explicit(&state->header->devices[d].partitions[p].id,
                                               memory_order_acquire);
            if (!id)
                continue;
            sim_partition_file(state->node, d, id, path);
            own = openable(path) ? id : 0;
        }
        if (own)
            sim_partition_enter(state, d, own);
    }
}
