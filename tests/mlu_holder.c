/* A process that holds memory of a simulated node's device, as the driver's own library would: it
 * works on the node's state itself. mlu_holder FOLDER DEVICE reads lines: "enter ID" (a partition of
 * the device, as a container of it would be), "take MIB", "give"; it answers each with "ok" or "no".
 */
#include "sim/state_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        } else {
            sim_frames_give(state, device, &held);
        }
        puts(done ? "ok" : "no");
        fflush(stdout);
    }
    sim_state_close(state);
    return 0;
}
