/* Code of operators, and launches. A kernel takes the time that its model says for its blocks; one that
 * is called aliquot_spin_ns takes as many nanoseconds as the 64 bits say that its arguments begin with.
 */
#include "acl_sim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME = 128 };
#define SPIN "aliquot_spin_ns"
/* Three days: sums of whole queues of such kernels do not overflow. */
#define LONGEST_NS (UINT64_C(1) << 48)

/* A function by its name: those that are registered by an address of the program's, and those that are
 * asked for by name. Never freed: launches that are queued show the name. */
struct function {
    const void *stub; /* NULL: none */
    void *binary;
    char name[NAME];
    struct function *next;
};
static struct function *_Atomic functions;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* A program's code: nothing is known of it but that it is there. */
struct binary {
    int nothing;
};

static rtError_t new_binary(void **handle) {
    struct binary *binary = handle ? calloc(1, sizeof *binary) : NULL;
    if (!binary)
        return handle ? RT_INTERNAL_ERROR : RT_PARAM_INVALID;
    *handle = binary;
    return RT_OK;
}

static rtError_t add(const void *stub, void *binary, const char *name, struct function **made) {
    if (!binary || !name || strlen(name) >= NAME)
        return RT_PARAM_INVALID;
    struct function *function = calloc(1, sizeof *function);
    if (!function)
        return RT_INTERNAL_ERROR;
    function->stub = stub;
    function->binary = binary;
    strcpy(function->name, name);
    pthread_mutex_lock(&lock);
    function->next = atomic_load_explicit(&functions, memory_order_relaxed);
    /* Release pairs with the acquire of find: the function is whole. */
    atomic_store_explicit(&functions, function, memory_order_release);
    pthread_mutex_unlock(&lock);
    if (made)
        *made = function;
    return RT_OK;
}

/* The function with that address, or that is one itself; NULL: none. */
static const struct function *find(const void *which, bool stub) {
    const struct function *function = atomic_load_explicit(&functions, memory_order_acquire);
    while (function && (stub ? function->stub : (const void *)function) != which)
        function = function->next;
    return function;
}

rtError_t rtDevBinaryRegister(const rtDevBinary_t *binary, void **handle) {
    rtError_t result = acl_begin();
    if (result == RT_OK && (!binary || !binary->data || !binary->length))
        result = RT_PARAM_INVALID;
    return result == RT_OK ? new_binary(handle) : result;
}

rtError_t rtDevBinaryUnRegister(void *handle) {
    return handle ? RT_OK : RT_PARAM_INVALID; /* kept for those that are under way */
}

rtError_t rtFunctionRegister(void *handle, const void *stub, const char *name, const void *info,
                             uint32_t mode) {
    (void)info;
    (void)mode;
    return stub ? add(stub, handle, name, NULL) : RT_PARAM_INVALID;
}

rtError_t rtsBinaryLoadFromFile(const char *path, const void *config, rtBinHandle *handle) {
    (void)config;
    rtError_t result = acl_enter(NULL);
    if (result == RT_OK && (!path || access(path, R_OK) != 0))
        result = RT_PARAM_INVALID;
    return result == RT_OK ? new_binary(handle) : result;
}

rtError_t rtBinaryUnLoad(rtBinHandle handle) { return handle ? RT_OK : RT_PARAM_INVALID; }

rtError_t rtsFuncGetByName(const rtBinHandle handle, const char *name, rtFuncHandle *function) {
    return function ? add(NULL, handle, name, (struct function **)function) : RT_PARAM_INVALID;
}

/* -- Launches -------------------------------------------------------------------------------------- */

static rtError_t launch(const struct function *function, uint32_t blocks, const void *args,
                        rtStream_t stream) {
    int32_t device;
    rtError_t result = acl_enter(&device);
    if (result != RT_OK)
        return result;
    if (!function || !blocks)
        return RT_PARAM_INVALID;
    const struct sim_device_config *config = sim_device_config(device);
    struct acl_work work = {.kind = ACL_KERNEL};
    struct sim_op *op = &work.kernel;
    *op = (struct sim_op){.kind = SIM_OP_KERNEL, .kernel = {.name = function->name}};
    op->sms = blocks < config->sms ? blocks : config->sms;
    if (!strcmp(function->name, SPIN)) {
        if (!args)
            return RT_PARAM_INVALID;
        memcpy(&op->ns, args, sizeof op->ns);
        op->ns = op->ns < LONGEST_NS ? op->ns : LONGEST_NS;
    } else {
        uint64_t waves = (blocks + (uint64_t)config->sms - 1) / config->sms;
        op->ns = config->kernel_ns + (waves - 1) * config->wave_ns;
    }
    return acl_submit(&work, stream);
}

/* The function of that name that nobody has registered, made when it is first asked for. */
static const struct function *named(const char *name) {
    static struct binary nobody;
    const struct function *function = atomic_load_explicit(&functions, memory_order_acquire);
    while (function && (function->binary != &nobody || strcmp(function->name, name) != 0))
        function = function->next;
    struct function *made = NULL;
    if (!function && add(NULL, &nobody, name, &made) == RT_OK)
        function = made;
    return function;
}

