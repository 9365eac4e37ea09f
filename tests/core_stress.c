/* Drives csrc/core alone, without any driver. Usage: core_stress MODE FOLDER SEED
 *
 *   table     random entries against a plain reference, then all of them swept
 *   pages     eight threads take and free small memory that shares pages
 *   threads   eight threads charge, withdraw and fill tables in one process
 *   processes eight processes of four threads under one cap
 *   kills     processes killed at random moments; the next one gets the whole cap at once
 *   forks     children of an attached process, by fork, vfork and with every descriptor closed
 *   holds     exported memory whose exporter lets go, or dies, before its importers
 *
 * Prints "ok" and what it counted, or a line saying what does not hold, and exits with 1.
 */
#include "core/slice.h"
#include "core/table.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

static void count_swept(uint64_t pointer, uint64_t value, enum aliquot_tenancy tenancy,
                        void *argument) {
    (void)value;
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
            r->value = (next(&seed) % 16 ? r->pointer >> 22 : next(&seed) >> 1) |
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
                uint64_t other = (r->value & ALIQUOT_SHARES) | next(&seed) >> 1;
                CHECK(!aliquot_pointer_change(&table, r->pointer, UINT64_MAX, ~r->value, other),
                      "not what does not agree");
                CHECK(aliquot_pointer_change(&table, r->pointer, UINT64_MAX, r->value, other),
                      "what agrees");
                r->value = other;
                continue;
            }
            CHECK(aliquot_pointer_take_if(&table, r->pointer, 1, ~r->value & 1, &value) ==
                      ALIQUOT_TENANT_NONE,
                  "not what does not agree");
            enum aliquot_tenancy tenancy =
                step & 1
                    ? aliquot_pointer_take(&table, r->pointer, &value)
                    : aliquot_pointer_take_if(&table, r->pointer, UINT64_MAX, r->value, &value);
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
static _Atomic int64_t pages_charged, page_live[PAGES];

/* As the driver's wrappers do: charge a page, enter, take back what is charged already; and depart,
 * free, and give back what the last one frees. Some frees fail. */
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
            page_live[number]++;
            if (aliquot_pointer_put(&table, pointer, value, &stale) == ALIQUOT_TENANT_MORE)
                pages_charged--;
            CHECK(stale.tenancy == ALIQUOT_TENANT_NONE, "nothing stale");
        } else {
            struct aliquot_page *page;
            CHECK(aliquot_pointer_depart(&table, pointer, &value, &page) != ALIQUOT_TENANT_NONE,
                  "it is there");
            if (next(&state) % 8 == 0) {
                if (aliquot_pointer_stay(&table, pointer, value, page))
                    pages_charged--;
                continue;
            }
            page_live[number]--;
            if (aliquot_pointer_gone(&table, pointer, page) == ALIQUOT_TENANT_EDGE)
                pages_charged--;
        }
        held[number][unit] = !held[number][unit];
        CHECK(pages_charged >= 0, "charges do not go below zero");
    }
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
    CHECK(pages_charged == 0, "%lld pages left", (long long)pages_charged);
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
    CHECK(aliquot_hold_import(key + 8) == key + 6, "known by its other name");
    CHECK(aliquot_used(0) == 3 * PAGE, "charged to whoever opens it");
    CHECK(aliquot_hold_import(key + 6) == key + 6, "opened twice");
    CHECK(aliquot_used(0) == 3 * PAGE, "charged once");
    aliquot_hold_drop(key + 6, 0, 0);
    CHECK(aliquot_used(0) == 3 * PAGE, "still open");
    aliquot_hold_drop(key + 6, 0, 0);
    CHECK(aliquot_used(0) == 0, "closed");
    /* Notes of what is gone give way. */
    for (uint64_t i = 1; i <= 2 * ALIQUOT_MAX_HOLDS; i++) {
        aliquot_charge(0, PAGE);
        aliquot_hold_export(key + 2 * i, 0, PAGE);
        aliquot_hold_drop(key + 2 * i, 0, PAGE);
    }
    CHECK(aliquot_used(0) == 0, "nothing is left");
    CHECK(atomic_load(&aliquot_slice.usage->lost_holds) == 0, "every export was written down");
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
    else if (!strcmp(mode, "holds"))
        run_holds();
    else
        return 2;
    return 0;
}
