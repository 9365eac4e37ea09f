/* See real_runtime.h. */
#include "real_runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SETTING "/etc/aliquot/oci-runtime"
#define USUAL "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"

static bool same_bytes(int a, int b) {
    char left[4096], right[4096];
    for (off_t at = 0;; at += (off_t)sizeof left) {
        ssize_t first = pread(a, left, sizeof left, at), second = pread(b, right, sizeof right, at);
        if (first < 0 || first != second || memcmp(left, right, (size_t)first) != 0)
            return false;
        if (first < (ssize_t)sizeof left)
            return true;
    }
}

/* Whether `path` is this program, by another name or as a copy. */
static bool is_self(const char *path) {
    AUTO_CLOSE int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    AUTO_CLOSE int other = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat own, found;
    if (self < 0 || other < 0 || fstat(self, &own) < 0 || fstat(other, &found) < 0)
        return false;
    if (own.st_dev == found.st_dev && own.st_ino == found.st_ino)
        return true;
    return S_ISREG(found.st_mode) && own.st_size == found.st_size && same_bytes(self, other);
}

static bool is_program(const char *path) {
    struct stat found;
    return stat(path, &found) == 0 && S_ISREG(found.st_mode) && access(path, X_OK) == 0;
}

/* The first program of that name in the folders of `list` that is not this one. */
static char *search(const char *name, const char *list) {
    while (list) {
        const char *end = strchrnul(list, ':');
        /* An empty folder would be the working one: a bundle must not bring its own runtime. */
        if (*list == '/') {
            char path[PATH_MAX];
            int length = snprintf(path, sizeof path, "%.*s/%s", (int)(end - list), list, name);
            if (length > 0 && length < PATH_MAX && is_program(path) && !is_self(path))
                return oci_format("%s", path);
        }
        list = *end ? end + 1 : NULL;
    }
    return NULL;
}

static char *named(const char *name, const char *where, struct oci_error *error) {
    char *path = NULL;
    if (*name == '/')
        path = oci_format("%s", name);
    else if (!strchr(name, '/')) {
        const char *list = getenv("PATH");
        path = list ? search(name, list) : NULL;
        if (!path)
            path = search(name, USUAL);
    }
    const char *wrong = !path               ? "is no program on PATH and no absolute path"
                        : is_self(path)     ? "is aliquot-runtime itself"
                        : !is_program(path) ? "is not a program that can be run"
                                            : NULL;
    if (!wrong)
        return path;
    free(path);
    oci_fail(error, "%s: '%s' %s: name the OCI runtime, for example /usr/sbin/runc", where, name,
             wrong);
    return NULL;
}

/* The one line of the setting's file, NULL without a message when there is none. */
static char *read_setting(struct oci_error *error) {
    AUTO_CLOSE int fd = open(SETTING, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        if (errno != ENOENT && errno != ENOTDIR)
            oci_fail(error, SETTING ": %s", strerror(errno));
        return NULL;
    }
    size_t size;
    char *text = oci_read_all(fd, PATH_MAX, &size);
    if (!text) {
        oci_fail(error, SETTING ": %s", strerror(errno));
        return NULL;
    }
    while (size && strchr(" \t\r\n", text[size - 1]))
        text[--size] = 0;
    if (size && strlen(text) == size && !strchr(text, '\n'))
        return text;
    free(text);
    oci_fail(error, SETTING " is not one line with the path of the OCI runtime");
    return NULL;
}

char *oci_real_runtime(struct oci_error *error) {
    *error->text = 0;
    const char *variable = getenv("ALIQUOT_OCI_RUNTIME");
    if (variable && *variable)
        return named(variable, "ALIQUOT_OCI_RUNTIME", error);
    AUTO_FREE char *setting = read_setting(error);
    if (*error->text)
        return NULL;
    if (setting)
        return named(setting, SETTING, error);
    const char *list = getenv("PATH");
    char *path = list ? search("runc", list) : NULL;
    if (!path)
        path = search("runc", USUAL);
    if (!path)
        oci_fail(error, "no runc on PATH or in " USUAL ": install it, or name another OCI runtime "
                        "in " SETTING);
    return path;
}
