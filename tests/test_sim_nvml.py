"""The simulator's NVML: it tells the driver's story, by NVML's own ABI, to clients as they are."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aliquot.sim.node import parse_node
from aliquot.sim.run import shared_folder
from aliquot.sim.state import State, create

from clients import need
from commands import needs_namespaces, wait_for
from sim_node import MIB, NodeUnderTest, node_of
from sim_worker import DEVICE

HERE = Path(__file__).resolve().parent
NOBODY = 65534
NODE = """
driver = "580.65.06"
[[device]]
count = 2
model = "Simulated A100"
memory = "1GiB"
reserved = "64MiB"
context = "8MiB"
nvlinks = 2
nvlink_version = 3
numa_node = 0
"""

SPIN = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def do(result):
    assert result == 0, result
context, module, function = (ctypes.c_void_p() for _ in range(3))
do(cuda.cuInit(0))
do(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
do(cuda.cuCtxSetCurrent(context))
ptx = (b".version 7.0\\n.target sm_70\\n.address_size 64\\n"
       b".visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }\\n")
do(cuda.cuModuleLoadData(ctypes.byref(module), ptx))
do(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"aliquot_spin_ns"))
ns = ctypes.c_uint64(int(sys.argv[1]) * 10**9)
arguments = (ctypes.c_void_p * 1)(ctypes.addressof(ns))
do(cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, arguments, None))
print("runs", flush=True)
sys.stdin.read()
"""
"""Keeps device 0 busy for so many seconds."""


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    with node_of(NODE, sim_library) as made:
        yield made


@contextmanager
def shared_node(sim_library: Path, text: str = NODE) -> Iterator[NodeUnderTest]:
    """A node that every user of the machine may be on."""
    home = Path(tempfile.mkdtemp(prefix="aliquot-test-", dir=shared_folder()))
    try:
        home.chmod(0o711)
        create(parse_node(text, "test.toml", "test"), home / "node", shared=True)
        node = NodeUnderTest(home / "node", sim_library)
        yield node
    finally:
        shutil.rmtree(home)


def pynvml_file() -> str:
    found = importlib.util.find_spec("pynvml")
    assert found is not None
    assert found.origin is not None
    return found.origin


