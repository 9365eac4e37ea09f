/* A program that records work for Ascend devices and executes it, has functions of its own called in
 * streams, and waits for other processes and devices; written without the vendor's headers. It does what
 * standard input says, a line each, and answers a line each, which begins with the code that the runtime
 * answered.
 */
#include "ascend_program.h"

#include <pthread.h>
#include <stdatomic.h>

enum { NAME = 65 };

#define ACL(X)                                                                                     \
    X(aclrtSetDevice, (int32_t))                                                                   \
    X(aclrtResetDevice, (int32_t))                                                                 \
    X(aclrtMallocAlign32, (void **, size_t, int))                                                  \
    X(aclrtMemset, (void *, size_t, int32_t, size_t))                                              \
    X(aclrtMemcpy, (void *, size_t, const void *, size_t, int))                                    \
    X(aclrtMemcpyAsync, (void *, size_t, const void *, size_t, int, void *))                       \
    X(aclrtMemsetAsync, (void *, size_t, int32_t, size_t, void *))                                 \
    X(aclrtCreateStream, (void **))                                                                \
    X(aclrtDestroyStream, (void *))                                                                \
    X(aclrtSynchronizeStream, (void *))                                                            \
    X(aclrtSynchronizeDevice, (void))                                                              \
    X(aclrtCreateEvent, (void **))                                                                 \
    X(aclrtRecordEvent, (void *, void *))                                                          \
    X(aclrtStreamWaitEvent, (void *, void *))                                                      \
    X(aclrtBinaryLoadFromFile, (const char *, void *, void **))                                    \
    X(aclrtBinaryGetFunction, (void *, const char *, void **))                                     \
    X(aclrtLaunchKernel, (void *, uint32_t, const void *, size_t, void *))                         \
    X(aclmdlRICaptureBegin, (void *, int))                                                         \
    X(aclmdlRICaptureEnd, (void *, void **))                                                       \
    X(aclmdlRICaptureGetInfo, (void *, int *, void **))                                            \
    X(aclmdlRIExecute, (void *, int32_t))                                                          \
    X(aclmdlRIExecuteAsync, (void *, void *))                                                      \
    X(aclmdlRIDestroy, (void *))                                                                   \
    X(aclmdlRIBuildBegin, (void **, uint32_t))                                                     \
    X(aclmdlRIBindStream, (void *, void *, uint32_t))                                              \
    X(aclmdlRIEndTask, (void *, void *))                                                           \
    X(aclmdlRIBuildEnd, (void *, void *))                                                          \
    X(aclmdlRIUnbindStream, (void *, void *))                                                      \
    X(aclrtSubscribeReport, (uint64_t, void *))                                                    \
    X(aclrtUnSubscribeReport, (uint64_t, void *))                                                  \
    X(aclrtProcessReport, (int32_t))                                                               \
    X(aclrtLaunchCallback, (void (*)(void *), void *, int, void *))                                \
    X(aclrtLaunchHostFunc, (void *, void (*)(void *), void *))                                     \
    X(aclrtCreateNotify, (void **, uint64_t))                                                      \
    X(aclrtDestroyNotify, (void *))                                                                \
    X(aclrtRecordNotify, (void *, void *))                                                         \
    X(aclrtWaitAndResetNotify, (void *, void *, uint32_t))                                         \
    X(aclrtNotifyGetExportKey, (void *, char *, size_t, uint64_t))                                 \
    X(aclrtNotifyImportByKey, (void **, const char *, uint64_t))                                   \
    X(aclrtDeviceCanAccessPeer, (int32_t *, int32_t, int32_t))                                     \
    X(aclrtDeviceEnablePeerAccess, (int32_t, uint32_t))                                            \
    X(aclrtDeviceDisablePeerAccess, (int32_t))

