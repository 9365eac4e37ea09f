/* Green contexts and the resources that they are made of: bookkeeping of multiprocessors. They
 * take no memory, and their work runs as any other. */
#include "context.h"

#include "exec.h"

#include <stdlib.h>
#include <string.h>

/* What CUdevResourceDesc points to. */
struct description {
    CUdevResource sm;
};

/* What CUgreenCtx points to. */
struct green {
    struct sim_context *ctx;
    CUdevResource sm;
    CUdevice dev;
};

/* Which multiprocessors a resource means, in the part that is the driver's own. */
struct inside {
    uint64_t magic;
    int32_t dev;
    uint32_t first, count;
};
#define INSIDE_MAGIC UINT64_C(0x4d532d5153)

/* A copy: the part is not aligned. */
static struct inside inside_of(const CUdevResource *resource) {
    struct inside inside;
    memcpy(&inside, resource->_internal_padding, sizeof inside);
    return inside;
}

/* Least number and step of multiprocessors in a group. */
static unsigned alignment(CUdevice dev) { return sim_device_config(dev)->cc_major >= 9 ? 8 : 2; }
static unsigned least(CUdevice dev) {
    unsigned major = sim_device_config(dev)->cc_major;
    return major >= 9 ? 8 : major >= 8 ? 4 : 2;
}

static CUdevResource make_resource(CUdevice dev, uint32_t first, uint32_t count) {
    CUdevResource resource;
    memset(&resource, 0, sizeof resource);
    if (!count)
        return resource;
    struct inside inside = {INSIDE_MAGIC, dev, first, count};
    memcpy(resource._internal_padding, &inside, sizeof inside);
    resource.type = CU_DEV_RESOURCE_TYPE_SM;
    resource.sm.smCount = count;
    resource.sm.minSmPartitionSize = least(dev);
    resource.sm.smCoscheduledAlignment = alignment(dev);
    return resource;
}

static CUresult read_resource(const CUdevResource *resource, struct inside *inside) {
    if (!resource)
        return CUDA_ERROR_INVALID_VALUE;
    if (resource->type != CU_DEV_RESOURCE_TYPE_SM)
        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    *inside = inside_of(resource);
    if (inside->magic != INSIDE_MAGIC || inside->dev < 0 || inside->dev >= sim_device_count() ||
        inside->count != resource->sm.smCount)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    return CUDA_SUCCESS;
}

static CUresult check_type(CUdevResourceType type) {
    if (type == CU_DEV_RESOURCE_TYPE_SM)
        return CUDA_SUCCESS;
    return type == CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG || type == CU_DEV_RESOURCE_TYPE_WORKQUEUE
               ? sim_unsupported("work queues as device resources")
               : CUDA_ERROR_INVALID_RESOURCE_TYPE;
}

/* ---- Asking -------------------------------------------------------------------------------- */

CUresult cuDeviceGetDevResource(CUdevice dev, CUdevResource *resource, CUdevResourceType type) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (dev < 0 || dev >= sim_device_count())
        return CUDA_ERROR_INVALID_DEVICE;
    if (!resource)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_type(type);
    if (result == CUDA_SUCCESS)
        *resource = make_resource(dev, 0, sim_device_config(dev)->sms);
    return result;
}

CUresult cuCtxGetDevResource(CUcontext handle, CUdevResource *resource, CUdevResourceType type) {
    struct sim_context *ctx;
    CUresult result = context_resolve(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!resource)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_type(type);
    if (result == CUDA_SUCCESS)
        *resource = ctx->green ? ctx->memory->green->sm
                               : make_resource(ctx->dev, 0, sim_device_config(ctx->dev)->sms);
    return result;
}

CUgreenCtx sim_green_handle(const struct sim_context *ctx) {
    return (CUgreenCtx)ctx->memory->green;
}

static struct green *green_get(CUgreenCtx handle) {
    return sim_handle_check(SIM_HANDLE_GREEN, handle) ? (struct green *)handle : NULL;
}

CUresult cuGreenCtxGetDevResource(CUgreenCtx handle, CUdevResource *resource,
                                  CUdevResourceType type) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct green *green = green_get(handle);
    if (!green)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!resource)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_type(type);
    if (result == CUDA_SUCCESS)
        *resource = green->sm;
    return result;
}

/* ---- Splitting ----------------------------------------------------------------------------- */

CUresult cuDevSmResourceSplitByCount(CUdevResource *out, unsigned *groups,
                                     const CUdevResource *input, CUdevResource *remainder,
                                     unsigned flags, unsigned wish) {
    const unsigned known = CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING |
                           CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct inside inside;
    result = read_resource(input, &inside);
    if (result != CUDA_SUCCESS)
        return result;
    if (!groups || (flags & ~known) || wish > inside.count)
        return CUDA_ERROR_INVALID_VALUE;
    bool alone = flags & CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING;
    unsigned step = alone ? 2 : alignment(inside.dev);
    unsigned size = alone ? 2 : least(inside.dev);
    if (wish > size)
        size = (wish + step - 1) / step * step;
    unsigned possible = inside.count / size;
    if (!out) {
        *groups = possible;
        return CUDA_SUCCESS;
    }
    if (!possible)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    if (*groups > possible)
        *groups = possible;
    uint32_t at = inside.first;
    for (unsigned g = 0; g < *groups; g++, at += size)
        out[g] = make_resource(inside.dev, at, size);
    if (remainder)
        *remainder = make_resource(inside.dev, at, inside.first + inside.count - at);
    return CUDA_SUCCESS;
}

