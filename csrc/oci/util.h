/* What the small programs have in common: clean-up at the end of a scope, errors as values, reading
 * with a bound. The library part never prints; the programs do, in one line. */
#ifndef ALIQUOT_OCI_UTIL_H
#define ALIQUOT_OCI_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

/* Why something failed: what, on which path, why, in one line. */
struct oci_error {
    char text[8192];
};

/* Writes the message and returns false, so that a failure is one return. */
bool oci_fail(struct oci_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Copies `text` with everything that could move a terminal's cursor, and what is not UTF-8, replaced
 * by question marks; ends with a NUL within `size`, never within a letter. */
void oci_printable(char *to, size_t size, const char *text);

/* `text`, made printable, between quotation marks and with the escapes that JSON and logfmt have in
 * common. The caller frees. */
char *oci_quote(const char *text);

/* One line on standard error: "PROGRAM: text", in one write, printable. */
void oci_say(const char *program, const char *text);

static inline void oci_close(const int *fd) {
    if (*fd >= 0)
        close(*fd);
}
static inline void oci_free(void *pointer) { free(*(void **)pointer); }
#define AUTO_CLOSE __attribute__((cleanup(oci_close)))
#define AUTO_FREE __attribute__((cleanup(oci_free)))

/* Memory that is there: a program this small that cannot have a few kilobytes says so and ends. */
void *oci_allocate(size_t count, size_t size);
char *oci_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Room for one more of `count` elements of `size` bytes in the growing array `*array`. */
void oci_grow(void *array, size_t count, size_t size);

/* Reads to the end of `fd`, at most `most` bytes; what was read ends with a NUL that is not
 * counted. Returns NULL with errno: EFBIG when there is more. The caller frees. */
char *oci_read_all(int fd, size_t most, size_t *size);

/* Nanoseconds of CLOCK_MONOTONIC. */
int64_t oci_now(void);

#endif