#define RUNTIME(X)                                                                                 \
    X(rtDevBinaryRegister, (const void *, void **))                                                \
    X(rtFunctionRegister, (void *, const void *, const char *, const void *, uint32_t))            \
    X(rtConfigureCall, (uint32_t, void *, void *))                                                 \
    X(rtSetupArgument, (const void *, uint32_t, uint32_t))                                         \
    X(rtLaunch, (const void *))                                                                    \
    X(rtStreamBeginCapture, (void *, int))                                                         \
    X(rtStreamEndCapture, (void *, void **))                                                       \
    X(rtModelCreate, (void **, uint32_t))                                                          \
    X(rtModelBindStream, (void *, void *, uint32_t))                                               \
    X(rtModelUnbindStream, (void *, void *))                                                       \
    X(rtEndGraph, (void *, void *))                                                                \
    X(rtModelLoadComplete, (void *))                                                               \
    X(rtModelExecute, (void *, void *, uint32_t))                                                  \
    X(rtModelExecuteSync, (void *, void *, uint32_t, int32_t))                                     \
    X(rtModelDestroy, (void *))                                                                    \
    X(rtsModelCreate, (void **, uint32_t))                                                         \
    X(rtsModelBindStream, (void *, void *, uint32_t))                                              \
    X(rtsModelUnbindStream, (void *, void *))                                                      \
    X(rtsEndGraph, (void *, void *))                                                               \
    X(rtsModelLoadComplete, (void *, void *))                                                      \
    X(rtsModelExecute, (void *, int32_t))                                                          \
    X(rtsModelExecuteAsync, (void *, void *))                                                      \
    X(rtsModelDestroy, (void *))                                                                   \
    X(rtSubscribeReport, (uint64_t, void *))                                                       \
    X(rtUnSubscribeReport, (uint64_t, void *))                                                     \
    X(rtProcessReport, (int32_t))                                                                  \
    X(rtCallbackLaunch, (void (*)(void *), void *, void *, bool))                                  \
    X(rtsLaunchHostFunc, (void *, void (*)(void *), void *))                                       \
    X(rtNotifyCreate, (int32_t, void **))                                                          \
    X(rtNotifyDestroy, (void *))                                                                   \
    X(rtNotifyRecord, (void *, void *))                                                            \
    X(rtNotifyWait, (void *, void *))                                                              \
    X(rtNotifyReset, (void *))                                                                     \
    X(rtIpcSetNotifyName, (void *, char *, uint32_t))                                              \
    X(rtIpcOpenNotify, (void **, const char *))                                                    \
    X(rtsNotifyCreate, (void **, uint64_t))                                                        \
    X(rtsNotifyDestroy, (void *))                                                                  \
    X(rtsNotifyRecord, (void *, void *))                                                           \
    X(rtsNotifyWaitAndReset, (void *, void *, uint32_t))                                           \
    X(rtsNotifyGetExportKey, (void *, char *, uint32_t, uint64_t))                                 \
    X(rtsNotifyImportByKey, (void **, const char *, uint64_t))                                     \
    X(rtEnableP2P, (uint32_t, uint32_t, uint32_t))                                                 \
    X(rtDisableP2P, (uint32_t, uint32_t))                                                          \
    X(rtDeviceCanAccessPeer, (int32_t *, uint32_t, uint32_t))                                      \
    X(rtMemcpyAsync, (void *, uint64_t, const void *, uint64_t, int, void *))                      \
    X(rtsMemcpyAsync, (void *, uint64_t, const void *, uint64_t, int, void *, void *))             \
    X(rtStreamSynchronize, (void *))                                                               \
    X(rtsStreamSynchronize, (void *, int32_t))                                                     \
    X(rtStreamQuery, (void *))                                                                     \
    X(rtsStreamDestroy, (void *, uint64_t))

ACL(DECLARE)
RUNTIME(DECLARE)

static void *binary, *kernel;
static atomic_int called;
static pthread_t caller;

static int load(void) {
    int code = binary ? 0 : aclrtBinaryLoadFromFile("/bin/true", NULL, &binary);
    return code || kernel ? code : aclrtBinaryGetFunction(binary, "aliquot_spin_ns", &kernel);
}

static int launch(uint64_t ns, void *stream) {
    uint64_t arguments[4] = {ns};
    int code = load();
    return code ? code : aclrtLaunchKernel(kernel, 1, arguments, sizeof arguments, stream);
}

/* As programs of the first compilers do it. */
static int launch_in_steps(uint64_t ns, void *stream) {
    static const char stub;
    static void *code;
    struct {
        uint32_t magic, version;
        const void *data;
        uint64_t length;
    } all = {0, 0, &stub, 1};
    int failed = code ? 0 : rtDevBinaryRegister(&all, &code);
    if (!failed)
        failed = rtFunctionRegister(code, &stub, "aliquot_spin_ns", "spin", 0);
    if (!failed)
        failed = rtConfigureCall(1, NULL, stream);
    if (!failed)
        failed = rtSetupArgument(&ns, sizeof ns, 0);
    return failed ? failed : rtLaunch(&stub);
}

