/* A client of libdcmi.so as programs load it: without any header, by dlopen and the public ABI. Every
 * structure is a buffer of the published size with a guard behind it, and every field is read at its
 * published offset. Prints what it finds, a line each; the first wrong answer ends it. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GUARD = 64, LARGEST = 4096 };
static unsigned char buffer[LARGEST + GUARD];
static size_t guarded;

static void *library;
static void *find(const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        printf("missing %s\n", name);
        exit(1);
    }
    return found;
}

static void insist(int result, int wanted, const char *what) {
    if (result != wanted) {
        printf("%s answered %d, not %d\n", what, result, wanted);
        exit(1);
    }
}

/* A buffer of that size, full of a pattern. */
static void *fresh(size_t size) {
    memset(buffer, 0xa5, sizeof buffer);
    guarded = size;
    return buffer;
}
static void check_guard(const char *what) {
    for (size_t b = guarded; b < guarded + GUARD; b++)
        if (buffer[b] != 0xa5) {
            printf("%s wrote behind its %zu bytes\n", what, guarded);
            exit(1);
        }
}
static uint32_t u32(size_t at) {
    uint32_t value;
    memcpy(&value, buffer + at, sizeof value);
    return value;
}
static uint64_t u64(size_t at) {
    uint64_t value;
    memcpy(&value, buffer + at, sizeof value);
    return value;
}
static float f32(size_t at) {
    float value;
    memcpy(&value, buffer + at, sizeof value);
    return value;
}

typedef int (*on_card)(int, void *);
typedef int (*on_device)(int, int, void *);

static void ask(const char *name, int card, int place, size_t size) {
    insist(((on_device)find(name))(card, place, fresh(size)), 0, name);
    check_guard(name);
}

static void look_at(int card, int place) {
    ask("dcmi_get_device_type", card, place, 4);
    insist((int)u32(0), 0, "type of an NPU");
    ask("dcmi_get_device_chip_info", card, place, 100);
    printf("chip %s %s %u\n", buffer, buffer + 32, u32(96));
    ask("dcmi_get_device_chip_info_v2", card, place, 132);
    printf("npu %s\n", buffer + 100);
    ask("dcmi_get_device_pcie_info_v2", card, place, 64);
    printf("pci %x:%x %u:%u:%u.%u\n", u32(0), u32(8), u32(16), u32(20), u32(24), u32(28));
    insist(
        ((int (*)(int, int, int, void *))find("dcmi_get_device_die_v2"))(card, place, 1, fresh(20)),
        0, "die");
    check_guard("die");
    printf("die %08x %08x %08x %08x %08x\n", u32(0), u32(4), u32(8), u32(12), u32(16));
    ask("dcmi_get_device_power_info", card, place, 4);
    printf("power %u\n", u32(0));
    ask("dcmi_get_device_temperature", card, place, 4);
    printf("degrees %u\n", u32(0));
    ask("dcmi_get_device_health", card, place, 4);
    printf("health %u\n", u32(0));
    int result = ((on_device)find("dcmi_get_device_hbm_info"))(card, place, fresh(32));
    check_guard("hbm");
    if (result == 0)
        printf("hbm %llu used %llu\n", (unsigned long long)u64(0), (unsigned long long)u64(16));
    else
        printf("hbm %d\n", result);
    ask("dcmi_get_device_memory_info_v3", card, place, 112);
    printf("ddr %llu free %llu busy %u\n", (unsigned long long)u64(0), (unsigned long long)u64(8),
           u32(48));
    ask("dcmi_get_memory_info", card, place, 16);
    printf("old %llu busy %u\n", (unsigned long long)u64(0), u32(12));
    unsigned rate;
    int (*utilisation)(int, int, int, unsigned *) = find("dcmi_get_device_utilization_rate");
    insist(utilisation(card, place, 2, &rate), 0, "utilisation");
    printf("busy %u\n", rate);
    insist(utilisation(card, place, 99, &rate), -8001, "utilisation of nothing");
    int count = -1;
    insist(((int (*)(int, int, void *, int *))find("dcmi_get_device_resource_info"))(
               card, place, fresh(16 * 32), &count),
           0, "processes");
    check_guard("processes");
    for (int p = 0; p < count; p++)
        printf("process %d %llu\n", (int)u32((size_t)p * 16),
               (unsigned long long)u64((size_t)p * 16 + 8));
    ask("dcmi_get_device_board_info", card, place, 16);
    ask("dcmi_get_device_multi_utilization_rate", card, place, 48);
    insist(((int (*)(int, int, int, void *))find("dcmi_get_device_ecc_info"))(card, place, 0,
                                                                              fresh(36)),
           0, "ecc");
    check_guard("ecc");
    insist(((on_card)find("dcmi_get_card_elabel_v2"))(card, fresh(1280)), 0, "elabel");
    check_guard("elabel");
    printf("serial %s\n", buffer + 1024);
}

static int info(int card, int place, unsigned command, size_t size) {
    unsigned room = (unsigned)size;
    int result = ((int (*)(int, int, int, unsigned, void *, unsigned *))find(
        "dcmi_get_device_info"))(card, place, 52, command, buffer, &room);
    check_guard("info");
    return result;
}

