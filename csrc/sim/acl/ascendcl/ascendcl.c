/* AscendCL: thin, as the real one, over what libruntime has. */
#include "ascend/runtime.h"

rtError_t aclInit(const char *config);
rtError_t aclInit(const char *config) { return aclInitImpl(config); }
rtError_t aclFinalize(void);
rtError_t aclFinalize(void) { return aclFinalizeImpl(); }
const char *aclrtGetSocName(void);
const char *aclrtGetSocName(void) { return aclrtGetSocNameImpl(); }
rtError_t aclrtGetDeviceCount(uint32_t *count);
rtError_t aclrtGetDeviceCount(uint32_t *count) { return aclrtGetDeviceCountImpl(count); }
rtError_t aclrtGetDevice(int32_t *device);
rtError_t aclrtGetDevice(int32_t *device) { return aclrtGetDeviceImpl(device); }
rtError_t aclrtDeviceGetUuid(int32_t device, rtUuid_t *uuid);
rtError_t aclrtDeviceGetUuid(int32_t device, rtUuid_t *uuid) {
    return aclrtDeviceGetUuidImpl(device, uuid);
}
rtError_t aclrtSetDevice(int32_t device);
rtError_t aclrtSetDevice(int32_t device) { return aclrtSetDeviceImpl(device); }
rtError_t aclrtResetDevice(int32_t device);
rtError_t aclrtResetDevice(int32_t device) { return aclrtResetDeviceImpl(device); }
rtError_t aclrtResetDeviceForce(int32_t device);
rtError_t aclrtResetDeviceForce(int32_t device) { return aclrtResetDeviceForceImpl(device); }
rtError_t aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active);
rtError_t aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
    return aclrtGetPrimaryCtxStateImpl(device, flags, active);
}
rtError_t aclrtCreateContext(rtContext_t *context, int32_t device);
rtError_t aclrtCreateContext(rtContext_t *context, int32_t device) {
    return aclrtCreateContextImpl(context, device);
}
rtError_t aclrtDestroyContext(rtContext_t context);
rtError_t aclrtDestroyContext(rtContext_t context) { return aclrtDestroyContextImpl(context); }
rtError_t aclrtGetCurrentContext(rtContext_t *context);
rtError_t aclrtGetCurrentContext(rtContext_t *context) {
    return aclrtGetCurrentContextImpl(context);
}
rtError_t aclrtSetCurrentContext(rtContext_t context);
rtError_t aclrtSetCurrentContext(rtContext_t context) {
    return aclrtSetCurrentContextImpl(context);
}
rtError_t aclrtMalloc(void **pointer, size_t size, uint32_t policy);
rtError_t aclrtMalloc(void **pointer, size_t size, uint32_t policy) {
    return aclrtMallocImpl(pointer, size, policy);
}
rtError_t aclrtMallocAlign32(void **pointer, size_t size, uint32_t policy);
rtError_t aclrtMallocAlign32(void **pointer, size_t size, uint32_t policy) {
    return aclrtMallocAlign32Impl(pointer, size, policy);
}
rtError_t aclrtMallocCached(void **pointer, size_t size, uint32_t policy);
rtError_t aclrtMallocCached(void **pointer, size_t size, uint32_t policy) {
    return aclrtMallocCachedImpl(pointer, size, policy);
}
rtError_t aclrtMallocWithCfg(void **pointer, size_t size, uint32_t policy,
                             rtMallocConfig_t *config);
rtError_t aclrtMallocWithCfg(void **pointer, size_t size, uint32_t policy,
                             rtMallocConfig_t *config) {
    return aclrtMallocWithCfgImpl(pointer, size, policy, config);
}
rtError_t aclrtMallocForTaskScheduler(void **pointer, size_t size, uint32_t policy,
                                      rtMallocConfig_t *config);
