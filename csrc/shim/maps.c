/* Loaded objects by the kernel's list of mappings, for processes whose loader does not tell.
 *
 * A static program that loads a library by dlopen gets a C library of its own beside the one that is
 * linked in, and dl_iterate_phdr in that one knows of no object. The mappings still show them: each
 * object's first one begins with its ELF header.
 */
#include "maps.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One line of /proc/self/maps at a time, read in pieces: there may be thousands. */
struct lines {
    int fd;
    size_t begin, end;
    char buffer[PATH_MAX + 512];
};

static char *next_line(struct lines *lines) {
    for (;;) {
        char *start = lines->buffer + lines->begin;
        char *stop = memchr(start, '\n', lines->end - lines->begin);
        if (stop) {
            *stop = 0;
            lines->begin = (size_t)(stop - lines->buffer) + 1;
            return start;
        }
        memmove(lines->buffer, start, lines->end - lines->begin);
        lines->end -= lines->begin;
        lines->begin = 0;
        ssize_t got =
            read(lines->fd, lines->buffer + lines->end, sizeof lines->buffer - lines->end);
        if (got <= 0)
            return NULL;
        lines->end += (size_t)got;
    }
}

/* "start-end perms offset dev inode path": an object's first mapping is readable, of a file, and of
 * its beginning. */
static const ElfW(Ehdr) * object_of(char *line, const char **path) {
    char *at;
    uintptr_t start = strtoull(line, &at, 16);
    const char *permissions = (at = strchr(at, ' ')) ? ++at : NULL;
    const char *offset = at && (at = strchr(at, ' ')) ? ++at : NULL;
    *path = at ? strchr(at, '/') : NULL;
    /* Nothing is read of what is no library: a file that was cut off, or a device, would not bear it. */
    if (!*path || !strstr(*path, ".so") || !strncmp(*path, "/dev/", 5) || permissions[0] != 'r' ||
        strtoull(offset, NULL, 16) != 0)
        return NULL;
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)start;
    return memcmp(header->e_ident, ELFMAG, SELFMAG) ? NULL : header;
}

int aliquot_iterate_maps(int (*callback)(struct dl_phdr_info *, size_t, void *), void *data) {
    struct lines lines = {.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    int answer = 0;
    for (char *line; lines.fd >= 0 && !answer && (line = next_line(&lines));) {
        const char *path;
        const ElfW(Ehdr) *header = object_of(line, &path);
        /* A program header that lies outside the first mapping is of no library. */
        if (!header || header->e_type != ET_DYN || header->e_phoff > 4096 - sizeof *header)
            continue;
        struct dl_phdr_info info = {
            .dlpi_addr = (uintptr_t)header,
            .dlpi_name = path,
            .dlpi_phdr = (const ElfW(Phdr) *)((uintptr_t)header + header->e_phoff),
            .dlpi_phnum = header->e_phnum,
        };
        answer = callback(&info, sizeof info, data);
    }
    if (lines.fd >= 0)
        close(lines.fd);
    return answer;
}
