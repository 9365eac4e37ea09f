/* The simulator's NVML: what its files share. It reads the state that the simulated driver keeps, so
 * that the two tell one story.
 *
 * NVML's own header gives types and prototypes, of all versions of a function (its guard against
 * "auto upgrading" is set by the build).
 */
#ifndef ALIQUOT_SIM_NVML_H
#define ALIQUOT_SIM_NVML_H

#include "sim/vendor/vendor.h"

#include <nvml.h>
#include <stdbool.h>

/* A device handle points to one of these, which has nothing in it: its place is the device. */
struct nvmlDevice_st {
    char place;
};

/* A look at the node, which is not shut down while it lasts. Ends with its scope. */
struct sim_look {
    nvmlReturn_t result;                    /* what the function answers when it goes no further */
    struct sim_state *state;                /* NULL: `result` says why */
    const struct sim_device_config *device; /* NULL: none was asked for, or `result` says why */
    uint32_t number;                        /* of the device, on the node */
};
#define SIM_LOOK __attribute__((cleanup(sim_look_end))) struct sim_look

/* Looks at the node. NVML_ERROR_UNINITIALIZED without one; `out`: where the answer goes, not NULL. */
struct sim_look sim_look(const void *out);
/* Looks at a device. NVML_ERROR_INVALID_ARGUMENT for what is no handle. */
struct sim_look sim_look_at(nvmlDevice_t device, const void *out);
void sim_look_end(struct sim_look *look);

/* ---- While looking -------------------------------------------------------------------------- */

/* How many devices the process sees, and those by their place in NVML's order, that of PCI
 * addresses. */
uint32_t sim_visible_count(void);
nvmlDevice_t sim_visible(uint32_t index);
/* The handle of a device of the node; NULL when it is not visible. */
nvmlDevice_t sim_handle_of(uint32_t number);
/* The number of the device that a handle names; -1 for what is no handle. */
int64_t sim_number_of(nvmlDevice_t handle);

/* Copies a text into a caller's buffer; NVML_ERROR_INSUFFICIENT_SIZE when it does not fit. */
nvmlReturn_t sim_text(const char *text, char *out, unsigned int size);

#endif
