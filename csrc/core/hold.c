/* Who holds memory that is shared between processes, and who is charged for it. See slice.h and
 * struct aliquot_hold. */
#include "slice.h"

#include "lock.h"

#include <errno.h>
#include <unistd.h>

/* What this process let go of while it could not have the region's lock (whoever has it may be stopped):
 * stays charged until the lock is to be had. */
enum { OWED = 256 };
static struct {
    uint64_t key, bytes;
    uint32_t device;
} owed[OWED];
static _Atomic uint32_t owed_count; /* changed under the lock */
static struct aliquot_lock owed_lock;

static struct aliquot_hold *entries(void) { return aliquot_slice.usage->hold; }

static bool is_alias(const struct aliquot_hold *hold) {
    return hold->device == ALIQUOT_MAX_DEVICES;
}

/* Under the region's lock, all of these. This process' entry for the memory, or NULL. */
static struct aliquot_hold *find_mine(uint64_t key) {
    for (struct aliquot_hold *hold = entries(); hold < entries() + ALIQUOT_MAX_HOLDS; hold++)
        if (hold->key == key && hold->count && hold->slot == aliquot_slice.slot)
            return hold;
    return NULL;
}

/* Anybody's entry for the memory, one with a holder if there is one. `*charged`: somebody is charged
 * for it. NULL: nobody in the slice ever exported it. */
static struct aliquot_hold *find_any(uint64_t key, bool *charged) {
    struct aliquot_hold *found = NULL;
    *charged = false;
    for (struct aliquot_hold *hold = entries(); hold < entries() + ALIQUOT_MAX_HOLDS; hold++) {
        if (hold->key != key)
            continue;
        if (!found || hold->count)
            found = hold;
        *charged |= hold->charged > 0;
    }
    return found;
}

/* A place for an entry, instead of a note when all are taken; NULL when all are held. */
static struct aliquot_hold *make(uint64_t key) {
    struct aliquot_hold *place = NULL;
    for (struct aliquot_hold *hold = entries(); hold < entries() + ALIQUOT_MAX_HOLDS; hold++) {
        if (!hold->key || (hold->key == key && !hold->count)) {
            place = hold;
            break;
        }
        if (!hold->count && !place)
            place = hold;
    }
    if (place)
        *place = (struct aliquot_hold){.key = key, .slot = aliquot_slice.slot};
    return place;
}

/* Other names leave places for those who hold memory. */
static bool has_room_for_alias(void) {
    unsigned aliases = 0;
    for (struct aliquot_hold *hold = entries(); hold < entries() + ALIQUOT_MAX_HOLDS; hold++)
        aliases += hold->key && is_alias(hold);
    return aliases < ALIQUOT_MAX_HOLDS / 4 * 3;
}

/* Something of memory that is shared could not be written down. */
static void count_lost(void) {
    /* release: pairs with the acquire in aliquot_hold_doubtful; before the driver's handle is anywhere. */
    atomic_fetch_add_explicit(&aliquot_slice.usage->lost_holds, 1, memory_order_release);
}

bool aliquot_hold_doubtful(void) {
    /* acquire: pairs with the release in count_lost. */
    return atomic_load_explicit(&aliquot_slice.usage->lost_holds, memory_order_acquire) != 0;
}

bool aliquot_hold_export(uint64_t key, uint32_t device, uint64_t bytes) {
    int saved = errno;
    int fd = aliquot_lock_holds();
    struct aliquot_hold *hold = NULL;
    if (fd >= 0 && ((hold = find_mine(key)) || (hold = make(key)))) {
        hold->device = device;
        hold->bytes = bytes;
        hold->count++;
        hold->charged++;
    }
    if (!hold)
        count_lost();
    if (fd >= 0)
        close(fd);
    errno = saved;
    return hold;
}

