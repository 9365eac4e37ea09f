/* Holds NVML's library to its ABI: what each version of a structure may be written, what callers
 * learn of the room they need, and how it is begun and ended.
 *
 * Run on a node of two devices, on the first of which one other process holds memory; argument: how
 * many bytes that is.
 */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { GUARD = 0xa5, ROOM = 256 };
static unsigned char bytes[ROOM];

static void *guarded(void) { return memset(bytes, GUARD, sizeof bytes); }

/* How many bytes from the beginning on were written. */
static size_t written(void) {
    size_t end = sizeof bytes;
    while (end && bytes[end - 1] == GUARD)
        end--;
    return end;
}

static void versions_write_what_they_know(nvmlDevice_t device) {
    unsigned count;
    CHECK(!nvmlDeviceGetPciInfo(device, guarded()) && written() == 32);
    CHECK(!nvmlDeviceGetPciInfo_v2(device, guarded()) && written() == 52);
    CHECK(!nvmlDeviceGetPciInfo_v3(device, guarded()) && written() == 68);
    CHECK(!strcmp(((nvmlPciInfo_t *)(void *)bytes)->busId, "00000000:10:00.0"));
    CHECK(!strcmp(((nvmlPciInfo_t *)(void *)bytes)->busIdLegacy, "0000:10:00.0"));
    CHECK(!nvmlDeviceGetNvLinkRemotePciInfo(device, 0, guarded()) && written() == 52);
    CHECK(!nvmlDeviceGetNvLinkRemotePciInfo_v2(device, 0, guarded()) && written() == 68);
    CHECK(!strcmp(((nvmlPciInfo_t *)(void *)bytes)->busId, "00000000:18:00.0"));
    CHECK(!nvmlDeviceGetMemoryInfo(device, guarded()) && written() == 24);
    CHECK((count = 4) && !nvmlDeviceGetComputeRunningProcesses(device, &count, guarded()) &&
          count == 1 && written() == 16);
    CHECK((count = 4) && !nvmlDeviceGetComputeRunningProcesses_v2(device, &count, guarded()) &&
          count == 1 && written() == 24);
    CHECK((count = 4) && !nvmlDeviceGetComputeRunningProcesses_v3(device, &count, guarded()) &&
          count == 1 && written() == 24);

    nvmlMemory_v2_t memory = {.version = 7};
    CHECK(nvmlDeviceGetMemoryInfo_v2(device, &memory) == NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    memory.version = nvmlMemory_v2;
    nvmlMemory_t old;
    CHECK(!nvmlDeviceGetMemoryInfo_v2(device, &memory) && !nvmlDeviceGetMemoryInfo(device, &old));
    CHECK(memory.total == memory.reserved + memory.used + memory.free && memory.reserved);
    CHECK(old.total == old.used + old.free && old.used == memory.used + memory.reserved);
}

static void lists_say_what_room_they_need(nvmlDevice_t device, nvmlDevice_t idle,
                                          unsigned long long held) {
    nvmlProcessInfo_t one;
    nvmlProcessInfo_v1_t old;
    unsigned count = 0;
    CHECK(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, NULL) ==
              NVML_ERROR_INSUFFICIENT_SIZE &&
          count == 1);
    CHECK(!nvmlDeviceGetComputeRunningProcesses_v3(device, &count, &one));
    CHECK(one.usedGpuMemory == held && one.gpuInstanceId == 0xffffffff);
    CHECK(!nvmlDeviceGetComputeRunningProcesses(device, &count, &old) && old.pid == one.pid &&
          old.usedGpuMemory == held);
    CHECK(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, NULL) ==
          NVML_ERROR_INVALID_ARGUMENT);
    CHECK(nvmlDeviceGetComputeRunningProcesses_v3(device, NULL, &one) ==
          NVML_ERROR_INVALID_ARGUMENT);
    count = 0;
    CHECK(!nvmlDeviceGetComputeRunningProcesses_v3(idle, &count, NULL) && count == 0);
    CHECK((count = 9) && !nvmlDeviceGetMPSComputeRunningProcesses_v3(device, &count, &one) &&
          count == 0);
    nvmlProcessDetail_v1_t detail;
    nvmlProcessDetailList_t list = {.version = nvmlProcessDetailList_v1, .mode = 0};
    CHECK(nvmlDeviceGetRunningProcessDetailList(device, &list) == NVML_ERROR_INSUFFICIENT_SIZE);
    list.procArray = &detail;
    CHECK(!nvmlDeviceGetRunningProcessDetailList(device, &list) && detail.pid == one.pid);

    nvmlProcessUtilizationSample_t sample;
    count = 1; /* the process has never run anything */
    CHECK(nvmlDeviceGetProcessUtilization(device, &sample, &count, 0) == NVML_ERROR_NOT_FOUND);
    char text[8];
    CHECK(nvmlDeviceGetUUID(device, text, sizeof text) == NVML_ERROR_INSUFFICIENT_SIZE);
}

