/* Code, and work that is recorded into a model: neither takes memory of the device that is told of. */
#include "tenant_ascend.h"

enum { BINARY, FUNCTION };     /* of code */
enum { MODEL, STREAM, BOUND }; /* of a recording; the other stream is what was bound */

static void synchronise_all(void) {
    for (int i = 0; i < 2; i++)
        MUST(npu.aclrtSynchronizeStream(ascend.stream[i]));
}

/* -- Code --------------------------------------------------------------------------------------------- */

static int module_get(struct thing *thing, uint64_t size, uint64_t dice) {
    (void)size;
    /* Code of which nothing is known but that there is some. */
    thing->flag[0] = roll(&dice, 2);
    if (thing->flag[0]) {
        MUST(npu.rtsBinaryLoadFromFile("/proc/self/exe", NULL, &thing->object[BINARY]));
        MUST(npu.rtsFuncGetByName(thing->object[BINARY], "aliquot_spin_ns",
                                  &thing->object[FUNCTION]));
    } else {
        MUST(npu.aclrtBinaryLoadFromFile("/proc/self/exe", NULL, &thing->object[BINARY]));
        MUST(npu.aclrtBinaryGetFunction(thing->object[BINARY], "aliquot_spin_ns",
                                        &thing->object[FUNCTION]));
    }
    return OK;
}

static int module_poke(struct thing *thing, uint64_t dice) {
    uint64_t ns = 1000 + roll(&dice, 50000);
    MUST(npu.aclrtLaunchKernel(thing->object[FUNCTION], 1 + roll(&dice, 8), &ns, sizeof ns,
                               ascend.stream[roll(&dice, 2)]));
    return OK;
}

static void module_give(struct thing *thing, uint64_t dice) {
    (void)dice;
    synchronise_all();
    MUST(thing->flag[0] ? npu.rtBinaryUnLoad(thing->object[BINARY])
                        : npu.aclrtBinaryUnLoad(thing->object[BINARY]));
}

/* -- Models ------------------------------------------------------------------------------------------- */

static void fill(const struct thing *thing, void *in) {
    uint64_t length = thing->size < 4096 ? thing->size : 4096;
    MUST(npu.aclrtMemsetAsync((void *)thing->pointer[0], length, 9, length, in));
}

static void capture(struct thing *thing) {
    enum { RELAXED = 2 }; /* others allocate meanwhile */
    pthread_rwlock_wrlock(&ascend.capturing);
    MUST(npu.aclmdlRICaptureBegin(thing->object[STREAM], RELAXED));
    fill(thing, thing->object[STREAM]);
    MUST(npu.aclmdlRICaptureEnd(thing->object[STREAM], &thing->object[MODEL]));
    pthread_rwlock_unlock(&ascend.capturing);
}

static void bind(struct thing *thing) {
    MUST(npu.aclrtCreateStream(&thing->object[BOUND]));
    MUST(npu.rtModelCreate(&thing->object[MODEL], 0));
    MUST(npu.rtModelBindStream(thing->object[MODEL], thing->object[BOUND], 0));
    fill(thing, thing->object[BOUND]);
    MUST(npu.rtModelLoadComplete(thing->object[MODEL]));
}

/* What is recorded fills memory, which is there before and after. */
static int recording_get(struct thing *thing, uint64_t size, uint64_t dice) {
    int result = vendor.allocate(&thing->pointer[0], size);
    if (result != OK)
        return result;
    MUST(npu.aclrtCreateStream(&thing->object[STREAM]));
    if (roll(&dice, 2))
        capture(thing);
    else
        bind(thing);
    return OK;
}

static int recording_poke(struct thing *thing, uint64_t dice) {
    unsigned char byte = 0;
    for (unsigned times = 1 + roll(&dice, 3); times; times--)
        MUST(npu.aclmdlRIExecuteAsync(thing->object[MODEL], thing->object[STREAM]));
    MUST(npu.aclrtSynchronizeStream(thing->object[STREAM]));
    vendor.read(&byte, thing->pointer[0], 1);
    if (byte != 9)
        fail("a model has filled memory with %d", byte);
    return OK;
}

static void recording_give(struct thing *thing, uint64_t dice) {
    if (thing->object[BOUND])
        MUST(npu.rtModelUnbindStream(thing->object[MODEL], thing->object[BOUND]));
    MUST(roll(&dice, 2) ? npu.aclmdlRIDestroy(thing->object[MODEL])
                        : npu.rtModelDestroy(thing->object[MODEL]));
    if (thing->object[BOUND])
        MUST(npu.aclrtDestroyStream(thing->object[BOUND]));
    MUST(npu.aclrtDestroyStream(thing->object[STREAM]));
    MUST(vendor.free(thing->pointer[0]));
}

const struct kind work_kinds[] = {
    {"module", module_get, module_poke, module_give, true, NULL, true},
    {"recording", recording_get, recording_poke, recording_give, true, NULL, true},
    {0},
};
