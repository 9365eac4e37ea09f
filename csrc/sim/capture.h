/* Captures, for exec_capture.c and the calls of stream_capture.c. */
#ifndef ALIQUOT_SIM_CAPTURE_H
#define ALIQUOT_SIM_CAPTURE_H

#include "graph.h"

/* A capture under way. All G. */
struct sim_capture {
    uint64_t id; /* unique in the process */
    struct sim_graph *graph;
    bool borrowed; /* the graph is the application's: cuStreamBeginCaptureToGraph */
    bool invalid;
    CUstreamCaptureMode mode;
    uint64_t thread; /* that began it */
    struct sim_stream *origin;
    struct sim_stream *streams; /* that take part */
    struct sim_capture *next;
};

/* Begins a capture in `stream`; `into` NULL: into a new graph. Errors: INVALID_VALUE,
 * ILLEGAL_STATE (it captures already), STREAM_CAPTURE_UNSUPPORTED (the legacy default stream). */
CUresult sim_capture_begin(struct sim_stream *stream, CUstreamCaptureMode mode, CUgraph into,
                           struct sim_graph_node *const *before, const CUgraphEdgeData *data,
                           size_t count);
/* Ends it. Errors: ILLEGAL_STATE, STREAM_CAPTURE_{UNMATCHED,WRONG_THREAD}, after which it goes on;
 * STREAM_CAPTURE_{INVALIDATED,UNJOINED}, after which it is over and *graph is NULL. */
CUresult sim_capture_finish(struct sim_stream *stream, CUgraph *graph);
CUresult sim_capture_exchange_mode(CUstreamCaptureMode *mode);

struct sim_capture_info {
    CUstreamCaptureStatus status;
    uint64_t id;
    CUgraph graph;
    const struct sim_edges *ends; /* the stream's own: valid until its next work */
};
CUresult sim_capture_info(struct sim_stream *stream, struct sim_capture_info *info);
/* Adds to, or replaces, what the stream's next work depends on. Errors: ILLEGAL_STATE,
 * STREAM_CAPTURE_INVALIDATED, INVALID_VALUE (a node of another graph), OUT_OF_MEMORY. */
CUresult sim_capture_update(struct sim_stream *stream, struct sim_graph_node *const *before,
                            const CUgraphEdgeData *data, size_t count, bool replace);

#endif
