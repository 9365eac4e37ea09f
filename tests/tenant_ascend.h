/* What the files of the tenant on Ascend's runtime share: the functions, as they are found, written from
 * the published interface without a header of the vendor's. */
#ifndef TENANT_ASCEND_H
#define TENANT_ASCEND_H

#include "tenant.h"

enum { OK = 0, BAD_ARGUMENT = 107000, OUT_OF_MEMORY = 207001 };
enum { TO_DEVICE = 1, FROM_DEVICE = 2 };
/* Names of shared memory, which any process may open. */
enum { NAME = 65, ANYONE = 1 };

struct config {
    struct {
        uint32_t attr, device, rest;
    } * attrs;
    size_t count;
};
/* Physical memory as AscendCL describes it, and as the runtime's own functions do. */
struct property {
    uint32_t handle_type, allocation_type, memory, id, type;
    uint64_t reserve;
};
struct driver_property {
    uint32_t side, device, module, page_type, memory_type;
    uint64_t reserve;
};

/* Pools, by the one's description and the other's. */
struct pool_property {
    uint32_t allocation_type, handle_type;
    struct {
        uint32_t id, type;
    } location;
    size_t most;
    unsigned char reserved[32];
};
struct driver_pool_property {
    uint32_t side, device, handle_type;
    size_t most;
    uint64_t reserve;
};
enum { THRESHOLD = 4, RESERVED = 5, RESERVED_MOST = 6, USED = 7 };

/* What is told of memory by its kind: of pages of each size. */
struct pages_told {
    struct {
        uint64_t total, free;
    } of[3];
    unsigned char others[216];
};

/* Of AscendCL: thin wrappers in libascendcl over what libruntime calls by the same name and "Impl". */
#define WRAPPED(F)                                                                                 \
    F(aclInit, (const char *))                                                                     \
    F(aclrtSetDevice, (int32_t))                                                                   \
    F(aclrtResetDevice, (int32_t))                                                                 \
    F(aclrtResetDeviceForce, (int32_t))                                                            \
    F(aclrtGetDeviceCount, (uint32_t *))                                                           \
    F(aclrtCreateContext, (void **, int32_t))                                                      \
    F(aclrtDestroyContext, (void *))                                                               \
    F(aclrtGetCurrentContext, (void **))                                                           \
    F(aclrtSetCurrentContext, (void *))                                                            \
    F(aclrtMalloc, (void **, size_t, int))                                                         \
    F(aclrtMallocAlign32, (void **, size_t, int))                                                  \
    F(aclrtMallocCached, (void **, size_t, int))                                                   \
    F(aclrtMallocWithCfg, (void **, size_t, int, struct config *))                                 \
    F(aclrtMallocForTaskScheduler, (void **, size_t, int, struct config *))                        \
    F(aclrtMemAllocManaged, (void **, uint64_t, uint32_t))                                         \
    F(aclrtFree, (void *))                                                                         \
    F(aclrtFreeWithDevSync, (void *))                                                              \
    F(aclrtMallocHost, (void **, size_t))                                                          \
    F(aclrtFreeHost, (void *))                                                                     \
    F(aclrtGetMemInfo, (int, uint64_t *, uint64_t *))                                              \
    F(aclrtGetDeviceInfo, (uint32_t, uint32_t, int64_t *))                                         \
    F(aclrtMemcpy, (void *, size_t, const void *, size_t, int))                                    \
    F(aclrtMemsetAsync, (void *, size_t, int32_t, size_t, void *))                                 \
    F(aclrtMallocPhysical, (void **, size_t, const struct property *, uint64_t))                   \
    F(aclrtFreePhysical, (void *))                                                                 \
    F(aclrtReserveMemAddress, (void **, size_t, size_t, void *, uint64_t))                         \
    F(aclrtReleaseMemAddress, (void *))                                                            \
    F(aclrtMapMem, (void *, size_t, size_t, void *, uint64_t))                                     \
    F(aclrtUnmapMem, (void *))                                                                     \
    F(aclrtMemRetainAllocationHandle, (void *, void **))                                           \
    F(aclrtIpcMemGetExportKey, (void *, size_t, char *, size_t, uint64_t))                         \
    F(aclrtIpcMemImportByKey, (void **, const char *, uint64_t))                                   \
    F(aclrtIpcMemClose, (const char *))                                                            \
    F(aclrtMemExportToShareableHandle, (void *, int, uint64_t, uint64_t *))                        \
    F(aclrtMemImportFromShareableHandle, (uint64_t, int32_t, void **))                             \
    F(aclrtMemPoolCreate, (void **, const struct pool_property *))                                 \
    F(aclrtMemPoolDestroy, (void *))                                                               \
    F(aclrtMemPoolSetAttr, (void *, int, void *))                                                  \
    F(aclrtMemPoolGetAttr, (void *, int, void *))                                                  \
    F(aclrtMemPoolTrimTo, (void *, size_t))                                                        \
    F(aclrtMemPoolMallocAsync, (void **, size_t, void *, void *))                                  \
    F(aclrtMemPoolFreeAsync, (void *, void *))                                                     \
    F(aclrtBinaryLoadFromFile, (const char *, void *, void **))                                    \
    F(aclrtBinaryGetFunction, (void *, const char *, void **))                                     \
    F(aclrtBinaryUnLoad, (void *))                                                                 \
    F(aclrtLaunchKernel, (void *, uint32_t, const void *, size_t, void *))                         \
    F(aclmdlRICaptureBegin, (void *, int))                                                         \
    F(aclmdlRICaptureEnd, (void *, void **))                                                       \
    F(aclmdlRIExecuteAsync, (void *, void *))                                                      \
    F(aclmdlRIDestroy, (void *))                                                                   \
    F(aclrtDestroyStream, (void *))                                                                \
    F(aclrtCreateStream, (void **))                                                                \
    F(aclrtSynchronizeStream, (void *))                                                            \
    F(aclrtSynchronizeDevice, (void))

