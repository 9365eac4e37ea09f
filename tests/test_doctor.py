"""``aliquot doctor``: what is wrong is found, said in one line, and what is right is not blamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import doctor_node as node
from aliquot.agent.config import Config
from aliquot.agent.doctor_node import FAIL, OK, WARN, Finding
from aliquot.hooks import elf
from hypothesis import given
from hypothesis import strategies as st

import cambricon_node
import nvidia_files
from commands import TESTS, Desk, odd_desk, odd_driver

ROOT = TESTS.parent


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver of two devices."""
    return odd_driver(tmp_path_factory.mktemp("odd") / "driver")


@pytest.fixture
def here(driver: Path, shim_library: Path, tmp_path: Path) -> Desk:
    """A desk with that driver."""
    return odd_desk(driver, shim_library, tmp_path)


def examine(desk: Desk, *options: str, **environment: str) -> dict[str, list[dict[str, str]]]:
    """What the command finds, by check."""
    result = desk.run("doctor", "--json", *options, env=environment)
    assert result.stderr == ""
    answer: dict[str, Any] = json.loads(result.stdout)
    failed = sum(row["status"] == FAIL for row in answer["findings"])
    assert (answer["failed"], result.returncode) == (failed, 1 if failed else 0)
    found: dict[str, list[dict[str, str]]] = {}
    for row in answer["findings"]:
        assert set(row) == {"check", "status", "text", "mend"}
        assert "\n" not in row["text"] + row["mend"]
        found.setdefault(row["check"], []).append(row)
    return found


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


# -- the command --


def test_a_node_without_a_driver_says_so_and_fails(here: Desk, tmp_path: Path) -> None:
    found = examine(here, LD_LIBRARY_PATH=str(tmp_path))
    assert any(row["status"] == FAIL and "no CUDA driver" in row["text"] for row in found["driver"])
    assert found["shim"][0]["status"] == WARN
    assert "functions" not in found
    assert found["devices"][-1]["text"] == "there is no device to share"


@pytest.mark.parametrize("text", ["", 'vendors = ["nvidia", "cambricon"]\n'])
def test_a_node_without_nvidias_devices_misses_nothing_of_nvidias_unless_told_of_them(
    here: Desk, tmp_path: Path, sim_library: Path, text: str
) -> None:
    lib = tmp_path / "lib"
    lib.mkdir()
    (lib / "libcndev.so").symlink_to(sim_library.with_name("libcndev.so"))
    made = cambricon_node.Node(tmp_path, lib)
    config = tmp_path / "config.toml"
    config.write_text(text)
    environment = {"LD_LIBRARY_PATH": str(lib), "ALIQUOT_SIM": str(made.state)}
    found = examine(here, "--config", str(config), **environment)
    cards = [row for row in found["devices"] if "memory caps held by partition" in row["text"]]
    assert [row["status"] for row in cards] == [OK, OK]
    assert all(row["text"].startswith("MLU-") for row in cards)
    if text:
        assert any(row["status"] == FAIL for row in found["driver"])
        assert found["shim"][0]["status"] == WARN
        return
    (row,) = found["driver"]
    assert (row["status"], row["text"]) == (
        OK,
        "NVIDIA's is not needed: the devices are of cambricon",
    )
    assert found["shim"][0]["status"] == OK
    assert "CDI" not in found
    assert "functions" not in found


def test_the_table_has_each_finding_in_its_columns(here: Desk) -> None:
    result = here.run("doctor")
    rows = here.run("doctor", "--json")
    findings = json.loads(rows.stdout)["findings"]
    *lines, empty, last = result.stdout.splitlines()
    assert empty == ""
    width = max(len(row["check"]) for row in findings)
    shown = [(line[:4].strip(), line[6 : 6 + width].strip(), line[8 + width :]) for line in lines]
    expected = []
    for row in findings:
        expected.append((row["status"], row["check"], row["text"]))
        if row["mend"]:
            expected.append(("", "", f"-> {row['mend']}"))
    assert shown == expected
    counts = [sum(row["status"] == status for row in findings) for status in (OK, WARN, FAIL)]
    assert last == f"{counts[0]} ok, {counts[1]} warn, {counts[2]} fail"


