/* The compressions of fatbin entries: LZ4 blocks, decoded here, and Zstandard frames, by the
 * system's library where it is installed. */
#include "image_build.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

/* ---- LZ4 ---------------------------------------------------------------------------------- */

/* The rest of a length whose four bits were all ones. False past the end of the block. */
static bool lz4_length(const uint8_t **at, const uint8_t *end, size_t *length) {
    uint8_t more;

    do {
        if (*at == end)
            return false;
        more = *(*at)++;
        *length += more;
    } while (more == 255);
    return true;
}

bool sim_lz4_decode(const uint8_t *data, size_t size, uint8_t *out, size_t room) {
    const uint8_t *at = data, *end = data + size;
    size_t done = 0;

    while (at < end) {
        uint8_t token = *at++;
        size_t literals = token >> 4, match = token & 15;

        if (literals == 15 && !lz4_length(&at, end, &literals))
            return false;
        if (literals > (size_t)(end - at) || literals > room - done)
            return false;
        memcpy(out + done, at, literals);
        at += literals;
        done += literals;
        if (at == end) /* the last sequence has no match */
            return done == room;
        if (end - at < 2)
            return false;
        size_t distance = (size_t)at[0] | (size_t)at[1] << 8;
        at += 2;
        if (match == 15 && !lz4_length(&at, end, &match))
            return false;
        match += 4;
        if (!distance || distance > done || match > room - done)
            return false;
        if (distance >= match) {
            memcpy(out + done, out + done - distance, match);
            done += match;
        } else { /* the match overlaps what it makes: it repeats */
            for (; match; match--, done++)
                out[done] = out[done - distance];
        }
    }
    return false;
}

/* ---- Zstandard ---------------------------------------------------------------------------- */

static size_t (*zstd_decompress)(void *out, size_t room, const void *data, size_t size);
static unsigned (*zstd_is_error)(size_t code);
static pthread_once_t zstd_once = PTHREAD_ONCE_INIT;

static void zstd_load(void) {
    void *library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return;
    void *decompress = dlsym(library, "ZSTD_decompress");
    void *is_error = dlsym(library, "ZSTD_isError");
    if (!decompress || !is_error)
        return;
    memcpy(&zstd_is_error, &is_error, sizeof zstd_is_error);
    memcpy(&zstd_decompress, &decompress, sizeof zstd_decompress);
}

enum sim_zstd_result sim_zstd_decode(const uint8_t *data, size_t size, uint8_t *out, size_t room) {
    pthread_once(&zstd_once, zstd_load);
    if (!zstd_decompress)
        return SIM_ZSTD_ABSENT;
    size_t done = zstd_decompress(out, room, data, size);
    return !zstd_is_error(done) && done == room ? SIM_ZSTD_OK : SIM_ZSTD_BAD;
}
