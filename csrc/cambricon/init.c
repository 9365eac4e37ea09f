/* Initialisation: the region, the devices, and the routing of look-ups. */
#include "shim.h"

#include "shim/memory/shared.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__thread uint32_t aliquot_depth __attribute__((tls_model("initial-exec")));

/* Devices of the driver, by ordinal. */
#define ORDINALS 64u

/* Stands for a function that this driver lacks: programs may have been linked with it. */
static CNresult not_there(void) { return CN_OPS_ERROR_NOT_SUPPORTED; }
void *const aliquot_missing = (void *)not_there;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
    CNdev handle;
    int index; /* -1: not in the slice */
} devices[ORDINALS];
static uint32_t device_count;

/* The one thing that the shim ever prints: why initialisation fails. */
static void say(const struct aliquot_error *error) {
    static _Atomic int said;
    int saved = errno;
    if (!atomic_exchange_explicit(&said, 1, memory_order_relaxed))
        dprintf(STDERR_FILENO, "aliquot: no CNDrv in this process: %s\n", error->text);
    errno = saved;
}

static void forget(void) {
    aliquot_context_forget();
    aliquot_table_reset(&aliquot_pointers);
    aliquot_vmm_forget();
    aliquot_shared_forget();
    aliquot_pool_forget();
    aliquot_module_forget();
    aliquot_time_forget();
}

/* Before a refusal. */
static void settle(uint32_t device) {
    aliquot_pools_settle(device);
    aliquot_vmm_settle();
}

static bool attach(void) {
    struct aliquot_error error = {"the driver behind the shim was not found"};
    const char *folder = aliquot_folder();
    if (folder && aliquot_attach(folder, forget, &error))
        return true;
    say(&error);
    return false;
}

/* Maps the driver's devices to those of the grant. Fails when the driver is not initialised. */
static CNresult map_devices(void) {
    int count = 0;
    if (!HAVE(cnDeviceGetCount) || REAL(cnDeviceGetCount)(&count) != CN_SUCCESS)
        return CN_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&mutex);
    device_count = count < 0 ? 0 : (uint32_t)count < ORDINALS ? (uint32_t)count : ORDINALS;
    for (uint32_t i = 0; i < device_count; i++) {
        CNuuid uuid;
        devices[i].index = -1;
        if (REAL(cnDeviceGet)(&devices[i].handle, (int)i) != CN_SUCCESS || !HAVE(cnDeviceGetUuid) ||
            REAL(cnDeviceGetUuid)(&uuid, devices[i].handle) != CN_SUCCESS)
            continue;
        for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
            if (!memcmp(aliquot_slice.grant->device[d].uuid, uuid.uuid, sizeof uuid.uuid))
                devices[i].index = (int)d;
    }
    uint64_t page = aliquot_slice.grant->device[0].page_bytes;
    aliquot_pointers.page_shift = (unsigned)__builtin_ctzll(page);
    aliquot_settle = settle;
    aliquot_one_device = count == 1;
    aliquot_set_prepared();
    pthread_mutex_unlock(&mutex);
    return CN_SUCCESS;
}

CNresult aliquot_prepare(void) {
    int count;
    /* Without an initialised driver there is nothing to guard, and no slot to take. */
    if (!HAVE(cnDeviceGetCount) || REAL(cnDeviceGetCount)(&count) != CN_SUCCESS)
        return CN_ERROR_NOT_INITIALIZED;
    return attach() ? map_devices() : CN_ERROR_OPERATING_SYSTEM;
}

int aliquot_device_index(CNdev device) {
    for (uint32_t i = 0; i < device_count; i++)
        if (devices[i].handle == device)
            return devices[i].index;
    return -1;
}

int aliquot_ordinal_index(uint32_t ordinal) {
    return ordinal < device_count ? devices[ordinal].index : ALIQUOT_NO_SUCH_DEVICE;
}

CNresult aliquot_cnInit(unsigned int flags) {
    /* The region first: a driver that was initialised without its caps would run without them. */
    if (!attach())
        return CN_ERROR_OPERATING_SYSTEM;
    CNresult result = REAL(cnInit)(flags);
    if (result == CN_SUCCESS && !aliquot_prepared())
        result = map_devices();
    return result;
}

CNresult aliquot_cnGetExportFunction(const char *name, const void **function) {
    CNresult result = REAL(cnGetExportFunction)(name, function);
    bool known;
    if (result != CN_SUCCESS || !function || !*function)
        return result;
    *function = aliquot_route((void *)(uintptr_t)*function, &known);
    if (!known)
        aliquot_count_unknown();
    return result;
}
