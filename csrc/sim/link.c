/* cuLink*: several images into one cubin. What comes in is parsed at once, so that each error is
 * answered by the call that brought it. */
#include "module.h"

#include "image_build.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#define LINK_MAX_INPUTS 65536u

/* What CUlinkState points to. Calls for one state come from one thread at a time. */
struct sim_link {
    struct sim_jit jit; /* with the logs of cuLinkCreate, which live until cuLinkDestroy */
    unsigned cc;
    struct sim_image **images;
    uint32_t count;
    uint32_t room;
    uint8_t *cubin; /* of cuLinkComplete, the state's own */
    size_t cubin_bytes;
};

static enum sim_handle_kind link_kind(void) { return SIM_HANDLE_USER + 1; }

static CUresult enter_link(CUlinkState handle, struct sim_link **link) {
    CUresult result = sim_ready();

    if (result != CUDA_SUCCESS)
        return result;
    *link = (struct sim_link *)handle;
    return sim_handle_check(link_kind(), handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult refuse(struct sim_link *link, CUresult error, const char *why) {
    sim_log("link refused (%d): %s", (int)error, why);
    sim_jit_say(&link->jit.error, why);
    return error;
}

/* ---- State --------------------------------------------------------------------------------- */

CUresult CUDAAPI cuLinkCreate_v2(unsigned int count, CUjit_option *options, void **values,
                                 CUlinkState *out) {
    struct sim_context *ctx;

    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    struct sim_link *link = calloc(1, sizeof *link);
    if (!link)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = sim_jit_read(&link->jit, count, options, values);
    link->cc = link->jit.target ? link->jit.target : sim_device_cc(ctx->dev);
    if (result == CUDA_SUCCESS && !sim_handle_add(link_kind(), link))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS) {
        free(link);
        return result;
    }
    *out = (CUlinkState)link;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLinkCreate(unsigned int count, CUjit_option *options, void **values,
                              CUlinkState *out) {
    return cuLinkCreate_v2(count, options, values, out);
}

CUresult CUDAAPI cuLinkDestroy(CUlinkState handle) {
    struct sim_link *link;

    CUresult result = enter_link(handle, &link);
    if (result != CUDA_SUCCESS)
        return result;
    if (!sim_handle_drop(link_kind(), link))
        return CUDA_ERROR_INVALID_HANDLE;
    for (uint32_t i = 0; i < link->count; i++)
        sim_image_release(link->images[i]);
    free(link->images);
    free(link->cubin);
    free(link);
    return CUDA_SUCCESS;
}

/* ---- Inputs -------------------------------------------------------------------------------- */

/* Takes over the image. A name that an earlier input defined is refused here. */
static CUresult add_image(struct sim_link *link, struct sim_image *image) {
    if (link->count == link->room) {
        uint32_t room = link->room ? link->room * 2 : 8;
        struct sim_image **images = NULL;
        if (room <= LINK_MAX_INPUTS)
            images = realloc(link->images, room * sizeof(struct sim_image *));
        if (!images) {
            sim_image_release(image);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        link->images = images;
        link->room = room;
    }
    link->images[link->count++] = image;
    return CUDA_SUCCESS;
}

static CUresult add_bytes(struct sim_link *link, const void *data, size_t size,
                          struct sim_jit *jit) {
    struct sim_image *image;

    CUresult result = sim_jit_parse(data, size, link->cc, true, jit, &image);
    return result == CUDA_SUCCESS ? add_image(link, image) : result;
}

/* The fatbins that nvcc put into a host object. One that has nothing for the target is passed
 * over: libraries bring what they have. */
static CUresult add_object(struct sim_link *link, const uint8_t *data, size_t size,
                           struct sim_jit *jit) {
    Elf64_Ehdr header;

    if (size < sizeof header)
        return refuse(link, CUDA_ERROR_INVALID_IMAGE, "the object file is truncated");
    memcpy(&header, data, sizeof header);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shoff > size ||
        (uint64_t)header.e_shnum * sizeof(Elf64_Shdr) > size - header.e_shoff)
        return refuse(link, CUDA_ERROR_INVALID_IMAGE, "the object file is malformed");
    for (uint32_t i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr section;
        memcpy(&section, data + header.e_shoff + (uint64_t)i * sizeof section, sizeof section);
        if (section.sh_type != SHT_PROGBITS || section.sh_offset > size ||
            section.sh_size > size - section.sh_offset)
            continue;
        const uint8_t *at = data + section.sh_offset;
        size_t left = section.sh_size;
        while (left && sim_is_fatbin(at, left)) {
            size_t extent = sim_fatbin_extent(at, left);
            if (!extent)
                return refuse(link, CUDA_ERROR_INVALID_IMAGE,
                              "a fatbin of the object file is truncated");
            CUresult result = add_bytes(link, at, extent, jit);
            if (result != CUDA_SUCCESS && result != CUDA_ERROR_NO_BINARY_FOR_GPU)
                return result;
            size_t step = (extent + 7) & ~(size_t)7;
            at += step < left ? step : left;
            left -= step < left ? step : left;
        }
    }
    return CUDA_SUCCESS;
}

/* The length in a member's header: decimal, blanks behind. False when it is none. */
static bool member_size(const char *text, size_t *size) {
    bool any = false;

    *size = 0;
    for (unsigned i = 0; i < 10 && text[i] != ' '; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *size = *size * 10 + (size_t)(text[i] - '0');
        any = true;
    }
    return any;
}

/* A static library: an archive of host objects. */
static CUresult add_archive(struct sim_link *link, const uint8_t *data, size_t size,
                            struct sim_jit *jit) {
    static const char magic[8] = "!<arch>\n";
    size_t at = sizeof magic, bytes;

    if (size < sizeof magic || memcmp(data, magic, sizeof magic))
        return refuse(link, CUDA_ERROR_INVALID_IMAGE, "the library is no archive");
    while (size - at >= 60) {
        const char *member = (const char *)data + at;
        at += 60;
        if (!member_size(member + 48, &bytes) || bytes > size - at)
            return refuse(link, CUDA_ERROR_INVALID_IMAGE, "the library is malformed");
        if (member[0] != '/' && bytes >= SELFMAG && !memcmp(data + at, ELFMAG, SELFMAG)) {
            CUresult result = add_object(link, data + at, bytes, jit);
            if (result != CUDA_SUCCESS)
                return result;
        }
        at += bytes;
        at += at & 1 && at < size;
    }
    return CUDA_SUCCESS;
}

static CUresult add_input(struct sim_link *link, CUjitInputType type, const void *data, size_t size,
                          struct sim_jit *jit) {
    switch (type) {
    case CU_JIT_INPUT_CUBIN:
        if (!sim_is_cubin(data, size))
            return refuse(link, CUDA_ERROR_INVALID_IMAGE, "the input is no cubin");
        return add_bytes(link, data, size, jit);
    case CU_JIT_INPUT_PTX:
        if (!sim_is_ptx(data, strnlen(data, size)))
            return refuse(link, CUDA_ERROR_INVALID_PTX,
                          "ptxas application ptx input, line 1; fatal   : Missing .version "
                          "directive at start of file");
        return add_bytes(link, data, size, jit);
    case CU_JIT_INPUT_FATBINARY:
        if (!sim_is_fatbin(data, size))
            return refuse(link, CUDA_ERROR_INVALID_IMAGE, "the input is no fatbin");
        return add_bytes(link, data, size, jit);
    case CU_JIT_INPUT_OBJECT:
        if (sim_is_fatbin(data, size))
            return add_bytes(link, data, size, jit);
        return add_object(link, data, size, jit);
    case CU_JIT_INPUT_LIBRARY:
        return add_archive(link, data, size, jit);
    case CU_JIT_INPUT_NVVM:
        return sim_unsupported("cuLinkAddData of NVVM code");
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* Adds an input with options of its own; its logs are those of the state where it brings none. */
static CUresult add_with_options(struct sim_link *link, CUjitInputType type, const void *data,
                                 size_t size, unsigned count, CUjit_option *options,
                                 void **values) {
    struct sim_jit jit;
    char why[256];
    uint32_t before = link->count;

    if (link->cubin)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = sim_jit_read(&jit, count, options, values);
    if (result != CUDA_SUCCESS)
        return result;
    jit.target = link->cc;
    if (!jit.max_registers)
        jit.max_registers = link->jit.max_registers;
    result = add_input(link, type, data, size, jit.error.buffer ? &jit : &link->jit);
    if (result == CUDA_SUCCESS && link->count > 1) {
        struct sim_image *merged;
        result = sim_image_merge(link->images, link->count, false, &merged, why, sizeof why);
        if (result == CUDA_SUCCESS)
            sim_image_release(merged);
        else
            refuse(link, result, why);
    }
    while (result != CUDA_SUCCESS && link->count > before)
        sim_image_release(link->images[--link->count]);
    return result;
}

CUresult CUDAAPI cuLinkAddData_v2(CUlinkState handle, CUjitInputType type, void *data, size_t size,
                                  const char *name, unsigned int count, CUjit_option *options,
                                  void **values) {
    struct sim_link *link;

    (void)name; /* the lines of the log name inputs by number */
    CUresult result = enter_link(handle, &link);
    if (result != CUDA_SUCCESS)
        return result;
    if (!data || !size)
        return CUDA_ERROR_INVALID_VALUE;
    return add_with_options(link, type, data, size, count, options, values);
}

CUresult CUDAAPI cuLinkAddData(CUlinkState handle, CUjitInputType type, void *data, size_t size,
                               const char *name, unsigned int count, CUjit_option *options,
                               void **values) {
    return cuLinkAddData_v2(handle, type, data, size, name, count, options, values);
}

CUresult CUDAAPI cuLinkAddFile_v2(CUlinkState handle, CUjitInputType type, const char *path,
                                  unsigned int count, CUjit_option *options, void **values) {
    struct sim_link *link;
    void *data;
    size_t bytes;

    CUresult result = enter_link(handle, &link);
    if (result != CUDA_SUCCESS)
        return result;
    if (!path)
        return CUDA_ERROR_INVALID_VALUE;
    result = sim_read_file(path, &data, &bytes);
    if (result != CUDA_SUCCESS)
        return result;
    result = add_with_options(link, type, data, bytes, count, options, values);
    free(data);
    return result;
}

CUresult CUDAAPI cuLinkAddFile(CUlinkState handle, CUjitInputType type, const char *path,
                               unsigned int count, CUjit_option *options, void **values) {
    return cuLinkAddFile_v2(handle, type, path, count, options, values);
}

/* ---- The result ---------------------------------------------------------------------------- */

CUresult CUDAAPI cuLinkComplete(CUlinkState handle, void **cubin, size_t *bytes) {
    struct sim_link *link;
    struct sim_image *merged;
    char why[256];

    CUresult result = enter_link(handle, &link);
    if (result != CUDA_SUCCESS)
        return result;
    if (!cubin)
        return CUDA_ERROR_INVALID_VALUE;
    if (!link->cubin) {
        result = sim_image_merge(link->images, link->count, true, &merged, why, sizeof why);
        if (result != CUDA_SUCCESS)
            return refuse(link, result, why);
        result = sim_write_cubin(merged, link->cc, &link->cubin, &link->cubin_bytes);
        sim_image_release(merged);
        if (result != CUDA_SUCCESS)
            return result;
    }
    *cubin = link->cubin;
    if (bytes)
        *bytes = link->cubin_bytes;
    return CUDA_SUCCESS;
}