rtError_t acl_launch_named(const char *name, uint32_t blocks, const void *args, rtStream_t stream) {
    return name && *name ? launch(named(name), blocks, args, stream) : RT_PARAM_INVALID;
}

rtError_t acl_launch(const void *which, uint32_t blocks, const void *args, rtStream_t stream) {
    const struct function *function = which ? find(which, true) : NULL;
    return launch(function ? function : find(which, false), blocks, args, stream);
}

/* In two steps: what the thread's next launch is like. */
static _Thread_local struct {
    uint32_t blocks;
    rtStream_t stream;
    uint64_t args;
} next_launch;

rtError_t rtConfigureCall(uint32_t blocks, void *shared, rtStream_t stream) {
    (void)shared;
    next_launch.blocks = blocks;
    next_launch.stream = stream;
    return blocks ? RT_OK : RT_PARAM_INVALID;
}

rtError_t rtSetupArgument(const void *args, uint32_t size, uint32_t offset) {
    if (!args || offset || size < sizeof next_launch.args)
        return RT_PARAM_INVALID;
    memcpy(&next_launch.args, args, sizeof next_launch.args);
    return RT_OK;
}

rtError_t rtLaunch(const void *stub) {
    return launch(find(stub, true), next_launch.blocks, &next_launch.args, next_launch.stream);
}

rtError_t rtKernelLaunch(const void *stub, uint32_t blocks, void *args, uint32_t size, void *shared,
                         rtStream_t stream) {
    (void)shared;
    return launch(find(stub, true), blocks, size >= sizeof(uint64_t) ? args : NULL, stream);
}

static const void *args_of(const rtArgsEx_t *args) { return args ? args->args : NULL; }

rtError_t rtKernelLaunchWithFlagV2(const void *stub, uint32_t blocks, rtArgsEx_t *args,
                                   void *shared, rtStream_t stream, uint32_t flags,
                                   const void *config) {
    (void)shared;
    (void)flags;
    (void)config;
    return launch(find(stub, true), blocks, args_of(args), stream);
}

rtError_t rtKernelLaunchWithFlag(const void *stub, uint32_t blocks, rtArgsEx_t *args, void *shared,
                                 rtStream_t stream, uint32_t flags) {
    return rtKernelLaunchWithFlagV2(stub, blocks, args, shared, stream, flags, NULL);
}

/* Any function of the binary: which one, the key would tell. */
rtError_t rtKernelLaunchWithHandleV2(void *handle, const uint64_t key, uint32_t blocks,
                                     rtArgsEx_t *args, void *shared, rtStream_t stream,
                                     const void *config) {
    (void)key;
    (void)shared;
    (void)config;
    const struct function *function = atomic_load_explicit(&functions, memory_order_acquire);
    while (function && function->binary != handle)
        function = function->next;
    return launch(function, blocks, args_of(args), stream);
}

rtError_t rtKernelLaunchWithHandle(void *handle, const uint64_t key, uint32_t blocks,
                                   rtArgsEx_t *args, void *shared, rtStream_t stream,
                                   const void *info) {
    (void)info;
    return rtKernelLaunchWithHandleV2(handle, key, blocks, args, shared, stream, NULL);
}

/* On the vector cores, of which nothing else is known here. */
rtError_t rtVectorCoreKernelLaunch(const void *stub, uint32_t blocks, rtArgsEx_t *args,
                                   void *shared, rtStream_t stream, uint32_t flags,
                                   const void *config) {
    return rtKernelLaunchWithFlagV2(stub, blocks, args, shared, stream, flags, config);
}

rtError_t rtVectorCoreKernelLaunchWithHandle(void *handle, const uint64_t key, uint32_t blocks,
                                             rtArgsEx_t *args, void *shared, rtStream_t stream,
                                             const void *config) {
    return rtKernelLaunchWithHandleV2(handle, key, blocks, args, shared, stream, config);
}

rtError_t rtLaunchKernelByFuncHandleV3(rtFuncHandle function, uint32_t blocks,
                                       const rtArgsEx_t *args, rtStream_t stream,
                                       const void *config) {
    (void)config;
    return launch(find(function, false), blocks, args_of(args), stream);
}

rtError_t rtsLaunchKernelWithDevArgs(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                     void *config, const void *args, uint32_t size, void *reserve) {
    (void)config;
    (void)reserve;
    return launch(find(function, false), blocks, size >= sizeof(uint64_t) ? args : NULL, stream);
}

rtError_t rtsLaunchKernelWithHostArgs(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                      void *config, void *args, uint32_t size, void *holders,
                                      uint32_t count) {
    (void)config;
    (void)holders;
    (void)count;
    return launch(find(function, false), blocks, size >= sizeof(uint64_t) ? args : NULL, stream);
}
