/* Ranges of addresses: what the process knows of them, and how frames get addresses. */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct device_memory sim_devices[SIM_DEVICES_MAX];

/* ---- Structs ------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    struct extent *spare; /* by `next` */
} slab = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct extent *extent_new(enum extent_kind kind, uint32_t physical) {
    enum { BATCH = 64 };
    pthread_mutex_lock(&slab.lock);
    if (!slab.spare) {
        struct extent *some = calloc(BATCH, sizeof *some); /* kept for ever: see struct extent */
        for (int e = 0; some && e < BATCH; e++) {
            some[e].next = slab.spare;
            slab.spare = &some[e];
        }
    }
    struct extent *extent = slab.spare;
    if (extent)
        slab.spare = extent->next;
    pthread_mutex_unlock(&slab.lock);
    if (extent)
        *extent = (struct extent){.kind = kind, .physical = physical, .backed = true};
    return extent;
}

void extent_free(struct extent *extent) {
    sim_frames_forget(&extent->frames);
    extent->span = 0; /* a stale look-up finds no byte in it */
    pthread_mutex_lock(&slab.lock);
    extent->next = slab.spare;
    slab.spare = extent;
    pthread_mutex_unlock(&slab.lock);
}

/* ---- Outside the window: a treap by base --------------------------------------------------- */

static struct {
    pthread_rwlock_t lock;
    struct extent *root;
} tree = {.lock = PTHREAD_RWLOCK_INITIALIZER};

/* A heap order that is random enough: no adversary chooses addresses. */
static uint64_t weight(const struct extent *extent) {
    return (extent->base >> 12) * UINT64_C(0x9e3779b97f4a7c15);
}

static struct extent *merge(struct extent *low, struct extent *high) {
    if (!low)
        return high;
    if (!high)
        return low;
    if (weight(low) > weight(high)) {
        low->right = merge(low->right, high);
        return low;
    }
    high->left = merge(low, high->left);
    return high;
}

/* Cuts the tree into what begins below `base` and the rest. */
static void split(struct extent *node, CUdeviceptr base, struct extent **low,
                  struct extent **high) {
    if (!node) {
        *low = *high = NULL;
    } else if (node->base < base) {
        split(node->right, base, &node->right, high);
        *low = node;
    } else {
        split(node->left, base, low, &node->left);
        *high = node;
    }
}

/* The last one that begins at or below the address. */
static struct extent *floor_of(CUdeviceptr address) {
    struct extent *found = NULL;
    for (struct extent *node = tree.root; node;) {
        if (node->base <= address) {
            found = node;
            node = node->right;
        } else {
            node = node->left;
        }
    }
    return found;
}

static void tree_insert(struct extent *extent) {
    struct extent *low, *high;
    extent->left = extent->right = NULL;
    split(tree.root, extent->base, &low, &high);
    tree.root = merge(merge(low, extent), high);
}

static bool tree_remove(struct extent *extent) {
    struct extent **link = &tree.root;
    while (*link && *link != extent)
        link = extent->base < (*link)->base ? &(*link)->left : &(*link)->right;
    if (!*link)
        return false;
    *link = merge(extent->left, extent->right);
    return true;
}

/* ---- Look-up ------------------------------------------------------------------------------- */

struct extent *extent_find(CUdeviceptr address) {
    uint64_t offset = address - (uintptr_t)sim_state->window;
    uint64_t physical = offset >> sim_state->window_shift;
    if (physical < sim_state->node->device_count) {
        const struct device_memory *device = &sim_devices[physical];
        uint64_t frame =
            (offset & ((UINT64_C(1) << sim_state->window_shift) - 1)) >> device->page_shift;
        if (frame >= sim_state->header->devices[physical].frame_count)
            return NULL;
        /* Acquire pairs with the release in extent_publish: the extent's fields are seen. */
        return atomic_load_explicit(&device->pages[frame], memory_order_acquire);
    }
    pthread_rwlock_rdlock(&tree.lock);
    struct extent *extent = floor_of(address);
    if (extent && address - extent->base >= extent->span)
        extent = NULL;
    pthread_rwlock_unlock(&tree.lock);
    return extent;
}

uint32_t extent_frame(const struct extent *extent, uint64_t offset) {
    uint64_t page = (extent->backing_offset + offset) >> sim_devices[extent->physical].page_shift;
    const struct sim_frame_run *run = sim_frames_runs(extent_frames(extent));
    while (page >= run->count)
        page -= run++->count;
    return run->first + (uint32_t)page;
}

/* ---- Addresses ----------------------------------------------------------------------------- */

