/* The Ascend runtime's functions that the shim and the simulator are about, in declarations of our own.
 *
 * Names, arguments, layouts and values are those of CANN's public interface. What is passed on without
 * being looked into is an opaque pointer here. A function that AscendCL calls aclrtX is a thin wrapper in
 * libascendcl over aclrtXImpl, which calls rt* or rts*.
 *
 * Sizes are bytes; numbers of devices are those that the process counts by.
 */
#ifndef ALIQUOT_ASCEND_RUNTIME_H
#define ALIQUOT_ASCEND_RUNTIME_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int32_t rtError_t;
enum {
    RT_OK = 0,
    RT_PARAM_INVALID = 107000,
    RT_INVALID_DEVICE = 107001,
    RT_CONTEXT_NULL = 107002,
    RT_STREAM_MODEL = 107005,       /* a stream that is not the model's */
    RT_STREAM_SUBSCRIBE = 107011,   /* whose reports are, or are not, subscribed to */
    RT_STREAM_NO_CALLBACK = 107015, /* whose reports nobody has subscribed to */
    RT_STREAM_CAPTURED = 107027,
    RT_STREAM_NOT_CAPTURED = 107029,
    RT_CAPTURE_NOT_SUPPORTED = 107030, /* not in a stream that is captured */
    RT_CAPTURE_UNJOINED = 107025,      /* other streams have not come back to it */
    RT_CAPTURE_UNMATCHED = 107036,     /* a capture that was begun in another stream */
    RT_CAPTURE_WRONG_THREAD = 107038,
    RT_FEATURE_NOT_SUPPORT = 207000,
    RT_MEMORY_ALLOCATION = 207001, /* out of memory */
    RT_NO_DEVICE = 207004,
    RT_INTERNAL_ERROR = 507000,
    RT_STREAM_NOT_COMPLETE = 507004,
    RT_REPORT_TIMEOUT = 507012,
    RT_DRV_INTERNAL_ERROR = 507899,
    RT_CAPTURE_INVALIDATED = 507903,
};

typedef void *rtStream_t, *rtEvent_t, *rtContext_t, *rtModel_t, *rtNotify_t;
typedef void (*rtCallback_t)(void *data);
typedef void *rtBinHandle, *rtFuncHandle, *rtLaunchArgsHandle, *rtDrvMemHandle;

typedef struct {
    uint32_t x, y, z;
} rtDim3;
typedef struct {
    char bytes[16];
} rtUuid_t;
static_assert(sizeof(rtDim3) == 12 && sizeof(rtUuid_t) == 16, "as the vendor has them");

/* An attribute of an allocation: its value begins with a 16 bit number of a module, or is a device. */
enum { RT_MALLOC_ATTR_DEVICE_ID = 2 };
typedef struct {
    uint32_t attr;
    uint32_t value[2];
} rtMallocAttribute_t;
typedef struct {
    const rtMallocAttribute_t *attrs;
    size_t numAttrs;
} rtMallocConfig_t;
static_assert(sizeof(rtMallocAttribute_t) == 12, "as the vendor has it");
static_assert(sizeof(rtMallocConfig_t) == 16, "as the vendor has it");

/* Physical memory as the runtime's own functions describe it: where it is, and on which device. */
enum { RT_MEM_HOST_SIDE = 0, RT_MEM_DEV_SIDE = 1 };
typedef struct {
    uint32_t side, devid, module_id, pg_type, mem_type;
    uint64_t reserve;
} rtDrvMemProp_t;
static_assert(sizeof(rtDrvMemProp_t) == 32 && offsetof(rtDrvMemProp_t, devid) == 4,
              "as the vendor has it");

/* The same as AscendCL describes it. */
enum { ACL_MEM_LOCATION_TYPE_HOST = 0, ACL_MEM_LOCATION_TYPE_DEVICE = 1 };
typedef struct {
    uint32_t handleType, allocationType, memAttr;
    struct {
        uint32_t id, type;
    } location;
    uint64_t reserve;
} aclrtPhysicalMemProp;
static_assert(sizeof(aclrtPhysicalMemProp) == 32, "as the vendor has it");
static_assert(offsetof(aclrtPhysicalMemProp, location) == 12, "as the vendor has it");

/* Kinds of shareable handles of physical memory: a number that processes of this node take, or a block that
 * those of other nodes take too. */
enum { RT_MEM_SHARE_HANDLE_DEFAULT = 1, RT_MEM_SHARE_HANDLE_FABRIC = 2, RT_MEM_FABRIC_BYTES = 128 };

/* Names of shared memory and of notifies, with their final zero. */
enum { RT_IPC_NAME_BYTES = 65 };

/* Arguments of a kernel as launches by handle take them: more follows. */
typedef struct {
    void *args;
} rtArgsEx_t;

/* Code of operators, to be registered. */
typedef struct {
    uint32_t magic, version;
    const void *data;
    uint64_t length;
} rtDevBinary_t;
static_assert(sizeof(rtDevBinary_t) == 24, "as the vendor has it");

/* -- Devices and contexts ------------------------------------------------------------------------ */

rtError_t rtGetDeviceCount(int32_t *count);
rtError_t rtGetDevice(int32_t *device);
rtError_t rtGetDeviceUuid(int32_t device, rtUuid_t *uuid);
rtError_t rtSetDevice(int32_t device);
rtError_t rtSetDeviceEx(int32_t device);
rtError_t rtSetDeviceWithFlags(int32_t device, uint64_t flags);
rtError_t rtSetDeviceWithoutTsd(int32_t device);
rtError_t rtDeviceReset(int32_t device);
rtError_t rtDeviceResetForce(int32_t device);
rtError_t rtDeviceResetWithoutTsd(int32_t device);
rtError_t rtDeviceSynchronize(void);
rtError_t rtDeviceSynchronizeWithTimeout(int32_t timeout);
rtError_t rtsGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active);
rtError_t rtCtxCreate(rtContext_t *context, uint32_t flags, int32_t device);
rtError_t rtCtxCreateEx(rtContext_t *context, uint32_t flags, int32_t device);
rtError_t rtCtxDestroy(rtContext_t context);
rtError_t rtCtxDestroyEx(rtContext_t context);
rtError_t rtCtxGetCurrent(rtContext_t *context);
rtError_t rtCtxSetCurrent(rtContext_t context);

