/* Contexts: what they cost, which device they are on, and when they and all they hold are gone. */
#include "shim.h"

#include "shim/memory/shared.h"

#include <pthread.h>
#include <string.h>

/* Contexts alive at once that are told apart; a program with more shares the last place, whose
 * memory is then released call by call only. */
#define CONTEXTS 1024u

/* What a context has without asking: part of grant.context_bytes. */
#define DEFAULT_STACK 1024u
#define DEFAULT_HEAP (8ull << 20)
#define DEFAULT_FIFO (1ull << 20)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of everything here but `primary` */
static struct aliquot_context context[CONTEXTS];          /* [0] is never used */
static struct aliquot_table handles;                      /* CUcontext to index */
static struct aliquot_table greens;                       /* CUgreenCtx to ordinal + 1 */
static uint32_t attached_times[CONTEXTS];                 /* by cuCtxCreate and cuCtxAttach */
static pthread_mutex_t limit_mutex = PTHREAD_MUTEX_INITIALIZER;

/* The primary context of each device. The mutex is held over the driver's calls that make or end
 * it, so that only the first retain is charged. */
static struct {
    pthread_mutex_t mutex;
    uint16_t index; /* into `context`; 0: not active */
} primary[ALIQUOT_ORDINALS];

static _Atomic uint32_t alive; /* places of `context` in use */

/* Advanced whenever a context ends: what a thread remembers of its current context is void. */
static _Atomic uint32_t generation;

/* What a thread knows of its current context. Half of the 16 bytes of thread-local storage of the
 * whole shim; the other half is aliquot_self. */
static __thread struct {
    uint32_t generation;
    uint32_t index; /* 0: of none */
} last __attribute__((tls_model("initial-exec")));
static_assert(sizeof last <= 8, "static TLS is scarce");

static uint64_t image_pages(const struct aliquot_context *of) {
    return of->image ? aliquot_whole_pages((uint32_t)of->device, of->image) : 0;
}

/* Under `mutex`. Enters a context that was charged `base`; returns its index, 0 when full. */
static uint16_t enter(CUcontext handle, int device, CUdevice ordinal, bool is_primary,
                      uint64_t base, uint64_t image) {
    for (uint16_t i = 1; i < CONTEXTS; i++)
        if (!context[i].handle) {
            context[i] = (struct aliquot_context){.handle = handle,
                                                  .device = device,
                                                  .ordinal = ordinal,
                                                  .index = i,
                                                  .primary = is_primary,
                                                  .base = base,
                                                  .image = image};
            attached_times[i] = 1;
            atomic_fetch_add_explicit(&alive, 1, memory_order_relaxed);
            aliquot_table_put(&handles, (uintptr_t)handle, i);
            return i;
        }
    return 0;
}

static void ignore(uint64_t key, uint64_t value, uint64_t name, enum aliquot_tenancy tenancy,
                   void *argument) {
    (void)name;
    (void)key;
    (void)value;
    (void)tenancy;
    (void)argument;
}

/* The context has ended, and with it all that lived in it. */
static void gone(uint16_t index) {
    if (!index)
        return;
    aliquot_memory_context_gone(index);
    aliquot_modules_context_gone(index);
    aliquot_debts_context_gone(index);
    aliquot_shared_owner_gone(index);
    aliquot_graph_context_gone(index);
    pthread_mutex_lock(&mutex);
    struct aliquot_context *of = &context[index];
    if (of->device >= 0 && of->handle)
        aliquot_withdraw((uint32_t)of->device, of->base + image_pages(of));
    aliquot_pointer_sweep(&handles, UINT64_MAX, index, ignore, NULL);
    if (of->handle)
        atomic_fetch_sub_explicit(&alive, 1, memory_order_relaxed);
    memset(of, 0, sizeof *of);
    /* release: a thread that sees the old generation may use the old index, as before. */
    atomic_fetch_add_explicit(&generation, 1, memory_order_release);
    pthread_mutex_unlock(&mutex);
}

