/* What is to lie where in a container's root. A survey looks at the image and writes it down, before
 * anything is changed; then each folder is covered. */
#ifndef ALIQUOT_OCI_COVER_H
#define ALIQUOT_OCI_COVER_H

#include "plan.h"
#include "root.h"

enum oci_source {
    OCI_OF_HOST,  /* a file or folder of the node, by `path` */
    OCI_OF_IMAGE, /* a file of the image, which `tree` has */
    OCI_EMPTY,    /* an empty file */
    OCI_OF_SLICE, /* a file of the region, by its name */
    OCI_REGION,   /* a folder with the files that `inner` names */
};

/* Something that lies over one name of a folder. */
struct oci_cover {
    char *name; /* in the folder; all but its last component are missing there */
    enum oci_source source;
    const char *path;           /* OCI_OF_HOST; the plan's */
    struct oci_tree_mount tree; /* OCI_OF_IMAGE; fd -1 otherwise */
    bool writable, folder;
    bool copied; /* written into the folder itself where that may be: programs replace the file */
    struct oci_cover *inner; /* OCI_REGION */
    size_t inners;
};

/* A folder of the root in which something is covered. Folders are told apart by what they are, not
 * by their names: an image has links, and one folder mounted at two places is two. */
struct oci_site {
    int fd;     /* O_PATH */
    char *path; /* inside the root, without links */
    uint64_t device, inode, mount;
    bool libraries; /* it was surveyed as a folder with libraries */
    struct oci_cover *cover;
    size_t covers;
};

struct oci_work {
    const struct oci_plan *plan;
    struct oci_root root;
    int stage;       /* tmpfs for what lies beneath covers; -1 until it is mounted */
    unsigned layers; /* folders that were made in it */
    struct oci_site *site;
    size_t sites;
};

/* First bytes of a file that stands where the image had a link, with the link's text behind them:
 * when the same root is started again, it still tells where the link led. */
#define OCI_WAS_LINK "aliquot-link\n"

/* Whether all files of the node that the plan names are there: looked at before anything else. */
bool oci_sources_exist(const struct oci_plan *plan, struct oci_error *error);

/* Writes down what the plan has at `level`: 0 is the image's own; what lies in a folder of the node
 * that the plan mounts comes one level later. `*more` says whether there is a later one. */
bool oci_survey(struct oci_work *work, unsigned level, bool *more, struct oci_error *error);

/* Covers what the survey found, the deepest folders first. */
bool oci_apply(struct oci_work *work, struct oci_error *error);

/* Lays a read-only overlay over the site's folder, in which there is a file or folder for each
 * cover; what is mounted in the folder stays where it was. The site's folder is then the overlay's.
 */
bool oci_lay_over(struct oci_work *work, struct oci_site *site, struct oci_error *error);

/* Makes a new folder in the stage. -1 with a message. */
int oci_stage_folder(struct oci_work *work, struct oci_error *error);

void oci_forget_sites(struct oci_work *work);

/* The whole plan. */
bool oci_carry_out(const struct oci_plan *plan, struct oci_error *error);

#endif
