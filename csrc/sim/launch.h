/* Launches of kernels, checked and timed: shared by launch.c, capture and graphs. */
#ifndef ALIQUOT_SIM_LAUNCH_H
#define ALIQUOT_SIM_LAUNCH_H

#include "exec_impl.h"
#include "image.h"

/* One launch. `attributes` holds what was set by cuLaunchKernelEx or for a graph's node; bit i of
 * `attributes_set` tells of attribute i. */
enum { SIM_LAUNCH_ATTRIBUTES = 20 };
struct sim_launch_attributes {
    uint32_t set;
    CUlaunchAttributeValue value[SIM_LAUNCH_ATTRIBUTES];
};
struct sim_launch {
    struct sim_context *ctx;
    struct sim_function *function;
    uint32_t grid[3], block[3];
    uint32_t shared;                                /* dynamic, bytes per block */
    uint64_t spin_ns;                               /* of aliquot_spin_ns */
    const struct sim_launch_attributes *attributes; /* NULL: none */
};

/* Checks a launch against function and device, as the driver does before it queues it.
 * Errors: INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES, COOPERATIVE_LAUNCH_TOO_LARGE, NOT_SUPPORTED,
 * INVALID_CLUSTER_SIZE. */
CUresult sim_launch_check(const struct sim_launch *launch);
/* Reads what of the arguments counts for the time, and checks that they are given.
 * Errors: INVALID_VALUE. */
CUresult sim_launch_arguments(struct sim_launch *launch, void **params, void **extra);
/* Reads an `extra` list. Errors: INVALID_VALUE. */
CUresult sim_launch_extra(void **extra, const uint8_t **buffer, size_t *bytes);
/* Fills in how long the launch takes, and on how many processors. */
void sim_launch_time(const struct sim_launch *launch, struct sim_op *op);
/* Reads the limits of the context's device, once. */
void sim_launch_limits_read(struct sim_exec *exec);
/* The attribute with that number, or NULL where it was not set. */
const CUlaunchAttributeValue *sim_launch_attribute(const struct sim_launch *launch,
                                                   CUlaunchAttributeID id);
/* Takes over the attributes of a launch. Errors: INVALID_VALUE (not for launches, or a bad value),
 * NOT_SUPPORTED. */
CUresult sim_launch_attributes(const CUlaunchAttribute *given, size_t count,
                               struct sim_launch_attributes *attributes);
/* Checks one attribute of a launch or a kernel node, and keeps it. Errors: as above. */
CUresult sim_launch_attribute_set(struct sim_launch_attributes *attributes, CUlaunchAttributeID id,
                                  const CUlaunchAttributeValue *value);

#endif
