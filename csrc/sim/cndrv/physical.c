/* Physical memory and its mappings, and pools. */
#include "cndrv_sim.h"

#include <string.h>

/* The properties as the driver has them. Errors: INVALID_VALUE. */
static CNresult placed(const CNmemAllocationProp *properties, CUmemAllocationProp *wanted) {
    if (!properties || properties->type != CN_MEM_ALLOCATION_TYPE_DEFAULT ||
        properties->location.type != CN_MEM_LOCATION_TYPE_DEVICE ||
        properties->location.id >= (uint32_t)sim_device_count())
        return CN_ERROR_INVALID_VALUE;
    *wanted = (CUmemAllocationProp){
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = (CUmemAllocationHandleType)properties->requestedHandleTypes,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)properties->location.id},
    };
    return CN_SUCCESS;
}

CNresult cnMemGetAllocationGranularity(uint64_t *bytes, CNmemAllocationProp *properties,
                                       int option) {
    CUmemAllocationProp wanted;
    size_t found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS)
        result = bytes ? placed(properties, &wanted) : CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuMemGetAllocationGranularity(&found, &wanted,
                                                        (CUmemAllocationGranularity_flags)option));
    if (result == CN_SUCCESS)
        *bytes = found;
    return result;
}

CNresult cnMemCreate(CNmemGenericAllocationHandle *handle, uint64_t bytes,
                     CNmemAllocationProp *properties, uint64_t flags) {
    CUmemAllocationProp wanted;
    CUmemGenericAllocationHandle given;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS)
        result = handle ? placed(properties, &wanted) : CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuMemCreate(&given, bytes, &wanted, flags));
    if (result == CN_SUCCESS)
        *handle = given;
    return result;
}

#define PASS(symbol, parameters, call)                                                             \
    CNresult symbol parameters {                                                                   \
        CNresult result = cn_begin();                                                              \
        return result == CN_SUCCESS ? cn_error(call) : result;                                     \
    }

PASS(cnMemRelease, (CNmemGenericAllocationHandle handle), cuMemRelease(handle))
PASS(cnMemAddressFree, (CNaddr address, uint64_t bytes), cuMemAddressFree(address, bytes))
PASS(cnMemMap,
     (CNaddr address, uint64_t bytes, uint64_t offset, CNmemGenericAllocationHandle handle,
      uint64_t flags),
     cuMemMap(address, bytes, offset, handle, flags))
PASS(cnMemUnmap, (CNaddr address, uint64_t bytes), cuMemUnmap(address, bytes))

CNresult cnMemAddressReserve(CNaddr *address, uint64_t bytes, uint64_t alignment, CNaddr start,
                             uint64_t flags) {
    CUdeviceptr given;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !address)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuMemAddressReserve(&given, bytes, alignment, start, flags));
    if (result == CN_SUCCESS)
        *address = given;
    return result;
}

CNresult cnMemSetAccess(CNaddr address, uint64_t bytes, CNmemAccessDesc *description,
                        uint64_t count) {
    CNresult result = cn_begin();
    if (result != CN_SUCCESS)
        return result;
    if (!description || count != 1 || description->location.type != CN_MEM_LOCATION_TYPE_DEVICE)
        return CN_ERROR_INVALID_VALUE;
    const CUmemAccessDesc wanted = {
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)description->location.id},
        .flags = description->accessFlags == CN_MEM_ACCESS_FLAGS_PROT_READONLY
                     ? CU_MEM_ACCESS_FLAGS_PROT_READ
                     : CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    return cn_error(cuMemSetAccess(address, bytes, &wanted, 1));
}

CNresult cnMemGetAccess(CNmemAccessDesc *description, const CNmemLocation *location,
                        void *address) {
    unsigned long long flags;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && (!description || !location))
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    const CUmemLocation place = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)location->id};
    result = cn_error(cuMemGetAccess(&flags, &place, (CUdeviceptr)address));
    if (result == CN_SUCCESS)
        *description = (CNmemAccessDesc){
            .location = *location,
            .accessFlags = flags == CU_MEM_ACCESS_FLAGS_PROT_READ
                               ? CN_MEM_ACCESS_FLAGS_PROT_READONLY
                               : CN_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
    return result;
}

CNresult cnMemGetAllocationPropertiesFromHandle(CNmemAllocationProp *properties,
                                                CNmemGenericAllocationHandle handle) {
    CUmemAllocationProp found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !properties)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuMemGetAllocationPropertiesFromHandle(&found, handle));
    if (result == CN_SUCCESS)
        *properties = (CNmemAllocationProp){
            .type = CN_MEM_ALLOCATION_TYPE_DEFAULT,
            .requestedHandleTypes = (uint32_t)found.requestedHandleTypes,
            .location = {CN_MEM_LOCATION_TYPE_DEVICE, (uint32_t)found.location.id},
        };
    return result;
}

CNresult cnMemRetainAllocationHandle(CNmemGenericAllocationHandle *handle, CNaddr address) {
    CUmemGenericAllocationHandle found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !handle)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error_as(cuMemRetainAllocationHandle(&found, (void *)address),
                             CUDA_ERROR_INVALID_VALUE, CN_MEMORY_ERROR_INVALID_ADDRESS);
    if (result == CN_SUCCESS)
        *handle = found;
    return result;
}

