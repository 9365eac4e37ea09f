/* Virtual memory management: physical allocations, reserved addresses, mappings. */
#include "vmm.h"

#include "exec.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

pthread_mutex_t vmm_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vmm *objects; /* vmm_lock */

enum { HOST_ACCESS = SIM_DEVICES_MAX }; /* bit of the host in readable and writable */

/* ---- Objects. Under vmm_lock ---------------------------------------------------------------- */

struct vmm *vmm_get(CUmemGenericAllocationHandle handle) {
    struct vmm *vmm = (struct vmm *)(uintptr_t)handle;
    return sim_handle_check(SIM_HANDLE_VMM, vmm) ? vmm : NULL;
}

bool vmm_hold(struct vmm *vmm) {
    if (!vmm->handles && !sim_handle_add(SIM_HANDLE_VMM, vmm))
        return false;
    vmm->handles++;
    return true;
}

struct vmm *vmm_make(const CUmemAllocationProp *prop, uint64_t bytes, uint32_t physical) {
    struct vmm *vmm = calloc(1, sizeof *vmm);
    if (!vmm || !vmm_hold(vmm)) {
        free(vmm);
        return NULL;
    }
    vmm->prop = *prop;
    vmm->bytes = bytes;
    vmm->physical = physical;
    vmm->next = objects;
    vmm->from = &objects;
    if (vmm->next)
        vmm->next->from = &vmm->next;
    objects = vmm;
    return vmm;
}

struct vmm *vmm_of_share(const struct sim_share_name *name) {
    for (struct vmm *vmm = objects; vmm; vmm = vmm->next)
        if (vmm->share.nonce == name->nonce && vmm->share.number == name->number)
            return vmm;
    return NULL;
}

void vmm_settle(struct vmm *vmm) {
    if (vmm->handles || vmm->maps || vmm->bound)
        return;
    if (vmm->multicast)
        multicast_unbind_all(vmm);
    *vmm->from = vmm->next;
    if (vmm->next)
        vmm->next->from = vmm->from;
    if (vmm->host)
        munmap((void *)vmm->host, vmm->bytes);
    if (vmm->share.nonce)
        share_release(&vmm->share);
    else if (vmm->frames.frames)
        sim_frames_give(sim_state, vmm->physical, &vmm->frames);
    sim_frames_forget(&vmm->frames);
    free(vmm);
}

void vmm_drop(struct vmm *vmm) {
    if (--vmm->handles)
        return;
    (void)sim_handle_drop(SIM_HANDLE_VMM, vmm);
    vmm_settle(vmm);
}

