/* Physical memory by handles: see shim/memory/physical.h. It is charged to the device that the request
 * names. */
#include "shim.h"

#include "shim/memory/physical.h"
#include "shim/memory/shared.h"

/* In place of a device's number. */
static const int64_t OF_HOST = -1, OF_THREAD = -2;

/* Charges for device `number`; `*index` is that in the grant, -1: not ours. */
static rtError_t begin(int64_t number, uint64_t size, int *index, uint64_t *bytes) {
    *index = -1;
    rtError_t result = aliquot_ready();
    if (result != RT_OK)
        return result == RT_NO_DEVICE ? RT_OK : result;
    if (number == OF_HOST)
        return RT_OK;
    if (number == OF_THREAD)
        result = aliquot_device_ask(index);
    else
        *index = aliquot_device_index((int32_t)number);
    if (result != RT_OK)
        return result;
    if (*index < 0)
        return *index == -1 ? RT_MEMORY_ALLOCATION : RT_OK;
    *bytes = aliquot_whole_pages((uint32_t)*index, size);
    return aliquot_charge((uint32_t)*index, *bytes) ? RT_OK : RT_MEMORY_ALLOCATION;
}

/* The device that a request names by its attributes, or else the thread's. */
static int64_t named(const rtMallocConfig_t *config) {
    int64_t number = aliquot_device_named(config);
    return number >= 0 ? number : OF_THREAD;
}

#define CREATE(symbol, number, parameters, arguments)                                              \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        int index;                                                                                 \
        uint64_t bytes = 0;                                                                        \
        rtError_t result = begin(number, size, &index, &bytes);                                    \
        if (result != RT_OK)                                                                       \
            return result;                                                                         \
        ALIQUOT_RETRY(result, symbol, arguments);                                                  \
        if (index >= 0 && result == RT_OK)                                                         \
            aliquot_physical_created((uintptr_t)*handle, (uint32_t)index, bytes);                  \
        else if (index >= 0)                                                                       \
            aliquot_withdraw((uint32_t)index, bytes);                                              \
        return result;                                                                             \
    }

CREATE(rtMallocPhysical, property && property->side != RT_MEM_HOST_SIDE ? property->devid : OF_HOST,
       (rtDrvMemHandle * handle, size_t size, rtDrvMemProp_t *property, uint64_t flags),
       (handle, size, property, flags))
CREATE(rtsMemMallocPhysical, named(config),
       (rtDrvMemHandle * handle, size_t size, uint32_t policy, rtMallocConfig_t *config),
       (handle, size, policy, config))
CREATE(aclrtMallocPhysicalImpl,
       property && property->location.type == ACL_MEM_LOCATION_TYPE_DEVICE ? property->location.id
                                                                           : OF_HOST,
       (rtDrvMemHandle * handle, size_t size, const aclrtPhysicalMemProp *property, uint64_t flags),
       (handle, size, property, flags))

uint64_t aliquot_mapping_base(uint64_t address) {
    void *base = NULL;
    size_t bytes;
    rtError_t result;
    ALIQUOT_CALL(result, rtMemGetAddressRange, ((void *)(uintptr_t)address, &base, &bytes));
    return result == RT_OK ? (uintptr_t)base : 0;
}

/* -- Handles and mappings ---------------------------------------------------------------------------- */

#define RELEASE(symbol, type, value)                                                               \
    rtError_t aliquot_##symbol(type handle) {                                                      \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(handle);                                                           \
        uint64_t of = aliquot_ready() == RT_OK ? (uintptr_t)(value) : 0;                           \
        uint32_t number = of ? aliquot_physical_release(of) : 0;                                   \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (handle));                                                    \
        aliquot_physical_released(number, of, result == RT_OK);                                    \
        return result;                                                                             \
    }
RELEASE(rtFreePhysical, rtDrvMemHandle, handle)
RELEASE(rtsMemFreePhysical, rtDrvMemHandle *, handle ? *handle : NULL)
RELEASE(aclrtFreePhysicalImpl, rtDrvMemHandle, handle)

#define MAP(symbol)                                                                                \
    rtError_t aliquot_##symbol(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,   \
                               uint64_t flags) {                                                   \
        if (aliquot_is_inner() || aliquot_ready() != RT_OK)                                        \
            return REAL(symbol)(pointer, size, offset, handle, flags);                             \
        uint32_t number = aliquot_physical_map((uintptr_t)handle);                                 \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (pointer, size, offset, handle, flags));                      \
        aliquot_physical_mapped(number, (uintptr_t)pointer, size, result == RT_OK);                \
        return result;                                                                             \
    }
MAP(rtMapMem)
MAP(rtsMemMap)
MAP(aclrtMapMemImpl)

