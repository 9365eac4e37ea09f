/* Which runtime really makes containers. */
#ifndef ALIQUOT_OCI_REAL_RUNTIME_H
#define ALIQUOT_OCI_REAL_RUNTIME_H

#include "util.h"

/* The path to execute: of $ALIQUOT_OCI_RUNTIME, else of the one line of /etc/aliquot/oci-runtime,
 * else of runc on PATH or in the usual folders. Never this program or a copy of it: that would ask
 * for ever. Returns NULL with a message; the caller frees. */
char *oci_real_runtime(struct oci_error *error);

#endif
