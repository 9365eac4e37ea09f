/* What a process holds of the devices, by pointer: the same in every vendor's shim.
 *
 * An allocation is charged in whole pages before the driver is asked, entered when the driver has
 * given it, and leaves the table before the driver frees it, because the driver may give the address
 * to another thread at once. Small allocations may share a page, which is charged with its first
 * tenant and given back with its last.
 */
#ifndef ALIQUOT_SHIM_MEMORY_ALLOCATION_H
#define ALIQUOT_SHIM_MEMORY_ALLOCATION_H

#include "core/slice.h"
#include "core/table.h"

/* What the table keeps of a pointer: see aliquot_pack. */
enum aliquot_kind {
    ALIQUOT_LINEAR = 1,  /* owner: context */
    ALIQUOT_ARRAY = 2,   /* owner: context */
    ALIQUOT_POOLED = 3,  /* owner: pool; `pages` are its size in units of 512 bytes */
    ALIQUOT_LEAVING = 4, /* owner: context; linear memory whose free is queued in a stream */
};
struct aliquot_allocation {
    enum aliquot_kind kind;
    uint32_t device;
    uint16_t owner;
    bool shares;    /* lies in a page that small allocations share */
    uint64_t pages; /* charged while it lives (by the page's first tenant, if it shares) */
};
/* The vendor's part sets `page_shift` of it. */
extern struct aliquot_table aliquot_pointers;

/* What cuMemAlloc and its like go through is compiled into them; the rest calls functions. */
#define ALIQUOT_INLINE static inline __attribute__((always_inline))

/* An entry's value: bit 63 ALIQUOT_SHARES, 62 ALIQUOT_NAMED, 61..24 pages, 23..20 kind, 19..16 device, 15..0 owner. */
#define ALIQUOT_OWNER_MASK 0xffffull
#define ALIQUOT_KIND_SHIFT 20
#define ALIQUOT_KIND_MASK (0xfull << ALIQUOT_KIND_SHIFT)
#define ALIQUOT_PAGES_SHIFT 24
static_assert(ALIQUOT_MAX_DEVICES <= 16, "a device takes four bits of an entry");

ALIQUOT_INLINE uint64_t aliquot_pack_inline(const struct aliquot_allocation *allocation) {
    return (allocation->shares ? ALIQUOT_SHARES : 0) | allocation->pages << ALIQUOT_PAGES_SHIFT |
           (uint64_t)allocation->kind << ALIQUOT_KIND_SHIFT | (uint64_t)allocation->device << 16 |
           allocation->owner;
}

ALIQUOT_INLINE struct aliquot_allocation aliquot_unpack_inline(uint64_t value) {
    return (struct aliquot_allocation){
        .kind = (enum aliquot_kind)(value >> ALIQUOT_KIND_SHIFT & 0xf),
        .device = (uint32_t)(value >> 16 & 0xf),
        .owner = (uint16_t)(value & ALIQUOT_OWNER_MASK),
        .shares = value & ALIQUOT_SHARES,
        .pages = (value & ~(ALIQUOT_SHARES | ALIQUOT_NAMED)) >> ALIQUOT_PAGES_SHIFT,
    };
}

ALIQUOT_INLINE uint64_t aliquot_page_bytes_inline(uint32_t device) {
    return aliquot_slice.grant->device[device].page_bytes;
}

ALIQUOT_INLINE uint64_t aliquot_whole_pages_inline(uint32_t device, uint64_t bytes) {
    uint64_t page = aliquot_page_bytes_inline(device);
    /* A request that would wrap is larger than any cap: keep it so. */
    return bytes > UINT64_MAX - page ? UINT64_MAX - page + 1 : (bytes + page - 1) & ~(page - 1);
}

uint64_t aliquot_pack(const struct aliquot_allocation *allocation);
struct aliquot_allocation aliquot_unpack(uint64_t value);
uint64_t aliquot_page_bytes(uint32_t device);
uint64_t aliquot_whole_pages(uint32_t device, uint64_t bytes);

/* -- Entering --------------------------------------------------------------------------------------- */

/* The driver gave an address out of which we still knew something else. */
void aliquot_replaced(uint64_t pointer, const struct aliquot_stale *stale);

/* Enters a pointer or handle whose pages are charged already. */
ALIQUOT_INLINE void aliquot_enter_inline(uint64_t pointer,
                                         const struct aliquot_allocation *allocation) {
    struct aliquot_stale stale;
    enum aliquot_tenancy tenancy =
        aliquot_pointer_put(&aliquot_pointers, pointer, aliquot_pack_inline(allocation), &stale);
    if (__builtin_expect(stale.tenancy != ALIQUOT_TENANT_NONE, 0))
        aliquot_replaced(pointer, &stale);
    /* A page that has tenants is charged with its first. Where there was no memory for an entry the
     * charge stays for the life of the process: too much rather than too little. */
    if (tenancy == ALIQUOT_TENANT_MORE)
        aliquot_withdraw(allocation->device,
                         allocation->pages * aliquot_page_bytes_inline(allocation->device));
}
void aliquot_enter(uint64_t pointer, const struct aliquot_allocation *allocation);

