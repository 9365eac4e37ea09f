/* What launches may wait for and that takes no time of the AI cores: copies, which engines of their own
 * make, within a device and between devices; the program's own functions; words that others set. None of it
 * is ever delayed, since it may release others.
 */
#include "shim.h"

#define ASIDE(symbol, parameters, arguments)                                                       \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        aliquot_note_aside();                                                                      \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        return result;                                                                             \
    }

/* -- Copies ------------------------------------------------------------------------------------------- */

#define COPY_PARAMETERS                                                                            \
    (void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind, rtStream_t stream)
#define COPY_ARGUMENTS (to, room, from, size, kind, stream)
ASIDE(rtMemcpyAsync, COPY_PARAMETERS, COPY_ARGUMENTS)
ASIDE(aclrtMemcpyAsyncImpl,
      (void *to, size_t room, const void *from, size_t size, uint32_t kind, rtStream_t stream),
      COPY_ARGUMENTS)
ASIDE(aclrtMemcpyAsyncWithConditionImpl,
      (void *to, size_t room, const void *from, size_t size, uint32_t kind, rtStream_t stream),
      COPY_ARGUMENTS)
ASIDE(rtsMemcpyAsync,
      (void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind, void *config,
       rtStream_t stream),
      (to, room, from, size, kind, config, stream))
ASIDE(rtMemcpyAsyncEx,
      (void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind, rtStream_t stream,
       void *config),
      (to, room, from, size, kind, stream, config))
ASIDE(rtMemcpyAsyncWithCfg,
      (void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind, rtStream_t stream,
       uint32_t config),
      (to, room, from, size, kind, stream, config))
ASIDE(rtMemcpyAsyncWithCfgV2,
      (void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind, rtStream_t stream,
       const void *config),
      (to, room, from, size, kind, stream, config))
ASIDE(rtMemcpyAsyncPtr,
      (void *entry, uint64_t room, uint64_t size, uint32_t kind, rtStream_t stream,
       uint32_t config),
      (entry, room, size, kind, stream, config))
ASIDE(rtMemcpyAsyncPtrV2,
      (void *entry, uint64_t room, uint64_t size, uint32_t kind, rtStream_t stream,
       const void *config),
      (entry, room, size, kind, stream, config))
ASIDE(rtMemcpyD2DAddrAsync,
      (void *to, uint64_t room, uint64_t to_offset, const void *from, uint64_t size,
       uint64_t from_offset, rtStream_t stream),
      (to, room, to_offset, from, size, from_offset, stream))

/* Rows of them. */
ASIDE(rtMemcpy2dAsync,
      (void *to, uint64_t to_pitch, const void *from, uint64_t from_pitch, uint64_t width,
       uint64_t height, uint32_t kind, rtStream_t stream),
      (to, to_pitch, from, from_pitch, width, height, kind, stream))
ASIDE(rtsMemcpy2DAsync, (void *rows, void *config, rtStream_t stream), (rows, config, stream))
ASIDE(aclrtMemcpy2dAsyncImpl,
      (void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
       uint32_t kind, rtStream_t stream),
      (to, to_pitch, from, from_pitch, width, height, kind, stream))

/* Many at once, described by the program; which could not be made is told. */
#define BATCH_PARAMETERS                                                                           \
    void **to, size_t *rooms, void **from, size_t *sizes, size_t count, void *attributes,          \
        size_t *places, size_t attribute_count
#define BATCH_ARGUMENTS to, rooms, from, sizes, count, attributes, places, attribute_count
ASIDE(rtsMemcpyBatchAsync, (BATCH_PARAMETERS, size_t *failed, rtStream_t stream),
      (BATCH_ARGUMENTS, failed, stream))
ASIDE(aclrtMemcpyBatchAsyncImpl, (BATCH_PARAMETERS, size_t *failed, rtStream_t stream),
      (BATCH_ARGUMENTS, failed, stream))
ASIDE(aclrtMemcpyBatchAsyncV2Impl, (BATCH_PARAMETERS, rtStream_t stream), (BATCH_ARGUMENTS, stream))

/* Between addresses that lie in memory of the device, or as a description there says. */
#define OFFSET_PARAMETERS                                                                          \
    (void **to, uint64_t room, uint64_t to_offset, const void **from, uint64_t size,               \
     uint64_t from_offset, uint32_t kind, rtStream_t stream)
#define OFFSET_ARGUMENTS (to, room, to_offset, from, size, from_offset, kind, stream)
ASIDE(rtMemcpyAsyncWithOffset, OFFSET_PARAMETERS, OFFSET_ARGUMENTS)
ASIDE(aclrtMemcpyAsyncWithOffsetImpl, OFFSET_PARAMETERS, OFFSET_ARGUMENTS)
ASIDE(rtsMemcpyAsyncWithDesc, (void *description, uint32_t kind, void *config, rtStream_t stream),
      (description, kind, config, stream))
