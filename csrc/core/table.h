/* Per-process hash table of what was charged: from a pointer or handle to eight bytes of facts.
 *
 * Open addressing, linear probing, removal by shifting back (no tombstones, so a million frees cost
 * what the first did), in shards with a lock each that grow on their own. Sixteen bytes an entry.
 * Two uses:
 *   keyed by handle:  aliquot_table_put, _get, _take
 *   keyed by pointer: aliquot_pointer_put, _take, which also count the tenants of pages that small
 *     allocations share: whoever enters the first tenant of a page is told so, and whoever removes
 *     the last. Tenants of which the same is known have a bit each in a record of the page, so that
 *     a million of them fit where a few thousand entries would, and stay in the cache.
 * A table is usable when zeroed. Its memory comes from mmap, never from the program's allocator. No
 * function takes another lock or calls out while it holds a shard's, except _sweep its callback.
 */
#ifndef ALIQUOT_TABLE_H
#define ALIQUOT_TABLE_H

#include "lock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ALIQUOT_SHARDS 64u

/* In a value: the pointer lies in a page that others may share. */
#define ALIQUOT_SHARES (1ull << 63)
/* In a value, the table's to set: the pointer's own memory has a name. */
#define ALIQUOT_NAMED (1ull << 62)

/* A page that small allocations share. */
#define ALIQUOT_UNIT_SHIFT 9
#define ALIQUOT_PAGE_UNITS 4096u
#define ALIQUOT_MARKED 1ull
#define ALIQUOT_OTHER (1ull << 20)
#define ALIQUOT_DEPARTING (1ull << 40)
#define ALIQUOT_NAMED_PAGE (1ull << 63)
struct aliquot_page {
    union {
        _Alignas(64) uint64_t value; /* of every tenant that has a bit */
        struct aliquot_page *next;   /* spare ones */
    };
    /* How many tenants it has: with a bit, with an entry of their own, and departing, whose entry has
     * gone and whose memory is still being freed; see ALIQUOT_MARKED and its like. Changed under the
     * shard's lock, except that a departing tenant goes without. Whoever takes it from 0 charges the
     * page, and whoever takes it to 0 gives the charge back. While it has a name it is not 0 without
     * tenants either: see aliquot_pointer_settle. */
    _Atomic uint64_t tenants;
    uint64_t name;                            /* ALIQUOT_NAMED_PAGE: what others know it by */
    uint64_t key;                             /* of its entry, while it lingers; else 0 */
    struct aliquot_page *lingers_next;        /* of the shard's list */
    uint64_t starts[ALIQUOT_PAGE_UNITS / 64]; /* by 512 bytes, of the first 2 MiB; all zero in a
                                                 spare one */
};

struct aliquot_entry {
    uint64_t key; /* 0: free. A page carries the tag bit 0, which no pointer has, and the name of a
                       pointer's memory the pointer with bit 63 */
    uint64_t value; /* of a page: its record */
};

struct aliquot_shard {
    _Alignas(64) struct aliquot_lock lock;
    uint32_t count; /* entries in use; at most 3/4 of the capacity */
    uint32_t mask;  /* capacity - 1, a power of two less one; 0 before the first entry */
    struct aliquot_entry *entry;
    struct aliquot_page *spare;
    struct aliquot_page *lingers; /* pages with a name that had no tenants when they came here */
};

struct aliquot_table {
    struct aliquot_shard shard[ALIQUOT_SHARDS];
    unsigned page_shift;    /* log2 of the page that small allocations share; 0: keyed by handle */
    _Atomic uint32_t named; /* some memory has had a name: who enters says so */
    _Atomic uint32_t
        entering; /* allocations that the driver may have given and that are not entered */
    _Atomic uint32_t lingers; /* pages in the shards' lists */
};

/* What becomes of a page. */
enum aliquot_tenancy {
    ALIQUOT_TENANT_EDGE, /* its first tenant came, or its last went, or it is not a shared page */
    ALIQUOT_TENANT_MORE, /* it had, or still has, other tenants */
    ALIQUOT_TENANT_NONE, /* no such pointer to take; or no host memory to enter it */
};

/* Adds or replaces. False when there is no host memory for it. `key` is not 0. */
bool aliquot_table_put(struct aliquot_table *table, uint64_t key, uint64_t value);
bool aliquot_table_get(struct aliquot_table *table, uint64_t key, uint64_t *value);
bool aliquot_table_take(struct aliquot_table *table, uint64_t key, uint64_t *value);

/* An entry that was found where a pointer was entered: the memory behind it is gone without our
 * having been told (its context was destroyed meanwhile). `tenancy` is NONE when there was none. */
struct aliquot_stale {
    uint64_t value, name;
    enum aliquot_tenancy tenancy;
};

