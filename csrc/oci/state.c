/* A scanner for one JSON object that keeps three of its values. See state.h. */
#include "state.h"

#include <string.h>

/* Deeper than any runtime's state; the scanner's own stack is what it bounds. */
#define DEEPEST 64

struct scanner {
    const unsigned char *at, *end;
    const unsigned char *begin;
    const char *wrong; /* what is wrong where `at` is */
};

static bool wrong(struct scanner *s, const char *what) {
    if (!s->wrong)
        s->wrong = what;
    return false;
}

static void skip_space(struct scanner *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool take(struct scanner *s, char wanted) {
    skip_space(s);
    if (s->at == s->end || *s->at != (unsigned char)wanted)
        return false;
    s->at++;
    return true;
}

/* Text in UTF-8, of which the first `room` bytes are kept. */
struct text {
    char *buffer;
    size_t room, used;
    bool has_control;
};

static void put(struct text *text, unsigned char byte) {
    if (byte < 0x20 || byte == 0x7f)
        text->has_control = true;
    if (text->used < text->room)
        text->buffer[text->used] = (char)byte;
    text->used++;
}

static void put_code(struct text *text, uint32_t code) {
    if (code < 0x80)
        put(text, (unsigned char)code);
    else if (code < 0x800) {
        put(text, (unsigned char)(0xc0 | code >> 6));
        put(text, (unsigned char)(0x80 | (code & 0x3f)));
    } else if (code < 0x10000) {
        put(text, (unsigned char)(0xe0 | code >> 12));
        put(text, (unsigned char)(0x80 | (code >> 6 & 0x3f)));
        put(text, (unsigned char)(0x80 | (code & 0x3f)));
    } else {
        put(text, (unsigned char)(0xf0 | code >> 18));
        put(text, (unsigned char)(0x80 | (code >> 12 & 0x3f)));
        put(text, (unsigned char)(0x80 | (code >> 6 & 0x3f)));
        put(text, (unsigned char)(0x80 | (code & 0x3f)));
    }
}

static bool hex4(struct scanner *s, uint32_t *code) {
    if (s->end - s->at < 4)
        return wrong(s, "a \\u without four digits");
    *code = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char digit = *s->at;
        uint32_t value = digit >= '0' && digit <= '9'   ? digit - (uint32_t)'0'
                         : digit >= 'a' && digit <= 'f' ? digit - (uint32_t)'a' + 10
                         : digit >= 'A' && digit <= 'F' ? digit - (uint32_t)'A' + 10
                                                        : 16;
        if (value > 15)
            return wrong(s, "a \\u without four digits");
        *code = *code << 4 | value;
        s->at++;
    }
    return true;
}