static bool primary_active(CUdevice ordinal) {
    unsigned flags;
    int active = 0;
    return REAL(cuDevicePrimaryCtxGetState)(ordinal, &flags, &active) == CUDA_SUCCESS && active;
}

static CUcontext primary_handle(CUdevice ordinal) {
    CUcontext handle = NULL;
    if (!primary_active(ordinal) ||
        REAL(cuDevicePrimaryCtxRetain)(&handle, ordinal) != CUDA_SUCCESS)
        return NULL;
    if (HAVE(cuDevicePrimaryCtxRelease_v2))
        REAL(cuDevicePrimaryCtxRelease_v2)(ordinal);
    else
        REAL(cuDevicePrimaryCtxRelease)(ordinal);
    return handle;
}

static bool context_device(CUcontext handle, CUdevice *ordinal) {
    CUcontext current = NULL, popped;
    REAL(cuCtxGetCurrent)(&current);
    if (current == handle)
        return REAL(cuCtxGetDevice)(ordinal) == CUDA_SUCCESS;
    if (REAL(cuCtxPushCurrent_v2)(handle) != CUDA_SUCCESS)
        return false;
    bool known = REAL(cuCtxGetDevice)(ordinal) == CUDA_SUCCESS;
    REAL(cuCtxPopCurrent_v2)(&popped);
    return known;
}

/* A context that the program has from elsewhere than our wrappers (a private table of the driver).
 * It exists: its cost is charged without asking. */
static uint32_t adopt(CUcontext handle) {
    CUdevice ordinal;
    if (!context_device(handle, &ordinal))
        return 0;
    bool is_primary = primary_handle(ordinal) == handle;
    int device = aliquot_device_index(ordinal);
    uint64_t index = 0, base = 0, image = 0, whole = 0;
    aliquot_libraries_hold();
    pthread_mutex_lock(&mutex);
    if (!aliquot_table_get(&handles, (uintptr_t)handle, &index)) {
        if (device >= 0) {
            base = aliquot_whole_pages((uint32_t)device,
                                       aliquot_slice.grant->device[device].context_bytes);
            image = aliquot_library_image_bytes();
            whole = base + aliquot_whole_pages((uint32_t)device, image);
            aliquot_charge_given((uint32_t)device, whole);
        }
        index = enter(handle, device, ordinal, is_primary, base, image);
        if (!index && device >= 0)
            aliquot_withdraw((uint32_t)device, whole);
        if (is_primary)
            primary[ordinal].index = (uint16_t)index;
    }
    pthread_mutex_unlock(&mutex);
    aliquot_libraries_drop();
    return (uint32_t)index;
}

static uint32_t index_of(CUcontext handle) {
    uint64_t index;
    return aliquot_table_get(&handles, (uintptr_t)handle, &index) ? (uint32_t)index : adopt(handle);
}

static const struct aliquot_context *remember(CUcontext handle, uint32_t now) {
    uint32_t index = index_of(handle);
    if (!index)
        return NULL;
    last.generation = now;
    last.index = index;
    return &context[index];
}

const struct aliquot_context *aliquot_context_current(void) {
    CUcontext handle = NULL;
    if (aliquot_ready() != CUDA_SUCCESS || REAL(cuCtxGetCurrent)(&handle) != CUDA_SUCCESS ||
        !handle)
        return NULL;
    /* acquire: pairs with the release in gone(). */
    uint32_t now = atomic_load_explicit(&generation, memory_order_acquire);
    /* The place is that of a context that lives, for it is current. (A green context has its
     * primary's, and is looked up.) */
    if (__builtin_expect(context[last.index].handle == handle && last.generation == now, 1))
        return &context[last.index];
    return remember(handle, now);
}

const struct aliquot_context *aliquot_context_of(CUcontext handle) {
    uint32_t index = handle ? index_of(handle) : 0;
    return index ? &context[index] : NULL;
}

