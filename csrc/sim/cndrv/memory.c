/* Memory of the device: allocations, physical memory and its mappings, pools, copies and fills.
 *
 * Addresses are those of host memory that holds the bytes; pages of the device are counted in the
 * node's state. Copies and fills take effect at once: nothing else writes there, for kernels do not
 * compute, and whoever reads before waiting reads what may or may not be there yet.
 */
#include "cndrv_sim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum range_kind { LINEAR, RESERVED, MAPPED, POOLED };

/* A range of addresses that is in use. */
struct range {
    CNaddr base;
    uint64_t bytes; /* as it was asked for */
    enum range_kind kind;
    struct sim_cn_device *device;
    const struct sim_cn_object *context; /* LINEAR */
    struct sim_cn_object *of;            /* MAPPED: the physical memory; POOLED: the pool */
    struct sim_frames frames;            /* LINEAR, POOLED */
};

static struct range *ranges; /* ascending */
static size_t range_count, range_room;

/* ---- Ranges ------------------------------------------------------------------------------------- */

static uint64_t whole_pages(const struct sim_cn_device *device, uint64_t bytes) {
    uint64_t page = device->config->page_size;
    return (bytes + page - 1) & ~(page - 1);
}

/* Place of the first range that begins after the address. */
static size_t place_after(CNaddr address) {
    size_t low = 0, high = range_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ranges[middle].base > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The range that holds [address, address + bytes), or NULL. */
static struct range *range_of(CNaddr address, uint64_t bytes) {
    size_t at = place_after(address);
    struct range *range = at ? &ranges[at - 1] : NULL;
    if (!range || address - range->base >= range->bytes ||
        bytes > range->bytes - (address - range->base))
        return NULL;
    return range;
}

/* Memory that a kernel could use. */
static struct range *usable(CNaddr address, uint64_t bytes) {
    struct range *range = range_of(address, bytes);
    return range && range->kind != RESERVED ? range : NULL;
}

static bool add_range(const struct range *range) {
    if (range_count == range_room) {
        size_t room = range_room ? range_room * 2 : 64;
        struct range *more = realloc(ranges, room * sizeof *ranges);
        if (!more)
            return false;
        ranges = more;
        range_room = room;
    }
    size_t at = place_after(range->base);
    memmove(&ranges[at + 1], &ranges[at], (range_count - at) * sizeof *ranges);
    ranges[at] = *range;
    range_count++;
    return true;
}

static void drop_range(struct range *range) {
    size_t at = (size_t)(range - ranges);
    range_count--;
    memmove(range, range + 1, (range_count - at) * sizeof *ranges);
}

CNaddr sim_cn_reserve(const struct sim_cn_device *device, uint64_t bytes) {
    uint64_t page = device->config->page_size, whole = whole_pages(device, bytes);
    if (bytes > UINT64_MAX - 2 * page || !bytes)
        return 0;
    uint8_t *at = mmap(NULL, whole + page, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return 0;
    uint8_t *base = (uint8_t *)(((uintptr_t)at + page - 1) & ~(page - 1));
    if (base > at)
        munmap(at, (size_t)(base - at));
    munmap(base + whole, page - (size_t)(base - at));
    return (CNaddr)(uintptr_t)base;
}

void sim_cn_unreserve(CNaddr address, uint64_t bytes) { munmap((void *)address, bytes); }

bool sim_cn_take(struct sim_cn_device *device, uint64_t bytes, struct sim_frames *frames) {
    uint64_t pages = whole_pages(device, bytes) / device->config->page_size;
    *frames = (struct sim_frames){0};
    return !pages || sim_frames_take(sim_cn_state(), device->number, pages, frames);
}

static void give(struct range *range) {
    if (range->frames.frames)
        sim_frames_give(sim_cn_state(), range->device->number, &range->frames);
    sim_cn_unreserve(range->base, whole_pages(range->device, range->bytes));
    drop_range(range);
}

void sim_cn_memory_end(const struct sim_cn_object *context) {
    for (size_t i = range_count; i-- > 0;)
        if (ranges[i].kind == LINEAR && ranges[i].context == context)
            give(&ranges[i]);
}

/* ---- What there is ------------------------------------------------------------------------------- */

static void info(struct sim_cn_device *device, uint64_t *free_bytes, uint64_t *total) {
    struct sim_state *state = sim_cn_state();
    uint64_t page = device->config->page_size;
    sim_state_sweep(state, false);
    *total = device->config->memory - device->config->reserved;
    *free_bytes = atomic_load_explicit(&state->header->devices[device->number].free_frames,
                                       memory_order_relaxed) *
                  page;
    uint32_t id = atomic_load_explicit(&state->header->slots[state->slot].partition[device->number],
                                       memory_order_relaxed);
    if (!id)
        return;
    sim_device_lock(state, device->number);
    const struct sim_partition *part = sim_partition_find(state, device->number, id);
    uint64_t held = sim_partition_held(state, device->number, id);
    *total = part ? part->memory : 0;
    *free_bytes = held < *total ? *total - held : 0;
    sim_device_unlock(state, device->number);
}

CNresult cnMemGetInfo(uint64_t *free_bytes, uint64_t *total) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *context = sim_cn_current();
    if (!context || !free_bytes || !total)
        return sim_cn_left(context ? CN_ERROR_INVALID_VALUE : CN_CONTEXT_ERROR_INVALID);
    info(context->device, free_bytes, total);
    return sim_cn_left(CN_SUCCESS);
}

/* Devices have one node. */
CNresult cnMemGetNodeInfo(uint64_t *free_bytes, uint64_t *total, int node) {
    return node ? CN_ERROR_INVALID_VALUE : cnMemGetInfo(free_bytes, total);
}

CNresult cnMemGetAddressRange(CNaddr *base, uint64_t *bytes, CNaddr address) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct range *range = usable(address, 1);
    if (!range)
        return sim_cn_left(CN_MEMORY_ERROR_INVALID_ADDRESS);
    if (base)
        *base = range->base;
    if (bytes)
        *bytes = range->bytes;
    return sim_cn_left(CN_SUCCESS);
}

