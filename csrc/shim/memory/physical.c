#include "physical.h"

#include "descriptor.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

/* Told apart at a time; more are charged for the life of the process. */
#define PLACE_BITS 20
#define MOST (1u << PLACE_BITS)
/* Sizes of mappings are kept in units of so many bits. */
#define UNIT_BITS 12

struct physical {
    uint64_t bytes; /* charged here, unless it has a key */
    uint64_t key;   /* of the region's holds; 0: neither exported nor imported */
    uint32_t device, handles;
    uint32_t holds;   /* mappings, calls of the driver about it, and whatever else keeps it */
    uint32_t leaving; /* of the handles: the driver is being asked to end them */
    uint32_t next;    /* of a free or lingering place: the next one + 1 */
    int32_t fd;       /* exported as this descriptor; -1: not */
    bool used, lingers;
    void (*ended)(uint32_t number);
};

/* All under the mutex. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct physical *places;        /* reserved for MOST, once */
static uint32_t mark, spare;           /* used up to; the first free place + 1 */
static struct aliquot_table by_handle; /* to the place + 1 */
/* To the place + 1, and the size in units << PLACE_BITS + 1. */
static struct aliquot_table by_address;
/* The first that only a descriptor keeps, + 1. relaxed where it is read without the mutex: whoever let go of
 * the last one knows. */
static _Atomic uint32_t lingering;

/* See aliquot_layout_read. Taken before the mutex. */
static pthread_rwlock_t layout = PTHREAD_RWLOCK_INITIALIZER;

void aliquot_layout_read(void) { pthread_rwlock_rdlock(&layout); }
void aliquot_layout_write(void) { pthread_rwlock_wrlock(&layout); }
void aliquot_layout_end(void) { pthread_rwlock_unlock(&layout); }

