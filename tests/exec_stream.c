/* Streams as objects, host functions, words to wait for, and what launches are refused. */
#include "exec_client.h"

/* ---- Handles and properties ---------------------------------------------------------------- */

static void a_stream_tells_what_it_is(void) {
    client_start(0);
    CUstream stream;
    unsigned flags;
    int priority;
    unsigned long long id, other;
    CUcontext ctx;
    CUdevice dev;
    OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, -100));
    OK(cuStreamGetFlags(stream, &flags));
    SAME(flags, CU_STREAM_NON_BLOCKING);
    int least, greatest;
    OK(cuCtxGetStreamPriorityRange(&least, &greatest));
    OK(cuStreamGetPriority(stream, &priority));
    SAME(priority, greatest);
    OK(cuStreamGetPriority(NULL, &priority));
    SAME(priority, 0);
    OK(cuStreamGetId(stream, &id));
    OK(cuStreamGetId(NULL, &other));
    CHECK(id != other);
    OK(cuStreamGetId(CU_STREAM_LEGACY, &id));
    SAME(id, other);
    OK(cuStreamGetCtx(stream, &ctx));
    CHECK(ctx == client_ctx);
    OK(cuStreamGetDevice(stream, &dev));
    SAME(dev, 0);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamGetFlags(stream, NULL));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(&stream, 2));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(NULL, 0));
}

static void no_value_is_taken_for_a_stream(void) {
    client_start(0);
    CUstream stream = new_stream(0);
    uint64_t words[64] = {1, 1, 1};
    CUstream wrong[] = {(CUstream)3, (CUstream)words, (CUstream)((char *)stream + 8),
                        (CUstream)((char *)stream + (1 << 20)), (CUstream)-1};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamQuery(wrong[i]));
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy(wrong[i]));
        GIVES(CUDA_ERROR_INVALID_HANDLE,
              cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, wrong[i], NULL, NULL));
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(new_event(0), wrong[i]));
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventQuery((CUevent)wrong[i]));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch((CUgraphExec)wrong[i], stream));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphDestroy((CUgraph)wrong[i]));
    }
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy(NULL));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy(CU_STREAM_LEGACY));
}

static void attributes_are_kept_and_copied(void) {
    client_start(0);
    CUstream a = new_stream(0), b = new_stream(0);
    CUstreamAttrValue value, back;
    memset(&value, 0, sizeof value);
    value.accessPolicyWindow.num_bytes = 4096;
    value.accessPolicyWindow.hitRatio = 0.5F;
    value.accessPolicyWindow.hitProp = CU_ACCESS_PROPERTY_PERSISTING;
    OK(cuStreamSetAttribute(a, CU_STREAM_ATTRIBUTE_ACCESS_POLICY_WINDOW, &value));
    OK(cuStreamGetAttribute(a, CU_STREAM_ATTRIBUTE_ACCESS_POLICY_WINDOW, &back));
    SAME(back.accessPolicyWindow.num_bytes, 4096);
    OK(cuStreamCopyAttributes(b, a));
    OK(cuStreamGetAttribute(b, CU_STREAM_ATTRIBUTE_ACCESS_POLICY_WINDOW, &back));
    SAME(back.accessPolicyWindow.num_bytes, 4096);
    value.priority = -1;
    OK(cuStreamSetAttribute(a, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value));
    int priority;
    OK(cuStreamGetPriority(a, &priority));
    SAME(priority, -1);
    value.accessPolicyWindow.hitRatio = 2;
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuStreamSetAttribute(a, CU_STREAM_ATTRIBUTE_ACCESS_POLICY_WINDOW, &value));
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuStreamGetAttribute(a, CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &value));
}

static void streams_and_events_of_a_dead_context_are_refused(void) {
    client_start(0);
    CUcontext other;
    OK(cuCtxCreate(&other, NULL, 0, 0));
    CUstream stream = new_stream(0);
    CUdeviceptr ptr = alloc(4);
    OK(cuMemsetD32Async(ptr, 1, 1, stream));
    OK(cuCtxDestroy(other));
    OK(cuCtxSetCurrent(client_ctx));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamQuery(stream));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(stream));
}

