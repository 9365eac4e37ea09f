/* Fatbins: a header and a row of entries, each the code for one architecture, perhaps compressed.
 *
 *   header: magic u32, version u16, header bytes u16, bytes of the entries u64
 *   entry:  kind u16, version u16, header bytes u32, payload bytes u64 (padded), compressed bytes
 *           u32, -, code version u16 u16, architecture u32, name offset and length u32 u32, flags
 *           u64, -, plain bytes u64; the payload follows the header
 */
#include "image_build.h"

#include <stdlib.h>
#include <string.h>

#define FATBIN_MAGIC 0xba55ed50u
#define FATBIN_HEADER 16u
#define ENTRY_HEADER 64u

enum { KIND_PTX = 1, KIND_CUBIN = 2 };

#define FLAG_64BIT UINT64_C(0x1)
#define FLAG_LZ4 UINT64_C(0x2000)
#define FLAG_ZSTD UINT64_C(0x8000)
#define FLAG_SPECIFIC UINT64_C(0x100000)
#define FLAG_FAMILY UINT64_C(0x200000)

/* A payload that claims to grow by more than its compression can is refused before memory is asked
 * for: LZ4 makes at most 255 bytes of one, Zstandard a block of 128 KiB of four. */
#define MOST_GROWTH_LZ4 255u
#define MOST_GROWTH_ZSTD 32768u

static uint16_t get16(const uint8_t *at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t get32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t get64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

bool sim_is_fatbin(const uint8_t *data, size_t size) {
    static const uint8_t magic[4] = {0x50, 0xed, 0x55, 0xba};

    /* Byte by byte: text without a stated size may end before the fourth. */
    for (size_t i = 0; i < sizeof magic; i++) {
        if (i >= size || data[i] != magic[i])
            return false;
    }
    return true;
}

size_t sim_fatbin_extent(const uint8_t *data, size_t limit) {
    if (limit < FATBIN_HEADER || get32(data) != FATBIN_MAGIC)
        return 0;
    uint64_t header = get16(data + 6), body = get64(data + 8);
    if (header < FATBIN_HEADER || body > SIM_IMAGE_MAX_BYTES || header + body > limit)
        return 0;
    return header + body;
}

struct entry {
    const uint8_t *payload;
    size_t bytes; /* of the payload as stored */
    size_t plain; /* when decompressed; 0: it is not compressed */
    uint64_t flags;
    unsigned arch;
    enum sim_arch_kind arch_kind;
    unsigned kind;
    unsigned code_version;
};

/* Reads the entry at *at and steps over it. False when it does not fit. */
static bool read_entry(const uint8_t **at, const uint8_t *end, struct entry *entry) {
    size_t left = (size_t)(end - *at);
    const uint8_t *from = *at;

    if (left < ENTRY_HEADER)
        return false;
    uint32_t header = get32(from + 4);
    uint64_t payload = get64(from + 8);
    uint32_t compressed = get32(from + 16);
    if (header < ENTRY_HEADER || header > left || payload > left - header)
        return false;
    memset(entry, 0, sizeof *entry);
    entry->kind = get16(from);
    entry->code_version = get16(from + 26) * 10u + get16(from + 24);
    entry->arch = get32(from + 28);
    entry->flags = get64(from + 40);
    entry->payload = from + header;
    entry->bytes = payload;
    if (entry->flags & (FLAG_LZ4 | FLAG_ZSTD)) {
        if (!compressed || compressed > payload)
            return false;
        entry->bytes = compressed;
        entry->plain = get64(from + 56);
        uint64_t growth = entry->flags & FLAG_ZSTD ? MOST_GROWTH_ZSTD : MOST_GROWTH_LZ4;
        if (!entry->plain || entry->plain / growth > compressed)
            return false;
    }
    if (entry->flags & FLAG_FAMILY)
        entry->arch_kind = SIM_ARCH_FAMILY;
    else if (entry->flags & FLAG_SPECIFIC)
        entry->arch_kind = SIM_ARCH_SPECIFIC;
    *at = from + header + payload;
    return true;
}

/* Whether `entry` suits the target better than `best` (all zero: nothing so far). Machine code
 * before text, then the newest architecture, then the most specific code for it. */
static bool better(const struct entry *entry, const struct entry *best,
                   const struct sim_image_target *target) {
    if (!(entry->flags & FLAG_64BIT))
        return false;
    if (entry->kind == KIND_CUBIN) {
        if (target->ptx_only || !sim_arch_runs(entry->arch, entry->arch_kind, target->cc))
            return false;
    } else if (entry->kind != KIND_PTX ||
               !sim_arch_compiles(entry->arch, entry->arch_kind, target->cc)) {
        return false;
    }
    if (!best->payload)
        return true;
    if (entry->kind != best->kind)
        return entry->kind == KIND_CUBIN;
    if (entry->arch != best->arch)
        return entry->arch > best->arch;
    return entry->arch_kind > best->arch_kind;
}

static CUresult unpack(struct sim_build *build, const struct entry *entry,
                       struct sim_fatbin_choice *choice) {
    choice->owned = malloc(entry->plain);
    if (!choice->owned)
        return sim_build_fail(build, CUDA_ERROR_OUT_OF_MEMORY,
                              "no host memory for the %zu bytes of a fatbin entry", entry->plain);
    bool good;
    if (entry->flags & FLAG_ZSTD) {
        enum sim_zstd_result result =
            sim_zstd_decode(entry->payload, entry->bytes, choice->owned, entry->plain);
        if (result == SIM_ZSTD_ABSENT) {
            free(choice->owned);
            return sim_build_fail(build, CUDA_ERROR_NOT_SUPPORTED,
                                  "a fatbin entry is compressed with Zstandard and libzstd.so.1 "
                                  "is not installed");
        }
        good = result == SIM_ZSTD_OK;
    } else {
        good = sim_lz4_decode(entry->payload, entry->bytes, choice->owned, entry->plain);
    }
    if (!good) {
        free(choice->owned);
        return sim_build_fail(build, CUDA_ERROR_INVALID_IMAGE,
                              "a compressed fatbin entry does not decode");
    }
    choice->data = choice->owned;
    choice->bytes = entry->plain;
    return CUDA_SUCCESS;
}

CUresult sim_fatbin_choose(struct sim_build *build, const uint8_t *data, size_t size,
                           struct sim_fatbin_choice *choice) {
    size_t extent = sim_fatbin_extent(data, size);
    struct entry best = {0}, entry;

    if (!extent || get16(data + 4) != 1)
        return sim_build_fail(build, CUDA_ERROR_INVALID_IMAGE,
                              "the fatbin's header is malformed or longer than the image");
    const uint8_t *at = data + get16(data + 6), *end = data + extent;
    while (at < end) {
        if (!read_entry(&at, end, &entry))
            return sim_build_fail(build, CUDA_ERROR_INVALID_IMAGE,
                                  "an entry of the fatbin is malformed or truncated");
        if (better(&entry, &best, build->target))
            best = entry;
    }
    if (!best.payload)
        return sim_build_fail(build, CUDA_ERROR_NO_BINARY_FOR_GPU,
                              "no entry of the fatbin suits compute capability %u.%u",
                              build->target->cc / 10, build->target->cc % 10);
    memset(choice, 0, sizeof *choice);
    choice->ptx = best.kind == KIND_PTX;
    if (best.plain)
        return unpack(build, &best, choice);
    choice->data = best.payload;
    choice->bytes = best.bytes;
    return CUDA_SUCCESS;
}
