"""Cambricon's devices as the agent has them, on the simulator: readings, health, shares."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.devices import cambricon_mim, cndev
from aliquot.sim import cdi
from aliquot.sim.node import parse_node

from cambricon_node import MIB, NODE, Node, built
from commands import wait_for

# Of the library's errors, by which a call can fail that has to succeed.
ADVICE = {
    2: "update the driver",
    5: "invalid argument (5)",
    6: "invalid device (6)",
    7: "unknown error (7)",
    8: "free memory on this node",
    10: "update the driver",
    13: "must run as root",
    17: "look at the kernel's log",
    18: "reset the device",
    77: "No such error (77)",
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are compiled to."""
    return tmp_path_factory.mktemp("cambricon")


@pytest.fixture
def node(tmp_path: Path, sim_library: Path) -> Iterator[Node]:
    """A simulated node with two devices, and the module that asks it."""
    made = Node(tmp_path, sim_library.parent)
    assert made.start() == {"returned": "cambricon"}
    yield made
    made.close()


@pytest.fixture
def aged(tmp_path: Path, programs: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """The same with a library of another age."""
    made = Node(tmp_path, built(request.param, programs).parent)
    assert made.start() == {"returned": "cambricon"}
    yield made
    made.close()


def uuids(node: Node) -> list[str]:
    return [row["uuid"] for row in node.get("enumerate")]


# -- What there is, and what it reads -------------------------------------------------------------


def test_devices_are_what_the_node_has(node: Node) -> None:
    first, second = node.get("enumerate")
    assert first["model"] == "MLU370-X8"
    assert first["uuid"] == "MLU-" + str(_text(first["uuid_bytes"]))
    assert (first["index"], second["index"]) == (0, 1)
    assert first["memory_bytes"] == 1024 * MIB
    assert first["numa_node"] == 0
    assert first["pci_address"] < second["pci_address"]
    assert first["links"] == {second["uuid"]: 2}
    assert first["splits"]
    assert first["enforcement"] == ["partition", "shim"]
    assert node.get("left_out") == []


def _text(digits: str) -> str:
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(parts)


def test_a_process_is_told_with_its_memory_and_the_device_with_its_own(
    node: Node, programs: Path
) -> None:
    holder = node.holder(programs, 1)
    assert holder.do("take 96")
    (row,) = node.get("processes")
    assert (row["pid"], row["uuid"]) == (holder.pid, uuids(node)[1])
    assert row["memory_bytes"] == 96 * MIB
    assert row["busy"] == 0.0
    idle, held = node.get("sample")
    assert (idle["memory_used_bytes"], held["memory_used_bytes"]) == (0, 96 * MIB)
    assert (idle["busy"], idle["memory_busy"]) == (0.0, None)
    assert (idle["power_watts"], idle["temperature_celsius"]) == (25.0, 30.0)
    holder.end()
    assert node.get("processes") == []


def test_other_vendors_devices_of_the_node_are_not_theirs(
    tmp_path: Path, sim_library: Path
) -> None:
    text = '[[device]]\nmodel = "GPU"\n[[device]]\nvendor = "cambricon"\nmodel = "MLU590"\n'
    node = Node(tmp_path, sim_library.parent, text)
    node.start()
    assert [row["model"] for row in node.get("enumerate")] == ["MLU590"]
    node.close()


def test_a_node_without_devices_of_theirs_says_so(tmp_path: Path, sim_library: Path) -> None:
    node = Node(tmp_path, sim_library.parent, '[[device]]\nmodel = "GPU"\n')
    node.start()
    assert "no devices (12): look for them with lspci" in node.refusal("enumerate")
    node.close()


# -- Health ---------------------------------------------------------------------------------------


def test_a_device_is_ill_while_its_fault_stands_and_well_again_by_itself(node: Node) -> None:
    _, second = uuids(node)
    assert node.ill() == {}
    node.fault(1, 0x1234)
    ill = node.ill()
    assert list(ill) == [second]
    assert "injected fault 0x1234 (XID 0x1234)" in ill[second]
    assert list(node.ill()) == [second]
    node.fault(1, 0x1234, cleared=True)
    assert node.ill() == {}


def test_a_device_whose_compute_mode_is_prohibited_is_ill(node: Node, programs: Path) -> None:
    assert node.ill() == {}
    node.order("cndevGetComputeMode=10")
    assert node.ill() == {}, "a mode that is not told is none that prohibits"
    node.order("")
    holder = node.holder(programs)
    assert holder.do("mode 2")
    (reason,) = node.ill().values()
    assert "compute mode is prohibited: cnmon" in reason
    assert holder.do("mode 0")
    assert node.ill() == {}


@pytest.mark.parametrize("code", [5, 6, 7, 10, 13, 17, 18])
def test_a_device_that_does_not_tell_its_health_is_ill(node: Node, code: int) -> None:
    known = uuids(node)
    node.order(f"cndevGetCardHealthState={code}")
    ill = node.ill()
    assert sorted(ill) == sorted(known)
    assert all(f"({code})" in reason for reason in ill.values())
    node.order("")
    assert node.ill() == {}


@pytest.mark.parametrize("code", [1, 4])
def test_all_are_ill_while_the_library_does_not_answer(node: Node, code: int) -> None:
    known = uuids(node)
    node.order(f"cndevGetCardHealthState={code} cndevInit=1")
    assert sorted(node.ill()) == sorted(known)
    assert all("no driver (1): load it" in reason for reason in node.ill().values())
    node.order("")
    assert node.ill() == {}, "the session was not begun anew"


@pytest.mark.parametrize(
    "function", ["cndevEventHandleCreate", "cndevRegisterEvents", "cndevEventWait"]
)
def test_without_events_devices_still_answer_for_themselves(node: Node, function: str) -> None:
    uuids(node)
    node.order(f"{function}=10")
    assert node.ill() == {}
    node.fault(0, 0x99)
    (reason,) = node.ill().values()
    assert "injected fault 0x99" in reason
    assert "XID" not in reason


# -- Shares ---------------------------------------------------------------------------------------


def test_a_share_is_made_changed_and_released(node: Node, programs: Path) -> None:
    uuid = uuids(node)[0]
    made = node.get("partition", uuid, "key/1", 100 * MIB + 1, 30)
    assert made == {
        "uuid": uuid,
        "id": "1",
        "name": "key/1",
        "memory_bytes": 101 * MIB,
        "cores": 30,
        "used_bytes": 0,
        "busy": 0.0,
    }
    assert node.get("partitions") == [made]
    holder = node.holder(programs)
    assert holder.do(f"enter {made['id']}")
    assert holder.do("take 100")
    assert not holder.do("take 2")
    wider = node.get("resize", made, 200 * MIB, 60)
    assert (wider["id"], wider["memory_bytes"], wider["cores"]) == ("1", 200 * MIB, 60)
    assert holder.do("take 100"), "the new limit does not hold at once"
    assert not holder.do("take 2")
    assert "in use (15): end the programs that use it" in node.refusal("release", made)
    holder.end()
    node.get("release", made)
    node.get("release", made)
    assert node.get("partitions") == []


def test_shares_of_a_crashed_agent_are_found_again(node: Node, sim_library: Path) -> None:
    uuid = uuids(node)[0]
    made = [node.get("partition", uuid, f"slice{n}", 64 * MIB, 10) for n in range(3)]
    assert node.worker is not None
    node.worker.kill()
    node.worker.communicate()
    node.start()
    assert node.get("partitions") == made
    for one in made:
        node.get("release", one)
    assert node.get("partitions") == []


def test_others_instances_are_neither_told_nor_touched(node: Node, programs: Path) -> None:
    uuid = uuids(node)[0]
    theirs = node.holder(programs)
    assert theirs.do("share 512 50 plugin")
    (other,) = node.get("partitions")
    assert (other["name"], other["memory_bytes"], other["cores"]) == ("", 512 * MIB, 50)
    refusal = node.refusal("partition", uuid, "slice", 600 * MIB, 10)
    assert "insufficient space (9): release instances or ask for less" in refusal
    stolen = {"uuid": uuid, "id": "1", "name": "slice", "memory_bytes": 1, "cores": 1}
    node.get("release", stolen)
    node.get("release", other)
    assert theirs.do("shared 1"), "another's instance was released"
    assert "is gone" in node.refusal("resize", stolen, MIB, 1)
    assert "is gone" in node.refusal("needs", [uuid], {uuid: stolen})


def test_a_share_that_cannot_be_leaves_nothing(node: Node) -> None:
    uuid = uuids(node)[0]
    for memory, name, reason in (
        (2048 * MIB, "slice", "invalid argument (5)"),
        (64 * MIB, "x" * 200, "too long"),
        (64 * MIB, "", "cannot be an sMLU instance's name"),
    ):
        assert reason in node.refusal("partition", uuid, name, memory, 10)
    assert "there is no such device" in node.refusal("partition", "MLU-none", "s", MIB, 1)
    node.get("partition", uuid, "slice", 64 * MIB, 10)
    assert "already: release it" in node.refusal("partition", uuid, "slice", 64 * MIB, 10)
    assert len(node.get("partitions")) == 1


@pytest.mark.parametrize("code", sorted(ADVICE))
@pytest.mark.parametrize(
    "function", ["cndevCreateSMluProfileInfo", "cndevCreateSMluInstanceByProfileId"]
)
def test_each_error_of_making_a_share_says_what_to_do(node: Node, function: str, code: int) -> None:
    uuid = uuids(node)[0]
    node.order(f"{function}={code}")
    refusal = node.refusal("partition", uuid, "slice", 64 * MIB, 10)
    assert refusal.startswith(f"{uuid}: no sMLU instance of 64 MiB and 10% can be made: {function}")
    assert f"({code})" in refusal
    assert ADVICE[code] in refusal
    node.order("")
    assert node.get("partitions") == []
    # Nor is a profile left: the largest share can be made still.
    node.get("partition", uuid, "slice", 1024 * MIB, 100)


@pytest.mark.parametrize("code", [9, 10, 13, 15])
def test_each_error_of_changing_and_releasing_a_share_is_told(node: Node, code: int) -> None:
    uuid = uuids(node)[0]
    made = node.get("partition", uuid, "slice", 64 * MIB, 10)
    node.order(
        f"cndevUpdateSMluInstanceQuotaByHandle={code} cndevDestroySMluInstanceByHandle={code}"
    )
    assert "cannot be 128 MiB and 20%: cndevUpdate" in node.refusal("resize", made, 128 * MIB, 20)
    assert f"({code})" in node.refusal("release", made)
    assert node.get("partitions") == [made]
    # Who is told that it is gone looks whether it is.
    node.order("cndevDestroySMluInstanceByHandle=14")
    assert "(14)" in node.refusal("release", made)
    node.order("")
    node.get("release", made)
    assert node.get("partitions") == []


def test_a_share_that_would_pass_the_device_is_refused_and_the_old_one_stays(node: Node) -> None:
    uuid = uuids(node)[0]
    first = node.get("partition", uuid, "first", 512 * MIB, 50)
    node.get("partition", uuid, "second", 512 * MIB, 50)
    assert "(9)" in node.refusal("resize", first, 513 * MIB, 50)
    assert "(9)" in node.refusal("resize", first, 512 * MIB, 51)
    assert node.get("partitions")[0] == first


def test_a_device_with_shares_switched_off_has_none(node: Node, programs: Path) -> None:
    assert node.holder(programs).do("smlu 0")
    first, second = node.get("enumerate")
    assert (first["splits"], first["enforcement"]) == (False, ["shim"])
    assert second["splits"]
    refusal = node.refusal("partition", first["uuid"], "slice", MIB, 1)
    assert "sMLU is switched off" in refusal
    assert "cnmon set -c 0 -smlu on" in refusal
    assert node.get("partitions") == []


# -- MIM: parts that the hardware keeps apart -----------------------------------------------------


def test_instances_of_the_hardware_are_devices_of_their_own(node: Node, programs: Path) -> None:
    admin = node.holder(programs)
    assert admin.do("mim 1")
    assert admin.do("share 512 50 first")
    assert admin.do("share 256 25 second")
    first, second, card = node.get("enumerate")
    assert [first["memory_bytes"], second["memory_bytes"]] == [512 * MIB, 256 * MIB]
    assert [first["index"], second["index"], card["index"]] == [0, 1, 2]
    assert first["uuid"].startswith("MLU-01000000-")
    assert second["uuid"].startswith("MLU-02000000-")
    assert first["model"] == "MLU370-X8 MIM 50m.0gb"
    assert first["pci_address"] == second["pci_address"] != card["pci_address"]
    # They are whole or by the shim, and never made here.
    assert (first["splits"], first["enforcement"], first["links"]) == (False, ["shim"], {})
    assert card["splits"]
    assert "no such device" not in node.refusal("partition", first["uuid"], "slice", MIB, 1)
    assert all(part["uuid"] == card["uuid"] for part in node.get("partitions"))
    assert node.ill() == {}
    node.fault(0, 0x31)
    assert set(node.ill()) == {first["uuid"], second["uuid"]}


def test_an_instance_reads_what_is_its_own(node: Node, programs: Path) -> None:
    admin, others = node.holder(programs), node.holder(programs)
    assert admin.do("mim 1")
    assert admin.do("share 512 50 first")
    assert admin.do("share 256 25 second")
    assert admin.do("enter 1")
    assert others.do("enter 2")
    assert [admin.do("take 64"), others.do("take 32")] == [True, True]
    first, second, card = node.get("sample")
    assert [first["memory_used_bytes"], second["memory_used_bytes"]] == [64 * MIB, 32 * MIB]
    assert [first["busy"], second["busy"], card["busy"]] == [0.0] * 3
    # The chip that gets hot is the card's, and so is what it takes.
    assert [first["temperature_celsius"], first["power_watts"]] == [30.0, None]
    # Whoever has a quarter of the cores and all of the time keeps them, and no others, busy.
    assert others.do("run")
    wait_for(lambda: node.get("sample")[1]["busy"] == 1.0, "an instance that is busy")
    assert node.get("sample")[0]["busy"] == 0.0


def test_what_is_not_told_of_an_instance_is_none(node: Node, programs: Path) -> None:
    admin = node.holder(programs)
    assert admin.do("mim 1")
    assert admin.do("share 512 50 first")
    assert len(node.get("enumerate")) == 2
    node.order("cndevGetMemoryUsageV2=6 cndevGetDeviceUtilizationInfo=10")
    first, _ = node.get("sample")
    assert [first["memory_used_bytes"], first["busy"]] == [None, None]


def instance(first: int, count: int) -> cambricon_mim.Instance:
    cores = range(first, first + count)
    return cambricon_mim.Instance(1, "", "", 512 * MIB, (), cores)


def test_an_instances_cores_are_looked_for_where_the_card_tells_of_them() -> None:
    load = cndev.ffi.new("cndevUtilizationInfo_t *")
    for core, percent in enumerate((10, 20, 60, 100, -1)):
        load.coreUtilization[core] = percent
    assert instance(0, 2).busy(load) == pytest.approx(0.15)
    assert instance(2, 2).busy(load) == pytest.approx(0.8)
    last = len(load.coreUtilization)
    told_of_none = [instance(0, 0), instance(-1, 2), instance(last - 1, 2), instance(3, 2)]
    assert [one.busy(load) for one in told_of_none] == [None] * 4


def test_a_process_is_on_the_instances_of_its_card(node: Node, programs: Path) -> None:
    admin = node.holder(programs)
    assert admin.do("mim 1")
    assert admin.do("share 512 50 first")
    assert admin.do("enter 1")
    assert admin.do("take 64")
    first, _ = node.get("enumerate")
    (row,) = node.get("processes")
    assert (row["uuid"], row["pid"], row["memory_bytes"]) == (first["uuid"], admin.pid, 64 * MIB)


def test_a_card_with_mim_and_no_instance_is_left_out(node: Node, programs: Path) -> None:
    assert node.holder(programs).do("mim 1")
    (card,) = node.get("enumerate")
    assert card["index"] == 0
    assert node.get("left_out") == ["device 0: MIM is on, and it has no instance: make some"]


def test_a_container_gets_the_card_and_the_nodes_of_its_instance(
    node: Node, programs: Path
) -> None:
    admin = node.holder(programs)
    assert admin.do("mim 1")
    assert admin.do("share 512 50 first")
    uuid = node.get("enumerate")[0]["uuid"]
    place(node.dev / "cambricon_dev0")
    assert "cap_dev0_mi1 is no device node" in node.refusal("needs", [uuid])
    for name in ("cambricon-caps/cap_dev0_mi1", "cambricon_ipcm0mi1"):
        place(node.dev / name)
    needs = node.get("needs", [uuid])
    own = ["/dev/cambricon-caps/cap_dev0_mi1", "/dev/cambricon_ipcm0mi1"]
    assert paths(needs) == ["/dev/cambricon_dev0", *own]
    assert needs["substitutes"]


def test_what_a_share_uses_is_told_of_it(node: Node, programs: Path) -> None:
    uuid = uuids(node)[0]
    made = node.get("partition", uuid, "slice", 512 * MIB, 50)
    assert (made["used_bytes"], made["busy"]) == (0, 0.0)
    program = node.holder(programs)
    assert program.do(f"enter {made['id']}")
    assert program.do("take 48")
    (found,) = node.get("partitions")
    assert (found["used_bytes"], found["memory_bytes"]) == (48 * MIB, 512 * MIB)


def test_what_a_context_takes_is_an_estimate(node: Node) -> None:
    assert [one["context_bytes"] for one in node.get("enumerate")] == [128 * MIB] * 2


def test_a_cgroups_limit_is_refused(node: Node) -> None:
    assert "see sMLU" in node.refusal("limit_memory", uuids(node)[0], "/", MIB)


# -- Libraries of another age ---------------------------------------------------------------------


@pytest.mark.parametrize("aged", ["older"], indirect=True)
def test_an_older_library_gives_what_it_has(aged: Node, programs: Path) -> None:
    first, _ = aged.get("enumerate")
    assert first["memory_bytes"] == 1024 * MIB
    assert first["links"] == {}, "it cannot tell whether links are up"
    assert not first["splits"]
    assert aged.holder(programs).do("take 32")
    sample = aged.get("sample")[0]
    assert sample["memory_used_bytes"] == 32 * MIB
    assert sample["power_watts"] is None
    assert len(aged.get("processes")) == 1
    assert aged.ill() == {}
    aged.fault(0, 7)
    assert "its driver says so (XID 0x7)" in aged.ill()[first["uuid"]]
    assert "older than 5.10.27" in aged.refusal("partition", first["uuid"], "s", MIB, 1)


@pytest.mark.parametrize("aged", ["cndevGetCardHealthState"], indirect=True)
def test_a_library_without_the_first_health_is_asked_for_the_second(aged: Node) -> None:
    assert aged.ill() == {}
    aged.fault(1, 0x55)
    (reason,) = aged.ill().values()
    assert "injected fault 0x55 (XID 0x55)" in reason
    aged.order("cndevGetCardHealthStateV2=7")
    assert len(aged.ill()) == 2


@pytest.mark.parametrize("aged", ["cndevUpdateSMluInstanceQuotaByHandle"], indirect=True)
def test_a_library_that_cannot_change_shares_says_so(aged: Node) -> None:
    made = aged.get("partition", uuids(aged)[0], "slice", 64 * MIB, 10)
    refusal = aged.refusal("resize", made, 128 * MIB, 10)
    assert "cannot change an sMLU instance that exists: start the container anew" in refusal
    assert aged.get("partitions") == [made]
    aged.get("release", made)


@pytest.mark.parametrize(
    "aged",
    [
        "cndevGetDeviceHandleByIndex",
        "cndevDeviceGetMinorNumber",
        "cndevGetCardNameStringByDevId",
        "cndevGetMLULinkPortNumber",
        "cndevGetComputeMode",
        "cndevEventHandleCreate",
        "cndevGetErrorString",
        "cndevGetProcessInfo",
        "cndevGetProcessUtilization",
        "cndevGetSMluProfileIdInfo",
    ],
    indirect=True,
)
def test_a_library_that_lacks_a_function_gives_the_rest(aged: Node) -> None:
    first, _ = aged.get("enumerate")
    assert first["memory_bytes"] == 1024 * MIB
    assert aged.get("sample")[0]["busy"] == 0.0
    assert aged.get("processes") == []
    assert aged.ill() == {}
    made = aged.get("partition", first["uuid"], "slice", 64 * MIB, 10)
    assert aged.get("partitions") == [made]
    aged.get("release", made)


@pytest.mark.parametrize("aged", ["newer"], indirect=True)
def test_a_library_that_takes_other_versions_only_is_refused(aged: Node) -> None:
    refusal = aged.refusal("enumerate")
    assert "(3): the library is of another age than versions 5 and 6" in refusal


@pytest.mark.parametrize("code", sorted(ADVICE))
def test_an_error_at_the_start_says_what_to_do(node: Node, code: int) -> None:
    for function in ("cndevInit", "cndevGetDeviceCount"):
        node.order(f"{function}={code}")
        refusal = node.refusal("enumerate")
        assert refusal.startswith(f"Cambricon's management library answers: {function}: ")
        assert ADVICE[code] in refusal
    node.order("")
    assert len(node.get("enumerate")) == 2


READINGS = {
    "cndevGetDeviceUtilizationInfo": "busy",
    "cndevGetDevicePowerInfo": "power_watts",
    "cndevGetTemperatureInfo": "temperature_celsius",
}


@pytest.mark.parametrize("code", [3, 7, 10])
@pytest.mark.parametrize("function", sorted(READINGS))
def test_a_reading_that_fails_is_none_and_the_others_stay(
    node: Node, function: str, code: int
) -> None:
    before = node.get("sample")[0]
    node.order(f"{function}={code}")
    assert node.get("sample")[0] == {**before, READINGS[function]: None}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("cndevGetUUID", "cndevGetUUID: unknown error (7)"),
        ("cndevGetMemoryUsageV2", "it does not tell its memory"),
        ("cndevGetDeviceHandleByIndex", "cndevGetDeviceHandleByIndex: unknown error (7)"),
    ],
)
def test_a_device_that_cannot_be_told_is_left_out_with_its_reason(
    node: Node, function: str, reason: str
) -> None:
    node.order(f"{function}=7")
    assert node.get("enumerate") == []
    assert [line.split(": ", 1)[0] for line in node.get("left_out")] == ["device 0", "device 1"]
    assert all(reason in line for line in node.get("left_out"))


