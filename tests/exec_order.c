/* The order in which queued work is carried out: streams, events, priorities, processors. */
#define _GNU_SOURCE
#include "exec_client.h"

#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>

/* ---- Time ---------------------------------------------------------------------------------- */

static void a_kernel_takes_its_time(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_DEFAULT);
    shut(stream, 0);
    CUevent before = mark(stream);
    for (int i = 0; i < 10; i++)
        run(stream, 3 * MS, 1);
    CUevent after = mark(stream);
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(after));
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    float ms;
    GIVES(CUDA_ERROR_NOT_READY, cuEventElapsedTime(&ms, before, after));
    open_gate(0);
    OK(cuEventSynchronize(after));
    OK(cuStreamQuery(stream));
    EXACTLY(before, after, 30);
    EXACTLY(after, before, -30);
}

/* The simulator's clock, and ours: in any thread but the first its reading `late` from now is given out
 * only when the first has gone on. */
static pthread_t first_thread;
static _Atomic int late, waits_with_it;

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (late > 0 && !pthread_equal(pthread_self(), first_thread) && --late == 0) {
        waits_with_it = 1;
        while (waits_with_it)
            sched_yield();
    }
    return result;
}

/* The engine may read the clock, and look at the gate much later: what was queued before that was opened
 * was there first. */
static void a_word_counts_as_written_after_what_was_queued_before_it(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    first_thread = pthread_self();
    for (int gate = 0; gate < 8; gate++) {
        shut(stream, gate);
        late = 1 + gate / 2;
        while (!waits_with_it)
            sched_yield();
        CUevent before = mark(stream);
        usleep(100);
        run(stream, 3 * MS, 1);
        CUevent after = mark(stream);
        open_gate(gate);
        waits_with_it = 0;
        OK(cuEventSynchronize(after));
        EXACTLY(before, after, 3);
    }
}

/* Kernels that are queued behind each other leave no gap, however late anybody looks. */
static void kernels_follow_each_other_without_a_gap(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    shut(stream, 0);
    CUevent first = mark(stream);
    for (int i = 0; i < 500; i++)
        run(stream, MS / 10, 1);
    CUevent last = mark(stream);
    open_gate(0);
    OK(cuStreamSynchronize(stream));
    EXACTLY(first, last, 50);
}

static void small_kernels_of_different_streams_run_together(void) {
    client_start(0);
    CUevent ends[8];
    CUstream gate = new_stream(CU_STREAM_NON_BLOCKING);
    shut(gate, 0);
    CUevent start = mark(gate);
    for (int i = 0; i < 8; i++) {
        CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
        OK(cuStreamWaitEvent(stream, start, 0));
        run(stream, 10 * MS, 2);
        ends[i] = mark(stream);
    }
    open_gate(0);
    OK(cuCtxSynchronize());
    for (int i = 0; i < 8; i++)
        EXACTLY(start, ends[i], 10);
}

/* Each of them takes all processors of the device. */
static void large_kernels_of_different_streams_run_one_by_one(void) {
    client_start(0);
    CUstream gate = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent ends[4];
    shut(gate, 0);
    CUevent start = mark(gate);
    for (int i = 0; i < 4; i++) {
        CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
        OK(cuStreamWaitEvent(stream, start, 0));
        run(stream, 10 * MS, 4000);
        ends[i] = mark(stream);
    }
    open_gate(0);
    OK(cuCtxSynchronize());
    double last = 0;
    for (int i = 0; i < 4; i++)
        if (between(start, ends[i]) > last)
            last = between(start, ends[i]);
    CHECK(last > 39.999 && last < 40.001);
}

