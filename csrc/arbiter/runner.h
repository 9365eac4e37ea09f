/* The arbiter's thread in the agent: looks at what rings, lets the arbiter decide, opens gates.
 *
 * One thread sleeps on all bells and one timer. It writes the beat of each grant too: what shows that
 * time is shared out is the life of who does it. A container's `usage` is hostile input: it is read by
 * pread into a buffer of our own, never mapped; bells are drained within a bound, and a container
 * that rings without end is listened to at most once in 200 us. Grants are mapped, since only we
 * write them; a change is followed by a FUTEX_WAKE on the low half of the gate.
 *
 * Functions may be called from any thread. Times are nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef ALIQUOT_RUNNER_H
#define ALIQUOT_RUNNER_H

#include "arbiter.h"

struct aliquot_runner;

/* Starts the thread (all signals blocked). `settings` as for aliquot_arbiter_new. Returns NULL with
 * `*error` set to a negative errno. */
struct aliquot_runner *aliquot_runner_start(const struct aliquot_arbiter_settings *settings,
                                            int *error);
/* Ends it; all gates stay as they are. */
void aliquot_runner_stop(struct aliquot_runner *runner);

/* While it is on, nothing is decided: several containers come as one, so that none of them is alone
 * for a moment and none is closed for another that comes next. */
void aliquot_runner_gather(struct aliquot_runner *runner, bool on);

/* A container comes: `grant`, `usage` and `bell` are open descriptors (bell O_RDWR | O_NONBLOCK; -1:
 * it has none and is looked at each 10 ms), which are duplicated. Column i of its region is device
 * `device[i]` of the node. Returns a number >= 0 or a negative errno: -EINVAL for a grant that is
 * none or of other devices. What its processes are doing already is taken over as it is found: a
 * restarted agent moves nobody. */
int aliquot_runner_add(struct aliquot_runner *runner, int grant, int usage, int bell,
                       uint32_t count, const uint32_t *device, const struct aliquot_terms *terms);

/* A container has other terms from now on. What its own processes keep to stands in its grant already:
 * whoever made the region writes it there. Where threads may be far ahead, since nobody else wants the
 * device, the gate's number changes, so that they notice. -EINVAL: there is no such container, or these
 * are no terms; a group stays what it is. */
int aliquot_runner_change(struct aliquot_runner *runner, int container, uint32_t column,
                          const struct aliquot_terms *terms);

void aliquot_runner_remove(struct aliquot_runner *runner, int container);
int aliquot_runner_read(struct aliquot_runner *runner, int container, uint32_t column,
                        struct aliquot_account *account);

/* Writes how much predicted work (microseconds) a container may have under way on a device. */
int aliquot_runner_write_window(struct aliquot_runner *runner, int container, uint32_t column,
                                uint32_t window_us);

#endif
