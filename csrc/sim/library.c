/* Libraries: images that are loaded into every context, and their kernels. */
#include "module.h"

#include "exec.h"

#include <stdlib.h>
#include <string.h>

/* An image of the library for one compute capability. */
struct build {
    unsigned cc;
    struct sim_image *image;     /* NULL: nothing in the library suits */
    struct sim_kernel **kernels; /* by the image's index */
};

/* What CUlibrary points to; `more` is on the heap, since the slots are small. */
struct sim_library {
    uint32_t live; /* of sim_slots */
    uint32_t slot_next;
    struct sim_library *next, **from; /* in `libraries`; under library_lock */
    struct sim_module *modules;       /* its part in each context; under sim_module_lock */
    struct build *builds;             /* one for each capability on the node */
    uint32_t build_count;
    struct sim_kernel **kernels; /* of all builds, each name once */
    uint32_t kernel_count;
};
_Static_assert(sizeof(struct sim_library) <= 128, "libraries fill their slots");

/* Guards `libraries` and that a library is loaded once into each context. Taken inside of what
 * sim_context_each holds, outside of sim_module_lock. */
static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_library *libraries;

/* ---- Building ------------------------------------------------------------------------------ */

static struct build *build_for(const struct sim_library *library, unsigned cc) {
    for (uint32_t i = 0; i < library->build_count; i++) {
        if (library->builds[i].cc == cc)
            return &library->builds[i];
    }
    return NULL;
}

/* Parses the data for each capability on the node. The error of the first device counts when none
 * of them can run it. */
static CUresult parse_all(struct sim_library *library, const void *data, size_t size,
                          struct sim_jit *jit) {
    int devices = sim_device_count();
    CUresult first = CUDA_ERROR_NO_DEVICE;
    bool any = false;

    library->builds = calloc((size_t)devices + 1, sizeof *library->builds);
    if (!library->builds)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (int dev = 0; dev < devices; dev++) {
        unsigned cc = sim_device_cc(dev);
        if (build_for(library, cc))
            continue;
        struct build *build = &library->builds[library->build_count++];
        build->cc = cc;
        CUresult result = sim_jit_parse(data, size, cc, false, jit, &build->image);
        if (result != CUDA_SUCCESS)
            build->image = NULL;
        if (library->build_count == 1)
            first = result;
        any |= result == CUDA_SUCCESS;
    }
    return any ? CUDA_SUCCESS : first;
}

static struct sim_kernel *kernel_named(const struct sim_library *library, const char *name) {
    for (uint32_t i = 0; i < library->build_count; i++) {
        const struct build *build = &library->builds[i];
        int64_t index = build->image ? sim_image_find_function(build->image, name) : -1;
        if (index >= 0 && build->kernels[index])
            return build->kernels[index];
    }
    return NULL;
}

static CUresult make_kernels(struct sim_library *library) {
    uint32_t most = 0;

    for (uint32_t i = 0; i < library->build_count; i++)
        most += library->builds[i].image ? library->builds[i].image->function_count : 0;
    library->kernels = calloc(most + 1u, sizeof *library->kernels);
    if (!library->kernels)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < library->build_count; i++) {
        struct build *build = &library->builds[i];
        if (!build->image)
            continue;
        build->kernels = calloc(build->image->function_count + 1u, sizeof *build->kernels);
        if (!build->kernels)
            return CUDA_ERROR_OUT_OF_MEMORY;
        for (uint32_t k = 0; k < build->image->function_count; k++) {
            const char *name = build->image->functions[k].name;
            struct sim_kernel *kernel = i ? kernel_named(library, name) : NULL;
            if (!kernel) {
                kernel = sim_slots_take(&sim_kernel_slots);
                if (!kernel)
                    return CUDA_ERROR_OUT_OF_MEMORY;
                kernel->library = library;
                kernel->name = name;
                library->kernels[library->kernel_count++] = kernel;
                sim_slots_publish(kernel);
            }
            build->kernels[k] = kernel;
        }
    }
    return CUDA_SUCCESS;
}

static void free_library(struct sim_library *library) {
    for (uint32_t i = 0; i < library->kernel_count; i++) {
        free(library->kernels[i]->settings);
        sim_slots_give(&sim_kernel_slots, library->kernels[i]);
    }
    free(library->kernels);
    for (uint32_t i = 0; i < library->build_count; i++) {
        free(library->builds[i].kernels);
        sim_image_release(library->builds[i].image);
    }
    free(library->builds);
    sim_slots_give(&sim_library_slots, library);
}

