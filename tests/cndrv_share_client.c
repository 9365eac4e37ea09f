/* Clients of libcndrv.so that share memory and notifiers with each other.
 *
 * cndrv_share_client export MIB PATH   memory by an IPC handle, in a file at PATH; then lines: "free", "take
 *                                      MIB" (more), "note" (place the notifier behind 50 ms), "info", "end"
 *                    open PATH         opens it and reads what is there; then lines: "close", "info", "wait"
 *                                      (for the notifier), "end"
 *                    pass MIB SOCKET   physical memory by a descriptor, to whoever connects; lines: "release"
 *                                      (handle and mapping), "shut" (the descriptor), "info", "end"
 *                    get SOCKET        takes it and maps it; lines: "let" (go), "info", "end"
 * Each answers a line with one.
 */
#include "cndrv_program.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

struct notifier_handle {
    u64 words[8];
};
result cnIpcGetMemHandle(handle *, u64);
result cnIpcOpenMemHandle(u64 *, handle, unsigned);
result cnIpcCloseMemHandle(u64);
result cnIpcGetNotifierHandle(struct notifier_handle *, handle);
result cnIpcOpenNotifierHandle(handle *, struct notifier_handle);
result cnQueueWaitNotifier(handle, handle);
result cnMemCreate(u64 *, u64, void *, u64);
result cnMemRelease(u64);
result cnMemAddressReserve(u64 *, u64, u64, u64, u64);
result cnMemAddressFree(u64, u64);
result cnMemMap(u64, u64, u64, u64, u64);
result cnMemUnmap(u64, u64);
result cnMemSetAccess(u64, u64, void *, u64);
result cnMemExportToShareableHandle(void *, u64, int, u64);
result cnMemImportFromShareableHandle(u64 *, void *, int);

enum { TIMING_ALL = 4, INTERPROCESS = 8, MIB = 1 << 20 };
static const char image[] = "mlu-image 1\nkernel spin parameter\n";
static const unsigned char text[] = "what one wrote another reads";
/* Type, handle types (a descriptor), kind of place (a device), its ordinal, flags. */
static uint32_t placed[5] = {1, 1, 1, 0, 0};

struct paper {
    handle memory;
    u64 bytes;
    struct notifier_handle notifier;
};

static int next(char line[64]) {
    fflush(stdout);
    if (!fgets(line, 64, stdin))
        return 0;
    line[strcspn(line, "\n")] = 0;
    return strcmp(line, "end") != 0;
}

static void export_(u64 bytes, const char *path) {
    struct paper paper = {.bytes = bytes}, again;
    handle queue, notifier, plain, module, spin;
    u64 memory_, more[64], ns = 50000000;
    void *parameters[] = {&ns};
    unsigned taken = 0;
    char line[64];
    WELL(cnMalloc(&memory_, bytes));
    WELL(cnMemcpyHtoD(memory_, text, sizeof text));
    WELL(cnIpcGetMemHandle(&paper.memory, memory_));
    WELL(cnIpcGetMemHandle(&again.memory, memory_));
    check("the same handle", again.memory == paper.memory, 1);
    check("inside of it", cnIpcGetMemHandle(&again.memory, memory_ + 4096) != 0, 1);
    check("no memory", cnIpcGetMemHandle(&again.memory, 4096) != 0, 1);
    WELL(cnCreateQueue(&queue, 0));
    check("with time", cnCreateNotifier(&notifier, INTERPROCESS) != 0, 1);
    WELL(cnCreateNotifier(&notifier, INTERPROCESS | TIMING_ALL));
    WELL(cnCreateNotifier(&plain, 0));
    check("of no other process", cnIpcGetNotifierHandle(&paper.notifier, plain) != 0, 1);
    WELL(cnIpcGetNotifierHandle(&paper.notifier, notifier));
    WELL(cnModuleLoadFatBinary(image, &module));
    WELL(cnModuleGetKernel(module, "spin", &spin));
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    check("paper", write(file, &paper, sizeof paper), sizeof paper);
    close(file);
    puts("ready");
    while (next(line)) {
        if (!strcmp(line, "free"))
            WELL(cnFree(memory_));
        else if (!strncmp(line, "take ", 5)) {
            result got = cnMalloc(&more[taken], (u64)atoi(line + 5) * MIB);
            taken += !got;
            printf("%d\n", got);
            continue;
        } else if (!strcmp(line, "note")) {
            WELL(cnInvokeKernel(spin, 1, 1, 1, UNION1, 0, queue, parameters, NULL));
            WELL(cnPlaceNotifier(notifier, queue));
        } else if (!strcmp(line, "info")) {
            memory("has");
            continue;
        }
        puts("done");
    }
}

