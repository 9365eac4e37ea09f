/* Fault events: whoever subscribed is called, in a thread of the library's, for each fault that is
 * injected from outside (state_fault.c). A subscription cannot be taken back. */
#include "dcmi_sim.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct subscription {
    uint32_t number; /* of the device, on the node; SIM_DEVICES_MAX: every device */
    struct dcmi_event_filter filter;
    void (*handler)(struct dcmi_event *event);
};

enum { SUBSCRIPTIONS = 64 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct subscription subscriptions[SUBSCRIPTIONS];
static unsigned subscribed;
static pid_t teller;  /* the process in which the thread runs */
static uint32_t next; /* fault that was not looked at yet; the thread's own */

static bool wants(const struct subscription *one, const struct sim_fault *fault) {
    if (one->number != SIM_DEVICES_MAX && one->number != fault->device)
        return false;
    if ((one->filter.filter_flag & DCMI_FILTER_EVENT_ID) && one->filter.event_id != fault->code)
        return false;
    return !(one->filter.filter_flag & DCMI_FILTER_SEVERITY) ||
           fault->severity >= one->filter.severity;
}

static void describe(const struct sim_fault *fault, uint32_t phy_id, int serial,
                     struct dcmi_event *event) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *event = (struct dcmi_event){0};
    struct dcmi_dms_fault_event *dms = &event->event_t.dms_event;
    dms->event_id = fault->code;
    dms->deviceid = (unsigned short)phy_id;
    dms->severity = (unsigned char)fault->severity;
    dms->assertion = fault->cleared ? 0 : 1;
    dms->event_serial_num = dms->notify_serial_num = serial;
    dms->alarm_raised_time =
        (unsigned long long)now.tv_sec * 1000 + (unsigned long long)now.tv_nsec / 1000000;
    snprintf(dms->event_name, sizeof dms->event_name, "simulated fault");
}

static void tell(const struct sim_fault *fault, uint32_t phy_id, int serial) {
    struct subscription all[SUBSCRIPTIONS];
    pthread_mutex_lock(&lock);
    unsigned count = subscribed;
    for (unsigned s = 0; s < count; s++)
        all[s] = subscriptions[s];
    pthread_mutex_unlock(&lock);
    for (unsigned s = 0; s < count; s++) {
        struct dcmi_event event;
        if (!wants(&all[s], fault))
            continue;
        describe(fault, phy_id, serial, &event);
        all[s].handler(&event);
    }
}

/* Takes the next fault, with its number. False: there is none; *seen there were. */
static bool take(struct sim_state *state, struct sim_fault *fault, uint32_t *seen) {
    struct sim_state_header *header = state->header;
    /* Acquire: pairs with the release in sim_state_inject. */
    *seen = atomic_load_explicit(&header->fault_count, memory_order_acquire);
    if (*seen == next)
        return false;
    sim_lock_take(state, &header->table_lock); /* none is overwritten while it is read */
    *seen = atomic_load_explicit(&header->fault_count, memory_order_relaxed);
    if (*seen - next > SIM_FAULTS_MAX)
        next = *seen - SIM_FAULTS_MAX; /* the oldest are lost */
    *fault = header->faults[next++ % SIM_FAULTS_MAX];
    sim_lock_drop(state, &header->table_lock);
    return true;
}

static void *watch(void *unused) {
    (void)unused;
    for (;;) {
        struct sim_state *state = sim_session_enter();
        if (!state)
            return NULL;
        struct sim_fault fault;
        uint32_t seen;
        _Atomic uint32_t *word = &state->header->fault_count;
        if (take(state, &fault, &seen)) {
            uint32_t serial = next;
            bool ours =
                fault.device < state->node->device_count && sim_session_index(fault.device) >= 0;
            uint32_t phy_id = ours ? sim_node_minor(state->node, fault.device) : 0;
            sim_session_leave();
            if (ours)
                tell(&fault, phy_id, (int)serial);
            continue;
        }
        sim_session_leave();
        /* The session is never closed (dcmi_init), so the word stays mapped. */
        syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
    }
}

/* Starts the thread, with all signals left to the application. */
static int start(struct sim_state *state) {
    if (teller == getpid())
        return DCMI_OK;
    sigset_t all, before;
    pthread_attr_t detached;
    pthread_t thread;
    /* Acquire: as above. What was before is nobody's event. */
    next = atomic_load_explicit(&state->header->fault_count, memory_order_acquire);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &detached, watch, NULL);
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return DCMI_INTERNAL;
    teller = getpid();
    return DCMI_OK;
}

/* Whether somebody subscribed to the same: doing it twice is doing it once. Under the lock. */
static bool is_subscribed(const struct subscription *wanted) {
    for (unsigned s = 0; s < subscribed; s++) {
        const struct subscription *one = &subscriptions[s];
        if (one->number == wanted->number && one->handler == wanted->handler &&
            one->filter.filter_flag == wanted->filter.filter_flag &&
            one->filter.event_id == wanted->filter.event_id &&
            one->filter.severity == wanted->filter.severity)
            return true;
    }
    return false;
}

/* A card of -1 is every device of the node. */
int dcmi_subscribe_fault_event(int card_id, int device_id, struct dcmi_event_filter filter,
                               void (*handler)(struct dcmi_event *event)) {
    DCMI_LOOK look = card_id == -1 ? dcmi_look((const void *)&handler)
                                   : dcmi_look_at(card_id, device_id, (const void *)&handler);
    if (look.result != DCMI_OK)
        return look.result;
    if (!handler)
        return DCMI_PARAMETER;
    struct subscription wanted = {.number = look.device ? look.number : SIM_DEVICES_MAX,
                                  .filter = filter,
                                  .handler = handler};
    pthread_mutex_lock(&lock);
    bool known = is_subscribed(&wanted);
    int result = known || subscribed < SUBSCRIPTIONS ? start(look.state) : DCMI_OCCUPIED;
    if (result == DCMI_OK && !known)
        subscriptions[subscribed++] = wanted;
    pthread_mutex_unlock(&lock);
    return result;
}

/* The faults that stand, as their events told them. */
int dcmi_get_device_current_fault_event(int card_id, int device_id, struct dcmi_event *events,
                                        int room, int *count) {
    DCMI_LOOK look = dcmi_look_at(card_id, device_id, events);
    if (!look.device)
        return look.result;
    if (!count || room < 1)
        return DCMI_PARAMETER;
    struct sim_fault standing[SIM_STANDING_MAX];
    uint32_t found = sim_state_standing(look.state, look.number, standing);
    if (found > (uint32_t)room)
        found = (uint32_t)room;
    for (uint32_t f = 0; f < found; f++)
        describe(&standing[f], dcmi_phy_id(&look), 0, &events[f]);
    *count = (int)found;
    return DCMI_OK;
}