@pytest.mark.parametrize(
    "function",
    ["cndevGetPCIeInfoV2", "cndevGetNUMANodeIdByDevId", "cndevDeviceGetMinorNumber",
     "cndevGetMLULinkStatusV2", "cndevGetMLULinkRemoteInfo", "cndevGetVersionInfo"],
)  # fmt: skip
def test_what_a_device_does_not_tell_of_itself_does_not_matter(node: Node, function: str) -> None:
    node.order(f"{function}=10")
    assert len(node.get("enumerate")) == 2


@pytest.mark.parametrize("code", [1, 4])
@pytest.mark.parametrize(
    ("call", "function"),
    [
        ("sample", "cndevGetDeviceUtilizationInfo"),
        ("processes", "cndevGetProcessInfo"),
        ("processes", "cndevGetProcessUtilization"),
        ("partitions", "cndevGetAllSMluInstanceInfo"),
        ("enumerate", "cndevGetUUID"),
        ("enumerate", "cndevGetMLULinkStatusV2"),
        ("enumerate", "cndevDeviceGetMinorNumber"),
    ],
)
def test_a_session_that_ended_is_told_and_begun_anew(
    node: Node, programs: Path, call: str, function: str, code: int
) -> None:
    uuids(node)
    assert node.holder(programs).do("take 2")
    node.order(f"{function}={code}")
    assert f"({code})" in node.refusal(call)
    node.order("")
    assert node.get(call) is not None


