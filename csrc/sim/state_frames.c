/* Pages of a device: who holds which. The words are the truth, all else is counted from them. */
#include "state_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- Bitmap: 1 is free --------------------------------------------------------------------- */

static uint32_t next_set(const uint64_t *bits, uint32_t from, uint32_t end) {
    while (from < end) {
        uint64_t word = bits[from / 64] >> (from % 64);
        if (word) {
            uint32_t at = from + (uint32_t)__builtin_ctzll(word);
            return at < end ? at : end;
        }
        from = (from / 64 + 1) * 64;
    }
    return end;
}

static uint32_t next_clear(const uint64_t *bits, uint32_t from, uint32_t end) {
    while (from < end) {
        uint64_t word = ~bits[from / 64] >> (from % 64);
        if (word) {
            uint32_t at = from + (uint32_t)__builtin_ctzll(word);
            return at < end ? at : end;
        }
        from = (from / 64 + 1) * 64;
    }
    return end;
}

/* ---- Under the device's lock --------------------------------------------------------------- */

/* Counters are written under the lock and read without it: plain arithmetic, relaxed stores. */
static inline void add(_Atomic uint64_t *counter, int64_t delta) {
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + (uint64_t)delta, memory_order_relaxed);
}

static inline void count_owner(struct sim_state_header *header, uint32_t device, uint32_t word,
                               int64_t delta) {
    uint32_t owner = word & SIM_FRAME_OWNER;
    if (!owner || owner > SIM_SLOTS_MAX)
        return;
    struct sim_slot *slot = &header->slots[owner - 1];
    struct sim_group *group = &header->groups[slot->group < SIM_GROUPS_MAX ? slot->group : 0];
    add(&slot->frames[device], delta);
    group->used[device] += (uint64_t)delta;
    if (group->used[device] > group->max[device])
        group->max[device] = group->used[device];
}

void sim_frame_assign(struct sim_state *state, uint32_t device, uint32_t frame, uint32_t word) {
    struct sim_state_header *header = state->header;
    struct sim_device_state *shared = &header->devices[device];
    _Atomic uint32_t *words = sim_frame_words(state, device);
    uint64_t *bitmap = sim_frame_bitmap(state, device);
    /* Relaxed: the lock orders it; a kill between any two of these stores is put right by a
     * recount from this word. A holder may be setting the touched bit meanwhile. */
    uint32_t old = atomic_load_explicit(&words[frame], memory_order_relaxed);
    if (word)
        atomic_fetch_xor_explicit(&words[frame], (old ^ word) & ~SIM_FRAME_TOUCHED,
                                  memory_order_relaxed);
    else
        atomic_store_explicit(&words[frame], 0, memory_order_relaxed);
    if (!(old & SIM_FRAME_OWNER) && (word & SIM_FRAME_OWNER)) {
        bitmap[frame / 64] &= ~(UINT64_C(1) << (frame % 64));
        add(&shared->free_frames, -1);
    } else if ((old & SIM_FRAME_OWNER) && !(word & SIM_FRAME_OWNER)) {
        bitmap[frame / 64] |= UINT64_C(1) << (frame % 64);
        add(&shared->free_frames, 1);
        if (frame < shared->free_hint)
            shared->free_hint = frame;
    }
    if ((old ^ word) & SIM_FRAME_OWNER) {
        count_owner(header, device, old, -1);
        count_owner(header, device, word, 1);
    }
}

/* What a word should be, given the shares: a killed process may have left any of these steps half
 * done. */
static uint32_t settled(const struct sim_state_header *header, uint32_t device, uint32_t word) {
    uint32_t share = word >> SIM_FRAME_SHARE_SHIFT;
    if (!share || share > SIM_SHARES_MAX)
        return word;
    const struct sim_share *record = &header->shares[share - 1];
    enum sim_share_status status =
        sim_share_status_of(atomic_load_explicit(&record->status, memory_order_relaxed));
    if (status == SIM_SHARE_LIVE && record->device == device) {
        uint32_t owner = record->owner == SIM_SLOT_NONE ? SIM_FRAME_NOBODY : record->owner + 1;
        return (word & ~SIM_FRAME_OWNER) | owner;
    }
    return word;
}

