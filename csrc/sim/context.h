/* What the files about contexts know of each other. */
#ifndef ALIQUOT_SIM_CONTEXT_H
#define ALIQUOT_SIM_CONTEXT_H

#include "sim.h"

#include <pthread.h>

enum { CONTEXT_PEERS = 64, CONTEXT_LIMITS = 16 };

/* What a context has beside what sim.h shows: limits, and the pages that it is charged. */
struct sim_context_memory {
    pthread_mutex_t lock;
    struct sim_frames base;    /* the node's cost of a context */
    struct sim_frames heap;    /* malloc heap above its default */
    struct sim_frames fifo;    /* printf FIFO above its default */
    struct sim_frames stack;   /* stacks above 1 KiB a thread */
    struct sim_frames modules; /* images */
    uint64_t module_bytes;
    size_t limits[CONTEXT_LIMITS]; /* by CUlimit */
    CUfunc_cache cache;
    CUsharedconfig shared;
    uint32_t attached; /* cuCtxAttach: uses beyond the first */
    struct {
        struct sim_context *ctx;
        uint32_t serial;
    } peers[CONTEXT_PEERS]; /* contexts whose memory it may reach */
    struct green *green;    /* a green context's resources (green.c), or NULL */
};

/* Called by cuInit; again after a failed one. Errors: OUT_OF_MEMORY (host). */
CUresult context_init(void);
/* Whether flags of cuCtxCreate and its kin are possible. */
bool context_flags_valid(unsigned flags);
/* Makes a context; `owner` NULL: an ordinary or the primary one with memory of its own, else a
 * green one of that owner. Errors: OUT_OF_MEMORY. */
CUresult context_make(CUdevice dev, unsigned flags, bool primary, struct sim_context *owner,
                      struct sim_context **ctx);
/* Ends a living context, waiting for its work. Errors: CONTEXT_IS_DESTROYED (somebody else did). */
CUresult context_end(struct sim_context *ctx);
/* Retains and releases a device's primary context. */
CUresult context_primary_retain(CUdevice dev, struct sim_context **ctx);
CUresult context_primary_release(CUdevice dev);
/* What a new context's limits are, and the end of what they took. */
void context_settings_init(struct sim_context *ctx);
/* The context that a handle means, NULL being the current one.
 * Errors: those of sim_enter; INVALID_CONTEXT, CONTEXT_IS_DESTROYED for handles. */
CUresult context_resolve(CUcontext handle, struct sim_context **ctx);

#endif
