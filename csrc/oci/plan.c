/* Reading a plan. See plan.h. */
#include "plan.h"

#include <limits.h>
#include <string.h>

struct line {
    size_t number;
    const char *key;
    char *field[3];          /* the first few */
    struct oci_names fields; /* all after the key */
};

const char *oci_next_name(const char *name) { return name + strlen(name) + 1; }

bool oci_stands_for(const char *name, const char *soname) {
    const char *suffix = strstr(soname, ".so");
    size_t stem = suffix ? (size_t)(suffix - soname) + 3 : strlen(soname);
    if (strncmp(name, soname, stem) != 0)
        return false;
    name += stem;
    while (*name == '.') {
        size_t digits = strspn(name + 1, "0123456789");
        if (!digits)
            return false;
        name += 1 + digits;
    }
    return !*name;
}

bool oci_lies_in(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && path[length] == '/' && path[length + 1];
}

static bool is_name(const char *text) {
    size_t length = strlen(text);
    return length && length <= NAME_MAX && !strchr(text, '/') && strcmp(text, ".") != 0 &&
           strcmp(text, "..") != 0;
}

/* Takes what means nothing out of an absolute path: empty components, `.`, and a last slash. Paths of
 * CDI specifications and of images' environments come as people wrote them. */
static void tidy(char *path) {
    char *to = path;
    for (const char *from = path; *from;) {
        from += strspn(from, "/");
        size_t length = strcspn(from, "/");
        if (length && !(length == 1 && *from == '.')) {
            *to++ = '/';
            memmove(to, from, length);
            to += length;
        }
        from += length;
    }
    if (to == path)
        *to++ = '/';
    *to = 0;
}

/* A tidied path without `..`, short enough for the kernel. */
static bool is_path(char *text) {
    if (*text != '/')
        return false;
    tidy(text);
    if (strlen(text) >= PATH_MAX)
        return false;
    for (const char *at = text; *at;) {
        at++;
        size_t length = strcspn(at, "/");
        if (length > NAME_MAX || !length || (length == 2 && at[0] == '.' && at[1] == '.'))
            return false;
        at += length;
    }
    return true;
}

static bool bad(struct oci_error *error, const struct line *line, const char *what) {
    return oci_fail(error, "the plan, line %zu: %s", line->number, what);
}

static bool all_names(const struct oci_names *names) {
    const char *name = names->first;
    for (size_t i = 0; i < names->count; i++, name = oci_next_name(name))
        if (!is_name(name) || strcmp(name, OCI_REGION_FOLDER) == 0)
            return false;
    return true;
}

/* The fields from number `from` on. */
static struct oci_names fields_from(const struct line *line, size_t from) {
    struct oci_names rest = line->fields;
    for (; from && rest.count; from--, rest.count--)
        rest.first = oci_next_name(rest.first);
    return rest;
}

static struct oci_substitute *substitute_of(struct oci_plan *plan, const char *soname) {
    for (size_t i = 0; i < plan->substitutes; i++)
        if (strcmp(plan->substitute[i].soname, soname) == 0)
            return &plan->substitute[i];
    return NULL;
}

static bool add_substitute(struct oci_plan *plan, const struct line *line,
                           struct oci_error *error) {
    const char *soname = line->field[0], *private_name = line->field[2];
    if (line->fields.count != 3 || !is_name(soname) || !strstr(soname, ".so") ||
        !is_path(line->field[1]) || !is_name(private_name))
        return bad(error, line, "substitute wants a SONAME, a path and a name");
    if (strcmp(private_name, "grant") == 0 || strcmp(private_name, "usage") == 0 ||
        strcmp(private_name, "bell") == 0)
        return bad(error, line, "a private name that is a file of the region");
    for (size_t i = 0; i < plan->substitutes; i++)
        if (oci_stands_for(soname, plan->substitute[i].soname) ||
            strcmp(private_name, plan->substitute[i].private_name) == 0)
            return bad(error, line, "a second substitute of the same library or private name");
    oci_grow(&plan->substitute, plan->substitutes, sizeof *plan->substitute);
    plan->substitute[plan->substitutes++] = (struct oci_substitute){
        .soname = soname, .shim = line->field[1], .private_name = private_name};
    return true;
}

