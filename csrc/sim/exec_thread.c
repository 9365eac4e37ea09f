/* The threads of the engine: one that looks when nobody else would in time, one that moves large
 * amounts of bytes, one that calls the application's host functions. Each starts when it is first
 * needed, blocks all signals, and is gone in a forked child, where no call gets this far. */
#include "exec_impl.h"

#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void sim_futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until_ns) {
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                             .tv_nsec = (long)(until_ns % 1000000000u)};
    /* The bit-set form takes an absolute time on CLOCK_MONOTONIC. */
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value,
            until_ns == SIM_NEVER ? NULL : &until, NULL, FUTEX_BITSET_MATCH_ANY);
}

void sim_futex_wake(_Atomic uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static bool start_thread(void *(*body)(void *), void *arg) {
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attributes, body, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error != 0)
        sim_log("no thread for the engine: %s", strerror(error));
    return error == 0;
}

/* ---- The thread that looks ----------------------------------------------------------------- */

/* Lowers the deadline; true when it was later. */
static bool lower_deadline(uint64_t when_ns) {
    uint64_t present = atomic_load_explicit(&sim_engine.deadline_ns, memory_order_relaxed);
    while (when_ns < present) {
        /* Release: pairs with the acquire in the engine's thread; it has no data to guard but the
         * bell, which follows. */
        if (atomic_compare_exchange_weak_explicit(&sim_engine.deadline_ns, &present, when_ns,
                                                  memory_order_release, memory_order_relaxed))
            return true;
    }
    return false;
}

static void *look_when_needed(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "sim-engine");
    prctl(PR_SET_TIMERSLACK, 1L);
    for (;;) {
        uint32_t rung = atomic_load_explicit(&sim_engine.bell, memory_order_acquire);
        uint64_t deadline_ns = atomic_load_explicit(&sim_engine.deadline_ns, memory_order_acquire);
        if (sim_now_ns() < deadline_ns) {
            sim_futex_wait(&sim_engine.bell, rung, sim_engine_sweep(deadline_ns));
            continue;
        }
        /* From here on whoever queues sets a deadline of its own. */
        atomic_store_explicit(&sim_engine.deadline_ns, SIM_NEVER, memory_order_relaxed);
        sim_engine_lock();
        uint64_t need_ns = sim_engine_advance();
        sim_engine_unlock();
        lower_deadline(need_ns);
    }
    return NULL;
}

static void start_looking(void) { start_thread(look_when_needed, NULL); }

void sim_engine_need(uint64_t when_ns) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!lower_deadline(when_ns))
        return;
    pthread_once(&once, start_looking);
    atomic_fetch_add_explicit(&sim_engine.bell, 1, memory_order_release);
    sim_futex_wake(&sim_engine.bell, 1);
}

/* ---- Threads that do one thing after another ----------------------------------------------- */

/* Items in state AWAY, linked by `next`, in the hands of one thread. All E but the bell. */
struct worker {
    const char *name;
    void (*work)(struct sim_op *op);
    struct sim_item *first, *last;
    bool started;
    _Atomic uint32_t bell; /* futex; release by who hands over, under the engine's lock */
};

static void *work_off(void *arg) {
    struct worker *worker = arg;
    prctl(PR_SET_NAME, worker->name);
    sim_engine_lock();
    for (;;) {
        struct sim_item *item = worker->first;
        if (item == NULL) {
            uint32_t rung = atomic_load_explicit(&worker->bell, memory_order_acquire);
            sim_engine_unlock();
            sim_futex_wait(&worker->bell, rung, SIM_NEVER);
            sim_engine_lock();
            continue;
        }
        worker->first = item->next;
        struct sim_op *op = item->op;
        sim_engine_unlock();
        worker->work(op);
        sim_engine_lock();
        sim_engine_report(item);
        uint64_t need_ns = sim_engine_advance();
        sim_engine_unlock();
        sim_engine_need(need_ns);
        sim_engine_lock();
    }
    return NULL;
}

static bool hand_over(struct worker *worker, struct sim_item *item) {
    if (!worker->started && !start_thread(work_off, worker))
        return false;
    worker->started = true;
    item->next = NULL;
    if (worker->first == NULL)
        worker->first = item;
    else
        worker->last->next = item;
    worker->last = item;
    atomic_fetch_add_explicit(&worker->bell, 1, memory_order_release);
    sim_futex_wake(&worker->bell, 1);
    return true;
}

static void move_bytes(struct sim_op *op) {
    sim_effect(op);
    if (atomic_load_explicit(&sim_engine.words, memory_order_relaxed) != 0)
        sim_engine_written();
}

_Thread_local bool sim_in_host_function __attribute__((tls_model("initial-exec")));

static void call_host(struct sim_op *op) {
    sim_in_host_function = true;
    if (op->call.callback != NULL)
        op->call.callback(op->call.handle, CUDA_SUCCESS, op->call.arg);
    else
        op->call.fn(op->call.arg);
    sim_in_host_function = false;
}

bool sim_thread_copy(struct sim_item *item) {
    static struct worker worker = {.name = "sim-copy", .work = move_bytes};
    return hand_over(&worker, item);
}

bool sim_thread_host(struct sim_item *item) {
    static struct worker worker = {.name = "sim-host", .work = call_host};
    return hand_over(&worker, item);
}

/* ---- Dead processes ------------------------------------------------------------------------ */

uint64_t sim_engine_sweep(uint64_t until_ns) {
    enum { INTERVAL_NS = 20000000 };
    static _Atomic uint64_t last_ns;
    bool alone = true;
    for (int dev = 0; dev < SIM_DEVICES_MAX && alone; dev++)
        alone =
            sim_engine_alone(&sim_engine.devices[dev]) ||
            atomic_load_explicit(&sim_engine.devices[dev].unfinished, memory_order_relaxed) == 0;
    uint64_t now_ns = sim_now_ns();
    if (alone || until_ns <= now_ns)
        return until_ns;
    /* One that was killed keeps its turns until somebody finds it dead. */
    uint64_t last = atomic_load_explicit(&last_ns, memory_order_relaxed);
    if (now_ns - last >= INTERVAL_NS &&
        atomic_compare_exchange_strong_explicit(&last_ns, &last, now_ns, memory_order_relaxed,
                                                memory_order_relaxed))
        sim_state_sweep(sim_state, false);
    return until_ns - now_ns > INTERVAL_NS ? now_ns + INTERVAL_NS : until_ns;
}