void sim_frames_recount(struct sim_state *state, uint32_t device) {
    struct sim_state_header *header = state->header;
    struct sim_device_state *shared = &header->devices[device];
    _Atomic uint32_t *words = sim_frame_words(state, device);
    uint64_t *bitmap = sim_frame_bitmap(state, device);
    for (uint32_t s = 0; s < SIM_SLOTS_MAX; s++)
        atomic_store_explicit(&header->slots[s].frames[device], 0, memory_order_relaxed);
    for (uint32_t g = 0; g < SIM_GROUPS_MAX; g++)
        header->groups[g].used[device] = 0;
    memset(bitmap, 0, (shared->frame_count + 63) / 64 * 8);
    uint64_t free_frames = 0;
    shared->free_hint = shared->frame_count;
    for (uint32_t f = 0; f < shared->frame_count; f++) {
        uint32_t word = atomic_load_explicit(&words[f], memory_order_relaxed);
        uint32_t right = settled(header, device, word);
        /* Not a plain store: the owner may be setting its touched bit. */
        if ((right ^ word) & SIM_FRAME_OWNER) {
            atomic_fetch_xor_explicit(&words[f], (right ^ word) & SIM_FRAME_OWNER,
                                      memory_order_relaxed);
            word = right;
        }
        if (word & SIM_FRAME_OWNER) {
            count_owner(header, device, word, 1);
            continue;
        }
        bitmap[f / 64] |= UINT64_C(1) << (f % 64);
        free_frames++;
        if (f < shared->free_hint)
            shared->free_hint = f;
    }
    atomic_store_explicit(&shared->free_frames, free_frames, memory_order_relaxed);
}

void sim_device_lock(struct sim_state *state, uint32_t device) {
    if (sim_lock_take(state, &state->header->devices[device].lock))
        sim_frames_recount(state, device);
}

void sim_device_unlock(struct sim_state *state, uint32_t device) {
    sim_lock_drop(state, &state->header->devices[device].lock);
}

/* ---- Zeroing ------------------------------------------------------------------------------- */

static void punch(struct sim_state *state, uint32_t device, uint32_t first, uint32_t count) {
    uint64_t page = state->node->devices[device].page_size;
    if (state->vram[device]) {
        (void)madvise(state->vram[device] + first * page, count * page, MADV_REMOVE);
        return;
    }
    char name[32];
    snprintf(name, sizeof name, "vram%u", device);
    int descriptor = sim_state_open_file(state, name, O_RDWR);
    if (descriptor < 0)
        return;
    (void)fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * page),
                    (off_t)(count * page));
    close(descriptor);
}

void sim_frames_scrub(struct sim_state *state, uint32_t device, uint32_t first, uint32_t count) {
    _Atomic uint32_t *words = sim_frame_words(state, device);
    uint32_t end = first + count;
    for (uint32_t f = first; f < end;) {
        if (!(atomic_load_explicit(&words[f], memory_order_relaxed) & SIM_FRAME_TOUCHED)) {
            f++;
            continue;
        }
        uint32_t from = f;
        while (f < end &&
               (atomic_load_explicit(&words[f], memory_order_relaxed) & SIM_FRAME_TOUCHED))
            f++;
        punch(state, device, from, f - from);
    }
}

uint64_t sim_frames_reap(struct sim_state *state, uint32_t device, uint32_t slot) {
    _Atomic uint32_t *words = sim_frame_words(state, device);
    uint32_t end = state->header->devices[device].frame_count;
    uint64_t freed = 0;
    for (uint32_t f = 0; f < end; f++) {
        if ((atomic_load_explicit(&words[f], memory_order_relaxed) & SIM_FRAME_OWNER) != slot + 1)
            continue;
        uint32_t from = f;
        while (f < end && (atomic_load_explicit(&words[f], memory_order_relaxed) &
                           SIM_FRAME_OWNER) == slot + 1)
            f++;
        sim_frames_scrub(state, device, from, f - from);
        for (uint32_t g = from; g < f; g++)
            sim_frame_assign(state, device, g, 0);
        freed += f - from;
    }
    return freed;
}