static void a_higher_priority_starts_first(void) {
    int least, greatest;
    client_start(0);
    OK(cuCtxGetStreamPriorityRange(&least, &greatest));
    CHECK(greatest < least);
    CUstream low, high;
    OK(cuStreamCreateWithPriority(&low, CU_STREAM_NON_BLOCKING, least));
    OK(cuStreamCreateWithPriority(&high, CU_STREAM_NON_BLOCKING, greatest));
    shut(low, 0);
    CUevent start = mark(low);
    run(low, 5 * MS, 4000);
    CUevent first = mark(low);
    for (int i = 1; i < 20; i++)
        run(low, 5 * MS, 4000);
    CUevent low_end = mark(low);
    OK(cuStreamWaitEvent(high, first, 0));
    run(high, 5 * MS, 4000);
    CUevent high_end = mark(high);
    open_gate(0);
    OK(cuCtxSynchronize());
    EXACTLY(start, high_end, 10); /* behind the one that ran, not behind twenty */
    EXACTLY(start, low_end, 105);
}

/* ---- Default streams ----------------------------------------------------------------------- */

static void the_legacy_stream_waits_for_blocking_streams(void) {
    client_start(0);
    CUdeviceptr word = alloc(4);
    CUstream a = new_stream(CU_STREAM_DEFAULT), b = new_stream(CU_STREAM_NON_BLOCKING);
    shut(a, 0);
    OK(cuMemsetD32Async(word, 1, 1, a));
    shut(b, 1);
    CUevent done = mark(NULL);
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(done));
    open_gate(0);
    OK(cuEventSynchronize(done));
    SAME(peek32(word), 1);
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(b));
    OK(cuStreamQuery(a));
    open_gate(1);
}

static void blocking_streams_wait_for_the_legacy_stream(void) {
    client_start(0);
    CUstream a = new_stream(CU_STREAM_DEFAULT), b = new_stream(CU_STREAM_NON_BLOCKING);
    shut(NULL, 0);
    CUevent zero = mark(NULL), with = mark(a), without = mark(b);
    OK(cuEventQuery(without));
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(with));
    open_gate(0);
    OK(cuStreamSynchronize(a));
    OK(cuEventQuery(zero));
    WITHIN(zero, with, 0, FOREVER);
}

/* Work of other threads counts too, and what comes after in a blocking stream waits again. */
static void the_legacy_stream_is_a_barrier_in_the_middle(void) {
    client_start(0);
    CUstream a = new_stream(CU_STREAM_DEFAULT), b = new_stream(CU_STREAM_DEFAULT);
    shut(a, 0);
    run(a, 20 * MS, 1);
    CUevent a1 = mark(a);
    run(NULL, 20 * MS, 1);
    CUevent zero = mark(NULL);
    run(b, 20 * MS, 1);
    CUevent b1 = mark(b);
    open_gate(0);
    OK(cuCtxSynchronize());
    EXACTLY(a1, zero, 20);
    EXACTLY(zero, b1, 20);
}

static void *query_own_stream(void *arg) {
    OK(cuCtxSetCurrent(client_ctx));
    OK(cuStreamQuery(CU_STREAM_PER_THREAD));
    unsigned long long *id = arg;
    OK(cuStreamGetId(CU_STREAM_PER_THREAD, id));
    run(CU_STREAM_PER_THREAD, MS, 1);
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    return NULL;
}

static void each_thread_has_a_default_stream_of_its_own(void) {
    client_start(0);
    shut(CU_STREAM_PER_THREAD, 0);
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(CU_STREAM_PER_THREAD));
    unsigned long long own, other[2];
    OK(cuStreamGetId(CU_STREAM_PER_THREAD, &own));
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, query_own_stream, &other[i]);
        pthread_join(thread, NULL);
        CHECK(other[i] != own);
    }
    CHECK(other[0] != other[1]);
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(CU_STREAM_PER_THREAD));
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL)); /* it takes part in the legacy order */
    open_gate(0);
    OK(cuStreamSynchronize(NULL));
    OK(cuStreamQuery(CU_STREAM_PER_THREAD));
}

/* ---- Events -------------------------------------------------------------------------------- */

