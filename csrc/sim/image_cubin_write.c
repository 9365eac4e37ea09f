/* Writing cubins: what a link hands back, in the layout that tools of CUDA 12 read. */
#include "image_build.h"
#include "image_cubin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The parameter bank starts with what the driver puts there; the offset is that of sm_70 to
 * sm_89. */
#define PARAM_BASE 0x160u

struct blob {
    uint8_t *bytes;
    size_t count;
    size_t room;
    bool failed;
};

struct writer {
    const struct sim_image *image;
    unsigned cc;
    struct blob file;
    struct blob sections; /* Elf64_Shdr */
    struct blob names;    /* of sections */
    struct blob strings;  /* of symbols */
    struct blob symbols;  /* Elf64_Sym, locals first */
};

/* ---- Pieces -------------------------------------------------------------------------------- */

/* Appends `count` bytes, zeros when `from` is NULL; where they start. */
static size_t put(struct blob *blob, const void *from, size_t count) {
    size_t at = blob->count;

    if (!count)
        return at;
    if (blob->room - blob->count < count) {
        size_t room = (blob->room + count) * 2 + 256;
        uint8_t *bytes = blob->failed ? NULL : realloc(blob->bytes, room);
        if (!bytes) {
            blob->failed = true;
            return 0;
        }
        blob->bytes = bytes;
        blob->room = room;
    }
    if (from)
        memcpy(blob->bytes + at, from, count);
    else
        memset(blob->bytes + at, 0, count);
    blob->count += count;
    return at;
}

static size_t put_aligned(struct blob *blob, size_t align) {
    size_t over = blob->count % align;

    if (over)
        put(blob, NULL, align - over);
    return blob->count;
}

static uint32_t put_string(struct blob *blob, const char *first, const char *second) {
    size_t at = put(blob, first, strlen(first));

    put(blob, second, strlen(second) + 1);
    return (uint32_t)at;
}

/* Appends a section whose bytes were put at `offset`; its number. */
static uint32_t add_section(struct writer *writer, const char *prefix, const char *name,
                            Elf64_Shdr section) {
    section.sh_name = put_string(&writer->names, prefix, name);
    put(&writer->sections, &section, sizeof section);
    return (uint32_t)(writer->sections.count / sizeof section) - 1;
}

static uint32_t add_symbol(struct writer *writer, const char *name, bool strong, unsigned type,
                           unsigned other, uint32_t section, uint64_t value, uint64_t size) {
    Elf64_Sym symbol = {
        .st_name = put_string(&writer->strings, "", name),
        .st_info = (unsigned char)((unsigned)(strong ? STB_GLOBAL : STB_WEAK) << 4 | (type & 15)),
        .st_other = (unsigned char)other,
        .st_shndx = (Elf64_Section)section,
        .st_value = value,
        .st_size = size,
    };

    put(&writer->symbols, &symbol, sizeof symbol);
    return (uint32_t)(writer->symbols.count / sizeof symbol) - 1;
}

static void put_half(struct blob *blob, uint32_t value) {
    uint16_t half = (uint16_t)value;
    put(blob, &half, sizeof half);
}

static void put_word(struct blob *blob, uint32_t value) { put(blob, &value, sizeof value); }

static void put_record(struct blob *blob, unsigned format, unsigned attribute, uint32_t value) {
    uint8_t head[2] = {(uint8_t)format, (uint8_t)attribute};

    put(blob, head, sizeof head);
    put_half(blob, value);
}

/* A record of words. */
static void put_words(struct blob *blob, unsigned attribute, const uint32_t *words, unsigned n) {
    put_record(blob, INFO_FORMAT_SIZED, attribute, 4 * n);
    for (unsigned i = 0; i < n; i++)
        put_word(blob, words[i]);
}

/* ---- Data ---------------------------------------------------------------------------------- */

enum data_section { DATA_INITIAL, DATA_ZERO, DATA_CONST };

