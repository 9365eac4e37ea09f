/* PTX text: what a program can ask of a module is read (entries, parameters, variables, limits);
 * instructions are not compiled, only stepped over.
 */
#include "image_ptx.h"

#include <stdlib.h>
#include <string.h>

/* Registers that a kernel compiled from PTX is said to use: the simulator has no register
 * allocator. .maxnreg lowers it. */
#define PTX_REGISTERS 32u

/* ---- Small pieces -------------------------------------------------------------------------- */

/* Up to three numbers, divided by commas; the rest become 1. */
static bool take_triple(struct ptx_reader *reader, uint32_t triple[3]) {
    for (unsigned i = 0; i < 3; i++)
        triple[i] = 1;
    for (unsigned i = 0; i < 3; i++) {
        uint64_t value;
        if (!ptx_take_integer(reader, &value) || value > UINT32_MAX)
            return false;
        triple[i] = (uint32_t)value;
        if (!ptx_is_mark(&reader->lexer, ','))
            break;
        ptx_next(&reader->lexer);
    }
    return true;
}

/* Steps over a directive that is of no interest, to its ; or the end of its block. */
static bool skip_directive(struct ptx_reader *reader) {
    for (;; ptx_next(&reader->lexer)) {
        if (reader->lexer.token.kind == PTX_END || reader->lexer.token.kind == PTX_BAD)
            return false;
        if (ptx_is_mark(&reader->lexer, '{'))
            return ptx_skip_block(reader, '{', '}');
        if (ptx_take_mark(reader, ';'))
            return true;
    }
}

/* ---- Kernels and functions ----------------------------------------------------------------- */

/* (.param …, .param …) of a kernel. */
static CUresult read_params(struct ptx_reader *reader) {
    uint64_t end = 0;

    ptx_next(&reader->lexer);
    if (ptx_take_mark(reader, ')'))
        return CUDA_SUCCESS;
    do {
        struct ptx_declaration declaration;
        uint64_t count, bytes;
        bool open;
        if (!ptx_is(&reader->lexer.token, PTX_DIRECTIVE, "param"))
            return ptx_syntax(reader, "Parameter without .param");
        if (!ptx_take_declaration(reader, &declaration))
            return ptx_syntax(reader, "Parameter without a type");
        if (reader->lexer.token.kind != PTX_NAME)
            return ptx_syntax(reader, "Parameter without a name");
        ptx_next(&reader->lexer);
        if (!ptx_take_dimensions(reader, &count, &open) || open)
            return ptx_syntax(reader, "Bad array size");
        uint64_t element = (uint64_t)declaration.size * declaration.lanes;
        uint64_t align = declaration.align > element ? declaration.align : element;
        if (__builtin_mul_overflow(count, element, &bytes))
            return ptx_syntax(reader, "Bad array size");
        end = (end + align - 1) & ~(align - 1);
        if (bytes > SIM_IMAGE_MAX_PARAM_BYTES || end > SIM_IMAGE_MAX_PARAM_BYTES - bytes)
            return ptx_syntax(reader, "Formal parameter space overflowed");
        sim_build_param(reader->build, (uint32_t)end, (uint32_t)bytes);
        end += bytes;
    } while (ptx_take_mark(reader, ','));
    return ptx_take_mark(reader, ')') ? CUDA_SUCCESS : ptx_syntax(reader, "Parsing error");
}

