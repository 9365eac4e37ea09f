/* Finding the real driver and its functions.
 *
 * The driver is loaded, as our DT_NEEDED, when this code runs; we look its functions up in its own
 * symbol table. dlsym would do the same for a handle, but a handle needs dlopen, which an export's
 * resolver must not call while the loader relocates, and both are what other preloads override.
 */
#include "driver.h"
#include "maps.h"

#include <assert.h>
#include <elf.h>
#include <limits.h>
#include <link.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

void *aliquot_real[F_COUNT];
static char folder[PATH_MAX];
uintptr_t aliquot_driver_begin, aliquot_driver_end;
static _Atomic int ready;

/* Address to function, for routing: open addressing, at most half full, by the number of the function
 * plus 1. Small, for a process pays for every page of it that it touches. */
#define ROUTES 4096u
static_assert(F_COUNT * 2 <= ROUTES, "the routing table is at most half full");
static uint16_t route[ROUTES];

/* An object's dynamic section, with addresses made absolute. */
struct object {
    uintptr_t base;
    const char *path;
    const ElfW(Dyn) * dynamic;
    const char *strings, *soname;
    const ElfW(Sym) * symbol;
    const uint32_t *gnu_hash, *sysv_hash;
    uintptr_t end; /* of what is loaded of it */
};

static bool read_object(const struct dl_phdr_info *info, struct object *object) {
    *object = (struct object){.base = info->dlpi_addr, .path = info->dlpi_name};
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t end = info->dlpi_addr + part->p_vaddr + part->p_memsz;
        if (part->p_type == PT_DYNAMIC)
            object->dynamic = (const ElfW(Dyn) *)(info->dlpi_addr + part->p_vaddr);
        else if (part->p_type == PT_LOAD && end > object->end)
            object->end = end;
    }
    if (!object->dynamic)
        return false;
    uintptr_t soname = UINTPTR_MAX;
    for (const ElfW(Dyn) *entry = object->dynamic; entry->d_tag != DT_NULL; entry++) {
        uintptr_t value = entry->d_un.d_ptr;
        /* The loader has relocated these in place, except where the section is read-only. */
        uintptr_t address = value < object->base ? value + object->base : value;
        switch (entry->d_tag) {
        case DT_STRTAB:
            object->strings = (const char *)address;
            break;
        case DT_SYMTAB:
            object->symbol = (const ElfW(Sym) *)address;
            break;
        case DT_GNU_HASH:
            object->gnu_hash = (const uint32_t *)address;
            break;
        case DT_HASH:
            object->sysv_hash = (const uint32_t *)address;
            break;
        case DT_SONAME:
            soname = value;
            break;
        default:
            break;
        }
    }
    if (object->strings && soname != UINTPTR_MAX)
        object->soname = object->strings + soname;
    return object->strings && object->symbol && (object->gnu_hash || object->sysv_hash);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

struct search {
    struct object driver;
    int rank; /* 0 none, 1 by SONAME, 2 by file name, 3 the very file */
    struct stat wanted;
    bool have_wanted;
};

static int find_self(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    (void)data;
    for (unsigned i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC &&
            info->dlpi_addr + info->dlpi_phdr[i].p_vaddr == (uintptr_t)_DYNAMIC) {
            const char *slash = strrchr(info->dlpi_name, '/');
            int length = slash ? (int)(slash - info->dlpi_name) : 1;
            const char *path = slash ? info->dlpi_name : ".";
            if (snprintf(folder, sizeof folder, "%.*s/.aliquot", length, path) >=
                (int)sizeof folder)
                folder[0] = 0;
            return 1;
        }
    return 0;
}

static int consider(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    struct search *search = data;
    struct object object;
    if (!read_object(info, &object) || object.dynamic == _DYNAMIC)
        return 0;
    int rank = 0;
    struct stat status;
    if (search->have_wanted && object.path[0] && stat(object.path, &status) == 0 &&
        status.st_dev == search->wanted.st_dev && status.st_ino == search->wanted.st_ino)
        rank = 3;
    else if (!strcmp(base_name(object.path), ALIQUOT_DRIVER_NAME))
        rank = 2;
    else if (object.soname && !strcmp(object.soname, ALIQUOT_DRIVER_SONAME))
        rank = 1;
    if (rank > search->rank) {
        search->rank = rank;
        search->driver = object;
    }
    return 0;
}

static void *address_of(const struct object *object, uint32_t index) {
    const ElfW(Sym) *symbol = &object->symbol[index];
    void *address = (void *)(object->base + symbol->st_value);
    if (ELF64_ST_TYPE(symbol->st_info) == STT_GNU_IFUNC)
        address = ((void *(*)(void))address)();
    return address;
}

static bool is_definition(const struct object *object, uint32_t index, const char *name) {
    const ElfW(Sym) *symbol = &object->symbol[index];
    unsigned type = ELF64_ST_TYPE(symbol->st_info);
    return symbol->st_shndx != SHN_UNDEF && symbol->st_value &&
           ELF64_ST_BIND(symbol->st_info) != STB_LOCAL &&
           (type == STT_FUNC || type == STT_GNU_IFUNC || type == STT_NOTYPE) &&
           !strcmp(object->strings + symbol->st_name, name);
}

