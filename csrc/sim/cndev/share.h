/* Shares of a device that its driver enforces (sMLU): profiles say how large they are, instances are
 * what processes belong to. Sizes are bytes, quotas percent of the device.
 */
#ifndef ALIQUOT_SIM_CNDEV_SHARE_H
#define ALIQUOT_SIM_CNDEV_SHARE_H

#include "cndev_sim.h"

/* An instance: its number, and what it is and has. */
struct sim_share_info {
    uint32_t id, profile, quota, permille; /* `permille`: of the last second's device time */
    uint64_t bytes, used;
    uint8_t uuid[16];
    char name[100], file[SIM_PARTITION_FILE];
};

/* Makes a profile, or finds the one that is the same. */
cndevRet_t sim_profile_make(const struct sim_look *look, uint32_t quota, uint64_t bytes,
                            int32_t *profile);
cndevRet_t sim_profile_drop(const struct sim_look *look, int32_t profile);
/* Reads a profile, and how many instances of it the device can have at all, and still. */
cndevRet_t sim_profile_read(const struct sim_look *look, int32_t profile,
                            struct sim_mlu_profile *out, uint32_t *total, uint32_t *remain);
/* Makes an instance of a profile, and its device file where the process may. `name` may be empty. */
cndevRet_t sim_share_create(const struct sim_look *look, uint32_t profile, const char *name,
                            uint32_t *id);
/* Ends an instance whose processes hold nothing any more. */
cndevRet_t sim_share_destroy(const struct sim_look *look, uint32_t id);
/* Changes what an instance may have, at once; what it holds already it keeps. */
cndevRet_t sim_share_update(const struct sim_look *look, uint32_t id, uint32_t quota,
                            uint64_t bytes);
cndevRet_t sim_share_read(const struct sim_look *look, uint32_t id, struct sim_share_info *out);
/* Switches shares on or off. */
cndevRet_t sim_share_switch(const struct sim_look *look, bool on);

/* Hardware partitions (MIM), which whoever administers the node has made. */
bool sim_mim_is_on(const struct sim_look *look);
cndevRet_t sim_mim_switch(const struct sim_look *look, bool on);
cndevRet_t sim_instance_read(const struct sim_look *look, uint32_t id, struct sim_share_info *out);
/* The cores that an instance has: from the first on, so many. */
uint32_t sim_instance_cores(const struct sim_look *look, const struct sim_share_info *instance,
                            uint32_t *first);

/* Instances are numbered from 1 to this; a handle is instanceId << 8 | slot. */
enum { SIM_SHARE_IDS = SIM_PARTITIONS_MAX };

/* Looks at the device of an instance. */
struct sim_look sim_look_at_instance(const char *function, cndevMluInstance_t handle,
                                     const void *out, uint32_t *instance);

/* What both kinds of instances tell, by the same names. */
#define SIM_TELL_INSTANCE(look, found, info)                                                       \
    do {                                                                                           \
        (info)->version = SIM_CNDEV_VERSION;                                                       \
        (info)->instanceId = (int32_t)(found)->id;                                                 \
        (info)->domain = (int32_t)(look)->device->pci_domain;                                      \
        (info)->bus = (int32_t)(look)->device->pci_bus;                                            \
        (info)->device = (int32_t)(look)->device->pci_device;                                      \
        sim_uuid((found)->uuid, (info)->uuid);                                                     \
        memcpy((info)->instanceName, (found)->name, sizeof(info)->instanceName);                   \
        memcpy((info)->devNodeName, (found)->file, sizeof(info)->devNodeName);                     \
    } while (0)

/* Tells of an instance in a row, which has no more bytes than this. */
enum { SIM_INSTANCE_BYTES = 2048 };
typedef cndevRet_t sim_tell_instance(const struct sim_look *look, uint32_t instance, void *row);
/* All instances: `*count` is the caller's room, and gets what there is. */
cndevRet_t sim_list_instances(const struct sim_look *look, int32_t *count, void *rows, size_t row,
                              sim_tell_instance *tell);

#endif
