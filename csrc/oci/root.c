/* See root.h. */
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

/* More than any image has in one folder, and than one pattern finds. */
#define MOST_NAMES (1u << 20)
#define MOST_FOLDERS 256u

static int open_how(int folder, const char *path, int flags, uint64_t resolve) {
    struct open_how how = {.flags = (unsigned)flags | O_CLOEXEC, .resolve = resolve};
    /* EAGAIN: something was moved meanwhile, so that the kernel cannot tell inside from outside. */
    int fd, tries = 64;
    do
        fd = (int)syscall(SYS_openat2, folder, path, &how, sizeof how);
    while (fd < 0 && (errno == EINTR || (errno == EAGAIN && --tries)));
    return fd;
}

int oci_open_inside(const struct oci_root *root, const char *path, int flags) {
    return open_how(root->fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

int oci_open_beneath(int folder, const char *path, int flags) {
    return open_how(folder, path, flags,
                    RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

bool oci_root_open(struct oci_root *root, const char *path, struct oci_error *error) {
    *root = (struct oci_root){.fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)};
    if (root->fd < 0 || !(root->path = oci_path_of(root->fd)) ||
        !(root->mount = oci_mount_id(root->fd)))
        return oci_fail(error, "opening the container's root %s: %s", path, strerror(errno));
    if (strcmp(root->path, "/") == 0)
        return oci_fail(error, "the container's root %s is the node's own", path);
    return oci_mounts_read(&root->mounts, error);
}

void oci_root_close(struct oci_root *root) {
    oci_close(&root->fd);
    free(root->path);
    oci_mounts_clear(&root->mounts);
}

static bool in_root(const struct oci_root *root, const char *path) {
    size_t length = strlen(root->path);
    return strncmp(path, root->path, length) == 0 && (!path[length] || path[length] == '/');
}

/* Whether the file system of the folder is mounted nowhere but in the root: a volume that several
 * containers share is mounted on the node, too. */
static bool only_here(const struct oci_root *root, int folder) {
    uint64_t id = oci_mount_id(folder), device = 0;
    for (size_t i = 0; i < root->mounts.count; i++)
        if (root->mounts.mount[i].id == id)
            device = root->mounts.mount[i].device;
    if (!id || !device)
        return false;
    for (size_t i = 0; i < root->mounts.count; i++)
        if (root->mounts.mount[i].device == device && !in_root(root, root->mounts.mount[i].point))
            return false;
    return true;
}

bool oci_may_change(const struct oci_root *root, int folder) {
    struct statvfs found;
    struct statfs kind;
    if (fstatvfs(folder, &found) < 0 || found.f_flag & ST_RDONLY || fstatfs(folder, &kind) < 0)
        return false;
    return oci_mount_id(folder) == root->mount ||
           ((uint32_t)kind.f_type == TMPFS_MAGIC && only_here(root, folder));
}

bool oci_cannot_make(int number) {
    return number == EROFS || number == EACCES || number == EPERM || number == ENOSPC ||
           number == EDQUOT || number == EOVERFLOW || number == EMLINK;
}

static const char *why_not_a_folder(int number) {
    if (number == ELOOP)
        return "its links lead in a circle, or through /proc";
    return strerror(number);
}

/* Makes the folders of `rest` in `*folder`, which moves along. Returns what could not be made, NULL
 * for nothing; `*number` is 0 or the errno of something worse. */
static const char *make_rest(const struct oci_root *root, int *folder, const char *rest,
                             int *number) {
    *number = 0;
    while (*rest) {
        char name[NAME_MAX + 1];
        size_t length = strcspn(rest, "/");
        memcpy(name, rest, length);
        name[length] = 0;
        if (!oci_may_change(root, *folder))
            return rest;
        if (mkdirat(*folder, name, 0755) < 0 && errno != EEXIST) {
            if (!oci_cannot_make(errno))
                *number = errno;
            return rest;
        }
        /* (What is there by now another container of the same root has made, or it is a link.) */
        int made = openat(*folder, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (made < 0) {
            *number = errno;
            return rest;
        }
        close(*folder);
        *folder = made;
        rest += length + (rest[length] == '/');
    }
    return NULL;
}

int oci_make_folder(const struct oci_root *root, const char *path, char **missing,
                    struct oci_error *error) {
    *missing = NULL;
    AUTO_FREE char *there = oci_format("%s", path);
    size_t length = strlen(there);
    AUTO_CLOSE int folder = -1;
    while ((folder = oci_open_inside(root, length ? there : "/", O_PATH | O_DIRECTORY)) < 0) {
        if (errno != ENOENT || !length) {
            oci_fail(error, "opening the folder %s of the image: %s", there,
                     why_not_a_folder(errno));
            return -1;
        }
        while (there[--length] != '/')
            ;
        there[length] = 0;
    }
    const char *rest = path + length + (path[length] == '/');
    if (*rest && oci_on_pseudo(folder)) {
        oci_fail(error, "making %s: it lies on proc, sysfs, cgroup, devpts or the like", path);
        return -1;
    }
    int number;
    rest = make_rest(root, &folder, rest, &number);
    if (rest && number) {
        const char *why =
            number == ENOTDIR || number == ELOOP ? "a link there leads nowhere" : strerror(number);
        oci_fail(error, "making the folder %.*s of the image: %s",
                 (int)(rest - path + (long)strcspn(rest, "/")), path, why);
        return -1;
    }
    if (rest)
        *missing = oci_format("%s", rest);
    int opened = folder;
    folder = -1;
    return opened;
}

char *oci_path_inside(const struct oci_root *root, int fd, struct oci_error *error) {
    AUTO_FREE char *path = oci_path_of(fd);
    if (!path || !in_root(root, path)) {
        oci_fail(error, "a folder of the image %s",
                 path ? "was moved out of its root" : strerror(errno));
        return NULL;
    }
    const char *inside = path + strlen(root->path);
    return oci_format("%s", *inside ? inside : "/");
}

static void close_listing(DIR **listing) {
    if (*listing)
        closedir(*listing);
}

bool oci_list(int folder, const char *where, bool (*take)(void *to, int folder, const char *name),
              void *to, struct oci_error *error) {
    AUTO_CLOSE int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    __attribute__((cleanup(close_listing))) DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (!listing)
        return oci_fail(error, "listing %s: %s", where, strerror(errno));
    fd = -1;
    for (unsigned count = 0; count < MOST_NAMES; count++) {
        errno = 0;
        struct dirent *entry = readdir(listing);
        if (!entry)
            return !errno || oci_fail(error, "listing %s: %s", where, strerror(errno));
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            !take(to, folder, entry->d_name))
            return true;
    }
    return oci_fail(error, "listing %s: more than %u names", where, MOST_NAMES);
}

struct globbing {
    const char *pattern;
    char **name;
    size_t count;
};

static bool take_match(void *to, int folder, const char *name) {
    struct globbing *globbing = to;
    (void)folder;
    /* As Python has it: no escapes, and a leading period is a letter like any other. */
    if (fnmatch(globbing->pattern, name, FNM_NOESCAPE) == 0) {
        oci_grow(&globbing->name, globbing->count, sizeof *globbing->name);
        globbing->name[globbing->count++] = oci_format("%s", name);
    }
    return globbing->count <= MOST_FOLDERS;
}

static void clear_globbing(struct globbing *globbing) {
    for (size_t i = 0; i < globbing->count; i++)
        free(globbing->name[i]);
    free(globbing->name);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool oci_glob(const struct oci_root *root, const char *pattern,
              bool (*take)(void *to, const char *path, struct oci_error *error), void *to,
              struct oci_error *error) {
    const char *special = strpbrk(pattern, "*?[");
    if (!special)
        return take(to, pattern, error);
    const char *first = special;
    while (first[-1] != '/')
        first--;
    size_t length = strcspn(first, "/");
    AUTO_FREE char *parent = oci_format("%.*s", (int)(first - pattern), pattern);
    AUTO_FREE char *component = oci_format("%.*s", (int)length, first);
    AUTO_CLOSE int folder = oci_open_inside(root, parent, O_PATH | O_DIRECTORY);
    if (folder < 0) {
        if (errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG)
            return true;
        return oci_fail(error, "opening the folder %s of the image: %s", parent,
                        why_not_a_folder(errno));
    }
    __attribute__((cleanup(clear_globbing))) struct globbing globbing = {.pattern = component};
    if (!oci_list(folder, parent, take_match, &globbing, error))
        return false;
    if (globbing.count > MOST_FOLDERS)
        return oci_fail(error, "the image has more than %u folders %s", MOST_FOLDERS, pattern);
    if (globbing.count)
        qsort(globbing.name, globbing.count, sizeof *globbing.name, by_text);
    for (size_t i = 0; i < globbing.count; i++) {
        AUTO_FREE char *path = oci_format("%s%s%s", parent, globbing.name[i], first + length);
        if (!take(to, path, error))
            return false;
    }
    return true;
}
