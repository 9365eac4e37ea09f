/* What the parts of the simulated driver know of each other: the process, contexts, devices,
 * look-ups of memory, arrays, costs and the log.
 */
#ifndef ALIQUOT_SIM_H
#define ALIQUOT_SIM_H

#include <cuda.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "state.h"

/* ---- Contexts ------------------------------------------------------------------------------ */

/* A context; CUcontext points to it. Structs are recycled, never unmapped: a handle is alive when
 * it lies in the table and `serial` is not 0. */
struct sim_context {
    _Atomic uint32_t serial; /* 0: destroyed; unique in the process otherwise */
    CUdevice dev;            /* ordinal as the process sees it */
    uint32_t physical;       /* index of the device in the state */
    unsigned flags;          /* CU_CTX_* */
    bool primary;
    bool green;
    struct sim_context *owner; /* whom memory and modules belong to: itself; a green context's
                                * primary context */
    uint64_t id;               /* cuCtxGetId */
    int priority_greatest;     /* cuCtxGetStreamPriorityRange: numerically lowest */
    void *exec;                /* exec_context.c */
    void *modules;             /* module.c */
    void *storage;             /* context-local storage of cuGetExportTable: context_storage.c */
    struct sim_context_memory *memory; /* limits, charged pages, peers: context.c */
};

/* The calling thread's stack of contexts; `current` is its top or NULL. */
struct sim_thread {
    struct sim_context *current;
    uint32_t serial; /* of `current` when it was pushed */
    uint32_t depth;
    struct sim_thread_stack *stack; /* what lies below, or NULL */
};
extern _Thread_local struct sim_thread sim_thread __attribute__((tls_model("initial-exec")));

/* 1 once cuInit has succeeded; in a page that a fork wipes, so that a child reads 0. */
extern const _Atomic uint32_t *sim_alive;
/* Why not, where *sim_alive is 0. NOT_INITIALIZED (also in a forked child). */
CUresult sim_not_ready(void);

/* What every call takes of the host's time, beside what it takes as the call that it is. */
extern uint64_t sim_call_ns;

/* The entry of a call: initialised and not a forked child? Errors: NOT_INITIALIZED. */
static inline CUresult sim_ready(void) {
    /* Acquire pairs with the release in cuInit: what it set up is seen. */
    if (!atomic_load_explicit(sim_alive, memory_order_acquire))
        return sim_not_ready();
    if (sim_call_ns)
        sim_cost_wait(sim_call_ns);
    return CUDA_SUCCESS;
}
/* sim_ready, and the thread has a living current context: put into *ctx.
 * Errors: NOT_INITIALIZED, INVALID_CONTEXT (none), CONTEXT_IS_DESTROYED. */
static inline CUresult sim_enter(struct sim_context **ctx) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_context *current = sim_thread.current;
    if (!current)
        return CUDA_ERROR_INVALID_CONTEXT;
    /* Relaxed: whether the context dies during the call is the caller's affair. */
    if (atomic_load_explicit(&current->serial, memory_order_relaxed) != sim_thread.serial)
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *ctx = current;
    return CUDA_SUCCESS;
}

/* The living context behind a handle, or NULL. Takes any value. */
struct sim_context *sim_context_get(CUcontext handle);
/* Calls fn for every living context, green ones left out, until it answers false. Contexts are
 * neither made nor destroyed meanwhile; fn must do neither. */
void sim_context_each(bool (*fn)(struct sim_context *ctx, void *arg), void *arg);
/* The living primary context of a device, or NULL. */
struct sim_context *sim_context_primary(CUdevice dev);
/* Makes `ctx` the calling thread's top (as cuCtxPushCurrent / cuCtxPopCurrent), for calls that act
 * in a stream's or a handle's context. */
CUresult sim_context_push(struct sim_context *ctx);
void sim_context_pop(void);

/* Charges the context `delta` bytes of image memory (negative: gives back). The sum over its
 * modules and libraries is rounded up to pages. Errors: OUT_OF_MEMORY, nothing changed then. */
CUresult sim_context_module_bytes(struct sim_context *ctx, int64_t delta);

