/* What a module image says: PTX text, cubin and fatbin are parsed into one description, and the
 * functions made from it are resolved for launches.
 *
 * The parser trusts nothing: every offset, count and size of an image is checked against the
 * image's extent before it is used, and a parsed image owns copies of all it needs, so that the
 * caller's bytes may go once sim_image_parse has returned.
 */
#ifndef ALIQUOT_SIM_IMAGE_H
#define ALIQUOT_SIM_IMAGE_H

#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_context;

/* ---- Parsed images ------------------------------------------------------------------------ */

/* One kernel parameter: where it lies in the packed parameter buffer, in bytes. */
struct sim_param {
    uint32_t offset;
    uint32_t size;
};

/* One entry (kernel) of an image. A reading that the image does not give is zero. */
struct sim_image_function {
    const char *name;
    const struct sim_param *params; /* param_count of them, ascending offsets, none overlapping */
    uint32_t param_count;
    uint32_t param_bytes;       /* length of the packed buffer: end of the last parameter */
    uint32_t registers;         /* per thread */
    uint32_t shared_bytes;      /* static, per block */
    uint32_t local_bytes;       /* per thread */
    uint32_t const_bytes;       /* user constant memory that the function may read */
    uint32_t max_threads;       /* per block, from .maxntid or .reqntid; 0: not limited by it */
    uint32_t required_block[3]; /* .reqntid; 0 0 0: any */
    uint32_t cluster[3];        /* required cluster size in blocks; 0 0 0: none required */
    bool cluster_must_be_set;   /* without a size in `cluster` the launch must give one */
    bool strong;                /* visible and not weak: a linker refuses a second one */
    uint16_t ptx_version;       /* virtual architecture it was made from, major*10+minor */
    uint16_t binary_version;    /* compute capability it was built for, major*10+minor */
};

enum sim_symbol_kind {
    SIM_SYMBOL_GLOBAL,  /* .global: cuModuleGetGlobal */
    SIM_SYMBOL_CONST,   /* .const: cuModuleGetGlobal */
    SIM_SYMBOL_MANAGED, /* .global .attribute(.managed) */
    SIM_SYMBOL_TEXREF,  /* .texref: cuModuleGetTexRef */
    SIM_SYMBOL_SURFREF, /* .surfref: cuModuleGetSurfRef */
    SIM_SYMBOL_SAMPLER, /* .samplerref */
};

/* One variable of an image. */
struct sim_image_symbol {
    const char *name;
    uint64_t offset; /* in the image's data, bytes; 0 for references */
    uint64_t size;   /* bytes; 0 for references */
    uint32_t align;  /* of the offset, a power of two; for whoever lays the data out anew */
    enum sim_symbol_kind kind;
    bool strong; /* visible and not weak: a linker refuses a second one */
};

/* A run of initial bytes of the image's data; what no run covers is zero. */
struct sim_image_init {
    uint64_t offset;
    uint64_t bytes;
    const uint8_t *data;
};

enum sim_image_kind { SIM_IMAGE_PTX, SIM_IMAGE_CUBIN };

/* A parsed image; immutable, freed when its last holder lets go. */
struct sim_image {
    enum sim_image_kind kind;
    uint32_t holders;    /* atomic; sim_image_hold / sim_image_release */
    uint64_t bytes;      /* device memory that a load takes: a cubin's allocated sections (code,
                       * constants, globals; not shared memory), PTX: the length of its text */
    uint64_t data_bytes; /* of all symbols together, one block aligned to 256 */
    const struct sim_image_function *functions;
    const struct sim_image_symbol *symbols;
    const struct sim_image_init *inits; /* ascending offsets */
    const char *const *defines;         /* device functions that others may link to */
    const char *const *needs;           /* names that are used and not defined in it */
    uint32_t function_count;
    uint32_t symbol_count;
    uint32_t init_count;
    uint32_t define_count;
    uint32_t need_count;
    uint32_t function_mask; /* of the name tables: a power of two minus one */
    uint32_t symbol_mask;
    uint32_t *function_slots; /* open-addressed by name: index + 1, 0 empty */
    uint32_t *symbol_slots;
    void *storage; /* chunks that hold all of the above */
};

/* What an image is parsed for. */
struct sim_image_target {
    unsigned cc;        /* compute capability of the device, major*10+minor */
    unsigned ptx_limit; /* newest PTX version understood, major*10+minor */
    bool ptx_only;      /* CUDA_FORCE_PTX_JIT: no cubin of a fatbin is taken */
    bool no_ptx;        /* CUDA_DISABLE_PTX_JIT: no PTX is taken */
    bool relocatable;   /* input of a linker: unresolved names are kept in `needs` */
};

