"""The view of a slice through NVML: orders, sizes, samples, faults, and programs as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aliquot.shim import region

from clients import need
from commands import TESTS
from sim_node import MIB, NodeUnderTest, node_of
from slices import lay_out, lay_out_management, usage_of
from test_sim_nvml import SPIN, see

NODE = """
[[device]]
count = 3
memory = "1GiB"
reserved = "64MiB"
context = "8MiB"
nvlinks = 2
nvlink_version = 3
numa_node = 0
"""
CAP = 512 * MIB
CONTEXT = 8 * MIB
NOT_FOUND, INSUFFICIENT_SIZE, INVALID_ARGUMENT, OPERATING_SYSTEM = 6, 7, 2, 17


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice's libraries, and what a program in it is started with."""

    cuda: Path
    environment: dict[str, str]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program in the slice."""
        return subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def see(self, program: str, *, status: int = 0) -> Any:
        """Run a program with pynvml begun as ``n``, and ctypes' view of it as ``c``."""
        need("pynvml")
        text = (
            "import ctypes, json, os, sys\nimport pynvml as n\nn.nvmlInit()\n"
            "c = n.nvmlLib\n"
            "def refused(call, *arguments):\n"
            "    try:\n        call(*arguments)\n"
            "    except n.NVMLError as error:\n        return error.value\n"
            "    return 0\n"
            f"{textwrap.dedent(program)}\nprint(json.dumps(seen))\n"
        )
        with self.start(sys.executable, "-c", text) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        assert err == ""
        return json.loads(out)

    def write(self, **readings: Any) -> None:
        """Be the agent that says what it saw of device 0 of the slice."""
        path = self.cuda.parent / ".aliquot/grant"
        path.chmod(0o644)
        with path.open("r+b") as file:
            region.write_readings(file.fileno(), 0, **readings)


@contextmanager
def running(process: subprocess.Popen[str], until: str) -> Iterator[int]:
    """Wait until a program says so; ends it by closing its input."""
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == until:
                break
        else:
            assert process.stderr is not None
            pytest.fail(process.stderr.read())
        yield process.pid
        process.communicate()


@contextmanager
def holder(place: Slice, mib: int) -> Iterator[int]:
    """A process of the slice that holds a context and so many MiB."""
    command = [sys.executable, str(TESTS / "holder.py"), "libcuda.so.1", str(mib)]
    with running(place.start(*command), "holding") as pid:
        yield pid


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    with node_of(NODE, sim_library) as made:
        yield made


@pytest.fixture
def uuids(node: NodeUnderTest) -> list[str]:
    """What the node's devices are called."""
    text = "seen = [n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(i)) for i in range(3)]"
    return [str(uuid) for uuid in see(node, text)]


@pytest.fixture
def make(
    node: NodeUnderTest,
    uuids: list[str],
    shim_library: Path,
    sim_library: Path,
    nvml_shim: Path,
    sim_nvml: Path,
    tmp_path: Path,
) -> Callable[..., Slice]:
    """Makes a slice of some of the node's devices, named by their numbers."""

    def lay(*numbers: int, cap: int | None = CAP, cores: int = 100) -> Slice:
        devices = tuple(
            region.RegionDevice(
                bytes.fromhex(uuids[i][4:].replace("-", "")), cap, 2 * MIB, CONTEXT, cores
            )
            for i in numbers
        )
        cuda = lay_out(shim_library, sim_library, tmp_path / "slice", devices)
        lay_out_management(nvml_shim, sim_nvml, cuda.parent)
        base = node.environment()
        path = f"{cuda.parent}:{base['LD_LIBRARY_PATH']}"
        visible = ",".join(uuids[i] for i in numbers)
        return Slice(cuda, {**base, "LD_LIBRARY_PATH": path, "CUDA_VISIBLE_DEVICES": visible})

    return lay


# ---- Devices -------------------------------------------------------------------------------------


