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

/* How many blocks there are its configuration tells. */
rtError_t rtLaunchKernelExByFuncHandle(rtFuncHandle function, void *config, rtLaunchArgsHandle args,
                                       rtStream_t stream) {
    enum { BLOCKS = 0 };
    const struct {
        const struct { uint32_t what, value[2]; } * attributes;
        uint32_t count;
    } *given = config;
    uint32_t blocks = 0;
    for (uint32_t i = 0; given && i < given->count; i++)
        if (given->attributes[i].what == BLOCKS)
            blocks = given->attributes[i].value[0];
    return rtLaunchKernelByFuncHandleV2(function, blocks, args, stream, config);
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

rtError_t rtCpuKernelLaunch(const void *library, const void *name, uint32_t blocks,
                            const void *args, uint32_t size, void *shared, rtStream_t stream) {
    const rtArgsEx_t all = {.args = (void *)(uintptr_t)args};
    return size >= sizeof(uint64_t)
               ? rtCpuKernelLaunchWithFlag(library, name, blocks, &all, shared, stream, 0)
               : RT_PARAM_INVALID;
}

rtError_t rtAicpuKernelLaunch(const void *names, uint32_t blocks, const void *args, uint32_t size,
                              void *shared, rtStream_t stream) {
    const rtArgsEx_t all = {.args = (void *)(uintptr_t)args};
    return size >= sizeof(uint64_t)
               ? rtAicpuKernelLaunchWithFlag(names, blocks, &all, shared, stream, 0)
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

rtError_t rtMultipleTaskInfoLaunchWithFlag(const void *tasks, rtStream_t stream,
                                           const uint32_t flag) {
    (void)flag;
    return rtMultipleTaskInfoLaunch(tasks, stream);
}

rtError_t rtFftsTaskLaunchWithFlag(void *task, rtStream_t stream, uint32_t flag) {
    (void)flag;
    return put("ffts", task, stream);
}
rtError_t rtFftsTaskLaunch(void *task, rtStream_t stream) {
    return rtFftsTaskLaunchWithFlag(task, stream, 0);
}

rtError_t rtLaunchDvppTask(const void *task, uint32_t size, rtStream_t stream, void *config) {
    (void)config;
    return size ? put("dvpp", task, stream) : RT_PARAM_INVALID;
}

rtError_t rtFusionLaunch(void *task, const rtStream_t stream, void *args) {
    return args ? put("fusion", task, stream) : RT_PARAM_INVALID;
}

/* What it moves is not known: nothing, and it takes no time. */
rtError_t rtCCULaunch(void *task, const rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    CUstream in;
    if (result == RT_OK)
        result = acl_stream(stream, &in);
    return result == RT_OK && !task ? RT_PARAM_INVALID : result;
}

/* Each calls the function that it stands for by its exported name. */
rtError_t rtGeneralCtrl(uintptr_t *words, uint32_t count, uint32_t type) {
    static const uint8_t counts[] = {
        [RT_CONTROL_COPY] = 7,     [RT_CONTROL_REDUCE] = 8,        [RT_CONTROL_FFTS_FLAG] = 3,
        [RT_CONTROL_FFTS] = 2,     [RT_CONTROL_STARS] = 3,         [RT_CONTROL_STARS_FLAG] = 4,
        [RT_CONTROL_MULTIPLE] = 2, [RT_CONTROL_MULTIPLE_FLAG] = 3,
    };
    const uintptr_t *w = words;
    if (!w || type >= sizeof counts || !counts[type] || counts[type] != count)
        return RT_PARAM_INVALID;
    switch (type) {
    case RT_CONTROL_COPY:
        return rtMemcpyAsyncWithCfg((void *)w[0], w[1], (void *)w[2], w[3], (uint32_t)w[4],
                                    (rtStream_t)w[5], (uint32_t)w[6]);
    case RT_CONTROL_REDUCE:
        return rtReduceAsyncWithCfg((void *)w[0], w[1], (void *)w[2], w[3], (uint32_t)w[4],
                                    (uint32_t)w[5], (rtStream_t)w[6], (uint32_t)w[7]);
    case RT_CONTROL_FFTS_FLAG:
        return rtFftsPlusTaskLaunchWithFlag((void *)w[0], (rtStream_t)w[1], (uint32_t)w[2]);
    case RT_CONTROL_FFTS:
        return rtFftsPlusTaskLaunch((void *)w[0], (rtStream_t)w[1]);
    case RT_CONTROL_STARS:
        return rtStarsTaskLaunch((void *)w[0], (uint32_t)w[1], (rtStream_t)w[2]);
    case RT_CONTROL_STARS_FLAG:
        return rtStarsTaskLaunchWithFlag((void *)w[0], (uint32_t)w[1], (rtStream_t)w[2],
                                         (uint32_t)w[3]);
    case RT_CONTROL_MULTIPLE:
        return rtMultipleTaskInfoLaunch((void *)w[0], (rtStream_t)w[1]);
    default:
        return rtMultipleTaskInfoLaunchWithFlag((void *)w[0], (rtStream_t)w[1], (uint32_t)w[2]);
    }
}
