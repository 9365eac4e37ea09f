/* The plan of a container: what aliquot-hook puts where. The agent writes it (aliquot.hooks.planfile
 * is the other side); lines of fields with TABs between them:
 *
 *   aliquot-plan  1
 *   root          folder of the host that becomes the container's root
 *   stage         empty folder of the host: a tmpfs is mounted on it, inside the namespace only
 *   region        folder of the host with `grant` and `usage`
 *   substitute    SONAME, shim (a file of the host), private name of what is behind it
 *   home          folder of the container where the node's driver goes
 *   driver        SONAME, file of the host, names in home that are to be the shim
 *   library       file of the host, names in home
 *   file          path on the host, path in the container, ro or rw
 *   scan          folder of the container, one component of which may be a pattern
 *   withhold      pattern of names in home and in scanned folders that are to be empty
 *   cache         file of the host that is written to /etc/ld.so.cache, or lies over it where
 *                 nothing may be written
 *
 * Paths are absolute; empty components, `.` and a last slash in them do not matter, and only a scan,
 * which may come from the image, may have `..`. The first two lines come first. What contradicts itself is refused whole.
 */
#ifndef ALIQUOT_OCI_PLAN_H
#define ALIQUOT_OCI_PLAN_H

#include "util.h"

#define OCI_PLAN_MAX (1u << 20) /* bytes */
#define OCI_PLAN_LINES 4096u
#define OCI_REGION_FOLDER ".aliquot"

/* Names that stand behind each other, each with its NUL. */
struct oci_names {
    const char *first;
    size_t count;
};
/* The next name after `name` of the same list. */
const char *oci_next_name(const char *name);

struct oci_substitute {
    const char *soname, *shim, *private_name;
    const char *driver;            /* file of the host behind the shim in home, or NULL */
    struct oci_names driver_names; /* of the driver, in home */
};

struct oci_library {
    const char *file;
    struct oci_names names;
};

struct oci_file {
    const char *source, *target;
    bool writable;
};

struct oci_plan {
    char *text; /* owns what all others point to */
    const char *root, *stage, *region, *home, *cache;
    struct oci_substitute *substitute;
    struct oci_library *library;
    struct oci_file *file;
    const char **scan, **withhold;
    size_t substitutes, libraries, files, scans, withholds;
};

/* Takes `text` of `size` bytes, which ends with a NUL that is not counted and will be freed by
 * oci_plan_clear, also after a failure. */
bool oci_plan_parse(struct oci_plan *plan, char *text, size_t size, struct oci_error *error);
void oci_plan_clear(struct oci_plan *plan);

/* Whether a file of that name stands for the library: its SONAME, the same without its number, or
 * with other numbers. */
bool oci_stands_for(const char *name, const char *soname);

/* Whether `path` lies in the folder `folder`, by their texts. */
bool oci_lies_in(const char *path, const char *folder);

#endif
