/* Linear memory, and what a program may know of the device's memory. */
#include "shim.h"

#include <string.h>

/* Since Pascal the driver puts allocations of at most this many bytes together in a page. */
#define SHARED_BYTES (1ull << 20)

/* -- Allocation ------------------------------------------------------------------------------- */

ALIQUOT_INLINE CUresult begin(struct aliquot_request *request, uint64_t bytes) {
    *request = (struct aliquot_request){.context = NULL};
    CUresult told = aliquot_context_ask(&request->context);
    if (!request->context)
        return told;
    if (request->context->device < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint32_t device = (uint32_t)request->context->device;
    request->bytes = aliquot_whole_pages_inline(device, bytes);
    if (!aliquot_charge(device, request->bytes))
        return CUDA_ERROR_OUT_OF_MEMORY;
    request->enters = bytes <= SHARED_BYTES && aliquot_pointer_enters(&aliquot_pointers);
    return CUDA_SUCCESS;
}

ALIQUOT_INLINE CUresult finish(const struct aliquot_request *request, CUresult result,
                               uint64_t pointer, enum aliquot_kind kind, bool shares) {
    if (!request->context)
        return result;
    uint32_t device = (uint32_t)request->context->device;
    if (__builtin_expect(result != CUDA_SUCCESS, 0)) {
        aliquot_withdraw(device, request->bytes);
        aliquot_entered_inline(request->enters);
        return result;
    }
    struct aliquot_allocation allocation = {
        .kind = kind,
        .device = device,
        .owner = request->context->index,
        .shares = shares,
        .pages = request->bytes >> aliquot_pointers.page_shift,
    };
    aliquot_enter_inline(pointer, &allocation);
    aliquot_entered_inline(request->enters);
    return result;
}

CUresult aliquot_request(struct aliquot_request *request, uint64_t bytes) {
    return begin(request, bytes);
}

CUresult aliquot_requested(const struct aliquot_request *request, CUresult result, uint64_t pointer,
                           enum aliquot_kind kind, bool shares) {
    return finish(request, result, pointer, kind, shares);
}

static inline CUresult settle(const struct aliquot_request *request, CUresult result,
                              uint64_t pointer, uint64_t bytes) {
    return aliquot_requested(request, result, pointer, ALIQUOT_LINEAR, bytes <= SHARED_BYTES);
}

CUresult aliquot_cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    struct aliquot_request request;
    CUresult result = begin(&request, bytes);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuMemAlloc_v2)(pointer, bytes));
    return finish(&request, result, result == CUDA_SUCCESS ? *pointer : 0, ALIQUOT_LINEAR,
                  bytes <= SHARED_BYTES);
}

CUresult aliquot_cuMemAlloc(CUdeviceptr_v1 *pointer, unsigned int bytes) {
    struct aliquot_request request;
    CUresult result = aliquot_request(&request, bytes);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuMemAlloc)(pointer, bytes));
    return settle(&request, result, result == CUDA_SUCCESS ? *pointer : 0, bytes);
}

CUresult aliquot_cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned int flags) {
    struct aliquot_request request;
    CUresult result = aliquot_request(&request, bytes);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuMemAllocManaged)(pointer, bytes, flags));
    return settle(&request, result, result == CUDA_SUCCESS ? *pointer : 0, bytes);
}

/* The pitch is the driver's to choose. Rows of 512 bytes cover every device so far; the true size is
 * booked afterwards. */
static uint64_t pitched(size_t width, size_t height) {
    uint64_t bytes;
    if (width > SIZE_MAX - 511 ||
        __builtin_mul_overflow((width + 511) & ~(size_t)511, height, &bytes))
        return UINT64_MAX / 2;
    return bytes;
}

