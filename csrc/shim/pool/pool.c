#include "pool.h"

#include "shim/slice/attach.h"

#include <pthread.h>
#include <string.h>

/* Pools alive at once; what more of them hold is charged allocation by allocation, for good. */
#define POOLS 256u

/* Sizes of pieces are kept in units of this many bytes. */
#define UNIT 512u

static struct pool {
    uint64_t handle;  /* 0: a free place */
    uint64_t charged; /* bytes */
    uint64_t live;    /* pieces entered and not freed, */
    uint64_t units;   /* and their sizes */
    uint64_t queued;  /* at most so many frees are still on their way in some queue */
    uint64_t growths; /* since it was empty: it has at most so many chunks */
    uint32_t device;
    bool made;   /* by the program, which may destroy it; */
    bool doomed; /* it has, and the driver is told when it is empty */
} pools[POOLS];

/* Held over the driver's calls that let a pool grow. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* Whether there is any. relaxed: whoever has not seen the first one come has nothing to wait for. */
static _Atomic bool any;

/* All under the mutex. */

static struct pool *find(uint64_t handle) {
    for (uint32_t i = 0; i < POOLS; i++)
        if (pools[i].handle == handle)
            return &pools[i];
    return NULL;
}

/* NULL: there is no place for it. */
static struct pool *find_or_add(uint64_t handle, uint32_t device) {
    struct pool *pool = find(handle);
    if (!pool && (pool = find(0))) {
        *pool = (struct pool){.handle = handle, .device = device};
        atomic_store_explicit(&any, true, memory_order_relaxed);
    }
    return pool;
}

/* Charges what the pool has now. `ahead` bytes of it were charged beforehand. */
static void settle(struct pool *pool, uint64_t ahead) {
    uint64_t bytes, had = pool->charged + ahead;
    if (!aliquot_pool_driver.reserved(pool->handle, &bytes)) {
        pool->charged = had;
        return;
    }
    bytes = aliquot_whole_pages(pool->device, bytes);
    if (bytes > had)
        aliquot_charge_given(pool->device, bytes - had);
    else
        aliquot_withdraw(pool->device, had - bytes);
    if (bytes > pool->charged)
        pool->growths++;
    pool->charged = bytes;
    if (!bytes)
        pool->growths = pool->queued = 0;
}