/* ---- Lists of pages ------------------------------------------------------------------------ */

static struct sim_frame_run *runs_of(struct sim_frames *frames) {
    return frames->runs ? frames->runs : &frames->one;
}

static bool push(struct sim_frames *frames, uint32_t first, uint32_t count) {
    struct sim_frame_run *runs = runs_of(frames);
    struct sim_frame_run *last = frames->run_count ? &runs[frames->run_count - 1] : NULL;
    if (last && last->first + last->count == first) {
        last->count += count;
        frames->frames += count;
        return true;
    }
    if (frames->run_count == (frames->runs ? frames->run_room : 1)) {
        uint32_t room = frames->runs ? frames->run_room * 2 : 8;
        runs = realloc(frames->runs, room * sizeof *runs);
        if (!runs)
            return false;
        if (!frames->runs)
            runs[0] = frames->one;
        frames->runs = runs;
        frames->run_room = room;
    }
    runs[frames->run_count++] = (struct sim_frame_run){first, count};
    frames->frames += count;
    return true;
}

void sim_frames_forget(struct sim_frames *frames) {
    free(frames->runs);
    *frames = (struct sim_frames){0};
}

bool sim_frames_append(struct sim_frames *frames, struct sim_frames *more) {
    const struct sim_frame_run *runs = runs_of(more);
    for (uint32_t r = 0; r < more->run_count; r++) {
        if (push(frames, runs[r].first, runs[r].count))
            continue;
        while (r--) /* as it was; cutting back needs no memory */
            (void)sim_frames_cut(frames, runs[r].count, NULL);
        return false;
    }
    sim_frames_forget(more);
    return true;
}

bool sim_frames_cut(struct sim_frames *frames, uint64_t count, struct sim_frames *tail) {
    while (count) {
        struct sim_frame_run *last = &runs_of(frames)[frames->run_count - 1];
        uint32_t some = last->count < count ? last->count : (uint32_t)count;
        if (tail && !push(tail, last->first + last->count - some, some))
            return false;
        last->count -= some;
        frames->frames -= some;
        count -= some;
        if (!last->count)
            frames->run_count--;
    }
    return true;
}

/* ---- Taking and giving --------------------------------------------------------------------- */

static void take_run(struct sim_state *state, uint32_t device, uint32_t first, uint32_t count) {
    struct sim_state_header *header = state->header;
    struct sim_device_state *shared = &header->devices[device];
    _Atomic uint32_t *words = sim_frame_words(state, device);
    uint64_t *bitmap = sim_frame_bitmap(state, device);
    struct sim_slot *slot = &header->slots[state->slot];
    struct sim_group *group = &header->groups[slot->group];
    for (uint32_t f = first; f < first + count; f++) {
        atomic_store_explicit(&words[f], state->slot + 1, memory_order_relaxed);
        bitmap[f / 64] &= ~(UINT64_C(1) << (f % 64));
    }
    add(&shared->free_frames, -(int64_t)count);
    add(&slot->frames[device], count);
    group->used[device] += count;
    if (group->used[device] > group->max[device])
        group->max[device] = group->used[device];
    if (first == shared->free_hint)
        shared->free_hint = first + count;
}

