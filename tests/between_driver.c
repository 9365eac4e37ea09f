/* A driver that passes every call on, and lets the program in before cuThreadExchangeStreamCaptureMode, which a shim
 * calls around what it asks for itself: where the
 * program has a function `between`, it is called. It lies where a shim finds its
 * driver. NAMES is a file with the list of the driver's functions, TRUE_DRIVER the name under which the
 * driver itself is found. */
#include <cuda.h>

#include <dlfcn.h>
#include <stdlib.h>

static const char *const names[] = {
#define F(number, name) #name,
#include NAMES
#undef F
};
enum { COUNT = sizeof names / sizeof *names };

__attribute__((visibility("hidden"), used)) void *between_real[COUNT];

#define F(number, name)                                                                            \
    __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n"                    \
            "jmp *between_real+8*" #number "(%rip)\n.size " #name ", . - " #name "\n");
#include NAMES
#undef F

static CUresult (*exchange)(CUstreamCaptureMode *);

static CUresult exchange_later(CUstreamCaptureMode *mode) {
    void (*between)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "between");
    if (between)
        between();
    return exchange(mode);
}

__attribute__((constructor)) static void find(void) {
    void *driver = dlopen(TRUE_DRIVER, RTLD_LAZY | RTLD_NOLOAD);
    for (int i = 0; i < COUNT; i++)
        if (!driver || !(between_real[i] = dlsym(driver, names[i])))
            abort();
    for (int i = 0; i < COUNT; i++)
        if (between_real[i] == dlsym(driver, "cuThreadExchangeStreamCaptureMode")) {
            exchange = (CUresult(*)(CUstreamCaptureMode *))between_real[i];
            between_real[i] = (void *)exchange_later;
        }
}
