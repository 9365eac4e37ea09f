/* See client.h. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian");

static char *socket_path(struct oci_error *error) {
    const char *base = getenv("ALIQUOT_RUNTIME_DIR");
    if (!base || !*base)
        base = "/run/aliquot";
    if (*base != '/') {
        oci_fail(error, "ALIQUOT_RUNTIME_DIR: '%s' is not an absolute path", base);
        return NULL;
    }
    return oci_format("%s/runtime.sock", base);
}

/* Why an agent that is to be started does not answer. */
static enum oci_answer absent(struct oci_error *error, const char *path, const char *why) {
    oci_fail(error, "the agent does not answer on %s: %s: start it (systemctl start aliquot-agent)",
             path, why);
    return OCI_ABSENT;
}

/* A socket's address has room for 107 bytes: a longer path is reached through its folder. */
static bool make_address(struct sockaddr_un *address, const char *path, int *folder) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) < sizeof address->sun_path) {
        strcpy(address->sun_path, path);
        return true;
    }
    const char *slash = strrchr(path, '/');
    AUTO_FREE char *parent = oci_format("%.*s", (int)(slash - path), path);
    *folder = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*folder < 0)
        return false;
    snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d%s", *folder, slash);
    return true;
}

static int connect_agent(const char *path) {
    AUTO_CLOSE int folder = -1;
    struct sockaddr_un address;
    if (!make_address(&address, path, &folder))
        return -1;
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    /* Bounds the wait for room in the agent's queue, and of each send. */
    struct timeval limit = {.tv_sec = OCI_REPLY_SECONDS};
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0)
        return -1;
    int result;
    do
        result = connect(fd, (const struct sockaddr *)&address, sizeof address);
    while (result < 0 && errno == EINTR);
    if (result < 0) {
        if (errno == EAGAIN)
            errno = ETIMEDOUT;
        return -1;
    }
    int connected = fd;
    fd = -1;
    return connected;
}

static bool send_whole(int fd, const char *bytes, size_t size) {
    while (size) {
        ssize_t done = send(fd, bytes, size, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0) {
            if (errno == EAGAIN)
                errno = ETIMEDOUT;
            return false;
        }
        bytes += done;
        size -= (size_t)done;
    }
    return true;
}

static bool receive_whole(int fd, void *bytes, size_t size, int64_t deadline) {
    char *at = bytes;
    while (size) {
        int64_t left = deadline - oci_now();
        struct pollfd waited = {.fd = fd, .events = POLLIN};
        int ready = left > 0 ? poll(&waited, 1, (int)(left / 1000000 + 1)) : 0;
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready == 0)
            errno = ETIMEDOUT;
        if (ready <= 0)
            return false;
        ssize_t done = recv(fd, at, size, MSG_DONTWAIT);
        if (done < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (done == 0)
            errno = ECONNRESET;
        if (done <= 0)
            return false;
        at += done;
        size -= (size_t)done;
    }
    return true;
}

/* The frame of a request, or NULL when it would be too long. */
static char *make_request(enum aliquot_wire_kind kind, const struct oci_key_value *pair,
                          size_t count, size_t *size, struct oci_error *error) {
    struct aliquot_wire_header header = {.magic = ALIQUOT_WIRE_MAGIC, .kind = kind};
    size_t length = 0;
    for (size_t i = 0; i < count; i++)
        length += strlen(pair[i].key) + 1 + strlen(pair[i].value) + 1;
    if (length > ALIQUOT_WIRE_MAX) {
        oci_fail(error, "the request to the agent is too long: %zu bytes, at most %u", length,
                 ALIQUOT_WIRE_MAX);
        return NULL;
    }
    header.length = (uint32_t)length;
    char *frame = oci_allocate(sizeof header + length + 1, 1), *at = frame + sizeof header;
    memcpy(frame, &header, sizeof header);
    for (size_t i = 0; i < count; i++)
        at += sprintf(at, "%s=%s", pair[i].key, pair[i].value) + 1;
    *size = sizeof header + length;
    return frame;
}

static enum oci_answer read_reply(int fd, enum aliquot_wire_kind kind, const char *path,
                                  struct oci_error *error) {
    int64_t deadline = oci_now() + OCI_REPLY_SECONDS * 1000000000ll;
    struct aliquot_wire_header header;
    if (!receive_whole(fd, &header, sizeof header, deadline))
        return absent(error, path, strerror(errno));
    if (header.magic != ALIQUOT_WIRE_MAGIC || header.kind != kind ||
        header.status > ALIQUOT_WIRE_REFUSED || header.length > ALIQUOT_WIRE_MAX) {
        oci_fail(error, "%s answers as no agent of this version does", path);
        return OCI_ABSENT;
    }
    AUTO_FREE char *text = oci_allocate(header.length + 1, 1);
    if (!receive_whole(fd, text, header.length, deadline))
        return absent(error, path, strerror(errno));
    if (header.status == ALIQUOT_WIRE_OK)
        return OCI_GRANTED;
    oci_fail(error, "%s", *text ? text : "the agent refuses and does not say why");
    return OCI_REFUSED;
}

enum oci_answer oci_ask(enum aliquot_wire_kind kind, const struct oci_key_value *pair, size_t count,
                        struct oci_error *error) {
    AUTO_FREE char *path = socket_path(error);
    if (!path)
        return OCI_ABSENT;
    size_t size;
    AUTO_FREE char *frame = make_request(kind, pair, count, &size, error);
    if (!frame)
        return OCI_ABSENT;
    AUTO_CLOSE int fd = connect_agent(path);
    if (fd < 0)
        return absent(error, path, strerror(errno));
    /* An agent that refuses early may close before it has read all: its reply counts. */
    if (!send_whole(fd, frame, size) && errno != EPIPE)
        return absent(error, path, strerror(errno));
    return read_reply(fd, kind, path, error);
}
