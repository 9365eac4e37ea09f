/* What the parts of the CNDrv shim share.
 *
 * A wrapper is named aliquot_<symbol> and has the signature of the driver's <symbol>. It charges,
 * calls the driver, and settles what the driver made of it; it never fails where the driver would
 * not have, except for want of memory at the cap.
 */
#ifndef ALIQUOT_CAMBRICON_SHIM_H
#define ALIQUOT_CAMBRICON_SHIM_H

#include "cndrv.h"

#include "shim/driver.h"
#include "shim/memory/allocation.h"
#include "shim/pool/pool.h"
#include "shim/slice/attach.h"
#include "shim/time/marks.h"

/* The driver is found by whoever calls it first: our exports are plain functions (csrc/generate.py),
 * and nothing of ours runs before one of them. What the driver lacks has a stand-in. */
#undef REAL
#undef HAVE
static inline void *aliquot_driver(unsigned fn) {
    if (__builtin_expect(!aliquot_real[fn], 0))
        aliquot_resolve();
    return aliquot_real[fn];
}
#define REAL(symbol) ((__typeof__(&symbol))aliquot_driver(F_##symbol))
#define HAVE(symbol) (aliquot_driver(F_##symbol) != aliquot_missing)

/* What is the calling thread's own: static storage of threads is scarce. */
struct aliquot_own {
    uint32_t generation; /* context.c */
    uint16_t context;    /* context.c */
    uint16_t depth;      /* calls of the driver that it is within and that have been dealt with */
};
static_assert(sizeof(struct aliquot_own) == 8, "static TLS is scarce");
extern __thread struct aliquot_own aliquot_own __attribute__((tls_model("initial-exec")));

/* Whether the wrapper that asks was called by the driver itself, in the course of a call that has been
 * dealt with or on a thread of its own: then the driver's own function is all that there is to do. (Where
 * a call of the driver ends in another one, the address of return is the first wrapper's.) */
#define OWN_CALL() (aliquot_own.depth || aliquot_is_in_driver(__builtin_return_address(0)))

/* -- init.c ----------------------------------------------------------------------------------------- */

/* Whether this process is attached to its region and knows its devices; attaches it if the driver
 * is initialised. CN_SUCCESS: yes. CN_ERROR_NOT_INITIALIZED: the driver is not initialised, let it
 * speak for itself. Else: initialisation must fail with this code, and so what would take memory (one
 * line was printed, or it is the driver's own). */
CNresult aliquot_prepare(void);
static inline CNresult aliquot_ready(void) {
    return __builtin_expect(aliquot_prepared(), 1) ? CN_SUCCESS : aliquot_prepare();
}

/* Index into the grant of a device, by its handle or its ordinal; -1 when it is not in the slice. */
int aliquot_device_index(CNdev device);
int aliquot_ordinal_index(uint32_t ordinal);

/* -- context.c -------------------------------------------------------------------------------------- */

struct aliquot_context {
    CNcontext handle;
    CNdev ordinal;  /* its device's handle */
    int device;     /* index into the grant; -1: not in the slice */
    uint16_t index; /* of this context in entries */
    bool shared;
    uint64_t base; /* bytes charged for the context itself */
};

/* The calling thread's context, attaching the process if need be; NULL when there is none or the
 * driver is not initialised: the driver will say so itself. Errors: the driver's own, where it cannot
 * tell; what would take memory must fail with it. */
CNresult aliquot_context_ask(const struct aliquot_context **context);
/* The same, and NULL also where it cannot be told. */
const struct aliquot_context *aliquot_context_current(void);

/* Notices a context of which nothing is known yet, which is current. */
const struct aliquot_context *aliquot_context_of(CNcontext handle);

/* -- memory.c, vmm.c, pool.c, module.c, ipc.c --------------------------------------------------------- */

/* Calls the driver, whose own calls are none of ours; again, while it has no memory because of a process
 * that has just died. */
#define ALIQUOT_CALL_AGAIN_ON(code, result, call)                                                  \
    do {                                                                                           \
        aliquot_own.depth++;                                                                       \
        ALIQUOT_RETRY_ON(code, result, call);                                                      \
        aliquot_own.depth--;                                                                       \
    } while (0)
#define ALIQUOT_RETRY(result, call)                                                                \
    ALIQUOT_CALL_AGAIN_ON(CN_MEMORY_ERROR_OUT_OF_MEMORY, result, call)

void aliquot_modules_context_gone(uint16_t context);

/* A forked child owns nothing of its parent's: each part forgets. */
void aliquot_context_forget(void);
void aliquot_module_forget(void);

/* -- time.c ------------------------------------------------------------------------------------------- */

/* Our own calls must not invalidate a capture of the program: they are made in relaxed mode. Answers the
 * thread's mode before. */
CNqueueCaptureMode aliquot_capture_mode(CNqueueCaptureMode mode);

/* Whether a launch in the queue may go at once: the thread has time left for it. (Whose default queues lie
 * in is asked out of line.) */
static inline bool aliquot_passes(uint64_t what, CNqueue queue) {
    struct aliquot_thread *thread = aliquot_self;
    const struct aliquot_launch launch = {.what = what, .lane = (uintptr_t)queue};
    return thread && queue > CN_QUEUE_TYPE_LEGACY && aliquot_gate_passes(thread, &launch);
}

/* Else: waits until a launch in the queue may go; aliquot_went books what the driver made of it, which it
 * returns. */
struct aliquot_gated aliquot_hold_back(uint64_t what, CNqueue queue);
static inline CNresult aliquot_went(const struct aliquot_gated *gated, CNresult result) {
    aliquot_gone_on(gated, result == CN_SUCCESS);
    return result;
}

#endif