/* ---- The process --------------------------------------------------------------------------- */

/* Whose driver this library is; each library defines it. What CUDA calls a thing is what the files here
 * call it: another vendor's library has its own functions over them. */
struct sim_driver {
    enum sim_vendor vendor; /* whose devices it shows */
    const char *visible;    /* the environment variable that says which of them */
};
extern const struct sim_driver sim_driver;

/* The state; valid once sim_ready(). `sim_state->slot` is the process's number on the node. */
extern struct sim_state *sim_state;
/* Devices that the process sees (CUDA_VISIBLE_DEVICES), and one's configuration; dev must be in
 * [0, sim_device_count()). */
int sim_device_count(void);
extern const struct sim_device_config *sim_device_configs[SIM_DEVICES_MAX];
static inline const struct sim_device_config *sim_device_config(CUdevice dev) {
    return sim_device_configs[dev];
}
/* Index in the state of the device that the process calls `dev`. */
uint32_t sim_device_physical(CUdevice dev);
/* Whether a device can reach another's memory: NVLink between them. */
bool sim_device_peers(CUdevice dev, CUdevice peer);
/* A device's attribute as cuDeviceGetAttribute gives it. Errors: INVALID_VALUE. */
CUresult sim_device_attribute(CUdevice dev, CUdevice_attribute attribute, int *value);

/* Spends a call's host cost as device `dev` has it; nothing when 0. */
static inline void sim_cost(CUdevice dev, enum sim_cost cost) {
    uint64_t ns = sim_device_config(dev)->cost_ns[cost];
    if (ns)
        sim_cost_wait(ns);
}

/* One line to ALIQUOT_SIM_LOG, with time and pid; nothing when it is not set. */
void sim_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* NOT_SUPPORTED, and one line in the log the first time for each name. `name` is a literal. */
CUresult sim_unsupported(const char *name);

/* ---- Handles ------------------------------------------------------------------------------- */

/* A set of living handles of any kind, so that stale and foreign ones are recognised without
 * touching what they point to. Constant time; thread-safe. */
enum sim_handle_kind {
    SIM_HANDLE_ARRAY = 1,
    SIM_HANDLE_MIPMAP,
    SIM_HANDLE_POOL,
    SIM_HANDLE_VMM,
    SIM_HANDLE_GREEN,
    SIM_HANDLE_RESOURCE_DESC,
    SIM_HANDLE_NOTIFICATION,
    SIM_HANDLE_LOG_CALLBACK,
    SIM_HANDLE_EXTERNAL_MEMORY,
    SIM_HANDLE_EXTERNAL_SEMAPHORE,
    SIM_HANDLE_TEXTURE,
    SIM_HANDLE_SURFACE,
    SIM_HANDLE_USER, /* and above: other parts' own */
};
bool sim_handle_add(enum sim_handle_kind kind, const void *handle);  /* false: no host memory */
bool sim_handle_drop(enum sim_handle_kind kind, const void *handle); /* false: was not there */
bool sim_handle_check(enum sim_handle_kind kind, const void *handle);

/* ---- Memory -------------------------------------------------------------------------------- */

enum sim_memory_kind {
    SIM_MEMORY_NONE,
    SIM_MEMORY_LINEAR, /* cuMemAlloc, pitch, opened IPC handles, external memory */
    SIM_MEMORY_MANAGED,
    SIM_MEMORY_POOL,       /* cuMemAllocAsync and imported pool pointers */
    SIM_MEMORY_GRAPH,      /* graph memory nodes */
    SIM_MEMORY_VMM,        /* mapped by cuMemMap */
    SIM_MEMORY_MODULE,     /* sim_device_alloc_internal */
    SIM_MEMORY_HOST,       /* cuMemHostAlloc, cuMemAllocHost */
    SIM_MEMORY_REGISTERED, /* cuMemHostRegister */
};

/* The allocation that an address lies in. Device addresses are host addresses too: bytes at
 * `base` are read and written by the CPU at (void *)base. */
