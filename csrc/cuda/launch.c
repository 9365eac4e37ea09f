/* Kernels. Who has time left goes straight on to the driver, with all arguments where they are; the
 * rest is out of line.
 */
#include "time.h"

/* (Not static, so that they are called as the wrapper was, by a jump.) */
#define COLD __attribute__((noinline, cold, visibility("hidden")))

#define KERNEL_PARAMETERS                                                                          \
    CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,      \
        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **parameters
#define KERNEL_ARGUMENTS                                                                           \
    function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters
#define KERNEL aliquot_kernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z)

static inline CUresult kernel(KERNEL_PARAMETERS, void **extra, bool per_thread) {
    struct aliquot_gated gated = aliquot_hold_back(KERNEL, stream, per_thread);
    return aliquot_went(&gated, (per_thread ? REAL(cuLaunchKernel_ptsz)
                                            : REAL(cuLaunchKernel))(KERNEL_ARGUMENTS, extra));
}

COLD CUresult aliquot_held_kernel(KERNEL_PARAMETERS, void **extra);
COLD CUresult aliquot_held_kernel_ptsz(KERNEL_PARAMETERS, void **extra);

COLD CUresult aliquot_held_kernel(KERNEL_PARAMETERS, void **extra) {
    return kernel(KERNEL_ARGUMENTS, extra, false);
}

COLD CUresult aliquot_held_kernel_ptsz(KERNEL_PARAMETERS, void **extra) {
    return kernel(KERNEL_ARGUMENTS, extra, true);
}

CUresult aliquot_cuLaunchKernel(KERNEL_PARAMETERS, void **extra) {
    if (__builtin_expect(aliquot_passes(KERNEL, stream, false), 1))
        return REAL(cuLaunchKernel)(KERNEL_ARGUMENTS, extra);
    return aliquot_held_kernel(KERNEL_ARGUMENTS, extra);
}

CUresult aliquot_cuLaunchKernel_ptsz(KERNEL_PARAMETERS, void **extra) {
    if (__builtin_expect(aliquot_passes(KERNEL, stream, true), 1))
        return REAL(cuLaunchKernel_ptsz)(KERNEL_ARGUMENTS, extra);
    return aliquot_held_kernel_ptsz(KERNEL_ARGUMENTS, extra);
}

ALIQUOT_LAUNCH(cuLaunchCooperativeKernel, KERNEL, stream, false, (KERNEL_PARAMETERS),
               (KERNEL_ARGUMENTS))
ALIQUOT_LAUNCH(cuLaunchCooperativeKernel_ptsz, KERNEL, stream, true, (KERNEL_PARAMETERS),
               (KERNEL_ARGUMENTS))

/* -- By a description ------------------------------------------------------------------------------ */

#define EX_PARAMETERS                                                                              \
    const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra
#define EX_ARGUMENTS config, function, parameters, extra

static inline uint64_t configured(const CUlaunchConfig *config, CUfunction function) {
    return config ? aliquot_kernel(function, config->gridDimX, config->gridDimY, config->gridDimZ,
                                   config->blockDimX, config->blockDimY, config->blockDimZ)
                  : (uintptr_t)function;
}

static inline CUstream stream_of(const CUlaunchConfig *config) {
    return config ? config->hStream : NULL;
}

COLD CUresult aliquot_held_ex(EX_PARAMETERS, bool per_thread);
COLD CUresult aliquot_held_ex(EX_PARAMETERS, bool per_thread) {
    struct aliquot_gated gated =
        aliquot_hold_back(configured(config, function), stream_of(config), per_thread);
    return aliquot_went(
        &gated, (per_thread ? REAL(cuLaunchKernelEx_ptsz) : REAL(cuLaunchKernelEx))(EX_ARGUMENTS));
}

CUresult aliquot_cuLaunchKernelEx(EX_PARAMETERS) {
    if (__builtin_expect(aliquot_passes(configured(config, function), stream_of(config), false), 1))
        return REAL(cuLaunchKernelEx)(EX_ARGUMENTS);
    return aliquot_held_ex(EX_ARGUMENTS, false);
}

CUresult aliquot_cuLaunchKernelEx_ptsz(EX_PARAMETERS) {
    if (__builtin_expect(aliquot_passes(configured(config, function), stream_of(config), true), 1))
        return REAL(cuLaunchKernelEx_ptsz)(EX_ARGUMENTS);
    return aliquot_held_ex(EX_ARGUMENTS, true);
}

/* -- On several devices ---------------------------------------------------------------------------- */

/* Each of its devices is waited for, and none is kept while the next one is: what the launch takes is
 * found by what else runs there. */
CUresult aliquot_cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *launch,
                                                      unsigned int count, unsigned int flags) {
    for (unsigned int i = 0; launch && i < count; i++) {
        const CUDA_LAUNCH_PARAMS *one = &launch[i];
        uint64_t what = aliquot_kernel(one->function, one->gridDimX, one->gridDimY, one->gridDimZ,
                                       one->blockDimX, one->blockDimY, one->blockDimZ);
        struct aliquot_gated gated = aliquot_hold_back(what, one->hStream, false);
        aliquot_went(&gated, CUDA_ERROR_NOT_READY);
    }
    return REAL(cuLaunchCooperativeKernelMultiDevice)(launch, count, flags);
}

/* -- Before 4.0: a function has its shape, and is launched in the default stream ------------------- */

#define GRID aliquot_kernel(function, (unsigned)width, (unsigned)height, 1, 0, 0, 0)

ALIQUOT_LAUNCH(cuLaunch, (uintptr_t)function, NULL, false, (CUfunction function), (function))
ALIQUOT_LAUNCH(cuLaunchGrid, GRID, NULL, false, (CUfunction function, int width, int height),
               (function, width, height))
ALIQUOT_LAUNCH(cuLaunchGridAsync, GRID, stream, false,
               (CUfunction function, int width, int height, CUstream stream),
               (function, width, height, stream))
