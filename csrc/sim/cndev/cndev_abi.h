/* The interface of Cambricon's management library (CNDev, version 6), in our own words: what has to
 * be the same for programs that were built for the real one. Sizes and offsets are asserted in
 * layout.c. Enumerations are 32-bit numbers. Where a structure has a `version` the caller says there
 * which version of the interface it speaks; in arrays the first element's counts.
 */
#ifndef ALIQUOT_SIM_CNDEV_ABI_H
#define ALIQUOT_SIM_CNDEV_ABI_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    CNDEV_SUCCESS = 0,
    CNDEV_ERROR_NO_DRIVER = 1,
    CNDEV_ERROR_LOW_DRIVER_VERSION = 2,
    CNDEV_ERROR_UNSUPPORTED_API_VERSION = 3,
    CNDEV_ERROR_UNINITIALIZED = 4,
    CNDEV_ERROR_INVALID_ARGUMENT = 5,
    CNDEV_ERROR_INVALID_DEVICE_ID = 6,
    CNDEV_ERROR_UNKNOWN = 7,
    CNDEV_ERROR_MALLOC = 8,
    CNDEV_ERROR_INSUFFICIENT_SPACE = 9,
    CNDEV_ERROR_NOT_SUPPORTED = 10,
    CNDEV_ERROR_INVALID_LINK = 11,
    CNDEV_ERROR_NO_DEVICES = 12,
    CNDEV_ERROR_NO_PERMISSION = 13,
    CNDEV_ERROR_NOT_FOUND = 14,
    CNDEV_ERROR_IN_USE = 15,
    CNDEV_ERROR_DUPLICATE = 16,
    CNDEV_ERROR_TIMEOUT = 17,
    CNDEV_ERROR_IN_PROBLEM = 18,
} cndevRet_t;

enum { CNDEV_FEATURE_DISABLED = 0, CNDEV_FEATURE_ENABLED = 1 };
enum { CNDEV_COMPUTE_MODE_DEFAULT, CNDEV_COMPUTE_MODE_EXCLUSIVE, CNDEV_COMPUTE_MODE_PROHIBITED };
enum { CNDEV_HEALTH_STATE_DEVICE_IN_PROBLEM = 0, CNDEV_HEALTH_STATE_DEVICE_GOOD = 1 };
enum { CNDEV_HEALTH_STATE_DRIVER_RUNNING = 4 };
enum { CNDEV_MLULINK_MAC_STATE_DOWN = 0, CNDEV_MLULINK_MAC_STATE_UP = 1 };
enum { CNDEV_TOPOLOGY_SELF = 0, CNDEV_TOPOLOGY_CPU = 5, CNDEV_TOPOLOGY_SYSTEM = 6 };
/* Of pairs: the limit, and what is used of it. */
enum { CNDEV_SMLU_MAX = 0, CNDEV_SMLU_USAGE = 1 };
#define cndevEventTypeXidError UINT64_C(1)
#define cndevEventTypeAll (~UINT64_C(0))

typedef int32_t cndevDevice_t;
typedef int32_t cndevMluInstance_t; /* instanceId << 8 | slot */
typedef struct cndevEventHandle_st *cndevEventHandle;

typedef struct {
    char msg[512];
    uint32_t device_id;
    uint32_t bdf;
    uint32_t code;
    uint32_t category;
    uint32_t severity;
} cndevDiagErrorDetail_t;

typedef struct {
    uint32_t system;
    uint32_t health;
    cndevDiagErrorDetail_t error;
} cndevIncidentInfo_t;

typedef struct {
    int32_t version;
    uint32_t number;
} cndevCardInfo_t;

typedef struct {
    int32_t version;
    uint8_t uuid[37];
    uint64_t ncsUUID64;
} cndevUUID_t;

typedef struct {
    int64_t physicalMemoryTotal;
    int64_t physicalMemoryUsed;
    int64_t reservedMemory;
    int64_t virtualMemoryTotal;
    int64_t virtualMemoryUsed;
    uint64_t globalMemory;
    uint64_t reserved[16];
} cndevMemoryInfoV2_t;

