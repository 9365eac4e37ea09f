/* Programs that start, live and end as programs do, only not as one expects of programs for accelerators.
 * Usage: odd_ends MODE BYTES. Each allocates BYTES, prints "ready", and goes on when its standard
 * input ends, or a line comes; what does not hold is one line "not so: …" and status 1.
 */
#include "tenant.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what, ...)                                                                           \
    do {                                                                                           \
        if (!(what))                                                                               \
            fail(__VA_ARGS__);                                                                     \
    } while (0)

static size_t bytes;
static address first;

static void begin(void) {
    MUST(vendor.start());
    MUST(vendor.allocate(&first, bytes));
}

static void still_works(void) {
    address pointer;
    MUST(vendor.free(first));
    MUST(vendor.allocate(&first, bytes));
    int result = vendor.allocate(&pointer, bytes);
    CHECK(result == vendor.out_of_memory, "twice as much is answered with %d", result);
}

/* Tells the test, and waits for it. */
static void ready(void) {
    printf("ready\n");
    fflush(stdout);
    getchar();
}

static void expect_end(pid_t child, int status_wanted) {
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) &&
              WEXITSTATUS(status) == status_wanted,
          "a child ended with %x", status);
}

/* -- Modes --------------------------------------------------------------------------------------- */

static void run_closed(void) {
    begin();
    CHECK(close_range(3, ~0u, 0) == 0, "everything is closed");
    still_works();
    ready();
}

static void run_vfork(void) {
    begin();
    pid_t child = vfork();
    if (!child) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(9);
    }
    expect_end(child, 0);
    child = vfork();
    if (!child)
        _exit(7);
    expect_end(child, 7);
    still_works();
    ready();
}

static char stack[1 << 20] __attribute__((aligned(64)));

/* Another process with the same memory: what it allocates is its parent's. */
static int share(void *argument) {
    (void)argument;
    return vendor.free(first) == 0 && vendor.allocate(&first, bytes) == 0 ? 5 : 6;
}

static void run_clone(void) {
    begin();
    /* A fork behind the C library's back: no handler of its runs. */
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (!child) {
        vendor.expect_nothing(first);
        _exit(4);
    }
    expect_end(child, 4);
    child =
        clone(share, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, NULL);
    expect_end(child, 5);
    /* One that shares descriptors, and closes them all. */
    child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
    if (!child)
        _exit(close_range(3, ~0u, 0) == 0 ? 3 : 2);
    expect_end(child, 3);
    still_works();
    ready();
}

static void run_before(void) {
    /* The library is loaded, as by a server that forks its workers, but not initialised. */
    if (vendor.expect_uninitialised)
        vendor.expect_uninitialised();
    pid_t child = fork();
    begin();
    if (child) {
        ready();
        expect_end(child, 0);
    } else
        ready();
}

/* Its child lives on. */
static void run_after(void) {
    begin();
    pid_t child = fork();
    if (!child) {
        vendor.expect_nothing(first);
        pid_t grandchild = fork();
        if (!grandchild) {
            vendor.expect_nothing(first);
            _exit(0);
        }
        expect_end(grandchild, 0);
        printf("child\n");
        ready();
        _exit(0);
    }
    still_works();
    if (getenv("ODD_WAITS"))
        ready();
    /* The end of a process whose memory a child has still mapped. */
    _exit(0);
}

static void run_exec(char **argv) {
    begin();
    char *again[] = {argv[0], "plain", argv[2], NULL};
    execv("/proc/self/exe", again);
    CHECK(0, "it cannot be executed again");
}

static void run_plain(void) {
    begin();
    still_works();
    ready();
}

static void *churn(void *argument) {
    address pointer[8] = {0};
    (void)argument;
    MUST(vendor.enter(tenant.primary));
    for (unsigned i = 0;; i++) {
        address *mine = &pointer[i % 8];
        if (*mine)
            MUST(vendor.free(*mine));
        if (vendor.allocate(mine, 4096 << i % 12) != 0)
            *mine = 0;
    }
    return NULL;
}

static void start_threads(void) {
    pthread_t thread;
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&thread, NULL, churn, NULL) == 0, "a thread");
}

static void run_chroot(void) {
    char name[] = "/tmp/odd-XXXXXX";
    begin();
    CHECK(mkdtemp(name) && chroot(name) == 0 && chdir("/") == 0, "another root");
    still_works();
    ready();
}

static void *outlive(void *argument) {
    struct timespec pause = {0, 50000000};
    (void)argument;
    MUST(vendor.enter(tenant.primary));
    nanosleep(&pause, NULL); /* so that the main thread has gone, which gives no sign of it */
    still_works();
    ready();
    exit(0);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: odd_ends MODE BYTES\n");
        return 2;
    }
    const char *mode = argv[1];
    bytes = strtoull(argv[2], NULL, 10);
    vendor.load(vendor.library, RTLD_NOW, false);
    if (!strcmp(mode, "closed"))
        run_closed();
    else if (!strcmp(mode, "vfork"))
        run_vfork();
    else if (!strcmp(mode, "clone"))
        run_clone();
    else if (!strcmp(mode, "before"))
        run_before();
    else if (!strcmp(mode, "after"))
        run_after();
    else if (!strcmp(mode, "exec"))
        run_exec(argv);
    else if (!strcmp(mode, "plain"))
        run_plain();
    else if (!strcmp(mode, "chroot"))
        run_chroot();
    else if (!strcmp(mode, "returns") || !strcmp(mode, "exits")) {
        begin();
        start_threads();
        ready();
        if (!strcmp(mode, "exits"))
            _exit(0);
    } else if (!strcmp(mode, "outlived")) {
        pthread_t thread;
        begin();
        CHECK(pthread_create(&thread, NULL, outlive, NULL) == 0, "a thread");
        pthread_exit(NULL);
    } else
        return 2;
    return 0;
}
