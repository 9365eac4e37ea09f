/* The interface of Cambricon's driver library (CNDrv 2.15), in our own words: what has to be the same
 * for programs that were built for the real one, and no more of it than is used here.
 */
#ifndef ALIQUOT_CAMBRICON_CNDRV_H
#define ALIQUOT_CAMBRICON_CNDRV_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    CN_SUCCESS = 0,
    CN_ERROR_NOT_READY = 1,
    CN_ERROR_NOT_INITIALIZED = 100002,
    CN_ERROR_DEINITIALIZED = 100003,
    CN_ERROR_NO_DEVICE = 100004,
    CN_ERROR_INVALID_DEVICE = 100005,
    CN_ERROR_INVALID_VALUE = 100006,
    CN_ERROR_OPERATING_SYSTEM = 100007,
    CN_ERROR_SYSTEM_OUT_OF_MEMORY = 100010,
    CN_ERROR_INVALID_ADDRESS = 100011,
    CN_ERROR_FILE_NOT_FOUND = 100012,
    CN_ERROR_INVALID_HANDLE = 100014,
    CN_ERROR_ILLEGAL_STATE = 100015,
    CN_OPS_ERROR_NOT_SUPPORTED = 100050,
    CN_OPS_ERROR_NOT_PERMITTED = 100051,
    CN_QUEUE_ERROR_INVALID = 100060,
    CN_NOTIFIER_ERROR_INVALID = 100080,
    CN_MEMORY_ERROR_OUT_OF_MEMORY = 100100,
    CN_MEMORY_ERROR_OUT_OF_PROCESS_MAX_MEMORY = 100101,
    CN_MEMORY_ERROR_INVALID_ADDRESS = 100102,
    CN_INVOKE_ERROR = 100200,
    CN_CONTEXT_ERROR_INVALID = 100201,
    CN_CONTEXT_ERROR_OUT_OF_RESOURCES = 100202,
    CN_ERROR_NOT_FOUND = 100301,
    CN_ERROR_INVALID_KERNEL = 100302,
    CN_FATBIN_ERROR_NO_KERNEL = 101312,
    CN_FATBIN_INVALID_IMAGE = 101313,
    CN_ERROR_QUEUE_CAPTURE_UNSUPPORTED = 100360,
    CN_ERROR_QUEUE_CAPTURE_INVALIDATED = 100361,
    CN_ERROR_QUEUE_CAPTURE_WRONG_THREAD = 100362,
    CN_ERROR_QUEUE_CAPTURE_UNJOINED = 100364,
} CNresult;
static_assert(sizeof(CNresult) == 4, "an enumeration is 32 bits");

typedef uint64_t CNaddr;
typedef uint64_t CNdev;
typedef uint64_t CNmemGenericAllocationHandle;
typedef struct CNcontext_st *CNcontext;
typedef struct CNqueue_st *CNqueue;
typedef struct CNnotifier_st *CNnotifier;
typedef struct CNmodule_st *CNmodule;
typedef struct CNkernel_st *CNkernel;
typedef struct CNmemoryPool_st *CNmemoryPool;
typedef struct CNtaskTopo_st *CNtaskTopo;
typedef struct CNtaskTopoEntity_st *CNtaskTopoEntity;
/* A value that stands for memory in every process; not a pointer to be followed. */
typedef struct CNipcMemHandle_st *CNIpcMemHandle;
typedef void (*CNhostFn)(void *argument);
typedef void (*CNqueueCallback)(CNqueue queue, CNresult status, void *argument);

/* Queues without a handle of their own. NULL is the default one. */
#define CN_QUEUE_TYPE_PER_THREAD ((CNqueue)1)
#define CN_QUEUE_TYPE_LEGACY ((CNqueue)2)

typedef struct {
    char uuid[16];
} CNuuid;
static_assert(sizeof(CNuuid) == 16, "layout of CNuuid");

