#include "state_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

_Static_assert(SIM_SLOTS_MAX < SIM_FRAME_NOBODY, "a frame's owner must fit its bits");
_Static_assert(SIM_SHARES_MAX < (1u << (32 - SIM_FRAME_SHARE_SHIFT)), "so must its share");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "processes share atomics, so these must not be locks of one process");

#define PAGE UINT64_C(4096)

static uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

__attribute__((format(printf, 3, 4))) static void explain(char *why, size_t why_bytes,
                                                          const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (why && why_bytes)
        vsnprintf(why, why_bytes, format, arguments);
    va_end(arguments);
}

uint64_t sim_state_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void sim_cost_wait(uint64_t ns) {
    enum { SPIN_NS = 60000 }; /* what a sleep may oversleep by */
    uint64_t end = sim_state_now() + ns;
    if (ns > 2 * SPIN_NS) {
        uint64_t until = end - SPIN_NS;
        struct timespec wake = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL) == EINTR)
            continue;
    }
    while (sim_state_now() < end)
        continue;
}

static int open_in(const char *directory, const char *name, int flags) {
    char path[SIM_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return open(path, flags | O_CLOEXEC, 0600);
}

int sim_state_open_file(const struct sim_state *state, const char *name, int flags) {
    return open_in(state->directory, name, flags);
}

/* ---- Making -------------------------------------------------------------------------------- */

static int check_node(const struct sim_node_config *node, char *why, size_t why_bytes) {
    if (!node->device_count || node->device_count > SIM_DEVICES_MAX) {
        explain(why, why_bytes, "a node has 1 to %d devices, not %u", SIM_DEVICES_MAX,
                node->device_count);
        return EINVAL;
    }
    for (uint32_t d = 0; d < node->device_count; d++) {
        const struct sim_device_config *device = &node->devices[d];
        uint64_t page = device->page_size;
        if (device->vendor > SIM_VENDOR_CAMBRICON) {
            explain(why, why_bytes, "device %u: %u is no vendor", d, device->vendor);
            return EINVAL;
        }
        if (page < UINT64_C(65536) || (page & (page - 1)) || device->memory <= device->reserved ||
            (device->memory - device->reserved) % page ||
            (device->memory - device->reserved) / page >= SIM_SLOT_NONE) {
            explain(why, why_bytes,
                    "device %u: memory minus reserved (%llu bytes) must be a multiple of the page "
                    "size (%llu, a power of two of at least 65536)",
                    d, (unsigned long long)(device->memory - device->reserved),
                    (unsigned long long)page);
            return EINVAL;
        }
    }
    return 0;
}

static void fill_header(struct sim_state_header *header, const struct sim_node_config *node,
                        const uint64_t *offsets, uint64_t file_bytes) {
    header->version = SIM_STATE_VERSION;
    header->header_bytes = sizeof *header;
    header->file_bytes = file_bytes;
    header->node = *node;
    header->group_count = 1; /* the nameless one */
    atomic_store_explicit(&header->tracing, node->trace, memory_order_relaxed);
    header->pid_namespace = sim_pid_namespace("/proc/self/ns/pid");
    sim_process_container(header, header->container, sizeof header->container);
    atomic_store_explicit(&header->next_id, 1, memory_order_relaxed);
    for (uint32_t d = 0; d < node->device_count; d++) {
        struct sim_device_state *device = &header->devices[d];
        const struct sim_device_config *config = &node->devices[d];
        uint64_t frames = (config->memory - config->reserved) / config->page_size;
        device->frame_count = (uint32_t)frames;
        device->frames_offset = offsets[2 * d];
        device->bitmap_offset = offsets[2 * d + 1];
        atomic_store_explicit(&device->free_frames, frames, memory_order_relaxed);
        uint64_t *bitmap = (uint64_t *)(void *)((uint8_t *)header + device->bitmap_offset);
        for (uint64_t f = 0; f < frames / 64; f++)
            bitmap[f] = UINT64_MAX;
        if (frames % 64)
            bitmap[frames / 64] = (UINT64_C(1) << (frames % 64)) - 1;
        sim_timeline_init(&device->timeline, &(struct sim_sharing){
                                                 .slice_ns = config->slice_ns,
                                                 .switch_ns = config->switch_ns,
                                                 .together = config->mps,
                                                 .sms = config->sms,
                                                 .copy_engines = config->copy_engines,
                                             });
    }
}

static int make_vram(const char *directory, const struct sim_node_config *node, uint32_t mode,
                     char *why, size_t why_bytes) {
    for (uint32_t d = 0; d < node->device_count; d++) {
        char name[32];
        snprintf(name, sizeof name, "vram%u", d);
        int descriptor = open_in(directory, name, O_RDWR | O_CREAT | O_EXCL);
        uint64_t bytes = node->devices[d].memory - node->devices[d].reserved;
        if (descriptor < 0 || fchmod(descriptor, mode) != 0 ||
            ftruncate(descriptor, (off_t)bytes) != 0) {
            int error = errno;
            explain(why, why_bytes, "making %s/%s: %s", directory, name, strerror(error));
            if (descriptor >= 0)
                close(descriptor);
            return error;
        }
        close(descriptor);
    }
    return 0;
}

int sim_state_create(const char *directory, const struct sim_node_config *node, uint32_t mode,
                     char *why, size_t why_bytes) {
    int error = check_node(node, why, why_bytes);
    if (error)
        return error;
    uint64_t offsets[2 * SIM_DEVICES_MAX];
    uint64_t bytes = round_up(sizeof(struct sim_state_header), PAGE);
    for (uint32_t d = 0; d < node->device_count; d++) {
        const struct sim_device_config *config = &node->devices[d];
        uint64_t frames = (config->memory - config->reserved) / config->page_size;
        offsets[2 * d] = bytes;
        bytes = round_up(bytes + frames * sizeof(uint32_t), PAGE);
        offsets[2 * d + 1] = bytes;
        bytes = round_up(bytes + round_up(frames, 64) / 8, PAGE);
    }
    error = make_vram(directory, node, mode, why, why_bytes);
    if (error)
        return error;
    int descriptor = open_in(directory, "state", O_RDWR | O_CREAT | O_EXCL);
    struct sim_state_header *header = MAP_FAILED;
    if (descriptor >= 0 && fchmod(descriptor, mode) == 0 &&
        ftruncate(descriptor, (off_t)bytes) == 0)
        header = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (header == MAP_FAILED) {
        error = errno;
        explain(why, why_bytes, "making %s/state: %s", directory, strerror(error));
        if (descriptor >= 0)
            close(descriptor);
        return error;
    }
    close(descriptor);
    if (getrandom(header->id, sizeof header->id, 0) != (ssize_t)sizeof header->id)
        memcpy(header->id, &(uint64_t[2]){sim_state_now(), (uint64_t)getpid()}, 16);
    fill_header(header, node, offsets, bytes);
    /* Last, so that a state whose maker was killed is no state. Compilers may not move it. */
    atomic_thread_fence(memory_order_release);
    header->magic = SIM_STATE_MAGIC;
    munmap(header, bytes);
    return 0;
}

/* ---- Opening ------------------------------------------------------------------------------- */

/* Checks that the file is a state of this build's layout, before anything of it is believed. */
static int check_file(int descriptor, const char *directory, uint64_t *bytes, uint32_t *mode,
                      char *why, size_t why_bytes) {
    struct {
        uint64_t magic;
        uint32_t version, header_bytes;
        uint64_t file_bytes;
    } start = {0};
    struct stat status;
    ssize_t got = pread(descriptor, &start, sizeof start, 0);
    if (got < 0 || fstat(descriptor, &status) != 0) {
        explain(why, why_bytes, "reading %s/state: %s", directory, strerror(errno));
        return EIO;
    }
    if ((size_t)got < sizeof start || start.magic != SIM_STATE_MAGIC) {
        explain(why, why_bytes, "%s/state is not the state of a simulated node", directory);
        return EINVAL;
    }
    if (start.version != SIM_STATE_VERSION ||
        start.header_bytes != sizeof(struct sim_state_header)) {
        explain(why, why_bytes,
                "%s/state is of another version of the simulator (%u, %u bytes; this one is %u, "
                "%zu bytes)",
                directory, start.version, start.header_bytes, SIM_STATE_VERSION,
                sizeof(struct sim_state_header));
        return EINVAL;
    }
    if ((uint64_t)status.st_size != start.file_bytes ||
        start.file_bytes < sizeof(struct sim_state_header)) {
        explain(why, why_bytes, "%s/state is truncated: %lld of %llu bytes", directory,
                (long long)status.st_size, (unsigned long long)start.file_bytes);
        return EINVAL;
    }
    *bytes = start.file_bytes;
    *mode = status.st_mode & 0666;
    return 0;
}

/* Locks a free slot's byte through `descriptor` and makes the slot live. */
static bool take_slot(struct sim_state *state, int descriptor) {
    struct sim_state_header *header = state->header;
    for (uint32_t s = 0; s < SIM_SLOTS_MAX; s++) {
        struct sim_slot *slot = &header->slots[s];
        /* Acquire pairs with the release that freed the slot: its last holder's words are past. */
        uint64_t status = atomic_load_explicit(&slot->status, memory_order_acquire);
        if (sim_slot_status_of(status) != SIM_SLOT_FREE)
            continue;
        struct flock lock = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = SIM_LOCK_BASE + s, .l_len = 1};
        if (fcntl(descriptor, F_OFD_SETLK, &lock) != 0)
            continue; /* somebody else is taking it */
        atomic_store_explicit(&slot->exiting, 0, memory_order_relaxed);
        slot->group = 0;
        slot->pid = (int32_t)getpid();
        slot->pid_namespace = sim_pid_namespace("/proc/self/ns/pid");
        slot->start_ticks = sim_start_ticks("/proc/self/stat");
        atomic_store_explicit(&slot->host_pid, 0, memory_order_relaxed);
        slot->cgroup = header->node.memory_limits ? sim_own_cgroup() : 0;
        for (uint32_t d = 0; d < SIM_DEVICES_MAX; d++) {
            atomic_store_explicit(&slot->managed[d], 0, memory_order_relaxed);
            atomic_store_explicit(&slot->partition[d], 0, memory_order_relaxed);
        }
        uint32_t high = atomic_load_explicit(&header->slot_high, memory_order_relaxed);
        while (high <= s &&
               !atomic_compare_exchange_weak_explicit(&header->slot_high, &high, s + 1,
                                                      memory_order_relaxed, memory_order_relaxed))
            continue;
        uint64_t live = (((status >> 8) + 1) << 8) | SIM_SLOT_LIVE;
        /* Release: whoever sees the slot live sees pid and group. It fails when another process
         * took and left the slot between the load and the lock. */
        if (atomic_compare_exchange_strong_explicit(&slot->status, &status, live,
                                                    memory_order_release, memory_order_relaxed)) {
            state->slot = s;
            sim_process_begin(state);
            return true;
        }
        lock.l_type = F_UNLCK;
        (void)fcntl(descriptor, F_OFD_SETLK, &lock);
    }
    return false;
}

