/* An ordinary program on the CUDA driver that launches kernels of a length, for benches of sharing.
 *
 *   load NS BATCH          launches for ever, and waits for the stream after each BATCH (0: never)
 *   online NS GAP COUNT    COUNT times: sleeps for about GAP ns, launches one and waits for it; prints
 *                          for each the ns from before the launch to after the wait
 *
 * Both say "ready" when a first kernel has run, and go on at a line on standard input; `load` ends with
 * the input. Needs no header of CUDA's. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char image[] = ".version 7.0\n.target sm_50\n.address_size 64\n"
                            ".visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }\n";

static struct {
    int (*init)(unsigned);
    int (*retain)(void **, int);
    int (*set_current)(void *);
    int (*load)(void **, const void *);
    int (*function)(void **, void *, const char *);
    int (*stream)(void **, unsigned);
    int (*wait)(void *);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                  void *, void **, void **);
} cu;
static void *spin, *stream;

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

static void find(void *library, const char *name, void *to) {
    void *symbol = dlsym(library, name);
    if (!symbol)
        fail(name, "not in libcuda.so.1");
    memcpy(to, &symbol, sizeof symbol);
}

static void start(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *context, *module;
    if (!library)
        fail("libcuda.so.1", dlerror());
    find(library, "cuInit", &cu.init);
    find(library, "cuDevicePrimaryCtxRetain", &cu.retain);
    find(library, "cuCtxSetCurrent", &cu.set_current);
    find(library, "cuModuleLoadData", &cu.load);
    find(library, "cuModuleGetFunction", &cu.function);
    find(library, "cuStreamCreate", &cu.stream);
    find(library, "cuStreamSynchronize", &cu.wait);
    find(library, "cuLaunchKernel", &cu.launch);
    check(cu.init(0), "cuInit");
    check(cu.retain(&context, 0), "cuDevicePrimaryCtxRetain");
    check(cu.set_current(context), "cuCtxSetCurrent");
    check(cu.load(&module, image), "cuModuleLoadData");
    check(cu.function(&spin, module, "aliquot_spin_ns"), "cuModuleGetFunction");
    check(cu.stream(&stream, 1), "cuStreamCreate");
}

static void launch(uint64_t ns) {
    void *parameters[] = {&ns};
    check(cu.launch(spin, 4096, 1, 1, 1024, 1, 1, 0, stream, parameters, NULL), "cuLaunchKernel");
}

static void wait(void) { check(cu.wait(stream), "cuStreamSynchronize"); }

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
    } else if (argc == 5 && !strcmp(argv[1], "online")) {
        start();
        online(number[0], number[1], number[2]);
    } else {
        fprintf(stderr, "usage: see the beginning of launcher.c\n");
        return 2;
    }
    return 0;
}
