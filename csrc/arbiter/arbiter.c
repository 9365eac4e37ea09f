/* Members, parties and their coming and going. What is decided is in step.c. See arbiter.h. */
#include "arbiter_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct aliquot_arbiter *aliquot_arbiter_new(const struct aliquot_arbiter_settings *settings) {
    struct aliquot_arbiter *arbiter = calloc(1, sizeof *arbiter);
    if (!arbiter)
        return NULL;
    if (settings)
        arbiter->settings = *settings;
    struct aliquot_arbiter_settings *set = &arbiter->settings;
    set->round_ns = set->round_ns ? set->round_ns : 5 * MS;
    set->least_ns = set->least_ns ? set->least_ns : 400 * US;
    set->start_ns = set->start_ns ? set->start_ns : 2 * MS;
    set->drain_ns = set->drain_ns ? set->drain_ns : 20 * MS;
    for (uint32_t i = 0; i < ALIQUOT_ARBITER_DEVICES; i++)
        arbiter->device[i] = (struct device){.holder = NULL};
    return arbiter;
}

static void free_party(struct party *party) {
    for (uint32_t i = 0; i < party->stake_count; i++)
        free(party->stakes[i]);
    free(party->stakes);
    free(party->members);
    free(party);
}

void aliquot_arbiter_free(struct aliquot_arbiter *arbiter) {
    for (struct party *party = arbiter->parties, *next; party; party = next) {
        next = party->next;
        free_party(party);
    }
    for (uint32_t i = 0; i < ALIQUOT_ARBITER_DEVICES; i++)
        free(arbiter->device[i].stakes);
    free(arbiter->members);
    free(arbiter);
}

/* Makes room for one more pointer. Returns false without memory. */
static bool grow(void **array, uint32_t count, size_t size) {
    if (count & (count - 1))
        return true;
    void *fresh = realloc(*array, (count ? count * 2u : 1u) * size);
    if (!fresh)
        return false;
    *array = fresh;
    return true;
}

static struct stake *stake_of(struct party *party, uint32_t device) {
    for (uint32_t i = 0; i < party->stake_count; i++)
        if (party->stakes[i]->device == device)
            return party->stakes[i];
    return NULL;
}

static struct stake *add_stake(struct aliquot_arbiter *arbiter, struct party *party,
                               uint32_t device) {
    struct stake *stake = stake_of(party, device);
    if (stake)
        return stake;
    struct device *place = &arbiter->device[device];
    stake = calloc(1, sizeof *stake);
    if (!stake || !grow((void **)&party->stakes, party->stake_count, sizeof stake) ||
        !grow((void **)&place->stakes, place->stake_count, sizeof stake)) {
        free(stake);
        return NULL;
    }
    *stake = (struct stake){.party = party, .device = device, .v = place->v, .share = 1.0};
    party->stakes[party->stake_count++] = stake;
    place->stakes[place->stake_count++] = stake;
    place->changed = true;
    arbiter->device_count = (uint32_t)most(arbiter->device_count, device + 1);
    return stake;
}

/* Sums up what the members of a party want, for each device. */
static void sum_up(struct aliquot_arbiter *arbiter, struct party *party) {
    party->priority = INT32_MIN;
    party->native = party->member_count > 0;
    party->quiet_ns = 0;
    party->floor = 0;
    for (uint32_t i = 0; i < party->stake_count; i++) {
        party->stakes[i]->weight = 0;
        party->stakes[i]->min = party->stakes[i]->max = 0;
        party->stakes[i]->members = 0;
    }
    for (uint32_t i = 0; i < party->member_count; i++) {
        const struct member *member = &arbiter->members[party->members[i]];
        const struct aliquot_terms *terms = &member->terms;
        struct stake *stake = stake_of(party, member->device);
        stake->members++;
        stake->weight += terms->weight;
        stake->min = stake->min + terms->cores_min < 1000 ? stake->min + terms->cores_min : 1000;
        stake->max = stake->max + terms->cores_max < 1000 ? stake->max + terms->cores_max : 1000;
        if (terms->priority > party->priority)
            party->priority = terms->priority;
        if (terms->quiet_ns > party->quiet_ns)
            party->quiet_ns = terms->quiet_ns;
        if (terms->floor > party->floor)
            party->floor = terms->floor;
        party->native = party->native && terms->native;
    }
    for (uint32_t i = 0; i < party->stake_count; i++)
        arbiter->device[party->stakes[i]->device].changed = true;
}

