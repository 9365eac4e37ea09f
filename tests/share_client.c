/* Programs that share devices with others, run by test_time_real.py in containers. They know of nothing
 * but the driver. Each says "ready", waits for a line, and works in rounds until its input ends; the
 * rounds that it has done are its only output, so that who looks on can tell that it goes on. */
#define CLIENT_CASES
#include "accel.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static const uint64_t kernel_ns = MS / 5;

static uint64_t rounds;

/* A round is done. Each tenth is told: pipes are small. */
static void done(void) {
    if (++rounds % 10)
        return;
    printf("%llu\n", (unsigned long long)rounds);
    fflush(stdout);
}

static void *end_with_input(void *unused) {
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL)
        continue;
    _exit(0);
    return unused;
}

static void ready(void) {
    char line[64];
    pthread_t thread;
    puts("ready");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(0);
    CHECK(pthread_create(&thread, NULL, end_with_input, NULL) == 0);
}

static void kernel(accel_queue queue) { accel_kernel(queue, kernel_ns, ACCEL_WIDE); }

/* BATCH: kernels, and a wait after each BATCH of them. */
static void load(void) {
    uint32_t batch = (uint32_t)client_number(0);
    accel_start(0);
    accel_queue queue = accel_queue_new();
    ready();
    for (;;) {
        for (uint32_t i = 0; i < batch; i++)
            kernel(queue);
        accel_wait(queue);
        done();
    }
}

/* A kernel now and then, which is waited for: the pauses are long enough to be seen. */
static void online(void) {
    accel_start(0);
    accel_queue queue = accel_queue_new();
    ready();
    for (;;) {
        kernel(queue);
        accel_wait(queue);
        usleep(30000);
        done();
    }
}

/* A kernel that waits, in the current context, for who sets `theirs`, and lets whoever waits for `ours`
 * go on. */
static void meet(accel_queue queue, unsigned ours, unsigned theirs, uint64_t round) {
    kernel(queue);
    accel_set(queue, accel_word(ours), round);
    accel_await(queue, accel_word(theirs), round);
    kernel(queue);
}

/* A kernel on each of two devices that waits for the other's. */
static void meet_across_devices(void) {
    accel_queue queue[ACCEL_DEVICES];
    for (int d = 0; d < ACCEL_DEVICES; d++) {
        accel_start(d);
        queue[d] = accel_queue_new();
    }
    accel_words(NULL);
    ready();
    for (uint64_t round = 1;; round++) {
        for (int d = 0; d < ACCEL_DEVICES; d++) {
            accel_enter(d);
            meet(queue[d], (unsigned)d, (unsigned)(1 - d), round);
        }
        for (int d = 0; d < ACCEL_DEVICES; d++) {
            accel_enter(d);
            accel_wait(queue[d]);
        }
        done();
    }
}

/* FILE RANK: the same, with one of the devices in another container. */
static void meet_across_containers(void) {
    unsigned rank = (unsigned)client_number(1);
    accel_start(0);
    accel_words(client_argv[2]);
    accel_queue queue = accel_queue_new();
    ready();
    for (uint64_t round = 1;; round++) {
        meet(queue, rank, 1 - rank, round);
        accel_wait(queue);
        done();
    }
}

/* Graphs that are recorded and launched all the time. */
static void record(void) {
    accel_start(0);
    accel_queue queue = accel_queue_new();
    ready();
    for (;;) {
        accel_record_begin(queue);
        for (int i = 0; i < 4; i++)
            kernel(queue);
        accel_graph graph = accel_record_end(queue);
        for (int i = 0; i < 2; i++)
            accel_graph_launch(graph, queue);
        accel_wait(queue);
        accel_graph_end(graph);
        done();
    }
}

/* A kernel that waits for a word which another queue writes, behind nothing. */
static void write_value(void) {
    accel_start(0);
    accel_words(NULL);
    accel_queue queue = accel_queue_new(), other = accel_queue_new();
    ready();
    for (uint64_t round = 1;; round++) {
        kernel(queue);
        accel_await(queue, accel_word(0), round);
        kernel(queue);
        accel_set(other, accel_word(0), round);
        accel_wait(queue);
        done();
    }
}