def see(
    node: NodeUnderTest, program: str, *prefix: str, python: str = sys.executable, **options: Any
) -> Any:
    """Run a program with pynvml begun as ``n`` on the node; answers its ``seen``."""
    need("pynvml")
    text = (
        "import json, os\nimport pynvml as n\nn.nvmlInit()\n"
        "def processes(device=0):\n"
        "    device = n.nvmlDeviceGetHandleByIndex(device)\n"
        "    found = n.nvmlDeviceGetComputeRunningProcesses(device)\n"
        "    return {p.pid: p.usedGpuMemory for p in found}\n"
        f"{textwrap.dedent(program)}\nprint(json.dumps(seen))\n"
    )
    ran = subprocess.run(
        [*prefix, python, "-c", text],
        # Another Python finds pynvml, a module without parts, where ours has it.
        env={**node.environment(), "PYTHONPATH": str(Path(pynvml_file()).parent)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def python_of_others() -> str:
    """A Python that every user can start; skips the test where there is none."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run(
                [python, "-c", ""], check=True, user=NOBODY, group=NOBODY, extra_groups=[]
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("there is no Python that another user can start")


def processes(node: NodeUnderTest, device: int = 0, *prefix: str, **options: Any) -> dict[int, int]:
    """Pid and bytes of each process that NVML lists."""
    seen = see(node, f"seen = processes({device})", *prefix, **options)
    return {int(pid): size for pid, size in seen.items()}


@contextmanager
def holder(
    node: NodeUnderTest, mib: int, *prefix: str, python: str = sys.executable, **options: Any
) -> Iterator[int]:
    """A process that holds so many MiB; gives the pid of what was started."""
    with subprocess.Popen(
        [*prefix, python, str(HERE / "holder.py"), "libcuda.so.1", str(mib)],
        env=node.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(3)]
        assert said == ["init 0", f"{mib} 0", "holding"]
        yield process.pid


def only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


# ---- The driver and NVML tell one story ----------------------------------------------------------


def test_memory_and_processes_are_the_drivers(node: NodeUnderTest) -> None:
    process = node.process()
    process.ok("alloc", 100 * MIB)
    free, total = process.ok("info")
    memory = see(
        node,
        """
        device = n.nvmlDeviceGetHandleByIndex(0)
        new = n.nvmlDeviceGetMemoryInfo(device, version=n.nvmlMemory_v2)
        old = n.nvmlDeviceGetMemoryInfo(device)
        seen = [new.total, new.reserved, new.used, new.free, old.total, old.used, old.free]
        """,
    )
    used = total - free
    assert used == 108 * MIB
    assert memory == [1024 * MIB, 64 * MIB, used, free, 1024 * MIB, used + 64 * MIB, free]
    assert processes(node) == {process.pid: used}
    assert processes(node, 1) == {}
    assert process.end() == 0
    assert processes(node) == {}


def test_a_killed_process_is_gone_with_what_it_held(node: NodeUnderTest) -> None:
    stays, dies = node.process(), node.process()
    dies.ok("alloc", 200 * MIB)
    assert set(processes(node)) == {stays.pid, dies.pid}
    dies.kill()
    assert processes(node) == {stays.pid: 8 * MIB}
    program = "seen = n.nvmlDeviceGetMemoryInfo(n.nvmlDeviceGetHandleByIndex(0)).used"
    assert see(node, program) == (64 + 8) * MIB


def test_devices_are_those_of_the_driver(node: NodeUnderTest) -> None:
    process = node.process()
    seen = see(
        node,
        """
        devices = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
        uuids = [n.nvmlDeviceGetUUID(device) for device in devices]
        addresses = [n.nvmlDeviceGetPciInfo(device).busId for device in devices]
        by_uuid = [n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(uuid)) for uuid in uuids]
        by_address = [n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByPciBusId(a)) for a in addresses]
        by_serial = [
            n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleBySerial(n.nvmlDeviceGetSerial(device)))
            for device in devices
        ]
        seen = {
            "uuids": uuids, "addresses": addresses, "found": [by_uuid, by_address, by_serial],
            "names": [n.nvmlDeviceGetName(device) for device in devices],
            "minors": [n.nvmlDeviceGetMinorNumber(device) for device in devices],
            "capability": n.nvmlDeviceGetCudaComputeCapability(devices[0]),
            "driver": n.nvmlSystemGetDriverVersion(),
            "cuda": n.nvmlSystemGetCudaDriverVersion(),
            "p2p": n.nvmlDeviceGetP2PStatus(*devices, 0),
            "level": n.nvmlDeviceGetTopologyCommonAncestor(*devices),
            "near": [n.nvmlDeviceGetIndex(d) for d in
                     n.nvmlDeviceGetTopologyNearestGpus(devices[0], n.NVML_TOPOLOGY_SYSTEM)],
            "link": n.nvmlDeviceGetNvLinkRemotePciInfo(devices[0], 1).busId,
            "version": n.nvmlDeviceGetNvLinkVersion(devices[0], 0),
            "node": n.nvmlDeviceGetMemoryAffinity(devices[0], 1, 0)[0],
            "processors": n.nvmlDeviceGetCpuAffinity(devices[0], 16)[0],
            "limit": n.nvmlDeviceGetPowerManagementLimit(devices[0]),
        }
        """,
    )
    assert [uuid.removeprefix("GPU-") for uuid in seen["uuids"]] == [
        f"{u[:8]}-{u[8:12]}-{u[12:16]}-{u[16:20]}-{u[20:]}" for u in process.ok("devices")
    ]
    assert seen["found"] == [[0, 1]] * 3
    assert seen["names"] == ["Simulated A100"] * 2
    assert seen["minors"] == [0, 1]
    assert seen["addresses"] == ["00000000:10:00.0", "00000000:18:00.0"]
    assert seen["capability"] == [8, 0]
    assert (seen["driver"], seen["cuda"]) == ("580.65.06", 13000)
    assert seen["p2p"] == 0
    assert seen["level"] == 40  # the same NUMA node
    assert seen["near"] == [1]
    assert (seen["link"], seen["version"]) == ("00000000:18:00.0", 3)
    assert seen["node"] == 1
    assert seen["processors"] > 0
    assert seen["limit"] == 400_000


def test_the_abi_is_nvmls(
    node: NodeUnderTest, sim_library: Path, header_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    header = header_folder("13.5")
    if not (header / "nvml.h").exists():
        pytest.skip(f"no nvml.h in {header}")
    program = tmp_path / "probe"
    flags = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Wno-deprecated-declarations", "-Werror"]
    library = sim_library.with_name("libnvidia-ml.so.1")
    subprocess.run(
        [
            "gcc",
            *flags,
            "-isystem",
            header,
            "-o",
            program,
            HERE / "nvml_probe.c",
            library,
            "-lpthread",
        ],
        check=True,
    )
    process = node.process()
    process.ok("alloc", 100 * MIB)
    with subprocess.Popen(
        [program, str(108 * MIB)], env=node.environment(), stdout=subprocess.PIPE, text=True
    ) as probe:
        assert probe.stdout is not None
        assert probe.stdout.readline() == "ready\n"
        state = State(node.folder)
        state.inject(1, 13)  # not a device that it asked for
        state.inject(0, 79)
        state.close()
        assert probe.stdout.readline() == "well\n"
        assert probe.wait() == 0


# ---- How busy ------------------------------------------------------------------------------------


@contextmanager
def spinning(node: NodeUnderTest) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SPIN, "3600"],
        env=node.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        try:
            yield process
        finally:
            process.kill()


RATES = """
devices = [n.nvmlDeviceGetHandleByIndex(i) for i in range(2)]
def samples(device, since=0):
    try:
        found = n.nvmlDeviceGetProcessUtilization(device, since)
    except n.NVMLError_NotFound:
        return []
    return [(s.pid, s.smUtil, s.memUtil, s.timeStamp) for s in found if s.timeStamp]
