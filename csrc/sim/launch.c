/* Launches: what the driver checks before it queues a kernel, and how long the kernel takes. */
#include "launch.h"

#include <stdlib.h>
#include <string.h>

void sim_launch_limits_read(struct sim_exec *exec) {
    struct sim_launch_limits *limits = &exec->limits;
    int cooperative = 0, clusters = 0;
    const struct {
        CUdevice_attribute attribute;
        uint32_t *to;
    } wanted[] = {
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, &limits->block[0]},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, &limits->block[1]},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, &limits->block[2]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, &limits->grid[0]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, &limits->grid[1]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, &limits->grid[2]},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &limits->block_threads},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int value = 0;
        sim_device_attribute(exec->dev, wanted[i].attribute, &value);
        *wanted[i].to = (uint32_t)value;
    }
    sim_device_attribute(exec->dev, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, &cooperative);
    sim_device_attribute(exec->dev, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, &clusters);
    limits->cooperative = cooperative != 0;
    limits->clusters = clusters != 0;
}

/* ---- Attributes ---------------------------------------------------------------------------- */

const CUlaunchAttributeValue *sim_launch_attribute(const struct sim_launch *launch,
                                                   CUlaunchAttributeID id) {
    if (launch->attributes == NULL || (launch->attributes->set >> id & 1) == 0)
        return NULL;
    return &launch->attributes->value[id];
}

/* Whether a value is one that the attribute takes. */
static CUresult check_value(CUlaunchAttributeID id, const CUlaunchAttributeValue *value) {
    bool ok = true;
    switch (id) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        ok = value->accessPolicyWindow.hitRatio >= 0 && value->accessPolicyWindow.hitRatio <= 1;
        break;
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        ok = value->cooperative == 0 || value->cooperative == 1;
        break;
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        ok = value->clusterDim.x != 0 && value->clusterDim.y != 0 && value->clusterDim.z != 0;
        break;
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        ok =
            value->clusterSchedulingPolicyPreference <= CU_CLUSTER_SCHEDULING_POLICY_LOAD_BALANCING;
        break;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        ok = value->memSyncDomain <= CU_LAUNCH_MEM_SYNC_DOMAIN_REMOTE;
        break;
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        ok = value->sharedMemCarveout == UINT32_MAX || value->sharedMemCarveout <= 100;
        break;
    case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
        return value->deviceUpdatableKernelNode.deviceUpdatable == 0
                   ? CUDA_SUCCESS
                   : sim_unsupported("device-updatable kernel nodes");
    case CU_LAUNCH_ATTRIBUTE_IGNORE:
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
    case CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING:
    case CU_LAUNCH_ATTRIBUTE_PORTABLE_CLUSTER_SIZE_MODE:
    case CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE:
        break;
    default:
        ok = false; /* unknown, or for streams only */
    }
    return ok ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_launch_attribute_set(struct sim_launch_attributes *attributes, CUlaunchAttributeID id,
                                  const CUlaunchAttributeValue *value) {
    CUresult result = check_value(id, value);
    if (result != CUDA_SUCCESS || id == CU_LAUNCH_ATTRIBUTE_IGNORE)
        return result;
    attributes->value[id] = *value;
    attributes->set |= 1u << id;
    return CUDA_SUCCESS;
}

CUresult sim_launch_attributes(const CUlaunchAttribute *given, size_t count,
                               struct sim_launch_attributes *attributes) {
    attributes->set = 0;
    if (count > 0 && given == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        CUresult result = sim_launch_attribute_set(attributes, given[i].id, &given[i].value);
        if (result != CUDA_SUCCESS)
            return result;
    }
    return CUDA_SUCCESS;
}

/* ---- Checks -------------------------------------------------------------------------------- */

static uint64_t threads_of(const struct sim_launch *launch) {
    return (uint64_t)launch->block[0] * launch->block[1] * launch->block[2];
}

static uint64_t blocks_of(const struct sim_launch *launch) {
    return (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
}

/* Blocks that a processor holds at a time, from the driver's own occupancy calculation. The last
 * answers are kept: launches come in rows. */
static uint32_t blocks_per_processor(const struct sim_launch *launch) {
    static _Thread_local struct {
        const struct sim_function *function;
        const void *image;
        uint32_t threads, shared, blocks;
    } last[8];
    uint32_t threads = (uint32_t)threads_of(launch);
    size_t place = ((uintptr_t)launch->function >> 6 ^ threads >> 5 ^ launch->shared >> 8) % 8;
    if (last[place].function == launch->function && last[place].image == launch->function->image &&
        last[place].threads == threads && last[place].shared == launch->shared)
        return last[place].blocks;
    int blocks = 0;
    if (cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, (CUfunction)launch->function,
                                                    (int)threads, launch->shared) != CUDA_SUCCESS ||
        blocks < 1)
        return 1;
    last[place].function = launch->function;
    last[place].image = launch->function->image;
    last[place].threads = threads;
    last[place].shared = launch->shared;
    last[place].blocks = (uint32_t)blocks;
    return (uint32_t)blocks;
}

