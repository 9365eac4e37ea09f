/* What the arbiter makes of containers that write whatever they like: look_fuzz SEED CASES
 *
 * Each case is some seconds on an exact clock. A container that keeps to the rules shares a device with
 * others whose `usage` is written anew all the time: bytes at random, words that look like flow words,
 * words that say as much as can be said, files that were cut. look.c, seen.c and the arbiter are the
 * agent's own. Prints the smallest share that the first one had of its part, in thousandths.
 */
#include "arbiter/arbiter_impl.h"
#include "arbiter/runner_impl.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HOSTILE = 2, COLUMNS = 2, STEPS = 64 };
#define CASE_NS (40000 * MS)
#define TICK_NS (1 * MS)

/* What a hostile container does with its words. */
enum manner { BYTES, WORDS, MOST, LATE, CUT, MANNERS };

struct party_of {
    struct container *container;
    enum manner manner;
};

static struct aliquot_arbiter *arbiter;
static struct container *owner[ALIQUOT_ARBITER_MEMBERS];
static uint64_t state;

static uint64_t any(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void fail(const char *what, uint64_t number) {
    fprintf(stderr, "%s: %lu\n", what, number);
    exit(1);
}

static struct container *come(uint32_t columns, uint64_t now) {
    struct container *one = calloc(1, sizeof *one);
    uint32_t device[COLUMNS] = {0, 1};
    struct aliquot_terms terms[COLUMNS];
    for (int i = 0; i < COLUMNS; i++)
        terms[i] = (struct aliquot_terms){.cores_min = 300, .cores_max = 1000, .weight = 100};
    one->usage = memfd_create("usage", MFD_CLOEXEC);
    one->bell = -1;
    one->column_count = columns;
    one->again_ns = NEVER;
    one->grant =
        mmap(NULL, sizeof *one->grant, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (one->usage < 0 || one->grant == MAP_FAILED ||
        ftruncate(one->usage, sizeof(struct aliquot_usage)))
        fail("come", 0);
    int first = aliquot_arbiter_join(arbiter, now, columns, device, terms);
    if (first < 0)
        fail("join", (uint64_t)-first);
    for (uint32_t i = 0; i < columns; i++) {
        one->column[i].member = first + (int)i;
        owner[first + (int)i] = one;
    }
    return one;
}

static void put(const struct container *one, size_t offset, const void *bytes, size_t size) {
    (void)!pwrite(one->usage, bytes, size, (off_t)offset);
}

static uint64_t a_word(enum manner manner, uint64_t gate) {
    switch (manner) {
    case MOST: /* it waits, works and needs all the time that can be said, in ever new words */
        return aliquot_flow_word((unsigned)any(), 1, (unsigned)any(), aliquot_gate_number(gate),
                                 UINT64_MAX >> 1);
    case LATE: /* it never lets go, and never begins */
        return aliquot_flow_word(1, 1, (unsigned)any(), aliquot_gate_number(gate) + 1, 0);
    case WORDS:
        return aliquot_flow_word((unsigned)any() & 1, any() & 1, (unsigned)any(),
                                 aliquot_gate_number(gate), any() & 0xfffffff);
    default:
        return any();
    }
}

static void scribble(const struct party_of *one) {
    const struct container *container = one->container;
    uint64_t words[32];
    uint32_t high = any() % 4 ? (uint32_t)any() : 1 + (uint32_t)any() % 32;
    for (uint32_t i = 0; i < container->column_count; i++) {
        for (unsigned j = 0; j < 32; j++)
            words[j] = a_word(one->manner, container->column[i].gate);
        put(container, offsetof(struct aliquot_usage, flow[i]), words, sizeof words);
    }
    put(container, offsetof(struct aliquot_usage, high_water), &high, sizeof high);
    for (unsigned j = 0; j < 32; j++)
        words[j] = any() % 2 ? any() : UINT64_MAX;
    put(container, offsetof(struct aliquot_usage, time[any() % COLUMNS]), words, 128);
    if (one->manner == CUT && any() % 8 == 0)
        (void)!ftruncate(container->usage, (off_t)(any() % sizeof(struct aliquot_usage)));
    if (one->manner == BYTES)
        put(container, any() % sizeof(struct aliquot_usage), words, sizeof words);
}

/* Its words are in bounds whatever they were read from. */
static void check(const struct container *one) {
    if (one->slots > ALIQUOT_MAX_SLOTS)
        fail("slots", one->slots);
    for (uint32_t i = 0; i < one->column_count; i++) {
        const struct member *member = &arbiter->members[one->column[i].member];
        if (member->seen.left_ns > 2000 * MS)
            fail("left_ns", member->seen.left_ns);
    }
}

static void check_devices(void) {
    for (uint32_t d = 0; d < COLUMNS; d++) {
        const struct device *device = &arbiter->device[d];
        unsigned holders = 0;
        for (uint32_t i = 0; i < device->stake_count; i++) {
            const struct party *party = device->stakes[i]->party;
            holders += party->state != RESTING && !party->overtaken;
            if (!(device->stakes[i]->share > 0 && device->stakes[i]->share <= 1))
                fail("share", d);
        }
        if (holders > 1)
            fail("holders", holders);
    }
}

static void decide(uint64_t now) {
    struct aliquot_gate_change change[16];
    uint64_t next;
    for (int step = 0; step < STEPS; step++) {
        uint32_t count = aliquot_arbiter_step(arbiter, now, change, 16, &next);
        check_devices();
        for (uint32_t i = 0; i < count; i++) {
            struct container *one = owner[change[i].member];
            column_write(one, (uint32_t)(change[i].member - one->column[0].member), change[i].gate);
        }
        for (int i = 0; i < ALIQUOT_ARBITER_MEMBERS && count; i++)
            if (owner[i] && owner[i]->told) {
                container_look(owner[i], arbiter, now);
                check(owner[i]);
            }
        if (!count)
            return;
    }
    fail("steps", STEPS);
}

/* Who keeps to the rules wants the device always, and lets go at once. Returns what it has of it, of
 * 1,024. */
static uint64_t keep_to_the_rules(struct container *one, uint64_t now) {
    uint64_t gate = one->column[0].gate;
    bool open = aliquot_gate_state(gate) != ALIQUOT_GATE_CLOSED;
    uint64_t word = aliquot_flow_word(!open, open, (unsigned)(now / TICK_NS),
                                      aliquot_gate_number(gate), open ? MS : 0);
    put(one, offsetof(struct aliquot_usage, flow[0]), &word, sizeof word);
    one->rung = true;
    container_look(one, arbiter, now);
    check(one);
    return open ? 1024 / (aliquot_gate_others(gate) + 1) : 0;
}

/* Returns thousandths of the time that the first one had; what others have who do not let go is not
 * his. */
static uint64_t play(unsigned hostile, const enum manner *manner) {
    uint64_t now = 1000 * MS, had = 0, ticks = 0;
    uint32_t slots = 1;
    struct party_of others[HOSTILE];
    arbiter = aliquot_arbiter_new(NULL);
    memset(owner, 0, sizeof owner);
    struct container *good = come(1, now);
    put(good, offsetof(struct aliquot_usage, high_water), &slots, sizeof slots);
    for (unsigned i = 0; i < hostile; i++)
        others[i] = (struct party_of){come(1 + i % COLUMNS, now), manner[i]};
    for (uint64_t end = now + CASE_NS; now < end; now += TICK_NS) {
        for (unsigned i = 0; i < hostile; i++) {
            scribble(&others[i]);
            others[i].container->rung = any() % 2;
            if (others[i].container->rung) {
                container_look(others[i].container, arbiter, now);
                check(others[i].container);
            }
        }
        had += keep_to_the_rules(good, now);
        ticks++;
        decide(now);
    }
    aliquot_arbiter_free(arbiter);
    container_free(good);
    for (unsigned i = 0; i < hostile; i++)
        container_free(others[i].container);
    return had * 1000 / (ticks * 1024);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    state = strtoull(argv[1], NULL, 0) * 0x9e3779b97f4a7c15ull | 1;
    uint64_t least_share = 1000, cases = strtoull(argv[2], NULL, 0);
    for (uint64_t i = 0; i < cases; i++) {
        unsigned hostile = 1 + (unsigned)(i / MANNERS % HOSTILE);
        enum manner manner[HOSTILE] = {(enum manner)(i % MANNERS), (enum manner)(any() % MANNERS)};
        uint64_t share = play(hostile, manner) * (hostile + 1);
        least_share = share < least_share ? share : least_share;
    }
    printf("%lu\n", least_share);
    return 0;
}
