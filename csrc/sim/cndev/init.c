/* Initialisation, and the devices that the process sees. */
#include "cndev_sim.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* `life` orders those who initialise and release; `use` keeps the node open while somebody looks. */
static pthread_mutex_t life = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t use = PTHREAD_RWLOCK_INITIALIZER;
/* Written under both. */
static struct sim_state *opened;
static pid_t opened_by; /* the mapping is not inherited by a child, however it was made */
static int32_t count;
static uint32_t numbers[SIM_DEVICES_MAX]; /* by slot */

/* A child must not come to hold the descriptor of `state` while it is being opened: it would keep
 * our slot alive. It starts without a node. */
static void before_fork(void) { pthread_mutex_lock(&life); }
static void after_fork(void) { pthread_mutex_unlock(&life); }
static void in_child(void) {
    free(opened); /* its mapping stayed with the parent */
    opened = NULL;
    pthread_rwlock_init(&use, NULL);
    pthread_mutex_unlock(&life);
}

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork, in_child);
}

/* In the order of PCI addresses, as the driver gives out its numbers. */
static void see_devices(const struct sim_node_config *node, bool by_file) {
    count = 0;
    for (uint32_t d = 0; d < node->device_count; d++) {
        if (node->devices[d].vendor != SIM_VENDOR_CAMBRICON ||
            (by_file && !sim_node_openable(node, d)))
            continue;
        uint64_t key = sim_node_pci_key(&node->devices[d]);
        int32_t at = count++;
        for (; at && key < sim_node_pci_key(&node->devices[numbers[at - 1]]); at--)
            numbers[at] = numbers[at - 1];
        numbers[at] = d;
    }
}

static cndevRet_t open_node(void) {
    bool by_file;
    const char *folder = sim_node_folder(&by_file);
    struct sim_state *state;
    char why[512];
    int error = sim_state_open(folder, NULL, false, &state, why, sizeof why);
    if (error)
        return error == EINVAL                       ? CNDEV_ERROR_LOW_DRIVER_VERSION
               : error == EACCES || error == EPERM   ? CNDEV_ERROR_NO_PERMISSION
               : error == ENOENT || error == ENOTDIR ? CNDEV_ERROR_NO_DRIVER
                                                     : CNDEV_ERROR_UNKNOWN;
    /* Who only looks holds nothing whose release would take time. Relaxed: read after our death. */
    atomic_store_explicit(&state->header->slots[state->slot].exiting, 1, memory_order_relaxed);
    pthread_rwlock_wrlock(&use);
    see_devices(state->node, by_file);
    bool any = count > 0;
    if (any) {
        opened_by = getpid();
        opened = state;
    }
    pthread_rwlock_unlock(&use);
    if (!any)
        sim_state_close(state);
    return any ? CNDEV_SUCCESS : CNDEV_ERROR_NO_DEVICES;
}

API cndevRet_t cndevInit(int32_t reserved) {
    (void)reserved;
    cndevRet_t result = sim_ordered(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&life);
    if (!opened || opened_by != getpid())
        result = open_node();
    pthread_mutex_unlock(&life);
    return result;
}

API cndevRet_t cndevRelease(void) {
    cndevRet_t result = sim_ordered(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&life);
    if (!opened || opened_by != getpid()) {
        result = CNDEV_ERROR_UNINITIALIZED;
    } else {
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

cndevRet_t sim_ordered(const char *function) {
    const char *orders = getenv("ALIQUOT_SIM_CNDEV_ERRORS");
    size_t length = strlen(function);
    for (const char *at = orders; at && (at = strstr(at, function)); at += length)
        if ((at == orders || at[-1] == ' ') && at[length] == '=')
            return (cndevRet_t)atoi(at + length + 1);
    return CNDEV_SUCCESS;
}

struct sim_look sim_look(const char *function, const void *out) {
    struct sim_look look = {.result = sim_ordered(function), .slot = -1};
    if (look.result)
        return look;
    pthread_rwlock_rdlock(&use);
    if (!opened || opened_by != getpid() || !out) {
        look.result = opened && opened_by == getpid() ? CNDEV_ERROR_INVALID_ARGUMENT
                                                      : CNDEV_ERROR_UNINITIALIZED;
        pthread_rwlock_unlock(&use);
        return look;
    }
    look.state = opened; /* and `use` is held: sim_look_end gives it up */
    return look;
}

struct sim_look sim_look_at(const char *function, cndevDevice_t device, const void *out) {
    struct sim_look look = sim_look(function, out);
    if (!look.state)
        return look;
    if (device < 0 || device >= count) {
        look.result = CNDEV_ERROR_INVALID_DEVICE_ID;
        return look;
    }
    look.slot = device;
    look.number = numbers[device];
    look.device = &look.state->node->devices[look.number];
    return look;
}

void sim_look_end(struct sim_look *look) {
    if (look->state)
        pthread_rwlock_unlock(&use);
}

bool sim_speaks(struct sim_look *look, int32_t version) {
    if (version != SIM_CNDEV_VERSION)
        look->result = CNDEV_ERROR_UNSUPPORTED_API_VERSION;
    return version == SIM_CNDEV_VERSION;
}

int32_t sim_slots(void) { return count; }

uint32_t sim_number_of(int32_t slot) { return numbers[slot]; }

int32_t sim_slot_of(uint32_t number) {
    for (int32_t slot = 0; slot < count; slot++)
        if (numbers[slot] == number)
            return slot;
    return -1;
}
