/* Loaded objects by the kernel's list of mappings. */
#ifndef ALIQUOT_SHIM_MAPS_H
#define ALIQUOT_SHIM_MAPS_H

#include <link.h>
#include <stddef.h>

/* dl_iterate_phdr(3), for processes in which that knows of no library: calls back for each until an
 * answer is not 0, and returns that. Names are valid during the call only. */
int aliquot_iterate_maps(int (*callback)(struct dl_phdr_info *, size_t, void *), void *data);

#endif
