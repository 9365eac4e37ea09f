/* The driver's error log for programs. What the simulator has to say goes to ALIQUOT_SIM_LOG, for
 * people; so this one is empty. Its calls need no cuInit. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

CUresult cuLogsRegisterCallback(CUlogsCallback callback, void *data, CUlogsCallbackHandle *out) {
    (void)data;
    if (!callback)
        return CUDA_ERROR_INVALID_VALUE;
    void *registered = calloc(1, 1);
    if (!registered || !sim_handle_add(SIM_HANDLE_LOG_CALLBACK, registered)) {
        free(registered);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (out)
        *out = (CUlogsCallbackHandle)registered;
    return CUDA_SUCCESS;
}

CUresult cuLogsUnregisterCallback(CUlogsCallbackHandle callback) {
    if (!sim_handle_drop(SIM_HANDLE_LOG_CALLBACK, callback))
        return CUDA_ERROR_INVALID_VALUE;
    free(callback);
    return CUDA_SUCCESS;
}

CUresult cuLogsCurrent(CUlogIterator *iterator, unsigned flags) {
    if (!iterator || flags)
        return CUDA_ERROR_INVALID_VALUE;
    *iterator = 0;
    return CUDA_SUCCESS;
}

CUresult cuLogsDumpToFile(CUlogIterator *iterator, const char *path, unsigned flags) {
    (void)iterator;
    if (!path || flags)
        return CUDA_ERROR_INVALID_VALUE;
    FILE *file = fopen(path, "ae");
    if (!file)
        return CUDA_ERROR_INVALID_VALUE;
    fclose(file);
    return CUDA_SUCCESS;
}

CUresult cuLogsDumpToMemory(CUlogIterator *iterator, char *buffer, size_t *size, unsigned flags) {
    (void)iterator;
    if (!buffer || !size || !*size || flags)
        return CUDA_ERROR_INVALID_VALUE;
    *buffer = '\0';
    *size = 0;
    return CUDA_SUCCESS;
}
