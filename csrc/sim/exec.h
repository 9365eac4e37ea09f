/* The execution half of the simulated driver: streams, events, launches, copies, graphs and
 * stream capture. What the other parts of the simulator need from it.
 *
 * Work is kept in order per stream and carried out by a process-wide engine: kernels take device
 * time (timeline.h), everything else does what it says when its turn comes. Its threads start with
 * the first work that has to wait, and block all signals.
 */
#ifndef ALIQUOT_SIM_EXEC_H
#define ALIQUOT_SIM_EXEC_H

#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_context;
struct sim_stream;
struct sim_graph_node;

/* ---- Contexts (called by context.c) -------------------------------------------------------- */

/* Makes ctx->exec: the context's default streams and bookkeeping. No thread, no device memory.
 * Errors: OUT_OF_MEMORY (host). */
CUresult sim_exec_context_init(struct sim_context *ctx);
/* Waits until the context's running work is done, drops what has not started, and destroys its
 * streams; events and graphs of the context stay valid handles of a dead context. Call before the
 * context's modules and memory go, holding no lock. */
void sim_exec_context_fini(struct sim_context *ctx);

/* ---- Waiting ------------------------------------------------------------------------------- */

/* Waits for all work of the context (cuCtxSynchronize without its argument checks).
 * Errors: STREAM_CAPTURE_UNSUPPORTED while one of its streams captures in a way that forbids it. */
CUresult sim_exec_context_sync(struct sim_context *ctx);
/* Waits for all work of this process on device `dev`, no matter which context: what cuMemFree and
 * its kin do before memory goes. The caller holds no lock that a free in stream order, or
 * sim_memory_find, sim_memory_check and sim_memory_touch, take. A nanosecond when nothing is queued. Never fails, takes no part
 * in capture. */
void sim_exec_drain(int dev);
/* Registers `hook`, called (holding no lock) whenever a stream, event, context or device
 * synchronisation of this process has succeeded; `dev` is the device that was waited for.
 * For the trim of pools. At most eight hooks, registered before the first context. */
void sim_exec_on_sync(void (*hook)(int dev));

/* ---- Streams ------------------------------------------------------------------------------- */

/* Finds the stream that a handle means in the current context `ctx`: NULL and CU_STREAM_LEGACY and
 * CU_STREAM_PER_THREAD included; `per_thread`: the call came by a _ptsz or _ptds symbol, where
 * NULL means the calling thread's default stream.
 * Errors: INVALID_HANDLE, also where the stream's context is gone. */
CUresult sim_stream_resolve(struct sim_context *ctx, CUstream handle, bool per_thread,
                            struct sim_stream **stream);
/* The context that a stream belongs to; its device is that context's. */
struct sim_context *sim_stream_context(const struct sim_stream *stream);

/* Calls fn(arg) when everything queued in the stream so far is done, holding no lock of the
 * execution half: on an engine thread, in a thread that waits for or asks after work, or at once in
 * the caller when the stream is idle. `fn` must
 * not wait for streams. A context that goes first calls it at its end: it is always called once.
 * Not for capturing streams: see below. Errors: OUT_OF_MEMORY (host). */
CUresult sim_stream_call(struct sim_stream *stream, void (*fn)(void *arg), void *arg);

/* ---- Capture ------------------------------------------------------------------------------- */

/* To be asked first by every call that CUDA calls unsafe during stream capture (cuMemAlloc,
 * cuMemFree, cuModuleLoad*, cuCtxSynchronize, cuPointerGetAttribute is safe, …): SUCCESS when no
 * capture that this thread's mode respects is under way, else STREAM_CAPTURE_UNSUPPORTED, and the
 * captures concerned are invalidated. A nanosecond when nobody captures. */
CUresult sim_capture_unsafe(void);
/* Whether work for this stream is recorded instead of done (valid or already invalidated). */
bool sim_stream_capturing(const struct sim_stream *stream);
/* What cuMemAllocFromPoolAsync and cuMemFreeAsync do in a capturing stream: adds the node and
 * answers the address that the allocation will have in every launch.
 * Errors: those of cuGraphAddMemAllocNode / cuGraphAddMemFreeNode; STREAM_CAPTURE_INVALIDATED. */
CUresult sim_capture_mem_alloc(struct sim_stream *stream, const CUmemPoolProps *props, size_t bytes,
                               CUdeviceptr *ptr);
CUresult sim_capture_mem_free(struct sim_stream *stream, CUdeviceptr ptr);

/* ---- Provided by the memory half (pool.c) for graph memory nodes --------------------------- */

/* Reserves the address of an allocation node: virtual only, nothing charged. The address stays
 * the node's until unreserved; sim_memory_find answers it (as device memory) all the time.
 * Errors: INVALID_VALUE (0 bytes, props not device-located pinned memory of `dev`),
 * OUT_OF_MEMORY. */
CUresult sim_graph_memory_reserve(int dev, const CUmemPoolProps *props, size_t bytes,
                                  CUdeviceptr *ptr);
/* The node's graph and all executables made from it are gone: the address is free again, at once or,
 * when a launch allocated it and nobody has freed it yet, once that is done. */
void sim_graph_memory_unreserve(int dev, CUdeviceptr ptr);
/* Whether a launch has been promised the memory, or has allocated it, and it was not freed since;
 * false for any other address. A free that is queued in a stream counts as done. */
bool sim_graph_memory_live(int dev, CUdeviceptr ptr);
/* Makes sure that physical memory of the device's graph pool is behind the address, before the
 * launch that will write it; counts as used from `sim_graph_memory_use(…, true)` on.
 * Errors: OUT_OF_MEMORY. */
CUresult sim_graph_memory_back(int dev, CUdeviceptr ptr);
/* The executed allocation (used = true) or free (false) node has run: the graph pool's USED
 * attributes follow; memory not in use can be trimmed and shared with other graphs. */
void sim_graph_memory_use(int dev, CUdeviceptr ptr, bool used);

/* ---- Provided by the memory half for green contexts ---------------------------------------- */

/* The handle of the green context that `ctx` (with ctx->green) stands for. */
CUgreenCtx sim_green_handle(const struct sim_context *ctx);

#endif
