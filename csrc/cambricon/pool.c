/* Pools: what is charged for a pool is what it has reserved, as the driver tells it. */
#include "shim.h"

#include "shim/memory/growth.h"

#include <pthread.h>
#include <string.h>

/* Pools alive at once; what more of them hold is charged allocation by allocation, for good. */
#define POOLS 256u

struct pool {
    CNmemoryPool handle; /* NULL: a free place */
    uint32_t device;
    uint64_t charged; /* bytes */
    bool
        doomed; /* the program has destroyed it; the driver is told when it is empty: until then it has
                  * what it reserved, and can be asked how much that is */
};

/* Held over the driver's calls that let a pool grow. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct pool pools[POOLS];
/* Whether there is any. relaxed: whoever has not seen the first one come has nothing to wait for. */
static _Atomic bool any;

/* Under the mutex. */
static struct pool *find(CNmemoryPool handle) {
    for (uint32_t i = 0; i < POOLS; i++)
        if (pools[i].handle == handle)
            return &pools[i];
    return NULL;
}

/* Under the mutex. */
static struct pool *find_or_add(CNmemoryPool handle, uint32_t device) {
    struct pool *pool = find(handle);
    if (!pool && (pool = find(NULL))) {
        *pool = (struct pool){.handle = handle, .device = device};
        atomic_store_explicit(&any, true, memory_order_relaxed);
    }
    return pool;
}

static bool reads(CNmemoryPool handle, int attribute, uint64_t *bytes) {
    *bytes = 0;
    return HAVE(cnMemPoolGetAttribute) &&
           REAL(cnMemPoolGetAttribute)(handle, attribute, bytes) == CN_SUCCESS;
}

/* Under the mutex: charges what the pool has now. `ahead` bytes of it were charged beforehand. */
static void settle(struct pool *pool, uint64_t ahead) {
    uint64_t bytes;
    CNqueueCaptureMode mode = aliquot_capture_mode(CN_QUEUE_CAPTURE_MODE_RELAXED);
    bool told = reads(pool->handle, CN_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &bytes);
    aliquot_capture_mode(mode);
    if (!told) {
        pool->charged += ahead;
        return;
    }
    bytes = aliquot_whole_pages(pool->device, bytes);
    uint64_t had = pool->charged + ahead;
    if (bytes > had)
        aliquot_charge_given(pool->device, bytes - had);
    else
        aliquot_withdraw(pool->device, had - bytes);
    pool->charged = bytes;
}

/* Under the mutex: the end of a pool that the program has destroyed, if it is empty by now. */
static void look_at_doomed(struct pool *pool) {
    uint64_t used = 0;
    if (!pool->doomed)
        return;
    if (HAVE(cnMemPoolTrimTo))
        REAL(cnMemPoolTrimTo)(pool->handle, 0);
    settle(pool, 0);
    if (pool->charged || !reads(pool->handle, CN_MEMPOOL_ATTR_USED_MEM_CURRENT, &used) || used)
        return;
    REAL(cnMemPoolDestroy)(pool->handle);
    *pool = (struct pool){0};
}

/* Charges what the pools of a device have now. `trim`: they give back first what nobody uses. */
static void settle_device(uint32_t device, bool trim) {
    if (!atomic_load_explicit(&any, memory_order_relaxed))
        return;
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < POOLS; i++) {
        if (!pools[i].handle || pools[i].device != device)
            continue;
        if (trim && HAVE(cnMemPoolTrimTo)) {
            CNqueueCaptureMode mode = aliquot_capture_mode(CN_QUEUE_CAPTURE_MODE_RELAXED);
            REAL(cnMemPoolTrimTo)(pools[i].handle, 0);
            aliquot_capture_mode(mode);
        }
        settle(&pools[i], 0);
        look_at_doomed(&pools[i]);
    }
    pthread_mutex_unlock(&mutex);
}

/* Before a refusal. */
void aliquot_pools_settle(uint32_t device) { settle_device(device, true); }

void aliquot_synchronised(void) {
    if (!atomic_load_explicit(&any, memory_order_relaxed) || !aliquot_prepared())
        return;
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        settle_device(d, false);
}

