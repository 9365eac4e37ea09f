/* Copies and memsets, and reductions: those take a kernel's time and compute nothing. */
#include "acl_sim.h"

rtError_t rtMemcpy(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind) {
    (void)kind;
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    return size > room ? RT_PARAM_INVALID
                       : acl_error(cuMemcpy((CUdeviceptr)to, (CUdeviceptr)from, size));
}

rtError_t rtMemcpyAsync(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                        rtStream_t stream) {
    (void)kind;
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (size > room)
        return RT_PARAM_INVALID;
    struct acl_work work = {.kind = ACL_COPY, .copy = {(CUdeviceptr)to, (CUdeviceptr)from, size}};
    return acl_submit(&work, stream);
}

static rtError_t fill(void *pointer, uint32_t value, uint64_t size, bool words, rtStream_t stream) {
    struct acl_work work = {.kind = ACL_FILL, .fill = {(CUdeviceptr)pointer, value, words, size}};
    return acl_submit(&work, stream);
}

rtError_t rtMemset(void *pointer, uint64_t room, uint32_t value, uint64_t size) {
    rtError_t result = rtMemsetAsync(pointer, room, value, size, NULL);
    return result == RT_OK ? rtStreamSynchronize(NULL) : result; /* done when it returns */
}

rtError_t rtMemsetAsync(void *pointer, uint64_t room, uint32_t value, uint64_t size,
                        rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (size > room)
        return RT_PARAM_INVALID;
    return fill(pointer, value, size, false, stream);
}

rtError_t rtsMemset(void *pointer, uint64_t room, uint32_t value, uint64_t size) {
    return rtMemset(pointer, room, value, size);
}

rtError_t rtsMemsetAsync(void *pointer, uint64_t room, uint32_t value, uint64_t size,
                         rtStream_t stream) {
    return rtMemsetAsync(pointer, room, value, size, stream);
}

rtError_t rtsMemcpyAsync(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                         void *config, rtStream_t stream) {
    return config ? RT_PARAM_INVALID : rtMemcpyAsync(to, room, from, size, kind, stream);
}

/* Words of 32 bits: `room` is in bytes. */
rtError_t rtMemsetD32Async(void *pointer, uint64_t room, uint32_t value, uint64_t count,
                           rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (count > room / 4 || !pointer || (uintptr_t)pointer % 4)
        return RT_PARAM_INVALID;
    return fill(pointer, value, count * 4, true, stream);
}

rtError_t rtMemsetD32(void *pointer, uint64_t room, uint32_t value, uint64_t count) {
    rtError_t result = rtMemsetD32Async(pointer, room, value, count, NULL);
    return result == RT_OK ? rtStreamSynchronize(NULL) : result;
}

/* -- The same with more said of how, which makes no difference here ------------------------------- */

rtError_t rtMemcpyAsyncEx(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                          rtStream_t stream, void *config) {
    (void)config;
    return rtMemcpyAsync(to, room, from, size, kind, stream);
}

rtError_t rtMemcpyAsyncWithCfg(void *to, uint64_t room, const void *from, uint64_t size,
                               uint32_t kind, rtStream_t stream, uint32_t config) {
    (void)config;
    return rtMemcpyAsync(to, room, from, size, kind, stream);
}

rtError_t rtMemcpyAsyncWithCfgV2(void *to, uint64_t room, const void *from, uint64_t size,
                                 uint32_t kind, rtStream_t stream, const void *config) {
    (void)config;
    return rtMemcpyAsync(to, room, from, size, kind, stream);
}

/* -- Rows, and many at once -------------------------------------------------------------------------- */

rtError_t rtMemcpy2dAsync(void *to, uint64_t to_pitch, const void *from, uint64_t from_pitch,
                          uint64_t width, uint64_t height, uint32_t kind, rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    (void)kind;
    if (result != RT_OK)
        return result;
    if (!to || !from || !width || !height || to_pitch < width || from_pitch < width)
        return RT_PARAM_INVALID;
    for (uint64_t row = 0; row < height && result == RT_OK; row++) {
        const struct acl_work work = {.kind = ACL_COPY,
                                      .copy = {(CUdeviceptr)to + row * to_pitch,
                                               (CUdeviceptr)from + row * from_pitch, width}};
        result = acl_submit(&work, stream);
    }
    return result;
}

rtError_t rtsMemcpy2DAsync(void *rows, void *config, rtStream_t stream) {
    const struct {
        void *to, *from;
        uint64_t to_pitch, from_pitch, width, height;
        uint32_t kind;
    } *wanted = rows;
    if (!wanted || config)
        return RT_PARAM_INVALID;
    return rtMemcpy2dAsync(wanted->to, wanted->to_pitch, wanted->from, wanted->from_pitch,
                           wanted->width, wanted->height, wanted->kind, stream);
}

rtError_t rtsMemcpyBatchAsync(void **to, size_t *rooms, void **from, size_t *sizes, size_t count,
                              void *attributes, size_t *places, size_t attribute_count,
                              size_t *failed, rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    if (failed)
        *failed = SIZE_MAX;
    if (result != RT_OK)
        return result;
    if (!to || !rooms || !from || !sizes || !count || !attributes || !places || !attribute_count)
        return RT_PARAM_INVALID;
    for (size_t i = 0; i < count && result == RT_OK; i++) {
        result = rtMemcpyAsync(to[i], rooms[i], from[i], sizes[i], 0, stream);
        if (result != RT_OK && failed)
            *failed = i;
    }
    return result;
}

