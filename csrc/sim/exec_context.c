/* A context's half of execution: its streams, and waiting for all of them. */
#include "launch.h"

#include <stdlib.h>

/* ---- Hooks --------------------------------------------------------------------------------- */

enum { HOOKS = 8 };
static void (*_Atomic hooks[HOOKS])(int dev);

void sim_exec_on_sync(void (*hook)(int dev)) {
    for (int i = 0; i < HOOKS; i++) {
        void (*none)(int) = NULL;
        /* Release: pairs with the acquire in sim_exec_synced. */
        if (atomic_compare_exchange_strong_explicit(&hooks[i], &none, hook, memory_order_release,
                                                    memory_order_relaxed) ||
            none == hook)
            return;
    }
}

void sim_exec_synced(CUdevice dev) {
    for (int i = 0; i < HOOKS; i++) {
        void (*hook)(int) = atomic_load_explicit(&hooks[i], memory_order_acquire);
        if (hook == NULL)
            return;
        hook(dev);
    }
}

/* ---- Waiting for many streams -------------------------------------------------------------- */

static struct sim_exec *all; /* E: every context's half */

/* E: how many operations of the stream were queued before the one numbered `ticket`. */
static uint64_t position_before(const struct sim_stream *stream, uint64_t ticket) {
    uint64_t at = sim_stream_head(stream), tail = sim_stream_tail(stream);
    while (at < tail && sim_stream_slot(stream, at)->ticket < ticket)
        at++;
    return at;
}

/* E: a stream of `exec` (NULL: of any context on `dev`) with unfinished work from before `ticket`,
 * and how far it has to come. */
static struct sim_stream *find_unfinished(const struct sim_exec *exec, CUdevice dev,
                                          uint64_t ticket, uint64_t *position) {
    for (const struct sim_exec *one = all; one != NULL; one = one->next) {
        if (exec != NULL ? one != exec : one->dev != dev)
            continue;
        for (struct sim_stream *stream = one->streams; stream; stream = stream->sibling) {
            *position = position_before(stream, ticket);
            if (*position > sim_stream_head(stream))
                return stream;
        }
    }
    return NULL;
}

static void wait_for_all(const struct sim_exec *exec, CUdevice dev) {
    /* Acquire: pairs with the engine's decrement; the effects are seen. */
    if (atomic_load_explicit(&sim_engine.devices[dev].unfinished, memory_order_acquire) == 0)
        return;
    /* What other threads queue from now on is not waited for. */
    uint64_t ticket = atomic_load_explicit(&sim_engine.tickets, memory_order_relaxed);
    for (;;) {
        uint64_t position;
        sim_engine_lock();
        struct sim_stream *stream = find_unfinished(exec, dev, ticket, &position);
        uint64_t id = stream == NULL ? 0 : sim_stream_id(stream);
        sim_engine_unlock();
        if (stream == NULL)
            return;
        sim_stream_wait(stream, id, position);
    }
}

void sim_exec_drain(int dev) { wait_for_all(NULL, dev); }

CUresult sim_exec_context_sync(struct sim_context *ctx) {
    struct sim_exec *exec = sim_exec_of(ctx);
    CUresult result = sim_capture_forbid_context(exec);
    if (result == CUDA_SUCCESS)
        result = sim_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    wait_for_all(exec, exec->dev);
    sim_exec_synced(exec->dev);
    return CUDA_SUCCESS;
}

/* ---- Life ---------------------------------------------------------------------------------- */

CUresult sim_exec_context_init(struct sim_context *ctx) {
    struct sim_exec *exec = calloc(1, sizeof *exec);
    if (exec == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    exec->ctx = ctx;
    exec->config = sim_device_config(ctx->dev);
    exec->dev = ctx->dev;
    exec->serial = atomic_load_explicit(&ctx->serial, memory_order_relaxed);
    exec->owner_serial = atomic_load_explicit(&ctx->owner->serial, memory_order_relaxed);
    exec->blocked_ticket = SIM_NEVER;
    sim_launch_limits_read(exec);
    ctx->exec = exec;
    exec->legacy = sim_stream_make(ctx, CU_STREAM_DEFAULT, 0);
    if (exec->legacy == NULL) {
        ctx->exec = NULL;
        free(exec);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    exec->legacy->legacy = true;
    sim_engine_lock();
    exec->next = all;
    all = exec;
    sim_engine_unlock();
    return CUDA_SUCCESS;
}

/* E: hands everything of a dying context that only waits to the engine, which drops it. */
static void pend_waiting(struct sim_exec *exec) {
    for (struct sim_stream *stream = exec->streams; stream != NULL; stream = stream->sibling) {
        struct sim_item *item = &stream->item;
        if (item->op == NULL)
            continue;
        sim_stream_rescan(stream);
        if (item->op->kind == SIM_OP_GRAPH && item->state == SIM_ITEM_AWAY)
            sim_run_pend(item->op->run);
        else
            sim_engine_drop(item);
    }
}

void sim_exec_context_fini(struct sim_context *ctx) {
    struct sim_exec *exec = sim_exec_of(ctx);
    if (exec == NULL)
        return;
    sim_capture_end_context(exec);
    sim_engine_lock();
    exec->dying = true;
    sim_engine_advance();
    pend_waiting(exec);
    sim_engine_advance();
    sim_engine_retract(exec->dev);
    sim_engine_unlock();
    wait_for_all(exec, exec->dev);
    sim_engine_lock();
    struct sim_exec **link = &all;
    while (*link != exec)
        link = &(*link)->next;
    *link = exec->next;
    struct sim_stream *stream;
    while ((stream = exec->streams) != NULL) {
        sim_engine_unlock();
        sim_stream_unmake(stream);
        sim_engine_lock();
    }
    sim_engine_unlock();
    ctx->exec = NULL;
    sim_fence_drop(exec->gate);
    free(exec);
}

/* ---- cuCtxSynchronize ---------------------------------------------------------------------- */

static CUresult synchronize(struct sim_context *ctx) {
    sim_cost(ctx->dev, SIM_COST_SYNC);
    return sim_exec_context_sync(ctx);
}

CUresult CUDAAPI cuCtxSynchronize(void) {
    struct sim_context *ctx;
    CUresult result = sim_enter(&ctx);
    return result == CUDA_SUCCESS ? synchronize(ctx) : result;
}

CUresult CUDAAPI cuCtxSynchronize_v2(CUcontext handle) {
    if (handle == NULL)
        return cuCtxSynchronize();
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_context *ctx = sim_context_get(handle);
    return ctx != NULL ? synchronize(ctx) : CUDA_ERROR_INVALID_CONTEXT;
}
