/* PTX variables: their types, sizes and initial values; and the reading of small pieces. */
#include "image_ptx.h"

#include <stdlib.h>
#include <string.h>

/* ---- Errors, in the driver's words --------------------------------------------------------- */

CUresult ptx_syntax(struct ptx_reader *reader, const char *what) {
    const struct ptx_token *token = &reader->lexer.token;
    int length = token->length < 40 ? (int)token->length : 40;

    if (token->kind == PTX_END)
        return sim_build_fail(reader->build, CUDA_ERROR_INVALID_PTX,
                              "ptxas application ptx input, line %u; fatal   : %s at the end of "
                              "the text",
                              token->line, what);
    return sim_build_fail(reader->build, CUDA_ERROR_INVALID_PTX,
                          "ptxas application ptx input, line %u; fatal   : %s near '%.*s'",
                          token->line, what, length, token->text);
}

/* ---- Small pieces -------------------------------------------------------------------------- */

bool ptx_take_mark(struct ptx_reader *reader, char mark) {
    if (!ptx_is_mark(&reader->lexer, mark))
        return false;
    ptx_next(&reader->lexer);
    return true;
}

bool ptx_take_integer(struct ptx_reader *reader, uint64_t *value) {
    if (!ptx_integer(&reader->lexer.token, value))
        return false;
    ptx_next(&reader->lexer);
    return true;
}

bool ptx_skip_block(struct ptx_reader *reader, char open, char close) {
    unsigned depth = 0;

    for (;; ptx_next(&reader->lexer)) {
        if (reader->lexer.token.kind == PTX_END || reader->lexer.token.kind == PTX_BAD)
            return false;
        if (ptx_is_mark(&reader->lexer, open)) {
            depth++;
        } else if (ptx_is_mark(&reader->lexer, close) && --depth == 0) {
            ptx_next(&reader->lexer);
            return true;
        }
    }
}

static bool type_size(const struct ptx_token *token, unsigned *size, bool *real) {
    static const struct {
        char name[8];
        unsigned char size;
        bool real;
    } types[] = {
        {"b8", 1, false},    {"u8", 1, false},    {"s8", 1, false},     {"b16", 2, false},
        {"u16", 2, false},   {"s16", 2, false},   {"f16", 2, true},     {"bf16", 2, false},
        {"b32", 4, false},   {"u32", 4, false},   {"s32", 4, false},    {"f32", 4, true},
        {"f16x2", 4, false}, {"b64", 8, false},   {"u64", 8, false},    {"s64", 8, false},
        {"f64", 8, true},    {"b128", 16, false}, {"bf16x2", 4, false}, {"tf32", 4, false},
        {"e4m3", 1, false},  {"e5m2", 1, false},
    };

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (ptx_is(token, PTX_DIRECTIVE, types[i].name)) {
            *size = types[i].size;
            *real = types[i].real;
            return true;
        }
    }
    return false;
}

bool ptx_take_declaration(struct ptx_reader *reader, struct ptx_declaration *declaration) {
    struct ptx_lexer *lexer = &reader->lexer;
    bool pointee = false;

    memset(declaration, 0, sizeof *declaration);
    declaration->lanes = 1;
    while (lexer->token.kind == PTX_DIRECTIVE) {
        const struct ptx_token token = lexer->token;
        ptx_next(lexer);
        if (ptx_is(&token, PTX_DIRECTIVE, "align")) {
            uint64_t align;
            if (!ptx_take_integer(reader, &align) || !align || (align & (align - 1)))
                return false;
            if (!pointee) /* behind .ptr it is that of what the parameter points to */
                declaration->align = align;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "ptr")) {
            pointee = true;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "v2")) {
            declaration->lanes = 2;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "v4")) {
            declaration->lanes = 4;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "v8")) {
            declaration->lanes = 8;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "texref")) {
            declaration->reference = SIM_SYMBOL_TEXREF;
            declaration->size = 8;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "surfref")) {
            declaration->reference = SIM_SYMBOL_SURFREF;
            declaration->size = 8;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "samplerref")) {
            declaration->reference = SIM_SYMBOL_SAMPLER;
            declaration->size = 8;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "attribute")) {
            if (!ptx_is_mark(lexer, '('))
                return false;
            for (; !ptx_is_mark(lexer, ')'); ptx_next(lexer)) {
                if (lexer->token.kind == PTX_END || lexer->token.kind == PTX_BAD)
                    return false;
                if (ptx_is(&lexer->token, PTX_DIRECTIVE, "managed"))
                    declaration->managed = true;
            }
            ptx_next(lexer);
        } else {
            type_size(&token, &declaration->size, &declaration->real);
        }
    }
    return declaration->size != 0;
}

bool ptx_take_dimensions(struct ptx_reader *reader, uint64_t *count, bool *open) {
    *count = 1;
    *open = false;
    for (bool first = true; ptx_take_mark(reader, '['); first = false) {
        uint64_t size;
        if (ptx_take_integer(reader, &size)) {
            if (__builtin_mul_overflow(*count, size, count) || *count > SIM_IMAGE_MAX_BYTES)
                return false;
        } else if (first) {
            *open = true;
        } else {
            return false;
        }
        if (!ptx_take_mark(reader, ']'))
            return false;
    }
    return true;
}

