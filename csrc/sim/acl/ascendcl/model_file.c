/* A model's file, which is text: a line for each thing that it has. */
#include "model.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_BYTES = 64 << 10, LINE = 256 };
#define FIRST "aliquot-model 1"

/* One line after the first. False: it says nothing that a model has. */
static bool take(struct model_file *file, const char *line) {
    char word[16], rest[2];
    unsigned long long first, second;
    if (!*line || *line == '#')
        return true;
    if (sscanf(line, "operator %63[A-Za-z0-9_] %1s", file->operator, rest) == 1)
        return true;
    if (sscanf(line, "kernel %llu %llu %1s", &first, &second, rest) == 2) {
        if (!first || first > UINT32_MAX || file->kernel_count == MODEL_PARTS)
            return false;
        file->kernels[file->kernel_count].blocks = (uint32_t)first;
        file->kernels[file->kernel_count++].ns = second;
        return true;
    }
    if (sscanf(line, "%15[a-z] %llu %1s", word, &first, rest) != 2)
        return false;
    if (!strcmp(word, "work"))
        file->work = first;
    else if (!strcmp(word, "weights"))
        file->weights = first;
    else if (!strcmp(word, "input") && file->input_count < MODEL_PARTS)
        file->inputs[file->input_count++] = first;
    else if (!strcmp(word, "output") && file->output_count < MODEL_PARTS)
        file->outputs[file->output_count++] = first;
    else
        return false;
    return true;
}

rtError_t model_parse(const void *data, size_t size, struct model_file *file) {
    const char *at = data, *end = at + size;
    *file = (struct model_file){0};
    if (!data || !size || size > FILE_BYTES)
        return GE_MODEL_DATA_SIZE_INVALID;
    for (bool first = true; at < end; first = false) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((stop ? stop : end) - at);
        char line[LINE];
        if (length >= sizeof line || memchr(at, 0, length))
            return GE_PARAM_INVALID;
        memcpy(line, at, length);
        line[length] = 0;
        if (first ? strcmp(line, FIRST) != 0 : !take(file, line))
            return GE_PARAM_INVALID;
        at = stop ? stop + 1 : end;
    }
    return file->kernel_count ? RT_OK : GE_PARAM_INVALID;
}

rtError_t model_read(const char *path, struct model_file *file) {
    struct stat status;
    int descriptor = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return GE_MODEL_PATH_INVALID;
    char *data = malloc(FILE_BYTES + 1);
    ssize_t size = -1;
    if (data && fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode))
        size = read(descriptor, data, FILE_BYTES + 1);
    close(descriptor);
    rtError_t result = size < 0 ? GE_MODEL_PATH_INVALID : model_parse(data, (size_t)size, file);
    free(data);
    return result;
}
