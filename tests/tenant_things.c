/* What every tenant has, whosever library it is on: kinds, and signs in memory. */
#include "tenant.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct tenant tenant = {.outbox = -1, .inbox = -1};

/* (Weak: a program may have another end.) */
__attribute__((weak)) void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("not so: ");
    vprintf(format, arguments);
    printf("\n");
    fflush(stdout);
    va_end(arguments);
    _exit(1);
}

void say(const char *call, int answer) { printf("%s: %d\n", call, answer); }

void *symbol_of(void *library, const char *name) {
    void *found = dlsym(library ? library : RTLD_DEFAULT, name);
    if (!found)
        fail("the library has no %s", name);
    return found;
}

/* -- Signs ----------------------------------------------------------------------------------------- */

static uint64_t sign_of(address pointer) { return pointer * 0x9e3779b97f4a7c15u; }

void mark(address pointer, uint64_t size) {
    uint64_t sign = sign_of(pointer);
    if (size < 2 * sizeof sign)
        return;
    vendor.write(pointer, &sign, sizeof sign);
    vendor.write(pointer + size - sizeof sign, &sign, sizeof sign);
}

void check_mark(address pointer, uint64_t size) {
    uint64_t sign = sign_of(pointer), first = 0, last = 0;
    if (size < 2 * sizeof sign)
        return;
    vendor.read(&first, pointer, sizeof first);
    vendor.read(&last, pointer + size - sizeof last, sizeof last);
    if (first != sign || last != sign)
        fail("the memory at %llx holds what somebody else wrote", pointer);
}

void look_at_memory(void) {
    uint64_t total = 0;
    for (const struct query *query = vendor.queries; query->function; query++)
        for (unsigned form = 0; form < query->forms; form++) {
            struct told told = query->ask(form);
            total = total ? total : told.total;
            if (told.free > told.total || told.total != total)
                fail("%s (%u) tells of %llu bytes free of %llu, others of %llu", query->function,
                     form, (unsigned long long)told.free, (unsigned long long)told.total,
                     (unsigned long long)total);
        }
}

/* -- Kinds ------------------------------------------------------------------------------------------- */

int nothing_poke(struct thing *thing, uint64_t dice) {
    (void)thing;
    (void)dice;
    return 0;
}

const struct kind *kind_named(const char *name) {
    for (const struct kind *const *list = vendor.kinds; *list; list++)
        for (const struct kind *kind = *list; kind->name; kind++)
            if (!strcmp(kind->name, name))
                return kind;
    fail("there is no kind %s", name);
}

int get(struct thing *thing, const struct kind *kind, uint64_t size, uint64_t dice) {
    memset(thing, 0, sizeof *thing);
    thing->size = size ? size : 1;
    int result = kind->get(thing, thing->size, dice);
    thing->kind = result == 0 ? kind : NULL;
    thing->context = !thing->kind ? NULL : vendor.views ? tenant.primary : vendor.current();
    return result;
}

void give(struct thing *thing, uint64_t dice) {
    thing->kind->give(thing, dice);
    thing->kind = NULL;
}
