/* Shares of Cambricon's devices that their driver enforces (sMLU): profiles say how large they are,
 * instances are what processes belong to.
 *
 * As far as it is published. What is not: that together they have no more than all of a device, and
 * that a limit may be set below what is held. Quotas of device time are kept and told; the device's
 * turns do not follow them.
 */
#include "state_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static const char node_folder[] = "/dev/cambricon-caps";

/* ---- Under the device's lock ---------------------------------------------------------------- */

static struct sim_mlu *mlu_of(struct sim_state *state, uint32_t device) {
    return &state->header->devices[device].mlu;
}

static uint64_t usable(const struct sim_state *state, uint32_t device) {
    const struct sim_device_config *config = &state->node->devices[device];
    return config->memory - config->reserved;
}

static struct sim_mlu_instance *find(struct sim_state *state, uint32_t device, uint32_t instance) {
    struct sim_mlu *mlu = mlu_of(state, device);
    bool known = instance >= 1 && instance <= SIM_MLU_INSTANCES_MAX;
    return known && mlu->instances[instance - 1].exists ? &mlu->instances[instance - 1] : NULL;
}

/* What is left beside all instances but one (NULL: beside all). */
static void measure(struct sim_state *state, uint32_t device, const struct sim_mlu_instance *but,
                    uint32_t *quota, uint64_t *bytes) {
    const struct sim_mlu *mlu = mlu_of(state, device);
    *quota = 100;
    *bytes = usable(state, device);
    for (uint32_t i = 0; i < SIM_MLU_INSTANCES_MAX; i++) {
        if (!mlu->instances[i].exists || &mlu->instances[i] == but)
            continue;
        *quota -= mlu->instances[i].quota;
        *bytes -= mlu->instances[i].bytes;
    }
}

/* Bytes that the processes of an instance hold, the dead ones that are not cleared too. */
static uint64_t held_by(struct sim_state *state, uint32_t device, uint32_t instance) {
    struct sim_state_header *header = state->header;
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    uint64_t frames = 0;
    for (uint32_t s = 0; s < high; s++) {
        struct sim_slot *slot = &header->slots[s];
        if (sim_slot_status_of(sim_slot_status(state, s)) != SIM_SLOT_FREE &&
            atomic_load_explicit(&slot->instance[device], memory_order_relaxed) == instance)
            frames += atomic_load_explicit(&slot->frames[device], memory_order_relaxed);
    }
    return frames * state->node->devices[device].page_size;
}

uint64_t sim_mlu_room(struct sim_state *state, uint32_t device) {
    uint32_t own = atomic_load_explicit(&state->header->slots[state->slot].instance[device],
                                        memory_order_relaxed);
    if (!own)
        return UINT64_MAX;
    const struct sim_mlu_instance *instance = find(state, device, own);
    uint64_t held = held_by(state, device, own);
    if (!instance || instance->bytes <= held)
        return 0;
    return (instance->bytes - held) / state->node->devices[device].page_size;
}

static bool is_share(const struct sim_state *state, uint32_t device, uint32_t quota,
                     uint64_t bytes) {
    return quota >= 1 && quota <= 100 && bytes && bytes <= usable(state, device);
}

static bool is_off(struct sim_state *state, uint32_t device) {
    return atomic_load_explicit(&mlu_of(state, device)->no_smlu, memory_order_relaxed) != 0;
}

/* ---- Profiles ------------------------------------------------------------------------------- */

static enum sim_mlu_result make_profile(struct sim_state *state, uint32_t device, uint32_t quota,
                                        uint64_t bytes, uint32_t *profile) {
    struct sim_mlu *mlu = mlu_of(state, device);
    uint32_t free_one = SIM_MLU_PROFILES_MAX;
    if (is_off(state, device))
        return SIM_MLU_OFF;
    if (!is_share(state, device, quota, bytes))
        return SIM_MLU_INVALID;
    for (uint32_t p = SIM_MLU_PROFILES_MAX; p-- > 0;) {
        struct sim_mlu_profile *known = &mlu->profiles[p];
        if (!known->exists) {
            free_one = p;
        } else if (known->quota == quota && known->bytes == bytes) {
            *profile = p;
            return SIM_MLU_DONE;
        }
    }
    if (free_one == SIM_MLU_PROFILES_MAX)
        return SIM_MLU_NO_ROOM;
    mlu->profiles[free_one] = (struct sim_mlu_profile){.exists = 1, .quota = quota, .bytes = bytes};
    *profile = free_one;
    return SIM_MLU_DONE;
}

enum sim_mlu_result sim_mlu_make_profile(struct sim_state *state, uint32_t device, uint32_t quota,
                                         uint64_t bytes, uint32_t *profile) {
    sim_device_lock(state, device);
    enum sim_mlu_result result = make_profile(state, device, quota, bytes, profile);
    sim_device_unlock(state, device);
    return result;
}

static bool in_use(struct sim_state *state, uint32_t device, uint32_t profile) {
    const struct sim_mlu *mlu = mlu_of(state, device);
    for (uint32_t i = 0; i < SIM_MLU_INSTANCES_MAX; i++)
        if (mlu->instances[i].exists && mlu->instances[i].profile == profile)
            return true;
    return false;
}

