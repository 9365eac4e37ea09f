/* aliquot-stat: shows a container its own slice, from the two files that lie in it. Needs nothing
 * else: no Python, no socket, no library. */
#include "util.h"

#include "region/region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define PROGRAM "aliquot-stat"

/* No device has as much; it keeps every sum within 64 bits, whatever the slice's own files say. */
#define MOST_BYTES (1ull << 53)

/* A grant that was not written for so long is a dead agent's: it beats four times a second. The
 * limiter looks at the beat itself, for as long; who looks once has only the file's time. */
#define SILENT_NS 1000000000ll

static const char help[] =
    "Usage: aliquot-stat [--json] [--region DIR]\n"
    "\n"
    "Shows the slice of this container: what it may hold of each device, what its living "
    "processes\n"
    "hold, what they held at most, and what it has of the device's time.\n"
    "\n"
    "  --json        print one JSON object, sizes in bytes, shares from 0 to 1\n"
    "  --region DIR  the folder with the slice's files (default: /run/aliquot)\n"
    "  --help        print this\n"
    "\n"
    "USED      what the living processes hold, in what the device really gives\n"
    "CAP       what they may hold together\n"
    "PEAK      the most that they held\n"
    "REFUSALS  allocations that were refused at the cap\n"
    "\n"
    "CORES     percent of the device's time: what is guaranteed, and what is never passed\n"
    "SHARE     what it got of the last second, of what it wanted\n"
    "BUSY      share of the time in which its kernels ran lately, where somebody measures it\n"
    "TIME      device time that its processes charged\n"
    "WAIT      what their threads waited to launch, added up\n"
    "WEIGHT    its part of what is spare, against those of others\n"
    "PRIORITY  a higher one takes the device at once\n"
    "GATE      what it may launch at the moment\n";

struct process {
    uint32_t slot, pid;
    char command[64];
};

/* The slice as it was in one moment. */
struct view {
    struct aliquot_grant grant;
    bool agent; /* there is one, and it lives */
    struct aliquot_usage *usage;
    struct process process[ALIQUOT_MAX_SLOTS]; /* that live */
    size_t processes;
};

static uint64_t at_most(uint64_t bytes) { return bytes < MOST_BYTES ? bytes : MOST_BYTES; }

/* Copies what the file has of `size` bytes; the slice's processes may be writing it, or have cut
 * it. Returns the open file, -1 with a message. */
static int read_file(const char *folder, const char *name, void *to, size_t size,
                     const char *(*check)(const void *, size_t), struct oci_error *error) {
    AUTO_FREE char *path = oci_format("%s/%s", folder, name);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat kind;
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) {
        oci_fail(error, "%s: %s: this container has no slice, or it lies elsewhere (--region)",
                 path, strerror(errno));
        return -1;
    }
    if (fd < 0 || fstat(fd, &kind) < 0) {
        oci_fail(error, "%s: %s", path, strerror(errno));
        return -1;
    }
    ssize_t done = S_ISREG(kind.st_mode) ? pread(fd, to, size, 0) : 0;
    if (done < 0) {
        oci_fail(error, "%s: %s", path, strerror(errno));
        return -1;
    }
    const char *wrong = check(to, (size_t)done);
    if (wrong) {
        oci_fail(error, "%s %s", path, wrong);
        return -1;
    }
    int opened = fd;
    fd = -1;
    return opened;
}

/* Texts of the region have an end within their room, or are cut there. */
static void copy_text(char *to, size_t to_size, const char *from, size_t size) {
    char text[ALIQUOT_NAME_BYTES + 1];
    size_t length = strnlen(from, size < ALIQUOT_NAME_BYTES ? size : ALIQUOT_NAME_BYTES);
    memcpy(text, from, length);
    text[length] = 0;
    oci_printable(to, to_size, text);
}

static bool was_written_lately(int fd) {
    struct stat file;
    struct timespec now;
    if (fstat(fd, &file) < 0 || clock_gettime(CLOCK_REALTIME, &now) < 0)
        return false;
    /* Seconds first: a file's time may be any. */
    int64_t seconds;
    if (__builtin_sub_overflow((int64_t)now.tv_sec, (int64_t)file.st_mtim.tv_sec, &seconds) ||
        seconds > 2)
        return false;
    return seconds < 0 || seconds * 1000000000 + now.tv_nsec - file.st_mtim.tv_nsec <= SILENT_NS;
}

