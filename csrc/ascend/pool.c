/* Pools of memory that is given in the order of a stream: what is charged for a pool is what it has reserved,
 * as the runtime tells it.
 *
 * CANN's pools grow by what is asked of them in whole pages, so that charging that beforehand holds the cap. A
 * runtime whose pools grow by more is found out when one does: what has come above the cap is given back, and
 * all that such growth may bring is charged beforehand from then on.
 */
#include "shim.h"

#include <pthread.h>
#include <string.h>

/* Pools alive at once; what more of them hold is charged allocation by allocation, for good. */
#define POOLS 256u

static struct pool {
    rtMemPool_t handle; /* NULL: a free place */
    uint32_t device;
    uint64_t charged; /* bytes */
    bool doomed;      /* the program has destroyed it, and the runtime is told when it is empty */
} pools[POOLS];

/* Held over the runtime's calls that let a pool grow. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* By how much more than was asked for pools of each device have grown at once, bytes: that much is charged
 * beforehand too, from when it is known. relaxed: a guess. */
static _Atomic uint64_t slack[ALIQUOT_MAX_DEVICES];
/* Whether there is any. relaxed: whoever has not seen the first one come has nothing to wait for. */
static _Atomic bool any;

/* Under the mutex. */
static struct pool *find(rtMemPool_t handle) {
    for (uint32_t i = 0; i < POOLS; i++)
        if (pools[i].handle == handle)
            return &pools[i];
    return NULL;
}

/* Under the mutex. NULL: there is no place for it. */
static struct pool *find_or_add(rtMemPool_t handle, uint32_t device) {
    struct pool *pool = find(handle);
    if (!pool && (pool = find(NULL))) {
        *pool = (struct pool){.handle = handle, .device = device};
        atomic_store_explicit(&any, true, memory_order_relaxed);
    }
    return pool;
}

static bool tells(rtMemPool_t handle, int attribute, uint64_t *bytes) {
    *bytes = 0;
    rtError_t result;
    ALIQUOT_CALL(result, rtMemPoolGetAttr, (handle, attribute, bytes));
    return result == RT_OK;
}

/* Under the mutex: charges what the pool has now. `ahead` bytes of it were charged beforehand. */
static void settle(struct pool *pool, uint64_t ahead) {
    uint64_t bytes, had = pool->charged + ahead;
    if (!tells(pool->handle, RT_MEM_POOL_RESERVED, &bytes)) {
        pool->charged = had;
        return;
    }
    bytes = aliquot_whole_pages(pool->device, bytes);
    if (bytes > had)
        aliquot_charge_given(pool->device, bytes - had);
    else
        aliquot_withdraw(pool->device, had - bytes);
    pool->charged = bytes;
}

/* Under the mutex: the end of a pool that the program has destroyed, if it is empty by now. */
static void look_at_doomed(struct pool *pool) {
    rtError_t ignored;
    uint64_t used;
    if (!pool->doomed)
        return;
    ALIQUOT_CALL(ignored, rtMemPoolTrimTo, (pool->handle, 0));
    settle(pool, 0);
    if (pool->charged || !tells(pool->handle, RT_MEM_POOL_USED, &used) || used)
        return;
    ALIQUOT_CALL(ignored, rtMemPoolDestroy, (pool->handle));
    (void)ignored;
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
        if (trim) {
            rtError_t ignored;
            ALIQUOT_CALL(ignored, rtMemPoolTrimTo, (pools[i].handle, 0));
            (void)ignored;
        }
        settle(&pools[i], 0);
        look_at_doomed(&pools[i]);
    }
    pthread_mutex_unlock(&mutex);
}

void aliquot_pools_settle(uint32_t device) { settle_device(device, true); }

void aliquot_pools_waited(void) {
    if (!atomic_load_explicit(&any, memory_order_relaxed) || !aliquot_prepared())
        return;
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        settle_device(d, false);
}

