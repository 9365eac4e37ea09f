/* Putting images together, as a linker does: names are matched, no code is moved. */
#include "image_build.h"

#include <stdlib.h>
#include <string.h>

/* A name and the image that it is defined in. */
struct known {
    const char *name;
    uint32_t input;
    bool strong;
};

struct names {
    struct known *slots; /* open-addressed */
    uint32_t mask;
};

static struct known *find(const struct names *names, const char *name) {
    uint32_t at = sim_name_hash(name, strlen(name)) & names->mask;

    while (names->slots[at].name && strcmp(names->slots[at].name, name))
        at = (at + 1) & names->mask;
    return &names->slots[at];
}

static bool make_names(struct names *names, struct sim_image *const *images, uint32_t count) {
    uint64_t most = 0, room = 16;

    for (uint32_t i = 0; i < count; i++)
        most +=
            (uint64_t)images[i]->function_count + images[i]->symbol_count + images[i]->define_count;
    while (room < 2 * most)
        room *= 2;
    names->slots = room <= UINT32_MAX ? calloc(room, sizeof *names->slots) : NULL;
    names->mask = (uint32_t)room - 1;
    return names->slots != NULL;
}

/* Remembers a definition. False when there is another one that is as strong in another input. */
static bool define(struct names *names, const char *name, uint32_t input, bool strong,
                   bool *first) {
    struct known *known = find(names, name);

    *first = !known->name;
    if (*first) {
        *known = (struct known){.name = name, .input = input, .strong = strong};
        return true;
    }
    if (known->input == input || !strong || !known->strong)
        return true;
    return false;
}

/* What every image may use without anybody defining it: the driver's own, and the device runtime
 * library's, whose code the simulator does not need. */
static bool is_builtin(const char *name) {
    static const char *const names[] = {"vprintf",      "malloc", "free",
                                        "__assertfail", "memcpy", "memset"};
    static const char *const prefixes[] = {"cuda", "__cuda", "__nv", "_CUDA"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!strcmp(name, names[i]))
            return true;
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
            return true;
    }
    return false;
}

static CUresult twice(struct sim_build *build, const struct names *names, const char *name,
                      uint32_t input) {
    return sim_build_fail(build, CUDA_ERROR_INVALID_SOURCE,
                          "error   : Multiple definition of '%s' in 'input file %u', first defined "
                          "in 'input file %u'",
                          name, input + 1, find(names, name)->input + 1);
}

static CUresult add_functions(struct sim_build *build, struct names *names,
                              const struct sim_image *image, uint32_t input) {
    for (uint32_t i = 0; i < image->function_count; i++) {
        const struct sim_image_function *from = &image->functions[i];
        bool first;
        if (!define(names, from->name, input, from->strong, &first))
            return twice(build, names, from->name, input);
        if (!first)
            continue;
        for (uint32_t k = 0; k < from->param_count; k++)
            sim_build_param(build, from->params[k].offset, from->params[k].size);
        struct sim_image_function *to =
            sim_build_function(build, sim_build_name(build, from->name, strlen(from->name)));
        if (!to)
            return CUDA_SUCCESS;
        const char *name = to->name;
        *to = *from;
        to->name = name;
        to->params = NULL;
        to->param_count = 0;
        sim_build_take_params(build, to);
    }
    for (uint32_t i = 0; i < image->define_count; i++) {
        bool first;
        /* Of device functions the images do not say how strong they are: the first is taken. */
        define(names, image->defines[i], input, false, &first);
        if (first)
            sim_build_define(build,
                             sim_build_name(build, image->defines[i], strlen(image->defines[i])));
    }
    return CUDA_SUCCESS;
}

/* The variables of an image keep their places beside each other, as one block. */
static CUresult add_symbols(struct sim_build *build, struct names *names,
                            const struct sim_image *image, uint32_t input) {
    uint64_t base = 0;

    if (image->data_bytes && !sim_build_data(build, image->data_bytes, 256, &base))
        return sim_build_fail(build, CUDA_ERROR_INVALID_IMAGE, "error   : Variables are too large");
    for (uint32_t i = 0; i < image->init_count; i++) {
        const struct sim_image_init *init = &image->inits[i];
        uint8_t *run = sim_build_init_run(build, base + init->offset, init->bytes);
        if (run)
            memcpy(run, init->data, init->bytes);
    }
    for (uint32_t i = 0; i < image->symbol_count; i++) {
        const struct sim_image_symbol *from = &image->symbols[i];
        bool first;
        if (!define(names, from->name, input, from->strong, &first))
            return twice(build, names, from->name, input);
        struct sim_image_symbol *to =
            first ? sim_build_symbol(build, sim_build_name(build, from->name, strlen(from->name)))
                  : NULL;
        if (!to)
            continue;
        const char *name = to->name;
        *to = *from;
        to->name = name;
        if (to->kind <= SIM_SYMBOL_MANAGED)
            to->offset += base;
    }
    return CUDA_SUCCESS;
}

static CUresult check_needs(struct sim_build *build, const struct names *names,
                            const struct sim_image *image, uint32_t input) {
    for (uint32_t i = 0; i < image->need_count; i++) {
        if (!find(names, image->needs[i])->name && !is_builtin(image->needs[i]))
            return sim_build_fail(build, CUDA_ERROR_NO_BINARY_FOR_GPU,
                                  "error   : Undefined reference to '%s' in 'input file %u'",
                                  image->needs[i], input + 1);
    }
    return CUDA_SUCCESS;
}

CUresult sim_image_merge(struct sim_image *const *images, uint32_t count, bool complete,
                         struct sim_image **image, char *why, size_t why_bytes) {
    struct sim_build build;
    struct names names;
    CUresult result = CUDA_SUCCESS;

    sim_build_init(&build, NULL, why, why_bytes);
    build.kind = SIM_IMAGE_CUBIN;
    if (!make_names(&names, images, count))
        return sim_build_fail(&build, CUDA_ERROR_OUT_OF_MEMORY, "no host memory to link with");
    for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        build.bytes += images[i]->bytes;
        result = add_functions(&build, &names, images[i], i);
        if (result == CUDA_SUCCESS)
            result = add_symbols(&build, &names, images[i], i);
    }
    for (uint32_t i = 0; complete && i < count && result == CUDA_SUCCESS; i++)
        result = check_needs(&build, &names, images[i], i);
    free(names.slots);
    if (result != CUDA_SUCCESS) {
        sim_build_drop(&build);
        return result;
    }
    return sim_build_finish(&build, CUDA_SUCCESS, image);
}

CUresult sim_image_complete(struct sim_image *image, char *why, size_t why_bytes) {
    struct sim_build build;
    struct sim_image *images[] = {image};
    struct names names;

    sim_build_init(&build, NULL, why, why_bytes);
    if (!image->need_count)
        return CUDA_SUCCESS;
    if (!make_names(&names, images, 1))
        return sim_build_fail(&build, CUDA_ERROR_OUT_OF_MEMORY, "no host memory to link with");
    for (uint32_t i = 0; i < image->define_count; i++)
        find(&names, image->defines[i])->name = image->defines[i];
    for (uint32_t i = 0; i < image->symbol_count; i++)
        find(&names, image->symbols[i].name)->name = image->symbols[i].name;
    CUresult result = check_needs(&build, &names, image, 0);
    free(names.slots);
    return result;
}
