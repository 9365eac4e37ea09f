/* Attributes of pointers. */
#include "pool.h"
#include "vmm.h"

#include <string.h>

/* What is known of an address: an allocation, or reserved addresses with nothing behind. */
struct pointer {
    struct sim_memory_info info;
    bool mapped;
    CUdeviceptr range; /* of addresses: the reservation's for mapped memory */
    uint64_t range_bytes;
    unsigned handle_types;
    uint32_t readable, writable;
    bool sync_memops;
};

static bool look_up(CUdeviceptr ptr, struct pointer *pointer) {
    *pointer = (struct pointer){0};
    pointer->mapped = sim_memory_find(ptr, &pointer->info);
    bool reserved = vmm_reservation(ptr, &pointer->range, &pointer->range_bytes);
    if (!pointer->mapped)
        return reserved;
    if (!reserved) {
        pointer->range = pointer->info.base;
        pointer->range_bytes = pointer->info.bytes;
    }
    const struct extent *extent = extent_find(ptr);
    if (extent && extent->kind == EXTENT_VMM) {
        pthread_mutex_lock(&vmm_lock);
        extent = extent_find(ptr);
        if (extent && extent->kind == EXTENT_VMM) {
            const struct vmm *vmm = extent->owner;
            pointer->handle_types = (unsigned)vmm->prop.requestedHandleTypes;
            pointer->readable = extent->readable;
            pointer->writable = extent->writable;
        }
        pthread_mutex_unlock(&vmm_lock);
    } else if (extent) {
        if (extent->kind == EXTENT_POOL)
            pointer->handle_types =
                (unsigned)((const struct pool *)extent->owner)->props.handleTypes;
        pointer->readable = pointer->writable = UINT32_MAX;
    }
    if (extent)
        pointer->sync_memops = extent->sync_memops;
    return true;
}

static bool on_host(const struct pointer *pointer) { return pointer->info.dev == CU_DEVICE_CPU; }

/* Which device's a pointer is: of host memory, its context's. */
static int ordinal(const struct pointer *pointer) {
    if (!on_host(pointer))
        return pointer->info.dev;
    return pointer->info.ctx ? pointer->info.ctx->dev : 0;
}

static bool ipc_capable(const struct sim_memory_info *info) {
    return info->kind == SIM_MEMORY_LINEAR;
}

static int access_flags(const struct pointer *pointer) {
    struct sim_context *ctx;
    if (sim_enter(&ctx) != CUDA_SUCCESS)
        return CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE;
    CUdevice home = pointer->info.dev;
    if (home != CU_DEVICE_CPU && home != ctx->dev && !sim_device_peers(ctx->dev, home))
        return CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE;
    uint32_t bit = 1u << ctx->dev;
    return pointer->writable & bit   ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE
           : pointer->readable & bit ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ
                                     : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE;
}

static CUresult answer(void *data, CUpointer_attribute attribute, CUdeviceptr ptr,
                       const struct pointer *pointer) {
    const struct sim_memory_info *info = &pointer->info;
    if (!pointer->mapped && attribute != CU_POINTER_ATTRIBUTE_MAPPED &&
        attribute != CU_POINTER_ATTRIBUTE_RANGE_START_ADDR &&
        attribute != CU_POINTER_ATTRIBUTE_RANGE_SIZE)
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = (CUcontext)info->ctx;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = on_host(pointer) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = ptr;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (!on_host(pointer) && info->kind != SIM_MEMORY_MANAGED)
            return CUDA_ERROR_INVALID_VALUE;
        *(void **)data = (void *)ptr;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        *(unsigned *)data = pointer->sync_memops;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        *(unsigned long long *)data = info->id;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned *)data = info->kind == SIM_MEMORY_MANAGED;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = ordinal(pointer);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        *(unsigned *)data = ipc_capable(info);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = pointer->range;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = pointer->range_bytes;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned *)data = pointer->mapped;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned long long *)data = pointer->handle_types;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
        *(unsigned *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *(int *)data = access_flags(pointer);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)data = info->pool;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        *(size_t *)data = info->bytes;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        *(CUdeviceptr *)data = info->base;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL:
        *(int *)data = -1;
        return CUDA_SUCCESS;
    default: /* P2P_TOKENS too: there is no kernel module to use them */
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct pointer pointer;
    if (!data || !look_up(ptr, &pointer))
        return CUDA_ERROR_INVALID_VALUE;
    return answer(data, attribute, ptr, &pointer);
}

/* What an attribute is where there is nothing to say: cuPointerGetAttributes does not fail for a
 * pointer that is unknown. */
static bool clear(void *data, CUpointer_attribute attribute) {
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        memset(data, 0, 8);
        return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = -2;
        return true;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
        memset(data, 0, sizeof(int));
        return true;
    case CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL:
        *(int *)data = -1;
        return true;
    default:
        return false;
    }
}

CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **data,
                                CUdeviceptr ptr) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!count || !attributes || !data)
        return CUDA_ERROR_INVALID_VALUE;
    struct pointer pointer;
    bool known = look_up(ptr, &pointer);
    for (unsigned a = 0; a < count; a++) {
        if (!data[a] || !clear(data[a], attributes[a]))
            return CUDA_ERROR_INVALID_VALUE;
        if (known)
            (void)answer(data[a], attributes[a], ptr, &pointer);
    }
    return CUDA_SUCCESS;
}

CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr ptr) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct extent *extent = extent_find(ptr);
    if (!value || !extent || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
        return CUDA_ERROR_INVALID_VALUE;
    /* Copies of the simulator are as synchronous as that anyway. Of a page that small allocations
     * share it holds for all of them. */
    extent->sync_memops = *(const unsigned *)value != 0;
    return CUDA_SUCCESS;
}
