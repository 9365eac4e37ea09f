/* Words of PTX text. Private to image_ptx*.c. */
#ifndef ALIQUOT_SIM_IMAGE_PTX_LEX_H
#define ALIQUOT_SIM_IMAGE_PTX_LEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ptx_kind {
    PTX_END,
    PTX_DIRECTIVE, /* .entry, .u32, .8: `text` without the dot */
    PTX_NAME,      /* also $labels and %registers */
    PTX_NUMBER,    /* as written */
    PTX_STRING,    /* without its quotes */
    PTX_MARK,      /* one character of punctuation */
    PTX_BAD,       /* unterminated comment or string, or a byte that no text has */
};

struct ptx_token {
    enum ptx_kind kind;
    const char *text;
    size_t length;
    unsigned line;
};

struct ptx_lexer {
    const char *at;
    const char *end;
    unsigned line;
    struct ptx_token token; /* the one under the reader's eye */
};

void ptx_lex_init(struct ptx_lexer *lexer, const char *text, size_t length);
/* Steps to the next token. At the end it stays there. */
void ptx_next(struct ptx_lexer *lexer);

static inline bool ptx_is_mark(const struct ptx_lexer *lexer, char mark) {
    return lexer->token.kind == PTX_MARK && lexer->token.text[0] == mark;
}
bool ptx_is(const struct ptx_token *token, enum ptx_kind kind, const char *text);

/* Value of an integer as PTX writes them: decimal, 0x, 0b, 0 octal, U behind. False when it is
 * none, or passes 64 bits. */
bool ptx_integer(const struct ptx_token *token, uint64_t *value);
/* The bits of a number of any form for a variable of `size` bytes; `real`: of a floating type.
 * False when it is no number. */
bool ptx_bits(const struct ptx_token *token, bool negative, unsigned size, bool real,
              uint64_t *bits);

#endif
