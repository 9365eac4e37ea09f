/* A CUDA program for a processor that is not this one: takes 64 MiB at a time until it is refused, and
 * prints what it holds, the driver's last answer, and what a name that is nobody's is answered. */
#include <dlfcn.h>
#include <stdio.h>

typedef int result;

int main(int argc, char **argv) {
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    result (*init)(unsigned) = (result(*)(unsigned))dlsym(library, "cuInit");
    result (*retain)(void **, int) =
        (result(*)(void **, int))dlsym(library, "cuDevicePrimaryCtxRetain");
    result (*set)(void *) = (result(*)(void *))dlsym(library, "cuCtxSetCurrent");
    result (*take)(unsigned long long *, size_t) =
        (result(*)(unsigned long long *, size_t))dlsym(library, "cuMemAlloc_v2");
    if (!init || !retain || !set || !take)
        return 3;
    void *context;
    result answer = init(0);
    if (answer || (answer = retain(&context, 0)) || (answer = set(context))) {
        fprintf(stderr, "no context: %d\n", answer);
        return 4;
    }
    unsigned long long pointer, held = 0;
    while (held < 4096 && !(answer = take(&pointer, (size_t)64 << 20)))
        held += 64;
    printf("held=%llu answer=%d nobody=%d\n", held, answer, dlsym(library, "cuNobodys") != NULL);
    return 0;
}
