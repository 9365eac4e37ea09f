/* The options of loading and linking, and the logs that they ask for. */
#include "jit.h"

#include "image_build.h"
#include "sim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

CUresult sim_jit_read(struct sim_jit *jit, unsigned count, CUjit_option *options, void **values) {
    memset(jit, 0, sizeof *jit);
    if (count && (!options || !values))
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++) {
        uintptr_t value = (uintptr_t)values[i];
        switch (options[i]) {
        case CU_JIT_INFO_LOG_BUFFER:
            jit->info.buffer = values[i];
            break;
        case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
            jit->info.room = (uint32_t)value;
            jit->info.out = &values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER:
            jit->error.buffer = values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
            jit->error.room = (uint32_t)value;
            jit->error.out = &values[i];
            break;
        case CU_JIT_WALL_TIME: /* milliseconds, a float: nothing was compiled */
            values[i] = NULL;
            break;
        case CU_JIT_MAX_REGISTERS:
            jit->max_registers = (uint32_t)value;
            break;
        case CU_JIT_TARGET:
            /* The kind of architecture stands above the number. */
            jit->target = (uint32_t)value & 0xffff;
            break;
        default: /* nothing follows from the others: the simulator does not compile */
            if (options[i] < 0 || options[i] >= CU_JIT_NUM_OPTIONS)
                return CUDA_ERROR_INVALID_VALUE;
        }
    }
    struct sim_jit_log *logs[] = {&jit->info, &jit->error};
    for (unsigned i = 0; i < 2; i++) {
        if (!logs[i]->buffer)
            logs[i]->room = 0;
        if (logs[i]->room)
            logs[i]->buffer[0] = 0;
        if (logs[i]->out)
            *logs[i]->out = NULL;
    }
    return CUDA_SUCCESS;
}

void sim_jit_say(struct sim_jit_log *log, const char *line) {
    size_t length = strlen(line);

    if (log->room - log->used < 3)
        return;
    if (length > log->room - log->used - 2)
        length = log->room - log->used - 2;
    memcpy(log->buffer + log->used, line, length);
    log->used += length;
    log->buffer[log->used++] = '\n';
    log->buffer[log->used] = 0;
    if (log->out)
        *log->out = (void *)(uintptr_t)(log->used + 1);
}

/* Newest PTX that the driver of a CUDA version compiles. The two grow in step, but for 12.6, which
 * brought none. */
static unsigned ptx_limit(unsigned driver) {
    unsigned major = driver / 1000, minor = driver % 1000 / 10;

    if (major >= 13)
        return (major - 4) * 10 + minor;
    if (major == 12)
        return 80 + minor - (minor > 5);
    if (major == 11)
        return 70 + minor;
    return major == 10 ? 63 + minor : 60;
}

static bool set_to_one(const char *name) {
    const char *value = getenv(name);
    return value && !strcmp(value, "1");
}

CUresult sim_jit_parse(const void *data, size_t size, unsigned cc, bool relocatable,
                       struct sim_jit *jit, struct sim_image **image) {
    struct sim_image_target target = {
        .cc = jit && jit->target ? jit->target : cc,
        .ptx_limit = ptx_limit(sim_state->node->driver_version),
        .ptx_only = set_to_one("CUDA_FORCE_PTX_JIT"),
        .no_ptx = set_to_one("CUDA_DISABLE_PTX_JIT"),
        .relocatable = relocatable,
    };
    char why[256];

    CUresult result = sim_image_parse(data, size, &target, image, why, sizeof why);
    if (result == CUDA_SUCCESS && !relocatable) {
        result = sim_image_complete(*image, why, sizeof why);
        if (result != CUDA_SUCCESS)
            sim_image_release(*image);
    }
    if (result == CUDA_SUCCESS && jit && jit->max_registers)
        sim_image_limit_registers(*image, jit->max_registers);
    if (result != CUDA_SUCCESS) {
        sim_log("image refused (%d): %s", (int)result, why);
        if (jit)
            sim_jit_say(&jit->error, why);
    }
    return result;
}

CUresult sim_read_file(const char *path, void **data, size_t *bytes) {
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? CUDA_ERROR_FILE_NOT_FOUND
                                                   : CUDA_ERROR_INVALID_IMAGE;
    if (fstat(fd, &about) || !S_ISREG(about.st_mode)) {
        close(fd);
        return CUDA_ERROR_INVALID_IMAGE;
    }
    size_t size = (size_t)about.st_size, done = 0;
    uint8_t *copy = malloc(size + 1);
    while (copy && done < size) {
        ssize_t got = read(fd, copy + done, size - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    close(fd);
    if (!copy)
        return CUDA_ERROR_OUT_OF_MEMORY;
    copy[done] = 0;
    *data = copy;
    *bytes = done;
    return CUDA_SUCCESS;
}
