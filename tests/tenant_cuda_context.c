/* Contexts, their limits, and the code that is loaded into them. */
#include "tenant_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -- Code -------------------------------------------------------------------------------------------- */

char *ptx(uint64_t size) {
    static const char head[] = ".version 7.0\n.target sm_50\n.address_size 64\n"
                               ".visible .global .align 8 .b8 room[4096];\n"
                               ".visible .entry work(.param .u64 at)\n{\n    ret;\n}\n";
    size_t length = sizeof head + 3 < size ? size : sizeof head + 3;
    char *text = malloc(length + 1);
    if (!text)
        fail("no memory for %zu bytes of text", length);
    memcpy(text, head, sizeof head - 1);
    memcpy(text + sizeof head - 1, "//", 2);
    memset(text + sizeof head + 1, '-', length - sizeof head - 2);
    text[length - 1] = '\n';
    text[length] = 0;
    return text;
}

char *ptx_file(uint64_t size) {
    char *text = ptx(size), *name = strdup("/tmp/tenant-XXXXXX");
    int fd = name ? mkstemp(name) : -1;
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        fail("a module cannot be written to %s", name ? name : "memory");
    free(text);
    return name;
}

/* Modules of more than some pages would only test the reader of their text. */
static uint64_t code_size(uint64_t size) { return size > 5 * MIB ? 5 * MIB : size; }

static int module_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUmodule *module = (CUmodule *)&thing->object[0];
    unsigned way = roll(&dice, 3);
    CUresult result;
    if (way == 2) {
        char *name = ptx_file(code_size(size));
        result = cu.cuModuleLoad(module, name);
        unlink(name);
        free(name);
        return result;
    }
    char *text = ptx(code_size(size));
    result = way ? cu.cuModuleLoadData(module, text)
                 : cu.cuModuleLoadDataEx(module, text, 0, NULL, NULL);
    free(text);
    return result;
}

static void module_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cu.cuModuleUnload(thing->object[0]));
}

static int library_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUlibrary *library = (CUlibrary *)&thing->object[0];
    CUresult result;
    if (roll(&dice, 3) == 0) {
        char *name = ptx_file(code_size(size));
        result = cu.cuLibraryLoadFromFile(library, name, NULL, NULL, 0, NULL, NULL, 0);
        unlink(name);
        free(name);
        return result;
    }
    char *text = ptx(code_size(size));
    result = cu.cuLibraryLoadData(library, text, NULL, NULL, 0, NULL, NULL, 0);
    free(text);
    return result;
}

static void library_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cu.cuLibraryUnload(thing->object[0]));
}

/* -- Contexts: what they hold dies with them --------------------------------------------------------- */

enum { CONTEXT, ARRAY, MODULE, STREAM };

/* Something more in the context, which is current. */
static CUresult furnish(struct thing *thing, uint64_t size, uint64_t *dice) {
    CUDA_ARRAY_DESCRIPTOR flat = {
        .Width = 1024, .Height = 512, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
    CUdeviceptr ignored;
    char *text;
    CUresult result;
    switch (roll(dice, 7)) {
    case 0:
        return cu.cuMemAlloc_v2(&ignored, size);
    case 1:
        return cu.cuMemAlloc_v2(&ignored, 1 + size / 4096);
    case 2:
        return cu.cuMemAllocManaged(&ignored, size, CU_MEM_ATTACH_GLOBAL);
    case 3:
        return thing->object[ARRAY] ? CUDA_SUCCESS
                                    : cu.cuArrayCreate_v2((CUarray *)&thing->object[ARRAY], &flat);
    case 4:
        text = ptx(code_size(size));
        result = cu.cuModuleLoadData((CUmodule *)&thing->object[MODULE], text);
        free(text);
        return result;
    case 5:
        /* From the device's pool: it outlives the context. */
        if (thing->count == PIECES)
            return CUDA_SUCCESS;
        result = cu.cuMemAllocAsync(&thing->pointer[thing->count], size, thing->object[STREAM]);
        if (result == CUDA_SUCCESS) {
            thing->count++;
            MUST(cu.cuStreamSynchronize(thing->object[STREAM]));
        }
        return result;
    default:
        /* A free that is still queued when the context goes. */
        result = cu.cuMemAlloc_v2(&ignored, size);
        if (result == CUDA_SUCCESS) {
            delay(thing->object[STREAM], *dice);
            MUST(cu.cuMemFreeAsync(ignored, thing->object[STREAM]));
        }
        return result;
    }
}

static CUresult set_limit(uint64_t *dice) {
    static const CUlimit limits[] = {CU_LIMIT_MALLOC_HEAP_SIZE, CU_LIMIT_PRINTF_FIFO_SIZE,
                                     CU_LIMIT_STACK_SIZE};
    static const size_t most[] = {64 << 20, 16 << 20, 8 << 10};
    unsigned which = roll(dice, 3);
    return cu.cuCtxSetLimit(limits[which], most[which] / (1 + roll(dice, 64)));
}

static int context_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUcontext context, popped;
    CUresult result;
    switch (roll(&dice, 3)) {
    case 0:
        result = cu.cuCtxCreate_v2(&context, 0, cuda.device);
        break;
    case 1:
        result = cu.cuCtxCreate_v3(&context, NULL, 0, CU_CTX_SCHED_BLOCKING_SYNC, cuda.device);
        break;
    default:
        result = cu.cuCtxCreate_v4(&context, NULL, 0, cuda.device);
    }
    if (result != CUDA_SUCCESS)
        return result;
    thing->object[CONTEXT] = context;
    MUST(cu.cuStreamCreate((CUstream *)&thing->object[STREAM], CU_STREAM_NON_BLOCKING));
    for (unsigned i = roll(&dice, 4); i && result == CUDA_SUCCESS; i--)
        result = furnish(thing, size, &dice);
    if (result != CUDA_SUCCESS && result != CUDA_ERROR_OUT_OF_MEMORY)
        fail("memory in a new context is answered with %d", (int)result);
    MUST(cu.cuCtxPopCurrent_v2(&popped));
    if (popped != context)
        fail("another context was current");
    return CUDA_SUCCESS;
}

