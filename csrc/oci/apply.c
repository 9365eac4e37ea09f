/* Covering what the survey found. See cover.h. */
#include "cover.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#define EMPTY_FILE "empty"
#define NEW_FILE ".aliquot-new"

enum target {
    TARGET_READY,   /* something lies there on which the cover can be mounted */
    TARGET_MISSING, /* nothing fitting, and it cannot be made here */
    TARGET_FAILED,
};

static enum target cannot(const struct oci_site *site, const char *name, struct oci_error *error) {
    if (oci_cannot_make(errno) || errno == EBUSY)
        return TARGET_MISSING;
    oci_fail(error, "making room for %s in %s: %s", name, site->path, strerror(errno));
    return TARGET_FAILED;
}

/* A new file of ours under a name that is not there. -1 with errno. */
static int new_file(int folder, const char *name) {
    return openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
}

/* Begins a file that will take the place of another. -1 with errno. */
static int begin_new(int folder) {
    int made = new_file(folder, NEW_FILE);
    if (made < 0 && errno == EEXIST && unlinkat(folder, NEW_FILE, 0) == 0)
        made = new_file(folder, NEW_FILE);
    /* The image has a folder of that name. */
    if (made < 0 && (errno == EEXIST || errno == EISDIR))
        errno = EPERM;
    return made;
}

/* Puts the file that was begun in its place, at once, if it is whole. False with errno. */
static bool end_new(int folder, const char *name, bool whole) {
    if (whole && renameat(folder, NEW_FILE, folder, name) == 0)
        return true;
    int number = errno;
    unlinkat(folder, NEW_FILE, 0);
    errno = number;
    return false;
}

/* Writes it all. False with errno. */
static bool write_whole(int fd, const char *bytes, size_t size) {
    while (size) {
        ssize_t done = write(fd, bytes, size);
        if (done <= 0) {
            errno = done < 0 ? errno : ENOSPC;
            return false;
        }
        bytes += done;
        size -= (size_t)done;
    }
    return true;
}

/* Puts a file in the place of a link, at once and for good; it keeps the link's text. */
static bool replace_link(int folder, const char *name, int link) {
    char text[sizeof OCI_WAS_LINK + PATH_MAX] = OCI_WAS_LINK;
    const size_t head = strlen(OCI_WAS_LINK);
    ssize_t length = readlinkat(link, "", text + head, PATH_MAX);
    if (length < 0)
        return false;
    AUTO_CLOSE int made = begin_new(folder);
    return made >= 0 && end_new(folder, name, write_whole(made, text, head + (size_t)length));
}

/* Writes a file of the host into the folder, in the place of what has that name there. False where
 * that cannot be: then it is covered instead. */
