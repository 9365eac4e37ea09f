/* Models of AscendCL's, in whole and of single operators: what its libraries above the runtime do with them.
 * They reach the runtime as those do, by its exported functions, so that whatever stands before it is
 * asked: memory by rtMalloc, work by rtModelExecute and rtKernelLaunchWithHandle.
 */
#ifndef ALIQUOT_SIM_ASCENDCL_MODEL_H
#define ALIQUOT_SIM_ASCENDCL_MODEL_H

#include "ascend/runtime.h"

#define ACL_HIDDEN __attribute__((visibility("hidden")))

/* AscendCL's codes, and those of what executes its models. */
enum {
    ACL_INVALID_PARAM = 100000,
    ACL_READ_MODEL_FAILURE = 100014,
    ACL_OP_NOT_FOUND = 100024,
    ACL_BAD_ALLOC = 200000,
    GE_PARAM_INVALID = 145000,
    GE_MODEL_PATH_INVALID = 145002,
    GE_MODEL_ID_INVALID = 145003,
    GE_MODEL_DATA_SIZE_INVALID = 145006,
    GE_MEMORY_ALLOCATION = 245000,
    GE_INTERNAL_ERROR = 545000,
};

enum { MODEL_PARTS = 64, MODEL_NAME = 64 };

/* What a model's file says of it (docs/simulator.md). Sizes are bytes. */
struct model_file {
    uint64_t work, weights;
    uint64_t inputs[MODEL_PARTS], outputs[MODEL_PARTS];
    size_t input_count, output_count;
    struct {
        uint32_t blocks;
        uint64_t ns;
    } kernels[MODEL_PARTS];
    size_t kernel_count;
    char operator[MODEL_NAME]; /* "": it is a whole model */
};

/* Errors: GE_PARAM_INVALID, what is there is no model; GE_MODEL_DATA_SIZE_INVALID, nothing is there. */
ACL_HIDDEN rtError_t model_parse(const void *data, size_t size, struct model_file *file);

/* Errors: GE_MODEL_PATH_INVALID, and model_parse's. */
ACL_HIDDEN rtError_t model_read(const char *path, struct model_file *file);

/* Memory of a model, where the program has given none; NULL where none is needed. Errors:
 * GE_MEMORY_ALLOCATION. */
ACL_HIDDEN rtError_t model_allocate(void **pointer, uint64_t size);

/* Launches a model's kernels in the stream, in their order. */
ACL_HIDDEN rtError_t model_launch(const struct model_file *file, rtStream_t stream);

#endif
