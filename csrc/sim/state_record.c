/* What was done on the node, and by whom: kept for whoever traces. */
#include "state_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- Processes ----------------------------------------------------------------------------- */

/* First line of a file in /proc, without its end; empty when there is none. */
static void read_line(const char *path, char *text, size_t size) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = descriptor < 0 ? 0 : read(descriptor, text, size - 1);
    if (descriptor >= 0)
        close(descriptor);
    text[length > 0 ? length : 0] = 0;
    text[strcspn(text, "\n")] = 0;
}

/* The identifier of a container in the name of its cgroup: all runtimes use 64 hexadecimal digits,
 * perhaps with a word before ("docker-", "cri-containerd-") and one after (".scope"). */
static const char *long_identifier(const char *text, size_t *length) {
    for (const char *at = text; *at;) {
        size_t digits = strspn(at, "0123456789abcdef");
        if (digits >= 32) {
            *length = digits;
            return at;
        }
        at += digits + (at[digits] != 0);
    }
    return NULL;
}

/* What the process can tell of the container that it is in. In the node's own pid namespace only an
 * identifier says so, for services and logins have cgroups too; in another one it is in a container
 * that its cgroup names, or where that is hidden, its host's name. */
void sim_process_container(const struct sim_state_header *header, char *name, size_t size) {
    char text[1024];
    name[0] = 0;
    read_line("/proc/self/cgroup", text, sizeof text);
    /* Version 2 has the one line 0::/path; of version 1 any hierarchy's will do. */
    const char *path = strchr(text, '/');
    size_t length = 0;
    const char *identifier = path ? long_identifier(path, &length) : NULL;
    if (identifier) {
        /* Short, as people write them. One in which the whole node lies says nothing. */
        snprintf(name, size, "%.12s", identifier);
        if (strcmp(name, header->container) == 0)
            name[0] = 0;
        return;
    }
    uint64_t own = sim_pid_namespace("/proc/self/ns/pid");
    if (!own || own == header->pid_namespace)
        return;
    const char *last = path ? strrchr(path, '/') + 1 : "";
    if (*last && strcmp(last, "..") != 0)
        snprintf(name, size, "%.*s", (int)size - 1, last);
    else if (gethostname(name, size) != 0)
        name[0] = 0;
    name[size - 1] = 0;
}

void sim_process_begin(struct sim_state *state) {
    struct sim_state_header *header = state->header;
    struct sim_slot *slot = &header->slots[state->slot];
    uint32_t number =
        atomic_fetch_add_explicit(&header->process_count, 1, memory_order_relaxed) + 1;
    struct sim_process *process = &header->processes[number % SIM_PROCESSES_KEPT];
    /* Nobody's, until it is whole. Release: what is read before is not what comes now. */
    atomic_store_explicit(&process->number, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    process->pid = slot->pid;
    process->group = slot->group;
    read_line("/proc/self/comm", process->command, sizeof process->command);
    sim_process_container(header, process->container, sizeof process->container);
    atomic_store_explicit(&process->number, number, memory_order_release);
    slot->process = number;
}

bool sim_state_process(struct sim_state *state, uint32_t number, struct sim_process *out) {
    const struct sim_process *process = &state->header->processes[number % SIM_PROCESSES_KEPT];
    /* Acquire: pairs with the release of who wrote it; again after the copy, against a successor. */
    if (!number || atomic_load_explicit(&process->number, memory_order_acquire) != number)
        return false;
    out->pid = process->pid;
    out->group = process->group;
    memcpy(out->command, process->command, sizeof out->command);
    memcpy(out->container, process->container, sizeof out->container);
    atomic_thread_fence(memory_order_acquire);
    out->command[sizeof out->command - 1] = 0;
    out->container[sizeof out->container - 1] = 0;
    return atomic_load_explicit(&process->number, memory_order_relaxed) == number;
}

const char *sim_state_group(const struct sim_state *state, uint32_t group) {
    return group < state->header->group_count ? state->header->groups[group].name : "";
}

/* ---- Records ------------------------------------------------------------------------------- */

void sim_state_trace(struct sim_state *state) {
    atomic_store_explicit(&state->header->tracing, 1, memory_order_relaxed);
}

void sim_state_record(struct sim_state *state, uint32_t device, const struct sim_record *record,
                      const char *name) {
    struct sim_device_state *on = &state->header->devices[device];
    uint64_t number = atomic_fetch_add_explicit(&on->record_count, 1, memory_order_relaxed);
    struct sim_record *kept = &on->records[number % SIM_RECORDS_KEPT];
    /* Not whole from here on: the fence keeps what follows behind it. */
    atomic_store_explicit(&kept->sequence, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    size_t head = offsetof(struct sim_record, queued_ns);
    memcpy((char *)kept + head, (const char *)record + head,
           offsetof(struct sim_record, name) - head);
    kept->process = state->header->slots[state->slot].process;
    snprintf(kept->name, sizeof kept->name, "%s", name ? name : "");
    /* Release: who finds the number finds all of it. */
    atomic_store_explicit(&kept->sequence, number + 1, memory_order_release);
}

uint32_t sim_state_records(struct sim_state *state, uint32_t device, uint64_t *first,
                           struct sim_record *records, uint32_t room, bool skip, uint64_t *lost) {
    struct sim_device_state *on = &state->header->devices[device];
    uint32_t count = 0;
    while (count < room) {
        uint64_t all = atomic_load_explicit(&on->record_count, memory_order_relaxed);
        uint64_t oldest = all > SIM_RECORDS_KEPT ? all - SIM_RECORDS_KEPT : 0;
        if (*first < oldest) {
            *lost += oldest - *first;
            *first = oldest;
        }
        if (*first == all)
            break;
        struct sim_record *kept = &on->records[*first % SIM_RECORDS_KEPT];
        /* Acquire: pairs with the writer's release; again after the copy, against a successor. */
        uint64_t sequence = atomic_load_explicit(&kept->sequence, memory_order_acquire);
        struct sim_record *out = &records[count];
        memcpy((char *)out, (const char *)kept, sizeof *out);
        atomic_thread_fence(memory_order_acquire);
        if (sequence == *first + 1 &&
            atomic_load_explicit(&kept->sequence, memory_order_relaxed) == sequence) {
            out->name[sizeof out->name - 1] = 0;
            count++;
        } else if (sequence > *first + 1 || skip) {
            ++*lost; /* overtaken, or its writer was killed */
        } else {
            break;
        }
        ++*first;
    }
    return count;
}

uint32_t sim_state_turns(struct sim_state *state, uint32_t device, uint64_t *first,
                         struct sim_turn *turns, uint32_t room, uint64_t *lost) {
    return sim_timeline_turns(&state->header->devices[device].timeline, sim_state_now(), first,
                              turns, room, lost);
}

void sim_state_recorded(struct sim_state *state, uint32_t device, uint64_t *turns,
                        uint64_t *records) {
    struct sim_device_state *on = &state->header->devices[device];
    *turns = sim_timeline_totals(&on->timeline, sim_state_now()).turns;
    *records = atomic_load_explicit(&on->record_count, memory_order_relaxed);
}
