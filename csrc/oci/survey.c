/* Looking at the image: which names of which folders are to be covered by what. Nothing is changed
 * here but that missing folders are made. See cover.h. */
#include "cover.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <string.h>

/* Names of one folder that are covered, at most: no image has as many libraries of a driver. */
#define MOST_FOUND 4096u
#define MOST_LINKS 8

/* Names of a folder that stand for a vendor's library, or are withheld. */
struct found {
    const struct oci_plan *plan;
    char **name;
    size_t count;
};

static void clear_found(struct found *found) {
    for (size_t i = 0; i < found->count; i++)
        free(found->name[i]);
    free(found->name);
}

static bool is_withheld(const struct oci_plan *plan, const char *name) {
    for (size_t i = 0; i < plan->withholds; i++)
        if (fnmatch(plan->withhold[i], name, FNM_NOESCAPE) == 0)
            return true;
    return false;
}

static bool take_name(void *to, int folder, const char *name) {
    struct found *found = to;
    bool wanted = is_withheld(found->plan, name);
    for (size_t i = 0; i < found->plan->substitutes && !wanted; i++)
        wanted = oci_stands_for(name, found->plan->substitute[i].soname);
    struct stat kind;
    /* No loader takes a folder for a library. */
    if (!wanted || fstatat(folder, name, &kind, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(kind.st_mode))
        return true;
    oci_grow(&found->name, found->count, sizeof *found->name);
    found->name[found->count++] = oci_format("%s", name);
    return found->count <= MOST_FOUND;
}

/* Text of the link that stood where there is now a file of ours, NULL when it is no such file. */
static char *former_link(const struct oci_root *root, const char *path, off_t size) {
    const size_t head = strlen(OCI_WAS_LINK);
    if (size <= (off_t)head || size > (off_t)head + PATH_MAX)
        return NULL;
    AUTO_CLOSE int fd = oci_open_inside(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    size_t length;
    AUTO_FREE char *text = fd < 0 ? NULL : oci_read_all(fd, head + PATH_MAX, &length);
    if (!text || strncmp(text, OCI_WAS_LINK, head) != 0 || strlen(text) != length)
        return NULL;
    return oci_format("%s", text + head);
}

/* Opens the library to which a name in the folder leads. -1 when it leads to none: nowhere, to an
 * empty file, to something else than a file. */
static int open_library(const struct oci_root *root, const char *folder, const char *name) {
    AUTO_FREE char *path = oci_format("%s/%s", folder, name);
    for (int links = 0; links < MOST_LINKS; links++) {
        AUTO_CLOSE int fd = oci_open_inside(root, path, O_PATH);
        struct stat kind;
        if (fd < 0 || fstat(fd, &kind) < 0 || !S_ISREG(kind.st_mode) || !kind.st_size ||
            oci_on_pseudo(fd))
            return -1;
        AUTO_FREE char *link = former_link(root, path, kind.st_size);
        if (!link) {
            int opened = fd;
            fd = -1;
            return opened;
        }
        const char *slash = strrchr(path, '/');
        char *next = *link == '/' ? oci_format("%s", link)
                                  : oci_format("%.*s/%s", (int)(slash - path), path, link);
        free(path);
        path = next;
    }
    return -1;
}

/* The image's own library behind the names of `found` that stand for `soname`: what the SONAME
 * leads to, else the longest name that leads to one. -1 when there is none. */
static int find_library(const struct oci_root *root, const char *folder, const struct found *found,
                        const char *soname) {
    int best = open_library(root, folder, soname);
    size_t longest = 0;
    for (size_t i = 0; best < 0 && i < found->count; i++) {
        /* Few names, so looking for the next longest each time costs nothing. */
        const char *name = NULL;
        for (size_t j = 0; j < found->count; j++) {
            size_t length = strlen(found->name[j]);
            if (oci_stands_for(found->name[j], soname) && (!longest || length < longest) &&
                (!name || length > strlen(name)))
                name = found->name[j];
        }
        if (!name)
            break;
        longest = strlen(name);
        for (size_t j = 0; best < 0 && j < found->count; j++)
            if (strlen(found->name[j]) == longest && oci_stands_for(found->name[j], soname))
                best = open_library(root, folder, found->name[j]);
    }
    return best;
}

/* Adds a cover unless the site has one of that name; one that is empty gives way. `missing` are the
 * folders on the way to it that are not there. NULL when there was another. */
static struct oci_cover *add_cover(struct oci_site *site, const char *missing, const char *name,
                                   enum oci_source source, const char *path) {
    AUTO_FREE char *whole =
        missing ? oci_format("%s%s%s", missing, *name ? "/" : "", name) : oci_format("%s", name);
    for (size_t i = 0; i < site->covers; i++) {
        struct oci_cover *there = &site->cover[i];
        if (strcmp(there->name, whole) != 0)
            continue;
        if (there->source != OCI_EMPTY)
            return NULL;
        there->source = source;
        there->path = path;
        return there;
    }
    oci_grow(&site->cover, site->covers, sizeof *site->cover);
    struct oci_cover *cover = &site->cover[site->covers++];
    *cover = (struct oci_cover){.name = whole, .source = source, .path = path, .tree.fd = -1};
    whole = NULL;
    return cover;
}

static struct oci_cover *add_inner(struct oci_cover *region, const char *name,
                                   enum oci_source source, const char *path) {
    oci_grow(&region->inner, region->inners, sizeof *region->inner);
    struct oci_cover *cover = &region->inner[region->inners++];
    *cover = (struct oci_cover){
        .name = oci_format("%s", name), .source = source, .path = path, .tree.fd = -1};
    return cover;
}

/* What the shim needs beside it: the folder with the region. */
static struct oci_cover *region_beside(struct oci_site *site, const char *missing) {
    struct oci_cover *region = add_cover(site, missing, OCI_REGION_FOLDER, OCI_REGION, NULL);
    if (region) {
        region->folder = true;
        add_inner(region, "grant", OCI_OF_SLICE, NULL);
        add_inner(region, "usage", OCI_OF_SLICE, NULL)->writable = true;
        /* A FIFO: what is written into it is not written to its mount. */
        add_inner(region, "bell", OCI_OF_SLICE, NULL);
        return region;
    }
    AUTO_FREE char *name =
        missing ? oci_format("%s/" OCI_REGION_FOLDER, missing) : oci_format(OCI_REGION_FOLDER);
    for (size_t i = 0; i < site->covers; i++)
        if (strcmp(site->cover[i].name, name) == 0)
            region = &site->cover[i];
    return region;
}

/* The site of the folder that `fd`, which is taken over, has open; with the covers that it has
 * already. Good until the next call. NULL with a message. */
static struct oci_site *site_of(struct oci_work *work, int fd, const char *named,
                                struct oci_error *error) {
    AUTO_CLOSE int own = fd;
    struct stat kind;
    uint64_t mount = oci_mount_id(fd);
    if (!mount || fstat(fd, &kind) < 0) {
        oci_fail(error, "looking at the folder %s of the image: %s", named, strerror(errno));
        return NULL;
    }
    for (size_t i = 0; i < work->sites; i++) {
        struct oci_site *site = &work->site[i];
        if (site->device == kind.st_dev && site->inode == kind.st_ino && site->mount == mount)
            return site;
    }
    AUTO_FREE char *path = oci_path_inside(&work->root, fd, error);
    if (!path)
        return NULL;
    if (oci_on_pseudo(fd)) {
        oci_fail(error,
                 "covering %s, which is %s: it lies on proc, sysfs, cgroup, devpts or the like",
                 named, path);
        return NULL;
    }
    oci_grow(&work->site, work->sites, sizeof *work->site);
    struct oci_site *site = &work->site[work->sites++];
    *site = (struct oci_site){
        .fd = own, .path = path, .device = kind.st_dev, .inode = kind.st_ino, .mount = mount};
    own = -1;
    path = NULL;
    return site;
}

/* A vendor's library in one folder: the shim under each of its names, and the real one behind. */
static bool survey_substitute(struct oci_work *work, struct oci_site *site, const char *folder,
                              const char *missing, const struct found *found,
                              const struct oci_substitute *substitute, bool home,
                              struct oci_error *error) {
    bool driver = home && substitute->driver, any = driver;
    for (size_t i = 0; i < found->count; i++)
        any |= oci_stands_for(found->name[i], substitute->soname);
    if (!any)
        return true;
    AUTO_CLOSE int real =
        driver ? -1 : find_library(&work->root, folder, found, substitute->soname);
    if (real < 0 && !substitute->driver)
        return true; /* names that lead nowhere lead to no driver */
    for (size_t i = 0; i < found->count; i++)
        if (oci_stands_for(found->name[i], substitute->soname))
            add_cover(site, missing, found->name[i], OCI_OF_HOST, substitute->shim);
    if (driver) {
        const char *name = substitute->driver_names.first;
        add_cover(site, missing, substitute->soname, OCI_OF_HOST, substitute->shim);
        for (size_t i = 0; i < substitute->driver_names.count; i++, name = oci_next_name(name))
            add_cover(site, missing, name, OCI_OF_HOST, substitute->shim);
    }
    struct oci_cover *region = region_beside(site, missing);
    if (real < 0) {
        add_inner(region, substitute->private_name, OCI_OF_HOST, substitute->driver);
        return true;
    }
    struct oci_cover *inner = add_inner(region, substitute->private_name, OCI_OF_IMAGE, NULL);
    if (oci_tree_copy(&inner->tree, real, OCI_TREE_READ_ONLY))
        return true;
    inner->tree.fd = -1;
    return oci_fail(error, "copying the mount of the image's %s in %s: %s", substitute->soname,
                    folder, strerror(errno));
}

/* A folder with libraries, which the caller has opened for good. */
static bool survey_libraries(struct oci_work *work, int fd, const char *folder, const char *missing,
                             bool home, struct oci_error *error) {
    const struct oci_plan *plan = work->plan;
    struct oci_site *site = site_of(work, fd, folder, error);
    if (!site)
        return false;
    if (site->libraries && !missing)
        return true;
    /* A folder that is not there yet has no other name under which it could be found again. */
    site->libraries |= !missing;
    __attribute__((cleanup(clear_found))) struct found found = {.plan = plan};
    if (!missing && !oci_list(site->fd, folder, take_name, &found, error))
        return false;
    if (found.count > MOST_FOUND)
        return oci_fail(error, "%s has more than %u names of driver libraries", folder, MOST_FOUND);
    for (size_t i = 0; i < plan->substitutes; i++)
        if (!survey_substitute(work, site, folder, missing, &found, &plan->substitute[i], home,
                               error))
            return false;
    for (size_t i = 0; home && i < plan->libraries; i++) {
        const char *name = plan->library[i].names.first;
        for (size_t j = 0; j < plan->library[i].names.count; j++, name = oci_next_name(name))
            add_cover(site, missing, name, OCI_OF_HOST, plan->library[i].file);
    }
    for (size_t i = 0; i < found.count; i++)
        if (is_withheld(plan, found.name[i]))
            add_cover(site, missing, found.name[i], OCI_EMPTY, NULL);
    return true;
}

static bool survey_home(struct oci_work *work, struct oci_error *error) {
    const char *home = work->plan->home;
    AUTO_FREE char *missing = NULL;
    int fd = oci_make_folder(&work->root, home, &missing, error);
    return fd >= 0 && survey_libraries(work, fd, home, missing, true, error);
}

/* One folder that a scan names. */
static bool survey_scan(void *to, const char *folder, struct oci_error *error) {
    struct oci_work *work = to;
    const char *name = strrchr(folder, '/') + 1;
    /* A linker's stubs are to be linked, never loaded. */
    if (strcmp(name, "stubs") == 0)
        return true;
    int fd = oci_open_inside(&work->root, folder, O_PATH | O_DIRECTORY);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG))
        return true;
    if (fd < 0)
        return oci_fail(error, "opening the folder %s of the image: %s", folder,
                        errno == ELOOP ? "its links lead in a circle, or through /proc"
                                       : strerror(errno));
    return survey_libraries(work, fd, folder, NULL, false, error);
}