CUdeviceptr addresses_reserve(uint64_t bytes, uint64_t align, CUdeviceptr wish) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (wish) {
        void *at = mmap((void *)wish, bytes, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0);
        if (at != MAP_FAILED && (CUdeviceptr)at == wish) {
            (void)madvise(at, bytes, MADV_DONTFORK);
            return wish;
        }
        if (at != MAP_FAILED)
            munmap(at, bytes);
    }
    if (align < 4096)
        align = 4096;
    if (bytes + align < bytes)
        return 0;
    uint8_t *at = mmap(NULL, bytes + align, PROT_NONE, flags, -1, 0);
    if (at == MAP_FAILED)
        return 0;
    uintptr_t base = ((uintptr_t)at + align - 1) & ~(uintptr_t)(align - 1);
    if (base != (uintptr_t)at)
        munmap(at, base - (uintptr_t)at);
    uintptr_t end = (uintptr_t)at + bytes + align;
    if (end != base + bytes)
        munmap((void *)(base + bytes), end - base - bytes);
    (void)madvise((void *)base, bytes, MADV_DONTFORK);
    return base;
}

void addresses_release(CUdeviceptr base, uint64_t bytes) { munmap((void *)base, bytes); }

void addresses_unmap(CUdeviceptr base, uint64_t bytes) {
    /* Replaced in one step: at no time may another thread's mmap get these addresses. */
    (void)mmap((void *)base, bytes, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    (void)madvise((void *)base, bytes, MADV_DONTFORK);
}

bool addresses_map(CUdeviceptr base, uint32_t physical, const struct sim_frames *frames,
                   uint64_t skip, uint64_t pages) {
    const struct device_memory *device = &sim_devices[physical];
    const struct sim_frame_run *runs = sim_frames_runs(frames);
    CUdeviceptr at = base;
    for (uint32_t r = 0; r < frames->run_count && pages; r++) {
        if (skip >= runs[r].count) {
            skip -= runs[r].count;
            continue;
        }
        uint64_t count = runs[r].count - skip;
        if (count > pages)
            count = pages;
        uint64_t bytes = count << device->page_shift;
        uint8_t *from =
            sim_state->vram[physical] + ((uint64_t)(runs[r].first + skip) << device->page_shift);
        /* A size of 0 asks for a second mapping of shared pages. It needs no descriptor, and the
         * program may have closed all of ours. */
        if (mremap(from, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)at) == MAP_FAILED) {
            sim_log("mapping %llu bytes of device %u: %s", (unsigned long long)bytes, physical,
                    strerror(errno));
            addresses_unmap(base, at - base + bytes);
            return false;
        }
        at += bytes;
        pages -= count;
        skip = 0;
    }
    (void)madvise((void *)base, at - base, MADV_DONTFORK);
    return true;
}

/* ---- Making known -------------------------------------------------------------------------- */

void extent_publish(struct extent *extent) {
    if (!extent->in_window) {
        pthread_rwlock_wrlock(&tree.lock);
        tree_insert(extent);
        pthread_rwlock_unlock(&tree.lock);
        return;
    }
    struct device_memory *device = &sim_devices[extent->physical];
    const struct sim_frame_run run = sim_frames_runs(&extent->frames)[0];
    /* Release pairs with the acquire in extent_find. */
    for (uint32_t f = 0; f < run.count; f++)
        atomic_store_explicit(&device->pages[run.first + f], extent, memory_order_release);
}

static bool in_window(CUdeviceptr base, uint64_t bytes) {
    CUdeviceptr start = (CUdeviceptr)sim_state->window;
    CUdeviceptr end = start + ((uint64_t)sim_state->node->device_count << sim_state->window_shift);
    return base < end && base + bytes > start;
}

struct extent *extent_in_range(CUdeviceptr base, uint64_t bytes) {
    pthread_rwlock_rdlock(&tree.lock);
    struct extent *last = floor_of(base + bytes - 1);
    pthread_rwlock_unlock(&tree.lock);
    return last && last->base + last->span > base ? last : NULL;
}

bool extent_publish_alone(struct extent *extent) {
    pthread_rwlock_wrlock(&tree.lock);
    const struct extent *last = floor_of(extent->base + extent->span - 1);
    bool alone =
        !(last && last->base + last->span > extent->base) && !in_window(extent->base, extent->span);
    if (alone)
        tree_insert(extent);
    pthread_rwlock_unlock(&tree.lock);
    return alone;
}

