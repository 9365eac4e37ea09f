/* Calls of CUDA whose answers must be the same on the driver and in a slice. Usage: odd_calls_cuda MODE
 *
 *   capture    what calls of this and of another thread answer, and make of a stream capture
 *   pointers   frees and releases of what is not there, or not ours
 *
 * Prints one line for each call: its name and what came of it.
 */
#include "tenant_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static CUmemAllocationProp pages_here(void) {
    return (CUmemAllocationProp){
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda.device},
    };
}

static CUmemPoolProps pool_here(void) {
    return (CUmemPoolProps){
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda.device},
    };
}

/* -- capture --------------------------------------------------------------------------------------- */

/* What the calls under test work on; made before the capture begins. */
static struct {
    CUdeviceptr linear, pooled, reserved, mapped;
    CUmemGenericAllocationHandle pages, mapped_pages;
    CUmemoryPool pool, doomed_pool;
    CUarray array;
    CUcontext context;
    CUmodule module;
    CUgraph graph;
    CUgraphExec exec;
    CUstream stream;
    CUevent event;
    char *text;
} kit;

static CUstream captured;
static CUdeviceptr made;

static void allocating_graph(CUgraph *graph) {
    CUgraphNode taken, freed;
    CUDA_MEM_ALLOC_NODE_PARAMS what = {.poolProps = pool_here(), .bytesize = MIB};
    MUST(cu.cuGraphCreate(graph, 0));
    MUST(cu.cuGraphAddMemAllocNode(&taken, *graph, NULL, 0, &what));
    MUST(cu.cuGraphAddMemFreeNode(&freed, *graph, &taken, 1, what.dptr));
}

