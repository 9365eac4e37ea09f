/* What else runs on the compute units: filling memory, and copying it within a device. How long that
 * takes goes by the bytes.
 */
#include "time.h"

/* -- Filling --------------------------------------------------------------------------------------- */

#define FILL(symbol, bits, stream, per_thread, parameters, arguments)                              \
    ALIQUOT_LAUNCH(symbol, aliquot_operation(ALIQUOT_FILL, (uint64_t)count *(bits / 8)), stream,   \
                   per_thread, parameters, arguments)
#define ROWS(symbol, bits, stream, per_thread, parameters, arguments)                              \
    ALIQUOT_LAUNCH(symbol,                                                                         \
                   aliquot_operation(ALIQUOT_FILL_ROWS, (uint64_t)width *height *(bits / 8)),      \
                   stream, per_thread, parameters, arguments)

#define FILLS(bits, value_type)                                                                    \
    FILL(cuMemsetD##bits, bits, NULL, false,                                                       \
         (CUdeviceptr_v1 at, value_type value, unsigned int count), (at, value, count))            \
    FILL(cuMemsetD##bits##_v2, bits, NULL, false,                                                  \
         (CUdeviceptr at, value_type value, size_t count), (at, value, count))                     \
    FILL(cuMemsetD##bits##_v2_ptds, bits, NULL, true,                                              \
         (CUdeviceptr at, value_type value, size_t count), (at, value, count))                     \
    FILL(cuMemsetD##bits##Async, bits, stream, false,                                              \
         (CUdeviceptr at, value_type value, size_t count, CUstream stream),                        \
         (at, value, count, stream))                                                               \
    FILL(cuMemsetD##bits##Async_ptsz, bits, stream, true,                                          \
         (CUdeviceptr at, value_type value, size_t count, CUstream stream),                        \
         (at, value, count, stream))                                                               \
    ROWS(cuMemsetD2D##bits, bits, NULL, false,                                                     \
         (CUdeviceptr_v1 at, unsigned int pitch, value_type value, unsigned int width,             \
          unsigned int height),                                                                    \
         (at, pitch, value, width, height))                                                        \
    ROWS(cuMemsetD2D##bits##_v2, bits, NULL, false,                                                \
         (CUdeviceptr at, size_t pitch, value_type value, size_t width, size_t height),            \
         (at, pitch, value, width, height))                                                        \
    ROWS(cuMemsetD2D##bits##_v2_ptds, bits, NULL, true,                                            \
         (CUdeviceptr at, size_t pitch, value_type value, size_t width, size_t height),            \
         (at, pitch, value, width, height))                                                        \
    ROWS(cuMemsetD2D##bits##Async, bits, stream, false,                                            \
         (CUdeviceptr at, size_t pitch, value_type value, size_t width, size_t height,             \
          CUstream stream),                                                                        \
         (at, pitch, value, width, height, stream))                                                \
    ROWS(cuMemsetD2D##bits##Async_ptsz, bits, stream, true,                                        \
         (CUdeviceptr at, size_t pitch, value_type value, size_t width, size_t height,             \
          CUstream stream),                                                                        \
         (at, pitch, value, width, height, stream))

FILLS(8, unsigned char)
FILLS(16, unsigned short)
FILLS(32, unsigned int)

/* -- Copying within a device ------------------------------------------------------------------------ */

#define MOVE(symbol, stream, per_thread, parameters, arguments)                                    \
    ALIQUOT_LAUNCH(symbol, aliquot_operation(ALIQUOT_MOVE, bytes), stream, per_thread, parameters, \
                   arguments)

#define DTOD(pointer, size) (pointer to, pointer from, size bytes)
MOVE(cuMemcpyDtoD, NULL, false, DTOD(CUdeviceptr_v1, unsigned int), (to, from, bytes))
MOVE(cuMemcpyDtoD_v2, NULL, false, DTOD(CUdeviceptr, size_t), (to, from, bytes))
MOVE(cuMemcpyDtoD_v2_ptds, NULL, true, DTOD(CUdeviceptr, size_t), (to, from, bytes))

#define DTOD_ASYNC(pointer, size) (pointer to, pointer from, size bytes, CUstream stream)
MOVE(cuMemcpyDtoDAsync, stream, false, DTOD_ASYNC(CUdeviceptr_v1, unsigned int),
     (to, from, bytes, stream))
MOVE(cuMemcpyDtoDAsync_v2, stream, false, DTOD_ASYNC(CUdeviceptr, size_t),
     (to, from, bytes, stream))
MOVE(cuMemcpyDtoDAsync_v2_ptsz, stream, true, DTOD_ASYNC(CUdeviceptr, size_t),
     (to, from, bytes, stream))

#define DTOA(pointer, size) (CUarray to, size to_offset, pointer from, size bytes)
MOVE(cuMemcpyDtoA, NULL, false, DTOA(CUdeviceptr_v1, unsigned int), (to, to_offset, from, bytes))
MOVE(cuMemcpyDtoA_v2, NULL, false, DTOA(CUdeviceptr, size_t), (to, to_offset, from, bytes))
MOVE(cuMemcpyDtoA_v2_ptds, NULL, true, DTOA(CUdeviceptr, size_t), (to, to_offset, from, bytes))

#define ATOD(pointer, size) (pointer to, CUarray from, size from_offset, size bytes)
MOVE(cuMemcpyAtoD, NULL, false, ATOD(CUdeviceptr_v1, unsigned int), (to, from, from_offset, bytes))
MOVE(cuMemcpyAtoD_v2, NULL, false, ATOD(CUdeviceptr, size_t), (to, from, from_offset, bytes))
MOVE(cuMemcpyAtoD_v2_ptds, NULL, true, ATOD(CUdeviceptr, size_t), (to, from, from_offset, bytes))

#define ATOA(size) (CUarray to, size to_offset, CUarray from, size from_offset, size bytes)
MOVE(cuMemcpyAtoA, NULL, false, ATOA(unsigned int), (to, to_offset, from, from_offset, bytes))
MOVE(cuMemcpyAtoA_v2, NULL, false, ATOA(size_t), (to, to_offset, from, from_offset, bytes))
MOVE(cuMemcpyAtoA_v2_ptds, NULL, true, ATOA(size_t), (to, to_offset, from, from_offset, bytes))
