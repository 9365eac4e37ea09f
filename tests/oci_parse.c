/* The parsers of the small programs, compiled with sanitizers: reads inputs, each a kind ('s' for a
 * state, 'p' for a plan), a 32-bit length and bytes, and answers each with a line. */
#include "oci/plan.h"
#include "oci/runc_args.h"
#include "oci/state.h"

#include <stdio.h>
#include <string.h>

static void quote(const char *text) {
    if (!text) {
        printf(" -");
        return;
    }
    printf(" =");
    for (; *text; text++)
        printf("%02x", (unsigned char)*text);
}

static void state(const char *bytes, size_t size) {
    struct oci_state state;
    struct oci_error error;
    if (!oci_state_parse(&state, bytes, size, &error)) {
        printf("no %s\n", error.text);
        return;
    }
    printf("yes %d", state.pid);
    quote(state.id);
    quote(state.bundle);
    putchar('\n');
    oci_state_clear(&state);
}

static void plan(char *bytes, size_t size) {
    struct oci_plan plan;
    struct oci_error error;
    if (!oci_plan_parse(&plan, bytes, size, &error)) {
        printf("no %s\n", error.text);
        oci_plan_clear(&plan);
        return;
    }
    printf("yes");
    quote(plan.root);
    quote(plan.home);
    printf(" %zu %zu %zu %zu %zu", plan.substitutes, plan.libraries, plan.files, plan.scans,
           plan.withholds);
    for (size_t i = 0; i < plan.substitutes; i++) {
        const char *name = plan.substitute[i].driver_names.first;
        quote(plan.substitute[i].driver);
        for (size_t j = 0; j < plan.substitute[i].driver_names.count; j++) {
            quote(name);
            name = oci_next_name(name);
        }
    }
    for (size_t i = 0; i < plan.libraries; i++) {
        const char *name = plan.library[i].names.first;
        for (size_t j = 0; j < plan.library[i].names.count; j++) {
            quote(name);
            name = oci_next_name(name);
        }
    }
    putchar('\n');
    oci_plan_clear(&plan);
}

/* The arguments, each with its NUL. */
static void arguments(const char *bytes, size_t size) {
    char *argv[4096];
    size_t count = 0;
    for (const char *at = bytes; at < bytes + size && count < 4095; at += strlen(at) + 1)
        argv[count++] = (char *)at;
    argv[count] = NULL;
    struct oci_runc_args args;
    oci_runc_args(&args, argv);
    printf("%d", args.makes);
    quote(args.id);
    quote(args.bundle);
    quote(args.log);
    printf(" %d\n", args.log_json);
}

int main(void) {
    char kind;
    uint32_t size;
    while (fread(&kind, 1, 1, stdin) == 1 && fread(&size, sizeof size, 1, stdin) == 1) {
        /* Exactly as large as it must be, so that a step too far is seen. */
        char *bytes = malloc((size_t)size + 1);
        if (!bytes || fread(bytes, 1, size, stdin) != size)
            return 1;
        bytes[size] = 0;
        if (kind == 's') {
            char *exact = malloc(size ? size : 1);
            if (!exact)
                return 1;
            memcpy(exact, bytes, size);
            state(exact, size);
            free(exact);
        } else if (kind == 'a')
            arguments(bytes, size);
        if (kind == 'p')
            plan(bytes, size);
        else
            free(bytes);
        fflush(stdout);
    }
    return 0;
}
