/* Modules: their code and variables take memory, as much as the driver says of the image. */
#include "shim.h"

/* Module to what is charged: bits 63..20 pages, 19..16 device, 15..0 context. */
static struct aliquot_table modules;

struct load {
    const struct aliquot_context *context; /* NULL: not ours to charge */
    uint64_t bytes;
};

static CNresult begin(struct load *load, CNresult told, size_t bytes) {
    *load = (struct load){.context = aliquot_context_current()};
    if (load->context && load->context->device < 0)
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    /* An image of which the driver tells nothing is none that it can load. */
    if (!load->context || told != CN_SUCCESS)
        return CN_SUCCESS;
    uint32_t device = (uint32_t)load->context->device;
    load->bytes = aliquot_whole_pages(device, bytes);
    return aliquot_charge(device, load->bytes) ? CN_SUCCESS : CN_MEMORY_ERROR_OUT_OF_MEMORY;
}

static CNresult finish(const struct load *load, CNresult result, const CNmodule *module) {
    if (!load->context || !load->bytes)
        return result;
    uint32_t device = (uint32_t)load->context->device;
    if (result != CN_SUCCESS)
        aliquot_withdraw(device, load->bytes);
    else
        aliquot_table_put(&modules, (uintptr_t)*module,
                          load->bytes / aliquot_page_bytes(device) << 20 | device << 16 |
                              load->context->index);
    return result;
}

CNresult aliquot_cnModuleLoadFatBinary(const void *image, CNmodule *module) {
    struct load load;
    size_t bytes = 0;
    CNresult told = CN_OPS_ERROR_NOT_SUPPORTED;
    if (OWN_CALL())
        return REAL(cnModuleLoadFatBinary)(image, module);
    if (HAVE(cnModuleQueryFatBinaryMemoryUsage) && image)
        told = REAL(cnModuleQueryFatBinaryMemoryUsage)(image, &bytes);
    CNresult result = begin(&load, told, bytes);
    if (result != CN_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cnModuleLoadFatBinary)(image, module));
    return finish(&load, result, module);
}

CNresult aliquot_cnModuleLoad(const char *path, CNmodule *module) {
    struct load load;
    size_t bytes = 0;
    CNresult told = CN_OPS_ERROR_NOT_SUPPORTED;
    if (OWN_CALL())
        return REAL(cnModuleLoad)(path, module);
    if (HAVE(cnModuleQueryMemoryUsage) && path)
        told = REAL(cnModuleQueryMemoryUsage)(path, &bytes);
    CNresult result = begin(&load, told, bytes);
    if (result != CN_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cnModuleLoad)(path, module));
    return finish(&load, result, module);
}

static void give_back(uint64_t value) {
    uint32_t device = value >> 16 & 0xf;
    aliquot_withdraw(device, (value >> 20) * aliquot_page_bytes(device));
}

CNresult aliquot_cnModuleUnload(CNmodule module) {
    uint64_t value = 0;
    /* Its entry goes first: the handle may be another's at once. */
    bool ours =
        aliquot_prepared() && module && aliquot_table_take(&modules, (uintptr_t)module, &value);
    CNresult result = REAL(cnModuleUnload)(module);
    if (result == CN_SUCCESS)
        aliquot_time_unloads();
    if (ours && result == CN_SUCCESS)
        give_back(value);
    else if (ours)
        aliquot_table_put(&modules, (uintptr_t)module, value);
    return result;
}

static void count_gone(uint64_t key, uint64_t value, uint64_t name, enum aliquot_tenancy tenancy,
                       void *argument) {
    (void)name;
    (void)key;
    (void)tenancy;
    (void)argument;
    give_back(value);
}

void aliquot_modules_context_gone(uint16_t context) {
    aliquot_pointer_sweep(&modules, ALIQUOT_OWNER_MASK, context, count_gone, NULL);
}

void aliquot_module_forget(void) { aliquot_table_reset(&modules); }
