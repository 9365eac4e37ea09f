/* Stream-ordered memory: pools are charged for what they have reserved, not for what was asked.
 *
 * A pool grows when an allocation needs it, in steps of the driver's choosing, and shrinks by itself
 * when the program synchronises. Growth is charged before the call, by its upper bound, and settled
 * after it from the pool's own counter; shrinking is taken up when a synchronising call returns, and
 * always before a refusal (settle.c).
 */
#include "shim.h"

#include <pthread.h>
#include <string.h>

#define POOLS 1024u

/* The step in which a driver grows a pool, until a larger one is seen. */
#define FIRST_STEP (32ull << 20)

/* Sizes of allocations are kept in units of this many bytes. */
#define UNIT 512u

enum fate {
    KEPT,
    DOOMED, /* the program has destroyed it; the driver is told when it is empty */
};

struct pool {
    CUmemoryPool handle; /* NULL: free place */
    uint32_t device;
    enum fate fate;
    bool foreign;     /* host memory, or another process': not charged */
    bool made;        /* by the program, which may destroy it */
    uint64_t charged; /* bytes */
    uint64_t step;    /* bytes */
    uint64_t live;    /* allocations entered and not freed */
    uint64_t units;   /* their sizes */
    uint64_t queued;  /* at most so many frees are still queued in some stream */
    uint64_t last;    /* sequence number of the last of them */
    uint64_t growths; /* since it was empty: it has at most so many pieces */
};

/* Held over the pool's own driver calls, so that growth is attributed to the call that caused it. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct pool pools[POOLS]; /* [0] is never used */
static uint32_t pool_mark = 1;   /* places below it have been used */
static struct aliquot_table handles;

static _Atomic uint64_t sequence;

uint64_t aliquot_queue_sequence(void) {
    /* seq_cst: whoever synchronises after a free was queued reads a number not below its own. */
    return atomic_load(&sequence);
}

uint64_t aliquot_queue_next(void) { return atomic_fetch_add(&sequence, 1) + 1; }

/* Whether the driver tells it. */
static bool tells(const struct pool *pool, CUmemPool_attribute which, cuuint64_t *value) {
    *value = 0;
    return REAL(cuMemPoolGetAttribute)(pool->handle, which, value) == CUDA_SUCCESS;
}

/* Makes the pool's charge what it has reserved, of which `ahead` is charged besides. Where the driver does
 * not tell, all of it stays charged until it does. */
static void settle_pool(struct pool *pool, uint64_t ahead) {
    uint64_t booked = pool->charged + ahead;
    cuuint64_t now;
    if (!tells(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &now)) {
        pool->charged = booked;
        return;
    }
    if (now > booked)
        aliquot_charge_given(pool->device, now - booked);
    else if (now < booked)
        aliquot_withdraw(pool->device, booked - now);
    if (now > pool->charged)
        pool->growths++;
    /* More than was foreseen: the driver grows pools in larger steps than we knew. */
    if (ahead && now > booked)
        pool->step = now - pool->charged;
    pool->charged = now;
    if (!now)
        pool->growths = pool->queued = 0;
}

/* Under the mutex. Takes up what a pool has given back, and ends it if its time has come. */
static void look_at(struct pool *pool) {
    if (pool->foreign)
        return;
    if (pool->fate == DOOMED)
        REAL(cuMemPoolTrimTo)(pool->handle, 0);
    settle_pool(pool, 0);
    if (pool->fate == DOOMED && !pool->live && !pool->charged) {
        uint64_t index;
        aliquot_table_take(&handles, (uintptr_t)pool->handle, &index);
        REAL(cuMemPoolDestroy)(pool->handle);
        memset(pool, 0, sizeof *pool);
    }
}

bool aliquot_pools_settle(uint32_t device, bool all) {
    bool busy = false;
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 1; i < pool_mark; i++) {
        if (pools[i].handle && (all || pools[i].device == device))
            look_at(&pools[i]);
        busy |= pools[i].charged || pools[i].live;
    }
    if (!busy)
        atomic_fetch_and_explicit(&aliquot_lazy, ~ALIQUOT_LAZY_POOLS, memory_order_relaxed);
    pthread_mutex_unlock(&mutex);
    return busy;
}

void aliquot_pools_drained(uint64_t before) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 1; i < pool_mark; i++)
        if (pools[i].last <= before)
            pools[i].queued = 0;
    pthread_mutex_unlock(&mutex);
}

/* -- Which pool ----------------------------------------------------------------------------------- */

/* Ordinal of the device that a pool which we have not seen made gives memory of, -1 for another
 * place. `likely`: of the device for whose stream it is used. */
