#include "event_shared.h"

#include "event.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { OWNER_BITS = 12, EVENTS = sizeof((struct sim_state_header *)NULL)->exec / 64 };

static struct sim_shared_event *event_at(uint32_t index) {
    return (struct sim_shared_event *)(void *)sim_state->header->exec + index;
}

/* ---- Places -------------------------------------------------------------------------------- */

static bool owner_dead(uint64_t status) {
    uint32_t slot = (uint32_t)(status & ((1u << OWNER_BITS) - 1)) - 1;
    return !sim_slot_alive(sim_state, slot, sim_slot_status(sim_state, slot));
}

/* Takes the place if it still has that status. */
static bool claim(struct sim_shared_event *event, uint64_t status) {
    uint64_t taken = ((status >> OWNER_BITS) + 1) << OWNER_BITS | (sim_state->slot + 1);
    /* Acquire-release: one of those who try gets it, after all that its former owner did. */
    return atomic_compare_exchange_strong_explicit(&event->status, &status, taken,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

struct sim_shared_event *sim_shared_event_take(uint32_t device) {
    /* First what is free; dead owners are looked for only when there is nothing. */
    for (int thorough = 0; thorough < 2; thorough++) {
        for (uint32_t i = 0; i < EVENTS; i++) {
            struct sim_shared_event *event = event_at(i);
            uint64_t status = atomic_load_explicit(&event->status, memory_order_relaxed);
            bool taken = (status & ((1u << OWNER_BITS) - 1)) != 0;
            if ((taken && (!thorough || !owner_dead(status))) || !claim(event, status))
                continue;
            /* Numbers of this use are above those of all before, so that a late record of a
             * former event changes nothing. */
            uint64_t first = ((status >> OWNER_BITS) + 1) << 32;
            event->device = device;
            atomic_store_explicit(&event->recorded, first, memory_order_relaxed);
            atomic_store_explicit(&event->done, first, memory_order_release);
            return event;
        }
    }
    return NULL;
}

void sim_shared_event_give(struct sim_shared_event *event) {
    uint64_t status = atomic_load_explicit(&event->status, memory_order_relaxed);
    atomic_store_explicit(&event->status, status >> OWNER_BITS << OWNER_BITS, memory_order_release);
}

/* ---- Records ------------------------------------------------------------------------------- */

uint64_t sim_shared_event_record(struct sim_shared_event *event) {
    atomic_store_explicit(&event->recorder, sim_state->slot, memory_order_relaxed);
    atomic_store_explicit(&event->recorder_status, sim_slot_status(sim_state, sim_state->slot),
                          memory_order_relaxed);
    /* Release: pairs with sim_shared_event_last; who sees the number sees its recorder. */
    return atomic_fetch_add_explicit(&event->recorded, 1, memory_order_release) + 1;
}

void sim_shared_event_complete(struct sim_shared_event *event, uint64_t number) {
    uint64_t done = atomic_load_explicit(&event->done, memory_order_relaxed);
    /* Release: pairs with sim_shared_event_done; what came before the record is seen. */
    while (done < number &&
           !atomic_compare_exchange_weak_explicit(&event->done, &done, number, memory_order_release,
                                                  memory_order_relaxed)) {
    }
    atomic_fetch_add_explicit(&event->bell, 1, memory_order_release);
    syscall(SYS_futex, &event->bell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

uint64_t sim_shared_event_last(const struct sim_shared_event *event) {
    return atomic_load_explicit(&event->recorded, memory_order_acquire);
}

bool sim_shared_event_done(struct sim_shared_event *event, uint64_t number, bool thorough) {
    if (atomic_load_explicit(&event->done, memory_order_acquire) >= number)
        return true;
    if (!thorough)
        return false;
    uint32_t slot = (uint32_t)atomic_load_explicit(&event->recorder, memory_order_relaxed);
    return !sim_slot_alive(sim_state, slot,
                           atomic_load_explicit(&event->recorder_status, memory_order_relaxed));
}

void sim_shared_event_wait(struct sim_shared_event *event, uint64_t number) {
    enum { LOOK_NS = 20000000 }; /* how often to see whether the recorder lives */
    for (;;) {
        uint32_t rung = atomic_load_explicit(&event->bell, memory_order_acquire);
        if (sim_shared_event_done(event, number, true))
            return;
        const struct timespec most = {.tv_nsec = LOOK_NS};
        syscall(SYS_futex, &event->bell, FUTEX_WAIT, rung, &most, NULL, 0);
    }
}

/* ---- Handles ------------------------------------------------------------------------------- */

/* What a CUipcEventHandle holds. */
struct content {
    uint32_t magic;
    uint32_t index;
    uint64_t status;
    uint8_t state[16]; /* the node's state that the event is in */
};
#define CONTENT_MAGIC UINT32_C(0x45514c41)
_Static_assert(sizeof(struct content) <= sizeof(CUipcEventHandle), "the content fits a handle");

CUresult CUDAAPI cuIpcGetEventHandle(CUipcEventHandle *handle, CUevent event_handle) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    const struct sim_event *event = sim_event_find(event_handle);
    if (event == NULL || event->shared == NULL || event->imported)
        return CUDA_ERROR_INVALID_HANDLE;
    if (handle == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct content content = {
        .magic = CONTENT_MAGIC,
        .index = (uint32_t)(event->shared - event_at(0)),
        .status = atomic_load_explicit(&event->shared->status, memory_order_relaxed)};
    memcpy(content.state, sim_state->header->id, sizeof content.state);
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &content, sizeof content);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuIpcOpenEventHandle(CUevent *out, CUipcEventHandle handle) {
    struct sim_context *ctx;
    struct content content;
    CUresult result = sim_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    memcpy(&content, &handle, sizeof content);
    if (out == NULL || content.magic != CONTENT_MAGIC || content.index >= EVENTS ||
        memcmp(content.state, sim_state->header->id, sizeof content.state) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    struct sim_shared_event *shared = event_at(content.index);
    /* Acquire: pairs with the claim; the device is seen. */
    if (atomic_load_explicit(&shared->status, memory_order_acquire) != content.status)
        return CUDA_ERROR_INVALID_HANDLE; /* destroyed */
    if (shared->device != ctx->physical)
        return CUDA_ERROR_INVALID_VALUE;
    return sim_event_make(ctx, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING, shared, true, out);
}
