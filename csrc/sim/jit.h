/* The options of loading and linking, and the logs that they ask for. */
#ifndef ALIQUOT_SIM_JIT_H
#define ALIQUOT_SIM_JIT_H

#include "image.h"

struct sim_jit_log {
    char *buffer; /* the caller's, or NULL */
    size_t room;  /* bytes of it */
    size_t used;  /* without the NUL */
    void **out;   /* the option's value, where the bytes written are answered; NULL: nowhere */
};

struct sim_jit {
    struct sim_jit_log info;
    struct sim_jit_log error;
    unsigned target;        /* CU_JIT_TARGET as compute capability; 0: that of the device */
    unsigned max_registers; /* 0: no limit */
};

/* Reads options into *jit. CU_JIT_WALL_TIME and the lengths of logs are answered through the
 * values, as the driver does. Errors: INVALID_VALUE (unknown option, missing array). */
CUresult sim_jit_read(struct sim_jit *jit, unsigned count, CUjit_option *options, void **values);
/* Appends a line to a log as far as it has room. */
void sim_jit_say(struct sim_jit_log *log, const char *line);

/* Parses an image for a device of capability `cc`, with what the environment and the node's driver
 * version say; a failure goes to the error log of `jit` (which may be NULL) and to the simulator's
 * log. `relocatable`: for a linker. Errors: as sim_image_parse. */
CUresult sim_jit_parse(const void *data, size_t size, unsigned cc, bool relocatable,
                       struct sim_jit *jit, struct sim_image **image);

/* Reads a whole file. The caller frees *data. Errors: FILE_NOT_FOUND (301), OUT_OF_MEMORY,
 * INVALID_IMAGE (it cannot be read). */
CUresult sim_read_file(const char *path, void **data, size_t *bytes);

#endif