static void repitch(struct aliquot_request *request, CUresult result, uint64_t bytes) {
    if (!request->context || result != CUDA_SUCCESS)
        return;
    uint32_t device = (uint32_t)request->context->device;
    uint64_t given = aliquot_whole_pages(device, bytes);
    if (given > request->bytes)
        aliquot_charge_given(device, given - request->bytes);
    else
        aliquot_withdraw(device, request->bytes - given);
    request->bytes = given;
}

CUresult aliquot_cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width,
                                    size_t height, unsigned int element) {
    struct aliquot_request request;
    CUresult result = aliquot_request(&request, pitched(width, height));
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuMemAllocPitch_v2)(pointer, pitch, width, height, element));
    uint64_t bytes = result == CUDA_SUCCESS ? *pitch * height : 0;
    repitch(&request, result, bytes);
    return settle(&request, result, result == CUDA_SUCCESS ? *pointer : 0, bytes);
}

CUresult aliquot_cuMemAllocPitch(CUdeviceptr_v1 *pointer, unsigned int *pitch, unsigned int width,
                                 unsigned int height, unsigned int element) {
    struct aliquot_request request;
    CUresult result = aliquot_request(&request, pitched(width, height));
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuMemAllocPitch)(pointer, pitch, width, height, element));
    uint64_t bytes = result == CUDA_SUCCESS ? (uint64_t)*pitch * height : 0;
    repitch(&request, result, bytes);
    return settle(&request, result, result == CUDA_SUCCESS ? *pointer : 0, bytes);
}

/* -- Release ---------------------------------------------------------------------------------- */

ALIQUOT_INLINE struct aliquot_departure depart(uint64_t pointer) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return (struct aliquot_departure){.pointer = pointer, .tenancy = ALIQUOT_TENANT_NONE};
    return aliquot_depart_inline(pointer);
}

struct aliquot_departure aliquot_depart(uint64_t pointer) {
    return depart(pointer);
}

ALIQUOT_INLINE CUresult departed(const struct aliquot_departure *departure, CUresult result) {
    aliquot_departed_inline(departure, result == CUDA_SUCCESS);
    return result;
}

CUresult aliquot_departed(const struct aliquot_departure *departure, CUresult result) {
    return departed(departure, result);
}

CUresult aliquot_cuMemFree_v2(CUdeviceptr pointer) {
    struct aliquot_departure departure = depart(pointer);
    return departed(&departure, REAL(cuMemFree_v2)(pointer));
}

CUresult aliquot_cuMemFree(CUdeviceptr_v1 pointer) {
    struct aliquot_departure departure = aliquot_depart(pointer);
    return aliquot_departed(&departure, REAL(cuMemFree)(pointer));
}

/* Linear memory may be freed in stream order too: it is given back when the stream gets there. Until
 * then its entry stays, LEAVING, so that a page which it shares is not taken for empty. */
static CUresult free_async(CUdeviceptr pointer, CUstream stream, bool per_thread,
                           CUresult (*free)(CUdeviceptr, CUstream)) {
    uint64_t value;
    if (!pointer || aliquot_ready() != CUDA_SUCCESS ||
        !aliquot_pointer_get(&aliquot_pointers, pointer, &value))
        return free(pointer, stream);
    if (aliquot_unpack_inline(value).kind == ALIQUOT_POOLED) {
        struct aliquot_departure departure = depart(pointer);
        CUresult result = free(pointer, stream);
        if (result != CUDA_SUCCESS || departure.tenancy == ALIQUOT_TENANT_NONE)
            return departed(&departure, result);
        struct aliquot_allocation allocation = aliquot_unpack_inline(departure.value);
        aliquot_pool_freed(&allocation, true);
        return result;
    }
    uint64_t leaving = aliquot_as_kind(value, ALIQUOT_LEAVING);
    /* In a stream of which that cannot be told no event is put. */
    bool capturing;
    bool told = aliquot_capture_status(stream, per_thread, &capturing) == CUDA_SUCCESS;
    bool ours = aliquot_unpack_inline(value).kind == ALIQUOT_LINEAR && !(told && capturing) &&
                aliquot_pointer_change(&aliquot_pointers, pointer, UINT64_MAX, value, leaving);
    /* Before the driver may carry it out, and give the address to another thread. */
    uint32_t debt = ours ? aliquot_debt_begin(pointer, aliquot_unpack_inline(value).owner) : 0;
    CUresult result = free(pointer, stream);
    if (ours && result == CUDA_SUCCESS)
        aliquot_debt_queued(debt, stream, per_thread, told);
    else if (ours) {
        aliquot_debt_end(debt);
        aliquot_pointer_change(&aliquot_pointers, pointer, UINT64_MAX, leaving, value);
    }
    return result;
}

