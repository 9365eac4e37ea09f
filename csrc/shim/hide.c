/* Taking exports back that this driver does not have.
 *
 * The shim exports every name of the table, so that programs link against it with any driver. An
 * export whose resolver answers NULL makes dlsym return NULL without an error message, which
 * programs do not expect: CPython before 3.12.8 crashes on it, and whoever asks dlerror takes NULL
 * for the function's address. So once the driver is known, what it lacks loses its value in our own
 * symbol table in memory, and every look-up from then on passes us by and fails as it does on the
 * bare driver.
 */
#include "driver.h"

#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

struct own {
    const char *strings;
    ElfW(Sym) * symbol;
    const uint32_t *hash;
};

static struct own own_tables(void) {
    struct own own = {NULL, NULL, NULL};
    uintptr_t base = (uintptr_t)&__ehdr_start;
    for (const ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
        uintptr_t value = entry->d_un.d_ptr;
        /* The loader relocates these in place on some machines and leaves them on others. */
        uintptr_t address = value < base ? value + base : value;
        if (entry->d_tag == DT_STRTAB)
            own.strings = (const char *)address;
        else if (entry->d_tag == DT_SYMTAB)
            own.symbol = (ElfW(Sym) *)address;
        else if (entry->d_tag == DT_GNU_HASH)
            own.hash = (const uint32_t *)address;
    }
    return own;
}

/* Our own definition of `name`, by the hash table that the linker made; NULL when there is none. */
static ElfW(Sym) * own_symbol(const struct own *own, const char *name) {
    uint32_t hash = 5381;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        hash = hash * 33 + *c;
    uint32_t buckets = own->hash[0], first = own->hash[1], words = own->hash[2];
    const uint32_t *bucket = own->hash + 4 + words * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
    const uint32_t *chain = bucket + buckets;
    if (buckets == 0 || bucket[hash % buckets] < first)
        return NULL;
    for (uint32_t index = bucket[hash % buckets];; index++) {
        uint32_t found = chain[index - first];
        if ((found | 1) == (hash | 1) && !strcmp(own->strings + own->symbol[index].st_name, name))
            return &own->symbol[index];
        if (found & 1)
            return NULL;
    }
}

void aliquot_hide_missing(void) {
    struct own own = own_tables();
    if (!own.strings || !own.symbol || !own.hash)
        return;
    /* The entries that go, first and last, bound the pages that must be written. */
    ElfW(Sym) * missing[F_COUNT];
    unsigned count = 0;
    uintptr_t low = UINTPTR_MAX, high = 0;
    const char *name = aliquot_fn_names;
    for (unsigned fn = 0; fn < F_COUNT; fn++, name += strlen(name) + 1) {
        ElfW(Sym) *symbol = aliquot_real[fn] ? NULL : own_symbol(&own, name);
        if (!symbol)
            continue;
        missing[count++] = symbol;
        low = (uintptr_t)symbol < low ? (uintptr_t)symbol : low;
        high = (uintptr_t)(symbol + 1) > high ? (uintptr_t)(symbol + 1) : high;
    }
    if (count == 0)
        return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    low &= ~(page - 1);
    high = (high + page - 1) & ~(page - 1);
    /* Where a policy forbids it, a missing name goes on answering NULL without a message. */
    if (mprotect((void *)low, high - low, PROT_READ | PROT_WRITE) != 0)
        return;
    for (unsigned i = 0; i < count; i++)
        /* relaxed: the loader reads it with a plain load, and either value is right meanwhile. */
        __atomic_store_n(&missing[i]->st_value, 0, __ATOMIC_RELAXED);
    mprotect((void *)low, high - low, PROT_READ);
}
