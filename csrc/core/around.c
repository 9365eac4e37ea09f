/* What the limiter is told beside launches: waits, ends of streams, and other kernels under old names.
 * See limiter.h. */
#include "limiter_impl.h"

#include <errno.h>
#include <string.h>

void aliquot_waited(struct aliquot_limiter *limiter) {
    int saved = errno;
    for (uint32_t i = 0; i < limiter->device_count; i++) {
        struct aliquot_flow *flow = &limiter->flow[i];
        if (aliquot_gate_state(gate_word(limiter, i)) < ALIQUOT_GATE_TURN)
            continue;
        aliquot_lock(&flow->lock);
        uint64_t now = now_of(limiter);
        if (flow->mark_count && now - flow->look_ns >= 20 * US)
            aliquot_meter_look(limiter, flow, now);
        aliquot_unlock(&flow->lock);
    }
    errno = saved;
}

static void forget(struct aliquot_limiter *limiter) {
    aliquot_lock(&limiter->state->lock);
    /* release: pairs with the acquire in forget_known. */
    atomic_fetch_add_explicit(&limiter->state->generation, 1, memory_order_release);
    aliquot_unlock(&limiter->state->lock);
    for (uint32_t i = 0; i < limiter->device_count; i++) {
        struct aliquot_flow *flow = &limiter->flow[i];
        aliquot_lock(&flow->lock);
        aliquot_flow_void(limiter, flow, now_of(limiter));
        aliquot_unlock(&flow->lock);
    }
}

void aliquot_limiter_forget_lane(struct aliquot_limiter *limiter, uint64_t lane,
                                 bool (*belongs)(void *context, uint64_t lane), void *context) {
    int saved = errno;
    for (uint32_t i = 0; i < limiter->device_count; i++) {
        struct aliquot_flow *flow = &limiter->flow[i];
        aliquot_lock(&flow->lock);
        for (uint32_t row = 0; row < LANES; row++) {
            uint64_t key = flow->lanes[row].key;
            if (key && (lane ? key == lane : belongs(context, key)))
                flow->lanes[row] = (struct lane){0};
        }
        aliquot_unlock(&flow->lock);
    }
    aliquot_lock(&limiter->state->lock);
    for (uint32_t i = 0; i < LEARNED; i++) {
        struct learned *learned = &limiter->state->learned[i];
        if (learned->ns && (lane ? learned->lane == lane : belongs(context, learned->lane)))
            *learned = (struct learned){0};
    }
    aliquot_unlock(&limiter->state->lock);
    forget(limiter);
    errno = saved;
}

void aliquot_limiter_forget_known(struct aliquot_limiter *limiter) {
    int saved = errno;
    aliquot_lock(&limiter->state->lock);
    memset(limiter->state->learned, 0, sizeof limiter->state->learned);
    aliquot_unlock(&limiter->state->lock);
    forget(limiter);
    errno = saved;
}

void aliquot_limiter_forget_what(struct aliquot_limiter *limiter, uint64_t what) {
    int saved = errno;
    aliquot_lock(&limiter->state->lock);
    for (uint32_t i = 0; i < LEARNED; i++)
        if (limiter->state->learned[i].what == what)
            limiter->state->learned[i] = (struct learned){0};
    /* Threads forget when they come for another part: until then a part is at stake.
     * release: pairs with the acquire in forget_known. */
    atomic_fetch_add_explicit(&limiter->state->generation, 1, memory_order_release);
    aliquot_unlock(&limiter->state->lock);
    errno = saved;
}
