/* What a step of the arbiter costs: steps CONTAINERS STEPS
 *
 * CONTAINERS want the same device without end. Each turn is begun, drains and is given to the next,
 * as the agent's thread does it: it looks at who has news, steps, and looks at whom it closed. Prints
 * nanoseconds of processor time for one step, the looks that go with it included: of several rounds
 * the one that was disturbed least.
 */
#include "arbiter/arbiter.h"
#include "region/region.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHANGES = 256, ROUNDS = 7 };

static uint64_t spent_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: steps CONTAINERS STEPS\n");
        return 2;
    }
    int containers = atoi(argv[1]), steps = atoi(argv[2]), holder = -1, done = 0;
    struct aliquot_arbiter *arbiter = aliquot_arbiter_new(NULL);
    const struct aliquot_terms terms = {.cores_max = 1000, .weight = 100};
    const struct aliquot_seen waits = {.waiting = true}, works = {.active = true, .begun = true},
                              rests = {.waiting = true, .begun = true};
    uint64_t clock = 1, next;
    for (int i = 0; i < containers; i++) {
        int member = aliquot_arbiter_join(arbiter, clock, 1, &(uint32_t){0}, &terms);
        if (member < 0)
            return 1;
        aliquot_arbiter_see(arbiter, member, &waits);
    }
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t before = spent_ns();
        done = 0;
        for (int turns = 0; done < steps; turns++) {
            struct aliquot_gate_change change[CHANGES];
            for (uint32_t count = 1; count; done++) {
                count = aliquot_arbiter_step(arbiter, clock, change, CHANGES, &next);
                for (uint32_t i = 0; i < count; i++) {
                    if (aliquot_gate_state(change[i].gate) == ALIQUOT_GATE_CLOSED)
                        aliquot_arbiter_see(arbiter, change[i].member, &waits);
                    else
                        holder = change[i].member;
                }
            }
            clock += 100000;
            if (holder >= 0)
                aliquot_arbiter_see(arbiter, holder, turns % 2 ? &works : &rests);
        }
        double each = (double)(spent_ns() - before) / done;
        best = round && best < each ? best : each;
    }
    printf("%.1f\n", best);
    aliquot_arbiter_free(arbiter);
    return holder < 0;
}
