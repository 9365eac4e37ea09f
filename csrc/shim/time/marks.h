/* Marks: the vendor's events behind launches, and what their times are by the host's clock. */
#ifndef ALIQUOT_SHIM_TIME_MARKS_H
#define ALIQUOT_SHIM_TIME_MARKS_H

#include "process.h"

/* The device (index into the grant, or -1) that a launch of the calling thread is for. */
int aliquot_marks_device(const struct aliquot_launch *launch);
void *aliquot_marks_put(const struct aliquot_launch *launch);
int aliquot_marks_reached(void *mark, uint64_t *at_ns);
void aliquot_marks_drop(void *mark);
int aliquot_marks_idle(uint64_t lane);

/* A capture begins (1), or has ended or not begun (-1). */
void aliquot_marks_capture(int change);

/* About to go: a stream (0 or the lane of a default one: nothing does); a context, which `gone` says
 * afterwards. */
void aliquot_marks_stream_leaves(uint64_t lane);
void aliquot_marks_context_leaves(void *context);
void aliquot_marks_context_left(void *context, bool gone);

/* The process ends: the driver is not called from here any more. */
void aliquot_marks_end(void);
void aliquot_marks_forget(void);

/* -- The vendor's part ------------------------------------------------------------------------------ */

/* Whether this process is attached to its region and knows its devices. */
bool aliquot_vendor_ready(void);

/* Whether a launch of the calling thread in the lane is only being recorded; true also when the
 * driver cannot tell. */
bool aliquot_vendor_captured(uint64_t lane);

/* Makes a context current, in such a way that our own calls leave captures of the program alone.
 * True: aliquot_vendor_leave must follow, with what was kept. */
struct aliquot_visit {
    void *before;
    int mode;
    bool moved;
};
bool aliquot_vendor_enter(struct aliquot_visit *visit, void *context);
void aliquot_vendor_leave(const struct aliquot_visit *visit);

/* The context of a lane of the calling thread's; NULL where there is none. */
void *aliquot_vendor_context(uint64_t lane);
/* A context is seen for the first time here, by way of that lane: its end will be told of. Returns its
 * device (index into the grant, or -1), or ALIQUOT_UNTOLD: the driver does not tell now. */
enum { ALIQUOT_UNTOLD = -2 };
int aliquot_vendor_watch(void *context, uint64_t lane);

/* All within a context that was entered. An event is made, NULL where it cannot be, and put behind
 * what is in the lane; asked: 1 reached, 0 not yet, -1 never; the device's time between two. */
void *aliquot_vendor_event(void);
bool aliquot_vendor_put(void *event, uint64_t lane);
int aliquot_vendor_reached(void *event);
bool aliquot_vendor_between(void *from, void *to, int64_t *ns);
/* A stream that nobody else has, by its lane (0: none), and its end; whether a lane is idle: 1 yes, 0
 * no, -1 it cannot be told. */
uint64_t aliquot_vendor_lane_new(void);
void aliquot_vendor_lane_end(uint64_t lane);
int aliquot_vendor_idle(uint64_t lane);

#endif
