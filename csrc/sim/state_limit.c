/* Limits of a device's memory for the processes of a cgroup, as drivers since 615 have them: with
 * books of the driver's own (its `misc` backend), in which a group's limit is about the processes in
 * that group and not about those below it.
 *
 * A cgroup is told by the number that the kernel gives its directory in the version 2 file system,
 * which is the same from every mount, and not given again.
 */
#include "state_private.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

int sim_cgroup_id(const char *path, uint64_t *id) {
    struct statfs system;
    struct stat status;
    if (statfs(path, &system) != 0 || stat(path, &status) != 0)
        return errno;
    if ((uint64_t)system.f_type != CGROUP2_SUPER_MAGIC)
        return EINVAL;
    if (!S_ISDIR(status.st_mode))
        return ENOTDIR;
    *id = (uint64_t)status.st_ino;
    return 0;
}

uint64_t sim_own_cgroup(void) {
    char line[4096], path[4200];
    uint64_t id = 0;
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "0::/", 4) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s", line + 3);
        if (sim_cgroup_id(path, &id) != 0)
            id = 0;
    }
    if (file)
        fclose(file);
    return id;
}

/* Under the device's lock. NULL: the group has no limit. */
static struct sim_limit *find(struct sim_state *state, uint32_t device, uint64_t cgroup) {
    struct sim_device_state *shared = &state->header->devices[device];
    for (uint32_t l = 0; cgroup && l < shared->limit_high; l++)
        if (shared->limits[l].cgroup == cgroup)
            return &shared->limits[l];
    return NULL;
}

/* Under the device's lock: bytes that count for the group. */
static uint64_t used_by(struct sim_state *state, uint32_t device, uint64_t cgroup) {
    struct sim_state_header *header = state->header;
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    uint64_t frames = 0;
    for (uint32_t s = 0; s < high; s++) {
        const struct sim_slot *slot = &header->slots[s];
        if (sim_slot_status_of(sim_slot_status(state, s)) == SIM_SLOT_FREE ||
            slot->cgroup != cgroup)
            continue;
        uint64_t held = atomic_load_explicit(&slot->frames[device], memory_order_relaxed);
        uint64_t managed = atomic_load_explicit(&slot->managed[device], memory_order_relaxed);
        frames += held > managed ? held - managed : 0;
    }
    return frames * state->node->devices[device].page_size;
}

static bool read_limit(struct sim_state *state, uint32_t device, uint64_t cgroup,
                       struct sim_limit *limit, uint64_t *used) {
    const struct sim_limit *found = find(state, device, cgroup);
    if (!found)
        return false;
    *limit = *found;
    *used = used_by(state, device, cgroup);
    return true;
}

bool sim_limit_read(struct sim_state *state, uint32_t device, uint64_t cgroup,
                    struct sim_limit *limit, uint64_t *used) {
    sim_device_lock(state, device);
    bool found = read_limit(state, device, cgroup, limit, used);
    sim_device_unlock(state, device);
    return found;
}

bool sim_limit_own(struct sim_state *state, uint32_t device, struct sim_limit *limit,
                   uint64_t *used) {
    uint64_t cgroup = state->header->slots[state->slot].cgroup;
    return cgroup && sim_limit_read(state, device, cgroup, limit, used) &&
           limit->hard != SIM_LIMIT_NONE;
}

uint64_t sim_limit_room(struct sim_state *state, uint32_t device) {
    struct sim_limit limit;
    uint64_t used;
    uint64_t cgroup = state->header->slots[state->slot].cgroup;
    if (!cgroup || !read_limit(state, device, cgroup, &limit, &used) ||
        limit.hard == SIM_LIMIT_NONE)
        return UINT64_MAX;
    return limit.hard > used ? (limit.hard - used) / state->node->devices[device].page_size : 0;
}

bool sim_limit_set(struct sim_state *state, uint32_t device, const struct sim_limit *wanted) {
    struct sim_device_state *shared = &state->header->devices[device];
    bool clears = !wanted->soft && wanted->hard == SIM_LIMIT_NONE;
    sim_device_lock(state, device);
    struct sim_limit *limit = find(state, device, wanted->cgroup);
    for (uint32_t l = 0; !limit && !clears && l < SIM_LIMITS_MAX; l++)
        if (l >= shared->limit_high || !shared->limits[l].cgroup)
            limit = &shared->limits[l];
    if (limit) {
        limit->soft = wanted->soft;
        limit->hard = wanted->hard;
        /* Last: killed before, we have set nothing; and only then is it looked at. */
        atomic_signal_fence(memory_order_release);
        limit->cgroup = clears ? 0 : wanted->cgroup;
        uint32_t next = (uint32_t)(limit - shared->limits) + 1;
        if (next > shared->limit_high)
            shared->limit_high = next;
    }
    sim_device_unlock(state, device);
    return limit || clears;
}
