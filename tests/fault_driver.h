/* What a test tells the failing driver (fault_driver.c), and what that saw. */
#ifndef FAULT_DRIVER_H
#define FAULT_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

/* Which calls fail. Calls that the driver makes of its own functions, in the course of another one, are
 * its own business: they are neither counted nor failed. */
struct fault_plan {
    int64_t at;     /* the n-th of the calls that are counted, from 1; 0: none */
    int32_t only;   /* count the calls of this function alone; -1: of all */
    bool from_then; /* that one and all after it */
    bool others;    /* count the calls of threads other than the one that planned */
    int32_t code;   /* what they are answered */
};

struct fault_seen {
    int64_t calls;  /* that were counted */
    int64_t failed; /* of them */
    int32_t first;  /* the function whose call failed first; -1: none has */
};

void fault_plan(const struct fault_plan *plan);
struct fault_seen fault_seen(void);
/* The number of a function, or -1; and its name. */
int32_t fault_number(const char *name);
const char *fault_name(int32_t number);

#endif
