/* Two-level segregated fit over memory that must not be written: all bookkeeping is outside.
 * Taking and giving are constant in the number of live blocks. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BATCH = 512, EXACT_TRIES = 32 };

/* ---- Block structs ------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    struct block *spare; /* linked by `after` */
} slab = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool refill(struct heap *heap) {
    pthread_mutex_lock(&slab.lock);
    struct block *some = slab.spare;
    for (int b = 0; b < BATCH && slab.spare; b++) {
        struct block *last = slab.spare;
        slab.spare = last->after;
        if (b == BATCH - 1 || !slab.spare)
            last->after = NULL;
    }
    pthread_mutex_unlock(&slab.lock);
    if (!some) {
        some = calloc(BATCH, sizeof *some); /* kept for ever: see struct block */
        for (int b = 0; some && b + 1 < BATCH; b++)
            some[b].after = &some[b + 1];
    }
    heap->spare = some;
    return some != NULL;
}

static struct block *new_block(struct heap *heap) {
    if (!heap->spare && !refill(heap))
        return NULL;
    struct block *block = heap->spare;
    heap->spare = block->after;
    return block;
}

static void drop_block(struct heap *heap, struct block *block) {
    block->bytes = 0;
    block->chunk = NULL;
    block->after = heap->spare;
    heap->spare = block;
}

/* ---- Size classes -------------------------------------------------------------------------- */

static inline void classify(uint32_t units, unsigned *first, unsigned *second) {
    if (units < HEAP_SECOND) {
        *first = 0;
        *second = units;
        return;
    }
    unsigned top = 31 - (unsigned)__builtin_clz(units);
    *first = top - 3;
    *second = (units >> (top - 4)) & (HEAP_SECOND - 1);
}

static void insert_free(struct heap *heap, struct block *block) {
    unsigned first, second;
    classify(block->units, &first, &second);
    block->same.before = NULL;
    block->same.after = heap->free[first][second];
    if (block->same.after)
        block->same.after->same.before = block;
    heap->free[first][second] = block;
    heap->first_map |= 1u << first;
    heap->second_map[first] |= 1u << second;
}

static void remove_free(struct heap *heap, struct block *block) {
    unsigned first, second;
    classify(block->units, &first, &second);
    if (block->same.after)
        block->same.after->same.before = block->same.before;
    if (block->same.before) {
        block->same.before->same.after = block->same.after;
        return;
    }
    heap->free[first][second] = block->same.after;
    if (!block->same.after) {
        heap->second_map[first] &= ~(1u << second);
        if (!heap->second_map[first])
            heap->first_map &= ~(1u << first);
    }
}

/* A free block of at least `units`: of the next class up, where every one fits; else one of the
 * first of its own class that happens to fit. */
static struct block *find_free(const struct heap *heap, uint32_t units) {
    unsigned first, second;
    uint32_t rounded = units;
    if (units >= HEAP_SECOND)
        rounded += (1u << (31 - (unsigned)__builtin_clz(units) - 4)) - 1;
    classify(rounded, &first, &second);
    uint32_t seconds = first < HEAP_FIRST ? heap->second_map[first] & ~((1u << second) - 1) : 0;
    if (!seconds) {
        uint32_t firsts = heap->first_map & ~((2u << first) - 1);
        if (firsts) {
            first = (unsigned)__builtin_ctz(firsts);
            seconds = heap->second_map[first];
        }
    }
    if (seconds)
        return heap->free[first][__builtin_ctz(seconds)];
    classify(units, &first, &second);
    struct block *block = heap->free[first][second];
    for (int tries = 0; block && tries < EXACT_TRIES; tries++, block = block->same.after)
        if (block->units >= units)
            return block;
    return NULL;
}

/* ---- Where blocks begin -------------------------------------------------------------------- */

