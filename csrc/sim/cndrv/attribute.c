/* What can be asked of a device and of an address. */
#include "cndrv_sim.h"

#include <stdio.h>
#include <string.h>

/* ---- Devices --------------------------------------------------------------------------------------- */

/* What follows from the number in a model's name. The last one at or below it counts. */
struct series {
    unsigned model;
    int isa, major, minor;
    int nram, wram, sram; /* KiB: of a core, of a core, of a cluster */
    bool bf16, tf32;
};
static const struct series all_series[] = {
    {0, 270, 2, 7, 512, 1024, 2048, false, false},
    {290, 290, 2, 9, 512, 512, 2048, false, false},
    {370, 372, 3, 7, 768, 1024, 4096, false, false},
    {590, 592, 5, 9, 512, 512, 2048, true, true},
};

static const struct series *series_of(const struct sim_device_config *config) {
    const struct series *found = all_series;
    unsigned model = cn_model(config);
    for (size_t s = 0; s < sizeof all_series / sizeof *all_series; s++)
        if (all_series[s].model <= model)
            found = &all_series[s];
    return found;
}

unsigned cn_model(const struct sim_device_config *config) {
    unsigned model = 0;
    (void)sscanf(config->name, "MLU%u", &model);
    return model;
}

uint32_t cn_clusters(const struct sim_device_config *config) {
    uint32_t clusters = config->sms / CN_CLUSTER_CORES;
    return clusters ? clusters : 1;
}

KernelClass cn_widest(uint32_t clusters) {
    KernelClass kind = CN_KERNEL_CLASS_UNION;
    while (kind < CN_KERNEL_CLASS_UNION16 && (unsigned)kind * 2 <= clusters * CN_CLUSTER_CORES)
        kind = (KernelClass)((unsigned)kind * 2);
    return kind;
}

static int mib(uint64_t bytes) { return (int)(bytes >> 20); }

CNresult cnDeviceGetAttribute(int *value, int attribute, CNdev device) {
    CNresult result = cn_begin();
    if (result == CN_SUCCESS && device >= (CNdev)sim_device_count())
        result = CN_ERROR_INVALID_DEVICE;
    if (result == CN_SUCCESS && !value)
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    enum { KIB = 1 << 10, DIMENSION = 65535, QUEUES = 4096, NOTIFIERS = 65536 };
    const struct sim_device_config *config = sim_device_config((CUdevice)device);
    const struct series *series = series_of(config);
    const int clusters = (int)cn_clusters(config);
    const struct {
        int attribute, value;
    } told[] = {
        {CN_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, series->major},
        {CN_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, series->minor},
        {CN_DEVICE_ATTRIBUTE_SPARSE_COMPUTING_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_FP16_COMPUTING_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_INT4_COMPUTING_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_INT8_COMPUTING_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_BF16_COMPUTING_SUPPORTED, series->bf16},
        {CN_DEVICE_ATTRIBUTE_TF32_COMPUTING_SUPPORTED, series->tf32},
        {CN_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0},
        {CN_DEVICE_ATTRIBUTE_MAX_QUEUE_COUNT, QUEUES},
        {CN_DEVICE_ATTRIBUTE_MAX_NOTIFIER_COUNT, NOTIFIERS},
        {CN_DEVICE_ATTRIBUTE_QUEUE_PRIORITIES_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_TINY_CORE_SUPPORTED, 0},
        {CN_DEVICE_ATTRIBUTE_MULTI_CTX_NOTIFIER_WAIT_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_IPCNOTIFIER_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_MAX_BLOCK_TASK_DIM_X, DIMENSION},
        {CN_DEVICE_ATTRIBUTE_MAX_BLOCK_TASK_DIM_Y, DIMENSION},
        {CN_DEVICE_ATTRIBUTE_MAX_BLOCK_TASK_DIM_Z, DIMENSION},
        {CN_DEVICE_ATTRIBUTE_MAX_CLUSTER_COUNT_PER_UNION_TASK, clusters},
        {CN_DEVICE_ATTRIBUTE_MAX_CLUSTER_COUNT, clusters},
        {CN_DEVICE_ATTRIBUTE_MAX_CORE_COUNT_PER_CLUSTER, CN_CLUSTER_CORES},
        {CN_DEVICE_ATTRIBUTE_MAX_QUADRANT_COUNT, 1},
        {CN_DEVICE_ATTRIBUTE_MAX_CLUSTERS_PER_UNION_LIMIT_TASK, clusters},
        {CN_DEVICE_ATTRIBUTE_MLU_ISA_VERSION, series->isa},
        {CN_DEVICE_ATTRIBUTE_IS_MULTIPLE_TENSOR_PROCESSOR, 1},
        {CN_DEVICE_ATTRIBUTE_MAX_L2_CACHE_SIZE, (int)config->l2_bytes},
        {CN_DEVICE_ATTRIBUTE_NRAM_SIZE_PER_CORE, series->nram * KIB},
        {CN_DEVICE_ATTRIBUTE_WEIGHT_RAM_SIZE_PER_CORE, series->wram * KIB},
        {CN_DEVICE_ATTRIBUTE_MAX_SHARED_RAM_SIZE_PER_CLUSTER, series->sram * KIB},
        {CN_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_NODE_COUNT, 1},
        {CN_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE, 0},
        {CN_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1},
        {CN_DEVICE_ATTRIBUTE_GENERIC_COMPRESSION_SUPPORTED, 0},
        {CN_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 0},
        {CN_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 0},
        {CN_DEVICE_ATTRIBUTE_LINEAR_MAPPING_SUPPORTED, 0},
        {CN_DEVICE_ATTRIBUTE_LINEAR_RECOMMEND_GRANULARITY, (int)config->page_size},
        /* What programs may have of it, both: what the driver keeps is not theirs to know. */
        {CN_DEVICE_ATTRIBUTE_AVAILABLE_GLOBAL_MEMORY_SIZE, mib(config->memory - config->reserved)},
        {CN_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_TOTAL_SIZE, mib(config->memory - config->reserved)},
        {CN_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED, 0},
        {CN_DEVICE_ATTRIBUTE_ECC_ENABLED, 1},
        {CN_DEVICE_ATTRIBUTE_CLUSTER_CLOCK_RATE, (int)config->clock_mhz * 1000},
        {CN_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, (int)config->memory_clock_mhz * 1000},
        {CN_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, (int)config->bus_width_bits},
        {CN_DEVICE_ATTRIBUTE_PCI_BUS_ID, (int)config->pci_bus},
        {CN_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, (int)config->pci_device},
        {CN_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, (int)config->pci_domain},
    };
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        if (told[i].attribute == attribute) {
            *value = told[i].value;
            return CN_SUCCESS;
        }
    return CN_ERROR_INVALID_VALUE;
}

