/* The limiter in this process: its seam to the kernel, and its threads. Marks are in marks.c. */
#include "process.h"

#include "core/lock.h"
#include "core/slice.h"
#include "marks.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OBSERVER_STACK (512u << 10)

/* What a thread was given of the devices: half of the thread-local storage. It lies on pages that the
 * kernel replaces by zeros in a forked child: there it has no limiter. */
__thread struct aliquot_thread *aliquot_self __attribute__((tls_model("initial-exec")));

bool aliquot_one_device;

static struct aliquot_lock lock; /* of making the limiter */
static struct aliquot_limiter *_Atomic limiter;
static _Atomic bool ended; /* the process is on its way out */

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* of aliquot_self, for the end of the thread */
static bool key_made;

/* -- The seam ------------------------------------------------------------------------------------- */

static uint64_t seam_now(void *env) {
    (void)env;
    return aliquot_clock();
}

/* The word may lie in a shared mapping, so that the futex is no private one. Its time is absolute, of
 * the container's clock: kernels that have time namespaces translate it (since 5.10 and 5.8.17). */
static void seam_wait(void *env, const _Atomic uint32_t *word, uint32_t seen, uint32_t role,
                      uint64_t deadline) {
    uint64_t now = aliquot_clock();
    (void)env;
    if (deadline <= now)
        return;
    deadline = deadline - now < 1000000000u ? deadline : now + 1000000000u;
    struct timespec at = {(time_t)(deadline / 1000000000u), (long)(deadline % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, &at, NULL, role);
}

static void seam_wake(void *env, _Atomic uint32_t *word, uint32_t role) {
    (void)env;
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT32_MAX, NULL, NULL, role);
}

static void seam_ring(void *env) {
    (void)env;
    aliquot_ring_bell();
}

static void *observe(void *argument) {
    prctl(PR_SET_NAME, "aliquot");
    /* The kernel would wake it up to 50 us late, while the device stands still. */
    prctl(PR_SET_TIMERSLACK, 1ul);
    aliquot_observe(atomic_load_explicit(&limiter, memory_order_acquire),
                    (uint32_t)(uintptr_t)argument);
    return NULL;
}

/* All signals are the program's: none is ever delivered to this thread. */
static bool seam_observer(void *env, struct aliquot_limiter *of, uint32_t device) {
    (void)env;
    (void)of;
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes))
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, OBSERVER_STACK);
    sigfillset(&all);
    bool started = false;
    if (!pthread_sigmask(SIG_SETMASK, &all, &before)) {
        started = !pthread_create(&thread, &attributes, observe, (void *)(uintptr_t)device);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attributes);
    return started;
}

static int seam_device(void *env, const struct aliquot_launch *launch,
                       enum aliquot_lane_kind *kind) {
    (void)env;
    bool own = launch->lane & ALIQUOT_LANE_DEFAULT && launch->lane & ALIQUOT_LANE_OWN;
    *kind = own ? ALIQUOT_LANE_THREAD : ALIQUOT_LANE_PLAIN;
    return aliquot_marks_device(launch);
}

static bool seam_captured(void *env, const struct aliquot_launch *launch) {
    (void)env;
    return aliquot_vendor_captured(launch->lane);
}

static void *seam_mark(void *env, const struct aliquot_launch *launch) {
    (void)env;
    return aliquot_marks_put(launch);
}

static int seam_reached(void *env, void *mark, uint64_t *at_ns) {
    (void)env;
    return aliquot_marks_reached(mark, at_ns);
}

static void seam_drop(void *env, void *mark) {
    (void)env;
    aliquot_marks_drop(mark);
}

_Atomic unsigned char aliquot_aside;

static bool seam_aside(void *env) {
    (void)env;
    /* relaxed: a hint. Who sets it meanwhile is told of as one with who set it before. */
    bool aside = atomic_load_explicit(&aliquot_aside, memory_order_relaxed);
    if (aside)
        atomic_store_explicit(&aliquot_aside, 0, memory_order_relaxed);
    return aside;
}

static int seam_idle(void *env, uint64_t lane) {
    (void)env;
    return aliquot_marks_idle(lane);
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
    .aside = seam_aside,
    .idle = seam_idle,
};