static void a_stream_waits_for_the_record_of_the_time_of_the_call(void) {
    client_start(0);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_NON_BLOCKING);
    CUstream c = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = new_event(CU_EVENT_DEFAULT);
    shut(a, 0);
    run(a, MS, 1);
    OK(cuEventRecord(event, a));
    CUevent a_end = mark(a);
    OK(cuStreamWaitEvent(b, event, 0));
    OK(cuEventRecord(event, c)); /* at once: but b still waits for the first record */
    OK(cuEventQuery(event));
    CUevent b_end = mark(b);
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(b_end));
    open_gate(0);
    OK(cuEventSynchronize(b_end));
    OK(cuEventQuery(a_end));
    EXACTLY(a_end, b_end, 0);
}

static void an_event_that_was_never_recorded_holds_nothing(void) {
    client_start(0);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = new_event(CU_EVENT_DEFAULT), other = mark(a);
    float ms;
    OK(cuEventQuery(event));
    OK(cuEventSynchronize(event));
    OK(cuStreamWaitEvent(a, event, 0));
    OK(cuStreamQuery(a));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, event, other));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, other, event));
}

static void events_without_timing_have_no_time(void) {
    client_start(0);
    CUevent plain = new_event(CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC), other = mark(NULL);
    float ms;
    OK(cuEventRecordWithFlags(plain, NULL, CU_EVENT_RECORD_DEFAULT));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, plain, other));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuEventElapsedTime(NULL, other, other));
    OK(cuEventElapsedTime(&ms, other, other));
    CHECK(ms == 0);
    CUevent none;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuEventCreate(&none, 64));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuEventCreate(&none, CU_EVENT_INTERPROCESS));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuEventCreate(NULL, 0));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuEventRecordWithFlags(plain, NULL, CU_EVENT_RECORD_EXTERNAL));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamWaitEvent(NULL, plain, CU_EVENT_WAIT_EXTERNAL));
    OK(cuEventDestroy(plain));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventDestroy(plain));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventQuery(plain));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(plain, NULL));
}

static void an_event_may_go_while_streams_wait_for_it(void) {
    client_start(0);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_NON_BLOCKING);
    shut(a, 0);
    CUevent event = mark(a), a_end = mark(a);
    OK(cuStreamWaitEvent(b, event, 0));
    OK(cuEventDestroy(event));
    CUevent after = mark(b);
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(b));
    open_gate(0);
    OK(cuStreamSynchronize(b));
    EXACTLY(a_end, after, 0);
}

static void a_whole_context_is_recorded_and_made_to_wait(void) {
    client_start(0);
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_DEFAULT);
    CUevent all = new_event(CU_EVENT_DEFAULT);
    shut(a, 0);
    shut(b, 0);
    run(a, 20 * MS, 1);
    run(b, 40 * MS, 1);
    OK(cuCtxRecordEvent(client_ctx, all));
    CUevent b_end = mark(b);
    open_gate(0);
    OK(cuEventSynchronize(all));
    OK(cuStreamQuery(a));
    OK(cuEventQuery(b_end));
    EXACTLY(b_end, all, 0);
    CUstream c = new_stream(CU_STREAM_NON_BLOCKING);
    shut(c, 1);
    CUevent gate = mark(c);
    OK(cuCtxWaitEvent(client_ctx, gate));
    CUstream later = new_stream(CU_STREAM_NON_BLOCKING);
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(a));
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(later));
    open_gate(1);
    OK(cuCtxSynchronize());
}

/* ---- Queues -------------------------------------------------------------------------------- */

static _Atomic bool launched;

static void *launch_one_more(void *stream) {
    OK(cuCtxSetCurrent(client_ctx));
    run(stream, 1000, 1);
    launched = true;
    return NULL;
}

static void a_full_queue_makes_its_launcher_wait(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    pthread_t thread;
    shut(stream, 0);
    for (int i = 0; i < 1023; i++)
        run(stream, 1000, 1);
    pthread_create(&thread, NULL, launch_one_more, stream);
    nanosleep(&(struct timespec){.tv_nsec = 20 * (long)MS}, NULL);
    CHECK(!launched);
    open_gate(0);
    pthread_join(thread, NULL);
    OK(cuStreamSynchronize(stream));
}