/* -- Memory ---------------------------------------------------------------------------------------- */

rtError_t rtMalloc(void **pointer, uint64_t size, uint32_t type, const uint16_t module);
rtError_t rtMallocCached(void **pointer, uint64_t size, uint32_t type, const uint16_t module);
rtError_t rtMemAlloc(void **pointer, uint64_t size, uint32_t policy, uint32_t advise,
                     rtMallocConfig_t *config);
rtError_t rtsMalloc(void **pointer, uint64_t size, uint32_t policy, uint32_t advise,
                    rtMallocConfig_t *config);
rtError_t rtMemAllocManaged(void **pointer, uint64_t size, uint32_t flag, const uint16_t module);
rtError_t rtDvppMalloc(void **pointer, uint64_t size, uint16_t module);
rtError_t rtDvppMallocWithFlag(void **pointer, uint64_t size, uint32_t flag, uint16_t module);
rtError_t rtFree(void *pointer);
rtError_t rtFreeWithDevSync(void *pointer);
rtError_t rtMemFreeManaged(void *pointer);
rtError_t rtDvppFree(void *pointer);
rtError_t rtMemGetInfo(size_t *free, size_t *total);
rtError_t rtMemGetInfoEx(uint32_t type, size_t *free, size_t *total);
rtError_t rtMallocHost(void **pointer, uint64_t size, const uint16_t module);
rtError_t rtFreeHost(void *pointer);
rtError_t rtMemcpy(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind);
rtError_t rtMemcpyAsync(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                        rtStream_t stream);
rtError_t rtMemset(void *pointer, uint64_t room, uint32_t value, uint64_t size);
rtError_t rtMemsetAsync(void *pointer, uint64_t room, uint32_t value, uint64_t size,
                        rtStream_t stream);

rtError_t rtMallocPhysical(rtDrvMemHandle *handle, size_t size, rtDrvMemProp_t *prop,
                           uint64_t flags);
rtError_t rtFreePhysical(rtDrvMemHandle handle);
rtError_t rtReserveMemAddress(void **pointer, size_t size, size_t alignment, void *wish,
                              uint64_t flags);
rtError_t rtReleaseMemAddress(void *pointer);
rtError_t rtMapMem(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,
                   uint64_t flags);
rtError_t rtUnmapMem(void *pointer);
rtError_t rtMemRetainAllocationHandle(void *pointer, rtDrvMemHandle *handle);

rtError_t rtsFree(void *pointer);
rtError_t rtsMemGetInfo(uint32_t type, size_t *free, size_t *total);
rtError_t rtsMemMallocPhysical(rtDrvMemHandle *handle, size_t size, uint32_t policy,
                               rtMallocConfig_t *config);
rtError_t rtsMemFreePhysical(rtDrvMemHandle *handle);
rtError_t rtsMemMap(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,
                    uint64_t flags);
rtError_t rtsMemUnmap(void *pointer);
rtError_t rtMemGetAddressRange(void *pointer, void **base, size_t *size);

/* -- Memory of other processes ------------------------------------------------------------------------- */

/* The memory gets a name, written to `name`, which has `room` bytes. */
rtError_t rtIpcSetMemoryName(const void *pointer, uint64_t size, char *name, uint32_t room);
rtError_t rtIpcDestroyMemoryName(const char *name);
rtError_t rtIpcOpenMemory(void **pointer, const char *name);
rtError_t rtIpcCloseMemory(const void *pointer);
/* Who may open it, by process: others may not, unless it was exported with that flag. */
enum { RT_IPC_MEM_EXPORT_ANY_PROCESS = 1 };
rtError_t rtSetIpcMemPid(const char *name, int32_t processes[], int32_t count);
rtError_t rtsIpcMemGetExportKey(const void *pointer, size_t size, char *name, uint32_t room,
                                uint64_t flags);
rtError_t rtsIpcMemImportByKey(void **pointer, const char *name, uint64_t flags);
rtError_t rtsIpcMemClose(const char *name);
rtError_t rtsIpcMemSetImportPid(const char *name, int32_t processes[], int count);

rtError_t rtMemExportToShareableHandle(rtDrvMemHandle handle, uint32_t type, uint64_t flags,
                                       uint64_t *shareable);
rtError_t rtMemExportToShareableHandleV2(rtDrvMemHandle handle, uint32_t kind, uint64_t flags,
                                         void *shareable);
rtError_t rtsMemExportToShareableHandle(rtDrvMemHandle handle, uint32_t type, uint64_t flags,
                                        uint64_t *shareable);
rtError_t rtMemImportFromShareableHandle(uint64_t shareable, int32_t device,
                                         rtDrvMemHandle *handle);
rtError_t rtMemImportFromShareableHandleV2(const void *shareable, uint32_t kind, uint64_t flags,
                                           int32_t device, rtDrvMemHandle *handle);
rtError_t rtsMemImportFromShareableHandle(uint64_t shareable, int32_t device,
                                          rtDrvMemHandle *handle);
rtError_t rtMemSetPidToShareableHandle(uint64_t shareable, int processes[], uint32_t count);

/* -- Streams and events ------------------------------------------------------------------------------ */

rtError_t rtStreamCreate(rtStream_t *stream, int32_t priority);
rtError_t rtStreamCreateWithFlags(rtStream_t *stream, int32_t priority, uint32_t flags);
rtError_t rtStreamDestroy(rtStream_t stream);
rtError_t rtStreamDestroyForce(rtStream_t stream);
rtError_t rtStreamQuery(rtStream_t stream);
rtError_t rtStreamSynchronize(rtStream_t stream);
rtError_t rtStreamSynchronizeWithTimeout(rtStream_t stream, int32_t timeout);
rtError_t rtStreamWaitEvent(rtStream_t stream, rtEvent_t event);
/* `*status`: RT_CAPTURE_NONE, or the stream's work is only being recorded. */
enum { RT_CAPTURE_NONE = 0, RT_CAPTURE_ACTIVE = 1 };
rtError_t rtStreamGetCaptureInfo(rtStream_t stream, uint32_t *status, rtModel_t *model);
rtError_t rtStreamBeginCapture(rtStream_t stream, const uint32_t mode);
rtError_t rtStreamEndCapture(rtStream_t stream, rtModel_t *model);
/* How strict a capture is: calls that a thread makes in relaxed mode do not invalidate any. */
enum { RT_CAPTURE_MODE_GLOBAL = 0, RT_CAPTURE_MODE_RELAXED = 2 };
rtError_t rtThreadExchangeCaptureMode(uint32_t *mode);

