/* Cubins: ELF files with a section of code for each kernel, and records that describe them. */
#include "image_build.h"
#include "image_cubin.h"

#include <stdlib.h>
#include <string.h>

#define INFO_PREFIX ".nv.info."
#define SHARED_PREFIX ".nv.shared."
#define LOCAL_PREFIX ".nv.local"
#define TEXT_PREFIX ".text."
#define CONSTANT_PREFIX ".nv.constant"

struct cubin {
    struct sim_build *build;
    const uint8_t *data;
    size_t size;
    Elf64_Ehdr header;
    const char *names; /* of sections */
    size_t names_bytes;
    unsigned arch;
    uint32_t *function_of;    /* symbol index -> function index + 1 */
    uint64_t *section_offset; /* section -> its place in the image's data */
    uint8_t *section_kind;    /* section -> what its objects are; 0: they are of no interest */
    uint32_t symbol_count;
    uint32_t *slots; /* functions by name, open-addressed: index + 1 */
    uint32_t mask;
};

enum { OBJECTS_NONE, OBJECTS_GLOBAL, OBJECTS_CONST };

static CUresult broken(struct cubin *cubin, const char *what) {
    return sim_build_fail(cubin->build, CUDA_ERROR_INVALID_IMAGE, "the cubin's %s", what);
}

bool sim_is_cubin(const uint8_t *data, size_t size) {
    /* Byte by byte: text without a stated size may end before the fourth. */
    for (size_t i = 0; i < SELFMAG; i++) {
        if (i >= size || data[i] != (uint8_t)ELFMAG[i])
            return false;
    }
    return true;
}

static bool plausible(const Elf64_Ehdr *header) {
    return !memcmp(header->e_ident, ELFMAG, SELFMAG) && header->e_ident[EI_CLASS] == ELFCLASS64 &&
           header->e_ident[EI_DATA] == ELFDATA2LSB && header->e_machine == CUBIN_MACHINE &&
           header->e_shentsize == sizeof(Elf64_Shdr) && header->e_shnum &&
           header->e_shstrndx < header->e_shnum && header->e_shoff >= sizeof(Elf64_Ehdr) &&
           header->e_shoff <= SIM_IMAGE_MAX_BYTES;
}

/* Whether the section's bytes are in the file. */
static bool has_bytes(const Elf64_Shdr *section) {
    return section->sh_type != SHT_NULL && section->sh_type != SHT_NOBITS &&
           section->sh_type != CUBIN_SECTION_GLOBAL && section->sh_type != CUBIN_SECTION_LOCAL &&
           section->sh_type != CUBIN_SECTION_SHARED;
}

size_t sim_cubin_extent(const uint8_t *data, size_t limit) {
    Elf64_Ehdr header;

    if (limit < sizeof header)
        return 0;
    memcpy(&header, data, sizeof header);
    if (!plausible(&header))
        return sizeof header; /* enough to see what is wrong with it */
    uint64_t end = header.e_shoff + (uint64_t)header.e_shnum * sizeof(Elf64_Shdr);
    if (end > limit)
        return limit;
    for (unsigned i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr section;
        memcpy(&section, data + header.e_shoff + i * sizeof section, sizeof section);
        if (!has_bytes(&section) || section.sh_offset > SIM_IMAGE_MAX_BYTES ||
            section.sh_size > SIM_IMAGE_MAX_BYTES)
            continue;
        if (section.sh_offset + section.sh_size > end)
            end = section.sh_offset + section.sh_size;
    }
    uint64_t programs = header.e_phoff + (uint64_t)header.e_phnum * sizeof(Elf64_Phdr);
    if (header.e_phoff <= SIM_IMAGE_MAX_BYTES && programs > end)
        end = programs;
    return end < limit ? end : limit;
}

/* ---- Pieces of the file -------------------------------------------------------------------- */

/* The section's header; its bytes lie within the file (checked by check_sections). */
static Elf64_Shdr section_at(const struct cubin *cubin, uint32_t index) {
    Elf64_Shdr section;

    memcpy(&section, cubin->data + cubin->header.e_shoff + (uint64_t)index * sizeof section,
           sizeof section);
    return section;
}

