/* Graphs: the structure that the application builds or a capture records, and what is made from it
 * to be launched.
 *
 * One lock guards the structure of all graphs, captures included: building is not on the way of
 * launches. It is taken before a stream's push_lock and the engine's lock, never after them.
 */
#ifndef ALIQUOT_SIM_GRAPH_H
#define ALIQUOT_SIM_GRAPH_H

#include "exec_impl.h"
#include "launch.h"

extern pthread_mutex_t sim_graph_lock; /* fields marked G */
static inline void sim_graph_enter(void) { pthread_mutex_lock(&sim_graph_lock); }
static inline void sim_graph_leave(void) { pthread_mutex_unlock(&sim_graph_lock); }

/* ---- Parameters of nodes ------------------------------------------------------------------- */

/* A kernel node's own copy of its arguments, and its attributes. */
struct sim_kernel_store {
    struct sim_launch launch; /* launch.attributes points to `attributes` */
    struct sim_launch_attributes attributes;
    uint32_t param_count;
    size_t bytes;    /* of `data` */
    void *extra[5];  /* what the parameters' `extra` points to, where it was given so */
    void **pointers; /* what `kernelParams` points to otherwise */
    uint8_t data[];
};

/* The memory of an allocation node, shared by the node and its copies in executables. G. */
struct sim_graph_memory {
    uint32_t holders;
    CUdevice dev;
    CUdeviceptr ptr;
};
struct sim_alloc_store {
    struct sim_graph_memory *memory;
    CUmemAccessDesc access[]; /* what the parameters' accessDescs points to */
};

/* What a node does: the driver's own description, with everything it points to owned. */
struct sim_node_params {
    CUgraphNodeParams api;
    void *store; /* malloc'ed: sim_kernel_store, sim_alloc_store, a batch's array; else NULL */
};

/* G: checks a description and makes an own copy of all it points to; `attributes` of a kernel, or
 * NULL. The graph of a child graph node is copied, or taken over where the description says so.
 * Errors: those of the add-node calls. */
CUresult sim_node_params_take(const CUgraphNodeParams *given,
                              const struct sim_launch_attributes *attributes,
                              struct sim_node_params *params);
/* G: an own copy of an own copy. Errors: OUT_OF_MEMORY, NOT_SUPPORTED (memory nodes in a child
 * graph that is not for an executable). */
CUresult sim_node_params_copy(const struct sim_node_params *params, bool executable,
                              struct sim_node_params *copy);
/* G. A child graph that no node has taken goes too. */
void sim_node_params_free(struct sim_node_params *params);

/* Whether a kernel node's function is still loaded. */
bool sim_kernel_alive(const struct sim_kernel_store *store);

static inline struct sim_kernel_store *sim_kernel_store(const struct sim_node_params *params) {
    return params->store;
}

/* ---- Structure ----------------------------------------------------------------------------- */

struct sim_graph;

/* All G. */
struct sim_graph_node {
    uint32_t live; /* as slots.h says */
    uint32_t id;   /* within its graph, ascending */
    struct sim_graph *graph;
    struct sim_node_params params;
    struct sim_edges before; /* what it depends on */
    struct sim_edges after;  /* what depends on it */
    uint64_t mark;           /* of a walk over the graph */
    uint32_t index;          /* scratch of a walk; in an executable: of its step */
    bool disabled;           /* in an executable */
};

struct sim_graph_object {
    struct sim_user_object *object;
    unsigned count;
    struct sim_graph_object *next;
};

/* All G. */
struct sim_graph {
    uint32_t live;                 /* as slots.h says */
    uint32_t id;                   /* unique in the process */
    struct sim_graph_node **nodes; /* by ascending id */
    size_t count, room;
    uint32_t next_id;
    uint32_t cloned_from;             /* id of the graph that this is a copy of, or 0 */
    struct sim_graph_node *parent;    /* node that owns it, or NULL */
    struct sim_graph_exec *exec;      /* executable whose private copy it is, or NULL */
    struct sim_graph_object *objects; /* user objects it holds */
    uint32_t allocations;             /* memory nodes in it */
    uint32_t executables; /* alive, made from it; one at most where it has memory nodes */
    bool capturing;
};

struct sim_graph *sim_graph_find(CUgraph handle);
struct sim_graph_node *sim_graph_node_find(CUgraphNode handle);

/* G: an empty graph; NULL: no host memory. */
struct sim_graph *sim_graph_make(void);
/* G: adds and removes an edge between existing nodes. Errors: INVALID_VALUE (of different graphs, a
 * circle, there already or not there, impossible edge data), OUT_OF_MEMORY. */
CUresult sim_graph_connect(struct sim_graph_node *from, struct sim_graph_node *to,
                           const CUgraphEdgeData *data);
CUresult sim_graph_disconnect(struct sim_graph_node *from, struct sim_graph_node *to,
                              const CUgraphEdgeData *data);
/* G: destroys a graph and all in it. User objects are released after the lock: *objects collects
 * them for sim_graph_objects_release. */
void sim_graph_unmake(struct sim_graph *graph, struct sim_graph_object **objects);
void sim_graph_objects_release(struct sim_graph_object *objects);
/* G: makes a copy hold what the original holds. Errors: OUT_OF_MEMORY. */
CUresult sim_graph_objects_copy(const struct sim_graph *graph, struct sim_graph *copy);
/* G: a copy, child graphs included, nodes in the same order and with the same ids.
 * Errors: OUT_OF_MEMORY, NOT_SUPPORTED (memory nodes, unless for an executable). */
CUresult sim_graph_copy(const struct sim_graph *graph, bool executable, struct sim_graph **copy);
/* G: the node of a copy with that id, or NULL. */
struct sim_graph_node *sim_graph_node_by_id(const struct sim_graph *graph, uint32_t id);
/* G: adds a node that takes over *params, behind `count` living nodes (`data` NULL: full
 * dependencies). Errors: INVALID_VALUE (a node of another graph, or twice the same edge, or edge
 * data that no node gives), OUT_OF_MEMORY; *params is still the caller's then. */
CUresult sim_graph_add(struct sim_graph *graph, struct sim_graph_node *const *before,
                       const CUgraphEdgeData *data, size_t count, struct sim_node_params *params,
                       struct sim_graph_node **node);
/* G: removes a node and its edges. */
void sim_graph_remove(struct sim_graph_node *node, struct sim_graph_object **objects);
/* G: adds an edge to a list (`data` NULL: a full dependency); false: no host memory. */
bool sim_edges_add(struct sim_edges *edges, struct sim_graph_node *node,
                   const CUgraphEdgeData *data);
/* G: place of an edge in a list, or SIZE_MAX. */
size_t sim_edges_find(const struct sim_edges *edges, const struct sim_graph_node *node,
                      const CUgraphEdgeData *data);
void sim_edges_remove(struct sim_edges *edges, size_t place);
void sim_edges_free(struct sim_edges *edges);
/* G: a new mark for a walk. */
uint64_t sim_graph_mark(void);

/* ---- Capture ------------------------------------------------------------------------------- */

/* Adds a node to the capture that `stream` takes part in, behind its ends. A description that is
 * not valid invalidates nothing. `node` may be NULL. Errors: STREAM_CAPTURE_INVALIDATED, and of
 * sim_node_params_take and sim_graph_add. */
CUresult sim_capture_node(struct sim_stream *stream, const CUgraphNodeParams *given,
                          const struct sim_launch_attributes *attributes,
                          struct sim_graph_node **node);

#endif
