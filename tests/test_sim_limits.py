"""Limits of memory for cgroups, as NVIDIA's drivers have them since 615, on a simulated node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.sim.node import NodeError, parse_node

from commands import needs_namespaces
from sim_node import NodeUnderTest, node_of

NODE = """
memory_limits = true
[[device]]
memory = "1GiB"
reserved = "64MiB"
context = "8MiB"
"""

PRELUDE = """
import ctypes, os, sys
from pathlib import Path
MIB = 1 << 20
NONE = (1 << 64) - 1
nvml = ctypes.CDLL("libnvidia-ml.so.1")
device = ctypes.c_void_p()
assert nvml.nvmlInit_v2() == 0
assert nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0

class Limits(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("soft", ctypes.c_ulonglong),
                ("hard", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

def set_limits(path, soft, hard):
    limits = Limits(os.fsencode(path), soft, hard)
    return nvml.nvmlDeviceSetMemoryLimits_v1(device, ctypes.byref(limits))

def limits_of(path):
    limits = Limits(os.fsencode(path), 1, 1, 1)
    result = nvml.nvmlDeviceGetMemoryLimits_v1(device, ctypes.byref(limits))
    return result or (limits.soft // MIB, limits.hard // MIB, limits.used // MIB)

class Program:
    '''A child in a group, on the driver: takes memory until it is refused, and stays.'''
    def __init__(self, group, first, then, managed=0):
        self.to, to_us = os.pipe()
        from_us, self.go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.go)
            (group / "cgroup.procs").write_text(str(os.getpid()))
            program = (INSIDE, str(first), str(then), str(managed))
            os.dup2(to_us, 1)
            os.dup2(from_us, 0)
            os.execv(sys.executable, [sys.executable, "-c", *program])
        os.close(to_us)
        os.close(from_us)
        self.said = os.fdopen(self.to).readline().split()
    def end(self):
        os.close(self.go)
        assert os.waitpid(self.pid, 0)[1] == 0

INSIDE = '''
import ctypes, sys
MIB = 1 << 20
first, then, managed = (int(word) * MIB for word in sys.argv[1:])
cuda, nvml = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
context, device, pointer = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_ulonglong()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
cuda.cuCtxSetCurrent(context)
def take(size):
    return cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size))
if managed:
    size = ctypes.c_size_t(managed)
    assert cuda.cuMemAllocManaged(ctypes.byref(pointer), size, 1) == 0
results = [take(first), take(then)]
cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
class Memory(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint)] + [(n, ctypes.c_ulonglong) for n in "trfu"]
memory = Memory(ctypes.sizeof(Memory) | 2 << 24)
assert nvml.nvmlInit_v2() == 0
nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
assert nvml.nvmlDeviceGetMemoryInfo_v2(device, ctypes.byref(memory)) == 0
print(*results, total.value // MIB, free.value // MIB, memory.t // MIB, memory.u // MIB, flush=True)
sys.stdin.read()
'''
root = Path("/sys/fs/cgroup")
groups = [root / f"aliquot-test-{os.getpid()}-{name}" for name in "ab"]
for group in groups:
    group.mkdir()
a, b = groups
"""

CGROUPS = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$0" "$@"'


def cgroups_work() -> bool:
    trial = 'mkdir /sys/fs/cgroup/aliquot-trial-$$ && rmdir "/sys/fs/cgroup/aliquot-trial-$$"'
    command = ["unshare", "--mount", "sh", "-c", CGROUPS, "sh", "-c", trial]
    ran = subprocess.run(command, check=False, capture_output=True)
    return os.geteuid() == 0 and ran.returncode == 0


needs_cgroups = pytest.mark.skipif(
    not cgroups_work(), reason="no cgroup of version 2 can be made on this machine"
)


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    with node_of(NODE, sim_library) as made:
        yield made


def run(node: NodeUnderTest, program: str) -> None:
    """Run a program where cgroups of version 2 are at their place."""
    ended = "\nfinally:\n    for group in groups:\n        group.rmdir()\n"
    body = "\n".join(f"    {line}" for line in program.strip().splitlines())
    ran = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", CGROUPS, sys.executable, "-c"),
            f"{PRELUDE}\ntry:\n{body}{ended}",
        ],
        env=node.environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr


@needs_namespaces
@needs_cgroups
def test_a_groups_hard_limit_holds_for_all_its_processes(node: NodeUnderTest) -> None:
    run(
        node,
        """
assert limits_of(a) == 3  # NOT_SUPPORTED: not set
assert set_limits(a, 64 * MIB, 128 * MIB) == 0
assert limits_of(a) == (64, 128, 0)
first = Program(a, 60, 62)
# Out of memory; the limit is the total, and context and 60 MiB are used: by CUDA and NVML.
assert first.said == ["0", "2", "128", "60", "128", "68"], first.said
assert limits_of(a) == (64, 128, 68)
second = Program(a, 54, 52)
assert second.said == ["2", "0", "128", "0", "128", "128"], second.said
other = Program(b, 400, 1)  # another group has all of the device, and its figures
assert other.said[:3] == ["0", "0", "960"], other.said
first.end()
assert limits_of(a) == (64, 128, 60)
third = Program(a, 60, 2)
assert third.said[:2] == ["0", "2"], third.said
for program in (second, third, other):
    program.end()
assert limits_of(a) == (64, 128, 0)
assert set_limits(a, 0, NONE) == 0
assert limits_of(a) == 3
free = Program(a, 400, 1)
assert free.said[:3] == ["0", "0", "960"], free.said
free.end()
""",
    )


@needs_namespaces
@needs_cgroups
def test_managed_memory_does_not_count(node: NodeUnderTest) -> None:
    run(
        node,
        """
assert set_limits(a, 128 * MIB, 128 * MIB) == 0
program = Program(a, 100, 100, 300)
assert program.said[:4] == ["0", "2", "128", "20"], program.said
assert limits_of(a) == (128, 128, 108)
program.end()
""",
    )


@needs_namespaces
@needs_cgroups
def test_a_killed_process_leaves_its_groups_limit_to_others(node: NodeUnderTest) -> None:
    run(
        node,
        """
assert set_limits(a, 0, 128 * MIB) == 0
killed = Program(a, 100, 1)
os.kill(killed.pid, 9)
os.waitpid(killed.pid, 0)
program = Program(a, 100, 1)
assert program.said[:2] == ["0", "0"], program.said
program.end()
""",
    )


@needs_namespaces
@needs_cgroups
def test_wrong_limits_are_refused(node: NodeUnderTest) -> None:
    run(
        node,
        """
assert set_limits(a, 2 * MIB, MIB) == 2  # INVALID_ARGUMENT: soft above hard
assert set_limits(a, 0, 2048 * MIB) == 2  # and more than the device has
assert nvml.nvmlDeviceSetMemoryLimits_v1(device, None) == 2
assert set_limits("/proc", 0, MIB) == 17  # OPERATING_SYSTEM: no cgroup
assert set_limits(root / "nowhere", 0, MIB) == 17
assert limits_of(root / "nowhere") == 17
assert limits_of(a) == 3
child = os.fork()
if child == 0:
    assert nvml.nvmlInit_v2() == 0
    os.seteuid(65534)
    os._exit(set_limits(a, 0, MIB))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4  # NO_PERMISSION
""",
    )


@needs_namespaces
@needs_cgroups
def test_drivers_before_615_have_no_limits(sim_library: Path) -> None:
    with node_of(NODE.replace("memory_limits = true", ""), sim_library) as node:
        run(node, "assert set_limits(a, 0, MIB) == 3\nassert limits_of(a) == 3")


def test_the_node_file_says_so_by_a_boolean() -> None:
    with pytest.raises(
        NodeError, match=r"node\.toml:1: memory_limits: 1 is neither true nor false"
    ):
        parse_node("memory_limits = 1\n[[device]]\n", "node.toml", "node")
    assert parse_node(NODE, "node.toml", "node").memory_limits
    assert not parse_node("[[device]]\n", "node.toml", "node").memory_limits
