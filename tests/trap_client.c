/* Traps that real programs set for a library in the vendor's place. Usage: trap_client MODE CAP …
 *
 *   stubs FILE      a library that exports the vendor's names globally and forwards them by dlsym
 *   patch NAME …    entry points patched in place, and mended again
 *   linked          nothing but calls through the program's own link, which a preload may stand in
 *   addresses       address space beyond the cap and beyond the device
 *   host            memory on the host
 *
 * Each ends by taking CAP bytes in pieces until it is refused, and prints how many it got.
 */
#include "tenant.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t free_now(uint64_t cap) {
    struct told told = vendor.queries[0].ask(0);
    look_at_memory();
    if (told.total != cap)
        fail("a device of %llu bytes", (unsigned long long)told.total);
    return told.free;
}

static void fill(uint64_t cap) {
    address pointer;
    int result;
    uint64_t got = 0;
    free_now(cap);
    while ((result = vendor.allocate(&pointer, 2 * MIB)) == 0) {
        got += 2 * MIB;
        if (got > cap)
            fail("%llu bytes got", (unsigned long long)got);
    }
    if (result != vendor.out_of_memory)
        fail("a refusal is %d", result);
    printf("got %llu\n", (unsigned long long)got);
}

/* -- patch --------------------------------------------------------------------------------------- */

enum { PATCHED = 999 };

static unsigned patched_calls;
static int instead(void) {
    patched_calls++;
    return PATCHED;
}

/* A jump to `instead` at the function's first bytes, as an in-place hook writes it. */
static void check_patch(const char *name) {
    unsigned char jump[14] = {0xff, 0x25, 0, 0, 0, 0}, old[sizeof jump];
    unsigned char *entry = symbol_of(NULL, name);
    uint64_t target = (uint64_t)(uintptr_t)instead;
    memcpy(jump + 6, &target, sizeof target);
    uintptr_t page = (uintptr_t)entry & ~4095ull;
    if (mprotect((void *)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC))
        fail("%s cannot be written", name);
    memcpy(old, entry, sizeof old);
    memcpy(entry, jump, sizeof jump);
    unsigned before = patched_calls;
    int result = ((int (*)(void *, size_t))symbol_of(NULL, name))(NULL, 0);
    if (result != PATCHED || patched_calls != before + 1)
        fail("%s was not patched", name);
    memcpy(entry, old, sizeof old);
    if (mprotect((void *)page, 8192, PROT_READ | PROT_EXEC))
        fail("%s cannot be mended", name);
}

/* -- addresses and host -------------------------------------------------------------------------- */

/* Some of a kind that takes nothing of the device. */
static void hold_for_nothing(const char *kind, uint64_t size, uint64_t cap) {
    struct thing things[4];
    size_t before = free_now(cap);
    for (unsigned i = 0; i < 4; i++)
        MUST(get(&things[i], kind_named(kind), size, i));
    if (free_now(cap) != before)
        fail("%s cost %lld bytes", kind, (long long)(before - free_now(cap)));
    for (unsigned i = 0; i < 4; i++)
        give(&things[i], 0);
}

int main(int argc, char **argv) {
    const char *mode = argc >= 3 ? argv[1] : "";
    uint64_t cap = argc >= 3 ? strtoull(argv[2], NULL, 10) : 0;
    bool stubs = !strcmp(mode, "stubs") && argc == 4, linked = !strcmp(mode, "linked");
    bool patch = !strcmp(mode, "patch");
    /* Names that are global: of the stubs before the vendor's library comes, or of that itself. */
    vendor.load(stubs ? argv[3] : vendor.library,
                stubs || linked || patch ? RTLD_NOW | RTLD_GLOBAL : RTLD_NOW, false);
    if (linked)
        vendor.load(NULL, 0, false);
    MUST(vendor.start());
    if (patch)
        for (int i = 3; i < argc; i++)
            check_patch(argv[i]);
    else if (!strcmp(mode, "addresses"))
        hold_for_nothing("addresses", cap, cap);
    else if (!strcmp(mode, "host")) {
        hold_for_nothing("elsewhere", cap / 2, cap);
        hold_for_nothing("pinned", cap / 2, cap);
    } else if (!stubs && !linked)
        return 2;
    fill(cap);
    return 0;
}
