/* A CUDA program for containers, on the driver's public interface only and without its header.
 *
 *   container_client fill [--by LIBRARY] [--device N] [--step MIB]
 *       takes memory until it is refused, and prints what it was told:
 *       count=… total=… free=… held=… refused=…      (bytes; the driver's result)
 *   container_client hold MIB [--by LIBRARY] [--device N]
 *       takes that much, prints the same line, and keeps it until it is killed
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int result;

static void *find(void *library, const char *name) {
    void *function = dlsym(library, name);
    if (!function) {
        fprintf(stderr, "no %s: %s\n", name, dlerror());
        exit(3);
    }
    return function;
}

static void expect(const char *what, result got) {
    if (got) {
        fprintf(stderr, "%s: %d\n", what, got);
        exit(4);
    }
}

int main(int argc, char **argv) {
    const char *by = "libcuda.so.1";
    size_t limit = (size_t)-1, step = 64;
    int device = 0;
    if (argc < 2)
        return 2;
    int hold = !strcmp(argv[1], "hold");
    if (hold)
        limit = strtoul(argv[2], NULL, 10) << 20;
    for (int i = hold ? 3 : 2; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], "--by"))
            by = argv[i + 1];
        else if (!strcmp(argv[i], "--device"))
            device = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--step"))
            step = strtoul(argv[i + 1], NULL, 10);
    step <<= 20;
    void *library = dlopen(by, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    result (*init)(unsigned) = (result(*)(unsigned))find(library, "cuInit");
    result (*count_of)(int *) = (result(*)(int *))find(library, "cuDeviceGetCount");
    result (*get)(int *, int) = (result(*)(int *, int))find(library, "cuDeviceGet");
    result (*create)(void **, unsigned, int) =
        (result(*)(void **, unsigned, int))find(library, "cuCtxCreate_v2");
    result (*info)(size_t *, size_t *) =
        (result(*)(size_t *, size_t *))find(library, "cuMemGetInfo_v2");
    result (*take)(unsigned long long *, size_t) =
        (result(*)(unsigned long long *, size_t))find(library, "cuMemAlloc_v2");
    expect("cuInit", init(0));
    int count = 0, ordinal = 0;
    expect("cuDeviceGetCount", count_of(&count));
    expect("cuDeviceGet", get(&ordinal, device));
    void *context;
    expect("cuCtxCreate", create(&context, 0, ordinal));
    size_t free_bytes = 0, total = 0, held = 0;
    expect("cuMemGetInfo", info(&free_bytes, &total));
    result refused = 0;
    while (held < limit) {
        unsigned long long pointer;
        size_t piece = limit - held < step ? limit - held : step;
        refused = take(&pointer, piece);
        if (refused)
            break;
        held += piece;
    }
    printf("count=%d total=%zu free=%zu held=%zu refused=%d\n", count, total, free_bytes, held,
           refused);
    fflush(stdout);
    while (hold)
        pause();
    return 0;
}
