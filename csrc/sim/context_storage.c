/* What the runtime library keeps in a context, by key: a private table of cuGetExportTable. Each
 * runtime asks for its own entry at nearly every call, so a look-up takes no lock. */
#include "export_table.h"
#include "module.h"

#include <stdlib.h>

struct entry {
    void *key;   /* atomic; NULL: never used. Written once, after the rest */
    void *value; /* atomic */
    bool held;   /* atomic; false: deleted, may be put again */
    void (*destructor)(CUcontext ctx, void *key, void *value);
};

/* A table is filled up to its half and then copied into one of twice the size; the old one stays
 * until the context goes, for whoever is still reading it. */
struct table {
    struct table *older;
    uint32_t mask;
    uint32_t used;
    struct entry entries[];
};

static pthread_mutex_t storage_lock = PTHREAD_MUTEX_INITIALIZER;

static uint32_t place(const void *key) {
    return (uint32_t)((uintptr_t)key * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

/* The key's entry, or the empty one where it would go. */
static struct entry *probe(struct table *table, const void *key) {
    for (uint32_t at = place(key) & table->mask;; at = (at + 1) & table->mask) {
        /* Acquire pairs with the release in put: the entry is whole. */
        void *there = __atomic_load_n(&table->entries[at].key, __ATOMIC_ACQUIRE);
        if (there == key || !there)
            return &table->entries[at];
    }
}

static struct table *make_table(struct table *older) {
    uint32_t room = older ? (older->mask + 1) * 2 : 16;
    struct table *table = calloc(1, sizeof *table + room * sizeof table->entries[0]);

    if (!table)
        return NULL;
    table->older = older;
    table->mask = room - 1;
    for (uint32_t i = 0; older && i <= older->mask; i++) {
        const struct entry *entry = &older->entries[i];
        if (!entry->key || !entry->held)
            continue;
        *probe(table, entry->key) = *entry;
        table->used++;
    }
    return table;
}

/* The context meant by a handle; NULL is the current one. */
static CUresult find_context(CUcontext handle, struct sim_context **ctx) {
    CUresult result = sim_ready();

    if (result != CUDA_SUCCESS)
        return result;
    if (!handle)
        return sim_enter(ctx);
    *ctx = sim_context_get(handle);
    return *ctx ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult sim_storage_put(CUcontext handle, void *key, void *value,
                         void (*destructor)(CUcontext ctx, void *key, void *value)) {
    struct sim_context *ctx;

    CUresult result = find_context(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!key)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&storage_lock);
    struct table *table = ctx->storage;
    if (!table || table->used * 2 > table->mask) {
        table = make_table(table);
        if (table)
            /* Release pairs with the acquire in get. */
            __atomic_store_n(&ctx->storage, table, __ATOMIC_RELEASE);
    }
    if (table) {
        struct entry *entry = probe(table, key);
        table->used += !entry->key;
        entry->destructor = destructor;
        __atomic_store_n(&entry->value, value, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->held, true, __ATOMIC_RELEASE); /* with get's acquire */
        __atomic_store_n(&entry->key, key, __ATOMIC_RELEASE);   /* with probe's acquire */
    } else {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_unlock(&storage_lock);
    return result;
}

CUresult sim_storage_get(void **value, CUcontext handle, void *key) {
    struct sim_context *ctx;

    CUresult result = find_context(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!value || !key)
        return CUDA_ERROR_INVALID_VALUE;
    /* Acquire pairs with the release in put. */
    struct table *table = __atomic_load_n(&ctx->storage, __ATOMIC_ACQUIRE);
    struct entry *entry = table ? probe(table, key) : NULL;
    /* Acquire: the value that was put before `held`. */
    if (!entry || !__atomic_load_n(&entry->held, __ATOMIC_ACQUIRE))
        return CUDA_ERROR_INVALID_VALUE;
    *value = __atomic_load_n(&entry->value, __ATOMIC_RELAXED);
    return CUDA_SUCCESS;
}

CUresult sim_storage_delete(CUcontext handle, void *key) {
    struct sim_context *ctx;

    CUresult result = find_context(handle, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!key)
        return CUDA_ERROR_INVALID_VALUE;
    result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&storage_lock);
    struct table *table = ctx->storage;
    struct entry *entry = table ? probe(table, key) : NULL;
    if (entry && entry->held) {
        __atomic_store_n(&entry->held, false, __ATOMIC_RELEASE); /* with get's acquire */
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&storage_lock);
    return result;
}

void sim_context_storage_fini(struct sim_context *ctx) {
    pthread_mutex_lock(&storage_lock);
    struct table *table = ctx->storage;
    ctx->storage = NULL;
    pthread_mutex_unlock(&storage_lock);
    /* Destructors are the runtime's: called without the lock. */
    for (uint32_t i = 0; table && i <= table->mask; i++) {
        struct entry *entry = &table->entries[i];
        if (entry->key && entry->held && entry->destructor)
            entry->destructor((CUcontext)ctx, entry->key, entry->value);
    }
    while (table) {
        struct table *older = table->older;
        free(table);
        table = older;
    }
}
