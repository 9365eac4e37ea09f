/* What the files about arrays know of each other. */
#ifndef ALIQUOT_SIM_ARRAY_H
#define ALIQUOT_SIM_ARRAY_H

#include "memory.h"

struct vmm;

/* A mapping of tiles of a sparse array, or of a whole one whose mapping was deferred. */
struct tile {
    struct tile *next;
    struct vmm *memory;
    CUarrayMapInfo where;
};

/* What arrays and mipmapped arrays both are. */
struct sim_array_memory {
    struct sim_array_memory *next, **from; /* in the list of all: arrays_lock */
    struct sim_context *ctx;
    struct extent *extent; /* NULL: sparse, or mapping deferred */
    struct tile *tiles;    /* arrays_lock */
    uint64_t bytes;        /* padded, all levels */
    bool mipmap;
    void *object; /* struct sim_array or sim_mipmap */
};

struct sim_mipmap {
    struct sim_array_memory memory;
    CUDA_ARRAY3D_DESCRIPTOR desc;
    unsigned level_count;
    struct sim_array levels[];
};

extern pthread_mutex_t arrays_lock;

/* The living mipmapped array behind a handle, or NULL. */
struct sim_mipmap *mipmap_get(CUmipmappedArray handle);
bool array_layered(const CUDA_ARRAY3D_DESCRIPTOR *desc);
/* Errors: INVALID_VALUE, NOT_SUPPORTED. */
CUresult array_check(CUdevice dev, const CUDA_ARRAY3D_DESCRIPTOR *desc);
/* Fills in the layout of one level, without an address. */
void array_lay_out(struct sim_array *array, CUdevice dev, const CUDA_ARRAY3D_DESCRIPTOR *desc);
/* Gives the memory a place, unless what lies in it is mapped later; and lists it.
 * Errors: OUT_OF_MEMORY. */
CUresult array_get_memory(struct sim_array_memory *memory, struct sim_context *ctx, unsigned flags);
/* Ends an array or mipmapped array whose handle is gone. Under arrays_lock. */
void array_end(struct sim_array_memory *memory);
/* Ends one mapping. Under arrays_lock. */
void array_drop_tile(struct tile **link);

#endif
