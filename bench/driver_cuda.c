/* CUDA's driver. */
#include "driver.h"

#include <stdlib.h>

const char driver_library[] = "libcuda.so.1";

struct driver {
    int (*init)(unsigned flags);
    int (*retain)(void **context, int device);
    int (*set_current)(void *context);
    int (*alloc)(uint64_t *memory, size_t bytes);
    int (*release)(uint64_t memory);
    int (*info)(size_t *left, size_t *total);
    int (*load)(void **module, const void *image);
    int (*function)(void **function, void *module, const char *name);
    int (*stream)(void **stream, unsigned flags);
    int (*wait)(void *stream);
    int (*copy)(uint64_t to, const void *from, size_t bytes, void *stream);
    int (*launch)(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                  unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                  void *stream, void **parameters, void **extra);
};

static const char image[] = ".version 7.0\n.target sm_50\n.address_size 64\n"
                            ".visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }\n";
static void *context, *spin;

struct driver *driver_load(const char *path) {
    void *library = driver_open(path);
    struct driver *driver = calloc(1, sizeof *driver);
    *(void **)&driver->init = driver_symbol(library, "cuInit");
    *(void **)&driver->retain = driver_symbol(library, "cuDevicePrimaryCtxRetain");
    *(void **)&driver->set_current = driver_symbol(library, "cuCtxSetCurrent");
    *(void **)&driver->alloc = driver_symbol(library, "cuMemAlloc_v2");
    *(void **)&driver->release = driver_symbol(library, "cuMemFree_v2");
    *(void **)&driver->info = driver_symbol(library, "cuMemGetInfo_v2");
    *(void **)&driver->load = driver_symbol(library, "cuModuleLoadData");
    *(void **)&driver->function = driver_symbol(library, "cuModuleGetFunction");
    *(void **)&driver->stream = driver_symbol(library, "cuStreamCreate");
    *(void **)&driver->wait = driver_symbol(library, "cuStreamSynchronize");
    *(void **)&driver->copy = driver_symbol(library, "cuMemcpyHtoDAsync_v2");
    *(void **)&driver->launch = driver_symbol(library, "cuLaunchKernel");
    return driver;
}

int driver_init(void *library) {
    int (*init)(unsigned);
    *(void **)&init = driver_symbol(library, "cuInit");
    return init(0);
}

int driver_start(const struct driver *driver) {
    void *module;
    int result = driver->init(0);
    if (!result)
        result = driver->retain(&context, 0);
    if (!result)
        result = driver->set_current(context);
    if (!result)
        result = driver->load(&module, image);
    return result ? result : driver->function(&spin, module, "aliquot_spin_ns");
}

int driver_enter(const struct driver *driver) { return driver->set_current(context); }

int driver_stream(const struct driver *driver, void **stream) { return driver->stream(stream, 1); }
int driver_wait(const struct driver *driver, void *stream) { return driver->wait(stream); }

int driver_launch(const struct driver *driver, void *stream, uint64_t ns, unsigned blocks) {
    void *parameters[] = {&ns};
    return driver->launch(spin, blocks, 1, 1, 1024, 1, 1, 0, stream, parameters, NULL);
}

int driver_alloc(const struct driver *driver, size_t bytes, uint64_t *memory) {
    return driver->alloc(memory, bytes);
}

int driver_release(const struct driver *driver, uint64_t memory) { return driver->release(memory); }

int driver_info(const struct driver *driver, size_t *left, size_t *total) {
    return driver->info(left, total);
}

int driver_copy(const struct driver *driver, void *stream, uint64_t to, const void *from,
                size_t bytes) {
    return driver->copy(to, from, bytes, stream);
}