static void call(void *data) {
    (void)data;
    caller = pthread_self();
    atomic_fetch_add(&called, 1);
}

/* A thread that calls what streams want called. */
static void *report(void *argument) {
    while (!atomic_load((atomic_int *)argument))
        aclrtProcessReport(50);
    return NULL;
}

static int begin(const char *how, void *stream) {
    return is(how, "acl") ? aclmdlRICaptureBegin(stream, 2) : rtStreamBeginCapture(stream, 2);
}
static int end(const char *how, void *stream, void **model) {
    return is(how, "acl") ? aclmdlRICaptureEnd(stream, model) : rtStreamEndCapture(stream, model);
}
static int create(const char *how, void **model) {
    if (is(how, "acl"))
        return aclmdlRIBuildBegin(model, 0);
    return is(how, "rts") ? rtsModelCreate(model, 0) : rtModelCreate(model, 0);
}
static int bind_stream(const char *how, void *model, void *stream) {
    if (is(how, "acl"))
        return aclmdlRIBindStream(model, stream, 0);
    return is(how, "rts") ? rtsModelBindStream(model, stream, 0)
                          : rtModelBindStream(model, stream, 0);
}
static int unbind(const char *how, void *model, void *stream) {
    if (is(how, "acl"))
        return aclmdlRIUnbindStream(model, stream);
    return is(how, "rts") ? rtsModelUnbindStream(model, stream)
                          : rtModelUnbindStream(model, stream);
}
/* The last task, and the model is whole. */
static int complete(const char *how, void *model, void *stream) {
    int code = is(how, "acl")   ? aclmdlRIEndTask(model, stream)
               : is(how, "rts") ? rtsEndGraph(model, stream)
                                : rtEndGraph(model, stream);
    if (code)
        return code;
    if (is(how, "acl"))
        return aclmdlRIBuildEnd(model, NULL);
    return is(how, "rts") ? rtsModelLoadComplete(model, NULL) : rtModelLoadComplete(model);
}
static int execute(const char *how, void *model, void *stream) {
    if (is(how, "acl"))
        return aclmdlRIExecuteAsync(model, stream);
    if (is(how, "acl-sync"))
        return aclmdlRIExecute(model, -1);
    if (is(how, "rts"))
        return rtsModelExecuteAsync(model, stream);
    if (is(how, "rts-sync"))
        return rtsModelExecute(model, -1);
    return is(how, "rt-sync") ? rtModelExecuteSync(model, stream, 0, -1)
                              : rtModelExecute(model, stream, 0);
}
static int destroy(const char *how, void *model) {
    if (is(how, "acl"))
        return aclmdlRIDestroy(model);
    return is(how, "rts") ? rtsModelDestroy(model) : rtModelDestroy(model);
}

/* A function of ours, by a thread of ours that the stream waits for or not, or where it stands. */
static int call_in(const char *how, void *stream) {
    if (is(how, "acl"))
        return aclrtLaunchCallback(call, NULL, 0, stream);
    if (is(how, "acl-holds"))
        return aclrtLaunchCallback(call, NULL, 1, stream);
    if (is(how, "rt"))
        return rtCallbackLaunch(call, NULL, stream, true);
    return is(how, "rts-host") ? rtsLaunchHostFunc(stream, call, NULL)
                               : aclrtLaunchHostFunc(stream, call, NULL);
}

/* What is called in the stream, from its subscription to its end. */
static void calls(const char *how, void *stream, int count) {
    atomic_int stop = 0;
    pthread_t thread;
    int none = call_in("acl", stream); /* nobody has subscribed yet */
    pthread_create(&thread, NULL, report, &stop);
    int code = is(how, "rt") ? rtSubscribeReport((uint64_t)thread, stream)
                             : aclrtSubscribeReport((uint64_t)thread, stream);
    int twice = rtSubscribeReport((uint64_t)thread, stream);
    atomic_store(&called, 0);
    for (int i = 0; i < count && !code; i++)
        code = call_in(how, stream);
    int waited = aclrtSynchronizeStream(stream);
    while (!code && atomic_load(&called) < count)
        usleep(1000);
    bool elsewhere = !pthread_equal(caller, pthread_self());
    int over = is(how, "rt") ? rtUnSubscribeReport((uint64_t)thread, stream)
                             : aclrtUnSubscribeReport((uint64_t)thread, stream);
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    printf("%d %d %d %d %d %d %d\n", code, none, twice, waited, atomic_load(&called), elsewhere,
           over);
}

