/* More of AscendCL: see ascendcl.c. */
#include "ascend/runtime.h"

rtError_t aclrtSetDeviceWithoutTsdVXX(int32_t device);
rtError_t aclrtSetDeviceWithoutTsdVXX(int32_t device) {
    return aclrtSetDeviceWithoutTsdVXXImpl(device);
}
rtError_t aclrtResetDeviceWithoutTsdVXX(int32_t device);
rtError_t aclrtResetDeviceWithoutTsdVXX(int32_t device) {
    return aclrtResetDeviceWithoutTsdVXXImpl(device);
}
rtError_t aclrtSynchronizeEventWithTimeout(rtEvent_t event, int32_t timeout);
rtError_t aclrtSynchronizeEventWithTimeout(rtEvent_t event, int32_t timeout) {
    return aclrtSynchronizeEventWithTimeoutImpl(event, timeout);
}
rtError_t aclrtStreamWaitEventWithTimeout(rtStream_t stream, rtEvent_t event, int32_t timeout);
rtError_t aclrtStreamWaitEventWithTimeout(rtStream_t stream, rtEvent_t event, int32_t timeout) {
    return aclrtStreamWaitEventWithTimeoutImpl(stream, event, timeout);
}
rtError_t aclmdlRICaptureToModelRIBegin(rtStream_t stream, rtModel_t model, uint32_t mode);
rtError_t aclmdlRICaptureToModelRIBegin(rtStream_t stream, rtModel_t model, uint32_t mode) {
    return aclmdlRICaptureToModelRIBeginImpl(stream, model, mode);
}
rtError_t aclrtKernelArgsInit(rtFuncHandle function, void **handle);
rtError_t aclrtKernelArgsInit(rtFuncHandle function, void **handle) {
    return aclrtKernelArgsInitImpl(function, handle);
}
rtError_t aclrtKernelArgsAppend(void *handle, void *piece, size_t size, void **place);
rtError_t aclrtKernelArgsAppend(void *handle, void *piece, size_t size, void **place) {
    return aclrtKernelArgsAppendImpl(handle, piece, size, place);
}
rtError_t aclrtKernelArgsFinalize(void *handle);
rtError_t aclrtKernelArgsFinalize(void *handle) { return aclrtKernelArgsFinalizeImpl(handle); }
rtError_t aclrtLaunchKernelWithConfig(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                      void *config, void *args, void *reserve);
rtError_t aclrtLaunchKernelWithConfig(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                      void *config, void *args, void *reserve) {
    return aclrtLaunchKernelWithConfigImpl(function, blocks, stream, config, args, reserve);
}
rtError_t aclrtLaunchKernelWithArgsArray(void *function, uint32_t blocks, rtStream_t stream,
                                         void *config, void **args);
rtError_t aclrtLaunchKernelWithArgsArray(void *function, uint32_t blocks, rtStream_t stream,
                                         void *config, void **args) {
    return aclrtLaunchKernelWithArgsArrayImpl(function, blocks, stream, config, args);
}
rtError_t aclrtRandomNumAsync(const void *task, const rtStream_t stream, void *reserve);
rtError_t aclrtRandomNumAsync(const void *task, const rtStream_t stream, void *reserve) {
    return aclrtRandomNumAsyncImpl(task, stream, reserve);
}
rtError_t aclrtReduceAsync(void *to, const void *from, uint64_t count, uint32_t kind, uint32_t type,
                           rtStream_t stream, void *reserve);
rtError_t aclrtReduceAsync(void *to, const void *from, uint64_t count, uint32_t kind, uint32_t type,
                           rtStream_t stream, void *reserve) {
    return aclrtReduceAsyncImpl(to, from, count, kind, type, stream, reserve);
}
rtError_t aclrtMemsetD32(void *pointer, size_t room, uint32_t value, size_t count);
rtError_t aclrtMemsetD32(void *pointer, size_t room, uint32_t value, size_t count) {
    return aclrtMemsetD32Impl(pointer, room, value, count);
}
rtError_t aclrtMemsetD32Async(void *pointer, size_t room, uint32_t value, size_t count,
                              rtStream_t stream);
