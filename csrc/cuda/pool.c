/* Stream-ordered memory: pools are charged for what they have reserved, not for what was asked.
 *
 * A pool grows when an allocation needs it, in steps of the driver's choosing, and shrinks by itself
 * when the program synchronises. Growth is charged before the call, by its upper bound, and settled
 * after it from the pool's own counter; shrinking is taken up when a synchronising call returns, and
 * always before a refusal.
 */
#include "shim.h"

#include <pthread.h>
#include <string.h>

#define POOLS 1024u
#define OWED 4096u

/* The step in which a driver grows a pool, until a larger one is seen. */
#define FIRST_STEP (32ull << 20)

struct pool {
    CUmemoryPool handle; /* NULL: free place */
    uint32_t device;
    bool destroyed;      /* the handle is void; what was allocated lives on */
    uint64_t charged;    /* bytes */
    uint64_t step;       /* bytes */
    uint64_t live;       /* allocations entered and not freed */
};

/* A charge that is due back when an event has passed. */
struct debt {
    uint64_t bytes; /* 0: free place */
    CUevent event;  /* NULL: at the next look */
    uint32_t device;
    uint16_t context; /* of the event */
};

/* Held over the pool's own driver calls, so that growth is attributed to the call that caused it. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct pool pools[POOLS]; /* [0] is never used */
static uint32_t pool_mark = 1;   /* places below it have been used */
static struct aliquot_table handles;
static struct debt debts[OWED];
static uint32_t debt_mark;

_Atomic uint32_t aliquot_lazy;

CUstreamCaptureMode aliquot_capture_relax(void) {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    if (HAVE(cuThreadExchangeStreamCaptureMode))
        REAL(cuThreadExchangeStreamCaptureMode)(&mode);
    return mode;
}

void aliquot_capture_restore(CUstreamCaptureMode mode) {
    if (HAVE(cuThreadExchangeStreamCaptureMode))
        REAL(cuThreadExchangeStreamCaptureMode)(&mode);
}

