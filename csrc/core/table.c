/* See table.h. */
#include "table.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define FIRST_CAPACITY 256u

/* Pointers are multiples of large powers of two and handles are small numbers or heap addresses:
 * multiply-and-shift by an odd constant spreads all of them. */
static inline uint64_t mix(uint64_t key) {
    key *= 0x9e3779b97f4a7c15ull;
    return key ^ key >> 32;
}

static inline struct aliquot_shard *shard_of(struct aliquot_table *table, uint64_t hash) {
    return &table->shard[hash >> 58];
}
static_assert(ALIQUOT_SHARDS == 1u << (64 - 58), "shards are picked by the top bits");

static inline uint32_t home(const struct aliquot_shard *shard, uint64_t key) {
    return (uint32_t)mix(key) & shard->mask;
}

/* The entry of `key`, or the free one where it would go. The shard has a free entry. */
static inline struct aliquot_entry *probe(const struct aliquot_shard *shard, uint64_t key) {
    uint32_t at = home(shard, key);
    while (shard->entry[at].key != key && shard->entry[at].key)
        at = (at + 1) & shard->mask;
    return &shard->entry[at];
}

static inline struct aliquot_entry *find(const struct aliquot_shard *shard, uint64_t key) {
    if (!shard->entry)
        return NULL;
    struct aliquot_entry *entry = probe(shard, key);
    return entry->key ? entry : NULL;
}

static size_t bytes_of(uint32_t mask) {
    return ((size_t)mask + 1) * sizeof(struct aliquot_entry);
}

/* Makes room for one more entry. */
static bool grow(struct aliquot_shard *shard) {
    uint32_t capacity = shard->entry ? (shard->mask + 1) * 2 : FIRST_CAPACITY;
    if (!capacity)
        return false;
    int saved = errno;
    struct aliquot_shard wider = {.count = shard->count, .mask = capacity - 1};
    wider.entry = mmap(NULL, bytes_of(wider.mask), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (wider.entry == MAP_FAILED) {
        errno = saved;
        return false;
    }
    if (shard->entry) {
        for (uint32_t i = 0; i <= shard->mask; i++)
            if (shard->entry[i].key)
                *probe(&wider, shard->entry[i].key) = shard->entry[i];
        munmap(shard->entry, bytes_of(shard->mask));
    }
    shard->entry = wider.entry;
    shard->mask = wider.mask;
    errno = saved;
    return true;
}

static inline bool has_room(struct aliquot_shard *shard, uint32_t more) {
    /* mask is 0 and not 2^n - 1 before the first entry, so that this is false then too. */
    if (__builtin_expect(shard->count + more <= shard->mask / 4 * 3, 1))
        return true;
    return grow(shard);
}

static void erase(struct aliquot_shard *shard, struct aliquot_entry *entry) {
    uint32_t hole = (uint32_t)(entry - shard->entry);
    for (uint32_t at = hole;;) {
        at = (at + 1) & shard->mask;
        uint64_t key = shard->entry[at].key;
        if (!key)
            break;
        /* The entry may move back into the hole if its home does not lie behind the hole. */
        uint32_t distance = (at - home(shard, key)) & shard->mask;
        if (distance >= ((at - hole) & shard->mask)) {
            shard->entry[hole] = shard->entry[at];
            hole = at;
        }
    }
    shard->entry[hole].key = 0;
    shard->count--;
}

bool aliquot_table_put(struct aliquot_table *table, uint64_t key, uint64_t value) {
    struct aliquot_shard *shard = shard_of(table, mix(key));
    aliquot_lock(&shard->lock);
    bool done = has_room(shard, 1);
    if (done) {
        struct aliquot_entry *entry = probe(shard, key);
        shard->count += !entry->key;
        *entry = (struct aliquot_entry){key, value};
    }
    aliquot_unlock(&shard->lock);
    return done;
}

static bool get(struct aliquot_shard *shard, uint64_t key, uint64_t *value) {
    aliquot_lock(&shard->lock);
    struct aliquot_entry *entry = find(shard, key);
    if (entry)
        *value = entry->value;
    aliquot_unlock(&shard->lock);
    return entry;
}

bool aliquot_table_get(struct aliquot_table *table, uint64_t key, uint64_t *value) {
    return get(shard_of(table, mix(key)), key, value);
}

bool aliquot_table_take(struct aliquot_table *table, uint64_t key, uint64_t *value) {
    struct aliquot_shard *shard = shard_of(table, mix(key));
    aliquot_lock(&shard->lock);
    struct aliquot_entry *entry = find(shard, key);
    if (entry) {
        *value = entry->value;
        erase(shard, entry);
    }
    aliquot_unlock(&shard->lock);
    return entry;
}

/* A pointer lives in the shard of its page, so that one lock covers it and the page's count. */
static inline uint64_t page_of(const struct aliquot_table *table, uint64_t pointer) {
    return pointer >> table->page_shift << 1 | 1;
}

static enum aliquot_tenancy leave_page(struct aliquot_shard *shard, uint64_t page) {
    struct aliquot_entry *entry = find(shard, page);
    if (!entry)
        return ALIQUOT_TENANT_MORE;
    if (--entry->value)
        return ALIQUOT_TENANT_MORE;
    erase(shard, entry);
    return ALIQUOT_TENANT_EDGE;
}

/* Removes a pointer's entry and its tenancy. */
static enum aliquot_tenancy drop(struct aliquot_shard *shard, struct aliquot_entry *entry,
                                 uint64_t page) {
    bool shares = entry->value & ALIQUOT_SHARES;
    erase(shard, entry);
    return shares ? leave_page(shard, page) : ALIQUOT_TENANT_EDGE;
}

bool aliquot_pointer_get(struct aliquot_table *table, uint64_t pointer, uint64_t *value) {
    return get(shard_of(table, mix(page_of(table, pointer))), pointer, value);
}

enum aliquot_tenancy aliquot_pointer_put(struct aliquot_table *table, uint64_t pointer,
                                         uint64_t value, struct aliquot_stale *stale) {
    uint64_t page = page_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(page));
    enum aliquot_tenancy tenancy = ALIQUOT_TENANT_EDGE;
    stale->tenancy = ALIQUOT_TENANT_NONE;
    aliquot_lock(&shard->lock);
    if (has_room(shard, 2)) {
        struct aliquot_entry *entry = probe(shard, pointer);
        if (__builtin_expect(entry->key != 0, 0)) {
            stale->value = entry->value;
            stale->tenancy = drop(shard, entry, page);
            entry = probe(shard, pointer);
        }
        *entry = (struct aliquot_entry){pointer, value};
        shard->count++;
        if (value & ALIQUOT_SHARES) {
            entry = probe(shard, page);
            if (entry->key)
                tenancy = ALIQUOT_TENANT_MORE;
            else {
                *entry = (struct aliquot_entry){page, 0};
                shard->count++;
            }
            entry->value++;
        }
    } else
        tenancy = ALIQUOT_TENANT_NONE;
    aliquot_unlock(&shard->lock);
    return tenancy;
}

