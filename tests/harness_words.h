/* A container of the harness, as words on its command line say what it is: see harness.c. */
#ifndef HARNESS_WORDS_H
#define HARNESS_WORDS_H

#include "arbiter/arbiter.h"
#include "arbiter/seen.h"
#include "harness.h"
#include "region/region.h"

enum { MAX_PROCESSES = 8 };

enum kind { ASYNC, SYNC, GRAPH, STREAMS_KIND };

struct process;

struct container {
    enum kind kind;
    uint64_t ns, gap_us, joins_ms, from_ms, until_ms, burst, pause_us, stop_ms, cont_ms, kill_ms,
        procs, spin, depth;
    uint64_t change_ms, change_min, change_max;
    struct aliquot_terms terms;
    unsigned devices, device[DEVICES];
    struct aliquot_grant grant;
    struct aliquot_usage *usage;
    int member;
    bool rung;
    struct aliquot_passed_over over[DEVICES][MAX_PROCESSES];
    struct process *process[MAX_PROCESSES];
    uint64_t launches, worst_wait_ns, waits[5];
};

/* Makes one from KEY=VALUE,...; ends the program where there is no such key. `text` is taken apart. */
struct container *parse_container(char *text);

#endif
