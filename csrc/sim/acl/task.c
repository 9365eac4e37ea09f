/* Launches whose arguments come in other ways, and work that is no kernel of the program's: of the AI CPUs,
 * and tasks that the device is told word by word. Of those only that there are some is known: each takes
 * the time of a kernel of one block. */
#include "acl_sim.h"

/* -- By a handle ---------------------------------------------------------------------------------- */

rtError_t rtLaunchKernelByFuncHandleV2(rtFuncHandle function, uint32_t blocks,
                                       rtLaunchArgsHandle args, rtStream_t stream,
                                       const void *config) {
    (void)config;
    const void *given = acl_args_of(args);
    return given ? acl_launch(function, blocks, given, stream) : RT_PARAM_INVALID;
}

rtError_t rtLaunchKernelByFuncHandle(rtFuncHandle function, uint32_t blocks,
                                     rtLaunchArgsHandle args, rtStream_t stream) {
    return rtLaunchKernelByFuncHandleV2(function, blocks, args, stream, NULL);
}

/* How many blocks there are the configuration would tell: one. */
rtError_t rtLaunchKernelExByFuncHandle(rtFuncHandle function, void *config, rtLaunchArgsHandle args,
                                       rtStream_t stream) {
    return config ? rtLaunchKernelByFuncHandleV2(function, 1, args, stream, config)
                  : RT_PARAM_INVALID;
}

rtError_t rtsLaunchKernelWithConfig(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                    void *config, void *args, void *reserve) {
    return reserve ? RT_PARAM_INVALID
                   : rtLaunchKernelByFuncHandleV2(function, blocks, args, stream, config);
}

rtError_t rtLaunchKernelWithArgsArray(void *function, uint32_t blocks, rtStream_t stream,
                                      void *config, void **args) {
    (void)config;
    return acl_launch(function, blocks, args ? args[0] : NULL, stream);
}

/* Threads of a grid: each of its blocks is one. */
static rtError_t launch_grid(const void *function, rtDim3 grid, rtDim3 block, const void *args,
                             rtStream_t stream) {
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (!blocks || blocks > UINT32_MAX || !block.x || !block.y || !block.z)
        return RT_PARAM_INVALID;
    return acl_launch(function, (uint32_t)blocks, args, stream);
}

rtError_t rtLaunchSIMTKernelWithArgsArray(void *function, rtDim3 grid, rtDim3 block, size_t shared,
                                          rtStream_t stream, void *config, void **args) {
    (void)shared;
    (void)config;
    return launch_grid(function, grid, block, args ? args[0] : NULL, stream);
}

rtError_t rtLaunchSIMTKernelWithHostArgs(void *function, rtDim3 grid, rtDim3 block, size_t shared,
                                         rtStream_t stream, void *config, void *args, size_t size,
                                         void *holders, size_t count) {
    (void)shared;
    (void)config;
    (void)holders;
    (void)count;
    return launch_grid(function, grid, block, size >= sizeof(uint64_t) ? args : NULL, stream);
}

/* -- On the AI CPUs ----------------------------------------------------------------------------------- */

rtError_t rtKernelLaunchFwk(const char *name, void *args, uint32_t size, uint32_t flags,
                            rtStream_t stream) {
    (void)flags;
    return acl_launch_named(name, 1, size >= sizeof(uint64_t) ? args : NULL, stream);
}

rtError_t rtKernelLaunchEx(void *args, uint32_t size, uint32_t flags, rtStream_t stream) {
    return args && size ? rtKernelLaunchFwk("cpu", args, size, flags, stream) : RT_PARAM_INVALID;
}

rtError_t rtCpuKernelLaunchWithFlag(const void *library, const void *name, uint32_t blocks,
                                    const rtArgsEx_t *args, void *shared, rtStream_t stream,
                                    uint32_t flags) {
    (void)library;
    (void)shared;
    (void)flags;
    return args ? acl_launch_named(name, blocks, args->args, stream) : RT_PARAM_INVALID;
}

rtError_t rtAicpuKernelLaunchWithFlag(const void *names, uint32_t blocks, const rtArgsEx_t *args,
                                      void *shared, rtStream_t stream, uint32_t flags) {
    const struct { const char *library, *kernel, *operator; } *of = names;
    return of ? rtCpuKernelLaunchWithFlag(of->library, of->kernel, blocks, args, shared, stream,
                                          flags)
              : RT_PARAM_INVALID;
}

/* (What describes the arguments begins with them here, too.) */
rtError_t rtAicpuKernelLaunchExWithArgs(const uint32_t type, const char *const name,
                                        const uint32_t blocks, const void *args, void *shared,
                                        const rtStream_t stream, const uint32_t flags) {
    (void)type;
    return rtCpuKernelLaunchWithFlag(NULL, name, blocks, args, shared, stream, flags);
}

/* -- Tasks ------------------------------------------------------------------------------------------------ */

static rtError_t put(const char *name, const void *task, rtStream_t stream) {
    return task ? acl_launch_named(name, 1, NULL, stream) : RT_PARAM_INVALID;
}

rtError_t rtFftsPlusTaskLaunchWithFlag(void *task, rtStream_t stream, uint32_t flag) {
    (void)flag;
    return put("ffts", task, stream);
}
rtError_t rtFftsPlusTaskLaunch(void *task, rtStream_t stream) {
    return rtFftsPlusTaskLaunchWithFlag(task, stream, 0);
}

rtError_t rtStarsTaskLaunchWithFlag(const void *task, uint32_t size, rtStream_t stream,
                                    uint32_t flag) {
    (void)flag;
    return size ? put("stars", task, stream) : RT_PARAM_INVALID;
}
rtError_t rtStarsTaskLaunch(const void *task, uint32_t size, rtStream_t stream) {
    return rtStarsTaskLaunchWithFlag(task, size, stream, 0);
}

rtError_t rtMultipleTaskInfoLaunch(const void *tasks, rtStream_t stream) {
    return put("tasks", tasks, stream);
}

rtError_t rtsLaunchRandomNumTask(const void *task, const rtStream_t stream, void *reserve) {
    return reserve ? RT_PARAM_INVALID : put("random", task, stream);
}

rtError_t rtsLaunchReduceAsyncTask(const void *task, const rtStream_t stream, void *reserve) {
    return reserve ? RT_PARAM_INVALID : put("reduce", task, stream);
}
