/* Memory that several processes hold. */
#include "state_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IDENTITY_MAGIC UINT64_C(0x45524148532d5153) /* "SQ-SHARE" read as little-endian */

/* What a descriptor's file says. The descriptions that are handed out hold a read lock on it, so
 * that a write lock is refused while one of them is open anywhere. */
struct identity {
    uint64_t magic;
    uint8_t id[16];
    struct sim_share_name name;
};

static void lock_for(struct sim_state *state, uint32_t device) {
    if (device < SIM_DEVICES_MAX)
        sim_device_lock(state, device);
    else
        sim_lock_take(state, &state->header->table_lock);
}

static void unlock_for(struct sim_state *state, uint32_t device) {
    if (device < SIM_DEVICES_MAX)
        sim_device_unlock(state, device);
    else
        sim_lock_drop(state, &state->header->table_lock);
}

static uint64_t status_word(uint64_t nonce, enum sim_share_status status) {
    return nonce << 2 | (uint64_t)status;
}

void sim_share_path(const struct sim_state *state, const struct sim_share_name *name, char *path,
                    size_t path_bytes) {
    snprintf(path, path_bytes, "%s/share-%u-%llu", state->directory, name->number,
             (unsigned long long)name->nonce);
}

/* ---- Under the lock of the share's device -------------------------------------------------- */

static struct sim_share_name name_of(const struct sim_share *share, uint32_t number) {
    uint64_t status = atomic_load_explicit(&share->status, memory_order_relaxed);
    return (struct sim_share_name){number, share->device, status >> 2};
}

/* Calls for the frames of a share. They are recognised by their words: a killed process may have
 * freed some already, and others may have them now. */
static void each_frame(struct sim_state *state, const struct sim_share *share, uint32_t number,
                       void (*call)(struct sim_state *, uint32_t, uint32_t, uint32_t, void *),
                       void *argument) {
    if (share->device >= SIM_DEVICES_MAX)
        return;
    const _Atomic uint32_t *words = sim_frame_words(state, share->device);
    uint32_t from = 0, end = state->header->devices[share->device].frame_count;
    if (share->first_frame != SIM_SLOT_NONE) {
        from = share->first_frame;
        end = from + (uint32_t)share->frames;
    }
    for (uint32_t f = from; f < end; f++) {
        uint32_t word = atomic_load_explicit(&words[f], memory_order_relaxed);
        if (word >> SIM_FRAME_SHARE_SHIFT == number + 1)
            call(state, share->device, f, word, argument);
    }
}

static void own_frame(struct sim_state *state, uint32_t device, uint32_t frame, uint32_t word,
                      void *argument) {
    uint32_t owner = *(uint32_t *)argument;
    sim_frame_assign(state, device, frame, (word & ~SIM_FRAME_OWNER) | owner);
}

static void unshare_frame(struct sim_state *state, uint32_t device, uint32_t frame, uint32_t word,
                          void *argument) {
    (void)argument;
    sim_frame_assign(state, device, frame, word & SIM_FRAME_OWNER);
}

static void free_frame(struct sim_state *state, uint32_t device, uint32_t frame, uint32_t word,
                       void *argument) {
    (void)word;
    (void)argument;
    sim_frames_scrub(state, device, frame, 1);
    sim_frame_assign(state, device, frame, 0);
}

static bool descriptor_open(struct sim_state *state, const struct sim_share *share,
                            uint32_t number) {
    if (!share->exported)
        return false;
    char path[SIM_PATH_MAX];
    struct sim_share_name name = name_of(share, number);
    sim_share_path(state, &name, path, sizeof path);
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0)
        return false;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    bool held = fcntl(descriptor, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
    close(descriptor);
    return held;
}

