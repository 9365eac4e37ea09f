/* In what order, and beside what, queued work is carried out, on any vendor's driver. Queues are held back until all
 * is queued, so that times of the device do not depend on how fast the machine queues it, nor on who holds it up. */
#define CLIENT_CASES
#include "accel.h"

enum { PAUSE, COPIED }; /* words */

static uint64_t *words;

static void start(void) {
    accel_start(0);
    words = accel_words(NULL);
}

/* Later work of the queue waits for the program. */
static void shut(accel_queue queue) { accel_await(queue, accel_word(PAUSE), 1); }

/* Release: pairs with the queue, which looks at the word from another thread. */
static void open_all(void) { __atomic_store_n(&words[PAUSE], 1, __ATOMIC_RELEASE); }

/* Milliseconds of the device, to the microsecond. */
#define EXACTLY(from, to, ms)                                                                      \
    do {                                                                                           \
        double took_ = accel_between(from, to);                                                    \
        if (!(took_ > (ms)-0.001 && took_ < (ms) + 0.001))                                         \
            fail(__FILE__, __LINE__, #from " to " #to " in us", (long long)(took_ * 1000),         \
                 (long long)((ms)*1000));                                                          \
    } while (0)

static void kernels_follow_each_other_without_a_gap(void) {
    start();
    accel_queue queue = accel_queue_new();
    shut(queue);
    accel_event first = accel_record(queue);
    for (int i = 0; i < 300; i++)
        accel_kernel(queue, MS / 10, 1);
    accel_event last = accel_record(queue);
    CHECK(!accel_done(last));
    open_all();
    accel_wait(queue);
    CHECK(accel_done(last));
    EXACTLY(first, last, 30);
}

/* Of several queues that begin together: the time until the last kernel has ended. */
static double beside_each_other(int count, uint64_t ns, unsigned blocks) {
    accel_queue gate = accel_queue_new();
    accel_event ends[8];
    double last = 0;
    shut(gate);
    accel_event began = accel_record(gate);
    for (int i = 0; i < count; i++) {
        accel_queue queue = accel_queue_new();
        accel_wait_event(queue, began);
        accel_kernel(queue, ns, blocks);
        ends[i] = accel_record(queue);
    }
    open_all();
    accel_wait_all();
    for (int i = 0; i < count; i++)
        if (accel_between(began, ends[i]) > last)
            last = accel_between(began, ends[i]);
    return last;
}

static void small_kernels_of_different_queues_run_together(void) {
    start();
    double ms = beside_each_other(8, 10 * MS, 2);
    CHECK(ms > 9.999 && ms < 10.001);
}

static void large_kernels_of_different_queues_run_one_by_one(void) {
    start();
    double ms = beside_each_other(4, 10 * MS, ACCEL_WIDE);
    CHECK(ms > 39.999 && ms < 40.001);
}

static void a_queue_waits_for_another_by_an_event(void) {
    start();
    accel_queue one = accel_queue_new(), other = accel_queue_new();
    shut(one);
    accel_event began = accel_record(one);
    accel_kernel(one, 5 * MS, 1);
    accel_event middle = accel_record(one);
    accel_wait_event(other, middle);
    accel_kernel(other, 3 * MS, 1);
    accel_event end = accel_record(other);
    CHECK(!accel_done(middle) && !accel_done(end));
    open_all();
    accel_wait_all();
    EXACTLY(began, middle, 5);
    EXACTLY(began, end, 8);
}

