/* Saying why a container is refused where runc would have said it. */
#ifndef ALIQUOT_OCI_RUNC_LOG_H
#define ALIQUOT_OCI_RUNC_LOG_H

#include "util.h"

/* Appends one line in runc's format to the log file at `path`: that is where containerd reads what
 * it tells the user. Returns false with errno. */
bool oci_runc_log(const char *path, bool json, const char *message);

/* The line itself, with the time as seconds since 1970, UTC. The caller frees. */
char *oci_runc_log_line(bool json, const char *message, int64_t unix_seconds);

#endif