static bool add_driver(struct oci_plan *plan, const struct line *line, struct oci_error *error) {
    struct oci_substitute *substitute = substitute_of(plan, line->field[0] ? line->field[0] : "");
    struct oci_names names = fields_from(line, 2);
    if (line->fields.count < 3 || !is_path(line->field[1]) || !all_names(&names))
        return bad(error, line, "driver wants a SONAME, a path and names");
    if (!substitute || substitute->driver)
        return bad(error, line,
                   substitute ? "a second driver of the same library"
                              : "a driver without its substitute");
    substitute->driver = line->field[1];
    substitute->driver_names = names;
    return true;
}

static bool add_library(struct oci_plan *plan, const struct line *line, struct oci_error *error) {
    struct oci_names names = fields_from(line, 1);
    if (line->fields.count < 2 || !is_path(line->field[0]) || !all_names(&names))
        return bad(error, line, "library wants a path and names");
    oci_grow(&plan->library, plan->libraries, sizeof *plan->library);
    plan->library[plan->libraries++] = (struct oci_library){line->field[0], names};
    return true;
}

static bool add_file(struct oci_plan *plan, const struct line *line, struct oci_error *error) {
    bool whole = line->fields.count == 3 && is_path(line->field[0]) && is_path(line->field[1]);
    bool writable = whole && strcmp(line->field[2], "rw") == 0;
    if (!whole || (!writable && strcmp(line->field[2], "ro") != 0))
        return bad(error, line, "file wants two paths and ro or rw");
    for (size_t i = 0; i < plan->files; i++) {
        const struct oci_file *file = &plan->file[i];
        if (strcmp(file->target, line->field[1]) != 0)
            continue;
        /* Of several devices, each may need it. */
        return (strcmp(file->source, line->field[0]) == 0 && file->writable == writable) ||
               bad(error, line, "another file for the same path");
    }
    oci_grow(&plan->file, plan->files, sizeof *plan->file);
    plan->file[plan->files++] = (struct oci_file){line->field[0], line->field[1], writable};
    return true;
}

static bool add_text(const char ***list, size_t *count, const char *text) {
    oci_grow(list, *count, sizeof **list);
    (*list)[(*count)++] = text;
    return true;
}

static bool add_scan(struct oci_plan *plan, const struct line *line, struct oci_error *error) {
    char *path = line->field[0];
    if (line->fields.count != 1 || *path != '/')
        return bad(error, line, "scan wants a path");
    /* It may come from the image: one that the kernel does not take leads to no driver. */
    tidy(path);
    const char *pattern = strpbrk(path, "*?[");
    const char *rest = pattern ? strchr(pattern, '/') : NULL;
    if (rest && strpbrk(rest, "*?["))
        return bad(error, line, "a pattern in more than one component");
    return add_text(&plan->scan, &plan->scans, path);
}

static bool set_path(const char **place, const struct line *line, struct oci_error *error) {
    if (line->fields.count != 1 || !is_path(line->field[0]))
        return oci_fail(error, "the plan, line %zu: %s wants one path", line->number, line->key);
    if (*place)
        return oci_fail(error, "the plan, line %zu: a second %s", line->number, line->key);
    *place = line->field[0];
    return true;
}

/* Lines that wait for what may stand further down. */
struct waiting {
    struct line *line;
    size_t count;
};

