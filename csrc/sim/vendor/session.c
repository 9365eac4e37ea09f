/* A library's session with the node. `life` orders those who open and close; `use` keeps the node
 * open while somebody looks: glibc lets readers in beside a waiting writer, so that a look within a
 * look cannot lock up. */
#include "vendor.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t life = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t use = PTHREAD_RWLOCK_INITIALIZER;
/* Written under both. */
static struct sim_state *opened;
static pid_t opened_by; /* the mapping is not inherited by a child, however it was made */
static unsigned users;
static uint32_t count;
static uint32_t numbers[SIM_DEVICES_MAX]; /* by place */

/* A child must not come to hold the descriptor of `state` while it is being opened: it would keep
 * our slot alive. It starts without a node. */
static void before_fork(void) { pthread_mutex_lock(&life); }
static void after_fork(void) { pthread_mutex_unlock(&life); }
static void in_child(void) {
    free(opened); /* its mapping stayed with the parent */
    opened = NULL;
    users = 0;
    pthread_rwlock_init(&use, NULL);
    pthread_mutex_unlock(&life);
}

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork, in_child);
}

/* Whether the process may see a device: it can open its file, or that of a partition of it. */
static bool visible(struct sim_state *state, uint32_t device) {
    /* Relaxed: it was written by this process. */
    return sim_node_openable(state->node, device) ||
           atomic_load_explicit(&state->header->slots[state->slot].partition[device],
                                memory_order_relaxed);
}

static void see_devices(struct sim_state *state, enum sim_vendor vendor, bool by_file) {
    const struct sim_node_config *node = state->node;
    count = 0;
    for (uint32_t d = 0; d < node->device_count; d++) {
        if (node->devices[d].vendor != vendor || (by_file && !visible(state, d)))
            continue;
        uint64_t key = sim_node_pci_key(&node->devices[d]);
        uint32_t at = count++;
        for (; at && key < sim_node_pci_key(&node->devices[numbers[at - 1]]); at--)
            numbers[at] = numbers[at - 1];
        numbers[at] = d;
    }
}

static int open_node(enum sim_vendor vendor) {
    bool by_file;
    const char *folder = sim_node_folder(&by_file);
    struct sim_state *state;
    char why[512];
    int error = sim_state_open(folder, NULL, false, &state, why, sizeof why);
    if (error)
        return error;
    /* Who only looks holds nothing whose release would take time. Relaxed: read after our death. */
    atomic_store_explicit(&state->header->slots[state->slot].exiting, 1, memory_order_relaxed);
    pthread_rwlock_wrlock(&use);
    see_devices(state, vendor, by_file);
    opened_by = getpid();
    opened = state;
    pthread_rwlock_unlock(&use);
    return 0;
}

int sim_session_open(enum sim_vendor vendor) {
    int error = 0;
    pthread_mutex_lock(&life);
    if (!opened || opened_by != getpid()) {
        users = 0;
        error = open_node(vendor);
    }
    users += error == 0;
    pthread_mutex_unlock(&life);
    return error;
}

bool sim_session_close(void) {
    pthread_mutex_lock(&life);
    bool open = opened && opened_by == getpid();
    if (open && --users == 0) {
        pthread_rwlock_wrlock(&use);
        struct sim_state *state = opened;
        opened = NULL;
        pthread_rwlock_unlock(&use);
        /* Who waits for events learns that there are none to come. */
        syscall(SYS_futex, &state->header->fault_count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
        sim_state_close(state);
    }
    pthread_mutex_unlock(&life);
    return open;
}

struct sim_state *sim_session_enter(void) {
    pthread_rwlock_rdlock(&use);
    if (opened && opened_by == getpid())
        return opened;
    pthread_rwlock_unlock(&use);
    return NULL;
}

void sim_session_leave(void) { pthread_rwlock_unlock(&use); }

uint32_t sim_session_count(void) { return count; }

uint32_t sim_session_device(uint32_t index) { return numbers[index]; }

int64_t sim_session_index(uint32_t number) {
    for (uint32_t i = 0; i < count; i++)
        if (numbers[i] == number)
            return i;
    return -1;
}
