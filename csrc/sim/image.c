/* Module images: telling them apart, putting the description together, finding names in it. */
#include "image_build.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES 16384u

struct sim_build_chunk {
    struct sim_build_chunk *next;
    size_t used;
    size_t room;
    _Alignas(max_align_t) uint8_t bytes[];
};

/* ---- Storage ------------------------------------------------------------------------------ */

static void chunks_free(struct sim_build_chunk *chunk) {
    while (chunk) {
        struct sim_build_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

void *sim_build_alloc(struct sim_build *build, size_t bytes, size_t align) {
    struct sim_build_chunk *chunk = build->storage;
    size_t at = 0;

    if (build->failed)
        return NULL;
    if (chunk)
        at = (chunk->used + align - 1) & ~(align - 1);
    if (!chunk || at > chunk->room || chunk->room - at < bytes) {
        size_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        struct sim_build_chunk *fresh = NULL;
        if (room <= SIM_IMAGE_MAX_BYTES)
            fresh = malloc(sizeof *fresh + room);
        if (!fresh) {
            build->failed = true;
            return NULL;
        }
        fresh->room = room;
        fresh->used = 0;
        /* A large item gets a chunk of its own behind the one in use, whose rest stays of use. */
        if (chunk && bytes >= CHUNK_BYTES / 4) {
            fresh->next = chunk->next;
            chunk->next = fresh;
        } else {
            fresh->next = chunk;
            build->storage = fresh;
        }
        chunk = fresh;
        at = 0;
    }
    chunk->used = at + bytes;
    return chunk->bytes + at;
}

const char *sim_build_name(struct sim_build *build, const char *name, size_t length) {
    char *copy = sim_build_alloc(build, length + 1, 1);

    if (!copy)
        return NULL;
    memcpy(copy, name, length);
    copy[length] = 0;
    return copy;
}

static void *list_add(struct sim_build *build, struct sim_build_list *list, size_t item) {
    if (build->failed)
        return NULL;
    if (list->count == list->room) {
        uint32_t room = list->room ? list->room * 2 : 16;
        void *items =
            room <= SIM_IMAGE_MAX_ENTRIES ? realloc(list->items, (size_t)room * item) : NULL;
        if (!items) {
            build->failed = true;
            return NULL;
        }
        list->items = items;
        list->room = room;
    }
    void *fresh = (uint8_t *)list->items + (size_t)list->count++ * item;
    memset(fresh, 0, item);
    return fresh;
}

void sim_build_init(struct sim_build *build, const struct sim_image_target *target, char *why,
                    size_t why_bytes) {
    memset(build, 0, sizeof *build);
    build->target = target;
    build->why = why;
    build->why_bytes = why_bytes;
    if (why_bytes)
        why[0] = 0;
}

void sim_build_drop(struct sim_build *build) {
    free(build->functions.items);
    free(build->symbols.items);
    free(build->inits.items);
    free(build->defines.items);
    free(build->needs.items);
    free(build->params.items);
    chunks_free(build->storage);
    sim_build_init(build, build->target, NULL, 0);
}

CUresult sim_build_fail(struct sim_build *build, CUresult error, const char *format, ...) {
    if (build->why_bytes) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(build->why, build->why_bytes, format, arguments);
        va_end(arguments);
    }
    return error;
}

/* ---- Collecting --------------------------------------------------------------------------- */

struct sim_image_function *sim_build_function(struct sim_build *build, const char *name) {
    struct sim_image_function *function =
        name ? list_add(build, &build->functions, sizeof *function) : NULL;

    if (function)
        function->name = name;
    return function;
}

struct sim_image_symbol *sim_build_symbol(struct sim_build *build, const char *name) {
    struct sim_image_symbol *symbol =
        name ? list_add(build, &build->symbols, sizeof *symbol) : NULL;

    if (symbol)
        symbol->name = name;
    return symbol;
}

bool sim_build_param(struct sim_build *build, uint32_t offset, uint32_t size) {
    struct sim_param *param = list_add(build, &build->params, sizeof *param);

    if (!param)
        return false;
    param->offset = offset;
    param->size = size;
    return true;
}

static int by_offset(const void *a, const void *b) {
    const struct sim_param *left = a, *right = b;

    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

bool sim_build_take_params(struct sim_build *build, struct sim_image_function *function) {
    uint32_t count = build->params.count;
    struct sim_param *from = build->params.items;
    uint32_t end = 0;

    build->params.count = 0;
    if (!count)
        return true;
    qsort(from, count, sizeof *from, by_offset);
    for (uint32_t i = 0; i < count; i++) {
        if (from[i].offset < end || from[i].size > SIM_IMAGE_MAX_PARAM_BYTES ||
            from[i].offset > SIM_IMAGE_MAX_PARAM_BYTES - from[i].size)
            return false;
        end = from[i].offset + from[i].size;
    }
    struct sim_param *params =
        sim_build_alloc(build, count * sizeof *params, _Alignof(struct sim_param));
    if (!params)
        return true; /* build->failed says so at the end */
    memcpy(params, from, count * sizeof *params);
    function->params = params;
    function->param_count = count;
    if (function->param_bytes < end)
        function->param_bytes = end;
    return true;
}

uint8_t *sim_build_init_run(struct sim_build *build, uint64_t offset, uint64_t bytes) {
    uint8_t *copy = bytes <= SIM_IMAGE_MAX_BYTES ? sim_build_alloc(build, bytes, 8) : NULL;
    struct sim_image_init *init = copy ? list_add(build, &build->inits, sizeof *init) : NULL;

    if (!init)
        return NULL;
    memset(copy, 0, bytes);
    init->offset = offset;
    init->bytes = bytes;
    init->data = copy;
    return copy;
}

static void list_name(struct sim_build *build, struct sim_build_list *list, const char *name) {
    const char **slot = name ? list_add(build, list, sizeof *slot) : NULL;

    if (slot)
        *slot = name;
}

void sim_build_define(struct sim_build *build, const char *name) {
    list_name(build, &build->defines, name);
}

void sim_build_need(struct sim_build *build, const char *name) {
    list_name(build, &build->needs, name);
}

bool sim_build_data(struct sim_build *build, uint64_t bytes, uint64_t align, uint64_t *offset) {
    if (!align || (align & (align - 1)) || align > SIM_IMAGE_MAX_BYTES ||
        bytes > SIM_IMAGE_MAX_BYTES)
        return false;
    *offset = (build->data_bytes + align - 1) & ~(align - 1);
    if (*offset > SIM_IMAGE_MAX_BYTES - bytes)
        return false;
    build->data_bytes = *offset + bytes;
    return true;
}

/* ---- Names -------------------------------------------------------------------------------- */

/* FNV-1a, with the high bits mixed down: the tables take the low ones. */
uint32_t sim_name_hash(const char *name, size_t length) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)name[i]) * UINT64_C(0x100000001b3);
    return (uint32_t)(hash ^ (hash >> 32));
}

