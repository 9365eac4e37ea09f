/* What streams wait for beside events: words in memory, notifies, and functions of the host. And memory of
 * the program's that devices reach. */
#include "acl_sim.h"

static rtError_t enter(rtStream_t stream, CUstream *in) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_stream(stream, in) : result;
}

rtError_t rtsLaunchHostFunc(rtStream_t stream, rtCallback_t function, void *argument) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    return result == RT_OK ? acl_error(cuLaunchHostFunc(in, function, argument)) : result;
}

/* -- Words ------------------------------------------------------------------------------------------ */

rtError_t rtsValueWrite(const void *const address, const uint64_t value, const uint32_t flag,
                        rtStream_t stream) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    if (result != RT_OK)
        return result;
    return flag ? RT_PARAM_INVALID
                : acl_error(cuStreamWriteValue64(in, (uintptr_t)address, value, 0));
}

/* (Both count the ways to compare alike: at least, equal, some of the bits, not all.) */
rtError_t rtsValueWait(const void *const address, const uint64_t value, const uint32_t flag,
                       rtStream_t stream) {
    CUstream in;
    rtError_t result = enter(stream, &in);
    if (result != RT_OK)
        return result;
    return flag > RT_VALUE_WAIT_NOR
               ? RT_PARAM_INVALID
               : acl_error(cuStreamWaitValue64(in, (uintptr_t)address, value, flag));
}

/* -- Notifies: a word each, in memory of the host that every device reaches ------------------------ */

rtError_t rtsNotifyCreate(rtNotify_t *notify, uint64_t flag) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK || !notify || flag)
        return result == RT_OK ? RT_PARAM_INVALID : result;
    void *word;
    result = acl_error(cuMemHostAlloc(&word, sizeof(uint64_t),
                                      CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP));
    if (result == RT_OK) {
        *(uint64_t *)word = 0;
        *notify = word;
    }
    return result;
}

rtError_t rtsNotifyDestroy(rtNotify_t notify) {
    rtError_t result = acl_enter(NULL);
    if (result == RT_OK && !notify)
        result = RT_PARAM_INVALID;
    return result == RT_OK ? acl_error(cuMemFreeHost(notify)) : result;
}

rtError_t rtsNotifyRecord(rtNotify_t notify, rtStream_t stream) {
    return notify ? rtsValueWrite(notify, 1, 0, stream) : RT_PARAM_INVALID;
}

/* (What runs out while a stream waits ends no work of the simulator.) */
rtError_t rtsNotifyWaitAndReset(rtNotify_t notify, rtStream_t stream, uint32_t timeout) {
    (void)timeout;
    rtError_t result =
        notify ? rtsValueWait(notify, 1, RT_VALUE_WAIT_EQ, stream) : RT_PARAM_INVALID;
    return result == RT_OK ? rtsValueWrite(notify, 0, 0, stream) : result;
}

/* -- Memory of the host ------------------------------------------------------------------------------- */

rtError_t rtsHostRegister(void *pointer, uint64_t size, uint32_t kind, void **mapped) {
    rtError_t result = acl_enter(NULL);
    CUdeviceptr found = 0;
    if (result == RT_OK && (!mapped || kind))
        result = RT_PARAM_INVALID;
    if (result == RT_OK)
        result = acl_error(cuMemHostRegister_v2(
            pointer, size, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
    if (result == RT_OK)
        result = acl_error(cuMemHostGetDevicePointer_v2(&found, pointer, 0));
    if (result == RT_OK)
        *mapped = (void *)(uintptr_t)found;
    return result;
}

rtError_t rtsHostUnregister(void *pointer) {
    rtError_t result = acl_enter(NULL);
    return result == RT_OK ? acl_error(cuMemHostUnregister(pointer)) : result;
}