seen = {
    "rates": [n.nvmlDeviceGetUtilizationRates(d).gpu for d in devices],
    "samples": [samples(d) for d in devices],
    "power": [n.nvmlDeviceGetPowerUsage(d) for d in devices],
}
"""


def test_utilisation_follows_the_simulated_work(node: NodeUnderTest) -> None:
    idle = node.process()
    nothing = see(node, RATES)
    assert nothing["rates"] == [0, 0]
    assert nothing["samples"] == [[], []]
    assert nothing["power"] == [40_000, 40_000]
    with spinning(node) as process:
        wait_for(lambda: see(node, RATES)["rates"][0] == 100, "a busy device")
        busy = see(node, RATES)
        assert busy["rates"] == [100, 0]
        assert [sample[:3] for sample in busy["samples"][0]] == [[process.pid, 100, 0]]
        assert busy["samples"][1] == []
        # (Between two kernels it may have had nothing to do for a moment.)
        full = [400_000, 40_000]
        wait_for(lambda: see(node, RATES)["power"] == full, "a device that takes all of its power")
        since = see(node, RATES + "seen = samples(devices[0], 1 << 62)")
        assert since == []  # nothing is newer than that
        with spinning(node) as other:
            shares: dict[int, int] = {}

            def halves() -> bool:
                shares.clear()
                shares.update((s[0], s[1]) for s in see(node, RATES)["samples"][0])
                return set(shares.values()) == {50}

            wait_for(halves, "two processes that share the device evenly")
            assert set(shares) == {process.pid, other.pid}
            assert see(node, RATES)["rates"] == [100, 0]
    wait_for(lambda: see(node, RATES)["rates"] == [0, 0], "an idle device")
    assert idle.pid in processes(node)


def test_copies_are_use_of_memory_and_not_of_processors(sim_library: Path) -> None:
    slow = NODE + "host_copy_mb_per_s = 1\n"
    with node_of(slow, sim_library) as node:
        process = node.process()
        pointer, host = process.ok("alloc", 900 * MIB), process.ok("host", 900 * MIB)
        # A quarter of an hour of copying.
        process.ok("raw", "cuMemcpyHtoDAsync_v2", pointer, host, 900 * MIB, 0)
        program = """
            rates = n.nvmlDeviceGetUtilizationRates(n.nvmlDeviceGetHandleByIndex(0))
            seen = [rates.gpu, rates.memory]
        """
        wait_for(lambda: see(node, program) == [0, 100], "a copy that takes long")


# ---- Pids on the host ----------------------------------------------------------------------------

NEW_PIDS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@needs_namespaces
def test_pids_are_the_hosts_also_of_processes_in_pid_namespaces(node: NodeUnderTest) -> None:
    with holder(node, 64, *NEW_PIDS) as outer, holder(node, 32, *NEW_PIDS) as other:
        pids = {only_child(outer): 72 * MIB, only_child(other): 40 * MIB}
        assert {item.pid for item in node.truth().processes} == {1}  # as they know themselves
        assert processes(node) == pids
        # Who cannot see them is told what the host found out.
        assert processes(node, 0, *NEW_PIDS) == pids
        os.kill(only_child(other), signal.SIGKILL)
        wait_for(lambda: len(processes(node)) == 1, "the end of a process")


@needs_namespaces
def test_a_reader_in_a_namespace_sees_its_own_before_the_host_has_looked(
    node: NodeUnderTest,
) -> None:
    script = f"""
        import subprocess, sys
        process = subprocess.Popen(
            [sys.executable, {str(HERE / "holder.py")!r}, "libcuda.so.1", "16"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while process.stdout.readline() != "holding\\n":
            pass
        seen = [process.pid, list(processes())]
        process.kill()
    """
    pid, listed = see(node, script, *NEW_PIDS)
    assert listed == [pid]


@needs_namespaces
@pytest.mark.skipif(os.geteuid() != 0, reason="starts processes of other users")
def test_other_users_and_namespaces_are_on_a_shared_node(sim_library: Path) -> None:
    with shared_node(sim_library) as node, ExitStack() as stack:
        python = python_of_others()
        theirs = stack.enter_context(
            holder(node, 64, python=python, user=NOBODY, group=NOBODY, extra_groups=[])
        )
        ours = only_child(stack.enter_context(holder(node, 32, *NEW_PIDS)))
        mapped = ("unshare", "--user", "--map-root-user", *NEW_PIDS[1:])
        inner = only_child(stack.enter_context(holder(node, 16, *mapped)))
        expected = {theirs: 72 * MIB, ours: 40 * MIB, inner: 24 * MIB}
        # A user who may not read the others' namespaces finds them all the same.
        listed = processes(node, 0, python=python, user=NOBODY, group=NOBODY, extra_groups=[])
        assert listed == expected
        assert processes(node) == expected


def test_what_is_exported_on_a_shared_node_is_for_all_users(sim_library: Path) -> None:
    before = os.umask(0o077)
    try:
        exported_files_are_shared(sim_library)
    finally:
        os.umask(before)


def exported_files_are_shared(sim_library: Path) -> None:
    with shared_node(sim_library) as node:
        for name in ("state", "vram0", "vram1"):
            assert (node.folder / name).stat().st_mode & 0o777 == 0o666
        first, second = node.pair()
        handle = first.ok("create", 4 * MIB, DEVICE, True)
        first.ok("export", handle)
        assert second.ok("import_", second.ok("take"))
        (file,) = node.folder.glob("share-*")
        assert file.stat().st_mode & 0o777 == 0o666
        node.close()


# ---- Faults --------------------------------------------------------------------------------------


def test_an_xid_from_the_command_line_reaches_who_waits(node: NodeUnderTest) -> None:
    need("pynvml")
    program = """
import pynvml as n
n.nvmlInit()
devices = [n.nvmlDeviceGetHandleByIndex(i) for i in range(2)]
events = n.nvmlEventSetCreate()
for device in devices:
    n.nvmlDeviceRegisterEvents(device, n.nvmlEventTypeXidCriticalError, events)
print("waits", flush=True)
for _ in range(2):
    event = n.nvmlEventSetWait_v2(events, 60000)
    print(n.nvmlDeviceGetIndex(event.device), event.eventType, event.eventData, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], env=node.environment(), stdout=subprocess.PIPE, text=True
    ) as waiter:
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waits\n"
        for device, xid in ((1, 79), (0, 13)):
            inject(node.folder, "--xid", str(xid), "--device", str(device))
            assert waiter.stdout.readline() == f"{device} 8 {xid}\n"
        assert waiter.wait() == 0


def inject(folder: Path, *options: str, status: int = 0) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "aliquot.sim", *options, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == status, ran.stderr
    return ran.stderr


def test_a_wrong_injection_is_one_line(node: NodeUnderTest) -> None:
    said = inject(node.folder, "--xid", "79", "--device", "2", status=1)
    assert said == "aliquot sim: there is no device 2: the node has 2\n"
    said = inject(node.folder / "nowhere", "--xid", "79", "--device", "0", status=1)
    assert len(said.splitlines()) == 1
    assert "No such file" in said
    assert "--xid N --device I DIR" in inject(node.folder, "--xid", "79", status=2)
