/* Huawei's device control and management interface (DCMI, libdcmi.so), as far as the simulator has
 * it: our own declarations of a public ABI. Names, sizes and offsets are those of LP64 machines; each
 * is asserted here and held against the table of facts by the tests.
 *
 * All functions answer an `enum dcmi_code`. MB are MiB.
 */
#ifndef ALIQUOT_SIM_DCMI_H
#define ALIQUOT_SIM_DCMI_H

#include <stddef.h>

enum dcmi_code {
    DCMI_OK = 0,
    DCMI_PARAMETER = -8001,
    DCMI_PERMISSION = -8002,
    DCMI_MEMORY = -8003,
    DCMI_INTERNAL = -8005,
    DCMI_INVALID_ID = -8007,
    DCMI_ABSENT = -8008,
    DCMI_NOT_READY = -8012,
    DCMI_OCCUPIED = -8020,
    DCMI_MISMATCH = -8022, /* of a partition */
    DCMI_NO_CONFIG = -8023,
    DCMI_NOT_SUPPORTED = -8255,
};

enum dcmi_unit { DCMI_UNIT_NPU = 0 };
enum dcmi_die { DCMI_DIE_N = 0, DCMI_DIE_V = 1, DCMI_DIE_D = 2 };
enum dcmi_command { DCMI_COMMAND_VDEV = 52 };
enum dcmi_vdev_command {
    DCMI_VDEV_RESOURCE = 0,
    DCMI_VDEV_TOTAL = 1,
    DCMI_VDEV_FREE = 2,
    DCMI_VDEV_ACTIVITY = 5,
};
enum dcmi_utilisation {
    DCMI_UTIL_MEMORY = 1,
    DCMI_UTIL_AICORE = 2,
    DCMI_UTIL_HBM = 6,
    DCMI_UTIL_HBM_BANDWIDTH = 10,
    DCMI_UTIL_VECTOR = 12,
    DCMI_UTIL_OVERALL = 13,
    DCMI_UTIL_CUBE = 14,
};
enum dcmi_frequency {
    DCMI_FREQ_DDR = 1,
    DCMI_FREQ_HBM = 6,
    DCMI_FREQ_AICORE = 7,
    DCMI_FREQ_AICORE_MAX = 9,
    DCMI_FREQ_VECTOR = 12,
};
enum dcmi_topology {
    DCMI_TOPO_SELF = 0,
    DCMI_TOPO_SYS = 1,
    DCMI_TOPO_PHB = 2,
    DCMI_TOPO_HCCS = 3,
    DCMI_TOPO_SIO = 6, /* between the dies of a card */
    DCMI_TOPO_HCCS_SWITCH = 7,
};
#define DCMI_FILTER_EVENT_ID 1ull
#define DCMI_FILTER_SEVERITY 2ull
#define DCMI_FILTER_NODE_TYPE 4ull
enum { DCMI_PROCESSES = 32, DCMI_VDEVS = 32 };
#define DCMI_ANY_ID 0xffffffffu /* the driver picks */

