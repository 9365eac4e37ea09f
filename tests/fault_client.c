/* A program whose driver fails on demand (fault_driver.c), so that a test sees what its shim makes of that.
 * Usage: fault_client LIBRARY DRIVER WAY BOX, where DRIVER is the file of the failing driver, WAY how functions
 * are looked up (symbol or address) and BOX two descriptors, OUT,IN. One command a line on standard input, one
 * answer a line:
 *
 *   begin AT FROM_THEN CODE ONLY       starts the tenant of the vendor that it is linked with
 *   try KIND SIZE DICE ROUNDS AT FROM_THEN CODE ONLY
 *       gets a thing of that kind, does something to it so many times, gives it back, waits for all of it
 *   call NAME CODE ARGUMENTS           calls a function whose every call fails; a letter an argument:
 *       p a zeroed place of its own, 0 and 1 themselves, k 4096
 *   end                                gives everything back
 *
 * The AT-th call of the driver fails with CODE (0: none), and all after it where FROM_THEN is 1; of the calls
 * of ONLY, where that is a function. Where it is 2, all calls of other threads fail. The answer is
 *   WHAT calls=N failed=N first=FUNCTION in=FUNCTION answer=CODE text=TEXT
 * WHAT is `done`, `refused` where the thing could not be got, or `gave-up` where the tenant found what it
 * did not expect, with what that was as the text. `first` is the function of the driver that failed first,
 * `in` the one that the tenant was calling then, and `answer` what that answered. Where a single call has
 * failed and a thing is held all the same, there is a line `holding` before the answer, and a wait for a
 * line. */
#include "fault_driver.h"
#include "fault_stub.h"
#include "tenant.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STUBS = 1024, DEPTH = 8, ARGUMENTS = 12, PLACE = 1 << 16 };

/* -- What the tenant calls --------------------------------------------------------------------------- */

__asm__(".text\n.globl front_stubs\nfront_stubs:\n"
        ".set front_next, 0\n"
        ".rept 1024\n"
        ".balign 16\n mov $((. - front_stubs) / 16), %r11d\n jmp front_common\n"
        ".endr\n");
extern char front_stubs[];
FAULT_STUBS(front);

static struct {
    char name[64];
    void *address;
} front[STUBS];
static unsigned fronts;

static struct {
    unsigned depth;
    uint64_t number[DEPTH];
    void *back[DEPTH];
    int64_t failed_before;
    int in; /* -1: no call has failed yet */
    uint32_t answer;
} within;

static struct {
    void (*plan)(const struct fault_plan *plan);
    struct fault_seen (*seen)(void);
    int32_t (*number)(const char *name);
    const char *(*name)(int32_t number);
} driver;

struct fault_verdict front_enter(uint64_t number, const struct fault_frame *frame, void *back) {
    (void)frame;
    if (within.depth == DEPTH)
        abort();
    if (within.depth == 0)
        within.failed_before = driver.seen().failed;
    within.number[within.depth] = number;
    within.back[within.depth++] = back;
    return (struct fault_verdict){front[number].address, 0};
}

void *front_leave(uint64_t answer) {
    void *back = within.back[--within.depth];
    struct fault_seen seen = driver.seen();
    if (within.depth == 0 && seen.failed > within.failed_before && within.in < 0) {
        within.in = (int)within.number[0];
        within.answer = (uint32_t)answer;
    }
    return back;
}

void *__real_symbol_of(void *library, const char *name);
void *__wrap_symbol_of(void *library, const char *name);

/* Each function that the tenant looks up. Linked with --wrap=symbol_of. */
void *__wrap_symbol_of(void *library, const char *name) {
    if (fronts == STUBS)
        abort();
    snprintf(front[fronts].name, sizeof front[fronts].name, "%s", name);
    front[fronts].address = __real_symbol_of(library, name);
    return front_stubs + 16 * fronts++;
}

/* -- Scenarios ---------------------------------------------------------------------------------------- */

static jmp_buf way_out;
static char given_up[256];
static struct thing thing[4];
static unsigned things;

/* The tenant's lock, which it may have let go of. Linked with --wrap=hold_letters. */
static int lock = -1;
int __real_hold_letters(bool fetches);
int __wrap_hold_letters(bool fetches);
int __wrap_hold_letters(bool fetches) { return lock = __real_hold_letters(fetches); }

static void unlock(void) {
    struct stat locked, own;
    if (lock >= 0 && fstat(lock, &locked) == 0 && stat("/proc/self/exe", &own) == 0 &&
        locked.st_ino == own.st_ino)
        close(lock);
    lock = -1;
}

/* In place of the tenants' own, which ends the program. */
void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(given_up, sizeof given_up, format, arguments);
    va_end(arguments);
    unlock();
    longjmp(way_out, 1);
}

static const struct fault_plan nothing = {.only = -1};

/* AT FROM_THEN CODE ONLY. */
static struct fault_plan plan_of(char **word) {
    return (struct fault_plan){.at = strtoll(word[0], NULL, 10),
                               .from_then = word[1][0] != '0',
                               .others = word[1][0] == '2',
                               .code = (int32_t)strtoll(word[2], NULL, 10),
                               .only = driver.number(word[3])};
}

/* Where the tenant has a context that it got, beside its primary one. */
static void **context_got;

/* What was seen until the plan was dropped. */
static struct fault_seen last_seen;

static void arm(const struct fault_plan *plan) {
    last_seen = (struct fault_seen){.first = -1};
    within.depth = 0;
    within.in = -1;
    given_up[0] = 0;
    driver.plan(plan);
}

/* What could not be told when it was asked for is taken up with the next wait; what was freed in the order of
 * a stream, when that has come to it. */
