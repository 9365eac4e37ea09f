/* Devices and contexts. A device has one context of the driver's, from the first rtSetDevice to the
 * last rtDeviceReset; contexts of programs are views of it. */
#include "acl_sim.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A view. Never freed, so that a stale handle is found stale. */
struct view {
    int32_t device;
    bool primary;
    uint32_t generation; /* of its device, when it was made */
    _Atomic bool live;
};

/* A device's. Under the lock. */
static struct place {
    struct view primary;
    uint32_t uses; /* of the driver's context, by rtSetDevice and views */
    CUcontext context;
    CUstream stream;             /* the default stream, or NULL */
    _Atomic uint32_t generation; /* how often the driver's context has ended */
} places[SIM_DEVICES_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local struct view *current;

rtError_t acl_error(CUresult result) {
    switch (result) {
    case CUDA_SUCCESS:
        return RT_OK;
    case CUDA_ERROR_OUT_OF_MEMORY:
        return RT_MEMORY_ALLOCATION;
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_HANDLE:
        return RT_PARAM_INVALID;
    case CUDA_ERROR_INVALID_DEVICE:
        return RT_INVALID_DEVICE;
    case CUDA_ERROR_INVALID_CONTEXT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
        return RT_CONTEXT_NULL;
    case CUDA_ERROR_NO_DEVICE:
        return RT_NO_DEVICE;
    case CUDA_ERROR_NOT_SUPPORTED:
        return RT_FEATURE_NOT_SUPPORT;
    case CUDA_ERROR_NOT_READY:
        return RT_STREAM_NOT_COMPLETE;
    case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
    case CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
    case CUDA_ERROR_STREAM_CAPTURE_ISOLATION:
        return RT_CAPTURE_NOT_SUPPORTED;
    case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED:
        return RT_CAPTURE_INVALIDATED;
    case CUDA_ERROR_STREAM_CAPTURE_UNMATCHED:
        return RT_CAPTURE_UNMATCHED;
    case CUDA_ERROR_STREAM_CAPTURE_UNJOINED:
        return RT_CAPTURE_UNJOINED;
    case CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD:
        return RT_CAPTURE_WRONG_THREAD;
    default:
        return RT_DRV_INTERNAL_ERROR;
    }
}

/* Relaxed, both: whether a context goes during a call is the program's affair. */
static bool is_live(const struct view *view) {
    return view && atomic_load_explicit(&view->live, memory_order_relaxed) &&
           view->generation ==
               atomic_load_explicit(&places[view->device].generation, memory_order_relaxed);
}

rtError_t acl_begin(void) { return acl_error(cuInit(0)); }

rtError_t acl_enter(int32_t *device) {
    rtError_t result = acl_begin();
    if (result != RT_OK)
        return result;
    if (!is_live(current))
        return RT_CONTEXT_NULL;
    if (device)
        *device = current->device;
    return acl_error(cuCtxSetCurrent(places[current->device].context));
}

rtError_t acl_stream(rtStream_t stream, CUstream *found) {
    *found = stream;
    if (stream)
        return RT_OK;
    struct place *place = &places[current->device];
    pthread_mutex_lock(&lock);
    CUresult result = CUDA_SUCCESS;
    if (!place->stream)
        result = cuStreamCreate(&place->stream, CU_STREAM_NON_BLOCKING);
    *found = place->stream;
    pthread_mutex_unlock(&lock);
    return acl_error(result);
}

static rtError_t check(int32_t device) {
    rtError_t result = acl_begin();
    if (result == RT_OK && (device < 0 || device >= sim_device_count()))
        result = RT_INVALID_DEVICE;
    return result;
}

/* Under the lock. */
static rtError_t use(int32_t device) {
    struct place *place = &places[device];
    CUresult result = CUDA_SUCCESS;
    if (!place->uses) {
        result = cuDevicePrimaryCtxRetain(&place->context, device);
        place->primary.device = device;
        place->primary.primary = true;
        place->primary.generation = atomic_load_explicit(&place->generation, memory_order_relaxed);
        atomic_store_explicit(&place->primary.live, result == CUDA_SUCCESS, memory_order_relaxed);
    }
    place->uses += result == CUDA_SUCCESS;
    return acl_error(result);
}

/* Under the lock: some uses less; with the last one all that lives on the device goes. */
static rtError_t unuse(int32_t device, uint32_t uses) {
    struct place *place = &places[device];
    if (place->uses < uses || !uses)
        return RT_CONTEXT_NULL;
    place->uses -= uses;
    if (place->uses)
        return RT_OK;
    atomic_store_explicit(&place->primary.live, false, memory_order_relaxed);
    atomic_fetch_add_explicit(&place->generation, 1, memory_order_relaxed);
    place->stream = NULL;
    CUresult result = cuDevicePrimaryCtxRelease(device);
    sim_pools_end(device);
    return acl_error(result);
}

rtError_t rtGetDeviceCount(int32_t *count) {
    rtError_t result = acl_begin();
    if (result == RT_OK && !count)
        result = RT_PARAM_INVALID;
    if (result == RT_OK)
        *count = sim_device_count();
    return result;
}

rtError_t rtGetDevice(int32_t *device) {
    if (!device)
        return RT_PARAM_INVALID;
    if (!is_live(current))
        return RT_CONTEXT_NULL;
    *device = current->device;
    return RT_OK;
}

rtError_t rtGetDeviceUuid(int32_t device, rtUuid_t *uuid) {
    rtError_t result = check(device);
    if (result == RT_OK && !uuid)
        result = RT_PARAM_INVALID;
    if (result == RT_OK)
        memcpy(uuid->bytes, sim_device_config(device)->uuid, sizeof uuid->bytes);
    return result;
}

rtError_t rtsDeviceGetInfo(uint32_t device, uint32_t attribute, int64_t *value) {
    rtError_t result = check(device < INT32_MAX ? (int32_t)device : -1);
    if (result == RT_OK && !value)
        result = RT_PARAM_INVALID;
    if (result != RT_OK)
        return result;
    const struct sim_device_config *config = sim_device_config((int32_t)device);
    switch (attribute) {
    case RT_DEV_ATTR_AICORE_CORE_NUM:
        *value = (int64_t)config->sms;
        return RT_OK;
    case RT_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE:
        *value = (int64_t)(config->memory - config->reserved);
        return RT_OK;
    default:
        return RT_FEATURE_NOT_SUPPORT;
    }
}

rtError_t rtSetDevice(int32_t device) {
    rtError_t result = check(device);
    if (result != RT_OK)
        return result;
    pthread_mutex_lock(&lock);
    result = use(device);
    pthread_mutex_unlock(&lock);
    if (result == RT_OK)
        current = &places[device].primary;
    return result;
}

rtError_t rtSetDeviceEx(int32_t device) { return rtSetDevice(device); }

rtError_t rtSetDeviceWithFlags(int32_t device, uint64_t flags) {
    return flags ? RT_PARAM_INVALID : rtSetDevice(device);
}

rtError_t rtSetDeviceWithoutTsd(int32_t device) { return rtSetDevice(device); }

static rtError_t reset(int32_t device, bool all) {
    rtError_t result = check(device);
    if (result != RT_OK)
        return result;
    pthread_mutex_lock(&lock);
    result = unuse(device, all ? places[device].uses : 1);
    pthread_mutex_unlock(&lock);
    return result;
}

rtError_t rtDeviceReset(int32_t device) { return reset(device, false); }

rtError_t rtDeviceResetForce(int32_t device) { return reset(device, true); }

rtError_t rtDeviceResetWithoutTsd(int32_t device) { return reset(device, false); }

rtError_t rtsSetDevice(int32_t device) { return rtSetDevice(device); }

rtError_t rtsResetDevice(int32_t device) { return rtDeviceReset(device); }

rtError_t rtsDeviceResetForce(int32_t device) { return rtDeviceResetForce(device); }

rtError_t rtDeviceSynchronize(void) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_error(cuCtxSynchronize()) : result;
}

