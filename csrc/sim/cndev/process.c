/* Who is on a device: its processes by their pids on the host, what they hold, how busy they are. */
#include "cndev_sim.h"

#include <stdlib.h>
#include <time.h>

/* What a list's caller learns: `*count` is the room it has, and gets what there is. */
static cndevRet_t check_room(const void *out, uint32_t *count, uint32_t found) {
    uint32_t room = *count;
    *count = found;
    if (found > room)
        return CNDEV_ERROR_INSUFFICIENT_SPACE;
    return found && !out ? CNDEV_ERROR_INVALID_ARGUMENT : CNDEV_SUCCESS;
}

cndevRet_t cndevGetProcessInfo(uint32_t *count, cndevProcessInfo_t *out, cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, count);
    if (!look.device || !out || !sim_speaks(&look, out->version))
        return look.result ? look.result : CNDEV_ERROR_INVALID_ARGUMENT;
    struct sim_holder holders[SIM_SLOTS_MAX];
    unsigned found = sim_holders(look.state, look.number, holders);
    cndevRet_t result = check_room(out, count, found);
    for (unsigned p = 0; result == CNDEV_SUCCESS && p < found; p++)
        out[p] = (cndevProcessInfo_t){.version = SIM_CNDEV_VERSION,
                                      .pid = holders[p].pid,
                                      .physicalMemoryUsed = holders[p].bytes >> 10,
                                      .virtualMemoryUsed = holders[p].bytes >> 10};
    return result;
}

struct load {
    uint32_t pid, run_percent, copy_percent;
};

/* The holders with what they did in the last second. */
static unsigned list_loads(const struct sim_look *look, struct load out[SIM_SLOTS_MAX]) {
    struct sim_timeline *timeline = &look->state->header->devices[look->number].timeline;
    struct sim_holder holders[SIM_SLOTS_MAX];
    unsigned found = sim_holders(look->state, look->number, holders);
    for (unsigned p = 0; p < found; p++) {
        struct sim_usage usage;
        sim_timeline_usage(timeline, holders[p].slot, sim_state_now(), 0, &usage);
        out[p] = (struct load){
            .pid = holders[p].pid,
            .run_percent = sim_percent(usage.run_ns, &usage),
            .copy_percent = sim_percent(usage.copy_ns, &usage),
        };
    }
    return found;
}

cndevRet_t cndevGetProcessUtilization(uint32_t *count, cndevProcessUtilization_t *out,
                                      cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, count);
    if (!look.device || !out || !sim_speaks(&look, out->version))
        return look.result ? look.result : CNDEV_ERROR_INVALID_ARGUMENT;
    struct load loads[SIM_SLOTS_MAX];
    unsigned found = list_loads(&look, loads);
    cndevRet_t result = check_room(out, count, found);
    for (unsigned p = 0; result == CNDEV_SUCCESS && p < found; p++)
        out[p] = (cndevProcessUtilization_t){.version = SIM_CNDEV_VERSION,
                                             .pid = loads[p].pid,
                                             .ipuUtil = loads[p].run_percent,
                                             .memUtil = loads[p].copy_percent};
    return result;
}

#if SIM_CNDEV_VERSION >= 6
cndevRet_t cndevGetProcessUtilizationInfo(unsigned int *count, cndevProcessUtilizationInfo_t *out,
                                          cndevDevice_t device) {
    SIM_LOOK look = sim_look_at(__func__, device, count);
    if (!look.device)
        return look.result;
    struct load loads[SIM_SLOTS_MAX];
    unsigned found = list_loads(&look, loads);
    cndevRet_t result = check_room(out, count, found);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (unsigned p = 0; result == CNDEV_SUCCESS && p < found; p++)
        out[p] = (cndevProcessUtilizationInfo_t){
            .pid = loads[p].pid,
            .ipuUtil = loads[p].run_percent,
            .memUtil = loads[p].copy_percent,
            .timestamp = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000,
        };
    return result;
}
#endif