static bool mark_start(struct block *block) {
    struct chunk *chunk = block->chunk->chunk;
    uint64_t offset = block->address - block->chunk->base;
    uint64_t page = offset >> HEAP_PAGE_SHIFT;
    uint32_t unit = (uint32_t)(offset >> HEAP_UNIT_SHIFT) % HEAP_PAGE_UNITS;
    if (!chunk->pages[page]) {
        /* Not calloc: most of it is never looked at, and fresh memory of this size is zero. */
        chunk->pages[page] = calloc(1, sizeof *chunk->pages[page]);
        if (!chunk->pages[page])
            return false;
    }
    chunk->pages[page]->starts[unit / 64] |= UINT64_C(1) << (unit % 64);
    chunk->pages[page]->blocks[unit] = block;
    uint64_t last = (offset + ((uint64_t)block->units << HEAP_UNIT_SHIFT) - 1) >> HEAP_PAGE_SHIFT;
    for (uint64_t p = page + 1; p <= last; p++)
        chunk->cover[p] = block;
    return true;
}

static void clear_start(const struct block *block) {
    uint64_t offset = block->address - block->chunk->base;
    uint32_t unit = (uint32_t)(offset >> HEAP_UNIT_SHIFT) % HEAP_PAGE_UNITS;
    block->chunk->chunk->pages[offset >> HEAP_PAGE_SHIFT]->starts[unit / 64] &=
        ~(UINT64_C(1) << (unit % 64));
}

static bool contains(const struct extent *extent, const struct block *block, CUdeviceptr address) {
    return block->chunk == extent && block->bytes && address >= block->address &&
           address - block->address < (uint64_t)block->units << HEAP_UNIT_SHIFT;
}

struct block *heap_find(const struct extent *extent, CUdeviceptr address) {
    const struct chunk *chunk = extent->chunk;
    uint64_t offset = address - extent->base;
    uint64_t page = offset >> HEAP_PAGE_SHIFT;
    uint32_t unit = (uint32_t)(offset >> HEAP_UNIT_SHIFT) % HEAP_PAGE_UNITS;
    const struct chunk_page *starts = chunk->pages[page];
    if (starts) {
        uint32_t w = unit / 64;
        uint64_t bits = starts->starts[w] & (UINT64_MAX >> (63 - unit % 64));
        while (!bits && w--)
            bits = starts->starts[w];
        if (bits) {
            struct block *block = starts->blocks[w * 64 + 63 - (uint32_t)__builtin_clzll(bits)];
            return contains(extent, block, address) ? block : NULL;
        }
    }
    struct block *block = chunk->cover[page];
    return block && contains(extent, block, address) ? block : NULL;
}

/* ---- Chunks -------------------------------------------------------------------------------- */

