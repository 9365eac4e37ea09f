/* A CUDA driver of two devices that answers little and, when told so, oddly: for what the simulator
 * never does. ODD_INIT is the code that cuInit answers, or `hang`, or `die`. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define DEVICES 2

typedef int CUresult, CUdevice;
typedef void *CUcontext;
typedef unsigned long long CUdeviceptr;
enum { SUCCESS = 0, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };

static __thread CUcontext current, below;
static int retained[DEVICES];
static uintptr_t next_address = 0x7000000000;

EXPORT CUresult cuInit(unsigned int flags) {
    (void)flags;
    const char *told = getenv("ODD_INIT");
    if (!told)
        return SUCCESS;
    if (!strcmp(told, "hang"))
        for (;;)
            pause();
    if (!strcmp(told, "die"))
        abort();
    return atoi(told);
}

EXPORT CUresult cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult code, const char **name) {
    *name = code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
    return SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    *count = visible && !*visible ? 0 : DEVICES;
    return SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal < DEVICES ? SUCCESS : INVALID_DEVICE;
}

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    snprintf(name, (size_t)length, "Odd %d", device);
    return SUCCESS;
}

/* 1a1a…, 1b1b…: both begin with the same digit. */
EXPORT CUresult cuDeviceGetUuid_v2(char uuid[16], CUdevice device) {
    memset(uuid, 0x1a + device, 16);
    return SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    *bytes = (size_t)(device + 1) * 16 << 30;
    return SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = (CUcontext)(uintptr_t)(device + 1);
    retained[device]++;
    return SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    retained[device]--;
    return SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
    *flags = 0;
    *active = retained[device] > 0;
    return SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
    current = context;
    return SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = current;
    return SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
    below = current;
    current = context;
    return SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    *context = current;
    current = below;
    return SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device) {
    *device = (CUdevice)(uintptr_t)current - 1;
    return current ? SUCCESS : INVALID_CONTEXT;
}

/* Always the same: what a context costs cannot be told. */
EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    *free_bytes = *total = (size_t)16 << 30;
    return SUCCESS;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    *address = next_address;
    next_address += (bytes + 0x1fffff) & ~(size_t)0x1fffff;
    return SUCCESS;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
    (void)address;
    return SUCCESS;
}