static CUresult check_cluster(const struct sim_launch *launch) {
    const struct sim_function *function = launch->function;
    const CUlaunchAttributeValue *given =
        sim_launch_attribute(launch, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
    uint32_t size[3];
    for (int i = 0; i < 3; i++) /* relaxed: each attribute stands for itself */
        size[i] = __atomic_load_n(&function->cluster[i], __ATOMIC_RELAXED);
    bool required = size[0] != 0;
    if (!required && given == NULL)
        return function->image->cluster_must_be_set ? CUDA_ERROR_INVALID_CLUSTER_SIZE
                                                    : CUDA_SUCCESS;
    if (given != NULL) {
        const uint32_t wanted[3] = {given->clusterDim.x, given->clusterDim.y, given->clusterDim.z};
        if (required && memcmp(wanted, size, sizeof size) != 0)
            return CUDA_ERROR_INVALID_CLUSTER_SIZE;
        memcpy(size, wanted, sizeof size);
    }
    uint64_t blocks = (uint64_t)size[0] * size[1] * size[2];
    uint64_t most = __atomic_load_n(&function->nonportable_cluster, __ATOMIC_RELAXED) ? 16 : 8;
    if ((blocks > 1 && !sim_exec_of(launch->ctx)->limits.clusters) || blocks > most)
        return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    for (int i = 0; i < 3; i++)
        if (launch->grid[i] % size[i] != 0)
            return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    return CUDA_SUCCESS;
}

static CUresult check_cooperative(const struct sim_launch *launch) {
    const CUlaunchAttributeValue *given =
        sim_launch_attribute(launch, CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
    if (given == NULL || given->cooperative == 0)
        return CUDA_SUCCESS;
    const struct sim_exec *exec = sim_exec_of(launch->ctx);
    if (!exec->limits.cooperative)
        return CUDA_ERROR_NOT_SUPPORTED;
    return blocks_of(launch) > (uint64_t)blocks_per_processor(launch) * exec->config->sms
               ? CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE
               : CUDA_SUCCESS;
}

CUresult sim_launch_check(const struct sim_launch *launch) {
    const struct sim_launch_limits *limits = &sim_exec_of(launch->ctx)->limits;
    const struct sim_function *function = launch->function;
    const struct sim_image_function *image = function->image;
    for (int i = 0; i < 3; i++) {
        if (launch->grid[i] == 0 || launch->grid[i] > limits->grid[i] || launch->block[i] == 0 ||
            launch->block[i] > limits->block[i])
            return CUDA_ERROR_INVALID_VALUE;
        if (image->required_block[0] != 0 && launch->block[i] != image->required_block[i])
            return CUDA_ERROR_INVALID_VALUE;
    }
    uint64_t threads = threads_of(launch);
    if (threads > limits->block_threads ||
        (image->max_threads != 0 && threads > image->max_threads))
        return CUDA_ERROR_INVALID_VALUE;
    if (threads > function->max_threads)
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    /* Relaxed, as wherever attributes are read: each stands for itself. */
    if (launch->shared > __atomic_load_n(&function->dynamic_shared_max, __ATOMIC_RELAXED))
        return CUDA_ERROR_INVALID_VALUE;
    if (launch->attributes == NULL && function->cluster[0] == 0 && !image->cluster_must_be_set)
        return CUDA_SUCCESS;
    CUresult result = check_cluster(launch);
    return result != CUDA_SUCCESS ? result : check_cooperative(launch);
}

/* ---- Arguments ----------------------------------------------------------------------------- */

CUresult sim_launch_extra(void **extra, const uint8_t **buffer, size_t *bytes) {
    enum { MOST = 16 }; /* pairs: far more than there are names */
    *buffer = NULL;
    *bytes = 0;
    for (int i = 0; i < MOST; i++, extra += 2) {
        if (extra[0] == CU_LAUNCH_PARAM_END)
            return CUDA_SUCCESS;
        if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            *buffer = extra[1];
        else if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE && extra[1] != NULL)
            *bytes = *(const size_t *)extra[1];
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_launch_arguments(struct sim_launch *launch, void **params, void **extra) {
    const struct sim_function *function = launch->function;
    const uint8_t *first = NULL;
    if (params != NULL && extra != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (extra != NULL) {
        const uint8_t *buffer;
        size_t bytes;
        CUresult result = sim_launch_extra(extra, &buffer, &bytes);
        if (result != CUDA_SUCCESS)
            return result;
        if (function->param_count != 0 && (buffer == NULL || bytes < function->param_bytes))
            return CUDA_ERROR_INVALID_VALUE;
        first = function->param_count != 0 ? buffer + function->params[0].offset : NULL;
    } else if (function->param_count != 0) {
        if (params == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        first = params[0];
    }
    if (function->spin && first != NULL) {
        launch->spin_ns = 0;
        memcpy(&launch->spin_ns, first, function->params[0].size < 8 ? 4 : 8);
    }
    return CUDA_SUCCESS;
}

/* ---- Time ---------------------------------------------------------------------------------- */

/* Three days: sums of whole queues of such kernels do not overflow. */
#define LONGEST_NS (UINT64_C(1) << 48)

void sim_launch_time(const struct sim_launch *launch, struct sim_op *op) {
    const struct sim_device_config *config = sim_exec_of(launch->ctx)->config;
    const struct sim_function *function = launch->function;
    op->kernel.name = function->kept_name;
    if (!function->spin && config->kernel_ns == 0 && config->wave_ns == 0)
        return; /* kernels take no time on this node */
    uint64_t blocks = blocks_of(launch), each = blocks_per_processor(launch);
    uint64_t room = each * config->sms;
    uint64_t waves = blocks > room ? (blocks + room - 1) / room : 1;
    op->sms = blocks >= room ? config->sms : (uint32_t)((blocks + each - 1) / each);
    if (function->spin)
        op->ns = launch->spin_ns < LONGEST_NS ? launch->spin_ns : LONGEST_NS;
    else
        op->ns = config->kernel_ns + (waves - 1) * config->wave_ns;
    const CUlaunchAttributeValue *priority =
        sim_launch_attribute(launch, CU_LAUNCH_ATTRIBUTE_PRIORITY);
    if (priority != NULL) {
        op->flags |= SIM_OP_PRIORITY;
        op->kernel.priority = priority->priority;
    }
}
