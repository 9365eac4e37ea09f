/* Initialisation: the region, the devices, and the routing of look-ups. */
#include "shim.h"

#include "shim/memory/physical.h"
#include "shim/memory/shared.h"

#include <string.h>

__thread struct aliquot_own aliquot_own __attribute__((tls_model("initial-exec")));

/* Stands for a function that this driver lacks: programs may have been linked with it. */
static CNresult not_there(void) { return CN_OPS_ERROR_NOT_SUPPORTED; }
void *const aliquot_missing = (void *)not_there;

static CNdev handles[ALIQUOT_ORDINALS];
static uint32_t handle_count;

static void forget(void) {
    aliquot_context_forget();
    aliquot_table_reset(&aliquot_pointers);
    aliquot_physical_forget();
    aliquot_shared_forget();
    aliquot_pools_forget();
    aliquot_module_forget();
    aliquot_time_forget();
}

/* Before a refusal. */
static void settle(uint32_t device) {
    aliquot_pools_settle(device);
    aliquot_physical_settle();
}

static bool device_uuid(int ordinal, unsigned char uuid[16]) {
    CNuuid found;
    if (REAL(cnDeviceGet)(&handles[ordinal], ordinal) != CN_SUCCESS || !HAVE(cnDeviceGetUuid) ||
        REAL(cnDeviceGetUuid)(&found, handles[ordinal]) != CN_SUCCESS)
        return false;
    memcpy(uuid, found.uuid, sizeof found.uuid);
    return true;
}

const struct aliquot_vendor aliquot_vendor = {
    .what = "CNDrv",
    .library = "driver",
    .forget = forget,
    .settle = settle,
    .uuid = device_uuid,
};

CNresult aliquot_prepare(void) {
    int count;
    /* Without an initialised driver there is nothing to guard, and no slot to take. */
    CNresult result =
        HAVE(cnDeviceGetCount) ? REAL(cnDeviceGetCount)(&count) : CN_ERROR_NOT_INITIALIZED;
    if (result != CN_SUCCESS)
        return result;
    if (!aliquot_join())
        return CN_ERROR_OPERATING_SYSTEM;
    handle_count = count < 0 ? 0 : count < ALIQUOT_ORDINALS ? (uint32_t)count : ALIQUOT_ORDINALS;
    aliquot_map_devices(count);
    return CN_SUCCESS;
}

int aliquot_device_index(CNdev device) {
    for (uint32_t i = 0; i < handle_count; i++)
        if (handles[i] == device)
            return aliquot_ordinal_index(i);
    return -1;
}

int aliquot_ordinal_index(uint32_t ordinal) {
    return aliquot_mapped(ordinal < ALIQUOT_ORDINALS ? (int)ordinal : -1);
}

CNresult aliquot_cnInit(unsigned int flags) {
    /* The region first: a driver that was initialised without its caps would run without them. */
    if (!aliquot_join())
        return CN_ERROR_OPERATING_SYSTEM;
    CNresult result = REAL(cnInit)(flags);
    return result == CN_SUCCESS && !aliquot_prepared() ? aliquot_prepare() : result;
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
