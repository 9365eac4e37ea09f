/* The simulator's DCMI: what its files share. */
#ifndef ALIQUOT_SIM_DCMI_SIM_H
#define ALIQUOT_SIM_DCMI_SIM_H

#include "dcmi.h"
#include "sim/vendor/vendor.h"

/* A vNPU template of a chip. */
struct dcmi_template {
    const char *name;
    unsigned memory_mb, cores, cpus;
};

/* What is known of a chip by its name, beside the node's configuration. */
struct dcmi_chip {
    const char *name;
    unsigned cpus;                     /* AI CPUs */
    unsigned dies;                     /* devices a card */
    bool hbm;                          /* else its memory is DDR */
    bool topology;                     /* tells how its devices are joined */
    unsigned vdevs;                    /* most partitions */
    struct dcmi_template templates[8]; /* none, where the chip cannot be partitioned */
};
/* The chip of that name; one that is not known has no partitions. */
const struct dcmi_chip *dcmi_chip_of(const char *name);

/* A look at a device, which stays while it lasts. Ends with its scope. */
struct dcmi_look {
    int result;                             /* what the function answers when it goes no further */
    struct sim_state *state;                /* NULL: `result` says why */
    const struct sim_device_config *device; /* NULL: `result` says why */
    const struct dcmi_chip *chip;
    uint32_t number; /* of the device, on the node */
    uint32_t index;  /* among those that the process sees: the logic id */
};
#define DCMI_LOOK __attribute__((cleanup(dcmi_look_end))) struct dcmi_look

/* Looks at the node; `out`: where the answer goes, not NULL. */
struct dcmi_look dcmi_look(const void *out);
/* Looks at a device by its card and place there: DCMI_INVALID_ID for what is none. */
struct dcmi_look dcmi_look_at(int card_id, int device_id, const void *out);
void dcmi_look_end(struct dcmi_look *look);

/* Number of /dev/davinciN: the physical id. */
uint32_t dcmi_phy_id(const struct dcmi_look *look);
/* Memory that partitions can be cut from, or programs have, in MB. */
unsigned long long dcmi_memory_mb(const struct sim_device_config *device);

/* What the process sees of a device: in a container with a vNPU, that alone. */
struct dcmi_view {
    uint32_t vdev;  /* its number; 0: the whole device */
    uint32_t cores; /* AI cores */
    uint64_t bytes, used_bytes;
};
struct dcmi_view dcmi_view(const struct dcmi_look *look);
/* Of the last second: how busy that is, in percent. */
uint32_t dcmi_busy(const struct dcmi_look *look, const struct dcmi_view *view);

#endif
