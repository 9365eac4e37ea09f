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

static CUresult open_end(CUresult result, uint64_t key, const CUdeviceptr *pointer) {
    const struct aliquot_context *context = key ? aliquot_context_current() : NULL;
    aliquot_shared_opened(key, result == CUDA_SUCCESS ? *pointer : 0,
                          context ? context->index : (uint16_t)0);
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
