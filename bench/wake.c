/* What it costs a thread to be woken by a bell and to wake another one: the least that giving out a turn
 * can cost on this machine.
 *
 *   wake SECONDS PARTNERS PAUSE_US
 *
 * Each partner, a process, sleeps for PAUSE_US, rings its bell (a FIFO) and sleeps on a futex in shared
 * memory. The thread that is measured sleeps on all bells, a real-time one as the arbiter's is where it
 * may be, and wakes who rang. Prints the nanoseconds for which it ran, for each ring.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64, EMPTIED = 16 };

/* Each in a cache line of its own. */
struct partner {
    _Alignas(64) _Atomic uint32_t word;
};

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "wake: %s: %s\n", what, strerror(errno));
    exit(1);
}

static _Noreturn void ring_for_ever(struct partner *self, int bell, uint64_t pause_ns) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        uint64_t until = now_ns(CLOCK_MONOTONIC) + pause_ns;
        struct timespec at = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        uint32_t seen = atomic_load(&self->word);
        if (write(bell, "", 1) != 1)
            _exit(1);
        while (atomic_load(&self->word) == seen)
            syscall(SYS_futex, &self->word, FUTEX_WAIT, seen, NULL, NULL, 0);
    }
}

int main(int count_of, char **argument) {
    if (count_of != 4) {
        fprintf(stderr, "usage: wake SECONDS PARTNERS PAUSE_US\n");
        return 2;
    }
    double seconds = strtod(argument[1], NULL);
    long partners = strtol(argument[2], NULL, 10);
    uint64_t pause_ns = strtoull(argument[3], NULL, 10) * 1000;
    if (partners < 1 || partners > MOST)
        return 2;
    struct partner *all = mmap(NULL, sizeof *all * (size_t)partners, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int epoll = epoll_create1(EPOLL_CLOEXEC), bell[MOST];
    pid_t child[MOST];
    if (all == MAP_FAILED || epoll < 0)
        fail("beginning");
    for (long i = 0; i < partners; i++) {
        int ends[2];
        if (pipe(ends) < 0)
            fail("pipe");
        bell[i] = ends[0];
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = (uint64_t)i};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, bell[i], &event) < 0)
            fail("epoll_ctl");
        child[i] = fork();
        if (child[i] < 0)
            fail("fork");
        if (!child[i])
            ring_for_ever(&all[i], ends[1], pause_ns);
        close(ends[1]);
    }
    const struct sched_param least = {.sched_priority = 1};
    sched_setscheduler(0, SCHED_RR, &least);
    uint64_t end = now_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9), rings = 0;
    uint64_t ran = now_ns(CLOCK_THREAD_CPUTIME_ID);
    uint32_t heard[MOST] = {0};
    while (now_ns(CLOCK_MONOTONIC) < end) {
        struct epoll_event events[MOST];
        int count = epoll_wait(epoll, events, MOST, -1);
        for (int i = 0; i < count; i++) {
            uint64_t who = events[i].data.u64;
            char bytes[EMPTIED];
            if (++heard[who] % EMPTIED == 0 && read(bell[who], bytes, sizeof bytes) < 0)
                fail("read");
            atomic_fetch_add(&all[who].word, 1);
            syscall(SYS_futex, &all[who].word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
            rings++;
        }
    }
    ran = now_ns(CLOCK_THREAD_CPUTIME_ID) - ran;
    printf("%.1f\n", (double)ran / (double)(rings ? rings : 1));
    for (long i = 0; i < partners; i++) {
        kill(child[i], SIGKILL);
        waitpid(child[i], NULL, 0);
    }
    return 0;
}
