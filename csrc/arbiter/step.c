/* Whose turn it is. See arbiter.h. */
#include "arbiter_impl.h"

/* -- What was seen of a party ------------------------------------------------------------------- */

static bool any_waiting(const struct aliquot_arbiter *arbiter, const struct party *party) {
    for (uint32_t i = 0; i < party->member_count; i++)
        if (arbiter->members[party->members[i]].seen.waiting)
            return true;
    return false;
}

static uint64_t longest_left(const struct aliquot_arbiter *arbiter, const struct party *party) {
    uint64_t left_ns = 0;
    for (uint32_t i = 0; i < party->member_count; i++)
        left_ns = most(left_ns, arbiter->members[party->members[i]].seen.left_ns);
    return left_ns;
}

/* -- The step ----------------------------------------------------------------------------------- */

/* Whether the turn of a holder is over, and when to look again if not. */
static bool turn_is_over(const struct aliquot_arbiter *arbiter, struct party *party, uint64_t now,
                         uint64_t *next) {
    bool begun = false, late = false;
    for (uint32_t i = 0; i < party->member_count; i++) {
        const struct aliquot_seen *seen = &arbiter->members[party->members[i]].seen;
        begun |= seen->begun;
        late |= seen->late;
    }
    if (party->rang)
        return true;
    party->prompt = begun && now < party->end_ns;
    if (now >= party->end_ns)
        return true;
    *next = least(*next, party->late_ns);
    if (any_active(arbiter, party))
        return false;
    if (begun && !late)
        return true;
    if (now >= party->opened_ns + arbiter->settings.start_ns)
        return true;
    *next = least(*next, party->opened_ns + arbiter->settings.start_ns);
    return false;
}

bool aliquot_arbiter_rang(struct aliquot_arbiter *arbiter, int member, uint64_t now) {
    struct party *party = arbiter->members[member].party;
    bool higher;
    if (party->state != HOLDING || !party->turn || party->unrivalled || !party->prompt ||
        party->member_count > 1 || now < party->ring_ns ||
        !arbiter_contended(arbiter, party, &higher))
        return false;
    party->rang = true;
    arbiter_touch(arbiter, party);
    return true;
}

/* Whoever has a turn and nothing to do, while lower priorities wait until it was quiet for long enough,
 * keeps a turn: under an open gate it would not say soon that it has nothing to do. Returns whether they
 * wait on. */
static bool pauses(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now,
                   uint64_t *next) {
    uint64_t quiet_ns = party->busy_ns + party->quiet_ns;
    party->pausing = arbiter_courted(arbiter, party);
    party->gave_way = party->pausing && now >= quiet_ns;
    if (!party->pausing || party->gave_way)
        return false;
    if (!party->unrivalled || now + LONGEST_NS / 2 >= party->end_ns) {
        party->unrivalled = true;
        party->end_ns = now + LONGEST_NS;
        party->late_ns = party->end_ns;
        arbiter_set_gates(arbiter, party, ALIQUOT_GATE_TURN, LONGEST_NS);
    }
    *next = least(*next, least(quiet_ns, party->end_ns - LONGEST_NS / 2));
    return true;
}

static void look_at_holder(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now,
                           uint64_t *next) {
    bool higher;
    if (party->state == HOLDING) {
        bool others = arbiter_contended(arbiter, party, &higher);
        party->courted = !party->turn && !others && arbiter_courted(arbiter, party);
        if (party->courted) {
            uint64_t quiet_ns = most(party->busy_ns + party->quiet_ns,
                                     party->opened_ns + arbiter->settings.start_ns);
            party->gave_way = now >= quiet_ns && !any_active(arbiter, party);
            others = party->gave_way;
            *next = least(*next, now + COURT_NS);
        }
        party->pausing = party->pausing && !any_active(arbiter, party);
        bool over = party->turn && (party->pausing || turn_is_over(arbiter, party, now, next));
        if (party->turn && !party->unrivalled ? higher || over : others || over) {
            if (higher)
                for (uint32_t i = 0; i < party->member_count; i++)
                    arbiter->members[party->members[i]].account.preempted++;
            if (party->turn && !any_active(arbiter, party) && !others && !party->from_floor) {
                /* Nobody else wants it, or nobody who may go as long as it is not quiet: it stays open
                 * for whoever had it. */
                if (pauses(arbiter, party, now, next))
                    return;
                if (!party->gave_way) {
                    party->turn = false;
                    arbiter_set_gates(arbiter, party, ALIQUOT_GATE_OPEN, 0);
                    *next = least(*next, now + COURT_NS);
                    return;
                }
            }
            arbiter_close(arbiter, party, now);
        }
    }
    if (party->state != DRAINING)
        return;
    if (!any_active(arbiter, party)) {
        arbiter_release(arbiter, party, now);
        return;
    }
    if (party->overtaken)
        return;
    /* What it says is left may be old by the time that it is closed, and less when it is said anew. */
    party->left_ns = most(party->left_ns, longest_left(arbiter, party));
    uint64_t drain_ns =
        party->closed_ns + arbiter->settings.drain_ns + party->left_ns + party->left_ns / 2;
    if (now < drain_ns) {
        *next = least(*next, drain_ns);
        return;
    }
    party->overtaken = true;
    for (uint32_t i = 0; i < party->member_count; i++)
        arbiter->members[party->members[i]].account.overruns++;
    for (uint32_t i = 0; i < party->stake_count; i++) {
        struct device *device = &arbiter->device[party->stakes[i]->device];
        if (device->holder == party)
            device->holder = NULL;
    }
}

