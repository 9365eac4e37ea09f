/* Opening and closing a party's gates, for how long, and whether anybody waits for them. See arbiter.h. */
#include "arbiter_impl.h"

static void set_gate(struct member *member, unsigned state, unsigned others, uint64_t turn_ns) {
    uint64_t old = member->gate;
    uint32_t number = aliquot_gate_number(old);
    uint64_t fresh = aliquot_gate_word(state, others, number, turn_ns);
    /* Each turn has a number of its own, even if it is as long as the one before. */
    if (fresh == old && state != ALIQUOT_GATE_TURN)
        return;
    member->gate = aliquot_gate_word(state, others, number + 1, turn_ns);
    member->dirty = true;
}

void arbiter_set_gates(struct aliquot_arbiter *arbiter, const struct party *party, unsigned state,
                       uint64_t turn_ns) {
    for (uint32_t i = 0; i < party->member_count; i++) {
        struct member *member = &arbiter->members[party->members[i]];
        set_gate(member, state, aliquot_gate_others(member->gate), turn_ns);
    }
}

static void count_others(struct aliquot_arbiter *arbiter, uint32_t d) {
    const struct device *device = &arbiter->device[d];
    unsigned sharers = 0;
    for (uint32_t i = 0; i < device->stake_count; i++)
        sharers += occupies(device->stakes[i]->party) && !device->stakes[i]->party->native;
    for (uint32_t i = 0; i < device->stake_count; i++) {
        const struct party *party = device->stakes[i]->party;
        for (uint32_t j = 0; j < party->member_count; j++) {
            struct member *member = &arbiter->members[party->members[j]];
            unsigned others = occupies(party) && sharers > 1 ? sharers - 1 : 0;
            if (member->device != d || aliquot_gate_others(member->gate) == others)
                continue;
            /* The number stays: it is the same turn. */
            member->gate = (member->gate & ~(15ull << 2)) | (uint64_t)(others & 15u) << 2;
            member->dirty = true;
        }
    }
}

/* A little of a turn passes before its first launch and after its last: by how many turns somebody
 * has, he must not lose. */
static void forgive(const struct aliquot_arbiter *arbiter, struct party *party, uint64_t held_ns) {
    for (uint32_t i = 0; i < party->stake_count; i++) {
        struct stake *stake = party->stakes[i];
        uint64_t used_ns = 0;
        for (uint32_t j = 0; j < party->member_count; j++) {
            const struct member *member = &arbiter->members[party->members[j]];
            if (member->device == stake->device && member->seen.device_ns > member->used_ns)
                used_ns += member->seen.device_ns - member->used_ns;
        }
        if (!used_ns || used_ns >= held_ns)
            continue;
        double more = (double)least(held_ns - used_ns, HANDOVER_NS) / stake->share;
        stake->v -= least(stake->v, (uint64_t)more);
    }
}

void arbiter_release(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now) {
    bool was_overtaken = party->overtaken;
    if (party->turn && !was_overtaken)
        forgive(arbiter, party, now - party->opened_ns);
    party->turn = false;
    party->state = RESTING;
    party->overtaken = party->courted = party->gave_way = false;
    party->from_floor = 0;
    for (uint32_t i = 0; i < party->stake_count; i++) {
        struct device *device = &arbiter->device[party->stakes[i]->device];
        if (device->holder == party)
            device->holder = NULL;
        if (was_overtaken)
            count_others(arbiter, party->stakes[i]->device);
    }
}

void arbiter_close(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now) {
    party->state = DRAINING;
    party->closed_ns = now;
    party->left_ns = 0;
    arbiter_set_gates(arbiter, party, ALIQUOT_GATE_CLOSED, 0);
    /* Until somebody looks, after the gates were closed: a process that becomes active writes so, and
     * then reads the gate again. */
    for (uint32_t i = 0; i < party->member_count; i++)
        arbiter->members[party->members[i]].seen.active = true;
}

/* The virtual time up to which those who ask for a device, and perhaps one more, have had their parts. */
double arbiter_even(const struct device *device, const struct stake *more) {
    double shares = 0, sum = 0;
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < device->stake_count; i++) {
        const struct stake *stake = device->stakes[i];
        if (stake == more || (stake->shares && asks(stake->party)))
            first = least(first, stake->v);
    }
    for (uint32_t i = 0; i < device->stake_count; i++) {
        const struct stake *stake = device->stakes[i];
        if (stake != more && (!stake->shares || !asks(stake->party)))
            continue;
        shares += stake->share;
        sum += stake->share * (double)(stake->v - first);
    }
    return shares > 0 ? (double)first + sum / shares : 0;
}

