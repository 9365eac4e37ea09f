/* What tenants send each other: see tenant.h. */
#include "tenant.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

void post(struct letter *letter) {
    letter->sender = (int)getpid();
    struct iovec part = {letter, sizeof *letter};
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (letter->fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        control.head = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), &letter->fd, sizeof(int));
    }
    if (tenant.outbox >= 0 && sendmsg(tenant.outbox, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
        errno != EAGAIN && errno != ENOBUFS && errno != ETOOMANYREFS)
        fail("a letter cannot be sent: %s", strerror(errno));
    if (letter->fd >= 0)
        close(letter->fd);
}

bool receive(struct letter *letter) {
    struct iovec part = {letter, sizeof *letter};
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control.space};
    if (tenant.inbox < 0 ||
        recvmsg(tenant.inbox, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != (ssize_t)sizeof *letter)
        return false;
    letter->fd = -1;
    if (message.msg_controllen >= CMSG_LEN(sizeof(int)))
        memcpy(&letter->fd, CMSG_DATA(&control.head), sizeof(int));
    if (letter->sender != (int)getpid())
        return true;
    if (letter->fd >= 0)
        close(letter->fd);
    return false;
}

/* -- Memory that is offered -------------------------------------------------------------------------- */

/* All tenants are one file. */
int hold_letters(bool fetches) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || flock(fd, fetches ? LOCK_SH : LOCK_EX) < 0)
        fail("no lock: %s", strerror(errno));
    return fd;
}

static uint64_t file_of(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 ? (uint64_t)status.st_ino : 0;
}

void offer(struct thing *thing, struct letter *letter) {
    letter->number = letter->fd;
    letter->file = file_of(letter->fd);
    letter->fd = -1;
    if (thing->descriptor)
        close(thing->descriptor);
    thing->descriptor = letter->number;
}

bool fetch(struct letter *letter) {
    int process = (int)syscall(SYS_pidfd_open, letter->sender, 0);
    if (process < 0)
        return false;
    letter->fd = (int)syscall(SYS_pidfd_getfd, process, letter->number, 0);
    close(process);
    if (letter->fd >= 0 && file_of(letter->fd) == letter->file)
        return true;
    if (letter->fd >= 0)
        close(letter->fd); /* the number is another one's by now */
    return false;
}
