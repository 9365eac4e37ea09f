/* Words of PTX text: comments, names, numbers in every form that the language has. */
#include "image_ptx_lex.h"

#include <string.h>

/* The C library's own depend on the locale. */
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

static bool is_name(char c) { return is_letter(c) || is_digit(c) || c == '_' || c == '$'; }

void ptx_lex_init(struct ptx_lexer *lexer, const char *text, size_t length) {
    memset(lexer, 0, sizeof *lexer);
    lexer->at = text;
    lexer->end = text + length;
    lexer->line = 1;
    ptx_next(lexer);
}

/* Steps over blanks, comments and # lines. False at an unterminated comment. */
static bool skip_blank(struct ptx_lexer *lexer) {
    const char *end = lexer->end;

    while (lexer->at < end) {
        char c = *lexer->at;
        size_t left = (size_t)(end - lexer->at);
        if (c == '\n') {
            lexer->line++;
            lexer->at++;
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
            lexer->at++;
        } else if (c == '#' || (c == '/' && left > 1 && lexer->at[1] == '/')) {
            const char *stop = memchr(lexer->at, '\n', left);
            lexer->at = stop ? stop : end;
        } else if (c == '/' && left > 1 && lexer->at[1] == '*') {
            lexer->at += 2;
            for (;; lexer->at++) {
                if (end - lexer->at < 2) {
                    lexer->at = end;
                    return false;
                }
                if (lexer->at[0] == '*' && lexer->at[1] == '/')
                    break;
                lexer->line += lexer->at[0] == '\n';
            }
            lexer->at += 2;
        } else {
            break;
        }
    }
    return true;
}

static const char *name_end(const char *at, const char *end) {
    while (at < end && is_name(*at))
        at++;
    return at;
}

/* A number goes on over letters (0x1F, 0f3F800000, 10U) and, in a decimal, over one exponent. */
static const char *number_end(const char *at, const char *end) {
    bool prefixed = end - at > 1 && at[0] == '0' && is_letter(at[1]) && at[1] != 'e' &&
                    at[1] != 'E' && at[1] != 'U';

    while (at < end) {
        if (is_name(*at) || (*at == '.' && !prefixed)) {
            at++;
        } else if (!prefixed && (*at == '+' || *at == '-') && (at[-1] == 'e' || at[-1] == 'E')) {
            at++;
        } else {
            break;
        }
    }
    return at;
}

void ptx_next(struct ptx_lexer *lexer) {
    struct ptx_token *token = &lexer->token;
    bool whole = skip_blank(lexer);
    const char *at = lexer->at, *end = lexer->end;

    token->line = lexer->line;
    token->text = at;
    token->length = 0;
    if (!whole) {
        token->kind = PTX_BAD;
        return;
    }
    if (at == end) {
        token->kind = PTX_END;
        return;
    }
    char c = *at;
    if (c == '.' && end - at > 1 && is_name(at[1])) {
        token->kind = PTX_DIRECTIVE;
        token->text = at + 1;
        lexer->at = name_end(at + 1, end);
    } else if (is_digit(c)) {
        token->kind = PTX_NUMBER;
        lexer->at = number_end(at, end);
    } else if (is_name(c) || c == '%') {
        token->kind = PTX_NAME;
        lexer->at = name_end(at + 1, end);
    } else if (c == '"') {
        const char *stop = memchr(at + 1, '"', (size_t)(end - at - 1));
        const char *newline = stop ? memchr(at, '\n', (size_t)(stop - at)) : NULL;
        token->kind = stop && !newline ? PTX_STRING : PTX_BAD;
        token->text = at + 1;
        lexer->at = stop ? stop : end;
        token->length = (size_t)(lexer->at - token->text);
        if (stop)
            lexer->at++;
        return;
    } else {
        token->kind = c > ' ' && c < 127 ? PTX_MARK : PTX_BAD;
        lexer->at = at + 1;
    }
    token->length = (size_t)(lexer->at - token->text);
}

bool ptx_is(const struct ptx_token *token, enum ptx_kind kind, const char *text) {
    return token->kind == kind && strlen(text) == token->length &&
           !memcmp(token->text, text, token->length);
}

/* ---- Numbers ------------------------------------------------------------------------------ */

static int digit_value(char c) {
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

static bool digits(const char *text, size_t length, unsigned base, uint64_t *value) {
    uint64_t sum = 0;

    if (!length)
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned digit = (unsigned)digit_value(text[i]);
        if (digit >= base || __builtin_mul_overflow(sum, base, &sum) ||
            __builtin_add_overflow(sum, digit, &sum))
            return false;
    }
    *value = sum;
    return true;
}

