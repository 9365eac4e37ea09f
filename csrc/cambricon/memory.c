/* Linear memory, and what a program may know of the device's memory. */
#include "shim.h"

#include "shim/memory/physical.h"

#include <stdlib.h>

/* Allocations of at most this part of a page may lie together in one. */
#define SHARED_PART 2u

/* -- Allocation ---------------------------------------------------------------------------------------- */

/* A request for memory in the current context, being charged. */
struct request {
    const struct aliquot_context *context; /* NULL: not ours to charge */
    uint64_t bytes;                        /* charged, whole pages */
    bool shares;                           /* a page with others */
    bool enters;                           /* as aliquot_pointer_enters said */
};

static CNresult begin(struct request *request, uint64_t bytes) {
    *request = (struct request){.context = NULL};
    CNresult told = aliquot_context_ask(&request->context);
    if (!request->context)
        return told;
    if (request->context->device < 0)
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    uint32_t device = (uint32_t)request->context->device;
    request->bytes = aliquot_whole_pages_inline(device, bytes);
    if (!aliquot_charge(device, request->bytes))
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    request->shares = bytes <= aliquot_page_bytes_inline(device) / SHARED_PART;
    request->enters = request->shares && aliquot_pointer_enters(&aliquot_pointers);
    return CN_SUCCESS;
}

static CNresult finish(const struct request *request, CNresult result, const CNaddr *address) {
    if (!request->context)
        return result;
    uint32_t device = (uint32_t)request->context->device;
    if (result != CN_SUCCESS) {
        aliquot_withdraw(device, request->bytes);
        aliquot_entered_inline(request->enters);
        return result;
    }
    struct aliquot_allocation allocation = {
        .kind = ALIQUOT_LINEAR,
        .device = device,
        .owner = request->context->index,
        .shares = request->shares,
        .pages = request->bytes >> aliquot_pointers.page_shift,
    };
    aliquot_enter_inline(*address, &allocation);
    aliquot_entered_inline(request->enters);
    return result;
}

#define ALLOCATE(symbol, parameters, arguments)                                                    \
    CNresult aliquot_##symbol parameters {                                                         \
        struct request request;                                                                    \
        if (OWN_CALL())                                                                            \
            return REAL(symbol) arguments;                                                         \
        CNresult result = begin(&request, bytes);                                                  \
        if (result != CN_SUCCESS)                                                                  \
            return result;                                                                         \
        ALIQUOT_RETRY(result, REAL(symbol) arguments);                                             \
        return finish(&request, result, address);                                                  \
    }

#define PLAIN (CNaddr * address, uint64_t bytes)
#define OF_NODE (CNaddr * address, uint64_t bytes, int node)
ALLOCATE(cnMalloc, PLAIN, (address, bytes))
ALLOCATE(cnMallocSecurity, PLAIN, (address, bytes))
ALLOCATE(cnMallocConstant, PLAIN, (address, bytes))
ALLOCATE(cnMallocPeerAble, PLAIN, (address, bytes))
ALLOCATE(cnZmalloc, PLAIN, (address, bytes))
ALLOCATE(cnMallocNode, OF_NODE, (address, bytes, node))
ALLOCATE(cnMallocNodeConstant, OF_NODE, (address, bytes, node))
ALLOCATE(cnMallocFrameBuffer, OF_NODE, (address, bytes, node))
ALLOCATE(cnZmallocNode, OF_NODE, (address, bytes, node))

/* -- Release ------------------------------------------------------------------------------------------- */

static struct aliquot_departure depart(CNaddr address) {
    if (aliquot_ready() != CN_SUCCESS)
        return (struct aliquot_departure){.pointer = address, .tenancy = ALIQUOT_TENANT_NONE};
    return aliquot_depart_inline(address);
}

CNresult aliquot_cnFree(CNaddr address) {
    struct aliquot_departure departure = depart(address);
    CNresult result = REAL(cnFree)(address);
    aliquot_departed_inline(&departure, result == CN_SUCCESS);
    return result;
}

/* Linear memory is none that the driver frees like this; a pool's piece is in the pool until its queue has come
 * to it. */
CNresult aliquot_cnMemFreeAsync(CNaddr address, CNqueue queue) {
    struct aliquot_departure departure = depart(address);
    CNresult result = REAL(cnMemFreeAsync)(address, queue);
    struct aliquot_allocation piece = aliquot_unpack_inline(departure.value);
    if (departure.tenancy != ALIQUOT_TENANT_NONE && result == CN_SUCCESS &&
        piece.kind == ALIQUOT_POOLED)
        aliquot_pool_freed(&piece, true);
    else
        aliquot_departed_inline(&departure, result == CN_SUCCESS);
    return result;
}