/* Calls the driver until it does not answer its out-of-memory because of a process that has just died.
 * `call` is any expression of the type of `result`. */
#define ALIQUOT_RETRY_ON(out_of_memory, result, call)                                              \
    do {                                                                                           \
        unsigned aliquot_round = 0;                                                                \
        do                                                                                         \
            (result) = (call);                                                                     \
        while ((result) == (out_of_memory) && aliquot_give_back_due(&aliquot_round));              \
    } while (0)

/* -- Leaving ---------------------------------------------------------------------------------------- */

/* A pointer or handle on its way out. */
struct aliquot_departure {
    uint64_t pointer, value;
    uint64_t name; /* by which other processes know it, if it has pages of its own; 0: by none */
    struct aliquot_page *page;    /* that others share and that keeps it until it has gone */
    enum aliquot_tenancy tenancy; /* NONE: not ours */
};

/* Only in a process that has a region (core/slice.h). */
ALIQUOT_INLINE struct aliquot_departure aliquot_depart_inline(uint64_t pointer) {
    struct aliquot_departure departure = {.pointer = pointer, .tenancy = ALIQUOT_TENANT_NONE};
    if (pointer)
        departure.tenancy = aliquot_pointer_depart(&aliquot_pointers, pointer, &departure.value,
                                                   &departure.name, &departure.page);
    return departure;
}

/* Memory of which this was the last in its pages is gone from this process: the charge is withdrawn, or
 * passes to a process that knows the memory by its name (0: none does) and still holds it. */
ALIQUOT_INLINE void aliquot_vacate_inline(const struct aliquot_allocation *allocation,
                                          uint64_t name);

/* The driver has not freed it: the entry comes back. */
void aliquot_stays(const struct aliquot_departure *departure);

/* The driver has (`freed`) or has not freed it. */
ALIQUOT_INLINE void aliquot_departed_inline(const struct aliquot_departure *departure, bool freed);

/* Whatever of a kind lived in a context is gone with it. */
void aliquot_allocations_context_gone(enum aliquot_kind kind, uint16_t context);

/* Gives back pages that small allocations shared and other processes know, of which the last has left and
 * into which none is on its way. */
void aliquot_pages_settle(void);
ALIQUOT_INLINE void aliquot_pages_settle_inline(void) {
    /* relaxed: whoever made one linger looks afterwards. */
    if (__builtin_expect(atomic_load_explicit(&aliquot_pointers.lingers, memory_order_relaxed) != 0,
                         0))
        aliquot_pages_settle();
}

/* What aliquot_pointer_enters answered, when the allocation is entered, or was not given. */
ALIQUOT_INLINE void aliquot_entered_inline(bool enters) {
    if (__builtin_expect(enters, 0) && aliquot_pointer_entered(&aliquot_pointers))
        aliquot_pages_settle();
}

/* A value with its kind changed. */
static inline uint64_t aliquot_as_kind(uint64_t value, enum aliquot_kind kind) {
    return (value & ~ALIQUOT_KIND_MASK) | (uint64_t)kind << ALIQUOT_KIND_SHIFT;
}

/* A queued free was carried out: the entry goes, unless the address has been given out again. */
void aliquot_left(uint64_t pointer);

/* -- The vendor's part ------------------------------------------------------------------------------ */

/* An allocation of a pool was freed at once, or in the order of a stream (`queued`). */
void aliquot_pool_freed(const struct aliquot_allocation *allocation, bool queued);

/* The address of a queued free was given out again, so that free has been carried out. */
void aliquot_debt_cancel(uint64_t pointer);

/* -------------------------------------------------------------------------------------------------- */

ALIQUOT_INLINE void aliquot_vacate_inline(const struct aliquot_allocation *allocation,
                                          uint64_t name) {
    uint64_t bytes = allocation->pages * aliquot_page_bytes_inline(allocation->device);
    if (__builtin_expect(name != 0, 0))
        aliquot_hold_drop(name, allocation->device, bytes);
    else
        aliquot_withdraw(allocation->device, bytes);
}

ALIQUOT_INLINE void aliquot_departed_inline(const struct aliquot_departure *departure, bool freed) {
    if (departure->tenancy == ALIQUOT_TENANT_NONE)
        return;
    if (__builtin_expect(!freed, 0)) {
        aliquot_stays(departure);
        return;
    }
    struct aliquot_allocation allocation = aliquot_unpack_inline(departure->value);
    if (__builtin_expect(allocation.kind == ALIQUOT_POOLED, 0))
        aliquot_pool_freed(&allocation, false);
    else if (aliquot_pointer_gone(&aliquot_pointers, departure->pointer, departure->page) ==
             ALIQUOT_TENANT_EDGE)
        aliquot_vacate_inline(&allocation, departure->name);
    else
        aliquot_pages_settle_inline();
}

#endif