bool ptx_integer(const struct ptx_token *token, uint64_t *value) {
    const char *text = token->text;
    size_t length = token->length;

    if (token->kind != PTX_NUMBER)
        return false;
    if (length > 1 && (text[length - 1] == 'U' || text[length - 1] == 'u'))
        length--;
    if (length > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
        return digits(text + 2, length - 2, 16, value);
    if (length > 2 && text[0] == '0' && (text[1] == 'b' || text[1] == 'B'))
        return digits(text + 2, length - 2, 2, value);
    if (length > 1 && text[0] == '0')
        return digits(text + 1, length - 1, 8, value);
    return digits(text, length, 10, value);
}

/* Bits of a double as a half: rounded to nearest even, as the assembler does for constants. */
static uint16_t half_bits(double value) {
    float narrow = (float)value;
    uint32_t bits;

    memcpy(&bits, &narrow, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest >= 0x7f800000u)
        return (uint16_t)(sign | 0x7c00u | (rest > 0x7f800000u ? 0x200u : 0));
    if (rest >= 0x47800000u)
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x33000000u)
        return (uint16_t)sign;
    uint32_t mantissa = (rest & 0x7fffffu) | 0x800000u, exponent = rest >> 23, shift = 13;
    if (exponent < 113) {
        shift += 113 - exponent;
        exponent = 0;
    } else {
        exponent -= 112;
        mantissa &= 0x7fffffu;
    }
    uint32_t kept = mantissa >> shift, lost = mantissa & ((1u << shift) - 1);
    uint32_t half = 1u << (shift - 1);
    kept += lost > half || (lost == half && (kept & 1));
    return (uint16_t)(sign | ((exponent << 10) + kept));
}

static uint64_t real_bits(double value, unsigned size) {
    uint64_t wide = 0;
    float narrow = (float)value;
    uint32_t bits;

    if (size == 2)
        return half_bits(value);
    if (size == 4) {
        memcpy(&bits, &narrow, sizeof bits);
        return bits;
    }
    memcpy(&wide, &value, sizeof wide);
    return wide;
}

/* A decimal with a point, and perhaps an exponent. By hand, since strtod minds the locale; the
 * extended precision keeps the error far below a double's for what people write. */
static bool decimal(const char *text, size_t length, double *value) {
    long double sum = 0;
    int scale = 0, exponent = 0;
    size_t i = 0;
    bool point = false, negative = false;

    for (; i < length && (is_digit(text[i]) || (text[i] == '.' && !point)); i++) {
        if (text[i] == '.') {
            point = true;
            continue;
        }
        sum = sum * 10 + (text[i] - '0');
        scale -= point;
    }
    if (i < length && (text[i] == 'e' || text[i] == 'E')) {
        i++;
        if (i < length && (text[i] == '+' || text[i] == '-'))
            negative = text[i++] == '-';
        for (; i < length && is_digit(text[i]) && exponent < 10000; i++)
            exponent = exponent * 10 + (text[i] - '0');
        scale += negative ? -exponent : exponent;
    } else if (!point) {
        return false;
    }
    if (i != length)
        return false;
    for (; scale > 0 && sum <= (long double)1e320L; scale--)
        sum *= 10;
    for (; scale < 0 && sum > 0; scale++)
        sum /= 10;
    *value = (double)sum;
    return true;
}

bool ptx_bits(const struct ptx_token *token, bool negative, unsigned size, bool real,
              uint64_t *bits) {
    const char *text = token->text;
    uint64_t value;
    double number;

    if (token->kind != PTX_NUMBER)
        return false;
    /* 0f and 0d: the IEEE bits in hexadecimal. */
    if (token->length > 2 && text[0] == '0' && strchr("fFdD", text[1])) {
        if (!digits(text + 2, token->length - 2, 16, &value))
            return false;
        bool single = text[1] == 'f' || text[1] == 'F';
        if (single) {
            uint32_t low = (uint32_t)value;
            float narrow;
            memcpy(&narrow, &low, sizeof narrow);
            number = (double)narrow;
        } else {
            memcpy(&number, &value, sizeof number);
        }
        *bits = real_bits(negative ? -number : number, size);
        return true;
    }
    if (ptx_integer(token, &value)) {
        if (real) {
            number = (double)value;
            *bits = real_bits(negative ? -number : number, size);
        } else {
            *bits = negative ? -value : value;
        }
        return true;
    }
    if (!decimal(text, token->length, &number))
        return false;
    *bits = real_bits(negative ? -number : number, real ? size : 8);
    return true;
}
