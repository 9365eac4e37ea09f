/* A libcuda.so.1 in front of another that notes what a program launches and loads.
 *
 * It stands where a container's library would stand: the driver is its DT_NEEDED under a private
 * name, what it does not export falls through. At exit one JSON object goes to the file that
 * DRIVER_SPY names: {"launches": {kernel: times}, "modules": times, "graphs": times}.
 */
#include <cuda.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNELS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char *name;
    unsigned long times;
} kernels[KERNELS];
static unsigned kernel_count;
static unsigned long modules, graphs;

/* The driver's own symbol: asked of the driver's handle, not of whoever comes first. */
static void *real(const char *name) {
    static void *driver;

    if (!driver)
        driver = dlopen("libcuda-spied.so.1", RTLD_NOW | RTLD_NOLOAD);
    void *found = driver ? dlsym(driver, name) : NULL;
    if (!found) {
        fprintf(stderr, "driver_spy: the driver has no %s\n", name);
        abort();
    }
    return found;
}

static void note_launch(CUfunction function) {
    CUresult (*get_name)(const char **, CUfunction) = real("cuFuncGetName");
    const char *name = "?";
    unsigned i = 0;

    get_name(&name, function);
    pthread_mutex_lock(&lock);
    while (i < kernel_count && strcmp(kernels[i].name, name))
        i++;
    if (i == kernel_count && i < KERNELS)
        kernels[kernel_count++].name = strdup(name);
    if (i < KERNELS)
        kernels[i].times++;
    pthread_mutex_unlock(&lock);
}

static void note(unsigned long *counter) { __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

#define LAUNCH_PARAMETERS                                                                          \
    CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,    \
        unsigned shared, CUstream stream, void **params, void **extra
#define LAUNCH_ARGUMENTS f, gx, gy, gz, bx, by, bz, shared, stream, params, extra

CUresult cuLaunchKernel(LAUNCH_PARAMETERS) {
    CUresult (*next)(LAUNCH_PARAMETERS) = real("cuLaunchKernel");
    note_launch(f);
    return next(LAUNCH_ARGUMENTS);
}

CUresult cuLaunchKernel_ptsz(LAUNCH_PARAMETERS) {
    CUresult (*next)(LAUNCH_PARAMETERS) = real("cuLaunchKernel_ptsz");
    note_launch(f);
    return next(LAUNCH_ARGUMENTS);
}

#define LAUNCH_EX_PARAMETERS const CUlaunchConfig *config, CUfunction f, void **params, void **extra

CUresult cuLaunchKernelEx(LAUNCH_EX_PARAMETERS) {
    CUresult (*next)(LAUNCH_EX_PARAMETERS) = real("cuLaunchKernelEx");
    note_launch(f);
    return next(config, f, params, extra);
}

CUresult cuLaunchKernelEx_ptsz(LAUNCH_EX_PARAMETERS) {
    CUresult (*next)(LAUNCH_EX_PARAMETERS) = real("cuLaunchKernelEx_ptsz");
    note_launch(f);
    return next(config, f, params, extra);
}

CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
    CUresult (*next)(CUgraphExec, CUstream) = real("cuGraphLaunch");
    note(&graphs);
    return next(graph, stream);
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    CUresult (*next)(CUmodule *, const void *) = real("cuModuleLoadData");
    note(&modules);
    return next(module, image);
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count,
                            CUjit_option *options, void **values) {
    CUresult (*next)(CUmodule *, const void *, unsigned, CUjit_option *, void **) =
        real("cuModuleLoadDataEx");
    note(&modules);
    return next(module, image, count, options, values);
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *options,
                           void **values, unsigned count, CUlibraryOption *library_options,
                           void **library_values, unsigned library_count) {
    CUresult (*next)(CUlibrary *, const void *, CUjit_option *, void **, unsigned,
                     CUlibraryOption *, void **, unsigned) = real("cuLibraryLoadData");
    note(&modules);
    return next(library, code, options, values, count, library_options, library_values,
                library_count);
}

/* The private table by which old runtimes load modules: entries 1 and 6. */
static CUresult (*table_load)(void *, void *);
static CUresult (*table_load_more)(void *, void *, void *, void *, void *);

static CUresult spy_load(void *module, void *image) {
    note(&modules);
    return table_load(module, image);
}

static CUresult spy_load_more(void *module, void *image, void *a, void *b, void *c) {
    note(&modules);
    return table_load_more(module, image, a, b, c);
}

CUresult cuGetExportTable(const void **table, const CUuuid *id) {
    static const unsigned char loading[4] = {0x6b, 0xd5, 0xfb, 0x6c};
    static void *copy[64];
    CUresult (*next)(const void **, const CUuuid *) = real("cuGetExportTable");

    CUresult result = next(table, id);
    if (result != CUDA_SUCCESS || memcmp(id->bytes, loading, sizeof loading))
        return result;
    void *const *entries = *table;
    size_t bytes = (size_t)(uintptr_t)entries[0];
    if (bytes > sizeof copy)
        return result;
    memcpy(copy, entries, bytes);
    memcpy(&table_load, &entries[1], sizeof table_load);
    memcpy(&table_load_more, &entries[6], sizeof table_load_more);
    copy[1] = (void *)spy_load;
    copy[6] = (void *)spy_load_more;
    *table = copy;
    return result;
}

/* What asks for addresses by name gets the spy's where the driver would give its own. */
CUresult cuGetProcAddress_v2(const char *symbol, void **address, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status) {
    static const struct {
        const char *name;
        void *own;
    } spied[] = {
        {"cuLaunchKernel", (void *)cuLaunchKernel},
        {"cuLaunchKernel_ptsz", (void *)cuLaunchKernel_ptsz},
        {"cuLaunchKernelEx", (void *)cuLaunchKernelEx},
        {"cuLaunchKernelEx_ptsz", (void *)cuLaunchKernelEx_ptsz},
        {"cuGraphLaunch", (void *)cuGraphLaunch},
        {"cuModuleLoadData", (void *)cuModuleLoadData},
        {"cuModuleLoadDataEx", (void *)cuModuleLoadDataEx},
        {"cuLibraryLoadData", (void *)cuLibraryLoadData},
    };
    CUresult (*next)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *) =
        real("cuGetProcAddress_v2");

    CUresult result = next(symbol, address, version, flags, status);
    for (size_t i = 0; result == CUDA_SUCCESS && i < sizeof spied / sizeof spied[0]; i++) {
        if (*address == real(spied[i].name))
            *address = spied[i].own;
    }
    return result;
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("DRIVER_SPY");
    FILE *file = path && (kernel_count || modules) ? fopen(path, "w") : NULL;

    if (!file)
        return;
    fprintf(file, "{\"modules\": %lu, \"graphs\": %lu, \"launches\": {", modules, graphs);
    for (unsigned i = 0; i < kernel_count; i++)
        fprintf(file, "%s\"%s\": %lu", i ? ", " : "", kernels[i].name, kernels[i].times);
    fprintf(file, "}}\n");
    fclose(file);
}
