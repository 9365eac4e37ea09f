/* Devices: what they are called, where they are, and who reaches whom. */
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool sim_device_peers(CUdevice dev, CUdevice peer) {
    return dev != peer && sim_device_config(dev)->links[sim_device_physical(peer)] != 0;
}

static CUresult check(CUdevice dev) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && (dev < 0 || dev >= sim_device_count()))
        result = CUDA_ERROR_INVALID_DEVICE;
    return result;
}

CUresult cuDeviceGetCount(int *count) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = sim_device_count();
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *dev, int ordinal) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!dev)
        return CUDA_ERROR_INVALID_VALUE;
    result = check(ordinal);
    if (result == CUDA_SUCCESS)
        *dev = ordinal;
    return result;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!name || length <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(name, (size_t)length, "%s", sim_device_config(dev)->name);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!uuid)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(uuid->bytes, sim_device_config(dev)->uuid, sizeof uuid->bytes);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice dev) { return cuDeviceGetUuid_v2(uuid, dev); }

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!bytes)
        return CUDA_ERROR_INVALID_VALUE;
    *bytes = sim_device_config(dev)->memory - sim_device_config(dev)->reserved;
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(unsigned int *bytes, CUdevice dev) {
    size_t wide;
    CUresult result = cuDeviceTotalMem_v2(bytes ? &wide : NULL, dev);
    if (result == CUDA_SUCCESS)
        *bytes = wide > UINT32_MAX ? UINT32_MAX : (unsigned int)wide;
    return result;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!major || !minor)
        return CUDA_ERROR_INVALID_VALUE;
    *major = (int)sim_device_config(dev)->cc_major;
    *minor = (int)sim_device_config(dev)->cc_minor;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    return value ? sim_device_attribute(dev, attribute, value) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuDeviceGetProperties(CUdevprop *properties, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!properties)
        return CUDA_ERROR_INVALID_VALUE;
    const struct {
        CUdevice_attribute attribute;
        int *value;
    } wanted[] = {
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &properties->maxThreadsPerBlock},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, &properties->maxThreadsDim[0]},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, &properties->maxThreadsDim[1]},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, &properties->maxThreadsDim[2]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, &properties->maxGridSize[0]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, &properties->maxGridSize[1]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, &properties->maxGridSize[2]},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, &properties->sharedMemPerBlock},
        {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, &properties->totalConstantMemory},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, &properties->SIMDWidth},
        {CU_DEVICE_ATTRIBUTE_MAX_PITCH, &properties->memPitch},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, &properties->regsPerBlock},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, &properties->clockRate},
        {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, &properties->textureAlign},
    };
    for (size_t w = 0; w < sizeof wanted / sizeof *wanted; w++)
        (void)sim_device_attribute(dev, wanted[w].attribute, wanted[w].value);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetTexture1DLinearMaxWidth(size_t *elements, CUarray_format format,
                                            unsigned channels, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    unsigned bytes = 0;
    switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        bytes = 1;
        break;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        bytes = 2;
        break;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        bytes = 4;
        break;
    default:
        break;
    }
    if (!elements || !bytes || (channels != 1 && channels != 2 && channels != 4))
        return CUDA_ERROR_INVALID_VALUE;
    int most = 0;
    (void)sim_device_attribute(dev, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH, &most);
    *elements = (size_t)most;
    return CUDA_SUCCESS;
}

/* ---- Where they are ------------------------------------------------------------------------ */

