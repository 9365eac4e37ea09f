/* What a device is: its names, its place, figures of its model. */
#include "dcmi_sim.h"

#include <stdio.h>
#include <string.h>

enum { HUAWEI = 0x19e5 };

static int give_text(const char *text, char *out, size_t size) {
    if (strlen(text) >= size)
        return DCMI_PARAMETER;
    strcpy(out, text);
    return DCMI_OK;
}

int dcmi_get_dcmi_version(char *version, int size) {
    DCMI_LOOK look = dcmi_look(version);
    if (!look.state)
        return look.result;
    return size > 0 ? give_text("24.1.0", version, (size_t)size) : DCMI_PARAMETER;
}

int dcmi_get_driver_version(char *version, unsigned int size) {
    return dcmi_get_dcmi_version(version, (int)size);
}

int dcmi_get_device_chip_info_v2(int card_id, int device_id, struct dcmi_chip_info_v2 *info) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, info);
    if (!look.device)
        return look.result;
    memset(info, 0, sizeof *info);
    strcpy((char *)info->chip_type, "Ascend");
    snprintf((char *)info->chip_name, sizeof info->chip_name, "%.31s", look.device->name);
    strcpy((char *)info->chip_ver, "V1");
    info->aicore_cnt = dcmi_view(&look).cores;
    snprintf((char *)info->npu_name, sizeof info->npu_name, "%.31s", look.device->name);
    return DCMI_OK;
}

int dcmi_get_device_chip_info(int card_id, int device_id, struct dcmi_chip_info *info) {
    struct dcmi_chip_info_v2 newer;
    int result = dcmi_get_device_chip_info_v2(card_id, device_id, info ? &newer : NULL);
    if (result == DCMI_OK)
        memcpy(info, &newer, sizeof *info); /* the first fields are the same */
    return result;
}

int dcmi_get_device_pcie_info_v2(int card_id, int device_id, struct dcmi_pcie_info_all *info) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, info);
    if (!look.device)
        return look.result;
    *info = (struct dcmi_pcie_info_all){.venderid = HUAWEI,
                                        .subvenderid = HUAWEI,
                                        .deviceid = look.device->pci_id,
                                        .domain = (int)look.device->pci_domain,
                                        .bdf_busid = look.device->pci_bus,
                                        .bdf_deviceid = look.device->pci_device};
    return DCMI_OK;
}

/* Four words are the device's UUID, the fifth follows from them. */
int dcmi_get_device_die_v2(int card_id, int device_id, int input_type, struct dcmi_die_id *die) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, die);
    if (!look.device)
        return look.result;
    if (input_type != DCMI_DIE_N && input_type != DCMI_DIE_V)
        return DCMI_PARAMETER;
    const uint8_t *uuid = look.device->uuid;
    die->soc_die[4] = (unsigned)input_type;
    for (int w = 0; w < 4; w++) {
        die->soc_die[w] = (unsigned)uuid[4 * w] << 24 | (unsigned)uuid[4 * w + 1] << 16 |
                          (unsigned)uuid[4 * w + 2] << 8 | uuid[4 * w + 3];
        die->soc_die[4] ^= die->soc_die[w];
    }
    return DCMI_OK;
}

int dcmi_get_device_board_info(int card_id, int device_id, struct dcmi_board_info *info) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, info);
    if (look.device)
        *info = (struct dcmi_board_info){.board_id = 0x30, .slot_id = (unsigned)card_id};
    return look.result;
}

int dcmi_get_card_elabel_v2(int card_id, struct dcmi_elabel_info *info) {
    DCMI_LOOK look = dcmi_look_at(card_id, 0, info);
    if (!look.device)
        return look.result;
    memset(info, 0, sizeof *info);
    strcpy(info->product_name, "Simulated card");
    snprintf(info->model, sizeof info->model, "Ascend %s", look.device->name);
    strcpy(info->manufacturer, "Aliquot");
    snprintf(info->serial_number, sizeof info->serial_number, "SIM%02X%02X%02X%02X",
             look.device->uuid[0], look.device->uuid[1], look.device->uuid[2],
             look.device->uuid[3]);
    return DCMI_OK;
}

int dcmi_get_product_type(int card_id, int device_id, char *text, int size) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, text);
    if (!look.device)
        return look.result;
    return size > 0 ? give_text("Simulated card", text, (size_t)size) : DCMI_PARAMETER;
}

int dcmi_get_npu_work_mode(int card_id, unsigned char *work_mode) {
    DCMI_LOOK look = dcmi_look_at(card_id, 0, work_mode);
    if (look.device)
        *work_mode = 0; /* all devices under one system */
    return look.result;
}

int dcmi_get_device_boot_status(int card_id, int device_id, int *status) {
    enum { FINISHED = 16 };
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, status);
    if (look.device)
        *status = FINISHED;
    return look.result;
}

int dcmi_get_affinity_cpu_info_by_device_id(int card_id, int device_id, char *list, int *length) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, list);
    if (!look.device)
        return look.result;
    char text[4096];
    if (!length)
        return DCMI_PARAMETER;
    if (!sim_cpu_list(look.device, text, sizeof text))
        return DCMI_NO_CONFIG;
    /* The caller has room for what a kernel lists, and is not asked how much. */
    strcpy(list, text);
    *length = (int)strlen(text);
    return DCMI_OK;
}

int dcmi_get_topo_info_by_device_id(int card_id1, int device_id1, int card_id2, int device_id2,
                                    int *topo_type) {
    DCMI_LOOK look = dcmi_look_at(card_id1, device_id1, topo_type);
    if (!look.device)
        return look.result;
    DCMI_LOOK other = dcmi_look_at(card_id2, device_id2, topo_type);
    if (!other.device)
        return other.result;
    if (!look.chip->topology)
        return DCMI_NOT_SUPPORTED;
    *topo_type = look.number == other.number         ? DCMI_TOPO_SELF
                 : card_id1 == card_id2              ? DCMI_TOPO_SIO
                 : !look.device->links[other.number] ? DCMI_TOPO_SYS
                 : look.chip->dies > 1               ? DCMI_TOPO_HCCS_SWITCH
                                                     : DCMI_TOPO_HCCS;
    return DCMI_OK;
}
