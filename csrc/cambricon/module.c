/* Modules: their code and variables take memory, as much as the driver says of the image. */
#include "shim.h"

/* Module to what is charged: bits 63..20 pages, 19..16 device, 15..0 context. */
static struct aliquot_table modules;

struct load {
    const struct aliquot_context *context; /* NULL: not ours to charge */
    uint64_t bytes;
};

/* What the driver says that an image takes, a file's or one in memory. */
static CNresult usage_of(const char *path, const void *image, size_t *bytes) {
    *bytes = 0;
    if (path && HAVE(cnModuleQueryMemoryUsage))
        return REAL(cnModuleQueryMemoryUsage)(path, bytes);
    if (image && HAVE(cnModuleQueryFatBinaryMemoryUsage))
        return REAL(cnModuleQueryFatBinaryMemoryUsage)(image, bytes);
    return CN_OPS_ERROR_NOT_SUPPORTED;
}

static CNresult charge(struct load *load, size_t bytes) {
    uint32_t device = (uint32_t)load->context->device;
    load->bytes = aliquot_whole_pages(device, bytes);
    if (aliquot_charge(device, load->bytes))
        return CN_SUCCESS;
    load->bytes = 0;
    return CN_MEMORY_ERROR_OUT_OF_MEMORY;
}

static CNresult begin(struct load *load, const char *path, const void *image) {
    size_t bytes;
    *load = (struct load){.context = NULL};
    CNresult told = aliquot_context_ask(&load->context);
    if (!load->context)
        return told;
    if (load->context->device < 0)
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    /* An image of which the driver tells nothing is mostly none that it can load. */
    return usage_of(path, image, &bytes) == CN_SUCCESS ? charge(load, bytes) : CN_SUCCESS;
}

/* What it loaded although it had not told of it is charged now, or goes again; a driver that never tells has
 * what nobody claims. */
static CNresult charge_late(struct load *load, const char *path, const void *image,
                            CNmodule module) {
    size_t bytes;
    CNresult result = usage_of(path, image, &bytes);
    if (result == CN_OPS_ERROR_NOT_SUPPORTED)
        return CN_SUCCESS;
    if (result == CN_SUCCESS)
        result = charge(load, bytes);
    if (result != CN_SUCCESS)
        REAL(cnModuleUnload)(module);
    return result;
}

static CNresult finish(struct load *load, const char *path, const void *image, CNresult result,
                       const CNmodule *module) {
    if (load->context && !load->bytes && result == CN_SUCCESS)
        result = charge_late(load, path, image, *module);
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
    if (OWN_CALL())
        return REAL(cnModuleLoadFatBinary)(image, module);
    CNresult result = begin(&load, NULL, image);
    if (result != CN_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cnModuleLoadFatBinary)(image, module));
    return finish(&load, NULL, image, result, module);
}

CNresult aliquot_cnModuleLoad(const char *path, CNmodule *module) {
    struct load load;
    if (OWN_CALL())
        return REAL(cnModuleLoad)(path, module);
    CNresult result = begin(&load, path, NULL);
    if (result != CN_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cnModuleLoad)(path, module));
    return finish(&load, path, NULL, result, module);
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
