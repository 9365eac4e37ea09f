"""The agent's module for Ascend devices, on the simulator's library and on odd ones."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aliquot.agent.ascend_config import Ascend as AscendConfig
from aliquot.agent.ascend_config import Template
from aliquot.agent.config import Config
from aliquot.agent.devices import VendorError, ascend, ascend_vnpu, dcmi
from aliquot.agent.devices.ascend_health import LINK_DOWN, Watch

import agent_process
from ascend_node import GIB, MIB, AscendNode, Worker, ascend_node, node_text, odd_library
from commands import TESTS, wait_for

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="vNPUs are made by root alone")
ALL = tuple(
    re.findall(
        r"^int (dcmi_\w+)\(", (TESTS.parent / "agent/devices/_dcmi.cdef").read_text(), re.MULTILINE
    )
)


@pytest.fixture
def node(tmp_path: Path, sim_library: Path) -> Iterator[AscendNode]:
    with ascend_node(tmp_path, sim_library) as made:
        yield made


@pytest.fixture
def worker(node: AscendNode, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path, node.environment(os.environ))
    assert made.begun == {"returned": "ascend"}
    yield made
    made.close()


# ---- What there is -------------------------------------------------------------------------------


def test_devices_are_told_with_all_that_placement_needs(worker: Worker) -> None:
    first, second = worker.get("enumerate")
    assert re.fullmatch(r"NPU(-[0-9A-F]{8}){5}", first["uuid"])
    assert first["uuid"] != second["uuid"]
    assert (first["vendor"], first["index"], second["index"]) == ("ascend", 0, 1)
    assert first["model"] == "Ascend 910B3"
    assert (first["memory_bytes"], first["page_bytes"]) == (64 * GIB, 2 * MIB)
    assert first["pci_address"] == "0000:10:00.0"
    assert first["numa_node"] == 0
    assert first["links"] == {second["uuid"]: 1}
    assert (first["enforcement"], first["splits"]) == (["partition", "shim"], True)
    assert first["shapes"] == [[16 * GIB, 25], [32 * GIB, 50]]
    assert len(bytes.fromhex(first["uuid_bytes"])) == 16


@pytest.mark.parametrize(
    ("model", "memory", "cores", "usable_mib", "shapes"),
    [
        ("910A", 32768, 30, 32768, [(2184, 6), (4369, 13), (8738, 26), (17476, 53)]),
        ("910B2", 65536, 24, 65536, [(8192, 12), (16384, 25), (32768, 50)]),
        ("910B4-1", 65536, 20, 65536, [(16384, 25), (32768, 50)]),
        ("910B4", 32768, 20, 32768, [(8192, 25), (16384, 50)]),
        ("910C", 65536, 20, 65536, [(16384, 25), (32768, 50)]),
        ("910_9392", 65536, 20, 65536, [(16384, 25), (32768, 50)]),
        ("310P3", 24576, 8, 21527, [(3072, 12), (6144, 25), (12288, 50)]),
        ("950", 131072, 32, 131072, []),
    ],
)
def test_each_chip_has_its_templates(
    tmp_path: Path,
    sim_library: Path,
    model: str,
    memory: int,
    cores: int,
    usable_mib: int,
    shapes: list[tuple[int, int]],
) -> None:
    with ascend_node(tmp_path, sim_library, node_text(model, 2, memory, cores)) as node:
        worker = Worker(tmp_path, node.environment(os.environ))
        device = worker.get("enumerate")[0]
        assert device["memory_bytes"] == usable_mib * MIB
        assert device["shapes"] == [[mib * MIB, percent] for mib, percent in shapes]
        assert device["splits"] == bool(shapes)
        assert device["enforcement"] == (["partition", "shim"] if shapes else ["shim"])
        if not shapes:
            refused = worker.refusal("partition", device["uuid"], "a", GIB, 1)
            assert "has no vNPUs: ask for all of it" in refused
        worker.close()


def test_the_module_keeps_the_protocol(worker: Worker) -> None:
    faults = [line for line in worker.get("check") if "needs" not in line]
    assert faults == []


def test_readings_and_processes_are_the_nodes(node: AscendNode, worker: Worker) -> None:
    before = worker.get("sample")[0]
    assert (before["memory_used_bytes"], before["busy"], before["memory_busy"]) == (0, 0.0, 0.0)
    assert (before["power_watts"], before["temperature_celsius"]) == (40.0, 30.0)
    holder = node.holder(0)
    assert holder.do("take 3000")
    uuid = worker.get("enumerate")[0]["uuid"]
    assert worker.get("sample")[0]["memory_used_bytes"] == 3000 * MIB
    assert worker.get("processes") == [
        {
            "uuid": uuid,
            "pid": holder.pid,
            "memory_bytes": 3000 * MIB,
            "busy": None,
            "memory_busy": None,
        }
    ]


# ---- Libraries that lack something, or fail ------------------------------------------------------


def test_without_a_library_it_is_said_where_one_was_looked_for(tmp_path: Path) -> None:
    worker = Worker(tmp_path, {**os.environ, "LD_LIBRARY_PATH": ""}, str(tmp_path / "root"))
    text = worker.begun["raised"]
    assert text.startswith("libdcmi.so cannot be loaded")
    assert f"{tmp_path}/root/usr/local/dcmi" in text
    assert text.endswith("install Ascend's driver, or name its folder in LD_LIBRARY_PATH")
    worker.close()


def test_the_library_of_the_drivers_root_counts_first(
    node: AscendNode, tmp_path: Path, sim_library: Path
) -> None:
    real = sim_library.with_name("libdcmi.so")
    (tmp_path / "root").mkdir()
    odd_library(tmp_path / "root/usr", ["dcmi_get_card_list"], real)
    folder = tmp_path / "root/usr/local/dcmi"
    folder.mkdir(parents=True)
    (tmp_path / "root/usr/libdcmi.so").rename(folder / "libdcmi.so")
    worker = Worker(tmp_path, node.environment(os.environ), str(tmp_path / "root"))
    assert worker.begun["raised"].startswith("libdcmi.so has no dcmi_init")
    worker.close()


def odd_worker(node: AscendNode, tmp_path: Path, real: Path, names: tuple[str, ...]) -> Worker:
    environment = node.environment(os.environ)
    environment["LD_LIBRARY_PATH"] = str(odd_library(tmp_path / "odd", names, real).parent)
    worker = Worker(tmp_path, environment)
    assert worker.begun == {"returned": "ascend"}
    return worker


def test_what_an_old_library_does_not_export_is_none_and_never_zero(
    node: AscendNode, tmp_path: Path, sim_library: Path
) -> None:
    names = (
        "dcmi_init",
        "dcmi_get_card_num_list",
        "dcmi_get_device_num_in_card",
        "dcmi_get_device_chip_info",
        "dcmi_get_device_die_v2",
        "dcmi_get_device_hbm_info",
        "dcmi_get_device_health",
    )
    worker = odd_worker(node, tmp_path, sim_library.with_name("libdcmi.so"), names)
    first, second = worker.get("enumerate")
    assert (first["model"], first["index"], second["index"]) == ("Ascend 910B3", 0, 1)
    assert (first["pci_address"], first["numa_node"], first["links"]) == ("", None, {})
    # Without the functions that make them there are no vNPUs.
    assert (first["splits"], first["enforcement"], first["shapes"]) == (False, ["shim"], [])
    sample = worker.get("sample")[0]
    assert sample["memory_used_bytes"] == 0
    assert [sample[key] for key in ("busy", "memory_busy", "power_watts")] == [None] * 3
    assert sample["temperature_celsius"] is None
    assert worker.get("processes") == []
    assert worker.ill() == {}
    assert worker.get("driver_version") == ""
    worker.close()


@pytest.mark.parametrize("code", sorted(dcmi._ERRORS))
def test_every_error_of_the_library_is_told_with_its_number_and_what_to_do(code: int) -> None:
    text = dcmi.describe(code)
    what, _, advice = text.partition(f" ({code}): ")
    assert what
    assert advice
    assert "\n" not in text


def test_an_error_that_nobody_documented_is_told_too() -> None:
    assert dcmi.describe(-9999).startswith("an error that is not documented (-9999): ")


def test_errors_of_single_readings_leave_the_others(
    node: AscendNode, tmp_path: Path, sim_library: Path
) -> None:
    worker = odd_worker(node, tmp_path, sim_library.with_name("libdcmi.so"), ALL)
    uuids = [device["uuid"] for device in worker.get("enumerate")]
    failing = {
        "dcmi_get_device_power_info": -8255,
        "dcmi_get_device_utilization_rate": -8006,
        "dcmi_get_device_resource_info": -8005,
        "dcmi_get_device_health": -8009,
    }
    worker.get("environ", {"ODD_DCMI": ",".join(f"{k}={v}" for k, v in failing.items())})
    sample = worker.get("sample")[0]
    assert (sample["power_watts"], sample["busy"], sample["memory_busy"]) == (None, None, None)
    assert (sample["memory_used_bytes"], sample["temperature_celsius"]) == (0, 30.0)
    assert worker.get("processes") == []
    assert worker.ill() == dict.fromkeys(uuids, "the device does not answer: reset it")
    # A library whose driver is gone answers nothing, and is asked anew.
    gone = ("dcmi_get_device_hbm_info", "dcmi_get_card_list", "dcmi_init")
    worker.get("environ", {"ODD_DCMI": ",".join(f"{function}=-8012" for function in gone)})
    assert "the device is not ready (-8012): load the driver" in worker.refusal("sample")
    assert "dcmi_init" in worker.refusal("sample")
    assert set(worker.ill()) == set(uuids)
    worker.get("environ", {"ODD_DCMI": ""})
    assert worker.get("sample")[0]["power_watts"] == 40.0
    assert worker.ill() == {}
    worker.close()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("dcmi_get_device_die_v2", "does not tell which chip it is"),
        ("dcmi_get_device_hbm_info", "does not tell its memory"),
    ],
)
def test_a_device_that_lacks_the_essential_is_left_out(
    node: AscendNode, tmp_path: Path, sim_library: Path, function: str, reason: str
) -> None:
    names = tuple(name for name in ALL if name != function)
    worker = odd_worker(node, tmp_path, sim_library.with_name("libdcmi.so"), names)
    assert worker.get("enumerate") == []
    left_out = worker.get("left_out")
    assert len(left_out) == 2
    assert reason in left_out[0]
    worker.close()


def test_a_driver_that_is_not_loaded_is_an_error_of_enumerating(
    tmp_path: Path, sim_library: Path
) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(sim_library.parent)}
    worker = Worker(tmp_path, {**environment, "ALIQUOT_SIM": str(tmp_path / "nowhere")})
    assert "dcmi_init: the device is not ready (-8012)" in worker.refusal("enumerate")
    assert worker.get("health") == []
    worker.close()


# ---- vNPUs ---------------------------------------------------------------------------------------


def records(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "run/vnpu"
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]*"))}


@NEEDS_ROOT
def test_a_request_gets_the_smallest_vnpu_that_holds_it(worker: Worker, tmp_path: Path) -> None:
    uuid = worker.get("enumerate")[0]["uuid"]
    small = worker.get("partition", uuid, "one", GIB, 0)
    assert small == {
        "uuid": uuid,
        "id": "100",
        "name": "one",
        "memory_bytes": 16 * GIB,
        "cores": 25,
        "used_bytes": None,
        "busy": None,
    }
    # By its cores, though its memory is small.
    large = worker.get("partition", uuid, "two", GIB, 26)
    assert (large["id"], large["memory_bytes"], large["cores"]) == ("101", 32 * GIB, 50)
    assert worker.get("partitions") == [small, large]
    assert records(tmp_path) == {
        "100": {"uuid": uuid, "name": "one"},
        "101": {"uuid": uuid, "name": "two"},
    }
    assert stat.S_IMODE((tmp_path / "run/vnpu/100").stat().st_mode) == 0o600
    refused = worker.refusal("partition", uuid, "three", 33 * GIB, 1)
    assert "no vNPU template that holds 33792 MiB and 1%: there are vir05_1c_16g" in refused
    refused = worker.refusal("partition", uuid, "three", 30 * GIB, 1)
    assert "gives no vNPU of vir10_3c_32g: what is asked for is occupied (-8020)" in refused
    # What could not be made is not written down any more.
    assert list(records(tmp_path)) == ["100", "101"]
    assert "cannot be changed while it runs" in worker.refusal("resize", small, 32 * GIB, 50)
    worker.get("release", small)
    worker.get("release", small)
    assert worker.get("partitions") == [large]
    again = worker.get("partition", uuid, "four", GIB, 1)
    assert again["id"] == "100"
    # A partition of that number is another's now.
    worker.get("release", small)
    assert worker.get("partitions") == [again, large]


@NEEDS_ROOT
def test_the_other_device_has_its_own_numbers(worker: Worker) -> None:
    uuid = worker.get("enumerate")[1]["uuid"]
    assert worker.get("partition", uuid, "one", GIB, 0)["id"] == "116"


@NEEDS_ROOT
def test_survivors_are_known_by_whose_they_were_and_others_are_left(
    node: AscendNode, worker: Worker, tmp_path: Path
) -> None:
    uuid = worker.get("enumerate")[0]["uuid"]
    worker.get("partition", uuid, "mine", GIB, 0)
    # Somebody else's, of whom nothing is written down.
    (tmp_path / "other").mkdir()
    other = Worker(tmp_path / "other", node.environment(os.environ))
    other.get("enumerate")
    foreign = other.get("partition", uuid, "theirs", GIB, 0)
    other.close()
    # One that was to be made, and was not.
    (tmp_path / "run/vnpu/105").write_text(json.dumps({"uuid": uuid, "name": "never"}))
    (tmp_path / "run/vnpu/106").write_text("{")
    assert worker.worker is not None
    worker.worker.kill()
    worker.worker.communicate()
    later = Worker(tmp_path, node.environment(os.environ))
    found = later.get("partitions")
    assert [(one["id"], one["name"]) for one in found] == [("100", "mine"), ("101", "")]
    assert set(records_names(tmp_path)) == {"100", "106"}
    later.get("release", {**foreign, "name": ""})
    later.get("release", foreign)
    assert len(later.get("partitions")) == 2
    later.get("release", found[0])
    assert [one["id"] for one in later.get("partitions")] == ["101"]
    later.close()
    worker.worker = later.worker


def records_names(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "run/vnpu").iterdir()]


def forked(work: Callable[[], None]) -> int:
    """Do something in a child, whose status is returned: it may kill itself."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


