/* Models: loaded once, and executed as often as the program likes. */
#include "model.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Of the runtime's memory: that of the device, and who asks for it. */
enum { MEMORY_HBM = 2, MODULE = 45, PERSISTENT = 4 };

struct model {
    uint32_t id;
    struct model_file file;
    void *work, *weights;         /* the model's own; NULL: the program's, or none */
    rtStream_t recorded, running; /* in which its work is put down, and in which it is executed */
    rtModel_t model;
    struct model *next;
};

static struct model *models;
static uint32_t last_id;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct model *find(uint32_t id) {
    pthread_mutex_lock(&lock);
    struct model *model = models;
    while (model && model->id != id)
        model = model->next;
    pthread_mutex_unlock(&lock);
    return model;
}

rtError_t model_allocate(void **pointer, uint64_t size) {
    *pointer = NULL;
    return !size || rtMalloc(pointer, size, MEMORY_HBM, MODULE) == RT_OK ? RT_OK
                                                                         : GE_MEMORY_ALLOCATION;
}

rtError_t model_launch(const struct model_file *file, rtStream_t stream) {
    static pthread_mutex_t registering = PTHREAD_MUTEX_INITIALIZER;
    static void *code;
    static const char stub;
    rtError_t result = RT_OK;
    pthread_mutex_lock(&registering);
    if (!code) {
        const rtDevBinary_t all = {.data = &stub, .length = sizeof stub};
        result = rtDevBinaryRegister(&all, &code);
        if (result == RT_OK)
            result = rtFunctionRegister(code, &stub, "aliquot_spin_ns", NULL, 0);
    }
    pthread_mutex_unlock(&registering);
    for (size_t i = 0; i < file->kernel_count && result == RT_OK; i++) {
        uint64_t ns = file->kernels[i].ns;
        rtArgsEx_t args = {.args = &ns};
        result =
            rtKernelLaunchWithHandle(code, i, file->kernels[i].blocks, &args, NULL, stream, NULL);
    }
    return result;
}

/* All that it has goes, as far as it has come. */
static void drop(struct model *model) {
    if (model->model && model->recorded)
        (void)rtModelUnbindStream(model->model, model->recorded);
    if (model->recorded)
        (void)rtStreamDestroy(model->recorded);
    if (model->running)
        (void)rtStreamDestroy(model->running);
    if (model->model)
        (void)rtModelDestroy(model->model);
    if (model->work)
        (void)rtFree(model->work);
    if (model->weights)
        (void)rtFree(model->weights);
    free(model);
}

/* Its work is put down in a stream that is bound, and so done when it is executed. */
static rtError_t sink(struct model *model) {
    rtError_t result = rtStreamCreateWithFlags(&model->recorded, 0, PERSISTENT);
    if (result == RT_OK)
        result = rtStreamCreateWithFlags(&model->running, 0, 0);
    if (result == RT_OK)
        result = rtModelCreate(&model->model, 0);
    if (result == RT_OK)
        result = rtModelBindStream(model->model, model->recorded, 0);
    if (result == RT_OK)
        result = model_launch(&model->file, model->recorded);
    if (result == RT_OK)
        result = rtEndGraph(model->model, model->recorded);
    if (result == RT_OK)
        result = rtModelLoadComplete(model->model);
    return result == RT_OK ? RT_OK : GE_INTERNAL_ERROR;
}

/* Memory that the program has for it. */
struct given {
    void *work, *weights;
    size_t work_size, weights_size;
};

static rtError_t load(const struct model_file *file, const struct given *given, uint32_t *id) {
    if (!id || file->operator[0])
        return id ? GE_PARAM_INVALID : ACL_INVALID_PARAM;
    if ((given->work && given->work_size < file->work) ||
        (given->weights && given->weights_size < file->weights))
        return GE_PARAM_INVALID;
    struct model *model = calloc(1, sizeof *model);
    if (!model)
        return ACL_BAD_ALLOC;
    model->file = *file;
    rtError_t result = RT_OK;
    if (!given->weights)
        result = model_allocate(&model->weights, file->weights);
    if (result == RT_OK && !given->work)
        result = model_allocate(&model->work, file->work);
    if (result == RT_OK)
        result = sink(model);
    if (result != RT_OK) {
        drop(model);
        return result;
    }
    pthread_mutex_lock(&lock);
    *id = model->id = ++last_id;
    model->next = models;
    models = model;
    pthread_mutex_unlock(&lock);
    return RT_OK;
}

