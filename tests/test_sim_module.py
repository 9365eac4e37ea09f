"""The simulator's modules, libraries, kernels, linker and tables answer as the driver does."""

from __future__ import annotations

from pathlib import Path

from fatbin import KIND_PTX, Entry, fatbin, lz4_entry
from sim_programs import PTX, run_program


def test_variables_of_a_module_are_real_memory(tmp_path: Path) -> None:
    run_program(
        """
start()
module = load(open("image.ptx", "rb").read())
address, size = c_uint64(), c_size_t()
do("cuModuleGetGlobal_v2", byref(address), byref(size), module, b"answers")
assert size.value == 16 and address.value % 8 == 0
back = (c_uint64 * 2)()
do("cuMemcpyDtoH_v2", back, address, size)
assert list(back) == [17, 42]
do("cuMemcpyHtoD_v2", address, (c_uint64 * 2)(1, 2), size)
do("cuMemcpyDtoH_v2", back, address, size)
assert list(back) == [1, 2]
do("cuModuleGetGlobal_v2", byref(address), byref(size), module, b"weights")
floats = (c_float * 2)()
do("cuMemcpyDtoH_v2", floats, address, size)
assert list(floats) == [1.5, 0.25]
do("cuModuleGetGlobal_v2", None, byref(size), module, b"zeros")
assert size.value == 4096
do("cuModuleGetGlobal_v2", byref(address), None, module, b"zeros")
zeros = (ctypes.c_char * 4096)()
do("cuMemcpyDtoH_v2", zeros, address, size)
assert bytes(zeros) == bytes(4096)
assert code("cuModuleGetGlobal_v2", byref(address), None, module, b"tex") == 500
assert code("cuModuleGetGlobal_v2", None, None, module, b"zeros") == 1
# Each module has its own, and a new one starts from the image again.
other = load(open("image.ptx", "rb").read())
second = c_uint64()
do("cuModuleGetGlobal_v2", byref(second), byref(size), other, b"answers")
do("cuMemcpyDtoH_v2", back, second, size)
assert second.value != address.value and list(back) == [17, 42]
""",
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )


def test_functions_tell_what_the_image_says_of_them(tmp_path: Path) -> None:
    run_program(
        """
start()
module = load(open("image.ptx", "rb").read())
assert number(c_uint, "cuModuleGetFunctionCount", module) == 3
handles = (c_void_p * 5)()
do("cuModuleEnumerateFunctions", handles, 5, module)
names = []
for handle in handles[:3]:
    name = ctypes.c_char_p()
    do("cuFuncGetName", byref(name), c_void_p(handle))
    names.append(name.value)
assert names == [b"plain", b"limited", b"aliquot_spin_ns"] and not handles[3]
plain, limited = function(module, b"plain"), function(module, b"limited")
assert plain.value == handles[0]
owner = c_void_p()
do("cuFuncGetModule", byref(owner), plain)
assert owner.value == module.value
count = c_size_t()
do("cuFuncGetParamCount", plain, byref(count))
assert count.value == 3
offset, size = c_size_t(), c_size_t()
places = []
for i in range(3):
    do("cuFuncGetParamInfo", plain, SIZE(i), byref(offset), byref(size))
    places.append((offset.value, size.value))
assert places == [(0, 4), (8, 8), (16, 4)]
assert code("cuFuncGetParamInfo", plain, SIZE(3), byref(offset), byref(size)) == 1


def attribute(which, handle):
    return number(c_int, "cuFuncGetAttribute", which, handle)


assert [attribute(0, f) for f in (plain, limited)] == [1024, 128]
assert [attribute(1, f) for f in (plain, limited)] == [0, 256]
assert attribute(2, plain) == 8
assert (attribute(5, plain), attribute(6, plain)) == (70, 75)
assert attribute(8, limited) == 49152 - 256
do("cuFuncSetAttribute", limited, 8, 65536 - 256)
assert attribute(8, limited) == 65536 - 256
assert code("cuFuncSetAttribute", limited, 8, 65536) == 1
assert code("cuFuncSetAttribute", limited, 0, 64) == 1
assert code("cuFuncGetAttribute", byref(c_int()), 99, limited) == 1
# A launch follows: too many threads, too much shared memory, too little of it.
arguments = (c_void_p * 1)(ctypes.cast(byref(c_uint64(0)), c_void_p))
launch = lambda threads, shared: code(
    "cuLaunchKernel", limited, 1, 1, 1, threads, 1, 1, shared, None, arguments, None)
assert launch(128, 0) == 0 and launch(129, 0) == 1
assert launch(1, 65536 - 256) == 0 and launch(1, 65536) == 1
do("cuCtxSynchronize")
""",
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )


def test_stale_and_foreign_handles_are_refused(tmp_path: Path) -> None:
    run_program(
        """
context = start()
image = open("image.ptx", "rb").read()
module = load(image)
plain = function(module, b"plain")
do("cuModuleUnload", module)
found, value = c_void_p(), c_int()
assert code("cuModuleGetFunction", byref(found), module, b"plain") == 400
assert code("cuModuleUnload", module) == 400
assert code("cuFuncGetAttribute", byref(value), 0, plain) == 400
assert code("cuLaunchKernel", plain, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 400
for junk in (1, 0x1000, plain.value + 8, 2**47 - 64, 2**64 - 1):
    assert code("cuModuleGetFunction", byref(found), c_void_p(junk), b"plain") == 400
    assert code("cuFuncGetAttribute", byref(value), 0, c_void_p(junk)) == 400
    assert code("cuLibraryUnload", c_void_p(junk)) == 400
    assert code("cuKernelGetFunction", byref(found), c_void_p(junk)) == 400
    assert code("cuTexRefDestroy", c_void_p(junk)) == 400
    assert code("cuLinkComplete", c_void_p(junk), byref(found), None) == 400
# A function does not run in another context, and does not outlive its own.
other = c_void_p()
do("cuCtxCreate_v2", byref(other), 0, 0)
there = load(image)
foreign = function(there, b"plain")
do("cuCtxSetCurrent", context)
assert code("cuLaunchKernel", foreign, 1, 1, 1, 1, 1, 1, 0, None, None, None) in (201, 400)
do("cuCtxDestroy_v2", other)
assert code("cuFuncGetAttribute", byref(value), 0, foreign) == 400
assert code("cuModuleGetFunction", byref(found), there, b"plain") == 400
# Twice: below it lies the context that the second one was put on.
do("cuCtxSetCurrent", None)
do("cuCtxSetCurrent", None)
assert code("cuModuleLoadData", byref(module), image) == 201
""",
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )


def test_module_memory_is_charged_by_page_and_given_back(tmp_path: Path) -> None:
    run_program(
        """
start()
page = 2 << 20
before = used()
small = [load(open("image.ptx", "rb").read()) for _ in range(10)]
assert used() - before == page
many = [load(open("image.ptx", "rb").read()) for _ in range(2 * page // TEXT)]
assert used() - before == -(-(len(many) + 10) * TEXT // page) * page
for module in small + many:
    do("cuModuleUnload", module)
assert used() == before
library = c_void_p()
do("cuLibraryLoadData", byref(library), open("image.ptx", "rb").read(),
   None, None, 0, None, None, 0)
assert used() - before == page
other = c_void_p()
do("cuCtxCreate_v2", byref(other), 0, 0)
kernel, found = c_void_p(), c_void_p()
do("cuLibraryGetKernel", byref(kernel), library, b"plain")
do("cuKernelGetFunction", byref(found), kernel)
do("cuLibraryUnload", library)
do("cuCtxDestroy_v2", other)
assert used() == before
""".replace("TEXT", str(len(PTX))),
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )


def test_libraries_live_in_every_context(tmp_path: Path) -> None:
    run_program(
        """
do("cuInit", 0)
library = c_void_p()
image = open("image.ptx", "rb").read()
# Without a context: it is loaded into those that come.
do("cuLibraryLoadData", byref(library), image, None, None, 0, None, None, 0)
assert number(c_uint, "cuLibraryGetKernelCount", library) == 3
kernel, found, module = c_void_p(), c_void_p(), c_void_p()
do("cuLibraryGetKernel", byref(kernel), library, b"limited")
assert code("cuLibraryGetKernel", byref(kernel), library, b"nobody") == 500
assert code("cuKernelGetFunction", byref(found), kernel) == 201
value = c_int()
do("cuKernelSetAttribute", 8, 50000, kernel, 0)
do("cuKernelGetAttribute", byref(value), 8, kernel, 0)
assert value.value == 50000
assert code("cuKernelSetAttribute", 8, 70000, kernel, 0) == 1
assert code("cuKernelGetAttribute", byref(value), 8, kernel, 1) == 101
contexts, functions, places = [], [], []
for _ in range(3):
    context, address = c_void_p(), c_uint64()
    do("cuCtxCreate_v2", byref(context), 0, 0)
    do("cuKernelGetFunction", byref(found), kernel)
    do("cuLibraryGetGlobal", byref(address), None, library, b"answers")
    do("cuFuncGetAttribute", byref(value), 8, found)
    assert value.value == 50000
    do("cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, None,
       (c_void_p * 1)(ctypes.cast(byref(c_uint64(0)), c_void_p)), None)
    contexts.append(context)
    functions.append(found.value)
    places.append(address.value)
assert len(set(functions)) == 3 and len(set(places)) == 3
do("cuKernelSetAttribute", 8, 40000, kernel, 0)
do("cuFuncGetAttribute", byref(value), 8, c_void_p(functions[0]))
assert value.value == 40000
do("cuLibraryGetModule", byref(module), library)
assert code("cuModuleUnload", module) == 800
size = c_size_t()
do("cuLibraryGetManaged", byref(address), byref(size), library, b"shared_by_all")
assert size.value == 4
assert code("cuLibraryGetManaged", byref(address), byref(size), library, b"answers") == 500
owner = c_void_p()
do("cuKernelGetLibrary", byref(owner), kernel)
assert owner.value == library.value
do("cuLibraryUnload", library)
for handle in functions:
    assert code("cuFuncGetAttribute", byref(value), 8, c_void_p(handle)) == 400
assert code("cuLibraryGetKernelCount", byref(c_uint()), library) == 400
""",
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )


def test_images_come_from_files_fatbins_and_wrappers(tmp_path: Path) -> None:
    packed = fatbin(lz4_entry(Entry(KIND_PTX, 70, PTX)))
    run_program(
        """
import struct
start()
module, library = c_void_p(), c_void_p()
for name in (b"image.ptx", b"bare.ptx", b"image.fatbin"):
    do("cuModuleLoad", byref(module), name)
    function(module, b"plain")
    do("cuLibraryLoadFromFile", byref(library), name, None, None, 0, None, None, 0)
assert code("cuModuleLoad", byref(module), b"nothing.ptx") == 301
assert code("cuModuleLoad", byref(module), b".") == 200
assert code("cuModuleLoad", byref(module), b"program.py") == 200
data = ctypes.create_string_buffer(open("image.fatbin", "rb").read())
wrapper = struct.pack("<IIQQ", 0x466243b1, 1, ctypes.addressof(data), 0)
function(load(wrapper), b"plain")
# What was linked beforehand does not suit: the parts that it was linked from are linked.
newer = ctypes.create_string_buffer(open("newer.fatbin", "rb").read())
parts = (c_void_p * 3)(ctypes.addressof(newer), ctypes.addressof(data), None)
wrapper = struct.pack("<IIQQ", 0x466243b1, 2, ctypes.addressof(newer), ctypes.addressof(parts))
function(load(wrapper), b"plain")
parts[1] = None
assert code("cuModuleLoadData", byref(module), wrapper) == 209
do("cuModuleLoadFatBinary", byref(module), data)
function(module, b"plain")
assert code("cuModuleLoadData", byref(module), struct.pack("<IIQQ", 0x466243b1, 1, 0, 0)) == 200
other = open("newer.fatbin", "rb").read()
assert code("cuModuleLoadData", byref(module), other) == 209
assert code("cuLibraryLoadData", byref(library), other, None, None, 0, None, None, 0) == 209
assert code("cuModuleLoadData", byref(module), None) == 1
""",
        tmp_path,
        images={
            "image.ptx": PTX + b"\0",
            "bare.ptx": PTX,
            "image.fatbin": packed,
            "newer.fatbin": fatbin(Entry(KIND_PTX, 80, PTX.replace(b"sm_70", b"sm_80"))),
        },
    )