/* Words of 64 bits. */
enum { RT_VALUE_WAIT_GEQ, RT_VALUE_WAIT_EQ, RT_VALUE_WAIT_AND, RT_VALUE_WAIT_NOR };
rtError_t rtsValueWrite(const void *const address, const uint64_t value, const uint32_t flag,
                        rtStream_t stream);
rtError_t rtsValueWait(const void *const address, const uint64_t value, const uint32_t flag,
                       rtStream_t stream);
rtError_t rtsHostRegister(void *pointer, uint64_t size, uint32_t kind, void **mapped);
rtError_t rtsHostUnregister(void *pointer);
rtError_t rtsStreamDestroy(rtStream_t stream, uint64_t flags);
rtError_t rtsStreamQuery(rtStream_t stream);
rtError_t rtsStreamSynchronize(rtStream_t stream, int32_t timeout);

rtError_t rtEventCreate(rtEvent_t *event);
rtError_t rtEventCreateWithFlag(rtEvent_t *event, uint32_t flag);
rtError_t rtEventDestroy(rtEvent_t event);
rtError_t rtEventRecord(rtEvent_t event, rtStream_t stream);
/* `*status`: RT_EVENT_RECORDED once what was recorded is done. */
enum { RT_EVENT_INIT = 0, RT_EVENT_RECORDED = 1 };
rtError_t rtEventQueryStatus(rtEvent_t event, uint32_t *status);
rtError_t rtEventSynchronize(rtEvent_t event);
rtError_t rtEventElapsedTime(float *ms, rtEvent_t start, rtEvent_t end);

rtError_t rtEventSynchronizeWithTimeout(rtEvent_t event, const int32_t timeout);
rtError_t rtsEventSynchronize(rtEvent_t event, const int32_t timeout);

/* A mark that one stream sets and another waits for and clears, perhaps of another process. */
rtError_t rtNotifyCreate(int32_t device, rtNotify_t *notify);
rtError_t rtNotifyDestroy(rtNotify_t notify);
rtError_t rtNotifyRecord(rtNotify_t notify, rtStream_t stream);
rtError_t rtNotifyWait(rtNotify_t notify, rtStream_t stream);
rtError_t rtNotifyWaitWithTimeOut(rtNotify_t notify, rtStream_t stream, uint32_t timeout);
rtError_t rtNotifyReset(rtNotify_t notify);
rtError_t rtIpcSetNotifyName(rtNotify_t notify, char *name, uint32_t room);
rtError_t rtIpcOpenNotify(rtNotify_t *notify, const char *name);
rtError_t rtsNotifyCreate(rtNotify_t *notify, uint64_t flag);
rtError_t rtsNotifyDestroy(rtNotify_t notify);
rtError_t rtsNotifyRecord(rtNotify_t notify, rtStream_t stream);
rtError_t rtsNotifyWaitAndReset(rtNotify_t notify, rtStream_t stream, uint32_t timeout);
rtError_t rtsNotifyGetExportKey(rtNotify_t notify, char *name, uint32_t room, uint64_t flag);
rtError_t rtsNotifyImportByKey(rtNotify_t *notify, const char *name, uint64_t flag);

/* Functions of the program's in a stream: by the thread that asks for reports, which the stream may wait
 * for (`holds`), or where they stand. */
rtError_t rtSubscribeReport(uint64_t thread, rtStream_t stream);
rtError_t rtUnSubscribeReport(uint64_t thread, rtStream_t stream);
rtError_t rtProcessReport(int32_t timeout);
rtError_t rtCallbackLaunch(rtCallback_t function, void *data, rtStream_t stream, bool holds);
rtError_t rtsCallbackLaunch(rtCallback_t function, void *data, rtStream_t stream, bool holds);
rtError_t rtsLaunchHostFunc(rtStream_t stream, const rtCallback_t function, void *const data);

/* Devices that reach each other's memory: the first by its number here, the other by that of the node. */
rtError_t rtEnableP2P(uint32_t device, uint32_t peer, uint32_t flag);
rtError_t rtDisableP2P(uint32_t device, uint32_t peer);
rtError_t rtDeviceCanAccessPeer(int32_t *can, uint32_t device, uint32_t peer);

/* -- Kernels ----------------------------------------------------------------------------------------- */

rtError_t rtDevBinaryRegister(const rtDevBinary_t *binary, void **handle);
rtError_t rtDevBinaryUnRegister(void *handle);
rtError_t rtFunctionRegister(void *handle, const void *stub, const char *name, const void *info,
                             uint32_t mode);
rtError_t rtsBinaryLoadFromFile(const char *path, const void *config, rtBinHandle *handle);
rtError_t rtBinaryUnLoad(rtBinHandle handle);
rtError_t rtsFuncGetByName(const rtBinHandle handle, const char *name, rtFuncHandle *function);

rtError_t rtConfigureCall(uint32_t blocks, void *shared, rtStream_t stream);
rtError_t rtSetupArgument(const void *args, uint32_t size, uint32_t offset);
rtError_t rtLaunch(const void *stub);
rtError_t rtKernelLaunch(const void *stub, uint32_t blocks, void *args, uint32_t size, void *shared,
                         rtStream_t stream);
rtError_t rtKernelLaunchWithFlag(const void *stub, uint32_t blocks, rtArgsEx_t *args, void *shared,
                                 rtStream_t stream, uint32_t flags);
rtError_t rtKernelLaunchWithFlagV2(const void *stub, uint32_t blocks, rtArgsEx_t *args,
                                   void *shared, rtStream_t stream, uint32_t flags,
                                   const void *config);
rtError_t rtKernelLaunchWithHandle(void *handle, const uint64_t key, uint32_t blocks,
                                   rtArgsEx_t *args, void *shared, rtStream_t stream,
                                   const void *info);
