/* Asking the agent something over its runtime socket; see wire.h for what is said. */
#ifndef ALIQUOT_OCI_CLIENT_H
#define ALIQUOT_OCI_CLIENT_H

#include "util.h"
#include "wire.h"

/* How long the agent may take for its reply, in all. */
#define OCI_REPLY_SECONDS 10

enum oci_answer {
    OCI_GRANTED,
    OCI_REFUSED, /* the error has the agent's own words */
    OCI_ABSENT,  /* nobody answered, or not as an agent does */
};

struct oci_key_value {
    const char *key, *value;
};

/* Sends one request to the agent of $ALIQUOT_RUNTIME_DIR and waits for its reply. Leaves no
 * descriptor, touches no signal. */
enum oci_answer oci_ask(enum aliquot_wire_kind kind, const struct oci_key_value *pair, size_t count,
                        struct oci_error *error);

#endif
