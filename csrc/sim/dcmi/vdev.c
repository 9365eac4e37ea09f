/* vNPUs: partitions of a device by its chip's templates. They stay until they are destroyed. */
#include "dcmi_sim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { LOWEST = 100, ABOVE = 1124, STEP = 16 };

/* In `detail` of a partition. */
enum { CPUS, GROUP };

static const struct dcmi_template *template_of(const struct dcmi_chip *chip, const char *name) {
    size_t count = sizeof chip->templates / sizeof *chip->templates;
    for (size_t t = 0; t < count && chip->templates[t].name; t++)
        if (strncmp(chip->templates[t].name, name, 32) == 0)
            return &chip->templates[t];
    return NULL;
}

/* What is not cut off yet. Under the device's lock. */
static struct dcmi_template left_of(const struct dcmi_look *look, uint32_t *partitions) {
    struct sim_partition sum;
    *partitions = sim_partition_sum(look->state, look->number, &sum);
    return (struct dcmi_template){
        .memory_mb = (unsigned)(dcmi_memory_mb(look->device) - (sum.memory >> 20)),
        .cores = look->device->sms - sum.cores,
        .cpus = look->chip->cpus - sum.detail[CPUS],
    };
}

/* The device's own range of ids, and whether one is taken. */
static uint32_t first_id(const struct dcmi_look *look) { return LOWEST + STEP * dcmi_phy_id(look); }

/* The folder with the node's files, in which vNPUs have theirs (`aliquot sim --files`); -1: none. */
static int root_of(const struct dcmi_look *look) {
    char path[4200];
    snprintf(path, sizeof path, "%s/root", look->state->directory);
    return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void make_node(const struct dcmi_look *look, uint32_t id) {
    char path[64];
    int root = root_of(look);
    if (root < 0)
        return;
    snprintf(path, sizeof path, "dev/vdavinci%u", id);
    /* It can be opened, as the null device: that is all that is asked of it. */
    if (mknodat(root, path, S_IFCHR | 0666, makedev(1, 3)) == 0)
        (void)fchmodat(root, path, 0666, 0);
    close(root);
}

static void remove_node(const struct dcmi_look *look, uint32_t id) {
    char path[64];
    int root = root_of(look);
    if (root < 0)
        return;
    snprintf(path, sizeof path, "dev/vdavinci%u", id);
    (void)unlinkat(root, path, 0);
    close(root);
}

/* Under the device's lock. */
static int create(const struct dcmi_look *look, const struct dcmi_template *wanted,
                  const struct dcmi_create_vdev_res_stru *vdev, uint32_t *id) {
    uint32_t count, low = first_id(look), high = low + look->chip->vdevs;
    struct dcmi_template left = left_of(look, &count);
    *id = vdev->vdev_id;
    if (*id == DCMI_ANY_ID) {
        *id = low;
        while (*id < high && sim_partition_find(look->state, look->number, *id))
            ++*id;
    } else if (*id < low || *id >= high) {
        return DCMI_INVALID_ID;
    } else if (sim_partition_find(look->state, look->number, *id)) {
        return DCMI_OCCUPIED;
    }
    if (count >= look->chip->vdevs || wanted->memory_mb > left.memory_mb ||
        wanted->cores > left.cores || wanted->cpus > left.cpus)
        return DCMI_OCCUPIED;
    struct sim_partition made = {.kind = (uint32_t)(wanted - look->chip->templates),
                                 .cores = wanted->cores,
                                 .detail = {[CPUS] = wanted->cpus, [GROUP] = 0},
                                 .memory = (uint64_t)wanted->memory_mb << 20};
    atomic_store_explicit(&made.id, *id, memory_order_relaxed);
    snprintf(made.name, sizeof made.name, "%s", wanted->name);
    return sim_partition_add(look->state, look->number, &made) ? DCMI_OK : DCMI_OCCUPIED;
}

int dcmi_create_vdevice(int card_id, int device_id, struct dcmi_create_vdev_res_stru *vdev,
                        struct dcmi_create_vdev_out *out) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, vdev);
    if (!look.device)
        return look.result;
    if (!out)
        return DCMI_PARAMETER;
    if (geteuid() != 0)
        return DCMI_PERMISSION;
    if (!look.chip->templates[0].name)
        return DCMI_NOT_SUPPORTED;
    const struct dcmi_template *wanted = template_of(look.chip, vdev->template_name);
    if (!wanted)
        return DCMI_MISMATCH;
    /* Programs that have the whole device keep it whole. */
    uint32_t id = 0, count;
    bool whole =
        sim_free_bytes(look.state, look.number) < look.device->memory - look.device->reserved;
    sim_device_lock(look.state, look.number);
    (void)left_of(&look, &count);
    int result = whole && !count ? DCMI_OCCUPIED : create(&look, wanted, vdev, &id);
    sim_device_unlock(look.state, look.number);
    if (result != DCMI_OK)
        return result;
    make_node(&look, id);
    *out = (struct dcmi_create_vdev_out){.vdev_id = id,
                                         .pcie_bus = look.device->pci_bus,
                                         .pcie_device = look.device->pci_device,
                                         .pcie_func = id - first_id(&look) + 1};
    return DCMI_OK;
}

