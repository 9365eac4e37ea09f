/* Contexts: their own and the one of each device that all share, which is the driver's primary one. */
#include "cndrv_sim.h"

/* What the driver says where the device has no memory for a context. */
static CNresult made(CUresult result) {
    return cn_error_as(result, CUDA_ERROR_OUT_OF_MEMORY, CN_CONTEXT_ERROR_OUT_OF_RESOURCES);
}

static CNresult of_device(CNdev device) {
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && device >= (CNdev)sim_device_count())
        result = CN_ERROR_INVALID_DEVICE;
    return result;
}

CNresult cnCtxCreate(CNcontext *context, unsigned int flags, CNdev device) {
    CUcontext created, under;
    CNresult result = of_device(device);
    (void)flags; /* how to wait */
    if (result == CN_SUCCESS && !context)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = made(cuCtxCreate(&created, NULL, 0, (CUdevice)device));
    if (result != CN_SUCCESS)
        return result;
    /* A thread has one here, and no stack of them. */
    cuCtxPopCurrent(&under);
    *context = (CNcontext)(void *)created;
    return cn_error(cuCtxSetCurrent(created));
}

static bool is_shared(struct sim_context *context) {
    return context == sim_context_primary(context->dev);
}

CNresult cnCtxDestroy(CNcontext context) {
    CNresult result = cn_begin();
    if (result != CN_SUCCESS)
        return result;
    struct sim_context *found = sim_context_get((CUcontext)(void *)context);
    if (!found || is_shared(found))
        return CN_CONTEXT_ERROR_INVALID;
    return cn_error(cuCtxDestroy((CUcontext)(void *)context));
}

CNresult cnCtxGetCurrent(CNcontext *context) {
    CUcontext current = NULL;
    CNresult result = cn_begin();
    if (result != CN_SUCCESS)
        return result;
    if (!context)
        return CN_ERROR_INVALID_VALUE;
    CUresult answer = cuCtxGetCurrent(&current);
    /* None that lives is none. */
    if (answer != CUDA_SUCCESS || !sim_context_get(current))
        current = NULL;
    *context = (CNcontext)(void *)current;
    return CN_SUCCESS;
}

CNresult cnCtxSetCurrent(CNcontext context) {
    CNresult result = cn_begin();
    return result == CN_SUCCESS ? cn_error(cuCtxSetCurrent((CUcontext)(void *)context)) : result;
}

CNresult cnCtxGetDevice(CNdev *device) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && !device)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        *device = (CNdev)context->dev;
    return result;
}

CNresult cnCtxSync(void) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    return result == CN_SUCCESS ? cn_error(cuCtxSynchronize()) : result;
}

CNresult cnCtxGetQueuePriorityRange(int *least, int *greatest) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    return result == CN_SUCCESS ? cn_error(cuCtxGetStreamPriorityRange(least, greatest)) : result;
}

/* ---- The shared one ------------------------------------------------------------------------------ */

CNresult cnSharedContextGetState(CNdev device, unsigned int *flags, int *state) {
    CNresult result = of_device(device);
    return result == CN_SUCCESS
               ? cn_error(cuDevicePrimaryCtxGetState((CUdevice)device, flags, state))
               : result;
}

CNresult cnSharedContextAcquire(CNcontext *context, CNdev device) {
    CUcontext found;
    CNresult result = of_device(device);
    if (result == CN_SUCCESS && !context)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = made(cuDevicePrimaryCtxRetain(&found, (CUdevice)device));
    if (result == CN_SUCCESS)
        *context = (CNcontext)(void *)found;
    return result;
}

CNresult cnSharedContextRelease(CNdev device) {
    CNresult result = of_device(device);
    return result == CN_SUCCESS ? cn_error(cuDevicePrimaryCtxRelease((CUdevice)device)) : result;
}

CNresult cnSharedContextReset(CNdev device) {
    CNresult result = of_device(device);
    return result == CN_SUCCESS ? cn_error(cuDevicePrimaryCtxReset((CUdevice)device)) : result;
}
