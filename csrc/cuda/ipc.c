/* Linear memory shared with other processes: see shim/memory/shared.h. */
#include "shim.h"

#include "shim/memory/shared.h"

/* A handle is the same bytes in every process. */
static uint64_t key_of(const CUipcMemHandle *handle) {
    return aliquot_shared_key(handle->reserved, sizeof handle->reserved);
}

CUresult aliquot_cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr pointer) {
    CUresult result = REAL(cuIpcGetMemHandle)(handle, pointer);
    CUdeviceptr base;
    size_t bytes;
    if (result == CUDA_SUCCESS && aliquot_ready() == CUDA_SUCCESS &&
        REAL(cuMemGetAddressRange_v2)(&base, &bytes, pointer) == CUDA_SUCCESS)
        aliquot_shared_export(base, key_of(handle));
    return result;
}

static uint64_t open_begin(const CUipcMemHandle *handle) {
    return aliquot_ready() == CUDA_SUCCESS ? aliquot_shared_open(key_of(handle)) : 0;
}

/* Memory that the slice does not know, where it may be the slice's all the same. */
static CUresult charge_unknown(const struct aliquot_context *context, CUdeviceptr pointer) {
    CUdeviceptr base;
    size_t bytes;
    CUresult result = REAL(cuMemGetAddressRange_v2)(&base, &bytes, pointer);
    uint32_t device = (uint32_t)context->device;
    if (result == CUDA_SUCCESS &&
        !aliquot_shared_charge(pointer, device, aliquot_whole_pages(device, bytes), context->index))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS)
        REAL(cuIpcCloseMemHandle)(pointer);
    return result;
}

static CUresult open_end(CUresult result, uint64_t key, const CUdeviceptr *pointer) {
    const struct aliquot_context *context = aliquot_context_current();
    if (key || result != CUDA_SUCCESS)
        aliquot_shared_opened(key, result == CUDA_SUCCESS ? *pointer : 0,
                              context ? context->index : (uint16_t)0);
    else if (context && context->device >= 0 && aliquot_hold_doubtful())
        result = charge_unknown(context, *pointer);
    return result;
}

CUresult aliquot_cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipcMemHandle handle,
                                       unsigned int flags) {
    uint64_t key = open_begin(&handle);
    return open_end(REAL(cuIpcOpenMemHandle_v2)(pointer, handle, flags), key, pointer);
}

CUresult aliquot_cuIpcOpenMemHandle(CUdeviceptr *pointer, CUipcMemHandle handle,
                                    unsigned int flags) {
    uint64_t key = open_begin(&handle);
    return open_end(REAL(cuIpcOpenMemHandle)(pointer, handle, flags), key, pointer);
}

CUresult aliquot_cuIpcCloseMemHandle(CUdeviceptr pointer) {
    struct aliquot_shared_closing closing = aliquot_shared_close(pointer);
    CUresult result = REAL(cuIpcCloseMemHandle)(pointer);
    aliquot_shared_closed(&closing, result == CUDA_SUCCESS);
    return result;
}