rtError_t rtKernelLaunchWithHandleV2(void *handle, const uint64_t key, uint32_t blocks,
                                     rtArgsEx_t *args, void *shared, rtStream_t stream,
                                     const void *config);
rtError_t rtKernelLaunchEx(void *args, uint32_t size, uint32_t flags, rtStream_t stream);
rtError_t rtKernelLaunchFwk(const char *name, void *args, uint32_t size, uint32_t flags,
                            rtStream_t stream);
rtError_t rtCpuKernelLaunchWithFlag(const void *library, const void *kernel, uint32_t blocks,
                                    const rtArgsEx_t *args, void *shared, rtStream_t stream,
                                    uint32_t flags);
rtError_t rtAicpuKernelLaunchWithFlag(const void *names, uint32_t blocks, const rtArgsEx_t *args,
                                      void *shared, rtStream_t stream, uint32_t flags);
rtError_t rtAicpuKernelLaunchExWithArgs(const uint32_t type, const char *const name,
                                        const uint32_t blocks, const void *args, void *shared,
                                        const rtStream_t stream, const uint32_t flags);
rtError_t rtLaunchKernelByFuncHandle(rtFuncHandle function, uint32_t blocks,
                                     rtLaunchArgsHandle args, rtStream_t stream);
rtError_t rtLaunchKernelByFuncHandleV2(rtFuncHandle function, uint32_t blocks,
                                       rtLaunchArgsHandle args, rtStream_t stream,
                                       const void *config);
rtError_t rtLaunchKernelByFuncHandleV3(rtFuncHandle function, uint32_t blocks,
                                       const rtArgsEx_t *args, rtStream_t stream,
                                       const void *config);
rtError_t rtVectorCoreKernelLaunch(const void *stub, uint32_t blocks, rtArgsEx_t *args,
                                   void *shared, rtStream_t stream, uint32_t flags,
                                   const void *config);
rtError_t rtVectorCoreKernelLaunchWithHandle(void *handle, const uint64_t key, uint32_t blocks,
                                             rtArgsEx_t *args, void *shared, rtStream_t stream,
                                             const void *config);
rtError_t rtLaunchKernelWithArgsArray(void *function, uint32_t blocks, rtStream_t stream,
                                      void *config, void **args);
rtError_t rtLaunchSIMTKernelWithArgsArray(void *function, rtDim3 grid, rtDim3 block, size_t shared,
                                          rtStream_t stream, void *config, void **args);
rtError_t rtLaunchSIMTKernelWithHostArgs(void *function, rtDim3 grid, rtDim3 block, size_t shared,
                                         rtStream_t stream, void *config, void *args, size_t size,
                                         void *holders, size_t count);
rtError_t rtsLaunchKernelWithConfig(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                    void *config, void *args, void *reserve);
rtError_t rtsLaunchKernelWithDevArgs(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                     void *config, const void *args, uint32_t size, void *reserve);
rtError_t rtsLaunchKernelWithHostArgs(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                      void *config, void *args, uint32_t size, void *holders,
                                      uint32_t count);
rtError_t rtsLaunchRandomNumTask(const void *task, const rtStream_t stream, void *reserve);
rtError_t rtsLaunchReduceAsyncTask(const void *task, const rtStream_t stream, void *reserve);
rtError_t rtFftsPlusTaskLaunch(void *task, rtStream_t stream);
rtError_t rtFftsPlusTaskLaunchWithFlag(void *task, rtStream_t stream, uint32_t flag);
rtError_t rtStarsTaskLaunch(const void *task, uint32_t size, rtStream_t stream);
rtError_t rtStarsTaskLaunchWithFlag(const void *task, uint32_t size, rtStream_t stream,
                                    uint32_t flag);
rtError_t rtMultipleTaskInfoLaunch(const void *tasks, rtStream_t stream);
rtError_t rtModelExecute(rtModel_t model, rtStream_t stream, uint32_t flag);
rtError_t rtModelExecuteAsync(rtModel_t model, rtStream_t stream, uint32_t flag);
rtError_t rtModelExecuteSync(rtModel_t model, rtStream_t stream, uint32_t flag, int32_t timeout);
rtError_t rtsModelExecute(rtModel_t model, int32_t timeout);
rtError_t rtsModelExecuteAsync(rtModel_t model, rtStream_t stream);
rtError_t rtModelDestroy(rtModel_t model);
rtError_t rtsModelDestroy(rtModel_t model);
/* What is put in a stream that is bound is the model's, and is done when that is executed. */
rtError_t rtModelCreate(rtModel_t *model, uint32_t flag);
rtError_t rtModelBindStream(rtModel_t model, rtStream_t stream, uint32_t flag);
rtError_t rtModelUnbindStream(rtModel_t model, rtStream_t stream);
rtError_t rtEndGraph(rtModel_t model, rtStream_t stream);
rtError_t rtModelLoadComplete(rtModel_t model);
rtError_t rtsModelCreate(rtModel_t *model, uint32_t flag);
rtError_t rtsModelBindStream(rtModel_t model, rtStream_t stream, uint32_t flag);
rtError_t rtsModelUnbindStream(rtModel_t model, rtStream_t stream);
rtError_t rtsEndGraph(rtModel_t model, rtStream_t stream);
rtError_t rtsModelLoadComplete(rtModel_t model, void *reserve);

/* -- Below AscendCL: each has the arguments of the public function ------------------------------------ */

rtError_t aclInitImpl(const char *config);
rtError_t aclFinalizeImpl(void);
const char *aclrtGetSocNameImpl(void);
rtError_t aclrtGetDeviceCountImpl(uint32_t *count);
rtError_t aclrtGetDeviceImpl(int32_t *device);
rtError_t aclrtDeviceGetUuidImpl(int32_t device, rtUuid_t *uuid);
rtError_t aclrtSetDeviceImpl(int32_t device);
rtError_t aclrtResetDeviceImpl(int32_t device);
rtError_t aclrtResetDeviceForceImpl(int32_t device);
rtError_t aclrtGetPrimaryCtxStateImpl(int32_t device, uint32_t *flags, int32_t *active);
rtError_t aclrtCreateContextImpl(rtContext_t *context, int32_t device);
rtError_t aclrtDestroyContextImpl(rtContext_t context);
rtError_t aclrtGetCurrentContextImpl(rtContext_t *context);
rtError_t aclrtSetCurrentContextImpl(rtContext_t context);

