/* An NVML of three devices that calls its own functions by their names, so that whatever stands before
 * it gets these calls too: as NVIDIA's does. */
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DEVICES = 3 };

struct device {
    int number;
};
static struct device devices[DEVICES] = {{0}, {1}, {2}};

EXPORT int nvmlInit_v2(void) { return SUCCESS; }
EXPORT int nvmlInit(void) { return nvmlInit_v2(); }

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = DEVICES;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

/* As many as it counts, by its own word. */
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
    unsigned count = 0;
    int result = nvmlDeviceGetCount_v2(&count);
    if (result || index >= count)
        return INVALID_ARGUMENT;
    *device = &devices[index];
    return SUCCESS;
}

EXPORT int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%08x-0000-0000-0000-000000000000", device->number + 1);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetIndex(struct device *device, unsigned *index) {
    *index = (unsigned)device->number;
    return SUCCESS;
}

/* Not wrapped by anybody: tells what the library itself gets where it asks itself. */
EXPORT int nvmlDeviceGetBoardId(struct device *device, unsigned *board) {
    unsigned count = 0, index = 0;
    struct device *last = NULL;
    int result = nvmlDeviceGetCount_v2(&count);
    if (!result)
        result = nvmlDeviceGetHandleByIndex_v2(count - 1, &last);
    if (!result)
        result = nvmlDeviceGetIndex(last, &index);
    *board = count * 100 + index * 10 + (unsigned)device->number;
    return result;
}

struct memory {
    unsigned long long total, free, used;
};

EXPORT int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory) {
    unsigned index = 0;
    int result = nvmlDeviceGetIndex(device, &index);
    *memory = (struct memory){(index + 1ull) << 30, 1ull << 30, index * 1ull << 30};
    return result;
}

EXPORT int nvmlDeviceGetConfComputeProtectedMemoryUsage(struct device *device,
                                                        struct memory *memory) {
    return nvmlDeviceGetMemoryInfo(device, memory);
}

struct process {
    unsigned pid;
    unsigned long long used;
};

/* Somebody else's. */
EXPORT int nvmlDeviceGetComputeRunningProcesses(struct device *device, unsigned *count,
                                                struct process *out) {
    (void)device;
    unsigned room = *count;
    *count = 1;
    if (!room)
        return INSUFFICIENT_SIZE;
    out[0] = (struct process){1, 1};
    return SUCCESS;
}

/* A whole node's accounts. */
EXPORT int nvmlDeviceGetAccountingStats(struct device *device, unsigned pid, char stats[56]) {
    (void)device, (void)pid;
    memset(stats, 0x55, 56);
    return SUCCESS;
}

/* A session of somebody's; asked with no room, NVML tells how many there are, and that it went well. */
static int sessions(unsigned *count, unsigned *out) {
    unsigned room = *count;
    *count = 1;
    if (room)
        out[0] = 1;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetEncoderSessions(struct device *device, unsigned *count, unsigned *out) {
    (void)device;
    return sessions(count, out);
}

EXPORT int nvmlDeviceGetFBCSessions(struct device *device, unsigned *count, unsigned *out) {
    (void)device;
    return sessions(count, out);
}

/* A chassis with all devices in it, and what is near all. */
static int list(unsigned *count, struct device **out) {
    unsigned room = *count;
    *count = DEVICES;
    for (unsigned i = 0; i < DEVICES && i < room; i++)
        out[i] = &devices[i];
    return SUCCESS;
}

EXPORT int nvmlUnitGetDevices(void *unit, unsigned *count, struct device **out) {
    (void)unit;
    if (*count < DEVICES) {
        *count = DEVICES;
        return INSUFFICIENT_SIZE;
    }
    return list(count, out);
}

EXPORT int nvmlSystemGetTopologyGpuSet(unsigned cpu, unsigned *count, struct device **out) {
    (void)cpu;
    return list(count, out);
}
