/* Virtual memory management: physical memory is charged from its creation until its last handle,
 * mapping and multicast binding is gone. Address reservations cost nothing; memory on the host and
 * memory that another process created are not charged.
 */
#include "shim.h"

#include "shim/memory/descriptor.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

/* Physical allocations alive at once that are told apart, and bindings to multicast objects. */
#define OBJECTS (1u << 20)
#define BINDINGS 4096u

/* One physical allocation, or a multicast object (no bytes). */
struct object {
    uint64_t bytes; /* charged */
    uint64_t key;   /* of the region's holds; 0: neither exported nor imported */
    uint64_t handle;
    uint32_t device;
    uint32_t references; /* handles that the program holds */
    uint32_t holds;      /* references, mappings and bindings that the driver still has */
    int32_t fd;          /* exported as this descriptor; -1: not */
    uint32_t next;       /* of the free or lingering list; 0: none */
    bool imported, multicast, used;
};

struct binding {
    uint32_t multicast, memory; /* object indices; memory 0: free place */
    CUdevice ordinal;
    uint64_t offset;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct object
    *object; /* OBJECTS of them, committed as they are touched; [0] is never used */
static uint32_t object_mark = 1, object_free, lingering;
static struct aliquot_table handles; /* handle to object */
static struct aliquot_table mapped;  /* address to object, and size in 4 KiB units << 20 */
static struct binding bindings[BINDINGS];

/* For reading: over the driver's call by whoever maps, unmaps or binds, until it is written down. For
 * writing: by whoever asks the driver what is mapped or bound. Taken before the mutex. */
static pthread_rwlock_t layout = PTHREAD_RWLOCK_INITIALIZER;

#define OBJECT_BITS 20
static_assert(OBJECTS == 1u << OBJECT_BITS, "an object's index is packed in so many bits");

/* Under the mutex. 0: no place. */
static uint32_t new_object(const struct object *content) {
    if (!object) {
        void *at = mmap(NULL, OBJECTS * sizeof *object, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return 0;
        object = at;
    }
    uint32_t index = object_free;
    if (index)
        object_free = object[index].next;
    else if (object_mark < OBJECTS)
        index = object_mark++;
    else
        return 0;
    object[index] = *content;
    object[index].used = true;
    aliquot_table_put(&handles, content->handle, index);
    return index;
}

static void free_object(uint32_t index) {
    object[index] = (struct object){.next = object_free};
    object_free = index;
}

/* Whether the process has the memory in a descriptor, though it may hold no handle of it. */
static bool is_exported(struct object *of) {
    return of->key && aliquot_descriptor_open(&of->fd, of->key);
}

static void settle_object(uint32_t index);

static void unbind(uint32_t multicast, CUdevice ordinal, uint64_t from, uint64_t size) {
    for (uint32_t i = 0; i < BINDINGS; i++) {
        struct binding *binding = &bindings[i];
        if (!binding->memory || binding->multicast != multicast ||
            (ordinal >= 0 && binding->ordinal != ordinal) || binding->offset < from ||
            binding->offset - from >= size)
            continue;
        uint32_t memory = binding->memory;
        *binding = (struct binding){0};
        object[memory].holds--;
        settle_object(memory);
    }
}

/* Under the mutex: gives an object's charge back if nothing holds it any more. */
static void settle_object(uint32_t index) {
    struct object *of = &object[index];
    if (of->holds)
        return;
    if (of->multicast)
        unbind(index, -1, 0, UINT64_MAX);
    if (is_exported(of)) {
        of->next = lingering;
        lingering = index;
        atomic_fetch_or_explicit(&aliquot_lazy, ALIQUOT_LAZY_EXPORTS, memory_order_relaxed);
        return;
    }
    if (of->key)
        aliquot_hold_drop(of->key, of->device, of->bytes);
    else if (of->bytes)
        aliquot_withdraw(of->device, of->bytes);
    free_object(index);
}

void aliquot_vmm_settle(void) {
    pthread_mutex_lock(&mutex);
    uint32_t index = lingering;
    lingering = 0;
    while (index) {
        uint32_t next = object[index].next;
        settle_object(index);
        index = next;
    }
    if (!lingering)
        atomic_fetch_and_explicit(&aliquot_lazy, ~ALIQUOT_LAZY_EXPORTS, memory_order_relaxed);
    pthread_mutex_unlock(&mutex);
}

/* -- Handles ------------------------------------------------------------------------------------ */

CUresult aliquot_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
                             const CUmemAllocationProp *properties, unsigned long long flags) {
    /* Host memory and malformed requests are between the program and the driver. */
    bool here = properties && properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
    CUresult result = here ? aliquot_ready() : CUDA_SUCCESS;
    if (!here || result == CUDA_ERROR_NOT_INITIALIZED)
        return REAL(cuMemCreate)(handle, size, properties, flags);
    if (result != CUDA_SUCCESS)
        return result;
    int index = aliquot_mapped(properties->location.id);
    if (index < 0)
        return index == ALIQUOT_NO_SUCH_DEVICE ? REAL(cuMemCreate)(handle, size, properties, flags)
                                               : CUDA_ERROR_OUT_OF_MEMORY;
    uint32_t device = (uint32_t)index;
    uint64_t bytes = aliquot_whole_pages(device, size);
    if (!aliquot_charge(device, bytes)) {
        /* What the driver would not give in any case gets its own answer. */
        size_t step;
        result = REAL(cuMemGetAllocationGranularity)(&step, properties,
                                                     CU_MEM_ALLOC_GRANULARITY_MINIMUM);
        if (result != CUDA_SUCCESS)
            return result;
        return step && size && size % step == 0
                   ? CUDA_ERROR_OUT_OF_MEMORY
                   : REAL(cuMemCreate)(handle, size, properties, flags);
    }
    ALIQUOT_RETRY(result, REAL(cuMemCreate)(handle, size, properties, flags));
    if (result != CUDA_SUCCESS) {
        aliquot_withdraw(device, bytes);
        return result;
    }
    struct object content = {
        .bytes = bytes, .handle = *handle, .device = device, .references = 1, .holds = 1, .fd = -1};
    pthread_mutex_lock(&mutex);
    new_object(&content);
    pthread_mutex_unlock(&mutex);
    return result;
}

/* Under the mutex: the object of a handle, 0 when it is not ours. */
static uint32_t object_of(uint64_t handle) {
    uint64_t index;
    return handle && aliquot_table_get(&handles, handle, &index) ? (uint32_t)index : 0;
}

/* The object mapped at an address, which may lie inside the mapping. */
static uint32_t object_at(CUdeviceptr address) {
    uint64_t value;
    CUdeviceptr base;
    size_t bytes;
    if (aliquot_table_get(&mapped, address, &value) ||
        (REAL(cuMemGetAddressRange_v2)(&base, &bytes, address) == CUDA_SUCCESS &&
         aliquot_table_get(&mapped, base, &value)))
        return value & (OBJECTS - 1);
    return 0;
}

CUresult aliquot_cuMemRelease(CUmemGenericAllocationHandle handle) {
    pthread_mutex_lock(&mutex);
    uint32_t index = object_of(handle);
    uint64_t taken;
    /* The driver may give the number out again at once: the last release takes it from the table. */
    bool last = index && --object[index].references == 0;
    if (last)
        aliquot_table_take(&handles, handle, &taken);
    pthread_mutex_unlock(&mutex);
    CUresult result = REAL(cuMemRelease)(handle);
    if (!index)
        return result;
    pthread_mutex_lock(&mutex);
    if (result == CUDA_SUCCESS) {
        object[index].holds--;
        settle_object(index);
    } else {
        object[index].references++;
        if (last)
            aliquot_table_put(&handles, handle, index);
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

CUresult aliquot_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMemRetainAllocationHandle)(handle, address);
    /* Else another thread could end the mapping, and the last handle, before the new one is known. */
    pthread_rwlock_wrlock(&layout);
    CUresult result = REAL(cuMemRetainAllocationHandle)(handle, address);
    pthread_mutex_lock(&mutex);
    uint32_t index = result == CUDA_SUCCESS ? object_of(*handle) : 0;
    if (result == CUDA_SUCCESS && !index && (index = object_at((uintptr_t)address)))
        aliquot_table_put(&handles, *handle, index);
    if (index) {
        object[index].references++;
        object[index].holds++;
    }
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&layout);
    return result;
}