def test_each_mistake_of_the_configuration_is_a_finding(here: Desk, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('metrics_port = "x"\nrequire = "hope"\n')
    rows = examine(here, "--config", str(config))["configuration"]
    assert [row["status"] for row in rows] == [FAIL, FAIL]
    assert all(str(config) in row["text"] for row in rows)
    config.write_text("metrics_port = 9000\n")
    (row,) = examine(here, "--config", str(config))["configuration"]
    assert (row["status"], row["text"]) == (OK, str(config))


def test_what_a_name_holds_cannot_change_the_terminal(here: Desk, tmp_path: Path) -> None:
    result = here.run("doctor", env={"LD_LIBRARY_PATH": f"{tmp_path}/\x1b[31m"})
    assert "\x1b" not in result.stdout


# -- driver and shim --


def test_a_driver_is_named_with_its_version_and_devices(here: Desk, driver: Path) -> None:
    text = f"{driver.resolve()}: CUDA 13.0, 2 device(s)"
    assert text in [row["text"] for row in examine(here)["driver"]]


def test_the_shim_is_tried_on_the_driver(here: Desk, shim_library: Path, driver: Path) -> None:
    (row,) = examine(here)["shim"]
    assert (row["status"], row["text"]) == (OK, f"{shim_library} works on {driver.resolve()}")


@pytest.mark.parametrize("told", ["die", "999"])
def test_a_driver_that_fails_is_found_out_without_harm(here: Desk, told: str) -> None:
    found = examine(here, ODD_INIT=told)
    assert found["driver"][-1]["status"] == FAIL
    assert found["kernel"][0]["status"] == OK


def test_a_shim_that_is_none_is_found_out(here: Desk, tmp_path: Path) -> None:
    shim = tmp_path / "libcuda.so.1"
    assert "install aliquot again" in examine(here, ALIQUOT_SHIM=str(shim))["shim"][0]["mend"]
    shim.write_text("no library")
    (row,) = examine(here, ALIQUOT_SHIM=str(shim))["shim"]
    assert row["status"] == FAIL
    assert "cannot be loaded" in row["text"]


def test_functions_that_only_the_driver_has_are_named(shim_library: Path, tmp_path: Path) -> None:
    source = tmp_path / "newer.c"
    functions = "cuMemAllocFromTheFuture_v7", "cuTomorrow", "notOfCuda", "cublasCreate"
    source.write_text(
        f'#include "{TESTS}/odd_driver.c"\n'
        + "".join(f"EXPORT int {name}(void) {{ return 0; }}\n" for name in functions)
    )
    folder = tmp_path / "newer"
    folder.mkdir()
    library = folder / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", str(library), str(source)], check=True)
    (row,) = examine(odd_desk(library, shim_library, tmp_path))["functions"]
    assert row["status"] == WARN
    assert "2 function(s) of libcuda.so.1" in row["text"]
    assert row["text"].endswith("uncounted: cuMemAllocFromTheFuture_v7, cuTomorrow")


def test_functions_are_all_known_of_a_driver_that_is_older(here: Desk) -> None:
    (row,) = examine(here)["functions"]
    assert row["status"] == OK


@pytest.mark.usefixtures("plain_shim")
@pytest.mark.parametrize("version", sorted(nvidia_files.SUITES))
def test_nvidias_own_driver_without_a_device_gets_the_shim_and_is_known(
    here: Desk, real_driver: Callable[[str], Path], version: str, tmp_path: Path
) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "libcuda.so.1").symlink_to(real_driver(version))
    found = examine(here, LD_LIBRARY_PATH=str(folder))
    assert found["driver"][-1]["status"] == FAIL
    assert "CUDA_ERROR_NO_DEVICE (100)" in found["driver"][-1]["text"]
    assert found["shim"][0]["status"] == OK
    assert "loads on" in found["shim"][0]["text"]
    assert found["functions"][0]["status"] == OK