struct dcmi_chip_info {
    unsigned char chip_type[32];
    unsigned char chip_name[32];
    unsigned char chip_ver[32];
    unsigned int aicore_cnt;
};
struct dcmi_chip_info_v2 {
    unsigned char chip_type[32];
    unsigned char chip_name[32];
    unsigned char chip_ver[32];
    unsigned int aicore_cnt;
    unsigned char npu_name[32];
};
struct dcmi_pcie_info_all {
    unsigned int venderid;
    unsigned int subvenderid;
    unsigned int deviceid;
    unsigned int subdeviceid;
    int domain;
    unsigned int bdf_busid;
    unsigned int bdf_deviceid;
    unsigned int bdf_funcid;
    unsigned char reserve[32];
};
struct dcmi_die_id {
    unsigned int soc_die[5];
};
struct dcmi_ecc_info {
    int enable_flag;
    unsigned int single_bit_error_cnt;
    unsigned int double_bit_error_cnt;
    unsigned int total_single_bit_error_cnt;
    unsigned int total_double_bit_error_cnt;
    unsigned int single_bit_isolated_pages_cnt;
    unsigned int double_bit_isolated_pages_cnt;
    unsigned int single_bit_next_isolated_pages_cnt;
    unsigned int double_bit_next_isolated_pages_cnt;
};
struct dcmi_hbm_info {
    unsigned long long memory_size;  /* MB */
    unsigned int freq;               /* MHz */
    unsigned long long memory_usage; /* MB */
    int temp;                        /* degrees Celsius */
    unsigned int bandwith_util_rate; /* percent */
};
struct dcmi_get_memory_info_stru {
    unsigned long long memory_size;      /* MB */
    unsigned long long memory_available; /* MB */
    unsigned int freq;                   /* MHz */
    unsigned long hugepagesize;
    unsigned long hugepages_total;
    unsigned long hugepages_free;
    unsigned int utiliza; /* percent */
    unsigned char reserve[60];
};
struct dcmi_memory_info_stru {
    unsigned long long memory_size; /* MB */
    unsigned int freq;              /* MHz */
    unsigned int utiliza;           /* percent */
};
struct dcmi_base_resource {
    unsigned long long token;
    unsigned long long token_max;
    unsigned long long task_timeout;
    unsigned int vfg_id;
    unsigned char vip_mode;
    unsigned char reserved[31];
};
struct dcmi_computing_resource {
    float aic;
    float aiv;
    unsigned short dsa;
    unsigned short rtsq;
    unsigned short acsq;
    unsigned short cdqm;
    unsigned short c_core;
    unsigned short ffts;
    unsigned short sdma;
    unsigned short pcie_dma;
    unsigned long long memory_size; /* MB */
    unsigned int event_id;
    unsigned int notify_id;
    unsigned int stream_id;
    unsigned int model_id;
    unsigned short topic_schedule_aicpu;
    unsigned short host_ctrl_cpu;
    unsigned short host_aicpu;
    unsigned short device_aicpu;
    unsigned short topic_ctrl_cpu_slot;
    unsigned int vdev_aicore_utilization;
    unsigned long long vdev_memory_total;
    unsigned long long vdev_memory_free;
    unsigned char reserved[12];
};
struct dcmi_media_resource {
    float jpegd;
    float jpege;
    float vpc;
    float vdec;
    float pngd;
    float venc;
    unsigned char reserved[32];
};
struct dcmi_create_vdev_out {
    unsigned int vdev_id;
    unsigned int pcie_bus;
    unsigned int pcie_device;
    unsigned int pcie_func;
    unsigned int vfg_id;
    unsigned char reserved[32];
};
struct dcmi_create_vdev_res_stru {
    unsigned int vdev_id;
    unsigned int vfg_id;
    char template_name[32];
    unsigned char reserved[64];
};
struct dcmi_vdev_query_info {
    char name[16];
    unsigned int status;
    unsigned int is_container_used;
    unsigned int vfid;
    unsigned int vfg_id;
    unsigned long long container_id;
    struct dcmi_base_resource base;
    struct dcmi_computing_resource computing;
    struct dcmi_media_resource media;
};
struct dcmi_vdev_query_stru {
    unsigned int vdev_id;
    struct dcmi_vdev_query_info query_info;
};
struct dcmi_soc_free_resource {
    unsigned int vfg_num;
    unsigned int vfg_bitmap;
    struct dcmi_base_resource base;
    struct dcmi_computing_resource computing;
    struct dcmi_media_resource media;
};
struct dcmi_soc_total_resource {
    unsigned int vdev_num;
    unsigned int vdev_id[DCMI_VDEVS];
    unsigned int vfg_num;
    unsigned int vfg_bitmap;
    struct dcmi_base_resource base;
    struct dcmi_computing_resource computing;
    struct dcmi_media_resource media;
};
struct dcmi_dms_fault_event {
    unsigned int event_id;
    unsigned short deviceid;
    unsigned char node_type;
    unsigned char node_id;
    unsigned char sub_node_type;
    unsigned char sub_node_id;
    unsigned char severity;  /* 0 a notice, 1 minor, 2 major, 3 critical */
    unsigned char assertion; /* 0 it is over, 1 it has come, 2 a notice */
    int event_serial_num;
    int notify_serial_num;
    unsigned long long alarm_raised_time; /* milliseconds of the epoch */
    char event_name[256];
    char additional_info[32];
    unsigned char resv[32];
};
struct dcmi_event {
    int type; /* 0: what follows is of the device management */
    union {
        struct dcmi_dms_fault_event dms_event;
    } event_t;
};
struct dcmi_event_filter {
    unsigned long long filter_flag;
    unsigned int event_id;
    unsigned char severity; /* and above */
    unsigned char node_type;
    unsigned char resv[32];
};
struct dcmi_proc_mem_info {
    int proc_id;
    unsigned long proc_mem_usage; /* bytes */
};
struct dcmi_board_info {
    unsigned int board_id;
    unsigned int pcb_id;
    unsigned int bom_id;
    unsigned int slot_id;
};
struct dcmi_elabel_info {
    char product_name[256];
    char model[256];
    char manufacturer[256];
    char manufacturer_date[256];
    char serial_number[256];
};
struct dcmi_multi_utilization_info {
    unsigned int aic_util;
    unsigned int aiv_util;
    unsigned int aicore_util;
    unsigned int npu_util;
    unsigned int reserved[8];
};