struct sim_memory_info {
    enum sim_memory_kind kind;
    CUdevice dev;            /* where it lives (ordinal); CU_DEVICE_CPU for host memory */
    CUdeviceptr base;        /* first byte of the allocation; of the mapping for VMM */
    size_t bytes;            /* as asked for */
    struct sim_context *ctx; /* whose it is; NULL for VMM, pools and graphs */
    uint64_t id;             /* CU_POINTER_ATTRIBUTE_BUFFER_ID */
    unsigned flags;          /* CU_MEMHOSTALLOC_*, CU_MEMHOSTREGISTER_*, CU_MEM_ATTACH_* */
    CUmemoryPool pool;       /* NULL unless POOL */
};
/* Finds the allocation around `ptr`. False for memory that the driver does not know (ordinary
 * host memory) and for reserved but unmapped addresses. */
bool sim_memory_find(CUdeviceptr ptr, struct sim_memory_info *info);
/* Whether [ptr, ptr + bytes) is device-reachable memory of this process, neighbouring VMM mappings
 * joined; `write`: writable too. For the checks of a call. Errors: INVALID_VALUE. */
CUresult sim_memory_check(CUdeviceptr ptr, size_t bytes, bool write);
/* To be called where bytes are about to be written (on the engine thread, at execution), for any
 * address that may be device memory: remembers that the pages are not zero any more. False when
 * device memory in the range is no longer allocated (nothing must be written then). Host addresses
 * that the driver does not know are fine. */
bool sim_memory_touch(CUdeviceptr ptr, size_t bytes);

/* What cuMemAdvise and prefetches say of a managed allocation, checked by the caller, for the range
 * attributes. Errors: OUT_OF_MEMORY (host). */
CUresult sim_managed_advised(CUdeviceptr ptr, CUmem_advise advice, CUmemLocation location);
void sim_managed_prefetched(CUdeviceptr ptr, CUmemLocation location);

/* Memory of the driver's own, zeroed, found by sim_memory_find as MODULE memory of `ctx`, not
 * counted (module globals are part of the image bytes). Aligned to 512. Freed with the context at
 * the latest. Errors: OUT_OF_MEMORY. */
CUresult sim_device_alloc_internal(struct sim_context *ctx, size_t bytes, CUdeviceptr *ptr);
void sim_device_free_internal(struct sim_context *ctx, CUdeviceptr ptr);

/* What a CUarray points to. Row `y` of slice `z` (layers and faces are slices) starts at
 * base + z * slice_bytes + y * pitch. Fields do not change while the array lives. */
struct sim_array {
    CUdevice dev;
    CUdeviceptr base;   /* 0 for sparse and deferred-mapping arrays */
    size_t pitch;       /* bytes from row to row */
    size_t slice_bytes; /* bytes from slice to slice */
    size_t bytes;       /* of the whole array, padded */
    size_t row_bytes;   /* Width * element_bytes, unpadded */
    size_t element_bytes;
    size_t width, height, depth;  /* elements; height and depth at least 1; layers in depth */
    CUDA_ARRAY3D_DESCRIPTOR desc; /* as asked for */
    struct sim_context *ctx;
    struct sim_mipmap *mipmap; /* whose level it is, or NULL */
    struct sim_array_memory *memory;
};
/* The living array behind a handle, or NULL. Takes any value. */
struct sim_array *sim_array_get(CUarray handle);

/* A promise of sim_graph_memory_back (exec.h) that no launch will use: the launch failed, or it was
 * an upload. The pages stay until they are trimmed or another graph needs them. */
void sim_graph_memory_unback(int dev, CUdeviceptr ptr);

/* Frames, pools: called by the execution half at the end of every synchronisation through
 * sim_exec_on_sync; here so that tests can call it. `dev` is the device that was waited for. */
void sim_pool_trim_all(CUdevice dev);

/* Code of a library above the driver, which the program knows nothing of: it takes nothing of the device, no
 * time, and no part in captures. Errors: as cuModuleLoadData. */
CUresult sim_module_load_own(const char *ptx, CUmodule *module);

/* The pools that the program made of a device end at once, with all that they gave: for libraries whose
 * pools go with their device. Nothing of the device is under way. */
void sim_pools_end(CUdevice dev);

#endif