rtError_t aclrtMallocImpl(void **pointer, size_t size, uint32_t policy);
rtError_t aclrtMallocAlign32Impl(void **pointer, size_t size, uint32_t policy);
rtError_t aclrtMallocCachedImpl(void **pointer, size_t size, uint32_t policy);
rtError_t aclrtMallocWithCfgImpl(void **pointer, size_t size, uint32_t policy,
                                 rtMallocConfig_t *config);
rtError_t aclrtMallocForTaskSchedulerImpl(void **pointer, size_t size, uint32_t policy,
                                          rtMallocConfig_t *config);
rtError_t aclrtIpcMemGetExportKeyImpl(void *pointer, size_t size, char *name, size_t room,
                                      uint64_t flags);
rtError_t aclrtIpcMemImportByKeyImpl(void **pointer, const char *name, uint64_t flags);
rtError_t aclrtIpcMemCloseImpl(const char *name);
rtError_t aclrtIpcMemSetImportPidImpl(const char *name, int32_t *processes, size_t count);
rtError_t aclrtMemExportToShareableHandleImpl(rtDrvMemHandle handle, uint32_t type, uint64_t flags,
                                              uint64_t *shareable);
rtError_t aclrtMemExportToShareableHandleV2Impl(rtDrvMemHandle handle, uint64_t flags,
                                                uint32_t kind, void *shareable);
rtError_t aclrtMemImportFromShareableHandleImpl(uint64_t shareable, int32_t device,
                                                rtDrvMemHandle *handle);
rtError_t aclrtMemImportFromShareableHandleV2Impl(void *shareable, uint32_t kind, uint64_t flags,
                                                  rtDrvMemHandle *handle);
rtError_t aclrtMemAllocManagedImpl(void **pointer, uint64_t size, uint32_t flag);
rtError_t aclrtFreeImpl(void *pointer);
rtError_t aclrtFreeWithDevSyncImpl(void *pointer);
rtError_t aclrtMallocHostImpl(void **pointer, size_t size);
rtError_t aclrtFreeHostImpl(void *pointer);
rtError_t aclrtGetMemInfoImpl(uint32_t attribute, size_t *free, size_t *total);

/* What is told of a device's memory: its pages of each size, bytes; of a kind that is memory, up to
 * RT_MEM_INFO_LAST_SIZE. */
enum { RT_MEM_INFO_LAST_SIZE = 4 };
typedef struct {
    uint64_t total, free;
} rtMemPhyPages;
typedef union {
    rtMemPhyPages pages[3];
    struct {
        uint32_t nodeCnt;
        int32_t nodeId[64];
    } numaInfo; /* the longest of what else there is */
} rtMemInfo_t;
static_assert(sizeof(rtMemPhyPages) == 16 && sizeof(rtMemInfo_t) == 264, "as the vendor has it");
rtError_t rtMemGetInfoByType(const int32_t device, const uint32_t type, rtMemInfo_t *const info);

/* Attributes of a device. */
enum {
    RT_DEV_ATTR_AICORE_CORE_NUM = 101,
    RT_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE = 301, /* bytes */
};
rtError_t rtsDeviceGetInfo(uint32_t device, uint32_t attribute, int64_t *value);
rtError_t aclrtGetDeviceInfoImpl(uint32_t device, uint32_t attribute, int64_t *value);
rtError_t aclrtMemcpyImpl(void *to, size_t room, const void *from, size_t size, uint32_t kind);
rtError_t aclrtMemcpyAsyncImpl(void *to, size_t room, const void *from, size_t size, uint32_t kind,
                               rtStream_t stream);
rtError_t aclrtMemsetImpl(void *pointer, size_t room, int32_t value, size_t size);
rtError_t aclrtMemsetAsyncImpl(void *pointer, size_t room, int32_t value, size_t size,
                               rtStream_t stream);
rtError_t aclrtMallocPhysicalImpl(rtDrvMemHandle *handle, size_t size,
                                  const aclrtPhysicalMemProp *prop, uint64_t flags);
rtError_t aclrtFreePhysicalImpl(rtDrvMemHandle handle);
rtError_t aclrtReserveMemAddressImpl(void **pointer, size_t size, size_t alignment, void *wish,
                                     uint64_t flags);
rtError_t aclrtReleaseMemAddressImpl(void *pointer);
rtError_t aclrtMapMemImpl(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,
                          uint64_t flags);
rtError_t aclrtUnmapMemImpl(void *pointer);
rtError_t aclrtMemRetainAllocationHandleImpl(void *pointer, rtDrvMemHandle *handle);

rtError_t aclrtCreateStreamImpl(rtStream_t *stream);
rtError_t aclrtCreateStreamWithConfigImpl(rtStream_t *stream, uint32_t priority, uint32_t flag);
rtError_t aclrtDestroyStreamImpl(rtStream_t stream);
rtError_t aclrtDestroyStreamForceImpl(rtStream_t stream);
rtError_t aclrtStreamQueryImpl(rtStream_t stream, uint32_t *status);
rtError_t aclrtSynchronizeStreamImpl(rtStream_t stream);
rtError_t aclrtSynchronizeStreamWithTimeoutImpl(rtStream_t stream, int32_t timeout);
rtError_t aclrtSynchronizeDeviceImpl(void);
rtError_t aclrtSynchronizeDeviceWithTimeoutImpl(int32_t timeout);
rtError_t aclrtStreamWaitEventImpl(rtStream_t stream, rtEvent_t event);
rtError_t aclrtCreateEventImpl(rtEvent_t *event);
rtError_t aclrtCreateEventWithFlagImpl(rtEvent_t *event, uint32_t flag);
rtError_t aclrtDestroyEventImpl(rtEvent_t event);
rtError_t aclrtRecordEventImpl(rtEvent_t event, rtStream_t stream);
rtError_t aclrtQueryEventStatusImpl(rtEvent_t event, uint32_t *status);
rtError_t aclrtSynchronizeEventImpl(rtEvent_t event);
rtError_t aclrtEventElapsedTimeImpl(float *ms, rtEvent_t start, rtEvent_t end);

