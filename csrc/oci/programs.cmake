# The small programs that run beside containers.

aliquot_target_program(
    aliquot-runtime csrc/oci/runtime.c csrc/oci/runc_args.c csrc/oci/runc_log.c
    csrc/oci/real_runtime.c csrc/oci/client.c csrc/oci/util.c)
aliquot_target_program(
    aliquot-hook csrc/oci/hook.c csrc/oci/state.c csrc/oci/plan.c csrc/oci/survey.c
    csrc/oci/apply.c csrc/oci/layer.c csrc/oci/root.c csrc/oci/mounts.c
    csrc/oci/client.c csrc/oci/util.c)
aliquot_target_program(aliquot-stat csrc/oci/stat.c csrc/oci/util.c csrc/region/region.c)
