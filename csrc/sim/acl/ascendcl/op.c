/* Single operators: by models of their own in a folder, or compiled when they are called. What an operator is
 * given and what its attributes are makes no difference here.
 */
#include "model.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Never freed, as its memory: an operator is loaded once. */
struct operator{
    struct model_file file;
    bool ready; /* its memory is there */
    void *work, *weights;
    struct operator* next;
};
static struct operator* operators;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Under the lock. */
static struct operator* find(const char *type) {
    struct operator* one = operators;
    while (one && strcmp(one->file.operator, type) != 0)
        one = one->next;
    return one;
}

static rtError_t add(const struct model_file *file) {
    if (!file->operator[0])
        return GE_PARAM_INVALID;
    struct operator* made = calloc(1, sizeof *made);
    if (!made)
        return ACL_BAD_ALLOC;
    made->file = *file;
    pthread_mutex_lock(&lock);
    struct operator* known = find(file->operator);
    if (!known) {
        made->next = operators;
        operators = made;
    }
    pthread_mutex_unlock(&lock);
    if (known)
        free(made);
    return RT_OK;
}

rtError_t aclopLoad(const void *model, size_t size);
rtError_t aclopLoad(const void *model, size_t size) {
    struct model_file file;
    rtError_t result = model_parse(model, size, &file);
    return result == RT_OK ? add(&file) : result;
}

/* Every model of an operator that lies in the folder. */
rtError_t aclopSetModelDir(const char *folder);
rtError_t aclopSetModelDir(const char *folder) {
    DIR *opened = folder ? opendir(folder) : NULL;
    if (!opened)
        return ACL_READ_MODEL_FAILURE;
    rtError_t result = RT_OK;
    for (struct dirent *entry; result == RT_OK && (entry = readdir(opened));) {
        struct model_file file;
        char path[4096];
        const char *end = strrchr(entry->d_name, '.');
        if (!end || strcmp(end, ".om") != 0 ||
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path)
            continue;
        result = model_read(path, &file);
        if (result == RT_OK && file.operator[0])
            result = add(&file);
    }
    closedir(opened);
    return result;
}

static rtError_t execute(const char *type, int inputs, const void *input, int outputs,
                         const void *output, rtStream_t stream) {
    if (!type || inputs < 0 || outputs < 0 || (inputs && !input) || (outputs && !output))
        return ACL_INVALID_PARAM;
    pthread_mutex_lock(&lock);
    struct operator* one = find(type);
    rtError_t result = one ? RT_OK : ACL_OP_NOT_FOUND;
    if (one && !one->ready) {
        result = model_allocate(&one->weights, one->file.weights);
        if (result == RT_OK)
            result = model_allocate(&one->work, one->file.work);
        one->ready = result == RT_OK;
        if (result != RT_OK && one->weights)
            (void)rtFree(one->weights);
    }
    pthread_mutex_unlock(&lock);
    return result == RT_OK ? model_launch(&one->file, stream) : result;
}

/* Makes the operator where there is none: one block, that takes a tenth of a millisecond. */
static rtError_t compile(const char *type) {
    struct model_file file = {.kernels[0] = {.blocks = 1, .ns = 100000}, .kernel_count = 1};
    if (!type || !*type || strlen(type) >= sizeof file.operator)
        return ACL_INVALID_PARAM;
    strcpy(file.operator, type);
    return add(&file);
}

typedef struct aclTensorDesc aclTensorDesc;
typedef struct aclopAttr aclopAttr;

rtError_t aclopExecute(const char *type, int inputs, const aclTensorDesc *const of_inputs[],
                       const aclDataBuffer *const input[], int outputs,
                       const aclTensorDesc *const of_outputs[], aclDataBuffer *const output[],
                       const aclopAttr *attributes, rtStream_t stream);
rtError_t aclopExecute(const char *type, int inputs, const aclTensorDesc *const of_inputs[],
                       const aclDataBuffer *const input[], int outputs,
                       const aclTensorDesc *const of_outputs[], aclDataBuffer *const output[],
                       const aclopAttr *attributes, rtStream_t stream) {
    (void)of_inputs;
    (void)of_outputs;
    (void)attributes;
    return execute(type, inputs, input, outputs, output, stream);
}

rtError_t aclopExecuteV2(const char *type, int inputs, aclTensorDesc *of_inputs[],
                         aclDataBuffer *input[], int outputs, aclTensorDesc *of_outputs[],
                         aclDataBuffer *output[], aclopAttr *attributes, rtStream_t stream);
rtError_t aclopExecuteV2(const char *type, int inputs, aclTensorDesc *of_inputs[],
                         aclDataBuffer *input[], int outputs, aclTensorDesc *of_outputs[],
                         aclDataBuffer *output[], aclopAttr *attributes, rtStream_t stream) {
    (void)of_inputs;
    (void)of_outputs;
    (void)attributes;
    return execute(type, inputs, input, outputs, output, stream);
}

rtError_t aclopCompileAndExecute(const char *type, int inputs,
                                 const aclTensorDesc *const of_inputs[],
                                 const aclDataBuffer *const input[], int outputs,
                                 const aclTensorDesc *const of_outputs[],
                                 aclDataBuffer *const output[], const aclopAttr *attributes,
                                 uint32_t engine, uint32_t flag, const char *path,
                                 rtStream_t stream);
