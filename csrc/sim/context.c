/* Contexts: their life, and the stack of them that each thread has. */
#include "context.h"

#include "exec.h"
#include "image.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CONTEXTS_MAX = 65536 };

/* The structs lie in one range that is never unmapped: the first are the devices' primary ones. */
static struct {
    pthread_rwlock_t lock; /* write: while a context is made or marked as ended */
    struct sim_context *all;
    uint32_t high;                       /* structs ever used */
    struct sim_context *oldest, *newest; /* ended ones, by `owner`, reused in that order */
    _Atomic uint32_t last_serial;
} contexts = {.lock = PTHREAD_RWLOCK_INITIALIZER};

static struct {
    pthread_mutex_t lock; /* guards the rest; taken before contexts.lock */
    uint32_t retained;
    unsigned flags;
} primaries[SIM_DEVICES_MAX] = {[0 ... SIM_DEVICES_MAX - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};

/* ---- Handles ------------------------------------------------------------------------------- */

static bool is_place(const struct sim_context *ctx) {
    uintptr_t offset = (uintptr_t)ctx - (uintptr_t)contexts.all;
    return offset < CONTEXTS_MAX * sizeof *ctx && offset % sizeof *ctx == 0;
}

static bool alive(const struct sim_context *ctx) {
    /* Acquire pairs with the release in context_make: the struct is whole. */
    return atomic_load_explicit(&ctx->serial, memory_order_acquire) != 0;
}

struct sim_context *sim_context_get(CUcontext handle) {
    struct sim_context *ctx = (struct sim_context *)handle;
    return is_place(ctx) && alive(ctx) ? ctx : NULL;
}

struct sim_context *sim_context_primary(CUdevice dev) {
    return alive(&contexts.all[dev]) ? &contexts.all[dev] : NULL;
}

CUresult context_resolve(CUcontext handle, struct sim_context **ctx) {
    if (!handle)
        return sim_enter(ctx);
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    *ctx = sim_context_get(handle);
    if (*ctx)
        return CUDA_SUCCESS;
    return is_place((struct sim_context *)handle) ? CUDA_ERROR_CONTEXT_IS_DESTROYED
                                                  : CUDA_ERROR_INVALID_CONTEXT;
}

void sim_context_each(bool (*call)(struct sim_context *ctx, void *arg), void *arg) {
    pthread_rwlock_rdlock(&contexts.lock);
    for (uint32_t c = 0; c < contexts.high; c++) {
        struct sim_context *ctx = &contexts.all[c];
        if (alive(ctx) && !ctx->green && !call(ctx, arg))
            break;
    }
    pthread_rwlock_unlock(&contexts.lock);
}

/* ---- Making and ending --------------------------------------------------------------------- */

bool context_flags_valid(unsigned flags) {
    unsigned sched = flags & CU_CTX_SCHED_MASK;
    return !(flags & ~(unsigned)CU_CTX_FLAGS_MASK) && (sched & (sched - 1)) == 0;
}

CUresult context_init(void) {
    if (contexts.all)
        return CUDA_SUCCESS;
    void *range = mmap(NULL, CONTEXTS_MAX * sizeof *contexts.all, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    contexts.all = range;
    contexts.high = (uint32_t)sim_device_count();
    return CUDA_SUCCESS;
}

static struct sim_context *take_struct(void) {
    /* Fresh ones first, then those that ended longest ago: stale handles stay recognisable. */
    if (contexts.high < CONTEXTS_MAX)
        return &contexts.all[contexts.high++];
    struct sim_context *ctx = contexts.oldest;
    if (ctx)
        contexts.oldest = ctx->owner;
    return ctx;
}

static void give_struct(struct sim_context *ctx) {
    if (ctx->primary)
        return;
    ctx->owner = NULL;
    if (contexts.oldest)
        contexts.newest->owner = ctx;
    else
        contexts.oldest = ctx;
    contexts.newest = ctx;
}

static void free_memory(struct sim_context *ctx) {
    struct sim_context_memory *memory = ctx->memory;
    sim_frames_give(sim_state, ctx->physical, &memory->base);
    sim_frames_give(sim_state, ctx->physical, &memory->heap);
    sim_frames_give(sim_state, ctx->physical, &memory->fifo);
    sim_frames_give(sim_state, ctx->physical, &memory->stack);
    sim_frames_give(sim_state, ctx->physical, &memory->modules);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
    ctx->memory = NULL;
}

/* Memory, then execution, then modules: each may fail, and then what was made before it goes. */
static CUresult fill(struct sim_context *ctx) {
    const struct device_memory *device = &sim_devices[ctx->physical];
    ctx->memory = calloc(1, sizeof *ctx->memory);
    if (!ctx->memory)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_init(&ctx->memory->lock, NULL);
    context_settings_init(ctx);
    CUresult result = CUDA_SUCCESS;
    if (!ctx->green) {
        uint64_t bytes = sim_state->node->devices[ctx->physical].context_bytes;
        result = memory_charge(ctx->physical, &ctx->memory->base, pages_of(device, bytes));
    }
    if (result == CUDA_SUCCESS)
        result = sim_exec_context_init(ctx);
    if (result == CUDA_SUCCESS && !ctx->green) {
        result = sim_modules_context_init(ctx);
        if (result != CUDA_SUCCESS)
            sim_exec_context_fini(ctx);
    }
    if (result != CUDA_SUCCESS)
        free_memory(ctx);
    return result;
}

CUresult context_make(CUdevice dev, unsigned flags, bool primary, struct sim_context *owner,
                      struct sim_context **out) {
    if (!owner)
        sim_cost(dev, SIM_COST_CONTEXT_CREATE);
    pthread_rwlock_wrlock(&contexts.lock);
    struct sim_context *ctx = primary ? &contexts.all[dev] : take_struct();
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    if (ctx) {
        uint32_t serial = atomic_load_explicit(&contexts.last_serial, memory_order_relaxed) + 1;
        serial += !serial;
        atomic_store_explicit(&contexts.last_serial, serial, memory_order_relaxed);
        *ctx = (struct sim_context){.dev = dev,
                                    .physical = sim_device_physical(dev),
                                    .flags = flags,
                                    .primary = primary,
                                    .green = owner != NULL,
                                    .owner = owner ? owner : ctx,
                                    .id = memory_next_id(),
                                    .priority_greatest = -5};
        /* Release pairs with the acquire in alive(). The other halves want it from the start;
         * nobody else knows the handle yet. */
        atomic_store_explicit(&ctx->serial, serial, memory_order_release);
        result = fill(ctx);
        if (result != CUDA_SUCCESS) {
            atomic_store_explicit(&ctx->serial, 0, memory_order_relaxed);
            give_struct(ctx);
        }
    }
    pthread_rwlock_unlock(&contexts.lock);
    if (result == CUDA_SUCCESS)
        *out = ctx;
    return result;
}

CUresult context_end(struct sim_context *ctx) {
    pthread_rwlock_wrlock(&contexts.lock);
    bool mine = alive(ctx);
    /* From here on it is nobody's current context any more. */
    atomic_store_explicit(&ctx->serial, 0, memory_order_relaxed);
    pthread_rwlock_unlock(&contexts.lock);
    if (!mine)
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    if (!ctx->green)
        sim_cost(ctx->dev, SIM_COST_CONTEXT_DESTROY);
    sim_exec_context_fini(ctx);
    if (!ctx->green) {
        sim_modules_context_fini(ctx);
        memory_context_fini(ctx);
    }
    free_memory(ctx);
    pthread_rwlock_wrlock(&contexts.lock);
    give_struct(ctx);
    pthread_rwlock_unlock(&contexts.lock);
    return CUDA_SUCCESS;
}

CUresult sim_context_module_bytes(struct sim_context *ctx, int64_t delta) {
    struct sim_context_memory *memory = ctx->memory;
    const struct device_memory *device = &sim_devices[ctx->physical];
    pthread_mutex_lock(&memory->lock);
    uint64_t bytes = memory->module_bytes + (uint64_t)delta;
    CUresult result = memory_charge(ctx->physical, &memory->modules, pages_of(device, bytes));
    if (result == CUDA_SUCCESS)
        memory->module_bytes = bytes;
    pthread_mutex_unlock(&memory->lock);
    return result;
}

/* ---- Threads ------------------------------------------------------------------------------- */

struct sim_thread_entry {
    struct sim_context *ctx;
    uint32_t serial;
};
struct sim_thread_stack {
    uint32_t room;
    struct sim_thread_entry below[]; /* depth - 1 of them, the lowest first */
};

_Thread_local struct sim_thread sim_thread __attribute__((tls_model("initial-exec")));
static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

static void thread_ends(void *stack) { free(stack); }
static void make_key(void) { (void)pthread_key_create(&thread_key, thread_ends); }

static void set_top(struct sim_context *ctx, uint32_t serial) {
    sim_thread.current = ctx;
    sim_thread.serial = serial;
}

CUresult sim_context_push(struct sim_context *ctx) {
    struct sim_thread *thread = &sim_thread;
    if (thread->depth) {
        struct sim_thread_stack *stack = thread->stack;
        if (!stack || thread->depth > stack->room) {
            uint32_t room = stack ? stack->room * 2 : 8;
            pthread_once(&thread_once, make_key);
            stack = realloc(stack, sizeof *stack + room * sizeof stack->below[0]);
            if (!stack)
                return CUDA_ERROR_OUT_OF_MEMORY;
            stack->room = room;
            thread->stack = stack;
            (void)pthread_setspecific(thread_key, stack);
        }
        stack->below[thread->depth - 1] =
            (struct sim_thread_entry){thread->current, thread->serial};
    }
    thread->depth++;
    set_top(ctx, atomic_load_explicit(&ctx->serial, memory_order_relaxed));
    return CUDA_SUCCESS;
}

void sim_context_pop(void) {
    struct sim_thread *thread = &sim_thread;
    if (!thread->depth)
        return;
    if (--thread->depth) {
        struct sim_thread_entry top = thread->stack->below[thread->depth - 1];
        set_top(top.ctx, top.serial);
    } else {
        set_top(NULL, 0);
    }
}

CUresult cuCtxGetCurrent(CUcontext *out) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    *out = (CUcontext)sim_thread.current;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *dev) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!dev)
        return CUDA_ERROR_INVALID_VALUE;
    *dev = ctx->dev;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice_v2(CUdevice *dev, CUcontext handle) {
    struct sim_context *ctx;
    CUresult result = context_resolve(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!dev)
        return CUDA_ERROR_INVALID_VALUE;
    *dev = ctx->dev;
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext handle) {
    struct sim_context *ctx;
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && !handle)
        result = CUDA_ERROR_INVALID_CONTEXT;
    if (result == CUDA_SUCCESS)
        result = context_resolve(handle, &ctx);
    return result == CUDA_SUCCESS ? sim_context_push(ctx) : result;
}

