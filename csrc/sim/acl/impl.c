/* What AscendCL's functions are thin wrappers over: each calls the runtime by its exported name. */
#include "acl_sim.h"

#include <stdio.h>

rtError_t aclInitImpl(const char *config) {
    (void)config;
    return acl_begin();
}
rtError_t aclFinalizeImpl(void) { return RT_OK; }

const char *aclrtGetSocNameImpl(void) {
    static char name[128];
    if (acl_begin() != RT_OK)
        return NULL;
    snprintf(name, sizeof name, "Ascend%s", sim_device_config(0)->name);
    return name;
}

/* -- Devices and contexts ---------------------------------------------------------------------------- */

rtError_t aclrtGetDeviceCountImpl(uint32_t *count) {
    int32_t found;
    rtError_t result = count ? rtGetDeviceCount(&found) : RT_PARAM_INVALID;
    if (result == RT_OK)
        *count = (uint32_t)found;
    return result;
}
rtError_t aclrtGetDeviceImpl(int32_t *device) { return rtGetDevice(device); }
rtError_t aclrtDeviceGetUuidImpl(int32_t device, rtUuid_t *uuid) {
    return rtGetDeviceUuid(device, uuid);
}
rtError_t aclrtSetDeviceImpl(int32_t device) { return rtSetDevice(device); }
rtError_t aclrtResetDeviceImpl(int32_t device) { return rtDeviceReset(device); }
rtError_t aclrtResetDeviceForceImpl(int32_t device) { return rtDeviceResetForce(device); }
rtError_t aclrtGetPrimaryCtxStateImpl(int32_t device, uint32_t *flags, int32_t *active) {
    return rtsGetPrimaryCtxState(device, flags, active);
}
rtError_t aclrtCreateContextImpl(rtContext_t *context, int32_t device) {
    return rtCtxCreateEx(context, 0, device);
}
rtError_t aclrtDestroyContextImpl(rtContext_t context) { return rtCtxDestroyEx(context); }
rtError_t aclrtGetCurrentContextImpl(rtContext_t *context) { return rtCtxGetCurrent(context); }
rtError_t aclrtSetCurrentContextImpl(rtContext_t context) { return rtCtxSetCurrent(context); }

/* -- Memory -------------------------------------------------------------------------------------------- */

/* The bytes that the runtime is asked for: 32 more than the program asks for, in whole 32s. */
static size_t padded(size_t size) {
    return size > SIZE_MAX - 64 ? SIZE_MAX : (size + 32 + 31) / 32 * 32;
}

