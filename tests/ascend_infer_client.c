/* A program that infers: it loads models for Ascend devices and executes them, and single operators, written
 * without the vendor's headers. It does what standard input says, a line each, and answers a line each, which
 * begins with the code that AscendCL answered.
 */
#include "ascend_program.h"

enum { BYTES = 4096, MOST = 64 << 10, FROM_FILE = 1, FROM_MEMORY_WITH_MEMORY = 4 };

#define TENSORS void *[], void *[]
#define ACL(X)                                                                                     \
    X(aclInit, (const char *))                                                                     \
    X(aclrtSetDevice, (int32_t))                                                                   \
    X(aclrtResetDevice, (int32_t))                                                                 \
    X(aclrtMalloc, (void **, size_t, int))                                                         \
    X(aclrtFree, (void *))                                                                         \
    X(aclrtCreateStream, (void **))                                                                \
    X(aclrtSynchronizeStream, (void *))                                                            \
    X(aclDestroyDataBuffer, (const void *))                                                        \
    X(aclmdlQuerySize, (const char *, size_t *, size_t *))                                         \
    X(aclmdlQuerySizeFromMem, (const void *, size_t, size_t *, size_t *))                          \
    X(aclmdlLoadFromFile, (const char *, uint32_t *))                                              \
    X(aclmdlLoadFromMem, (const void *, size_t, uint32_t *))                                       \
    X(aclmdlLoadFromFileWithMem, (const char *, uint32_t *, void *, size_t, void *, size_t))       \
    X(aclmdlLoadFromMemWithMem,                                                                    \
      (const void *, size_t, uint32_t *, void *, size_t, void *, size_t))                          \
    X(aclmdlSetConfigOpt, (void *, int, const void *, size_t))                                     \
    X(aclmdlDestroyConfigHandle, (void *))                                                         \
    X(aclmdlLoadWithConfig, (const void *, uint32_t *))                                            \
    X(aclmdlUnload, (uint32_t))                                                                    \
    X(aclmdlGetDesc, (void *, uint32_t))                                                           \
    X(aclmdlDestroyDesc, (void *))                                                                 \
    X(aclmdlAddDatasetBuffer, (void *, void *))                                                    \
    X(aclmdlDestroyDataset, (const void *))                                                        \
    X(aclmdlExecute, (uint32_t, const void *, void *))                                             \
    X(aclmdlExecuteAsync, (uint32_t, const void *, void *, void *))                                \
    X(aclmdlExecuteV2, (uint32_t, const void *, void *, void *, const void *))                     \
    X(aclmdlExecuteAsyncV2, (uint32_t, const void *, void *, void *, const void *))                \
    X(aclmdlDestroyExecConfigHandle, (const void *))                                               \
    X(aclopSetModelDir, (const char *))                                                            \
    X(aclopLoad, (const void *, size_t))                                                           \
    X(aclopSetAttrInt, (void *, const char *, int64_t))                                            \
    X(aclopExecute, (const char *, int, TENSORS, int, TENSORS, const void *, void *))              \
    X(aclopExecuteV2, (const char *, int, TENSORS, int, TENSORS, void *, void *))                  \
    X(aclopCompileAndExecute,                                                                      \
      (const char *, int, TENSORS, int, TENSORS, const void *, int, int, const char *, void *))    \
    X(aclopCompileAndExecuteV2,                                                                    \
      (const char *, int, TENSORS, int, TENSORS, void *, int, int, const char *, void *))          \
    X(aclopCreateHandle, (const char *, int, void *[], int, void *[], const void *, void **))      \
    X(aclopExecWithHandle, (void *, int, void *[], int, void *[], void *))
#define RUNTIME(X)                                                                                 \
    X(rtMalloc, (void **, uint64_t, uint32_t, uint16_t))                                           \
    X(rtFree, (void *))

ACL(DECLARE)
RUNTIME(DECLARE)

/* Those that answer with something else than a code. */
#define MAKERS(X)                                                                                  \
    X(void *, aclCreateDataBuffer, (void *, size_t))                                               \
    X(void *, aclmdlCreateDesc, (void))                                                            \
    X(void *, aclmdlCreateDataset, (void))                                                         \
    X(void *, aclmdlCreateConfigHandle, (void))                                                    \
    X(void *, aclmdlCreateExecConfigHandle, (void))                                                \
    X(void *, aclopCreateAttr, (void))                                                             \
    X(void, aclopDestroyAttr, (const void *))                                                      \
    X(void, aclopDestroyHandle, (void *))                                                          \
    X(void *, aclCreateTensorDesc, (int, int, const int64_t *, int))                               \
    X(void, aclDestroyTensorDesc, (const void *))                                                  \
    X(size_t, aclmdlGetNumInputs, (void *))                                                        \
    X(size_t, aclmdlGetNumOutputs, (void *))                                                       \
    X(size_t, aclmdlGetInputSizeByIndex, (void *, size_t))                                         \
    X(size_t, aclmdlGetOutputSizeByIndex, (void *, size_t))
