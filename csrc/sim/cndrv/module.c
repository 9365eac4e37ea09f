/* Modules and kernels.
 *
 * The vendor's images are not computed. The simulator has its own, a text:
 *     mlu-image 1
 *     memory BYTES           of the device that it takes; once, may be missing
 *     kernel NAME NS         a kernel and how long it runs
 *     kernel NAME parameter  its first parameter, eight bytes, says how long
 * For the driver a module is an image of one kernel, which runs for as long as it is told; what else the
 * program launched it with are its other parameters, so that they can be read again from a graph.
 */
#include "cndrv_sim.h"

#include "../module.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEGINS "mlu-image 1\n"
enum { MOST_BYTES = 1 << 20, LINE = 256, NAME = 64 };
#define LONGEST_NS 1000000000000u
/* Of a kernel: its first parameter says it. */
#define BY_PARAMETER UINT64_MAX

static const char driver_image[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry aliquot_spin_ns(.param .u64 ns, .param .u64 kernel, .param .u32 x,\n"
    "    .param .u32 y, .param .u32 z, .param .u32 kind) { ret; }\n";

enum { HANDLE_MODULE = SIM_HANDLE_USER, HANDLE_KERNEL };

struct kernel {
    struct kernel *next;
    CUfunction function;
    uint64_t ns;
    uint32_t wide; /* so many blocks take all of the device, whatever the program launches */
    char name[NAME];
};

struct module {
    CUmodule module;
    int64_t more; /* bytes beyond what the driver charged for its image */
    struct kernel *kernels;
};

/* ---- Images ---------------------------------------------------------------------------------------- */

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

/* Goes through an image; kernels are added to `module`, if there is one. False: it is none. */
static bool parse(const char *text, uint64_t *bytes, struct module *module) {
    char line[LINE], name[NAME], how[32];
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
        uint64_t ns = strcmp(how, "parameter") == 0 ? BY_PARAMETER : strtoull(how, &end, 10);
        if (ns != BY_PARAMETER && (*end || ns > LONGEST_NS))
            return false;
        struct kernel *kernel = module ? calloc(1, sizeof *kernel) : NULL;
        if (!kernel)
            continue;
        *kernel = (struct kernel){.next = module->kernels, .ns = ns};
        strcpy(kernel->name, name);
        module->kernels = kernel;
    }
    return !*text;
}

/* The whole of a file as a text, to be freed; NULL: there is none, or no host memory. */
static char *read_file(const char *path) {
    FILE *file = fopen(path, "re");
    char *text = file ? malloc(MOST_BYTES + 1) : NULL;
    if (text)
        text[fread(text, 1, MOST_BYTES, file)] = 0;
    if (file)
        fclose(file);
    return text;
}

/* ---- Modules --------------------------------------------------------------------------------------- */

static void forget(struct module *module) {
    while (module->kernels) {
        struct kernel *kernel = module->kernels;
        module->kernels = kernel->next;
        sim_handle_drop((enum sim_handle_kind)HANDLE_KERNEL, kernel);
        free(kernel);
    }
    sim_handle_drop((enum sim_handle_kind)HANDLE_MODULE, module);
    free(module);
}

static struct module *find(const void *handle) {
    return sim_handle_check((enum sim_handle_kind)HANDLE_MODULE, handle) ? (struct module *)handle
                                                                         : NULL;
}

/* The kernels are the one of the driver's image. False: no host memory. */
static bool bind_kernels(struct module *module, const struct sim_context *context) {
    CUfunction function;
    if (cuModuleGetFunction(&function, module->module, "aliquot_spin_ns") != CUDA_SUCCESS)
        return false;
    for (struct kernel *kernel = module->kernels; kernel; kernel = kernel->next) {
        enum { BLOCKS_AT_MOST = 64 }; /* that a processor holds */
        kernel->function = function;
        kernel->wide = sim_device_config(context->dev)->sms * BLOCKS_AT_MOST;
        if (!sim_handle_add((enum sim_handle_kind)HANDLE_KERNEL, kernel))
            return false;
    }
    return sim_handle_add((enum sim_handle_kind)HANDLE_MODULE, module);
}

/* Each module has pages of its own. */
static CUresult charge(struct module *module, struct sim_context *context, uint64_t bytes) {
    uint64_t page = sim_device_config(context->dev)->page_size;
    uint64_t whole = bytes > UINT64_MAX / 2 ? UINT64_MAX / 2 : (bytes + page - 1) & ~(page - 1);
    module->more = (int64_t)whole - sim_module_get(module->module)->charged;
    CUresult result = sim_context_module_bytes(context, module->more);
    if (result != CUDA_SUCCESS)
        module->more = 0;
    return result;
}

CNresult cnModuleLoadFatBinary(const void *image, CNmodule *module) {
    struct sim_context *context;
    uint64_t bytes;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && (!image || !module))
        result = CN_ERROR_INVALID_VALUE;
    if (result == CN_SUCCESS && !parse(image, &bytes, NULL))
        result = CN_FATBIN_INVALID_IMAGE;
    if (result != CN_SUCCESS)
        return result;
    struct module *made = calloc(1, sizeof *made);
    if (!made)
        return CN_ERROR_SYSTEM_OUT_OF_MEMORY;
    parse(image, &bytes, made);
    result = cn_error(cuModuleLoadData(&made->module, driver_image));
    if (result == CN_SUCCESS) {
        result = cn_error(charge(made, context, bytes));
        if (result == CN_SUCCESS && !bind_kernels(made, context))
            result = CN_ERROR_SYSTEM_OUT_OF_MEMORY;
        if (result != CN_SUCCESS) {
            sim_context_module_bytes(context, -made->more);
            cuModuleUnload(made->module);
        }
    }
    if (result != CN_SUCCESS) {
        forget(made);
        return result;
    }
    *module = (CNmodule)(void *)made;
    return CN_SUCCESS;
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
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    struct module *found = find(module);
    if (result != CN_SUCCESS)
        return result;
    if (!found)
        return CN_ERROR_INVALID_VALUE;
    const struct sim_module *inner = sim_module_get(found->module);
    struct sim_context *owner = inner ? inner->ctx : NULL;
    if (owner)
        result = cn_error(cuModuleUnload(found->module));
    if (owner && result == CN_SUCCESS)
        sim_context_module_bytes(owner, -found->more);
    /* Without an owner it has ended with its context. */
    if (result == CN_SUCCESS)
        forget(found);
    return result;
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

CNresult cnModuleGetKernel(CNmodule module, const char *name, CNkernel *kernel) {
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    const struct module *found = find(module);
    if (result != CN_SUCCESS)
        return result;
    if (!found || !name || !kernel)
        return CN_ERROR_INVALID_VALUE;
    struct kernel *here = found->kernels;
    while (here && strcmp(here->name, name) != 0)
        here = here->next;
    if (!here)
        return CN_ERROR_NOT_FOUND;
    *kernel = (CNkernel)(void *)here;
    return CN_SUCCESS;
}

/* The images say nothing of what a kernel takes of its cores. */
CNresult cnKernelGetAttribute(int64_t *value, int attribute, CNkernel kernel) {
    enum { BINARY_VERSION = 201 };
    CNresult result = cn_begin();
    if (result != CN_SUCCESS)
        return result;
    if (!value || attribute < 0 || attribute >= CN_KERNEL_ATTRIBUTE_MAX ||
        !sim_handle_check((enum sim_handle_kind)HANDLE_KERNEL, (const void *)kernel))
        return CN_ERROR_INVALID_VALUE;
    *value = attribute == CN_KERNEL_ATTRIBUTE_BINARY_VERSION ? BINARY_VERSION : 0;
    return CN_SUCCESS;
}

/* ---- Launches --------------------------------------------------------------------------------------- */

CNresult cn_launch(struct cn_launch *launch, const CN_KERNEL_NODE_PARAMS *what) {
    const struct kernel *kernel = (const void *)what->hkernel;
    if (!sim_handle_check((enum sim_handle_kind)HANDLE_KERNEL, kernel))
        return CN_ERROR_INVALID_HANDLE;
    bool told = kernel->ns == BY_PARAMETER;
    if (!what->dimx || !what->dimy || !what->dimz ||
        (told && (!what->kernelParams || !what->kernelParams[0])))
        return CN_ERROR_INVALID_VALUE;
    *launch = (struct cn_launch){
        .node = {.func = kernel->function,
                 .gridDimX = kernel->wide,
                 .gridDimY = 1,
                 .gridDimZ = 1,
                 .blockDimX = 32,
                 .blockDimY = 1,
                 .blockDimZ = 1},
        .ns = kernel->ns,
        .kernel = what->hkernel,
        .x = what->dimx,
        .y = what->dimy,
        .z = what->dimz,
        .kind = what->c,
    };
    if (told)
        memcpy(&launch->ns, what->kernelParams[0], sizeof launch->ns);
    launch->ns = launch->ns < LONGEST_NS ? launch->ns : LONGEST_NS;
    void *const parameters[] = {&launch->ns, &launch->kernel, &launch->x,
                                &launch->y,  &launch->z,      &launch->kind};
    memcpy(launch->parameters, parameters, sizeof parameters);
    launch->node.kernelParams = launch->parameters;
    return CN_SUCCESS;
}

void cn_launched(const CUDA_KERNEL_NODE_PARAMS *node, CN_KERNEL_NODE_PARAMS *what) {
    uint32_t kind;
    *what = (CN_KERNEL_NODE_PARAMS){.kernelParams = node->kernelParams};
    memcpy(&what->hkernel, node->kernelParams[1], sizeof what->hkernel);
    memcpy(&what->dimx, node->kernelParams[2], sizeof what->dimx);
    memcpy(&what->dimy, node->kernelParams[3], sizeof what->dimy);
    memcpy(&what->dimz, node->kernelParams[4], sizeof what->dimz);
    memcpy(&kind, node->kernelParams[5], sizeof kind);
    what->c = (KernelClass)kind;
}

CNresult cnInvokeKernel(CNkernel kernel, unsigned int x, unsigned int y, unsigned int z,
                        KernelClass kind, unsigned int reserved, CNqueue queue, void **parameters,
                        void **extra) {
    struct sim_context *context;
    struct cn_launch launch;
    const CN_KERNEL_NODE_PARAMS what = {kernel, x, y, z, kind, reserved, parameters, extra};
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS)
        result = cn_launch(&launch, &what);
    if (result != CN_SUCCESS)
        return result;
    const CUDA_KERNEL_NODE_PARAMS *node = &launch.node;
    return cn_queued(cuLaunchKernel(node->func, node->gridDimX, node->gridDimY, node->gridDimZ,
                                    node->blockDimX, node->blockDimY, node->blockDimZ, 0,
                                    cn_stream(queue), node->kernelParams, NULL));
}

CNresult cnInvokeKernelEx(const CNinvokeConfig *config, CNkernel kernel, void **parameters,
                          void **extra) {
    if (!config)
        return CN_ERROR_INVALID_VALUE;
    return cnInvokeKernel(kernel, config->dimx, config->dimy, config->dimz, config->c,
                          config->reserved, config->hqueue, parameters, extra);
}
