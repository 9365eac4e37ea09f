/* Looking at a container, and telling it. Nothing that `usage` says is trusted: it is copied by
 * pread, and every number is clamped. See runner.h. */
#include "runner_impl.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

uint64_t runner_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool widen(void **array, uint32_t from, uint32_t to, size_t size) {
    char *fresh = realloc(*array, to * size);
    if (!fresh)
        return false;
    memset(fresh + from * size, 0, (to - from) * size);
    *array = fresh;
    return true;
}

bool container_room(struct container *container, uint32_t slots) {
    uint32_t from = container->slots;
    /* What is only partly widened is widened again the next time. */
    for (uint32_t i = 0; i < container->column_count; i++) {
        struct column *column = &container->column[i];
        if (!widen((void **)&column->flow, from, slots, sizeof *column->flow) ||
            !widen((void **)&column->word, from, slots, sizeof *column->word) ||
            !widen((void **)&column->over, from, slots, sizeof *column->over))
            return false;
    }
    container->slots = slots;
    return true;
}

void container_free(struct container *container) {
    for (uint32_t i = 0; i < container->column_count; i++) {
        free(container->column[i].flow);
        free(container->column[i].word);
        free(container->column[i].over);
    }
    if (container->grant)
        munmap(container->grant, sizeof *container->grant);
    if (container->usage >= 0)
        close(container->usage);
    if (container->bell >= 0)
        close(container->bell);
    free(container);
}

/* Reads `size` bytes of usage; what is not there is zero. */
static void read_usage(const struct container *container, void *to, size_t size, size_t offset) {
    if (!size)
        return;
    ssize_t got = pread(container->usage, to, size, (off_t)offset);
    size_t whole = got > 0 ? (size_t)got : 0;
    memset((char *)to + whole, 0, size - whole);
}

/* Whether the word's owner is dead. Asks the kernel only for a word that says something and has not
 * changed for a while. */
static bool is_dead(struct container *container, struct word *word, uint32_t slot, uint64_t now) {
    if (now - word->since_ns < word->doubt_ns || now < container->ask_ns) {
        uint64_t next = word->since_ns + word->doubt_ns;
        next = next > container->ask_ns ? next : container->ask_ns;
        if (!word->dead && next < container->again_ns)
            container->again_ns = next;
        return word->dead;
    }
    uint64_t before = runner_now();
    /* An answer that is none (the file cannot be asked) kills nobody. */
    word->dead = aliquot_slot_alive(container->usage, slot) == 0;
    container->ask_ns = now + (runner_now() - before) * DOUBT_COST;
    word->since_ns = now;
    word->doubt_ns = word->doubt_ns * 2 < MOST_DOUBT_NS ? word->doubt_ns * 2 : MOST_DOUBT_NS;
    if (!word->dead && now + word->doubt_ns < container->again_ns)
        container->again_ns = now + word->doubt_ns;
    return word->dead;
}

/* Reads the words of a column; returns whether any is another one than before. */
static bool look_at(struct container *container, struct column *column, uint32_t index,
                    uint64_t now, bool *active) {
    uint64_t *flow = column->flow;
    bool news = false;
    read_usage(container, flow, container->slots * sizeof *flow,
               offsetof(struct aliquot_usage, flow[index]));
    for (uint32_t i = 0; i < container->slots; i++) {
        struct word *word = &column->word[i];
        if (flow[i] != word->value) {
            *word = (struct word){.value = flow[i], .since_ns = now, .doubt_ns = DOUBT_NS};
            news = true;
        }
        bool speaks = aliquot_flow_active(flow[i]) || aliquot_flow_waiting(flow[i]);
        if (speaks && is_dead(container, word, i, now))
            flow[i] = 0;
        *active |= aliquot_flow_active(flow[i]);
    }
    return news;
}

/* Wakes those who sleep on a gate as `role`. */
static void wake(struct container *container, uint32_t index, uint32_t role) {
    /* Others share the file, so the futex is not a private one. The low half comes first. */
    syscall(SYS_futex, &container->grant->device[index].gate, FUTEX_WAKE_BITSET, MOST_WOKEN, NULL,
            NULL, role);
}

/* Takes up new processes; returns whether there are any. */
static bool take_up(struct container *container, uint32_t slots, uint64_t now) {
    container->counted_ns = now;
    slots = slots < ALIQUOT_MAX_SLOTS ? slots : ALIQUOT_MAX_SLOTS;
    return slots > container->slots && container_room(container, slots);
}