rtError_t aclmdlLoadFromFileWithMem(const char *path, uint32_t *id, void *work, size_t work_size,
                                    void *weights, size_t weights_size);
rtError_t aclmdlLoadFromFileWithMem(const char *path, uint32_t *id, void *work, size_t work_size,
                                    void *weights, size_t weights_size) {
    struct model_file file;
    rtError_t result = model_read(path, &file);
    return result == RT_OK
               ? load(&file, &(struct given){work, weights, work_size, weights_size}, id)
               : result;
}

rtError_t aclmdlLoadFromMemWithMem(const void *data, size_t size, uint32_t *id, void *work,
                                   size_t work_size, void *weights, size_t weights_size);
rtError_t aclmdlLoadFromMemWithMem(const void *data, size_t size, uint32_t *id, void *work,
                                   size_t work_size, void *weights, size_t weights_size) {
    struct model_file file;
    rtError_t result = model_parse(data, size, &file);
    return result == RT_OK
               ? load(&file, &(struct given){work, weights, work_size, weights_size}, id)
               : result;
}

rtError_t aclmdlLoadFromFile(const char *path, uint32_t *id);
rtError_t aclmdlLoadFromFile(const char *path, uint32_t *id) {
    return aclmdlLoadFromFileWithMem(path, id, NULL, 0, NULL, 0);
}

rtError_t aclmdlLoadFromMem(const void *data, size_t size, uint32_t *id);
rtError_t aclmdlLoadFromMem(const void *data, size_t size, uint32_t *id) {
    return aclmdlLoadFromMemWithMem(data, size, id, NULL, 0, NULL, 0);
}

rtError_t aclmdlUnload(uint32_t id);
rtError_t aclmdlUnload(uint32_t id) {
    pthread_mutex_lock(&lock);
    struct model **link = &models;
    while (*link && (*link)->id != id)
        link = &(*link)->next;
    struct model *model = *link;
    if (model)
        *link = model->next;
    pthread_mutex_unlock(&lock);
    if (!model)
        return GE_MODEL_ID_INVALID;
    drop(model);
    return RT_OK;
}

/* -- What a configuration says of how a model is loaded --------------------------------------------- */

enum { FROM_FILE = 1, FROM_FILE_WITH_MEMORY, FROM_MEMORY, FROM_MEMORY_WITH_MEMORY };
enum { LOAD_TYPE = 1, PATH, DATA, DATA_SIZE, WEIGHTS, WEIGHTS_SIZE, WORK, WORK_SIZE };

struct aclmdlConfigHandle {
    size_t type, data_size;
    char *path;
    void *data;
    struct given given;
};

struct aclmdlConfigHandle *aclmdlCreateConfigHandle(void);
struct aclmdlConfigHandle *aclmdlCreateConfigHandle(void) {
    return calloc(1, sizeof(struct aclmdlConfigHandle));
}

rtError_t aclmdlDestroyConfigHandle(struct aclmdlConfigHandle *config);
rtError_t aclmdlDestroyConfigHandle(struct aclmdlConfigHandle *config) {
    if (!config)
        return ACL_INVALID_PARAM;
    free(config->path);
    free(config);
    return RT_OK;
}

rtError_t aclmdlSetConfigOpt(struct aclmdlConfigHandle *config, uint32_t what, const void *value,
                             size_t size);
rtError_t aclmdlSetConfigOpt(struct aclmdlConfigHandle *config, uint32_t what, const void *value,
                             size_t size) {
    size_t *number;
    void **pointer;
    char *path;
    if (!config || !value || size != sizeof(void *))
        return ACL_INVALID_PARAM;
    switch (what) {
    case PATH:
        path = strdup(*(char *const *)value);
        free(config->path);
        config->path = path;
        return path ? RT_OK : ACL_BAD_ALLOC;
    case LOAD_TYPE:
        number = &config->type;
        break;
    case DATA_SIZE:
        number = &config->data_size;
        break;
    case WEIGHTS_SIZE:
        number = &config->given.weights_size;
        break;
    case WORK_SIZE:
        number = &config->given.work_size;
        break;
    case DATA:
    case WEIGHTS:
    case WORK:
        pointer = what == DATA      ? &config->data
                  : what == WEIGHTS ? &config->given.weights
                                    : &config->given.work;
        *pointer = *(void *const *)value;
        return RT_OK;
    default:
        return ACL_INVALID_PARAM;
    }
    *number = *(const size_t *)value;
    return RT_OK;
}

