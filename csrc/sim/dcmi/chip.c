/* What is known of Ascend's chips. */
#include "dcmi_sim.h"

#include <string.h>

static const struct dcmi_chip chips[] = {
    {.name = "910A",
     .cpus = 14,
     .dies = 1,
     .hbm = true,
     .vdevs = 16,
     .templates = {{"vir02", 2184, 2, 1},
                   {"vir04", 4369, 4, 1},
                   {"vir08", 8738, 8, 3},
                   {"vir16", 17476, 16, 7}}},
    {.name = "910B2",
     .cpus = 6,
     .dies = 1,
     .hbm = true,
     .topology = true,
     .vdevs = 16,
     .templates = {{"vir03_1c_8g", 8192, 3, 1},
                   {"vir06_1c_16g", 16384, 6, 1},
                   {"vir12_3c_32g", 32768, 12, 3}}},
    {.name = "910B3",
     .cpus = 7,
     .dies = 1,
     .hbm = true,
     .topology = true,
     .vdevs = 16,
     .templates = {{"vir05_1c_16g", 16384, 5, 1}, {"vir10_3c_32g", 32768, 10, 3}}},
    {.name = "910B4-1",
     .cpus = 7,
     .dies = 1,
     .hbm = true,
     .topology = true,
     .vdevs = 16,
     .templates = {{"vir05_1c_16g", 16384, 5, 1}, {"vir10_3c_32g", 32768, 10, 3}}},
    {.name = "910B4",
     .cpus = 7,
     .dies = 1,
     .hbm = true,
     .topology = true,
     .vdevs = 16,
     .templates = {{"vir05_1c_8g", 8192, 5, 1}, {"vir10_3c_16g", 16384, 10, 3}}},
    {.name = "910C",
     .cpus = 7,
     .dies = 2,
     .hbm = true,
     .topology = true,
     .vdevs = 16,
     .templates = {{"vir05_1c_16g", 16384, 5, 1}, {"vir10_3c_32g", 32768, 10, 3}}},
    {.name = "310P3",
     .cpus = 7,
     .dies = 1,
     .vdevs = 8,
     .templates = {{"vir01", 3072, 1, 1}, {"vir02", 6144, 2, 2}, {"vir04", 12288, 4, 4}}},
    {.name = "", .cpus = 1, .dies = 1, .hbm = true},
};

const struct dcmi_chip *dcmi_chip_of(const char *name) {
    /* What is sold as 910C calls itself 910_93 and two digits more. */
    if (strncmp(name, "910_93", 6) == 0)
        name = "910C";
    const struct dcmi_chip *chip = chips;
    while (*chip->name && strcmp(chip->name, name) != 0)
        chip++;
    return chip;
}

unsigned long long dcmi_memory_mb(const struct sim_device_config *device) {
    return (device->memory - device->reserved) >> 20;
}
