/* Memory of devices, physical memory and addresses, and copies. */
#include "acl_sim.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Memory on a device: the current one, or the one that is named. */
static rtError_t allocate(void **pointer, uint64_t size, int64_t device) {
    int32_t here;
    rtError_t result = acl_enter(&here);
    if (result != RT_OK)
        return result;
    if (!pointer || !size)
        return RT_PARAM_INVALID;
    if (device >= 0 && device != here)
        return RT_FEATURE_NOT_SUPPORT;
    CUdeviceptr given;
    CUresult answer = cuMemAlloc_v2(&given, size);
    if (answer == CUDA_SUCCESS)
        *pointer = (void *)given;
    return acl_error(answer);
}

rtError_t rtMalloc(void **pointer, uint64_t size, uint32_t type, const uint16_t module) {
    (void)type;
    (void)module;
    return allocate(pointer, size, -1);
}

rtError_t rtMallocCached(void **pointer, uint64_t size, uint32_t type, const uint16_t module) {
    (void)type;
    (void)module;
    return allocate(pointer, size, -1);
}

static int64_t device_of(const rtMallocConfig_t *config) {
    int64_t device = -1;
    for (size_t i = 0; config && i < config->numAttrs; i++)
        if (config->attrs[i].attr == RT_MALLOC_ATTR_DEVICE_ID)
            device = config->attrs[i].value[0];
    return device;
}

rtError_t rtMemAlloc(void **pointer, uint64_t size, uint32_t policy, uint32_t advise,
                     rtMallocConfig_t *config) {
    (void)policy;
    (void)advise;
    return allocate(pointer, size, device_of(config));
}

rtError_t rtsMalloc(void **pointer, uint64_t size, uint32_t policy, uint32_t advise,
                    rtMallocConfig_t *config) {
    return rtMemAlloc(pointer, size, policy, advise, config);
}

rtError_t rtMemAllocManaged(void **pointer, uint64_t size, uint32_t flag, const uint16_t module) {
    (void)flag;
    (void)module;
    return allocate(pointer, size, -1);
}

rtError_t rtDvppMalloc(void **pointer, uint64_t size, uint16_t module) {
    (void)module;
    return allocate(pointer, size, -1);
}

rtError_t rtDvppMallocWithFlag(void **pointer, uint64_t size, uint32_t flag, uint16_t module) {
    (void)flag;
    (void)module;
    return allocate(pointer, size, -1);
}

rtError_t rtFree(void *pointer) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    return pointer ? acl_error(cuMemFree_v2((CUdeviceptr)pointer)) : RT_PARAM_INVALID;
}

rtError_t rtFreeWithDevSync(void *pointer) {
    rtError_t result = rtDeviceSynchronize();
    return result == RT_OK ? rtFree(pointer) : result;
}

rtError_t rtsFree(void *pointer) { return rtFree(pointer); }

rtError_t rtMemFreeManaged(void *pointer) { return rtFree(pointer); }

rtError_t rtDvppFree(void *pointer) { return rtFree(pointer); }

rtError_t rtMemGetInfo(size_t *free, size_t *total) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_error(cuMemGetInfo_v2(free, total)) : result;
}

rtError_t rtMemGetInfoEx(uint32_t type, size_t *free, size_t *total) {
    enum { LAST = 17 };
    return type > LAST ? RT_PARAM_INVALID : rtMemGetInfo(free, total);
}

rtError_t rtsMemGetInfo(uint32_t type, size_t *free, size_t *total) {
    return rtMemGetInfoEx(type, free, total);
}

rtError_t rtMemGetInfoByType(const int32_t device, const uint32_t type, rtMemInfo_t *const info) {
    size_t left, whole;
    int32_t current;
    rtError_t result = acl_enter(&current);
    if (result == RT_OK && (!info || !type || type > RT_MEM_INFO_LAST_SIZE || device != current))
        result = RT_PARAM_INVALID;
    if (result == RT_OK)
        result = acl_error(cuMemGetInfo_v2(&left, &whole));
    if (result != RT_OK)
        return result;
    memset(info, 0, sizeof *info);
    info->pages[0] = info->pages[1] = (rtMemPhyPages){.total = whole, .free = left};
    return RT_OK;
}

rtError_t rtMemGetAddressRange(void *pointer, void **base, size_t *size) {
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    if (!base || !size)
        return RT_PARAM_INVALID;
    return acl_error(cuMemGetAddressRange_v2((CUdeviceptr *)base, size, (CUdeviceptr)pointer));
}

rtError_t rtMallocHost(void **pointer, uint64_t size, const uint16_t module) {
    (void)module;
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_error(cuMemHostAlloc(pointer, size, 0)) : result;
}

rtError_t rtFreeHost(void *pointer) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_error(cuMemFreeHost(pointer)) : result;
}

/* -- Physical memory and addresses ------------------------------------------------------------------- */

