/* Pools of memory that is given in the order of a stream: see shim/pool/pool.h.
 *
 * CANN's pools grow by what is asked of them in whole pages, so that charging that beforehand holds the cap. A
 * runtime whose pools grow by more is found out when one does.
 */
#include "shim.h"

static rtMemPool_t pool_of(uint64_t handle) { return (rtMemPool_t)(uintptr_t)handle; }

static bool tells(uint64_t handle, int attribute, uint64_t *bytes) {
    *bytes = 0;
    rtError_t result;
    ALIQUOT_CALL(result, rtMemPoolGetAttr, (pool_of(handle), attribute, bytes));
    return result == RT_OK;
}
static bool reserved(uint64_t handle, uint64_t *bytes) {
    return tells(handle, RT_MEM_POOL_RESERVED, bytes);
}
static bool used(uint64_t handle, uint64_t *bytes) {
    return tells(handle, RT_MEM_POOL_USED, bytes);
}

static void trim(uint64_t handle) {
    rtError_t ignored;
    ALIQUOT_CALL(ignored, rtMemPoolTrimTo, (pool_of(handle), 0));
    (void)ignored;
}

static int destroy(uint64_t handle) {
    rtError_t result;
    ALIQUOT_CALL(result, rtMemPoolDestroy, (pool_of(handle)));
    return result;
}

const struct aliquot_pool_driver aliquot_pool_driver = {
    .reserved = reserved,
    .used = used,
    .trim = trim,
    .destroy = destroy,
};

/* -- Pieces ----------------------------------------------------------------------------------------------- */

/* The device that a piece of a pool is charged to; -2: to none, and the answer is the runtime's, or `*result` if
 * that is an error. */
static int charged_device(rtMemPool_t handle, rtError_t *result) {
    *result = aliquot_ready();
    if (*result == RT_NO_DEVICE || (*result == RT_OK && !handle)) {
        *result = RT_OK;
        return -2;
    }
    int device = *result == RT_OK ? aliquot_pool_device((uintptr_t)handle) : -2;
    if (device != -1)
        return device;
    /* (One that we did not see made is the thread's device's.) */
    device = -2;
    *result = aliquot_device_ask(&device);
    if (device == -1)
        *result = RT_MEMORY_ALLOCATION;
    return device < 0 ? -2 : device;
}

static rtError_t asked(struct aliquot_pool_request *request, rtMemPool_t pool, int device,
                       uint64_t size) {
    switch (aliquot_pool_ask(request, (uintptr_t)pool, (uint32_t)device, size)) {
    case ALIQUOT_POOL_REFUSED:
        return RT_MEMORY_ALLOCATION;
    case ALIQUOT_POOL_DESTROYED:
        return RT_PARAM_INVALID;
    case ALIQUOT_POOL_ASK:
    default:
        return RT_OK;
    }
}

/* Books the runtime's answer. False: nothing was given after all, and it is to be asked for once more. */
static bool gave(const struct aliquot_pool_request *request, rtError_t result, void **pointer,
                 uint64_t size, rtStream_t stream) {
    rtError_t ignored;
    if (aliquot_pool_gave(request, result == RT_OK ? (uintptr_t)*pointer : 0, size))
        return true;
    ALIQUOT_CALL(ignored, rtMemPoolFreeAsync, (*pointer, stream));
    (void)ignored;
    *pointer = NULL;
    aliquot_pool_took_back(request);
    return false;
}

/* Whether the runtime, which is out of memory, is to be asked once more. */
static bool again(rtError_t result, int device, unsigned *round) {
    return result == RT_MEMORY_ALLOCATION &&
           (device >= 0 ? aliquot_pool_again(round) : aliquot_give_back_due(round));
}

#define TAKE(symbol, parameters, arguments)                                                        \
    rtError_t aliquot_##symbol parameters {                                                        \
        rtError_t result;                                                                          \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        int device = charged_device(pool, &result);                                                \
        if (result != RT_OK)                                                                       \
            return result;                                                                         \
        struct aliquot_pool_request request;                                                       \
        do { /* ends: what is charged beforehand is more each time, and the cap an end of that */  \
            unsigned round = 0;                                                                    \
            if (device >= 0 && (result = asked(&request, pool, device, size)) != RT_OK)            \
                return result;                                                                     \
            do                                                                                     \
                ALIQUOT_CALL(result, symbol, arguments);                                           \
            while (again(result, device, &round));                                                 \
        } while (device >= 0 && !gave(&request, result, pointer, size, stream));                   \
        return result;                                                                             \
    }
TAKE(rtMemPoolMallocAsync,
     (void **pointer, const uint64_t size, const rtMemPool_t pool, const rtStream_t stream),
     (pointer, size, pool, stream))
TAKE(aclrtMemPoolMallocAsyncImpl,
     (void **pointer, size_t size, rtMemPool_t pool, rtStream_t stream),
     (pointer, size, pool, stream))

/* -- Pools themselves ---------------------------------------------------------------------------------------- */

/* A pool is to give memory of that device. RT_OK: go on to the runtime. */
static rtError_t makes(int64_t number, int *device) {
    *device = -2;
    if (number < 0 || aliquot_ready() != RT_OK)
        return RT_OK;
    *device = aliquot_device_index((int32_t)number);
    return *device == -1 ? RT_MEMORY_ALLOCATION : RT_OK;
}

static rtError_t made(rtError_t result, const rtMemPool_t *pool, int device) {
    if (result == RT_OK && device >= 0)
        aliquot_pool_made((uintptr_t)*pool, (uint32_t)device);
    return result;
}

#define CREATE(symbol, type, number)                                                               \
    rtError_t aliquot_##symbol(rtMemPool_t *pool, const type *properties) {                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pool, properties);                                                 \
        int device;                                                                                \
        rtError_t result = makes(properties ? (int64_t)properties->number : -1, &device);          \
        if (result != RT_OK)                                                                       \
            return result;                                                                         \
        ALIQUOT_CALL(result, symbol, (pool, properties));                                          \
        return made(result, pool, device);                                                         \
    }
CREATE(rtMemPoolCreate, rtMemPoolProps, devId)
CREATE(aclrtMemPoolCreateImpl, aclrtMemPoolProps, location.id)

#define TRIM(symbol, type)                                                                         \
    rtError_t aliquot_##symbol(rtMemPool_t pool, type keep) {                                      \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pool, keep);                                                       \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (pool, keep));                                                \
        aliquot_pools_waited();                                                                    \
        return result;                                                                             \
    }
TRIM(rtMemPoolTrimTo, uint64_t)
TRIM(aclrtMemPoolTrimToImpl, size_t)

#define DESTROY(symbol)                                                                            \
    rtError_t aliquot_##symbol(const rtMemPool_t handle) {                                         \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(handle);                                                           \
        int error = RT_OK;                                                                         \
        enum aliquot_pool_end end = ALIQUOT_POOL_NOT_OURS;                                         \
        if (aliquot_prepared())                                                                    \
            end = aliquot_pool_destroy((uintptr_t)handle, &error);                                 \
        rtError_t result = end == ALIQUOT_POOL_GONE ? RT_PARAM_INVALID : error;                    \
        if (end == ALIQUOT_POOL_NOT_OURS)                                                          \
            ALIQUOT_CALL(result, symbol, (handle));                                                \
        return result;                                                                             \
    }
DESTROY(rtMemPoolDestroy)
DESTROY(aclrtMemPoolDestroyImpl)
