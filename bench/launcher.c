/* An ordinary program on a vendor's driver that launches kernels of a length, for benches of sharing.
 *
 *   load NS BATCH          launches for ever, and waits for the stream after each BATCH (0: never)
 *   online NS GAP COUNT    COUNT times: sleeps for about GAP ns, launches one and waits for it; prints
 *                          for each the ns from before the launch to after the wait
 *   allocate BYTES         allocates and frees for ever, and prints a line whenever that is allowed or
 *                          refused and was not before: CLOCK_MONOTONIC in ns, and 1 or 0
 *
 * All say "ready" when a first kernel has run, and go on at a line on standard input; `load` and
 * `allocate` end with the input. */
#include "driver.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct driver *driver;
static void *stream;

static _Noreturn void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void check(int result, const char *what) {
    char number[16];
    snprintf(number, sizeof number, "%d", result);
    if (result)
        fail(what, number);
}

static void start(void) {
    driver = driver_load(driver_library);
    check(driver_start(driver), "beginning with the device");
    check(driver_stream(driver, &stream), "a stream");
}

static void launch(uint64_t ns) { check(driver_launch(driver, stream, ns, 4096), "a launch"); }
static void wait(void) { check(driver_wait(driver, stream), "waiting for the stream"); }

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_ns(uint64_t ns) {
    struct timespec left = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        continue;
}

static void ready(uint64_t ns) {
    char line[8];
    launch(ns);
    wait();
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        exit(0);
}

static void *end_with_input(void *argument) {
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0 || errno == EINTR)
        errno = 0;
    _exit(0);
    return argument;
}

static void load(uint64_t ns, uint64_t batch) {
    pthread_t thread;
    ready(ns);
    if (pthread_create(&thread, NULL, end_with_input, NULL))
        fail("pthread_create", "failed");
    for (uint64_t done = 1;; done++) {
        launch(ns);
        if (batch && done % batch == 0)
            wait();
    }
}

static void allocate(uint64_t bytes) {
    enum { PAUSE_NS = 200000 };
    pthread_t thread;
    int before = -1;
    ready(1000);
    if (pthread_create(&thread, NULL, end_with_input, NULL))
        fail("pthread_create", "failed");
    for (;; sleep_ns(PAUSE_NS)) {
        uint64_t memory;
        int allowed = !driver_alloc(driver, bytes, &memory);
        uint64_t now = now_ns();
        if (allowed)
            check(driver_release(driver, memory), "a release");
        if (allowed == before)
            continue;
        printf("%llu %d\n", (unsigned long long)now, allowed);
        fflush(stdout);
        before = allowed;
    }
}

static void online(uint64_t ns, uint64_t gap_ns, uint64_t count) {
    uint64_t random = 0x9e3779b97f4a7c15ull;
    ready(ns);
    for (uint64_t i = 0; i < count; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        sleep_ns(gap_ns / 2 + random % (gap_ns + 1));
        uint64_t before = now_ns();
        launch(ns);
        wait();
        printf("%llu\n", (unsigned long long)(now_ns() - before));
    }
}

int main(int argc, char **argv) {
    uint64_t number[3] = {0};
    for (int i = 2; i < argc && i < 5; i++)
        number[i - 2] = strtoull(argv[i], NULL, 10);
    if (argc == 4 && !strcmp(argv[1], "load")) {
        start();
        load(number[0], number[1]);
    } else if (argc == 3 && !strcmp(argv[1], "allocate")) {
        start();
        allocate(number[0]);
    } else if (argc == 5 && !strcmp(argv[1], "online")) {
        start();
        online(number[0], number[1], number[2]);
    } else {
        fprintf(stderr, "usage: see the beginning of launcher.c\n");
        return 2;
    }
    return 0;
}
