/* Physical memory by handles, and its mappings: the same in every vendor's shim.
 *
 * It is charged from its creation until its last handle and its last mapping are gone, and the last
 * descriptor that this process has of it. What another process made is not charged, but written down as in
 * shared.h: the charge passes on when its maker lets go or dies. Reserved addresses cost nothing.
 *
 * An entry that may be given out again goes before the driver is asked, and comes back if it fails; memory
 * that the driver is being asked about is kept meanwhile. No lock of the book is held while the driver is
 * called, but the layout. All calls only in a process that has a region.
 */
#ifndef ALIQUOT_SHIM_MEMORY_PHYSICAL_H
#define ALIQUOT_SHIM_MEMORY_PHYSICAL_H

#include "allocation.h"

/* -- Handles ------------------------------------------------------------------------------------------- */

/* Memory whose `bytes` are charged has got its first handle. */
void aliquot_physical_created(uint64_t handle, uint32_t device, uint64_t bytes);

/* So has an object that takes none, but may keep memory: `ended` is called when nothing holds it any more. It
 * calls nothing of the book but aliquot_physical_drop. */
void aliquot_physical_noted(uint64_t handle, void (*ended)(uint32_t number));
void aliquot_physical_drop(uint32_t number);

/* A handle is about to be given up, and has (`done`) or has not been. 0: it is not ours. */
uint32_t aliquot_physical_release(uint64_t handle);
void aliquot_physical_released(uint32_t number, uint64_t handle, bool done);

/* Keeps the memory of a handle, and no longer: another thread may end the handle meanwhile. 0: it is not
 * ours, and need not be let go of. */
uint32_t aliquot_physical_keep(uint64_t handle);
void aliquot_physical_let_go(uint32_t number);
/* The device of memory that is kept. */
uint32_t aliquot_physical_device(uint32_t number);

/* -- Mappings ------------------------------------------------------------------------------------------ */

/* The layout is what is mapped where. Whoever has the driver change it reads it until that is written down;
 * whoever asks the driver what it is writes it, for it must not change under the question. */
void aliquot_layout_read(void);
void aliquot_layout_write(void);
void aliquot_layout_end(void);

/* The memory of a handle is about to be mapped, and has or has not been. Reads the layout between them. */
uint32_t aliquot_physical_map(uint64_t handle);
void aliquot_physical_mapped(uint32_t number, uint64_t address, uint64_t bytes, bool done);

/* What is mapped in a range, or begins at its first address (`bytes` 0), is about to be unmapped, and has or has
 * not been. Reads the layout between them, or writes it where there may be very many mappings. */
enum { ALIQUOT_UNMAP_BATCH = 256 };
struct aliquot_unmapping {
    uint64_t at, end;
    uint32_t count;
    struct {
        uint64_t address, value;
    } taken[ALIQUOT_UNMAP_BATCH];
};
void aliquot_physical_unmap(struct aliquot_unmapping *unmapping, uint64_t address, uint64_t bytes);
void aliquot_physical_unmapped(struct aliquot_unmapping *unmapping, bool done);

/* What is mapped at `address` is about to get one more handle, which may be another one than before, and has
 * it or not (0). Writes the layout between them. */
void aliquot_physical_retain(void);
void aliquot_physical_retained(uint64_t address, uint64_t handle);

/* Keeps what is mapped at an address. While the layout is written. */
uint32_t aliquot_physical_keep_mapped(uint64_t address);

/* The vendor's part: the first address of the mapping around one, as the driver tells; 0: it does not. */
uint64_t aliquot_mapping_base(uint64_t address);

/* -- Sharing ------------------------------------------------------------------------------------------- */

/* Memory that is kept can be had by the key (shared.h) from now on, and by the descriptor `fd` (-1: by none)
 * as long as this process has that; or not (0). It is let go of. */
void aliquot_physical_exported(uint32_t number, uint64_t key, int fd);

/* The process is about to have a handle of what has the key (0: nobody knows it), and has it or not (0).
 * Between them goes what the first answers. */
uint64_t aliquot_physical_import(uint64_t key);
void aliquot_physical_imported(uint64_t held, uint64_t handle);

/* Memory that only a descriptor keeps. It is given back, once that is closed, by whoever settles; cheap when
 * there is none. */
bool aliquot_physical_lingers(void);
void aliquot_physical_settle(void);

/* A forked child owns nothing of its parent's. */
void aliquot_physical_forget(void);

#endif