static bool look(struct view *view, const char *folder, struct oci_error *error) {
    AUTO_CLOSE int grant =
        read_file(folder, "grant", &view->grant, sizeof view->grant, aliquot_grant_check, error);
    if (grant < 0)
        return false;
    view->agent = view->grant.beat && was_written_lately(grant);
    AUTO_CLOSE int usage =
        read_file(folder, "usage", view->usage, sizeof *view->usage, aliquot_usage_check, error);
    if (usage < 0)
        return false;
    uint32_t slots = view->usage->high_water;
    for (uint32_t slot = 0; slot < slots && slot < ALIQUOT_MAX_SLOTS; slot++) {
        /* A dead process owes nothing, even before its slot is cleared. */
        if (!view->usage->slot[slot].pid || aliquot_slot_alive(usage, slot) != 1)
            continue;
        struct process *process = &view->process[view->processes++];
        process->slot = slot;
        process->pid = view->usage->slot[slot].pid;
        copy_text(process->command, sizeof process->command, view->usage->slot[slot].command,
                  sizeof view->usage->slot[slot].command);
    }
    return true;
}

static uint64_t charge_of(const struct view *view, uint32_t device, const struct process *process) {
    return at_most(view->usage->charge[device][process->slot]);
}

static uint64_t used_of(const struct view *view, uint32_t device) {
    uint64_t used = 0;
    for (size_t i = 0; i < view->processes; i++)
        used += charge_of(view, device, &view->process[i]);
    return used;
}

static char *uuid_text(const struct aliquot_grant_device *device) {
    const uint8_t *uuid = device->uuid;
    char label[sizeof device->label * 2];
    copy_text(label, sizeof label, device->label, sizeof device->label);
    if (*label)
        return oci_format("%s", label);
    char *text = oci_allocate(sizeof "GPU-00000000-0000-0000-0000-000000000000", 1), *at = text;
    at += sprintf(at, "GPU");
    for (int i = 0; i < 16; i++)
        at += sprintf(at, "%s%02x", i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                      uuid[i]);
    return text;
}

/* -- As a table -------------------------------------------------------------------------------- */

#define COLUMNS 9
struct row {
    char *cell[COLUMNS];
};
struct table {
    struct row *row;
    size_t rows;
    const char *left; /* of each column: 'l' where its cells begin at the left, 'r' where they end
                         at the right */
};

static void clear_table(struct table *table) {
    for (size_t i = 0; i < table->rows; i++)
        for (int j = 0; j < COLUMNS; j++)
            free(table->row[i].cell[j]);
    free(table->row);
}

static char **add_row(struct table *table) {
    oci_grow(&table->row, table->rows, sizeof *table->row);
    table->row[table->rows] = (struct row){0};
    return table->row[table->rows++].cell;
}

static void add_head(struct table *table, const char *const *name) {
    char **cell = add_row(table);
    for (int i = 0; i < COLUMNS && name[i]; i++)
        cell[i] = oci_format("%s", name[i]);
}

static char *size_text(uint64_t bytes) {
    bool small = bytes < 1ull << 30;
    return oci_format("%.1f %s", (double)bytes / (double)(small ? 1u << 20 : 1u << 30),
                      small ? "MiB" : "GiB");
}

static char *share_text(uint32_t permille) {
    return permille > 1000 ? oci_format("-") : oci_format("%u%%", (permille + 5) / 10);
}

static char *time_text(uint64_t ns) {
    static const struct {
        const char *name;
        double seconds;
    } unit[] = {{"d", 86400}, {"h", 3600}, {"min", 60}, {"s", 1}};
    double seconds = (double)ns / 1e9;
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (seconds >= unit[i].seconds)
            return oci_format("%.1f %s", seconds / unit[i].seconds, unit[i].name);
    return oci_format("%.1f ms", seconds * 1000);
}

static char *cores_text(const struct aliquot_grant_device *device) {
    return device->cores_min == device->cores
               ? oci_format("%u%%", device->cores)
               : oci_format("%u-%u%%", device->cores_min, device->cores);
}

static char *received_text(const struct aliquot_grant_device *device) {
    if (device->wanted_permille > 1000 || device->received_permille > 1000)
        return oci_format("-");
    return oci_format("%u/%u%%", (device->received_permille + 5) / 10,
                      (device->wanted_permille + 5) / 10);
}

static const char *gate_name(uint64_t gate) {
    static const char *const name[4] = {
        [ALIQUOT_GATE_FREE] = "free",
        [ALIQUOT_GATE_OPEN] = "open",
        [ALIQUOT_GATE_TURN] = "turn",
        [ALIQUOT_GATE_CLOSED] = "closed",
    };
    return name[aliquot_gate_state(gate)];
}

