/* What the programs of test_sim_exec.py share: cases on the simulated node that they find. */
#ifndef EXEC_CLIENT_H
#define EXEC_CLIENT_H

#define CLIENT_CASES
#include "client.h"

#include <cuda.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>

/* The call must answer `code`. */
#define GIVES(code, call)                                                                          \
    do {                                                                                           \
        CUresult gives_ = (call);                                                                  \
        if (gives_ != (code))                                                                      \
            fail(__FILE__, __LINE__, #call, gives_, (code));                                       \
    } while (0)
#define OK(call) GIVES(CUDA_SUCCESS, call)

static const char client_image[] =
    ".version 7.0\n.target sm_50\n.address_size 64\n"
    ".visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }\n"
    ".visible .entry nothing() { ret; }\n"
    ".visible .entry three(.param .u64 a, .param .u32 b, .param .u64 c) { ret; }\n"
    ".visible .entry small() .maxntid 64 { ret; }\n"
    ".visible .entry exact() .reqntid 32, 2, 1 { ret; }\n";

static CUcontext client_ctx;
static CUmodule client_module;
static CUfunction spin, nothing, three, small, exact;

static inline CUfunction client_function(CUmodule module, const char *name) {
    CUfunction function;
    OK(cuModuleGetFunction(&function, module, name));
    return function;
}

/* Gates hold streams back until all that a case needs is queued, so that simulated times do not
 * depend on how fast the machine queues it. */
static uint32_t *client_gates;
static CUdeviceptr client_gates_ptr;

/* Makes the stream's further work wait for a gate (0 to 63). */
static inline void shut(CUstream stream, int gate) {
    OK(cuStreamWaitValue32(stream, client_gates_ptr + 4 * (unsigned)gate, 1,
                           CU_STREAM_WAIT_VALUE_EQ));
}

/* Release: a stream that waits looks at the word from another thread. */
static inline void open_gate(int gate) {
    __atomic_store_n(&client_gates[gate], 1, __ATOMIC_RELEASE);
}

/* Makes a device's primary context current and loads the kernels. */
static inline void client_start(int dev) {
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&client_ctx, dev));
    OK(cuCtxSetCurrent(client_ctx));
    if (client_gates == NULL) {
        void *host;
        OK(cuMemHostAlloc(&host, 4096, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP));
        OK(cuMemHostGetDevicePointer(&client_gates_ptr, host, 0));
        memset(host, 0, 4096);
        client_gates = host;
    }
    OK(cuModuleLoadData(&client_module, client_image));
    spin = client_function(client_module, "aliquot_spin_ns");
    nothing = client_function(client_module, "nothing");
    three = client_function(client_module, "three");
    small = client_function(client_module, "small");
    exact = client_function(client_module, "exact");
}

/* Queues a kernel of `ns` on `blocks` blocks of 1024 threads: two fill a multiprocessor. */
static inline void run(CUstream stream, uint64_t ns, unsigned blocks) {
    void *params[] = {&ns};
    OK(cuLaunchKernel(spin, blocks, 1, 1, 1024, 1, 1, 0, stream, params, NULL));
}

static inline CUstream new_stream(unsigned flags) {
    CUstream stream;
    OK(cuStreamCreate(&stream, flags));
    return stream;
}

static inline CUevent new_event(unsigned flags) {
    CUevent event;
    OK(cuEventCreate(&event, flags));
    return event;
}

static inline CUevent mark(CUstream stream) {
    CUevent event = new_event(CU_EVENT_DEFAULT);
    OK(cuEventRecord(event, stream));
    return event;
}

/* Simulated milliseconds from one event to another, both done. */
static inline double between(CUevent from, CUevent to) {
    float ms;
    OK(cuEventElapsedTime(&ms, from, to));
    return (double)ms;
}

static inline CUdeviceptr alloc(size_t bytes) {
    CUdeviceptr ptr;
    OK(cuMemAlloc(&ptr, bytes));
    OK(cuMemsetD8(ptr, 0, bytes));
    OK(cuCtxSynchronize());
    return ptr;
}

static inline uint32_t read32(CUdeviceptr ptr) {
    uint32_t value;
    OK(cuMemcpyDtoH(&value, ptr, sizeof value));
    return value;
}

/* Device addresses are readable by the CPU on the simulator: a look that orders nothing. */
static inline uint32_t peek32(CUdeviceptr ptr) { return *(volatile uint32_t *)(uintptr_t)ptr; }

/* Simulated milliseconds must lie in a range. */
#define WITHIN(from, to, low, high)                                                                \
    do {                                                                                           \
        double within_ = between(from, to);                                                        \
        if (!(within_ >= (low) && within_ <= (high))) {                                            \
            fprintf(stderr, "%s:%d: %s to %s: %f ms, not %g to %g\n", __FILE__, __LINE__, #from,   \
                    #to, within_, (double)(low), (double)(high));                                  \
            _Exit(1);                                                                              \
        }                                                                                          \
    } while (0)
#define EXACTLY(from, to, ms) WITHIN(from, to, (ms)-0.001, (ms) + 0.001)
#define FOREVER 1e9

#endif