/* A folder that the image has is covered where its links lead. */
static char *real_target(struct oci_work *work, const char *target, struct oci_error *error) {
    AUTO_CLOSE int there = oci_open_inside(&work->root, target, O_PATH | O_DIRECTORY);
    if (there < 0)
        return oci_format("%s", target);
    return oci_path_inside(&work->root, there, error);
}

static bool survey_file(struct oci_work *work, const char *source, const char *target,
                        bool writable, struct oci_error *error) {
    struct stat kind;
    if (stat(source, &kind) < 0)
        return oci_fail(error, "%s, which is to lie on %s: %s", source, target, strerror(errno));
    bool folder = S_ISDIR(kind.st_mode);
    AUTO_FREE char *path = folder ? real_target(work, target, error) : oci_format("%s", target);
    if (!path)
        return false;
    char *slash = strrchr(path, '/');
    const char *name = slash + 1;
    if (!*name)
        return oci_fail(error, "%s cannot lie on the root of the container", source);
    AUTO_FREE char *missing = NULL;
    AUTO_FREE char *parent = oci_format("%.*s", slash == path ? 1 : (int)(slash - path), path);
    int fd = oci_make_folder(&work->root, parent, &missing, error);
    struct oci_site *site = fd < 0 ? NULL : site_of(work, fd, parent, error);
    if (!site)
        return false;
    struct oci_cover *cover = add_cover(site, missing, name, OCI_OF_HOST, source);
    if (cover) {
        cover->writable = writable;
        cover->folder = folder;
        /* ldconfig, which packages run, makes the cache anew and renames it. */
        cover->copied = source == work->plan->cache;
    }
    return true;
}

