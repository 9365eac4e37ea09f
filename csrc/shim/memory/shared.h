/* Linear memory shared with other processes: the same in every vendor's shim.
 *
 * The exporter is charged; an importer is not, but is written down, so that the charge passes to it when
 * the exporter lets go or dies while it still holds the memory: the device frees memory only when the last
 * process lets go.
 *
 * What is shared are pages. Small allocations of one page are one memory of several names.
 */
#ifndef ALIQUOT_SHIM_MEMORY_SHARED_H
#define ALIQUOT_SHIM_MEMORY_SHARED_H

#include "allocation.h"

/* The region's key of memory whose handle or name is these bytes, the same in every process: never 0. */
uint64_t aliquot_shared_key(const void *name, size_t bytes);

/* -- Exporting: the key is the memory's name (core/table.h), and an export ends with the memory ------------ */

/* The memory that begins at `base` has got the key. Memory that the slice is not charged for is not
 * written down. Only in a process that has a region. */
void aliquot_shared_export(uint64_t base, uint64_t key);

/* -- Opening ---------------------------------------------------------------------------------------- */

/* Writes down that the process is about to open the memory, before it does: an exporter that lets go
 * meanwhile passes the charge on. Answers what aliquot_shared_opened is to be given; 0: memory that the
 * slice does not know. Only in a process that has a region. */
uint64_t aliquot_shared_open(uint64_t key);

/* The driver has (`pointer`) or has not (0) opened it. What `owner` opened goes with it. */
void aliquot_shared_opened(uint64_t key, uint64_t pointer, uint16_t owner);

/* The driver has opened memory of `bytes` that the slice does not know, though not all that it shares is
 * written down (aliquot_hold_doubtful): it is charged as if nobody else were. False: there is no room, and
 * it is to be closed again. */
bool aliquot_shared_charge(uint64_t pointer, uint32_t device, uint64_t bytes, uint16_t owner);

/* An opening on its way out: the driver may give its address to another thread as soon as it has
 * closed it. */
struct aliquot_shared_closing {
    uint64_t key;   /* 0: not written down */
    uint64_t bytes; /* that were charged here for the last opening */
    uint64_t pointer;
    uint32_t device;
    uint16_t owner;
};
struct aliquot_shared_closing aliquot_shared_close(uint64_t pointer);

/* The driver has (`closed`) or has not closed it. */
void aliquot_shared_closed(const struct aliquot_shared_closing *closing, bool closed);

/* All that was opened in a context, or whatever owners are, is closed with it. */
void aliquot_shared_owner_gone(uint16_t owner);

/* A forked child owns nothing of its parent's. */
void aliquot_shared_forget(void);

#endif