rtError_t aclrtMallocWithCfgImpl(void **pointer, size_t size, uint32_t policy,
                                 rtMallocConfig_t *config) {
    return size ? rtsMalloc(pointer, size, policy, 0, config) : RT_PARAM_INVALID;
}
rtError_t aclrtMallocForTaskSchedulerImpl(void **pointer, size_t size, uint32_t policy,
                                          rtMallocConfig_t *config) {
    return size ? rtsMalloc(pointer, size, policy, 2, config) : RT_PARAM_INVALID;
}
rtError_t aclrtMallocImpl(void **pointer, size_t size, uint32_t policy) {
    return size ? rtMalloc(pointer, padded(size), policy, 0) : RT_PARAM_INVALID;
}
rtError_t aclrtMallocAlign32Impl(void **pointer, size_t size, uint32_t policy) {
    return size ? rtMalloc(pointer, (size + 31) / 32 * 32, policy, 0) : RT_PARAM_INVALID;
}
rtError_t aclrtMallocCachedImpl(void **pointer, size_t size, uint32_t policy) {
    return size ? rtMallocCached(pointer, padded(size), policy, 0) : RT_PARAM_INVALID;
}
rtError_t aclrtMemAllocManagedImpl(void **pointer, uint64_t size, uint32_t flag) {
    return size ? rtMemAllocManaged(pointer, size, flag, 0) : RT_PARAM_INVALID;
}
rtError_t aclrtFreeImpl(void *pointer) { return rtFree(pointer); }
rtError_t aclrtFreeWithDevSyncImpl(void *pointer) { return rtFreeWithDevSync(pointer); }
rtError_t aclrtMallocHostImpl(void **pointer, size_t size) {
    return rtMallocHost(pointer, size, 0);
}
rtError_t aclrtFreeHostImpl(void *pointer) { return rtFreeHost(pointer); }
rtError_t aclrtGetMemInfoImpl(uint32_t attribute, size_t *free, size_t *total) {
    return rtMemGetInfoEx(attribute, free, total);
}
rtError_t aclrtGetDeviceInfoImpl(uint32_t device, uint32_t attribute, int64_t *value) {
    return rtsDeviceGetInfo(device, attribute, value);
}
rtError_t aclrtMemcpyImpl(void *to, size_t room, const void *from, size_t size, uint32_t kind) {
    return rtMemcpy(to, room, from, size, kind);
}
rtError_t aclrtMemcpyAsyncImpl(void *to, size_t room, const void *from, size_t size, uint32_t kind,
                               rtStream_t stream) {
    return rtMemcpyAsync(to, room, from, size, kind, stream);
}
rtError_t aclrtMemsetImpl(void *pointer, size_t room, int32_t value, size_t size) {
    return rtMemset(pointer, room, (uint32_t)value, size);
}
rtError_t aclrtMemsetAsyncImpl(void *pointer, size_t room, int32_t value, size_t size,
                               rtStream_t stream) {
    return rtMemsetAsync(pointer, room, (uint32_t)value, size, stream);
}
rtError_t aclrtMallocPhysicalImpl(rtDrvMemHandle *handle, size_t size,
                                  const aclrtPhysicalMemProp *prop, uint64_t flags) {
    if (!prop || prop->handleType || prop->allocationType)
        return RT_PARAM_INVALID;
    rtDrvMemProp_t wanted = {.side = prop->location.type == ACL_MEM_LOCATION_TYPE_DEVICE,
                             .devid = prop->location.id};
    return rtMallocPhysical(handle, size, &wanted, flags);
}
rtError_t aclrtFreePhysicalImpl(rtDrvMemHandle handle) { return rtFreePhysical(handle); }
rtError_t aclrtReserveMemAddressImpl(void **pointer, size_t size, size_t alignment, void *wish,
                                     uint64_t flags) {
    return rtReserveMemAddress(pointer, size, alignment, wish, flags);
}
rtError_t aclrtReleaseMemAddressImpl(void *pointer) { return rtReleaseMemAddress(pointer); }
rtError_t aclrtMapMemImpl(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,
                          uint64_t flags) {
    return rtMapMem(pointer, size, offset, handle, flags);
}
rtError_t aclrtUnmapMemImpl(void *pointer) { return rtUnmapMem(pointer); }
rtError_t aclrtIpcMemGetExportKeyImpl(void *pointer, size_t size, char *name, size_t room,
                                      uint64_t flags) {
    return rtsIpcMemGetExportKey(pointer, size, name, room > UINT32_MAX ? 0 : (uint32_t)room,
                                 flags);
}
rtError_t aclrtIpcMemImportByKeyImpl(void **pointer, const char *name, uint64_t flags) {
    return rtsIpcMemImportByKey(pointer, name, flags);
}
rtError_t aclrtIpcMemCloseImpl(const char *name) { return rtsIpcMemClose(name); }
rtError_t aclrtIpcMemSetImportPidImpl(const char *name, int32_t *processes, size_t count) {
    return rtsIpcMemSetImportPid(name, processes, count > INT32_MAX ? 0 : (int)count);
}
rtError_t aclrtMemExportToShareableHandleImpl(rtDrvMemHandle handle, uint32_t type, uint64_t flags,
                                              uint64_t *shareable) {
    return rtsMemExportToShareableHandle(handle, type, flags, shareable);
}
rtError_t aclrtMemExportToShareableHandleV2Impl(rtDrvMemHandle handle, uint64_t flags,
                                                uint32_t kind, void *shareable) {
    return rtMemExportToShareableHandleV2(handle, kind, flags, shareable);
}
rtError_t aclrtMemImportFromShareableHandleImpl(uint64_t shareable, int32_t device,
                                                rtDrvMemHandle *handle) {
    return rtsMemImportFromShareableHandle(shareable, device, handle);
}
rtError_t aclrtMemImportFromShareableHandleV2Impl(void *shareable, uint32_t kind, uint64_t flags,
                                                  rtDrvMemHandle *handle) {
    int32_t device;
    rtError_t result = rtGetDevice(&device);
    return result == RT_OK
               ? rtMemImportFromShareableHandleV2(shareable, kind, flags, device, handle)
               : result;
}
rtError_t aclrtMemRetainAllocationHandleImpl(void *pointer, rtDrvMemHandle *handle) {
    return rtMemRetainAllocationHandle(pointer, handle);
}