rtError_t aclrtMallocForTaskScheduler(void **pointer, size_t size, uint32_t policy,
                                      rtMallocConfig_t *config) {
    return aclrtMallocForTaskSchedulerImpl(pointer, size, policy, config);
}
rtError_t aclrtMemAllocManaged(void **pointer, uint64_t size, uint32_t flag);
rtError_t aclrtMemAllocManaged(void **pointer, uint64_t size, uint32_t flag) {
    return aclrtMemAllocManagedImpl(pointer, size, flag);
}
rtError_t aclrtFree(void *pointer);
rtError_t aclrtFree(void *pointer) { return aclrtFreeImpl(pointer); }
rtError_t aclrtFreeWithDevSync(void *pointer);
rtError_t aclrtFreeWithDevSync(void *pointer) { return aclrtFreeWithDevSyncImpl(pointer); }
rtError_t aclrtMallocHost(void **pointer, size_t size);
rtError_t aclrtMallocHost(void **pointer, size_t size) {
    return aclrtMallocHostImpl(pointer, size);
}
rtError_t aclrtFreeHost(void *pointer);
rtError_t aclrtFreeHost(void *pointer) { return aclrtFreeHostImpl(pointer); }
rtError_t aclrtGetDeviceInfo(uint32_t device, uint32_t attribute, int64_t *value);
rtError_t aclrtGetDeviceInfo(uint32_t device, uint32_t attribute, int64_t *value) {
    return aclrtGetDeviceInfoImpl(device, attribute, value);
}
rtError_t aclrtGetMemInfo(uint32_t attribute, size_t *free, size_t *total);
rtError_t aclrtGetMemInfo(uint32_t attribute, size_t *free, size_t *total) {
    return aclrtGetMemInfoImpl(attribute, free, total);
}
rtError_t aclrtMemcpy(void *to, size_t room, const void *from, size_t size, uint32_t kind);
rtError_t aclrtMemcpy(void *to, size_t room, const void *from, size_t size, uint32_t kind) {
    return aclrtMemcpyImpl(to, room, from, size, kind);
}
rtError_t aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, uint32_t kind,
                           rtStream_t stream);
rtError_t aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, uint32_t kind,
                           rtStream_t stream) {
    return aclrtMemcpyAsyncImpl(to, room, from, size, kind, stream);
}
rtError_t aclrtMemset(void *pointer, size_t room, int32_t value, size_t size);
rtError_t aclrtMemset(void *pointer, size_t room, int32_t value, size_t size) {
    return aclrtMemsetImpl(pointer, room, value, size);
}
rtError_t aclrtMemsetAsync(void *pointer, size_t room, int32_t value, size_t size,
                           rtStream_t stream);
rtError_t aclrtMemsetAsync(void *pointer, size_t room, int32_t value, size_t size,
                           rtStream_t stream) {
    return aclrtMemsetAsyncImpl(pointer, room, value, size, stream);
}
rtError_t aclrtMallocPhysical(rtDrvMemHandle *handle, size_t size, const aclrtPhysicalMemProp *prop,
                              uint64_t flags);
rtError_t aclrtMallocPhysical(rtDrvMemHandle *handle, size_t size, const aclrtPhysicalMemProp *prop,
                              uint64_t flags) {
    return aclrtMallocPhysicalImpl(handle, size, prop, flags);
}
rtError_t aclrtFreePhysical(rtDrvMemHandle handle);
rtError_t aclrtFreePhysical(rtDrvMemHandle handle) { return aclrtFreePhysicalImpl(handle); }
rtError_t aclrtReserveMemAddress(void **pointer, size_t size, size_t alignment, void *wish,
                                 uint64_t flags);
rtError_t aclrtReserveMemAddress(void **pointer, size_t size, size_t alignment, void *wish,
                                 uint64_t flags) {
    return aclrtReserveMemAddressImpl(pointer, size, alignment, wish, flags);
}
rtError_t aclrtReleaseMemAddress(void *pointer);
rtError_t aclrtReleaseMemAddress(void *pointer) { return aclrtReleaseMemAddressImpl(pointer); }
rtError_t aclrtMapMem(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,
                      uint64_t flags);