static void a_context_that_goes_drops_what_waits_and_ends_what_runs(void) {
    client_start(0);
    CUcontext other;
    OK(cuCtxCreate(&other, NULL, 0, 0));
    CUmodule module;
    OK(cuModuleLoadData(&module, client_image));
    CUfunction own = client_function(module, "aliquot_spin_ns");
    CUdeviceptr word = alloc(8);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_NON_BLOCKING);
    uint64_t ns = 20 * MS;
    void *params[] = {&ns};
    for (int i = 0; i < 500; i++)
        OK(cuLaunchKernel(own, 1, 1, 1, 1, 1, 1, 0, a, params, NULL));
    OK(cuStreamWaitValue32(b, word, 1, CU_STREAM_WAIT_VALUE_EQ)); /* never comes */
    OK(cuMemsetD32Async(word, 2, 1, b));
    CUevent event = mark(b);
    OK(cuStreamWaitEvent(NULL, event, 0));
    OK(cuMemsetD32Async(word, 3, 1, NULL));
    OK(cuCtxDestroy(other)); /* neither in ten seconds nor never */
    OK(cuCtxSetCurrent(client_ctx));
    run(NULL, MS, 1);
    OK(cuCtxSynchronize());
}

/* ---- Host functions ------------------------------------------------------------------------ */

static _Atomic int calls;
static pthread_t caller;

static void CUDA_CB note_call(void *arg) {
    *(int *)arg = ++calls;
    caller = pthread_self();
}
static void CUDA_CB note_callback(CUstream stream, CUresult status, void *arg) {
    SAME(status, CUDA_SUCCESS);
    CHECK(stream != NULL);
    *(int *)arg = ++calls;
}
static void CUDA_CB wait_for_host(void *arg) {
    while (*(volatile int *)arg == 0)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void host_functions_are_called_in_order_on_another_thread(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    int first = 0, second = 0, third = 0;
    CUdeviceptr word = alloc(4);
    shut(stream, 0);
    OK(cuLaunchHostFunc(stream, note_call, &first));
    OK(cuStreamAddCallback(stream, note_callback, &second, 0));
    OK(cuMemsetD32Async(word, 9, 1, stream));
    OK(cuLaunchHostFunc(stream, note_call, &third));
    SAME(first, 0);
    open_gate(0);
    OK(cuStreamSynchronize(stream));
    SAME(first, 1);
    SAME(second, 2);
    SAME(third, 3);
    CHECK(!pthread_equal(caller, pthread_self()));
    OK(cuLaunchHostFunc(stream, note_call, &third)); /* on an idle stream too */
    OK(cuStreamSynchronize(stream));
    CHECK(!pthread_equal(caller, pthread_self()));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchHostFunc(stream, NULL, NULL));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamAddCallback(stream, note_callback, NULL, 1));
}

static void a_host_function_that_waits_holds_only_its_stream(void) {
    client_start(0);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_NON_BLOCKING);
    CUdeviceptr word = alloc(4);
    int go = 0;
    OK(cuLaunchHostFunc(a, wait_for_host, &go));
    run(a, MS, 1);
    run(b, MS, 1);
    OK(cuMemsetD32Async(word, 5, 1, b));
    OK(cuStreamSynchronize(b));
    SAME(peek32(word), 5);
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(a));
    go = 1;
    OK(cuStreamSynchronize(a));
}

/* ---- Words --------------------------------------------------------------------------------- */

static void a_stream_waits_for_another_streams_word(void) {
    client_start(0);
    CUdeviceptr words = alloc(16);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuStreamWaitValue32(a, words, 5, CU_STREAM_WAIT_VALUE_GEQ));
    OK(cuStreamWriteValue64(a, words + 8, UINT64_C(0x1122334455667788), 0));
    CUevent a_end = mark(a);
    shut(b, 0);
    run(b, 20 * MS, 1);
    CUevent b_run = mark(b);
    OK(cuStreamWriteValue32(b, words, 4, CU_STREAM_WRITE_VALUE_DEFAULT)); /* not yet */
    run(b, 20 * MS, 1);
    OK(cuStreamWriteValue32(b, words, 6, CU_STREAM_WRITE_VALUE_DEFAULT));
    open_gate(0);
    OK(cuStreamSynchronize(a));
    EXACTLY(b_run, a_end, 20);
    uint64_t back;
    OK(cuMemcpyDtoH(&back, words + 8, 8));
    SAME(back, UINT64_C(0x1122334455667788));
}

