/* Arguments of kernels that are put together piece by piece: each is where the one before it ends. */
#include "acl_sim.h"

#include <stdlib.h>
#include <string.h>

enum { ROOM = 4096 };
#define MAGIC UINT64_C(0x534752414d2d5153)

struct args {
    uint64_t magic;
    size_t used; /* bytes */
    uint64_t words[ROOM / sizeof(uint64_t)];
};

static struct args *find(const void *handle) {
    struct args *args = (struct args *)(uintptr_t)handle;
    return args && args->magic == MAGIC ? args : NULL;
}

/* Room for another piece, which begins at a multiple of 8; NULL: there is none. */
static void *append(struct args *args, size_t size) {
    size_t at = (args->used + 7) / 8 * 8;
    if (!size || at > ROOM || size > ROOM - at)
        return NULL;
    args->used = at + size;
    return (char *)args->words + at;
}

const void *acl_args_of(const void *handle) {
    const struct args *args = find(handle);
    return args ? args->words : NULL;
}

rtError_t rtCreateLaunchArgs(size_t size, size_t host_size, size_t host_count, void *data,
                             rtLaunchArgsHandle *handle) {
    (void)host_count;
    if (!handle || !data || size > ROOM || host_size > ROOM - size)
        return RT_PARAM_INVALID;
    struct args *args = calloc(1, sizeof *args);
    if (!args)
        return RT_INTERNAL_ERROR;
    args->magic = MAGIC;
    *handle = args;
    return RT_OK;
}

rtError_t rtDestroyLaunchArgs(rtLaunchArgsHandle handle) {
    struct args *args = find(handle);
    if (!args)
        return RT_PARAM_INVALID;
    args->magic = 0;
    free(args);
    return RT_OK;
}

rtError_t rtResetLaunchArgs(rtLaunchArgsHandle handle) {
    struct args *args = find(handle);
    if (!args)
        return RT_PARAM_INVALID;
    args->used = 0;
    return RT_OK;
}

rtError_t rtAppendLaunchAddrInfo(rtLaunchArgsHandle handle, void *address) {
    struct args *args = find(handle);
    void *at = args ? append(args, sizeof address) : NULL;
    if (!at)
        return RT_PARAM_INVALID;
    memcpy(at, &address, sizeof address);
    return RT_OK;
}

rtError_t rtAppendLaunchHostInfo(rtLaunchArgsHandle handle, size_t size, void **at) {
    struct args *args = find(handle);
    return args && at && (*at = append(args, size)) ? RT_OK : RT_PARAM_INVALID;
}

/* Those of the thread's next launch: good until the thread begins others. (Kept when it ends.) */
rtError_t rtsKernelArgsInit(rtFuncHandle function, void **handle) {
    static _Thread_local struct args *next;
    if (!function || !handle)
        return RT_PARAM_INVALID;
    if (!next && !(next = calloc(1, sizeof *next)))
        return RT_INTERNAL_ERROR;
    *next = (struct args){.magic = MAGIC};
    *handle = next;
    return RT_OK;
}

rtError_t rtsKernelArgsAppend(void *handle, void *piece, size_t size, void **place) {
    struct args *args = find(handle);
    void *at = args && piece && place ? append(args, size) : NULL;
    if (!at)
        return RT_PARAM_INVALID;
    memcpy(at, piece, size);
    *place = at;
    return RT_OK;
}

rtError_t rtsKernelArgsFinalize(void *handle) { return find(handle) ? RT_OK : RT_PARAM_INVALID; }
