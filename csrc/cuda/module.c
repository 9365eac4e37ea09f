/* Modules and libraries: their code and variables lie in device memory, in the context that a module
 * was loaded into, and in every context for a library. The driver does not say how much that is;
 * image.c estimates it from the image. */
#include "shim.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Module to image bytes << 16 | context, library to image bytes. */
static struct aliquot_table modules, libraries;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t library_bytes; /* of all that are loaded */

/* For writing: while a library comes or goes. */
static pthread_rwlock_t libraries_lock = PTHREAD_RWLOCK_INITIALIZER;

void aliquot_libraries_hold(void) { pthread_rwlock_rdlock(&libraries_lock); }
void aliquot_libraries_drop(void) { pthread_rwlock_unlock(&libraries_lock); }

static void capability(CUdevice ordinal, int *major, int *minor) {
    *major = *minor = 0;
    REAL(cuDeviceGetAttribute)(major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ordinal);
    REAL(cuDeviceGetAttribute)(minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, ordinal);
}

/* An image in memory, or the file `path`. */
struct source {
    const void *image;
    const char *path;
};

static uint64_t source_bytes(const struct source *source, CUdevice ordinal) {
    int major, minor;
    capability(ordinal, &major, &minor);
    if (source->image)
        return aliquot_image_bytes(source->image, UINT64_MAX, major, minor);
    uint64_t bytes = 0;
    struct stat status;
    int fd = source->path ? open(source->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (fd < 0)
        return 0;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
        size_t size = (size_t)status.st_size;
        void *at = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at != MAP_FAILED) {
            bytes = aliquot_image_bytes(at, size, major, minor);
            munmap(at, size);
        }
    }
    close(fd);
    return bytes;
}

struct load {
    const struct aliquot_context *context; /* NULL: not ours to charge */
    uint64_t bytes;
};

static CUresult begin(struct load *load, const void *image, const char *path) {
    *load = (struct load){.context = NULL};
    CUresult told = aliquot_context_ask(&load->context);
    if (!load->context)
        return told;
    if (load->context->device < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    load->bytes = source_bytes(&(struct source){image, path}, load->context->ordinal);
    return aliquot_context_image(load->context->index, (int64_t)load->bytes)
               ? CUDA_SUCCESS
               : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult finish(const struct load *load, CUresult result, CUmodule module) {
    if (!load->context)
        return result;
    uint16_t index = load->context->index;
    if (result != CUDA_SUCCESS)
        aliquot_context_image(index, -(int64_t)load->bytes);
    else
        aliquot_table_put(&modules, (uintptr_t)module, load->bytes << 16 | index);
    return result;
}

CUresult aliquot_cuModuleLoad(CUmodule *module, const char *path) {
    struct load load;
    CUresult result = begin(&load, NULL, path);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuModuleLoad)(module, path));
    return finish(&load, result, result == CUDA_SUCCESS ? *module : NULL);
}

CUresult aliquot_cuModuleLoadData(CUmodule *module, const void *image) {
    struct load load;
    CUresult result = begin(&load, image, NULL);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuModuleLoadData)(module, image));
    return finish(&load, result, result == CUDA_SUCCESS ? *module : NULL);
}

CUresult aliquot_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int count,
                                    CUjit_option *option, void **value) {
    struct load load;
    CUresult result = begin(&load, image, NULL);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuModuleLoadDataEx)(module, image, count, option, value));
    return finish(&load, result, result == CUDA_SUCCESS ? *module : NULL);
}

CUresult aliquot_cuModuleLoadFatBinary(CUmodule *module, const void *image) {
    struct load load;
    CUresult result = begin(&load, image, NULL);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuModuleLoadFatBinary)(module, image));
    return finish(&load, result, result == CUDA_SUCCESS ? *module : NULL);
}

CUresult aliquot_cuModuleUnload(CUmodule module) {
    uint64_t value;
    bool ours = module && aliquot_ready() == CUDA_SUCCESS &&
                aliquot_table_take(&modules, (uintptr_t)module, &value);
    aliquot_time_unloads();
    CUresult result = REAL(cuModuleUnload)(module);
    if (ours && result == CUDA_SUCCESS)
        aliquot_context_image((uint16_t)value, -(int64_t)(value >> 16));
    else if (ours)
        aliquot_table_put(&modules, (uintptr_t)module, value);
    return result;
}

static void ignore(uint64_t key, uint64_t value, uint64_t name, enum aliquot_tenancy tenancy,
                   void *argument) {
    (void)name;
    (void)key;
    (void)value;
    (void)tenancy;
    (void)argument;
}

