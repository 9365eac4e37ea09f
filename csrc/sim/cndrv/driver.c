/* What makes the simulated driver Cambricon's. */
#include "../sim.h"

const struct sim_driver sim_driver = {
    .vendor = SIM_VENDOR_CAMBRICON,
    .visible = "MLU_VISIBLE_DEVICES",
};