/* -- Streams and events ---------------------------------------------------------------------------------- */

rtError_t aclrtCreateStreamImpl(rtStream_t *stream) { return rtStreamCreate(stream, 0); }
rtError_t aclrtCreateStreamWithConfigImpl(rtStream_t *stream, uint32_t priority, uint32_t flag) {
    return rtStreamCreateWithFlags(stream, (int32_t)priority, flag);
}
rtError_t aclrtDestroyStreamImpl(rtStream_t stream) { return rtStreamDestroy(stream); }
rtError_t aclrtDestroyStreamForceImpl(rtStream_t stream) { return rtStreamDestroyForce(stream); }
rtError_t aclrtStreamQueryImpl(rtStream_t stream, uint32_t *status) {
    if (!status)
        return RT_PARAM_INVALID;
    rtError_t result = rtStreamQuery(stream);
    *status = result == RT_STREAM_NOT_COMPLETE;
    return result == RT_STREAM_NOT_COMPLETE ? RT_OK : result;
}
rtError_t aclrtSynchronizeStreamImpl(rtStream_t stream) { return rtStreamSynchronize(stream); }
rtError_t aclrtSynchronizeStreamWithTimeoutImpl(rtStream_t stream, int32_t timeout) {
    return rtStreamSynchronizeWithTimeout(stream, timeout);
}
rtError_t aclrtSynchronizeDeviceImpl(void) { return rtDeviceSynchronize(); }
rtError_t aclrtSynchronizeDeviceWithTimeoutImpl(int32_t timeout) {
    return rtDeviceSynchronizeWithTimeout(timeout);
}
rtError_t aclrtStreamWaitEventImpl(rtStream_t stream, rtEvent_t event) {
    return rtStreamWaitEvent(stream, event);
}
rtError_t aclrtCreateEventImpl(rtEvent_t *event) { return rtEventCreate(event); }
rtError_t aclrtCreateEventWithFlagImpl(rtEvent_t *event, uint32_t flag) {
    return rtEventCreateWithFlag(event, flag);
}
rtError_t aclrtDestroyEventImpl(rtEvent_t event) { return rtEventDestroy(event); }
rtError_t aclrtRecordEventImpl(rtEvent_t event, rtStream_t stream) {
    return rtEventRecord(event, stream);
}
rtError_t aclrtQueryEventStatusImpl(rtEvent_t event, uint32_t *status) {
    return rtEventQueryStatus(event, status);
}
rtError_t aclrtSynchronizeEventImpl(rtEvent_t event) { return rtEventSynchronize(event); }
rtError_t aclrtEventElapsedTimeImpl(float *ms, rtEvent_t start, rtEvent_t end) {
    return rtEventElapsedTime(ms, start, end);
}

/* -- Kernels ------------------------------------------------------------------------------------------------ */