#define UNMAP(symbol)                                                                              \
    rtError_t aliquot_##symbol(void *pointer) {                                                    \
        if (aliquot_is_inner() || aliquot_ready() != RT_OK)                                        \
            return REAL(symbol)(pointer);                                                          \
        struct aliquot_unmapping unmapping;                                                        \
        aliquot_physical_unmap(&unmapping, (uintptr_t)pointer, 0);                                 \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (pointer));                                                   \
        aliquot_physical_unmapped(&unmapping, result == RT_OK);                                    \
        return result;                                                                             \
    }
UNMAP(rtUnmapMem)
UNMAP(rtsMemUnmap)
UNMAP(aclrtUnmapMemImpl)

#define RETAIN(symbol)                                                                             \
    rtError_t aliquot_##symbol(void *pointer, rtDrvMemHandle *handle) {                            \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pointer, handle);                                                  \
        bool ready = aliquot_ready() == RT_OK;                                                     \
        rtError_t result;                                                                          \
        if (ready)                                                                                 \
            aliquot_physical_retain();                                                             \
        ALIQUOT_CALL(result, symbol, (pointer, handle));                                           \
        if (ready)                                                                                 \
            aliquot_physical_retained((uintptr_t)pointer,                                          \
                                      result == RT_OK ? (uintptr_t)*handle : 0);                   \
        return result;                                                                             \
    }
RETAIN(rtMemRetainAllocationHandle)
RETAIN(aclrtMemRetainAllocationHandleImpl)

/* -- Sharing ------------------------------------------------------------------------------------------ */

/* A shareable handle is the same bytes in every process: a number, or a block when it is to reach other
 * nodes. */
static uint64_t key_of(const void *shareable, uint32_t kind) {
    size_t bytes = kind == RT_MEM_SHARE_HANDLE_FABRIC ? RT_MEM_FABRIC_BYTES : sizeof(uint64_t);
    return shareable ? aliquot_shared_key(shareable, bytes) : 0;
}

#define EXPORT(symbol, kind, parameters, arguments)                                                \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        uint32_t number = aliquot_ready() == RT_OK ? aliquot_physical_keep((uintptr_t)handle) : 0; \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        aliquot_physical_exported(number, result == RT_OK ? key_of(shareable, kind) : 0, -1);      \
        return result;                                                                             \
    }
EXPORT(rtMemExportToShareableHandle, RT_MEM_SHARE_HANDLE_DEFAULT,
       (rtDrvMemHandle handle, uint32_t type, uint64_t flags, uint64_t *shareable),
       (handle, type, flags, shareable))
EXPORT(rtsMemExportToShareableHandle, RT_MEM_SHARE_HANDLE_DEFAULT,
       (rtDrvMemHandle handle, uint32_t type, uint64_t flags, uint64_t *shareable),
       (handle, type, flags, shareable))
EXPORT(rtMemExportToShareableHandleV2, kind,
       (rtDrvMemHandle handle, uint32_t kind, uint64_t flags, void *shareable),
       (handle, kind, flags, shareable))
EXPORT(aclrtMemExportToShareableHandleImpl, RT_MEM_SHARE_HANDLE_DEFAULT,
       (rtDrvMemHandle handle, uint32_t type, uint64_t flags, uint64_t *shareable),
       (handle, type, flags, shareable))
EXPORT(aclrtMemExportToShareableHandleV2Impl, kind,
       (rtDrvMemHandle handle, uint64_t flags, uint32_t kind, void *shareable),
       (handle, flags, kind, shareable))

#define IMPORT(symbol, key, parameters, arguments)                                                 \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        bool ready = aliquot_ready() == RT_OK;                                                     \
        uint64_t held = aliquot_physical_import(ready ? (key) : 0);                                \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        if (ready)                                                                                 \
            aliquot_physical_imported(held, result == RT_OK ? (uintptr_t)*handle : 0);             \
        return result;                                                                             \
    }
IMPORT(rtMemImportFromShareableHandle, key_of(&shareable, RT_MEM_SHARE_HANDLE_DEFAULT),
       (uint64_t shareable, int32_t device, rtDrvMemHandle *handle), (shareable, device, handle))
IMPORT(rtsMemImportFromShareableHandle, key_of(&shareable, RT_MEM_SHARE_HANDLE_DEFAULT),
       (uint64_t shareable, int32_t device, rtDrvMemHandle *handle), (shareable, device, handle))
IMPORT(rtMemImportFromShareableHandleV2, key_of(shareable, kind),
       (const void *shareable, uint32_t kind, uint64_t flags, int32_t device,
        rtDrvMemHandle *handle),
       (shareable, kind, flags, device, handle))
IMPORT(aclrtMemImportFromShareableHandleImpl, key_of(&shareable, RT_MEM_SHARE_HANDLE_DEFAULT),
       (uint64_t shareable, int32_t device, rtDrvMemHandle *handle), (shareable, device, handle))
IMPORT(aclrtMemImportFromShareableHandleV2Impl, key_of(shareable, kind),
       (void *shareable, uint32_t kind, uint64_t flags, rtDrvMemHandle *handle),
       (shareable, kind, flags, handle))