def test_failures_are_explained_in_the_callers_log(tmp_path: Path) -> None:
    run_program(
        """
start()
module = c_void_p()


def load_with_log(image, room):
    log = ctypes.create_string_buffer(b"?" * 299, 300)
    options = (c_int * 4)(5, 6, 3, 4)
    values = (c_void_p * 4)(ctypes.addressof(log), room, None, 0)
    return code("cuModuleLoadDataEx", byref(module), image, 4, options, values), log, values[1]


image = open("image.ptx", "rb").read()
result, log, length = load_with_log(image, 300)
assert (result, log.value, length) == (0, b"", None)
result, log, length = load_with_log(image.replace(b".u64 ns)", b".u64 ns"), 300)
assert result == 218 and b"line 14" in log.value, log.value
assert length == len(log.value) + 1
result, log, length = load_with_log(image.replace(b"7.0", b"9.7"), 300)
assert result == 222 and b"Unsupported .version 9.7" in log.value
result, log, length = load_with_log(image.replace(b"7.0", b"9.7"), 20)
assert result == 222 and len(log.value) == 19 and length == 20
assert log.raw[20:30] == b"?" * 10
result, log, length = load_with_log(image.replace(b"7.0", b"9.7"), 0)
assert result == 222 and log.raw[:10] == b"?" * 10
assert code("cuModuleLoadDataEx", byref(module), image, 1, (c_int * 1)(99), (c_void_p * 1)()) == 1
undefined = image.rstrip(b"\\0") + (
    b".extern .func gone(.param .b32 a);\\n"
    b".visible .entry calls() { .param .b32 x; call.uni gone, (x); ret; }\\n\\0")
result, log, length = load_with_log(undefined, 300)
assert result == 209 and b"Undefined reference to 'gone'" in log.value
""",
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )


def test_the_linker_joins_images_and_names_what_is_wrong(tmp_path: Path) -> None:
    head = b".version 7.0\n.target sm_70\n.address_size 64\n"
    run_program(
        """
start()
head = open("head.ptx", "rb").read()
caller = head + (
    b".extern .func (.param .b32 r) twice(.param .b32 a);\\n"
    b".extern .global .align 4 .u32 common;\\n"
    b".visible .entry calls(.param .u32 n, .param .u64 p) .reqntid 32 {\\n"
    b" .reg .b32 %r; .param .b32 x; .param .b32 y; call.uni (y), twice, (x);"
    b" ld.global.u32 %r, [common]; ret; }\\n")
callee = head + (
    b".visible .global .align 4 .u32 common = 9;\\n"
    b".visible .func (.param .b32 r) twice(.param .b32 a) { ret; }\\n"
    b".visible .entry other() { .shared .b8 s[100]; ret; }\\n")
CUBIN, PTX, FATBIN, OBJECT, LIBRARY, NVVM = range(6)


class Link:
    def __init__(self):
        self.log = ctypes.create_string_buffer(1000)
        self.options = (c_int * 2)(5, 6)
        self.values = (c_void_p * 2)(ctypes.addressof(self.log), 1000)
        self.state = c_void_p()
        do("cuLinkCreate_v2", 2, self.options, self.values, byref(self.state))

    def add(self, kind, data):
        size = SIZE(len(data))
        return code("cuLinkAddData_v2", self.state, kind, data, size, b"x", 0, None, None)

    def complete(self):
        cubin, size = c_void_p(), c_size_t()
        result = code("cuLinkComplete", self.state, byref(cubin), byref(size))
        return result, ctypes.string_at(cubin, size.value) if not result else b""

    def destroy(self):
        do("cuLinkDestroy", self.state)
        assert code("cuLinkDestroy", self.state) == 400


link = Link()
assert link.add(PTX, caller) == 0 and link.add(PTX, callee) == 0
result, cubin = link.complete()
assert result == 0 and cubin[:4] == b"\\x7fELF"
assert link.add(PTX, head) == 1
link.destroy()
module = load(cubin)
calls, other = function(module, b"calls"), function(module, b"other")
assert number(c_int, "cuFuncGetAttribute", 0, calls) == 32
assert number(c_int, "cuFuncGetAttribute", 1, other) == 100
address, size = c_uint64(), c_size_t()
do("cuModuleGetGlobal_v2", byref(address), byref(size), module, b"common")
value = c_uint()
do("cuMemcpyDtoH_v2", byref(value), address, size)
assert value.value == 9

link = Link()
assert link.add(PTX, caller) == 0
assert link.complete()[0] == 209
assert b"Undefined reference to 'twice' in 'input file 1'" in link.log.value
assert link.values[1] == len(link.log.value) + 1
link.destroy()

link = Link()
assert link.add(PTX, callee) == 0
assert link.add(PTX, callee) == 300
assert b"Multiple definition of 'other' in 'input file 2', first defined in 'input file 1'" in (
    link.log.value)
# What was refused is not part of the link.
assert link.add(PTX, caller) == 0 and link.complete()[0] == 0
link.destroy()

link = Link()
assert link.add(PTX, b"not PTX") == 218
assert link.add(CUBIN, callee) == 200
assert link.add(FATBIN, callee) == 200
assert link.add(LIBRARY, callee) == 200
assert link.add(OBJECT, b"\\x7fELF") == 200
assert link.add(NVVM, b"BC") == 801
assert link.add(77, b"x") == 1
assert link.add(CUBIN, cubin) == 0
assert link.add(FATBIN, open("image.fatbin", "rb").read()) == 0
assert code("cuLinkAddFile_v2", link.state, PTX, b"missing.ptx", 0, None, None) == 301
result, joined = link.complete()
assert result == 0
module = load(joined)
for name in (b"calls", b"other", b"plain", b"limited"):
    function(module, name)
link.destroy()
""",
        tmp_path,
        images={"head.ptx": head, "image.fatbin": fatbin(lz4_entry(Entry(KIND_PTX, 70, PTX)))},
    )