/* The name is the first member of functions and of symbols. */
_Static_assert(offsetof(struct sim_image_function, name) == 0, "the tables read it there");
_Static_assert(offsetof(struct sim_image_symbol, name) == 0, "the tables read it there");

static const char *name_at(const void *items, size_t item, uint32_t index) {
    const char *name;

    memcpy(&name, (const uint8_t *)items + (size_t)index * item, sizeof name);
    return name;
}

/* Fills an open-addressed table at most half full. The first of a name is the one found; false
 * when there is a second. */
static bool index_names(const void *items, size_t item, uint32_t count, uint32_t *slots,
                        uint32_t mask) {
    bool unique = true;

    for (uint32_t i = 0; i < count; i++) {
        const char *name = name_at(items, item, i);
        uint32_t at = sim_name_hash(name, strlen(name)) & mask;
        while (slots[at] && strcmp(name_at(items, item, slots[at] - 1), name))
            at = (at + 1) & mask;
        if (slots[at])
            unique = false;
        else
            slots[at] = i + 1;
    }
    return unique;
}

static int64_t find_name(const void *items, size_t item, const uint32_t *slots, uint32_t mask,
                         const char *name) {
    if (!slots)
        return -1;
    for (uint32_t at = sim_name_hash(name, strlen(name)) & mask; slots[at]; at = (at + 1) & mask) {
        if (!strcmp(name_at(items, item, slots[at] - 1), name))
            return (int64_t)slots[at] - 1;
    }
    return -1;
}

int64_t sim_image_find_function(const struct sim_image *image, const char *name) {
    return find_name(image->functions, sizeof *image->functions, image->function_slots,
                     image->function_mask, name);
}

int64_t sim_image_find_symbol(const struct sim_image *image, const char *name) {
    return find_name(image->symbols, sizeof *image->symbols, image->symbol_slots,
                     image->symbol_mask, name);
}

/* ---- Finishing ---------------------------------------------------------------------------- */

static void *settle(struct sim_build *build, const struct sim_build_list *list, size_t item) {
    void *copy = list->count ? sim_build_alloc(build, list->count * item, 8) : NULL;

    if (copy)
        memcpy(copy, list->items, list->count * item);
    return copy;
}

static uint32_t *settle_slots(struct sim_build *build, uint32_t count, uint32_t *mask) {
    uint32_t room = 8;

    while (room < 2 * count)
        room *= 2;
    *mask = room - 1;
    uint32_t *slots = sim_build_alloc(build, room * sizeof *slots, _Alignof(uint32_t));
    if (slots)
        memset(slots, 0, room * sizeof *slots);
    return slots;
}