rtError_t aclrtBinaryLoadFromFileImpl(const char *path, void *options, rtBinHandle *handle) {
    return rtsBinaryLoadFromFile(path, options, handle);
}
rtError_t aclrtBinaryUnLoadImpl(rtBinHandle handle) { return rtBinaryUnLoad(handle); }
rtError_t aclrtBinaryGetFunctionImpl(const rtBinHandle handle, const char *name,
                                     rtFuncHandle *function) {
    return rtsFuncGetByName(handle, name, function);
}
rtError_t aclrtLaunchKernelImpl(rtFuncHandle function, uint32_t blocks, const void *args,
                                size_t size, rtStream_t stream) {
    rtArgsEx_t wrapped = {.args = size >= sizeof(uint64_t) ? (void *)(uintptr_t)args : NULL};
    return rtLaunchKernelByFuncHandleV3(function, blocks, &wrapped, stream, NULL);
}
rtError_t aclrtLaunchKernelV2Impl(rtFuncHandle function, uint32_t blocks, const void *args,
                                  size_t size, void *config, rtStream_t stream) {
    return rtsLaunchKernelWithDevArgs(function, blocks, stream, config, args, (uint32_t)size, NULL);
}
rtError_t aclrtLaunchKernelWithHostArgsImpl(rtFuncHandle function, uint32_t blocks,
                                            rtStream_t stream, void *config, void *args,
                                            size_t size, void *holders, size_t count) {
    return rtsLaunchKernelWithHostArgs(function, blocks, stream, config, args, (uint32_t)size,
                                       holders, (uint32_t)count);
}

/* -- Models, callbacks, notifies and peers --------------------------------------------------------------- */

