/* Events behind launches, and what their times are by the host's clock.
 *
 * Each context has a pool of events. An event tells the device's time, so that a pool has an epoch: an
 * event of which it is known, within bounds, when by the host's clock it was reached. Every event that
 * is found reached narrows these: it was not reached before it was recorded, nor after it was found.
 */
#include "marks.h"

#include "core/lock.h"
#include "core/slice.h"
#include "core/table.h"

#include <sched.h>
#include <string.h>

enum {
    POOLS = 256,   /* contexts at a time that launch; what is launched in more is not measured */
    EVENTS = 2048, /* of all pools */
    SOLE_LANE = ALIQUOT_LANE_DEFAULT, /* the default stream, where there is one device */
};

/* A first look at how the clocks differ takes no longer. */
#define CALIBRATE_NS 200000u
/* Clocks drift apart by so many parts in a million; bounds widen by it. */
#define DRIFT_PPM 50u
/* The time between events is told in single precision: an epoch is not older than it may be. */
#define EPOCH_NS 1000000000ll
/* Bounds are taken up so often, so that the two marks of a launch are measured by the same ones. */
#define SETTLE_NS 50000u
#define END_NS 100000000u

enum state { NONE, LIVE, PAUSED, GONE };

struct event {
    void *handle;
    struct pool *pool; /* NULL: a free place */
    struct event *next;
    uint64_t recorded_ns; /* before the driver was told */
    uint64_t at_ns;       /* 0: not known to be reached */
    bool epoch;           /* its pool's: stays when it is dropped */
    bool dropped;
};

/* A context that launches. PAUSED: it may be ending, and is left alone meanwhile. GONE: it has ended,
 * and its events with it. */
struct pool {
    void *handle;
    enum state state;
    int device;      /* index into the grant; -1: not in the slice */
    uint32_t events; /* places it has */
    bool calibrated; /* or somebody is about to */
    struct event *spare, *epoch;
    int64_t low_ns, high_ns, base_ns; /* host's time of the epoch: at least, at most, as taken */
    uint64_t updated_ns, based_ns;
};

/* All of it under the lock. Of the driver's calls only those that ask are made under it. */
static struct aliquot_lock lock;
static struct pool pools[POOLS];
static uint32_t pool_mark; /* places at and above it have never been used */
static struct event events[EVENTS];
static uint32_t event_mark;
static struct event *free_events;
static uint32_t captures;          /* under way in this process */
static struct aliquot_table lanes; /* lane to place in `pools` + 1 */
static _Atomic bool ended;

/* -- Pools -------------------------------------------------------------------------------------------- */

/* Under the lock. */
static struct pool *find_pool(void *handle) {
    for (uint32_t i = 0; i < pool_mark; i++)
        if (pools[i].handle == handle && (pools[i].state == LIVE || pools[i].state == PAUSED))
            return &pools[i];
    return NULL;
}

static struct pool *add_pool(void *handle, int device) {
    struct pool *pool = NULL;
    aliquot_lock(&lock);
    pool = find_pool(handle);
    for (uint32_t i = 0; !pool && i < POOLS; i++)
        if (pools[i].state == NONE || (pools[i].state == GONE && !pools[i].events)) {
            pool = &pools[i];
            *pool = (struct pool){.handle = handle, .state = LIVE, .device = device};
            if (i >= pool_mark)
                pool_mark = i + 1;
        }
    aliquot_unlock(&lock);
    return pool;
}

static struct pool *pool_of(uint64_t lane) {
    uint64_t place;
    /* Which context's default stream it is can change. */
    if (!(lane & ALIQUOT_LANE_DEFAULT) && aliquot_table_get(&lanes, lane, &place))
        return &pools[place - 1];
    void *handle = aliquot_vendor_context(lane);
    if (!handle)
        return NULL;
    aliquot_lock(&lock);
    struct pool *pool = find_pool(handle);
    aliquot_unlock(&lock);
    int device = pool ? pool->device : aliquot_vendor_watch(handle, lane);
    if (!pool && device != ALIQUOT_UNTOLD) /* else it is asked with the next launch */
        pool = add_pool(handle, device);
    if (pool)
        aliquot_table_put(&lanes, lane, (uint64_t)(pool - pools) + 1);
    return pool;
}

