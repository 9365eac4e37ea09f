/* What a stream tells of itself, and its attributes. */
#include "exec_impl.h"

#include <string.h>

/* ---- Plain properties ---------------------------------------------------------------------- */

static CUresult get_priority(CUstream handle, int *priority, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (priority == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *priority = stream->priority;
    return CUDA_SUCCESS;
}

static CUresult get_flags(CUstream handle, unsigned *flags, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = stream->flags;
    return CUDA_SUCCESS;
}

static CUresult get_id(CUstream handle, unsigned long long *id, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (id == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *id = sim_stream_id(stream);
    return CUDA_SUCCESS;
}

static CUresult get_device(CUstream handle, CUdevice *dev, bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (dev == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *dev = stream->exec->dev;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamGetPriority(CUstream stream, int *priority) {
    return get_priority(stream, priority, false);
}
CUresult CUDAAPI cuStreamGetPriority_ptsz(CUstream stream, int *priority) {
    return get_priority(stream, priority, true);
}
CUresult CUDAAPI cuStreamGetFlags(CUstream stream, unsigned *flags) {
    return get_flags(stream, flags, false);
}
CUresult CUDAAPI cuStreamGetFlags_ptsz(CUstream stream, unsigned *flags) {
    return get_flags(stream, flags, true);
}
CUresult CUDAAPI cuStreamGetId(CUstream stream, unsigned long long *id) {
    return get_id(stream, id, false);
}
CUresult CUDAAPI cuStreamGetId_ptsz(CUstream stream, unsigned long long *id) {
    return get_id(stream, id, true);
}
CUresult CUDAAPI cuStreamGetDevice(CUstream stream, CUdevice *dev) {
    return get_device(stream, dev, false);
}
CUresult CUDAAPI cuStreamGetDevice_ptsz(CUstream stream, CUdevice *dev) {
    return get_device(stream, dev, true);
}

/* ---- Contexts ------------------------------------------------------------------------------ */

/* A stream of a green context answers with the primary context that this stands in, or, where the
 * caller asks for both, with the green one. */
static CUresult get_context(CUstream handle, CUcontext *ctx, CUgreenCtx *green, bool both,
                            bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (sim_stream_capturing(stream) && stream->legacy)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (ctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    bool is_green = stream->ctx->green;
    *ctx = (CUcontext)(is_green && both ? stream->ctx->owner : stream->ctx);
    if (green != NULL)
        *green = is_green ? sim_green_handle(stream->ctx) : NULL;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamGetCtx(CUstream stream, CUcontext *ctx) {
    return get_context(stream, ctx, NULL, false, false);
}
CUresult CUDAAPI cuStreamGetCtx_ptsz(CUstream stream, CUcontext *ctx) {
    return get_context(stream, ctx, NULL, false, true);
}
CUresult CUDAAPI cuStreamGetCtx_v2(CUstream stream, CUcontext *ctx, CUgreenCtx *green) {
    return get_context(stream, ctx, green, true, false);
}
CUresult CUDAAPI cuStreamGetCtx_v2_ptsz(CUstream stream, CUcontext *ctx, CUgreenCtx *green) {
    return get_context(stream, ctx, green, true, true);
}

/* ---- Attributes ---------------------------------------------------------------------------- */

/* Where an attribute is kept; -1: not one of streams. */
static int place_of(CUstreamAttrID id) {
    static const CUlaunchAttributeID stream_attributes[SIM_STREAM_ATTRIBUTES] = {
        CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW,
        CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY,
        CU_LAUNCH_ATTRIBUTE_PRIORITY,
        CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP,
        CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN,
        CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING};
    for (int i = 0; i < SIM_STREAM_ATTRIBUTES; i++)
        if (stream_attributes[i] == id)
            return i;
    return -1;
}

void sim_stream_attributes_reset(struct sim_stream *stream) {
    memset(stream->attributes, 0, sizeof stream->attributes);
    stream->attributes[place_of(CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY)].syncPolicy =
        CU_SYNC_POLICY_AUTO;
    CUlaunchMemSyncDomainMap *map =
        &stream->attributes[place_of(CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP)].memSyncDomainMap;
    map->default_ = 0;
    map->remote = 1;
}

static CUresult check_attribute(CUstreamAttrID id, const CUstreamAttrValue *value) {
    bool ok = true;
    if (id == CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW)
        ok = value->accessPolicyWindow.hitRatio >= 0 && value->accessPolicyWindow.hitRatio <= 1;
    else if (id == CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY)
        ok = value->syncPolicy >= CU_SYNC_POLICY_AUTO &&
             value->syncPolicy <= CU_SYNC_POLICY_BLOCKING_SYNC;
    else if (id == CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN)
        ok = value->memSyncDomain <= CU_LAUNCH_MEM_SYNC_DOMAIN_REMOTE;
    return ok ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult get_attribute(CUstream handle, CUstreamAttrID id, CUstreamAttrValue *value,
                              bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    int place = place_of(id);
    if (place < 0 || value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&stream->push_lock);
    *value = stream->attributes[place];
    if (id == CU_LAUNCH_ATTRIBUTE_PRIORITY)
        value->priority = stream->priority;
    pthread_mutex_unlock(&stream->push_lock);
    return CUDA_SUCCESS;
}

static CUresult set_attribute(CUstream handle, CUstreamAttrID id, const CUstreamAttrValue *value,
                              bool per_thread) {
    struct sim_stream *stream;
    CUresult result = sim_stream_enter(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    int place = place_of(id);
    if (place < 0 || value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_attribute(id, value);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&stream->push_lock);
    stream->attributes[place] = *value;
    pthread_mutex_unlock(&stream->push_lock);
    if (id == CU_LAUNCH_ATTRIBUTE_PRIORITY)
        sim_stream_prioritise(stream, value->priority);
    return CUDA_SUCCESS;
}

static CUresult copy_attributes(CUstream dst_handle, CUstream src_handle, bool per_thread) {
    struct sim_stream *dst, *src;
    CUresult result = sim_stream_enter(dst_handle, per_thread, &dst);
    if (result == CUDA_SUCCESS)
        result = sim_stream_enter(src_handle, per_thread, &src);
    if (result != CUDA_SUCCESS)
        return result;
    if (dst->ctx != src->ctx)
        return CUDA_ERROR_INVALID_VALUE;
    CUlaunchAttributeValue values[SIM_STREAM_ATTRIBUTES];
    pthread_mutex_lock(&src->push_lock);
    memcpy(values, src->attributes, sizeof values);
    int priority = src->priority;
    pthread_mutex_unlock(&src->push_lock);
    pthread_mutex_lock(&dst->push_lock);
    memcpy(dst->attributes, values, sizeof values);
    pthread_mutex_unlock(&dst->push_lock);
    sim_stream_prioritise(dst, priority);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamGetAttribute(CUstream stream, CUstreamAttrID id,
                                      CUstreamAttrValue *value) {
    return get_attribute(stream, id, value, false);
}
CUresult CUDAAPI cuStreamGetAttribute_ptsz(CUstream stream, CUstreamAttrID id,
                                           CUstreamAttrValue *value) {
    return get_attribute(stream, id, value, true);
}
CUresult CUDAAPI cuStreamSetAttribute(CUstream stream, CUstreamAttrID id,
                                      const CUstreamAttrValue *value) {
    return set_attribute(stream, id, value, false);
}
CUresult CUDAAPI cuStreamSetAttribute_ptsz(CUstream stream, CUstreamAttrID id,
                                           const CUstreamAttrValue *value) {
    return set_attribute(stream, id, value, true);
}
CUresult CUDAAPI cuStreamCopyAttributes(CUstream dst, CUstream src) {
    return copy_attributes(dst, src, false);
}
CUresult CUDAAPI cuStreamCopyAttributes_ptsz(CUstream dst, CUstream src) {
    return copy_attributes(dst, src, true);
}