typedef enum {
    CN_KERNEL_CLASS_BLOCK = 1,
    CN_KERNEL_CLASS_UNION = 4,
    CN_KERNEL_CLASS_UNION2 = 8,
    CN_KERNEL_CLASS_UNION4 = 16,
    CN_KERNEL_CLASS_UNION8 = 32,
    CN_KERNEL_CLASS_UNION16 = 64,
    CN_KERNEL_CLASS_NONE = 0xff,
} KernelClass;

/* What cnInvokeKernelEx is told beside the kernel. `attrs` are `numAttrs` of the vendor's. */
typedef struct {
    unsigned int dimx, dimy, dimz;
    KernelClass c;
    unsigned int reserved;
    CNqueue hqueue;
    void *attrs;
    unsigned int numAttrs;
} CNinvokeConfig;
static_assert(sizeof(CNinvokeConfig) == 48, "layout of CNinvokeConfig");
static_assert(offsetof(CNinvokeConfig, c) == 12, "layout of CNinvokeConfig");
static_assert(offsetof(CNinvokeConfig, hqueue) == 24, "layout of CNinvokeConfig");
static_assert(offsetof(CNinvokeConfig, numAttrs) == 40, "layout of CNinvokeConfig");

enum { CN_MEM_LOCATION_TYPE_DEVICE = 1 };
enum { CN_MEM_ALLOCATION_TYPE_DEFAULT = 1 };
enum { CN_MEM_ALLOC_GRANULARITY_MINIMUM, CN_MEM_ALLOC_GRANULARITY_RECOMMENDED };

typedef struct {
    uint32_t type;
    uint32_t id; /* of a device: its ordinal */
} CNmemLocation;

typedef struct {
    uint32_t type;
    uint32_t requestedHandleTypes;
    CNmemLocation location;
    struct {
        unsigned char compressionType;
        unsigned char securityType;
    } allocFlags;
} CNmemAllocationProp;
static_assert(sizeof(CNmemAllocationProp) == 20, "layout of CNmemAllocationProp");
static_assert(offsetof(CNmemAllocationProp, location) == 8, "layout of CNmemAllocationProp");
static_assert(offsetof(CNmemAllocationProp, allocFlags) == 16, "layout of CNmemAllocationProp");

typedef struct {
    CNmemLocation location;
    uint32_t accessFlags;
    uint32_t cacheType;
    uint32_t pinnedType;
} CNmemAccessDesc;
static_assert(sizeof(CNmemAccessDesc) == 20, "layout of CNmemAccessDesc");

typedef struct {
    uint64_t x, y, z;
} CNpos;
typedef struct {
    uint64_t pitch;
    void *ptr;
    uint64_t xsize, ysize;
} CNpitchedPtr;
typedef struct {
    uint64_t depth, height, width;
} CNextent;
typedef struct {
    void *dst;
    CNpos dstPos;
    CNpitchedPtr dstPtr;
    CNextent extent;
    uint32_t dir;
    void *src;
    CNpos srcPos;
    CNpitchedPtr srcPtr;
} CNmemcpy3dParam;
static_assert(sizeof(CNmemcpy3dParam) == 160, "layout of CNmemcpy3dParam");
static_assert(offsetof(CNmemcpy3dParam, extent) == 64, "layout of CNmemcpy3dParam");
static_assert(offsetof(CNmemcpy3dParam, src) == 96, "layout of CNmemcpy3dParam");

enum { CN_MEMPOOL_ATTR_RESERVED_MEM_CURRENT = 5, CN_MEMPOOL_ATTR_USED_MEM_CURRENT = 7 };

typedef struct {
    uint32_t type;
    uint32_t requestedHandleTypes;
    CNmemLocation location;
    size_t maxSize;
    unsigned char reserved[64];
} CNmemPoolProps;
static_assert(sizeof(CNmemPoolProps) == 88, "layout of CNmemPoolProps");
static_assert(offsetof(CNmemPoolProps, maxSize) == 16, "layout of CNmemPoolProps");

