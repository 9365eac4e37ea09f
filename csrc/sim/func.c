/* Functions and kernels: attributes, parameters, names, and the setting of legacy launches. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

static uint32_t load(const uint32_t *word) {
    /* Relaxed, as all attributes: each stands for itself. */
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static void store(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static int device_number(CUdevice dev, CUdevice_attribute attribute) {
    int value = 0;
    sim_device_attribute(dev, attribute, &value);
    return value;
}

/* ---- Attributes ---------------------------------------------------------------------------- */

/* What is the same in every context: of the image. False when the attribute is not of that kind. */
static bool read_static(const struct sim_image_function *image, CUfunction_attribute attribute,
                        int *value) {
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = (int)image->shared_bytes;
        return true;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
        *value = (int)image->const_bytes;
        return true;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *value = (int)image->local_bytes;
        return true;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = (int)image->registers;
        return true;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        *value = image->ptx_version;
        return true;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = image->binary_version;
        return true;
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
    case CU_FUNC_ATTRIBUTE_DEVICE_NODE_UPDATE_SUPPORTED:
        *value = 0;
        return true;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
        *value = image->cluster_must_be_set;
        return true;
    default:
        return false;
    }
}

CUresult sim_function_read(const struct sim_function *function, CUfunction_attribute attribute,
                           int *value) {
    if (read_static(function->image, attribute, value))
        return CUDA_SUCCESS;
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = (int)function->max_threads;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = (int)load(&function->dynamic_shared_max);
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        *value = __atomic_load_n(&function->carveout, __ATOMIC_RELAXED);
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        *value =
            (int)load(&function->cluster[attribute - CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH]);
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        *value = __atomic_load_n(&function->nonportable_cluster, __ATOMIC_RELAXED);
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        *value = __atomic_load_n(&function->cluster_policy, __ATOMIC_RELAXED);
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* Whether `value` may be set for an attribute of a kernel on a device. */
static CUresult check_setting(const struct sim_image_function *image, CUdevice dev,
                              CUfunction_attribute attribute, int value) {
    bool good = false;

    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        good = value >= 0 &&
               value + (int64_t)image->shared_bytes <=
                   device_number(dev, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        good = value >= -1 && value <= 100;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        if (image->cluster[0]) /* the kernel was compiled for another size */
            return CUDA_ERROR_NOT_PERMITTED;
        good = value >= 0;
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        good = value == 0 || value == 1;
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        good = value >= CU_CLUSTER_SCHEDULING_POLICY_DEFAULT &&
               value <= CU_CLUSTER_SCHEDULING_POLICY_LOAD_BALANCING;
        break;
    default:
        break;
    }
    return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_function_set(struct sim_function *function, CUfunction_attribute attribute,
                          int value) {
    CUresult result = check_setting(function->image, function->ctx->dev, attribute, value);

    if (result != CUDA_SUCCESS)
        return result;
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        store(&function->dynamic_shared_max, (uint32_t)value);
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        __atomic_store_n(&function->carveout, (int8_t)value, __ATOMIC_RELAXED);
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        __atomic_store_n(&function->nonportable_cluster, value == 1, __ATOMIC_RELAXED);
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        __atomic_store_n(&function->cluster_policy, (uint8_t)value, __ATOMIC_RELAXED);
        break;
    default:
        store(&function->cluster[attribute - CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH],
              (uint32_t)value);
        break;
    }
    return CUDA_SUCCESS;
}

/* The function behind a handle, in the context that it belongs to; a kernel's is that of the
 * current context. */
static CUresult enter_function(CUfunction handle, struct sim_function **function) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    *function = sim_slots_get(&sim_function_slots, handle);
    return *function ? CUDA_SUCCESS : sim_function_resolve(ctx, handle, function);
}

CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction handle) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    return value ? sim_function_read(function, attribute, value) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    return result == CUDA_SUCCESS ? sim_function_set(function, attribute, value) : result;
}

/* Hints about caches change no time that the simulator knows of: they are checked and taken. */
CUresult CUDAAPI cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache config) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    return config >= CU_FUNC_CACHE_PREFER_NONE && config <= CU_FUNC_CACHE_PREFER_EQUAL
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuFuncSetSharedMemConfig(CUfunction handle, CUsharedconfig config) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    return config >= CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE &&
                   config <= CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}

