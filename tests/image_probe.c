/* Drives the image parser for test_sim_image.py.
 *
 *   image_probe dump CC FILE            the image as JSON, or {"error": code, "why": line}
 *   image_probe rewrite CC FILE OUT     parses FILE and writes it as a cubin
 *   image_probe truncate CC FILE        parses every prefix
 *   image_probe mutate CC FILE SEED N   parses N copies with a few bytes changed
 *
 * Inputs are put in heap blocks of exactly their size, so that the address sanitizer sees any step
 * over the end.
 */
#include "sim/image_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sim_image_target target = {.ptx_limit = 90};

static uint8_t *read_all(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    size_t room = 0;

    *size = 0;
    if (!file)
        return NULL;
    do {
        room += 1 << 16;
        bytes = realloc(bytes, room);
        *size += fread(bytes + *size, 1, room - *size, file);
    } while (*size == room);
    fclose(file);
    return bytes;
}

static void print_text(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\' || (uint8_t)*text < ' ')
            printf("\\u%04x", (uint8_t)*text);
        else
            putchar(*text);
    }
    putchar('"');
}

static void print_function(const struct sim_image_function *function) {
    printf("{\"name\":");
    print_text(function->name);
    printf(",\"params\":[");
    for (uint32_t i = 0; i < function->param_count; i++)
        printf("%s[%u,%u]", i ? "," : "", function->params[i].offset, function->params[i].size);
    printf("],\"param_bytes\":%u,\"registers\":%u,\"shared\":%u,\"local\":%u,\"const\":%u,"
           "\"max_threads\":%u,\"block\":[%u,%u,%u],\"cluster\":[%u,%u,%u],\"explicit\":%s,"
           "\"strong\":%s,\"ptx\":%u,\"binary\":%u}",
           function->param_bytes, function->registers, function->shared_bytes,
           function->local_bytes, function->const_bytes, function->max_threads,
           function->required_block[0], function->required_block[1], function->required_block[2],
           function->cluster[0], function->cluster[1], function->cluster[2],
           function->cluster_must_be_set ? "true" : "false", function->strong ? "true" : "false",
           function->ptx_version, function->binary_version);
}

static void print_symbol(const struct sim_image *image, const struct sim_image_symbol *symbol) {
    printf("{\"name\":");
    print_text(symbol->name);
    printf(",\"kind\":%d,\"offset\":%llu,\"size\":%llu,\"bytes\":\"", (int)symbol->kind,
           (unsigned long long)symbol->offset, (unsigned long long)symbol->size);
    for (uint64_t at = symbol->offset;
         symbol->kind <= SIM_SYMBOL_MANAGED && at < symbol->offset + symbol->size &&
         at < symbol->offset + 64;
         at++) {
        uint8_t byte = 0;
        for (uint32_t i = 0; i < image->init_count; i++) {
            const struct sim_image_init *init = &image->inits[i];
            if (at >= init->offset && at - init->offset < init->bytes)
                byte = init->data[at - init->offset];
        }
        printf("%02x", byte);
    }
    printf("\"}");
}

static void print_image(const struct sim_image *image) {
    printf("{\"kind\":\"%s\",\"bytes\":%llu,\"data_bytes\":%llu,\"functions\":[",
           image->kind == SIM_IMAGE_PTX ? "ptx" : "cubin", (unsigned long long)image->bytes,
           (unsigned long long)image->data_bytes);
    for (uint32_t i = 0; i < image->function_count; i++) {
        if (sim_image_find_function(image, image->functions[i].name) < 0)
            abort();
        if (i)
            putchar(',');
        print_function(&image->functions[i]);
    }
    printf("],\"symbols\":[");
    for (uint32_t i = 0; i < image->symbol_count; i++) {
        if (sim_image_find_symbol(image, image->symbols[i].name) < 0)
            abort();
        if (i)
            putchar(',');
        print_symbol(image, &image->symbols[i]);
    }
    printf("],\"defines\":[");
    for (uint32_t i = 0; i < image->define_count; i++) {
        if (i)
            putchar(',');
        print_text(image->defines[i]);
    }
    printf("],\"needs\":[");
    for (uint32_t i = 0; i < image->need_count; i++) {
        if (i)
            putchar(',');
        print_text(image->needs[i]);
    }
    printf("]}\n");
}