/* Whether any initial byte lies in the symbol. */
static bool has_data(const struct sim_image *image, const struct sim_image_symbol *symbol) {
    for (uint32_t i = 0; i < image->init_count; i++) {
        const struct sim_image_init *init = &image->inits[i];
        if (init->offset < symbol->offset + symbol->size &&
            symbol->offset < init->offset + init->bytes)
            return true;
    }
    return false;
}

/* Copies what the image's data holds in [from, from + bytes). */
static void copy_data(const struct sim_image *image, uint64_t from, uint64_t bytes, uint8_t *to) {
    for (uint32_t i = 0; i < image->init_count; i++) {
        const struct sim_image_init *init = &image->inits[i];
        uint64_t start = from > init->offset ? from : init->offset;
        uint64_t init_end = init->offset + init->bytes;
        uint64_t end = from + bytes < init_end ? from + bytes : init_end;
        if (start < end)
            memcpy(to + (start - from), init->data + (start - init->offset), end - start);
    }
}

/* The section that a variable goes to. Those without initial bytes take no room in the file. */
static enum data_section section_of(const struct sim_image *image,
                                    const struct sim_image_symbol *symbol) {
    if (symbol->kind == SIM_SYMBOL_CONST)
        return DATA_CONST;
    return has_data(image, symbol) ? DATA_INITIAL : DATA_ZERO;
}

/* Writes the variables of one section, packed in the order of the symbols. */
static void write_data(struct writer *writer, enum data_section which) {
    static const char *const names[] = {".nv.global.init", ".nv.global", ".nv.constant3"};
    const struct sim_image *image = writer->image;
    struct blob data = {0};
    uint64_t size = 0;
    uint32_t index = (uint32_t)(writer->sections.count / sizeof(Elf64_Shdr));

    for (uint32_t i = 0; i < image->symbol_count; i++) {
        const struct sim_image_symbol *symbol = &image->symbols[i];
        if (symbol->kind > SIM_SYMBOL_MANAGED || section_of(image, symbol) != which)
            continue;
        size = (size + symbol->align - 1) & ~(uint64_t)(symbol->align - 1);
        if (which != DATA_ZERO) {
            put(&data, NULL, size - data.count);
            size_t at = put(&data, NULL, symbol->size);
            if (!data.failed)
                copy_data(image, symbol->offset, symbol->size, data.bytes + at);
        }
        add_symbol(writer, symbol->name, symbol->strong, STT_OBJECT,
                   symbol->kind == SIM_SYMBOL_MANAGED ? CUBIN_OTHER_MANAGED : 0, index, size,
                   symbol->size);
        size += symbol->size;
    }
    if (size) {
        Elf64_Shdr section = {
            .sh_type = which == DATA_ZERO ? SHT_NOBITS : SHT_PROGBITS,
            .sh_flags = SHF_ALLOC | (which == DATA_CONST ? 0 : SHF_WRITE),
            .sh_addralign = 256,
            .sh_size = size,
        };
        section.sh_offset = put_aligned(&writer->file, 256);
        put(&writer->file, data.bytes, data.failed ? 0 : data.count);
        add_section(writer, "", names[which], section);
    }
    writer->file.failed |= data.failed;
    free(data.bytes);
}

static void write_references(struct writer *writer) {
    for (uint32_t i = 0; i < writer->image->symbol_count; i++) {
        const struct sim_image_symbol *symbol = &writer->image->symbols[i];
        unsigned type = symbol->kind == SIM_SYMBOL_TEXREF    ? CUBIN_TYPE_TEXTURE
                        : symbol->kind == SIM_SYMBOL_SURFREF ? CUBIN_TYPE_SURFACE
                                                             : CUBIN_TYPE_SAMPLER;
        if (symbol->kind > SIM_SYMBOL_MANAGED)
            add_symbol(writer, symbol->name, true, type, 0, SHN_UNDEF, 0, 0);
    }
}

/* ---- Kernels ------------------------------------------------------------------------------- */

