/* How a process joins its slice: the region, and which of the driver's devices are those of the grant. The
 * same in every vendor's shim, which says of itself what differs.
 */
#ifndef ALIQUOT_SHIM_SLICE_ATTACH_H
#define ALIQUOT_SHIM_SLICE_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

/* Devices of the driver that are told apart. */
#define ALIQUOT_ORDINALS 64

/* -- The vendor's part ------------------------------------------------------------------------------ */

struct aliquot_vendor {
    const char *what;    /* of which there is none where a slice cannot be joined */
    const char *library; /* what is behind the shim */
    /* A forked child owns nothing of its parent's: each part forgets. */
    void (*forget)(void);
    /* Before a refusal (core/slice.h); NULL: there is nothing to take up. */
    void (*settle)(uint32_t device);
    /* The UUID of a device of the driver's, by its ordinal. False: it is not told. */
    bool (*uuid)(int ordinal, unsigned char uuid[16]);
    /* None of `count` devices was known by its UUID: sets the indices of those that are known otherwise. NULL:
     * none is. */
    void (*otherwise)(int count, int index[ALIQUOT_ORDINALS]);
};
extern const struct aliquot_vendor aliquot_vendor;

/* -- For it ------------------------------------------------------------------------------------------ */

/* Whether this process has a place in its slice, by this call or an earlier one. Else one line was printed,
 * the only thing that the shim ever prints. errno is preserved. */
bool aliquot_join(void);

/* Finds the driver's devices, of which there are `count`, in the grant: the process is ready then
 * (aliquot_prepared). Only after aliquot_join. */
void aliquot_map_devices(int count);

/* Index into the grant of a device of the driver's; -1: not in the slice, ALIQUOT_NO_SUCH_DEVICE: there is
 * none of that ordinal. */
enum { ALIQUOT_NO_SUCH_DEVICE = -2 };
int aliquot_mapped(int ordinal);

/* The ordinal of a device of the grant; -1: the driver does not show it. */
int aliquot_mapped_from(uint32_t device);

#endif
