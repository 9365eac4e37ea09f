/* Memory by pointer, and what a program may know of the device's memory. */
#include "shim.h"

#include "shim/memory/shared.h"

/* The runtime puts allocations of at most this many bytes together in a page; larger ones have pages of
 * their own, 2 MiB each. */
#define SHARED_BYTES (1ull << 20)

/* A request for memory on a device, being charged. */
struct request {
    int device; /* index into the grant; -2: there is no such device, the runtime says so itself */
    uint64_t bytes; /* asked of the device */
    uint64_t pages; /* charged, in bytes */
    bool enters;    /* as aliquot_pointer_enters said */
};

/* Charges a request for the current device, or device `number` (-1: not named). */
static rtError_t begin(struct request *request, uint64_t bytes, int64_t number) {
    *request = (struct request){.device = -2, .bytes = bytes};
    rtError_t result = aliquot_ready();
    if (result != RT_OK)
        return result == RT_NO_DEVICE ? RT_OK : result;
    request->device = number < 0 ? aliquot_device_current() : aliquot_device_index((int32_t)number);
    if (request->device == -2)
        return RT_OK;
    if (request->device < 0)
        return RT_MEMORY_ALLOCATION;
    uint32_t device = (uint32_t)request->device;
    request->pages = aliquot_whole_pages(device, bytes);
    if (!aliquot_charge(device, request->pages))
        return RT_MEMORY_ALLOCATION;
    request->enters = bytes <= SHARED_BYTES && aliquot_pointer_enters(&aliquot_pointers);
    return RT_OK;
}

/* Books the runtime's answer, which it returns: memory was given at `*pointer`, or not. */
static rtError_t finish(struct request *request, rtError_t result, void *const *pointer) {
    if (request->device < 0) {
        /* A runtime that opens a device by itself has just done so. What nobody can charge is not to be had. */
        if (result != RT_OK || aliquot_ready() != RT_OK)
            return result;
        rtError_t told = aliquot_device_ask(&request->device);
        if (request->device < 0) {
            ALIQUOT_CALL(result, rtFree, (*pointer));
            return told != RT_OK ? told : RT_MEMORY_ALLOCATION;
        }
        request->pages = aliquot_whole_pages((uint32_t)request->device, request->bytes);
        aliquot_charge_given((uint32_t)request->device, request->pages);
    }
    uint32_t device = (uint32_t)request->device;
    if (result != RT_OK) {
        aliquot_withdraw(device, request->pages);
        aliquot_entered_inline(request->enters);
        return result;
    }
    struct aliquot_allocation allocation = {
        .kind = ALIQUOT_LINEAR,
        .device = device,
        .owner = (uint16_t)device,
        .shares = request->bytes <= SHARED_BYTES,
        .pages = request->pages >> aliquot_pointers.page_shift,
    };
    aliquot_enter_inline((uintptr_t)*pointer, &allocation);
    aliquot_entered_inline(request->enters);
    return result;
}

/* AscendCL asks for 32 bytes more than the program does, in whole 32s. */
static uint64_t padded(uint64_t size) {
    return size > UINT64_MAX - 64 ? size : (size + 63) & ~31ull;
}

int64_t aliquot_device_named(const rtMallocConfig_t *config) {
    int64_t device = -1;
    for (size_t i = 0; config && config->attrs && i < config->numAttrs; i++)
        if (config->attrs[i].attr == RT_MALLOC_ATTR_DEVICE_ID)
            device = config->attrs[i].value[0];
    return device;
}

#define ALLOCATE(symbol, bytes, number, parameters, arguments)                                     \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        struct request request;                                                                    \
        rtError_t result = begin(&request, bytes, number);                                         \
        if (result != RT_OK)                                                                       \
            return result;                                                                         \
        ALIQUOT_RETRY(result, symbol, arguments);                                                  \
        return finish(&request, result, pointer);                                                  \
    }

ALLOCATE(rtMalloc, size, -1, (void **pointer, uint64_t size, uint32_t type, const uint16_t module),
         (pointer, size, type, module))
ALLOCATE(rtMallocCached, size, -1,
         (void **pointer, uint64_t size, uint32_t type, const uint16_t module),
         (pointer, size, type, module))
ALLOCATE(rtMemAlloc, size, aliquot_device_named(config),
         (void **pointer, uint64_t size, uint32_t policy, uint32_t advise,
          rtMallocConfig_t *config),
         (pointer, size, policy, advise, config))
ALLOCATE(rtsMalloc, size, aliquot_device_named(config),
         (void **pointer, uint64_t size, uint32_t policy, uint32_t advise,
          rtMallocConfig_t *config),
         (pointer, size, policy, advise, config))
ALLOCATE(rtMemAllocManaged, size, -1,
         (void **pointer, uint64_t size, uint32_t flag, const uint16_t module),
         (pointer, size, flag, module))
ALLOCATE(rtDvppMalloc, size, -1, (void **pointer, uint64_t size, uint16_t module),
         (pointer, size, module))
ALLOCATE(rtDvppMallocWithFlag, size, -1,
         (void **pointer, uint64_t size, uint32_t flag, uint16_t module),
         (pointer, size, flag, module))
ALLOCATE(aclrtMallocImpl, padded(size), -1, (void **pointer, size_t size, uint32_t policy),
         (pointer, size, policy))
