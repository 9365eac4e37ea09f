/* Finding the driver and its functions, as programs do. */
#include "tenant.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

struct driver cu;
struct tenant tenant = {.outbox = -1, .inbox = -1};

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("not so: ");
    vprintf(format, arguments);
    printf("\n");
    fflush(stdout);
    va_end(arguments);
    _exit(1);
}

/* -- The driver ------------------------------------------------------------------------------------ */

static void *library;

static void *by_symbol(const char *symbol) {
    void *address = dlsym(library, symbol);
    if (!address)
        fail("the driver has no %s", symbol);
    return address;
}

static void *by_address(const char *name, int version, cuuint64_t flags) {
    static __typeof__(&cuGetProcAddress_v2) look_up;
    CUdriverProcAddressQueryResult status;
    void *address = NULL;
    if (!look_up)
        look_up = (__typeof__(look_up))by_symbol("cuGetProcAddress_v2");
    CUresult result = look_up(name, &address, version, flags, &status);
    if (result != CUDA_SUCCESS || !address)
        fail("cuGetProcAddress(%s, %d) answers %d", name, version, (int)result);
    return address;
}

void load_driver(bool by_addresses) {
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library)
        fail("%s", dlerror());
#define LOAD(symbol, name, version, flags)                                                         \
    cu.symbol = (__typeof__(cu.symbol))(by_addresses ? by_address(name, version, flags)            \
                                                     : by_symbol(#symbol));
    TENANT_FUNCTIONS(LOAD)
#undef LOAD
}

void begin_primary(void) {
    MUST(cu.cuCtxSetCurrent(tenant.primary));
    for (int i = 0; i < 2; i++)
        MUST(cu.cuStreamCreate(&tenant.stream[i], CU_STREAM_NON_BLOCKING));
}

bool start_tenant(void) {
    CUmemAllocationProp what = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
    MUST(cu.cuInit(0));
    MUST(cu.cuDeviceGet(&tenant.device, 0));
    MUST(cu.cuDeviceTotalMem_v2(&tenant.total, tenant.device));
    MUST(cu.cuDeviceGetDefaultMemPool(&tenant.pool, tenant.device));
    MUST(cu.cuMemGetAllocationGranularity(&tenant.granularity, &what,
                                          CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CUresult result = cu.cuDevicePrimaryCtxRetain(&tenant.primary, tenant.device);
    if (result == CUDA_ERROR_OUT_OF_MEMORY)
        return false;
    if (result != CUDA_SUCCESS)
        fail("the primary context is answered with %d", (int)result);
    begin_primary();
    return true;
}