/* Finds or adds the name. A half-written one lies beyond group_count and is written again. */
static bool join_group(struct sim_state *state, const char *name) {
    struct sim_state_header *header = state->header;
    bool found = false;
    sim_lock_take(state, &header->table_lock);
    uint32_t g = 0;
    while (g < header->group_count && strncmp(header->groups[g].name, name, SIM_GROUP_NAME - 1))
        g++;
    if (g < SIM_GROUPS_MAX) {
        if (g == header->group_count) {
            snprintf(header->groups[g].name, SIM_GROUP_NAME, "%s", name);
            atomic_thread_fence(memory_order_release);
            header->group_count = g + 1;
        }
        header->slots[state->slot].group = g;
        header->processes[header->slots[state->slot].process % SIM_PROCESSES_KEPT].group = g;
        found = true;
    }
    sim_lock_drop(state, &header->table_lock);
    return found;
}

/* Maps the devices' memory, side by side in one reserved address range, so that a device address
 * tells device and frame by a subtraction and a shift. */
static int map_vram(struct sim_state *state, char *why, size_t why_bytes) {
    uint64_t largest = 0, align = UINT64_C(2) << 20;
    for (uint32_t d = 0; d < state->node->device_count; d++) {
        const struct sim_device_config *config = &state->node->devices[d];
        uint64_t bytes = config->memory - config->reserved;
        largest = bytes > largest ? bytes : largest;
        align = config->page_size > align ? config->page_size : align;
    }
    unsigned shift = 21;
    while ((UINT64_C(1) << shift) < largest)
        shift++;
    uint64_t bytes = (uint64_t)state->node->device_count << shift;
    uint8_t *range =
        mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) {
        int error = errno;
        explain(why, why_bytes, "reserving %llu bytes of addresses for device memory: %s",
                (unsigned long long)(bytes + align), strerror(error));
        return error;
    }
    state->window = (uint8_t *)round_up((uintptr_t)range, align);
    state->window_shift = shift;
    for (uint32_t d = 0; d < state->node->device_count; d++) {
        const struct sim_device_config *config = &state->node->devices[d];
        char name[32];
        snprintf(name, sizeof name, "vram%u", d);
        int descriptor = sim_state_open_file(state, name, O_RDWR);
        void *place = state->window + ((uint64_t)d << shift);
        size_t size = config->memory - config->reserved;
        struct stat status;
        if (descriptor >= 0 && fstat(descriptor, &status) == 0 &&
            (uint64_t)status.st_size == size &&
            mmap(place, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
                 descriptor, 0) == place) {
            (void)madvise(place, size, MADV_DONTFORK);
            (void)madvise(place, size, MADV_DONTDUMP);
            state->vram[d] = place;
            close(descriptor);
            continue;
        }
        int error = errno ? errno : EINVAL;
        explain(why, why_bytes, "mapping %s/%s: %s", state->directory, name, strerror(error));
        if (descriptor >= 0)
            close(descriptor);
        return error;
    }
    return 0;
}

