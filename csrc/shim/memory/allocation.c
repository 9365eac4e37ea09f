#include "allocation.h"

struct aliquot_table aliquot_pointers;

uint64_t aliquot_pack(const struct aliquot_allocation *allocation) {
    return aliquot_pack_inline(allocation);
}

struct aliquot_allocation aliquot_unpack(uint64_t value) {
    return aliquot_unpack_inline(value);
}

uint64_t aliquot_page_bytes(uint32_t device) { return aliquot_page_bytes_inline(device); }

uint64_t aliquot_whole_pages(uint32_t device, uint64_t bytes) {
    return aliquot_whole_pages_inline(device, bytes);
}

/* What an entry that was dropped from the table stood for is gone. */
static void release(uint64_t value, uint64_t name, enum aliquot_tenancy tenancy) {
    struct aliquot_allocation allocation = aliquot_unpack_inline(value);
    if (tenancy == ALIQUOT_TENANT_EDGE && allocation.kind != ALIQUOT_POOLED)
        aliquot_vacate_inline(&allocation, name);
}

void aliquot_pages_settle(void) {
    struct aliquot_stale page;
    while (aliquot_pointer_settle(&aliquot_pointers, &page))
        release(page.value, page.name, page.tenancy);
}

void aliquot_replaced(uint64_t pointer, const struct aliquot_stale *stale) {
    if (aliquot_unpack_inline(stale->value).kind == ALIQUOT_LEAVING)
        aliquot_debt_cancel(pointer);
    release(stale->value, stale->name, stale->tenancy);
    aliquot_pages_settle_inline();
}

void aliquot_enter(uint64_t pointer, const struct aliquot_allocation *allocation) {
    aliquot_enter_inline(pointer, allocation);
}

void aliquot_stays(const struct aliquot_departure *departure) {
    struct aliquot_allocation kept = aliquot_unpack_inline(departure->value);
    if (aliquot_pointer_stay(&aliquot_pointers, departure->pointer, departure->value,
                             departure->name, departure->page))
        aliquot_withdraw(kept.device, kept.pages * aliquot_page_bytes_inline(kept.device));
}

void aliquot_left(uint64_t pointer) {
    uint64_t value, name;
    enum aliquot_tenancy tenancy =
        aliquot_pointer_take_if(&aliquot_pointers, pointer, ALIQUOT_KIND_MASK,
                                (uint64_t)ALIQUOT_LEAVING << ALIQUOT_KIND_SHIFT, &value, &name);
    if (tenancy != ALIQUOT_TENANT_NONE)
        release(value, name, tenancy);
    aliquot_pages_settle_inline();
}

static void count_gone(uint64_t pointer, uint64_t value, uint64_t name,
                       enum aliquot_tenancy tenancy, void *argument) {
    (void)pointer;
    (void)argument;
    release(value, name, tenancy);
}

void aliquot_allocations_context_gone(enum aliquot_kind kind, uint16_t context) {
    aliquot_pointer_sweep(&aliquot_pointers, ALIQUOT_KIND_MASK | ALIQUOT_OWNER_MASK,
                          (uint64_t)kind << ALIQUOT_KIND_SHIFT | context, count_gone, NULL);
    aliquot_pages_settle_inline();
}