rtError_t aclmdlLoadWithConfig(const struct aclmdlConfigHandle *config, uint32_t *id);
rtError_t aclmdlLoadWithConfig(const struct aclmdlConfigHandle *config, uint32_t *id) {
    const struct given none = {0}, *given = &none;
    if (!config || !id || config->type < FROM_FILE || config->type > FROM_MEMORY_WITH_MEMORY)
        return ACL_INVALID_PARAM;
    if (config->type == FROM_FILE_WITH_MEMORY || config->type == FROM_MEMORY_WITH_MEMORY)
        given = &config->given;
    if (config->type <= FROM_FILE_WITH_MEMORY)
        return aclmdlLoadFromFileWithMem(config->path, id, given->work, given->work_size,
                                         given->weights, given->weights_size);
    return aclmdlLoadFromMemWithMem(config->data, config->data_size, id, given->work,
                                    given->work_size, given->weights, given->weights_size);
}

/* -- What a model is like ---------------------------------------------------------------------------- */

rtError_t aclmdlQuerySize(const char *path, size_t *work, size_t *weights);
rtError_t aclmdlQuerySize(const char *path, size_t *work, size_t *weights) {
    struct model_file file;
    if (!work || !weights)
        return ACL_INVALID_PARAM;
    rtError_t result = model_read(path, &file);
    if (result == RT_OK) {
        *work = file.work;
        *weights = file.weights;
    }
    return result;
}

rtError_t aclmdlQuerySizeFromMem(const void *data, size_t size, size_t *work, size_t *weights);
rtError_t aclmdlQuerySizeFromMem(const void *data, size_t size, size_t *work, size_t *weights) {
    struct model_file file;
    if (!work || !weights)
        return ACL_INVALID_PARAM;
    rtError_t result = model_parse(data, size, &file);
    if (result == RT_OK) {
        *work = file.work;
        *weights = file.weights;
    }
    return result;
}

typedef struct model_file aclmdlDesc;

aclmdlDesc *aclmdlCreateDesc(void);
aclmdlDesc *aclmdlCreateDesc(void) { return calloc(1, sizeof(aclmdlDesc)); }
rtError_t aclmdlDestroyDesc(aclmdlDesc *description);
rtError_t aclmdlDestroyDesc(aclmdlDesc *description) {
    if (!description)
        return ACL_INVALID_PARAM;
    free(description);
    return RT_OK;
}
rtError_t aclmdlGetDesc(aclmdlDesc *description, uint32_t id);
rtError_t aclmdlGetDesc(aclmdlDesc *description, uint32_t id) {
    const struct model *model = find(id);
    if (!description || !model)
        return description ? GE_MODEL_ID_INVALID : ACL_INVALID_PARAM;
    *description = model->file;
    return RT_OK;
}
rtError_t aclmdlGetDescFromFile(aclmdlDesc *description, const char *path);
rtError_t aclmdlGetDescFromFile(aclmdlDesc *description, const char *path) {
    return description ? model_read(path, description) : ACL_INVALID_PARAM;
}
rtError_t aclmdlGetDescFromMem(aclmdlDesc *description, const void *data, size_t size);
rtError_t aclmdlGetDescFromMem(aclmdlDesc *description, const void *data, size_t size) {
    return description ? model_parse(data, size, description) : ACL_INVALID_PARAM;
}
size_t aclmdlGetNumInputs(aclmdlDesc *description);
size_t aclmdlGetNumInputs(aclmdlDesc *description) {
    return description ? description->input_count : 0;
}
size_t aclmdlGetNumOutputs(aclmdlDesc *description);
size_t aclmdlGetNumOutputs(aclmdlDesc *description) {
    return description ? description->output_count : 0;
}
size_t aclmdlGetInputSizeByIndex(aclmdlDesc *description, size_t index);
size_t aclmdlGetInputSizeByIndex(aclmdlDesc *description, size_t index) {
    return description && index < description->input_count ? description->inputs[index] : 0;
}
size_t aclmdlGetOutputSizeByIndex(aclmdlDesc *description, size_t index);
size_t aclmdlGetOutputSizeByIndex(aclmdlDesc *description, size_t index) {
    return description && index < description->output_count ? description->outputs[index] : 0;
}

