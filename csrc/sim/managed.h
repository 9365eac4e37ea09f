/* What freeing tells the advice on managed memory. */
#ifndef ALIQUOT_SIM_MANAGED_H
#define ALIQUOT_SIM_MANAGED_H

#include <stdint.h>

/* The allocation with that id is gone: what was said of it is forgotten. */
void managed_forget(uint64_t id);

#endif
