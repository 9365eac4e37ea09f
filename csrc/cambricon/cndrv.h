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
    CN_ERROR_QUEUE_CAPTURE_MERGED = 100363,
    CN_ERROR_QUEUE_CAPTURE_UNJOINED = 100364,
    CN_ERROR_QUEUE_CAPTURE_ISOLATION = 100365,
    CN_ERROR_QUEUE_CAPTURE_UNMATCHED = 100366,
    CN_ERROR_TASK_TOPO_ENTITY_UPDATE_FAILURE = 100400,
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
typedef struct CNtaskTopoNode_st *CNtaskTopoNode;
typedef struct CNtaskTopoEntity_st *CNtaskTopoEntity;
typedef struct CNuserObject_st *CNuserObject;
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

typedef struct {
    uint64_t res[8];
} CNIpcNotifierHandle;
static_assert(sizeof(CNIpcNotifierHandle) == 64, "layout of CNIpcNotifierHandle");

enum { CN_MEM_LOCATION_TYPE_DEVICE = 1 };
enum { CN_MEM_HANDLE_TYPE_NONE, CN_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR };
enum { CN_MEM_ACCESS_FLAGS_PROT_READWRITE, CN_MEM_ACCESS_FLAGS_PROT_READONLY };
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

enum {
    CN_MEMPOOL_ATTR_REUSE_FOLLOW_NOTIFIER_DEPENDENCIES = 1,
    CN_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC,
    CN_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES,
    CN_MEMPOOL_ATTR_RELEASE_THRESHOLD,
    CN_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
    CN_MEMPOOL_ATTR_RESERVED_MEM_HIGH,
    CN_MEMPOOL_ATTR_USED_MEM_CURRENT,
    CN_MEMPOOL_ATTR_USED_MEM_HIGH,
};

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

enum { CN_QUEUE_ADD_CAPTURE_DEPENDENCIES, CN_QUEUE_SET_CAPTURE_DEPENDENCIES };

enum {
    CN_NOTIFIER_DEFAULT = 0,
    CN_NOTIFIER_DISABLE_TIMING_SW = 2,
    CN_NOTIFIER_DISABLE_TIMING_ALL = 4,
    CN_NOTIFIER_INTERPROCESS = 8, /* only with DISABLE_TIMING_ALL */
};
/* Of cnPlaceNotifierWithFlags and cnQueueWaitNotifierWithFlags: in a capture it becomes a node. */
enum { CN_NOTIFIER_PLACE_EXTERNAL = 1, CN_NOTIFIER_WAIT_EXTERNAL = 1 };

/* What an atomic operation does (kind) and how (flag). The address is of cnMallocHost's memory. */
enum { CN_ATOMIC_OP_REQUEST, CN_ATOMIC_OP_COMPARE };
enum { CN_ATOMIC_REQUEST_ADD, CN_ATOMIC_REQUEST_SET, CN_ATOMIC_REQUEST_CLEAR };
/* Until `first` is equal to what is at the address, not more, or less. */
enum { CN_ATOMIC_COMPARE_EQUAL, CN_ATOMIC_COMPARE_LESS_EQUAL, CN_ATOMIC_COMPARE_LESS };

/* -- What can be asked ----------------------------------------------------------------------------------- */

/* Of a device. The computing ones say whether cores know the type; sizes are bytes, or MiB where it is
 * said; clocks kHz. */
