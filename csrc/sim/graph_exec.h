/* Executables: what is made from graphs to be launched.
 *
 * An executable keeps a private copy of its graph, which updates change. A program is compiled from
 * the copy, child graphs laid flat, at instantiation and again at the first launch after a change;
 * launches under way keep the program that they started with.
 */
#ifndef ALIQUOT_SIM_GRAPH_EXEC_H
#define ALIQUOT_SIM_GRAPH_EXEC_H

#include "graph.h"

/* One operation of a program. Never changes. */
struct sim_step {
    struct sim_op op; /* a template: a job that it points to is the program's */
    CUdevice dev;
    bool has_priority;
    int priority;
    uint32_t before;     /* how many steps it waits for */
    uint32_t next_first; /* its successors in `next` */
    uint32_t next_count;
    uint64_t tail_ns, quiet_ns; /* as in sim_item */
    struct sim_event *event;    /* RECORD, WAIT */
    uint32_t memory;            /* CALL: place in the program's memory, */
    bool frees;                 /* where it is a free's */
};

/* An allocation or a free that a program makes. */
struct sim_program_memory {
    CUdevice dev;
    CUdeviceptr ptr;
    bool alloc;
};

struct sim_program {
    uint32_t holders;    /* atomic */
    void *_Atomic spare; /* memory of a run that is over, for the next one; or NULL */
    uint32_t step_count, kernel_count;
    struct sim_step *steps;
    uint32_t *next;
    struct sim_program_memory *memory; /* its allocations, then its frees */
    uint32_t alloc_count, free_count;
};

/* Compiles a graph that belongs to an executable. G. Errors: OUT_OF_MEMORY (host), and of what
 * nodes do where it has become impossible (INVALID_VALUE, INVALID_HANDLE). *failed: that node. */
CUresult sim_program_make(const struct sim_graph *graph, bool priorities,
                          struct sim_program **program, struct sim_graph_node **failed);
void sim_program_hold(struct sim_program *program);
void sim_program_drop(struct sim_program *program);

struct sim_graph_exec {
    uint32_t live;            /* as slots.h says */
    uint32_t id;              /* unique among executables */
    _Atomic uint32_t holders; /* the handle, and each launch that is not over */
    struct sim_graph *graph;  /* G: private copy */
    struct sim_graph *origin; /* G: what it was made from, if that still has `origin_id` */
    uint32_t origin_id;
    pthread_mutex_t launching; /* launches are queued one after another; taken before all others */
    uint64_t flags;
    struct sim_program *program; /* G; NULL: to be compiled */
    struct sim_fence *last;      /* G: of the last launch; NULL: none */
};

struct sim_graph_exec *sim_graph_exec_find(CUgraphExec handle);
/* G: the node of the private copy that stands for a node of the graph that it was made from, or of
 * a child graph of that; NULL when it is none. */
struct sim_graph_node *sim_graph_exec_node(const struct sim_graph_exec *exec,
                                           const struct sim_graph_node *node);
/* G: the copy has changed. */
void sim_graph_exec_changed(struct sim_graph_exec *exec);
/* Without locks. The last holder frees it. */
void sim_graph_exec_drop(struct sim_graph_exec *exec);
/* G: compiles what has changed. Errors: of sim_program_make. */
CUresult sim_graph_exec_compile(struct sim_graph_exec *exec, struct sim_graph_node **failed);

/* Makes a run: one launch of a program in a stream. Holds both. NULL: no host memory. Events that
 * it records are renewed, those it waits for read, so it must be launched. G. */
struct sim_run *sim_run_make(struct sim_graph_exec *exec, struct sim_program *program,
                             struct sim_stream *stream);
/* Frees a run that is over. Without locks. For sim_stream_call. */
void sim_run_free(void *run);

#endif
