/* Two-level segregated fit over memory that must not be written: all bookkeeping is outside.
 * Taking and giving are constant in the number of live blocks. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BATCH = 256, EXACT_TRIES = 32 };

/* ---- What all heaps share ------------------------------------------------------------------ */

/* Structs of one kind in a reserved range that is never given back. Where there are many of them
 * they lie in large pages of the host, for a look-up at random costs a miss in each level of its
 * page tables. */
struct slab {
    uint8_t *base;
    size_t item, room, high;
};
enum { BLOCKS_MAX = 1 << 27, PAGES_MAX = 1 << 20, SMALL_PAGES_BYTES = 4 << 20 };

struct block *heap_blocks;
static pthread_mutex_t slabs_lock = PTHREAD_MUTEX_INITIALIZER;
static struct slab blocks = {.item = sizeof(struct block), .room = BLOCKS_MAX, .high = 1};
static struct slab starts = {.item = sizeof(struct chunk_page), .room = PAGES_MAX};
static uint32_t spare_blocks;           /* by `after` */
static struct chunk_page *spare_starts; /* by `next` */

static bool reserve(struct slab *slab) {
    size_t bytes = slab->item * slab->room;
    void *range = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED)
        return false;
    (void)madvise((uint8_t *)range + SMALL_PAGES_BYTES, bytes - SMALL_PAGES_BYTES, MADV_HUGEPAGE);
    (void)madvise(range, bytes, MADV_DONTDUMP);
    slab->base = range;
    return true;
}

bool heaps_init(void) {
    pthread_mutex_lock(&slabs_lock);
    bool reserved = (blocks.base || reserve(&blocks)) && (starts.base || reserve(&starts));
    heap_blocks = (struct block *)(void *)blocks.base;
    pthread_mutex_unlock(&slabs_lock);
    return reserved;
}

/* Gets the heap some unused blocks: the chain that others gave back, or new ones. */
static bool refill(struct heap *heap) {
    pthread_mutex_lock(&slabs_lock);
    uint32_t first = spare_blocks, last = first;
    if (first) {
        for (int b = 1; b < BATCH && heap_block(last)->after; b++)
            last = heap_block(last)->after;
        spare_blocks = heap_block(last)->after;
        heap_block(last)->after = 0;
    } else if (blocks.high + BATCH <= blocks.room) {
        first = (uint32_t)blocks.high;
        blocks.high += BATCH;
        for (uint32_t b = first; b + 1 < first + BATCH; b++)
            heap_block(b)->after = b + 1;
    }
    pthread_mutex_unlock(&slabs_lock);
    heap->spare = first;
    return first != 0;
}

static uint32_t new_block(struct heap *heap) {
    if (!heap->spare && !refill(heap))
        return 0;
    uint32_t number = heap->spare;
    heap->spare = heap_block(number)->after;
    return number;
}

static void drop_block(struct heap *heap, uint32_t number) {
    struct block *block = heap_block(number);
    block->bytes = 0;
    block->chunk = NULL;
    block->after = heap->spare;
    heap->spare = number;
}

/* A page of starts without one. */
static struct chunk_page *new_page(struct heap *heap) {
    struct chunk_page *page = heap->spare_page;
    if (page) {
        heap->spare_page = NULL;
        return page;
    }
    pthread_mutex_lock(&slabs_lock);
    page = spare_starts;
    if (page) {
        spare_starts = page->next;
    } else if (starts.high < starts.room) {
        page = (struct chunk_page *)(void *)(starts.base + starts.item * starts.high++);
    }
    pthread_mutex_unlock(&slabs_lock);
    return page;
}

