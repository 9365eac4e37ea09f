/* What a device reads now, for whichever vendor's library asks. */
#include "vendor.h"

#include <stdio.h>
#include <string.h>

uint64_t sim_free_bytes(struct sim_state *state, uint32_t device) {
    sim_state_sweep(state, true);
    sim_device_lock(state, device);
    uint64_t frames =
        atomic_load_explicit(&state->header->devices[device].free_frames, memory_order_relaxed);
    sim_device_unlock(state, device);
    return frames * state->node->devices[device].page_size;
}

struct sim_usage sim_device_usage(struct sim_state *state, uint32_t device) {
    struct sim_usage usage;
    sim_state_sweep(state, false); /* what the dead had queued is not run */
    sim_timeline_usage(&state->header->devices[device].timeline, SIM_TIMELINE_NONE, sim_state_now(),
                       0, &usage);
    return usage;
}

uint32_t sim_permille(uint64_t part_ns, const struct sim_usage *usage) {
    uint64_t permille = usage->length_ns ? part_ns * 1000 / usage->length_ns : 0;
    return permille > 1000 ? 1000 : (uint32_t)permille;
}

uint32_t sim_percent(uint64_t part_ns, const struct sim_usage *usage) {
    return (sim_permille(part_ns, usage) + 5) / 10;
}

uint32_t sim_power(struct sim_state *state, uint32_t device) {
    struct sim_usage usage = sim_device_usage(state, device);
    uint64_t limit = UINT64_C(1000) * state->node->devices[device].power_watts;
    return (uint32_t)(limit / 10 + limit * 9 / 10 * sim_permille(usage.run_ns, &usage) / 1000);
}

uint32_t sim_temperature(struct sim_state *state, uint32_t device) {
    enum { IDLE = 30, MORE = 45 };
    struct sim_usage usage = sim_device_usage(state, device);
    return IDLE + MORE * sim_permille(usage.run_ns, &usage) / 1000;
}

uint32_t sim_holders(struct sim_state *state, uint32_t device,
                     struct sim_holder out[SIM_SLOTS_MAX]) {
    struct sim_state_header *header = state->header;
    uint32_t found = 0, count = 0;
    sim_state_sweep(state, true);
    sim_device_lock(state, device);
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    for (uint32_t s = 0; s < high; s++) {
        uint64_t frames =
            atomic_load_explicit(&header->slots[s].frames[device], memory_order_relaxed);
        if (frames)
            out[found++] = (struct sim_holder){
                .slot = s, .bytes = frames * state->node->devices[device].page_size};
    }
    sim_device_unlock(state, device);
    for (uint32_t h = 0; h < found; h++) {
        struct sim_holder holder = out[h];
        holder.pid = (uint32_t)sim_slot_host_pid(state, holder.slot);
        if (holder.pid)
            out[count++] = holder;
    }
    return count;
}

static bool read_line(const char *path, char *text, size_t size) {
    FILE *file = fopen(path, "re");
    bool read = file && fgets(text, (int)size, file);
    if (file)
        fclose(file);
    if (read)
        text[strcspn(text, "\n")] = 0;
    return read && *text;
}

bool sim_cpu_list(const struct sim_device_config *device, char *text, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", device->numa_node);
    return (device->numa_node >= 0 && read_line(path, text, size)) ||
           read_line("/sys/devices/system/cpu/online", text, size);
}
