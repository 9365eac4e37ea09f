/* A program of a container's: asks the libraries that it finds under the drivers' names, and says what
 * they answered, a line each. Allocates on the last device until it is refused, and holds that until its input ends. */
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>

typedef int call();

static void *library(const char *name) {
    void *found = dlopen(name, RTLD_NOW);
    if (!found)
        printf("%s\n", dlerror());
    return found;
}

static void say(const char *name, int result, unsigned long long value) {
    printf("%s %d %llu\n", name, result, value);
}

#define ASK(library, name) ((call *)dlsym(library, name))

int main(void) {
    void *cuda = library("libcuda.so.1"), *nvml = library("libnvidia-ml.so.1");
    if (!cuda || !nvml)
        return 1;
    void *context = NULL;
    unsigned long long address = 0, held = 0;
    size_t free_bytes = 0, total = 0;
    int count = 0;
    say("init", ASK(cuda, "cuInit")(0u), 0);
    say("count", ASK(cuda, "cuDeviceGetCount")(&count), (unsigned)count);
    /* What the driver lacks is lacking, what only it has is found. */
    say("lacking", dlsym(cuda, "cuMemAllocManaged") == NULL && dlerror() != NULL, 0);
    say("behind", dlsym(nvml, "nvmlDeviceGetName") != NULL, 0);
    ASK(cuda, "cuDevicePrimaryCtxRetain")(&context, count - 1);
    ASK(cuda, "cuCtxSetCurrent")(context);
    int result;
    while ((result = ASK(cuda, "cuMemAlloc_v2")(&address, (size_t)16 << 20)) == 0)
        held++;
    say("held", result, held);
    ASK(cuda, "cuMemGetInfo_v2")(&free_bytes, &total);
    say("free", 0, free_bytes);
    say("total", 0, total);
    say("freed", ASK(cuda, "cuMemFree_v2")(address), 0);
    say("again", ASK(cuda, "cuMemAlloc_v2")(&address, (size_t)16 << 20), 0);

    unsigned devices = 0, listed = 1;
    void *device = NULL, *other = NULL;
    unsigned long long memory[3] = {0}, process[3] = {0};
    say("nvml", ASK(nvml, "nvmlInitWithFlags")(0u), 0);
    say("devices", ASK(nvml, "nvmlDeviceGetCount_v2")(&devices), devices);
    say("device", ASK(nvml, "nvmlDeviceGetHandleByIndex_v2")(0u, &device), 0);
    say("none", ASK(nvml, "nvmlDeviceGetHandleByIndex_v2")(1u, &other), other != NULL);
    say("memory", ASK(nvml, "nvmlDeviceGetMemoryInfo")(device, memory), memory[0]);
    say("used", 0, memory[2]);
    say("processes", ASK(nvml, "nvmlDeviceGetComputeRunningProcesses_v3")(device, &listed, process),
        listed);
    say("pid", 0, (unsigned)process[0]);
    say("bytes", 0, process[1]);
    puts("holding");
    fflush(stdout);
    getchar();
    return 0;
}
