/* Pools: see shim/pool/pool.h. */
#include "shim.h"

static CNmemoryPool pool_of(uint64_t handle) { return (CNmemoryPool)(uintptr_t)handle; }

/* A call about a pool, of ours: it must not invalidate a capture of the program, and the driver's own calls in its
 * course are none of ours. */
#define CALL(result, call)                                                                         \
    do {                                                                                           \
        CNqueueCaptureMode mode = aliquot_capture_mode(CN_QUEUE_CAPTURE_MODE_RELAXED);             \
        aliquot_own.depth++;                                                                       \
        (result) = call;                                                                           \
        aliquot_own.depth--;                                                                       \
        aliquot_capture_mode(mode);                                                                \
    } while (0)

static bool tells(uint64_t handle, int attribute, uint64_t *bytes) {
    CNresult result;
    *bytes = 0;
    CALL(result, REAL(cnMemPoolGetAttribute)(pool_of(handle), attribute, bytes));
    return result == CN_SUCCESS;
}
static bool reserved(uint64_t handle, uint64_t *bytes) {
    return tells(handle, CN_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, bytes);
}
static bool used(uint64_t handle, uint64_t *bytes) {
    return tells(handle, CN_MEMPOOL_ATTR_USED_MEM_CURRENT, bytes);
}

static bool keep(uint64_t handle, uint64_t bytes, uint64_t *before) {
    CNresult result;
    if (before && !tells(handle, CN_MEMPOOL_ATTR_RELEASE_THRESHOLD, before))
        return false;
    CALL(result,
         REAL(cnMemPoolSetAttribute)(pool_of(handle), CN_MEMPOOL_ATTR_RELEASE_THRESHOLD, &bytes));
    return result == CN_SUCCESS;
}

static void trim(uint64_t handle) {
    CNresult ignored;
    CALL(ignored, REAL(cnMemPoolTrimTo)(pool_of(handle), 0));
    (void)ignored;
}

static int destroy(uint64_t handle) {
    CNresult result;
    CALL(result, REAL(cnMemPoolDestroy)(pool_of(handle)));
    return (int)result;
}

/* The trial itself: a page of a pool, in a queue of its own: what waits in the program's is not waited for. */
static enum aliquot_trial take_page(CNmemoryPool pool, uint32_t device, uint64_t *step) {
    enum aliquot_trial found = ALIQUOT_TRIAL_NONE;
    CNqueue queue;
    CNaddr address;
    if (REAL(cnCreateQueue)(&queue, 0) != CN_SUCCESS)
        return found;
    CNresult result =
        REAL(cnMemAllocFromPoolAsync)(&address, aliquot_page_bytes(device), pool, queue);
    if (result == CN_SUCCESS) {
        if (reserved((uintptr_t)pool, step))
            found = ALIQUOT_TRIAL_GREW;
        *step = aliquot_whole_pages(device, *step);
        REAL(cnMemFreeAsync)(address, queue);
        REAL(cnQueryQueue)(queue); /* which lets the driver see that it is done */
    } else if (result == CN_MEMORY_ERROR_OUT_OF_MEMORY || result == CN_ERROR_SYSTEM_OUT_OF_MEMORY)
        found = ALIQUOT_TRIAL_REFUSED;
    REAL(cnDestroyQueue)(queue);
    return found;
}

/* See growth.h. */
static enum aliquot_trial try(uint32_t device, uint64_t most, uint64_t *step, uint64_t *kept) {
    CNmemPoolProps properties = {
        .type = CN_MEM_ALLOCATION_TYPE_DEFAULT,
        .location = {CN_MEM_LOCATION_TYPE_DEVICE, (uint32_t)aliquot_mapped_from(device)},
        .maxSize = most,
    };
    enum aliquot_trial found = ALIQUOT_TRIAL_NONE;
    CNmemoryPool pool;
    CNresult result;
    CALL(result, REAL(cnMemPoolCreate)(&pool, &properties));
    if (result != CN_SUCCESS)
        return found;
    CALL(found, take_page(pool, device, step));
    *kept = aliquot_pool_end_trial((uintptr_t)pool, device);
    return found;
}

