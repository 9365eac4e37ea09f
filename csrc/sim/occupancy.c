/* cuOccupancy*: how many blocks of a kernel a multiprocessor holds, by the published rules: each of
 * threads, blocks, registers and shared memory is given out in units, and the scarcest decides.
 */
#include "module.h"

#include <limits.h>

/* A multiprocessor as far as occupancy goes. */
struct limits {
    int threads; /* of a multiprocessor */
    int blocks;
    int block_threads;
    int registers; /* of a multiprocessor; so many are in each of its four parts, divided */
    int shared;    /* bytes of a multiprocessor */
    int block_shared;
    int block_shared_most; /* what cuFuncSetAttribute can raise it to */
    int reserved_shared;   /* of each block, for the driver */
    int shared_unit;
    int multiprocessors;
};

#define WARP 32
#define PARTS 4
#define REGISTER_UNIT 256 /* given to a warp at once */

static CUresult read_limits(CUdevice dev, struct limits *limits) {
    const struct {
        CUdevice_attribute attribute;
        int *to;
    } wanted[] = {
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, &limits->threads},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, &limits->blocks},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &limits->block_threads},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, &limits->registers},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, &limits->shared},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, &limits->block_shared},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &limits->block_shared_most},
        {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, &limits->reserved_shared},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &limits->multiprocessors},
    };

    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        CUresult result = sim_device_attribute(dev, wanted[i].attribute, wanted[i].to);
        if (result != CUDA_SUCCESS)
            return result;
    }
    limits->shared_unit = sim_device_cc(dev) >= 80 ? 128 : 256;
    return CUDA_SUCCESS;
}

static int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

static int least(int a, int b) { return a < b ? a : b; }

/* Shared memory that a block takes from its multiprocessor. */
static int64_t block_shared(const struct limits *limits, const struct sim_function *function,
                            size_t dynamic) {
    int64_t bytes = (int64_t)dynamic + function->shared_bytes + limits->reserved_shared;
    return round_up(bytes, limits->shared_unit);
}

/* Blocks of `threads` that fit beside each other, shared memory left out. */
static int blocks_without_shared(const struct limits *limits, const struct sim_function *function,
                                 int threads) {
    int warps = (threads + WARP - 1) / WARP;
    int blocks = least(limits->blocks, limits->threads / WARP / warps);
    int64_t per_warp = round_up((int64_t)function->image->registers * WARP, REGISTER_UNIT);

    if (per_warp) {
        int64_t in_part = limits->registers / PARTS / per_warp;
        blocks = least(blocks, (int)(in_part * PARTS / round_up(warps, PARTS)));
    }
    return blocks;
}

static int active_blocks(const struct limits *limits, const struct sim_function *function,
                         int threads, size_t dynamic) {
    /* Relaxed, as wherever attributes are read: each stands for itself. */
    uint32_t dynamic_most = __atomic_load_n(&function->dynamic_shared_max, __ATOMIC_RELAXED);

    if (threads > (int)function->max_threads || threads > limits->block_threads ||
        dynamic > (size_t)limits->shared)
        return 0;
    /* Without the attribute a block has what every block has; with it, up to the device's most. */
    if (dynamic > dynamic_most)
        return 0;
    int64_t shared = block_shared(limits, function, dynamic);
    int blocks = blocks_without_shared(limits, function, threads);
    return shared ? least(blocks, (int)(limits->shared / shared)) : blocks;
}

/* What all calls share: a context, a function, and its device's limits. */
static CUresult enter_occupancy(CUfunction handle, struct sim_function **function,
                                struct limits *limits) {
    struct sim_context *ctx;

    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        result = sim_function_resolve(ctx, handle, function);
    return result == CUDA_SUCCESS ? read_limits((*function)->ctx->dev, limits) : result;
}

/* ---- Blocks -------------------------------------------------------------------------------- */

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks,
                                                                      CUfunction handle,
                                                                      int threads, size_t dynamic,
                                                                      unsigned int flags) {
    struct sim_function *function;
    struct limits limits;

    CUresult result = enter_occupancy(handle, &function, &limits);
    if (result != CUDA_SUCCESS)
        return result;
    if (!blocks || threads <= 0 || flags & ~(unsigned)CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE)
        return CUDA_ERROR_INVALID_VALUE;
    *blocks = active_blocks(&limits, function, threads, dynamic);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction handle,
                                                             int threads, size_t dynamic) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, handle, threads, dynamic,
                                                                CU_OCCUPANCY_DEFAULT);
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block, CUfunction handle,
                                                           CUoccupancyB2DSize shared_of,
                                                           size_t dynamic, int limit,
                                                           unsigned int flags) {
    struct sim_function *function;
    struct limits limits;
    int best_threads = 0, best_size = 0, best_blocks = 0;

    CUresult result = enter_occupancy(handle, &function, &limits);
    if (result != CUDA_SUCCESS)
        return result;
    if (!grid || !block || limit < 0 || flags & ~(unsigned)CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE)
        return CUDA_ERROR_INVALID_VALUE;
    int most = least((int)function->max_threads, limits.block_threads);
    if (limit && limit < most)
        most = limit;
    /* From the largest block down, in whole warps; the first of equals wins. */
    for (int whole = (int)round_up(most, WARP); whole > 0; whole -= WARP) {
        int size = least(whole, most);
        size_t shared = shared_of ? shared_of(size) : dynamic;
        int blocks = active_blocks(&limits, function, size, shared);
        if (blocks * size > best_threads) {
            best_threads = blocks * size;
            best_size = size;
            best_blocks = blocks;
        }
        if (best_threads >= limits.threads)
            break;
    }
    *block = best_size;
    *grid = best_blocks * limits.multiprocessors;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction handle,
                                                  CUoccupancyB2DSize shared_of, size_t dynamic,
                                                  int limit) {
    return cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, handle, shared_of, dynamic, limit,
                                                     CU_OCCUPANCY_DEFAULT);
}

