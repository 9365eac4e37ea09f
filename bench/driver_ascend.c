/* Ascend's runtime, below AscendCL: what operators and frameworks reach. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

const char driver_library[] = "libruntime.so";

struct code {
    uint32_t magic, version;
    const void *data;
    uint64_t length;
};

struct driver {
    int (*count)(int32_t *devices);
    int (*set_device)(int32_t device);
    int (*get_context)(void **context);
    int (*set_context)(void *context);
    int (*alloc)(void **memory, uint64_t bytes, uint32_t kind, uint16_t module);
    int (*release)(void *memory);
    int (*info)(size_t *left, size_t *total);
    int (*load)(const struct code *code, void **binary);
    int (*function)(void *binary, const void *stub, const char *name, const void *info,
                    uint32_t mode);
    int (*stream)(void **stream, int32_t priority);
    int (*wait)(void *stream);
    int (*copy)(void *to, uint64_t room, const void *from, uint64_t bytes, uint32_t kind,
                void *stream);
    int (*launch)(const void *stub, uint32_t blocks, void *arguments, uint32_t size, void *shared,
                  void *stream);
};

enum { HBM = 2, MODULE = 33, HOST_TO_DEVICE = 1 };
static void *context;
static const char spin;

struct driver *driver_load(const char *path) {
    void *library = driver_open(path);
    struct driver *driver = calloc(1, sizeof *driver);
    *(void **)&driver->count = driver_symbol(library, "rtGetDeviceCount");
    *(void **)&driver->set_device = driver_symbol(library, "rtSetDevice");
    *(void **)&driver->get_context = driver_symbol(library, "rtCtxGetCurrent");
    *(void **)&driver->set_context = driver_symbol(library, "rtCtxSetCurrent");
    *(void **)&driver->alloc = driver_symbol(library, "rtMalloc");
    *(void **)&driver->release = driver_symbol(library, "rtFree");
    *(void **)&driver->info = driver_symbol(library, "rtMemGetInfo");
    *(void **)&driver->load = driver_symbol(library, "rtDevBinaryRegister");
    *(void **)&driver->function = driver_symbol(library, "rtFunctionRegister");
    *(void **)&driver->stream = driver_symbol(library, "rtStreamCreate");
    *(void **)&driver->wait = driver_symbol(library, "rtStreamSynchronize");
    *(void **)&driver->copy = driver_symbol(library, "rtMemcpyAsync");
    *(void **)&driver->launch = driver_symbol(library, "rtKernelLaunch");
    return driver;
}

int driver_init(void *library) {
    int (*set_device)(int32_t);
    *(void **)&set_device = driver_symbol(library, "rtSetDevice");
    return set_device(0);
}

int driver_start(const struct driver *driver) {
    static const char name[] = "aliquot_spin_ns";
    struct code code = {.data = name, .length = sizeof name};
    void *binary;
    int result = driver->set_device(0);
    if (!result)
        result = driver->get_context(&context);
    if (!result)
        result = driver->load(&code, &binary);
    return result ? result : driver->function(binary, &spin, name, NULL, 0);
}

int driver_enter(const struct driver *driver) { return driver->set_context(context); }

int driver_stream(const struct driver *driver, void **stream) { return driver->stream(stream, 0); }
int driver_wait(const struct driver *driver, void *stream) { return driver->wait(stream); }

int driver_launch(const struct driver *driver, void *stream, uint64_t ns, unsigned blocks) {
    return driver->launch(&spin, blocks, &ns, sizeof ns, NULL, stream);
}

int driver_alloc(const struct driver *driver, size_t bytes, uint64_t *memory) {
    void *found = NULL;
    int result = driver->alloc(&found, bytes, HBM, MODULE);
    *memory = (uintptr_t)found;
    return result;
}

int driver_release(const struct driver *driver, uint64_t memory) {
    return driver->release((void *)memory);
}

int driver_info(const struct driver *driver, size_t *left, size_t *total) {
    return driver->info(left, total);
}

int driver_copy(const struct driver *driver, void *stream, uint64_t to, const void *from,
                size_t bytes) {
    return driver->copy((void *)to, bytes, from, bytes, HOST_TO_DEVICE, stream);
}
