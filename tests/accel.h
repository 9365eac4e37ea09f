/* What programs that share a device's time need of its driver, whatever vendor's: accel_VENDOR.c has it.
 * Whatever a driver refuses ends the program, with one line on standard error.
 *
 * A kernel of the simulator takes time and does nothing else. One that waits for something, as those do
 * that spin on a word in memory, is a kernel with a wait for that word behind it: neither comes to its
 * end before the word has its value. */
#ifndef ACCEL_H
#define ACCEL_H

#include "client.h"

#include <stdbool.h>

typedef void *accel_queue; /* NULL: the default one of the current context */
typedef void *accel_event;
typedef void *accel_graph;

enum { ACCEL_DEVICES = 2, ACCEL_WIDE = 4000 }; /* blocks that leave no room on a device */

/* -- Devices and contexts ------------------------------------------------------------------------ */

/* The device's own context, with kernels loaded, current in the calling thread. The first call of a
 * process begins with the driver. */
void accel_start(int device);
/* The same context in another thread, or once more in this one. */
void accel_enter(int device);
/* The device's own context goes, when the last start was taken back, or at once. */
void accel_stop(int device, bool at_once);

/* One more context of device 0, with kernels loaded, current in the calling thread; and its end, with
 * all that is in it. */
void *accel_context_new(void);
void accel_context_enter(void *context);
void accel_context_end(void *context);

/* -- Queues --------------------------------------------------------------------------------------- */

accel_queue accel_queue_new(void);
/* One that waits for the default queue and that this waits for, where the vendor has such. */
accel_queue accel_queue_joined(void);
/* The default queue that the calling thread has for itself, or a new one where threads have none. */
accel_queue accel_queue_own(void);
void accel_queue_end(accel_queue queue);

void accel_kernel(accel_queue queue, uint64_t ns, unsigned blocks);
void accel_wait(accel_queue queue);
/* For all of the current context. */
void accel_wait_all(void);

/* Whether the driver refuses to launch, to look, and to wait: it is another process' driver. */
bool accel_refuses(accel_queue queue);

accel_event accel_record(accel_queue queue);
void accel_wait_event(accel_queue queue, accel_event event);
bool accel_done(accel_event event);
/* Milliseconds of the device from one to another, both done. */
double accel_between(accel_event from, accel_event to);
/* Nothing waits for it any more. */
void accel_event_end(accel_event event);
void accel_host_call(accel_queue queue, void (*call)(void *), void *argument);

/* A flag of the device that a queue sets, and that another one waits for and takes back: whichever comes
 * first. NULL where the vendor has no such. */
typedef void *accel_flag;
__attribute__((weak)) accel_flag accel_flag_new(void);
__attribute__((weak)) void accel_flag_set(accel_queue queue, accel_flag flag);
__attribute__((weak)) void accel_flag_await(accel_queue queue, accel_flag flag);

/* Between the two, what is put in the queue is only recorded. */
void accel_record_begin(accel_queue queue);
accel_graph accel_record_end(accel_queue queue);
void accel_graph_launch(accel_graph graph, accel_queue queue);
void accel_graph_end(accel_graph graph);

/* -- Memory ----------------------------------------------------------------------------------------- */

/* Of the device, 0 everywhere; and of the host, for copies. */
uint64_t accel_memory(size_t bytes);
void accel_memory_end(uint64_t memory);
/* Whether there is not so much. */
bool accel_lacks(size_t bytes);
void *accel_host_memory(size_t bytes);
void accel_copy_in(accel_queue queue, uint64_t to, const void *from, size_t bytes);
void accel_copy_out(accel_queue queue, void *to, uint64_t from, size_t bytes);
void accel_copy(accel_queue queue, uint64_t to, uint64_t from, size_t bytes);
void accel_fill(accel_queue queue, uint64_t to, unsigned char byte, size_t bytes);
unsigned char accel_read(uint64_t from);
/* Memory that comes and goes in the order of the queue, from a pool. */
uint64_t accel_take(accel_queue queue, size_t bytes);
void accel_give(accel_queue queue, uint64_t memory);

/* Words of 64 bits that the host and all devices reach, this process' own or, where the vendor has
 * that, those of a file that others have mapped too; once a process, and a device is there. */
uint64_t *accel_words(const char *path);
/* Where the devices have a word. */
uint64_t accel_word(unsigned number);
/* Later work of the queue waits until the word is at least so much; or it gets that value. */
void accel_await(accel_queue queue, uint64_t word, uint64_t value);
void accel_set(accel_queue queue, uint64_t word, uint64_t value);

#endif
