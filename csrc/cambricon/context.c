/* Contexts: what they cost, which device they are on, and when they and all they hold are gone. */
#include "shim.h"

#include "shim/memory/shared.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

/* Contexts alive at once that are told apart; memory of more is released call by call only. */
#define CONTEXTS 1024u

/* What the driver says when the device has no memory for a context. */
#define NO_ROOM CN_CONTEXT_ERROR_OUT_OF_RESOURCES

/* Of everything here. Held over the driver's calls that make or end the shared context of a device,
 * so that only what makes it is charged. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct aliquot_context contexts[CONTEXTS]; /* [0] is never used */
static struct aliquot_table handles;              /* CNcontext to index */

/* How many have gone. The calling thread has where it found the last one that it looked for, and how many had
 * then (aliquot_own). Both are 0 at first, and [0] is nobody's. */
static _Atomic uint32_t generation;
static_assert(CONTEXTS <= UINT16_MAX, "a thread keeps a context's place");

/* Under the mutex. Enters a context that was charged `base`; NULL when full. */
static const struct aliquot_context *enter(CNcontext handle, CNdev ordinal, bool shared,
                                           uint64_t base) {
    for (uint16_t i = 1; i < CONTEXTS; i++)
        if (!contexts[i].handle) {
            contexts[i] = (struct aliquot_context){.handle = handle,
                                                   .ordinal = ordinal,
                                                   .device = aliquot_device_index(ordinal),
                                                   .index = i,
                                                   .shared = shared,
                                                   .base = base};
            aliquot_table_put(&handles, (uintptr_t)handle, i);
            return &contexts[i];
        }
    return NULL;
}

/* Under the mutex: the context has ended, and with it all that lived in it. */
static void gone(uint64_t index) {
    struct aliquot_context *of = &contexts[index];
    aliquot_allocations_context_gone(ALIQUOT_LINEAR, (uint16_t)index);
    aliquot_modules_context_gone((uint16_t)index);
    aliquot_shared_owner_gone((uint16_t)index);
    if (of->device >= 0)
        aliquot_withdraw((uint32_t)of->device, of->base);
    aliquot_table_take(&handles, (uintptr_t)of->handle, &index);
    memset(of, 0, sizeof *of);
    /* release: pairs with the acquire in aliquot_context_of. */
    atomic_fetch_add_explicit(&generation, 1, memory_order_release);
}

/* A context takes no place of ours: without one it is as if it were of no slice. */
static const struct aliquot_context unknown = {.device = -1};

/* Of a context that is current, in a process that is attached. */
static CNresult find(CNcontext handle, const struct aliquot_context **found) {
    uint64_t index;
    CNdev ordinal;
    /* acquire: pairs with the release in gone(). */
    uint32_t now = atomic_load_explicit(&generation, memory_order_acquire);
    if (__builtin_expect(
            contexts[aliquot_own.context].handle == handle && aliquot_own.generation == now, 1)) {
        *found = &contexts[aliquot_own.context];
        return CN_SUCCESS;
    }
    if (__builtin_expect(aliquot_table_get(&handles, (uintptr_t)handle, &index), 1)) {
        aliquot_own.generation = now;
        aliquot_own.context = (uint16_t)index;
        *found = &contexts[index];
        return CN_SUCCESS;
    }
    CNresult result = REAL(cnCtxGetDevice)(&ordinal);
    if (result != CN_SUCCESS)
        return result;
    pthread_mutex_lock(&mutex);
    if (aliquot_table_get(&handles, (uintptr_t)handle, &index))
        *found = &contexts[index];
    else {
        /* It was made before we were there, or behind our back: it is there, so it is charged. */
        int device = aliquot_device_index(ordinal);
        uint64_t base =
            device < 0 ? 0
                       : aliquot_whole_pages((uint32_t)device,
                                             aliquot_slice.grant->device[device].context_bytes);
        *found = enter(handle, ordinal, false, base);
        if (*found && device >= 0)
            aliquot_charge_given((uint32_t)device, base);
    }
    pthread_mutex_unlock(&mutex);
    *found = *found ? *found : &unknown;
    return CN_SUCCESS;
}

CNresult aliquot_context_ask(const struct aliquot_context **found) {
    CNcontext handle = NULL;
    *found = NULL;
    CNresult result = aliquot_ready();
    if (result == CN_SUCCESS)
        result = REAL(cnCtxGetCurrent)(&handle);
    if (result != CN_SUCCESS || !handle)
        return result == CN_ERROR_NOT_INITIALIZED ? CN_SUCCESS : result;
    return find(handle, found);
}

const struct aliquot_context *aliquot_context_of(CNcontext handle) {
    const struct aliquot_context *found = NULL;
    if (handle && aliquot_ready() == CN_SUCCESS)
        find(handle, &found);
    return found;
}

const struct aliquot_context *aliquot_context_current(void) {
    const struct aliquot_context *found;
    aliquot_context_ask(&found);
    return found;
}

/* What a context on the device costs, charged. `*base` is 0 where the device is none of the slice: the
 * driver decides, and memory there is refused; or where the driver is not initialised. Errors: NO_ROOM; why
 * the process is not ready. */
