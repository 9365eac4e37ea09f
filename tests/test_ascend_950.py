"""Devices of Ascend 950, whose library has functions of other names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ascend_node import GIB, MIB, AscendNode, Worker, ascend_node, node_text, odd_library
from commands import TESTS

FUNCTIONS = re.findall(
    r"^int (dcmi\w+)\(", (TESTS.parent / "agent/devices/_dcmi.cdef").read_text(), re.MULTILINE
)
NEWER = tuple(name for name in FUNCTIONS if name.startswith("dcmiv2_"))
# What mind-cluster, the vendor's own plugin, calls by other names than the driver's header has.
OTHER_NAMES = {
    "dcmiv2_get_device_die": "dcmiv2_get_device_die_id",
    "dcmiv2_get_device_errorcode": "dcmiv2_get_device_error_code_list",
    "dcmiv2_get_device_resource_info": "dcmiv2_get_device_proc_mem_info",
    "dcmiv2_get_chip_phyid_from_dev_id": "dcmiv2_get_chip_phy_id_by_dev_id",
}


@pytest.fixture
def newer(sim_library: Path) -> Path:
    """The newer generation's library of the simulator."""
    return sim_library.with_name("dcmiv2") / "libdcmi.so"


@pytest.fixture
def node(tmp_path: Path, sim_library: Path) -> Iterator[AscendNode]:
    with ascend_node(tmp_path, sim_library, node_text("950", 2, 131072, 32)) as made:
        yield made


def begun(node: AscendNode, tmp_path: Path, library: Path) -> Worker:
    environment = node.environment(os.environ) | {"LD_LIBRARY_PATH": str(library.parent)}
    worker = Worker(tmp_path, environment)
    assert worker.begun == {"returned": "ascend"}
    return worker


@pytest.fixture
def worker(node: AscendNode, tmp_path: Path, newer: Path) -> Iterator[Worker]:
    made = begun(node, tmp_path, newer)
    yield made
    made.close()


def test_devices_are_told_with_all_that_placement_needs(worker: Worker) -> None:
    first, second = worker.get("enumerate")
    assert worker.get("left_out") == []
    assert re.fullmatch(r"NPU(-[0-9A-F]{8}){5}", first["uuid"])
    assert first["uuid"] != second["uuid"]
    assert (first["vendor"], first["index"], second["index"]) == ("ascend", 0, 1)
    assert first["model"] == "Ascend 950"
    assert (first["memory_bytes"], first["page_bytes"]) == (128 * GIB, 2 * MIB)
    assert first["pci_address"] == "0000:10:00.0"
    assert first["numa_node"] == 0
    # It has no vNPUs: the shim holds slices of it.
    assert (first["enforcement"], first["splits"], first["shapes"]) == (["shim"], False, [])
    assert "has no vNPUs: ask for all of it" in worker.refusal(
        "partition", first["uuid"], "a", GIB, 1
    )
    assert worker.get("partitions") == []
    assert worker.get("driver_version") == "24.1.0"


def test_the_module_keeps_the_protocol(worker: Worker) -> None:
    assert [line for line in worker.get("check") if "needs" not in line] == []


def test_readings_and_processes_are_the_nodes(node: AscendNode, worker: Worker) -> None:
    before = worker.get("sample")[0]
    assert (before["memory_used_bytes"], before["busy"], before["memory_busy"]) == (0, 0.0, 0.0)
    assert (before["power_watts"], before["temperature_celsius"]) == (40.0, 30.0)
    holder = node.holder(1)
    assert holder.do("take 3000")
    uuid = worker.get("enumerate")[1]["uuid"]
    assert [one["memory_used_bytes"] for one in worker.get("sample")] == [0, 3000 * MIB]
    (process,) = worker.get("processes")
    assert (process["uuid"], process["pid"]) == (uuid, holder.pid)
    assert process["memory_bytes"] == 3000 * MIB