CUresult vmm_check_location(const CUmemLocation *location, uint32_t *physical) {
    *physical = SIM_DEVICES_MAX;
    switch (location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        if (location->id < 0 || location->id >= sim_device_count())
            return CUDA_ERROR_INVALID_DEVICE;
        *physical = sim_device_physical(location->id);
        return CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        return CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
        return location->id < 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN:
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

uint64_t vmm_granularity(uint32_t physical) {
    return physical < SIM_DEVICES_MAX ? sim_devices[physical].page : UINT64_C(1) << HEAP_PAGE_SHIFT;
}

static CUresult check_prop(const CUmemAllocationProp *prop, uint32_t *physical) {
    if (prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return prop->type == CU_MEM_ALLOCATION_TYPE_MANAGED ? CUDA_ERROR_NOT_SUPPORTED
                                                            : CUDA_ERROR_INVALID_VALUE;
    if (prop->requestedHandleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    return vmm_check_location(&prop->location, physical);
}

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option) {
    uint32_t physical;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!bytes || !prop ||
        (option != CU_MEM_ALLOC_GRANULARITY_MINIMUM &&
         option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED))
        return CUDA_ERROR_INVALID_VALUE;
    result = check_prop(prop, &physical);
    if (result == CUDA_SUCCESS)
        *bytes = vmm_granularity(physical);
    return result;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
                     const CUmemAllocationProp *prop, unsigned long long flags) {
    uint32_t physical;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!handle || !prop || flags)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_prop(prop, &physical);
    if (result != CUDA_SUCCESS)
        return result;
    if (!bytes || bytes % vmm_granularity(physical))
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(physical < SIM_DEVICES_MAX ? prop->location.id : 0, SIM_COST_ALLOC);
    struct sim_frames frames = {0};
    if (physical < SIM_DEVICES_MAX &&
        !sim_frames_take(sim_state, physical, bytes / vmm_granularity(physical), &frames))
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUmemAllocationProp granted = *prop;
    granted.allocFlags.compressionType = CU_MEM_ALLOCATION_COMP_NONE; /* nothing is compressed */
    pthread_mutex_lock(&vmm_lock);
    struct vmm *vmm = vmm_make(&granted, bytes, physical);
    if (!vmm) {
        sim_frames_give(sim_state, physical, &frames);
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else if (physical < SIM_DEVICES_MAX) {
        vmm->frames = frames;
    } else {
        result = vmm_fill_host(vmm, prop->requestedHandleTypes != 0);
    }
    if (result == CUDA_SUCCESS) {
        *handle = (CUmemGenericAllocationHandle)(uintptr_t)vmm;
    } else if (vmm) {
        vmm_drop(vmm);
    }
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&vmm_lock);
    struct vmm *vmm = vmm_get(handle);
    if (vmm)
        vmm_drop(vmm);
    pthread_mutex_unlock(&vmm_lock);
    return vmm ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!handle)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&vmm_lock);
    struct extent *extent = extent_find((CUdeviceptr)address);
    struct vmm *vmm = extent && extent->kind == EXTENT_VMM ? extent->owner : NULL;
    if (!vmm)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (!vmm_hold(vmm))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else
        *handle = (CUmemGenericAllocationHandle)(uintptr_t)vmm;
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop,
                                                CUmemGenericAllocationHandle handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&vmm_lock);
    struct vmm *vmm = vmm_get(handle);
    if (!prop || !vmm || vmm->multicast)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        *prop = vmm->prop;
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

/* ---- Reserved addresses -------------------------------------------------------------------- */

/* Ascending, under vmm_lock. */
static struct reservation {
    CUdeviceptr base;
    uint64_t bytes;
} * reservations;
static size_t reservation_count, reservation_room;

/* The last one that begins at or below the address, or reservation_count. */
static size_t find_reservation(CUdeviceptr address) {
    size_t low = 0, high = reservation_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (reservations[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? low - 1 : reservation_count;
}

bool vmm_reservation(CUdeviceptr address, CUdeviceptr *base, uint64_t *bytes) {
    pthread_mutex_lock(&vmm_lock);
    size_t at = find_reservation(address);
    bool found = at < reservation_count && address - reservations[at].base < reservations[at].bytes;
    if (found) {
        *base = reservations[at].base;
        *bytes = reservations[at].bytes;
    }
    pthread_mutex_unlock(&vmm_lock);
    return found;
}

static bool inside_reservation(CUdeviceptr base, uint64_t bytes) {
    size_t at = find_reservation(base);
    if (at == reservation_count || base + bytes < base)
        return false;
    return base + bytes <= reservations[at].base + reservations[at].bytes;
}

/* Whether a mapping overlaps the range. */
static bool any_mapped(CUdeviceptr base, uint64_t bytes) {
    return extent_in_range(base, bytes) != NULL;
}

CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t bytes, size_t alignment, CUdeviceptr wish,
                             unsigned long long flags) {
    enum { HOST_PAGE = 4096 };
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!ptr || !bytes || bytes % HOST_PAGE || wish % HOST_PAGE || (alignment & (alignment - 1)) ||
        flags)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t align = vmm_granularity(SIM_DEVICES_MAX);
    for (uint32_t p = 0; p < sim_state->node->device_count; p++)
        align = sim_devices[p].page > align ? sim_devices[p].page : align;
    align = alignment > align ? alignment : align;
    if (wish % align)
        wish = 0;
    pthread_mutex_lock(&vmm_lock);
    if (reservation_count == reservation_room) {
        size_t room = reservation_room ? reservation_room * 2 : 64;
        struct reservation *more = realloc(reservations, room * sizeof *more);
        if (more) {
            reservations = more;
            reservation_room = room;
        }
    }
    CUdeviceptr base =
        reservation_count < reservation_room ? addresses_reserve(bytes, align, wish) : 0;
    if (base) {
        size_t at = find_reservation(base);
        at = at == reservation_count ? 0 : at + 1;
        memmove(&reservations[at + 1], &reservations[at],
                (reservation_count - at) * sizeof *reservations);
        reservations[at] = (struct reservation){base, bytes};
        reservation_count++;
        *ptr = base;
    } else {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t bytes) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&vmm_lock);
    size_t at = find_reservation(ptr);
    if (at == reservation_count || reservations[at].base != ptr ||
        reservations[at].bytes != bytes || any_mapped(ptr, bytes)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        reservation_count--;
        memmove(&reservations[at], &reservations[at + 1],
                (reservation_count - at) * sizeof *reservations);
        addresses_release(ptr, bytes);
    }
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

