/* aliquot-runtime: stands where containerd expects runc. Before a container is made it asks the
 * agent, which changes the bundle; then, and for all else at once, the real runtime takes over this
 * process, with its arguments, environment, descriptors, signals and umask as they came. */
#include "client.h"
#include "real_runtime.h"
#include "runc_args.h"
#include "runc_log.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* The bundle's absolute path, links resolved: as the runtime will name it to its hooks. */
static char *bundle_path(const char *bundle, struct oci_error *error) {
    if (!bundle || !*bundle)
        bundle = ".";
    char *path = realpath(bundle, NULL);
    if (!path)
        oci_fail(error, "bundle %s: %s", bundle, strerror(errno));
    return path;
}

static bool admit(const struct oci_runc_args *args, struct oci_error *error) {
    AUTO_FREE char *bundle = bundle_path(args->bundle, error);
    if (!bundle)
        return false;
    const struct oci_key_value pair[] = {{"id", args->id}, {"bundle", bundle}};
    return oci_ask(ALIQUOT_WIRE_CREATE, pair, 2, error) == OCI_GRANTED;
}

static int refuse(const struct oci_runc_args *args, const struct oci_error *error) {
    AUTO_FREE char *line = oci_format("aliquot: %s", error->text);
    if (args->log && *args->log && !oci_runc_log(args->log, args->log_json, line)) {
        AUTO_FREE char *also = oci_format("--log %s: %s", args->log, strerror(errno));
        oci_say("aliquot", also);
    }
    oci_say("aliquot", error->text);
    return 1;
}

int main(int argc, char *argv[]) {
    (void)argc;
    struct oci_runc_args args;
    struct oci_error error;
    oci_runc_args(&args, argv);
    AUTO_FREE char *runtime = oci_real_runtime(&error);
    if (!runtime || (args.makes && !admit(&args, &error)))
        return refuse(&args, &error);
    char *none[] = {runtime, NULL};
    if (argv[0])
        argv[0] = runtime;
    execv(runtime, argv[0] ? argv : none);
    oci_fail(&error, "%s: %s", runtime, strerror(errno));
    return refuse(&args, &error);
}