/* How many of `left` multiprocessors one group gets. 0 and *result: why it cannot be. */
static unsigned group_size(CUdevice dev, const CU_DEV_SM_RESOURCE_GROUP_PARAMS *wish, unsigned left,
                           CUresult *result) {
    unsigned together = wish->coscheduledSmCount ? wish->coscheduledSmCount : alignment(dev);
    bool backfill = wish->flags & CU_DEV_SM_RESOURCE_GROUP_BACKFILL;
    *result = CUDA_SUCCESS;
    if (wish->flags & ~(unsigned)CU_DEV_SM_RESOURCE_GROUP_BACKFILL)
        *result = sim_unsupported("locality domains of multiprocessors");
    else if (together % 2 || together > (alignment(dev) > 2 ? 32u : 2u) || wish->smCount % 2 ||
             (wish->smCount && !backfill && wish->smCount % together))
        *result = CUDA_ERROR_INVALID_VALUE;
    else if (wish->smCount > left)
        *result = CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    if (*result != CUDA_SUCCESS)
        return 0;
    if (wish->smCount)
        return wish->smCount;
    return backfill ? left / 2 * 2 : left / together * together;
}

CUresult cuDevSmResourceSplit(CUdevResource *out, unsigned groups, const CUdevResource *input,
                              CUdevResource *remainder, unsigned flags,
                              CU_DEV_SM_RESOURCE_GROUP_PARAMS *wishes) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct inside inside;
    result = read_resource(input, &inside);
    if (result != CUDA_SUCCESS)
        return result;
    if (!groups || !wishes || flags)
        return CUDA_ERROR_INVALID_VALUE;
    uint32_t at = inside.first, end = inside.first + inside.count;
    for (unsigned g = 0; g < groups; g++) {
        unsigned size = group_size(inside.dev, &wishes[g], end - at, &result);
        if (result != CUDA_SUCCESS)
            return result;
        if (out && !size)
            return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        wishes[g].smCount = size;
        if (out)
            out[g] = make_resource(inside.dev, at, size);
        at += size;
    }
    if (remainder)
        *remainder = make_resource(inside.dev, at, end - at);
    return CUDA_SUCCESS;
}

CUresult cuDevResourceGenerateDesc(CUdevResourceDesc *out, CUdevResource *resources,
                                   unsigned count) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !resources || !count)
        return CUDA_ERROR_INVALID_VALUE;
    uint32_t total = 0;
    struct inside first = {0};
    for (unsigned r = 0; r < count; r++) {
        struct inside inside;
        result = read_resource(&resources[r], &inside);
        if (result != CUDA_SUCCESS)
            return result;
        if (r && inside.dev != first.dev)
            return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        if (!r)
            first = inside;
        total += inside.count;
    }
    struct description *description = malloc(sizeof *description);
    if (!description || !sim_handle_add(SIM_HANDLE_RESOURCE_DESC, description)) {
        free(description);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    description->sm = make_resource(first.dev, first.first, total);
    *out = (CUdevResourceDesc)description; /* CUDA has no call that frees it */
    return CUDA_SUCCESS;
}

/* ---- Green contexts ------------------------------------------------------------------------ */

CUresult cuGreenCtxCreate(CUgreenCtx *out, CUdevResourceDesc handle, CUdevice dev, unsigned flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (dev < 0 || dev >= sim_device_count())
        return CUDA_ERROR_INVALID_DEVICE;
    if (!out || (flags & ~(unsigned)CU_GREEN_CTX_DEFAULT_STREAM) ||
        !sim_handle_check(SIM_HANDLE_RESOURCE_DESC, handle))
        return CUDA_ERROR_INVALID_VALUE;
    const struct description *description = (const struct description *)handle;
    if (inside_of(&description->sm).dev != dev)
        return CUDA_ERROR_INVALID_VALUE;
    struct green *green = calloc(1, sizeof *green);
    if (!green || !sim_handle_add(SIM_HANDLE_GREEN, green)) {
        free(green);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    struct sim_context *primary;
    result = context_primary_retain(dev, &primary);
    if (result == CUDA_SUCCESS) {
        result = context_make(dev, primary->flags, false, primary, &green->ctx);
        if (result != CUDA_SUCCESS)
            (void)context_primary_release(dev);
    }
    if (result != CUDA_SUCCESS) {
        (void)sim_handle_drop(SIM_HANDLE_GREEN, green);
        free(green);
        return result;
    }
    green->sm = description->sm;
    green->dev = dev;
    green->ctx->memory->green = green;
    *out = (CUgreenCtx)green;
    return CUDA_SUCCESS;
}

CUresult cuGreenCtxDestroy(CUgreenCtx handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_handle_drop(SIM_HANDLE_GREEN, handle))
        return CUDA_ERROR_INVALID_CONTEXT;
    struct green *green = (struct green *)handle;
    (void)context_end(green->ctx);
    (void)context_primary_release(green->dev);
    free(green);
    return CUDA_SUCCESS;
}

CUresult cuCtxFromGreenCtx(CUcontext *out, CUgreenCtx handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct green *green = green_get(handle);
    if (!green)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    *out = (CUcontext)green->ctx;
    return CUDA_SUCCESS;
}

CUresult cuGreenCtxGetId(CUgreenCtx handle, unsigned long long *id) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct green *green = green_get(handle);
    if (!green)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!id)
        return CUDA_ERROR_INVALID_VALUE;
    *id = green->ctx->id;
    return CUDA_SUCCESS;
}
