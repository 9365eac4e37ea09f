/* A client of libcndev.so that has no header of anybody's: it knows the interface by names, sizes and
 * offsets alone, as published, and checks what it can while it goes.
 *
 * cndev_client [hold]: prints one line "NAME VALUE" for each reading; with `hold`, waits for a line
 * on standard input once it has made an instance of half a device, and then releases it.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*call)();

static void *library;

static call find(const char *name) {
    call found;
    void *address = dlsym(library, name);
    if (!address) {
        printf("missing %s\n", name);
        exit(1);
    }
    memcpy(&found, &address, sizeof found);
    return found;
}

static void expect(const char *what, long long got, long long wanted) {
    if (got == wanted)
        return;
    printf("wrong %s: %lld, not %lld\n", what, got, wanted);
    exit(1);
}

/* A structure: more room than it has, filled, so that what is written past its end shows. */
enum { ROOM = 1 << 16, FILL = 0xa5 };
struct box {
    size_t size;
    unsigned char bytes[ROOM];
};

static struct box *box(size_t size, int32_t version) {
    static struct box made[8];
    static unsigned next;
    struct box *one = &made[next++ % 8];
    one->size = size;
    memset(one->bytes, 0, size);
    memset(one->bytes + size, FILL, ROOM - size);
    if (version)
        memcpy(one->bytes, &version, sizeof version);
    return one;
}

static void whole(const char *what, const struct box *one) {
    for (size_t at = one->size; at < ROOM; at++)
        if (one->bytes[at] != FILL)
            expect(what, (long long)at, -1);
}

static uint32_t u32(const struct box *one, size_t offset) {
    uint32_t value;
    memcpy(&value, one->bytes + offset, sizeof value);
    return value;
}

static uint64_t u64(const struct box *one, size_t offset) {
    uint64_t value;
    memcpy(&value, one->bytes + offset, sizeof value);
    return value;
}

static void put64(struct box *one, size_t offset, uint64_t value) {
    memcpy(one->bytes + offset, &value, sizeof value);
}

static void put32(struct box *one, size_t offset, uint32_t value) {
    memcpy(one->bytes + offset, &value, sizeof value);
}

/* Calls a function that fills a structure of a device. */
static struct box *get(const char *name, size_t size, int32_t version, int32_t device) {
    struct box *one = box(size, version);
    expect(name, find(name)(one->bytes, device), 0);
    whole(name, one);
    if (version)
        expect(name, u32(one, 0), version);
    return one;
}

static void readings(int32_t device) {
    printf("uuid %.36s\n", get("cndevGetUUID", 56, 6, device)->bytes + 4);
    struct box *memory = get("cndevGetMemoryUsageV2", 176, 0, device);
    printf("total %llu\nused %llu\nreserved %llu\n", (unsigned long long)u64(memory, 0),
           (unsigned long long)u64(memory, 8), (unsigned long long)u64(memory, 16));
    const struct box *pcie = get("cndevGetPCIeInfoV2", 64, 0, device);
    printf("pci %04x:%02x:%02x.%x\n", u32(pcie, 12), u32(pcie, 16), u32(pcie, 20), u32(pcie, 24));
    printf("vendor %04x\n", u32(pcie, 8) & 0xffff);
    printf("numa %d\n", (int)u32(get("cndevGetNUMANodeIdByDevId", 8, 6, device), 4));
    printf("busy %u\n", u32(get("cndevGetDeviceUtilizationInfo", 328, 6, device), 4));
    printf("watts %u\n", u32(get("cndevGetDevicePowerInfo", 84, 0, device), 0));
    printf("degrees %u\n", u32(get("cndevGetTemperatureInfo", 148, 6, device), 120));
    const struct box *health = get("cndevGetCardHealthState", 16, 6, device);
    printf("health %u %u %u\n", u32(health, 4), u32(health, 8), u32(health, 12));
    const struct box *more = get("cndevGetCardHealthStateV2", 34612, 0, device);
    printf("incidents %u\n", u32(more, 16));
    printf("mode %u\n", u32(get("cndevGetComputeMode", 8, 6, device), 4));
    const struct box *version = get("cndevGetVersionInfo", 28, 6, device);
    printf("driver %u.%u.%u\n", u32(version, 16), u32(version, 20), u32(version, 24));
    int links = find("cndevGetMLULinkPortNumber")(device);
    printf("links %d\n", links);
    if (links > 0) {
        struct box *remote = box(376, 6);
        expect("remote", find("cndevGetMLULinkRemoteInfo")(remote->bytes, device, 0), 0);
        whole("remote", remote);
        printf("remote %.36s\n", remote->bytes + 48);
        expect("no link", find("cndevGetMLULinkRemoteInfo")(remote->bytes, device, links), 11);
    }
}

static void refusals(int32_t device) {
    struct box *uuid = box(56, 5);
    expect("an older version", find("cndevGetUUID")(uuid->bytes, device), 3);
    expect("a newer version", find("cndevGetUUID")(box(56, 7)->bytes, device), 3);
    expect("no structure", find("cndevGetUUID")(NULL, device), 5);
    expect("no device", find("cndevGetUUID")(box(56, 6)->bytes, 99), 6);
    expect("partitions in hardware", find("cndevGetMluInstanceInfo")(box(1016, 6)->bytes, 1), 10);
}