/* -- The process' limiter, and its threads ----------------------------------------------------------- */

/* NULL: launches are not held back. */
static struct aliquot_limiter *get_limiter(void) {
    /* relaxed: whoever looks too early does once more what the process does no longer need. */
    if (atomic_load_explicit(&ended, memory_order_relaxed) || !aliquot_vendor_ready())
        return NULL;
    /* acquire: pairs with the release below. */
    struct aliquot_limiter *found = atomic_load_explicit(&limiter, memory_order_acquire);
    if (found)
        return found;
    aliquot_lock(&lock);
    found = atomic_load_explicit(&limiter, memory_order_relaxed);
    if (!found) {
        found = aliquot_limiter_new(&seam, NULL, aliquot_slice.grant, aliquot_slice.usage,
                                    aliquot_slice.slot);
        atomic_store_explicit(&limiter, found, memory_order_release);
    }
    aliquot_unlock(&lock);
    return found;
}

/* The limiter if there is one already, in this process and not only in the one it was forked from. */
static struct aliquot_limiter *have_limiter(void) {
    return aliquot_prepared() ? atomic_load_explicit(&limiter, memory_order_acquire) : NULL;
}

static void thread_ends(void *argument) {
    struct aliquot_thread *thread = argument;
    aliquot_self = NULL;
    /* (In a forked child it may be its parent's.) */
    if (thread->limiter)
        aliquot_thread_end(thread);
    munmap(thread, sizeof *thread);
}

static void make_key(void) { key_made = !pthread_key_create(&key, thread_ends); }

static struct aliquot_thread *begin_thread(struct aliquot_limiter *of) {
    pthread_once(&key_once, make_key);
    if (!key_made)
        return NULL;
    void *at = mmap(NULL, sizeof(struct aliquot_thread), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (madvise(at, sizeof(struct aliquot_thread), MADV_WIPEONFORK) ||
        pthread_setspecific(key, at)) {
        munmap(at, sizeof(struct aliquot_thread));
        return NULL;
    }
    aliquot_thread_begin(at, of);
    aliquot_self = at;
    return at;
}

struct aliquot_thread *aliquot_this_thread(void) {
    int saved = errno;
    struct aliquot_limiter *of = get_limiter();
    struct aliquot_thread *thread = aliquot_self;
    if (of && !thread)
        thread = begin_thread(of);
    else if (of && !thread->limiter)
        aliquot_thread_begin(thread, of);
    errno = saved;
    return of ? thread : NULL;
}

/* -- What else the limiter is told ----------------------------------------------------------------------- */

void aliquot_time_waited(void) {
    struct aliquot_limiter *of = have_limiter();
    if (of)
        aliquot_waited(of);
}

void aliquot_time_lane_leaves(uint64_t lane) {
    struct aliquot_limiter *of = have_limiter();
    if (of && lane)
        aliquot_limiter_forget_lane(of, lane, NULL, NULL);
}

void aliquot_time_lanes_leave(bool (*belongs)(void *context, uint64_t lane), void *context) {
    struct aliquot_limiter *of = have_limiter();
    if (of)
        aliquot_limiter_forget_lane(of, 0, belongs, context);
}

void aliquot_time_unloads(void) {
    struct aliquot_limiter *of = have_limiter();
    if (of)
        aliquot_limiter_forget_known(of);
}

void aliquot_time_what_leaves(uint64_t what) {
    struct aliquot_limiter *of = have_limiter();
    if (of)
        aliquot_limiter_forget_what(of, what);
}

void aliquot_time_forget(void) {
    struct aliquot_limiter *old = atomic_load_explicit(&limiter, memory_order_relaxed);
    lock = (struct aliquot_lock){0};
    atomic_store_explicit(&limiter, NULL, memory_order_relaxed);
    if (old)
        aliquot_limiter_free(old);
    aliquot_marks_forget();
}

/* The driver ends after us, since we need it: until then its calls are sound. */
__attribute__((destructor)) static void leave(void) {
    atomic_store_explicit(&ended, true, memory_order_relaxed);
    aliquot_marks_end();
}