/* Keeps the object of a handle while the driver is asked to do something with it: another thread may release
 * the last handle meanwhile. 0: it is not ours. */
static uint32_t keep(uint64_t handle) {
    pthread_mutex_lock(&mutex);
    uint32_t index = object_of(handle);
    if (index)
        object[index].holds++;
    pthread_mutex_unlock(&mutex);
    return index;
}

/* Under the mutex. */
static void let_go(uint32_t index) {
    if (!index)
        return;
    object[index].holds--;
    settle_object(index);
}

CUresult aliquot_cuMemMap(CUdeviceptr address, size_t size, size_t offset,
                          CUmemGenericAllocationHandle handle, unsigned long long flags) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMemMap)(address, size, offset, handle, flags);
    pthread_rwlock_rdlock(&layout);
    uint32_t index = keep(handle);
    CUresult result = REAL(cuMemMap)(address, size, offset, handle, flags);
    pthread_mutex_lock(&mutex);
    if (result != CUDA_SUCCESS ||
        (index &&
         !aliquot_table_put(&mapped, address, (uint64_t)size >> 12 << OBJECT_BITS | index)))
        let_go(index);
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&layout);
    return result;
}

/* Mappings that an unmap covers leave the table before it, in a list through this many at a time. */
#define UNMAP_BATCH 256u