CUresult cuCtxPopCurrent_v2(CUcontext *out) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_thread.depth)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (out)
        *out = (CUcontext)sim_thread.current;
    sim_context_pop();
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext handle) { return cuCtxPushCurrent_v2(handle); }
CUresult cuCtxPopCurrent(CUcontext *out) { return cuCtxPopCurrent_v2(out); }

CUresult cuCtxSetCurrent(CUcontext handle) {
    struct sim_context *ctx;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!handle) {
        sim_context_pop();
        return CUDA_SUCCESS;
    }
    result = context_resolve(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_thread.depth)
        return sim_context_push(ctx);
    set_top(ctx, atomic_load_explicit(&ctx->serial, memory_order_relaxed));
    return CUDA_SUCCESS;
}

/* ---- Calls on contexts --------------------------------------------------------------------- */

static CUresult create(CUcontext *out, unsigned flags, CUdevice dev) {
    struct sim_context *ctx;
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || !context_flags_valid(flags))
        return CUDA_ERROR_INVALID_VALUE;
    if (dev < 0 || dev >= sim_device_count())
        return CUDA_ERROR_INVALID_DEVICE;
    result = context_make(dev, flags, false, NULL, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    result = sim_context_push(ctx);
    if (result != CUDA_SUCCESS) {
        (void)context_end(ctx);
        return result;
    }
    *out = (CUcontext)ctx;
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate(CUcontext *out, unsigned flags, CUdevice dev) {
    return create(out, flags, dev);
}

CUresult cuCtxCreate_v2(CUcontext *out, unsigned flags, CUdevice dev) {
    return create(out, flags, dev);
}

/* A share of the multiprocessors needs MPS, which is not simulated. */
static CUresult check_affinity(const CUexecAffinityParam *affinity, int count) {
    if (count < 0 || (count && !affinity))
        return CUDA_ERROR_INVALID_VALUE;
    return count ? CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY : CUDA_SUCCESS;
}

CUresult cuCtxCreate_v3(CUcontext *out, CUexecAffinityParam *affinity, int count, unsigned flags,
                        CUdevice dev) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS)
        result = check_affinity(affinity, count);
    return result == CUDA_SUCCESS ? create(out, flags, dev) : result;
}

