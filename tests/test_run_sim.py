"""``aliquot run`` on a simulated node: caps and charges against the simulator's own count."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import ALIQUOT, TESTS, Desk, desk, needs_namespaces, wait_for

HOLDER = str(TESTS / "holder.py")
MIB = 1 << 20
CONTEXT = 100 * MIB

NODE = """
[[device]]
count = 2
model = "Small"
memory = "4GiB"
context = "100MiB"
"""


@dataclass
class Machine:
    """A desk on a simulated node, and the node's own count."""

    desk: Desk
    node: Path

    def groups(self) -> dict[str, dict[str, list[int]]]:
        """What the simulator counts for each group, per device: used and most ever used."""
        shown = self.desk.run("sim", "--truth", str(self.node), "--json")
        assert shown.returncode == 0, shown.stderr
        return {row["name"]: row for row in json.loads(shown.stdout)["groups"]}


@pytest.fixture
def machine(sim_library: Path, shim_library: Path, tmp_path: Path) -> Machine:
    """A node of two small devices."""
    file, node = tmp_path / "node.toml", tmp_path / "node"
    file.write_text(NODE)
    made = desk(sim_library, shim_library, tmp_path)
    made_node = made.run("sim", "--node", str(file), "--keep", str(node), "--", "true")
    assert made_node.returncode == 0, made_node.stderr
    made.environment["ALIQUOT_SIM"] = str(node)
    return Machine(made, node)


@pytest.fixture
def holders(machine: Machine) -> Iterator[list[subprocess.Popen[str]]]:
    """Programs that are ended with the test."""
    del machine
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        one.communicate()


def hold(machine: Machine, group: str, options: list[str], *sizes: str) -> subprocess.Popen[str]:
    """Start a program that takes ``sizes`` MiB, counted as ``group``."""
    command = ["env", f"ALIQUOT_SIM_GROUP={group}", sys.executable, HOLDER, "libcuda.so.1", *sizes]
    return machine.desk.start("run", *options, "--", *command, stdin=subprocess.PIPE)


def lines_until_holding(program: subprocess.Popen[str]) -> list[str]:
    assert program.stdout is not None
    lines: list[str] = []
    for line in program.stdout:
        if line == "holding\n":
            return lines
        lines.append(line.strip())
    raise AssertionError(lines)


def events(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stderr.splitlines()]


def test_a_context_is_measured_to_the_byte_and_only_once(machine: Machine) -> None:
    for _ in range(2):
        result = machine.desk.run("run", "--json", "--memory", "1GiB", "--", "true")
        assert result.returncode == 0, result.stderr
        started, ended = events(result)
        assert [device["context_bytes"] for device in started["devices"]] == [CONTEXT] * 2
        assert ended["status"] == 0
    known = json.loads((Path(machine.desk.environment["ALIQUOT_CACHE_DIR"]) / "contexts.json")
                       .read_text())  # fmt: skip
    assert sorted(known["context_bytes"].values()) == [CONTEXT] * 2


def test_a_cap_below_a_context_is_warned_of(machine: Machine) -> None:
    command = ["--device", "0", "--memory", "64MiB", "--", sys.executable, HOLDER, "libcuda.so.1"]
    result = machine.desk.run("run", *command, "1")
    assert "one context takes 100.0 MiB, more than the cap of 64.0 MiB" in result.stderr
    assert result.stdout.splitlines() == ["init 0", "1 201", "holding"]


def test_slices_side_by_side_hold_what_they_are_charged_and_no_more(
    machine: Machine, holders: list[subprocess.Popen[str]]
) -> None:
    """Two slices of one device and one of the other, each refused at its own cap."""
    caps = {"a": 1024, "b": 512, "c": 2048}
    steps = ["16"] * 140
    for group, cap in caps.items():
        device = "1" if group == "c" else "0"
        options = ["--name", group, "--device", device, "--memory", f"{cap}MiB"]
        holders.append(hold(machine, group, options, *steps))
    refused = {}
    for (group, cap), program in zip(caps.items(), holders, strict=True):
        got = lines_until_holding(program)[1:]
        fits = (cap * MIB - CONTEXT) // (16 * MIB)
        refused[group] = len(steps) - fits
        assert got == ["16 0"] * fits + ["16 2"] * refused[group], group
    counted = machine.groups()
    for piece in machine.desk.slices():
        (device,) = piece["devices"]
        number = device["index"]
        truth = counted[piece["name"]]
        assert truth["used_bytes"][number] == device["charge_bytes"]
        assert truth["used_bytes"][1 - number] == 0
        assert truth["max_used_bytes"][number] == device["peak_bytes"]
        assert 0.96 * caps[piece["name"]] * MIB < device["peak_bytes"]
        assert device["peak_bytes"] <= device["cap_bytes"] == caps[piece["name"]] * MIB
        assert device["refusals"] == refused[piece["name"]]