struct unmapping {
    CUdeviceptr address;
    uint64_t value;
};

static CUdeviceptr collect(CUdeviceptr at, CUdeviceptr end, struct unmapping *list,
                           uint32_t *count) {
    for (*count = 0; at < end && *count < UNMAP_BATCH;) {
        uint64_t value;
        if (aliquot_table_take(&mapped, at, &value)) {
            list[(*count)++] = (struct unmapping){at, value};
            at += value >> OBJECT_BITS << 12;
        } else
            at += aliquot_page_bytes(0);
    }
    return at;
}

CUresult aliquot_cuMemUnmap(CUdeviceptr address, size_t size) {
    if (aliquot_ready() != CUDA_SUCCESS || size > UINT64_MAX - address)
        return REAL(cuMemUnmap)(address, size);
    struct unmapping list[UNMAP_BATCH];
    uint32_t count;
    CUdeviceptr end = address + size;
    /* Where one batch may not do, nobody else maps there before the last. */
    if (size / aliquot_page_bytes(0) < UNMAP_BATCH)
        pthread_rwlock_rdlock(&layout);
    else
        pthread_rwlock_wrlock(&layout);
    pthread_mutex_lock(&mutex);
    CUdeviceptr at = collect(address, end, list, &count);
    pthread_mutex_unlock(&mutex);
    CUresult result = REAL(cuMemUnmap)(address, size);
    pthread_mutex_lock(&mutex);
    for (;;) {
        for (uint32_t i = 0; i < count; i++) {
            if (result == CUDA_SUCCESS)
                let_go(list[i].value & (OBJECTS - 1));
            else
                aliquot_table_put(&mapped, list[i].address, list[i].value);
        }
        if (result != CUDA_SUCCESS || at >= end)
            break;
        at = collect(at, end, list, &count);
    }
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&layout);
    return result;
}

/* -- Sharing ------------------------------------------------------------------------------------ */