/* ---- Contexts ------------------------------------------------------------------------------ */

struct sim_module *sim_library_module(struct sim_library *library, const struct sim_context *ctx) {
    struct sim_module *found;

    pthread_mutex_lock(&sim_module_lock);
    for (found = library->modules; found && found->ctx != ctx->owner; found = found->library_next)
        ;
    pthread_mutex_unlock(&sim_module_lock);
    return found;
}

/* Loads the library into a context that lacks it. The caller holds library_lock. */
static CUresult load_into(struct sim_library *library, struct sim_context *ctx) {
    const struct build *build = build_for(library, sim_device_cc(ctx->dev));
    struct sim_module *module;

    if (!build || !build->image || !ctx->modules || sim_library_module(library, ctx))
        return CUDA_SUCCESS;
    CUresult result = sim_module_load(ctx, build->image, library, &module);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&sim_module_lock);
    module->library_next = library->modules;
    library->modules = module;
    pthread_mutex_unlock(&sim_module_lock);
    return CUDA_SUCCESS;
}

CUresult sim_libraries_load(struct sim_context *ctx) {
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&library_lock);
    for (struct sim_library *library = libraries; library && result == CUDA_SUCCESS;
         library = library->next)
        result = load_into(library, ctx);
    pthread_mutex_unlock(&library_lock);
    return result;
}

void sim_library_forget(struct sim_module *module) {
    pthread_mutex_lock(&sim_module_lock);
    struct sim_module **at = &module->library->modules;
    while (*at && *at != module)
        at = &(*at)->library_next;
    if (*at)
        *at = module->library_next;
    pthread_mutex_unlock(&sim_module_lock);
}

struct loading {
    struct sim_library *library;
    CUresult result;
};

static bool load_each(struct sim_context *ctx, void *argument) {
    struct loading *loading = argument;

    pthread_mutex_lock(&library_lock);
    loading->result = load_into(loading->library, ctx);
    pthread_mutex_unlock(&library_lock);
    return loading->result == CUDA_SUCCESS;
}

/* Takes the library out of the list and out of every context. */
static void withdraw(struct sim_library *library) {
    pthread_mutex_lock(&library_lock);
    if (library->from) {
        *library->from = library->next;
        if (library->next)
            library->next->from = library->from;
    }
    pthread_mutex_unlock(&library_lock);
    pthread_mutex_lock(&sim_unload_lock);
    for (;;) {
        pthread_mutex_lock(&sim_module_lock);
        struct sim_module *module = library->modules;
        pthread_mutex_unlock(&sim_module_lock);
        if (!module)
            break;
        sim_module_unload(module);
    }
    pthread_mutex_unlock(&sim_unload_lock);
}

static CUresult load_library(CUlibrary *handle, const void *data, size_t size,
                             struct sim_jit *jit) {
    CUresult result = sim_capture_unsafe();

    if (result != CUDA_SUCCESS)
        return result;
    struct sim_library *library = sim_slots_take(&sim_library_slots);
    if (!library)
        return CUDA_ERROR_OUT_OF_MEMORY;
    sim_cost(0, SIM_COST_MODULE_LOAD);
    result = parse_all(library, data, size, jit);
    if (result == CUDA_SUCCESS)
        result = make_kernels(library);
    if (result == CUDA_SUCCESS) {
        struct loading loading = {.library = library};
        /* In the list first: a context that is made meanwhile loads it by itself. */
        pthread_mutex_lock(&library_lock);
        library->next = libraries;
        library->from = &libraries;
        if (library->next)
            library->next->from = &library->next;
        libraries = library;
        pthread_mutex_unlock(&library_lock);
        sim_context_each(load_each, &loading);
        result = loading.result;
        if (result != CUDA_SUCCESS)
            withdraw(library);
    }
    if (result != CUDA_SUCCESS) {
        free_library(library);
        return result;
    }
    sim_slots_publish(library);
    *handle = (CUlibrary)library;
    return CUDA_SUCCESS;
}

/* ---- Loading and unloading ----------------------------------------------------------------- */

/* The library options change nothing here: the image is always copied, and there is no table of
 * host functions to follow. They are checked all the same. */
