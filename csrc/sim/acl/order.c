/* Words in memory that streams wait for, and memory of the program's that devices reach. */
#include "acl_sim.h"

/* -- Words ------------------------------------------------------------------------------------------ */

rtError_t rtsValueWrite(const void *const address, const uint64_t value, const uint32_t flag,
                        rtStream_t stream) {
    struct acl_work work = {.kind = ACL_WRITE, .word = {(CUdeviceptr)address, value, 0}};
    return flag ? RT_PARAM_INVALID : acl_submit(&work, stream);
}

/* (Both count the ways to compare alike: at least, equal, some of the bits, not all.) */
rtError_t rtsValueWait(const void *const address, const uint64_t value, const uint32_t flag,
                       rtStream_t stream) {
    struct acl_work work = {.kind = ACL_WAIT, .word = {(CUdeviceptr)address, value, flag}};
    return flag > RT_VALUE_WAIT_NOR ? RT_PARAM_INVALID : acl_submit(&work, stream);
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
