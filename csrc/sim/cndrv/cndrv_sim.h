/* The simulator's libcndrv.so: what its files share. Each function is one or a few of the simulated
 * driver's (csrc/sim), whose contexts, streams, events, graphs, memory and time they are: a queue is a
 * stream, a notifier an event, a TaskTopo a graph, by the same handles.
 */
#ifndef ALIQUOT_SIM_CNDRV_H
#define ALIQUOT_SIM_CNDRV_H

#include "../sim.h"
#include "cambricon/cndrv.h"

/* The library's code for what the driver answered. */
CNresult cn_error(CUresult result);
/* The same, where one code means something else here. */
static inline CNresult cn_error_as(CUresult result, CUresult which, CNresult meaning) {
    return result == which ? meaning : cn_error(result);
}

/* Initialised, not a forked child, and not within a host function of a queue.
 * Errors: NOT_INITIALIZED, OPS_NOT_PERMITTED. */
CNresult cn_begin(void);
/* The same, and the thread has a context. Errors: CONTEXT_INVALID too. */
CNresult cn_enter(struct sim_context **context);

/* The driver's name of a queue, whose default ones have other numbers. */
static inline CUstream cn_stream(CNqueue queue) {
    if (queue == CN_QUEUE_TYPE_PER_THREAD)
        return CU_STREAM_PER_THREAD;
    return queue == CN_QUEUE_TYPE_LEGACY ? CU_STREAM_LEGACY : (CUstream)(void *)queue;
}
/* What a call that was given a queue answers. */
static inline CNresult cn_queued(CUresult result) {
    return cn_error_as(result, CUDA_ERROR_INVALID_HANDLE, CN_QUEUE_ERROR_INVALID);
}
/* What a call that was given a queue and a notifier answers (queue.c). */
CNresult cn_noted(CUresult result, CNnotifier notifier);

/* How a kernel is launched as one of the driver's (module.c): its parameters say what the program
 * launched. Points into itself. */
struct cn_launch {
    CUDA_KERNEL_NODE_PARAMS node;
    uint64_t ns;
    CNkernel kernel;
    uint32_t x, y, z, kind;
    void *parameters[6];
};
/* Errors: INVALID_HANDLE (no living kernel), INVALID_VALUE. */
CNresult cn_launch(struct cn_launch *launch, const CN_KERNEL_NODE_PARAMS *what);
/* The other way round, for a node of a graph. */
void cn_launched(const CUDA_KERNEL_NODE_PARAMS *node, CN_KERNEL_NODE_PARAMS *what);

/* What follows from a device's model (attribute.c): the number in its name (0: none), its clusters, each of
 * so many cores, and the class of a kernel that takes most of so many. */
enum { CN_CLUSTER_CORES = 4 };
unsigned cn_model(const struct sim_device_config *config);
uint32_t cn_clusters(const struct sim_device_config *config);
KernelClass cn_widest(uint32_t clusters);

/* What a copy of whole bytes is as one of the driver's (copy.c). */
CUDA_MEMCPY3D cn_copy(const CNmemcpy3dParam *what);

#endif
