/* The real driver: where it is loaded, its functions, and which of them we stand in for. */
#ifndef ALIQUOT_SHIM_DRIVER_H
#define ALIQUOT_SHIM_DRIVER_H

#include "functions.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The driver's own address of each function of the table; aliquot_missing where this driver has none.
 * Filled once, before the first wrapper can be reached. */
extern void *aliquot_real[F_COUNT];

/* What stands in aliquot_real for a function that this driver lacks: the vendor's part says so. NULL
 * where only functions that are there are called. */
extern void *const aliquot_missing;

/* Generated: the functions' names in their order, each ended by NUL; and where our wrapper of each is,
 * bytes from its entry, or 0. */
extern const char aliquot_fn_names[];
extern const int32_t aliquot_fn_wrapper[F_COUNT];

/* The driver's function as the typed pointer it is. Only for functions that are known to be there:
 * the one that the caller wraps, or one asked for with HAVE. */
#define REAL(symbol) ((__typeof__(&symbol))aliquot_real[F_##symbol])
#define HAVE(symbol) (aliquot_real[F_##symbol] != NULL)

/* Finds the driver and its functions, once a process. Everything else here does so by itself, but for
 * REAL and HAVE, which look at what was found. */
void aliquot_resolve(void);

/* What the export of function `fn` resolves to: our wrapper, else the driver's own function, or NULL
 * when the driver does not have it, so that dlsym on the shim answers as on the driver. Called by
 * the exports' resolvers, possibly while the loader is still relocating other objects. */
void *aliquot_export(unsigned fn);

/* The wrapper of the driver function at `address`, or `address` itself when we wrap no such
 * function; `*known` says whether the table has it. */
void *aliquot_route(void *address, bool *known);

/* Takes back, in this process, the exports of what this driver lacks, so that looking one up fails
 * as on the bare driver (hide.c). Called once, when aliquot_real is filled. */
void aliquot_hide_missing(void);

/* Whether `address` lies in the real library: a call from there is the library's own, and not the
 * program's. */
extern uintptr_t aliquot_driver_begin, aliquot_driver_end;
static inline bool aliquot_is_in_driver(const void *address) {
    return (uintptr_t)address >= aliquot_driver_begin && (uintptr_t)address < aliquot_driver_end;
}

/* Directory of this library's `.aliquot` folder, or NULL when the driver could not be found. */
const char *aliquot_folder(void);

#endif