def test_there_are_the_devices_of_the_slice_and_no_others(
    node: NodeUnderTest, make: Callable[..., Slice]
) -> None:
    names = see(
        node,
        """
        devices = [n.nvmlDeviceGetHandleByIndex(i) for i in range(3)]
        seen = [[n.nvmlDeviceGetUUID(d), n.nvmlDeviceGetPciInfo(d).busId, n.nvmlDeviceGetSerial(d)]
                for d in devices]
        """,
    )
    # In the driver's order, whatever the grant's is.
    seen = make(2, 1).see(
        f"""
        names = {names!r}
        devices = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
        ways = [n.nvmlDeviceGetHandleByUUID, n.nvmlDeviceGetHandleByPciBusId,
                n.nvmlDeviceGetHandleBySerial]
        old = ctypes.c_uint()
        c.nvmlDeviceGetCount(ctypes.byref(old))
        seen = {{
            "uuids": [n.nvmlDeviceGetUUID(d) for d in devices],
            "minors": [n.nvmlDeviceGetMinorNumber(d) for d in devices],
            "indices": [n.nvmlDeviceGetIndex(d) for d in devices],
            "old": old.value,
            "beyond": refused(n.nvmlDeviceGetHandleByIndex, 2),
            "others": [refused(way, name) for way, name in zip(ways, names[0])],
            "own": [[n.nvmlDeviceGetIndex(way(name)) for way, name in zip(ways, row)]
                    for row in names[1:]],
            "near": [n.nvmlDeviceGetIndex(d) for d in
                     n.nvmlDeviceGetTopologyNearestGpus(devices[0], n.NVML_TOPOLOGY_SYSTEM)],
            "links": n.nvmlDeviceGetP2PStatus(devices[0], devices[1], 0),
        }}
        """
    )
    assert seen["uuids"] == [names[1][0], names[2][0]]
    assert seen["minors"] == [1, 2]  # as the device files are called
    assert seen["indices"] == [0, 1]
    assert seen["old"] == 2
    assert seen["beyond"] == INVALID_ARGUMENT
    assert seen["others"] == [NOT_FOUND] * 3
    assert seen["own"] == [[0] * 3, [1] * 3]
    assert seen["near"] == [1]
    assert seen["links"] == 0


# ---- Memory and processes ------------------------------------------------------------------------


def test_memory_and_processes_are_the_slices_own(
    node: NodeUnderTest, make: Callable[..., Slice]
) -> None:
    place = make(0)
    others = node.process()
    others.ok("alloc", 100 * MIB)
    with holder(place, 40) as first, holder(place, 60) as second:
        charge = usage_of(place.cuda).charge(0)
        assert charge == (40 + 60) * MIB + 2 * CONTEXT
        seen = place.see(
            """
            device = n.nvmlDeviceGetHandleByIndex(0)
            old = n.nvmlDeviceGetMemoryInfo(device)
            new = n.nvmlDeviceGetMemoryInfo(device, version=n.nvmlMemory_v2)
            lists = [n.nvmlDeviceGetComputeRunningProcesses_v2,
                     n.nvmlDeviceGetComputeRunningProcesses_v3]
            empty = [n.nvmlDeviceGetGraphicsRunningProcesses_v3,
                     n.nvmlDeviceGetMPSComputeRunningProcesses_v3]
            detail = n.nvmlDeviceGetRunningProcessDetailList(
                device, version=n.nvmlProcessDetailList_v1, mode=n.NVML_PROCESS_MODE_COMPUTE)
            drawing = n.nvmlDeviceGetRunningProcessDetailList(
                device, version=n.nvmlProcessDetailList_v1, mode=n.NVML_PROCESS_MODE_GRAPHICS)
            seen = {
                "old": [old.total, old.used, old.free],
                "new": [new.total, new.reserved, new.used, new.free],
                "lists": [[[p.pid, p.usedGpuMemory, p.gpuInstanceId, p.computeInstanceId]
                           for p in of(device)] for of in lists],
                "empty": [len(of(device)) for of in empty],
                "detail": [[p.pid, p.usedGpuMemory] for p in detail],
                "drawing": len(drawing),
            }
            """
        )
    assert seen["old"] == [CAP, charge, CAP - charge]
    assert seen["new"] == [CAP, 0, charge, CAP - charge]
    rows = [[first, 40 * MIB + CONTEXT], [second, 60 * MIB + CONTEXT]]
    # (What pynvml makes of "no instance".)
    assert [[row[:2] for row in rows] for rows in seen["lists"]] == [rows, rows]
    assert {tuple(row[2:]) for rows in seen["lists"] for row in rows} == {(0xFFFFFFFF,) * 2}
    assert seen["empty"] == [0, 0]
    assert seen["detail"] == rows
    assert seen["drawing"] == 0
    assert others.end() == 0


