/* The thread. Looking and telling are in look.c, who is there in runner_join.c. See runner.h. */
#include "runner_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    EVENTS = 64,
    CHANGES = 256,
    /* The arbiter is asked again until nothing changes; it always comes to that. */
    MOST_STEPS = 64,
    /* What the kernel tells us of, beside the numbers of containers. */
    TIMER = INT32_MAX,
    COMMAND = INT32_MAX - 1,
};

/* -- What is due -------------------------------------------------------------------------------- */

static bool watched(const struct aliquot_runner *runner, const struct container *container) {
    for (uint32_t i = 0; i < container->column_count; i++)
        if (aliquot_arbiter_watched(runner->arbiter, container->column[i].member))
            return true;
    return false;
}

uint32_t runner_bell_events(const struct aliquot_runner *runner) {
    return runner->edges ? EPOLLIN | EPOLLET : EPOLLIN;
}

static uint64_t soonest(uint64_t a, uint64_t b) { return a < b ? a : b; }

void runner_note(struct aliquot_runner *runner, struct container *container) {
    if (container->noted)
        return;
    container->noted = true;
    container->next = runner->news;
    runner->news = container;
}

static void listen_to(struct aliquot_runner *runner, struct container *container, bool on) {
    struct epoll_event event = {.events = on ? runner_bell_events(runner) : 0,
                                .data.u64 = container->number};
    epoll_ctl(runner->epoll, EPOLL_CTL_MOD, container->bell, &event);
    container->deaf = !on;
}

/* Has the container looked at; one that rings too often is not heard for a while. */
static void rung(struct aliquot_runner *runner, struct container *container, uint64_t now) {
    if (container->listen_ns > now + LISTEN_AHEAD * LISTEN_NS) {
        listen_to(runner, container, false);
        runner->tend_ns = soonest(runner->tend_ns, container->listen_ns);
        return;
    }
    /* It holds no more than that: see aliquot_runner_add. */
    char bytes[4096];
    if (!runner->edges || ++container->rings >= RINGS) {
        (void)!read(container->bell, bytes, sizeof bytes);
        container->rings = 0;
    }
    container->rung = true;
    if (!aliquot_arbiter_rang(runner->arbiter, container->column[0].member, now))
        runner_note(runner, container);
}

/* Looks at a container, and has it pay for the time. */
static void look(struct aliquot_runner *runner, struct container *container) {
    bool pays = container->rung;
    uint64_t now = runner_now();
    container_look(container, runner->arbiter, now);
    if (container->again_ns < runner->doubt_ns && watched(runner, container))
        runner->doubt_ns = container->again_ns;
    if (!pays)
        return;
    uint64_t cost = (runner_now() - now) * LISTEN_COST;
    container->listen_ns = container->listen_ns > now ? container->listen_ns : now;
    container->listen_ns += cost > LISTEN_NS ? cost : LISTEN_NS;
}

/* Whether it is time to look at it. */
static bool is_due(const struct aliquot_runner *runner, const struct container *container,
                   uint64_t now) {
    bool doubted = now >= container->again_ns;
    for (uint32_t i = 0; i < container->column_count; i++) {
        int member = container->column[i].member;
        if (aliquot_arbiter_due(runner->arbiter, member, now) ||
            (doubted && aliquot_arbiter_watched(runner->arbiter, member)))
            return true;
    }
    return false;
}

static void note_due(struct aliquot_runner *runner, uint64_t now) {
    for (uint32_t i = 0; i < runner->container_room; i++)
        if (runner->container[i] && is_due(runner, runner->container[i], now))
            runner_note(runner, runner->container[i]);
}

static void look_at_news(struct aliquot_runner *runner) {
    for (struct container *one; (one = runner->news);) {
        runner->news = one->next;
        one->noted = false;
        look(runner, one);
    }
}

/* Looks, has the arbiter decide and writes gates until nothing changes. Returns when the arbiter
 * wants to be asked again. */
static uint64_t decide(struct aliquot_runner *runner) {
    uint64_t next = NEVER;
    struct aliquot_gate_change change[CHANGES];
    for (uint32_t step = 0; step < MOST_STEPS; step++) {
        look_at_news(runner);
        uint64_t now = runner_now();
        uint32_t count = aliquot_arbiter_step(runner->arbiter, now, change, CHANGES, &next);
        bool again = count == CHANGES;
        for (uint32_t i = 0; i < count; i++) {
            struct container *one = runner->owner[change[i].member];
            column_write(one, (uint32_t)(change[i].member - one->column[0].member), change[i].gate);
            /* It is watched from now on, and a word that was true when it waited may well stand a while. */
            if (one->again_ns < now + OPENED_DOUBT_NS)
                one->again_ns = now + OPENED_DOUBT_NS;
            runner->doubt_ns = soonest(runner->doubt_ns, one->again_ns);
            /* What was closed is looked at; what was opened rings. */
            if (one->told)
                runner_note(runner, one);
            again |= one->told;
        }
        if (!again)
            return next;
    }
    return 0;
}

