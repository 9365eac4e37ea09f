/* Who holds memory that is shared between processes, and who is charged for it. See slice.h and
 * struct aliquot_hold. */
#include "slice.h"

#include <errno.h>
#include <unistd.h>

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

/* A place for an entry, instead of one without a holder when all are taken; NULL when all are held. */
static struct aliquot_hold *make(uint64_t key) {
    struct aliquot_hold *place = NULL;
    for (struct aliquot_hold *hold = entries(); hold < entries() + ALIQUOT_MAX_HOLDS; hold++) {
        if (!hold->key || (hold->key == key && !hold->count && !is_alias(hold))) {
            place = hold;
            break;
        }
        if (!hold->count && (!place || is_alias(place)))
            place = hold;
    }
    if (place)
        *place = (struct aliquot_hold){.key = key, .slot = aliquot_slice.slot};
    else
        /* relaxed: a figure for people. */
        atomic_fetch_add_explicit(&aliquot_slice.usage->lost_holds, 1, memory_order_relaxed);
    return place;
}

void aliquot_hold_export(uint64_t key, uint32_t device, uint64_t bytes) {
    int saved = errno;
    int fd = aliquot_lock_region();
    struct aliquot_hold *hold = NULL;
    if (fd >= 0 && ((hold = find_mine(key)) || (hold = make(key)))) {
        hold->device = device;
        hold->bytes = bytes;
        hold->count++;
        hold->charged++;
    }
    if (fd >= 0)
        close(fd);
    errno = saved;
}

void aliquot_hold_alias(uint64_t key, uint64_t other) {
    int saved = errno;
    int fd = aliquot_lock_region();
    bool charged;
    struct aliquot_hold *hold = NULL;
    if (fd >= 0 && !find_any(other, &charged) && (hold = make(other))) {
        hold->bytes = key;
        hold->device = ALIQUOT_MAX_DEVICES;
    }
    if (fd >= 0)
        close(fd);
    errno = saved;
}

uint64_t aliquot_hold_import(uint64_t key) {
    int saved = errno;
    int fd = aliquot_lock_region();
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
    if (fd >= 0)
        close(fd);
    errno = saved;
    return hold ? key : 0;
}

void aliquot_hold_drop(uint64_t key, uint32_t device, uint64_t bytes) {
    int saved = errno;
    int fd = aliquot_lock_region();
    struct aliquot_hold *hold = fd >= 0 ? find_mine(key) : NULL;
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
    if (fd >= 0)
        close(fd);
    errno = saved;
}
