/* See table.h. */
#include "table.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Dense rather than large: what a probe meets first is in the cache or a trip to memory. */
#define FIRST_CAPACITY 64u

/* Records of pages that are made at a time: some 32 KiB. */
#define PAGE_BATCH 56u

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

static size_t bytes_of(uint32_t mask) { return ((size_t)mask + 1) * sizeof(struct aliquot_entry); }

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

bool aliquot_table_get(struct aliquot_table *table, uint64_t key, uint64_t *value) {
    struct aliquot_shard *shard = shard_of(table, mix(key));
    aliquot_lock(&shard->lock);
    const struct aliquot_entry *entry = find(shard, key);
    if (entry)
        *value = entry->value;
    aliquot_unlock(&shard->lock);
    return entry;
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

/* A pointer lives in the shard of its page, so that one lock covers it and the page's record. */
static inline uint64_t page_of(const struct aliquot_table *table, uint64_t pointer) {
    return pointer >> table->page_shift << 1 | 1;
}

static inline struct aliquot_page *find_page(const struct aliquot_shard *shard, uint64_t page) {
    const struct aliquot_entry *entry = find(shard, page);
    return entry ? (struct aliquot_page *)(uintptr_t)entry->value : NULL;
}

/* More spare records. They are never given back: a program that had many small allocations once
 * will have them again. */
static bool make_pages(struct aliquot_shard *shard) {
    int saved = errno;
    struct aliquot_page *pages = mmap(NULL, PAGE_BATCH * sizeof *pages, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    errno = saved;
    if (pages == MAP_FAILED)
        return false;
    for (unsigned i = PAGE_BATCH; i-- > 0;) {
        pages[i].next = shard->spare;
        shard->spare = &pages[i];
    }
    return true;
}

/* An empty record for a page that has none. The shard has a free entry. */
static struct aliquot_page *open_page(struct aliquot_shard *shard, uint64_t page) {
    if (__builtin_expect(!shard->spare && !make_pages(shard), 0))
        return NULL;
    struct aliquot_page *record = shard->spare;
    shard->spare = record->next;
    *probe(shard, page) = (struct aliquot_entry){page, (uintptr_t)record};
    shard->count++;
    return record;
}

/* Where a pointer has its name, beside its entry. No address of a program has bit 63. */
static inline uint64_t name_key(uint64_t pointer) { return pointer | 1ull << 63; }
static inline bool is_name(uint64_t key) { return key >> 63; }

/* Under the shard's lock: changes the count of tenants, and returns what it is then. */
static inline uint64_t count_tenants(struct aliquot_page *record, uint64_t change) {
    /* relaxed: only the lock's holder changes it while nobody is departing. */
    uint64_t now = atomic_load_explicit(&record->tenants, memory_order_relaxed);
    if (__builtin_expect(now >= ALIQUOT_DEPARTING, 0)) /* or it has a name */
        /* acq_rel: pairs with the same in aliquot_pointer_gone. */
        return atomic_fetch_add_explicit(&record->tenants, change, memory_order_acq_rel) + change;
    atomic_store_explicit(&record->tenants, now + change, memory_order_relaxed);
    return now + change;
}

static inline bool has_marked(struct aliquot_page *record) {
    /* relaxed: tenants with a bit come and go under the lock. */
    return atomic_load_explicit(&record->tenants, memory_order_relaxed) % ALIQUOT_OTHER;
}

/* The record of a page without tenants is spare. */
static void close_page(struct aliquot_shard *shard, uint64_t page, struct aliquot_page *record) {
    erase(shard, probe(shard, page));
    record->next = shard->spare;
    shard->spare = record;
}

/* A page with a name has lost its last tenant. */
static void linger(struct aliquot_table *table, struct aliquot_shard *shard, uint64_t page,
                   struct aliquot_page *record) {
    if (record->key)
        return;
    record->key = page;
    record->lingers_next = shard->lingers;
    shard->lingers = record;
    /* seq_cst: pairs with aliquot_pointer_entered. */
    atomic_fetch_add(&table->lingers, 1);
}

/* A tenant is gone: one of those that `kind` counts. */
static inline enum aliquot_tenancy leave_page(struct aliquot_table *table,
                                              struct aliquot_shard *shard, uint64_t page,
                                              struct aliquot_page *record, uint64_t kind) {
    uint64_t left = count_tenants(record, -kind);
    if (__builtin_expect(left == ALIQUOT_NAMED_PAGE, 0))
        linger(table, shard, page, record);
    if (left)
        return ALIQUOT_TENANT_MORE;
    close_page(shard, page, record);
    return ALIQUOT_TENANT_EDGE;
}

/* A tenant is on its way. True: it was the only one, and the page has none left. */
static inline bool depart_page(struct aliquot_table *table, struct aliquot_shard *shard,
                               uint64_t page, struct aliquot_page *record, uint64_t kind) {
    /* relaxed: when it is this, nobody is departing, and it has no name. */
    if (atomic_load_explicit(&record->tenants, memory_order_relaxed) == kind)
        return leave_page(table, shard, page, record, kind) == ALIQUOT_TENANT_EDGE;
    count_tenants(record, ALIQUOT_DEPARTING - kind);
    return false;
}

/* The bit of a pointer in its page; ALIQUOT_PAGE_UNITS or more when none can stand for it. */
static inline uint64_t unit_of(const struct aliquot_table *table, uint64_t pointer) {
    uint64_t offset = pointer & ((1ull << table->page_shift) - 1);
    /* Rotated, so that what lies between two units becomes too large as well. */
    return offset >> ALIQUOT_UNIT_SHIFT | offset << (64 - ALIQUOT_UNIT_SHIFT);
}

static inline bool is_marked(const struct aliquot_page *record, uint64_t unit) {
    return record && unit < ALIQUOT_PAGE_UNITS && record->starts[unit / 64] >> unit % 64 & 1;
}

/* Removes an entry of its own. Returns its value; `*name`: of its own memory, if it has one. */
static uint64_t take_entry(struct aliquot_shard *shard, struct aliquot_entry *entry,
                           uint64_t *name) {
    uint64_t pointer = entry->key, value = entry->value;
    erase(shard, entry);
    if (__builtin_expect(value & ALIQUOT_NAMED && !(value & ALIQUOT_SHARES), 0)) {
        struct aliquot_entry *named = find(shard, name_key(pointer));
        *name = named->value;
        erase(shard, named);
        value &= ~ALIQUOT_NAMED;
    }
    return value;
}

/* The same, if a pointer has one, and its tenancy. `record`: of its page. */
static enum aliquot_tenancy drop_entry(struct aliquot_table *table, struct aliquot_shard *shard,
                                       uint64_t pointer, uint64_t page, struct aliquot_page *record,
                                       uint64_t *value, uint64_t *name) {
    struct aliquot_entry *entry = find(shard, pointer);
    if (!entry)
        return ALIQUOT_TENANT_NONE;
    *value = take_entry(shard, entry, name);
    if (!(*value & ALIQUOT_SHARES))
        return ALIQUOT_TENANT_EDGE;
    return leave_page(table, shard, page, record, ALIQUOT_OTHER);
}

/* Removes what is known of a pointer. */
static inline enum aliquot_tenancy drop(struct aliquot_table *table, struct aliquot_shard *shard,
                                        uint64_t pointer, uint64_t page,
                                        struct aliquot_page *record, uint64_t unit, uint64_t *value,
                                        uint64_t *name) {
    *name = 0;
    if (!is_marked(record, unit))
        return drop_entry(table, shard, pointer, page, record, value, name);
    *value = record->value;
    record->starts[unit / 64] &= ~(1ull << unit % 64);
    return leave_page(table, shard, page, record, ALIQUOT_MARKED);
}

bool aliquot_pointer_get(struct aliquot_table *table, uint64_t pointer, uint64_t *value) {
    uint64_t page = page_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(page));
    aliquot_lock(&shard->lock);
    const struct aliquot_page *record = find_page(shard, page);
    const struct aliquot_entry *entry = NULL;
    bool marked = is_marked(record, unit_of(table, pointer));
    if (marked)
        *value = record->value;
    else if ((entry = find(shard, pointer)))
        *value = entry->value;
    aliquot_unlock(&shard->lock);
    return marked || entry;
}

/* Enters a pointer that is not there. The shard has two free entries. */
static inline enum aliquot_tenancy enter(struct aliquot_shard *shard, uint64_t pointer,
                                         uint64_t page, struct aliquot_page *record, uint64_t unit,
                                         uint64_t value) {
    enum aliquot_tenancy tenancy = ALIQUOT_TENANT_EDGE;
    bool bit = false;
    if (value & ALIQUOT_SHARES) {
        if (!record && !(record = open_page(shard, page)))
            return ALIQUOT_TENANT_NONE;
        if (!has_marked(record))
            record->value = value;
        bit = __builtin_expect(record->value == value && unit < ALIQUOT_PAGE_UNITS, 1);
        uint64_t kind = bit ? ALIQUOT_MARKED : ALIQUOT_OTHER;
        if (count_tenants(record, kind) != kind)
            tenancy = ALIQUOT_TENANT_MORE;
    }
    if (bit)
        record->starts[unit / 64] |= 1ull << unit % 64;
    else {
        *probe(shard, pointer) = (struct aliquot_entry){pointer, value};
        shard->count++;
    }
    return tenancy;
}

enum aliquot_tenancy aliquot_pointer_put(struct aliquot_table *table, uint64_t pointer,
                                         uint64_t value, struct aliquot_stale *stale) {
    uint64_t page = page_of(table, pointer);
    uint64_t unit = unit_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(page));
    enum aliquot_tenancy tenancy = ALIQUOT_TENANT_NONE;
    stale->tenancy = ALIQUOT_TENANT_NONE;
    aliquot_lock(&shard->lock);
    if (has_room(shard, 2)) {
        struct aliquot_page *record = find_page(shard, page);
        if (__builtin_expect(is_marked(record, unit) || find(shard, pointer), 0)) {
            stale->tenancy =
                drop(table, shard, pointer, page, record, unit, &stale->value, &stale->name);
            record = find_page(shard, page);
        }
        tenancy = enter(shard, pointer, page, record, unit, value);
    }
    aliquot_unlock(&shard->lock);
    return tenancy;
}

