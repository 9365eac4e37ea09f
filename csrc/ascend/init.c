/* Initialisation: the region, and the devices. */
#include "shim.h"

#include "shim/memory/physical.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Stands for a function that this runtime lacks: programs may have been linked with it. */
static rtError_t not_there(void) { return RT_FEATURE_NOT_SUPPORT; }
void *const aliquot_missing = (void *)not_there;

__thread uint32_t aliquot_depth __attribute__((tls_model("initial-exec")));

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int device_index[ALIQUOT_ORDINALS];

/* The one thing that the shim ever prints: why a device cannot be had. */
static void say(const struct aliquot_error *error) {
    static _Atomic int said;
    int saved = errno;
    if (!atomic_exchange_explicit(&said, 1, memory_order_relaxed))
        dprintf(STDERR_FILENO, "aliquot: no Ascend device in this process: %s\n", error->text);
    errno = saved;
}

static void forget(void) {
    pthread_mutex_init(&mutex, NULL);
    aliquot_device_forget();
    aliquot_memory_forget();
    aliquot_physical_forget();
    aliquot_ipc_forget();
    aliquot_launch_forget();
    aliquot_models_forget();
    aliquot_lanes_forget();
    aliquot_time_forget();
}

static bool attach(void) {
    struct aliquot_error error = {"the runtime behind the shim was not found"};
    const char *folder = aliquot_folder();
    if (folder && aliquot_attach(folder, forget, &error))
        return true;
    say(&error);
    return false;
}

/* Whether the runtime tells a device's UUID. */
static bool has_uuid(int32_t device, rtUuid_t *uuid) {
    rtError_t result = RT_FEATURE_NOT_SUPPORT;
    if (HAS(rtGetDeviceUuid))
        ALIQUOT_CALL(result, rtGetDeviceUuid, (device, uuid));
    return result == RT_OK;
}

static int index_of(const rtUuid_t *uuid) {
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        if (!memcmp(aliquot_slice.grant->device[d].uuid, uuid->bytes, sizeof uuid->bytes))
            return (int)d;
    return -1;
}

/* Older runtimes tell no UUIDs, and others may tell such as the grant does not know. The process then sees
 * the devices of its slice and no others, in their order, or those of them that ASCEND_RT_VISIBLE_DEVICES
 * names by their places. What is named otherwise is not of the slice, for nobody knows its cap. */
static void find_by_place(int32_t count) {
    const char *list = getenv("ASCEND_RT_VISIBLE_DEVICES");
    if (!list && (uint32_t)count != aliquot_slice.device_count)
        return;
    for (int32_t i = 0; i < count && i < ALIQUOT_ORDINALS; i++) {
        char *end;
        unsigned long place = list ? strtoul(list, &end, 10) : (unsigned long)i;
        if (list && (end == list || (*end && *end != ',')))
            return;
        if (place < aliquot_slice.device_count)
            device_index[i] = (int)place;
        if (list)
            list = *end ? end + 1 : end;
    }
}

/* Fills device_index, under the mutex. */
static void find_devices(int32_t count) {
    bool found = false;
    for (int32_t i = 0; i < ALIQUOT_ORDINALS; i++) {
        rtUuid_t uuid;
        device_index[i] = i >= count ? -2 : has_uuid(i, &uuid) ? index_of(&uuid) : -1;
        found |= device_index[i] >= 0;
    }
    if (!found)
        find_by_place(count);
}

rtError_t aliquot_prepare(void) {
    int32_t count = 0;
    rtError_t result = RT_NO_DEVICE;
    aliquot_resolve();
    if (HAS(rtGetDeviceCount))
        ALIQUOT_CALL(result, rtGetDeviceCount, (&count));
    if (result != RT_OK || count <= 0)
        return RT_NO_DEVICE;
    if (!attach())
        return RT_DRV_INTERNAL_ERROR;
    pthread_mutex_lock(&mutex);
    find_devices(count);
    uint64_t page = aliquot_slice.grant->device[0].page_bytes;
    aliquot_pointers.page_shift = (unsigned)__builtin_ctzll(page);
    aliquot_one_device = count == 1;
    aliquot_set_prepared();
    pthread_mutex_unlock(&mutex);
    return RT_OK;
}

int aliquot_device_index(int32_t device) {
    return device >= 0 && device < ALIQUOT_ORDINALS ? device_index[device] : -2;
}

int aliquot_device_current(void) {
    int32_t device;
    rtError_t result;
    ALIQUOT_CALL(result, rtGetDevice, (&device));
    return result == RT_OK ? aliquot_device_index(device) : -2;
}
