/* Memory of cuMemAlloc in other processes. */
#include "memory.h"

#include "exec.h"
#include "state_private.h"

#include <stdlib.h>
#include <string.h>

#define IPC_MAGIC UINT64_C(0x2d4350492d5153) /* "SQ-IPC-" read as little-endian */

/* What a CUipcMemHandle holds: an allocation as a part of the pages it lies in. */
struct handle {
    uint64_t magic;
    uint64_t state; /* the first half of the state's id */
    struct sim_share_name name;
    uint64_t offset, bytes;
    uint32_t owner;   /* slot of the exporting process, */
    uint32_t holding; /* and which process in it */
};
_Static_assert(sizeof(struct handle) <= sizeof(CUipcMemHandle), "it has 64 bytes");

/* Allocations opened in this process, by the pages they share. Under ipc_lock. */
struct opened {
    struct opened *next;
    uint64_t offset;
    uint32_t count;
};
static pthread_mutex_t ipc_lock = PTHREAD_MUTEX_INITIALIZER;
static struct extent *opened_extents; /* by `next`; `owner` is the list of what is open in them */

/* Which process in its slot this one is: slots are used again. */
static uint32_t own_holding(void) {
    return (uint32_t)(sim_slot_status(sim_state, sim_state->slot) >> 8);
}

static uint64_t state_key(void) {
    uint64_t key;
    memcpy(&key, sim_state->header->id, sizeof key);
    return key;
}

/* ---- Exporting ----------------------------------------------------------------------------- */

/* Makes the extent's pages a share; its heap, if it has one, is locked. */
static bool share_pages(struct extent *extent) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* two threads may export at once */
    pthread_mutex_lock(&lock);
    /* Where the pages are one allocation's, importers are told its size. */
    bool whole = extent->kind == EXTENT_LINEAR;
    bool shared = extent->share.nonce ||
                  share_make(extent->physical, SIM_SHARE_IPC, &extent->frames,
                             whole ? extent->bytes : extent->span, NULL, &extent->share);
    pthread_mutex_unlock(&lock);
    return shared;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle *out, CUdeviceptr ptr) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    struct handle handle = {.magic = IPC_MAGIC,
                            .state = state_key(),
                            .owner = sim_state->slot,
                            .holding = own_holding()};
    struct heap *heap;
    struct block *block = block_lock(ptr, &heap);
    struct extent *extent = block ? block->chunk : extent_find(ptr);
    bool suitable = extent && (block ? extent->kind == EXTENT_SMALL &&
                                           !(block->flags & BLOCK_MANAGED) && block->address == ptr
                                     : extent->kind == EXTENT_LINEAR && !extent->managed &&
                                           extent->base == ptr);
    bool shared = suitable && share_pages(extent);
    if (shared) {
        handle.name = extent->share;
        handle.offset = ptr - extent->base;
        handle.bytes = block ? block->bytes : extent->bytes;
    }
    if (block)
        pthread_mutex_unlock(&heap->lock);
    if (!suitable)
        return CUDA_ERROR_INVALID_VALUE;
    if (!shared)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(out, 0, sizeof *out);
    memcpy(out, &handle, sizeof handle);
    return CUDA_SUCCESS;
}

/* ---- In one word ----------------------------------------------------------------------------- */

/* The share's number, where in its pages (in units of OFFSET_UNIT, to the end of one), and the low
 * bits of its nonce, which is never 0 in them. */
enum { NUMBER_BITS = 16, OFFSET_BITS = 13, OFFSET_UNIT = 256 };
_Static_assert(SIM_SHARES_MAX <= 1 << NUMBER_BITS, "a share's number has so many bits");
#define NONCE_MASK (UINT64_MAX >> (NUMBER_BITS + OFFSET_BITS))

uint64_t sim_ipc_pack(const CUipcMemHandle *in) {
    struct handle handle;
    memcpy(&handle, in, sizeof handle);
    return handle.name.number | handle.offset / OFFSET_UNIT << NUMBER_BITS |
           (handle.name.nonce & NONCE_MASK) << (NUMBER_BITS + OFFSET_BITS);
}

bool sim_ipc_unpack(uint64_t word, CUipcMemHandle *out) {
    struct handle handle = {
        .magic = IPC_MAGIC,
        .state = state_key(),
        .name = {.number = (uint32_t)(word & (SIM_SHARES_MAX - 1))},
        .offset = (word >> NUMBER_BITS & ((1u << OFFSET_BITS) - 1)) * OFFSET_UNIT,
        .owner = UINT32_MAX, /* not told: a process may open its own */
    };
    const struct sim_share *record = sim_share_record(sim_state, &handle.name);
    /* Acquire: of a share that lives all is seen. Whether it is the same is looked at under its
     * lock once more. */
    uint64_t status = atomic_load_explicit(&record->status, memory_order_acquire);
    handle.name.nonce = status >> 2;
    handle.name.device = record->device;
    if (sim_share_status_of(status) != SIM_SHARE_LIVE || record->kind != SIM_SHARE_IPC ||
        (handle.name.nonce & NONCE_MASK) != word >> (NUMBER_BITS + OFFSET_BITS))
        return false;
    memset(out, 0, sizeof *out);
    memcpy(out, &handle, sizeof handle);
    return true;
}

/* ---- Opening ------------------------------------------------------------------------------- */