enum aliquot_tenancy aliquot_pointer_take(struct aliquot_table *table, uint64_t pointer,
                                          uint64_t *value) {
    uint64_t name;
    return aliquot_pointer_take_if(table, pointer, 0, 0, value, &name);
}

bool aliquot_pointer_name(struct aliquot_table *table, uint64_t pointer, uint64_t name,
                          uint64_t *before) {
    uint64_t page = page_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(page));
    *before = 0;
    aliquot_lock(&shard->lock);
    struct aliquot_page *record = find_page(shard, page);
    struct aliquot_entry *entry = NULL;
    bool shares = is_marked(record, unit_of(table, pointer));
    bool there = shares || (has_room(shard, 1) && (entry = find(shard, pointer)));
    if (there && !shares)
        shares = entry->value & ALIQUOT_SHARES;
    if (there)
        /* relaxed: see aliquot_pointer_enters. */
        atomic_store_explicit(&table->named, 1, memory_order_relaxed);
    if (there && shares) {
        *before = record->name;
        if (!record->name) {
            record->name = name;
            /* relaxed: it is looked at under the lock, and one's own count keeps the page. */
            atomic_fetch_or_explicit(&record->tenants, ALIQUOT_NAMED_PAGE, memory_order_relaxed);
        }
    } else if (there && entry->value & ALIQUOT_NAMED)
        *before = find(shard, name_key(pointer))->value;
    else if (there) {
        entry->value |= ALIQUOT_NAMED;
        *probe(shard, name_key(pointer)) = (struct aliquot_entry){name_key(pointer), name};
        shard->count++;
    }
    aliquot_unlock(&shard->lock);
    return there;
}

