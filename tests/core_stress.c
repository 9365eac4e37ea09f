/* Drives csrc/core alone, without any driver. Usage: core_stress MODE FOLDER SEED
 *
 *   table     random entries against a plain reference, then all of them swept
 *   pages     eight threads take and free small memory that shares pages
 *   names     memory that others know by a name leaves while other memory comes to its address
 *   threads   eight threads charge, withdraw and fill tables in one process
 *   processes eight processes of four threads under one cap
 *   kills     processes killed at random moments; the next one gets the whole cap at once
 *   forks     children of an attached process, by fork, vfork and with every descriptor closed
 *   moves     a charge that passes to another process while a third sums
 *   bells     whatever stands where the bell should
 *   holds     exported memory whose exporter lets go, or dies, before its importers
 *   handles   physical memory whose last handles several threads release at once, or end while
 *             another asks for one more
 *
 * Prints "ok" and what it counted, or a line saying what does not hold, and exits with 1.
 */
#include "core/slice.h"
#include "core/table.h"
#include "shim/memory/physical.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE (2ull << 20)
#define CAP (1000 * PAGE)

static const char *folder;
static uint64_t seed;

/* What has been granted and not yet given back, by all processes: never more than the cap. */
static _Atomic uint64_t *granted;

#define CHECK(what, ...)                                                                           \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("not so: " __VA_ARGS__);                                                        \
            printf(" (line %d)\n", __LINE__);                                                      \
            fflush(stdout);                                                                        \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void make_region(void) {
    int dirfd = open(folder, O_RDONLY | O_DIRECTORY);
    struct aliquot_region_device device = {.cap = CAP, .page_bytes = PAGE, .cores = 100};
    int error = aliquot_region_create(dirfd, "stress", &device, 1);
    CHECK(!error, "region made: %s", strerror(-error));
    close(dirfd);
    granted = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void attach(void) {
    struct aliquot_error error;
    CHECK(aliquot_attach(folder, NULL, &error), "attached: %s", error.text);
}

static void grant(uint64_t bytes) {
    uint64_t now = atomic_fetch_add(granted, bytes) + bytes;
    CHECK(now <= CAP, "%llu bytes granted under a cap of %llu", (unsigned long long)now, CAP);
}

/* -- table -------------------------------------------------------------------------------------- */

struct reference {
    uint64_t pointer, value;
    bool present;
};
enum { POINTERS = 20000 };

static struct aliquot_table table = {.page_shift = 21};

static uint64_t expected_pages(const struct reference *reference, bool *page_seen) {
    memset(page_seen, 0, 4096);
    uint64_t pages = 0;
    for (int i = 0; i < POINTERS; i++) {
        const struct reference *r = &reference[i];
        if (!r->present)
            continue;
        uint64_t page = r->pointer >> 21 & 4095;
        pages += !(r->value & ALIQUOT_SHARES) || !page_seen[page];
        if (r->value & ALIQUOT_SHARES)
            page_seen[page] = true;
    }
    return pages;
}

static void count_swept(uint64_t pointer, uint64_t value, uint64_t name,
                        enum aliquot_tenancy tenancy, void *argument) {
    (void)value;
    CHECK(!name, "nothing here has a name");
    CHECK(pointer >> 30 == 0x7f0000000000ull >> 30, "a swept entry is one of ours");
    CHECK(tenancy != ALIQUOT_TENANT_NONE, "a swept entry was there");
    *(int64_t *)argument -= tenancy == ALIQUOT_TENANT_EDGE;
}

static void run_table(void) {
    static struct reference reference[POINTERS];
    static bool page_seen[4096];
    int64_t pages = 0;
    /* Some lie where no bit of a page's record can stand for them. */
    for (uint64_t i = 0; i < POINTERS; i++)
        reference[i].pointer =
            0x7f0000000000ull + (i / 64 << 21) + i % 64 * 512 * 64 + (i % 5 == 0 ? 256 : 0);
    for (int step = 0; step < 400000; step++) {
        struct reference *r = &reference[next(&seed) % POINTERS];
        uint64_t value;
        if (!r->present) {
            struct aliquot_stale stale;
            /* Few values, so that most tenants of a page have the same, and not all. */
            r->value = (next(&seed) % 16 ? r->pointer >> 22 : next(&seed) >> 2) |
                       (r->pointer >> 21 & 1 ? ALIQUOT_SHARES : 0);
            enum aliquot_tenancy tenancy =
                aliquot_pointer_put(&table, r->pointer, r->value, &stale);
            CHECK(stale.tenancy == ALIQUOT_TENANT_NONE, "nothing stale");
            CHECK(tenancy != ALIQUOT_TENANT_NONE, "entered");
            pages += tenancy == ALIQUOT_TENANT_EDGE;
        } else {
            CHECK(aliquot_pointer_get(&table, r->pointer, &value) && value == r->value, "found");
            if (next(&seed) % 4 == 0) {
                /* Another value, which changes nothing else. */
                uint64_t other = (r->value & ALIQUOT_SHARES) | next(&seed) >> 2;
                CHECK(!aliquot_pointer_change(&table, r->pointer, UINT64_MAX, ~r->value, other),
                      "not what does not agree");
                CHECK(aliquot_pointer_change(&table, r->pointer, UINT64_MAX, r->value, other),
                      "what agrees");
                r->value = other;
                continue;
            }
            uint64_t name;
            CHECK(aliquot_pointer_take_if(&table, r->pointer, 1, ~r->value & 1, &value, &name) ==
                      ALIQUOT_TENANT_NONE,
                  "not what does not agree");
            enum aliquot_tenancy tenancy =
                step & 1 ? aliquot_pointer_take(&table, r->pointer, &value)
                         : aliquot_pointer_take_if(&table, r->pointer, UINT64_MAX, r->value, &value,
                                                   &name);
            CHECK(tenancy != ALIQUOT_TENANT_NONE && value == r->value, "taken");
            pages -= tenancy == ALIQUOT_TENANT_EDGE;
        }
        r->present = !r->present;
        if (step % 20000 == 0)
            CHECK(pages == (int64_t)expected_pages(reference, page_seen), "pages agree");
    }
    /* Entering again what is there is told as stale, and leaves the count right. */
    for (int i = 0; i < POINTERS; i += 7) {
        struct aliquot_stale stale;
        struct reference *r = &reference[i];
        enum aliquot_tenancy tenancy = aliquot_pointer_put(&table, r->pointer, r->value, &stale);
        CHECK((stale.tenancy != ALIQUOT_TENANT_NONE) == r->present, "stale where it was present");
        pages += (tenancy == ALIQUOT_TENANT_EDGE) - (stale.tenancy == ALIQUOT_TENANT_EDGE);
        r->present = true;
    }
    CHECK(pages == (int64_t)expected_pages(reference, page_seen), "pages agree");
    aliquot_pointer_sweep(&table, 3, 1, count_swept, &pages);
    aliquot_pointer_sweep(&table, 0, 0, count_swept, &pages);
    CHECK(pages == 0, "%lld pages left after the sweep", (long long)pages);
    uint64_t value;
    for (int i = 0; i < POINTERS; i++)
        CHECK(!aliquot_pointer_get(&table, reference[i].pointer, &value), "empty");
    for (uint64_t key = 1; key <= 5000; key++)
        CHECK(aliquot_table_put(&table, key * 8, key), "put");
    for (uint64_t key = 1; key <= 5000; key++)
        CHECK(aliquot_table_take(&table, key * 8, &value) && value == key, "taken again");
    printf("ok %d entries\n", POINTERS);
}

/* -- threads and processes ----------------------------------------------------------------------- */

enum { HELD = 32, STEPS = 50000 };
static pthread_barrier_t start;

static void *worker(void *argument) {
    uint64_t state = (uint64_t)(uintptr_t)argument, refusals = 0;
    uint64_t held[HELD] = {0};
    pthread_barrier_wait(&start);
    for (int step = 0; step < STEPS; step++) {
        uint64_t *mine = &held[next(&state) % HELD];
        if (*mine) {
            uint64_t value;
            uint64_t key = (uint64_t)(uintptr_t)mine << 1;
            CHECK(aliquot_table_take(&table, key, &value) && value == *mine, "entry of a charge");
            atomic_fetch_sub(granted, *mine);
            aliquot_withdraw(0, *mine);
            *mine = 0;
        } else {
            uint64_t bytes = (1 + next(&state) % 96) * PAGE;
            /* The second chance is slow by design; a share of the refusals takes it. */
            if (step % 64 ? aliquot_charge_once(0, bytes) : aliquot_charge(0, bytes)) {
                grant(bytes);
                *mine = bytes;
                aliquot_table_put(&table, (uint64_t)(uintptr_t)mine << 1, bytes);
            } else
                refusals++;
        }
    }
    for (int i = 0; i < HELD; i++)
        if (held[i]) {
            atomic_fetch_sub(granted, held[i]);
            aliquot_withdraw(0, held[i]);
        }
    return (void *)(uintptr_t)refusals;
}

static uint64_t run_threads(int count) {
    pthread_t thread[16];
    uint64_t refusals = 0;
    pthread_barrier_init(&start, NULL, (unsigned)count);
    for (int i = 0; i < count; i++)
        pthread_create(&thread[i], NULL, worker, (void *)(uintptr_t)(next(&seed) | 1));
    for (int i = 0; i < count; i++) {
        void *result;
        pthread_join(thread[i], &result);
        refusals += (uint64_t)(uintptr_t)result;
    }
    return refusals;
}

static void finish_child(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status),
          "a child ended well");
}

