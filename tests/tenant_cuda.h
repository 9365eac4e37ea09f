/* What the tenant on the CUDA driver has of its own. */
#ifndef TENANT_CUDA_H
#define TENANT_CUDA_H

#include "tenant.h"

#include <cuda.h>

/* Every function it calls: symbol, name and version for cuGetProcAddress, flags for that. */
#define LEGACY CU_GET_PROC_ADDRESS_LEGACY_STREAM
#define PER_THREAD CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM
#define TENANT_FUNCTIONS(F)                                                                        \
    F(cuInit, "cuInit", 2000, LEGACY)                                                              \
    F(cuDeviceGet, "cuDeviceGet", 2000, LEGACY)                                                    \
    F(cuDeviceGetCount, "cuDeviceGetCount", 2000, LEGACY)                                          \
    F(cuDeviceGetAttribute, "cuDeviceGetAttribute", 2000, LEGACY)                                  \
    F(cuDeviceTotalMem_v2, "cuDeviceTotalMem", 3020, LEGACY)                                       \
    F(cuDeviceGetDefaultMemPool, "cuDeviceGetDefaultMemPool", 11020, LEGACY)                       \
    F(cuDeviceSetMemPool, "cuDeviceSetMemPool", 11020, LEGACY)                                     \
    F(cuDeviceGetDevResource, "cuDeviceGetDevResource", 12040, LEGACY)                             \
    F(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", 7000, LEGACY)                          \
    F(cuDevicePrimaryCtxRelease_v2, "cuDevicePrimaryCtxRelease", 11000, LEGACY)                    \
    F(cuDevicePrimaryCtxReset_v2, "cuDevicePrimaryCtxReset", 11000, LEGACY)                        \
    F(cuCtxCreate_v2, "cuCtxCreate", 3020, LEGACY)                                                 \
    F(cuCtxCreate_v3, "cuCtxCreate", 11040, LEGACY)                                                \
    F(cuCtxCreate_v4, "cuCtxCreate", 12050, LEGACY)                                                \
    F(cuCtxDestroy_v2, "cuCtxDestroy", 4000, LEGACY)                                               \
    F(cuCtxSetCurrent, "cuCtxSetCurrent", 4000, LEGACY)                                            \
    F(cuCtxGetCurrent, "cuCtxGetCurrent", 4000, LEGACY)                                            \
    F(cuCtxPushCurrent_v2, "cuCtxPushCurrent", 4000, LEGACY)                                       \
    F(cuCtxPopCurrent_v2, "cuCtxPopCurrent", 4000, LEGACY)                                         \
    F(cuCtxSynchronize, "cuCtxSynchronize", 2000, LEGACY)                                          \
    F(cuCtxSetLimit, "cuCtxSetLimit", 3010, LEGACY)                                                \
    F(cuCtxGetLimit, "cuCtxGetLimit", 3010, LEGACY)                                                \
    F(cuCtxFromGreenCtx, "cuCtxFromGreenCtx", 12040, LEGACY)                                       \
    F(cuDevSmResourceSplitByCount, "cuDevSmResourceSplitByCount", 12040, LEGACY)                   \
    F(cuDevResourceGenerateDesc, "cuDevResourceGenerateDesc", 12040, LEGACY)                       \
    F(cuGreenCtxCreate, "cuGreenCtxCreate", 12040, LEGACY)                                         \
    F(cuGreenCtxDestroy, "cuGreenCtxDestroy", 12040, LEGACY)                                       \
    F(cuGreenCtxStreamCreate, "cuGreenCtxStreamCreate", 12050, LEGACY)                             \
    F(cuStreamCreate, "cuStreamCreate", 2000, LEGACY)                                              \
    F(cuStreamDestroy_v2, "cuStreamDestroy", 4000, LEGACY)                                         \
    F(cuStreamSynchronize, "cuStreamSynchronize", 2000, LEGACY)                                    \
    F(cuStreamSynchronize_ptsz, "cuStreamSynchronize", 7000, PER_THREAD)                           \
    F(cuStreamBeginCapture_v2, "cuStreamBeginCapture", 10010, LEGACY)                              \
    F(cuStreamIsCapturing, "cuStreamIsCapturing", 10000, LEGACY)                                   \
    F(cuStreamEndCapture, "cuStreamEndCapture", 10000, LEGACY)                                     \
    F(cuLaunchHostFunc, "cuLaunchHostFunc", 10000, LEGACY)                                         \
    F(cuMemGetInfo_v2, "cuMemGetInfo", 3020, LEGACY)                                               \
    F(cuMemGetInfo, "cuMemGetInfo", 2000, LEGACY)                                                  \
    F(cuDeviceTotalMem, "cuDeviceTotalMem", 2000, LEGACY)                                          \
    F(cuMemAlloc_v2, "cuMemAlloc", 3020, LEGACY)                                                   \
    F(cuMemAllocPitch_v2, "cuMemAllocPitch", 3020, LEGACY)                                         \
    F(cuMemAllocManaged, "cuMemAllocManaged", 6000, LEGACY)                                        \
    F(cuMemFree_v2, "cuMemFree", 3020, LEGACY)                                                     \
    F(cuMemHostAlloc, "cuMemHostAlloc", 2020, LEGACY)                                              \
    F(cuMemFreeHost, "cuMemFreeHost", 2000, LEGACY)                                                \
    F(cuMemAllocAsync, "cuMemAllocAsync", 11020, LEGACY)                                           \
    F(cuMemAllocAsync_ptsz, "cuMemAllocAsync", 11020, PER_THREAD)                                  \
    F(cuMemAllocFromPoolAsync, "cuMemAllocFromPoolAsync", 11020, LEGACY)                           \
    F(cuMemAllocFromPoolAsync_ptsz, "cuMemAllocFromPoolAsync", 11020, PER_THREAD)                  \
    F(cuMemFreeAsync, "cuMemFreeAsync", 11020, LEGACY)                                             \
    F(cuMemFreeAsync_ptsz, "cuMemFreeAsync", 11020, PER_THREAD)                                    \
    F(cuMemPoolCreate, "cuMemPoolCreate", 11020, LEGACY)                                           \
    F(cuMemPoolDestroy, "cuMemPoolDestroy", 11020, LEGACY)                                         \
    F(cuMemPoolTrimTo, "cuMemPoolTrimTo", 11020, LEGACY)                                           \
    F(cuMemPoolSetAttribute, "cuMemPoolSetAttribute", 11020, LEGACY)                               \
    F(cuMemPoolGetAttribute, "cuMemPoolGetAttribute", 11020, LEGACY)                               \
    F(cuMemPoolExportToShareableHandle, "cuMemPoolExportToShareableHandle", 11020, LEGACY)         \
    F(cuMemPoolImportFromShareableHandle, "cuMemPoolImportFromShareableHandle", 11020, LEGACY)     \
    F(cuMemPoolExportPointer, "cuMemPoolExportPointer", 11020, LEGACY)                             \
    F(cuMemPoolImportPointer, "cuMemPoolImportPointer", 11020, LEGACY)                             \
    F(cuMemsetD8_v2, "cuMemsetD8", 3020, LEGACY)                                                   \
    F(cuMemsetD8Async, "cuMemsetD8Async", 3020, LEGACY)                                            \
    F(cuMemcpyHtoD_v2, "cuMemcpyHtoD", 3020, LEGACY)                                               \
    F(cuMemcpyDtoH_v2, "cuMemcpyDtoH", 3020, LEGACY)                                               \
    F(cuMemGetAllocationGranularity, "cuMemGetAllocationGranularity", 10020, LEGACY)               \
    F(cuMemAddressReserve, "cuMemAddressReserve", 10020, LEGACY)                                   \
    F(cuMemAddressFree, "cuMemAddressFree", 10020, LEGACY)                                         \
    F(cuMemCreate, "cuMemCreate", 10020, LEGACY)                                                   \
    F(cuMemRelease, "cuMemRelease", 10020, LEGACY)                                                 \
    F(cuMemMap, "cuMemMap", 10020, LEGACY)                                                         \
    F(cuMemUnmap, "cuMemUnmap", 10020, LEGACY)                                                     \
    F(cuMemSetAccess, "cuMemSetAccess", 10020, LEGACY)                                             \
    F(cuMemRetainAllocationHandle, "cuMemRetainAllocationHandle", 11000, LEGACY)                   \
    F(cuMemExportToShareableHandle, "cuMemExportToShareableHandle", 10020, LEGACY)                 \
    F(cuMemImportFromShareableHandle, "cuMemImportFromShareableHandle", 10020, LEGACY)             \
    F(cuMulticastGetGranularity, "cuMulticastGetGranularity", 12010, LEGACY)                       \
    F(cuMulticastCreate, "cuMulticastCreate", 12010, LEGACY)                                       \
    F(cuMulticastAddDevice, "cuMulticastAddDevice", 12010, LEGACY)                                 \
    F(cuMulticastBindMem, "cuMulticastBindMem", 12010, LEGACY)                                     \
    F(cuMulticastBindAddr, "cuMulticastBindAddr", 12010, LEGACY)                                   \
    F(cuMulticastUnbind, "cuMulticastUnbind", 12010, LEGACY)                                       \
    F(cuIpcGetMemHandle, "cuIpcGetMemHandle", 4010, LEGACY)                                        \
    F(cuIpcOpenMemHandle_v2, "cuIpcOpenMemHandle", 11000, LEGACY)                                  \
    F(cuIpcCloseMemHandle, "cuIpcCloseMemHandle", 4010, LEGACY)                                    \
    F(cuArrayCreate_v2, "cuArrayCreate", 3020, LEGACY)                                             \
    F(cuArray3DCreate_v2, "cuArray3DCreate", 3020, LEGACY)                                         \
    F(cuArrayDestroy, "cuArrayDestroy", 2000, LEGACY)                                              \
    F(cuMipmappedArrayCreate, "cuMipmappedArrayCreate", 5000, LEGACY)                              \
    F(cuMipmappedArrayGetLevel, "cuMipmappedArrayGetLevel", 5000, LEGACY)                          \
    F(cuMipmappedArrayDestroy, "cuMipmappedArrayDestroy", 5000, LEGACY)                            \
    F(cuModuleLoad, "cuModuleLoad", 2000, LEGACY)                                                  \
    F(cuModuleLoadData, "cuModuleLoadData", 2000, LEGACY)                                          \
    F(cuModuleLoadDataEx, "cuModuleLoadDataEx", 2010, LEGACY)                                      \
    F(cuModuleUnload, "cuModuleUnload", 2000, LEGACY)                                              \
    F(cuLibraryLoadData, "cuLibraryLoadData", 12000, LEGACY)                                       \
    F(cuLibraryLoadFromFile, "cuLibraryLoadFromFile", 12000, LEGACY)                               \
    F(cuLibraryUnload, "cuLibraryUnload", 12000, LEGACY)                                           \
    F(cuGraphCreate, "cuGraphCreate", 10000, LEGACY)                                               \
    F(cuGraphDestroy, "cuGraphDestroy", 10000, LEGACY)                                             \
    F(cuGraphAddMemAllocNode, "cuGraphAddMemAllocNode", 11040, LEGACY)                             \
    F(cuGraphAddMemFreeNode, "cuGraphAddMemFreeNode", 11040, LEGACY)                               \
    F(cuGraphInstantiate_v2, "cuGraphInstantiate", 11000, LEGACY)                                  \
    F(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags", 11040, LEGACY)                   \
    F(cuGraphInstantiateWithParams, "cuGraphInstantiateWithParams", 12000, LEGACY)                 \
    F(cuGraphUpload, "cuGraphUpload", 11010, LEGACY)                                               \
    F(cuGraphLaunch, "cuGraphLaunch", 10000, LEGACY)                                               \
    F(cuGraphLaunch_ptsz, "cuGraphLaunch", 10000, PER_THREAD)                                      \
    F(cuGraphExecDestroy, "cuGraphExecDestroy", 10000, LEGACY)                                     \
    F(cuDeviceGraphMemTrim, "cuDeviceGraphMemTrim", 11040, LEGACY)                                 \
    F(cuDeviceGetGraphMemAttribute, "cuDeviceGetGraphMemAttribute", 11040, LEGACY)

#define MEMBER(symbol, name, version, flags) __typeof__(&symbol) symbol;
struct driver {
    TENANT_FUNCTIONS(MEMBER)
};
#undef MEMBER
extern struct driver cu;

extern const struct kind linear_kinds[], share_kinds[], context_kinds[], graph_kinds[];

extern struct cuda {
    CUdevice device;
    CUcontext primary;
    CUstream stream[2]; /* of the primary context */
    CUmemoryPool pool;  /* default pool of the device */
} cuda;

/* Keeps a stream busy for a moment, so that what is queued behind it waits. */
void delay(CUstream stream, uint64_t dice);
/* Frees a pointer by one of the calls that free: cuMemFree, cuMemFreeAsync in some stream. */
void free_somehow(CUdeviceptr pointer, uint64_t *dice);
/* PTX of a module of about `size` bytes; free() it. */
char *ptx(uint64_t size);
/* The same in a file; unlink() and free() the name. */
char *ptx_file(uint64_t size);

#endif