static void write_limits(struct writer *writer, const struct sim_image_function *function) {
    struct blob *file = &writer->file;
    uint32_t most[3] = {function->max_threads, 1, 1};

    if (function->required_block[0])
        put_words(file, INFO_REQUIRED_THREADS, function->required_block, 3);
    else if (function->max_threads)
        put_words(file, INFO_MAX_THREADS, most, 3);
    if (function->cluster[0])
        put_words(file, INFO_CLUSTER, function->cluster, 3);
    else if (function->cluster_must_be_set)
        put_record(file, INFO_FORMAT_NONE, INFO_EXPLICIT_CLUSTER, 0);
}

static void write_info(struct writer *writer, const struct sim_image_function *function,
                       uint32_t symbol, uint32_t text) {
    struct blob *file = &writer->file;
    size_t start = put_aligned(file, 4);

    put_record(file, INFO_FORMAT_SIZED, INFO_PARAM_CBANK, 8);
    put_word(file, symbol);
    put_half(file, PARAM_BASE);
    put_half(file, function->param_bytes);
    put_record(file, INFO_FORMAT_HALF, INFO_PARAM_SIZE, function->param_bytes);
    for (uint32_t i = function->param_count; i-- > 0;) {
        const struct sim_param *param = &function->params[i];
        bool wide = param->size >= 1u << 14;
        put_record(file, INFO_FORMAT_SIZED, wide ? INFO_KPARAM_V2 : INFO_KPARAM, 12);
        put_word(file, 0);
        put_half(file, i);
        put_half(file, param->offset);
        put_word(file, wide ? param->size : param->size << 18 | 0x1f000u);
    }
    write_limits(writer, function);
    add_section(writer, ".nv.info.", function->name,
                (Elf64_Shdr){.sh_type = CUBIN_SECTION_INFO,
                             .sh_flags = SHF_INFO_LINK,
                             .sh_offset = start,
                             .sh_size = file->count - start,
                             .sh_info = text,
                             .sh_addralign = 4});
}

static void write_kernel(struct writer *writer, const struct sim_image_function *function,
                         uint64_t code_bytes) {
    bool reserved = writer->cc >= CUBIN_RESERVED_SHARED_FROM;
    uint64_t shared = function->shared_bytes + (reserved ? CUBIN_RESERVED_SHARED : 0);
    size_t start = put_aligned(&writer->file, 128);

    put(&writer->file, NULL, code_bytes);
    uint32_t text = add_section(writer, ".text.", function->name,
                                (Elf64_Shdr){.sh_type = SHT_PROGBITS,
                                             .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
                                             .sh_offset = start,
                                             .sh_size = code_bytes,
                                             .sh_info = function->registers << 24,
                                             .sh_addralign = 128});
    uint32_t symbol = add_symbol(writer, function->name, function->strong, STT_FUNC,
                                 CUBIN_OTHER_ENTRY, text, 0, code_bytes);
    if (shared)
        add_section(writer, ".nv.shared.", function->name,
                    (Elf64_Shdr){.sh_type = SHT_NOBITS,
                                 .sh_flags = SHF_ALLOC | SHF_WRITE | SHF_INFO_LINK,
                                 .sh_offset = writer->file.count,
                                 .sh_size = shared,
                                 .sh_info = text,
                                 .sh_addralign = 16});
    write_info(writer, function, symbol, text);
}

/* The records of all kernels together; the kernels' symbols start at `first`. */
static void write_common_info(struct writer *writer, uint32_t first) {
    struct blob *file = &writer->file;
    size_t start = put_aligned(file, 4);

    for (uint32_t i = 0; i < writer->image->function_count; i++) {
        const struct sim_image_function *function = &writer->image->functions[i];
        put_words(file, INFO_REGISTERS, (uint32_t[]){first + i, function->registers}, 2);
        put_words(file, INFO_FRAME_SIZE, (uint32_t[]){first + i, function->local_bytes}, 2);
        put_words(file, INFO_MIN_STACK_SIZE, (uint32_t[]){first + i, function->local_bytes}, 2);
    }
    add_section(writer, "", ".nv.info",
                (Elf64_Shdr){.sh_type = CUBIN_SECTION_INFO,
                             .sh_offset = start,
                             .sh_size = file->count - start,
                             .sh_addralign = 4});
}

