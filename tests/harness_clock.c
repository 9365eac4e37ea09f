/* The exact clock: a heap of what happens when, and tasks that are switched to. See harness.h. */
#include "harness.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { STACK = 256 << 10 };

struct task {
    jmp_buf at;
    task_main main;
    void *argument;
    bool started, asleep, frozen, dead, ended;
    uint64_t wake_number; /* of the entry in the heap that may wake it; others are stale */
    uint64_t wake_ns;
    ucontext_t first;
};

struct entry {
    uint64_t ns, number; /* equal times go in the order in which they were entered */
    struct task *task;
    void (*call)(void *argument);
    void *argument;
};

static struct entry *heap;
static uint64_t heap_count, heap_room, numbers, now_ns, spent_ns;
static struct task *running;
static jmp_buf scheduler;
static ucontext_t scheduler_context;

static bool before(const struct entry *a, const struct entry *b) {
    return a->ns != b->ns ? a->ns < b->ns : a->number < b->number;
}

static uint64_t push(struct entry entry) {
    if (heap_count == heap_room) {
        heap_room = heap_room ? 2 * heap_room : 1024;
        heap = realloc(heap, heap_room * sizeof *heap);
        if (!heap)
            abort();
    }
    entry.number = ++numbers;
    uint64_t at = heap_count++;
    while (at > 0 && before(&entry, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = entry;
    return entry.number;
}

static struct entry pop(void) {
    struct entry top = heap[0], last = heap[--heap_count];
    uint64_t at = 0;
    for (uint64_t child; (child = 2 * at + 1) < heap_count; at = child) {
        if (child + 1 < heap_count && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &last))
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

uint64_t clock_now(void) { return now_ns + spent_ns; }

void clock_spend(uint64_t ns) { spent_ns += ns; }

struct task *task_self(void) {
    return running;
}

static void schedule(struct task *task, uint64_t ns) {
    task->wake_ns = ns;
    task->wake_number = push((struct entry){.ns = ns, .task = task});
}

struct task *task_start(task_main main, void *argument) {
    struct task *task = calloc(1, sizeof *task);
    if (!task)
        abort();
    task->main = main;
    task->argument = argument;
    task->asleep = true;
    schedule(task, clock_now());
    return task;
}

void task_sleep(uint64_t until_ns) {
    struct task *task = running;
    uint64_t now = clock_now();
    schedule(task, until_ns > now ? until_ns : now);
    task->asleep = true;
    if (!_setjmp(task->at))
        _longjmp(scheduler, 1);
}

void task_wake(struct task *task, uint64_t ns) {
    if (task->asleep && ns < task->wake_ns)
        schedule(task, ns);
}

void task_freeze(struct task *task, bool frozen) {
    task->frozen = frozen;
    if (!frozen && task->asleep)
        schedule(task, clock_now());
}

void task_kill(struct task *task) { task->dead = true; }

void clock_at(uint64_t ns, void (*call)(void *argument), void *argument) {
    uint64_t now = clock_now();
    push((struct entry){.ns = ns > now ? ns : now, .call = call, .argument = argument});
}

static void begin(void) {
    struct task *task = running;
    task->main(task->argument);
    task->ended = true;
    _longjmp(scheduler, 1);
}

static void resume(struct task *task) {
    running = task;
    task->asleep = false;
    if (!_setjmp(scheduler)) {
        if (task->started)
            _longjmp(task->at, 1);
        task->started = true;
        getcontext(&task->first);
        task->first.uc_stack.ss_sp = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (task->first.uc_stack.ss_sp == MAP_FAILED)
            abort();
        task->first.uc_stack.ss_size = STACK;
        task->first.uc_link = &scheduler_context;
        makecontext(&task->first, begin, 0);
        setcontext(&task->first);
    }
    running = NULL;
    spent_ns = 0;
}

void clock_run(uint64_t until_ns) {
    while (heap_count && heap[0].ns <= until_ns) {
        struct entry entry = pop();
        if (entry.ns > now_ns)
            now_ns = entry.ns;
        if (entry.call) {
            entry.call(entry.argument);
            spent_ns = 0;
        } else if (entry.task->asleep && entry.number == entry.task->wake_number &&
                   !entry.task->frozen && !entry.task->dead && !entry.task->ended) {
            resume(entry.task);
        }
    }
    if (until_ns > now_ns)
        now_ns = until_ns;
}
