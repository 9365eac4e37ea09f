/* What programs for Ascend devices share that do what standard input says: each is one file, which has
 * ACL(X) and RUNTIME(X), the functions that it calls, and obey(). */
#ifndef ASCEND_PROGRAM_H
#define ASCEND_PROGRAM_H

#include <ctype.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DECLARE(name, parameters) static int(*name) parameters;

/* Does one line: a word for what, one for how, and two more; missing ones are "". */
void obey(const char *what, const char *how, const char *a, const char *b);

static inline void *found(void *library, const char *name) {
    void *symbol = dlsym(library, name);
    if (!symbol) {
        printf("not so: %s\n", dlerror());
        exit(1);
    }
    return symbol;
}

static inline bool is(const char *word, const char *other) { return strcmp(word, other) == 0; }
static inline bool is_number(const char *word) { return isdigit((unsigned char)*word); }

/* Memory, handles, streams and whatever else was got, by number. */
enum { THINGS = 4096 };
static void *things[THINGS];
static int thing_count;

static inline void *thing(int number) {
    return number >= 0 && number < thing_count ? things[number] : NULL;
}

static inline void answer(int code) { printf("%d\n", code); }

static inline void answer_thing(int code, void *const *got) {
    int number = code == 0 && thing_count < THINGS ? thing_count++ : -1;
    if (number >= 0)
        things[number] = *got;
    printf("%d %d\n", code, number);
}

#define LOOK_UP(name, parameters) *(void **)&name = found(library, #name);
#define PROGRAM                                                                                    \
    static void look_up_in(const char *file, void (*look_up)(void *)) {                            \
        void *library = dlopen(file, RTLD_NOW | RTLD_GLOBAL);                                      \
        if (!library) {                                                                            \
            printf("not so: %s\n", dlerror());                                                     \
            exit(1);                                                                               \
        }                                                                                          \
        look_up(library);                                                                          \
    }                                                                                              \
    static void look_up_acl(void *library) { ACL(LOOK_UP) }                                        \
    static void look_up_runtime(void *library) { RUNTIME(LOOK_UP) }                                \
    int main(void) {                                                                               \
        char line[512], what[64], how[64], a[192], b[192];                                         \
        setvbuf(stdout, NULL, _IOLBF, 0);                                                          \
        look_up_in("libascendcl.so", look_up_acl);                                                 \
        look_up_in("libruntime.so", look_up_runtime);                                              \
        while (fgets(line, sizeof line, stdin)) {                                                  \
            what[0] = how[0] = a[0] = b[0] = 0;                                                    \
            if (sscanf(line, "%63s %63s %191s %191s", what, how, a, b) > 0)                        \
                obey(what, how, a, b);                                                             \
        }                                                                                          \
        return 0;                                                                                  \
    }

#endif