def test_memory_that_is_given_out_again_reads_as_zeros(tmp_path: Path) -> None:
    run_program(
        """
start()


def look(address, size):
    back = (ctypes.c_uint8 * size)()
    do("cuMemcpyDtoH_v2", back, c_uint64(address), SIZE(size))
    return bytes(back)


stream = c_void_p()
do("cuStreamCreate", byref(stream), 1)
for size in (64, 5000, 700 << 10, 9 << 20):
    for pool in (False, True):
        seen = set()
        for _ in range(4):
            memory = c_uint64()
            if pool:
                do("cuMemAllocAsync", byref(memory), SIZE(size), stream)
                do("cuStreamSynchronize", stream)
            else:
                do("cuMemAlloc_v2", byref(memory), SIZE(size))
            assert look(memory.value, size) == bytes(size)
            do("cuMemsetD8_v2", memory, 255, SIZE(size))
            assert look(memory.value, size) == b"\\xff" * size
            if pool:
                do("cuMemFreeAsync", memory, stream)
            else:
                do("cuMemFree_v2", memory)
            seen.add(memory.value)
        # The same place came again at least once, or the test would show nothing.
        assert len(seen) < 4 or size > 1 << 20
""",
        tmp_path,
    )


def test_threads_load_and_unload_beside_contexts_that_come_and_go(tmp_path: Path) -> None:
    run_program(
        """
import threading
import time
context = start()
image = open("image.ptx", "rb").read()
before = used()
end = time.monotonic() + 3
failed = []


def repeat(step):
    def work():
        try:
            do("cuCtxSetCurrent", context)
            while time.monotonic() < end:
                step()
        except BaseException as error:
            failed.append(error)
    return threading.Thread(target=work)


def modules():
    module = load(image)
    function(module, b"plain")
    do("cuModuleUnload", module)


def libraries():
    library, kernel, found = c_void_p(), c_void_p(), c_void_p()
    do("cuLibraryLoadData", byref(library), image, None, None, 0, None, None, 0)
    do("cuLibraryGetKernel", byref(kernel), library, b"limited")
    do("cuKernelSetAttribute", 8, 1000, kernel, 0)
    do("cuKernelGetFunction", byref(found), kernel)
    assert number(c_int, "cuFuncGetAttribute", 8, found) == 1000
    do("cuLibraryUnload", library)


def contexts():
    other = c_void_p()
    do("cuCtxCreate_v2", byref(other), 0, 0)
    load(image)
    do("cuCtxDestroy_v2", other)


threads = [repeat(step) for step in (modules, libraries, contexts) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
assert used() == before
""",
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )
