/* cuInit, which devices the process sees, the log, and time spent in calls. */
#include "sim.h"

#include "context.h"
#include "image.h"
#include "memory.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { DEFAULT_DRIVER_VERSION = 13000 };

static const _Atomic uint32_t never_alive = 0;
const _Atomic uint32_t *sim_alive = &never_alive;
struct sim_state *sim_state;

static struct {
    pthread_mutex_t lock;
    bool begun; /* true for ever after in this process and its children */
    _Atomic uint32_t *alive;
    int count;
    uint32_t physical[SIM_DEVICES_MAX];
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- Log ----------------------------------------------------------------------------------- */

void sim_log(const char *format, ...) {
    const char *name = getenv("ALIQUOT_SIM_LOG");
    if (!name || !*name)
        return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char line[1024];
    int length = snprintf(line, sizeof line, "%lld.%06ld aliquot-sim %d: ", (long long)now.tv_sec,
                          now.tv_nsec / 1000, (int)getpid());
    va_list arguments;
    va_start(arguments, format);
    length += vsnprintf(line + length, sizeof line - (size_t)length - 1, format, arguments);
    va_end(arguments);
    if ((size_t)length > sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length++] = '\n';
    /* Opened for each line: a descriptor that we kept could be closed and reused by the program. */
    int descriptor = strcmp(name, "-") == 0
                         ? STDERR_FILENO
                         : open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0)
        return;
    ssize_t written = write(descriptor, line, (size_t)length); /* one call: lines do not mix */
    (void)written;
    if (descriptor != STDERR_FILENO)
        close(descriptor);
}

