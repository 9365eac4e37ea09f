/* Which devices there are: those of the slice, in the driver's order, which is that of PCI addresses.
 *
 * A container's number of a device is its place in that list, as CUDA numbers them with
 * CUDA_DEVICE_ORDER=PCI_BUS_ID. Its minor number stays, since its device file keeps its name.
 */
#include "view.h"

#include <stdlib.h>

/* What the driver has at one of its places: success and `*device` for one of the slice's, "not found"
 * for one of others, and the driver's own error where a device cannot say whose it is: it is lost. */
static nvmlReturn_t at_place(unsigned place, nvmlDevice_t *device) {
    char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    nvmlReturn_t result = aliquot_view_real_handle(place, device);
    /* The slice's are allowed to it. */
    if (result == NVML_ERROR_NO_PERMISSION)
        return NVML_ERROR_NOT_FOUND;
    if (result != NVML_SUCCESS || aliquot_view_shows(*device))
        return result;
    /* Not the slice's, or it has a handle but cannot say what it is called. */
    result = REAL(nvmlDeviceGetUUID)(*device, uuid, sizeof uuid);
    return result == NVML_SUCCESS ? NVML_ERROR_NOT_FOUND : result;
}

/* How many of the slice's devices are at none of the driver's places, so that lost ones are theirs. */
static unsigned missing(unsigned total) {
    unsigned found = 0, granted = aliquot_view_granted();
    for (unsigned place = 0; place < total; place++) {
        nvmlDevice_t device;
        if (at_place(place, &device) == NVML_SUCCESS)
            found += aliquot_view_device(device, NULL) ? 1 : aliquot_view_parts(device, NULL, NULL);
    }
    return found < granted ? granted - found : 0;
}

/* Looks at the slice's devices one after another, up to number `wanted` or to the driver's place
 * `place`, whichever comes first. Answers how many came before, and `*found` (NULL: none, or one that
 * is lost, with its error). A lost device keeps its number, as NVML has it, so that those after it
 * are not taken for others. */
static nvmlReturn_t look(unsigned wanted, unsigned place, unsigned *before, nvmlDevice_t *found) {
    unsigned total = 0, lost = 0;
    bool counted = false;
    nvmlReturn_t result = aliquot_view_real_count(&total);
    *before = 0;
    *found = NULL;
    for (unsigned i = 0; result == NVML_SUCCESS && i < total; i++) {
        nvmlDevice_t device = NULL;
        nvmlReturn_t here = at_place(i, &device);
        if (here == NVML_ERROR_NOT_FOUND)
            continue;
        if (here != NVML_SUCCESS) {
            if (!counted)
                lost = missing(total);
            counted = true;
            if (!lost)
                continue;
            lost--;
        }
        if (*before == wanted || i == place) {
            *found = here == NVML_SUCCESS ? device : NULL;
            return here;
        }
        ++*before;
    }
    return result == NVML_SUCCESS ? NVML_ERROR_NOT_FOUND : result;
}

enum { NOWHERE = ~0u };

static nvmlReturn_t get_count(unsigned *count) {
    nvmlDevice_t none;
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = look(NOWHERE, NOWHERE, count, &none);
    return result == NVML_ERROR_NOT_FOUND ? NVML_SUCCESS : result;
}

nvmlReturn_t aliquot_nvmlDeviceGetCount(unsigned int *count) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetCount)(count);
    ENTER();
    return get_count(count);
}

nvmlReturn_t aliquot_nvmlDeviceGetCount_v2(unsigned int *count) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetCount_v2)(count);
    ENTER();
    return get_count(count);
}

static nvmlReturn_t by_index(unsigned index, nvmlDevice_t *device) {
    unsigned before;
    nvmlDevice_t found;
    if (!device)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = look(index, NOWHERE, &before, &found);
    if (result == NVML_SUCCESS)
        *device = found;
    return result == NVML_ERROR_NOT_FOUND ? NVML_ERROR_INVALID_ARGUMENT : result;
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByIndex)(index, device);
    ENTER();
    return by_index(index, device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByIndex_v2)(index, device);
    ENTER();
    return by_index(index, device);
}

nvmlReturn_t aliquot_nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetIndex)(device, index);
    ENTER();
    unsigned place, before;
    nvmlDevice_t found;
    nvmlReturn_t result = REAL(nvmlDeviceGetIndex)(device, index ? &place : NULL);
    if (result != NVML_SUCCESS)
        return result;
    /* A partition's number is its place on its card. */
    if (aliquot_view_is_part(device)) {
        *index = place;
        return NVML_SUCCESS;
    }
    /* By the driver's places, for no word of NVML's says that a device has one handle only. */
    result = look(NOWHERE, place, &before, &found);
    if (result == NVML_SUCCESS)
        *index = before;
    return result == NVML_ERROR_NOT_FOUND ? NVML_ERROR_INVALID_ARGUMENT : result;
}

/* ---- By name ----------------------------------------------------------------------------------- */

