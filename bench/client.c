/* What the benches run: calls of a vendor's driver, timed on the bare driver and through the shim in turn.
 *
 *   client measure SHIM BARE CALL BYTES THREADS ROUNDS CHUNKS CALLS LIVE[,LIVE…]
 *     Both libraries in one process, over one driver: bare, shim, bare, shim… Prints for each LIVE
 *     a line `live N`, and for each round the nanoseconds a call took, `bare shim`.
 *   client count LIBRARY CALL BYTES CALLS LIVE
 *     The calls alone, in a function `measured`, for a tool that counts instructions.
 *   client hold LIBRARY BYTES
 *     Takes part in the slice with BYTES allocated; says `ready`, ends with its standard input.
 *   client init BARE SHIM PROCESSES ROUNDS
 *     Processes that load a library and make its first call at the same moment. Prints for each of them
 *     `bare|shim dlopen_ns call_ns`, without the time for which others had the cores.
 *
 * CALL is launch, pair (allocate and free BYTES), replace (free a random one of LIVE allocations,
 * make a new one), info (how much memory is free) or copy (of BYTES to the device). A round has CHUNKS
 * times CALLS calls; after each chunk of what is queued the stream is waited for, outside the timing.
 *
 * Each thread stays on one core. One thread is timed by the clock on the wall; several by the
 * processor time of each, the kernel's part included: there may be fewer cores than threads.
 */
#include "driver.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_THREADS = 64, MOST_PROCESSES = 512 };

static void fail(const char *what, const char *why) {
    fprintf(stderr, "client: %s: %s\n", what, why);
    exit(1);
}

static void check(int result, const char *call) {
    if (result) {
        char why[32];
        snprintf(why, sizeof why, "error %d", result);
        fail(call, why);
    }
}

/* ---- What is measured ------------------------------------------------------------------------ */

enum call { LAUNCH, PAIR, REPLACE, INFO, COPY };

static enum call parse_call(const char *name) {
    static const char *const names[] = {"launch", "pair", "replace", "info", "copy"};
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i]))
            return (enum call)i;
    fail(name, "no such call");
    return LAUNCH;
}

/* The allocations that stay, of one library. */
struct living {
    uint64_t *pointer;
    size_t count;
};

/* One side of the comparison. */
struct side {
    const struct driver *driver;
    struct living living;
};

static enum call call;
static size_t bytes;
static long calls, chunks, rounds;
static unsigned threads = 1;
static uint64_t target; /* of copies */
static char source[1 << 16];

/* Lets each of `sides_count` sides have that many. They take turns, so that none gets the better
 * part of the driver's tables. */
static void fill(struct side *side, size_t sides_count, size_t count) {
    for (size_t s = 0; s < sides_count; s++) {
        struct living *living = &side[s].living;
        living->pointer = realloc(living->pointer, (count + 1) * sizeof *living->pointer);
        if (!living->pointer)
            fail("fill", "no host memory");
    }
    for (size_t i = side->living.count; i < count; i++)
        for (size_t s = 0; s < sides_count; s++)
            check(driver_alloc(side[s].driver, bytes,
                               &side[s].living.pointer[side[s].living.count++]),
                  "an allocation");
}

