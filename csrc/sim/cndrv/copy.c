/* Copies and fills. */
#include "cndrv_sim.h"

static CNresult moved(CUresult result) {
    return cn_error_as(result, CUDA_ERROR_INVALID_VALUE, CN_MEMORY_ERROR_INVALID_ADDRESS);
}

/* A call in the current context; without bytes there is nothing to do, which is an error. */
#define COPY(symbol, parameters, bytes, answer, call)                                              \
    CNresult symbol parameters {                                                                   \
        struct sim_context *context;                                                               \
        CNresult result = cn_enter(&context);                                                      \
        if (result == CN_SUCCESS && !(bytes))                                                      \
            result = CN_ERROR_INVALID_VALUE;                                                       \
        return result == CN_SUCCESS ? answer(call) : result;                                       \
    }

/* What is wrong is the queue, or an address. */
static CNresult queued(CUresult result) {
    return result == CUDA_ERROR_INVALID_VALUE ? moved(result) : cn_queued(result);
}

#define MOVE(symbol, type_to, type_from, call)                                                     \
    COPY(symbol, (type_to to, type_from from, uint64_t bytes), bytes, moved, call)
#define MOVE_ASYNC(symbol, type_to, type_from, call)                                               \
    COPY(symbol, (type_to to, type_from from, uint64_t bytes, CNqueue queue), bytes, queued, call)

MOVE(cnMemcpy, CNaddr, CNaddr, cuMemcpy(to, from, bytes))
MOVE(cnMemcpyHtoD, CNaddr, const void *, cuMemcpyHtoD(to, from, bytes))
MOVE(cnMemcpyDtoH, void *, CNaddr, cuMemcpyDtoH(to, from, bytes))

MOVE_ASYNC(cnMemcpyAsync, CNaddr, CNaddr, cuMemcpyAsync(to, from, bytes, cn_stream(queue)))
MOVE_ASYNC(cnMemcpyHtoDAsync, CNaddr, const void *,
           cuMemcpyHtoDAsync(to, from, bytes, cn_stream(queue)))
MOVE_ASYNC(cnMemcpyDtoHAsync, void *, CNaddr, cuMemcpyDtoHAsync(to, from, bytes, cn_stream(queue)))
MOVE_ASYNC(cnMemcpyDtoDAsync, CNaddr, CNaddr, cuMemcpyDtoDAsync(to, from, bytes, cn_stream(queue)))
MOVE_ASYNC(cnMemcpyAsync_V2, CNaddr, CNaddr, cuMemcpyAsync(to, from, bytes, cn_stream(queue)))
MOVE_ASYNC(cnMemcpyAsync_V3, CNaddr, CNaddr, cuMemcpyAsync(to, from, bytes, cn_stream(queue)))
MOVE_ASYNC(cnMemcpyHtoDAsync_V2, CNaddr, const void *,
           cuMemcpyHtoDAsync(to, from, bytes, cn_stream(queue)))
MOVE_ASYNC(cnMemcpyDtoHAsync_V2, void *, CNaddr,
           cuMemcpyDtoHAsync(to, from, bytes, cn_stream(queue)))

/* Done when it returns, as is told of it. */
static CUresult finished(CUresult result) {
    return result == CUDA_SUCCESS ? cuStreamSynchronize(NULL) : result;
}

MOVE(cnMemcpyDtoD, CNaddr, CNaddr, finished(cuMemcpyDtoD(to, from, bytes)))

/* ---- Between devices ------------------------------------------------------------------------------- */

/* Contexts of one device have no copies between them. */
static CNresult peers(CNcontext to, CNcontext from, CNaddr address, uint64_t bytes) {
    struct sim_context *current;
    const struct sim_context *one = sim_context_get((CUcontext)(void *)to);
    const struct sim_context *other = sim_context_get((CUcontext)(void *)from);
    CNresult result = cn_enter(&current);
    if (result != CN_SUCCESS)
        return result;
    if (!one || !other)
        return CN_CONTEXT_ERROR_INVALID;
    if (!bytes || !address)
        return bytes ? CN_MEMORY_ERROR_INVALID_ADDRESS : CN_ERROR_INVALID_VALUE;
    return one != other && one->dev == other->dev ? CN_OPS_ERROR_NOT_SUPPORTED : CN_SUCCESS;
}

CNresult cnMemcpyPeer(CNaddr to, CNcontext to_context, CNaddr from, CNcontext from_context,
                      uint64_t bytes) {
    CNresult result = peers(to_context, from_context, to, bytes);
    return result == CN_SUCCESS
               ? moved(finished(cuMemcpyPeer(to, (CUcontext)(void *)to_context, from,
                                             (CUcontext)(void *)from_context, bytes)))
               : result;
}