/* In words. Without an agent nobody opens or closes a gate. */
static char *gate_text(const struct aliquot_grant_device *device, bool agent) {
    uint64_t gate = device->gate;
    if (!agent)
        return device->cores < 100
                   ? oci_format("no agent: only its own %u%% hold it", device->cores)
                   : oci_format("no agent: nothing waits");
    char others[48] = "";
    if (aliquot_gate_others(gate))
        snprintf(others, sizeof others, ", with %u more", aliquot_gate_others(gate));
    switch (aliquot_gate_state(gate)) {
    case ALIQUOT_GATE_FREE:
        return oci_format("free: nobody else is there");
    case ALIQUOT_GATE_OPEN:
        return oci_format("open: nobody else wants it%s", others);
    case ALIQUOT_GATE_TURN:
        return oci_format("turn: it has it for %.1f ms%s", (double)aliquot_gate_turn_ns(gate) / 1e6,
                          others);
    default:
        return oci_format("closed: others have it");
    }
}

static size_t width_of(const char *text) {
    size_t width = 0;
    for (; *text; text++)
        width += (*text & 0xc0) != 0x80;
    return width;
}

static void print_table(const struct table *table) {
    size_t width[COLUMNS] = {0};
    for (size_t i = 0; i < table->rows; i++)
        for (int j = 0; j < COLUMNS; j++) {
            size_t own = table->row[i].cell[j] ? width_of(table->row[i].cell[j]) : 0;
            width[j] = own > width[j] ? own : width[j];
        }
    for (size_t i = 0; i < table->rows; i++) {
        size_t owed = 0; /* blanks before the next cell: no line ends in them */
        for (int j = 0; j < COLUMNS; j++) {
            const char *text = table->row[i].cell[j] ? table->row[i].cell[j] : "";
            size_t fill = width[j] - width_of(text);
            bool right = table->left[j] == 'r';
            owed += right ? fill : 0;
            if (*text)
                printf("%*s%s", (int)owed, "", text);
            owed = *text ? 0 : owed;
            owed += (right ? 0 : fill) + 2;
        }
        putchar('\n');
    }
}

static void show_memory(const struct view *view) {
    static const char *const head[COLUMNS] = {"DEVICE", "PROCESS", "USED",
                                              "CAP",    "PEAK",    "REFUSALS"};
    __attribute__((cleanup(clear_table))) struct table table = {.left = "llrrrrlll"};
    add_head(&table, head);
    for (uint32_t i = 0; i < view->grant.device_count; i++) {
        const struct aliquot_grant_device *device = &view->grant.device[i];
        char **cell = add_row(&table);
        cell[0] = uuid_text(device);
        cell[1] = oci_format("%zu process%s", view->processes, view->processes == 1 ? "" : "es");
        cell[2] = size_text(used_of(view, i));
        cell[3] = device->cap == ALIQUOT_NO_CAP ? oci_format("none") : size_text(device->cap);
        cell[4] = size_text(at_most(view->usage->device[i].peak));
        cell[5] = oci_format("%llu", (unsigned long long)view->usage->device[i].refusals);
        for (size_t j = 0; j < view->processes; j++) {
            cell = add_row(&table);
            cell[1] = oci_format("%u %s", view->process[j].pid, view->process[j].command);
            cell[2] = size_text(charge_of(view, i, &view->process[j]));
        }
        if (device->unclaimed) {
            cell = add_row(&table);
            cell[1] = oci_format("nobody's");
            cell[2] = size_text(at_most(device->unclaimed));
        }
    }
    print_table(&table);
}

static void show_time(const struct view *view) {
    static const char *const head[COLUMNS] = {"DEVICE", "CORES",  "SHARE",    "BUSY", "TIME",
                                              "WAIT",   "WEIGHT", "PRIORITY", "GATE"};
    __attribute__((cleanup(clear_table))) struct table table = {.left = "lrrrrrrrl"};
    add_head(&table, head);
    for (uint32_t i = 0; i < view->grant.device_count; i++) {
        const struct aliquot_grant_device *device = &view->grant.device[i];
        const struct aliquot_usage_time *time = &view->usage->time[i];
        char **cell = add_row(&table);
        cell[0] = uuid_text(device);
        cell[1] = cores_text(device);
        cell[2] = received_text(device);
        cell[3] = share_text(device->busy_permille);
        cell[4] = time_text(time->device_ns);
        cell[5] = time_text(time->wait_ns);
        cell[6] = oci_format("%u", device->weight);
        cell[7] = oci_format("%d", device->priority);
        cell[8] = gate_text(device, view->agent);
    }
    print_table(&table);
}

static void show(const struct view *view) {
    show_memory(view);
    putchar('\n');
    show_time(view);
}