enum {
    CN_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 0x01,
    CN_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 0x02,
    CN_DEVICE_ATTRIBUTE_SPARSE_COMPUTING_SUPPORTED = 0x03,
    CN_DEVICE_ATTRIBUTE_FP16_COMPUTING_SUPPORTED = 0x04,
    CN_DEVICE_ATTRIBUTE_INT4_COMPUTING_SUPPORTED = 0x05,
    CN_DEVICE_ATTRIBUTE_INT8_COMPUTING_SUPPORTED = 0x06,
    CN_DEVICE_ATTRIBUTE_BF16_COMPUTING_SUPPORTED = 0x07,
    CN_DEVICE_ATTRIBUTE_TF32_COMPUTING_SUPPORTED = 0x08,
    CN_DEVICE_ATTRIBUTE_COMPUTE_MODE = 0x09,
    CN_DEVICE_ATTRIBUTE_MAX_QUEUE_COUNT = 0x101,
    CN_DEVICE_ATTRIBUTE_MAX_NOTIFIER_COUNT = 0x102,
    CN_DEVICE_ATTRIBUTE_QUEUE_PRIORITIES_SUPPORTED = 0x103,
    CN_DEVICE_ATTRIBUTE_TINY_CORE_SUPPORTED = 0x104,
    CN_DEVICE_ATTRIBUTE_MULTI_CTX_NOTIFIER_WAIT_SUPPORTED = 0x109,
    CN_DEVICE_ATTRIBUTE_IPCNOTIFIER_SUPPORTED = 0x10a,
    CN_DEVICE_ATTRIBUTE_MAX_BLOCK_TASK_DIM_X = 0x201,
    CN_DEVICE_ATTRIBUTE_MAX_BLOCK_TASK_DIM_Y = 0x202,
    CN_DEVICE_ATTRIBUTE_MAX_BLOCK_TASK_DIM_Z = 0x203,
    CN_DEVICE_ATTRIBUTE_MAX_CLUSTER_COUNT_PER_UNION_TASK = 0x204,
    CN_DEVICE_ATTRIBUTE_MAX_CLUSTER_COUNT = 0x205,
    CN_DEVICE_ATTRIBUTE_MAX_CORE_COUNT_PER_CLUSTER = 0x206,
    CN_DEVICE_ATTRIBUTE_MAX_QUADRANT_COUNT = 0x207,
    CN_DEVICE_ATTRIBUTE_MAX_CLUSTERS_PER_UNION_LIMIT_TASK = 0x209,
    CN_DEVICE_ATTRIBUTE_MLU_ISA_VERSION = 0x20a,
    CN_DEVICE_ATTRIBUTE_IS_MULTIPLE_TENSOR_PROCESSOR = 0x20b,
    CN_DEVICE_ATTRIBUTE_MAX_L2_CACHE_SIZE = 0x301,
    CN_DEVICE_ATTRIBUTE_NRAM_SIZE_PER_CORE = 0x302,
    CN_DEVICE_ATTRIBUTE_WEIGHT_RAM_SIZE_PER_CORE = 0x303,
    CN_DEVICE_ATTRIBUTE_MAX_SHARED_RAM_SIZE_PER_CLUSTER = 0x306,
    CN_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_NODE_COUNT = 0x307,
    CN_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE = 0x309,
    CN_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED = 0x30b,
    CN_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED = 0x30c,
    CN_DEVICE_ATTRIBUTE_GENERIC_COMPRESSION_SUPPORTED = 0x30d,
    CN_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM = 0x30e,
    CN_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 0x30f,
    CN_DEVICE_ATTRIBUTE_LINEAR_MAPPING_SUPPORTED = 0x310,
    CN_DEVICE_ATTRIBUTE_LINEAR_RECOMMEND_GRANULARITY = 0x311,
    CN_DEVICE_ATTRIBUTE_AVAILABLE_GLOBAL_MEMORY_SIZE = 0x312, /* MiB */
    CN_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED = 0x313,
    CN_DEVICE_ATTRIBUTE_ECC_ENABLED = 0x401,
    CN_DEVICE_ATTRIBUTE_CLUSTER_CLOCK_RATE = 0x402,
    CN_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE = 0x403,
    CN_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH = 0x404,  /* bits */
    CN_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_TOTAL_SIZE = 0x405, /* MiB */
    CN_DEVICE_ATTRIBUTE_PCI_BUS_ID = 0x406,
    CN_DEVICE_ATTRIBUTE_PCI_DEVICE_ID = 0x407,
    CN_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID = 0x408,
};

