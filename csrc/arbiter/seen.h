/* What the arbiter sees of a member: the `flow` words of its processes, put together. Pure.
 *
 * A word that waits speaks of somebody only as long as he does something about it. Who was given a
 * turn and did nothing with it is passed over until he rings again, so that a process that was
 * stopped while it waited takes no time from others.
 */
#ifndef ALIQUOT_SEEN_H
#define ALIQUOT_SEEN_H

#include "arbiter.h"

/* What is remembered of one word from look to look. 0: nothing. */
struct aliquot_passed_over {
    uint32_t rings; /* 1 + those of the word when a turn went by that it did nothing with */
};

/* `flow[count]` are the member's words, each read once (0 for a dead process: its word speaks of
 * nobody), `over` what is remembered of them, `gate` the word that its processes see. */
void aliquot_seen_make(const uint64_t *flow, const struct aliquot_passed_over *over, uint32_t count,
                       uint64_t gate, uint64_t device_ns, struct aliquot_seen *seen);

/* Is called before a gate is written, with the words as they were seen last: `old` becomes `fresh`. */
void aliquot_seen_gate(const uint64_t *flow, struct aliquot_passed_over *over, uint32_t count,
                       uint64_t old, uint64_t fresh);

#endif