/* What the driver found, if the container is to see it: else there is no such device here. */
static nvmlReturn_t only_own(nvmlReturn_t result, nvmlDevice_t *device) {
    if (result != NVML_SUCCESS || aliquot_view_shows(*device))
        return result;
    *device = NULL;
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByUUID)(uuid, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleByUUID)(uuid, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByUUIDV)(uuid, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleByUUIDV)(uuid, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleBySerial)(serial, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleBySerial)(serial, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByPciBusId(const char *address, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByPciBusId)(address, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleByPciBusId)(address, device), device);
}

nvmlReturn_t aliquot_nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *device) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetHandleByPciBusId_v2)(address, device);
    ENTER();
    return only_own(REAL(nvmlDeviceGetHandleByPciBusId_v2)(address, device), device);
}

/* A place of a card where another slice's partition is looks as if there were none: places may be
 * empty, and clients know it. */
nvmlReturn_t aliquot_nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                         nvmlDevice_t *part) {
    if (OWN_CALL())
        return REAL(nvmlDeviceGetMigDeviceHandleByIndex)(device, index, part);
    ENTER();
    return only_own(REAL(nvmlDeviceGetMigDeviceHandleByIndex)(device, index, part), part);
}

/* ---- Lists of devices ------------------------------------------------------------------------ */

/* A list that the driver is asked for. */
struct list {
    nvmlReturn_t (*ask)(const struct list *list, unsigned *count, nvmlDevice_t *out);
    nvmlDevice_t device;
    nvmlGpuTopologyLevel_t level;
    unsigned cpu;
    nvmlUnit_t unit;
};

/* Asks for all of a list and keeps what the container is to see. `*kept` is to be freed. */
static nvmlReturn_t ask_own(const struct list *list, nvmlDevice_t **kept, unsigned *own) {
    unsigned total = 0;
    *own = 0;
    nvmlReturn_t result = list->ask(list, &total, NULL);
    if (result != NVML_SUCCESS && result != NVML_ERROR_INSUFFICIENT_SIZE)
        return result;
    nvmlDevice_t *all = *kept = calloc(total + 1, sizeof *all);
    if (!all)
        return NVML_ERROR_MEMORY;
    if (total && (result = list->ask(list, &total, all)) != NVML_SUCCESS)
        return result;
    for (unsigned i = 0; i < total; i++)
        if (aliquot_view_shows(all[i]))
            all[(*own)++] = all[i];
    return NVML_SUCCESS;
}

/* Hands a list on as NVML does: `*count` is the room in `out`, 0 to ask how many there are, and gets
 * what there is. Topologies fill what room there is; `whole` lists do not fit then. */
static nvmlReturn_t hand_on(const struct list *list, bool whole, unsigned *count,
                            nvmlDevice_t *out) {
    nvmlDevice_t *kept = NULL;
    unsigned own, room = *count;
    nvmlReturn_t result = ask_own(list, &kept, &own);
    if (result == NVML_SUCCESS) {
        if (whole && own > room)
            result = NVML_ERROR_INSUFFICIENT_SIZE;
        *count = room && !whole && own > room ? room : own;
        for (unsigned i = 0; result == NVML_SUCCESS && i < own && i < room; i++)
            out[i] = kept[i];
    }
    free(kept);
    return result;
}

static nvmlReturn_t ask_nearest(const struct list *list, unsigned *count, nvmlDevice_t *out) {
    return REAL(nvmlDeviceGetTopologyNearestGpus)(list->device, list->level, count, out);
}

nvmlReturn_t aliquot_nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device,
                                                      nvmlGpuTopologyLevel_t level,
                                                      unsigned int *count, nvmlDevice_t *out) {
    if (OWN_CALL() || !count || (*count && !out))
        return REAL(nvmlDeviceGetTopologyNearestGpus)(device, level, count, out);
    ENTER();
    struct list list = {.ask = ask_nearest, .device = device, .level = level};
    return hand_on(&list, false, count, out);
}

static nvmlReturn_t ask_set(const struct list *list, unsigned *count, nvmlDevice_t *out) {
    return REAL(nvmlSystemGetTopologyGpuSet)(list->cpu, count, out);
}

nvmlReturn_t aliquot_nvmlSystemGetTopologyGpuSet(unsigned int cpu, unsigned int *count,
                                                 nvmlDevice_t *out) {
    if (OWN_CALL() || !count || (*count && !out))
        return REAL(nvmlSystemGetTopologyGpuSet)(cpu, count, out);
    ENTER();
    struct list list = {.ask = ask_set, .cpu = cpu};
    return hand_on(&list, false, count, out);
}

static nvmlReturn_t ask_unit(const struct list *list, unsigned *count, nvmlDevice_t *out) {
    return REAL(nvmlUnitGetDevices)(list->unit, count, out);
}

nvmlReturn_t aliquot_nvmlUnitGetDevices(nvmlUnit_t unit, unsigned int *count, nvmlDevice_t *out) {
    if (OWN_CALL() || !count || (*count && !out))
        return REAL(nvmlUnitGetDevices)(unit, count, out);
    ENTER();
    struct list list = {.ask = ask_unit, .unit = unit};
    return hand_on(&list, true, count, out);
}
