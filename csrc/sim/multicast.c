/* Multicast objects: which devices are in the team, and which memory is bound. What kernels do
 * through them is not simulated, so their mappings lead nowhere. */
#include "vmm.h"

#include "exec.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The share's record, which all processes of the team see: */
enum { DETAIL_TEAM, DETAIL_ADDED, DETAIL_DEVICES };

struct binding {
    struct binding *next;
    CUdevice dev;
    uint64_t offset, bytes;
    struct vmm *memory; /* NULL: bound by address */
};

static uint32_t *detail_of(const struct vmm *multicast) {
    return sim_share_record(sim_state, &multicast->share)->detail;
}

static bool supported(CUdevice dev) {
    int value = 0;
    (void)sim_device_attribute(dev, CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, &value);
    return value != 0;
}

static CUresult check_prop(const CUmulticastObjectProp *prop) {
    if (!prop || prop->numDevices < 2 || prop->numDevices > SIM_DEVICES_MAX || prop->flags ||
        !prop->size)
        return CUDA_ERROR_INVALID_VALUE;
    if (prop->handleTypes & ~(unsigned long long)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    for (CUdevice d = 0; d < sim_device_count(); d++)
        if (supported(d))
            return CUDA_SUCCESS;
    return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuMulticastGetGranularity(size_t *bytes, const CUmulticastObjectProp *prop,
                                   CUmulticastGranularity_flags option) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!bytes || (option != CU_MULTICAST_GRANULARITY_MINIMUM &&
                   option != CU_MULTICAST_GRANULARITY_RECOMMENDED))
        return CUDA_ERROR_INVALID_VALUE;
    result = check_prop(prop);
    if (result == CUDA_SUCCESS)
        *bytes = vmm_granularity(SIM_DEVICES_MAX);
    return result;
}

