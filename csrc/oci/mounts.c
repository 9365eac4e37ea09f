/* See mounts.h. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

/* <sys/mount.h> and <linux/mount.h> do not go together everywhere: of the former this is needed. */
int mount(const char *source, const char *target, const char *kind, unsigned long flags,
          const void *data);

#define MOST_MOUNTINFO (64u << 20)

/* Of statx: not every C library has its newer fields. */
#define MNT_ID 0x1000u
#define MNT_ID_OFFSET 144
#define DONT_SYNC 0x4000

/* What linux/magic.h has not everywhere. */
#define BPF_FS 0xcafe4a11
#define CONFIG_FS 0x62656570
#define MQUEUE_FS 0x19800202
#define FUSE_CTL 0x65735543

bool oci_on_pseudo(int fd) {
    static const uint32_t pseudo[] = {
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        DEVPTS_SUPER_MAGIC,
        DEBUGFS_MAGIC,
        TRACEFS_MAGIC,
        SECURITYFS_MAGIC,
        SELINUX_MAGIC,
        NSFS_MAGIC,
        PSTOREFS_MAGIC,
        EFIVARFS_MAGIC,
        BPF_FS,
        CONFIG_FS,
        MQUEUE_FS,
        FUSE_CTL,
    };
    struct statfs found;
    if (fstatfs(fd, &found) < 0)
        return true;
    for (size_t i = 0; i < sizeof pseudo / sizeof *pseudo; i++)
        if ((uint32_t)found.f_type == pseudo[i])
            return true;
    return false;
}

static void self_fd(char path[static 40], int fd) { snprintf(path, 40, "/proc/self/fd/%d", fd); }

char *oci_path_of(int fd) {
    char link[40], path[PATH_MAX + 1];
    self_fd(link, fd);
    ssize_t length = readlink(link, path, sizeof path);
    if (length >= 0 && length <= PATH_MAX && *path == '/')
        return oci_format("%.*s", (int)length, path);
    if (length >= 0)
        errno = ENAMETOOLONG;
    return NULL;
}

/* The same for kernels before 5.8. */
static uint64_t mount_id_of_fdinfo(int fd) {
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    AUTO_CLOSE int info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0)
        return 0;
    size_t size;
    AUTO_FREE char *text = oci_read_all(info, 65536, &size);
    const char *found = text ? strstr(text, "mnt_id:") : NULL;
    if (text && !found)
        errno = ENOSYS;
    return found ? strtoull(found + strlen("mnt_id:"), NULL, 10) : 0;
}

uint64_t oci_mount_id(int fd) {
    struct statx found;
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | DONT_SYNC, MNT_ID, &found) < 0 ||
        !(found.stx_mask & MNT_ID))
        return mount_id_of_fdinfo(fd);
    uint64_t id;
    memcpy(&id, (const char *)&found + MNT_ID_OFFSET, sizeof id);
    return id;
}

/* Undoes, in place, the octal escapes that the kernel writes for blanks and backslashes. */
static void unescape(char *text) {
    char *to = text;
    while (*text) {
        bool octal = text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] >= '0' &&
                     text[2] <= '7' && text[3] >= '0' && text[3] <= '7';
        if (octal) {
            *to++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
            text += 4;
        } else
            *to++ = *text++;
    }
    *to = 0;
}

static bool read_line(char *line, struct oci_mount *mount) {
    /* id parent major:minor root point options [shared:N …] - kind source options */
    char *end;
    mount->id = strtoull(line, &end, 10);
    mount->parent = strtoull(end, &end, 10);
    mount->device = strtoull(end, &end, 10) << 32;
    if (*end != ':')
        return false;
    mount->device |= strtoull(end + 1, &end, 10);
    char *field[3], *rest = end;
    strsep(&rest, " ");
    for (int i = 0; i < 3; i++)
        if (!(field[i] = strsep(&rest, " ")))
            return false;
    mount->shared = mount->fit = false;
    for (const char *optional; (optional = strsep(&rest, " ")) && strcmp(optional, "-") != 0;)
        mount->shared |= strncmp(optional, "shared:", 7) == 0;
    unescape(field[1]);
    mount->point = field[1];
    return true;
}

bool oci_mounts_read(struct oci_mounts *mounts, struct oci_error *error) {
    *mounts = (struct oci_mounts){0};
    AUTO_CLOSE int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    size_t size;
    if (fd >= 0)
        mounts->text = oci_read_all(fd, MOST_MOUNTINFO, &size);
    if (!mounts->text)
        return oci_fail(error, "/proc/self/mountinfo: %s", strerror(errno));
    char *rest = mounts->text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        struct oci_mount mount;
        if (!*line)
            continue;
        if (!read_line(line, &mount)) {
            oci_mounts_clear(mounts);
            return oci_fail(error, "/proc/self/mountinfo has a line of another form");
        }
        oci_grow(&mounts->mount, mounts->count, sizeof *mounts->mount);
        mounts->mount[mounts->count++] = mount;
    }
    return true;
}

void oci_mounts_clear(struct oci_mounts *mounts) {
    free(mounts->mount);
    free(mounts->text);
    *mounts = (struct oci_mounts){0};
}

static int open_tree_at(int fd, unsigned flags) {
    return (int)syscall(SYS_open_tree, fd, "",
                        OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | flags);
}