bool aliquot_context_image(uint16_t index, int64_t bytes) {
    pthread_mutex_lock(&mutex);
    struct aliquot_context *of = &context[index];
    bool done = true;
    if (of->handle && of->device >= 0) {
        uint64_t before = image_pages(of), image = of->image;
        of->image += (uint64_t)bytes;
        uint64_t after = image_pages(of);
        if (after > before && !aliquot_charge((uint32_t)of->device, after - before)) {
            of->image = image;
            done = false;
        } else if (after < before)
            aliquot_withdraw((uint32_t)of->device, before - after);
    }
    pthread_mutex_unlock(&mutex);
    return done;
}

uint32_t aliquot_context_count(void) {
    /* relaxed: whoever asks has a context, and answers for those that it makes meanwhile. */
    return atomic_load_explicit(&alive, memory_order_relaxed);
}

void aliquot_context_each(void (*visit)(uint16_t index, void *argument), void *argument) {
    for (uint16_t i = 1; i < CONTEXTS; i++) {
        pthread_mutex_lock(&mutex);
        bool alive = context[i].handle != NULL;
        pthread_mutex_unlock(&mutex);
        if (alive)
            visit(i, argument);
    }
}

/* -- Making and ending ------------------------------------------------------------------------ */

struct creation {
    CUdevice ordinal;
    int device;
    uint64_t base, image;
    bool charged;
};

/* Charges a context that is about to be made; finish() must follow. Not ready: the driver will say why. */
static CUresult begin(CUdevice ordinal, struct creation *creation) {
    *creation = (struct creation){.ordinal = ordinal, .device = -1};
    CUresult ready = aliquot_ready();
    if (ready != CUDA_SUCCESS)
        return ready == CUDA_ERROR_NOT_INITIALIZED ? CUDA_SUCCESS : ready;
    int count = 0;
    if (ordinal < 0 || REAL(cuDeviceGetCount)(&count) != CUDA_SUCCESS || ordinal >= count)
        return CUDA_SUCCESS;
    creation->device = aliquot_device_index(ordinal);
    if (creation->device < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint32_t device = (uint32_t)creation->device;
    aliquot_libraries_hold();
    creation->image = aliquot_library_image_bytes();
    creation->base = aliquot_whole_pages(device, aliquot_slice.grant->device[device].context_bytes);
    creation->charged =
        aliquot_charge(device, creation->base + aliquot_whole_pages(device, creation->image));
    if (!creation->charged)
        aliquot_libraries_drop();
    return creation->charged ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static void cancel(const struct creation *creation) {
    uint32_t device = (uint32_t)creation->device;
    aliquot_withdraw(device, creation->base + aliquot_whole_pages(device, creation->image));
}

static uint16_t finish(const struct creation *creation, CUresult result, CUcontext handle,
                       bool is_primary) {
    if (!creation->charged)
        return 0;
    uint16_t index = 0;
    uint64_t stale;
    if (result == CUDA_SUCCESS) {
        if (aliquot_table_get(&handles, (uintptr_t)handle, &stale))
            gone((uint16_t)stale);
        pthread_mutex_lock(&mutex);
        index = enter(handle, creation->device, creation->ordinal, is_primary, creation->base,
                      creation->image);
        pthread_mutex_unlock(&mutex);
    }
    aliquot_libraries_drop();
    if (result != CUDA_SUCCESS)
        cancel(creation);
    return index;
}

static CUresult created(const struct creation *creation, CUresult result, CUcontext *handle) {
    finish(creation, result, result == CUDA_SUCCESS ? *handle : NULL, false);
    return result;
}

CUresult aliquot_cuCtxCreate(CUcontext *handle, unsigned int flags, CUdevice ordinal) {
    struct creation creation;
    CUresult result = begin(ordinal, &creation);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuCtxCreate)(handle, flags, ordinal));
    return created(&creation, result, handle);
}

CUresult aliquot_cuCtxCreate_v2(CUcontext *handle, unsigned int flags, CUdevice ordinal) {
    struct creation creation;
    CUresult result = begin(ordinal, &creation);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuCtxCreate_v2)(handle, flags, ordinal));
    return created(&creation, result, handle);
}

