/* cuGetProcAddress: which symbol a name means at a version. What it answers was compared with
 * NVIDIA's 535 driver, which needs no device for it. */
#include "sim.h"

#include <pthread.h>
#include <string.h>

/* Made from csrc/cuda/functions.tsv (proc.c), ascending by base. form: 0 plain, 1 ptds, 2 ptsz. */
struct sim_proc {
    const char *base, *symbol;
    int since, form;
    void *address;
};
extern const struct sim_proc sim_proc_table[];
extern const size_t sim_proc_count;

/* First entry of that name, or sim_proc_count. */
static size_t find_base(const char *name) {
    size_t low = 0, high = sim_proc_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(sim_proc_table[middle].base, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sim_proc_count && strcmp(sim_proc_table[low].base, name) == 0 ? low
                                                                               : sim_proc_count;
}

static CUdriverProcAddressQueryResult choose(const char *name, int version, bool per_thread,
                                             void **address) {
    int driver = 0;
    (void)cuDriverGetVersion(&driver);
    *address = NULL;
    size_t first = find_base(name), end = first;
    bool has_threaded = false, known = false;
    for (; end < sim_proc_count && strcmp(sim_proc_table[end].base, name) == 0; end++) {
        has_threaded |= sim_proc_table[end].form != 0;
        known |= sim_proc_table[end].since <= driver;
    }
    /* A driver of this version does not have it. */
    if (!known)
        return CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    int best = -1;
    for (size_t p = first; p < end; p++) {
        const struct sim_proc *proc = &sim_proc_table[p];
        if ((proc->form != 0) != (per_thread && has_threaded) || proc->since > driver)
            continue;
        /* Versions are compared as the driver does, unsigned: -1 is the newest. */
        if ((unsigned)proc->since <= (unsigned)version && version && proc->since > best) {
            best = proc->since;
            *address = proc->address;
        }
    }
    return *address ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
}

CUresult CUDAAPI cuGetProcAddress_v2(const char *symbol, void **function, int version,
                                     cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    if (!symbol || !function ||
        flags > (CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM))
        return CUDA_ERROR_INVALID_VALUE;
    CUdriverProcAddressQueryResult found =
        choose(symbol, version, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, function);
    if (status)
        *status = found;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **function, int version,
                                  cuuint64_t flags) {
    if (!symbol || !function)
        return CUDA_ERROR_INVALID_VALUE;
    void *found = NULL;
    CUresult result = cuGetProcAddress_v2(symbol, &found, version, flags, NULL);
    if (result == CUDA_SUCCESS && !found)
        return CUDA_ERROR_NOT_FOUND;
    if (result == CUDA_SUCCESS)
        *function = found;
    return result;
}
