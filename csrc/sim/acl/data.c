/* Buffers of the program's as AscendCL hands them about: an address and a size. */
#include "acl_sim.h"

#include <stdlib.h>

struct aclDataBuffer {
    void *data;
    size_t size;
};

aclDataBuffer *aclCreateDataBufferImpl(void *data, size_t size) {
    aclDataBuffer *buffer = malloc(sizeof *buffer);
    if (buffer)
        *buffer = (aclDataBuffer){data, size};
    return buffer;
}

rtError_t aclDestroyDataBufferImpl(const aclDataBuffer *buffer) {
    if (!buffer)
        return RT_PARAM_INVALID;
    free((void *)(uintptr_t)buffer);
    return RT_OK;
}

rtError_t aclUpdateDataBufferImpl(aclDataBuffer *buffer, void *data, size_t size) {
    if (!buffer)
        return RT_PARAM_INVALID;
    *buffer = (aclDataBuffer){data, size};
    return RT_OK;
}

void *aclGetDataBufferAddrImpl(const aclDataBuffer *buffer) { return buffer ? buffer->data : NULL; }

size_t aclGetDataBufferSizeV2Impl(const aclDataBuffer *buffer) { return buffer ? buffer->size : 0; }

uint32_t aclGetDataBufferSizeImpl(const aclDataBuffer *buffer) {
    return (uint32_t)aclGetDataBufferSizeV2Impl(buffer);
}
