/* The simulator's Ascend runtime: what its files share. Each function is one or a few of the simulated
 * driver's (csrc/sim), whose streams, events, memory and time they are. */
#ifndef ALIQUOT_SIM_ACL_SIM_H
#define ALIQUOT_SIM_ACL_SIM_H

#include "../sim.h"

#include "../exec_impl.h"
#include "../memory.h"

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

/* -- What streams are given to do ---------------------------------------------------------------------- */

enum acl_kind { ACL_KERNEL, ACL_COPY, ACL_INDIRECT, ACL_FILL, ACL_HOST, ACL_WRITE, ACL_WAIT };

/* A copy between addresses that are read where it stands in the stream, as its size is when there is a
 * place for it. */
struct acl_indirect {
    const uint64_t *to, *from;
    uint64_t to_offset, from_offset, size;
    const uint32_t *size_at; /* or NULL */
};

struct acl_work {
    enum acl_kind kind;
    union {
        struct sim_op kernel;
        struct {
            CUdeviceptr to, from;
            size_t size;
        } copy;
        struct acl_indirect indirect;
        struct {
            CUdeviceptr at;
            uint32_t value;
            bool words; /* of 32 bits, else the value's lowest byte */
            size_t size;
        } fill;
        struct {
            rtCallback_t function;
            void *data;
        } host;
        struct {
            CUdeviceptr at;
            uint64_t value;
            uint32_t compare;
        } word; /* WRITE: it becomes the value; WAIT: it compares so with it */
    };
};

/* Does it in the stream, or records it where the stream records. */
rtError_t acl_submit(const struct acl_work *work, rtStream_t stream);

/* Does it, whatever the stream is. */
rtError_t acl_do(const struct acl_work *work, rtStream_t stream);

/* A kernel becomes part of what is recorded of a stream that is captured (model.c). Errors:
 * RT_CAPTURE_INVALIDATED. */
rtError_t acl_record_kernel(CUstream stream, uint32_t sms, uint64_t ns);

/* kernel.c: a launch of a kernel that is only known by its name, with the arguments, or NULL. */
rtError_t acl_launch_named(const char *name, uint32_t blocks, const void *args, rtStream_t stream);

/* Of a function that the program has registered by an address, or got a handle for. */
rtError_t acl_launch(const void *function, uint32_t blocks, const void *args, rtStream_t stream);

/* args.c: the arguments that a handle stands for, or NULL. */
const void *acl_args_of(const void *handle);

/* model.c: whether the stream is bound and so records, and then what came of it. */
bool acl_records(rtStream_t stream, const struct acl_work *work, rtError_t *result);
bool acl_event_records(rtEvent_t event, rtStream_t stream, rtError_t *result);
bool acl_event_waits(rtStream_t stream, rtEvent_t event, rtError_t *result);

#endif
