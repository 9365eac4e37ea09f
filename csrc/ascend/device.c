/* Devices: what the runtime itself takes of one, from the first call that opens it to the one that ends
 * it, and all that lived there. */
#include "shim.h"

#include <pthread.h>
#include <string.h>

/* By index in the grant; under its mutex, which is held while the runtime opens or ends the device. */
static struct device {
    pthread_mutex_t mutex;
    bool open;
    uint64_t base;     /* bytes charged for what the runtime takes of it */
    uint32_t sets;     /* times that it was set and not reset, where the runtime does not tell */
    uint32_t contexts; /* of the program's own, which keep it open */
} devices[ALIQUOT_MAX_DEVICES] = {
    [0 ... ALIQUOT_MAX_DEVICES - 1] = {.mutex = PTHREAD_MUTEX_INITIALIZER}};

/* The program's contexts, to their devices + 1. */
static struct aliquot_table contexts;

struct opening {
    struct device *device; /* NULL: not ours; else its mutex is held */
    uint64_t charged;
};

/* A device is about to be opened, or used once more. RT_OK: go on to the runtime. */
static rtError_t opens(struct opening *opening, int32_t number) {
    *opening = (struct opening){.device = NULL};
    rtError_t result = aliquot_ready();
    if (result != RT_OK)
        return result == RT_NO_DEVICE ? RT_OK : result; /* it says so itself */
    int index = aliquot_device_index(number);
    if (index < 0)
        return index == -1 ? RT_MEMORY_ALLOCATION : RT_OK;
    struct device *device = &devices[index];
    pthread_mutex_lock(&device->mutex);
    if (!device->open) {
        uint64_t bytes = aliquot_slice.grant->device[index].context_bytes;
        bytes = aliquot_whole_pages((uint32_t)index, bytes);
        if (!aliquot_charge((uint32_t)index, bytes)) {
            pthread_mutex_unlock(&device->mutex);
            return RT_MEMORY_ALLOCATION;
        }
        opening->charged = bytes;
    }
    opening->device = device;
    return RT_OK;
}

/* Books the runtime's answer, which it returns. */
static rtError_t opened(const struct opening *opening, rtError_t result, uint32_t *count) {
    struct device *device = opening->device;
    if (!device)
        return result;
    if (result == RT_OK) {
        if (!device->open)
            device->base = opening->charged;
        device->open = true;
        ++*count;
    } else if (opening->charged)
        aliquot_withdraw((uint32_t)(device - devices), opening->charged);
    pthread_mutex_unlock(&device->mutex);
    return result;
}

/* Whether the runtime's own context of the device has ended, which was reset (`all`: whoever had set it).
 */
static bool has_ended(const struct device *device, int32_t number, bool all) {
    int32_t active = 0;
    uint32_t flags;
    rtError_t result = RT_FEATURE_NOT_SUPPORT;
    if (device->contexts)
        return false;
    if (HAS(rtsGetPrimaryCtxState))
        ALIQUOT_CALL(result, rtsGetPrimaryCtxState, (number, &flags, &active));
    return result == RT_OK ? !active : all || !device->sets;
}

static void ends(struct device *device) {
    uint32_t index = (uint32_t)(device - devices);
    device->open = false;
    device->sets = 0;
    aliquot_memory_device_gone(index);
    aliquot_pools_device_gone(index);
    aliquot_withdraw(index, device->base);
    device->base = 0;
}

#define SET(symbol, parameters, arguments)                                                         \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        struct opening opening;                                                                    \
        rtError_t result = opens(&opening, device);                                                \
        if (result != RT_OK)                                                                       \
            return result;                                                                         \
        ALIQUOT_RETRY(result, symbol, arguments);                                                  \
        uint32_t none = 0;                                                                         \
        return opened(&opening, result, opening.device ? &opening.device->sets : &none);           \
    }

SET(rtSetDevice, (int32_t device), (device))
SET(rtSetDeviceEx, (int32_t device), (device))
SET(rtSetDeviceWithFlags, (int32_t device, uint64_t flags), (device, flags))
SET(rtSetDeviceWithoutTsd, (int32_t device), (device))
SET(rtsSetDevice, (int32_t device), (device))
SET(aclrtSetDeviceWithoutTsdVXXImpl, (int32_t device), (device))
SET(aclrtSetDeviceImpl, (int32_t device), (device))

