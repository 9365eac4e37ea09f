/* Virtual memory management: see shim/memory/physical.h. Memory on the host is not charged. Memory that is bound
 * to multicast objects is kept by them.
 */
#include "shim.h"

#include "shim/memory/descriptor.h"
#include "shim/memory/physical.h"
#include "shim/memory/shared.h"

#include <pthread.h>
#include <string.h>

uint64_t aliquot_mapping_base(uint64_t address) {
    CUdeviceptr base;
    size_t bytes;
    return REAL(cuMemGetAddressRange_v2)(&base, &bytes, address) == CUDA_SUCCESS ? base : 0;
}

/* After whatever lets go of memory: what only a descriptor keeps is looked at later. */
static CUresult let_go(CUresult result) {
    if (__builtin_expect(aliquot_physical_lingers(), 0))
        atomic_fetch_or_explicit(&aliquot_lazy, ALIQUOT_LAZY_EXPORTS, memory_order_relaxed);
    return result;
}

void aliquot_vmm_settle(void) {
    aliquot_physical_settle();
    if (!aliquot_physical_lingers())
        atomic_fetch_and_explicit(&aliquot_lazy, ~ALIQUOT_LAZY_EXPORTS, memory_order_relaxed);
}

/* -- Handles and mappings ------------------------------------------------------------------------ */

CUresult aliquot_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
                             const CUmemAllocationProp *properties, unsigned long long flags) {
    /* Host memory and malformed requests are between the program and the driver. */
    bool here = properties && properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
    CUresult result = here ? aliquot_ready() : CUDA_SUCCESS;
    if (!here || result == CUDA_ERROR_NOT_INITIALIZED)
        return REAL(cuMemCreate)(handle, size, properties, flags);
    if (result != CUDA_SUCCESS)
        return result;
    int index = aliquot_mapped(properties->location.id);
    if (index < 0)
        return index == ALIQUOT_NO_SUCH_DEVICE ? REAL(cuMemCreate)(handle, size, properties, flags)
                                               : CUDA_ERROR_OUT_OF_MEMORY;
    uint32_t device = (uint32_t)index;
    uint64_t bytes = aliquot_whole_pages(device, size);
    if (!aliquot_charge(device, bytes)) {
        /* What the driver would not give in any case gets its own answer. */
        size_t step;
        result = REAL(cuMemGetAllocationGranularity)(&step, properties,
                                                     CU_MEM_ALLOC_GRANULARITY_MINIMUM);
        if (result != CUDA_SUCCESS)
            return result;
        return step && size && size % step == 0
                   ? CUDA_ERROR_OUT_OF_MEMORY
                   : REAL(cuMemCreate)(handle, size, properties, flags);
    }
    ALIQUOT_RETRY(result, REAL(cuMemCreate)(handle, size, properties, flags));
    if (result != CUDA_SUCCESS) {
        aliquot_withdraw(device, bytes);
        return result;
    }
    aliquot_physical_created(*handle, device, bytes);
    return result;
}

CUresult aliquot_cuMemRelease(CUmemGenericAllocationHandle handle) {
    uint32_t number = aliquot_physical_release(handle);
    CUresult result = REAL(cuMemRelease)(handle);
    aliquot_physical_released(number, handle, result == CUDA_SUCCESS);
    return let_go(result);
}

CUresult aliquot_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMemRetainAllocationHandle)(handle, address);
    aliquot_physical_retain();
    CUresult result = REAL(cuMemRetainAllocationHandle)(handle, address);
    aliquot_physical_retained((uintptr_t)address, result == CUDA_SUCCESS ? *handle : 0);
    return result;
}

CUresult aliquot_cuMemMap(CUdeviceptr address, size_t size, size_t offset,
                          CUmemGenericAllocationHandle handle, unsigned long long flags) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMemMap)(address, size, offset, handle, flags);
    uint32_t number = aliquot_physical_map(handle);
    CUresult result = REAL(cuMemMap)(address, size, offset, handle, flags);
    aliquot_physical_mapped(number, address, size, result == CUDA_SUCCESS);
    return let_go(result);
}

