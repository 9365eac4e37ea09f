/* Making, checking and reclaiming a region. See region.h. */
#include "region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock-free between processes");

static bool is_power_of_two(uint64_t value) { return value && !(value & (value - 1)); }

static int write_whole(int fd, const void *bytes, size_t size) {
    const char *at = bytes;
    while (size) {
        ssize_t done = write(fd, at, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -errno;
        at += done;
        size -= (size_t)done;
    }
    return 0;
}

/* Makes the file under a temporary name with every block allocated: a sparse file on a full tmpfs
 * would be a SIGBUS in the process that first touches the hole. */
static int make_file(int dirfd, const char *name, const void *head, size_t head_size, size_t size,
                     mode_t mode) {
    int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int error = -posix_fallocate(fd, 0, (off_t)size);
    if (!error)
        error = write_whole(fd, head, head_size);
    /* fchmod, because the creation mode is cut by the umask. */
    if (!error && fchmod(fd, mode) < 0)
        error = -errno;
    close(fd);
    if (error)
        unlinkat(dirfd, name, 0);
    return error;
}

static int publish(int dirfd, const char *temporary, const char *name) {
    if (linkat(dirfd, temporary, dirfd, name, 0) < 0)
        return -errno;
    return 0;
}

int aliquot_region_create(int dirfd, const char *name, const struct aliquot_region_device *device,
                          uint32_t device_count) {
    if (!name || !device || device_count < 1 || device_count > ALIQUOT_MAX_DEVICES)
        return -EINVAL;
    if (strnlen(name, ALIQUOT_NAME_BYTES) == ALIQUOT_NAME_BYTES)
        return -EINVAL;
    struct aliquot_grant grant = {
        .magic = ALIQUOT_GRANT_MAGIC,
        .abi = ALIQUOT_REGION_ABI,
        .size = sizeof grant,
        .device_count = device_count,
    };
    memcpy(grant.name, name, strlen(name));
    for (uint32_t i = 0; i < device_count; i++) {
        if (!is_power_of_two(device[i].page_bytes) || device[i].page_bytes > 1ull << 40)
            return -EINVAL;
        memcpy(grant.device[i].uuid, device[i].uuid, sizeof grant.device[i].uuid);
        atomic_init(&grant.device[i].cap, device[i].cap);
        grant.device[i].page_bytes = device[i].page_bytes;
        grant.device[i].context_bytes = device[i].context_bytes;
        if (device[i].cores < 1 || device[i].cores > 100 || device[i].cores_min > device[i].cores ||
            device[i].weight > ALIQUOT_MAX_WEIGHT || device[i].priority < -ALIQUOT_MAX_PRIORITY ||
            device[i].priority > ALIQUOT_MAX_PRIORITY || device[i].gate > ALIQUOT_GATE_CLOSED ||
            device[i].enforcement > ALIQUOT_BY_DRIVER ||
            strnlen(device[i].label, ALIQUOT_NAME_BYTES) == ALIQUOT_NAME_BYTES)
            return -EINVAL;
        atomic_init(&grant.device[i].busy_permille, ALIQUOT_UNKNOWN);
        atomic_init(&grant.device[i].memory_busy_permille, ALIQUOT_UNKNOWN);
        atomic_init(&grant.device[i].cores, device[i].cores);
        grant.device[i].enforcement = device[i].enforcement;
        atomic_init(&grant.device[i].gate, aliquot_gate_word(device[i].gate, 0, 0, 0));
        atomic_init(&grant.device[i].window_us, ALIQUOT_WINDOW_US);
        atomic_init(&grant.device[i].cores_min, device[i].cores_min);
        atomic_init(&grant.device[i].weight, device[i].weight ? device[i].weight : 100);
        atomic_init(&grant.device[i].priority, device[i].priority);
        atomic_init(&grant.device[i].wanted_permille, ALIQUOT_UNKNOWN);
        atomic_init(&grant.device[i].received_permille, ALIQUOT_UNKNOWN);
        memcpy(grant.device[i].label, device[i].label, strlen(device[i].label));
    }
    struct {
        uint64_t magic;
        uint32_t abi, size;
    } usage_head = {ALIQUOT_USAGE_MAGIC, ALIQUOT_REGION_ABI, sizeof(struct aliquot_usage)};

    int error =
        make_file(dirfd, ".grant.new", &grant, sizeof grant, sizeof(struct aliquot_grant), 0444);
    if (error)
        return error;
    error = make_file(dirfd, ".usage.new", &usage_head, sizeof usage_head,
                      sizeof(struct aliquot_usage), 0666);
    if (!error) {
        error = publish(dirfd, ".usage.new", "usage");
        if (!error) {
            error = publish(dirfd, ".grant.new", "grant");
            if (error)
                unlinkat(dirfd, "usage", 0);
        }
        unlinkat(dirfd, ".usage.new", 0);
    }
    unlinkat(dirfd, ".grant.new", 0);
    return error;
}

static const char *check_head(const void *bytes, size_t size, uint64_t magic, size_t whole) {
    struct {
        uint64_t magic;
        uint32_t abi, size;
    } head;
    if (size < sizeof head)
        return "is truncated";
    memcpy(&head, bytes, sizeof head);
    if (head.magic != magic)
        return "is not a region file";
    if (head.abi != ALIQUOT_REGION_ABI)
        return "was made by another version of Aliquot (the region's ABI differs)";
    if (head.size != whole)
        return "has an impossible size in its head";
    if (size < whole)
        return "is truncated";
    return NULL;
}

const char *aliquot_grant_check(const void *bytes, size_t size) {
    const char *wrong = check_head(bytes, size, ALIQUOT_GRANT_MAGIC, sizeof(struct aliquot_grant));
    if (wrong)
        return wrong;
    const struct aliquot_grant *grant = bytes;
    if (grant->device_count < 1 || grant->device_count > ALIQUOT_MAX_DEVICES)
        return "has an impossible number of devices";
    if (strnlen(grant->name, ALIQUOT_NAME_BYTES) == ALIQUOT_NAME_BYTES)
        return "has a name without an end";
    for (uint32_t i = 0; i < grant->device_count; i++)
        if (!is_power_of_two(grant->device[i].page_bytes) ||
            grant->device[i].page_bytes > 1ull << 40)
            return "has an impossible page size";
    return NULL;
}

const char *aliquot_usage_check(const void *bytes, size_t size) {
    return check_head(bytes, size, ALIQUOT_USAGE_MAGIC, sizeof(struct aliquot_usage));
}

static int byte_lock(int fd, int command, short type, int64_t offset, short *found) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
    int result;
    do
        result = fcntl(fd, command, &lock);
    while (result < 0 && errno == EINTR);
    if (result < 0)
        return -errno;
    if (found)
        *found = lock.l_type;
    return 0;
}