CUresult aliquot_cuCtxCreate_v3(CUcontext *handle, CUexecAffinityParam *parameters, int count,
                                unsigned int flags, CUdevice ordinal) {
    struct creation creation;
    CUresult result = begin(ordinal, &creation);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuCtxCreate_v3)(handle, parameters, count, flags, ordinal));
    return created(&creation, result, handle);
}

CUresult aliquot_cuCtxCreate_v4(CUcontext *handle, CUctxCreateParams *parameters,
                                unsigned int flags, CUdevice ordinal) {
    struct creation creation;
    CUresult result = begin(ordinal, &creation);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuCtxCreate_v4)(handle, parameters, flags, ordinal));
    return created(&creation, result, handle);
}

/* Ends a context by `end`. Its handle leaves the table first: the driver may give the same address
 * to a context that another thread makes at once. */
static CUresult destroy(CUcontext handle, CUresult (*end)(CUcontext)) {
    uint64_t index = 0;
    if (!handle || aliquot_ready() != CUDA_SUCCESS ||
        !aliquot_table_take(&handles, (uintptr_t)handle, &index))
        return end(handle);
    aliquot_marks_context_leaves(handle);
    CUresult result = end(handle);
    aliquot_marks_context_left(handle, result == CUDA_SUCCESS);
    if (result == CUDA_SUCCESS)
        gone((uint16_t)index);
    else
        aliquot_table_put(&handles, (uintptr_t)handle, index);
    return result;
}

CUresult aliquot_cuCtxDestroy(CUcontext handle) { return destroy(handle, REAL(cuCtxDestroy)); }

CUresult aliquot_cuCtxDestroy_v2(CUcontext handle) {
    return destroy(handle, REAL(cuCtxDestroy_v2));
}

CUresult aliquot_cuCtxAttach(CUcontext *handle, unsigned int flags) {
    CUresult result = REAL(cuCtxAttach)(handle, flags);
    uint64_t index;
    if (result == CUDA_SUCCESS && aliquot_table_get(&handles, (uintptr_t)*handle, &index)) {
        pthread_mutex_lock(&mutex);
        attached_times[index]++;
        pthread_mutex_unlock(&mutex);
    }
    return result;
}

CUresult aliquot_cuCtxDetach(CUcontext handle) {
    uint64_t index;
    aliquot_marks_context_leaves(handle);
    CUresult result = REAL(cuCtxDetach)(handle);
    if (result != CUDA_SUCCESS || !aliquot_table_get(&handles, (uintptr_t)handle, &index)) {
        aliquot_marks_context_left(handle, false);
        return result;
    }
    pthread_mutex_lock(&mutex);
    bool ended = --attached_times[index] == 0;
    pthread_mutex_unlock(&mutex);
    aliquot_marks_context_left(handle, ended);
    if (ended)
        gone((uint16_t)index);
    return result;
}

/* -- Primary contexts ------------------------------------------------------------------------- */

static pthread_mutex_t *primary_mutex(CUdevice ordinal) {
    return ordinal >= 0 && ordinal < ALIQUOT_ORDINALS && aliquot_ready() == CUDA_SUCCESS
               ? &primary[ordinal].mutex
               : NULL;
}

/* Under the primary's mutex: charges its creation unless it is active. */
static CUresult primary_begin(CUdevice ordinal, struct creation *creation) {
    *creation = (struct creation){.ordinal = ordinal, .device = -1};
    return primary_active(ordinal) ? CUDA_SUCCESS : begin(ordinal, creation);
}

/* Under the primary's mutex: books what became of it. */
static void primary_finish(const struct creation *creation, CUresult result, CUcontext handle) {
    CUdevice ordinal = creation->ordinal;
    if (creation->charged) {
        if (result == CUDA_SUCCESS && !handle)
            handle = primary_handle(ordinal);
        primary[ordinal].index =
            finish(creation, handle ? result : CUDA_ERROR_UNKNOWN, handle, true);
    } else if (result == CUDA_SUCCESS && handle)
        index_of(handle);
}

static void primary_ended(CUdevice ordinal) {
    uint16_t index = primary[ordinal].index;
    if (index && !primary_active(ordinal)) {
        primary[ordinal].index = 0;
        gone(index);
    }
}