rtError_t aclmdlRIExecuteImpl(rtModel_t model, int32_t timeout) {
    return rtsModelExecute(model, timeout);
}
rtError_t aclmdlRIExecuteAsyncImpl(rtModel_t model, rtStream_t stream) {
    return rtsModelExecuteAsync(model, stream);
}
rtError_t aclmdlRIDestroyImpl(rtModel_t model) { return rtModelDestroy(model); }
rtError_t aclmdlRICaptureBeginImpl(rtStream_t stream, uint32_t mode) {
    return rtStreamBeginCapture(stream, mode);
}
rtError_t aclmdlRICaptureEndImpl(rtStream_t stream, rtModel_t *model) {
    return rtStreamEndCapture(stream, model);
}
rtError_t aclmdlRICaptureGetInfoImpl(rtStream_t stream, uint32_t *status, rtModel_t *model) {
    return rtStreamGetCaptureInfo(stream, status, model);
}
rtError_t aclmdlRIBuildBeginImpl(rtModel_t *model, uint32_t flag) {
    return rtsModelCreate(model, flag);
}
rtError_t aclmdlRIBindStreamImpl(rtModel_t model, rtStream_t stream, uint32_t flag) {
    return rtsModelBindStream(model, stream, flag);
}
rtError_t aclmdlRIEndTaskImpl(rtModel_t model, rtStream_t stream) {
    return rtsEndGraph(model, stream);
}
rtError_t aclmdlRIBuildEndImpl(rtModel_t model, void *reserve) {
    return rtsModelLoadComplete(model, reserve);
}
rtError_t aclmdlRIUnbindStreamImpl(rtModel_t model, rtStream_t stream) {
    return rtsModelUnbindStream(model, stream);
}
rtError_t aclrtSubscribeReportImpl(uint64_t thread, rtStream_t stream) {
    return rtSubscribeReport(thread, stream);
}
rtError_t aclrtUnSubscribeReportImpl(uint64_t thread, rtStream_t stream) {
    return rtUnSubscribeReport(thread, stream);
}
rtError_t aclrtProcessReportImpl(int32_t timeout) { return rtProcessReport(timeout); }
rtError_t aclrtLaunchCallbackImpl(rtCallback_t function, void *data, uint32_t kind,
                                  rtStream_t stream) {
    return kind > 1 ? RT_PARAM_INVALID : rtCallbackLaunch(function, data, stream, kind == 1);
}
rtError_t aclrtLaunchHostFuncImpl(rtStream_t stream, rtCallback_t function, void *data) {
    return rtsLaunchHostFunc(stream, function, data);
}
rtError_t aclrtCreateNotifyImpl(rtNotify_t *notify, uint64_t flag) {
    return rtsNotifyCreate(notify, flag);
}
rtError_t aclrtDestroyNotifyImpl(rtNotify_t notify) { return rtsNotifyDestroy(notify); }
rtError_t aclrtRecordNotifyImpl(rtNotify_t notify, rtStream_t stream) {
    return rtsNotifyRecord(notify, stream);
}
rtError_t aclrtWaitAndResetNotifyImpl(rtNotify_t notify, rtStream_t stream, uint32_t timeout) {
    return rtsNotifyWaitAndReset(notify, stream, timeout);
}
rtError_t aclrtNotifyGetExportKeyImpl(rtNotify_t notify, char *name, size_t room, uint64_t flags) {
    return rtsNotifyGetExportKey(notify, name, room > UINT32_MAX ? 0 : (uint32_t)room, flags);
}
rtError_t aclrtNotifyImportByKeyImpl(rtNotify_t *notify, const char *name, uint64_t flags) {
    return rtsNotifyImportByKey(notify, name, flags);
}
rtError_t aclrtDeviceCanAccessPeerImpl(int32_t *can, int32_t device, int32_t peer) {
    return device < 0 || peer < 0 ? RT_PARAM_INVALID
                                  : rtDeviceCanAccessPeer(can, (uint32_t)device, (uint32_t)peer);
}
rtError_t aclrtDeviceEnablePeerAccessImpl(int32_t peer, uint32_t flags) {
    int32_t device;
    rtError_t result = rtGetDevice(&device);
    if (result != RT_OK)
        return result;
    return peer < 0 ? RT_PARAM_INVALID : rtEnableP2P((uint32_t)device, (uint32_t)peer, flags);
}
rtError_t aclrtDeviceDisablePeerAccessImpl(int32_t peer) {
    int32_t device;
    rtError_t result = rtGetDevice(&device);
    if (result != RT_OK)
        return result;
    return peer < 0 ? RT_PARAM_INVALID : rtDisableP2P((uint32_t)device, (uint32_t)peer);
}
rtError_t aclrtValueWriteImpl(void *address, uint64_t value, uint32_t flag, rtStream_t stream) {
    return rtsValueWrite(address, value, flag, stream);
}
rtError_t aclrtValueWaitImpl(void *address, uint64_t value, uint32_t flag, rtStream_t stream) {
    return rtsValueWait(address, value, flag, stream);
}
rtError_t aclrtHostRegisterImpl(void *pointer, uint64_t size, uint32_t kind, void **mapped) {
    return rtsHostRegister(pointer, size, kind, mapped);
}
rtError_t aclrtHostUnregisterImpl(void *pointer) { return rtsHostUnregister(pointer); }
rtError_t aclmdlRICaptureThreadExchangeModeImpl(uint32_t *mode) {
    return rtThreadExchangeCaptureMode(mode);
}
rtError_t aclrtMemPoolCreateImpl(rtMemPool_t *pool, const aclrtMemPoolProps *properties) {
    if (!properties)
        return RT_PARAM_INVALID;
    const rtMemPoolProps wanted = {.side = properties->location.type == ACL_MEM_LOCATION_TYPE_DEVICE
                                               ? RT_MEM_DEV_SIDE
                                               : RT_MEM_HOST_SIDE,
                                   .devId = properties->location.id,
                                   .maxSize = properties->maxSize};
    return rtMemPoolCreate(pool, &wanted);
}
rtError_t aclrtMemPoolDestroyImpl(const rtMemPool_t pool) { return rtMemPoolDestroy(pool); }
rtError_t aclrtMemPoolSetAttrImpl(rtMemPool_t pool, int attribute, void *value) {
    return rtMemPoolSetAttr(pool, attribute, value);
}
rtError_t aclrtMemPoolGetAttrImpl(rtMemPool_t pool, int attribute, void *value) {
    return rtMemPoolGetAttr(pool, attribute, value);
}
rtError_t aclrtMemPoolTrimToImpl(rtMemPool_t pool, size_t keep) {
    return rtMemPoolTrimTo(pool, keep);
}
rtError_t aclrtMemPoolMallocAsyncImpl(void **pointer, size_t size, rtMemPool_t pool,
                                      rtStream_t stream) {
    return rtMemPoolMallocAsync(pointer, size, pool, stream);
}
rtError_t aclrtMemPoolFreeAsyncImpl(void *pointer, rtStream_t stream) {
    return rtMemPoolFreeAsync(pointer, stream);
}