static CUdevice location(CUmemoryPool handle, CUdevice likely) {
    CUmemLocationType type;
    int id, count = 0;
    if (REAL(cuMemPoolGetAttribute)(handle, CU_MEMPOOL_ATTR_LOCATION_TYPE, &type) == CUDA_SUCCESS &&
        REAL(cuMemPoolGetAttribute)(handle, CU_MEMPOOL_ATTR_LOCATION_ID, &id) == CUDA_SUCCESS)
        return type == CU_MEM_LOCATION_TYPE_DEVICE ? id : -1;
    /* Older drivers do not tell, and have no pools of their own but the devices'. */
    CUmemoryPool builtin;
    REAL(cuDeviceGetCount)(&count);
    for (CUdevice ordinal = 0; ordinal < count; ordinal++)
        if (REAL(cuDeviceGetDefaultMemPool)(&builtin, ordinal) == CUDA_SUCCESS && builtin == handle)
            return ordinal;
    return likely;
}

/* Under the mutex: the place of a pool, entering it when it is new. NULL: no place. */
static struct pool *enter_pool(CUmemoryPool handle, int device) {
    uint64_t index;
    if (aliquot_table_get(&handles, (uintptr_t)handle, &index))
        return &pools[index];
    for (uint16_t i = 1; i < POOLS; i++) {
        if (pools[i].handle)
            continue;
        pools[i] = (struct pool){.handle = handle,
                                 .device = device < 0 ? 0 : (uint32_t)device,
                                 .foreign = device < 0,
                                 .step = FIRST_STEP};
        aliquot_table_put(&handles, (uintptr_t)handle, i);
        if (i >= pool_mark)
            pool_mark = i + 1u;
        return &pools[i];
    }
    return NULL;
}

