/* Attaching to a region, and everything that is not the fast path of a charge. See slice.h. */
#include "slice.h"

#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Waits for the region's lock are bounded: its holder may be stopped. Everything under the lock
 * takes microseconds. */
#define LOCK_WAIT_NS 200000000ll
/* Who shares memory is rare, and what cannot be written down is counted twice. */
#define HOLD_WAIT_NS 2000000000ll
#define GIVE_BACK_NS 2000000000ull

struct aliquot_slice aliquot_slice;
void (*aliquot_settle)(uint32_t device);

static struct aliquot_fork_page no_fork_page;
struct aliquot_fork_page *_Atomic aliquot_fork_page = &no_fork_page;

static pthread_mutex_t attach_mutex = PTHREAD_MUTEX_INITIALIZER;
static char usage_path[PATH_MAX], bell_path[PATH_MAX];
/* Attached in this process or in the one it was forked from: then `aliquot_slice` is stale. */
static bool inherited;
static void *slot_lock_page;

static size_t whole_pages(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) & ~(page - 1);
}

__attribute__((format(printf, 2, 3))) static bool fail(struct aliquot_error *error,
                                                       const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return false;
}

/* Opens a region file, checks its size and maps it whole. The descriptor does not stay. */
static void *map_file(const char *path, bool writable, size_t size, struct aliquot_error *error) {
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        fail(error, "cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    void *at = NULL;
    struct stat status;
    if (fstat(fd, &status) < 0)
        fail(error, "cannot examine %s: %s", path, strerror(errno));
    else if (!S_ISREG(status.st_mode))
        fail(error, "%s is not a regular file", path);
    else if ((uint64_t)status.st_size < size)
        fail(error, "%s is truncated (%lld bytes, expected %zu)", path, (long long)status.st_size,
             size);
    else {
        at = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) {
            fail(error, "cannot map %s: %s", path, strerror(errno));
            at = NULL;
        }
    }
    close(fd);
    return at;
}

static bool map_region(const char *directory, struct aliquot_error *error) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/grant", directory) >= (int)sizeof path ||
        snprintf(bell_path, sizeof bell_path, "%s/bell", directory) >= (int)sizeof bell_path ||
        snprintf(usage_path, sizeof usage_path, "%s/usage", directory) >= (int)sizeof usage_path)
        return fail(error, "the path of the region is too long: %.64s…", directory);
    struct aliquot_grant *grant = map_file(path, false, sizeof *grant, error);
    if (!grant)
        return false;
    const char *wrong = aliquot_grant_check(grant, sizeof *grant);
    if (wrong) {
        munmap(grant, sizeof *grant);
        return fail(error, "%s %s", path, wrong);
    }
    struct aliquot_usage *usage = map_file(usage_path, true, sizeof *usage, error);
    if (!usage) {
        munmap(grant, sizeof *grant);
        return false;
    }
    wrong = aliquot_usage_check(usage, sizeof *usage);
    if (wrong) {
        munmap(grant, sizeof *grant);
        munmap(usage, sizeof *usage);
        return fail(error, "%s %s", usage_path, wrong);
    }
    aliquot_slice.grant = grant;
    aliquot_slice.usage = usage;
    aliquot_slice.device_count = grant->device_count;
    return true;
}

static bool lock_byte(int fd, int64_t offset) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

static void fill_slot(uint32_t number) {
    struct aliquot_usage *usage = aliquot_slice.usage;
    struct aliquot_slot *slot = &usage->slot[number];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    slot->attached_unix_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    char command[16] = "";
    prctl(PR_GET_NAME, command);
    memcpy(slot->command, command, sizeof slot->command);
    atomic_store_explicit(&slot->pid, (uint32_t)getpid(), memory_order_release);

    uint32_t mark = atomic_load_explicit(&usage->high_water, memory_order_relaxed);
    /* seq_cst, before the first charge: pairs with the load in aliquot_used. */
    while (mark <= number && !atomic_compare_exchange_weak(&usage->high_water, &mark, number + 1))
        ;
    aliquot_slice.slot = number;
}

/* Whether exported memory is written down for a slot whose lock is ours. Only a slot's owner makes
 * an entry for it, so that where there is none, none can come. */