/* ---- The file ------------------------------------------------------------------------------ */

static void write_tables(struct writer *writer) {
    size_t at = put_aligned(&writer->file, 8);
    uint32_t strings = (uint32_t)(writer->sections.count / sizeof(Elf64_Shdr)) + 1;

    put(&writer->file, writer->symbols.bytes, writer->symbols.count);
    add_section(writer, "", ".symtab",
                (Elf64_Shdr){.sh_type = SHT_SYMTAB,
                             .sh_offset = at,
                             .sh_size = writer->symbols.count,
                             .sh_link = strings,
                             .sh_info = 1,
                             .sh_addralign = 8,
                             .sh_entsize = sizeof(Elf64_Sym)});
    at = put(&writer->file, writer->strings.bytes, writer->strings.count);
    add_section(writer, "", ".strtab",
                (Elf64_Shdr){.sh_type = SHT_STRTAB,
                             .sh_offset = at,
                             .sh_size = writer->strings.count,
                             .sh_addralign = 1});
    uint32_t own = put_string(&writer->names, "", ".shstrtab");
    at = put(&writer->file, writer->names.bytes, writer->names.count);
    Elf64_Shdr last = {.sh_name = own,
                       .sh_type = SHT_STRTAB,
                       .sh_offset = at,
                       .sh_size = writer->names.count,
                       .sh_addralign = 1};
    put(&writer->sections, &last, sizeof last);
}

static bool any_failed(const struct writer *writer) {
    return writer->file.failed || writer->sections.failed || writer->names.failed ||
           writer->strings.failed || writer->symbols.failed;
}

CUresult sim_write_cubin(const struct sim_image *image, unsigned cc, uint8_t **out, size_t *bytes) {
    struct writer writer = {.image = image, .cc = cc};
    Elf64_Ehdr header = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT, 0x33,
                    7},
        .e_type = ET_EXEC,
        .e_machine = CUBIN_MACHINE,
        .e_version = 129,
        .e_flags = cc << 16 | 0x500 | cc,
        .e_ehsize = sizeof header,
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_shentsize = sizeof(Elf64_Shdr),
    };
    uint64_t data = image->data_bytes < image->bytes ? image->data_bytes : 0;
    uint64_t code = image->function_count ? (image->bytes - data) / image->function_count : 0;

    put(&writer.file, NULL, sizeof header);
    put(&writer.sections, NULL, sizeof(Elf64_Shdr));
    put(&writer.symbols, NULL, sizeof(Elf64_Sym));
    put(&writer.strings, "", 1);
    put(&writer.names, "", 1);
    for (uint32_t i = 0; i < image->function_count; i++)
        write_kernel(&writer, &image->functions[i], (code + 127) & ~UINT64_C(127));
    write_common_info(&writer, 1);
    write_data(&writer, DATA_INITIAL);
    write_data(&writer, DATA_ZERO);
    write_data(&writer, DATA_CONST);
    write_references(&writer);
    write_tables(&writer);
    header.e_shoff = put_aligned(&writer.file, 8);
    header.e_shnum = (Elf64_Half)(writer.sections.count / sizeof(Elf64_Shdr));
    header.e_shstrndx = (Elf64_Half)(header.e_shnum - 1);
    put(&writer.file, writer.sections.bytes, writer.sections.count);
    bool failed = any_failed(&writer);
    if (writer.sections.count / sizeof(Elf64_Shdr) >= SHN_LORESERVE)
        failed = true; /* more than the header can count */
    if (!failed)
        memcpy(writer.file.bytes, &header, sizeof header);
    free(writer.sections.bytes);
    free(writer.names.bytes);
    free(writer.strings.bytes);
    free(writer.symbols.bytes);
    if (failed) {
        free(writer.file.bytes);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = writer.file.bytes;
    *bytes = writer.file.count;
    return CUDA_SUCCESS;
}