/* Parses `data` for `target` into *image, which the caller releases. `size` is the number of
 * readable bytes, or SIZE_MAX where the caller of the driver gave none: then the image's own
 * headers say how long it is (PTX ends with its NUL), and a fatbin wrapper, which holds an address,
 * is taken too. `why` gets one line on failure (`why_bytes` with its NUL; NULL and 0: none).
 * Errors: INVALID_IMAGE (no image, truncated or inconsistent), NO_BINARY_FOR_GPU (nothing in it
 * suits the target), INVALID_PTX, UNSUPPORTED_PTX_VERSION,
 * JIT_COMPILATION_DISABLED, OUT_OF_MEMORY (host). */
CUresult sim_image_parse(const void *data, size_t size, const struct sim_image_target *target,
                         struct sim_image **image, char *why, size_t why_bytes);
void sim_image_hold(struct sim_image *image);
void sim_image_release(struct sim_image *image);

/* Lowers the registers of all functions of an image of PTX that nobody else holds yet to `most`. */
void sim_image_limit_registers(struct sim_image *image, uint32_t most);

/* Index of the named function or symbol, or -1. Constant time. */
int64_t sim_image_find_function(const struct sim_image *image, const char *name);
int64_t sim_image_find_symbol(const struct sim_image *image, const char *name);

/* ---- Functions, for launches -------------------------------------------------------------- */

struct sim_module;

/* A function loaded into a context: what CUfunction points to. The slots lie in a reserved range
 * that is never unmapped, so a stale or foreign handle is recognised without touching other
 * memory. The fields of the first part do not change while the function lives. */
struct sim_function {
    uint32_t live;           /* atomic; 0: unloaded */
    uint32_t index;          /* of the image's function */
    struct sim_context *ctx; /* that owns it: never a green one */
    struct sim_module *module;
    struct sim_kernel *kernel;              /* the library's kernel that it is, or NULL */
    const struct sim_image_function *image; /* name, parameters, static limits */
    const struct sim_param *params;         /* = image->params; here for the launch path */
    const char *kept_name;                  /* the same as the image's, for good */
    uint32_t param_count;
    uint32_t param_bytes;
    uint32_t max_threads;  /* largest block: of the image, the device and the registers */
    uint32_t shared_bytes; /* static, per block */
    bool spin; /* aliquot_spin_ns: params[0] (4 or 8 bytes) holds the nanoseconds to take */
    /* ---- set by cuFuncSetAttribute; atomic, relaxed: each stands for itself */
    bool nonportable_cluster;
    uint8_t cluster_policy;      /* CUclusterSchedulingPolicy */
    int8_t carveout;             /* percent of shared memory; -1: the default */
    uint32_t dynamic_shared_max; /* a launch asking for more dynamic bytes is INVALID_VALUE */
    uint32_t cluster[3];         /* required cluster; 0 0 0: none */
    /* ---- the stateful launch of CUDA before 4.0, guarded by nothing, as documented there */
    struct sim_function_legacy *legacy; /* NULL until cuFuncSetBlockShape or cuParamSet* */
};

/* State of cuFuncSetBlockShape, cuFuncSetSharedSize and cuParamSet* (func.c), which cuLaunch,
 * cuLaunchGrid and cuLaunchGridAsync (launch.c) start from. */
struct sim_function_legacy {
    uint32_t block[3];
    uint32_t dynamic_shared;
    uint32_t param_bytes; /* cuParamSetSize */
    uint8_t params[4096];
};

/* Finds the function behind a CUfunction, or a CUkernel cast to it, for a launch into `ctx`.
 * A few nanoseconds; no lock on the way that launches take.
 * Errors: INVALID_HANDLE (400), INVALID_CONTEXT (the function belongs to another context),
 * NO_BINARY_FOR_GPU (a CUkernel whose library has no code for the device). */
CUresult sim_function_resolve(struct sim_context *ctx, CUfunction handle,
                              struct sim_function **function);

/* ---- Contexts and modules ----------------------------------------------------------------- */

/* Called by context.c once a context can hold memory: loads the live libraries into it.
 * Errors: OUT_OF_MEMORY, after which nothing is loaded and the context must not live. */
CUresult sim_modules_context_init(struct sim_context *ctx);
/* Called by context.c before the context's memory goes: unloads all that it holds, and calls the
 * destructors of what was put into the context's local storage. */
void sim_modules_context_fini(struct sim_context *ctx);
/* Reserves the ranges of handles; from cuInit, before there is a context. Safe to call again.
 * Errors: OUT_OF_MEMORY (host). */
CUresult sim_modules_init(void);

#endif