rtError_t aclopCompileAndExecute(const char *type, int inputs,
                                 const aclTensorDesc *const of_inputs[],
                                 const aclDataBuffer *const input[], int outputs,
                                 const aclTensorDesc *const of_outputs[],
                                 aclDataBuffer *const output[], const aclopAttr *attributes,
                                 uint32_t engine, uint32_t flag, const char *path,
                                 rtStream_t stream) {
    (void)of_inputs;
    (void)of_outputs;
    (void)attributes;
    (void)engine;
    (void)flag;
    (void)path;
    rtError_t result = compile(type);
    return result == RT_OK ? execute(type, inputs, input, outputs, output, stream) : result;
}

rtError_t aclopCompileAndExecuteV2(const char *type, int inputs, aclTensorDesc *of_inputs[],
                                   aclDataBuffer *input[], int outputs, aclTensorDesc *of_outputs[],
                                   aclDataBuffer *output[], aclopAttr *attributes, uint32_t engine,
                                   uint32_t flag, const char *path, rtStream_t stream);
rtError_t aclopCompileAndExecuteV2(const char *type, int inputs, aclTensorDesc *of_inputs[],
                                   aclDataBuffer *input[], int outputs, aclTensorDesc *of_outputs[],
                                   aclDataBuffer *output[], aclopAttr *attributes, uint32_t engine,
                                   uint32_t flag, const char *path, rtStream_t stream) {
    (void)of_inputs;
    (void)of_outputs;
    (void)attributes;
    (void)engine;
    (void)flag;
    (void)path;
    rtError_t result = compile(type);
    return result == RT_OK ? execute(type, inputs, input, outputs, output, stream) : result;
}

/* -- Handles: an operator is looked up once --------------------------------------------------------- */

struct aclopHandle {
    char type[MODEL_NAME];
};
typedef struct aclopHandle aclopHandle;

rtError_t aclopCreateHandle(const char *type, int inputs, const aclTensorDesc *const of_inputs[],
                            int outputs, const aclTensorDesc *const of_outputs[],
                            const aclopAttr *attributes, aclopHandle **handle);
rtError_t aclopCreateHandle(const char *type, int inputs, const aclTensorDesc *const of_inputs[],
                            int outputs, const aclTensorDesc *const of_outputs[],
                            const aclopAttr *attributes, aclopHandle **handle) {
    (void)inputs;
    (void)of_inputs;
    (void)outputs;
    (void)of_outputs;
    (void)attributes;
    if (!type || !handle)
        return ACL_INVALID_PARAM;
    pthread_mutex_lock(&lock);
    const struct operator* one = find(type);
    pthread_mutex_unlock(&lock);
    if (!one)
        return ACL_OP_NOT_FOUND;
    *handle = calloc(1, sizeof **handle);
    if (!*handle)
        return ACL_BAD_ALLOC;
    strcpy((*handle)->type, one->file.operator);
    return RT_OK;
}

void aclopDestroyHandle(aclopHandle *handle);
void aclopDestroyHandle(aclopHandle *handle) { free(handle); }

rtError_t aclopExecWithHandle(aclopHandle *handle, int inputs, const aclDataBuffer *const input[],
                              int outputs, aclDataBuffer *const output[], rtStream_t stream);
rtError_t aclopExecWithHandle(aclopHandle *handle, int inputs, const aclDataBuffer *const input[],
                              int outputs, aclDataBuffer *const output[], rtStream_t stream) {
    return handle ? execute(handle->type, inputs, input, outputs, output, stream)
                  : ACL_INVALID_PARAM;
}

/* -- Attributes, and what tensors are like ------------------------------------------------------------ */

struct aclopAttr {
    size_t count;
};

aclopAttr *aclopCreateAttr(void);
aclopAttr *aclopCreateAttr(void) { return calloc(1, sizeof(aclopAttr)); }
void aclopDestroyAttr(const aclopAttr *attributes);
void aclopDestroyAttr(const aclopAttr *attributes) { free((void *)(uintptr_t)attributes); }

#define SET(name, type)                                                                            \
    rtError_t name(aclopAttr *attributes, const char *attribute, type value);                      \
    rtError_t name(aclopAttr *attributes, const char *attribute, type value) {                     \
        (void)value;                                                                               \
        if (!attributes || !attribute)                                                             \
            return ACL_INVALID_PARAM;                                                              \
        attributes->count++;                                                                       \
        return RT_OK;                                                                              \
    }
SET(aclopSetAttrBool, uint8_t)
SET(aclopSetAttrInt, int64_t)
SET(aclopSetAttrFloat, float)
SET(aclopSetAttrString, const char *)

struct aclTensorDesc {
    int type, dimensions;
};

aclTensorDesc *aclCreateTensorDesc(int type, int dimensions, const int64_t *sizes, int format);
aclTensorDesc *aclCreateTensorDesc(int type, int dimensions, const int64_t *sizes, int format) {
    (void)format;
    if (dimensions < 0 || (dimensions && !sizes))
        return NULL;
    aclTensorDesc *made = malloc(sizeof *made);
    if (made)
        *made = (aclTensorDesc){type, dimensions};
    return made;
}
void aclDestroyTensorDesc(const aclTensorDesc *description);
void aclDestroyTensorDesc(const aclTensorDesc *description) {
    free((void *)(uintptr_t)description);
}
int aclGetTensorDescType(const aclTensorDesc *description);
int aclGetTensorDescType(const aclTensorDesc *description) {
    return description ? description->type : -1;
}
size_t aclGetTensorDescNumDims(const aclTensorDesc *description);
size_t aclGetTensorDescNumDims(const aclTensorDesc *description) {
    return description ? (size_t)description->dimensions : 0;
}
