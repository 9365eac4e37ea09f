/* Linear memory, pools and arrays. */
#include "tenant_cuda.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* -- Conveniences ------------------------------------------------------------------------------- */

static void CUDA_CB nap(void *argument) {
    struct timespec pause = {0, (long)(uintptr_t)argument};
    nanosleep(&pause, NULL);
}

void delay(CUstream stream, uint64_t dice) {
    MUST(cu.cuLaunchHostFunc(stream, nap, (void *)(uintptr_t)(10000 + roll(&dice, 200000))));
}

void free_somehow(CUdeviceptr pointer, uint64_t *dice) {
    switch (roll(dice, 5)) {
    case 0:
        MUST(cu.cuMemFreeAsync(pointer, NULL));
        break;
    case 1: {
        CUstream stream = cuda.stream[roll(dice, 2)];
        delay(stream, *dice);
        MUST(cu.cuMemFreeAsync(pointer, stream));
        break;
    }
    case 2:
        MUST(cu.cuMemFreeAsync_ptsz(pointer, NULL));
        break;
    default:
        MUST(cu.cuMemFree_v2(pointer));
    }
}

/* -- Linear: one allocation by cuMemAlloc and its kin --------------------------------------------- */

static int linear_get(struct thing *thing, uint64_t size, uint64_t dice) {
    (void)dice;
    CUresult result = cu.cuMemAlloc_v2(&thing->pointer[0], size);
    if (result == CUDA_SUCCESS)
        mark(thing->pointer[0], size);
    return result;
}

static int pitch_get(struct thing *thing, uint64_t size, uint64_t dice) {
    size_t pitch = 0, height = 1 + roll(&dice, 64);
    size_t width = size / height ? size / height : 1;
    CUresult result =
        cu.cuMemAllocPitch_v2(&thing->pointer[0], &pitch, width, height, 4u << roll(&dice, 3));
    if (result == CUDA_SUCCESS && pitch < width)
        fail("a pitch of %zu for rows of %zu bytes", pitch, width);
    thing->size = pitch * height;
    if (result == CUDA_SUCCESS)
        mark(thing->pointer[0], thing->size);
    return result;
}

static int managed_get(struct thing *thing, uint64_t size, uint64_t dice) {
    (void)dice;
    CUresult result = cu.cuMemAllocManaged(&thing->pointer[0], size, CU_MEM_ATTACH_GLOBAL);
    if (result == CUDA_SUCCESS)
        mark(thing->pointer[0], size);
    return result;
}

static int linear_send(struct thing *thing) {
    struct letter letter = {.kind = LETTER_IPC, .size = thing->size, .number = -1, .fd = -1};
    CUipcMemHandle handle;
    MUST(cu.cuIpcGetMemHandle(&handle, thing->pointer[0]));
    memcpy(letter.key, &handle, sizeof handle);
    thing->flag[0] = true;
    post(&letter);
    return CUDA_SUCCESS;
}

static int linear_poke(struct thing *thing, uint64_t dice) {
    check_mark(thing->pointer[0], thing->size);
    return roll(&dice, 2) ? linear_send(thing) : CUDA_SUCCESS;
}

static int managed_poke(struct thing *thing, uint64_t dice) {
    (void)dice;
    check_mark(thing->pointer[0], thing->size);
    return CUDA_SUCCESS;
}

static void linear_give(struct thing *thing, uint64_t dice) {
    if (!thing->flag[0]) /* others may write what they were shown */
        check_mark(thing->pointer[0], thing->size);
    free_somehow(thing->pointer[0], &dice);
}

/* Managed memory is not freed in stream order. */
static void managed_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    check_mark(thing->pointer[0], thing->size);
    MUST(cu.cuMemFree_v2(thing->pointer[0]));
}

/* -- Host memory: takes nothing of the device ------------------------------------------------------ */

static int pinned_get(struct thing *thing, uint64_t size, uint64_t dice) {
    (void)dice;
    return cu.cuMemHostAlloc(&thing->object[0], size < MIB ? size : MIB, CU_MEMHOSTALLOC_DEVICEMAP);
}

static void pinned_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cu.cuMemFreeHost(thing->object[0]));
}

/* -- Stream-ordered memory from the default pool --------------------------------------------------- */

static int async_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUstream stream = cuda.stream[roll(&dice, 2)];
    CUresult result;
    switch (roll(&dice, 3)) {
    case 0:
        result = cu.cuMemAllocAsync(&thing->pointer[0], size, NULL);
        break;
    case 1:
        result = cu.cuMemAllocAsync(&thing->pointer[0], size, stream);
        if (result == CUDA_SUCCESS)
            MUST(cu.cuStreamSynchronize(stream));
        break;
    default:
        result = cu.cuMemAllocAsync_ptsz(&thing->pointer[0], size, NULL);
        if (result == CUDA_SUCCESS)
            MUST(cu.cuStreamSynchronize_ptsz(NULL));
    }
    if (result == CUDA_SUCCESS)
        mark(thing->pointer[0], size);
    return result;
}