def test_faults_make_a_device_unhealthy_until_they_are_over(
    node: AscendNode, worker: Worker
) -> None:
    uuid = worker.get("enumerate")[1]["uuid"]
    assert worker.ill() == {}
    node.inject(1, 0x80CB8009, 1)
    assert worker.ill() == {}
    node.inject(1, 0x80E18405, 3)
    assert list(worker.ill()) == [uuid]
    assert "(critical)" in worker.ill()[uuid]
    node.inject(1, 0x80E18405, 3, cleared=True)
    assert worker.ill() == {}


def test_the_same_device_is_the_same_by_either_library(
    node: AscendNode, tmp_path: Path, sim_library: Path, worker: Worker
) -> None:
    (tmp_path / "older").mkdir()
    older = begun(node, tmp_path / "older", sim_library.with_name("libdcmi.so"))
    told = [worker.get("enumerate"), older.get("enumerate")]
    older.close()
    assert told[0] == told[1]


@pytest.mark.parametrize("named", ["driver", "plugin"])
def test_functions_of_either_name_are_found(
    node: AscendNode, tmp_path: Path, newer: Path, named: str
) -> None:
    dropped = set(OTHER_NAMES.values() if named == "plugin" else OTHER_NAMES)
    names = [name for name in NEWER if name not in dropped]
    folder = odd_library(tmp_path / "odd", names, newer, OTHER_NAMES)
    worker = begun(node, tmp_path, folder)
    assert [one["splits"] for one in worker.get("enumerate")] == [False, False]
    node.inject(0, 0x80E18405, 3)
    assert len(worker.ill()) == 1
    holder = node.holder(0)
    assert holder.do("take 100")
    assert len(worker.get("processes")) == 1
    worker.close()


def test_what_a_library_does_not_export_is_none_and_never_zero(
    node: AscendNode, tmp_path: Path, newer: Path
) -> None:
    names = ("init", "get_device_list", "get_device_die_id", "get_device_hbm_info")
    folder = odd_library(tmp_path / "odd", [f"dcmiv2_{name}" for name in names], newer)
    worker = begun(node, tmp_path, folder)
    first, second = worker.get("enumerate")
    assert (first["model"], first["index"], second["index"]) == ("Ascend NPU", 0, 1)
    sample = worker.get("sample")[0]
    assert [sample[key] for key in ("busy", "memory_busy", "power_watts")] == [None] * 3
    assert worker.get("processes") == []
    assert "does not answer" in worker.ill()[first["uuid"]]
    worker.close()


def test_a_library_of_both_generations_answers_as_its_devices_are(
    tmp_path: Path, sim_library: Path
) -> None:
    # As the driver's own is: the newer functions answer for devices of the newer generation alone.
    real = sim_library.with_name("libdcmi.so")
    with ascend_node(tmp_path, sim_library) as node:
        folder = odd_library(tmp_path / "odd", FUNCTIONS, real)
        environment = node.environment(os.environ)
        environment["LD_LIBRARY_PATH"] = str(folder.parent)
        environment["ODD_DCMI"] = "dcmiv2_init=0,dcmiv2_get_device_list=-8255"
        worker = Worker(tmp_path, environment)
        assert worker.begun == {"returned": "ascend"}
        assert [one["model"] for one in worker.get("enumerate")] == ["Ascend 910B3"] * 2
        assert worker.get("enumerate")[0]["splits"]
        worker.close()


def test_a_driver_that_is_not_ready_is_told_and_asked_again(
    node: AscendNode, tmp_path: Path, newer: Path
) -> None:
    worker = begun(node, tmp_path, odd_library(tmp_path / "odd", NEWER, newer, OTHER_NAMES))
    worker.get("environ", {"ODD_DCMI": "dcmiv2_init=-8012"})
    refused = worker.refusal("enumerate")
    assert "dcmiv2_init" in refused
    assert "(-8012)" in refused
    worker.get("environ", {"ODD_DCMI": ""})
    assert len(worker.get("enumerate")) == 2
    worker.close()
