/* The library as a whole: initialisation, the devices, versions and the names of errors. */
#include "cndrv_sim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of the library and the driver that it stands for. */
enum { MAJOR = 2, MINOR = 15, PATCH = 5, DRIVER_MAJOR = 5, DRIVER_MINOR = 10, DRIVER_PATCH = 29 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_state *state;
static pid_t opened_by; /* the mapping is not inherited by a child, however it was made */
static struct sim_cn_device devices[SIM_DEVICES_MAX];
static uint32_t count;

struct sim_state *sim_cn_state(void) {
    return state;
}
uint32_t sim_cn_count(void) { return count; }

struct sim_cn_device *sim_cn_device(uint64_t ordinal) {
    return ordinal < count ? &devices[ordinal] : NULL;
}

CNresult sim_cn_enter(void) {
    pthread_mutex_lock(&lock);
    if (state && opened_by == getpid())
        return CN_SUCCESS;
    pthread_mutex_unlock(&lock);
    return CN_ERROR_NOT_INITIALIZED;
}

void sim_cn_leave(void) { pthread_mutex_unlock(&lock); }

/* What the simulator does not implement says so. */
int sim_unsupported(const char *name);
int sim_unsupported(const char *name) {
    (void)name;
    return CN_OPS_ERROR_NOT_SUPPORTED;
}

/* ---- cnInit ------------------------------------------------------------------------------------ */

/* A child must not come to hold the descriptor of `state` while it is being opened. */
static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork, after_fork);
}

/* Ends by itself: what it held is given back without the delay of a killed process. */
__attribute__((destructor)) static void say_farewell(void) {
    if (state && opened_by == getpid())
        atomic_store_explicit(&state->header->slots[state->slot].exiting, 1, memory_order_relaxed);
}

/* By PCI address, as the management library counts them. */
static void see_devices(bool by_file) {
    const struct sim_node_config *node = state->node;
    uint32_t numbers[SIM_DEVICES_MAX];
    count = 0;
    for (uint32_t d = 0; d < node->device_count; d++) {
        if (node->devices[d].vendor != SIM_VENDOR_CAMBRICON ||
            (by_file && !sim_node_openable(node, d)))
            continue;
        uint64_t key = sim_node_pci_key(&node->devices[d]);
        uint32_t at = count++;
        for (; at && key < sim_node_pci_key(&node->devices[numbers[at - 1]]); at--)
            numbers[at] = numbers[at - 1];
        numbers[at] = d;
    }
    uint32_t process = state->header->slots[state->slot].process;
    for (uint32_t i = 0; i < count; i++) {
        struct sim_timeline *timeline = &state->header->devices[numbers[i]].timeline;
        devices[i] = (struct sim_cn_device){
            .number = numbers[i],
            .config = &node->devices[numbers[i]],
            .timeline = timeline,
            .entry = sim_timeline_join(timeline, state->slot, process),
        };
    }
}

static CNresult open_state(void) {
    bool by_file;
    char why[512];
    const char *folder = sim_node_folder(&by_file);
    int error = sim_state_open(folder, getenv("ALIQUOT_SIM_GROUP"), false, &state, why, sizeof why);
    if (error) {
        state = NULL;
        return CN_ERROR_NO_DEVICE;
    }
    see_devices(by_file);
    CNresult result = count ? CN_SUCCESS : CN_ERROR_NO_DEVICE;
    /* A device's timeline has room for so many processes. */
    for (uint32_t i = 0; i < count; i++)
        if (devices[i].entry < 0)
            result = CN_CONTEXT_ERROR_OUT_OF_RESOURCES;
    if (result != CN_SUCCESS) {
        sim_state_close(state);
        state = NULL;
        return result;
    }
    opened_by = getpid();
    return CN_SUCCESS;
}

CNresult cnInit(unsigned int flags) {
    if (flags)
        return CN_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    CNresult result = CN_SUCCESS;
    if (state && opened_by != getpid())
        result = CN_ERROR_NOT_INITIALIZED; /* a child of an initialised process */
    else if (!state)
        result = open_state();
    pthread_mutex_unlock(&lock);
    return result;
}

/* ---- Versions and errors ------------------------------------------------------------------------ */

static CNresult version(int *major, int *minor, int *patch, const int found[3]) {
    if (!major || !minor || !patch)
        return CN_ERROR_INVALID_VALUE;
    *major = found[0];
    *minor = found[1];
    *patch = found[2];
    return CN_SUCCESS;
}

CNresult cnGetLibVersion(int *major, int *minor, int *patch) {
    return version(major, minor, patch, (const int[]){MAJOR, MINOR, PATCH});
}

CNresult cnDriverGetVersion(int *major, int *minor, int *patch) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    return sim_cn_left(version(major, minor, patch, (const int[]){MAJOR, MINOR, PATCH}));
}

CNresult cnGetDriverVersion(int *major, int *minor, int *patch) {
    static const int found[] = {DRIVER_MAJOR, DRIVER_MINOR, DRIVER_PATCH};
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    return sim_cn_left(version(major, minor, patch, found));
}

