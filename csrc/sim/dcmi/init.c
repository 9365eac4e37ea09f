/* Initialisation, looks, and the numbers of cards and devices. */
#include "dcmi_sim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int dcmi_init(void) {
    /* Doing it twice is doing it once; there is no end of it. */
    if (sim_session_enter()) {
        sim_session_leave();
        return DCMI_OK;
    }
    int error = sim_session_open(SIM_VENDOR_ASCEND);
    return error == 0                            ? DCMI_OK
           : error == EACCES || error == EPERM   ? DCMI_PERMISSION
           : error == ENOENT || error == ENOTDIR ? DCMI_NOT_READY
                                                 : DCMI_INTERNAL;
}

/* ---- Looks ----------------------------------------------------------------------------------- */

struct dcmi_look dcmi_look(const void *out) {
    struct dcmi_look look = {.result = DCMI_NOT_READY};
    struct sim_state *state = sim_session_enter();
    if (!state)
        return look;
    if (!out) {
        sim_session_leave();
        look.result = DCMI_PARAMETER;
        return look;
    }
    look.state = state;
    look.result = DCMI_OK;
    return look;
}

/* A card is as many devices one after the other as its chip has dies. */
static unsigned dies_of(const struct dcmi_look *look, uint32_t index) {
    const struct sim_node_config *node = look->state->node;
    return dcmi_chip_of(node->devices[sim_session_device(index)].name)->dies;
}

/* The card and place of a device by its index, or the index of a card's first device. */
static void card_of(const struct dcmi_look *look, uint32_t index, int *card, int *place) {
    uint32_t first = 0;
    for (*card = 0; first + dies_of(look, first) <= index; ++*card)
        first += dies_of(look, first);
    *place = (int)(index - first);
}

struct dcmi_look dcmi_look_at(int card_id, int device_id, const void *out) {
    struct dcmi_look look = dcmi_look(out);
    if (!look.state)
        return look;
    look.result = DCMI_INVALID_ID;
    for (uint32_t i = 0; i < sim_session_count(); i++) {
        int card, place;
        card_of(&look, i, &card, &place);
        if (card != card_id || place != device_id)
            continue;
        look.result = DCMI_OK;
        look.index = i;
        look.number = sim_session_device(i);
        look.device = &look.state->node->devices[look.number];
        look.chip = dcmi_chip_of(look.device->name);
    }
    return look;
}

void dcmi_look_end(struct dcmi_look *look) {
    if (look->state)
        sim_session_leave();
}

uint32_t dcmi_phy_id(const struct dcmi_look *look) {
    return sim_node_minor(look->state->node, look->number);
}

/* ---- Cards and devices ------------------------------------------------------------------------ */

int dcmi_get_card_list(int *card_num, int *card_list, int list_len) {
    DCMI_LOOK look = dcmi_look(card_num);
    if (!look.state)
        return look.result;
    if (!card_list || list_len <= 0)
        return DCMI_PARAMETER;
    *card_num = 0;
    for (uint32_t i = 0; i < sim_session_count(); i++) {
        int card, place;
        card_of(&look, i, &card, &place);
        if (place == 0 && *card_num < list_len)
            card_list[(*card_num)++] = card;
    }
    return DCMI_OK;
}

int dcmi_get_card_num_list(int *card_num, int *card_list, int list_length) {
    return dcmi_get_card_list(card_num, card_list, list_length);
}

int dcmi_get_device_num_in_card(int card_id, int *device_num) {
    DCMI_LOOK look = dcmi_look_at(card_id, 0, device_num);
    if (!look.device)
        return look.result;
    *device_num = 0;
    for (uint32_t i = look.index; i < sim_session_count(); i++) {
        int card, place;
        card_of(&look, i, &card, &place);
        *device_num += card == card_id;
    }
    return DCMI_OK;
}

int dcmi_get_device_id_in_card(int card_id, int *device_id_max, int *mcu_id, int *cpu_id) {
    int result = dcmi_get_device_num_in_card(card_id, device_id_max);
    if (result == DCMI_OK && mcu_id)
        *mcu_id = -1; /* there is none */
    if (result == DCMI_OK && cpu_id)
        *cpu_id = -1;
    return result;
}

int dcmi_get_device_type(int card_id, int device_id, int *device_type) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, device_type);
    if (look.device)
        *device_type = DCMI_UNIT_NPU;
    return look.result;
}

int dcmi_get_device_logic_id(int *device_logic_id, int card_id, int device_id) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, device_logic_id);
    if (look.device)
        *device_logic_id = (int)look.index;
    return look.result;
}

int dcmi_get_card_id_device_id_from_logicid(int *card_id, int *device_id, unsigned int logic_id) {
    DCMI_LOOK look = dcmi_look(card_id);
    if (!look.state)
        return look.result;
    if (!device_id)
        return DCMI_PARAMETER;
    if (logic_id >= sim_session_count())
        return DCMI_INVALID_ID;
    card_of(&look, logic_id, card_id, device_id);
    return DCMI_OK;
}

int dcmi_get_device_phyid_from_logicid(unsigned int logicid, unsigned int *phyid) {
    DCMI_LOOK look = dcmi_look(phyid);
    if (!look.state)
        return look.result;
    if (logicid >= sim_session_count())
        return DCMI_INVALID_ID;
    *phyid = sim_node_minor(look.state->node, sim_session_device(logicid));
    return DCMI_OK;
}

int dcmi_get_device_logicid_from_phyid(unsigned int phyid, unsigned int *logicid) {
    DCMI_LOOK look = dcmi_look(logicid);
    if (!look.state)
        return look.result;
    for (uint32_t i = 0; i < sim_session_count(); i++) {
        if (sim_node_minor(look.state->node, sim_session_device(i)) != phyid)
            continue;
        *logicid = i;
        return DCMI_OK;
    }
    return DCMI_INVALID_ID;
}

int dcmi_get_card_id_device_id_from_phyid(int *card_id, int *device_id, unsigned int phy_id) {
    unsigned int logic_id;
    int result = dcmi_get_device_logicid_from_phyid(phy_id, &logic_id);
    return result == DCMI_OK ? dcmi_get_card_id_device_id_from_logicid(card_id, device_id, logic_id)
                             : result;
}
