/* Random work in random queues, on any vendor's driver. What each step does to memory is known beforehand, and
 * each waits by events for those that it depends on and for no others: so whatever the driver, the shim and
 * who shares the device make of it, every value that a step or the program sees is known, and so is the order
 * in which functions of the host are called on one piece of memory. Whatever else is seen ends the program.
 *
 *   work SEED STEPS THREADS
 *       prints what was seen, in one number that depends on nothing but the arguments */
#define CLIENT_CASES
#include "accel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { QUEUES = 7, DEFAULT = 0, OWN = 1, JOINED = 2, FREE = 3 }; /* FREE and above wait for none */
enum { SPOTS = 8, LARGE = 1 << 16, SLOTS = 256, MARKS = 1024, CALLS = 256, GRAPHS = 3, WORDS = 30 };

/* The steps of a queue so far, and the last event in it: it comes with the first `marked` of them. */
struct line {
    accel_queue queue;
    uint64_t steps, marked;
    accel_event mark;
};

/* A piece of memory that is full of one value. */
struct spot {
    uint64_t at;
    size_t bytes;
    unsigned char value; /* when all that was put into queues is done */
    int writer;          /* queue of the last one; -1: none since the last wait */
    uint64_t written;    /* its number in there */
    uint64_t read[QUEUES];
    unsigned calls; /* of the host, on it */
};

/* A call of the host: what it must see, and what must have been called before. */
struct call {
    struct chain *chain;
    const unsigned char *seen;
    unsigned char value;
    unsigned spot, number;
};

/* Copies one spot into another, and beside that fills a third. */
struct graph {
    accel_graph graph;
    unsigned from, to, filled;
    unsigned char value;
};

/* One thread's. */
struct chain {
    uint64_t random, digest;
    struct line lines[QUEUES];
    struct spot spots[SPOTS];
    unsigned char *slots; /* of the host, for copies: each is used once between two waits */
    unsigned slots_used;
    accel_event marks[MARKS];
    unsigned marks_made;
    struct call calls[CALLS];
    unsigned calls_made;
    _Atomic unsigned called[SPOTS];
    _Atomic unsigned wrong;
    struct graph graphs[GRAPHS];
    unsigned
        word; /* the first of WORDS that all reach: each is used once between two waits, as the flag is */
    unsigned words_used;
    uint64_t word_value; /* above what was waited for before the last wait */
    accel_flag flag;
    bool flag_used;
};

static uint64_t next(struct chain *chain) {
    chain->random ^= chain->random << 13;
    chain->random ^= chain->random >> 7;
    chain->random ^= chain->random << 17;
    return chain->random * 0x2545f4914f6cdd1du;
}

static unsigned pick(struct chain *chain, unsigned below) {
    return (unsigned)(next(chain) >> 33) % below;
}

static void note(struct chain *chain, uint64_t seen) {
    chain->digest = (chain->digest ^ seen) * 0x100000001b3u;
}

/* -- Order ------------------------------------------------------------------------------------------ */

/* While a queue records, no other thread may call the driver. */
static pthread_rwlock_t recording = PTHREAD_RWLOCK_INITIALIZER;

static accel_event mark(struct chain *chain, int number) {
    struct line *line = &chain->lines[number];
    CHECK(chain->marks_made < MARKS);
    line->mark = chain->marks[chain->marks_made++] = accel_record(line->queue);
    line->marked = line->steps;
    return line->mark;
}

/* The queue waits for the first `steps` of another one. */
static void follow(struct chain *chain, int queue, int other, uint64_t steps) {
    struct line *line = &chain->lines[other];
    if (!steps || queue == other)
        return;
    accel_wait_event(chain->lines[queue].queue,
                     line->marked >= steps ? line->mark : mark(chain, other));
}

static void begin_read(struct chain *chain, int queue, unsigned spot) {
    struct spot *of = &chain->spots[spot];
    if (of->writer >= 0)
        follow(chain, queue, of->writer, of->written);
}

static void begin_write(struct chain *chain, int queue, unsigned spot) {
    begin_read(chain, queue, spot);
    for (int other = 0; other < QUEUES; other++)
        follow(chain, queue, other, chain->spots[spot].read[other]);
}

/* The queue's next step reads. */
static void reads(struct chain *chain, int queue, unsigned spot) {
    chain->spots[spot].read[queue] = chain->lines[queue].steps + 1;
}

static void writes(struct chain *chain, int queue, unsigned spot, unsigned char value) {
    struct spot *of = &chain->spots[spot];
    of->writer = queue;
    of->written = chain->lines[queue].steps + 1;
    of->value = value;
    memset(of->read, 0, sizeof of->read);
}