rtError_t rtDeviceSynchronizeWithTimeout(int32_t timeout) {
    /* Work of the simulator ends by itself. */
    return timeout < -1 ? RT_PARAM_INVALID : rtDeviceSynchronize();
}

rtError_t rtsGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
    rtError_t result = check(device);
    if (result == RT_OK && !active)
        result = RT_PARAM_INVALID;
    if (result != RT_OK)
        return result;
    if (flags)
        *flags = 0;
    *active = is_live(&places[device].primary);
    return RT_OK;
}

rtError_t rtCtxCreateEx(rtContext_t *context, uint32_t flags, int32_t device) {
    (void)flags;
    rtError_t result = check(device);
    if (result == RT_OK && !context)
        result = RT_PARAM_INVALID;
    struct view *view = result == RT_OK ? calloc(1, sizeof *view) : NULL;
    if (!view)
        return result == RT_OK ? RT_INTERNAL_ERROR : result;
    pthread_mutex_lock(&lock);
    result = use(device);
    pthread_mutex_unlock(&lock);
    if (result != RT_OK) {
        free(view);
        return result;
    }
    view->device = device;
    view->generation = atomic_load_explicit(&places[device].generation, memory_order_relaxed);
    atomic_store_explicit(&view->live, true, memory_order_relaxed);
    *context = current = view;
    return RT_OK;
}

