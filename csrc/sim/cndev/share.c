/* sMLU as far as it is published. What is not: that instances together have no more than all of a
 * device, and that a limit may be set below what is held. Quotas of device time are kept and told;
 * the device's turns do not follow them.
 */
#include "share.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* ---- Under the device's lock ---------------------------------------------------------------- */

static struct sim_mlu *mlu_of(const struct sim_look *look) {
    return &look->state->header->devices[look->number].mlu;
}

static uint64_t usable(const struct sim_look *look) {
    return look->device->memory - look->device->reserved;
}

static bool is_mim(const struct sim_look *look) {
    return atomic_load_explicit(&mlu_of(look)->mim, memory_order_relaxed) != 0;
}

/* Of shares. The hardware's instances are beside none. */
static bool is_off(const struct sim_look *look) {
    return is_mim(look) || atomic_load_explicit(&mlu_of(look)->no_smlu, memory_order_relaxed) != 0;
}

static bool is_share(const struct sim_look *look, uint32_t quota, uint64_t bytes) {
    return quota >= 1 && quota <= 100 && bytes && bytes <= usable(look);
}

static bool has_profile(const struct sim_look *look, uint32_t profile) {
    return profile < SIM_MLU_PROFILES_MAX && mlu_of(look)->profiles[profile].exists;
}

static struct sim_partition *find(const struct sim_look *look, uint32_t id) {
    return sim_partition_find(look->state, look->number, id);
}

/* What is left beside all instances but one (NULL: beside all). */
static void measure(const struct sim_look *look, const struct sim_partition *but, uint32_t *quota,
                    uint64_t *bytes) {
    struct sim_partition sum;
    (void)sim_partition_sum(look->state, look->number, &sum);
    *quota = 100 - sum.cores + (but ? but->cores : 0);
    *bytes = usable(look) - sum.memory + (but ? but->memory : 0);
}

/* ---- Profiles ------------------------------------------------------------------------------- */

static cndevRet_t make_profile(const struct sim_look *look, uint32_t quota, uint64_t bytes,
                               int32_t *profile) {
    struct sim_mlu_profile *all = mlu_of(look)->profiles;
    uint32_t unused = SIM_MLU_PROFILES_MAX;
    if (is_off(look))
        return CNDEV_ERROR_NOT_SUPPORTED;
    if (!is_share(look, quota, bytes))
        return CNDEV_ERROR_INVALID_ARGUMENT;
    for (uint32_t p = SIM_MLU_PROFILES_MAX; p-- > 0;) {
        if (!all[p].exists)
            unused = p;
        else if (all[p].quota == quota && all[p].bytes == bytes)
            return *profile = (int32_t)p, CNDEV_SUCCESS;
    }
    if (unused == SIM_MLU_PROFILES_MAX)
        return CNDEV_ERROR_INSUFFICIENT_SPACE;
    all[unused] = (struct sim_mlu_profile){.exists = 1, .quota = quota, .bytes = bytes};
    *profile = (int32_t)unused;
    return CNDEV_SUCCESS;
}

cndevRet_t sim_profile_make(const struct sim_look *look, uint32_t quota, uint64_t bytes,
                            int32_t *profile) {
    sim_device_lock(look->state, look->number);
    cndevRet_t result = make_profile(look, quota, bytes, profile);
    sim_device_unlock(look->state, look->number);
    return result;
}

static bool in_use(const struct sim_look *look, uint32_t profile) {
    for (uint32_t id = 1; id <= SIM_SHARE_IDS; id++) {
        const struct sim_partition *instance = find(look, id);
        if (instance && instance->kind == profile)
            return true;
    }
    return false;
}

cndevRet_t sim_profile_drop(const struct sim_look *look, int32_t profile) {
    uint32_t number = (uint32_t)profile;
    sim_device_lock(look->state, look->number);
    cndevRet_t result = is_off(look)                 ? CNDEV_ERROR_NOT_SUPPORTED
                        : !has_profile(look, number) ? CNDEV_ERROR_NOT_FOUND
                        : in_use(look, number)       ? CNDEV_ERROR_IN_USE
                                                     : CNDEV_SUCCESS;
    if (result == CNDEV_SUCCESS)
        mlu_of(look)->profiles[number].exists = 0;
    sim_device_unlock(look->state, look->number);
    return result;
}

static uint32_t fits(const struct sim_mlu_profile *profile, uint32_t quota, uint64_t bytes) {
    uint64_t by_bytes = bytes / profile->bytes, by_quota = quota / profile->quota;
    return (uint32_t)(by_bytes < by_quota ? by_bytes : by_quota);
}