/* Takes all devices of a party for it, or none. */
static bool claim(struct aliquot_arbiter *arbiter, struct party *party) {
    for (uint32_t i = 0; i < party->stake_count; i++) {
        const struct party *other = arbiter->device[party->stakes[i]->device].claimed;
        if (other && other != party)
            return false;
    }
    for (uint32_t i = 0; i < party->stake_count; i++)
        arbiter->device[party->stakes[i]->device].claimed = party;
    return true;
}

static bool all_free(const struct aliquot_arbiter *arbiter, const struct party *party) {
    for (uint32_t i = 0; i < party->stake_count; i++)
        if (arbiter->device[party->stakes[i]->device].holder)
            return false;
    return true;
}

/* Whether somebody wants one of a party's devices to whom it owes more there than turns even out.
 * (Who has several himself may wait for others in turn, and is waited for by nobody.) */
static bool owes(const struct aliquot_arbiter *arbiter, const struct party *party) {
    for (uint32_t i = 0; i < party->stake_count; i++) {
        const struct stake *stake = party->stakes[i];
        const struct device *device = &arbiter->device[stake->device];
        for (uint32_t j = 0; j < device->stake_count; j++) {
            const struct stake *other = device->stakes[j];
            const struct party *rival = other->party;
            if (rival->stake_count == 1 && rival->priority == party->priority &&
                (asks(rival) || occupies(rival)) && stake->v > other->v + MOST_OWED_NS)
                return true;
        }
    }
    return false;
}

/* Of two who share a device, who goes first. `even_ns`: of the device. */
static bool goes_before(const struct device *device, const struct stake *one,
                        const struct stake *other, double even_ns) {
    /* Who is ahead by more than a turn in passing makes, waits. */
    double slack = device->rotates ? 0.5 : 0.125;
    bool one_waits = (double)one->v > even_ns + slack * one->round_ns;
    bool other_waits = (double)other->v > even_ns + slack * other->round_ns;
    if (one_waits != other_waits)
        return other_waits;
    /* The earliest end of a turn goes first, and so nobody is late by more than somebody's turn. */
    if (!device->rotates && one->due != other->due)
        return one->due < other->due;
    return one->party->opened_ns < other->party->opened_ns;
}

/* Gives a device that nobody has to whoever is owed it most. */
static void give(struct aliquot_arbiter *arbiter, struct device *device, uint64_t now,
                 uint64_t *next) {
    const struct party *top;
    uint64_t until;
    int32_t priority = arbiter_served(device, now, &top, &until);
    bool floor = arbiter_floor_allows(arbiter, device);
    if (device->claimed) {
        if (!device->claimed->wanting)
            device->claimed = NULL;
        else if (all_free(arbiter, device->claimed)) {
            arbiter_open(arbiter, device->claimed, now, 0);
            return;
        } else
            return;
    }
    double even_ns = arbiter_even(device, NULL);
    for (;;) {
        struct stake *best = NULL;
        for (uint32_t i = 0; i < device->stake_count; i++) {
            struct stake *stake = device->stakes[i];
            const struct party *party = stake->party;
            bool lower = party->priority < priority;
            if (!asks(party) || stake->open)
                continue;
            if (lower && !floor) {
                *next = least(*next, until);
                continue;
            }
            /* What is left of a turn is gone on with, unless it is hardly any. */
            if (stake->due < (double)stake->v + stake->round_ns / 4 ||
                stake->due > (double)stake->v + stake->round_ns)
                stake->due = (double)stake->v + stake->round_ns;
            if (!best || (lower && best->party->priority >= priority) ||
                (lower == (best->party->priority < priority) &&
                 (lower ? stake->v < best->v : goes_before(device, stake, best, even_ns))))
                best = stake;
        }
        if (!best)
            return;
        struct party *party = best->party;
        uint64_t from_floor = 0;
        if (party->priority < priority) {
            from_floor = (uint64_t)device->floor_ns;
            device->floor_ns = 0;
        }
        bool gang = party->stake_count > 1;
        if (!gang || (!owes(arbiter, party) && claim(arbiter, party) && all_free(arbiter, party))) {
            arbiter_open(arbiter, party, now, from_floor);
            return;
        }
        if (device->claimed == party)
            return;
        /* Its other devices are somebody's who gathers, or is owed them: the next one goes. */
        best->open = true;
    }
}

