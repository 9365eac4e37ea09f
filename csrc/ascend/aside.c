/* What launches may wait for and that takes no time of the AI cores: copies, functions of the host, and
 * waiting for others. None of it is delayed; it is noted that there was some. */
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

/* -- Copies --------------------------------------------------------------------------------------------- */

ASIDE(rtMemcpy, (void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind),
      (to, room, from, size, kind))
ASIDE(aclrtMemcpyImpl, (void *to, size_t room, const void *from, size_t size, uint32_t kind),
      (to, room, from, size, kind))
ASIDE(rtMemcpyAsync,
      (void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind, rtStream_t stream),
      (to, room, from, size, kind, stream))
ASIDE(aclrtMemcpyAsyncImpl,
      (void *to, size_t room, const void *from, size_t size, uint32_t kind, rtStream_t stream),
      (to, room, from, size, kind, stream))

/* -- Functions of the host ------------------------------------------------------------------------------ */

ASIDE(rtsLaunchHostFunc, (rtStream_t stream, rtCallback_t function, void *argument),
      (stream, function, argument))
ASIDE(aclrtLaunchHostFuncImpl, (rtStream_t stream, rtCallback_t function, void *argument),
      (stream, function, argument))

/* -- Waiting for others --------------------------------------------------------------------------------- */

ASIDE(rtStreamWaitEvent, (rtStream_t stream, rtEvent_t event), (stream, event))
ASIDE(aclrtStreamWaitEventImpl, (rtStream_t stream, rtEvent_t event), (stream, event))
ASIDE(rtsValueWait,
      (const void *const address, const uint64_t value, const uint32_t flag, rtStream_t stream),
      (address, value, flag, stream))
ASIDE(aclrtValueWaitImpl, (void *address, uint64_t value, uint32_t flag, rtStream_t stream),
      (address, value, flag, stream))
ASIDE(rtsNotifyWaitAndReset, (rtNotify_t notify, rtStream_t stream, uint32_t timeout),
      (notify, stream, timeout))
ASIDE(aclrtWaitAndResetNotifyImpl, (rtNotify_t notify, rtStream_t stream, uint32_t timeout),
      (notify, stream, timeout))
