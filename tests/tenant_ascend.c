/* The tenant on Ascend's runtime: the library, the device, and what must fail. */
#include "tenant_ascend.h"

#include <dlfcn.h>

struct npu npu;
struct ascend ascend = {.capturing = PTHREAD_RWLOCK_INITIALIZER};

/* -- What is told of its memory ------------------------------------------------------------------- */

static struct told ask_info(unsigned form) {
    struct told told = {0};
    (void)form;
    MUST(npu.rtMemGetInfo(&told.free, &told.total));
    return told;
}

/* Of each kind of memory, which is one and the same. */
static struct told ask_info_of_kind(unsigned kind) {
    struct told told = {0};
    MUST(npu.rtMemGetInfoEx(kind, &told.free, &told.total));
    return told;
}

static struct told ask_rts_of_kind(unsigned kind) {
    struct told told = {0};
    MUST(npu.rtsMemGetInfo(kind, &told.free, &told.total));
    return told;
}

static struct told ask_acl_of_kind(unsigned kind) {
    struct told told = {0};
    MUST(npu.aclrtGetMemInfo((int)kind, &told.free, &told.total));
    return told;
}

/* DDR, HBM, and what other devices reach of either; pages of two sizes, and none of the largest. */
static struct told ask_pages_of_kind(unsigned form) {
    struct pages_told pages = {0};
    MUST(npu.rtMemGetInfoByType(0, 1 + form / 2, &pages));
    if (pages.of[2].total || pages.of[2].free)
        fail("there are pages of 1 GiB");
    return (struct told){pages.of[form % 2].total, pages.of[form % 2].free, false};
}

enum { MEMORY_SIZE = 301 };

static struct told ask_attribute(unsigned by_runtime) {
    int64_t total = 0;
    MUST(by_runtime ? npu.rtsDeviceGetInfo(0, MEMORY_SIZE, &total)
                    : npu.aclrtGetDeviceInfo(0, MEMORY_SIZE, &total));
    return (struct told){(uint64_t)total, 0, true};
}

static struct told ask_runtimes_attribute(unsigned form) {
    (void)form;
    return ask_attribute(1);
}

static const struct query queries[] = {
    {"rtMemGetInfo", 1, ask_info},
    {"rtMemGetInfoEx", 18, ask_info_of_kind},
    {"rtsMemGetInfo", 18, ask_rts_of_kind},
    {"aclrtGetMemInfoImpl", 18, ask_acl_of_kind},
    {"rtMemGetInfoByType", 8, ask_pages_of_kind},
    {"aclrtGetDeviceInfoImpl", 1, ask_attribute},
    {"rtsDeviceGetInfo", 1, ask_runtimes_attribute},
    {0},
};

/* -- Finding it ------------------------------------------------------------------------------------ */

/* AscendCL's own functions, which are linked with the runtime, or the runtime alone, as others that
 * stand in AscendCL's place call it. */
