/* Linear memory shared with other processes by names: see shim/memory/shared.h. */
#include "shim.h"

#include "shim/memory/shared.h"

#include <string.h>

/* Names opened here, to the addresses that they were opened at: what closes may know either. */
static struct aliquot_table opened;

/* A name is a text that the exporter was given; it is the same in every process. */
static uint64_t key_of(const char *name) {
    return name ? aliquot_shared_key(name, strnlen(name, RT_IPC_NAME_BYTES)) : 0;
}

/* The first byte of the allocation that the pointer lies in, as far as the runtime tells. */
static uint64_t base_of(const void *pointer) {
    uint64_t value;
    void *base = NULL;
    size_t bytes;
    rtError_t result = RT_FEATURE_NOT_SUPPORT;
    if (!aliquot_pointer_get(&aliquot_pointers, (uintptr_t)pointer, &value) &&
        HAS(rtMemGetAddressRange))
        ALIQUOT_CALL(result, rtMemGetAddressRange, ((void *)(uintptr_t)pointer, &base, &bytes));
    return result == RT_OK ? (uintptr_t)base : (uintptr_t)pointer;
}

#define EXPORT(symbol, parameters, arguments)                                                      \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        if (result == RT_OK && aliquot_ready() == RT_OK)                                           \
            aliquot_shared_export(base_of(pointer), key_of(name));                                 \
        return result;                                                                             \
    }
EXPORT(rtIpcSetMemoryName, (const void *pointer, uint64_t size, char *name, uint32_t room),
       (pointer, size, name, room))
EXPORT(rtsIpcMemGetExportKey,
       (const void *pointer, size_t size, char *name, uint32_t room, uint64_t flags),
       (pointer, size, name, room, flags))
EXPORT(aclrtIpcMemGetExportKeyImpl,
       (void *pointer, size_t size, char *name, size_t room, uint64_t flags),
       (pointer, size, name, room, flags))

/* Memory that the slice does not know, where it may be the slice's all the same. False: there is no room
 * for it, or nobody can tell how much there must be. */
static bool charge_unknown(uint32_t device, void *pointer) {
    void *base;
    size_t bytes;
    rtError_t result = RT_FEATURE_NOT_SUPPORT;
    if (HAS(rtMemGetAddressRange))
        ALIQUOT_CALL(result, rtMemGetAddressRange, (pointer, &base, &bytes));
    return result == RT_OK &&
           aliquot_shared_charge((uintptr_t)pointer, device, aliquot_whole_pages(device, bytes),
                                 (uint16_t)device);
}

/* The runtime has or has not opened it, for the thread's device. Answers what the program is told. */
static rtError_t finish(rtError_t result, uint64_t name, uint64_t key, void *const *pointer) {
    if (!name)
        return result;
    int device = aliquot_device_current();
    uint64_t at = result == RT_OK ? (uintptr_t)*pointer : 0;
    if (key)
        aliquot_shared_opened(key, at, device < 0 ? UINT16_MAX : (uint16_t)device);
    else if (at && device >= 0 && aliquot_hold_doubtful() &&
             !charge_unknown((uint32_t)device, *pointer)) {
        ALIQUOT_CALL(result, rtIpcCloseMemory, (*pointer));
        return RT_MEMORY_ALLOCATION;
    }
    if (at)
        aliquot_table_put(&opened, name, at);
    return result;
}

#define OPEN(symbol, parameters, arguments)                                                        \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        uint64_t of = aliquot_ready() == RT_OK ? key_of(name) : 0;                                 \
        uint64_t key = of ? aliquot_shared_open(of) : 0;                                           \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, arguments);                                                   \
        return finish(result, of, key, pointer);                                                   \
    }
OPEN(rtIpcOpenMemory, (void **pointer, const char *name), (pointer, name))
OPEN(rtsIpcMemImportByKey, (void **pointer, const char *name, uint64_t flags),
     (pointer, name, flags))
OPEN(aclrtIpcMemImportByKeyImpl, (void **pointer, const char *name, uint64_t flags),
     (pointer, name, flags))

rtError_t aliquot_rtIpcCloseMemory(const void *pointer) {
    if (aliquot_is_inner())
        return REAL(rtIpcCloseMemory)(pointer);
    struct aliquot_shared_closing closing = {.key = 0};
    rtError_t result;
    if (aliquot_ready() == RT_OK)
        closing = aliquot_shared_close((uintptr_t)pointer);
    ALIQUOT_CALL(result, rtIpcCloseMemory, (pointer));
    aliquot_shared_closed(&closing, result == RT_OK);
    return result;
}

/* By its name: an importer's opening is closed; an exporter's memory stays what it was, and what holds it
 * elsewhere goes on. */
#define CLOSE(symbol)                                                                              \
    rtError_t aliquot_##symbol(const char *name) {                                                 \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(name);                                                             \
        struct aliquot_shared_closing closing = {.key = 0};                                        \
        uint64_t at;                                                                               \
        rtError_t result;                                                                          \
        if (name && aliquot_ready() == RT_OK && aliquot_table_get(&opened, key_of(name), &at))     \
            closing = aliquot_shared_close(at);                                                    \
        ALIQUOT_CALL(result, symbol, (name));                                                      \
        aliquot_shared_closed(&closing, result == RT_OK);                                          \
        return result;                                                                             \
    }
CLOSE(rtsIpcMemClose)
CLOSE(aclrtIpcMemCloseImpl)

void aliquot_ipc_forget(void) {
    aliquot_table_reset(&opened);
    aliquot_shared_forget();
}