/* What several were charged, the one that they make is. Their entries go before the driver takes their
 * addresses, which it may give out again at once. */
CNresult aliquot_cnMemMerge(CNaddr *merged, unsigned int count, const CNaddr *addresses) {
    if (!merged || !addresses || !count || aliquot_ready() != CN_SUCCESS || OWN_CALL())
        return REAL(cnMemMerge)(merged, count, addresses);
    struct aliquot_departure *parts = calloc(count, sizeof *parts);
    if (!parts)
        return CN_ERROR_SYSTEM_OUT_OF_MEMORY;
    for (unsigned int i = 0; i < count; i++)
        parts[i] = depart(addresses[i]);
    CNresult result = REAL(cnMemMerge)(merged, count, addresses);
    struct aliquot_allocation whole = {.kind = 0};
    uint64_t pages = 0;
    for (unsigned int i = 0; i < count; i++) {
        if (parts[i].tenancy == ALIQUOT_TENANT_NONE)
            continue;
        if (result != CN_SUCCESS) {
            aliquot_stays(&parts[i]);
            continue;
        }
        whole = aliquot_unpack_inline(parts[i].value);
        if (aliquot_pointer_gone(&aliquot_pointers, parts[i].pointer, parts[i].page) !=
            ALIQUOT_TENANT_EDGE)
            continue;
        pages += whole.pages;
        if (parts[i].name) { /* nobody can open it by that any more: whoever has, has it besides */
            uint64_t bytes = whole.pages * aliquot_page_bytes_inline(whole.device);
            aliquot_charge_given(whole.device, bytes);
            aliquot_hold_drop(parts[i].name, whole.device, bytes);
        }
    }
    free(parts);
    if (!whole.kind)
        return result;
    whole.pages = pages;
    whole.shares = false;
    aliquot_enter(*merged, &whole);
    return result;
}

/* Frees in the order of a queue leave at once. */
void aliquot_debt_cancel(uint64_t pointer) { (void)pointer; }

/* -- What the program may know --------------------------------------------------------------------------- */

/* The slice in place of the device: as much as it may hold, less what it holds. The neighbours'
 * comings and goings do not show. */
static CNresult shown(CNresult result, uint64_t *free_bytes, uint64_t *total) {
    const struct aliquot_context *context;
    if (result != CN_SUCCESS || !free_bytes || !total)
        return result;
    CNresult told = aliquot_context_ask(&context);
    /* Where it cannot be told which device it is of, it is of the only one. */
    if (!context && (told == CN_SUCCESS || aliquot_slice.device_count != 1))
        return result;
    if (context && context->device < 0) {
        *free_bytes = 0;
        return result;
    }
    uint32_t device = context ? (uint32_t)context->device : 0;
    uint64_t cap = aliquot_cap(device);
    if (cap >= *total)
        return result;
    aliquot_pools_waited();
    aliquot_physical_settle();
    uint64_t used = aliquot_used(device);
    *total = cap;
    *free_bytes = used < cap ? cap - used : 0;
    return result;
}

CNresult aliquot_cnMemGetInfo(uint64_t *free_bytes, uint64_t *total) {
    return shown(REAL(cnMemGetInfo)(free_bytes, total), free_bytes, total);
}

CNresult aliquot_cnMemGetNodeInfo(uint64_t *free_bytes, uint64_t *total, int node) {
    return shown(REAL(cnMemGetNodeInfo)(free_bytes, total, node), free_bytes, total);
}

/* Bytes. */
static uint64_t slice_of(CNdev ordinal) {
    int device = aliquot_device_index(ordinal);
    return device < 0 ? 0 : aliquot_cap((uint32_t)device);
}

CNresult aliquot_cnDeviceTotalMem(uint64_t *bytes, CNdev ordinal) {
    CNresult result = REAL(cnDeviceTotalMem)(bytes, ordinal);
    if (result != CN_SUCCESS || !bytes || aliquot_ready() != CN_SUCCESS)
        return result;
    uint64_t cap = slice_of(ordinal);
    *bytes = cap < *bytes ? cap : *bytes;
    return result;
}

CNresult aliquot_cnDeviceGetAttribute(int *value, int attribute, CNdev ordinal) {
    CNresult result = REAL(cnDeviceGetAttribute)(value, attribute, ordinal);
    if ((attribute != CN_DEVICE_ATTRIBUTE_AVAILABLE_GLOBAL_MEMORY_SIZE &&
         attribute != CN_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_TOTAL_SIZE) ||
        result != CN_SUCCESS || !value || aliquot_ready() != CN_SUCCESS)
        return result;
    uint64_t mib = slice_of(ordinal) >> 20;
    if (*value > 0 && mib < (uint64_t)*value)
        *value = (int)mib;
    return result;
}
