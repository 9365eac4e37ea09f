/* What the files about virtual memory management know of each other. */
#ifndef ALIQUOT_SIM_VMM_H
#define ALIQUOT_SIM_VMM_H

#include "memory.h"

struct binding;

/* A physical allocation, or a multicast object; CUmemGenericAllocationHandle points to it. It
 * lives while `handles`, `maps` or `bindings` is not 0. Under vmm_lock, what is not constant. */
struct vmm {
    CUmemAllocationProp prop;    /* constant */
    uint64_t bytes;              /* constant */
    uint32_t physical;           /* constant; SIM_DEVICES_MAX: host memory, or a multicast object */
    bool multicast;              /* constant */
    struct sim_frames frames;    /* device memory; constant */
    CUdeviceptr host;            /* host memory: a mapping of all of it, kept for making others */
    struct sim_share_name share; /* nonce 0: not shared yet */
    uint32_t handles;            /* created, retained, imported */
    uint32_t maps;               /* mappings, sparse tiles */
    uint32_t bound;              /* to multicast objects */
    struct binding *bindings;    /* of a multicast object */
    struct vmm *next, **from;    /* in the list of all */
};

extern pthread_mutex_t vmm_lock;

/* All under vmm_lock: */
/* The object behind a handle that is in use, or NULL. */
struct vmm *vmm_get(CUmemGenericAllocationHandle handle);
/* An empty object with one handle, or NULL. */
struct vmm *vmm_make(const CUmemAllocationProp *prop, uint64_t bytes, uint32_t physical);
/* Ends an object that nothing uses any more. */
void vmm_settle(struct vmm *vmm);
/* The object of this process that stands for a share, or NULL. */
struct vmm *vmm_of_share(const struct sim_share_name *name);
/* One more handle of it. False: no host memory. */
bool vmm_hold(struct vmm *vmm);
/* One handle fewer; the object ends with its last use. */
void vmm_drop(struct vmm *vmm);

/* The reserved addresses around one, or false. Takes vmm_lock. */
bool vmm_reservation(CUdeviceptr address, CUdeviceptr *base, uint64_t *bytes);

/* Whether a location is device or host memory that can be had here.
 * Errors: INVALID_VALUE, INVALID_DEVICE, NOT_SUPPORTED. */
CUresult vmm_check_location(const CUmemLocation *location, uint32_t *physical);
/* Bytes that sizes and addresses of such memory are multiples of. */
uint64_t vmm_granularity(uint32_t physical);
/* Makes host memory that can be mapped several times; with `share` in a file that other processes
 * can map too. Errors: OUT_OF_MEMORY. */
CUresult vmm_fill_host(struct vmm *vmm, bool shareable);
/* Ends a multicast object's bindings. */
void multicast_unbind_all(struct vmm *multicast);
/* Waits until all devices of a multicast team were added. Holds no lock. */
void multicast_wait(struct vmm *multicast);

#endif