CUresult aliquot_cuMemUnmap(CUdeviceptr address, size_t size) {
    if (aliquot_ready() != CUDA_SUCCESS || !size || size > UINT64_MAX - address)
        return REAL(cuMemUnmap)(address, size);
    struct aliquot_unmapping unmapping;
    aliquot_physical_unmap(&unmapping, address, size);
    CUresult result = REAL(cuMemUnmap)(address, size);
    aliquot_physical_unmapped(&unmapping, result == CUDA_SUCCESS);
    return let_go(result);
}

/* -- Sharing ------------------------------------------------------------------------------------ */

/* `shareable`: what was exported, or as it is given to an import. 0: nothing knows it by that. */
static uint64_t key_of(const void *shareable, int fd, CUmemAllocationHandleType type) {
    if (type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return aliquot_descriptor_key(fd);
    return type == CU_MEM_HANDLE_TYPE_FABRIC && shareable
               ? aliquot_shared_key(shareable, sizeof(CUmemFabricHandle))
               : 0;
}

CUresult aliquot_cuMemExportToShareableHandle(void *shareable, CUmemGenericAllocationHandle handle,
                                              CUmemAllocationHandleType type,
                                              unsigned long long flags) {
    uint32_t number = aliquot_ready() == CUDA_SUCCESS ? aliquot_physical_keep(handle) : 0;
    CUresult result = REAL(cuMemExportToShareableHandle)(shareable, handle, type, flags);
    bool done = number && result == CUDA_SUCCESS;
    int fd = done && type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ? *(int *)shareable : -1;
    aliquot_physical_exported(number, done ? key_of(shareable, fd, type) : 0, fd);
    return let_go(result);
}

CUresult aliquot_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle,
                                                void *shareable, CUmemAllocationHandleType type) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMemImportFromShareableHandle)(handle, shareable, type);
    uint64_t held = aliquot_physical_import(key_of(shareable, (int)(intptr_t)shareable, type));
    CUresult result = REAL(cuMemImportFromShareableHandle)(handle, shareable, type);
    aliquot_physical_imported(held, result == CUDA_SUCCESS ? *handle : 0);
    return result;
}

/* -- Multicast: the object is fabric address space; it keeps the memory bound to it -------------- */

#define BINDINGS 4096u

/* Numbers of the book's; memory 0: a free place. The mutex is taken after the book's. */
static struct binding {
    uint32_t multicast, memory;
    CUdevice ordinal;
    uint64_t offset;
} bindings[BINDINGS];
static pthread_mutex_t bindings_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Ends bindings, of one device (-1: of any); what they kept is dropped. */
static void unbind(uint32_t multicast, CUdevice ordinal, uint64_t from, uint64_t size,
                   void (*drop)(uint32_t number)) {
    for (uint32_t i = 0; i < BINDINGS; i++) {
        struct binding *binding = &bindings[i];
        uint32_t memory = 0;
        pthread_mutex_lock(&bindings_mutex);
        if (binding->memory && binding->multicast == multicast &&
            (ordinal < 0 || binding->ordinal == ordinal) && binding->offset >= from &&
            binding->offset - from < size) {
            memory = binding->memory;
            *binding = (struct binding){0};
        }
        pthread_mutex_unlock(&bindings_mutex);
        if (memory)
            drop(memory);
    }
}

static void multicast_ended(uint32_t number) {
    unbind(number, -1, 0, UINT64_MAX, aliquot_physical_drop);
}

CUresult aliquot_cuMulticastCreate(CUmemGenericAllocationHandle *handle,
                                   const CUmulticastObjectProp *properties) {
    CUresult result = REAL(cuMulticastCreate)(handle, properties);
    if (result == CUDA_SUCCESS && aliquot_ready() == CUDA_SUCCESS)
        aliquot_physical_noted(*handle, multicast_ended);
    return result;
}

/* What a binding is about, kept over the driver's call. */
struct binding_ends {
    bool ready;
    uint32_t multicast, memory; /* 0: not ours */
};

static struct binding_ends bind_memory(uint64_t multicast, uint64_t memory) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return (struct binding_ends){0};
    aliquot_layout_read();
    return (struct binding_ends){true, aliquot_physical_keep(multicast),
                                 aliquot_physical_keep(memory)};
}

