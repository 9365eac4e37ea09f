/* The private tables of cuGetExportTable that old runtime libraries start with. */
#ifndef ALIQUOT_SIM_EXPORT_TABLE_H
#define ALIQUOT_SIM_EXPORT_TABLE_H

#include <cuda.h>

/* Context-local storage (context_storage.c). A NULL context is the current one.
 * Errors: NOT_INITIALIZED, INVALID_CONTEXT, INVALID_VALUE (no such key), OUT_OF_MEMORY (host). */
CUresult sim_storage_put(CUcontext ctx, void *key, void *value,
                         void (*destructor)(CUcontext ctx, void *key, void *value));
CUresult sim_storage_get(void **value, CUcontext ctx, void *key);
CUresult sim_storage_delete(CUcontext ctx, void *key);

#endif
