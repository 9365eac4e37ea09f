/* More of what AscendCL's functions are thin wrappers over: see impl.c. */
#include "acl_sim.h"

rtError_t aclrtSetDeviceWithoutTsdVXXImpl(int32_t device) { return rtSetDeviceWithoutTsd(device); }
rtError_t aclrtResetDeviceWithoutTsdVXXImpl(int32_t device) {
    return rtDeviceResetWithoutTsd(device);
}
rtError_t aclrtSynchronizeEventWithTimeoutImpl(rtEvent_t event, int32_t timeout) {
    return rtEventSynchronizeWithTimeout(event, timeout);
}
rtError_t aclrtStreamWaitEventWithTimeoutImpl(rtStream_t stream, rtEvent_t event, int32_t timeout) {
    return timeout < -1 ? RT_PARAM_INVALID : rtsEventWait(stream, event, (uint32_t)timeout);
}
rtError_t aclmdlRICaptureToModelRIBeginImpl(rtStream_t stream, rtModel_t model, uint32_t mode) {
    return rtStreamBeginCaptureToModel(stream, model, mode);
}
rtError_t aclrtKernelArgsInitImpl(rtFuncHandle function, void **handle) {
    return rtsKernelArgsInit(function, handle);
}
rtError_t aclrtKernelArgsAppendImpl(void *handle, void *piece, size_t size, void **place) {
    return rtsKernelArgsAppend(handle, piece, size, place);
}
rtError_t aclrtKernelArgsFinalizeImpl(void *handle) { return rtsKernelArgsFinalize(handle); }
rtError_t aclrtLaunchKernelWithConfigImpl(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                          void *config, void *args, void *reserve) {
    return rtsLaunchKernelWithConfig(function, blocks, stream, config, args, reserve);
}
rtError_t aclrtLaunchKernelWithArgsArrayImpl(void *function, uint32_t blocks, rtStream_t stream,
                                             void *config, void **args) {
    return rtLaunchKernelWithArgsArray(function, blocks, stream, config, args);
}
rtError_t aclrtRandomNumAsyncImpl(const void *task, const rtStream_t stream, void *reserve) {
    return rtsLaunchRandomNumTask(task, stream, reserve);
}
rtError_t aclrtReduceAsyncImpl(void *to, const void *from, uint64_t count, uint32_t kind,
                               uint32_t type, rtStream_t stream, void *reserve) {
    const struct {
        void *to;
        const void *from;
        uint64_t count;
        uint32_t kind, type;
    } task = {to, from, count, kind, type};
    return to && from && count ? rtsLaunchReduceAsyncTask(&task, stream, reserve)
                               : RT_PARAM_INVALID;
}
rtError_t aclrtMemsetD32Impl(void *pointer, size_t room, uint32_t value, size_t count) {
    return rtMemsetD32(pointer, room, value, count);
}
rtError_t aclrtMemsetD32AsyncImpl(void *pointer, size_t room, uint32_t value, size_t count,
                                  rtStream_t stream) {
    return rtMemsetD32Async(pointer, room, value, count, stream);
}
rtError_t aclrtMemcpyAsyncWithConditionImpl(void *to, size_t room, const void *from, size_t size,
                                            uint32_t kind, rtStream_t stream) {
    return rtMemcpyAsync(to, room, from, size, kind, stream);
}
rtError_t aclrtMemcpy2dAsyncImpl(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                 size_t width, size_t height, uint32_t kind, rtStream_t stream) {
    return rtMemcpy2dAsync(to, to_pitch, from, from_pitch, width, height, kind, stream);
}
rtError_t aclrtMemcpyAsyncWithOffsetImpl(void **to, size_t room, size_t to_offset,
                                         const void **from, size_t size, size_t from_offset,
                                         uint32_t kind, rtStream_t stream) {
    return rtMemcpyAsyncWithOffset(to, room, to_offset, from, size, from_offset, kind, stream);
}
rtError_t aclrtGetMemcpyDescSizeImpl(uint32_t kind, size_t *size) {
    return rtsGetMemcpyDescSize(kind, size);
}
rtError_t aclrtSetMemcpyDescImpl(void *at, uint32_t kind, void *from, void *to, size_t size,
                                 void *config) {
    return rtsSetMemcpyDesc(at, kind, from, to, size, config);
}
rtError_t aclrtMemcpyAsyncWithDescImpl(void *at, uint32_t kind, rtStream_t stream) {
    return rtsMemcpyAsyncWithDesc(at, kind, NULL, stream);
}
rtError_t aclrtMemcpyBatchAsyncImpl(void **to, size_t *rooms, void **from, size_t *sizes,
                                    size_t count, void *attributes, size_t *places,
                                    size_t attribute_count, size_t *failed, rtStream_t stream) {
    return rtsMemcpyBatchAsync(to, rooms, from, sizes, count, attributes, places, attribute_count,
                               failed, stream);
}
rtError_t aclrtMemcpyBatchAsyncV2Impl(void **to, size_t *rooms, void **from, size_t *sizes,
                                      size_t count, void *attributes, size_t *places,
                                      size_t attribute_count, rtStream_t stream) {
    return rtsMemcpyBatchAsync(to, rooms, from, sizes, count, attributes, places, attribute_count,
                               NULL, stream);
}
/* (Managed memory is on its device from the beginning.) */
rtError_t aclrtMemManagedPrefetchAsyncImpl(const void *pointer, size_t size,
                                           aclrtMemManagedLocation place, uint32_t flags,
                                           rtStream_t stream) {
    void *base;
    size_t bytes;
    (void)place;
    (void)stream;
    rtError_t result = flags || !size
                           ? RT_PARAM_INVALID
                           : rtMemGetAddressRange((void *)(uintptr_t)pointer, &base, &bytes);
    return result == RT_OK && size > bytes ? RT_PARAM_INVALID : result;
}
rtError_t aclrtMemManagedPrefetchBatchAsyncImpl(const void **pointers, size_t *sizes, size_t count,
                                                aclrtMemManagedLocation *places, size_t *which,
                                                size_t place_count, uint64_t flags,
                                                rtStream_t stream) {
    if (!pointers || !sizes || !count || !places || !which || !place_count)
        return RT_PARAM_INVALID;
    rtError_t result = RT_OK;
    for (size_t i = 0; i < count && result == RT_OK; i++)
        result = aclrtMemManagedPrefetchAsyncImpl(pointers[i], sizes[i], places[0], (uint32_t)flags,
                                                  stream);
    return result;
}
rtError_t aclrtCntNotifyCreateImpl(rtNotify_t *notify, uint64_t flag) {
    int32_t device;
    rtError_t result = flag > UINT32_MAX ? RT_PARAM_INVALID : rtGetDevice(&device);
    return result == RT_OK ? rtCntNotifyCreateWithFlag(device, notify, (uint32_t)flag) : result;
}
rtError_t aclrtCntNotifyDestroyImpl(rtNotify_t notify) { return rtCntNotifyDestroy(notify); }
rtError_t aclrtCntNotifyRecordImpl(rtNotify_t notify, rtStream_t stream, void *how) {
    return rtsCntNotifyRecord(notify, stream, how);
}
rtError_t aclrtCntNotifyWaitWithTimeoutImpl(rtNotify_t notify, rtStream_t stream, void *until) {
    return rtsCntNotifyWaitWithTimeout(notify, stream, until);
}