rtError_t aclrtMemsetD32Async(void *pointer, size_t room, uint32_t value, size_t count,
                              rtStream_t stream) {
    return aclrtMemsetD32AsyncImpl(pointer, room, value, count, stream);
}
rtError_t aclrtMemcpyAsyncWithCondition(void *to, size_t room, const void *from, size_t size,
                                        uint32_t kind, rtStream_t stream);
rtError_t aclrtMemcpyAsyncWithCondition(void *to, size_t room, const void *from, size_t size,
                                        uint32_t kind, rtStream_t stream) {
    return aclrtMemcpyAsyncWithConditionImpl(to, room, from, size, kind, stream);
}
rtError_t aclrtMemcpy2dAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                             size_t width, size_t height, uint32_t kind, rtStream_t stream);
rtError_t aclrtMemcpy2dAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                             size_t width, size_t height, uint32_t kind, rtStream_t stream) {
    return aclrtMemcpy2dAsyncImpl(to, to_pitch, from, from_pitch, width, height, kind, stream);
}
rtError_t aclrtMemcpyAsyncWithOffset(void **to, size_t room, size_t to_offset, const void **from,
                                     size_t size, size_t from_offset, uint32_t kind,
                                     rtStream_t stream);
rtError_t aclrtMemcpyAsyncWithOffset(void **to, size_t room, size_t to_offset, const void **from,
                                     size_t size, size_t from_offset, uint32_t kind,
                                     rtStream_t stream) {
    return aclrtMemcpyAsyncWithOffsetImpl(to, room, to_offset, from, size, from_offset, kind,
                                          stream);
}
rtError_t aclrtGetMemcpyDescSize(uint32_t kind, size_t *size);
rtError_t aclrtGetMemcpyDescSize(uint32_t kind, size_t *size) {
    return aclrtGetMemcpyDescSizeImpl(kind, size);
}
rtError_t aclrtSetMemcpyDesc(void *at, uint32_t kind, void *from, void *to, size_t size,
                             void *config);
rtError_t aclrtSetMemcpyDesc(void *at, uint32_t kind, void *from, void *to, size_t size,
                             void *config) {
    return aclrtSetMemcpyDescImpl(at, kind, from, to, size, config);
}
rtError_t aclrtMemcpyAsyncWithDesc(void *at, uint32_t kind, rtStream_t stream);
rtError_t aclrtMemcpyAsyncWithDesc(void *at, uint32_t kind, rtStream_t stream) {
    return aclrtMemcpyAsyncWithDescImpl(at, kind, stream);
}
rtError_t aclrtMemcpyBatchAsync(void **to, size_t *rooms, void **from, size_t *sizes, size_t count,
                                void *attributes, size_t *places, size_t attribute_count,
                                size_t *failed, rtStream_t stream);
rtError_t aclrtMemcpyBatchAsync(void **to, size_t *rooms, void **from, size_t *sizes, size_t count,
                                void *attributes, size_t *places, size_t attribute_count,
                                size_t *failed, rtStream_t stream) {
    return aclrtMemcpyBatchAsyncImpl(to, rooms, from, sizes, count, attributes, places,
                                     attribute_count, failed, stream);
}
rtError_t aclrtMemcpyBatchAsyncV2(void **to, size_t *rooms, void **from, size_t *sizes,
                                  size_t count, void *attributes, size_t *places,
                                  size_t attribute_count, rtStream_t stream);
