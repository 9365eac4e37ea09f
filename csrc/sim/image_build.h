/* How the parsers put an image together, and the parsers themselves. Private to image*.c, link.c.
 *
 * A builder collects; sim_build_finish turns it into the immutable image. Every add may fail for
 * want of host memory; the builder then remembers it (`failed`) and later adds do nothing, so that
 * a parser need check only once.
 */
#ifndef ALIQUOT_SIM_IMAGE_BUILD_H
#define ALIQUOT_SIM_IMAGE_BUILD_H

#include "image.h"

/* Bounds that no sound image reaches; beyond them it is refused, so that a few hostile bytes cannot
 * ask for the machine. */
#define SIM_IMAGE_MAX_PARAM_BYTES 32764u /* of one kernel, the language's own limit */
#define SIM_IMAGE_MAX_BYTES (UINT64_C(1) << 46)
#define SIM_IMAGE_MAX_ENTRIES (1u << 22) /* functions, symbols, parameters of an image */

struct sim_build_list {
    void *items;
    uint32_t count;
    uint32_t room;
};

struct sim_build_chunk;

struct sim_build {
    enum sim_image_kind kind;
    uint64_t bytes;
    uint64_t data_bytes;
    struct sim_build_list functions; /* struct sim_image_function; params point into storage */
    struct sim_build_list symbols;   /* struct sim_image_symbol */
    struct sim_build_list inits;     /* struct sim_image_init */
    struct sim_build_list defines;   /* const char * */
    struct sim_build_list needs;     /* const char * */
    struct sim_build_list params;    /* struct sim_param of the function being read */
    struct sim_build_chunk *storage;
    bool failed;
    const struct sim_image_target *target;
    char *why;
    size_t why_bytes;
};

void sim_build_init(struct sim_build *build, const struct sim_image_target *target, char *why,
                    size_t why_bytes);
void sim_build_drop(struct sim_build *build);

/* Memory that lives as long as the image; NULL (and build->failed) when there is none. */
void *sim_build_alloc(struct sim_build *build, size_t bytes, size_t align);
/* A copy of `length` bytes of name, with a NUL. */
const char *sim_build_name(struct sim_build *build, const char *name, size_t length);

struct sim_image_function *sim_build_function(struct sim_build *build, const char *name);
struct sim_image_symbol *sim_build_symbol(struct sim_build *build, const char *name);
bool sim_build_param(struct sim_build *build, uint32_t offset, uint32_t size);
/* Gives the collected parameters to the function, in ascending offsets. False when they overlap
 * or pass the limit. */
bool sim_build_take_params(struct sim_build *build, struct sim_image_function *function);
/* A zeroed run of the data, to be filled by the caller; NULL when there is no memory. */
uint8_t *sim_build_init_run(struct sim_build *build, uint64_t offset, uint64_t bytes);
void sim_build_define(struct sim_build *build, const char *name);
void sim_build_need(struct sim_build *build, const char *name);

/* Reserves `bytes` at `align` in the image's data. False when it passes SIM_IMAGE_MAX_BYTES. */
bool sim_build_data(struct sim_build *build, uint64_t bytes, uint64_t align, uint64_t *offset);

/* Makes the image; the builder is empty afterwards, whatever comes of it. A name
 * defined twice is `twice` (INVALID_PTX for text; SUCCESS for cubins, where files that were linked
 * may each have a local one: the first is found).
 * Errors: OUT_OF_MEMORY (host), `twice`. */
CUresult sim_build_finish(struct sim_build *build, CUresult twice, struct sim_image **image);

/* Writes the line for the caller's log and returns `error`. */
__attribute__((format(printf, 3, 4))) CUresult
sim_build_fail(struct sim_build *build, CUresult error, const char *format, ...);

/* ---- Names ---------------------------------------------------------------------------------- */

uint32_t sim_name_hash(const char *name, size_t length);

/* ---- Targets -------------------------------------------------------------------------------- */

enum sim_arch_kind {
    SIM_ARCH_PLAIN,    /* sm_90 */
    SIM_ARCH_FAMILY,   /* sm_100f */
    SIM_ARCH_SPECIFIC, /* sm_90a */
};

/* Whether machine code for `arch` runs on a device of capability `cc`. */
bool sim_arch_runs(unsigned arch, enum sim_arch_kind kind, unsigned cc);
/* Whether PTX for `arch` can be compiled for a device of capability `cc`. */
bool sim_arch_compiles(unsigned arch, enum sim_arch_kind kind, unsigned cc);

/* ---- The parsers; each fills `build` and returns as sim_image_parse does --------------------- */

CUresult sim_parse_ptx(struct sim_build *build, const char *text, size_t length);
CUresult sim_parse_cubin(struct sim_build *build, const uint8_t *data, size_t size);

/* Length in bytes that the headers of a cubin or a fatbin claim; 0 when there is no such header
 * within `limit` bytes. */
size_t sim_cubin_extent(const uint8_t *data, size_t limit);
size_t sim_fatbin_extent(const uint8_t *data, size_t limit);

bool sim_is_cubin(const uint8_t *data, size_t size);
bool sim_is_fatbin(const uint8_t *data, size_t size);
bool sim_is_ptx(const char *text, size_t length);

/* One entry of a fatbin, chosen for a target. */
struct sim_fatbin_choice {
    const uint8_t *data;
    size_t bytes;
    uint8_t *owned; /* decompressed copy to free, or NULL */
    bool ptx;
};
/* Errors: INVALID_IMAGE, NO_BINARY_FOR_GPU, JIT_COMPILATION_DISABLED, OUT_OF_MEMORY,
 * NOT_SUPPORTED (a compression whose decoder is not to be had on this machine). */
CUresult sim_fatbin_choose(struct sim_build *build, const uint8_t *data, size_t size,
                           struct sim_fatbin_choice *choice);

/* ---- Compression ---------------------------------------------------------------------------- */

/* Decodes one LZ4 block of `size` bytes into exactly `room` bytes. False when the block is
 * malformed or decodes to another length; `out` then holds nothing of use. */
bool sim_lz4_decode(const uint8_t *data, size_t size, uint8_t *out, size_t room);

enum sim_zstd_result { SIM_ZSTD_OK, SIM_ZSTD_BAD, SIM_ZSTD_ABSENT };
/* The same for one Zstandard frame. */
enum sim_zstd_result sim_zstd_decode(const uint8_t *data, size_t size, uint8_t *out, size_t room);

/* ---- Writing -------------------------------------------------------------------------------- */

/* Writes a cubin that sim_parse_cubin reads back as the same functions, symbols and data, for
 * capability `cc`. The code of each function is as long as its share of image->bytes and zero: the
 * simulator has no compiler. *out is freed by the caller.
 * Errors: OUT_OF_MEMORY (host). */
CUresult sim_write_cubin(const struct sim_image *image, unsigned cc, uint8_t **out, size_t *bytes);

/* ---- Linking -------------------------------------------------------------------------------- */

/* One image of several, in the order given. `complete`: names that nobody defines are an error.
 * Errors, with a line in `why`: INVALID_SOURCE (a name is defined twice), NO_BINARY_FOR_GPU (a name
 * is not defined), INVALID_IMAGE (too large), OUT_OF_MEMORY (host). */
CUresult sim_image_merge(struct sim_image *const *images, uint32_t count, bool complete,
                         struct sim_image **image, char *why, size_t why_bytes);
/* Whether one image by itself has all that it needs. Errors: as above. */
CUresult sim_image_complete(struct sim_image *image, char *why, size_t why_bytes);

#endif
