/* Opens each library that it is asked for, by the real loader, and says what the driver's devices
 * have: `NAME FILE TOTAL`, the file that the loader took and the bytes that its first device is said
 * to have; 0 for a library that is no driver, and `NAME - REASON` for one that cannot be opened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

static size_t total_of(void *library) {
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(library, "cuInit");
    int (*get)(int *, int) = (int (*)(int *, int))dlsym(library, "cuDeviceGet");
    int (*total)(size_t *, int) = (int (*)(size_t *, int))dlsym(library, "cuDeviceTotalMem_v2");
    int device = 0;
    size_t bytes = 0;
    if (!init || !get || !total || init(0) || get(&device, 0) || total(&bytes, device))
        return 0;
    return bytes;
}

int main(void) {
    char name[8192];
    while (fgets(name, sizeof name, stdin)) {
        name[strcspn(name, "\n")] = 0;
        void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        struct link_map *map;
        if (!library || dlinfo(library, RTLD_DI_LINKMAP, &map))
            printf("%s - %s\n", name, dlerror());
        else
            printf("%s %s %zu\n", name, map->l_name, total_of(library));
        if (library)
            dlclose(library);
    }
    return 0;
}
