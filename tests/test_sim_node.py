"""Simulated nodes: their files, the command that makes them, and what a program sees of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.sim import make_bench
from aliquot.sim.lines import Lines
from aliquot.sim.node import COSTS, NodeError, load_node, parse_node, profiles
from aliquot.sim.run import shared_folder
from aliquot.sim.state import StateError, create, truth

from sim_node import MIB, SMALL_NODE, NodeUnderTest, node_of

ROOT = Path(__file__).resolve().parent.parent
SIM = (sys.executable, "-m", "aliquot.sim")
UUID = "5a3c1c1e-6d0c-5d57-9c41-0a3f6f1d2b77"
NO_DEVICE, DRIVER_MISMATCH = 100, 803


def run_sim(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SIM, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    with node_of(SMALL_NODE, sim_library) as made:
        yield made


# ---- Node files ----------------------------------------------------------------------------------


def mistakes(text: str) -> list[tuple[int, str]]:
    """Line and key of each mistake."""
    with pytest.raises(NodeError) as caught:
        parse_node(text, "node.toml", "node")
    for mistake in caught.value.mistakes:
        assert re.fullmatch(r"node\.toml:[0-9]+: .+", str(mistake))
    return [(mistake.line, mistake.key) for mistake in caught.value.mistakes]


def test_all_mistakes_are_listed_with_line_and_key() -> None:
    text = """\
name = ""
colour = "green"
driver_version = "13.0"

[costs]
launch_ns = -1
lunch_ns = 4_000

[[device]]
memory = "16GB"  # not a unit here
sms = 0
"uuid" = "GPU-5a3c1c1e-6d0c-5d57-9c41"
costs = { alloc_ns = 1.5, free_ns = 3 }
model = '''one
two'''

