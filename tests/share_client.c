/* Programs that share devices with others, run by test_time_real.py in containers. They know of nothing
 * but the driver. Each says "ready", waits for a line, and works in rounds until its input ends; the
 * rounds that it has done are its only output, so that who looks on can tell that it goes on.
 *
 * A kernel of the simulator takes time and does nothing else. One that waits for something, as those do
 * that spin on a word in memory, is a kernel with a wait for that word behind it: neither comes to its
 * end before the word has its value. */
#include "exec_client.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEVICES = 2, MOST_BLOCKS = 4000 };

static uint64_t kernel_ns = MS / 5;

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

/* One device's context, kernel and stream. */
struct part {
    CUcontext context;
    CUfunction spin;
    CUstream stream;
    CUdeviceptr words; /* shared by all parts */
};

static void *words_at; /* of the host */

/* Words that all who share them see: a file's, or this process' own. */
static void map_words(const char *path) {
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    CHECK(!path || (fd >= 0 && ftruncate(fd, 4096) == 0));
    words_at = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                    path ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS, fd, 0);
    CHECK(words_at != MAP_FAILED);
}

static struct part part_of(int device) {
    struct part part;
    CUmodule module;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&part.context, device));
    OK(cuCtxSetCurrent(part.context));
    OK(cuModuleLoadData(&module, client_image));
    part.spin = client_function(module, "aliquot_spin_ns");
    part.stream = new_stream(CU_STREAM_NON_BLOCKING);
    if (words_at == NULL)
        map_words(NULL);
    CUresult result = cuMemHostRegister(words_at, 4096,
                                        CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
    CHECK(result == CUDA_SUCCESS || result == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    OK(cuMemHostGetDevicePointer(&part.words, words_at, 0));
    return part;
}

static void kernel(const struct part *part, CUstream stream) {
    void *params[] = {&kernel_ns};
    OK(cuCtxSetCurrent(part->context));
    OK(cuLaunchKernel(part->spin, MOST_BLOCKS, 1, 1, 1024, 1, 1, 0, stream, params, NULL));
}

static void set(const struct part *part, CUstream stream, unsigned word, uint32_t value) {
    OK(cuCtxSetCurrent(part->context));
    OK(cuStreamWriteValue32(stream, part->words + 4 * word, value, 0));
}

static void await(const struct part *part, CUstream stream, unsigned word, uint32_t value) {
    OK(cuCtxSetCurrent(part->context));
    OK(cuStreamWaitValue32(stream, part->words + 4 * word, value, CU_STREAM_WAIT_VALUE_GEQ));
}

static void finish(const struct part *part, CUstream stream) {
    OK(cuCtxSetCurrent(part->context));
    OK(cuStreamSynchronize(stream));
}

/* BATCH: kernels, and a wait after each BATCH of them. */
static void load(void) {
    uint32_t batch = (uint32_t)client_number(0);
    struct part part = part_of(0);
    ready();
    for (;;) {
        for (uint32_t i = 0; i < batch; i++)
            kernel(&part, part.stream);
        finish(&part, part.stream);
        done();
    }
}

/* A kernel on each of two devices that waits for the other's. */
static void meet_across_devices(void) {
    struct part part[DEVICES];
    for (int d = 0; d < DEVICES; d++)
        part[d] = part_of(d);
    ready();
    for (uint32_t round = 1;; round++) {
        for (unsigned d = 0; d < DEVICES; d++) {
            kernel(&part[d], part[d].stream);
            set(&part[d], part[d].stream, d, round);
            await(&part[d], part[d].stream, 1 - d, round);
            kernel(&part[d], part[d].stream);
        }
        for (int d = 0; d < DEVICES; d++)
            finish(&part[d], part[d].stream);
        done();
    }
}

/* FILE RANK: the same, with one of the devices in another container. */
static void meet_across_containers(void) {
    unsigned rank = (unsigned)client_number(1);
    map_words(client_argv[2]);
    struct part part = part_of(0);
    ready();
    for (uint32_t round = 1;; round++) {
        kernel(&part, part.stream);
        set(&part, part.stream, rank, round);
        await(&part, part.stream, 1 - rank, round);
        kernel(&part, part.stream);
        finish(&part, part.stream);
        done();
    }
}

/* Graphs that are captured and launched all the time. */
static void capture(void) {
    struct part part = part_of(0);
    ready();
    for (;;) {
        CUgraph graph;
        CUgraphExec exec;
        OK(cuStreamBeginCapture(part.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
        for (int i = 0; i < 4; i++)
            kernel(&part, part.stream);
        OK(cuStreamEndCapture(part.stream, &graph));
        OK(cuGraphInstantiate(&exec, graph, 0));
        for (int i = 0; i < 2; i++)
            OK(cuGraphLaunch(exec, part.stream));
        finish(&part, part.stream);
        OK(cuGraphExecDestroy(exec));
        OK(cuGraphDestroy(graph));
        done();
    }
}

/* A kernel that waits for a word which another stream writes, behind nothing. */
static void write_value(void) {
    struct part part = part_of(0);
    CUstream other = new_stream(CU_STREAM_NON_BLOCKING);
    ready();
    for (uint32_t round = 1;; round++) {
        kernel(&part, part.stream);
        await(&part, part.stream, 0, round);
        kernel(&part, part.stream);
        set(&part, other, 0, round);
        finish(&part, part.stream);
        done();
    }
}

/* A kernel that waits for one that is launched later. */
static void later_launch(void) {
    struct part part = part_of(0);
    CUstream other = new_stream(CU_STREAM_NON_BLOCKING);
    ready();
    for (uint32_t round = 1;; round++) {
        kernel(&part, part.stream);
        await(&part, part.stream, 0, round);
        kernel(&part, other);
        kernel(&part, other);
        set(&part, other, 0, round);
        finish(&part, part.stream);
        done();
    }
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint32_t wanted;
static struct part locked;

/* Releases what the other thread waits for, when it gets the lock that this one holds while it
 * launches. */
static void *release_under_lock(void *unused) {
    for (uint32_t round = 1;; round++) {
        while (wanted < round)
            usleep(100);
        pthread_mutex_lock(&mutex);
        __atomic_store_n((uint32_t *)words_at, round, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&mutex);
    }
    return unused;
}

static void hold_lock(void) {
    pthread_t thread;
    locked = part_of(0);
    CUstream other = new_stream(CU_STREAM_NON_BLOCKING);
    ready();
    CHECK(pthread_create(&thread, NULL, release_under_lock, NULL) == 0);
    for (uint32_t round = 1;; round++) {
        pthread_mutex_lock(&mutex);
        kernel(&locked, locked.stream);
        await(&locked, locked.stream, 0, round);
        wanted = round;
        kernel(&locked, other);
        kernel(&locked, other);
        pthread_mutex_unlock(&mutex);
        finish(&locked, locked.stream);
        finish(&locked, other);
        done();
    }
}

/* Children come and go while it launches; every other one launches too, in a program of its own. */
static void fork_often(void) {
    struct part part = part_of(0);
    ready();
    for (uint32_t round = 1;; round++) {
        kernel(&part, part.stream);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CUcontext context;
            if (round % 2)
                execl("/proc/self/exe", "share_client", "once", NULL);
            /* What was its parent's is not the child's. */
            _exit(cuCtxGetCurrent(&context) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
        }
        kernel(&part, part.stream);
        finish(&part, part.stream);
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        done();
    }
}

static void once(void) {
    struct part part = part_of(0);
    for (int i = 0; i < 3; i++)
        kernel(&part, part.stream);
    finish(&part, part.stream);
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
    {"meet_across_devices", meet_across_devices},
    {"meet_across_containers", meet_across_containers},
    {"capture", capture},
    {"write_value", write_value},
    {"later_launch", later_launch},
    {"hold_lock", hold_lock},
    {"fork_often", fork_often},
    {"once", once},
    {"nursery", nursery},
    {NULL, NULL},
};
