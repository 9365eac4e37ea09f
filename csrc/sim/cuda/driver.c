/* What makes the simulated driver NVIDIA's. */
#include "../sim.h"

const struct sim_driver sim_driver = {
    .vendor = SIM_VENDOR_NVIDIA,
    .visible = "CUDA_VISIBLE_DEVICES",
};
