/* See util.h. */
#include "util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

bool oci_fail(struct oci_error *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return false;
}

/* Bytes of the letter that begins at `text`, 0 when it is none that a terminal only shows. */
static size_t letter(const unsigned char *text) {
    unsigned char first = text[0];
    if (first >= 0x20 && first < 0x7f)
        return 1;
    size_t length = first >= 0xc2 && first <= 0xdf   ? 2
                    : first >= 0xe0 && first <= 0xef ? 3
                    : first >= 0xf0 && first <= 0xf4 ? 4
                                                     : 0;
    if (!length)
        return 0;
    uint32_t code = first & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (text[i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    bool control = code < 0xa0 || code == 0xad || (code >= 0x200b && code <= 0x200f) ||
                   (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) ||
                   code == 0xfeff || (code >= 0xfff9 && code <= 0xfffb) ||
                   (code >= 0xe0000 && code <= 0xe0fff);
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) || control)
        return 0;
    return length;
}

void oci_printable(char *to, size_t size, const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    while (*at) {
        size_t length = letter(at);
        size_t taken = length ? length : 1;
        if (taken >= size)
            break;
        if (length)
            memcpy(to, at, length);
        else
            *to = '?';
        to += taken;
        size -= taken;
        at += taken;
    }
    *to = 0;
}

char *oci_quote(const char *text) {
    size_t size = strlen(text) + 1;
    AUTO_FREE char *clean = oci_allocate(size, 1);
    oci_printable(clean, size, text);
    char *quoted = oci_allocate(2 * size + 2, 1), *at = quoted;
    *at++ = '"';
    /* What is printable needs no other escape. */
    for (const char *from = clean; *from; from++) {
        if (*from == '"' || *from == '\\')
            *at++ = '\\';
        *at++ = *from;
    }
    *at = '"';
    return quoted;
}

void oci_say(const char *program, const char *text) {
    char line[sizeof(struct oci_error) + 64];
    int head = snprintf(line, 64, "%s: ", program);
    if (head < 0 || head >= 64)
        return;
    oci_printable(line + head, sizeof line - (size_t)head - 1, text);
    size_t size = strlen(line);
    line[size++] = '\n';
    /* Nobody is left to tell when standard error is gone. */
    for (char *at = line; size;) {
        ssize_t done = write(STDERR_FILENO, at, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return;
        at += done;
        size -= (size_t)done;
    }
}

static void *have(void *memory) {
    if (!memory) {
        oci_say("aliquot", "no memory is left on this node");
        _exit(1);
    }
    return memory;
}

void *oci_allocate(size_t count, size_t size) {
    return have(calloc(count ? count : 1, size ? size : 1));
}

char *oci_format(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = NULL;
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return have(length < 0 ? NULL : text);
}

void oci_grow(void *array, size_t count, size_t size) {
    /* At 0 and every power of two, there is room for no more. */
    if (count & (count - 1))
        return;
    void **place = array;
    *place = have(reallocarray(*place, count ? count * 2 : 1, size));
}

char *oci_read_all(int fd, size_t most, size_t *size) {
    /* Most files are short: a block of memory that large would be asked of the kernel, and given
     * back, each time. */
    char first[4096], *at = first;
    size_t room = sizeof first, used = 0;
    AUTO_FREE char *text = NULL;
    for (;;) {
        if (room - used < 2) {
            room *= 2;
            text = have(realloc(text, room));
            if (at == first)
                memcpy(text, first, used);
            at = text;
        }
        ssize_t done = read(fd, at + used, room - used - 1);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return NULL;
        used += (size_t)done;
        if (used > most) {
            errno = EFBIG;
            return NULL;
        }
        if (!done)
            break;
    }
    at[used] = 0;
    *size = used;
    char *result = text ? text : memcpy(oci_allocate(used + 1, 1), first, used + 1);
    text = NULL;
    return result;
}

int64_t oci_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}