/* ---- Initial values ------------------------------------------------------------------------ */

/* The flat values of an initialiser, each `size` bytes. */
struct values {
    uint8_t *bytes;
    uint64_t count;
    uint64_t room;
    bool any; /* one of them is not zero */
};

static bool add_value(struct values *values, unsigned size, uint64_t bits) {
    if (values->count == values->room) {
        uint64_t room = values->room ? values->room * 2 : 64;
        uint8_t *bytes =
            room <= SIM_IMAGE_MAX_BYTES / 16 ? realloc(values->bytes, room * size) : NULL;
        if (!bytes)
            return false;
        values->bytes = bytes;
        values->room = room;
    }
    uint8_t *to = values->bytes + values->count++ * size;
    memset(to, 0, size);
    memcpy(to, &bits, size < 8 ? size : 8);
    values->any |= bits != 0;
    return true;
}

/* Reads an initialiser. Numbers are taken as they are; an expression with an address in it stays
 * zero, since there is no code that could follow the address. Inner braces are read flat: inner
 * rows that are not full (which no compiler writes) would end up early. */
static bool take_values(struct ptx_reader *reader, const struct ptx_declaration *declaration,
                        struct values *values) {
    struct ptx_lexer *lexer = &reader->lexer;
    unsigned depth = 0;

    do {
        while (ptx_take_mark(reader, '{'))
            depth++;
        if (!ptx_is_mark(lexer, '}')) {
            bool negative = false, plain = true;
            uint64_t bits = 0;
            unsigned tokens = 0, parentheses = 0;
            for (;; ptx_next(lexer), tokens++) {
                if (lexer->token.kind == PTX_END || lexer->token.kind == PTX_BAD)
                    return false;
                if (!parentheses &&
                    (ptx_is_mark(lexer, ',') || ptx_is_mark(lexer, '}') || ptx_is_mark(lexer, ';')))
                    break;
                if (ptx_is_mark(lexer, '-') && !tokens)
                    negative = true;
                else if (tokens > (negative ? 1 : 0) ||
                         !ptx_bits(&lexer->token, negative, declaration->size, declaration->real,
                                   &bits))
                    plain = false;
                if (ptx_is_mark(lexer, '('))
                    parentheses++;
                else if (ptx_is_mark(lexer, ')') && parentheses)
                    parentheses--;
            }
            if (!tokens || !add_value(values, declaration->size, plain ? bits : 0))
                return false;
        }
        while (depth && ptx_take_mark(reader, '}'))
            depth--;
        if (!depth)
            break;
    } while (ptx_take_mark(reader, ','));
    return depth == 0;
}

/* ---- Variables ----------------------------------------------------------------------------- */

static struct ptx_name *find_name(struct ptx_name *names, uint32_t room, const char *name,
                                  size_t length) {
    uint32_t at = sim_name_hash(name, length) & (room - 1);

    while (names[at].name && (names[at].length != length || memcmp(names[at].name, name, length)))
        at = (at + 1) & (room - 1);
    return &names[at];
}

static bool grow_names(struct ptx_reader *reader) {
    uint32_t room = reader->name_room ? reader->name_room * 2 : 16;
    struct ptx_name *names = calloc(room, sizeof *names);

    if (!names) {
        reader->build->failed = true;
        return false;
    }
    for (uint32_t i = 0; i < reader->name_room; i++) {
        const struct ptx_name *old = &reader->names[i];
        if (old->name)
            *find_name(names, room, old->name, old->length) = *old;
    }
    free(reader->names);
    reader->names = names;
    reader->name_room = room;
    return true;
}

void ptx_add_name(struct ptx_reader *reader, const struct ptx_token *name, uint64_t shared_bytes,
                  bool external) {
    if (2 * (reader->name_count + 1) > reader->name_room && !grow_names(reader))
        return;
    struct ptx_name *slot = find_name(reader->names, reader->name_room, name->text, name->length);
    reader->name_count += !slot->name;
    *slot = (struct ptx_name){
        .name = name->text, .length = name->length, .bytes = shared_bytes, .external = external};
}

uint64_t ptx_use_name(struct ptx_reader *reader, const struct ptx_token *token) {
    if (!reader->name_count)
        return 0;
    struct ptx_name *name = find_name(reader->names, reader->name_room, token->text, token->length);
    if (!name->name)
        return 0;
    if (name->external) {
        name->external = false;
        sim_build_need(reader->build, sim_build_name(reader->build, token->text, token->length));
    }
    if (name->seen == reader->entries)
        return 0;
    name->seen = reader->entries;
    return name->bytes;
}