/* Milliseconds that a recording takes, three times. */
static double recorded(uint64_t ns, uint64_t ns_beside) {
    accel_queue queue = accel_queue_new(), beside = accel_queue_new(), in = accel_queue_new();
    uint64_t memory = accel_memory(4096);
    accel_record_begin(queue);
    accel_event fork = accel_record(queue);
    accel_wait_event(beside, fork);
    accel_kernel(queue, ns, 2);
    if (ns_beside)
        accel_kernel(beside, ns_beside, 2);
    accel_event join = accel_record(beside);
    accel_wait_event(queue, join);
    accel_kernel(queue, 5 * MS, 2);
    accel_graph graph = accel_record_end(queue);
    accel_fill(queue, memory, 3, 4096);
    accel_wait(queue); /* for nothing that was recorded */
    SAME(accel_read(memory), 3);
    shut(in);
    accel_event began = accel_record(in);
    for (int i = 0; i < 3; i++)
        accel_graph_launch(graph, in);
    accel_event end = accel_record(in);
    open_all();
    accel_wait(in);
    accel_graph_end(graph);
    return accel_between(began, end);
}

static void what_is_recorded_runs_when_it_is_launched(void) {
    start();
    double ms = recorded(20 * MS, 0);
    CHECK(ms > 74.999 && ms < 75.001);
}

static void branches_of_a_recording_run_together(void) {
    start();
    double ms = recorded(20 * MS, 12 * MS);
    CHECK(ms > 74.999 && ms < 75.001);
}

static int called;
static void count(void *argument) {
    SAME(called, (int)(intptr_t)argument);
    called++;
}

static void functions_of_the_host_are_called_in_order_and_hold_the_queue_up(void) {
    start();
    accel_queue queue = accel_queue_new();
    uint64_t memory = accel_memory(4096);
    unsigned char *host = accel_host_memory(4096);
    host[0] = 1;
    shut(queue);
    for (int i = 0; i < 50; i++) {
        accel_kernel(queue, 1000, 1);
        accel_host_call(queue, count, (void *)(intptr_t)i);
    }
    accel_copy_in(queue, memory, host, 1);
    accel_copy(queue, memory + 64, memory, 1);
    accel_copy_out(queue, host + 1, memory + 64, 1);
    accel_set(queue, accel_word(COPIED), 7);
    SAME(called, 0);
    host[0] = 9; /* read when the queue comes to it */
    open_all();
    accel_wait(queue);
    SAME(called, 50);
    SAME(host[1], 9);
    SAME(__atomic_load_n(&words[COPIED], __ATOMIC_ACQUIRE), 7);
}

static void memory_of_a_pool_comes_and_goes_in_order(void) {
    start();
    accel_queue one = accel_queue_new(), other = accel_queue_new();
    uint64_t seen = accel_memory(4096);
    shut(one);
    for (unsigned char i = 1; i <= 20; i++) {
        uint64_t memory = accel_take(one, 1 << 20);
        accel_fill(one, memory, i, 1 << 20);
        accel_copy(one, seen + i, memory + (1 << 20) - 1, 1);
        accel_give(one, memory);
    }
    accel_event end = accel_record(one);
    accel_wait_event(other, end);
    accel_copy(other, seen + 100, seen + 20, 1);
    open_all();
    accel_wait(other);
    for (unsigned char i = 1; i <= 20; i++)
        SAME(accel_read(seen + i), i);
    SAME(accel_read(seen + 100), 20);
}

const struct client_case client_cases[] = {
    {"kernels_follow_each_other_without_a_gap", kernels_follow_each_other_without_a_gap},
    {"small_kernels_of_different_queues_run_together",
     small_kernels_of_different_queues_run_together},
    {"large_kernels_of_different_queues_run_one_by_one",
     large_kernels_of_different_queues_run_one_by_one},
    {"a_queue_waits_for_another_by_an_event", a_queue_waits_for_another_by_an_event},
    {"what_is_recorded_runs_when_it_is_launched", what_is_recorded_runs_when_it_is_launched},
    {"branches_of_a_recording_run_together", branches_of_a_recording_run_together},
    {"functions_of_the_host_are_called_in_order_and_hold_the_queue_up",
     functions_of_the_host_are_called_in_order_and_hold_the_queue_up},
    {"memory_of_a_pool_comes_and_goes_in_order", memory_of_a_pool_comes_and_goes_in_order},
    {NULL, NULL},
};