/* ---- What a function is -------------------------------------------------------------------- */

CUresult CUDAAPI cuFuncGetModule(CUmodule *module, CUfunction handle) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (!module)
        return CUDA_ERROR_INVALID_VALUE;
    *module = (CUmodule)function->module;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetName(const char **name, CUfunction handle) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (!name)
        return CUDA_ERROR_INVALID_VALUE;
    *name = function->image->name;
    return CUDA_SUCCESS;
}

static CUresult param_info(const struct sim_image_function *image, size_t index, size_t *offset,
                           size_t *size) {
    if (!offset || index >= image->param_count)
        return CUDA_ERROR_INVALID_VALUE;
    *offset = image->params[index].offset;
    if (size)
        *size = image->params[index].size;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetParamInfo(CUfunction handle, size_t index, size_t *offset, size_t *size) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    return result == CUDA_SUCCESS ? param_info(function->image, index, offset, size) : result;
}

CUresult CUDAAPI cuFuncGetParamCount(CUfunction handle, size_t *count) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = function->param_count;
    return CUDA_SUCCESS;
}

/* Every function is loaded with its module: the simulator loads eagerly. */
CUresult CUDAAPI cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction handle) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (!state)
        return CUDA_ERROR_INVALID_VALUE;
    *state = CU_FUNCTION_LOADING_STATE_LOADED;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncLoad(CUfunction handle) {
    struct sim_function *function;

    return enter_function(handle, &function);
}

/* ---- Kernels ------------------------------------------------------------------------------- */

