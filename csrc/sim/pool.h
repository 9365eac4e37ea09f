/* What the files about memory pools know of each other. */
#ifndef ALIQUOT_SIM_POOL_H
#define ALIQUOT_SIM_POOL_H

#include "memory.h"

/* A pool; CUmemoryPool points to it. Structs are recycled, never freed. Under `heap.lock` unless
 * said otherwise. */
struct pool {
    struct heap heap;
    CUmemPoolProps props; /* constant */
    uint32_t physical;    /* constant; SIM_DEVICES_MAX: host memory */
    CUdevice dev;         /* constant; CU_DEVICE_CPU for host memory */
    uint64_t page, chunk; /* constant: reservations grow in pages, by at least a chunk */
    bool builtin;         /* constant: a default pool */
    bool imported;        /* constant: another process's; hands out nothing */
    bool destroyed;
    uint64_t threshold;
    uint64_t reserved, reserved_high;
    uint64_t used, used_high;
    int follow_events, opportunistic, internal_dependencies;
    CUmemAccess_flags access[SIM_DEVICES_MAX]; /* by ordinal */
    struct pool_free *pending;                 /* asynchronous frees under way, newest first */
    uint32_t queued;             /* streams' calls that will come, reused blocks' included */
    struct sim_share_name share; /* what its descriptors stand for; nonce 0: none */
    uint32_t imports;            /* pointers imported into it */
    struct pool *next;           /* in the list of living ones: pools_lock */
};

/* cuMemFreeAsync under way. Under the pool's heap.lock. */
struct pool_free {
    struct pool *pool;
    struct block *block; /* NULL: reused in its stream before its time came */
    const void *stream;
    struct pool_free *before, *after;
};

/* The living pool behind a handle, or NULL. */
struct pool *pool_get(CUmemoryPool handle);
/* Errors: INVALID_VALUE, INVALID_DEVICE, NOT_SUPPORTED (handle types), OUT_OF_MEMORY. */
CUresult pool_check_props(const CUmemPoolProps *props);
CUresult pool_make(const CUmemPoolProps *props, bool builtin, struct pool **pool);
/* Memory for work of `stream` (NULL: of none). Errors: OUT_OF_MEMORY. */
CUresult pool_take(struct pool *pool, uint64_t bytes, const void *stream, CUdeviceptr *ptr);
/* Gives wholly free chunks back until at most `keep` bytes are reserved. */
void pool_trim(struct pool *pool, uint64_t keep);
/* The handle is gone; the pool ends with its last allocation. */
void pool_abandon(struct pool *pool);
/* Starts an asynchronous free of the exact address. Errors: INVALID_VALUE, OUT_OF_MEMORY. */
CUresult pool_free_later(struct extent *extent, CUdeviceptr ptr, void *stream);
/* One import fewer; an abandoned pool ends with the last. */
void pool_import_gone(struct pool *pool);

#endif