void aliquot_hold_alias(uint64_t key, uint64_t other) {
    int saved = errno;
    int fd = aliquot_lock_holds();
    bool charged;
    struct aliquot_hold *hold = fd >= 0 ? find_any(other, &charged) : NULL;
    /* A name that memory had which is gone may be given again. */
    if (fd >= 0 && (!hold || !hold->count))
        hold = has_room_for_alias() ? make(other) : NULL;
    if (hold && (is_alias(hold) || !hold->count))
        *hold = (struct aliquot_hold){.key = other,
                                      .bytes = key,
                                      .slot = ALIQUOT_MAX_SLOTS,
                                      .device = ALIQUOT_MAX_DEVICES,
                                      .count = 1};
    if (!hold)
        count_lost();
    if (fd >= 0)
        close(fd);
    errno = saved;
}

uint64_t aliquot_hold_import(uint64_t key) {
    int saved = errno;
    int fd = aliquot_lock_holds();
    bool charged = false;
    struct aliquot_hold *known = fd >= 0 ? find_any(key, &charged) : NULL;
    if (known && is_alias(known)) {
        key = known->bytes;
        known = find_any(key, &charged);
    }
    struct aliquot_hold memory = known ? *known : (struct aliquot_hold){0};
    struct aliquot_hold *hold = NULL;
    if (known && ((hold = find_mine(key)) || (hold = make(key)))) {
        hold->device = memory.device;
        hold->bytes = memory.bytes;
        hold->count++;
        if (!charged) {
            hold->charged++;
            aliquot_charge_given(hold->device % ALIQUOT_MAX_DEVICES, hold->bytes);
        }
    }
    if (!hold && (fd < 0 || known))
        count_lost();
    if (fd >= 0)
        close(fd);
    errno = saved;
    return hold ? key : 0;
}

/* Under the region's lock. */
static void drop(int fd, uint64_t key, uint32_t device, uint64_t bytes) {
    struct aliquot_hold *hold = find_mine(key);
    aliquot_move_begin(aliquot_slice.usage);
    if (hold) {
        uint32_t due = 0;
        hold->count--;
        if (hold->charged > hold->count) {
            due = hold->charged - hold->count;
            /* The heir is charged before we are relieved. */
            aliquot_hold_pass_on(fd, aliquot_slice.usage, hold, due);
            hold->charged = hold->count;
        }
        bytes = due * hold->bytes;
        device = hold->device % ALIQUOT_MAX_DEVICES;
        if (!hold->count)
            aliquot_hold_end(aliquot_slice.usage, hold);
    }
    if (bytes)
        aliquot_withdraw(device, bytes);
    aliquot_move_end(aliquot_slice.usage);
}

/* Where there is no place left the charge stays for the life of the process. */
static void owe(uint64_t key, uint32_t device, uint64_t bytes) {
    aliquot_lock(&owed_lock);
    /* relaxed: the lock's; others only ask whether there is any. */
    uint32_t count = atomic_load_explicit(&owed_count, memory_order_relaxed);
    if (count < OWED) {
        owed[count].key = key;
        owed[count].device = device;
        owed[count].bytes = bytes;
        atomic_store_explicit(&owed_count, count + 1, memory_order_relaxed);
    }
    aliquot_unlock(&owed_lock);
}

void aliquot_hold_settle(int fd) {
    /* relaxed: a hint. */
    if (!atomic_load_explicit(&owed_count, memory_order_relaxed))
        return;
    aliquot_lock(&owed_lock);
    uint32_t count = atomic_load_explicit(&owed_count, memory_order_relaxed);
    while (count) {
        count--;
        drop(fd, owed[count].key, owed[count].device, owed[count].bytes);
    }
    atomic_store_explicit(&owed_count, 0, memory_order_relaxed);
    aliquot_unlock(&owed_lock);
}

void aliquot_hold_drop(uint64_t key, uint32_t device, uint64_t bytes) {
    int saved = errno;
    int fd = aliquot_lock_holds();
    if (fd >= 0) {
        aliquot_hold_settle(fd);
        drop(fd, key, device, bytes);
        close(fd);
    } else
        owe(key, device, bytes);
    errno = saved;
}

void aliquot_hold_forget(void) {
    atomic_store_explicit(&owed_lock.word, 0, memory_order_relaxed);
    atomic_store_explicit(&owed_count, 0, memory_order_relaxed);
}
