/* A program that gets and gives device memory at random by every call, in several threads, for as
 * long as it is let: `sim_stress SEED THREADS SECONDS`. With SECONDS 0 it goes on until it is
 * killed. Prints "up" when the threads run. At its end it frees everything and prints how often an
 * allocation was refused, and what the device says is used beside the context. */
#include <cuda.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(call)                                                                                \
    do {                                                                                           \
        CUresult check_result = (call);                                                            \
        if (check_result != CUDA_SUCCESS && check_result != CUDA_ERROR_OUT_OF_MEMORY) {            \
            fprintf(stderr, "%s:%d: %s answered %d\n", __FILE__, __LINE__, #call, check_result);   \
            _exit(2);                                                                              \
        }                                                                                          \
    } while (0)

enum kind { NOTHING, LINEAR, MANAGED, ASYNC, POOLED, PHYSICAL, MAPPED, ARRAY, KINDS };
enum { HELD = 48, PAGE = 2 << 20 };

struct item {
    enum kind kind;
    CUdeviceptr pointer;
    size_t bytes;
    CUmemGenericAllocationHandle handle;
    CUarray array;
};

static CUcontext context;
static CUmemoryPool pool;
static time_t end;
static unsigned long refused; /* atomic */

static unsigned next(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static size_t size_of(unsigned *state) {
    switch (next(state) % 4) {
    case 0:
        return 1 + next(state) % 4096;
    case 1:
        return 1 + next(state) % (1 << 20);
    default:
        return 1 + next(state) % (12 << 20);
    }
}

static CUresult get(struct item *item, unsigned *state) {
    CUmemAllocationProp prop;
    CUDA_ARRAY3D_DESCRIPTOR desc;
    CUmemAccessDesc access;
    CUresult result;
    item->bytes = size_of(state);
    switch (item->kind) {
    case LINEAR:
        return cuMemAlloc(&item->pointer, item->bytes);
    case MANAGED:
        return cuMemAllocManaged(&item->pointer, item->bytes, CU_MEM_ATTACH_GLOBAL);
    case ASYNC:
        return cuMemAllocAsync(&item->pointer, item->bytes, NULL);
    case POOLED:
        return cuMemAllocFromPoolAsync(&item->pointer, item->bytes, pool, CU_STREAM_PER_THREAD);
    case ARRAY:
        memset(&desc, 0, sizeof desc);
        desc.Width = 1 + next(state) % 1000;
        desc.Height = next(state) % 1000;
        desc.Format = CU_AD_FORMAT_FLOAT;
        desc.NumChannels = 1;
        return cuArray3DCreate(&item->array, &desc);
    default:
        break;
    }
    memset(&prop, 0, sizeof prop);
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    item->bytes = (item->bytes + PAGE - 1) / PAGE * PAGE;
    result = cuMemCreate(&item->handle, item->bytes, &prop, 0);
    if (result != CUDA_SUCCESS || item->kind == PHYSICAL)
        return result;
    memset(&access, 0, sizeof access);
    access.location = prop.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    CHECK(cuMemAddressReserve(&item->pointer, item->bytes, 0, 0, 0));
    CHECK(cuMemMap(item->pointer, item->bytes, 0, item->handle, 0));
    CHECK(cuMemSetAccess(item->pointer, item->bytes, &access, 1));
    return cuMemRelease(item->handle);
}

static void give(struct item *item, unsigned *state) {
    switch (item->kind) {
    case LINEAR:
    case MANAGED:
        CHECK(cuMemFree(item->pointer));
        break;
    case ASYNC:
    case POOLED:
        CHECK(next(state) % 2 ? cuMemFree(item->pointer) : cuMemFreeAsync(item->pointer, NULL));
        break;
    case PHYSICAL:
        CHECK(cuMemRelease(item->handle));
        break;
    case MAPPED:
        CHECK(cuMemUnmap(item->pointer, item->bytes));
        CHECK(cuMemAddressFree(item->pointer, item->bytes));
        break;
    case ARRAY:
        CHECK(cuArrayDestroy(item->array));
        break;
    default:
        break;
    }
    item->kind = NOTHING;
}

/* Writes what it holds and finds it again: pages that two held would show. */
static void mark(const struct item *item, unsigned *state) {
    if (item->kind == NOTHING || item->kind == PHYSICAL || item->kind == ARRAY)
        return;
    unsigned there, mark = next(state);
    CUdeviceptr at = item->pointer + (item->bytes - 1) / 4 * 4;
    if (item->bytes < 4)
        return;
    at = item->pointer + (next(state) % (item->bytes / 4)) * 4;
    CHECK(cuMemcpyHtoD(at, &mark, sizeof mark));
    CHECK(cuMemcpyDtoH(&there, at, sizeof there));
    if (there != mark) {
        fprintf(stderr, "somebody else wrote what is ours\n");
        _exit(2);
    }
}

static void *work(void *argument) {
    unsigned state = *(unsigned *)argument;
    struct item items[HELD] = {0};
    CHECK(cuCtxSetCurrent(context));
    while (!end || time(NULL) < end) {
        struct item *item = &items[next(&state) % HELD];
        if (item->kind != NOTHING) {
            mark(item, &state);
            give(item, &state);
            continue;
        }
        item->kind = (enum kind)(LINEAR + next(&state) % (KINDS - LINEAR));
        CUresult result = get(item, &state);
        CHECK(result);
        if (result != CUDA_SUCCESS) {
            __atomic_fetch_add(&refused, 1, __ATOMIC_RELAXED);
            item->kind = NOTHING;
        } else {
            mark(item, &state);
        }
        if (next(&state) % 64 == 0)
            CHECK(cuCtxSynchronize());
    }
    for (int i = 0; i < HELD; i++)
        give(&items[i], &state);
    return NULL;
}

int main(int count, char **arguments) {
    enum { THREADS_MAX = 64 };
    pthread_t threads[THREADS_MAX];
    unsigned seeds[THREADS_MAX];
    size_t free_before, free_after, total;
    CUmemPoolProps props;
    if (count != 4)
        return 1;
    int thread_count = atoi(arguments[2]);
    end = atoi(arguments[3]) ? time(NULL) + atoi(arguments[3]) : 0;
    CHECK(cuInit(0));
    /* The others may have taken everything: they give it back as they go on. */
    while (cuDevicePrimaryCtxRetain(&context, 0) == CUDA_ERROR_OUT_OF_MEMORY)
        usleep(1000);
    CHECK(cuCtxSetCurrent(context));
    memset(&props, 0, sizeof props);
    props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    CHECK(cuMemPoolCreate(&pool, &props));
    CHECK(cuMemGetInfo(&free_before, &total));
    for (int t = 0; t < thread_count && t < THREADS_MAX; t++) {
        seeds[t] = (unsigned)atoi(arguments[1]) * 64u + (unsigned)t;
        pthread_create(&threads[t], NULL, work, &seeds[t]);
    }
    printf("up\n");
    fflush(stdout);
    for (int t = 0; t < thread_count && t < THREADS_MAX; t++)
        pthread_join(threads[t], NULL);
    CHECK(cuCtxSynchronize());
    CHECK(cuMemPoolDestroy(pool));
    CHECK(cuMemGetInfo(&free_after, &total));
    printf("refused %lu\n", refused);
    return 0;
}