void aliquot_pointer_unname(struct aliquot_table *table, uint64_t pointer) {
    uint64_t page = page_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(page));
    aliquot_lock(&shard->lock);
    struct aliquot_page *record = find_page(shard, page);
    struct aliquot_entry *entry = find(shard, pointer);
    if (is_marked(record, unit_of(table, pointer)) || (entry && entry->value & ALIQUOT_SHARES)) {
        record->name = 0;
        /* relaxed: as where it was given. */
        atomic_fetch_and_explicit(&record->tenants, ~ALIQUOT_NAMED_PAGE, memory_order_relaxed);
    } else if (entry && entry->value & ALIQUOT_NAMED) {
        entry->value &= ~ALIQUOT_NAMED;
        erase(shard, find(shard, name_key(pointer)));
    }
    aliquot_unlock(&shard->lock);
}

enum aliquot_tenancy aliquot_pointer_depart(struct aliquot_table *table, uint64_t pointer,
                                            uint64_t *value, uint64_t *name,
                                            struct aliquot_page **page) {
    uint64_t key = page_of(table, pointer);
    uint64_t unit = unit_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(key));
    struct aliquot_entry *entry;
    enum aliquot_tenancy tenancy = ALIQUOT_TENANT_EDGE;
    *page = NULL;
    *name = 0;
    aliquot_lock(&shard->lock);
    struct aliquot_page *record = find_page(shard, key);
    if (is_marked(record, unit)) {
        *value = record->value;
        record->starts[unit / 64] &= ~(1ull << unit % 64);
        if (!depart_page(table, shard, key, record, ALIQUOT_MARKED))
            *page = record;
    } else if ((entry = find(shard, pointer))) {
        *value = take_entry(shard, entry, name);
        if (*value & ALIQUOT_SHARES && !depart_page(table, shard, key, record, ALIQUOT_OTHER))
            *page = record;
    } else
        tenancy = ALIQUOT_TENANT_NONE;
    aliquot_unlock(&shard->lock);
    return *page ? ALIQUOT_TENANT_MORE : tenancy;
}

