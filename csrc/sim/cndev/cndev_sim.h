/* The simulator's libcndev.so: what its files share. It reads the state that all the node's libraries
 * keep, so that they tell one story.
 */
#ifndef ALIQUOT_SIM_CNDEV_H
#define ALIQUOT_SIM_CNDEV_H

#include "cndev_abi.h"
#include "sim/vendor/vendor.h"

#include <stdbool.h>

/* The version of the interface that this build has. Before 6 there were no second versions of
 * structures and no sMLU; a newer one takes only structures of its own. */
#ifndef SIM_CNDEV_VERSION
#define SIM_CNDEV_VERSION 6
#endif

/* A look at the node, which is not released while it lasts. Ends with its scope. */
struct sim_look {
    cndevRet_t result;                      /* what the function answers when it goes no further */
    struct sim_state *state;                /* NULL: `result` says why */
    const struct sim_device_config *device; /* NULL: none was asked for, or `result` says why */
    uint32_t number;                        /* of the device, on the node */
    int32_t slot;                           /* among those that the process sees: its handle */
};
#define SIM_LOOK __attribute__((cleanup(sim_look_end))) struct sim_look

/* Looks at the node. `out`: where the answer goes, not NULL. CNDEV_ERROR_UNINITIALIZED without one;
 * any error that ALIQUOT_SIM_CNDEV_ERRORS has for the function: "cndevGetUUID=7 cndevInit=1". */
struct sim_look sim_look(const char *function, const void *out);
/* Looks at a device. CNDEV_ERROR_INVALID_DEVICE_ID for what is no handle. */
struct sim_look sim_look_at(const char *function, cndevDevice_t device, const void *out);
void sim_look_end(struct sim_look *look);
/* What a function is made to answer, CNDEV_SUCCESS for its own answer. */
cndevRet_t sim_ordered(const char *function);
/* Whether a structure says the version that this build speaks. Else the look ends with
 * CNDEV_ERROR_UNSUPPORTED_API_VERSION. */
bool sim_speaks(struct sim_look *look, int32_t version);

/* A device's UUID as the library writes it, 36 letters and a zero. */
void sim_uuid(const uint8_t uuid[16], uint8_t text[37]);

#endif