/* A place, or NULL. */
static struct physical *take_place(void) {
    if (!places) {
        void *at = mmap(NULL, MOST * sizeof *places, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        places = at == MAP_FAILED ? NULL : at;
    }
    if (!places || (!spare && mark == MOST))
        return NULL;
    if (!spare)
        return &places[mark++];
    struct physical *place = &places[spare - 1];
    spare = place->next;
    return place;
}

static uint32_t number_of(const struct physical *place) { return (uint32_t)(place - places) + 1; }
static struct physical *place_of(uint64_t number) { return &places[number - 1]; }

/* Gives back what a place is charged, if nothing holds it any more. */
static void settle(struct physical *place) {
    if (!place->used || place->lingers || place->handles || place->holds)
        return;
    if (place->ended)
        place->ended(number_of(place));
    if (place->key && aliquot_descriptor_open(&place->fd, place->key)) {
        place->lingers = true;
        place->next = atomic_load_explicit(&lingering, memory_order_relaxed);
        atomic_store_explicit(&lingering, number_of(place), memory_order_relaxed);
        return;
    }
    if (place->key)
        aliquot_hold_drop(place->key, place->device, place->bytes);
    else if (place->bytes)
        aliquot_withdraw(place->device, place->bytes);
    *place = (struct physical){.next = spare};
    spare = number_of(place);
}

static void unhold(uint64_t number) {
    place_of(number)->holds--;
    settle(place_of(number));
}

void aliquot_physical_drop(uint32_t number) { unhold(number); }

/* The driver gave a handle out that we still knew: its memory may live on in a mapping. Who is asking it to
 * end one comes back to the place. */
static void forget_handle(uint64_t handle) {
    uint64_t number;
    if (!aliquot_table_take(&by_handle, handle, &number))
        return;
    place_of(number)->handles = place_of(number)->leaving;
    settle(place_of(number));
}

/* Whether it is written down. */
static bool add(uint64_t handle, const struct physical *content) {
    struct physical *place = take_place();
    if (!place)
        return false;
    *place = *content;
    place->used = true;
    place->handles = 1;
    place->fd = -1;
    aliquot_table_put(&by_handle, handle, number_of(place));
    return true;
}

static void enter(uint64_t handle, const struct physical *content) {
    pthread_mutex_lock(&mutex);
    forget_handle(handle);
    add(handle, content);
    pthread_mutex_unlock(&mutex);
}

void aliquot_physical_created(uint64_t handle, uint32_t device, uint64_t bytes) {
    enter(handle, &(struct physical){.bytes = bytes, .device = device});
}

void aliquot_physical_noted(uint64_t handle, void (*ended)(uint32_t number)) {
    enter(handle, &(struct physical){.ended = ended});
}

/* -- Handles ------------------------------------------------------------------------------------------- */

static uint32_t find(uint64_t handle) {
    uint64_t number;
    return handle && aliquot_table_get(&by_handle, handle, &number) ? (uint32_t)number : 0;
}

uint32_t aliquot_physical_release(uint64_t handle) {
    uint64_t taken;
    pthread_mutex_lock(&mutex);
    uint32_t number = find(handle);
    /* It goes with the last of all who release it at once, whichever of them the driver serves first. */
    if (number && ++place_of(number)->leaving == place_of(number)->handles)
        aliquot_table_take(&by_handle, handle, &taken);
    pthread_mutex_unlock(&mutex);
    return number;
}

void aliquot_physical_released(uint32_t number, uint64_t handle, bool done) {
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    struct physical *place = place_of(number);
    place->leaving--;
    place->handles -= done;
    if (!done && !find(handle))
        aliquot_table_put(&by_handle, handle, number);
    settle(place);
    pthread_mutex_unlock(&mutex);
}

uint32_t aliquot_physical_keep(uint64_t handle) {
    pthread_mutex_lock(&mutex);
    uint32_t number = find(handle);
    if (number)
        place_of(number)->holds++;
    pthread_mutex_unlock(&mutex);
    return number;
}

void aliquot_physical_let_go(uint32_t number) {
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    unhold(number);
    pthread_mutex_unlock(&mutex);
}

uint32_t aliquot_physical_device(uint32_t number) { return place_of(number)->device; }

/* -- Mappings ------------------------------------------------------------------------------------------ */

static uint64_t pack(uint32_t number, uint64_t bytes) {
    return bytes >> UNIT_BITS << (PLACE_BITS + 1) | number;
}
static uint32_t packed_number(uint64_t value) { return value & (2 * MOST - 1); }
static uint64_t packed_bytes(uint64_t value) { return value >> (PLACE_BITS + 1) << UNIT_BITS; }

uint32_t aliquot_physical_map(uint64_t handle) {
    aliquot_layout_read();
    return aliquot_physical_keep(handle);
}

void aliquot_physical_mapped(uint32_t number, uint64_t address, uint64_t bytes, bool done) {
    if (number) {
        pthread_mutex_lock(&mutex);
        if (!done || !aliquot_table_put(&by_address, address, pack(number, bytes)))
            unhold(number);
        pthread_mutex_unlock(&mutex);
    }
    aliquot_layout_end();
}

/* Takes the next mappings of the range from the table, as many as there is room for. */
static void collect(struct aliquot_unmapping *unmapping) {
    unmapping->count = 0;
    while (unmapping->at < unmapping->end && unmapping->count < ALIQUOT_UNMAP_BATCH) {
        uint64_t value, step = aliquot_page_bytes_inline(0);
        if (aliquot_table_take(&by_address, unmapping->at, &value)) {
            unmapping->taken[unmapping->count].address = unmapping->at;
            unmapping->taken[unmapping->count++].value = value;
            step = packed_bytes(value);
        }
        if (!step || step > unmapping->end - unmapping->at)
            step = unmapping->end - unmapping->at;
        unmapping->at += step;
    }
}

void aliquot_physical_unmap(struct aliquot_unmapping *unmapping, uint64_t address, uint64_t bytes) {
    unmapping->at = address;
    unmapping->end = address ? address + (bytes ? bytes : 1) : 0;
    /* Where one batch may not do, nobody else maps there before the last. */
    if (bytes / aliquot_page_bytes_inline(0) < ALIQUOT_UNMAP_BATCH)
        aliquot_layout_read();
    else
        aliquot_layout_write();
    pthread_mutex_lock(&mutex);
    collect(unmapping);
    pthread_mutex_unlock(&mutex);
}

void aliquot_physical_unmapped(struct aliquot_unmapping *unmapping, bool done) {
    pthread_mutex_lock(&mutex);
    for (;;) {
        for (uint32_t i = 0; i < unmapping->count; i++) {
            uint64_t value = unmapping->taken[i].value;
            if (done)
                unhold(packed_number(value));
            else
                aliquot_table_put(&by_address, unmapping->taken[i].address, value);
        }
        if (!done || unmapping->at >= unmapping->end)
            break;
        collect(unmapping);
    }
    pthread_mutex_unlock(&mutex);
    aliquot_layout_end();
}

/* While the layout is written: what is mapped at an address. */
static uint32_t find_mapped(uint64_t address) {
    uint64_t value;
    pthread_mutex_lock(&mutex);
    bool found = aliquot_table_get(&by_address, address, &value);
    pthread_mutex_unlock(&mutex);
    uint64_t base = found ? 0 : aliquot_mapping_base(address);
    pthread_mutex_lock(&mutex);
    found = found || (base && aliquot_table_get(&by_address, base, &value));
    pthread_mutex_unlock(&mutex);
    return found ? packed_number(value) : 0;
}

void aliquot_physical_retain(void) { aliquot_layout_write(); }

void aliquot_physical_retained(uint64_t address, uint64_t handle) {
    pthread_mutex_lock(&mutex);
    uint32_t number = find(handle);
    if (number)
        place_of(number)->handles++;
    pthread_mutex_unlock(&mutex);
    /* What is mapped stays, as long as the layout does. */
    if (handle && !number && (number = find_mapped(address))) {
        pthread_mutex_lock(&mutex);
        place_of(number)->handles++;
        aliquot_table_put(&by_handle, handle, number);
        pthread_mutex_unlock(&mutex);
    }
    aliquot_layout_end();
}

uint32_t aliquot_physical_keep_mapped(uint64_t address) {
    uint32_t number = find_mapped(address);
    if (number) {
        pthread_mutex_lock(&mutex);
        place_of(number)->holds++;
        pthread_mutex_unlock(&mutex);
    }
    return number;
}

/* -- Sharing ------------------------------------------------------------------------------------------- */

void aliquot_physical_exported(uint32_t number, uint64_t key, int fd) {
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    struct physical *place = place_of(number);
    if (key && place->bytes && !place->key) {
        place->key = key;
        aliquot_hold_export(key, place->device, place->bytes);
    } else if (key && place->key && place->key != key)
        aliquot_hold_alias(place->key, key);
    if (key && place->key == key && fd >= 0)
        place->fd = fd;
    unhold(number);
    pthread_mutex_unlock(&mutex);
}

uint64_t aliquot_physical_import(uint64_t key) { return key ? aliquot_hold_import(key) : 0; }

void aliquot_physical_imported(uint64_t held, uint64_t handle) {
    if (handle) {
        pthread_mutex_lock(&mutex);
        uint32_t number = find(handle);
        if (number && (!held || place_of(number)->key == held)) {
            /* The driver gave the handle that the process has already, and that is written down. */
            place_of(number)->handles++;
        } else {
            /* Else one of memory that is gone. */
            forget_handle(handle);
            if (held && add(handle, &(struct physical){.key = held}))
                held = 0;
        }
        pthread_mutex_unlock(&mutex);
    }
    if (held)
        aliquot_hold_drop(held, 0, 0);
}

bool aliquot_physical_lingers(void) {
    return atomic_load_explicit(&lingering, memory_order_relaxed) != 0;
}

void aliquot_physical_settle(void) {
    if (!aliquot_physical_lingers())
        return;
    pthread_mutex_lock(&mutex);
    uint32_t number = atomic_exchange_explicit(&lingering, 0, memory_order_relaxed);
    while (number) {
        struct physical *place = place_of(number);
        number = place->next;
        place->lingers = false;
        settle(place);
    }
    pthread_mutex_unlock(&mutex);
}

void aliquot_physical_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    pthread_rwlock_init(&layout, NULL);
    aliquot_table_reset(&by_handle);
    aliquot_table_reset(&by_address);
    if (places)
        memset(places, 0, mark * sizeof *places);
    mark = spare = 0;
    atomic_store_explicit(&lingering, 0, memory_order_relaxed);
}