[[device]]
count = 2
pci_address = "0000:07:00.0"
memory = "1GiB"
reserved = "1MiB"
page_size = 3_000_000
compute_capability = 8.0
pci_id = 0x20b0
numa_node = -2
"""
    assert mistakes(text) == [
        (1, "name"),
        (2, "colour"),
        (3, "driver_version"),
        (6, "costs.launch_ns"),
        (7, "costs.lunch_ns"),
        (10, "device[0].memory"),
        (11, "device[0].sms"),
        (12, "device[0].uuid"),
        (13, "device[0].costs.alloc_ns"),
        (14, "device[0].model"),
        (19, "device[1].pci_address"),
        (22, "device[1].page_size"),
        (23, "device[1].compute_capability"),
        (24, "device[1].pci_id"),
        (25, "device[1].numa_node"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [(1, "device")]),
        ("device = 3\n", [(1, "device")]),
        ("\n[device]\nsms = 3\n", [(2, "device")]),
        ("costs = 4\n[[device]]\n", [(1, "costs")]),
        ("[[device]]\ncount = 17\n", [(2, "device[0].count")]),
        ("[[device]]\ncount = 9\n[[device]]\ncount = 9\n", [(1, "device")]),
        ('[[device]]\nreserved = "1MiB"\n', [(2, "device[0].reserved")]),
        ('[[device]]\nmemory = "1GiB"\nreserved = "1GiB"\n', [(3, "device[0].reserved")]),
        ('[[device]]\ncontext = "17GiB"\n', [(2, "device[0].context")]),
        ("[[device]]\nnvlinks = 2\n[[device]]\n", [(2, "device[0].nvlinks")]),
        ("[[device]]\nnvlinks = [0, 1]\n", [(2, "device[0].nvlinks")]),
        (
            f"[[device]]\nuuid = 'GPU-{UUID}'\n[[device]]\n\nuuid = '{UUID}'\n",
            [(5, "device[1].uuid")],
        ),
        ("[[device]]\nsms = true\n", [(2, "device[0].sms")]),
        ("[[device]]\nmemory = 1.5\n", [(2, "device[0].memory")]),
        ("[[device]]\nmodel = 'a\\tb'\n[device.costs]\nx = 1\n", [(4, "device[0].costs.x")]),
    ],
)
def test_a_mistake_is_found_where_it_is(text: str, expected: list[tuple[int, str]]) -> None:
    assert mistakes(text) == expected


@pytest.mark.parametrize(("text", "line"), [("a = [1,\n\n", 3), ("[x\n", 1), ('a = "\n"', 1)])
def test_what_is_not_toml_is_said_with_its_line(text: str, line: int) -> None:
    with pytest.raises(NodeError, match="not TOML") as caught:
        parse_node(text, "node.toml", "node")
    assert [mistake.line for mistake in caught.value.mistakes] == [line]


def test_keys_are_found_behind_whatever_toml_allows() -> None:
    lines = Lines(
        '# [x]\na.b . "c" = """\n]= \\"""" # d = 1\n[e]\nf = [\n  {g = 1},  # h = {\n]\n'
        "[[i.j]]\n[[i.j]]\nk = '''\n'''\n[i.j.l]\nm = { n = 1, o.p = [2, 3] }\n"
    )
    assert lines.find(("a",)) == lines.find(("a", "b", "c")) == 2
    assert lines.find(("e", "f")) == 5
    assert lines.find(("i", "j", 0)) == 8
    assert lines.find(("i", "j", 1, "k")) == 10
    assert lines.find(("i", "j", 1, "l", "m", "o", "p")) == 13
    assert lines.find(("i", "j", 1, "q")) == 9
    assert lines.find(("nothing",)) == 1


def test_devices_that_say_nothing_of_themselves_are_told_apart() -> None:
    node = parse_node("[[device]]\ncount = 3\n[[device]]\n", "n.toml", "n")
    assert len({device.uuid for device in node.devices}) == 4
    assert len({device.pci_address for device in node.devices}) == 4
    again = parse_node("[[device]]\ncount = 4\n", "n.toml", "n")
    assert [device.uuid for device in again.devices] == [device.uuid for device in node.devices]


@pytest.mark.parametrize(
    ("name", "count", "model", "total_mib", "cuda_mib", "sms", "capability", "pci_id", "watts"),
    [
        ("t4", 1, "Tesla T4", 15360, 15102, 40, (7, 5), 0x1EB8, 70),
        ("a100x2", 2, "NVIDIA A100-SXM4-40GB", 40960, 40326, 108, (8, 0), 0x20B0, 400),
        ("h100x8", 8, "NVIDIA H100 80GB HBM3", 81559, 81082, 132, (9, 0), 0x2330, 700),
        ("b200x8", 8, "NVIDIA B200", 183359, 182642, 148, (10, 0), 0x2901, 1000),
    ],
)
def test_profiles_have_the_published_figures(
    name: str,
    count: int,
    model: str,
    total_mib: int,
    cuda_mib: int,
    sms: int,
    capability: tuple[int, int],
    pci_id: int,
    watts: int,
) -> None:
    node = load_node(name)
    assert len(node.devices) == count
    for index, device in enumerate(node.devices):
        assert device.model == model
        assert device.memory == total_mib * MIB
        assert device.memory - device.reserved == cuda_mib * MIB
        assert (device.sms, device.compute_capability) == (sms, capability)
        assert (device.pci_id, device.power_watts) == (pci_id, watts)
        assert (device.time_slice_ns, device.page_size) == (2_000_000, 2 * MIB)
        assert [links > 0 for links in device.nvlinks] == [
            count > 1 and other != index for other in range(count)
        ]


def test_the_profiles_are_the_ones_that_are_promised() -> None:
    nvidia = ["a100x2", "b200x8", "h100x8", "t4"]
    ascend = [f"ascend-{chip}" for chip in ("310p3", "910a", "910b2", "910b3", "910b4", "910c")]
    cambricon = ["mlu370-x8", "mlu590"]
    assert profiles() == sorted(nvidia + ascend + cambricon)
    for name, vendor in [
        *((name, "nvidia") for name in nvidia),
        *((name, "ascend") for name in ascend),
        *((name, "cambricon") for name in cambricon),
    ]:
        assert {device.vendor for device in load_node(name).devices} == {vendor}


@pytest.mark.parametrize(
    ("name", "count", "model", "total_mib", "usable_mib", "cores"),
    [
        ("ascend-910a", 8, "910A", 32768, 32768, 30),
        ("ascend-910b2", 8, "910B2", 65536, 65536, 24),
        ("ascend-910b3", 8, "910B3", 65536, 65536, 20),
        ("ascend-910b4", 8, "910B4", 32768, 32768, 20),
        ("ascend-910c", 16, "910C", 65536, 65536, 20),
        ("ascend-310p3", 2, "310P3", 24576, 21527, 8),
        ("mlu370-x8", 8, "MLU370-X8", 49152, 49152, 32),
        ("mlu590", 8, "MLU590", 81920, 81920, 48),
    ],
)
def test_profiles_of_other_vendors_have_the_published_figures(
    name: str, count: int, model: str, total_mib: int, usable_mib: int, cores: int
) -> None:
    devices = load_node(name).devices
    assert [device.model for device in devices] == [model] * count
    assert {device.memory for device in devices} == {total_mib * MIB}
    assert {device.memory - device.reserved for device in devices} == {usable_mib * MIB}
    assert {device.sms for device in devices} == {cores}


MIXED = """
[[device]]
vendor = "ascend"
nvlinks = 1
[[device]]
nvlinks = 2
[[device]]
vendor = "cambricon"
[[device]]
vendor = "ascend"
nvlinks = 1
[[device]]
nvlinks = 2
"""


def test_links_join_devices_of_one_vendor() -> None:
    devices = parse_node(MIXED, "n.toml", "n").devices
    assert [device.nvlinks for device in devices] == [
        (0, 0, 0, 1, 0),
        (0, 0, 0, 0, 2),
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 0),
        (0, 2, 0, 0, 0),
    ]
    with pytest.raises(NodeError, match="device 1 is another vendor's"):
        parse_node(
            '[[device]]\nvendor = "ascend"\nnvlinks = [0, 1]\n[[device]]\nnvlinks = [1, 0]\n',
            "n.toml",
            "n",
        )
    with pytest.raises(NodeError, match="'amd' is no vendor: there are nvidia, ascend, cambricon"):
        parse_node('[[device]]\nvendor = "amd"\n', "n.toml", "n")


def test_cuda_and_nvml_show_nvidias_devices_alone(tmp_path: Path) -> None:
    file = tmp_path / "mixed.toml"
    file.write_text(MIXED)
    script = """