/* Parses a copy of exactly `size` bytes and looks at all of what came of it. */
static CUresult try_parse(const uint8_t *bytes, size_t size) {
    uint8_t *exact = malloc(size ? size : 1);
    struct sim_image *image;
    char why[80];

    if (!exact)
        exit(3);
    memcpy(exact, bytes, size);
    CUresult result = sim_image_parse(exact, size, &target, &image, why, sizeof why);
    free(exact);
    if (result != CUDA_SUCCESS)
        return result;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < image->function_count; i++) {
        const struct sim_image_function *function = &image->functions[i];
        for (uint32_t k = 0; k < function->param_count; k++) {
            uint32_t end = function->params[k].offset + function->params[k].size;
            if (end > function->param_bytes || end > SIM_IMAGE_MAX_PARAM_BYTES)
                abort();
        }
        sum += strlen(function->name);
    }
    for (uint32_t i = 0; i < image->init_count; i++) {
        if (image->inits[i].offset + image->inits[i].bytes > image->data_bytes)
            abort();
        for (uint64_t k = 0; k < image->inits[i].bytes; k++)
            sum += image->inits[i].data[k];
    }
    for (uint32_t i = 0; i < image->symbol_count; i++) {
        if (image->symbols[i].kind <= SIM_SYMBOL_MANAGED &&
            image->symbols[i].offset + image->symbols[i].size > image->data_bytes)
            abort();
    }
    sim_image_find_function(image, sum & 1 ? "odd" : "even");
    sim_image_release(image);
    return CUDA_SUCCESS;
}

static int mutate(uint8_t *bytes, size_t size, unsigned seed, unsigned long count) {
    uint8_t *copy = malloc(size);
    unsigned long good = 0;

    srand(seed);
    for (unsigned long i = 0; i < count && copy; i++) {
        memcpy(copy, bytes, size);
        unsigned changes = 1 + (unsigned)rand() % 4;
        for (unsigned k = 0; k < changes; k++) {
            static const uint8_t nasty[] = {0, 1, 0x7f, 0x80, 0xff, '{', '}', '"', '.', '['};
            size_t at = ((size_t)rand() << 15 ^ (size_t)rand()) % size;
            if (rand() & 1)
                at %= 4096 < size ? 4096 : size; /* headers more often than code */
            copy[at] = rand() & 1 ? nasty[(size_t)rand() % sizeof nasty] : (uint8_t)rand();
        }
        good += try_parse(copy, size) == CUDA_SUCCESS;
    }
    free(copy);
    printf("{\"tried\":%lu,\"good\":%lu}\n", count, good);
    return 0;
}

int main(int argc, char **argv) {
    size_t size;
    char why[256];

    if (argc < 4)
        return 2;
    target.cc = (unsigned)atoi(argv[2]);
    target.relocatable = getenv("PROBE_RELOCATABLE") != NULL;
    target.ptx_only = getenv("CUDA_FORCE_PTX_JIT") != NULL;
    target.no_ptx = getenv("CUDA_DISABLE_PTX_JIT") != NULL;
    uint8_t *bytes = read_all(argv[3], &size);
    if (!bytes)
        return 2;
    if (!strcmp(argv[1], "truncate")) {
        unsigned long good = 0;
        for (size_t i = 0; i <= size; i++)
            good += try_parse(bytes, i) == CUDA_SUCCESS;
        printf("{\"tried\":%zu,\"good\":%lu}\n", size + 1, good);
        free(bytes);
        return 0;
    }
    if (!strcmp(argv[1], "mutate") && argc == 6) {
        int result = mutate(bytes, size, (unsigned)atoi(argv[4]), strtoul(argv[5], NULL, 10));
        free(bytes);
        return result;
    }
    struct sim_image *image;
    CUresult result = sim_image_parse(bytes, size, &target, &image, why, sizeof why);
    free(bytes);
    if (result != CUDA_SUCCESS) {
        printf("{\"error\":%d,\"why\":", (int)result);
        print_text(why);
        printf("}\n");
        return 0;
    }
    if (!strcmp(argv[1], "rewrite") && argc == 5) {
        uint8_t *out;
        size_t length;
        FILE *file = fopen(argv[4], "wb");
        if (!file || sim_write_cubin(image, target.cc, &out, &length) != CUDA_SUCCESS)
            return 3;
        fwrite(out, 1, length, file);
        fclose(file);
        free(out);
    } else {
        print_image(image);
    }
    sim_image_release(image);
    return 0;
}
