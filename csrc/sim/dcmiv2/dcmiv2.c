/* The libdcmi.so of Ascend 950 and later: it has none of the names of the one before, and its chips
 * have no vNPUs. What there is suffices to be told apart. */
#include "sim/dcmi/dcmi.h"
#include "sim/vendor/vendor.h"

int dcmiv2_init(void) {
    return sim_session_open(SIM_VENDOR_ASCEND) == 0 ? DCMI_OK : DCMI_NOT_READY;
}

int dcmiv2_get_device_list(int *device_list, int *device_num, int list_len) {
    if (!device_list || !device_num || list_len <= 0)
        return DCMI_PARAMETER;
    if (!sim_session_enter())
        return DCMI_NOT_READY;
    *device_num = 0;
    while (*device_num < list_len && (uint32_t)*device_num < sim_session_count()) {
        device_list[*device_num] = *device_num;
        ++*device_num;
    }
    sim_session_leave();
    return DCMI_OK;
}