static bool copy_into(const struct oci_site *site, const struct oci_cover *cover) {
    AUTO_CLOSE int source = open(cover->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    AUTO_CLOSE int made = source < 0 || strchr(cover->name, '/') ? -1 : begin_new(site->fd);
    if (made < 0)
        return false;
    char piece[16384];
    ssize_t got;
    bool whole = true;
    while (whole && (got = read(source, piece, sizeof piece)) != 0)
        whole = got > 0 && write_whole(made, piece, (size_t)got);
    return end_new(site->fd, cover->name, whole);
}

/* Sees to it that the cover has something to lie on, without changing what may not be changed. */
static enum target prepare(const struct oci_site *site, const struct oci_cover *cover, bool change,
                           struct oci_error *error) {
    const char *name = cover->name;
    if (strchr(name, '/'))
        return TARGET_MISSING;
    AUTO_CLOSE int there = openat(site->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat kind = {0};
    if (there < 0 && errno != ENOENT)
        return cannot(site, name, error);
    if (there >= 0 && fstat(there, &kind) < 0)
        return cannot(site, name, error);
    bool is_folder = there >= 0 && S_ISDIR(kind.st_mode);
    bool is_link = there >= 0 && S_ISLNK(kind.st_mode);
    if (there >= 0 && !is_link && is_folder == cover->folder)
        return TARGET_READY;
    /* A folder where a file should be has things in it: it is hidden, not removed. */
    if (!change || is_folder)
        return TARGET_MISSING;
    if (is_link && !cover->folder)
        return replace_link(site->fd, name, there) ? TARGET_READY : cannot(site, name, error);
    if (there >= 0 && unlinkat(site->fd, name, 0) < 0)
        return cannot(site, name, error);
    AUTO_CLOSE int made = cover->folder ? -1 : new_file(site->fd, name);
    if (cover->folder ? mkdirat(site->fd, name, 0755) == 0 : made >= 0)
        return TARGET_READY;
    /* Another container of the same root may have made it meanwhile. */
    if (errno == EEXIST && fstatat(site->fd, name, &kind, AT_SYMLINK_NOFOLLOW) == 0 &&
        (cover->folder ? S_ISDIR(kind.st_mode) : S_ISREG(kind.st_mode)))
        return TARGET_READY;
    return cannot(site, name, error);
}

static int open_source(const struct oci_work *work, const struct oci_cover *cover,
                       struct oci_error *error) {
    const char *folder = cover->source == OCI_OF_SLICE ? work->plan->region : "";
    AUTO_FREE char *path = cover->source == OCI_OF_SLICE ? oci_format("%s/%s", folder, cover->name)
                                                         : oci_format("%s", cover->path);
    int fd = open(path, O_PATH | O_CLOEXEC);
    struct stat kind;
    if (fd >= 0 && fstat(fd, &kind) == 0 && S_ISDIR(kind.st_mode) == cover->folder)
        return fd;
    oci_fail(error, "opening %s, which is to lie on %s: %s", path, cover->name,
             fd < 0          ? strerror(errno)
             : cover->folder ? "it is no folder"
                             : "it is a folder");
    oci_close(&fd);
    return -1;
}

int oci_stage_folder(struct oci_work *work, struct oci_error *error) {
    char name[16];
    snprintf(name, sizeof name, "%u", work->layers++);
    int fd = mkdirat(work->stage, name, 0755) < 0
                 ? -1
                 : openat(work->stage, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        oci_fail(error, "a folder in %s: %s", work->plan->stage, strerror(errno));
    return fd;
}

/* The folder in which the region's files will lie. */
static int region_folder(struct oci_work *work, const struct oci_cover *cover,
                         struct oci_error *error) {
    AUTO_CLOSE int folder = oci_stage_folder(work, error);
    if (folder < 0)
        return -1;
    for (size_t i = 0; i < cover->inners; i++) {
        AUTO_CLOSE int made = new_file(folder, cover->inner[i].name);
        if (made < 0) {
            oci_fail(error, "%s in %s: %s", cover->inner[i].name, work->plan->stage,
                     strerror(errno));
            return -1;
        }
    }
    int made = folder;
    folder = -1;
    return made;
}

/* What is to be mounted for a cover. */
static bool make_tree(struct oci_work *work, struct oci_cover *cover, struct oci_error *error) {
    AUTO_CLOSE int fd = -1;
    uint32_t flags = (cover->writable ? 0 : OCI_TREE_READ_ONLY) |
                     (cover->folder && cover->source == OCI_OF_HOST ? OCI_TREE_RECURSIVE : 0);
    if (cover->source == OCI_OF_IMAGE)
        return true;
    if (cover->source == OCI_REGION)
        fd = region_folder(work, cover, error);
    else if (cover->source == OCI_EMPTY) {
        fd = openat(work->stage, EMPTY_FILE, O_PATH | O_CLOEXEC);
        if (fd < 0)
            oci_fail(error, "an empty file in %s: %s", work->plan->stage, strerror(errno));
    } else
        fd = open_source(work, cover, error);
    if (fd < 0)
        return false;
    if (oci_tree_copy(&cover->tree, fd, flags))
        return true;
    cover->tree.fd = -1;
    return oci_fail(error, "copying the mount of %s: %s", cover->path ? cover->path : cover->name,
                    strerror(errno));
}

static bool attach(struct oci_work *work, int folder, const char *folder_path,
                   struct oci_cover *cover, struct oci_error *error) {
    AUTO_FREE char *where =
        oci_format("%s/%s", strcmp(folder_path, "/") == 0 ? "" : folder_path, cover->name);
    AUTO_CLOSE int target = oci_open_beneath(folder, cover->name, O_PATH | O_NOFOLLOW);
    if (target < 0)
        return oci_fail(error, "opening %s: %s", where, strerror(errno));
    if (!make_tree(work, cover, error) ||
        !oci_tree_attach(&work->root.mounts, &cover->tree, target, where, error))
        return false;
    if (cover->inners)
        oci_mounts_own(&work->root.mounts, cover->tree.fd);
    for (size_t i = 0; i < cover->inners; i++)
        if (!attach(work, cover->tree.fd, where, &cover->inner[i], error))
            return false;
    /* There may be more names than descriptors. */
    close(cover->tree.fd);
    cover->tree.fd = -1;
    return true;
}

static bool cover_site(struct oci_work *work, struct oci_site *site, struct oci_error *error) {
    bool change = oci_may_change(&work->root, site->fd), missing = false;
    for (size_t i = 0; i < site->covers; i++) {
        struct oci_cover *cover = &site->cover[i];
        cover->copied = cover->copied && change && copy_into(site, cover);
        if (cover->copied)
            continue;
        enum target target = prepare(site, cover, change, error);
        if (target == TARGET_FAILED)
            return false;
        missing |= target == TARGET_MISSING;
    }
    /* An overlay hides what was written beneath it. */
    for (size_t i = 0; missing && i < site->covers; i++)
        site->cover[i].copied = false;
    if (missing && !oci_lay_over(work, site, error))
        return false;
    for (size_t i = 0; i < site->covers; i++)
        if (!site->cover[i].copied && !attach(work, site->fd, site->path, &site->cover[i], error))
            return false;
    return true;
}

static int deepest_first(const void *a, const void *b) {
    const struct oci_site *left = a, *right = b;
    size_t one = strlen(left->path), other = strlen(right->path);
    return one < other ? 1 : one > other ? -1 : strcmp(left->path, right->path);
}

bool oci_apply(struct oci_work *work, struct oci_error *error) {
    /* A folder in a folder is shorter never: what lies in it is kept when it is covered. */
    if (work->sites)
        qsort(work->site, work->sites, sizeof *work->site, deepest_first);
    for (size_t i = 0; i < work->sites; i++)
        if (!cover_site(work, &work->site[i], error))
            return false;
    return true;
}

static void forget_covers(struct oci_cover *cover, size_t count) {
    for (size_t i = 0; i < count; i++) {
        forget_covers(cover[i].inner, cover[i].inners);
        free(cover[i].name);
        oci_close(&cover[i].tree.fd);
    }
    free(cover);
}

void oci_forget_sites(struct oci_work *work) {
    for (size_t i = 0; i < work->sites; i++) {
        struct oci_site *site = &work->site[i];
        forget_covers(site->cover, site->covers);
        oci_close(&site->fd);
        free(site->path);
    }
    free(work->site);
    work->site = NULL;
    work->sites = 0;
}

/* Mounts the stage, for this namespace only. */
static bool mount_stage(struct oci_work *work, struct oci_error *error) {
    const char *path = work->plan->stage;
    AUTO_CLOSE int folder = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return oci_fail(error, "opening the stage %s: %s", path, strerror(errno));
    const struct oci_option option[] = {
        {"source", "aliquot"}, {"size", "4m"}, {"nr_inodes", "65536"}, {"mode", "0755"}, {0}};
    AUTO_FREE char *what = oci_format("a tmpfs on the stage %s", path);
    if (!oci_mount_cut_off(&work->root.mounts, folder, error))
        return false;
    work->stage = oci_mount_new(
        "tmpfs", option, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, what, error);
    if (work->stage < 0)
        return false;
    if (!oci_mount_move(work->stage, folder))
        return oci_fail(error, "%s: %s", what, strerror(errno));
    AUTO_CLOSE int empty = new_file(work->stage, EMPTY_FILE);
    return empty >= 0 || oci_fail(error, "%s: %s", what, strerror(errno));
}

static void end(struct oci_work *work) {
    oci_forget_sites(work);
    oci_root_close(&work->root);
    if (work->stage < 0)
        return;
    /* What was made of it lives on in the container; the namespace needs it no longer. */
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", work->stage);
    umount2(path, MNT_DETACH);
    close(work->stage);
}

bool oci_carry_out(const struct oci_plan *plan, struct oci_error *error) {
    __attribute__((cleanup(end))) struct oci_work work = {.plan = plan, .root.fd = -1, .stage = -1};
    if (!oci_sources_exist(plan, error) || !oci_root_open(&work.root, plan->root, error) ||
        !mount_stage(&work, error))
        return false;
    bool more = true;
    for (unsigned level = 0; more; level++) {
        if (!oci_survey(&work, level, &more, error) || !oci_apply(&work, error))
            return false;
        oci_forget_sites(&work);
    }
    return true;
}