enum aliquot_tenancy aliquot_pointer_gone(struct aliquot_table *table, uint64_t pointer,
                                          struct aliquot_page *page) {
    if (!page)
        return ALIQUOT_TENANT_EDGE;
    /* acq_rel: pairs with the same in count_tenants; exactly one sees the page without tenants. Until
     * here our own count kept its record from being spare. */
    uint64_t before =
        atomic_fetch_sub_explicit(&page->tenants, ALIQUOT_DEPARTING, memory_order_acq_rel);
    bool named = before & ALIQUOT_NAMED_PAGE;
    if ((before & ~ALIQUOT_NAMED_PAGE) != ALIQUOT_DEPARTING)
        return ALIQUOT_TENANT_MORE;
    uint64_t key = page_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(key));
    aliquot_lock(&shard->lock);
    /* A new tenant may have come, and charged it, or come and gone, and closed it. */
    uint64_t now = find_page(shard, key) == page
                       ? atomic_load_explicit(&page->tenants, memory_order_relaxed)
                       : ALIQUOT_OTHER;
    if (now == ALIQUOT_NAMED_PAGE)
        linger(table, shard, key, page);
    else if (!now)
        close_page(shard, key, page);
    aliquot_unlock(&shard->lock);
    return named ? ALIQUOT_TENANT_MORE : ALIQUOT_TENANT_EDGE;
}

/* The shard is locked: one that has got no tenants leaves the list and is closed, one that has leaves it. */
static bool settle_one(struct aliquot_table *table, struct aliquot_shard *shard,
                       struct aliquot_stale *page) {
    struct aliquot_page *record;
    while ((record = shard->lingers)) {
        uint64_t key = record->key;
        shard->lingers = record->lingers_next;
        record->key = 0;
        atomic_fetch_sub(&table->lingers, 1);
        /* relaxed: nobody departs when it is this. */
        if (atomic_load_explicit(&record->tenants, memory_order_relaxed) != ALIQUOT_NAMED_PAGE)
            continue;
        *page = (struct aliquot_stale){
            .value = record->value, .name = record->name, .tenancy = ALIQUOT_TENANT_EDGE};
        record->name = 0;
        atomic_store_explicit(&record->tenants, 0, memory_order_relaxed);
        close_page(shard, key, record);
        return true;
    }
    return false;
}

bool aliquot_pointer_settle(struct aliquot_table *table, struct aliquot_stale *page) {
    bool found = false;
    /* relaxed: whoever makes a page linger looks afterwards. */
    for (unsigned s = 0; s < ALIQUOT_SHARDS && !found &&
                         atomic_load_explicit(&table->lingers, memory_order_relaxed);
         s++) {
        struct aliquot_shard *shard = &table->shard[s];
        aliquot_lock(&shard->lock);
        /* seq_cst, under the lock: what lingers here came before, and who enters it now would have said
         * so before his driver gave him memory there. */
        found = shard->lingers && !atomic_load(&table->entering) && settle_one(table, shard, page);
        aliquot_unlock(&shard->lock);
    }
    return found;
}

bool aliquot_pointer_stay(struct aliquot_table *table, uint64_t pointer, uint64_t value,
                          uint64_t name, struct aliquot_page *page) {
    uint64_t key = page_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(key));
    bool surplus = false;
    aliquot_lock(&shard->lock);
    if (has_room(shard, 2)) {
        struct aliquot_page *record = value & ALIQUOT_SHARES ? find_page(shard, key) : NULL;
        enum aliquot_tenancy tenancy =
            enter(shard, pointer, key, record, unit_of(table, pointer), value);
        surplus = !page && tenancy == ALIQUOT_TENANT_MORE;
        if (page)
            count_tenants(page, -ALIQUOT_DEPARTING);
    }
    aliquot_unlock(&shard->lock);
    if (name)
        aliquot_pointer_name(table, pointer, name, &name);
    return surplus;
}

/* Whether what is known of a pointer agrees. The shard is locked. */
static bool agrees(const struct aliquot_shard *shard, const struct aliquot_page *record,
                   uint64_t unit, uint64_t pointer, uint64_t mask, uint64_t wanted) {
    if (is_marked(record, unit))
        return (record->value & mask) == wanted;
    const struct aliquot_entry *entry = find(shard, pointer);
    return entry && (entry->value & mask) == wanted;
}

