"""NVIDIA's devices on the simulator, whose NVML and CUDA tell one story."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aliquot.agent import drivers, visible

from clients import need
from commands import Desk, desk
from nvidia_node import Node

MIB = 1 << 20
PARTS = ("MIG-00000001-0000-0000-0000-000000000000", "MIG-00000002-0000-0000-0000-000000000000")


SIMULATED = """
[[device]]
count = 2
model = "Small"
memory = "4GiB"
context = "100MiB"
"""


@pytest.fixture
def simulated(
    sim_library: Path, shim_library: Path, tmp_path: Path, start_nvidia: Callable[..., Node]
) -> tuple[Desk, Node]:
    """A simulated node: somebody who runs programs on it, and the vendor's module."""
    if not (sim_library.parent / "libnvidia-ml.so.1").exists():
        pytest.skip("the simulator has no NVML")
    made = desk(sim_library, shim_library, tmp_path)
    file, state = tmp_path / "node.toml", tmp_path / "state"
    file.write_text(SIMULATED)
    (tmp_path / "cdi").mkdir()
    options = ["--cdi", str(tmp_path / "cdi")] if os.geteuid() == 0 else []
    kept = made.run("sim", "--node", str(file), "--keep", str(state), *options, "--", "true")
    assert kept.returncode == 0, kept.stderr
    made.environment["ALIQUOT_SIM"] = str(state)
    return made, start_nvidia(sim_library.parent, ALIQUOT_SIM=str(state))


def test_a_simulated_device_is_what_cuda_says_of_it(simulated: tuple[Desk, Node]) -> None:
    made, node = simulated
    version, devices = visible.enumerate_devices(
        drivers.find(made.environment).driver, made.environment
    )
    assert version > 0
    rows = node.get("enumerate")
    assert [
        (row["uuid"], row["uuid_bytes"], row["model"], row["memory_bytes"], row["page_bytes"])
        for row in rows
    ] == [
        (each.uuid_text, each.uuid.hex(), each.name, each.total_bytes, each.page_bytes)
        for each in devices
    ]
    assert {row["context_bytes"] for row in rows} == {100 * MIB}


def test_it_passes_the_check_of_vendors(simulated: tuple[Desk, Node]) -> None:
    _, node = simulated
    assert node.get("faults") == []


def test_a_program_on_the_simulator_is_a_process_with_its_memory(
    simulated: tuple[Desk, Node],
) -> None:
    need("cuda.bindings.driver")
    made, node = simulated
    command = [sys.executable, "-m", "aliquot.agent.conformance_worker", "hold", str(512 * MIB)]
    with subprocess.Popen(
        command,
        env={**made.environment, "CUDA_VISIBLE_DEVICES": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        assert json.loads(program.stdout.readline())["held_bytes"] == 512 * MIB
        (row,) = node.get("processes")
        assert row["pid"] == program.pid
        assert row["uuid"] == node.get("enumerate")[1]["uuid"]
        assert row["memory_bytes"] == 612 * MIB
        assert [row["memory_used_bytes"] for row in node.get("sample")] == [0, 612 * MIB]
        program.stdin.close()
    assert node.get("processes") == []


def test_a_fault_on_the_simulator_takes_down_its_device(simulated: tuple[Desk, Node]) -> None:
    made, node = simulated
    assert node.ill() == {}
    state = made.environment["ALIQUOT_SIM"]
    uuid = node.get("enumerate")[1]["uuid"]
    for xid, ill in (("13", []), ("79", [uuid])):
        told = made.run("sim", "--xid", xid, "--device", "1", state)
        assert told.returncode == 0, told.stderr
        assert list(node.ill()) == ill


def test_a_simulated_nodes_specification_says_what_a_container_needs(
    simulated: tuple[Desk, Node],
) -> None:
    if os.geteuid():
        pytest.skip("device nodes are made by root")
    made, node = simulated
    needs = node.get("needs", [node.get("enumerate")[1]["uuid"]])
    assert {row["path"] for row in needs["nodes"]} >= {"/dev/nvidia1", "/dev/nvidiactl"}
    assert "/dev/nvidia0" not in {row["path"] for row in needs["nodes"]}
    names = {row["names"][1] for row in needs["libraries"]}
    assert names == {"libcuda.so.1", "libnvidia-ml.so.1"}
    assert made.environment["ALIQUOT_SIM"] in {row["source"] for row in needs["mounts"]}
    assert needs["hooks"] == []