rtError_t aclrtMapMem(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,
                      uint64_t flags) {
    return aclrtMapMemImpl(pointer, size, offset, handle, flags);
}
rtError_t aclrtUnmapMem(void *pointer);
rtError_t aclrtUnmapMem(void *pointer) { return aclrtUnmapMemImpl(pointer); }
rtError_t aclrtMemRetainAllocationHandle(void *pointer, rtDrvMemHandle *handle);
rtError_t aclrtMemRetainAllocationHandle(void *pointer, rtDrvMemHandle *handle) {
    return aclrtMemRetainAllocationHandleImpl(pointer, handle);
}
rtError_t aclrtCreateStream(rtStream_t *stream);
rtError_t aclrtCreateStream(rtStream_t *stream) { return aclrtCreateStreamImpl(stream); }
rtError_t aclrtCreateStreamWithConfig(rtStream_t *stream, uint32_t priority, uint32_t flag);
rtError_t aclrtCreateStreamWithConfig(rtStream_t *stream, uint32_t priority, uint32_t flag) {
    return aclrtCreateStreamWithConfigImpl(stream, priority, flag);
}
rtError_t aclrtDestroyStream(rtStream_t stream);
rtError_t aclrtDestroyStream(rtStream_t stream) { return aclrtDestroyStreamImpl(stream); }
rtError_t aclrtDestroyStreamForce(rtStream_t stream);
rtError_t aclrtDestroyStreamForce(rtStream_t stream) { return aclrtDestroyStreamForceImpl(stream); }
rtError_t aclrtStreamQuery(rtStream_t stream, uint32_t *status);
rtError_t aclrtStreamQuery(rtStream_t stream, uint32_t *status) {
    return aclrtStreamQueryImpl(stream, status);
}
rtError_t aclrtSynchronizeStream(rtStream_t stream);
rtError_t aclrtSynchronizeStream(rtStream_t stream) { return aclrtSynchronizeStreamImpl(stream); }
rtError_t aclrtSynchronizeStreamWithTimeout(rtStream_t stream, int32_t timeout);
rtError_t aclrtSynchronizeStreamWithTimeout(rtStream_t stream, int32_t timeout) {
    return aclrtSynchronizeStreamWithTimeoutImpl(stream, timeout);
}
rtError_t aclrtSynchronizeDevice(void);
rtError_t aclrtSynchronizeDevice(void) { return aclrtSynchronizeDeviceImpl(); }
rtError_t aclrtSynchronizeDeviceWithTimeout(int32_t timeout);
rtError_t aclrtSynchronizeDeviceWithTimeout(int32_t timeout) {
    return aclrtSynchronizeDeviceWithTimeoutImpl(timeout);
}
rtError_t aclrtStreamWaitEvent(rtStream_t stream, rtEvent_t event);
rtError_t aclrtStreamWaitEvent(rtStream_t stream, rtEvent_t event) {
    return aclrtStreamWaitEventImpl(stream, event);
}
rtError_t aclrtCreateEvent(rtEvent_t *event);
rtError_t aclrtCreateEvent(rtEvent_t *event) { return aclrtCreateEventImpl(event); }
rtError_t aclrtCreateEventWithFlag(rtEvent_t *event, uint32_t flag);
rtError_t aclrtCreateEventWithFlag(rtEvent_t *event, uint32_t flag) {
    return aclrtCreateEventWithFlagImpl(event, flag);
}
rtError_t aclrtDestroyEvent(rtEvent_t event);
rtError_t aclrtDestroyEvent(rtEvent_t event) { return aclrtDestroyEventImpl(event); }
rtError_t aclrtRecordEvent(rtEvent_t event, rtStream_t stream);
rtError_t aclrtRecordEvent(rtEvent_t event, rtStream_t stream) {
    return aclrtRecordEventImpl(event, stream);
}
rtError_t aclrtQueryEventStatus(rtEvent_t event, uint32_t *status);
rtError_t aclrtQueryEventStatus(rtEvent_t event, uint32_t *status) {
    return aclrtQueryEventStatusImpl(event, status);
}
rtError_t aclrtSynchronizeEvent(rtEvent_t event);
rtError_t aclrtSynchronizeEvent(rtEvent_t event) { return aclrtSynchronizeEventImpl(event); }
rtError_t aclrtEventElapsedTime(float *ms, rtEvent_t start, rtEvent_t end);
rtError_t aclrtEventElapsedTime(float *ms, rtEvent_t start, rtEvent_t end) {
    return aclrtEventElapsedTimeImpl(ms, start, end);
}
rtError_t aclrtBinaryLoadFromFile(const char *path, void *options, rtBinHandle *handle);
rtError_t aclrtBinaryLoadFromFile(const char *path, void *options, rtBinHandle *handle) {
    return aclrtBinaryLoadFromFileImpl(path, options, handle);
}
rtError_t aclrtBinaryUnLoad(rtBinHandle handle);
rtError_t aclrtBinaryUnLoad(rtBinHandle handle) { return aclrtBinaryUnLoadImpl(handle); }
rtError_t aclrtBinaryGetFunction(const rtBinHandle handle, const char *name,
                                 rtFuncHandle *function);
rtError_t aclrtBinaryGetFunction(const rtBinHandle handle, const char *name,
                                 rtFuncHandle *function) {
    return aclrtBinaryGetFunctionImpl(handle, name, function);
}
rtError_t aclrtLaunchKernel(rtFuncHandle function, uint32_t blocks, const void *args, size_t size,
                            rtStream_t stream);