/* ---- Addresses ------------------------------------------------------------------------------------- */

CNresult cnGetMemAttribute(void *value, int attribute, CNaddr address) {
    static const struct {
        int here;
        CUpointer_attribute driver;
    } known[] = {
        {CN_MEM_ATTRIBUTE_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE},
        {CN_MEM_ATTRIBUTE_CONTEXT, CU_POINTER_ATTRIBUTE_CONTEXT},
        {CN_MEM_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL},
        {CN_MEM_ATTRIBUTE_RANGE_START_ADDR, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR},
        {CN_MEM_ATTRIBUTE_RANGE_SIZE, CU_POINTER_ATTRIBUTE_RANGE_SIZE},
        {CN_MEM_ATTRIBUTE_MAPPED, CU_POINTER_ATTRIBUTE_MAPPED},
    };
    static_assert((int)CN_MEMORYTYPE_HOST == (int)CU_MEMORYTYPE_HOST &&
                      (int)CN_MEMORYTYPE_DEVICE == (int)CU_MEMORYTYPE_DEVICE,
                  "the types have the driver's numbers");
    struct sim_context *context;
    CNresult result = cn_enter(&context);
    if (result == CN_SUCCESS && !value)
        result = CN_ERROR_INVALID_VALUE;
    if (result != CN_SUCCESS)
        return result;
    unsigned mapped = 0;
    if (attribute == CN_MEM_ATTRIBUTE_ISLINEAR) {
        result = cn_error(cuPointerGetAttribute(&mapped, CU_POINTER_ATTRIBUTE_MAPPED, address));
        if (result == CN_SUCCESS)
            memset(value, 0, sizeof(int)); /* no device here has memory that is */
        return result;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].here == attribute) {
            result = cn_error(cuPointerGetAttribute(value, known[i].driver, address));
            if (result != CN_SUCCESS && attribute == CN_MEM_ATTRIBUTE_TYPE)
                memset(value, CN_MEMORYTYPE_UNKNOWN, sizeof(int));
            return result;
        }
    return CN_ERROR_INVALID_VALUE;
}

CNresult cnGetMemAttributes(unsigned int count, int *attributes, void **values, CNaddr address) {
    if (!count || !attributes || !values)
        return CN_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < count; i++) {
        CNresult result = cnGetMemAttribute(values[i], attributes[i], address);
        if (result != CN_SUCCESS)
            return result;
    }
    return CN_SUCCESS;
}
