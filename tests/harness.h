/* An exact clock, coroutines on it, and a model of a device: what the limiter and the arbiter are run
 * on to be tested exactly. Nothing here takes real time. */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdbool.h>
#include <stdint.h>

/* -- The clock, and what runs on it (harness_clock.c) --------------------------------------------- */

struct task;
typedef void (*task_main)(void *argument);

/* Clock of whoever runs: the harness' own, and what the running task has spent since it was woken. */
uint64_t clock_now(void);
/* The running task spends host time. */
void clock_spend(uint64_t ns);

struct task *task_start(task_main main, void *argument);
/* The running task stops until `ns`, or until task_wake. */
void task_sleep(uint64_t until_ns);
/* Wakes a sleeping task at `ns` at the latest. No effect on one that is not asleep. */
void task_wake(struct task *task, uint64_t ns);
struct task *task_self(void);
/* It sleeps from now on, whatever happens, until task_thaw: as SIGSTOP does it. */
void task_freeze(struct task *task, bool frozen);
/* It never runs again. */
void task_kill(struct task *task);

/* Calls `call` at `ns`. */
void clock_at(uint64_t ns, void (*call)(void *argument), void *argument);
/* Runs until `ns`. */
void clock_run(uint64_t until_ns);

/* -- Devices (harness_device.c) -------------------------------------------------------------------- */

enum { STREAMS = 8, CONTEXTS = 64, DEVICES = 8 };

struct event {
    bool reached, used;
    uint64_t at_ns;
    struct event *next_free;
};

struct gpu_settings {
    uint64_t slice_ns, switch_ns;
    uint64_t settled_ns; /* from when on idle stretches count */
};

struct context; /* one process on one device */

void gpu_init(unsigned device, const struct gpu_settings *settings);
struct context *gpu_context(unsigned device, unsigned container);
/* Queues a kernel in a stream at the running task's time; it runs for `ns` of the device. `flag`: not
 * NULL: it also runs until *flag is not 0. */
void gpu_launch(struct context *context, unsigned stream, uint64_t ns, const bool *flag);
/* Kernels that were queued in the stream and are not done. */
uint64_t gpu_pending(const struct context *context, unsigned stream);
/* The task sleeps until at most `most` are pending. */
void gpu_wait(struct context *context, unsigned stream, uint64_t most);
struct event *gpu_record(struct context *context, unsigned stream);
void gpu_release(struct event *event);
/* All its work is gone: the process was killed. */
void gpu_destroy(struct context *context);
/* Somebody set a flag: look again. */
void gpu_kick(unsigned device);

/* The truth up to now: device time that a container's kernels had, that of switches, and of nobody. */
uint64_t gpu_busy(unsigned device, unsigned container);
uint64_t gpu_idle(unsigned device);
uint64_t gpu_longest_idle(unsigned device); /* at a stretch, since it is settled */
bool gpu_has_work(unsigned device, unsigned container);

#endif