int sim_state_open(const char *directory, const char *group, bool vram, struct sim_state **out,
                   char *why, size_t why_bytes) {
    struct sim_state *state = calloc(1, sizeof *state);
    uint64_t bytes = 0;
    int error = 0;
    if (!state)
        return ENOMEM;
    /* Absolute, for the program may change its working directory. */
    if (!realpath(directory, state->directory)) {
        error = errno;
        explain(why, why_bytes, "opening %s/state: %s", directory, strerror(error));
        free(state);
        return error;
    }
    state->slot = SIM_SLOT_NONE;
    int descriptor = open_in(directory, "state", O_RDWR);
    if (descriptor < 0) {
        error = errno;
        explain(why, why_bytes, "opening %s/state: %s", directory, strerror(error));
        free(state);
        return error;
    }
    error = check_file(descriptor, directory, &bytes, &state->mode, why, why_bytes);
    void *map = MAP_FAILED;
    if (!error) {
        map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        if (map == MAP_FAILED) {
            error = errno;
            explain(why, why_bytes, "mapping %s/state: %s", directory, strerror(error));
        }
    }
    if (!error) {
        /* The mapping keeps the description, and so the slot's lock, when the descriptor goes; a
         * child of fork has neither. */
        (void)madvise(map, bytes, MADV_DONTFORK);
        state->header = map;
        state->node = &state->header->node;
        if (!take_slot(state, descriptor)) {
            error = EAGAIN;
            explain(why, why_bytes, "%s: %d processes use this node already", directory,
                    SIM_SLOTS_MAX);
            munmap(map, bytes);
        }
    }
    close(descriptor);
    if (error) {
        free(state);
        return error;
    }
    if (group && *group && !join_group(state, group)) {
        error = ENOSPC;
        explain(why, why_bytes, "%s: all %d group names are taken", directory, SIM_GROUPS_MAX);
    }
    if (!error && vram)
        error = map_vram(state, why, why_bytes);
    if (!error)
        sim_partition_join(state);
    if (error) {
        sim_state_close(state);
        return error;
    }
    sim_state_sweep(state, false);
    *out = state;
    return 0;
}

void sim_state_close(struct sim_state *state) {
    struct sim_state_header *header = state->header;
    struct sim_slot *slot = &header->slots[state->slot];
    uint64_t bytes = header->file_bytes;
    sim_lock_take(state, &header->sweep_lock);
    sim_slot_clear(state, state->slot);
    sim_lock_drop(state, &header->sweep_lock);
    /* Release pairs with take_slot's acquire; nobody gets the slot before the unmapping drops the
     * lock on its byte. */
    uint64_t status = atomic_load_explicit(&slot->status, memory_order_relaxed);
    atomic_store_explicit(&slot->status, (status & ~UINT64_C(0xff)) | SIM_SLOT_FREE,
                          memory_order_release);
    if (state->window)
        munmap(state->window, (size_t)state->node->device_count << state->window_shift);
    munmap(header, bytes);
    free(state);
}
