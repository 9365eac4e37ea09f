/* Tries the shared timeline by itself: on a clock of its own, and with holders that are killed. */
#include "sim/timeline.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t state = 1;
static unsigned pick(unsigned below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % below;
}

static struct sim_timeline *shared_timeline(uint64_t slice_ns) {
    struct sim_timeline *timeline =
        mmap(NULL, sizeof *timeline, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(timeline != MAP_FAILED);
    sim_timeline_init(timeline, slice_ns);
    return timeline;
}

static uint64_t run_of(struct sim_timeline *timeline, int index, uint64_t now_ns) {
    struct sim_timeline_view view;
    sim_timeline_look(timeline, index, now_ns, &view);
    return view.run_ns;
}

/* ---- The model ----------------------------------------------------------------------------- */

static void turns(void) {
    struct sim_timeline *timeline = shared_timeline(2 * MS);
    struct sim_timeline_view view;
    int a = sim_timeline_join(timeline, 10), b = sim_timeline_join(timeline, 11);
    CHECK(a != b && sim_timeline_join(timeline, 10) == a);
    sim_timeline_demand(timeline, a, 100 * MS, 100 * MS, 10 * MS, &view);
    sim_timeline_demand(timeline, b, 100 * MS, 100 * MS, 5 * MS, &view);
    CHECK(sim_timeline_predict(timeline, a, 4 * MS) == 106 * MS);
    CHECK(sim_timeline_predict(timeline, b, 2 * MS) == 104 * MS);
    CHECK(sim_timeline_predict(timeline, b, 5 * MS) == 111 * MS);
    CHECK(run_of(timeline, a, 101 * MS) == 1 * MS);
    CHECK(run_of(timeline, b, 103 * MS) == 1 * MS);
    CHECK(run_of(timeline, b, 111 * MS) == 5 * MS);
    CHECK(run_of(timeline, a, 111 * MS) == 6 * MS);
    CHECK(run_of(timeline, a, 115 * MS) == 10 * MS);
    CHECK(run_of(timeline, a, 200 * MS) == 10 * MS);
    CHECK(timeline->busy_ns == 15 * MS);
    /* Work that is wanted since a time when the device was idle is dated back. */
    sim_timeline_demand(timeline, b, 300 * MS, 250 * MS, 25 * MS, &view);
    CHECK(view.run_ns == 25 * MS);
    CHECK(view.knots[0].real_ns == 250 * MS && view.knots[1].real_ns == 270 * MS);
    /* But not over what others did meanwhile. */
    sim_timeline_demand(timeline, a, 310 * MS, 305 * MS, 20 * MS, &view);
    sim_timeline_demand(timeline, b, 311 * MS, 300 * MS, 35 * MS, &view);
    CHECK(view.run_ns <= 25 * MS + 1 * MS);
    /* Less than before takes back what has not been run. */
    sim_timeline_demand(timeline, b, 311 * MS, 311 * MS, 0, &view);
    CHECK(run_of(timeline, b, 400 * MS) == view.run_ns);
    sim_timeline_leave(timeline, 10);
    sim_timeline_leave(timeline, 10);
    CHECK(sim_timeline_join(timeline, 12) == a && run_of(timeline, a, 400 * MS) == 0);
}

static void places(void) {
    struct sim_timeline *timeline = shared_timeline(0);
    for (uint32_t i = 0; i < SIM_TIMELINE_ENTRIES; i++)
        CHECK(sim_timeline_join(timeline, i + 1) >= 0);
    CHECK(sim_timeline_join(timeline, 5000) == -1);
    sim_timeline_leave(timeline, 7);
    CHECK(sim_timeline_join(timeline, 5000) >= 0);
}

/* Reads of one entry's clock, put together from what each look gives. */
struct clock {
    struct sim_knot last;
    uint64_t demand_ns;
};

static void follow(struct clock *clock, const struct sim_timeline_view *view) {
    for (uint32_t i = 0; i < view->knot_count; i++) {
        const struct sim_knot *knot = &view->knots[i];
        if (knot->real_ns <= clock->last.real_ns) {
            /* The model went back over idle time, in which the clock stood still. */
            CHECK(knot->run_ns == clock->last.run_ns || knot->real_ns == clock->last.real_ns);
            clock->last.real_ns = knot->real_ns;
            continue;
        }
        CHECK(knot->run_ns >= clock->last.run_ns);
        CHECK(knot->run_ns - clock->last.run_ns <= knot->real_ns - clock->last.real_ns);
        clock->last = *knot;
    }
    CHECK(clock->last.run_ns == view->run_ns);
}

/* Random demands: the device is never idle while one has work, and nobody gets more than a slice
 * more than another that wanted it all the time. */
static void fairness(void) {
    enum { COUNT = 5 };
    for (int round = 0; round < 200; round++) {
        struct sim_timeline *timeline = shared_timeline(2 * MS);
        struct clock clocks[COUNT] = {0};
        struct sim_timeline_view view;
        int entry[COUNT];
        uint64_t now = 1000 * MS, wanted = 0;
        for (int i = 0; i < COUNT; i++)
            entry[i] = sim_timeline_join(timeline, (uint32_t)i);
        uint64_t all = MS * (20 + pick(100));
        for (int i = 0; i < COUNT; i++) {
            clocks[i].demand_ns = all;
            wanted += all;
            sim_timeline_demand(timeline, entry[i], now, now, all, &view);
            follow(&clocks[i], &view);
        }
        uint64_t end = now + wanted;
        while (now < end) {
            now += pick(5000000);
            uint64_t least = UINT64_MAX, most = 0, sum = 0;
            for (int i = 0; i < COUNT; i++) {
                uint64_t run = run_of(timeline, entry[i], now);
                least = run < least ? run : least;
                most = run > most ? run : most;
                sum += run;
            }
            CHECK(most - least <= 2 * MS);
            CHECK(sum == (now < end ? now - (end - wanted) : wanted));
        }
        munmap(timeline, sizeof *timeline);
    }
}

static void random_demands(void) {
    enum { COUNT = 8 };
    for (int round = 0; round < 50; round++) {
        struct sim_timeline *timeline = shared_timeline(MS * (1 + pick(4)));
        struct clock clocks[COUNT] = {0};
        struct sim_timeline_view view;
        int entry[COUNT];
        uint64_t now = 1000 * MS;
        for (int i = 0; i < COUNT; i++)
            entry[i] = sim_timeline_join(timeline, (uint32_t)i);
        for (int step = 0; step < 5000; step++) {
            int i = (int)pick(COUNT);
            now += pick(3) == 0 ? pick(20000000) : pick(100000);
            if (pick(2) == 0) {
                sim_timeline_look(timeline, entry[i], now, &view);
            } else {
                uint64_t more = pick(4) == 0 ? pick(30000000) : pick(200000);
                clocks[i].demand_ns = clocks[i].last.run_ns + more + pick(50000);
                sim_timeline_demand(timeline, entry[i], now, now - pick(1000000),
                                    clocks[i].demand_ns, &view);
            }
            follow(&clocks[i], &view);
            CHECK(view.now_ns == now);
            uint64_t at = sim_timeline_predict(timeline, entry[i], view.run_ns + pick(9000000));
            CHECK(at >= now);
        }
        uint64_t sum = 0;
        for (int i = 0; i < COUNT; i++)
            sum += run_of(timeline, entry[i], now);
        CHECK(sum == timeline->busy_ns);
        munmap(timeline, sizeof *timeline);
    }
}

/* ---- Holders die --------------------------------------------------------------------------- */

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void churn(struct sim_timeline *timeline, uint32_t owner) {
    struct sim_timeline_view view = {0};
    int entry = sim_timeline_join(timeline, owner);
    state = owner;
    for (;;) {
        uint64_t now = clock_ns();
        if (pick(2) == 0)
            sim_timeline_look(timeline, entry, now, &view);
        else
            sim_timeline_demand(timeline, entry, now, now, view.run_ns + pick(300000), &view);
        if (pick(100) == 0) {
            sim_timeline_leave(timeline, owner);
            entry = sim_timeline_join(timeline, owner);
            view.run_ns = 0;
        }
    }
}

static void kills(int count) {
    struct sim_timeline *timeline = shared_timeline(50000);
    uint64_t start = clock_ns();
    int own = sim_timeline_join(timeline, 9999);
    pid_t children[3] = {0};
    for (int i = 0; i < count + 3; i++) {
        int place = i % 3;
        if (children[place] != 0) {
            kill(children[place], SIGKILL);
            waitpid(children[place], NULL, 0);
            sim_timeline_leave(timeline, (uint32_t)(i - 3 + 1));
        }
        if (i < count) {
            children[place] = fork();
            if (children[place] == 0)
                churn(timeline, (uint32_t)i + 1);
        }
        nanosleep(&(struct timespec){.tv_nsec = pick(2000000)}, NULL);
        struct sim_timeline_view view;
        sim_timeline_look(timeline, own, clock_ns(), &view);
        sim_timeline_demand(timeline, own, view.now_ns, view.now_ns, view.run_ns + pick(1000),
                            &view);
        CHECK(timeline->busy_ns <= clock_ns() - start);
    }
    for (uint32_t i = 0; i < SIM_TIMELINE_ENTRIES; i++)
        CHECK(timeline->entries[i].owner == SIM_TIMELINE_NONE ||
              timeline->entries[i].owner == 9999);
}

/* ---- Usage: exact on a clock of its own -------------------------------------------------------- */

static struct sim_usage usage_of(struct sim_timeline *timeline, uint32_t owner, uint64_t now_ns,
                                 uint64_t since_ns) {
    struct sim_usage usage;
    sim_timeline_usage(timeline, owner, now_ns, since_ns, &usage);
    return usage;
}

static void usage(void) {
    struct sim_timeline *timeline = shared_timeline(2 * MS);
    struct sim_timeline_view view;
    int a = sim_timeline_join(timeline, 10), b = sim_timeline_join(timeline, 11);
    /* After an hour in which nobody looked, 300 ms of work, and nobody looks until it is over. */
    uint64_t start = 3600000 * MS;
    sim_timeline_demand(timeline, a, start, start, 300 * MS, &view);
    struct sim_usage found = usage_of(timeline, SIM_TIMELINE_NONE, start + 950 * MS, 0);
    CHECK(found.length_ns == 1000 * MS && found.end_ns == start + 900 * MS);
    CHECK(found.run_ns == 300 * MS && found.copy_ns == 0);
    CHECK(usage_of(timeline, 10, start + 950 * MS, 0).run_ns == 300 * MS);
    CHECK(usage_of(timeline, 11, start + 950 * MS, 0).run_ns == 0);
    /* What is past by more than the window counts no more, and what was seen is not seen again. */
    CHECK(usage_of(timeline, 10, start + 1150 * MS, 0).run_ns == 200 * MS);
    CHECK(usage_of(timeline, 10, start + 1300 * MS, 0).run_ns == 0);
    CHECK(usage_of(timeline, 10, start + 1350 * MS, start + 1300 * MS).length_ns == 0);
    CHECK(usage_of(timeline, 10, start + 1400 * MS, start + 1300 * MS).length_ns == 100 * MS);
    CHECK(usage_of(timeline, 99, start + 1400 * MS, 0).run_ns == 0);
    /* Two in turn have half of a device that is never idle. */
    start += 10000 * MS;
    sim_timeline_demand(timeline, a, start, start, 10300 * MS, &view);
    sim_timeline_demand(timeline, b, start, start, 10000 * MS, &view);
    CHECK(usage_of(timeline, SIM_TIMELINE_NONE, start + 2000 * MS, 0).run_ns == 1000 * MS);
    CHECK(usage_of(timeline, 10, start + 2000 * MS, 0).run_ns == 500 * MS);
    CHECK(usage_of(timeline, 11, start + 2000 * MS, 0).run_ns == 500 * MS);
    sim_timeline_leave(timeline, 10);
    sim_timeline_leave(timeline, 11);
}

static void copies(void) {
    struct sim_timeline *timeline = shared_timeline(2 * MS);
    uint64_t start = 7200000 * MS;
    int a = sim_timeline_join(timeline, 10), b = sim_timeline_join(timeline, 11);
    /* A copy counts as far as it has come; two of one process at once count once. */
    sim_timeline_copied(timeline, a, start, start, start + 5000 * MS);
    sim_timeline_copied(timeline, a, start, start, start + 4000 * MS);
    CHECK(usage_of(timeline, 10, start + 500 * MS, 0).copy_ns == 500 * MS);
    CHECK(usage_of(timeline, 10, start + 3000 * MS, 0).copy_ns == 1000 * MS);
    CHECK(usage_of(timeline, 10, start + 5500 * MS, 0).copy_ns == 500 * MS);
    CHECK(usage_of(timeline, 10, start + 5500 * MS, 0).run_ns == 0);
    CHECK(timeline->entries[a].copy_ns == 5000 * MS);
    /* One after a gap, told when it is over. */
    sim_timeline_copied(timeline, a, start + 9000 * MS, start + 8300 * MS, start + 8400 * MS);
    CHECK(usage_of(timeline, 10, start + 9000 * MS, 0).copy_ns == 100 * MS);
    /* Copies of two processes add up to all of the time at most. */
    start += 20000 * MS;
    sim_timeline_copied(timeline, a, start, start, start + 1000 * MS);
    sim_timeline_copied(timeline, b, start, start + 500 * MS, start + 1000 * MS);
    CHECK(usage_of(timeline, SIM_TIMELINE_NONE, start + 1000 * MS, 0).copy_ns == 1000 * MS);
    CHECK(usage_of(timeline, 11, start + 1000 * MS, 0).copy_ns == 500 * MS);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "kills") == 0) {
        kills(atoi(argv[2]));
        return 0;
    }
    turns();
    places();
    fairness();
    random_demands();
    usage();
    copies();
    return 0;
}