/* The extent in which the share is open for this context already, or NULL. */
static struct extent *find_opened(const struct handle *handle, const struct sim_context *ctx) {
    for (struct extent *extent = opened_extents; extent; extent = extent->next)
        if (extent->share.nonce == handle->name.nonce &&
            extent->share.number == handle->name.number && extent->ctx == ctx)
            return extent;
    return NULL;
}

static CUresult open_pages(const struct handle *handle, struct sim_context *ctx,
                           struct extent **out) {
    if (!share_acquire(&handle->name))
        return CUDA_ERROR_INVALID_VALUE; /* it is gone */
    struct extent *extent = extent_new(EXTENT_IPC, handle->name.device);
    if (extent && sim_share_frames(sim_state, &handle->name, &extent->frames)) {
        extent->share = handle->name;
        extent->ctx = ctx;
        extent->id = memory_next_id();
        bool apart = extent_find((CUdeviceptr)sim_state->vram[extent->physical] +
                                 ((uint64_t)sim_frames_runs(&extent->frames)[0].first
                                  << sim_devices[extent->physical].page_shift)) != NULL;
        if (extent_place(extent, apart)) {
            extent->bytes = sim_share_record(sim_state, &handle->name)->bytes;
            extent->next = opened_extents;
            opened_extents = extent;
            *out = extent;
            return CUDA_SUCCESS;
        }
    }
    if (extent)
        extent_free(extent);
    share_release(&handle->name);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static void close_pages(struct extent *extent) {
    struct extent **link = &opened_extents;
    while (*link != extent)
        link = &(*link)->next;
    *link = extent->next;
}

/* Counts one more opening at the offset. */
static bool count_open(struct extent *extent, uint64_t offset) {
    struct opened *opened = extent->owner;
    while (opened && opened->offset != offset)
        opened = opened->next;
    if (!opened) {
        opened = malloc(sizeof *opened);
        if (!opened)
            return false;
        *opened = (struct opened){extent->owner, offset, 0};
        extent->owner = opened;
    }
    opened->count++;
    return true;
}

static CUresult open_locked(const struct handle *handle, struct sim_context *ctx,
                            CUdeviceptr *ptr) {
    struct extent *extent = find_opened(handle, ctx);
    CUresult result = extent ? CUDA_SUCCESS : open_pages(handle, ctx, &extent);
    if (result != CUDA_SUCCESS)
        return result;
    if (handle->offset >= extent->bytes || handle->bytes > extent->bytes - handle->offset)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (!count_open(extent, handle->offset))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else
        *ptr = extent->base + handle->offset;
    if (result != CUDA_SUCCESS && !extent->owner) {
        close_pages(extent);
        (void)extent_withdraw(extent);
        extent_release(extent);
    }
    return result;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *ptr, CUipcMemHandle in, unsigned flags) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct handle handle;
    memcpy(&handle, &in, sizeof handle);
    if (!ptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || handle.magic != IPC_MAGIC ||
        handle.state != state_key() || handle.name.device >= sim_state->node->device_count)
        return CUDA_ERROR_INVALID_VALUE;
    if (handle.owner == sim_state->slot &&
        handle.holding == own_holding()) /* a process cannot open its own */
        return CUDA_ERROR_INVALID_CONTEXT;
    CUdevice home = sim_device_ordinal(handle.name.device);
    if (home < 0)
        return CUDA_ERROR_INVALID_DEVICE;
    if (home != ctx->dev && !sim_device_peers(ctx->dev, home))
        return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&ipc_lock);
    result = open_locked(&handle, ctx->owner, ptr);
    pthread_mutex_unlock(&ipc_lock);
    return result;
}

CUresult cuIpcOpenMemHandle(CUdeviceptr *ptr, CUipcMemHandle handle, unsigned flags) {
    return cuIpcOpenMemHandle_v2(ptr, handle, flags);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr ptr) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct extent *extent = extent_find(ptr);
    if (!extent || extent->kind != EXTENT_IPC)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    sim_exec_drain(sim_devices[extent->physical].dev);
    sim_exec_drain(ctx->dev);
    pthread_mutex_lock(&ipc_lock);
    struct opened **link = NULL;
    if (extent_find(ptr) == extent && extent->kind == EXTENT_IPC) {
        link = (struct opened **)&extent->owner;
        while (*link && (*link)->offset != ptr - extent->base)
            link = &(*link)->next;
    }
    if (!link || !*link) {
        pthread_mutex_unlock(&ipc_lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    struct opened *opened = *link;
    if (--opened->count == 0) {
        *link = opened->next;
        free(opened);
    }
    if (!extent->owner) {
        close_pages(extent);
        (void)extent_withdraw(extent);
        extent_release(extent);
    }
    pthread_mutex_unlock(&ipc_lock);
    return CUDA_SUCCESS;
}

void ipc_context_fini(const struct sim_context *ctx) {
    pthread_mutex_lock(&ipc_lock);
    for (struct extent **link = &opened_extents; *link;) {
        struct extent *extent = *link;
        if (extent->ctx != ctx) {
            link = &extent->next;
            continue;
        }
        *link = extent->next;
        while (extent->owner) {
            struct opened *opened = extent->owner;
            extent->owner = opened->next;
            free(opened);
        }
        (void)extent_withdraw(extent);
        extent_release(extent);
    }
    pthread_mutex_unlock(&ipc_lock);
}