static void run_processes(void) {
    pid_t child[8];
    for (int i = 0; i < 8; i++) {
        next(&seed);
        if (!(child[i] = fork())) {
            attach();
            run_threads(4);
            fflush(stdout);
            _exit(0);
        }
    }
    for (int i = 0; i < 8; i++)
        finish_child(child[i]);
    attach();
    CHECK(aliquot_used(0) == 0, "%llu bytes left", (unsigned long long)aliquot_used(0));
    uint64_t peak = atomic_load(&aliquot_slice.usage->device[0].peak);
    CHECK(peak <= CAP && peak >= CAP / 100 * 99, "peak %llu of %llu", (unsigned long long)peak,
          CAP);
    printf("ok peak %llu of %llu bytes\n", (unsigned long long)peak, CAP);
}

/* -- pages -------------------------------------------------------------------------------------- */

enum { PAGES = 8, UNITS = 64 };
static _Atomic int64_t pages_charged, page_live[PAGES], names_given;

static void settle_pages(void) {
    struct aliquot_stale page;
    while (aliquot_pointer_settle(&table, &page)) {
        CHECK(page.tenancy == ALIQUOT_TENANT_EDGE && page.name, "what lingers has a name");
        pages_charged--;
        names_given--;
    }
}

/* As the driver's wrappers do: charge a page, enter, take back what is charged already; and depart,
 * free, and give back what the last one frees. Some frees fail, and some pages get a name. */