int aliquot_marks_device(const struct aliquot_launch *launch) {
    struct pool *pool = pool_of(launch->lane);
    return pool ? pool->device : -1;
}

/* -- Events --------------------------------------------------------------------------------------------- */

/* Under the lock: a place of the pool's becomes free, with the event in it. */
static void free_event(struct event *event) {
    event->pool->events--;
    *event = (struct event){.next = free_events};
    free_events = event;
}

/* Under the lock. */
static void give_back(struct event *event) {
    if (event->pool->state == GONE) {
        free_event(event);
        return;
    }
    event->next = event->pool->spare;
    event->pool->spare = event;
}

static void drop(struct event *event) {
    aliquot_lock(&lock);
    event->dropped = true;
    if (!event->epoch)
        give_back(event);
    aliquot_unlock(&lock);
}

/* An event of the pool's context, which is current. */
static struct event *take_event(struct pool *pool) {
    struct event *event = NULL;
    aliquot_lock(&lock);
    if (pool->state == LIVE) {
        event = pool->spare;
        if (event)
            pool->spare = event->next;
        else if (free_events) {
            event = free_events;
            free_events = event->next;
        } else if (event_mark < EVENTS)
            event = &events[event_mark++];
        if (event && !event->pool) {
            *event = (struct event){.pool = pool};
            pool->events++;
        }
    }
    aliquot_unlock(&lock);
    if (!event)
        return NULL;
    event->at_ns = 0;
    event->dropped = false;
    if (!event->handle)
        event->handle = aliquot_vendor_event();
    if (!event->handle) {
        aliquot_lock(&lock);
        free_event(event);
        aliquot_unlock(&lock);
        return NULL;
    }
    return event;
}

/* Records an event of the pool's, whose context is current. */
static struct event *record(struct pool *pool, uint64_t lane) {
    struct event *event = take_event(pool);
    if (!event)
        return NULL;
    event->recorded_ns = aliquot_clock();
    if (aliquot_vendor_put(event->handle, lane))
        return event;
    drop(event);
    return NULL;
}

/* The pool's first epoch, in a stream of our own, since that has nothing else to do. Without one the next
 * launch tries. */
static void calibrate(struct pool *pool) {
    uint64_t lane = aliquot_vendor_lane_new();
    struct event *event = lane ? record(pool, lane) : NULL;
    uint64_t found = 0;
    if (event) {
        do {
            bool reached = aliquot_vendor_reached(event->handle) == 1;
            uint64_t now = aliquot_clock();
            if (reached)
                found = now;
            else if (now - event->recorded_ns > CALIBRATE_NS)
                break;
        } while (!found);
        aliquot_lock(&lock);
        event->epoch = event->dropped = pool->state != GONE;
        if (event->epoch)
            pool->epoch = event;
        else
            free_event(event);
        pool->low_ns = pool->base_ns = (int64_t)event->recorded_ns;
        pool->high_ns = found ? (int64_t)found : INT64_MAX;
        if (found)
            pool->base_ns += (pool->high_ns - pool->low_ns) / 2;
        pool->updated_ns = pool->based_ns = event->recorded_ns;
        aliquot_unlock(&lock);
    } else {
        aliquot_lock(&lock);
        pool->calibrated = false;
        aliquot_unlock(&lock);
    }
    if (lane)
        aliquot_vendor_lane_end(lane);
}

