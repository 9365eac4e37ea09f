#include "state_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WAITERS UINT32_C(0x80000000)

/* How long a waiter sleeps before it asks whether the holder still lives: death wakes nobody. */
enum { ASK_NS = 2000000, SPINS = 100 };

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

bool sim_slot_locked(int descriptor, uint32_t slot) {
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = SIM_LOCK_BASE + slot, .l_len = 1};
    /* When in doubt, alive: memory that stays is better than memory that two processes own. */
    return fcntl(descriptor, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

uint64_t sim_slot_status(const struct sim_state *state, uint32_t slot) {
    /* Acquire pairs with the release in take_slot. */
    return atomic_load_explicit(&state->header->slots[slot].status, memory_order_acquire);
}

bool sim_slot_alive(struct sim_state *state, uint32_t slot, uint64_t status) {
    if (slot >= SIM_SLOTS_MAX || sim_slot_status_of(status) != SIM_SLOT_LIVE ||
        sim_slot_status(state, slot) != status)
        return false;
    if (slot == state->slot)
        return true;
    int descriptor = sim_state_open_file(state, "state", O_RDWR);
    if (descriptor < 0)
        return true;
    bool locked = sim_slot_locked(descriptor, slot);
    close(descriptor);
    return locked;
}

/* Whether the slot named in a lock's word is dead: it is not FREE while it holds a lock, for it is
 * freed only after every lock was taken (and so recovered) once by whoever freed it. */
static bool holder_died(struct sim_state *state, uint32_t word) {
    uint32_t slot = (word & ~WAITERS) - 1;
    if (slot == state->slot || slot >= SIM_SLOTS_MAX)
        return false;
    int descriptor = sim_state_open_file(state, "state", O_RDWR);
    if (descriptor < 0)
        return false;
    bool locked = sim_slot_locked(descriptor, slot);
    close(descriptor);
    return !locked;
}

static bool wait_for(struct sim_state *state, struct sim_lock *lock) {
    uint32_t mine = state->slot + 1;
    uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);
    for (int spin = 0; spin < SPINS; spin++) {
        /* Acquire, here and below, pairs with the release in sim_lock_drop. */
        if (!word && atomic_compare_exchange_weak_explicit(
                         &lock->word, &word, mine, memory_order_acquire, memory_order_relaxed))
            return false;
        relax();
        word = atomic_load_explicit(&lock->word, memory_order_relaxed);
    }
    for (;;) {
        if (!word) {
            /* Others may sleep too: who comes from sleep says so. */
            if (atomic_compare_exchange_weak_explicit(&lock->word, &word, mine | WAITERS,
                                                      memory_order_acquire, memory_order_relaxed))
                return false;
            continue;
        }
        if (!(word & WAITERS)) {
            if (!atomic_compare_exchange_weak_explicit(&lock->word, &word, word | WAITERS,
                                                       memory_order_relaxed, memory_order_relaxed))
                continue;
            word |= WAITERS;
        }
        struct timespec limit = {.tv_nsec = ASK_NS};
        long slept = syscall(SYS_futex, &lock->word, FUTEX_WAIT, word, &limit, NULL, 0);
        /* The exchange takes the lock from the holder that was found dead, not from one that got
         * it in the meantime: then it fails. */
        if (slept != 0 && errno == ETIMEDOUT && holder_died(state, word) &&
            atomic_compare_exchange_strong_explicit(&lock->word, &word, mine | WAITERS,
                                                    memory_order_acquire, memory_order_relaxed))
            return true;
        word = atomic_load_explicit(&lock->word, memory_order_relaxed);
    }
}

bool sim_lock_take(struct sim_state *state, struct sim_lock *lock) {
    uint32_t free_word = 0;
    /* Acquire pairs with the release in sim_lock_drop. */
    if (atomic_compare_exchange_strong_explicit(&lock->word, &free_word, state->slot + 1,
                                                memory_order_acquire, memory_order_relaxed))
        return false;
    return wait_for(state, lock);
}

bool sim_lock_try(struct sim_state *state, struct sim_lock *lock) {
    uint32_t word = 0;
    /* Acquire pairs with the release in sim_lock_drop. */
    if (atomic_compare_exchange_strong_explicit(&lock->word, &word, state->slot + 1,
                                                memory_order_acquire, memory_order_relaxed))
        return true;
    return holder_died(state, word) && atomic_compare_exchange_strong_explicit(
                                           &lock->word, &word, (state->slot + 1) | (word & WAITERS),
                                           memory_order_acquire, memory_order_relaxed);
}

void sim_lock_drop(struct sim_state *state, struct sim_lock *lock) {
    (void)state;
    /* Release pairs with the acquire of the next holder. A waiter that this wake misses because we
     * are killed before it finds the word free at its next look. */
    if (atomic_exchange_explicit(&lock->word, 0, memory_order_release) & WAITERS)
        syscall(SYS_futex, &lock->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}