static void open_(const char *path) {
    struct paper paper;
    unsigned char found[sizeof text];
    u64 memory_, again;
    handle notifier, queue;
    char line[64];
    int file = open(path, O_RDONLY);
    check("paper", read(file, &paper, sizeof paper), sizeof paper);
    close(file);
    check("what is no handle", cnIpcOpenMemHandle(&memory_, (handle)0x1234567, 0) != 0, 1);
    WELL(cnIpcOpenMemHandle(&memory_, paper.memory, 0));
    WELL(cnIpcOpenMemHandle(&again, paper.memory, 0));
    check("the same memory", again == memory_, 1);
    WELL(cnIpcCloseMemHandle(again));
    WELL(cnMemcpyDtoH(found, memory_, sizeof found));
    WELL(cnIpcOpenNotifierHandle(&notifier, paper.notifier));
    WELL(cnCreateQueue(&queue, 0));
    printf("read: %s\n", (char *)found);
    while (next(line)) {
        if (!strcmp(line, "close")) {
            WELL(cnIpcCloseMemHandle(memory_));
            check("again", cnIpcCloseMemHandle(memory_) != 0, 1);
        } else if (!strcmp(line, "wait")) {
            result before = cnQueryNotifier(notifier);
            WELL(cnQueueWaitNotifier(queue, notifier));
            WELL(cnQueueSync(queue));
            WELL(cnWaitNotifier(notifier));
            printf("%d, then %d\n", before, cnQueryNotifier(notifier));
            continue;
        } else if (!strcmp(line, "info")) {
            memory("has");
            continue;
        }
        puts("done");
    }
}

/* -- Descriptors -- */

static int channel(const char *path, int listens) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (listens) {
        check("bind", bind(fd, (struct sockaddr *)&address, sizeof address), 0);
        check("listen", listen(fd, 1), 0);
    } else
        check("connect", connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* One descriptor, with the memory's size. */
static int carry(int channel, int fd, u64 *bytes) {
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control = {{0}};
    struct iovec part = {bytes, sizeof *bytes};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = sizeof control.room};
    if (fd < 0) {
        check("received", recvmsg(channel, &message, 0), sizeof *bytes);
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        return fd;
    }
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    check("sent", sendmsg(channel, &message, 0), sizeof *bytes);
    return fd;
}

static u64 map(u64 physical, u64 bytes) {
    uint32_t access[5] = {1, 0, 0, 0, 0};
    u64 address;
    WELL(cnMemAddressReserve(&address, bytes, 0, 0, 0));
    WELL(cnMemMap(address, bytes, 0, physical, 0));
    WELL(cnMemSetAccess(address, bytes, access, 1));
    return address;
}

static void pass(u64 bytes, const char *path) {
    u64 physical, again;
    int fd, listening = channel(path, 1);
    char line[64];
    placed[1] = 0;
    WELL(cnMemCreate(&physical, bytes, placed, 0));
    check("none to be shared", cnMemExportToShareableHandle(&fd, physical, 1, 0) != 0, 1);
    WELL(cnMemRelease(physical));
    placed[1] = 1;
    WELL(cnMemCreate(&physical, bytes, placed, 0));
    u64 address = map(physical, bytes);
    WELL(cnMemcpyHtoD(address, text, sizeof text));
    WELL(cnMemExportToShareableHandle(&fd, physical, 1, 0));
    check("nothing known", cnMemExportToShareableHandle(&fd, physical, 7, 0) != 0, 1);
    /* One's own comes back as what it is. */
    WELL(cnMemImportFromShareableHandle(&again, (void *)(intptr_t)fd, 1));
    WELL(cnMemRelease(again));
    puts("ready");
    fflush(stdout);
    int to = accept(listening, NULL, NULL);
    carry(to, fd, &bytes);
    close(to);
    while (next(line)) {
        if (!strcmp(line, "release")) {
            WELL(cnMemUnmap(address, bytes));
            WELL(cnMemAddressFree(address, bytes));
            WELL(cnMemRelease(physical));
        } else if (!strcmp(line, "shut"))
            close(fd);
        else if (!strcmp(line, "info")) {
            memory("has");
            continue;
        }
        puts("done");
    }
}

static void get(const char *path) {
    u64 physical, bytes = 0;
    unsigned char found[sizeof text];
    char line[64];
    int from = channel(path, 0), fd = carry(from, -1, &bytes);
    check("no descriptor",
          cnMemImportFromShareableHandle(&physical, (void *)(intptr_t)from, 1) != 0, 1);
    WELL(cnMemImportFromShareableHandle(&physical, (void *)(intptr_t)fd, 1));
    close(fd);
    u64 address = map(physical, bytes);
    WELL(cnMemcpyDtoH(found, address, sizeof found));
    printf("read: %s\n", (char *)found);
    while (next(line)) {
        if (!strcmp(line, "let")) {
            WELL(cnMemUnmap(address, bytes));
            WELL(cnMemRelease(physical));
        } else if (!strcmp(line, "info")) {
            memory("has");
            continue;
        }
        puts("done");
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    begin_on(0);
    if (!strcmp(what, "export") && argc > 3)
        export_((u64)atoi(argv[2]) * MIB, argv[3]);
    else if (!strcmp(what, "open") && argc > 2)
        open_(argv[2]);
    else if (!strcmp(what, "pass") && argc > 3)
        pass((u64)atoi(argv[2]) * MIB, argv[3]);
    else if (!strcmp(what, "get") && argc > 2)
        get(argv[2]);
    else
        return 2;
    puts("end");
    return 0;
}
