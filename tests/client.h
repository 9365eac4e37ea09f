/* What test programs in C share, whatever they call. Each is a table of cases: called with a name it runs
 * that case, and ends with 0 or one line on standard error. */
#ifndef CLIENT_H
#define CLIENT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MS UINT64_C(1000000) /* nanoseconds */

__attribute__((noreturn)) static inline void fail(const char *file, int line, const char *what,
                                                  long long got, long long wanted) {
    fprintf(stderr, "%s:%d: %s: %lld, not %lld\n", file, line, what, got, wanted);
    fflush(stderr);
    _Exit(1);
}
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(__FILE__, __LINE__, #condition, 0, 1);                                            \
    } while (0)
#define SAME(a, b)                                                                                 \
    do {                                                                                           \
        long long same_a_ = (long long)(a), same_b_ = (long long)(b);                              \
        if (same_a_ != same_b_)                                                                    \
            fail(__FILE__, __LINE__, #a " == " #b, same_a_, same_b_);                              \
    } while (0)

#ifdef CLIENT_CASES
struct client_case {
    const char *name;
    void (*call)(void);
};
extern const struct client_case client_cases[];

static int client_argc;
static char **client_argv;

int main(int argc, char **argv) {
    client_argc = argc;
    client_argv = argv;
    for (const struct client_case *one = client_cases; one->name; one++) {
        if (argc > 1 && strcmp(argv[1], one->name) == 0) {
            one->call();
            return 0;
        }
    }
    fprintf(stderr, "no such case\n");
    return 2;
}

/* A number of the command line, behind the case's name, from 0; 0 where there is none. */
static inline double client_number(int index) {
    return index + 2 < client_argc ? atof(client_argv[index + 2]) : 0;
}
#endif

#endif
