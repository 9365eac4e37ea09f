/* The simulator's Ascend runtime: what its files share. Each function is one or a few of the simulated
 * driver's (csrc/sim), whose streams, events, memory and time they are. */
#ifndef ALIQUOT_SIM_ACL_SIM_H
#define ALIQUOT_SIM_ACL_SIM_H

#include "../sim.h"
#include "ascend/runtime.h"

/* The vendor's code for what the driver answered. */
rtError_t acl_error(CUresult result);

/* Sees to it that the node is open. */
rtError_t acl_begin(void);

/* The same, and the thread has a context, which is current in the driver. `*device` may be NULL.
 * Errors: RT_CONTEXT_NULL. */
rtError_t acl_enter(int32_t *device);

/* The driver's stream; NULL stands for the current device's default stream. Between enter and the end
 * of the call. */
rtError_t acl_stream(rtStream_t stream, CUstream *found);

/* A kernel of so many nanoseconds on so many processors becomes part of what is recorded of a stream
 * (model.c). Errors: RT_CAPTURE_INVALIDATED. */
rtError_t acl_record_kernel(CUstream stream, uint32_t sms, uint64_t ns);

#endif
