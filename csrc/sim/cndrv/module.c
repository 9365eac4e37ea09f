/* Modules and kernels.
 *
 * The vendor's images are not computed. The simulator has its own, a text:
 *     mlu-image 1
 *     memory BYTES           of the device that it takes; once, may be missing
 *     kernel NAME NS         a kernel and how long it runs
 *     kernel NAME parameter  its first parameter, eight bytes, says how long
 */
#include "cndrv_sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEGINS "mlu-image 1\n"
enum { MOST_BYTES = 1 << 20, LINE = 256 };
#define LONGEST_NS 1000000000000u

/* Reads the next line, without its end; false at the end of the text. */
static bool next_line(const char **text, char line[LINE]) {
    size_t length = strcspn(*text, "\n");
    if (!**text || length >= LINE)
        return false;
    memcpy(line, *text, length);
    line[length] = 0;
    *text += length + ((*text)[length] == '\n');
    return true;
}

/* Goes through an image; kernels are made in `module`, if there is one. False: it is none. */
static bool parse(const char *text, uint64_t *bytes, struct sim_cn_object *module) {
    char line[LINE], name[64], how[32];
    *bytes = 0;
    if (strncmp(text, BEGINS, strlen(BEGINS)) != 0)
        return false;
    for (text += strlen(BEGINS); next_line(&text, line);) {
        unsigned long long number;
        if (sscanf(line, "memory %llu", &number) == 1) {
            *bytes = number;
            continue;
        }
        if (sscanf(line, "kernel %63s %31s", name, how) != 2)
            return false;
        char *end;
        uint64_t ns = strcmp(how, "parameter") == 0 ? UINT64_MAX : strtoull(how, &end, 10);
        if (ns != UINT64_MAX && (*end || ns > LONGEST_NS))
            return false;
        struct sim_cn_object *kernel = module ? sim_cn_new(SIM_CN_KERNEL, module->context) : NULL;
        if (!kernel)
            continue;
        kernel->module = module;
        kernel->ns = ns;
        strcpy(kernel->name, name);
    }
    return !*text;
}

/* The whole of a file as a text, to be freed; NULL: there is none, or none of an image's size. */
static char *read_file(const char *path) {
    FILE *file = fopen(path, "re");
    char *text = file ? malloc(MOST_BYTES + 1) : NULL;
    if (text)
        text[fread(text, 1, MOST_BYTES, file)] = 0;
    if (file)
        fclose(file);
    return text;
}

static bool of_module(const struct sim_cn_object *object, const void *module) {
    return object == module || (object->kind == SIM_CN_KERNEL && object->module == module);
}

CNresult cnModuleLoadFatBinary(const void *image, CNmodule *module) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *context = sim_cn_current();
    uint64_t bytes;
    if (!context || !image || !module)
        return sim_cn_left(context ? CN_ERROR_INVALID_VALUE : CN_CONTEXT_ERROR_INVALID);
    if (!parse(image, &bytes, NULL))
        return sim_cn_left(CN_FATBIN_INVALID_IMAGE);
    struct sim_cn_object *made = sim_cn_new(SIM_CN_MODULE, context);
    if (!made)
        return sim_cn_left(CN_ERROR_SYSTEM_OUT_OF_MEMORY);
    if (!sim_cn_take(context->device, bytes, &made->frames)) {
        sim_cn_end(made);
        return sim_cn_left(CN_MEMORY_ERROR_OUT_OF_MEMORY);
    }
    parse(image, &bytes, made);
    *module = (CNmodule)(void *)made;
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnModuleLoad(const char *path, CNmodule *module) {
    char *text = path ? read_file(path) : NULL;
    if (!text)
        return path ? CN_ERROR_FILE_NOT_FOUND : CN_ERROR_INVALID_VALUE;
    CNresult result = cnModuleLoadFatBinary(text, module);
    free(text);
    return result;
}

CNresult cnModuleUnload(CNmodule module) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_object *found = sim_cn_find(SIM_CN_MODULE, module);
    if (!found)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    sim_cn_wait(found->device, found->device->tail_ns);
    sim_cn_sweep(of_module, found);
    return sim_cn_left(CN_SUCCESS);
}

CNresult cnModuleQueryFatBinaryMemoryUsage(const void *image, size_t *bytes) {
    uint64_t found;
    if (!image || !bytes || !parse(image, &found, NULL))
        return CN_ERROR_INVALID_VALUE;
    *bytes = found;
    return CN_SUCCESS;
}

CNresult cnModuleQueryMemoryUsage(const char *path, size_t *bytes) {
    char *text = path ? read_file(path) : NULL;
    if (!text)
        return path ? CN_ERROR_FILE_NOT_FOUND : CN_ERROR_INVALID_VALUE;
    CNresult result = cnModuleQueryFatBinaryMemoryUsage(text, bytes);
    free(text);
    return result;
}

struct wanted {
    const struct sim_cn_object *module;
    const char *name;
    const struct sim_cn_object **found;
};

static bool note_kernel(const struct sim_cn_object *object, const void *argument) {
    const struct wanted *wanted = argument;
    if (object->kind == SIM_CN_KERNEL && object->module == wanted->module &&
        strcmp(object->name, wanted->name) == 0)
        *wanted->found = object;
    return false;
}

CNresult cnModuleGetKernel(CNmodule module, const char *name, CNkernel *kernel) {
    CNresult result = sim_cn_enter();
    if (result != CN_SUCCESS)
        return result;
    const struct sim_cn_object *found = NULL;
    struct wanted wanted = {sim_cn_find(SIM_CN_MODULE, module), name, &found};
    if (!wanted.module || !name || !kernel)
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    sim_cn_sweep(note_kernel, &wanted);
    *kernel = (CNkernel)(void *)(uintptr_t)found;
    return sim_cn_left(found ? CN_SUCCESS : CN_ERROR_NOT_FOUND);
}

CNresult cnInvokeKernel(CNkernel kernel, unsigned int x, unsigned int y, unsigned int z,
                        KernelClass kind, unsigned int reserved, CNqueue queue, void **parameters,
                        void **extra) {
    CNresult result = sim_cn_enter();
    (void)kind;
    (void)reserved;
    (void)extra;
    if (result != CN_SUCCESS)
        return result;
    struct sim_cn_device *device;
    const struct sim_cn_object *found = sim_cn_find(SIM_CN_KERNEL, kernel);
    uint64_t *tail = sim_cn_tail(queue, &device);
    if (!tail)
        return sim_cn_left(sim_cn_current() ? CN_QUEUE_ERROR_INVALID : CN_CONTEXT_ERROR_INVALID);
    if (!found || found->device != device)
        return sim_cn_left(CN_ERROR_INVALID_HANDLE);
    uint64_t ns = found->ns;
    if (!x || !y || !z || (ns == UINT64_MAX && (!parameters || !parameters[0])))
        return sim_cn_left(CN_ERROR_INVALID_VALUE);
    if (ns == UINT64_MAX)
        memcpy(&ns, parameters[0], sizeof ns);
    sim_cn_work(device, tail, ns < LONGEST_NS ? ns : LONGEST_NS);
    sim_cn_leave();
    sim_cost_wait(device->config->cost_ns[SIM_COST_LAUNCH]);
    return CN_SUCCESS;
}

CNresult cnInvokeKernelEx(const CNinvokeConfig *config, CNkernel kernel, void **parameters,
                          void **extra) {
    if (!config)
        return CN_ERROR_INVALID_VALUE;
    return cnInvokeKernel(kernel, config->dimx, config->dimy, config->dimz, config->c,
                          config->reserved, config->hqueue, parameters, extra);
}
