#include "physical.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

/* Told apart at a time; more are charged for the life of the process. */
enum { MOST = 1 << 20 };

struct physical {
    bool used;
    uint64_t bytes; /* charged here, unless it has a key */
    uint64_t key;   /* of the region's holds; 0: neither exported nor imported */
    uint32_t device, handles;
    uint32_t mappings; /* and calls of the driver that are about it */
    uint32_t leaving; /* of the handles: the driver is being asked to end them */
    uint32_t next;    /* of a free place: the next one + 1 */
};

/* All under the mutex, which is not held while the driver is called. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct physical *places;        /* reserved for MOST, once */
static uint32_t mark, spare;           /* used up to; the first free place + 1 */
static struct aliquot_table by_handle; /* to the place + 1 */
static struct aliquot_table by_address;

/* For reading: over the driver's call by whoever maps or unmaps, until it is written down. For writing: by
 * whoever asks the driver what is mapped. Taken before the mutex. */
static pthread_rwlock_t mapping = PTHREAD_RWLOCK_INITIALIZER;

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

static void settle(struct physical *place) {
    if (!place->used || place->handles || place->mappings)
        return;
    if (place->key)
        aliquot_hold_drop(place->key, place->device, place->bytes);
    else
        aliquot_withdraw(place->device, place->bytes);
    *place = (struct physical){.next = spare};
    spare = number_of(place);
}

/* The driver gave a handle out that we still knew: its memory may live on in a mapping. Who is asking it to
 * end one comes back to the place. */
static void forget_handle(uint64_t handle) {
    uint64_t number;
    if (!aliquot_table_take(&by_handle, handle, &number))
        return;
    places[number - 1].handles = places[number - 1].leaving;
    settle(&places[number - 1]);
}

/* Whether it is written down. */
static bool add(uint64_t handle, const struct physical *content) {
    struct physical *place = take_place();
    if (!place)
        return false;
    *place = *content;
    place->used = true;
    place->handles = 1;
    aliquot_table_put(&by_handle, handle, number_of(place));
    return true;
}

void aliquot_physical_created(uint64_t handle, uint32_t device, uint64_t bytes) {
    struct physical content = {.bytes = bytes, .device = device};
    pthread_mutex_lock(&mutex);
    forget_handle(handle);
    add(handle, &content);
    pthread_mutex_unlock(&mutex);
}

/* -- Handles and mappings ------------------------------------------------------------------------- */

uint64_t aliquot_physical_release(uint64_t handle) {
    uint64_t number = 0, taken;
    pthread_mutex_lock(&mutex);
    /* It goes with the last of all who release it at once, whichever of them the driver serves first. */
    if (handle && aliquot_table_get(&by_handle, handle, &number) &&
        ++places[number - 1].leaving == places[number - 1].handles)
        aliquot_table_take(&by_handle, handle, &taken);
    pthread_mutex_unlock(&mutex);
    return number;
}

void aliquot_physical_released(uint64_t number, uint64_t handle, bool done) {
    uint64_t known;
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    struct physical *place = &places[number - 1];
    place->leaving--;
    place->handles -= done;
    if (!done && !aliquot_table_get(&by_handle, handle, &known))
        aliquot_table_put(&by_handle, handle, number);
    settle(place);
    pthread_mutex_unlock(&mutex);
}

/* Keeps the memory of a handle while the driver is asked to do something with it. 0: it is not ours. */
static uint64_t keep(uint64_t handle) {
    uint64_t number = 0;
    pthread_mutex_lock(&mutex);
    if (handle && aliquot_table_get(&by_handle, handle, &number))
        places[number - 1].mappings++;
    pthread_mutex_unlock(&mutex);
    return number;
}

uint64_t aliquot_physical_map(uint64_t handle) {
    pthread_rwlock_rdlock(&mapping);
    uint64_t number = keep(handle);
    if (!number)
        pthread_rwlock_unlock(&mapping);
    return number;
}

void aliquot_physical_mapped(uint64_t number, uint64_t address, bool done) {
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    if (!done || !aliquot_table_put(&by_address, address, number)) {
        places[number - 1].mappings--;
        settle(&places[number - 1]);
    }
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&mapping);
}

uint64_t aliquot_physical_unmap(uint64_t address) {
    uint64_t number = 0;
    pthread_rwlock_rdlock(&mapping);
    if (address)
        aliquot_table_take(&by_address, address, &number);
    if (!number)
        pthread_rwlock_unlock(&mapping);
    return number;
}

void aliquot_physical_unmapped(uint64_t number, uint64_t address, bool done) {
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    struct physical *place = &places[number - 1];
    place->mappings -= done;
    if (!done)
        aliquot_table_put(&by_address, address, number);
    settle(place);
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&mapping);
}

void aliquot_physical_retain(void) { pthread_rwlock_wrlock(&mapping); }

void aliquot_physical_retained(uint64_t address, uint64_t handle) {
    uint64_t number;
    pthread_mutex_lock(&mutex);
    if (handle && (aliquot_table_get(&by_handle, handle, &number) ||
                   (aliquot_table_get(&by_address, address, &number) &&
                    aliquot_table_put(&by_handle, handle, number))))
        places[number - 1].handles++;
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&mapping);
}

/* -- Sharing --------------------------------------------------------------------------------------- */

uint64_t aliquot_physical_export(uint64_t handle) { return keep(handle); }

void aliquot_physical_exported(uint64_t number, uint64_t key) {
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    struct physical *place = &places[number - 1];
    if (key && !place->key) {
        place->key = key;
        aliquot_hold_export(key, place->device, place->bytes);
    } else if (key && place->key != key)
        aliquot_hold_alias(place->key, key);
    place->mappings--;
    settle(place);
    pthread_mutex_unlock(&mutex);
}

uint64_t aliquot_physical_import(uint64_t key) { return aliquot_hold_import(key); }

void aliquot_physical_imported(uint64_t held, uint64_t handle) {
    struct physical content = {.key = held};
    uint64_t number;
    if (!handle && held)
        aliquot_hold_drop(held, 0, 0);
    if (!handle)
        return;
    pthread_mutex_lock(&mutex);
    bool known = aliquot_table_get(&by_handle, handle, &number);
    if (known && places[number - 1].key == held) {
        /* The driver gave the handle that the process has already. */
        places[number - 1].handles++;
    } else {
        /* Else one of memory that is gone. */
        forget_handle(handle);
        if (held && add(handle, &content))
            held = 0;
    }
    pthread_mutex_unlock(&mutex);
    if (held)
        aliquot_hold_drop(held, 0, 0);
}

void aliquot_physical_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    pthread_rwlock_init(&mapping, NULL);
    aliquot_table_reset(&by_handle);
    aliquot_table_reset(&by_address);
    if (places)
        memset(places, 0, mark * sizeof *places);
    mark = spare = 0;
}