CUresult CUDAAPI cuOccupancyAvailableDynamicSMemPerBlock(size_t *bytes, CUfunction handle,
                                                         int blocks, int threads) {
    struct sim_function *function;
    struct limits limits;

    CUresult result = enter_occupancy(handle, &function, &limits);
    if (result != CUDA_SUCCESS)
        return result;
    if (!bytes || blocks <= 0 || threads <= 0 || threads > (int)function->max_threads ||
        blocks > blocks_without_shared(&limits, function, threads))
        return CUDA_ERROR_INVALID_VALUE;
    int64_t share = limits.shared / blocks / limits.shared_unit * limits.shared_unit;
    int64_t left = share - limits.reserved_shared - (int64_t)function->shared_bytes;
    int64_t most = limits.block_shared_most - (int64_t)function->shared_bytes;
    *bytes = left <= 0 ? 0 : (size_t)(left < most ? left : most);
    return CUDA_SUCCESS;
}

/* ---- Clusters ------------------------------------------------------------------------------ */

#define CLUSTER_PORTABLE 8
#define CLUSTER_MOST 16

/* The cluster that a launch with these attributes would have, in blocks; 1: none. */
static unsigned cluster_of(const struct sim_function *function, const CUlaunchConfig *config) {
    unsigned size = 1;

    for (int i = 0; i < 3; i++) {
        uint32_t required = __atomic_load_n(&function->cluster[i], __ATOMIC_RELAXED);
        if (required)
            size *= required;
    }
    for (unsigned i = 0; config->attrs && i < config->numAttrs; i++) {
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
            size = config->attrs[i].value.clusterDim.x * config->attrs[i].value.clusterDim.y *
                   config->attrs[i].value.clusterDim.z;
    }
    return size;
}

static CUresult enter_cluster(CUfunction handle, const CUlaunchConfig *config,
                              struct sim_function **function, struct limits *limits, int *blocks) {
    CUresult result = enter_occupancy(handle, function, limits);

    if (result != CUDA_SUCCESS)
        return result;
    if (sim_device_cc((*function)->ctx->dev) < 90)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!config)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    if (!threads || threads > INT_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    *blocks = active_blocks(limits, *function, (int)threads, config->sharedMemBytes);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxPotentialClusterSize(int *size, CUfunction handle,
                                                    const CUlaunchConfig *config) {
    struct sim_function *function;
    struct limits limits;
    int blocks;

    CUresult result = enter_cluster(handle, config, &function, &limits, &blocks);
    if (result != CUDA_SUCCESS)
        return result;
    if (!size)
        return CUDA_ERROR_INVALID_VALUE;
    int most = __atomic_load_n(&function->nonportable_cluster, __ATOMIC_RELAXED) ? CLUSTER_MOST
                                                                                 : CLUSTER_PORTABLE;
    *size = blocks ? most : 0;
    return CUDA_SUCCESS;
}

/* The blocks of a cluster lie on multiprocessors of one group; how a device's are grouped is not
 * part of its description here, so the whole device counts as one. */
CUresult CUDAAPI cuOccupancyMaxActiveClusters(int *clusters, CUfunction handle,
                                              const CUlaunchConfig *config) {
    struct sim_function *function;
    struct limits limits;
    int blocks;

    CUresult result = enter_cluster(handle, config, &function, &limits, &blocks);
    if (result != CUDA_SUCCESS)
        return result;
    unsigned size = cluster_of(function, config);
    unsigned most = __atomic_load_n(&function->nonportable_cluster, __ATOMIC_RELAXED)
                        ? CLUSTER_MOST
                        : CLUSTER_PORTABLE;
    if (!clusters || !size || size > most)
        return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    *clusters = (int)((unsigned)(blocks * limits.multiprocessors) / size);
    return CUDA_SUCCESS;
}