/* Of an address. */
enum {
    CN_MEM_ATTRIBUTE_TYPE = 0x1, /* CN_MEMORYTYPE_*, int */
    CN_MEM_ATTRIBUTE_CONTEXT = 0x6,
    CN_MEM_ATTRIBUTE_DEVICE_ORDINAL = 0x7,    /* int */
    CN_MEM_ATTRIBUTE_RANGE_START_ADDR = 0x11, /* CNaddr */
    CN_MEM_ATTRIBUTE_RANGE_SIZE = 0x12,       /* uint64_t, bytes */
    CN_MEM_ATTRIBUTE_MAPPED = 0x16,           /* int */
    CN_MEM_ATTRIBUTE_ISLINEAR = 0x18,         /* int */
};
enum { CN_MEMORYTYPE_UNKNOWN, CN_MEMORYTYPE_HOST, CN_MEMORYTYPE_DEVICE };

/* Of a kernel. Sizes are bytes, the version is major * 100 + minor. */
enum {
    CN_KERNEL_ATTRIBUTE_NRAM_SIZE_BYTES,
    CN_KERNEL_ATTRIBUTE_WEIGHT_RAM_SIZE_BYTES,
    CN_KERNEL_ATTRIBUTE_SHARED_SIZE_BYTES,
    CN_KERNEL_ATTRIBUTE_CONST_SIZE_BYTES,
    CN_KERNEL_ATTRIBUTE_BINARY_VERSION,
    CN_KERNEL_ATTRIBUTE_MAX,
};

/* How much of its device a context's kernels may take: each thread's own (_pt), or the process's (_pp). */
enum {
    CN_CTX_CONFIG_VISIBLE_CLUSTER, /* a bit each */
    CN_CTX_CONFIG_VISIBLE_CLUSTER_NUM,
    CN_CTX_CONFIG_UNION_LIMIT,
};
typedef union {
    uint64_t visibleCluster;
    uint64_t visibleClusterNumber;
    KernelClass unionLimit;
} CNctxConfigParam;
static_assert(sizeof(CNctxConfigParam) == 8, "layout of CNctxConfigParam");

/* -- TaskTopo: graphs -------------------------------------------------------------------------------- */

typedef enum {
    CN_TASK_TOPO_NODE_TYPE_EMPTY,
    CN_TASK_TOPO_NODE_TYPE_KERNEL,
    CN_TASK_TOPO_NODE_TYPE_HOST,
    CN_TASK_TOPO_NODE_TYPE_MEMCPY,
    CN_TASK_TOPO_NODE_TYPE_MEMSET,
    CN_TASK_TOPO_NODE_TYPE_TASK_TOPO,
    CN_TASK_TOPO_NODE_TYPE_NOTIFIER_PLACE,
    CN_TASK_TOPO_NODE_TYPE_NOTIFIER_WAIT,
} CNtaskTopoNodeType;

typedef enum {
    CN_TASK_TOPO_ENTITY_UPDATE_SUCCESS,
    CN_TASK_TOPO_ENTITY_UPDATE_ERROR,
    CN_TASK_TOPO_ENTITY_UPDATE_ERROR_TOPOLOGY_CHANGED,
    CN_TASK_TOPO_ENTITY_UPDATE_ERROR_NODE_TYPE_CHANGED,
    CN_TASK_TOPO_ENTITY_UPDATE_ERROR_PARAMETERS_CHANGED,
    CN_TASK_TOPO_ENTITY_UPDATE_ERROR_NOT_SUPPORTED,
    CN_TASK_TOPO_ENTITY_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE,
    CN_TASK_TOPO_ENTITY_UPDATE_ERROR_ATTRIBUTES_CHANGED,
} CNtaskTopoEntityUpdateResult;

typedef struct {
    CNhostFn fn;
    void *userData;
} CN_HOST_NODE_PARAMS;
static_assert(sizeof(CN_HOST_NODE_PARAMS) == 16, "layout of CN_HOST_NODE_PARAMS");