def test_utilisation_of_processes_that_is_not_told_is_none(node: Node, programs: Path) -> None:
    assert node.holder(programs).do("take 2")
    node.order("cndevGetProcessUtilization=10")
    assert node.get("processes")[0]["busy"] is None
    node.order("cndevGetProcessInfo=10")
    assert node.get("processes") == []


# -- What containers need -------------------------------------------------------------------------


def place(path: Path) -> None:
    """Make a device node as a driver has it."""
    if os.geteuid():
        pytest.skip("device nodes are made by root")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def paths(needs: dict[str, Any]) -> list[str]:
    return [row["path"] for row in needs["nodes"]]


def test_a_container_needs_its_devices_nodes_and_the_drivers_library(
    node: Node, sim_library: Path
) -> None:
    for name in ("cambricon_dev0", "cambricon_dev1", "cambricon_ctl", "cambricon_ipcm1"):
        place(node.dev / name)
    needs = node.get("needs", [uuids(node)[1]])
    assert paths(needs) == ["/dev/cambricon_dev1", "/dev/cambricon_ctl", "/dev/cambricon_ipcm1"]
    assert needs["nodes"][0]["source"] == str(node.dev / "cambricon_dev1")
    (library,) = needs["libraries"]
    assert library["path"] == str(sim_library.with_name("libcndev.so"))
    assert library["names"] == ["libcndev.so"]
    assert needs["environment"] == {"CAMBRICON_VISIBLE_DEVICES": "void"}
    assert "*/cambricon-container-runtime-hook" in needs["foreign_hooks"]
    (shim,) = needs["substitutes"]
    assert (shim["soname"], shim["driver"]) == ("libcndrv.so", "libcndrv-driver.so")
    assert Path(shim["shim"]).is_file()