static int async_poke(struct thing *thing, uint64_t dice) {
    cuuint64_t threshold = roll(&dice, 2) ? 64 * MIB : 0;
    check_mark(thing->pointer[0], thing->size);
    switch (roll(&dice, 4)) {
    case 0:
        MUST(cu.cuMemPoolSetAttribute(cuda.pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
        break;
    case 1:
        MUST(cu.cuMemPoolTrimTo(cuda.pool, 0));
        break;
    case 2:
        MUST(cu.cuStreamSynchronize(cuda.stream[0]));
        break;
    default:
        break;
    }
    return CUDA_SUCCESS;
}

static void async_give(struct thing *thing, uint64_t dice) {
    check_mark(thing->pointer[0], thing->size);
    free_somehow(thing->pointer[0], &dice);
}

/* -- A pool of its own: pieces come and go; it may be destroyed before they do ---------------------- */

static int piece_get(struct thing *thing, uint64_t size, uint64_t *dice) {
    CUdeviceptr *pointer = &thing->pointer[thing->count];
    if (thing->count == PIECES || !thing->object[0])
        return CUDA_SUCCESS;
    CUresult result = roll(dice, 3)
                          ? cu.cuMemAllocFromPoolAsync(pointer, size, thing->object[0], NULL)
                          : cu.cuMemAllocFromPoolAsync_ptsz(pointer, size, thing->object[0], NULL);
    if (result == CUDA_SUCCESS)
        thing->count++;
    return result;
}

static int pool_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUmemPoolProps properties = {
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda.device},
    };
    cuuint64_t threshold[] = {0, 16 * MIB, UINT64_MAX};
    CUmemoryPool pool;
    thing->flag[0] = roll(&dice, 3) == 0;
    if (thing->flag[0])
        properties.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    CUresult result = cu.cuMemPoolCreate(&pool, &properties);
    if (result != CUDA_SUCCESS)
        return result;
    MUST(cu.cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                                  &threshold[roll(&dice, 3)]));
    thing->object[0] = pool;
    result = piece_get(thing, size, &dice);
    if (result != CUDA_SUCCESS)
        MUST(cu.cuMemPoolDestroy(pool));
    return result;
}

static void check_pool(CUmemoryPool pool) {
    cuuint64_t reserved = 0, used = 0, most = 0;
    /* Others allocate meanwhile: only what holds in this order of looking. */
    MUST(cu.cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    MUST(cu.cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved));
    MUST(cu.cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &most));
    if (used > reserved || reserved > most)
        fail("a pool uses %llu bytes of %llu, at most %llu", (unsigned long long)used,
             (unsigned long long)reserved, (unsigned long long)most);
}

static int pool_poke(struct thing *thing, uint64_t dice) {
    CUmemoryPool pool = thing->object[0];
    if (!pool)
        return CUDA_SUCCESS;
    check_pool(pool);
    switch (roll(&dice, 6)) {
    case 0:
        return piece_get(thing, thing->size, &dice);
    case 1:
        return piece_get(thing, 1 + thing->size / 16, &dice);
    case 2:
        if (thing->count > 1)
            free_somehow(thing->pointer[--thing->count], &dice);
        break;
    case 3:
        MUST(cu.cuMemPoolTrimTo(pool, roll(&dice, 3) * 8 * MIB));
        break;
    case 4:
        MUST(cu.cuMemPoolDestroy(pool));
        thing->object[0] = NULL;
        break;
    default:
        break;
    }
    return CUDA_SUCCESS;
}

