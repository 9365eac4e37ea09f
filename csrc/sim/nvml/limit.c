/* Limits of memory for cgroups, on nodes whose file says `memory_limits`. */
#include "nvml_sim.h"

#include <errno.h>
#include <unistd.h>

static nvmlReturn_t name_group(const struct sim_look *look, const char *path, uint64_t *cgroup) {
    if (!look->state->node->memory_limits)
        return NVML_ERROR_NOT_SUPPORTED;
    if (!path)
        return NVML_ERROR_INVALID_ARGUMENT;
    return sim_cgroup_id(path, cgroup) ? NVML_ERROR_OPERATING_SYSTEM : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, nvmlSetMemoryLimits_v1_t *limits) {
    SIM_LOOK look = sim_look_at(device, limits);
    if (!look.device)
        return look.result;
    struct sim_limit wanted = {.soft = limits->softLimit, .hard = limits->hardLimit};
    nvmlReturn_t result = name_group(&look, limits->nameSpace, &wanted.cgroup);
    if (result == NVML_ERROR_NOT_SUPPORTED)
        return result;
    if (geteuid() != 0)
        return NVML_ERROR_NO_PERMISSION;
    if (wanted.soft > wanted.hard || wanted.soft > look.device->memory ||
        (wanted.hard > look.device->memory && wanted.hard != SIM_LIMIT_NONE))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (result != NVML_SUCCESS)
        return result;
    return sim_limit_set(look.state, look.number, &wanted) ? NVML_SUCCESS
                                                           : NVML_ERROR_INSUFFICIENT_RESOURCES;
}

/* A group without limits is NOT_SUPPORTED by these books, as by NVIDIA's. */
nvmlReturn_t nvmlDeviceGetMemoryLimits_v1(nvmlDevice_t device, nvmlGetMemoryLimits_v1_t *limits) {
    SIM_LOOK look = sim_look_at(device, limits);
    if (!look.device)
        return look.result;
    uint64_t cgroup, used;
    struct sim_limit found;
    nvmlReturn_t result = name_group(&look, limits->nameSpace, &cgroup);
    if (result != NVML_SUCCESS)
        return result;
    sim_state_sweep(look.state, true);
    if (!sim_limit_read(look.state, look.number, cgroup, &found, &used))
        return NVML_ERROR_NOT_SUPPORTED;
    limits->softLimit = found.soft;
    limits->hardLimit = found.hard;
    limits->currentUsed = used;
    return NVML_SUCCESS;
}