void aliquot_modules_context_gone(uint16_t context) {
    /* The context's own account of images goes with it. */
    aliquot_pointer_sweep(&modules, 0xffff, context, ignore, NULL);
}

/* -- Libraries ---------------------------------------------------------------------------------- */

struct spread {
    int64_t bytes;
    uint16_t done[ALIQUOT_ORDINALS * 16]; /* contexts charged so far */
    uint32_t count;
    bool refused;
};

static void charge_context(uint16_t index, void *argument) {
    struct spread *spread = argument;
    if (spread->refused || spread->count == sizeof spread->done / sizeof *spread->done)
        return;
    if (aliquot_context_image(index, spread->bytes))
        spread->done[spread->count++] = index;
    else
        spread->refused = true;
}

static void release_context(uint16_t index, void *argument) {
    aliquot_context_image(index, -*(int64_t *)argument);
}

uint64_t aliquot_library_image_bytes(void) {
    pthread_mutex_lock(&mutex);
    uint64_t bytes = library_bytes;
    pthread_mutex_unlock(&mutex);
    return bytes;
}

static void cancel_library(struct spread *spread) {
    while (spread->count)
        aliquot_context_image(spread->done[--spread->count], -spread->bytes);
    pthread_rwlock_unlock(&libraries_lock);
}

/* A library is loaded for every context there is. finish_library() must follow a success. */
static CUresult begin_library(struct spread *spread, const void *image, const char *path) {
    *spread = (struct spread){0};
    bool ready = aliquot_ready() == CUDA_SUCCESS;
    const struct aliquot_context *context = ready ? aliquot_context_current() : NULL;
    pthread_rwlock_wrlock(&libraries_lock);
    if (!ready)
        return CUDA_SUCCESS;
    spread->bytes =
        (int64_t)source_bytes(&(struct source){image, path}, context ? context->ordinal : 0);
    aliquot_context_each(charge_context, spread);
    if (!spread->refused)
        return CUDA_SUCCESS;
    cancel_library(spread);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult finish_library(struct spread *spread, CUresult result, CUlibrary library) {
    if (result != CUDA_SUCCESS) {
        cancel_library(spread);
        return result;
    }
    if (spread->bytes) {
        pthread_mutex_lock(&mutex);
        library_bytes += (uint64_t)spread->bytes;
        pthread_mutex_unlock(&mutex);
        aliquot_table_put(&libraries, (uintptr_t)library, (uint64_t)spread->bytes);
    }
    pthread_rwlock_unlock(&libraries_lock);
    return result;
}

CUresult aliquot_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jit,
                                   void **jit_value, unsigned int jit_count,
                                   CUlibraryOption *option, void **value, unsigned int count) {
    struct spread spread;
    CUresult result = begin_library(&spread, code, NULL);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuLibraryLoadData)(library, code, jit, jit_value, jit_count, option,
                                                  value, count));
    return finish_library(&spread, result, result == CUDA_SUCCESS ? *library : NULL);
}

CUresult aliquot_cuLibraryLoadFromFile(CUlibrary *library, const char *path, CUjit_option *jit,
                                       void **jit_value, unsigned int jit_count,
                                       CUlibraryOption *option, void **value, unsigned int count) {
    struct spread spread;
    CUresult result = begin_library(&spread, NULL, path);
    if (result != CUDA_SUCCESS)
        return result;
    ALIQUOT_RETRY(result, REAL(cuLibraryLoadFromFile)(library, path, jit, jit_value, jit_count,
                                                      option, value, count));
    return finish_library(&spread, result, result == CUDA_SUCCESS ? *library : NULL);
}

CUresult aliquot_cuLibraryUnload(CUlibrary library) {
    uint64_t value;
    bool ready = library && aliquot_ready() == CUDA_SUCCESS;
    pthread_rwlock_wrlock(&libraries_lock);
    bool ours = ready && aliquot_table_take(&libraries, (uintptr_t)library, &value);
    aliquot_time_unloads();
    CUresult result = REAL(cuLibraryUnload)(library);
    if (ours && result == CUDA_SUCCESS) {
        int64_t bytes = (int64_t)value;
        pthread_mutex_lock(&mutex);
        library_bytes -= value;
        pthread_mutex_unlock(&mutex);
        aliquot_context_each(release_context, &bytes);
    } else if (ours)
        aliquot_table_put(&libraries, (uintptr_t)library, value);
    pthread_rwlock_unlock(&libraries_lock);
    return result;
}

void aliquot_module_forget(void) {
    pthread_mutex_init(&mutex, NULL);
    pthread_rwlock_init(&libraries_lock, NULL);
    library_bytes = 0;
    aliquot_table_reset(&modules);
    aliquot_table_reset(&libraries);
}