static void *lookup_gnu(const struct object *object, const char *name) {
    uint32_t hash = 5381;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        hash = hash * 33 + *c;
    const uint32_t *table = object->gnu_hash;
    uint32_t buckets = table[0], first = table[1], bloom_words = table[2], shift = table[3];
    const uint64_t *bloom = (const uint64_t *)(table + 4);
    const uint32_t *bucket = (const uint32_t *)(bloom + bloom_words);
    const uint32_t *chain = bucket + buckets;
    uint64_t filter = bloom[hash / 64 % bloom_words];
    if (!buckets || !(filter >> hash % 64 & filter >> (hash >> shift) % 64 & 1))
        return NULL;
    for (uint32_t index = bucket[hash % buckets]; index >= first && index; index++) {
        uint32_t found = chain[index - first];
        if ((found | 1) == (hash | 1) && is_definition(object, index, name))
            return address_of(object, index);
        if (found & 1)
            break;
    }
    return NULL;
}

static void *lookup_sysv(const struct object *object, const char *name) {
    uint32_t hash = 0;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
        hash = (hash << 4) + *c;
        hash = (hash ^ (hash & 0xf0000000u) >> 24) & 0x0fffffffu;
    }
    uint32_t buckets = object->sysv_hash[0];
    const uint32_t *bucket = object->sysv_hash + 2, *chain = bucket + buckets;
    if (buckets)
        for (uint32_t index = bucket[hash % buckets]; index; index = chain[index])
            if (is_definition(object, index, name))
                return address_of(object, index);
    return NULL;
}

/* Our wrapper of a function, or NULL. */
static void *wrapper_of(unsigned fn) {
    const int32_t *entry = &aliquot_fn_wrapper[fn];
    return *entry ? (void *)((intptr_t)entry + *entry) : NULL;
}

static unsigned slot_of(const void *address) {
    uint64_t hash = (uint64_t)(uintptr_t)address * 0x9e3779b97f4a7c15ull;
    return (unsigned)(hash >> 52) % ROUTES;
}

/* The place of the function at `address`, or the free one where it would go. */
static uint16_t *find_route(const void *address) {
    unsigned at = slot_of(address);
    while (route[at] && aliquot_real[route[at] - 1] != address)
        at = (at + 1) % ROUTES;
    return &route[at];
}

static void add_route(unsigned fn) {
    uint16_t *place = find_route(aliquot_real[fn]);
    /* Where the driver gives two names one address, the one we wrap stands for both. */
    if (!*place || (!wrapper_of(*place - 1u) && wrapper_of(fn)))
        *place = (uint16_t)(fn + 1);
}

static void resolve(void) {
    struct search search = {.rank = 0};
    /* Which of the two knows this library knows the driver, too. */
    bool told = dl_iterate_phdr(find_self, NULL) != 0;
    if (!told)
        aliquot_iterate_maps(find_self, NULL);
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, ALIQUOT_DRIVER_NAME) < (int)sizeof path)
        search.have_wanted = stat(path, &search.wanted) == 0;
    if (told)
        dl_iterate_phdr(consider, &search);
    else
        aliquot_iterate_maps(consider, &search);
    if (search.rank) {
        aliquot_driver_begin = search.driver.base;
        aliquot_driver_end = search.driver.end;
        const char *name = aliquot_fn_names;
        for (unsigned fn = 0; fn < F_COUNT; fn++, name += strlen(name) + 1) {
            void *address = search.driver.gnu_hash ? lookup_gnu(&search.driver, name)
                                                   : lookup_sysv(&search.driver, name);
            aliquot_real[fn] = address;
            if (address)
                add_route(fn);
        }
        aliquot_hide_missing();
    } else
        folder[0] = 0;
    for (unsigned fn = 0; fn < F_COUNT; fn++)
        if (!aliquot_real[fn])
            aliquot_real[fn] = aliquot_missing;
}

void aliquot_resolve(void) {
    static _Atomic int busy;
    /* acquire: pairs with the release below. */
    if (atomic_load_explicit(&ready, memory_order_acquire))
        return;
    /* One thread resolves, some 100 us once a process; others that come meanwhile wait. A lock
     * would need initialised objects that a resolver at load time cannot count on. */
    if (atomic_exchange_explicit(&busy, 1, memory_order_acquire) == 0) {
        resolve();
        atomic_store_explicit(&ready, 1, memory_order_release);
    }
    while (!atomic_load_explicit(&ready, memory_order_acquire))
        sched_yield();
}

void *aliquot_export(unsigned fn) {
    aliquot_resolve();
    void *real = aliquot_real[fn];
    void *wrapper = wrapper_of(fn);
    return real && wrapper ? wrapper : real;
}

void *aliquot_route(void *address, bool *known) {
    unsigned found = *find_route(address);
    *known = found != 0;
    void *wrapper = found ? wrapper_of(found - 1) : NULL;
    return wrapper ? wrapper : address;
}

const char *aliquot_folder(void) {
    aliquot_resolve();
    return folder[0] ? folder : NULL;
}