static int new_notify(const char *how, void **notify) {
    if (is(how, "acl"))
        return aclrtCreateNotify(notify, 0);
    return is(how, "rts") ? rtsNotifyCreate(notify, 0) : rtNotifyCreate(0, notify);
}
static int name_notify(const char *how, void *notify, char *name) {
    if (is(how, "acl"))
        return aclrtNotifyGetExportKey(notify, name, NAME, 2);
    return is(how, "rts") ? rtsNotifyGetExportKey(notify, name, NAME, 2)
                          : rtIpcSetNotifyName(notify, name, NAME);
}
static int open_notify(const char *how, void **notify, const char *name) {
    if (is(how, "acl"))
        return aclrtNotifyImportByKey(notify, name, 0);
    return is(how, "rts") ? rtsNotifyImportByKey(notify, name, 0) : rtIpcOpenNotify(notify, name);
}
static int record(const char *how, void *notify, void *stream) {
    if (is(how, "acl"))
        return aclrtRecordNotify(notify, stream);
    return is(how, "rts") ? rtsNotifyRecord(notify, stream) : rtNotifyRecord(notify, stream);
}
static int wait_for(const char *how, void *notify, void *stream) {
    if (is(how, "acl"))
        return aclrtWaitAndResetNotify(notify, stream, 0);
    return is(how, "rts") ? rtsNotifyWaitAndReset(notify, stream, 0) : rtNotifyWait(notify, stream);
}
static int end_notify(const char *how, void *notify) {
    if (is(how, "acl"))
        return aclrtDestroyNotify(notify);
    return is(how, "rts") ? rtsNotifyDestroy(notify) : rtNotifyDestroy(notify);
}

/* From one device to another: kind 3. */
static int copy(const char *how, void *to, const void *from, size_t size, void *stream) {
    if (is(how, "acl"))
        return aclrtMemcpyAsync(to, size, from, size, 3, stream);
    return is(how, "rts") ? rtsMemcpyAsync(to, size, from, size, 3, NULL, stream)
                          : rtMemcpyAsync(to, size, from, size, 3, stream);
}

static int peers(const char *how, int device, int peer, bool on) {
    int32_t can = 0;
    int code = is(how, "acl") ? aclrtDeviceCanAccessPeer(&can, device, peer)
                              : rtDeviceCanAccessPeer(&can, (uint32_t)device, (uint32_t)peer);
    if (code || !can)
        return code ? code : -3;
    if (is(how, "acl"))
        return on ? aclrtDeviceEnablePeerAccess(peer, 0) : aclrtDeviceDisablePeerAccess(peer);
    return on ? rtEnableP2P((uint32_t)device, (uint32_t)peer, 0)
              : rtDisableP2P((uint32_t)device, (uint32_t)peer);
}

static int check(const void *at, size_t size, int value) {
    uint8_t *read = malloc(size);
    int code = read ? aclrtMemcpy(read, size, at, size, 2) : -1;
    for (size_t i = 0; code == 0 && i < size; i++)
        code = read[i] == value ? 0 : -2;
    free(read);
    return code;
}