@NEEDS_ROOT
def test_killed_at_any_step_a_vnpu_of_ours_is_known_as_ours(
    node: AscendNode, tmp_path: Path, sim_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in node.environment(os.environ).items():
        monkeypatch.setenv(name, value)
    files = frozenset({str(ascend_vnpu.__file__)})

    def vendor() -> ascend.Ascend:
        # As the loader finds it: LD_LIBRARY_PATH is read once, when a process begins.
        root = tmp_path / "driver"
        return ascend.Ascend(Config(runtime_dir=tmp_path / "run", ascend=AscendConfig(root)))

    folder = tmp_path / "driver/usr/local/dcmi"
    folder.mkdir(parents=True)
    (folder / "libdcmi.so").symlink_to(sim_library.with_name("libdcmi.so"))

    def cut_and_give_back(lines: int) -> None:
        made = vendor()
        uuid = made.enumerate()[0].uuid
        killer = agent_process.Killer(lines, files)
        sys.settrace(killer)
        made.release(made.partition(uuid, "mine", GIB, 1))

    def look() -> None:
        made = vendor()
        for one in made.partitions():
            assert one.name == "mine", one
            made.release(one)
        assert made.partitions() == ()
        assert list((tmp_path / "run/vnpu").glob("[0-9]*")) == []

    killed = 0
    for lines in range(1000):
        status = forked(partial(cut_and_give_back, lines))
        assert forked(look) == 0, f"after {lines} lines"
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        killed += 1
    assert killed > 40


@NEEDS_ROOT
def test_a_vnpu_that_cannot_be_released_stays_known(
    node: AscendNode, tmp_path: Path, sim_library: Path
) -> None:
    worker = odd_worker(node, tmp_path, sim_library.with_name("libdcmi.so"), ALL)
    uuid = worker.get("enumerate")[0]["uuid"]
    made = worker.get("partition", uuid, "one", GIB, 0)
    worker.get("environ", {"ODD_DCMI": "dcmi_set_destroy_vdevice=-8020"})
    refused = worker.refusal("release", made)
    assert "vNPU 100 of" in refused
    assert "(-8020)" in refused
    assert worker.get("partitions") == [made]
    worker.get("environ", {"ODD_DCMI": ""})
    worker.get("release", made)
    assert worker.get("partitions") == []
    worker.close()


def test_records_that_cannot_be_written_or_removed_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VendorError, match="file/7 cannot be written: File exists"):
        ascend_vnpu.Records(tmp_path / "file").write(7, "NPU-1", "slice")
    (tmp_path / "vnpu/8").mkdir(parents=True)
    records = ascend_vnpu.Records(tmp_path / "vnpu")
    with pytest.raises(VendorError, match="vnpu/8 cannot be removed"):
        records.remove(8)
    assert records.all() == {}


