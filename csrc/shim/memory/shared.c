#include "shared.h"

#include <pthread.h>
#include <string.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Opened here. */
struct import {
    uint64_t pointer; /* 0: free place */
    uint64_t key;     /* 0: not written down, and */
    uint64_t bytes;   /* charged here, until it is closed as often as it was opened */
    uint32_t device;
    uint32_t count; /* times */
    uint32_t notes; /* of them that are written down */
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
    uint64_t bytes = allocation.pages * aliquot_page_bytes(allocation.device);
    /* Over both steps: who finds the memory named finds it written down. */
    pthread_mutex_lock(&mutex);
    if (aliquot_pointer_name(&aliquot_pointers, base, key, &known)) {
        if (known && known != key)
            aliquot_hold_alias(known, key);
        else if (!known && !aliquot_hold_export(key, allocation.device, bytes))
            aliquot_pointer_unname(&aliquot_pointers, base);
    }
    pthread_mutex_unlock(&mutex);
}

/* -- Opening -------------------------------------------------------------------------------------- */

uint64_t aliquot_shared_open(uint64_t key) { return aliquot_hold_import(key); }

/* One opening more. What was charged for the pointer already is given back. */
static void record(const struct import *opening) {
    uint64_t index, surplus = 0;
    pthread_mutex_lock(&mutex);
    if (aliquot_table_get(&opened, opening->pointer, &index)) {
        struct import *import = &imports[index];
        import->count++;
        import->notes += opening->key != 0;
        import->key = import->key ? import->key : opening->key;
        surplus = opening->bytes;
    } else
        for (uint32_t i = 0; i < ALIQUOT_MAX_HOLDS; i++) {
            if (imports[i].pointer)
                continue;
            imports[i] = *opening;
            imports[i].count = 1;
            imports[i].notes = opening->key != 0;
            import_mark = i >= import_mark ? i + 1 : import_mark;
            aliquot_table_put(&opened, opening->pointer, i);
            break;
        }
    pthread_mutex_unlock(&mutex);
    if (surplus)
        aliquot_withdraw(opening->device, surplus);
}

void aliquot_shared_opened(uint64_t key, uint64_t pointer, uint16_t owner) {
    if (key && pointer)
        record(&(struct import){.pointer = pointer, .key = key, .owner = owner});
    else if (key)
        aliquot_hold_drop(key, 0, 0);
}

bool aliquot_shared_charge(uint64_t pointer, uint32_t device, uint64_t bytes, uint16_t owner) {
    if (!aliquot_charge(device, bytes))
        return false;
    record(&(struct import){.pointer = pointer, .bytes = bytes, .device = device, .owner = owner});
    return true;
}

/* Under the mutex: one opening fewer. */
static struct aliquot_shared_closing forget_one(uint32_t index) {
    struct import *import = &imports[index];
    struct aliquot_shared_closing closing = {.key = import->notes ? import->key : 0,
                                             .pointer = import->pointer,
                                             .device = import->device,
                                             .owner = import->owner};
    uint64_t place;
    import->notes -= import->notes > 0;
    if (--import->count == 0) {
        closing.bytes = import->bytes;
        aliquot_table_take(&opened, import->pointer, &place);
        *import = (struct import){0};
    }
    return closing;
}

static void let_go(const struct aliquot_shared_closing *closing) {
    if (closing->key)
        aliquot_hold_drop(closing->key, 0, 0);
    if (closing->bytes)
        aliquot_withdraw(closing->device, closing->bytes);
}

struct aliquot_shared_closing aliquot_shared_close(uint64_t pointer) {
    struct aliquot_shared_closing closing = {0};
    uint64_t index;
    pthread_mutex_lock(&mutex);
    if (pointer && aliquot_table_get(&opened, pointer, &index))
        closing = forget_one((uint32_t)index);
    pthread_mutex_unlock(&mutex);
    return closing;
}

void aliquot_shared_closed(const struct aliquot_shared_closing *closing, bool closed) {
    if (closed)
        let_go(closing);
    else if (closing->pointer)
        record(&(struct import){.pointer = closing->pointer,
                                .key = closing->key,
                                .bytes = closing->bytes,
                                .device = closing->device,
                                .owner = closing->owner});
}

void aliquot_shared_owner_gone(uint16_t owner) {
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < import_mark; i++)
        while (imports[i].pointer && imports[i].owner == owner) {
            struct aliquot_shared_closing closing = forget_one(i);
            let_go(&closing);
        }
    pthread_mutex_unlock(&mutex);
}

void aliquot_shared_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    aliquot_table_reset(&opened);
    memset(imports, 0, sizeof imports);
    import_mark = 0;
}
