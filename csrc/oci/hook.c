/* aliquot-hook MOMENT SLICE-FOLDER: what an OCI runtime calls while it makes and ends a container.
 *
 *   createRuntime    in the node's namespaces: tells the agent who the container's init is; without
 *                    its consent there is no container
 *   createContainer  in the container's namespaces, before its root becomes the root: carries out
 *                    the plan in the slice's folder
 *   poststop         tells the agent that it is over; an agent that is absent finds out by itself
 *
 * The container's state comes as JSON on standard input.
 */
#include "client.h"
#include "cover.h"
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define PROGRAM "aliquot-hook"

static bool read_state(struct oci_state *state, struct oci_error *error) {
    size_t size;
    AUTO_FREE char *json = oci_read_all(STDIN_FILENO, OCI_STATE_MAX, &size);
    if (!json)
        return oci_fail(error, "the container's state on standard input: %s", strerror(errno));
    if (!oci_state_parse(state, json, size, error))
        return false;
    if (state->id && *state->id)
        return true;
    oci_state_clear(state);
    return oci_fail(error, "the container's state on standard input has no id");
}

static bool create_runtime(const char *slice, struct oci_error *error) {
    __attribute__((cleanup(oci_state_clear))) struct oci_state state = {0};
    if (!read_state(&state, error))
        return false;
    if (!state.pid || !state.bundle || *state.bundle != '/')
        return oci_fail(error, "the container's state on standard input has no %s",
                        state.pid ? "absolute bundle" : "pid");
    char pid[16];
    snprintf(pid, sizeof pid, "%d", state.pid);
    const struct oci_key_value pair[] = {
        {"slice", slice}, {"id", state.id}, {"pid", pid}, {"bundle", state.bundle}};
    return oci_ask(ALIQUOT_WIRE_CREATE_RUNTIME, pair, 4, error) == OCI_GRANTED;
}

static bool create_container(const char *slice, struct oci_error *error) {
    AUTO_FREE char *path = oci_format("%s/plan", slice);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    size_t size;
    char *text = fd < 0 ? NULL : oci_read_all(fd, OCI_PLAN_MAX, &size);
    if (!text)
        return oci_fail(error, "reading %s: %s", path, strerror(errno));
    __attribute__((cleanup(oci_plan_clear))) struct oci_plan plan = {0};
    if (!oci_plan_parse(&plan, text, size, error))
        return false;
    /* A process that carries out a plan may hold as many descriptors as it could ask for. */
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    umask(022);
    return oci_carry_out(&plan, error);
}

/* The books are settled without us when the agent is back, so its absence stops nothing. */
static bool poststop(const char *slice, struct oci_error *error) {
    __attribute__((cleanup(oci_state_clear))) struct oci_state state = {0};
    if (!read_state(&state, error))
        return false;
    const struct oci_key_value pair[] = {{"slice", slice}, {"id", state.id}};
    if (oci_ask(ALIQUOT_WIRE_POSTSTOP, pair, 2, error) != OCI_GRANTED)
        oci_say(PROGRAM, error->text);
    return true;
}

int main(int argc, char *argv[]) {
    static const struct {
        const char *name;
        bool (*act)(const char *slice, struct oci_error *error);
    } moment[] = {
        {"createRuntime", create_runtime},
        {"createContainer", create_container},
        {"poststop", poststop},
    };
    struct oci_error error;
    for (size_t i = 0; argc == 3 && *argv[2] == '/' && i < sizeof moment / sizeof *moment; i++) {
        if (strcmp(argv[1], moment[i].name) != 0)
            continue;
        if (moment[i].act(argv[2], &error))
            return 0;
        oci_say(PROGRAM, error.text);
        return 1;
    }
    oci_say(PROGRAM, "usage: aliquot-hook createRuntime|createContainer|poststop SLICE-FOLDER: an "
                     "OCI runtime calls it, with a container's state on standard input");
    return 2;
}
