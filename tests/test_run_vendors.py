"""``aliquot run`` with devices of other vendors than NVIDIA: their libraries, their words."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import Desk, desk, needs_namespaces, one_line

MIB = 1 << 20
CAP = 512 * MIB
STEP = 16 * MIB

# What a program does: it opens its first device, takes memory until that is refused, and says how
# often it got some, how it was refused, and how large the device looks. The library is opened by
# each name that it is told, which must all lead to the same.
PROGRAMS = {
    "ascend": """
import ctypes, json, os, sys
library = [ctypes.CDLL(name) for name in sys.argv[1:]][0]
count, free, total = ctypes.c_int32(), ctypes.c_size_t(), ctypes.c_size_t()
assert library.rtGetDeviceCount(ctypes.byref(count)) == 0
opened = library.rtSetDevice(0)
step, got, code = ctypes.c_uint64(16 << 20), 0, opened
while code == 0:
    code = library.rtMalloc(ctypes.byref(ctypes.c_void_p()), step, 2, ctypes.c_uint16(0))
    got += code == 0
library.rtMemGetInfo(ctypes.byref(free), ctypes.byref(total))
""",
    "cambricon": """
import ctypes, json, os, sys
library = [ctypes.CDLL(name) for name in sys.argv[1:]][0]
count, device = ctypes.c_int(), ctypes.c_uint64()
free, total = ctypes.c_uint64(), ctypes.c_uint64()
assert library.cnInit(0) == 0
assert library.cnDeviceGetCount(ctypes.byref(count)) == 0
assert library.cnDeviceGet(ctypes.byref(device), 0) == 0
opened = library.cnCtxCreate(ctypes.byref(ctypes.c_void_p()), 0, device)
step, got, code = ctypes.c_uint64(16 << 20), 0, opened
while code == 0:
    code = library.cnMalloc(ctypes.byref(ctypes.c_uint64()), step)
    got += code == 0
library.cnMemGetInfo(ctypes.byref(free), ctypes.byref(total))
""",
}
SAY = """
print(json.dumps({"count": count.value, "got": got, "code": code, "total": total.value,
                  "pid": os.getpid(), "environment": dict(os.environ)}), flush=True)
"""
LIBRARIES = {"ascend": "libruntime.so", "cambricon": "libcndrv.so"}
VISIBLE = {"ascend": "ASCEND_RT_VISIBLE_DEVICES", "cambricon": "MLU_VISIBLE_DEVICES"}
PREFIXES = {"ascend": "NPU-", "cambricon": "MLU-"}
OUT_OF_MEMORY = {"ascend": 207001, "cambricon": 100100}
MODES = [pytest.param("namespace", marks=needs_namespaces), "environment"]


@dataclass
class Machine:
    """A desk on a simulated node of one vendor's devices."""

    desk: Desk
    node: Path
    vendor: str
    library: Path

    def run(self, *options: str, names: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[Any]]:
        """Run the vendor's program in a slice; returns what it said, and the command's events."""
        script = PROGRAMS[self.vendor] + SAY
        command = [sys.executable, "-c", script, *(names or (LIBRARIES[self.vendor],))]
        result = self.desk.run("run", "--json", "--vendor", self.vendor, *options, "--", *command)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout), [json.loads(line) for line in result.stderr.splitlines()]

    def most_held(self, group: str) -> list[int]:
        """The most that the simulator itself counted for a group, by device."""
        shown = self.desk.run("sim", "--truth", str(self.node), "--json")
        rows = {row["name"]: row for row in json.loads(shown.stdout)["groups"]}
        return list(rows[group]["max_used_bytes"])


@pytest.fixture(params=["ascend", "cambricon"])
def machine(
    request: pytest.FixtureRequest, sim_library: Path, shim_library: Path, tmp_path: Path
) -> Machine:
    """A node of two devices."""
    vendor = str(request.param)
    file, node = tmp_path / "node.toml", tmp_path / "node"
    file.write_text(f'[[device]]\nvendor = "{vendor}"\ncount = 2\nmemory = "2GiB"\n')
    library = sim_library.with_name(LIBRARIES[vendor])
    made = desk(library, shim_library, tmp_path)
    # The installed shim of the vendor that is asked for.
    del made.environment["ALIQUOT_SHIM"]
    kept = made.run("sim", "--node", str(file), "--keep", str(node), "--", "true")
    assert kept.returncode == 0, kept.stderr
    made.environment["ALIQUOT_SIM"] = str(node)
    return Machine(made, node, vendor, library)


