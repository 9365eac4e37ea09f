/* A program for Ascend devices, written without the vendor's headers: it declares what it calls by the
 * published interface. It does what standard input says, a line each, and answers a line each, which
 * begins with the code that the runtime answered.
 *
 * Compiled with BY_DLOPEN it is linked with none of the libraries, and looks everything up as
 * frameworks do; else it is linked with both.
 */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct attribute {
    uint32_t attr;
    union {
        uint16_t module;
        uint32_t device;
        uint8_t all[8];
    } value;
};
struct config {
    struct attribute *attrs;
    size_t count;
};
struct property {
    uint32_t handle_type, allocation_type, memory;
    struct {
        uint32_t id, type;
    } location;
    uint64_t reserve;
};
struct driver_property {
    uint32_t side, device, module, page_type, memory_type;
    uint64_t reserve;
};
struct binary {
    uint32_t magic, version;
    const void *data;
    uint64_t length;
};
struct arguments {
    void *args;
    uint8_t rest[248];
};

#define FUNCTIONS(X)                                                                               \
    X(aclInit, (const char *))                                                                     \
    X(aclrtGetDeviceCount, (uint32_t *))                                                           \
    X(aclrtSetDevice, (int32_t))                                                                   \
    X(aclrtResetDevice, (int32_t))                                                                 \
    X(aclrtResetDeviceForce, (int32_t))                                                            \
    X(aclrtGetDevice, (int32_t *))                                                                 \
    X(aclrtDeviceGetUuid, (int32_t, char *))                                                       \
    X(aclrtCreateContext, (void **, int32_t))                                                      \
    X(aclrtDestroyContext, (void *))                                                               \
    X(aclrtMalloc, (void **, size_t, int))                                                         \
    X(aclrtMallocAlign32, (void **, size_t, int))                                                  \
    X(aclrtMallocCached, (void **, size_t, int))                                                   \
    X(aclrtMallocWithCfg, (void **, size_t, int, struct config *))                                 \
    X(aclrtMallocForTaskScheduler, (void **, size_t, int, struct config *))                        \
    X(aclrtFree, (void *))                                                                         \
    X(aclrtFreeWithDevSync, (void *))                                                              \
    X(aclrtGetMemInfo, (int, size_t *, size_t *))                                                  \
    X(aclrtMallocPhysical, (void **, size_t, const struct property *, uint64_t))                   \
    X(aclrtFreePhysical, (void *))                                                                 \
    X(aclrtMemcpy, (void *, size_t, const void *, size_t, int))                                    \
    X(aclrtMemcpyAsync, (void *, size_t, const void *, size_t, int, void *))                       \
    X(aclrtMemset, (void *, size_t, int32_t, size_t))                                              \
    X(aclrtMemsetAsync, (void *, size_t, int32_t, size_t, void *))                                 \
    X(aclrtCreateStream, (void **))                                                                \
    X(aclrtDestroyStream, (void *))                                                                \
    X(aclrtStreamQuery, (void *, int *))                                                           \
    X(aclrtSynchronizeStream, (void *))                                                            \
    X(aclrtSynchronizeDevice, (void))                                                              \
    X(aclrtCreateEvent, (void **))                                                                 \
    X(aclrtRecordEvent, (void *, void *))                                                          \
    X(aclrtEventElapsedTime, (float *, void *, void *))                                            \
    X(aclrtBinaryLoadFromFile, (const char *, void *, void **))                                    \
    X(aclrtBinaryGetFunction, (void *, const char *, void **))                                     \
    X(aclrtLaunchKernel, (void *, uint32_t, const void *, size_t, void *))                         \
    X(aclrtLaunchKernelV2, (void *, uint32_t, const void *, size_t, void *, void *))               \
    X(aclrtLaunchKernelWithHostArgs,                                                               \
      (void *, uint32_t, void *, void *, void *, size_t, void *, size_t))                          \
    X(rtMalloc, (void **, uint64_t, uint32_t, uint16_t))                                           \
    X(rtMallocCached, (void **, uint64_t, uint32_t, uint16_t))                                     \
    X(rtMemAlloc, (void **, uint64_t, int, int, struct config *))                                  \
    X(rtMemAllocManaged, (void **, uint64_t, uint32_t, uint16_t))                                  \
    X(rtDvppMalloc, (void **, uint64_t, uint16_t))                                                 \
    X(rtDvppMallocWithFlag, (void **, uint64_t, uint32_t, uint16_t))                               \
    X(rtFree, (void *))                                                                            \
    X(rtFreeWithDevSync, (void *))                                                                 \
    X(rtMallocPhysical, (void **, size_t, struct driver_property *, uint64_t))                     \
    X(rtFreePhysical, (void *))                                                                    \
    X(rtMemGetInfo, (size_t *, size_t *))                                                          \
    X(rtMemGetInfoEx, (uint32_t, size_t *, size_t *))                                              \
    X(rtSetDevice, (int32_t))                                                                      \
    X(rtDevBinaryRegister, (const struct binary *, void **))                                       \
    X(rtFunctionRegister, (void *, const void *, const char *, const void *, uint32_t))            \
    X(rtKernelLaunch, (const void *, uint32_t, void *, uint32_t, void *, void *))                  \
    X(rtKernelLaunchWithFlagV2,                                                                    \
      (const void *, uint32_t, struct arguments *, void *, void *, uint32_t, const void *))        \
    X(rtKernelLaunchWithHandleV2,                                                                  \
      (void *, uint64_t, uint32_t, struct arguments *, void *, void *, const void *))              \
    X(rtStreamSynchronize, (void *))

