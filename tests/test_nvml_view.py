"""What a slice's programs see through NVML: their devices, their memory, themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.shim import region

from cuda_headers import exports
from sim_node import MIB, NodeUnderTest, node_of
from slices import lay_out, lay_out_management

GIB = 1 << 30
NODE = """
[[device]]
count = 2
memory = "4GiB"
context = "8MiB"
"""
SUCCESS, INVALID_ARGUMENT, NOT_FOUND, INSUFFICIENT_SIZE = 0, 2, 6, 7


class Slice:
    """A slice of the second of two devices, with both shims in front of the simulator's."""

    def __init__(self, node: NodeUnderTest, folder: Path, shim: Path, nvml_shim: Path) -> None:
        self.node = node
        self.folder = folder / "slice"
        driver = (node.folder / "driver").resolve()
        uuid = node.truth().devices[1].uuid
        self.uuid = uuid
        device = region.RegionDevice(
            uuid=bytes.fromhex(uuid[4:].replace("-", "")),
            cap=GIB,
            page_bytes=2 * MIB,
            context_bytes=8 * MIB,
            cores=50,
        )
        lay_out(shim, (driver / "libcuda.so.1").resolve(), self.folder, (device,))
        lay_out_management(nvml_shim, (driver / "libnvidia-ml.so.1").resolve(), self.folder)

    def environment(self) -> dict[str, str]:
        """What a program of the slice is started with."""
        return {
            **self.node.environment(),
            "LD_LIBRARY_PATH": str(self.folder),
            "CUDA_VISIBLE_DEVICES": self.uuid,
        }

    def ask(self, program: str) -> Any:
        """Run a program that has NVML initialised as ``n``; answers the JSON that it prints."""
        run = subprocess.run(
            [sys.executable, "-c", f"import json, pynvml as n\nn.nvmlInit()\n{program}"],
            env=self.environment(),
            check=False,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    def worker(self) -> subprocess.Popen[str]:
        """A program that holds a context and 100 MiB of the slice."""
        program = (
            "import ctypes, sys\n"
            "c = ctypes.CDLL('libcuda.so.1')\n"
            "x, p = ctypes.c_void_p(), ctypes.c_uint64()\n"
            "assert c.cuInit(0) == 0\n"
            "assert c.cuCtxCreate_v2(ctypes.byref(x), 0, 0) == 0\n"
            f"assert c.cuMemAlloc_v2(ctypes.byref(p), ctypes.c_size_t({100 * MIB})) == 0\n"
            "print('ready', flush=True)\n"
            "sys.stdin.read()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def read(self, **readings: Any) -> None:
        """Write what an agent would have seen of the slice."""
        with (self.folder / ".aliquot/grant").open("r+b") as grant:
            region.write_readings(grant.fileno(), 0, **readings)


@pytest.fixture
def piece(
    tmp_path: Path, sim_library: Path, shim_library: Path, nvml_shim: Path
) -> Iterator[Slice]:
    with node_of(NODE, sim_library) as node:
        yield Slice(node, tmp_path, shim_library, nvml_shim)


def test_only_the_devices_of_the_slice_are_there(piece: Slice) -> None:
    other = piece.node.truth().devices[0].uuid
    seen = piece.ask(f"""
def tried(call, *arguments):
    try:
        call(*arguments)
    except n.NVMLError as error:
        return error.value
    return 0
h = n.nvmlDeviceGetHandleByIndex(0)
print(json.dumps({{
    "count": n.nvmlDeviceGetCount(), "uuid": n.nvmlDeviceGetUUID(h),
    "index": n.nvmlDeviceGetIndex(h),
    "beyond": tried(n.nvmlDeviceGetHandleByIndex, 1),
    "own": tried(n.nvmlDeviceGetHandleByUUID, "{piece.uuid}"),
    "other": tried(n.nvmlDeviceGetHandleByUUID, "{other}"),
    "near": len(n.nvmlDeviceGetTopologyNearestGpus(h, n.NVML_TOPOLOGY_SYSTEM)),
}}))
""")
    assert seen == {
        "count": 1,
        "uuid": piece.uuid,
        "index": 0,
        "beyond": INVALID_ARGUMENT,
        "own": SUCCESS,
        "other": NOT_FOUND,
        "near": 0,
    }


MEMORY = """
h = n.nvmlDeviceGetHandleByIndex(0)
one, two = n.nvmlDeviceGetMemoryInfo(h), n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2)
print(json.dumps([[m.total, m.used, m.free] for m in (one, two)] + [two.reserved]))
"""


def test_memory_is_the_cap_and_what_is_charged_in_both_versions(piece: Slice) -> None:
    worker = piece.worker()
    held = 108 * MIB
    assert piece.ask(MEMORY) == [[GIB, held, GIB - held]] * 2 + [0]
    piece.read(unclaimed=6 * MIB)
    assert piece.ask(MEMORY)[0] == [GIB, held + 6 * MIB, GIB - held - 6 * MIB]
    piece.read(unclaimed=8 * GIB)
    assert piece.ask(MEMORY)[0] == [GIB, GIB, 0]
    piece.read(unclaimed=0)
    worker.kill()
    worker.communicate()
    # A dead process owes nothing, even while nobody has cleared its slot.
    assert piece.ask(MEMORY)[0] == [GIB, 0, GIB]


def test_processes_are_the_slices_own_by_the_pids_that_they_know(piece: Slice) -> None:
    first, second = piece.worker(), piece.worker()
    lists = (
        "h = n.nvmlDeviceGetHandleByIndex(0)\n"
        "names = ('Compute', 'Graphics', 'MPSCompute')\n"
        "calls = [getattr(n, f'nvmlDeviceGet{name}RunningProcesses') for name in names]\n"
        "print(json.dumps([sorted([p.pid, p.usedGpuMemory] for p in c(h)) for c in calls]))"
    )
    own = sorted([process.pid, 108 * MIB] for process in (first, second))
    assert piece.ask(lists) == [own, [], []]
    # One that died without a word leaves its slot as it was, and is not shown.
    first.kill()
    first.communicate()
    assert piece.ask(lists) == [[[second.pid, 108 * MIB]], [], []]
    second.communicate()


LISTS = """
import ctypes
library = ctypes.CDLL("libnvidia-ml.so.1")
handle = ctypes.c_void_p()
library.nvmlInit_v2()
library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
found = []
for name, size in (("", 16), ("_v2", 24), ("_v3", 24)):
    call = getattr(library, "nvmlDeviceGetComputeRunningProcesses" + name)
    for room in (0, 1, 5):
        count, entries = ctypes.c_uint(room), ctypes.create_string_buffer(b"\\xee" * size * 6)
        result = call(handle, ctypes.byref(count), entries if room else None)
        pids = sorted(int.from_bytes(entries.raw[i * size:i * size + 4], "little")
                      for i in range(min(room, count.value)))
        untouched = entries.raw[min(room, count.value) * size:].strip(b"\\xee") in (b"", b"\\0")
        found.append([result, count.value, pids if room > 1 else [], untouched])
print(json.dumps(found))
"""


def test_every_version_of_the_list_keeps_to_its_room(piece: Slice) -> None:
    workers = [piece.worker(), piece.worker()]
    pids = sorted(worker.pid for worker in workers)
    each = [[INSUFFICIENT_SIZE, 2, [], True], [INSUFFICIENT_SIZE, 2, [], True],
            [SUCCESS, 2, pids, True]]  # fmt: skip
    assert piece.ask(LISTS) == each * 3
    for worker in workers:
        worker.communicate()


def test_utilisation_is_of_the_slices_part_of_the_time(piece: Slice) -> None:
    rates = (
        "u = n.nvmlDeviceGetUtilizationRates(n.nvmlDeviceGetHandleByIndex(0))\n"
        "print(json.dumps([u.gpu, u.memory]))"
    )
    # Half of the device is its part: a quarter of the device's time is half of that.
    piece.read(busy=0.25, memory_busy=0.1)
    assert piece.ask(rates) == [50, 10]
    piece.read(busy=0.9, memory_busy=None)
    assert piece.ask(rates) == [100, 0]
    # Nobody tells slices apart: the device's own reading, and it is idle.
    piece.read(busy=None, memory_busy=None)
    assert piece.ask(rates) == [0, 0]


@pytest.mark.parametrize("content", [b"", b"AQ", os.urandom(300_000)])
def test_a_usage_file_that_was_written_over_hurts_nobody(piece: Slice, content: bytes) -> None:
    (piece.folder / ".aliquot/usage").write_bytes(content)
    total, used, free = piece.ask(MEMORY)[0]
    assert (total, used + free) == (GIB, GIB)


def test_a_child_of_fork_sees_the_same(piece: Slice) -> None:
    seen = piece.ask(
        "import os, sys\n"
        "h = n.nvmlDeviceGetHandleByIndex(0)\n"
        "if os.fork() == 0:\n"
        "  n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(0)\n"
        "  print(json.dumps([n.nvmlDeviceGetCount(), n.nvmlDeviceGetMemoryInfo(h).total]))\n"
        "  sys.stdout.flush(); os._exit(0)\n"
        "os.wait()"
    )
    assert seen == [1, GIB]


def test_what_is_not_wrapped_is_the_real_ones(piece: Slice, nvml_shim: Path) -> None:
    assert "nvmlDeviceGetTemperature" not in exports(nvml_shim)
    assert piece.ask(
        "h = n.nvmlDeviceGetHandleByIndex(0)\n"
        "print(json.dumps(n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)))"
    ) in range(1, 120)
