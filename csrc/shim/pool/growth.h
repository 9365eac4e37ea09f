/* By how much pools grow at once, for drivers that do not tell it beforehand.
 *
 * What a pool may grow by is charged before the driver is asked: what was asked for, and the slack, by which
 * a step of the driver's is larger than a page. The slack is found before the first pool of a device grows, with a
 * pool of our own that the driver lets have no more than the slice has left, all of which is charged meanwhile.
 * A driver that then takes no more than a page has either steps of a page, or larger ones than there was room
 * for; so where there was little room, more is demanded until a pool has been seen to grow.
 */
#ifndef ALIQUOT_SHIM_POOL_GROWTH_H
#define ALIQUOT_SHIM_POOL_GROWTH_H

#include "shim/memory/allocation.h"

/* Makes a pool of the device that may have `most` bytes, which are charged, takes a page from it, and ends it.
 * `*kept`, 0 before: bytes of them that it could not give back yet, and will. */
enum aliquot_trial {
    ALIQUOT_TRIAL_NONE,    /* there can be no such pool */
    ALIQUOT_TRIAL_REFUSED, /* `most` is less than a step */
    ALIQUOT_TRIAL_GREW,    /* by `*step` bytes, whole pages */
};
typedef enum aliquot_trial aliquot_try_growth(uint32_t device, uint64_t most, uint64_t *step,
                                              uint64_t *kept);

/* What is to be charged beforehand for `asked` bytes (whole pages) of a pool. Tries it first, if it is not known;
 * with no way to try (NULL) pools grow by what is asked, until one is seen to do otherwise.
 * UINT64_MAX: the slice has no room for a step. The caller holds no lock. */
uint64_t aliquot_growth_ahead(uint32_t device, uint64_t asked, aliquot_try_growth *try);

/* `asked` bytes made a pool that had `before` grow by `grown`, all of them whole pages. */
void aliquot_growth_seen(uint32_t device, uint64_t before, uint64_t asked, uint64_t grown);

/* A forked child begins anew. */
void aliquot_growth_forget(void);

#endif