rtError_t rtMallocPhysical(rtDrvMemHandle *handle, size_t size, rtDrvMemProp_t *prop,
                           uint64_t flags) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!handle || !prop || flags || prop->side > RT_MEM_DEV_SIDE)
        return RT_PARAM_INVALID;
    CUmemAllocationProp wanted = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                  .location = {.type = CU_MEM_LOCATION_TYPE_HOST}};
    if (prop->side == RT_MEM_DEV_SIDE) {
        wanted.requestedHandleTypes =
            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR; /* any may be shared */
        wanted.location =
            (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)prop->devid};
    }
    CUmemGenericAllocationHandle given;
    CUresult answer = cuMemCreate(&given, size, &wanted, 0);
    if (answer == CUDA_SUCCESS)
        *handle = (void *)given;
    return acl_error(answer);
}

rtError_t rtFreePhysical(rtDrvMemHandle handle) {
    rtError_t result = acl_begin();
    return result == RT_OK ? acl_error(cuMemRelease((CUmemGenericAllocationHandle)handle)) : result;
}

rtError_t rtsMemMallocPhysical(rtDrvMemHandle *handle, size_t size, uint32_t policy,
                               rtMallocConfig_t *config) {
    int32_t here;
    int64_t device = device_of(config);
    (void)policy;
    rtError_t result = acl_enter(&here);
    rtDrvMemProp_t wanted = {.side = RT_MEM_DEV_SIDE,
                             .devid = (uint32_t)(device < 0 ? here : device)};
    return result == RT_OK ? rtMallocPhysical(handle, size, &wanted, 0) : result;
}

rtError_t rtsMemFreePhysical(rtDrvMemHandle *handle) {
    return handle ? rtFreePhysical(*handle) : RT_PARAM_INVALID;
}

rtError_t rtsMemMap(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,
                    uint64_t flags) {
    return rtMapMem(pointer, size, offset, handle, flags);
}

rtError_t rtsMemUnmap(void *pointer) { return rtUnmapMem(pointer); }

/* An address range is given back, and unmapped, by its beginning alone. */
static struct range {
    uintptr_t base, size, mapped; /* base 0: a free place */
    struct range *next;
} * ranges;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Under the lock: the range with that beginning (0: a free one), made where there is none. */
static struct range *range_of(uintptr_t base, bool make) {
    struct range *range = ranges;
    while (range && range->base != base)
        range = range->next;
    if (!range && make && (range = calloc(1, sizeof *range))) {
        range->next = ranges;
        ranges = range;
    }
    return range;
}

rtError_t rtReserveMemAddress(void **pointer, size_t size, size_t alignment, void *wish,
                              uint64_t flags) {
    CUdeviceptr given;
    rtError_t result = acl_begin();
    (void)flags; /* the size of pages */
    if (result != RT_OK)
        return result;
    if (!pointer)
        return RT_PARAM_INVALID;
    result = acl_error(cuMemAddressReserve(&given, size, alignment, (CUdeviceptr)wish, 0));
    if (result != RT_OK)
        return result;
    pthread_mutex_lock(&lock);
    struct range *range = range_of(0, true);
    if (range)
        *range = (struct range){.base = given, .size = size, .next = range->next};
    pthread_mutex_unlock(&lock);
    *pointer = (void *)given;
    return range ? RT_OK : RT_INTERNAL_ERROR;
}

rtError_t rtReleaseMemAddress(void *pointer) {
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    pthread_mutex_lock(&lock);
    struct range *range = pointer ? range_of((uintptr_t)pointer, false) : NULL;
    result = range && !range->mapped ? acl_error(cuMemAddressFree(range->base, range->size))
                                     : RT_PARAM_INVALID;
    if (result == RT_OK)
        range->base = 0;
    pthread_mutex_unlock(&lock);
    return result;
}

rtError_t rtMapMem(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,
                   uint64_t flags) {
    int32_t device;
    rtError_t result = acl_enter(&device);
    if (result != RT_OK)
        return result;
    pthread_mutex_lock(&lock);
    struct range *range = pointer ? range_of((uintptr_t)pointer, false) : NULL;
    result = range && !range->mapped && size <= range->size
                 ? acl_error(cuMemMap((CUdeviceptr)pointer, size, offset,
                                      (CUmemGenericAllocationHandle)handle, flags))
                 : RT_PARAM_INVALID;
    if (result == RT_OK) {
        CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
                                  .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
        cuMemSetAccess((CUdeviceptr)pointer, size, &access, 1);
        range->mapped = size;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

rtError_t rtUnmapMem(void *pointer) {
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    pthread_mutex_lock(&lock);
    struct range *range = pointer ? range_of((uintptr_t)pointer, false) : NULL;
    result = range && range->mapped ? acl_error(cuMemUnmap(range->base, range->mapped))
                                    : RT_PARAM_INVALID;
    if (result == RT_OK)
        range->mapped = 0;
    pthread_mutex_unlock(&lock);
    return result;
}

rtError_t rtMemRetainAllocationHandle(void *pointer, rtDrvMemHandle *handle) {
    CUmemGenericAllocationHandle given;
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    if (!handle)
        return RT_PARAM_INVALID;
    result = acl_error(cuMemRetainAllocationHandle(&given, pointer));
    if (result == RT_OK)
        *handle = (void *)given;
    return result;
}
