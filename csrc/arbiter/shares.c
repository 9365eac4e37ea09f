/* Who is owed how much, and whose priority is served: what the step decides by. See arbiter.h. */
#include "arbiter_impl.h"

/* -- Accounts ----------------------------------------------------------------------------------- */

static void account_member(struct member *member, uint64_t from, uint64_t to, bool held,
                           bool wanted, unsigned sharers) {
    struct aliquot_account *account = &member->account;
    uint64_t passed = to - from, got = held ? passed / sharers : 0;
    account->held_ns += held ? passed : 0;
    account->split_ns += held && sharers > 1 ? passed : 0;
    account->wanted_ns += wanted ? passed : 0;
    member->second_held_ns += got;
    member->second_wanted_ns += wanted ? passed : 0;
    if (to - member->second_ns >= 1000 * MS) {
        uint64_t length = to - member->second_ns;
        account->received_permille = (uint32_t)(member->second_held_ns * 1000 / length);
        account->wanted_permille = (uint32_t)(member->second_wanted_ns * 1000 / length);
        member->second_ns = to;
        member->second_held_ns = member->second_wanted_ns = 0;
    }
}

void arbiter_account_device(struct device *device, uint64_t round_ns, uint64_t now) {
    uint64_t from = device->now_ns;
    device->passed_ns = 0;
    if (now <= from)
        return;
    device->now_ns = now;
    if (!from)
        return;
    uint64_t passed = device->passed_ns = now - from;
    unsigned sharers = 0;
    bool contended = false;
    for (uint32_t i = 0; i < device->stake_count; i++) {
        const struct party *party = device->stakes[i]->party;
        sharers += occupies(party);
        contended |= asks(party);
    }
    for (uint32_t i = 0; i < device->stake_count; i++) {
        struct stake *stake = device->stakes[i];
        if (!occupies(stake->party))
            continue;
        uint64_t v = stake->v + (uint64_t)((double)(passed / sharers) / stake->share);
        /* Who does not drain may have been stopped, and run nothing: he owes for a while only. (What he
         * had before, by what he said himself, he owes in full.) */
        if (stake->party->overtaken)
            v = most(stake->v, least(v, device->v + LONGEST_DEBT_NS));
        stake->v = v;
    }
    /* While nobody has to wait, nobody falls behind; nor is he owed anything who has the device all the
     * while, by a gate that is no turn. */
    if (!contended)
        device->v += passed;
    for (uint32_t i = 0; i < device->stake_count && !contended; i++) {
        struct stake *stake = device->stakes[i];
        stake->v = most(stake->v, device->v > round_ns ? device->v - round_ns : 0);
    }
}

void arbiter_account_party(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now) {
    uint64_t from = party->now_ns;
    if (now <= from)
        return;
    party->now_ns = now;
    if (!from)
        return;
    uint64_t passed = now - from;
    bool held = occupies(party) || (party->state == HOLDING && any_active(arbiter, party));
    if (held && !party->gave_way)
        party->busy_ns = now;
    if (party->wanting || held)
        party->wanted_ns = now;
    if (party->from_floor)
        party->from_floor = party->from_floor > passed ? party->from_floor - passed : 1;
    for (uint32_t i = 0; i < party->member_count; i++) {
        struct member *member = &arbiter->members[party->members[i]];
        unsigned sharers = aliquot_gate_others(member->gate) + 1;
        account_member(member, from, now, held, party->wanting || held, sharers);
    }
}

void arbiter_account(struct aliquot_arbiter *arbiter, uint64_t now) {
    for (uint32_t d = 0; d < arbiter->device_count; d++)
        if (arbiter->device[d].stake_count)
            arbiter_account_device(&arbiter->device[d], arbiter->settings.round_ns, now);
    for (struct party *party = arbiter->parties; party; party = party->next)
        arbiter_account_party(arbiter, party, now);
}

/* -- Shares ------------------------------------------------------------------------------------- */

static bool counts(const struct aliquot_arbiter *arbiter, const struct party *party, uint64_t now) {
    return !party->native && (party->wanting || party->state != RESTING ||
                              (party->wanted_ns && now - party->wanted_ns <
                                                       RECENT_ROUNDS * arbiter->settings.round_ns));
}

/* How far a turn brings somebody ahead, if it is to make no more than `lump_ns` of difference. */
static double round_of(const struct aliquot_arbiter *arbiter, double share, double lump_ns,
                       double longest_ns) {
    double made = share * (1 - share), shortest_ns = 2.0 * (double)arbiter->settings.round_ns;
    double ns = made * longest_ns > lump_ns ? lump_ns / made : longest_ns;
    return ns > shortest_ns ? ns : shortest_ns;
}