@pytest.mark.parametrize(
    ("fresh", "told", "number", "recorded"),
    [
        ([100], 100, 100, ["100"]),
        ([100], 0xFFFFFFFF, 100, ["100"]),
        # The driver takes another number than it is asked for.
        ([103], 103, 103, ["103"]),
        ([], 100, None, []),
        ([], 103, None, []),
        # What is made cannot be seen: a number that the driver can have meant counts.
        (None, 103, 103, ["103"]),
        (None, 0xFFFFFFFF, 100, ["100"]),
    ],
)
def test_a_vnpu_is_what_the_driver_lists_whatever_it_tells(
    tmp_path: Path, fresh: list[int] | None, told: int, number: int | None, recorded: list[str]
) -> None:
    made = False

    def call(name: str, *arguments: Any) -> None:
        nonlocal made
        if name == "dcmi_create_vdevice":
            made = True
            arguments[3].vdev_id = told
        elif arguments[3] == 1:
            if made and fresh is None:
                raise dcmi.DcmiError(name, -8006)
            ids = fresh if made and fresh else []
            arguments[4].vdev_num = len(ids)
            arguments[4].vdev_id[0 : len(ids)] = ids
        else:
            raise dcmi.DcmiError(name, -8006)

    session: Any = SimpleNamespace(call=call)
    records = ascend_vnpu.Records(tmp_path / "vnpu")
    template = Template("vir05_1c_16g", 16 * GIB, 5)
    chip = ascend_vnpu.Chip("NPU-1", 0, 0, 0, "910B3", 20, (template,))
    if number is None:
        with pytest.raises(VendorError, match="the vNPU that was made is not listed"):
            ascend_vnpu.make(session, records, chip, "slice", GIB, 1)
    else:
        partition = ascend_vnpu.make(session, records, chip, "slice", GIB, 1)
        assert (partition.id, partition.memory_bytes, partition.cores) == (
            str(number),
            16 * GIB,
            25,
        )
    assert list(records.all()) == recorded