static void pack_kit(void) {
    CUmemAllocationProp pages = pages_here();
    CUmemPoolProps pool = pool_here();
    CUDA_ARRAY_DESCRIPTOR flat = {
        .Width = 64, .Height = 64, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
    CUmemAccessDesc access = {.location = {CU_MEM_LOCATION_TYPE_DEVICE, {cuda.device}},
                              .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUcontext popped;
    memset(&kit, 0, sizeof kit);
    MUST(cu.cuMemAlloc_v2(&kit.linear, 4096));
    MUST(cu.cuStreamCreate(&kit.stream, CU_STREAM_NON_BLOCKING));
    MUST(cu.cuMemAllocAsync(&kit.pooled, 4096, kit.stream));
    MUST(cu.cuStreamSynchronize(kit.stream));
    MUST(cu.cuMemAddressReserve(&kit.reserved, tenant.granularity, 0, 0, 0));
    MUST(cu.cuMemAddressReserve(&kit.mapped, tenant.granularity, 0, 0, 0));
    MUST(cu.cuMemCreate(&kit.pages, tenant.granularity, &pages, 0));
    MUST(cu.cuMemCreate(&kit.mapped_pages, tenant.granularity, &pages, 0));
    MUST(cu.cuMemMap(kit.mapped, tenant.granularity, 0, kit.mapped_pages, 0));
    MUST(cu.cuMemSetAccess(kit.mapped, tenant.granularity, &access, 1));
    MUST(cu.cuMemPoolCreate(&kit.pool, &pool));
    MUST(cu.cuMemPoolCreate(&kit.doomed_pool, &pool));
    MUST(cu.cuArrayCreate_v2(&kit.array, &flat));
    MUST(cu.cuCtxCreate_v2(&kit.context, 0, cuda.device));
    MUST(cu.cuCtxPopCurrent_v2(&popped));
    kit.text = ptx(1024);
    MUST(cu.cuModuleLoadData(&kit.module, kit.text));
    allocating_graph(&kit.graph);
    MUST(cu.cuGraphInstantiateWithFlags(&kit.exec, kit.graph, 0));
}

static CUresult call_alloc(void) { return cu.cuMemAlloc_v2(&made, 4096); }
static CUresult call_large(void) { return cu.cuMemAlloc_v2(&made, 4 * MIB); }
static CUresult call_free(void) { return cu.cuMemFree_v2(kit.linear); }
static CUresult call_free_pooled(void) { return cu.cuMemFree_v2(kit.pooled); }
static CUresult call_managed(void) {
    return cu.cuMemAllocManaged(&made, 4096, CU_MEM_ATTACH_GLOBAL);
}
static CUresult call_pitch(void) {
    size_t pitch;
    return cu.cuMemAllocPitch_v2(&made, &pitch, 100, 10, 4);
}
static CUresult call_async(void) { return cu.cuMemAllocAsync(&made, 4096, kit.stream); }
static CUresult call_async_default(void) { return cu.cuMemAllocAsync(&made, 4096, NULL); }
static CUresult call_async_thread(void) { return cu.cuMemAllocAsync_ptsz(&made, 4096, NULL); }
static CUresult call_async_captured(void) { return cu.cuMemAllocAsync(&made, 4096, captured); }
static CUresult call_from_pool(void) {
    return cu.cuMemAllocFromPoolAsync(&made, 4096, kit.pool, kit.stream);
}
static CUresult call_free_async(void) { return cu.cuMemFreeAsync(kit.pooled, kit.stream); }
static CUresult call_free_async_linear(void) { return cu.cuMemFreeAsync(kit.linear, kit.stream); }
static CUresult call_pool_create(void) {
    CUmemPoolProps what = pool_here();
    return cu.cuMemPoolCreate(&kit.pool, &what);
}
static CUresult call_pool_destroy(void) { return cu.cuMemPoolDestroy(kit.doomed_pool); }
static CUresult call_pool_trim(void) { return cu.cuMemPoolTrimTo(kit.pool, 0); }
static CUresult call_pool_attribute(void) {
    cuuint64_t value;
    return cu.cuMemPoolGetAttribute(kit.pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &value);
}
static CUresult call_create(void) {
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp what = pages_here();
    return cu.cuMemCreate(&handle, tenant.granularity, &what, 0);
}
static CUresult call_release(void) { return cu.cuMemRelease(kit.pages); }
static CUresult call_map(void) {
    return cu.cuMemMap(kit.reserved, tenant.granularity, 0, kit.pages, 0);
}
static CUresult call_unmap(void) { return cu.cuMemUnmap(kit.mapped, tenant.granularity); }
static CUresult call_retain(void) {
    CUmemGenericAllocationHandle handle;
    return cu.cuMemRetainAllocationHandle(&handle, (void *)kit.mapped);
}
static CUresult call_export(void) {
    int fd;
    CUresult result = cu.cuMemExportToShareableHandle(&fd, kit.pages,
                                                      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    if (result == CUDA_SUCCESS)
        close(fd);
    return result;
}
static CUresult call_ipc(void) {
    CUipcMemHandle handle;
    return cu.cuIpcGetMemHandle(&handle, kit.linear);
}
static CUresult call_array(void) {
    CUDA_ARRAY_DESCRIPTOR flat = {
        .Width = 64, .Height = 64, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
    CUarray array;
    return cu.cuArrayCreate_v2(&array, &flat);
}
static CUresult call_array_destroy(void) { return cu.cuArrayDestroy(kit.array); }
static CUresult call_mipmap(void) {
    CUDA_ARRAY3D_DESCRIPTOR what = {
        .Width = 64, .Height = 64, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
    CUmipmappedArray array;
    return cu.cuMipmappedArrayCreate(&array, &what, 3);
}
static CUresult call_context(void) {
    CUcontext context, popped;
    CUresult result = cu.cuCtxCreate_v2(&context, 0, cuda.device);
    if (result == CUDA_SUCCESS)
        MUST(cu.cuCtxPopCurrent_v2(&popped));
    return result;
}
static CUresult call_context_destroy(void) { return cu.cuCtxDestroy_v2(kit.context); }
static CUresult call_primary(void) {
    CUcontext context;
    CUresult result = cu.cuDevicePrimaryCtxRetain(&context, cuda.device);
    if (result == CUDA_SUCCESS)
        MUST(cu.cuDevicePrimaryCtxRelease_v2(cuda.device));
    return result;
}
static CUresult call_limit(void) { return cu.cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 16 << 20); }
static CUresult call_module(void) {
    CUmodule module;
    return cu.cuModuleLoadData(&module, kit.text);
}
static CUresult call_module_unload(void) { return cu.cuModuleUnload(kit.module); }
static CUresult call_library(void) {
    CUlibrary library;
    return cu.cuLibraryLoadData(&library, kit.text, NULL, NULL, 0, NULL, NULL, 0);
}
static CUresult call_info(void) {
    size_t free_bytes, total;
    return cu.cuMemGetInfo_v2(&free_bytes, &total);
}
static CUresult call_context_sync(void) { return cu.cuCtxSynchronize(); }
static CUresult call_stream_sync(void) { return cu.cuStreamSynchronize(kit.stream); }
static CUresult call_stream_sync_captured(void) { return cu.cuStreamSynchronize(captured); }
static CUresult call_instantiate(void) {
    CUgraph graph;
    CUgraphExec exec;
    allocating_graph(&graph);
    return cu.cuGraphInstantiateWithFlags(&exec, graph, 0);
}
static CUresult call_upload(void) { return cu.cuGraphUpload(kit.exec, kit.stream); }
static CUresult call_launch(void) { return cu.cuGraphLaunch(kit.exec, kit.stream); }
static CUresult call_graph_trim(void) { return cu.cuDeviceGraphMemTrim(cuda.device); }
static CUresult call_graph_destroy(void) { return cu.cuGraphExecDestroy(kit.exec); }

static const struct call {
    const char *name;
    CUresult (*run)(void);
} calls[] = {
    {"alloc", call_alloc},
    {"large", call_large},
    {"free", call_free},
    {"free of pooled memory", call_free_pooled},
    {"managed", call_managed},
    {"pitch", call_pitch},
    {"async", call_async},
    {"async in the default stream", call_async_default},
    {"async in the thread's stream", call_async_thread},
    {"async in the captured stream", call_async_captured},
    {"async from a pool", call_from_pool},
    {"free async", call_free_async},
    {"free async of linear memory", call_free_async_linear},
    {"pool", call_pool_create},
    {"destroy a pool", call_pool_destroy},
    {"trim a pool", call_pool_trim},
    {"ask a pool", call_pool_attribute},
    {"create", call_create},
    {"release", call_release},
    {"map", call_map},
    {"unmap", call_unmap},
    {"retain", call_retain},
    {"export", call_export},
    {"IPC handle", call_ipc},
    {"array", call_array},
    {"destroy an array", call_array_destroy},
    {"mipmap", call_mipmap},
    {"context", call_context},
    {"destroy a context", call_context_destroy},
    {"primary context", call_primary},
    {"limit", call_limit},
    {"module", call_module},
    {"unload a module", call_module_unload},
    {"library", call_library},
    {"memory info", call_info},
    {"synchronise the context", call_context_sync},
    {"synchronise a stream", call_stream_sync},
    {"synchronise the captured stream", call_stream_sync_captured},
    {"instantiate", call_instantiate},
    {"upload", call_upload},
    {"launch", call_launch},
    {"trim graph memory", call_graph_trim},
    {"destroy a graph", call_graph_destroy},
};

static void *elsewhere(void *argument) {
    const struct call *call = argument;
    MUST(cu.cuCtxSetCurrent(tenant.primary));
    return (void *)(uintptr_t)call->run();
}

static void capture_with(const struct call *call, CUstreamCaptureMode mode, bool here) {
    CUresult result;
    CUgraph graph = NULL;
    CUstreamCaptureStatus status;
    pack_kit();
    MUST(cu.cuStreamCreate(&captured, CU_STREAM_NON_BLOCKING));
    MUST(cu.cuStreamBeginCapture_v2(captured, mode));
    if (here)
        result = call->run();
    else {
        pthread_t thread;
        void *answer;
        if (pthread_create(&thread, NULL, elsewhere, (void *)(uintptr_t)call))
            fail("no thread");
        pthread_join(thread, &answer);
        result = (CUresult)(uintptr_t)answer;
    }
    MUST(cu.cuStreamIsCapturing(captured, &status));
    CUresult end = cu.cuStreamEndCapture(captured, &graph);
    printf("%s, mode %d, %s thread: %d, capture %d, %d, %s\n", call->name, (int)mode,
           here ? "same" : "other", (int)result, (int)status, (int)end,
           graph ? "graph" : "no graph");
    /* The rest goes with the process: whether it can be freed depends on the call. */
    MUST(cu.cuDevicePrimaryCtxReset_v2(cuda.device));
    MUST(vendor.retain());
    free(kit.text);
}

static void run_capture(void) {
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        for (int mode = 0; mode < 3; mode++)
            for (int here = 0; here < 2; here++)
                capture_with(&calls[i], (CUstreamCaptureMode)mode, here);
}

/* -- pointers -------------------------------------------------------------------------------------- */

#define SAY(call) printf("%s: %d\n", #call, (int)cu.call)

static void run_pointers(void) {
    static char own[4096];
    CUdeviceptr small, large, pooled;
    CUmemGenericAllocationHandle pages;
    CUmemAllocationProp what = pages_here();
    CUarray array;
    CUDA_ARRAY_DESCRIPTOR flat = {
        .Width = 64, .Height = 64, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
    CUcontext context, popped;
    void *pinned;
    MUST(cu.cuMemAlloc_v2(&small, 4096));
    MUST(cu.cuMemAlloc_v2(&large, 8 * MIB));
    MUST(cu.cuMemAllocAsync(&pooled, MIB, NULL));
    MUST(cu.cuStreamSynchronize(NULL));
    SAY(cuMemAlloc_v2(&small, 0));
    SAY(cuMemAlloc_v2(NULL, 4096));
    SAY(cuMemAlloc_v2(&small, SIZE_MAX));
    SAY(cuMemAlloc_v2(&small, SIZE_MAX / 2));
    MUST(cu.cuMemAlloc_v2(&small, 4096));
    SAY(cuMemFree_v2(0));
    SAY(cuMemFree_v2(1));
    SAY(cuMemFree_v2(small + 256));
    SAY(cuMemFree_v2(large + 4096));
    SAY(cuMemFree_v2(large + 8 * MIB));
    SAY(cuMemFree_v2((CUdeviceptr)(uintptr_t)own));
    SAY(cuMemFree_v2(pooled + 512));
    SAY(cuMemFreeAsync(small + 256, NULL));
    SAY(cuMemFreeAsync(0, NULL));
    MUST(cu.cuMemHostAlloc(&pinned, 4096, 0));
    SAY(cuMemFree_v2((CUdeviceptr)(uintptr_t)pinned));
    SAY(cuMemFreeHost(pinned));
    SAY(cuMemFreeHost(pinned));
    SAY(cuMemFree_v2(small));
    SAY(cuMemFree_v2(small));
    SAY(cuMemFree_v2(large));
    SAY(cuMemFree_v2(large));
    SAY(cuMemFreeAsync(large, NULL));
    SAY(cuMemFreeAsync(pooled, NULL));
    SAY(cuMemFreeAsync(pooled, NULL));
    SAY(cuMemFree_v2(pooled));
    SAY(cuMemPoolDestroy(NULL));
    SAY(cuMemPoolDestroy(cuda.pool));
    SAY(cuMemPoolTrimTo(NULL, 0));
    MUST(cu.cuMemCreate(&pages, tenant.granularity, &what, 0));
    SAY(cuMemRelease(pages));
    SAY(cuMemRelease(pages));
    SAY(cuMemRelease(0));
    SAY(cuMemRelease(0x123456789));
    SAY(cuMemUnmap(large, tenant.granularity));
    SAY(cuMemUnmap(0, tenant.granularity));
    SAY(cuMemUnmap(1ull << 40, 1ull << 40));
    SAY(cuMemMap(1ull << 40, tenant.granularity, 0, pages, 0));
    SAY(cuMemRetainAllocationHandle(&pages, own));
    SAY(cuMemExportToShareableHandle(own, 77, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    SAY(cuMemImportFromShareableHandle(&pages, (void *)0,
                                       CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    SAY(cuMemCreate(&pages, 0, &what, 0));
    SAY(cuMemCreate(&pages, 4096, &what, 0));
    SAY(cuMemCreate(&pages, tenant.granularity, NULL, 0));
    MUST(cu.cuArrayCreate_v2(&array, &flat));
    SAY(cuArrayDestroy(array));
    SAY(cuArrayDestroy(array));
    SAY(cuArrayDestroy(NULL));
    SAY(cuMipmappedArrayDestroy(NULL));
    flat.Width = 0;
    SAY(cuArrayCreate_v2(&array, &flat));
    SAY(cuArrayCreate_v2(&array, NULL));
    SAY(cuModuleUnload(NULL));
    SAY(cuLibraryUnload(NULL));
    SAY(cuGraphExecDestroy(NULL));
    SAY(cuIpcCloseMemHandle(large));
    SAY(cuIpcOpenMemHandle_v2(&small, (CUipcMemHandle){{0}}, 1));
    SAY(cuCtxCreate_v2(&context, 0, 99));
    SAY(cuCtxCreate_v2(NULL, 0, 0));
    SAY(cuCtxDestroy_v2(NULL));
    MUST(cu.cuCtxCreate_v2(&context, 0, cuda.device));
    MUST(cu.cuMemAlloc_v2(&small, 4096));
    MUST(cu.cuCtxPopCurrent_v2(&popped));
    SAY(cuCtxDestroy_v2(context));
    SAY(cuMemFree_v2(small));
    SAY(cuCtxDestroy_v2(context));
    SAY(cuDevicePrimaryCtxRelease_v2(99));
    SAY(cuDevicePrimaryCtxRetain(&context, 99));
    SAY(cuDeviceGraphMemTrim(99));
    SAY(cuCtxSetLimit((CUlimit)77, 1));
    SAY(cuCtxSynchronize());
    MUST(cu.cuCtxSetCurrent(NULL));
    SAY(cuMemAlloc_v2(&small, 4096));
    SAY(cuMemFree_v2(large));
    SAY(cuMemAllocAsync(&small, 4096, NULL));
    SAY(cuArrayCreate_v2(&array, &flat));
    SAY(cuModuleLoadData((CUmodule *)&pinned, "x"));
    SAY(cuCtxSynchronize());
    SAY(cuMemCreate(&pages, tenant.granularity, &what, 0));
    SAY(cuMemRelease(pages));
}

int main(int argc, char **argv) {
    const char *mode = argc == 2 ? argv[1] : "";
    vendor.load(vendor.library, RTLD_NOW, false);
    MUST(vendor.start());
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(mode, "capture"))
        run_capture();
    else if (!strcmp(mode, "pointers"))
        run_pointers();
    else
        fail("no mode %s", mode);
    return 0;
}