rtError_t aclrtBinaryLoadFromFileImpl(const char *path, void *options, rtBinHandle *handle);
rtError_t aclrtBinaryUnLoadImpl(rtBinHandle handle);
rtError_t aclrtBinaryGetFunctionImpl(const rtBinHandle handle, const char *name,
                                     rtFuncHandle *function);
rtError_t aclrtLaunchKernelImpl(rtFuncHandle function, uint32_t blocks, const void *args,
                                size_t size, rtStream_t stream);
rtError_t aclrtLaunchKernelV2Impl(rtFuncHandle function, uint32_t blocks, const void *args,
                                  size_t size, void *config, rtStream_t stream);
rtError_t aclrtLaunchKernelWithConfigImpl(rtFuncHandle function, uint32_t blocks, rtStream_t stream,
                                          void *config, void *args, void *reserve);
rtError_t aclrtLaunchKernelWithHostArgsImpl(rtFuncHandle function, uint32_t blocks,
                                            rtStream_t stream, void *config, void *args,
                                            size_t size, void *holders, size_t count);
rtError_t aclrtRandomNumAsyncImpl(const void *task, const rtStream_t stream, void *reserve);
rtError_t aclrtReduceAsyncImpl(void *to, const void *from, uint64_t count, uint32_t kind,
                               uint32_t type, rtStream_t stream, void *reserve);
rtError_t aclmdlRIExecuteImpl(rtModel_t model, int32_t timeout);
rtError_t aclmdlRIExecuteAsyncImpl(rtModel_t model, rtStream_t stream);

rtError_t aclmdlRIDestroyImpl(rtModel_t model);
rtError_t aclmdlRICaptureBeginImpl(rtStream_t stream, uint32_t mode);
rtError_t aclmdlRICaptureEndImpl(rtStream_t stream, rtModel_t *model);
rtError_t aclmdlRICaptureGetInfoImpl(rtStream_t stream, uint32_t *status, rtModel_t *model);
rtError_t aclmdlRIBuildBeginImpl(rtModel_t *model, uint32_t flag);
rtError_t aclmdlRIBindStreamImpl(rtModel_t model, rtStream_t stream, uint32_t flag);
rtError_t aclmdlRIEndTaskImpl(rtModel_t model, rtStream_t stream);
rtError_t aclmdlRIBuildEndImpl(rtModel_t model, void *reserve);
rtError_t aclmdlRIUnbindStreamImpl(rtModel_t model, rtStream_t stream);
rtError_t aclrtSubscribeReportImpl(uint64_t thread, rtStream_t stream);
rtError_t aclrtUnSubscribeReportImpl(uint64_t thread, rtStream_t stream);
rtError_t aclrtProcessReportImpl(int32_t timeout);
rtError_t aclrtLaunchCallbackImpl(rtCallback_t function, void *data, uint32_t kind,
                                  rtStream_t stream);
rtError_t aclrtLaunchHostFuncImpl(rtStream_t stream, rtCallback_t function, void *data);
rtError_t aclrtCreateNotifyImpl(rtNotify_t *notify, uint64_t flag);
rtError_t aclrtDestroyNotifyImpl(rtNotify_t notify);
rtError_t aclrtRecordNotifyImpl(rtNotify_t notify, rtStream_t stream);
rtError_t aclrtWaitAndResetNotifyImpl(rtNotify_t notify, rtStream_t stream, uint32_t timeout);
rtError_t aclrtNotifyGetExportKeyImpl(rtNotify_t notify, char *name, size_t room, uint64_t flags);
rtError_t aclrtNotifyImportByKeyImpl(rtNotify_t *notify, const char *name, uint64_t flags);
rtError_t aclrtDeviceCanAccessPeerImpl(int32_t *can, int32_t device, int32_t peer);
rtError_t aclrtDeviceEnablePeerAccessImpl(int32_t peer, uint32_t flags);
rtError_t aclrtDeviceDisablePeerAccessImpl(int32_t peer);

/* -- More forms: of the first release that has them, and of those that are to be no more --------------- */

rtError_t rtsMemset(void *pointer, uint64_t room, uint32_t value, uint64_t size);
rtError_t rtsMemsetAsync(void *pointer, uint64_t room, uint32_t value, uint64_t size,
                         rtStream_t stream);
rtError_t aclrtMemsetD32Impl(void *pointer, size_t room, uint32_t value, size_t size);
rtError_t aclrtMemsetD32AsyncImpl(void *pointer, size_t room, uint32_t value, size_t size,
                                  rtStream_t stream);
rtError_t rtsSetDevice(int32_t device);
rtError_t rtsResetDevice(int32_t device);
rtError_t rtsDeviceResetForce(int32_t device);
rtError_t rtsCtxCreate(rtContext_t *context, uint64_t flags, int32_t device);
rtError_t rtsCtxDestroy(rtContext_t context);
rtError_t aclrtSetDeviceWithoutTsdVXXImpl(int32_t device);
rtError_t aclrtResetDeviceWithoutTsdVXXImpl(int32_t device);
rtError_t aclrtSynchronizeEventWithTimeoutImpl(rtEvent_t event, int32_t timeout);
rtError_t aclrtLaunchKernelWithArgsArrayImpl(void *function, uint32_t blocks, rtStream_t stream,
                                             void *config, void **args);
rtError_t rtLaunchKernelExByFuncHandle(rtFuncHandle function, void *config, rtLaunchArgsHandle args,
                                       rtStream_t stream);
rtError_t rtReduceAsync(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                        uint32_t type, rtStream_t stream);
rtError_t rtReduceAsyncWithCfg(void *to, uint64_t room, const void *from, uint64_t size,
                               uint32_t kind, uint32_t type, rtStream_t stream, uint32_t config);
rtError_t rtReduceAsyncWithCfgV2(void *to, uint64_t room, const void *from, uint64_t size,
                                 uint32_t kind, uint32_t type, rtStream_t stream,
                                 const void *config);
rtError_t rtReduceAsyncV2(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                          uint32_t type, rtStream_t stream, void *overflow);
rtError_t aclrtMemcpyAsyncWithConditionImpl(void *to, size_t room, const void *from, size_t size,
                                            uint32_t kind, rtStream_t stream);