/* The end of a pool that the program has destroyed, if it is empty by now. */
static void look_at_doomed(struct pool *pool) {
    uint64_t used;
    if (!pool->doomed)
        return;
    aliquot_pool_driver.trim(pool->handle);
    settle(pool, 0);
    if (pool->charged || !aliquot_pool_driver.used(pool->handle, &used) || used)
        return;
    aliquot_pool_driver.destroy(pool->handle);
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
        if (trim)
            aliquot_pool_driver.trim(pools[i].handle);
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

/* -- Pieces -------------------------------------------------------------------------------------------- */

/* Whether the pool surely has a gap of that size: its free bytes lie in at most one gap behind each piece that is
 * in it and one at the start of each chunk. Allocators that sort gaps by size classes may miss one that just
 * fits: an eighth more is asked for. */
static bool has_gap(struct pool *pool, uint64_t bytes) {
    uint64_t used, mine = pool->units * UNIT;
    if (!aliquot_pool_driver.used(pool->handle, &used))
        return false;
    if (used <= mine)
        pool->queued = 0; /* the driver has come to all frees */
    uint64_t gaps = pool->live + pool->queued + pool->growths;
    used = used > mine ? used : mine;
    return pool->charged > used && gaps &&
           bytes + bytes / 8 + UNIT <= (pool->charged - used) / gaps;
}

/* Whether a pool that is known will serve from a gap; it must not shrink before it has. */
static bool from_gap(struct aliquot_pool_request *request, uint64_t bytes) {
    struct pool *pool = find(request->pool);
    if (!pool || pool->doomed || !aliquot_pool_driver.keep)
        return false;
    settle(pool, 0);
    if (!has_gap(pool, bytes) ||
        !aliquot_pool_driver.keep(request->pool, UINT64_MAX, &request->kept))
        return false;
    settle(pool, 0);
    if (has_gap(pool, bytes))
        return true;
    aliquot_pool_driver.keep(request->pool, request->kept, NULL);
    return false;
}

enum aliquot_pool_answer aliquot_pool_ask(struct aliquot_pool_request *request, uint64_t pool,
                                          uint32_t device, uint64_t bytes) {
    *request = (struct aliquot_pool_request){
        .pool = pool, .device = device, .bytes = aliquot_whole_pages(device, bytes)};
    uint64_t ahead = aliquot_growth_ahead(device, request->bytes, aliquot_pool_driver.try);
    if (!aliquot_charge_once(device, ahead)) {
        pthread_mutex_lock(&mutex);
        if (from_gap(request, bytes))
            return ALIQUOT_POOL_ASK;
        pthread_mutex_unlock(&mutex);
        /* The mutex comes after it, for a refusal settles. */
        if (!aliquot_charge(device, ahead))
            return ALIQUOT_POOL_REFUSED;
    }
    request->ahead = ahead;
    pthread_mutex_lock(&mutex);
    const struct pool *known = find(pool);
    if (!known || !known->doomed)
        return ALIQUOT_POOL_ASK;
    pthread_mutex_unlock(&mutex);
    aliquot_withdraw(device, ahead);
    return ALIQUOT_POOL_DESTROYED;
}

bool aliquot_pool_again(unsigned *round) {
    pthread_mutex_unlock(&mutex);
    bool again = aliquot_give_back_due(round);
    pthread_mutex_lock(&mutex);
    return again;
}

static void enter(struct pool *pool, uint64_t pointer, uint64_t bytes) {
    uint64_t units = (bytes + UNIT - 1) / UNIT;
    struct aliquot_allocation piece = {.kind = ALIQUOT_POOLED,
                                       .device = pool->device,
                                       .owner = (uint16_t)(pool - pools),
                                       .pages = units};
    aliquot_enter(pointer, &piece);
    pool->live++;
    pool->units += units;
}

bool aliquot_pool_gave(const struct aliquot_pool_request *request, uint64_t pointer,
                       uint64_t bytes) {
    struct pool *pool = pointer ? find_or_add(request->pool, request->device) : find(request->pool);
    uint64_t before = pool ? pool->charged : 0;
    bool kept = true;
    if (pool && !request->ahead)
        aliquot_pool_driver.keep(request->pool, request->kept, NULL);
    if (!pointer)
        aliquot_withdraw(request->device, request->ahead);
    else if (pool)
        settle(pool, request->ahead);
    if (pointer && pool && pool->charged > before) {
        uint64_t grown = pool->charged - before;
        aliquot_growth_seen(request->device, before, request->bytes, grown);
        kept = grown <= request->ahead ||
               aliquot_used(request->device) <= aliquot_cap(request->device);
    }
    if (!kept)
        return false;
    if (pointer && pool && aliquot_pool_driver.keep)
        enter(pool, pointer, bytes);
    pthread_mutex_unlock(&mutex);
    return true;
}

void aliquot_pool_took_back(const struct aliquot_pool_request *request) {
    struct pool *pool = find(request->pool);
    aliquot_pool_driver.trim(request->pool);
    if (pool)
        settle(pool, 0);
    pthread_mutex_unlock(&mutex);
}

void aliquot_pool_freed(const struct aliquot_allocation *piece, bool queued) {
    pthread_mutex_lock(&mutex);
    struct pool *pool = &pools[piece->owner % POOLS];
    pool->live -= pool->live > 0;
    pool->units -= piece->pages < pool->units ? piece->pages : pool->units;
    pool->queued += queued;
    pthread_mutex_unlock(&mutex);
}

/* -- Pools themselves ---------------------------------------------------------------------------------- */

void aliquot_pool_made(uint64_t pool, uint32_t device) {
    pthread_mutex_lock(&mutex);
    struct pool *known = find_or_add(pool, device);
    if (known)
        known->made = true;
    pthread_mutex_unlock(&mutex);
}

int aliquot_pool_device(uint64_t pool) {
    pthread_mutex_lock(&mutex);
    const struct pool *known = find(pool);
    int device = known ? (int)known->device : -1;
    pthread_mutex_unlock(&mutex);
    return device;
}

enum aliquot_pool_end aliquot_pool_destroy(uint64_t handle, int *error) {
    uint64_t used;
    *error = 0;
    pthread_mutex_lock(&mutex);
    struct pool *pool = handle ? find(handle) : NULL;
    enum aliquot_pool_end end = !pool || !pool->made ? ALIQUOT_POOL_NOT_OURS
                                : pool->doomed       ? ALIQUOT_POOL_GONE
                                                     : ALIQUOT_POOL_ENDED;
    if (end == ALIQUOT_POOL_ENDED) {
        if (!aliquot_pool_driver.used(handle, &used) || used) {
            pool->doomed = true;
        } else if (!(*error = aliquot_pool_driver.destroy(handle))) {
            aliquot_withdraw(pool->device, pool->charged);
            *pool = (struct pool){0};
        }
    }
    pthread_mutex_unlock(&mutex);
    return end;
}

uint64_t aliquot_pool_end_trial(uint64_t handle, uint32_t device) {
    uint64_t bytes;
    pthread_mutex_lock(&mutex);
    aliquot_pool_driver.trim(handle);
    bool told = aliquot_pool_driver.reserved(handle, &bytes);
    struct pool *pool = told && bytes ? find_or_add(handle, device) : NULL;
    uint64_t kept = pool ? aliquot_whole_pages(device, bytes) : 0;
    if (pool) {
        pool->made = pool->doomed = true;
        pool->charged = kept;
    } else
        aliquot_pool_driver.destroy(handle);
    pthread_mutex_unlock(&mutex);
    return kept;
}

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
    aliquot_growth_forget();
    memset(pools, 0, sizeof pools);
    atomic_store_explicit(&any, false, memory_order_relaxed);
}