static bool has_profile(struct sim_state *state, uint32_t device, uint32_t profile) {
    return profile < SIM_MLU_PROFILES_MAX && mlu_of(state, device)->profiles[profile].exists;
}

enum sim_mlu_result sim_mlu_drop_profile(struct sim_state *state, uint32_t device,
                                         uint32_t profile) {
    sim_device_lock(state, device);
    enum sim_mlu_result result = is_off(state, device)                  ? SIM_MLU_OFF
                                 : !has_profile(state, device, profile) ? SIM_MLU_NOT_THERE
                                 : in_use(state, device, profile)       ? SIM_MLU_BUSY
                                                                        : SIM_MLU_DONE;
    if (result == SIM_MLU_DONE)
        mlu_of(state, device)->profiles[profile].exists = 0;
    sim_device_unlock(state, device);
    return result;
}

static uint32_t fits(const struct sim_mlu_profile *profile, uint32_t quota, uint64_t bytes) {
    uint64_t by_bytes = bytes / profile->bytes, by_quota = quota / profile->quota;
    return (uint32_t)(by_bytes < by_quota ? by_bytes : by_quota);
}

enum sim_mlu_result sim_mlu_read_profile(struct sim_state *state, uint32_t device, uint32_t profile,
                                         struct sim_mlu_profile *out, uint32_t *total,
                                         uint32_t *remain) {
    sim_device_lock(state, device);
    enum sim_mlu_result result = is_off(state, device)                  ? SIM_MLU_OFF
                                 : !has_profile(state, device, profile) ? SIM_MLU_NOT_THERE
                                                                        : SIM_MLU_DONE;
    if (result == SIM_MLU_DONE) {
        uint32_t quota;
        uint64_t bytes;
        *out = mlu_of(state, device)->profiles[profile];
        *total = fits(out, 100, usable(state, device));
        measure(state, device, NULL, &quota, &bytes);
        *remain = fits(out, quota, bytes);
    }
    sim_device_unlock(state, device);
    return result;
}

/* ---- Instances ------------------------------------------------------------------------------ */

/* The driver's device file of an instance: a null device, which can be opened and no more. Without
 * the rights for it there is none, and no container either. */
static void make_node(const char *path) {
    (void)mkdir(node_folder, 0755);
    if (mknod(path, S_IFCHR | 0666, makedev(1, 3)) == 0)
        (void)chmod(path, 0666); /* whatever the umask */
}

/* Removes what make_node made: never a real driver's file. */
static void remove_node(const char *path) {
    struct stat status;
    if (lstat(path, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3))
        (void)unlink(path);
    (void)rmdir(node_folder); /* unless there are others */
}

static enum sim_mlu_result make(struct sim_state *state, uint32_t device, uint32_t profile,
                                const char *name, uint32_t *instance) {
    struct sim_mlu *mlu = mlu_of(state, device);
    uint32_t quota, at = SIM_MLU_INSTANCES_MAX;
    uint64_t bytes;
    if (is_off(state, device))
        return SIM_MLU_OFF;
    if (!has_profile(state, device, profile))
        return SIM_MLU_NOT_THERE;
    for (uint32_t i = SIM_MLU_INSTANCES_MAX; i-- > 0;) {
        if (!mlu->instances[i].exists)
            at = i;
        else if (strcmp(mlu->instances[i].name, name) == 0)
            return SIM_MLU_DUPLICATE;
    }
    const struct sim_mlu_profile *shape = &mlu->profiles[profile];
    measure(state, device, NULL, &quota, &bytes);
    if (at == SIM_MLU_INSTANCES_MAX || shape->quota > quota || shape->bytes > bytes)
        return SIM_MLU_NO_ROOM;
    struct sim_mlu_instance *made = &mlu->instances[at];
    *made =
        (struct sim_mlu_instance){.profile = profile, .quota = shape->quota, .bytes = shape->bytes};
    if (getrandom(made->uuid, sizeof made->uuid, 0) != (ssize_t)sizeof made->uuid)
        return SIM_MLU_NO_ROOM;
    *instance = at + 1;
    uint32_t minor = sim_node_minor(state->node, device);
    if (*name)
        snprintf(made->name, sizeof made->name, "%s", name);
    else
        snprintf(made->name, sizeof made->name, "mlu%u_smlu%u", minor, *instance);
    snprintf(made->node, sizeof made->node, "%s/cap_dev%u_mi%u", node_folder, minor, *instance);
    make_node(made->node);
    /* Last: killed before, we have made nothing. */
    atomic_signal_fence(memory_order_release);
    made->exists = 1;
    return SIM_MLU_DONE;
}

enum sim_mlu_result sim_mlu_make(struct sim_state *state, uint32_t device, uint32_t profile,
                                 const char *name, uint32_t *instance) {
    if (strlen(name) >= SIM_MLU_NAME)
        return SIM_MLU_INVALID;
    sim_device_lock(state, device);
    enum sim_mlu_result result = make(state, device, profile, name, instance);
    sim_device_unlock(state, device);
    return result;
}