typedef struct {
    int32_t version;
    uint32_t mcuMajorVersion;
    uint32_t mcuMinorVersion;
    uint32_t mcuBuildVersion;
    uint32_t driverMajorVersion;
    uint32_t driverMinorVersion;
    uint32_t driverBuildVersion;
} cndevVersionInfo_t;

typedef struct {
    int32_t version;
    int32_t averageCoreUtilization;
    int32_t coreUtilization[80];
} cndevUtilizationInfo_t;

typedef struct {
    int32_t version;
    uint32_t pid;
    uint64_t physicalMemoryUsed;
    uint64_t virtualMemoryUsed;
} cndevProcessInfo_t;

typedef struct {
    int32_t version;
    uint32_t id;
} cndevCardName_t;

typedef struct {
    int32_t version;
    uint64_t sn;
    uint64_t motherBoardSn;
} cndevCardSN_t;

typedef struct {
    uint32_t subsystemId;
    uint32_t deviceId;
    uint16_t vendor;
    uint16_t subsystemVendor;
    uint32_t domain;
    uint32_t bus;
    uint32_t device;
    uint32_t function;
    uint16_t moduleId;
    uint16_t slotId;
    uint32_t reserved[8];
} cndevPCIeInfoV2_t;

typedef struct {
    int32_t version;
    int32_t health;
    uint32_t deviceState;
    uint32_t driverState;
} cndevCardHealthState_t;

typedef struct {
    int32_t health;
    uint32_t deviceState;
    uint32_t driverState;
    uint32_t overallHealth;
    uint32_t incident_count;
    cndevIncidentInfo_t incidents[64];
    uint32_t reserved[8];
} cndevCardHealthStateV2_t;

typedef struct {
    int32_t version;
    uint32_t pid;
    uint32_t ipuUtil;
    uint32_t jpuUtil;
    uint32_t vpuDecUtil;
    uint32_t vpuEncUtil;
    uint32_t memUtil;
} cndevProcessUtilization_t;

typedef struct {
    uint32_t pid;
    uint32_t ipuUtil;
    uint32_t jpuUtil;
    uint32_t vpuDecUtil;
    uint32_t vpuEncUtil;
    uint32_t memUtil;
    uint64_t timestamp;
} cndevProcessUtilizationInfo_t;

typedef struct {
    int32_t usage;
    int32_t cap;
    int32_t machine;
    int32_t tdp;
    int32_t maxPower;
    int32_t reserved[16];
} cndevDevicePowerInfo_t;

typedef struct {
    int32_t version;
    int32_t board;
    int32_t cluster[20];
    int32_t memoryDie[8];
    int32_t chip;
    int32_t airInlet;
    int32_t airOutlet;
    int32_t memory;
    int32_t videoInput;
    int32_t cpu;
    int32_t isp;
} cndevTemperatureInfo_t;

typedef struct {
    int32_t version;
    uint64_t oneBitError;
    uint64_t multipleOneError;
    uint64_t multipleError;
    uint64_t multipleMultipleError;
    uint64_t correctedError;
    uint64_t uncorrectedError;
    uint64_t totalError;
    uint64_t addressForbiddenError;
} cndevECCInfo_t;

typedef struct {
    int32_t version;
    uint32_t volatileSramEccSbeCounter;
    uint32_t volatileSramEccDbeCounter;
    uint32_t volatileSramEccParityCounter;
    uint32_t volatileDramEccSbeCounter;
    uint32_t volatileDramEccDbeCounter;
    uint64_t aggregateDramEccSbeCounter;
    uint64_t aggregateDramEccDbeCounter;
    uint64_t aggregateSramEccSbeCounter;
    uint64_t aggregateSramEccDbeCounter;
    uint64_t aggregateSramEccParityCounter;
    bool aggregateSramEccThresholdExceeded;
    uint64_t reserved[11];
} cndevMemEccCounter_t;