int aliquot_slot_alive(int usage_fd, uint32_t slot) {
    if (slot >= ALIQUOT_MAX_SLOTS)
        return -EINVAL;
    short found;
    int error = byte_lock(usage_fd, F_OFD_GETLK, F_WRLCK, ALIQUOT_LOCK_SLOT(slot), &found);
    return error ? error : found != F_UNLCK;
}

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

int aliquot_region_lock(int usage_fd, int64_t timeout_ns) {
    int64_t deadline = monotonic_ns() + timeout_ns;
    /* The kernel has no timed wait for record locks, and F_OFD_SETLKW on a stopped holder would
     * never end: try, and back off up to a millisecond. */
    for (long pause = 20000;; pause = pause < 500000 ? pause * 2 : 1000000) {
        int error = byte_lock(usage_fd, F_OFD_SETLK, F_WRLCK, ALIQUOT_LOCK_REGION, NULL);
        if (error != -EAGAIN && error != -EACCES)
            return error;
        if (monotonic_ns() >= deadline)
            return -ETIMEDOUT;
        nanosleep(&(struct timespec){0, pause}, NULL);
    }
}

void aliquot_region_unlock(int usage_fd) {
    byte_lock(usage_fd, F_OFD_SETLK, F_UNLCK, ALIQUOT_LOCK_REGION, NULL);
}

/* seq_cst, both: they enclose the changes of the words, as the loads in aliquot_charge_once() its sum. */
void aliquot_move_begin(struct aliquot_usage *usage) { atomic_fetch_add(&usage->moves_begun, 1); }
void aliquot_move_end(struct aliquot_usage *usage) { atomic_fetch_add(&usage->moves_ended, 1); }

void aliquot_hold_pass_on(int usage_fd, struct aliquot_usage *usage,
                          const struct aliquot_hold *from, uint32_t charges) {
    for (uint32_t i = 0; i < ALIQUOT_MAX_HOLDS && charges; i++) {
        struct aliquot_hold *heir = &usage->hold[i];
        if (heir->key != from->key || heir->slot == from->slot || heir->slot >= ALIQUOT_MAX_SLOTS ||
            heir->device >= ALIQUOT_MAX_DEVICES)
            continue;
        uint32_t room = heir->count > heir->charged ? heir->count - heir->charged : 0;
        uint32_t moved = room < charges ? room : charges;
        if (!moved || aliquot_slot_alive(usage_fd, heir->slot) != 1)
            continue;
        heir->charged += moved;
        charges -= moved;
        /* seq_cst: a charge like any other, see aliquot_charge(). */
        atomic_fetch_add(&usage->charge[heir->device][heir->slot], moved * heir->bytes);
    }
}