enum sim_mlu_result sim_mlu_drop(struct sim_state *state, uint32_t device, uint32_t instance) {
    struct sim_state_header *header = state->header;
    sim_state_sweep(state, true);
    sim_device_lock(state, device);
    struct sim_mlu_instance *found = find(state, device, instance);
    enum sim_mlu_result result = is_off(state, device)              ? SIM_MLU_OFF
                                 : !found                           ? SIM_MLU_NOT_THERE
                                 : held_by(state, device, instance) ? SIM_MLU_BUSY
                                                                    : SIM_MLU_DONE;
    if (result == SIM_MLU_DONE) {
        /* Who was in it must not come to be in its number's next one, nor in none. */
        uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
        for (uint32_t s = 0; s < high; s++) {
            uint32_t was = instance;
            atomic_compare_exchange_strong_explicit(&header->slots[s].instance[device], &was,
                                                    SIM_MLU_GONE, memory_order_relaxed,
                                                    memory_order_relaxed);
        }
        remove_node(found->node);
        found->exists = 0;
    }
    sim_device_unlock(state, device);
    return result;
}

enum sim_mlu_result sim_mlu_update(struct sim_state *state, uint32_t device, uint32_t instance,
                                   uint32_t quota, uint64_t bytes) {
    enum sim_mlu_result result = SIM_MLU_DONE;
    uint32_t quota_left;
    uint64_t bytes_left;
    sim_device_lock(state, device);
    struct sim_mlu_instance *found = find(state, device, instance);
    measure(state, device, found, &quota_left, &bytes_left);
    if (is_off(state, device))
        result = SIM_MLU_OFF;
    else if (!found)
        result = SIM_MLU_NOT_THERE;
    else if (!is_share(state, device, quota, bytes))
        result = SIM_MLU_INVALID;
    else if (quota > quota_left || bytes > bytes_left)
        result = SIM_MLU_NO_ROOM;
    else
        found->quota = quota, found->bytes = bytes;
    sim_device_unlock(state, device);
    return result;
}

enum sim_mlu_result sim_mlu_read(struct sim_state *state, uint32_t device, uint32_t instance,
                                 struct sim_mlu_instance *out, uint64_t *used, uint32_t *permille) {
    struct sim_state_header *header = state->header;
    sim_state_sweep(state, true);
    sim_device_lock(state, device);
    const struct sim_mlu_instance *found = find(state, device, instance);
    enum sim_mlu_result result = is_off(state, device) ? SIM_MLU_OFF
                                 : found               ? SIM_MLU_DONE
                                                       : SIM_MLU_NOT_THERE;
    if (result == SIM_MLU_DONE) {
        *out = *found;
        *used = held_by(state, device, instance);
    }
    sim_device_unlock(state, device);
    *permille = 0;
    uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
    for (uint32_t s = 0; result == SIM_MLU_DONE && s < high; s++) {
        struct sim_usage usage;
        if (atomic_load_explicit(&header->slots[s].instance[device], memory_order_relaxed) !=
            instance)
            continue;
        sim_timeline_usage(&header->devices[device].timeline, s, sim_state_now(), 0, &usage);
        *permille += sim_usage_permille(usage.run_ns, &usage);
    }
    return result;
}

enum sim_mlu_result sim_mlu_switch(struct sim_state *state, uint32_t device, bool on) {
    enum sim_mlu_result result = SIM_MLU_DONE;
    struct sim_mlu *mlu = mlu_of(state, device);
    sim_device_lock(state, device);
    for (uint32_t i = 0; i < SIM_MLU_INSTANCES_MAX; i++)
        if (mlu->instances[i].exists && !on)
            result = SIM_MLU_BUSY;
    if (result == SIM_MLU_DONE)
        atomic_store_explicit(&mlu->no_smlu, !on, memory_order_relaxed);
    sim_device_unlock(state, device);
    return result;
}

/* ---- Who is in which ------------------------------------------------------------------------ */

void sim_mlu_enter(struct sim_state *state, uint32_t device, uint32_t instance) {
    sim_device_lock(state, device);
    atomic_store_explicit(&state->header->slots[state->slot].instance[device], instance,
                          memory_order_relaxed);
    sim_device_unlock(state, device);
}

void sim_mlu_join(struct sim_state *state) {
    bool by_file;
    (void)sim_node_folder(&by_file);
    for (uint32_t d = 0; by_file && d < state->node->device_count; d++) {
        if (state->node->devices[d].vendor != SIM_VENDOR_CAMBRICON)
            continue;
        const struct sim_mlu *mlu = mlu_of(state, d);
        uint32_t own = 0;
        sim_device_lock(state, d);
        for (uint32_t i = 0; i < SIM_MLU_INSTANCES_MAX && !own; i++) {
            int descriptor = mlu->instances[i].exists
                                 ? open(mlu->instances[i].node, O_RDWR | O_CLOEXEC | O_NOCTTY)
                                 : -1;
            if (descriptor < 0)
                continue;
            close(descriptor);
            own = i + 1;
        }
        sim_device_unlock(state, d);
        if (own)
            sim_mlu_enter(state, d, own);
    }
}
