/* Events: what records make and others wait for. */
#ifndef ALIQUOT_SIM_EVENT_H
#define ALIQUOT_SIM_EVENT_H

#include "event_shared.h"
#include "exec_impl.h"
#include "graph.h"

struct sim_event {
    uint32_t live;           /* as slots.h says */
    uint32_t context_serial; /* of the context whose streams may record it, green ones left out */
    CUdevice dev;
    unsigned flags; /* CU_EVENT_* */
    pthread_mutex_t lock;
    struct sim_fence *fence; /* under lock: of the last record; NULL: none, or it was captured */
    struct sim_shared_event *shared; /* of an interprocess event, or NULL */
    bool imported;                   /* it belongs to another event, here or elsewhere */
    /* G: what the last record captured; a capture's number, 0: none. */
    uint64_t capture_id;
    struct sim_edges ends;
};

struct sim_event *sim_event_find(CUevent handle);
/* Makes an event; `shared` is its own unless `imported`. Errors: OUT_OF_MEMORY (host), after which
 * `shared` is still the caller's. */
CUresult sim_event_make(struct sim_context *ctx, unsigned flags, struct sim_shared_event *shared,
                        bool imported, CUevent *handle);
/* Records an event in a stream that does not capture. Errors: OUT_OF_MEMORY (host). */
CUresult sim_event_record(struct sim_event *event, struct sim_stream *stream);
/* The fence of the last record, held, or NULL. */
struct sim_fence *sim_event_fence(struct sim_event *event);
/* Replaces the fence by a new one of a record to come, held for the caller as well; NULL: no
 * host memory. */
struct sim_fence *sim_event_renew(struct sim_event *event);

/* Records an event in a capturing stream. Errors: STREAM_CAPTURE_INVALIDATED, OUT_OF_MEMORY. */
CUresult sim_capture_record(struct sim_stream *stream, struct sim_event *event);
/* Whether the event was last recorded in a capture that is under way. */
bool sim_capture_holds(struct sim_event *event);
/* Refuses to ask after, or wait for, such an event: its capture is then invalid.
 * Errors: CAPTURED_EVENT. */
CUresult sim_capture_forbid_event(struct sim_event *event);
/* Makes a stream that captures, or that waits for a captured event, depend on the event.
 * Errors: STREAM_CAPTURE_{INVALIDATED,MERGE,ISOLATION,IMPLICIT}, OUT_OF_MEMORY. */
CUresult sim_capture_wait(struct sim_stream *stream, struct sim_event *event);

#endif
