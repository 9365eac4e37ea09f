/* Linear memory shared with other processes: see shim/memory/shared.h. */
#include "shim.h"

#include "shim/memory/shared.h"

/* A handle is the same value in every process. */
static uint64_t key_of(CNIpcMemHandle handle) { return aliquot_shared_key(&handle, sizeof handle); }

CNresult aliquot_cnIpcGetMemHandle(CNIpcMemHandle *handle, CNaddr address) {
    CNresult result = REAL(cnIpcGetMemHandle)(handle, address);
    CNaddr base;
    uint64_t bytes;
    if (result == CN_SUCCESS && aliquot_ready() == CN_SUCCESS && HAVE(cnMemGetAddressRange) &&
        REAL(cnMemGetAddressRange)(&base, &bytes, address) == CN_SUCCESS)
        aliquot_shared_export(base, key_of(*handle));
    return result;
}

/* Memory that the slice does not know, where it may be the slice's all the same. */
static CNresult charge_unknown(const struct aliquot_context *context, CNaddr address) {
    CNaddr base;
    uint64_t bytes;
    if (!HAVE(cnMemGetAddressRange))
        return CN_SUCCESS;
    CNresult result = REAL(cnMemGetAddressRange)(&base, &bytes, address);
    uint32_t device = (uint32_t)context->device;
    if (result == CN_SUCCESS &&
        !aliquot_shared_charge(address, device, aliquot_whole_pages(device, bytes), context->index))
        result = CN_MEMORY_ERROR_OUT_OF_MEMORY;
    if (result != CN_SUCCESS)
        REAL(cnIpcCloseMemHandle)(address);
    return result;
}

CNresult aliquot_cnIpcOpenMemHandle(CNaddr *address, CNIpcMemHandle handle, unsigned int flags) {
    uint64_t key = aliquot_ready() == CN_SUCCESS ? aliquot_shared_open(key_of(handle)) : 0;
    CNresult result = REAL(cnIpcOpenMemHandle)(address, handle, flags);
    const struct aliquot_context *context = aliquot_context_current();
    if (key || result != CN_SUCCESS)
        aliquot_shared_opened(key, result == CN_SUCCESS ? *address : 0,
                              context ? context->index : (uint16_t)0);
    else if (context && context->device >= 0 && aliquot_hold_doubtful())
        result = charge_unknown(context, *address);
    return result;
}

CNresult aliquot_cnIpcCloseMemHandle(CNaddr address) {
    struct aliquot_shared_closing closing = aliquot_shared_close(address);
    CNresult result = REAL(cnIpcCloseMemHandle)(address);
    aliquot_shared_closed(&closing, result == CN_SUCCESS);
    return result;
}
