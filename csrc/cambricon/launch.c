/* What runs on the compute units: kernels, graphs, and fills and copies within a device. */
#include "shim.h"

#define LAUNCH(symbol, what, queue, parameters, arguments)                                         \
    CNresult aliquot_##symbol parameters {                                                         \
        if (OWN_CALL())                                                                            \
            return REAL(symbol) arguments;                                                         \
        bool passes = __builtin_expect(aliquot_passes(what, queue), 1);                            \
        struct aliquot_gated gated;                                                                \
        if (!passes)                                                                               \
            gated = aliquot_hold_back(what, queue);                                                \
        aliquot_own.depth++;                                                                       \
        CNresult result = REAL(symbol) arguments;                                                  \
        aliquot_own.depth--;                                                                       \
        return passes ? result : aliquot_went(&gated, result);                                     \
    }

/* -- Kernels and graphs --------------------------------------------------------------------------------- */

/* Addresses of kernels take 48 bits; a kernel has few kinds. */
static uint64_t kernel_name(CNkernel kernel, unsigned int x, unsigned int y, unsigned int z,
                            KernelClass kind) {
    return (uintptr_t)kernel + (aliquot_class((uint64_t)x * y * z) << 48) + ((uint64_t)kind << 57);
}

LAUNCH(cnInvokeKernel, kernel_name(kernel, x, y, z, kind), queue,
       (CNkernel kernel, unsigned int x, unsigned int y, unsigned int z, KernelClass kind,
        unsigned int reserved, CNqueue queue, void **parameters, void **extra),
       (kernel, x, y, z, kind, reserved, queue, parameters, extra))

CNresult aliquot_cnInvokeKernelEx(const CNinvokeConfig *config, CNkernel kernel, void **parameters,
                                  void **extra) {
    if (!config || OWN_CALL())
        return REAL(cnInvokeKernelEx)(config, kernel, parameters, extra);
    uint64_t what = kernel_name(kernel, config->dimx, config->dimy, config->dimz, config->c);
    bool passes = __builtin_expect(aliquot_passes(what, config->hqueue), 1);
    struct aliquot_gated gated;
    if (!passes)
        gated = aliquot_hold_back(what, config->hqueue);
    aliquot_own.depth++;
    CNresult result = REAL(cnInvokeKernelEx)(config, kernel, parameters, extra);
    aliquot_own.depth--;
    return passes ? result : aliquot_went(&gated, result);
}

LAUNCH(cnTaskTopoEntityInvoke, (uintptr_t)entity, queue, (CNtaskTopoEntity entity, CNqueue queue),
       (entity, queue))

/* -- Fills ---------------------------------------------------------------------------------------------- */

#define FILL(symbol, type, queue, parameters, arguments)                                           \
    LAUNCH(symbol, aliquot_operation(ALIQUOT_FILL, count * sizeof(type)), queue, parameters,       \
           arguments)

FILL(cnMemsetD8, unsigned char, NULL, (CNaddr address, unsigned char value, uint64_t count),
     (address, value, count))
FILL(cnMemsetD16, unsigned short, NULL, (CNaddr address, unsigned short value, uint64_t count),
     (address, value, count))
FILL(cnMemsetD32, unsigned int, NULL, (CNaddr address, unsigned int value, uint64_t count),
     (address, value, count))
FILL(cnMemsetD8Async, unsigned char, queue,
     (CNaddr address, unsigned char value, uint64_t count, CNqueue queue),
     (address, value, count, queue))
FILL(cnMemsetD16Async, unsigned short, queue,
     (CNaddr address, unsigned short value, uint64_t count, CNqueue queue),
     (address, value, count, queue))
FILL(cnMemsetD32Async, unsigned int, queue,
     (CNaddr address, unsigned int value, uint64_t count, CNqueue queue),
     (address, value, count, queue))

/* -- Copies --------------------------------------------------------------------------------------------- */

#define MOVE(symbol, bytes, queue, parameters, arguments)                                          \
    LAUNCH(symbol, aliquot_operation(ALIQUOT_MOVE, bytes), queue, parameters, arguments)

MOVE(cnMemcpyDtoD, bytes, NULL, (CNaddr to, CNaddr from, uint64_t bytes), (to, from, bytes))
MOVE(cnMemcpyDtoDAsync, bytes, queue, (CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue),
     (to, from, bytes, queue))
MOVE(cnMemcpyDtoD2D, width *height, NULL,
     (CNaddr to, uint64_t to_pitch, CNaddr from, uint64_t from_pitch, uint64_t width,
      uint64_t height),
     (to, to_pitch, from, from_pitch, width, height))

static uint64_t volume(const CNmemcpy3dParam *of) {
    return of ? of->extent.width * of->extent.height * of->extent.depth : 0;
}
MOVE(cnMemcpyDtoD3D, volume(parameters), NULL, (CNmemcpy3dParam * parameters), (parameters))