static bool take_line(struct oci_plan *plan, const struct line *line, struct waiting *drivers,
                      struct oci_error *error) {
    const char *key = line->key;
    if (line->number == 1) {
        if (strcmp(key, "aliquot-plan") != 0 || line->fields.count != 1)
            return bad(error, line, "not a plan");
        return strcmp(line->field[0], "1") == 0 ||
               bad(error, line, "a plan of another version of Aliquot");
    }
    if (line->number == 2 && strcmp(key, "root") != 0)
        return bad(error, line, "root comes first");
    if (strcmp(key, "driver") == 0) {
        oci_grow(&drivers->line, drivers->count, sizeof *drivers->line);
        drivers->line[drivers->count++] = *line;
        return true;
    }
    if (strcmp(key, "root") == 0)
        return set_path(&plan->root, line, error);
    if (strcmp(key, "stage") == 0)
        return set_path(&plan->stage, line, error);
    if (strcmp(key, "region") == 0)
        return set_path(&plan->region, line, error);
    if (strcmp(key, "home") == 0)
        return set_path(&plan->home, line, error);
    if (strcmp(key, "cache") == 0)
        return set_path(&plan->cache, line, error);
    if (strcmp(key, "substitute") == 0)
        return add_substitute(plan, line, error);
    if (strcmp(key, "library") == 0)
        return add_library(plan, line, error);
    if (strcmp(key, "file") == 0)
        return add_file(plan, line, error);
    if (strcmp(key, "scan") == 0)
        return add_scan(plan, line, error);
    if (strcmp(key, "withhold") != 0)
        return bad(error, line, "a line of no known kind");
    if (line->fields.count != 1 || !*line->field[0] || strchr(line->field[0], '/'))
        return bad(error, line, "withhold wants a pattern of names");
    return add_text(&plan->withhold, &plan->withholds, line->field[0]);
}

/* Makes texts of the fields of the line that begins at `at` and ends before `stop`. */
static struct line split(size_t number, char *at, char *stop) {
    struct line line = {.number = number, .key = at};
    *stop = 0;
    for (char *tab; (tab = strchr(at, '\t')); at = tab + 1) {
        *tab = 0;
        if (line.fields.count < 3)
            line.field[line.fields.count] = tab + 1;
        if (!line.fields.count++)
            line.fields.first = tab + 1;
    }
    return line;
}

static bool take_lines(struct oci_plan *plan, size_t size, struct waiting *drivers,
                       struct oci_error *error) {
    size_t number = 0;
    for (char *at = plan->text, *end = at + size, *stop; at < end; at = stop + 1) {
        if (++number > OCI_PLAN_LINES)
            return oci_fail(error, "the plan has more than %u lines", OCI_PLAN_LINES);
        stop = memchr(at, '\n', (size_t)(end - at));
        struct line line = split(number, at, stop);
        if (!take_line(plan, &line, drivers, error))
            return false;
    }
    for (size_t i = 0; i < drivers->count; i++)
        if (!add_driver(plan, &drivers->line[i], error))
            return false;
    return true;
}

static bool is_whole(const struct oci_plan *plan, struct oci_error *error) {
    if (!plan->root || !plan->stage)
        return oci_fail(error, "the plan has no %s", plan->root ? "stage" : "root");
    if (plan->substitutes && !plan->region)
        return oci_fail(error, "the plan has a substitute and no region");
    bool drivers = plan->libraries;
    for (size_t i = 0; i < plan->substitutes; i++)
        drivers |= plan->substitute[i].driver != NULL;
    if (drivers && !plan->home)
        return oci_fail(error, "the plan has drivers and no home for them");
    return true;
}

bool oci_plan_parse(struct oci_plan *plan, char *text, size_t size, struct oci_error *error) {
    *plan = (struct oci_plan){.text = text};
    if (size > OCI_PLAN_MAX)
        return oci_fail(error, "the plan has more than %u bytes", OCI_PLAN_MAX);
    if (!size || text[size - 1] != '\n')
        return oci_fail(error, "the plan ends within a line");
    if (memchr(text, 0, size))
        return oci_fail(error, "the plan has a NUL in it");
    struct waiting drivers = {0};
    bool good = take_lines(plan, size, &drivers, error) && is_whole(plan, error);
    free(drivers.line);
    return good;
}

void oci_plan_clear(struct oci_plan *plan) {
    free(plan->text);
    free(plan->substitute);
    free(plan->library);
    free(plan->file);
    free(plan->scan);
    free(plan->withhold);
    *plan = (struct oci_plan){0};
}