static uint64_t draw(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int launches(const struct driver *driver, void *stream) {
    int result = 0;
    for (long i = 0; i < calls; i++)
        result |= driver_launch(driver, stream, 0, 1);
    return result;
}

static int pairs(const struct driver *driver) {
    int result = 0;
    for (long i = 0; i < calls; i++) {
        uint64_t pointer = 0;
        result |= driver_alloc(driver, bytes, &pointer);
        result |= driver_release(driver, pointer);
    }
    return result;
}

/* A program knows what it is about to free: the list of pointers, which is ours, is fetched early. */
static int replacements(const struct side *side, uint64_t *random) {
    enum { AHEAD = 8 };
    uint64_t *victim[AHEAD];
    int result = 0;
    for (long i = 0; i < calls + AHEAD; i++) {
        uint64_t *now = victim[i % AHEAD];
        victim[i % AHEAD] = &side->living.pointer[draw(random) % side->living.count];
        __builtin_prefetch(victim[i % AHEAD], 1);
        if (i < AHEAD)
            continue;
        result |= driver_release(side->driver, *now);
        result |= driver_alloc(side->driver, bytes, now);
    }
    return result;
}

static int infos(const struct driver *driver) {
    int result = 0;
    size_t free_bytes, total;
    for (long i = 0; i < calls; i++)
        result |= driver_info(driver, &free_bytes, &total);
    return result;
}

static int copies(const struct driver *driver, void *stream) {
    int result = 0;
    for (long i = 0; i < calls; i++)
        result |= driver_copy(driver, stream, target, source, bytes);
    return result;
}

/* A chunk of calls. Not inlined: tools that count instructions begin and end with it. */
__attribute__((noinline)) int measured(const struct side *side, void *stream, uint64_t *random);
int measured(const struct side *side, void *stream, uint64_t *random) {
    switch (call) {
    case LAUNCH:
        return launches(side->driver, stream);
    case PAIR:
        return pairs(side->driver);
    case REPLACE:
        return replacements(side, random);
    case COPY:
        return copies(side->driver, stream);
    default:
        return infos(side->driver);
    }
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- measure --------------------------------------------------------------------------------- */

static struct side sides[2]; /* bare, shim */
static pthread_barrier_t barrier;

static void meet(void) {
    if (threads > 1)
        pthread_barrier_wait(&barrier);
}

struct worker {
    pthread_t thread;
    void *stream;
    uint64_t random;
    double ns[2]; /* of a round, each side */
};
static struct worker workers[MOST_THREADS];
static cpu_set_t allowed;

static void block(struct worker *worker, int side) {
    clockid_t clock = threads > 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    uint64_t spent = 0;
    meet();
    for (long chunk = 0; chunk < chunks; chunk++) {
        uint64_t start = now_ns(clock);
        int result = measured(&sides[side], worker->stream, &worker->random);
        spent += now_ns(clock) - start;
        check(result, "a measured call");
        if (call == LAUNCH || call == COPY)
            check(driver_wait(sides[0].driver, worker->stream), "waiting for a stream");
    }
    worker->ns[side] = (double)spent;
}

static void report(void) {
    double ns[2] = {0, 0};
    for (unsigned t = 0; t < threads; t++)
        for (int side = 0; side < 2; side++)
            ns[side] += workers[t].ns[side];
    double all = (double)(calls * chunks) * threads;
    printf("%.3f %.3f\n", ns[0] / all, ns[1] / all);
}

/* Puts the calling thread on one of the cores that we may use: the last for the first thread (the
 * first core tends to be the busiest), and so on in turn. */
static void pin(const cpu_set_t *allowed, unsigned thread) {
    cpu_set_t one;
    unsigned skip = thread % (unsigned)CPU_COUNT(allowed);
    CPU_ZERO(&one);
    for (size_t cpu = CPU_SETSIZE; cpu-- > 0;)
        if (CPU_ISSET(cpu, allowed) && skip-- == 0) {
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof one, &one);
            return;
        }
}

static void *work(void *argument) {
    struct worker *worker = argument;
    /* Only now, after the first work: a thread of the driver's own is not pinned with us. */
    pin(&allowed, (unsigned)(worker - workers));
    check(driver_enter(sides[0].driver), "entering a context");
    /* The order within a pair alternates, so that what the first leaves behind helps both. */
    for (long round = 0; round < rounds; round++) {
        block(worker, round & 1);
        block(worker, !(round & 1));
        meet();
        if (worker == &workers[0])
            report();
    }
    return NULL;
}

static void start(const struct driver *driver) {
    check(driver_start(driver), "beginning with the device");
    if (call == COPY && bytes > sizeof source)
        fail("copy", "too large");
    if (call == COPY)
        check(driver_alloc(driver, bytes, &target), "an allocation");
}

static void make_stream(const struct driver *driver, void **stream) {
    check(driver_stream(driver, stream), "a stream");
    check(driver_launch(driver, *stream, 0, 1), "a launch");
    check(driver_wait(driver, *stream), "waiting for a stream");
}

static void measure(char *lives) {
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        fail("sched_getaffinity", strerror(errno));
    pthread_barrier_init(&barrier, NULL, threads);
    start(sides[1].driver);
    for (unsigned t = 0; t < threads; t++) {
        make_stream(sides[1].driver, &workers[t].stream);
        workers[t].random = 0x9e3779b97f4a7c15ull * (t + 1);
    }
    for (char *live = strtok(lives, ","); live; live = strtok(NULL, ",")) {
        bool both = call == REPLACE;
        fill(&sides[!both], both ? 2 : 1, strtoul(live, NULL, 10));
        printf("live %s\n", live);
        for (unsigned t = 1; t < threads; t++)
            if (pthread_create(&workers[t].thread, NULL, work, &workers[t]))
                fail("pthread_create", "failed");
        work(&workers[0]);
        for (unsigned t = 1; t < threads; t++)
            pthread_join(workers[t].thread, NULL);
    }
}

/* ---- count ----------------------------------------------------------------------------------- */

static void count(const char *path, size_t live) {
    struct side *side = &sides[0];
    void *stream;
    uint64_t random = 1;
    side->driver = driver_load(path);
    start(side->driver);
    make_stream(side->driver, &stream);
    fill(side, 1, live);
    check(measured(side, stream, &random), "a measured call");
    check(driver_wait(side->driver, stream), "waiting for a stream");
}

/* ---- hold ------------------------------------------------------------------------------------ */

static void hold(const char *path) {
    struct side side = {.driver = driver_load(path)};
    start(side.driver);
    fill(&side, 1, 1);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0 || errno == EINTR)
        errno = 0;
}

/* ---- init ------------------------------------------------------------------------------------ */

