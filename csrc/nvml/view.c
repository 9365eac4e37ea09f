/* What the wrappers stand on: the region, and telling devices apart. */
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static _Thread_local int depth __attribute__((tls_model("initial-exec")));
static const struct aliquot_grant *_Atomic granted;

static nvmlReturn_t not_there(void) { return NVML_ERROR_FUNCTION_NOT_FOUND; }
void *const aliquot_missing = (void *)not_there;

bool aliquot_view_is_own(const void *caller) {
    aliquot_resolve();
    return depth > 0 || aliquot_is_in_driver(caller);
}

int aliquot_view_enter(void) { return ++depth; }

void aliquot_view_leave(int *entered) {
    (void)entered;
    depth--;
}

/* ---- The region ---------------------------------------------------------------------------- */

static int open_region(const char *name) {
    const char *folder = aliquot_folder();
    char path[PATH_MAX];
    if (!folder || snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

static const struct aliquot_grant *map_grant(const char **why) {
    int fd = open_region("grant");
    struct stat status;
    const struct aliquot_grant *grant = MAP_FAILED;
    *why = "is truncated";
    if (fd < 0 || fstat(fd, &status) < 0)
        *why = strerror(errno);
    else if (!S_ISREG(status.st_mode))
        *why = "is not a regular file";
    else if (status.st_size >= (off_t)sizeof *grant &&
             (grant = mmap(NULL, sizeof *grant, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        *why = strerror(errno);
    if (grant == MAP_FAILED)
        grant = NULL;
    else if ((*why = aliquot_grant_check(grant, sizeof *grant))) {
        munmap((void *)grant, sizeof *grant);
        grant = NULL;
    }
    if (fd >= 0)
        close(fd);
    return grant;
}

/* No lock: a child of fork could find it taken for good. Of two that map the region at once one takes
 * its mapping back. */
bool aliquot_view_attach(void) {
    static _Atomic int said;
    /* acquire: pairs with the exchange below. */
    if (atomic_load_explicit(&granted, memory_order_acquire))
        return true;
    int saved = errno;
    const char *folder = aliquot_folder(), *why = "the library behind the shim was not found";
    const struct aliquot_grant *grant = folder ? map_grant(&why) : NULL, *other = NULL;
    if (grant && !atomic_compare_exchange_strong_explicit(
                     &granted, &other, grant, memory_order_acq_rel, memory_order_acquire))
        munmap((void *)grant, sizeof *grant);
    /* relaxed: it orders nothing. */
    if (!grant && !atomic_exchange_explicit(&said, 1, memory_order_relaxed))
        dprintf(STDERR_FILENO, "aliquot: no NVML in this process: %s%s%s\n", folder ? folder : "",
                folder ? "/grant: " : "", why);
    errno = saved;
    return grant != NULL;
}

/* ---- Devices ------------------------------------------------------------------------------- */

static int digit_of(char letter) {
    if (letter >= '0' && letter <= '9')
        return letter - '0';
    letter |= 0x20;
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* The sixteen bytes of "GPU-5b0a91c2-…" or "MIG-…". (Drivers before 470 call partitions
 * "MIG-GPU-…/1/0", which is no UUID of theirs, and no slice has one.) */
static bool parse_uuid(const char *text, uint8_t uuid[16]) {
    if (strncmp(text, "GPU-", 4) != 0 && strncmp(text, "MIG-", 4) != 0)
        return false;
    unsigned digits = 0;
    for (text += 4; *text; text++) {
        int digit = digit_of(*text);
        if (*text == '-')
            continue;
        if (digit < 0 || digits == 32)
            return false;
        uuid[digits / 2] = (uint8_t)(digits % 2 ? uuid[digits / 2] | digit : digit << 4);
        digits++;
    }
    return digits == 32;
}

unsigned aliquot_view_granted(void) {
    const struct aliquot_grant *grant = atomic_load_explicit(&granted, memory_order_acquire);
    uint32_t count = grant ? grant->device_count : 0;
    return count < ALIQUOT_MAX_DEVICES ? count : ALIQUOT_MAX_DEVICES;
}

const struct aliquot_grant_device *aliquot_view_device(nvmlDevice_t device, uint32_t *index) {
    const struct aliquot_grant *grant = atomic_load_explicit(&granted, memory_order_acquire);
    char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    uint8_t uuid[16];
    if (!grant || REAL(nvmlDeviceGetUUID)(device, text, sizeof text) != NVML_SUCCESS ||
        !parse_uuid(text, uuid))
        return NULL;
    for (uint32_t d = 0, count = aliquot_view_granted(); d < count; d++)
        if (!memcmp(grant->device[d].uuid, uuid, sizeof uuid)) {
            if (index)
                *index = d;
            return &grant->device[d];
        }
    return NULL;
}

unsigned aliquot_view_parts(nvmlDevice_t card, void (*visit)(nvmlDevice_t part, void *argument),
                            void *argument) {
    unsigned most = 0, own = 0, now, pending;
    if (REAL(nvmlDeviceGetMigMode)(card, &now, &pending) != NVML_SUCCESS ||
        now != NVML_DEVICE_MIG_ENABLE ||
        REAL(nvmlDeviceGetMaxMigDeviceCount)(card, &most) != NVML_SUCCESS)
        return 0;
    for (unsigned place = 0; place < most; place++) {
        nvmlDevice_t part;
        if (REAL(nvmlDeviceGetMigDeviceHandleByIndex)(card, place, &part) != NVML_SUCCESS ||
            !aliquot_view_device(part, NULL))
            continue;
        own++;
        if (visit)
            visit(part, argument);
    }
    return own;
}

bool aliquot_view_is_part(nvmlDevice_t device) {
    char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    return REAL(nvmlDeviceGetUUID)(device, text, sizeof text) == NVML_SUCCESS &&
           strncmp(text, "MIG-", 4) == 0;
}

bool aliquot_view_shows(nvmlDevice_t device) {
    /* (Of a partition, some versions tell what is its card's.) */
    return aliquot_view_device(device, NULL) ||
           (!aliquot_view_is_part(device) && aliquot_view_parts(device, NULL, NULL));
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

static uint32_t slots_in_use(int fd) {
    struct {
        uint64_t magic;
        uint32_t abi, size, high_water, reserved;
    } head;
    static_assert(offsetof(struct aliquot_usage, high_water) == 16, "the head of usage");
    if (pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head ||
        head.magic != ALIQUOT_USAGE_MAGIC || head.abi != ALIQUOT_REGION_ABI)
        return 0;
    return head.high_water < ALIQUOT_MAX_SLOTS ? head.high_water : ALIQUOT_MAX_SLOTS;
}

void aliquot_view_processes(uint32_t index,
                            void (*visit)(uint32_t pid, uint64_t bytes, void *argument),
                            void *argument) {
    enum { AT_ONCE = 128 };
    uint64_t charge[AT_ONCE];
    int saved = errno;
    int fd = open_region("usage");
    uint32_t slots = fd >= 0 ? slots_in_use(fd) : 0;
    for (uint32_t s = 0; s < slots; s++) {
        uint32_t pid;
        off_t words = (off_t)(offsetof(struct aliquot_usage, charge) +
                              ((size_t)index * ALIQUOT_MAX_SLOTS + s) * sizeof *charge);
        off_t slot =
            (off_t)(offsetof(struct aliquot_usage, slot) + s * sizeof(struct aliquot_slot));
        if (s % AT_ONCE == 0 && pread(fd, charge, sizeof charge, words) != (ssize_t)sizeof charge)
            break;
        uint64_t bytes = charge[s % AT_ONCE];
        if (bytes && pread(fd, &pid, sizeof pid, slot) == (ssize_t)sizeof pid && pid &&
            aliquot_slot_alive(fd, s) == 1)
            visit(pid, bytes, argument);
    }
    static_assert(ALIQUOT_MAX_SLOTS % AT_ONCE == 0, "charges are read so many at once");
    if (fd >= 0)
        close(fd);
    errno = saved;
}
