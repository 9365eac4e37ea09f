/* Initialisation, and the devices that the process sees. */
#include "nvml_sim.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* `life` orders those who initialise and shut down; `use` keeps the node open while somebody looks.
 * glibc lets readers in beside a waiting writer, so that a look within a look cannot lock up. */
static pthread_mutex_t life = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t use = PTHREAD_RWLOCK_INITIALIZER;
/* Written under both. */
static struct sim_state *opened;
static pid_t opened_by; /* the mapping is not inherited by a child, however it was made */
static unsigned users;
static uint32_t count;
static struct nvmlDevice_st handles[SIM_DEVICES_MAX]; /* by index */

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

static void see_devices(const struct sim_node_config *node, bool by_file) {
    count = 0;
    for (uint32_t d = 0; d < node->device_count; d++) {
        if (node->devices[d].vendor != SIM_VENDOR_NVIDIA ||
            (by_file && !sim_node_openable(node, d)))
            continue;
        uint64_t key = sim_node_pci_key(&node->devices[d]);
        uint32_t at = count++;
        for (; at && key < sim_node_pci_key(&node->devices[handles[at - 1].number]); at--)
            handles[at] = handles[at - 1];
        handles[at].number = d;
    }
}

static nvmlReturn_t open_node(void) {
    bool by_file;
    const char *folder = sim_node_folder(&by_file);
    struct sim_state *state;
    char why[512];
    int error = sim_state_open(folder, NULL, false, &state, why, sizeof why);
    if (error)
        return error == EINVAL                       ? NVML_ERROR_LIB_RM_VERSION_MISMATCH
               : error == EACCES || error == EPERM   ? NVML_ERROR_NO_PERMISSION
               : error == ENOENT || error == ENOTDIR ? NVML_ERROR_DRIVER_NOT_LOADED
                                                     : NVML_ERROR_UNKNOWN;
    /* Who only looks holds nothing whose release would take time. Relaxed: read after our death. */
    atomic_store_explicit(&state->header->slots[state->slot].exiting, 1, memory_order_relaxed);
    pthread_rwlock_wrlock(&use);
    see_devices(state->node, by_file);
    opened_by = getpid();
    opened = state;
    pthread_rwlock_unlock(&use);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void) {
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&life);
    if (!opened || opened_by != getpid()) {
        users = 0;
        result = open_node();
    }
    users += result == NVML_SUCCESS;
    pthread_mutex_unlock(&life);
    return result;
}

nvmlReturn_t nvmlInit(void) { return nvmlInit_v2(); }

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags; /* no devices, or unattached ones, are no error here anyway */
    return nvmlInit_v2();
}

nvmlReturn_t nvmlShutdown(void) {
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&life);
    if (!opened || opened_by != getpid()) {
        result = NVML_ERROR_UNINITIALIZED;
    } else if (--users == 0) {
        pthread_rwlock_wrlock(&use);
        struct sim_state *state = opened;
        opened = NULL;
        pthread_rwlock_unlock(&use);
        /* Who waits for events learns that there are none to come. */
        syscall(SYS_futex, &state->header->fault_count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
        sim_state_close(state);
    }
    pthread_mutex_unlock(&life);
    return result;
}

/* ---- Looks ---------------------------------------------------------------------------------- */

struct sim_look sim_look(const void *out) {
    struct sim_look look = {.result = NVML_ERROR_UNINITIALIZED};
    pthread_rwlock_rdlock(&use);
    if (!opened || opened_by != getpid()) {
        pthread_rwlock_unlock(&use);
        return look;
    }
    if (!out) {
        pthread_rwlock_unlock(&use);
        look.result = NVML_ERROR_INVALID_ARGUMENT;
        return look;
    }
    look.state = opened; /* and `use` is held: sim_look_end gives it up */
    look.result = NVML_SUCCESS;
    return look;
}

struct sim_look sim_look_at(nvmlDevice_t device, const void *out) {
    struct sim_look look = sim_look(out);
    int64_t number = look.state ? sim_number_of(device) : -1;
    if (number >= 0) {
        look.number = (uint32_t)number;
        look.device = &look.state->node->devices[number];
        if (look.device->cost_ns[SIM_COST_NVML])
            sim_cost_wait(look.device->cost_ns[SIM_COST_NVML]);
    } else if (look.state) {
        look.result = NVML_ERROR_INVALID_ARGUMENT;
    }
    return look;
}

void sim_look_end(struct sim_look *look) {
    if (look->state)
        pthread_rwlock_unlock(&use);
}

uint32_t sim_visible_count(void) { return count; }

nvmlDevice_t sim_visible(uint32_t index) { return index < count ? &handles[index] : NULL; }

nvmlDevice_t sim_handle_of(uint32_t number) {
    for (uint32_t i = 0; i < count; i++)
        if (handles[i].number == number)
            return &handles[i];
    return NULL;
}

int64_t sim_number_of(nvmlDevice_t handle) {
    for (uint32_t i = 0; i < count; i++)
        if (handle == &handles[i])
            return handles[i].number;
    return -1;
}
