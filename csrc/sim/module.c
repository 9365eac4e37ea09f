/* Modules: images in a context, with memory for their variables. */
#include "module.h"

#include "exec_impl.h"

#include <stdlib.h>
#include <string.h>

/* The most of each that a process may have alive. Addresses only; memory comes with use. */
#define FUNCTION_ROOM (1u << 22)
#define KERNEL_ROOM (1u << 22)
#define MODULE_ROOM (1u << 20)
#define LIBRARY_ROOM (1u << 18)
#define SLOT_BYTES 128u

_Static_assert(sizeof(struct sim_function) <= SLOT_BYTES, "functions fill their slots");
_Static_assert(sizeof(struct sim_module) <= SLOT_BYTES, "modules fill their slots");
_Static_assert(sizeof(struct sim_kernel) <= SLOT_BYTES, "kernels fill their slots");

pthread_mutex_t sim_module_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t sim_unload_lock = PTHREAD_MUTEX_INITIALIZER;
struct sim_slots sim_function_slots, sim_module_slots, sim_kernel_slots, sim_library_slots;

/* What context->modules points to. */
struct module_list {
    struct sim_module *first; /* under sim_module_lock */
};

/* ---- The process and its contexts ---------------------------------------------------------- */

CUresult sim_modules_init(void) {
    if (sim_function_slots.base)
        return CUDA_SUCCESS;
    if (!sim_slots_init(&sim_kernel_slots, SLOT_BYTES, KERNEL_ROOM) ||
        !sim_slots_init(&sim_module_slots, SLOT_BYTES, MODULE_ROOM) ||
        !sim_slots_init(&sim_library_slots, SLOT_BYTES, LIBRARY_ROOM) || !sim_texture_refs_init() ||
        !sim_slots_init(&sim_function_slots, SLOT_BYTES, FUNCTION_ROOM))
        return CUDA_ERROR_OUT_OF_MEMORY;
    return CUDA_SUCCESS;
}

CUresult sim_modules_context_init(struct sim_context *ctx) {
    struct module_list *list = calloc(1, sizeof *list);

    if (!list)
        return CUDA_ERROR_OUT_OF_MEMORY;
    ctx->modules = list;
    CUresult result = sim_libraries_load(ctx);
    if (result != CUDA_SUCCESS)
        sim_modules_context_fini(ctx);
    return result;
}

void sim_modules_context_fini(struct sim_context *ctx) {
    struct module_list *list = ctx->modules;

    sim_context_storage_fini(ctx);
    if (!list)
        return;
    pthread_mutex_lock(&sim_unload_lock);
    for (;;) {
        pthread_mutex_lock(&sim_module_lock);
        struct sim_module *module = list->first;
        pthread_mutex_unlock(&sim_module_lock);
        if (!module)
            break;
        sim_module_unload(module);
    }
    pthread_mutex_unlock(&sim_unload_lock);
    ctx->modules = NULL;
    free(list);
}

/* ---- Loading ------------------------------------------------------------------------------- */

unsigned sim_device_cc(CUdevice dev) {
    const struct sim_device_config *config = sim_device_config(dev);
    return config->cc_major * 10 + config->cc_minor;
}

static void link_module(struct sim_module *module) {
    struct module_list *list = module->ctx->modules;

    pthread_mutex_lock(&sim_module_lock);
    module->next = list->first;
    module->from = &list->first;
    if (module->next)
        module->next->from = &module->next;
    list->first = module;
    pthread_mutex_unlock(&sim_module_lock);
}

static void unlink_module(struct sim_module *module) {
    pthread_mutex_lock(&sim_module_lock);
    *module->from = module->next;
    if (module->next)
        module->next->from = module->from;
    pthread_mutex_unlock(&sim_module_lock);
}