/* Enters a pointer (not 0, bit 0 clear). */
enum aliquot_tenancy aliquot_pointer_put(struct aliquot_table *table, uint64_t pointer,
                                         uint64_t value, struct aliquot_stale *stale);
bool aliquot_pointer_get(struct aliquot_table *table, uint64_t pointer, uint64_t *value);
enum aliquot_tenancy aliquot_pointer_take(struct aliquot_table *table, uint64_t pointer,
                                          uint64_t *value);

/* Memory may have a name by which other processes know it: that of a pointer, or of the page that it
 * shares. It goes with the memory that it was given to: what comes to the same address afterwards begins
 * without. Gives the memory of `pointer`, which is there, the name (not 0) unless it has one; `*before`
 * is what it had, 0: none. False: no such pointer, or no host memory. */
bool aliquot_pointer_name(struct aliquot_table *table, uint64_t pointer, uint64_t name,
                          uint64_t *before);
/* Takes back a name that was just given. */
void aliquot_pointer_unname(struct aliquot_table *table, uint64_t pointer);

/* A page with a name that loses its last tenant lingers, charged (its tenants are told MORE): the driver may
 * have put an allocation there that is not entered yet, and then it is still the same memory. Whoever
 * allocates brackets the driver's call and the entering with these two; the second says whether there is
 * something to settle. (As long as nothing has a name they cost a look.) */
static inline bool aliquot_pointer_enters(struct aliquot_table *table) {
    /* relaxed: the first name is given to memory that is entered. */
    if (__builtin_expect(!atomic_load_explicit(&table->named, memory_order_relaxed), 1))
        return false;
    /* seq_cst: before the driver is called; pairs with the load in aliquot_pointer_settle. */
    atomic_fetch_add(&table->entering, 1);
    return true;
}
static inline bool aliquot_pointer_entered(struct aliquot_table *table) {
    /* seq_cst, both: of the last that enters and the last that leaves at least one sees the other. */
    return atomic_fetch_sub(&table->entering, 1) == 1 && atomic_load(&table->lingers);
}

/* Closes one page that lingers and that nobody can be about to enter: its charge and its name are in the
 * caller's hands. False: there is none. Call it until it says so. */
bool aliquot_pointer_settle(struct aliquot_table *table, struct aliquot_stale *page);

/* Taking in two steps, around the freeing of the memory. Departing takes the entry, for as soon as
 * the memory is free the address may be another thread's. A page that others share, or that has a name,
 * keeps the tenant until it has gone, for so long the memory is there: then `*page` is the page and the
 * answer MORE. Else it is NULL and the answer EDGE: the charge is in the hands of whoever departs, and so
 * is the name of memory of its own. */
enum aliquot_tenancy aliquot_pointer_depart(struct aliquot_table *table, uint64_t pointer,
                                            uint64_t *value, uint64_t *name,
                                            struct aliquot_page **page);
enum aliquot_tenancy aliquot_pointer_gone(struct aliquot_table *table, uint64_t pointer,
                                          struct aliquot_page *page);
/* Or it stays, because it was not freed after all. True: another tenant has charged the page
 * meanwhile, and the charge in hand is to be given back. Without host memory for an entry the charge
 * stays for the life of the process. */
bool aliquot_pointer_stay(struct aliquot_table *table, uint64_t pointer, uint64_t value,
                          uint64_t name, struct aliquot_page *page);

/* As _take, only where the value agrees with `wanted` in the bits of `mask`; with the name of memory of
 * its own. */
enum aliquot_tenancy aliquot_pointer_take_if(struct aliquot_table *table, uint64_t pointer,
                                             uint64_t mask, uint64_t wanted, uint64_t *value,
                                             uint64_t *name);
/* Gives a pointer another value, `mask` and `wanted` as above; its tenancy stays. False: there was
 * none such, or no host memory. */
bool aliquot_pointer_change(struct aliquot_table *table, uint64_t pointer, uint64_t mask,
                            uint64_t wanted, uint64_t value);

/* Removes every pointer whose value agrees with `value` in the bits of `mask`, telling `gone` of
 * each (under the shard's lock: it must not use the table). Tenants that a page knows by a bit are
 * told with the page's address. */
typedef void aliquot_gone(uint64_t pointer, uint64_t value, uint64_t name, enum aliquot_tenancy,
                          void *context);
void aliquot_pointer_sweep(struct aliquot_table *table, uint64_t mask, uint64_t value,
                           aliquot_gone *gone, void *context);

/* Forgets everything and frees every lock, whoever held it: for a forked child. The memory stays
 * with the child, unused. */
void aliquot_table_reset(struct aliquot_table *table);

#endif