rtError_t aclrtMemcpyBatchAsyncV2(void **to, size_t *rooms, void **from, size_t *sizes,
                                  size_t count, void *attributes, size_t *places,
                                  size_t attribute_count, rtStream_t stream) {
    return aclrtMemcpyBatchAsyncV2Impl(to, rooms, from, sizes, count, attributes, places,
                                       attribute_count, stream);
}
rtError_t aclrtMemManagedPrefetchAsync(const void *pointer, size_t size,
                                       aclrtMemManagedLocation place, uint32_t flags,
                                       rtStream_t stream);
rtError_t aclrtMemManagedPrefetchAsync(const void *pointer, size_t size,
                                       aclrtMemManagedLocation place, uint32_t flags,
                                       rtStream_t stream) {
    return aclrtMemManagedPrefetchAsyncImpl(pointer, size, place, flags, stream);
}
rtError_t aclrtMemManagedPrefetchBatchAsync(const void **pointers, size_t *sizes, size_t count,
                                            aclrtMemManagedLocation *places, size_t *which,
                                            size_t place_count, uint64_t flags, rtStream_t stream);
rtError_t aclrtMemManagedPrefetchBatchAsync(const void **pointers, size_t *sizes, size_t count,
                                            aclrtMemManagedLocation *places, size_t *which,
                                            size_t place_count, uint64_t flags, rtStream_t stream) {
    return aclrtMemManagedPrefetchBatchAsyncImpl(pointers, sizes, count, places, which, place_count,
                                                 flags, stream);
}
rtError_t aclrtCntNotifyCreate(rtNotify_t *notify, uint64_t flag);
rtError_t aclrtCntNotifyCreate(rtNotify_t *notify, uint64_t flag) {
    return aclrtCntNotifyCreateImpl(notify, flag);
}
rtError_t aclrtCntNotifyDestroy(rtNotify_t notify);
rtError_t aclrtCntNotifyDestroy(rtNotify_t notify) { return aclrtCntNotifyDestroyImpl(notify); }
rtError_t aclrtCntNotifyRecord(rtNotify_t notify, rtStream_t stream, void *how);
rtError_t aclrtCntNotifyRecord(rtNotify_t notify, rtStream_t stream, void *how) {
    return aclrtCntNotifyRecordImpl(notify, stream, how);
}
rtError_t aclrtCntNotifyWaitWithTimeout(rtNotify_t notify, rtStream_t stream, void *until);
rtError_t aclrtCntNotifyWaitWithTimeout(rtNotify_t notify, rtStream_t stream, void *until) {
    return aclrtCntNotifyWaitWithTimeoutImpl(notify, stream, until);
}

/* Buffers of the program's. */
aclDataBuffer *aclCreateDataBuffer(void *data, size_t size);
aclDataBuffer *aclCreateDataBuffer(void *data, size_t size) {
    return aclCreateDataBufferImpl(data, size);
}
rtError_t aclDestroyDataBuffer(const aclDataBuffer *buffer);
rtError_t aclDestroyDataBuffer(const aclDataBuffer *buffer) {
    return aclDestroyDataBufferImpl(buffer);
}
rtError_t aclUpdateDataBuffer(aclDataBuffer *buffer, void *data, size_t size);
rtError_t aclUpdateDataBuffer(aclDataBuffer *buffer, void *data, size_t size) {
    return aclUpdateDataBufferImpl(buffer, data, size);
}
void *aclGetDataBufferAddr(const aclDataBuffer *buffer);
void *aclGetDataBufferAddr(const aclDataBuffer *buffer) { return aclGetDataBufferAddrImpl(buffer); }
size_t aclGetDataBufferSizeV2(const aclDataBuffer *buffer);
size_t aclGetDataBufferSizeV2(const aclDataBuffer *buffer) {
    return aclGetDataBufferSizeV2Impl(buffer);
}
uint32_t aclGetDataBufferSize(const aclDataBuffer *buffer);
uint32_t aclGetDataBufferSize(const aclDataBuffer *buffer) {
    return aclGetDataBufferSizeImpl(buffer);
}