struct launch_time {
    uint64_t load_ns, init_ns;
    int failed;
};

/* Nanoseconds that this thread has been ready to run and had no core; 0 where the kernel does not
 * say. */
static uint64_t waited_ns(void) {
    unsigned long long ran = 0, waited = 0;
    FILE *file = fopen("/proc/thread-self/schedstat", "re");
    if (file && fscanf(file, "%llu %llu", &ran, &waited) != 2)
        waited = 0;
    if (file)
        fclose(file);
    return waited;
}

/* A moment from which time is counted. */
struct start {
    uint64_t waited_ns, clock_ns;
};

static struct start begin(void) {
    uint64_t waited = waited_ns();
    return (struct start){waited, now_ns(CLOCK_MONOTONIC)};
}

/* Since then, without the time for which others had the cores. */
static uint64_t since(const struct start *start) {
    uint64_t taken = now_ns(CLOCK_MONOTONIC) - start->clock_ns;
    uint64_t waited = waited_ns() - start->waited_ns;
    return taken > waited ? taken - waited : 0;
}

static void one_start(const char *path, int gate, struct launch_time *time) {
    char byte;
    while (read(gate, &byte, 1) < 0 && errno == EINTR)
        continue;
    struct start start = begin();
    void *library = driver_open(path);
    time->load_ns = since(&start);
    start = begin();
    time->failed = driver_init(library);
    time->init_ns = since(&start);
}

/* All wait at one pipe; that it closes is the start. They stay until the last is through. */
static void start_together(const char *path, int processes, struct launch_time *times) {
    int gate[2], arrived[2], leave[2];
    if (pipe(gate) || pipe(arrived) || pipe(leave))
        fail("pipe", strerror(errno));
    for (int p = 0; p < processes; p++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork", strerror(errno));
        if (child)
            continue;
        close(gate[1]);
        close(leave[1]);
        if (write(arrived[1], "", 1) != 1)
            exit(1);
        one_start(path, gate[0], &times[p]);
        char byte = 0;
        if (write(arrived[1], "", 1) != 1 || read(leave[0], &byte, 1) < 0)
            exit(1);
        exit(0);
    }
    close(arrived[1]);
    char byte;
    int *last_pipe[] = {&gate[1], &leave[1]};
    for (int step = 0; step < 2; step++) {
        for (int p = 0; p < processes; p++)
            if (read(arrived[0], &byte, 1) != 1)
                fail("a starting process", "ended early");
        close(*last_pipe[step]);
    }
    for (int p = 0; p < processes; p++) {
        int status = 0;
        if (wait(&status) < 0 || status)
            fail("a starting process", "failed");
        check(times[p].failed, "the first call");
    }
    close(gate[0]);
    close(arrived[0]);
    close(leave[0]);
}

static void init(const char *const path[2], int processes) {
    struct launch_time *times = mmap(NULL, (size_t)processes * sizeof *times,
                                     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (times == MAP_FAILED)
        fail("mmap", strerror(errno));
    for (long round = 0; round < rounds; round++)
        for (int turn = 0; turn < 2; turn++) {
            int side = (int)(round & 1) ^ turn;
            fflush(stdout);
            start_together(path[side], processes, times);
            for (int p = 0; p < processes; p++)
                printf("%s %llu %llu\n", side ? "shim" : "bare",
                       (unsigned long long)times[p].load_ns, (unsigned long long)times[p].init_ns);
        }
}

/* ---- The command ------------------------------------------------------------------------------ */

static long number(const char *text, long most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < 1 || value > most)
        fail(text, "not a number in range");
    return value;
}

int main(int count_of, char **argument) {
    const char *mode = count_of > 1 ? argument[1] : "";
    if (!strcmp(mode, "measure") && count_of == 11) {
        call = parse_call(argument[4]);
        bytes = (size_t)number(argument[5], 1l << 40);
        threads = (unsigned)number(argument[6], MOST_THREADS);
        rounds = number(argument[7], 1000000);
        chunks = number(argument[8], 1000000);
        calls = number(argument[9], 1000000);
        sides[1].driver = driver_load(argument[2]);
        sides[0].driver = driver_load(argument[3]);
        measure(argument[10]);
    } else if (!strcmp(mode, "count") && count_of == 7) {
        call = parse_call(argument[3]);
        bytes = (size_t)number(argument[4], 1l << 40);
        calls = number(argument[5], 1000000000);
        count(argument[2], (size_t)number(argument[6], 10000000));
    } else if (!strcmp(mode, "hold") && count_of == 4) {
        bytes = (size_t)number(argument[3], 1l << 40);
        hold(argument[2]);
    } else if (!strcmp(mode, "init") && count_of == 6) {
        int processes = (int)number(argument[4], MOST_PROCESSES);
        rounds = number(argument[5], 1000000000);
        init((const char *[]){argument[2], argument[3]}, processes);
    } else {
        fprintf(stderr, "usage: see the beginning of client.c\n");
        return 2;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