/* What was put into the queue is one step. */
static void stepped(struct chain *chain, int queue) {
    chain->lines[queue].steps++;
    if (pick(chain, 3) == 0)
        mark(chain, queue);
}

/* -- Steps ------------------------------------------------------------------------------------------ */

static unsigned char *slot(struct chain *chain) {
    CHECK(chain->slots_used < SLOTS);
    return chain->slots + chain->slots_used++;
}

static void fill(struct chain *chain, int queue, unsigned spot) {
    unsigned char value = (unsigned char)pick(chain, 256);
    begin_write(chain, queue, spot);
    accel_fill(chain->lines[queue].queue, chain->spots[spot].at, value, chain->spots[spot].bytes);
    writes(chain, queue, spot, value);
    stepped(chain, queue);
}

static size_t shorter(const struct spot *one, const struct spot *other) {
    return one->bytes < other->bytes ? one->bytes : other->bytes;
}

/* Into all of another one: what the first is too short for is filled behind it. */
static void copy(struct chain *chain, int queue, unsigned from, unsigned to) {
    struct spot *source = &chain->spots[from], *goal = &chain->spots[to];
    size_t bytes = shorter(source, goal);
    if (from == to)
        return;
    begin_read(chain, queue, from);
    begin_write(chain, queue, to);
    accel_copy(chain->lines[queue].queue, goal->at, source->at, bytes);
    if (bytes < goal->bytes)
        accel_fill(chain->lines[queue].queue, goal->at + bytes, source->value, goal->bytes - bytes);
    reads(chain, queue, from);
    writes(chain, queue, to, source->value);
    stepped(chain, queue);
}

/* A byte from the host, and the rest with it. */
static void copy_in(struct chain *chain, int queue, unsigned spot) {
    struct spot *goal = &chain->spots[spot];
    unsigned char *byte = slot(chain);
    *byte = (unsigned char)pick(chain, 256);
    begin_write(chain, queue, spot);
    accel_fill(chain->lines[queue].queue, goal->at, *byte, goal->bytes);
    accel_copy_in(chain->lines[queue].queue, goal->at, byte, 1);
    writes(chain, queue, spot, *byte);
    stepped(chain, queue);
}

static void heard(void *argument) {
    struct call *call = argument;
    struct chain *chain = call->chain;
    /* relaxed: what is ordered is ordered by the queues, and only that is looked at. */
    unsigned before =
        atomic_fetch_add_explicit(&chain->called[call->spot], 1, memory_order_relaxed);
    if (before != call->number || *call->seen != call->value)
        atomic_fetch_add_explicit(&chain->wrong, 1, memory_order_relaxed);
}

/* A byte to the host, where a function looks at it. Those of a spot follow each other. */
static void call(struct chain *chain, int queue, unsigned spot) {
    struct spot *source = &chain->spots[spot];
    unsigned char *byte = slot(chain);
    CHECK(chain->calls_made < CALLS);
    struct call *made = &chain->calls[chain->calls_made++];
    *made = (struct call){chain, byte, source->value, spot, source->calls++};
    *byte = (unsigned char)~source->value;
    begin_write(chain, queue, spot);
    accel_copy_out(chain->lines[queue].queue, byte, source->at + source->bytes - 1, 1);
    accel_host_call(chain->lines[queue].queue, heard, made);
    writes(chain, queue, spot, source->value);
    stepped(chain, queue);
}

static void kernel(struct chain *chain, int queue) {
    uint64_t ns = pick(chain, 4) ? 0 : pick(chain, MS);
    accel_kernel(chain->lines[queue].queue, ns, 1 + pick(chain, 100));
    stepped(chain, queue);
}

/* By way of memory that comes and goes in the queue. */
static void pass_through(struct chain *chain, int queue, unsigned spot) {
    struct spot *goal = &chain->spots[spot];
    accel_queue in = chain->lines[queue].queue;
    unsigned char value = (unsigned char)pick(chain, 256);
    begin_write(chain, queue, spot);
    uint64_t memory = accel_take(in, goal->bytes);
    accel_fill(in, memory, value, goal->bytes);
    accel_copy(in, goal->at, memory, goal->bytes);
    accel_give(in, memory);
    writes(chain, queue, spot, value);
    stepped(chain, queue);
}

