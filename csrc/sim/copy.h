/* Copies and fills, checked and turned into operations: shared by the calls and by graphs. */
#ifndef ALIQUOT_SIM_COPY_H
#define ALIQUOT_SIM_COPY_H

#include "exec_impl.h"

/* Where an operand of a copy lies. */
enum sim_where {
    SIM_WHERE_PAGEABLE, /* host memory that the driver does not know */
    SIM_WHERE_PINNED,
    SIM_WHERE_MANAGED,
    SIM_WHERE_DEVICE,
};

struct sim_place {
    uint8_t *ptr; /* first byte */
    size_t pitch, slice;
    enum sim_where where;
    bool array;
    CUdevice dev; /* CU_DEVICE_CPU for host memory */
};

/* A copy ready to be queued. */
struct sim_copy {
    struct sim_place dst, src;
    size_t row_bytes, height, depth;
};

/* What a copy has to have done before its call returns. */
enum sim_copy_sync {
    SIM_COPY_ASYNC, /* nothing, but for pageable memory: a source is read, a destination written */
    SIM_COPY_HOST,  /* everything, if it is from or to host memory */
    SIM_COPY_CONSUMED, /* as ASYNC, and the source is read wherever it lies */
};

/* Finds out about `bytes` at ptr. `type`: HOST takes any address, DEVICE one that the device
 * reaches, UNIFIED either. `later`: memory of a graph's allocation node counts although it is not
 * there yet. Errors: INVALID_VALUE. */
CUresult sim_place_linear(CUmemorytype type, CUdeviceptr ptr, size_t bytes, bool write, bool later,
                          struct sim_place *place);
/* Reads a driver's description. Nothing to do is a copy of no bytes. Errors: INVALID_VALUE,
 * INVALID_HANDLE (array). */
CUresult sim_copy_read(const CUDA_MEMCPY3D *given, bool later, struct sim_copy *copy);
/* Reads `bytes` between two linear places. Errors: INVALID_VALUE. */
CUresult sim_copy_linear(CUmemorytype dst_type, CUdeviceptr dst, CUmemorytype src_type,
                         CUdeviceptr src, size_t bytes, struct sim_copy *copy);
/* Makes the operation of a copy on device `dev`. Errors: OUT_OF_MEMORY (host). */
CUresult sim_copy_op(const struct sim_copy *copy, CUdevice dev, struct sim_op *op);
/* Queues a copy and waits as `sync` says. Errors: OUT_OF_MEMORY (host). */
CUresult sim_copy_queue(struct sim_stream *stream, const struct sim_copy *copy,
                        enum sim_copy_sync sync);
/* Queues in a stream, or captures, a copy as the driver describes it. Errors: as above, and those
 * of captures. */
CUresult sim_copy_do(struct sim_stream *stream, const CUDA_MEMCPY3D *given,
                     enum sim_copy_sync sync);
/* The description of a linear copy. */
void sim_copy_describe(CUmemorytype dst_type, CUdeviceptr dst, CUmemorytype src_type,
                       CUdeviceptr src, size_t bytes, CUDA_MEMCPY3D *given);
/* Enters a copy's call; `synchronous`: one that stream capture forbids. */
CUresult sim_copy_enter(CUstream handle, bool per_thread, bool synchronous,
                        struct sim_stream **stream);

/* A fill of `height` rows of `width` elements of `element` bytes (1, 2, 4).
 * Errors: INVALID_VALUE. */
CUresult sim_fill_check(CUdeviceptr dst, size_t pitch, unsigned element, size_t width,
                        size_t height, bool later, struct sim_place *place);
/* Makes its operation. Errors: OUT_OF_MEMORY (host). */
CUresult sim_fill_op(const struct sim_place *place, uint32_t value, unsigned element, size_t width,
                     size_t height, CUdevice dev, struct sim_op *op);

#endif