def test_cgroups_are_not_limited_by_this_driver(worker: Worker) -> None:
    uuid = worker.get("enumerate")[0]["uuid"]
    assert "cannot hold memory limits" in worker.refusal("limit_memory", uuid, "/x", GIB)


# ---- What containers need ------------------------------------------------------------------------


@NEEDS_ROOT
def test_a_container_gets_the_vendors_files_and_the_vnpus_node(
    tmp_path: Path, sim_library: Path
) -> None:
    with ascend_node(tmp_path, sim_library, with_files=True) as node:
        root = node.folder / "root"
        (root / "usr/local/bin").mkdir()
        (root / "usr/local/bin/npu-smi").write_text("#!/bin/sh\n")
        (root / "var/queue_schedule").mkdir(parents=True)
        (root / "dev/dvpp_cmdlist").symlink_to("hisi_hdc")
        worker = Worker(tmp_path, node.environment(os.environ), str(root))
        first, second = (device["uuid"] for device in worker.get("enumerate"))
        made = worker.get("partition", second, "one", GIB, 0)
        needs = worker.get("needs", [first, second], {second: made})
        paths = {node["path"]: node["source"] for node in needs["nodes"]}
        assert paths == {
            "/dev/davinci0": f"{root}/dev/davinci0",
            "/dev/davinci116": f"{root}/dev/vdavinci116",
            **{
                f"/dev/{name}": f"{root}/dev/{name}"
                for name in ("davinci_manager", "devmm_svm", "hisi_hdc", "dvpp_cmdlist")
            },
        }
        assert {mount["destination"]: "rw" in mount["options"] for mount in needs["mounts"]} == {
            "/usr/local/Ascend/driver/lib64": False,
            "/usr/local/Ascend/driver/include": False,
            "/usr/local/dcmi": False,
            "/usr/local/bin/npu-smi": False,
            "/var/queue_schedule": True,
        }
        assert [library["names"] for library in needs["libraries"]] == [["libdcmi.so"]]
        assert needs["environment"] == {
            "ASCEND_VISIBLE_DEVICES": "void",
            "ASCEND_DOCKER_RUNTIME": "True",
        }
        assert "*/ascend-docker-hook" in needs["foreign_hooks"]
        worker.get("release", made)
        assert not (root / "dev/vdavinci116").exists()
        refused = worker.refusal("needs", [second], {second: made})
        assert f"{root}/dev/vdavinci116 is not there" in refused
        (root / "dev/devmm_svm").unlink()
        (root / "dev/devmm_svm").write_text("")
        assert "devmm_svm is no device file" in worker.refusal("needs", [first])
        assert "there is no such device" in worker.refusal("needs", ["NPU-0"])
        worker.close()


