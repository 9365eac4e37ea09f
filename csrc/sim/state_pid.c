/* Which process a slot belongs to, for a reader in another pid namespace; and injected faults.
 *
 * A process knows its pid in its own namespace only. A reader outside looks for the process that has
 * that pid in the same namespace (the last of NSpid) and started at the same time.
 */
#include "state_private.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

int32_t sim_slot_seen_pid(const struct sim_state *state, uint32_t slot) {
    const struct sim_slot *wanted = &state->header->slots[slot];
    if (!wanted->pid_namespace || wanted->pid_namespace == sim_pid_namespace("/proc/self/ns/pid"))
        return wanted->pid;
    DIR *processes = opendir("/proc");
    int32_t found = 0;
    for (struct dirent *entry; processes && !found && (entry = readdir(processes));) {
        if (!isdigit((unsigned char)entry->d_name[0]) || strlen(entry->d_name) > 10)
            continue;
        char folder[32], path[64];
        snprintf(folder, sizeof folder, "/proc/%.10s", entry->d_name);
        snprintf(path, sizeof path, "%s/ns/pid", folder);
        if (inner_pid(folder) != wanted->pid || sim_pid_namespace(path) != wanted->pid_namespace)
            continue;
        snprintf(path, sizeof path, "%s/stat", folder);
        if (sim_start_ticks(path) == wanted->start_ticks)
            found = (int32_t)strtol(entry->d_name, NULL, 10);
    }
    if (processes)
        closedir(processes);
    return found;
}

void sim_state_inject(struct sim_state *state, uint32_t device, uint32_t xid) {
    struct sim_state_header *header = state->header;
    sim_lock_take(state, &header->table_lock);
    uint32_t count = atomic_load_explicit(&header->fault_count, memory_order_relaxed);
    header->faults[count % SIM_FAULTS_MAX] = (struct sim_fault){device, xid};
    /* release: who sees the count sees the fault. */
    atomic_store_explicit(&header->fault_count, count + 1, memory_order_release);
    sim_lock_drop(state, &header->table_lock);
    syscall(SYS_futex, &header->fault_count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
