/* An ordinary program for accelerators: it takes device memory in every way there is and gives it back
 * in every way there is. It knows of nothing but its vendor's library.
 *
 * What it holds are things. Each kind of thing has these operations:
 *   get   takes memory; on failure nothing is held
 *   poke  does something to what is held: maps it again, launches it, trims it, shows it to others
 *   give  lets go of all of it
 *   send  sends it to another process, for him to have whatever becomes of this one
 * All choices within an operation are drawn from one number, so that an operation can be repeated.
 *
 * What is the same for all vendors is in tenant.c and tenant_letter.c; what is a vendor's is behind
 * `vendor`, in tenant_cuda*.c, tenant_ascend*.c and tenant_cambricon*.c, of which one is linked.
 */
#ifndef TENANT_H
#define TENANT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an operation found where it must not be: says so and ends the program with status 1. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A call that has no reason to fail: every vendor's libraries answer 0 then. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        int must = (int)(call);                                                                    \
        if (must != 0)                                                                             \
            fail("%s answers %d (%s:%d)", #call, must, __FILE__, __LINE__);                        \
    } while (0)

#define MIB ((uint64_t)1 << 20)
enum { PIECES = 8, SLOTS = 256 };
/* What no library answers: there is nothing to open, or nothing that could be sent. */
enum { ABSENT = -1 };

/* An address of device memory. */
typedef unsigned long long address;

struct kind;

/* Something that is held. What the members mean is the kind's own business. */
struct thing {
    const struct kind *kind; /* NULL: nothing */
    void *context;           /* that was current when it was got */
    uint64_t size;           /* bytes asked for */
    unsigned count;          /* of `pointer` in use */
    address pointer[PIECES];
    unsigned references; /* of physical memory: handles held */
    uint64_t handle;     /* of physical memory, or of several devices' */
    uint64_t other_handle;
    int descriptor;  /* 0, or one that the handle was exported as */
    void *object[4]; /* pool, array, context, module, graph, executable graph, stream */
    bool flag[4];
};

/* Draws a number below `sides` from a number that holds all choices of an operation. */
static inline unsigned roll(uint64_t *dice, unsigned sides) {
    unsigned value = (unsigned)(*dice % sides);
    *dice /= sides;
    return value;
}

/* Each operation answers what the library does; 0 is success. */
struct kind {
    const char *name;
    /* `size` in bytes; the kind makes of it what suits it. */
    int (*get)(struct thing *thing, uint64_t size, uint64_t dice);
    int (*poke)(struct thing *thing, uint64_t dice);
    void (*give)(struct thing *thing, uint64_t dice);
    bool dies_with_context;
    int (*send)(struct thing *thing); /* NULL: it cannot be sent */
    bool slow;                        /* to get: comes up less often in storms */
};

/* What the library tells of the device's memory, bytes. */
struct told {
    uint64_t total, free;
    bool silent; /* of what is free */
};

/* A function that tells it, by its name in the vendor's table, in each of its forms. */
struct query {
    const char *function;
    unsigned forms;
    struct told (*ask)(unsigned form);
};

/* The seam between the program and a vendor's library. */
extern const struct vendor {
    const char *library; /* the file that programs load */
    int out_of_memory;
    /* Lists of kinds, each of which ends with one that has no name; NULL ends them. */
    const struct kind *const *kinds;

    /* Loads the library (NULL: it is loaded, and its names are global) and finds its functions, in one
     * of two ways. */
    void (*load)(const char *file, int mode, bool another_way);
    /* Initialises it and takes the device, with its primary context current. */
    int (*start)(void);
    /* The primary context comes (again), current and with streams; or goes, in one of two ways. */
    int (*retain)(void);
    int (*release)(bool reset);
    /* The context of this thread. `views`: contexts are views of the primary one, which has what is got in
     * them. */
    bool views;
    void *(*current)(void);
    int (*enter)(void *context);
    /* Waits for all that was queued in it, or for one of its streams. */
    int (*synchronise)(void);
    void (*breathe)(unsigned number);
    /* Gives back what is only kept for later. */
    void (*trim)(void);
    /* All that tell of the device's memory; the last has no name. */
    const struct query *queries;

    /* The plainest memory. */
    int (*allocate)(address *pointer, uint64_t size);
    int (*free)(address pointer);
    void (*write)(address to, const void *from, size_t size);
    void (*read)(void *to, address from, size_t size);

    /* Calls say() with what each call answers that names what is not there, or not ours. */
    void (*forge)(void);
    /* Fails unless the library answers as one that is not initialised. NULL: the first call does that. */
    void (*expect_uninitialised)(void);
    /* Fails unless the library answers a child of an initialised process as one that has none. */
    void (*expect_nothing)(address of_parent);
} vendor;

/* The process. */
extern struct tenant {
    void *primary;      /* context */
    size_t granularity; /* of physical memory */
    size_t total;       /* of the device */
    /* Datagram sockets on which tenants send each other what they share: -1 when there are none. */
    int outbox, inbox;
} tenant;

/* -- Conveniences -------------------------------------------------------------------------------- */

static inline uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }
/* The functions that a program looks up by name: `library` NULL is what is global. */
void *symbol_of(void *library, const char *name);
/* What a call answered, on a line of its own. */
void say(const char *call, int answer);
/* Writes a sign into memory, and sees whether it is still there. */
void mark(address pointer, uint64_t size);
void check_mark(address pointer, uint64_t size);
/* Fails unless all that tell of the device's memory tell of the same, and of not more free than there is. */
void look_at_memory(void);
/* A poke that does nothing. */
int nothing_poke(struct thing *thing, uint64_t dice);
/* Kinds by name; things of them, in a place that holds nothing, or no more. */
const struct kind *kind_named(const char *name);
int get(struct thing *thing, const struct kind *kind, uint64_t size, uint64_t dice);
void give(struct thing *thing, uint64_t dice);

/* What tenants send each other. Memory that is offered is fetched by its descriptor's number while its
 * owner keeps it; where a descriptor itself is sent, the memory may have no other owner until it
 * arrives. */
enum letter_kind { LETTER_IPC, LETTER_MEMORY, LETTER_POOL };
struct letter {
    enum letter_kind kind;
    int sender;
    uint64_t size;
    char key[128]; /* what the library gave out for it */
    int number;    /* of the sender's descriptor; -1: `fd` was sent */
    uint64_t file; /* that it stands for */
    int fd;        /* -1: none */
};
/* Sends without waiting, and closes the letter's descriptor; a full box loses it. */
void post(struct letter *letter);
/* False: no letter from another process. The descriptor is the receiver's to close. */
bool receive(struct letter *letter);
/* Keeps the letter's descriptor, for others to fetch. */
void offer(struct thing *thing, struct letter *letter);
/* Gets the sender's descriptor. False: he does not offer it any more. */
bool fetch(struct letter *letter);
/* Held by whoever fetches memory, and by whoever stops offering it, until it is closed. */
int hold_letters(bool fetches);

#endif