const struct aliquot_pool_driver aliquot_pool_driver = {
    .reserved = reserved,
    .used = used,
    .trim = trim,
    .destroy = destroy,
    .keep = keep,
    .try = try,
};

/* -- Pieces ------------------------------------------------------------------------------------------- */

/* Whether a device that the driver shows has the pool for its own; the driver's answer, if it has not told. */
static bool is_of(CNmemoryPool handle, CNdev ordinal, CNresult *told) {
    CNmemoryPool pool = NULL;
    CNresult result = CN_SUCCESS;
    if (HAVE(cnDeviceGetDefaultMemPool))
        result = REAL(cnDeviceGetDefaultMemPool)(&pool, ordinal);
    if (pool != handle && HAVE(cnDeviceGetMemPool) && result == CN_SUCCESS)
        result = REAL(cnDeviceGetMemPool)(&pool, ordinal);
    if (result != CN_SUCCESS)
        *told = result;
    return result == CN_SUCCESS && pool == handle;
}

/* The device that a pool is of: a default one's, unless we saw it made. `*found` is -1 where nobody can tell.
 * Errors: the driver's, where it has not told. */
static CNresult device_of(CNmemoryPool handle, int *found) {
    int count = 0;
    CNdev ordinal;
    *found = aliquot_pool_device((uintptr_t)handle);
    CNresult told = *found < 0 ? REAL(cnDeviceGetCount)(&count) : CN_SUCCESS;
    for (int i = 0; *found < 0 && i < count; i++) {
        CNresult result = REAL(cnDeviceGet)(&ordinal, i);
        if (result != CN_SUCCESS)
            told = result;
        else if (is_of(handle, ordinal, &told))
            *found = aliquot_device_index(ordinal);
    }
    return *found < 0 ? told : CN_SUCCESS;
}

/* The pool from which a queue's device allocates; NULL: this driver does not tell. Errors: the driver's. */
static CNresult pool_of_queue(CNqueue queue, CNmemoryPool *pool) {
    CNcontext before = NULL, context = NULL;
    CNdev ordinal;
    CNresult result = CN_SUCCESS;
    *pool = NULL;
    if (!HAVE(cnDeviceGetMemPool))
        return CN_SUCCESS;
    if (queue > CN_QUEUE_TYPE_LEGACY && HAVE(cnQueueGetContext) &&
        REAL(cnQueueGetContext)(queue, &context) == CN_SUCCESS)
        result = REAL(cnCtxGetCurrent)(&before);
    if (result != CN_SUCCESS)
        return result;
    if (before != context)
        result = REAL(cnCtxSetCurrent)(context);
    if (result != CN_SUCCESS)
        return result;
    result = REAL(cnCtxGetDevice)(&ordinal);
    if (before != context)
        REAL(cnCtxSetCurrent)(before);
    return result == CN_SUCCESS ? REAL(cnDeviceGetMemPool)(pool, ordinal) : result;
}

/* What is to be asked, of which pool (NULL: it cannot be told). */
struct wish {
    CNaddr *address;
    size_t bytes;
    CNmemoryPool pool;
    CNqueue queue;
    bool named; /* the pool, by the program */
};

static CNresult ask(const struct wish *wish) {
    aliquot_own.depth++;
    CNresult result = wish->named ? REAL(cnMemAllocFromPoolAsync)(wish->address, wish->bytes,
                                                                  wish->pool, wish->queue)
                                  : REAL(cnMemAllocAsync)(wish->address, wish->bytes, wish->queue);
    aliquot_own.depth--;
    return result;
}