static void a_stream_waits_for_a_word_that_the_host_writes(void) {
    client_start(0);
    uint64_t *host;
    OK(cuMemHostAlloc((void **)&host, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
    memset(host, 0, 4096);
    CUdeviceptr word;
    OK(cuMemHostGetDevicePointer(&word, host, 0));
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    const struct {
        unsigned flags;
        uint64_t wait, wrong, right;
    } tries[] = {
        {CU_STREAM_WAIT_VALUE_EQ, 7, 8, 7},
        {CU_STREAM_WAIT_VALUE_GEQ, 100, 99, 101},
        {CU_STREAM_WAIT_VALUE_GEQ, 5, UINT64_MAX, 6}, /* cyclic: -1 is before 5 */
        {CU_STREAM_WAIT_VALUE_AND, 4, 3, 6},
        {CU_STREAM_WAIT_VALUE_NOR, UINT64_MAX - 1, 1, 0},
    };
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        *(volatile uint64_t *)host = tries[i].wrong;
        OK(cuStreamWaitValue64(stream, word, tries[i].wait, tries[i].flags));
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
        *(volatile uint64_t *)host = tries[i].right;
        OK(cuStreamSynchronize(stream));
    }
}

static void a_batch_of_words_is_checked_before_any_of_it(void) {
    client_start(0);
    CUdeviceptr words = alloc(64);
    CUstreamBatchMemOpParams ops[3];
    memset(ops, 0, sizeof ops);
    ops[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    ops[0].writeValue.address = words;
    ops[0].writeValue.value = 11;
    ops[1].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    ops[1].waitValue.address = words;
    ops[1].waitValue.value = 11;
    ops[1].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    ops[2].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    ops[2].writeValue.address = words + 4; /* not on a word of eight bytes */
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp(NULL, 3, ops, 0));
    SAME(read32(words), 0);
    ops[2].writeValue.address = words + 8;
    ops[2].writeValue.value64 = 12;
    OK(cuStreamBatchMemOp(NULL, 3, ops, 0));
    SAME(read32(words), 11);
    SAME(read32(words + 8), 12);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp(NULL, 0, ops, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp(NULL, 257, ops, 0));
    uint32_t on_stack;
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuStreamWriteValue32(NULL, (CUdeviceptr)(uintptr_t)&on_stack, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamWaitValue32(NULL, words, 1, 64));
}

/* ---- Launches ------------------------------------------------------------------------------ */

static CUresult try(CUfunction function, unsigned grid, unsigned x, unsigned y, unsigned z,
                    unsigned shared) {
    return cuLaunchKernel(function, grid, 1, 1, x, y, z, shared, NULL, NULL, NULL);
}

static void launches_beyond_the_limits_are_refused(void) {
    client_start(0);
    OK(try(nothing, 1, 1024, 1, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(nothing, 0, 1, 1, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(nothing, 1, 0, 1, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(nothing, 1, 1025, 1, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(nothing, 1, 1, 1, 65, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(nothing, 1, 32, 33, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(nothing, UINT32_C(1) << 31, 1, 1, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuLaunchKernel(nothing, 1, 65536, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    OK(try(nothing, 1, 1, 1, 1, 48 << 10));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(nothing, 1, 1, 1, 1, (48 << 10) + 1));
    OK(cuFuncSetAttribute(nothing, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 64 << 10));
    OK(try(nothing, 1, 1, 1, 1, 64 << 10));
    OK(try(small, 1, 64, 1, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(small, 1, 65, 1, 1, 0));
    OK(try(exact, 1, 32, 2, 1, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, try(exact, 1, 64, 1, 1, 0));
    GIVES(CUDA_ERROR_INVALID_HANDLE, try(NULL, 1, 1, 1, 1, 0));
    GIVES(CUDA_ERROR_INVALID_HANDLE, try((CUfunction)client_module, 1, 1, 1, 1, 0));
}

static void arguments_come_one_by_one_or_packed(void) {
    client_start(0);
    uint64_t a = 1, c = 3;
    uint32_t b = 2;
    void *params[] = {&a, &b, &c};
    OK(cuLaunchKernel(three, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    uint8_t packed[24] = {0};
    size_t bytes = sizeof packed, few = 16;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                     CU_LAUNCH_PARAM_END};
    OK(cuLaunchKernel(three, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, extra));
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuLaunchKernel(three, 1, 1, 1, 1, 1, 1, 0, NULL, params, extra));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(three, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    extra[3] = &few;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(three, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, extra));
    uint64_t ns = 15 * MS;
    bytes = sizeof ns;
    void *spin_extra[] = {CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_BUFFER_POINTER, &ns,
                          CU_LAUNCH_PARAM_END};
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent before = mark(stream);
    OK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, NULL, spin_extra));
    CUevent after = mark(stream);
    OK(cuStreamSynchronize(stream));
    WITHIN(before, after, 15, FOREVER);
}

static void a_cooperative_launch_fits_the_device_at_once(void) {
    client_start(0);
    int blocks, processors;
    OK(cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 256, 0));
    unsigned most = (unsigned)(blocks * processors);
    OK(cuLaunchCooperativeKernel(nothing, most, 1, 1, 256, 1, 1, 0, NULL, NULL));
    GIVES(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
          cuLaunchCooperativeKernel(nothing, most + 1, 1, 1, 256, 1, 1, 0, NULL, NULL));
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
    CUlaunchConfig config = {.gridDimX = most + 1,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = 256,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .attrs = &attribute,
                             .numAttrs = 1};
    GIVES(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, cuLaunchKernelEx(&config, nothing, NULL, NULL));
    attribute.value.cooperative = 0;
    OK(cuLaunchKernelEx(&config, nothing, NULL, NULL));
    attribute.id = CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernelEx(&config, nothing, NULL, NULL));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernelEx(NULL, nothing, NULL, NULL));
}

static void a_launchs_own_priority_counts(void) {
    client_start(0);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_NON_BLOCKING);
    shut(a, 0);
    CUevent start = mark(a);
    for (int i = 0; i < 20; i++)
        run(a, 5 * MS, 4000);
    CUevent a_end = mark(a);
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_PRIORITY, .value.priority = -2};
    CUlaunchConfig config = {.gridDimX = 4000,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = 1024,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .hStream = b,
                             .attrs = &attribute,
                             .numAttrs = 1};
    uint64_t ns = 5 * MS;
    void *params[] = {&ns};
    OK(cuStreamWaitEvent(b, start, 0));
    OK(cuLaunchKernelEx(&config, spin, params, NULL));
    CUevent b_end = mark(b);
    open_gate(0);
    OK(cuCtxSynchronize());
    EXACTLY(start, b_end, 5);
    EXACTLY(start, a_end, 105);
}

static void an_event_of_a_launch_is_recorded(void) {
    client_start(0);
    CUevent event = new_event(CU_EVENT_DISABLE_TIMING);
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT,
                                   .value.launchCompletionEvent = {.event = event}};
    CUlaunchConfig config = {.gridDimX = 1,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = 1,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .attrs = &attribute,
                             .numAttrs = 1};
    uint64_t ns = 20 * MS;
    void *params[] = {&ns};
    OK(cuLaunchKernelEx(&config, spin, params, NULL));
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    OK(cuEventSynchronize(event));
}

static void a_kernel_of_another_context_is_refused(void) {
    client_start(0);
    CUcontext other;
    OK(cuCtxCreate(&other, NULL, 0, 0));
    GIVES(CUDA_ERROR_INVALID_HANDLE, try(nothing, 1, 1, 1, 1, 0));
    CUstream stream = new_stream(0);
    OK(cuCtxSetCurrent(client_ctx));
    GIVES(CUDA_ERROR_INVALID_HANDLE,
          cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    OK(cuStreamSynchronize(stream)); /* but a stream can be waited for from everywhere */
    OK(cuCtxDestroy(other));
}

const struct client_case client_cases[] = {
    {"a_stream_tells_what_it_is", a_stream_tells_what_it_is},
    {"no_value_is_taken_for_a_stream", no_value_is_taken_for_a_stream},
    {"attributes_are_kept_and_copied", attributes_are_kept_and_copied},
    {"streams_and_events_of_a_dead_context_are_refused",
     streams_and_events_of_a_dead_context_are_refused},
    {"a_context_that_goes_drops_what_waits_and_ends_what_runs",
     a_context_that_goes_drops_what_waits_and_ends_what_runs},
    {"host_functions_are_called_in_order_on_another_thread",
     host_functions_are_called_in_order_on_another_thread},
    {"a_host_function_that_waits_holds_only_its_stream",
     a_host_function_that_waits_holds_only_its_stream},
    {"a_stream_waits_for_another_streams_word", a_stream_waits_for_another_streams_word},
    {"a_stream_waits_for_a_word_that_the_host_writes",
     a_stream_waits_for_a_word_that_the_host_writes},
    {"a_batch_of_words_is_checked_before_any_of_it", a_batch_of_words_is_checked_before_any_of_it},
    {"launches_beyond_the_limits_are_refused", launches_beyond_the_limits_are_refused},
    {"arguments_come_one_by_one_or_packed", arguments_come_one_by_one_or_packed},
    {"a_cooperative_launch_fits_the_device_at_once", a_cooperative_launch_fits_the_device_at_once},
    {"a_launchs_own_priority_counts", a_launchs_own_priority_counts},
    {"an_event_of_a_launch_is_recorded", an_event_of_a_launch_is_recorded},
    {"a_kernel_of_another_context_is_refused", a_kernel_of_another_context_is_refused},
    {NULL, NULL},
};
