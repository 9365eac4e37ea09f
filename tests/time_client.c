/* Programs that share a device's time, run by test_time_shim.py behind the shim. They know of nothing
 * but the driver: what they print is for the test, which answers with a line. */
#define CLIENT_CASES
#include "accel.h"

#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

static void say(const char *line) {
    puts(line);
    fflush(stdout);
}

/* Says a word and waits until the test has answered. */
static void ask(const char *word) {
    char line[16];
    say(word);
    CHECK(fgets(line, sizeof line, stdin) != NULL);
}

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* COUNT EACH: kernels of EACH ms in two queues and the default one; prints the nanoseconds that it
 * took. */
static void steady(void) {
    int count = (int)client_number(0);
    uint64_t each = (uint64_t)(client_number(1) * 1e6);
    accel_start(0);
    accel_queue queues[] = {accel_queue_new(), accel_queue_joined(), NULL};
    ask("ready");
    uint64_t began = clock_ns();
    for (int i = 0; i < count; i++)
        accel_kernel(queues[i % 3], each, ACCEL_WIDE);
    accel_wait_all();
    printf("%llu\n", (unsigned long long)(clock_ns() - began));
}

static void dawdle(void *argument) {
    (void)argument;
    usleep(2000);
}

/* KIND: kernels that wait for something else in between: copies in their queue (0), copies in another
 * one (1), host functions (2). 26 ms of kernels, that wait for 200 ms of copies, or 100 of the host. */
static void beside(void) {
    int kind = (int)client_number(0);
    accel_start(0);
    accel_queue kernels = accel_queue_new(), copies = accel_queue_new();
    size_t bytes = 96 << 20;
    uint64_t memory = accel_memory(bytes);
    const void *host = accel_host_memory(bytes);
    for (int i = 0; i < 10; i++) {
        accel_kernel(kernels, MS / 10, ACCEL_WIDE);
        accel_wait(kernels);
    }
    for (int i = 0; i < 50; i++) {
        if (kind == 0)
            accel_copy_in(kernels, memory, host, bytes);
        if (kind == 1) {
            accel_wait_event(copies, accel_record(kernels));
            accel_copy_in(copies, memory, host, bytes);
            accel_wait_event(kernels, accel_record(copies));
        }
        if (kind == 2)
            accel_host_call(kernels, dawdle, NULL);
        for (int j = 0; j < 5; j++)
            accel_kernel(kernels, MS / 10, ACCEL_WIDE);
    }
    accel_wait_all();
    ask("done");
}

/* Kernels one by one, until the input ends. Says "on" after the first hundred. */
static void endless(void) {
    accel_start(0);
    accel_queue queue = accel_queue_new();
    for (int i = 0;; i++) {
        accel_kernel(queue, MS / 5, ACCEL_WIDE);
        if (i % 10 == 9)
            accel_wait(queue);
        if (i == 100)
            say("on");
    }
}

/* A launch when the test says so, and the end of it. */
static void one_launch(void) {
    accel_start(0);
    accel_queue queue = accel_queue_new();
    ask("ready");
    accel_kernel(queue, MS, 1);
    say("launched");
    accel_wait(queue);
    say("done");
}

/* Records while the gate is closed, then launches what it recorded. */
static void record(void) {
    accel_start(0);
    accel_queue queue = accel_queue_new();
    uint64_t memory = accel_memory(64);
    ask("ready");
    accel_record_begin(queue);
    for (int i = 0; i < 50; i++) {
        accel_kernel(queue, MS / 10, 1);
        accel_fill(queue, memory, (unsigned char)i, 64);
    }
    accel_graph graph = accel_record_end(queue);
    ask("recorded");
    for (int i = 0; i < 5; i++)
        accel_graph_launch(graph, queue);
    accel_wait(queue);
    SAME(accel_read(memory), 49);
    accel_graph_end(graph);
    say("done");
}

static void do_work(accel_queue queue, int count) {
    for (int i = 0; i < count; i++)
        accel_kernel(queue, MS / 10, 1 + (unsigned)i % 3);
}