typedef struct {
    CNkernel hkernel;
    unsigned int dimx, dimy, dimz;
    KernelClass c;
    unsigned int reserve;
    void **kernelParams;
    void **extra;
} CN_KERNEL_NODE_PARAMS;
static_assert(sizeof(CN_KERNEL_NODE_PARAMS) == 48, "layout of CN_KERNEL_NODE_PARAMS");
static_assert(offsetof(CN_KERNEL_NODE_PARAMS, kernelParams) == 32,
              "layout of CN_KERNEL_NODE_PARAMS");

typedef struct {
    CNaddr dst;
    size_t pitch;
    unsigned int value;
    unsigned int elementSize;
    size_t width; /* elements */
    size_t height;
} CN_MEMSET_NODE_PARAMS;
static_assert(sizeof(CN_MEMSET_NODE_PARAMS) == 40, "layout of CN_MEMSET_NODE_PARAMS");
static_assert(offsetof(CN_MEMSET_NODE_PARAMS, width) == 24, "layout of CN_MEMSET_NODE_PARAMS");

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
CNresult cnDeviceGetByUuidStr(CNdev *device, const char *text);
CNresult cnDeviceGetByPCIBusId(CNdev *device, const char *text);
CNresult cnDeviceCanPeerAble(int *can, CNdev from, CNdev to);
CNresult cnDeviceGetAttribute(int *value, int attribute, CNdev device);
CNresult cnProfilerStart(void);
CNresult cnProfilerStop(void);

/* -- Contexts ----------------------------------------------------------------------------------------- */

CNresult cnCtxCreate(CNcontext *context, unsigned int flags, CNdev device);
CNresult cnCtxDestroy(CNcontext context);
CNresult cnCtxGetCurrent(CNcontext *context);
CNresult cnCtxSetCurrent(CNcontext context);
CNresult cnCtxGetDevice(CNdev *device);
CNresult cnCtxSync(void);
CNresult cnCtxGetQueuePriorityRange(int *least, int *greatest);
CNresult cnGetCtxConfigParam_pt(CNcontext context, int type, CNctxConfigParam *value);
CNresult cnGetCtxConfigParam_pp(CNcontext context, int type, CNctxConfigParam *value);
CNresult cnSetCtxConfigParam_pt(CNcontext context, int type, CNctxConfigParam *value);
CNresult cnSetCtxConfigParam_pp(CNcontext context, int type, CNctxConfigParam *value);
CNresult cnGetCtxMaxParallelUnionTasks(CNcontext context, KernelClass kind, int *number);
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
CNresult cnGetMemAttribute(void *value, int attribute, CNaddr address);
CNresult cnGetMemAttributes(unsigned int count, int *attributes, void **values, CNaddr address);
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

CNresult cnMemGetAccess(CNmemAccessDesc *description, const CNmemLocation *location, void *address);
CNresult cnMemGetAllocationPropertiesFromHandle(CNmemAllocationProp *properties,
                                                CNmemGenericAllocationHandle handle);
CNresult cnMemExportToShareableHandle(void *shareable, CNmemGenericAllocationHandle handle,
                                      int kind, uint64_t flags);
CNresult cnMemImportFromShareableHandle(CNmemGenericAllocationHandle *handle, void *shareable,
                                        int kind);