static void *share_pages(void *argument) {
    uint64_t state = (uint64_t)(uintptr_t)argument | 1;
    unsigned mine = (unsigned)((uintptr_t)argument >> 1 & 7);
    bool held[PAGES][UNITS / 8] = {{false}};
    for (int step = 0; step < STEPS * 2; step++) {
        unsigned number = (unsigned)(next(&state) % PAGES);
        unsigned unit = (unsigned)(next(&state) % (UNITS / 8));
        uint64_t pointer = 0x7f0000000000ull + ((uint64_t)number << 21) + (unit * 8 + mine) * 512;
        uint64_t value = ALIQUOT_SHARES | 7 | (next(&state) % 16 == 0 ? 8 : 0);
        if (!held[number][unit]) {
            struct aliquot_stale stale;
            pages_charged++;
            bool enters = aliquot_pointer_enters(&table);
            page_live[number]++;
            if (aliquot_pointer_put(&table, pointer, value, &stale) == ALIQUOT_TENANT_MORE)
                pages_charged--;
            CHECK(stale.tenancy == ALIQUOT_TENANT_NONE, "nothing stale");
            if (enters && aliquot_pointer_entered(&table))
                settle_pages();
        } else if (next(&state) % 8 == 0) {
            uint64_t before;
            names_given++;
            CHECK(aliquot_pointer_name(&table, pointer, number + 1, &before), "it is there");
            CHECK(!before || before == number + 1, "a page has its own name");
            if (before)
                names_given--;
            continue;
        } else {
            struct aliquot_page *page;
            uint64_t name;
            CHECK(aliquot_pointer_depart(&table, pointer, &value, &name, &page) !=
                      ALIQUOT_TENANT_NONE,
                  "it is there");
            CHECK(!name, "a page's name stays with it");
            if (next(&state) % 8 == 0) {
                if (aliquot_pointer_stay(&table, pointer, value, name, page))
                    pages_charged--;
                continue;
            }
            page_live[number]--;
            if (aliquot_pointer_gone(&table, pointer, page) == ALIQUOT_TENANT_EDGE)
                pages_charged--;
            settle_pages();
        }
        held[number][unit] = !held[number][unit];
        CHECK(pages_charged >= 0, "charges do not go below zero");
    }
    pthread_barrier_wait(&start);
    settle_pages();
    pthread_barrier_wait(&start);
    int64_t live = 0;
    for (unsigned i = 0; i < PAGES; i++)
        live += page_live[i] > 0;
    CHECK(pages_charged == live, "%lld pages charged, %lld in use", (long long)pages_charged,
          (long long)live);
    pthread_barrier_wait(&start);
    for (unsigned number = 0; number < PAGES; number++)
        for (unsigned unit = 0; unit < UNITS / 8; unit++) {
            uint64_t value;
            uint64_t pointer =
                0x7f0000000000ull + ((uint64_t)number << 21) + (unit * 8 + mine) * 512;
            if (held[number][unit] &&
                aliquot_pointer_take(&table, pointer, &value) == ALIQUOT_TENANT_EDGE)
                pages_charged--;
        }
    settle_pages();
    return NULL;
}

static void run_pages(void) {
    pthread_t thread[8];
    pthread_barrier_init(&start, NULL, 8);
    for (uintptr_t i = 0; i < 8; i++)
        pthread_create(&thread[i], NULL, share_pages,
                       (void *)(((uintptr_t)next(&seed) & ~15ull) | i << 1));
    for (int i = 0; i < 8; i++)
        pthread_join(thread[i], NULL);
    settle_pages();
    CHECK(pages_charged == 0, "%lld pages left", (long long)pages_charged);
    CHECK(names_given == 0, "%lld names left", (long long)names_given);
    printf("ok\n");
}

/* -- names -------------------------------------------------------------------------------------- */

/* The interleavings of two threads of which one frees what others know, and the other gets, and shows to
 * others, what the driver puts there: in one thread, step by step. */
static const uint64_t SMALL = ALIQUOT_SHARES | 7, OWN = 5, PLACE = 0x7f0000000000ull;

static enum aliquot_tenancy put(uint64_t pointer, uint64_t value) {
    struct aliquot_stale stale;
    enum aliquot_tenancy tenancy = aliquot_pointer_put(&table, pointer, value, &stale);
    CHECK(stale.tenancy == ALIQUOT_TENANT_NONE, "nothing stale");
    return tenancy;
}

static uint64_t name_of(uint64_t pointer, uint64_t name) {
    uint64_t before;
    CHECK(aliquot_pointer_name(&table, pointer, name, &before), "it is there");
    return before;
}

static bool settles(uint64_t name) {
    struct aliquot_stale page = {0};
    bool found = aliquot_pointer_settle(&table, &page);
    CHECK(!found || (page.value == SMALL && page.name == name), "the page and its name %llu",
          (unsigned long long)page.name);
    return found;
}

/* Pages of its own: whoever frees it has its name before the address can be another's. */
static void own_pages(void) {
    uint64_t value, name, later;
    struct aliquot_page *page;
    CHECK(put(PLACE, OWN) == ALIQUOT_TENANT_EDGE && !name_of(PLACE, 11), "named");
    CHECK(name_of(PLACE, 12) == 11, "it keeps its name");
    aliquot_pointer_depart(&table, PLACE, &value, &name, &page);
    CHECK(value == OWN && name == 11 && !page, "it leaves with its name");
    CHECK(put(PLACE, OWN) == ALIQUOT_TENANT_EDGE && !name_of(PLACE, 21), "the next has none");
    CHECK(aliquot_pointer_gone(&table, PLACE, page) == ALIQUOT_TENANT_EDGE, "the first has gone");
    CHECK(name_of(PLACE, 22) == 21, "the next keeps its own");
    aliquot_pointer_depart(&table, PLACE, &value, &name, &page);
    CHECK(!aliquot_pointer_stay(&table, PLACE, value, name, page), "not freed after all");
    CHECK(name_of(PLACE, 22) == 21, "and still known");
    CHECK(aliquot_pointer_take_if(&table, PLACE, 0, 0, &value, &later) == ALIQUOT_TENANT_EDGE,
          "taken");
    CHECK(value == OWN && later == 21, "with its name");
    CHECK(put(PLACE, OWN) == ALIQUOT_TENANT_EDGE && !name_of(PLACE, 31), "named again");
    aliquot_pointer_unname(&table, PLACE);
    CHECK(!name_of(PLACE, 32), "a name can be taken back");
    struct aliquot_stale stale;
    CHECK(aliquot_pointer_put(&table, PLACE, OWN, &stale) == ALIQUOT_TENANT_EDGE, "put again");
    CHECK(stale.tenancy == ALIQUOT_TENANT_EDGE && stale.name == 32, "what is stale has a name too");
    CHECK(aliquot_pointer_take(&table, PLACE, &value) == ALIQUOT_TENANT_EDGE, "empty");
}

