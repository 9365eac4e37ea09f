/* Linear memory shared with other processes. The exporter is charged; an importer is not, but is
 * written down, so that the charge passes to it when the exporter lets go or dies while it still
 * holds the memory: the device frees memory only when the last process lets go.
 *
 * What is shared are pages. Small allocations of one page are one memory of several names.
 */
#include "shim.h"

#include <pthread.h>
#include <string.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Exported here: first byte of an allocation of its own pages, or of a shared page, to the region's
 * key. */
static struct aliquot_table exports;
static _Atomic uint32_t export_count;

/* Opened here. */
struct import {
    uint64_t key; /* 0: free place */
    CUdeviceptr pointer;
    uint32_t count;   /* times */
    uint16_t context; /* in which */
};
static struct import imports[ALIQUOT_MAX_HOLDS];
static uint32_t import_mark;        /* places below it have been used */
static struct aliquot_table opened; /* pointer to place */

/* FNV-1a over the handle, which is the same 64 bytes in every process. */
static uint64_t key_of(const CUipcMemHandle *handle) {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < sizeof handle->reserved; i++)
        hash = (hash ^ (unsigned char)handle->reserved[i]) * 0x100000001b3ull;
    return hash | 1;
}

/* -- Exporting ------------------------------------------------------------------------------------ */

CUresult aliquot_cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr pointer) {
    CUresult result = REAL(cuIpcGetMemHandle)(handle, pointer);
    CUdeviceptr base;
    size_t bytes;
    uint64_t known, value;
    if (result != CUDA_SUCCESS || aliquot_ready() != CUDA_SUCCESS ||
        REAL(cuMemGetAddressRange_v2)(&base, &bytes, pointer) != CUDA_SUCCESS ||
        !aliquot_pointer_get(&aliquot_pointers, base, &value))
        return result;
    struct aliquot_allocation allocation = aliquot_unpack(value);
    uint64_t page = aliquot_page_bytes(allocation.device), key = key_of(handle);
    if (allocation.shares)
        base &= ~(page - 1);
    pthread_mutex_lock(&mutex);
    if (!aliquot_table_get(&exports, base, &known)) {
        aliquot_table_put(&exports, base, key);
        /* relaxed: the exporting thread had its pointer before another one can free it. */
        atomic_fetch_add_explicit(&export_count, 1, memory_order_relaxed);
        aliquot_hold_export(key, allocation.device, allocation.pages * page);
    } else if (known != key)
        aliquot_hold_alias(known, key);
    pthread_mutex_unlock(&mutex);
    return result;
}

bool aliquot_ipc_freed(uint64_t base, uint32_t device, uint64_t bytes) {
    uint64_t key;
    if (__builtin_expect(!atomic_load_explicit(&export_count, memory_order_relaxed), 1) ||
        !aliquot_table_take(&exports, base, &key))
        return false;
    atomic_fetch_sub_explicit(&export_count, 1, memory_order_relaxed);
    aliquot_hold_drop(key, device, bytes);
    return true;
}

/* -- Opening -------------------------------------------------------------------------------------- */

/* Writes down that the process is about to hold the memory, before it does: an exporter that lets go
 * meanwhile passes the charge on. 0: memory that the slice does not know. */
static uint64_t open_begin(const CUipcMemHandle *handle) {
    return aliquot_ready() == CUDA_SUCCESS ? aliquot_hold_import(key_of(handle)) : 0;
}

static void record(uint64_t key, CUdeviceptr pointer) {
    const struct aliquot_context *context = aliquot_context_current();
    uint64_t index;
    pthread_mutex_lock(&mutex);
    if (aliquot_table_get(&opened, pointer, &index))
        imports[index].count++;
    else
        for (uint32_t i = 0; i < ALIQUOT_MAX_HOLDS; i++) {
            if (imports[i].key)
                continue;
            imports[i] = (struct import){key, pointer, 1, context ? context->index : (uint16_t)0};
            import_mark = i >= import_mark ? i + 1 : import_mark;
            aliquot_table_put(&opened, pointer, i);
            break;
        }
    pthread_mutex_unlock(&mutex);
}

static CUresult open_end(CUresult result, uint64_t key, const CUdeviceptr *pointer) {
    if (key && result == CUDA_SUCCESS)
        record(key, *pointer);
    else if (key)
        aliquot_hold_drop(key, 0, 0);
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

/* Under the mutex: one opening fewer. Returns its key. */
static uint64_t forget_one(uint32_t index) {
    uint64_t key = imports[index].key, place;
    if (--imports[index].count == 0) {
        aliquot_table_take(&opened, imports[index].pointer, &place);
        imports[index] = (struct import){0};
    }
    return key;
}

CUresult aliquot_cuIpcCloseMemHandle(CUdeviceptr pointer) {
    uint64_t index, key = 0;
    /* The address may be given to another thread as soon as the driver has closed it. */
    pthread_mutex_lock(&mutex);
    if (pointer && aliquot_table_get(&opened, pointer, &index))
        key = forget_one((uint32_t)index);
    pthread_mutex_unlock(&mutex);
    CUresult result = REAL(cuIpcCloseMemHandle)(pointer);
    if (key && result == CUDA_SUCCESS)
        aliquot_hold_drop(key, 0, 0);
    else if (key)
        record(key, pointer);
    return result;
}

void aliquot_ipc_context_gone(uint16_t context) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < import_mark; i++)
        while (imports[i].key && imports[i].context == context)
            aliquot_hold_drop(forget_one(i), 0, 0);
    pthread_mutex_unlock(&mutex);
}

void aliquot_ipc_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    aliquot_table_reset(&exports);
    aliquot_table_reset(&opened);
    memset(imports, 0, sizeof imports);
    import_mark = 0;
    atomic_store_explicit(&export_count, 0, memory_order_relaxed);
}