typedef enum {
    CN_QUEUE_CAPTURE_STATUS_NONE,
    CN_QUEUE_CAPTURE_STATUS_ACTIVE,
    CN_QUEUE_CAPTURE_STATUS_INVALIDATED,
} CNqueueCaptureStatus;
typedef enum {
    CN_QUEUE_CAPTURE_MODE_GLOBAL,
    CN_QUEUE_CAPTURE_MODE_THREAD_LOCAL,
    CN_QUEUE_CAPTURE_MODE_RELAXED,
} CNqueueCaptureMode;

enum { CN_NOTIFIER_DEFAULT = 0 };

/* -- Errors, versions, devices ---------------------------------------------------------------------- */

CNresult cnGetErrorString(CNresult error, const char **text);
CNresult cnGetErrorName(CNresult error, const char **text);
CNresult cnInit(unsigned int flags);
CNresult cnDriverGetVersion(int *major, int *minor, int *patch);
CNresult cnGetLibVersion(int *major, int *minor, int *patch);
CNresult cnGetDriverVersion(int *major, int *minor, int *patch);
CNresult cnGetExportFunction(const char *name, const void **function);
CNresult cnDeviceGet(CNdev *device, int ordinal);
CNresult cnDeviceGetCount(int *count);
CNresult cnDeviceGetName(char *name, unsigned int length, CNdev device);
CNresult cnDeviceTotalMem(uint64_t *bytes, CNdev device);
CNresult cnDeviceGetPCIBusId(char *text, int length, CNdev device);
CNresult cnDeviceGetUuid(CNuuid *uuid, CNdev device);
CNresult cnDeviceGetUuidStr(char *text, int length, CNdev device);

/* -- Contexts ----------------------------------------------------------------------------------------- */

CNresult cnCtxCreate(CNcontext *context, unsigned int flags, CNdev device);
CNresult cnCtxDestroy(CNcontext context);
CNresult cnCtxGetCurrent(CNcontext *context);
CNresult cnCtxSetCurrent(CNcontext context);
CNresult cnCtxGetDevice(CNdev *device);
CNresult cnCtxSync(void);
CNresult cnSharedContextGetState(CNdev device, unsigned int *flags, int *state);
CNresult cnSharedContextAcquire(CNcontext *context, CNdev device);
CNresult cnSharedContextRelease(CNdev device);
CNresult cnSharedContextReset(CNdev device);

/* -- Memory ------------------------------------------------------------------------------------------- */

CNresult cnMemGetInfo(uint64_t *free_bytes, uint64_t *total);
CNresult cnMemGetNodeInfo(uint64_t *free_bytes, uint64_t *total, int node);
CNresult cnMalloc(CNaddr *address, uint64_t bytes);
CNresult cnMallocSecurity(CNaddr *address, uint64_t bytes);
CNresult cnMallocConstant(CNaddr *address, uint64_t bytes);
CNresult cnMallocPeerAble(CNaddr *address, uint64_t bytes);
CNresult cnZmalloc(CNaddr *address, uint64_t bytes);
CNresult cnMallocNode(CNaddr *address, uint64_t bytes, int node);
CNresult cnMallocNodeConstant(CNaddr *address, uint64_t bytes, int node);
CNresult cnMallocFrameBuffer(CNaddr *address, uint64_t bytes, int node);
CNresult cnZmallocNode(CNaddr *address, uint64_t bytes, int node);
CNresult cnFree(CNaddr address);
CNresult cnMemMerge(CNaddr *merged, unsigned int count, const CNaddr *addresses);
CNresult cnMemGetAddressRange(CNaddr *base, uint64_t *bytes, CNaddr address);
CNresult cnMallocHost(void **address, uint64_t bytes);
CNresult cnFreeHost(void *address);
CNresult cnIpcGetMemHandle(CNIpcMemHandle *handle, CNaddr address);
CNresult cnIpcOpenMemHandle(CNaddr *address, CNIpcMemHandle handle, unsigned int flags);
CNresult cnIpcCloseMemHandle(CNaddr address);
CNresult cnMemcpy(CNaddr to, CNaddr from, uint64_t bytes);
CNresult cnMemcpyAsync(CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue);
CNresult cnMemcpyAsync_V2(CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue);
CNresult cnMemcpyAsync_V3(CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue);
CNresult cnMemcpyPeer(CNaddr to, CNcontext to_context, CNaddr from, CNcontext from_context,
                      uint64_t bytes);
