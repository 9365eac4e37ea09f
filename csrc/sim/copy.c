/* Copies: where operands lie, how long a copy takes, and what its call waits for. */
#include "copy.h"
#include "graph.h"

#include <stdlib.h>
#include <string.h>

/* ---- Places -------------------------------------------------------------------------------- */

/* Whether the range lies in one allocation, backed or not. */
static bool reserved(CUdeviceptr ptr, size_t bytes) {
    struct sim_memory_info info;
    return sim_memory_find(ptr, &info) && info.kind == SIM_MEMORY_GRAPH &&
           ptr - info.base <= info.bytes && bytes <= info.bytes - (ptr - info.base);
}

CUresult sim_place_linear(CUmemorytype type, CUdeviceptr ptr, size_t bytes, bool write, bool later,
                          struct sim_place *place) {
    struct sim_memory_info info;
    *place = (struct sim_place){
        .ptr = (uint8_t *)(uintptr_t)ptr, .where = SIM_WHERE_PAGEABLE, .dev = CU_DEVICE_CPU};
    if (ptr == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (!sim_memory_find(ptr, &info)) {
        if (type == CU_MEMORYTYPE_DEVICE)
            return CUDA_ERROR_INVALID_VALUE;
        /* An address that was a device's, and is no allocation any more, is no host memory. */
        return sim_memory_touch(ptr, 1) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    if (sim_memory_check(ptr, bytes, write) != CUDA_SUCCESS && !(later && reserved(ptr, bytes))) {
        /* Beyond the end of a registered piece ordinary host memory may go on. */
        if (type != CU_MEMORYTYPE_HOST || info.kind != SIM_MEMORY_REGISTERED)
            return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
    }
    if (info.kind == SIM_MEMORY_MANAGED)
        place->where = SIM_WHERE_MANAGED;
    else if (info.dev == CU_DEVICE_CPU)
        place->where = SIM_WHERE_PINNED;
    else
        place->where = SIM_WHERE_DEVICE;
    place->dev = info.dev;
    return CUDA_SUCCESS;
}

/* One operand of a driver's description. */
struct operand {
    size_t x, y, z, lod;
    CUmemorytype type;
    CUdeviceptr ptr; /* host's or device's */
    CUarray array;
    size_t pitch, height;
};

static CUresult place_array(const struct operand *operand, const struct sim_copy *copy,
                            struct sim_place *place) {
    const struct sim_array *array = sim_array_get(operand->array);
    if (array == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (array->base == 0) /* sparse, or not mapped yet */
        return CUDA_ERROR_INVALID_VALUE;
    if (operand->x % array->element_bytes != 0 || copy->row_bytes % array->element_bytes != 0 ||
        operand->x > array->row_bytes || copy->row_bytes > array->row_bytes - operand->x ||
        operand->y > array->height || copy->height > array->height - operand->y ||
        operand->z > array->depth || copy->depth > array->depth - operand->z)
        return CUDA_ERROR_INVALID_VALUE;
    CUdeviceptr first =
        array->base + operand->z * array->slice_bytes + operand->y * array->pitch + operand->x;
    *place = (struct sim_place){.ptr = (uint8_t *)(uintptr_t)first,
                                .pitch = array->pitch,
                                .slice = array->slice_bytes,
                                .where = SIM_WHERE_DEVICE,
                                .dev = array->dev,
                                .array = true};
    return CUDA_SUCCESS;
}

static CUresult place_pitched(const struct operand *operand, const struct sim_copy *copy,
                              bool write, bool later, struct sim_place *place) {
    size_t pitch = operand->pitch, height = operand->height;
    if (pitch == 0 && copy->height <= 1 && operand->y == 0)
        pitch = operand->x + copy->row_bytes; /* a single row needs none */
    if (height == 0 && copy->depth <= 1 && operand->z == 0)
        height = operand->y + copy->height;
    if (operand->x + copy->row_bytes > pitch || operand->y + copy->height > height)
        return CUDA_ERROR_INVALID_VALUE;
    size_t slice, before, inside;
    if (__builtin_mul_overflow(pitch, height, &slice) ||
        __builtin_mul_overflow(slice, operand->z, &before) ||
        __builtin_mul_overflow(slice, copy->depth - 1, &inside))
        return CUDA_ERROR_INVALID_VALUE;
    CUdeviceptr first = operand->ptr + before + operand->y * pitch + operand->x;
    size_t bytes = inside + (copy->height - 1) * pitch + copy->row_bytes;
    if (operand->ptr == 0 || first < operand->ptr)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = sim_place_linear(operand->type, first, bytes, write, later, place);
    place->pitch = pitch;
    place->slice = slice;
    return result;
}

static CUresult place_operand(const struct operand *operand, const struct sim_copy *copy,
                              bool write, bool later, struct sim_place *place) {
    if (operand->lod != 0)
        return CUDA_ERROR_INVALID_VALUE;
    switch (operand->type) {
    case CU_MEMORYTYPE_ARRAY:
        return place_array(operand, copy, place);
    case CU_MEMORYTYPE_HOST:
    case CU_MEMORYTYPE_DEVICE:
    case CU_MEMORYTYPE_UNIFIED:
        return place_pitched(operand, copy, write, later, place);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult sim_copy_read(const CUDA_MEMCPY3D *given, bool later, struct sim_copy *copy) {
    *copy = (struct sim_copy){
        .row_bytes = given->WidthInBytes, .height = given->Height, .depth = given->Depth};
    const struct operand src = {
        .x = given->srcXInBytes,
        .y = given->srcY,
        .z = given->srcZ,
        .lod = given->srcLOD,
        .type = given->srcMemoryType,
        .ptr = given->srcMemoryType == CU_MEMORYTYPE_HOST ? (CUdeviceptr)(uintptr_t)given->srcHost
                                                          : given->srcDevice,
        .array = given->srcArray,
        .pitch = given->srcPitch,
        .height = given->srcHeight,
    };
    const struct operand dst = {
        .x = given->dstXInBytes,
        .y = given->dstY,
        .z = given->dstZ,
        .lod = given->dstLOD,
        .type = given->dstMemoryType,
        .ptr = given->dstMemoryType == CU_MEMORYTYPE_HOST ? (CUdeviceptr)(uintptr_t)given->dstHost
                                                          : given->dstDevice,
        .array = given->dstArray,
        .pitch = given->dstPitch,
        .height = given->dstHeight,
    };
    if (copy->row_bytes == 0 || copy->height == 0 || copy->depth == 0) {
        copy->row_bytes = 0;
        return src.type >= CU_MEMORYTYPE_HOST && src.type <= CU_MEMORYTYPE_UNIFIED &&
                       dst.type >= CU_MEMORYTYPE_HOST && dst.type <= CU_MEMORYTYPE_UNIFIED
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = place_operand(&src, copy, false, later, &copy->src);
    return result != CUDA_SUCCESS ? result : place_operand(&dst, copy, true, later, &copy->dst);
}

CUresult sim_copy_linear(CUmemorytype dst_type, CUdeviceptr dst, CUmemorytype src_type,
                         CUdeviceptr src, size_t bytes, struct sim_copy *copy) {
    *copy = (struct sim_copy){.row_bytes = bytes, .height = 1, .depth = 1};
    if (bytes == 0)
        return CUDA_SUCCESS;
    CUresult result = sim_place_linear(src_type, src, bytes, false, false, &copy->src);
    return result != CUDA_SUCCESS ? result
                                  : sim_place_linear(dst_type, dst, bytes, true, false, &copy->dst);
}

void sim_copy_describe(CUmemorytype dst_type, CUdeviceptr dst, CUmemorytype src_type,
                       CUdeviceptr src, size_t bytes, CUDA_MEMCPY3D *given) {
    *given = (CUDA_MEMCPY3D){.srcMemoryType = src_type,
                             .dstMemoryType = dst_type,
                             .srcPitch = bytes,
                             .dstPitch = bytes,
                             .WidthInBytes = bytes,
                             .Height = 1,
                             .Depth = 1};
    if (src_type == CU_MEMORYTYPE_HOST)
        given->srcHost = (const void *)(uintptr_t)src;
    else
        given->srcDevice = src;
    if (dst_type == CU_MEMORYTYPE_HOST)
        given->dstHost = (void *)(uintptr_t)dst;
    else
        given->dstDevice = dst;
}

/* ---- Time ---------------------------------------------------------------------------------- */

static bool on_host(const struct sim_place *place) {
    return place->where == SIM_WHERE_PAGEABLE || place->where == SIM_WHERE_PINNED;
}

static uint64_t at_rate(size_t bytes, uint64_t bytes_per_us) {
    return bytes_per_us == 0 ? 0 : (uint64_t)((__uint128_t)bytes * 1000 / bytes_per_us);
}

/* Work inside a device takes its processors, as many as it has data for. */
static void take_processors(struct sim_op *op, size_t bytes,
                            const struct sim_device_config *config) {
    enum { BYTES_A_PROCESSOR = 64 << 10 };
    size_t wanted = bytes / BYTES_A_PROCESSOR + 1;
    op->ns = at_rate(bytes, config->device_copy_bytes_per_us);
    if (op->ns != 0)
        op->ns += config->kernel_ns;
    op->sms = wanted < config->sms ? (uint32_t)wanted : config->sms;
}

static void take_time(const struct sim_copy *copy, CUdevice dev, struct sim_op *op) {
    size_t bytes = copy->row_bytes * copy->height * copy->depth;
    const struct sim_device_config *config = sim_device_config(dev);
    op->sms = 0;
    op->ns = 0;
    if (on_host(&copy->src) && on_host(&copy->dst))
        return;
    if (copy->src.dev == copy->dst.dev && !on_host(&copy->src) && !on_host(&copy->dst)) {
        take_processors(op, bytes, config);
        return;
    }
    op->lane = SIM_LANE_PEER;
    op->ns = at_rate(bytes, config->host_copy_bytes_per_us);
    if (on_host(&copy->src))
        op->lane = SIM_LANE_TO_DEVICE;
    else if (on_host(&copy->dst))
        op->lane = SIM_LANE_TO_HOST;
    else if (sim_device_peers(copy->src.dev, copy->dst.dev))
        op->ns = at_rate(bytes, config->peer_copy_bytes_per_us);
}

/* ---- Operations ---------------------------------------------------------------------------- */

CUresult sim_copy_op(const struct sim_copy *copy, CUdevice dev, struct sim_op *op) {
    *op = (struct sim_op){.kind = SIM_OP_NOTHING};
    if (copy->row_bytes == 0)
        return CUDA_SUCCESS;
    take_time(copy, dev, op);
    if (copy->height == 1 && copy->depth == 1) {
        op->kind = SIM_OP_COPY;
        op->copy.dst = (CUdeviceptr)(uintptr_t)copy->dst.ptr;
        op->copy.src = (CUdeviceptr)(uintptr_t)copy->src.ptr;
        op->copy.bytes = copy->row_bytes;
        if (copy->src.where != SIM_WHERE_PAGEABLE && !copy->src.array)
            op->flags = SIM_OP_KNOWN_SOURCE;
        return CUDA_SUCCESS;
    }
    struct sim_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *job = (struct sim_job){.dst = copy->dst.ptr,
                            .src = copy->src.ptr,
                            .row_bytes = copy->row_bytes,
                            .height = copy->height,
                            .depth = copy->depth,
                            .dst_pitch = copy->dst.pitch,
                            .dst_slice = copy->dst.slice,
                            .src_pitch = copy->src.pitch,
                            .src_slice = copy->src.slice};
    op->kind = SIM_OP_JOB;
    op->job = job;
    return CUDA_SUCCESS;
}

/* Reads the source now, into a buffer that the operation frees. */
static bool stage(struct sim_op *op) {
    size_t bytes = sim_effect_bytes(op);
    uint8_t *buffer = malloc(bytes);
    if (buffer == NULL)
        return false;
    if (op->kind == SIM_OP_COPY) {
        memcpy(buffer, (void *)(uintptr_t)op->copy.src, bytes);
        op->copy.src = (CUdeviceptr)(uintptr_t)buffer;
        op->flags = SIM_OP_FREE_SOURCE;
        return true;
    }
    struct sim_job *job = op->job;
    for (size_t z = 0, at = 0; z < job->depth; z++)
        for (size_t y = 0; y < job->height; y++, at += job->row_bytes)
            memcpy(buffer + at, job->src + z * job->src_slice + y * job->src_pitch, job->row_bytes);
    job->src = buffer;
    job->staging = buffer;
    job->src_pitch = job->row_bytes;
    job->src_slice = job->row_bytes * job->height;
    return true;
}

/* Does the copy in the caller when nothing is before it, and queues only the time it takes. */
static void do_now(struct sim_op *op) {
    uint64_t ns = op->ns;
    uint32_t sms = op->sms;
    uint8_t lane = op->lane;
    size_t bytes = sim_effect_bytes(op);
    sim_effect(op);
    sim_op_release(op);
    *op = (struct sim_op){.kind = SIM_OP_NOTHING,
                          .ns = ns,
                          .sms = sms,
                          .lane = lane,
                          .record = SIM_RECORD_COPY + 1,
                          .copy.bytes = bytes};
    if (atomic_load_explicit(&sim_engine.words, memory_order_relaxed) != 0)
        sim_engine_written();
}

CUresult sim_copy_queue(struct sim_stream *stream, const struct sim_copy *copy,
                        enum sim_copy_sync sync) {
    enum { STAGED_MOST = 1 << 20 }; /* more than that the call waits for instead */
    struct sim_op op;
    CUresult result = sim_copy_op(copy, stream->exec->dev, &op);
    if (result != CUDA_SUCCESS || op.kind == SIM_OP_NOTHING)
        return result;
    bool pageable_source = copy->src.where == SIM_WHERE_PAGEABLE;
    bool host_only = on_host(&copy->src) && on_host(&copy->dst);
    bool wait = host_only || copy->dst.where == SIM_WHERE_PAGEABLE ||
                (sync == SIM_COPY_HOST && (on_host(&copy->src) || on_host(&copy->dst)));
    bool read = pageable_source || sync == SIM_COPY_CONSUMED;
    if ((wait || read) && sim_stream_idle(stream)) {
        do_now(&op);
    } else if (read && !wait) {
        if (sim_effect_bytes(&op) > STAGED_MOST || !stage(&op))
            wait = true;
    }
    uint64_t position = 0;
    result = sim_stream_submit(stream, &op, &position);
    if (result == CUDA_SUCCESS && wait && position != 0)
        sim_stream_wait(stream, sim_stream_id(stream), position);
    return result;
}

CUresult sim_copy_do(struct sim_stream *stream, const CUDA_MEMCPY3D *given,
                     enum sim_copy_sync sync) {
    if (sim_stream_capturing(stream)) {
        CUgraphNodeParams node = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};
        node.memcpy.copyCtx = (CUcontext)stream->ctx;
        node.memcpy.copyParams = *given;
        return sim_capture_node(stream, &node, NULL, NULL);
    }
    struct sim_copy copy;
    CUresult result = sim_copy_read(given, false, &copy);
    return result != CUDA_SUCCESS ? result : sim_copy_queue(stream, &copy, sync);
}

CUresult sim_copy_enter(CUstream handle, bool per_thread, bool synchronous,
                        struct sim_stream **stream) {
    CUresult result = sim_stream_enter_work(handle, per_thread, stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (synchronous) {
        result = sim_stream_capturing(*stream) ? sim_capture_forbid_stream(*stream)
                                               : sim_capture_unsafe();
        if (result != CUDA_SUCCESS)
            return result;
    }
    sim_cost((*stream)->exec->dev, SIM_COST_COPY);
    return CUDA_SUCCESS;
}

/* ---- Fills --------------------------------------------------------------------------------- */

CUresult sim_fill_check(CUdeviceptr dst, size_t pitch, unsigned element, size_t width,
                        size_t height, bool later, struct sim_place *place) {
    size_t row, before;
    *place = (struct sim_place){.where = SIM_WHERE_DEVICE};
    if (element != 1 && element != 2 && element != 4)
        return CUDA_ERROR_INVALID_VALUE;
    if (width == 0 || height == 0)
        return CUDA_SUCCESS;
    if (dst % element != 0 || __builtin_mul_overflow(width, element, &row))
        return CUDA_ERROR_INVALID_VALUE;
    if (height > 1 && (pitch < row || pitch % element != 0))
        return CUDA_ERROR_INVALID_VALUE;
    if (__builtin_mul_overflow(pitch, height - 1, &before) || before + row < row)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = sim_place_linear(CU_MEMORYTYPE_DEVICE, dst, before + row, true, later, place);
    place->pitch = pitch;
    return result;
}

CUresult sim_fill_op(const struct sim_place *place, uint32_t value, unsigned element, size_t width,
                     size_t height, CUdevice dev, struct sim_op *op) {
    *op = (struct sim_op){.kind = SIM_OP_NOTHING};
    size_t row = width * element;
    if (row == 0 || height == 0)
        return CUDA_SUCCESS;
    if (!on_host(place))
        take_processors(op, row * height, sim_device_config(dev));
    if (element == 1)
        value &= 0xff;
    else if (element == 2)
        value &= 0xffff;
    if (height == 1 || place->pitch == row) {
        op->kind = SIM_OP_FILL;
        op->width = (uint8_t)element;
        op->fill.dst = (CUdeviceptr)(uintptr_t)place->ptr;
        op->fill.bytes = row * height;
        op->fill.value = value;
        return CUDA_SUCCESS;
    }
    struct sim_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *job = (struct sim_job){.dst = place->ptr,
                            .row_bytes = row,
                            .height = height,
                            .depth = 1,
                            .dst_pitch = place->pitch,
                            .value = value,
                            .width = (uint8_t)element};
    op->kind = SIM_OP_JOB;
    op->job = job;
    return CUDA_SUCCESS;
}
