/* Who is there: containers come, go, and have other terms. See runner.h. */
#include "runner_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

/* Makes `*array` have a place at `index`. */
static bool place(struct container ***array, uint32_t *room, uint32_t index) {
    if (index < *room)
        return true;
    uint32_t more = *room ? 2 * *room : 64;
    more = more > index ? more : index + 1;
    struct container **fresh = realloc(*array, more * sizeof *fresh);
    if (!fresh)
        return false;
    memset(fresh + *room, 0, (more - *room) * sizeof *fresh);
    *array = fresh;
    *room = more;
    return true;
}

/* Descriptors of our own, and the grant mapped. */
static int take(struct container *container, int grant, int usage, int bell, uint32_t count) {
    struct aliquot_grant copy;
    ssize_t size = pread(grant, &copy, sizeof copy, 0);
    if (size < 0)
        return -errno;
    if (aliquot_grant_check(&copy, (size_t)size) || copy.device_count != count)
        return -EINVAL;
    void *map = mmap(NULL, sizeof copy, PROT_READ | PROT_WRITE, MAP_SHARED, grant, 0);
    if (map == MAP_FAILED)
        return -errno;
    container->grant = map;
    container->usage = fcntl(usage, F_DUPFD_CLOEXEC, 3);
    if (container->usage < 0)
        return -errno;
    if (bell >= 0) {
        container->bell = fcntl(bell, F_DUPFD_CLOEXEC, 3);
        if (container->bell < 0)
            return -errno;
        /* One read empties it, and nobody's bell takes much of the kernel's memory. */
        fcntl(container->bell, F_SETPIPE_SZ, 4096);
    }
    return 0;
}

static void leave(struct aliquot_runner *runner, uint64_t now, int first, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        aliquot_arbiter_leave(runner->arbiter, now, first + (int)i);
}

static int join(struct aliquot_runner *runner, struct container *container, uint64_t now,
                const uint32_t *device, const struct aliquot_terms *terms) {
    int first = aliquot_arbiter_join(runner->arbiter, now, container->column_count, device, terms);
    if (first < 0)
        return first;
    if (!place(&runner->owner, &runner->owner_room,
               (uint32_t)first + container->column_count - 1)) {
        leave(runner, now, first, container->column_count);
        return -ENOMEM;
    }
    bool found = false;
    for (uint32_t i = 0; i < container->column_count; i++) {
        struct column *column = &container->column[i];
        column->member = first + (int)i;
        /* relaxed: nobody else writes it. */
        column->gate =
            atomic_load_explicit(&container->grant->device[i].gate, memory_order_relaxed);
        column->shift = aliquot_gate_number(column->gate) -
                        aliquot_gate_number(aliquot_arbiter_gate(runner->arbiter, column->member)) +
                        1;
        column->told_wanted = column->told_received = ALIQUOT_UNKNOWN - 1;
        runner->owner[column->member] = container;
        found |= aliquot_gate_state(column->gate) != ALIQUOT_GATE_CLOSED;
    }
    container->rung = true;
    container_look(container, runner->arbiter, now);
    for (uint32_t i = 0; i < container->column_count; i++)
        for (uint32_t slot = 0; slot < container->slots; slot++)
            found |= aliquot_flow_active(container->column[i].flow[slot]) != 0;
    if (found)
        aliquot_arbiter_found(runner->arbiter, now, first);
    return 0;
}

static int free_number(struct aliquot_runner *runner) {
    uint32_t number = 0;
    while (number < runner->container_room && runner->container[number])
        number++;
    return place(&runner->container, &runner->container_room, number) ? (int)number : -ENOMEM;
}

static int add(struct aliquot_runner *runner, struct container *container, const uint32_t *device,
               const struct aliquot_terms *terms) {
    int number = free_number(runner);
    if (number < 0)
        return number;
    container->number = (uint32_t)number;
    struct epoll_event event = {.events = runner_bell_events(runner),
                                .data.u64 = container->number};
    if (container->bell >= 0 &&
        epoll_ctl(runner->epoll, EPOLL_CTL_ADD, container->bell, &event) < 0)
        return -errno;
    int error = join(runner, container, runner_now(), device, terms);
    if (error) {
        if (container->bell >= 0)
            epoll_ctl(runner->epoll, EPOLL_CTL_DEL, container->bell, NULL);
        return error;
    }
    container->rung = true;
    runner->container[number] = container;
    runner_note(runner, container);
    /* Its processes know at once that somebody is there. relaxed: as in beat. */
    atomic_fetch_add_explicit(&container->grant->beat, 1, memory_order_relaxed);
    return number;
}

