/* What the parts of the CUDA shim share.
 *
 * A wrapper is named aliquot_<symbol> and has the signature of the driver's <symbol>. It charges,
 * calls the driver, and settles what the driver made of it; it never fails where the driver would
 * not have, except with CUDA_ERROR_OUT_OF_MEMORY at the cap.
 */
#ifndef ALIQUOT_CUDA_SHIM_H
#define ALIQUOT_CUDA_SHIM_H

#include <cuda.h>

#include "shim/driver.h"
#include "shim/memory/allocation.h"
#include "shim/slice/attach.h"
#include "shim/time/marks.h"

/* -- init.c ----------------------------------------------------------------------------------- */

/* Whether this process is attached to its region and knows its devices; attaches it if the driver
 * is initialised. CUDA_SUCCESS: yes. CUDA_ERROR_NOT_INITIALIZED: the driver is not initialised, let
 * it speak for itself. Else: initialisation must fail with this code, and so what would take memory
 * (one line was printed, or it is the driver's own). */
CUresult aliquot_prepare(void);
static inline CUresult aliquot_ready(void) {
    return __builtin_expect(aliquot_prepared(), 1) ? CUDA_SUCCESS : aliquot_prepare();
}

/* Index into the grant of a device ordinal, or -1 when the device is not in the slice. */
int aliquot_device_index(CUdevice ordinal);

/* The other way: the ordinal of a device of the slice, or -1. */
CUdevice aliquot_device_ordinal(uint32_t device);

/* -- context.c -------------------------------------------------------------------------------- */

struct aliquot_context {
    CUcontext handle;
    int device;       /* index into the grant; -1: not in the slice */
    CUdevice ordinal; /* of the driver */
    uint16_t index;   /* of this context in entries */
    bool primary;
    uint64_t base;  /* bytes charged for the context itself and its limits */
    uint64_t image; /* bytes of module images that live in it, charged in whole pages */
};

/* The calling thread's context, attaching the process if need be; NULL when there is none or the
 * driver is not initialised: the driver will say so itself. A context of a device that is not in
 * the slice has device -1. Errors: the driver's own, where it cannot tell; what would take memory
 * must fail with it. */
CUresult aliquot_context_ask(const struct aliquot_context **context);
/* The same, and NULL also where it cannot be told. */
const struct aliquot_context *aliquot_context_current(void);

/* The same for any context handle; adopts a context that was made behind our back. */
const struct aliquot_context *aliquot_context_of(CUcontext handle);

/* Adds to (or takes from) the module images that live in a context. Growth may be refused: false. */
bool aliquot_context_image(uint16_t index, int64_t bytes);

/* How many contexts live. */
uint32_t aliquot_context_count(void);

/* Visits every living context. `visit` must not use this module. */
void aliquot_context_each(void (*visit)(uint16_t index, void *argument), void *argument);

/* -- memory.c --------------------------------------------------------------------------------- */

/* A request for memory in the current context, being charged. */
struct aliquot_request {
    const struct aliquot_context *context; /* NULL: not ours to charge */
    uint64_t bytes;                        /* charged, whole pages */
    bool enters;                           /* as aliquot_pointer_enters said */
};

/* Charges `bytes` rounded to pages to the current context's device. CUDA_SUCCESS: go on to the
 * driver (without a context the driver itself says what is wrong); aliquot_requested must follow. */
CUresult aliquot_request(struct aliquot_request *request, uint64_t bytes);

/* Books the driver's answer, which it returns: memory was given at `pointer` (or not). */
CUresult aliquot_requested(const struct aliquot_request *request, CUresult result, uint64_t pointer,
                           enum aliquot_kind kind, bool shares);

/* A pointer or handle on its way out. */
struct aliquot_departure aliquot_depart(uint64_t pointer);

/* Books the driver's answer, which it returns: the entry comes back where the driver failed. */
CUresult aliquot_departed(const struct aliquot_departure *departure, CUresult result);

/* Everything that lived in a context is gone with it. */
void aliquot_memory_context_gone(uint16_t context);

