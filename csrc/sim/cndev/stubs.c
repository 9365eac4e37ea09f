/* What this library has the names of and cannot do: hardware partitions (MIM) are made by whoever
 * administers the node, and the simulator has no such thing as some readings are of. */
#include "cndev_sim.h"

/* (Arguments are the caller's to clear away, and none is looked at.) */
#define UNSUPPORTED(name)                                                                          \
    cndevRet_t name(void) { return CNDEV_ERROR_NOT_SUPPORTED; }

UNSUPPORTED(cndevCreateMluInstanceByProfileId)
UNSUPPORTED(cndevCreateMluInstanceByProfileName)
UNSUPPORTED(cndevDestroyMluInstanceByHandle)
UNSUPPORTED(cndevDestroyMluInstanceByInstanceName)
UNSUPPORTED(cndevGetDeviceOsMemoryUsageV2)
UNSUPPORTED(cndevGetMLULinkEventCounter)
UNSUPPORTED(cndevGetMLULinkPortIP)
UNSUPPORTED(cndevGetMLULinkPortMode)
UNSUPPORTED(cndevGetMaxMluInstanceCount)
UNSUPPORTED(cndevGetMluInstance)
UNSUPPORTED(cndevGetMluInstanceByIndex)
UNSUPPORTED(cndevGetMluInstanceRemainingCapacity)
UNSUPPORTED(cndevGetNUMANodeIdByTopologyNode)
UNSUPPORTED(cndevGetOverTemperatureInfo)
UNSUPPORTED(cndevGetRemappedRows)