static CUresult ready_kernel(CUkernel handle, struct sim_kernel **kernel) {
    CUresult result = sim_ready();

    if (result != CUDA_SUCCESS)
        return result;
    *kernel = sim_kernel_get(handle);
    return *kernel ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuKernelGetFunction(CUfunction *out, CUkernel handle) {
    struct sim_kernel *kernel;
    struct sim_context *ctx;
    struct sim_function *function;

    CUresult result = ready_kernel(handle, &kernel);
    if (result == CUDA_SUCCESS)
        result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_function_resolve(ctx, (CUfunction)handle, &function);
    if (result == CUDA_SUCCESS)
        *out = (CUfunction)function;
    return result;
}

CUresult CUDAAPI cuKernelGetLibrary(CUlibrary *library, CUkernel handle) {
    struct sim_kernel *kernel;

    CUresult result = ready_kernel(handle, &kernel);
    if (result != CUDA_SUCCESS)
        return result;
    if (!library)
        return CUDA_ERROR_INVALID_VALUE;
    *library = (CUlibrary)kernel->library;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuKernelGetName(const char **name, CUkernel handle) {
    struct sim_kernel *kernel;

    CUresult result = ready_kernel(handle, &kernel);
    if (result != CUDA_SUCCESS)
        return result;
    if (!name)
        return CUDA_ERROR_INVALID_VALUE;
    *name = kernel->name;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuKernelGetParamInfo(CUkernel handle, size_t index, size_t *offset, size_t *size) {
    struct sim_kernel *kernel;

    CUresult result = ready_kernel(handle, &kernel);
    if (result != CUDA_SUCCESS)
        return result;
    return param_info(sim_kernel_image(kernel, -1), index, offset, size);
}

CUresult CUDAAPI cuKernelGetParamCount(CUkernel handle, size_t *count) {
    struct sim_kernel *kernel;

    CUresult result = ready_kernel(handle, &kernel);
    if (result != CUDA_SUCCESS)
        return result;
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = sim_kernel_image(kernel, -1)->param_count;
    return CUDA_SUCCESS;
}

/* A kernel on a device, for the calls that name both. */
static CUresult ready_kernel_on(CUkernel handle, CUdevice dev, struct sim_kernel **kernel,
                                const struct sim_image_function **image) {
    CUresult result = ready_kernel(handle, kernel);

    if (result != CUDA_SUCCESS)
        return result;
    if (dev < 0 || dev >= sim_device_count())
        return CUDA_ERROR_INVALID_DEVICE;
    *image = sim_kernel_image(*kernel, dev);
    return *image ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

CUresult CUDAAPI cuKernelGetAttribute(int *value, CUfunction_attribute attribute, CUkernel handle,
                                      CUdevice dev) {
    const struct sim_image_function *image;
    struct sim_kernel *kernel;

    CUresult result = ready_kernel_on(handle, dev, &kernel, &image);
    if (result != CUDA_SUCCESS)
        return result;
    if (!value)
        return CUDA_ERROR_INVALID_VALUE;
    if (read_static(image, attribute, value))
        return CUDA_SUCCESS;
    /* A function of no context, as it would be made on that device. */
    struct sim_context nowhere = {.dev = dev};
    struct sim_function function;
    sim_function_start(&function, image, dev);
    function.ctx = &nowhere;
    pthread_mutex_lock(&sim_module_lock);
    sim_kernel_apply(kernel, &function);
    pthread_mutex_unlock(&sim_module_lock);
    return sim_function_read(&function, attribute, value);
}

CUresult CUDAAPI cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel handle,
                                      CUdevice dev) {
    const struct sim_image_function *image;
    struct sim_kernel *kernel;

    CUresult result = ready_kernel_on(handle, dev, &kernel, &image);
    if (result == CUDA_SUCCESS)
        result = check_setting(image, dev, attribute, value);
    return result == CUDA_SUCCESS ? sim_kernel_set(kernel, dev, attribute, value) : result;
}

CUresult CUDAAPI cuKernelSetCacheConfig(CUkernel handle, CUfunc_cache config, CUdevice dev) {
    const struct sim_image_function *image;
    struct sim_kernel *kernel;

    CUresult result = ready_kernel_on(handle, dev, &kernel, &image);
    if (result != CUDA_SUCCESS)
        return result;
    return config >= CU_FUNC_CACHE_PREFER_NONE && config <= CU_FUNC_CACHE_PREFER_EQUAL
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}

/* ---- The launch of CUDA before 4.0 --------------------------------------------------------- */

static CUresult enter_legacy(CUfunction handle, struct sim_function_legacy **legacy) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (!function->legacy) {
        function->legacy = calloc(1, sizeof *function->legacy);
        if (!function->legacy)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *legacy = function->legacy;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncSetBlockShape(CUfunction handle, int x, int y, int z) {
    struct sim_function_legacy *legacy;

    CUresult result = enter_legacy(handle, &legacy);
    if (result != CUDA_SUCCESS)
        return result;
    if (x <= 0 || y <= 0 || z <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    legacy->block[0] = (uint32_t)x;
    legacy->block[1] = (uint32_t)y;
    legacy->block[2] = (uint32_t)z;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncSetSharedSize(CUfunction handle, unsigned int bytes) {
    struct sim_function_legacy *legacy;

    CUresult result = enter_legacy(handle, &legacy);
    if (result == CUDA_SUCCESS)
        legacy->dynamic_shared = bytes;
    return result;
}

CUresult CUDAAPI cuParamSetSize(CUfunction handle, unsigned int bytes) {
    struct sim_function_legacy *legacy;

    CUresult result = enter_legacy(handle, &legacy);
    if (result != CUDA_SUCCESS)
        return result;
    if (bytes > sizeof legacy->params)
        return CUDA_ERROR_INVALID_VALUE;
    legacy->param_bytes = bytes;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuParamSetv(CUfunction handle, int offset, void *from, unsigned int bytes) {
    struct sim_function_legacy *legacy;

    CUresult result = enter_legacy(handle, &legacy);
    if (result != CUDA_SUCCESS)
        return result;
    if (!from || offset < 0 || bytes > sizeof legacy->params ||
        (size_t)offset > sizeof legacy->params - bytes)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(legacy->params + offset, from, bytes);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuParamSeti(CUfunction handle, int offset, unsigned int value) {
    return cuParamSetv(handle, offset, &value, sizeof value);
}

CUresult CUDAAPI cuParamSetf(CUfunction handle, int offset, float value) {
    return cuParamSetv(handle, offset, &value, sizeof value);
}

/* A texture reference is part of its module: naming it again changes nothing. */
CUresult CUDAAPI cuParamSetTexRef(CUfunction handle, int unit, CUtexref reference) {
    struct sim_function *function;

    CUresult result = enter_function(handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    return unit == CU_PARAM_TR_DEFAULT && sim_texture_ref_check(reference)
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}