import ctypes
cuda, nvml = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
count, minor, device = ctypes.c_int(), ctypes.c_uint(), ctypes.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
seen = [count.value]
assert nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
for index in range(count.value):
    assert nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0
    assert nvml.nvmlDeviceGetMinorNumber(device, ctypes.byref(minor)) == 0
    seen.append(minor.value)
print(*seen)
"""
    run = run_sim("--node", str(file), "--", sys.executable, "-c", script)
    assert (run.returncode, run.stdout) == (0, "2 0 1\n"), run.stderr


def test_costs_are_those_of_the_c_header() -> None:
    header = (ROOT / "csrc/sim/state.h").read_text()
    listed = re.findall(r"^    SIM_COST_([A-Z_]+),", header, re.MULTILINE)
    assert [name.lower() + "_ns" for name in listed if name != "COUNT"] == list(COSTS)


# ---- The command ---------------------------------------------------------------------------------


def test_a_program_runs_on_a_node_that_goes_with_it() -> None:
    script = "import os; at = os.environ['ALIQUOT_SIM']; print(at, os.stat(at).st_mode)"
    run = run_sim("--node", "t4", "--", sys.executable, "-c", script)
    assert run.returncode == 0, run.stderr
    directory, mode = run.stdout.split()
    assert int(mode) & 0o777 == 0o700
    assert directory.startswith(str(shared_folder()))
    assert not Path(directory).exists()


def test_exit_statuses_and_signals_go_through() -> None:
    assert run_sim("--node", "t4", "--", "sh", "-c", "exit 37").returncode == 37
    assert run_sim("--node", "t4", "--", "sh", "-c", "kill -SEGV $$").returncode == -signal.SIGSEGV
    with subprocess.Popen(
        [*SIM, "--node", "t4", "--", "sh", "-c", "trap 'exit 9' TERM; echo up; sleep 60 & wait"],
        stdout=subprocess.PIPE,
        text=True,
    ) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "up\n"
        runner.send_signal(signal.SIGTERM)
        assert runner.wait(10) == 9


def test_what_cannot_be_run_is_said_in_one_line() -> None:
    for command, status in (("/nonexistent/program", 127), ("/", 126)):
        run = run_sim("--node", "t4", "--", command)
        assert run.returncode == status
        assert run.stderr.startswith("aliquot sim: ")
        assert run.stderr.count("\n") == 1


def test_a_node_that_is_kept_can_be_asked_for_the_truth(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    run = run_sim("--node", "a100x2", "--keep", str(kept), "--json", "--", "true")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["status"] == 0
    assert report["directory"] == str(kept)
    assert kept.stat().st_mode & 0o777 == 0o700
    found = run_sim("--truth", str(kept), "--json")
    answer = json.loads(found.stdout)
    assert [device["free_bytes"] for device in answer["devices"]] == [40326 * MIB] * 2
    assert answer["processes"] == []
    assert "0 MiB of 40326 MiB held" in run_sim("--truth", str(kept)).stdout
    again = run_sim("--node", "t4", "--keep", str(kept), "--", "true")
    assert (again.returncode, again.stderr) == (1, f"aliquot sim: {kept}: not empty\n")


def test_the_node_of_a_killed_runner_is_removed_by_the_next() -> None:
    with subprocess.Popen(
        [*SIM, "--node", "t4", "--", "sh", "-c", "echo $ALIQUOT_SIM $$; exec sleep 60"],
        stdout=subprocess.PIPE,
        text=True,
    ) as runner:
        assert runner.stdout is not None
        directory, pid = runner.stdout.readline().split()
        runner.kill()
    assert Path(directory).exists()
    try:
        assert run_sim("--node", "t4", "--", "true").returncode == 0
        assert not Path(directory).exists()
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_profiles_are_listed() -> None:
    listed = json.loads(run_sim("--profiles", "--json").stdout)["profiles"]
    assert [item["name"] for item in listed] == profiles()
    assert run_sim("--profiles").stdout.startswith("a100x2")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "give one of"),
        (("--node", "t4"), "no command"),
        (("--node", "t4", "--profiles"), "give one of"),
        (("--truth", "/nonexistent", "--", "true"), "takes neither"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(arguments: tuple[str, ...], text: str) -> None:
    run = run_sim(*arguments)
    assert run.returncode == 2
    assert text in run.stderr


def test_every_mistake_of_a_file_is_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[[device]]\nsms = 0\nsmss = 1\n")
    run = run_sim("--node", str(file), "--", "true")
    assert run.returncode == 2
    assert [line.split(": ")[:3] for line in run.stderr.splitlines()] == [
        ["aliquot sim", f"{file}:2", "device[0].sms"],
        ["aliquot sim", f"{file}:3", "device[0].smss"],
    ]
    missing = run_sim("--node", str(tmp_path / "none.toml"), "--", "true")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_truth_of_what_is_no_node_is_refused(tmp_path: Path) -> None:
    run = run_sim("--truth", str(tmp_path))
    assert run.returncode == 1
    assert run.stderr == f"aliquot sim: opening {tmp_path}/state: No such file or directory\n"


# ---- States --------------------------------------------------------------------------------------


def test_a_state_of_another_version_is_refused_with_a_line(node: NodeUnderTest) -> None:
    state = node.folder / "state"
    with state.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<I", 99))
    with pytest.raises(StateError, match="another version"):
        truth(node.folder)
    process = node.process(start=False)
    assert process.result("init") == DRIVER_MISMATCH
    assert node.log.read_text().count("another version") == 1


def test_a_truncated_or_foreign_state_is_refused(node: NodeUnderTest, tmp_path: Path) -> None:
    state = node.folder / "state"
    os.truncate(state, state.stat().st_size // 2)
    with pytest.raises(StateError, match="truncated"):
        truth(node.folder)
    assert node.process(start=False).result("init") == DRIVER_MISMATCH
    (tmp_path / "state").write_bytes(b"something else" * 100)
    with pytest.raises(StateError, match="not the state"):
        truth(tmp_path)
    os.truncate(tmp_path / "state", 3)
    with pytest.raises(StateError, match="not the state"):
        truth(tmp_path)


def test_without_a_node_there_is_no_device(node: NodeUnderTest) -> None:
    shutil.move(node.folder / "state", node.folder / "elsewhere")
    assert node.process(start=False).result("init") == NO_DEVICE


def test_a_state_is_not_made_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="not empty"):
        create(load_node("t4"), tmp_path)


def test_the_bench_node_has_one_device_without_costs(tmp_path: Path) -> None:
    uuid = make_bench(tmp_path / "node")
    (device,) = truth(tmp_path / "node").devices
    assert device.uuid.replace("-", "") == f"GPU{uuid.hex()}"
    assert device.total_bytes == 16 << 30


def test_eight_large_devices_take_no_memory_of_the_host(sim_library: Path) -> None:
    before = os.statvfs(shared_folder())
    with node_of("[[device]]\ncount = 8\nmemory = '80GiB'\n", sim_library) as node:
        process = node.process()
        process.ok("alloc", 79 << 30)
        after = os.statvfs(shared_folder())
        assert (before.f_bfree - after.f_bfree) * after.f_bsize < 64 * MIB


# ---- Which devices a program sees ----------------------------------------------------------------

THREE = """
[[device]]
uuid = "GPU-aaaaaaaa-0000-0000-0000-000000000000"
sms = 10
pci_address = "0000:30:00.0"
[[device]]
uuid = "GPU-aaaabbbb-0000-0000-0000-000000000000"
sms = 30
pci_address = "0000:20:00.0"
[[device]]
uuid = "GPU-cccccccc-0000-0000-0000-000000000000"
sms = 20
pci_address = "0000:10:00.0"
"""


@pytest.mark.parametrize(
    ("visible", "order", "seen"),
    [
        (None, None, "bca"),
        (None, "PCI_BUS_ID", "cba"),
        ("0", None, "b"),
        ("2,0", None, "ab"),
        ("1,0,7,2", "PCI_BUS_ID", "bc"),
        ("", None, ""),
        ("-1", None, ""),
        ("NoDevFiles", None, ""),
        ("GPU-cc", None, "c"),
        ("gpu-CCCC,GPU-aaaab", None, "cb"),
        ("GPU-aaaa", None, ""),
        ("GPU-cc,x,0", None, "c"),
        ("0, 1", None, "bc"),
        ("1,GPU-cc", None, ""),
        ("0,0", None, ""),
        ("MIG-cccccccc-0000-0000-0000-000000000000", None, ""),
    ],
)
def test_visible_devices_are_those_of_the_real_driver(
    sim_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    order: str | None,
    seen: str,
) -> None:
    letters = {"aaaaaaaa": "a", "aaaabbbb": "b", "cccccccc": "c"}
    with node_of(THREE, sim_library) as node:
        base = node.environment()
        if visible is not None:
            base["CUDA_VISIBLE_DEVICES"] = visible
        if order is not None:
            base["CUDA_DEVICE_ORDER"] = order
        monkeypatch.setattr(node, "environment", lambda: base)
        process = node.process(start=False)
        if not seen:
            assert process.result("init") == NO_DEVICE
            return
        process.ok("init")
        assert "".join(letters[uuid[:8]] for uuid in process.ok("devices")) == seen


def test_driver_versions_and_costs_are_the_nodes(sim_library: Path) -> None:
    text = "driver_version = 12040\n[costs]\nalloc_ns = 20_000_000\n[[device]]\n"
    with node_of(text, sim_library) as node:
        process = node.process(start=False)
        assert process.ok("number", "cuDriverGetVersion") == 12040
        process.ok("start")
        assert process.ok("number", "cuDriverGetVersion") == 12040
        began = time.monotonic()
        process.ok("alloc", 100)
        assert time.monotonic() - began >= 0.02
