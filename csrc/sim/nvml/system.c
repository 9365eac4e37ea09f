/* What is asked of the system: versions, names of errors and processes, handles of devices. */
#include "nvml_sim.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

nvmlReturn_t sim_text(const char *text, char *out, unsigned int size) {
    size_t bytes = strlen(text) + 1;
    if (bytes > size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, bytes);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    SIM_LOOK look = sim_look(version);
    return look.state ? sim_text(look.state->node->driver_text, version, length) : look.result;
}

/* Version of CUDA that the node's driver has; told without initialisation too. */
static uint32_t cuda_version(const struct sim_look *look) {
    enum { NO_NODE = 13000 };
    uint32_t found = look->state ? look->state->node->driver_version
                                 : sim_node_driver_version(sim_node_folder(NULL));
    return found ? found : NO_NODE;
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    SIM_LOOK look = sim_look(version);
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    char text[64];
    snprintf(text, sizeof text, "%u.%s", cuda_version(&look) / 1000,
             look.state ? look.state->node->driver_text : "0");
    return sim_text(text, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    SIM_LOOK look = sim_look(version);
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = (int)cuda_version(&look);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
    SIM_LOOK look = sim_look(name);
    if (!look.state)
        return look.result;
    if (!length)
        return NVML_ERROR_INVALID_ARGUMENT;
    char path[32], text[4096];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return NVML_ERROR_NOT_FOUND;
    ssize_t got = read(descriptor, text, sizeof text - 1);
    close(descriptor);
    text[got > 0 ? got : 0] = 0;        /* a kernel thread has no name here */
    snprintf(name, length, "%s", text); /* cut off, as by the real one */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlUnitGetCount(unsigned int *units) {
    SIM_LOOK look = sim_look(units);
    if (look.state)
        *units = 0; /* no S-class system */
    return look.result;
}

/* ---- Errors: the texts are the real library's ------------------------------------------------ */

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
    case NVML_ERROR_ALREADY_INITIALIZED:
        return "Already Initialized";
    case NVML_ERROR_NOT_FOUND:
        return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER:
        return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT:
        return "Timeout";
    case NVML_ERROR_IRQ_ISSUE:
        return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND:
        return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND:
        return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM:
        return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST:
        return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED:
        return "GPU requires reset";
    case NVML_ERROR_OPERATING_SYSTEM:
        return "GPU access blocked by the operating system";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "Driver/library version mismatch";
    case NVML_ERROR_IN_USE:
        return "In use by another client";
    case NVML_ERROR_MEMORY:
        return "Insufficient Memory";
    case NVML_ERROR_NO_DATA:
        return "No data";
    case NVML_ERROR_VGPU_ECC_NOT_SUPPORTED:
        return "vGPU ECC not supported";
    case NVML_ERROR_INSUFFICIENT_RESOURCES:
        return "Insufficient Resources";
    case NVML_ERROR_FREQ_NOT_SUPPORTED:
        return "Invalid Frequency";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
        return "Argument version mismatch";
    case NVML_ERROR_DEPRECATED:
        return "Requested functionality has been deprecated";
    case NVML_ERROR_NOT_READY:
        return "System is not in ready state";
    case NVML_ERROR_GPU_NOT_FOUND:
        return "No supported GPUs were found";
    default:
        return "Unknown Error";
    }
}