static bool is_there(const char *path, const char *name, bool library, struct oci_error *error) {
    AUTO_FREE char *whole = oci_format("%s%s%s", path, *name ? "/" : "", name);
    struct stat kind;
    if (stat(whole, &kind) < 0)
        return oci_fail(error, "%s, which the plan has: %s", whole, strerror(errno));
    return !library || S_ISREG(kind.st_mode) ||
           oci_fail(error, "%s, which the plan has: it is no regular file", whole);
}

bool oci_sources_exist(const struct oci_plan *plan, struct oci_error *error) {
    if (plan->region && (!is_there(plan->region, "grant", true, error) ||
                         !is_there(plan->region, "usage", true, error)))
        return false;
    for (size_t i = 0; i < plan->substitutes; i++) {
        const struct oci_substitute *substitute = &plan->substitute[i];
        if (!is_there(substitute->shim, "", true, error) ||
            (substitute->driver && !is_there(substitute->driver, "", true, error)))
            return false;
    }
    for (size_t i = 0; i < plan->libraries; i++)
        if (!is_there(plan->library[i].file, "", true, error))
            return false;
    for (size_t i = 0; i < plan->files; i++)
        if (!is_there(plan->file[i].source, "", false, error))
            return false;
    return !plan->cache || is_there(plan->cache, "", true, error);
}

