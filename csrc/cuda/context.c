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

static CUresult primary_active(CUdevice ordinal, bool *active) {
    unsigned flags;
    int state = 0;
    CUresult result = REAL(cuDevicePrimaryCtxGetState)(ordinal, &flags, &state);
    *active = state != 0;
    return result;
}

/* NULL: it is not active. */
static CUresult primary_handle(CUdevice ordinal, CUcontext *handle) {
    bool active;
    *handle = NULL;
    CUresult result = primary_active(ordinal, &active);
    if (result != CUDA_SUCCESS || !active)
        return result;
    result = REAL(cuDevicePrimaryCtxRetain)(handle, ordinal);
    if (result != CUDA_SUCCESS)
        return result;
    if (HAVE(cuDevicePrimaryCtxRelease_v2))
        REAL(cuDevicePrimaryCtxRelease_v2)(ordinal);
    else
        REAL(cuDevicePrimaryCtxRelease)(ordinal);
    return result;
}

static CUresult context_device(CUcontext handle, CUdevice *ordinal) {
    CUcontext current = NULL, popped;
    REAL(cuCtxGetCurrent)(&current);
    if (current == handle)
        return REAL(cuCtxGetDevice)(ordinal);
    CUresult result = REAL(cuCtxPushCurrent_v2)(handle);
    if (result != CUDA_SUCCESS)
        return result;
    result = REAL(cuCtxGetDevice)(ordinal);
    REAL(cuCtxPopCurrent_v2)(&popped);
    return result;
}

/* A context that the program has from elsewhere than our wrappers (a private table of the driver).
 * It exists: its cost is charged without asking. */
static CUresult adopt(CUcontext handle, uint32_t *place) {
    CUdevice ordinal;
    CUcontext of_device = NULL;
    CUresult result = context_device(handle, &ordinal);
    if (result == CUDA_SUCCESS)
        result = primary_handle(ordinal, &of_device);
    if (result != CUDA_SUCCESS)
        return result;
    bool is_primary = of_device == handle;
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
    *place = (uint32_t)index;
    return CUDA_SUCCESS;
}

/* `*index` is 0 where there is no place for it, or it cannot be told what it is. */
static CUresult index_of(CUcontext handle, uint32_t *index) {
    uint64_t known;
    *index = 0;
    if (!aliquot_table_get(&handles, (uintptr_t)handle, &known))
        return adopt(handle, index);
    *index = (uint32_t)known;
    return CUDA_SUCCESS;
}

static CUresult remember(CUcontext handle, uint32_t now, const struct aliquot_context **found) {
    uint32_t index;
    CUresult result = index_of(handle, &index);
    if (!index)
        return result;
    last.generation = now;
    last.index = index;
    *found = &context[index];
    return CUDA_SUCCESS;
}

CUresult aliquot_context_ask(const struct aliquot_context **found) {
    CUcontext handle = NULL;
    CUresult result = aliquot_ready();
    *found = NULL;
    if (result == CUDA_SUCCESS)
        result = REAL(cuCtxGetCurrent)(&handle);
    if (!handle)
        return result == CUDA_ERROR_NOT_INITIALIZED ? CUDA_SUCCESS : result;
    /* acquire: pairs with the release in gone(). */
    uint32_t now = atomic_load_explicit(&generation, memory_order_acquire);
    /* The place is that of a context that lives, for it is current. (A green context has its
     * primary's, and is looked up.) */
    if (__builtin_expect(context[last.index].handle == handle && last.generation == now, 1)) {
        *found = &context[last.index];
        return CUDA_SUCCESS;
    }
    return remember(handle, now, found);
}

const struct aliquot_context *aliquot_context_current(void) {
    const struct aliquot_context *found;
    return aliquot_context_ask(&found) == CUDA_SUCCESS ? found : NULL;
}