static void beat(struct aliquot_runner *runner) {
    for (uint32_t i = 0; i < runner->container_room; i++)
        if (runner->container[i])
            /* relaxed: only its changing counts. */
            atomic_fetch_add_explicit(&runner->container[i]->grant->beat, 1, memory_order_relaxed);
}

void runner_read_account(struct aliquot_runner *runner, const struct column *column, uint64_t now,
                         struct aliquot_account *account) {
    aliquot_arbiter_read(runner->arbiter, now, column->member, account);
    /* Of who is alone nothing is seen. */
    if (aliquot_gate_state(column->gate) == ALIQUOT_GATE_FREE)
        account->wanted_permille = account->received_permille = ALIQUOT_UNKNOWN;
}

static void tell_figures(struct aliquot_runner *runner, uint64_t now) {
    for (uint32_t i = 0; i < runner->container_room; i++) {
        struct container *one = runner->container[i];
        for (uint32_t j = 0; one && j < one->column_count; j++) {
            struct aliquot_account account;
            runner_read_account(runner, &one->column[j], now, &account);
            column_tell(one, j, &account);
        }
        if (one) {
            one->rung = true;
            runner_note(runner, one);
        }
    }
}

/* What is to be done for a container at a time of its own; returns when the next such time is. */
static uint64_t tend(struct aliquot_runner *runner, struct container *container, uint64_t now) {
    uint64_t next = NEVER;
    if (container->bell < 0) {
        if (now >= container->listen_ns) {
            container->rung = true;
            runner_note(runner, container);
            container->listen_ns = now + NO_BELL_NS;
        }
        next = container->listen_ns;
    }
    if (container->deaf) {
        if (now >= container->listen_ns)
            listen_to(runner, container, true);
        else
            next = container->listen_ns;
    }
    return next;
}

static uint64_t tend_all(struct aliquot_runner *runner, uint64_t now) {
    uint64_t next = NEVER;
    for (uint32_t i = 0; i < runner->container_room; i++)
        if (runner->container[i])
            next = soonest(next, tend(runner, runner->container[i], now));
    return next;
}

static uint64_t soonest_doubt(const struct aliquot_runner *runner) {
    uint64_t next = NEVER;
    for (uint32_t i = 0; i < runner->container_room; i++) {
        const struct container *one = runner->container[i];
        if (one && one->again_ns != NEVER && watched(runner, one))
            next = soonest(next, one->again_ns);
    }
    return next;
}

/* -- The thread --------------------------------------------------------------------------------- */

/* Has the timer go off a little after `next`, or before: setting it costs as much as a few looks, and most
 * of what was to be looked at had rung before. */
static void arm(struct aliquot_runner *runner, uint64_t next, uint64_t now) {
    /* What is due already is due in a moment: others must be heard. */
    next = (next > now ? next : now) + SLACK_NS;
    if (runner->alarm_ns <= next && runner->alarm_ns > now + EARLY_NS)
        return;
    runner->alarm_ns = next;
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(next / 1000000000u),
                                         .tv_nsec = (long)(next % 1000000000u)}};
    timerfd_settime(runner->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Takes up what the kernel tells; returns whether anything follows from it. */
static bool hear(struct aliquot_runner *runner, const struct epoll_event *events, int count,
                 uint64_t now) {
    bool any = false;
    for (int i = 0; i < count; i++) {
        uint64_t number = events[i].data.u64, times;
        if (number == TIMER)
            (void)!read(runner->timer, &times, sizeof times);
        else if (number == COMMAND)
            runner->asked |= read(runner->command, &times, sizeof times) > 0;
        else if (number < runner->container_room && runner->container[number]) {
            rung(runner, runner->container[number], now);
            any |= runner->container[number]->rung || runner->container[number]->deaf;
        }
    }
    return any;
}

/* A device stands still while we wait for a processor, and a turn takes us some microseconds. A nice
 * value only counts among those of one control group (or session): that of a real-time thread counts
 * on the machine. Where the kernel gives none to our group, or we may not, the nice value has to do. */
static void go_first(void) {
    const struct sched_param least = {.sched_priority = 1};
    if (pthread_setschedparam(pthread_self(), SCHED_RR, &least))
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), -15);
}

