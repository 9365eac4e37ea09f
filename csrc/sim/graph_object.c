/* User objects: the application's resources that live as long as the graphs that hold them. */
#include "graph.h"

#include <stdlib.h>

struct sim_user_object {
    uint32_t live; /* as slots.h says */
    uint32_t unused;
    _Atomic uint32_t refs;
    CUhostFn destroy;
    void *data;
};

static struct sim_slots objects;
static pthread_once_t once = PTHREAD_ONCE_INIT;

enum { OBJECT_SLOT = 64, OBJECT_SLOTS = 1 << 20 };
_Static_assert(sizeof(struct sim_user_object) <= OBJECT_SLOT, "an object fits its slot");

static void make_slots(void) { sim_slots_init(&objects, OBJECT_SLOT, OBJECT_SLOTS); }

static struct sim_user_object *find(CUuserObject handle) { return sim_slots_get(&objects, handle); }

/* Drops references; the last one calls the destructor, which must call nothing of CUDA's. */
static CUresult drop(struct sim_user_object *object, unsigned count) {
    uint32_t refs = atomic_load_explicit(&object->refs, memory_order_relaxed);
    do {
        if (refs < count)
            return CUDA_ERROR_INVALID_VALUE;
        /* Acquire-release: the last one sees what the others did. */
    } while (!atomic_compare_exchange_weak_explicit(&object->refs, &refs, refs - count,
                                                    memory_order_acq_rel, memory_order_relaxed));
    if (refs == count && sim_handle_end(object)) {
        CUhostFn destroy = object->destroy;
        void *data = object->data;
        sim_slots_give(&objects, object);
        destroy(data);
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuUserObjectCreate(CUuserObject *handle, void *data, CUhostFn destroy,
                                    unsigned count, unsigned flags) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL || destroy == NULL || count == 0 || count > INT32_MAX ||
        flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_once(&once, make_slots);
    struct sim_user_object *object = objects.base == NULL ? NULL : sim_slots_take(&objects);
    if (object == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    object->destroy = destroy;
    object->data = data;
    atomic_store_explicit(&object->refs, count, memory_order_relaxed); /* not shared yet */
    sim_slots_publish(object);
    *handle = (CUuserObject)object;
    return CUDA_SUCCESS;
}

static CUresult enter(CUuserObject handle, unsigned count, struct sim_user_object **object) {
    CUresult result = sim_ready();
    if (result != CUDA_SUCCESS)
        return result;
    *object = find(handle);
    return *object == NULL || count == 0 || count > INT32_MAX ? CUDA_ERROR_INVALID_VALUE
                                                              : CUDA_SUCCESS;
}

CUresult CUDAAPI cuUserObjectRetain(CUuserObject handle, unsigned count) {
    struct sim_user_object *object;
    CUresult result = enter(handle, count, &object);
    if (result == CUDA_SUCCESS) /* relaxed: the caller has a reference */
        atomic_fetch_add_explicit(&object->refs, count, memory_order_relaxed);
    return result;
}

CUresult CUDAAPI cuUserObjectRelease(CUuserObject handle, unsigned count) {
    struct sim_user_object *object;
    CUresult result = enter(handle, count, &object);
    return result == CUDA_SUCCESS ? drop(object, count) : result;
}

/* ---- Held by graphs ------------------------------------------------------------------------ */

/* G: the graph's entry for an object, or NULL. */
static struct sim_graph_object *find_held(const struct sim_graph *graph,
                                          const struct sim_user_object *object) {
    struct sim_graph_object *held = graph->objects;
    while (held != NULL && held->object != object)
        held = held->next;
    return held;
}

/* G: makes the graph hold `count` references that the caller gives it. */
static bool hold(struct sim_graph *graph, struct sim_user_object *object, unsigned count) {
    struct sim_graph_object *held = find_held(graph, object);
    if (held == NULL) {
        held = calloc(1, sizeof *held);
        if (held == NULL)
            return false;
        held->object = object;
        held->next = graph->objects;
        graph->objects = held;
    }
    held->count += count;
    return true;
}

CUresult CUDAAPI cuGraphRetainUserObject(CUgraph graph_handle, CUuserObject handle, unsigned count,
                                         unsigned flags) {
    struct sim_user_object *object;
    CUresult result = enter(handle, count, &object);
    if (result != CUDA_SUCCESS)
        return result;
    if ((flags & ~(unsigned)CU_GRAPH_USER_OBJECT_MOVE) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    sim_graph_enter();
    struct sim_graph *graph = sim_graph_find(graph_handle);
    if (graph == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (!hold(graph, object, count))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else if (flags == 0) /* relaxed: the caller has a reference */
        atomic_fetch_add_explicit(&object->refs, count, memory_order_relaxed);
    sim_graph_leave();
    return result;
}

CUresult CUDAAPI cuGraphReleaseUserObject(CUgraph graph_handle, CUuserObject handle,
                                          unsigned count) {
    struct sim_user_object *object;
    CUresult result = enter(handle, count, &object);
    if (result != CUDA_SUCCESS)
        return result;
    sim_graph_enter();
    struct sim_graph *graph = sim_graph_find(graph_handle);
    struct sim_graph_object *held = graph == NULL ? NULL : find_held(graph, object);
    if (held == NULL || held->count < count) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        held->count -= count;
        if (held->count == 0) {
            struct sim_graph_object **link = &graph->objects;
            while (*link != held)
                link = &(*link)->next;
            *link = held->next;
            free(held);
        }
    }
    sim_graph_leave();
    return result == CUDA_SUCCESS ? drop(object, count) : result;
}

CUresult sim_graph_objects_copy(const struct sim_graph *graph, struct sim_graph *copy) {
    for (const struct sim_graph_object *held = graph->objects; held != NULL; held = held->next) {
        if (!hold(copy, held->object, held->count))
            return CUDA_ERROR_OUT_OF_MEMORY;
        /* Relaxed: the original has references. */
        atomic_fetch_add_explicit(&held->object->refs, held->count, memory_order_relaxed);
    }
    return CUDA_SUCCESS;
}

void sim_graph_objects_release(struct sim_graph_object *first) {
    while (first != NULL) {
        struct sim_graph_object *next = first->next;
        drop(first->object, first->count);
        free(first);
        first = next;
    }
}