void *aliquot_marks_put(const struct aliquot_launch *launch) {
    struct pool *pool = pool_of(launch->lane);
    struct aliquot_visit visit;
    /* relaxed: see aliquot_marks_end. */
    if (!pool || atomic_load_explicit(&ended, memory_order_relaxed) ||
        !aliquot_vendor_enter(&visit, pool->handle))
        return NULL;
    aliquot_lock(&lock);
    bool first = !pool->calibrated;
    pool->calibrated = true;
    aliquot_unlock(&lock);
    if (first)
        calibrate(pool);
    struct event *event = record(pool, launch->lane);
    aliquot_vendor_leave(&visit);
    return event;
}

/* -- Their times ------------------------------------------------------------------------------------------ */

/* Under the lock: what an event that was found at `now` says of when the epoch was. */
static void narrow(struct pool *pool, const struct event *event, int64_t ns, uint64_t now) {
    uint64_t passed = now - pool->updated_ns;
    int64_t drift = (int64_t)(passed / 1000000 * DRIFT_PPM);
    int64_t low = (int64_t)event->recorded_ns - ns, high = (int64_t)now - ns;
    int64_t old_low = pool->low_ns - drift, old_high = pool->high_ns;
    old_high = old_high < INT64_MAX - drift ? old_high + drift : INT64_MAX;
    bool agree = old_low <= high && low <= old_high;
    pool->low_ns = agree && old_low > low ? old_low : low;
    pool->high_ns = agree && old_high < high ? old_high : high;
    if (passed >= 1000000)
        pool->updated_ns = now;
    if (!agree || now - pool->based_ns >= SETTLE_NS) {
        pool->base_ns = pool->low_ns + (pool->high_ns - pool->low_ns) / 2;
        pool->based_ns = now;
    }
}

/* Under the lock: the event, which is reached, is the epoch from now on. */
static void renew(struct pool *pool, struct event *event, int64_t ns) {
    struct event *old = pool->epoch;
    old->epoch = false;
    if (old->dropped)
        give_back(old);
    event->epoch = true;
    pool->epoch = event;
    pool->low_ns += ns;
    pool->high_ns += ns;
    pool->base_ns += ns;
}

/* Under the lock; the event's context is current. */
static void locate(struct event *event, uint64_t now) {
    struct pool *pool = event->pool;
    int64_t ns;
    event->at_ns = now;
    if (!pool->epoch || !aliquot_vendor_between(pool->epoch->handle, event->handle, &ns))
        return;
    narrow(pool, event, ns, now);
    int64_t at = pool->base_ns + ns;
    if (at < (int64_t)event->recorded_ns)
        event->at_ns = event->recorded_ns;
    else if (at < (int64_t)now)
        event->at_ns = (uint64_t)at;
    if (ns > EPOCH_NS || ns < -EPOCH_NS)
        renew(pool, event, ns);
}

int aliquot_marks_reached(void *mark, uint64_t *at_ns) {
    struct event *event = mark;
    struct aliquot_visit visit;
    int reached = 0;
    aliquot_lock(&lock);
    if (event->pool->state == GONE)
        reached = -1;
    else if (event->at_ns)
        reached = 1;
    else if (event->pool->state == LIVE && !atomic_load_explicit(&ended, memory_order_relaxed) &&
             aliquot_vendor_enter(&visit, event->pool->handle)) {
        reached = aliquot_vendor_reached(event->handle);
        if (reached == 1)
            locate(event, aliquot_clock());
        aliquot_vendor_leave(&visit);
    }
    *at_ns = event->at_ns;
    aliquot_unlock(&lock);
    return reached;
}

void aliquot_marks_drop(void *mark) { drop(mark); }

/* -- Idleness --------------------------------------------------------------------------------------------- */

/* Under the lock: how many contexts have a default stream that this lane may be. */
static bool ambiguous(uint64_t lane) {
    uint32_t count = 0;
    for (uint32_t i = 0; lane == SOLE_LANE && i < pool_mark; i++)
        count += pools[i].state == LIVE || pools[i].state == PAUSED;
    return count > 1;
}

/* A stream that is being captured must not be asked, or its capture fails, and which streams are is
 * for the driver to know: while there is any capture, none is asked. */
