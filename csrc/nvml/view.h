/* The view of a slice through NVML: which devices there are, how much of them, and who uses them.
 *
 * The wrappers keep no books and take no slot: devices are told apart by their UUIDs at each call, the
 * grant is mapped read-only, and `usage` is read anew, since a process of the slice may have truncated
 * it.
 */
#ifndef ALIQUOT_NVML_VIEW_H
#define ALIQUOT_NVML_VIEW_H

#include "region/region.h"
#include "shim/driver.h"

#include <nvml.h>
#include <stdbool.h>
#include <stdint.h>

/* Whether the wrapper that asks was called by NVML itself, from its code or while the thread is in it
 * for us: then the call goes straight to the real function. Must be asked first in a wrapper: REAL
 * may be used afterwards, for any function. One that this NVML lacks answers that it is not found. */
#define OWN_CALL() aliquot_view_is_own(__builtin_return_address(0))
#define ENTER()                                                                                    \
    __attribute__((cleanup(aliquot_view_leave), unused)) int entered = aliquot_view_enter()

bool aliquot_view_is_own(const void *caller);
int aliquot_view_enter(void);
void aliquot_view_leave(int *entered);

/* Maps the region if that is not done yet. False, with one line on standard error the first time, when
 * there is none: then nothing may be shown. */
bool aliquot_view_attach(void);

/* The grant of a device of the slice, by the driver's handle; NULL for a device of others, and for a
 * card of which the slice has partitions. `*index` (may be NULL) is its number in the grant. */
const struct aliquot_grant_device *aliquot_view_device(nvmlDevice_t device, uint32_t *index);

/* Whether the container is to see the device: it is of the slice, or a card of which the slice has a
 * partition. */
bool aliquot_view_shows(nvmlDevice_t device);

/* How many devices the slice has by its grant, partitions among them. */
unsigned aliquot_view_granted(void);

/* Whether the handle is a partition's. */
bool aliquot_view_is_part(nvmlDevice_t device);

/* Visits the partitions of a card that are the slice's. Returns how many there are. */
unsigned aliquot_view_parts(nvmlDevice_t card, void (*visit)(nvmlDevice_t part, void *argument),
                            void *argument);

/* Visits the living processes of the slice that hold something of device `index` of the grant: the pid
 * by which they know themselves, and bytes. */
void aliquot_view_processes(uint32_t index,
                            void (*visit)(uint32_t pid, uint64_t bytes, void *argument),
                            void *argument);

/* Calls the driver's functions in whichever version it has. */
nvmlReturn_t aliquot_view_real_count(unsigned int *count);
nvmlReturn_t aliquot_view_real_handle(unsigned int index, nvmlDevice_t *device);

#endif