/* How long a party's turn on a device is. */
static uint64_t turn_on(const struct aliquot_arbiter *arbiter, const struct device *device,
                        const struct stake *stake) {
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < device->stake_count; i++) {
        const struct stake *other = device->stakes[i];
        if (other != stake && asks(other->party))
            next = least(next, other->v);
    }
    double ahead_ns = stake->due - (double)stake->v;
    if (device->rotates) {
        /* Before his turn everybody is half a round behind, less what he makes of it himself. Who is
         * elsewhere has a longer turn or a shorter one: the order stays. */
        double half_ns = stake->round_ns / 2;
        double off_ns =
            (arbiter_even(device, stake) - half_ns * (1 - stake->share) - (double)stake->v) / 2;
        ahead_ns = stake->round_ns + larger(-half_ns, smaller(off_ns, half_ns));
    }
    /* Nobody comes before him until then. */
    if (next != UINT64_MAX && next > stake->v)
        ahead_ns = larger(ahead_ns, (double)(next - stake->v));
    double ns = stake->share * ahead_ns;
    return most(arbiter->settings.least_ns, ns < (double)LONGEST_NS ? (uint64_t)ns : LONGEST_NS);
}

/* Whether anybody else wants what the party has. */
bool arbiter_contended(const struct aliquot_arbiter *arbiter, const struct party *party,
                       bool *higher) {
    bool any = false;
    *higher = false;
    for (uint32_t i = 0; i < party->stake_count; i++) {
        const struct device *device = &arbiter->device[party->stakes[i]->device];
        for (uint32_t j = 0; j < device->stake_count; j++) {
            const struct party *other = device->stakes[j]->party;
            if (other == party || !asks(other))
                continue;
            if (other->priority > party->priority)
                any = true, *higher = *higher || !party->from_floor;
            else if (other->priority == party->priority || party->from_floor)
                any = true;
            else if (arbiter_floor_allows(arbiter, device))
                any = true;
        }
    }
    return any;
}

/* Whether a lower priority waits for any of what the party has. */
bool arbiter_courted(const struct aliquot_arbiter *arbiter, const struct party *party) {
    for (uint32_t i = 0; i < party->stake_count; i++) {
        const struct device *device = &arbiter->device[party->stakes[i]->device];
        for (uint32_t j = 0; j < device->stake_count; j++) {
            const struct party *other = device->stakes[j]->party;
            if (other != party && asks(other) && other->priority < party->priority)
                return true;
        }
    }
    return false;
}

void arbiter_open(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now,
                  uint64_t from_floor) {
    uint64_t turn_ns = UINT64_MAX;
    bool higher;
    party->state = HOLDING;
    party->overtaken = false;
    party->from_floor = from_floor;
    party->pausing = false;
    bool equals = arbiter_contended(arbiter, party, &higher) || from_floor;
    /* Under an open gate a container does not notice soon that it has nothing to do. */
    party->unrivalled = !equals && arbiter_courted(arbiter, party);
    party->turn = equals || party->unrivalled;
    party->opened_ns = now;
    for (uint32_t i = 0; i < party->stake_count; i++) {
        struct stake *stake = party->stakes[i];
        struct device *device = &arbiter->device[stake->device];
        device->holder = party;
        device->claimed = device->claimed == party ? NULL : device->claimed;
        /* Who goes since nobody else asks may owe much: that is no reason for others to owe it, too. */
        if (equals)
            device->v = most(device->v, stake->v);
        turn_ns = least(turn_ns, turn_on(arbiter, device, stake));
    }
    if (party->unrivalled)
        turn_ns = LONGEST_NS;
    if (from_floor)
        turn_ns = least(turn_ns, from_floor);
    /* A container counts its turn from when it sees it, and stops by itself. */
    party->end_ns = now + turn_ns + turn_ns / 8 + 300 * US;
    party->ring_ns = now + turn_ns - turn_ns / 8;
    party->rang = false;
    uint64_t start_ns = arbiter->settings.start_ns;
    party->late_ns = party->end_ns + (party->prompt ? turn_ns : 0);
    party->due_ns =
        least(party->late_ns, now + (party->prompt ? PROMPT_STARTS * start_ns : start_ns));
    arbiter_set_gates(arbiter, party, party->turn ? ALIQUOT_GATE_TURN : ALIQUOT_GATE_OPEN,
                      party->turn ? turn_ns : 0);
    for (uint32_t i = 0; i < party->member_count; i++) {
        struct member *member = &arbiter->members[party->members[i]];
        member->account.turns++;
        member->used_ns = member->seen.device_ns;
        member->seen.begun = false;
        member->seen.late = member->seen.waiting;
    }
    for (uint32_t i = 0; i < party->stake_count; i++)
        count_others(arbiter, party->stakes[i]->device);
}