ALLOCATE(aclrtMallocAlign32Impl, size, -1, (void **pointer, size_t size, uint32_t policy),
         (pointer, size, policy))
ALLOCATE(aclrtMallocCachedImpl, padded(size), -1, (void **pointer, size_t size, uint32_t policy),
         (pointer, size, policy))
ALLOCATE(aclrtMallocWithCfgImpl, size, aliquot_device_named(config),
         (void **pointer, size_t size, uint32_t policy, rtMallocConfig_t *config),
         (pointer, size, policy, config))
ALLOCATE(aclrtMallocForTaskSchedulerImpl, size, aliquot_device_named(config),
         (void **pointer, size_t size, uint32_t policy, rtMallocConfig_t *config),
         (pointer, size, policy, config))
ALLOCATE(aclrtMemAllocManagedImpl, size, -1, (void **pointer, uint64_t size, uint32_t flag),
         (pointer, size, flag))

/* -- Release ------------------------------------------------------------------------------------------ */

static struct aliquot_departure depart(void *pointer) {
    if (aliquot_ready() != RT_OK)
        return (struct aliquot_departure){.tenancy = ALIQUOT_TENANT_NONE};
    return aliquot_depart_inline((uintptr_t)pointer);
}

#define FREE(symbol)                                                                               \
    rtError_t aliquot_##symbol(void *pointer) {                                                    \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pointer);                                                          \
        struct aliquot_departure departure = depart(pointer);                                      \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (pointer));                                                   \
        aliquot_departed_inline(&departure, result == RT_OK);                                      \
        return result;                                                                             \
    }

FREE(rtFree)
FREE(rtFreeWithDevSync)
FREE(rtsFree)
FREE(rtMemFreeManaged)
FREE(rtDvppFree)
FREE(aclrtFreeImpl)
FREE(aclrtFreeWithDevSyncImpl)

void aliquot_memory_device_gone(uint32_t device) {
    aliquot_allocations_context_gone(ALIQUOT_LINEAR, (uint16_t)device);
    aliquot_shared_owner_gone((uint16_t)device);
}

void aliquot_memory_forget(void) { aliquot_table_reset(&aliquot_pointers); }

/* Frees in the order of a stream leave at once. */
void aliquot_debt_cancel(uint64_t pointer) { (void)pointer; }

/* -- What the program may know ---------------------------------------------------------------------------- */

/* The slice in place of the device, by its index: as much as it may hold, less what it holds. Of a kind of
 * memory of which the device has less than the slice, all is shown, and of it as much free as the slice has
 * left. */
static void show_slice(int device, size_t *free, size_t *total) {
    /* Where it cannot be told which device it is of, it is of the only one. */
    if (device == -2 && aliquot_slice.device_count == 1)
        device = 0;
    if (device < 0) {
        *free = 0;
        return;
    }
    uint64_t cap = aliquot_cap((uint32_t)device);
    if (cap == ALIQUOT_NO_CAP)
        return;
    uint64_t used = aliquot_used((uint32_t)device), left = used < cap ? cap - used : 0;
    if (cap < *total) {
        *total = cap;
        *free = left;
    } else if (left < *free)
        *free = left;
}

#define SHOW(symbol, parameters, arguments)                                                        \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        if (result == RT_OK && free && total && aliquot_ready() == RT_OK)                          \
            show_slice(aliquot_device_current(), free, total);                                     \
        return result;                                                                             \
    }

SHOW(rtMemGetInfo, (size_t * free, size_t *total), (free, total))
SHOW(rtMemGetInfoEx, (uint32_t type, size_t *free, size_t *total), (type, free, total))
SHOW(rtsMemGetInfo, (uint32_t type, size_t *free, size_t *total), (type, free, total))
SHOW(aclrtGetMemInfoImpl, (uint32_t attribute, size_t *free, size_t *total),
     (attribute, free, total))

rtError_t aliquot_rtMemGetInfoByType(const int32_t number, const uint32_t type,
                                     rtMemInfo_t *const info) {
    if (aliquot_is_inner())
        return REAL(rtMemGetInfoByType)(number, type, info);
    rtError_t result;
    ALIQUOT_CALL(result, rtMemGetInfoByType, (number, type, info));
    /* (Other kinds of what it tells are no sizes.) */
    if (result != RT_OK || !info || !type || type > RT_MEM_INFO_LAST_SIZE ||
        aliquot_ready() != RT_OK)
        return result;
    int device = aliquot_device_index(number);
    for (unsigned i = 0; i < sizeof info->pages / sizeof *info->pages; i++)
        show_slice(device, &info->pages[i].free, &info->pages[i].total);
    return result;
}

#define ATTRIBUTE(symbol)                                                                          \
    rtError_t aliquot_##symbol(uint32_t number, uint32_t attribute, int64_t *value) {              \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(number, attribute, value);                                         \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (number, attribute, value));                                  \
        if (result == RT_OK && value && *value > 0 &&                                              \
            attribute == RT_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE && aliquot_ready() == RT_OK) {          \
            size_t ignored = 0, total = (uint64_t)*value;                                          \
            show_slice(aliquot_device_index((int32_t)number), &ignored, &total);                   \
            *value = (int64_t)total;                                                               \
        }                                                                                          \
        return result;                                                                             \
    }
ATTRIBUTE(rtsDeviceGetInfo)
ATTRIBUTE(aclrtGetDeviceInfoImpl)