/* The same with a flag. */
static void set_flag(void) {
    accel_start(0);
    accel_flag flag = accel_flag_new();
    accel_queue queue = accel_queue_new(), other = accel_queue_new();
    ready();
    for (;;) {
        kernel(queue);
        accel_flag_await(queue, flag);
        kernel(queue);
        accel_flag_set(other, flag);
        accel_wait(queue);
        done();
    }
}

/* A kernel that waits for one that is launched later. */
static void later_launch(void) {
    accel_start(0);
    accel_words(NULL);
    accel_queue queue = accel_queue_new(), other = accel_queue_new();
    ready();
    for (uint64_t round = 1;; round++) {
        kernel(queue);
        accel_await(queue, accel_word(0), round);
        kernel(other);
        kernel(other);
        accel_set(other, accel_word(0), round);
        accel_wait(queue);
        done();
    }
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint64_t wanted;
static uint64_t *words;

/* Releases what the other thread waits for, when it gets the lock that this one holds while it
 * launches. */
static void *release_under_lock(void *unused) {
    for (uint64_t round = 1;; round++) {
        while (wanted < round)
            usleep(100);
        pthread_mutex_lock(&mutex);
        __atomic_store_n(words, round, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&mutex);
    }
    return unused;
}

static void hold_lock(void) {
    pthread_t thread;
    accel_start(0);
    words = accel_words(NULL);
    accel_queue queue = accel_queue_new(), other = accel_queue_new();
    ready();
    CHECK(pthread_create(&thread, NULL, release_under_lock, NULL) == 0);
    for (uint64_t round = 1;; round++) {
        pthread_mutex_lock(&mutex);
        kernel(queue);
        accel_await(queue, accel_word(0), round);
        wanted = round;
        kernel(other);
        kernel(other);
        pthread_mutex_unlock(&mutex);
        accel_wait(queue);
        accel_wait(other);
        done();
    }
}

/* Children come and go while it launches; every other one launches too, in a program of its own. */
static void fork_often(void) {
    accel_start(0);
    accel_queue queue = accel_queue_new();
    ready();
    for (uint64_t round = 1;; round++) {
        kernel(queue);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            if (round % 2)
                execl("/proc/self/exe", "share_client", "once", NULL);
            /* What was its parent's is not the child's. */
            _exit(accel_refuses(queue) ? 0 : 1);
        }
        kernel(queue);
        accel_wait(queue);
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        done();
    }
}

static void once(void) {
    accel_start(0);
    accel_queue queue = accel_queue_new();
    for (int i = 0; i < 3; i++)
        kernel(queue);
    accel_wait(queue);
}

/* A line on its standard input, so that it goes on, and nobody who reads what it says. */
static void start(char **word) {
    int in[2], out = open("/dev/null", O_WRONLY);
    CHECK(pipe(in) == 0 && write(in[1], "go\n", 3) == 3);
    dup2(in[0], STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    execv(word[0], word);
    _exit(127);
}

/* Does as its lines say, for processes that come and go in one container: "start PROGRAM ARGUMENT…"
 * answers with the pid, "signal PID NUMBER" with 0, and "wait PID" with the status when it has ended. */
static void nursery(void) {
    char line[256];
    puts("ready");
    fflush(stdout);
    CHECK(fgets(line, sizeof line, stdin) != NULL);
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *word[9] = {NULL}, *rest = NULL;
        unsigned count = 0;
        for (char *at = strtok_r(line, " \n", &rest); at && count < 8;
             at = strtok_r(NULL, " \n", &rest))
            word[count++] = at;
        CHECK(count >= 2);
        int answer = 0;
        if (!strcmp(word[0], "signal"))
            CHECK(kill((pid_t)atoi(word[1]), atoi(word[2])) == 0);
        else if (!strcmp(word[0], "wait"))
            CHECK(waitpid((pid_t)atoi(word[1]), &answer, 0) > 0);
        else if ((answer = fork()) == 0)
            start(word + 1);
        printf("%d\n", answer);
        fflush(stdout);
    }
}

const struct client_case client_cases[] = {
    {"load", load},
    {"online", online},
    {"meet_across_devices", meet_across_devices},
    {"meet_across_containers", meet_across_containers},
    {"record", record},
    {"write_value", write_value},
    {"set_flag", set_flag},
    {"later_launch", later_launch},
    {"hold_lock", hold_lock},
    {"fork_often", fork_often},
    {"once", once},
    {"nursery", nursery},
    {NULL, NULL},
};