/* What a party wants now, and what it is owed when it comes back. */
static void look_at_wants(struct aliquot_arbiter *arbiter, struct party *party) {
    bool wanting = any_waiting(arbiter, party);
    if (wanting && !party->wanting && party->state == RESTING)
        for (uint32_t i = 0; i < party->stake_count; i++) {
            struct stake *stake = party->stakes[i];
            uint64_t v = arbiter->device[stake->device].v;
            uint64_t round_ns = arbiter->settings.round_ns;
            stake->v = most(stake->v, v > round_ns ? v - round_ns : 0);
        }
    party->wanting = wanting;
}

/* Lower priorities save up what the one that is served leaves them. */
static void save_floor(struct aliquot_arbiter *arbiter, struct device *device, uint64_t now,
                       uint64_t *next) {
    const struct party *top;
    uint64_t until;
    int32_t priority = arbiter_served(device, now, &top, &until);
    bool kept = false;
    for (uint32_t i = 0; i < device->stake_count && top && top->floor; i++)
        kept |= device->stakes[i]->party->priority < priority &&
                (device->stakes[i]->party->wanting || device->stakes[i]->party->from_floor);
    if (!kept) {
        device->floor_ns = 0;
        return;
    }
    double need = (double)(2 * arbiter->settings.least_ns);
    device->floor_ns += (double)(device->passed_ns * top->floor) / 1000;
    if (device->floor_ns > 4 * need)
        device->floor_ns = 4 * need;
    if (device->floor_ns < need)
        *next = least(*next, now + 1 + (uint64_t)((need - device->floor_ns) * 1000 / top->floor));
}

void arbiter_keep(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now) {
    party->state = HOLDING;
    party->turn = false;
    party->opened_ns = now;
    arbiter_set_gates(arbiter, party, ALIQUOT_GATE_OPEN, 0);
    for (uint32_t i = 0; i < party->stake_count; i++)
        arbiter->device[party->stakes[i]->device].holder = party;
}

/* Who is alone with all its devices, and without a cap, is not bothered. */
static void free_the_lone(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now) {
    bool alone = true;
    for (uint32_t i = 0; i < party->stake_count; i++)
        alone &= arbiter->device[party->stakes[i]->device].stake_count == 1 &&
                 party->stakes[i]->max == 1000;
    party->lone = alone;
    bool is_free =
        aliquot_gate_state(arbiter->members[party->members[0]].gate) == ALIQUOT_GATE_FREE;
    if (alone || party->native) {
        arbiter_release(arbiter, party, now);
        arbiter_set_gates(arbiter, party, ALIQUOT_GATE_FREE, 0);
    } else if (is_free) {
        arbiter_keep(arbiter, party, now);
    }
}

/* Whether a party is to be seen to with this device: with each, but once. */
static bool seen_to_on(const struct party *party, uint32_t d) {
    return party->stakes[0]->device == d;
}

/* Finds the devices that are to be decided anew, and with each those that parties on it have too. */
static void touch(struct aliquot_arbiter *arbiter, uint64_t now) {
    bool more = false;
    for (uint32_t d = 0; d < arbiter->device_count; d++) {
        struct device *device = &arbiter->device[d];
        device->touched =
            device->stake_count > 0 && (device->changed || device->news || now >= device->next_ns);
        more |= device->touched;
        device->news = false;
    }
    while (more) {
        more = false;
        for (uint32_t d = 0; d < arbiter->device_count; d++)
            for (uint32_t i = 0; arbiter->device[d].touched && i < arbiter->device[d].stake_count;
                 i++) {
                const struct party *party = arbiter->device[d].stakes[i]->party;
                for (uint32_t j = 0; party->stake_count > 1 && j < party->stake_count; j++) {
                    struct device *device = &arbiter->device[party->stakes[j]->device];
                    more |= !device->touched;
                    device->touched = true;
                }
            }
    }
}