/* A shared page: it is one memory, with one charge and one name, from before its last tenant's free
 * until after the next one's coming. */
static void shared_page(void) {
    const uint64_t other = PLACE + 4096;
    uint64_t value, name;
    struct aliquot_page *page;
    CHECK(put(PLACE, SMALL) == ALIQUOT_TENANT_EDGE && !name_of(PLACE, 11), "named");
    aliquot_pointer_depart(&table, PLACE, &value, &name, &page);
    CHECK(page && !name, "the last tenant keeps the page, and the page its name");
    CHECK(put(other, SMALL) == ALIQUOT_TENANT_MORE, "which is charged");
    CHECK(name_of(other, 12) == 11, "and has its name");
    CHECK(aliquot_pointer_gone(&table, PLACE, page) == ALIQUOT_TENANT_MORE, "the first has gone");
    CHECK(!settles(0), "the page stays");
    CHECK(name_of(other, 12) == 11, "with its name");
    /* What the driver has given and is not entered yet. */
    CHECK(aliquot_pointer_enters(&table), "it is said where there are names");
    aliquot_pointer_depart(&table, other, &value, &name, &page);
    CHECK(aliquot_pointer_gone(&table, other, page) == ALIQUOT_TENANT_MORE, "the page lingers");
    CHECK(!settles(0), "for what is on its way may lie in it");
    CHECK(put(PLACE, SMALL) == ALIQUOT_TENANT_MORE, "and does");
    CHECK(aliquot_pointer_entered(&table), "the last that enters is told");
    CHECK(!settles(0) && name_of(PLACE, 12) == 11, "the page stays");
    CHECK(aliquot_pointer_enters(&table), "something else is on its way");
    CHECK(aliquot_pointer_take(&table, PLACE, &value) == ALIQUOT_TENANT_MORE, "the last leaves");
    CHECK(!settles(0), "the page lingers");
    CHECK(put(PLACE + (2 << 21), OWN) == ALIQUOT_TENANT_EDGE, "what comes comes elsewhere");
    CHECK(aliquot_pointer_entered(&table) && settles(11) && !settles(0), "the page ends, once");
    CHECK(put(PLACE, SMALL) == ALIQUOT_TENANT_EDGE && !name_of(PLACE, 21), "the next is another");
    CHECK(aliquot_pointer_take(&table, PLACE, &value) == ALIQUOT_TENANT_MORE && settles(21),
          "with its own name");
    CHECK(aliquot_pointer_take(&table, PLACE + (2 << 21), &value) == ALIQUOT_TENANT_EDGE, "empty");
}

static void count_named(uint64_t pointer, uint64_t value, uint64_t name,
                        enum aliquot_tenancy tenancy, void *argument) {
    (void)value;
    CHECK(tenancy == ALIQUOT_TENANT_EDGE && name == (pointer >> 12 | 1), "swept with its name");
    ++*(unsigned *)argument;
}

/* A context that ends takes all its memory: what has a name beside what has none. */
static void sweep_names(void) {
    enum { MANY = 3000 };
    unsigned swept = 0;
    uint64_t value;
    for (uint64_t i = 0; i < MANY; i++) {
        uint64_t pointer = PLACE + (i % 7 << 21) + (i << 12);
        CHECK(put(pointer, i % 3 ? OWN : OWN + 8) == ALIQUOT_TENANT_EDGE, "entered");
        CHECK(!name_of(pointer, pointer >> 12 | 1), "named");
    }
    aliquot_pointer_sweep(&table, 15, OWN + 8, count_named, &swept);
    CHECK(swept == MANY / 3, "%u swept", swept);
    aliquot_pointer_sweep(&table, 15, OWN, count_named, &swept);
    CHECK(swept == MANY, "%u swept", swept);
    for (uint64_t i = 0; i < MANY; i++)
        CHECK(!aliquot_pointer_get(&table, PLACE + (i % 7 << 21) + (i << 12), &value), "empty");
    for (unsigned s = 0; s < ALIQUOT_SHARDS; s++)
        CHECK(!table.shard[s].count, "no name is left");
}

static void run_names(void) {
    own_pages();
    shared_page();
    sweep_names();
    printf("ok\n");
}

/* -- deaths -------------------------------------------------------------------------------------- */

static void churn(void) {
    for (uint64_t bytes = 0;; bytes = bytes % 400 + 1) {
        if (aliquot_charge_once(0, bytes * PAGE))
            aliquot_withdraw(0, bytes / 2 * PAGE);
        if (bytes % 50 == 0)
            aliquot_hold_export(bytes | 1, 0, PAGE);
        if (aliquot_used(0) > CAP / 2)
            aliquot_withdraw(0, atomic_load(&aliquot_slice.usage->charge[0][aliquot_slice.slot]));
    }
}

