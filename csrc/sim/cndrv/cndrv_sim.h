/* The simulator's libcndrv.so: what its files share. It works on the state that all the node's
 * libraries keep, so that they tell one story.
 *
 * Everything of the process is under one lock. Kernels of a process run on a device one after the
 * other, in the order in which they were launched; so whatever waits for earlier work in another
 * queue has it behind itself already.
 */
#ifndef ALIQUOT_SIM_CNDRV_H
#define ALIQUOT_SIM_CNDRV_H

#include "cambricon/cndrv.h"
#include "sim/state_private.h"

#include <stdbool.h>

/* ---- The process (init.c) --------------------------------------------------------------------- */

/* A device that the process sees; its place among them is its ordinal and its handle. */
struct sim_cn_device {
    uint32_t number; /* on the node */
    const struct sim_device_config *config;
    struct sim_timeline *timeline;
    int entry; /* in the timeline */
    /* Of the process' clock on the device: what it read at the last look, and up to where it has
     * work. Times of queues and notifiers are readings of this clock. */
    uint64_t run_ns, tail_ns;
    struct sim_cn_object *pending; /* notifiers that are not reached */
    struct sim_cn_object *shared;  /* the shared context, while anybody has acquired it */
    uint32_t shared_count;
    struct sim_cn_object *pool; /* the default memory pool, once it was asked for */
};

struct sim_state *sim_cn_state(void);
uint32_t sim_cn_count(void);
struct sim_cn_device *sim_cn_device(uint64_t ordinal); /* NULL: none such */

/* The lock of everything. sim_cn_enter takes it where the library is initialised in this process;
 * any other answer is what the function returns. */
CNresult sim_cn_enter(void);
void sim_cn_leave(void);
static inline CNresult sim_cn_left(CNresult result) {
    sim_cn_leave();
    return result;
}

/* ---- Handles (object.c) ----------------------------------------------------------------------- */

enum sim_cn_kind {
    SIM_CN_FREE,
    SIM_CN_CONTEXT,
    SIM_CN_QUEUE,
    SIM_CN_NOTIFIER,
    SIM_CN_MODULE,
    SIM_CN_KERNEL,
    SIM_CN_PHYSICAL,
    SIM_CN_POOL,
};

struct sim_cn_object {
    enum sim_cn_kind kind;
    struct sim_cn_object *context; /* in which it lives; NULL: in none */
    struct sim_cn_object *next;    /* free ones; pending notifiers */
    struct sim_frames frames;      /* what it holds of the device */
    struct sim_cn_device *device;
    union {
        uint64_t tail_ns; /* QUEUE, CONTEXT (its default queue): when its last work is done */
        struct {          /* NOTIFIER */
            uint64_t run_ns, real_ns; /* when it is reached, by both clocks; 0: not yet */
            bool placed, waits;
        };
        struct { /* KERNEL */
            struct sim_cn_object *module;
            uint64_t ns; /* UINT64_MAX: its first parameter says it, eight bytes */
            char name[64];
        };
        struct { /* PHYSICAL */
            uint64_t bytes;
            uint32_t handles, maps;
        };
        struct { /* POOL: what was allocated, and what was freed and is kept until somebody waits */
            uint64_t used_pages;
            struct sim_frames kept;
        };
    };
};

/* A new one, NULL: no host memory. */
struct sim_cn_object *sim_cn_new(enum sim_cn_kind kind, struct sim_cn_object *context);
/* Frees it, with the memory that it holds. */
void sim_cn_end(struct sim_cn_object *object);
/* The object behind a handle; NULL: it is no living one of the kind. */
struct sim_cn_object *sim_cn_find(enum sim_cn_kind kind, const void *handle);
/* Ends whatever `doomed` says of, but contexts. */
void sim_cn_sweep(bool (*doomed)(const struct sim_cn_object *object, const void *argument),
                  const void *argument);

/* ---- Contexts (context.c) --------------------------------------------------------------------- */

/* The calling thread's; NULL: none that lives. */
struct sim_cn_object *sim_cn_current(void);

/* ---- Memory (memory.c) ------------------------------------------------------------------------ */

/* Takes so many bytes of a device, in whole pages. */
bool sim_cn_take(struct sim_cn_device *device, uint64_t bytes, struct sim_frames *frames);
/* A range of addresses at a page's boundary; 0: none. Its bytes are the host's, zero at first. */
CNaddr sim_cn_reserve(const struct sim_cn_device *device, uint64_t bytes);
void sim_cn_unreserve(CNaddr address, uint64_t bytes);
/* All memory of a context is gone. */
void sim_cn_memory_end(const struct sim_cn_object *context);
/* Somebody has waited: pools give back what was freed. */
void sim_cn_trim(struct sim_cn_device *device);

/* ---- Time (queue.c) --------------------------------------------------------------------------- */

/* The end of a queue's work, which may be a default queue's of the current context; NULL: none such.
 * `*device`: where it is. */
uint64_t *sim_cn_tail(CNqueue queue, struct sim_cn_device **device);
/* Gives the device work for so long, behind what it has and in the queue whose end is given. */
void sim_cn_work(struct sim_cn_device *device, uint64_t *tail, uint64_t ns);
/* Waits, without the lock meanwhile, until the clock of the device reads so much. */
void sim_cn_wait(struct sim_cn_device *device, uint64_t run_ns);
/* Notifiers of a context are gone. */
void sim_cn_forget_pending(struct sim_cn_device *device, const struct sim_cn_object *context);

#endif
