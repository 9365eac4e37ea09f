/* What the small programs and the agent say to each other on the agent's runtime socket.
 *
 * A Unix stream socket; one request and one reply, then the connection ends. Integers are
 * little-endian. A frame is a header and `length` bytes: in a request, `key=value` texts that each
 * end with a NUL; in a reply, one line for people without a NUL, empty when all is well.
 * agent/wire.py is the other side; a test compares the two.
 *
 *   kind            keys
 *   CREATE          id, bundle: absolute path of the folder with config.json
 *   CREATE_RUNTIME  slice: path of the slice's folder; id, pid (host's), bundle: of the OCI state
 *   POSTSTOP        slice, id
 */
#ifndef ALIQUOT_OCI_WIRE_H
#define ALIQUOT_OCI_WIRE_H

#include <assert.h>
#include <stdint.h>

#define ALIQUOT_WIRE_MAGIC 0x31515141u /* "AQQ1" read as a little-endian integer */
#define ALIQUOT_WIRE_MAX 65536u        /* longest `length` */

enum aliquot_wire_kind {
    ALIQUOT_WIRE_CREATE = 1,
    ALIQUOT_WIRE_CREATE_RUNTIME = 2,
    ALIQUOT_WIRE_POSTSTOP = 3,
};

enum aliquot_wire_status {
    ALIQUOT_WIRE_OK = 0,
    ALIQUOT_WIRE_REFUSED = 1, /* the reply says why */
};

struct aliquot_wire_header {
    uint32_t magic;
    uint32_t kind;   /* of the request; repeated in its reply */
    uint32_t status; /* 0 in a request */
    uint32_t length; /* bytes that follow */
};
static_assert(sizeof(struct aliquot_wire_header) == 16, "wire layout");

#endif