static void record(struct chain *chain, struct graph *graph) {
    accel_queue queue = chain->lines[FREE].queue, beside = chain->lines[FREE + 1].queue;
    graph->from = pick(chain, SPOTS);
    graph->to = (graph->from + 1 + pick(chain, SPOTS - 1)) % SPOTS;
    graph->filled = graph->from;
    while (graph->filled == graph->from || graph->filled == graph->to)
        graph->filled = pick(chain, SPOTS);
    graph->value = (unsigned char)pick(chain, 256);
    const struct spot *from = &chain->spots[graph->from], *to = &chain->spots[graph->to];
    const struct spot *filled = &chain->spots[graph->filled];
    accel_record_begin(queue);
    accel_event fork = accel_record(queue);
    accel_wait_event(beside, fork);
    accel_copy(queue, to->at, from->at, shorter(from, to));
    accel_kernel(queue, pick(chain, 20000), 1 + pick(chain, 20));
    accel_fill(beside, filled->at, graph->value, filled->bytes);
    accel_event join = accel_record(beside);
    accel_wait_event(queue, join);
    graph->graph = accel_record_end(queue);
    accel_event_end(fork);
    accel_event_end(join);
}

static void launch(struct chain *chain, int queue, const struct graph *graph) {
    const struct spot *from = &chain->spots[graph->from];
    struct spot *to = &chain->spots[graph->to];
    size_t bytes = shorter(from, to);
    begin_read(chain, queue, graph->from);
    begin_write(chain, queue, graph->to);
    begin_write(chain, queue, graph->filled);
    accel_graph_launch(graph->graph, chain->lines[queue].queue);
    if (bytes < to->bytes)
        accel_fill(chain->lines[queue].queue, to->at + bytes, from->value, to->bytes - bytes);
    reads(chain, queue, graph->from);
    writes(chain, queue, graph->to, from->value);
    writes(chain, queue, graph->filled, graph->value);
    stepped(chain, queue);
}

/* One queue waits for another, by a word that the other sets or a flag. Of queues that wait for each other by
 * themselves neither may be one. */
static void signal_other(struct chain *chain) {
    int queue = FREE + (int)pick(chain, QUEUES - FREE), other = queue;
    while (other == queue)
        other = FREE + (int)pick(chain, QUEUES - FREE);
    accel_queue waits = chain->lines[queue].queue, sets = chain->lines[other].queue;
    bool awaited_first = pick(chain, 2);
    if (chain->words_used == WORDS)
        return;
    if (chain->flag && !chain->flag_used) {
        chain->flag_used = true;
        if (awaited_first) {
            accel_flag_await(waits, chain->flag);
            accel_flag_set(sets, chain->flag);
        } else {
            accel_flag_set(sets, chain->flag);
            accel_flag_await(waits, chain->flag);
        }
    } else {
        uint64_t word = accel_word(chain->word + chain->words_used++);
        accel_await(waits, word, chain->word_value);
        accel_set(sets, word, chain->word_value);
    }
    stepped(chain, queue);
    stepped(chain, other);
}

static void step(struct chain *chain) {
    int queue = (int)pick(chain, QUEUES);
    unsigned spot = pick(chain, SPOTS);
    switch (pick(chain, 12)) {
    case 0:
    case 1:
        fill(chain, queue, spot);
        break;
    case 2:
    case 3:
        copy(chain, queue, spot, pick(chain, SPOTS));
        break;
    case 4:
        copy_in(chain, queue, spot);
        break;
    case 5:
    case 6:
        call(chain, queue, spot);
        break;
    case 7:
        pass_through(chain, queue == DEFAULT ? OWN : queue, spot);
        break;
    case 8:
        launch(chain, queue, &chain->graphs[pick(chain, GRAPHS)]);
        break;
    case 9:
        signal_other(chain);
        break;
    default:
        kernel(chain, queue);
    }
}

/* -- Waits ------------------------------------------------------------------------------------------ */

static void wait_somehow(struct chain *chain) {
    unsigned way = pick(chain, 3);
    for (int queue = 0; queue < QUEUES && way == 0; queue++) {
        accel_event last = mark(chain, queue);
        while (!accel_done(last))
            sched_yield();
    }
    if (way == 1)
        accel_wait_all();
    /* However it waited: what was marked must be done, too. */
    for (int queue = 0; queue < QUEUES; queue++)
        accel_wait(chain->lines[queue].queue);
}