CUresult aliquot_cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
    return free_async(pointer, stream, false, REAL(cuMemFreeAsync));
}

CUresult aliquot_cuMemFreeAsync_ptsz(CUdeviceptr pointer, CUstream stream) {
    return free_async(pointer, stream, true, REAL(cuMemFreeAsync_ptsz));
}

void aliquot_memory_context_gone(uint16_t context) {
    static const enum aliquot_kind kinds[] = {ALIQUOT_LINEAR, ALIQUOT_ARRAY, ALIQUOT_LEAVING};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        aliquot_allocations_context_gone(kinds[i], context);
}

void aliquot_memory_forget(void) { aliquot_table_reset(&aliquot_pointers); }

/* -- What the program may know ------------------------------------------------------------------ */

/* The slice in place of the device: as much as it may hold, less what it holds. The neighbours'
 * comings and goings do not show. */
static void show_slice(uint64_t *free_bytes, uint64_t *total) {
    const struct aliquot_context *context;
    CUresult told = aliquot_context_ask(&context);
    /* Where it cannot be told which device it is of, it is of the only one. */
    if (!context && (told == CUDA_SUCCESS || aliquot_slice.device_count != 1))
        return;
    if (context && context->device < 0) {
        *free_bytes = 0;
        return;
    }
    uint32_t device = context ? (uint32_t)context->device : 0;
    uint64_t cap = aliquot_cap(device);
    if (cap >= *total)
        return;
    aliquot_synchronised();
    uint64_t used = aliquot_used(device);
    *total = cap;
    *free_bytes = used < cap ? cap - used : 0;
}

CUresult aliquot_cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    CUresult result = REAL(cuMemGetInfo_v2)(free_bytes, total);
    if (result == CUDA_SUCCESS && free_bytes && total)
        show_slice(free_bytes, total);
    return result;
}

CUresult aliquot_cuMemGetInfo(unsigned int *free_bytes, unsigned int *total) {
    CUresult result = REAL(cuMemGetInfo)(free_bytes, total);
    if (result == CUDA_SUCCESS && free_bytes && total) {
        uint64_t wide_free = *free_bytes, wide_total = *total;
        show_slice(&wide_free, &wide_total);
        *free_bytes = (unsigned int)wide_free;
        *total = (unsigned int)wide_total;
    }
    return result;
}

static uint64_t visible_total(CUdevice ordinal, uint64_t total) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return total;
    int device = aliquot_device_index(ordinal);
    uint64_t cap = device < 0 ? 0 : aliquot_cap((uint32_t)device);
    return cap < total ? cap : total;
}

CUresult aliquot_cuDeviceTotalMem_v2(size_t *bytes, CUdevice ordinal) {
    CUresult result = REAL(cuDeviceTotalMem_v2)(bytes, ordinal);
    if (result == CUDA_SUCCESS && bytes)
        *bytes = visible_total(ordinal, *bytes);
    return result;
}

CUresult aliquot_cuDeviceTotalMem(unsigned int *bytes, CUdevice ordinal) {
    CUresult result = REAL(cuDeviceTotalMem)(bytes, ordinal);
    if (result == CUDA_SUCCESS && bytes)
        *bytes = (unsigned int)visible_total(ordinal, *bytes);
    return result;
}
