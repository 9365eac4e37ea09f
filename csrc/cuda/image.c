/* What a module image will take on the device, before the driver has loaded it.
 *
 * An estimate in the driver's own terms: the loadable sections of the machine code that the driver
 * would choose, or the length of PTX text, which is compiled. A compressed entry counts with its
 * full length. Only headers are read, and only as far as the image itself says it reaches: the
 * driver trusts them as much.
 */
#include "shim.h"

#include <elf.h>
#include <string.h>

#define ENTRY_HEADER 64u
#define MOST_TEXT (256ull << 20)

enum { KIND_PTX = 1, KIND_CUBIN = 2 };

static uint64_t get(const uint8_t *at, unsigned bytes) {
    uint64_t value = 0;
    memcpy(&value, at, bytes);
    return value;
}

static bool begins(const char *name, const char *end, const char *with) {
    size_t length = strlen(with);
    return (size_t)(end - name) >= length && !memcmp(name, with, length);
}

/* A cubin within `limit` bytes: its allocated sections but those that each block or thread has. */
static uint64_t cubin_bytes(const uint8_t *data, uint64_t limit) {
    Elf64_Ehdr header;
    if (limit < sizeof header)
        return 0;
    memcpy(&header, data, sizeof header);
    uint64_t table = (uint64_t)header.e_shnum * sizeof(Elf64_Shdr);
    if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shstrndx >= header.e_shnum ||
        header.e_shoff > limit || table > limit - header.e_shoff)
        return 0;
    const uint8_t *sections = data + header.e_shoff;
    Elf64_Shdr names;
    memcpy(&names, sections + header.e_shstrndx * sizeof names, sizeof names);
    if (names.sh_offset > limit || names.sh_size > limit - names.sh_offset)
        return 0;
    const char *text = (const char *)data + names.sh_offset, *end = text + names.sh_size;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr section;
        memcpy(&section, sections + i * sizeof section, sizeof section);
        const char *name = section.sh_name < names.sh_size ? text + section.sh_name : end;
        if (section.sh_flags & SHF_ALLOC && section.sh_size < 1ull << 44 &&
            !begins(name, end, ".nv.shared") && !begins(name, end, ".nv.local"))
            bytes += section.sh_size;
    }
    return bytes;
}

/* The entry of a fatbin that the driver would take: machine code for this generation, as new as
 * possible, else PTX. */
static uint64_t fatbin_bytes(const uint8_t *data, uint64_t limit, unsigned capability) {
    if (limit < 16)
        return 0;
    uint64_t header = get(data + 6, 2), body = get(data + 8, 8);
    if (header < 16 || header > limit || body > limit - header)
        return 0;
    uint64_t best = 0, bytes = 0;
    for (uint64_t at = header, end = header + body; end - at >= ENTRY_HEADER;) {
        const uint8_t *entry = data + at;
        uint64_t kind = get(entry, 2), skip = get(entry + 4, 4), payload = get(entry + 8, 8);
        uint64_t architecture = get(entry + 28, 4), plain = get(entry + 56, 8);
        bool packed = get(entry + 16, 4) != 0;
        if (skip < ENTRY_HEADER || skip > end - at || payload > end - at - skip)
            break;
        at += skip + payload;
        bool fits =
            architecture <= capability &&
            (kind == KIND_PTX || (kind == KIND_CUBIN && architecture / 10 == capability / 10));
        uint64_t merit = architecture + (kind == KIND_CUBIN ? 1u << 16 : 0);
        if (!fits || merit <= best)
            continue;
        best = merit;
        bytes = packed ? plain : kind == KIND_CUBIN ? cubin_bytes(entry + skip, payload) : payload;
    }
    return bytes;
}

uint64_t aliquot_image_bytes(const void *image, uint64_t limit, int major, int minor) {
    const uint8_t *data = image;
    if (!data || limit < 4)
        return 0;
    /* Text may end before the fourth byte: look at one after the other. */
    static const uint8_t wrapper[] = {0xb1, 0x43, 0x62, 0x46}, fatbin[] = {0x50, 0xed, 0x55, 0xba};
    unsigned same = 0;
    while (same < 4 && data[same] == wrapper[same])
        same++;
    if (same == 4 && limit == UINT64_MAX) {
        const void *behind;
        memcpy(&behind, data + 8, sizeof behind);
        return behind ? aliquot_image_bytes(behind, limit, major, minor) : 0;
    }
    for (same = 0; same < 4 && data[same] == fatbin[same];)
        same++;
    if (same == 4)
        return fatbin_bytes(data, limit, (unsigned)(major * 10 + minor));
    for (same = 0; same < 4 && data[same] == (uint8_t)ELFMAG[same];)
        same++;
    if (same == 4)
        return cubin_bytes(data, limit);
    return strnlen(image, limit < MOST_TEXT ? limit : MOST_TEXT);
}