cndevRet_t sim_profile_read(const struct sim_look *look, int32_t profile,
                            struct sim_mlu_profile *out, uint32_t *total, uint32_t *remain) {
    sim_device_lock(look->state, look->number);
    cndevRet_t result = is_off(look)                            ? CNDEV_ERROR_NOT_SUPPORTED
                        : !has_profile(look, (uint32_t)profile) ? CNDEV_ERROR_NOT_FOUND
                                                                : CNDEV_SUCCESS;
    if (result == CNDEV_SUCCESS) {
        uint32_t quota;
        uint64_t bytes;
        *out = mlu_of(look)->profiles[profile];
        *total = fits(out, 100, usable(look));
        measure(look, NULL, &quota, &bytes);
        *remain = fits(out, quota, bytes);
    }
    sim_device_unlock(look->state, look->number);
    return result;
}

/* ---- Instances ------------------------------------------------------------------------------ */

enum { PLACE = SIM_PATH_MAX + SIM_PARTITION_FILE };

/* Where an instance's device file lies: among the node's own files (`aliquot sim --files`), without
 * which there is none. Never in this machine's /dev. */
static void place(const struct sim_look *look, uint32_t id, char path[PLACE]) {
    snprintf(path, SIM_PATH_MAX, "%s/root", look->state->directory);
    sim_partition_file(look->state->node, look->number, id, path + strlen(path));
}

/* A null device: it can be opened, and that is all that is asked of it. Without the rights to make
 * one there is none, and no container either. */
static void make_file(const struct sim_look *look, uint32_t id) {
    char path[PLACE];
    place(look, id, path);
    char *name = strrchr(path, '/');
    *name = 0;
    (void)mkdir(path, 0755);
    *name = '/';
    if (mknod(path, S_IFCHR | 0666, makedev(1, 3)) == 0)
        (void)chmod(path, 0666); /* whatever the umask */
}

static void remove_file(const struct sim_look *look, uint32_t id) {
    char path[PLACE];
    place(look, id, path);
    (void)unlink(path);
    *strrchr(path, '/') = 0;
    (void)rmdir(path); /* unless there are others */
}

static cndevRet_t create(const struct sim_look *look, uint32_t profile, const char *name,
                         uint32_t *id) {
    uint32_t quota, unused = 0;
    uint64_t bytes;
    if (is_off(look))
        return CNDEV_ERROR_NOT_SUPPORTED;
    if (!has_profile(look, profile))
        return CNDEV_ERROR_NOT_FOUND;
    for (uint32_t i = SIM_SHARE_IDS; i > 0; i--) {
        const struct sim_partition *other = find(look, i);
        if (!other)
            unused = i;
        else if (strcmp(other->name, name) == 0)
            return CNDEV_ERROR_DUPLICATE;
    }
    const struct sim_mlu_profile *shape = &mlu_of(look)->profiles[profile];
    measure(look, NULL, &quota, &bytes);
    if (!unused || shape->quota > quota || shape->bytes > bytes)
        return CNDEV_ERROR_INSUFFICIENT_SPACE;
    struct sim_partition made = {
        .id = unused, .kind = profile, .cores = shape->quota, .memory = shape->bytes};
    if (getrandom(made.detail, sizeof made.detail, 0) != (ssize_t)sizeof made.detail)
        return CNDEV_ERROR_UNKNOWN;
    if (*name)
        snprintf(made.name, sizeof made.name, "%s", name);
    else
        snprintf(made.name, sizeof made.name, "smlu%u", unused);
    *id = unused;
    return sim_partition_add(look->state, look->number, &made) ? CNDEV_SUCCESS
                                                               : CNDEV_ERROR_INSUFFICIENT_SPACE;
}

cndevRet_t sim_share_create(const struct sim_look *look, uint32_t profile, const char *name,
                            uint32_t *id) {
    if (strlen(name) >= sizeof((struct sim_partition *)0)->name)
        return CNDEV_ERROR_INVALID_ARGUMENT;
    sim_device_lock(look->state, look->number);
    cndevRet_t result = create(look, profile, name, id);
    if (result == CNDEV_SUCCESS)
        make_file(look, *id);
    sim_device_unlock(look->state, look->number);
    return result;
}

cndevRet_t sim_share_destroy(const struct sim_look *look, uint32_t id) {
    sim_state_sweep(look->state, true);
    sim_device_lock(look->state, look->number);
    cndevRet_t result = is_off(look)      ? CNDEV_ERROR_NOT_SUPPORTED
                        : !find(look, id) ? CNDEV_ERROR_NOT_FOUND
                        : sim_partition_held(look->state, look->number, id) ? CNDEV_ERROR_IN_USE
                                                                            : CNDEV_SUCCESS;
    if (result == CNDEV_SUCCESS) {
        sim_partition_expel(look->state, look->number, id);
        remove_file(look, id);
        (void)sim_partition_remove(look->state, look->number, id);
    }
    sim_device_unlock(look->state, look->number);
    return result;
}

