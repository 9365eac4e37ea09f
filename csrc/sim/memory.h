/* What the files of the memory half know of each other: address ranges, heaps, and who frees what.
 */
#ifndef ALIQUOT_SIM_MEMORY_H
#define ALIQUOT_SIM_MEMORY_H

#include "sim.h"

#include <pthread.h>

/* ---- Heaps: allocations that share pages (heap.c) ------------------------------------------ */

enum {
    HEAP_UNIT = 512, /* bytes; alignment and least size */
    HEAP_UNIT_SHIFT = 9,
    HEAP_PAGE_SHIFT = 21, /* how much of a chunk one look-up page covers, whatever the device's */
    HEAP_PAGE_UNITS = 1 << (HEAP_PAGE_SHIFT - HEAP_UNIT_SHIFT),
    HEAP_FIRST = 29,  /* size classes: powers of two, */
    HEAP_SECOND = 16, /* each in sixteen steps */
};

struct extent;

/* A piece of a chunk, live or free; one cache line. Never returned to the host's allocator, so that
 * a stale number can be followed and found stale. Blocks are told by numbers, 0: none. */
struct block {
    CUdeviceptr address;
    uint64_t bytes; /* asked for; 0: free */
    struct extent *chunk;
    uint32_t units;
    uint32_t flags;         /* BLOCK_* */
    uint32_t before, after; /* neighbours in the chunk; unused ones: the next unused */
    union {
        struct {
            uint32_t before, after; /* in its size class */
        } same;
        struct {
            struct sim_context *ctx;
            uint64_t id;
        } live;
    };
    struct pool_free *pending; /* an asynchronous free under way (pool.c), or NULL */
};
_Static_assert(sizeof(struct block) == 64, "a block is a cache line");
/* CU_MEM_ATTACH_* above the shift; FREEING: cuMemFreeAsync of linear memory is under way. */
enum { BLOCK_MANAGED = 1, BLOCK_FREEING = 2, BLOCK_ATTACH_SHIFT = 8 };

/* All blocks of the process, in one reserved range. */
extern struct block *heap_blocks;
static inline struct block *heap_block(uint32_t number) { return &heap_blocks[number]; }

/* Where the live blocks of 2 MiB of a chunk begin. */
struct chunk_page {
    uint64_t starts[HEAP_PAGE_UNITS / 64];
    uint32_t blocks[HEAP_PAGE_UNITS]; /* valid where `starts` has a bit */
    struct chunk_page *next;          /* unused ones */
};

/* What an extent has when it is cut into blocks. A page is made when a block begins in it. */
struct chunk {
    struct chunk_page *page;   /* the only one of a chunk of 2 MiB or less; NULL else */
    struct chunk_page **pages; /* of larger chunks */
    uint32_t *cover;           /* by page: the live block that reaches into it, or 0 */
    uint32_t page_count;
    uint32_t live; /* blocks */
    uint32_t first;
    struct extent *before, *after; /* in the heap */
};

/* All under `lock`. */
struct heap {
    pthread_mutex_t lock;
    uint32_t first_map; /* bit per power of two with a free block */
    uint32_t second_map[HEAP_FIRST];
    uint32_t free[HEAP_FIRST][HEAP_SECOND];
    uint32_t spare;                /* unused blocks, linked by `after` */
    struct chunk_page *spare_page; /* one without a start, or NULL */
    struct extent *chunks;
    uint64_t live; /* blocks */
};

/* Reserves what all heaps share; again does nothing. False: no addresses. */
bool heaps_init(void);
void heap_init(struct heap *heap);
/* The heap's chunks are all gone: frees its bookkeeping. */
void heap_fini(struct heap *heap);
/* Makes an extent a chunk, wholly free. False: no host memory. */
bool heap_add(struct heap *heap, struct extent *chunk);
/* Takes a wholly free chunk out. */
void heap_remove(struct heap *heap, struct extent *chunk);
/* A live block of at least `bytes` (not 0), or NULL: no free one is large enough. Sets *no_memory
 * when it is the host's memory that is lacking. */
struct block *heap_take(struct heap *heap, uint64_t bytes, bool *no_memory);
/* Frees a live block. Returns whether its chunk is wholly free now. */
bool heap_give(struct heap *heap, struct block *block);
/* The live block around an address of the chunk, or NULL. */
struct block *heap_find(const struct extent *chunk, CUdeviceptr address);

/* ---- Extents: ranges of addresses (extent.c) ----------------------------------------------- */