@pytest.mark.parametrize("mode", MODES)
def test_a_cap_holds_to_the_last_step_in_the_vendors_own_words(machine: Machine, mode: str) -> None:
    machine.desk.environment["ALIQUOT_SIM_GROUP"] = "one"
    said, (started, ended) = machine.run("--mode", mode, "--device", "1", "--memory", "512MiB")
    (device,) = started["devices"]
    assert (started["vendor"], started["mode"]) == (machine.vendor, mode)
    assert device["uuid"].startswith(PREFIXES[machine.vendor])
    assert device["context_bytes"] > 0
    assert (said["count"], said["total"]) == (1, CAP)
    assert said["code"] == OUT_OF_MEMORY[machine.vendor]
    assert said["got"] == (CAP - device["context_bytes"]) // STEP
    assert said["environment"][VISIBLE[machine.vendor]] == "1"
    assert ended["devices"][0]["refusals"] >= 1
    most = machine.most_held("one")
    assert ended["devices"][0]["peak_bytes"] <= CAP
    assert most[1] <= CAP
    assert machine.desk.left_behind() == []


@needs_namespaces
def test_every_name_and_path_leads_to_the_shim(machine: Machine) -> None:
    names = (str(machine.library), LIBRARIES[machine.vendor], str(machine.library.resolve()))
    said, _ = machine.run("--device", "0", "--memory", "256MiB", names=names)
    assert said["total"] == 256 * MIB


def test_devices_that_were_hidden_before_stay_so(machine: Machine) -> None:
    machine.desk.environment[VISIBLE[machine.vendor]] = "1"
    said, (started, _) = machine.run("--memory", "256MiB", "--mode", "environment")
    assert [device["index"] for device in started["devices"]] == [0]
    assert said["environment"][VISIBLE[machine.vendor]] == "1"


def test_ps_names_a_device_as_its_vendor_does(machine: Machine) -> None:
    script = PROGRAMS[machine.vendor] + SAY + "sys.stdin.read()"
    command = [sys.executable, "-c", script, LIBRARIES[machine.vendor]]
    options = ["--vendor", machine.vendor, "--device", "0", "--memory", "256MiB"]
    running = machine.desk.start("run", *options, "--", *command, stdin=-1)
    try:
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["total"] == 256 * MIB
        (piece,) = machine.desk.slices()
        assert piece["devices"][0]["uuid"].startswith(PREFIXES[machine.vendor])
        assert piece["devices"][0]["index"] == 0
    finally:
        running.communicate("")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--device", "7", "--memory", "1GiB"), "--device: there is no device '7'"),
        (("--device", "GPU-00", "--memory", "1GiB"), "--device: there is no device 'GPU-00'"),
        (("--memory", "900GiB"), "is more than device 0"),
        (("--vendor", "hygon", "--memory", "1GiB"), "'hygon' is not one of"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    machine: Machine, options: tuple[str, ...], text: str
) -> None:
    result = machine.desk.run("run", "--vendor", machine.vendor, *options, "--", "true")
    assert text in one_line(result)
    assert result.returncode == 2
    assert machine.desk.left_behind() == []


def only(machine: Machine, tmp_path: Path, *vendors: str) -> None:
    """Let the loader find these vendors' libraries only."""
    folder = tmp_path / "found"
    folder.mkdir()
    for vendor in vendors:
        name = {**LIBRARIES, "nvidia": "libcuda.so.1"}[vendor]
        (folder / name).symlink_to(machine.library.with_name(name))
    machine.desk.environment["LD_LIBRARY_PATH"] = os.fspath(folder)


def test_the_only_vendor_that_is_found_is_meant(machine: Machine, tmp_path: Path) -> None:
    only(machine, tmp_path, machine.vendor)
    result = machine.desk.run("run", "--json", "--memory", "256MiB", "--", "true")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stderr.splitlines()[0])["vendor"] == machine.vendor


def test_hamis_variables_are_about_nvidias_devices(machine: Machine, tmp_path: Path) -> None:
    hami = {"CUDA_DEVICE_MEMORY_LIMIT": "256m", "CUDA_DEVICE_SM_LIMIT": "x"}
    # As in a container, they mean whose devices, too; and of others they say nothing.
    only(machine, tmp_path, machine.vendor)
    result = machine.desk.run("run", "--", "true", env=hami)
    assert "CUDA driver" in one_line(result)
    named = ("--vendor", machine.vendor)
    result = machine.desk.run("run", *named, "--", "true", env=hami)
    assert "no cap is given" in one_line(result)
    for options in ((), named):
        result = machine.desk.run(
            "run", "--json", *options, "--memory", "512MiB", "--", "true", env=hami
        )
        assert result.returncode == 0, result.stderr
        started = json.loads(result.stderr.splitlines()[0])
        assert started["vendor"] == machine.vendor
        shown = {(row["cap_bytes"], row["cores_max"]) for row in started["devices"]}
        assert shown == {(CAP, 100)}


def test_of_several_vendors_one_has_to_be_named(machine: Machine, tmp_path: Path) -> None:
    only(machine, tmp_path, *LIBRARIES)
    result = machine.desk.run("run", "--memory", "256MiB", "--", "true")
    assert "devices of ascend, cambricon: say whose with --vendor" in one_line(result)
    (tmp_path / "found/libcuda.so.1").write_text("no library")
    result = machine.desk.run("run", "--memory", "256MiB", "--", "true")
    assert "no usable CUDA driver" in one_line(result)
