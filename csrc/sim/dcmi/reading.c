/* What a device reads now: memory, load, health and who is on it. */
#include "dcmi_sim.h"

#include <string.h>

/* ---- Memory ----------------------------------------------------------------------------------- */

struct dcmi_view dcmi_view(const struct dcmi_look *look) {
    uint64_t usable = look->device->memory - look->device->reserved;
    uint64_t unused = sim_free_bytes(look->state, look->number);
    struct dcmi_view view = {
        .cores = look->device->sms, .bytes = usable, .used_bytes = usable - unused};
    sim_device_lock(look->state, look->number);
    const struct sim_slot *own = &look->state->header->slots[look->state->slot];
    uint32_t vdev = atomic_load_explicit(&own->partition[look->number], memory_order_relaxed);
    const struct sim_partition *found = sim_partition_find(look->state, look->number, vdev);
    if (found)
        view = (struct dcmi_view){
            .vdev = vdev,
            .cores = found->cores,
            .bytes = found->memory,
            .used_bytes = sim_partition_held(look->state, look->number, vdev),
        };
    sim_device_unlock(look->state, look->number);
    return view;
}

uint32_t dcmi_busy(const struct dcmi_look *look, const struct dcmi_view *view) {
    if (view->vdev)
        return (sim_partition_permille(look->state, look->number, view->vdev) + 5) / 10;
    struct sim_usage usage = sim_device_usage(look->state, look->number);
    return sim_percent(usage.run_ns, &usage);
}

static unsigned used_percent(const struct dcmi_view *view) {
    return (unsigned)(view->used_bytes * 100 / view->bytes);
}

int dcmi_get_device_hbm_info(int card_id, int device_id, struct dcmi_hbm_info *info) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, info);
    if (!look.device)
        return look.result;
    if (!look.chip->hbm)
        return DCMI_NOT_SUPPORTED;
    struct sim_usage usage = sim_device_usage(look.state, look.number);
    struct dcmi_view view = dcmi_view(&look);
    *info = (struct dcmi_hbm_info){.memory_size = view.bytes >> 20,
                                   .freq = look.device->memory_clock_mhz,
                                   .memory_usage = view.used_bytes >> 20,
                                   .temp = (int)sim_temperature(look.state, look.number),
                                   .bandwith_util_rate = sim_percent(usage.copy_ns, &usage)};
    return DCMI_OK;
}

int dcmi_get_device_memory_info_v3(int card_id, int device_id,
                                   struct dcmi_get_memory_info_stru *info) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, info);
    if (!look.device)
        return look.result;
    memset(info, 0, sizeof *info);
    if (look.chip->hbm)
        return DCMI_OK; /* no DDR: all is zero, as the real one tells it */
    struct dcmi_view view = dcmi_view(&look);
    info->memory_size = view.bytes >> 20;
    info->memory_available = (view.bytes - view.used_bytes) >> 20;
    info->freq = look.device->memory_clock_mhz;
    info->utiliza = used_percent(&view);
    return DCMI_OK;
}

int dcmi_get_memory_info(int card_id, int device_id, struct dcmi_memory_info_stru *info) {
    struct dcmi_get_memory_info_stru newer;
    int result = dcmi_get_device_memory_info_v3(card_id, device_id, info ? &newer : NULL);
    if (result == DCMI_OK)
        *info = (struct dcmi_memory_info_stru){newer.memory_size, newer.freq, newer.utiliza};
    return result;
}

/* ---- Load ------------------------------------------------------------------------------------- */

int dcmi_get_device_utilization_rate(int card_id, int device_id, int input_type,
                                     unsigned int *utilization_rate) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, utilization_rate);
    if (!look.device)
        return look.result;
    struct sim_usage usage = sim_device_usage(look.state, look.number);
    struct dcmi_view view = dcmi_view(&look);
    switch (input_type) {
    case DCMI_UTIL_AICORE:
    case DCMI_UTIL_OVERALL:
    case DCMI_UTIL_CUBE:
        *utilization_rate = dcmi_busy(&look, &view);
        return DCMI_OK;
    case DCMI_UTIL_VECTOR:
        *utilization_rate = dcmi_busy(&look, &view);
        return look.chip->topology ? DCMI_OK : DCMI_NOT_SUPPORTED; /* cores of one kind before */
    case DCMI_UTIL_HBM:
        *utilization_rate = used_percent(&view);
        return look.chip->hbm ? DCMI_OK : DCMI_NOT_SUPPORTED;
    case DCMI_UTIL_MEMORY:
        *utilization_rate = used_percent(&view);
        return look.chip->hbm ? DCMI_NOT_SUPPORTED : DCMI_OK;
    case DCMI_UTIL_HBM_BANDWIDTH:
        *utilization_rate = sim_percent(usage.copy_ns, &usage);
        return look.chip->hbm ? DCMI_OK : DCMI_NOT_SUPPORTED;
    default:
        return DCMI_PARAMETER;
    }
}

