/* Initialisation, and the devices that the process sees. */
#include "cndev_sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

cndevRet_t cndevInit(int32_t reserved) {
    (void)reserved;
    cndevRet_t result = sim_ordered(__func__);
    if (result)
        return result;
    /* Doing it twice is doing it once, and one release ends it. */
    if (sim_session_enter()) {
        sim_session_leave();
        return CNDEV_SUCCESS;
    }
    int error = sim_session_open(SIM_VENDOR_CAMBRICON);
    if (error)
        return error == EINVAL                       ? CNDEV_ERROR_LOW_DRIVER_VERSION
               : error == EACCES || error == EPERM   ? CNDEV_ERROR_NO_PERMISSION
               : error == ENOENT || error == ENOTDIR ? CNDEV_ERROR_NO_DRIVER
                                                     : CNDEV_ERROR_UNKNOWN;
    if (sim_session_count())
        return CNDEV_SUCCESS;
    (void)sim_session_close();
    return CNDEV_ERROR_NO_DEVICES;
}

cndevRet_t cndevRelease(void) {
    cndevRet_t result = sim_ordered(__func__);
    if (result)
        return result;
    return sim_session_close() ? CNDEV_SUCCESS : CNDEV_ERROR_UNINITIALIZED;
}

/* ---- Looks ---------------------------------------------------------------------------------- */

cndevRet_t sim_ordered(const char *function) {
    const char *orders = getenv("ALIQUOT_SIM_CNDEV_ERRORS");
    size_t length = strlen(function);
    for (const char *at = orders; at && (at = strstr(at, function)); at += length)
        if ((at == orders || at[-1] == ' ') && at[length] == '=')
            return (cndevRet_t)atoi(at + length + 1);
    return CNDEV_SUCCESS;
}

struct sim_look sim_look(const char *function, const void *out) {
    struct sim_look look = {.result = sim_ordered(function), .slot = -1};
    if (look.result)
        return look;
    struct sim_state *state = sim_session_enter();
    if (state && out)
        look.state = state; /* sim_look_end leaves */
    else
        look.result = state ? CNDEV_ERROR_INVALID_ARGUMENT : CNDEV_ERROR_UNINITIALIZED;
    if (state && !out)
        sim_session_leave();
    return look;
}

struct sim_look sim_look_at(const char *function, cndevDevice_t device, const void *out) {
    struct sim_look look = sim_look(function, out);
    if (!look.state)
        return look;
    if (device < 0 || (uint32_t)device >= sim_session_count()) {
        look.result = CNDEV_ERROR_INVALID_DEVICE_ID;
        return look;
    }
    look.slot = device;
    look.number = sim_session_device((uint32_t)device);
    look.device = &look.state->node->devices[look.number];
    return look;
}

void sim_look_end(struct sim_look *look) {
    if (look->state)
        sim_session_leave();
}

bool sim_speaks(struct sim_look *look, int32_t version) {
    if (version != SIM_CNDEV_VERSION)
        look->result = CNDEV_ERROR_UNSUPPORTED_API_VERSION;
    return version == SIM_CNDEV_VERSION;
}
