/* Physical memory by handles. It is charged to the device that the request names, from its creation until
 * its last handle and its last mapping are gone. */
#include "shim.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MOST = 1 << 20 };

struct physical {
    uint64_t bytes; /* charged; 0: a free place */
    uint64_t handle;
    uint32_t device, handles, mappings;
    uint32_t next; /* of a free place: the next one + 1 */
};

/* All under the mutex, which is not held while the runtime is called. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct physical *places;        /* reserved for MOST, once */
static uint32_t mark, spare;           /* used up to; the first free place + 1 */
static struct aliquot_table by_handle; /* to the place + 1 */
static struct aliquot_table by_address;

/* A place, or NULL: it is then charged for the life of the process. */
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
    if (place->handles || place->mappings)
        return;
    aliquot_withdraw(place->device, place->bytes);
    *place = (struct physical){.next = spare};
    spare = number_of(place);
}

static void created(rtDrvMemHandle handle, uint32_t device, uint64_t bytes) {
    uint64_t number;
    pthread_mutex_lock(&mutex);
    /* The runtime gave a handle out that we still knew: its memory may live on in a mapping. */
    if (aliquot_table_take(&by_handle, (uintptr_t)handle, &number)) {
        places[number - 1].handles = 0;
        settle(&places[number - 1]);
    }
    struct physical *place = take_place();
    if (place) {
        *place = (struct physical){
            .bytes = bytes, .handle = (uintptr_t)handle, .device = device, .handles = 1};
        aliquot_table_put(&by_handle, (uintptr_t)handle, number_of(place));
    }
    pthread_mutex_unlock(&mutex);
}

/* Charges for device `number`; `*index` is that in the grant, -1: not ours. */
static rtError_t begin(int64_t number, uint64_t size, int *index, uint64_t *bytes) {
    *index = -1;
    rtError_t result = aliquot_ready();
    if (result != RT_OK)
        return result == RT_NO_DEVICE ? RT_OK : result;
    if (number < 0)
        return RT_OK;
    *index = aliquot_device_index((int32_t)number);
    if (*index < 0)
        return *index == -1 ? RT_MEMORY_ALLOCATION : RT_OK;
    *bytes = aliquot_whole_pages((uint32_t)*index, size);
    return aliquot_charge((uint32_t)*index, *bytes) ? RT_OK : RT_MEMORY_ALLOCATION;
}

#define CREATE(symbol, number, parameters, arguments)                                              \
    rtError_t aliquot_##symbol parameters {                                                        \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol) arguments;                                                         \
        int index;                                                                                 \
        uint64_t bytes = 0;                                                                        \
        rtError_t result = begin(number, size, &index, &bytes);                                    \
        if (result != RT_OK)                                                                       \
            return result;                                                                         \
        ALIQUOT_RETRY(result, symbol, arguments);                                                  \
        if (index >= 0 && result == RT_OK)                                                         \
            created(*handle, (uint32_t)index, bytes);                                              \
        else if (index >= 0)                                                                       \
            aliquot_withdraw((uint32_t)index, bytes);                                              \
        return result;                                                                             \
    }

CREATE(rtMallocPhysical, property && property->side != RT_MEM_HOST_SIDE ? property->devid : -1ll,
       (rtDrvMemHandle * handle, size_t size, rtDrvMemProp_t *property, uint64_t flags),
       (handle, size, property, flags))
CREATE(aclrtMallocPhysicalImpl,
       property && property->location.type == ACL_MEM_LOCATION_TYPE_DEVICE ? property->location.id
                                                                           : -1ll,
       (rtDrvMemHandle * handle, size_t size, const aclrtPhysicalMemProp *property, uint64_t flags),
       (handle, size, property, flags))

/* -- Handles and mappings: an entry goes before the runtime is asked, and comes back if it fails ----- */

/* Takes the entry for a key out; 0: there is none. */
static uint64_t take(struct aliquot_table *table, const void *key) {
    uint64_t number = 0;
    if (key && aliquot_ready() == RT_OK)
        aliquot_table_take(table, (uintptr_t)key, &number);
    return number;
}

