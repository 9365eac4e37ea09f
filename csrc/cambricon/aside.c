/* What launches may wait for and that takes no time of the compute units: copies from and to outside,
 * and waiting for others. None of it is delayed; it is noted that there was some. */
#include "shim.h"

#define ASIDE(symbol, parameters, arguments)                                                       \
    CNresult aliquot_##symbol parameters {                                                         \
        aliquot_note_aside();                                                                      \
        return REAL(symbol) arguments;                                                             \
    }

/* -- Copies --------------------------------------------------------------------------------------------- */

ASIDE(cnMemcpy, (CNaddr to, CNaddr from, uint64_t bytes), (to, from, bytes))
ASIDE(cnMemcpyHtoD, (CNaddr to, const void *from, uint64_t bytes), (to, from, bytes))
ASIDE(cnMemcpyDtoH, (void *to, CNaddr from, uint64_t bytes), (to, from, bytes))

#define QUEUED (to, from, bytes, queue)
ASIDE(cnMemcpyAsync, (CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue), QUEUED)
ASIDE(cnMemcpyAsync_V2, (CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue), QUEUED)
ASIDE(cnMemcpyAsync_V3, (CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue), QUEUED)
ASIDE(cnMemcpyHtoDAsync, (CNaddr to, const void *from, uint64_t bytes, CNqueue queue), QUEUED)
ASIDE(cnMemcpyHtoDAsync_V2, (CNaddr to, const void *from, uint64_t bytes, CNqueue queue), QUEUED)
ASIDE(cnMemcpyDtoHAsync, (void *to, CNaddr from, uint64_t bytes, CNqueue queue), QUEUED)
ASIDE(cnMemcpyDtoHAsync_V2, (void *to, CNaddr from, uint64_t bytes, CNqueue queue), QUEUED)

ASIDE(cnMemcpyPeer,
      (CNaddr to, CNcontext to_context, CNaddr from, CNcontext from_context, uint64_t bytes),
      (to, to_context, from, from_context, bytes))
ASIDE(cnMemcpyPeerAsync,
      (CNaddr to, CNcontext to_context, CNaddr from, CNcontext from_context, uint64_t bytes,
       CNqueue queue),
      (to, to_context, from, from_context, bytes, queue))
ASIDE(cnMemcpy2D,
      (CNaddr to, uint64_t to_pitch, CNaddr from, uint64_t from_pitch, uint64_t width,
       uint64_t height),
      (to, to_pitch, from, from_pitch, width, height))
ASIDE(cnMemcpy2DAsync,
      (CNaddr to, uint64_t to_pitch, CNaddr from, uint64_t from_pitch, uint64_t width,
       uint64_t height, CNqueue queue),
      (to, to_pitch, from, from_pitch, width, height, queue))
ASIDE(cnMemcpy3D, (CNmemcpy3dParam * parameters), (parameters))
ASIDE(cnMemcpy3DAsync, (const CNmemcpy3dParam *parameters, CNqueue queue), (parameters, queue))

/* -- Waiting for others --------------------------------------------------------------------------------- */

ASIDE(cnQueueWaitNotifier, (CNqueue queue, CNnotifier notifier), (queue, notifier))
ASIDE(cnQueueWaitNotifierWithFlags, (CNqueue queue, CNnotifier notifier, unsigned int flags),
      (queue, notifier, flags))
ASIDE(cnQueueAddCallback,
      (CNqueue queue, CNqueueCallback callback, void *argument, unsigned int flags),
      (queue, callback, argument, flags))
ASIDE(cnInvokeHostFunc, (CNqueue queue, CNhostFn function, void *argument),
      (queue, function, argument))
ASIDE(cnQueueAtomicOperation,
      (CNqueue queue, uint64_t address, uint64_t first, uint64_t second, int kind, uint64_t flag),
      (queue, address, first, second, kind, flag))
