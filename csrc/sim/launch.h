/* Launches of kernels, checked and timed: shared by launch.c, capture and graphs. */
#ifndef ALIQUOT_SIM_LAUNCH_H
#define ALIQUOT_SIM_LAUNCH_H

#include "exec_impl.h"
#include "image.h"

/* What a device allows a launch, read once a context. */
struct sim_launch_limits {
    uint32_t block[3], grid[3];
    uint32_t block_threads;
    uint32_t sm_threads, sm_blocks, sm_shared, sm_registers;
    uint32_t sms;
    bool cooperative, clusters;
};

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
/* Fills in how long the launch takes, and on how many processors. */
void sim_launch_time(const struct sim_launch *launch, struct sim_op *op);
/* Blocks of the launch that a processor holds at a time. */
uint32_t sim_launch_blocks(const struct sim_launch *launch);
/* The limits of the context's device. */
const struct sim_launch_limits *sim_launch_limits(const struct sim_context *ctx);

/* Checks one attribute for a kernel launch or node. Errors: INVALID_VALUE. */
CUresult sim_launch_attribute(CUlaunchAttributeID id, const CUlaunchAttributeValue *value);

#endif
