/* What the files of the timeline share. */
#ifndef ALIQUOT_SIM_TIMELINE_IMPL_H
#define ALIQUOT_SIM_TIMELINE_IMPL_H

#include "timeline.h"

static inline uint64_t sim_least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t sim_most(uint64_t a, uint64_t b) { return a > b ? a : b; }

static inline bool sim_is_busy(const struct sim_timeline *timeline, uint32_t index) {
    return (timeline->busy[index / 64] >> (index % 64) & 1) != 0;
}
uint32_t sim_busy_count(const struct sim_timeline *timeline);
/* The busy entry that follows `index` round robin (any index, NONE included); NONE if none. */
uint32_t sim_next_busy(const struct sim_timeline *timeline, uint32_t index);
/* Processors that all who have work want together; those that there are at the least. */
uint32_t sim_crowd(const struct sim_timeline *timeline);

/* Time until a clock that goes `sms` to every `crowd` of real time, and has `rest` left over, has
 * gone `gain_ns`. Sums of three days stay far from overflowing. */
static inline uint64_t sim_time_for(uint64_t gain_ns, uint32_t sms, uint32_t crowd, uint64_t rest) {
    if (crowd == sms)
        return gain_ns;
    unsigned __int128 wanted = (unsigned __int128)gain_ns * crowd;
    return wanted <= rest ? 0 : (uint64_t)((wanted - rest + sms - 1) / sms);
}

/* Everything below is called under the lock. */
void sim_timeline_lock(struct sim_timeline *timeline);
void sim_timeline_unlock(struct sim_timeline *timeline);
/* Brings the model to `to_ns`. */
void sim_timeline_advance(struct sim_timeline *timeline, uint64_t to_ns);
struct sim_timeline_entry *sim_find_owner(struct sim_timeline *timeline, uint32_t owner);

/* timeline_usage.c: notes that an entry (NULL: only the device) ran kernels, or moved bytes. */
void sim_add_usage(struct sim_timeline *timeline, struct sim_timeline_entry *entry,
                   uint64_t from_ns, uint64_t to_ns, bool copies);
/* Counts what the entry has moved up to `now_ns`. */
void sim_count_copies(struct sim_timeline *timeline, struct sim_timeline_entry *entry,
                      uint64_t now_ns);
/* Notes a turn of an entry. One that goes on where its last one ended lengthens that; what has been
 * noted already makes no difference. */
void sim_note_turn(struct sim_timeline *timeline, struct sim_timeline_entry *entry,
                   const struct sim_turn *turn);

#endif