enum extent_kind {
    EXTENT_LINEAR,   /* one allocation of whole pages */
    EXTENT_SMALL,    /* a page shared by small allocations */
    EXTENT_POOL,     /* a chunk of a pool */
    EXTENT_GRAPH,    /* a graph's allocation node */
    EXTENT_VMM,      /* a mapping of a VMM handle */
    EXTENT_IPC,      /* opened IPC handle */
    EXTENT_IMPORT,   /* pointer of an imported pool */
    EXTENT_EXTERNAL, /* buffer of imported external memory */
    EXTENT_ARRAY,    /* not addressable by pointer */
    EXTENT_MODULE,   /* the driver's own */
    EXTENT_HOST,     /* cuMemHostAlloc */
    EXTENT_REGISTERED,
};

/* A range of addresses and what is behind it. Structs are recycled, never freed, so a look-up that
 * races with a free reads a stale extent, not foreign memory. */
struct extent {
    CUdeviceptr base;
    uint64_t span; /* bytes of addresses */
    enum extent_kind kind;
    uint32_t physical;  /* device, or SIM_DEVICES_MAX: host memory */
    struct heap *heap;  /* that it is a chunk of, or NULL; not freed before the process ends */
    struct chunk chunk; /* when it is one */
    uint64_t bytes;     /* asked for */
    unsigned flags;     /* CU_MEMHOST…, CU_MEM_ATTACH_… */
    bool managed;
    _Atomic bool freeing;             /* cuMemFreeAsync of linear memory is under way */
    bool in_window;                   /* base is the place of its only run in the window */
    bool backed;                      /* false: reserved addresses only (graphs) */
    bool sync_memops;                 /* CU_POINTER_ATTRIBUTE_SYNC_MEMOPS */
    uint32_t readable, writable;      /* bit per ordinal: VMM access */
    uint32_t uses;                    /* of an opened IPC handle; launches of a graph */
    struct sim_frames frames;         /* its own; empty for what others own */
    const struct sim_frames *backing; /* NULL: `frames`; else a VMM handle's, */
    uint64_t backing_offset;          /* from this byte on */
    struct sim_share_name share;      /* nonce 0: private */
    struct sim_context *ctx;          /* owner, or NULL */
    uint64_t id;
    CUmemoryPool pool;           /* that it was imported into, or NULL */
    void *owner;                 /* pool, VMM handle, graph node, array: the kind's own */
    struct extent *left, *right; /* in the tree of what lies outside the window */
    struct extent *next;         /* in whatever list its kind keeps */
};

/* One device's memory as this process sees it. By index in the state. */
struct device_memory {
    uint32_t physical;
    CUdevice dev; /* ordinal, -1: not visible */
    unsigned page_shift;
    uint64_t page;
    uint64_t small_limit;          /* allocations up to it share pages */
    struct extent *_Atomic *pages; /* by frame: what of ours lies there */
    struct heap small;
    struct extent *spare; /* an unused EXTENT_SMALL, or NULL: small.lock */
    uint64_t next_id;     /* of small allocations: small.lock */
};
extern struct device_memory sim_devices[SIM_DEVICES_MAX];

static inline struct device_memory *device_memory_of(CUdevice dev) {
    return &sim_devices[sim_device_physical(dev)];
}
static inline uint64_t pages_of(const struct device_memory *device, uint64_t bytes) {
    return (bytes >> device->page_shift) + ((bytes & (device->page - 1)) != 0);
}
/* Ordinal of a device, or -1 when the process does not see it. */
CUdevice sim_device_ordinal(uint32_t physical);

/* Called by cuInit. Errors: OUT_OF_MEMORY (host). */
CUresult sim_memory_init(void);

/* An empty extent, or NULL. */
struct extent *extent_new(enum extent_kind kind, uint32_t physical);
void extent_free(struct extent *extent);
/* Gives the extent's frames addresses: their place in the window when they are one run and are not
 * to lie `apart`, else a mapping of their own; and makes the range known. Errors: false (no
 * addresses left). */
bool extent_place(struct extent *extent, bool apart);
/* Makes an extent known that has its addresses already (host memory, VMM mappings). */
void extent_publish(struct extent *extent);
/* Makes it unknown. False when somebody else has done that: then it is his to free. */
bool extent_withdraw(struct extent *extent);
/* Undoes extent_place after extent_withdraw: addresses, then frames or the share go. */
void extent_release(struct extent *extent);
/* The extent around an address, or NULL. */
struct extent *extent_find(CUdeviceptr address);
/* An extent outside the window that overlaps [base, base + bytes), or NULL. */
struct extent *extent_in_range(CUdeviceptr base, uint64_t bytes);
/* Makes an extent known unless one that is known overlaps it. */
bool extent_publish_alone(struct extent *extent);
/* The extents that go with a context are withdrawn and put on a list (by `next`). */
struct extent *extent_withdraw_context(const struct sim_context *ctx);
static inline const struct sim_frames *extent_frames(const struct extent *extent) {
    return extent->backing ? extent->backing : &extent->frames;
}
/* The frame behind a byte of an extent that has frames. */
uint32_t extent_frame(const struct extent *extent, uint64_t offset);

