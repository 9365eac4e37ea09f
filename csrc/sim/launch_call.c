/* The calls that launch kernels. */
#include "event.h"
#include "launch.h"

/* ---- One launch ---------------------------------------------------------------------------- */

/* Events that a launch's attributes ask to be recorded. Kernels show nothing of their inside, so
 * both are recorded when the kernel is done. */
static CUresult record_events(const struct sim_launch *launch, struct sim_stream *stream) {
    const CUlaunchAttributeValue *asked[2] = {
        sim_launch_attribute(launch, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT),
        sim_launch_attribute(launch, CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT)};
    for (int i = 0; i < 2; i++) {
        if (asked[i] == NULL)
            continue;
        struct sim_event *event = sim_event_find(i == 0 ? asked[i]->programmaticEvent.event
                                                        : asked[i]->launchCompletionEvent.event);
        CUresult result = event == NULL                  ? CUDA_ERROR_INVALID_HANDLE
                          : sim_stream_capturing(stream) ? sim_capture_record(stream, event)
                                                         : sim_event_record(event, stream);
        if (result != CUDA_SUCCESS)
            return result;
    }
    return CUDA_SUCCESS;
}

/* Adds a kernel node to the stream's capture. */
static CUresult capture(struct sim_stream *stream, const struct sim_launch *launch,
                        CUfunction function, void **params, void **extra) {
    CUgraphNodeParams node = {.type = CU_GRAPH_NODE_TYPE_KERNEL,
                              .kernel = {.func = function,
                                         .gridDimX = launch->grid[0],
                                         .gridDimY = launch->grid[1],
                                         .gridDimZ = launch->grid[2],
                                         .blockDimX = launch->block[0],
                                         .blockDimY = launch->block[1],
                                         .blockDimZ = launch->block[2],
                                         .sharedMemBytes = launch->shared,
                                         .kernelParams = params,
                                         .extra = extra,
                                         .ctx = (CUcontext)launch->ctx}};
    struct sim_launch_attributes attributes = {0};
    if (launch->attributes != NULL)
        attributes = *launch->attributes;
    if ((attributes.set >> CU_LAUNCH_ATTRIBUTE_PRIORITY & 1) == 0) {
        /* A node has the priority of the stream that it was captured in. */
        attributes.set |= 1u << CU_LAUNCH_ATTRIBUTE_PRIORITY;
        attributes.value[CU_LAUNCH_ATTRIBUTE_PRIORITY].priority = stream->priority;
    }
    return sim_capture_node(stream, &node, &attributes, NULL);
}

/* Launches what `launch` says but for its context and function. */
static CUresult launch_in(struct sim_launch *launch, CUfunction handle, CUstream stream_handle,
                          void **params, void **extra, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter_work(stream_handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    launch->ctx = stream->ctx;
    result = sim_function_resolve(stream->ctx, handle, &launch->function);
    if (result != CUDA_SUCCESS) /* of another context than the stream: neither knows the other */
        return result == CUDA_ERROR_INVALID_CONTEXT ? CUDA_ERROR_INVALID_HANDLE : result;
    result = sim_launch_check(launch);
    if (result == CUDA_SUCCESS)
        result = sim_launch_arguments(launch, params, extra);
    if (result != CUDA_SUCCESS)
        return result;
    sim_cost(stream->exec->dev, SIM_COST_LAUNCH);
    if (sim_stream_capturing(stream)) {
        result = capture(stream, launch, handle, params, extra);
    } else {
        struct sim_op op;
        op.kind = SIM_OP_KERNEL;
        op.flags = 0;
        op.ns = 0;
        op.sms = 0;
        op.record = 0;
        sim_launch_time(launch, &op);
        result = sim_stream_submit(stream, &op, NULL);
    }
    if (result == CUDA_SUCCESS && launch->attributes != NULL)
        result = record_events(launch, stream);
    return result;
}

CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                unsigned grid_z, unsigned block_x, unsigned block_y,
                                unsigned block_z, unsigned shared, CUstream stream, void **params,
                                void **extra) {
    struct sim_launch launch = {
        .grid = {grid_x, grid_y, grid_z}, .block = {block_x, block_y, block_z}, .shared = shared};
    return launch_in(&launch, function, stream, params, extra, false);
}

CUresult CUDAAPI cuLaunchKernel_ptsz(CUfunction function, unsigned grid_x, unsigned grid_y,
                                     unsigned grid_z, unsigned block_x, unsigned block_y,
                                     unsigned block_z, unsigned shared, CUstream stream,
                                     void **params, void **extra) {
    struct sim_launch launch = {
        .grid = {grid_x, grid_y, grid_z}, .block = {block_x, block_y, block_z}, .shared = shared};
    return launch_in(&launch, function, stream, params, extra, true);
}

/* ---- Launches with attributes -------------------------------------------------------------- */

static CUresult launch_config(const CUlaunchConfig *config, CUfunction function, void **params,
                              void **extra, bool per_thread) {
    struct sim_launch_attributes attributes;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (config == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_launch_attributes(config->attrs, config->numAttrs, &attributes);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_launch launch = {
        .grid = {config->gridDimX, config->gridDimY, config->gridDimZ},
        .block = {config->blockDimX, config->blockDimY, config->blockDimZ},
        .shared = config->sharedMemBytes,
        .attributes = attributes.set != 0 ? &attributes : NULL,
    };
    return launch_in(&launch, function, config->hStream, params, extra, per_thread);
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params,
                                  void **extra) {
    return launch_config(config, function, params, extra, false);
}

CUresult CUDAAPI cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction function,
                                       void **params, void **extra) {
    return launch_config(config, function, params, extra, true);
}

