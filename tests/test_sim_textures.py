"""The simulator's texture references, texture objects and tensor maps keep what they are told."""

from __future__ import annotations

from pathlib import Path

from sim_programs import PTX, run_program


def test_texture_references_and_objects_keep_what_they_are_told(tmp_path: Path) -> None:
    run_program(
        """
start()
module = load(open("image.ptx", "rb").read())
tex, surf, again = c_void_p(), c_void_p(), c_void_p()
do("cuModuleGetTexRef", byref(tex), module, b"tex")
do("cuModuleGetTexRef", byref(again), module, b"tex")
assert tex.value == again.value
do("cuModuleGetSurfRef", byref(surf), module, b"surf")
assert code("cuModuleGetTexRef", byref(again), module, b"surf") == 500
assert code("cuModuleGetTexRef", byref(again), module, b"answers") == 500
assert code("cuTexRefDestroy", tex) == 1
do("cuTexRefSetFilterMode", tex, 1)
assert number(c_int, "cuTexRefGetFilterMode", tex) == 1
assert code("cuTexRefSetFilterMode", tex, 7) == 1
do("cuTexRefSetAddressMode", tex, 1, 3)
assert number(c_int, "cuTexRefGetAddressMode", tex, 1) == 3
assert code("cuTexRefSetAddressMode", tex, 3, 0) == 1
do("cuTexRefSetFlags", tex, 3)
assert number(c_uint, "cuTexRefGetFlags", tex) == 3
memory, offset, bound = c_uint64(), c_size_t(), c_uint64()
do("cuMemAlloc_v2", byref(memory), SIZE(1 << 20))
do("cuTexRefSetAddress_v2", byref(offset), tex, c_uint64(memory.value + 4), SIZE(4096))
assert offset.value == 4
assert code("cuTexRefSetAddress_v2", None, tex, c_uint64(memory.value + 4), SIZE(4096)) == 1
do("cuTexRefGetAddress_v2", byref(bound), tex)
assert bound.value == memory.value + 4
assert code("cuTexRefSetArray", tex, c_void_p(1234), 1) == 400
own = c_void_p()
do("cuTexRefCreate", byref(own))
do("cuTexRefDestroy", own)
assert code("cuTexRefDestroy", own) == 400
do("cuModuleUnload", module)
assert code("cuTexRefSetFlags", tex, 0) == 400

linear = (ctypes.c_uint8 * 144)()
ctypes.memmove(linear, (c_uint * 1)(2), 4)
ctypes.memmove(ctypes.addressof(linear) + 8, (c_uint64 * 1)(memory.value), 8)
ctypes.memmove(ctypes.addressof(linear) + 16, (c_uint * 2)(0x20, 4), 8)
ctypes.memmove(ctypes.addressof(linear) + 24, (c_uint64 * 1)(65536), 8)
how, handle = (ctypes.c_uint8 * 128)(), c_uint64()
do("cuTexObjectCreate", byref(handle), linear, how, None)
told = (ctypes.c_uint8 * 144)()
do("cuTexObjectGetResourceDesc", told, handle)
assert bytes(told) == bytes(linear)
assert code("cuTexObjectGetResourceViewDesc", told, handle) == 1
do("cuTexObjectDestroy", handle)
assert code("cuTexObjectDestroy", handle) == 1
ctypes.memmove(ctypes.addressof(linear) + 8, (c_uint64 * 1)(0x1234), 8)
assert code("cuTexObjectCreate", byref(handle), linear, how, None) == 1
assert code("cuSurfObjectCreate", byref(handle), linear) == 1
""",
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )


def test_tensor_maps_are_checked_and_kept_opaque(tmp_path: Path) -> None:
    program = """
start()
raw = ctypes.create_string_buffer(128 + 64)
place = (ctypes.addressof(raw) + 63) & ~63
memory = c_uint64()
do("cuMemAlloc_v2", byref(memory), SIZE(1 << 20))
FLOAT16 = 6


def tiled(address=None, dims=(256, 128), strides=(512,), box=(64, 64), steps=(1, 1), swizzle=3,
          interleave=0, at=None, kind=FLOAT16, fill=0):
    rank = len(dims)
    return code(
        "cuTensorMapEncodeTiled", c_void_p(at or place), kind, rank,
        c_uint64(memory.value if address is None else address), (c_uint64 * rank)(*dims),
        (c_uint64 * max(rank - 1, 1))(*strides), (c_uint * rank)(*box), (c_uint * rank)(*steps),
        interleave, swizzle, 2, fill)


EXPECTED
"""
    good = """
assert tiled() == 0
assert tiled(at=place + 16) == 1
assert tiled(address=memory.value + 8) == 1
assert tiled(dims=(0, 128)) == 1
assert tiled(strides=(520,)) == 1
assert tiled(box=(512, 64)) == 1 and tiled(box=(0, 64)) == 1
# The box is wider than the swizzle spans, or no multiple of 16 bytes.
assert tiled(box=(128, 64)) == 1 and tiled(box=(4, 64)) == 1
assert tiled(box=(128, 64), swizzle=0) == 0
assert tiled(steps=(1, 9)) == 1
assert tiled(kind=99) == 1
assert tiled(kind=0, fill=1) == 1 and tiled(fill=1) == 0
assert tiled(dims=(1,) * 6, strides=(16,) * 5, box=(1,) * 6, steps=(1,) * 6) == 1
assert tiled(interleave=1) == 1
do("cuTensorMapReplaceAddress", c_void_p(place), c_uint64(memory.value + 4096))
assert code("cuTensorMapReplaceAddress", c_void_p(place), c_uint64(memory.value + 8)) == 1
"""
    run_program(program.replace("EXPECTED", good), tmp_path, node="h100x8")
    # Devices before Hopper have no such engines.
    run_program(program.replace("EXPECTED", "assert tiled() == 801"), tmp_path, node="t4")