CUresult aliquot_cuDevicePrimaryCtxRetain(CUcontext *handle, CUdevice ordinal) {
    pthread_mutex_t *held = primary_mutex(ordinal);
    if (!held)
        return REAL(cuDevicePrimaryCtxRetain)(handle, ordinal);
    struct creation creation;
    pthread_mutex_lock(held);
    CUresult result = primary_begin(ordinal, &creation);
    if (result == CUDA_SUCCESS) {
        ALIQUOT_RETRY(result, REAL(cuDevicePrimaryCtxRetain)(handle, ordinal));
        primary_finish(&creation, result, result == CUDA_SUCCESS ? *handle : NULL);
    }
    pthread_mutex_unlock(held);
    return result;
}

/* `reset`: the context ends whoever still retains it. */
static CUresult primary_end(CUdevice ordinal, CUresult (*end)(CUdevice), bool reset) {
    pthread_mutex_t *held = primary_mutex(ordinal);
    if (!held)
        return end(ordinal);
    pthread_mutex_lock(held);
    CUcontext handle = context[primary[ordinal].index].handle;
    aliquot_marks_context_leaves(handle);
    CUresult result = end(ordinal);
    aliquot_marks_context_left(handle,
                               result == CUDA_SUCCESS && (reset || !primary_active(ordinal)));
    primary_ended(ordinal);
    pthread_mutex_unlock(held);
    return result;
}

CUresult aliquot_cuDevicePrimaryCtxRelease(CUdevice ordinal) {
    return primary_end(ordinal, REAL(cuDevicePrimaryCtxRelease), false);
}

CUresult aliquot_cuDevicePrimaryCtxRelease_v2(CUdevice ordinal) {
    return primary_end(ordinal, REAL(cuDevicePrimaryCtxRelease_v2), false);
}

CUresult aliquot_cuDevicePrimaryCtxReset(CUdevice ordinal) {
    return primary_end(ordinal, REAL(cuDevicePrimaryCtxReset), true);
}

CUresult aliquot_cuDevicePrimaryCtxReset_v2(CUdevice ordinal) {
    return primary_end(ordinal, REAL(cuDevicePrimaryCtxReset_v2), true);
}

/* -- Green contexts: parts of the primary one, which they keep alive ---------------------------- */

CUresult aliquot_cuGreenCtxCreate(CUgreenCtx *green, CUdevResourceDesc resources, CUdevice ordinal,
                                  unsigned int flags) {
    pthread_mutex_t *held = primary_mutex(ordinal);
    if (!held)
        return REAL(cuGreenCtxCreate)(green, resources, ordinal, flags);
    struct creation creation;
    pthread_mutex_lock(held);
    CUresult result = primary_begin(ordinal, &creation);
    if (result == CUDA_SUCCESS) {
        ALIQUOT_RETRY(result, REAL(cuGreenCtxCreate)(green, resources, ordinal, flags));
        primary_finish(&creation, result, NULL);
        if (result == CUDA_SUCCESS)
            aliquot_table_put(&greens, (uintptr_t)*green, (uint64_t)ordinal + 1);
    }
    pthread_mutex_unlock(held);
    return result;
}

CUresult aliquot_cuGreenCtxDestroy(CUgreenCtx green) {
    uint64_t value;
    if (!green || aliquot_ready() != CUDA_SUCCESS ||
        !aliquot_table_take(&greens, (uintptr_t)green, &value))
        return REAL(cuGreenCtxDestroy)(green);
    CUdevice ordinal = (CUdevice)value - 1;
    CUcontext handle = NULL;
    uint64_t index;
    pthread_mutex_lock(&primary[ordinal].mutex);
    /* Its handle as a context may be the next one's. */
    bool known = REAL(cuCtxFromGreenCtx)(&handle, green) == CUDA_SUCCESS &&
                 aliquot_table_take(&handles, (uintptr_t)handle, &index);
    aliquot_marks_context_leaves(handle);
    CUresult result = REAL(cuGreenCtxDestroy)(green);
    aliquot_marks_context_left(handle, result == CUDA_SUCCESS);
    if (result == CUDA_SUCCESS) {
        atomic_fetch_add_explicit(&generation, 1, memory_order_release);
        primary_ended(ordinal);
    } else {
        aliquot_table_put(&greens, (uintptr_t)green, value);
        if (known)
            aliquot_table_put(&handles, (uintptr_t)handle, index);
    }
    pthread_mutex_unlock(&primary[ordinal].mutex);
    return result;
}