/* ---- Allocations --------------------------------------------------------------------------------- */

/* Enters memory that was taken; gives it back where that cannot be. */
static CNresult enter(struct range *range, CNaddr *address) {
    range->base = sim_cn_reserve(range->device, range->bytes);
    if (range->base && add_range(range)) {
        *address = range->base;
        return CN_SUCCESS;
    }
    if (range->base)
        sim_cn_unreserve(range->base, whole_pages(range->device, range->bytes));
    if (range->frames.frames)
        sim_frames_give(sim_cn_state(), range->device->number, &range->frames);
    return CN_ERROR_SYSTEM_OUT_OF_MEMORY;
}

CNresult cnMalloc(CNaddr *address, uint64_t bytes) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *context = sim_cn_current();
    if (!context || !address || !bytes)
        return sim_cn_left(context ? CN_ERROR_INVALID_VALUE : CN_CONTEXT_ERROR_INVALID);
    struct range range = {
        .bytes = bytes, .kind = LINEAR, .device = context->device, .context = context};
    const struct sim_device_config *config = context->device->config;
    if (bytes > config->memory || !sim_cn_take(context->device, bytes, &range.frames))
        result = CN_MEMORY_ERROR_OUT_OF_MEMORY;
    else
        result = enter(&range, address);
    sim_cn_leave();
    sim_cost_wait(config->cost_ns[SIM_COST_ALLOC]);
    return result;
}

CNresult cnMallocSecurity(CNaddr *address, uint64_t bytes) { return cnMalloc(address, bytes); }
CNresult cnMallocConstant(CNaddr *address, uint64_t bytes) { return cnMalloc(address, bytes); }
CNresult cnMallocPeerAble(CNaddr *address, uint64_t bytes) { return cnMalloc(address, bytes); }
CNresult cnZmalloc(CNaddr *address, uint64_t bytes) { return cnMalloc(address, bytes); }

