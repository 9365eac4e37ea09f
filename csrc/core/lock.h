/* A four-byte mutex for short critical sections inside one process.
 *
 * pthread_mutex_t would do; this one is inline, costs one compare-and-swap and one exchange, and
 * needs no initialiser other than zero, which is what a table that is reset after fork wants.
 */
#ifndef ALIQUOT_LOCK_H
#define ALIQUOT_LOCK_H

#include <stdatomic.h>
#include <stdint.h>

struct aliquot_lock {
    _Atomic uint32_t word; /* 0 free, 1 taken, 2 taken and somebody sleeps */
};

void aliquot_lock_wait(struct aliquot_lock *lock);
void aliquot_lock_wake(struct aliquot_lock *lock);

static inline void aliquot_lock(struct aliquot_lock *lock) {
    uint32_t free_word = 0;
    /* acquire: pairs with the release exchange in aliquot_unlock. */
    if (__builtin_expect(!atomic_compare_exchange_strong_explicit(&lock->word, &free_word, 1,
                                                                  memory_order_acquire,
                                                                  memory_order_relaxed),
                         0))
        aliquot_lock_wait(lock);
}

static inline void aliquot_unlock(struct aliquot_lock *lock) {
    /* release: pairs with the acquire in aliquot_lock and aliquot_lock_wait. */
    if (__builtin_expect(atomic_exchange_explicit(&lock->word, 0, memory_order_release) == 2, 0))
        aliquot_lock_wake(lock);
}

#endif