def test_a_share_is_opened_by_a_node_of_its_own(node: Node) -> None:
    place(node.dev / "cambricon_dev0")
    uuid = uuids(node)[0]
    made = node.get("partition", uuid, "slice", 64 * MIB, 10)
    assert "cap_dev0_mi1 is no device node" in node.refusal("needs", [uuid], {uuid: made})
    place(node.dev / "cambricon-caps/cap_dev0_mi1")
    needs = node.get("needs", [uuid], {uuid: made})
    assert paths(needs) == ["/dev/cambricon_dev0", "/dev/cambricon-caps/cap_dev0_mi1"]
    assert needs["substitutes"] == [], "the driver holds it already"
    assert paths(node.get("needs", [uuid])) == ["/dev/cambricon_dev0"]


def test_a_device_without_its_node_is_told_by_its_path(node: Node) -> None:
    refusal = node.refusal("needs", [uuids(node)[0]])
    assert "/dev/cambricon_dev0 is no device node: load the driver" in refusal
    assert "there is no such device" in node.refusal("needs", ["MLU-none"])


@pytest.mark.parametrize("named", ["mlu-1", "1", "uuid"])
def test_a_specification_says_what_a_container_needs(node: Node, named: str) -> None:
    place(node.dev / "cambricon_dev1")
    uuid = uuids(node)[1]
    specify(node, named if named != "uuid" else uuid)
    needs = node.get("needs", [uuid])
    assert paths(needs) == ["/dev/cambricon_dev1"]
    assert needs["mounts"][0]["destination"] == "/usr/bin/cnmon"
    assert needs["environment"] == {"MARK": "1", "CAMBRICON_VISIBLE_DEVICES": "void"}
    assert [hook["path"] for hook in needs["hooks"]] == ["/bin/other"]
    assert needs["libraries"] == []


