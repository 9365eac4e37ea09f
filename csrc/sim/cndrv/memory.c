/* Memory of the device and of the host, and of other processes. */
#include "cndrv_sim.h"

#include "../memory.h"
#include "../state_private.h"

static CNresult address_error(CUresult result) {
    return cn_error_as(result, CUDA_ERROR_INVALID_VALUE, CN_MEMORY_ERROR_INVALID_ADDRESS);
}

/* ---- What there is ------------------------------------------------------------------------------- */

CNresult cnMemGetInfo(uint64_t *free_bytes, uint64_t *total) {
    struct sim_context *context;
    size_t left, whole;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && (!free_bytes || !total))
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuMemGetInfo(&left, &whole));
    if (result != CN_SUCCESS)
        return result;
    *free_bytes = left;
    *total = whole;
    uint32_t physical = context->physical;
    uint32_t id = atomic_load_explicit(
        &sim_state->header->slots[sim_state->slot].partition[physical], memory_order_relaxed);
    if (!id)
        return result;
    sim_device_lock(sim_state, physical);
    const struct sim_partition *part = sim_partition_find(sim_state, physical, id);
    uint64_t held = sim_partition_held(sim_state, physical, id);
    *total = part ? part->memory : 0;
    *free_bytes = held < *total ? *total - held : 0;
    sim_device_unlock(sim_state, physical);
    return result;
}

/* Devices have one node. */
CNresult cnMemGetNodeInfo(uint64_t *free_bytes, uint64_t *total, int node) {
    return node ? CN_ERROR_INVALID_VALUE : cnMemGetInfo(free_bytes, total);
}

CNresult cnMemGetAddressRange(CNaddr *base, uint64_t *bytes, CNaddr address) {
    CUdeviceptr found;
    size_t size;
    CNresult result = cn_begin();
    if (result == CN_SUCCESS)
        result = cn_error(cuMemGetAddressRange(&found, &size, address));
    if (result != CN_SUCCESS)
        return result == CN_ERROR_NOT_FOUND || result == CN_ERROR_INVALID_VALUE
                   ? CN_MEMORY_ERROR_INVALID_ADDRESS
                   : result;
    if (base)
        *base = found;
    if (bytes)
        *bytes = size;
    return CN_SUCCESS;
}

/* ---- Allocations --------------------------------------------------------------------------------- */

CNresult cnMalloc(CNaddr *address, uint64_t bytes) {
    struct sim_context *context;
    CUdeviceptr given;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && (!address || !bytes))
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuMemAlloc(&given, bytes));
    if (result == CN_SUCCESS)
        *address = given;
    return result;
}

CNresult cnMallocSecurity(CNaddr *address, uint64_t bytes) { return cnMalloc(address, bytes); }
CNresult cnMallocConstant(CNaddr *address, uint64_t bytes) { return cnMalloc(address, bytes); }
CNresult cnMallocPeerAble(CNaddr *address, uint64_t bytes) { return cnMalloc(address, bytes); }
CNresult cnZmalloc(CNaddr *address, uint64_t bytes) { return cnMalloc(address, bytes); }

CNresult cnMallocNode(CNaddr *address, uint64_t bytes, int node) {
    return node ? CN_ERROR_INVALID_VALUE : cnMalloc(address, bytes);
}
CNresult cnMallocNodeConstant(CNaddr *address, uint64_t bytes, int node) {
    return cnMallocNode(address, bytes, node);
}
CNresult cnMallocFrameBuffer(CNaddr *address, uint64_t bytes, int node) {
    return cnMallocNode(address, bytes, node);
}
CNresult cnZmallocNode(CNaddr *address, uint64_t bytes, int node) {
    return cnMallocNode(address, bytes, node);
}

CNresult cnFree(CNaddr address) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    if (result != CN_SUCCESS)
        return result;
    return address ? address_error(cuMemFree(address)) : CN_MEMORY_ERROR_INVALID_ADDRESS;
}

CNresult cnMallocHost(void **address, uint64_t bytes) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    return result == CN_SUCCESS
               ? cn_error_as(cuMemHostAlloc(address, bytes, CU_MEMHOSTALLOC_PORTABLE),
                             CUDA_ERROR_OUT_OF_MEMORY, CN_ERROR_SYSTEM_OUT_OF_MEMORY)
               : result;
}

CNresult cnFreeHost(void *address) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    return result == CN_SUCCESS ? cn_error(cuMemFreeHost(address)) : result;
}

/* ---- Between processes ----------------------------------------------------------------------------- */

CNresult cnIpcGetMemHandle(CNIpcMemHandle *handle, CNaddr address) {
    struct sim_context *context;
    CUipcMemHandle whole;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && !handle)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = address_error(cuIpcGetMemHandle(&whole, address));
    if (result == CN_SUCCESS)
        *handle = (CNIpcMemHandle)(uintptr_t)sim_ipc_pack(&whole);
    return result;
}

CNresult cnIpcOpenMemHandle(CNaddr *address, CNIpcMemHandle handle, unsigned int flags) {
    struct sim_context *context;
    CUipcMemHandle whole;
    CUdeviceptr opened;
    CNresult result = cn_enter(&context);
    (void)flags;
    if (result == CN_SUCCESS && (!address || !sim_ipc_unpack((uintptr_t)handle, &whole)))
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuIpcOpenMemHandle(&opened, whole, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    if (result == CN_SUCCESS)
        *address = opened;
    return result;
}

CNresult cnIpcCloseMemHandle(CNaddr address) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    return result == CN_SUCCESS ? address_error(cuIpcCloseMemHandle(address)) : result;
}