CNresult cnMallocNode(CNaddr *address, uint64_t bytes, int node) {
    return node ? CN_ERROR_INVALID_VALUE : cnMalloc(address, bytes);
}
CNresult cnMallocNodeConstant(CNaddr *address, uint64_t bytes, int node) {
    return cnMallocNode(address, bytes, node);
}
CNresult cnMallocFrameBuffer(CNaddr *address, uint64_t bytes, int node) {
    return cnMallocNode(address, bytes, node);
}
CNresult cnZmallocNode(CNaddr *address, uint64_t bytes, int node) {
    return cnMallocNode(address, bytes, node);
}

CNresult cnFree(CNaddr address) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct range *range = address ? range_of(address, 1) : NULL;
    if (!range || range->base != address || range->kind != LINEAR)
        return sim_cn_left(CN_MEMORY_ERROR_INVALID_ADDRESS);
    const struct sim_device_config *config = range->device->config;
    /* What uses it must be over. */
    sim_cn_wait(range->device, range->device->tail_ns);
    range = range_of(address, 1);
    if (range && range->base == address)
        give(range);
    else
        result = CN_MEMORY_ERROR_INVALID_ADDRESS;
    sim_cn_leave();
    sim_cost_wait(config->cost_ns[SIM_COST_FREE]);
    return result;
}

CNresult cnMallocHost(void **address, uint64_t bytes) {
    if (!address || !bytes)
        return CN_ERROR_INVALID_VALUE;
    *address = malloc(bytes);
    return *address ? CN_SUCCESS : CN_ERROR_SYSTEM_OUT_OF_MEMORY;
}

CNresult cnFreeHost(void *address) {
    free(address);
    return address ? CN_SUCCESS : CN_ERROR_INVALID_VALUE;
}

/* ---- Copies and fills ----------------------------------------------------------------------------- */

static uint64_t copy_ns(const struct sim_device_config *config, uint64_t bytes, uint64_t per_us) {
    (void)config;
    return per_us ? bytes * 1000 / per_us : 0;
}

/* Copies between host and device, which wait for what was launched before. */
static CNresult copy_host(CNaddr device_address, void *to, const void *from, uint64_t bytes) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct range *range = usable(device_address, bytes);
    if (!range || !bytes)
        return sim_cn_left(bytes ? CN_MEMORY_ERROR_INVALID_ADDRESS : CN_ERROR_INVALID_VALUE);
    const struct sim_device_config *config = range->device->config;
    sim_cn_wait(range->device, range->device->tail_ns);
    memcpy(to, from, bytes);
    sim_cn_leave();
    sim_cost_wait(config->cost_ns[SIM_COST_COPY] +
                  copy_ns(config, bytes, config->host_copy_bytes_per_us));
    return CN_SUCCESS;
}

CNresult cnMemcpyHtoD(CNaddr to, const void *from, uint64_t bytes) {
    return from ? copy_host(to, (void *)to, from, bytes) : CN_ERROR_INVALID_VALUE;
}

CNresult cnMemcpyDtoH(void *to, CNaddr from, uint64_t bytes) {
    return to ? copy_host(from, to, (const void *)from, bytes) : CN_ERROR_INVALID_VALUE;
}

/* These may be as if the host's memory were not page-locked: then they are done when they return. */
CNresult cnMemcpyHtoDAsync(CNaddr to, const void *from, uint64_t bytes, CNqueue queue) {
    (void)queue;
    return cnMemcpyHtoD(to, from, bytes);
}

CNresult cnMemcpyDtoHAsync(void *to, CNaddr from, uint64_t bytes, CNqueue queue) {
    (void)queue;
    return cnMemcpyDtoH(to, from, bytes);
}