def test_lists_of_processes_take_and_tell_sizes_as_nvml_does(make: Callable[..., Slice]) -> None:
    place = make(0)
    text = """
        class Old(ctypes.Structure):
            _fields_ = [("pid", ctypes.c_uint), ("bytes", ctypes.c_ulonglong)]
        class New(ctypes.Structure):
            _fields_ = [*Old._fields_, ("gpu", ctypes.c_uint), ("compute", ctypes.c_uint)]
        device = n.nvmlDeviceGetHandleByIndex(0)
        def ask(name, entry, room, given=True):
            count = ctypes.c_uint(room)
            rows = (entry * 4)()
            result = getattr(c, name)(device, ctypes.byref(count), rows if given else None)
            return [result, count.value, [[row.pid, row.bytes] for row in rows[:room]]]
        seen = []
        for name, entry in (("", Old), ("_v2", New), ("_v3", New)):
            name = "nvmlDeviceGetComputeRunningProcesses" + name
            seen.append([ask(name, entry, 0, False), ask(name, entry, 1, False)[0],
                         ask(name, entry, 1)[:2], ask(name, entry, 3),
                         getattr(c, name)(device, None, None)])
        """
    for none in place.see(text):
        assert none == [
            [0, 0, []],
            INVALID_ARGUMENT,
            [0, 0],
            [0, 0, [[0, 0]] * 3],
            INVALID_ARGUMENT,
        ]
    with holder(place, 40) as first, holder(place, 60) as second:
        seen = place.see(text)
    rows = [[first, 40 * MIB + CONTEXT], [second, 60 * MIB + CONTEXT], [0, 0]]
    for two in seen:
        assert two == [
            [INSUFFICIENT_SIZE, 2, []],
            INVALID_ARGUMENT,
            [INSUFFICIENT_SIZE, 2],
            [0, 2, rows],
            INVALID_ARGUMENT,
        ]


def test_without_a_cap_memory_is_the_devices(
    node: NodeUnderTest, make: Callable[..., Slice]
) -> None:
    text = (
        "m = n.nvmlDeviceGetMemoryInfo(n.nvmlDeviceGetHandleByIndex(0))\nseen = [m.total, m.used]"
    )
    place = make(0, cap=None)
    assert place.see(text) == see(node, text)


def test_whoever_only_looks_takes_no_place_in_the_slice(make: Callable[..., Slice]) -> None:
    place = make(0)
    text = """
import pynvml as n, sys
n.nvmlInit()
n.nvmlDeviceGetMemoryInfo(n.nvmlDeviceGetHandleByIndex(0))
print("looked", flush=True)
sys.stdin.read()
"""
    need("pynvml")
    with running(place.start(sys.executable, "-c", text), "looked"):
        assert usage_of(place.cuda).processes == ()


# ---- Time ----------------------------------------------------------------------------------------


RATES = """
rates = n.nvmlDeviceGetUtilizationRates(n.nvmlDeviceGetHandleByIndex(0))
seen = [rates.gpu, rates.memory]
"""