/* -- Growing ---------------------------------------------------------------------------------------------- */

/* A request to a pool, charged as if the pool had to grow by all of it: only so can it never grow by what
 * nobody charged. */
struct growth {
    rtMemPool_t pool;
    int device;            /* as aliquot_device_current has it */
    uint64_t asked, bytes; /* bytes: charged */
};

static rtError_t begin(struct growth *growth, rtMemPool_t handle, uint64_t size) {
    *growth = (struct growth){.pool = handle, .device = -2};
    rtError_t result = aliquot_ready();
    if (result == RT_NO_DEVICE || (result == RT_OK && !handle))
        return RT_OK;
    if (result != RT_OK)
        return result;
    pthread_mutex_lock(&mutex);
    const struct pool *known = find(handle);
    growth->device = known ? (int)known->device : -2;
    pthread_mutex_unlock(&mutex);
    /* (One that we did not see made is the thread's device's.) */
    if (growth->device == -2)
        result = aliquot_device_ask(&growth->device);
    if (growth->device == -2)
        return result;
    if (growth->device < 0)
        return RT_MEMORY_ALLOCATION;
    uint32_t device = (uint32_t)growth->device;
    growth->asked = aliquot_whole_pages(device, size);
    growth->bytes = growth->asked + atomic_load_explicit(&slack[device], memory_order_relaxed);
    /* The mutex comes after it, for a refusal settles. */
    if (!aliquot_charge(device, growth->bytes))
        return RT_MEMORY_ALLOCATION;
    pthread_mutex_lock(&mutex);
    known = find(handle);
    if (known && known->doomed) {
        pthread_mutex_unlock(&mutex);
        aliquot_withdraw(device, growth->bytes);
        return RT_PARAM_INVALID;
    }
    return RT_OK;
}

/* Gives back at once what a pool has given, and what it has kept of it. Where the stream comes to it later, it
 * stays charged until then. */
static void undo(struct pool *pool, void *pointer, rtStream_t stream) {
    rtError_t result;
    ALIQUOT_CALL(result, rtMemPoolFreeAsync, (pointer, stream));
    if (result == RT_OK)
        ALIQUOT_CALL(result, rtMemPoolTrimTo, (pool->handle, 0));
    (void)result;
    settle(pool, 0);
}

/* Books the runtime's answer. False: the pool has grown by more than was charged, to above the cap; nothing was
 * given, and it is to be asked for once more. */
static bool finish(const struct growth *growth, rtError_t result, void **pointer,
                   rtStream_t stream) {
    if (growth->device < 0)
        return true;
    uint32_t device = (uint32_t)growth->device;
    bool kept = true;
    if (result != RT_OK) {
        aliquot_withdraw(device, growth->bytes);
    } else {
        struct pool *pool = find_or_add(growth->pool, device);
        uint64_t before = pool ? pool->charged : 0;
        if (pool)
            settle(pool, growth->bytes);
        uint64_t grown = pool && pool->charged > before ? pool->charged - before : 0;
        if (grown > growth->bytes) {
            atomic_store_explicit(&slack[device], grown - growth->asked, memory_order_relaxed);
            kept = aliquot_used(device) <= aliquot_cap(device);
        }
        if (!kept) {
            undo(pool, *pointer, stream);
            *pointer = NULL;
        }
    }
    pthread_mutex_unlock(&mutex);
    return kept;
}

#define TAKE(symbol, parameters, arguments)                                                        \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        struct growth growth;                                                                      \
        rtError_t result;                                                                          \
        do { /* ends: what is charged beforehand is more each time, and the cap an end of that */  \
            result = begin(&growth, pool, size);                                                   \
            if (result != RT_OK)                                                                   \
                return result;                                                                     \
            ALIQUOT_RETRY(result, symbol, arguments);                                              \
        } while (!finish(&growth, result, pointer, stream));                                       \
        return result;                                                                             \
    }