# ---- Health --------------------------------------------------------------------------------------


def test_faults_make_a_device_unhealthy_until_they_are_over(
    node: AscendNode, worker: Worker
) -> None:
    uuid = worker.get("enumerate")[0]["uuid"]
    assert worker.ill() == {}
    node.inject(0, 0x80CB8009, 1)
    node.inject(0, 0x80E1801E, 3)  # said to be nothing in the configuration
    # How grave each is, the library tells before their events do.
    assert worker.ill() == {}
    node.inject(0, 0x80E18402, 0)  # said to need a restart
    assert worker.ill()[uuid].startswith("fault 80E18402 (RestartNPU)")
    node.inject(0, 0x80E18402, 0, cleared=True)
    wait_for(lambda: worker.ill() == {}, "the device's recovery")
    node.inject(0, 0x80E18405, 3)
    assert "(critical)" in worker.ill()[uuid]
    assert list(worker.ill()) == [uuid]
    node.inject(0, 0x80E18405, 3, cleared=True)
    wait_for(lambda: worker.ill() == {}, "the device's recovery")
    # The second time within a day it does not heal by itself.
    node.inject(0, 0x80E18405, 3)
    wait_for(lambda: worker.ill() != {}, "the fault")
    node.inject(0, 0x80E18405, 3, cleared=True)
    wait_for(lambda: "come 2 times within a day" in worker.ill()[uuid], "the end of the fault")


