/* Compute time in a process: the limiter (core/limiter.h) with its seam to the kernel and its threads,
 * the same in every vendor's shim. What it needs of the vendor's driver is in marks.h, and made by
 * the vendor's part.
 */
#ifndef ALIQUOT_SHIM_TIME_PROCESS_H
#define ALIQUOT_SHIM_TIME_PROCESS_H

#include "core/limiter.h"

#include <time.h>

static inline uint64_t aliquot_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* -- Names of streams ---------------------------------------------------------------------------- */

/* A lane is the stream's handle, which is even. Default streams have no handle of their own: their
 * lanes have bit 0 set, and bit 1 where each thread has one. */
#define ALIQUOT_LANE_DEFAULT 1u
#define ALIQUOT_LANE_OWN 2u

/* The driver shows a single device, so that a default stream is on that. The vendor's to set. */
extern bool aliquot_one_device;
extern __thread struct aliquot_thread *aliquot_self __attribute__((tls_model("initial-exec")));

/* -- Names of what is launched -------------------------------------------------------------------- */

/* Launches that are about as large have the same class: eight for each power of two. */
static inline uint64_t aliquot_class(uint64_t size) {
    double wide = (double)(int64_t)size;
    uint64_t bits;
    __builtin_memcpy(&bits, &wide, sizeof bits);
    return (bits >> 49) & 0x1ff;
}

enum aliquot_operation { ALIQUOT_FILL = 1, ALIQUOT_FILL_ROWS, ALIQUOT_MOVE };
static inline uint64_t aliquot_operation(enum aliquot_operation kind, uint64_t bytes) {
    return (uint64_t)kind + (aliquot_class(bytes) << 3);
}

/* -- Around the driver's call ---------------------------------------------------------------------- */

struct aliquot_gated {
    struct aliquot_launch launch;
    aliquot_ticket ticket;
};

/* The calling thread's part, made at its first launch. NULL: launches are not held back. errno is
 * preserved. */
struct aliquot_thread *aliquot_this_thread(void);

/* Books what the driver made of a launch that may have a ticket. */
static inline void aliquot_gone_on(const struct aliquot_gated *gated, bool done) {
    if (gated->ticket)
        aliquot_launched(aliquot_self, &gated->launch, gated->ticket, done);
}

/* The same for a call of the driver's that waits until it is done. */
static inline void aliquot_gone_by(const struct aliquot_gated *gated, bool done) {
    if (gated->ticket)
        aliquot_launched_and_waited(aliquot_self, &gated->launch, gated->ticket, done);
}

/* -- What the limiter is told of --------------------------------------------------------------------- */

/* The calling thread has waited for work, or found it done. */
void aliquot_time_waited(void);

/* About to go: a lane; those of a context; code, which may be at addresses of other code next; one
 * thing that is launched. */
void aliquot_time_lane_leaves(uint64_t lane);
void aliquot_time_lanes_leave(bool (*belongs)(void *context, uint64_t lane), void *context);
void aliquot_time_unloads(void);
void aliquot_time_what_leaves(uint64_t what);

/* Something was queued that launches may wait for and that takes no time of the compute units. Set also
 * by the derived wrappers of what is noted (csrc/generate.py). */
extern _Atomic unsigned char aliquot_aside __attribute__((visibility("hidden")));
static inline void aliquot_note_aside(void) {
    /* relaxed: a hint; see seam_aside. Most often it is set already, and the line is shared. */
    if (!atomic_load_explicit(&aliquot_aside, memory_order_relaxed))
        atomic_store_explicit(&aliquot_aside, 1, memory_order_relaxed);
}

/* A forked child owns nothing of its parent's. */
void aliquot_time_forget(void);

#endif
