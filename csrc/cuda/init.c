/* Initialisation: the region, the devices, and the routing of look-ups. */
#include "time.h"

#include "shim/memory/shared.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Wrappers are reached only where the driver has the function, and ask for others with HAVE. */
void *const aliquot_missing = NULL;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int device_index[ALIQUOT_ORDINALS];
static CUdevice device_ordinal[ALIQUOT_MAX_DEVICES];

/* The one thing that the shim ever prints: why initialisation fails. */
static void say(const struct aliquot_error *error) {
    static _Atomic int said;
    int saved = errno;
    if (!atomic_exchange_explicit(&said, 1, memory_order_relaxed))
        dprintf(STDERR_FILENO, "aliquot: no CUDA in this process: %s\n", error->text);
    errno = saved;
}

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

static bool attach(void) {
    struct aliquot_error error = {"the driver behind the shim was not found"};
    const char *folder = aliquot_folder();
    if (folder && aliquot_attach(folder, forget, &error))
        return true;
    say(&error);
    return false;
}

static CUresult device_uuid(CUuuid *uuid, CUdevice ordinal) {
    /* _v2 names the instance of a partitioned device, which is what a slice is of. */
    if (HAVE(cuDeviceGetUuid_v2))
        return REAL(cuDeviceGetUuid_v2)(uuid, ordinal);
    if (HAVE(cuDeviceGetUuid))
        return REAL(cuDeviceGetUuid)(uuid, ordinal);
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* Maps the driver's devices to those of the grant. Fails when the driver is not initialised. */
static CUresult map_devices(void) {
    int count = 0;
    CUresult result =
        HAVE(cuDeviceGetCount) ? REAL(cuDeviceGetCount)(&count) : CUDA_ERROR_NOT_INITIALIZED;
    if (result != CUDA_SUCCESS)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&mutex);
    for (unsigned i = 0; i < ALIQUOT_MAX_DEVICES; i++)
        device_ordinal[i] = -1;
    for (int i = 0; i < ALIQUOT_ORDINALS; i++) {
        device_index[i] = -1;
        CUdevice ordinal;
        CUuuid uuid;
        if (i >= count || REAL(cuDeviceGet)(&ordinal, i) != CUDA_SUCCESS ||
            device_uuid(&uuid, ordinal) != CUDA_SUCCESS || ordinal != i)
            continue;
        for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
            if (!memcmp(aliquot_slice.grant->device[d].uuid, uuid.bytes, sizeof uuid.bytes)) {
                device_index[i] = (int)d;
                device_ordinal[d] = ordinal;
            }
    }
    uint64_t page = aliquot_slice.grant->device[0].page_bytes;
    aliquot_pointers.page_shift = (unsigned)__builtin_ctzll(page);
    aliquot_settle = aliquot_settle_device;
    aliquot_one_device = count == 1;
    aliquot_set_prepared();
    pthread_mutex_unlock(&mutex);
    return CUDA_SUCCESS;
}

CUresult aliquot_prepare(void) {
    int count;
    /* Without an initialised driver there is nothing to guard, and no slot to take. */
    if (!HAVE(cuDeviceGetCount) || REAL(cuDeviceGetCount)(&count) != CUDA_SUCCESS)
        return CUDA_ERROR_NOT_INITIALIZED;
    return attach() ? map_devices() : CUDA_ERROR_OPERATING_SYSTEM;
}

int aliquot_device_index(CUdevice ordinal) {
    return ordinal >= 0 && ordinal < ALIQUOT_ORDINALS ? device_index[ordinal] : -1;
}

CUdevice aliquot_device_ordinal(uint32_t device) {
    return device < ALIQUOT_MAX_DEVICES ? device_ordinal[device] : -1;
}

CUresult aliquot_cuInit(unsigned int flags) {
    /* The region first: a driver that was initialised without its caps would run without them. */
    if (!attach())
        return CUDA_ERROR_OPERATING_SYSTEM;
    CUresult result = REAL(cuInit)(flags);
    if (result == CUDA_SUCCESS && !aliquot_prepared())
        result = map_devices();
    return result;
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
