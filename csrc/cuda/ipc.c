/* Linear memory shared with other processes. The exporter is charged; an importer is not, but is
 * written down, so that the charge passes to it when the exporter lets go or dies while it still
 * holds the memory: the device frees memory only when the last process lets go. */
#include "shim.h"

#include <string.h>

/* Exported here: pointer to the region's key. */
static struct aliquot_table exports;
static _Atomic uint32_t export_count;

/* Opened here: pointer to key. Entries stay until replaced: a handle opened twice is closed twice. */
static struct aliquot_table imports;

/* FNV-1a over the handle, which is the same 64 bytes in every process. */
static uint64_t key_of(const CUipcMemHandle *handle) {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < sizeof handle->reserved; i++)
        hash = (hash ^ (unsigned char)handle->reserved[i]) * 0x100000001b3ull;
    return hash | 1;
}

CUresult aliquot_cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr pointer) {
    CUresult result = REAL(cuIpcGetMemHandle)(handle, pointer);
    CUdeviceptr base;
    size_t bytes;
    uint64_t known, value;
    if (result != CUDA_SUCCESS || aliquot_ready() != CUDA_SUCCESS ||
        REAL(cuMemGetAddressRange_v2)(&base, &bytes, pointer) != CUDA_SUCCESS)
        return result;
    /* Once for each allocation that we charged, however often its handle is asked for. */
    if (!aliquot_pointer_get(&aliquot_pointers, base, &value) ||
        aliquot_table_get(&exports, base, &known))
        return result;
    struct aliquot_allocation allocation = aliquot_unpack(value);
    uint64_t key = key_of(handle);
    aliquot_table_put(&exports, base, key);
    atomic_fetch_add_explicit(&export_count, 1, memory_order_relaxed);
    aliquot_hold_export(key, allocation.device,
                        allocation.pages * aliquot_page_bytes(allocation.device));
    return result;
}

bool aliquot_ipc_freed(CUdeviceptr pointer, uint32_t device, uint64_t bytes) {
    uint64_t key;
    /* relaxed: the exporting thread had its pointer before this one can free it. */
    if (__builtin_expect(!atomic_load_explicit(&export_count, memory_order_relaxed), 1) ||
        !aliquot_table_take(&exports, pointer, &key))
        return false;
    atomic_fetch_sub_explicit(&export_count, 1, memory_order_relaxed);
    aliquot_hold_drop(key, device, bytes);
    return true;
}

static void opened(CUdeviceptr pointer, const CUipcMemHandle *handle) {
    const struct aliquot_context *context = aliquot_context_current();
    CUdeviceptr base;
    size_t bytes;
    if (!context || context->device < 0 ||
        REAL(cuMemGetAddressRange_v2)(&base, &bytes, pointer) != CUDA_SUCCESS)
        return;
    uint32_t device = (uint32_t)context->device;
    uint64_t whole = aliquot_whole_pages(device, bytes), key = key_of(handle);
    aliquot_table_put(&imports, pointer, key);
    aliquot_hold_import(key, device, whole);
}

CUresult aliquot_cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipcMemHandle handle,
                                       unsigned int flags) {
    CUresult result = REAL(cuIpcOpenMemHandle_v2)(pointer, handle, flags);
    if (result == CUDA_SUCCESS)
        opened(*pointer, &handle);
    return result;
}

CUresult aliquot_cuIpcOpenMemHandle(CUdeviceptr *pointer, CUipcMemHandle handle,
                                    unsigned int flags) {
    CUresult result = REAL(cuIpcOpenMemHandle)(pointer, handle, flags);
    if (result == CUDA_SUCCESS)
        opened(*pointer, &handle);
    return result;
}

CUresult aliquot_cuIpcCloseMemHandle(CUdeviceptr pointer) {
    uint64_t key = 0;
    bool ours = aliquot_ready() == CUDA_SUCCESS && aliquot_table_get(&imports, pointer, &key);
    CUresult result = REAL(cuIpcCloseMemHandle)(pointer);
    if (ours && result == CUDA_SUCCESS)
        aliquot_hold_drop(key, 0, 0);
    return result;
}

void aliquot_ipc_forget(void) {
    aliquot_table_reset(&exports);
    aliquot_table_reset(&imports);
    atomic_store_explicit(&export_count, 0, memory_order_relaxed);
}
