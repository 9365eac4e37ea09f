/* A vendor's driver as far as the benches call it: driver_VENDOR.c has it, without the vendor's headers.
 * Each call answers the driver's code, 0 if all is well. What is missing ends the program. */
#ifndef BENCH_DRIVER_H
#define BENCH_DRIVER_H

#include <stddef.h>
#include <stdint.h>

struct driver; /* a library: the vendor's, or what stands before it */

/* Under what name programs find it. */
extern const char driver_library[];

struct driver *driver_load(const char *path);

/* The first call of a process, of a library that dlopen gave. */
int driver_init(void *library);
/* Begins with the first device: its context becomes current, and kernels are loaded. All libraries of a
 * process are over one driver, which begins once. */
int driver_start(const struct driver *driver);
/* The same context in another thread. */
int driver_enter(const struct driver *driver);

int driver_stream(const struct driver *driver, void **stream);
int driver_wait(const struct driver *driver, void *stream);
int driver_launch(const struct driver *driver, void *stream, uint64_t ns, unsigned blocks);

int driver_alloc(const struct driver *driver, size_t bytes, uint64_t *memory);
int driver_release(const struct driver *driver, uint64_t memory);
int driver_info(const struct driver *driver, size_t *left, size_t *total);
/* To the device, in order of the stream. */
int driver_copy(const struct driver *driver, void *stream, uint64_t to, const void *from,
                size_t bytes);

/* -- For its parts --------------------------------------------------------------------------------- */

/* dlopen and dlsym that do not fail. */
void *driver_open(const char *path);
void *driver_symbol(void *library, const char *name);

#endif