PASS(cnMemExportToShareableHandle,
     (void *shareable, CNmemGenericAllocationHandle handle, int kind, uint64_t flags),
     cuMemExportToShareableHandle(shareable, handle, (CUmemAllocationHandleType)kind, flags))

CNresult cnMemImportFromShareableHandle(CNmemGenericAllocationHandle *handle, void *shareable,
                                        int kind) {
    CUmemGenericAllocationHandle given;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && !handle)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(
            cuMemImportFromShareableHandle(&given, shareable, (CUmemAllocationHandleType)kind));
    if (result == CN_SUCCESS)
        *handle = given;
    return result;
}

/* ---- Pools ---------------------------------------------------------------------------------------- */

static CUmemoryPool pool_of(CNmemoryPool pool) { return (CUmemoryPool)(void *)pool; }

static CNresult given(CNmemoryPool *out, CUresult answer, CUmemoryPool pool) {
    if (answer == CUDA_SUCCESS)
        *out = (CNmemoryPool)(void *)pool;
    return cn_error(answer);
}

static CNresult of_device(CNdev device, const void *out) {
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && (!out || device >= (CNdev)sim_device_count()))
        result = CN_ERROR_INVALID_VALUE;
    return result;
}

CNresult cnDeviceGetMemPool(CNmemoryPool *pool, CNdev device) {
    CUmemoryPool found = NULL;
    CNresult result = of_device(device, pool);
    if (result != CN_SUCCESS)
        return result;
    CUresult answer = cuDeviceGetMemPool(&found, (CUdevice)device);
    return given(pool, answer, found);
}

CNresult cnDeviceGetDefaultMemPool(CNmemoryPool *pool, CNdev device) {
    CUmemoryPool found = NULL;
    CNresult result = of_device(device, pool);
    if (result != CN_SUCCESS)
        return result;
    CUresult answer = cuDeviceGetDefaultMemPool(&found, (CUdevice)device);
    return given(pool, answer, found);
}

PASS(cnDeviceSetMemPool, (CNdev device, CNmemoryPool pool),
     cuDeviceSetMemPool((CUdevice)device, pool_of(pool)))

CNresult cnMemPoolCreate(CNmemoryPool *pool, CNmemPoolProps *properties) {
    CUmemoryPool made = NULL;
    CNresult result = cn_begin();
    if (result != CN_SUCCESS)
        return result;
    if (!pool || !properties || properties->type != CN_MEM_ALLOCATION_TYPE_DEFAULT ||
        properties->location.type != CN_MEM_LOCATION_TYPE_DEVICE)
        return CN_ERROR_INVALID_VALUE;
    const CUmemPoolProps wanted = {
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
        .handleTypes = (CUmemAllocationHandleType)properties->requestedHandleTypes,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)properties->location.id},
        .maxSize = properties->maxSize,
    };
    CUresult answer = cuMemPoolCreate(&made, &wanted);
    return given(pool, answer, made);
}

PASS(cnMemPoolDestroy, (CNmemoryPool pool), cuMemPoolDestroy(pool_of(pool)))
PASS(cnMemPoolTrimTo, (CNmemoryPool pool, size_t keep), cuMemPoolTrimTo(pool_of(pool), keep))
/* The attributes have the driver's numbers. */
PASS(cnMemPoolGetAttribute, (CNmemoryPool pool, int attribute, void *value),
     cuMemPoolGetAttribute(pool_of(pool), (CUmemPool_attribute)attribute, value))
PASS(cnMemPoolSetAttribute, (CNmemoryPool pool, int attribute, void *value),
     cuMemPoolSetAttribute(pool_of(pool), (CUmemPool_attribute)attribute, value))

CNresult cnMemPoolGetAccess(uint32_t *flags, CNmemoryPool pool, CNmemLocation *location) {
    CUmemAccess_flags found;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && (!flags || !location))
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    CUmemLocation place = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)location->id};
    result = cn_error(cuMemPoolGetAccess(&found, pool_of(pool), &place));
    if (result == CN_SUCCESS)
        *flags = found == CU_MEM_ACCESS_FLAGS_PROT_READ ? CN_MEM_ACCESS_FLAGS_PROT_READONLY
                                                        : CN_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return result;
}

static CNresult allocated(CNaddr *address, CUresult answer, CUdeviceptr pointer) {
    if (answer == CUDA_SUCCESS)
        *address = pointer;
    return cn_queued(answer);
}

CNresult cnMemAllocAsync(CNaddr *address, size_t bytes, CNqueue queue) {
    struct sim_context *context;
    CUdeviceptr pointer = 0;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && (!address || !bytes))
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    CUresult answer = cuMemAllocAsync(&pointer, bytes, cn_stream(queue));
    return allocated(address, answer, pointer);
}

CNresult cnMemAllocFromPoolAsync(CNaddr *address, size_t bytes, CNmemoryPool pool, CNqueue queue) {
    struct sim_context *context;
    CUdeviceptr pointer = 0;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && (!address || !bytes))
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    CUresult answer = cuMemAllocFromPoolAsync(&pointer, bytes, pool_of(pool), cn_stream(queue));
    return allocated(address, answer, pointer);
}

CNresult cnMemFreeAsync(CNaddr address, CNqueue queue) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    return result == CN_SUCCESS
               ? cn_error_as(cuMemFreeAsync(address, cn_stream(queue)), CUDA_ERROR_INVALID_VALUE,
                             CN_MEMORY_ERROR_INVALID_ADDRESS)
               : result;
}