static CUresult launch_cooperative(struct sim_launch *launch, CUfunction function, CUstream stream,
                                   void **params, bool per_thread) {
    struct sim_launch_attributes attributes;
    attributes.set = 1u << CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    attributes.value[CU_LAUNCH_ATTRIBUTE_COOPERATIVE].cooperative = 1;
    launch->attributes = &attributes;
    return launch_in(launch, function, stream, params, NULL, per_thread);
}

CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                           unsigned grid_z, unsigned block_x, unsigned block_y,
                                           unsigned block_z, unsigned shared, CUstream stream,
                                           void **params) {
    struct sim_launch launch = {
        .grid = {grid_x, grid_y, grid_z}, .block = {block_x, block_y, block_z}, .shared = shared};
    return launch_cooperative(&launch, function, stream, params, false);
}

CUresult CUDAAPI cuLaunchCooperativeKernel_ptsz(CUfunction function, unsigned grid_x,
                                                unsigned grid_y, unsigned grid_z, unsigned block_x,
                                                unsigned block_y, unsigned block_z, unsigned shared,
                                                CUstream stream, void **params) {
    struct sim_launch launch = {
        .grid = {grid_x, grid_y, grid_z}, .block = {block_x, block_y, block_z}, .shared = shared};
    return launch_cooperative(&launch, function, stream, params, true);
}

/* ---- One kernel on several devices --------------------------------------------------------- */

/* The launch of one device, in its stream's context. */
static CUresult launch_one(const CUDA_LAUNCH_PARAMS *one) {
    struct sim_stream *stream = sim_stream_find(one->hStream);
    if (stream == NULL)
        return CUDA_ERROR_INVALID_HANDLE; /* a default stream would have no device */
    CUresult result = sim_context_push(stream->ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_launch launch = {.grid = {one->gridDimX, one->gridDimY, one->gridDimZ},
                                .block = {one->blockDimX, one->blockDimY, one->blockDimZ},
                                .shared = one->sharedMemBytes};
    result = launch_cooperative(&launch, one->function, one->hStream, one->kernelParams, false);
    sim_context_pop();
    return result;
}

/* Makes what follows in each of the streams wait for all of them. */
static CUresult meet(const CUDA_LAUNCH_PARAMS *list, unsigned count) {
    struct sim_stream *first = sim_stream_find(list[0].hStream);
    CUresult result = CUDA_SUCCESS;
    for (unsigned i = 1; i < count && result == CUDA_SUCCESS; i++)
        result = sim_stream_follow(first, sim_stream_find(list[i].hStream));
    for (unsigned i = 1; i < count && result == CUDA_SUCCESS; i++)
        result = sim_stream_follow(sim_stream_find(list[i].hStream), first);
    return result;
}

CUresult CUDAAPI cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *list, unsigned count,
                                                      unsigned flags) {
    const unsigned known = CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_PRE_LAUNCH_SYNC |
                           CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_POST_LAUNCH_SYNC;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (list == NULL || count == 0 || count > (unsigned)sim_device_count() || (flags & ~known) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++) {
        struct sim_stream *stream = sim_stream_find(list[i].hStream);
        if (stream == NULL)
            return CUDA_ERROR_INVALID_HANDLE;
        for (unsigned j = 0; j < i; j++) {
            if (sim_stream_find(list[j].hStream)->exec->dev == stream->exec->dev)
                return CUDA_ERROR_INVALID_DEVICE;
            if (list[j].gridDimX != list[i].gridDimX || list[j].gridDimY != list[i].gridDimY ||
                list[j].gridDimZ != list[i].gridDimZ || list[j].blockDimX != list[i].blockDimX ||
                list[j].blockDimY != list[i].blockDimY || list[j].blockDimZ != list[i].blockDimZ ||
                list[j].sharedMemBytes != list[i].sharedMemBytes)
                return CUDA_ERROR_INVALID_VALUE;
        }
    }
    if ((flags & CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_PRE_LAUNCH_SYNC) == 0)
        result = meet(list, count);
    for (unsigned i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = launch_one(&list[i]);
    if (result == CUDA_SUCCESS &&
        (flags & CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_POST_LAUNCH_SYNC) == 0)
        result = meet(list, count);
    return result;
}

/* ---- Launches of before CUDA 4 ------------------------------------------------------------- */

/* From the state that cuFuncSetBlockShape, cuFuncSetSharedSize and cuParamSet* left. */
static CUresult launch_stateful(CUfunction handle, int grid_x, int grid_y, CUstream stream) {
    struct sim_context *ctx;
    struct sim_function *function;
    CUresult result = sim_enter(&ctx);
    if (result == CUDA_SUCCESS)
        result = sim_function_resolve(ctx, handle, &function);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_function_legacy *state = function->legacy;
    if (state == NULL || grid_x < 1 || grid_y < 1)
        return CUDA_ERROR_INVALID_VALUE;
    size_t bytes = state->param_bytes;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, state->params, CU_LAUNCH_PARAM_BUFFER_SIZE,
                     &bytes, CU_LAUNCH_PARAM_END};
    struct sim_launch launch = {.grid = {(uint32_t)grid_x, (uint32_t)grid_y, 1},
                                .block = {state->block[0], state->block[1], state->block[2]},
                                .shared = state->dynamic_shared};
    return launch_in(&launch, handle, stream, NULL, extra, false);
}

CUresult CUDAAPI cuLaunch(CUfunction function) { return launch_stateful(function, 1, 1, NULL); }
CUresult CUDAAPI cuLaunchGrid(CUfunction function, int width, int height) {
    return launch_stateful(function, width, height, NULL);
}
CUresult CUDAAPI cuLaunchGridAsync(CUfunction function, int width, int height, CUstream stream) {
    return launch_stateful(function, width, height, stream);
}