static void drop_page(struct heap *heap, struct chunk_page *page) {
    if (!heap->spare_page) {
        heap->spare_page = page;
        return;
    }
    pthread_mutex_lock(&slabs_lock);
    page->next = spare_starts;
    spare_starts = page;
    pthread_mutex_unlock(&slabs_lock);
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

static void insert_free(struct heap *heap, uint32_t number) {
    struct block *block = heap_block(number);
    unsigned first, second;
    classify(block->units, &first, &second);
    block->same.before = 0;
    block->same.after = heap->free[first][second];
    if (block->same.after)
        heap_block(block->same.after)->same.before = number;
    heap->free[first][second] = number;
    heap->first_map |= 1u << first;
    heap->second_map[first] |= 1u << second;
}

static void remove_free(struct heap *heap, uint32_t number) {
    const struct block *block = heap_block(number);
    unsigned first, second;
    if (block->same.after)
        heap_block(block->same.after)->same.before = block->same.before;
    if (block->same.before) {
        heap_block(block->same.before)->same.after = block->same.after;
        return;
    }
    classify(block->units, &first, &second);
    heap->free[first][second] = block->same.after;
    if (!block->same.after) {
        heap->second_map[first] &= ~(1u << second);
        if (!heap->second_map[first])
            heap->first_map &= ~(1u << first);
    }
}

/* A free block of at least `units`: of the next class up, where every one fits; else one of the
 * first of its own class that happens to fit. */
static uint32_t find_free(const struct heap *heap, uint32_t units) {
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
    uint32_t number = heap->free[first][second];
    for (int tries = 0; number && tries < EXACT_TRIES; tries++) {
        if (heap_block(number)->units >= units)
            return number;
        number = heap_block(number)->same.after;
    }
    return 0;
}

/* ---- Where blocks begin -------------------------------------------------------------------- */

static inline struct chunk_page *page_of(const struct chunk *chunk, uint64_t page) {
    return chunk->pages ? chunk->pages[page] : chunk->page;
}

static inline uint32_t unit_of(uint64_t offset) {
    return (uint32_t)(offset >> HEAP_UNIT_SHIFT) % HEAP_PAGE_UNITS;
}

/* Says which block reaches into the pages behind the one it begins in. */
static void set_cover(struct chunk *chunk, uint64_t offset, uint32_t units, uint32_t number) {
    uint64_t last = (offset + ((uint64_t)units << HEAP_UNIT_SHIFT) - 1) >> HEAP_PAGE_SHIFT;
    for (uint64_t page = (offset >> HEAP_PAGE_SHIFT) + 1; page <= last; page++)
        chunk->cover[page] = number;
}

static bool mark_start(struct heap *heap, uint32_t number) {
    const struct block *block = heap_block(number);
    struct chunk *chunk = &block->chunk->chunk;
    uint64_t offset = block->address - block->chunk->base;
    uint64_t at = offset >> HEAP_PAGE_SHIFT;
    uint32_t unit = unit_of(offset);
    struct chunk_page *page = page_of(chunk, at);
    if (!page) {
        page = chunk->pages[at] = new_page(heap);
        if (!page)
            return false;
    }
    page->starts[unit / 64] |= UINT64_C(1) << (unit % 64);
    page->blocks[unit] = number;
    if (chunk->pages)
        set_cover(chunk, offset, block->units, number);
    return true;
}

static void clear_start(const struct block *block) {
    struct chunk *chunk = &block->chunk->chunk;
    uint64_t offset = block->address - block->chunk->base;
    uint64_t at = offset >> HEAP_PAGE_SHIFT;
    uint32_t unit = unit_of(offset);
    page_of(chunk, at)->starts[unit / 64] &= ~(UINT64_C(1) << (unit % 64));
    if (chunk->pages)
        set_cover(chunk, offset, block->units, 0);
}

static bool contains(const struct extent *extent, const struct block *block, CUdeviceptr address) {
    return block->chunk == extent && block->bytes && address >= block->address &&
           address - block->address < (uint64_t)block->units << HEAP_UNIT_SHIFT;
}

struct block *heap_find(const struct extent *extent, CUdeviceptr address) {
    const struct chunk *chunk = &extent->chunk;
    uint64_t offset = address - extent->base;
    const struct chunk_page *page = page_of(chunk, offset >> HEAP_PAGE_SHIFT);
    uint32_t unit = unit_of(offset);
    uint32_t number = 0;
    if (page) {
        uint32_t w = unit / 64;
        uint64_t bits = page->starts[w] & (UINT64_MAX >> (63 - unit % 64));
        while (!bits && w--)
            bits = page->starts[w];
        if (bits)
            number = page->blocks[w * 64 + 63 - (uint32_t)__builtin_clzll(bits)];
    }
    if (!number && chunk->pages)
        number = chunk->cover[offset >> HEAP_PAGE_SHIFT];
    struct block *block = heap_block(number);
    return number && contains(extent, block, address) ? block : NULL;
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

void heap_fini(struct heap *heap) {
    pthread_mutex_lock(&slabs_lock);
    if (heap->spare_page) {
        heap->spare_page->next = spare_starts;
        spare_starts = heap->spare_page;
    }
    while (heap->spare) {
        uint32_t number = heap->spare;
        heap->spare = heap_block(number)->after;
        heap_block(number)->after = spare_blocks;
        spare_blocks = number;
    }
    pthread_mutex_unlock(&slabs_lock);
    pthread_mutex_destroy(&heap->lock);
}

/* The chunk's pages of starts: the only one at once, of many when they are needed. */
static bool make_pages(struct heap *heap, struct chunk *chunk, uint64_t span) {
    chunk->page_count =
        (uint32_t)((span + (UINT64_C(1) << HEAP_PAGE_SHIFT) - 1) >> HEAP_PAGE_SHIFT);
    if (chunk->page_count == 1) {
        chunk->page = new_page(heap);
        return chunk->page != NULL;
    }
    chunk->pages = calloc(chunk->page_count, sizeof *chunk->pages);
    chunk->cover = calloc(chunk->page_count, sizeof *chunk->cover);
    if (chunk->pages && chunk->cover)
        return true;
    free(chunk->pages);
    free(chunk->cover);
    return false;
}

bool heap_add(struct heap *heap, struct extent *extent) {
    struct chunk *chunk = &extent->chunk;
    uint32_t number = new_block(heap);
    if (!number)
        return false;
    *chunk = (struct chunk){.first = number, .after = heap->chunks};
    if (!make_pages(heap, chunk, extent->span)) {
        *chunk = (struct chunk){0};
        drop_block(heap, number);
        return false;
    }
    if (heap->chunks)
        heap->chunks->chunk.before = extent;
    heap->chunks = extent;
    *heap_block(number) = (struct block){.address = extent->base,
                                         .units = (uint32_t)(extent->span >> HEAP_UNIT_SHIFT),
                                         .chunk = extent};
    insert_free(heap, number);
    return true;
}

void heap_remove(struct heap *heap, struct extent *extent) {
    struct chunk *chunk = &extent->chunk;
    remove_free(heap, chunk->first);
    drop_block(heap, chunk->first);
    if (chunk->before)
        chunk->before->chunk.after = chunk->after;
    else
        heap->chunks = chunk->after;
    if (chunk->after)
        chunk->after->chunk.before = chunk->before;
    if (chunk->page)
        drop_page(heap, chunk->page);
    for (uint32_t p = 0; chunk->pages && p < chunk->page_count; p++)
        if (chunk->pages[p])
            drop_page(heap, chunk->pages[p]);
    free(chunk->pages);
    free(chunk->cover);
    *chunk = (struct chunk){0};
}

/* ---- Taking and giving --------------------------------------------------------------------- */

struct block *heap_take(struct heap *heap, uint64_t bytes, bool *no_memory) {
    uint64_t wide = (bytes + HEAP_UNIT - 1) >> HEAP_UNIT_SHIFT;
    if (wide > UINT32_MAX / 2)
        return NULL;
    uint32_t units = (uint32_t)wide;
    uint32_t number = find_free(heap, units);
    if (!number)
        return NULL;
    struct block *block = heap_block(number);
    uint32_t rest = 0;
    if (block->units > units && !(rest = new_block(heap))) {
        *no_memory = true;
        return NULL;
    }
    remove_free(heap, number);
    uint32_t all = block->units;
    block->units = units;
    if (!mark_start(heap, number)) {
        block->units = all;
        insert_free(heap, number);
        if (rest)
            drop_block(heap, rest);
        *no_memory = true;
        return NULL;
    }
    if (rest) {
        *heap_block(rest) =
            (struct block){.address = block->address + ((uint64_t)units << HEAP_UNIT_SHIFT),
                           .units = all - units,
                           .chunk = block->chunk,
                           .before = number,
                           .after = block->after};
        if (block->after)
            heap_block(block->after)->before = rest;
        block->after = rest;
        insert_free(heap, rest);
    }
    block->bytes = bytes;
    block->flags = 0;
    block->pending = NULL;
    block->chunk->chunk.live++;
    heap->live++;
    return block;
}

/* Takes `next`, a free neighbour behind `number`, into it. */
static void absorb(struct heap *heap, uint32_t number, uint32_t next) {
    struct block *block = heap_block(number);
    const struct block *gone = heap_block(next);
    block->units += gone->units;
    block->after = gone->after;
    if (gone->after)
        heap_block(gone->after)->before = number;
    drop_block(heap, next);
}

bool heap_give(struct heap *heap, struct block *block) {
    uint32_t number = (uint32_t)(block - heap_blocks);
    struct chunk *chunk = &block->chunk->chunk;
    clear_start(block);
    block->bytes = 0;
    heap->live--;
    chunk->live--;
    if (block->after && !heap_block(block->after)->bytes) {
        remove_free(heap, block->after);
        absorb(heap, number, block->after);
    }
    uint32_t before = block->before;
    if (before && !heap_block(before)->bytes) {
        remove_free(heap, before);
        absorb(heap, before, number);
        number = before;
    }
    insert_free(heap, number);
    return chunk->live == 0;
}