static void what_a_destroyed_stream_holds_is_still_done(void) {
    client_start(0);
    CUdeviceptr word = alloc(4);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    shut(stream, 0);
    OK(cuMemsetD32Async(word, 7, 1, stream));
    OK(cuStreamDestroy(stream));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamQuery(stream));
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy(stream));
    SAME(peek32(word), 0);
    open_gate(0);
    OK(cuCtxSynchronize());
    SAME(peek32(word), 7);
}

static void freeing_memory_waits_for_its_device(void) {
    client_start(0);
    CUdeviceptr ptr = alloc(1 << 20);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    run(stream, 30 * MS, 1);
    OK(cuMemsetD8Async(ptr, 3, 1 << 20, stream));
    CUevent end = mark(stream);
    OK(cuMemFree(ptr));
    OK(cuEventQuery(end));
}

static void *launch_and_wait(void *arg) {
    CUstream stream = arg;
    OK(cuCtxSetCurrent(client_ctx));
    for (int i = 0; i < 300; i++) {
        CUevent event = mark(stream);
        for (int j = 0; j < 10; j++)
            run(stream, (uint64_t)(j % 3) * 2000, 1 + (unsigned)j);
        CUevent end = mark(stream);
        if (i % 3 == 0)
            OK(cuEventSynchronize(end));
        else if (i % 3 == 1)
            OK(cuStreamSynchronize(stream));
        OK(cuEventDestroy(event));
        OK(cuEventDestroy(end));
    }
    OK(cuStreamSynchronize(stream));
    return NULL;
}

static void threads_launch_in_streams_of_their_own_and_shared_ones(void) {
    client_start(0);
    pthread_t threads[8];
    CUstream shared = new_stream(CU_STREAM_DEFAULT);
    for (int i = 0; i < 8; i++) {
        CUstream stream = i < 3 ? shared : i == 3 ? NULL : new_stream(i % 2);
        pthread_create(&threads[i], NULL, launch_and_wait, stream);
    }
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    OK(cuCtxSynchronize());
    OK(cuStreamQuery(shared));
}

const struct client_case client_cases[] = {
    {"a_kernel_takes_its_time", a_kernel_takes_its_time},
    {"a_word_counts_as_written_after_what_was_queued_before_it",
     a_word_counts_as_written_after_what_was_queued_before_it},
    {"kernels_follow_each_other_without_a_gap", kernels_follow_each_other_without_a_gap},
    {"small_kernels_of_different_streams_run_together",
     small_kernels_of_different_streams_run_together},
    {"large_kernels_of_different_streams_run_one_by_one",
     large_kernels_of_different_streams_run_one_by_one},
    {"a_higher_priority_starts_first", a_higher_priority_starts_first},
    {"the_legacy_stream_waits_for_blocking_streams", the_legacy_stream_waits_for_blocking_streams},
    {"blocking_streams_wait_for_the_legacy_stream", blocking_streams_wait_for_the_legacy_stream},
    {"the_legacy_stream_is_a_barrier_in_the_middle", the_legacy_stream_is_a_barrier_in_the_middle},
    {"each_thread_has_a_default_stream_of_its_own", each_thread_has_a_default_stream_of_its_own},
    {"a_stream_waits_for_the_record_of_the_time_of_the_call",
     a_stream_waits_for_the_record_of_the_time_of_the_call},
    {"an_event_that_was_never_recorded_holds_nothing",
     an_event_that_was_never_recorded_holds_nothing},
    {"events_without_timing_have_no_time", events_without_timing_have_no_time},
    {"an_event_may_go_while_streams_wait_for_it", an_event_may_go_while_streams_wait_for_it},
    {"a_whole_context_is_recorded_and_made_to_wait", a_whole_context_is_recorded_and_made_to_wait},
    {"a_full_queue_makes_its_launcher_wait", a_full_queue_makes_its_launcher_wait},
    {"what_a_destroyed_stream_holds_is_still_done", what_a_destroyed_stream_holds_is_still_done},
    {"freeing_memory_waits_for_its_device", freeing_memory_waits_for_its_device},
    {"threads_launch_in_streams_of_their_own_and_shared_ones",
     threads_launch_in_streams_of_their_own_and_shared_ones},
    {NULL, NULL},
};
