/* Reading what a container of the harness is. See harness_words.h. */
#include "harness_words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct container *parse_container(char *text) {
    struct container *container = calloc(1, sizeof *container);
    *container = (struct container){
        .ns = 100000,
        .procs = 1,
        .depth = 1024,
        .devices = 1,
        .terms = {.cores_max = 1000, .weight = 100, .quiet_ns = 100000000},
    };
    for (char *save, *word = strtok_r(text, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        char *value = strchr(word, '=');
        if (!value)
            exit(2);
        *value++ = 0;
        uint64_t number = strtoull(value, NULL, 10);
        if (!strcmp(word, "kind"))
            container->kind = value[0] == 'a'   ? ASYNC
                              : value[0] == 'g' ? GRAPH
                              : value[1] == 'y' ? SYNC
                                                : STREAMS_KIND;
        else if (!strcmp(word, "on")) {
            container->devices = 0;
            for (const char *at = value; at; at = strchr(at, '+'), at = at ? at + 1 : NULL)
                container->device[container->devices++] = (unsigned)strtoul(at, NULL, 10);
        } else if (!strcmp(word, "cores_at"))
            sscanf(value, "%lu:%lu:%lu", &container->change_ms, &container->change_min,
                   &container->change_max);
        else if (!strcmp(word, "priority"))
            container->terms.priority = atoi(value);
        else {
            struct {
                const char *name;
                uint64_t *big;
                uint32_t *small;
            } names[] = {
                {"ns", &container->ns, NULL},
                {"gap_us", &container->gap_us, NULL},
                {"joins_ms", &container->joins_ms, NULL},
                {"from_ms", &container->from_ms, NULL},
                {"until_ms", &container->until_ms, NULL},
                {"burst", &container->burst, NULL},
                {"pause_us", &container->pause_us, NULL},
                {"procs", &container->procs, NULL},
                {"spin", &container->spin, NULL},
                {"depth", &container->depth, NULL},
                {"stop_ms", &container->stop_ms, NULL},
                {"cont_ms", &container->cont_ms, NULL},
                {"kill_ms", &container->kill_ms, NULL},
                {"min", NULL, &container->terms.cores_min},
                {"max", NULL, &container->terms.cores_max},
                {"weight", NULL, &container->terms.weight},
                {"floor", NULL, &container->terms.floor},
                {"group", NULL, &container->terms.group},
                {"quiet_us", &container->terms.quiet_ns, NULL},
            };
            bool known = false;
            for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
                if (!strcmp(word, names[i].name)) {
                    known = true;
                    if (names[i].big)
                        *names[i].big = number;
                    else
                        *names[i].small = (uint32_t)number;
                    if (!strcmp(word, "quiet_us"))
                        container->terms.quiet_ns = number * 1000;
                }
            if (!known) {
                fprintf(stderr, "harness: %s: no such key\n", word);
                exit(2);
            }
        }
    }
    return container;
}
