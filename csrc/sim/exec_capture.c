/* Stream capture: work is recorded into a graph instead of being carried out.
 *
 * A capture begins in one stream; others join it by waiting for events recorded in it. Each stream
 * of a capture has `ends`: the nodes that its next work will depend on.
 */
#include "capture.h"
#include "event.h"

#include <stdlib.h>

pthread_mutex_t sim_graph_lock = PTHREAD_MUTEX_INITIALIZER;

static struct sim_capture *captures;   /* G */
static _Atomic uint32_t capture_count; /* of `captures`. Relaxed: a hint; G is taken to be sure */
static _Thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

/* A number for the calling thread that no other thread has had. */
static uint64_t thread_number(void) {
    static _Atomic uint64_t numbers;
    static _Thread_local uint64_t number;
    if (number == 0)
        number = atomic_fetch_add_explicit(&numbers, 1, memory_order_relaxed) + 1;
    return number;
}

/* G: the capture that a stream takes part in, or NULL. */
static struct sim_capture *capture_of(const struct sim_stream *stream) {
    return atomic_load_explicit(&stream->capture, memory_order_relaxed); /* under the lock */
}

static struct sim_capture *find_capture(uint64_t id) {
    struct sim_capture *capture = captures;
    while (capture != NULL && capture->id != id)
        capture = capture->next;
    return capture;
}

/* ---- Joining and leaving ------------------------------------------------------------------- */

static void join(struct sim_capture *capture, struct sim_stream *stream) {
    stream->captured_next = capture->streams;
    capture->streams = stream;
    if (stream->blocking)
        atomic_fetch_add_explicit(&stream->exec->capturing, 1, memory_order_relaxed);
    /* Release: pairs with sim_stream_capturing. */
    atomic_store_explicit(&stream->capture, capture, memory_order_release);
}

static void leave(struct sim_stream *stream) {
    stream->ends.count = 0;
    if (stream->blocking)
        atomic_fetch_sub_explicit(&stream->exec->capturing, 1, memory_order_relaxed);
    atomic_store_explicit(&stream->capture, NULL, memory_order_release);
}

/* G: ends a capture; its graph is the caller's. */
static struct sim_graph *end(struct sim_capture *capture) {
    struct sim_graph *graph = capture->graph;
    while (capture->streams != NULL) {
        struct sim_stream *stream = capture->streams;
        capture->streams = stream->captured_next;
        leave(stream);
    }
    struct sim_capture **link = &captures;
    while (*link != capture)
        link = &(*link)->next;
    *link = capture->next;
    atomic_fetch_sub_explicit(&capture_count, 1, memory_order_relaxed);
    if (graph != NULL)
        graph->capturing = false;
    free(capture);
    return graph;
}

CUresult sim_capture_begin(struct sim_stream *stream, CUstreamCaptureMode mode, CUgraph into,
                           struct sim_graph_node *const *before, const CUgraphEdgeData *data,
                           size_t count) {
    static uint64_t ids; /* G */
    if (mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->legacy)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    struct sim_capture *capture = calloc(1, sizeof *capture);
    if (capture == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    sim_graph_enter();
    CUresult result = CUDA_SUCCESS;
    struct sim_graph *graph = into != NULL ? sim_graph_find(into) : NULL;
    if (capture_of(stream) != NULL)
        result = CUDA_ERROR_ILLEGAL_STATE;
    else if (into != NULL && (graph == NULL || graph->capturing))
        result = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        if (before[i]->graph != graph)
            result = CUDA_ERROR_INVALID_VALUE;
        else if (!sim_edges_add(&stream->ends, before[i], data != NULL ? &data[i] : NULL))
            result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS && graph == NULL && (graph = sim_graph_make()) == NULL)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS) {
        stream->ends.count = 0;
        sim_graph_leave();
        free(capture);
        return result;
    }
    graph->capturing = true;
    *capture = (struct sim_capture){.id = ++ids,
                                    .graph = graph,
                                    .borrowed = into != NULL,
                                    .mode = mode,
                                    .thread = thread_number(),
                                    .origin = stream,
                                    .next = captures};
    captures = capture;
    atomic_fetch_add_explicit(&capture_count, 1, memory_order_relaxed);
    join(capture, stream);
    sim_graph_leave();
    return CUDA_SUCCESS;
}

/* ---- The end ------------------------------------------------------------------------------- */

/* G: marks everything that the nodes of `edges` depend on, and themselves. False: no memory. */
static bool mark_before(const struct sim_edges *edges, uint64_t mark) {
    struct sim_edges stack = {0};
    bool ok = true;
    for (size_t i = 0; i < edges->count && ok; i++)
        ok = sim_edges_add(&stack, edges->node[i], NULL);
    while (ok && stack.count > 0) {
        struct sim_graph_node *node = stack.node[--stack.count];
        if (node->mark == mark)
            continue;
        node->mark = mark;
        for (size_t i = 0; i < node->before.count && ok; i++)
            ok = sim_edges_add(&stack, node->before.node[i], NULL);
    }
    sim_edges_free(&stack);
    return ok;
}