CUresult cuMulticastCreate(CUmemGenericAllocationHandle *handle,
                           const CUmulticastObjectProp *prop) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    result = check_prop(prop);
    if (result == CUDA_SUCCESS && (!handle || prop->size % vmm_granularity(SIM_DEVICES_MAX)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        return result;
    const CUmemAllocationProp as_memory = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                           .requestedHandleTypes =
                                               (CUmemAllocationHandleType)prop->handleTypes};
    const uint32_t detail[4] = {[DETAIL_TEAM] = prop->numDevices};
    pthread_mutex_lock(&vmm_lock);
    struct vmm *multicast = vmm_make(&as_memory, prop->size, SIM_DEVICES_MAX);
    if (multicast && share_make(SIM_DEVICES_MAX, SIM_SHARE_MULTICAST, NULL, prop->size, detail,
                                &multicast->share)) {
        multicast->multicast = true;
        *handle = (CUmemGenericAllocationHandle)(uintptr_t)multicast;
    } else {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        if (multicast)
            vmm_drop(multicast);
    }
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

CUresult cuMulticastAddDevice(CUmemGenericAllocationHandle handle, CUdevice dev) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (dev < 0 || dev >= sim_device_count())
        return CUDA_ERROR_INVALID_DEVICE;
    if (!supported(dev))
        return CUDA_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&vmm_lock);
    struct vmm *multicast = vmm_get(handle);
    if (!multicast || !multicast->multicast) {
        pthread_mutex_unlock(&vmm_lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    uint32_t *detail = detail_of(multicast);
    uint32_t bit = 1u << sim_device_physical(dev);
    /* Release pairs with the acquire in multicast_wait and bind. */
    uint32_t before = __atomic_fetch_or(&detail[DETAIL_DEVICES], bit, __ATOMIC_ACQ_REL);
    if ((before & bit) || (uint32_t)__builtin_popcount(before) >= detail[DETAIL_TEAM]) {
        result = CUDA_ERROR_INVALID_VALUE;
        if (!(before & bit))
            __atomic_fetch_and(&detail[DETAIL_DEVICES], ~bit, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(&detail[DETAIL_ADDED], 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, &detail[DETAIL_ADDED], FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

void multicast_wait(struct vmm *multicast) {
    uint32_t *detail = detail_of(multicast);
    for (;;) {
        /* Acquire pairs with the release in cuMulticastAddDevice. */
        uint32_t added = __atomic_load_n(&detail[DETAIL_ADDED], __ATOMIC_ACQUIRE);
        if (added >= detail[DETAIL_TEAM])
            return;
        syscall(SYS_futex, &detail[DETAIL_ADDED], FUTEX_WAIT, added, NULL, NULL, 0);
    }
}

/* ---- Bindings ------------------------------------------------------------------------------ */

/* Under vmm_lock. `memory` NULL: bound by address. */
static CUresult bind(struct vmm *multicast, CUdevice dev, uint64_t offset, struct vmm *memory,
                     uint64_t bytes) {
    uint64_t step = vmm_granularity(SIM_DEVICES_MAX);
    if (!bytes || bytes % step || offset % step || offset > multicast->bytes ||
        bytes > multicast->bytes - offset)
        return CUDA_ERROR_INVALID_VALUE;
    if (dev < 0 || dev >= sim_device_count() ||
        !(__atomic_load_n(&detail_of(multicast)[DETAIL_DEVICES], __ATOMIC_ACQUIRE) >>
              sim_device_physical(dev) &
          1))
        return CUDA_ERROR_INVALID_DEVICE;
    for (const struct binding *there = multicast->bindings; there; there = there->next)
        if (there->dev == dev && there->offset < offset + bytes &&
            offset < there->offset + there->bytes)
            return CUDA_ERROR_INVALID_VALUE;
    struct binding *binding = malloc(sizeof *binding);
    if (!binding)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *binding = (struct binding){multicast->bindings, dev, offset, bytes, memory};
    multicast->bindings = binding;
    if (memory)
        memory->bound++;
    return CUDA_SUCCESS;
}

/* The object, once its team is complete, with one handle more; vmm_lock is held when it returns
 * one. */
static struct vmm *lock_complete(CUmemGenericAllocationHandle handle) {
    pthread_mutex_lock(&vmm_lock);
    struct vmm *multicast = vmm_get(handle);
    if (!multicast || !multicast->multicast) {
        pthread_mutex_unlock(&vmm_lock);
        return NULL;
    }
    multicast->handles++; /* it stays while we wait */
    pthread_mutex_unlock(&vmm_lock);
    multicast_wait(multicast);
    pthread_mutex_lock(&vmm_lock);
    return multicast;
}

static CUresult bind_memory(CUmemGenericAllocationHandle handle, CUdevice dev, bool own_device,
                            size_t offset, CUmemGenericAllocationHandle memory_handle,
                            size_t memory_offset, size_t bytes, unsigned long long flags) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && flags)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        return result;
    struct vmm *multicast = lock_complete(handle);
    if (!multicast)
        return CUDA_ERROR_INVALID_VALUE;
    struct vmm *memory = vmm_get(memory_handle);
    if (!memory || memory->multicast || memory->physical == SIM_DEVICES_MAX ||
        memory_offset % vmm_granularity(memory->physical) || memory_offset > memory->bytes ||
        bytes > memory->bytes - memory_offset ||
        (multicast->prop.requestedHandleTypes && !memory->prop.requestedHandleTypes))
        result = CUDA_ERROR_INVALID_VALUE;
    else
        result =
            bind(multicast, own_device ? memory->prop.location.id : dev, offset, memory, bytes);
    vmm_drop(multicast);
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

CUresult cuMulticastBindMem(CUmemGenericAllocationHandle handle, size_t offset,
                            CUmemGenericAllocationHandle memory, size_t memory_offset, size_t bytes,
                            unsigned long long flags) {
    return bind_memory(handle, -1, true, offset, memory, memory_offset, bytes, flags);
}

CUresult cuMulticastBindMem_v2(CUmemGenericAllocationHandle handle, CUdevice dev, size_t offset,
                               CUmemGenericAllocationHandle memory, size_t memory_offset,
                               size_t bytes, unsigned long long flags) {
    return bind_memory(handle, dev, false, offset, memory, memory_offset, bytes, flags);
}

static CUresult bind_address(CUmemGenericAllocationHandle handle, CUdevice dev, bool own_device,
                             size_t offset, CUdeviceptr ptr, size_t bytes,
                             unsigned long long flags) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && flags)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_memory_info info;
    if (!sim_memory_find(ptr, &info) || info.dev == CU_DEVICE_CPU ||
        bytes > info.bytes - (ptr - info.base))
        return CUDA_ERROR_INVALID_VALUE;
    struct vmm *multicast = lock_complete(handle);
    if (!multicast)
        return CUDA_ERROR_INVALID_VALUE;
    const struct extent *extent = extent_find(ptr);
    struct vmm *memory = extent && extent->kind == EXTENT_VMM ? extent->owner : NULL;
    result = bind(multicast, own_device ? info.dev : dev, offset, memory, bytes);
    vmm_drop(multicast);
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

CUresult cuMulticastBindAddr(CUmemGenericAllocationHandle handle, size_t offset, CUdeviceptr ptr,
                             size_t bytes, unsigned long long flags) {
    return bind_address(handle, -1, true, offset, ptr, bytes, flags);
}

CUresult cuMulticastBindAddr_v2(CUmemGenericAllocationHandle handle, CUdevice dev, size_t offset,
                                CUdeviceptr ptr, size_t bytes, unsigned long long flags) {
    return bind_address(handle, dev, false, offset, ptr, bytes, flags);
}

static void drop(struct binding **link) {
    struct binding *binding = *link;
    *link = binding->next;
    if (binding->memory) {
        binding->memory->bound--;
        vmm_settle(binding->memory);
    }
    free(binding);
}

void multicast_unbind_all(struct vmm *multicast) {
    while (multicast->bindings)
        drop(&multicast->bindings);
}

CUresult cuMulticastUnbind(CUmemGenericAllocationHandle handle, CUdevice dev, size_t offset,
                           size_t bytes) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&vmm_lock);
    struct vmm *multicast = vmm_get(handle);
    bool found = false;
    if (multicast && multicast->multicast)
        for (struct binding **link = &multicast->bindings; *link;) {
            if ((*link)->dev == dev && (*link)->offset >= offset &&
                (*link)->offset + (*link)->bytes <= offset + bytes) {
                drop(link);
                found = true;
            } else {
                link = &(*link)->next;
            }
        }
    pthread_mutex_unlock(&vmm_lock);
    return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