/* Each turn costs something, so that they are as few as may be: either all have rounds of the same
 * length, or those of small shares, who have short turns, have longer ones. */
static void make_rounds(const struct aliquot_arbiter *arbiter, struct device *device,
                        uint32_t count) {
    double round_ns = (double)arbiter->settings.round_ns, same_turns = 0, own_turns = 0;
    double longest_ns = round_ns * (double)most(2, least(count, MOST_ROUNDS));
    double same_ns = longest_ns;
    for (uint32_t i = 0; i < device->stake_count; i++) {
        struct stake *stake = device->stakes[i];
        stake->round_ns = round_of(arbiter, stake->share, OWN_LUMP * round_ns, longest_ns);
        if (stake->shares)
            same_ns =
                smaller(same_ns, round_of(arbiter, stake->share, SAME_LUMP * round_ns, same_ns));
    }
    for (uint32_t i = 0; i < device->stake_count; i++) {
        const struct stake *stake = device->stakes[i];
        double least_ns = (double)arbiter->settings.least_ns / stake->share;
        if (!stake->shares)
            continue;
        same_turns += 1 / larger(same_ns, least_ns);
        own_turns += 1 / larger(stake->round_ns, least_ns);
    }
    device->rotates = same_turns <= own_turns;
    for (uint32_t i = 0; device->rotates && i < device->stake_count; i++)
        device->stakes[i]->round_ns = same_ns;
}

void arbiter_make_shares(const struct aliquot_arbiter *arbiter, struct device *device,
                         int32_t priority, uint64_t now) {
    double rest = 1.0, weights = 0, minima = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < device->stake_count; i++) {
        struct stake *stake = device->stakes[i];
        stake->open = counts(arbiter, stake->party, now) && stake->party->priority == priority;
        stake->shares = stake->open;
        count += stake->open;
        if (stake->open)
            minima += (double)most(stake->min, (uint64_t)(LEAST_SHARE * 1000));
    }
    double scale = minima > 1000 ? 1000 / minima : 1;
    for (uint32_t i = 0; i < device->stake_count; i++) {
        struct stake *stake = device->stakes[i];
        stake->share = 1.0;
        if (!stake->open)
            continue;
        stake->share = (double)most(stake->min, (uint64_t)(LEAST_SHARE * 1000)) * scale / 1000;
        rest -= stake->share;
        weights += stake->weight;
    }
    for (bool again = true; again && rest > 1e-9 && weights > 0;) {
        double each = rest / weights;
        again = false;
        for (uint32_t i = 0; i < device->stake_count; i++) {
            struct stake *stake = device->stakes[i];
            double room = (double)stake->max / 1000 - stake->share;
            if (!stake->open || each * stake->weight < room)
                continue;
            /* It is full; what it does not take goes to the others. */
            room = room > 0 ? room : 0;
            stake->share += room;
            stake->open = false;
            rest -= room;
            weights -= stake->weight;
            again = true;
        }
    }
    for (uint32_t i = 0; i < device->stake_count; i++)
        if (device->stakes[i]->open && weights > 0)
            device->stakes[i]->share += rest * device->stakes[i]->weight / weights;
    make_rounds(arbiter, device, count);
}

/* -- Priorities --------------------------------------------------------------------------------- */

int32_t arbiter_served(const struct device *device, uint64_t now, const struct party **top,
                       uint64_t *until) {
    *top = NULL;
    *until = UINT64_MAX;
    for (uint32_t i = 0; i < device->stake_count; i++) {
        const struct party *party = device->stakes[i]->party;
        uint64_t quiet_ns = party->busy_ns + party->quiet_ns;
        bool quiet = party->busy_ns && now < quiet_ns;
        bool busy = party->wanting || occupies(party);
        if (party->native || (!busy && !quiet))
            continue;
        if (!*top || party->priority > (*top)->priority) {
            *top = party;
            *until = busy ? UINT64_MAX : quiet_ns;
        } else if (party->priority == (*top)->priority) {
            *until = busy || *until == UINT64_MAX ? UINT64_MAX : most(*until, quiet_ns);
        }
    }
    return *top ? (*top)->priority : INT32_MIN;
}

bool arbiter_floor_allows(const struct aliquot_arbiter *arbiter, const struct device *device) {
    return device->floor_ns >= (double)(2 * arbiter->settings.least_ns);
}