CUresult cuCtxCreate_v4(CUcontext *out, CUctxCreateParams *params, unsigned flags, CUdevice dev) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && params)
        result = check_affinity(params->execAffinityParams, params->numExecAffinityParams);
    if (result == CUDA_SUCCESS && params && params->cigParams)
        return sim_unsupported("cuCtxCreate_v4 with graphics");
    return result == CUDA_SUCCESS ? create(out, flags, dev) : result;
}

CUresult cuCtxDestroy_v2(CUcontext handle) {
    struct sim_context *ctx;
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && !handle)
        result = CUDA_ERROR_INVALID_CONTEXT;
    if (result == CUDA_SUCCESS)
        result = context_resolve(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (ctx->primary || ctx->green)
        return CUDA_ERROR_INVALID_CONTEXT;
    result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    bool current = sim_thread.current == ctx &&
                   sim_thread.serial == atomic_load_explicit(&ctx->serial, memory_order_relaxed);
    result = context_end(ctx);
    if (result == CUDA_SUCCESS && current)
        sim_context_pop();
    return result;
}

CUresult cuCtxDestroy(CUcontext handle) { return cuCtxDestroy_v2(handle); }

CUresult cuCtxAttach(CUcontext *out, unsigned flags) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out || flags)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&ctx->memory->lock);
    ctx->memory->attached++;
    pthread_mutex_unlock(&ctx->memory->lock);
    *out = (CUcontext)ctx;
    return CUDA_SUCCESS;
}

