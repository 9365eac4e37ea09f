# The small programs that run beside containers: static, so that they need nothing of the node or the
# image, and made for both architectures wherever this is built, by zig's C compiler and its musl.

# aliquot_program(NAME SOURCE...): installed as aliquot/shim/bin/<arch>/NAME.
function(aliquot_program name)
    set(warnings -Wall -Wextra -Wconversion)
    if(ALIQUOT_WERROR)
        list(APPEND warnings -Werror)
    endif()
    list(TRANSFORM ARGN PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/ OUTPUT_VARIABLE sources)
    file(GLOB headers CONFIGURE_DEPENDS csrc/oci/*.h csrc/region/*.h)
    foreach(arch x86_64 aarch64)
        set(folder ${CMAKE_CURRENT_BINARY_DIR}/bin/${arch})
        file(MAKE_DIRECTORY ${folder})
        add_custom_command(
            OUTPUT ${folder}/${name}
            COMMAND ${Python_EXECUTABLE} -m ziglang cc -target ${arch}-linux-musl -std=gnu11 -Os
                    -D_GNU_SOURCE -I${CMAKE_CURRENT_SOURCE_DIR}/csrc ${warnings}
                    -ffunction-sections -fdata-sections -fstack-protector-strong
                    -static -s -Wl,--gc-sections -o ${folder}/${name} ${sources}
            DEPENDS ${sources} ${headers}
            COMMENT "Building ${name} for ${arch}"
            VERBATIM)
        add_custom_target(${name}_${arch} ALL DEPENDS ${folder}/${name})
        install(PROGRAMS ${folder}/${name} DESTINATION aliquot/shim/bin/${arch})
    endforeach()
endfunction()

aliquot_program(aliquot-runtime csrc/oci/runtime.c csrc/oci/runc_args.c csrc/oci/runc_log.c
                csrc/oci/real_runtime.c csrc/oci/client.c csrc/oci/util.c)
aliquot_program(aliquot-hook csrc/oci/hook.c csrc/oci/state.c csrc/oci/plan.c csrc/oci/survey.c
                csrc/oci/apply.c csrc/oci/layer.c csrc/oci/root.c csrc/oci/mounts.c
                csrc/oci/client.c csrc/oci/util.c)
aliquot_program(aliquot-stat csrc/oci/stat.c csrc/oci/util.c csrc/region/region.c)