static bool has_holds(uint32_t number) {
    for (uint32_t i = 0; i < ALIQUOT_MAX_HOLDS; i++) {
        const struct aliquot_hold *hold = &aliquot_slice.usage->hold[i];
        /* relaxed: entries of others come and go meanwhile, and may look like ours half written;
         * then the lock is taken for nothing. */
        if (__atomic_load_n(&hold->slot, __ATOMIC_RELAXED) == number &&
            __atomic_load_n(&hold->key, __ATOMIC_RELAXED))
            return true;
    }
    return false;
}

/* Takes a free slot and the lock that says so. The lock lives in an open file description that only
 * a mapping keeps open: closing every descriptor does not lose it, a forked child does not inherit
 * it, and the kernel drops it however the process dies. */
static bool claim_slot(struct aliquot_error *error) {
    int fd = open(usage_path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return fail(error, "cannot open %s: %s", usage_path, strerror(errno));
    bool done = false;
    size_t page_size = whole_pages(1);
    void *page = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED || madvise(page, page_size, MADV_DONTFORK) < 0) {
        fail(error, "cannot map %s: %s", usage_path, strerror(errno));
        goto out;
    }
    uint32_t number = 0;
    while (number < ALIQUOT_MAX_SLOTS && !lock_byte(fd, ALIQUOT_LOCK_SLOT(number)))
        number++;
    if (number == ALIQUOT_MAX_SLOTS) {
        fail(error, "all %u places for processes in %s are taken", ALIQUOT_MAX_SLOTS, usage_path);
        goto out;
    }
    if (atomic_load_explicit(&aliquot_slice.usage->slot[number].pid, memory_order_relaxed)) {
        /* What a dead owner left. The region's lock only where its shared memory may pass on: many
         * that start together would wait for each other. */
        bool holds = has_holds(number);
        int locked = holds ? aliquot_region_lock(fd, LOCK_WAIT_NS) : -1;
        aliquot_slot_clear(holds ? fd : -1, aliquot_slice.usage, number);
        if (!locked)
            aliquot_region_unlock(fd);
    }
    fill_slot(number);
    done = true;
out:
    close(fd);
    if (done)
        slot_lock_page = page;
    else if (page != MAP_FAILED)
        munmap(page, page_size);
    return done;
}

static bool make_fork_page(struct aliquot_error *error) {
    struct aliquot_fork_page *page = atomic_load_explicit(&aliquot_fork_page, memory_order_relaxed);
    if (page != &no_fork_page)
        return true;
    size_t size = whole_pages(sizeof *page);
    page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || madvise(page, size, MADV_WIPEONFORK) < 0)
        return fail(error, "cannot make a page that is wiped on fork: %s", strerror(errno));
    atomic_store_explicit(&aliquot_fork_page, page, memory_order_release);
    return true;
}

/* No fork may fall between opening the slot's file and closing its descriptor: the child would
 * keep the parent's lock alive. */
static void before_fork(void) { pthread_mutex_lock(&attach_mutex); }
static void after_fork(void) { pthread_mutex_unlock(&attach_mutex); }
static void watch_forks(void) { pthread_atfork(before_fork, after_fork, after_fork); }

bool aliquot_attach(const char *directory, void (*forget)(void), struct aliquot_error *error) {
    static pthread_once_t watch = PTHREAD_ONCE_INIT;
    int saved = errno;
    pthread_once(&watch, watch_forks);
    pthread_mutex_lock(&attach_mutex);
    bool done = aliquot_attached();
    if (!done) {
        if (inherited)
            aliquot_hold_forget();
        if (inherited && forget)
            forget();
        done = make_fork_page(error) && (inherited || map_region(directory, error)) &&
               claim_slot(error);
        if (done) {
            inherited = true;
            /* release: pairs with the acquire in aliquot_attached. */
            atomic_store_explicit(
                &atomic_load_explicit(&aliquot_fork_page, memory_order_relaxed)->attached, 1,
                memory_order_release);
        }
    }
    pthread_mutex_unlock(&attach_mutex);
    errno = saved;
    return done;
}