CNresult cnDeviceGetMemPool(CNmemoryPool *pool, CNdev device);
CNresult cnDeviceGetDefaultMemPool(CNmemoryPool *pool, CNdev device);
CNresult cnDeviceSetMemPool(CNdev device, CNmemoryPool pool);
CNresult cnMemPoolCreate(CNmemoryPool *pool, CNmemPoolProps *properties);
CNresult cnMemAllocAsync(CNaddr *address, size_t bytes, CNqueue queue);
CNresult cnMemAllocFromPoolAsync(CNaddr *address, size_t bytes, CNmemoryPool pool, CNqueue queue);
CNresult cnMemFreeAsync(CNaddr address, CNqueue queue);
CNresult cnMemPoolDestroy(CNmemoryPool pool);
CNresult cnMemPoolTrimTo(CNmemoryPool pool, size_t keep);
CNresult cnMemPoolGetAttribute(CNmemoryPool pool, int attribute, void *value);
CNresult cnMemPoolSetAttribute(CNmemoryPool pool, int attribute, void *value);
CNresult cnMemPoolGetAccess(uint32_t *flags, CNmemoryPool pool, CNmemLocation *location);

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
CNresult cnAtomicOperation(uint64_t address, uint64_t first, uint64_t second, int kind,
                           uint64_t flag);
CNresult cnAtomicReadOps(uint64_t address, uint64_t *value);
CNresult cnQueueGetContext(CNqueue queue, CNcontext *context);
CNresult cnQueueGetPriority(CNqueue queue, int *priority);
CNresult cnQueueBeginCapture(CNqueue queue, CNqueueCaptureMode mode);
CNresult cnQueueEndCapture(CNqueue queue, CNtaskTopo *topo);
CNresult cnQueueIsCapturing(CNqueue queue, CNqueueCaptureStatus *status);
CNresult cnQueueGetCaptureInfo(CNqueue queue, CNqueueCaptureStatus *status, uint64_t *id,
                               CNtaskTopo *topo, const CNtaskTopoNode **dependencies,
                               size_t *count);
CNresult cnQueueUpdateCaptureDependencies(CNqueue queue, CNtaskTopoNode *dependencies, size_t count,
                                          unsigned int flags);
CNresult cnThreadExchangeQueueCaptureMode(CNqueueCaptureMode *mode);
CNresult cnCreateNotifier(CNnotifier *notifier, unsigned int flags);
CNresult cnDestroyNotifier(CNnotifier notifier);
CNresult cnWaitNotifier(CNnotifier notifier);
CNresult cnQueryNotifier(CNnotifier notifier);
CNresult cnPlaceNotifier(CNnotifier notifier, CNqueue queue);
CNresult cnPlaceNotifierWithFlags(CNnotifier notifier, CNqueue queue, unsigned int flags);
CNresult cnNotifierElapsedTime(float *milliseconds, CNnotifier start, CNnotifier end);
CNresult cnNotifierElapsedExecTime(float *milliseconds, CNnotifier start, CNnotifier end);
CNresult cnIpcGetNotifierHandle(CNIpcNotifierHandle *handle, CNnotifier notifier);
CNresult cnIpcOpenNotifierHandle(CNnotifier *notifier, CNIpcNotifierHandle handle);

/* -- Kernels ------------------------------------------------------------------------------------------ */

CNresult cnModuleLoadFatBinary(const void *image, CNmodule *module);
CNresult cnModuleLoad(const char *path, CNmodule *module);
CNresult cnModuleUnload(CNmodule module);
CNresult cnModuleQueryMemoryUsage(const char *path, size_t *bytes);
CNresult cnModuleQueryFatBinaryMemoryUsage(const void *image, size_t *bytes);
CNresult cnModuleGetKernel(CNmodule module, const char *name, CNkernel *kernel);
CNresult cnKernelGetAttribute(int64_t *value, int attribute, CNkernel kernel);
CNresult cnInvokeKernel(CNkernel kernel, unsigned int x, unsigned int y, unsigned int z,
                        KernelClass kind, unsigned int reserved, CNqueue queue, void **parameters,
                        void **extra);
CNresult cnInvokeKernelEx(const CNinvokeConfig *config, CNkernel kernel, void **parameters,
                          void **extra);

/* -- TaskTopo ------------------------------------------------------------------------------------------ */

