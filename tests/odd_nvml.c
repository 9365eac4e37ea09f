/* An NVML library of two cards and, when told so, partitions, that answers oddly on demand: for what
 * the simulator never does. The file that ODD_NVML names is looked at with each call and holds words:
 *   NAME=CODE     the function NAME (without "nvml") answers CODE
 *   NAME@I=CODE   the same for card I only
 *   key=NUMBER    see `told` below
 * Layouts are those of nvml.h 13.5. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define EXPORT __attribute__((visibility("default")))
#define CARDS 2
#define PARTS 2
#define MIB (1ull << 20)

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
enum { INSUFFICIENT_SIZE = 7, TIMEOUT = 10, OPERATING_SYSTEM = 17 };

struct device {
    int card; /* its number */
    int part; /* -1: the card itself */
};
static struct device cards[CARDS] = {{0, -1}, {1, -1}};
static struct device parts[CARDS][PARTS] = {{{0, 0}, {0, 1}}, {{1, 0}, {1, 1}}};
static int initialised, sets, events_read;

/* The value of `key` in the file, `fallback` when it is not there. */
static long long told(const char *key, long long fallback) {
    /* What it was last read as: it is replaced, never written again. */
    static char text[4096];
    static struct stat known;
    const char *path = getenv("ODD_NVML");
    struct stat now;
    if (!path || stat(path, &now))
        return fallback;
    if (now.st_ino != known.st_ino || now.st_mtim.tv_nsec != known.st_mtim.tv_nsec) {
        FILE *file = fopen(path, "r");
        if (!file)
            return fallback;
        text[fread(text, 1, sizeof text - 1, file)] = 0;
        fclose(file);
        known = now;
    }
    size_t length = strlen(key);
    for (const char *word = text; word; word = strchr(word, ' ')) {
        word += *word == ' ';
        if (!strncmp(word, key, length) && word[length] == '=')
            return strtoll(word + length + 1, NULL, 0);
    }
    return fallback;
}

static int answer(const char *name, const struct device *device, int usual) {
    if (!initialised && strcmp(name, "Init"))
        return UNINITIALIZED;
    int code = (int)told(name, usual);
    if (device) {
        char key[128];
        snprintf(key, sizeof key, "%s@%d", name, device->card);
        code = (int)told(key, code);
    }
    return code;
}

#define BEGIN(name, device)                                                                        \
    do {                                                                                           \
        int code = answer(name, device, SUCCESS);                                                  \
        if (code)                                                                                  \
            return code;                                                                           \
    } while (0)

EXPORT const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "odd error"; }

EXPORT int nvmlInit_v2(void) {
    BEGIN("Init", NULL);
    initialised++;
    return SUCCESS;
}

EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return nvmlInit_v2();
}

EXPORT int nvmlShutdown(void) {
    initialised = 0;
    return SUCCESS;
}

EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    BEGIN("SystemGetDriverVersion", NULL);
    snprintf(version, length, "%lld.1", told("driver", 550));
    return SUCCESS;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
    BEGIN("DeviceGetCount", NULL);
    *count = (unsigned)told("cards", CARDS);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
    if (index >= CARDS)
        return INVALID_ARGUMENT;
    BEGIN("DeviceGetHandleByIndex", &cards[index]);
    *device = &cards[index];
    return SUCCESS;
}

EXPORT int nvmlDeviceGetIndex(struct device *device, unsigned *index) {
    BEGIN("DeviceGetIndex", device);
    *index = (unsigned)(device->part < 0 ? device->card : device->part);
    return SUCCESS;
}

/* The cards' are those of odd_driver.c. */
static void write_uuid(char *uuid, size_t length, const struct device *device) {
    unsigned b = 0x1au + (unsigned)device->card;
    unsigned part = (unsigned)(device->card * 16 + device->part + 1);
    if (device->part < 0)
        snprintf(uuid, length,
                 "GPU-%1$x%1$x%1$x%1$x-%1$x%1$x-%1$x%1$x-%1$x%1$x-%1$x%1$x%1$x%1$x%1$x%1$x", b);
    else if (told("old_mig", 0))
        snprintf(uuid, length, "MIG-GPU-%08x-0000-0000-0000-000000000000/1/0", part);
    else
        snprintf(uuid, length, "MIG-%08x-0000-0000-0000-000000000000", part);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device) {
    char own[96];
    for (int card = 0; card < CARDS; card++)
        for (int part = -1; part < PARTS; part++) {
            struct device *it = part < 0 ? &cards[card] : &parts[card][part];
            write_uuid(own, sizeof own, it);
            if (!strcmp(own, uuid)) {
                BEGIN("DeviceGetHandleByUUID", it);
                *device = it;
                return SUCCESS;
            }
        }
    return NOT_FOUND;
}

