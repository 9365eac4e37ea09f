/* The node as programs find it: its folder, and which of its devices they see. */
#include "state_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *sim_node_folder(bool *by_file) {
    const char *name = getenv("ALIQUOT_SIM");
    bool own = name && *name;
    if (by_file)
        *by_file = !own;
    return own ? name : "/run/aliquot-sim";
}

uint32_t sim_node_minor(const struct sim_node_config *node, uint32_t device) {
    uint32_t minor = 0;
    for (uint32_t d = 0; d < device; d++)
        minor += node->devices[d].vendor == node->devices[device].vendor;
    return minor;
}

bool sim_node_openable(const struct sim_node_config *node, uint32_t device) {
    static const char *const files[] = {
        [SIM_VENDOR_NVIDIA] = "nvidia",
        [SIM_VENDOR_ASCEND] = "davinci",
        [SIM_VENDOR_CAMBRICON] = "cambricon_dev",
    };
    char path[32];
    snprintf(path, sizeof path, "/dev/%s%u", files[node->devices[device].vendor],
             sim_node_minor(node, device));
    int descriptor = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (descriptor >= 0)
        close(descriptor);
    return descriptor >= 0;
}

uint64_t sim_node_pci_key(const struct sim_device_config *device) {
    return (uint64_t)device->pci_domain << 16 | device->pci_bus << 8 | device->pci_device;
}

void sim_node_uuid(const uint8_t uuid[16], char text[SIM_UUID_TEXT]) {
    int at = sprintf(text, "GPU-");
    for (int b = 0; b < 16; b++)
        at += sprintf(text + at, b == 4 || b == 6 || b == 8 || b == 10 ? "-%02x" : "%02x", uuid[b]);
}

uint32_t sim_node_driver_version(const char *directory) {
    char path[SIM_PATH_MAX];
    snprintf(path, sizeof path, "%s/state", directory);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    struct {
        uint64_t magic;
        uint32_t version, header_bytes;
    } start = {0};
    uint32_t found = 0;
    off_t at = (off_t)(offsetof(struct sim_state_header, node) +
                       offsetof(struct sim_node_config, driver_version));
    bool ours = descriptor >= 0 &&
                pread(descriptor, &start, sizeof start, 0) == (ssize_t)sizeof start &&
                start.magic == SIM_STATE_MAGIC && start.version == SIM_STATE_VERSION &&
                start.header_bytes == sizeof(struct sim_state_header) &&
                pread(descriptor, &found, sizeof found, at) == (ssize_t)sizeof found;
    if (descriptor >= 0)
        close(descriptor);
    return ours ? found : 0;
}