enum aliquot_tenancy aliquot_pointer_take_if(struct aliquot_table *table, uint64_t pointer,
                                             uint64_t mask, uint64_t wanted, uint64_t *value,
                                             uint64_t *name) {
    uint64_t page = page_of(table, pointer);
    uint64_t unit = unit_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(page));
    aliquot_lock(&shard->lock);
    struct aliquot_page *record = find_page(shard, page);
    enum aliquot_tenancy tenancy = ALIQUOT_TENANT_NONE;
    if (agrees(shard, record, unit, pointer, mask, wanted))
        tenancy = drop(table, shard, pointer, page, record, unit, value, name);
    aliquot_unlock(&shard->lock);
    return tenancy;
}

bool aliquot_pointer_change(struct aliquot_table *table, uint64_t pointer, uint64_t mask,
                            uint64_t wanted, uint64_t value) {
    uint64_t page = page_of(table, pointer);
    uint64_t unit = unit_of(table, pointer);
    struct aliquot_shard *shard = shard_of(table, mix(page));
    aliquot_lock(&shard->lock);
    struct aliquot_page *record = find_page(shard, page);
    bool done = agrees(shard, record, unit, pointer, mask, wanted);
    if (done && !is_marked(record, unit)) {
        struct aliquot_entry *entry = find(shard, pointer);
        entry->value = value | (entry->value & ALIQUOT_NAMED);
    } else if (done && (done = has_room(shard, 1))) {
        record->starts[unit / 64] &= ~(1ull << unit % 64);
        count_tenants(record, ALIQUOT_OTHER - ALIQUOT_MARKED);
        *probe(shard, pointer) = (struct aliquot_entry){pointer, value};
        shard->count++;
    }
    aliquot_unlock(&shard->lock);
    return done;
}

/* Removes all pointers with a bit. Returns whether the page has none left and its entry is gone. */
static bool sweep_page(struct aliquot_table *table, struct aliquot_shard *shard, uint64_t page,
                       struct aliquot_page *record, aliquot_gone *gone, void *context) {
    uint64_t value = record->value;
    memset(record->starts, 0, sizeof record->starts);
    enum aliquot_tenancy tenancy = ALIQUOT_TENANT_MORE;
    /* relaxed: as in has_marked. */
    uint64_t marked = atomic_load_explicit(&record->tenants, memory_order_relaxed) % ALIQUOT_OTHER;
    for (; marked; marked--) {
        tenancy = leave_page(table, shard, page, record, ALIQUOT_MARKED);
        gone(page >> 1 << table->page_shift, value, 0, tenancy, context);
    }
    return tenancy == ALIQUOT_TENANT_EDGE;
}

void aliquot_pointer_sweep(struct aliquot_table *table, uint64_t mask, uint64_t value,
                           aliquot_gone *gone, void *context) {
    for (unsigned s = 0; s < ALIQUOT_SHARDS; s++) {
        struct aliquot_shard *shard = &table->shard[s];
        aliquot_lock(&shard->lock);
        for (uint32_t i = 0; shard->entry && i <= shard->mask;) {
            struct aliquot_entry found = shard->entry[i];
            bool erased = false;
            if (found.key & 1 && table->page_shift) {
                struct aliquot_page *record = (struct aliquot_page *)(uintptr_t)found.value;
                erased = has_marked(record) && (record->value & mask) == value &&
                         sweep_page(table, shard, found.key, record, gone, context);
            } else if (found.key && !(found.key & 1) && !is_name(found.key) &&
                       (found.value & mask) == value) {
                uint64_t page = page_of(table, found.key), taken = found.value, name = 0;
                struct aliquot_page *record =
                    found.value & ALIQUOT_SHARES ? find_page(shard, page) : NULL;
                enum aliquot_tenancy tenancy =
                    drop_entry(table, shard, found.key, page, record, &taken, &name);
                gone(found.key, taken, name, tenancy, context);
                erased = true;
                /* Leaving the page, and the name, may have moved entries to places already looked
                 * at. */
                if ((tenancy == ALIQUOT_TENANT_EDGE && taken & ALIQUOT_SHARES) || name)
                    i = 0;
            }
            /* Erasing moves later entries to here or before: look at this place again. */
            if (!erased)
                i++;
        }
        aliquot_unlock(&shard->lock);
    }
}

void aliquot_table_reset(struct aliquot_table *table) {
    memset(table->shard, 0, sizeof table->shard);
    atomic_store_explicit(&table->entering, 0, memory_order_relaxed);
    atomic_store_explicit(&table->lingers, 0, memory_order_relaxed);
}
