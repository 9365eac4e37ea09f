/* What makes the simulated driver Ascend's. */
#include "../sim.h"

const struct sim_driver sim_driver = {
    .vendor = SIM_VENDOR_ASCEND,
    .visible = "ASCEND_RT_VISIBLE_DEVICES",
};
