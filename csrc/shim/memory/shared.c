#include "shared.h"

#include <pthread.h>
#include <string.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Exported here: first byte of an allocation of its own pages, or of a shared page, to its key. */
static struct aliquot_table exports;
static _Atomic uint32_t export_count;

/* Opened here. */
struct import {
    uint64_t key; /* 0: free place */
    uint64_t pointer;
    uint32_t count; /* times */
    uint16_t owner;
};
static struct import imports[ALIQUOT_MAX_HOLDS];
static uint32_t import_mark;        /* places below it have been used */
static struct aliquot_table opened; /* pointer to place */

/* FNV-1a. */
uint64_t aliquot_shared_key(const void *name, size_t bytes) {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const unsigned char *)name)[i]) * 0x100000001b3ull;
    return hash | 1;
}

/* -- Exporting ------------------------------------------------------------------------------------ */

void aliquot_shared_export(uint64_t base, uint64_t key) {
    uint64_t known, value;
    if (!aliquot_pointer_get(&aliquot_pointers, base, &value))
        return;
    struct aliquot_allocation allocation = aliquot_unpack(value);
    uint64_t page = aliquot_page_bytes(allocation.device);
    if (allocation.shares)
        base &= ~(page - 1);
    pthread_mutex_lock(&mutex);
    if (!aliquot_table_get(&exports, base, &known)) {
        aliquot_table_put(&exports, base, key);
        /* relaxed: the exporting thread had its pointer before another one can free it. */
        atomic_fetch_add_explicit(&export_count, 1, memory_order_relaxed);
        aliquot_hold_export(key, allocation.device, allocation.pages * page);
    } else if (known != key)
        aliquot_hold_alias(known, key);
    pthread_mutex_unlock(&mutex);
}

bool aliquot_shared_freed(uint64_t base, uint32_t device, uint64_t bytes) {
    uint64_t key;
    if (__builtin_expect(!atomic_load_explicit(&export_count, memory_order_relaxed), 1) ||
        !aliquot_table_take(&exports, base, &key))
        return false;
    atomic_fetch_sub_explicit(&export_count, 1, memory_order_relaxed);
    aliquot_hold_drop(key, device, bytes);
    return true;
}

/* -- Opening -------------------------------------------------------------------------------------- */

uint64_t aliquot_shared_open(uint64_t key) { return aliquot_hold_import(key); }

static void record(uint64_t key, uint64_t pointer, uint16_t owner) {
    uint64_t index;
    pthread_mutex_lock(&mutex);
    if (aliquot_table_get(&opened, pointer, &index))
        imports[index].count++;
    else
        for (uint32_t i = 0; i < ALIQUOT_MAX_HOLDS; i++) {
            if (imports[i].key)
                continue;
            imports[i] = (struct import){key, pointer, 1, owner};
            import_mark = i >= import_mark ? i + 1 : import_mark;
            aliquot_table_put(&opened, pointer, i);
            break;
        }
    pthread_mutex_unlock(&mutex);
}

void aliquot_shared_opened(uint64_t key, uint64_t pointer, uint16_t owner) {
    if (key && pointer)
        record(key, pointer, owner);
    else if (key)
        aliquot_hold_drop(key, 0, 0);
}

/* Under the mutex: one opening fewer. Returns its key. */
static uint64_t forget_one(uint32_t index) {
    uint64_t key = imports[index].key, place;
    if (--imports[index].count == 0) {
        aliquot_table_take(&opened, imports[index].pointer, &place);
        imports[index] = (struct import){0};
    }
    return key;
}

struct aliquot_shared_closing aliquot_shared_close(uint64_t pointer) {
    struct aliquot_shared_closing closing = {.pointer = pointer};
    uint64_t index;
    pthread_mutex_lock(&mutex);
    if (pointer && aliquot_table_get(&opened, pointer, &index)) {
        closing.owner = imports[index].owner;
        closing.key = forget_one((uint32_t)index);
    }
    pthread_mutex_unlock(&mutex);
    return closing;
}

void aliquot_shared_closed(const struct aliquot_shared_closing *closing, bool closed) {
    if (closing->key && closed)
        aliquot_hold_drop(closing->key, 0, 0);
    else if (closing->key)
        record(closing->key, closing->pointer, closing->owner);
}

void aliquot_shared_owner_gone(uint16_t owner) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < import_mark; i++)
        while (imports[i].key && imports[i].owner == owner)
            aliquot_hold_drop(forget_one(i), 0, 0);
    pthread_mutex_unlock(&mutex);
}

void aliquot_shared_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    aliquot_table_reset(&exports);
    aliquot_table_reset(&opened);
    memset(imports, 0, sizeof imports);
    import_mark = 0;
    atomic_store_explicit(&export_count, 0, memory_order_relaxed);
}
