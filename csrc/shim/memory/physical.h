/* Physical memory by handles, for vendors' shims whose mappings are ended by their addresses.
 *
 * It is charged from its creation until its last handle and its last mapping are gone. What another process
 * made is not charged, but written down as in shared.h: the charge passes on when its maker lets go or dies.
 *
 * An entry that may be given out again goes before the driver is asked, and comes back if it fails. All
 * calls only in a process that has a region.
 */
#ifndef ALIQUOT_SHIM_MEMORY_PHYSICAL_H
#define ALIQUOT_SHIM_MEMORY_PHYSICAL_H

#include "allocation.h"

/* Memory whose `bytes` are charged has got its first handle. */
void aliquot_physical_created(uint64_t handle, uint32_t device, uint64_t bytes);

/* A handle is about to be given up, and has (`done`) or has not been. 0: it is not ours. */
uint64_t aliquot_physical_release(uint64_t handle);
void aliquot_physical_released(uint64_t number, uint64_t handle, bool done);

/* The memory of a handle is about to be mapped, and has or has not been: another thread may end the handle
 * meanwhile. 0: it is not ours. */
uint64_t aliquot_physical_map(uint64_t handle);
void aliquot_physical_mapped(uint64_t number, uint64_t address, bool done);

/* A mapping is about to be ended by its first address, and has or has not been. 0: it is not ours. */
uint64_t aliquot_physical_unmap(uint64_t address);
void aliquot_physical_unmapped(uint64_t number, uint64_t address, bool done);

/* What is mapped at `address` is about to get one more handle, which may be another one than before, and has
 * it or not (0). Between them nothing that is ours is mapped or unmapped: other threads wait. */
void aliquot_physical_retain(void);
void aliquot_physical_retained(uint64_t address, uint64_t handle);

/* The memory of a handle is about to be exported, and can be had by the key (shared.h) from now on or not
 * (0): another thread may end the handle meanwhile. 0: it is not ours. */
uint64_t aliquot_physical_export(uint64_t handle);
void aliquot_physical_exported(uint64_t number, uint64_t key);

/* The process is about to have a handle of what has the key, and has it or not (0). Between them goes what
 * the first answers. */
uint64_t aliquot_physical_import(uint64_t key);
void aliquot_physical_imported(uint64_t held, uint64_t handle);

/* A forked child owns nothing of its parent's. */
void aliquot_physical_forget(void);

#endif