#define ALIQUOT_RETRY(result, call) ALIQUOT_RETRY_ON(CUDA_ERROR_OUT_OF_MEMORY, result, call)

/* -- pool.c, settle.c ------------------------------------------------------------------------- */

/* Takes up what pools have given back. Returns whether any holds something. */
bool aliquot_pools_settle(uint32_t device, bool all);

/* The frees queued up to that number have been carried out. */
void aliquot_pools_drained(uint64_t before);

/* Numbers the frees that are queued in streams, from 1; and the last number given. */
uint64_t aliquot_queue_next(void);
uint64_t aliquot_queue_sequence(void);

/* The context that a stream's work runs in, as aliquot_context_ask tells of a thread's. */
CUresult aliquot_stream_context(CUstream stream, const struct aliquot_context **context);

/* The free of a linear allocation of the context `owner`, whose entry is LEAVING: is about to be
 * queued; was queued in a stream, where an event may follow or not; could not be queued. The first returns a number for the others; 0
 * when there are too many, and then the charge stays until the address is given out again. */
uint32_t aliquot_debt_begin(uint64_t pointer, uint16_t owner);
void aliquot_debt_queued(uint32_t id, CUstream stream, bool per_thread, bool may_mark);
void aliquot_debt_end(uint32_t id);

/* The events of a context are gone with it. */
void aliquot_debts_context_gone(uint16_t context);

/* Which parts have charges that the driver gives back on its own. Each sets and clears its bit under
 * its own mutex. */
#define ALIQUOT_LAZY_POOLS 1u
#define ALIQUOT_LAZY_GRAPHS 2u
#define ALIQUOT_LAZY_EXPORTS 4u
#define ALIQUOT_LAZY_FREES 8u
extern _Atomic uint32_t aliquot_lazy;

/* Takes up what the driver has given back since (all devices of the slice). Cheap when nothing can
 * have been. Leaves the driver's state, and capture, alone. */
void aliquot_settle_all(void);
void aliquot_settle_device(uint32_t device);
static inline void aliquot_synchronised(void) {
    /* relaxed: a hint; the refusal path settles in any case. */
    if (__builtin_expect(atomic_load_explicit(&aliquot_lazy, memory_order_relaxed), 0))
        aliquot_settle_all();
}

/* Our own calls into the driver must not invalidate a capture of the program: they are made in
 * relaxed mode. */
CUstreamCaptureMode aliquot_capture_relax(void);
void aliquot_capture_restore(CUstreamCaptureMode mode);

/* Whether the stream is being captured. Errors: the driver's own, where it does not tell. */
CUresult aliquot_capture_status(CUstream stream, bool per_thread, bool *capturing);
/* The same, and true also when it cannot tell. */
bool aliquot_capturing(CUstream stream, bool per_thread);

/* -- graph.c, vmm.c, module.c ------------------------------------------------------------------- */

void aliquot_graph_settle(uint32_t device);
void aliquot_graph_context_gone(uint16_t context);
void aliquot_vmm_settle(void);

/* Estimate of the device memory that a module image takes on a device of compute capability
 * major.minor, bytes; 0 when it is none that we know. `limit` is its length, or UINT64_MAX where only
 * its own headers tell. */
uint64_t aliquot_image_bytes(const void *image, uint64_t limit, int major, int minor);

/* Image bytes of all libraries that are loaded: a new context has them too. */
uint64_t aliquot_library_image_bytes(void);
void aliquot_modules_context_gone(uint16_t context);

/* Held while a context is made, so that no library comes or goes between the charge of the new
 * context's share of them and its being there. */
void aliquot_libraries_hold(void);
void aliquot_libraries_drop(void);

/* A forked child owns nothing of its parent's: each part forgets. */
void aliquot_context_forget(void);
void aliquot_memory_forget(void);
void aliquot_pool_forget(void);
void aliquot_settle_forget(void);
void aliquot_graph_forget(void);
void aliquot_vmm_forget(void);
void aliquot_module_forget(void);

#endif