CUresult aliquot_stream_context(CUstream stream, const struct aliquot_context **context) {
    CUresult result = aliquot_context_ask(context);
    const struct aliquot_context *current = *context;
    if (!current || !stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD)
        return result;
    CUcontext handle = NULL;
    if (REAL(cuStreamGetCtx)(stream, &handle) != CUDA_SUCCESS || handle == current->handle)
        return CUDA_SUCCESS;
    *context = aliquot_context_of(handle);
    if (!*context)
        *context = current;
    return CUDA_SUCCESS;
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

/* Under the mutex: the pool of an allocation, the one that was named or the device's. `*pool` NULL:
 * not ours to charge. Errors: OUT_OF_MEMORY, for a device outside the slice, or too many pools;
 * INVALID_VALUE, a pool that was destroyed; the driver's, where it does not tell. */
static CUresult find_pool(const struct request *request, const struct aliquot_context *context,
                          struct pool **pool) {
    CUmemoryPool handle = request->pool;
    uint64_t index;
    *pool = NULL;
    CUresult told = handle ? CUDA_SUCCESS : REAL(cuDeviceGetMemPool)(&handle, context->ordinal);
    if (told != CUDA_SUCCESS)
        return told;
    if (aliquot_table_get(&handles, (uintptr_t)handle, &index)) {
        *pool = &pools[index];
        if (pools[index].fate == DOOMED)
            return CUDA_ERROR_INVALID_VALUE;
    } else {
        CUdevice ordinal = location(handle, context->ordinal);
        int device = ordinal < 0 ? -1 : aliquot_device_index(ordinal);
        if (ordinal >= 0 && device < 0)
            return CUDA_ERROR_OUT_OF_MEMORY;
        *pool = enter_pool(handle, device);
        if (!*pool)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if ((*pool)->foreign)
        *pool = NULL;
    return CUDA_SUCCESS;
}

/* -- Allocation ----------------------------------------------------------------------------------- */

/* Whether the pool surely has a gap of that size: its free bytes lie in at most one gap behind each
 * allocation that is in it and one at the start of each piece. Allocators that sort gaps by size
 * classes may miss one that just fits: an eighth more is asked for. */
static bool has_gap(const struct pool *pool, uint64_t bytes) {
    cuuint64_t used;
    if (!tells(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used))
        return false;
    uint64_t mine = pool->units * UNIT, queued = used > mine ? pool->queued : 0;
    uint64_t gaps = pool->live + queued + pool->growths;
    used = used > mine ? used : mine;
    return pool->charged > used && gaps &&
           bytes + bytes / 8 + UNIT <= (pool->charged - used) / gaps;
}

/* A pool may shrink at any time, when another thread synchronises. Under the mutex, which guards
 * against trims: forbids it; `*before` is the threshold that is to be allowed again. False: the driver
 * does not let us. */
static bool forbid_shrinking(const struct pool *pool, cuuint64_t *before) {
    cuuint64_t all = UINT64_MAX;
    return tells(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, before) &&
           REAL(cuMemPoolSetAttribute)(pool->handle, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &all) ==
               CUDA_SUCCESS;
}

static void allow_shrinking(const struct pool *pool, cuuint64_t before) {
    cuuint64_t now;
    /* Else the program has set another one meanwhile. */
    if (!tells(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &now) || now == UINT64_MAX)
        REAL(cuMemPoolSetAttribute)(pool->handle, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &before);
}

/* Under the mutex, which is left for a moment when the slice is full: charges the growth that an
 * allocation may cause. `*ahead` is what was charged, and 0 where the pool has a gap that suffices:
 * then it must not shrink before the call. False: refused. */
static bool charge_growth(struct pool *pool, uint64_t bytes, uint64_t *ahead) {
    uint32_t device = pool->device;
    uint64_t whole = aliquot_whole_pages(device, bytes);
    uint64_t growth =
        whole > UINT64_MAX / 2 ? whole : (whole + pool->step - 1) / pool->step * pool->step;
    settle_pool(pool, 0);
    *ahead = growth;
    if (aliquot_charge_once(device, growth))
        return true;
    *ahead = 0;
    if (has_gap(pool, bytes))
        return true;
    /* As the driver does when the device is full: what the pool only keeps for later goes first. */
    REAL(cuMemPoolTrimTo)(pool->handle, 0);
    settle_pool(pool, 0);
    *ahead = growth;
    if (aliquot_charge_once(device, growth))
        return true;
    /* Others of the slice may have given back or died; that path takes this module's mutex. */
    pthread_mutex_unlock(&mutex);
    bool fits = aliquot_charge(device, growth);
    pthread_mutex_lock(&mutex);
    *ahead = fits ? growth : 0;
    return fits;
}

static void enter(const struct request *request, struct pool *pool) {
    uint64_t units = (request->bytes + UNIT - 1) / UNIT;
    struct aliquot_allocation allocation = {.kind = ALIQUOT_POOLED,
                                            .device = pool->device,
                                            .owner = (uint16_t)(pool - pools),
                                            .pages = units};
    aliquot_enter(*request->pointer, &allocation);
    pool->live++;
    pool->units += units;
    atomic_fetch_or_explicit(&aliquot_lazy, ALIQUOT_LAZY_POOLS, memory_order_relaxed);
}

static void leave(struct pool *pool, uint64_t units) {
    pool->live -= pool->live > 0;
    pool->units -= units < pool->units ? units : pool->units;
}

/* The driver grew the pool where it should not have needed to, and past the cap. */
static void take_back(const struct request *request, struct pool *pool) {
    uint64_t value;
    (request->per_thread ? REAL(cuMemFreeAsync_ptsz) : REAL(cuMemFreeAsync))(*request->pointer,
                                                                             request->stream);
    if (aliquot_pointer_take(&aliquot_pointers, *request->pointer, &value) != ALIQUOT_TENANT_NONE)
        leave(pool, aliquot_unpack(value).pages);
    pool->queued++;
    pool->last = aliquot_queue_next();
    REAL(cuMemPoolTrimTo)(pool->handle, 0);
    settle_pool(pool, 0);
}

/* Under the mutex. */
static CUresult grow_and_call(const struct request *request, struct pool *pool,
                              CUstreamCaptureMode *mode) {
    uint64_t ahead;
    if (!charge_growth(pool, request->bytes, &ahead))
        return CUDA_ERROR_OUT_OF_MEMORY;
    cuuint64_t threshold = 0;
    if (!ahead) {
        if (!forbid_shrinking(pool, &threshold))
            return CUDA_ERROR_OUT_OF_MEMORY;
        settle_pool(pool, 0);
        if (!has_gap(pool, request->bytes)) {
            allow_shrinking(pool, threshold);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    aliquot_capture_restore(*mode);
    unsigned round = 0;
    CUresult result;
    while ((result = call(request)) == CUDA_ERROR_OUT_OF_MEMORY) {
        /* A wait holds nothing. */
        pthread_mutex_unlock(&mutex);
        bool again = aliquot_give_back_due(&round);
        pthread_mutex_lock(&mutex);
        if (!again)
            break;
    }
    *mode = aliquot_capture_relax();
    if (result == CUDA_SUCCESS)
        enter(request, pool);
    if (!ahead)
        allow_shrinking(pool, threshold);
    settle_pool(pool, ahead);
    if (result == CUDA_SUCCESS && !ahead &&
        aliquot_used(pool->device) > aliquot_cap(pool->device)) {
        take_back(request, pool);
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    return result;
}

static CUresult allocate(const struct request *request) {
    const struct aliquot_context *context;
    bool capturing = false;
    CUresult told = aliquot_stream_context(request->stream, &context);
    if (told == CUDA_SUCCESS)
        told = aliquot_capture_status(request->stream, request->per_thread, &capturing);
    if (told != CUDA_SUCCESS)
        return told;
    /* Within a capture nothing is allocated: the graph is charged when it is launched. */
    if (!context || !request->bytes || !HAVE(cuMemPoolGetAttribute) || capturing)
        return call(request);
    if (context->device < 0 && !request->pool)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUstreamCaptureMode mode = aliquot_capture_relax();
    pthread_mutex_lock(&mutex);
    struct pool *pool;
    CUresult result = find_pool(request, context, &pool);
    bool ours = result == CUDA_SUCCESS && pool;
    if (ours)
        result = grow_and_call(request, pool, &mode);
    pthread_mutex_unlock(&mutex);
    aliquot_capture_restore(mode);
    return ours || result != CUDA_SUCCESS ? result : call(request);
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

CUresult aliquot_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool,
                                              CUstream stream) {
    if (!pool)
        return REAL(cuMemAllocFromPoolAsync_ptsz)(pointer, bytes, pool, stream);
    return allocate(&(struct request){pointer, bytes, pool, stream, true});
}

void aliquot_pool_freed(const struct aliquot_allocation *allocation, bool queued) {
    pthread_mutex_lock(&mutex);
    struct pool *pool = &pools[allocation->owner % POOLS];
    leave(pool, allocation->pages);
    if (queued) {
        pool->queued++;
        pool->last = aliquot_queue_next();
    }
    pthread_mutex_unlock(&mutex);
}

/* -- Pools themselves ------------------------------------------------------------------------------ */

CUresult aliquot_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties) {
    CUresult result = REAL(cuMemPoolCreate)(pool, properties);
    if (result != CUDA_SUCCESS || aliquot_ready() != CUDA_SUCCESS)
        return result;
    bool here = properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
    int device = here ? aliquot_device_index(properties->location.id) : -1;
    pthread_mutex_lock(&mutex);
    struct pool *entered = !here || device >= 0 ? enter_pool(*pool, device) : NULL;
    if (entered)
        entered->made = true;
    pthread_mutex_unlock(&mutex);
    return result;
}

/* A pool that is destroyed lives until its last allocation is freed, and until then nobody could ask
 * it how much it holds. So the driver destroys it when it is empty; to the program it is gone. */
static void doom(struct pool *pool) {
    cuuint64_t keep = 0;
    CUmemoryPool current, builtin;
    CUdevice ordinal = aliquot_device_ordinal(pool->device);
    pool->fate = DOOMED;
    REAL(cuMemPoolSetAttribute)(pool->handle, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep);
    if (REAL(cuDeviceGetMemPool)(&current, ordinal) == CUDA_SUCCESS && current == pool->handle &&
        REAL(cuDeviceGetDefaultMemPool)(&builtin, ordinal) == CUDA_SUCCESS)
        REAL(cuDeviceSetMemPool)(ordinal, builtin);
    atomic_fetch_or_explicit(&aliquot_lazy, ALIQUOT_LAZY_POOLS, memory_order_relaxed);
}

CUresult aliquot_cuMemPoolDestroy(CUmemoryPool handle) {
    uint64_t index;
    if (!handle || aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMemPoolDestroy)(handle);
    CUresult result = CUDA_SUCCESS;
    CUstreamCaptureMode mode = aliquot_capture_relax();
    pthread_mutex_lock(&mutex);
    struct pool *pool =
        aliquot_table_get(&handles, (uintptr_t)handle, &index) ? &pools[index] : NULL;
    if (pool && pool->fate == DOOMED)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (!pool || pool->foreign || !pool->made) {
        aliquot_capture_restore(mode);
        result = REAL(cuMemPoolDestroy)(handle);
        mode = aliquot_capture_relax();
        if (pool && result == CUDA_SUCCESS) {
            aliquot_table_take(&handles, (uintptr_t)handle, &index);
            memset(pool, 0, sizeof *pool);
        }
    } else {
        doom(pool);
        look_at(pool);
    }
    pthread_mutex_unlock(&mutex);
    aliquot_capture_restore(mode);
    return result;
}

CUresult aliquot_cuMemPoolTrimTo(CUmemoryPool handle, size_t keep) {
    pthread_mutex_lock(&mutex);
    CUresult result = REAL(cuMemPoolTrimTo)(handle, keep);
    pthread_mutex_unlock(&mutex);
    if (result == CUDA_SUCCESS)
        aliquot_synchronised();
    return result;
}

void aliquot_pool_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    memset(pools, 0, sizeof pools);
    pool_mark = 1;
    aliquot_table_reset(&handles);
}