/* G: whether all that was captured in other streams is waited for by the origin. */
static bool joined(const struct sim_capture *capture) {
    uint64_t mark = sim_graph_mark();
    if (!mark_before(&capture->origin->ends, mark))
        return false;
    for (const struct sim_stream *stream = capture->streams; stream != NULL;
         stream = stream->captured_next)
        for (size_t i = 0; i < stream->ends.count; i++)
            if (stream->ends.node[i]->mark != mark)
                return false;
    return true;
}

CUresult sim_capture_finish(struct sim_stream *stream, CUgraph *handle) {
    struct sim_graph_object *objects = NULL;
    CUresult result = CUDA_SUCCESS;
    sim_graph_enter();
    struct sim_capture *capture = capture_of(stream);
    if (capture == NULL || capture->origin != stream ||
        (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != thread_number())) {
        result = capture == NULL             ? CUDA_ERROR_ILLEGAL_STATE
                 : capture->origin != stream ? CUDA_ERROR_STREAM_CAPTURE_UNMATCHED
                                             : CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
        sim_graph_leave();
        return result;
    }
    if (capture->invalid)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (!joined(capture))
        result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    bool borrowed = capture->borrowed;
    struct sim_graph *graph = end(capture);
    *handle = NULL;
    if (result == CUDA_SUCCESS)
        *handle = (CUgraph)graph;
    else if (!borrowed && graph != NULL)
        sim_graph_unmake(graph, &objects);
    sim_graph_leave();
    sim_graph_objects_release(objects);
    return result;
}

/* ---- What is not allowed meanwhile --------------------------------------------------------- */

