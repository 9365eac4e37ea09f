/* runc's command line: options before the subcommand and behind it, with one dash or two, with the
 * value behind '=' or as the next argument. See runc_args.h. */
#include "runc_args.h"

#include <string.h>

/* Options that take a value, of runc 1.0 to 1.3, and of crun where it has more. */
static const char *const global_values[] = {"log",      "log-format",     "root", "criu",
                                            "rootless", "cgroup-manager", NULL};
static const char *const command_values[] = {"bundle",
                                             "b",
                                             "console-socket",
                                             "pid-file",
                                             "preserve-fds",
                                             "image-path",
                                             "work-path",
                                             "manage-cgroups-mode",
                                             "empty-ns",
                                             "lsm-profile",
                                             "lsm-mount-context",
                                             "parent-path",
                                             "config",
                                             "f",
                                             NULL};

static const char *const global_questions[] = {"help", "h", "version", "v", NULL};
static const char *const command_questions[] = {"help", "h", NULL};

struct option {
    const char *name;
    size_t length;
    const char *value; /* behind '=', else NULL */
};

static bool is_option(const char *text) { return text[0] == '-' && text[1]; }

static struct option split(const char *text) {
    text += text[1] == '-' ? 2 : 1;
    size_t length = strcspn(text, "=");
    return (struct option){text, length, text[length] ? text + length + 1 : NULL};
}

static bool is(const struct option *option, const char *name) {
    return strlen(name) == option->length && memcmp(name, option->name, option->length) == 0;
}

static bool is_one_of(const struct option *option, const char *const *names) {
    for (; *names; names++)
        if (is(option, *names))
            return true;
    return false;
}

/* Reads the option at `*at`, which takes its value along when it has one there. */
static struct option next(char *const **at, const char *const *with_value) {
    struct option option = split(**at);
    ++*at;
    if (!option.value && is_one_of(&option, with_value) && **at)
        option.value = *(*at)++;
    return option;
}

/* Whether runc only answers and makes nothing. */
static bool is_question(const struct option *option, const char *const *names) {
    if (!is_one_of(option, names))
        return false;
    static const char *const no[] = {"false", "False", "FALSE", "f", "F", "0", NULL};
    for (const char *const *word = no; option->value && *word; word++)
        if (strcmp(option->value, *word) == 0)
            return false;
    return true;
}

void oci_runc_args(struct oci_runc_args *args, char *const argv[]) {
    *args = (struct oci_runc_args){0};
    char *const *at = argv[0] ? argv + 1 : argv;
    bool question = false;
    while (*at && is_option(*at) && strcmp(*at, "--") != 0) {
        struct option option = next(&at, global_values);
        if (is(&option, "log"))
            args->log = option.value;
        else if (is(&option, "log-format"))
            args->log_json = option.value && strcmp(option.value, "json") == 0;
        question |= is_question(&option, global_questions);
    }
    if (*at && strcmp(*at, "--") == 0)
        at++;
    const char *command = *at ? *at++ : "";
    if (strcmp(command, "create") != 0 && strcmp(command, "run") != 0 &&
        strcmp(command, "restore") != 0)
        return;
    /* runc takes options on both sides of the id. */
    for (bool options = true; *at;) {
        if (options && strcmp(*at, "--") == 0) {
            options = false;
            at++;
        } else if (options && is_option(*at)) {
            struct option option = next(&at, command_values);
            if (is(&option, "bundle") || is(&option, "b"))
                args->bundle = option.value;
            question |= is_question(&option, command_questions);
        } else {
            if (!args->id)
                args->id = *at;
            at++;
        }
    }
    args->makes = args->id && !question;
}