CUresult sim_unsupported(const char *name) {
    enum { NAMES = 4096 };
    static const char *_Atomic said[NAMES]; /* open-addressed by the literal's address */
    size_t at = ((uintptr_t)name >> 3) * 2654435761u % NAMES;
    for (size_t step = 0; step < NAMES; step++, at = (at + 1) % NAMES) {
        const char *there = NULL;
        /* Relaxed: only the pointer's value matters. */
        if (atomic_compare_exchange_strong_explicit(&said[at], &there, name, memory_order_relaxed,
                                                    memory_order_relaxed)) {
            sim_log("%s is not implemented", name);
            break;
        }
        if (there == name)
            break;
    }
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* ---- Devices that the process sees --------------------------------------------------------- */

int sim_device_count(void) { return process.count; }

const struct sim_device_config *sim_device_configs[SIM_DEVICES_MAX];

uint32_t sim_device_physical(CUdevice dev) { return process.physical[dev]; }

CUdevice sim_device_ordinal(uint32_t physical) {
    for (int d = 0; d < process.count; d++)
        if (process.physical[d] == physical)
            return d;
    return -1;
}

static uint64_t speed(const struct sim_device_config *device) {
    return (uint64_t)device->sms * device->clock_mhz;
}

/* The vendor's devices of the node as CUDA counts them: fastest first, or by PCI address when
 * CUDA_DEVICE_ORDER says so, as other vendors count theirs. Returns how many there are. */
static uint32_t order_devices(uint32_t *order) {
    const char *wish = getenv("CUDA_DEVICE_ORDER");
    bool by_pci =
        sim_driver.vendor != SIM_VENDOR_NVIDIA || (wish && strcmp(wish, "PCI_BUS_ID") == 0);
    const struct sim_device_config *devices = sim_state->node->devices;
    uint32_t count = 0;
    for (uint32_t d = 0; d < sim_state->node->device_count; d++) {
        if (devices[d].vendor != sim_driver.vendor)
            continue;
        uint32_t at = count++;
        for (; at; at--) {
            const struct sim_device_config *here = &devices[d], *there = &devices[order[at - 1]];
            if (by_pci || speed(here) == speed(there)
                    ? sim_node_pci_key(here) >= sim_node_pci_key(there)
                    : speed(here) < speed(there))
                break;
            order[at] = order[at - 1];
        }
        order[at] = d;
    }
    return count;
}

/* The device that one entry of CUDA_VISIBLE_DEVICES names, or -1: an index in CUDA's order, or the
 * unambiguous beginning of a UUID. */
static int64_t named_device(const char *entry, size_t length, const uint32_t *order,
                            uint32_t count) {
    if (length && isdigit((unsigned char)entry[0])) {
        uint64_t index = 0;
        for (size_t c = 0; c < length; c++) {
            if (!isdigit((unsigned char)entry[c]) || index >= count)
                return -1;
            index = index * 10 + (uint64_t)(entry[c] - '0');
        }
        return index < count ? (int64_t)order[index] : -1;
    }
    if (length < 5 || strncasecmp(entry, "GPU-", 4) != 0)
        return -1;
    int64_t found = -1;
    for (uint32_t o = 0; o < count; o++) {
        uint32_t d = order[o];
        char name[SIM_UUID_TEXT];
        sim_node_uuid(sim_state->node->devices[d].uuid, name);
        if (length > strlen(name) || strncasecmp(entry, name, length) != 0)
            continue;
        if (found >= 0)
            return -1;
        found = d;
    }
    return found;
}

/* Leaves those that the process sees. Returns how many there are. */
static uint32_t drop_closed(uint32_t *order, uint32_t count) {
    bool by_file;
    uint32_t kept = 0;
    sim_node_folder(&by_file);
    for (uint32_t d = 0; d < count; d++)
        if (!by_file || sim_node_openable(sim_state->node, order[d]))
            order[kept++] = order[d];
    return kept;
}

static void see_devices(void) {
    uint32_t order[SIM_DEVICES_MAX];
    uint32_t count = drop_closed(order, order_devices(order));
    process.count = 0;
    const char *list = getenv(sim_driver.visible);
    if (!list) {
        memcpy(process.physical, order, sizeof order);
        process.count = (int)count;
        return;
    }
    for (;;) {
        size_t length = strcspn(list, ",");
        const char *entry = list;
        size_t trimmed = length;
        while (trimmed && isspace((unsigned char)*entry))
            entry++, trimmed--;
        while (trimmed && isspace((unsigned char)entry[trimmed - 1]))
            trimmed--;
        int64_t device = named_device(entry, trimmed, order, count);
        if (device < 0)
            return; /* what precedes the first invalid entry is visible */
        if (sim_device_ordinal((uint32_t)device) >= 0) {
            process.count = 0; /* the same device twice: the driver shows none */
            return;
        }
        process.physical[process.count++] = (uint32_t)device;
        if (!list[length] || process.count == SIM_DEVICES_MAX)
            return;
        list += length + 1;
    }
}

/* ---- cuInit -------------------------------------------------------------------------------- */

uint64_t sim_call_ns;

CUresult sim_not_ready(void) { return CUDA_ERROR_NOT_INITIALIZED; }

/* A child must not come to hold the descriptor of `state` while cuInit has it open: it would keep
 * our slot alive. */
static void before_fork(void) { pthread_mutex_lock(&process.lock); }
static void after_fork(void) { pthread_mutex_unlock(&process.lock); }

static bool make_alive_page(void) {
    if (process.alive)
        return true;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    if (madvise(page, 4096, MADV_WIPEONFORK) != 0 ||
        pthread_atfork(before_fork, after_fork, after_fork) != 0) {
        munmap(page, 4096);
        return false;
    }
    process.alive = page;
    return true;
}

static CUresult open_state(void) {
    const char *directory = sim_node_folder(NULL);
    char path[4200];
    snprintf(path, sizeof path, "%s/state", directory);
    if (access(path, F_OK) != 0) {
        sim_log("no simulated node in %s: %s", directory, strerror(errno));
        return CUDA_ERROR_NO_DEVICE;
    }
    char why[512];
    int error =
        sim_state_open(directory, getenv("ALIQUOT_SIM_GROUP"), true, &sim_state, why, sizeof why);
    if (error) {
        sim_state = NULL;
        sim_log("%s", why);
        return error == EINVAL ? CUDA_ERROR_SYSTEM_DRIVER_MISMATCH : CUDA_ERROR_OPERATING_SYSTEM;
    }
    see_devices();
    for (int d = 0; d < process.count; d++)
        sim_device_configs[d] = &sim_state->node->devices[process.physical[d]];
    CUresult result = process.count ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
    if (result == CUDA_SUCCESS)
        result = sim_memory_init();
    if (result == CUDA_SUCCESS)
        result = context_init();
    if (result == CUDA_SUCCESS)
        result = sim_modules_init();
    if (result != CUDA_SUCCESS) {
        sim_state_close(sim_state);
        sim_state = NULL;
    }
    return result;
}

static CUresult begin(void) {
    if (!make_alive_page())
        return CUDA_ERROR_OPERATING_SYSTEM;
    CUresult result = open_state();
    if (result != CUDA_SUCCESS)
        return result;
    process.begun = true;
    sim_alive = process.alive;
    sim_call_ns = sim_device_count() > 0 ? sim_device_config(0)->cost_ns[SIM_COST_CALL] : 0;
    sim_cost(0, SIM_COST_INIT);
    /* Release pairs with the acquire in sim_ready. */
    atomic_store_explicit(process.alive, 1, memory_order_release);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuInit(unsigned int flags) {
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (sim_ready() == CUDA_SUCCESS)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&process.lock);
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS && !process.begun) /* else a child of an initialised process */
        result = begin();
    pthread_mutex_unlock(&process.lock);
    return result;
}

/* Ends by itself: what it held is given back without the delay of a killed process. Other threads
 * may still be inside; so nothing is torn down here. */
__attribute__((destructor)) static void say_farewell(void) {
    if (sim_ready() == CUDA_SUCCESS)
        atomic_store_explicit(&sim_state->header->slots[sim_state->slot].exiting, 1,
                              memory_order_relaxed); /* the kernel's unlock orders it */
}

CUresult CUDAAPI cuDriverGetVersion(int *version) {
    if (!version)
        return CUDA_ERROR_INVALID_VALUE;
    if (sim_ready() == CUDA_SUCCESS) {
        *version = (int)sim_state->node->driver_version;
        return CUDA_SUCCESS;
    }
    /* May be asked before cuInit: then the file is read, if there is one of our layout. */
    uint32_t found = sim_node_driver_version(sim_node_folder(NULL));
    *version = found ? (int)found : DEFAULT_DRIVER_VERSION;
    return CUDA_SUCCESS;
}
