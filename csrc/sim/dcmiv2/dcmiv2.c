/* The libdcmi.so of Ascend 950 and later: devices have one number each in place of a card and a place, most
 * functions have other names, and there are no vNPUs. What they answer is what the older library's do, which
 * are linked in and not exported.
 */
#include "sim/dcmi/dcmi_sim.h"

#include <string.h>

/* Where the older functions have the device. Answers why it is none. */
struct place {
    int card, device, result;
};

static bool is_950(void) {
    int unused = 0;
    DCMI_LOOK look = dcmi_look_at(0, 0, &unused);
    return look.device && strncmp(look.device->name, "950", 3) == 0;
}

static struct place place_of(int dev_id) {
    struct place place = {.result = DCMI_NOT_SUPPORTED};
    if (!is_950())
        return place;
    place.result = dev_id < 0 ? DCMI_PARAMETER
                              : dcmi_get_card_id_device_id_from_logicid(&place.card, &place.device,
                                                                        (unsigned)dev_id);
    return place;
}

#define ASK(function, dev_id, ...)                                                                 \
    struct place place = place_of(dev_id);                                                         \
    return place.result == DCMI_OK ? function(place.card, place.device, __VA_ARGS__) : place.result

int dcmiv2_init(void) { return dcmi_init(); }

int dcmiv2_get_driver_version(char *version, unsigned int size) {
    return dcmi_get_driver_version(version, size);
}

int dcmiv2_get_device_list(int *device_list, int *device_num, int list_len) {
    DCMI_LOOK look = dcmi_look(device_num);
    if (!look.state)
        return look.result;
    if (!device_list || list_len <= 0)
        return DCMI_PARAMETER;
    if (!is_950())
        return DCMI_NOT_SUPPORTED;
    *device_num = 0;
    while (*device_num < list_len && (uint32_t)*device_num < sim_session_count()) {
        device_list[*device_num] = *device_num;
        ++*device_num;
    }
    return DCMI_OK;
}

int dcmiv2_get_device_type(int dev_id, int *type) { ASK(dcmi_get_device_type, dev_id, type); }

int dcmiv2_get_chip_phy_id_by_dev_id(int dev_id, unsigned int *phyid) {
    struct place place = place_of(dev_id);
    return place.result == DCMI_OK ? dcmi_get_device_phyid_from_logicid((unsigned)dev_id, phyid)
                                   : place.result;
}

int dcmiv2_get_device_chip_info(int dev_id, struct dcmi_chip_info_v2 *info) {
    ASK(dcmi_get_device_chip_info_v2, dev_id, info);
}

int dcmiv2_get_device_pcie_info(int dev_id, struct dcmi_pcie_info_all *info) {
    ASK(dcmi_get_device_pcie_info_v2, dev_id, info);
}

/* Of these chips that of the data die alone is told. */
int dcmiv2_get_device_die_id(int dev_id, int input_type, struct dcmi_die_id *die) {
    if (input_type != DCMI_DIE_D)
        return is_950() ? DCMI_NOT_SUPPORTED : DCMI_PARAMETER;
    ASK(dcmi_get_device_die_v2, dev_id, DCMI_DIE_V, die);
}

int dcmiv2_get_affinity_cpu_info_by_dev_id(int dev_id, char *list, int *length) {
    ASK(dcmi_get_affinity_cpu_info_by_device_id, dev_id, list, length);
}

int dcmiv2_get_topo_info_by_device_id(int dev_id1, int dev_id2, int *topo_type) {
    struct place other = place_of(dev_id2);
    if (other.result != DCMI_OK)
        return other.result;
    ASK(dcmi_get_topo_info_by_device_id, dev_id1, other.card, other.device, topo_type);
}

int dcmiv2_get_device_hbm_info(int dev_id, struct dcmi_hbm_info *info) {
    ASK(dcmi_get_device_hbm_info, dev_id, info);
}

int dcmiv2_get_device_utilization_rate(int dev_id, int input_type, unsigned int *rate) {
    ASK(dcmi_get_device_utilization_rate, dev_id, input_type, rate);
}

int dcmiv2_get_device_power_info(int dev_id, int *power) {
    ASK(dcmi_get_device_power_info, dev_id, power);
}

int dcmiv2_get_device_temperature(int dev_id, int *temperature) {
    ASK(dcmi_get_device_temperature, dev_id, temperature);
}

int dcmiv2_get_device_proc_mem_info(int dev_id, struct dcmi_proc_mem_info *info, int *count) {
    ASK(dcmi_get_device_resource_info, dev_id, info, count);
}

int dcmiv2_get_device_health(int dev_id, unsigned int *health) {
    ASK(dcmi_get_device_health, dev_id, health);
}

int dcmiv2_get_device_error_code_list(int dev_id, int *count, unsigned int *codes,
                                      unsigned int room) {
    ASK(dcmi_get_device_errorcode_v2, dev_id, count, codes, room);
}

int dcmiv2_get_device_current_fault_event(int dev_id, struct dcmi_event *events, int room,
                                          int *count) {
    ASK(dcmi_get_device_current_fault_event, dev_id, events, room, count);
}

int dcmiv2_subscribe_fault_event(int dev_id, struct dcmi_event_filter filter,
                                 void (*handler)(struct dcmi_event *event)) {
    ASK(dcmi_subscribe_fault_event, dev_id, filter, handler);
}