bool extent_withdraw(struct extent *extent) {
    if (!extent->in_window) {
        pthread_rwlock_wrlock(&tree.lock);
        bool removed = tree_remove(extent);
        pthread_rwlock_unlock(&tree.lock);
        return removed;
    }
    struct device_memory *device = &sim_devices[extent->physical];
    const struct sim_frame_run run = sim_frames_runs(&extent->frames)[0];
    struct extent *there = extent;
    /* Of two threads that free the same allocation, one wins here. */
    if (!atomic_compare_exchange_strong_explicit(&device->pages[run.first], &there, NULL,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return false;
    for (uint32_t f = 1; f < run.count; f++)
        atomic_store_explicit(&device->pages[run.first + f], NULL, memory_order_relaxed);
    return true;
}

bool extent_place(struct extent *extent, bool apart) {
    struct device_memory *device = &sim_devices[extent->physical];
    extent->span = extent->frames.frames << device->page_shift;
    if (extent->frames.run_count == 1 && !apart) {
        extent->in_window = true;
        extent->base = (CUdeviceptr)sim_state->vram[extent->physical] +
                       ((uint64_t)sim_frames_runs(&extent->frames)[0].first << device->page_shift);
        extent_publish(extent);
        return true;
    }
    uint64_t align = UINT64_C(1) << HEAP_PAGE_SHIFT;
    if (device->page > align)
        align = device->page;
    extent->base = addresses_reserve(extent->span, align, 0);
    if (!extent->base)
        return false;
    if (!addresses_map(extent->base, extent->physical, &extent->frames, 0, extent->frames.frames)) {
        addresses_release(extent->base, extent->span);
        return false;
    }
    extent_publish(extent);
    return true;
}

void extent_release(struct extent *extent) {
    if (!extent->in_window)
        addresses_release(extent->base, extent->span);
    if (extent->share.nonce)
        share_release(&extent->share);
    else if (extent->frames.frames)
        sim_frames_give(sim_state, extent->physical, &extent->frames);
    extent_free(extent);
}

/* ---- Shares: the state knows whether this process holds one, we know how often ---------------- */

static struct {
    pthread_mutex_t lock;
    uint32_t uses[SIM_SHARES_MAX];
} shares = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool share_make(uint32_t device, enum sim_share_kind kind, const struct sim_frames *frames,
                uint64_t bytes, const uint32_t detail[4], struct sim_share_name *name) {
    pthread_mutex_lock(&shares.lock);
    bool made = sim_share_make(sim_state, device, kind, frames, bytes, detail, name);
    if (made)
        shares.uses[name->number] = 1;
    pthread_mutex_unlock(&shares.lock);
    return made;
}

bool share_acquire(const struct sim_share_name *name) {
    if (name->number >= SIM_SHARES_MAX)
        return false;
    pthread_mutex_lock(&shares.lock);
    bool held = sim_share_hold(sim_state, name);
    shares.uses[name->number] += held;
    pthread_mutex_unlock(&shares.lock);
    return held;
}

void share_release(const struct sim_share_name *name) {
    pthread_mutex_lock(&shares.lock);
    if (--shares.uses[name->number] == 0)
        sim_share_drop(sim_state, name);
    pthread_mutex_unlock(&shares.lock);
}

/* ---- Contexts ------------------------------------------------------------------------------ */

/* Whose end is not somebody else's affair: see ipc_context_fini, array_context_fini. */
static bool goes_with(const struct extent *extent, const struct sim_context *ctx) {
    return extent->ctx == ctx && extent->kind != EXTENT_IPC && extent->kind != EXTENT_ARRAY;
}

static void collect(struct extent *node, const struct sim_context *ctx, struct extent **list) {
    if (!node)
        return;
    collect(node->left, ctx, list);
    if (goes_with(node, ctx)) {
        node->next = *list;
        *list = node;
    }
    collect(node->right, ctx, list);
}

struct extent *extent_withdraw_context(const struct sim_context *ctx) {
    struct extent *list = NULL;
    struct device_memory *device = &sim_devices[ctx->physical];
    uint32_t count = sim_state->header->devices[ctx->physical].frame_count;
    pthread_rwlock_wrlock(&tree.lock);
    collect(tree.root, ctx, &list);
    for (struct extent *extent = list; extent; extent = extent->next)
        (void)tree_remove(extent);
    pthread_rwlock_unlock(&tree.lock);
    for (uint32_t f = 0; f < count; f++) {
        struct extent *extent = atomic_load_explicit(&device->pages[f], memory_order_acquire);
        if (!extent || !goes_with(extent, ctx) || !extent_withdraw(extent))
            continue;
        extent->next = list;
        list = extent;
    }
    return list;
}