/* Finds and takes; the lists' memory is got first, so that nothing has to be given back. */
static bool take_locked(struct sim_state *state, uint32_t device, uint64_t count,
                        struct sim_frames *frames) {
    struct sim_device_state *shared = &state->header->devices[device];
    uint32_t end = shared->frame_count;
    const uint64_t *bitmap = sim_frame_bitmap(state, device);
    if (count > atomic_load_explicit(&shared->free_frames, memory_order_relaxed))
        return false;
    uint32_t start = next_set(bitmap, shared->free_hint, end);
    shared->free_hint = start;
    for (uint32_t at = start; at < end;) {
        uint32_t limit = end - at > count ? at + (uint32_t)count : end;
        uint32_t stop = next_clear(bitmap, at, limit);
        if (stop - at == count) {
            (void)push(frames, at, (uint32_t)count); /* the first run needs no memory */
            take_run(state, device, at, (uint32_t)count);
            return true;
        }
        at = next_set(bitmap, stop, end);
    }
    uint64_t rest = count;
    for (uint32_t at = start; rest;) {
        uint32_t limit = end - at > rest ? at + (uint32_t)rest : end;
        uint32_t stop = next_clear(bitmap, at, limit);
        if (!push(frames, at, stop - at)) {
            sim_frames_forget(frames);
            return false;
        }
        rest -= stop - at;
        at = next_set(bitmap, stop, end);
    }
    const struct sim_frame_run *runs = sim_frames_runs(frames);
    for (uint32_t r = 0; r < frames->run_count; r++)
        take_run(state, device, runs[r].first, runs[r].count);
    return true;
}

static bool take(struct sim_state *state, uint32_t device, uint64_t count, bool managed,
                 struct sim_frames *frames) {
    *frames = (struct sim_frames){0};
    for (int attempt = 0;; attempt++) {
        sim_device_lock(state, device);
        struct sim_device_state *shared = &state->header->devices[device];
        if (shared->descriptors) {
            /* What was closed meanwhile is nobody's any more, and must not count as held. */
            shared->descriptors = 0;
            (void)sim_shares_reap(state, device, SIM_SLOT_NONE);
        }
        bool taken = (managed || count <= sim_limit_room(state, device)) &&
                     count <= sim_partition_room(state, device) &&
                     take_locked(state, device, count, frames);
        frames->managed = taken && managed;
        if (frames->managed)
            add(&state->header->slots[state->slot].managed[device], (int64_t)count);
        sim_device_unlock(state, device);
        if (taken || attempt || count > state->header->devices[device].frame_count)
            return taken;
        if (!sim_state_sweep(state, true))
            return false;
    }
}

bool sim_frames_take(struct sim_state *state, uint32_t device, uint64_t count,
                     struct sim_frames *frames) {
    return take(state, device, count, false, frames);
}

bool sim_frames_take_managed(struct sim_state *state, uint32_t device, uint64_t count,
                             struct sim_frames *frames) {
    return take(state, device, count, true, frames);
}

void sim_frames_give(struct sim_state *state, uint32_t device, struct sim_frames *frames) {
    struct sim_state_header *header = state->header;
    struct sim_device_state *shared = &header->devices[device];
    _Atomic uint32_t *words = sim_frame_words(state, device);
    uint64_t *bitmap = sim_frame_bitmap(state, device);
    struct sim_slot *slot = &header->slots[state->slot];
    const struct sim_frame_run *runs = sim_frames_runs(frames);
    /* While the pages are still ours nobody else can write them. */
    for (uint32_t r = 0; r < frames->run_count; r++)
        sim_frames_scrub(state, device, runs[r].first, runs[r].count);
    sim_device_lock(state, device);
    for (uint32_t r = 0; r < frames->run_count; r++) {
        for (uint32_t f = runs[r].first; f < runs[r].first + runs[r].count; f++) {
            atomic_store_explicit(&words[f], 0, memory_order_relaxed);
            bitmap[f / 64] |= UINT64_C(1) << (f % 64);
        }
        if (runs[r].first < shared->free_hint)
            shared->free_hint = runs[r].first;
    }
    add(&shared->free_frames, (int64_t)frames->frames);
    add(&slot->frames[device], -(int64_t)frames->frames);
    if (frames->managed)
        add(&slot->managed[device], -(int64_t)frames->frames);
    header->groups[slot->group].used[device] -= frames->frames;
    sim_device_unlock(state, device);
    sim_frames_forget(frames);
}