CUresult cuCtxDetach(CUcontext handle) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if ((CUcontext)ctx != handle) /* it must be the current one */
        return CUDA_ERROR_INVALID_CONTEXT;
    pthread_mutex_lock(&ctx->memory->lock);
    bool last = !ctx->memory->attached;
    ctx->memory->attached -= !last;
    pthread_mutex_unlock(&ctx->memory->lock);
    return last ? cuCtxDestroy_v2(handle) : CUDA_SUCCESS;
}

/* ---- Primary contexts ---------------------------------------------------------------------- */

CUresult context_primary_retain(CUdevice dev, struct sim_context **out) {
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&primaries[dev].lock);
    struct sim_context *ctx = sim_context_primary(dev);
    if (!ctx)
        result = context_make(dev, primaries[dev].flags, true, NULL, &ctx);
    if (result == CUDA_SUCCESS) {
        primaries[dev].retained++;
        *out = ctx;
    }
    pthread_mutex_unlock(&primaries[dev].lock);
    return result;
}

CUresult context_primary_release(CUdevice dev) {
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&primaries[dev].lock);
    struct sim_context *ctx = sim_context_primary(dev);
    if (!primaries[dev].retained)
        result = CUDA_ERROR_INVALID_CONTEXT;
    else if (--primaries[dev].retained == 0 && ctx)
        result = context_end(ctx);
    pthread_mutex_unlock(&primaries[dev].lock);
    return result;
}

static CUresult primary_device(CUdevice dev) {
    CUresult result = sim_ready();
    if (result == CUDA_SUCCESS && (dev < 0 || dev >= sim_device_count()))
        result = CUDA_ERROR_INVALID_DEVICE;
    return result;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice dev) {
    struct sim_context *ctx;
    CUresult result = primary_device(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    result = context_primary_retain(dev, &ctx);
    if (result == CUDA_SUCCESS)
        *out = (CUcontext)ctx;
    return result;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
    CUresult result = primary_device(dev);
    return result == CUDA_SUCCESS ? context_primary_release(dev) : result;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) {
    CUresult result = primary_device(dev);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&primaries[dev].lock);
    struct sim_context *ctx = sim_context_primary(dev);
    if (ctx)
        result = context_end(ctx); /* those who retain it must still release it */
    pthread_mutex_unlock(&primaries[dev].lock);
    return result;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned *flags, int *active) {
    CUresult result = primary_device(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!flags || !active)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&primaries[dev].lock);
    *flags = primaries[dev].flags;
    *active = sim_context_primary(dev) != NULL;
    pthread_mutex_unlock(&primaries[dev].lock);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned flags) {
    CUresult result = primary_device(dev);
    if (result != CUDA_SUCCESS)
        return result;
    if (!context_flags_valid(flags))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&primaries[dev].lock);
    primaries[dev].flags = flags;
    struct sim_context *ctx = sim_context_primary(dev);
    if (ctx)
        ctx->flags = flags;
    pthread_mutex_unlock(&primaries[dev].lock);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice dev) { return cuDevicePrimaryCtxRelease_v2(dev); }
CUresult cuDevicePrimaryCtxReset(CUdevice dev) { return cuDevicePrimaryCtxReset_v2(dev); }
CUresult cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned flags) {
    return cuDevicePrimaryCtxSetFlags_v2(dev, flags);
}