static void processes(int32_t device) {
    uint32_t count = 0;
    struct box *rows = box(24, 6);
    int result = find("cndevGetProcessInfo")(&count, rows->bytes, device);
    whole("processes without room", rows);
    expect("processes without room", result, count ? 9 : 0);
    if (!count)
        return;
    rows = box(24 * (size_t)count, 6);
    expect("processes", find("cndevGetProcessInfo")(&count, rows->bytes, device), 0);
    whole("processes", rows);
    for (uint32_t p = 0; p < count; p++)
        printf("process %u %llu\n", u32(rows, 24 * p + 4),
               (unsigned long long)u64(rows, 24 * p + 8));
}

static int32_t share(int32_t device, uint32_t quota, uint64_t bytes, char *name) {
    int32_t profile = -1, handle = -1;
    struct box *set = box(16, 6);
    put32(set, 4, quota);
    put64(set, 8, bytes);
    expect("profile", find("cndevCreateSMluProfileInfo")(set->bytes, &profile, device), 0);
    struct box *info = box(144, 6);
    expect("profile", find("cndevGetSMluProfileInfo")(info->bytes, profile, device), 0);
    whole("profile", info);
    printf("capacity %u %u\n", u32(info, 108), u32(info, 112));
    expect("instance", find("cndevCreateSMluInstanceByProfileId")(&handle, profile, device, name),
           0);
    expect("its slot", handle & 0xff, device);
    return handle;
}

static void show(int32_t handle) {
    struct box *info = box(904, 6);
    expect("instance", find("cndevGetSMluInstanceInfo")(info->bytes, handle), 0);
    whole("instance", info);
    expect("its number", (int32_t)u32(info, 8), handle >> 8);
    printf("instance %s %s %u %u %llu %llu\n", info->bytes + 168, info->bytes + 268, u32(info, 368),
           u32(info, 372), (unsigned long long)u64(info, 376), (unsigned long long)u64(info, 384));
}

static void shares(int32_t device, int hold) {
    expect("mode", u32(get("cndevGetSMLUMode", 8, 6, device), 4), 1);
    uint64_t bytes = UINT64_C(512) << 20;
    int32_t handle = share(device, 50, bytes, "client");
    show(handle);
    int32_t other = share(device, 25, bytes / 2, "");
    int32_t count = 1;
    struct box *rows = box(904, 6);
    expect("room for one", find("cndevGetAllSMluInstanceInfo")(&count, rows->bytes, device), 9);
    whole("room for one", rows);
    expect("instances", count, 2);
    rows = box(904 * 2, 6);
    expect("all", find("cndevGetAllSMluInstanceInfo")(&count, rows->bytes, device), 0);
    whole("all", rows);
    struct box *set = box(16, 6);
    put32(set, 4, 90);
    put64(set, 8, bytes);
    call update = find("cndevUpdateSMluInstanceQuotaByHandle");
    expect("more than there is", update(handle, set->bytes), 9);
    put32(set, 4, 60);
    put64(set, 8, bytes + bytes / 4);
    expect("an update", update(handle, set->bytes), 0);
    show(handle);
    fflush(stdout);
    if (hold && getchar() != EOF)
        show(handle);
    expect("release", find("cndevDestroySMluInstanceByHandle")(other), 0);
    printf("released %d\n", find("cndevDestroySMluInstanceByHandle")(handle));
    expect("one that is gone", find("cndevDestroySMluInstanceByHandle")(other), 14);
}

static void events(int32_t device) {
    void *handle = NULL;
    struct box *event = box(104, 6);
    expect("events", find("cndevEventHandleCreate")(&handle), 0);
    expect("register", find("cndevRegisterEvents")(handle, ~0ull, device), 0);
    expect("none yet", find("cndevEventWait")(handle, event->bytes, 1), 17);
    expect("inject", find("cndevInjectEventError")((uint64_t)0x1234, device), 0);
    expect("one", find("cndevEventWait")(handle, event->bytes, -1), 0);
    whole("event", event);
    printf("event %u %llx %llu\n", u32(event, 4), (unsigned long long)u64(event, 8),
           (unsigned long long)u64(event, 16));
    expect("unhealthy", u32(get("cndevGetCardHealthState", 16, 6, device), 4), 0);
    expect("reset", find("cndevResetDevice")(device), 0);
    expect("healthy", u32(get("cndevGetCardHealthState", 16, 6, device), 4), 1);
    expect("destroy", find("cndevEventHandleDestroy")(handle), 0);
}

int main(int argc, char **argv) {
    int hold = argc > 1 && strcmp(argv[1], "hold") == 0;
    library = dlopen("libcndev.so", RTLD_NOW);
    if (!library)
        return printf("%s\n", dlerror()), 1;
    expect("before init", find("cndevGetUUID")(box(56, 6)->bytes, 0), 4);
    expect("init", find("cndevInit")(0), 0);
    struct box *cards = box(8, 6);
    expect("count", find("cndevGetDeviceCount")(cards->bytes), 0);
    whole("count", cards);
    printf("cards %u\n", u32(cards, 4));
    int32_t device = -1;
    expect("handle", find("cndevGetDeviceHandleByIndex")(1, &device), 0);
    const char *name;
    const char *(*text)(int32_t);
    call found = find("cndevGetCardNameStringByDevId");
    memcpy(&text, &found, sizeof text);
    name = text(device);
    printf("name %s\n", name ? name : "");
    readings(device);
    refusals(device);
    processes(device);
    shares(device, hold);
    if (!hold)
        events(device);
    expect("release", find("cndevRelease")(), 0);
    expect("after release", find("cndevRelease")(), 4);
    return 0;
}