CNresult cnMemcpyPeerAsync(CNaddr to, CNcontext to_context, CNaddr from, CNcontext from_context,
                           uint64_t bytes, CNqueue queue);
CNresult cnMemcpy2D(CNaddr to, uint64_t to_pitch, CNaddr from, uint64_t from_pitch, uint64_t width,
                    uint64_t height);
CNresult cnMemcpy2DAsync(CNaddr to, uint64_t to_pitch, CNaddr from, uint64_t from_pitch,
                         uint64_t width, uint64_t height, CNqueue queue);
CNresult cnMemcpy3D(CNmemcpy3dParam *parameters);
CNresult cnMemcpy3DAsync(const CNmemcpy3dParam *parameters, CNqueue queue);
CNresult cnMemcpyHtoD(CNaddr to, const void *from, uint64_t bytes);
CNresult cnMemcpyDtoH(void *to, CNaddr from, uint64_t bytes);
CNresult cnMemcpyHtoDAsync(CNaddr to, const void *from, uint64_t bytes, CNqueue queue);
CNresult cnMemcpyDtoHAsync(void *to, CNaddr from, uint64_t bytes, CNqueue queue);
CNresult cnMemcpyHtoDAsync_V2(CNaddr to, const void *from, uint64_t bytes, CNqueue queue);
CNresult cnMemcpyDtoHAsync_V2(void *to, CNaddr from, uint64_t bytes, CNqueue queue);
CNresult cnMemcpyDtoD(CNaddr to, CNaddr from, uint64_t bytes);
CNresult cnMemcpyDtoDAsync(CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue);
CNresult cnMemcpyDtoD2D(CNaddr to, uint64_t to_pitch, CNaddr from, uint64_t from_pitch,
                        uint64_t width, uint64_t height);
CNresult cnMemcpyDtoD3D(CNmemcpy3dParam *parameters);
CNresult cnMemsetD8(CNaddr address, unsigned char value, uint64_t count);
CNresult cnMemsetD16(CNaddr address, unsigned short value, uint64_t count);
CNresult cnMemsetD32(CNaddr address, unsigned int value, uint64_t count);
CNresult cnMemsetD8Async(CNaddr address, unsigned char value, uint64_t count, CNqueue queue);
CNresult cnMemsetD16Async(CNaddr address, unsigned short value, uint64_t count, CNqueue queue);
CNresult cnMemsetD32Async(CNaddr address, unsigned int value, uint64_t count, CNqueue queue);

CNresult cnMemCreate(CNmemGenericAllocationHandle *handle, uint64_t bytes,
                     CNmemAllocationProp *properties, uint64_t flags);
CNresult cnMemRelease(CNmemGenericAllocationHandle handle);
CNresult cnMemAddressReserve(CNaddr *address, uint64_t bytes, uint64_t alignment, CNaddr start,
                             uint64_t flags);
CNresult cnMemAddressFree(CNaddr address, uint64_t bytes);
CNresult cnMemMap(CNaddr address, uint64_t bytes, uint64_t offset,
                  CNmemGenericAllocationHandle handle, uint64_t flags);
CNresult cnMemUnmap(CNaddr address, uint64_t bytes);
CNresult cnMemSetAccess(CNaddr address, uint64_t bytes, CNmemAccessDesc *description,
                        uint64_t count);
CNresult cnMemGetAllocationGranularity(uint64_t *bytes, CNmemAllocationProp *properties,
                                       int option);
CNresult cnMemRetainAllocationHandle(CNmemGenericAllocationHandle *handle, CNaddr address);

CNresult cnMemImportFromShareableHandle(CNmemGenericAllocationHandle *handle, void *shareable,
                                        int kind);