/* ---- Handles -------------------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *devices) {
    SIM_LOOK look = sim_look(devices);
    if (look.state)
        *devices = sim_visible_count();
    return look.result;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *devices) { return nvmlDeviceGetCount_v2(devices); }

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    SIM_LOOK look = sim_look(device);
    if (!look.state)
        return look.result;
    if (index >= sim_visible_count())
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = sim_visible(index);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

/* The first visible device of which `is` holds. */
static nvmlReturn_t find_device(const struct sim_look *look,
                                bool (*is)(const struct sim_device_config *, const void *),
                                const void *wanted, nvmlDevice_t *device) {
    for (uint32_t i = 0; i < sim_visible_count(); i++) {
        if (!is(&look->state->node->devices[sim_session_device(i)], wanted))
            continue;
        *device = sim_visible(i);
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}

static bool has_uuid(const struct sim_device_config *config, const void *wanted) {
    char own[SIM_UUID_TEXT];
    sim_node_uuid(config->uuid, own);
    return strcasecmp(own, wanted) == 0;
}

static bool has_uuid_bytes(const struct sim_device_config *config, const void *wanted) {
    return memcmp(config->uuid, wanted, sizeof config->uuid) == 0;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    SIM_LOOK look = sim_look(device);
    if (!look.state)
        return look.result;
    return uuid ? find_device(&look, has_uuid, uuid, device) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device) {
    SIM_LOOK look = sim_look(device);
    if (!look.state)
        return look.result;
    if (!uuid)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (uuid->version != nvmlUUID_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (uuid->type == NVML_UUID_TYPE_ASCII)
        return find_device(&look, has_uuid, uuid->value.str, device);
    if (uuid->type == NVML_UUID_TYPE_BINARY)
        return find_device(&look, has_uuid_bytes, uuid->value.bytes, device);
    return NVML_ERROR_INVALID_ARGUMENT;
}

struct address {
    unsigned domain, bus, device;
};

static bool has_address(const struct sim_device_config *config, const void *wanted) {
    const struct address *address = wanted;
    return config->pci_domain == address->domain && config->pci_bus == address->bus &&
           config->pci_device == address->device;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *text, nvmlDevice_t *device) {
    SIM_LOOK look = sim_look(device);
    if (!look.state)
        return look.result;
    struct address address;
    unsigned function = 0;
    if (!text || sscanf(text, "%8x:%2x:%2x.%1x", &address.domain, &address.bus, &address.device,
                        &function) < 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    return function ? NVML_ERROR_NOT_FOUND : find_device(&look, has_address, &address, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *text, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByPciBusId_v2(text, device);
}

static void serial_of(const struct sim_device_config *config,
                      char text[NVML_DEVICE_SERIAL_BUFFER_SIZE]) {
    const uint8_t *uuid = config->uuid;
    snprintf(text, NVML_DEVICE_SERIAL_BUFFER_SIZE, "1%03u%03u%03u%03u", uuid[0], uuid[1], uuid[2],
             uuid[3]);
}

static bool has_serial(const struct sim_device_config *config, const void *wanted) {
    char own[NVML_DEVICE_SERIAL_BUFFER_SIZE];
    serial_of(config, own);
    return strcmp(own, wanted) == 0;
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length) {
    SIM_LOOK look = sim_look_at(device, serial);
    if (!look.device)
        return look.result;
    char text[NVML_DEVICE_SERIAL_BUFFER_SIZE];
    serial_of(look.device, text);
    return sim_text(text, serial, length);
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
    SIM_LOOK look = sim_look(device);
    if (!look.state)
        return look.result;
    return serial ? find_device(&look, has_serial, serial, device) : NVML_ERROR_INVALID_ARGUMENT;
}

/* ---- What is in no header ------------------------------------------------------------------- */

static nvmlReturn_t unsupported(void) { return NVML_ERROR_NOT_SUPPORTED; }

/* The table by which the real nvidia-smi reaches what is not public. Its first word is its size. */
nvmlReturn_t nvmlInternalGetExportTable(const void **out, const void *id);
nvmlReturn_t nvmlInternalGetExportTable(const void **out, const void *id) {
    enum { ENTRIES = 1024 };
    static union {
        size_t bytes;
        nvmlReturn_t (*entry)(void);
    } table[ENTRIES]; /* all writers write the same */
    (void)id;
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    table[0].bytes = sizeof table;
    for (int e = 1; e < ENTRIES; e++)
        table[e].entry = unsupported;
    *out = table;
    return NVML_SUCCESS;
}