static uint64_t shared_key(const void *shareable, CUmemAllocationHandleType type) {
    if (type == CU_MEM_HANDLE_TYPE_FABRIC) {
        uint64_t hash = 0xcbf29ce484222325ull;
        for (size_t i = 0; i < sizeof(CUmemFabricHandle); i++)
            hash = (hash ^ ((const unsigned char *)shareable)[i]) * 0x100000001b3ull;
        return hash | 1;
    }
    return 0;
}

CUresult aliquot_cuMemExportToShareableHandle(void *shareable, CUmemGenericAllocationHandle handle,
                                              CUmemAllocationHandleType type,
                                              unsigned long long flags) {
    uint32_t index = aliquot_ready() == CUDA_SUCCESS ? keep(handle) : 0;
    CUresult result = REAL(cuMemExportToShareableHandle)(shareable, handle, type, flags);
    if (!index)
        return result;
    bool file = type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    uint64_t key = 0;
    if (result == CUDA_SUCCESS)
        key = file ? aliquot_descriptor_key(*(int *)shareable) : shared_key(shareable, type);
    pthread_mutex_lock(&mutex);
    if (key && object[index].bytes && !object[index].key) {
        object[index].key = key;
        aliquot_hold_export(key, object[index].device, object[index].bytes);
    }
    if (key && file && object[index].key == key)
        object[index].fd = *(int *)shareable;
    let_go(index);
    pthread_mutex_unlock(&mutex);
    return result;
}

CUresult aliquot_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle,
                                                void *shareable, CUmemAllocationHandleType type) {
    uint64_t key = type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
                       ? aliquot_descriptor_key((int)(intptr_t)shareable)
                       : (shareable ? shared_key(shareable, type) : 0);
    /* Written down before: an exporter that lets go meanwhile passes the charge on. */
    key = key && aliquot_ready() == CUDA_SUCCESS ? aliquot_hold_import(key) : 0;
    CUresult result = REAL(cuMemImportFromShareableHandle)(handle, shareable, type);
    if (key && result != CUDA_SUCCESS)
        aliquot_hold_drop(key, 0, 0);
    if (result != CUDA_SUCCESS)
        return result;
    struct object content = {
        .handle = *handle, .key = key, .references = 1, .holds = 1, .fd = -1, .imported = true};
    pthread_mutex_lock(&mutex);
    uint32_t index = object_of(*handle);
    if (index) {
        /* The driver gave the handle that the process has already, and that is written down. */
        object[index].references++;
        object[index].holds++;
    } else if (key && new_object(&content))
        key = 0;
    pthread_mutex_unlock(&mutex);
    if (key)
        aliquot_hold_drop(key, 0, 0);
    return result;
}

/* -- Multicast: the object is fabric address space; it keeps the memory bound to it -------------- */

CUresult aliquot_cuMulticastCreate(CUmemGenericAllocationHandle *handle,
                                   const CUmulticastObjectProp *properties) {
    CUresult result = REAL(cuMulticastCreate)(handle, properties);
    if (result != CUDA_SUCCESS || aliquot_ready() != CUDA_SUCCESS)
        return result;
    struct object content = {
        .handle = *handle, .references = 1, .holds = 1, .fd = -1, .multicast = true};
    pthread_mutex_lock(&mutex);
    new_object(&content);
    pthread_mutex_unlock(&mutex);
    return result;
}

/* What a binding is about, kept over the driver's call. */
struct binding_ends {
    bool ready;
    uint32_t multicast, memory; /* 0: not ours */
};

static void place_binding(const struct binding_ends *ends, CUdevice ordinal, uint64_t offset) {
    for (uint32_t i = 0; ends->multicast && ends->memory && i < BINDINGS; i++)
        if (!bindings[i].memory) {
            if (ordinal < 0)
                ordinal = aliquot_device_ordinal(object[ends->memory].device);
            bindings[i] = (struct binding){ends->multicast, ends->memory, ordinal, offset};
            object[ends->memory].holds++;
            return;
        }
}

