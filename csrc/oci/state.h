/* The state of a container that an OCI runtime gives to its hooks: a JSON object, of which three
 * keys matter here. Strict: whatever is not JSON (RFC 8259) is refused whole. */
#ifndef ALIQUOT_OCI_STATE_H
#define ALIQUOT_OCI_STATE_H

#include "util.h"

#define OCI_STATE_MAX (4u << 20) /* bytes; annotations are part of the state */

/* Keys that are missing are NULL and 0. */
struct oci_state {
    char *id;     /* no NUL, no control characters */
    char *bundle; /* as id */
    int32_t pid;  /* as the runtime's namespace counts; never negative */
};

/* Reads `size` bytes of JSON. A key that matters and stands twice, or has another type than it
 * should, is refused as well. */
bool oci_state_parse(struct oci_state *state, const char *json, size_t size,
                     struct oci_error *error);
void oci_state_clear(struct oci_state *state);

#endif
