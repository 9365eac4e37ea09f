/* A program whose driver fails on demand (fault_driver.c), so that a test sees what its shim makes of that.
 * Usage: fault_client DRIVER, the file of the failing driver; one command a line on standard input, one
 * answer a line:
 *
 *   begin AT FROM_THEN CODE            starts the tenant of the vendor that it is linked with
 *   try KIND SIZE DICE ROUNDS AT FROM_THEN CODE
 *       gets a thing of that kind, does something to it so many times, gives it back, waits for all of it
 *   again …                            the same
 *   call NAME CODE ARGUMENTS           calls a function whose every call fails; a letter an argument:
 *       p a zeroed place of its own, 0 and 1 themselves, k 4096, m the first address that the tenant got
 *   pass NAME …                        the same, with no failure
 *   end                                gives everything back
 *
 * With AT the n-th call of the driver fails with CODE, and all after it if FROM_THEN. The answer is
 *   WHAT calls=N failed=N first=FUNCTION in=FUNCTION answer=CODE hidden=N text
 * WHAT is `done`, `refused` where the thing could not be got, or `gave-up` where the tenant found what it
 * did not expect, with what that was as the text. `in` is the function of the shim that the tenant was
 * calling when the first call failed, and what it answered; `hidden` counts the calls that the shim
 * answered with success although their own was failed. */
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
    unsigned hidden;
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

/* In place of the tenants' own, which ends the program. Linked with --wrap=fail. */
void __wrap_fail(const char *format, ...) __attribute__((noreturn));
void __wrap_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(given_up, sizeof given_up, format, arguments);
    va_end(arguments);
    unlock();
    longjmp(way_out, 1);
}

static struct fault_plan plan_of(char **word, int code_at) {
    return (struct fault_plan){.at = strtoll(word[0], NULL, 10),
                               .only = -1,
                               .from_then = word[1][0] == '1',
                               .code = (int32_t)strtoll(word[code_at], NULL, 10)};
}

static void arm(const struct fault_plan *plan) {
    within.depth = within.hidden = 0;
    within.in = -1;
    given_up[0] = 0;
    driver.plan(plan);
}

static void report(const char *what) {
    struct fault_seen seen = driver.seen();
    driver.plan(&(struct fault_plan){.only = -1});
    printf("%s calls=%lld failed=%lld first=%s in=%s answer=%u text=%s\n", what,
           (long long)seen.calls, (long long)seen.failed,
           seen.first >= 0 ? driver.name(seen.first) : "-",
           within.in >= 0 ? front[within.in].name : "-", within.answer, given_up);
    fflush(stdout);
}

static void begin(char **word) {
    struct fault_plan plan = plan_of(word, 2);
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
    struct fault_plan plan = plan_of(word + 4, 2);
    uint64_t dice = strtoull(word[2], NULL, 10);
    int rounds = atoi(word[3]), result;
    struct thing *volatile at = &thing[things % 4];
    at->kind = NULL;
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
    if (result == 0 && driver.seen().failed)
        pause_holding();
    if (result == 0)
        give(at, mixed(dice + 99));
    MUST(vendor.synchronise());
    vendor.trim();
    report(result == 0 ? "done" : "refused");
}

static void end(void) {
    arm(&(struct fault_plan){.only = -1});
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

static void call(char **word, bool fails) {
    typedef int function(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                         uint64_t, uint64_t, uint64_t, uint64_t);
    uint64_t argument[ARGUMENTS] = {0};
    void *found = dlsym(RTLD_DEFAULT, word[0]);
    struct fault_plan plan = {.at = fails, .from_then = true, .only = driver.number(word[0])};
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
    within.answer = (uint32_t)called(argument[0], argument[1], argument[2], argument[3], argument[4],
                                     argument[5], argument[6], argument[7], argument[8], argument[9],
                                     argument[10], argument[11]);
    report("called");
}

int main(int argc, char **argv) {
    char line[512];
    places = mmap(NULL, ARGUMENTS * PLACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc < 4 || places == MAP_FAILED)
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
        if (words == 4 && !strcmp(word[0], "begin"))
            begin(word + 1);
        else if (words == 8 && !strcmp(word[0], "try"))
            try(word + 1);
        else if (words == 4 && !strcmp(word[0], "call"))
            call(word + 1, true);
        else if (words == 4 && !strcmp(word[0], "pass"))
            call(word + 1, false);
        else if (words == 1 && !strcmp(word[0], "end"))
            end();
        else
            return 2;
    }
    return 0;
}