/* Queues and contexts come and go with work of theirs under way. */
static void coming_and_going(void) {
    accel_start(0);
    for (int round = 0; round < 8; round++) {
        void *context[2];
        for (int i = 0; i < 2; i++) {
            context[i] = accel_context_new();
            accel_queue queue = i ? accel_queue_new() : accel_queue_joined();
            accel_queue mine = accel_queue_own();
            do_work(queue, 30);
            do_work(NULL, 10);
            do_work(mine, 10);
            if (round % 2) {
                accel_queue_end(queue);
                accel_queue_end(mine);
            }
        }
        for (int i = 0; i < 2; i++)
            accel_context_end(context[i]);
        accel_enter(0);
    }
    for (int round = 0; round < 4; round++) {
        accel_start(0);
        do_work(NULL, 50);
        accel_stop(0, round % 2);
    }
    say("done");
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *own_queue(void *argument) {
    int count = *(int *)argument;
    accel_enter(0);
    accel_queue queue = accel_queue_own();
    for (int i = 0; i < count; i++) {
        pthread_mutex_lock(&mutex);
        accel_kernel(queue, MS / 20, 1);
        pthread_mutex_unlock(&mutex);
        if (i % 16 == 15)
            accel_wait(queue);
    }
    accel_wait(queue);
    accel_queue_end(queue);
    return NULL;
}

/* Threads with queues of their own, and a lock of the program's that each has while it launches. They
 * end, and others come. */
static void threads(void) {
    int count = 100;
    accel_start(0);
    ask("ready");
    for (int round = 0; round < 2; round++) {
        pthread_t thread[8];
        for (int i = 0; i < 8; i++)
            CHECK(pthread_create(&thread[i], NULL, own_queue, &count) == 0);
        for (int i = 0; i < 8; i++)
            CHECK(pthread_join(thread[i], NULL) == 0);
    }
    say("done");
}

/* A queue waits for a word that another one writes, by what is never held back. */
static void write_value(void) {
    accel_start(0);
    accel_words(NULL);
    accel_queue waits = accel_queue_new(), writes = accel_queue_new();
    accel_await(waits, accel_word(3), 1);
    accel_kernel(waits, MS, 1);
    ask("ready");
    accel_set(writes, accel_word(3), 1);
    accel_wait(waits);
    say("done");
}

/* The same with a flag. */
static void set_flag(void) {
    accel_start(0);
    accel_flag flag = accel_flag_new();
    accel_queue waits = accel_queue_new(), sets = accel_queue_new();
    accel_flag_await(waits, flag);
    accel_kernel(waits, MS, 1);
    ask("ready");
    accel_flag_set(sets, flag);
    accel_wait(waits);
    say("done");
}

/* A queue waits for a word that another one writes behind what is held back. */
static void later_launch(void) {
    accel_start(0);
    accel_words(NULL);
    accel_queue waits = accel_queue_new(), other = accel_queue_new();
    accel_await(waits, accel_word(3), 1);
    accel_kernel(waits, MS, 1);
    ask("ready");
    accel_kernel(other, MS, 1);
    accel_set(other, accel_word(3), 1);
    accel_wait(waits);
    say("done");
}

/* A queue waits for a word that another one fills, by what is held back. */
static void fill(void) {
    accel_start(0);
    uint64_t word = accel_memory(64);
    accel_queue waits = accel_queue_new(), fills = accel_queue_new();
    accel_await(waits, word, 1);
    accel_kernel(waits, MS, 1);
    ask("ready");
    accel_fill(fills, word, 1, 8);
    accel_wait(waits);
    say("done");
}

/* Forks before the driver is initialised, and again when work is under way: the first child has a
 * place of its own, the second is refused by the driver. */
static void forks(void) {
    int status;
    pid_t before = fork();
    accel_start(0);
    accel_queue queue = accel_queue_new();
    do_work(queue, 100);
    accel_wait(queue);
    if (before == 0)
        exit(0);
    do_work(queue, 100);
    pid_t after = fork();
    if (after == 0)
        exit(accel_refuses(queue) ? 0 : 1);
    CHECK(waitpid(before, &status, 0) == before && status == 0);
    CHECK(waitpid(after, &status, 0) == after && status == 0);
    accel_wait(queue);
    say("done");
}

const struct client_case client_cases[] = {
    {"steady", steady},     {"beside", beside},
    {"endless", endless},   {"one_launch", one_launch},
    {"record", record},     {"coming_and_going", coming_and_going},
    {"threads", threads},   {"write_value", write_value},
    {"set_flag", set_flag}, {"later_launch", later_launch},
    {"fill", fill},         {"forks", forks},
    {NULL, NULL},
};