/* Whether a device that the driver shows has the pool for its own; the driver's answer, if it has not told. */
static bool is_of(CNmemoryPool handle, CNdev ordinal, CNresult *told) {
    CNmemoryPool pool = NULL;
    CNresult result = CN_SUCCESS;
    if (HAVE(cnDeviceGetDefaultMemPool))
        result = REAL(cnDeviceGetDefaultMemPool)(&pool, ordinal);
    if (pool != handle && HAVE(cnDeviceGetMemPool) && result == CN_SUCCESS)
        result = REAL(cnDeviceGetMemPool)(&pool, ordinal);
    if (result != CN_SUCCESS)
        *told = result;
    return result == CN_SUCCESS && pool == handle;
}

/* The device that a pool is of: a default one's, unless we saw it made. `*found` is -1 where nobody can tell.
 * Errors: the driver's, where it has not told. */
static CNresult device_of(CNmemoryPool handle, int *found) {
    pthread_mutex_lock(&mutex);
    const struct pool *known = find(handle);
    *found = known ? (int)known->device : -1;
    pthread_mutex_unlock(&mutex);
    int count = 0;
    CNdev ordinal;
    CNresult told = *found < 0 ? REAL(cnDeviceGetCount)(&count) : CN_SUCCESS;
    for (int i = 0; *found < 0 && i < count; i++) {
        CNresult result = REAL(cnDeviceGet)(&ordinal, i);
        if (result != CN_SUCCESS)
            told = result;
        else if (is_of(handle, ordinal, &told))
            *found = aliquot_device_index(ordinal);
    }
    return *found < 0 ? told : CN_SUCCESS;
}

/* The pool from which a queue's device allocates; NULL: this driver does not tell. Errors: the driver's. */
static CNresult pool_of(CNqueue queue, CNmemoryPool *pool) {
    CNcontext before = NULL, context = NULL;
    CNdev ordinal;
    CNresult result = CN_SUCCESS;
    *pool = NULL;
    if (!HAVE(cnDeviceGetMemPool))
        return CN_SUCCESS;
    if (queue > CN_QUEUE_TYPE_LEGACY && HAVE(cnQueueGetContext) &&
        REAL(cnQueueGetContext)(queue, &context) == CN_SUCCESS)
        result = REAL(cnCtxGetCurrent)(&before);
    if (result != CN_SUCCESS)
        return result;
    if (before != context)
        result = REAL(cnCtxSetCurrent)(context);
    if (result != CN_SUCCESS)
        return result;
    result = REAL(cnCtxGetDevice)(&ordinal);
    if (before != context)
        REAL(cnCtxSetCurrent)(before);
    return result == CN_SUCCESS ? REAL(cnDeviceGetMemPool)(pool, ordinal) : result;
}

/* -- Growing ------------------------------------------------------------------------------------------- */

/* Under the mutex: the end of a pool of ours, which may have to wait for its queue; answers what it keeps. */
static uint64_t end_trial(CNmemoryPool handle, uint32_t device) {
    uint64_t bytes;
    if (HAVE(cnMemPoolTrimTo))
        REAL(cnMemPoolTrimTo)(handle, 0);
    bool told = reads(handle, CN_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &bytes);
    struct pool *pool = told && bytes ? find_or_add(handle, device) : NULL;
    if (!pool) {
        REAL(cnMemPoolDestroy)(handle);
        return 0;
    }
    pool->doomed = true;
    pool->charged = aliquot_whole_pages(device, bytes);
    return pool->charged;
}

