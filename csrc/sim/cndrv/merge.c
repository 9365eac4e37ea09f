/* Several allocations that go on as one: only cards before the 300 series can. */
#include "cndrv_sim.h"

#include "../memory.h"

#include <stdlib.h>
#include <string.h>

enum { CANNOT_FROM = 300 };

/* The allocation that begins there, if it has pages of its own, is the context's and is nobody else's. */
static struct extent *whole(CNaddr address, const struct sim_context *context) {
    struct extent *extent = extent_find(address);
    return extent && extent->kind == EXTENT_LINEAR && extent->base == address &&
                   extent->ctx == context && !extent->share.nonce &&
                   /* relaxed: only a claim */
                   !atomic_load_explicit(&extent->freeing, memory_order_relaxed)
               ? extent
               : NULL;
}

/* The pages of all parts, in order. False: no host memory. */
static bool gather(struct sim_frames *frames, struct extent *const *parts, unsigned int count) {
    uint32_t runs = 0;
    for (unsigned int i = 0; i < count; i++)
        runs += parts[i]->frames.run_count;
    *frames =
        (struct sim_frames){.runs = calloc(runs, sizeof(struct sim_frame_run)), .run_room = runs};
    if (!frames->runs)
        return false;
    for (unsigned int i = 0; i < count; i++) {
        const struct sim_frames *part = &parts[i]->frames;
        memcpy(&frames->runs[frames->run_count], sim_frames_runs(part),
               part->run_count * sizeof(struct sim_frame_run));
        frames->run_count += part->run_count;
        frames->frames += part->frames;
    }
    return true;
}

/* The parts' addresses end, and their pages are another's. */
static void dissolve(struct extent *part) {
    if (!part->in_window)
        addresses_release(part->base, part->span);
    sim_frames_forget(&part->frames);
    extent_free(part);
}

static CNresult merge(struct extent **parts, unsigned int count, CNaddr *merged) {
    struct extent *one = extent_new(EXTENT_LINEAR, parts[0]->physical);
    struct sim_frames pages = {0};
    if (!one || !gather(&pages, parts, count)) {
        if (one)
            extent_free(one);
        return CN_ERROR_SYSTEM_OUT_OF_MEMORY;
    }
    one->frames = pages;
    one->ctx = parts[0]->ctx;
    one->id = memory_next_id();
    for (unsigned int i = 0; i < count; i++)
        one->bytes += parts[i]->span;
    /* Of two threads that do something to a part, one wins here. */
    unsigned int taken = 0;
    while (taken < count && extent_withdraw(parts[taken]))
        taken++;
    if (taken == count && extent_place(one, true)) {
        for (unsigned int i = 0; i < count; i++)
            dissolve(parts[i]);
        *merged = one->base;
        return CN_SUCCESS;
    }
    CNresult result = taken < count ? CN_ERROR_INVALID_VALUE : CN_ERROR_SYSTEM_OUT_OF_MEMORY;
    while (taken)
        extent_publish(parts[--taken]);
    sim_frames_forget(&one->frames);
    extent_free(one);
    return result;
}

CNresult cnMemMerge(CNaddr *merged, unsigned int count, const CNaddr *addresses) {
    enum { MOST = 1 << 16 };
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    if (result != CN_SUCCESS)
        return result;
    if (cn_model(sim_device_config(context->dev)) >= CANNOT_FROM)
        return CN_OPS_ERROR_NOT_SUPPORTED;
    if (!merged || !addresses || !count || count > MOST)
        return CN_ERROR_INVALID_VALUE;
    struct extent **parts = calloc(count, sizeof(struct extent *));
    if (!parts)
        return CN_ERROR_SYSTEM_OUT_OF_MEMORY;
    for (unsigned int i = 0; result == CN_SUCCESS && i < count; i++) {
        parts[i] = whole(addresses[i], context);
        if (!parts[i])
            result = CN_ERROR_INVALID_VALUE;
    }
    /* What is done to the parts is done before. */
    if (result == CN_SUCCESS)
        result = cn_error(cuCtxSynchronize());
    if (result == CN_SUCCESS)
        result = merge(parts, count, merged);
    free(parts);
    return result;
}