void aliquot_hold_end(struct aliquot_usage *usage, struct aliquot_hold *hold) {
    uint64_t key = hold->key;
    bool others = hold->device >= ALIQUOT_MAX_DEVICES;
    for (struct aliquot_hold *other = usage->hold; other < usage->hold + ALIQUOT_MAX_HOLDS;
         other++) {
        if (other == hold || other->key != key)
            continue;
        /* (A note of before says no more than the one that is left now.) */
        if (other->count)
            others = true;
        else
            *other = (struct aliquot_hold){0};
    }
    for (uint32_t i = 0; i < ALIQUOT_MAX_HOLDS && !others; i++)
        if (usage->hold[i].device == ALIQUOT_MAX_DEVICES && usage->hold[i].bytes == key)
            usage->hold[i] = (struct aliquot_hold){0};
    if (others)
        *hold = (struct aliquot_hold){0};
    else {
        hold->slot = ALIQUOT_MAX_SLOTS;
        hold->count = hold->charged = 0;
    }
}

/* A dead holder's share of exported memory goes to a living holder of the same memory, for the
 * device frees it only when the last one is gone. */
static void inherit_holds(int usage_fd, struct aliquot_usage *usage, uint32_t dead) {
    for (uint32_t i = 0; i < ALIQUOT_MAX_HOLDS; i++) {
        struct aliquot_hold *hold = &usage->hold[i];
        if (!hold->key || hold->slot != dead)
            continue;
        aliquot_hold_pass_on(usage_fd, usage, hold, hold->charged);
        aliquot_hold_end(usage, hold);
    }
}

void aliquot_slot_clear(int usage_fd, struct aliquot_usage *usage, uint32_t slot) {
    if (usage_fd >= 0) {
        aliquot_move_begin(usage);
        inherit_holds(usage_fd, usage, slot);
    }
    uint64_t held = 0;
    for (uint32_t device = 0; device < ALIQUOT_MAX_DEVICES; device++)
        held |= atomic_load_explicit(&usage->charge[device][slot], memory_order_relaxed);
    if (held)
        /* Before the room can be seen: whoever gets the room and then an out-of-memory from the
         * driver must know that the dead process may still be giving back (aliquot_give_back_due).
         * The exchanges below are seq_cst and order it. */
        atomic_store_explicit(&usage->reclaimed_ns, (uint64_t)monotonic_ns(), memory_order_release);
    /* Each device's word lies in a page of its own: those that were never written stay so. */
    for (uint32_t device = 0; held && device < ALIQUOT_MAX_DEVICES; device++)
        /* seq_cst: pairs with the sums of aliquot_charge(). */
        atomic_exchange(&usage->charge[device][slot], 0);
    if (usage_fd >= 0)
        aliquot_move_end(usage);
    for (uint32_t device = 0; device < ALIQUOT_MAX_DEVICES; device++)
        /* relaxed: nothing else depends on it. */
        if (atomic_load_explicit(&usage->flow[device][slot], memory_order_relaxed))
            atomic_store_explicit(&usage->flow[device][slot], 0, memory_order_relaxed);
    memset(usage->slot[slot].command, 0, sizeof usage->slot[slot].command);
    atomic_store_explicit(&usage->slot[slot].pid, 0, memory_order_release);
}

int aliquot_slot_reclaim(int usage_fd, struct aliquot_usage *usage, uint32_t slot) {
    if (slot >= ALIQUOT_MAX_SLOTS)
        return -EINVAL;
    /* relaxed: only says whether looking is worth while; the lock decides. */
    if (!atomic_load_explicit(&usage->slot[slot].pid, memory_order_relaxed))
        return 0;
    int error = byte_lock(usage_fd, F_OFD_SETLK, F_WRLCK, ALIQUOT_LOCK_SLOT(slot), NULL);
    if (error == -EAGAIN || error == -EACCES)
        return 0;
    if (error)
        return error;
    aliquot_slot_clear(usage_fd, usage, slot);
    byte_lock(usage_fd, F_OFD_SETLK, F_UNLCK, ALIQUOT_LOCK_SLOT(slot), NULL);
    return 1;
}