static bool scan_escape(struct scanner *s, struct text *text) {
    if (s->at == s->end)
        return wrong(s, "a text without an end");
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    unsigned char kind = *s->at;
    const char *found = kind ? strchr(from, kind) : NULL;
    if (found) {
        put(text, (unsigned char)to[found - from]);
        s->at++;
        return true;
    }
    if (kind != 'u')
        return wrong(s, "an unknown escape");
    s->at++;
    uint32_t code, low;
    if (!hex4(s, &code))
        return false;
    if (code >= 0xdc00 && code <= 0xdfff)
        return wrong(s, "half a surrogate pair");
    if (code >= 0xd800 && code <= 0xdbff) {
        if (s->end - s->at < 2 || s->at[0] != '\\' || s->at[1] != 'u')
            return wrong(s, "half a surrogate pair");
        s->at += 2;
        if (!hex4(s, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return wrong(s, "half a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    put_code(text, code);
    return true;
}

/* One letter of UTF-8 with several bytes. */
static bool scan_letter(struct scanner *s, struct text *text) {
    unsigned char first = *s->at;
    int more = first >= 0xc2 && first <= 0xdf   ? 1
               : first >= 0xe0 && first <= 0xef ? 2
               : first >= 0xf0 && first <= 0xf4 ? 3
                                                : 0;
    if (!more || s->end - s->at <= more)
        return wrong(s, "a byte that is not UTF-8");
    unsigned char second = s->at[1];
    bool odd = (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
               (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
    for (int i = 1; i <= more; i++)
        odd |= (s->at[i] & 0xc0) != 0x80;
    if (odd)
        return wrong(s, "a byte that is not UTF-8");
    for (int i = 0; i <= more; i++)
        put(text, *s->at++);
    return true;
}

/* After the opening quotation mark. */
static bool scan_text(struct scanner *s, struct text *text) {
    for (;;) {
        if (s->at == s->end)
            return wrong(s, "a text without an end");
        unsigned char byte = *s->at;
        if (byte == '"') {
            s->at++;
            return true;
        }
        if (byte < 0x20)
            return wrong(s, "a control character in a text");
        if (byte == '\\') {
            s->at++;
            if (!scan_escape(s, text))
                return false;
        } else if (byte < 0x80) {
            put(text, byte);
            s->at++;
        } else if (!scan_letter(s, text))
            return false;
    }
}

static bool digits(struct scanner *s) {
    const unsigned char *first = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > first || wrong(s, "a number without a digit");
}

static bool scan_number(struct scanner *s) {
    if (*s->at == '-')
        s->at++;
    if (s->at < s->end && *s->at == '0')
        s->at++;
    else if (!digits(s))
        return false;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (!digits(s))
            return false;
    }
    if (s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-'))
            s->at++;
        return digits(s);
    }
    return true;
}

static bool scan_word(struct scanner *s, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(s->end - s->at) < length || memcmp(s->at, word, length) != 0)
        return wrong(s, "a word that is no value");
    s->at += length;
    return true;
}

static bool scan_value(struct scanner *s, int depth);

static bool scan_object(struct scanner *s, int depth) {
    if (take(s, '}'))
        return true;
    do {
        if (!take(s, '"'))
            return wrong(s, "an object without a key");
        struct text key = {0};
        if (!scan_text(s, &key))
            return false;
        if (!take(s, ':'))
            return wrong(s, "a key without ':'");
        if (!scan_value(s, depth))
            return false;
    } while (take(s, ','));
    return take(s, '}') || wrong(s, "an object without '}'");
}

static bool scan_array(struct scanner *s, int depth) {
    if (take(s, ']'))
        return true;
    do
        if (!scan_value(s, depth))
            return false;
    while (take(s, ','));
    return take(s, ']') || wrong(s, "a list without ']'");
}

static bool scan_value(struct scanner *s, int depth) {
    skip_space(s);
    if (s->at == s->end)
        return wrong(s, "no value");
    if (depth == 0)
        return wrong(s, "too many values within values");
    struct text ignored = {0};
    switch (*s->at) {
    case '{':
        s->at++;
        return scan_object(s, depth - 1);
    case '[':
        s->at++;
        return scan_array(s, depth - 1);
    case '"':
        s->at++;
        return scan_text(s, &ignored);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        if (*s->at != '-' && (*s->at < '0' || *s->at > '9'))
            return wrong(s, "something that is no value");
        return scan_number(s);
    }
}

static bool keep_text(struct scanner *s, char **place) {
    if (*place)
        return wrong(s, "a second value of id or bundle");
    if (!take(s, '"'))
        return wrong(s, "an id or bundle that is no text");
    struct scanner ahead = *s;
    struct text text = {0};
    if (!scan_text(&ahead, &text)) {
        s->at = ahead.at;
        return wrong(s, ahead.wrong);
    }
    if (text.has_control)
        return wrong(s, "a control character in id or bundle");
    text.room = text.used;
    text.buffer = *place = oci_allocate(text.room + 1, 1);
    text.used = 0;
    return scan_text(s, &text);
}

static bool keep_pid(struct scanner *s, int32_t *pid, bool *seen) {
    if (*seen)
        return wrong(s, "a second value of pid");
    *seen = true;
    skip_space(s);
    const unsigned char *first = s->at;
    if (first == s->end || *first < '0' || *first > '9')
        return wrong(s, "a pid that is no number");
    if (!scan_number(s))
        return false;
    int64_t value = 0;
    for (; first < s->at; first++) {
        if (*first < '0' || *first > '9' || value > INT32_MAX / 10)
            return wrong(s, "a pid that is no process's number");
        value = value * 10 + (*first - '0');
    }
    if (value > INT32_MAX)
        return wrong(s, "a pid that is no process's number");
    *pid = (int32_t)value;
    return true;
}

static bool is_key(const struct text *key, const char *name) {
    return key->used == strlen(name) && memcmp(key->buffer, name, key->used) == 0;
}

/* The value of a top-level key, after its ':'. */
static bool scan_member(struct scanner *s, struct oci_state *state, const struct text *key,
                        bool *pid_seen) {
    if (is_key(key, "id"))
        return keep_text(s, &state->id);
    if (is_key(key, "bundle"))
        return keep_text(s, &state->bundle);
    if (is_key(key, "pid"))
        return keep_pid(s, &state->pid, pid_seen);
    return scan_value(s, DEEPEST);
}

static bool scan_state(struct scanner *s, struct oci_state *state) {
    bool pid_seen = false;
    if (!take(s, '{'))
        return wrong(s, "no object");
    if (!take(s, '}')) {
        do {
            if (!take(s, '"'))
                return wrong(s, "an object without a key");
            char longest[sizeof "bundle"];
            struct text key = {.buffer = longest, .room = sizeof longest};
            if (!scan_text(s, &key))
                return false;
            if (!take(s, ':'))
                return wrong(s, "a key without ':'");
            if (!scan_member(s, state, &key, &pid_seen))
                return false;
        } while (take(s, ','));
        if (!take(s, '}'))
            return wrong(s, "an object without '}'");
    }
    skip_space(s);
    return s->at == s->end || wrong(s, "something behind the object");
}

bool oci_state_parse(struct oci_state *state, const char *json, size_t size,
                     struct oci_error *error) {
    const unsigned char *begin = (const unsigned char *)json;
    struct scanner s = {.at = begin, .end = begin + size, .begin = begin};
    *state = (struct oci_state){0};
    if (scan_state(&s, state))
        return true;
    oci_state_clear(state);
    return oci_fail(error,
                    "the container's state on standard input is not as OCI has it: %s at "
                    "byte %zu",
                    s.wrong, (size_t)(s.at - s.begin));
}

void oci_state_clear(struct oci_state *state) {
    free(state->id);
    free(state->bundle);
    *state = (struct oci_state){0};
}
