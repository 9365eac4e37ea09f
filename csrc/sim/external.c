/* External memory: descriptors of cuMemExportToShareableHandle, imported as what graphics
 * interoperation would bring. Others' descriptors mean nothing here. */
#include "memory.h"

#include "exec.h"

#include <stdlib.h>
#include <unistd.h>

struct external {
    struct sim_share_name share;
    uint64_t bytes;
};

/* A mapped buffer; it keeps the memory even when the external object is destroyed first. */
struct buffer {
    CUdeviceptr map;
    uint64_t map_bytes;
};

CUresult cuImportExternalMemory(CUexternalMemory *out,
                                const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *desc) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !desc || !desc->size || (desc->flags & ~(unsigned)CUDA_EXTERNAL_MEMORY_DEDICATED))
        return CUDA_ERROR_INVALID_VALUE;
    struct sim_share_name name;
    if (desc->type != CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD ||
        !sim_share_identify(sim_state, desc->handle.fd, &name) ||
        name.device >= sim_state->node->device_count)
        return sim_unsupported("cuImportExternalMemory of what is not exported device memory");
    const struct sim_share *record = sim_share_record(sim_state, &name);
    if (sim_device_ordinal(name.device) < 0)
        return CUDA_ERROR_INVALID_DEVICE;
    struct external *external = malloc(sizeof *external);
    if (!external || !share_acquire(&name)) {
        free(external);
        return external ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    }
    *external = (struct external){name, record->bytes};
    result = record->kind != SIM_SHARE_VMM || desc->size > record->bytes ? CUDA_ERROR_INVALID_VALUE
                                                                         : CUDA_SUCCESS;
    if (result == CUDA_SUCCESS && !sim_handle_add(SIM_HANDLE_EXTERNAL_MEMORY, external))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS) {
        share_release(&name);
        free(external);
        return result;
    }
    close(desc->handle.fd); /* it is ours now */
    *out = (CUexternalMemory)external;
    return CUDA_SUCCESS;
}

CUresult cuDestroyExternalMemory(CUexternalMemory handle) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_handle_drop(SIM_HANDLE_EXTERNAL_MEMORY, handle))
        return CUDA_ERROR_INVALID_HANDLE;
    struct external *external = (struct external *)handle;
    share_release(&external->share);
    free(external);
    return CUDA_SUCCESS;
}

/* The share is held. */
static CUresult map_buffer(const struct external *external, struct sim_context *ctx,
                           uint64_t offset, uint64_t bytes, CUdeviceptr *ptr) {
    const struct device_memory *device = &sim_devices[external->share.device];
    uint64_t skip = offset >> device->page_shift;
    uint64_t pages = ((offset + bytes - 1) >> device->page_shift) - skip + 1;
    struct buffer *buffer = malloc(sizeof *buffer);
    struct extent *extent = extent_new(EXTENT_EXTERNAL, external->share.device);
    if (!buffer || !extent || !sim_share_frames(sim_state, &external->share, &extent->frames))
        goto failed;
    buffer->map_bytes = pages << device->page_shift;
    buffer->map = addresses_reserve(buffer->map_bytes, device->page, 0);
    if (!buffer->map)
        goto failed;
    if (!addresses_map(buffer->map, external->share.device, &extent->frames, skip, pages)) {
        addresses_release(buffer->map, buffer->map_bytes);
        goto failed;
    }
    uint64_t inside = offset & (device->page - 1);
    extent->base = buffer->map + inside;
    extent->span = extent->bytes = bytes;
    extent->backing_offset = (skip << device->page_shift) + inside;
    extent->share = external->share;
    extent->ctx = ctx->owner;
    extent->id = memory_next_id();
    extent->owner = buffer;
    extent_publish(extent);
    *ptr = extent->base;
    return CUDA_SUCCESS;
failed:
    free(buffer);
    if (extent)
        extent_free(extent);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr *ptr, CUexternalMemory handle,
                                         const CUDA_EXTERNAL_MEMORY_BUFFER_DESC *desc) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_handle_check(SIM_HANDLE_EXTERNAL_MEMORY, handle))
        return CUDA_ERROR_INVALID_HANDLE;
    const struct external *external = (const struct external *)handle;
    if (!ptr || !desc || desc->flags || !desc->size || desc->offset >= external->bytes ||
        desc->size > external->bytes - desc->offset || !share_acquire(&external->share))
        return CUDA_ERROR_INVALID_VALUE;
    result = map_buffer(external, ctx, desc->offset, desc->size, ptr);
    if (result != CUDA_SUCCESS)
        share_release(&external->share);
    return result;
}

void external_gone(struct extent *extent) {
    struct buffer *buffer = extent->owner;
    addresses_release(buffer->map, buffer->map_bytes);
    share_release(&extent->share);
    free(buffer);
    extent_free(extent);
}

CUresult external_free_now(struct extent *extent, CUdeviceptr ptr) {
    if (extent->base != ptr)
        return CUDA_ERROR_INVALID_VALUE;
    sim_exec_drain(sim_devices[extent->physical].dev);
    if (!extent_withdraw(extent))
        return CUDA_ERROR_INVALID_VALUE;
    external_gone(extent);
    return CUDA_SUCCESS;
}
