/* Physical memory and its mappings: charged from its creation until its last handle and mapping are
 * gone, and the last descriptor that this process has of it. Reserved addresses cost nothing. Memory that
 * another process made is not charged, but written down: the charge passes to whoever still holds it when
 * its maker lets go or dies. */
#include "shim.h"

#include "shim/memory/descriptor.h"

#include <pthread.h>
#include <string.h>

/* Physical allocations alive at once that are told apart; more stay charged for good. */
#define OBJECTS (1u << 16)

struct object {
    uint64_t handle, bytes; /* bytes: charged, if it was made here */
    uint64_t key;           /* of the region's holds; 0: neither exported nor imported */
    uint32_t device;
    uint32_t holds; /* handles that the program has, and mappings */
    int32_t fd;     /* exported as this descriptor; -1: not */
    uint32_t next;  /* of the free ones, or those that only a descriptor keeps */
};

/* Held over the driver's calls, for it may give a handle or address out again at once. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct object objects[OBJECTS]; /* [0] is never used */
static uint32_t object_mark = 1, object_free;
/* Those that only a descriptor keeps. relaxed where it is read without the mutex: whoever let go of the last
 * one knows. */
static _Atomic uint32_t lingering;
static struct aliquot_table handles; /* handle to object */
static struct aliquot_table mapped;  /* address to object */

/* Under the mutex. Whether there was a place. */
static bool add(const struct object *content) {
    uint32_t index = object_free;
    if (index)
        object_free = objects[index].next;
    else if (object_mark < OBJECTS)
        index = object_mark++;
    else
        return false;
    objects[index] = *content;
    objects[index].holds = 1;
    objects[index].fd = -1;
    aliquot_table_put(&handles, content->handle, index);
    return true;
}

/* Under the mutex: gives back what an object is charged, if nothing holds it any more. */
static void settle(uint32_t index) {
    struct object *of = &objects[index];
    uint64_t known;
    if (of->holds)
        return;
    /* The handle may have gone, and be another's by now. */
    if (aliquot_table_get(&handles, of->handle, &known) && known == index)
        aliquot_table_take(&handles, of->handle, &known);
    if (of->key && aliquot_descriptor_open(&of->fd, of->key)) {
        of->next = atomic_load_explicit(&lingering, memory_order_relaxed);
        atomic_store_explicit(&lingering, index, memory_order_relaxed);
        return;
    }
    if (of->key)
        aliquot_hold_drop(of->key, of->device, of->bytes);
    else
        aliquot_withdraw(of->device, of->bytes);
    *of = (struct object){.next = object_free};
    object_free = index;
}

/* Under the mutex. */
static void drop_hold(uint64_t index) {
    objects[index].holds--;
    settle((uint32_t)index);
}

void aliquot_vmm_settle(void) {
    if (!atomic_load_explicit(&lingering, memory_order_relaxed))
        return;
    pthread_mutex_lock(&mutex);
    uint32_t index = atomic_exchange_explicit(&lingering, 0, memory_order_relaxed);
    while (index) {
        uint32_t next = objects[index].next;
        settle(index);
        index = next;
    }
    pthread_mutex_unlock(&mutex);
}

CNresult aliquot_cnMemCreate(CNmemGenericAllocationHandle *handle, uint64_t bytes,
                             CNmemAllocationProp *properties, uint64_t flags) {
    CNresult result = CN_ERROR_NOT_INITIALIZED;
    if (properties && properties->location.type == CN_MEM_LOCATION_TYPE_DEVICE && !OWN_CALL())
        result = aliquot_ready();
    if (result != CN_SUCCESS) /* the driver says itself that it is not initialised */
        return result == CN_ERROR_NOT_INITIALIZED
                   ? REAL(cnMemCreate)(handle, bytes, properties, flags)
                   : result;
    int index = aliquot_ordinal_index(properties->location.id);
    uint32_t device = (uint32_t)index;
    if (index == ALIQUOT_NO_SUCH_DEVICE)
        return REAL(cnMemCreate)(handle, bytes, properties, flags);
    if (index < 0)
        return CN_MEMORY_ERROR_OUT_OF_MEMORY;
    uint64_t charged = aliquot_whole_pages(device, bytes);
    if (!aliquot_charge(device, charged)) {
        /* What the driver would not give in any case gets its own answer. */
        uint64_t step = 1;
        if (HAVE(cnMemGetAllocationGranularity))
            result = REAL(cnMemGetAllocationGranularity)(&step, properties,
                                                         CN_MEM_ALLOC_GRANULARITY_MINIMUM);
        if (result != CN_SUCCESS)
            return result;
        return step && bytes && bytes % step == 0
                   ? CN_MEMORY_ERROR_OUT_OF_MEMORY
                   : REAL(cnMemCreate)(handle, bytes, properties, flags);
    }
    pthread_mutex_lock(&mutex);
    ALIQUOT_RETRY(result, REAL(cnMemCreate)(handle, bytes, properties, flags));
    if (result == CN_SUCCESS)
        add(&(struct object){.handle = *handle, .bytes = charged, .device = device});
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

/* -- Sharing ------------------------------------------------------------------------------------ */

CNresult aliquot_cnMemExportToShareableHandle(void *shareable, CNmemGenericAllocationHandle handle,
                                              int kind, uint64_t flags) {
    CNresult result = REAL(cnMemExportToShareableHandle)(shareable, handle, kind, flags);
    uint64_t index;
    if (result != CN_SUCCESS || kind != CN_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
        !aliquot_prepared())
        return result;
    int fd;
    memcpy(&fd, shareable, sizeof fd);
    uint64_t key = aliquot_descriptor_key(fd);
    pthread_mutex_lock(&mutex);
    struct object *of = key && aliquot_table_get(&handles, handle, &index) ? &objects[index] : NULL;
    if (of && of->bytes && !of->key) {
        of->key = key;
        aliquot_hold_export(key, of->device, of->bytes);
    }
    if (of && of->key == key)
        of->fd = fd;
    pthread_mutex_unlock(&mutex);
    return result;
}

CNresult aliquot_cnMemImportFromShareableHandle(CNmemGenericAllocationHandle *handle,
                                                void *shareable, int kind) {
    uint64_t index, key = 0;
    if (kind == CN_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && aliquot_ready() == CN_SUCCESS)
        key = aliquot_descriptor_key((int)(intptr_t)shareable);
    /* Written down before: an exporter that lets go meanwhile passes the charge on. */
    key = key ? aliquot_hold_import(key) : 0;
    pthread_mutex_lock(&mutex);
    CNresult result = REAL(cnMemImportFromShareableHandle)(handle, shareable, kind);
    if (result == CN_SUCCESS && aliquot_prepared() && aliquot_table_get(&handles, *handle, &index))
        /* The driver gave the handle that the process has already, and that is written down. */
        objects[index].holds++;
    else if (result == CN_SUCCESS && key && add(&(struct object){.handle = *handle, .key = key}))
        key = 0;
    pthread_mutex_unlock(&mutex);
    if (key)
        aliquot_hold_drop(key, 0, 0);
    return result;
}

void aliquot_vmm_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    memset(objects, 0, object_mark * sizeof *objects);
    object_mark = 1;
    object_free = 0;
    atomic_store_explicit(&lingering, 0, memory_order_relaxed);
    aliquot_table_reset(&handles);
    aliquot_table_reset(&mapped);
}