/* -- What goes in and what comes out ------------------------------------------------------------------ */

struct aclmdlDataset {
    aclDataBuffer *buffers[MODEL_PARTS];
    size_t count;
};
typedef struct aclmdlDataset aclmdlDataset;

aclmdlDataset *aclmdlCreateDataset(void);
aclmdlDataset *aclmdlCreateDataset(void) { return calloc(1, sizeof(aclmdlDataset)); }
rtError_t aclmdlDestroyDataset(const aclmdlDataset *set);
rtError_t aclmdlDestroyDataset(const aclmdlDataset *set) {
    if (!set)
        return ACL_INVALID_PARAM;
    free((void *)(uintptr_t)set);
    return RT_OK;
}
rtError_t aclmdlAddDatasetBuffer(aclmdlDataset *set, aclDataBuffer *buffer);
rtError_t aclmdlAddDatasetBuffer(aclmdlDataset *set, aclDataBuffer *buffer) {
    if (!set || !buffer || set->count == MODEL_PARTS)
        return ACL_INVALID_PARAM;
    set->buffers[set->count++] = buffer;
    return RT_OK;
}
size_t aclmdlGetDatasetNumBuffers(const aclmdlDataset *set);
size_t aclmdlGetDatasetNumBuffers(const aclmdlDataset *set) { return set ? set->count : 0; }
aclDataBuffer *aclmdlGetDatasetBuffer(const aclmdlDataset *set, size_t index);
aclDataBuffer *aclmdlGetDatasetBuffer(const aclmdlDataset *set, size_t index) {
    return set && index < set->count ? set->buffers[index] : NULL;
}

static bool fits(const aclmdlDataset *set, const uint64_t *sizes, size_t count) {
    if (set->count != count)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!aclGetDataBufferAddrImpl(set->buffers[i]) ||
            aclGetDataBufferSizeV2Impl(set->buffers[i]) < sizes[i])
            return false;
    return true;
}

static rtError_t execute(uint32_t id, const aclmdlDataset *input, const aclmdlDataset *output,
                         rtStream_t stream, bool waits) {
    if (!input || !output)
        return ACL_INVALID_PARAM;
    const struct model *model = find(id);
    if (!model)
        return GE_MODEL_ID_INVALID;
    if (!fits(input, model->file.inputs, model->file.input_count) ||
        !fits(output, model->file.outputs, model->file.output_count))
        return GE_PARAM_INVALID;
    if (waits && !stream)
        stream = model->running;
    rtError_t result = rtModelExecute(model->model, stream, 0);
    if (result == RT_OK && waits)
        result = rtStreamSynchronizeWithTimeout(stream, -1);
    return result;
}

rtError_t aclmdlExecute(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output);
rtError_t aclmdlExecute(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output) {
    return execute(id, input, output, NULL, true);
}
rtError_t aclmdlExecuteAsync(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output,
                             rtStream_t stream);
rtError_t aclmdlExecuteAsync(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output,
                             rtStream_t stream) {
    return execute(id, input, output, stream, false);
}
/* (No configuration makes a difference here.) */
rtError_t aclmdlExecuteV2(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output,
                          rtStream_t stream, const void *config);
rtError_t aclmdlExecuteV2(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output,
                          rtStream_t stream, const void *config) {
    return config ? execute(id, input, output, stream, true) : ACL_INVALID_PARAM;
}
rtError_t aclmdlExecuteAsyncV2(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output,
                               rtStream_t stream, const void *config);
rtError_t aclmdlExecuteAsyncV2(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output,
                               rtStream_t stream, const void *config) {
    return config ? execute(id, input, output, stream, false) : ACL_INVALID_PARAM;
}
void *aclmdlCreateExecConfigHandle(void);
void *aclmdlCreateExecConfigHandle(void) { return calloc(1, sizeof(uint64_t)); }
rtError_t aclmdlDestroyExecConfigHandle(const void *config);
rtError_t aclmdlDestroyExecConfigHandle(const void *config) {
    if (!config)
        return ACL_INVALID_PARAM;
    free((void *)(uintptr_t)config);
    return RT_OK;
}