/* See growth.h. */
static enum aliquot_trial try_pool(uint32_t device, uint64_t most, uint64_t *step, uint64_t *kept) {
    enum aliquot_trial found = ALIQUOT_TRIAL_NONE;
    CNmemPoolProps properties = {
        .type = CN_MEM_ALLOCATION_TYPE_DEFAULT,
        .location = {CN_MEM_LOCATION_TYPE_DEVICE, (uint32_t)aliquot_mapped_from(device)},
        .maxSize = most,
    };
    CNmemoryPool pool;
    CNqueue queue;
    CNaddr address;
    if (!HAVE(cnMemPoolCreate) || !HAVE(cnMemPoolDestroy) || !HAVE(cnMemAllocFromPoolAsync))
        return found;
    CNqueueCaptureMode mode = aliquot_capture_mode(CN_QUEUE_CAPTURE_MODE_RELAXED);
    aliquot_own.depth++;
    pthread_mutex_lock(&mutex);
    if (REAL(cnMemPoolCreate)(&pool, &properties) == CN_SUCCESS) {
        /* A queue of its own: what waits in the program's is not waited for. */
        if (REAL(cnCreateQueue)(&queue, 0) == CN_SUCCESS) {
            CNresult result = REAL(cnMemAllocFromPoolAsync)(&address, aliquot_page_bytes(device),
                                                            pool, queue);
            if (result == CN_SUCCESS) {
                if (reads(pool, CN_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, step))
                    found = ALIQUOT_TRIAL_GREW;
                *step = aliquot_whole_pages(device, *step);
                REAL(cnMemFreeAsync)(address, queue);
            } else if (result == CN_MEMORY_ERROR_OUT_OF_MEMORY ||
                       result == CN_ERROR_SYSTEM_OUT_OF_MEMORY)
                found = ALIQUOT_TRIAL_REFUSED;
            REAL(cnQueryQueue)(queue); /* which lets the driver see that it is done */
            REAL(cnDestroyQueue)(queue);
        }
        *kept = end_trial(pool, device);
    }
    pthread_mutex_unlock(&mutex);
    aliquot_own.depth--;
    aliquot_capture_mode(mode);
    return found;
}

/* An allocation from the pool, charged as if the pool had to grow by all of it: only so can it never
 * grow by what nobody charged. */
struct growth {
    CNmemoryPool pool;
    uint32_t device;
    uint64_t asked, bytes; /* bytes: charged */
    bool ours;
    bool stray; /* of a device that is not in the slice, if it is a pool */
};

static CNresult begin(struct growth *growth, CNmemoryPool pool, size_t bytes) {
    int device;
    *growth = (struct growth){.pool = pool};
    CNresult result = aliquot_ready();
    if (result == CN_ERROR_NOT_INITIALIZED || (result == CN_SUCCESS && !pool))
        return CN_SUCCESS;
    if (result == CN_SUCCESS)
        result = device_of(pool, &device);
    if (result != CN_SUCCESS)
        return result;
    growth->stray = device < 0;
    if (growth->stray)
        return CN_SUCCESS;
    growth->device = (uint32_t)device;
    growth->asked = aliquot_whole_pages(growth->device, bytes);
    growth->bytes = aliquot_growth_ahead(growth->device, growth->asked, try_pool);
    /* The mutex comes after it, for a refusal settles. */
    if (!aliquot_charge(growth->device, growth->bytes))
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&mutex);
    const struct pool *known = find(pool);
    if (known && known->doomed) {
        pthread_mutex_unlock(&mutex);
        aliquot_withdraw(growth->device, growth->bytes);
        return CN_ERROR_INVALID_VALUE;
    }
    growth->ours = true;
    return CN_SUCCESS;
}

/* Under the mutex: books what the pool has grown by. Whether the slice may have that: a driver whose steps
 * differ may have given more than was foreseen, and that is taken back. */
static bool grew(const struct growth *growth, struct pool *pool) {
    uint64_t before = pool->charged;
    settle(pool, growth->bytes);
    if (pool->charged <= before)
        return true;
    uint64_t grown = pool->charged - before;
    aliquot_growth_seen(growth->device, before, growth->asked, grown);
    return grown <= growth->bytes || aliquot_used(growth->device) <= aliquot_cap(growth->device);
}

