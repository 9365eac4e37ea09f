/* The arbiter's thread under everything at once: runner_stress FOLDER SECONDS
 *
 * Threads add, remove, change and read containers, while others write whatever they like into their
 * usage files, cut them, and ring. Prints "ok" when the thread still serves a container that did
 * nothing of the kind.
 */
#include "arbiter/runner.h"
#include "region/region.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CONTAINERS = 12, COLUMNS = 2, WORKERS = 3, NODE_DEVICES = 4 };

struct container {
    int grant, usage, bell;
    const struct aliquot_grant *map;
};

static struct container containers[CONTAINERS + 1];
static struct aliquot_runner *runner;
static atomic_bool ended;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void make(const char *folder, int number) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d", folder, number);
    int dirfd = mkdir(path, 0700) ? -1 : open(path, O_RDONLY | O_DIRECTORY);
    struct aliquot_region_device device[COLUMNS];
    for (int i = 0; i < COLUMNS; i++)
        device[i] = (struct aliquot_region_device){
            .cap = ALIQUOT_NO_CAP, .page_bytes = 4096, .cores = 100, .gate = ALIQUOT_GATE_CLOSED};
    if (dirfd < 0 || aliquot_region_create(dirfd, "stress", device, COLUMNS) ||
        mkfifoat(dirfd, "bell", 0622))
        fail(path);
    struct container *one = &containers[number];
    one->grant = openat(dirfd, "grant", O_RDWR);
    one->usage = openat(dirfd, "usage", O_RDWR);
    one->bell = openat(dirfd, "bell", O_RDWR | O_NONBLOCK);
    one->map = mmap(NULL, sizeof *one->map, PROT_READ, MAP_SHARED, one->grant, 0);
    if (one->grant < 0 || one->usage < 0 || one->bell < 0 || one->map == MAP_FAILED)
        fail(path);
    close(dirfd);
}

static struct aliquot_terms some_terms(unsigned *seed) {
    uint32_t max = 1 + (uint32_t)rand_r(seed) % 1000;
    return (struct aliquot_terms){
        .cores_min = (uint32_t)rand_r(seed) % (max + 1),
        .cores_max = rand_r(seed) % 2 ? max : 1000,
        .weight = 1 + (uint32_t)rand_r(seed) % 1000,
        .priority = rand_r(seed) % 5 - 2,
        .quiet_ns = (uint64_t)rand_r(seed) % 3000000,
        .floor = (uint32_t)rand_r(seed) % 300,
        .native = rand_r(seed) % 10 == 0,
    };
}

/* Has containers of its own come and go. */
static void *work(void *argument) {
    unsigned seed = (unsigned)(uintptr_t)argument, first = (seed - 1) * (CONTAINERS / WORKERS);
    int number[CONTAINERS / WORKERS];
    memset(number, -1, sizeof number);
    while (!atomic_load(&ended)) {
        unsigned at = (unsigned)rand_r(&seed) % (CONTAINERS / WORKERS);
        const struct container *one = &containers[first + at];
        uint32_t device[COLUMNS], column = (uint32_t)rand_r(&seed) % COLUMNS;
        struct aliquot_terms terms[COLUMNS];
        struct aliquot_account account;
        uint32_t group = (uint32_t)rand_r(&seed) % 3;
        device[0] = (uint32_t)rand_r(&seed) % NODE_DEVICES;
        device[1] = (device[0] + 1) % NODE_DEVICES;
        for (int i = 0; i < COLUMNS; i++) {
            terms[i] = some_terms(&seed);
            terms[i].group = group;
        }
        switch (number[at] < 0 ? 0 : rand_r(&seed) % 6) {
        case 0:
            aliquot_runner_remove(runner, number[at]);
            number[at] =
                aliquot_runner_add(runner, one->grant, one->usage,
                                   rand_r(&seed) % 4 ? one->bell : -1, COLUMNS, device, terms);
            if (number[at] < 0)
                fail("add");
            break;
        case 1:
            aliquot_runner_change(runner, number[at], column, &terms[0]);
            break;
        case 2:
            aliquot_runner_write_window(runner, number[at], column, 2000);
            break;
        case 3:
            if (aliquot_runner_read(runner, number[at], column, &account))
                fail("read");
            break;
        case 4:
            aliquot_runner_gather(runner, true);
            aliquot_runner_gather(runner, false);
            break;
        default:
            usleep(1000);
        }
    }
    return NULL;
}

/* What tenants do. */
static void *scribble(void *argument) {
    unsigned seed = (unsigned)(uintptr_t)argument;
    uint64_t words[64];
    while (!atomic_load(&ended)) {
        const struct container *one = &containers[rand_r(&seed) % CONTAINERS];
        for (unsigned i = 0; i < 64; i++)
            words[i] = ((uint64_t)rand_r(&seed) << 32 ^ (uint64_t)rand_r(&seed)) &
                       (rand_r(&seed) % 2 ? UINT64_MAX : 0xffffffffull);
        off_t offset = rand_r(&seed) % 3
                           ? (off_t)offsetof(struct aliquot_usage, flow[rand_r(&seed) % COLUMNS])
                           : rand_r(&seed) % 4096;
        (void)!pwrite(one->usage, words, sizeof words, offset);
        if (rand_r(&seed) % 200 == 0)
            (void)!ftruncate(one->usage, rand_r(&seed) % (int)sizeof(struct aliquot_usage));
        (void)!write(one->bell, words, (size_t)rand_r(&seed) % sizeof words);
        if (rand_r(&seed) % 50 == 0)
            usleep(500);
    }
    return NULL;
}

/* The container that nobody bothers is free while it is alone, and its agent lives. */
static bool serves(void) {
    struct container *one = &containers[CONTAINERS];
    uint32_t device[COLUMNS] = {NODE_DEVICES, NODE_DEVICES + 1};
    struct aliquot_terms terms[COLUMNS] = {{.cores_max = 1000, .weight = 1},
                                           {.cores_max = 1000, .weight = 1}};
    int number =
        aliquot_runner_add(runner, one->grant, one->usage, one->bell, COLUMNS, device, terms);
    uint64_t beat = atomic_load(&one->map->beat);
    bool served = false;
    for (int i = 0; i < 30000 && number >= 0 && !served; i++) {
        served = aliquot_gate_state(atomic_load(&one->map->device[0].gate)) == ALIQUOT_GATE_FREE &&
                 aliquot_gate_state(atomic_load(&one->map->device[1].gate)) == ALIQUOT_GATE_FREE &&
                 atomic_load(&one->map->beat) > beat;
        usleep(1000);
    }
    return served;
}

int main(int argc, char **argv) {
    pthread_t threads[2 * WORKERS];
    int error;
    if (argc != 3)
        return 2;
    for (int i = 0; i <= CONTAINERS; i++)
        make(argv[1], i);
    runner = aliquot_runner_start(NULL, &error);
    if (!runner)
        fail("start");
    for (uintptr_t i = 0; i < 2 * WORKERS; i++)
        if (pthread_create(&threads[i], NULL, i < WORKERS ? work : scribble, (void *)(i + 1)))
            fail("thread");
    sleep((unsigned)atoi(argv[2]));
    bool served = serves();
    atomic_store(&ended, true);
    for (int i = 0; i < 2 * WORKERS; i++)
        pthread_join(threads[i], NULL);
    aliquot_runner_stop(runner);
    puts(served ? "ok" : "the thread serves nobody any more");
    return !served;
}
