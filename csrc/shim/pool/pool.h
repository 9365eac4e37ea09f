/* Pools of memory that is given in the order of a queue, for vendors' shims whose pools tell how much they have
 * reserved: that is what is charged for them. Growth is charged before the driver is asked (growth.h) and
 * settled after it; what a pool gives back by itself is taken up when a synchronising call returns, and always
 * before a refusal.
 *
 * A pool that is full of gaps serves from them at the cap: what it has there is charged already.
 *
 * A pool that the program has destroyed lives until its last piece is given back, and could not be asked any more
 * how much it has: so the driver is told only when it is empty, and until then it is gone to the program.
 */
#ifndef ALIQUOT_SHIM_POOL_POOL_H
#define ALIQUOT_SHIM_POOL_POOL_H

#include "growth.h"

/* The vendor's part: what is asked of the driver, by a pool's handle. */
struct aliquot_pool_driver {
    /* Bytes that it has reserved, and that programs have of it. False: it does not tell. */
    bool (*reserved)(uint64_t pool, uint64_t *bytes);
    bool (*used)(uint64_t pool, uint64_t *bytes);
    void (*trim)(uint64_t pool);
    int (*destroy)(uint64_t pool); /* 0: it has; else the driver's error */
    /* Sets how much it keeps for later, and tells how much that was, if `before` is not NULL. NULL, or false: it
     * cannot be told, and then nothing is served from gaps. */
    bool (*keep)(uint64_t pool, uint64_t bytes, uint64_t *before);
    aliquot_try_growth *try;
};
extern const struct aliquot_pool_driver aliquot_pool_driver;

/* -- Pools --------------------------------------------------------------------------------------------- */

/* A pool gives memory of the device. */
void aliquot_pool_made(uint64_t pool, uint32_t device);
/* The device of a pool that is known; -1: it is not. */
int aliquot_pool_device(uint64_t pool);

/* The program destroys a pool. */
enum aliquot_pool_end {
    ALIQUOT_POOL_NOT_OURS, /* tell the driver */
    ALIQUOT_POOL_ENDED,    /* now or later, or not: `*error` is the driver's */
    ALIQUOT_POOL_GONE,     /* it has done so before */
};
enum aliquot_pool_end aliquot_pool_destroy(uint64_t pool, int *error);

/* A pool of our own has been used for a trial, and is ended as soon as may be. Answers what it keeps till then. */
uint64_t aliquot_pool_end_trial(uint64_t pool, uint32_t device);

/* -- Pieces -------------------------------------------------------------------------------------------- */

/* A request to a pool, between the question whether there is room and the driver's answer, which are a thread's
 * own: others wait. */
struct aliquot_pool_request {
    uint64_t pool, bytes; /* bytes: whole pages */
    uint64_t ahead;       /* charged; 0: it is to be served from a gap */
    uint64_t kept;        /* what the pool keeps for later, when it is not to shrink meanwhile */
    uint32_t device;
};
enum aliquot_pool_answer {
    ALIQUOT_POOL_ASK, /* the driver */
    ALIQUOT_POOL_REFUSED,
    ALIQUOT_POOL_DESTROYED,
};
/* Whether the driver is to be asked for `bytes` of a pool of the device. */
enum aliquot_pool_answer aliquot_pool_ask(struct aliquot_pool_request *request, uint64_t pool,
                                          uint32_t device, uint64_t bytes);
/* It is out of memory: whether to ask it once more, because of a process that has just died. Others are let in
 * meanwhile. */
bool aliquot_pool_again(unsigned *round);
/* It has given a piece of so many bytes, or none (0). False: the pool has grown by what the slice may not have,
 * and the piece is to be freed; then aliquot_pool_took_back says so, and it may be asked for once more. */
bool aliquot_pool_gave(const struct aliquot_pool_request *request, uint64_t pointer,
                       uint64_t bytes);
void aliquot_pool_took_back(const struct aliquot_pool_request *request);

/* -- All of them --------------------------------------------------------------------------------------- */

/* Before a refusal: they give back what nobody uses. */
void aliquot_pools_settle(uint32_t device);
/* After a wait: what they have given back is taken up. Cheap when there are none. */
void aliquot_pools_waited(void);
/* All that a device had is gone. */
void aliquot_pools_device_gone(uint32_t device);
/* A forked child owns nothing of its parent's. */
void aliquot_pools_forget(void);

#endif
