/* See tenant.h. Usage: tenant [--lookup symbol|address] [--box OUT,IN] MODE …
 *
 *   serve                   one command a line on standard input, one answer a line:
 *       get KIND SLOT SIZE DICE    poke SLOT DICE    give SLOT DICE    send SLOT
 *           the driver's answer as a number
 *       enter SLOT | enter primary | leave
 *           makes that context the current one for what follows, or none
 *       retain | release | reset
 *           the primary context
 *       settle              waits for the device
 *       info                of each function that tells of the device's memory: function=free/total,
 *                           or function=/total
 *   hold KIND SIZE DICE …   gets these things, tells the answers, ends with standard input
 *   storm THREADS ROUNDS STEPS SEED MOST [KIND …]
 *       rounds of random operations by several threads on things of up to MOST bytes, of these kinds
 *       or of all; before,
 *       after each round, and when everything is given back, one line "quiet", and a wait for a line
 */
#include "tenant.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -- Things ------------------------------------------------------------------------------------------ */

static struct place {
    pthread_mutex_t mutex;
    struct thing thing;
} place[SLOTS];

/* Every kind, by one number. */
static const struct kind *all_kinds[32];
static unsigned kind_count;

static void list_kinds(void) {
    for (const struct kind *const *list = vendor.kinds; *list; list++)
        for (const struct kind *kind = *list; kind->name; kind++)
            all_kinds[kind_count++] = kind;
    for (unsigned i = 0; i < SLOTS; i++)
        pthread_mutex_init(&place[i].mutex, NULL);
}

/* What lived in a context is gone with it. */
static void forget_context(const void *context) {
    for (unsigned i = 0; i < SLOTS; i++) {
        struct thing *thing = &place[i].thing;
        if (thing->kind && thing->kind->dies_with_context && thing->context == context)
            thing->kind = NULL;
    }
}

/* Waits for all that was queued in any context. */
static int settle(void) {
    int result = vendor.synchronise();
    void *before = vendor.current();
    bool moved = false;
    for (unsigned i = 0; i < SLOTS; i++) {
        struct thing *thing = &place[i].thing;
        if (!thing->kind || strcmp(thing->kind->name, "context") != 0)
            continue;
        MUST(vendor.enter(thing->object[0]));
        MUST(vendor.synchronise());
        moved = true;
    }
    if (moved)
        MUST(vendor.enter(before));
    return result;
}

/* -- serve ------------------------------------------------------------------------------------------- */

static struct thing *thing_at(const char *slot) {
    unsigned long number = strtoul(slot, NULL, 10);
    if (number >= SLOTS)
        fail("there is no place %s", slot);
    return &place[number].thing;
}

static int end_primary(bool reset) {
    int result = vendor.release(reset);
    if (result == 0)
        forget_context(tenant.primary);
    return result;
}

static void tell_memory(void) {
    look_at_memory();
    for (const struct query *query = vendor.queries; query->function; query++) {
        struct told told = query->ask(0);
        for (unsigned form = 1; form < query->forms; form++)
            if (query->ask(form).free != told.free)
                fail("%s (%u) tells of other bytes than form 0", query->function, form);
        printf(" %s=", query->function);
        if (!told.silent)
            printf("%llu", (unsigned long long)told.free);
        printf("/%llu", (unsigned long long)told.total);
    }
    printf("\n");
}

