#include "growth.h"

#include <pthread.h>
#include <unistd.h>

/* Room in which a pool that took a page of it has shown that steps are of a page: a part of the cap, within
 * bounds. */
#define ENOUGH_PART 4u
#define ENOUGH_LEAST (32ull << 20)
#define ENOUGH_MOST (256ull << 20)

/* The slack of each device, bytes, plus 1; 0: not known. relaxed: it only ever grows, and whoever misses the
 * latest is told by what happens. */
static _Atomic uint64_t slack[ALIQUOT_MAX_DEVICES];
/* Held while it is tried. */
static pthread_mutex_t trying = PTHREAD_MUTEX_INITIALIZER;

static uint64_t known(uint32_t device) {
    return atomic_load_explicit(&slack[device], memory_order_relaxed);
}

static void raise_to(uint32_t device, uint64_t bytes) {
    uint64_t old = known(device);
    while (old < bytes + 1 &&
           !atomic_compare_exchange_weak_explicit(&slack[device], &old, bytes + 1,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

static uint64_t enough(uint32_t device) {
    uint64_t part = aliquot_cap(device) / ENOUGH_PART;
    part = part < ENOUGH_MOST ? part : ENOUGH_MOST;
    return part > ENOUGH_LEAST ? part : ENOUGH_LEAST;
}

/* Charges all that is left, in whole pages. */
static uint64_t charge_rest(uint32_t device) {
    enum { TRIES = 16 }; /* others charge meanwhile */
    uint64_t page = aliquot_page_bytes(device);
    for (int i = 0; i < TRIES; i++) {
        uint64_t cap = aliquot_cap(device), used = aliquot_used(device), sum;
        uint64_t rest = used < cap ? (cap - used) / page * page : 0;
        if (!rest || aliquot_add_once(device, rest, &sum))
            return rest;
    }
    return 0;
}

/* Whether a pool may grow at all. */
static bool look(uint32_t device, aliquot_try_growth *try) {
    uint64_t step = 0, kept = 0, page = aliquot_page_bytes(device), most = enough(device);
    /* What pools keep, and what the dead have left, is room too. */
    if (aliquot_used(device) + most > aliquot_cap(device) && aliquot_charge(device, most))
        aliquot_withdraw(device, most);
    /* Under the region's lock: whoever would be refused meanwhile waits for it, and tries again. */
    int lock = aliquot_lock_holds();
    uint64_t room = charge_rest(device);
    enum aliquot_trial found = room ? try(device, room, &step, &kept) : ALIQUOT_TRIAL_REFUSED;
    aliquot_withdraw(device, room - kept);
    if (lock >= 0)
        close(lock);
    if (found == ALIQUOT_TRIAL_GREW && (step > page || room >= most))
        raise_to(device, step > page ? step - page : 0);
    return found != ALIQUOT_TRIAL_REFUSED;
}

uint64_t aliquot_growth_ahead(uint32_t device, uint64_t asked, aliquot_try_growth *try) {
    bool may = true;
    if (asked > UINT64_MAX / 2) /* more is refused, and must not wrap */
        return asked;
    /* Where nothing is refused, nothing need be known beforehand. */
    if (aliquot_cap(device) == ALIQUOT_NO_CAP ||
        aliquot_slice.grant->device[device].enforcement == ALIQUOT_BY_DRIVER)
        return asked;
    if (!known(device) && try) {
        pthread_mutex_lock(&trying);
        if (!known(device))
            may = look(device, try);
        pthread_mutex_unlock(&trying);
    }
    if (!may)
        return UINT64_MAX;
    uint64_t found = known(device);
    uint64_t unknown = try ? enough(device) - aliquot_page_bytes(device) : 0;
    return asked + (found ? found - 1 : unknown);
}

void aliquot_growth_seen(uint32_t device, uint64_t before, uint64_t asked, uint64_t grown) {
    /* What was there may have served a part. */
    if (grown > asked || !before)
        raise_to(device, grown > asked ? grown - asked : 0);
}

void aliquot_growth_forget(void) { pthread_mutex_init(&trying, NULL); }