static void settle(void) {
    void *other = context_got ? *context_got : NULL;
    if (other && vendor.enter(other) == 0) {
        vendor.synchronise();
        vendor.enter(tenant.primary);
    }
    vendor.synchronise();
}

static void report(const char *what) {
    struct fault_seen seen = last_seen.failed ? last_seen : driver.seen();
    driver.plan(&nothing);
    if (seen.failed)
        settle();
    printf("%s calls=%lld failed=%lld first=%s in=%s answer=%u text=%s\n", what,
           (long long)seen.calls, (long long)seen.failed,
           seen.first >= 0 ? driver.name(seen.first) : "-",
           within.in >= 0 ? front[within.in].name : "-", within.answer, given_up);
    fflush(stdout);
}

static void begin(char **word) {
    struct fault_plan plan = plan_of(word);
    int result = 0;
    arm(&plan);
    if (setjmp(way_out) == 0) {
        result = vendor.start();
        report(result == 0 ? "done" : "refused");
    } else
        report("gave-up");
}

/* The test looks at what is held. */
static void pause_holding(void) {
    char line[16];
    last_seen = driver.seen();
    driver.plan(&nothing);
    settle();
    printf("holding\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        _exit(2);
}

static uint64_t mixed(uint64_t number) {
    number = (number ^ number >> 31) * 0x7fb5d329728ea185u;
    number = (number ^ number >> 27) * 0x81dadef4bc2dd44du;
    return number >> 1;
}

static void try(char **word) {
    struct fault_plan plan = plan_of(word + 4);
    uint64_t dice = strtoull(word[2], NULL, 10);
    int rounds = atoi(word[3]), result;
    struct thing *const at = &thing[things % 4];
    memset(at, 0, sizeof *at);
    context_got = strcmp(word[0], "context") ? NULL : &at->object[0];
    things++;
    arm(&plan);
    if (setjmp(way_out)) {
        report("gave-up");
        return;
    }
    result = get(at, kind_named(word[0]), strtoull(word[1], NULL, 10), mixed(dice));
    for (int i = 1; i <= rounds && result == 0; i++) {
        int poked = at->kind->poke(at, mixed(dice + (unsigned)i * 1000));
        if (poked != 0 && poked != vendor.out_of_memory && poked != (int)ABSENT &&
            !driver.seen().failed)
            fail("a poke is answered with %d", poked);
    }
    struct fault_seen seen = driver.seen();
    if (result == 0 && seen.failed && !plan.from_then)
        pause_holding();
    if (result == 0)
        give(at, mixed(dice + 99));
    MUST(vendor.synchronise());
    vendor.trim();
    report(result == 0 ? "done" : "refused");
}

static void end(void) {
    arm(&nothing);
    if (setjmp(way_out) == 0) {
        MUST(vendor.synchronise());
        vendor.trim();
        MUST(vendor.release(false));
        report("done");
    } else
        report("gave-up");
}

/* -- Single calls ------------------------------------------------------------------------------------- */

static char (*places)[PLACE];

static void call(char **word) {
    typedef int function(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                         uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
    uint64_t argument[ARGUMENTS] = {0};
    void *found = dlsym(RTLD_DEFAULT, word[0]);
    struct fault_plan plan = {.at = 1, .from_then = true, .only = driver.number(word[0])};
    plan.code = (int32_t)strtoll(word[1], NULL, 10);
    if (!found || plan.only < 0) {
        printf("absent\n");
        fflush(stdout);
        return;
    }
    memset(places, 0, ARGUMENTS * PLACE);
    for (int i = 0; i < ARGUMENTS && word[2][i]; i++)
        switch (word[2][i]) {
        case 'p':
            argument[i] = (uintptr_t)places[i];
            break;
        case 'k':
            argument[i] = 4096;
            break;
        case '1':
            argument[i] = 1;
            break;
        default:
            break;
        }
    arm(&plan);
    function *called = (function *)found;
    within.answer = (uint32_t)called(argument[0], argument[1], argument[2], argument[3],
                                     argument[4], argument[5], argument[6], argument[7],
                                     argument[8], argument[9], argument[10], argument[11]);
    report("called");
}

int main(int argc, char **argv) {
    char line[512];
    places =
        mmap(NULL, ARGUMENTS * PLACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc != 5 || places == MAP_FAILED ||
        sscanf(argv[4], "%d,%d", &tenant.outbox, &tenant.inbox) != 2)
        return 2;
    vendor.load(argv[1], RTLD_NOW | RTLD_GLOBAL, !strcmp(argv[3], "address"));
    void *failing = dlopen(argv[2], RTLD_NOW | RTLD_NOLOAD);
    if (!failing)
        return 2;
    *(void **)&driver.plan = dlsym(failing, "fault_plan");
    *(void **)&driver.seen = dlsym(failing, "fault_seen");
    *(void **)&driver.number = dlsym(failing, "fault_number");
    *(void **)&driver.name = dlsym(failing, "fault_name");
    while (fgets(line, sizeof line, stdin)) {
        char *word[12] = {0}, *rest = NULL;
        unsigned words = 0;
        for (char *at = strtok_r(line, " \n", &rest); at && words < 12;
             at = strtok_r(NULL, " \n", &rest))
            word[words++] = at;
        if (words == 5 && !strcmp(word[0], "begin"))
            begin(word + 1);
        else if (words == 9 && !strcmp(word[0], "try"))
            try(word + 1);
        else if (words == 4 && !strcmp(word[0], "call"))
            call(word + 1);
        else if (words == 1 && !strcmp(word[0], "end"))
            end();
        else
            return 2;
    }
    return 0;
}