/* Within the device, of `per_element` bytes each; `from` 0: they are filled with the value. */
static CNresult work(CNaddr to, CNaddr from, uint64_t value, uint64_t count, uint64_t per_element,
                     CNqueue queue, bool waits) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    uint64_t bytes, *tail = sim_cn_tail(queue, &device);
    if (!tail)
        return sim_cn_left(sim_cn_current() ? CN_QUEUE_ERROR_INVALID : CN_CONTEXT_ERROR_INVALID);
    if (!count || __builtin_mul_overflow(count, per_element, &bytes))
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    if (!usable(to, bytes) || (from && !usable(from, bytes)))
        return sim_cn_left(CN_MEMORY_ERROR_INVALID_ADDRESS);
    if (from)
        memmove((void *)to, (const void *)from, bytes);
    else
        for (uint64_t i = 0; i < count; i++)
            memcpy((uint8_t *)to + i * per_element, &value, per_element);
    const struct sim_device_config *config = device->config;
    sim_cn_work(device, tail, copy_ns(config, bytes, config->device_copy_bytes_per_us));
    if (waits)
        sim_cn_wait(device, device->tail_ns);
    sim_cn_leave();
    sim_cost_wait(config->cost_ns[SIM_COST_COPY]);
    return CN_SUCCESS;
}

CNresult cnMemsetD8(CNaddr address, unsigned char value, uint64_t count) {
    return work(address, 0, value, count, 1, NULL, true);
}
CNresult cnMemsetD16(CNaddr address, unsigned short value, uint64_t count) {
    return work(address, 0, value, count, 2, NULL, true);
}
CNresult cnMemsetD32(CNaddr address, unsigned int value, uint64_t count) {
    return work(address, 0, value, count, 4, NULL, true);
}
CNresult cnMemsetD8Async(CNaddr address, unsigned char value, uint64_t count, CNqueue queue) {
    return work(address, 0, value, count, 1, queue, false);
}
CNresult cnMemsetD16Async(CNaddr address, unsigned short value, uint64_t count, CNqueue queue) {
    return work(address, 0, value, count, 2, queue, false);
}
CNresult cnMemsetD32Async(CNaddr address, unsigned int value, uint64_t count, CNqueue queue) {
    return work(address, 0, value, count, 4, queue, false);
}
CNresult cnMemcpyDtoD(CNaddr to, CNaddr from, uint64_t bytes) {
    return from ? work(to, from, 0, bytes, 1, NULL, true) : CN_MEMORY_ERROR_INVALID_ADDRESS;
}
CNresult cnMemcpyDtoDAsync(CNaddr to, CNaddr from, uint64_t bytes, CNqueue queue) {
    return from ? work(to, from, 0, bytes, 1, queue, false) : CN_MEMORY_ERROR_INVALID_ADDRESS;
}

/* ---- Physical memory and mappings ------------------------------------------------------------------ */

static struct sim_cn_device *placed(const CNmemAllocationProp *properties) {
    return properties && properties->type == CN_MEM_ALLOCATION_TYPE_DEFAULT &&
                   properties->location.type == CN_MEM_LOCATION_TYPE_DEVICE
               ? sim_cn_device(properties->location.id)
               : NULL;
}

CNresult cnMemGetAllocationGranularity(uint64_t *bytes, CNmemAllocationProp *properties,
                                       int option) {
    CNresult result = sim_cn_enter();
    (void)option;
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_device *device = placed(properties);
    if (!bytes || !device)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    *bytes = device->config->page_size;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnMemCreate(CNmemGenericAllocationHandle *handle, uint64_t bytes,
                     CNmemAllocationProp *properties, uint64_t flags) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device = placed(properties);
    if (!handle || !device || flags || !bytes || bytes % device->config->page_size)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    struct sim_cn_object *made = sim_cn_new(SIM_CN_PHYSICAL, NULL);
    if (!made)
        return sim_cn_left(CN_ERROR_SYSTEM_OUT_OF_MEMORY);
    made->device = device;
    if (!sim_cn_take(device, bytes, &made->frames)) {
        sim_cn_end(made);
        return sim_cn_left(CN_MEMORY_ERROR_OUT_OF_MEMORY);
    }
    made->bytes = bytes;
    made->handles = 1;
    *handle = (uintptr_t)made;
    return sim_cn_left(CN_SUCCESS);
}