static CNresult allocate(const struct wish *wish) {
    enum { TRIES = 4 }; /* what is charged beforehand is more each time */
    struct aliquot_pool_request request;
    int device;
    CNresult result = aliquot_ready();
    if (result == CN_ERROR_NOT_INITIALIZED || (result == CN_SUCCESS && !wish->pool))
        return ask(wish);
    if (result == CN_SUCCESS)
        result = device_of(wish->pool, &device);
    if (result != CN_SUCCESS)
        return result;
    if (device < 0) {
        /* If the driver knows it: what nobody can charge is not to be had. */
        result = ask(wish);
        if (result == CN_SUCCESS)
            REAL(cnMemFreeAsync)(*wish->address, wish->queue);
        return result == CN_SUCCESS ? CN_MEMORY_ERROR_OUT_OF_MEMORY : result;
    }
    for (int i = 0; i < TRIES; i++) {
        switch (aliquot_pool_ask(&request, (uintptr_t)wish->pool, (uint32_t)device, wish->bytes)) {
        case ALIQUOT_POOL_REFUSED:
            return CN_MEMORY_ERROR_OUT_OF_MEMORY;
        case ALIQUOT_POOL_DESTROYED:
            return CN_ERROR_INVALID_VALUE;
        case ALIQUOT_POOL_ASK:
        default:
            break;
        }
        unsigned round = 0;
        do
            result = ask(wish);
        while (result == CN_MEMORY_ERROR_OUT_OF_MEMORY && aliquot_pool_again(&round));
        if (aliquot_pool_gave(&request, result == CN_SUCCESS ? *wish->address : 0, wish->bytes))
            return result;
        CALL(result, REAL(cnMemFreeAsync)(*wish->address, wish->queue));
        aliquot_pool_took_back(&request);
    }
    return CN_MEMORY_ERROR_OUT_OF_MEMORY;
}

CNresult aliquot_cnMemAllocAsync(CNaddr *address, size_t bytes, CNqueue queue) {
    if (OWN_CALL())
        return REAL(cnMemAllocAsync)(address, bytes, queue);
    CNmemoryPool pool;
    CNresult result = pool_of_queue(queue, &pool);
    return result == CN_SUCCESS ? allocate(&(struct wish){address, bytes, pool, queue, false})
                                : result;
}

CNresult aliquot_cnMemAllocFromPoolAsync(CNaddr *address, size_t bytes, CNmemoryPool pool,
                                         CNqueue queue) {
    if (OWN_CALL())
        return REAL(cnMemAllocFromPoolAsync)(address, bytes, pool, queue);
    return allocate(&(struct wish){address, bytes, pool, queue, true});
}

/* -- Pools themselves --------------------------------------------------------------------------------- */

CNresult aliquot_cnMemPoolCreate(CNmemoryPool *pool, CNmemPoolProps *properties) {
    CNresult result = REAL(cnMemPoolCreate)(pool, properties);
    if (result == CN_SUCCESS && properties && !OWN_CALL() && aliquot_prepared()) {
        int device = aliquot_ordinal_index(properties->location.id);
        if (device >= 0)
            aliquot_pool_made((uintptr_t)*pool, (uint32_t)device);
    }
    return result;
}

CNresult aliquot_cnMemPoolTrimTo(CNmemoryPool handle, size_t keep_bytes) {
    CNresult result = REAL(cnMemPoolTrimTo)(handle, keep_bytes);
    aliquot_pools_waited();
    return result;
}

/* A device that allocates from the pool goes back to its default one. */
static void detach(CNmemoryPool handle) {
    CNmemoryPool pool = NULL;
    int count = 0;
    CNdev device;
    if (!HAVE(cnDeviceGetDefaultMemPool) || !HAVE(cnDeviceSetMemPool) || !HAVE(cnDeviceGetMemPool))
        return;
    REAL(cnDeviceGetCount)(&count);
    for (int i = 0; i < count; i++)
        if (REAL(cnDeviceGet)(&device, i) == CN_SUCCESS &&
            REAL(cnDeviceGetMemPool)(&pool, device) == CN_SUCCESS && pool == handle &&
            REAL(cnDeviceGetDefaultMemPool)(&pool, device) == CN_SUCCESS)
            REAL(cnDeviceSetMemPool)(device, pool);
}

CNresult aliquot_cnMemPoolDestroy(CNmemoryPool handle) {
    int error = CN_SUCCESS;
    enum aliquot_pool_end end = ALIQUOT_POOL_NOT_OURS;
    if (!OWN_CALL() && aliquot_prepared())
        end = aliquot_pool_destroy((uintptr_t)handle, &error);
    if (end == ALIQUOT_POOL_NOT_OURS)
        return REAL(cnMemPoolDestroy)(handle);
    if (end == ALIQUOT_POOL_GONE)
        return CN_ERROR_INVALID_VALUE;
    if (error == CN_SUCCESS)
        detach(handle);
    return (CNresult)error;
}
