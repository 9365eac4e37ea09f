/* Cambricon's driver. */
#include "driver.h"

#include <stdlib.h>

const char driver_library[] = "libcndrv.so";

struct driver {
    int (*init)(unsigned flags);
    int (*device)(uint64_t *device, int ordinal);
    int (*acquire)(void **context, uint64_t device);
    int (*set_current)(void *context);
    int (*alloc)(uint64_t *memory, uint64_t bytes);
    int (*release)(uint64_t memory);
    int (*info)(uint64_t *left, uint64_t *total);
    int (*load)(const void *image, void **module);
    int (*kernel)(void *module, const char *name, void **kernel);
    int (*queue)(void **queue, unsigned flags);
    int (*wait)(void *queue);
    int (*copy)(uint64_t to, const void *from, uint64_t bytes, void *queue);
    int (*launch)(void *kernel, unsigned x, unsigned y, unsigned z, int kind, unsigned reserved,
                  void *queue, void **parameters, void **extra);
};

enum { UNION1 = 4 };
static const char image[] = "mlu-image 1\nkernel spin parameter\n";
static void *context, *spin;

struct driver *driver_load(const char *path) {
    void *library = driver_open(path);
    struct driver *driver = calloc(1, sizeof *driver);
    *(void **)&driver->init = driver_symbol(library, "cnInit");
    *(void **)&driver->device = driver_symbol(library, "cnDeviceGet");
    *(void **)&driver->acquire = driver_symbol(library, "cnSharedContextAcquire");
    *(void **)&driver->set_current = driver_symbol(library, "cnCtxSetCurrent");
    *(void **)&driver->alloc = driver_symbol(library, "cnMalloc");
    *(void **)&driver->release = driver_symbol(library, "cnFree");
    *(void **)&driver->info = driver_symbol(library, "cnMemGetInfo");
    *(void **)&driver->load = driver_symbol(library, "cnModuleLoadFatBinary");
    *(void **)&driver->kernel = driver_symbol(library, "cnModuleGetKernel");
    *(void **)&driver->queue = driver_symbol(library, "cnCreateQueue");
    *(void **)&driver->wait = driver_symbol(library, "cnQueueSync");
    *(void **)&driver->copy = driver_symbol(library, "cnMemcpyHtoDAsync");
    *(void **)&driver->launch = driver_symbol(library, "cnInvokeKernel");
    return driver;
}

int driver_init(void *library) {
    int (*init)(unsigned);
    *(void **)&init = driver_symbol(library, "cnInit");
    return init(0);
}

int driver_start(const struct driver *driver) {
    uint64_t device;
    void *module;
    int result = driver->init(0);
    if (!result)
        result = driver->device(&device, 0);
    if (!result)
        result = driver->acquire(&context, device);
    if (!result)
        result = driver->set_current(context);
    if (!result)
        result = driver->load(image, &module);
    return result ? result : driver->kernel(module, "spin", &spin);
}

int driver_enter(const struct driver *driver) { return driver->set_current(context); }

int driver_stream(const struct driver *driver, void **stream) { return driver->queue(stream, 0); }
int driver_wait(const struct driver *driver, void *stream) { return driver->wait(stream); }

int driver_launch(const struct driver *driver, void *stream, uint64_t ns, unsigned blocks) {
    void *parameters[] = {&ns};
    return driver->launch(spin, blocks, 1, 1, UNION1, 0, stream, parameters, NULL);
}

int driver_alloc(const struct driver *driver, size_t bytes, uint64_t *memory) {
    return driver->alloc(memory, bytes);
}

int driver_release(const struct driver *driver, uint64_t memory) { return driver->release(memory); }

int driver_info(const struct driver *driver, size_t *left, size_t *total) {
    return driver->info((uint64_t *)left, (uint64_t *)total);
}

int driver_copy(const struct driver *driver, void *stream, uint64_t to, const void *from,
                size_t bytes) {
    return driver->copy(to, from, bytes, stream);
}