CNresult cnDeviceGetMemPool(CNmemoryPool *pool, CNdev device);
CNresult cnDeviceGetDefaultMemPool(CNmemoryPool *pool, CNdev device);
CNresult cnMemPoolCreate(CNmemoryPool *pool, CNmemPoolProps *properties);
CNresult cnMemAllocAsync(CNaddr *address, size_t bytes, CNqueue queue);
CNresult cnMemAllocFromPoolAsync(CNaddr *address, size_t bytes, CNmemoryPool pool, CNqueue queue);
CNresult cnMemFreeAsync(CNaddr address, CNqueue queue);
CNresult cnMemPoolDestroy(CNmemoryPool pool);
CNresult cnMemPoolTrimTo(CNmemoryPool pool, size_t keep);
CNresult cnMemPoolGetAttribute(CNmemoryPool pool, int attribute, void *value);

/* -- Queues and notifiers ----------------------------------------------------------------------------- */

CNresult cnCreateQueue(CNqueue *queue, unsigned int flags);
CNresult cnCreateQueueWithPriority(CNqueue *queue, unsigned int flags, int priority);
CNresult cnDestroyQueue(CNqueue queue);
CNresult cnQueryQueue(CNqueue queue);
CNresult cnQueueSync(CNqueue queue);
CNresult cnQueueWaitNotifier(CNqueue queue, CNnotifier notifier);
CNresult cnQueueWaitNotifierWithFlags(CNqueue queue, CNnotifier notifier, unsigned int flags);
CNresult cnQueueAddCallback(CNqueue queue, CNqueueCallback callback, void *argument,
                            unsigned int flags);
CNresult cnQueueAtomicOperation(CNqueue queue, uint64_t address, uint64_t first, uint64_t second,
                                int kind, uint64_t flag);
CNresult cnInvokeHostFunc(CNqueue queue, CNhostFn function, void *argument);
CNresult cnQueueGetContext(CNqueue queue, CNcontext *context);
CNresult cnQueueBeginCapture(CNqueue queue, CNqueueCaptureMode mode);
CNresult cnQueueEndCapture(CNqueue queue, CNtaskTopo *topo);
CNresult cnQueueIsCapturing(CNqueue queue, CNqueueCaptureStatus *status);
CNresult cnThreadExchangeQueueCaptureMode(CNqueueCaptureMode *mode);
CNresult cnCreateNotifier(CNnotifier *notifier, unsigned int flags);
CNresult cnDestroyNotifier(CNnotifier notifier);
CNresult cnWaitNotifier(CNnotifier notifier);
CNresult cnQueryNotifier(CNnotifier notifier);
CNresult cnPlaceNotifier(CNnotifier notifier, CNqueue queue);
CNresult cnNotifierElapsedTime(float *milliseconds, CNnotifier start, CNnotifier end);

/* -- Kernels ------------------------------------------------------------------------------------------ */

CNresult cnModuleLoadFatBinary(const void *image, CNmodule *module);
CNresult cnModuleLoad(const char *path, CNmodule *module);
CNresult cnModuleUnload(CNmodule module);
CNresult cnModuleQueryMemoryUsage(const char *path, size_t *bytes);
CNresult cnModuleQueryFatBinaryMemoryUsage(const void *image, size_t *bytes);
CNresult cnModuleGetKernel(CNmodule module, const char *name, CNkernel *kernel);
CNresult cnInvokeKernel(CNkernel kernel, unsigned int x, unsigned int y, unsigned int z,
                        KernelClass kind, unsigned int reserved, CNqueue queue, void **parameters,
                        void **extra);
CNresult cnInvokeKernelEx(const CNinvokeConfig *config, CNkernel kernel, void **parameters,
                          void **extra);
CNresult cnTaskTopoEntityInvoke(CNtaskTopoEntity entity, CNqueue queue);
CNresult cnTaskTopoEntityDestroy(CNtaskTopoEntity entity);

#endif
