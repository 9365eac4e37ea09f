/* Covering a folder in which nothing may be changed, by a read-only overlay. See cover.h. */
#include "cover.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

/* Mounts in the folder that are to stay where they are. */
struct kept {
    char *name; /* in the folder */
    int tree;
};
struct keeping {
    struct kept *kept;
    size_t count;
};

static void clear_keeping(struct keeping *keeping) {
    for (size_t i = 0; i < keeping->count; i++) {
        free(keeping->kept[i].name);
        close(keeping->kept[i].tree);
    }
    free(keeping->kept);
}

static bool is_covered(const struct oci_site *site, const char *name) {
    for (size_t i = 0; i < site->covers; i++)
        if (strcmp(site->cover[i].name, name) == 0 || oci_lies_in(name, site->cover[i].name))
            return true;
    return false;
}

/* Whether another mount on the same mount lies over the place of this one, out of whose sight it
 * is. */
static bool is_hidden(const struct oci_mounts *mounts, const struct oci_mount *mount) {
    for (size_t i = 0; i < mounts->count; i++)
        if (mounts->mount[i].parent == mount->parent &&
            oci_lies_in(mount->point, mounts->mount[i].point))
            return true;
    return false;
}

static bool keep_mounts(const struct oci_site *site, const char *whole_path,
                        struct keeping *keeping, struct oci_error *error) {
    __attribute__((cleanup(oci_mounts_clear))) struct oci_mounts mounts;
    if (!oci_mounts_read(&mounts, error))
        return false;
    for (size_t i = 0; i < mounts.count; i++) {
        const struct oci_mount *mount = &mounts.mount[i];
        if (mount->parent != site->mount || !oci_lies_in(mount->point, whole_path))
            continue;
        const char *name = mount->point + strlen(whole_path) + 1;
        if (is_covered(site, name) || is_hidden(&mounts, mount))
            continue;
        AUTO_CLOSE int there = oci_open_beneath(site->fd, name, O_PATH);
        AUTO_CLOSE int tree = there < 0 ? -1 : oci_mount_copy(there);
        if (tree < 0)
            return oci_fail(error, "keeping what is mounted on %s/%s: %s", site->path, name,
                            strerror(errno));
        oci_grow(&keeping->kept, keeping->count, sizeof *keeping->kept);
        keeping->kept[keeping->count++] = (struct kept){oci_format("%s", name), tree};
        tree = -1;
    }
    return true;
}

/* Makes the file or folder that stands for a cover, and the folders on the way. */
static bool make_placeholder(int layer, const struct oci_cover *cover) {
    AUTO_FREE char *path = oci_format("%s", cover->name);
    for (char *slash = path; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        if (mkdirat(layer, path, 0755) < 0 && errno != EEXIST)
            return false;
    }
    if (cover->folder)
        return mkdirat(layer, path, 0755) == 0;
    AUTO_CLOSE int made = openat(layer, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return made >= 0;
}

static int make_layer(struct oci_work *work, const struct oci_site *site, struct oci_error *error) {
    AUTO_CLOSE int layer = oci_stage_folder(work, error);
    if (layer < 0)
        return -1;
    for (size_t i = 0; i < site->covers; i++)
        if (!make_placeholder(layer, &site->cover[i])) {
            oci_fail(error, "standing in for %s/%s: %s", site->path, site->cover[i].name,
                     strerror(errno));
            return -1;
        }
    struct stat kind;
    /* The overlay's folder is the layer's: it looks as what it covers. Who owns it may be nobody
     * that exists in a user namespace. */
    if (fstat(site->fd, &kind) < 0 ||
        (fchown(layer, kind.st_uid, kind.st_gid) < 0 && errno != EINVAL && errno != EPERM) ||
        fchmod(layer, kind.st_mode & 07777) < 0) {
        oci_fail(error, "making a folder like %s: %s", site->path, strerror(errno));
        return -1;
    }
    int made = layer;
    layer = -1;
    return made;
}

static int make_overlay(struct oci_work *work, const struct oci_site *site,
                        struct oci_error *error) {
    AUTO_CLOSE int layer = make_layer(work, site, error);
    struct statvfs found;
    if (layer < 0)
        return -1;
    /* By descriptor: that very folder, and no text in which a colon would count. */
    char layers[80];
    snprintf(layers, sizeof layers, "/proc/self/fd/%d:/proc/self/fd/%d", layer, site->fd);
    const struct oci_option option[] = {{"source", "aliquot"}, {"lowerdir", layers}, {NULL, NULL}};
    AUTO_FREE char *what =
        oci_format("an overlay over %s, where nothing can be changed", site->path);
    uint32_t attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV;
    if (fstatvfs(site->fd, &found) < 0 || found.f_flag & ST_NOSUID)
        attributes |= MOUNT_ATTR_NOSUID;
    if (found.f_flag & ST_NOEXEC)
        attributes |= MOUNT_ATTR_NOEXEC;
    return oci_mount_new("overlay", option, attributes, what, error);
}

bool oci_lay_over(struct oci_work *work, struct oci_site *site, struct oci_error *error) {
    if (strcmp(site->path, "/") == 0)
        return oci_fail(error,
                        "'%s' cannot be made in the container's root, which is read-only: "
                        "the image must have it",
                        site->cover[0].name);
    if (!oci_may_lie_on(&work->root.mounts, site->fd, site->path, error))
        return false;
    __attribute__((cleanup(clear_keeping))) struct keeping keeping = {0};
    AUTO_FREE char *whole_path = oci_format("%s%s", work->root.path, site->path);
    if (!keep_mounts(site, whole_path, &keeping, error))
        return false;
    AUTO_CLOSE int overlay = make_overlay(work, site, error);
    if (overlay < 0)
        return false;
    if (!oci_mount_move(overlay, site->fd))
        return oci_fail(error, "mounting an overlay on %s: %s", site->path, strerror(errno));
    for (size_t i = 0; i < keeping.count; i++) {
        const struct kept *kept = &keeping.kept[i];
        AUTO_CLOSE int target = oci_open_beneath(overlay, kept->name, O_PATH);
        if (target < 0 || !oci_mount_move(kept->tree, target))
            return oci_fail(error, "putting back what was mounted on %s/%s: %s", site->path,
                            kept->name, strerror(errno));
    }
    oci_mounts_own(&work->root.mounts, overlay);
    close(site->fd);
    site->fd = overlay;
    overlay = -1;
    return true;
}
