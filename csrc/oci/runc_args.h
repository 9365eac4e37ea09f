/* What a command line for runc asks for, as far as Aliquot must know. */
#ifndef ALIQUOT_OCI_RUNC_ARGS_H
#define ALIQUOT_OCI_RUNC_ARGS_H

#include "util.h"

struct oci_runc_args {
    bool makes;         /* create, run or restore, with an id and without --help */
    const char *id;     /* of the container to be made */
    const char *bundle; /* --bundle, or NULL */
    const char *log;    /* --log, or NULL */
    bool log_json;      /* --log-format json */
};

/* Understands what runc would; what it would refuse is left to it. */
void oci_runc_args(struct oci_runc_args *args, char *const argv[]);

#endif