static bool look_for_more(struct container *container, uint64_t now) {
    uint32_t slots;
    read_usage(container, &slots, sizeof slots, offsetof(struct aliquot_usage, high_water));
    return take_up(container, slots, now);
}

/* What a slice used counts when it is given a device, and when it has nothing there any more: both is
 * known when it was closed and has come to rest. How many processes there are stands beside it. */
static bool look_at_times(struct container *container, const bool *rests, uint64_t now) {
    char head[offsetof(struct aliquot_usage, charge)];
    uint32_t slots;
    read_usage(container, head, offsetof(struct aliquot_usage, time[container->column_count]), 0);
    for (uint32_t i = 0; i < container->column_count; i++)
        if (rests[i])
            memcpy(&container->column[i].device_ns,
                   head + offsetof(struct aliquot_usage, time[i].device_ns), sizeof(uint64_t));
    memcpy(&slots, head + offsetof(struct aliquot_usage, high_water), sizeof slots);
    return take_up(container, slots, now);
}

/* `*more`: there are new processes, which it did not look at. Returns whether anything is new. */
static bool look_at_all(struct container *container, struct aliquot_arbiter *arbiter, uint64_t now,
                        bool *more) {
    bool news = false, any_rests = false;
    bool rests[ALIQUOT_MAX_DEVICES], active[ALIQUOT_MAX_DEVICES] = {false};
    container->again_ns = NEVER;
    for (uint32_t i = 0; i < container->column_count; i++) {
        struct column *column = &container->column[i];
        news |= look_at(container, column, i, now, &active[i]);
        rests[i] = !active[i] && aliquot_gate_state(column->gate) == ALIQUOT_GATE_CLOSED;
        any_rests |= rests[i];
    }
    *more = any_rests && look_at_times(container, rests, now);
    for (uint32_t i = 0; i < container->column_count; i++) {
        struct column *column = &container->column[i];
        struct aliquot_seen seen;
        aliquot_seen_make(column->flow, column->over, container->slots, column->gate,
                          column->device_ns, &seen);
        aliquot_arbiter_see(arbiter, column->member, &seen);
        if (column->closed && seen.active)
            wake(container, i, ALIQUOT_GATE_OBSERVERS);
        column->closed = false;
    }
    return news;
}

void container_look(struct container *container, struct aliquot_arbiter *arbiter, uint64_t now) {
    bool rung = container->rung, more;
    container->rung = container->told = false;
    if (rung && now - container->counted_ns >= COUNT_NS)
        look_for_more(container, now);
    /* Or it rang, and of those that we know nobody did. */
    if ((!look_at_all(container, arbiter, now, &more) && rung && look_for_more(container, now)) ||
        more)
        look_at_all(container, arbiter, now, &more);
}

void column_write(struct container *container, uint32_t index, uint64_t gate) {
    struct column *column = &container->column[index];
    _Atomic uint64_t *word = &container->grant->device[index].gate;
    uint64_t fresh =
        aliquot_gate_word(aliquot_gate_state(gate), aliquot_gate_others(gate),
                          aliquot_gate_number(gate) + column->shift, aliquot_gate_turn_ns(gate));
    aliquot_seen_gate(column->flow, column->over, container->slots, column->gate, fresh);
    column->gate = fresh;
    column->closed = aliquot_gate_state(fresh) == ALIQUOT_GATE_CLOSED;
    container->told |= column->closed;
    /* seq_cst: a process writes that it is active and then reads the gate; we write the gate and then
     * read what it wrote. One of both sees the other. */
    atomic_store(word, fresh);
    /* Who waits and does nothing else may go on waiting: it would only look, ring and wait again. Whether
     * there is more to it is seen when it is looked at, which is next: what was seen before is old. */
    if (!column->closed)
        wake(container, index, ALIQUOT_GATE_LAUNCHERS);
}

void column_tell(struct container *container, uint32_t index,
                 const struct aliquot_account *account) {
    struct column *column = &container->column[index];
    struct aliquot_grant_device *device = &container->grant->device[index];
    /* relaxed: figures for people. What stays as it is is not written: the page is shared. */
    if (column->told_wanted != account->wanted_permille)
        atomic_store_explicit(&device->wanted_permille, account->wanted_permille,
                              memory_order_relaxed);
    if (column->told_received != account->received_permille)
        atomic_store_explicit(&device->received_permille, account->received_permille,
                              memory_order_relaxed);
    column->told_wanted = account->wanted_permille;
    column->told_received = account->received_permille;
}
