/* Sets of living handles. */
#include "sim.h"

#include <pthread.h>
#include <stdlib.h>

/* Open addressing with linear probing; a deletion moves the followers up, so there are no
 * tombstones. */
struct entry {
    const void *handle; /* NULL: empty */
    enum sim_handle_kind kind;
};

static struct {
    pthread_rwlock_t lock;
    struct entry *entries;
    size_t room; /* a power of two, or 0 */
    size_t count;
} handles = {.lock = PTHREAD_RWLOCK_INITIALIZER};

static size_t home(const void *handle, size_t room) {
    return ((uintptr_t)handle * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (room - 1);
}

/* Where it is, or the empty place where it would go. `room` is not 0 and not full. */
static size_t place(const struct entry *entries, size_t room, enum sim_handle_kind kind,
                    const void *handle) {
    size_t at = home(handle, room);
    while (entries[at].handle && (entries[at].handle != handle || entries[at].kind != kind))
        at = (at + 1) & (room - 1);
    return at;
}

static bool grow(void) {
    size_t room = handles.room ? handles.room * 2 : 256;
    struct entry *entries = calloc(room, sizeof *entries);
    if (!entries)
        return false;
    for (size_t e = 0; e < handles.room; e++)
        if (handles.entries[e].handle)
            entries[place(entries, room, handles.entries[e].kind, handles.entries[e].handle)] =
                handles.entries[e];
    free(handles.entries);
    handles.entries = entries;
    handles.room = room;
    return true;
}

bool sim_handle_add(enum sim_handle_kind kind, const void *handle) {
    pthread_rwlock_wrlock(&handles.lock);
    bool added = handles.count * 2 < handles.room || grow();
    if (added) {
        size_t at = place(handles.entries, handles.room, kind, handle);
        handles.count += !handles.entries[at].handle;
        handles.entries[at] = (struct entry){handle, kind};
    }
    pthread_rwlock_unlock(&handles.lock);
    return added;
}

bool sim_handle_drop(enum sim_handle_kind kind, const void *handle) {
    pthread_rwlock_wrlock(&handles.lock);
    struct entry *entries = handles.entries;
    size_t mask = handles.room - 1;
    size_t at = handles.room && handle ? place(entries, handles.room, kind, handle) : 0;
    bool found = handles.room && handle && entries[at].handle;
    if (found) {
        handles.count--;
        entries[at].handle = NULL;
        for (size_t next = (at + 1) & mask; entries[next].handle; next = (next + 1) & mask) {
            size_t wish = home(entries[next].handle, handles.room);
            if (((next - wish) & mask) < ((next - at) & mask))
                continue; /* its way does not lead over the gap */
            entries[at] = entries[next];
            entries[next].handle = NULL;
            at = next;
        }
    }
    pthread_rwlock_unlock(&handles.lock);
    return found;
}

bool sim_handle_check(enum sim_handle_kind kind, const void *handle) {
    if (!handle)
        return false;
    pthread_rwlock_rdlock(&handles.lock);
    bool found =
        handles.room && handles.entries[place(handles.entries, handles.room, kind, handle)].handle;
    pthread_rwlock_unlock(&handles.lock);
    return found;
}