def test_a_minor_fault_is_never_blamed_with_what_another_one_is(
    node: AscendNode, tmp_path: Path, sim_library: Path
) -> None:
    # A library that does not tell how bad faults are, but by their events.
    names = tuple(name for name in ALL if name != "dcmi_get_device_current_fault_event")
    worker = odd_worker(node, tmp_path, sim_library.with_name("libdcmi.so"), names)
    uuid = worker.get("enumerate")[0]["uuid"]
    for _ in range(20):
        node.inject(0, 0x80CB8009, 1)
        node.inject(0, 0x80E1801E, 3)  # said to be nothing in the configuration
        assert worker.ill() == {}
        node.inject(0, 0x80CB8009, 1, cleared=True)
        node.inject(0, 0x80E1801E, 3, cleared=True)
        assert worker.ill() == {}
    # Alone it is as bad as the device says, at once.
    node.inject(0, 0x80E18405, 3)
    assert "fault 80E18405 (critical)" in worker.ill()[uuid]
    worker.close()


def test_of_faults_whose_events_do_not_come_one_is_blamed_in_the_end() -> None:
    clock = Clock()
    watch = Watch({}, clock)
    watch.stands({1: None, 2: None})
    assert watch.reason(3) == ""
    clock.now += 2
    watch.stands({1: None, 2: None})
    assert "00000001 (critical)" in watch.reason(3)
    # Once it is known which it is, the other one is not.
    watch.stands({1: None, 2: 3})
    assert watch.reason(3).count("fault") == 2  # one of them, and Ascend's list of faults
    assert "00000002 (critical)" in watch.reason(3)