#ifdef BY_DLOPEN
#define DECLARE(name, parameters) static int(*name) parameters;
FUNCTIONS(DECLARE)
static void look_up(void) {
    void *acl = dlopen("libascendcl.so", RTLD_NOW | RTLD_LOCAL);
    void *runtime = dlopen("libruntime.so", RTLD_NOW | RTLD_LOCAL);
    if (!acl || !runtime) {
        printf("not so: %s\n", dlerror());
        exit(1);
    }
#define LOOK_UP(name, parameters)                                                                  \
    *(void **)&name = dlsym(#name[0] == 'a' ? acl : runtime, #name);                               \
    if (!name) {                                                                                   \
        printf("not so: %s\n", dlerror());                                                         \
        exit(1);                                                                                   \
    }
    FUNCTIONS(LOOK_UP)
}
#else
#define DECLARE(name, parameters) int name parameters;
FUNCTIONS(DECLARE)
static void look_up(void) {}
#endif

enum { THINGS = 4096, GRANULE = 2 << 20 };
static void *things[THINGS]; /* memory, handles, ranges, contexts, by number */
static int thing_count;
static void *stream, *binary, *kernel, *code;
static const char stub;

static bool is(const char *word, const char *other) { return strcmp(word, other) == 0; }

/* By every function that gives memory. */
static int give(const char *how, size_t size, void **got) {
    struct attribute attribute = {.attr = 2, .value.device = 0};
    struct config config = {&attribute, 1};
    struct property property = {.location = {0, 1}};
    struct driver_property driver = {.side = 1, .device = 0};
    if (is(how, "acl"))
        return aclrtMalloc(got, size, 0);
    if (is(how, "align"))
        return aclrtMallocAlign32(got, size, 0);
    if (is(how, "cached"))
        return aclrtMallocCached(got, size, 0);
    if (is(how, "config"))
        return aclrtMallocWithCfg(got, size, 0, &config);
    if (is(how, "scheduler"))
        return aclrtMallocForTaskScheduler(got, size, 0, NULL);
    if (is(how, "rt"))
        return rtMalloc(got, size, 2, 33);
    if (is(how, "rt-cached"))
        return rtMallocCached(got, size, 2, 33);
    if (is(how, "rt-policy"))
        return rtMemAlloc(got, size, 0, 0, NULL);
    if (is(how, "rt-managed"))
        return rtMemAllocManaged(got, size, 0, 33);
    if (is(how, "dvpp"))
        return rtDvppMalloc(got, size, 33);
    if (is(how, "dvpp-flag"))
        return rtDvppMallocWithFlag(got, size, 0, 33);
    if (is(how, "physical"))
        return aclrtMallocPhysical(got, size, &property, 0);
    if (is(how, "rt-physical"))
        return rtMallocPhysical(got, size, &driver, 0);
    return -1;
}

static int take(const char *how, void *thing) {
    if (is(how, "acl"))
        return aclrtFree(thing);
    if (is(how, "sync"))
        return aclrtFreeWithDevSync(thing);
    if (is(how, "rt"))
        return rtFree(thing);
    if (is(how, "rt-sync"))
        return rtFreeWithDevSync(thing);
    if (is(how, "physical"))
        return aclrtFreePhysical(thing);
    if (is(how, "rt-physical"))
        return rtFreePhysical(thing);
    return -1;
}

/* What is written is read. */
static int use(void *memory, size_t size) {
    unsigned char back[64];
    size_t length = size < sizeof back ? size : sizeof back;
    int code = aclrtMemset(memory, size, 0x5a, size);
    if (!code)
        code = aclrtMemcpyAsync(back, sizeof back, memory, length, 2, stream);
    if (!code)
        code = aclrtSynchronizeStream(stream);
    for (size_t i = 0; !code && i < length; i++)
        if (back[i] != 0x5a)
            return -1;
    return code;
}

/* Code of which nothing is known but that there is some. */
static int load(const char *path) {
    struct binary file = {.data = path, .length = strlen(path)};
    int result = aclrtCreateStream(&stream);
    if (!result)
        result = aclrtBinaryLoadFromFile(path, NULL, &binary);
    if (!result)
        result = aclrtBinaryGetFunction(binary, "aliquot_spin_ns", &kernel);
    if (!result)
        result = rtDevBinaryRegister(&file, &code);
    if (!result)
        result = rtFunctionRegister(code, &stub, "aliquot_spin_ns", NULL, 0);
    return result;
}

static int launch(const char *how, uint64_t ns) {
    struct arguments arguments = {.args = &ns};
    if (is(how, "acl"))
        return aclrtLaunchKernel(kernel, 8, &ns, sizeof ns, stream);
    if (is(how, "v2"))
        return aclrtLaunchKernelV2(kernel, 8, &ns, sizeof ns, NULL, stream);
    if (is(how, "host"))
        return aclrtLaunchKernelWithHostArgs(kernel, 8, stream, NULL, &ns, sizeof ns, NULL, 0);
    if (is(how, "rt"))
        return rtKernelLaunch(&stub, 8, &ns, sizeof ns, NULL, stream);
    if (is(how, "flag"))
        return rtKernelLaunchWithFlagV2(&stub, 8, &arguments, NULL, stream, 0, NULL);
    if (is(how, "handle"))
        return rtKernelLaunchWithHandleV2(code, 1, 8, &arguments, NULL, stream, NULL);
    if (is(how, "default"))
        return rtKernelLaunch(&stub, 8, &ns, sizeof ns, NULL, NULL);
    return -1;
}

/* So many kernels, and the device's time from before the first one till after the last. */
static int run(const char *how, uint64_t ns, int count, float *ms) {
    void *start, *end;
    int result = aclrtCreateEvent(&start);
    if (!result)
        result = aclrtCreateEvent(&end);
    if (!result)
        result = aclrtRecordEvent(start, stream);
    for (int i = 0; !result && i < count; i++)
        result = launch(how, ns);
    if (!result)
        result = aclrtRecordEvent(end, stream);
    if (!result)
        result = aclrtSynchronizeDevice();
    if (!result)
        result = aclrtEventElapsedTime(ms, start, end);
    return result;
}

static int keep(void *thing) {
    things[thing_count] = thing;
    return thing_count++;
}

static void obey(const char *word, const char *how, uint64_t number, uint64_t size) {
    int result = -1;
    if (is(word, "set"))
        printf("%d\n", number ? rtSetDevice(atoi(how)) : aclrtSetDevice(atoi(how)));
    else if (is(word, "reset"))
        printf("%d\n", aclrtResetDevice(atoi(how)));
    else if (is(word, "force"))
        printf("%d\n", aclrtResetDeviceForce(atoi(how)));
    else if (is(word, "context")) {
        void *context = NULL;
        result = aclrtCreateContext(&context, atoi(how));
        printf("%d %d\n", result, keep(context));
    } else if (is(word, "end"))
        printf("%d\n", aclrtDestroyContext(things[atoi(how)]));
    else if (is(word, "devices")) {
        uint32_t count = 0;
        char uuid[16] = {0};
        result = aclrtGetDeviceCount(&count);
        aclrtDeviceGetUuid((int32_t)count - 1, uuid);
        printf("%d %u ", result, count);
        for (int i = 0; i < 16; i++)
            printf("%02x", (unsigned char)uuid[i]);
        printf("\n");
    } else if (is(word, "give")) {
        void *got = NULL;
        result = give(how, number, &got);
        printf("%d %d\n", result, keep(got));
    } else if (is(word, "take"))
        printf("%d\n", take(how, things[number]));
    else if (is(word, "use"))
        printf("%d\n", use(things[atoi(how)], number));
    else if (is(word, "info")) {
        size_t left = 0, total = 0;
        if (is(how, "acl"))
            result = aclrtGetMemInfo((int)number, &left, &total);
        else if (is(how, "rt"))
            result = rtMemGetInfo(&left, &total);
        else
            result = rtMemGetInfoEx((uint32_t)number, &left, &total);
        printf("%d %zu %zu\n", result, left, total);
    } else if (is(word, "load"))
        printf("%d\n", load(how));
    else if (is(word, "launch"))
        printf("%d\n", launch(how, number));
    else if (is(word, "run")) {
        float ms = 0;
        result = run(how, number, (int)size, &ms);
        printf("%d %.0f\n", result, (double)ms * 1e6);
    } else if (is(word, "sync"))
        printf("%d\n", stream ? rtStreamSynchronize(stream) : aclrtSynchronizeDevice());
    else if (is(word, "churn")) {
        /* Small pieces, many at a time: they share pages. */
        result = 0;
        for (uint64_t i = 0; !result && i < number; i++) {
            void *got = NULL;
            result = give(how, size, &got);
            keep(got);
        }
        printf("%d\n", result);
    } else
        printf("not so: %s\n", word);
}

int main(void) {
    char line[512];
    look_up();
    aclInit(NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin)) {
        char word[32] = "", how[256] = "";
        uint64_t number = 0, size = 0;
        sscanf(line, "%31s %255s %" SCNu64 " %" SCNu64, word, how, &number, &size);
        obey(word, how, number, size);
    }
    return 0;
}