CUresult sim_capture_unsafe(void) {
    if (atomic_load_explicit(&capture_count, memory_order_relaxed) == 0 ||
        thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_SUCCESS;
    CUresult result = CUDA_SUCCESS;
    uint64_t self = thread_number();
    sim_graph_enter();
    for (struct sim_capture *capture = captures; capture != NULL; capture = capture->next) {
        bool own = capture->thread == self && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
        bool global = thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                      capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (own || global) {
            capture->invalid = true;
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    sim_graph_leave();
    return result;
}

CUresult sim_capture_exchange_mode(CUstreamCaptureMode *mode) {
    if (mode == NULL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    CUstreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}

/* Invalidates the captures that streams of the context take part in, those of the legacy order
 * only where `blocking`. Whether there was one. */
static bool invalidate_context(const struct sim_exec *exec, bool blocking) {
    bool any = false;
    if (atomic_load_explicit(&capture_count, memory_order_relaxed) == 0)
        return false;
    sim_graph_enter();
    for (struct sim_capture *capture = captures; capture != NULL; capture = capture->next) {
        for (const struct sim_stream *stream = capture->streams; stream != NULL;
             stream = stream->captured_next) {
            if (stream->exec == exec && (!blocking || stream->blocking)) {
                capture->invalid = true;
                any = true;
            }
        }
    }
    sim_graph_leave();
    return any;
}

CUresult sim_capture_forbid_context(struct sim_exec *exec) {
    return invalidate_context(exec, false) ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult sim_capture_implicit(struct sim_exec *exec) {
    return invalidate_context(exec, true) ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}

CUresult sim_capture_forbid_stream(struct sim_stream *stream) {
    CUresult result = CUDA_SUCCESS;
    sim_graph_enter();
    struct sim_capture *capture = capture_of(stream);
    if (capture != NULL) {
        result = capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                                  : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        capture->invalid = true;
    }
    sim_graph_leave();
    return result;
}

void sim_capture_lose_stream(struct sim_stream *stream) {
    struct sim_graph_object *objects = NULL;
    sim_graph_enter();
    struct sim_capture *capture = capture_of(stream);
    if (capture != NULL && capture->origin == stream) {
        /* Nobody can end it any more. */
        bool borrowed = capture->borrowed;
        struct sim_graph *graph = end(capture);
        if (!borrowed && graph != NULL)
            sim_graph_unmake(graph, &objects);
    } else if (capture != NULL) {
        capture->invalid = true;
        struct sim_stream **link = &capture->streams;
        while (*link != stream)
            link = &(*link)->captured_next;
        *link = stream->captured_next;
        leave(stream);
    }
    sim_graph_leave();
    sim_graph_objects_release(objects);
}

void sim_capture_end_context(struct sim_exec *exec) {
    for (;;) {
        struct sim_stream *found = NULL;
        sim_graph_enter();
        for (struct sim_capture *capture = captures; capture && !found; capture = capture->next)
            for (struct sim_stream *stream = capture->streams; stream && !found;
                 stream = stream->captured_next)
                if (stream->exec == exec)
                    found = stream;
        sim_graph_leave();
        if (found == NULL)
            return;
        sim_capture_lose_stream(found);
    }
}

/* ---- Recording work ------------------------------------------------------------------------ */

CUresult sim_capture_node(struct sim_stream *stream, const CUgraphNodeParams *given,
                          const struct sim_launch_attributes *attributes,
                          struct sim_graph_node **node) {
    struct sim_node_params params;
    struct sim_graph_node *made = NULL;
    sim_graph_enter();
    struct sim_capture *capture = capture_of(stream);
    CUresult result = capture == NULL || capture->invalid
                          ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                          : sim_node_params_take(given, attributes, &params);
    if (result == CUDA_SUCCESS) {
        const struct sim_edges *ends = &stream->ends;
        result = sim_graph_add(capture->graph, ends->node, ends->data, ends->count, &params, &made);
        if (made == NULL)
            sim_node_params_free(&params);
        stream->ends.count = 0;
        if (result == CUDA_SUCCESS && !sim_edges_add(&stream->ends, made, NULL))
            result = CUDA_ERROR_OUT_OF_MEMORY;
        capture->invalid = result != CUDA_SUCCESS;
    }
    sim_graph_leave();
    if (node != NULL)
        *node = made;
    return result;
}

/* ---- Events -------------------------------------------------------------------------------- */

static bool unite(struct sim_edges *edges, struct sim_graph_node *const *node,
                  const CUgraphEdgeData *data, size_t count) {
    static const CUgraphEdgeData full;
    for (size_t i = 0; i < count; i++) {
        const CUgraphEdgeData *kind = data != NULL ? &data[i] : &full;
        if (sim_edges_find(edges, node[i], kind) == SIZE_MAX &&
            !sim_edges_add(edges, node[i], kind))
            return false;
    }
    return true;
}

CUresult sim_capture_record(struct sim_stream *stream, struct sim_event *event) {
    CUresult result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    sim_graph_enter();
    struct sim_capture *capture = capture_of(stream);
    if (capture != NULL && !capture->invalid) {
        event->ends.count = 0;
        const struct sim_edges *ends = &stream->ends;
        if (unite(&event->ends, ends->node, ends->data, ends->count))
            result = CUDA_SUCCESS;
        else
            result = CUDA_ERROR_OUT_OF_MEMORY;
        event->capture_id = capture->id;
    }
    sim_graph_leave();
    return result;
}

bool sim_capture_holds(struct sim_event *event) {
    if (atomic_load_explicit(&capture_count, memory_order_relaxed) == 0)
        return false;
    sim_graph_enter();
    bool holds = event->capture_id != 0 && find_capture(event->capture_id) != NULL;
    sim_graph_leave();
    return holds;
}

CUresult sim_capture_forbid_event(struct sim_event *event) {
    sim_graph_enter();
    struct sim_capture *capture = find_capture(event->capture_id);
    if (capture != NULL)
        capture->invalid = true;
    sim_graph_leave();
    return capture != NULL ? CUDA_ERROR_CAPTURED_EVENT : CUDA_SUCCESS;
}

CUresult sim_capture_wait(struct sim_stream *stream, struct sim_event *event) {
    CUresult result = CUDA_SUCCESS;
    sim_graph_enter();
    struct sim_capture *own = capture_of(stream);
    struct sim_capture *other = event->capture_id == 0 ? NULL : find_capture(event->capture_id);
    if ((own != NULL && own->invalid) || (other != NULL && other->invalid)) {
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (other == NULL) {
        /* The event is of work outside; a capture must not depend on it. */
        if (own != NULL && (event->fence != NULL || event->capture_id != 0))
            result = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    } else if (own != NULL && own != other) {
        result = CUDA_ERROR_STREAM_CAPTURE_MERGE;
    } else if (stream->legacy) {
        result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    } else {
        if (!unite(&stream->ends, event->ends.node, event->ends.data, event->ends.count))
            result = CUDA_ERROR_OUT_OF_MEMORY;
        else if (own == NULL)
            join(other, stream);
    }
    if (result != CUDA_SUCCESS && own != NULL)
        own->invalid = true;
    if (result != CUDA_SUCCESS && other != NULL)
        other->invalid = true;
    sim_graph_leave();
    return result;
}

/* ---- What the application asks of a capture ------------------------------------------------ */

CUresult sim_capture_info(struct sim_stream *stream, struct sim_capture_info *info) {
    *info = (struct sim_capture_info){.status = CU_STREAM_CAPTURE_STATUS_NONE};
    sim_graph_enter();
    struct sim_capture *capture = capture_of(stream);
    if (capture != NULL && capture->invalid) {
        info->status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    } else if (capture != NULL) {
        info->status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
        info->id = capture->id;
        info->graph = (CUgraph)capture->graph;
        info->ends = &stream->ends;
    }
    sim_graph_leave();
    return CUDA_SUCCESS;
}

CUresult sim_capture_update(struct sim_stream *stream, struct sim_graph_node *const *before,
                            const CUgraphEdgeData *data, size_t count, bool replace) {
    CUresult result = CUDA_SUCCESS;
    sim_graph_enter();
    struct sim_capture *capture = capture_of(stream);
    if (capture == NULL)
        result = CUDA_ERROR_ILLEGAL_STATE;
    else if (capture->invalid)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        if (before[i]->graph != capture->graph)
            result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) {
        if (replace)
            stream->ends.count = 0;
        if (!unite(&stream->ends, before, data, count))
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    sim_graph_leave();
    return result;
}
