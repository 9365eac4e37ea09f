/* Host memory that devices can reach: allocated by the driver, or registered with it; and memory
 * of the driver's own. None of it counts on a device. */
#include "exec.h"
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HOST_PAGE = 4096 };

static uint64_t whole_pages(uint64_t bytes) {
    return (bytes + HOST_PAGE - 1) & ~(uint64_t)(HOST_PAGE - 1);
}

/* Fresh zeroed host memory with an extent around it, or NULL. */
static struct extent *make(enum extent_kind kind, uint64_t bytes) {
    if (bytes > UINT64_MAX - HOST_PAGE)
        return NULL;
    struct extent *extent = extent_new(kind, SIM_DEVICES_MAX);
    if (!extent)
        return NULL;
    void *memory =
        mmap(NULL, whole_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        extent_free(extent);
        return NULL;
    }
    /* The driver's memory is not a child's. */
    (void)madvise(memory, whole_pages(bytes), MADV_DONTFORK);
    extent->base = (CUdeviceptr)memory;
    extent->span = whole_pages(bytes);
    extent->bytes = bytes;
    extent->id = memory_next_id();
    return extent;
}

void host_gone(struct extent *extent) {
    if (extent->kind != EXTENT_REGISTERED)
        munmap((void *)extent->base, extent->span);
    extent_free(extent);
}

/* ---- The driver's own ---------------------------------------------------------------------- */

CUresult sim_device_alloc_internal(struct sim_context *ctx, size_t bytes, CUdeviceptr *ptr) {
    struct extent *extent = make(EXTENT_MODULE, bytes ? bytes : 1);
    if (!extent)
        return CUDA_ERROR_OUT_OF_MEMORY;
    extent->ctx = ctx->owner;
    extent_publish(extent);
    *ptr = extent->base;
    return CUDA_SUCCESS;
}

void sim_device_free_internal(struct sim_context *ctx, CUdeviceptr ptr) {
    struct extent *extent = extent_find(ptr);
    if (extent && extent->kind == EXTENT_MODULE && extent->ctx == ctx->owner &&
        extent_withdraw(extent))
        host_gone(extent);
}

/* ---- Allocated ----------------------------------------------------------------------------- */

CUresult cuMemHostAlloc(void **ptr, size_t bytes, unsigned flags) {
    const unsigned known =
        CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!ptr || !bytes || (flags & ~known))
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_HOST_ALLOC);
    struct extent *extent = make(EXTENT_HOST, bytes);
    if (!extent)
        return CUDA_ERROR_OUT_OF_MEMORY;
    extent->ctx = ctx->owner;
    extent->flags = flags | CU_MEMHOSTALLOC_DEVICEMAP; /* always so with unified addressing */
    extent_publish(extent);
    *ptr = (void *)extent->base;
    return CUDA_SUCCESS;
}

CUresult cuMemAllocHost_v2(void **ptr, size_t bytes) { return cuMemHostAlloc(ptr, bytes, 0); }

CUresult cuMemFreeHost(void *ptr) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct extent *extent = ptr ? extent_find((CUdeviceptr)ptr) : NULL;
    if (!extent || extent->kind != EXTENT_HOST || extent->base != (CUdeviceptr)ptr)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_HOST_FREE);
    for (CUdevice d = 0; d < sim_device_count(); d++)
        sim_exec_drain(d);
    if (!extent_withdraw(extent))
        return CUDA_ERROR_INVALID_VALUE;
    host_gone(extent);
    return CUDA_SUCCESS;
}

static struct extent *find_host(const void *ptr) {
    struct extent *extent = extent_find((CUdeviceptr)ptr);
    return extent && (extent->kind == EXTENT_HOST || extent->kind == EXTENT_REGISTERED) ? extent
                                                                                        : NULL;
}

CUresult cuMemHostGetFlags(unsigned *flags, void *ptr) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct extent *extent = find_host(ptr);
    if (!flags || !extent || extent->kind != EXTENT_HOST)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = extent->flags;
    return CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *ptr, unsigned flags) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!device || flags || !find_host(ptr))
        return CUDA_ERROR_INVALID_VALUE;
    *device = (CUdeviceptr)ptr;
    return CUDA_SUCCESS;
}

/* ---- Registered ---------------------------------------------------------------------------- */

CUresult cuMemHostRegister_v2(void *ptr, size_t bytes, unsigned flags) {
    const unsigned known =
        CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_READ_ONLY;
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    CUdeviceptr base = (CUdeviceptr)ptr;
    if (flags & CU_MEMHOSTREGISTER_IOMEMORY)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!ptr || !bytes || base + bytes < base || (flags & ~known))
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_HOST_ALLOC);
    /* Memory that is not there cannot be pinned. */
    CUdeviceptr first = base & ~(CUdeviceptr)(HOST_PAGE - 1);
    if (msync((void *)first, whole_pages(base + bytes - first), MS_ASYNC) != 0 && errno == ENOMEM)
        return CUDA_ERROR_INVALID_VALUE;
    struct extent *extent = extent_new(EXTENT_REGISTERED, SIM_DEVICES_MAX);
    if (!extent)
        return CUDA_ERROR_OUT_OF_MEMORY;
    extent->base = base;
    extent->span = extent->bytes = bytes;
    extent->ctx = ctx->owner;
    extent->id = memory_next_id();
    extent->flags = flags | CU_MEMHOSTREGISTER_DEVICEMAP;
    if (extent_publish_alone(extent))
        return CUDA_SUCCESS;
    extent_free(extent);
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
}

CUresult cuMemHostRegister(void *ptr, size_t bytes, unsigned flags) {
    return cuMemHostRegister_v2(ptr, bytes, flags);
}

CUresult cuMemHostUnregister(void *ptr) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct extent *extent = find_host(ptr);
    if (!ptr)
        return CUDA_ERROR_INVALID_VALUE;
    if (!extent || extent->kind != EXTENT_REGISTERED || extent->base != (CUdeviceptr)ptr)
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_HOST_FREE);
    for (CUdevice d = 0; d < sim_device_count(); d++)
        sim_exec_drain(d);
    if (!extent_withdraw(extent))
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    host_gone(extent);
    return CUDA_SUCCESS;
}