CNresult cnMemcpyPeerAsync(CNaddr to, CNcontext to_context, CNaddr from, CNcontext from_context,
                           uint64_t bytes, CNqueue queue) {
    CNresult result = peers(to_context, from_context, to, bytes);
    return result == CN_SUCCESS
               ? queued(cuMemcpyPeerAsync(to, (CUcontext)(void *)to_context, from,
                                          (CUcontext)(void *)from_context, bytes, cn_stream(queue)))
               : result;
}

/* ---- Rows and boxes --------------------------------------------------------------------------------- */

#define ROWS                                                                                       \
    CNaddr to, uint64_t to_pitch, CNaddr from, uint64_t from_pitch, uint64_t width, uint64_t height

static CUDA_MEMCPY2D rows(ROWS) {
    return (CUDA_MEMCPY2D){
        .srcMemoryType = CU_MEMORYTYPE_UNIFIED,
        .srcDevice = from,
        .srcPitch = from_pitch,
        .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
        .dstDevice = to,
        .dstPitch = to_pitch,
        .WidthInBytes = width,
        .Height = height,
    };
}

static CUresult copy_rows(ROWS, CNqueue queue, bool waits) {
    const CUDA_MEMCPY2D copy = rows(to, to_pitch, from, from_pitch, width, height);
    CUresult result = cuMemcpy2DAsync(&copy, cn_stream(queue));
    return waits ? finished(result) : result;
}

COPY(cnMemcpy2D, (ROWS), width &&height, moved,
     copy_rows(to, to_pitch, from, from_pitch, width, height, NULL, true))
COPY(cnMemcpyDtoD2D, (ROWS), width &&height, moved,
     copy_rows(to, to_pitch, from, from_pitch, width, height, NULL, true))
COPY(cnMemcpy2DAsync, (ROWS, CNqueue queue), width &&height, queued,
     copy_rows(to, to_pitch, from, from_pitch, width, height, queue, false))

CUDA_MEMCPY3D cn_copy(const CNmemcpy3dParam *what) {
    return (CUDA_MEMCPY3D){
        .srcMemoryType = CU_MEMORYTYPE_UNIFIED,
        .srcDevice = (CUdeviceptr)(what->src ? what->src : what->srcPtr.ptr),
        .srcXInBytes = what->srcPos.x,
        .srcY = what->srcPos.y,
        .srcZ = what->srcPos.z,
        .srcPitch = what->srcPtr.pitch,
        .srcHeight = what->srcPtr.ysize,
        .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
        .dstDevice = (CUdeviceptr)(what->dst ? what->dst : what->dstPtr.ptr),
        .dstXInBytes = what->dstPos.x,
        .dstY = what->dstPos.y,
        .dstZ = what->dstPos.z,
        .dstPitch = what->dstPtr.pitch,
        .dstHeight = what->dstPtr.ysize,
        .WidthInBytes = what->extent.width,
        .Height = what->extent.height,
        .Depth = what->extent.depth,
    };
}

static bool has_bytes(const CNmemcpy3dParam *what) {
    return what && what->extent.width && what->extent.height && what->extent.depth;
}

static CUresult copy_box(const CNmemcpy3dParam *what, CNqueue queue, bool waits) {
    const CUDA_MEMCPY3D copy = cn_copy(what);
    CUresult result = cuMemcpy3DAsync(&copy, cn_stream(queue));
    return waits ? finished(result) : result;
}

COPY(cnMemcpy3D, (CNmemcpy3dParam * parameters), has_bytes(parameters), moved,
     copy_box(parameters, NULL, true))
COPY(cnMemcpyDtoD3D, (CNmemcpy3dParam * parameters), has_bytes(parameters), moved,
     copy_box(parameters, NULL, true))
COPY(cnMemcpy3DAsync, (const CNmemcpy3dParam *parameters, CNqueue queue), has_bytes(parameters),
     queued, copy_box(parameters, queue, false))

/* ---- Fills ------------------------------------------------------------------------------------------- */

#define FILL(bits, type)                                                                           \
    COPY(cnMemsetD##bits, (CNaddr address, type value, uint64_t count), count, moved,              \
         finished(cuMemsetD##bits(address, value, count)))                                         \
    COPY(cnMemsetD##bits##Async, (CNaddr address, type value, uint64_t count, CNqueue queue),      \
         count, queued, cuMemsetD##bits##Async(address, value, count, cn_stream(queue)))
FILL(8, unsigned char)
FILL(16, unsigned short)
FILL(32, unsigned int)