rtError_t rtsMemcpyAsync(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                         void *config, rtStream_t stream);
rtError_t rtMemcpyAsyncEx(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                          rtStream_t stream, void *config);
rtError_t rtMemcpyAsyncWithCfg(void *to, uint64_t room, const void *from, uint64_t size,
                               uint32_t kind, rtStream_t stream, uint32_t config);
rtError_t rtMemcpyAsyncWithCfgV2(void *to, uint64_t room, const void *from, uint64_t size,
                                 uint32_t kind, rtStream_t stream, const void *config);
rtError_t rtMemcpyAsyncPtr(void *entry, uint64_t room, uint64_t size, uint32_t kind,
                           rtStream_t stream, uint32_t config);
rtError_t rtMemcpyAsyncPtrV2(void *entry, uint64_t room, uint64_t size, uint32_t kind,
                             rtStream_t stream, const void *config);
rtError_t rtMemcpyD2DAddrAsync(void *to, uint64_t room, uint64_t to_offset, const void *from,
                               uint64_t size, uint64_t from_offset, rtStream_t stream);
rtError_t rtMemcpy2dAsync(void *to, uint64_t to_pitch, const void *from, uint64_t from_pitch,
                          uint64_t width, uint64_t height, uint32_t kind, rtStream_t stream);
rtError_t aclrtMemcpy2dAsyncImpl(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                 size_t width, size_t height, uint32_t kind, rtStream_t stream);
rtError_t rtStreamWaitEventWithTimeout(rtStream_t stream, rtEvent_t event, uint32_t timeout);
rtError_t rtsEventWait(rtStream_t stream, rtEvent_t event, uint32_t timeout);
rtError_t aclrtStreamWaitEventWithTimeoutImpl(rtStream_t stream, rtEvent_t event, int32_t timeout);
rtError_t aclrtValueWriteImpl(void *address, uint64_t value, uint32_t flag, rtStream_t stream);
rtError_t aclrtValueWaitImpl(void *address, uint64_t value, uint32_t flag, rtStream_t stream);
rtError_t aclrtHostRegisterImpl(void *pointer, uint64_t size, uint32_t kind, void **mapped);
rtError_t aclrtHostUnregisterImpl(void *pointer);
rtError_t aclmdlRICaptureThreadExchangeModeImpl(uint32_t *mode);

rtError_t rtMemsetD32(void *pointer, uint64_t room, uint32_t value, uint64_t count);
rtError_t rtMemsetD32Async(void *pointer, uint64_t room, uint32_t value, uint64_t count,
                           rtStream_t stream);
rtError_t rtStreamBeginCaptureToModel(rtStream_t stream, rtModel_t model, const uint32_t mode);
rtError_t aclmdlRICaptureToModelRIBeginImpl(rtStream_t stream, rtModel_t model, uint32_t mode);

rtError_t rtsMemcpy2DAsync(void *rows, void *config, rtStream_t stream);
rtError_t rtMemcpyAsyncWithOffset(void **to, uint64_t room, uint64_t to_offset, const void **from,
                                  uint64_t size, uint64_t from_offset, uint32_t kind,
                                  rtStream_t stream);
rtError_t aclrtMemcpyAsyncWithOffsetImpl(void **to, size_t room, size_t to_offset,
                                         const void **from, size_t size, size_t from_offset,
                                         uint32_t kind, rtStream_t stream);
rtError_t rtsMemcpyAsyncWithDesc(void *description, uint32_t kind, void *config, rtStream_t stream);
rtError_t aclrtMemcpyAsyncWithDescImpl(void *description, uint32_t kind, rtStream_t stream);
rtError_t rtsMemcpyBatchAsync(void **to, size_t *rooms, void **from, size_t *sizes, size_t count,
                              void *attributes, size_t *places, size_t attribute_count,
                              size_t *failed, rtStream_t stream);
rtError_t aclrtMemcpyBatchAsyncImpl(void **to, size_t *rooms, void **from, size_t *sizes,
                                    size_t count, void *attributes, size_t *places,
                                    size_t attribute_count, size_t *failed, rtStream_t stream);
rtError_t aclrtMemcpyBatchAsyncV2Impl(void **to, size_t *rooms, void **from, size_t *sizes,
                                      size_t count, void *attributes, size_t *places,
                                      size_t attribute_count, rtStream_t stream);
rtError_t aclrtMemcpyToSymbolAsyncImpl(const void *symbol, const void *from, size_t size,
                                       size_t offset, uint32_t kind, rtStream_t stream);
rtError_t aclrtMemcpyFromSymbolAsyncImpl(void *to, size_t room, const void *symbol, size_t size,
                                         size_t offset, uint32_t kind, rtStream_t stream);
typedef struct {
    uint32_t type, id;
} aclrtMemManagedLocation;
static_assert(sizeof(aclrtMemManagedLocation) == 8, "as the vendor has it");
rtError_t aclrtMemManagedPrefetchAsyncImpl(const void *pointer, size_t size,
                                           aclrtMemManagedLocation place, uint32_t flags,
                                           rtStream_t stream);
rtError_t aclrtMemManagedPrefetchBatchAsyncImpl(const void **pointers, size_t *sizes, size_t count,
                                                aclrtMemManagedLocation *places, size_t *which,
                                                size_t place_count, uint64_t flags,
                                                rtStream_t stream);
rtError_t rtCntNotifyWaitWithTimeout(rtNotify_t notify, rtStream_t stream, const void *until);
rtError_t rtsCntNotifyWaitWithTimeout(rtNotify_t notify, rtStream_t stream, void *until);
rtError_t aclrtCntNotifyWaitWithTimeoutImpl(rtNotify_t notify, rtStream_t stream, void *until);

rtError_t rtCpuKernelLaunch(const void *library, const void *kernel, uint32_t blocks,
                            const void *args, uint32_t size, void *shared, rtStream_t stream);
rtError_t rtAicpuKernelLaunch(const void *names, uint32_t blocks, const void *args, uint32_t size,
                              void *shared, rtStream_t stream);
