/* Which process on the host a slot belongs to.
 *
 * A process knows its pid in its own namespace only, and nothing that the kernel would translate for
 * a reader (a lock's owner, a socket's peer) outlives the closing of all descriptors, which programs
 * do. So a reader looks for the process in its /proc: the one whose innermost pid (the last of
 * NSpid), start time and pid namespace are those that the slot says. The start time keeps a
 * namespace's second process of that number apart from its first.
 */
#include "state_private.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t sim_pid_namespace(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 ? (uint64_t)status.st_ino : 0;
}

static bool read_text(const char *path, char *text, size_t size) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return false;
    ssize_t length = read(descriptor, text, size - 1);
    close(descriptor);
    text[length > 0 ? length : 0] = 0;
    return length > 0;
}

uint64_t sim_start_ticks(const char *path) {
    char text[1024];
    if (!read_text(path, text, sizeof text))
        return 0;
    /* The name stands in parentheses and may have any letter in it; field 22 is the 20th after. */
    char *field = strrchr(text, ')');
    for (int n = 0; field && n < 20; n++)
        field = strchr(field + 1, ' ');
    return field ? strtoull(field + 1, NULL, 10) : 0;
}

/* The process's pid in its innermost namespace, from /proc/PID/status. */
static int32_t inner_pid(const char *folder) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "%s/status", folder);
    const char *line = read_text(path, text, sizeof text) ? strstr(text, "\nNSpid:") : NULL;
    if (!line)
        return 0;
    int32_t last = 0;
    for (char *at = (char *)line + 7; *at == '\t' || *at == ' ';)
        last = (int32_t)strtol(at, &at, 10);
    return last;
}

/* The pid in this process's /proc of the slot's process; 0 when it is not there. */
static int32_t find_process(const struct sim_slot *wanted) {
    DIR *processes = opendir("/proc");
    int32_t found = 0;
    for (struct dirent *entry; processes && !found && (entry = readdir(processes));) {
        if (!isdigit((unsigned char)entry->d_name[0]) || strlen(entry->d_name) > 10)
            continue;
        char folder[32], path[64];
        snprintf(folder, sizeof folder, "/proc/%.10s", entry->d_name);
        snprintf(path, sizeof path, "%s/stat", folder);
        if (sim_start_ticks(path) != wanted->start_ticks || inner_pid(folder) != wanted->pid)
            continue;
        /* Another user's link cannot be read: then number and start time have to do. */
        snprintf(path, sizeof path, "%s/ns/pid", folder);
        uint64_t inside = sim_pid_namespace(path);
        if (inside == 0 || inside == wanted->pid_namespace)
            found = (int32_t)strtol(entry->d_name, NULL, 10);
    }
    if (processes)
        closedir(processes);
    return found;
}

int32_t sim_slot_host_pid(struct sim_state *state, uint32_t index) {
    struct sim_slot *slot = &state->header->slots[index];
    uint64_t status = sim_slot_status(state, index);
    if (sim_slot_status_of(status) != SIM_SLOT_LIVE)
        return 0;
    uint32_t generation = (uint32_t)(status >> 8);
    /* Relaxed, here and below: the word says itself which process it is about. */
    uint64_t known = atomic_load_explicit(&slot->host_pid, memory_order_relaxed);
    if ((uint32_t)(known >> 32) == generation && (int32_t)known > 0)
        return (int32_t)known;
    uint64_t own = sim_pid_namespace("/proc/self/ns/pid");
    bool host = own && own == state->header->pid_namespace;
    int32_t pid = slot->pid;
    if (!own || own != slot->pid_namespace) {
        pid = find_process(slot);
        if (!pid && !host)
            pid = slot->pid;
    }
    if (sim_slot_status(state, index) != status)
        return 0; /* it went meanwhile, and what was read may be its successor's */
    if (host && pid)
        atomic_store_explicit(&slot->host_pid, (uint64_t)generation << 32 | (uint32_t)pid,
                              memory_order_relaxed);
    return pid;
}
