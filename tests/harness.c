/* Containers that want devices, limiter and arbiter between them, on an exact clock.
 *
 *   harness SECONDS [OPTION=N]... CONTAINER...
 *   CONTAINER: KEY=VALUE,... with
 *     kind=async|sync|graph|streams  how it launches     ns=N        length of its kernels
 *     min=, max=, weight=, priority=, quiet_us=, floor=, group=      what it was promised (thousandths)
 *     procs=N                        processes            gap_us=N    on the host between two launches
 *     from_ms=, until_ms=            when it works        on=0+1      devices
 *     joins_ms=                      when it comes, its program with it; until then nobody knows of it
 *     burst=N, pause_us=N            after N launches and their end, it rests
 *     depth=N                        launches of a stream that the driver takes before it lets it wait
 *     spin=1                         each 10th kernel runs until the launch after it is made
 *     stop_ms=, cont_ms=, kill_ms=   one process is stopped, goes on, is killed
 *     cores_at=MS:MIN:MAX            new terms
 * Prints one JSON object. The numbers are the same every time.
 */
#include "arbiter/arbiter.h"
#include "arbiter/seen.h"
#include "core/limiter.h"
#include "harness.h"
#include "harness_words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONTAINERS = 64 };

/* What things cost on a host: published figures, see docs/sharing.md. */
static struct {
    uint64_t launch, graph, record, query, sync, wake, ring, step;
    uint64_t jitter, slice, change, agent;
} cost = {
    .launch = 4300,
    .graph = 10000,
    .record = 2500,
    .query = 1000,
    .sync = 2000,
    .wake = 25000,
    .ring = 15000,
    .step = 3000,
    .slice = 2000000,
    .change = 0,
    .agent = 1,
};

struct process {
    struct container *container;
    unsigned slot;
    struct aliquot_limiter *limiter;
    struct aliquot_thread *thread;
    struct context *context[DEVICES];
    struct task *app, *observer[DEVICES];
    bool flag[1 << 12];
    uint64_t made;
    bool dead;
};

static struct container *containers[MAX_CONTAINERS];
static unsigned container_count;
static struct aliquot_arbiter *arbiter;
static uint64_t seed = 1, steps, wakeups, end_ns;

static uint64_t jitter(uint64_t ns) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return cost.jitter ? ns / 2 + (seed >> 33) % (ns * cost.jitter) : ns;
}

/* -- Sleeping on a word -------------------------------------------------------------------------- */

struct sleeper {
    const void *word;
    uint32_t role;
    struct task *task;
    struct sleeper *next;
};
static struct sleeper *sleepers;

static void wake_word(const void *word, uint32_t role) {
    for (struct sleeper *one = sleepers; one; one = one->next)
        if (one->word == word && one->role & role)
            task_wake(one->task, clock_now() + jitter(cost.wake));
}

static void sleep_on(const _Atomic uint32_t *word, uint32_t seen, uint32_t role, uint64_t until) {
    if (atomic_load(word) != seen)
        return;
    struct sleeper self = {word, role, task_self(), sleepers};
    sleepers = &self;
    task_sleep(until);
    struct sleeper **at = &sleepers;
    while (*at != &self)
        at = &(*at)->next;
    *at = self.next;
}

/* -- The seam ------------------------------------------------------------------------------------ */