/* The first piece. The other process must give it back before this one does. */
static int pool_send(struct thing *thing) {
    struct letter letter = {.kind = LETTER_POOL, .size = thing->size, .number = -1, .fd = -1};
    CUmemPoolPtrExportData piece;
    if (!thing->flag[0] || !thing->count || !thing->object[0])
        return ABSENT;
    MUST(cu.cuMemPoolExportToShareableHandle(&letter.fd, thing->object[0],
                                             CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    MUST(cu.cuMemPoolExportPointer(&piece, thing->pointer[0]));
    memcpy(letter.key, &piece, sizeof piece);
    post(&letter);
    return CUDA_SUCCESS;
}

static void pool_give(struct thing *thing, uint64_t dice) {
    if (thing->object[0] && roll(&dice, 2)) {
        MUST(cu.cuMemPoolDestroy(thing->object[0]));
        thing->object[0] = NULL;
    }
    while (thing->count)
        free_somehow(thing->pointer[--thing->count], &dice);
    if (thing->object[0])
        MUST(cu.cuMemPoolDestroy(thing->object[0]));
}

/* -- Arrays ------------------------------------------------------------------------------------------ */

static const CUarray_format formats[] = {CU_AD_FORMAT_UNSIGNED_INT8, CU_AD_FORMAT_HALF,
                                         CU_AD_FORMAT_FLOAT};
static const unsigned format_bytes[] = {1, 2, 4};

/* The largest texture that hardware has in one direction. */
static size_t at_most(size_t value, size_t limit) {
    return value < 1 ? 1 : value > limit ? limit : value;
}

static int flat_array_get(struct thing *thing, uint64_t size, uint64_t dice) {
    unsigned format = roll(&dice, 3), channels = 1u << roll(&dice, 3);
    size_t elements = size / (format_bytes[format] * channels);
    CUDA_ARRAY_DESCRIPTOR what = {.Format = formats[format], .NumChannels = channels};
    if (roll(&dice, 2))
        what.Width = at_most(elements, 65536);
    else {
        what.Height = at_most(elements / 4096, 32768);
        what.Width = at_most(elements / what.Height, 65536);
    }
    return cu.cuArrayCreate_v2((CUarray *)&thing->object[0], &what);
}

static CUDA_ARRAY3D_DESCRIPTOR deep(uint64_t size, uint64_t *dice) {
    unsigned format = roll(dice, 3), channels = 1u << roll(dice, 3), shape = roll(dice, 4);
    size_t elements = size / (format_bytes[format] * channels);
    CUDA_ARRAY3D_DESCRIPTOR what = {.Format = formats[format], .NumChannels = channels};
    what.Depth = 1 + roll(dice, 15);
    if (shape == 0) /* a volume */
        what.Height = at_most(elements / what.Depth / 512, 2048);
    else if (shape == 1) { /* layers of lines */
        what.Flags = CUDA_ARRAY3D_LAYERED;
        what.Width = at_most(elements / what.Depth, 16384);
        return what;
    } else if (shape == 2) { /* layers of images */
        what.Flags = CUDA_ARRAY3D_LAYERED;
        what.Height = at_most(elements / what.Depth / 512, 16384);
    } else { /* a cube */
        what.Flags = CUDA_ARRAY3D_CUBEMAP;
        what.Depth = 6;
        what.Width = what.Height = at_most(elements / 6 / 512, 1024);
        return what;
    }
    what.Width = at_most(elements / what.Depth / what.Height, 2048);
    return what;
}

static int deep_array_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUDA_ARRAY3D_DESCRIPTOR what = deep(size, &dice);
    return cu.cuArray3DCreate_v2((CUarray *)&thing->object[0], &what);
}

static void array_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cu.cuArrayDestroy(thing->object[0]));
}

static int mipmap_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUDA_ARRAY3D_DESCRIPTOR what = deep(size, &dice);
    size_t most = what.Width > what.Height ? what.Width : what.Height;
    if (!(what.Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) && what.Depth > most)
        most = what.Depth;
    unsigned levels = 1;
    while (most >>= 1)
        levels++;
    return cu.cuMipmappedArrayCreate((CUmipmappedArray *)&thing->object[0], &what,
                                     1 + roll(&dice, levels));
}

static int mipmap_poke(struct thing *thing, uint64_t dice) {
    CUarray level;
    (void)dice;
    /* A level is part of it and costs nothing. */
    MUST(cu.cuMipmappedArrayGetLevel(&level, thing->object[0], 0));
    return CUDA_SUCCESS;
}

static void mipmap_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cu.cuMipmappedArrayDestroy(thing->object[0]));
}

const struct kind linear_kinds[] = {
    {"linear", linear_get, linear_poke, linear_give, true, linear_send, false},
    {"pitch", pitch_get, linear_poke, linear_give, true, linear_send, false},
    {"managed", managed_get, managed_poke, managed_give, true, NULL, false},
    {"pinned", pinned_get, nothing_poke, pinned_give, true, NULL, false},
    {"async", async_get, async_poke, async_give, false, NULL, false},
    {"pool", pool_get, pool_poke, pool_give, false, pool_send, false},
    {"array", flat_array_get, nothing_poke, array_give, true, NULL, false},
    {"deep", deep_array_get, nothing_poke, array_give, true, NULL, false},
    {"mipmap", mipmap_get, mipmap_poke, mipmap_give, true, NULL, false},
    {0},
};