ASIDE(aclrtMemcpyAsyncWithDescImpl, (void *description, uint32_t kind, rtStream_t stream),
      (description, kind, stream))

/* Between devices, by the engine that is for that. */
ASIDE(rtCCULaunch, (void *entry, const rtStream_t stream), (entry, stream))

/* To and from what code calls by a name. */
ASIDE(aclrtMemcpyToSymbolAsyncImpl,
      (const void *symbol, const void *from, size_t size, size_t offset, uint32_t kind,
       rtStream_t stream),
      (symbol, from, size, offset, kind, stream))
ASIDE(aclrtMemcpyFromSymbolAsyncImpl,
      (void *to, size_t room, const void *symbol, size_t size, size_t offset, uint32_t kind,
       rtStream_t stream),
      (to, room, symbol, size, offset, kind, stream))

/* What both host and device address comes to where it will be used. */
ASIDE(aclrtMemManagedPrefetchAsyncImpl,
      (const void *pointer, size_t size, aclrtMemManagedLocation place, uint32_t flags,
       rtStream_t stream),
      (pointer, size, place, flags, stream))
ASIDE(aclrtMemManagedPrefetchBatchAsyncImpl,
      (const void **pointers, size_t *sizes, size_t count, aclrtMemManagedLocation *places,
       size_t *which, size_t place_count, uint64_t flags, rtStream_t stream),
      (pointers, sizes, count, places, which, place_count, flags, stream))

/* -- The program's own functions ----------------------------------------------------------------------- */

#define CALLBACK_PARAMETERS (rtCallback_t function, void *data, rtStream_t stream, bool holds)
ASIDE(rtCallbackLaunch, CALLBACK_PARAMETERS, (function, data, stream, holds))
ASIDE(rtsCallbackLaunch, CALLBACK_PARAMETERS, (function, data, stream, holds))
ASIDE(aclrtLaunchCallbackImpl,
      (rtCallback_t function, void *data, uint32_t kind, rtStream_t stream),
      (function, data, kind, stream))
ASIDE(rtsLaunchHostFunc, (rtStream_t stream, const rtCallback_t function, void *const data),
      (stream, function, data))
ASIDE(aclrtLaunchHostFuncImpl, (rtStream_t stream, rtCallback_t function, void *data),
      (stream, function, data))

/* -- Waiting for what others do -------------------------------------------------------------------------- */

ASIDE(rtStreamWaitEvent, (rtStream_t stream, rtEvent_t event), (stream, event))
ASIDE(rtStreamWaitEventWithTimeout, (rtStream_t stream, rtEvent_t event, uint32_t timeout),
      (stream, event, timeout))
ASIDE(rtsEventWait, (rtStream_t stream, rtEvent_t event, uint32_t timeout),
      (stream, event, timeout))
ASIDE(aclrtStreamWaitEventImpl, (rtStream_t stream, rtEvent_t event), (stream, event))
ASIDE(aclrtStreamWaitEventWithTimeoutImpl, (rtStream_t stream, rtEvent_t event, int32_t timeout),
      (stream, event, timeout))
ASIDE(rtNotifyWait, (rtNotify_t notify, rtStream_t stream), (notify, stream))
ASIDE(rtNotifyWaitWithTimeOut, (rtNotify_t notify, rtStream_t stream, uint32_t timeout),
      (notify, stream, timeout))
ASIDE(rtsNotifyWaitAndReset, (rtNotify_t notify, rtStream_t stream, uint32_t timeout),
      (notify, stream, timeout))
ASIDE(aclrtWaitAndResetNotifyImpl, (rtNotify_t notify, rtStream_t stream, uint32_t timeout),
      (notify, stream, timeout))
ASIDE(rtsValueWait,
      (const void *const at, const uint64_t value, const uint32_t flag, rtStream_t stream),
      (at, value, flag, stream))
ASIDE(aclrtValueWaitImpl, (void *at, uint64_t value, uint32_t flag, rtStream_t stream),
      (at, value, flag, stream))

/* One that counts, and is waited for until it has come to a number. */
ASIDE(rtCntNotifyWaitWithTimeout, (rtNotify_t notify, rtStream_t stream, const void *until),
      (notify, stream, until))
ASIDE(rtsCntNotifyWaitWithTimeout, (rtNotify_t notify, rtStream_t stream, void *until),
      (notify, stream, until))
ASIDE(aclrtCntNotifyWaitWithTimeoutImpl, (rtNotify_t notify, rtStream_t stream, void *until),
      (notify, stream, until))
