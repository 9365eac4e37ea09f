"""How programs find the simulator's functions: by private tables, look-ups and every name."""

from __future__ import annotations

from pathlib import Path

from sim_programs import PTX, run_program


def test_old_runtimes_find_their_private_tables_and_newer_ones_do_not(tmp_path: Path) -> None:
    run_program(
        """
import uuid
start()


def table(text):
    found = c_void_p()
    result = code("cuGetExportTable", byref(found), (ctypes.c_uint8 * 16)(*uuid.UUID(text).bytes))
    return result, found


result, loading = table("6BD5FB6C-5BF4-E74A-8987-D93912FD9DF9")
entries = ctypes.cast(loading, POINTER(c_void_p))
assert result == 0 and entries[0] >= 13 * 8
context = c_void_p()
assert ctypes.CFUNCTYPE(c_int, POINTER(c_void_p), c_int)(entries[2])(byref(context), 0) == 0
current = c_void_p()
do("cuCtxGetCurrent", byref(current))
assert context.value == current.value
assert ctypes.CFUNCTYPE(c_int)(entries[12])() == 0
assert ctypes.CFUNCTYPE(c_int)(entries[3])() == 801

result, tools = table("A094798C-2E74-2E74-93F2-0800200C0A66")
entries = ctypes.cast(tools, POINTER(c_void_p))
for slot, expected in ((2, 1024), (6, 14)):
    buffer, size = c_void_p(), c_size_t()
    ctypes.CFUNCTYPE(None, POINTER(c_void_p), POINTER(c_size_t))(entries[slot])(
        byref(buffer), byref(size))
    assert size.value == expected and ctypes.string_at(buffer, expected) == bytes(expected)

assert table("42D85A81-23F6-CB47-8298-F6E78A3AECDC")[0] == 0

result, storage = table("C693336E-1121-DF11-A8C3-68F355D89593")
entries = ctypes.cast(storage, POINTER(c_void_p))
gone = []
DESTRUCTOR = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)
destructor = DESTRUCTOR(lambda ctx, key, value: gone.append((ctx, key, value)))
put = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, DESTRUCTOR)(entries[0])
delete = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)(entries[1])
get = ctypes.CFUNCTYPE(c_int, POINTER(c_void_p), c_void_p, c_void_p)(entries[2])
other, value = c_void_p(), c_void_p()
do("cuCtxCreate_v2", byref(other), 0, 0)
assert get(byref(value), None, 0x10) == 1
for key in range(16, 1016):
    assert put(None, key, key * 3, destructor) == 0
for key in range(16, 1016):
    assert get(byref(value), other, key) == 0 and value.value == key * 3
assert get(byref(value), context, 16) == 1
assert delete(other, 16) == 0 and delete(other, 16) == 1
assert get(byref(value), None, 16) == 1
assert put(None, 17, 5, destructor) == 0 and get(byref(value), None, 17) == 0
assert value.value == 5
do("cuCtxDestroy_v2", other)
assert len(gone) == 999 and {entry[0] for entry in gone} == {other.value}
assert put(other, 1, 1, destructor) == 201
assert table("D4082055-BDE6-704B-8D34-BA123C66E1F2")[0] == 500
""",
        tmp_path,
    )


def test_many_look_ups_take_no_time(tmp_path: Path) -> None:
    entries = b"".join(
        b".visible .entry kernel_%d(.param .u64 p) { ret; }\n" % i for i in range(20000)
    )
    run_program(
        """
import time
start()
module = load(open("large.ptx", "rb").read())
names = [b"kernel_%d" % i for i in range(20000)]
found, get = c_void_p(), cu.cuModuleGetFunction
seen = set()
began = time.perf_counter()
for name in names:
    assert get(byref(found), module, name) == 0
    seen.add(found.value)
first = time.perf_counter() - began
assert len(seen) == len(names)
# Generous: a search through a list would take minutes.
assert first < 2, first
""",
        tmp_path,
        images={"large.ptx": PTX + entries + b"\0"},
    )


def test_every_name_of_the_driver_is_the_same_library(tmp_path: Path) -> None:
    run_program(
        """
other = ctypes.CDLL("libcuda.so")
assert other._handle == cu._handle
""",
        tmp_path,
    )