static void run_kills(void) {
    int kills = 0;
    for (; kills < 300; kills++) {
        pid_t victim[3], heir;
        int count = 1 + (int)(next(&seed) % 3);
        for (int i = 0; i < count; i++)
            if (!(victim[i] = fork())) {
                attach();
                churn();
            }
        struct timespec pause = {0, (long)(next(&seed) % 2000000)};
        nanosleep(&pause, NULL);
        for (int i = 0; i < count; i++) {
            kill(victim[i], SIGKILL);
            waitpid(victim[i], NULL, 0);
        }
        if (!(heir = fork())) {
            attach();
            CHECK(aliquot_charge(0, CAP), "the whole cap after kill %d; %llu bytes are charged",
                  kills, (unsigned long long)aliquot_used(0));
            CHECK(!aliquot_charge(0, PAGE), "no more than the cap");
            _exit(0);
        }
        finish_child(heir);
    }
    attach();
    CHECK(aliquot_charge(0, CAP), "the whole cap at the end");
    printf("ok %d kills, %u slots used\n", kills, atomic_load(&aliquot_slice.usage->high_water));
}

static int forgotten;
static void forget(void) { forgotten++; }

static void run_forks(void) {
    attach();
    CHECK(aliquot_charge(0, PAGE), "a page");
    uint32_t mine = aliquot_slice.slot;
    for (int fd = 3; fd < 256; fd++)
        close(fd);
    pid_t child = fork();
    if (!child) {
        struct aliquot_error error;
        CHECK(!aliquot_attached(), "a child is not attached");
        CHECK(aliquot_attach(folder, forget, &error), "attached: %s", error.text);
        CHECK(forgotten == 1, "a child forgets once");
        CHECK(aliquot_slice.slot != mine, "a place of its own, while the parent lives");
        CHECK(aliquot_charge(0, CAP - PAGE), "all but the parent's page");
        CHECK(!aliquot_charge(0, PAGE), "not the parent's page");
        _exit(0);
    }
    finish_child(child);
    CHECK(aliquot_used(0) <= CAP, "the child's charge is its own");
    if (!(child = vfork()))
        _exit(0);
    waitpid(child, NULL, 0);
    CHECK(aliquot_attached() && aliquot_slice.slot == mine, "vfork changes nothing");
    /* A child that lives on must not keep its dead parent's place alive. */
    int ready[2], gone[2];
    CHECK(!pipe(ready) && !pipe(gone), "pipes");
    if (!(child = fork())) {
        attach();
        CHECK(aliquot_charge(0, CAP - PAGE), "the rest of the cap");
        pid_t grandchild = fork();
        if (!grandchild) {
            char byte;
            close(gone[1]);
            CHECK(read(gone[0], &byte, 1) == 0, "told to go");
            _exit(0);
        }
        CHECK(write(ready[1], "x", 1) == 1, "told the parent");
        pause();
    }
    char byte;
    CHECK(read(ready[0], &byte, 1) == 1, "the child is ready");
    CHECK(!aliquot_charge(0, PAGE), "the child holds the rest");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK(aliquot_charge(0, CAP - PAGE), "a dead child owes nothing although its child lives");
    close(gone[1]);
    printf("ok\n");
}

/* -- bells -------------------------------------------------------------------------------------- */

static void ring(const char *what, long want) {
    char path[4200];
    struct stat status;
    snprintf(path, sizeof path, "%s/target", folder);
    errno = 12345;
    aliquot_ring_bell();
    CHECK(errno == 12345, "%s: errno stays", what);
    CHECK(stat(path, &status) == 0 && status.st_size == want, "%s: nobody's file grows", what);
    snprintf(path, sizeof path, "%s/bell", folder);
    unlink(path);
    rmdir(path);
}

/* A ring never waits, harms no file that somebody has put there, and raises no signal. */
static void run_bells(void) {
    char bell[4200], target[4200];
    snprintf(bell, sizeof bell, "%s/bell", folder);
    snprintf(target, sizeof target, "%s/target", folder);
    int fd = open(target, O_CREAT | O_WRONLY, 0600);
    CHECK(fd >= 0 && write(fd, "kept", 4) == 4, "a file");
    attach();
    ring("nothing", 4);
    CHECK(!symlink(target, bell), "a symbolic link");
    ring("a link to a file", 4);
    CHECK(!symlink("bell", bell), "a link to itself");
    ring("a link to itself", 4);
    CHECK(!symlink("/dev/full", bell), "a link to a device");
    ring("a device", 4);
    CHECK(!link(target, bell), "a regular file");
    ring("a regular file", 4);
    CHECK(!mkdir(bell, 0700), "a folder");
    ring("a folder", 4);
    CHECK(!mkfifo(bell, 0600), "a FIFO");
    ring("a FIFO that nobody reads", 4);
    CHECK(!mkfifo(bell, 0600), "a FIFO");
    int reader = open(bell, O_RDWR | O_NONBLOCK);
    char bytes[4096] = {0};
    while (write(reader, bytes, sizeof bytes) > 0)
        ;
    CHECK(reader >= 0 && errno == EAGAIN, "full");
    ring("a FIFO that is full", 4);
    sigset_t pending;
    CHECK(!sigpending(&pending) && !sigismember(&pending, SIGPIPE), "no signal waits");
    CHECK(!mkfifo(bell, 0600), "a FIFO");
    int other = open(bell, O_RDONLY | O_NONBLOCK);
    aliquot_ring_bell();
    CHECK(read(other, bytes, sizeof bytes) == 1, "a bell is heard");
    printf("ok\n");
}

/* -- moves -------------------------------------------------------------------------------------- */

static int told[2], done[2];
static void *second_page;

/* The sum has come to the second page of words, past the one of this process: the exporter, whose word lies
 * behind, lets go now. */
static void interrupted(int number) {
    char byte;
    (void)number;
    if (mprotect(second_page, 4096, PROT_READ | PROT_WRITE) || write(told[1], "x", 1) != 1 ||
        read(done[0], &byte, 1) != 1)
        _exit(9);
}

static void run_moves(void) {
    enum { BEHIND = 4096 / 8 };
    const uint64_t key = 0xabcdef1;
    char path[4096], byte;
    attach();
    CHECK(aliquot_slice.slot == 0, "the first slot");
    second_page = (void *)&aliquot_slice.usage->charge[0][BEHIND];
    CHECK((uintptr_t)second_page % 4096 == 0 && sysconf(_SC_PAGESIZE) == 4096, "words fill pages");
    /* All between are taken. */
    snprintf(path, sizeof path, "%s/usage", folder);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1, .l_len = BEHIND - 1};
    CHECK(fd >= 0 && !fcntl(fd, F_OFD_SETLK, &lock), "locked");
    CHECK(!pipe(told) && !pipe(done), "pipes");
    pid_t child = fork();
    if (!child) {
        attach();
        CHECK(aliquot_slice.slot == BEHIND, "a slot behind");
        CHECK(aliquot_charge(0, 10 * PAGE), "exporter's memory");
        CHECK(aliquot_hold_export(key, 0, 10 * PAGE), "exported");
        CHECK(write(done[1], "x", 1) == 1 && read(told[0], &byte, 1) == 1, "told to let go");
        aliquot_hold_drop(key, 0, 10 * PAGE);
        CHECK(write(done[1], "x", 1) == 1, "told");
        _exit(0);
    }
    CHECK(read(done[0], &byte, 1) == 1, "exported");
    CHECK(aliquot_hold_import(key) == key, "the memory is known");
    struct sigaction action = {.sa_handler = interrupted};
    CHECK(!sigaction(SIGSEGV, &action, NULL), "a handler");
    CHECK(!mprotect(second_page, 4096, PROT_NONE), "the sum will stop");
    CHECK(!aliquot_charge_once(0, CAP - 9 * PAGE), "what passes on is charged all the time");
    finish_child(child);
    CHECK(aliquot_used(0) == 10 * PAGE, "the importer is charged now");
    CHECK(!aliquot_charge(0, CAP - 9 * PAGE) && aliquot_charge(0, CAP - 10 * PAGE), "the rest");
    aliquot_withdraw(0, CAP - 10 * PAGE);
    /* Who dies while he passes something on stops nobody. */
    aliquot_move_begin(aliquot_slice.usage);
    CHECK(!aliquot_charge_once(0, PAGE), "it may have been in neither word");
    CHECK(aliquot_charge(0, PAGE) && aliquot_charge_once(0, PAGE), "looked after");
    printf("ok\n");
}

/* Who lets go while the region's lock cannot be had stays charged until it can. */
static void run_owed(uint64_t key) {
    int go[2], ready[2];
    char byte;
    CHECK(!pipe(ready) && !pipe(go), "pipes");
    CHECK(aliquot_charge(0, 2 * PAGE) && aliquot_hold_export(key, 0, 2 * PAGE), "exported");
    pid_t holder = fork();
    if (!holder) {
        char path[4096];
        snprintf(path, sizeof path, "%s/usage", folder);
        int fd = open(path, O_RDWR);
        CHECK(!aliquot_region_lock(fd, 1000000000), "locked");
        CHECK(write(ready[1], "x", 1) == 1 && read(go[0], &byte, 1) == 1, "told to let go");
        _exit(0);
    }
    CHECK(read(ready[0], &byte, 1) == 1, "another process has the lock");
    aliquot_hold_drop(key, 0, 2 * PAGE);
    CHECK(aliquot_used(0) == 2 * PAGE, "still charged");
    CHECK(write(go[1], "x", 1) == 1, "told");
    finish_child(holder);
    CHECK(aliquot_charge(0, CAP), "the whole cap, where it is needed");
    aliquot_withdraw(0, CAP);
    CHECK(aliquot_used(0) == 0, "nothing is owed");
}

