/* See runc_log.h. */
#include "runc_log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

char *oci_runc_log_line(bool json, const char *message, int64_t unix_seconds) {
    AUTO_FREE char *text = oci_quote(message);
    time_t seconds = unix_seconds;
    struct tm utc;
    char time_text[32] = "1970-01-01T00:00:00Z";
    if (gmtime_r(&seconds, &utc))
        strftime(time_text, sizeof time_text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    if (json)
        return oci_format("{\"level\":\"error\",\"msg\":%s,\"time\":\"%s\"}\n", text, time_text);
    return oci_format("time=\"%s\" level=error msg=%s\n", time_text, text);
}

bool oci_runc_log(const char *path, bool json, const char *message) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    AUTO_FREE char *line = oci_runc_log_line(json, message, now.tv_sec);
    /* Not blocking: the log may be a pipe that nobody has opened yet. */
    AUTO_CLOSE int fd =
        open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
    if (fd < 0)
        return false;
    /* One write, for others append as well. */
    ssize_t done;
    do
        done = write(fd, line, strlen(line));
    while (done < 0 && errno == EINTR);
    return done >= 0;
}
