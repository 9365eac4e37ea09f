/* cuGetExportTable: the private tables that libcudart 9.0 to 11.0 starts with. What newer runtimes
 * ask for beyond them, an integrity check among it, is not here: they do not start on this driver.
 */
#include "export_table.h"
#include "module.h"

#include <string.h>

/* Entries are of whatever type their caller thinks; those that nobody is known to call answer
 * NOT_SUPPORTED, which any C function may be asked for. */
typedef void (*table_entry)(void);

static CUresult not_here(void) { return sim_unsupported("an entry of cuGetExportTable"); }
#define NOT_HERE ((table_entry)not_here)
/* The first word of a table of `n` entries, itself included: its size in bytes. */
#define TABLE_BYTES(n) ((table_entry)((n) * sizeof(table_entry)))

/* ---- 6BD5FB6C: loading and primary contexts ------------------------------------------------- */

static CUresult primary_context(CUcontext *ctx, CUdevice dev) {
    return cuDevicePrimaryCtxRetain(ctx, dev);
}

static CUresult load_wrapper(CUmodule *module, const void *wrapper) {
    return sim_module_load_data(wrapper, SIZE_MAX, NULL, module);
}

/* Three more arguments since 10.0, which change nothing here. */
static CUresult load_wrapper_more(CUmodule *module, const void *wrapper, void *first, void *second,
                                  void *third) {
    (void)first;
    (void)second;
    (void)third;
    return load_wrapper(module, wrapper);
}

static void ignore(void *pointer) { (void)pointer; }

static int zero(void) { return 0; }

static const table_entry loading[] = {
    TABLE_BYTES(16),
    (table_entry)load_wrapper,
    (table_entry)primary_context,
    NOT_HERE,
    NOT_HERE,
    NOT_HERE,
    (table_entry)load_wrapper_more,
    (table_entry)ignore,
    NOT_HERE,
    NOT_HERE,
    NOT_HERE,
    NOT_HERE,
    (table_entry)zero,
    NOT_HERE,
    NOT_HERE,
    NOT_HERE,
};
_Static_assert(sizeof loading == 16 * sizeof(table_entry), "as it says of itself");

/* ---- A094798C: buffers that the runtime keeps for tools -------------------------------------- */

static _Alignas(16) unsigned char large_buffer[1024], small_buffer[16];

static void give_large(void **buffer, size_t *bytes) {
    *buffer = large_buffer;
    *bytes = sizeof large_buffer;
}

static void give_small(void **buffer, size_t *bytes) {
    *buffer = small_buffer;
    *bytes = 14;
}

static const table_entry tools[] = {
    TABLE_BYTES(7), NOT_HERE, (table_entry)give_large, NOT_HERE,
    NOT_HERE,       NOT_HERE, (table_entry)give_small,
};
_Static_assert(sizeof tools == 7 * sizeof(table_entry), "as it says of itself");

/* ---- 42D85A81: asked for, never used --------------------------------------------------------- */

static const table_entry unused[] = {
    TABLE_BYTES(8), NOT_HERE, NOT_HERE, NOT_HERE, NOT_HERE, NOT_HERE, NOT_HERE, NOT_HERE,
};
_Static_assert(sizeof unused == 8 * sizeof(table_entry), "as it says of itself");

/* ---- C693336E: context-local storage; the one table without a size --------------------------- */

static const table_entry storage[] = {
    (table_entry)sim_storage_put,
    (table_entry)sim_storage_delete,
    (table_entry)sim_storage_get,
    NOT_HERE,
};

/* ---- Finding them ---------------------------------------------------------------------------- */

static const struct {
    unsigned char id[16];
    const void *table;
} tables[] = {
    {{0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d,
      0xf9},
     loading},
    {{0xa0, 0x94, 0x79, 0x8c, 0x2e, 0x74, 0x2e, 0x74, 0x93, 0xf2, 0x08, 0x00, 0x20, 0x0c, 0x0a,
      0x66},
     tools},
    {{0x42, 0xd8, 0x5a, 0x81, 0x23, 0xf6, 0xcb, 0x47, 0x82, 0x98, 0xf6, 0xe7, 0x8a, 0x3a, 0xec,
      0xdc},
     unused},
    {{0xc6, 0x93, 0x33, 0x6e, 0x11, 0x21, 0xdf, 0x11, 0xa8, 0xc3, 0x68, 0xf3, 0x55, 0xd8, 0x95,
      0x93},
     storage},
};

CUresult CUDAAPI cuGetExportTable(const void **table, const CUuuid *id) {
    if (!table || !id)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        if (!memcmp(id->bytes, tables[i].id, sizeof tables[i].id)) {
            *table = tables[i].table;
            return CUDA_SUCCESS;
        }
    }
    sim_log("cuGetExportTable: table %02X%02X%02X%02X-… is not here", (unsigned char)id->bytes[0],
            (unsigned char)id->bytes[1], (unsigned char)id->bytes[2], (unsigned char)id->bytes[3]);
    *table = NULL;
    return CUDA_ERROR_NOT_FOUND;
}