static int create(int card, int place, uint32_t id, const char *template, uint32_t *made) {
    unsigned char out[52 + GUARD];
    memset(out, 0xa5, sizeof out);
    fresh(104);
    memset(buffer, 0, 104);
    memcpy(buffer, &id, 4);
    memset(buffer + 4, 0xff, 4);
    strcpy((char *)buffer + 8, template);
    int result =
        ((int (*)(int, int, void *, void *))find("dcmi_create_vdevice"))(card, place, buffer, out);
    for (size_t b = 52; b < sizeof out; b++)
        insist(out[b], 0xa5, "guard of a vdevice");
    memcpy(made, out, 4);
    return result;
}

static void cut(int card, int place, const char *template) {
    uint32_t id = 0;
    insist(create(card, place, 0xffffffff, template, &id), 0, "create");
    printf("vdev %u\n", id);
    uint32_t other;
    insist(create(card, place, id, template, &other), -8020, "the same number again");
    insist(create(card, place, 99, template, &other), -8007, "another's number");
    insist(create(card, place, 0xffffffff, "vir99", &other), -8022, "no template");
    fresh(360);
    insist(info(card, place, 1, 360), 0, "total");
    printf("total %u first %u cores %g memory %llu\n", u32(0), u32(4), f32(208),
           (unsigned long long)u64(232));
    fresh(224);
    insist(info(card, place, 2, 224), 0, "free");
    printf("free cores %g memory %llu\n", f32(72), (unsigned long long)u64(96));
    fresh(264);
    memcpy(buffer, &id, 4);
    insist(info(card, place, 0, 264), 0, "resource");
    printf("one %s cores %g memory %llu cpus %u\n", buffer + 8, f32(112),
           (unsigned long long)u64(136), (unsigned)buffer[166] | (unsigned)buffer[167] << 8);
    fresh(264);
    memcpy(buffer, &id, 4);
    insist(info(card, place, 5, 264), 0, "activity");
    fresh(360);
    insist(info(card, place, 1, 100), -8001, "too small a buffer");
    int (*destroy)(int, int, unsigned) = find("dcmi_set_destroy_vdevice");
    insist(destroy(card, place, 7), -8001, "destroy of a number that none has");
    insist(destroy(card, place, id), 0, "destroy");
    insist(destroy(card, place, id), -8008, "destroy again");
}

struct filter { /* 48 bytes, by value */
    unsigned long long flags;
    unsigned int event;
    unsigned char severity, node;
    unsigned char rest[34];
};
static int told[2];
static void on_event(void *event) {
    const unsigned char *bytes = event;
    uint32_t type, code;
    memcpy(&type, bytes, 4);
    memcpy(&code, bytes + 8, 4);
    char line[128];
    int length = snprintf(line, sizeof line, "event %u %08x device %u severity %u assertion %u\n",
                          type, code, bytes[12] | bytes[13] << 8, bytes[18], bytes[19]);
    if (write(1, line, (size_t)length) != length || write(told[1], "e", 1) != 1)
        _exit(2);
}

static void wait_for_events(int card, int place, int count) {
    struct filter filter = {.flags = 2, .severity = 1};
    _Static_assert(sizeof(struct filter) == 48, "by value");
    insist(pipe(told), 0, "pipe");
    insist(((int (*)(int, int, struct filter, void (*)(void *)))find("dcmi_subscribe_fault_event"))(
               card, place, filter, on_event),
           0, "subscribe");
    puts("subscribed");
    fflush(stdout);
    char byte;
    for (int e = 0; e < count; e++)
        insist((int)read(told[0], &byte, 1), 1, "an event");
}

int main(int argc, char **argv) {
    library = dlopen("libdcmi.so", RTLD_NOW);
    if (!library) {
        puts(dlerror());
        return 1;
    }
    int cards[16], count = -1;
    int (*list)(int *, int *, int) = find("dcmi_get_card_list");
    insist(list(&count, cards, 16), -8012, "before dcmi_init");
    insist(((int (*)(void))find("dcmi_init"))(), 0, "dcmi_init");
    insist(((int (*)(void))find("dcmi_init"))(), 0, "dcmi_init again");
    insist(list(NULL, cards, 16), -8001, "nowhere to answer");
    insist(list(&count, cards, 16), 0, "cards");
    insist(((on_device)find("dcmi_get_device_health"))(77, 0, buffer), -8007, "no such card");
    if (argc > 2 && strcmp(argv[1], "events") == 0) {
        wait_for_events(cards[0], 0, atoi(argv[2]));
        return 0;
    }
    for (int c = 0; c < count; c++) {
        int places = -1;
        insist(((on_card)find("dcmi_get_device_num_in_card"))(cards[c], &places), 0, "places");
        printf("card %d has %d\n", cards[c], places);
        for (int place = 0; place < places; place++) {
            int logic = -1;
            unsigned phy = 99;
            insist(((int (*)(int *, int, int))find("dcmi_get_device_logic_id"))(&logic, cards[c],
                                                                                place),
                   0, "logic id");
            insist(((int (*)(unsigned, unsigned *))find("dcmi_get_device_phyid_from_logicid"))(
                       (unsigned)logic, &phy),
                   0, "physical id");
            printf("device %d %u\n", logic, phy);
        }
    }
    look_at(cards[0], 0);
    if (argc > 1)
        cut(cards[0], 0, argv[1]);
    return 0;
}