CNresult cnTaskTopoCreate(CNtaskTopo *topo, unsigned int flags);
CNresult cnTaskTopoDestroy(CNtaskTopo topo);
CNresult cnTaskTopoClone(CNtaskTopo *clone, CNtaskTopo topo);
CNresult cnTaskTopoNodeFindInClone(CNtaskTopoNode *found, CNtaskTopoNode node, CNtaskTopo clone);
CNresult cnTaskTopoDestroyNode(CNtaskTopoNode node);
CNresult cnTaskTopoGetEdges(CNtaskTopo topo, CNtaskTopoNode *from, CNtaskTopoNode *to,
                            size_t *count);
CNresult cnTaskTopoGetNodes(CNtaskTopo topo, CNtaskTopoNode *nodes, size_t *count);
CNresult cnTaskTopoGetRootNodes(CNtaskTopo topo, CNtaskTopoNode *nodes, size_t *count);
CNresult cnTaskTopoAddDependencies(CNtaskTopo topo, const CNtaskTopoNode *from,
                                   const CNtaskTopoNode *to, size_t count);
CNresult cnTaskTopoRemoveDependencies(CNtaskTopo topo, const CNtaskTopoNode *from,
                                      const CNtaskTopoNode *to, size_t count);
CNresult cnTaskTopoNodeGetDependencies(CNtaskTopoNode node, CNtaskTopoNode *nodes, size_t *count);
CNresult cnTaskTopoNodeGetDependentNodes(CNtaskTopoNode node, CNtaskTopoNode *nodes, size_t *count);
CNresult cnTaskTopoNodeGetType(CNtaskTopoNode node, CNtaskTopoNodeType *type);
CNresult cnTaskTopoDebugDotPrint(CNtaskTopo topo, const char *path, unsigned int flags);
CNresult cnUserObjectCreate(CNuserObject *object, void *pointer, CNhostFn destroy,
                            unsigned int count, unsigned int flags);
CNresult cnUserObjectAcquire(CNuserObject object, unsigned int count);
CNresult cnUserObjectRelease(CNuserObject object, unsigned int count);
CNresult cnTaskTopoAcquireUserObject(CNtaskTopo topo, CNuserObject object, unsigned int count,
                                     unsigned int flags);
CNresult cnTaskTopoReleaseUserObject(CNtaskTopo topo, CNuserObject object, unsigned int count);

CNresult cnTaskTopoAddEmptyNode(CNtaskTopoNode *node, CNtaskTopo topo,
                                const CNtaskTopoNode *dependencies, size_t count);
CNresult cnTaskTopoAddHostNode(CNtaskTopoNode *node, CNtaskTopo topo,
                               const CNtaskTopoNode *dependencies, size_t count,
                               const CN_HOST_NODE_PARAMS *parameters);
CNresult cnTaskTopoAddKernelNode(CNtaskTopoNode *node, CNtaskTopo topo,
                                 const CNtaskTopoNode *dependencies, size_t count,
                                 const CN_KERNEL_NODE_PARAMS *parameters);
CNresult cnTaskTopoAddMemcpyNode(CNtaskTopoNode *node, CNtaskTopo topo,
                                 const CNtaskTopoNode *dependencies, size_t count,
                                 const CNmemcpy3dParam *parameters);
CNresult cnTaskTopoAddMemsetNode(CNtaskTopoNode *node, CNtaskTopo topo,
                                 const CNtaskTopoNode *dependencies, size_t count,
                                 const CN_MEMSET_NODE_PARAMS *parameters);
CNresult cnTaskTopoAddChildTopoNode(CNtaskTopoNode *node, CNtaskTopo topo,
                                    const CNtaskTopoNode *dependencies, size_t count,
                                    CNtaskTopo child);
CNresult cnTaskTopoAddNotifierPlaceNode(CNtaskTopoNode *node, CNtaskTopo topo,
                                        const CNtaskTopoNode *dependencies, size_t count,
                                        CNnotifier notifier);
CNresult cnTaskTopoAddNotifierWaitNode(CNtaskTopoNode *node, CNtaskTopo topo,
                                       const CNtaskTopoNode *dependencies, size_t count,
                                       CNnotifier notifier);
