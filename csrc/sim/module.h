/* Modules, libraries and what is found in them. Private to module.c, library.c, func.c, link.c,
 * occupancy.c, texture_ref.c and export_table.c.
 */
#ifndef ALIQUOT_SIM_MODULE_H
#define ALIQUOT_SIM_MODULE_H

#include "image.h"
#include "jit.h"
#include "sim.h"
#include "slots.h"

struct sim_library;
struct sim_texture_ref;

/* An image in a context: what CUmodule points to. */
struct sim_module {
    uint32_t live; /* of sim_slots */
    uint32_t slot_next;
    struct sim_context *ctx; /* owner of its memory */
    struct sim_image *image;
    struct sim_library *library;         /* whose part it is, or NULL */
    struct sim_function **functions;     /* by the image's index; atomic; NULL until asked for */
    struct sim_texture_ref **references; /* by the image's symbol; atomic; NULL until asked for */
    CUdeviceptr data;                    /* of the image's variables; 0: it has none */
    int64_t charged;                     /* bytes that the context was charged */
    struct sim_module *next, **from;     /* in the context's list; under sim_module_lock */
    struct sim_module *library_next;     /* in the library's list; under sim_module_lock */
};

/* What a CUkernel sets for one device; a function made later for that device starts from it. */
struct sim_kernel_settings {
    uint32_t set; /* bit i: attribute i of CUfunction_attribute was set to value[i] */
    int value[32];
};

/* A kernel of a library: what CUkernel points to. */
struct sim_kernel {
    uint32_t live; /* of sim_slots */
    uint32_t slot_next;
    struct sim_library *library;
    const char *name;            /* of the library's image */
    struct sim_function *cached; /* atomic: the function last resolved to, to be checked again */
    struct sim_kernel_settings *settings; /* per device, or NULL; under sim_module_lock */
};

/* Guards the lists of modules, the making of functions, kernels' settings. Never held while
 * memory is taken or given back, nor while anything is waited for. */
extern pthread_mutex_t sim_module_lock;
/* Held while modules end with their context or their library: of the two, one unloads a module.
 * Taken before sim_module_lock. */
extern pthread_mutex_t sim_unload_lock;

extern struct sim_slots sim_function_slots, sim_module_slots, sim_kernel_slots, sim_library_slots;

/* The living thing behind a handle of any value, or NULL. */
static inline struct sim_module *sim_module_get(CUmodule handle) {
    return sim_slots_get(&sim_module_slots, handle);
}
static inline struct sim_kernel *sim_kernel_get(CUkernel handle) {
    return sim_slots_get(&sim_kernel_slots, handle);
}
static inline struct sim_library *sim_library_get(CUlibrary handle) {
    return sim_slots_get(&sim_library_slots, handle);
}

/* Compute capability of a device, major*10+minor. */
unsigned sim_device_cc(CUdevice dev);

/* Loads an image into the owner of `ctx`: charges it, makes its variables. Holds the image.
 * Errors: OUT_OF_MEMORY. */
CUresult sim_module_load(struct sim_context *ctx, struct sim_image *image,
                         struct sim_library *library, struct sim_module **module);
/* Waits for the device's work and gives everything back. */
void sim_module_unload(struct sim_module *module);
/* The module's function of that index, made at first use. Errors: OUT_OF_MEMORY (host). */
CUresult sim_module_function(struct sim_module *module, uint32_t index,
                             struct sim_function **function);
/* Address and size of the module's variable; either may be NULL. Errors: NOT_FOUND. */
CUresult sim_module_variable(struct sim_module *module, const char *name, CUdeviceptr *address,
                             size_t *bytes);
/* cuModuleLoadData of the current context, for every caller of the driver's.
 * Errors: of cuModuleLoadData. */
CUresult sim_module_load_data(const void *data, size_t size, struct sim_jit *jit, CUmodule *handle);

/* Takes the module out of its library's list. */
void sim_library_forget(struct sim_module *module);
/* Ties a function that is being made to the kernel that it is, with what was set for it.
 * The caller holds sim_module_lock. */
void sim_kernel_attach(struct sim_function *function);
/* Gives a function what was set for the kernel on its device. The caller holds sim_module_lock. */
void sim_kernel_apply(const struct sim_kernel *kernel, struct sim_function *function);
/* Remembers a checked setting, and gives it to the functions that are there already.
 * Errors: OUT_OF_MEMORY (host). */
CUresult sim_kernel_set(struct sim_kernel *kernel, CUdevice dev, CUfunction_attribute attribute,
                        int value);
/* What the kernel is on a device, NULL when the library has nothing for it; -1: on any. */
const struct sim_image_function *sim_kernel_image(const struct sim_kernel *kernel, CUdevice dev);
/* Fills in a function as it is before anything is set for it; ctx, module and index are left 0. */
void sim_function_start(struct sim_function *function, const struct sim_image_function *image,
                        CUdevice dev);
/* Sets an attribute of one function. Errors: INVALID_VALUE. */
CUresult sim_function_set(struct sim_function *function, CUfunction_attribute attribute, int value);
CUresult sim_function_read(const struct sim_function *function, CUfunction_attribute attribute,
                           int *value);
/* Loads all libraries into a new context; undone by unloading the context's modules.
 * Errors: OUT_OF_MEMORY. */
CUresult sim_libraries_load(struct sim_context *ctx);
/* The library's module in a context, or NULL. */
struct sim_module *sim_library_module(struct sim_library *library, const struct sim_context *ctx);

/* Texture and surface references (texture_ref.c). */
CUresult sim_texture_ref_make(struct sim_module *module, struct sim_texture_ref **reference);
void sim_texture_ref_free(struct sim_texture_ref *reference);
bool sim_texture_refs_init(void);
bool sim_texture_ref_check(CUtexref handle);

/* Context-local storage (context_storage.c). */
void sim_context_storage_fini(struct sim_context *ctx);

#endif
