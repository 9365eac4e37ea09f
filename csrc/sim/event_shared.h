/* Events between processes: words in the shared state that records count up. */
#ifndef ALIQUOT_SIM_EVENT_SHARED_H
#define ALIQUOT_SIM_EVENT_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One event. `status`: use << 12 | owner's slot + 1, the latter 0 while it is free; it changes
 * in one step, so that a process killed at any moment leaves it whole. */
struct sim_shared_event {
    _Atomic uint64_t status;
    _Atomic uint64_t recorded;        /* records queued so far */
    _Atomic uint64_t done;            /* release: the latest record that is completed */
    _Atomic uint64_t recorder;        /* slot of the process that queued the last record, and */
    _Atomic uint64_t recorder_status; /* its status */
    _Atomic uint32_t bell;            /* futex between processes: rung when `done` changes */
    uint32_t device; /* physical; set by the owner before the handle is given out */
    uint64_t unused[2];
};
_Static_assert(sizeof(struct sim_shared_event) == 64, "an event has a cache line of its own");

/* Takes a free one, or one whose owner is dead; NULL when all are taken. */
struct sim_shared_event *sim_shared_event_take(uint32_t device);
/* Its owner gives it up. */
void sim_shared_event_give(struct sim_shared_event *event);
/* Counts a record that is about to be queued; its number. */
uint64_t sim_shared_event_record(struct sim_shared_event *event);
/* That record is completed. */
void sim_shared_event_complete(struct sim_shared_event *event, uint64_t number);
/* The number of the last record. */
uint64_t sim_shared_event_last(const struct sim_shared_event *event);
/* Whether that record is completed, or never will be because its process is dead (looked for when
 * `thorough`, which takes some microseconds). */
bool sim_shared_event_done(struct sim_shared_event *event, uint64_t number, bool thorough);
/* Sleeps until it is. */
void sim_shared_event_wait(struct sim_shared_event *event, uint64_t number);

#endif
