/* Handles: places of one array, so that any value can be told from a living handle. */
#include "cndrv_sim.h"

#include <string.h>
#include <sys/mman.h>

enum { MOST = 1 << 20 };

static struct sim_cn_object *all; /* committed as they are touched */
static uint32_t mark;             /* places at and above it were never used */
static struct sim_cn_object *spare;

struct sim_cn_object *sim_cn_new(enum sim_cn_kind kind, struct sim_cn_object *context) {
    if (!all) {
        void *at = mmap(NULL, MOST * sizeof *all, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return NULL;
        all = at;
    }
    struct sim_cn_object *made = spare;
    if (made)
        spare = made->next;
    else if (mark < MOST)
        made = &all[mark++];
    else
        return NULL;
    memset(made, 0, sizeof *made);
    made->kind = kind;
    made->context = context;
    made->device = context ? context->device : NULL;
    return made;
}

void sim_cn_end(struct sim_cn_object *object) {
    if (object->frames.frames)
        sim_frames_give(sim_cn_state(), object->device->number, &object->frames);
    object->kind = SIM_CN_FREE;
    object->next = spare;
    spare = object;
}

struct sim_cn_object *sim_cn_find(enum sim_cn_kind kind, const void *handle) {
    uintptr_t at = (uintptr_t)handle - (uintptr_t)all;
    if (!all || at >= mark * sizeof *all || at % sizeof *all)
        return NULL;
    struct sim_cn_object *found = &all[at / sizeof *all];
    return found->kind == kind ? found : NULL;
}

void sim_cn_sweep(bool (*doomed)(const struct sim_cn_object *object, const void *argument),
                  const void *argument) {
    for (uint32_t i = 0; i < mark; i++)
        if (all[i].kind != SIM_CN_FREE && all[i].kind != SIM_CN_CONTEXT &&
            doomed(&all[i], argument))
            sim_cn_end(&all[i]);
}