/* In how many of the folders that the plan mounts a path lies. */
static unsigned level_of(const struct oci_plan *plan, const char *path) {
    unsigned level = 0;
    for (size_t i = 0; i < plan->files; i++) {
        struct stat kind;
        if (oci_lies_in(path, plan->file[i].target) && stat(plan->file[i].source, &kind) == 0 &&
            S_ISDIR(kind.st_mode))
            level++;
    }
    return level;
}

static bool is_due(const struct oci_plan *plan, const char *path, unsigned level, bool *more) {
    unsigned own = level_of(plan, path);
    *more |= own > level;
    return own == level;
}

bool oci_survey(struct oci_work *work, unsigned level, bool *more, struct oci_error *error) {
    const struct oci_plan *plan = work->plan;
    static const char cache[] = "/etc/ld.so.cache";
    *more = false;
    /* First of all home: what is found again by another name has been seen to. */
    if (plan->home && is_due(plan, plan->home, level, more) && !survey_home(work, error))
        return false;
    for (size_t i = 0; i < plan->scans; i++)
        if (is_due(plan, plan->scan[i], level, more) &&
            !oci_glob(&work->root, plan->scan[i], survey_scan, work, error))
            return false;
    if (plan->cache && is_due(plan, cache, level, more) &&
        !survey_file(work, plan->cache, cache, false, error))
        return false;
    for (size_t i = 0; i < plan->files; i++) {
        const struct oci_file *file = &plan->file[i];
        if (is_due(plan, file->target, level, more) &&
            !survey_file(work, file->source, file->target, file->writable, error))
            return false;
    }
    return true;
}
