/* A process that holds memory of a simulated node's device, as the driver's own library would: it
 * works on the node's state itself. mlu_holder FOLDER DEVICE reads lines: "enter ID" (a partition of
 * the device, as a container of it would be), "take MIB", "give", "run" (from now on, without end); and what an administrator would do:
 * "mode N" (who may compute), "smlu 0" and "smlu 1", "mim 0" and "mim 1" (instances are
 * the hardware's), "share MIB PERCENT NAME" (make an instance, as other tools do), "shared ID" (is it
 * there?). It answers each with "ok" or "no".
 */
#include "sim/state_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool share(struct sim_state *state, uint32_t device, const char *text) {
    struct sim_partition made = {.id = 1};
    unsigned mib;
    if (sscanf(text, "%u %u %99s", &mib, &made.cores, made.name) != 3)
        return false;
    made.memory = (uint64_t)mib << 20;
    sim_device_lock(state, device);
    while (sim_partition_find(state, device, made.id))
        made.id++;
    made.detail[0] = made.id; /* its UUID begins with it */
    bool done = sim_partition_add(state, device, &made);
    sim_device_unlock(state, device);
    return done;
}

static bool run(struct sim_state *state, uint32_t device) {
    struct sim_timeline *timeline = &state->header->devices[device].timeline;
    struct sim_timeline_view view;
    const struct sim_demand demand = {.until_ns = UINT64_MAX / 2, .since_ns = UINT64_MAX};
    int index = sim_timeline_join(timeline, state->slot, state->header->slots[state->slot].process);
    if (index >= 0)
        sim_timeline_demand(timeline, index, sim_state_now(), &demand, &view);
    return index >= 0;
}

int main(int argc, char **argv) {
    struct sim_state *state;
    char why[512], line[64];
    if (argc < 3)
        return 2;
    uint32_t device = (uint32_t)atoi(argv[2]);
    int error = sim_state_open(argv[1], "holder", false, &state, why, sizeof why);
    if (error)
        return fprintf(stderr, "%s\n", why), 1;
    struct sim_frames held = {0};
    struct sim_mlu *mlu = &state->header->devices[device].mlu;
    uint64_t page = state->node->devices[device].page_size;
    puts("ok");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        bool done = true;
        if (strncmp(line, "enter ", 6) == 0) {
            sim_partition_enter(state, device, (uint32_t)atoi(line + 6));
        } else if (strncmp(line, "take ", 5) == 0) {
            struct sim_frames more;
            uint64_t pages = ((uint64_t)atoi(line + 5) << 20) / page;
            done = sim_frames_take(state, device, pages, &more) && sim_frames_append(&held, &more);
        } else if (strncmp(line, "run", 3) == 0) {
            done = run(state, device);
        } else if (strncmp(line, "mode ", 5) == 0) {
            atomic_store(&mlu->mode, (uint32_t)atoi(line + 5));
        } else if (strncmp(line, "smlu ", 5) == 0) {
            atomic_store(&mlu->no_smlu, !atoi(line + 5));
        } else if (strncmp(line, "mim ", 4) == 0) {
            atomic_store(&mlu->mim, (uint32_t)atoi(line + 4));
        } else if (strncmp(line, "share ", 6) == 0) {
            done = share(state, device, line + 6);
        } else if (strncmp(line, "shared ", 7) == 0) {
            sim_device_lock(state, device);
            done = sim_partition_find(state, device, (uint32_t)atoi(line + 7));
            sim_device_unlock(state, device);
        } else {
            sim_frames_give(state, device, &held);
        }
        puts(done ? "ok" : "no");
        fflush(stdout);
    }
    sim_state_close(state);
    return 0;
}
