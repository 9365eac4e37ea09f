/* Words in memory that streams write and wait for, and memory of the program's that devices reach. */
#include "acl_sim.h"

static rtError_t word(enum acl_kind kind, const void *at, uint64_t value, uint32_t how,
                      rtStream_t stream) {
    const struct acl_work work = {.kind = kind, .word = {(uintptr_t)at, value, how}};
    return acl_submit(&work, stream);
}

rtError_t rtsValueWrite(const void *const at, const uint64_t value, const uint32_t flag,
                        rtStream_t stream) {
    return !at || flag ? RT_PARAM_INVALID : word(ACL_WRITE, at, value, 0, stream);
}

rtError_t rtsValueWait(const void *const at, const uint64_t value, const uint32_t flag,
                       rtStream_t stream) {
    return !at || flag > RT_VALUE_WAIT_NOR ? RT_PARAM_INVALID
                                           : word(ACL_WAIT, at, value, flag, stream);
}

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