#define DCMI_SIZE(name, size) _Static_assert(sizeof(struct name) == (size), #name)
#define DCMI_PLACE(name, field, at)                                                                \
    _Static_assert(offsetof(struct name, field) == (at), #name "." #field)
DCMI_SIZE(dcmi_chip_info, 100);
DCMI_PLACE(dcmi_chip_info, aicore_cnt, 96);
DCMI_SIZE(dcmi_chip_info_v2, 132);
DCMI_PLACE(dcmi_chip_info_v2, npu_name, 100);
DCMI_SIZE(dcmi_pcie_info_all, 64);
DCMI_PLACE(dcmi_pcie_info_all, domain, 16);
DCMI_PLACE(dcmi_pcie_info_all, reserve, 32);
DCMI_SIZE(dcmi_die_id, 20);
DCMI_SIZE(dcmi_ecc_info, 36);
DCMI_SIZE(dcmi_hbm_info, 32);
DCMI_PLACE(dcmi_hbm_info, memory_usage, 16);
DCMI_PLACE(dcmi_hbm_info, bandwith_util_rate, 28);
DCMI_SIZE(dcmi_get_memory_info_stru, 112);
DCMI_PLACE(dcmi_get_memory_info_stru, hugepagesize, 24);
DCMI_PLACE(dcmi_get_memory_info_stru, utiliza, 48);
DCMI_PLACE(dcmi_get_memory_info_stru, reserve, 52);
DCMI_SIZE(dcmi_memory_info_stru, 16);
DCMI_SIZE(dcmi_base_resource, 64);
DCMI_PLACE(dcmi_base_resource, vip_mode, 28);
DCMI_SIZE(dcmi_computing_resource, 96);
DCMI_PLACE(dcmi_computing_resource, memory_size, 24);
DCMI_PLACE(dcmi_computing_resource, vdev_aicore_utilization, 60);
DCMI_PLACE(dcmi_computing_resource, vdev_memory_total, 64);
DCMI_PLACE(dcmi_computing_resource, reserved, 80);
DCMI_SIZE(dcmi_media_resource, 56);
DCMI_PLACE(dcmi_media_resource, reserved, 24);
DCMI_SIZE(dcmi_create_vdev_out, 52);
DCMI_PLACE(dcmi_create_vdev_out, vfg_id, 16);
DCMI_SIZE(dcmi_create_vdev_res_stru, 104);
DCMI_PLACE(dcmi_create_vdev_res_stru, template_name, 8);
DCMI_SIZE(dcmi_vdev_query_info, 256);
DCMI_PLACE(dcmi_vdev_query_info, container_id, 32);
DCMI_PLACE(dcmi_vdev_query_info, base, 40);
DCMI_PLACE(dcmi_vdev_query_info, computing, 104);
DCMI_PLACE(dcmi_vdev_query_info, media, 200);
DCMI_SIZE(dcmi_vdev_query_stru, 264);
DCMI_PLACE(dcmi_vdev_query_stru, query_info, 8);
DCMI_SIZE(dcmi_soc_free_resource, 224);
DCMI_PLACE(dcmi_soc_free_resource, computing, 72);
DCMI_PLACE(dcmi_soc_free_resource, media, 168);
DCMI_SIZE(dcmi_soc_total_resource, 360);
DCMI_PLACE(dcmi_soc_total_resource, vfg_num, 132);
DCMI_PLACE(dcmi_soc_total_resource, base, 144);
DCMI_PLACE(dcmi_soc_total_resource, computing, 208);
DCMI_PLACE(dcmi_soc_total_resource, media, 304);
DCMI_SIZE(dcmi_dms_fault_event, 352);
DCMI_PLACE(dcmi_dms_fault_event, severity, 10);
DCMI_PLACE(dcmi_dms_fault_event, alarm_raised_time, 24);
DCMI_PLACE(dcmi_dms_fault_event, event_name, 32);
DCMI_PLACE(dcmi_dms_fault_event, resv, 320);
DCMI_SIZE(dcmi_event, 360);
DCMI_PLACE(dcmi_event, event_t, 8);
DCMI_SIZE(dcmi_event_filter, 48);
DCMI_PLACE(dcmi_event_filter, severity, 12);
DCMI_SIZE(dcmi_proc_mem_info, 16);
DCMI_PLACE(dcmi_proc_mem_info, proc_mem_usage, 8);
DCMI_SIZE(dcmi_board_info, 16);
DCMI_SIZE(dcmi_elabel_info, 1280);
DCMI_SIZE(dcmi_multi_utilization_info, 48);
#undef DCMI_SIZE
#undef DCMI_PLACE

int dcmi_init(void);
int dcmi_get_dcmi_version(char *version, int size);
int dcmi_get_driver_version(char *version, unsigned int size);
int dcmi_get_driver_health(unsigned int *health);
int dcmi_get_card_list(int *card_num, int *card_list, int list_len);
int dcmi_get_card_num_list(int *card_num, int *card_list, int list_length);
int dcmi_get_device_num_in_card(int card_id, int *device_num);
int dcmi_get_device_id_in_card(int card_id, int *device_id_max, int *mcu_id, int *cpu_id);
int dcmi_get_device_type(int card_id, int device_id, int *device_type);
int dcmi_get_device_logic_id(int *device_logic_id, int card_id, int device_id);
int dcmi_get_card_id_device_id_from_logicid(int *card_id, int *device_id, unsigned int logic_id);
int dcmi_get_card_id_device_id_from_phyid(int *card_id, int *device_id, unsigned int phy_id);
int dcmi_get_device_phyid_from_logicid(unsigned int logicid, unsigned int *phyid);
int dcmi_get_device_logicid_from_phyid(unsigned int phyid, unsigned int *logicid);
int dcmi_get_device_chip_info(int card_id, int device_id, struct dcmi_chip_info *info);
int dcmi_get_device_chip_info_v2(int card_id, int device_id, struct dcmi_chip_info_v2 *info);
int dcmi_get_device_pcie_info_v2(int card_id, int device_id, struct dcmi_pcie_info_all *info);
int dcmi_get_device_die_v2(int card_id, int device_id, int input_type, struct dcmi_die_id *die);
int dcmi_get_device_board_info(int card_id, int device_id, struct dcmi_board_info *info);
int dcmi_get_card_elabel_v2(int card_id, struct dcmi_elabel_info *info);
int dcmi_get_product_type(int card_id, int device_id, char *text, int size);
int dcmi_get_npu_work_mode(int card_id, unsigned char *work_mode);
int dcmi_get_device_boot_status(int card_id, int device_id, int *status);
int dcmi_get_affinity_cpu_info_by_device_id(int card_id, int device_id, char *list, int *length);
int dcmi_get_topo_info_by_device_id(int card_id1, int device_id1, int card_id2, int device_id2,
                                    int *topo_type);
int dcmi_get_device_hbm_info(int card_id, int device_id, struct dcmi_hbm_info *info);
int dcmi_get_device_memory_info_v3(int card_id, int device_id,
                                   struct dcmi_get_memory_info_stru *info);
int dcmi_get_memory_info(int card_id, int device_id, struct dcmi_memory_info_stru *info);
int dcmi_get_device_utilization_rate(int card_id, int device_id, int input_type,
                                     unsigned int *utilization_rate);
int dcmi_get_device_multi_utilization_rate(int card_id, int device_id,
                                           struct dcmi_multi_utilization_info *info);
int dcmi_get_device_power_info(int card_id, int device_id, int *power);
int dcmi_mcu_get_power_info(int card_id, int *power);
int dcmi_get_device_temperature(int card_id, int device_id, int *temperature);
int dcmi_get_device_voltage(int card_id, int device_id, unsigned int *voltage);
int dcmi_get_device_frequency(int card_id, int device_id, int input_type, unsigned int *frequency);
int dcmi_get_device_ecc_info(int card_id, int device_id, int input_type,
                             struct dcmi_ecc_info *info);
int dcmi_get_device_resource_info(int card_id, int device_id, struct dcmi_proc_mem_info *info,
                                  int *proc_num);
int dcmi_get_device_health(int card_id, int device_id, unsigned int *health);
int dcmi_get_device_errorcode_v2(int card_id, int device_id, int *error_count,
                                 unsigned int *error_code_list, unsigned int list_len);
int dcmi_get_device_current_fault_event(int card_id, int device_id, struct dcmi_event *events,
                                        int room, int *count);
int dcmi_subscribe_fault_event(int card_id, int device_id, struct dcmi_event_filter filter,
                               void (*handler)(struct dcmi_event *event));
int dcmi_create_vdevice(int card_id, int device_id, struct dcmi_create_vdev_res_stru *vdev,
                        struct dcmi_create_vdev_out *out);
int dcmi_set_destroy_vdevice(int card_id, int device_id, unsigned int vdevid);
int dcmi_get_device_info(int card_id, int device_id, int main_cmd, unsigned int sub_cmd, void *buf,
                         unsigned int *size);

/* Of Ascend 950 and later, which have no other names. */
int dcmiv2_init(void);
int dcmiv2_get_driver_version(char *version, unsigned int size);
int dcmiv2_get_device_list(int *device_list, int *device_num, int list_len);
int dcmiv2_get_device_type(int dev_id, int *type);
int dcmiv2_get_chip_phy_id_by_dev_id(int dev_id, unsigned int *phyid);
int dcmiv2_get_device_chip_info(int dev_id, struct dcmi_chip_info_v2 *info);
int dcmiv2_get_device_pcie_info(int dev_id, struct dcmi_pcie_info_all *info);
int dcmiv2_get_device_die_id(int dev_id, int input_type, struct dcmi_die_id *die);
int dcmiv2_get_affinity_cpu_info_by_dev_id(int dev_id, char *list, int *length);
int dcmiv2_get_topo_info_by_device_id(int dev_id1, int dev_id2, int *topo_type);
int dcmiv2_get_device_hbm_info(int dev_id, struct dcmi_hbm_info *info);
int dcmiv2_get_device_utilization_rate(int dev_id, int input_type, unsigned int *rate);
int dcmiv2_get_device_power_info(int dev_id, int *power);
int dcmiv2_get_device_temperature(int dev_id, int *temperature);
int dcmiv2_get_device_proc_mem_info(int dev_id, struct dcmi_proc_mem_info *info, int *count);
int dcmiv2_get_device_health(int dev_id, unsigned int *health);
int dcmiv2_get_device_error_code_list(int dev_id, int *count, unsigned int *codes,
                                      unsigned int room);
int dcmiv2_get_device_current_fault_event(int dev_id, struct dcmi_event *events, int room,
                                          int *count);
int dcmiv2_subscribe_fault_event(int dev_id, struct dcmi_event_filter filter,
                                 void (*handler)(struct dcmi_event *event));

#endif