void aliquot_raise_peak(uint32_t device, uint64_t sum) {
    _Atomic uint64_t *peak = &aliquot_slice.usage->device[device].peak;
    /* relaxed: a figure for people. */
    uint64_t old = atomic_load_explicit(peak, memory_order_relaxed);
    while (old < sum && !atomic_compare_exchange_weak_explicit(
                            peak, &old, sum, memory_order_relaxed, memory_order_relaxed))
        ;
}

/* By a file description of its own: another process, or another thread here, may hold it too. */
static int lock_region(int64_t timeout_ns) {
    int fd = open(usage_path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd >= 0 && aliquot_region_lock(fd, timeout_ns) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

int aliquot_lock_holds(void) { return lock_region(HOLD_WAIT_NS); }

static void reclaim_dead(int fd) {
    uint32_t slots = atomic_load_explicit(&aliquot_slice.usage->high_water, memory_order_acquire);
    for (uint32_t i = 0; i < slots && i < ALIQUOT_MAX_SLOTS; i++)
        if (i != aliquot_slice.slot)
            aliquot_slot_reclaim(fd, aliquot_slice.usage, i);
}

/* Under the region's lock no charge passes from slot to slot: one that has not ended will not, for who
 * moved it is dead. */
static void end_moves(void) {
    struct aliquot_usage *usage = aliquot_slice.usage;
    atomic_store(&usage->moves_ended, atomic_load(&usage->moves_begun));
}

bool aliquot_charge_again(uint32_t device, uint64_t bytes) {
    /* Nothing always fits: the driver will say what it thinks of the request. */
    if (!bytes)
        return true;
    if (aliquot_slice.grant->device[device].enforcement == ALIQUOT_BY_DRIVER) {
        aliquot_charge_given(device, bytes);
        return true;
    }
    int saved = errno;
    bool fits = false;
    /* What cannot fit into an empty slice needs no second look. */
    if (bytes <= aliquot_cap(device)) {
        if (aliquot_settle)
            aliquot_settle(device);
        fits = aliquot_charge_once(device, bytes);
        if (!fits) {
            int fd = lock_region(LOCK_WAIT_NS);
            if (fd >= 0) {
                reclaim_dead(fd);
                aliquot_hold_settle(fd);
                end_moves();
                /* One refuser at a time: two that add together and both withdraw would both be
                 * refused although one of them fits. */
                fits = aliquot_charge_once(device, bytes);
                close(fd);
            }
        }
    }
    if (!fits)
        atomic_fetch_add_explicit(&aliquot_slice.usage->device[device].refusals, 1,
                                  memory_order_relaxed);
    errno = saved;
    return fits;
}

bool aliquot_give_back_due(unsigned *round) {
    int saved = errno;
    bool due = false;
    if (*round == 0) {
        /* Somebody may have died whom nobody has needed to clear yet. */
        int fd = lock_region(LOCK_WAIT_NS);
        if (fd >= 0) {
            reclaim_dead(fd);
            close(fd);
        }
    }
    /* acquire: pairs with the release in aliquot_slot_reclaim. */
    uint64_t found = atomic_load_explicit(&aliquot_slice.usage->reclaimed_ns, memory_order_acquire);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (found && found <= now_ns && now_ns - found < GIVE_BACK_NS) {
        long pause = 500000l << (*round < 5 ? *round : 5);
        nanosleep(&(struct timespec){0, pause}, NULL);
        ++*round;
        due = true;
    }
    errno = saved;
    return due;
}

void aliquot_count_unknown(void) {
    if (aliquot_attached())
        atomic_fetch_add_explicit(&aliquot_slice.usage->unknown_functions, 1, memory_order_relaxed);
}

/* Whoever listens may end between the opening and the writing: the signal for that is the program's
 * own no more than the byte is. */
static void ring(int fd) {
    sigset_t pipe, before, pending;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    if (pthread_sigmask(SIG_BLOCK, &pipe, &before))
        return;
    if (write(fd, "", 1) < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE))
        sigtimedwait(&pipe, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void aliquot_ring_bell(void) {
    int saved = errno;
    int fd = open(bell_path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    struct stat status;
    if (fd >= 0) {
        /* (Private regions have none, and what else bears the name is none.) */
        if (fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode))
            ring(fd);
        close(fd);
    }
    errno = saved;
}