static CUresult check_options(unsigned count, CUlibraryOption *options, void **values) {
    if (count && !options)
        return CUDA_ERROR_INVALID_VALUE;
    (void)values;
    for (unsigned i = 0; i < count; i++) {
        if (options[i] < 0 || options[i] >= CU_LIBRARY_NUM_OPTIONS)
            return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *options,
                                   void **values, unsigned int count,
                                   CUlibraryOption *library_options, void **library_values,
                                   unsigned int library_count) {
    struct sim_jit jit;
    CUresult result = sim_ready();

    if (result != CUDA_SUCCESS)
        return result;
    if (!library || !code)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_jit_read(&jit, count, options, values);
    if (result == CUDA_SUCCESS)
        result = check_options(library_count, library_options, library_values);
    return result == CUDA_SUCCESS ? load_library(library, code, SIZE_MAX, &jit) : result;
}

CUresult CUDAAPI cuLibraryLoadFromFile(CUlibrary *library, const char *path, CUjit_option *options,
                                       void **values, unsigned int count,
                                       CUlibraryOption *library_options, void **library_values,
                                       unsigned int library_count) {
    struct sim_jit jit;
    void *data;
    size_t bytes;
    CUresult result = sim_ready();

    if (result != CUDA_SUCCESS)
        return result;
    if (!library || !path)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_jit_read(&jit, count, options, values);
    if (result == CUDA_SUCCESS)
        result = check_options(library_count, library_options, library_values);
    if (result == CUDA_SUCCESS)
        result = sim_read_file(path, &data, &bytes);
    if (result != CUDA_SUCCESS)
        return result;
    result = load_library(library, data, bytes, &jit);
    free(data);
    return result;
}

CUresult CUDAAPI cuLibraryUnload(CUlibrary handle) {
    CUresult result = sim_ready();

    if (result != CUDA_SUCCESS)
        return result;
    struct sim_library *library = sim_library_get(handle);
    if (!library)
        return CUDA_ERROR_INVALID_HANDLE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(0, SIM_COST_MODULE_UNLOAD);
    withdraw(library);
    free_library(library);
    return CUDA_SUCCESS;
}

/* ---- Looking up ---------------------------------------------------------------------------- */

static CUresult ready_library(CUlibrary handle, struct sim_library **library) {
    CUresult result = sim_ready();

    if (result != CUDA_SUCCESS)
        return result;
    *library = sim_library_get(handle);
    return *library ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

/* The library's module in the current context. */
static CUresult enter_library(CUlibrary handle, struct sim_module **module) {
    struct sim_library *library;
    struct sim_context *ctx;

    CUresult result = ready_library(handle, &library);
    if (result == CUDA_SUCCESS)
        result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    *module = sim_library_module(library, ctx);
    return *module ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

CUresult CUDAAPI cuLibraryGetKernel(CUkernel *out, CUlibrary handle, const char *name) {
    struct sim_library *library;

    CUresult result = ready_library(handle, &library);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !name)
        return CUDA_ERROR_INVALID_VALUE;
    struct sim_kernel *kernel = kernel_named(library, name);
    if (!kernel)
        return CUDA_ERROR_NOT_FOUND;
    *out = (CUkernel)kernel;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLibraryGetKernelCount(unsigned int *count, CUlibrary handle) {
    struct sim_library *library;

    CUresult result = ready_library(handle, &library);
    if (result != CUDA_SUCCESS)
        return result;
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = library->kernel_count;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int room, CUlibrary handle) {
    struct sim_library *library;

    CUresult result = ready_library(handle, &library);
    if (result != CUDA_SUCCESS)
        return result;
    if (!kernels || !room)
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; i < library->kernel_count && i < room; i++)
        kernels[i] = (CUkernel)library->kernels[i];
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLibraryGetModule(CUmodule *out, CUlibrary handle) {
    struct sim_module *module;

    CUresult result = enter_library(handle, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    *out = (CUmodule)module;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLibraryGetGlobal(CUdeviceptr *address, size_t *bytes, CUlibrary handle,
                                    const char *name) {
    struct sim_module *module;

    CUresult result = enter_library(handle, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (!name || (!address && !bytes))
        return CUDA_ERROR_INVALID_VALUE;
    return sim_module_variable(module, name, address, bytes);
}

CUresult CUDAAPI cuLibraryGetManaged(CUdeviceptr *address, size_t *bytes, CUlibrary handle,
                                     const char *name) {
    struct sim_module *module;

    CUresult result = enter_library(handle, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (!name || (!address && !bytes))
        return CUDA_ERROR_INVALID_VALUE;
    int64_t index = sim_image_find_symbol(module->image, name);
    if (index < 0 || module->image->symbols[index].kind != SIM_SYMBOL_MANAGED)
        return CUDA_ERROR_NOT_FOUND;
    return sim_module_variable(module, name, address, bytes);
}

/* ---- Kernels ------------------------------------------------------------------------------- */

const struct sim_image_function *sim_kernel_image(const struct sim_kernel *kernel, CUdevice dev) {
    const struct sim_library *library = kernel->library;

    for (uint32_t i = 0; i < library->build_count; i++) {
        const struct build *build = &library->builds[i];
        if (!build->image || (dev >= 0 && build->cc != sim_device_cc(dev)))
            continue;
        int64_t index = sim_image_find_function(build->image, kernel->name);
        if (index >= 0)
            return &build->image->functions[index];
    }
    return NULL;
}

void sim_kernel_apply(const struct sim_kernel *kernel, struct sim_function *function) {
    if (!kernel->settings)
        return;
    const struct sim_kernel_settings *settings = &kernel->settings[function->ctx->dev];
    for (int i = 0; i < 32; i++) {
        if (settings->set >> i & 1)
            sim_function_set(function, (CUfunction_attribute)i, settings->value[i]);
    }
}

void sim_kernel_attach(struct sim_function *function) {
    const struct sim_library *library = function->module->library;
    const struct build *build = build_for(library, sim_device_cc(function->ctx->dev));

    function->kernel = build->kernels[function->index];
    sim_kernel_apply(function->kernel, function);
}

CUresult sim_kernel_set(struct sim_kernel *kernel, CUdevice dev, CUfunction_attribute attribute,
                        int value) {
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&sim_module_lock);
    if (!kernel->settings)
        kernel->settings = calloc((size_t)sim_device_count(), sizeof *kernel->settings);
    if (kernel->settings) {
        struct sim_kernel_settings *settings = &kernel->settings[dev];
        settings->set |= 1u << attribute;
        settings->value[attribute] = value;
        for (struct sim_module *module = kernel->library->modules; module;
             module = module->library_next) {
            if (module->ctx->dev != dev)
                continue;
            int64_t index = sim_image_find_function(module->image, kernel->name);
            if (index >= 0 && module->functions[index])
                sim_function_set(module->functions[index], attribute, value);
        }
    } else {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_unlock(&sim_module_lock);
    return result;
}

/* The kernel's function in a context, by the long way. */
static CUresult find_function(struct sim_context *ctx, struct sim_kernel *kernel,
                              struct sim_function **function) {
    struct sim_module *module = sim_library_module(kernel->library, ctx);
    int64_t index = module ? sim_image_find_function(module->image, kernel->name) : -1;

    if (index < 0)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    CUresult result = sim_module_function(module, (uint32_t)index, function);
    if (result == CUDA_SUCCESS)
        /* Release pairs with the acquire in sim_function_resolve. */
        __atomic_store_n(&kernel->cached, *function, __ATOMIC_RELEASE);
    return result;
}

CUresult sim_function_resolve(struct sim_context *ctx, CUfunction handle,
                              struct sim_function **out) {
    struct sim_function *function = sim_slots_get(&sim_function_slots, handle);

    if (function) {
        if (function->ctx != ctx->owner)
            return CUDA_ERROR_INVALID_CONTEXT;
        *out = function;
        return CUDA_SUCCESS;
    }
    struct sim_kernel *kernel = sim_slots_get(&sim_kernel_slots, handle);
    if (!kernel)
        return CUDA_ERROR_INVALID_HANDLE;
    /* Acquire pairs with the release in find_function. A function that was unloaded since has
     * another kernel or is not alive. */
    function = __atomic_load_n(&kernel->cached, __ATOMIC_ACQUIRE);
    if (function && sim_slots_get(&sim_function_slots, function) && function->kernel == kernel &&
        function->ctx == ctx->owner) {
        *out = function;
        return CUDA_SUCCESS;
    }
    return find_function(ctx, kernel, out);
}