TAKE(rtMemPoolMallocAsync,
     (void **pointer, const uint64_t size, const rtMemPool_t pool, const rtStream_t stream),
     (pointer, size, pool, stream))
TAKE(aclrtMemPoolMallocAsyncImpl,
     (void **pointer, size_t size, rtMemPool_t pool, rtStream_t stream),
     (pointer, size, pool, stream))

/* -- Pools themselves ---------------------------------------------------------------------------------------- */

/* A pool is to give memory of that device. RT_OK: go on to the runtime. */
static rtError_t makes(int64_t number, int *device) {
    *device = -2;
    if (number < 0 || aliquot_ready() != RT_OK)
        return RT_OK;
    *device = aliquot_device_index((int32_t)number);
    return *device == -1 ? RT_MEMORY_ALLOCATION : RT_OK;
}

static rtError_t made(rtError_t result, const rtMemPool_t *pool, int device) {
    if (result != RT_OK || device < 0)
        return result;
    pthread_mutex_lock(&mutex);
    find_or_add(*pool, (uint32_t)device);
    pthread_mutex_unlock(&mutex);
    return result;
}

#define CREATE(symbol, type, number)                                                               \
    rtError_t aliquot_##symbol(rtMemPool_t *pool, const type *properties) {                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pool, properties);                                                 \
        int device;                                                                                \
        rtError_t result = makes(properties ? (int64_t)properties->number : -1, &device);          \
        if (result != RT_OK)                                                                       \
            return result;                                                                         \
        ALIQUOT_CALL(result, symbol, (pool, properties));                                          \
        return made(result, pool, device);                                                         \
    }
CREATE(rtMemPoolCreate, rtMemPoolProps, devId)
CREATE(aclrtMemPoolCreateImpl, aclrtMemPoolProps, location.id)

#define TRIM(symbol, type)                                                                         \
    rtError_t aliquot_##symbol(rtMemPool_t pool, type keep) {                                      \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pool, keep);                                                       \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (pool, keep));                                                \
        aliquot_pools_waited();                                                                    \
        return result;                                                                             \
    }
TRIM(rtMemPoolTrimTo, uint64_t)
TRIM(aclrtMemPoolTrimToImpl, size_t)

/* What is not given back yet outlives the pool, which cannot be asked any more how much it has reserved: so
 * the runtime is told only when it is empty. */
#define DESTROY(symbol)                                                                            \
    rtError_t aliquot_##symbol(const rtMemPool_t handle) {                                         \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(handle);                                                           \
        uint64_t used;                                                                             \
        rtError_t result = RT_OK;                                                                  \
        pthread_mutex_lock(&mutex);                                                                \
        struct pool *pool = handle && aliquot_prepared() ? find(handle) : NULL;                    \
        if (pool && pool->doomed)                                                                  \
            result = RT_PARAM_INVALID;                                                             \
        else if (pool && (!tells(handle, RT_MEM_POOL_USED, &used) || used))                        \
            pool->doomed = true;                                                                   \
        else                                                                                       \
            ALIQUOT_CALL(result, symbol, (handle));                                                \
        if (pool && !pool->doomed && result == RT_OK) {                                            \
            aliquot_withdraw(pool->device, pool->charged);                                         \
            *pool = (struct pool){0};                                                              \
        }                                                                                          \
        pthread_mutex_unlock(&mutex);                                                              \
        return result;                                                                             \
    }
DESTROY(rtMemPoolDestroy)
DESTROY(aclrtMemPoolDestroyImpl)

void aliquot_pools_device_gone(uint32_t device) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < POOLS; i++) {
        if (!pools[i].handle || pools[i].device != device)
            continue;
        aliquot_withdraw(device, pools[i].charged);
        pools[i] = (struct pool){0};
    }
    pthread_mutex_unlock(&mutex);
}

void aliquot_pools_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    memset(pools, 0, sizeof pools);
    atomic_store_explicit(&any, false, memory_order_relaxed);
}