/* Reserves addresses that nothing is behind; aligned to `align`, a power of two. 0: none left. */
CUdeviceptr addresses_reserve(uint64_t bytes, uint64_t align, CUdeviceptr wish);
void addresses_release(CUdeviceptr base, uint64_t bytes);
/* Maps frames at reserved addresses, from page `skip` on. False: the kernel refuses. */
bool addresses_map(CUdeviceptr base, uint32_t physical, const struct sim_frames *frames,
                   uint64_t skip, uint64_t pages);
/* Puts the reservation back in place of a mapping. */
void addresses_unmap(CUdeviceptr base, uint64_t bytes);

/* Makes a share that this process uses once. False: too many on the node. */
bool share_make(uint32_t device, enum sim_share_kind kind, const struct sim_frames *frames,
                uint64_t bytes, const uint32_t detail[4], struct sim_share_name *name);
/* Uses a share once more; it may be another process's. False: it is gone. */
bool share_acquire(const struct sim_share_name *name);
/* Ends one use; with the last, the process's part in the share. */
void share_release(const struct sim_share_name *name);

/* ---- Linear memory (memory.c) -------------------------------------------------------------- */

struct sim_memory_want {
    struct sim_context *ctx;
    bool managed;
    unsigned flags;
};
CUresult memory_alloc(const struct sim_memory_want *want, uint64_t bytes, CUdeviceptr *ptr);
/* cuMemFreeAsync of linear memory: it goes when the stream has got there.
 * Errors: INVALID_VALUE, OUT_OF_MEMORY. */
CUresult memory_free_later(struct extent *extent, CUdeviceptr ptr, void *stream);
/* Zeroes what an earlier tenant may have written in device memory that is given out again. No kernel
 * is computed here: a program that reads a result before anything wrote it finds zeros, which are
 * sound counts and sizes, where it would find its own old bytes. Untouched pages cost a look. */
void memory_wipe(const struct extent *extent, CUdeviceptr ptr, uint64_t bytes);
/* Frees everything of a context that goes. */
void memory_context_fini(struct sim_context *ctx);
/* A number that no other allocation of the process has. */
uint64_t memory_next_id(void);
/* Pages of a context, charged and not addressable: `charge` follows `pages`.
 * Errors: OUT_OF_MEMORY, nothing changed. */
CUresult memory_charge(uint32_t physical, struct sim_frames *charge, uint64_t pages);

/* ---- What frees what of another file ------------------------------------------------------- */

/* cuMemFree of a pool's pointer, at once; cuMemFree of a graph's. Errors: INVALID_VALUE. */
CUresult pool_free_now(struct extent *extent, CUdeviceptr ptr);
CUresult graph_free_now(struct extent *extent, CUdeviceptr ptr);
CUresult pool_drop_import(struct extent *extent, CUdeviceptr ptr);
CUresult external_free_now(struct extent *extent, CUdeviceptr ptr);
/* The same when the stream (a struct sim_stream) comes to it. Errors: also OUT_OF_MEMORY. */
CUresult graph_free_later(struct extent *extent, CUdeviceptr ptr, void *stream);
CUresult pool_drop_import_later(struct extent *extent, CUdeviceptr ptr, void *stream);
/* Called by sim_memory_init. Errors: OUT_OF_MEMORY (host). */
CUresult pool_init(void);
void external_gone(struct extent *extent);
void host_gone(struct extent *extent);
/* What of a context that goes is not found by its extents alone. */
void ipc_context_fini(const struct sim_context *ctx);
void array_context_fini(const struct sim_context *ctx);

/* The live block around an address of a chunk, its heap locked; NULL, and nothing locked, when
 * there is none. */
struct block *block_lock(CUdeviceptr address, struct heap **heap);

/* ---- IPC handles in one word (ipc.c), for vendors whose own have no more ----------------------- */

/* Never 0. */
uint64_t sim_ipc_pack(const CUipcMemHandle *handle);
/* False: it is none of this node's, or its memory is gone. */
bool sim_ipc_unpack(uint64_t word, CUipcMemHandle *handle);

#endif