def test_time_that_nobody_measured_is_the_devices_own(
    node: NodeUnderTest, make: Callable[..., Slice]
) -> None:
    place = make(0)
    place.write(busy=None, memory_busy=0.5)
    busy = [sys.executable, "-c", SPIN, "60"]
    process = subprocess.Popen(
        busy, env=node.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        # The reading is of whole periods that have gone by: wait for one that is not idle.
        seen = place.see(
            "device = n.nvmlDeviceGetHandleByIndex(0)\n"
            "while not n.nvmlDeviceGetUtilizationRates(device).gpu:\n    pass\n" + RATES
        )
        assert seen[0] > 0
        assert seen[1] == 50
    finally:
        process.kill()
        process.communicate()


def test_samples_are_of_the_slices_own_processes(
    node: NodeUnderTest, make: Callable[..., Slice]
) -> None:
    if Path("/proc/self/ns/pid").stat().st_ino != 0xEFFFFFFC:
        pytest.skip("pids are not the host's here, where no sample can be told to be ours")
    place = make(0)
    wait = """
        device = n.nvmlDeviceGetHandleByIndex(0)
        def pids():
            try:
                return sorted({s.pid for s in n.nvmlDeviceGetProcessUtilization(device, 0)})
            except n.NVMLError as error:
                assert error.value == n.NVML_ERROR_NOT_FOUND
                return []
        """
    spin = [sys.executable, "-c", SPIN, "60"]
    other = subprocess.Popen(
        spin, env=node.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    own = None
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "runs\n"
        text = textwrap.dedent(wait) + "while not pids():\n    pass\nseen = pids()"
        assert see(node, text) == [other.pid]
        assert place.see(textwrap.dedent(wait) + "seen = pids()") == []
        own = place.start(*spin)
        assert own.stdout is not None
        assert own.stdout.readline() == "runs\n"
        # Until the driver has a sample of both.
        both = textwrap.dedent(wait) + "while len(pids()) < 2:\n    pass\nseen = pids()"
        assert see(node, both) == sorted([other.pid, own.pid])
        assert place.see(textwrap.dedent(wait) + "seen = pids()") == [own.pid]
    finally:
        for process in filter(None, (other, own)):
            process.kill()
            process.communicate()


# ---- Without a slice -----------------------------------------------------------------------------


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (Path.unlink, "No such file or directory"),
        (lambda path: os.truncate(path, 100), "is truncated"),
        (lambda path: path.write_bytes(bytes(5000)), "is not a region file"),
        (make_pipe, "is not a regular file"),
    ],
    ids=["gone", "cut off", "other", "pipe"],
)
def test_without_its_grant_nvml_begins_for_nobody_and_says_why_once(
    make: Callable[..., Slice], harm: Callable[[Path], Any], why: str
) -> None:
    need("pynvml")
    place = make(0)
    grant = place.cuda.parent / ".aliquot/grant"
    grant.chmod(0o644)
    harm(grant)
    text = """
import pynvml as n
for begin in (n.nvmlInit, n.nvmlInit, lambda: n.nvmlInitWithFlags(0)):
    try:
        begin()
    except n.NVMLError as error:
        print(error.value)
"""
    with place.start(sys.executable, "-c", text) as process:
        out, err = process.communicate(timeout=60)
    assert out.split() == [str(OPERATING_SYSTEM)] * 3
    assert err == f"aliquot: no NVML in this process: {grant}: {why}\n"


# ---- Real programs -------------------------------------------------------------------------------


def test_gpustat_shows_the_slice(make: Callable[..., Slice], uuids: list[str]) -> None:
    need("gpustat")
    place = make(1)
    with holder(place, 40) as pid:
        with place.start(sys.executable, "-m", "gpustat", "--json") as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    (gpu,) = json.loads(out)["gpus"]
    assert gpu["uuid"] == uuids[1]
    assert (gpu["memory.total"], gpu["memory.used"]) == (512, 48)
    assert [(row["pid"], row["gpu_memory_usage"]) for row in gpu["processes"]] == [(pid, 48)]


def test_nvitop_shows_the_slice(make: Callable[..., Slice]) -> None:
    need("nvitop")
    place = make(1)
    with holder(place, 40) as pid:
        with place.start(sys.executable, "-m", "nvitop", "--once", "--ascii") as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert "48.00MiB / 512.0MiB" in out or "48MiB / 512MiB" in out, out
    assert str(pid) in out


def test_the_shims_need_each_other_for_nothing(make: Callable[..., Slice]) -> None:
    # A container without NVIDIA's compute libraries still has the view.
    place = make(0)
    for path in (place.cuda, place.cuda.parent / ".aliquot/libcuda-driver.so.1"):
        path.unlink()
    assert place.see("seen = n.nvmlDeviceGetCount()") == 1
