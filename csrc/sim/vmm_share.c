/* Physical allocations in other processes, and host memory for them. */
#include "vmm.h"

#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a share's record says beside its size: where the memory lies. */
enum { DETAIL_TYPE, DETAIL_ID };

/* Takes over a descriptor of a file of at least `bytes`. */
static bool map_host(struct vmm *vmm, int descriptor, uint64_t bytes) {
    void *map =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
    if (map == MAP_FAILED)
        return false;
    (void)madvise(map, bytes, MADV_DONTFORK);
    vmm->host = (CUdeviceptr)map;
    return true;
}

CUresult vmm_fill_host(struct vmm *vmm, bool shareable) {
    int descriptor;
    if (shareable) {
        const uint32_t detail[4] = {(uint32_t)vmm->prop.location.type,
                                    (uint32_t)vmm->prop.location.id};
        if (!share_make(SIM_DEVICES_MAX, SIM_SHARE_HOST, NULL, vmm->bytes, detail, &vmm->share))
            return CUDA_ERROR_OUT_OF_MEMORY;
        descriptor = sim_share_file(sim_state, &vmm->share);
    } else {
        descriptor = memfd_create("aliquot-sim-host", MFD_CLOEXEC);
    }
    bool mapped = descriptor >= 0 && ftruncate(descriptor, (off_t)vmm->bytes) == 0 &&
                  map_host(vmm, descriptor, vmm->bytes);
    if (descriptor >= 0)
        close(descriptor);
    return mapped ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return !out || flags || type <= CU_MEM_HANDLE_TYPE_NONE ? CUDA_ERROR_INVALID_VALUE
                                                                : CUDA_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&vmm_lock);
    struct vmm *vmm = vmm_get(handle);
    if (!vmm || !(vmm->prop.requestedHandleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
        result = CUDA_ERROR_INVALID_VALUE;
    const uint32_t detail[4] = {CU_MEM_LOCATION_TYPE_DEVICE};
    if (result == CUDA_SUCCESS && !vmm->share.nonce &&
        !share_make(vmm->physical, SIM_SHARE_VMM, &vmm->frames, vmm->bytes, detail, &vmm->share))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS) {
        int descriptor = sim_share_export(sim_state, &vmm->share);
        if (descriptor < 0)
            result = CUDA_ERROR_OPERATING_SYSTEM;
        else
            *(int *)out = descriptor;
    }
    pthread_mutex_unlock(&vmm_lock);
    return result;
}

/* Makes this process's object for a share that it holds. Under vmm_lock. */
static CUresult make_imported(const struct sim_share_name *name, int descriptor, struct vmm **out) {
    const struct sim_share *record = sim_share_record(sim_state, name);
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                .location = {.type = (CUmemLocationType)record->detail[DETAIL_TYPE],
                                             .id = (int)record->detail[DETAIL_ID]}};
    uint32_t physical = record->device;
    if (record->kind == SIM_SHARE_VMM) {
        prop.location.id = sim_device_ordinal(physical);
        if (prop.location.id < 0)
            return CUDA_ERROR_INVALID_DEVICE;
    } else if (record->kind != SIM_SHARE_HOST && record->kind != SIM_SHARE_MULTICAST) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    struct vmm *vmm = vmm_make(&prop, record->bytes, physical);
    if (!vmm)
        return CUDA_ERROR_OUT_OF_MEMORY;
    vmm->multicast = record->kind == SIM_SHARE_MULTICAST;
    bool filled = true;
    if (record->kind == SIM_SHARE_VMM)
        filled = sim_share_frames(sim_state, name, &vmm->frames);
    else if (record->kind == SIM_SHARE_HOST)
        filled = map_host(vmm, descriptor, record->bytes);
    if (filled) {
        vmm->share = *name;
        *out = vmm;
        return CUDA_SUCCESS;
    }
    vmm_drop(vmm);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *os_handle,
                                        CUmemAllocationHandleType type) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    int descriptor = (int)(intptr_t)os_handle;
    struct sim_share_name name;
    if (!handle || type <= CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!sim_share_identify(sim_state, descriptor, &name))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&vmm_lock);
    struct vmm *vmm = vmm_of_share(&name);
    if (vmm) {
        result = vmm_hold(vmm) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    } else if (!share_acquire(&name)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        result = make_imported(&name, descriptor, &vmm);
        if (result != CUDA_SUCCESS)
            share_release(&name);
    }
    if (result == CUDA_SUCCESS)
        *handle = (CUmemGenericAllocationHandle)(uintptr_t)vmm;
    pthread_mutex_unlock(&vmm_lock);
    return result;
}
