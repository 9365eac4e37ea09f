/* Clearing up after processes that died and descriptors that were closed, and the truth. */
#include "state_private.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Everything of `slot` on one device. Returns whether frames came free. */
static bool clear_device(struct sim_state *state, uint32_t device, uint32_t slot) {
    sim_device_lock(state, device);
    bool freed = sim_shares_reap(state, device, slot);
    freed |= sim_frames_reap(state, device, slot) > 0;
    sim_device_unlock(state, device);
    sim_timeline_leave(&state->header->devices[device].timeline, slot);
    return freed;
}

void sim_slot_clear(struct sim_state *state, uint32_t slot) {
    /* Every lock is taken once, so the slot's number is in none of them when this is over. */
    for (uint32_t d = 0; d < state->node->device_count; d++)
        clear_device(state, d, slot);
    sim_lock_take(state, &state->header->table_lock);
    sim_shares_reap(state, SIM_DEVICES_MAX, slot);
    sim_lock_drop(state, &state->header->table_lock);
}

/* Frees what a dead slot held on the devices whose delay is over; the slot itself once that is so
 * of all. */
static bool clear_dead(struct sim_state *state, uint32_t index, uint64_t now) {
    struct sim_slot *slot = &state->header->slots[index];
    bool exiting = atomic_load_explicit(&slot->exiting, memory_order_relaxed) != 0;
    bool all = true, freed = false;
    for (uint32_t d = 0; d < state->node->device_count; d++) {
        /* Its work ends with it; only its memory stays for a while. */
        sim_timeline_leave(&state->header->devices[d].timeline, index);
        if (exiting || now - slot->dead_ns >= state->node->devices[d].release_delay_ns)
            freed |= clear_device(state, d, index);
        else
            all = false;
    }
    if (!all)
        return freed;
    sim_slot_clear(state, index);
    uint64_t status = atomic_load_explicit(&slot->status, memory_order_relaxed);
    /* Release pairs with the acquire in take_slot: the next holder finds nothing left over. */
    atomic_store_explicit(&slot->status, (status & ~UINT64_C(0xff)) | SIM_SLOT_FREE,
                          memory_order_release);
    return freed;
}

bool sim_state_sweep(struct sim_state *state, bool wait) {
    struct sim_state_header *header = state->header;
    if (wait)
        sim_lock_take(state, &header->sweep_lock);
    else if (!sim_lock_try(state, &header->sweep_lock))
        return false;
    bool freed = false;
    int descriptor = sim_state_open_file(state, "state", O_RDWR);
    uint64_t now = sim_state_now();
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    for (uint32_t s = 0; s < high && descriptor >= 0; s++) {
        struct sim_slot *slot = &header->slots[s];
        uint64_t status = sim_slot_status(state, s);
        if (s == state->slot || sim_slot_status_of(status) == SIM_SLOT_FREE)
            continue;
        if (sim_slot_status_of(status) == SIM_SLOT_LIVE) {
            if (sim_slot_locked(descriptor, s))
                continue;
            slot->dead_ns = now;
            /* Nobody else changes a live slot whose byte is unlocked: we hold the sweep lock. It
             * may have been freed by itself since: then the exchange fails. */
            if (!atomic_compare_exchange_strong_explicit(
                    &slot->status, &status, (status & ~UINT64_C(0xff)) | SIM_SLOT_DEAD,
                    memory_order_acq_rel, memory_order_relaxed))
                continue;
        }
        freed |= clear_dead(state, s, now);
    }
    if (descriptor >= 0)
        close(descriptor);
    if (sim_shares_orphaned(state)) {
        for (uint32_t d = 0; d < state->node->device_count; d++) {
            sim_device_lock(state, d);
            freed |= sim_shares_reap(state, d, SIM_SLOT_NONE);
            sim_device_unlock(state, d);
        }
        sim_lock_take(state, &header->table_lock);
        sim_shares_reap(state, SIM_DEVICES_MAX, SIM_SLOT_NONE);
        sim_lock_drop(state, &header->table_lock);
    }
    sim_lock_drop(state, &header->sweep_lock);
    return freed;
}

/* ---- Truth --------------------------------------------------------------------------------- */

static void read_device(struct sim_state *state, uint32_t device, struct sim_truth *truth,
                        const uint32_t *process_of) {
    struct sim_state_header *header = state->header;
    const struct sim_device_config *config = &state->node->devices[device];
    uint64_t page = config->page_size;
    sim_device_lock(state, device);
    truth->total_bytes[device] = config->memory - config->reserved;
    truth->reserved_bytes[device] = config->reserved;
    truth->free_bytes[device] =
        page * atomic_load_explicit(&header->devices[device].free_frames, memory_order_relaxed);
    for (uint32_t s = 0; s < SIM_SLOTS_MAX; s++)
        if (process_of[s] != SIM_SLOT_NONE)
            truth->processes[process_of[s]].bytes[device] =
                page * atomic_load_explicit(&header->slots[s].frames[device], memory_order_relaxed);
    for (uint32_t g = 0; g < truth->group_count; g++) {
        truth->groups[g].used_bytes[device] = page * header->groups[g].used[device];
        truth->groups[g].max_used_bytes[device] = page * header->groups[g].max[device];
    }
    sim_device_unlock(state, device);
    struct sim_timeline *timeline = &header->devices[device].timeline;
    uint64_t now_ns = sim_state_now();
    for (uint32_t s = 0; s < SIM_SLOTS_MAX; s++)
        if (process_of[s] != SIM_SLOT_NONE)
            truth->processes[process_of[s]].ran_ns[device] =
                sim_timeline_busy_ns(timeline, s, now_ns, NULL);
    struct sim_totals totals = sim_timeline_totals(timeline, now_ns);
    truth->busy_ns[device] = totals.busy_ns;
    truth->switched_ns[device] = totals.switched_ns;
}

void sim_state_truth(struct sim_state *state, struct sim_truth *truth) {
    struct sim_state_header *header = state->header;
    uint32_t process_of[SIM_SLOTS_MAX];
    sim_state_sweep(state, true);
    memset(truth, 0, sizeof *truth);
    truth->device_count = state->node->device_count;
    sim_lock_take(state, &header->table_lock);
    truth->group_count = header->group_count;
    for (uint32_t g = 0; g < truth->group_count; g++)
        memcpy(truth->groups[g].name, header->groups[g].name, SIM_GROUP_NAME);
    for (uint32_t s = 0; s < SIM_SLOTS_MAX; s++) {
        struct sim_slot *slot = &header->slots[s];
        enum sim_slot_status status = sim_slot_status_of(sim_slot_status(state, s));
        process_of[s] = SIM_SLOT_NONE;
        if (status == SIM_SLOT_FREE || s == state->slot)
            continue;
        process_of[s] = truth->process_count;
        struct sim_truth_process *process = &truth->processes[truth->process_count++];
        process->pid = slot->pid;
        process->slot = s;
        process->dead = status == SIM_SLOT_DEAD;
        memcpy(process->group, header->groups[slot->group].name, SIM_GROUP_NAME);
    }
    sim_lock_drop(state, &header->table_lock);
    for (uint32_t d = 0; d < truth->device_count; d++)
        read_device(state, d, truth, process_of);
}
