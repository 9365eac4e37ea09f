"""numba-cuda runs unmodified on the simulator, with kernels that it compiled."""

from __future__ import annotations

from pathlib import Path

from clients import WITHOUT_NVJITLINK, Clients, clients, need, same

__all__ = ["clients"]

KERNELS = """
import numpy as np
from numba import cuda, float32

@cuda.jit
def add(x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] + y[i]

@cuda.jit
def tile(x, out):
    shared = cuda.shared.array(64, float32)
    i = cuda.threadIdx.x
    shared[i] = x[i]
    cuda.syncthreads()
    out[i] = shared[63 - i]

assert len(cuda.gpus) == 1
x = np.arange(1024, dtype=np.float32)
here = cuda.to_device(x)
assert (here.copy_to_host() == x).all()
out = cuda.device_array_like(here)
stream = cuda.stream()
for _ in range(5):
    add[8, 128, stream](here, here, out)
tile[1, 64](here, out)
stream.synchronize()
cuda.synchronize()
assert out.copy_to_host().shape == x.shape
(registers,) = add.get_regs_per_thread().values()
assert 0 < registers <= 255
(shared,) = tile.get_shared_mem_per_block().values()
assert shared == 256
with cuda.pinned(x):
    cuda.to_device(x, stream=stream)
    stream.synchronize()
print("well")
"""


def test_numba_compiles_and_launches_its_kernels(clients: Clients) -> None:
    need("numba_cuda", "numpy")
    client = clients.run(KERNELS)
    assert client.output == "well\n"
    by_name = {
        name.split("__main__")[-1].lstrip("0123456789"): n
        for name, n in client.asked.launches.items()
    }
    assert sum(n for name, n in by_name.items() if name.startswith("add")) == 5
    assert sum(n for name, n in by_name.items() if name.startswith("tile")) == 1


def test_numba_is_answered_the_same_with_a_third_of_the_time(
    clients: Clients, shim_library: Path
) -> None:
    need("numba_cuda", "numpy")
    capped = clients.capped(shim_library, 30)
    assert same(capped.run(KERNELS), clients.run(KERNELS))
    assert capped.used_ns() > 0


def test_numba_kernels_get_the_arguments_they_are_called_with(clients: Clients) -> None:
    need("numba_cuda", "numpy")
    client = clients.run(
        """
import numpy as np
from numba import cuda, uint64, void

@cuda.jit(void(uint64))
def aliquot_spin_ns(ns):
    pass

aliquot_spin_ns[1, 1](1)
start, end = cuda.event(), cuda.event()
start.record()
aliquot_spin_ns[1, 1](20_000_000)
end.record()
end.synchronize()
assert 20 <= cuda.event_elapsed_time(start, end) < 200
print("well")
"""
    )
    assert client.output == "well\n"


NEWEST = """driver_version = 13090
[[device]]
model = "Tesla T4"
compute_capability = "7.5"
"""
"""A node whose driver takes all PTX that any of numba's compilers writes."""


def test_numba_links_with_the_driver_where_nvjitlink_is_missing(clients: Clients) -> None:
    need("numba_cuda", "numpy", "cuda.pathfinder")
    node = clients.folder / "newest.toml"
    node.write_text(NEWEST)
    client = clients.run(
        WITHOUT_NVJITLINK
        + """
import numpy as np
from numba import cuda

@cuda.jit
def fill(out):
    out[cuda.grid(1)] = 1

out = cuda.device_array(64, dtype=np.float32)
fill[1, 64](out)
cuda.synchronize()
print("well")
""",
        node=str(node),
    )
    assert client.output == "well\n"
    assert sum(client.asked.launches.values()) == 1


OWN_TESTS = (
    "array_attr cuda_auto_context cuda_memory deallocations detect emm_plugins events host_alloc "
    "init inline_ptx is_fp16 linkable_code nvjitlink nvrtc pinned profiler reset_device runtime "
    "select_device streams"
)
"""Those of numba-cuda's tests of the driver that read no result of a kernel."""


def test_numba_passes_its_own_tests_of_the_driver(clients: Clients) -> None:
    need("numba_cuda", "numpy", "filecheck")
    client = clients.run(
        f"""
import importlib.util
import unittest
import warnings


def run():
    warnings.simplefilter("ignore")
    suite = unittest.TestSuite()
    for name in "{OWN_TESTS}".split():
        module = f"numba.cuda.tests.cudadrv.test_{{name}}"
        if importlib.util.find_spec(module):
            suite.addTests(unittest.defaultTestLoader.loadTestsFromName(module))
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    assert result.wasSuccessful()
    print(result.testsRun - len(result.skipped))


# Some of the tests start this program again, as a module.
if __name__ == "__main__":
    from numba import cuda

    run()
""",
        node="a100x2",
    )
    assert int(client.output.split()[-1]) > 50