static CNresult finish(const struct growth *growth, CNresult result, const CNaddr *address,
                       CNqueue queue) {
    /* The driver knew it: what nobody can charge is not to be had. */
    if (growth->stray && result == CN_SUCCESS) {
        REAL(cnMemFreeAsync)(*address, queue);
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    }
    if (!growth->ours)
        return result;
    struct pool *pool = find_or_add(growth->pool, growth->device);
    if (result != CN_SUCCESS)
        aliquot_withdraw(growth->device, growth->bytes);
    else if (pool && !grew(growth, pool)) {
        REAL(cnMemFreeAsync)(*address, queue);
        if (HAVE(cnMemPoolTrimTo))
            REAL(cnMemPoolTrimTo)(growth->pool, 0);
        settle(pool, 0);
        result = CN_MEMORY_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

CNresult aliquot_cnMemAllocAsync(CNaddr *address, size_t bytes, CNqueue queue) {
    struct growth growth;
    CNmemoryPool pool;
    if (OWN_CALL())
        return REAL(cnMemAllocAsync)(address, bytes, queue);
    CNresult result = pool_of(queue, &pool);
    if (result == CN_SUCCESS)
        result = begin(&growth, pool, bytes);
    if (result != CN_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cnMemAllocAsync)(address, bytes, queue));
    return finish(&growth, result, address, queue);
}

CNresult aliquot_cnMemAllocFromPoolAsync(CNaddr *address, size_t bytes, CNmemoryPool pool,
                                         CNqueue queue) {
    struct growth growth;
    if (OWN_CALL())
        return REAL(cnMemAllocFromPoolAsync)(address, bytes, pool, queue);
    CNresult result = begin(&growth, pool, bytes);
    if (result != CN_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cnMemAllocFromPoolAsync)(address, bytes, pool, queue));
    return finish(&growth, result, address, queue);
}

CNresult aliquot_cnMemPoolCreate(CNmemoryPool *pool, CNmemPoolProps *properties) {
    pthread_mutex_lock(&mutex);
    CNresult result = REAL(cnMemPoolCreate)(pool, properties);
    if (result == CN_SUCCESS && properties && aliquot_prepared()) {
        int device = aliquot_ordinal_index(properties->location.id);
        if (device >= 0)
            find_or_add(*pool, (uint32_t)device);
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

CNresult aliquot_cnMemPoolTrimTo(CNmemoryPool handle, size_t keep) {
    CNresult result = REAL(cnMemPoolTrimTo)(handle, keep);
    aliquot_synchronised();
    return result;
}

/* Under the mutex: a device that allocates from the pool goes back to its default one. */
static void detach(CNmemoryPool handle) {
    CNmemoryPool pool = NULL;
    int count = 0;
    CNdev device;
    if (!HAVE(cnDeviceGetDefaultMemPool) || !HAVE(cnDeviceSetMemPool) || !HAVE(cnDeviceGetMemPool))
        return;
    REAL(cnDeviceGetCount)(&count);
    for (int i = 0; i < count; i++)
        if (REAL(cnDeviceGet)(&device, i) == CN_SUCCESS &&
            REAL(cnDeviceGetMemPool)(&pool, device) == CN_SUCCESS && pool == handle &&
            REAL(cnDeviceGetDefaultMemPool)(&pool, device) == CN_SUCCESS)
            REAL(cnDeviceSetMemPool)(device, pool);
}

/* What is not freed yet outlives the pool, which cannot be asked any more how much it has reserved: so the
 * driver is told only when it is empty. */
CNresult aliquot_cnMemPoolDestroy(CNmemoryPool handle) {
    uint64_t used;
    pthread_mutex_lock(&mutex);
    struct pool *pool = handle && aliquot_prepared() ? find(handle) : NULL;
    CNresult result = CN_SUCCESS;
    if (pool && pool->doomed)
        result = CN_ERROR_INVALID_VALUE;
    else if (pool && (!reads(handle, CN_MEMPOOL_ATTR_USED_MEM_CURRENT, &used) || used)) {
        pool->doomed = true;
        detach(handle);
    } else
        result = REAL(cnMemPoolDestroy)(handle);
    if (pool && !pool->doomed && result == CN_SUCCESS) {
        aliquot_withdraw(pool->device, pool->charged);
        *pool = (struct pool){0};
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

void aliquot_pool_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    aliquot_growth_forget();
    memset(pools, 0, sizeof pools);
    atomic_store_explicit(&any, false, memory_order_relaxed);
}