static uint64_t seam_now(void *env) {
    (void)env;
    return clock_now();
}
static void seam_wait(void *env, const _Atomic uint32_t *word, uint32_t seen, uint32_t role,
                      uint64_t until) {
    (void)env;
    sleep_on(word, seen, role, until);
}
static void seam_wake(void *env, _Atomic uint32_t *word, uint32_t role) {
    (void)env;
    wake_word(word, role);
}
static void agent_step(void *argument);
static void seam_ring(void *env) {
    struct container *container = ((struct process *)env)->container;
    clock_spend(1500);
    if (!container->rung && cost.agent) {
        container->rung = true;
        clock_at(clock_now() + jitter(cost.ring), agent_step, container);
    }
}
struct watch {
    struct aliquot_limiter *limiter;
    uint32_t device;
};
static void observe(void *argument) {
    struct watch *watch = argument;
    aliquot_observe(watch->limiter, watch->device);
}
static bool seam_observer(void *env, struct aliquot_limiter *limiter, uint32_t device) {
    struct watch *watch = malloc(sizeof *watch);
    *watch = (struct watch){limiter, device};
    ((struct process *)env)->observer[device] = task_start(observe, watch);
    return true;
}
/* A lane is the stream's number, and the device's in the container. */
static unsigned lane_device(uint64_t lane) { return (unsigned)(lane >> 8) - 1; }
static unsigned lane_stream(uint64_t lane) { return (unsigned)(lane & 255); }
static int seam_device(void *env, const struct aliquot_launch *launch,
                       enum aliquot_lane_kind *kind) {
    (void)env;
    *kind = ALIQUOT_LANE_PLAIN;
    return (int)lane_device(launch->lane);
}
static bool seam_captured(void *env, const struct aliquot_launch *launch) {
    (void)env;
    (void)launch;
    return false;
}
static void *seam_mark(void *env, const struct aliquot_launch *launch) {
    struct process *process = env;
    struct event *event =
        gpu_record(process->context[lane_device(launch->lane)], lane_stream(launch->lane));
    clock_spend(cost.record);
    return event;
}
static int seam_reached(void *env, void *mark, uint64_t *at_ns) {
    (void)env;
    struct event *event = mark;
    clock_spend(cost.query);
    *at_ns = event->at_ns;
    return event->reached;
}
static void seam_drop(void *env, void *mark) {
    (void)env;
    gpu_release(mark);
}
static int seam_idle(void *env, uint64_t lane) {
    struct process *process = env;
    clock_spend(cost.query);
    return gpu_pending(process->context[lane_device(lane)], lane_stream(lane)) == 0;
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

/* -- The agent ----------------------------------------------------------------------------------- */

static bool there(const struct container *container) { return container->usage != NULL; }

/* The words of a container's processes; those of the dead speak of nobody. */
static uint32_t read_flow(const struct container *container, unsigned column, uint64_t *flow) {
    for (unsigned i = 0; i < container->procs; i++)
        flow[i] = container->process[i]->dead ? 0 : atomic_load(&container->usage->flow[column][i]);
    return (uint32_t)container->procs;
}

static void see(struct container *container, unsigned column) {
    struct aliquot_seen seen;
    uint64_t flow[MAX_PROCESSES];
    uint32_t count = read_flow(container, column, flow);
    aliquot_seen_make(flow, container->over[column], count,
                      atomic_load(&container->grant.device[column].gate),
                      atomic_load(&container->usage->time[column].device_ns), &seen);
    aliquot_arbiter_see(arbiter, container->member + (int)column, &seen);
}

static void note_gate(struct container *container, unsigned column, uint64_t fresh) {
    uint64_t flow[MAX_PROCESSES];
    uint32_t count = read_flow(container, column, flow);
    aliquot_seen_gate(flow, container->over[column], count, container->grant.device[column].gate,
                      fresh);
}

static uint64_t planned_ns;
static void agent_timer(void *argument);

static void agent_look(void) {
    struct aliquot_gate_change change[256];
    uint64_t next;
    wakeups++;
    for (bool again = true; again;) {
        for (unsigned i = 0; i < container_count; i++)
            for (unsigned column = 0; there(containers[i]) && column < containers[i]->devices;
                 column++)
                if (containers[i]->rung
                        ? !aliquot_arbiter_rang(arbiter, containers[i]->member, clock_now())
                        : aliquot_arbiter_watched(arbiter, containers[i]->member + (int)column))
                    see(containers[i], column);
        for (unsigned i = 0; i < container_count; i++)
            containers[i]->rung = false;
        uint32_t count = aliquot_arbiter_step(arbiter, clock_now(), change, 256, &next);
        steps++;
        clock_spend(cost.step);
        for (uint32_t i = 0; i < count; i++)
            for (unsigned j = 0; j < container_count; j++) {
                struct container *one = containers[j];
                int column = change[i].member - one->member;
                if (!there(one) || column < 0 || column >= (int)one->devices)
                    continue;
                note_gate(one, (unsigned)column, change[i].gate);
                atomic_store(&one->grant.device[column].gate, change[i].gate);
                bool closed = aliquot_gate_state(change[i].gate) == ALIQUOT_GATE_CLOSED;
                wake_word(&one->grant.device[column].gate,
                          closed ? ALIQUOT_GATE_OBSERVERS : ALIQUOT_GATE_LAUNCHERS);
            }
        again = count > 0;
    }
    if (next != UINT64_MAX) {
        planned_ns = next > clock_now() ? next : clock_now() + 1000;
        clock_at(planned_ns, agent_timer, NULL);
    }
}

static void agent_step(void *argument) {
    (void)argument;
    if (cost.agent)
        agent_look();
}
static void agent_timer(void *argument) {
    (void)argument;
    if (clock_now() == planned_ns && cost.agent)
        agent_look();
}
static void beat(void *argument) {
    (void)argument;
    for (unsigned i = 0; i < container_count && cost.agent; i++)
        atomic_fetch_add(&containers[i]->grant.beat, 1);
    clock_at(clock_now() + 250000000, beat, NULL);
}
static void agent_ends(void *argument) {
    (void)argument;
    cost.agent = 0;
}
static void agent_comes(void *argument) {
    (void)argument;
    cost.agent = 1;
    agent_look();
}

/* -- Programs ------------------------------------------------------------------------------------ */

static void launch(struct process *process, unsigned column, unsigned stream) {
    struct container *container = process->container;
    struct aliquot_launch launch = {0x1000 + stream, (uint64_t)(column + 1) << 8 | stream};
    uint64_t before = clock_now();
    aliquot_ticket ticket = aliquot_gate(process->thread, &launch);
    uint64_t waited = clock_now() - before;
    if (waited > container->worst_wait_ns)
        container->worst_wait_ns = waited;
    for (unsigned i = 0; i < 5; i++) {
        static const uint64_t bound[5] = {100000, 1000000, 5000000, 20000000, UINT64_MAX};
        if (waited <= bound[i]) {
            container->waits[i]++;
            break;
        }
    }
    clock_spend(container->kind == GRAPH ? cost.graph : cost.launch);
    task_sleep(clock_now());
    bool *flag = NULL;
    if (container->spin) {
        /* The launch after a kernel that waits for it. */
        process->flag[(process->made - 1) & 4095] = true;
        if (process->made % 10 == 9) {
            flag = &process->flag[process->made & 4095];
            *flag = false;
        }
        gpu_kick(container->device[column]);
    }
    process->made++;
    container->launches++;
    gpu_launch(process->context[column], stream, container->ns, flag);
    if (ticket)
        aliquot_launched(process->thread, &launch, ticket, true);
}

static void program(void *argument) {
    struct process *process = argument;
    struct container *container = process->container;
    task_sleep(
        (container->joins_ms > container->from_ms ? container->joins_ms : container->from_ms) *
        1000000);
    uint64_t until = container->until_ms ? container->until_ms * 1000000 : UINT64_MAX;
    for (uint64_t i = 0; clock_now() < until; i++) {
        unsigned stream = container->kind == STREAMS_KIND ? (unsigned)(i % 4) + 1
                          : container->spin               ? (unsigned)(i % 2) + 1
                                                          : 1;
        for (unsigned column = 0; column < container->devices; column++) {
            gpu_wait(process->context[column], stream, container->depth - 1);
            launch(process, column, stream);
        }
        bool rest = container->burst && i % container->burst == container->burst - 1;
        if (container->kind == SYNC || rest) {
            for (unsigned column = 0; column < container->devices; column++)
                for (unsigned s = 0; s < STREAMS; s++)
                    gpu_wait(process->context[column], s, 0);
            clock_spend(cost.sync);
            aliquot_waited(process->limiter);
        }
        if (container->gap_us || rest)
            task_sleep(clock_now() + container->gap_us * 1000 +
                       (rest ? container->pause_us * 1000 : 0));
    }
    for (unsigned column = 0; column < container->devices; column++)
        for (unsigned s = 0; s < STREAMS; s++)
            gpu_wait(process->context[column], s, 0);
}

static void freeze(struct process *process, bool frozen) {
    task_freeze(process->app, frozen);
    for (unsigned i = 0; i < process->container->devices; i++)
        if (process->observer[i])
            task_freeze(process->observer[i], frozen);
}
static void stop_one(void *argument) { freeze(((struct container *)argument)->process[0], true); }
static void go_on(void *argument) { freeze(((struct container *)argument)->process[0], false); }
static void kill_one(void *argument) {
    struct process *process = ((struct container *)argument)->process[0];
    task_kill(process->app);
    for (unsigned i = 0; i < process->container->devices; i++) {
        if (process->observer[i])
            task_kill(process->observer[i]);
        gpu_destroy(process->context[i]);
    }
    process->dead = true;
}
static void change_terms(void *argument) {
    struct container *container = argument;
    container->terms.cores_min = (uint32_t)container->change_min;
    container->terms.cores_max = (uint32_t)container->change_max;
    for (unsigned i = 0; i < container->devices; i++) {
        atomic_store(&container->grant.device[i].cores, (uint32_t)container->change_max / 10);
        aliquot_arbiter_change(arbiter, clock_now(), container->member + (int)i, &container->terms);
    }
    agent_look();
}

/* -- Setting up ---------------------------------------------------------------------------------- */

static void begin(struct container *container, unsigned number, bool alone) {
    container->usage = calloc(1, sizeof *container->usage);
    container->grant.device_count = container->devices;
    struct aliquot_terms terms[DEVICES];
    for (unsigned i = 0; i < container->devices; i++) {
        terms[i] = container->terms;
        container->grant.device[i].cores = container->terms.cores_max / 10;
        container->grant.device[i].window_us = ALIQUOT_WINDOW_US;
        container->grant.device[i].gate =
            aliquot_gate_word(!alone                              ? ALIQUOT_GATE_CLOSED
                              : container->terms.cores_max < 1000 ? ALIQUOT_GATE_OPEN
                                                                  : ALIQUOT_GATE_FREE,
                              0, 0, 0);
    }
    if (!alone) {
        container->grant.beat = 1;
        container->member = aliquot_arbiter_join(arbiter, clock_now(), container->devices,
                                                 container->device, terms);
        if (container->member < 0)
            exit(3);
    }
    atomic_store(&container->usage->high_water, (uint32_t)container->procs);
    for (unsigned i = 0; i < container->procs; i++) {
        struct process *process = calloc(1, sizeof *process);
        *process = (struct process){.container = container, .slot = i};
        container->process[i] = process;
        process->limiter =
            aliquot_limiter_new(&seam, process, &container->grant, container->usage, i);
        process->thread = aliquot_thread_new(process->limiter);
        for (unsigned j = 0; j < container->devices; j++)
            process->context[j] = gpu_context(container->device[j], number);
        process->app = task_start(program, process);
    }
    if (container->stop_ms)
        clock_at(container->stop_ms * 1000000, stop_one, container);
    if (container->cont_ms)
        clock_at(container->cont_ms * 1000000, go_on, container);
    if (container->kill_ms)
        clock_at(container->kill_ms * 1000000, kill_one, container);
    if (container->change_ms)
        clock_at(container->change_ms * 1000000, change_terms, container);
}

static void join(void *argument) {
    struct container *container = argument;
    unsigned number = 0;
    while (containers[number] != container)
        number++;
    begin(container, number, !cost.agent);
    agent_step(NULL);
}

int main(int argc, char **argv) {
    uint64_t agent_ends_ms = 0, agent_comes_ms = 0, alone = 0, round_us = 0, tick_us = 5000;
    uint64_t settled_ms = 200;
    if (argc < 3)
        return 2;
    end_ns = (uint64_t)(atof(argv[1]) * 1e9);
    for (int i = 2; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        struct {
            const char *name;
            uint64_t *at;
        } names[] = {
            {"launch_ns", &cost.launch},
            {"graph_ns", &cost.graph},
            {"record_ns", &cost.record},
            {"query_ns", &cost.query},
            {"sync_ns", &cost.sync},
            {"wake_ns", &cost.wake},
            {"ring_ns", &cost.ring},
            {"step_ns", &cost.step},
            {"jitter", &cost.jitter},
            {"slice_ns", &cost.slice},
            {"switch_ns", &cost.change},
            {"alone", &alone},
            {"round_us", &round_us},
            {"tick_us", &tick_us},
            {"settled_ms", &settled_ms},
            {"agent_ends_ms", &agent_ends_ms},
            {"agent_comes_ms", &agent_comes_ms},
        };
        bool option = false;
        for (unsigned j = 0; value && j < sizeof names / sizeof *names; j++)
            if (!strncmp(argv[i], names[j].name, (size_t)(value - argv[i])) &&
                strlen(names[j].name) == (size_t)(value - argv[i])) {
                *names[j].at = strtoull(value + 1, NULL, 10);
                option = true;
            }
        if (!option && container_count < MAX_CONTAINERS)
            containers[container_count++] = parse_container(argv[i]);
    }
    for (unsigned i = 0; i < DEVICES; i++)
        gpu_init(i, &(struct gpu_settings){cost.slice, cost.change, settled_ms * 1000000});
    if (alone)
        cost.agent = 0;
    arbiter = aliquot_arbiter_new(&(struct aliquot_arbiter_settings){.round_ns = round_us * 1000});
    clock_run(1);
    for (unsigned i = 0; i < container_count; i++)
        if (containers[i]->joins_ms)
            clock_at(containers[i]->joins_ms * 1000000, join, containers[i]);
        else
            begin(containers[i], i, alone);
    beat(NULL);
    if (!alone)
        agent_look();
    if (agent_ends_ms)
        clock_at(agent_ends_ms * 1000000, agent_ends, NULL);
    if (agent_comes_ms)
        clock_at(agent_comes_ms * 1000000, agent_comes, NULL);

    /* Device time had by each container at each tick, for windows of any length. */
    unsigned devices = 0;
    for (unsigned i = 0; i < container_count; i++)
        for (unsigned j = 0; j < containers[i]->devices; j++)
            if (containers[i]->device[j] >= devices)
                devices = containers[i]->device[j] + 1;
    tick_us = tick_us ? tick_us : 1;
    printf("{\"tick_ms\": %g, \"busy_ns\": [", (double)tick_us / 1000);
    for (uint64_t now = 0; now <= end_ns; now += tick_us * 1000) {
        clock_run(now);
        printf("%s[", now ? ", " : "");
        for (unsigned d = 0; d < devices; d++) {
            printf("%s[", d ? ", " : "");
            for (unsigned i = 0; i < container_count; i++)
                printf("%lu, ", gpu_busy(d, i));
            printf("%lu]", gpu_idle(d));
        }
        printf("]");
    }
    printf("], \"steps\": %lu, \"wakeups\": %lu, \"longest_idle_ns\": [", steps, wakeups);
    for (unsigned d = 0; d < devices; d++)
        printf("%s%lu", d ? ", " : "", gpu_longest_idle(d));
    printf("], \"containers\": [");
    for (unsigned i = 0; i < container_count; i++) {
        const struct container *one = containers[i];
        printf(
            "%s{\"launches\": %lu, \"worst_wait_ns\": %lu, \"waits\": [%lu, %lu, %lu, %lu, %lu], "
            "\"devices\": [",
            i ? ", " : "", one->launches, one->worst_wait_ns, one->waits[0], one->waits[1],
            one->waits[2], one->waits[3], one->waits[4]);
        for (unsigned j = 0; j < one->devices; j++) {
            struct aliquot_account account = {0};
            static const struct aliquot_usage_time nothing;
            const struct aliquot_usage_time *time = there(one) ? &one->usage->time[j] : &nothing;
            if (!alone && there(one))
                aliquot_arbiter_read(arbiter, clock_now(), one->member + (int)j, &account);
            printf("%s{\"charged_ns\": %lu, \"wait_ns\": %lu, \"let_through\": %lu, "
                   "\"held_ns\": %lu, \"turns\": %lu, \"overruns\": %lu, \"preempted\": %lu}",
                   j ? ", " : "", time->device_ns, time->wait_ns, time->let_through,
                   account.held_ns, account.turns, account.overruns, account.preempted);
        }
        printf("]}");
    }
    printf("]}\n");
    return 0;
}
