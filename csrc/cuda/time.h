/* Compute time in the CUDA shim: the limiter around what runs on the compute units.
 *
 * Wrappers of launches ask aliquot_passes first: if the thread has time left for the launch, the
 * driver is called at once. Else, out of line, aliquot_hold_back waits until the launch may go, and
 * aliquot_went puts a mark behind it where one is due.
 */
#ifndef ALIQUOT_CUDA_TIME_H
#define ALIQUOT_CUDA_TIME_H

#include "shim.h"

/* -- Names of streams ---------------------------------------------------------------------------- */

/* The lane of a stream, where that does not depend on the current context; else 0. */
static inline uint64_t aliquot_lane(CUstream stream, bool per_thread,
                                    const struct aliquot_thread *thread) {
    uint64_t lane = (uintptr_t)stream;
    if (__builtin_expect(lane > (uintptr_t)CU_STREAM_PER_THREAD, 1))
        return lane;
    if (__builtin_expect(!aliquot_one_device, 0))
        return 0;
    if (stream == CU_STREAM_PER_THREAD || (!stream && per_thread))
        return (uintptr_t)thread | ALIQUOT_LANE_OWN | ALIQUOT_LANE_DEFAULT;
    return ALIQUOT_LANE_DEFAULT;
}

/* The stream of a lane, for the thread that launches there. */
static inline CUstream aliquot_lane_stream(uint64_t lane) {
    if (lane & ALIQUOT_LANE_DEFAULT)
        return lane & ALIQUOT_LANE_OWN ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY;
    return (CUstream)(uintptr_t)lane;
}

/* -- Names of what is launched -------------------------------------------------------------------- */

static inline uint64_t aliquot_kernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                      unsigned grid_z, unsigned block_x, unsigned block_y,
                                      unsigned block_z) {
    uint64_t blocks = (uint64_t)grid_x * grid_y * grid_z;
    /* A function has few sizes of blocks. Addresses of functions take 48 bits. */
    uint64_t threads = (block_x >> 5) + block_y + block_z;
    return (uintptr_t)function + (aliquot_class(blocks) << 48) + (threads << 57);
}

/* -- Around the driver's call ---------------------------------------------------------------------- */

static inline bool aliquot_passes(uint64_t what, CUstream stream, bool per_thread) {
    struct aliquot_thread *thread = aliquot_self;
    if (__builtin_expect(!thread, 0))
        return false;
    struct aliquot_launch launch = {.what = what, .lane = aliquot_lane(stream, per_thread, thread)};
    return aliquot_gate_passes(thread, &launch);
}

/* Waits until the launch may go; aliquot_went books what the driver made of it, which it returns. */
struct aliquot_gated aliquot_hold_back(uint64_t what, CUstream stream, bool per_thread);
static inline CUresult aliquot_went(const struct aliquot_gated *gated, CUresult result) {
    aliquot_gone_on(gated, result == CUDA_SUCCESS);
    return result;
}

/* A function of one shape: its wrapper, all of it out of line. */
#define ALIQUOT_LAUNCH(symbol, what, stream, per_thread, parameters, arguments)                    \
    CUresult aliquot_##symbol parameters {                                                         \
        struct aliquot_gated gated = aliquot_hold_back(what, stream, per_thread);                  \
        return aliquot_went(&gated, REAL(symbol) arguments);                                       \
    }

#endif