/* The string at `offset` of a table of `bytes`, or NULL when it does not end within. */
static const char *string_at(const char *table, size_t bytes, uint32_t offset) {
    if (offset >= bytes || !memchr(table + offset, 0, bytes - offset))
        return NULL;
    return table + offset;
}

static const char *section_name(const struct cubin *cubin, const Elf64_Shdr *section) {
    const char *name = string_at(cubin->names, cubin->names_bytes, section->sh_name);
    return name ? name : "";
}

static bool starts(const char *name, const char *prefix) {
    return !strncmp(name, prefix, strlen(prefix));
}

static uint16_t half_at(const uint8_t *at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t word_at(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* ---- Header and sections ------------------------------------------------------------------- */

static CUresult read_header(struct cubin *cubin) {
    struct sim_build *build = cubin->build;
    Elf64_Ehdr *header = &cubin->header;

    if (cubin->size < sizeof *header)
        return broken(cubin, "header is truncated");
    memcpy(header, cubin->data, sizeof *header);
    if (!plausible(header))
        return broken(cubin, "header is not that of a 64-bit device image");
    if (header->e_shoff > cubin->size ||
        (uint64_t)header->e_shnum * sizeof(Elf64_Shdr) > cubin->size - header->e_shoff)
        return broken(cubin, "section headers lie outside of it");
    if (header->e_phnum &&
        (header->e_phoff > cubin->size ||
         (uint64_t)header->e_phnum * header->e_phentsize > cubin->size - header->e_phoff))
        return broken(cubin, "program headers lie outside of it");
    if (header->e_type != ET_EXEC && !(header->e_type == ET_REL && build->target->relocatable))
        return broken(cubin, "type is not that of a linked image");
    bool specific;
    if (header->e_ident[EI_ABIVERSION] >= CUBIN_ABI_NEW) {
        cubin->arch = header->e_flags >> 8 & 0xff;
        specific = header->e_flags & CUBIN_NEW_SPECIFIC;
    } else {
        cubin->arch = header->e_flags & 0xff;
        specific = header->e_flags & CUBIN_OLD_SPECIFIC;
    }
    for (uint32_t i = 0; i < header->e_shnum; i++) {
        Elf64_Shdr section = section_at(cubin, i);
        if (section.sh_size > SIM_IMAGE_MAX_BYTES)
            return broken(cubin, "sections pass what a device can hold");
        if (has_bytes(&section) &&
            (section.sh_offset > cubin->size || section.sh_size > cubin->size - section.sh_offset))
            return broken(cubin, "sections lie outside of it");
        if (section.sh_type == CUBIN_SECTION_COMPAT && section.sh_size >= 4) {
            const uint8_t *at = cubin->data + section.sh_offset;
            if (at[0] == INFO_FORMAT_BYTE && at[1] == COMPAT_ARCH_KIND)
                specific |= at[2] == COMPAT_ARCH_SPECIFIC;
        }
    }
    if (!sim_arch_runs(cubin->arch, specific ? SIM_ARCH_SPECIFIC : SIM_ARCH_PLAIN,
                       build->target->cc))
        return sim_build_fail(build, CUDA_ERROR_NO_BINARY_FOR_GPU,
                              "the cubin is for sm_%u%s and the device is %u.%u", cubin->arch,
                              specific ? "a" : "", build->target->cc / 10, build->target->cc % 10);
    Elf64_Shdr names = section_at(cubin, header->e_shstrndx);
    if (names.sh_type != SHT_STRTAB)
        return broken(cubin, "section names are missing");
    cubin->names = (const char *)cubin->data + names.sh_offset;
    cubin->names_bytes = names.sh_size;
    return CUDA_SUCCESS;
}

/* What the program calls constant. The other banks hold parameters and what the compiler put
 * there, which has no symbols. */
static bool is_user_constant(const char *name) {
    return !strcmp(name, CONSTANT_PREFIX "3") || !strcmp(name, CONSTANT_PREFIX "2");
}

/* Adds up what the image takes on a device and gives the variables' sections their places. */
static CUresult place_sections(struct cubin *cubin) {
    struct sim_build *build = cubin->build;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < cubin->header.e_shnum; i++) {
        Elf64_Shdr section = section_at(cubin, i);
        const char *name = section_name(cubin, &section);
        bool global = !strcmp(name, ".nv.global") || !strcmp(name, ".nv.global.init");
        if (!(section.sh_flags & SHF_ALLOC) || starts(name, ".nv.shared") ||
            starts(name, LOCAL_PREFIX))
            continue;
        bytes += section.sh_size;
        if (bytes > SIM_IMAGE_MAX_BYTES)
            return broken(cubin, "sections pass what a device can hold");
        if (!global && !is_user_constant(name))
            continue;
        uint64_t align = section.sh_addralign ? section.sh_addralign : 1;
        if (!sim_build_data(build, section.sh_size, align, &cubin->section_offset[i]))
            return broken(cubin, "variables are too large or badly aligned");
        cubin->section_kind[i] = global ? OBJECTS_GLOBAL : OBJECTS_CONST;
        if (has_bytes(&section) && section.sh_size) {
            uint8_t *run = sim_build_init_run(build, cubin->section_offset[i], section.sh_size);
            if (run)
                memcpy(run, cubin->data + section.sh_offset, section.sh_size);
        }
    }
    build->bytes = bytes;
    return CUDA_SUCCESS;
}

/* ---- Symbols ------------------------------------------------------------------------------- */

static CUresult add_kernel(struct cubin *cubin, const Elf64_Sym *symbol, const char *name,
                           uint32_t index) {
    struct sim_build *build = cubin->build;
    Elf64_Shdr section = section_at(cubin, symbol->st_shndx);
    struct sim_image_function *function =
        sim_build_function(build, sim_build_name(build, name, strlen(name)));

    if (!starts(section_name(cubin, &section), TEXT_PREFIX))
        return broken(cubin, "kernels lie outside of its code");
    if (!function)
        return CUDA_SUCCESS;
    cubin->function_of[index] = build->functions.count;
    function->strong = ELF64_ST_BIND(symbol->st_info) == STB_GLOBAL;
    function->ptx_version = function->binary_version = (uint16_t)cubin->arch;
    if (cubin->header.e_ident[EI_ABIVERSION] < CUBIN_ABI_NEW) {
        function->ptx_version = cubin->header.e_flags >> 16 & 0xff;
        /* Before the record of registers there was the top byte of this. */
        function->registers = section.sh_info >> 24;
    }
    return CUDA_SUCCESS;
}

static CUresult add_object(struct cubin *cubin, const Elf64_Sym *symbol, const char *name) {
    struct sim_build *build = cubin->build;
    uint64_t offset = 0;
    enum sim_symbol_kind kind = SIM_SYMBOL_GLOBAL;

    if (symbol->st_shndx == SHN_COMMON) {
        uint64_t align = symbol->st_value ? symbol->st_value : 1;
        if (!sim_build_data(build, symbol->st_size, align, &offset))
            return broken(cubin, "variables are too large or badly aligned");
        build->bytes += symbol->st_size;
    } else if (symbol->st_shndx < cubin->header.e_shnum &&
               cubin->section_kind[symbol->st_shndx] != OBJECTS_NONE) {
        Elf64_Shdr section = section_at(cubin, symbol->st_shndx);
        if (symbol->st_value > section.sh_size ||
            symbol->st_size > section.sh_size - symbol->st_value)
            return broken(cubin, "variables lie outside of their section");
        offset = cubin->section_offset[symbol->st_shndx] + symbol->st_value;
        if (cubin->section_kind[symbol->st_shndx] == OBJECTS_CONST)
            kind = SIM_SYMBOL_CONST;
        else if (symbol->st_other & CUBIN_OTHER_MANAGED)
            kind = SIM_SYMBOL_MANAGED;
    } else {
        return CUDA_SUCCESS; /* shared, local or the compiler's own */
    }
    struct sim_image_symbol *made =
        sim_build_symbol(build, sim_build_name(build, name, strlen(name)));
    if (!made)
        return CUDA_SUCCESS;
    made->offset = offset;
    made->align = 256; /* no record of it: what its place is aligned to */
    while (offset & (made->align - 1))
        made->align /= 2;
    made->size = symbol->st_size;
    made->kind = kind;
    made->strong = ELF64_ST_BIND(symbol->st_info) == STB_GLOBAL;
    return CUDA_SUCCESS;
}

static CUresult add_reference(struct cubin *cubin, unsigned type, const char *name) {
    struct sim_build *build = cubin->build;
    struct sim_image_symbol *made =
        sim_build_symbol(build, sim_build_name(build, name, strlen(name)));

    if (made)
        made->kind = type == CUBIN_TYPE_TEXTURE   ? SIM_SYMBOL_TEXREF
                     : type == CUBIN_TYPE_SURFACE ? SIM_SYMBOL_SURFREF
                                                  : SIM_SYMBOL_SAMPLER;
    return CUDA_SUCCESS;
}

static CUresult add_symbol(struct cubin *cubin, const Elf64_Sym *symbol, const char *name,
                           uint32_t index) {
    struct sim_build *build = cubin->build;
    unsigned type = ELF64_ST_TYPE(symbol->st_info);
    bool defined = symbol->st_shndx != SHN_UNDEF && symbol->st_shndx < cubin->header.e_shnum;

    switch (type) {
    case STT_FUNC:
        if (defined && (symbol->st_other & CUBIN_OTHER_ENTRY))
            return add_kernel(cubin, symbol, name, index);
        if (defined && ELF64_ST_BIND(symbol->st_info) != STB_LOCAL)
            sim_build_define(build, sim_build_name(build, name, strlen(name)));
        else if (!defined && build->target->relocatable)
            sim_build_need(build, sim_build_name(build, name, strlen(name)));
        return CUDA_SUCCESS;
    case STT_OBJECT:
        return add_object(cubin, symbol, name);
    case CUBIN_TYPE_TEXTURE:
    case CUBIN_TYPE_SAMPLER:
    case CUBIN_TYPE_SURFACE:
        return add_reference(cubin, type, name);
    default:
        return CUDA_SUCCESS;
    }
}

static CUresult read_symbols(struct cubin *cubin, const Elf64_Shdr *table) {
    if (table->sh_entsize != sizeof(Elf64_Sym) || table->sh_link >= cubin->header.e_shnum ||
        table->sh_size / sizeof(Elf64_Sym) > SIM_IMAGE_MAX_ENTRIES)
        return broken(cubin, "symbol table is malformed");
    Elf64_Shdr strings = section_at(cubin, table->sh_link);
    if (strings.sh_type != SHT_STRTAB)
        return broken(cubin, "symbol names are missing");
    cubin->symbol_count = (uint32_t)(table->sh_size / sizeof(Elf64_Sym));
    cubin->function_of = calloc(cubin->symbol_count + 1u, sizeof *cubin->function_of);
    if (!cubin->function_of) {
        cubin->build->failed = true;
        return CUDA_SUCCESS;
    }
    for (uint32_t i = 1; i < cubin->symbol_count; i++) {
        Elf64_Sym symbol;
        memcpy(&symbol, cubin->data + table->sh_offset + (uint64_t)i * sizeof symbol,
               sizeof symbol);
        const char *name = string_at((const char *)cubin->data + strings.sh_offset, strings.sh_size,
                                     symbol.st_name);
        if (!name)
            return broken(cubin, "symbol names lie outside of their table");
        CUresult result = *name ? add_symbol(cubin, &symbol, name, i) : CUDA_SUCCESS;
        if (result != CUDA_SUCCESS)
            return result;
    }
    return CUDA_SUCCESS;
}

/* ---- Kernels' records ---------------------------------------------------------------------- */

/* Makes the look-up of functions by name that the sections' names need. */
static void index_functions(struct cubin *cubin) {
    const struct sim_image_function *functions = cubin->build->functions.items;
    uint32_t room = 8, count = cubin->build->functions.count;

    while (room < 2 * count)
        room *= 2;
    cubin->slots = calloc(room, sizeof *cubin->slots);
    cubin->mask = room - 1;
    if (!cubin->slots) {
        cubin->build->failed = true;
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = sim_name_hash(functions[i].name, strlen(functions[i].name)) & cubin->mask;
        while (cubin->slots[at])
            at = (at + 1) & cubin->mask;
        cubin->slots[at] = i + 1;
    }
}

static struct sim_image_function *function_named(const struct cubin *cubin, const char *name) {
    struct sim_image_function *functions = cubin->build->functions.items;
    uint32_t at = sim_name_hash(name, strlen(name)) & cubin->mask;

    for (; cubin->slots[at]; at = (at + 1) & cubin->mask) {
        if (!strcmp(functions[cubin->slots[at] - 1].name, name))
            return &functions[cubin->slots[at] - 1];
    }
    return NULL;
}

/* A record whose value starts with a symbol: the function that it tells of, or NULL. */
static struct sim_image_function *function_told(const struct cubin *cubin, const uint8_t *value) {
    struct sim_image_function *functions = cubin->build->functions.items;
    uint32_t symbol = word_at(value);

    if (symbol >= cubin->symbol_count || !cubin->function_of[symbol])
        return NULL;
    return &functions[cubin->function_of[symbol] - 1];
}

static void take_global_record(const struct cubin *cubin, unsigned attribute, const uint8_t *value,
                               uint32_t length) {
    struct sim_image_function *told = length >= 8 ? function_told(cubin, value) : NULL;

    if (!told)
        return;
    uint32_t number = word_at(value + 4);
    if (attribute == INFO_REGISTERS)
        told->registers = number;
    else if ((attribute == INFO_FRAME_SIZE || attribute == INFO_MIN_STACK_SIZE) &&
             number != UINT32_MAX && number > told->local_bytes)
        told->local_bytes = number;
}

static bool take_triple(const uint8_t *value, uint32_t length, uint32_t triple[3]) {
    if (length < 12)
        return false;
    for (unsigned i = 0; i < 3; i++)
        triple[i] = word_at(value + 4 * i);
    return true;
}

/* Threads of a block of that shape; 0 when it passes what a word holds. */
static uint32_t volume(const uint32_t triple[3]) {
    uint64_t threads = (uint64_t)triple[0] * triple[1];

    if (threads > UINT32_MAX || threads * triple[2] > UINT32_MAX)
        return 0;
    return (uint32_t)(threads * triple[2]);
}

static void take_record(struct cubin *cubin, struct sim_image_function *function,
                        unsigned attribute, const uint8_t *value, uint32_t length) {
    uint32_t triple[3];

    switch (attribute) {
    case INFO_KPARAM:
        if (length >= 12)
            sim_build_param(cubin->build, half_at(value + 6), word_at(value + 8) >> 18);
        break;
    case INFO_KPARAM_V2:
        if (length >= 10)
            sim_build_param(cubin->build, half_at(value + 6), half_at(value + 8));
        break;
    case INFO_MAX_THREADS:
        if (take_triple(value, length, triple))
            function->max_threads = volume(triple);
        break;
    case INFO_REQUIRED_THREADS:
        if (take_triple(value, length, function->required_block))
            function->max_threads = volume(function->required_block);
        break;
    case INFO_CLUSTER:
        if (take_triple(value, length, function->cluster))
            function->cluster_must_be_set = true;
        break;
    case INFO_EXPLICIT_CLUSTER:
        function->cluster_must_be_set = true;
        break;
    default:
        break;
    }
}

/* Walks the records of a section; `function`: whose they are, NULL for those of the whole image. */
static CUresult read_info(struct cubin *cubin, const Elf64_Shdr *section,
                          struct sim_image_function *function) {
    const uint8_t *at = cubin->data + section->sh_offset, *end = at + section->sh_size;

    cubin->build->params.count = 0;
    while (end - at >= 4) {
        unsigned format = at[0], attribute = at[1];
        uint32_t value = half_at(at + 2);
        at += 4;
        if (format == INFO_FORMAT_SIZED) {
            if (value > (size_t)(end - at))
                return broken(cubin, "records are truncated");
            if (function)
                take_record(cubin, function, attribute, at, value);
            else
                take_global_record(cubin, attribute, at, value);
            at += value;
        } else if (function && format == INFO_FORMAT_HALF && attribute == INFO_PARAM_SIZE) {
            function->param_bytes = value;
        } else if (function) {
            take_record(cubin, function, attribute, NULL, 0);
        }
    }
    if (function && !sim_build_take_params(cubin->build, function))
        return broken(cubin, "kernel parameters overlap");
    return CUDA_SUCCESS;
}

static CUresult describe_functions(struct cubin *cubin) {
    uint32_t const_bytes = 0;

    for (uint32_t i = 0; i < cubin->header.e_shnum; i++) {
        Elf64_Shdr section = section_at(cubin, i);
        const char *name = section_name(cubin, &section);
        struct sim_image_function *function = NULL;
        CUresult result = CUDA_SUCCESS;
        if (section.sh_type == CUBIN_SECTION_INFO && !strcmp(name, ".nv.info")) {
            result = read_info(cubin, &section, NULL);
        } else if (section.sh_type == CUBIN_SECTION_INFO && starts(name, INFO_PREFIX)) {
            function = function_named(cubin, name + strlen(INFO_PREFIX));
            if (function && !function->params)
                result = read_info(cubin, &section, function);
        } else if (starts(name, SHARED_PREFIX)) {
            function = function_named(cubin, name + strlen(SHARED_PREFIX));
            if (function && section.sh_size <= UINT32_MAX) {
                function->shared_bytes = (uint32_t)section.sh_size;
                if (cubin->arch >= CUBIN_RESERVED_SHARED_FROM &&
                    function->shared_bytes >= CUBIN_RESERVED_SHARED)
                    function->shared_bytes -= CUBIN_RESERVED_SHARED;
            }
        } else if (cubin->section_kind[i] == OBJECTS_CONST) {
            const_bytes += (uint32_t)section.sh_size;
        }
        if (result != CUDA_SUCCESS)
            return result;
    }
    struct sim_image_function *functions = cubin->build->functions.items;
    for (uint32_t i = 0; i < cubin->build->functions.count; i++)
        functions[i].const_bytes = const_bytes;
    return CUDA_SUCCESS;
}

static CUresult read_all(struct cubin *cubin) {
    CUresult result = read_header(cubin);

    if (result != CUDA_SUCCESS)
        return result;
    uint32_t count = cubin->header.e_shnum;
    cubin->section_offset = calloc(count, sizeof *cubin->section_offset);
    cubin->section_kind = calloc(count, sizeof *cubin->section_kind);
    if (!cubin->section_offset || !cubin->section_kind) {
        cubin->build->failed = true;
        return CUDA_SUCCESS;
    }
    result = place_sections(cubin);
    for (uint32_t i = 0; result == CUDA_SUCCESS && i < count; i++) {
        Elf64_Shdr section = section_at(cubin, i);
        if (section.sh_type == SHT_SYMTAB && !cubin->function_of)
            result = read_symbols(cubin, &section);
    }
    if (result != CUDA_SUCCESS)
        return result;
    index_functions(cubin);
    return cubin->build->failed ? CUDA_SUCCESS : describe_functions(cubin);
}

CUresult sim_parse_cubin(struct sim_build *build, const uint8_t *data, size_t size) {
    struct cubin cubin = {.build = build, .data = data, .size = size};

    build->kind = SIM_IMAGE_CUBIN;
    CUresult result = read_all(&cubin);
    free(cubin.function_of);
    free(cubin.section_offset);
    free(cubin.section_kind);
    free(cubin.slots);
    return result;
}