static void what_there_is_not_is_not_supported(nvmlDevice_t device) {
    unsigned number, pending;
    nvmlEnableState_t state;
    nvmlDevice_t other;
    nvmlDeviceAttributes_t attributes;
    CHECK(nvmlDeviceGetMigMode(device, &number, &pending) == NVML_ERROR_NOT_SUPPORTED);
    CHECK(nvmlDeviceGetFanSpeed(device, &number) == NVML_ERROR_NOT_SUPPORTED);
    CHECK(nvmlDeviceGetAccountingMode(device, &state) == NVML_ERROR_NOT_SUPPORTED);
    CHECK(nvmlDeviceGetAttributes_v2(device, &attributes) == NVML_ERROR_NOT_SUPPORTED);
    CHECK(nvmlDeviceGetMigDeviceHandleByIndex(device, 0, &other) == NVML_ERROR_NOT_SUPPORTED);
    CHECK(!nvmlDeviceIsMigDeviceHandle(device, &number) && number == 0);
    CHECK(nvmlDeviceGetNvLinkState(device, 2, &state) == NVML_ERROR_NOT_SUPPORTED);
    CHECK(nvmlDeviceGetNvLinkState(device, NVML_NVLINK_MAX_LINKS, &state) ==
          NVML_ERROR_INVALID_ARGUMENT);
    CHECK(!nvmlDeviceGetNvLinkState(device, 1, &state) && state == NVML_FEATURE_ENABLED);
    CHECK(nvmlDeviceGetIndex((nvmlDevice_t)(void *)&number, &number) ==
          NVML_ERROR_INVALID_ARGUMENT);
    nvmlFieldValue_t fields[2] = {{.fieldId = NVML_FI_DEV_NVLINK_LINK_COUNT}, {.fieldId = 1}};
    CHECK(!nvmlDeviceGetFieldValues(device, 2, fields));
    CHECK(fields[0].nvmlReturn == NVML_SUCCESS && fields[0].value.uiVal == 2);
    CHECK(fields[1].nvmlReturn == NVML_ERROR_NOT_SUPPORTED);
}

/* ---- Begun, ended, forked ---------------------------------------------------------------------- */

static void *wait_for_event(void *argument) {
    nvmlEventData_t data;
    return (void *)(size_t)nvmlEventSetWait_v2(argument, &data, 0xffffffff);
}

static void *begin_and_end(void *argument) {
    for (int n = 0; n < 200; n++) {
        nvmlDevice_t device;
        nvmlUtilization_t rates;
        if (nvmlInit_v2())
            return (void *)1;
        nvmlReturn_t result = nvmlDeviceGetHandleByIndex_v2(0, &device);
        if (result || nvmlDeviceGetUtilizationRates(device, &rates) || nvmlShutdown())
            return (void *)1;
    }
    return argument;
}