/* Makes the image's variables in device memory, which is host memory too. */
static CUresult make_data(struct sim_module *module) {
    const struct sim_image *image = module->image;

    if (!image->data_bytes)
        return CUDA_SUCCESS;
    CUresult result = sim_device_alloc_internal(module->ctx, image->data_bytes, &module->data);
    if (result != CUDA_SUCCESS)
        return result;
    for (uint32_t i = 0; i < image->init_count; i++) {
        const struct sim_image_init *init = &image->inits[i];
        CUdeviceptr to = module->data + init->offset;
        if (sim_memory_touch(to, init->bytes))
            memcpy((void *)to, init->data, init->bytes);
    }
    return CUDA_SUCCESS;
}

CUresult sim_module_load(struct sim_context *ctx, struct sim_image *image,
                         struct sim_library *library, struct sim_module **out) {
    struct sim_module *module = sim_slots_take(&sim_module_slots);

    if (!module)
        return CUDA_ERROR_OUT_OF_MEMORY;
    module->ctx = ctx->owner;
    module->image = image;
    module->library = library;
    module->functions = calloc(image->function_count + 1u, sizeof *module->functions);
    module->references = calloc(image->symbol_count + 1u, sizeof *module->references);
    CUresult result =
        module->functions && module->references ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS)
        result = sim_context_module_bytes(module->ctx, (int64_t)image->bytes);
    if (result == CUDA_SUCCESS) {
        module->charged = (int64_t)image->bytes;
        result = make_data(module);
    }
    if (result != CUDA_SUCCESS) {
        if (module->charged)
            sim_context_module_bytes(module->ctx, -module->charged);
        free(module->functions);
        free(module->references);
        sim_slots_give(&sim_module_slots, module);
        return result;
    }
    sim_image_hold(image);
    link_module(module);
    sim_slots_publish(module);
    *out = module;
    return CUDA_SUCCESS;
}

void sim_module_unload(struct sim_module *module) {
    struct sim_context *ctx = module->ctx;

    sim_exec_drain(ctx->dev);
    if (module->library)
        sim_library_forget(module);
    unlink_module(module);
    for (uint32_t i = 0; i < module->image->function_count; i++) {
        struct sim_function *function = module->functions[i];
        if (!function)
            continue;
        free(function->legacy);
        sim_slots_give(&sim_function_slots, function);
    }
    for (uint32_t i = 0; i < module->image->symbol_count; i++)
        sim_texture_ref_free(module->references[i]);
    free(module->functions);
    free(module->references);
    if (module->data)
        sim_device_free_internal(ctx, module->data);
    if (module->charged)
        sim_context_module_bytes(ctx, -module->charged);
    sim_image_release(module->image);
    sim_slots_give(&sim_module_slots, module);
}

CUresult sim_module_load_data(const void *data, size_t size, struct sim_jit *jit,
                              CUmodule *handle) {
    struct sim_context *ctx;
    struct sim_image *image;
    struct sim_module *module;

    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!data || !handle)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_MODULE_LOAD);
    result = sim_jit_parse(data, size, sim_device_cc(ctx->dev), false, jit, &image);
    if (result != CUDA_SUCCESS)
        return result;
    result = sim_module_load(ctx, image, NULL, &module);
    sim_image_release(image);
    if (result == CUDA_SUCCESS)
        *handle = (CUmodule)module;
    return result;
}

CUresult sim_module_load_own(const char *ptx, CUmodule *handle) {
    struct sim_context *ctx;
    struct sim_image *image;
    struct sim_module *module;

    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        result = sim_jit_parse(ptx, SIZE_MAX, sim_device_cc(ctx->dev), false, NULL, &image);
    if (result != CUDA_SUCCESS)
        return result;
    image->bytes = 0;
    result = sim_module_load(ctx, image, NULL, &module);
    sim_image_release(image);
    if (result == CUDA_SUCCESS)
        *handle = (CUmodule)module;
    return result;
}

CUresult CUDAAPI cuModuleLoadData(CUmodule *module, const void *image) {
    return sim_module_load_data(image, SIZE_MAX, NULL, module);
}