static void run_holds(void) {
    const uint64_t key = 0xabcdef1;
    attach();
    uint32_t mine = aliquot_slice.slot;
    /* The exporter lets go: the importer inherits. */
    CHECK(aliquot_charge(0, 10 * PAGE), "exporter's memory");
    aliquot_hold_export(key, 0, 10 * PAGE);
    int ready[2], go[2];
    CHECK(!pipe(ready) && !pipe(go), "pipes");
    pid_t child = fork();
    if (!child) {
        attach();
        char byte;
        CHECK(aliquot_hold_import(key) == key, "the memory is known");
        CHECK(write(ready[1], "x", 1) == 1 && read(go[0], &byte, 1) == 1, "exporter let go");
        uint64_t inherited = atomic_load(&aliquot_slice.usage->charge[0][aliquot_slice.slot]);
        CHECK(inherited == 10 * PAGE, "inherited %llu bytes", (unsigned long long)inherited);
        aliquot_hold_drop(key, 0, 0);
        CHECK(aliquot_used(0) == 0, "gone with the importer");
        /* The other way round: this one exports, and dies. */
        CHECK(aliquot_charge(0, 5 * PAGE), "exporter's memory");
        aliquot_hold_export(key + 2, 0, 5 * PAGE);
        CHECK(write(ready[1], "y", 1) == 1, "told");
        pause();
    }
    char byte;
    CHECK(read(ready[0], &byte, 1) == 1, "imported");
    aliquot_hold_drop(key, 0, 10 * PAGE);
    CHECK(aliquot_used(0) == 10 * PAGE, "the importer is charged now");
    CHECK(!atomic_load(&aliquot_slice.usage->charge[0][mine]), "the exporter is not");
    CHECK(write(go[1], "x", 1) == 1 && read(ready[0], &byte, 1) == 1, "the child exported");
    CHECK(aliquot_hold_import(key + 2) == key + 2, "the memory is known");
    CHECK(aliquot_used(0) == 5 * PAGE, "an import is not charged");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK(aliquot_charge(0, CAP - 5 * PAGE), "all but what was inherited");
    CHECK(!aliquot_charge(0, PAGE), "what was inherited is charged");
    aliquot_hold_drop(key + 2, 0, 0);
    CHECK(aliquot_used(0) == CAP - 5 * PAGE, "let go of");
    /* Memory from outside the slice is nobody's here. */
    CHECK(aliquot_hold_import(key + 4) == 0, "a stranger's memory is not known");
    CHECK(aliquot_used(0) == CAP - 5 * PAGE, "no charge for a stranger's memory");
    /* Memory that nobody holds, and that somebody opens after all. */
    aliquot_withdraw(0, CAP - 5 * PAGE);
    CHECK(aliquot_used(0) == 0, "nothing is charged");
    CHECK(aliquot_charge(0, 3 * PAGE), "exporter's memory");
    aliquot_hold_export(key + 6, 0, 3 * PAGE);
    aliquot_hold_alias(key + 6, key + 8);
    aliquot_hold_drop(key + 6, 0, 3 * PAGE);
    CHECK(aliquot_used(0) == 0, "let go of");
    CHECK(aliquot_hold_import(key + 8) == 0, "the other name went with the last holder");
    CHECK(aliquot_hold_import(key + 6) == key + 6, "known by its note");
    CHECK(aliquot_used(0) == 3 * PAGE, "charged to whoever opens it");
    CHECK(aliquot_hold_import(key + 6) == key + 6, "opened twice");
    CHECK(aliquot_used(0) == 3 * PAGE, "charged once");
    aliquot_hold_drop(key + 6, 0, 0);
    CHECK(aliquot_used(0) == 3 * PAGE, "still open");
    aliquot_hold_drop(key + 6, 0, 0);
    CHECK(aliquot_used(0) == 0, "closed");
    /* Another name lasts as long as anybody holds the memory, whatever notes there are: also when the
     * one who gave it is dead. */
    if (!(child = fork())) {
        attach();
        CHECK(aliquot_charge(0, PAGE), "exporter's memory");
        aliquot_hold_export(key + 10, 0, PAGE);
        aliquot_hold_alias(key + 10, key + 12);
        CHECK(write(ready[1], "z", 1) == 1, "told");
        pause();
    }
    CHECK(read(ready[0], &byte, 1) == 1, "exported");
    CHECK(aliquot_hold_import(key + 10) == key + 10, "the memory is known");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK(aliquot_charge(0, CAP - PAGE), "all but what was inherited");
    CHECK(!aliquot_charge(0, PAGE), "which is charged");
    aliquot_withdraw(0, CAP - PAGE);
    for (uint64_t i = 1; i <= 2 * ALIQUOT_MAX_HOLDS; i++) {
        aliquot_charge(0, PAGE);
        aliquot_hold_export((key << 20) + 2 * i, 0, PAGE);
        aliquot_hold_drop((key << 20) + 2 * i, 0, PAGE);
    }
    CHECK(aliquot_hold_import(key + 12) == key + 10, "known by its other name");
    CHECK(aliquot_used(0) == PAGE, "charged once");
    aliquot_hold_drop(key + 10, 0, 0);
    aliquot_hold_drop(key + 10, 0, 0);
    CHECK(aliquot_used(0) == 0, "let go of");
    CHECK(aliquot_hold_import(key + 12) == 0, "and the name went with it");
    /* Notes of what is gone give way. */
    for (uint64_t i = 1; i <= 2 * ALIQUOT_MAX_HOLDS; i++) {
        aliquot_charge(0, PAGE);
        aliquot_hold_export(key + 2 * i, 0, PAGE);
        aliquot_hold_drop(key + 2 * i, 0, PAGE);
    }
    CHECK(aliquot_used(0) == 0, "nothing is left");
    CHECK(!aliquot_hold_doubtful(), "every export was written down");
    /* And where there are no notes that could: what is exported all the same is told, and counted. */
    for (uint64_t i = 1; i <= ALIQUOT_MAX_HOLDS; i++)
        CHECK(aliquot_hold_export(key + 2 * i, 0, 0), "written down");
    CHECK(!aliquot_hold_export(key, 0, 0) && aliquot_hold_doubtful(), "not written down");
    for (uint64_t i = 1; i <= ALIQUOT_MAX_HOLDS; i++)
        aliquot_hold_drop(key + 2 * i, 0, 0);
    run_owed(key);
    printf("ok\n");
}

struct ending {
    uint64_t handle, address;
    _Atomic pid_t thread;
    _Atomic bool done;
};

/* (Mappings begin where the tests say that they do.) */
uint64_t aliquot_mapping_base(uint64_t address) {
    (void)address;
    return 0;
}

static void unmap(uint64_t address) {
    struct aliquot_unmapping unmapping;
    aliquot_physical_unmap(&unmapping, address, 2 * PAGE);
    aliquot_physical_unmapped(&unmapping, true);
}

static void *end_memory(void *argument) {
    struct ending *ending = argument;
    atomic_store(&ending->thread, gettid());
    aliquot_physical_released(aliquot_physical_release(ending->handle), ending->handle, true);
    unmap(ending->address);
    atomic_store(&ending->done, true);
    return NULL;
}

/* Whether a thread of this process waits for something. */
static bool is_asleep(pid_t thread) {
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    const char *name_end = length > 0 ? strrchr(text, ')') : NULL;
    return name_end && name_end[2] == 'S';
}

