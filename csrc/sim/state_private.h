/* What the files of the shared state know of each other. */
#ifndef ALIQUOT_SIM_STATE_PRIVATE_H
#define ALIQUOT_SIM_STATE_PRIVATE_H

#include "state.h"

/* The byte of `state` that slot s keeps locked while it lives is SIM_LOCK_BASE + s. */
#define SIM_LOCK_BASE ((int64_t)1 << 40)

enum { SIM_PATH_MAX = 4096 + 64 };

static inline uint64_t *sim_frame_bitmap(const struct sim_state *state, uint32_t device) {
    return (uint64_t *)(void *)((uint8_t *)state->header +
                                state->header->devices[device].bitmap_offset);
}

static inline enum sim_slot_status sim_slot_status_of(uint64_t word) {
    return (enum sim_slot_status)(word & 0xff);
}

static inline enum sim_share_status sim_share_status_of(uint64_t word) {
    return (enum sim_share_status)(word & 3);
}

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t sim_state_now(void);
/* Inode of a pid namespace's link in /proc, and a start time from a `stat` there; 0 when neither can
 * be read. */
uint64_t sim_pid_namespace(const char *path);
uint64_t sim_start_ticks(const char *path);

/* Opens the file of that name in the state's directory, close-on-exec; -1 and errno. */
int sim_state_open_file(const struct sim_state *state, const char *name, int flags);

/* Whether somebody keeps the slot's byte locked. `descriptor`: of `state`, opened for this. */
bool sim_slot_locked(int descriptor, uint32_t slot);

/* The device's lock, with what it guards put right when its last holder died. */
void sim_device_lock(struct sim_state *state, uint32_t device);
void sim_device_unlock(struct sim_state *state, uint32_t device);

/* Gives the process, which has its slot, a number, and notes what it is. */
void sim_process_begin(struct sim_state *state);
/* Name of the container that the process is in; empty in none, or in the node's own. */
void sim_process_container(const struct sim_state_header *header, char *name, size_t size);

/* Number of the process's own cgroup; 0 when it cannot be told. */
uint64_t sim_own_cgroup(void);

/* ---- Under the device's lock ---- */

/* Pages that the limit of the process's cgroup leaves it. */
uint64_t sim_limit_room(struct sim_state *state, uint32_t device);

/* Pages that the process's partition of a device leaves it. */
uint64_t sim_partition_room(struct sim_state *state, uint32_t device);

/* Gives a frame's word another owner and share, or none (0: free), and keeps all counters. */
void sim_frame_assign(struct sim_state *state, uint32_t device, uint32_t frame, uint32_t word);
/* Zeroes the touched ones of `count` frames from `first` on. */
void sim_frames_scrub(struct sim_state *state, uint32_t device, uint32_t first, uint32_t count);
/* Counts everything anew from the frames' words. */
void sim_frames_recount(struct sim_state *state, uint32_t device);
/* Frees all private frames of a dead slot. Returns how many. */
uint64_t sim_frames_reap(struct sim_state *state, uint32_t device, uint32_t slot);
/* Ends a dead slot's part in all shares of a device (SIM_DEVICES_MAX: of those without one, under
 * the table lock), and those that nobody holds any more. `slot` may be SIM_SLOT_NONE: only the
 * latter. Returns whether frames came free. */
bool sim_shares_reap(struct sim_state *state, uint32_t device, uint32_t slot);
/* Whether there is a share that no process holds. Needs no lock. */
bool sim_shares_orphaned(struct sim_state *state);

/* ---- Holding nothing but the sweep lock ---- */

/* Ends all that a slot holds, dead or (at its own end) the caller's. */
void sim_slot_clear(struct sim_state *state, uint32_t slot);

#endif
