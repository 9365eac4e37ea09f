/* The library as a whole: initialisation, the devices, versions and the names of errors. */
#include "cndrv_sim.h"

#include "../exec_impl.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* Of the library and the driver that it stands for. */
enum { MAJOR = 2, MINOR = 15, PATCH = 5, DRIVER_MAJOR = 5, DRIVER_MINOR = 10, DRIVER_PATCH = 29 };

CNresult cn_error(CUresult result) {
    static const struct {
        CUresult driver;
        CNresult here;
    } codes[] = {
        {CUDA_SUCCESS, CN_SUCCESS},
        {CUDA_ERROR_NOT_READY, CN_ERROR_NOT_READY},
        {CUDA_ERROR_NOT_INITIALIZED, CN_ERROR_NOT_INITIALIZED},
        {CUDA_ERROR_DEINITIALIZED, CN_ERROR_DEINITIALIZED},
        {CUDA_ERROR_NO_DEVICE, CN_ERROR_NO_DEVICE},
        {CUDA_ERROR_INVALID_DEVICE, CN_ERROR_INVALID_DEVICE},
        {CUDA_ERROR_INVALID_VALUE, CN_ERROR_INVALID_VALUE},
        {CUDA_ERROR_OPERATING_SYSTEM, CN_ERROR_OPERATING_SYSTEM},
        {CUDA_ERROR_INVALID_HANDLE, CN_ERROR_INVALID_HANDLE},
        {CUDA_ERROR_ILLEGAL_STATE, CN_ERROR_ILLEGAL_STATE},
        {CUDA_ERROR_NOT_SUPPORTED, CN_OPS_ERROR_NOT_SUPPORTED},
        {CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, CN_OPS_ERROR_NOT_SUPPORTED},
        {CUDA_ERROR_NOT_PERMITTED, CN_OPS_ERROR_NOT_PERMITTED},
        {CUDA_ERROR_OUT_OF_MEMORY, CN_MEMORY_ERROR_OUT_OF_MEMORY},
        {CUDA_ERROR_INVALID_CONTEXT, CN_CONTEXT_ERROR_INVALID},
        {CUDA_ERROR_CONTEXT_IS_DESTROYED, CN_CONTEXT_ERROR_INVALID},
        {CUDA_ERROR_NOT_FOUND, CN_ERROR_NOT_FOUND},
        {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, CN_ERROR_QUEUE_CAPTURE_UNSUPPORTED},
        {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, CN_ERROR_QUEUE_CAPTURE_UNSUPPORTED},
        {CUDA_ERROR_CAPTURED_EVENT, CN_ERROR_QUEUE_CAPTURE_UNSUPPORTED},
        {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, CN_ERROR_QUEUE_CAPTURE_INVALIDATED},
        {CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, CN_ERROR_QUEUE_CAPTURE_WRONG_THREAD},
        {CUDA_ERROR_STREAM_CAPTURE_MERGE, CN_ERROR_QUEUE_CAPTURE_MERGED},
        {CUDA_ERROR_STREAM_CAPTURE_UNJOINED, CN_ERROR_QUEUE_CAPTURE_UNJOINED},
        {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, CN_ERROR_QUEUE_CAPTURE_ISOLATION},
        {CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, CN_ERROR_QUEUE_CAPTURE_UNMATCHED},
        {CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, CN_ERROR_TASK_TOPO_ENTITY_UPDATE_FAILURE},
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].driver == result)
            return codes[i].here;
    return CN_INVOKE_ERROR;
}

CNresult cn_begin(void) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && sim_in_host_function)
        result = CUDA_ERROR_NOT_PERMITTED;
    return cn_error(result);
}

CNresult cn_enter(struct sim_context **context) {
    CNresult result = cn_begin();
    return result == CN_SUCCESS ? cn_error(sim_enter(context)) : result;
}

/* What the simulator does not implement says so. */
int cn_unsupported(const char *name);
int cn_unsupported(const char *name) { return (int)cn_error(sim_unsupported(name)); }

CNresult cnInit(unsigned int flags) { return cn_error(cuInit(flags)); }

/* Of the vendor's private functions there are none here: it gives out those that all know. */
CNresult cnGetExportFunction(const char *name, const void **function) {
    static _Atomic uintptr_t own; /* this library. relaxed: whoever finds it first finds the same */
    if (!name || !function)
        return CN_ERROR_INVALID_VALUE;
    uintptr_t library = atomic_load_explicit(&own, memory_order_relaxed);
    Dl_info here;
    if (!library && dladdr(&own, &here) && here.dli_fname) {
        library = (uintptr_t)dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        atomic_store_explicit(&own, library, memory_order_relaxed);
    }
    const void *found = library ? dlsym((void *)library, name) : NULL;
    if (!found)
        return CN_ERROR_NOT_FOUND;
    *function = found;
    return CN_SUCCESS;
}

CNresult cnProfilerStart(void) { return cn_begin(); }
CNresult cnProfilerStop(void) { return cn_begin(); }

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
    CNresult result = cn_begin();
    return result == CN_SUCCESS ? version(major, minor, patch, (const int[]){MAJOR, MINOR, PATCH})
                                : result;
}

