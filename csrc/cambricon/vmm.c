/* Physical memory and its mappings: charged from its creation until its last handle and mapping are
 * gone. Reserved addresses cost nothing, and memory that another process made is not charged. */
#include "shim.h"

#include <pthread.h>
#include <string.h>

/* Physical allocations alive at once that are told apart; more stay charged for good. */
#define OBJECTS (1u << 16)

struct object {
    uint64_t handle, bytes; /* bytes: charged */
    uint32_t device;
    uint32_t holds; /* handles that the program has, and mappings */
    uint32_t next;  /* of the free ones */
};

/* Held over the driver's calls, for it may give a handle or address out again at once. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct object objects[OBJECTS]; /* [0] is never used */
static uint32_t object_mark = 1, object_free;
static struct aliquot_table handles; /* handle to object */
static struct aliquot_table mapped;  /* address to object */

/* Under the mutex. */
static void add(uint64_t handle, uint32_t device, uint64_t bytes) {
    uint32_t index = object_free;
    if (index)
        object_free = objects[index].next;
    else if (object_mark < OBJECTS)
        index = object_mark++;
    else
        return;
    objects[index] = (struct object){handle, bytes, device, 1, 0};
    aliquot_table_put(&handles, handle, index);
}

/* Under the mutex. */
static void drop_hold(uint64_t index) {
    struct object *of = &objects[index];
    uint64_t known;
    if (--of->holds)
        return;
    aliquot_withdraw(of->device, of->bytes);
    /* The handle may have gone, and be another's by now. */
    if (aliquot_table_get(&handles, of->handle, &known) && known == index)
        aliquot_table_take(&handles, of->handle, &known);
    *of = (struct object){.next = object_free};
    object_free = (uint32_t)index;
}

CNresult aliquot_cnMemCreate(CNmemGenericAllocationHandle *handle, uint64_t bytes,
                             CNmemAllocationProp *properties, uint64_t flags) {
    if (!properties || properties->location.type != CN_MEM_LOCATION_TYPE_DEVICE ||
        aliquot_ready() != CN_SUCCESS || OWN_CALL())
        return REAL(cnMemCreate)(handle, bytes, properties, flags);
    CNresult result;
    int index = aliquot_ordinal_index(properties->location.id);
    uint32_t device = (uint32_t)index;
    if (index < 0)
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    uint64_t charged = aliquot_whole_pages(device, bytes);
    if (!aliquot_charge(device, charged))
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&mutex);
    ALIQUOT_RETRY(result, REAL(cnMemCreate)(handle, bytes, properties, flags));
    if (result == CN_SUCCESS)
        add(*handle, device, charged);
    else
        aliquot_withdraw(device, charged);
    pthread_mutex_unlock(&mutex);
    return result;
}

CNresult aliquot_cnMemRelease(CNmemGenericAllocationHandle handle) {
    uint64_t index;
    pthread_mutex_lock(&mutex);
    CNresult result = REAL(cnMemRelease)(handle);
    if (result == CN_SUCCESS && aliquot_prepared() && handle &&
        aliquot_table_get(&handles, handle, &index))
        drop_hold(index);
    pthread_mutex_unlock(&mutex);
    return result;
}

/* One more handle of what the driver says this one is of. */
static CNresult held(CNresult result, const CNmemGenericAllocationHandle *handle) {
    uint64_t index;
    if (result == CN_SUCCESS && aliquot_prepared() && aliquot_table_get(&handles, *handle, &index))
        objects[index].holds++;
    return result;
}

CNresult aliquot_cnMemRetainAllocationHandle(CNmemGenericAllocationHandle *handle, CNaddr address) {
    pthread_mutex_lock(&mutex);
    CNresult result = held(REAL(cnMemRetainAllocationHandle)(handle, address), handle);
    pthread_mutex_unlock(&mutex);
    return result;
}

CNresult aliquot_cnMemImportFromShareableHandle(CNmemGenericAllocationHandle *handle,
                                                void *shareable, int kind) {
    pthread_mutex_lock(&mutex);
    CNresult result = held(REAL(cnMemImportFromShareableHandle)(handle, shareable, kind), handle);
    pthread_mutex_unlock(&mutex);
    return result;
}

CNresult aliquot_cnMemMap(CNaddr address, uint64_t bytes, uint64_t offset,
                          CNmemGenericAllocationHandle handle, uint64_t flags) {
    uint64_t index;
    pthread_mutex_lock(&mutex);
    CNresult result = REAL(cnMemMap)(address, bytes, offset, handle, flags);
    if (result == CN_SUCCESS && aliquot_prepared() && aliquot_table_get(&handles, handle, &index)) {
        objects[index].holds++;
        aliquot_table_put(&mapped, address, index);
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

CNresult aliquot_cnMemUnmap(CNaddr address, uint64_t bytes) {
    uint64_t index;
    pthread_mutex_lock(&mutex);
    CNresult result = REAL(cnMemUnmap)(address, bytes);
    if (result == CN_SUCCESS && aliquot_prepared() && address &&
        aliquot_table_take(&mapped, address, &index))
        drop_hold(index);
    pthread_mutex_unlock(&mutex);
    return result;
}

void aliquot_vmm_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    memset(objects, 0, object_mark * sizeof *objects);
    object_mark = 1;
    object_free = 0;
    aliquot_table_reset(&handles);
    aliquot_table_reset(&mapped);
}
