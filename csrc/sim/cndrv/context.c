/* Contexts: their own and the one of each device that all share. */
#include "cndrv_sim.h"

static __thread struct sim_cn_object *current;

struct sim_cn_object *sim_cn_current(void) {
    return current ? sim_cn_find(SIM_CN_CONTEXT, current) : NULL;
}

static CNresult make(struct sim_cn_device *device, struct sim_cn_object **context) {
    struct sim_cn_object *made = sim_cn_new(SIM_CN_CONTEXT, NULL);
    if (!made)
        return CN_ERROR_SYSTEM_OUT_OF_MEMORY;
    made->device = device;
    if (!sim_cn_take(device, device->config->context_bytes, &made->frames)) {
        sim_cn_end(made);
        return CN_CONTEXT_ERROR_OUT_OF_RESOURCES;
    }
    *context = made;
    return CN_SUCCESS;
}

static bool lives_in(const struct sim_cn_object *object, const void *context) {
    return object->context == context;
}

static void end(struct sim_cn_object *context) {
    sim_cn_forget_pending(context->device, context);
    sim_cn_memory_end(context);
    sim_cn_sweep(lives_in, context);
    sim_cn_end(context);
}

CNresult cnCtxCreate(CNcontext *context, unsigned int flags, CNdev ordinal) {
    CNresult result = sim_cn_enter();
    struct sim_cn_object *made;
    (void)flags;
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device = sim_cn_device(ordinal);
    if (!context || !device)
        return sim_cn_left(device ? CN_ERROR_INVALID_VALUE : CN_ERROR_INVALID_DEVICE);
    result = make(device, &made);
    if (result == CN_SUCCESS) {
        *context = (CNcontext)(void *)made;
        current = made;
    }
    sim_cn_leave();
    sim_cost_wait(device->config->cost_ns[SIM_COST_CONTEXT_CREATE]);
    return result;
}

CNresult cnCtxDestroy(CNcontext context) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *found = sim_cn_find(SIM_CN_CONTEXT, context);
    if (!found || found == found->device->shared)
        return sim_cn_left(CN_CONTEXT_ERROR_INVALID);
    end(found);
    if (current == found)
        current = NULL;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnCtxGetCurrent(CNcontext *context) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    if (!context)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    *context = (CNcontext)(void *)sim_cn_current();
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnCtxSetCurrent(CNcontext context) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *found = sim_cn_find(SIM_CN_CONTEXT, context);
    if (context && !found)
        return sim_cn_left(CN_CONTEXT_ERROR_INVALID);
    current = found;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnCtxGetDevice(CNdev *device) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *context = sim_cn_current();
    if (!device || !context)
        return sim_cn_left(device ? CN_CONTEXT_ERROR_INVALID : CN_ERROR_INVALID_VALUE);
    *device = (CNdev)(context->device - sim_cn_device(0));
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnCtxSync(void) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *context = sim_cn_current();
    if (!context)
        return sim_cn_left(CN_CONTEXT_ERROR_INVALID);
    struct sim_cn_device *device = context->device;
    sim_cn_wait(device, device->tail_ns);
    sim_cn_trim(device);
    return sim_cn_left(CN_SUCCESS);
}

/* ---- The shared one ------------------------------------------------------------------------------ */

CNresult cnSharedContextGetState(CNdev ordinal, unsigned int *flags, int *state) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_device *device = sim_cn_device(ordinal);
    if (!device || !flags || !state)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    *flags = 0;
    *state = device->shared != NULL;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnSharedContextAcquire(CNcontext *context, CNdev ordinal) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device = sim_cn_device(ordinal);
    if (!device || !context)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    if (!device->shared)
        result = make(device, &device->shared);
    if (result == CN_SUCCESS) {
        device->shared_count++;
        *context = (CNcontext)(void *)device->shared;
    }
    return sim_cn_left(result);
}

static CNresult let_go(CNdev ordinal, bool wholly) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device = sim_cn_device(ordinal);
    if (!device)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    if (!device->shared)
        return sim_cn_left(wholly ? CN_SUCCESS : CN_CONTEXT_ERROR_INVALID);
    device->shared_count = wholly ? 0 : device->shared_count - 1;
    if (!device->shared_count) {
        struct sim_cn_object *gone = device->shared;
        device->shared = NULL;
        end(gone);
    }
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnSharedContextRelease(CNdev ordinal) { return let_go(ordinal, false); }

CNresult cnSharedContextReset(CNdev ordinal) { return let_go(ordinal, true); }
