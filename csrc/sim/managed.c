/* What was said of managed memory. It lies in the pages of the device that it was allocated on,
 * always; advice and prefetches to other places are remembered per allocation, and answered. */
#include "managed.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>

struct advice {
    struct advice *next;
    uint64_t id; /* of the allocation */
    bool read_mostly;
    CUmemLocation preferred, prefetched; /* type INVALID: none */
    uint32_t accessed_by;                /* bit per ordinal; SIM_DEVICES_MAX: the host */
};

static pthread_mutex_t advice_lock = PTHREAD_MUTEX_INITIALIZER;
static struct advice *advices;
static _Atomic uint32_t advice_count; /* relaxed: only saves taking the lock */

/* Under advice_lock. With `make`, NULL means no host memory. */
static struct advice *find(uint64_t id, bool make) {
    struct advice *advice = advices;
    while (advice && advice->id != id)
        advice = advice->next;
    if (advice || !make)
        return advice;
    advice = calloc(1, sizeof *advice);
    if (!advice)
        return NULL;
    advice->id = id;
    advice->next = advices;
    advices = advice;
    atomic_fetch_add_explicit(&advice_count, 1, memory_order_relaxed);
    return advice;
}

void managed_forget(uint64_t id) {
    if (!atomic_load_explicit(&advice_count, memory_order_relaxed))
        return;
    pthread_mutex_lock(&advice_lock);
    for (struct advice **link = &advices; *link; link = &(*link)->next) {
        if ((*link)->id != id)
            continue;
        struct advice *advice = *link;
        *link = advice->next;
        free(advice);
        atomic_fetch_sub_explicit(&advice_count, 1, memory_order_relaxed);
        break;
    }
    pthread_mutex_unlock(&advice_lock);
}

static struct advice *find_for(CUdeviceptr ptr) {
    struct sim_memory_info info;
    return sim_memory_find(ptr, &info) ? find(info.id, true) : NULL;
}

CUresult sim_managed_advised(CUdeviceptr ptr, CUmem_advise what, CUmemLocation location) {
    uint32_t bit = 1u << (location.type == CU_MEM_LOCATION_TYPE_DEVICE ? location.id & 31
                                                                       : (int)SIM_DEVICES_MAX);
    pthread_mutex_lock(&advice_lock);
    struct advice *advice = find_for(ptr);
    if (advice)
        switch (what) {
        case CU_MEM_ADVISE_SET_READ_MOSTLY:
        case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
            advice->read_mostly = what == CU_MEM_ADVISE_SET_READ_MOSTLY;
            break;
        case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
            advice->preferred = location;
            break;
        case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
            advice->preferred = (CUmemLocation){0};
            break;
        case CU_MEM_ADVISE_SET_ACCESSED_BY:
            advice->accessed_by |= bit;
            break;
        case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
            advice->accessed_by &= ~bit;
            break;
        default:
            break;
        }
    pthread_mutex_unlock(&advice_lock);
    return advice ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

void sim_managed_prefetched(CUdeviceptr ptr, CUmemLocation location) {
    pthread_mutex_lock(&advice_lock);
    struct advice *advice = find_for(ptr);
    if (advice)
        advice->prefetched = location;
    pthread_mutex_unlock(&advice_lock);
}

/* ---- Range attributes ---------------------------------------------------------------------- */

/* As old calls name a place: a device, the host, or nowhere. */
static int old_name(const CUmemLocation *location) {
    return location->type == CU_MEM_LOCATION_TYPE_DEVICE    ? location->id
           : location->type == CU_MEM_LOCATION_TYPE_INVALID ? CU_DEVICE_INVALID
                                                            : CU_DEVICE_CPU;
}

/* `data` holds as many devices as there is room for; what is left over says "invalid". */
static CUresult accessed_by(int *data, size_t bytes, uint32_t mask) {
    if (!bytes || bytes % sizeof *data)
        return CUDA_ERROR_INVALID_VALUE;
    size_t room = bytes / sizeof *data, at = 0;
    for (int d = 0; d < sim_device_count() && at < room; d++)
        if (mask >> d & 1)
            data[at++] = d;
    if ((mask >> SIM_DEVICES_MAX & 1) && at < room)
        data[at++] = CU_DEVICE_CPU;
    while (at < room)
        data[at++] = CU_DEVICE_INVALID;
    return CUDA_SUCCESS;
}

static CUresult range_attribute(void *data, size_t bytes, CUmem_range_attribute attribute,
                                const struct advice *advice) {
    if (!data)
        return CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY)
        return accessed_by(data, bytes, advice->accessed_by);
    if (bytes != sizeof(int))
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
        *(int *)data = advice->read_mostly;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
        *(int *)data = old_name(&advice->preferred);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
        *(int *)data = old_name(&advice->prefetched);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
        *(int *)data = (int)advice->preferred.type;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
        *(int *)data = advice->preferred.id;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
        *(int *)data = (int)advice->prefetched.type;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
        *(int *)data = advice->prefetched.id;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemRangeGetAttributes(void **data, size_t *sizes, CUmem_range_attribute *attributes,
                                 size_t count, CUdeviceptr ptr, size_t bytes) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_memory_info info;
    if (!data || !sizes || !attributes || !count || !bytes || !sim_memory_find(ptr, &info) ||
        info.kind != SIM_MEMORY_MANAGED || bytes > info.bytes - (ptr - info.base))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&advice_lock);
    const struct advice *there = find(info.id, false);
    struct advice advice = there ? *there : (struct advice){0};
    pthread_mutex_unlock(&advice_lock);
    for (size_t a = 0; a < count && result == CUDA_SUCCESS; a++)
        result = range_attribute(data[a], sizes[a], attributes[a], &advice);
    return result;
}

CUresult cuMemRangeGetAttribute(void *data, size_t size, CUmem_range_attribute attribute,
                                CUdeviceptr ptr, size_t bytes) {
    return cuMemRangeGetAttributes(&data, &size, &attribute, 1, ptr, bytes);
}
