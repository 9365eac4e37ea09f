#include "lock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void aliquot_lock_wait(struct aliquot_lock *lock) {
    /* The sections are shorter than a sleep: look a while first, without taking the line from who
     * has the lock. */
    for (int look = 0; look < 100; look++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
        uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);
        /* acquire: pairs with the release in aliquot_unlock. */
        if (word == 0 && atomic_compare_exchange_weak_explicit(
                             &lock->word, &word, 1, memory_order_acquire, memory_order_relaxed))
            return;
    }
    /* acquire: as above; 2 stays for the next one, who may find nobody asleep, which is harmless. */
    while (atomic_exchange_explicit(&lock->word, 2, memory_order_acquire) != 0)
        syscall(SYS_futex, &lock->word, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
}

void aliquot_lock_wake(struct aliquot_lock *lock) {
    syscall(SYS_futex, &lock->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
