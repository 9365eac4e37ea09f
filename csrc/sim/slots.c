/* Handles that can be checked without touching what they point to. */
#include "slots.h"

#include <string.h>
#include <sys/mman.h>

/* Freed slots that lie idle before the first of them is used again. */
#define IDLE_SLOTS 1024u

bool sim_slots_init(struct sim_slots *slots, uint32_t item, uint32_t room) {
    void *base = mmap(NULL, (size_t)item * room, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED)
        return false;
    memset(slots, 0, sizeof *slots);
    slots->base = base;
    slots->item = item;
    slots->room = room;
    pthread_mutex_init(&slots->lock, NULL);
    return true;
}

static struct sim_slot_head *slot_at(const struct sim_slots *slots, uint32_t number) {
    return (struct sim_slot_head *)(slots->base + (size_t)number * slots->item);
}

void *sim_slots_take(struct sim_slots *slots) {
    struct sim_slot_head *slot = NULL;

    pthread_mutex_lock(&slots->lock);
    if (slots->head && (slots->free > IDLE_SLOTS || slots->high == slots->room)) {
        slot = slot_at(slots, slots->head - 1);
        slots->head = slot->next;
        slots->tail = slots->head ? slots->tail : 0;
        slots->free--;
    } else if (slots->high < slots->room) {
        slot = slot_at(slots, slots->high);
        /* Relaxed: the slot's own `live` is what publishes it. */
        __atomic_store_n(&slots->high, slots->high + 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&slots->lock);
    if (slot)
        memset(slot, 0, slots->item);
    return slot;
}

void sim_slots_give(struct sim_slots *slots, void *given) {
    struct sim_slot_head *slot = given;
    uint32_t number = (uint32_t)(((uint8_t *)given - slots->base) / slots->item) + 1;

    /* Release: whoever still reads the slot through a stale handle saw it whole or sees 0. */
    __atomic_store_n(&slot->live, 0, __ATOMIC_RELEASE);
    pthread_mutex_lock(&slots->lock);
    slot->next = 0;
    if (slots->tail)
        slot_at(slots, slots->tail - 1)->next = number;
    else
        slots->head = number;
    slots->tail = number;
    slots->free++;
    pthread_mutex_unlock(&slots->lock);
}