static void *run(void *argument) {
    struct aliquot_runner *runner = argument;
    struct epoll_event events[EVENTS];
    uint64_t due_ns = 0;
    pthread_setname_np(pthread_self(), "aliquot-arbiter");
    go_first();
    for (bool ending = false; !ending;) {
        int count = epoll_wait(runner->epoll, events, EVENTS, -1);
        pthread_mutex_lock(&runner->lock);
        uint64_t now = runner_now();
        bool any = hear(runner, events, count, now);
        if (now >= runner->beat_ns) {
            beat(runner);
            runner->beat_ns = now + BEAT_NS;
        }
        if (now >= runner->figures_ns) {
            tell_figures(runner, now);
            runner->figures_ns = now + FIGURES_NS;
        }
        bool due = now >= due_ns || runner->asked;
        if ((any || due) && !runner->gathering) {
            runner->asked = false;
            if (due) {
                runner->tend_ns = tend_all(runner, now);
                note_due(runner, now);
            }
            due_ns = decide(runner);
            if (due)
                runner->doubt_ns = soonest_doubt(runner);
            due_ns = soonest(due_ns, soonest(runner->tend_ns, runner->doubt_ns));
            due_ns = soonest(due_ns, runner->figures_ns);
        }
        ending = runner->ending;
        arm(runner, soonest(runner->gathering ? NEVER : due_ns, runner->beat_ns), runner_now());
        pthread_mutex_unlock(&runner->lock);
    }
    return NULL;
}

void runner_call(struct aliquot_runner *runner) {
    uint64_t one = 1;
    (void)!write(runner->command, &one, sizeof one);
}

/* -- Starting and ending ------------------------------------------------------------------------ */

/* Whether a byte in a pipe that is not empty is told of. (Kernels from 5.5 to 5.13 did not.) */
static bool tells_each_edge(int epoll) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return false;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET}, told;
    bool each = epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event) == 0;
    for (int i = 0; i < 2; i++)
        each = each && write(ends[1], "", 1) == 1 && epoll_wait(epoll, &told, 1, 0) == 1;
    close(ends[0]);
    close(ends[1]);
    return each;
}

static int open_all(struct aliquot_runner *runner) {
    runner->epoll = epoll_create1(EPOLL_CLOEXEC);
    runner->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    runner->command = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    if (runner->epoll < 0 || runner->timer < 0 || runner->command < 0)
        return -errno;
    runner->edges = tells_each_edge(runner->epoll);
    struct epoll_event timer = {.events = EPOLLIN, .data.u64 = TIMER};
    struct epoll_event command = {.events = EPOLLIN, .data.u64 = COMMAND};
    if (epoll_ctl(runner->epoll, EPOLL_CTL_ADD, runner->timer, &timer) < 0 ||
        epoll_ctl(runner->epoll, EPOLL_CTL_ADD, runner->command, &command) < 0)
        return -errno;
    return 0;
}

static void free_all(struct aliquot_runner *runner) {
    for (uint32_t i = 0; i < runner->container_room; i++)
        if (runner->container[i])
            container_free(runner->container[i]);
    const int fds[] = {runner->epoll, runner->timer, runner->command};
    for (uint32_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (runner->arbiter)
        aliquot_arbiter_free(runner->arbiter);
    pthread_mutex_destroy(&runner->lock);
    free(runner->container);
    free(runner->owner);
    free(runner);
}

struct aliquot_runner *aliquot_runner_start(const struct aliquot_arbiter_settings *settings,
                                            int *error) {
    struct aliquot_runner *runner = calloc(1, sizeof *runner);
    *error = -ENOMEM;
    if (!runner)
        return NULL;
    runner->epoll = runner->timer = runner->command = -1;
    pthread_mutex_init(&runner->lock, NULL);
    runner->arbiter = aliquot_arbiter_new(settings);
    if (runner->arbiter)
        *error = open_all(runner);
    if (!*error) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        *error = -pthread_create(&runner->thread, NULL, run, runner);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (!*error)
        return runner;
    free_all(runner);
    return NULL;
}

void aliquot_runner_stop(struct aliquot_runner *runner) {
    pthread_mutex_lock(&runner->lock);
    runner->ending = true;
    runner_call(runner);
    pthread_mutex_unlock(&runner->lock);
    pthread_join(runner->thread, NULL);
    free_all(runner);
}

void aliquot_runner_gather(struct aliquot_runner *runner, bool on) {
    pthread_mutex_lock(&runner->lock);
    runner->gathering = on;
    runner_call(runner);
    pthread_mutex_unlock(&runner->lock);
}
