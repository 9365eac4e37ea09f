/* What clients of libcndrv.so share that have no header of anybody's: its interface, as it is published, as
 * far as they use it.
 */
#ifndef CNDRV_PROGRAM_H
#define CNDRV_PROGRAM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int result;
typedef uint64_t u64;
typedef void *handle;

enum { UNION1 = 4, PAGE = 2 << 20 };

result cnInit(unsigned);
result cnDeviceGet(u64 *, int);
result cnCtxCreate(handle *, unsigned, u64);
result cnCtxDestroy(handle);
result cnCtxSync(void);
result cnMemGetInfo(u64 *, u64 *);
result cnMalloc(u64 *, u64);
result cnFree(u64);
result cnMallocHost(void **, u64);
result cnFreeHost(void *);
result cnMemcpyHtoD(u64, const void *, u64);
result cnMemcpyDtoH(void *, u64, u64);
result cnMemsetD8(u64, unsigned char, u64);
result cnCreateQueue(handle *, unsigned);
result cnDestroyQueue(handle);
result cnQueryQueue(handle);
result cnQueueSync(handle);
result cnCreateNotifier(handle *, unsigned);
result cnDestroyNotifier(handle);
result cnPlaceNotifier(handle, handle);
result cnQueryNotifier(handle);
result cnWaitNotifier(handle);
result cnModuleLoadFatBinary(const void *, handle *);
result cnModuleGetKernel(handle, const char *, handle *);
result cnInvokeKernel(handle, unsigned, unsigned, unsigned, int, unsigned, handle, void **,
                      void **);

static void check(const char *what, long long got, long long wanted) {
    if (got == wanted)
        return;
    printf("wrong %s: %lld, not %lld\n", what, got, wanted);
    exit(1);
}
#define WELL(call) check(#call, call, 0)
#define SAY(call) printf("%s: %d\n", #call, call)

static inline void memory(const char *when) {
    u64 left = 0, total = 0;
    WELL(cnMemGetInfo(&left, &total));
    printf("%s: %llu of %llu\n", when, (unsigned long long)left, (unsigned long long)total);
}

static inline void wait_for_line(void) {
    char line[16];
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        exit(1);
}

static inline handle begin_on(int ordinal) {
    handle context;
    u64 device;
    WELL(cnInit(0));
    WELL(cnDeviceGet(&device, ordinal));
    WELL(cnCtxCreate(&context, 0, device));
    return context;
}

#endif