/* .maxntid and its like, between the parameters and the body. */
static CUresult read_limits(struct ptx_reader *reader, struct sim_image_function *function) {
    struct ptx_lexer *lexer = &reader->lexer;

    while (lexer->token.kind == PTX_DIRECTIVE) {
        const struct ptx_token token = lexer->token;
        uint32_t triple[3];
        uint64_t value;
        bool good = true;
        ptx_next(lexer);
        bool required = ptx_is(&token, PTX_DIRECTIVE, "reqntid");
        if (required || ptx_is(&token, PTX_DIRECTIVE, "maxntid")) {
            good = take_triple(reader, triple);
            uint64_t threads = good ? (uint64_t)triple[0] * triple[1] : 0;
            if (good && (threads > UINT32_MAX || threads * triple[2] > UINT32_MAX || !threads ||
                         !triple[2]))
                good = false;
            if (good) {
                function->max_threads = (uint32_t)(threads * triple[2]);
                if (required)
                    memcpy(function->required_block, triple, sizeof triple);
            }
        } else if (ptx_is(&token, PTX_DIRECTIVE, "reqnctapercluster")) {
            good = take_triple(reader, function->cluster);
            function->cluster_must_be_set = true;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "explicitcluster")) {
            function->cluster_must_be_set = true;
        } else if (ptx_is(&token, PTX_DIRECTIVE, "maxnreg")) {
            good = ptx_take_integer(reader, &value);
            if (good && value && value < function->registers)
                function->registers = (uint32_t)value;
        } else { /* .minnctapersm 2, .pragma "x"; and what is to come: its operands */
            while (lexer->token.kind == PTX_NUMBER || lexer->token.kind == PTX_STRING ||
                   ptx_is_mark(lexer, ','))
                ptx_next(lexer);
            if (ptx_is(&token, PTX_DIRECTIVE, "pragma") && !ptx_take_mark(reader, ';'))
                good = false;
        }
        if (!good)
            return ptx_syntax(reader, "Bad performance directive");
    }
    return CUDA_SUCCESS;
}

/* Steps over a body, taking the variables that count. `entry`: NULL for a device function. */
static CUresult read_body(struct ptx_reader *reader, struct sim_image_function *entry) {
    struct ptx_lexer *lexer = &reader->lexer;
    unsigned depth = 0;
    bool start = false; /* of a statement: only there a state space declares */
    struct sim_image_function ignored = {0};

    for (;;) {
        const struct ptx_token token = lexer->token;
        if (token.kind == PTX_END || token.kind == PTX_BAD)
            return ptx_syntax(reader, "Unclosed function body");
        if (start && token.kind == PTX_DIRECTIVE) {
            enum ptx_space space = ptx_space_of(&token);
            if (space == SPACE_SHARED || space == SPACE_LOCAL) {
                ptx_next(lexer);
                CUresult result =
                    ptx_read_variables(reader, space, LINK_LOCAL, entry ? entry : &ignored);
                if (result != CUDA_SUCCESS)
                    return result;
                continue;
            }
        }
        if (token.kind == PTX_NAME) {
            uint64_t shared = ptx_use_name(reader, &token);
            if (entry)
                entry->shared_bytes += (uint32_t)shared;
        }
        ptx_next(lexer);
        start = false;
        if (token.kind != PTX_MARK)
            continue;
        if (token.text[0] == '{') {
            depth++;
            start = true;
        } else if (token.text[0] == '}') {
            start = true;
            if (--depth == 0)
                return CUDA_SUCCESS;
        } else if (token.text[0] == ';' || token.text[0] == ':') {
            start = true;
        }
    }
}