static int context_poke(struct thing *thing, uint64_t dice) {
    CUcontext popped;
    MUST(cu.cuCtxPushCurrent_v2(thing->object[CONTEXT]));
    CUresult result = roll(&dice, 2) ? set_limit(&dice) : furnish(thing, thing->size, &dice);
    MUST(cu.cuCtxPopCurrent_v2(&popped));
    return result;
}

static void context_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cu.cuCtxDestroy_v2(thing->object[CONTEXT]));
    while (thing->count)
        MUST(cu.cuMemFree_v2(thing->pointer[--thing->count]));
}

/* -- Green contexts: a part of the primary one -------------------------------------------------------- */

static int green_get(struct thing *thing, uint64_t size, uint64_t dice) {
    CUdevResource all, group, rest;
    CUdevResourceDesc description;
    CUgreenCtx green;
    CUcontext context;
    unsigned groups = 1;
    MUST(cu.cuDeviceGetDevResource(cuda.device, &all, CU_DEV_RESOURCE_TYPE_SM));
    MUST(cu.cuDevSmResourceSplitByCount(&group, &groups, &all, &rest, 0, 8));
    MUST(cu.cuDevResourceGenerateDesc(&description, &group, 1));
    CUresult result =
        cu.cuGreenCtxCreate(&green, description, cuda.device, CU_GREEN_CTX_DEFAULT_STREAM);
    if (result != CUDA_SUCCESS)
        return result;
    thing->object[0] = green;
    MUST(cu.cuCtxFromGreenCtx(&context, green));
    MUST(cu.cuCtxPushCurrent_v2(context));
    if (roll(&dice, 2)) {
        CUstream stream;
        MUST(cu.cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
        result = cu.cuMemAllocAsync(&thing->pointer[0], size, stream);
        MUST(cu.cuStreamSynchronize(stream));
    } else
        result = cu.cuMemAlloc_v2(&thing->pointer[0], size);
    look_at_memory();
    MUST(cu.cuCtxPopCurrent_v2(&context));
    if (result != CUDA_SUCCESS)
        MUST(cu.cuGreenCtxDestroy(green));
    return result;
}

static void green_give(struct thing *thing, uint64_t dice) {
    /* The memory is the primary context's and outlives the green one. */
    bool before = roll(&dice, 2);
    if (before)
        MUST(cu.cuMemFree_v2(thing->pointer[0]));
    MUST(cu.cuGreenCtxDestroy(thing->object[0]));
    if (!before)
        MUST(cu.cuMemFree_v2(thing->pointer[0]));
}

const struct kind context_kinds[] = {
    {"module", module_get, nothing_poke, module_give, true, NULL, true},
    {"library", library_get, nothing_poke, library_give, false, NULL, true},
    {"context", context_get, context_poke, context_give, false, NULL, true},
    {"green", green_get, nothing_poke, green_give, false, NULL, true},
    {0},
};