EXPORT int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) {
    BEGIN("DeviceGetUUID", device);
    write_uuid(uuid, length, device);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetName(struct device *device, char *name, unsigned length) {
    BEGIN("DeviceGetName", device);
    snprintf(name, length, device->part < 0 ? "Odd" : "Odd MIG 1g.5gb");
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMinorNumber(struct device *device, unsigned *minor) {
    BEGIN("DeviceGetMinorNumber", device);
    /* Not the index: node names follow the kernel's order, indices NVML's. */
    *minor = (unsigned)(CARDS - 1 - device->card);
    return SUCCESS;
}

struct memory {
    unsigned long long total, free, used;
};
struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

EXPORT int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory) {
    BEGIN("DeviceGetMemoryInfo", device);
    *memory = (struct memory){16384 * MIB, 16000 * MIB, 384 * MIB};
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(struct device *device, struct memory_v2 *memory) {
    BEGIN("DeviceGetMemoryInfo_v2", device);
    if (memory->version != 0x02000028)
        return 25;
    *memory = (struct memory_v2){memory->version, 16384 * MIB, 284 * MIB, 16000 * MIB, 100 * MIB};
    return SUCCESS;
}

struct pci {
    char legacy[16];
    unsigned domain, bus, device, ids, subsystem;
    char id[32];
};

static void write_pci(struct pci *pci, unsigned bus) {
    *pci = (struct pci){.bus = bus};
    snprintf(pci->id, sizeof pci->id, "00000000:%02X:00.0", bus);
}

EXPORT int nvmlDeviceGetPciInfo_v3(struct device *device, struct pci *pci) {
    BEGIN("DeviceGetPciInfo", device);
    write_pci(pci, 0xa0 + (unsigned)device->card);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMemoryAffinity(struct device *device, unsigned size, unsigned long *nodes,
                                       unsigned scope) {
    BEGIN("DeviceGetMemoryAffinity", device);
    (void)scope;
    memset(nodes, 0, size * sizeof *nodes);
    nodes[1] = 1ul << device->card;
    return SUCCESS;
}

/* Links 0 and 1 lead to the other card, or to a switch when `switch` is told; link 2 is down. */
EXPORT int nvmlDeviceGetNvLinkState(struct device *device, unsigned link, unsigned *active) {
    BEGIN("DeviceGetNvLinkState", device);
    if (link > 2)
        return INVALID_ARGUMENT;
    *active = link < 2;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct device *device, unsigned link,
                                               struct pci *pci) {
    BEGIN("DeviceGetNvLinkRemotePciInfo", device);
    (void)link;
    write_pci(pci, told("switch", 0) ? 0xf0 : 0xa0 + (unsigned)(1 - device->card));
    return SUCCESS;
}

EXPORT int nvmlDeviceGetNvLinkRemoteDeviceType(struct device *device, unsigned link, int *type) {
    BEGIN("DeviceGetNvLinkRemoteDeviceType", device);
    (void)link;
    *type = told("switch", 0) ? 2 : 0;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMigMode(struct device *device, unsigned *now, unsigned *pending) {
    BEGIN("DeviceGetMigMode", device);
    *now = *pending = told("mig", -1) == device->card;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count) {
    (void)device;
    *count = 7;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index,
                                               struct device **part) {
    if (told("mig", -1) != device->card || index >= told("parts", PARTS))
        return NOT_FOUND;
    *part = &parts[device->card][index];
    return SUCCESS;
}

EXPORT int nvmlDeviceGetGpuInstanceId(struct device *device, unsigned *id) {
    *id = (unsigned)device->part + 7;
    return device->part < 0 ? NOT_SUPPORTED : SUCCESS;
}

EXPORT int nvmlDeviceGetComputeInstanceId(struct device *device, unsigned *id) {
    *id = 0;
    return device->part < 0 ? NOT_SUPPORTED : SUCCESS;
}

EXPORT int nvmlDeviceGetUtilizationRates(struct device *device, unsigned *rates) {
    BEGIN("DeviceGetUtilizationRates", device);
    rates[0] = (unsigned)told("busy", 75);
    rates[1] = 25;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetPowerUsage(struct device *device, unsigned *milliwatts) {
    BEGIN("DeviceGetPowerUsage", device);
    *milliwatts = 123456;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetTemperature(struct device *device, int sensor, unsigned *degrees) {
    BEGIN("DeviceGetTemperature", device);
    (void)sensor;
    *degrees = 40u + (unsigned)device->card;
    return SUCCESS;
}

struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};

static int list(const char *name, struct device *device, unsigned *count, struct process *rows,
                const struct process *all, unsigned length) {
    BEGIN(name, device);
    unsigned room = *count;
    *count = length;
    if (room < length)
        return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < length; i++)
        rows[i] = all[i];
    return SUCCESS;
}

static int compute(struct device *device, unsigned *count, struct process *rows) {
    static const struct process all[] = {
        {100, 50 * MIB, ~0u, ~0u}, {101, ~0ull, ~0u, ~0u}, {102, 8 * MIB, ~0u, ~0u}};
    return list("Compute", device, count, rows, all, device->card ? 0 : 3);
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *count,
                                                   struct process *rows) {
    BEGIN("Compute_v3", device);
    return compute(device, count, rows);
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(struct device *device, unsigned *count,
                                                   struct process *rows) {
    return compute(device, count, rows);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *device, unsigned *count,
                                                    struct process *rows) {
    static const struct process all[] = {{102, 9 * MIB, ~0u, ~0u}, {103, 1 * MIB, ~0u, ~0u}};
    return list("Graphics", device, count, rows, all, device->card ? 0 : 2);
}

struct utilisation {
    unsigned pid;
    unsigned long long time;
    unsigned sm, memory, encoder, decoder;
};

/* Samples are at 1000, 1001 …; `samples` are how many there are by now, or, when they are `fresh`, each
 * time anew. */
EXPORT int nvmlDeviceGetProcessUtilization(struct device *device, struct utilisation *rows,
                                           unsigned *count, unsigned long long since) {
    BEGIN("DeviceGetProcessUtilization", device);
    static const struct utilisation all[] = {{100, 1000, 30, 10, 0, 0},  {100, 1001, 40, 20, 0, 0},
                                             {102, 1002, 900, 0, 0, 0},  {0, 1003, 99, 0, 0, 0},
                                             {9999, 1004, 50, 50, 0, 0}, {103, 1005, 5, 5, 0, 0}};
    unsigned length = 0, total = (unsigned)told("samples", 0);
    struct utilisation found[6];
    unsigned long long fresh = (unsigned long long)told("fresh", 0) * since;
    for (unsigned i = 0; i < total; i++) {
        found[length] = all[i];
        found[length].time += fresh;
        length += found[length].time > since;
    }
    if (!length)
        return NOT_FOUND;
    if (!rows || *count < length) {
        *count = length;
        return INSUFFICIENT_SIZE;
    }
    memcpy(rows, found, length * sizeof *rows);
    *count = length;
    return SUCCESS;
}

/* Events: `events` of them have come about so far, all alike. */
struct event {
    struct device *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};

EXPORT int nvmlEventSetCreate(void **set) {
    BEGIN("EventSetCreate", NULL);
    *set = &sets;
    return SUCCESS;
}

EXPORT int nvmlEventSetFree(void *set) { return set == &sets ? SUCCESS : INVALID_ARGUMENT; }

EXPORT int nvmlDeviceGetSupportedEventTypes(struct device *device, unsigned long long *types) {
    BEGIN("DeviceGetSupportedEventTypes", device);
    *types = (unsigned long long)told("types", 0x1f);
    return SUCCESS;
}

EXPORT int nvmlDeviceRegisterEvents(struct device *device, unsigned long long types, void *set) {
    BEGIN("DeviceRegisterEvents", device);
    return types && !(types & ~10ull) && set == &sets ? SUCCESS : INVALID_ARGUMENT;
}

EXPORT int nvmlEventSetWait_v2(void *set, struct event *event, unsigned milliseconds) {
    BEGIN("EventSetWait", NULL);
    if (set != &sets || milliseconds)
        return INVALID_ARGUMENT;
    if (events_read >= told("events", 0))
        return TIMEOUT;
    events_read++;
    struct device *card = &cards[told("event_card", 0)];
    *event = (struct event){
        told("event_lost", 0) ? NULL : card, (unsigned long long)told("event_type", 8),
        (unsigned long long)told("xid", 79), (unsigned)told("event_gi", ~0u), ~0u};
    return SUCCESS;
}

struct field {
    unsigned id, scope;
    long long time, latency;
    unsigned type;
    int code;
    union {
        unsigned number;
        unsigned long long wide;
    } value;
};

EXPORT int nvmlDeviceGetFieldValues(struct device *device, int count, struct field *fields) {
    BEGIN("DeviceGetFieldValues", device);
    for (int i = 0; i < count; i++) {
        long long action = told("action", -1);
        fields[i].code = fields[i].id == 230 && action >= 0 ? SUCCESS : NOT_SUPPORTED;
        fields[i].value.number = (unsigned)action;
    }
    return SUCCESS;
}

/* Limits are written to the file ODD_LIMITS: one line a call. */
struct limits {
    const char *group;
    unsigned long long soft, hard;
};

EXPORT int nvmlDeviceSetMemoryLimits_v1(struct device *device, struct limits *limits) {
    const char *path = getenv("ODD_LIMITS");
    FILE *file = path ? fopen(path, "a") : NULL;
    int code = answer("DeviceSetMemoryLimits", device, SUCCESS);
    if (file) {
        fprintf(file, "%d %s %llu %llu %d\n", device->card, limits->group, limits->soft,
                limits->hard, code);
        fclose(file);
    }
    return code;
}
