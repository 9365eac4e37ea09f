/* Handles that can be checked without touching what they point to: equal slots in one reserved
 * range that is never unmapped. A slot starts with a word that is 0 while nobody owns it.
 */
#ifndef ALIQUOT_SIM_SLOTS_H
#define ALIQUOT_SIM_SLOTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_slots {
    uint8_t *base;
    uint32_t item; /* bytes of a slot, a power of two */
    uint32_t room; /* slots in the range */
    uint32_t high; /* atomic; slots ever given out */
    uint32_t head; /* of the queue of free slots, number + 1; 0: empty */
    uint32_t tail;
    uint32_t free;
    pthread_mutex_t lock; /* high, head, tail, free */
};

/* What every slot starts with. */
struct sim_slot_head {
    uint32_t live; /* atomic */
    uint32_t next; /* in the queue while free; the owner's otherwise */
};

/* Reserves addresses for `room` slots of `item` bytes; memory comes with use.
 * False when there are no addresses. */
bool sim_slots_init(struct sim_slots *slots, uint32_t item, uint32_t room);
/* A zeroed slot; its owner sets `live` once it may be found. Slots given back last are reused
 * last, so that a stale handle stays recognisable for long. NULL when the range is used up. */
void *sim_slots_take(struct sim_slots *slots);
void sim_slots_give(struct sim_slots *slots, void *slot);

/* Marks a filled slot as found by sim_slots_get. */
static inline void sim_slots_publish(void *slot) {
    /* Release pairs with the acquire in sim_slots_get: what the slot holds is seen whole. */
    __atomic_store_n(&((struct sim_slot_head *)slot)->live, 1, __ATOMIC_RELEASE);
}

/* The slot behind a handle of any value, or NULL. */
static inline void *sim_slots_get(const struct sim_slots *slots, const void *handle) {
    uintptr_t offset = (uintptr_t)handle - (uintptr_t)slots->base;

    /* Relaxed: a handle that the caller may know was given out before, and high only grows. */
    if (offset >= (uintptr_t)__atomic_load_n(&slots->high, __ATOMIC_RELAXED) * slots->item ||
        (offset & (slots->item - 1)))
        return NULL;
    struct sim_slot_head *head = (struct sim_slot_head *)(slots->base + offset);
    /* Acquire pairs with the release in sim_slots_publish. */
    return __atomic_load_n(&head->live, __ATOMIC_ACQUIRE) ? head : NULL;
}

#endif
