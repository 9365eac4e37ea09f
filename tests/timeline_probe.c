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

enum { SMS = 100 };

static struct sim_timeline *made(const struct sim_sharing *sharing) {
    struct sim_timeline *timeline =
        mmap(NULL, sizeof *timeline, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(timeline != MAP_FAILED);
    sim_timeline_init(timeline, sharing);
    return timeline;
}

static struct sim_timeline *shared_timeline(uint64_t slice_ns) {
    return made(&(struct sim_sharing){.slice_ns = slice_ns, .sms = SMS, .copy_engines = 2});
}

/* A process is known in turns by its owner's number. */
static int join(struct sim_timeline *timeline, uint32_t owner) {
    return sim_timeline_join(timeline, owner, owner);
}

static void demand(struct sim_timeline *timeline, int index, uint64_t now_ns, uint64_t since_ns,
                   uint64_t until_ns, struct sim_timeline_view *view) {
    sim_timeline_demand(timeline, index, now_ns,
                        &(struct sim_demand){.since_ns = since_ns, .until_ns = until_ns}, view);
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
    int a = join(timeline, 10), b = join(timeline, 11);
    CHECK(a != b && join(timeline, 10) == a);
    demand(timeline, a, 100 * MS, 100 * MS, 10 * MS, &view);
    demand(timeline, b, 100 * MS, 100 * MS, 5 * MS, &view);
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
    demand(timeline, b, 300 * MS, 250 * MS, 25 * MS, &view);
    CHECK(view.run_ns == 25 * MS);
    CHECK(view.knots[0].real_ns == 250 * MS && view.knots[1].real_ns == 270 * MS);
    /* But not over what others did meanwhile. */
    demand(timeline, a, 310 * MS, 305 * MS, 20 * MS, &view);
    demand(timeline, b, 311 * MS, 300 * MS, 35 * MS, &view);
    CHECK(view.run_ns <= 25 * MS + 1 * MS);
    /* Less than before takes back what has not been run. */
    demand(timeline, b, 311 * MS, 311 * MS, 0, &view);
    CHECK(run_of(timeline, b, 400 * MS) == view.run_ns);
    sim_timeline_leave(timeline, 10);
    sim_timeline_leave(timeline, 10);
    CHECK(join(timeline, 12) == a && run_of(timeline, a, 400 * MS) == 0);
}

static void places(void) {
    struct sim_timeline *timeline = shared_timeline(0);
    for (uint32_t i = 0; i < SIM_TIMELINE_ENTRIES; i++)
        CHECK(join(timeline, i + 1) >= 0);
    CHECK(join(timeline, 5000) == -1);
    sim_timeline_leave(timeline, 7);
    CHECK(join(timeline, 5000) >= 0);
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
            entry[i] = join(timeline, (uint32_t)i);
        uint64_t all = MS * (20 + pick(100));
        for (int i = 0; i < COUNT; i++) {
            clocks[i].demand_ns = all;
            wanted += all;
            demand(timeline, entry[i], now, now, all, &view);
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
            entry[i] = join(timeline, (uint32_t)i);
        for (int step = 0; step < 5000; step++) {
            int i = (int)pick(COUNT);
            now += pick(3) == 0 ? pick(20000000) : pick(100000);
            if (pick(2) == 0) {
                sim_timeline_look(timeline, entry[i], now, &view);
            } else {
                uint64_t more = pick(4) == 0 ? pick(30000000) : pick(200000);
                clocks[i].demand_ns = clocks[i].last.run_ns + more + pick(50000);
                demand(timeline, entry[i], now, now - pick(1000000), clocks[i].demand_ns, &view);
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
    int entry = join(timeline, owner);
    state = owner;
    for (;;) {
        uint64_t now = clock_ns();
        if (pick(2) == 0)
            sim_timeline_look(timeline, entry, now, &view);
        else
            sim_timeline_demand(timeline, entry, now,
                                &(struct sim_demand){now, view.run_ns + pick(300000), pick(SMS)},
                                &view);
        if (pick(100) == 0) {
            sim_timeline_leave(timeline, owner);
            entry = join(timeline, owner);
            view.run_ns = 0;
        }
    }
}

static void kills(int count, bool together) {
    struct sim_timeline *timeline = made(&(struct sim_sharing){
        .slice_ns = 50000, .switch_ns = 5000, .together = together, .sms = SMS});
    struct sim_turn turns[64];
    uint64_t first = 0, lost = 0;
    uint64_t start = clock_ns();
    int own = join(timeline, 9999);
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
        demand(timeline, own, view.now_ns, view.now_ns, view.run_ns + pick(1000), &view);
        CHECK(timeline->busy_ns + timeline->switched_ns <= clock_ns() - start);
        uint32_t read = sim_timeline_turns(timeline, clock_ns(), &first, turns, 64, &lost);
        for (uint32_t n = 0; n < read; n++) {
            CHECK(turns[n].since_ns <= turns[n].from_ns && turns[n].from_ns < turns[n].to_ns);
            CHECK(turns[n].from_ns >= start && turns[n].to_ns <= clock_ns());
            CHECK(turns[n].kind == SIM_TURN_RUN || (turns[n].kind == SIM_TURN_SWITCH && !together));
            CHECK(turns[n].to_run_ns - turns[n].from_run_ns <= turns[n].to_ns - turns[n].from_ns);
        }
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
    int a = join(timeline, 10), b = join(timeline, 11);
    /* After an hour in which nobody looked, 300 ms of work, and nobody looks until it is over. */
    uint64_t start = 3600000 * MS;
    demand(timeline, a, start, start, 300 * MS, &view);
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
    demand(timeline, a, start, start, 10300 * MS, &view);
    demand(timeline, b, start, start, 10000 * MS, &view);
    CHECK(usage_of(timeline, SIM_TIMELINE_NONE, start + 2000 * MS, 0).run_ns == 1000 * MS);
    CHECK(usage_of(timeline, 10, start + 2000 * MS, 0).run_ns == 500 * MS);
    CHECK(usage_of(timeline, 11, start + 2000 * MS, 0).run_ns == 500 * MS);
    sim_timeline_leave(timeline, 10);
    sim_timeline_leave(timeline, 11);
}

static uint64_t copy(struct sim_timeline *timeline, int index, uint64_t now_ns, uint64_t ready_ns,
                     uint64_t length_ns, enum sim_lane lane) {
    uint64_t start_ns;
    CHECK(sim_timeline_copy(timeline, index, now_ns, ready_ns, length_ns, lane, &start_ns));
    return start_ns;
}

static void copies(void) {
    struct sim_timeline *timeline = shared_timeline(2 * MS);
    uint64_t start = 7200000 * MS;
    int a = join(timeline, 10), b = join(timeline, 11);
    /* A copy counts as far as it has come; two of one process at once count once. */
    copy(timeline, a, start, start, 5000 * MS, SIM_LANE_TO_DEVICE);
    copy(timeline, a, start, start, 4000 * MS, SIM_LANE_TO_HOST);
    CHECK(usage_of(timeline, 10, start + 500 * MS, 0).copy_ns == 500 * MS);
    CHECK(usage_of(timeline, 10, start + 3000 * MS, 0).copy_ns == 1000 * MS);
    CHECK(usage_of(timeline, 10, start + 5500 * MS, 0).copy_ns == 500 * MS);
    CHECK(usage_of(timeline, 10, start + 5500 * MS, 0).run_ns == 0);
    CHECK(timeline->entries[a].copy_ns == 5000 * MS);
    /* One after a gap, told when it is over. */
    copy(timeline, a, start + 9000 * MS, start + 8300 * MS, 100 * MS, SIM_LANE_TO_DEVICE);
    CHECK(usage_of(timeline, 10, start + 9000 * MS, 0).copy_ns == 100 * MS);
    /* Copies of two processes add up to all of the time at most. */
    start += 20000 * MS;
    copy(timeline, a, start, start, 1000 * MS, SIM_LANE_TO_DEVICE);
    copy(timeline, b, start + 500 * MS, start + 500 * MS, 500 * MS, SIM_LANE_TO_HOST);
    CHECK(usage_of(timeline, SIM_TIMELINE_NONE, start + 1000 * MS, 0).copy_ns == 1000 * MS);
    CHECK(usage_of(timeline, 11, start + 1000 * MS, 0).copy_ns == 500 * MS);
}

/* A lane carries one copy at a time, and so does an engine; kernels run beside. */
static void engines(void) {
    struct sim_timeline *timeline = shared_timeline(2 * MS);
    struct sim_timeline_view view;
    uint64_t start = 1000 * MS, free_ns;
    int a = join(timeline, 10), b = join(timeline, 11);
    demand(timeline, b, start, start, 50 * MS, &view);
    CHECK(copy(timeline, a, start, start, 10 * MS, SIM_LANE_TO_DEVICE) == start);
    CHECK(!sim_timeline_copy(timeline, b, start, start, MS, SIM_LANE_TO_DEVICE, &free_ns));
    CHECK(free_ns == start + 10 * MS);
    CHECK(copy(timeline, b, start, start, 4 * MS, SIM_LANE_TO_HOST) == start);
    /* The third lane is free, but both engines are taken. */
    CHECK(!sim_timeline_copy(timeline, a, start, start, MS, SIM_LANE_PEER, &free_ns));
    CHECK(free_ns == start + 4 * MS);
    CHECK(copy(timeline, a, start + 5 * MS, start, MS, SIM_LANE_PEER) == start + 4 * MS);
    CHECK(copy(timeline, b, start + 20 * MS, start, MS, SIM_LANE_TO_DEVICE) == start + 10 * MS);
    /* The processors were b's all the time. */
    CHECK(run_of(timeline, b, start + 50 * MS) == 50 * MS);
    CHECK(run_of(timeline, a, start + 50 * MS) == 0);
}

/* ---- Going from one to another ------------------------------------------------------------- */

static void switches(void) {
    struct sim_timeline *timeline =
        made(&(struct sim_sharing){.slice_ns = 2 * MS, .switch_ns = MS / 2, .sms = SMS});
    struct sim_timeline_view view;
    int a = join(timeline, 10), b = join(timeline, 11);
    uint64_t start = 1000 * MS;
    /* 0.5 switch, 2 a, 0.5 switch, 2 b, 0.5 switch, 2 a, 0.5 switch, 1 b, 0.5 switch, 3 a. */
    demand(timeline, a, start, start, 7 * MS, &view);
    demand(timeline, b, start, start, 3 * MS, &view);
    CHECK(sim_timeline_predict(timeline, a, 2 * MS) == start + 2 * MS + MS / 2);
    CHECK(sim_timeline_predict(timeline, a, 3 * MS) == start + 6 * MS + MS / 2);
    CHECK(sim_timeline_predict(timeline, a, 7 * MS) == start + 12 * MS + MS / 2);
    CHECK(sim_timeline_predict(timeline, b, 3 * MS) == start + 9 * MS);
    CHECK(run_of(timeline, a, start + MS / 4) == 0);
    CHECK(run_of(timeline, a, start + MS / 2) == 0);
    CHECK(run_of(timeline, a, start + MS) == MS / 2);
    CHECK(run_of(timeline, b, start + 3 * MS) == 0);
    CHECK(sim_timeline_predict(timeline, b, 3 * MS) == start + 9 * MS);
    CHECK(sim_timeline_predict(timeline, a, 7 * MS) == start + 12 * MS + MS / 2);
    CHECK(run_of(timeline, b, start + 9 * MS) == 3 * MS);
    CHECK(run_of(timeline, a, start + 12 * MS) == 6 * MS + MS / 2);
    CHECK(run_of(timeline, a, start + 20 * MS) == 7 * MS);
    CHECK(timeline->busy_ns == 10 * MS && timeline->switched_ns == 5 * MS / 2);
    CHECK(timeline->idle_ns == start + 12 * MS + MS / 2);
    /* One that comes back alone needs none; another one does, also on an idle device. */
    demand(timeline, a, start + 30 * MS, start + 30 * MS, 8 * MS, &view);
    CHECK(sim_timeline_predict(timeline, a, 8 * MS) == start + 31 * MS);
    CHECK(run_of(timeline, a, start + 31 * MS) == 8 * MS);
    demand(timeline, b, start + 40 * MS, start + 35 * MS, 4 * MS, &view);
    CHECK(view.run_ns == 4 * MS && view.knots[0].real_ns == start + 35 * MS + MS / 2);
    CHECK(timeline->switched_ns == 3 * MS);
}

/* What is foretold comes about, whatever there was before, when nobody comes or goes. */
static void foretold(bool together) {
    for (int round = 0; round < 2000; round++) {
        enum { COUNT = 5 };
        struct sim_timeline *timeline = made(&(struct sim_sharing){.slice_ns = MS * (1 + pick(3)),
                                                                   .switch_ns = pick(700000),
                                                                   .together = together,
                                                                   .sms = SMS});
        struct sim_timeline_view view;
        uint64_t now = 1000 * MS, wanted[COUNT], at[COUNT];
        int entry[COUNT];
        for (int i = 0; i < COUNT; i++) {
            entry[i] = join(timeline, (uint32_t)i + 1);
            wanted[i] = 1 + pick(20000000);
        }
        for (int i = 0; i < COUNT; i++) {
            now += pick(2) == 0 ? pick(3000000) : 0;
            sim_timeline_demand(timeline, entry[i], now,
                                &(struct sim_demand){now, wanted[i], 1 + pick(SMS)}, &view);
        }
        for (int i = 0; i < COUNT; i++)
            at[i] = sim_timeline_predict(timeline, entry[i], wanted[i]);
        for (int i = 0; i < COUNT; i++) {
            if (at[i] <= now)
                continue; /* had it already */
            int next = i; /* in the order in which they end */
            for (int j = 0; j < COUNT; j++)
                if (at[j] > now && at[j] < at[next])
                    next = j;
            now = at[next];
            uint64_t early = together ? COUNT : 1; /* paces are rounded once for each change */
            CHECK(run_of(timeline, entry[next], now - early) < wanted[next]);
            CHECK(run_of(timeline, entry[next], now + (together ? COUNT : 0)) == wanted[next]);
            i = -1;
        }
        munmap(timeline, sizeof *timeline);
    }
}

/* ---- Together ------------------------------------------------------------------------------ */

static void want(struct sim_timeline *timeline, int index, uint64_t now_ns, uint64_t until_ns,
                 uint32_t sms) {
    struct sim_timeline_view view;
    sim_timeline_demand(timeline, index, now_ns, &(struct sim_demand){now_ns, until_ns, sms},
                        &view);
}

static void together(void) {
    struct sim_timeline *timeline =
        made(&(struct sim_sharing){.slice_ns = 2 * MS, .switch_ns = MS, .together = 1, .sms = SMS});
    uint64_t start = 1000 * MS;
    int a = join(timeline, 10), b = join(timeline, 11), c = join(timeline, 12);
    /* As long as they fit side by side, none slows another down. */
    want(timeline, a, start, 20 * MS, 60);
    want(timeline, b, start, 10 * MS, 40);
    CHECK(sim_timeline_predict(timeline, a, 20 * MS) == start + 20 * MS);
    CHECK(run_of(timeline, a, start + 5 * MS) == 5 * MS);
    CHECK(run_of(timeline, b, start + 5 * MS) == 5 * MS);
    /* A third one that wants all of it: twice as much as there is, so that all go at half pace. */
    want(timeline, c, start + 5 * MS, 30 * MS, 100);
    CHECK(sim_timeline_predict(timeline, b, 10 * MS) == start + 15 * MS);
    CHECK(run_of(timeline, a, start + 15 * MS) == 10 * MS);
    CHECK(run_of(timeline, b, start + 15 * MS) == 10 * MS);
    CHECK(run_of(timeline, c, start + 15 * MS) == 5 * MS);
    /* Two are left, who want 160 of 100. */
    CHECK(run_of(timeline, a, start + 31 * MS) == 20 * MS);
    CHECK(run_of(timeline, c, start + 31 * MS) == 15 * MS);
    CHECK(run_of(timeline, c, start + 46 * MS) == 30 * MS);
    CHECK(timeline->busy_ns == 46 * MS && timeline->switched_ns == 0);
    /* How often somebody looks makes no difference. */
    struct sim_timeline *other = made(&(struct sim_sharing){.together = 1, .sms = SMS});
    for (int i = 0; i < 3; i++) {
        join(other, (uint32_t)i + 1);
        want(other, i, start, 100 * MS, 70 + (uint32_t)i);
    }
    uint64_t now = start;
    while (now < start + 200 * MS) {
        now += 1 + pick(100000);
        CHECK(run_of(other, 0, now) ==
              (now < start + 213 * MS ? (now - start) * 100 / 213 : 100 * MS));
    }
}

/* ---- Turns --------------------------------------------------------------------------------- */

static void told(void) {
    struct sim_timeline *timeline = made(&(struct sim_sharing){
        .slice_ns = 2 * MS, .switch_ns = MS / 2, .sms = SMS, .copy_engines = 3});
    struct sim_timeline_view view;
    static struct sim_turn turns[SIM_TURNS_KEPT + 1];
    uint64_t start = 1000 * MS, first = 0, lost = 0;
    int a = join(timeline, 10), b = join(timeline, 11);
    demand(timeline, a, start, start, 7 * MS, &view);
    demand(timeline, b, start, start, 3 * MS, &view);
    copy(timeline, b, start, start, 9 * MS, SIM_LANE_TO_HOST);
    /* However it is looked at, and read in the middle of a turn. */
    for (uint64_t now = start; now < start + 5 * MS; now += 1 + pick(200000))
        run_of(timeline, a, now);
    uint32_t count = sim_timeline_turns(timeline, start + 6 * MS, &first, turns, 3, &lost);
    CHECK(count == 3 && first == 3);
    count += sim_timeline_turns(timeline, start + 6 * MS, &first, turns + 3, 100, &lost);
    count += sim_timeline_turns(timeline, start + 50 * MS, &first, turns + count, 100, &lost);
    static const struct {
        uint32_t process;
        uint8_t kind;
        unsigned from, to; /* half milliseconds */
    } wanted[] = {
        {11, SIM_TURN_COPY, 0, 18},  {10, SIM_TURN_SWITCH, 0, 1},   {10, SIM_TURN_RUN, 1, 5},
        {11, SIM_TURN_SWITCH, 5, 6}, {11, SIM_TURN_RUN, 6, 10},     {10, SIM_TURN_SWITCH, 10, 11},
        {10, SIM_TURN_RUN, 11, 12},  {10, SIM_TURN_RUN, 12, 15},    {11, SIM_TURN_SWITCH, 15, 16},
        {11, SIM_TURN_RUN, 16, 18},  {10, SIM_TURN_SWITCH, 18, 19}, {10, SIM_TURN_RUN, 19, 25},
    };
    CHECK(count == sizeof wanted / sizeof *wanted && lost == 0);
    uint64_t ran = 0, switched = 0;
    for (uint32_t i = 0; i < count; i++) {
        CHECK(turns[i].process == wanted[i].process && turns[i].kind == wanted[i].kind);
        CHECK(turns[i].from_ns == start + wanted[i].from * MS / 2);
        CHECK(turns[i].to_ns == start + wanted[i].to * MS / 2);
        if (turns[i].kind == SIM_TURN_RUN) {
            ran += turns[i].to_ns - turns[i].from_ns;
            CHECK(turns[i].to_run_ns - turns[i].from_run_ns == turns[i].to_ns - turns[i].from_ns);
        } else if (turns[i].kind == SIM_TURN_SWITCH) {
            switched += turns[i].to_ns - turns[i].from_ns;
        }
    }
    /* What is no turn of one that has work is its waiting. */
    CHECK(turns[2].since_ns == turns[2].from_ns && turns[3].since_ns == start);
    CHECK(turns[5].since_ns == turns[2].to_ns && turns[7].since_ns == turns[7].from_ns);
    CHECK(turns[8].since_ns == turns[4].to_ns && turns[10].since_ns == turns[7].to_ns);
    CHECK(ran == timeline->busy_ns && switched == timeline->switched_ns);
    /* The youngest are kept, and the others counted. */
    uint64_t now = start + 1000 * MS;
    for (int i = 0; i < 3 * SIM_TURNS_KEPT; i++, now += MS)
        demand(timeline, a, now, now, run_of(timeline, a, now) + 100, &view);
    uint64_t before = first;
    count = sim_timeline_turns(timeline, now, &first, turns, SIM_TURNS_KEPT + 1, &lost);
    CHECK(first == timeline->turn_count && count == SIM_TURNS_KEPT);
    CHECK(lost == first - before - count && lost > SIM_TURNS_KEPT);
    CHECK(turns[count - 1].from_ns == now - MS && turns[count - 1].to_ns == now - MS + 100);
}

/* Alone, a process has one turn, however many slices it takes. */
static void told_alone(void) {
    struct sim_timeline *timeline = shared_timeline(2 * MS);
    struct sim_timeline_view view;
    struct sim_turn turns[4];
    uint64_t start = 1000 * MS, first = 0, lost = 0;
    int a = join(timeline, 10);
    demand(timeline, a, start, start, 100 * MS, &view);
    for (uint64_t now = start; now < start + 200 * MS; now += MS / 3)
        run_of(timeline, a, now);
    CHECK(sim_timeline_turns(timeline, start + 200 * MS, &first, turns, 4, &lost) == 1);
    CHECK(turns[0].from_ns == start && turns[0].to_ns == start + 100 * MS);
    /* NVML's figures are made of the same. */
    CHECK(usage_of(timeline, SIM_TIMELINE_NONE, start + 200 * MS, 0).run_ns == 100 * MS);
    CHECK(usage_of(timeline, 10, start + 200 * MS, 0).run_ns == 100 * MS);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "kills") == 0) {
        kills(atoi(argv[2]), false);
        kills(atoi(argv[2]), true);
        return 0;
    }
    turns();
    places();
    fairness();
    random_demands();
    usage();
    copies();
    engines();
    switches();
    foretold(false);
    foretold(true);
    together();
    told();
    told_alone();
    return 0;
}
