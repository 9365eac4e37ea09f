"""NVIDIA's devices: what NVML says becomes values, whatever it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import nvidia_files
from commands import UUIDS, odd_driver
from nvidia_node import Node

MIB = 1 << 20
PARTS = ("MIG-00000001-0000-0000-0000-000000000000", "MIG-00000002-0000-0000-0000-000000000000")


@pytest.fixture
def node(odd_node: Node) -> Node:
    """A node with the odd NVML alone."""
    return odd_node


# -- what there is --


def test_a_device_is_what_nvml_says_of_it(node: Node) -> None:
    first, second = node.get("enumerate")
    assert first == {
        "vendor": "nvidia",
        "index": 0,
        "uuid": UUIDS[0],
        "uuid_bytes": "1a" * 16,
        "model": "Odd",
        "memory_bytes": (16384 - 284) * MIB,
        "page_bytes": 2 * MIB,
        "context_bytes": 0,
        "pci_address": "0000:a0:00.0",
        "numa_node": 64,
        "links": {UUIDS[1]: 2},
        "enforcement": ["shim"],
        "splits": False,
        "shapes": [],
    }
    assert (second["uuid"], second["pci_address"], second["numa_node"]) == (
        UUIDS[1],
        "0000:a1:00.0",
        65,
    )
    assert second["links"] == {UUIDS[0]: 2}


def test_links_that_meet_in_a_switch_lead_to_each_other(node: Node) -> None:
    node.tell("switch=1")
    assert [row["links"] for row in node.get("enumerate")] == [{UUIDS[1]: 2}, {UUIDS[0]: 2}]


def test_partitions_are_devices_and_their_card_is_none(node: Node) -> None:
    node.tell("mig=0")
    devices = node.get("enumerate")
    assert [row["uuid"] for row in devices] == [*PARTS, UUIDS[1]]
    assert [row["index"] for row in devices] == [0, 1, 2]
    assert devices[0]["model"] == "Odd MIG 1g.5gb"
    assert devices[0]["links"] == {}
    assert devices[0]["pci_address"] == "0000:a0:00.0"
    sample = node.get("sample")[0]
    assert sample["memory_used_bytes"] == 100 * MIB
    assert (sample["busy"], sample["power_watts"], sample["temperature_celsius"]) == (None,) * 3


def test_a_card_that_is_to_be_divided_and_is_not_is_told(node: Node) -> None:
    node.tell("mig=0", "parts=0")
    assert [row["uuid"] for row in node.get("enumerate")] == [UUIDS[1]]
    assert node.get("left_out") == ["device 0: MIG is on, and it has no partition: make some"]


def test_a_partition_that_cuda_could_not_name_is_left_out_with_the_reason(node: Node) -> None:
    node.tell("mig=0", "old_mig=1")
    assert [row["uuid"] for row in node.get("enumerate")] == [UUIDS[1]]
    assert len(node.get("left_out")) == 2
    assert "none that CUDA knows: update the driver" in node.get("left_out")[0]


def test_a_device_that_is_lost_at_the_start_does_not_hide_the_others(node: Node) -> None:
    node.tell("DeviceGetHandleByIndex@0=15")
    assert [row["uuid"] for row in node.get("enumerate")] == [UUIDS[1]]
    assert node.get("left_out") == ["device 0: GPU is lost (15)"]


def test_before_510_memory_is_what_the_first_form_says(node: Node) -> None:
    node.tell("DeviceGetMemoryInfo_v2=13")
    assert node.get("enumerate")[0]["memory_bytes"] == 16384 * MIB
    assert node.get("sample")[0]["memory_used_bytes"] == 384 * MIB


def test_a_device_without_memory_of_its_own_is_left_out_with_the_reason(node: Node) -> None:
    node.tell("DeviceGetMemoryInfo_v2@1=3", "DeviceGetMemoryInfo@1=3")
    assert [row["uuid"] for row in node.get("enumerate")] == [UUIDS[0]]
    assert "does not tell its memory" in node.get("left_out")[0]


def test_what_a_context_costs_comes_from_the_cuda_driver(
    start_nvidia: Callable[..., Node], odd_nvml: Path, tmp_path: Path
) -> None:
    driver = odd_driver(tmp_path / "driver")
    (tmp_path / "cache").mkdir()
    known = {f"{uuid} 13000 {(n + 1) << 34}": (n + 3) * MIB for n, uuid in enumerate(UUIDS)}
    (tmp_path / "cache/contexts.json").write_text(json.dumps({"format": 1, "context_bytes": known}))
    node = start_nvidia(odd_nvml, driver.parent)
    assert [row["context_bytes"] for row in node.get("enumerate")] == [3 * MIB, 4 * MIB]


# -- readings --


def test_a_sample_has_what_the_device_reads(node: Node) -> None:
    assert node.get("sample")[0] == {
        "uuid": UUIDS[0],
        "memory_used_bytes": 100 * MIB,
        "busy": 0.75,
        "memory_busy": 0.25,
        "power_watts": 123.456,
        "temperature_celsius": 40.0,
    }


@pytest.mark.parametrize(
    ("function", "reading"),
    [
        ("DeviceGetUtilizationRates", "busy"),
        ("DeviceGetPowerUsage", "power_watts"),
        ("DeviceGetTemperature", "temperature_celsius"),
    ],
)
def test_a_reading_that_a_device_lacks_is_none_and_the_others_stay(
    node: Node, function: str, reading: str
) -> None:
    node.tell(f"{function}@0=3")
    first, second = node.get("sample")
    lacking = {name for name, value in first.items() if value is None}
    assert lacking == ({"busy", "memory_busy"} if reading == "busy" else {reading})
    assert None not in second.values()


def test_a_share_that_is_none_is_not_believed(node: Node) -> None:
    node.tell("busy=4294967295")
    assert node.get("sample")[0]["busy"] is None


def test_a_lost_device_reads_nothing_and_the_others_do(node: Node) -> None:
    node.get("enumerate")
    lost = ("MemoryInfo_v2", "MemoryInfo", "UtilizationRates", "PowerUsage", "Temperature")
    node.tell(*(f"DeviceGet{name}@0=15" for name in lost))
    first, second = node.get("sample")
    assert set(first.values()) == {UUIDS[0], None}
    assert second["memory_used_bytes"] == 100 * MIB


def test_processes_of_both_kinds_are_told_once_each(node: Node) -> None:
    rows = node.get("processes")
    assert {row["uuid"] for row in rows} == {UUIDS[0]}
    assert {row["pid"]: row["memory_bytes"] for row in rows} == {
        100: 50 * MIB,
        101: None,
        102: 9 * MIB,
        103: 1 * MIB,
    }


def test_an_older_library_lists_processes_in_its_own_form(node: Node) -> None:
    node.tell("Compute_v3=13")
    assert {row["pid"] for row in node.get("processes")} == {100, 101, 102, 103}


def test_a_device_that_lists_no_processes_has_none(node: Node) -> None:
    node.tell("Compute=4", "Graphics=3")
    assert node.get("processes") == []


def test_a_process_is_as_busy_as_its_newest_sample_says(node: Node) -> None:
    def busy() -> dict[int, float | None]:
        return {row["pid"]: row["busy"] for row in node.get("processes")}

    # No sample yet is no use yet.
    assert busy() == {100: 0.0, 101: 0.0, 102: 0.0, 103: 0.0}
    node.tell("samples=5")
    # 900 % is no share; nobody has pid 0, and 9999 is gone already.
    assert busy() == {100: 0.4, 101: 0.0, 102: None, 103: 0.0}
    # No new sample: the last one counts once more, and then no longer.
    assert busy()[100] == 0.4
    assert busy()[100] == 0.0
    node.tell("samples=6")
    assert busy() == {100: 0.0, 101: 0.0, 102: 0.0, 103: 0.05}


def test_where_utilisation_is_not_told_it_is_none(node: Node) -> None:
    node.tell("samples=5", "DeviceGetProcessUtilization=3")
    assert {row["busy"] for row in node.get("processes")} == {None}


# -- health --


def test_all_is_well_without_events(node: Node) -> None:
    assert node.get("health") == [{"uuid": uuid, "healthy": True, "reason": ""} for uuid in UUIDS]


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
def test_an_applications_own_fault_is_not_the_devices(node: Node, xid: int) -> None:
    node.tell("events=1", f"xid={xid}")
    assert node.ill() == {}


def test_another_xid_takes_down_its_device_for_good(node: Node) -> None:
    node.tell("events=2", "xid=48", "event_card=1")
    for _ in range(3):
        assert list(node.ill()) == [UUIDS[1]]
    assert "XID 48" in node.ill()[UUIDS[1]]


def test_an_uncorrectable_memory_error_takes_down_its_device(node: Node) -> None:
    node.tell("events=1", "event_type=2")
    assert "uncorrectable memory error" in node.ill()[UUIDS[0]]


def test_a_fault_is_over_when_the_driver_asks_for_nothing_more(node: Node) -> None:
    node.tell("events=1", "action=1")
    assert node.ill() == {UUIDS[0]: "the driver asks for a reset of the device"} | {
        UUIDS[1]: "the driver asks for a reset of the device"
    }
    node.tell("events=1", "action=0")
    assert node.ill() == {}
    # A fault of this moment is shown even where nothing is to be done about it.
    node.tell("events=2", "action=0")
    assert list(node.ill()) == [UUIDS[0]]
    assert node.ill() == {}


def test_a_lost_device_comes_back_when_it_was_reset(node: Node) -> None:
    node.tell("events=1", "xid=79", "DeviceGetMemoryInfo@0=15")
    assert "GPU is lost (15)" in node.ill()[UUIDS[0]]
    assert list(node.ill()) == [UUIDS[0]]
    # An error of another kind on the way is no proof, and does not undo what was seen.
    node.tell("events=1", "DeviceGetMemoryInfo@0=999")
    assert "(999)" in node.ill()[UUIDS[0]]
    node.tell("events=1")
    assert node.ill() == {}


def test_an_error_that_passes_does_not_clear_a_fault(node: Node) -> None:
    node.tell("events=1", "DeviceGetMemoryInfo@0=999")
    assert "does not answer" in node.ill()[UUIDS[0]]
    node.tell("events=1")
    assert "XID 79" in node.ill()[UUIDS[0]]


def test_a_partitions_fault_is_not_its_neighbours(node: Node) -> None:
    node.tell("mig=0")
    node.get("enumerate")
    node.tell("mig=0", "events=1", "event_gi=8")
    assert list(node.ill()) == [PARTS[1]]
    node.tell("mig=0", "events=2")
    assert list(node.ill()) == list(PARTS)


def test_an_event_of_no_device_takes_nobody_down(node: Node) -> None:
    node.tell("events=1", "event_lost=1")
    assert node.ill() == {}


@pytest.mark.parametrize("code", [15, 999])
def test_when_events_fail_the_devices_still_answer_for_themselves(node: Node, code: int) -> None:
    node.tell(f"EventSetWait={code}", "DeviceGetMemoryInfo@1=15")
    assert list(node.ill()) == [UUIDS[1]]
    # And events are told again when they can be.
    node.tell("events=1")
    assert list(node.ill()) == [UUIDS[0]]


def test_a_device_without_events_is_well(node: Node) -> None:
    node.tell("DeviceGetSupportedEventTypes=3", "DeviceRegisterEvents=3", "EventSetCreate=3")
    assert node.ill() == {}
    node.tell("types=0")
    assert node.ill() == {}


# -- the library is lost, and comes back --


def test_a_session_that_ended_is_begun_anew_at_the_next_call(node: Node) -> None:
    node.get("enumerate")
    node.tell("DeviceGetCount=1", "DeviceGetMemoryInfo_v2=1")
    assert "answers: Uninitialized (1)" in node.ask("sample")["raised"]
    node.tell()
    assert len(node.get("sample")) == 2


def test_while_the_driver_is_unloaded_every_device_is_unhealthy(node: Node) -> None:
    node.tell("events=1")
    assert list(node.ill()) == [UUIDS[0]]
    node.tell("events=1", "DeviceGetMemoryInfo=9", "Init=9")
    reasons = node.ill()
    assert list(reasons) == list(UUIDS)
    assert "Driver Not Loaded (9): load it" in reasons[UUIDS[0]]
    assert "Driver Not Loaded" in node.ask("processes")["raised"]
    # To load it again, nobody may have used it, and loading resets: no fault is left.
    node.tell("events=1")
    assert node.ill() == {}


def test_a_driver_that_was_updated_says_what_to_restart(node: Node) -> None:
    node.tell("Init=18")
    assert "restart the agent" in node.ask("enumerate")["raised"]


def test_without_a_library_there_is_no_vendor(
    start_nvidia: Callable[..., Node], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "libnvidia-ml.so.1").write_text("no library" * 100)
    node = start_nvidia(broken)
    assert "libnvidia-ml.so.1 cannot be loaded" in node.first["raised"]
    assert "invalid ELF header" in node.first["raised"]


@pytest.mark.parametrize("version", sorted(nvidia_files.SUITES))
def test_nvidias_own_library_without_a_device_is_an_error_in_one_line(
    start_nvidia: Callable[..., Node], real_nvml: Callable[[str], Path], version: str
) -> None:
    node = start_nvidia(real_nvml(version))
    assert node.first == {"returned": "nvidia"}
    for call in ("enumerate", "sample", "processes"):
        text = node.ask(call)["raised"]
        assert "Driver Not Loaded (9)" in text, text
        assert "\n" not in text
    assert node.get("health") == []


# -- limits of the driver's own --


def cgroup(node: Node, name: str = "pods/leaf") -> Path:
    """A cgroup as a kernel with version 2 has it."""
    (node.cgroups / "cgroup.controllers").write_text("cpu memory dmem\n")
    leaf = node.cgroups / name
    leaf.mkdir(parents=True)
    for folder in (leaf.parent, leaf):
        (folder / "cgroup.controllers").write_text("dmem\n")
    return leaf


def calls(node: Node) -> list[list[str]]:
    """The limits that the library was told, but those of trials."""
    lines = node.limits.read_text().splitlines() if node.limits.exists() else []
    return [line.split() for line in lines if "aliquot-trial" not in line]


def test_a_driver_since_615_holds_limits_where_there_is_cgroup_2(node: Node) -> None:
    leaf = cgroup(node)
    node.tell("driver=615")
    assert node.get("enumerate")[0]["enforcement"] == ["driver", "shim"]
    trials = node.limits.read_text().splitlines()
    assert [line.split()[2:] for line in trials[:2]] == [
        [str(2 * MIB), str(2 * MIB), "0"],
        ["0", str((1 << 64) - 1), "0"],
    ]
    assert sorted(path.name for path in node.cgroups.iterdir()) == ["cgroup.controllers", "pods"]
    # A path, or what /proc/PID/cgroup says.
    node.get("limit_memory", UUIDS[1], str(leaf), 5 * MIB)
    node.get("limit_memory", UUIDS[1], "/pods/leaf", None)
    assert calls(node) == [
        ["1", str(leaf), str(5 * MIB), str(5 * MIB), "0"],
        ["1", str(leaf), "0", str((1 << 64) - 1), "0"],
    ]


@pytest.mark.parametrize("words", [["driver=610"], ["driver=615", "DeviceSetMemoryLimits=3"]])
def test_a_driver_that_cannot_hold_limits_leaves_them_to_the_shim(
    node: Node, words: list[str]
) -> None:
    cgroup(node)
    node.tell(*words)
    assert node.get("enumerate")[0]["enforcement"] == ["shim"]
    answer = node.ask("limit_memory", UUIDS[0], "/pods/leaf", MIB)
    assert "cannot hold memory limits" in answer["raised"]
    assert calls(node) == []


def test_without_cgroup_2_limits_are_the_shims(node: Node) -> None:
    node.tell("driver=615")
    assert node.get("enumerate")[0]["enforcement"] == ["shim"]
    assert not node.limits.exists()


def test_partitions_take_no_limit(node: Node) -> None:
    cgroup(node)
    node.tell("driver=615", "mig=0")
    rows = node.get("enumerate")
    assert [row["enforcement"] for row in rows] == [["shim"], ["shim"], ["driver", "shim"]]


def test_a_limit_that_is_refused_says_where_and_why(node: Node) -> None:
    leaf = cgroup(node)
    node.tell("driver=615")
    node.get("enumerate")
    node.tell("driver=615", "DeviceSetMemoryLimits=2")
    text = node.ask("limit_memory", UUIDS[0], str(leaf), MIB)["raised"]
    assert text.startswith(UUIDS[0])
    assert str(leaf) in text
    assert "Invalid Argument (2)" in text


def test_the_controller_is_handed_down_to_a_group_that_lacks_it(node: Node) -> None:
    leaf = cgroup(node)
    node.tell("driver=615")
    node.get("enumerate")
    node.tell("driver=615", "DeviceSetMemoryLimits=6")
    assert "Not Found" in node.ask("limit_memory", UUIDS[0], str(leaf), MIB)["raised"]
    assert len(calls(node)) == 2
    for folder in (node.cgroups, leaf.parent):
        assert (folder / "cgroup.subtree_control").read_text() == "+dmem"
    assert not (leaf / "cgroup.subtree_control").exists()


def test_taking_a_limit_back_from_a_group_that_is_gone_is_well(node: Node) -> None:
    cgroup(node)
    node.tell("driver=615")
    node.get("enumerate")
    node.get("limit_memory", UUIDS[0], "/pods/gone", None)
    assert calls(node) == []


@pytest.mark.parametrize("path", ["/", "relative", "/../etc", "/pods/../.."])
def test_a_limit_is_never_set_outside_the_cgroups(node: Node, path: str) -> None:
    cgroup(node)
    node.tell("driver=615")
    node.get("enumerate")
    assert "cgroup" in node.ask("limit_memory", UUIDS[0], path, MIB)["raised"]
    assert calls(node) == []


def test_an_unknown_device_takes_no_limit(node: Node) -> None:
    assert "there is no such device" in node.ask("limit_memory", "GPU-x", "/a", 1)["raised"]
