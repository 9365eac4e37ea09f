#include "attach.h"

#include "core/slice.h"
#include "shim/driver.h"
#include "shim/memory/allocation.h"
#include "shim/time/process.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Written under the mutex, before the process is ready. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int indices[ALIQUOT_ORDINALS];
static int ordinals[ALIQUOT_MAX_DEVICES];
static int shown; /* devices that the driver shows; those above ALIQUOT_ORDINALS are of no slice */

static void say(const struct aliquot_error *error) {
    static _Atomic int said;
    int saved = errno;
    if (!atomic_exchange_explicit(&said, 1, memory_order_relaxed))
        dprintf(STDERR_FILENO, "aliquot: no %s in this process: %s\n", aliquot_vendor.what,
                error->text);
    errno = saved;
}

static void forget(void) {
    pthread_mutex_init(&mutex, NULL);
    aliquot_vendor.forget();
}

bool aliquot_join(void) {
    struct aliquot_error error;
    const char *folder = aliquot_folder();
    snprintf(error.text, sizeof error.text, "the %s behind the shim was not found",
             aliquot_vendor.library);
    if (folder && aliquot_attach(folder, forget, &error))
        return true;
    say(&error);
    return false;
}

static int index_of(const unsigned char uuid[16]) {
    for (uint32_t d = 0; d < aliquot_slice.device_count; d++)
        if (!memcmp(aliquot_slice.grant->device[d].uuid, uuid, 16))
            return (int)d;
    return -1;
}

void aliquot_map_devices(int count) {
    bool found = false;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < ALIQUOT_ORDINALS; i++) {
        unsigned char uuid[16];
        /* Asked twice: what it is not known by now stays unknown. */
        bool told = i < count && (aliquot_vendor.uuid(i, uuid) || aliquot_vendor.uuid(i, uuid));
        indices[i] = told ? index_of(uuid) : -1;
        found |= indices[i] >= 0;
    }
    if (!found && aliquot_vendor.otherwise)
        aliquot_vendor.otherwise(count, indices);
    for (uint32_t d = 0; d < ALIQUOT_MAX_DEVICES; d++)
        ordinals[d] = -1;
    for (int i = 0; i < ALIQUOT_ORDINALS; i++)
        if (indices[i] >= 0)
            ordinals[indices[i]] = i;
    shown = count;
    uint64_t page = aliquot_slice.grant->device[0].page_bytes;
    aliquot_pointers.page_shift = (unsigned)__builtin_ctzll(page);
    if (aliquot_vendor.settle)
        aliquot_settle = aliquot_vendor.settle;
    aliquot_one_device = count == 1;
    aliquot_set_prepared();
    pthread_mutex_unlock(&mutex);
}

int aliquot_mapped(int ordinal) {
    if (ordinal < 0 || ordinal >= shown)
        return ALIQUOT_NO_SUCH_DEVICE;
    return ordinal < ALIQUOT_ORDINALS ? indices[ordinal] : -1;
}

int aliquot_mapped_from(uint32_t device) {
    return device < ALIQUOT_MAX_DEVICES ? ordinals[device] : -1;
}