/* All that was put into queues is done: nothing is under way any more. */
static void look(struct chain *chain) {
    CHECK(!chain->wrong);
    for (unsigned spot = 0; spot < SPOTS; spot++) {
        struct spot *of = &chain->spots[spot];
        SAME(accel_read(of->at), of->value);
        SAME(accel_read(of->at + of->bytes - 1), of->value);
        SAME(chain->called[spot], of->calls);
        note(chain, of->value);
        note(chain, of->calls);
        of->writer = -1;
        memset(of->read, 0, sizeof of->read);
    }
    for (unsigned i = 0; i < chain->calls_made; i++)
        note(chain, *chain->calls[i].seen);
    for (unsigned i = 0; i < chain->marks_made; i++)
        accel_event_end(chain->marks[i]);
    for (int queue = 0; queue < QUEUES; queue++)
        chain->lines[queue].marked = chain->lines[queue].steps = 0;
    chain->calls_made = chain->slots_used = chain->marks_made = chain->words_used = 0;
    chain->word_value++;
    chain->flag_used = false;
}

/* Something comes in the place of another. */
static void renew(struct chain *chain) {
    static const size_t too_much = (size_t)1 << 40;
    struct line *line = &chain->lines[FREE + 2 + pick(chain, QUEUES - FREE - 2)];
    struct graph *graph = &chain->graphs[pick(chain, GRAPHS)];
    switch (pick(chain, 4)) {
    case 0:
        accel_queue_end(line->queue);
        line->queue = accel_queue_new();
        break;
    case 1:
        CHECK(accel_lacks(too_much));
        break;
    case 2:
        accel_graph_end(graph->graph);
        graph->graph = NULL;
        break;
    default: {
        struct spot *spot = &chain->spots[pick(chain, SPOTS)];
        uint64_t memory = accel_memory(spot->bytes);
        /* No graph has it in mind. */
        for (unsigned i = 0; i < GRAPHS; i++) {
            if (chain->graphs[i].graph)
                accel_graph_end(chain->graphs[i].graph);
            chain->graphs[i].graph = NULL;
        }
        accel_memory_end(spot->at);
        spot->at = memory;
        spot->value = 0;
    }
    }
}

static void record_all(struct chain *chain) {
    bool all = true;
    for (unsigned i = 0; i < GRAPHS; i++)
        all &= chain->graphs[i].graph != NULL;
    if (all)
        return;
    pthread_rwlock_wrlock(&recording);
    for (unsigned i = 0; i < GRAPHS; i++)
        if (!chain->graphs[i].graph)
            record(chain, &chain->graphs[i]);
    pthread_rwlock_unlock(&recording);
}

/* -- Threads ---------------------------------------------------------------------------------------- */

static unsigned steps_each;

static void furnish(struct chain *chain) {
    accel_enter(0);
    for (int queue = 0; queue < QUEUES; queue++)
        chain->lines[queue].queue = queue == DEFAULT  ? NULL
                                    : queue == OWN    ? accel_queue_own()
                                    : queue == JOINED ? accel_queue_joined()
                                                      : accel_queue_new();
    for (unsigned spot = 0; spot < SPOTS; spot++) {
        struct spot *of = &chain->spots[spot];
        of->bytes = (size_t)LARGE >> pick(chain, 12);
        of->at = accel_memory(of->bytes);
        of->writer = -1;
    }
    chain->slots = accel_host_memory(SLOTS);
    chain->flag = accel_flag_new ? accel_flag_new() : NULL;
}

static void *work(void *argument) {
    struct chain *chain = argument;
    pthread_rwlock_rdlock(&recording);
    furnish(chain);
    pthread_rwlock_unlock(&recording);
    for (unsigned done = 0; done < steps_each;) {
        record_all(chain);
        pthread_rwlock_rdlock(&recording);
        for (unsigned burst = 1 + pick(chain, 60); burst && done < steps_each; burst--, done++)
            step(chain);
        wait_somehow(chain);
        look(chain);
        renew(chain);
        pthread_rwlock_unlock(&recording);
    }
    return NULL;
}

static void random_work(void) {
    enum { MOST = 16 };
    static struct chain chains[MOST];
    pthread_t threads[MOST];
    unsigned count = (unsigned)client_number(2);
    CHECK(count && count <= MOST);
    steps_each = (unsigned)client_number(1);
    accel_start(0);
    CHECK(accel_words(NULL));
    for (unsigned i = 0; i < count; i++) {
        chains[i] = (struct chain){.random = ((uint64_t)client_number(0) + 1) * 7919 + i,
                                   .word = i * WORDS,
                                   .word_value = 1};
        for (int j = 0; j < 10; j++)
            next(&chains[i]);
        pthread_create(&threads[i], NULL, work, &chains[i]);
    }
    uint64_t digest = 0;
    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        digest = digest * 31 + chains[i].digest;
    }
    printf("%llx\n", (unsigned long long)digest);
}

const struct client_case client_cases[] = {{"work", random_work}, {NULL, NULL}};