static struct binding_ends bind_memory(uint64_t multicast, uint64_t memory) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return (struct binding_ends){0};
    pthread_rwlock_rdlock(&layout);
    return (struct binding_ends){true, keep(multicast), keep(memory)};
}

static struct binding_ends bind_address(uint64_t multicast, CUdeviceptr address) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return (struct binding_ends){0};
    pthread_rwlock_wrlock(&layout);
    struct binding_ends ends = {true, keep(multicast), 0};
    pthread_mutex_lock(&mutex);
    if ((ends.memory = object_at(address)))
        object[ends.memory].holds++;
    pthread_mutex_unlock(&mutex);
    return ends;
}

/* `ordinal` -1: the device of the memory. */
static CUresult bound(const struct binding_ends *ends, CUresult result, CUdevice ordinal,
                      uint64_t offset) {
    if (!ends->ready)
        return result;
    pthread_mutex_lock(&mutex);
    if (result == CUDA_SUCCESS)
        place_binding(ends, ordinal, offset);
    let_go(ends->memory);
    let_go(ends->multicast);
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&layout);
    return result;
}

CUresult aliquot_cuMulticastBindMem(CUmemGenericAllocationHandle multicast, size_t offset,
                                    CUmemGenericAllocationHandle memory, size_t memory_offset,
                                    size_t size, unsigned long long flags) {
    struct binding_ends ends = bind_memory(multicast, memory);
    CUresult result =
        REAL(cuMulticastBindMem)(multicast, offset, memory, memory_offset, size, flags);
    return bound(&ends, result, -1, offset);
}

CUresult aliquot_cuMulticastBindMem_v2(CUmemGenericAllocationHandle multicast, CUdevice ordinal,
                                       size_t offset, CUmemGenericAllocationHandle memory,
                                       size_t memory_offset, size_t size,
                                       unsigned long long flags) {
    struct binding_ends ends = bind_memory(multicast, memory);
    CUresult result =
        REAL(cuMulticastBindMem_v2)(multicast, ordinal, offset, memory, memory_offset, size, flags);
    return bound(&ends, result, ordinal, offset);
}

CUresult aliquot_cuMulticastBindAddr(CUmemGenericAllocationHandle multicast, size_t offset,
                                     CUdeviceptr address, size_t size, unsigned long long flags) {
    struct binding_ends ends = bind_address(multicast, address);
    CUresult result = REAL(cuMulticastBindAddr)(multicast, offset, address, size, flags);
    return bound(&ends, result, -1, offset);
}

CUresult aliquot_cuMulticastBindAddr_v2(CUmemGenericAllocationHandle multicast, CUdevice ordinal,
                                        size_t offset, CUdeviceptr address, size_t size,
                                        unsigned long long flags) {
    struct binding_ends ends = bind_address(multicast, address);
    CUresult result =
        REAL(cuMulticastBindAddr_v2)(multicast, ordinal, offset, address, size, flags);
    return bound(&ends, result, ordinal, offset);
}

CUresult aliquot_cuMulticastUnbind(CUmemGenericAllocationHandle multicast, CUdevice ordinal,
                                   size_t offset, size_t size) {
    if (aliquot_ready() != CUDA_SUCCESS)
        return REAL(cuMulticastUnbind)(multicast, ordinal, offset, size);
    pthread_rwlock_wrlock(&layout);
    CUresult result = REAL(cuMulticastUnbind)(multicast, ordinal, offset, size);
    pthread_mutex_lock(&mutex);
    uint32_t index = result == CUDA_SUCCESS ? object_of(multicast) : 0;
    if (index)
        unbind(index, ordinal, offset, size);
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&layout);
    return result;
}

void aliquot_vmm_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    pthread_rwlock_init(&layout, NULL);
    if (object)
        munmap(object, OBJECTS * sizeof *object);
    object = NULL;
    object_mark = 1;
    object_free = lingering = 0;
    memset(bindings, 0, sizeof bindings);
    aliquot_table_reset(&handles);
    aliquot_table_reset(&mapped);
}