def test_processes_of_one_slice_share_its_cap(
    machine: Machine, holders: list[subprocess.Popen[str]]
) -> None:
    one = f"{sys.executable} {HOLDER} libcuda.so.1" + " 16" * 80
    script = (
        f"for i in 1 2 3 4; do {one} < /dev/null > /dev/null & done; wait; echo holding; read x"
    )
    command = ["env", "ALIQUOT_SIM_GROUP=all", "sh", "-c", script]
    options = ["--device", "0", "--memory", "1GiB", "--name", "all", "--", *command]
    holders.append(machine.desk.start("run", *options, stdin=subprocess.PIPE))
    assert lines_until_holding(holders[0]) == []
    (piece,) = machine.desk.slices()
    (device,) = piece["devices"]
    truth = machine.groups()["all"]
    assert truth["max_used_bytes"][0] == device["peak_bytes"] <= 1024 * MIB
    assert device["peak_bytes"] > 0.96 * 1024 * MIB
    assert truth["used_bytes"][0] == device["charge_bytes"] == 0
    assert piece["processes"] == []


def test_what_a_killed_program_held_is_there_for_the_next(
    machine: Machine, holders: list[subprocess.Popen[str]]
) -> None:
    options = ["--name", "one", "--device", "0", "--memory", "1GiB"]
    for _ in range(5):
        program = hold(machine, "one", options, "900")
        holders.append(program)
        assert lines_until_holding(program) == ["init 0", "900 0"]
        (piece,) = machine.desk.slices()
        assert piece["devices"][0]["charge_bytes"] == CONTEXT + 900 * MIB
        os.kill(piece["processes"][0]["pid"], signal.SIGKILL)
        assert program.wait() == 128 + signal.SIGKILL
    assert machine.desk.slices("--all") == []
    wait_for(lambda: machine.groups()["one"]["used_bytes"] == [0, 0], "the device's memory")


def test_the_device_looks_like_the_slice(machine: Machine) -> None:
    script = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
count, total, free = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_size_t()
cuda.cuDeviceGetCount(ctypes.byref(count))
cuda.cuDeviceTotalMem_v2(ctypes.byref(total), 0)
print(count.value, total.value)
context = ctypes.c_void_p()
cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
cuda.cuCtxSetCurrent(context)
cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
print(free.value, total.value)
"""
    options = ["--device", "1", "--memory", "25%", "--", sys.executable, "-c", script]
    result = machine.desk.run("run", *options)
    whole = 1024 * MIB
    assert result.stdout.split() == [str(n) for n in (1, whole, whole - CONTEXT, whole)]


def test_other_devices_made_visible_again_give_nothing(machine: Machine) -> None:
    options = ["--device", "1", "--memory", "1GiB", "--", "env", "CUDA_VISIBLE_DEVICES=0,1"]
    result = machine.desk.run("run", *options, sys.executable, HOLDER, "libcuda.so.1", "1")
    assert result.stdout.splitlines() == ["init 0", "1 201", "holding"]


def test_the_sim_command_and_the_run_command_go_together(
    sim_library: Path, shim_library: Path, tmp_path: Path
) -> None:
    made = desk(sim_library, shim_library, tmp_path)
    del made.environment["LD_LIBRARY_PATH"], made.environment["ALIQUOT_CACHE_DIR"]
    command = ["--device", "0", "--memory", "2GiB", "--", sys.executable, HOLDER, "libcuda.so.1"]
    result = made.run("sim", "--node", "a100x2", "--", *ALIQUOT, "run", *command, "1600", "1600")
    assert result.stdout.splitlines() == ["init 0", "1600 0", "1600 2", "holding"], result.stderr
    assert result.returncode == 0


LOOK = """
import ctypes, json, sys
seen = []
for path in sys.argv[1:]:
    nvml, count, device = ctypes.CDLL(path), ctypes.c_uint(), ctypes.c_void_p()
    assert nvml.nvmlInit_v2() == 0
    assert nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    assert nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0
    uuid, memory = ctypes.create_string_buffer(96), (ctypes.c_ulonglong * 3)()
    nvml.nvmlDeviceGetUUID(device, uuid, 96)
    nvml.nvmlDeviceGetMemoryInfo(device, memory)
    processes = ctypes.c_uint()
    nvml.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(processes), None)
    seen.append([count.value, uuid.value.decode(), memory[0], memory[2], processes.value])
print(json.dumps(seen))
"""


@pytest.mark.parametrize("mode", [pytest.param("namespace", marks=needs_namespaces), "environment"])
def test_nvml_shows_the_slice_too(machine: Machine, mode: str, sim_nvml: Path) -> None:
    """By its name, and by its path where mounts cover it."""
    others = [sys.executable, HOLDER, "libcuda.so.1", "300"]
    look = [sys.executable, "-c", LOOK, "libnvidia-ml.so.1"]
    if mode == "namespace":
        look.append(str(sim_nvml))
    # What another slice holds of the same device is not seen.
    with machine.desk.start(
        "run", "--device", "1", "--memory", "1GiB", "--", *others, stdin=subprocess.PIPE
    ) as other:
        assert lines_until_holding(other) == ["init 0", "300 0"]
        run = ["run", "--mode", mode, "--json", "--device", "1", "--memory", "2GiB", "--"]
        result = machine.desk.run(*run, *look)
        other.communicate()
    assert result.returncode == 0, result.stderr
    uuid = events(result)[0]["devices"][0]["uuid"]
    assert json.loads(result.stdout) == [[1, uuid, 2048 * MIB, 0, 0]] * (len(look) - 3)
