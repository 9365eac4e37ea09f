/* Finding the driver and its functions, as programs do. */
#include "tenant_cuda.h"

#include <dlfcn.h>

struct driver cu;
struct cuda cuda;

/* -- The driver ------------------------------------------------------------------------------------ */

static void *library;

static void *by_address(const char *name, int version, cuuint64_t flags) {
    static __typeof__(&cuGetProcAddress_v2) look_up;
    CUdriverProcAddressQueryResult status;
    void *found = NULL;
    if (!look_up)
        look_up = (__typeof__(look_up))symbol_of(library, "cuGetProcAddress_v2");
    CUresult result = look_up(name, &found, version, flags, &status);
    if (result != CUDA_SUCCESS || !found)
        fail("cuGetProcAddress(%s, %d) answers %d", name, version, (int)result);
    return found;
}

/* By dlsym, or by cuGetProcAddress. */
static void load(const char *file, int mode, bool by_addresses) {
    library = file ? dlopen(file, mode) : NULL;
    if (file && !library)
        fail("%s", dlerror());
#define LOAD(symbol, name, version, flags)                                                         \
    cu.symbol = (__typeof__(cu.symbol))(by_addresses ? by_address(name, version, flags)            \
                                                     : symbol_of(library, #symbol));
    TENANT_FUNCTIONS(LOAD)
#undef LOAD
}

/* -- The device ------------------------------------------------------------------------------------ */

static int retain(void) {
    CUresult result = cu.cuDevicePrimaryCtxRetain((CUcontext *)&tenant.primary, cuda.device);
    if (result != CUDA_SUCCESS)
        return result;
    MUST(cu.cuCtxSetCurrent(tenant.primary));
    for (int i = 0; i < 2; i++)
        MUST(cu.cuStreamCreate(&cuda.stream[i], CU_STREAM_NON_BLOCKING));
    return 0;
}

static int start(void) {
    CUmemAllocationProp what = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
    MUST(cu.cuInit(0));
    MUST(cu.cuDeviceGet(&cuda.device, 0));
    MUST(cu.cuDeviceTotalMem_v2(&tenant.total, cuda.device));
    MUST(cu.cuDeviceGetDefaultMemPool(&cuda.pool, cuda.device));
    MUST(cu.cuMemGetAllocationGranularity(&tenant.granularity, &what,
                                          CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    return retain();
}

static int release(bool reset) {
    return reset ? cu.cuDevicePrimaryCtxReset_v2(cuda.device)
                 : cu.cuDevicePrimaryCtxRelease_v2(cuda.device);
}

static void *current(void) {
    CUcontext context;
    MUST(cu.cuCtxGetCurrent(&context));
    return context;
}

static int enter(void *context) { return cu.cuCtxSetCurrent(context); }
static int synchronise(void) { return cu.cuCtxSynchronize(); }

static void breathe(unsigned number) { MUST(cu.cuStreamSynchronize(cuda.stream[number % 2])); }

static void trim(void) {
    MUST(cu.cuDeviceGraphMemTrim(cuda.device));
    MUST(cu.cuMemPoolTrimTo(cuda.pool, 0));
}

/* -- What is told of its memory ------------------------------------------------------------------- */

static struct told ask_info(unsigned form) {
    size_t free_bytes, total;
    (void)form;
    MUST(cu.cuMemGetInfo_v2(&free_bytes, &total));
    return (struct told){total, free_bytes, false};
}

/* Programs of CUDA 3.1 and older. */
static struct told ask_old_info(unsigned form) {
    unsigned free_bytes, total;
    (void)form;
    MUST(cu.cuMemGetInfo(&free_bytes, &total));
    return (struct told){total, free_bytes, false};
}

static struct told ask_total(unsigned form) {
    size_t total;
    (void)form;
    MUST(cu.cuDeviceTotalMem_v2(&total, cuda.device));
    return (struct told){total, 0, true};
}

static struct told ask_old_total(unsigned form) {
    unsigned total;
    (void)form;
    MUST(cu.cuDeviceTotalMem(&total, cuda.device));
    return (struct told){total, 0, true};
}

static const struct query queries[] = {
    {"cuMemGetInfo_v2", 1, ask_info},
    {"cuMemGetInfo", 1, ask_old_info},
    {"cuDeviceTotalMem_v2", 1, ask_total},
    {"cuDeviceTotalMem", 1, ask_old_total},
    {0},
};

/* -- Memory ---------------------------------------------------------------------------------------- */

static int allocate(address *pointer, uint64_t size) { return cu.cuMemAlloc_v2(pointer, size); }
static int release_memory(address pointer) { return cu.cuMemFree_v2(pointer); }

static void write_to(address to, const void *from, size_t size) {
    MUST(cu.cuMemcpyHtoD_v2(to, from, size));
}

static void read_from(void *to, address from, size_t size) {
    MUST(cu.cuMemcpyDtoH_v2(to, from, size));
}

/* -- What must fail ---------------------------------------------------------------------------------- */

static void forge(void) {
    CUmemGenericAllocationHandle handle;
    char own[64];
    address linear, small;
    MUST(cu.cuMemAlloc_v2(&linear, 4 * MIB));
    MUST(cu.cuMemAlloc_v2(&small, 4096));
    say("free a part", cu.cuMemFree_v2(linear + 4096));
    say("free a part of a page", cu.cuMemFree_v2(small + 256));
    say("free nothing", cu.cuMemFree_v2(0));
    say("free what is the host's", cu.cuMemFree_v2((uintptr_t)own));
    say("free in order what is not there", cu.cuMemFreeAsync(1ull << 40, NULL));
    say("free", cu.cuMemFree_v2(small));
    say("free it again", cu.cuMemFree_v2(small));
    say("release a handle of nobody", cu.cuMemRelease(0x123456));
    say("release a pointer", cu.cuMemRelease(linear));
    say("retain what is not mapped", cu.cuMemRetainAllocationHandle(&handle, (void *)linear));
    say("unmap what is not mapped", cu.cuMemUnmap(linear, 2 * MIB));
    say("close what is not open", cu.cuIpcCloseMemHandle(linear));
    say("destroy an array that is none", cu.cuArrayDestroy((CUarray)(uintptr_t)own));
    MUST(cu.cuMemFree_v2(linear));
}

static void expect_uninitialised(void) {
    int count;
    if (cu.cuDeviceGetCount(&count) != CUDA_ERROR_NOT_INITIALIZED)
        fail("the driver is initialised already");
}

static void expect_nothing(address of_parent) {
    address pointer;
    size_t free_bytes, total;
    int count;
    CUresult no = CUDA_ERROR_NOT_INITIALIZED;
    if (cu.cuInit(0) != no || cu.cuMemAlloc_v2(&pointer, 1) != no ||
        cu.cuMemFree_v2(of_parent) != no || cu.cuMemGetInfo_v2(&free_bytes, &total) != no ||
        cu.cuDeviceGetCount(&count) != no)
        fail("a child can use its parent's driver");
}

static const struct kind *const kinds[] = {linear_kinds, share_kinds, context_kinds, graph_kinds,
                                           NULL};

const struct vendor vendor = {
    .library = "libcuda.so.1",
    .out_of_memory = CUDA_ERROR_OUT_OF_MEMORY,
    .kinds = kinds,
    .load = load,
    .start = start,
    .retain = retain,
    .release = release,
    .current = current,
    .enter = enter,
    .synchronise = synchronise,
    .breathe = breathe,
    .trim = trim,
    .queries = queries,
    .allocate = allocate,
    .free = release_memory,
    .write = write_to,
    .read = read_from,
    .forge = forge,
    .expect_uninitialised = expect_uninitialised,
    .expect_nothing = expect_nothing,
};