int dcmi_get_device_multi_utilization_rate(int card_id, int device_id,
                                           struct dcmi_multi_utilization_info *info) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, info);
    if (!look.device)
        return look.result;
    struct dcmi_view view = dcmi_view(&look);
    unsigned busy = dcmi_busy(&look, &view);
    *info = (struct dcmi_multi_utilization_info){
        .aic_util = busy, .aiv_util = busy, .aicore_util = busy, .npu_util = busy};
    return DCMI_OK;
}

/* In tenths of a watt. */
int dcmi_get_device_power_info(int card_id, int device_id, int *power) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, power);
    if (look.device)
        *power = (int)(sim_power(look.state, look.number) / 100);
    return look.result;
}

int dcmi_mcu_get_power_info(int card_id, int *power) {
    DCMI_LOOK look = dcmi_look_at(card_id, 0, power);
    return look.device ? DCMI_NOT_SUPPORTED : look.result; /* there is no MCU */
}

int dcmi_get_device_temperature(int card_id, int device_id, int *temperature) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, temperature);
    if (look.device)
        *temperature = (int)sim_temperature(look.state, look.number);
    return look.result;
}

int dcmi_get_device_voltage(int card_id, int device_id, unsigned int *voltage) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, voltage);
    return look.device ? DCMI_NOT_SUPPORTED : look.result;
}

int dcmi_get_device_frequency(int card_id, int device_id, int input_type, unsigned int *frequency) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, frequency);
    if (!look.device)
        return look.result;
    switch (input_type) {
    case DCMI_FREQ_AICORE:
    case DCMI_FREQ_AICORE_MAX:
    case DCMI_FREQ_VECTOR:
        *frequency = look.device->clock_mhz;
        return DCMI_OK;
    case DCMI_FREQ_HBM:
    case DCMI_FREQ_DDR:
        *frequency = look.device->memory_clock_mhz;
        return (input_type == DCMI_FREQ_HBM) == look.chip->hbm ? DCMI_OK : DCMI_NOT_SUPPORTED;
    default:
        return DCMI_PARAMETER;
    }
}

int dcmi_get_device_ecc_info(int card_id, int device_id, int input_type,
                             struct dcmi_ecc_info *info) {
    (void)input_type; /* there are no errors of any memory */
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, info);
    if (look.device)
        *info = (struct dcmi_ecc_info){.enable_flag = 1};
    return look.result;
}

int dcmi_get_device_resource_info(int card_id, int device_id, struct dcmi_proc_mem_info *info,
                                  int *proc_num) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, info);
    if (!look.device)
        return look.result;
    if (!proc_num)
        return DCMI_PARAMETER;
    struct sim_holder holders[SIM_SLOTS_MAX];
    uint32_t found = sim_holders(look.state, look.number, holders);
    if (found > DCMI_PROCESSES)
        found = DCMI_PROCESSES; /* the caller's room, which it does not tell */
    for (uint32_t p = 0; p < found; p++)
        info[p] = (struct dcmi_proc_mem_info){.proc_id = (int)holders[p].pid,
                                              .proc_mem_usage = holders[p].bytes};
    *proc_num = (int)found;
    return DCMI_OK;
}

/* ---- Health ----------------------------------------------------------------------------------- */

static unsigned worst(struct sim_state *state, uint32_t number) {
    struct sim_fault standing[SIM_STANDING_MAX];
    uint32_t count = sim_state_standing(state, number, standing);
    unsigned health = 0;
    for (uint32_t f = 0; f < count; f++)
        health = standing[f].severity > health ? standing[f].severity : health;
    return health;
}

int dcmi_get_device_health(int card_id, int device_id, unsigned int *health) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, health);
    if (look.device)
        *health = worst(look.state, look.number);
    return look.result;
}

int dcmi_get_driver_health(unsigned int *health) {
    DCMI_LOOK look = dcmi_look(health);
    if (look.state)
        *health = 0;
    return look.result;
}

int dcmi_get_device_errorcode_v2(int card_id, int device_id, int *error_count,
                                 unsigned int *error_code_list, unsigned int list_len) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, error_count);
    if (!look.device)
        return look.result;
    if (!error_code_list)
        return DCMI_PARAMETER;
    struct sim_fault standing[SIM_STANDING_MAX];
    uint32_t count = sim_state_standing(look.state, look.number, standing);
    if (count > list_len)
        count = list_len;
    for (uint32_t f = 0; f < count; f++)
        error_code_list[f] = standing[f].code;
    *error_count = (int)count;
    return DCMI_OK;
}