enum aliquot_tenancy aliquot_pointer_take(struct aliquot_table *table, uint64_t pointer,
                                          uint64_t *value) {
    uint64_t page = page_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(page));
    enum aliquot_tenancy tenancy = ALIQUOT_TENANT_NONE;
    aliquot_lock(&shard->lock);
    struct aliquot_entry *entry = find(shard, pointer);
    if (entry) {
        *value = entry->value;
        tenancy = drop(shard, entry, page);
    }
    aliquot_unlock(&shard->lock);
    return tenancy;
}

void aliquot_pointer_sweep(struct aliquot_table *table, uint64_t mask, uint64_t value,
                           void (*gone)(uint64_t value, enum aliquot_tenancy, void *context),
                           void *context) {
    for (unsigned s = 0; s < ALIQUOT_SHARDS; s++) {
        struct aliquot_shard *shard = &table->shard[s];
        aliquot_lock(&shard->lock);
        for (uint32_t i = 0; shard->entry && i <= shard->mask;) {
            struct aliquot_entry found = shard->entry[i];
            if (!found.key || found.key & 1 || (found.value & mask) != value) {
                i++;
                continue;
            }
            /* Erasing moves later entries to here or before: look at this place again. */
            enum aliquot_tenancy tenancy =
                drop(shard, &shard->entry[i], page_of(table, found.key));
            /* Leaving the page may have moved entries to places already looked at. */
            if (tenancy == ALIQUOT_TENANT_EDGE && found.value & ALIQUOT_SHARES)
                i = 0;
            gone(found.value, tenancy, context);
        }
        aliquot_unlock(&shard->lock);
    }
}

void aliquot_table_reset(struct aliquot_table *table) {
    memset(table->shard, 0, sizeof table->shard);
}