int aliquot_marks_idle(uint64_t lane) {
    uint64_t place;
    struct aliquot_visit visit;
    int idle = -1;
    aliquot_lock(&lock);
    if (!captures && !atomic_load_explicit(&ended, memory_order_relaxed) &&
        aliquot_table_get(&lanes, lane, &place) && pools[place - 1].state == LIVE &&
        !ambiguous(lane) && aliquot_vendor_enter(&visit, pools[place - 1].handle)) {
        idle = aliquot_vendor_idle(lane);
        aliquot_vendor_leave(&visit);
    }
    aliquot_unlock(&lock);
    return idle;
}

void aliquot_marks_capture(int change) {
    /* (In a forked child that is not, the lock may be somebody's who is not there.) */
    if (!aliquot_vendor_ready())
        return;
    aliquot_lock(&lock);
    if (change > 0 || captures)
        captures += (uint32_t)change;
    aliquot_unlock(&lock);
}

/* -- Ends --------------------------------------------------------------------------------------------------- */

void aliquot_marks_stream_leaves(uint64_t lane) {
    uint64_t place;
    if (!lane || lane & ALIQUOT_LANE_DEFAULT || !aliquot_prepared())
        return;
    aliquot_time_lane_leaves(lane);
    aliquot_table_take(&lanes, lane, &place);
}

static bool belongs(void *context, uint64_t lane) {
    uint64_t place;
    return aliquot_table_get(&lanes, lane, &place) && &pools[place - 1] == context;
}

static void ignore(uint64_t key, uint64_t value, uint64_t name, enum aliquot_tenancy tenancy,
                   void *argument) {
    (void)name;
    (void)key;
    (void)value;
    (void)tenancy;
    (void)argument;
}

void aliquot_marks_context_leaves(void *handle) {
    if (!handle || !aliquot_prepared())
        return;
    aliquot_lock(&lock);
    struct pool *pool = find_pool(handle);
    if (pool)
        pool->state = PAUSED;
    aliquot_unlock(&lock);
    if (pool)
        aliquot_time_lanes_leave(belongs, pool);
}

void aliquot_marks_context_left(void *handle, bool gone) {
    if (!handle || !aliquot_prepared())
        return;
    aliquot_lock(&lock);
    struct pool *pool = find_pool(handle);
    if (pool && !gone)
        pool->state = LIVE;
    else if (pool) {
        pool->state = GONE;
        while (pool->spare) {
            struct event *event = pool->spare;
            pool->spare = event->next;
            free_event(event);
        }
        struct event *epoch = pool->epoch;
        pool->epoch = NULL;
        if (epoch) {
            epoch->epoch = false;
            if (epoch->dropped)
                free_event(epoch);
        }
    }
    aliquot_unlock(&lock);
    if (pool && gone)
        aliquot_pointer_sweep(&lanes, UINT64_MAX, (uint64_t)(pool - pools) + 1, ignore, NULL);
}

void aliquot_marks_end(void) {
    /* Whoever asks the driver has the lock: who has it now is waited for, and who gets it later sees
     * that it has ended. But not for ever: a process may end in the middle of anything. */
    uint64_t began = aliquot_clock();
    uint32_t word = 0;
    atomic_store_explicit(&ended, true, memory_order_relaxed);
    /* acquire: pairs with the release in aliquot_unlock. */
    while (!atomic_compare_exchange_weak_explicit(&lock.word, &word, 1, memory_order_acquire,
                                                  memory_order_relaxed)) {
        if (aliquot_clock() - began > END_NS)
            return;
        word = 0;
        sched_yield();
    }
    aliquot_unlock(&lock);
}

void aliquot_marks_forget(void) {
    lock = (struct aliquot_lock){0};
    memset(pools, 0, sizeof pools);
    memset(events, 0, event_mark * sizeof *events);
    pool_mark = event_mark = captures = 0;
    free_events = NULL;
    aliquot_table_reset(&lanes);
}