/* Words: what, how, and two things or numbers. "-" is no thing, such as the default stream. */
void obey(const char *what, const char *how, const char *a, const char *b) {
    enum { SIZE = 1 << 20 };
    void *one = is_number(a) ? thing(atoi(a)) : NULL, *two = is_number(b) ? thing(atoi(b)) : NULL;
    void *got = NULL;
    char name[NAME] = "";
    int status = -1, code;
    if (is(what, "set"))
        answer(aclrtSetDevice(atoi(how)));
    else if (is(what, "reset"))
        answer(aclrtResetDevice(atoi(how)));
    else if (is(what, "stream")) {
        code = aclrtCreateStream(&got);
        answer_thing(code, &got);
    } else if (is(what, "event")) {
        code = aclrtCreateEvent(&got);
        answer_thing(code, &got);
    } else if (is(what, "memory")) {
        code = aclrtMallocAlign32(&got, SIZE, 0);
        answer_thing(code, &got);
    } else if (is(what, "end-stream"))
        answer(is(how, "rts") ? rtsStreamDestroy(one, 0) : aclrtDestroyStream(one));
    else if (is(what, "launch"))
        answer(launch(strtoull(how, NULL, 10), one));
    else if (is(what, "launches")) { /* so many of them */
        for (code = 0, status = 0; status < atoi(b) && !code; status++)
            code = launch(strtoull(how, NULL, 10), one);
        answer(code);
    } else if (is(what, "steps")) { /* so many in two steps */
        for (code = 0, status = 0; status < atoi(b) && !code; status++)
            code = launch_in_steps(strtoull(how, NULL, 10), one);
        answer(code);
    } else if (is(what, "fill"))
        answer(aclrtMemset(one, SIZE, atoi(how), SIZE));
    else if (is(what, "fill-in"))
        answer(aclrtMemsetAsync(one, SIZE, atoi(how), SIZE, two));
    else if (is(what, "check"))
        answer(check(one, SIZE, atoi(how)));
    else if (is(what, "sync"))
        answer(is(how, "rt")    ? rtStreamSynchronize(one)
               : is(how, "rts") ? rtsStreamSynchronize(one, -1)
               : is(how, "all") ? aclrtSynchronizeDevice()
                                : aclrtSynchronizeStream(one));
    else if (is(what, "query"))
        answer(rtStreamQuery(one));
    else if (is(what, "record"))
        answer(aclrtRecordEvent(one, two));
    else if (is(what, "wait"))
        answer(aclrtStreamWaitEvent(one, two));
    else if (is(what, "begin"))
        answer(begin(how, one));
    else if (is(what, "end")) {
        code = end(how, one, &got);
        answer_thing(code, &got);
    } else if (is(what, "status")) {
        code = aclmdlRICaptureGetInfo(one, &status, &got);
        printf("%d %d %d\n", code, status, got != NULL);
    } else if (is(what, "create")) {
        code = create(how, &got);
        answer_thing(code, &got);
    } else if (is(what, "bind"))
        answer(bind_stream(how, one, two));
    else if (is(what, "unbind"))
        answer(unbind(how, one, two));
    else if (is(what, "complete"))
        answer(complete(how, one, two));
    else if (is(what, "execute"))
        answer(execute(how, one, two));
    else if (is(what, "executes")) { /* as many times as the stream's place says: with one wait */
        for (code = 0, status = 0; status < atoi(b) && !code; status++)
            code = execute(how, one, NULL);
        answer(code ? code : aclrtSynchronizeDevice());
    } else if (is(what, "destroy"))
        answer(destroy(how, one));
    else if (is(what, "calls"))
        calls(how, one, atoi(b));
    else if (is(what, "call"))
        answer(call_in(how, one));
    else if (is(what, "called"))
        printf("%d\n", atomic_load(&called));
    else if (is(what, "report"))
        answer(is(how, "rt") ? rtProcessReport(atoi(a)) : aclrtProcessReport(atoi(a)));
    else if (is(what, "notify")) {
        code = new_notify(how, &got);
        answer_thing(code, &got);
    } else if (is(what, "name")) {
        code = name_notify(how, one, name);
        printf("%d %s\n", code, name);
    } else if (is(what, "open")) {
        code = open_notify(how, &got, a);
        answer_thing(code, &got);
    } else if (is(what, "tell"))
        answer(record(how, one, two));
    else if (is(what, "hear"))
        answer(wait_for(how, one, two));
    else if (is(what, "quiet"))
        answer(rtNotifyReset(one));
    else if (is(what, "end-notify"))
        answer(end_notify(how, one));
    else if (is(what, "peer"))
        answer(peers(how, atoi(a), atoi(b), true));
    else if (is(what, "no-peer"))
        answer(peers(how, atoi(a), atoi(b), false));
    else if (is(what, "copy")) {
        for (code = 0, status = 0; status < 20 && !code; status++)
            code = copy(how, one, two, SIZE, NULL);
        answer(code);
    } else
        printf("not so: %s\n", what);
}

PROGRAM