static void released(uint64_t number, rtDrvMemHandle handle, bool done) {
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    struct physical *place = &places[number - 1];
    place->handles -= done;
    if (place->handles)
        aliquot_table_put(&by_handle, (uintptr_t)handle, number);
    settle(place);
    pthread_mutex_unlock(&mutex);
}

#define RELEASE(symbol)                                                                            \
    rtError_t aliquot_##symbol(rtDrvMemHandle handle) {                                            \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(handle);                                                           \
        uint64_t number = take(&by_handle, handle);                                                \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (handle));                                                    \
        released(number, handle, result == RT_OK);                                                 \
        return result;                                                                             \
    }
RELEASE(rtFreePhysical)
RELEASE(aclrtFreePhysicalImpl)

static void mapped(void *pointer, rtDrvMemHandle handle) {
    uint64_t number;
    if (aliquot_ready() != RT_OK)
        return;
    pthread_mutex_lock(&mutex);
    if (aliquot_table_get(&by_handle, (uintptr_t)handle, &number) &&
        aliquot_table_put(&by_address, (uintptr_t)pointer, number))
        places[number - 1].mappings++;
    pthread_mutex_unlock(&mutex);
}

#define MAP(symbol)                                                                                \
    rtError_t aliquot_##symbol(void *pointer, size_t size, size_t offset, rtDrvMemHandle handle,   \
                               uint64_t flags) {                                                   \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pointer, size, offset, handle, flags);                             \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (pointer, size, offset, handle, flags));                      \
        if (result == RT_OK)                                                                       \
            mapped(pointer, handle);                                                               \
        return result;                                                                             \
    }
MAP(rtMapMem)
MAP(aclrtMapMemImpl)

static void unmapped(uint64_t number, void *pointer, bool done) {
    if (!number)
        return;
    pthread_mutex_lock(&mutex);
    struct physical *place = &places[number - 1];
    place->mappings -= done;
    if (!done)
        aliquot_table_put(&by_address, (uintptr_t)pointer, number);
    settle(place);
    pthread_mutex_unlock(&mutex);
}

#define UNMAP(symbol)                                                                              \
    rtError_t aliquot_##symbol(void *pointer) {                                                    \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pointer);                                                          \
        uint64_t number = take(&by_address, pointer);                                              \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (pointer));                                                   \
        unmapped(number, pointer, result == RT_OK);                                                \
        return result;                                                                             \
    }
UNMAP(rtUnmapMem)
UNMAP(aclrtUnmapMemImpl)

/* One more handle of what is mapped, which may be another one than before. */
static void retained(void *pointer, rtDrvMemHandle handle) {
    uint64_t number;
    if (aliquot_ready() != RT_OK)
        return;
    pthread_mutex_lock(&mutex);
    if (aliquot_table_get(&by_handle, (uintptr_t)handle, &number) ||
        (aliquot_table_get(&by_address, (uintptr_t)pointer, &number) &&
         aliquot_table_put(&by_handle, (uintptr_t)handle, number)))
        places[number - 1].handles++;
    pthread_mutex_unlock(&mutex);
}

#define RETAIN(symbol)                                                                             \
    rtError_t aliquot_##symbol(void *pointer, rtDrvMemHandle *handle) {                            \
        if (aliquot_is_inner())                                                                    \
            return REAL(symbol)(pointer, handle);                                                  \
        rtError_t result;                                                                          \
        ALIQUOT_CALL(result, symbol, (pointer, handle));                                           \
        if (result == RT_OK)                                                                       \
            retained(pointer, *handle);                                                            \
        return result;                                                                             \
    }
RETAIN(rtMemRetainAllocationHandle)
RETAIN(aclrtMemRetainAllocationHandleImpl)

void aliquot_physical_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    aliquot_table_reset(&by_handle);
    aliquot_table_reset(&by_address);
    if (places)
        memset(places, 0, mark * sizeof *places);
    mark = spare = 0;
}