static void serve_line(char **word, unsigned words) {
    if (words == 5 && !strcmp(word[0], "get")) {
        struct thing *thing = thing_at(word[2]);
        if (thing->kind)
            fail("place %s is taken", word[2]);
        printf("%d\n", get(thing, kind_named(word[1]), strtoull(word[3], NULL, 10),
                           strtoull(word[4], NULL, 10)));
    } else if (words == 3 && !strcmp(word[0], "poke")) {
        struct thing *thing = thing_at(word[1]);
        printf("%d\n", thing->kind ? thing->kind->poke(thing, strtoull(word[2], NULL, 10)) : 0);
    } else if (words == 3 && !strcmp(word[0], "give")) {
        struct thing *thing = thing_at(word[1]);
        uint64_t dice = strtoull(word[2], NULL, 10);
        if (thing->kind && !strcmp(thing->kind->name, "context"))
            forget_context(thing->object[0]);
        if (thing->kind)
            give(thing, dice);
        printf("0\n");
    } else if (words == 2 && !strcmp(word[0], "send")) {
        struct thing *thing = thing_at(word[1]);
        printf("%d\n", thing->kind && thing->kind->send ? thing->kind->send(thing) : (int)ABSENT);
    } else if (words == 2 && !strcmp(word[0], "enter")) {
        void *context = !strcmp(word[1], "primary") ? tenant.primary : thing_at(word[1])->object[0];
        printf("%d\n", vendor.enter(context));
    } else if (words == 1 && !strcmp(word[0], "leave"))
        printf("%d\n", vendor.enter(NULL));
    else if (words == 1 && !strcmp(word[0], "retain"))
        printf("%d\n", vendor.retain());
    else if (words == 1 && (!strcmp(word[0], "release") || !strcmp(word[0], "reset")))
        printf("%d\n", end_primary(!strcmp(word[0], "reset")));
    else if (words == 1 && !strcmp(word[0], "settle"))
        printf("%d\n", settle());
    else if (words == 1 && !strcmp(word[0], "info")) {
        tell_memory();
    } else
        fail("what is %s?", word[0]);
    fflush(stdout);
}

static void serve(void) {
    char line[512];
    while (fgets(line, sizeof line, stdin)) {
        char *word[8], *rest = NULL;
        unsigned words = 0;
        for (char *at = strtok_r(line, " \n", &rest); at && words < 8;
             at = strtok_r(NULL, " \n", &rest))
            word[words++] = at;
        if (words)
            serve_line(word, words);
    }
}

/* -- storm ------------------------------------------------------------------------------------------- */

static struct {
    unsigned threads, rounds, steps;
    uint64_t seed, most;
    pthread_barrier_t pause;
    _Atomic uint64_t refusals, pokes, gives;
    _Atomic uint64_t gets[32]; /* that succeeded, by kind */
} storm;

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1du;
}

/* Sizes of all orders up to the largest, edges of pages among them. */
static uint64_t random_size(uint64_t *state) {
    uint64_t dice = next(state), size = storm.most >> roll(&dice, 16);
    size = 1 + dice % (size ? size : 1);
    switch (next(state) % 8) {
    case 0:
        return round_up(size, tenant.granularity);
    case 1:
        return round_up(size, tenant.granularity) + 1;
    case 2:
        return MIB + (next(state) & 1);
    default:
        return size;
    }
}

/* Kinds that are slow to get come up less often. */
static unsigned random_kind(uint64_t *state) {
    for (;;) {
        unsigned number = (unsigned)(next(state) % kind_count);
        const struct kind *kind = all_kinds[number];
        if (!kind->slow || next(state) % 8 == 0)
            return number;
    }
}

static void allowed(const struct kind *kind, int result) {
    if (result == 0 || (result == ABSENT && !strcmp(kind->name, "shared")))
        return;
    if (result != vendor.out_of_memory)
        fail("%s is answered with %d", kind->name, result);
    storm.refusals++;
}

/* One operation on one place. At ebb nothing is got, so that there is room again for what needs much
 * of it at once. */
static void step(uint64_t *state, bool ebb) {
    struct place *at = &place[next(state) % SLOTS];
    if (pthread_mutex_trylock(&at->mutex))
        return;
    struct thing *thing = &at->thing;
    uint64_t dice = next(state);
    if (!thing->kind && ebb)
        ;
    else if (!thing->kind) {
        unsigned number = random_kind(state);
        const struct kind *kind = all_kinds[number];
        allowed(kind, get(thing, kind, random_size(state), dice));
        storm.gets[number] += thing->kind != NULL;
    } else if (dice & 1 && !ebb) {
        storm.pokes++;
        allowed(thing->kind, thing->kind->poke(thing, dice >> 1));
    } else {
        storm.gives++;
        give(thing, dice >> 1);
    }
    pthread_mutex_unlock(&at->mutex);
}