/* -- From where words of the device's memory say ------------------------------------------------------ */

static rtError_t indirect(const struct acl_indirect *copy, uint64_t room, rtStream_t stream) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!copy->to || !copy->from || copy->size > room)
        return RT_PARAM_INVALID;
    const struct acl_work work = {.kind = ACL_INDIRECT, .indirect = *copy};
    return acl_submit(&work, stream);
}

/* As the device reads it. */
struct description {
    uint32_t reserved[3], size;
    uint64_t from, to;
};

rtError_t rtMemcpyAsyncPtrV2(void *entry, uint64_t room, uint64_t size, uint32_t kind,
                             rtStream_t stream, const void *config) {
    const struct description *description = entry;
    (void)kind;
    (void)config;
    if (!description)
        return RT_PARAM_INVALID;
    return indirect(
        &(struct acl_indirect){.to = &description->to, .from = &description->from, .size = size},
        room, stream);
}

rtError_t rtMemcpyAsyncPtr(void *entry, uint64_t room, uint64_t size, uint32_t kind,
                           rtStream_t stream, uint32_t config) {
    (void)config;
    return rtMemcpyAsyncPtrV2(entry, room, size, kind, stream, NULL);
}

rtError_t rtMemcpyD2DAddrAsync(void *to, uint64_t room, uint64_t to_offset, const void *from,
                               uint64_t size, uint64_t from_offset, rtStream_t stream) {
    return indirect(&(struct acl_indirect){.to = to,
                                           .from = from,
                                           .to_offset = to_offset,
                                           .from_offset = from_offset,
                                           .size = size},
                    room, stream);
}

rtError_t rtMemcpyAsyncWithOffset(void **to, uint64_t room, uint64_t to_offset, const void **from,
                                  uint64_t size, uint64_t from_offset, uint32_t kind,
                                  rtStream_t stream) {
    enum { WITHIN_DEVICES = 6 };
    if (kind != WITHIN_DEVICES)
        return RT_PARAM_INVALID;
    return size ? rtMemcpyD2DAddrAsync((void *)to, room, to_offset, (const void *)from, size,
                                       from_offset, stream)
                : RT_OK;
}

rtError_t rtsGetMemcpyDescSize(uint32_t kind, size_t *size) {
    (void)kind;
    if (!size)
        return RT_PARAM_INVALID;
    *size = sizeof(struct description);
    return RT_OK;
}

rtError_t rtsSetMemcpyDesc(void *at, uint32_t kind, void *from, void *to, size_t size,
                           void *config) {
    (void)kind;
    if (!at || !from || !to || !size || size > UINT32_MAX || config)
        return RT_PARAM_INVALID;
    const struct description made = {
        .size = (uint32_t)size, .from = (uintptr_t)from, .to = (uintptr_t)to};
    return rtMemcpy(at, sizeof made, &made, sizeof made, 1);
}

rtError_t rtsMemcpyAsyncWithDesc(void *at, uint32_t kind, void *config, rtStream_t stream) {
    const struct description *description = at;
    (void)kind;
    if (!description || config)
        return RT_PARAM_INVALID;
    return indirect(&(struct acl_indirect){.to = &description->to,
                                           .from = &description->from,
                                           .size_at = &description->size},
                    0, stream);
}

/* -- Reductions ----------------------------------------------------------------------------------------- */

enum { FIRST_REDUCTION = 10, LAST_REDUCTION = 13 };

static rtError_t reduce(const void *to, uint64_t room, const void *from, uint64_t size,
                        uint32_t kind, rtStream_t stream) {
    if (!to || !from || !size || size > room || kind < FIRST_REDUCTION || kind > LAST_REDUCTION)
        return RT_PARAM_INVALID;
    return acl_launch_named("reduce", 1, NULL, stream);
}

rtError_t rtReduceAsync(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                        uint32_t type, rtStream_t stream) {
    (void)type;
    return reduce(to, room, from, size, kind, stream);
}

rtError_t rtReduceAsyncWithCfg(void *to, uint64_t room, const void *from, uint64_t size,
                               uint32_t kind, uint32_t type, rtStream_t stream, uint32_t config) {
    (void)type;
    (void)config;
    return reduce(to, room, from, size, kind, stream);
}

rtError_t rtReduceAsyncWithCfgV2(void *to, uint64_t room, const void *from, uint64_t size,
                                 uint32_t kind, uint32_t type, rtStream_t stream,
                                 const void *config) {
    (void)type;
    (void)config;
    return reduce(to, room, from, size, kind, stream);
}

rtError_t rtReduceAsyncV2(void *to, uint64_t room, const void *from, uint64_t size, uint32_t kind,
                          uint32_t type, rtStream_t stream, void *overflow) {
    (void)type;
    return overflow ? reduce(to, room, from, size, kind, stream) : RT_PARAM_INVALID;
}
