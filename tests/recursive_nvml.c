/* An NVML that calls its own exported functions as others do, through its procedure linkage table:
 * that is how NVIDIA's is linked. Two devices; what it says of the second depends on the first. */
#include <stdio.h>
#include <string.h>

typedef int result;
typedef struct device *handle;
struct device {
    int number;
};
static struct device devices[2] = {{0}, {1}};
static const char *const uuids[2] = {"GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
                                     "GPU-ffffffff-0405-0607-0809-0a0b0c0d0e0f"};

result nvmlDeviceGetCount_v2(unsigned *count);
result nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *device);
result nvmlDeviceGetUUID(handle device, char *text, unsigned length);

result nvmlInit_v2(void) { return 0; }
result nvmlShutdown(void) { return 0; }

result nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 2;
    return 0;
}

result nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *device) {
    unsigned count = 0;
    nvmlDeviceGetCount_v2(&count);
    if (index >= count)
        return 2;
    *device = &devices[index];
    return 0;
}

result nvmlDeviceGetUUID(handle device, char *text, unsigned length) {
    return snprintf(text, length, "%s", uuids[device->number]) < (int)length ? 0 : 7;
}

/* Not wrapped: how many devices it reaches by its own functions, and how far it gets. */
result nvmlUnitGetCount(unsigned *count) {
    handle device;
    *count = 0;
    nvmlDeviceGetCount_v2(count);
    return nvmlDeviceGetHandleByIndex_v2(*count - 1, &device);
}
