/* What the parts of the Ascend shim share.
 *
 * It stands in front of libruntime. A wrapper is named aliquot_<symbol> and has the signature of the
 * runtime's <symbol>. It charges, calls the runtime, and settles what the runtime made of it; it never
 * fails where the runtime would not have, except with RT_MEMORY_ALLOCATION at the cap.
 *
 * aclrtXImpl calls rt*, and rt* call each other, some of them by their exported names: then they come
 * here again. Only the outermost call counts.
 */
#ifndef ALIQUOT_ASCEND_SHIM_H
#define ALIQUOT_ASCEND_SHIM_H

#include "runtime.h"

#include "shim/driver.h"
#include "shim/memory/allocation.h"
#include "shim/pool/pool.h"
#include "shim/slice/attach.h"
#include "shim/time/marks.h"

/* -- Which call counts --------------------------------------------------------------------------- */

/* How many calls of the runtime the thread is within. The rest of the thread-local storage. */
extern __thread uint32_t aliquot_depth __attribute__((tls_model("initial-exec")));

/* Whether a wrapper was called within another one, and so only passes the call on. Must be asked first in
 * a wrapper: REAL may be used afterwards. */
static inline bool aliquot_is_inner(void) {
    aliquot_resolve();
    return aliquot_depth > 0;
}

/* Calls the runtime's function; what it calls in turn is inner. */
#define ALIQUOT_CALL(result, symbol, arguments)                                                    \
    do {                                                                                           \
        aliquot_depth++;                                                                           \
        (result) = REAL(symbol) arguments;                                                         \
        aliquot_depth--;                                                                           \
    } while (0)

/* Whether this runtime has a function. (HAVE does not tell: what is missing has a stand-in.) */
#define HAS(symbol) (aliquot_real[F_##symbol] != aliquot_missing)

/* Calls the runtime until it does not answer out-of-memory because of a process that has just died. */
#define ALIQUOT_RETRY(result, symbol, arguments)                                                   \
    do {                                                                                           \
        unsigned aliquot_round = 0;                                                                \
        do                                                                                         \
            ALIQUOT_CALL(result, symbol, arguments);                                               \
        while ((result) == RT_MEMORY_ALLOCATION && aliquot_give_back_due(&aliquot_round));         \
    } while (0)

/* -- init.c ----------------------------------------------------------------------------------------- */

/* Attaches this process to its region, and maps its devices. RT_OK: it is. RT_NO_DEVICE: the runtime
 * shows none, let it speak for itself. Else: what was asked for must fail with this code (one line was
 * printed, or it is the runtime's own). */
rtError_t aliquot_prepare(void);
static inline rtError_t aliquot_ready(void) {
    return __builtin_expect(aliquot_prepared(), 1) ? RT_OK : aliquot_prepare();
}

/* Index into the grant of a device of the runtime's: -1 when it is not in the slice, -2 when there is none
 * of that number. */
int aliquot_device_index(int32_t device);

/* Index of the calling thread's device, -1 when it is not in the slice, -2 when there is none, or the runtime
 * does not tell: then the one that asks says with which error. */
int aliquot_device_current(void);
rtError_t aliquot_device_ask(int *index);

/* -- memory.c ------------------------------------------------------------------------------------------ */

/* The device that the attributes of a request name, or -1. */
int64_t aliquot_device_named(const rtMallocConfig_t *config);

/* All that lived on a device is gone with it. */
void aliquot_memory_device_gone(uint32_t device);

/* -- model.c ------------------------------------------------------------------------------------------- */

/* Whether what is put in the stream is a model's. */
bool aliquot_stream_bound(rtStream_t stream);

/* It is no more, or the stream is gone. */
void aliquot_stream_unbound(rtStream_t stream);

/* -- time.c ---------------------------------------------------------------------------------------------- */

/* Whether a launch in the stream may go at once: the thread has time left for it. (Whose default streams
 * lie in is asked out of line.) */
static inline bool aliquot_passes(uint64_t what, rtStream_t stream) {
    struct aliquot_thread *thread = aliquot_self;
    const struct aliquot_launch launch = {.what = what, .lane = (uintptr_t)stream};
    return thread && stream && aliquot_gate_passes(thread, &launch);
}

/* Else: waits until a launch in the stream may go; aliquot_gone_on books what the runtime made of it. */
struct aliquot_gated aliquot_hold_back(uint64_t what, rtStream_t stream);

/* The contexts of a device are about to go, or have `gone` or not. */
void aliquot_time_device_leaves(uint32_t device);
void aliquot_time_device_left(uint32_t device, bool gone);

/* A forked child owns nothing of its parent's: each part forgets. */
void aliquot_device_forget(void);
void aliquot_memory_forget(void);
void aliquot_ipc_forget(void);
void aliquot_launch_forget(void);
void aliquot_models_forget(void);
void aliquot_lanes_forget(void);

#endif