const struct aliquot_context *aliquot_context_of(CUcontext handle) {
    uint32_t index = 0;
    if (handle)
        index_of(handle, &index);
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
    creation->device = aliquot_mapped(ordinal);
    if (creation->device < 0)
        return creation->device == ALIQUOT_NO_SUCH_DEVICE ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
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

/* Under the primary's mutex: it is not active, but may have been. */
static void primary_gone(CUdevice ordinal) {
    uint16_t index = primary[ordinal].index;
    primary[ordinal].index = 0;
    gone(index);
}

/* Under the primary's mutex, after one has let go of it: takes up its end. `otherwise`: whether it has ended
 * where the driver does not tell; who makes it anew takes up what was overlooked. */
static bool primary_ended(CUdevice ordinal, bool otherwise) {
    bool active;
    if (primary_active(ordinal, &active) != CUDA_SUCCESS)
        active = !otherwise;
    if (!active)
        primary_gone(ordinal);
    return !active;
}

/* Under the primary's mutex: charges its creation unless it is active. */
static CUresult primary_begin(CUdevice ordinal, struct creation *creation) {
    bool active;
    *creation = (struct creation){.ordinal = ordinal, .device = -1};
    CUresult result = primary_active(ordinal, &active);
    if (result != CUDA_SUCCESS || active)
        return result;
    primary_gone(ordinal);
    return begin(ordinal, creation);
}

/* Under the primary's mutex: books what became of it. */
static void primary_finish(const struct creation *creation, CUresult result, CUcontext handle) {
    uint32_t index;
    if (creation->charged)
        primary[creation->ordinal].index = finish(creation, result, handle, true);
    else if (result == CUDA_SUCCESS && handle)
        index_of(handle, &index);
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

static CUresult primary_end(CUdevice ordinal, CUresult (*end)(CUdevice), bool reset) {
    pthread_mutex_t *held = primary_mutex(ordinal);
    if (!held)
        return end(ordinal);
    pthread_mutex_lock(held);
    CUcontext handle = context[primary[ordinal].index].handle;
    aliquot_marks_context_leaves(handle);
    CUresult result = end(ordinal);
    bool ended = result == CUDA_SUCCESS && primary_ended(ordinal, reset);
    aliquot_marks_context_left(handle, ended);
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
        CUcontext whole = NULL;
        CUresult told = result == CUDA_SUCCESS && creation.charged ? primary_handle(ordinal, &whole)
                                                                   : CUDA_SUCCESS;
        if (told != CUDA_SUCCESS) {
            /* What it made of the device is not known, and could not be charged. */
            REAL(cuGreenCtxDestroy)(*green);
            result = told;
        }
        primary_finish(&creation, result, whole);
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
        primary_ended(ordinal, false);
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

/* How many threads have a stack. */
static CUresult stacks(const struct aliquot_context *of, uint64_t *count) {
    int processors = 0, threads = 0;
    CUresult result = REAL(cuDeviceGetAttribute)(
        &processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, of->ordinal);
    if (result == CUDA_SUCCESS)
        result = REAL(cuDeviceGetAttribute)(
            &threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, of->ordinal);
    *count = (uint64_t)processors * (uint64_t)threads;
    return result;
}

/* Device memory that a limit takes beyond what a new context has, bytes. */
static uint64_t limit_bytes(const struct aliquot_context *of, CUlimit limit, uint64_t stacks,
                            size_t value) {
    uint64_t base, factor = 1;
    switch (limit) {
    case CU_LIMIT_STACK_SIZE:
        base = DEFAULT_STACK;
        factor = stacks;
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
    const struct aliquot_context *of;
    bool takes = limit == CU_LIMIT_STACK_SIZE || limit == CU_LIMIT_MALLOC_HEAP_SIZE ||
                 limit == CU_LIMIT_PRINTF_FIFO_SIZE;
    CUresult result = takes ? aliquot_context_ask(&of) : CUDA_SUCCESS;
    if (result != CUDA_SUCCESS)
        return result;
    if (!takes || !of || of->device < 0)
        return REAL(cuCtxSetLimit)(limit, value);
    uint32_t device = (uint32_t)of->device;
    uint64_t count = 0;
    size_t now = 0;
    pthread_mutex_lock(&limit_mutex);
    result = REAL(cuCtxGetLimit)(&now, limit);
    if (result == CUDA_SUCCESS && limit == CU_LIMIT_STACK_SIZE)
        result = stacks(of, &count);
    if (result != CUDA_SUCCESS) {
        pthread_mutex_unlock(&limit_mutex);
        return result;
    }
    uint64_t before = limit_bytes(of, limit, count, now);
    uint64_t wanted = limit_bytes(of, limit, count, value);
    uint64_t charged = wanted > before ? wanted - before : 0;
    if (charged && !aliquot_charge(device, charged))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else {
        ALIQUOT_RETRY(result, REAL(cuCtxSetLimit)(limit, value));
        /* The driver may have rounded, or refused. */
        size_t then = result == CUDA_SUCCESS ? value : now;
        REAL(cuCtxGetLimit)(&then, limit);
        uint64_t after = limit_bytes(of, limit, count, then);
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