CUresult CUDAAPI cuModuleLoadFatBinary(CUmodule *module, const void *fatbin) {
    return sim_module_load_data(fatbin, SIZE_MAX, NULL, module);
}

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int count,
                                    CUjit_option *options, void **values) {
    struct sim_jit jit;
    CUresult result = sim_ready();

    if (result == CUDA_SUCCESS)
        result = sim_jit_read(&jit, count, options, values);
    return result == CUDA_SUCCESS ? sim_module_load_data(image, SIZE_MAX, &jit, module) : result;
}

CUresult CUDAAPI cuModuleLoad(CUmodule *module, const char *path) {
    struct sim_context *ctx;
    void *data;
    size_t bytes;

    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!module || !path)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_read_file(path, &data, &bytes);
    if (result != CUDA_SUCCESS)
        return result;
    result = sim_module_load_data(data, bytes, NULL, module);
    free(data);
    return result;
}

CUresult CUDAAPI cuModuleUnload(CUmodule handle) {
    struct sim_context *ctx;

    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_module *module = sim_module_get(handle);
    if (!module)
        return CUDA_ERROR_INVALID_HANDLE;
    if (module->library)
        return CUDA_ERROR_NOT_PERMITTED;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(ctx->dev, SIM_COST_MODULE_UNLOAD);
    sim_module_unload(module);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleGetLoadingMode(CUmoduleLoadingMode *mode) {
    const char *wish = getenv("CUDA_MODULE_LOADING");

    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!mode)
        return CUDA_ERROR_INVALID_VALUE;
    *mode = wish && !strcmp(wish, "EAGER") ? CU_MODULE_EAGER_LOADING : CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

/* ---- Functions ----------------------------------------------------------------------------- */

/* A kernel of that name takes the time that its first parameter says. In C++ the name is mangled,
 * and so are those of compilers that name their kernels after the Python function. */
static bool is_spin(const struct sim_image_function *image) {
    static const char name[] = "aliquot_spin_ns", mangled[] = "15aliquot_spin_ns";

    if (!image->param_count || (image->params[0].size != 8 && image->params[0].size != 4))
        return false;
    return !strcmp(image->name, name) ||
           (image->name[0] == '_' && image->name[1] == 'Z' && strstr(image->name, mangled));
}

/* Largest block that the device can run of a kernel: its registers are given out to warps in
 * units, and 65,536 is what a multiprocessor of every supported generation has. */
static uint32_t largest_block(const struct sim_image_function *image) {
    uint32_t most = 1024, per_warp = (image->registers * 32 + 255) & ~255u;

    if (per_warp) {
        uint32_t warps = 65536 / per_warp & ~3u;
        if (warps * 32 < most)
            most = warps ? warps * 32 : 32;
    }
    return image->max_threads && image->max_threads < most ? image->max_threads : most;
}

void sim_function_start(struct sim_function *function, const struct sim_image_function *image,
                        CUdevice dev) {
    int block_shared = 0;

    memset(function, 0, sizeof *function);
    function->image = image;
    function->kept_name = sim_record_name(image->name);
    function->params = image->params;
    function->param_count = image->param_count;
    function->param_bytes = image->param_bytes;
    function->max_threads = largest_block(image);
    function->shared_bytes = image->shared_bytes;
    function->spin = is_spin(image);
    function->carveout = -1;
    memcpy(function->cluster, image->cluster, sizeof function->cluster);
    sim_device_attribute(dev, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, &block_shared);
    if ((uint32_t)block_shared > image->shared_bytes)
        function->dynamic_shared_max = (uint32_t)block_shared - image->shared_bytes;
}

static struct sim_function *make_function(struct sim_module *module, uint32_t index) {
    struct sim_function *function = sim_slots_take(&sim_function_slots);

    if (!function)
        return NULL;
    sim_function_start(function, &module->image->functions[index], module->ctx->dev);
    function->index = index;
    function->ctx = module->ctx;
    function->module = module;
    if (module->library)
        sim_kernel_attach(function);
    return function;
}

CUresult sim_module_function(struct sim_module *module, uint32_t index, struct sim_function **out) {
    struct sim_function **slot = &module->functions[index];
    /* Acquire pairs with the release below. */
    struct sim_function *function = __atomic_load_n(slot, __ATOMIC_ACQUIRE);

    if (!function) {
        pthread_mutex_lock(&sim_module_lock);
        function = *slot;
        if (!function) {
            function = make_function(module, index);
            if (function) {
                sim_slots_publish(function);
                /* Release: who finds it here sees it whole. */
                __atomic_store_n(slot, function, __ATOMIC_RELEASE);
            }
        }
        pthread_mutex_unlock(&sim_module_lock);
    }
    *out = function;
    return function ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* What the look-ups share: initialised, a context, a living module. */
static CUresult enter_module(CUmodule handle, struct sim_module **module) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    *module = sim_module_get(handle);
    return *module ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction *out, CUmodule handle, const char *name) {
    struct sim_module *module;
    struct sim_function *function;

    CUresult result = enter_module(handle, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !name)
        return CUDA_ERROR_INVALID_VALUE;
    int64_t index = sim_image_find_function(module->image, name);
    if (index < 0)
        return CUDA_ERROR_NOT_FOUND;
    result = sim_module_function(module, (uint32_t)index, &function);
    if (result == CUDA_SUCCESS)
        *out = (CUfunction)function;
    return result;
}

CUresult CUDAAPI cuModuleGetFunctionCount(unsigned int *count, CUmodule handle) {
    struct sim_module *module;

    CUresult result = enter_module(handle, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = module->image->function_count;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleEnumerateFunctions(CUfunction *functions, unsigned int room,
                                            CUmodule handle) {
    struct sim_module *module;
    struct sim_function *function;

    CUresult result = enter_module(handle, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (!functions || !room)
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; i < module->image->function_count && i < room; i++) {
        result = sim_module_function(module, i, &function);
        if (result != CUDA_SUCCESS)
            return result;
        functions[i] = (CUfunction)function;
    }
    return CUDA_SUCCESS;
}

/* ---- Variables ----------------------------------------------------------------------------- */

CUresult sim_module_variable(struct sim_module *module, const char *name, CUdeviceptr *address,
                             size_t *bytes) {
    int64_t index = sim_image_find_symbol(module->image, name);

    if (index < 0)
        return CUDA_ERROR_NOT_FOUND;
    const struct sim_image_symbol *symbol = &module->image->symbols[index];
    if (symbol->kind > SIM_SYMBOL_MANAGED)
        return CUDA_ERROR_NOT_FOUND;
    if (address)
        *address = module->data + symbol->offset;
    if (bytes)
        *bytes = symbol->size;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleGetGlobal_v2(CUdeviceptr *address, size_t *bytes, CUmodule handle,
                                      const char *name) {
    struct sim_module *module;

    CUresult result = enter_module(handle, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (!name || (!address && !bytes))
        return CUDA_ERROR_INVALID_VALUE;
    return sim_module_variable(module, name, address, bytes);
}

static CUresult find_reference(CUmodule handle, const char *name, enum sim_symbol_kind kind,
                               struct sim_texture_ref **out) {
    struct sim_module *module;

    CUresult result = enter_module(handle, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !name)
        return CUDA_ERROR_INVALID_VALUE;
    int64_t index = sim_image_find_symbol(module->image, name);
    if (index < 0 || module->image->symbols[index].kind != kind)
        return CUDA_ERROR_NOT_FOUND;
    struct sim_texture_ref **slot = &module->references[index];
    pthread_mutex_lock(&sim_module_lock);
    result = *slot ? CUDA_SUCCESS : sim_texture_ref_make(module, slot);
    *out = *slot;
    pthread_mutex_unlock(&sim_module_lock);
    return result;
}

CUresult CUDAAPI cuModuleGetTexRef(CUtexref *reference, CUmodule module, const char *name) {
    return find_reference(module, name, SIM_SYMBOL_TEXREF, (struct sim_texture_ref **)reference);
}

CUresult CUDAAPI cuModuleGetSurfRef(CUsurfref *reference, CUmodule module, const char *name) {
    return find_reference(module, name, SIM_SYMBOL_SURFREF, (struct sim_texture_ref **)reference);
}
