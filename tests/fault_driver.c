/* A driver whose calls fail on demand: it stands between a shim and the driver, exports all that the
 * driver exports, and passes every call on but those that a test wants to fail. NAMES is a file with the
 * list of its functions, TRUE_DRIVER the name under which it finds the driver. */
#include "fault_driver.h"
#include "fault_stub.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { NONE = -1, DEPTH = 32 };

static const char *const names[] = {
#define F(number, name) #name,
#include NAMES
#undef F
};
enum { COUNT = sizeof names / sizeof *names };

/* The stubs, each with its number. */
#define F(number, name)                                                                            \
    __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n"                    \
            "mov $" #number ", %r11d\n jmp fault_common\n.size " #name ", . - " #name "\n");
#include NAMES
#undef F
FAULT_STUBS(fault);

static void *stub[COUNT], *real[COUNT];

/* The calls that a thread is within. */
struct within {
    uint64_t number;
    void *back;
    void **answer; /* where the driver puts the address of a function; NULL: it does not */
};
static __thread struct {
    unsigned depth;
    struct within call[DEPTH];
} thread;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct fault_plan plan = {.only = NONE};
static struct fault_seen seen = {.first = NONE};
static pthread_t planner;

__attribute__((constructor)) static void find(void) {
    void *driver = dlopen(TRUE_DRIVER, RTLD_LAZY | RTLD_NOLOAD);
    Dl_info own;
    if (!driver || !dladdr((void *)find, &own))
        abort();
    void *self = dlopen(own.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    for (int i = 0; i < COUNT; i++) {
        real[i] = dlsym(driver, names[i]);
        stub[i] = dlsym(self, names[i]);
        if (!real[i] || !stub[i] || real[i] == stub[i])
            abort();
    }
}

EXPORT void fault_plan(const struct fault_plan *wanted) {
    pthread_mutex_lock(&mutex);
    plan = *wanted;
    planner = pthread_self();
    seen = (struct fault_seen){.first = NONE};
    pthread_mutex_unlock(&mutex);
}

EXPORT struct fault_seen fault_seen(void) {
    pthread_mutex_lock(&mutex);
    struct fault_seen now = seen;
    pthread_mutex_unlock(&mutex);
    return now;
}

EXPORT int32_t fault_number(const char *name) {
    for (int32_t i = 0; i < COUNT; i++)
        if (!strcmp(names[i], name))
            return i;
    return NONE;
}

EXPORT const char *fault_name(int32_t number) {
    return number >= 0 && number < COUNT ? names[number] : "";
}

static bool fails(uint64_t number) {
    bool now = false;
    pthread_mutex_lock(&mutex);
    if (plan.at && pthread_equal(planner, pthread_self()) != plan.others &&
        (plan.only == NONE || plan.only == (int32_t)number)) {
        seen.calls++;
        now = plan.from_then ? seen.calls >= plan.at : seen.calls == plan.at;
    }
    if (now && !seen.failed++)
        seen.first = (int32_t)number;
    pthread_mutex_unlock(&mutex);
    return now;
}

struct fault_verdict fault_enter(uint64_t number, const struct fault_frame *frame, void *back) {
    if (thread.depth == 0 && fails(number))
        return (struct fault_verdict){NULL, (uint32_t)plan.code};
    if (thread.depth == DEPTH)
        abort();
    const char *name = names[number];
    bool looks_up = !strncmp(name, "cuGetProcAddress", 16) || !strcmp(name, "cnGetExportFunction");
    thread.call[thread.depth++] =
        (struct within){number, back, looks_up ? (void **)frame->argument[1] : NULL};
    return (struct fault_verdict){real[number], 0};
}

/* What a driver finds by name are its own exports. */
void *fault_leave(uint64_t answer) {
    struct within *call = &thread.call[--thread.depth];
    if (call->answer && (uint32_t)answer == 0)
        for (int i = 0; i < COUNT; i++)
            if (real[i] == *call->answer) {
                *call->answer = stub[i];
                break;
            }
    return call->back;
}