rtError_t rtCtxCreate(rtContext_t *context, uint32_t flags, int32_t device) {
    return rtCtxCreateEx(context, flags, device);
}

rtError_t rtCtxDestroyEx(rtContext_t context) {
    struct view *view = context;
    if (!view || view->primary)
        return RT_PARAM_INVALID;
    if (!is_live(view) || !atomic_exchange_explicit(&view->live, false, memory_order_relaxed))
        return RT_CONTEXT_NULL;
    pthread_mutex_lock(&lock);
    rtError_t result = unuse(view->device, 1);
    pthread_mutex_unlock(&lock);
    return result;
}

rtError_t rtCtxDestroy(rtContext_t context) { return rtCtxDestroyEx(context); }

rtError_t rtsCtxCreate(rtContext_t *context, uint64_t flags, int32_t device) {
    return flags ? RT_PARAM_INVALID : rtCtxCreateEx(context, 0, device);
}

rtError_t rtsCtxDestroy(rtContext_t context) { return rtCtxDestroyEx(context); }

rtError_t rtCtxGetCurrent(rtContext_t *context) {
    if (!context)
        return RT_PARAM_INVALID;
    if (!is_live(current))
        return RT_CONTEXT_NULL;
    *context = current;
    return RT_OK;
}

rtError_t rtCtxSetCurrent(rtContext_t context) {
    struct view *view = context;
    if (!is_live(view))
        return RT_CONTEXT_NULL;
    current = view;
    return RT_OK;
}

/* -- Peers: the node's number of a device is the process' own here -------------------------------------- */

static rtError_t pair(uint32_t device, uint32_t peer) {
    rtError_t result = check(device <= INT32_MAX ? (int32_t)device : -1);
    return result == RT_OK ? check(peer <= INT32_MAX ? (int32_t)peer : -1) : result;
}

rtError_t rtDeviceCanAccessPeer(int32_t *can, uint32_t device, uint32_t peer) {
    rtError_t result = pair(device, peer);
    if (result == RT_OK && !can)
        result = RT_PARAM_INVALID;
    return result == RT_OK ? acl_error(cuDeviceCanAccessPeer(can, (int)device, (int)peer)) : result;
}

rtError_t rtEnableP2P(uint32_t device, uint32_t peer, uint32_t flag) {
    int32_t can = 0;
    rtError_t result = flag ? RT_PARAM_INVALID : rtDeviceCanAccessPeer(&can, device, peer);
    return result == RT_OK && !can ? RT_FEATURE_NOT_SUPPORT : result;
}

rtError_t rtDisableP2P(uint32_t device, uint32_t peer) { return pair(device, peer); }