#define NAMED(name)                                                                                \
    { name, #name }
static const struct {
    CNresult error;
    const char *name;
} names[] = {
    NAMED(CN_SUCCESS),
    NAMED(CN_ERROR_NOT_READY),
    NAMED(CN_ERROR_NOT_INITIALIZED),
    NAMED(CN_ERROR_NO_DEVICE),
    NAMED(CN_ERROR_INVALID_DEVICE),
    NAMED(CN_ERROR_INVALID_VALUE),
    NAMED(CN_ERROR_OPERATING_SYSTEM),
    NAMED(CN_ERROR_SYSTEM_OUT_OF_MEMORY),
    NAMED(CN_ERROR_FILE_NOT_FOUND),
    NAMED(CN_OPS_ERROR_NOT_SUPPORTED),
    NAMED(CN_QUEUE_ERROR_INVALID),
    NAMED(CN_NOTIFIER_ERROR_INVALID),
    NAMED(CN_MEMORY_ERROR_OUT_OF_MEMORY),
    NAMED(CN_MEMORY_ERROR_INVALID_ADDRESS),
    NAMED(CN_CONTEXT_ERROR_INVALID),
    NAMED(CN_CONTEXT_ERROR_OUT_OF_RESOURCES),
    NAMED(CN_ERROR_NOT_FOUND),
    NAMED(CN_ERROR_INVALID_KERNEL),
    NAMED(CN_FATBIN_INVALID_IMAGE),
};

CNresult cnGetErrorName(CNresult error, const char **text) {
    if (!text)
        return CN_ERROR_INVALID_VALUE;
    *text = "This error code is not in the scope of the CNresult enumeration";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].error == error)
            *text = names[i].name;
    return CN_SUCCESS;
}

CNresult cnGetErrorString(CNresult error, const char **text) { return cnGetErrorName(error, text); }

/* ---- Devices ------------------------------------------------------------------------------------- */

CNresult cnDeviceGetCount(int *found) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    if (!found)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    *found = (int)count;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnDeviceGet(CNdev *device, int ordinal) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    if (!device)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    if (ordinal < 0 || !sim_cn_device((uint64_t)ordinal))
        return sim_cn_left(CN_ERROR_INVALID_DEVICE);
    *device = (CNdev)ordinal;
    return sim_cn_left(CN_SUCCESS);
}

/* Enters, and finds the device for what is told of it; `*result` is what goes wrong. */
static const struct sim_device_config *told_of(CNdev device, const void *out, CNresult *result) {
    *result = sim_cn_enter();
    if (*result != CN_SUCCESS)
        return NULL;
    const struct sim_cn_device *found = sim_cn_device(device);
    if (found && out)
        return found->config;
    *result = sim_cn_left(found ? CN_ERROR_INVALID_VALUE : CN_ERROR_INVALID_DEVICE);
    return NULL;
}

static CNresult text_out(char *to, int64_t length, const char *text) {
    if (length <= (int64_t)strlen(text))
        return CN_ERROR_INVALID_VALUE;
    strcpy(to, text);
    return CN_SUCCESS;
}

CNresult cnDeviceGetName(char *name, unsigned int length, CNdev device) {
    CNresult result;
    const struct sim_device_config *config = told_of(device, name, &result);
    return config ? sim_cn_left(text_out(name, length, config->name)) : result;
}

CNresult cnDeviceGetUuid(CNuuid *uuid, CNdev device) {
    CNresult result;
    const struct sim_device_config *config = told_of(device, uuid, &result);
    if (!config)
        return result;
    memcpy(uuid->uuid, config->uuid, sizeof uuid->uuid);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnDeviceGetUuidStr(char *text, int length, CNdev device) {
    CNresult result;
    char whole[SIM_UUID_TEXT];
    const struct sim_device_config *config = told_of(device, text, &result);
    if (!config)
        return result;
    sim_node_uuid(config->uuid, whole);
    /* Its 36 letters fill 36 bytes; there is an end where there is room for it. */
    if (length < 36)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    memcpy(text, strchr(whole, '-') + 1, length > 36 ? 37 : 36);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnDeviceGetPCIBusId(char *text, int length, CNdev device) {
    CNresult result;
    char whole[32];
    const struct sim_device_config *config = told_of(device, text, &result);
    if (!config)
        return result;
    snprintf(whole, sizeof whole, "%04x:%02x:%02x.0", config->pci_domain & 0xffff,
             config->pci_bus & 0xff, config->pci_device & 0xff);
    return sim_cn_left(text_out(text, length, whole));
}

CNresult cnDeviceTotalMem(uint64_t *bytes, CNdev device) {
    CNresult result;
    const struct sim_device_config *config = told_of(device, bytes, &result);
    if (!config)
        return result;
    *bytes = config->memory - config->reserved;
    return sim_cn_left(CN_SUCCESS);
}