#define DECLARE_MAKER(type, name, parameters) static type(*name) parameters;
MAKERS(DECLARE_MAKER)

static void look_up_makers(void) {
    void *library = dlopen("libascendcl.so", RTLD_NOW | RTLD_GLOBAL);
#define LOOK_UP_MAKER(type, name, parameters) *(void **)&name = found(library, #name);
    MAKERS(LOOK_UP_MAKER)
}

static uint8_t data[MOST];
static size_t read_all(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t size = file ? fread(data, 1, sizeof data, file) : 0;
    if (file)
        fclose(file);
    return size;
}

/* Memory of the program's for a model. */
static void *work, *weights;
static size_t work_size, weights_size;
static int provide(const char *path) {
    int failed = aclmdlQuerySize(path, &work_size, &weights_size);
    work = weights = NULL;
    if (!failed)
        failed = aclrtMalloc(&work, work_size, 0);
    if (!failed && (failed = aclrtMalloc(&weights, weights_size, 0)))
        aclrtFree(work);
    return failed;
}

static int configured(const char *path, uint32_t *id, bool with_memory) {
    void *config = aclmdlCreateConfigHandle();
    const void *from = data;
    size_t kind = with_memory ? FROM_MEMORY_WITH_MEMORY : FROM_FILE, size = read_all(path);
    int failed = aclmdlSetConfigOpt(config, 1, &kind, sizeof kind);
    if (!failed && !with_memory)
        failed = aclmdlSetConfigOpt(config, 2, &path, sizeof path);
    const struct {
        int what;
        const void *value;
    } options[] = {{3, &from},         {4, &size}, {5, &weights},
                   {6, &weights_size}, {7, &work}, {8, &work_size}};
    for (int i = 0; i < 6 && !failed && with_memory; i++)
        failed = aclmdlSetConfigOpt(config, options[i].what, options[i].value, sizeof(void *));
    if (!failed)
        failed = aclmdlLoadWithConfig(config, id);
    int ended = aclmdlDestroyConfigHandle(config);
    return failed ? failed : ended;
}

static int load(const char *how, const char *path, uint32_t *id) {
    if (is(how, "file"))
        return aclmdlLoadFromFile(path, id);
    if (is(how, "mem"))
        return aclmdlLoadFromMem(data, read_all(path), id);
    if (is(how, "config"))
        return configured(path, id, false);
    /* The rest with memory of the program's. */
    int failed = provide(path);
    if (failed)
        return failed;
    if (is(how, "file-mem"))
        return aclmdlLoadFromFileWithMem(path, id, work, work_size, weights, weights_size);
    if (is(how, "config-mem"))
        return configured(path, id, true);
    if (is(how, "small"))
        return aclmdlLoadFromFileWithMem(path, id, work, work_size - 1, weights, weights_size);
    return aclmdlLoadFromMemWithMem(data, read_all(path), id, work, work_size, weights,
                                    weights_size);
}

/* Memory as a model wants it. */
static void *stream, *memory;
static int prepare(void) {
    int failed = stream ? 0 : aclrtCreateStream(&stream);
    return failed || memory ? failed : aclrtMalloc(&memory, BYTES, 0);
}
static void *set_of(void *description, size_t (*count)(void *), size_t (*size)(void *, size_t)) {
    void *set = aclmdlCreateDataset();
    for (size_t i = 0; i < count(description); i++)
        if (aclmdlAddDatasetBuffer(set, aclCreateDataBuffer(memory, size(description, i))))
            printf("not so: a buffer\n");
    return set;
}

