/* Programs that share devices, without devices: the real limiter, on the real clock, in front of
 * kernels that only take their time.
 *
 *   sharer KERNEL_NS GAP_US DEPTH REGION...
 *
 * One thread for each region attaches to it as a process of that slice (a slot, its lock) and
 * launches kernels of KERNEL_NS on the slice's first device, at most DEPTH under way, with GAP_US
 * between two launches. Prints "ready" when all are attached; ends when standard input does, and
 * prints how many kernels each launched, a line each. A stream of a process is a device of its own:
 * that only one container works at a time is the gates' doing.
 */
#include "core/limiter.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct mark {
    uint64_t at_ns;
};

struct sharer {
    char path[PATH_MAX];
    struct aliquot_grant *grant;
    struct aliquot_usage *usage;
    struct aliquot_limiter *limiter;
    _Atomic uint64_t busy_until_ns; /* clock: what was launched is done by then */
    uint64_t launches;
    pthread_t thread;
};

static uint64_t kernel_ns, gap_us, depth;
static _Atomic bool ended;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t ns) {
    struct timespec at = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
}

/* -- The seam ------------------------------------------------------------------------------------ */

static uint64_t seam_now(void *env) {
    (void)env;
    return now_ns();
}
static void seam_wait(void *env, const _Atomic uint32_t *word, uint32_t seen, uint32_t role,
                      uint64_t until) {
    (void)env;
    struct timespec at = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, &at, NULL, role);
}
static void seam_wake(void *env, _Atomic uint32_t *word, uint32_t role) {
    (void)env;
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, role);
}
static void seam_ring(void *env) {
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/bell", ((struct sharer *)env)->path);
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, "", 1);
        close(fd);
    }
}
static void *observe(void *limiter) {
    aliquot_observe(limiter, 0);
    return NULL;
}
static bool seam_observer(void *env, struct aliquot_limiter *limiter, uint32_t device) {
    (void)env;
    (void)device;
    pthread_t thread;
    return pthread_create(&thread, NULL, observe, limiter) == 0 && pthread_detach(thread) == 0;
}
static int seam_device(void *env, const struct aliquot_launch *launch,
                       enum aliquot_lane_kind *kind) {
    (void)env;
    (void)launch;
    *kind = ALIQUOT_LANE_PLAIN;
    return 0;
}
static bool seam_captured(void *env, const struct aliquot_launch *launch) {
    (void)env;
    (void)launch;
    return false;
}
static void *seam_mark(void *env, const struct aliquot_launch *launch) {
    (void)launch;
    struct mark *mark = malloc(sizeof *mark);
    if (mark)
        mark->at_ns = atomic_load(&((struct sharer *)env)->busy_until_ns);
    return mark;
}
static int seam_reached(void *env, void *event, uint64_t *at_ns) {
    (void)env;
    *at_ns = ((struct mark *)event)->at_ns;
    return now_ns() >= *at_ns;
}
static void seam_drop(void *env, void *mark) {
    (void)env;
    free(mark);
}
static int seam_idle(void *env, uint64_t lane) {
    (void)lane;
    return now_ns() >= atomic_load(&((struct sharer *)env)->busy_until_ns);
}
static const struct aliquot_limiter_seam seam = {
    .now = seam_now,
    .wait = seam_wait,
    .wake = seam_wake,
    .ring = seam_ring,
    .observer = seam_observer,
    .device = seam_device,
    .captured = seam_captured,
    .mark = seam_mark,
    .reached = seam_reached,
    .drop = seam_drop,
    .idle = seam_idle,
};

/* -- A program ----------------------------------------------------------------------------------- */

static void *launch_all(void *argument) {
    struct sharer *sharer = argument;
    struct aliquot_thread *thread = aliquot_thread_new(sharer->limiter);
    const struct aliquot_launch launch = {.what = 0x1000, .lane = 0x100};
    /* relaxed: the end may be seen a little later. */
    while (thread && !atomic_load_explicit(&ended, memory_order_relaxed)) {
        uint64_t busy_until = atomic_load(&sharer->busy_until_ns), now = now_ns();
        if (busy_until > now + (depth - 1) * kernel_ns) {
            sleep_until(busy_until - (depth - 1) * kernel_ns);
            aliquot_waited(sharer->limiter);
        }
        aliquot_ticket ticket = aliquot_gate(thread, &launch);
        now = now_ns();
        busy_until = atomic_load(&sharer->busy_until_ns);
        atomic_store(&sharer->busy_until_ns, (busy_until > now ? busy_until : now) + kernel_ns);
        if (ticket)
            aliquot_launched(thread, &launch, ticket, true);
        sharer->launches++;
        if (gap_us)
            sleep_until(now_ns() + gap_us * 1000);
    }
    return NULL;
}

static void *map(const char *folder, const char *name, int flags, int protection, size_t size,
                 int *fd) {
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    *fd = open(path, flags | O_CLOEXEC);
    void *at = *fd < 0 ? MAP_FAILED : mmap(NULL, size, protection, MAP_SHARED, *fd, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "sharer: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return at;
}

/* Takes the first free slot. Its descriptor stays open: the lock goes with the process. */
static uint32_t take_slot(struct aliquot_usage *usage, int fd) {
    for (uint32_t slot = 0; slot < ALIQUOT_MAX_SLOTS; slot++) {
        struct flock lock = {.l_type = F_WRLCK,
                             .l_whence = SEEK_SET,
                             .l_start = ALIQUOT_LOCK_SLOT(slot),
                             .l_len = 1};
        if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
            continue;
        aliquot_slot_clear(-1, usage, slot);
        atomic_store(&usage->slot[slot].pid, (uint32_t)getpid());
        uint32_t mark = atomic_load(&usage->high_water);
        while (mark <= slot && !atomic_compare_exchange_weak(&usage->high_water, &mark, slot + 1))
            ;
        return slot;
    }
    fprintf(stderr, "sharer: no slot is free\n");
    exit(1);
}

static void attach(struct sharer *sharer, const char *path) {
    int fd;
    snprintf(sharer->path, sizeof sharer->path, "%s", path);
    sharer->grant = map(path, "grant", O_RDONLY, PROT_READ, sizeof *sharer->grant, &fd);
    close(fd);
    sharer->usage = map(path, "usage", O_RDWR, PROT_READ | PROT_WRITE, sizeof *sharer->usage, &fd);
    uint32_t slot = take_slot(sharer->usage, fd);
    sharer->limiter = aliquot_limiter_new(&seam, sharer, sharer->grant, sharer->usage, slot);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: sharer KERNEL_NS GAP_US DEPTH REGION...\n");
        return 2;
    }
    kernel_ns = strtoull(argv[1], NULL, 10);
    gap_us = strtoull(argv[2], NULL, 10);
    depth = strtoull(argv[3], NULL, 10);
    int count = argc - 4;
    struct sharer *sharers = calloc((size_t)count, sizeof *sharers);
    for (int i = 0; i < count; i++)
        attach(&sharers[i], argv[4 + i]);
    for (int i = 0; i < count; i++)
        if (!sharers[i].limiter ||
            pthread_create(&sharers[i].thread, NULL, launch_all, &sharers[i])) {
            fprintf(stderr, "sharer: no thread\n");
            return 1;
        }
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    atomic_store(&ended, true);
    for (int i = 0; i < count; i++) {
        pthread_join(sharers[i].thread, NULL);
        printf("%llu\n", (unsigned long long)sharers[i].launches);
    }
    fflush(stdout);
    /* Observers go with the process. */
    _exit(0);
}
