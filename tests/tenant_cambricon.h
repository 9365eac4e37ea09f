/* What the files of the tenant on Cambricon's driver library share: the functions, as they are found,
 * written from the published interface without a header of the vendor's. */
#ifndef TENANT_CAMBRICON_H
#define TENANT_CAMBRICON_H

#include "tenant.h"

enum {
    OK = 0,
    NOT_INITIALIZED = 100002,
    INVALID_VALUE = 100006,
    INVALID_HANDLE = 100014,
    OUT_OF_MEMORY = 100100,
    NO_ROOM = 100202, /* for a context */
};

typedef void *handle;
struct placed {
    uint32_t type, handle_types, place, id, flags;
};

struct pool_properties {
    uint32_t type, handle_types, place, id;
    size_t most;
    unsigned char reserved[64];
};
enum { BY_DESCRIPTOR = 1 };
enum { THRESHOLD = 4, RESERVED = 5, RESERVED_MOST = 6, USED = 7 }; /* of pools */

struct memset_node {
    address at;
    size_t pitch;
    unsigned value, element_bytes;
    size_t width, height;
};

#define FUNCTIONS(F)                                                                               \
    F(cnInit, (unsigned))                                                                          \
    F(cnDeviceGet, (uint64_t *, int))                                                              \
    F(cnDeviceGetCount, (int *))                                                                   \
    F(cnDeviceTotalMem, (uint64_t *, uint64_t))                                                    \
    F(cnDeviceGetAttribute, (int *, int, uint64_t))                                                \
    F(cnDeviceGetMemPool, (handle *, uint64_t))                                                    \
    F(cnCtxCreate, (handle *, unsigned, uint64_t))                                                 \
    F(cnCtxDestroy, (handle))                                                                      \
    F(cnCtxGetCurrent, (handle *))                                                                 \
    F(cnCtxSetCurrent, (handle))                                                                   \
    F(cnCtxSync, (void))                                                                           \
    F(cnSharedContextAcquire, (handle *, uint64_t))                                                \
    F(cnSharedContextRelease, (uint64_t))                                                          \
    F(cnSharedContextReset, (uint64_t))                                                            \
    F(cnMemGetInfo, (uint64_t *, uint64_t *))                                                      \
    F(cnMemGetNodeInfo, (uint64_t *, uint64_t *, int))                                             \
    F(cnMalloc, (address *, uint64_t))                                                             \
    F(cnMallocSecurity, (address *, uint64_t))                                                     \
    F(cnMallocConstant, (address *, uint64_t))                                                     \
    F(cnMallocPeerAble, (address *, uint64_t))                                                     \
    F(cnZmalloc, (address *, uint64_t))                                                            \
    F(cnMallocNode, (address *, uint64_t, int))                                                    \
    F(cnMallocNodeConstant, (address *, uint64_t, int))                                            \
    F(cnMallocFrameBuffer, (address *, uint64_t, int))                                             \
    F(cnZmallocNode, (address *, uint64_t, int))                                                   \
    F(cnFree, (address))                                                                           \
    F(cnMallocHost, (void **, uint64_t))                                                           \
    F(cnFreeHost, (void *))                                                                        \
    F(cnMemcpyHtoD, (address, const void *, uint64_t))                                             \
    F(cnMemcpyDtoH, (void *, address, uint64_t))                                                   \
    F(cnMemsetD8Async, (address, unsigned char, uint64_t, handle))                                 \
    F(cnMemCreate, (uint64_t *, uint64_t, struct placed *, uint64_t))                              \
    F(cnMemRelease, (uint64_t))                                                                    \
    F(cnMemAddressReserve, (address *, uint64_t, uint64_t, address, uint64_t))                     \
    F(cnMemAddressFree, (address, uint64_t))                                                       \
    F(cnMemMap, (address, uint64_t, uint64_t, uint64_t, uint64_t))                                 \
    F(cnMemUnmap, (address, uint64_t))                                                             \
    F(cnMemSetAccess, (address, uint64_t, void *, uint64_t))                                       \
    F(cnMemRetainAllocationHandle, (uint64_t *, address))                                          \
    F(cnMemGetAllocationGranularity, (uint64_t *, struct placed *, int))                           \
    F(cnMemExportToShareableHandle, (void *, uint64_t, int, uint64_t))                             \
    F(cnMemImportFromShareableHandle, (uint64_t *, void *, int))                                   \
    F(cnIpcGetMemHandle, (handle *, address))                                                      \
    F(cnIpcOpenMemHandle, (address *, handle, unsigned))                                           \
    F(cnIpcCloseMemHandle, (address))                                                              \
    F(cnMemPoolCreate, (handle *, struct pool_properties *))                                       \
    F(cnMemPoolDestroy, (handle))                                                                  \
    F(cnMemPoolSetAttribute, (handle, int, void *))                                                \
    F(cnMemAllocAsync, (address *, size_t, handle))                                                \
    F(cnMemAllocFromPoolAsync, (address *, size_t, handle, handle))                                \
    F(cnMemFreeAsync, (address, handle))                                                           \
    F(cnMemPoolTrimTo, (handle, size_t))                                                           \
    F(cnMemPoolGetAttribute, (handle, int, void *))                                                \
    F(cnCreateQueue, (handle *, unsigned))                                                         \
    F(cnDestroyQueue, (handle))                                                                    \
    F(cnQueueSync, (handle))                                                                       \
    F(cnQueueBeginCapture, (handle, int))                                                          \
    F(cnQueueEndCapture, (handle, handle *))                                                       \
    F(cnTaskTopoCreate, (handle *, unsigned))                                                      \
    F(cnTaskTopoDestroy, (handle))                                                                 \
    F(cnTaskTopoAddMemsetNode, (handle *, handle, const handle *, size_t, struct memset_node *))   \
    F(cnTaskTopoInstantiate, (handle *, handle, handle *, char *, size_t))                         \
    F(cnTaskTopoUpload, (handle, handle))                                                          \
    F(cnTaskTopoEntityInvoke, (handle, handle))                                                    \
    F(cnTaskTopoEntityDestroy, (handle))                                                           \
    F(cnModuleLoad, (const char *, handle *))                                                      \
    F(cnModuleLoadFatBinary, (const void *, handle *))                                             \
    F(cnModuleUnload, (handle))

#define MEMBER(symbol, parameters) int(*symbol) parameters;
extern struct cn { FUNCTIONS(MEMBER) } cn;
#undef MEMBER

extern const struct kind linear_kinds[], pool_kinds[], share_kinds[], context_kinds[], topo_kinds[];

extern struct cambricon {
    uint64_t device;
    handle queue[2]; /* of its own context */
    handle pool;     /* the device's */
} cambricon;

/* Physical memory of the device. */
struct placed on_device(void);
/* The way-th of the nine calls that give plain memory. */
int plainly(address *to, uint64_t size, unsigned way);
/* Memory of the host. */
int pinned_get(struct thing *thing, uint64_t size, uint64_t dice);
void pinned_give(struct thing *thing, uint64_t dice);
/* Work between the signs. */
void work(const struct thing *thing, handle in);

#endif