# -- libraries as files --


def test_the_exports_of_a_library_are_those_that_nm_lists(shim_library: Path) -> None:
    shown = subprocess.run(
        ["nm", "-D", "--defined-only", "--without-symbol-versions", str(shim_library)],
        check=True,
        capture_output=True,
        text=True,
    )
    names = {line.split()[-1] for line in shown.stdout.splitlines()}
    library = elf.read(shim_library, exports=True)
    assert library.exports == names
    assert library.soname == "libcuda.so.1"
    assert library.machine == elf.own_machine()


@given(cut=st.integers(0, 4096), at=st.integers(0, 4096), byte=st.integers(0, 255))
def test_a_broken_library_is_an_error_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "broken"
    folder.mkdir(exist_ok=True)
    whole = Path("/proc/self/exe").resolve().read_bytes()[:4096]
    data = bytearray(whole[:cut])
    if at < len(data):
        data[at] = byte
    path = folder / "libx.so"
    path.write_bytes(data)
    # Nothing but ElfError may come out; a change that does no harm leaves a library.
    with contextlib.suppress(elf.ElfError):
        elf.read(path, exports=True)


# -- the node --


def test_the_kernel_of_this_machine_has_what_containers_need() -> None:
    findings = list(node.kernel())
    assert {finding.check for finding in findings} == {"kernel", "overlay"}
    assert findings[0].status in {OK, WARN}, findings[0]


def test_cgroups_of_both_versions_are_told_apart(tmp_path: Path) -> None:
    finding = only(node.cgroups(tmp_path))
    assert finding.status == WARN
    assert "is not cgroup v2" in finding.text
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids dmem\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu pids\n")
    finding = only(node.cgroups(tmp_path))
    assert (finding.status, finding.text) == (
        WARN,
        f"cgroup v2; memory not handed down from {tmp_path}",
    )
    assert finding.mend == f"echo +memory > {tmp_path}/cgroup.subtree_control"
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert only(node.cgroups(tmp_path)).text == "cgroup v2 with cpu, dmem, memory, pids"


