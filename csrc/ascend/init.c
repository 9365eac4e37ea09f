/* Initialisation: the region, and the devices. */
#include "shim.h"

#include "shim/memory/physical.h"

#include <stdlib.h>
#include <string.h>

/* Stands for a function that this runtime lacks: programs may have been linked with it. */
static rtError_t not_there(void) { return RT_FEATURE_NOT_SUPPORT; }
void *const aliquot_missing = (void *)not_there;

__thread uint32_t aliquot_depth __attribute__((tls_model("initial-exec")));

static void forget(void) {
    aliquot_device_forget();
    aliquot_memory_forget();
    aliquot_pools_forget();
    aliquot_physical_forget();
    aliquot_ipc_forget();
    aliquot_launch_forget();
    aliquot_models_forget();
    aliquot_lanes_forget();
    aliquot_time_forget();
}

/* Whether the runtime tells a device's UUID. */
static bool device_uuid(int device, unsigned char uuid[16]) {
    rtUuid_t found;
    rtError_t result = RT_FEATURE_NOT_SUPPORT;
    if (HAS(rtGetDeviceUuid))
        ALIQUOT_CALL(result, rtGetDeviceUuid, (device, &found));
    if (result == RT_OK)
        memcpy(uuid, found.bytes, sizeof found.bytes);
    return result == RT_OK;
}

/* Older runtimes tell no UUIDs, and others may tell such as the grant does not know. The process then sees
 * the devices of its slice and no others, in their order, or those of them that ASCEND_RT_VISIBLE_DEVICES
 * names by their places. What is named otherwise is not of the slice, for nobody knows its cap. */
static void find_by_place(int count, int index[ALIQUOT_ORDINALS]) {
    const char *list = getenv("ASCEND_RT_VISIBLE_DEVICES");
    if (!list && (uint32_t)count != aliquot_slice.device_count)
        return;
    for (int32_t i = 0; i < count && i < ALIQUOT_ORDINALS; i++) {
        char *end;
        unsigned long place = list ? strtoul(list, &end, 10) : (unsigned long)i;
        if (list && (end == list || (*end && *end != ',')))
            return;
        if (place < aliquot_slice.device_count)
            index[i] = (int)place;
        if (list)
            list = *end ? end + 1 : end;
    }
}

const struct aliquot_vendor aliquot_vendor = {
    .what = "Ascend device",
    .library = "runtime",
    .forget = forget,
    .uuid = device_uuid,
    .otherwise = find_by_place,
    .settle = aliquot_pools_settle,
};

rtError_t aliquot_prepare(void) {
    int32_t count = 0;
    rtError_t result = RT_NO_DEVICE;
    aliquot_resolve();
    if (HAS(rtGetDeviceCount))
        ALIQUOT_CALL(result, rtGetDeviceCount, (&count));
    if (result != RT_OK || count <= 0)
        return result != RT_OK ? result : RT_NO_DEVICE;
    if (!aliquot_join())
        return RT_DRV_INTERNAL_ERROR;
    aliquot_map_devices(count);
    return RT_OK;
}

int aliquot_device_index(int32_t device) { return aliquot_mapped(device); }

rtError_t aliquot_device_ask(int *index) {
    int32_t device;
    rtError_t result;
    ALIQUOT_CALL(result, rtGetDevice, (&device));
    *index = result == RT_OK ? aliquot_device_index(device) : -2;
    return result;
}

int aliquot_device_current(void) {
    int index;
    aliquot_device_ask(&index);
    return index;
}
