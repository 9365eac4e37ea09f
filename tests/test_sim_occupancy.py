"""The simulator says how many blocks and clusters fit, as the driver does."""

from __future__ import annotations

from pathlib import Path

from sim_programs import PTX, run_program


def test_occupancy_follows_the_scarcest_of_four(tmp_path: Path) -> None:
    run_program(
        """
start()
module = load(open("image.ptx", "rb").read())
plain, limited = function(module, b"plain"), function(module, b"limited")


def blocks(handle, threads, shared=0):
    return number(c_int, "cuOccupancyMaxActiveBlocksPerMultiprocessor", handle, threads,
                  SIZE(shared))


# T4: 1,024 threads, 16 blocks, 65,536 registers and 64 KiB of shared memory a multiprocessor.
assert blocks(plain, 1024) == 1 and blocks(plain, 512) == 2 and blocks(plain, 256) == 4
assert blocks(plain, 32) == 16
assert blocks(plain, 32, 32768) == 2 and blocks(plain, 32, 20000) == 3
assert blocks(plain, 32, 49153) == 0
assert blocks(plain, 1025) == 0 and blocks(limited, 129) == 0
assert code("cuOccupancyMaxActiveBlocksPerMultiprocessor", byref(c_int()), plain, 0, SIZE(0)) == 1
grid, block = c_int(), c_int()
do("cuOccupancyMaxPotentialBlockSize", byref(grid), byref(block), plain, None, SIZE(0), 0)
assert (grid.value, block.value) == (40, 1024)
do("cuOccupancyMaxPotentialBlockSize", byref(grid), byref(block), limited, None, SIZE(0), 0)
assert (grid.value, block.value) == (40 * 8, 128)
do("cuOccupancyMaxPotentialBlockSize", byref(grid), byref(block), plain, None, SIZE(0), 200)
assert block.value <= 200
per_thread = ctypes.CFUNCTYPE(c_size_t, c_int)(lambda threads: threads * 64)
do("cuOccupancyMaxPotentialBlockSize", byref(grid), byref(block), plain, per_thread, SIZE(0), 0)
assert blocks(plain, block.value, block.value * 64) * block.value == 1024
left = c_size_t()
do("cuOccupancyAvailableDynamicSMemPerBlock", byref(left), limited, 4, 128)
assert left.value == 16384 - 256
""",
        tmp_path,
        images={"image.ptx": PTX + b"\0"},
    )


def test_clusters_are_counted_where_devices_have_them(tmp_path: Path) -> None:
    run_program(
        """
start()
image = open("image.ptx", "rb").read()
module = load(image + b".visible .entry pair() .reqnctapercluster 2 { ret; }\\n\\0")
plain, pair = function(module, b"plain"), function(module, b"pair")


class Config(ctypes.Structure):
    _fields_ = [("grid", c_uint * 3), ("block", c_uint * 3), ("shared", c_uint),
                ("stream", c_void_p), ("attributes", c_void_p), ("count", c_uint)]


config = Config(block=(c_uint * 3)(256, 1, 1), grid=(c_uint * 3)(64, 1, 1))
clusters, size = c_int(), c_int()
do("cuOccupancyMaxPotentialClusterSize", byref(size), plain, byref(config))
assert size.value == 8
do("cuOccupancyMaxActiveClusters", byref(clusters), pair, byref(config))
assert clusters.value == 132 * 8 // 2
assert number(c_int, "cuFuncGetAttribute", 11, pair) == 2
assert number(c_int, "cuFuncGetAttribute", 10, pair) == 1
assert code("cuFuncSetAttribute", pair, 11, 4) == 800
do("cuFuncSetAttribute", plain, 14, 1)
do("cuOccupancyMaxPotentialClusterSize", byref(size), plain, byref(config))
assert size.value == 16
""",
        tmp_path,
        node="h100x8",
        images={"image.ptx": PTX},
    )