def test_a_folder_that_nothing_can_be_loaded_from_is_found(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    lib, run = tmp_path / "a b/lib", tmp_path / "run"
    config = Config(lib_dir=lib, runtime_dir=run)
    root = "20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw\n"
    folder = str(tmp_path / "a b").replace(" ", "\\040")

    def look(options: str) -> tuple[Finding, Finding]:
        table.write_text(root + f"21 20 8:2 / {folder} {options} - ext4 /dev/sdb rw\n")
        first, second = node.folders(config, table)
        return first, second

    first, second = look("rw,noexec")
    assert first.status == FAIL
    assert f"lies on {tmp_path}/a b, which is mounted noexec" in first.text
    assert (second.status, second.text) == (OK, f"{run} on /")
    assert look("ro")[0].status == FAIL
    assert look("rw")[0].status == OK


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The agent's folder."""
    if os.geteuid():
        pytest.skip("the agent's sockets are root's")
    folder = tmp_path / "base"
    folder.mkdir()
    folder.chmod(0o711)
    return folder


def listen(path: Path, mode: int = 0o600) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    path.chmod(mode)
    server.listen()
    return server


def test_an_agent_that_does_not_run_is_said_with_how_to_start_it(tmp_path: Path) -> None:
    finding = only(node.agent(Config(runtime_dir=tmp_path / "none")))
    assert finding.status == FAIL
    assert "systemctl start aliquot-agent" in finding.mend


def test_the_agents_sockets_are_tried(base: Path) -> None:
    with listen(base / "runtime.sock"), listen(base / "agent.sock", 0o666):
        first, second = node.agent(Config(runtime_dir=base))
    assert (first.status, first.text) == (OK, f"{base}/runtime.sock answers")
    assert second.status == FAIL
    assert "mode 666" in second.text
    # Both ended: the files are there, and nobody behind them.
    (base / "agent.sock").chmod(0o600)
    assert [row.status for row in node.agent(Config(runtime_dir=base))] == [FAIL, FAIL]
    (base / "agent.sock").unlink()
    (base / "agent.sock").write_text("")
    assert "is no socket" in list(node.agent(Config(runtime_dir=base)))[1].text


def test_an_agents_folder_that_others_may_write_is_found(base: Path) -> None:
    base.chmod(0o777)
    assert "mode 777" in next(iter(node.agent(Config(runtime_dir=base)))).text


def test_device_links_count_where_systemd_makes_the_cgroups(tmp_path: Path) -> None:
    assert list(node.device_links(True, tmp_path)) == []
    try:
        os.mknod(tmp_path / "nvidia0", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this user may make no device nodes")
    finding = only(node.device_links(True, tmp_path))
    assert (finding.status, f"{tmp_path}/nvidia0 not in" in finding.text) == (WARN, True)
    assert only(node.device_links(False, tmp_path)).status == OK
    (tmp_path / "char").mkdir()
    (tmp_path / "char/1:3").symlink_to("../nvidia0")
    assert only(node.device_links(True, tmp_path)).text.startswith("all 1 device nodes")


@pytest.mark.skipif(shutil.which("containerd") is None, reason="this machine has no containerd")
def test_the_handler_is_looked_for_in_what_containerd_understands(
    here: Desk, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("version = 2\n")
    finding = only(node.containerd(config))
    assert finding.status == FAIL
    assert "has no runtime handler 'aliquot'" in finding.text
    assert "aliquot install containerd" in finding.mend

    installed = here.run("install", "containerd", "--config", str(config), "--binary", "/bin/true")
    assert installed.returncode == 0, installed.stderr
    finding = only(node.containerd(config))
    assert (finding.status, "(/bin/true)" in finding.text) == (OK, True)

    def write(binary: str, annotations: str) -> Finding:
        runtime = 'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.aliquot'
        config.write_text(
            f'version = 2\n[{runtime}]\nruntime_type = "io.containerd.runc.v2"\n'
            f"pod_annotations = [{annotations}]\n"
            f'[{runtime}.options]\nBinaryName = "{binary}"\n'
        )
        return only(node.containerd(config))

    assert "which is no program" in write("/nowhere/aliquot-runtime", '"aliquot.dev/*"').text
    assert write("/bin/true", "").status == WARN
    assert write("/bin/true", '"aliquot.dev/*"').status == OK
    config.write_text("version = [")
    assert only(node.containerd(config)).status == FAIL


def test_specifications_are_looked_at(here: Desk, tmp_path: Path) -> None:
    cdi = tmp_path / "cdi"
    cdi.mkdir()
    (cdi / "broken.json").write_text("{")
    mount = {"hostPath": "/nowhere/libcuda.so.1", "containerPath": "/lib/libcuda.so.1"}
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": "0"}],
        "containerEdits": {"mounts": [mount]},
    }
    (cdi / "nvidia.json").write_text(json.dumps(spec))
    config = tmp_path / "config.toml"
    config.write_text(f'cdi_dirs = ["{cdi}"]\n')
    rows = examine(here, "--config", str(config))["CDI"]
    assert [row["status"] for row in rows] == [WARN, OK, FAIL]
    assert "names /nowhere/libcuda.so.1, which is not there" in rows[2]["text"]


def test_every_check_is_on_the_page(here: Desk) -> None:
    page = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
    for check in examine(here):
        assert f"| `{check}` |" in page, check
