/* The simulator's NVML: what its files share. It reads the state that the simulated driver keeps, so
 * that the two tell one story.
 *
 * NVML's own header gives types and prototypes, of all versions of a function (its guard against
 * "auto upgrading" is set by the build).
 */
#ifndef ALIQUOT_SIM_NVML_H
#define ALIQUOT_SIM_NVML_H

#include "sim/state.h"

#include <nvml.h>
#include <stdbool.h>

/* A device handle points to one of these: the device's number on the node. */
struct nvmlDevice_st {
    uint32_t physical;
};

/* The open node, NULL while the library is not initialised in this process. */
struct sim_state *sim_nvml_state(void);

/* The number of a visible device's handle; -1 for what is no handle. */
int64_t sim_nvml_physical(nvmlDevice_t device);
/* The handle of a device of the node; NULL when it is not visible. */
nvmlDevice_t sim_nvml_handle(uint32_t physical);
/* Place of a device in NVML's order, which is that of PCI addresses. */
uint32_t sim_nvml_index(uint32_t physical);

/* Begins a function on a device: answers its error when something of it is wrong. */
nvmlReturn_t sim_nvml_enter(nvmlDevice_t device, const void *out, uint32_t *physical);

static inline const struct sim_device_config *sim_nvml_config(uint32_t physical) {
    return &sim_nvml_state()->node->devices[physical];
}

/* Copies a text into a caller's buffer; NVML_ERROR_INSUFFICIENT_SIZE when it does not fit. */
nvmlReturn_t sim_nvml_text(const char *text, char *out, unsigned int size);

/* What everybody holds: valid until sim_nvml_truth_done, which every look must end with. */
const struct sim_truth *sim_nvml_truth(void);
void sim_nvml_truth_done(void);

/* ENTER(out) declares `physical`, the device's number, or returns the error. */
#define ENTER(device, out)                                                                         \
    uint32_t physical;                                                                             \
    nvmlReturn_t entered = sim_nvml_enter(device, out, &physical);                                 \
    if (entered != NVML_SUCCESS)                                                                   \
    return entered

#endif
