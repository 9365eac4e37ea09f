"""Other real programs that speak to the driver run unmodified on the simulator.

None is installed for the tests; each runs where it is found.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys

import pytest

from clients import SPIN_PTX, Clients, clients, need

__all__ = ["clients"]


def need_program(name: str) -> str:
    """Skip the test unless the program is on the PATH."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_taichi_runs_its_kernels(clients: Clients) -> None:
    need("taichi")
    client = clients.run(
        """
import taichi as ti

ti.init(arch=ti.cuda, device_memory_GB=1, offline_cache=False)
assert ti.cfg.arch == ti.cuda
x = ti.field(ti.f32, shape=4096)

@ti.kernel
def fill():
    for i in x:
        x[i] = i * 2

fill()
ti.sync()
assert x.to_numpy().shape == (4096,)
x.from_numpy(x.to_numpy() + 1)
a = ti.ndarray(ti.f32, shape=(64, 64))
a.fill(3.0)
a.to_numpy()
print("well")
"""
    )
    assert client.output.endswith("well\n")


def test_drjit_compiles_and_evaluates(clients: Clients) -> None:
    need("drjit")
    client = clients.run(
        """
import drjit as dr
from drjit.cuda import Float, UInt32

assert dr.has_backend(dr.JitBackend.CUDA)
x = dr.arange(Float, 100000)
y = dr.sin(x) * 2 + 1
dr.eval(y)
dr.sync_thread()
total = dr.sum(y)
dr.eval(total)
index = dr.gather(Float, y, dr.arange(UInt32, 10))
dr.eval(index)
assert len(index.numpy()) == 10
print("well")
"""
    )
    assert client.output == "well\n"


def test_tinygrad_compiles_and_runs(clients: Clients) -> None:
    need("tinygrad")
    client = clients.run(
        """
from tinygrad import Device, Tensor

assert Device.DEFAULT == "CUDA"
weights = Tensor.rand(8, 4).realize()
for _ in range(2):
    result = (Tensor.rand(16, 8) @ weights).relu().sum(axis=0)
    assert result.numpy().shape == (4,)
data = Tensor(list(range(1000))).realize()
assert data.tolist() == list(range(1000))
print("well")
""",
        DEV="CUDA",
    )
    assert client.output == "well\n"
    assert sum(client.asked.launches.values()) > 2


def test_openmm_integrates_a_system(clients: Clients) -> None:
    need("openmm")
    client = clients.run(
        """
import openmm as mm

names = [mm.Platform.getPlatform(i).getName() for i in range(mm.Platform.getNumPlatforms())]
if "CUDA" not in names:
    print("no CUDA platform")
    raise SystemExit
system = mm.System()
force = mm.NonbondedForce()
for i in range(125):
    system.addParticle(1.0)
    force.addParticle(0, 0.3, 0.1)
system.addForce(force)
context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("CUDA"))
context.setPositions([mm.Vec3(i % 5, i // 5 % 5, i // 25) * 0.5 for i in range(125)])
context.getIntegrator().step(20)
context.getState(getEnergy=True, getPositions=True)
print("well")
"""
    )
    if "no CUDA platform" in client.output:
        pytest.skip("openmm is installed without its CUDA platform")
    assert client.output == "well\n"


def test_pycuda_uses_the_old_calls(clients: Clients) -> None:
    need("pycuda", "numpy")
    client = clients.run(
        f"""
import numpy as np
import pycuda.autoinit
import pycuda.driver as cuda

module = cuda.module_from_buffer({SPIN_PTX!r}.encode())
mixed = module.get_function("mixed")
assert (mixed.max_threads_per_block, mixed.shared_size_bytes) == (128, 256)
address, size = module.get_global("done")
back = np.zeros(2, dtype=np.uint64)
assert size == back.nbytes
cuda.memcpy_dtoh(back, address)
assert list(back) == [17, 42]
data = np.arange(64, dtype=np.float32)
there = cuda.to_device(data)
assert (cuda.from_device(there, data.shape, data.dtype) == data).all()
spin = module.get_function("aliquot_spin_ns")
start, end = cuda.Event(), cuda.Event()
start.record()
spin.prepare("Q")
spin.prepared_call((1, 1), (1, 1, 1), 5_000_000)
end.record()
end.synchronize()
assert start.time_till(end) >= 5
array = cuda.matrix_to_array(data.reshape(8, 8), "C")
assert array.get_descriptor().width == 8
print("well")
"""
    )
    assert client.output == "well\n"


def test_ffmpeg_moves_pictures_through_the_device(clients: Clients) -> None:
    ffmpeg = need_program("ffmpeg")
    offered = subprocess.run([ffmpeg, "-hwaccels"], check=False, capture_output=True, text=True)
    if "cuda" not in offered.stdout.split():
        pytest.skip("this ffmpeg is built without CUDA")

    def pictures(*through: str) -> str:
        run = subprocess.run(
            [
                *(sys.executable, "-m", "aliquot.agent", "sim", "--node", "t4", "--"),
                *(ffmpeg, "-loglevel", "error", "-init_hw_device", "cuda=gpu:0"),
                *("-filter_hw_device", "gpu", "-f", "lavfi", "-i", "testsrc=size=322x242"),
                *("-vf", ",".join(("format=yuv420p", *through, "format=yuv420p"))),
                *("-frames:v", "20", "-f", "rawvideo", "-"),
            ],
            check=True,
            capture_output=True,
            cwd=clients.folder,
            timeout=120,
        )
        return hashlib.sha256(run.stdout).hexdigest()

    assert pictures("hwupload", "hwdownload") == pictures()
