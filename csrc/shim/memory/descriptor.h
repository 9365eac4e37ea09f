/* Descriptors that stand for memory of a device: the same in every vendor's shim. */
#ifndef ALIQUOT_SHIM_MEMORY_DESCRIPTOR_H
#define ALIQUOT_SHIM_MEMORY_DESCRIPTOR_H

#include <stdbool.h>
#include <stdint.h>

/* What names the memory that a descriptor stands for, the same in every process; 0: nothing does. */
uint64_t aliquot_descriptor_key(int fd);

/* Whether this process has a descriptor of the memory: `*fd`, or a copy of it or a later export, which
 * `*fd` is then. -1: it has none. errno is preserved. */
bool aliquot_descriptor_open(int *fd, uint64_t key);

#endif