static void look_at_wants_on(struct aliquot_arbiter *arbiter, uint32_t d) {
    const struct device *device = &arbiter->device[d];
    for (uint32_t i = 0; i < device->stake_count; i++)
        if (seen_to_on(device->stakes[i]->party, d))
            look_at_wants(arbiter, device->stakes[i]->party);
}

/* Up to now. */
static void account(struct aliquot_arbiter *arbiter, uint32_t d, uint64_t now) {
    struct device *device = &arbiter->device[d];
    arbiter_account_device(device, arbiter->settings.round_ns, now);
    for (uint32_t i = 0; i < device->stake_count; i++)
        arbiter_account_party(arbiter, device->stakes[i]->party, now);
    /* What is saved up by now may end a turn. */
    device->next_ns = UINT64_MAX;
    save_floor(arbiter, device, now, &device->next_ns);
}

static void look_at_parties(struct aliquot_arbiter *arbiter, uint32_t d, uint64_t now) {
    struct device *device = &arbiter->device[d];
    for (uint32_t i = 0; i < device->stake_count; i++) {
        struct party *party = device->stakes[i]->party;
        bool changed = false;
        if (!seen_to_on(party, d))
            continue;
        for (uint32_t j = 0; j < party->stake_count; j++)
            changed |= arbiter->device[party->stakes[j]->device].changed;
        if (changed)
            free_the_lone(arbiter, party, now);
        party->due_ns = UINT64_MAX;
        if (party->state != RESTING)
            look_at_holder(arbiter, party, now, &party->due_ns);
    }
}

static void decide(struct aliquot_arbiter *arbiter, struct device *device, uint64_t now) {
    const struct party *top;
    uint64_t until;
    device->changed = false;
    arbiter_make_shares(arbiter, device, arbiter_served(device, now, &top, &until), now);
    for (uint32_t i = 0; i < device->stake_count; i++)
        device->stakes[i]->open = false;
    if (!device->holder)
        give(arbiter, device, now, &device->next_ns);
    for (uint32_t i = 0; i < device->stake_count; i++)
        device->stakes[i]->open = false;
}

/* Adds the gates of one device's parties that are to be written: those that close, or the others. */
static uint32_t tell(struct aliquot_arbiter *arbiter, uint32_t d, bool opens,
                     struct aliquot_gate_change *change, uint32_t count, uint32_t room) {
    struct device *device = &arbiter->device[d];
    for (uint32_t i = 0; i < device->stake_count; i++) {
        const struct party *party = device->stakes[i]->party;
        for (uint32_t j = 0; seen_to_on(party, d) && j < party->member_count; j++) {
            struct member *member = &arbiter->members[party->members[j]];
            bool closed = aliquot_gate_state(member->gate) == ALIQUOT_GATE_CLOSED;
            if (!member->dirty || closed == opens)
                continue;
            if (count == room) {
                device->news = true;
                return count;
            }
            member->dirty = false;
            change[count++] = (struct aliquot_gate_change){(int)party->members[j], member->gate};
        }
    }
    return count;
}

uint32_t aliquot_arbiter_step(struct aliquot_arbiter *arbiter, uint64_t now,
                              struct aliquot_gate_change *change, uint32_t room, uint64_t *next) {
    uint32_t count = 0, devices = arbiter->device_count;
    touch(arbiter, now);
    for (uint32_t d = 0; d < devices; d++)
        if (arbiter->device[d].touched)
            look_at_wants_on(arbiter, d);
    for (uint32_t d = 0; d < devices; d++)
        if (arbiter->device[d].touched)
            account(arbiter, d, now);
    for (uint32_t d = 0; d < devices; d++)
        if (arbiter->device[d].touched)
            look_at_parties(arbiter, d, now);
    for (uint32_t d = 0; d < devices; d++)
        if (arbiter->device[d].touched)
            decide(arbiter, &arbiter->device[d], now);
    /* What closes is written first. */
    for (int opens = 0; opens < 2; opens++)
        for (uint32_t d = 0; d < devices; d++)
            if (arbiter->device[d].touched)
                count = tell(arbiter, d, opens, change, count, room);
    *next = UINT64_MAX;
    for (uint32_t d = 0; d < devices; d++) {
        struct device *device = &arbiter->device[d];
        for (uint32_t i = 0; device->touched && i < device->stake_count; i++)
            if (device->stakes[i]->party->state != RESTING)
                device->next_ns = least(device->next_ns, device->stakes[i]->party->due_ns);
        if (device->stake_count)
            *next = least(*next, device->next_ns);
    }
    return count;
}
