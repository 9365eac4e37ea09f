"""A simulated node for containers: its CDI specification, and what a program in one sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aliquot.sim.node import NodeError, parse_node

from clients import need
from commands import needs_namespaces
from sim_node import MIB

RELEASE = "575.57.08"
NODE = f"""
driver = "{RELEASE}"
[[device]]
memory = "1GiB"
context = "8MiB"
count = 3
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes device files, as root does")


def sim(
    *arguments: str | Path, status: int = 0, **options: Any
) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [sys.executable, "-m", "aliquot.sim", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran


@pytest.fixture
def node_file(tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(NODE)
    return file


def made(node_file: Path, *options: str) -> dict[str, Any]:
    """The specification of a node that stays, in folders beside its file."""
    folder = node_file.parent
    places: list[str | Path] = ["--keep", folder / "node", "--cdi", folder / "cdi"]
    sim("--node", node_file, *places, *options, "--", "true")
    spec = json.loads((folder / "cdi/nvidia.yaml").read_text())
    assert isinstance(spec, dict)
    return spec


# ---- The specification ---------------------------------------------------------------------------


@needs_root
def test_the_specification_names_files_that_are_there(node_file: Path) -> None:
    spec = made(node_file)
    assert spec["kind"] == "nvidia.com/gpu"
    names = [device["name"] for device in spec["devices"]]
    uuids = [name for name in names if name.startswith("GPU-")]
    assert len(uuids) == 3
    assert sorted(names) == sorted(["0", "1", "2", "all", *uuids])
    nodes = {
        node["path"]: Path(node["hostPath"])
        for edits in (spec["containerEdits"], *(d["containerEdits"] for d in spec["devices"]))
        for node in edits["deviceNodes"]
    }
    assert set(nodes) == {
        *(f"/dev/nvidia{index}" for index in range(3)),
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
    }
    for path in nodes.values():
        assert path.is_char_device()
        status = path.stat()
        assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (1, 3)
        assert status.st_mode & 0o777 == 0o666
    mounts = {mount["containerPath"]: mount for mount in spec["containerEdits"]["mounts"]}
    assert mounts.pop("/run/aliquot-sim")["hostPath"] == str(node_file.parent / "node")
    files = {Path(path).name: Path(mount["hostPath"]) for path, mount in mounts.items()}
    assert set(files) == {f"libcuda.so.{RELEASE}", f"libnvidia-ml.so.{RELEASE}"}
    for file in files.values():
        assert file.is_file()
        assert not file.is_symlink()
        assert file.read_bytes()[:4] == b"\x7fELF"
    (hook,) = spec["containerEdits"]["hooks"]
    assert hook["args"][:2] == ["nvidia-cdi-hook", "create-symlinks"]
    links = [value.split("::") for value in hook["args"][3::2]]
    folder = str(Path(next(iter(mounts))).parent)
    assert links == [
        [f"libcuda.so.{RELEASE}", f"{folder}/libcuda.so.1"],
        ["libcuda.so.1", f"{folder}/libcuda.so"],
        [f"libnvidia-ml.so.{RELEASE}", f"{folder}/libnvidia-ml.so.1"],
        ["libnvidia-ml.so.1", f"{folder}/libnvidia-ml.so"],
    ]


@needs_root
def test_a_second_writing_leaves_files_in_use_alone(node_file: Path) -> None:
    """A program that runs has the old library mapped: cutting that off would kill it."""
    made(node_file)
    library = node_file.parent / f"cdi/lib/libcuda.so.{RELEASE}"
    before = library.stat().st_ino
    with library.open("rb") as held:
        sim("--node", node_file, "--cdi", node_file.parent / "cdi", "--", "true")
        assert library.stat().st_ino != before
        assert len(held.read()) == library.stat().st_size
    # The node of that run is gone, and so is what led to it.
    assert not (node_file.parent / "cdi/nvidia.yaml").exists()
    assert not list((node_file.parent / "cdi").rglob(".*"))


@needs_root
def test_a_real_nodes_specification_is_not_written_over(node_file: Path) -> None:
    spec = node_file.parent / "cdi/nvidia.yaml"
    spec.parent.mkdir()
    spec.write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n")
    ran = sim("--node", node_file, "--cdi", spec.parent, "--", "true", status=1)
    assert ran.stderr == f"aliquot sim: {spec}: is not of a simulated node: name another folder\n"
    assert spec.read_text() == "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n"


@needs_namespaces
@pytest.mark.parametrize("as_who", [["--user"], ["--user", "--map-root-user"]])
def test_without_root_it_is_one_line(tmp_path: Path, as_who: list[str]) -> None:
    folder = tmp_path / "cdi"
    ran = subprocess.run(
        [
            *("unshare", *as_who, sys.executable, "-m", "aliquot.sim", "--node", "t4"),
            *("--cdi", folder, "--", "true"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert ran.stderr == (
        f"aliquot sim: {folder}/dev: device files for containers are made by the machine's root: "
        "run as root\n"
    )
    assert not (folder / "nvidia.yaml").exists()


@pytest.mark.parametrize("wrong", ['"580"', '"580.65.06-1"', "580.65", '"../580.65"'])
def test_a_driver_release_is_checked(wrong: str) -> None:
    with pytest.raises(NodeError, match=r"node\.toml:1: driver: .*not a driver's release"):
        parse_node(f"driver = {wrong}\n[[device]]\n", "node.toml", "node")


def test_a_driver_release_comes_from_the_cuda_version() -> None:
    def release(head: str) -> str:
        return parse_node(f"{head}\n[[device]]\n", "node.toml", "node").driver

    assert release("") == "580.65.06"
    assert release("driver_version = 12040") == "550.54.15"
    assert release('driver_version = 12040\ndriver = "551.1"') == "551.1"


# ---- In a container: another root, other device files, other namespaces --------------------------

PROGRAM = """
import ctypes, json, pathlib, sys
cuda = ctypes.CDLL("libcuda.so.1")
nvml = ctypes.CDLL("libnvidia-ml.so.1")
count = ctypes.c_int(-1)
seen = {"init": cuda.cuInit(0)}
cuda.cuDeviceGetCount(ctypes.byref(count))
seen["count"] = count.value
seen["nvml"] = nvml.nvmlInit_v2()
nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
seen["nvml_count"] = count.value
seen["minors"] = []
for index in range(count.value):
    device, minor = ctypes.c_void_p(), ctypes.c_uint()
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
    nvml.nvmlDeviceGetMinorNumber(device, ctypes.byref(minor))
    seen["minors"].append(minor.value)
if seen["init"] == 0:
    context, pointer = ctypes.c_void_p(), ctypes.c_ulonglong()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    cuda.cuCtxSetCurrent(context)
    seen["alloc"] = cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(64 << 20))
    cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    seen["used"] = total.value - free.value
print(json.dumps(seen), flush=True)
sys.stdin.read()
"""

CONTAINER = """
set -e
mount -t tmpfs none /dev
for name in {nodes}; do
    touch /dev/$name
    mount --bind {cdi}/dev/$name /dev/$name
done
mount -t tmpfs none /run
mkdir -p /run/aliquot-sim /run/lib
mount --bind {node} /run/aliquot-sim
for name in libcuda libnvidia-ml; do
    ln -s {cdi}/lib/$name.so.{release} /run/lib/$name.so.1
done
export LD_LIBRARY_PATH=/run/lib
exec {command}
"""


def container(folder: Path, nodes: str, command: str, *namespaces: str) -> subprocess.Popen[str]:
    """Start a command where a container would find the node: no ALIQUOT_SIM, other paths."""
    script = CONTAINER.format(
        nodes=nodes, cdi=folder / "cdi", node=folder / "node", release=RELEASE, command=command
    )
    base = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CUDA_", "ALIQUOT_")) and name != "LD_LIBRARY_PATH"
    }
    return subprocess.Popen(
        ["unshare", "--mount", *namespaces, "sh", "-c", script],
        env={**base, "PROGRAM": PROGRAM},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


RUN = f'{sys.executable} -c "$PROGRAM"'


def said_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"it ended with {process.wait()}"
    seen = json.loads(line)
    assert isinstance(seen, dict)
    return seen


@needs_root
@needs_namespaces
@pytest.mark.parametrize(
    ("nodes", "minors"),
    [("nvidiactl nvidia1", [1]), ("nvidiactl nvidia2 nvidia0", [0, 2]), ("nvidiactl", [])],
)
def test_devices_are_visible_by_their_files(node_file: Path, nodes: str, minors: list[int]) -> None:
    made(node_file, "--shared")
    with container(node_file.parent, nodes, RUN) as process:
        seen = said_by(process)
        process.communicate("")
    assert seen["minors"] == minors
    assert seen["nvml"] == 0
    if minors:
        assert (seen["init"], seen["alloc"], seen["used"]) == (0, 0, 72 * MIB)
        assert seen["count"] == seen["nvml_count"] == len(minors)
    else:
        assert (seen["init"], seen["nvml_count"]) == (100, 0)  # CUDA_ERROR_NO_DEVICE


NAMESPACES = {
    "pid": ("--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", "--net", "--uts"),
    "user": ("--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"),
}


@needs_root
@needs_namespaces
@pytest.mark.parametrize("kind", NAMESPACES)
def test_containers_are_seen_from_the_host_by_their_host_pids(node_file: Path, kind: str) -> None:
    need("pynvml")
    made(node_file, "--shared")
    folder = node_file.parent
    with container(folder, "nvidiactl nvidia1", RUN, *NAMESPACES[kind]) as process:
        assert said_by(process)["used"] == 72 * MIB
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        program = (
            "import json, pynvml as n\n"
            "n.nvmlInit()\n"
            "print(json.dumps([[[p.pid, p.usedGpuMemory] for p in\n"
            "    n.nvmlDeviceGetComputeRunningProcesses(n.nvmlDeviceGetHandleByIndex(i))]\n"
            "    for i in range(3)]))\n"
        )
        # The host reaches the node by another path than both its maker and the container.
        other = folder / "other"
        other.symlink_to(folder / "node")
        environment = {
            **os.environ,
            "ALIQUOT_SIM": str(other),
            "LD_LIBRARY_PATH": str(folder / "node/driver"),
        }
        listed = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert json.loads(listed.stdout) == [[], [[pid, 72 * MIB]], []]
        process.kill()
    truth = json.loads(sim("--truth", folder / "node", "--json").stdout)
    assert [item for item in truth["processes"] if item["used_bytes"][1]] == []