int dcmi_set_destroy_vdevice(int card_id, int device_id, unsigned int vdevid) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, &vdevid);
    if (!look.device)
        return look.result;
    if (geteuid() != 0)
        return DCMI_PERMISSION;
    if (!look.chip->templates[0].name)
        return DCMI_NOT_SUPPORTED;
    if (vdevid < LOWEST || vdevid >= ABOVE)
        return DCMI_PARAMETER;
    sim_state_sweep(look.state, true); /* the dead use nothing */
    sim_device_lock(look.state, look.number);
    bool used = sim_partition_held(look.state, look.number, vdevid) > 0;
    bool there = !used && sim_partition_remove(look.state, look.number, vdevid);
    if (there)
        sim_partition_expel(look.state, look.number, vdevid);
    sim_device_unlock(look.state, look.number);
    if (!there)
        return used ? DCMI_OCCUPIED : DCMI_ABSENT;
    remove_node(&look, vdevid);
    return DCMI_OK;
}

/* ---- What is asked of them -------------------------------------------------------------------- */

static struct dcmi_computing_resource computing(const struct dcmi_template *has) {
    return (struct dcmi_computing_resource){.aic = (float)has->cores,
                                            .aiv = (float)has->cores,
                                            .memory_size = has->memory_mb,
                                            .device_aicpu = (unsigned short)has->cpus};
}

static int tell_one(const struct dcmi_look *look, struct dcmi_vdev_query_stru *query,
                    bool activity) {
    sim_device_lock(look->state, look->number);
    struct sim_partition *found = sim_partition_find(look->state, look->number, query->vdev_id);
    struct dcmi_template has = {0};
    if (found)
        has = (struct dcmi_template){.memory_mb = (unsigned)(found->memory >> 20),
                                     .cores = found->cores,
                                     .cpus = found->detail[CPUS]};
    char name[sizeof found->name] = "";
    uint64_t held = 0;
    if (found) {
        memcpy(name, found->name, sizeof name);
        held = sim_partition_held(look->state, look->number, query->vdev_id);
    }
    sim_device_unlock(look->state, look->number);
    if (!found)
        return DCMI_ABSENT;
    query->query_info = (struct dcmi_vdev_query_info){.vfid = query->vdev_id - first_id(look),
                                                      .computing = computing(&has)};
    snprintf(query->query_info.name, sizeof query->query_info.name, "%.15s", name);
    query->query_info.is_container_used = held > 0;
    if (activity) {
        struct dcmi_computing_resource *now = &query->query_info.computing;
        now->vdev_memory_total = has.memory_mb;
        now->vdev_memory_free = has.memory_mb - (held >> 20);
        now->vdev_aicore_utilization =
            (sim_partition_permille(look->state, look->number, query->vdev_id) + 5) / 10;
    }
    return DCMI_OK;
}

static void tell_total(const struct dcmi_look *look, struct dcmi_soc_total_resource *total) {
    struct dcmi_template whole = {.memory_mb = (unsigned)dcmi_memory_mb(look->device),
                                  .cores = look->device->sms,
                                  .cpus = look->chip->cpus};
    *total = (struct dcmi_soc_total_resource){.computing = computing(&whole)};
    const struct sim_partition *all = look->state->header->devices[look->number].partitions;
    sim_device_lock(look->state, look->number);
    for (uint32_t p = 0; p < SIM_PARTITIONS_MAX; p++) {
        uint32_t id = atomic_load_explicit(&all[p].id, memory_order_relaxed);
        if (id)
            total->vdev_id[total->vdev_num++] = id;
    }
    sim_device_unlock(look->state, look->number);
}

static void tell_free(const struct dcmi_look *look, struct dcmi_soc_free_resource *left) {
    uint32_t count;
    sim_device_lock(look->state, look->number);
    struct dcmi_template has = left_of(look, &count);
    sim_device_unlock(look->state, look->number);
    *left = (struct dcmi_soc_free_resource){.computing = computing(&has)};
}

int dcmi_get_device_info(int card_id, int device_id, int main_cmd, unsigned int sub_cmd, void *buf,
                         unsigned int *size) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, buf);
    if (!look.device)
        return look.result;
    if (!size)
        return DCMI_PARAMETER;
    if (main_cmd != DCMI_COMMAND_VDEV || !look.chip->templates[0].name)
        return DCMI_NOT_SUPPORTED;
    switch (sub_cmd) {
    case DCMI_VDEV_RESOURCE:
    case DCMI_VDEV_ACTIVITY:
        if (*size < sizeof(struct dcmi_vdev_query_stru))
            return DCMI_PARAMETER;
        return tell_one(&look, buf, sub_cmd == DCMI_VDEV_ACTIVITY);
    case DCMI_VDEV_TOTAL:
        if (*size < sizeof(struct dcmi_soc_total_resource))
            return DCMI_PARAMETER;
        tell_total(&look, buf);
        return DCMI_OK;
    case DCMI_VDEV_FREE:
        if (*size < sizeof(struct dcmi_soc_free_resource))
            return DCMI_PARAMETER;
        tell_free(&look, buf);
        return DCMI_OK;
    default:
        return DCMI_NOT_SUPPORTED;
    }
}