rtError_t aclrtLaunchKernel(rtFuncHandle function, uint32_t blocks, const void *args, size_t size,
                            rtStream_t stream) {
    return aclrtLaunchKernelImpl(function, blocks, args, size, stream);
}
rtError_t aclrtLaunchKernelV2(rtFuncHandle function, uint32_t blocks, const void *args, size_t size,
                              void *config, rtStream_t stream);
rtError_t aclrtLaunchKernelV2(rtFuncHandle function, uint32_t blocks, const void *args, size_t size,
                              void *config, rtStream_t stream) {
    return aclrtLaunchKernelV2Impl(function, blocks, args, size, config, stream);
}
rtError_t aclrtLaunchKernelWithHostArgs(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                        void *config, void *args, size_t size, void *holders,
                                        size_t count);
rtError_t aclrtLaunchKernelWithHostArgs(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                        void *config, void *args, size_t size, void *holders,
                                        size_t count) {
    return aclrtLaunchKernelWithHostArgsImpl(function, blocks, stream, config, args, size, holders,
                                             count);
}
rtError_t aclrtIpcMemGetExportKey(void *pointer, size_t size, char *name, size_t room,
                                  uint64_t flags);
rtError_t aclrtIpcMemGetExportKey(void *pointer, size_t size, char *name, size_t room,
                                  uint64_t flags) {
    return aclrtIpcMemGetExportKeyImpl(pointer, size, name, room, flags);
}
rtError_t aclrtIpcMemImportByKey(void **pointer, const char *name, uint64_t flags);
rtError_t aclrtIpcMemImportByKey(void **pointer, const char *name, uint64_t flags) {
    return aclrtIpcMemImportByKeyImpl(pointer, name, flags);
}
rtError_t aclrtIpcMemClose(const char *name);
rtError_t aclrtIpcMemClose(const char *name) { return aclrtIpcMemCloseImpl(name); }
rtError_t aclrtIpcMemSetImportPid(const char *name, int32_t *processes, size_t count);
rtError_t aclrtIpcMemSetImportPid(const char *name, int32_t *processes, size_t count) {
    return aclrtIpcMemSetImportPidImpl(name, processes, count);
}
rtError_t aclrtMemExportToShareableHandle(rtDrvMemHandle handle, uint32_t type, uint64_t flags,
                                          uint64_t *shareable);
rtError_t aclrtMemExportToShareableHandle(rtDrvMemHandle handle, uint32_t type, uint64_t flags,
                                          uint64_t *shareable) {
    return aclrtMemExportToShareableHandleImpl(handle, type, flags, shareable);
}
rtError_t aclrtMemExportToShareableHandleV2(rtDrvMemHandle handle, uint64_t flags, uint32_t kind,
                                            void *shareable);
rtError_t aclrtMemExportToShareableHandleV2(rtDrvMemHandle handle, uint64_t flags, uint32_t kind,
                                            void *shareable) {
    return aclrtMemExportToShareableHandleV2Impl(handle, flags, kind, shareable);
}
rtError_t aclrtMemImportFromShareableHandle(uint64_t shareable, int32_t device,
                                            rtDrvMemHandle *handle);
rtError_t aclrtMemImportFromShareableHandle(uint64_t shareable, int32_t device,
                                            rtDrvMemHandle *handle) {
    return aclrtMemImportFromShareableHandleImpl(shareable, device, handle);
}
rtError_t aclrtMemImportFromShareableHandleV2(void *shareable, uint32_t kind, uint64_t flags,
                                              rtDrvMemHandle *handle);