CNresult cnTaskTopoHostNodeGetParams(CNtaskTopoNode node, CN_HOST_NODE_PARAMS *parameters);
CNresult cnTaskTopoHostNodeSetParams(CNtaskTopoNode node, const CN_HOST_NODE_PARAMS *parameters);
CNresult cnTaskTopoKernelNodeGetParams(CNtaskTopoNode node, CN_KERNEL_NODE_PARAMS *parameters);
CNresult cnTaskTopoKernelNodeSetParams(CNtaskTopoNode node,
                                       const CN_KERNEL_NODE_PARAMS *parameters);
CNresult cnTaskTopoMemcpyNodeGetParams(CNtaskTopoNode node, CNmemcpy3dParam *parameters);
CNresult cnTaskTopoMemcpyNodeSetParams(CNtaskTopoNode node, const CNmemcpy3dParam *parameters);
CNresult cnTaskTopoMemsetNodeGetParams(CNtaskTopoNode node, CN_MEMSET_NODE_PARAMS *parameters);
CNresult cnTaskTopoMemsetNodeSetParams(CNtaskTopoNode node,
                                       const CN_MEMSET_NODE_PARAMS *parameters);
CNresult cnTaskTopoChildTopoNodeGetTopo(CNtaskTopoNode node, CNtaskTopo *topo);
CNresult cnTaskTopoNotifierPlaceNodeGetNotifier(CNtaskTopoNode node, CNnotifier *notifier);
CNresult cnTaskTopoNotifierPlaceNodeSetNotifier(CNtaskTopoNode node, CNnotifier notifier);
CNresult cnTaskTopoNotifierWaitNodeGetNotifier(CNtaskTopoNode node, CNnotifier *notifier);
CNresult cnTaskTopoNotifierWaitNodeSetNotifier(CNtaskTopoNode node, CNnotifier notifier);

CNresult cnTaskTopoInstantiate(CNtaskTopoEntity *entity, CNtaskTopo topo, CNtaskTopoNode *error,
                               char *log, size_t bytes);
CNresult cnTaskTopoEntityDestroy(CNtaskTopoEntity entity);
CNresult cnTaskTopoEntityInvoke(CNtaskTopoEntity entity, CNqueue queue);
CNresult cnTaskTopoUpload(CNtaskTopoEntity entity, CNqueue queue);
CNresult cnTaskTopoEntityUpdate(CNtaskTopoEntity entity, CNtaskTopo topo, CNtaskTopoNode *error,
                                CNtaskTopoEntityUpdateResult *found);
CNresult cnTaskTopoEntityHostNodeSetParams(CNtaskTopoEntity entity, CNtaskTopoNode node,
                                           const CN_HOST_NODE_PARAMS *parameters);
CNresult cnTaskTopoEntityKernelNodeSetParams(CNtaskTopoEntity entity, CNtaskTopoNode node,
                                             const CN_KERNEL_NODE_PARAMS *parameters);
CNresult cnTaskTopoEntityMemcpyNodeSetParams(CNtaskTopoEntity entity, CNtaskTopoNode node,
                                             const CNmemcpy3dParam *parameters);
CNresult cnTaskTopoEntityMemsetNodeSetParams(CNtaskTopoEntity entity, CNtaskTopoNode node,
                                             const CN_MEMSET_NODE_PARAMS *parameters);
CNresult cnTaskTopoEntityChildTopoNodeSetParams(CNtaskTopoEntity entity, CNtaskTopoNode node,
                                                CNtaskTopo child);
CNresult cnTaskTopoEntityNotifierPlaceNodeSetNotifier(CNtaskTopoEntity entity, CNtaskTopoNode node,
                                                      CNnotifier notifier);
CNresult cnTaskTopoEntityNotifierWaitNodeSetNotifier(CNtaskTopoEntity entity, CNtaskTopoNode node,
                                                     CNnotifier notifier);

#endif