rtError_t rtFftsTaskLaunch(void *task, rtStream_t stream);
rtError_t rtFftsTaskLaunchWithFlag(void *task, rtStream_t stream, uint32_t flag);
rtError_t rtMultipleTaskInfoLaunchWithFlag(const void *tasks, rtStream_t stream,
                                           const uint32_t flag);
rtError_t rtLaunchDvppTask(const void *task, uint32_t size, rtStream_t stream, void *config);
rtError_t rtFusionLaunch(void *task, const rtStream_t stream, void *args);
rtError_t rtCCULaunch(void *task, const rtStream_t stream);
/* One function for several: which, by its number; its arguments are words, in their order. */
enum {
    RT_CONTROL_COPY = 0,
    RT_CONTROL_REDUCE = 1,
    RT_CONTROL_FFTS_FLAG = 2,
    RT_CONTROL_FFTS = 3,
    RT_CONTROL_STARS = 6,
    RT_CONTROL_STARS_FLAG = 11,
    RT_CONTROL_MULTIPLE = 13,
    RT_CONTROL_MULTIPLE_FLAG = 16,
};
rtError_t rtGeneralCtrl(uintptr_t *words, uint32_t count, uint32_t type);

/* What kernels' arguments are put together with. */
rtError_t rtCreateLaunchArgs(size_t size, size_t host_size, size_t host_count, void *data,
                             rtLaunchArgsHandle *handle);
rtError_t rtDestroyLaunchArgs(rtLaunchArgsHandle handle);
rtError_t rtResetLaunchArgs(rtLaunchArgsHandle handle);
rtError_t rtAppendLaunchAddrInfo(rtLaunchArgsHandle handle, void *address);
rtError_t rtAppendLaunchHostInfo(rtLaunchArgsHandle handle, size_t size, void **at);
rtError_t rtsKernelArgsInit(rtFuncHandle function, void **handle);
rtError_t rtsKernelArgsAppend(void *handle, void *piece, size_t size, void **place);
rtError_t rtsKernelArgsFinalize(void *handle);
rtError_t aclrtKernelArgsInitImpl(rtFuncHandle function, void **handle);
rtError_t aclrtKernelArgsAppendImpl(void *handle, void *piece, size_t size, void **place);
rtError_t aclrtKernelArgsFinalizeImpl(void *handle);
/* Copies that a description in the device's memory says. */
rtError_t rtsGetMemcpyDescSize(uint32_t kind, size_t *size);
rtError_t rtsSetMemcpyDesc(void *at, uint32_t kind, void *from, void *to, size_t size,
                           void *config);
rtError_t aclrtGetMemcpyDescSizeImpl(uint32_t kind, size_t *size);
rtError_t aclrtSetMemcpyDescImpl(void *at, uint32_t kind, void *from, void *to, size_t size,
                                 void *config);
rtError_t rtCntNotifyCreateWithFlag(int32_t device, rtNotify_t *notify, uint32_t flags);
rtError_t rtCntNotifyDestroy(rtNotify_t notify);
rtError_t rtsCntNotifyRecord(rtNotify_t notify, rtStream_t stream, void *how);
rtError_t aclrtCntNotifyCreateImpl(rtNotify_t *notify, uint64_t flag);
rtError_t aclrtCntNotifyDestroyImpl(rtNotify_t notify);
rtError_t aclrtCntNotifyRecordImpl(rtNotify_t notify, rtStream_t stream, void *how);

/* Buffers of the program's. */
typedef struct aclDataBuffer aclDataBuffer;
aclDataBuffer *aclCreateDataBufferImpl(void *data, size_t size);
rtError_t aclDestroyDataBufferImpl(const aclDataBuffer *buffer);
rtError_t aclUpdateDataBufferImpl(aclDataBuffer *buffer, void *data, size_t size);
void *aclGetDataBufferAddrImpl(const aclDataBuffer *buffer);
size_t aclGetDataBufferSizeV2Impl(const aclDataBuffer *buffer);
uint32_t aclGetDataBufferSizeImpl(const aclDataBuffer *buffer);

/* Pools of memory that is given in the order of a stream. */
typedef void *rtMemPool_t;
typedef struct {
    uint32_t side, devId;
    uint32_t handleType;
    size_t maxSize;
    uint64_t reserve;
} rtMemPoolProps;
typedef struct {
    uint32_t allocType, handleType;
    struct {
        uint32_t id, type;
    } location;
    size_t maxSize;
    unsigned char reserved[32];
} aclrtMemPoolProps;
static_assert(sizeof(rtMemPoolProps) == 32 && sizeof(aclrtMemPoolProps) == 56,
              "as the vendor has it");
enum { RT_MEM_POOL_RESERVED = 5, RT_MEM_POOL_USED = 7, RT_MEM_POOL_USED_HIGH = 8 };
rtError_t rtMemPoolCreate(rtMemPool_t *pool, const rtMemPoolProps *properties);
rtError_t rtMemPoolDestroy(const rtMemPool_t pool);
rtError_t rtMemPoolSetAttr(rtMemPool_t pool, int attribute, void *value);
rtError_t rtMemPoolGetAttr(rtMemPool_t pool, int attribute, void *value);
rtError_t rtMemPoolTrimTo(rtMemPool_t pool, uint64_t keep);
rtError_t rtMemPoolMallocAsync(void **pointer, const uint64_t size, const rtMemPool_t pool,
                               const rtStream_t stream);
rtError_t rtMemPoolFreeAsync(void *pointer, rtStream_t stream);
rtError_t aclrtMemPoolCreateImpl(rtMemPool_t *pool, const aclrtMemPoolProps *properties);
rtError_t aclrtMemPoolDestroyImpl(const rtMemPool_t pool);
rtError_t aclrtMemPoolSetAttrImpl(rtMemPool_t pool, int attribute, void *value);
rtError_t aclrtMemPoolGetAttrImpl(rtMemPool_t pool, int attribute, void *value);
rtError_t aclrtMemPoolTrimToImpl(rtMemPool_t pool, size_t keep);
rtError_t aclrtMemPoolMallocAsyncImpl(void **pointer, size_t size, rtMemPool_t pool,
                                      rtStream_t stream);
rtError_t aclrtMemPoolFreeAsyncImpl(void *pointer, rtStream_t stream);

#endif