CUresult cuDeviceGetPCIBusId(char *id, int length, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!id || length <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    const struct sim_device_config *config = sim_device_config(dev);
    snprintf(id, (size_t)length, "%04X:%02X:%02X.0", config->pci_domain, config->pci_bus,
             config->pci_device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetByPCIBusId(CUdevice *dev, const char *id) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!dev || !id)
        return CUDA_ERROR_INVALID_VALUE;
    unsigned domain = 0, bus = 0, device = 0, function = 0;
    int end = 0;
    /* [domain]:[bus]:[device].[function], the same without function, [bus]:[device].[function] */
    if (!(sscanf(id, "%x:%x:%x.%x%n", &domain, &bus, &device, &function, &end) == 4 && !id[end]) &&
        !(end = 0, sscanf(id, "%x:%x:%x%n", &domain, &bus, &device, &end) == 3 && !id[end]) &&
        !(domain = 0, end = 0,
          sscanf(id, "%x:%x.%x%n", &bus, &device, &function, &end) == 3 && !id[end]))
        return CUDA_ERROR_INVALID_VALUE;
    for (CUdevice d = 0; d < sim_device_count(); d++) {
        const struct sim_device_config *config = sim_device_config(d);
        if (config->pci_domain == domain && config->pci_bus == bus &&
            config->pci_device == device) {
            *dev = d;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_DEVICE;
}

/* ---- Peers --------------------------------------------------------------------------------- */

static CUresult check_pair(CUdevice dev, CUdevice peer) {
    CUresult result = check(dev);
    return result == CUDA_SUCCESS ? check(peer) : result;
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice dev, CUdevice peer) {
    CUresult result = check_pair(dev, peer);
    if (result != CUDA_SUCCESS)
        return result;
    if (!can)
        return CUDA_ERROR_INVALID_VALUE;
    *can = sim_device_peers(dev, peer);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attribute, CUdevice dev,
                                 CUdevice peer) {
    CUresult result = check_pair(dev, peer);
    if (result != CUDA_SUCCESS)
        return result;
    if (dev == peer)
        return CUDA_ERROR_INVALID_DEVICE;
    if (!value)
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:
        *value = 0; /* all links of a node are alike */
        return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
    case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
    case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
        *value = sim_device_peers(dev, peer);
        return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED:
        *value = 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* What atomics a device can do on host memory and on another device's: of kernels, none of which is
 * computed, so none is promised. */
static CUresult no_atomics(unsigned *capabilities, const CUatomicOperation *operations,
                           unsigned count) {
    if (!capabilities || !operations || !count)
        return CUDA_ERROR_INVALID_VALUE;
    memset(capabilities, 0, count * sizeof *capabilities);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetHostAtomicCapabilities(unsigned *capabilities,
                                           const CUatomicOperation *operations, unsigned count,
                                           CUdevice dev) {
    CUresult result = check(dev);
    return result == CUDA_SUCCESS ? no_atomics(capabilities, operations, count) : result;
}

CUresult cuDeviceGetP2PAtomicCapabilities(unsigned *capabilities,
                                          const CUatomicOperation *operations, unsigned count,
                                          CUdevice dev, CUdevice peer) {
    CUresult result = check_pair(dev, peer);
    return result == CUDA_SUCCESS ? no_atomics(capabilities, operations, count) : result;
}

/* ---- The rest ------------------------------------------------------------------------------ */

CUresult cuDeviceGetExecAffinitySupport(int *supported, CUexecAffinityType type, CUdevice dev) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!supported || (unsigned)type >= CU_EXEC_AFFINITY_TYPE_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    *supported = 0; /* only under MPS */
    return CUDA_SUCCESS;
}

/* Registered callbacks are kept and never called: nothing of what they tell happens here. */
CUresult cuDeviceRegisterAsyncNotification(CUdevice dev, CUasyncCallback callback, void *data,
                                           CUasyncCallbackHandle *handle) {
    CUresult result = check(dev);
    (void)data;
    if (result != CUDA_SUCCESS)
        return result;
    if (!callback || !handle)
        return CUDA_ERROR_INVALID_VALUE;
    CUdevice *notice = malloc(sizeof *notice);
    if (!notice || !sim_handle_add(SIM_HANDLE_NOTIFICATION, notice)) {
        free(notice);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *notice = dev;
    *handle = (CUasyncCallbackHandle)notice;
    return CUDA_SUCCESS;
}

CUresult cuDeviceUnregisterAsyncNotification(CUdevice dev, CUasyncCallbackHandle handle) {
    CUresult result = check(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_handle_drop(SIM_HANDLE_NOTIFICATION, handle))
        return CUDA_ERROR_INVALID_VALUE;
    free(handle);
    return CUDA_SUCCESS;
}

/* Nothing is measured and nothing recorded. */
CUresult cuProfilerStart(void);
CUresult cuProfilerStop(void);
CUresult cuProfilerStart(void) { return sim_ready(); }
CUresult cuProfilerStop(void) { return sim_ready(); }