static void *weather(void *argument) {
    uint64_t state = (uint64_t)(uintptr_t)argument;
    MUST(vendor.enter(tenant.primary));
    for (unsigned round = 0; round < storm.rounds; round++) {
        for (unsigned i = 0; i < storm.steps; i++) {
            step(&state, i % 250 >= 190);
            if (i % 64 == 0)
                look_at_memory();
            /* Not the whole context: others may be capturing. */
            if (i % 256 == 0)
                vendor.breathe(i / 256);
        }
        pthread_barrier_wait(&storm.pause); /* all are done */
        pthread_barrier_wait(&storm.pause); /* all go on */
    }
    return NULL;
}

static void quiet(void) {
    char line[64];
    MUST(settle());
    printf("quiet\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        _exit(2);
}

static void choose_kinds(char **name, int names) {
    const struct kind *chosen[32];
    for (int i = 0; i < names && i < 32; i++)
        chosen[i] = kind_named(name[i]);
    for (int i = 0; i < names && i < 32; i++)
        all_kinds[i] = chosen[i];
    if (names)
        kind_count = (unsigned)names;
}

static void run_storm(char **word, int words) {
    choose_kinds(word + 5, words - 5);
    storm.threads = (unsigned)strtoul(word[0], NULL, 10);
    storm.rounds = (unsigned)strtoul(word[1], NULL, 10);
    storm.steps = (unsigned)strtoul(word[2], NULL, 10);
    storm.seed = strtoull(word[3], NULL, 10) * 2 + 1;
    storm.most = strtoull(word[4], NULL, 10);
    pthread_t thread[64];
    if (storm.threads > sizeof thread / sizeof *thread)
        fail("too many threads");
    pthread_barrier_init(&storm.pause, NULL, storm.threads + 1);
    quiet(); /* until all others are there */
    for (unsigned i = 0; i < storm.threads; i++)
        pthread_create(&thread[i], NULL, weather, (void *)(uintptr_t)(next(&storm.seed) | 1));
    for (unsigned round = 0; round < storm.rounds; round++) {
        pthread_barrier_wait(&storm.pause);
        quiet();
        pthread_barrier_wait(&storm.pause);
    }
    for (unsigned i = 0; i < storm.threads; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < SLOTS; i++)
        if (place[i].thing.kind)
            give(&place[i].thing, next(&storm.seed));
    MUST(vendor.synchronise());
    vendor.trim();
    quiet();
    MUST(vendor.release(false));
    printf("gone refusals=%llu pokes=%llu gives=%llu", (unsigned long long)storm.refusals,
           (unsigned long long)storm.pokes, (unsigned long long)storm.gives);
    for (unsigned i = 0; i < kind_count; i++)
        printf(" %s=%llu", all_kinds[i]->name, (unsigned long long)storm.gets[i]);
    printf("\n");
    fflush(stdout);
    getchar();
}

/* -------------------------------------------------------------------------------------------------- */

static void hold(char **word, int words) {
    for (int i = 0; i + 2 < words && i / 3 < SLOTS; i += 3)
        printf("%d\n", get(&place[i / 3].thing, kind_named(word[i]),
                           strtoull(word[i + 1], NULL, 10), strtoull(word[i + 2], NULL, 10)));
    printf("holding\n");
    fflush(stdout);
    while (getchar() != EOF)
        ;
}

int main(int argc, char **argv) {
    bool another_way = false;
    int at = 1;
    for (; at + 1 < argc && !strncmp(argv[at], "--", 2); at += 2)
        if (!strcmp(argv[at], "--lookup"))
            another_way = !strcmp(argv[at + 1], "address");
        else if (sscanf(argv[at + 1], "%d,%d", &tenant.outbox, &tenant.inbox) != 2)
            fail("a box is two descriptors");
    if (at >= argc)
        fail("no mode");
    list_kinds();
    vendor.load(vendor.library, RTLD_NOW, another_way);
    int result = vendor.start();
    if (result == vendor.out_of_memory) {
        printf("full\n");
        return 3;
    }
    if (result != 0)
        fail("the device is answered with %d", result);
    printf("ready\n");
    fflush(stdout);
    const char *mode = argv[at++];
    if (!strcmp(mode, "serve"))
        serve();
    else if (!strcmp(mode, "hold"))
        hold(argv + at, argc - at);
    else if (!strcmp(mode, "storm") && argc - at >= 5)
        run_storm(argv + at, argc - at);
    else
        fail("no mode %s", mode);
    return 0;
}
