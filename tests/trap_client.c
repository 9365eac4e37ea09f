/* Traps that real programs set for a library in the driver's place. Usage: trap_client MODE CAP
 *
 *   stubs FILE   a library that exports the driver's names globally and forwards them by dlsym
 *   patch        entry points patched in place, and mended again
 *   linked       nothing but calls through the program's own link, which a preload may stand in
 *   addresses    address space beyond the cap and beyond the device
 *   host         physical memory on the host
 *
 * Each ends by taking CAP bytes in pieces until it is refused, and prints how many it got.
 */
#include <cuda.h>

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ull << 20)

#define CHECK(what, ...)                                                                           \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("not so: " __VA_ARGS__);                                                        \
            printf(" (line %d)\n", __LINE__);                                                      \
            fflush(stdout);                                                                        \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void *library;
static __typeof__(&cuInit) init;
static __typeof__(&cuDevicePrimaryCtxRetain) retain;
static __typeof__(&cuCtxSetCurrent) set;
static __typeof__(&cuMemAlloc_v2) alloc;
static __typeof__(&cuMemFree_v2) release;
static __typeof__(&cuMemGetInfo_v2) info;

static void *look_up(const char *name) {
    void *found = dlsym(library, name);
    CHECK(found, "%s is not there", name);
    return found;
}

static void load(const char *file, int mode) {
    library = dlopen(file, mode);
    CHECK(library, "%s", dlerror());
    init = (__typeof__(init))look_up("cuInit");
    retain = (__typeof__(retain))look_up("cuDevicePrimaryCtxRetain");
    set = (__typeof__(set))look_up("cuCtxSetCurrent");
    alloc = (__typeof__(alloc))look_up("cuMemAlloc_v2");
    release = (__typeof__(release))look_up("cuMemFree_v2");
    info = (__typeof__(info))look_up("cuMemGetInfo_v2");
}

static void begin(void) {
    CUcontext context;
    CHECK(init(0) == CUDA_SUCCESS, "cuInit");
    CHECK(retain(&context, 0) == CUDA_SUCCESS && set(context) == CUDA_SUCCESS, "a context");
}

static void fill(uint64_t cap) {
    CUdeviceptr pointer;
    CUresult result;
    size_t free_bytes, total;
    uint64_t got = 0;
    CHECK(info(&free_bytes, &total) == CUDA_SUCCESS && total == cap, "a device of %zu bytes",
          total);
    while ((result = alloc(&pointer, 2 * MIB)) == CUDA_SUCCESS) {
        got += 2 * MIB;
        CHECK(got <= cap, "%llu bytes got", (unsigned long long)got);
    }
    CHECK(result == CUDA_ERROR_OUT_OF_MEMORY, "a refusal is %d", (int)result);
    printf("got %llu\n", (unsigned long long)got);
}

/* -- patch --------------------------------------------------------------------------------------- */

static unsigned patched_calls;
static CUresult instead(void) {
    patched_calls++;
    return CUDA_ERROR_UNKNOWN;
}

/* A jump to `instead` at the function's first bytes, as an in-place hook writes it. */
static void check_patch(const char *name) {
    unsigned char jump[14] = {0xff, 0x25, 0, 0, 0, 0}, old[sizeof jump];
    unsigned char *entry = look_up(name);
    uint64_t target = (uint64_t)(uintptr_t)instead;
    memcpy(jump + 6, &target, sizeof target);
    uintptr_t page = (uintptr_t)entry & ~4095ull;
    CHECK(!mprotect((void *)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC), "%s cannot be written",
          name);
    memcpy(old, entry, sizeof old);
    memcpy(entry, jump, sizeof jump);
    unsigned before = patched_calls;
    CUresult result = ((__typeof__(&cuMemAlloc_v2))look_up(name))(NULL, 0);
    CHECK(result == CUDA_ERROR_UNKNOWN && patched_calls == before + 1, "%s was not patched", name);
    memcpy(entry, old, sizeof old);
    CHECK(!mprotect((void *)page, 8192, PROT_READ | PROT_EXEC), "%s cannot be mended", name);
}

static void run_patch(uint64_t cap) {
    load("libcuda.so.1", RTLD_NOW);
    begin();
    /* One that the shim stands in for, one that is the driver's own. */
    check_patch("cuMemAlloc_v2");
    check_patch("cuMemFree_v2");
    check_patch("cuMemcpyHtoD_v2");
    fill(cap);
}

/* -- addresses and host -------------------------------------------------------------------------- */

static void run_addresses(uint64_t cap) {
    load("libcuda.so.1", RTLD_NOW);
    begin();
    __typeof__(&cuMemAddressReserve) reserve = (__typeof__(reserve))look_up("cuMemAddressReserve");
    __typeof__(&cuMemAddressFree) give = (__typeof__(give))look_up("cuMemAddressFree");
    size_t before, after, total;
    CHECK(info(&before, &total) == CUDA_SUCCESS, "info");
    /* What PyTorch and llama.cpp reserve: more than the device has. */
    const uint64_t sizes[] = {cap + cap / 8, 32ull << 30, 90ull << 30};
    CUdeviceptr at[3];
    for (int i = 0; i < 3; i++)
        CHECK(reserve(&at[i], sizes[i], 0, 0, 0) == CUDA_SUCCESS, "%llu bytes of addresses",
              (unsigned long long)sizes[i]);
    CHECK(info(&after, &total) == CUDA_SUCCESS && after == before, "addresses cost nothing");
    for (int i = 0; i < 3; i++)
        CHECK(give(at[i], sizes[i]) == CUDA_SUCCESS, "addresses are given back");
    fill(cap);
}

static void run_host(uint64_t cap) {
    load("libcuda.so.1", RTLD_NOW);
    begin();
    __typeof__(&cuMemCreate) create = (__typeof__(create))look_up("cuMemCreate");
    __typeof__(&cuMemRelease) drop = (__typeof__(drop))look_up("cuMemRelease");
    CUmemAllocationProp where = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {.type = CU_MEM_LOCATION_TYPE_HOST_NUMA, .id = 0}};
    CUmemGenericAllocationHandle handle[4];
    size_t before, after, total;
    CHECK(info(&before, &total) == CUDA_SUCCESS, "info");
    for (int i = 0; i < 4; i++)
        CHECK(create(&handle[i], cap / 2, &where, 0) == CUDA_SUCCESS, "memory of the host");
    CHECK(info(&after, &total) == CUDA_SUCCESS && after == before, "it is not the device's");
    for (int i = 0; i < 4; i++)
        CHECK(drop(handle[i]) == CUDA_SUCCESS, "it is given back");
    fill(cap);
}

int main(int argc, char **argv) {
    const char *mode = argc >= 3 ? argv[1] : "";
    uint64_t cap = argc >= 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (!strcmp(mode, "stubs") && argc == 4) {
        /* The names are global before the driver comes, and the program calls those. */
        load(argv[3], RTLD_NOW | RTLD_GLOBAL);
        begin();
        fill(cap);
    } else if (!strcmp(mode, "patch"))
        run_patch(cap);
    else if (!strcmp(mode, "linked")) {
        load("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
        library = RTLD_DEFAULT;
        alloc = (__typeof__(alloc))look_up("cuMemAlloc_v2");
        begin();
        fill(cap);
    } else if (!strcmp(mode, "addresses"))
        run_addresses(cap);
    else if (!strcmp(mode, "host"))
        run_host(cap);
    else
        return 2;
    return 0;
}
