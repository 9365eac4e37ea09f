/* See seen.h. */
#include "seen.h"

#include "../region/region.h"

/* No container keeps a device for longer by saying that its work will take longer. */
#define MOST_LEFT_NS 2000000000ull

static bool under(uint64_t flow, uint64_t gate) {
    return aliquot_flow_number(flow) == (aliquot_gate_number(gate) & 0xffffu);
}

void aliquot_seen_make(const uint64_t *flow, const struct aliquot_passed_over *over, uint32_t count,
                       uint64_t gate, uint64_t device_ns, struct aliquot_seen *seen) {
    *seen = (struct aliquot_seen){.device_ns = device_ns};
    for (uint32_t i = 0; i < count; i++) {
        if (!flow[i])
            continue;
        bool begun = under(flow[i], gate);
        bool waiting =
            aliquot_flow_waiting(flow[i]) && over[i].rings != aliquot_flow_rings(flow[i]) + 1;
        seen->waiting |= waiting;
        seen->active |= aliquot_flow_active(flow[i]);
        seen->begun |= begun;
        seen->late |= waiting && !begun;
        if (aliquot_flow_left_ns(flow[i]) > seen->left_ns)
            seen->left_ns = aliquot_flow_left_ns(flow[i]);
    }
    if (seen->left_ns > MOST_LEFT_NS)
        seen->left_ns = MOST_LEFT_NS;
}

void aliquot_seen_gate(const uint64_t *flow, struct aliquot_passed_over *over, uint32_t count,
                       uint64_t old, uint64_t fresh) {
    if (aliquot_gate_state(old) != ALIQUOT_GATE_TURN ||
        aliquot_gate_state(fresh) == ALIQUOT_GATE_TURN)
        return;
    for (uint32_t i = 0; i < count; i++)
        if (aliquot_flow_waiting(flow[i]) && !under(flow[i], old))
            over[i].rings = aliquot_flow_rings(flow[i]) + 1;
}