static struct binding_ends bind_address(uint64_t multicast, CUdeviceptr address) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return (struct binding_ends){0};
    aliquot_layout_write();
    return (struct binding_ends){true, aliquot_physical_keep(multicast),
                                 aliquot_physical_keep_mapped(address)};
}

/* Whether the binding goes on keeping the memory. */
static bool place_binding(const struct binding_ends *ends, CUdevice ordinal, uint64_t offset) {
    bool placed = false;
    if (!ends->multicast || !ends->memory)
        return false;
    if (ordinal < 0)
        ordinal = aliquot_device_ordinal(aliquot_physical_device(ends->memory));
    pthread_mutex_lock(&bindings_mutex);
    for (uint32_t i = 0; i < BINDINGS && !placed; i++)
        if (!bindings[i].memory) {
            bindings[i] = (struct binding){ends->multicast, ends->memory, ordinal, offset};
            placed = true;
        }
    pthread_mutex_unlock(&bindings_mutex);
    return placed;
}

/* `ordinal` -1: the device of the memory. */
static CUresult bound(const struct binding_ends *ends, CUresult result, CUdevice ordinal,
                      uint64_t offset) {
    if (!ends->ready)
        return result;
    if (result != CUDA_SUCCESS || !place_binding(ends, ordinal, offset))
        aliquot_physical_let_go(ends->memory);
    aliquot_physical_let_go(ends->multicast);
    aliquot_layout_end();
    return let_go(result);
}

CUresult aliquot_cuMulticastBindMem(CUmemGenericAllocationHandle multicast, size_t offset,
                                    CUmemGenericAllocationHandle memory, size_t memory_offset,
                                    size_t size, unsigned long long flags) {
    struct binding_ends ends = bind_memory(multicast, memory);
    CUresult result =
        REAL(cuMulticastBindMem)(multicast, offset, memory, memory_offset, size, flags);
    return bound(&ends, result, -1, offset);
}

CUresult aliquot_cuMulticastBindMem_v2(CUmemGenericAllocationHandle multicast, CUdevice ordinal,
                                       size_t offset, CUmemGenericAllocationHandle memory,
                                       size_t memory_offset, size_t size,
                                       unsigned long long flags) {
    struct binding_ends ends = bind_memory(multicast, memory);
    CUresult result =
        REAL(cuMulticastBindMem_v2)(multicast, ordinal, offset, memory, memory_offset, size, flags);
    return bound(&ends, result, ordinal, offset);
}

CUresult aliquot_cuMulticastBindAddr(CUmemGenericAllocationHandle multicast, size_t offset,
                                     CUdeviceptr address, size_t size, unsigned long long flags) {
    struct binding_ends ends = bind_address(multicast, address);
    CUresult result = REAL(cuMulticastBindAddr)(multicast, offset, address, size, flags);
    return bound(&ends, result, -1, offset);
}

CUresult aliquot_cuMulticastBindAddr_v2(CUmemGenericAllocationHandle multicast, CUdevice ordinal,
                                        size_t offset, CUdeviceptr address, size_t size,
                                        unsigned long long flags) {
    struct binding_ends ends = bind_address(multicast, address);
    CUresult result =
        REAL(cuMulticastBindAddr_v2)(multicast, ordinal, offset, address, size, flags);
    return bound(&ends, result, ordinal, offset);
}

CUresult aliquot_cuMulticastUnbind(CUmemGenericAllocationHandle multicast, CUdevice ordinal,
                                   size_t offset, size_t size) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMulticastUnbind)(multicast, ordinal, offset, size);
    aliquot_layout_write();
    uint32_t number = aliquot_physical_keep(multicast);
    CUresult result = REAL(cuMulticastUnbind)(multicast, ordinal, offset, size);
    if (number && result == CUDA_SUCCESS)
        unbind(number, ordinal, offset, size, aliquot_physical_let_go);
    aliquot_physical_let_go(number);
    aliquot_layout_end();
    return let_go(result);
}

void aliquot_vmm_forget(void) {
    pthread_mutex_init(&bindings_mutex, NULL);
    memset(bindings, 0, sizeof bindings);
    aliquot_physical_forget();
}
