/* A driver of the future: functions and versions that no header of today knows. */
#include <stddef.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_SUCH_NAME = 500 };

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }

int cuDriverGetVersion(int *version) {
    *version = 99000;
    return SUCCESS;
}

int cuDeviceGetCount(int *count) {
    *count = 1;
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal ? INVALID_VALUE : SUCCESS;
}

/* The UUID that the test grants. */
int cuDeviceGetUuid_v2(unsigned char uuid[16], int device) {
    for (int i = 0; i < 16; i++)
        uuid[i] = (unsigned char)i;
    return device ? INVALID_VALUE : SUCCESS;
}

int cuMemAlloc_v2(unsigned long long *pointer, size_t bytes) {
    *pointer = bytes;
    return 2002;
}

int cuMemAlloc_v9(unsigned long long *pointer, size_t bytes, void *hint) {
    *pointer = bytes;
    return hint ? 2010 : 2009;
}

int cuFancyNew(int argument) { return argument + 40; }
int cuFancyNew_ptsz(int argument) { return argument + 50; }
int cuGetProcAddress_v3(const char *name) { return name ? 3003 : INVALID_VALUE; }

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags,
                        int *status);
int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags);

static const struct {
    const char *base;
    int since, per_thread;
    void *address;
} known[] = {
    {"cuInit", 2000, 0, cuInit},
    {"cuDriverGetVersion", 2020, 0, cuDriverGetVersion},
    {"cuDeviceGetCount", 2000, 0, cuDeviceGetCount},
    {"cuMemAlloc", 3020, 0, cuMemAlloc_v2},
    {"cuMemAlloc", 98000, 0, cuMemAlloc_v9},
    {"cuFancyNew", 99000, 0, cuFancyNew},
    {"cuFancyNew", 99000, 1, cuFancyNew_ptsz},
    {"cuGetProcAddress", 11030, 0, cuGetProcAddress},
    {"cuGetProcAddress", 12000, 0, cuGetProcAddress_v2},
    {"cuGetProcAddress", 99000, 0, cuGetProcAddress_v3},
};

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags,
                        int *status) {
    int exists = 0;
    *function = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        exists |= !strcmp(name, known[i].base);
        if (!strcmp(name, known[i].base) && version >= known[i].since &&
            (!known[i].per_thread || flags == 2))
            *function = known[i].address;
    }
    if (status)
        *status = *function ? 0 : exists ? 2 : 1;
    return SUCCESS;
}

int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags) {
    int result = cuGetProcAddress_v2(name, function, version, flags, NULL);
    return result == SUCCESS && !*function ? NO_SUCH_NAME : result;
}