typedef struct {
    int32_t version;
    int32_t nodeId;
} cndevNUMANodeId_t;

typedef struct {
    uint32_t macState;
    uint32_t serdesState;
    uint32_t presenceState;
    uint32_t serdesProgress;
    uint32_t reserved[7];
} cndevMLULinkStatusV2_t;

typedef struct {
    int32_t version;
    uint64_t mcSn;
    uint64_t baSn;
    uint32_t slotId;
    uint32_t portId;
    uint8_t devIp[16];
    uint8_t uuid[37];
    uint32_t devIpVersion;
    uint32_t isIpValid;
    int32_t connectType;
    uint64_t ncsUUID64;
    uint8_t mac_addr[6];
    char port_name[256];
} cndevMLULinkRemoteInfo_t;

typedef struct {
    int32_t version;
    uint32_t mimMode;
} cndevMimMode_t;

typedef struct {
    int32_t version;
    cndevDevice_t parentDevice;
    int32_t instanceId;
    int32_t profileId;
    uint8_t uuid[37];
    int32_t domain;
    int32_t bus;
    int32_t device;
    int32_t function;
    int32_t placement[3];
    int32_t mluCoreCount;
    int32_t vpuCount;
    int32_t jpuCount;
    int32_t gdmaCount;
    int32_t memorySize;
    char profileName[100];
    char devNodeName[100];
    char ipcmDevNodeName[100];
    char instanceName[100];
    uint32_t reserved[128];
} cndevMluInstanceInfo_t;

typedef struct {
    int32_t version;
    uint32_t smluMode;
} cndevSMLUMode_t;

typedef struct {
    int32_t version;
    uint32_t mluQuota;
    uint64_t memorySize;
} cndevSMluSet_t;

typedef struct {
    int32_t version;
    int32_t profileId;
    int32_t instanceId;
    uint8_t uuid[37];
    int32_t domain;
    int32_t bus;
    int32_t device;
    int32_t function;
    char profileName[100];
    char instanceName[100];
    char devNodeName[100];
    uint32_t mluQuota[2];
    uint64_t memorySize[2];
    uint32_t reserved[128];
} cndevSMluInfo_t;

typedef struct {
    int32_t version;
    int32_t count;
    int32_t profileId[128];
} cndevSMluProfileIdInfo_t;

typedef struct {
    int32_t version;
    int32_t profileId;
    char name[100];
    uint32_t totalCapacity;
    uint32_t remainCapacity;
    uint32_t mluQuota[2];
    uint64_t memorySize[2];
} cndevSMluProfileInfo_t;

typedef struct {
    int32_t version;
    uint32_t mode;
} cndevComputeMode_t;

typedef struct {
    uint32_t version;
    cndevDevice_t device;
    uint64_t eventData;
    uint64_t eventType;
    uint64_t timestamp;
    uint32_t computeInstanceId;
    uint32_t mluInstanceId;
    uint64_t reserved[8];
} cndevEventData_t;

typedef struct {
    int32_t version;
    uint32_t correctCounts;
    uint32_t uncorrectCounts;
    uint32_t histogram[3];
} cndevRemappedRowV2_t;

typedef struct {
    int32_t version;
    bool isRetirePending;
    bool isPending;
    bool isFailure;
} cndevRepairStatus_t;

typedef struct {
    int32_t version;
    uint32_t relation;
} cndevTopologyRelationship_t;

typedef struct {
    int32_t version;
    int32_t count;
} cndevCardCoreCount_t;
typedef struct {
    int32_t version;
    uint32_t libMajorVersion;
    uint32_t libMinorVersion;
    uint32_t libBuildVersion;
} cndevLibVersionInfo_t;

/* Of versions before 6. */
typedef struct {
    int32_t version;
    int64_t physicalMemoryTotal;
    int64_t physicalMemoryUsed;
    int64_t virtualMemoryTotal;
    int64_t virtualMemoryUsed;
    int64_t channelNumber;
    int64_t channelMemoryUsed[20];
} cndevMemoryInfo_t;

#endif