/* The device whose number it is, with its mutex held, or NULL: not ours. */
static struct device *hold(int32_t number) {
    int index = aliquot_prepared() ? aliquot_device_index(number) : -1;
    if (index < 0)
        return NULL;
    pthread_mutex_lock(&devices[index].mutex);
    aliquot_time_device_leaves((uint32_t)index);
    return &devices[index];
}

static rtError_t let_go(struct device *device, int32_t number, rtError_t result, bool all) {
    if (!device)
        return result;
    if (result == RT_OK && all)
        device->sets = device->contexts = 0; /* the program's own end with it */
    else if (result == RT_OK && device->sets)
        device->sets--;
    bool gone = result == RT_OK && device->open && has_ended(device, number, all);
    aliquot_time_device_left((uint32_t)(device - devices), gone);
    if (gone)
        ends(device);
    pthread_mutex_unlock(&device->mutex);
    return result;
}

#define RESET(symbol, all)                                                                         \
    rtError_t aliquot_##symbol(int32_t device) {                                                   \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(device);                                                           \
        struct device *held = hold(device);                                                        \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (device));                                                    \
        return let_go(held, device, result, all);                                                  \
    }

RESET(rtDeviceReset, false)
RESET(rtDeviceResetWithoutTsd, false)
RESET(rtDeviceResetForce, true)
RESET(rtsResetDevice, false)
RESET(rtsDeviceResetForce, true)
RESET(aclrtResetDeviceWithoutTsdVXXImpl, false)
RESET(aclrtResetDeviceImpl, false)
RESET(aclrtResetDeviceForceImpl, true)

/* -- Contexts of the program ------------------------------------------------------------------------ */

#define CREATE(symbol, parameters, arguments)                                                      \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        struct opening opening;                                                                    \
        rtError_t result = opens(&opening, device);                                                \
        if (result != RT_OK)                                                                       \
            return result;                                                                         \
        ALIQUOT_RETRY(result, symbol, arguments);                                                  \
        if (result == RT_OK && opening.device)                                                     \
            aliquot_table_put(&contexts, (uintptr_t)*context, (uint64_t)(uint32_t)device + 1);     \
        uint32_t none = 0;                                                                         \
        return opened(&opening, result, opening.device ? &opening.device->contexts : &none);       \
    }

CREATE(rtCtxCreate, (rtContext_t * context, uint32_t flags, int32_t device),
       (context, flags, device))
CREATE(rtCtxCreateEx, (rtContext_t * context, uint32_t flags, int32_t device),
       (context, flags, device))
CREATE(rtsCtxCreate, (rtContext_t * context, uint64_t flags, int32_t device),
       (context, flags, device))
CREATE(aclrtCreateContextImpl, (rtContext_t * context, int32_t device), (context, device))

#define DESTROY(symbol)                                                                            \
    rtError_t aliquot_##symbol(rtContext_t context) {                                              \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(context);                                                          \
        uint64_t place;                                                                            \
        bool known = aliquot_prepared() && context &&                                              \
                     aliquot_table_take(&contexts, (uintptr_t)context, &place);                    \
        int32_t number = known ? (int32_t)place - 1 : -1;                                          \
        struct device *held = known ? hold(number) : NULL;                                         \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (context));                                                   \
        if (known && result != RT_OK)                                                              \
            aliquot_table_put(&contexts, (uintptr_t)context, place);                               \
        else if (held && held->contexts)                                                           \
            held->contexts--;                                                                      \
        return destroyed(held, number, context, result);                                           \
    }

/* Its device may end with it. */
static rtError_t destroyed(struct device *device, int32_t number, rtContext_t context,
                           rtError_t result) {
    if (!device)
        return result;
    aliquot_marks_context_left(context, result == RT_OK);
    bool gone = result == RT_OK && device->open && !device->sets && has_ended(device, number, true);
    aliquot_time_device_left((uint32_t)(device - devices), gone);
    if (gone)
        ends(device);
    pthread_mutex_unlock(&device->mutex);
    return result;
}

DESTROY(rtCtxDestroy)
DESTROY(rtCtxDestroyEx)
DESTROY(rtsCtxDestroy)
DESTROY(aclrtDestroyContextImpl)

void aliquot_device_forget(void) {
    for (unsigned i = 0; i < ALIQUOT_MAX_DEVICES; i++) {
        devices[i] = (struct device){.open = false};
        pthread_mutex_init(&devices[i].mutex, NULL);
    }
    aliquot_table_reset(&contexts);
}