static struct party *new_party(struct aliquot_arbiter *arbiter, uint32_t group) {
    struct party *party = calloc(1, sizeof *party);
    if (!party)
        return NULL;
    party->group = group;
    party->next = arbiter->parties;
    party->link = &arbiter->parties;
    if (party->next)
        party->next->link = &party->next;
    arbiter->parties = party;
    return party;
}

static void drop_stake(struct aliquot_arbiter *arbiter, struct stake *stake) {
    struct device *place = &arbiter->device[stake->device];
    for (uint32_t i = 0; i < place->stake_count; i++)
        if (place->stakes[i] == stake) {
            place->stakes[i] = place->stakes[--place->stake_count];
            break;
        }
    if (place->holder == stake->party)
        place->holder = NULL;
    if (place->claimed == stake->party)
        place->claimed = NULL;
    place->changed = true;
}

static void drop_party(struct aliquot_arbiter *arbiter, struct party *party) {
    for (uint32_t i = 0; i < party->stake_count; i++)
        drop_stake(arbiter, party->stakes[i]);
    *party->link = party->next;
    if (party->next)
        party->next->link = party->link;
    free_party(party);
}

static struct party *find_group(struct aliquot_arbiter *arbiter, uint32_t group) {
    struct party *party = group ? arbiter->parties : NULL;
    while (party && party->group != group)
        party = party->next;
    return party;
}

static bool right(const struct aliquot_terms *terms) {
    return terms->cores_min <= terms->cores_max && terms->cores_max >= 1 &&
           terms->cores_max <= 1000 && terms->weight >= 1 && terms->weight <= ALIQUOT_MAX_WEIGHT &&
           terms->priority >= -ALIQUOT_MAX_PRIORITY && terms->priority <= ALIQUOT_MAX_PRIORITY &&
           terms->floor <= 900;
}

/* Numbers that follow on each other and are free. */
static int free_numbers(struct aliquot_arbiter *arbiter, uint32_t count) {
    uint32_t run = 0;
    for (uint32_t i = 0; i < arbiter->member_count; i++) {
        run = arbiter->members[i].party ? 0 : run + 1;
        if (run == count)
            return (int)(i + 1 - count);
    }
    uint32_t first = arbiter->member_count - run, end = first + count;
    if (end > ALIQUOT_ARBITER_MEMBERS)
        return -ENOMEM;
    struct member *fresh = realloc(arbiter->members, end * sizeof *fresh);
    if (!fresh)
        return -ENOMEM;
    memset(fresh + arbiter->member_count, 0, (end - arbiter->member_count) * sizeof *fresh);
    arbiter->members = fresh;
    arbiter->member_count = end;
    return (int)first;
}

/* Whether a party that holds its devices, or is about to, changes: it begins anew. */
static void unsettle(struct aliquot_arbiter *arbiter, struct party *party, uint64_t now) {
    if (party->state == HOLDING)
        arbiter_close(arbiter, party, now);
    for (uint32_t i = 0; i < party->stake_count; i++)
        if (arbiter->device[party->stakes[i]->device].claimed == party)
            arbiter->device[party->stakes[i]->device].claimed = NULL;
}

int aliquot_arbiter_join(struct aliquot_arbiter *arbiter, uint64_t now, uint32_t count,
                         const uint32_t *device, const struct aliquot_terms *terms) {
    if (count < 1 || count > ALIQUOT_ARBITER_DEVICES)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        if (device[i] >= ALIQUOT_ARBITER_DEVICES || !right(&terms[i]) ||
            terms[i].group != terms[0].group)
            return -EINVAL;
        for (uint32_t j = 0; j < i; j++)
            if (device[i] == device[j])
                return -EINVAL;
    }
    arbiter_account(arbiter, now);
    int first = free_numbers(arbiter, count);
    if (first < 0)
        return first;
    struct party *party = find_group(arbiter, terms[0].group);
    bool fresh = !party;
    if (fresh)
        party = new_party(arbiter, terms[0].group);
    else
        unsettle(arbiter, party, now);
    bool done = party != NULL;
    if (done && fresh)
        party->now_ns = now;
    for (uint32_t i = 0; done && i < count; i++)
        done = add_stake(arbiter, party, device[i]) != NULL;
    uint32_t *members =
        done ? realloc(party->members, (party->member_count + count) * sizeof *members) : NULL;
    if (!members) {
        if (party && fresh)
            drop_party(arbiter, party);
        return -ENOMEM;
    }
    party->members = members;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = (uint32_t)first + i;
        /* Numbers of gates go on, so that no container takes a new gate for an old one. */
        uint64_t gate = aliquot_gate_word(
            ALIQUOT_GATE_CLOSED, 0, aliquot_gate_number(arbiter->members[number].gate) + 1, 0);
        arbiter->members[number] = (struct member){
            .party = party,
            .device = device[i],
            .terms = terms[i],
            .gate = gate,
            .dirty = true,
            .second_ns = now,
        };
        arbiter->members[number].account.wanted_permille = ALIQUOT_UNKNOWN;
        arbiter->members[number].account.received_permille = ALIQUOT_UNKNOWN;
        party->members[party->member_count++] = number;
    }
    sum_up(arbiter, party);
    return first;
}