def test_a_specification_does_not_hide_a_share(node: Node) -> None:
    place(node.dev / "cambricon_dev1")
    place(node.dev / "cambricon-caps/cap_dev1_mi1")
    uuid = uuids(node)[1]
    specify(node, "mlu-1")
    made = node.get("partition", uuid, "slice", 64 * MIB, 10)
    needs = node.get("needs", [uuid], {uuid: made})
    assert paths(needs) == ["/dev/cambricon_dev1", "/dev/cambricon-caps/cap_dev1_mi1"]


def test_a_specification_of_an_older_numbering_is_not_believed(node: Node) -> None:
    place(node.dev / "cambricon_dev0")
    specify(node, "mlu-0")
    needs = node.get("needs", [uuids(node)[0]])
    assert "MARK" not in needs["environment"]


def test_a_specification_whose_files_are_gone_is_named(node: Node) -> None:
    place(node.dev / "cambricon_dev1")
    specify(node, "mlu-1")
    (node.folder / "cnmon").unlink()
    assert "cnmon, which is not there: write it anew" in node.refusal("needs", [uuids(node)[1]])


def test_a_simulated_nodes_specification_says_what_a_container_needs(
    tmp_path: Path, sim_library: Path
) -> None:
    if os.geteuid():
        pytest.skip("device nodes are made by root")
    node = Node(tmp_path, sim_library.parent)
    cdi.write(parse_node(NODE, "test.toml", "test"), node.state, node.cdi)
    node.start()
    needs = node.get("needs", [uuids(node)[1]])
    assert paths(needs) == ["/dev/cambricon_ctl", "/dev/cambricon_dev1"]
    (mount,) = needs["mounts"]
    assert (mount["source"], mount["destination"]) == (str(node.state), cdi.INSIDE)
    (library,) = needs["libraries"]
    assert library["path"] == str(node.cdi / "lib/libcndev.so")
    node.close()


def specify(node: Node, name: str) -> None:
    """Write a specification of the second device, under a name."""
    (node.folder / "cnmon").write_text("")
    device = {"path": "/dev/cambricon_dev1", "hostPath": str(node.dev / "cambricon_dev1")}
    own = {"containerPath": "/usr/bin/cnmon", "hostPath": str(node.folder / "cnmon")}
    hooks = [
        {"hookName": "createContainer", "path": path}
        for path in ("/usr/bin/cambricon-container-toolkit", "/bin/other")
    ]
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "cambricon.com/mlu",
        "devices": [{"name": name, "containerEdits": {"deviceNodes": [device]}}],
        "containerEdits": {"env": ["MARK=1"], "mounts": [own], "hooks": hooks},
    }
    (node.cdi / "cambricon.json").write_text(json.dumps(spec))


def test_the_module_follows_the_protocol(node: Node) -> None:
    place(node.dev / "cambricon_dev0")
    place(node.dev / "cambricon_dev1")
    assert node.get("check") == []