bool aliquot_capturing(CUstream stream, bool per_thread) {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUresult result = CUDA_SUCCESS;
    if (per_thread && HAVE(cuStreamIsCapturing_ptsz))
        result = REAL(cuStreamIsCapturing_ptsz)(stream, &status);
    else if (HAVE(cuStreamIsCapturing))
        result = REAL(cuStreamIsCapturing)(stream, &status);
    return result != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

static uint64_t attribute(CUmemoryPool pool, CUmemPool_attribute which) {
    cuuint64_t value = 0;
    REAL(cuMemPoolGetAttribute)(pool, which, &value);
    return value;
}

static uint64_t reserved(const struct pool *pool) {
    return attribute(pool->handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
}

/* Makes the pool's charge what it has reserved, of which `ahead` is charged besides. */
static void settle_pool(struct pool *pool, uint64_t ahead) {
    uint64_t booked = pool->charged + ahead;
    uint64_t now = pool->destroyed ? (pool->live ? pool->charged : 0) : reserved(pool);
    if (now > booked)
        aliquot_charge_given(pool->device, now - booked);
    else if (now < booked)
        aliquot_withdraw(pool->device, booked - now);
    if (now > pool->charged && now - pool->charged > pool->step)
        pool->step = now - pool->charged;
    pool->charged = now;
    if (pool->destroyed && !pool->live)
        memset(pool, 0, sizeof *pool);
}

/* Under the mutex: the place of a pool, entering it when it is new. */
static struct pool *pool_of(CUmemoryPool handle, uint32_t device) {
    uint64_t index;
    if (aliquot_table_get(&handles, (uintptr_t)handle, &index))
        return &pools[index];
    for (uint16_t i = 1; i < POOLS; i++) {
        if (pools[i].handle)
            continue;
        pools[i] = (struct pool){.handle = handle, .device = device, .step = FIRST_STEP};
        aliquot_table_put(&handles, (uintptr_t)handle, i);
        if (i >= pool_mark)
            pool_mark = i + 1u;
        return &pools[i];
    }
    return NULL;
}

/* The context that a stream's work runs in. */
static const struct aliquot_context *stream_context(CUstream stream) {
    const struct aliquot_context *current = aliquot_context_current();
    if (!current || !stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD)
        return current;
    CUcontext handle = NULL;
    if (REAL(cuStreamGetCtx)(stream, &handle) != CUDA_SUCCESS || handle == current->handle)
        return current;
    const struct aliquot_context *context = aliquot_context_of(handle);
    return context ? context : current;
}

/* The pool of an allocation: the one that was named, or the stream's device's. */
struct target {
    CUmemoryPool pool; /* NULL: not ours to charge */
    uint32_t device;
};

static CUresult find_target(struct target *target, CUmemoryPool named, CUstream stream,
                            bool per_thread) {
    *target = (struct target){0};
    const struct aliquot_context *context = stream_context(stream);
    /* Within a capture nothing is allocated: the graph is charged when it is launched. */
    if (!context || !HAVE(cuMemPoolGetAttribute) || aliquot_capturing(stream, per_thread))
        return CUDA_SUCCESS;
    if (context->device < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    target->device = (uint32_t)context->device;
    target->pool = named;
    if (!named && REAL(cuDeviceGetMemPool)(&target->pool, context->ordinal) != CUDA_SUCCESS)
        target->pool = NULL;
    return CUDA_SUCCESS;
}

/* Whether the pool surely has a gap of that size: its free bytes lie in at most as many gaps as it
 * has live allocations and chunks. */
static bool has_gap(const struct pool *pool, uint64_t bytes) {
    uint64_t used = attribute(pool->handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
    uint64_t gaps = pool->live + pool->charged / FIRST_STEP + 1;
    return pool->charged > used && (bytes + 511) / 512 * 512 <= (pool->charged - used) / gaps;
}

/* Under the mutex: charges the growth that an allocation may cause. `*ahead` is what was charged.
 * False: refused. */
static bool charge_growth(struct pool *pool, uint64_t bytes, uint64_t *ahead) {
    uint32_t device = pool->device;
    uint64_t whole = aliquot_whole_pages(device, bytes);
    uint64_t growth = whole > UINT64_MAX / 2 ? whole : (whole + pool->step - 1) / pool->step * pool->step;
    settle_pool(pool, 0);
    *ahead = growth;
    if (aliquot_charge_once(device, growth))
        return true;
    /* As the driver does when the device is full: what the pool only keeps for later goes first. */
    REAL(cuMemPoolTrimTo)(pool->handle, 0);
    settle_pool(pool, 0);
    if (aliquot_charge_once(device, growth))
        return true;
    *ahead = 0;
    if (has_gap(pool, bytes))
        return true;
    /* Others of the slice may have given back or died; that path takes this module's mutex. */
    pthread_mutex_unlock(&mutex);
    bool fits = aliquot_charge(device, growth);
    pthread_mutex_lock(&mutex);
    *ahead = fits ? growth : 0;
    return fits;
}

/* The four allocation calls differ in how the driver is called. */
struct request {
    CUdeviceptr *pointer;
    size_t bytes;
    CUmemoryPool pool; /* NULL: the device's */
    CUstream stream;
    bool per_thread;
};

static CUresult call(const struct request *request) {
    if (request->pool)
        return (request->per_thread ? REAL(cuMemAllocFromPoolAsync_ptsz)
                                    : REAL(cuMemAllocFromPoolAsync))(
            request->pointer, request->bytes, request->pool, request->stream);
    return (request->per_thread ? REAL(cuMemAllocAsync_ptsz) : REAL(cuMemAllocAsync))(
        request->pointer, request->bytes, request->stream);
}

static void enter(const struct request *request, struct pool *pool) {
    struct aliquot_allocation allocation = {.kind = ALIQUOT_POOLED,
                                            .device = pool->device,
                                            .owner = (uint16_t)(pool - pools)};
    aliquot_enter(*request->pointer, &allocation);
    pool->live++;
    atomic_fetch_or_explicit(&aliquot_lazy, ALIQUOT_LAZY_POOLS, memory_order_relaxed);
}

static CUresult allocate(const struct request *request) {
    struct target target;
    CUresult result =
        find_target(&target, request->pool, request->stream, request->per_thread);
    if (result != CUDA_SUCCESS)
        return result;
    if (!target.pool)
        return call(request);
    CUstreamCaptureMode mode = aliquot_capture_relax();
    pthread_mutex_lock(&mutex);
    struct pool *pool = pool_of(target.pool, target.device);
    uint64_t ahead = 0;
    if (!pool)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else if (!charge_growth(pool, request->bytes, &ahead))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else {
        aliquot_capture_restore(mode);
        unsigned round = 0;
        for (;;) {
            result = call(request);
            if (result != CUDA_ERROR_OUT_OF_MEMORY)
                break;
            /* A wait holds nothing. */
            pthread_mutex_unlock(&mutex);
            bool again = aliquot_give_back_due(&round);
            pthread_mutex_lock(&mutex);
            if (!again)
                break;
        }
        mode = aliquot_capture_relax();
        if (result == CUDA_SUCCESS)
            enter(request, pool);
        settle_pool(pool, ahead);
        if (result == CUDA_SUCCESS && !ahead &&
            aliquot_used(pool->device) > aliquot_cap(pool->device)) {
            /* It grew where it should not have needed to. */
            uint64_t value;
            (request->per_thread ? REAL(cuMemFreeAsync_ptsz)
                                 : REAL(cuMemFreeAsync))(*request->pointer, request->stream);
            aliquot_pointer_take(&aliquot_pointers, *request->pointer, &value);
            pool->live--;
            REAL(cuMemPoolTrimTo)(pool->handle, 0);
            settle_pool(pool, 0);
            result = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    pthread_mutex_unlock(&mutex);
    aliquot_capture_restore(mode);
    return result;
}

CUresult aliquot_cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream) {
    return allocate(&(struct request){pointer, bytes, NULL, stream, false});
}

CUresult aliquot_cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUstream stream) {
    return allocate(&(struct request){pointer, bytes, NULL, stream, true});
}

CUresult aliquot_cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool,
                                         CUstream stream) {
    if (!pool)
        return REAL(cuMemAllocFromPoolAsync)(pointer, bytes, pool, stream);
    return allocate(&(struct request){pointer, bytes, pool, stream, false});
}

CUresult aliquot_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t bytes,
                                              CUmemoryPool pool, CUstream stream) {
    if (!pool)
        return REAL(cuMemAllocFromPoolAsync_ptsz)(pointer, bytes, pool, stream);
    return allocate(&(struct request){pointer, bytes, pool, stream, true});
}

void aliquot_pool_freed(const struct aliquot_allocation *allocation) {
    pthread_mutex_lock(&mutex);
    struct pool *pool = &pools[allocation->owner % POOLS];
    if (pool->live)
        pool->live--;
    pthread_mutex_unlock(&mutex);
}

/* -- Pools themselves --------------------------------------------------------------------------- */

CUresult aliquot_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties) {
    CUresult result = REAL(cuMemPoolCreate)(pool, properties);
    if (result != CUDA_SUCCESS || properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        aliquot_ready() != CUDA_SUCCESS)
        return result;
    int device = aliquot_device_index(properties->location.id);
    if (device >= 0) {
        pthread_mutex_lock(&mutex);
        pool_of(*pool, (uint32_t)device);
        pthread_mutex_unlock(&mutex);
    }
    return result;
}

CUresult aliquot_cuMemPoolDestroy(CUmemoryPool handle) {
    uint64_t index;
    if (!handle || aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMemPoolDestroy)(handle);
    pthread_mutex_lock(&mutex);
    bool ours = aliquot_table_take(&handles, (uintptr_t)handle, &index);
    CUresult result = REAL(cuMemPoolDestroy)(handle);
    if (ours && result == CUDA_SUCCESS)
        /* Its memory goes with its last allocation; the next look settles it. */
        pools[index].destroyed = true;
    else if (ours)
        aliquot_table_put(&handles, (uintptr_t)handle, index);
    pthread_mutex_unlock(&mutex);
    return result;
}

CUresult aliquot_cuMemPoolTrimTo(CUmemoryPool handle, size_t keep) {
    CUresult result = REAL(cuMemPoolTrimTo)(handle, keep);
    if (result == CUDA_SUCCESS)
        aliquot_synchronised();
    return result;
}

/* -- What the driver gives back on its own ------------------------------------------------------ */

void aliquot_pool_owe(uint32_t device, uint64_t bytes, CUstream stream, bool per_thread) {
    const struct aliquot_context *context = stream_context(stream);
    CUstreamCaptureMode mode = aliquot_capture_relax();
    CUevent event = NULL;
    if (REAL(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS &&
        (per_thread ? REAL(cuEventRecord_ptsz) : REAL(cuEventRecord))(event, stream) !=
            CUDA_SUCCESS) {
        REAL(cuEventDestroy_v2)(event);
        event = NULL;
    }
    aliquot_capture_restore(mode);
    pthread_mutex_lock(&mutex);
    uint32_t i = 0;
    while (i < OWED && debts[i].bytes)
        i++;
    if (i < OWED) {
        debts[i] = (struct debt){bytes, event, device, context ? context->index : (uint16_t)0};
        if (i >= debt_mark)
            debt_mark = i + 1;
        atomic_fetch_or_explicit(&aliquot_lazy, ALIQUOT_LAZY_POOLS, memory_order_relaxed);
    }
    pthread_mutex_unlock(&mutex);
    if (i == OWED) {
        aliquot_withdraw(device, bytes);
        if (event)
            REAL(cuEventDestroy_v2)(event);
    }
}

static void settle_debts(void) {
    for (uint32_t i = 0; i < debt_mark; i++) {
        struct debt *debt = &debts[i];
        if (!debt->bytes || (debt->event && REAL(cuEventQuery)(debt->event) == CUDA_ERROR_NOT_READY))
            continue;
        if (debt->event)
            REAL(cuEventDestroy_v2)(debt->event);
        aliquot_withdraw(debt->device, debt->bytes);
        *debt = (struct debt){0};
    }
    while (debt_mark && !debts[debt_mark - 1].bytes)
        debt_mark--;
}

void aliquot_pool_context_gone(uint16_t context) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < debt_mark; i++)
        if (debts[i].bytes && debts[i].event && debts[i].context == context) {
            /* Its event went with it, and so did the work it waited for. */
            aliquot_withdraw(debts[i].device, debts[i].bytes);
            debts[i] = (struct debt){0};
        }
    pthread_mutex_unlock(&mutex);
}

