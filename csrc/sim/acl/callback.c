/* The program's own functions in streams: called at once where they stand, or by a thread of the program's
 * that has been named for the stream, when it next asks.
 */
#include "acl_sim.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;

/* Which thread is to call those of a stream. */
static struct subscription {
    uint64_t thread;
    rtStream_t stream; /* NULL: a free place */
    struct subscription *next;
} * subscriptions;

/* One that has come, in the order of their coming. */
static struct call {
    uint64_t thread;
    rtCallback_t function;
    void *data;
    bool holds; /* the stream waits for its end */
    bool done;
    struct call *next;
} * calls;

static void make(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attributes);
    pthread_condattr_destroy(&attributes);
}
static pthread_once_t made = PTHREAD_ONCE_INIT;

/* Under the lock. */
static struct subscription *find(rtStream_t stream) {
    struct subscription *one = subscriptions;
    while (one && one->stream != stream)
        one = one->next;
    return one;
}

rtError_t rtSubscribeReport(uint64_t thread, rtStream_t stream) {
    pthread_once(&made, make);
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!stream)
        return RT_PARAM_INVALID;
    pthread_mutex_lock(&lock);
    if (find(stream))
        result = RT_STREAM_SUBSCRIBE;
    struct subscription *one = result == RT_OK ? find(NULL) : NULL;
    if (result == RT_OK && !one) {
        one = calloc(1, sizeof *one);
        result = one ? RT_OK : RT_INTERNAL_ERROR;
        if (one) {
            one->next = subscriptions;
            subscriptions = one;
        }
    }
    if (result == RT_OK) {
        one->thread = thread;
        one->stream = stream;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

rtError_t rtUnSubscribeReport(uint64_t thread, rtStream_t stream) {
    pthread_mutex_lock(&lock);
    struct subscription *one = stream ? find(stream) : NULL;
    bool known = one && one->thread == thread;
    if (known)
        one->stream = NULL;
    pthread_mutex_unlock(&lock);
    return known ? RT_OK : RT_STREAM_SUBSCRIBE;
}

/* In the stream's order. */
static void come(void *argument) {
    struct call *call = argument;
    bool holds = call->holds;
    pthread_mutex_lock(&lock);
    struct call **link = &calls;
    while (*link)
        link = &(*link)->next;
    *link = call;
    pthread_cond_broadcast(&changed);
    while (holds && !call->done)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    if (holds)
        free(call);
}

rtError_t rtCallbackLaunch(rtCallback_t function, void *data, rtStream_t stream, bool holds) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!function || !stream)
        return RT_PARAM_INVALID;
    uint32_t status;
    if (rtStreamGetCaptureInfo(stream, &status, NULL) == RT_OK && status != RT_CAPTURE_NONE)
        return RT_CAPTURE_NOT_SUPPORTED;
    struct call *call = calloc(1, sizeof *call);
    if (!call)
        return RT_INTERNAL_ERROR;
    pthread_mutex_lock(&lock);
    struct subscription *one = find(stream);
    if (one)
        *call = (struct call){one->thread, function, data, holds, false, NULL};
    pthread_mutex_unlock(&lock);
    result = one ? rtsLaunchHostFunc(stream, come, call) : RT_STREAM_NO_CALLBACK;
    if (result != RT_OK)
        free(call);
    return result;
}
rtError_t rtsCallbackLaunch(rtCallback_t function, void *data, rtStream_t stream, bool holds) {
    return rtCallbackLaunch(function, data, stream, holds);
}

/* The next one that is the thread's. Under the lock. */
static struct call *take(uint64_t thread) {
    struct call **link = &calls;
    while (*link && (*link)->thread != thread)
        link = &(*link)->next;
    struct call *call = *link;
    if (call)
        *link = call->next;
    return call;
}

rtError_t rtProcessReport(int32_t timeout) {
    uint64_t self = (uint64_t)pthread_self();
    struct timespec until;
    struct call *call;
    int waited = 0;
    if (timeout < -1)
        return RT_PARAM_INVALID;
    pthread_once(&made, make);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout / 1000;
    until.tv_nsec += timeout % 1000 * 1000000l;
    until.tv_sec += until.tv_nsec / 1000000000l;
    until.tv_nsec %= 1000000000l;
    pthread_mutex_lock(&lock);
    while (!(call = take(self)) && waited != ETIMEDOUT)
        waited = timeout < 0 ? pthread_cond_wait(&changed, &lock)
                             : pthread_cond_timedwait(&changed, &lock, &until);
    bool any = call;
    while (call) {
        bool holds = call->holds;
        pthread_mutex_unlock(&lock);
        call->function(call->data);
        pthread_mutex_lock(&lock);
        call->done = true;
        if (!holds)
            free(call);
        pthread_cond_broadcast(&changed);
        call = take(self);
    }
    pthread_mutex_unlock(&lock);
    return any ? RT_OK : RT_REPORT_TIMEOUT;
}

rtError_t rtsLaunchHostFunc(rtStream_t stream, const rtCallback_t function, void *const data) {
    rtError_t result = acl_enter(NULL);
    if (result != RT_OK)
        return result;
    if (!function)
        return RT_PARAM_INVALID;
    struct acl_work work = {.kind = ACL_HOST, .host = {function, data}};
    return acl_submit(&work, stream);
}
