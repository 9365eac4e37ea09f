/* Pools of memory that is given in the order of a stream: the driver's. */
#include "acl_sim.h"

rtError_t rtMemPoolCreate(rtMemPool_t *pool, const rtMemPoolProps *properties) {
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    if (!pool || !properties || properties->side != RT_MEM_DEV_SIDE)
        return RT_PARAM_INVALID;
    const CUmemPoolProps wanted = {
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)properties->devId},
        .maxSize = properties->maxSize};
    return acl_error(cuMemPoolCreate((CUmemoryPool *)pool, &wanted));
}

rtError_t rtMemPoolDestroy(const rtMemPool_t pool) {
    rtError_t result = acl_begin();
    return result == RT_OK ? acl_error(cuMemPoolDestroy(pool)) : result;
}

/* (Attributes have the same numbers as the driver's.) */
rtError_t rtMemPoolSetAttr(rtMemPool_t pool, int attribute, void *value) {
    rtError_t result = acl_begin();
    return result == RT_OK ? acl_error(cuMemPoolSetAttribute(pool, attribute, value)) : result;
}

rtError_t rtMemPoolGetAttr(rtMemPool_t pool, int attribute, void *value) {
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    return attribute > RT_MEM_POOL_USED_HIGH
               ? RT_PARAM_INVALID
               : acl_error(cuMemPoolGetAttribute(pool, attribute, value));
}

rtError_t rtMemPoolTrimTo(rtMemPool_t pool, uint64_t keep) {
    rtError_t result = acl_begin();
    return result == RT_OK ? acl_error(cuMemPoolTrimTo(pool, keep)) : result;
}

rtError_t rtMemPoolMallocAsync(void **pointer, const uint64_t size, const rtMemPool_t pool,
                               const rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!pointer || !size || !stream)
        return RT_PARAM_INVALID;
    CUdeviceptr given;
    CUresult answer = cuMemAllocFromPoolAsync(&given, size, pool, stream);
    if (answer == CUDA_SUCCESS)
        *pointer = (void *)given;
    return acl_error(answer);
}

rtError_t rtMemPoolFreeAsync(void *pointer, rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    return pointer ? acl_error(cuMemFreeAsync((CUdeviceptr)pointer, stream)) : RT_PARAM_INVALID;
}