static void settle(uint32_t device, bool all) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return;
    CUstreamCaptureMode mode = aliquot_capture_relax();
    pthread_mutex_lock(&mutex);
    bool busy = false;
    for (uint32_t i = 1; i < pool_mark; i++) {
        if (pools[i].handle && (all || pools[i].device == device))
            settle_pool(&pools[i], 0);
        busy |= pools[i].charged || pools[i].live;
    }
    settle_debts();
    if (!busy && !debt_mark)
        atomic_fetch_and_explicit(&aliquot_lazy, ~ALIQUOT_LAZY_POOLS, memory_order_relaxed);
    pthread_mutex_unlock(&mutex);
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        if (all || d == device)
            aliquot_graph_settle(d);
    aliquot_vmm_settle();
    aliquot_capture_restore(mode);
}

void aliquot_settle_device(uint32_t device) { settle(device, false); }
void aliquot_settle_all(void) { settle(0, true); }

CUresult aliquot_cuStreamSynchronize(CUstream stream) {
    CUresult result = REAL(cuStreamSynchronize)(stream);
    aliquot_synchronised();
    return result;
}

CUresult aliquot_cuStreamSynchronize_ptsz(CUstream stream) {
    CUresult result = REAL(cuStreamSynchronize_ptsz)(stream);
    aliquot_synchronised();
    return result;
}

CUresult aliquot_cuEventSynchronize(CUevent event) {
    CUresult result = REAL(cuEventSynchronize)(event);
    aliquot_synchronised();
    return result;
}

CUresult aliquot_cuCtxSynchronize(void) {
    CUresult result = REAL(cuCtxSynchronize)();
    aliquot_synchronised();
    return result;
}

CUresult aliquot_cuCtxSynchronize_v2(CUcontext context) {
    CUresult result = REAL(cuCtxSynchronize_v2)(context);
    aliquot_synchronised();
    return result;
}

void aliquot_pool_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    memset(pools, 0, sizeof pools);
    memset(debts, 0, sizeof debts);
    pool_mark = 1;
    debt_mark = 0;
    aliquot_table_reset(&handles);
    atomic_store_explicit(&aliquot_lazy, 0, memory_order_relaxed);
}
