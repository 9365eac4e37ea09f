# Shims, for both kinds of machines, whatever this one is. They are built by zig, which carries the
# old C libraries: what is loaded into images of any age asks for nothing newer than glibc 2.17.

set(ALIQUOT_TARGETS x86_64 aarch64)
set(aliquot_zig ${CMAKE_COMMAND} -E env ${Python_EXECUTABLE} -m ziglang cc)
set(aliquot_target_flags -D_GNU_SOURCE -I${CMAKE_CURRENT_SOURCE_DIR}/csrc -std=gnu11 -fPIC
                         -fvisibility=hidden -ffunction-sections -fno-sanitize=undefined
                         -Wall -Wextra -Wconversion)
if(ALIQUOT_WERROR)
    list(APPEND aliquot_target_flags -Werror)
endif()

# Compiles SOURCES for ABI of ARCH with FLAGS; OUT gets the objects. Generated sources are named with
# the target that makes them in DEPENDS.
function(aliquot_target_objects out arch abi name)
    cmake_parse_arguments(PARSE_ARGV 4 part "" "" "SOURCES;FLAGS;DEPENDS")
    set(objects "")
    foreach(source ${part_SOURCES})
        string(REPLACE "${CMAKE_CURRENT_SOURCE_DIR}/" "" place ${source})
        string(REPLACE "${CMAKE_CURRENT_BINARY_DIR}/" "" place ${place})
        set(object ${CMAKE_CURRENT_BINARY_DIR}/targets/${arch}/${name}/${place}.o)
        get_filename_component(folder ${object} DIRECTORY)
        file(MAKE_DIRECTORY ${folder})
        get_source_file_property(own ${source} ALIQUOT_FLAGS)
        if(NOT own)
            set(own "")
        endif()
        add_custom_command(
            OUTPUT ${object}
            COMMAND ${aliquot_zig} -target ${arch}-linux-${abi} ${aliquot_target_flags}
                    ${part_FLAGS} ${own} -MD -MF ${object}.d -c ${source} -o ${object}
            DEPENDS ${source} ${part_DEPENDS}
            DEPFILE ${object}.d
            COMMENT "Compiling ${place} for ${arch}"
            VERBATIM)
        list(APPEND objects ${object})
    endforeach()
    set(${out} ${objects} PARENT_SCOPE)
endfunction()

# A shim: a library with the vendor's SONAME in front of the real one, which it needs by the name
# PRIVATE, found in the folder .aliquot beside it. Installed as aliquot/shim/lib/ARCH/SONAME.
function(aliquot_target_shim name soname private)
    cmake_parse_arguments(PARSE_ARGV 3 part "" "" "SOURCES;FLAGS;DEPENDS")
    set(one_libc ${CMAKE_CURRENT_SOURCE_DIR}/csrc/shim/one_libc.py)
    foreach(arch ${ALIQUOT_TARGETS})
        aliquot_target_objects(objects ${arch} gnu.2.17 ${name} SOURCES ${part_SOURCES}
                               FLAGS -O2 ${part_FLAGS} DEPENDS ${part_DEPENDS})
        set(folder ${CMAKE_CURRENT_BINARY_DIR}/targets/${arch}/${name})
        # An empty library puts the private name into the shim's DT_NEEDED. The driver's own file
        # cannot, for its SONAME is the shim's.
        set(empty ${CMAKE_CURRENT_BINARY_DIR}/driver/empty.c)
        file(CONFIGURE OUTPUT ${empty} CONTENT "extern int aliquot_driver_name;\n")
        add_custom_command(
            OUTPUT ${folder}/${private}
            COMMAND ${aliquot_zig} -target ${arch}-linux-gnu.2.17 -shared -nostdlib
                    -Wl,-soname,${private} ${empty} -o ${folder}/${private}
            VERBATIM)
        add_custom_command(
            OUTPUT ${folder}/${soname}
            COMMAND ${aliquot_zig} -target ${arch}-linux-gnu.2.17 -shared -s ${objects}
                    -Wl,-soname,${soname} -Wl,-Bsymbolic -Wl,-z,defs -Wl,-z,nodelete -Wl,-z,relro
                    -Wl,--enable-new-dtags -Wl,-rpath,$ORIGIN/.aliquot -Wl,--gc-sections
                    -Wl,--hash-style=gnu -Wl,--build-id=sha1
                    -Wl,--no-as-needed ${folder}/${private} -o ${folder}/${soname}
            COMMAND ${Python_EXECUTABLE} ${one_libc} ${folder}/${soname}
            DEPENDS ${objects} ${folder}/${private} ${one_libc}
            COMMENT "Linking ${soname} for ${arch}"
            VERBATIM)
        add_custom_target(aliquot_${name}_${arch} ALL DEPENDS ${folder}/${soname})
        install(PROGRAMS ${folder}/${soname} DESTINATION aliquot/shim/lib/${arch})
    endforeach()
endfunction()
