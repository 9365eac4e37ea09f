/* How much of its device a context's kernels may take: each thread's own setting, or the process's. It is
 * told and kept; kernels here take the whole device in any case. */
#include "cndrv_sim.h"

#include <pthread.h>
#include <stdlib.h>

struct setting {
    const struct sim_context *context; /* NULL: a free place */
    uint32_t serial;                   /* of the context when it was set */
    uint64_t thread;                   /* 0: the process's */
    uint64_t visible;                  /* clusters, a bit each */
    KernelClass widest;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct setting *settings;
static size_t room;

/* A number that no other thread of the process has or had. */
static uint64_t this_thread(void) {
    static _Atomic uint64_t threads;
    static _Thread_local uint64_t own;
    if (!own)
        own = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) + 1; /* unique only */
    return own;
}

static bool lives(const struct setting *setting) {
    /* Relaxed: whether it dies meanwhile is the caller's affair. */
    return setting->context &&
           atomic_load_explicit(&setting->context->serial, memory_order_relaxed) == setting->serial;
}

/* Under the mutex: what is set, or what holds without. */
static struct setting setting_of(const struct sim_context *context, uint64_t thread) {
    const uint32_t clusters = cn_clusters(sim_device_config(context->dev));
    for (size_t i = 0; i < room; i++)
        if (settings[i].context == context && settings[i].thread == thread && lives(&settings[i]))
            return settings[i];
    return (struct setting){
        .context = context,
        .serial = atomic_load_explicit(&context->serial, memory_order_relaxed), /* as lives() */
        .thread = thread,
        .visible = clusters < 64 ? (UINT64_C(1) << clusters) - 1 : UINT64_MAX,
        .widest = cn_widest(clusters),
    };
}

/* Under the mutex. Errors: SYSTEM_OUT_OF_MEMORY. */
static CNresult keep(const struct setting *setting) {
    struct setting *place = NULL;
    for (size_t i = 0; i < room; i++) {
        if (settings[i].context == setting->context && settings[i].thread == setting->thread) {
            settings[i] = *setting;
            return CN_SUCCESS;
        }
        if (!place && !lives(&settings[i]))
            place = &settings[i];
    }
    if (!place) {
        size_t more = room ? 2 * room : 8;
        struct setting *grown = reallocarray(settings, more, sizeof *settings);
        if (!grown)
            return CN_ERROR_SYSTEM_OUT_OF_MEMORY;
        for (size_t i = room; i < more; i++)
            grown[i] = (struct setting){0};
        settings = grown;
        place = &grown[room];
        room = more;
    }
    *place = *setting;
    return CN_SUCCESS;
}

static CNresult enter(CNcontext handle, const void *value, const struct sim_context **context) {
    CNresult result = cn_begin();
    if (result != CN_SUCCESS)
        return result;
    *context = sim_context_get((CUcontext)(void *)handle);
    if (!*context)
        return CN_CONTEXT_ERROR_INVALID;
    return value ? CN_SUCCESS : CN_ERROR_INVALID_VALUE;
}

static CNresult get(CNcontext handle, uint64_t thread, int type, CNctxConfigParam *value) {
    const struct sim_context *context;
    CNresult result = enter(handle, value, &context);
    if (result != CN_SUCCESS)
        return result;
    pthread_mutex_lock(&mutex);
    const struct setting setting = setting_of(context, thread);
    pthread_mutex_unlock(&mutex);
    switch (type) {
    case CN_CTX_CONFIG_VISIBLE_CLUSTER:
        value->visibleCluster = setting.visible;
        return CN_SUCCESS;
    case CN_CTX_CONFIG_VISIBLE_CLUSTER_NUM:
        value->visibleClusterNumber = (uint64_t)__builtin_popcountll(setting.visible);
        return CN_SUCCESS;
    case CN_CTX_CONFIG_UNION_LIMIT:
        value->unionLimit = setting.widest;
        return CN_SUCCESS;
    default:
        return CN_ERROR_INVALID_VALUE;
    }
}

/* Clusters that a kernel of the class takes; 0: a block takes a core; -1: there is no such class. */
static int clusters_of(KernelClass kind) {
    switch (kind) {
    case CN_KERNEL_CLASS_BLOCK:
        return 0;
    case CN_KERNEL_CLASS_UNION:
    case CN_KERNEL_CLASS_UNION2:
    case CN_KERNEL_CLASS_UNION4:
    case CN_KERNEL_CLASS_UNION8:
    case CN_KERNEL_CLASS_UNION16:
        return (int)kind / CN_CLUSTER_CORES;
    case CN_KERNEL_CLASS_NONE:
    default:
        return -1;
    }
}

static CNresult set(CNcontext handle, uint64_t thread, int type, const CNctxConfigParam *value) {
    const struct sim_context *context;
    CNresult result = enter(handle, value, &context);
    if (result != CN_SUCCESS)
        return result;
    pthread_mutex_lock(&mutex);
    struct setting setting = setting_of(context, thread);
    const uint32_t clusters = cn_clusters(sim_device_config(context->dev));
    const uint64_t all = clusters < 64 ? (UINT64_C(1) << clusters) - 1 : UINT64_MAX;
    int wide = type == CN_CTX_CONFIG_UNION_LIMIT ? clusters_of(value->unionLimit) : 0;
    if (type == CN_CTX_CONFIG_VISIBLE_CLUSTER && value->visibleCluster &&
        !(value->visibleCluster & ~all))
        setting.visible = value->visibleCluster;
    else if (type == CN_CTX_CONFIG_UNION_LIMIT && wide >= 0 && (uint32_t)wide <= clusters)
        setting.widest = value->unionLimit;
    else
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        result = keep(&setting);
    pthread_mutex_unlock(&mutex);
    return result;
}

CNresult cnGetCtxConfigParam_pt(CNcontext context, int type, CNctxConfigParam *value) {
    return get(context, this_thread(), type, value);
}
CNresult cnGetCtxConfigParam_pp(CNcontext context, int type, CNctxConfigParam *value) {
    return get(context, 0, type, value);
}
CNresult cnSetCtxConfigParam_pt(CNcontext context, int type, CNctxConfigParam *value) {
    return set(context, this_thread(), type, value);
}
CNresult cnSetCtxConfigParam_pp(CNcontext context, int type, CNctxConfigParam *value) {
    return set(context, 0, type, value);
}

CNresult cnGetCtxMaxParallelUnionTasks(CNcontext context, KernelClass kind, int *number) {
    CNctxConfigParam visible;
    int wide = clusters_of(kind);
    CNresult result = get(context, this_thread(), CN_CTX_CONFIG_VISIBLE_CLUSTER_NUM, &visible);
    if (result == CN_SUCCESS && (!number || wide < 0))
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS)
        *number = wide ? (int)visible.visibleClusterNumber / wide
                       : (int)visible.visibleClusterNumber * CN_CLUSTER_CORES;
    return result;
}