static int execute(const char *how, uint32_t id, int count) {
    void *description = aclmdlCreateDesc(), *config = aclmdlCreateExecConfigHandle();
    int failed = prepare();
    if (!failed)
        failed = aclmdlGetDesc(description, id);
    if (failed)
        return failed;
    void *input = set_of(description, aclmdlGetNumInputs, aclmdlGetInputSizeByIndex);
    void *output = set_of(description, aclmdlGetNumOutputs, aclmdlGetOutputSizeByIndex);
    if (is(how, "wrong")) /* nothing goes in */
        return aclmdlExecute(id, aclmdlCreateDataset(), output);
    for (int i = 0; i < count && !failed; i++)
        failed = is(how, "sync")    ? aclmdlExecute(id, input, output)
                 : is(how, "async") ? aclmdlExecuteAsync(id, input, output, stream)
                 : is(how, "sync2") ? aclmdlExecuteV2(id, input, output, stream, config)
                                    : aclmdlExecuteAsyncV2(id, input, output, stream, config);
    if (!failed)
        failed = aclrtSynchronizeStream(stream);
    int ended = aclmdlDestroyDataset(input) | aclmdlDestroyDataset(output) |
                aclmdlDestroyDesc(description) | aclmdlDestroyExecConfigHandle(config);
    return failed ? failed : ended;
}

static int operate(const char *how, const char *type, int count) {
    int64_t size = BYTES;
    int failed = prepare();
    void *of[] = {aclCreateTensorDesc(4, 1, &size, 2)}, *attributes = aclopCreateAttr();
    void *buffers[] = {aclCreateDataBuffer(memory, BYTES)}, *handle = NULL;
    if (!failed)
        failed = aclopSetAttrInt(attributes, "axis", 0);
    if (!failed && is(how, "handle"))
        failed = aclopCreateHandle(type, 1, of, 1, of, attributes, &handle);
    for (int i = 0; i < count && !failed; i++)
        failed = is(how, "plain")
                     ? aclopExecute(type, 1, of, buffers, 1, of, buffers, attributes, stream)
                 : is(how, "v2")
                     ? aclopExecuteV2(type, 1, of, buffers, 1, of, buffers, attributes, stream)
                 : is(how, "compile") ? aclopCompileAndExecute(type, 1, of, buffers, 1, of, buffers,
                                                               attributes, 0, 0, NULL, stream)
                 : is(how, "compile2")
                     ? aclopCompileAndExecuteV2(type, 1, of, buffers, 1, of, buffers, attributes, 0,
                                                0, NULL, stream)
                     : aclopExecWithHandle(handle, 1, buffers, 1, buffers, stream);
    if (!failed)
        failed = aclrtSynchronizeStream(stream);
    aclopDestroyHandle(handle);
    aclopDestroyAttr(attributes);
    aclDestroyTensorDesc(of[0]);
    int ended = aclDestroyDataBuffer(buffers[0]);
    return failed ? failed : ended;
}

void obey(const char *what, const char *how, const char *a, const char *b) {
    uint32_t id = (uint32_t)atoi(a);
    size_t size = 0, other = 0;
    int failed;
    if (!aclCreateDataBuffer)
        look_up_makers();
    if (is(what, "set"))
        answer(aclInit(NULL) | aclrtSetDevice(atoi(how)));
    else if (is(what, "reset"))
        answer(aclrtResetDevice(atoi(how)));
    else if (is(what, "load")) {
        id = 0;
        failed = load(how, a, &id);
        printf("%d %u\n", failed, id);
    } else if (is(what, "query")) {
        failed = is(how, "file") ? aclmdlQuerySize(a, &size, &other)
                                 : aclmdlQuerySizeFromMem(data, read_all(a), &size, &other);
        printf("%d %zu %zu\n", failed, size, other);
    } else if (is(what, "like")) {
        void *description = aclmdlCreateDesc();
        failed = aclmdlGetDesc(description, (uint32_t)atoi(how));
        printf("%d %zu %zu %zu %zu\n", failed, aclmdlGetNumInputs(description),
               aclmdlGetNumOutputs(description), aclmdlGetInputSizeByIndex(description, 0),
               aclmdlGetOutputSizeByIndex(description, 0));
    } else if (is(what, "execute"))
        answer(execute(how, id, atoi(b)));
    else if (is(what, "unload"))
        answer(aclmdlUnload((uint32_t)atoi(how)));
    else if (is(what, "give-back"))
        answer(aclrtFree(work) | aclrtFree(weights));
    else if (is(what, "operators"))
        answer(is(how, "folder") ? aclopSetModelDir(a) : aclopLoad(data, read_all(a)));
    else if (is(what, "operate"))
        answer(operate(how, a, atoi(b)));
    else if (is(what, "take")) { /* memory of the device for something else */
        void *got;
        answer(rtMalloc(&got, strtoull(how, NULL, 10), 2, 33));
    } else
        printf("not so: %s\n", what);
}

PROGRAM
