/* What the wrappers stand on: the region, and telling devices apart. */
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static _Thread_local int depth __attribute__((tls_model("initial-exec")));
static const struct aliquot_grant *_Atomic granted;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char usage_path[PATH_MAX];

/* What stands for a function that this NVML lacks: the shim has it, so it may be called. */
static nvmlReturn_t not_there(void) { return NVML_ERROR_FUNCTION_NOT_FOUND; }

static void fill_gaps(void) {
    for (unsigned fn = 0; fn < F_COUNT; fn++)
        if (!aliquot_real[fn])
            aliquot_real[fn] = (void *)not_there;
}

bool aliquot_view_is_own(const void *caller) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    aliquot_resolve();
    pthread_once(&once, fill_gaps);
    return depth > 0 || aliquot_is_in_driver(caller);
}

int aliquot_view_enter(void) { return ++depth; }

void aliquot_view_leave(int *entered) {
    (void)entered;
    depth--;
}

/* ---- The region ---------------------------------------------------------------------------- */

static const struct aliquot_grant *map_grant(const char *folder, const char **why) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/grant", folder) >= (int)sizeof path ||
        snprintf(usage_path, sizeof usage_path, "%s/usage", folder) >= (int)sizeof usage_path) {
        *why = "its folder's path is too long";
        return NULL;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat status;
    const struct aliquot_grant *grant = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &status) == 0 && status.st_size >= (off_t)sizeof *grant)
        grant = mmap(NULL, sizeof *grant, PROT_READ, MAP_SHARED, fd, 0);
    if (grant == MAP_FAILED) {
        *why = fd < 0 ? strerror(errno) : "it is truncated";
        grant = NULL;
    } else if ((*why = aliquot_grant_check(grant, sizeof *grant))) {
        munmap((void *)grant, sizeof *grant);
        grant = NULL;
    }
    if (fd >= 0)
        close(fd);
    return grant;
}

bool aliquot_view_attach(void) {
    static bool said;
    /* acquire: pairs with the release below. */
    if (atomic_load_explicit(&granted, memory_order_acquire))
        return true;
    int saved = errno;
    pthread_mutex_lock(&mutex);
    const struct aliquot_grant *grant = atomic_load_explicit(&granted, memory_order_relaxed);
    if (!grant) {
        const char *folder = aliquot_folder();
        const char *why = "the driver behind the shim was not found";
        grant = folder ? map_grant(folder, &why) : NULL;
        if (grant)
            atomic_store_explicit(&granted, grant, memory_order_release);
        else if (!said) {
            said = true;
            dprintf(STDERR_FILENO,
                    "aliquot: no NVML in this process: the slice's grant in %s: %s\n",
                    folder ? folder : "?", why);
        }
    }
    pthread_mutex_unlock(&mutex);
    errno = saved;
    return grant != NULL;
}

/* ---- Devices ------------------------------------------------------------------------------- */

/* The sixteen bytes of "GPU-5b0a91c2-…" or "MIG-…". */
static bool parse_uuid(const char *text, uint8_t uuid[16]) {
    const char *at = strchr(text, '-');
    unsigned digits = 0;
    for (at = at ? at + 1 : text; *at && digits < 32; at++) {
        unsigned value = *at >= '0' && *at <= '9'   ? (unsigned)(*at - '0')
                         : *at >= 'a' && *at <= 'f' ? (unsigned)(*at - 'a') + 10
                         : *at >= 'A' && *at <= 'F' ? (unsigned)(*at - 'A') + 10
                         : *at == '-'               ? 16
                                                    : 17;
        if (value > 16)
            return false;
        if (value == 16)
            continue;
        uuid[digits / 2] = (uint8_t)(digits % 2 ? uuid[digits / 2] | value : value << 4);
        digits++;
    }
    return digits == 32;
}

const struct aliquot_grant_device *aliquot_view_device(nvmlDevice_t device, uint32_t *index) {
    const struct aliquot_grant *grant = atomic_load_explicit(&granted, memory_order_acquire);
    char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    uint8_t uuid[16];
    if (!grant || REAL(nvmlDeviceGetUUID)(device, text, sizeof text) != NVML_SUCCESS ||
        !parse_uuid(text, uuid))
        return NULL;
    for (uint32_t d = 0; d < grant->device_count && d < ALIQUOT_MAX_DEVICES; d++)
        if (!memcmp(grant->device[d].uuid, uuid, sizeof uuid)) {
            *index = d;
            return &grant->device[d];
        }
    return NULL;
}

nvmlReturn_t aliquot_view_real_count(unsigned int *count) {
    nvmlReturn_t result = REAL(nvmlDeviceGetCount_v2)(count);
    return result == NVML_ERROR_FUNCTION_NOT_FOUND ? REAL(nvmlDeviceGetCount)(count) : result;
}

nvmlReturn_t aliquot_view_real_handle(unsigned int index, nvmlDevice_t *device) {
    nvmlReturn_t result = REAL(nvmlDeviceGetHandleByIndex_v2)(index, device);
    return result == NVML_ERROR_FUNCTION_NOT_FOUND ? REAL(nvmlDeviceGetHandleByIndex)(index, device)
                                                   : result;
}

/* ---- Processes ----------------------------------------------------------------------------- */

unsigned aliquot_view_processes(uint32_t index, struct aliquot_view_process *out, unsigned room,
                                uint64_t *sum) {
    struct aliquot_usage head;
    unsigned count = 0;
    uint64_t total = 0;
    int saved = errno;
    int fd = open(usage_path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    const size_t head_bytes = offsetof(struct aliquot_usage, device);
    uint32_t slots = 0;
    if (fd >= 0 && pread(fd, &head, head_bytes, 0) == (ssize_t)head_bytes &&
        head.magic == ALIQUOT_USAGE_MAGIC && head.abi == ALIQUOT_REGION_ABI)
        slots = head.high_water < ALIQUOT_MAX_SLOTS ? head.high_water : ALIQUOT_MAX_SLOTS;
    for (uint32_t s = 0; s < slots; s++) {
        uint64_t bytes = 0;
        uint32_t pid = 0;
        off_t charge = (off_t)(offsetof(struct aliquot_usage, charge) +
                               ((size_t)index * ALIQUOT_MAX_SLOTS + s) * sizeof bytes);
        off_t slot =
            (off_t)(offsetof(struct aliquot_usage, slot) + s * sizeof(struct aliquot_slot));
        if (pread(fd, &bytes, sizeof bytes, charge) != sizeof bytes ||
            pread(fd, &pid, sizeof pid, slot) != sizeof pid || !bytes || !pid ||
            aliquot_slot_alive(fd, s) != 1)
            continue;
        if (out && count < room)
            out[count] = (struct aliquot_view_process){pid, bytes};
        count++;
        total += bytes;
    }
    if (fd >= 0)
        close(fd);
    if (sum)
        *sum = total;
    errno = saved;
    return count;
}
