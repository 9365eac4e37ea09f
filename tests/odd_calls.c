/* Calls whose answers must be the same on the vendor's library and in a slice. Usage: odd_calls MODE
 *
 *   forged     pointers and handles of what is not there, or not ours
 *   shortage   a device that is full: each call that allocates is refused, and holds nothing
 *   sticky     an allocator like vLLM's: a refusal, then smaller requests that succeed
 *
 * Prints one line for each call: its name and what came of it.
 */
#include "tenant.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static uint64_t free_now(void) {
    MUST(vendor.synchronise());
    look_at_memory();
    return vendor.queries[0].ask(0).free;
}

static void run_shortage(void) {
    struct thing thing;
    address pointer;
    uint64_t size = 512 * MIB;
    /* All but what no single allocation would get. */
    for (; size >= 4 * MIB; size /= 2)
        while (vendor.allocate(&pointer, size) == 0)
            ;
    uint64_t before = free_now();
    for (const struct kind *const *list = vendor.kinds; *list; list++)
        for (const struct kind *kind = *list; kind->name; kind++)
            for (uint64_t dice = 0; dice < 12; dice++) {
                int result = get(&thing, kind, 64 * MIB, dice);
                printf("%s %llu: %d\n", kind->name, (unsigned long long)dice, result);
                if (result == 0)
                    give(&thing, dice);
                vendor.trim();
                if (free_now() != before)
                    fail("%s leaves %lld bytes", kind->name, (long long)(before - free_now()));
            }
}

static void run_sticky(void) {
    /* Physical memory, mapped once; its handle lives as long. */
    const struct kind *pages = kind_named("pages");
    enum { MAPPED_ONCE = 1 };
    struct thing half, other;
    uint64_t before = free_now();
    for (int i = 0; i < 50; i++) {
        int result = get(&other, pages, before + MIB, MAPPED_ONCE);
        if (result != vendor.out_of_memory)
            fail("more than there is is answered with %d", result);
        result = get(&half, pages, before / 2, MAPPED_ONCE);
        if (result != 0)
            fail("half of what there is is answered with %d after a refusal", result);
        mark(half.pointer[0], before / 2);
        check_mark(half.pointer[0], before / 2);
        if (get(&other, pages, before / 2 + 4 * MIB, MAPPED_ONCE) == 0)
            fail("more than the rest was given");
        give(&half, 0);
        if (free_now() != before)
            fail("%llu bytes free, not %llu", (unsigned long long)free_now(),
                 (unsigned long long)before);
    }
    printf("ok\n");
}

int main(int argc, char **argv) {
    const char *mode = argc == 2 ? argv[1] : "";
    vendor.load(vendor.library, RTLD_NOW, false);
    MUST(vendor.start());
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(mode, "forged"))
        vendor.forge();
    else if (!strcmp(mode, "shortage"))
        run_shortage();
    else if (!strcmp(mode, "sticky"))
        run_sticky();
    else
        fail("no mode %s", mode);
    return 0;
}
