# What runs in containers and beside them, for both kinds of machines, whatever this one is. It is
# built by zig, which carries the C libraries: an old one for shims, which are loaded into images of
# any age and ask for nothing newer than glibc 2.17, and a static one for programs.

set(ALIQUOT_TARGETS x86_64 aarch64)
# What zig makes of those libraries is kept with the rest of the build.
set(aliquot_zig
    ${CMAKE_COMMAND} -E env ZIG_GLOBAL_CACHE_DIR=${CMAKE_CURRENT_BINARY_DIR}/zig
    ZIG_LOCAL_CACHE_DIR=${CMAKE_CURRENT_BINARY_DIR}/zig ${Python_EXECUTABLE} -m ziglang cc)
set(aliquot_target_flags -D_GNU_SOURCE -I${CMAKE_CURRENT_SOURCE_DIR}/csrc -std=gnu11
                         -g0 -fvisibility=hidden -ffunction-sections -fno-sanitize=undefined
                         -Wall -Wextra -Wconversion)
if(ALIQUOT_WERROR)
    list(APPEND aliquot_target_flags -Werror)
endif()
# The host's own strip(1) does not know the other kind of machine.
set(aliquot_strip -s)
if(ALIQUOT_SYMBOLS)
    set(aliquot_strip "")
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
    # An empty library puts the private name into the shim's DT_NEEDED. The driver's own file cannot,
    # for its SONAME is the shim's.
    set(empty ${CMAKE_CURRENT_BINARY_DIR}/driver/empty.c)
    file(CONFIGURE OUTPUT ${empty} CONTENT "extern int aliquot_driver_name;\n")
    if(ALIQUOT_SANITIZE OR ALIQUOT_COVERAGE)
        aliquot_host_shim(${ARGV})
        return()
    endif()
    cmake_parse_arguments(PARSE_ARGV 3 part "" "" "SOURCES;FLAGS;DEPENDS")
    set(one_libc ${CMAKE_CURRENT_SOURCE_DIR}/csrc/shim/one_libc.py)
    foreach(arch ${ALIQUOT_TARGETS})
        aliquot_target_objects(objects ${arch} gnu.2.17 ${name} SOURCES ${part_SOURCES}
                               FLAGS -O2 -fPIC ${part_FLAGS} DEPENDS ${part_DEPENDS})
        set(folder ${CMAKE_CURRENT_BINARY_DIR}/targets/${arch}/${name})
        add_custom_command(
            OUTPUT ${folder}/${private}
            COMMAND ${aliquot_zig} -target ${arch}-linux-gnu.2.17 -shared -nostdlib
                    -Wl,-soname,${private} ${empty} -o ${folder}/${private}
            VERBATIM)
        add_custom_command(
            OUTPUT ${folder}/${soname}
            COMMAND ${aliquot_zig} -target ${arch}-linux-gnu.2.17 -shared ${aliquot_strip} ${objects}
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

# The same for this machine alone, by the host's compiler: the sanitizers and the counters are its own.
function(aliquot_host_shim name soname private)
    cmake_parse_arguments(PARSE_ARGV 3 part "" "" "SOURCES;FLAGS;DEPENDS")
    set(target aliquot_${name})
    set(folder ${CMAKE_CURRENT_BINARY_DIR}/host/${name})
    add_library(${target}_driver_name SHARED ${CMAKE_CURRENT_BINARY_DIR}/driver/empty.c)
    add_library(${target} SHARED ${part_SOURCES})
    foreach(library ${target}_driver_name ${target})
        set_target_properties(${library} PROPERTIES PREFIX "" SUFFIX "" NO_SONAME ON
                              LIBRARY_OUTPUT_DIRECTORY ${folder})
    endforeach()
    set_target_properties(${target}_driver_name PROPERTIES OUTPUT_NAME ${private})
    set_target_properties(
        ${target} PROPERTIES OUTPUT_NAME ${soname} C_VISIBILITY_PRESET hidden
        INSTALL_RPATH "$ORIGIN/.aliquot" BUILD_WITH_INSTALL_RPATH ON)
    target_link_options(${target}_driver_name PRIVATE -Wl,-soname,${private})
    add_dependencies(${target} ${part_DEPENDS} ${target}_driver_name)
    target_compile_options(${target} PRIVATE ${part_FLAGS})
    if(ALIQUOT_COVERAGE)
        target_compile_options(${target} PRIVATE --coverage -O1)
        target_link_options(${target} PRIVATE --coverage)
    endif()
    # Sanitizers leave their symbols to the program, so that none is asked to be there.
    target_link_options(
        ${target} PRIVATE
        -Wl,-soname,${soname} -Wl,-Bsymbolic -Wl,-z,nodelete -Wl,--enable-new-dtags
        -Wl,--push-state,--no-as-needed ${folder}/${private} -Wl,--pop-state)
    target_link_libraries(${target} PRIVATE aliquot_options pthread ${CMAKE_DL_LIBS})
    install(TARGETS ${target} LIBRARY DESTINATION aliquot/shim/lib/${CMAKE_SYSTEM_PROCESSOR})
endfunction()

# A program that needs nothing of the node or the image: static. Installed as
# aliquot/shim/bin/ARCH/NAME. Sources are named from the top of the tree.
function(aliquot_target_program name)
    list(TRANSFORM ARGN PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/ OUTPUT_VARIABLE sources)
    foreach(arch ${ALIQUOT_TARGETS})
        aliquot_target_objects(objects ${arch} musl ${name} SOURCES ${sources}
                               FLAGS -Os -fdata-sections -fstack-protector-strong)
        set(program ${CMAKE_CURRENT_BINARY_DIR}/bin/${arch}/${name})
        file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/bin/${arch})
        add_custom_command(
            OUTPUT ${program}
            COMMAND ${aliquot_zig} -target ${arch}-linux-musl -static -s -Wl,--gc-sections ${objects}
                    -o ${program}
            DEPENDS ${objects}
            COMMENT "Linking ${name} for ${arch}"
            VERBATIM)
        add_custom_target(${name}_${arch} ALL DEPENDS ${program})
        install(PROGRAMS ${program} DESTINATION aliquot/shim/bin/${arch})
    endforeach()
endfunction()
