/* Code and contexts. */
#include "tenant_cambricon.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* -- Code ------------------------------------------------------------------------------------------------ */

static char *image_of(uint64_t size) {
    char *text = malloc(128);
    if (!text)
        fail("no memory for an image");
    /* Images of more than some pages would only test the reader of their text. */
    snprintf(text, 128, "mlu-image 1\nmemory %llu\nkernel work 1000\n",
             (unsigned long long)(size < 5 * MIB ? size : 5 * MIB));
    return text;
}

static int load_module(handle *module, uint64_t size, bool from_file) {
    char name[] = "/tmp/tenant-XXXXXX", *text = image_of(size);
    int result;
    if (from_file) {
        int fd = mkstemp(name);
        FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
        if (!file || fputs(text, file) < 0 || fclose(file) != 0)
            fail("a module cannot be written to %s", name);
        result = cn.cnModuleLoad(name, module);
        unlink(name);
    } else
        result = cn.cnModuleLoadFatBinary(text, module);
    free(text);
    return result;
}

static int module_get(struct thing *thing, uint64_t size, uint64_t dice) {
    return load_module(&thing->object[0], size, roll(&dice, 2));
}

static void module_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cn.cnModuleUnload(thing->object[0]));
}

/* -- Contexts: what they hold dies with them ------------------------------------------------------------- */

enum { CONTEXT, MODULE, QUEUE };

/* Something more in the context, which is current. */
static int furnish(struct thing *thing, uint64_t size, uint64_t *dice) {
    address pointer;
    int result;
    switch (roll(dice, 4)) {
    case 0:
        return plainly(&pointer, size, roll(dice, 9));
    case 1:
        return plainly(&pointer, 1 + size / 4096, roll(dice, 9));
    case 2:
        return load_module(&thing->object[MODULE], size, roll(dice, 2));
    default:
        /* From the device's pool: it outlives the context. */
        if (thing->count == PIECES)
            return OK;
        result = cn.cnMemAllocAsync(&thing->pointer[thing->count], size, thing->object[QUEUE]);
        if (result == OK) {
            thing->count++;
            MUST(cn.cnQueueSync(thing->object[QUEUE]));
        }
        return result;
    }
}

static int context_get(struct thing *thing, uint64_t size, uint64_t dice) {
    handle before = vendor.current();
    int result = cn.cnCtxCreate(&thing->object[CONTEXT], 0, cambricon.device);
    if (result != OK)
        return result == NO_ROOM ? OUT_OF_MEMORY : result;
    MUST(cn.cnCreateQueue(&thing->object[QUEUE], 0));
    for (unsigned i = roll(&dice, 4); i && result == OK; i--)
        result = furnish(thing, size, &dice);
    if (result != OK && result != OUT_OF_MEMORY)
        fail("memory in a new context is answered with %d", result);
    MUST(cn.cnCtxSetCurrent(before));
    return OK;
}

static int context_poke(struct thing *thing, uint64_t dice) {
    handle before = vendor.current();
    MUST(cn.cnCtxSetCurrent(thing->object[CONTEXT]));
    int result = furnish(thing, thing->size, &dice);
    MUST(cn.cnCtxSetCurrent(before));
    return result;
}

static void context_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    MUST(cn.cnCtxDestroy(thing->object[CONTEXT]));
    while (thing->count)
        MUST(cn.cnMemFreeAsync(thing->pointer[--thing->count], NULL));
}

const struct kind context_kinds[] = {
    {"module", module_get, nothing_poke, module_give, true, NULL, true},
    {"context", context_get, context_poke, context_give, false, NULL, true},
    {0},
};