class Clock:
    """A clock that goes when it is told."""

    now = 1000.0

    def __call__(self) -> float:
        """Tell it."""
        return self.now


def test_a_link_counts_once_it_is_down_for_a_while() -> None:
    clock = Clock()
    watch = Watch({}, clock)
    watch.told(LINK_DOWN, 2, came=True)
    clock.now += 19
    assert watch.reason(0) == ""
    clock.now += 1
    assert "81078603" in watch.reason(0)
    watch.told(LINK_DOWN, 2, came=False)
    clock.now += 59
    assert "81078603" in watch.reason(0)
    clock.now += 1
    assert watch.reason(0) == ""
    # One that was down for a moment is not remembered.
    watch.told(LINK_DOWN, 2, came=True)
    clock.now += 5
    watch.told(LINK_DOWN, 2, came=False)
    assert watch.reason(0) == ""


@pytest.mark.parametrize(("code", "times"), [(0x1, 2), (0x80E18005, 3), (LINK_DOWN, 5)])
def test_a_fault_that_comes_too_often_in_a_day_stays(code: int, times: int) -> None:
    clock = Clock()
    watch = Watch({}, clock)
    for number in range(times):
        assert watch.reason(0) == "", number
        watch.told(code, 2, came=True)
        clock.now += 1
        watch.told(code, 2, came=False)
        clock.now += 100
    assert f"has come {times} times within a day" in watch.reason(0)


def test_faults_of_another_day_are_not_counted() -> None:
    clock = Clock()
    watch = Watch({}, clock)
    for _ in range(4):
        watch.told(1, 3, came=True)
        clock.now += 1
        watch.told(1, 3, came=False)
        assert watch.reason(0) == ""
        clock.now += 86400


def test_a_device_that_is_gone_or_silent_or_ill_without_a_code_is_unhealthy() -> None:
    watch = Watch({})
    assert watch.reason(None) == "the device does not answer: reset it"
    assert watch.reason(0xFFFFFFFF) == "the device is not there: see its slot"
    assert watch.reason(1) == ""
    assert watch.reason(2) == "it says major and no fault's code"
    # What was never told as an event is as bad as the device is.
    watch.stands({7: None})
    assert watch.reason(1) == ""
    assert "fault 00000007 (critical)" in watch.reason(3)
