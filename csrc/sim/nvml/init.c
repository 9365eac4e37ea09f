/* Initialisation, the node's devices, and what is asked of the system. */
#include "nvml_sim.h"

#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sim_state *_Atomic opened;
static pid_t opened_by; /* the mapping is not inherited by a child */
static unsigned users;
static uint32_t count;                     /* of visible devices */
static uint32_t order[SIM_DEVICES_MAX];    /* index to number on the node */
static struct nvmlDevice_st handle[SIM_DEVICES_MAX]; /* by index */

struct sim_state *sim_nvml_state(void) {
    /* acquire: pairs with the release in open_node. */
    struct sim_state *state = atomic_load_explicit(&opened, memory_order_acquire);
    return state && opened_by == getpid() ? state : NULL;
}

/* A real driver shows the devices whose files a process can open. On a node of its own, which
 * ALIQUOT_SIM names, a process sees all. */
static bool is_visible(uint32_t physical, bool by_file) {
    char path[32];
    snprintf(path, sizeof path, "/dev/nvidia%u", physical);
    if (!by_file)
        return true;
    int descriptor = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (descriptor < 0)
        return false;
    close(descriptor);
    return true;
}

static uint64_t pci_key(const struct sim_device_config *device) {
    return (uint64_t)device->pci_domain << 16 | device->pci_bus << 8 | device->pci_device;
}

static void see_devices(struct sim_state *state, bool by_file) {
    count = 0;
    for (uint32_t d = 0; d < state->node->device_count; d++) {
        if (!is_visible(d, by_file))
            continue;
        uint32_t at = count++;
        for (; at && pci_key(&state->node->devices[d]) <
                         pci_key(&state->node->devices[order[at - 1]]);
             at--)
            order[at] = order[at - 1];
        order[at] = d;
    }
    for (uint32_t i = 0; i < count; i++)
        handle[i].physical = order[i];
}

static nvmlReturn_t open_node(void) {
    const char *name = getenv("ALIQUOT_SIM");
    bool by_file = !name || !*name;
    struct sim_state *state;
    char why[512];
    if (sim_state_open(by_file ? "/run/aliquot-sim" : name, NULL, false, &state, why, sizeof why))
        return NVML_ERROR_DRIVER_NOT_LOADED;
    see_devices(state, by_file);
    opened_by = getpid();
    atomic_store_explicit(&opened, state, memory_order_release);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void) {
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&mutex);
    if (!sim_nvml_state()) {
        users = 0; /* of a parent, whose mapping we do not have */
        result = open_node();
    }
    users += result == NVML_SUCCESS;
    pthread_mutex_unlock(&mutex);
    return result;
}

nvmlReturn_t nvmlInit(void) { return nvmlInit_v2(); }

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags; /* none of them makes a difference here */
    return nvmlInit_v2();
}