static int init_by_offset(const void *a, const void *b) {
    const struct sim_image_init *left = a, *right = b;

    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

CUresult sim_build_finish(struct sim_build *build, CUresult twice, struct sim_image **image) {
    struct sim_image *made = build->failed ? NULL : calloc(1, sizeof *made);
    CUresult result = CUDA_SUCCESS;

    if (!made) {
        result = sim_build_fail(build, CUDA_ERROR_OUT_OF_MEMORY, "no host memory for the image");
        sim_build_drop(build);
        return result;
    }
    if (build->inits.count > 1)
        qsort(build->inits.items, build->inits.count, sizeof(struct sim_image_init),
              init_by_offset);
    made->kind = build->kind;
    made->holders = 1;
    made->bytes = build->bytes;
    made->data_bytes = build->data_bytes;
    made->functions = settle(build, &build->functions, sizeof(struct sim_image_function));
    made->symbols = settle(build, &build->symbols, sizeof(struct sim_image_symbol));
    made->inits = settle(build, &build->inits, sizeof(struct sim_image_init));
    made->defines = settle(build, &build->defines, sizeof(char *));
    made->needs = settle(build, &build->needs, sizeof(char *));
    made->function_count = build->functions.count;
    made->symbol_count = build->symbols.count;
    made->init_count = build->inits.count;
    made->define_count = build->defines.count;
    made->need_count = build->needs.count;
    made->function_slots = settle_slots(build, made->function_count, &made->function_mask);
    made->symbol_slots = settle_slots(build, made->symbol_count, &made->symbol_mask);
    if (build->failed)
        result = sim_build_fail(build, CUDA_ERROR_OUT_OF_MEMORY, "no host memory for the image");
    else if (!index_names(made->functions, sizeof *made->functions, made->function_count,
                          made->function_slots, made->function_mask) ||
             !index_names(made->symbols, sizeof *made->symbols, made->symbol_count,
                          made->symbol_slots, made->symbol_mask)) {
        if (twice != CUDA_SUCCESS)
            result = sim_build_fail(build, twice, "a name is defined twice");
    }
    if (result == CUDA_SUCCESS) {
        made->storage = build->storage;
        build->storage = NULL;
        *image = made;
    } else {
        free(made);
    }
    sim_build_drop(build);
    return result;
}

void sim_image_hold(struct sim_image *image) {
    /* Relaxed: who holds one already keeps it alive. */
    __atomic_fetch_add(&image->holders, 1, __ATOMIC_RELAXED);
}

void sim_image_release(struct sim_image *image) {
    /* Acquire-release: the last holder sees all that the others did with it; pairs with itself. */
    if (!image || __atomic_fetch_sub(&image->holders, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    chunks_free(image->storage);
    free(image);
}

void sim_image_limit_registers(struct sim_image *image, uint32_t most) {
    /* The storage is the image's own; it is const for all who come later. */
    struct sim_image_function *functions = (struct sim_image_function *)image->functions;

    for (uint32_t i = 0; image->kind == SIM_IMAGE_PTX && i < image->function_count; i++) {
        if (functions[i].registers > most)
            functions[i].registers = most;
    }
}

/* ---- Targets ------------------------------------------------------------------------------ */

bool sim_arch_runs(unsigned arch, enum sim_arch_kind kind, unsigned cc) {
    if (kind == SIM_ARCH_SPECIFIC)
        return arch == cc;
    return arch / 10 == cc / 10 && arch <= cc;
}

bool sim_arch_compiles(unsigned arch, enum sim_arch_kind kind, unsigned cc) {
    if (kind == SIM_ARCH_SPECIFIC)
        return arch == cc;
    if (kind == SIM_ARCH_FAMILY)
        return arch / 10 == cc / 10 && arch <= cc;
    return arch <= cc;
}

/* ---- Entry -------------------------------------------------------------------------------- */

static CUresult parse_plain(struct sim_build *build, const uint8_t *data, size_t size, bool ptx) {
    if (!ptx)
        return sim_parse_cubin(build, data, size);
    if (build->target->no_ptx)
        return sim_build_fail(build, CUDA_ERROR_JIT_COMPILATION_DISABLED,
                              "compilation of PTX is disabled by CUDA_DISABLE_PTX_JIT");
    return sim_parse_ptx(build, (const char *)data, strnlen((const char *)data, size));
}

static CUresult parse_any(struct sim_build *build, const uint8_t *data, size_t size, bool *ptx) {
    size_t extent = size;

    *ptx = false;
    if (sim_is_fatbin(data, size)) {
        if (size == SIZE_MAX)
            extent = sim_fatbin_extent(data, size);
        struct sim_fatbin_choice choice;
        CUresult result = sim_fatbin_choose(build, data, extent, &choice);
        if (result != CUDA_SUCCESS)
            return result;
        *ptx = choice.ptx;
        result = parse_plain(build, choice.data, choice.bytes, choice.ptx);
        free(choice.owned);
        return result;
    }
    if (sim_is_cubin(data, size)) {
        if (size == SIZE_MAX)
            extent = sim_cubin_extent(data, size);
        return parse_plain(build, data, extent, false);
    }
    if (size == SIZE_MAX)
        extent = strlen((const char *)data);
    if (sim_is_ptx((const char *)data, extent)) {
        *ptx = true;
        return parse_plain(build, data, extent, true);
    }
    return sim_build_fail(build, CUDA_ERROR_INVALID_IMAGE,
                          "the image is neither PTX, cubin nor fatbin");
}

/* What the host code of nvcc hands to the driver: where the fatbin is. */
struct wrapper {
    uint32_t magic;
    uint32_t version;
    const uint8_t *data;
    const void *const *parts; /* version 2: the fatbins before linking, ended by NULL */
};
#define WRAPPER_MAGIC 0x466243b1u
#define MAX_PARTS 65536u

static bool read_wrapper(const uint8_t *bytes, struct wrapper *wrapper) {
    /* Byte by byte: a string that begins so may end before the fourth. */
    for (unsigned i = 0; i < 4; i++) {
        if (bytes[i] != (uint8_t)(WRAPPER_MAGIC >> (8 * i)))
            return false;
    }
    memcpy(wrapper, bytes, sizeof *wrapper);
    return true;
}

static CUresult parse_one(struct sim_build *build, const uint8_t *bytes, size_t size,
                          struct sim_image **image) {
    bool ptx;
    CUresult result = parse_any(build, bytes, size, &ptx);

    if (result == CUDA_SUCCESS && build->failed)
        result = sim_build_fail(build, CUDA_ERROR_OUT_OF_MEMORY, "no host memory for the image");
    if (result != CUDA_SUCCESS) {
        sim_build_drop(build);
        return result;
    }
    return sim_build_finish(build, ptx ? CUDA_ERROR_INVALID_PTX : CUDA_SUCCESS, image);
}

/* Nothing that was linked beforehand suits the target: links what it was linked from, as the driver
 * does. Parts that have nothing for the target are left out. */
static CUresult link_parts(const void *const *parts, const struct sim_image_target *target,
                           struct sim_image **image, char *why, size_t why_bytes) {
    struct sim_image_target loose = *target;
    struct sim_image **images = NULL;
    uint32_t count = 0, made = 0;
    CUresult result = CUDA_ERROR_NO_BINARY_FOR_GPU;

    loose.relocatable = true;
    while (count < MAX_PARTS && parts[count])
        count++;
    images = calloc(count + 1u, sizeof(struct sim_image *));
    if (!images)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        struct sim_build build;
        sim_build_init(&build, &loose, why, why_bytes);
        if (sim_is_fatbin(parts[i], SIZE_MAX) &&
            parse_one(&build, parts[i], SIZE_MAX, &images[made]) == CUDA_SUCCESS)
            made++;
    }
    if (made)
        result = sim_image_merge(images, made, true, image, why, why_bytes);
    while (made)
        sim_image_release(images[--made]);
    free(images);
    return result;
}

CUresult sim_image_parse(const void *data, size_t size, const struct sim_image_target *target,
                         struct sim_image **image, char *why, size_t why_bytes) {
    struct sim_build build;
    struct wrapper wrapper;

    sim_build_init(&build, target, why, why_bytes);
    if (size != SIZE_MAX || !read_wrapper(data, &wrapper))
        return parse_one(&build, data, size, image);
    if ((wrapper.version != 1 && wrapper.version != 2) || !wrapper.data)
        return sim_build_fail(&build, CUDA_ERROR_INVALID_IMAGE,
                              "a fatbin wrapper of version %u without data", wrapper.version);
    if (!sim_is_fatbin(wrapper.data, size))
        return sim_build_fail(&build, CUDA_ERROR_INVALID_IMAGE,
                              "a fatbin wrapper that points to no fatbin");
    CUresult result = parse_one(&build, wrapper.data, size, image);
    if (result != CUDA_ERROR_NO_BINARY_FOR_GPU || wrapper.version != 2 || !wrapper.parts)
        return result;
    char linking[256];
    CUresult linked = link_parts(wrapper.parts, target, image, linking, sizeof linking);
    return linked == CUDA_SUCCESS ? linked : result;
}
