/* What the reading of PTX is divided over. Private to image_ptx*.c. */
#ifndef ALIQUOT_SIM_IMAGE_PTX_H
#define ALIQUOT_SIM_IMAGE_PTX_H

#include "image_build.h"
#include "image_ptx_lex.h"

/* A name of the module that bodies are searched for. */
struct ptx_name {
    const char *name;
    size_t length;
    uint64_t bytes; /* of a shared variable, counted for each entry that names it */
    uint32_t seen;  /* the entry, by number, that it was last counted for */
    bool external;  /* defined elsewhere: becomes a need when a body names it */
};

struct ptx_reader {
    struct ptx_lexer lexer;
    struct sim_build *build;
    unsigned version;
    unsigned arch;
    uint64_t const_bytes;
    struct ptx_name *names; /* open-addressed */
    uint32_t name_count;
    uint32_t name_room; /* a power of two, or 0 */
    uint32_t entries;
};

enum ptx_linkage { LINK_LOCAL, LINK_WEAK, LINK_VISIBLE, LINK_EXTERN };

/* What stands before a variable's or parameter's name. */
struct ptx_declaration {
    uint64_t align; /* 0: natural */
    unsigned size;  /* of an element of the basic type, bytes; 0: none was named */
    unsigned lanes; /* .v2, .v4 */
    bool real;
    bool managed;
    enum sim_symbol_kind reference; /* SIM_SYMBOL_TEXREF and so on; SIM_SYMBOL_GLOBAL: none */
};

enum ptx_space { SPACE_GLOBAL, SPACE_CONST, SPACE_SHARED, SPACE_LOCAL, SPACE_OTHER };

/* INVALID_PTX, with a line for the log in the driver's words. */
CUresult ptx_syntax(struct ptx_reader *reader, const char *what);

/* Step over the token when it is what is looked for; false and no step otherwise. */
bool ptx_take_mark(struct ptx_reader *reader, char mark);
bool ptx_take_integer(struct ptx_reader *reader, uint64_t *value);
/* Steps over a block; the opening mark is under the eye. False when it does not end. */
bool ptx_skip_block(struct ptx_reader *reader, char open, char close);

/* Reads all directives between the state space and the name. False without a type. */
bool ptx_take_declaration(struct ptx_reader *reader, struct ptx_declaration *declaration);
/* [3][4] behind a name: *count elements in all; *open: the first has no number. */
bool ptx_take_dimensions(struct ptx_reader *reader, uint64_t *count, bool *open);

enum ptx_space ptx_space_of(const struct ptx_token *token);
/* One or more variables of a space, whose directive has been stepped over, to the ;.
 * `entry`: the kernel in whose body they stand, or NULL. */
CUresult ptx_read_variables(struct ptx_reader *reader, enum ptx_space space,
                            enum ptx_linkage linkage, struct sim_image_function *entry);
/* Remembers a name for ptx_use_name. */
void ptx_add_name(struct ptx_reader *reader, const struct ptx_token *name, uint64_t shared_bytes,
                  bool external);
/* A body names something: bytes of the module's shared variable of that name the first time the
 * entry names it, else 0. What is external is needed from then on. */
uint64_t ptx_use_name(struct ptx_reader *reader, const struct ptx_token *name);

#endif