nvmlReturn_t nvmlShutdown(void) {
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&mutex);
    struct sim_state *state = sim_nvml_state();
    if (!state)
        result = NVML_ERROR_UNINITIALIZED;
    else if (--users == 0) {
        atomic_store_explicit(&opened, NULL, memory_order_release);
        sim_state_close(state);
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

/* ---- Handles ------------------------------------------------------------------------------- */

int64_t sim_nvml_physical(nvmlDevice_t device) {
    for (uint32_t i = 0; i < count; i++)
        if (device == &handle[i])
            return device->physical;
    return -1;
}

nvmlDevice_t sim_nvml_handle(uint32_t physical) {
    for (uint32_t i = 0; i < count; i++)
        if (handle[i].physical == physical)
            return &handle[i];
    return NULL;
}

uint32_t sim_nvml_index(uint32_t physical) {
    uint32_t index = 0;
    while (index < count && order[index] != physical)
        index++;
    return index;
}

nvmlReturn_t sim_nvml_enter(nvmlDevice_t device, const void *out, uint32_t *physical) {
    if (!sim_nvml_state())
        return NVML_ERROR_UNINITIALIZED;
    int64_t found = sim_nvml_physical(device);
    if (found < 0 || !out)
        return NVML_ERROR_INVALID_ARGUMENT;
    *physical = (uint32_t)found;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *out) {
    if (!sim_nvml_state())
        return NVML_ERROR_UNINITIALIZED;
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    *out = count;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *out) { return nvmlDeviceGetCount_v2(out); }

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *out) {
    if (!sim_nvml_state())
        return NVML_ERROR_UNINITIALIZED;
    if (!out || index >= count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *out = &handle[index];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *out) {
    return nvmlDeviceGetHandleByIndex_v2(index, out);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *out) {
    if (!sim_nvml_state())
        return NVML_ERROR_UNINITIALIZED;
    if (!uuid || !out)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (uint32_t i = 0; i < count; i++) {
        char own[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
        nvmlDeviceGetUUID(&handle[i], own, sizeof own);
        if (!strcasecmp(own, uuid)) {
            *out = &handle[i];
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *out) {
    unsigned domain, bus, device, function = 0;
    if (!sim_nvml_state())
        return NVML_ERROR_UNINITIALIZED;
    if (!address || !out ||
        (sscanf(address, "%x:%x:%x.%x", &domain, &bus, &device, &function) < 3 || function))
        return NVML_ERROR_INVALID_ARGUMENT;
    for (uint32_t i = 0; i < count; i++) {
        const struct sim_device_config *config = sim_nvml_config(order[i]);
        if (config->pci_domain == domain && config->pci_bus == bus && config->pci_device == device) {
            *out = &handle[i];
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *address, nvmlDevice_t *out) {
    return nvmlDeviceGetHandleByPciBusId_v2(address, out);
}

/* ---- The system ---------------------------------------------------------------------------- */

nvmlReturn_t sim_nvml_text(const char *text, char *out, unsigned int size) {
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) + 1 > size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    struct sim_state *state = sim_nvml_state();
    return state ? sim_nvml_text(state->node->driver_text, version, length)
                 : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    /* Its own, which is told without a driver too: API and release. */
    struct sim_state *state = sim_nvml_state();
    char text[64];
    snprintf(text, sizeof text, "%u.%s", state ? state->node->driver_version / 1000 : 13,
             state ? state->node->driver_text : "0");
    return sim_nvml_text(text, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    struct sim_state *state = sim_nvml_state();
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = state ? (int)state->node->driver_version : 13000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
    char path[32], text[4096];
    if (!sim_nvml_state())
        return NVML_ERROR_UNINITIALIZED;
    if (!name || !length)
        return NVML_ERROR_INVALID_ARGUMENT;
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = descriptor < 0 ? -1 : read(descriptor, text, sizeof text - 1);
    if (descriptor >= 0)
        close(descriptor);
    if (got <= 0)
        return NVML_ERROR_NOT_FOUND;
    text[got] = 0;
    snprintf(name, length, "%s", text); /* cut off, as the real one does */
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case NVML_SUCCESS:
        return "Success";
    case NVML_ERROR_UNINITIALIZED:
        return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
        return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
        return "Not Supported";
    case NVML_ERROR_NO_PERMISSION:
        return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND:
        return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT:
        return "Timeout";
    case NVML_ERROR_GPU_IS_LOST:
        return "GPU is lost";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
        return "Argument version mismatch";
    default:
        return "Unknown Error";
    }
}

/* The table by which the real nvidia-smi reaches what is not public: every entry says that it is not
 * supported. Its first word is its size. */
nvmlReturn_t nvmlInternalGetExportTable(const void **out, const void *id);
static nvmlReturn_t unsupported(void) { return NVML_ERROR_NOT_SUPPORTED; }
nvmlReturn_t nvmlInternalGetExportTable(const void **out, const void *id) {
    enum { ENTRIES = 1024 };
    static void *table[ENTRIES];
    (void)id;
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    pthread_mutex_lock(&mutex);
    for (int e = 1; e < ENTRIES; e++)
        table[e] = (void *)unsupported;
    table[0] = (void *)sizeof table;
    pthread_mutex_unlock(&mutex);
    *out = table;
    return NVML_SUCCESS;
}