static void uses_are_counted(void) {
    unsigned count;
    CHECK(nvmlShutdown() == NVML_ERROR_UNINITIALIZED);
    CHECK(nvmlDeviceGetCount_v2(&count) == NVML_ERROR_UNINITIALIZED);
    CHECK(!nvmlInit_v2() && !nvmlInit() && !nvmlInitWithFlags(1));
    CHECK(!nvmlShutdown() && !nvmlShutdown());
    CHECK(!nvmlDeviceGetCount_v2(&count) && count == 2);
    CHECK(!nvmlShutdown() && nvmlShutdown() == NVML_ERROR_UNINITIALIZED);
    CHECK(nvmlDeviceGetCount_v2(&count) == NVML_ERROR_UNINITIALIZED);

    pthread_t threads[4];
    void *failed;
    for (int t = 0; t < 4; t++)
        CHECK(!pthread_create(&threads[t], NULL, begin_and_end, NULL));
    for (int t = 0; t < 4; t++)
        CHECK(!pthread_join(threads[t], &failed) && !failed);
    CHECK(nvmlShutdown() == NVML_ERROR_UNINITIALIZED);
}

static void a_waiter_learns_of_the_end(void) {
    nvmlEventSet_t set;
    pthread_t thread;
    void *result;
    CHECK(!nvmlInit_v2() && !nvmlEventSetCreate(&set));
    CHECK(!pthread_create(&thread, NULL, wait_for_event, set));
    CHECK(!nvmlShutdown() && !pthread_join(thread, &result));
    CHECK((size_t)result == NVML_ERROR_UNINITIALIZED);
    CHECK(nvmlEventSetFree(set) == NVML_ERROR_UNINITIALIZED);
    CHECK(!nvmlInit_v2() && !nvmlEventSetFree(set) && !nvmlShutdown());
}

static void a_child_begins_anew(nvmlDevice_t device) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        unsigned index, count;
        CHECK(nvmlDeviceGetIndex(device, &index) == NVML_ERROR_UNINITIALIZED);
        CHECK(nvmlShutdown() == NVML_ERROR_UNINITIALIZED);
        CHECK(!nvmlInit_v2() && !nvmlDeviceGetCount_v2(&count) && count == 2);
        CHECK(!nvmlShutdown());
        exit(0);
    }
    int status;
    unsigned index;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(!nvmlDeviceGetIndex(device, &index) && index == 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    uses_are_counted();
    a_waiter_learns_of_the_end();
    CHECK(!nvmlInit_v2());
    nvmlDevice_t device, idle;
    CHECK(!nvmlDeviceGetHandleByIndex_v2(0, &device) && !nvmlDeviceGetHandleByIndex_v2(1, &idle));
    CHECK(nvmlDeviceGetHandleByIndex_v2(2, &idle) == NVML_ERROR_INVALID_ARGUMENT);
    versions_write_what_they_know(device);
    lists_say_what_room_they_need(device, idle, strtoull(argv[1], NULL, 10));
    what_there_is_not_is_not_supported(device);
    a_child_begins_anew(device);
    /* An old program's event ends before the instances of MIG: the guard behind it stays. */
    nvmlEventSet_t set;
    CHECK(!nvmlEventSetCreate(&set) &&
          !nvmlDeviceRegisterEvents(device, nvmlEventTypeXidCriticalError, set));
    CHECK(nvmlDeviceRegisterEvents(device, nvmlEventTypeClock, set) == NVML_ERROR_NOT_SUPPORTED);
    CHECK(nvmlEventSetWait(set, guarded(), 0) == NVML_ERROR_TIMEOUT && written() == 0);
    printf("ready\n");
    fflush(stdout);
    CHECK(!nvmlEventSetWait(set, guarded(), 60000) && written() == 24);
    nvmlEventData_t *data = (nvmlEventData_t *)(void *)bytes;
    CHECK(data->device == device && data->eventData == 79);
    CHECK(data->eventType == nvmlEventTypeXidCriticalError);
    CHECK(!nvmlEventSetFree(set) && !nvmlShutdown());
    printf("well\n");
    return 0;
}
