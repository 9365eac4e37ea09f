/* Mounts by descriptors: nothing is looked up twice, so nothing can be exchanged in between. */
#ifndef ALIQUOT_OCI_MOUNTS_H
#define ALIQUOT_OCI_MOUNTS_H

#include "util.h"

/* One line of /proc/self/mountinfo. */
struct oci_mount {
    uint64_t id, parent;
    uint64_t device;   /* major << 32 | minor */
    const char *point; /* as this process sees it */
    bool shared;       /* what is mounted on it appears elsewhere too */
    bool fit;          /* something of ours may lie on it: it was looked at */
};

struct oci_mounts {
    struct oci_mount *mount;
    size_t count;
    char *text; /* owns the points */
};

bool oci_mounts_read(struct oci_mounts *mounts, struct oci_error *error);
void oci_mounts_clear(struct oci_mounts *mounts);

/* Notes that the open file lies on a mount of our own, which only this namespace has. */
void oci_mounts_own(struct oci_mounts *mounts, int fd);

/* Number of the mount on which an open file lies, 0 with errno when the kernel does not say. */
uint64_t oci_mount_id(int fd);

/* Whether an open file lies on a file system that shows the kernel's or processes' own things
 * (proc, sysfs, cgroup, devpts, …), on which nothing of ours has business. */
bool oci_on_pseudo(int fd);

/* Path of an open file as this process sees it, at most PATH_MAX; the caller frees. NULL with
 * errno. */
char *oci_path_of(int fd);

enum oci_tree {
    OCI_TREE_READ_ONLY = 1,
    OCI_TREE_RECURSIVE = 2, /* with what is mounted in it */
};

/* A mount that is ready and lies nowhere yet: nosuid, nodev, private. */
struct oci_tree_mount {
    int fd;
    uint32_t flags;
    bool unrestricted; /* the kernel cannot yet restrict a mount that lies nowhere */
};

/* A copy of what lies at the open file `fd`. On kernels before 5.12 mounts in it stay behind. */
bool oci_tree_copy(struct oci_tree_mount *tree, int fd, uint32_t flags);

/* Attaches the mount to the open file `target`, on top of whatever lies there, and restricts it.
 * Refused where `target` lies on a pseudo file system, or on a mount that others share: they would
 * see it. `where` is for the message. What `mounts` has not is looked up, and noted there. */
bool oci_tree_attach(struct oci_mounts *mounts, const struct oci_tree_mount *tree, int target,
                     const char *where, struct oci_error *error);
/* That check alone. */
bool oci_may_lie_on(struct oci_mounts *mounts, int target, const char *where,
                    struct oci_error *error);

/* A copy with all that lies in it and exactly as it is, to be put back elsewhere by
 * oci_mount_move. -1 with errno. */
int oci_mount_copy(int fd);
bool oci_mount_move(int tree, int target);

struct oci_option {
    const char *key, *value; /* value NULL: a flag */
};

/* A new file system of that kind, mounted nowhere yet; `attributes` are MOUNT_ATTR_…. -1 with a
 * message, which says what `what` is. */
int oci_mount_new(const char *kind, const struct oci_option *option, uint32_t attributes,
                  const char *what, struct oci_error *error);

/* Where mounts on the mount of the open file `fd` would reach other namespaces, they no longer
 * do: it receives, and sends nothing. */
bool oci_mount_cut_off(struct oci_mounts *mounts, int fd, struct oci_error *error);

#endif