rtError_t aclrtMemImportFromShareableHandleV2(void *shareable, uint32_t kind, uint64_t flags,
                                              rtDrvMemHandle *handle) {
    return aclrtMemImportFromShareableHandleV2Impl(shareable, kind, flags, handle);
}
rtError_t aclmdlRIExecute(rtModel_t model, int32_t timeout);
rtError_t aclmdlRIExecute(rtModel_t model, int32_t timeout) {
    return aclmdlRIExecuteImpl(model, timeout);
}
rtError_t aclmdlRIExecuteAsync(rtModel_t model, rtStream_t stream);
rtError_t aclmdlRIExecuteAsync(rtModel_t model, rtStream_t stream) {
    return aclmdlRIExecuteAsyncImpl(model, stream);
}
rtError_t aclmdlRIDestroy(rtModel_t model);
rtError_t aclmdlRIDestroy(rtModel_t model) { return aclmdlRIDestroyImpl(model); }
rtError_t aclmdlRICaptureBegin(rtStream_t stream, uint32_t mode);
rtError_t aclmdlRICaptureBegin(rtStream_t stream, uint32_t mode) {
    return aclmdlRICaptureBeginImpl(stream, mode);
}
rtError_t aclmdlRICaptureEnd(rtStream_t stream, rtModel_t *model);
rtError_t aclmdlRICaptureEnd(rtStream_t stream, rtModel_t *model) {
    return aclmdlRICaptureEndImpl(stream, model);
}
rtError_t aclmdlRICaptureGetInfo(rtStream_t stream, uint32_t *status, rtModel_t *model);
rtError_t aclmdlRICaptureGetInfo(rtStream_t stream, uint32_t *status, rtModel_t *model) {
    return aclmdlRICaptureGetInfoImpl(stream, status, model);
}
rtError_t aclmdlRIBuildBegin(rtModel_t *model, uint32_t flag);
rtError_t aclmdlRIBuildBegin(rtModel_t *model, uint32_t flag) {
    return aclmdlRIBuildBeginImpl(model, flag);
}
rtError_t aclmdlRIBindStream(rtModel_t model, rtStream_t stream, uint32_t flag);
rtError_t aclmdlRIBindStream(rtModel_t model, rtStream_t stream, uint32_t flag) {
    return aclmdlRIBindStreamImpl(model, stream, flag);
}
rtError_t aclmdlRIEndTask(rtModel_t model, rtStream_t stream);
rtError_t aclmdlRIEndTask(rtModel_t model, rtStream_t stream) {
    return aclmdlRIEndTaskImpl(model, stream);
}
rtError_t aclmdlRIBuildEnd(rtModel_t model, void *reserve);
rtError_t aclmdlRIBuildEnd(rtModel_t model, void *reserve) {
    return aclmdlRIBuildEndImpl(model, reserve);
}
rtError_t aclmdlRIUnbindStream(rtModel_t model, rtStream_t stream);
rtError_t aclmdlRIUnbindStream(rtModel_t model, rtStream_t stream) {
    return aclmdlRIUnbindStreamImpl(model, stream);
}
rtError_t aclrtSubscribeReport(uint64_t thread, rtStream_t stream);
rtError_t aclrtSubscribeReport(uint64_t thread, rtStream_t stream) {
    return aclrtSubscribeReportImpl(thread, stream);
}
rtError_t aclrtUnSubscribeReport(uint64_t thread, rtStream_t stream);
rtError_t aclrtUnSubscribeReport(uint64_t thread, rtStream_t stream) {
    return aclrtUnSubscribeReportImpl(thread, stream);
}
rtError_t aclrtProcessReport(int32_t timeout);
rtError_t aclrtProcessReport(int32_t timeout) { return aclrtProcessReportImpl(timeout); }
rtError_t aclrtLaunchCallback(rtCallback_t function, void *data, uint32_t kind, rtStream_t stream);
rtError_t aclrtLaunchCallback(rtCallback_t function, void *data, uint32_t kind, rtStream_t stream) {
    return aclrtLaunchCallbackImpl(function, data, kind, stream);
}
rtError_t aclrtLaunchHostFunc(rtStream_t stream, rtCallback_t function, void *data);
rtError_t aclrtLaunchHostFunc(rtStream_t stream, rtCallback_t function, void *data) {
    return aclrtLaunchHostFuncImpl(stream, function, data);
}
rtError_t aclrtCreateNotify(rtNotify_t *notify, uint64_t flag);
rtError_t aclrtCreateNotify(rtNotify_t *notify, uint64_t flag) {
    return aclrtCreateNotifyImpl(notify, flag);
}
rtError_t aclrtDestroyNotify(rtNotify_t notify);
rtError_t aclrtDestroyNotify(rtNotify_t notify) { return aclrtDestroyNotifyImpl(notify); }
rtError_t aclrtRecordNotify(rtNotify_t notify, rtStream_t stream);
rtError_t aclrtRecordNotify(rtNotify_t notify, rtStream_t stream) {
    return aclrtRecordNotifyImpl(notify, stream);
}
rtError_t aclrtWaitAndResetNotify(rtNotify_t notify, rtStream_t stream, uint32_t timeout);
rtError_t aclrtWaitAndResetNotify(rtNotify_t notify, rtStream_t stream, uint32_t timeout) {
    return aclrtWaitAndResetNotifyImpl(notify, stream, timeout);
}
rtError_t aclrtNotifyGetExportKey(rtNotify_t notify, char *name, size_t room, uint64_t flags);
rtError_t aclrtNotifyGetExportKey(rtNotify_t notify, char *name, size_t room, uint64_t flags) {
    return aclrtNotifyGetExportKeyImpl(notify, name, room, flags);
}
rtError_t aclrtNotifyImportByKey(rtNotify_t *notify, const char *name, uint64_t flags);
rtError_t aclrtNotifyImportByKey(rtNotify_t *notify, const char *name, uint64_t flags) {
    return aclrtNotifyImportByKeyImpl(notify, name, flags);
}
rtError_t aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer);
rtError_t aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
    return aclrtDeviceCanAccessPeerImpl(can, device, peer);
}
rtError_t aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags);
rtError_t aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags) {
    return aclrtDeviceEnablePeerAccessImpl(peer, flags);
}
rtError_t aclrtDeviceDisablePeerAccess(int32_t peer);
rtError_t aclrtDeviceDisablePeerAccess(int32_t peer) {
    return aclrtDeviceDisablePeerAccessImpl(peer);
}
rtError_t aclrtValueWrite(void *address, uint64_t value, uint32_t flag, rtStream_t stream);
rtError_t aclrtValueWrite(void *address, uint64_t value, uint32_t flag, rtStream_t stream) {
    return aclrtValueWriteImpl(address, value, flag, stream);
}
rtError_t aclrtValueWait(void *address, uint64_t value, uint32_t flag, rtStream_t stream);
rtError_t aclrtValueWait(void *address, uint64_t value, uint32_t flag, rtStream_t stream) {
    return aclrtValueWaitImpl(address, value, flag, stream);
}
rtError_t aclrtHostRegister(void *pointer, uint64_t size, uint32_t kind, void **mapped);
rtError_t aclrtHostRegister(void *pointer, uint64_t size, uint32_t kind, void **mapped) {
    return aclrtHostRegisterImpl(pointer, size, kind, mapped);
}
rtError_t aclrtHostUnregister(void *pointer);
rtError_t aclrtHostUnregister(void *pointer) { return aclrtHostUnregisterImpl(pointer); }
rtError_t aclmdlRICaptureThreadExchangeMode(uint32_t *mode);
rtError_t aclmdlRICaptureThreadExchangeMode(uint32_t *mode) {
    return aclmdlRICaptureThreadExchangeModeImpl(mode);
}
rtError_t aclrtMemPoolCreate(rtMemPool_t *pool, const aclrtMemPoolProps *properties);
rtError_t aclrtMemPoolCreate(rtMemPool_t *pool, const aclrtMemPoolProps *properties) {
    return aclrtMemPoolCreateImpl(pool, properties);
}
rtError_t aclrtMemPoolDestroy(const rtMemPool_t pool);
rtError_t aclrtMemPoolDestroy(const rtMemPool_t pool) { return aclrtMemPoolDestroyImpl(pool); }
rtError_t aclrtMemPoolSetAttr(rtMemPool_t pool, int attribute, void *value);
rtError_t aclrtMemPoolSetAttr(rtMemPool_t pool, int attribute, void *value) {
    return aclrtMemPoolSetAttrImpl(pool, attribute, value);
}
rtError_t aclrtMemPoolGetAttr(rtMemPool_t pool, int attribute, void *value);
rtError_t aclrtMemPoolGetAttr(rtMemPool_t pool, int attribute, void *value) {
    return aclrtMemPoolGetAttrImpl(pool, attribute, value);
}
rtError_t aclrtMemPoolTrimTo(rtMemPool_t pool, size_t keep);
rtError_t aclrtMemPoolTrimTo(rtMemPool_t pool, size_t keep) {
    return aclrtMemPoolTrimToImpl(pool, keep);
}
rtError_t aclrtMemPoolMallocAsync(void **pointer, size_t size, rtMemPool_t pool, rtStream_t stream);
rtError_t aclrtMemPoolMallocAsync(void **pointer, size_t size, rtMemPool_t pool,
                                  rtStream_t stream) {
    return aclrtMemPoolMallocAsyncImpl(pointer, size, pool, stream);
}
rtError_t aclrtMemPoolFreeAsync(void *pointer, rtStream_t stream);
rtError_t aclrtMemPoolFreeAsync(void *pointer, rtStream_t stream) {
    return aclrtMemPoolFreeAsyncImpl(pointer, stream);
}
