/* Physical memory and its mappings: see shim/memory/physical.h. */
#include "shim.h"

#include "shim/memory/descriptor.h"
#include "shim/memory/physical.h"

#include <string.h>

/* Whether the book is asked: in a process that has a region, of what the driver does not do for itself. */
#define BOOKED() (aliquot_ready() == CN_SUCCESS && !OWN_CALL())
#define CALL(result, call)                                                                         \
    do {                                                                                           \
        aliquot_own.depth++;                                                                       \
        (result) = call;                                                                           \
        aliquot_own.depth--;                                                                       \
    } while (0)

uint64_t aliquot_mapping_base(uint64_t address) {
    CNaddr base = 0;
    uint64_t bytes;
    CNresult result;
    CALL(result, REAL(cnMemGetAddressRange)(&base, &bytes, address));
    return result == CN_SUCCESS ? base : 0;
}

CNresult aliquot_cnMemCreate(CNmemGenericAllocationHandle *handle, uint64_t bytes,
                             CNmemAllocationProp *properties, uint64_t flags) {
    CNresult result = CN_ERROR_NOT_INITIALIZED;
    if (properties && properties->location.type == CN_MEM_LOCATION_TYPE_DEVICE && !OWN_CALL())
        result = aliquot_ready();
    if (result != CN_SUCCESS) /* the driver says itself that it is not initialised */
        return result == CN_ERROR_NOT_INITIALIZED
                   ? REAL(cnMemCreate)(handle, bytes, properties, flags)
                   : result;
    int index = aliquot_ordinal_index(properties->location.id);
    uint32_t device = (uint32_t)index;
    if (index == ALIQUOT_NO_SUCH_DEVICE)
        return REAL(cnMemCreate)(handle, bytes, properties, flags);
    if (index < 0)
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    uint64_t charged = aliquot_whole_pages(device, bytes);
    if (!aliquot_charge(device, charged)) {
        /* What the driver would not give in any case gets its own answer. */
        uint64_t step = 1;
        if (HAVE(cnMemGetAllocationGranularity))
            result = REAL(cnMemGetAllocationGranularity)(&step, properties,
                                                         CN_MEM_ALLOC_GRANULARITY_MINIMUM);
        if (result != CN_SUCCESS)
            return result;
        return step && bytes && bytes % step == 0
                   ? CN_MEMORY_ERROR_OUT_OF_MEMORY
                   : REAL(cnMemCreate)(handle, bytes, properties, flags);
    }
    ALIQUOT_RETRY(result, REAL(cnMemCreate)(handle, bytes, properties, flags));
    if (result == CN_SUCCESS)
        aliquot_physical_created(*handle, device, charged);
    else
        aliquot_withdraw(device, charged);
    return result;
}

CNresult aliquot_cnMemRelease(CNmemGenericAllocationHandle handle) {
    CNresult result;
    if (!BOOKED())
        return REAL(cnMemRelease)(handle);
    uint32_t number = aliquot_physical_release(handle);
    CALL(result, REAL(cnMemRelease)(handle));
    aliquot_physical_released(number, handle, result == CN_SUCCESS);
    return result;
}

CNresult aliquot_cnMemRetainAllocationHandle(CNmemGenericAllocationHandle *handle, CNaddr address) {
    CNresult result;
    if (!BOOKED())
        return REAL(cnMemRetainAllocationHandle)(handle, address);
    aliquot_physical_retain();
    CALL(result, REAL(cnMemRetainAllocationHandle)(handle, address));
    aliquot_physical_retained(address, result == CN_SUCCESS ? *handle : 0);
    return result;
}

CNresult aliquot_cnMemMap(CNaddr address, uint64_t bytes, uint64_t offset,
                          CNmemGenericAllocationHandle handle, uint64_t flags) {
    CNresult result;
    if (!BOOKED())
        return REAL(cnMemMap)(address, bytes, offset, handle, flags);
    uint32_t number = aliquot_physical_map(handle);
    CALL(result, REAL(cnMemMap)(address, bytes, offset, handle, flags));
    aliquot_physical_mapped(number, address, bytes, result == CN_SUCCESS);
    return result;
}

CNresult aliquot_cnMemUnmap(CNaddr address, uint64_t bytes) {
    struct aliquot_unmapping unmapping;
    CNresult result;
    if (!BOOKED() || bytes > UINT64_MAX - address)
        return REAL(cnMemUnmap)(address, bytes);
    aliquot_physical_unmap(&unmapping, address, bytes);
    CALL(result, REAL(cnMemUnmap)(address, bytes));
    aliquot_physical_unmapped(&unmapping, result == CN_SUCCESS);
    return result;
}

/* -- Sharing ------------------------------------------------------------------------------------ */

CNresult aliquot_cnMemExportToShareableHandle(void *shareable, CNmemGenericAllocationHandle handle,
                                              int kind, uint64_t flags) {
    CNresult result;
    if (!BOOKED())
        return REAL(cnMemExportToShareableHandle)(shareable, handle, kind, flags);
    uint32_t number = aliquot_physical_keep(handle);
    CALL(result, REAL(cnMemExportToShareableHandle)(shareable, handle, kind, flags));
    int fd = -1;
    if (result == CN_SUCCESS && kind == CN_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        memcpy(&fd, shareable, sizeof fd);
    aliquot_physical_exported(number, aliquot_descriptor_key(fd), fd);
    return result;
}

CNresult aliquot_cnMemImportFromShareableHandle(CNmemGenericAllocationHandle *handle,
                                                void *shareable, int kind) {
    CNresult result;
    if (!BOOKED())
        return REAL(cnMemImportFromShareableHandle)(handle, shareable, kind);
    bool file = kind == CN_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    uint64_t held =
        aliquot_physical_import(file ? aliquot_descriptor_key((int)(intptr_t)shareable) : 0);
    CALL(result, REAL(cnMemImportFromShareableHandle)(handle, shareable, kind));
    aliquot_physical_imported(held, result == CN_SUCCESS ? *handle : 0);
    return result;
}