/* -- As JSON ----------------------------------------------------------------------------------- */

static void print_share(const char *name, uint32_t permille) {
    if (permille > 1000)
        printf(", \"%s\": null", name);
    else
        printf(", \"%s\": %u.%03u", name, permille / 1000, permille % 1000);
}

static void print_seconds(const char *name, uint64_t ns) {
    printf(", \"%s\": %llu.%09llu", name, (unsigned long long)(ns / 1000000000u),
           (unsigned long long)(ns % 1000000000u));
}

static void print_time(const struct aliquot_grant_device *device,
                       const struct aliquot_usage_time *time) {
    uint64_t gate = device->gate;
    printf(", \"cores\": %u, \"cores_max\": %u, \"weight\": %u, \"priority\": %d, "
           "\"gate\": \"%s\", \"others\": %u",
           device->cores_min, device->cores, device->weight, device->priority, gate_name(gate),
           aliquot_gate_others(gate));
    print_share("wanted", device->wanted_permille);
    print_share("received", device->received_permille);
    print_share("busy", device->busy_permille);
    print_share("memory_busy", device->memory_busy_permille);
    print_seconds("device_seconds", time->device_ns);
    print_seconds("wait_seconds", time->wait_ns);
    printf(", \"waits\": %llu, \"let_through\": %llu", (unsigned long long)time->waits,
           (unsigned long long)time->let_through);
}

static void print_device(const struct view *view, uint32_t number) {
    const struct aliquot_grant_device *device = &view->grant.device[number];
    AUTO_FREE char *uuid = uuid_text(device), *quoted = oci_quote(uuid);
    printf("%s\n  {\"uuid\": %s, \"used_bytes\": %llu, \"cap_bytes\": ", number ? "," : "", quoted,
           (unsigned long long)used_of(view, number));
    if (device->cap == ALIQUOT_NO_CAP)
        printf("null");
    else
        printf("%llu", (unsigned long long)device->cap);
    printf(", \"unclaimed_bytes\": %llu, \"peak_bytes\": %llu, \"refusals\": %llu",
           (unsigned long long)at_most(device->unclaimed),
           (unsigned long long)at_most(view->usage->device[number].peak),
           (unsigned long long)view->usage->device[number].refusals);
    print_time(device, &view->usage->time[number]);
    printf(", \"enforcement\": \"%s\"}",
           device->enforcement == ALIQUOT_BY_DRIVER ? "driver" : "shim");
}

static void show_json(const struct view *view) {
    char name[sizeof view->grant.name * 2];
    copy_text(name, sizeof name, view->grant.name, sizeof view->grant.name);
    AUTO_FREE char *quoted = oci_quote(name);
    printf("{\"slice\": %s,\n \"agent\": %s,\n \"devices\": [", quoted,
           view->agent ? "true" : "false");
    for (uint32_t i = 0; i < view->grant.device_count; i++)
        print_device(view, i);
    printf("],\n \"processes\": [");
    for (size_t i = 0; i < view->processes; i++) {
        const struct process *process = &view->process[i];
        AUTO_FREE char *command = oci_quote(process->command);
        printf("%s\n  {\"pid\": %u, \"command\": %s, \"charges_bytes\": [", i ? "," : "",
               process->pid, command);
        for (uint32_t j = 0; j < view->grant.device_count; j++)
            printf("%s%llu", j ? ", " : "", (unsigned long long)charge_of(view, j, process));
        printf("]}");
    }
    printf("]}\n");
}

/* -- The command ------------------------------------------------------------------------------- */

int main(int argc, char *argv[]) {
    const char *folder = "/run/aliquot";
    bool json = false;
    struct oci_error error;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return fputs(help, stdout) < 0 || fflush(stdout) != 0;
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (strncmp(argv[i], "--region=", 9) == 0)
            folder = argv[i] + 9;
        else if (strcmp(argv[i], "--region") == 0 && i + 1 < argc)
            folder = argv[++i];
        else {
            oci_fail(&error, "'%s' is no option, or lacks its value: see aliquot-stat --help",
                     argv[i]);
            oci_say(PROGRAM, error.text);
            return 2;
        }
    }
    AUTO_FREE struct view *view = oci_allocate(1, sizeof *view);
    AUTO_FREE struct aliquot_usage *usage = oci_allocate(1, sizeof *usage);
    view->usage = usage;
    if (!look(view, folder, &error)) {
        oci_say(PROGRAM, error.text);
        return 1;
    }
    if (json)
        show_json(view);
    else
        show(view);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    oci_fail(&error, "writing: %s", strerror(errno));
    oci_say(PROGRAM, error.text);
    return 1;
}