enum ptx_space ptx_space_of(const struct ptx_token *token) {
    if (ptx_is(token, PTX_DIRECTIVE, "global") || ptx_is(token, PTX_DIRECTIVE, "tex"))
        return SPACE_GLOBAL;
    if (ptx_is(token, PTX_DIRECTIVE, "const"))
        return SPACE_CONST;
    if (ptx_is(token, PTX_DIRECTIVE, "shared"))
        return SPACE_SHARED;
    if (ptx_is(token, PTX_DIRECTIVE, "local"))
        return SPACE_LOCAL;
    return SPACE_OTHER;
}

static CUresult add_symbol(struct ptx_reader *reader, const struct ptx_token *name,
                           enum ptx_space space, const struct ptx_declaration *declaration,
                           uint64_t bytes, uint64_t align, const struct values *values,
                           enum ptx_linkage linkage) {
    struct sim_build *build = reader->build;
    struct sim_image_symbol *symbol =
        sim_build_symbol(build, sim_build_name(build, name->text, name->length));

    if (!symbol)
        return CUDA_SUCCESS;
    symbol->strong = linkage == LINK_VISIBLE;
    symbol->kind = declaration->reference;
    if (symbol->kind != SIM_SYMBOL_GLOBAL)
        return CUDA_SUCCESS;
    if (space == SPACE_CONST) {
        symbol->kind = SIM_SYMBOL_CONST;
        reader->const_bytes = ((reader->const_bytes + align - 1) & ~(align - 1)) + bytes;
    } else if (declaration->managed) {
        symbol->kind = SIM_SYMBOL_MANAGED;
    }
    symbol->size = bytes;
    symbol->align = align < 4096 ? (uint32_t)align : 4096;
    if (!sim_build_data(build, bytes, align, &symbol->offset))
        return ptx_syntax(reader, "Variable is too large");
    if (values->any) {
        uint8_t *run = sim_build_init_run(build, symbol->offset, values->count * declaration->size);
        if (run)
            memcpy(run, values->bytes, values->count * declaration->size);
    }
    return CUDA_SUCCESS;
}

CUresult ptx_read_variables(struct ptx_reader *reader, enum ptx_space space,
                            enum ptx_linkage linkage, struct sim_image_function *entry) {
    struct ptx_lexer *lexer = &reader->lexer;
    struct ptx_declaration declaration;

    if (!ptx_take_declaration(reader, &declaration))
        return ptx_syntax(reader, "Variable without a type");
    do {
        uint64_t count, bytes;
        bool open;
        const struct ptx_token name = lexer->token;
        struct values values = {0};
        CUresult result = CUDA_SUCCESS;
        if (name.kind != PTX_NAME)
            return ptx_syntax(reader, "Variable without a name");
        ptx_next(lexer);
        if (ptx_take_mark(reader, '<')) { /* %r<10>: names with numbers, only of registers */
            uint64_t ignored;
            if (!ptx_take_integer(reader, &ignored) || !ptx_take_mark(reader, '>'))
                return ptx_syntax(reader, "Parsing error");
        }
        if (!ptx_take_dimensions(reader, &count, &open))
            return ptx_syntax(reader, "Bad array size");
        if (ptx_take_mark(reader, '=')) {
            bool good = true;
            if (declaration.reference == SIM_SYMBOL_SAMPLER && ptx_is_mark(lexer, '{'))
                good = ptx_skip_block(reader, '{', '}');
            else
                good = take_values(reader, &declaration, &values);
            if (!good) {
                free(values.bytes);
                return ptx_syntax(reader, "Bad initializer");
            }
            if (open)
                count *= (values.count + declaration.lanes - 1) / declaration.lanes;
        } else if (open) {
            count = 0;
        }
        uint64_t element = (uint64_t)declaration.size * declaration.lanes;
        uint64_t align = declaration.align > element ? declaration.align : element;
        if (__builtin_mul_overflow(count, element, &bytes) || bytes > SIM_IMAGE_MAX_BYTES)
            result = ptx_syntax(reader, "Variable is too large");
        else if (values.count * declaration.size > bytes)
            result = ptx_syntax(reader, "Too many initial values");
        else if (space == SPACE_SHARED && !entry && linkage != LINK_EXTERN && bytes <= UINT32_MAX)
            ptx_add_name(reader, &name, bytes, false);
        else if (space == SPACE_SHARED && entry && bytes <= UINT32_MAX)
            entry->shared_bytes += (uint32_t)bytes;
        else if (space == SPACE_LOCAL && entry && bytes <= UINT32_MAX)
            entry->local_bytes += (uint32_t)bytes;
        else if ((space == SPACE_GLOBAL || space == SPACE_CONST) && linkage == LINK_EXTERN)
            ptx_add_name(reader, &name, 0, true);
        else if (space == SPACE_GLOBAL || space == SPACE_CONST)
            result = add_symbol(reader, &name, space, &declaration, bytes, align, &values, linkage);
        free(values.bytes);
        if (result != CUDA_SUCCESS)
            return result;
    } while (ptx_take_mark(reader, ','));
    return ptx_take_mark(reader, ';') ? CUDA_SUCCESS : ptx_syntax(reader, "Parsing error");
}
