/* What the vendors' management libraries of the simulator share: a session with the node, and what
 * its devices read. Each library shows one vendor's devices and answers in that vendor's codes.
 */
#ifndef ALIQUOT_SIM_VENDOR_H
#define ALIQUOT_SIM_VENDOR_H

#include "sim/state_private.h"

#include <stdbool.h>
#include <stdint.h>

/* ---- The session: one a process and library --------------------------------------------------- */

/* Opens the node, or counts one user more. The devices are those of the vendor that the process
 * sees, by PCI address. 0 or an errno value: ENOENT and ENOTDIR when there is no node, EINVAL when
 * it is of another version. A child of fork begins without a session. */
int sim_session_open(enum sim_vendor vendor);
/* One user less; the last one closes the node and wakes who waits for faults. False: not open. */
bool sim_session_close(void);
/* The node, which is not closed before sim_session_leave; NULL when there is no session. */
struct sim_state *sim_session_enter(void);
void sim_session_leave(void);

/* Between enter and leave: how many devices the process sees, a device's number on the node by its
 * place among them, and that place again (-1: not among them). */
uint32_t sim_session_count(void);
uint32_t sim_session_device(uint32_t index);
int64_t sim_session_index(uint32_t number);

/* ---- Readings of a device, by its number on the node ------------------------------------------ */

/* Pages that nobody holds, in bytes, after the dead have been cleared up after. */
uint64_t sim_free_bytes(struct sim_state *state, uint32_t device);
/* How busy the device was over the last second. */
struct sim_usage sim_device_usage(struct sim_state *state, uint32_t device);
/* A part of a usage's length, in thousandths; the same rounded to whole percent. */
uint32_t sim_permille(uint64_t part_ns, const struct sim_usage *usage);
uint32_t sim_percent(uint64_t part_ns, const struct sim_usage *usage);
/* What the device draws, in milliwatts: a tenth of its limit when idle, up to all of it. */
uint32_t sim_power(struct sim_state *state, uint32_t device);
/* Its temperature, in degrees: it follows the load. */
uint32_t sim_temperature(struct sim_state *state, uint32_t device);

struct sim_holder {
    uint32_t slot;
    uint32_t pid; /* as sim_slot_host_pid tells */
    uint64_t bytes;
};
/* The living processes that hold memory of the device. Those that cannot be told by a pid, because
 * they went while we looked, are left out. */
uint32_t sim_holders(struct sim_state *state, uint32_t device,
                     struct sim_holder out[SIM_SLOTS_MAX]);

/* The processors of the device's NUMA node as the kernel lists them ("0-3,8"); all that are online
 * where this host has no such node. False: neither can be read. */
bool sim_cpu_list(const struct sim_device_config *device, char *text, size_t size);

#endif