static void settle(struct sim_cn_object *physical) {
    if (!physical->handles && !physical->maps)
        sim_cn_end(physical);
}

CNresult cnMemRelease(CNmemGenericAllocationHandle handle) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *found = sim_cn_find(SIM_CN_PHYSICAL, (void *)handle);
    if (!found || !found->handles)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    found->handles--;
    settle(found);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnMemAddressReserve(CNaddr *address, uint64_t bytes, uint64_t alignment, CNaddr start,
                             uint64_t flags) {
    CNresult result = sim_cn_enter();
    (void)start; /* a wish */
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device = sim_cn_device(0);
    uint64_t page = device->config->page_size;
    if (!address || flags || !bytes || bytes % page || alignment > page)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    struct range range = {.bytes = bytes, .kind = RESERVED, .device = device};
    return sim_cn_left(enter(&range, address));
}

CNresult cnMemAddressFree(CNaddr address, uint64_t bytes) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct range *range = range_of(address, 1);
    if (!range || range->base != address || range->bytes != bytes || range->kind != RESERVED)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    give(range);
    return sim_cn_left(CN_SUCCESS);
}

/* A mapping fills the range that was reserved. */
CNresult cnMemMap(CNaddr address, uint64_t bytes, uint64_t offset,
                  CNmemGenericAllocationHandle handle, uint64_t flags) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct range *range = range_of(address, 1);
    struct sim_cn_object *found = sim_cn_find(SIM_CN_PHYSICAL, (void *)handle);
    if (!range || !found || range->kind != RESERVED || range->base != address ||
        range->bytes != bytes || bytes > found->bytes || offset || flags)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    range->kind = MAPPED;
    range->of = found;
    found->maps++;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnMemSetAccess(CNaddr address, uint64_t bytes, CNmemAccessDesc *description,
                        uint64_t count) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct range *range = range_of(address, bytes);
    bool well = description && count == 1 && range && range->kind == MAPPED;
    return sim_cn_left(well ? CN_SUCCESS : CN_ERROR_INVALID_VALUE);
}

CNresult cnMemUnmap(CNaddr address, uint64_t bytes) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct range *range = range_of(address, 1);
    if (!range || range->kind != MAPPED || range->base != address || range->bytes != bytes)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    struct sim_cn_object *physical = range->of;
    range->kind = RESERVED;
    range->of = NULL;
    physical->maps--;
    settle(physical);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnMemRetainAllocationHandle(CNmemGenericAllocationHandle *handle, CNaddr address) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct range *range = range_of(address, 1);
    if (!handle || !range || range->kind != MAPPED)
        return sim_cn_left(CN_MEMORY_ERROR_INVALID_ADDRESS);
    range->of->handles++;
    *handle = (uintptr_t)range->of;
    return sim_cn_left(CN_SUCCESS);
}

/* ---- The pool of each device ------------------------------------------------------------------------ */

static struct sim_cn_object *pool_of(struct sim_cn_device *device) {
    if (!device->pool) {
        device->pool = sim_cn_new(SIM_CN_POOL, NULL);
        if (device->pool)
            device->pool->device = device;
    }
    return device->pool;
}

void sim_cn_trim(struct sim_cn_device *device) {
    struct sim_cn_object *pool = device->pool;
    if (pool && pool->kept.frames)
        sim_frames_give(sim_cn_state(), device->number, &pool->kept);
}

CNresult cnDeviceGetMemPool(CNmemoryPool *pool, CNdev ordinal) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device = sim_cn_device(ordinal);
    if (!device || !pool)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    *pool = (CNmemoryPool)(void *)pool_of(device);
    return sim_cn_left(*pool ? CN_SUCCESS : CN_ERROR_SYSTEM_OUT_OF_MEMORY);
}