static cndevRet_t update(const struct sim_look *look, uint32_t id, uint32_t quota, uint64_t bytes) {
    struct sim_partition *found = find(look, id);
    uint32_t quota_left;
    uint64_t bytes_left;
    if (is_off(look))
        return CNDEV_ERROR_NOT_SUPPORTED;
    if (!found)
        return CNDEV_ERROR_NOT_FOUND;
    if (!is_share(look, quota, bytes))
        return CNDEV_ERROR_INVALID_ARGUMENT;
    measure(look, found, &quota_left, &bytes_left);
    if (quota > quota_left || bytes > bytes_left)
        return CNDEV_ERROR_INSUFFICIENT_SPACE;
    found->cores = quota;
    found->memory = bytes;
    return CNDEV_SUCCESS;
}

cndevRet_t sim_share_update(const struct sim_look *look, uint32_t id, uint32_t quota,
                            uint64_t bytes) {
    sim_device_lock(look->state, look->number);
    cndevRet_t result = update(look, id, quota, bytes);
    sim_device_unlock(look->state, look->number);
    return result;
}

/* Of a share, or of an instance of the hardware's. */
static cndevRet_t read_partition(const struct sim_look *look, uint32_t id, bool mim,
                                 struct sim_share_info *out) {
    sim_state_sweep(look->state, true);
    sim_device_lock(look->state, look->number);
    const struct sim_partition *found = find(look, id);
    bool off = mim ? !is_mim(look) : is_off(look);
    cndevRet_t result = off     ? CNDEV_ERROR_NOT_SUPPORTED
                        : found ? CNDEV_SUCCESS
                                : CNDEV_ERROR_NOT_FOUND;
    if (result == CNDEV_SUCCESS) {
        *out = (struct sim_share_info){.id = id,
                                       .profile = found->kind,
                                       .quota = found->cores,
                                       .bytes = found->memory,
                                       .used = sim_partition_held(look->state, look->number, id)};
        memcpy(out->uuid, found->detail, sizeof found->detail);
        memcpy(out->uuid + sizeof found->detail, &id, sizeof id);
        memcpy(out->name, found->name, sizeof out->name);
    }
    sim_device_unlock(look->state, look->number);
    if (result == CNDEV_SUCCESS) {
        sim_partition_file(look->state->node, look->number, id, out->file);
        out->permille = sim_partition_permille(look->state, look->number, id);
    }
    return result;
}

cndevRet_t sim_share_read(const struct sim_look *look, uint32_t id, struct sim_share_info *out) {
    return read_partition(look, id, false, out);
}

cndevRet_t sim_instance_read(const struct sim_look *look, uint32_t id, struct sim_share_info *out) {
    return read_partition(look, id, true, out);
}

static cndevRet_t switch_to(const struct sim_look *look, _Atomic uint32_t *what, uint32_t value) {
    struct sim_partition sum;
    sim_device_lock(look->state, look->number);
    bool busy = atomic_load_explicit(what, memory_order_relaxed) != value &&
                sim_partition_sum(look->state, look->number, &sum);
    if (!busy)
        atomic_store_explicit(what, value, memory_order_relaxed);
    sim_device_unlock(look->state, look->number);
    return busy ? CNDEV_ERROR_IN_USE : CNDEV_SUCCESS;
}

cndevRet_t sim_share_switch(const struct sim_look *look, bool on) {
    return is_mim(look) ? CNDEV_ERROR_NOT_SUPPORTED : switch_to(look, &mlu_of(look)->no_smlu, !on);
}

bool sim_mim_is_on(const struct sim_look *look) { return is_mim(look); }

cndevRet_t sim_mim_switch(const struct sim_look *look, bool on) {
    return switch_to(look, &mlu_of(look)->mim, on);
}

uint32_t sim_instance_cores(const struct sim_look *look, const struct sim_share_info *instance,
                            uint32_t *first) {
    struct sim_share_info before;
    *first = 0;
    for (uint32_t i = 1; i < instance->id; i++)
        if (sim_instance_read(look, i, &before) == CNDEV_SUCCESS)
            *first += look->device->sms * before.quota / 100;
    return look->device->sms * instance->quota / 100;
}

/* ---- Instances of either kind ------------------------------------------------------------------- */

struct sim_look sim_look_at_instance(const char *function, cndevMluInstance_t handle,
                                     const void *out, uint32_t *instance) {
    *instance = (uint32_t)handle >> 8;
    return sim_look_at(function, handle & 0xff, out);
}

cndevRet_t sim_list_instances(const struct sim_look *look, int32_t *count, void *rows, size_t row,
                              sim_tell_instance *tell) {
    _Alignas(16) uint8_t one[SIM_INSTANCE_BYTES];
    int32_t found = 0;
    for (uint32_t i = 1; i <= SIM_SHARE_IDS; i++) {
        cndevRet_t result = tell(look, i, one);
        if (result == CNDEV_ERROR_NOT_FOUND)
            continue;
        if (result != CNDEV_SUCCESS)
            return result;
        if (found < *count)
            memcpy((uint8_t *)rows + (size_t)found * row, one, row);
        found++;
    }
    bool fits = found <= *count;
    *count = found;
    return fits ? CNDEV_SUCCESS : CNDEV_ERROR_INSUFFICIENT_SPACE;
}
