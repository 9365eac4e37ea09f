/* Initialisation: the region, the devices, and the routing of look-ups. */
#include "time.h"

#include "shim/memory/shared.h"

#include <string.h>

/* Wrappers are reached only where the driver has the function, and ask for others with HAVE. */
void *const aliquot_missing = NULL;

static void forget(void) {
    aliquot_context_forget();
    aliquot_memory_forget();
    aliquot_pool_forget();
    aliquot_settle_forget();
    aliquot_graph_forget();
    aliquot_vmm_forget();
    aliquot_shared_forget();
    aliquot_module_forget();
    aliquot_time_forget();
}

/* The driver counts devices as their ordinals are. */
static bool device_uuid(int ordinal, unsigned char uuid[16]) {
    CUdevice device;
    CUuuid found;
    CUresult result = REAL(cuDeviceGet)(&device, ordinal);
    if (result != CUDA_SUCCESS || device != ordinal)
        return false;
    /* _v2 names the instance of a partitioned device, which is what a slice is of. */
    if (HAVE(cuDeviceGetUuid_v2))
        result = REAL(cuDeviceGetUuid_v2)(&found, device);
    else
        result = HAVE(cuDeviceGetUuid) ? REAL(cuDeviceGetUuid)(&found, device)
                                       : CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS)
        memcpy(uuid, found.bytes, sizeof found.bytes);
    return result == CUDA_SUCCESS;
}

const struct aliquot_vendor aliquot_vendor = {
    .what = "CUDA",
    .library = "driver",
    .forget = forget,
    .settle = aliquot_settle_device,
    .uuid = device_uuid,
};

CUresult aliquot_prepare(void) {
    int count;
    /* Without an initialised driver there is nothing to guard, and no slot to take. */
    CUresult result =
        HAVE(cuDeviceGetCount) ? REAL(cuDeviceGetCount)(&count) : CUDA_ERROR_NOT_INITIALIZED;
    if (result != CUDA_SUCCESS)
        return result;
    if (!aliquot_join())
        return CUDA_ERROR_OPERATING_SYSTEM;
    aliquot_map_devices(count);
    return CUDA_SUCCESS;
}

int aliquot_device_index(CUdevice ordinal) {
    int index = aliquot_mapped(ordinal);
    return index < 0 ? -1 : index;
}

CUdevice aliquot_device_ordinal(uint32_t device) { return aliquot_mapped_from(device); }

CUresult aliquot_cuInit(unsigned int flags) {
    /* The region first: a driver that was initialised without its caps would run without them. */
    if (!aliquot_join())
        return CUDA_ERROR_OPERATING_SYSTEM;
    CUresult result = REAL(cuInit)(flags);
    return result == CUDA_SUCCESS && !aliquot_prepared() ? aliquot_prepare() : result;
}

/* The driver picks the version; we only stand in for what it picked. */
static void route(CUresult result, void **function) {
    if (result != CUDA_SUCCESS || !function || !*function)
        return;
    bool known;
    *function = aliquot_route(*function, &known);
    if (!known)
        aliquot_count_unknown();
}

CUresult aliquot_cuGetProcAddress(const char *symbol, void **function, int version,
                                  cuuint64_t flags) {
    CUresult result = REAL(cuGetProcAddress)(symbol, function, version, flags);
    route(result, function);
    return result;
}

CUresult aliquot_cuGetProcAddress_v2(const char *symbol, void **function, int version,
                                     cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    CUresult result = REAL(cuGetProcAddress_v2)(symbol, function, version, flags, status);
    route(result, function);
    return result;
}