bool oci_tree_copy(struct oci_tree_mount *tree, int fd, uint32_t flags) {
    struct mount_attr attributes = {
        .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                    (flags & OCI_TREE_READ_ONLY ? MOUNT_ATTR_RDONLY : 0),
        .propagation = 1u << 18, /* MS_PRIVATE */
    };
    bool recursive = flags & OCI_TREE_RECURSIVE;
    *tree = (struct oci_tree_mount){.flags = flags};
    AUTO_CLOSE int copy = open_tree_at(fd, recursive ? AT_RECURSIVE : 0);
    if (copy < 0)
        return false;
    if (syscall(SYS_mount_setattr, copy, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0),
                &attributes, sizeof attributes) < 0) {
        if (errno != ENOSYS)
            return false;
        /* What lies in it could not be restricted: only the top goes along. */
        close(copy);
        copy = open_tree_at(fd, 0);
        if (copy < 0)
            return false;
        tree->unrestricted = true;
    }
    tree->fd = copy;
    copy = -1;
    return true;
}

/* What mount_setattr does, for kernels before 5.12; what the mount has is said again, or the kernel
 * refuses in a user namespace. */
static bool restrict_attached(const struct oci_tree_mount *tree) {
    static const struct {
        unsigned long status, flag;
    } kept[] = {
        {ST_RDONLY, 0x1},    {ST_NOSUID, 0x2},       {ST_NODEV, 0x4},         {ST_NOEXEC, 0x8},
        {ST_NOATIME, 0x400}, {ST_NODIRATIME, 0x800}, {ST_RELATIME, 0x200000},
    };
    const unsigned long remount = 0x20, bind = 0x1000, nosuid_nodev = 0x6, private = 1ul << 18;
    struct statvfs found;
    char path[40];
    self_fd(path, tree->fd);
    if (fstatvfs(tree->fd, &found) < 0)
        return false;
    unsigned long flags = remount | bind | nosuid_nodev;
    flags |= tree->flags & OCI_TREE_READ_ONLY ? 0x1 : 0;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (found.f_flag & kept[i].status)
            flags |= kept[i].flag;
    return mount(NULL, path, NULL, flags, NULL) == 0 && mount(NULL, path, NULL, private, NULL) == 0;
}

bool oci_mount_move(int tree, int target) {
    return syscall(SYS_move_mount, tree, "", target, "",
                   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) == 0;
}

static struct oci_mount *row_of(const struct oci_mounts *mounts, uint64_t id) {
    for (size_t i = 0; i < mounts->count; i++)
        if (id && mounts->mount[i].id == id)
            return &mounts->mount[i];
    return NULL;
}

static void note(struct oci_mounts *mounts, uint64_t id) {
    struct oci_mount *row = row_of(mounts, id);
    if (!row) {
        oci_grow(&mounts->mount, mounts->count, sizeof *mounts->mount);
        row = &mounts->mount[mounts->count++];
        *row = (struct oci_mount){.id = id, .point = ""};
    }
    row->fit = true;
}

void oci_mounts_own(struct oci_mounts *mounts, int fd) {
    uint64_t id = oci_mount_id(fd);
    if (id)
        note(mounts, id);
}

bool oci_may_lie_on(struct oci_mounts *mounts, int target, const char *where,
                    struct oci_error *error) {
    uint64_t id = oci_mount_id(target);
    const struct oci_mount *found = row_of(mounts, id);
    if (found && found->fit)
        return true;
    if (oci_on_pseudo(target))
        return oci_fail(error, "mounting on %s: it lies on proc, sysfs, cgroup, devpts or the like",
                        where);
    /* The table of a busy node is long: it is read again only for what came later. */
    __attribute__((cleanup(oci_mounts_clear))) struct oci_mounts now = {0};
    if (!found) {
        if (!oci_mounts_read(&now, error))
            return false;
        found = row_of(&now, id);
    }
    if (!found)
        return oci_fail(error, "mounting on %s: its mount is not in /proc/self/mountinfo", where);
    if (found->shared)
        return oci_fail(error,
                        "mounting on %s: it lies in a volume with Bidirectional propagation, "
                        "others would see it",
                        where);
    note(mounts, id);
    return true;
}

bool oci_tree_attach(struct oci_mounts *mounts, const struct oci_tree_mount *tree, int target,
                     const char *where, struct oci_error *error) {
    if (!oci_may_lie_on(mounts, target, where, error))
        return false;
    if (!oci_mount_move(tree->fd, target))
        return oci_fail(error, "mounting on %s: %s", where, strerror(errno));
    if (tree->unrestricted && !restrict_attached(tree))
        return oci_fail(error, "making %s nosuid and nodev: %s", where, strerror(errno));
    return true;
}

int oci_mount_copy(int fd) { return open_tree_at(fd, AT_RECURSIVE); }

int oci_mount_new(const char *kind, const struct oci_option *option, uint32_t attributes,
                  const char *what, struct oci_error *error) {
    AUTO_CLOSE int context = (int)syscall(SYS_fsopen, kind, FSOPEN_CLOEXEC);
    bool good = context >= 0;
    for (; good && option->key; option++) {
        unsigned command = option->value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;
        good = syscall(SYS_fsconfig, context, command, option->key, option->value, 0) == 0;
    }
    good = good && syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0;
    int made = good ? (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes) : -1;
    if (made < 0)
        oci_fail(error, "%s: %s", what, strerror(errno));
    return made;
}

bool oci_mount_cut_off(struct oci_mounts *mounts, int fd, struct oci_error *error) {
    struct oci_mount *found = row_of(mounts, oci_mount_id(fd));
    if (!found || !found->shared)
        return true;
    AUTO_CLOSE int top = open(found->point, O_PATH | O_CLOEXEC);
    if (top < 0 || oci_mount_id(top) != found->id)
        return oci_fail(error, "%s: another mount lies over it", found->point);
    char path[40];
    self_fd(path, top);
    const unsigned long slave = 1ul << 19;
    if (mount(NULL, path, NULL, slave, NULL) < 0)
        return oci_fail(error, "keeping mounts on %s in this namespace: %s", found->point,
                        strerror(errno));
    found->shared = false;
    return true;
}