static void load(const char *file, int mode, bool runtime_alone) {
    void *library = NULL;
    if (file && runtime_alone)
        file = "libruntime.so";
    if (file && !(library = dlopen(file, mode)))
        fail("%s", dlerror());
#define LOAD(symbol, parameters) npu.symbol = (__typeof__(npu.symbol))symbol_of(library, #symbol);
#define LOAD_WRAPPED(symbol, parameters)                                                           \
    npu.symbol =                                                                                   \
        (__typeof__(npu.symbol))symbol_of(library, runtime_alone ? #symbol "Impl" : #symbol);
    RUNTIME(LOAD)
    WRAPPED(LOAD_WRAPPED)
#undef LOAD
#undef LOAD_WRAPPED
}

static int retain(void) {
    int result = npu.aclrtSetDevice(0);
    if (result != OK)
        return result;
    MUST(npu.aclrtGetCurrentContext(&tenant.primary));
    for (int i = 0; i < 2; i++)
        MUST(npu.aclrtCreateStream(&ascend.stream[i]));
    return OK;
}

static int start(void) {
    MUST(npu.aclInit(NULL));
    int result = retain();
    if (result != OK)
        return result;
    tenant.granularity = 2 * MIB;
    tenant.total = ask_info(0).total;
    return OK;
}

static int release(bool reset) {
    return reset ? npu.aclrtResetDeviceForce(0) : npu.aclrtResetDevice(0);
}

static void *current(void) {
    void *context = NULL;
    MUST(npu.aclrtGetCurrentContext(&context));
    return context;
}

static int enter(void *context) { return npu.aclrtSetCurrentContext(context); }
static int synchronise(void) { return npu.aclrtSynchronizeDevice(); }
static void breathe(unsigned number) {
    MUST(npu.aclrtSynchronizeStream(ascend.stream[number % 2]));
}
static void trim(void) {}

/* -- Memory -------------------------------------------------------------------------------------------- */

static int allocate(address *pointer, uint64_t size) {
    void *given = NULL;
    int result = npu.rtMalloc(&given, size, 2, 33);
    *pointer = (uintptr_t)given;
    return result;
}

static int release_memory(address pointer) { return npu.rtFree((void *)pointer); }

static void write_to(address to, const void *from, size_t size) {
    MUST(npu.aclrtMemcpy((void *)to, size, from, size, TO_DEVICE));
}

static void read_from(void *to, address from, size_t size) {
    MUST(npu.aclrtMemcpy(to, size, (void *)from, size, FROM_DEVICE));
}

/* -- What must fail ---------------------------------------------------------------------------------- */

static void forge(void) {
    void *handle = NULL;
    char own[64];
    address linear, small;
    MUST(allocate(&linear, 4 * MIB));
    MUST(allocate(&small, 4096));
    say("free a part", npu.rtFree((void *)(linear + 4096)));
    say("free a part of a page", npu.aclrtFree((void *)(small + 256)));
    say("free nothing", npu.rtFree(NULL));
    say("free nothing of AscendCL's", npu.aclrtFree(NULL));
    say("free what is the host's", npu.aclrtFree(own));
    say("free by another call", npu.rtDvppFree((void *)(linear + 4096)));
    say("free", npu.aclrtFree((void *)small));
    say("free it again", npu.rtFreeWithDevSync((void *)small));
    say("release a handle of nobody", npu.aclrtFreePhysical((void *)0x123456));
    say("release a pointer", npu.rtFreePhysical((void *)linear));
    say("retain what is not mapped", npu.aclrtMemRetainAllocationHandle((void *)linear, &handle));
    say("unmap what is not mapped", npu.rtUnmapMem((void *)linear));
    say("map where nothing is reserved", npu.aclrtMapMem((void *)linear, 2 * MIB, 0, own, 0));
    say("release what is not reserved", npu.aclrtReleaseMemAddress((void *)linear));
    say("open what has no name", npu.aclrtIpcMemImportByKey(&handle, "nobody", 0));
    say("close what is not open", npu.rtIpcCloseMemory((void *)linear));
    say("take a number of nobody", npu.aclrtMemImportFromShareableHandle(12345, 0, &handle));
    say("allocate nothing", npu.aclrtMalloc(&handle, 0, 0));
    say("allocate to nowhere", npu.rtMalloc(NULL, 4096, 2, 33));
    MUST(release_memory(linear));
}

static void expect_nothing(address of_parent) {
    void *pointer = NULL;
    uint64_t free_bytes, total;
    uint32_t count;
    if (!npu.rtSetDevice(0) || !npu.aclrtSetDevice(0) || !npu.rtMalloc(&pointer, 1, 2, 33) ||
        !npu.rtFree((void *)of_parent) || !npu.rtMemGetInfo(&free_bytes, &total) ||
        !npu.aclrtGetDeviceCount(&count))
        fail("a child can use its parent's runtime");
}

static const struct kind *const kinds[] = {linear_kinds, pool_kinds, share_kinds, work_kinds, NULL};

const struct vendor vendor = {
    .library = "libascendcl.so",
    .out_of_memory = OUT_OF_MEMORY,
    .kinds = kinds,
    .load = load,
    .start = start,
    .retain = retain,
    .release = release,
    .views = true,
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
    .expect_nothing = expect_nothing,
};
