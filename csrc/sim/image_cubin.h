/* The parts of the cubin format that reading and writing share. Private to image_cubin*.c. */
#ifndef ALIQUOT_SIM_IMAGE_CUBIN_H
#define ALIQUOT_SIM_IMAGE_CUBIN_H

#include <elf.h>
#include <stdint.h>

/* ELF header. Two layouts of e_flags are about: up to ABI 7 (CUDA 12 and before) the architecture
 * is the low byte; from ABI 8 on it is the second. */
#define CUBIN_MACHINE 190u
#define CUBIN_ABI_NEW 8u
#define CUBIN_OLD_SPECIFIC 0x800u
#define CUBIN_NEW_SPECIFIC 0x8u

/* Symbols. */
#define CUBIN_OTHER_ENTRY 0x10u  /* st_other: a kernel */
#define CUBIN_OTHER_MANAGED 0x4u /* st_other: a managed variable */
#define CUBIN_TYPE_TEXTURE 10u
#define CUBIN_TYPE_SAMPLER 11u
#define CUBIN_TYPE_SURFACE 12u

/* Sections. */
#define CUBIN_SECTION_INFO 0x70000000u /* sh_type of .nv.info* */
#define CUBIN_SECTION_COMPAT 0x70000086u
/* In files that are not linked yet; as SHT_NOBITS, they have no bytes of their own. */
#define CUBIN_SECTION_GLOBAL 0x70000007u
#define CUBIN_SECTION_LOCAL 0x70000009u
#define CUBIN_SECTION_SHARED 0x7000000au

/* Records of .nv.info: a format byte, an attribute byte, then two bytes of value or of length. */
#define INFO_FORMAT_NONE 1u
#define INFO_FORMAT_BYTE 2u
#define INFO_FORMAT_HALF 3u
#define INFO_FORMAT_SIZED 4u

#define INFO_MAX_THREADS 0x05u      /* 3 words */
#define INFO_PARAM_CBANK 0x0au      /* symbol word, offset half, size half */
#define INFO_REQUIRED_THREADS 0x10u /* 3 words */
#define INFO_FRAME_SIZE 0x11u       /* symbol word, bytes word */
#define INFO_MIN_STACK_SIZE 0x12u   /* symbol word, bytes word */
#define INFO_KPARAM 0x17u           /* index word, ordinal half, offset half, packed word */
#define INFO_PARAM_SIZE 0x19u       /* half */
#define INFO_REGISTERS 0x2fu        /* symbol word, count word */
#define INFO_CLUSTER 0x3du          /* 3 words */
#define INFO_EXPLICIT_CLUSTER 0x3eu
#define INFO_KPARAM_V2 0x45u /* index word, ordinal half, offset half, size half, - */

/* .nv.compat: attribute 9 tells what kind of architecture the code is for. */
#define COMPAT_ARCH_KIND 9u
#define COMPAT_ARCH_SPECIFIC 1u

/* From sm_90 on a kernel's .nv.shared section starts with what the driver keeps for itself. */
#define CUBIN_RESERVED_SHARED 1024u
#define CUBIN_RESERVED_SHARED_FROM 90u

#endif