CNresult cnGetDriverVersion(int *major, int *minor, int *patch) {
    static const int found[] = {DRIVER_MAJOR, DRIVER_MINOR, DRIVER_PATCH};
    CNresult result = cn_begin();
    return result == CN_SUCCESS ? version(major, minor, patch, found) : result;
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
    NAMED(CN_ERROR_QUEUE_CAPTURE_UNSUPPORTED),
    NAMED(CN_ERROR_QUEUE_CAPTURE_INVALIDATED),
    NAMED(CN_ERROR_QUEUE_CAPTURE_WRONG_THREAD),
    NAMED(CN_ERROR_QUEUE_CAPTURE_MERGED),
    NAMED(CN_ERROR_QUEUE_CAPTURE_UNJOINED),
    NAMED(CN_ERROR_QUEUE_CAPTURE_ISOLATION),
    NAMED(CN_ERROR_QUEUE_CAPTURE_UNMATCHED),
    NAMED(CN_ERROR_TASK_TOPO_ENTITY_UPDATE_FAILURE),
    NAMED(CN_OPS_ERROR_NOT_PERMITTED),
    NAMED(CN_ERROR_ILLEGAL_STATE),
    NAMED(CN_ERROR_INVALID_HANDLE),
    NAMED(CN_ERROR_INVALID_ADDRESS),
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
    CNresult result = cn_begin();
    return result == CN_SUCCESS ? cn_error(cuDeviceGetCount(found)) : result;
}

CNresult cnDeviceGet(CNdev *device, int ordinal) {
    CNresult result = cn_begin();
    CUdevice found;
    if (result == CN_SUCCESS && !device)
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = cn_error(cuDeviceGet(&found, ordinal));
    if (result == CN_SUCCESS)
        *device = (CNdev)found;
    return result;
}

/* The device of which something is told; NULL: `*result` says why not. */
static const struct sim_device_config *told_of(CNdev device, const void *out, CNresult *result) {
    *result = cn_begin();
    if (*result == CN_SUCCESS && device >= (CNdev)sim_device_count())
        *result = CN_ERROR_INVALID_DEVICE;
    if (*result == CN_SUCCESS && !out)
        *result = CN_ERROR_INVALID_VALUE;
    return *result == CN_SUCCESS ? sim_device_config((CUdevice)device) : NULL;
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
    return config ? text_out(name, length, config->name) : result;
}

CNresult cnDeviceGetUuid(CNuuid *uuid, CNdev device) {
    CNresult result;
    const struct sim_device_config *config = told_of(device, uuid, &result);
    if (config)
        memcpy(uuid->uuid, config->uuid, sizeof uuid->uuid);
    return result;
}

enum { UUID_LETTERS = 36 };

/* Without what the simulator has before it. */
static void uuid_text(const struct sim_device_config *config, char text[UUID_LETTERS + 1]) {
    char whole[SIM_UUID_TEXT];
    sim_node_uuid(config->uuid, whole);
    memcpy(text, strchr(whole, '-') + 1, UUID_LETTERS + 1);
}

CNresult cnDeviceGetUuidStr(char *text, int length, CNdev device) {
    CNresult result;
    char found[UUID_LETTERS + 1];
    const struct sim_device_config *config = told_of(device, text, &result);
    if (!config)
        return result;
    uuid_text(config, found);
    /* Its letters fill 36 bytes; there is an end where there is room for it. */
    if (length < UUID_LETTERS)
        return CN_ERROR_INVALID_VALUE;
    memcpy(text, found, length > UUID_LETTERS ? UUID_LETTERS + 1 : UUID_LETTERS);
    return CN_SUCCESS;
}

static void place_text(const struct sim_device_config *config, char text[32]) {
    snprintf(text, 32, "%04x:%02x:%02x.0", config->pci_domain & 0xffff, config->pci_bus & 0xff,
             config->pci_device & 0xff);
}

CNresult cnDeviceGetPCIBusId(char *text, int length, CNdev device) {
    CNresult result;
    char whole[32];
    const struct sim_device_config *config = told_of(device, text, &result);
    if (!config)
        return result;
    place_text(config, whole);
    return text_out(text, length, whole);
}

/* The device whose name, as `tell` has it, begins the text. */
static CNresult find_device(CNdev *device, const char *text,
                            void (*tell)(const struct sim_device_config *, char *)) {
    CNresult result = cn_begin();
    if (result != CN_SUCCESS)
        return result;
    if (!device || !text)
        return CN_ERROR_INVALID_VALUE;
    for (int d = 0; d < sim_device_count(); d++) {
        char name[64];
        tell(sim_device_config(d), name);
        if (strncmp(text, name, strlen(name)) == 0) {
            *device = (CNdev)d;
            return CN_SUCCESS;
        }
    }
    return CN_ERROR_INVALID_DEVICE;
}

CNresult cnDeviceGetByUuidStr(CNdev *device, const char *text) {
    return find_device(device, text, uuid_text);
}

CNresult cnDeviceGetByPCIBusId(CNdev *device, const char *text) {
    return find_device(device, text, place_text);
}

CNresult cnDeviceTotalMem(uint64_t *bytes, CNdev device) {
    CNresult result;
    const struct sim_device_config *config = told_of(device, bytes, &result);
    if (config)
        *bytes = config->memory - config->reserved;
    return result;
}

CNresult cnDeviceCanPeerAble(int *can, CNdev from, CNdev to) {
    CNresult result;
    if (!told_of(from, can, &result) || !told_of(to, can, &result))
        return result;
    *can = sim_device_peers((CUdevice)from, (CUdevice)to);
    return CN_SUCCESS;
}
