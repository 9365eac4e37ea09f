/* Looking around in a container's root, which is hostile: everything is resolved inside it, as the
 * container will, and through no link of /proc. */
#ifndef ALIQUOT_OCI_ROOT_H
#define ALIQUOT_OCI_ROOT_H

#include "mounts.h"

#include <dirent.h>
#include <sys/stat.h>

struct oci_root {
    int fd;
    char *path;               /* as this process sees it */
    uint64_t mount;           /* number of its mount */
    struct oci_mounts mounts; /* of the namespace before anything was changed, and what was noted */
};

bool oci_root_open(struct oci_root *root, const char *path, struct oci_error *error);
void oci_root_close(struct oci_root *root);

/* openat2 inside the root. -1 with errno; ELOOP also for links of /proc. */
int oci_open_inside(const struct oci_root *root, const char *path, int flags);
/* openat2 of a path without any link below the folder. */
int oci_open_beneath(int folder, const char *path, int flags);

/* Whether something may be made in the folder: it lies on the root's own mount, or on a tmpfs that
 * only this container has, and not read-only. */
bool oci_may_change(const struct oci_root *root, int folder);

/* Whether an error of making something says that it cannot be made here, by us: the folder is to be
 * covered instead. */
bool oci_cannot_make(int number);

/* Opens a folder of the root (O_PATH), making what is missing of it with mode 0755. Where that may
 * not be, the deepest folder that is there is opened, and `missing` gets the rest, to be freed by
 * the caller; else it gets NULL. Returns -1 with a message. */
int oci_make_folder(const struct oci_root *root, const char *path, char **missing,
                    struct oci_error *error);

/* Path of an open folder inside the root, "/" for the root itself; the caller frees. NULL with a
 * message: it was moved away, or its path is too long. */
char *oci_path_inside(const struct oci_root *root, int fd, struct oci_error *error);

/* Calls `take` with each name in the open folder until it returns false. Returns false with a
 * message when the folder cannot be read or has unreasonably many names. */
bool oci_list(int folder, const char *where, bool (*take)(void *to, int folder, const char *name),
              void *to, struct oci_error *error);

/* The folders of the root that `pattern` names, one component of which may be a pattern of
 * fnmatch: calls `take` with each path. Returns false with a message, its own or of `take`. */
bool oci_glob(const struct oci_root *root, const char *pattern,
              bool (*take)(void *to, const char *path, struct oci_error *error), void *to,
              struct oci_error *error);

#endif