/* A kernel's definition goes straight into the image; a mere declaration is dropped again. */
static CUresult read_entry(struct ptx_reader *reader, enum ptx_linkage linkage) {
    struct sim_build *build = reader->build;
    struct sim_image_function function = {0};

    if (reader->lexer.token.kind != PTX_NAME)
        return ptx_syntax(reader, "Entry without a name");
    function.name = sim_build_name(build, reader->lexer.token.text, reader->lexer.token.length);
    function.strong = linkage == LINK_VISIBLE;
    function.registers = PTX_REGISTERS;
    function.ptx_version = (uint16_t)(reader->arch);
    function.binary_version = (uint16_t)build->target->cc;
    reader->entries++;
    ptx_next(&reader->lexer);
    build->params.count = 0;
    if (ptx_is_mark(&reader->lexer, '(')) {
        CUresult result = read_params(reader);
        if (result != CUDA_SUCCESS)
            return result;
    }
    CUresult result = read_limits(reader, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (ptx_take_mark(reader, ';'))
        return CUDA_SUCCESS;
    if (!ptx_is_mark(&reader->lexer, '{'))
        return ptx_syntax(reader, "Parsing error");
    if (!sim_build_take_params(build, &function))
        return ptx_syntax(reader, "Formal parameter space overflowed");
    result = read_body(reader, &function);
    if (result != CUDA_SUCCESS)
        return result;
    struct sim_image_function *made = sim_build_function(build, function.name);
    if (made)
        *made = function;
    return CUDA_SUCCESS;
}

/* .func [attributes] [(result)] name [(parameters)] [limits] ; or { body } */
static CUresult read_func(struct ptx_reader *reader, enum ptx_linkage linkage) {
    struct ptx_lexer *lexer = &reader->lexer;
    struct sim_image_function ignored = {0};

    while (ptx_is(&lexer->token, PTX_DIRECTIVE, "attribute")) {
        ptx_next(lexer);
        if (!ptx_is_mark(lexer, '(') || !ptx_skip_block(reader, '(', ')'))
            return ptx_syntax(reader, "Parsing error");
    }
    if (ptx_is_mark(lexer, '(') && !ptx_skip_block(reader, '(', ')'))
        return ptx_syntax(reader, "Parsing error");
    const struct ptx_token name = lexer->token;
    if (name.kind != PTX_NAME)
        return ptx_syntax(reader, "Function without a name");
    ptx_next(lexer);
    if (ptx_is_mark(lexer, '(') && !ptx_skip_block(reader, '(', ')'))
        return ptx_syntax(reader, "Parsing error");
    CUresult result = read_limits(reader, &ignored);
    if (result != CUDA_SUCCESS)
        return result;
    const char *copy = sim_build_name(reader->build, name.text, name.length);
    if (ptx_take_mark(reader, ';')) {
        if (linkage == LINK_EXTERN)
            ptx_add_name(reader, &name, 0, true);
        return CUDA_SUCCESS;
    }
    if (!ptx_is_mark(lexer, '{'))
        return ptx_syntax(reader, "Parsing error");
    if (linkage == LINK_VISIBLE || linkage == LINK_WEAK)
        sim_build_define(reader->build, copy);
    return read_body(reader, NULL);
}

/* ---- The module ---------------------------------------------------------------------------- */

/* sm_90, compute_90, sm_90a, sm_100f. */
static bool parse_arch(const struct ptx_token *token, unsigned *arch, enum sim_arch_kind *kind) {
    size_t skip;

    if (token->kind != PTX_NAME)
        return false;
    if (token->length > 3 && !memcmp(token->text, "sm_", 3))
        skip = 3;
    else if (token->length > 8 && !memcmp(token->text, "compute_", 8))
        skip = 8;
    else
        return false;
    *arch = 0;
    *kind = SIM_ARCH_PLAIN;
    for (size_t i = skip; i < token->length; i++) {
        char c = token->text[i];
        if (c >= '0' && c <= '9' && *arch < 1000)
            *arch = *arch * 10 + (unsigned)(c - '0');
        else if (i + 1 == token->length && i > skip && (c == 'a' || c == 'f'))
            *kind = c == 'a' ? SIM_ARCH_SPECIFIC : SIM_ARCH_FAMILY;
        else
            return false;
    }
    return true;
}

static CUresult read_version(struct ptx_reader *reader) {
    const struct ptx_token token = reader->lexer.token;
    unsigned part[2] = {0, 0};
    unsigned which = 0;

    for (size_t i = 0; i < token.length && token.kind == PTX_NUMBER; i++) {
        char c = token.text[i];
        if (c == '.' && which == 0 && i)
            which = 1;
        else if (c >= '0' && c <= '9' && part[which] < 100)
            part[which] = part[which] * 10 + (unsigned)(c - '0');
        else
            return ptx_syntax(reader, "Bad .version");
    }
    if (which != 1)
        return ptx_syntax(reader, "Bad .version");
    reader->version = part[0] * 10 + part[1];
    unsigned limit = reader->build->target->ptx_limit;
    if (reader->version > limit)
        return sim_build_fail(reader->build, CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
                              "ptxas application ptx input, line %u; fatal   : Unsupported "
                              ".version %u.%u; current version is '%u.%u'",
                              token.line, part[0], part[1], limit / 10, limit % 10);
    ptx_next(&reader->lexer);
    return CUDA_SUCCESS;
}

static CUresult read_target(struct ptx_reader *reader) {
    enum sim_arch_kind kind;
    unsigned line = reader->lexer.token.line, cc = reader->build->target->cc;

    do {
        unsigned arch;
        if (reader->lexer.token.kind != PTX_NAME)
            return ptx_syntax(reader, "Bad .target");
        if (parse_arch(&reader->lexer.token, &arch, &kind)) {
            reader->arch = arch;
            if (!sim_arch_compiles(arch, kind, cc))
                return sim_build_fail(reader->build, CUDA_ERROR_INVALID_PTX,
                                      "ptxas application ptx input, line %u; fatal   : SM version "
                                      "specified by .target is higher than default SM version "
                                      "assumed",
                                      line);
        }
        ptx_next(&reader->lexer);
    } while (ptx_take_mark(reader, ','));
    return reader->arch ? CUDA_SUCCESS : ptx_syntax(reader, "Bad .target");
}

/* .file 1 "name" [, time, size], which ends without a mark. */
static CUresult read_file(struct ptx_reader *reader) {
    uint64_t ignored;

    if (!ptx_take_integer(reader, &ignored) || reader->lexer.token.kind != PTX_STRING)
        return ptx_syntax(reader, "Bad .file");
    ptx_next(&reader->lexer);
    while (ptx_take_mark(reader, ',')) {
        if (!ptx_take_integer(reader, &ignored))
            return ptx_syntax(reader, "Bad .file");
    }
    return CUDA_SUCCESS;
}

static CUresult read_statement(struct ptx_reader *reader) {
    struct ptx_lexer *lexer = &reader->lexer;
    enum ptx_linkage linkage = LINK_LOCAL;

    for (;;) {
        const struct ptx_token token = lexer->token;
        if (token.kind != PTX_DIRECTIVE)
            return ptx_take_mark(reader, ';') ? CUDA_SUCCESS : ptx_syntax(reader, "Parsing error");
        ptx_next(lexer);
        if (ptx_is(&token, PTX_DIRECTIVE, "extern"))
            linkage = LINK_EXTERN;
        else if (ptx_is(&token, PTX_DIRECTIVE, "visible"))
            linkage = LINK_VISIBLE;
        else if (ptx_is(&token, PTX_DIRECTIVE, "weak") || ptx_is(&token, PTX_DIRECTIVE, "common"))
            linkage = LINK_WEAK;
        else if (ptx_is(&token, PTX_DIRECTIVE, "entry"))
            return read_entry(reader, linkage);
        else if (ptx_is(&token, PTX_DIRECTIVE, "func"))
            return read_func(reader, linkage);
        else if (ptx_is(&token, PTX_DIRECTIVE, "file"))
            return read_file(reader);
        else if (ptx_is(&token, PTX_DIRECTIVE, "target"))
            return read_target(reader);
        else if (ptx_is(&token, PTX_DIRECTIVE, "address_size")) {
            uint64_t bits;
            if (!ptx_take_integer(reader, &bits) || bits != 64)
                return ptx_syntax(reader, "Only 64-bit addresses are supported");
            return CUDA_SUCCESS;
        } else if (ptx_space_of(&token) != SPACE_OTHER)
            return ptx_read_variables(reader, ptx_space_of(&token), linkage, NULL);
        else /* .section, .pragma, .alias, and what newer versions bring */
            return skip_directive(reader) ? CUDA_SUCCESS : ptx_syntax(reader, "Parsing error");
    }
}

bool sim_is_ptx(const char *text, size_t length) {
    struct ptx_lexer lexer;

    ptx_lex_init(&lexer, text, length);
    return ptx_is(&lexer.token, PTX_DIRECTIVE, "version");
}

CUresult sim_parse_ptx(struct sim_build *build, const char *text, size_t length) {
    struct ptx_reader reader = {.build = build};

    build->kind = SIM_IMAGE_PTX;
    build->bytes = length;
    ptx_lex_init(&reader.lexer, text, length);
    if (!ptx_is(&reader.lexer.token, PTX_DIRECTIVE, "version"))
        return ptx_syntax(&reader, "Missing .version directive at start of file");
    ptx_next(&reader.lexer);
    CUresult result = read_version(&reader);
    if (result == CUDA_SUCCESS && !ptx_is(&reader.lexer.token, PTX_DIRECTIVE, "target"))
        result = ptx_syntax(&reader, "Missing .target directive at start of file");
    while (result == CUDA_SUCCESS && reader.lexer.token.kind != PTX_END)
        result = read_statement(&reader);
    free(reader.names);
    struct sim_image_function *functions = build->functions.items;
    for (uint32_t i = 0; result == CUDA_SUCCESS && i < build->functions.count; i++)
        functions[i].const_bytes = (uint32_t)reader.const_bytes;
    return result;
}