static void detach(struct aliquot_arbiter *arbiter, struct party *party, uint32_t number) {
    for (uint32_t i = 0; i < party->member_count; i++)
        if (party->members[i] == number) {
            memmove(&party->members[i], &party->members[i + 1],
                    (party->member_count - i - 1) * sizeof *party->members);
            party->member_count--;
            break;
        }
    arbiter->members[number].party = NULL;
    if (!party->member_count) {
        drop_party(arbiter, party);
        return;
    }
    sum_up(arbiter, party);
    for (uint32_t i = 0; i < party->stake_count;)
        if (!party->stakes[i]->members) {
            drop_stake(arbiter, party->stakes[i]);
            free(party->stakes[i]);
            party->stakes[i] = party->stakes[--party->stake_count];
        } else {
            i++;
        }
}

void aliquot_arbiter_leave(struct aliquot_arbiter *arbiter, uint64_t now, int member) {
    arbiter_account(arbiter, now);
    detach(arbiter, arbiter->members[member].party, (uint32_t)member);
}

int aliquot_arbiter_change(struct aliquot_arbiter *arbiter, uint64_t now, int member,
                           const struct aliquot_terms *terms) {
    struct member *one = &arbiter->members[member];
    /* Who is in which group is settled when a container comes. */
    if (!right(terms) || terms->group != one->terms.group)
        return -EINVAL;
    arbiter_account(arbiter, now);
    one->terms = *terms;
    sum_up(arbiter, one->party);
    return 0;
}

void aliquot_arbiter_found(struct aliquot_arbiter *arbiter, uint64_t now, int member) {
    struct party *party = arbiter->members[member].party;
    bool free = true;
    /* Of a group that takes turns already, it is one more member. */
    if (party->state != RESTING)
        return;
    for (uint32_t i = 0; i < party->stake_count; i++)
        free &= !arbiter->device[party->stakes[i]->device].holder;
    if (free)
        arbiter_keep(arbiter, party, now);
    else
        arbiter_close(arbiter, party, now);
}

void aliquot_arbiter_see(struct aliquot_arbiter *arbiter, int member,
                         const struct aliquot_seen *seen) {
    struct member *one = &arbiter->members[member];
    const struct aliquot_seen *old = &one->seen;
    if (seen->waiting != old->waiting || seen->active != old->active || seen->begun != old->begun ||
        seen->late != old->late || seen->left_ns != old->left_ns)
        arbiter_touch(arbiter, one->party);
    one->seen = *seen;
}

bool aliquot_arbiter_watched(const struct aliquot_arbiter *arbiter, int member) {
    const struct party *party = arbiter->members[member].party;
    return party->state == DRAINING || party->overtaken ||
           (party->state == HOLDING && (party->turn || party->courted));
}

bool aliquot_arbiter_due(const struct aliquot_arbiter *arbiter, int member, uint64_t now) {
    return aliquot_arbiter_watched(arbiter, member) &&
           now >= arbiter->members[member].party->due_ns;
}

uint64_t aliquot_arbiter_gate(const struct aliquot_arbiter *arbiter, int member) {
    return arbiter->members[member].gate;
}

void aliquot_arbiter_read(struct aliquot_arbiter *arbiter, uint64_t now, int member,
                          struct aliquot_account *account) {
    arbiter_account_party(arbiter, arbiter->members[member].party, now);
    *account = arbiter->members[member].account;
}