int aliquot_runner_add(struct aliquot_runner *runner, int grant, int usage, int bell,
                       uint32_t count, const uint32_t *device, const struct aliquot_terms *terms) {
    if (count < 1 || count > ALIQUOT_MAX_DEVICES)
        return -EINVAL;
    struct container *container = calloc(1, sizeof *container);
    if (!container)
        return -ENOMEM;
    container->usage = container->bell = -1;
    container->column_count = count;
    container->again_ns = NEVER;
    int number = take(container, grant, usage, bell, count);
    if (!number) {
        pthread_mutex_lock(&runner->lock);
        number = add(runner, container, device, terms);
        if (number >= 0)
            runner_call(runner);
        pthread_mutex_unlock(&runner->lock);
    }
    if (number < 0)
        container_free(container);
    return number;
}

/* The lock is held. */
static struct container *find(struct aliquot_runner *runner, int number, uint32_t column) {
    if (number < 0 || (uint32_t)number >= runner->container_room || !runner->container[number] ||
        column >= runner->container[number]->column_count)
        return NULL;
    return runner->container[number];
}

void aliquot_runner_remove(struct aliquot_runner *runner, int number) {
    pthread_mutex_lock(&runner->lock);
    struct container *container = find(runner, number, 0);
    if (container) {
        leave(runner, runner_now(), container->column[0].member, container->column_count);
        if (container->bell >= 0)
            epoll_ctl(runner->epoll, EPOLL_CTL_DEL, container->bell, NULL);
        runner->container[number] = NULL;
        struct container **at = &runner->news;
        while (*at && *at != container)
            at = &(*at)->next;
        if (*at)
            *at = container->next;
        runner_call(runner);
    }
    pthread_mutex_unlock(&runner->lock);
    if (container)
        container_free(container);
}

int aliquot_runner_change(struct aliquot_runner *runner, int number, uint32_t index,
                          const struct aliquot_terms *terms) {
    pthread_mutex_lock(&runner->lock);
    struct container *container = find(runner, number, index);
    struct column *column = container ? &container->column[index] : NULL;
    int error = column
                    ? aliquot_arbiter_change(runner->arbiter, runner_now(), column->member, terms)
                    : -EINVAL;
    if (!error) {
        /* What threads were given for a turn is short, and a new number would be a new turn. */
        unsigned state = aliquot_gate_state(column->gate);
        if (state == ALIQUOT_GATE_FREE || state == ALIQUOT_GATE_OPEN) {
            column->shift++;
            column_write(container, index, aliquot_arbiter_gate(runner->arbiter, column->member));
        }
        runner_call(runner);
    }
    pthread_mutex_unlock(&runner->lock);
    return error;
}

int aliquot_runner_read(struct aliquot_runner *runner, int number, uint32_t column,
                        struct aliquot_account *account) {
    pthread_mutex_lock(&runner->lock);
    struct container *container = find(runner, number, column);
    if (container)
        runner_read_account(runner, &container->column[column], runner_now(), account);
    pthread_mutex_unlock(&runner->lock);
    return container ? 0 : -EINVAL;
}

int aliquot_runner_write_window(struct aliquot_runner *runner, int number, uint32_t index,
                                uint32_t window_us) {
    pthread_mutex_lock(&runner->lock);
    struct container *container = find(runner, number, index);
    if (container) {
        _Atomic uint32_t *word = &container->grant->device[index].window_us;
        /* relaxed: it counts from the next launch on that sees it. The page is shared: what stays as it
         * is is not written. */
        if (atomic_load_explicit(word, memory_order_relaxed) != window_us)
            atomic_store_explicit(word, window_us, memory_order_relaxed);
    }
    pthread_mutex_unlock(&runner->lock);
    return container ? 0 : -EINVAL;
}