CUresult aliquot_cuCtxFromGreenCtx(CUcontext *handle, CUgreenCtx green) {
    CUresult result = REAL(cuCtxFromGreenCtx)(handle, green);
    uint64_t value;
    if (result == CUDA_SUCCESS && aliquot_table_get(&greens, (uintptr_t)green, &value)) {
        uint16_t index = primary[value - 1].index;
        /* What is allocated under it belongs to the primary context. */
        if (index)
            aliquot_table_put(&handles, (uintptr_t)*handle, index);
    }
    return result;
}

/* -- Limits ----------------------------------------------------------------------------------- */

/* Device memory that a limit takes beyond what a new context has, bytes. */
static uint64_t limit_bytes(const struct aliquot_context *of, CUlimit limit, size_t value) {
    uint64_t base, factor = 1;
    int processors = 0, threads = 0;
    switch (limit) {
    case CU_LIMIT_STACK_SIZE:
        base = DEFAULT_STACK;
        REAL(cuDeviceGetAttribute)
        (&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, of->ordinal);
        REAL(cuDeviceGetAttribute)
        (&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, of->ordinal);
        factor = (uint64_t)processors * (uint64_t)threads;
        break;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        base = DEFAULT_HEAP;
        break;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
        base = DEFAULT_FIFO;
        break;
    default:
        return 0;
    }
    uint64_t bytes;
    if (value <= base)
        return 0;
    if (__builtin_mul_overflow(value - base, factor, &bytes) || bytes >> 52)
        return 1ull << 52;
    return aliquot_whole_pages((uint32_t)of->device, bytes);
}

CUresult aliquot_cuCtxSetLimit(CUlimit limit, size_t value) {
    const struct aliquot_context *of = aliquot_context_current();
    if (!of || of->device < 0)
        return REAL(cuCtxSetLimit)(limit, value);
    uint32_t device = (uint32_t)of->device;
    pthread_mutex_lock(&limit_mutex);
    size_t now = 0;
    CUresult result = REAL(cuCtxGetLimit)(&now, limit);
    if (result != CUDA_SUCCESS) {
        pthread_mutex_unlock(&limit_mutex);
        return REAL(cuCtxSetLimit)(limit, value);
    }
    uint64_t before = limit_bytes(of, limit, now), wanted = limit_bytes(of, limit, value);
    uint64_t charged = wanted > before ? wanted - before : 0;
    if (charged && !aliquot_charge(device, charged))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else {
        ALIQUOT_RETRY(result, REAL(cuCtxSetLimit)(limit, value));
        /* The driver may have rounded, or refused. */
        size_t then = now;
        REAL(cuCtxGetLimit)(&then, limit);
        uint64_t after = limit_bytes(of, limit, then);
        if (after > before + charged)
            aliquot_charge_given(device, after - before - charged);
        else if (after < before + charged)
            aliquot_withdraw(device, before + charged - after);
        pthread_mutex_lock(&mutex);
        context[of->index].base += after - before;
        pthread_mutex_unlock(&mutex);
    }
    pthread_mutex_unlock(&limit_mutex);
    return result;
}

void aliquot_context_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    pthread_mutex_init(&limit_mutex, NULL);
    for (unsigned i = 0; i < ALIQUOT_ORDINALS; i++) {
        pthread_mutex_init(&primary[i].mutex, NULL);
        primary[i].index = 0;
    }
    memset(context, 0, sizeof context);
    aliquot_table_reset(&handles);
    aliquot_table_reset(&greens);
    atomic_fetch_add_explicit(&generation, 1, memory_order_release);
}