void heap_init(struct heap *heap) {
    memset(heap, 0, sizeof *heap);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&heap->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

static void free_chunk(struct chunk *chunk) {
    for (uint32_t p = 0; p < chunk->page_count; p++)
        free(chunk->pages[p]);
    free(chunk->pages);
    free(chunk->cover);
    free(chunk);
}

static struct chunk *make_chunk(uint32_t page_count) {
    struct chunk *chunk = calloc(1, sizeof *chunk);
    if (!chunk)
        return NULL;
    chunk->page_count = page_count;
    chunk->pages = calloc(page_count, sizeof *chunk->pages);
    chunk->cover = calloc(page_count, sizeof *chunk->cover);
    if (chunk->pages && chunk->cover)
        return chunk;
    free(chunk->pages);
    free(chunk->cover);
    free(chunk);
    return NULL;
}

void heap_fini(struct heap *heap) {
    if (heap->spare_chunk)
        free_chunk(heap->spare_chunk);
    pthread_mutex_lock(&slab.lock);
    while (heap->spare) {
        struct block *block = heap->spare;
        heap->spare = block->after;
        block->after = slab.spare;
        slab.spare = block;
    }
    pthread_mutex_unlock(&slab.lock);
    pthread_mutex_destroy(&heap->lock);
}

bool heap_add(struct heap *heap, struct extent *extent) {
    uint32_t pages =
        (uint32_t)((extent->span + (UINT64_C(1) << HEAP_PAGE_SHIFT) - 1) >> HEAP_PAGE_SHIFT);
    struct block *block = new_block(heap);
    struct chunk *chunk = NULL;
    if (block && pages == 1 && heap->spare_chunk) {
        chunk = heap->spare_chunk; /* its starts are all clear */
        heap->spare_chunk = NULL;
    } else if (block) {
        chunk = make_chunk(pages);
    }
    if (!chunk) {
        if (block)
            drop_block(heap, block);
        return false;
    }
    chunk->heap = heap;
    chunk->first = block;
    chunk->live = 0;
    chunk->before = NULL;
    chunk->after = heap->chunks;
    if (heap->chunks)
        heap->chunks->chunk->before = extent;
    heap->chunks = extent;
    extent->chunk = chunk;
    *block = (struct block){.address = extent->base,
                            .units = (uint32_t)(extent->span >> HEAP_UNIT_SHIFT),
                            .chunk = extent};
    insert_free(heap, block);
    return true;
}

void heap_remove(struct heap *heap, struct extent *extent) {
    struct chunk *chunk = extent->chunk;
    remove_free(heap, chunk->first);
    drop_block(heap, chunk->first);
    if (chunk->before)
        chunk->before->chunk->after = chunk->after;
    else
        heap->chunks = chunk->after;
    if (chunk->after)
        chunk->after->chunk->before = chunk->before;
    extent->chunk = NULL;
    if (chunk->page_count == 1 && !heap->spare_chunk)
        heap->spare_chunk = chunk;
    else
        free_chunk(chunk);
}

/* ---- Taking and giving --------------------------------------------------------------------- */

struct block *heap_take(struct heap *heap, uint64_t bytes, bool *no_memory) {
    uint64_t wide = (bytes + HEAP_UNIT - 1) >> HEAP_UNIT_SHIFT;
    if (wide > UINT32_MAX / 2)
        return NULL;
    uint32_t units = (uint32_t)wide;
    struct block *block = find_free(heap, units);
    if (!block)
        return NULL;
    struct block *rest = NULL;
    if (block->units > units && !(rest = new_block(heap))) {
        *no_memory = true;
        return NULL;
    }
    remove_free(heap, block);
    uint32_t all = block->units;
    block->units = units;
    if (!mark_start(block)) {
        block->units = all;
        insert_free(heap, block);
        if (rest)
            drop_block(heap, rest);
        *no_memory = true;
        return NULL;
    }
    if (rest) {
        *rest = (struct block){.address = block->address + ((uint64_t)units << HEAP_UNIT_SHIFT),
                               .units = all - units,
                               .chunk = block->chunk,
                               .before = block,
                               .after = block->after};
        if (rest->after)
            rest->after->before = rest;
        block->after = rest;
        insert_free(heap, rest);
    }
    block->bytes = bytes;
    block->flags = 0;
    block->pending = NULL;
    block->chunk->chunk->live++;
    heap->live++;
    return block;
}

/* Takes `next`, a free neighbour behind `block`, into it. */
static void absorb(struct heap *heap, struct block *block, struct block *next) {
    block->units += next->units;
    block->after = next->after;
    if (next->after)
        next->after->before = block;
    drop_block(heap, next);
}

bool heap_give(struct heap *heap, struct block *block) {
    struct chunk *chunk = block->chunk->chunk;
    clear_start(block);
    block->bytes = 0;
    heap->live--;
    chunk->live--;
    if (block->after && !block->after->bytes) {
        remove_free(heap, block->after);
        absorb(heap, block, block->after);
    }
    if (block->before && !block->before->bytes) {
        struct block *before = block->before;
        remove_free(heap, before);
        absorb(heap, before, block);
        block = before;
    }
    insert_free(heap, block);
    return chunk->live == 0;
}