/* Of libruntime, as operators and older frameworks call it. */
#define RUNTIME(F)                                                                                 \
    F(rtSetDevice, (int32_t))                                                                      \
    F(rtMalloc, (void **, uint64_t, uint32_t, uint16_t))                                           \
    F(rtMallocCached, (void **, uint64_t, uint32_t, uint16_t))                                     \
    F(rtMemAlloc, (void **, uint64_t, uint32_t, uint32_t, struct config *))                        \
    F(rtsMalloc, (void **, uint64_t, uint32_t, uint32_t, struct config *))                         \
    F(rtMemAllocManaged, (void **, uint64_t, uint32_t, uint16_t))                                  \
    F(rtMemFreeManaged, (void *))                                                                  \
    F(rtDvppMalloc, (void **, uint64_t, uint16_t))                                                 \
    F(rtDvppMallocWithFlag, (void **, uint64_t, uint32_t, uint16_t))                               \
    F(rtDvppFree, (void *))                                                                        \
    F(rtFree, (void *))                                                                            \
    F(rtFreeWithDevSync, (void *))                                                                 \
    F(rtMallocHost, (void **, uint64_t, uint16_t))                                                 \
    F(rtFreeHost, (void *))                                                                        \
    F(rtMemGetInfo, (uint64_t *, uint64_t *))                                                      \
    F(rtMemGetInfoEx, (uint32_t, uint64_t *, uint64_t *))                                          \
    F(rtsMemGetInfo, (uint32_t, uint64_t *, uint64_t *))                                           \
    F(rtMemGetInfoByType, (int32_t, uint32_t, struct pages_told *))                                \
    F(rtsDeviceGetInfo, (uint32_t, uint32_t, int64_t *))                                           \
    F(rtMallocPhysical, (void **, size_t, struct driver_property *, uint64_t))                     \
    F(rtsBinaryLoadFromFile, (const char *, const void *, void **))                                \
    F(rtsFuncGetByName, (void *, const char *, void **))                                           \
    F(rtBinaryUnLoad, (void *))                                                                    \
    F(rtModelCreate, (void **, uint32_t))                                                          \
    F(rtModelBindStream, (void *, void *, uint32_t))                                               \
    F(rtModelUnbindStream, (void *, void *))                                                       \
    F(rtModelLoadComplete, (void *))                                                               \
    F(rtModelDestroy, (void *))                                                                    \
    F(rtMemPoolCreate, (void **, const struct driver_pool_property *))                             \
    F(rtMemPoolDestroy, (void *))                                                                  \
    F(rtMemPoolSetAttr, (void *, int, void *))                                                     \
    F(rtMemPoolGetAttr, (void *, int, void *))                                                     \
    F(rtMemPoolTrimTo, (void *, uint64_t))                                                         \
    F(rtMemPoolMallocAsync, (void **, uint64_t, void *, void *))                                   \
    F(rtMemPoolFreeAsync, (void *, void *))                                                        \
    F(rtIpcOpenMemory, (void **, const char *))                                                    \
    F(rtIpcCloseMemory, (const void *))                                                            \
    F(rtsIpcMemGetExportKey, (const void *, size_t, char *, uint32_t, uint64_t))                   \
    F(rtsMemExportToShareableHandle, (void *, int, uint64_t, uint64_t *))                          \
    F(rtsMemImportFromShareableHandle, (uint64_t, int32_t, void **))                               \
    F(rtFreePhysical, (void *))                                                                    \
    F(rtMapMem, (void *, size_t, size_t, void *, uint64_t))                                        \
    F(rtUnmapMem, (void *))                                                                        \
    F(rtMemRetainAllocationHandle, (void *, void **))

#define MEMBER(symbol, parameters) int(*symbol) parameters;
extern struct npu {
    WRAPPED(MEMBER)
    RUNTIME(MEMBER)
} npu;
#undef MEMBER

extern const struct kind linear_kinds[], pool_kinds[], share_kinds[], work_kinds[];

extern struct ascend {
    void *stream[2];            /* of the device's own context */
    pthread_rwlock_t capturing; /* nobody waits for the whole device meanwhile */
} ascend;

#endif