CNresult cnDeviceGetDefaultMemPool(CNmemoryPool *pool, CNdev ordinal) {
    return cnDeviceGetMemPool(pool, ordinal);
}

/* What is kept is used first, as far as it goes. */
static bool pool_take(struct sim_cn_object *pool, uint64_t bytes, struct sim_frames *frames) {
    uint64_t pages = whole_pages(pool->device, bytes) / pool->device->config->page_size;
    *frames = (struct sim_frames){0};
    uint64_t kept = pages < pool->kept.frames ? pages : pool->kept.frames;
    if (kept && !sim_frames_cut(&pool->kept, kept, frames))
        return false;
    struct sim_frames more = {0};
    if (pages > kept &&
        (!sim_frames_take(sim_cn_state(), pool->device->number, pages - kept, &more) ||
         !sim_frames_append(frames, &more))) {
        if (more.frames)
            sim_frames_give(sim_cn_state(), pool->device->number, &more);
        if (kept)
            sim_frames_append(&pool->kept, frames);
        return false;
    }
    return true;
}

CNresult cnMemAllocFromPoolAsync(CNaddr *address, size_t bytes, CNmemoryPool handle,
                                 CNqueue queue) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    struct sim_cn_object *pool = sim_cn_find(SIM_CN_POOL, handle);
    if (!sim_cn_tail(queue, &device) || !pool || !address || !bytes)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    if (bytes > pool->device->config->memory)
        return sim_cn_left(CN_MEMORY_ERROR_OUT_OF_MEMORY);
    struct range range = {.bytes = bytes, .kind = POOLED, .device = pool->device, .of = pool};
    if (!pool_take(pool, bytes, &range.frames))
        return sim_cn_left(CN_MEMORY_ERROR_OUT_OF_MEMORY);
    uint64_t pages = range.frames.frames;
    result = enter(&range, address);
    if (result == CN_SUCCESS)
        pool->used_pages += pages;
    return sim_cn_left(result);
}

CNresult cnMemAllocAsync(CNaddr *address, size_t bytes, CNqueue queue) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    struct sim_cn_object *pool = sim_cn_tail(queue, &device) ? pool_of(device) : NULL;
    sim_cn_leave();
    return cnMemAllocFromPoolAsync(address, bytes, (CNmemoryPool)(void *)pool, queue);
}

CNresult cnMemFreeAsync(CNaddr address, CNqueue queue) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    struct range *range = range_of(address, 1);
    if (!sim_cn_tail(queue, &device) || !range || range->base != address || range->kind != POOLED)
        return sim_cn_left(CN_MEMORY_ERROR_INVALID_ADDRESS);
    struct sim_cn_object *pool = range->of;
    pool->used_pages -= range->frames.frames;
    if (!sim_frames_append(&pool->kept, &range->frames))
        return sim_cn_left(CN_ERROR_SYSTEM_OUT_OF_MEMORY);
    range->frames = (struct sim_frames){0};
    give(range);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnMemPoolTrimTo(CNmemoryPool handle, size_t keep) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *pool = sim_cn_find(SIM_CN_POOL, handle);
    if (!pool)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    uint64_t page = pool->device->config->page_size;
    if ((pool->used_pages + pool->kept.frames) * page > keep)
        sim_cn_trim(pool->device);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnMemPoolGetAttribute(CNmemoryPool handle, int attribute, void *value) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *pool = sim_cn_find(SIM_CN_POOL, handle);
    if (!pool || !value)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    uint64_t pages = pool->used_pages;
    if (attribute == CN_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
        pages += pool->kept.frames;
    else if (attribute != CN_MEMPOOL_ATTR_USED_MEM_CURRENT)
        return sim_cn_left(CN_OPS_ERROR_NOT_SUPPORTED);
    uint64_t bytes = pages * pool->device->config->page_size;
    memcpy(value, &bytes, sizeof bytes);
    return sim_cn_left(CN_SUCCESS);
}
