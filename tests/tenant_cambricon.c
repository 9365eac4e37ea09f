/* The tenant on Cambricon's driver library: the library, the device, and what must fail. */
#include "tenant_cambricon.h"

#include <dlfcn.h>

struct cn cn;
struct cambricon cambricon;

struct placed on_device(void) {
    return (struct placed){1, BY_DESCRIPTOR, 1, (uint32_t)cambricon.device, 0};
}

/* -- Finding it ------------------------------------------------------------------------------------ */

/* By the library's own handle, or among what is global. */
static void load(const char *file, int mode, bool global) {
    void *library = file ? dlopen(file, global ? mode | RTLD_GLOBAL : mode) : NULL;
    if (file && !library)
        fail("%s", dlerror());
#define LOAD(symbol, parameters)                                                                   \
    cn.symbol = (__typeof__(cn.symbol))symbol_of(global ? NULL : library, #symbol);
    FUNCTIONS(LOAD)
#undef LOAD
}

static int retain(void) {
    int result = cn.cnSharedContextAcquire(&tenant.primary, cambricon.device);
    if (result == NO_ROOM)
        return OUT_OF_MEMORY;
    if (result != OK)
        return result;
    MUST(cn.cnCtxSetCurrent(tenant.primary));
    for (int i = 0; i < 2; i++)
        MUST(cn.cnCreateQueue(&cambricon.queue[i], 0));
    return OK;
}

static int start(void) {
    uint64_t bytes;
    MUST(cn.cnInit(0));
    MUST(cn.cnDeviceGet(&cambricon.device, 0));
    MUST(cn.cnDeviceTotalMem(&bytes, cambricon.device));
    tenant.total = bytes;
    MUST(cn.cnDeviceGetMemPool(&cambricon.pool, cambricon.device));
    struct placed what = on_device();
    MUST(cn.cnMemGetAllocationGranularity(&bytes, &what, 0));
    tenant.granularity = bytes;
    return retain();
}

static int release(bool reset) {
    return reset ? cn.cnSharedContextReset(cambricon.device)
                 : cn.cnSharedContextRelease(cambricon.device);
}

static void *current(void) {
    handle context = NULL;
    MUST(cn.cnCtxGetCurrent(&context));
    return context;
}

static int enter(void *context) { return cn.cnCtxSetCurrent(context); }
static int synchronise(void) { return cn.cnCtxSync(); }
static void breathe(unsigned number) { MUST(cn.cnQueueSync(cambricon.queue[number % 2])); }
static void trim(void) { MUST(cn.cnMemPoolTrimTo(cambricon.pool, 0)); }

/* -- What is told of its memory ------------------------------------------------------------------- */

static struct told ask_info(unsigned form) {
    struct told told = {0};
    (void)form;
    MUST(cn.cnMemGetInfo(&told.free, &told.total));
    return told;
}

/* It has one node. */
static struct told ask_node(unsigned node) {
    struct told told = {0};
    MUST(cn.cnMemGetNodeInfo(&told.free, &told.total, (int)node));
    return told;
}

static struct told ask_total(unsigned form) {
    struct told told = {.silent = true};
    (void)form;
    MUST(cn.cnDeviceTotalMem(&told.total, cambricon.device));
    return told;
}

/* What is available, and all that there is; MiB. */
static struct told ask_attribute(unsigned form) {
    struct told told = {.silent = true};
    int mib = 0;
    MUST(cn.cnDeviceGetAttribute(&mib, form ? 0x405 : 0x312, cambricon.device));
    told.total = (uint64_t)mib << 20;
    return told;
}

static const struct query queries[] = {
    {"cnMemGetInfo", 1, ask_info},
    {"cnMemGetNodeInfo", 1, ask_node},
    {"cnDeviceTotalMem", 1, ask_total},
    {"cnDeviceGetAttribute", 2, ask_attribute},
    {0},
};

/* -- Memory -------------------------------------------------------------------------------------------- */

static int allocate(address *pointer, uint64_t size) { return cn.cnMalloc(pointer, size); }
static int release_memory(address pointer) { return cn.cnFree(pointer); }

static void write_to(address to, const void *from, size_t size) {
    MUST(cn.cnMemcpyHtoD(to, from, size));
}

static void read_from(void *to, address from, size_t size) {
    MUST(cn.cnMemcpyDtoH(to, from, size));
}

/* -- What must fail ---------------------------------------------------------------------------------- */

static void forge(void) {
    uint64_t got;
    char own[64];
    address linear, small;
    handle context, before = current();
    MUST(cn.cnMalloc(&linear, 4 * MIB));
    MUST(cn.cnMalloc(&small, 4096));
    say("free a part", cn.cnFree(linear + 4096));
    say("free a part of a page", cn.cnFree(small + 256));
    say("free nothing", cn.cnFree(0));
    say("free what is the host's", cn.cnFree((uintptr_t)own));
    say("free in order what is not there", cn.cnMemFreeAsync(12345, cambricon.queue[0]));
    say("free", cn.cnFree(small));
    say("free it again", cn.cnFree(small));
    say("release a handle of nobody", cn.cnMemRelease(0x123456));
    say("release a pointer", cn.cnMemRelease(linear));
    say("retain what is not mapped", cn.cnMemRetainAllocationHandle(&got, linear));
    say("unmap what is not mapped", cn.cnMemUnmap(linear, 4 * MIB));
    say("map where nothing is reserved", cn.cnMemMap(linear, 4 * MIB, 0, 0x123456, 0));
    say("allocate nothing", cn.cnMalloc(&small, 0));
    say("allocate to nowhere", cn.cnMalloc(NULL, 4096));
    say("allocate on a node that is not there", cn.cnMallocNode(&small, 4096, 7));
    say("unload what is no module", cn.cnModuleUnload((handle)own));
    MUST(cn.cnCtxCreate(&context, 0, cambricon.device));
    MUST(cn.cnCtxSetCurrent(before));
    say("destroy a context", cn.cnCtxDestroy(context));
    say("destroy it again", cn.cnCtxDestroy(context));
    MUST(cn.cnFree(linear));
}

static void expect_uninitialised(void) {
    int count;
    if (cn.cnDeviceGetCount(&count) != NOT_INITIALIZED)
        fail("the driver is initialised already");
}

static void expect_nothing(address of_parent) {
    address pointer;
    uint64_t free_bytes, total;
    int count, no = NOT_INITIALIZED;
    if (cn.cnInit(0) != no || cn.cnMalloc(&pointer, 1) != no || cn.cnFree(of_parent) != no ||
        cn.cnMemGetInfo(&free_bytes, &total) != no || cn.cnDeviceGetCount(&count) != no)
        fail("a child can use its parent's driver");
}

static const struct kind *const kinds[] = {linear_kinds,  pool_kinds, share_kinds,
                                           context_kinds, topo_kinds, NULL};

const struct vendor vendor = {
    .library = "libcndrv.so",
    .out_of_memory = OUT_OF_MEMORY,
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