static CNresult charge(CNdev ordinal, uint64_t *base) {
    CNresult result = aliquot_ready();
    *base = 0;
    if (result != CN_SUCCESS)
        return result == CN_ERROR_NOT_INITIALIZED ? CN_SUCCESS : result;
    int device = aliquot_device_index(ordinal);
    if (device < 0)
        return CN_SUCCESS;
    *base =
        aliquot_whole_pages((uint32_t)device, aliquot_slice.grant->device[device].context_bytes);
    return aliquot_charge((uint32_t)device, *base) ? CN_SUCCESS : NO_ROOM;
}

static void give_back(CNdev ordinal, uint64_t base) {
    if (base)
        aliquot_withdraw((uint32_t)aliquot_device_index(ordinal), base);
}

CNresult aliquot_cnCtxCreate(CNcontext *context, unsigned int flags, CNdev ordinal) {
    CNresult result;
    uint64_t base;
    if (OWN_CALL())
        return REAL(cnCtxCreate)(context, flags, ordinal);
    result = charge(ordinal, &base);
    if (result != CN_SUCCESS)
        return result;
    ALIQUOT_CALL_AGAIN_ON(NO_ROOM, result, REAL(cnCtxCreate)(context, flags, ordinal));
    if (result != CN_SUCCESS) {
        give_back(ordinal, base);
        return result;
    }
    if (aliquot_ready() == CN_SUCCESS) {
        pthread_mutex_lock(&mutex);
        enter(*context, ordinal, false, base);
        pthread_mutex_unlock(&mutex);
    }
    return result;
}

CNresult aliquot_cnCtxDestroy(CNcontext context) {
    uint64_t index;
    if (aliquot_ready() != CN_SUCCESS)
        return REAL(cnCtxDestroy)(context);
    aliquot_marks_context_leaves(context);
    pthread_mutex_lock(&mutex);
    CNresult result = REAL(cnCtxDestroy)(context);
    if (result == CN_SUCCESS && context && aliquot_table_get(&handles, (uintptr_t)context, &index))
        gone(index);
    pthread_mutex_unlock(&mutex);
    aliquot_marks_context_left(context, result == CN_SUCCESS);
    return result;
}

/* -- The shared context of a device ------------------------------------------------------------------ */

/* `otherwise`: what is taken for true where the driver does not tell. */
static bool shared_active(CNdev ordinal, bool otherwise) {
    unsigned int flags;
    int state = 0;
    return HAVE(cnSharedContextGetState) &&
                   REAL(cnSharedContextGetState)(ordinal, &flags, &state) == CN_SUCCESS
               ? state
               : otherwise;
}

/* Under the mutex: the place of a device's shared context, 0: there is none. */
static uint64_t shared_of(CNdev ordinal) {
    for (uint64_t i = 1; i < CONTEXTS; i++)
        if (contexts[i].shared && contexts[i].ordinal == ordinal)
            return i;
    return 0;
}

CNresult aliquot_cnSharedContextAcquire(CNcontext *context, CNdev ordinal) {
    CNresult result;
    uint64_t base, index;
    if (OWN_CALL())
        return REAL(cnSharedContextAcquire)(context, ordinal);
    /* Room is found first, since finding it may take the mutex. */
    result = charge(ordinal, &base);
    if (result != CN_SUCCESS && (result != NO_ROOM || !shared_active(ordinal, false)))
        return result;
    if (result != CN_SUCCESS)
        base = 0;
    pthread_mutex_lock(&mutex);
    ALIQUOT_CALL_AGAIN_ON(NO_ROOM, result, REAL(cnSharedContextAcquire)(context, ordinal));
    bool fresh = result == CN_SUCCESS && aliquot_prepared() &&
                 !aliquot_table_get(&handles, (uintptr_t)*context, &index);
    if (fresh && (index = shared_of(ordinal)))
        gone(index); /* whose end was not told */
    if (fresh)
        enter(*context, ordinal, true, base);
    else
        give_back(ordinal, base);
    pthread_mutex_unlock(&mutex);
    return result;
}

static CNresult shared_leaves(CNdev ordinal, CNresult (*leave)(CNdev), bool reset) {
    if (aliquot_ready() != CN_SUCCESS)
        return leave(ordinal);
    CNcontext handle = NULL;
    uint64_t index = 0;
    pthread_mutex_lock(&mutex);
    index = shared_of(ordinal);
    handle = contexts[index].handle;
    aliquot_marks_context_leaves(handle);
    CNresult result = leave(ordinal);
    bool ended = index && result == CN_SUCCESS && !shared_active(ordinal, !reset);
    if (ended)
        gone(index);
    pthread_mutex_unlock(&mutex);
    aliquot_marks_context_left(handle, ended);
    return result;
}

CNresult aliquot_cnSharedContextRelease(CNdev ordinal) {
    return shared_leaves(ordinal, REAL(cnSharedContextRelease), false);
}

CNresult aliquot_cnSharedContextReset(CNdev ordinal) {
    return shared_leaves(ordinal, REAL(cnSharedContextReset), true);
}

void aliquot_context_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    memset(contexts, 0, sizeof contexts);
    aliquot_table_reset(&handles);
}
