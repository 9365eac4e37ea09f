/* Models: work that is recorded now and executed later, by a capture or in streams that are bound. What is
 * recorded waits for nothing and is not measured; the model is one launch when it is executed (launch.c).
 */
#include "shim.h"

#include <stdatomic.h>

/* Streams that are bound, to their models. */
static struct aliquot_table bound;
static _Atomic uint32_t
    bound_count; /* relaxed: whoever binds a stream does so before launching in it */

bool aliquot_stream_bound(rtStream_t stream) {
    uint64_t model;
    return __builtin_expect(atomic_load_explicit(&bound_count, memory_order_relaxed), 0) &&
           stream && aliquot_table_get(&bound, (uintptr_t)stream, &model);
}

void aliquot_stream_unbound(rtStream_t stream) {
    uint64_t model;
    if (stream && aliquot_table_take(&bound, (uintptr_t)stream, &model))
        atomic_fetch_sub_explicit(&bound_count, 1, memory_order_relaxed);
}

/* -- Binding ------------------------------------------------------------------------------------------ */

#define BIND(symbol)                                                                               \
    rtError_t aliquot_##symbol(rtModel_t model, rtStream_t stream, uint32_t flag) {                \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(model, stream, flag);                                              \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (model, stream, flag));                                       \
        if (result == RT_OK && aliquot_ready() == RT_OK && stream &&                               \
            aliquot_table_put(&bound, (uintptr_t)stream, (uintptr_t)model))                        \
            atomic_fetch_add_explicit(&bound_count, 1, memory_order_relaxed);                      \
        return result;                                                                             \
    }
BIND(rtModelBindStream)
BIND(rtsModelBindStream)
BIND(aclmdlRIBindStreamImpl)

#define UNBIND(symbol)                                                                             \
    rtError_t aliquot_##symbol(rtModel_t model, rtStream_t stream) {                               \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(model, stream);                                                    \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (model, stream));                                             \
        if (result == RT_OK && aliquot_prepared())                                                 \
            aliquot_stream_unbound(stream);                                                        \
        return result;                                                                             \
    }
UNBIND(rtModelUnbindStream)
UNBIND(rtsModelUnbindStream)
UNBIND(aclmdlRIUnbindStreamImpl)

static void count_unbound(uint64_t stream, uint64_t model, uint64_t name,
                          enum aliquot_tenancy tenancy, void *argument) {
    (void)stream;
    (void)model;
    (void)name;
    (void)tenancy;
    (void)argument;
    atomic_fetch_sub_explicit(&bound_count, 1, memory_order_relaxed);
}

/* Its streams are free again, and another model may come to its address. */
#define DESTROY(symbol)                                                                            \
    rtError_t aliquot_##symbol(rtModel_t model) {                                                  \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(model);                                                            \
        aliquot_time_what_leaves((uintptr_t)model);                                                \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (model));                                                     \
        if (result == RT_OK && model && atomic_load_explicit(&bound_count, memory_order_relaxed))  \
            aliquot_pointer_sweep(&bound, UINT64_MAX, (uintptr_t)model, count_unbound, NULL);      \
        return result;                                                                             \
    }
DESTROY(rtModelDestroy)
DESTROY(rtsModelDestroy)
DESTROY(aclmdlRIDestroyImpl)

/* -- Captures: while there is one, no stream is asked ----------------------------------------------------- */

#define BEGIN(symbol, parameters, arguments)                                                       \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        rtError_t result;                                                                          \
        aliquot_marks_capture(1);                                                                  \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        if (result != RT_OK)                                                                       \
            aliquot_marks_capture(-1);                                                             \
        return result;                                                                             \
    }
BEGIN(rtStreamBeginCapture, (rtStream_t stream, const uint32_t mode), (stream, mode))
BEGIN(aclmdlRICaptureBeginImpl, (rtStream_t stream, uint32_t mode), (stream, mode))
/* Into a model that is a part of another one. */
BEGIN(rtStreamBeginCaptureToModel, (rtStream_t stream, rtModel_t model, const uint32_t mode),
      (stream, model, mode))
BEGIN(aclmdlRICaptureToModelRIBeginImpl, (rtStream_t stream, rtModel_t model, uint32_t mode),
      (stream, model, mode))

/* A capture that has failed ends here too; where there is none, none is ended. */
#define END(symbol)                                                                                \
    rtError_t aliquot_##symbol(rtStream_t stream, rtModel_t *model) {                              \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(stream, model);                                                    \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (stream, model));                                             \
        if (result == RT_OK || result == RT_CAPTURE_INVALIDATED || result == RT_CAPTURE_UNJOINED)  \
            aliquot_marks_capture(-1);                                                             \
        return result;                                                                             \
    }
END(rtStreamEndCapture)
END(aclmdlRICaptureEndImpl)

void aliquot_models_forget(void) {
    aliquot_table_reset(&bound);
    atomic_store_explicit(&bound_count, 0, memory_order_relaxed);
}
