/* Initialisation, and the devices that the process sees. */
#include "nvml_sim.h"

#include <errno.h>

/* A device's handle is the place of its number here. */
static struct nvmlDevice_st handles[SIM_DEVICES_MAX];

nvmlReturn_t nvmlInit_v2(void) {
    int error = sim_session_open(SIM_VENDOR_NVIDIA);
    return error == 0                            ? NVML_SUCCESS
           : error == EINVAL                     ? NVML_ERROR_LIB_RM_VERSION_MISMATCH
           : error == EACCES || error == EPERM   ? NVML_ERROR_NO_PERMISSION
           : error == ENOENT || error == ENOTDIR ? NVML_ERROR_DRIVER_NOT_LOADED
                                                 : NVML_ERROR_UNKNOWN;
}

nvmlReturn_t nvmlInit(void) { return nvmlInit_v2(); }

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags; /* no devices, or unattached ones, are no error here anyway */
    return nvmlInit_v2();
}

nvmlReturn_t nvmlShutdown(void) {
    return sim_session_close() ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

/* ---- Looks ---------------------------------------------------------------------------------- */

struct sim_look sim_look(const void *out) {
    struct sim_look look = {.result = NVML_ERROR_UNINITIALIZED};
    struct sim_state *state = sim_session_enter();
    if (!state)
        return look;
    if (!out) {
        sim_session_leave();
        look.result = NVML_ERROR_INVALID_ARGUMENT;
        return look;
    }
    look.state = state; /* sim_look_end leaves it */
    look.result = NVML_SUCCESS;
    return look;
}

struct sim_look sim_look_at(nvmlDevice_t device, const void *out) {
    struct sim_look look = sim_look(out);
    int64_t number = look.state ? sim_number_of(device) : -1;
    if (number >= 0) {
        look.number = (uint32_t)number;
        look.device = &look.state->node->devices[number];
        if (look.device->cost_ns[SIM_COST_NVML])
            sim_cost_wait(look.device->cost_ns[SIM_COST_NVML]);
    } else if (look.state) {
        look.result = NVML_ERROR_INVALID_ARGUMENT;
    }
    return look;
}

void sim_look_end(struct sim_look *look) {
    if (look->state)
        sim_session_leave();
}

uint32_t sim_visible_count(void) { return sim_session_count(); }

nvmlDevice_t sim_visible(uint32_t index) {
    return index < sim_session_count() ? sim_handle_of(sim_session_device(index)) : NULL;
}

nvmlDevice_t sim_handle_of(uint32_t number) {
    return sim_session_index(number) < 0 ? NULL : &handles[number];
}

int64_t sim_number_of(nvmlDevice_t handle) {
    for (uint32_t i = 0; i < sim_session_count(); i++)
        if (handle == &handles[sim_session_device(i)])
            return sim_session_device(i);
    return -1;
}
