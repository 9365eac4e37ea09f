/* A CUDA program for containers that always has work for the device: it launches kernels as fast as it
 * is let, and waits for each hundred of them. On the driver's public interface only and without its
 * header; it runs until it is killed. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* Each block spins for so many cycles. */
static const char image[] = ".version 7.0\n"
                            ".target sm_50\n"
                            ".address_size 64\n"
                            ".visible .entry work(.param .u64 cycles) {\n"
                            "    .reg .u64 %first, %now, %cycles;\n"
                            "    .reg .pred %more;\n"
                            "    ld.param.u64 %cycles, [cycles];\n"
                            "    mov.u64 %first, %clock64;\n"
                            "again:\n"
                            "    mov.u64 %now, %clock64;\n"
                            "    sub.u64 %now, %now, %first;\n"
                            "    setp.lt.u64 %more, %now, %cycles;\n"
                            "    @%more bra again;\n"
                            "    ret;\n"
                            "}\n";
enum { BLOCKS = 100000, THREADS = 1024, CYCLES = 2000 };

static void *library;

static void *find(const char *name) {
    void *function = dlsym(library, name);
    if (!function) {
        fprintf(stderr, "no %s: %s\n", name, dlerror());
        exit(3);
    }
    return function;
}

static void expect(const char *what, int got) {
    if (got) {
        fprintf(stderr, "%s: %d\n", what, got);
        exit(4);
    }
}

int main(void) {
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    int (*init)(unsigned) = (int (*)(unsigned))find("cuInit");
    int (*retain)(void **, int) = (int (*)(void **, int))find("cuDevicePrimaryCtxRetain");
    int (*use)(void *) = (int (*)(void *))find("cuCtxSetCurrent");
    int (*load)(void **, const void *) = (int (*)(void **, const void *))find("cuModuleLoadData");
    int (*get)(void **, void *, const char *) =
        (int (*)(void **, void *, const char *))find("cuModuleGetFunction");
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                  void *, void **, void **) =
        (int (*)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                 void *, void **, void **))find("cuLaunchKernel");
    int (*wait)(void) = (int (*)(void))find("cuCtxSynchronize");
    void *context, *module, *kernel;
    expect("cuInit", init(0));
    expect("cuDevicePrimaryCtxRetain", retain(&context, 0));
    expect("cuCtxSetCurrent", use(context));
    expect("cuModuleLoadData", load(&module, image));
    expect("cuModuleGetFunction", get(&kernel, module, "work"));
    unsigned long long cycles = CYCLES;
    void *parameters[] = {&cycles};
    for (unsigned done = 1;; done++) {
        expect("cuLaunchKernel",
               launch(kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, NULL, parameters, NULL));
        if (done % 100 == 0)
            expect("cuCtxSynchronize", wait());
    }
}