/* ---- Mappings ------------------------------------------------------------------------------ */

/* Puts the object's memory at the addresses, not accessible yet. Under vmm_lock. */
static bool map_memory(const struct vmm *vmm, CUdeviceptr ptr, uint64_t offset, uint64_t bytes) {
    if (vmm->multicast)
        return true;
    if (vmm->physical < SIM_DEVICES_MAX) {
        unsigned shift = sim_devices[vmm->physical].page_shift;
        if (!addresses_map(ptr, vmm->physical, &vmm->frames, offset >> shift, bytes >> shift))
            return false;
    } else if (mremap((void *)(vmm->host + offset), 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                      (void *)ptr) == MAP_FAILED) {
        addresses_unmap(ptr, bytes);
        return false;
    }
    (void)madvise((void *)ptr, bytes, MADV_DONTFORK);
    if (mprotect((void *)ptr, bytes, PROT_NONE) == 0)
        return true;
    addresses_unmap(ptr, bytes);
    return false;
}

/* Under vmm_lock. */
static CUresult map(struct vmm *vmm, CUdeviceptr ptr, size_t bytes, size_t offset) {
    uint64_t step = vmm_granularity(vmm->physical);
    if (!bytes || ptr % step || bytes % step || offset % step || offset > vmm->bytes ||
        bytes > vmm->bytes - offset || !inside_reservation(ptr, bytes) || any_mapped(ptr, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    struct extent *extent = extent_new(EXTENT_VMM, vmm->physical);
    if (!extent)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!map_memory(vmm, ptr, offset, bytes)) {
        extent_free(extent);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    extent->base = ptr;
    extent->span = extent->bytes = bytes;
    extent->backed = !vmm->multicast;
    extent->backing = &vmm->frames;
    extent->backing_offset = offset;
    extent->owner = vmm;
    extent->id = memory_next_id();
    vmm->maps++;
    extent_publish(extent);
    return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr ptr, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&vmm_lock);
    struct vmm *vmm = vmm_get(handle);
    if (vmm && vmm->multicast) {
        vmm->handles++; /* it stays while we wait */
        pthread_mutex_unlock(&vmm_lock);
        multicast_wait(vmm);
        pthread_mutex_lock(&vmm_lock);
        result = map(vmm, ptr, bytes, offset);
        vmm_drop(vmm);
    } else {
        result = vmm ? map(vmm, ptr, bytes, offset) : CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

/* Whether the range consists of whole mappings, one after the other. Under vmm_lock. */
static bool whole_mappings(CUdeviceptr ptr, size_t bytes) {
    if (!bytes || ptr + bytes < ptr)
        return false;
    for (CUdeviceptr at = ptr; at < ptr + bytes;) {
        const struct extent *extent = extent_find(at);
        if (!extent || extent->kind != EXTENT_VMM || extent->base != at ||
            at + extent->span > ptr + bytes)
            return false;
        at += extent->span;
    }
    return true;
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t bytes) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    for (CUdevice d = 0; d < sim_device_count(); d++)
        sim_exec_drain(d);
    pthread_mutex_lock(&vmm_lock);
    if (!whole_mappings(ptr, bytes)) {
        pthread_mutex_unlock(&vmm_lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    for (CUdeviceptr at = ptr; at < ptr + bytes;) {
        struct extent *extent = extent_find(at);
        struct vmm *vmm = extent->owner;
        at += extent->span;
        (void)extent_withdraw(extent);
        addresses_unmap(extent->base, extent->span);
        extent->backing = NULL;
        extent_free(extent);
        vmm->maps--;
        vmm_settle(vmm);
    }
    pthread_mutex_unlock(&vmm_lock);
    return CUDA_SUCCESS;
}

/* ---- Access -------------------------------------------------------------------------------- */

/* Index of the bit that stands for a location, or -1. */
static int access_bit(const CUmemLocation *location) {
    switch (location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        return location->id >= 0 && location->id < sim_device_count() ? location->id : -1;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        return HOST_ACCESS;
    default:
        return -1;
    }
}

static CUresult check_access(const struct extent *extent, const CUmemAccessDesc *wish) {
    int bit = access_bit(&wish->location);
    if (bit < 0)
        return wish->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? CUDA_ERROR_INVALID_DEVICE
                                                                  : CUDA_ERROR_INVALID_VALUE;
    if (wish->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
        wish->flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        wish->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
        return CUDA_ERROR_INVALID_VALUE;
    if (extent->physical == SIM_DEVICES_MAX)
        return CUDA_SUCCESS;
    if (bit == HOST_ACCESS) /* device memory cannot be mapped for the host */
        return wish->flags == CU_MEM_ACCESS_FLAGS_PROT_NONE ? CUDA_SUCCESS
                                                            : CUDA_ERROR_NOT_SUPPORTED;
    CUdevice home = sim_devices[extent->physical].dev;
    if (wish->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && bit != home && !sim_device_peers(bit, home))
        return CUDA_ERROR_INVALID_DEVICE;
    return CUDA_SUCCESS;
}

static void set_access(struct extent *extent, const CUmemAccessDesc *wishes, size_t count) {
    for (size_t w = 0; w < count; w++) {
        uint32_t bit = 1u << access_bit(&wishes[w].location);
        extent->readable &= ~bit;
        extent->writable &= ~bit;
        if (wishes[w].flags & CU_MEM_ACCESS_FLAGS_PROT_READ)
            extent->readable |= bit;
        if (wishes[w].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            extent->writable |= bit;
    }
    /* The engine moves bytes for the devices, so what one of them may the process may. */
    if (extent->backed)
        (void)mprotect((void *)extent->base, extent->span,
                       extent->writable   ? PROT_READ | PROT_WRITE
                       : extent->readable ? PROT_READ
                                          : PROT_NONE);
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t bytes, const CUmemAccessDesc *wishes,
                        size_t count) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!wishes || !count)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&vmm_lock);
    if (!whole_mappings(ptr, bytes))
        result = CUDA_ERROR_INVALID_VALUE;
    for (CUdeviceptr at = ptr; result == CUDA_SUCCESS && at < ptr + bytes;) {
        const struct extent *extent = extent_find(at);
        for (size_t w = 0; w < count && result == CUDA_SUCCESS; w++)
            result = check_access(extent, &wishes[w]);
        at += extent->span;
    }
    for (CUdeviceptr at = ptr; result == CUDA_SUCCESS && at < ptr + bytes;) {
        struct extent *extent = extent_find(at);
        set_access(extent, wishes, count);
        at += extent->span;
    }
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    int bit = location ? access_bit(location) : -1;
    if (!flags || bit < 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&vmm_lock);
    const struct extent *extent = extent_find(ptr);
    if (!extent || extent->kind != EXTENT_VMM)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (extent->writable >> bit & 1)
        *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    else
        *flags = extent->readable >> bit & 1 ? 1u * CU_MEM_ACCESS_FLAGS_PROT_READ
                                             : 1u * CU_MEM_ACCESS_FLAGS_PROT_NONE;
    pthread_mutex_unlock(&vmm_lock);
    return result;
}