static void end_share(struct sim_state *state, struct sim_share *share, uint32_t number) {
    struct sim_state_header *header = state->header;
    struct sim_share_name name = name_of(share, number);
    each_frame(state, share, number, free_frame, NULL);
    if (share->exported || share->kind == SIM_SHARE_HOST) {
        char path[SIM_PATH_MAX];
        sim_share_path(state, &name, path, sizeof path);
        (void)unlink(path);
    }
    /* Release: whoever finds the number free finds no frame that still bears it. */
    atomic_store_explicit(&share->status, status_word(name.nonce, SIM_SHARE_FREE),
                          memory_order_release);
    uint32_t hint = atomic_load_explicit(&header->share_hint, memory_order_relaxed);
    while (number < hint &&
           !atomic_compare_exchange_weak_explicit(&header->share_hint, &hint, number,
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
}

static uint32_t first_holder(struct sim_state *state, const struct sim_share *share, bool *any) {
    *any = false;
    for (uint32_t w = 0; w < SIM_SLOTS_MAX / 64; w++) {
        uint64_t bits = atomic_load_explicit(&share->holders[w], memory_order_relaxed);
        for (; bits; bits &= bits - 1) {
            uint32_t slot = w * 64 + (uint32_t)__builtin_ctzll(bits);
            *any = true;
            if (sim_slot_status_of(sim_slot_status(state, slot)) == SIM_SLOT_LIVE)
                return slot;
        }
    }
    return SIM_SLOT_NONE;
}

static bool is_holder(const struct sim_share *share, uint32_t slot) {
    return slot < SIM_SLOTS_MAX &&
           (atomic_load_explicit(&share->holders[slot / 64], memory_order_relaxed) >> (slot % 64) &
            1);
}

static void set_holder(struct sim_share *share, uint32_t slot, bool on) {
    uint64_t bit = UINT64_C(1) << (slot % 64);
    if (on)
        atomic_fetch_or_explicit(&share->holders[slot / 64], bit, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(&share->holders[slot / 64], ~bit, memory_order_relaxed);
}

/* After a holder went: who is charged now, or the end. `leaving`: the slot that went for good, or
 * SIM_SLOT_NONE. Returns whether the share ended. */
static bool settle(struct sim_state *state, struct sim_share *share, uint32_t number,
                   uint32_t leaving) {
    bool any;
    uint32_t heir = first_holder(state, share, &any);
    if (is_holder(share, share->owner))
        return false;
    if (!any && !descriptor_open(state, share, number)) {
        end_share(state, share, number);
        return true;
    }
    /* Nobody will tell when the descriptor is closed. */
    if (!any && share->device < SIM_DEVICES_MAX)
        state->header->devices[share->device].descriptors = 1;
    /* Kept by a descriptor alone: it stays with the process that made it while that lives. */
    if (heir == SIM_SLOT_NONE && share->owner != leaving)
        return false;
    share->owner = heir; /* first: a recount makes the frames follow */
    uint32_t owner = heir == SIM_SLOT_NONE ? SIM_FRAME_NOBODY : heir + 1;
    each_frame(state, share, number, own_frame, &owner);
    return false;
}

bool sim_shares_reap(struct sim_state *state, uint32_t device, uint32_t slot) {
    struct sim_state_header *header = state->header;
    uint32_t high = atomic_load_explicit(&header->share_high, memory_order_relaxed);
    bool ended = false;
    for (uint32_t n = 0; n < high; n++) {
        struct sim_share *share = &header->shares[n];
        enum sim_share_status status =
            sim_share_status_of(atomic_load_explicit(&share->status, memory_order_acquire));
        if (status == SIM_SHARE_FREE || share->device != device)
            continue;
        if (status == SIM_SHARE_BUILDING) {
            if (share->owner == slot && slot != SIM_SLOT_NONE) {
                each_frame(state, share, n, unshare_frame, NULL);
                end_share(state, share, n);
            }
            continue;
        }
        if (slot != SIM_SLOT_NONE && (is_holder(share, slot) || share->owner == slot)) {
            set_holder(share, slot, false);
            ended |= settle(state, share, n, slot);
        } else if (slot == SIM_SLOT_NONE) {
            ended |= settle(state, share, n, SIM_SLOT_NONE);
        }
    }
    return ended;
}

bool sim_shares_orphaned(struct sim_state *state) {
    struct sim_state_header *header = state->header;
    uint32_t high = atomic_load_explicit(&header->share_high, memory_order_relaxed);
    for (uint32_t n = 0; n < high; n++) {
        struct sim_share *share = &header->shares[n];
        if (sim_share_status_of(atomic_load_explicit(&share->status, memory_order_acquire)) !=
            SIM_SHARE_LIVE)
            continue;
        uint64_t any = 0;
        for (uint32_t w = 0; w < SIM_SLOTS_MAX / 64; w++)
            any |= atomic_load_explicit(&share->holders[w], memory_order_relaxed);
        if (!any)
            return true;
    }
    return false;
}

/* ---- For the simulator --------------------------------------------------------------------- */

/* A free record, made BUILDING for the own slot. Under the table lock. */
static bool take_number(struct sim_state *state, uint32_t device, uint32_t *number) {
    struct sim_state_header *header = state->header;
    uint32_t n = atomic_load_explicit(&header->share_hint, memory_order_relaxed);
    for (; n < SIM_SHARES_MAX; n++) {
        struct sim_share *share = &header->shares[n];
        uint64_t status = atomic_load_explicit(&share->status, memory_order_acquire);
        if (sim_share_status_of(status) != SIM_SHARE_FREE)
            continue;
        uint64_t nonce = atomic_fetch_add_explicit(&header->next_id, 1, memory_order_relaxed);
        share->device = device;
        share->owner = state->slot;
        share->exported = 0;
        share->first_frame = SIM_SLOT_NONE;
        share->frames = 0;
        for (uint32_t w = 0; w < SIM_SLOTS_MAX / 64; w++)
            atomic_store_explicit(&share->holders[w], 0, memory_order_relaxed);
        /* Release: whoever sees it BUILDING sees whose. */
        atomic_store_explicit(&share->status, status_word(nonce, SIM_SHARE_BUILDING),
                              memory_order_release);
        atomic_store_explicit(&header->share_hint, n + 1, memory_order_relaxed);
        if (atomic_load_explicit(&header->share_high, memory_order_relaxed) <= n)
            atomic_store_explicit(&header->share_high, n + 1, memory_order_relaxed);
        *number = n;
        return true;
    }
    return false;
}

bool sim_share_make(struct sim_state *state, uint32_t device, enum sim_share_kind kind,
                    const struct sim_frames *frames, uint64_t bytes, const uint32_t detail[4],
                    struct sim_share_name *name) {
    uint32_t number;
    sim_lock_take(state, &state->header->table_lock);
    bool found = take_number(state, device, &number);
    sim_lock_drop(state, &state->header->table_lock);
    if (!found)
        return false;
    struct sim_share *share = &state->header->shares[number];
    lock_for(state, device);
    share->kind = (uint32_t)kind;
    share->bytes = bytes;
    memset(share->detail, 0, sizeof share->detail);
    if (detail)
        memcpy(share->detail, detail, sizeof share->detail);
    if (frames) {
        const struct sim_frame_run *runs = sim_frames_runs(frames);
        uint32_t mark = (number + 1) << SIM_FRAME_SHARE_SHIFT | (state->slot + 1);
        share->frames = frames->frames;
        share->first_frame = frames->run_count == 1 ? runs[0].first : SIM_SLOT_NONE;
        for (uint32_t r = 0; r < frames->run_count; r++)
            for (uint32_t f = 0; f < runs[r].count; f++)
                sim_frame_assign(state, device, runs[r].first + f, mark);
    }
    set_holder(share, state->slot, true);
    *name = name_of(share, number);
    /* Release pairs with the acquire of whoever looks without the lock. */
    atomic_store_explicit(&share->status, status_word(name->nonce, SIM_SHARE_LIVE),
                          memory_order_release);
    unlock_for(state, device);
    return true;
}

bool sim_share_hold(struct sim_state *state, const struct sim_share_name *name) {
    if (name->number >= SIM_SHARES_MAX || name->device > SIM_DEVICES_MAX || !name->nonce ||
        (name->device < SIM_DEVICES_MAX && name->device >= state->node->device_count))
        return false;
    struct sim_share *share = &state->header->shares[name->number];
    lock_for(state, name->device);
    bool live = atomic_load_explicit(&share->status, memory_order_relaxed) ==
                    status_word(name->nonce, SIM_SHARE_LIVE) &&
                share->device == name->device;
    if (live) {
        set_holder(share, state->slot, true);
        /* What only a descriptor kept alive is charged to whoever uses it. */
        settle(state, share, name->number, SIM_SLOT_NONE);
    }
    unlock_for(state, name->device);
    return live;
}

void sim_share_drop(struct sim_state *state, const struct sim_share_name *name) {
    struct sim_share *share = &state->header->shares[name->number];
    lock_for(state, name->device);
    set_holder(share, state->slot, false);
    settle(state, share, name->number, SIM_SLOT_NONE);
    unlock_for(state, name->device);
}

static void list_frame(struct sim_state *state, uint32_t device, uint32_t frame, uint32_t word,
                       void *argument) {
    (void)state;
    (void)device;
    (void)word;
    struct sim_frames **list = argument;
    struct sim_frames more = {.run_count = 1, .frames = 1, .one = {frame, 1}};
    if (*list && !sim_frames_append(*list, &more))
        *list = NULL;
}

bool sim_share_frames(struct sim_state *state, const struct sim_share_name *name,
                      struct sim_frames *frames) {
    struct sim_share *share = &state->header->shares[name->number];
    *frames = (struct sim_frames){0};
    struct sim_frames *list = frames;
    lock_for(state, name->device);
    each_frame(state, share, name->number, list_frame, &list);
    unlock_for(state, name->device);
    if (!list)
        sim_frames_forget(frames);
    return list != NULL;
}

int sim_share_file(const struct sim_state *state, const struct sim_share_name *name) {
    char path[SIM_PATH_MAX];
    sim_share_path(state, name, path, sizeof path);
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor >= 0 || errno != ENOENT)
        return descriptor;
    descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, state->mode);
    /* Whatever the umask: other users of the node take part. Not ours to change: another's, who is
     * here first, and does the same. */
    if (descriptor >= 0)
        (void)fchmod(descriptor, state->mode);
    return descriptor;
}

int sim_share_export(struct sim_state *state, const struct sim_share_name *name) {
    struct sim_share *share = &state->header->shares[name->number];
    int descriptor = sim_share_file(state, name);
    if (descriptor < 0)
        return -1;
    struct identity identity = {.magic = IDENTITY_MAGIC, .name = *name};
    memcpy(identity.id, state->header->id, sizeof identity.id);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    /* Host memory's own file keeps its bytes at the start, and the identity behind them. */
    off_t at = share->kind == SIM_SHARE_HOST ? (off_t)share->bytes : 0;
    if (pwrite(descriptor, &identity, sizeof identity, at) != (ssize_t)sizeof identity ||
        fcntl(descriptor, F_OFD_SETLK, &lock) != 0 || lseek(descriptor, at, SEEK_SET) != at) {
        close(descriptor);
        return -1;
    }
    lock_for(state, name->device);
    share->exported = 1;
    unlock_for(state, name->device);
    return descriptor;
}

bool sim_share_identify(struct sim_state *state, int descriptor, struct sim_share_name *name) {
    struct identity identity;
    off_t at = lseek(descriptor, 0, SEEK_CUR);
    if (at < 0 || pread(descriptor, &identity, sizeof identity, at) != (ssize_t)sizeof identity ||
        identity.magic != IDENTITY_MAGIC ||
        memcmp(identity.id, state->header->id, sizeof identity.id) != 0)
        return false;
    *name = identity.name;
    return true;
}