/* The driver has answered with one more handle of what is mapped, and before that is written down another
 * thread has come to the end of its own handle and of the mapping: as far as it gets. */
static void retain_while_it_ends(uint64_t handle, uint64_t address, uint64_t another) {
    struct ending ending = {.handle = handle, .address = address};
    pthread_t thread;
    CHECK(aliquot_charge(0, 2 * PAGE), "memory");
    aliquot_physical_created(handle, 0, 2 * PAGE);
    aliquot_physical_mapped(aliquot_physical_map(handle), address, 2 * PAGE, true);
    aliquot_physical_retain();
    pthread_create(&thread, NULL, end_memory, &ending);
    while (!atomic_load(&ending.done) &&
           !(atomic_load(&ending.thread) && is_asleep(atomic_load(&ending.thread))))
        sched_yield();
    aliquot_physical_retained(address, another);
    pthread_join(thread, NULL);
    CHECK(aliquot_used(0) == 2 * PAGE, "what a handle is left of is charged");
    uint32_t last = aliquot_physical_release(another);
    CHECK(last, "the handle is known");
    aliquot_physical_released(last, another, true);
    CHECK(aliquot_used(0) == 0, "gone with the last handle");
}

/* Two threads release the two handles of a memory, and before they have written that down, the driver has
 * given the same number out again. */
static void run_handles(void) {
    const uint64_t handle = 0x7000, address = 0x40000000;
    attach();
    for (int fails = 0; fails < 2; fails++) {
        CHECK(aliquot_charge(0, 2 * PAGE), "memory");
        aliquot_physical_created(handle, 0, 2 * PAGE);
        aliquot_physical_mapped(aliquot_physical_map(handle), address, 2 * PAGE, true);
        aliquot_physical_retain();
        aliquot_physical_retained(address, handle);
        unmap(address);
        uint32_t one = aliquot_physical_release(handle), two = aliquot_physical_release(handle);
        CHECK(one && two, "both handles are known");
        if (fails) {
            aliquot_physical_released(one, handle, false);
            aliquot_physical_released(two, handle, true);
            CHECK(aliquot_used(0) == 2 * PAGE, "one handle is still there");
            one = aliquot_physical_release(handle);
            CHECK(one, "it is known");
            aliquot_physical_released(one, handle, true);
            CHECK(aliquot_used(0) == 0, "gone with the last handle");
            continue;
        }
        CHECK(aliquot_charge(0, 5 * PAGE), "other memory");
        aliquot_physical_created(handle, 0, 5 * PAGE);
        aliquot_physical_released(one, handle, true);
        aliquot_physical_released(two, handle, true);
        CHECK(aliquot_used(0) == 5 * PAGE, "%llu bytes of the second memory's are charged",
              (unsigned long long)aliquot_used(0));
        one = aliquot_physical_release(handle);
        CHECK(one, "the second memory's handle is known");
        aliquot_physical_released(one, handle, true);
        CHECK(aliquot_used(0) == 0, "nothing is left");
    }
    /* While one thread maps a memory, another releases the only handle. */
    for (int done = 0; done < 2; done++) {
        CHECK(aliquot_charge(0, 2 * PAGE), "memory");
        aliquot_physical_created(handle, 0, 2 * PAGE);
        uint32_t mapping = aliquot_physical_map(handle);
        aliquot_physical_released(aliquot_physical_release(handle), handle, true);
        CHECK(aliquot_used(0) == 2 * PAGE, "what is being mapped is charged");
        aliquot_physical_mapped(mapping, address, 2 * PAGE, done);
        CHECK(aliquot_used(0) == (done ? 2 * PAGE : 0), "as long as it is mapped");
        if (done)
            unmap(address);
        CHECK(aliquot_used(0) == 0, "gone with the mapping");
    }
    /* The same while it is exported: whoever opens it then answers for it. */
    CHECK(aliquot_charge(0, 2 * PAGE), "memory");
    aliquot_physical_created(handle, 0, 2 * PAGE);
    uint32_t export = aliquot_physical_keep(handle);
    aliquot_physical_released(aliquot_physical_release(handle), handle, true);
    CHECK(aliquot_used(0) == 2 * PAGE, "what is being exported is charged");
    aliquot_physical_exported(export, 0x1001, -1);
    CHECK(aliquot_used(0) == 0, "gone with the last of all");
    for (int same = 0; same < 2; same++)
        retain_while_it_ends(handle, address, handle + (same ? 0 : 64));
    printf("ok\n");
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: core_stress MODE FOLDER SEED\n");
        return 2;
    }
    const char *mode = argv[1];
    folder = argv[2];
    seed = strtoull(argv[3], NULL, 10) * 2 + 1;
    make_region();
    if (!strcmp(mode, "table"))
        run_table();
    else if (!strcmp(mode, "pages"))
        run_pages();
    else if (!strcmp(mode, "names"))
        run_names();
    else if (!strcmp(mode, "threads")) {
        attach();
        uint64_t refusals = run_threads(8);
        CHECK(aliquot_used(0) == 0, "%llu bytes left", (unsigned long long)aliquot_used(0));
        CHECK(refusals > 0, "the threads met the cap");
        printf("ok %llu refusals\n", (unsigned long long)refusals);
    } else if (!strcmp(mode, "processes"))
        run_processes();
    else if (!strcmp(mode, "kills"))
        run_kills();
    else if (!strcmp(mode, "forks"))
        run_forks();
    else if (!strcmp(mode, "bells"))
        run_bells();
    else if (!strcmp(mode, "moves"))
        run_moves();
    else if (!strcmp(mode, "holds"))
        run_holds();
    else if (!strcmp(mode, "handles"))
        run_handles();
    else
        return 2;
    return 0;
}
